#include "tests/kit/kv_crash.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/super.h"
#include "tests/kit/kv_batch.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rng.h"
#include "wal/log.h"

const struct store_options kv_store_options = { .cache_bytes = 1 << 21, .data_bytes = 1 << 22, .manual = true };
const struct store_mkfs_options kv_mkfs_options = {
	.node_size = 4096, .log_blocks = LOG_BLOCKS_MIN, .now_ns = 1, .seed = 1, .uuid = { 1 }
};

/* What a disk may hold after a crash in some stretch of its operations. */
struct allowed {
	const struct kv_run *run;   /* the marks say */
	const struct world *exactly; /* or this one, where not NULL */
};

/* ---- messages ---- */

static void print_path(const struct kv_crash *c)
{
	for (unsigned i = 0; i < c->depth; i++)
		printf("%s%c%" PRIu64 ":%s:%" PRIu64, i ? "/" : "", c->at[i].kind, c->at[i].n, c->at[i].choice,
		       c->at[i].seed);
}

static void print_failure(const struct kv_crash *c, const struct kv_plan *plan, const char *what)
{
	printf("# FAILED: %s\n", what);
	printf("# plan: %s\n", plan->name);
	for (size_t i = 0; i < plan->n_ops; i++) {
		printf("#   op %zu: ", i);
		kv_op_print(stdout, &plan->ops[i]);
		printf("\n");
	}
	printf("# reproduce with: --plan '%s' --replay '", plan->name);
	print_path(c);
	printf("'\n");
	kv_log_print(stdout);
	fflush(stdout);
}

/* Where it was when the engine fell over: an assertion is a failure like any other, and is to be reproduced. */
static struct kv_crash *current;
static const struct kv_plan *current_plan;

static void fell_over(int sig)
{
	if (current)
		print_failure(current, current_plan, sig == SIGABRT ? "the engine gave up" : "the engine fell over");
	signal(sig, SIG_DFL);
	raise(sig);
}

static void watch(struct kv_crash *c, const struct kv_plan *plan)
{
	current = c;
	current_plan = plan;
	signal(SIGABRT, c ? fell_over : SIG_DFL);
	signal(SIGSEGV, c ? fell_over : SIG_DFL);
}

bool kv_crash_parse(struct kv_crash *c, const char *path)
{
	c->n_replay = 0;
	while (*path && c->n_replay < KV_CRASH_DEPTH) {
		struct kv_level *l = &c->replay[c->n_replay];
		int used = 0;

		if (sscanf(path, "%c%" SCNu64 ":%1024[DKT-]:%" SCNu64 "%n", &l->kind, &l->n, l->choice, &l->seed, &used) != 4)
			return false;
		c->n_replay++;
		path += used;
		path += *path == '/';
	}
	return c->n_replay > 0 && !*path;
}

/* ---- one state ---- */

static int judge(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, struct allowed allowed);

static int open_store(const struct kv_plan *plan, struct simdev *disk, uint64_t seed, struct store **ret)
{
	struct store_options opt = plan->opt;

	opt.records = &kv_records;
	opt.seed = seed | 1;
	return store_open(simdev_bdev(disk), &opt, ret);
}

static void print_worlds(const struct world *w, struct allowed a, size_t lo, size_t hi)
{
	if (a.exactly) {
		world_print_diff(stdout, "recovered", w, "before", a.exactly);
		return;
	}
	printf("# worlds %zu .. %zu are allowed of %zu\n", lo, hi, a.run->model.n);
	for (size_t i = 0; i < a.run->model.n; i++)
		if (world_equal(w, &a.run->model.world[i]))
			printf("# it is world %zu\n", i);
	world_print_diff(stdout, "recovered", w, "newest allowed", &a.run->model.world[hi]);
	if (lo != hi)
		world_print_diff(stdout, "recovered", w, "oldest allowed", &a.run->model.world[lo]);
}

static bool is_allowed(const struct world *w, struct allowed a, uint64_t n, size_t *lo, size_t *hi)
{
	if (a.exactly)
		return world_equal(w, a.exactly);
	kv_run_allowed(a.run, n, lo, hi);
	return model_match(&a.run->model, w, *lo, *hi) >= 0;
}

/* Choices of one state, written down as letters. */
static void letters(char *to, const enum simdev_choice *choice, unsigned n)
{
	static const char letter[] = { [SIMDEV_DROP] = 'D', [SIMDEV_KEEP] = 'K', [SIMDEV_TEAR] = 'T' };
	unsigned i;

	for (i = 0; i < n && i < KV_CRASH_CHOICES; i++)
		to[i] = letter[choice[i]];
	if (n == 0)
		to[i++] = '-';
	to[i] = 0;
}

static int try_state(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, struct allowed allowed,
		     struct kv_level level, const enum simdev_choice *choice)
{
	struct simdev *after = simdev_branch(disk, level.n, choice, level.seed);
	int err;

	letters(level.choice, choice, simdev_unflushed(disk, level.n));
	c->at[c->depth++] = level;
	err = judge(c, plan, after, allowed);
	c->depth--;
	simdev_free(after);
	return err;
}

/* ---- all states at a point ---- */

/* The i-th of the choices in which the newest write is not dropped, newest write first. */
static void choose_nth(enum simdev_choice *choice, unsigned n, uint64_t i)
{
	choice[n - 1] = i % 2 ? SIMDEV_TEAR : SIMDEV_KEEP;
	i /= 2;
	for (unsigned at = n - 1; at-- > 0; i /= 3)
		choice[at] = (enum simdev_choice)(i % 3);
}

static void choose_sampled(enum simdev_choice *choice, unsigned n, uint64_t i, struct rng *rng)
{
	unsigned keep = (unsigned)rng_below(rng, 9), tear = (unsigned)rng_below(rng, 4);

	for (unsigned at = 0; at < n; at++) {
		uint64_t x = rng_below(rng, 12);

		if (i < 2)
			choice[at] = i == 0 ? SIMDEV_KEEP : SIMDEV_DROP;
		else
			choice[at] = x < keep ? SIMDEV_KEEP : x < keep + tear ? SIMDEV_TEAR : SIMDEV_DROP;
	}
	if (choice[n - 1] == SIMDEV_DROP)
		choice[n - 1] = i % 2 ? SIMDEV_KEEP : SIMDEV_TEAR;
}

static int point(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, struct allowed allowed, char kind,
		 uint64_t n, uint64_t limit, uint64_t seed)
{
	unsigned unflushed = simdev_unflushed(disk, n);
	enum simdev_choice choice[KV_CRASH_CHOICES];
	struct kv_level level = { .kind = kind, .n = n };
	struct simdev_record rec;
	uint64_t total = 2;
	bool all = true;
	struct rng rng;
	int err = 0;

	if (unflushed > KV_CRASH_CHOICES) {
		printf("# %u writes without a flush are too many\n", unflushed);
		abort();
	}
	c->points++;
	rng_seed(&rng, rng_mix(seed, n));
	level.seed = rng_next(&rng) >> 32;
	if (unflushed == 0)
		return try_state(c, plan, disk, allowed, level, choice);
	for (unsigned i = 1; all && i < unflushed; i++) {
		total *= 3;
		all = total <= limit;
	}
	if (!all || total > limit)
		total = limit;
	for (uint64_t i = 0; !err && i < total; i++) {
		bool kept = true;

		if (all)
			choose_nth(choice, unflushed, i);
		else
			choose_sampled(choice, unflushed, i, &rng);
		for (unsigned at = 0; at < unflushed; at++)
			kept = kept && choice[at] == SIMDEV_KEEP;
		/* The flush that follows makes the same of it, and then more is promised. */
		if (kept && simdev_record_at(disk, n, &rec) && rec.op == SIMDEV_FLUSH && simdev_unflushed(disk, n + 1) == 0)
			continue;
		level.seed = rng_next(&rng) >> 32;
		err = try_state(c, plan, disk, allowed, level, choice);
	}
	return err;
}

/* All points in a stretch of disk operations: behind each of from .. to - 1. Or the one that is to be tried alone. */
static int stretch(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, struct allowed allowed, char kind,
		   uint64_t from, uint64_t to, uint64_t limit, unsigned one_in, uint64_t seed)
{
	int err = 0;

	if (c->n_replay) {
		const struct kv_level *l = &c->replay[c->depth];
		enum simdev_choice choice[KV_CRASH_CHOICES];

		if (c->depth == c->n_replay || l->kind != kind)
			return 0;
		memset(choice, 0, sizeof(choice));
		for (unsigned i = 0; l->choice[i]; i++)
			choice[i] = l->choice[i] == 'K' ? SIMDEV_KEEP : l->choice[i] == 'T' ? SIMDEV_TEAR : SIMDEV_DROP;
		return try_state(c, plan, disk, allowed, *l, choice);
	}
	for (uint64_t n = from + 1; !err && n <= to; n++)
		if (one_in < 2 || rng_mix(seed, n) % one_in == 0)
			err = point(c, plan, disk, allowed, kind, n, limit, seed);
	return err;
}

/* ---- what is done on a recovered disk ---- */

static bool sampled(const struct kv_crash *c, unsigned one_in, uint64_t seed)
{
	if (c->n_replay)
		return c->depth < c->n_replay;
	return one_in && rng_mix(seed, 77) % one_in == 0;
}

/* For want of room on the device, or in memory. */
static bool refused(int err)
{
	return err == -ENOSPC || err == -EFBIG;
}

/* Work on a recovered store: it has to allocate, release and make checkpoints as if nothing had been. */
static int go_on(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, const struct world *w, uint64_t seed)
{
	const struct kv_op ops[] = {
		{ .action = KV_MIX, .ino = 10, .n = 6, .seed = seed },
		{ .action = KV_EXTENT, .ino = 30, .n = 3, .seed = seed + 1 },
		{ .action = seed % 2 ? KV_SYNC : KV_TICK },
		{ .action = KV_DEL_INO, .ino = (uint16_t)(10 + seed / 2 % 4) },
		{ .action = KV_EXTENT, .ino = 31, .n = 18, .seed = seed + 2 },
		{ .action = seed / 8 % 2 ? KV_CHECKPOINT : KV_SYNC },
		{ .action = KV_MIX, .ino = 11, .n = 5, .seed = seed + 3 },
		{ .action = KV_CHECKPOINT },
		{ .action = KV_EXTENT, .ino = 32, .n = 6, .seed = seed + 4 },
		{ .action = KV_CHECK },
		{ .action = KV_SYNC },
	};
	uint64_t from = simdev_ops(disk);
	struct kv_run run;
	int err;

	kv_run_init(&run, disk, &plan->opt, w, seed | UINT64_C(1) << 32);
	run.marking = true;
	err = kv_run_open(&run);
	if (err)
		err = kv_broken(&run, "going on: opening gives error %d", -err);
	for (size_t i = 0; !err && i < sizeof(ops) / sizeof(ops[0]); i++) {
		err = kv_run_op(&run, &ops[i]);
		if (err == 1 || (refused(err) && plan->full_ok))
			err = 0;
		if (err && err != -EPROTO)
			err = kv_broken(&run, "going on: %s gives error %d", kv_action_name(ops[i].action), -err);
	}
	if (err) {
		print_failure(c, plan, run.broken);
	} else {
		uint64_t n = from + 1 + rng_mix(seed, 5) % (simdev_ops(disk) - from);

		kv_run_kill(&run);
		err = stretch(c, plan, disk, (struct allowed){ .run = &run }, 'g', n - 1, n, 2, 1, seed);
	}
	kv_run_release(&run);
	return err;
}

/* Overwrites the newest slot; false where only one is whole. */
static bool lose_newest_slot(struct simdev *disk)
{
	_Alignas(BLOCK_SIZE) uint8_t block[2][BLOCK_SIZE];
	struct super super[2];

	simdev_peek(disk, SUPER_SLOT0, block[0], 1);
	simdev_peek(disk, SUPER_SLOT1, block[1], 1);
	if (super_decode(block[0], 0, &super[0]) || super_decode(block[1], 1, &super[1]))
		return false;
	memset(block[0], 0xa5, BLOCK_SIZE);
	simdev_poke(disk, super[0].serial > super[1].serial ? SUPER_SLOT0 : SUPER_SLOT1, 0, block[0], BLOCK_SIZE);
	return true;
}

/* The older slot with the log is a whole store, too, whatever the newest has made free. */
static int without_newest_slot(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, struct allowed allowed)
{
	const struct kv_level *here = &c->at[c->depth - 1];
	int err = 0;

	if (lose_newest_slot(disk)) {
		c->slots++;
		c->at[c->depth++] = (struct kv_level){ .kind = 's', .n = here->n, .seed = here->seed, .choice = "-" };
		err = judge(c, plan, disk, allowed);
		c->depth--;
	}
	simdev_free(disk);
	return err;
}

/* Recovers a disk after a crash and looks at everything. */
static int judge(struct kv_crash *c, const struct kv_plan *plan, struct simdev *disk, struct allowed allowed)
{
	const struct kv_level *here = &c->at[c->depth - 1];
	uint64_t seed = rng_mix(here->seed, here->n);
	bool plain = here->kind == 'c' || here->kind == 'r';
	size_t lo = 0, hi = 0;
	struct store *store = NULL;
	struct check_result res = { 0 };
	struct simdev *same = NULL;
	struct world w;
	char why[300] = "";
	uint64_t recovered;
	int err;

	if (here->kind == 'c' && (c->n_replay ? c->n_replay > 1 && c->replay[1].kind == 's' :
						sampled(c, c->opt.slot_one_in, seed + 2)))
		same = simdev_clone(disk);
	c->states++;
	kv_log_clear();
	err = open_store(plan, disk, seed, &store);
	if (err) {
		snprintf(why, sizeof(why), "opening after the crash: error %d", -err);
		print_failure(c, plan, why);
		return -EPROTO;
	}
	recovered = simdev_ops(disk);
	err = kv_world_read(store, &w, why, sizeof(why));
	if (err) {
		print_failure(c, plan, why);
		store_crash(store);
		return -EPROTO;
	}
	if (!is_allowed(&w, allowed, here->n, &lo, &hi)) {
		print_worlds(&w, allowed, lo, hi);
		print_failure(c, plan, allowed.exactly ? "a crash inside recovery changed what is recovered" :
							 "what is recovered is no allowed prefix");
		err = -EPROTO;
	}
	if (!err && (store_check(store, &res) || res.errors)) {
		print_failure(c, plan, "the check after recovery finds errors");
		err = -EPROTO;
	}
	store_crash(store);
	bdev_close(simdev_bdev(disk));

	if (same && !err)
		err = without_newest_slot(c, plan, same, allowed);
	else
		simdev_free(same);
	if (!err && c->depth < KV_CRASH_DEPTH && plain && sampled(c, c->opt.recovery_one_in, seed)) {
		/* Inside the second recovery, a few points only. */
		unsigned one_in = c->depth == 1 ? 1 : 4;

		c->recoveries++;
		err = stretch(c, plan, disk, (struct allowed){ .exactly = &w }, 'r', 0, recovered, c->opt.per_point_again,
			      one_in, seed);
	}
	if (!err && c->depth < KV_CRASH_DEPTH && plain && sampled(c, c->opt.go_on_one_in, seed + 1)) {
		c->went_on++;
		err = go_on(c, plan, disk, &w, seed >> 33);
	}
	world_release(&w);
	return err;
}

/* ---- plans ---- */

int kv_crash_plan(struct kv_crash *c, const struct kv_plan *plan)
{
	const struct simdev_options disk_opt = { .base = plan->base, .seed = plan->seed, .shuffle = plan->shuffle };
	struct simdev *disk = simdev_new(&disk_opt);
	struct kv_run run;
	uint64_t from = 0;
	char why[600];
	int err;

	c->depth = 0;
	watch(c, plan);
	kv_run_init(&run, disk, &plan->opt, plan->start, plan->seed);
	run.marking = true;
	err = kv_run_open(&run);
	if (err) {
		snprintf(why, sizeof(why), "opening what the plan begins with: error %d", -err);
		print_failure(c, plan, why);
		err = -EPROTO;
	}
	for (size_t i = 0; !err && i < plan->n_ops; i++) {
		if (i == plan->first && !plan->opening)
			from = simdev_ops(disk);
		err = kv_run_op(&run, &plan->ops[i]);
		if (refused(err) && plan->full_ok) {
			c->full++;
			err = plan->idle_ends;
		}
		if (err == 1 && !plan->idle_ends)
			err = 0;
		if (err < 0) {
			snprintf(why, sizeof(why), "op %zu without a crash: error %d %s", i, -err, run.broken);
			print_failure(c, plan, why);
			err = -EPROTO;
		}
	}
	if (err == 1)
		c->idle++;
	if (!err) {
		uint64_t to = simdev_ops(disk);

		kv_run_kill(&run);
		c->plans++;
		err = stretch(c, plan, disk, (struct allowed){ .run = &run }, 'c', from, to, c->opt.per_point,
			      c->opt.points_one_in, plan->seed);
	}
	kv_run_release(&run);
	simdev_free(disk);
	watch(NULL, NULL);
	return err;
}

void kv_base_make(struct kv_base *b, const struct store_mkfs_options *mkfs, uint64_t blocks,
		  const struct store_options *opt, const struct kv_op *ops, size_t n, bool kill, uint64_t seed)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = blocks, .seed = seed, .no_trace = true });
	struct kv_run run;
	int err;

	kv_run_init(&run, disk, opt, NULL, seed);
	err = store_mkfs(simdev_bdev(disk), mkfs);
	if (!err)
		err = kv_run_open(&run);
	for (size_t i = 0; !err && i < n; i++)
		err = kv_run_op(&run, &ops[i]);
	if (err) {
		printf("# the state to begin with cannot be made: error %d %s\n", -err, run.broken);
		kv_log_print(stdout);
		fflush(stdout);
		abort();
	}
	if (!kill) {
		err = store_close(run.store);
		run.store = NULL;
		if (err)
			abort();
	}
	kv_run_kill(&run);
	b->image = simdev_freeze(disk);
	world_copy(&b->world, model_now(&run.model));
	kv_run_release(&run);
	simdev_free(disk);
}

void kv_base_release(struct kv_base *b)
{
	simdev_image_free(b->image);
	world_release(&b->world);
}

#include "tests/kit/fscrash.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "fs/op.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "wal/log.h"

const struct fs_options fscrash_options = {
	.store = { .cache_bytes = 1 << 21, .data_bytes = 1 << 22, .manual = true },
	.atime = FS_NOATIME,
	.no_threads = true,
	.now = fsworld_now,
};
const struct fs_mkfs_options fscrash_mkfs = {
	.store = { .node_size = 4096, .log_blocks = LOG_BLOCKS_MIN, .now_ns = 1, .seed = 1, .uuid = { 1 } },
};

/* What goes on after a crash: a little of everything, all of it small. */
static const struct fsop_profile after_profile = {
	.name = "after",
	.weight = { [FSOP_CREATE] = 4,
		    [FSOP_MKDIR] = 2,
		    [FSOP_SYMLINK] = 1,
		    [FSOP_LINK] = 2,
		    [FSOP_UNLINK] = 3,
		    [FSOP_RMDIR] = 1,
		    [FSOP_RENAME] = 4,
		    [FSOP_OPEN] = 1,
		    [FSOP_CLOSE] = 1,
		    [FSOP_WRITE] = 6,
		    [FSOP_APPEND] = 2,
		    [FSOP_TRUNCATE] = 2,
		    [FSOP_FALLOCATE] = 2,
		    [FSOP_COPY] = 2,
		    [FSOP_SETXATTR] = 1,
		    [FSOP_READ] = 2,
		    [FSOP_SYNC] = 2,
		    [FSOP_TICK] = 1,
		    [FSOP_CHECKPOINT] = 2 },
	.names = 5,
	.file_max = 100000,
	.write_max = 70000,
	.xattr_max = 2000,
	.direct = true,
};

/* What may be found: the marks of a run say, or exactly this. */
struct allowed {
	const struct fsworlds *run;
	const struct fsworld *exactly;
};

/* ---- messages ---- */

static void print_step(const struct fsworld_step *s)
{
	static const char *const name[] = { "", "remount", "snapshot", "delete a snapshot" };

	printf("#   %s", name[s->action]);
	if (s->action == FSWORLD_OP)
		fsop_print(stdout, &s->op);
	printf("\n");
}

static void print_failure(const struct fscrash *c, const struct fscrash_plan *plan, const char *what)
{
	printf("# FAILED: %s\n# plan: %s\n", what, plan->name);
	for (size_t i = 0; i < plan->n_steps; i++)
		print_step(&plan->steps[i]);
	printf("# reproduce with: --plan '%s' --replay '", plan->name);
	for (unsigned i = 0; i < c->depth; i++)
		printf("%s%c%" PRIu64 ":%s:%" PRIu64, i ? "/" : "", c->at[i].kind, c->at[i].n, c->at[i].choice,
		       c->at[i].seed);
	printf("'\n");
	kv_log_print(stdout);
	fflush(stdout);
}

/* Where it was when the filesystem fell over: an assertion is a failure like any other, and is to be reproduced. */
static struct fscrash *current;
static const struct fscrash_plan *current_plan;

static void fell_over(int sig)
{
	if (current)
		print_failure(current, current_plan,
			      sig == SIGABRT ? "the filesystem gave up" : "the filesystem fell over");
	signal(sig, SIG_DFL);
	raise(sig);
}

static void watch(struct fscrash *c, const struct fscrash_plan *plan)
{
	current = c;
	current_plan = plan;
	signal(SIGABRT, c ? fell_over : SIG_DFL);
	signal(SIGSEGV, c ? fell_over : SIG_DFL);
}

bool fscrash_parse(struct fscrash *c, const char *path)
{
	c->n_replay = 0;
	while (*path && c->n_replay < FSCRASH_DEPTH) {
		struct fscrash_level *l = &c->replay[c->n_replay];
		int used = 0;

		if (sscanf(path, "%c%" SCNu64 ":%1024[DKT-]:%" SCNu64 "%n", &l->kind, &l->n, l->choice, &l->seed,
			   &used) != 4)
			return false;
		c->n_replay++;
		path += used;
		path += *path == '/';
	}
	return c->n_replay > 0 && !*path;
}

/* ---- the log behind each batch ---- */

static struct {
	unsigned one_in;
	uint64_t seed, n;
} commits;

static void commits_begin(const struct fscrash_plan *plan, uint64_t seed)
{
	commits.one_in = plan ? plan->sync_one_in : 0;
	commits.seed = seed;
	commits.n = 0;
}

int __real_op_commit(struct op *);
int __wrap_op_commit(struct op *);

int __wrap_op_commit(struct op *op)
{
	int err = __real_op_commit(op);

	if (!err && commits.one_in && rng_mix(commits.seed, commits.n++) % commits.one_in == 0)
		(void)store_sync(fs_store(op->fs)); /* what fails here fails again where somebody waits for it */
	return err;
}

/* ---- one state ---- */

static int judge(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct allowed allowed);

static int try_state(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct allowed allowed,
		     struct fscrash_level level, const enum simdev_choice *choice)
{
	static const char letter[] = { [SIMDEV_DROP] = 'D', [SIMDEV_KEEP] = 'K', [SIMDEV_TEAR] = 'T' };
	struct simdev *after = simdev_branch(disk, level.n, choice, level.seed);
	unsigned n = simdev_unflushed(disk, level.n), i;
	int err;

	for (i = 0; i < n; i++)
		level.choice[i] = letter[choice[i]];
	if (n == 0)
		level.choice[i++] = '-';
	level.choice[i] = 0;
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

/* How many choices there are, up to limit + 1. */
static uint64_t choices(unsigned unflushed, uint64_t limit)
{
	uint64_t total = unflushed ? 2 : 1;

	for (unsigned i = 1; i < unflushed && total <= limit; i++)
		total *= 3;
	return total;
}

static int point(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct allowed allowed,
		 char kind, uint64_t n, uint64_t limit, uint64_t seed)
{
	unsigned unflushed = simdev_unflushed(disk, n);
	enum simdev_choice choice[FSCRASH_CHOICES];
	struct fscrash_level level = { .kind = kind, .n = n };
	uint64_t total = choices(unflushed, limit);
	struct simdev_record rec;
	bool all = total <= limit;
	struct rng rng;
	int err = 0;

	if (unflushed > FSCRASH_CHOICES) {
		printf("# %u writes without a flush are too many\n", unflushed);
		abort();
	}
	c->points++;
	rng_seed(&rng, rng_mix(seed, n));
	for (uint64_t i = 0; !err && i < (all ? total : limit); i++) {
		bool kept = unflushed > 0;

		if (unflushed && all)
			choose_nth(choice, unflushed, i);
		else if (unflushed)
			choose_sampled(choice, unflushed, i, &rng);
		for (unsigned at = 0; at < unflushed; at++)
			kept = kept && choice[at] == SIMDEV_KEEP;
		/* The flush that follows makes the same of it, and then more is promised. */
		if (kept && simdev_record_at(disk, n, &rec) && rec.op == SIMDEV_FLUSH &&
		    simdev_unflushed(disk, n + 1) == 0)
			continue;
		level.seed = rng_next(&rng) >> 32;
		err = try_state(c, plan, disk, allowed, level, choice);
	}
	return err;
}

/* All points in a stretch of disk operations: behind each of from .. to - 1. Or the one that is to be tried alone. */
static int stretch(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct allowed allowed,
		   char kind, uint64_t from, uint64_t to, uint64_t limit, uint64_t about, uint64_t seed)
{
	uint64_t total = 0, done = c->states;
	int err = 0;

	if (c->n_replay) {
		const struct fscrash_level *l = &c->replay[c->depth];
		enum simdev_choice choice[FSCRASH_CHOICES];

		if (c->depth == c->n_replay || l->kind != kind)
			return 0;
		memset(choice, 0, sizeof(choice));
		for (unsigned i = 0; l->choice[i]; i++)
			choice[i] = l->choice[i] == 'K' ? SIMDEV_KEEP : l->choice[i] == 'T' ? SIMDEV_TEAR : SIMDEV_DROP;
		return try_state(c, plan, disk, allowed, *l, choice);
	}
	for (uint64_t n = from + 1; about && n <= to; n++) {
		uint64_t here = choices(simdev_unflushed(disk, n), limit);

		total += here < limit ? here : limit;
	}
	for (uint64_t n = from + 1; !err && n <= to; n++)
		if (total <= about || rng_mix(seed, n) % total < about)
			err = point(c, plan, disk, allowed, kind, n, limit, seed);
	/* By chance none at all: one, somewhere. */
	if (!err && c->states == done && to > from)
		err = point(c, plan, disk, allowed, kind, from + 1 + rng_mix(seed, to) % (to - from), 1, seed);
	return err;
}

/* ---- what is done on a recovered disk ---- */

static bool sampled(const struct fscrash *c, unsigned one_in, uint64_t seed)
{
	if (c->n_replay)
		return c->depth < c->n_replay;
	return one_in && rng_mix(seed, 77) % one_in == 0;
}

static int by_chance(struct fscrash *c, struct fsworlds *r, const struct fsop_profile *profile, size_t n, uint64_t seed)
{
	struct rng rng;
	int err = 0;

	rng_seed(&rng, seed);
	for (size_t i = 0; err >= 0 && i < n; i++) {
		uint64_t special = rng_below(&rng, 80);
		struct fsworld_step s = { .op = fsop_gen(profile, r->run.model, &rng) };

		if (special < 4)
			s.action = special == 0 ? FSWORLD_REMOUNT : special == 1 ? FSWORLD_SNAP : FSWORLD_SNAP_DELETE;
		err = fsworlds_step(r, &s);
		c->refused += r->run.refused > 0;
		r->run.refused = 0;
	}
	return err < 0 ? err : 0;
}

/* Work on a recovered filesystem: everything as if nothing had been, and a crash at the end. */
static int go_on(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, const struct fsworld *w,
		 uint64_t seed)
{
	const struct fsworld_step sync = { .op = { .kind = FSOP_SYNC, .to.handle = -1 } };
	uint64_t from = simdev_ops(disk), n;
	struct fsworlds run;
	int err;

	commits_begin(plan, seed);
	err = fsworlds_begin(&run, disk, &plan->opt, w, plan->full_ok, seed | UINT64_C(1) << 32);
	if (!err)
		err = by_chance(c, &run, &after_profile, 12, seed);
	if (!err)
		err = fsworlds_step(&run, &sync);
	if (!err && fsrun_compare(&run.run)) {
		snprintf(run.broken, sizeof(run.broken), "%s", run.run.broken);
		err = -EPROTO;
	}
	if (!err && fs_reap(run.fs))
		err = -EPROTO;
	if (!err && fsworld_check(run.fs, NULL)) {
		snprintf(run.broken, sizeof(run.broken), "the check finds errors");
		err = -EPROTO;
	}
	if (err) {
		char why[800];

		snprintf(why, sizeof(why), "going on: %s", run.broken);
		fsrun_print(&run.run, stdout);
		print_failure(c, plan, why);
	} else {
		n = from + 1 + rng_mix(seed, 5) % (simdev_ops(disk) - from);
		fsworlds_kill(&run);
		err = stretch(c, plan, disk, (struct allowed){ .run = &run }, 'g', n - 1, n, 2, 0, seed);
	}
	fsworlds_release(&run);
	return err;
}

static void print_worlds(const struct fsworld *w, struct allowed a, size_t lo, size_t hi)
{
	if (a.exactly) {
		printf("# found, compared with what was found before (%u snapshots, were %u):\n", w->n_snaps,
		       a.exactly->n_snaps);
		fsm_diff(a.exactly->m, w->m, stdout, "#   ", 8);
		return;
	}
	printf("# worlds %zu .. %zu are allowed of %zu\n", lo, hi, a.run->n);
	for (size_t i = 0; i < a.run->n; i++)
		if (w->digest == a.run->worlds[i].digest)
			printf("# it is world %zu\n", i);
	printf("# found, compared with the newest allowed (%u snapshots, should be %u):\n", w->n_snaps,
	       a.run->worlds[hi].n_snaps);
	fsm_diff(a.run->worlds[hi].m, w->m, stdout, "#   ", 8);
	if (lo != hi) {
		printf("# and with the oldest allowed (%u snapshots):\n", a.run->worlds[lo].n_snaps);
		fsm_diff(a.run->worlds[lo].m, w->m, stdout, "#   ", 8);
	}
}

static bool is_allowed(struct fscrash *c, const struct fsworld *w, struct allowed a, uint64_t n, size_t *lo, size_t *hi)
{
	if (a.exactly)
		return w->digest == a.exactly->digest;
	fsworlds_allowed(a.run, n, lo, hi);
	for (size_t i = *hi + 1; i-- > *lo;)
		if (w->digest == a.run->worlds[i].digest) {
			c->older += i < *hi;
			return true;
		}
	return false;
}

/* Mounts it and looks at everything. *ret is filled in on success only. */
static int look(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct allowed allowed,
		uint64_t seed, struct fsworld *ret)
{
	struct fs_options opt = plan->opt;
	struct fsworld w = { 0 };
	char why[600] = "";
	size_t lo = 0, hi = 0;
	struct fs *fs;
	int err;

	opt.store.seed = seed | 1;
	kv_log_clear();
	commits_begin(plan, seed);
	err = fs_mount(simdev_bdev(disk), &opt, &fs);
	if (err) {
		snprintf(why, sizeof(why), "mounting after the crash: error %d", -err);
		print_failure(c, plan, why);
		return -EPROTO;
	}
	err = fsworld_read(fs, &w, why, sizeof(why));
	if (!err && !is_allowed(c, &w, allowed, c->at[c->depth - 1].n, &lo, &hi)) {
		print_worlds(&w, allowed, lo, hi);
		snprintf(why, sizeof(why), "%s",
			 allowed.exactly ? "a crash inside recovery changed what is found"
					 : "what is found is no allowed prefix");
		err = -EPROTO;
	}
	if (!err) {
		err = fs_reap(fs);
		snprintf(why, sizeof(why), "deleting what has no name: error %d", -err);
	}
	if (!err) {
		err = fsworld_check(fs, &w);
		snprintf(why, sizeof(why), "the check after recovery: error %d", -err);
	}
	if (err)
		print_failure(c, plan, why);
	fs_crash(fs);
	bdev_close(simdev_bdev(disk));
	if (err) {
		fsworld_release(&w);
		return -EPROTO;
	}
	*ret = w;
	return 0;
}

static int judge(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct allowed allowed)
{
	const struct fscrash_level *here = &c->at[c->depth - 1];
	uint64_t seed = rng_mix(here->seed, here->n);
	bool plain = here->kind != 'g';
	struct fsworld w;
	int err;

	c->states++;
	err = look(c, plan, disk, allowed, seed, &w);
	if (err)
		return err;
	if (c->depth < FSCRASH_DEPTH && plain && sampled(c, c->opt.recovery_one_in, seed)) {
		/* Inside the second recovery, a few points only. */
		uint64_t about = c->depth == 1 ? 0 : 4;

		c->recoveries++;
		err = stretch(c, plan, disk, (struct allowed){ .exactly = &w }, 'r', 0, simdev_ops(disk),
			      c->opt.per_point_again, about, seed);
	}
	if (!err && c->depth < FSCRASH_DEPTH && plain && sampled(c, c->opt.go_on_one_in, seed + 1)) {
		c->went_on++;
		err = go_on(c, plan, disk, &w, seed >> 33);
	}
	fsworld_release(&w);
	return err;
}

/* ---- plans ---- */

/* Carries it out. *ret_from: the first disk operation whose crash is of interest. */
static int carry_out(struct fscrash *c, const struct fscrash_plan *plan, struct simdev *disk, struct fsworlds *run,
		     uint64_t *ret_from)
{
	bool idle = false;
	int err;

	*ret_from = 0;
	commits_begin(plan, plan->seed);
	err = fsworlds_begin(run, disk, &plan->opt, plan->start, plan->full_ok, plan->seed);
	for (size_t i = 0; !err && i < plan->n_steps; i++) {
		if (i == plan->first && !plan->opening)
			*ret_from = simdev_ops(disk);
		err = fsworlds_step(run, &plan->steps[i]);
		c->refused += run->run.refused > 0;
		run->run.refused = 0;
		if (err == 1) {
			idle |= i < plan->idle_of;
			err = idle && !c->n_replay;
		}
	}
	if (!err && plan->profile)
		err = by_chance(c, run, plan->profile, plan->n_chance, plan->seed);
	return err;
}

int fscrash_plan(struct fscrash *c, const struct fscrash_plan *plan)
{
	const struct simdev_options disk_opt = { .base = plan->base, .seed = plan->seed, .shuffle = plan->shuffle };
	struct simdev *disk = simdev_new(&disk_opt);
	struct fsworlds run;
	char why[800];
	uint64_t from;
	int err;

	c->depth = 0;
	kv_log_clear();
	watch(c, plan);
	err = carry_out(c, plan, disk, &run, &from);
	if (err < 0) {
		snprintf(why, sizeof(why), "without a crash: %s", run.broken);
		fsrun_print(&run.run, stdout);
		print_failure(c, plan, why);
	}
	if (err == 1)
		c->idle++;
	if (!err) {
		uint64_t to = simdev_ops(disk);

		fsworlds_kill(&run);
		c->plans++;
		err = stretch(c, plan, disk, (struct allowed){ .run = &run }, 'c', from, to, c->opt.per_point,
			      c->opt.per_plan, plan->seed);
	}
	fsworlds_release(&run);
	simdev_free(disk);
	watch(NULL, NULL);
	commits_begin(NULL, 0);
	return err;
}

/* ---- what plans begin with ---- */

#define FILL_NAME 7 /* its file */

/* Large pieces while they go in, then smaller ones; at the end some are cut off again. */
static int fill_up(struct fsworlds *r, unsigned leave)
{
	struct fsworld_step s = { .op = { .kind = FSOP_CREATE,
					  .mode = S_IFREG | 0600,
					  .at = { -1, FSM_ROOT, FILL_NAME },
					  .to.handle = -1 } };
	uint64_t size = 0;
	int err = fsworlds_step(r, &s);

	s.op.kind = FSOP_WRITE;
	for (uint64_t len = 262144; err >= 0 && len >= 4096; err = err < 0 ? err : 0) {
		s.op.off = size;
		s.op.len = len;
		s.op.seed = size;
		err = fsworlds_step(r, &s);
		if (err == 1)
			len /= 4;
		else
			size += len;
	}
	s.op.kind = FSOP_TRUNCATE;
	s.op.off = size > leave * 4096u ? size - leave * 4096u : 0;
	return err < 0 ? err : fsworlds_step(r, &s);
}

void fscrash_base_make(struct fscrash_base *b, const struct fs_mkfs_options *mkfs, uint64_t blocks,
		       const struct fs_options *opt, const struct fsworld_step *steps, size_t n, unsigned fill,
		       bool kill, uint64_t seed)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = blocks, .seed = seed, .no_trace = true });
	struct fs_options again = *opt;
	struct fsworlds run = { 0 };
	struct fsworld found = { 0 };
	struct fs *fs;
	char why[600] = "";
	size_t i;
	int err = fs_mkfs(simdev_bdev(disk), mkfs);

	if (!err)
		err = fsworlds_begin(&run, disk, opt, NULL, fill > 0, seed);
	for (i = 0; !err && i < n; i++)
		err = fsworlds_step(&run, &steps[i]);
	if (!err && fill)
		err = fill_up(&run, fill);
	if (!err && !kill) {
		fs = run.fs;
		run.fs = NULL;
		err = fs_unmount(fs);
	}
	if (!err) {
		fsworlds_kill(&run);
		b->image = simdev_freeze(disk);
		simdev_free(disk);
		disk = simdev_new(&(struct simdev_options){ .base = b->image, .seed = seed });
		again.store.seed = rng_mix(seed, 1000) | 1;
		err = fs_mount(simdev_bdev(disk), &again, &fs);
	}
	/* What it holds: after a kill that need not be all. The run's own model of it, because steps know files by its numbers. */
	if (!err) {
		err = fsworld_read(fs, &found, why, sizeof(why));
		for (i = run.n; !err && i-- > 0 && run.worlds[i].digest != found.digest;)
			;
		if (!err && (i >= run.n || (!kill && i != run.n - 1)))
			err = -EPROTO;
		if (!err)
			fsworld_copy(&b->world, &run.worlds[i]);
		fs_crash(fs);
		bdev_close(simdev_bdev(disk));
	}
	if (err) {
		printf("# the state to begin with cannot be made: error %d %s %s\n", err, run.broken, why);
		if (found.m)
			fsm_diff(run.worlds[run.n - 1].m, found.m, stdout, "#   ", 8);
		kv_log_print(stdout);
		fflush(stdout);
		abort();
	}
	fsworld_release(&found);
	run.disk = disk;
	fsworlds_release(&run);
	simdev_free(disk);
}

void fscrash_base_release(struct fscrash_base *b)
{
	simdev_image_free(b->image);
	fsworld_release(&b->world);
}

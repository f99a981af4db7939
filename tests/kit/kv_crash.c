#include "tests/kit/kv_crash.h"

#include <inttypes.h>
#include <stdlib.h>

#include "btree/err.h"
#include "tests/kit/kv_batch.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rng.h"
#include "wal/log.h"

const struct store_options kv_store_options = { .cache_bytes = 1 << 21, .data_bytes = 1 << 22, .manual = true };
const struct store_mkfs_options kv_mkfs_options = {
	.node_size = 4096, .log_blocks = LOG_BLOCKS_MIN, .now_ns = 1, .seed = 1, .uuid = { 1 }
};

static const struct kv_plan *plan_of(const struct crash_plan *plan)
{
	return (const struct kv_plan *)plan;
}

static void print_plan(const struct crash_plan *p)
{
	const struct kv_plan *plan = plan_of(p);

	for (size_t i = 0; i < plan->n_ops; i++) {
		printf("#   op %zu: ", i);
		kv_op_print(stdout, &plan->ops[i]);
		printf("\n");
	}
}

static struct kv_run *run_new(void)
{
	struct kv_run *run = malloc(sizeof(*run));

	if (!run)
		abort();
	return run;
}

static void kill_run(void *run)
{
	kv_run_kill(run);
}

static void free_run(void *run)
{
	kv_run_release(run);
	free(run);
}

static void free_world(void *w)
{
	if (w)
		world_release(w);
	free(w);
}

/* For want of room on the device, or in memory. */
static bool refused(int err)
{
	return err == -ENOSPC || err == -EFBIG;
}

static int carry_out(struct crash *c, const struct crash_plan *p, struct simdev *disk, void **ret_run,
		     uint64_t *ret_from)
{
	const struct kv_plan *plan = plan_of(p);
	struct kv_run *run = *ret_run = run_new();
	char why[600];
	int err;

	kv_run_init(run, disk, &plan->opt, plan->start, p->seed);
	run->marking = true;
	err = kv_run_open(run);
	if (err) {
		snprintf(why, sizeof(why), "opening what the plan begins with: error %d", -err);
		crash_print_failure(c, why);
		return -EPROTO;
	}
	for (size_t i = 0; !err && i < plan->n_ops; i++) {
		if (i == p->first && !p->opening)
			*ret_from = simdev_ops(disk);
		err = kv_run_op(run, &plan->ops[i]);
		if (refused(err) && plan->full_ok) {
			c->refused++;
			err = plan->idle_ends;
		}
		if (err == 1 && !plan->idle_ends)
			err = 0;
		if (err < 0) {
			snprintf(why, sizeof(why), "op %zu without a crash: error %d %s", i, -err, run->broken);
			crash_print_failure(c, why);
			err = -EPROTO;
		}
	}
	return err;
}

/* Work on a recovered store: it has to allocate, release and make checkpoints as if nothing had been. */
static int go_on(struct crash *c, struct simdev *disk, const void *world, uint64_t seed, void **ret_run)
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
	const struct kv_plan *plan = plan_of(c->plan);
	struct kv_run *run = *ret_run = run_new();
	int err;

	kv_run_init(run, disk, &plan->opt, world, seed | UINT64_C(1) << 32);
	run->marking = true;
	err = kv_run_open(run);
	if (err)
		err = kv_broken(run, "going on: opening gives error %d", -err);
	for (size_t i = 0; !err && i < sizeof(ops) / sizeof(ops[0]); i++) {
		err = kv_run_op(run, &ops[i]);
		if (err == 1 || (refused(err) && plan->full_ok))
			err = 0;
		if (err && err != -EPROTO)
			err = kv_broken(run, "going on: %s gives error %d", kv_action_name(ops[i].action), -err);
	}
	if (err)
		crash_print_failure(c, run->broken);
	return err;
}

/* ---- looking ---- */

static void print_worlds(const struct world *w, struct crash_allowed a, size_t lo, size_t hi)
{
	const struct kv_run *run = a.run;

	if (a.exactly) {
		world_print_diff(stdout, "recovered", w, "before", a.exactly);
		return;
	}
	printf("# worlds %zu .. %zu are allowed of %zu\n", lo, hi, run->model.n);
	for (size_t i = 0; i < run->model.n; i++)
		if (world_equal(w, &run->model.world[i]))
			printf("# it is world %zu\n", i);
	world_print_diff(stdout, "recovered", w, "newest allowed", &run->model.world[hi]);
	if (lo != hi)
		world_print_diff(stdout, "recovered", w, "oldest allowed", &run->model.world[lo]);
}

static bool is_allowed(const struct world *w, struct crash_allowed a, uint64_t n, size_t *lo, size_t *hi)
{
	const struct kv_run *run = a.run;

	if (a.exactly)
		return world_equal(w, a.exactly);
	kv_run_allowed(run, n, lo, hi);
	return model_match(&run->model, w, *lo, *hi) >= 0;
}

static int look(struct crash *c, struct simdev *disk, struct crash_allowed allowed, uint64_t seed, void **ret_world,
		uint64_t *ret_ops)
{
	struct store_options opt = plan_of(c->plan)->opt;
	struct world *w = calloc(1, sizeof(*w));
	struct store *store = NULL;
	struct check_result res = { 0 };
	size_t lo = 0, hi = 0;
	char why[300] = "";
	int err;

	if (!w)
		abort();
	opt.records = &kv_records;
	opt.seed = seed | 1;
	err = store_open(simdev_bdev(disk), &opt, &store);
	if (err) {
		snprintf(why, sizeof(why), "opening after the crash: error %d", -err);
		crash_print_failure(c, why);
		free(w);
		return -EPROTO;
	}
	*ret_ops = simdev_ops(disk);
	err = kv_world_read(store, w, why, sizeof(why));
	if (err) {
		crash_print_failure(c, why);
		free(w);
		store_crash(store);
		return -EPROTO;
	}
	*ret_world = w;
	if (!is_allowed(w, allowed, c->at[c->depth - 1].n, &lo, &hi)) {
		print_worlds(w, allowed, lo, hi);
		crash_print_failure(c, allowed.exactly ? "a crash inside recovery changed what is recovered"
						       : "what is recovered is no allowed prefix");
		err = -EPROTO;
	}
	if (!err && (store_check(store, &res) || res.errors)) {
		crash_print_failure(c, "the check after recovery finds errors");
		err = -EPROTO;
	}
	store_crash(store);
	bdev_close(simdev_bdev(disk));
	return err;
}

const struct crash_world kv_crash_world = {
	.what = "the engine",
	.carry_out = carry_out,
	.look = look,
	.go_on = go_on,
	.kill = kill_run,
	.run_free = free_run,
	.state_free = free_world,
	.print_plan = print_plan,
};

/* ---- what plans begin with ---- */

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

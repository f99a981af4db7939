#include "tests/kit/fscrash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/op.h"
#include "fs/orphan.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "wal/log.h"
#include "wal/store_int.h"

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

static const struct fscrash_plan *plan_of(const struct crash_plan *plan)
{
	return (const struct fscrash_plan *)plan;
}

static void print_plan(const struct crash_plan *p)
{
	static const char *const name[] = { "", "remount", "snapshot", "delete a snapshot" };
	const struct fscrash_plan *plan = plan_of(p);

	for (size_t i = 0; i < plan->n_steps; i++) {
		const struct fsworld_step *s = &plan->steps[i];

		printf("#   %s", name[s->action]);
		if (s->action == FSWORLD_OP)
			fsop_print(stdout, &s->op);
		printf("\n");
	}
}

/* ---- calls that are wrapped ---- */

static struct {
	unsigned one_in;
	uint64_t seed, n;
} commits;

static void commits_begin(const struct fscrash_plan *plan, uint64_t seed)
{
	commits.one_in = plan->sync_one_in;
	commits.seed = seed;
	commits.n = 0;
}

int __real_op_commit(struct op *);
int __wrap_op_commit(struct op *);
int __real_checkpoint_run(struct store *, unsigned, const struct freeze_ops *, void *);
int __wrap_checkpoint_run(struct store *, unsigned, const struct freeze_ops *, void *);
int __real_recover(struct store *);
int __wrap_recover(struct store *);
int __real_orphans_open(struct fs *);
int __wrap_orphans_open(struct fs *);
void __real_orphan_unreferenced(struct fs *, uint64_t);
void __wrap_orphan_unreferenced(struct fs *, uint64_t);
int __real_fs_reap(struct fs *);
int __wrap_fs_reap(struct fs *);
int __real_orphan_remove_range(struct op *, struct inode *, uint64_t, uint64_t);
int __wrap_orphan_remove_range(struct op *, struct inode *, uint64_t, uint64_t);

int __real_orphan_replace_range(struct op *, struct inode *, uint64_t, uint64_t, const struct extent_piece *, size_t);
int __wrap_orphan_replace_range(struct op *, struct inode *, uint64_t, uint64_t, const struct extent_piece *, size_t);

int __wrap_op_commit(struct op *op)
{
	int err = __real_op_commit(op);

	if (!err && commits.one_in && rng_mix(commits.seed, commits.n++) % commits.one_in == 0)
		(void)store_sync(fs_store(op->fs)); /* what fails here fails again where somebody waits for it */
	return err;
}

int __wrap_checkpoint_run(struct store *s, unsigned flags, const struct freeze_ops *ops, void *arg)
{
	int err;

	crash_phase_begin(CRASH_CHECKPOINT);
	err = __real_checkpoint_run(s, flags, ops, arg);
	crash_phase_end(CRASH_CHECKPOINT);
	return err;
}

int __wrap_recover(struct store *s)
{
	int err;

	crash_phase_begin(CRASH_RECOVERY);
	err = __real_recover(s);
	crash_phase_end(CRASH_RECOVERY);
	return err;
}

int __wrap_orphans_open(struct fs *fs)
{
	int err;

	crash_phase_begin(CRASH_ORPHANS);
	err = __real_orphans_open(fs);
	crash_phase_end(CRASH_ORPHANS);
	return err;
}

int __wrap_fs_reap(struct fs *fs)
{
	int err;

	crash_phase_begin(CRASH_ORPHANS);
	err = __real_fs_reap(fs);
	crash_phase_end(CRASH_ORPHANS);
	return err;
}

void __wrap_orphan_unreferenced(struct fs *fs, uint64_t node)
{
	crash_phase_begin(CRASH_ORPHANS);
	__real_orphan_unreferenced(fs, node);
	crash_phase_end(CRASH_ORPHANS);
}

/* Of interest is one that takes several batches. */
static bool removal_begin(const struct inode *i)
{
	bool large = i->blocks > ORPHAN_STEP_ITEMS;

	if (large)
		crash_phase_begin(CRASH_STEPS);
	return large;
}

int __wrap_orphan_remove_range(struct op *op, struct inode *i, uint64_t from, uint64_t to)
{
	bool large = removal_begin(i);
	int err = __real_orphan_remove_range(op, i, from, to);

	if (large)
		crash_phase_end(CRASH_STEPS);
	return err;
}

int __wrap_orphan_replace_range(struct op *op, struct inode *i, uint64_t from, uint64_t to,
				const struct extent_piece *pieces, size_t n)
{
	bool large = removal_begin(i);
	int err = __real_orphan_replace_range(op, i, from, to, pieces, n);

	if (large)
		crash_phase_end(CRASH_STEPS);
	return err;
}

/* ---- disks seen before ---- */

struct fscrash_counts fscrash_counts;

/* Of a disk with this content, which is not 0, what was found on it. Open addressing, never more than half full. */
static struct seen {
	uint64_t disk, world;
} * seen;
static size_t n_seen, cap_seen;

static struct seen *seen_find(struct seen *table, size_t cap, uint64_t disk)
{
	size_t at = disk & (cap - 1);

	while (table[at].disk && table[at].disk != disk)
		at = (at + 1) & (cap - 1);
	return &table[at];
}

static void seen_add(uint64_t disk, uint64_t world)
{
	if (2 * n_seen >= cap_seen) {
		size_t cap = cap_seen ? 2 * cap_seen : 1 << 16;
		struct seen *table = calloc(cap, sizeof(*table));

		if (!table)
			abort();
		for (size_t i = 0; i < cap_seen; i++)
			if (seen[i].disk)
				*seen_find(table, cap, seen[i].disk) = seen[i];
		free(seen);
		seen = table;
		cap_seen = cap;
	}
	n_seen++;
	*seen_find(seen, cap_seen, disk) = (struct seen){ disk, world };
}

void fscrash_release(void)
{
	free(seen);
	seen = NULL;
	n_seen = cap_seen = 0;
}

/* ---- runs ---- */

static struct fsworlds *run_new(void)
{
	struct fsworlds *run = calloc(1, sizeof(*run));

	if (!run)
		abort();
	return run;
}

static void kill_run(void *run)
{
	fsworlds_kill(run);
}

static void free_run(void *run)
{
	fsworlds_release(run);
	free(run);
}

static void free_state(void *w)
{
	if (w)
		fsworld_release(w);
	free(w);
}

static void count_refused(struct crash *c, struct fsworlds *r)
{
	c->refused += r->run.refused > 0;
	r->run.refused = 0;
}

static int by_chance(struct crash *c, struct fsworlds *r, const struct fsop_profile *profile, size_t n, uint64_t seed)
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
		count_refused(c, r);
	}
	return err < 0 ? err : 0;
}

static void print_broken(const struct crash *c, const struct fsworlds *run, const char *when)
{
	char why[800];

	snprintf(why, sizeof(why), "%s: %s", when, run->broken);
	fsrun_print(&run->run, stdout);
	crash_print_failure(c, why);
}

static int carry_out(struct crash *c, const struct crash_plan *p, struct simdev *disk, void **ret_run,
		     uint64_t *ret_from)
{
	const struct fscrash_plan *plan = plan_of(p);
	struct fsworlds *run = *ret_run = run_new();
	bool idle = false;
	int err;

	commits_begin(plan, p->seed);
	err = fsworlds_begin(run, disk, &plan->opt, plan->start, plan->full_ok, p->seed);
	for (size_t i = 0; !err && i < plan->n_steps; i++) {
		if (i == p->first && !p->opening)
			*ret_from = simdev_ops(disk);
		err = fsworlds_step(run, &plan->steps[i]);
		count_refused(c, run);
		if (err == 1) {
			idle |= i < plan->idle_of;
			err = idle && !c->n_replay;
		}
	}
	if (!err && plan->profile)
		err = by_chance(c, run, plan->profile, plan->n_chance, p->seed);
	if (err < 0)
		print_broken(c, run, "without a crash");
	return err;
}

/* Everything as if nothing had been. */
static int go_on(struct crash *c, struct simdev *disk, const void *state, uint64_t seed, void **ret_run)
{
	const struct fsworld_step sync = { .op = { .kind = FSOP_SYNC, .to.handle = -1 } };
	const struct fscrash_plan *plan = plan_of(c->plan);
	struct fsworlds *run = *ret_run = run_new();
	int err;

	commits_begin(plan, seed);
	err = fsworlds_begin(run, disk, &plan->opt, state, plan->full_ok, seed | UINT64_C(1) << 32);
	if (!err)
		err = by_chance(c, run, &after_profile, 12, seed);
	if (!err)
		err = fsworlds_step(run, &sync);
	if (!err && fsrun_compare(&run->run)) {
		snprintf(run->broken, sizeof(run->broken), "%s", run->run.broken);
		err = -EPROTO;
	}
	if (!err && (fs_reap(run->fs) || fsworld_check(run->fs, NULL))) {
		snprintf(run->broken, sizeof(run->broken), "the check finds errors");
		err = -EPROTO;
	}
	if (err)
		print_broken(c, run, "going on");
	return err;
}

/* ---- looking ---- */

static void print_worlds(const struct fsworld *w, struct crash_allowed a, size_t lo, size_t hi)
{
	const struct fsworld *exactly = a.exactly;
	const struct fsworlds *run = a.run;

	if (exactly) {
		printf("# found, compared with what was found before (%u snapshots, were %u):\n", w->n_snaps,
		       exactly->n_snaps);
		fsm_diff(exactly->m, w->m, stdout, "#   ", 8);
		return;
	}
	printf("# worlds %zu .. %zu are allowed of %zu\n", lo, hi, run->n);
	for (size_t i = 0; i < run->n; i++)
		if (w->digest == run->worlds[i].digest)
			printf("# it is world %zu\n", i);
	printf("# found, compared with the newest allowed (%u snapshots, should be %u):\n", w->n_snaps,
	       run->worlds[hi].n_snaps);
	fsm_diff(run->worlds[hi].m, w->m, stdout, "#   ", 8);
	if (lo != hi) {
		printf("# and with the oldest allowed (%u snapshots):\n", run->worlds[lo].n_snaps);
		fsm_diff(run->worlds[lo].m, w->m, stdout, "#   ", 8);
	}
}

static bool is_allowed(uint64_t digest, struct crash_allowed a, uint64_t n, size_t *lo, size_t *hi)
{
	const struct fsworld *exactly = a.exactly;
	const struct fsworlds *run = a.run;

	if (exactly)
		return digest == exactly->digest;
	fsworlds_allowed(run, n, lo, hi);
	for (size_t i = *hi + 1; i-- > *lo;)
		if (digest == run->worlds[i].digest) {
			fscrash_counts.older += i < *hi;
			return true;
		}
	return false;
}

/* Mounts it and looks at everything. */
static int look_at(struct crash *c, struct simdev *disk, struct crash_allowed allowed, uint64_t seed,
		   struct fsworld *ret)
{
	struct fs_options opt = plan_of(c->plan)->opt;
	size_t lo = 0, hi = 0;
	char why[600] = "";
	struct fs *fs;
	int err;

	opt.store.seed = seed | 1;
	commits_begin(plan_of(c->plan), seed);
	err = fs_mount(simdev_bdev(disk), &opt, &fs);
	if (err) {
		snprintf(why, sizeof(why), "mounting after the crash: error %d", -err);
		crash_print_failure(c, why);
		return -EPROTO;
	}
	err = fsworld_read(fs, ret, why, sizeof(why));
	if (!err && !is_allowed(ret->digest, allowed, c->at[c->depth - 1].n, &lo, &hi)) {
		print_worlds(ret, allowed, lo, hi);
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
		err = fsworld_check(fs, ret);
		snprintf(why, sizeof(why), "the check after recovery: error %d", -err);
	}
	if (err)
		crash_print_failure(c, why);
	fs_crash(fs);
	bdev_close(simdev_bdev(disk));
	return err ? -EPROTO : 0;
}

static int look(struct crash *c, struct simdev *disk, struct crash_allowed allowed, uint64_t seed, void **ret_state,
		uint64_t *ret_ops)
{
	uint64_t content = simdev_digest(disk);
	const struct seen *before = cap_seen ? seen_find(seen, cap_seen, content) : NULL;
	struct fsworld *w;
	size_t lo, hi;
	int err;

	if (before && before->disk && !c->n_replay &&
	    is_allowed(before->world, allowed, c->at[c->depth - 1].n, &lo, &hi)) {
		fscrash_counts.same++;
		return 1;
	}
	*ret_state = w = calloc(1, sizeof(*w));
	if (!w)
		abort();
	err = look_at(c, disk, allowed, seed, w);
	if (!err && !(before && before->disk))
		seen_add(content, w->digest);
	*ret_ops = simdev_ops(disk);
	return err;
}

const struct crash_world fscrash_world = {
	.what = "the filesystem",
	.carry_out = carry_out,
	.look = look,
	.go_on = go_on,
	.kill = kill_run,
	.run_free = free_run,
	.state_free = free_state,
	.print_plan = print_plan,
};

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

/*
 * model_fs.c - long runs of file operations against a plain model
 *
 * Operations by seed go through fs/fs.h on a simulated disk and through the model (kit/fsmodel); results are compared one by
 * one, whole trees now and then. A run is also unmounted and mounted, and crashed: at a moment since the last sync, with the
 * unflushed writes kept, dropped or torn; what is found must be the state after some prefix of the operations, no shorter than
 * that sync. Every run ends with fs_check finding nothing.
 *
 * The clock is the test's own, one tick an operation, so that times are compared to the nanosecond. It is a variable of
 * each thread: operations read the clock in the thread that asks for them.
 *
 * ARBOR_SEED, ARBOR_ROUNDS (runs of each shape) and ARBOR_STEPS (operations of a run); a pattern as argument picks tests.
 * Without ARBOR_ROUNDS each test ends after some seconds.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/check.h"
#include "fs/fs.h"
#include "tests/kit/fsrun.h"
#include "tests/kit/simdev.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define FULL_RUNS 100u /* of which at least one fills its device */

static uint64_t seed = 1;
static uint64_t rounds, steps;
static double seconds = 1.3; /* of a shape, without ARBOR_ROUNDS */

static _Thread_local struct timespec clock_now = { 900000, 0 };

static void set_now(struct timespec now)
{
	clock_now = now;
}

static void get_now(void *arg, struct timespec *ret)
{
	(void)arg;
	*ret = clock_now;
}

static double elapsed(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ---- a filesystem ---- */

struct shape {
	const char *name;
	const struct fsop_profile *profile;
	uint64_t blocks;
	uint32_t node_size;
	unsigned log_blocks, steps;
	bool full, crashes, copies, discard;
	size_t cache_bytes;
};

struct rig {
	const struct shape *shape;
	uint64_t seed;
	struct rng rng;
	struct simdev *disk;
	struct fs *fs;
	struct fs_options opt;
	struct fsdrive_direct drive;
	struct fsrun run;
	uint64_t durable_ops; /* of the disk: when the log of operations was last empty */
	uint64_t crashes, lost;
};

static void fail_rig(struct rig *rig, const char *what, int err)
{
	printf("# %s: error %d; ARBOR_SEED=%" PRIu64 ", run %" PRIu64 "\n", what, -err, seed, rig->seed);
	fsrun_print(&rig->run, stdout);
	storekit_print();
	fail();
}

static void must(struct rig *rig, const char *what, int err)
{
	if (err)
		fail_rig(rig, what, err);
}

static void rig_mount(struct rig *rig)
{
	rig->opt.store.seed++; /* a seed used twice would give two runs the same log epoch */
	must(rig, "mounting", fs_mount(simdev_bdev(rig->disk), &rig->opt, &rig->fs));
	fsdrive_direct_init(&rig->drive, rig->fs, FS_ROOT);
}

static void rig_make(struct rig *rig, const struct shape *s, uint64_t number, bool threads)
{
	struct fs_mkfs_options mkfs = { .store = { .node_size = s->node_size,
						   .log_blocks = s->log_blocks,
						   .copies = s->copies,
						   .lazy_log = true,
						   .now_ns = 1,
						   .seed = 7 } };

	*rig = (struct rig){ .shape = s, .seed = rng_mix(seed, number) >> 40 };
	storekit_quiet();
	rng_seed(&rig->rng, rig->seed);
	rig->disk =
		simdev_new(&(struct simdev_options){ .blocks = s->blocks, .seed = rig->seed, .no_trace = !s->crashes });
	rig->opt = (struct fs_options){ .store = { .seed = 100, .cache_bytes = s->cache_bytes, .discard = s->discard },
					.atime = FS_NOATIME,
					.no_threads = !threads,
					.now = get_now };
	must(rig, "making", fs_mkfs(simdev_bdev(rig->disk), &mkfs));
	rig_mount(rig);
}

static void rig_end(struct rig *rig)
{
	fsrun_release(&rig->run);
	fs_crash(rig->fs);
	simdev_free(rig->disk);
}

static void print_problem(void *arg, const struct fs_problem_report *p)
{
	(void)arg;
	printf("# problem %d, inode %" PRIu64 " (%s): %s\n", p->problem, p->ino, p->path ? p->path : "?", p->text);
}

static void rig_check(struct rig *rig)
{
	struct fs_check_options o = { .data = true, .threads = 1, .report = print_problem };
	struct fs_check_result result;

	/* With threads, deletions may still be under way, and nothing may change under the check. */
	if (!rig->opt.no_threads)
		must(rig, "reaping", fs_reap(rig->fs));
	must(rig, "the check", fs_check(rig->fs, &o, &result));
}

static void rig_remount(struct rig *rig)
{
	struct fs *fs = rig->fs;

	rig->fs = NULL;
	must(rig, "unmounting", fs_unmount(fs));
	fsrun_closed(&rig->run);
	fsrun_durable(&rig->run);
	rig_mount(rig);
	must(rig, "comparing after a remount", fsrun_compare(&rig->run));
	rig->durable_ops = simdev_ops(rig->disk);
}

static void rig_crash(struct rig *rig)
{
	uint64_t ops = simdev_ops(rig->disk), at = ops;
	struct simdev *after;
	size_t lost = 0;

	fs_crash(rig->fs);
	rig->fs = NULL;
	if (rng_chance(&rig->rng, 2, 3))
		at = rng_range(&rig->rng, rig->durable_ops, ops);
	after = simdev_branch(rig->disk, at, NULL, rng_next(&rig->rng));
	simdev_free(rig->disk);
	rig->disk = after;
	rig_mount(rig);
	must(rig, "recovering", fsrun_recovered(&rig->run, &lost));
	rig->durable_ops = simdev_ops(rig->disk);
	rig->crashes++;
	rig->lost += lost;
	if (rng_chance(&rig->rng, 1, 2))
		rig_check(rig);
}

/* ---- agreement ---- */

static void run_one(struct rig *rig, uint64_t n)
{
	const struct shape *s = rig->shape;

	must(rig, "beginning", fsrun_init(&rig->run, &rig->drive.driver, set_now, s->crashes));
	rig->run.full_ok = s->full;
	rig->durable_ops = simdev_ops(rig->disk);
	for (uint64_t i = 0; i < n; i++) {
		struct fsop op = fsop_gen(s->profile, rig->run.model, &rig->rng);

		must(rig, "an operation", fsrun_step(&rig->run, &op));
		if (s->crashes && !rig->run.n_log)
			rig->durable_ops = simdev_ops(rig->disk);
		if (rng_chance(&rig->rng, 1, 150))
			must(rig, "comparing", fsrun_compare(&rig->run));
		if (rng_chance(&rig->rng, 1, 300))
			rig_remount(rig);
		if (s->crashes && rng_chance(&rig->rng, 1, 60))
			rig_crash(rig);
		if (rng_chance(&rig->rng, 1, 400))
			rig_check(rig);
	}
	must(rig, "comparing at the end", fsrun_compare(&rig->run));
	rig_check(rig);
	rig_remount(rig);
	rig_check(rig);
}

static const struct shape shapes[] = {
	{ "file operations agree with the model", &fsop_mixed, 16384, 4096, 256, 600 },
	{ "file operations agree with the model with the default node size", &fsop_mixed, 32768, 16384, 1024, 600 },
	{ "names agree with the model in large directories", &fsop_names_only, 16384, 4096, 256, 1500 },
	{ "data agrees with the model", &fsop_data_only, 32768, 16384, 1024, 500, .discard = true },
	{ "data agrees with the model with a small cache and second copies", &fsop_data_only, 16384, 4096, 256, 400,
	  .cache_bytes = 1 << 20, .copies = true },
	{ "a full device changes nothing it refuses", &fsop_data_only, 1500, 4096, 64, 500, .full = true },
	{ "a full device changes nothing it refuses of anything", &fsop_growing, 1200, 4096, 64, 600, .full = true },
	{ "after a crash there is the state after a prefix", &fsop_mixed, 16384, 4096, 256, 500, .crashes = true },
	{ "after a crash there are the names of a prefix", &fsop_names_only, 16384, 16384, 256, 800, .crashes = true },
	{ "after a crash there is the data of a prefix", &fsop_data_only, 16384, 4096, 256, 300, .crashes = true },
	{ "after a crash of a full device there is everything of a prefix", &fsop_growing, 1500, 4096, 64, 500,
	  .full = true, .crashes = true },
	{ "after a crash of a full device there is the state after a prefix", &fsop_data_only, 1000, 4096, 64, 400,
	  .full = true, .crashes = true },
};

static void agrees(void **state)
{
	const struct shape *s = *state;
	uint64_t ops = 0, refused = 0, failed = 0, crashes = 0, lost = 0, run = 0;
	double end = elapsed() + seconds;

	/* Not every run fills its device, and a slow machine makes few: until one has. */
	for (; rounds ? run < rounds : run == 0 || elapsed() < end || (s->full && !refused && run < FULL_RUNS); run++) {
		struct rig rig;

		rig_make(&rig, s, (uint64_t)(s - shapes) * 100000 + run, false);
		run_one(&rig, steps ? steps : s->steps);
		ops += rig.run.n_ops;
		refused += rig.run.refused;
		failed += rig.run.failed;
		crashes += rig.crashes;
		lost += rig.lost;
		rig_end(&rig);
	}
	printf("# %" PRIu64 " operations in %" PRIu64 " runs: %" PRIu64 " rightly failed, %" PRIu64
	       " refused for want of room; %" PRIu64 " crashes lost %" PRIu64 " operations\n",
	       ops, run, failed, refused, crashes, lost);
	if (s->full && run >= FULL_RUNS)
		assert_true(refused > 0);
}

/* ---- threads ---- */

#define THREADS 3u
#define SHARED_NAMES 6u
#define RECORD 100u

struct worker {
	struct rig *rig;
	unsigned number;
	uint64_t steps;
	struct rng rng;
	struct fsdrive_direct drive;
	struct fsrun run;
	uint64_t root, shared, log; /* nodes: its own directory, one of all, a file of all */
	uint32_t records;
	int err;
	const char *what;
};

/* What may go wrong where others do the same at the same time. */
static bool shared_result_ok(int err)
{
	return !err || err == -ENOENT || err == -EEXIST || err == -ENOTEMPTY || err == -EISDIR || err == -ENOTDIR ||
	       err == -EINVAL || err == -EPERM;
}

static void shared_step(struct worker *w)
{
	static const struct fs_caller root = { 0 };
	struct fs *fs = w->drive.fs;
	uint64_t dir = w->shared;
	char name[16], name2[16];
	struct fs_entry e, sub;
	int err = 0;

	snprintf(name, sizeof(name), "s%u", (unsigned)rng_below(&w->rng, SHARED_NAMES));
	snprintf(name2, sizeof(name2), "s%u", (unsigned)rng_below(&w->rng, SHARED_NAMES));
	/* Sometimes one level down, where that is a directory at the moment. */
	if (rng_chance(&w->rng, 1, 2) && !fs_lookup(fs, dir, "s0", &sub))
		dir = sub.node;
	switch (rng_below(&w->rng, 7)) {
	case 0:
		err = fs_mknod(fs, &root, dir, name, S_IFREG | 0644, 0, &e);
		if (!err)
			fs_forget(fs, e.node, 1);
		break;
	case 1:
	case 2:
		err = fs_mkdir(fs, &root, dir, name, 0755, &e);
		if (!err)
			fs_forget(fs, e.node, 1);
		break;
	case 3:
		err = fs_unlink(fs, dir, name);
		break;
	case 4:
		err = fs_rmdir(fs, dir, name);
		break;
	case 5:
		err = fs_rename(fs, &root, dir, name, w->shared, name2,
				rng_chance(&w->rng, 1, 3) ? RENAME_EXCHANGE : 0);
		break;
	default:
		err = fs_rename(fs, &root, w->shared, name, dir, name2, 0);
		break;
	}
	if (dir != w->shared)
		fs_forget(fs, dir, 1);
	if (!shared_result_ok(err)) {
		w->err = err;
		w->what = "an operation in the shared directory";
	}
}

/* A record at the end of the shared file: none may be lost, torn or out of order. */
static void shared_append(struct worker *w)
{
	uint32_t record[RECORD / 4];
	int err;

	for (unsigned i = 0; i < RECORD / 4; i++)
		record[i] = w->number << 24 | w->records;
	err = fs_write(w->drive.fs, w->log, record, RECORD, 0, FS_WRITE_APPEND);
	w->records++;
	if (err) {
		w->err = err;
		w->what = "appending to the shared file";
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (uint64_t i = 0; i < w->steps && !w->err; i++) {
		struct fsop op = fsop_gen(&fsop_mixed, w->run.model, &w->rng);

		w->what = "an operation";
		w->err = fsrun_step(&w->run, &op);
		if (!w->err)
			shared_step(w);
		if (!w->err && i % 4 == 0)
			shared_append(w);
		if (!w->err && rng_chance(&w->rng, 1, 200)) {
			w->what = "comparing";
			w->err = fsrun_compare(&w->run);
		}
	}
	return NULL;
}

static uint64_t make_shared(struct rig *rig, const char *name, mode_t mode)
{
	static const struct fs_caller root = { 0 };
	struct fs_entry e;

	if (S_ISDIR(mode))
		must(rig, "making a directory", fs_mkdir(rig->fs, &root, FS_ROOT, name, mode & 07777, &e));
	else
		must(rig, "making a file", fs_mknod(rig->fs, &root, FS_ROOT, name, mode, 0, &e));
	return e.node;
}

static void check_records(struct rig *rig, const struct worker *w, uint64_t node)
{
	uint32_t next[THREADS] = { 0 }, *buf = mem_alloc_blocks(FS_READ_BUFFER(FS_IO_MAX));
	uint64_t total = 0, off = 0;
	const void *data;
	size_t len;

	assert_non_null(buf);
	for (unsigned t = 0; t < THREADS; t++)
		total += w[t].records;
	for (;; off += len) {
		must(rig, "reading the shared file",
		     fs_read(rig->fs, node, off, FS_IO_MAX / RECORD * RECORD, buf, &data, &len));
		if (!len)
			break;
		assert_int_equal(len % RECORD, 0);
		for (const uint32_t *r = data; (const char *)r < (const char *)data + len; r += RECORD / 4) {
			unsigned t = r[0] >> 24;

			assert_true(t < THREADS);
			assert_int_equal(r[0] & 0xffffff, next[t]);
			next[t]++;
			for (unsigned i = 1; i < RECORD / 4; i++)
				assert_int_equal(r[i], r[0]);
		}
	}
	assert_int_equal(off, total * RECORD);
	mem_free(buf);
}

static void threads_do_not_disturb_each_other(void **state)
{
	static const struct shape shape = { "threads", &fsop_mixed, 65536, 4096, 512, 250 };
	double end = elapsed() + seconds;
	uint64_t ops = 0;

	(void)state;
	for (uint64_t run = 0; rounds ? run < rounds : run == 0 || elapsed() < end; run++) {
		struct worker w[THREADS] = { 0 };
		uint64_t shared, log;
		pthread_t t[THREADS];
		struct rig rig;

		rig_make(&rig, &shape, 5000 + run, true);
		shared = make_shared(&rig, "shared", S_IFDIR | 0755);
		log = make_shared(&rig, "log", S_IFREG | 0644);
		for (unsigned i = 0; i < THREADS; i++) {
			char name[16];

			snprintf(name, sizeof(name), "own-%u", i);
			w[i] = (struct worker){ .rig = &rig,
						.number = i,
						.shared = shared,
						.log = log,
						.root = make_shared(&rig, name, S_IFDIR | 0755),
						.steps = steps ? steps : shape.steps };
			rng_seed(&w[i].rng, rng_mix(rig.seed, i));
			fsdrive_direct_init(&w[i].drive, rig.fs, w[i].root);
			must(&rig, "beginning", fsrun_init(&w[i].run, &w[i].drive.driver, set_now, false));
		}
		for (unsigned i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(t[i], NULL);
		for (unsigned i = 0; i < THREADS; i++) {
			ops += w[i].run.n_ops;
			if (w[i].err) {
				fsrun_print(&w[i].run, stdout);
				fail_rig(&rig, w[i].what, w[i].err);
			}
			must(&rig, "comparing at the end", fsrun_compare(&w[i].run));
		}
		check_records(&rig, w, log);
		rig_check(&rig);
		for (unsigned i = 0; i < THREADS; i++)
			fsrun_release(&w[i].run);
		must(&rig, "unmounting", fs_unmount(rig.fs));
		rig_mount(&rig);
		rig_check(&rig);
		rig_end(&rig);
	}
	printf("# %" PRIu64 " operations\n", ops);
}

static uint64_t env_number(const char *name)
{
	const char *env = getenv(name);

	return env && *env ? strtoull(env, NULL, 0) : 0;
}

/* Within the group, because it prints: TAP wants its version first. */
static int take_seed(void **state)
{
	struct rng rng;

	(void)state;
	seed = rng_seed_env(&rng, 1);
	return 0;
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[ARRAY_LEN(shapes) + 1];
	size_t n = 0;

	rounds = env_number("ARBOR_ROUNDS");
	steps = env_number("ARBOR_STEPS");
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	for (; n < ARRAY_LEN(shapes); n++)
		tests[n] = TEST_ROW(shapes[n].name, agrees, &shapes[n]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(threads_do_not_disturb_each_other);
	return _cmocka_run_group_tests("model_fs", tests, n, take_seed, NULL);
}

/*
 * The bounds of ArborFS's engine: how much memory it takes with a given cache and a tree much larger than that, how
 * long recovery takes when the log is full, and how long a very large image takes to open.
 *
 * Each phase is a process of its own, so that VmHWM is of that phase alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "btree/mem.h"
#include "tests/bench/bench.h"
#include "wal/store.h"

#define BATCH_ITEMS 1000u
#define HUGE_BYTES (UINT64_C(1) << 40)

static const struct record_table records = { .row = { [BENCH_TYPE] = { .name = "bench" } } };

struct bounds {
	char dir[3000], image[4096];
	size_t cache_bytes;
	uint64_t tree_bytes, items;
	bool drop_host;
};

static double mib(uint64_t kib)
{
	return (double)kib / 1024;
}

static int failed(const char *what, int err)
{
	fprintf(stderr, "bench_engine: bounds: %s: %s\n", what, strerror(-err));
	return err;
}

static int image_make(const char *path, uint64_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int err = 0;

	if (fd < 0)
		return failed(path, -errno);
	if (ftruncate(fd, (off_t)bytes))
		err = failed("ftruncate", -errno);
	close(fd);
	return err;
}

static int image_mkfs(const char *path)
{
	struct bdev *dev;
	int err;

	err = bdev_file_open(path, &(struct bdev_file_options){ 0 }, &dev, NULL);
	if (err)
		return failed("bdev_file_open", err);
	err = store_mkfs(dev, &(struct store_mkfs_options){ 0 });
	bdev_close(dev);
	return err ? failed("store_mkfs", err) : 0;
}

static int image_open(const struct bounds *b, const char *path, bool manual, struct bdev **ret_dev,
		      struct store **ret_store)
{
	struct store_options opt = { .cache_bytes = b->cache_bytes, .manual = manual, .records = &records };
	int err;

	err = bdev_file_open(path, &(struct bdev_file_options){ 0 }, ret_dev, NULL);
	if (err)
		return failed("bdev_file_open", err);
	err = store_open(*ret_dev, &opt, ret_store);
	if (!err)
		return 0;
	bdev_close(*ret_dev);
	return failed("store_open", err);
}

/* Puts n items, in order from `at`, or at random, as one batch. */
static int put_items(const struct bounds *b, struct batch *batch, uint64_t at, uint64_t n, struct rng *rng)
{
	int err = 0;

	for (uint64_t i = 0; i < n && !err; i++) {
		struct item item;

		item_make(&item, rng ? rng_below(rng, b->items) : at + i, rng ? rng_next(rng) : 0);
		err = batch_put(batch, item.key, item.val, VALUE_SIZE);
	}
	if (!err)
		err = batch_commit(batch, NULL);
	return err ? failed("batch", err) : 0;
}

static int phase_build(const struct bounds *b)
{
	double start = now_seconds();
	struct store_status st;
	struct batch *batch;
	struct store *store;
	struct bdev *dev;
	int err;

	err = image_make(b->image, b->tree_bytes * 3 + (UINT64_C(2) << 30));
	if (!err)
		err = image_mkfs(b->image);
	if (!err)
		err = image_open(b, b->image, false, &dev, &store);
	if (err)
		return err;
	err = batch_open(store_live(store), &batch);
	for (uint64_t i = 0; i < b->items && !err; i += BATCH_ITEMS)
		err = put_items(b, batch, i, b->items - i < BATCH_ITEMS ? b->items - i : BATCH_ITEMS, NULL);
	batch_close(batch);
	store_status(store, &st);
	if (err)
		store_crash(store);
	else
		err = store_close(store);
	bdev_close(dev);
	printf("tree      %" PRIu64 " items, %.2f GiB in use, built in key order in %.1f s, peak memory %.1f MiB\n",
	       b->items, (double)(st.blocks - st.blocks_free) * BLOCK_SIZE / (1u << 30), now_seconds() - start,
	       mib(process_status_kib("VmHWM")));
	return err;
}

/* All that makes memory grow: a whole scan, reads and changes all over the tree, a view held meanwhile. */
static int use(const struct bounds *b, struct store *store)
{
	struct batch *batch = NULL;
	struct view *view = NULL;
	struct scan *scan = NULL;
	uint8_t buf[VALUE_SIZE];
	const void *val;
	struct key key;
	struct rng rng;
	size_t len;
	int err;

	rng_seed(&rng, 1);
	err = view_freeze(store, &view);
	if (!err)
		err = scan_open(view, KEY_MIN, KEY_MAX, &scan);
	while (!err)
		err = scan_next(scan, &key, &val, &len);
	scan_close(scan);
	err = err < 0 ? err : 0;
	for (unsigned i = 0; i < 50000 && !err; i++)
		err = view_get(view, item_key(rng_below(&rng, b->items)), buf, sizeof(buf), &len);
	if (!err)
		err = batch_open(store_live(store), &batch);
	for (unsigned i = 0; i < 1000 && !err; i++)
		err = put_items(b, batch, 0, 100, &rng);
	batch_close(batch);
	view_close(view);
	return err;
}

static int phase_memory(const struct bounds *b)
{
	uint64_t before, opened, peak;
	struct store_status st;
	struct store *store;
	struct bdev *dev;
	int err;

	dir_drop_caches(b->dir, b->drop_host);
	before = process_status_kib("VmRSS");
	err = image_open(b, b->image, false, &dev, &store);
	if (err)
		return err;
	opened = process_status_kib("VmRSS");
	err = use(b, store);
	if (err)
		failed("use", err);
	store_status(store, &st);
	peak = process_status_kib("VmHWM");
	printf("memory    before open %.1f MiB, after it %.1f MiB, peak under scans, reads and writes %.1f MiB (now %.1f)\n",
	       mib(before), mib(opened), mib(peak), mib(process_status_kib("VmRSS")));
	printf("          fixed part: peak less the cache of %.1f MiB and the program's %.1f MiB: %.1f MiB; "
	       "frames %zu of at most %zu\n",
	       (double)b->cache_bytes / (1u << 20), mib(before),
	       mib(peak) - (double)b->cache_bytes / (1u << 20) - mib(before), st.cache_frames, st.cache_frames_max);
	if (err)
		store_crash(store);
	else
		err = store_close(store);
	bdev_close(dev);
	return err;
}

/*
 * Writes until the log is as full as it gets: without threads, so that checkpoints come only when it is; and to few keys,
 * or dirty nodes would ask for a checkpoint long before.
 */
static int fill_log(const struct bounds *b, struct store *store)
{
	uint64_t checkpoints, peak = 0;
	struct store_status st;
	struct batch *batch;
	struct rng rng;
	int err;

	struct bounds hot = *b;

	hot.items = b->items < 20000 ? b->items : 20000;
	rng_seed(&rng, 2);
	store_status(store, &st);
	checkpoints = st.checkpoints;
	err = batch_open(store_live(store), &batch);
	for (;;) {
		if (!err)
			err = put_items(&hot, batch, 0, 10, &rng);
		if (err)
			break;
		store_status(store, &st);
		/* Two checkpoints show how far it goes; the third time, stop short of it. */
		if (st.checkpoints - checkpoints >= 2 && st.log_used * 100 >= peak * 98)
			break;
		if (st.checkpoints - checkpoints > 8)
			break;
		peak = st.log_used > peak ? st.log_used : peak;
	}
	batch_close(batch);
	if (!err)
		err = store_sync(store);
	store_status(store, &st);
	printf("crash     log of %.1f MiB, %.1f MiB of it in use, %" PRIu64 " checkpoints to get there\n",
	       (double)st.log_blocks * BLOCK_SIZE / (1u << 20), (double)st.log_used * BLOCK_SIZE / (1u << 20),
	       st.checkpoints - checkpoints);
	return err;
}

static int phase_crash(const struct bounds *b)
{
	struct store *store;
	struct bdev *dev;
	int err;

	err = image_open(b, b->image, true, &dev, &store);
	if (err)
		return err;
	err = fill_log(b, store);
	store_crash(store);
	bdev_close(dev);
	return err;
}

static int phase_recover(const struct bounds *b)
{
	struct store_status st;
	struct store *store;
	struct bdev *dev;
	double start;
	int err;

	dir_drop_caches(b->dir, b->drop_host);
	start = now_seconds();
	err = image_open(b, b->image, false, &dev, &store);
	if (err)
		return err;
	store_status(store, &st);
	printf("recovery  open took %.3f s, of which recovery %.3f s, %" PRIu64 " records; peak memory %.1f MiB\n",
	       now_seconds() - start, (double)st.recovered_us / 1e6, st.recovered_records,
	       mib(process_status_kib("VmHWM")));
	err = store_close(store);
	bdev_close(dev);
	return err;
}

static int phase_huge(const struct bounds *b)
{
	char path[4096];
	double start, made, opened;
	struct store *store;
	struct bdev *dev;
	uint64_t before;
	int err;

	snprintf(path, sizeof(path), "%s/huge", b->dir);
	err = image_make(path, HUGE_BYTES);
	start = now_seconds();
	if (!err)
		err = image_mkfs(path);
	if (err)
		return err;
	made = now_seconds() - start;
	dir_drop_caches(b->dir, b->drop_host);

	before = process_status_kib("VmRSS");
	start = now_seconds();
	err = image_open(b, path, false, &dev, &store);
	if (err)
		return err;
	opened = now_seconds() - start;
	printf("1 TiB     made in %.3f s, opened in %.3f s, memory %.1f MiB more than before\n", made, opened,
	       mib(process_status_kib("VmRSS") - before));
	err = store_close(store);
	bdev_close(dev);
	unlink(path);
	return err;
}

static int run_phase(const struct bounds *b, int (*phase)(const struct bounds *))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return failed("fork", -errno);
	if (!pid) {
		int err = phase(b);

		fflush(stdout);
		_exit(err ? 1 : 0);
	}
	if (waitpid(pid, &status, 0) != pid)
		return failed("waitpid", -errno);
	if (WIFSIGNALED(status))
		fprintf(stderr, "bench_engine: bounds: a phase was ended by signal %d\n", WTERMSIG(status));
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -EIO;
}

int bounds_run(const char *dir, size_t cache_bytes, uint64_t tree_bytes, bool drop_host)
{
	static int (*const of_the_tree[])(const struct bounds *) = { phase_build, phase_memory, phase_crash,
								     phase_recover };
	struct bounds b = {
		.cache_bytes = cache_bytes,
		.tree_bytes = tree_bytes,
		.items = tree_bytes / ITEM_SIZE,
		.drop_host = drop_host,
	};
	char size[2][32];
	int err = 0, huge_err;

	snprintf(b.dir, sizeof(b.dir), "%s", dir);
	snprintf(b.image, sizeof(b.image), "%s/image", dir);
	printf("bounds: cache %s, tree of %s of keys and values\n", format_size(cache_bytes, size[0], sizeof(size[0])),
	       format_size(tree_bytes, size[1], sizeof(size[1])));
	for (size_t i = 0; i < sizeof(of_the_tree) / sizeof(of_the_tree[0]) && !err; i++)
		err = run_phase(&b, of_the_tree[i]);
	unlink(b.image);
	huge_err = run_phase(&b, phase_huge);
	return err ? err : huge_err;
}

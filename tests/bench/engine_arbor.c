/*
 * ArborFS's engine, through the storage door (wal/store.h), on a sparse image file opened with O_DIRECT. Its caches
 * are its own: nothing of it goes through the host's page cache.
 *
 *  - Durable commits: a batch, then store_sync_lsn. Loads: batches, store_sync at the end, inside the time (all is
 *    durable then, the last part of it in the log); the checkpoint that follows is outside the time, as RocksDB's
 *    compaction is, and in the bytes written. Mixed: batches, no sync; durable within commit_ms.
 *  - Reads: a frozen view, or the live view for a fresh state. Checksums are verified when a node is loaded.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "tests/bench/bench.h"
#include "wal/store.h"

struct arbor {
	struct engine engine;
	struct bdev *bdev;
	struct store *store;
};

struct arbor_writer {
	struct writer writer;
	struct batch *batch;
};

struct arbor_reader {
	struct reader reader;
	struct view *view;
	struct view *frozen; /* to be closed, or NULL */
};

static const struct record_table records = { .row = { [BENCH_TYPE] = { .name = "bench" } } };

static int failed(const char *what, int err)
{
	fprintf(stderr, "bench_engine: arbor: %s: %s\n", what, strerror(-err));
	return err;
}

static const char *settings(const struct engine_env *env)
{
	(void)env;
	return "ArborFS: image file, O_DIRECT, nodes of 16 KiB; loads in batches, store_sync at the end, in time (the "
	       "checkpoint after that is not in time, but in the bytes written); mixed without sync; verifies checksums";
}

static uint64_t image_bytes(const struct engine_env *env)
{
	uint64_t bytes = env->image_bytes ? env->image_bytes : env->data_bytes * 6 + (UINT64_C(2) << 30);

	return bytes & ~(uint64_t)(BLOCK_SIZE - 1);
}

static int image_make(const char *path, uint64_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes))
		err = -errno;
	close(fd);
	return err;
}

static int arbor_close(struct engine *engine)
{
	struct arbor *a = (struct arbor *)engine;
	int err;

	err = store_close(a->store);
	bdev_close(a->bdev);
	mem_free(a);
	return err ? failed("store_close", err) : 0;
}

static int arbor_open(const struct engine_env *env, unsigned flags, struct engine **ret)
{
	struct arbor *a = mem_zalloc(sizeof(*a));
	const char *what = "image";
	char path[4096];
	int err = 0;

	if (!a)
		return -ENOMEM;
	a->engine.ops = &engine_arbor;
	snprintf(path, sizeof(path), "%s/image", env->dir);
	if (flags & ENGINE_CREATE)
		err = image_make(path, image_bytes(env));
	if (!err) {
		what = "bdev_file_open";
		err = bdev_file_open(path, &(struct bdev_file_options){ 0 }, &a->bdev, NULL);
	}
	if (!err && (flags & ENGINE_CREATE)) {
		what = "store_mkfs";
		err = store_mkfs(a->bdev, &(struct store_mkfs_options){ .log_blocks = env->log_bytes / BLOCK_SIZE });
	}
	if (!err) {
		what = "store_open";
		err = store_open(a->bdev,
				 &(struct store_options){ .cache_bytes = env->cache_bytes, .records = &records },
				 &a->store);
	}
	if (err) {
		bdev_close(a->bdev);
		mem_free(a);
		return failed(what, err);
	}
	/* What mkfs and open wrote is not of interest. */
	atomic_store(&a->bdev->written_blocks, 0);
	*ret = &a->engine;
	return 0;
}

static int arbor_durable(struct engine *engine)
{
	int err = store_sync(((struct arbor *)engine)->store);

	return err ? failed("store_sync", err) : 0;
}

static int arbor_rest(struct engine *engine)
{
	int err = store_checkpoint(((struct arbor *)engine)->store);

	return err ? failed("store_checkpoint", err) : 0;
}

static void arbor_writer_close(struct writer *writer)
{
	struct arbor_writer *w = (struct arbor_writer *)writer;

	if (!w)
		return;
	batch_close(w->batch);
	mem_free(w);
}

static int arbor_writer_open(struct engine *engine, struct writer **ret)
{
	struct arbor_writer *w = mem_zalloc(sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->writer.engine = engine;
	err = batch_open(store_live(((struct arbor *)engine)->store), &w->batch);
	if (err) {
		mem_free(w);
		return failed("batch_open", err);
	}
	*ret = &w->writer;
	return 0;
}

static int arbor_write(struct writer *writer, const struct item *items, size_t n, enum write_how how)
{
	struct arbor_writer *w = (struct arbor_writer *)writer;
	struct arbor *a = (struct arbor *)writer->engine;
	uint64_t lsn;
	int err = 0;

	for (size_t i = 0; i < n && !err; i++)
		err = batch_put(w->batch, items[i].key, items[i].val, VALUE_SIZE);
	if (err) {
		batch_cancel(w->batch);
		return failed("batch_put", err);
	}
	err = batch_commit(w->batch, &lsn);
	if (err)
		return failed("batch_commit", err);
	if (how == WRITE_DURABLE)
		err = store_sync_lsn(a->store, lsn);
	return err ? failed("store_sync_lsn", err) : 0;
}

static void arbor_reader_close(struct reader *reader)
{
	struct arbor_reader *r = (struct arbor_reader *)reader;

	if (!r)
		return;
	view_close(r->frozen);
	mem_free(r);
}

static int arbor_reader_open(struct engine *engine, bool snapshot, struct reader **ret)
{
	struct arbor *a = (struct arbor *)engine;
	struct arbor_reader *r = mem_zalloc(sizeof(*r));
	int err = 0;

	if (!r)
		return -ENOMEM;
	r->reader.engine = engine;
	if (snapshot)
		err = view_freeze(a->store, &r->frozen);
	if (err) {
		mem_free(r);
		return failed("view_freeze", err);
	}
	r->view = snapshot ? r->frozen : store_live(a->store);
	*ret = &r->reader;
	return 0;
}

static int arbor_get(struct reader *reader, struct key k, void *val)
{
	size_t len;
	int err;

	err = view_get(((struct arbor_reader *)reader)->view, k, val, VALUE_SIZE, &len);
	return err && err != -ENOENT ? failed("view_get", err) : err;
}

static int arbor_scan(struct reader *reader, struct key from, uint64_t limit, uint64_t *ret_n, uint64_t *ret_sum)
{
	uint64_t n = 0, sum = 0;
	struct scan *scan;
	const void *val;
	struct key key;
	size_t len;
	int r;

	r = scan_open(((struct arbor_reader *)reader)->view, from, KEY_MAX, &scan);
	if (r)
		return failed("scan_open", r);
	while (n < limit) {
		r = scan_next(scan, &key, &val, &len);
		if (r)
			break;
		sum += item_sum(val);
		n++;
	}
	scan_close(scan);
	*ret_n = n;
	*ret_sum = sum;
	return r < 0 ? failed("scan_next", r) : 0;
}

static uint64_t arbor_written(struct engine *engine)
{
	return (uint64_t)atomic_load(&((struct arbor *)engine)->bdev->written_blocks) * BLOCK_SIZE;
}

static uint64_t arbor_used(struct engine *engine)
{
	struct store_status st;

	store_status(((struct arbor *)engine)->store, &st);
	return (st.blocks - st.blocks_free) * BLOCK_SIZE;
}

const struct engine_ops engine_arbor = {
	.name = "arbor",
	.settings = settings,
	.open = arbor_open,
	.close = arbor_close,
	.durable = arbor_durable,
	.rest = arbor_rest,
	.writer_open = arbor_writer_open,
	.write = arbor_write,
	.writer_close = arbor_writer_close,
	.reader_open = arbor_reader_open,
	.get = arbor_get,
	.scan = arbor_scan,
	.reader_close = arbor_reader_close,
	.written = arbor_written,
	.used = arbor_used,
};

/*
 * RocksDB. Set up as follows:
 *
 *  - No compression, as the others have none. A block cache of the same size as the others' cache; 10-bit Bloom
 *    filters; write buffers of half the cache each (8 to 64 MiB, at most two), which it has beyond that cache. Two
 *    background jobs. All else as it comes.
 *  - Where the data is larger than the cache, reads are direct, so that the host's page cache is not a second cache
 *    behind the first (--rocksdb-buffered leaves it that).
 *  - Durable commits: WAL with sync. Loads: WAL off, batches as the others', a flush of the write buffers at the end,
 *    inside the time; compactions it has begun by then go on outside the time, and are waited for before reads are
 *    measured and before bytes written are counted. Mixed: WAL without sync.
 *  - Reads: a snapshot, or none for a fresh state; rocksdb_get_pinned, which does not allocate. Checksums are
 *    verified, its default, as ArborFS does.
 */
#include <errno.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "btree/mem.h"
#include "tests/bench/bench.h"

struct rocks {
	struct engine engine;
	rocksdb_t *db;
	rocksdb_options_t *options;
	rocksdb_block_based_table_options_t *table;
	rocksdb_cache_t *cache;
	rocksdb_writeoptions_t *write[WRITE_DURABLE + 1];
	rocksdb_flushoptions_t *flush;
};

struct rocks_writer {
	struct writer writer;
	rocksdb_writebatch_t *batch;
};

struct rocks_reader {
	struct reader reader;
	rocksdb_readoptions_t *options;
	const rocksdb_snapshot_t *snapshot;
	rocksdb_iterator_t *iter; /* of a snapshot: used again */
};

static int failed(const char *what, char *err)
{
	fprintf(stderr, "bench_engine: rocksdb: %s: %s\n", what, err);
	rocksdb_free(err);
	return -EIO;
}

static size_t write_buffer(const struct engine_env *env)
{
	size_t half = env->cache_bytes / 2;
	size_t min = 8u << 20, max = 64u << 20;

	return half < min ? min : half > max ? max : half;
}

static const char *settings(const struct engine_env *env)
{
	static char text[640];
	char size[32];

	snprintf(
		text, sizeof(text),
		"RocksDB: no compression; block cache as large as the others' cache, and up to 2 write buffers of %s "
		"beyond it; Bloom filters of 10 bits; WAL with sync for durable commits; loads with WAL off, flush at "
		"the end, in time (compaction after that is not in time, but in the bytes written); mixed with WAL, no "
		"sync; %s; verifies checksums",
		format_size(write_buffer(env), size, sizeof(size)),
		env->larger && !env->buffered ? "direct reads" : "buffered reads");
	return text;
}

static int rocks_close(struct engine *engine)
{
	struct rocks *r = (struct rocks *)engine;

	if (r->db)
		rocksdb_close(r->db);
	for (unsigned i = 0; i <= WRITE_DURABLE; i++)
		rocksdb_writeoptions_destroy(r->write[i]);
	rocksdb_flushoptions_destroy(r->flush);
	rocksdb_options_destroy(r->options);
	rocksdb_block_based_options_destroy(r->table);
	rocksdb_cache_destroy(r->cache);
	mem_free(r);
	return 0;
}

static int rocks_open(const struct engine_env *env, unsigned flags, struct engine **ret)
{
	struct rocks *r = mem_zalloc(sizeof(*r));
	char *err = NULL;

	if (!r)
		return -ENOMEM;
	r->engine.ops = &engine_rocksdb;

	r->cache = rocksdb_cache_create_lru(env->cache_bytes);
	r->table = rocksdb_block_based_options_create();
	rocksdb_block_based_options_set_block_cache(r->table, r->cache);
	rocksdb_block_based_options_set_filter_policy(r->table, rocksdb_filterpolicy_create_bloom_full(10));

	r->options = rocksdb_options_create();
	rocksdb_options_set_block_based_table_factory(r->options, r->table);
	rocksdb_options_set_create_if_missing(r->options, !!(flags & ENGINE_CREATE));
	rocksdb_options_set_compression(r->options, rocksdb_no_compression);
	rocksdb_options_set_write_buffer_size(r->options, write_buffer(env));
	rocksdb_options_increase_parallelism(r->options, 2);
	rocksdb_options_set_use_direct_reads(r->options, env->larger && !env->buffered);
	rocksdb_options_set_stats_dump_period_sec(r->options, 0);

	for (unsigned i = 0; i <= WRITE_DURABLE; i++)
		r->write[i] = rocksdb_writeoptions_create();
	rocksdb_writeoptions_disable_WAL(r->write[WRITE_LOAD], 1);
	rocksdb_writeoptions_set_sync(r->write[WRITE_DURABLE], 1);
	r->flush = rocksdb_flushoptions_create();
	rocksdb_flushoptions_set_wait(r->flush, 1);

	r->db = rocksdb_open(r->options, env->dir, &err);
	if (err) {
		rocks_close(&r->engine);
		return failed("open", err);
	}
	*ret = &r->engine;
	return 0;
}

static int rocks_durable(struct engine *engine)
{
	struct rocks *r = (struct rocks *)engine;
	char *err = NULL;

	rocksdb_flush(r->db, r->flush, &err);
	return err ? failed("flush", err) : 0;
}

static int rocks_rest(struct engine *engine)
{
	static const char *const pending[] = {
		"rocksdb.mem-table-flush-pending",
		"rocksdb.num-running-flushes",
		"rocksdb.compaction-pending",
		"rocksdb.num-running-compactions",
	};
	struct rocks *r = (struct rocks *)engine;
	int err = rocks_durable(engine);

	if (err)
		return err;
	for (unsigned quiet = 0; quiet < 3;) {
		uint64_t n = 0;

		for (unsigned i = 0; i < sizeof(pending) / sizeof(pending[0]); i++) {
			uint64_t v = 0;

			if (!rocksdb_property_int(r->db, pending[i], &v))
				n += v;
		}
		quiet = n ? 0 : quiet + 1;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return 0;
}

static int rocks_writer_open(struct engine *engine, struct writer **ret)
{
	struct rocks_writer *w = mem_zalloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->writer.engine = engine;
	w->batch = rocksdb_writebatch_create();
	*ret = &w->writer;
	return 0;
}

static void rocks_writer_close(struct writer *writer)
{
	struct rocks_writer *w = (struct rocks_writer *)writer;

	if (!w)
		return;
	rocksdb_writebatch_destroy(w->batch);
	mem_free(w);
}

static int rocks_write(struct writer *writer, const struct item *items, size_t n, enum write_how how)
{
	struct rocks_writer *w = (struct rocks_writer *)writer;
	struct rocks *r = (struct rocks *)writer->engine;
	char *err = NULL;

	rocksdb_writebatch_clear(w->batch);
	for (size_t i = 0; i < n; i++) {
		uint8_t key[KEY_SIZE];

		key_bytes(items[i].key, key);
		rocksdb_writebatch_put(w->batch, (const char *)key, KEY_SIZE, (const char *)items[i].val, VALUE_SIZE);
	}
	rocksdb_write(r->db, r->write[how], w->batch, &err);
	return err ? failed("write", err) : 0;
}

static void rocks_reader_close(struct reader *reader)
{
	struct rocks_reader *r = (struct rocks_reader *)reader;

	if (!r)
		return;
	if (r->iter)
		rocksdb_iter_destroy(r->iter);
	if (r->snapshot)
		rocksdb_release_snapshot(((struct rocks *)reader->engine)->db, r->snapshot);
	rocksdb_readoptions_destroy(r->options);
	mem_free(r);
}

static int rocks_reader_open(struct engine *engine, bool snapshot, struct reader **ret)
{
	struct rocks *e = (struct rocks *)engine;
	struct rocks_reader *r = mem_zalloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->reader.engine = engine;
	r->options = rocksdb_readoptions_create();
	if (snapshot) {
		r->snapshot = rocksdb_create_snapshot(e->db);
		rocksdb_readoptions_set_snapshot(r->options, r->snapshot);
	}
	*ret = &r->reader;
	return 0;
}

static int rocks_get(struct reader *reader, struct key k, void *val)
{
	struct rocks_reader *r = (struct rocks_reader *)reader;
	rocksdb_pinnableslice_t *found;
	uint8_t key[KEY_SIZE];
	char *err = NULL;
	size_t len;

	key_bytes(k, key);
	found = rocksdb_get_pinned(((struct rocks *)reader->engine)->db, r->options, (const char *)key, KEY_SIZE, &err);
	if (err)
		return failed("get", err);
	if (!found)
		return -ENOENT;
	memcpy(val, rocksdb_pinnableslice_value(found, &len), VALUE_SIZE);
	rocksdb_pinnableslice_destroy(found);
	return 0;
}

static int rocks_scan(struct reader *reader, struct key from, uint64_t limit, uint64_t *ret_n, uint64_t *ret_sum)
{
	struct rocks_reader *r = (struct rocks_reader *)reader;
	rocksdb_iterator_t *iter = r->iter;
	uint64_t n = 0, sum = 0;
	uint8_t key[KEY_SIZE];
	char *err = NULL;
	size_t len;

	if (!iter)
		iter = rocksdb_create_iterator(((struct rocks *)reader->engine)->db, r->options);
	key_bytes(from, key);
	rocksdb_iter_seek(iter, (const char *)key, KEY_SIZE);
	while (n < limit && rocksdb_iter_valid(iter)) {
		sum += item_sum(rocksdb_iter_value(iter, &len));
		if (++n < limit)
			rocksdb_iter_next(iter);
	}
	rocksdb_iter_get_error(iter, &err);
	if (r->snapshot)
		r->iter = iter;
	else
		rocksdb_iter_destroy(iter);
	*ret_n = n;
	*ret_sum = sum;
	return err ? failed("scan", err) : 0;
}

const struct engine_ops engine_rocksdb = {
	.name = "rocksdb",
	.settings = settings,
	.open = rocks_open,
	.close = rocks_close,
	.durable = rocks_durable,
	.rest = rocks_rest,
	.writer_open = rocks_writer_open,
	.write = rocks_write,
	.writer_close = rocks_writer_close,
	.reader_open = rocks_reader_open,
	.get = rocks_get,
	.scan = rocks_scan,
	.reader_close = rocks_reader_close,
};

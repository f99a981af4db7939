/*
 * LMDB. Set up as follows:
 *
 *  - The map is large from the start and never grows. LMDB has no cache of its own: it reads through the host's page
 *    cache, which is all of the machine's free memory unless the whole benchmark is confined (README.md says how).
 *    Where the others are held to a cache smaller than the data, it is not.
 *  - Durable commits: the default, two synchronous writes a transaction. Loads: MDB_NOSYNC, transactions of LOAD_TXN
 *    items, one forced sync at the end, inside the time; in key order with MDB_APPEND, its hint for that. Mixed:
 *    MDB_NOSYNC.
 *  - Cold single reads: MDB_NORDAHEAD, as its manual recommends for them.
 *  - Reads: one read transaction a thread; a fresh state is mdb_txn_renew and mdb_txn_reset, its cheapest way.
 *  - LMDB verifies no checksums.
 */
#include <errno.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "tests/bench/bench.h"

#define LOAD_TXN 10000u

struct lmdb {
	struct engine engine;
	MDB_env *env;
	MDB_dbi dbi;
	unsigned put_flags;
	/* The transaction of a load, which several writes share; by one writer. */
	MDB_txn *load;
	size_t load_items;
};

struct lmdb_writer {
	struct writer writer;
};

struct lmdb_reader {
	struct reader reader;
	bool snapshot;
	MDB_txn *txn;
	MDB_cursor *cursor;
};

static int failed(const char *what, int rc)
{
	fprintf(stderr, "bench_engine: lmdb: %s: %s\n", what, mdb_strerror(rc));
	return rc > 0 ? -rc : -EIO;
}

static const char *settings(const struct engine_env *env)
{
	(void)env;
	return "LMDB 0.9: cache is the host's page cache, whatever that has; default sync for durable commits; loads "
	       "and mixed with MDB_NOSYNC (loads: transactions of 10000 items, one forced sync at the end, in time), "
	       "MDB_APPEND in key order; MDB_NORDAHEAD for cold single reads; verifies no checksums";
}

static int lmdb_close(struct engine *engine)
{
	struct lmdb *l = (struct lmdb *)engine;

	if (l->load)
		mdb_txn_abort(l->load);
	mdb_env_close(l->env);
	mem_free(l);
	return 0;
}

static int lmdb_open(const struct engine_env *env, unsigned flags, struct engine **ret)
{
	unsigned env_flags = MDB_NOTLS;
	struct lmdb *l = mem_zalloc(sizeof(*l));
	MDB_txn *txn;
	int rc;

	if (!l)
		return -ENOMEM;
	l->engine.ops = &engine_lmdb;
	if (flags & ENGINE_NO_SYNC)
		env_flags |= MDB_NOSYNC;
	if (flags & ENGINE_POINTS)
		env_flags |= MDB_NORDAHEAD;
	if ((flags & ENGINE_ORDERED) && !env->no_hint)
		l->put_flags |= MDB_APPEND;
	rc = mdb_env_create(&l->env);
	if (rc) {
		mem_free(l);
		return failed("mdb_env_create", rc);
	}
	rc = mdb_env_set_mapsize(l->env, (env->data_bytes * 8 + (UINT64_C(1) << 30)) & ~(uint64_t)4095);
	if (!rc)
		rc = mdb_env_open(l->env, env->dir, env_flags, 0666);
	if (!rc)
		rc = mdb_txn_begin(l->env, NULL, 0, &txn);
	if (!rc) {
		rc = mdb_dbi_open(txn, NULL, 0, &l->dbi);
		if (rc)
			mdb_txn_abort(txn);
		else
			rc = mdb_txn_commit(txn);
	}
	if (rc) {
		lmdb_close(&l->engine);
		return failed("open", rc);
	}
	*ret = &l->engine;
	return 0;
}

static int load_commit(struct lmdb *l)
{
	int rc;

	if (!l->load)
		return 0;
	rc = mdb_txn_commit(l->load);
	l->load = NULL;
	l->load_items = 0;
	return rc ? failed("mdb_txn_commit", rc) : 0;
}

static int lmdb_durable(struct engine *engine)
{
	struct lmdb *l = (struct lmdb *)engine;
	int err, rc;

	err = load_commit(l);
	if (err)
		return err;
	rc = mdb_env_sync(l->env, 1);
	return rc ? failed("mdb_env_sync", rc) : 0;
}

static int lmdb_writer_open(struct engine *engine, struct writer **ret)
{
	struct lmdb_writer *w = mem_zalloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->writer.engine = engine;
	*ret = &w->writer;
	return 0;
}

static void lmdb_writer_close(struct writer *writer)
{
	mem_free(writer);
}

static int put_all(struct lmdb *l, MDB_txn *txn, const struct item *items, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t key[KEY_SIZE];
		MDB_val k = { KEY_SIZE, key };
		MDB_val v = { VALUE_SIZE, (void *)items[i].val };
		int rc;

		key_bytes(items[i].key, key);
		rc = mdb_put(txn, l->dbi, &k, &v, l->put_flags);
		if (rc)
			return rc;
	}
	return 0;
}

static int lmdb_write(struct writer *writer, const struct item *items, size_t n, enum write_how how)
{
	struct lmdb *l = (struct lmdb *)writer->engine;
	MDB_txn *txn = how == WRITE_LOAD ? l->load : NULL;
	int rc;

	if (!txn) {
		rc = mdb_txn_begin(l->env, NULL, 0, &txn);
		if (rc)
			return failed("mdb_txn_begin", rc);
	}
	rc = put_all(l, txn, items, n);
	if (rc) {
		mdb_txn_abort(txn);
		l->load = NULL;
		return failed("mdb_put", rc);
	}
	if (how == WRITE_LOAD) {
		l->load = txn;
		l->load_items += n;
		return l->load_items >= LOAD_TXN ? load_commit(l) : 0;
	}
	rc = mdb_txn_commit(txn);
	return rc ? failed("mdb_txn_commit", rc) : 0;
}

static void lmdb_reader_close(struct reader *reader)
{
	struct lmdb_reader *r = (struct lmdb_reader *)reader;

	if (!r)
		return;
	if (r->cursor)
		mdb_cursor_close(r->cursor);
	if (r->txn)
		mdb_txn_abort(r->txn);
	mem_free(r);
}

static int lmdb_reader_open(struct engine *engine, bool snapshot, struct reader **ret)
{
	struct lmdb *l = (struct lmdb *)engine;
	struct lmdb_reader *r = mem_zalloc(sizeof(*r));
	int rc;

	if (!r)
		return -ENOMEM;
	r->reader.engine = engine;
	r->snapshot = snapshot;
	rc = mdb_txn_begin(l->env, NULL, MDB_RDONLY, &r->txn);
	if (!rc)
		rc = mdb_cursor_open(r->txn, l->dbi, &r->cursor);
	if (rc) {
		lmdb_reader_close(&r->reader);
		return failed("read transaction", rc);
	}
	if (!snapshot)
		mdb_txn_reset(r->txn);
	*ret = &r->reader;
	return 0;
}

static int lmdb_get(struct reader *reader, struct key k, void *val)
{
	struct lmdb *l = (struct lmdb *)reader->engine;
	struct lmdb_reader *r = (struct lmdb_reader *)reader;
	uint8_t bytes[KEY_SIZE];
	MDB_val key = { KEY_SIZE, bytes };
	MDB_val found;
	int rc = 0;

	key_bytes(k, bytes);
	if (!r->snapshot)
		rc = mdb_txn_renew(r->txn);
	if (!rc)
		rc = mdb_get(r->txn, l->dbi, &key, &found);
	if (!rc)
		memcpy(val, found.mv_data, VALUE_SIZE);
	if (!r->snapshot)
		mdb_txn_reset(r->txn);
	if (rc == MDB_NOTFOUND)
		return -ENOENT;
	return rc ? failed("mdb_get", rc) : 0;
}

static int lmdb_scan(struct reader *reader, struct key from, uint64_t limit, uint64_t *ret_n, uint64_t *ret_sum)
{
	struct lmdb_reader *r = (struct lmdb_reader *)reader;
	uint8_t bytes[KEY_SIZE];
	MDB_val key = { KEY_SIZE, bytes };
	uint64_t n = 0, sum = 0;
	MDB_val val;
	int rc = 0;

	key_bytes(from, bytes);
	if (!r->snapshot)
		rc = mdb_txn_renew(r->txn);
	if (!rc && !r->snapshot)
		rc = mdb_cursor_renew(r->txn, r->cursor);
	if (!rc)
		rc = mdb_cursor_get(r->cursor, &key, &val, MDB_SET_RANGE);
	while (!rc) {
		sum += item_sum(val.mv_data);
		if (++n == limit)
			break;
		rc = mdb_cursor_get(r->cursor, &key, &val, MDB_NEXT);
	}
	if (!r->snapshot)
		mdb_txn_reset(r->txn);
	*ret_n = n;
	*ret_sum = sum;
	return rc && rc != MDB_NOTFOUND ? failed("mdb_cursor_get", rc) : 0;
}

const struct engine_ops engine_lmdb = {
	.name = "lmdb",
	.settings = settings,
	.open = lmdb_open,
	.close = lmdb_close,
	.durable = lmdb_durable,
	.rest = lmdb_durable,
	.writer_open = lmdb_writer_open,
	.write = lmdb_write,
	.writer_close = lmdb_writer_close,
	.reader_open = lmdb_reader_open,
	.get = lmdb_get,
	.scan = lmdb_scan,
	.reader_close = lmdb_reader_close,
};

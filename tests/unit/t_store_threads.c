/*
 * t_store_threads.c - everything at once
 *
 * Transfers between accounts, transactions, snapshots, scans, data, syncs and checkpoints from many threads, with the
 * store's own threads running. What must hold at every moment: the sum over all accounts in every frozen view and
 * snapshot; data read is data written; what was said to be durable stays so. Meant for the thread sanitizer.
 *
 * ARBOR_THREADS_SECONDS: how long all of it takes together (5).
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"
#include "tests/kit/test.h"
#include "wal/store.h"

#define ACCOUNTS 300u
#define ACCOUNT_INO 1000u
#define FILES 40u
#define FILE_INO 5000u
#define OPENING_BALANCE 1000u
#define TOTAL ((uint64_t)ACCOUNTS * OPENING_BALANCE)

struct shared {
	struct store *store;
	atomic_bool stop;
	atomic_uint_fast64_t done[8]; /* by worker kind */
	atomic_uint_fast64_t next_tag;
	atomic_uint_fast64_t conflicts, full;
	uint64_t seed;
};

struct worker {
	struct shared *sh;
	void (*step)(struct shared *, struct rng *, unsigned number);
	unsigned kind, number;
	pthread_t thread;
};

/* A thread cannot longjmp out of a test. */
#define expect(cond)                                                                                              \
	do {                                                                                                      \
		if (!(cond)) {                                                                                    \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond);                                       \
			kv_log_print(stdout);                                                                     \
			fflush(stdout);                                                                           \
			abort();                                                                                  \
		}                                                                                                 \
	} while (0)

static struct key account(uint64_t i)
{
	return key_make(ACCOUNT_INO + i, KVT_BYTES, 0);
}

/* Room runs out now and then: the device is small and the reclaiming lags behind. */
static bool refused(struct shared *sh, int err)
{
	if (err != -ENOSPC && err != -EFBIG)
		return false;
	atomic_fetch_add(&sh->full, 1);
	return true;
}

/* ---- accounts ---- */

/*
 * Each value is unlike any other, or two sides that happen to arrive at the same balance would be no conflict. Padded by
 * what they hold, so that items have different sizes and nodes split and merge.
 */
static int put_balance(struct batch *b, uint64_t i, uint64_t balance, uint64_t unique)
{
	uint8_t val[128] = { 0 };

	memcpy(val, &balance, sizeof(balance));
	memcpy(val + sizeof(balance), &unique, sizeof(unique));
	return batch_put(b, account(i), val, sizeof(balance) + sizeof(unique) + (i * 7 + balance) % 100);
}

static int get_balance(struct batch *b, uint64_t i, uint64_t *ret)
{
	const void *val;
	size_t len;
	int err = batch_get(b, account(i), &val, &len);

	if (!err)
		memcpy(ret, val, sizeof(*ret));
	return err;
}

static int transfer(struct view *v, struct rng *rng, uint64_t *ret_lsn)
{
	uint64_t from = rng_below(rng, ACCOUNTS), to = rng_below(rng, ACCOUNTS), a, b, amount;
	struct batch *batch;
	int err = batch_open(v, &batch);

	if (err)
		return err;
	do {
		err = batch_lock(batch);
		if (!err)
			err = get_balance(batch, from, &a);
		if (!err)
			err = get_balance(batch, to, &b);
		if (err)
			continue;
		amount = rng_below(rng, a + 1);
		if (from == to) {
			batch_cancel(batch);
			break;
		}
		err = put_balance(batch, from, a - amount, rng_next(rng));
		if (!err)
			err = put_balance(batch, to, b + amount, rng_next(rng));
		if (!err)
			err = batch_commit(batch, ret_lsn);
	} while (err == -EAGAIN);
	batch_close(batch);
	return err;
}

static uint64_t sum_of(struct view *v)
{
	struct scan *scan;
	struct key key;
	const void *val;
	uint64_t sum = 0, n = 0;
	size_t len;
	int err;

	expect(scan_open(v, account(0), account(ACCOUNTS), &scan) == 0);
	while ((err = scan_next(scan, &key, &val, &len)) == 0) {
		uint64_t balance;

		memcpy(&balance, val, sizeof(balance));
		sum += balance;
		n++;
	}
	expect(err > 0);
	scan_close(scan);
	expect(n == ACCOUNTS);
	return sum;
}

static void step_transfer(struct shared *sh, struct rng *rng, unsigned number)
{
	uint64_t lsn = 0;
	struct store_status st;
	int err = transfer(store_live(sh->store), rng, &lsn);

	(void)number;
	if (refused(sh, err))
		return;
	expect(err == 0);
	if (lsn && rng_chance(rng, 1, 8)) {
		expect(store_sync_lsn(sh->store, lsn) == 0);
		store_status(sh->store, &st);
		expect(st.lsn_durable > lsn);
	}
}

static void step_frozen(struct shared *sh, struct rng *rng, unsigned number)
{
	struct view *v;
	int err = view_freeze(sh->store, &v);

	(void)number;
	if (refused(sh, err))
		return;
	expect(err == 0);
	expect(sum_of(v) == TOTAL);
	if (rng_chance(rng, 1, 2))
		usleep(500);
	expect(sum_of(v) == TOTAL);
	view_close(v);
}

static void step_txn(struct shared *sh, struct rng *rng, unsigned number)
{
	const struct txn_commit_options opt = { .no_sync = rng_chance(rng, 1, 2) };
	struct view *v;
	int err = txn_begin(sh->store, &v);

	(void)number;
	if (refused(sh, err))
		return;
	expect(err == 0);
	for (uint64_t i = rng_range(rng, 1, 4); !err && i > 0; i--)
		err = transfer(v, rng, NULL);
	if (!err)
		expect(sum_of(v) == TOTAL);
	if (!err && rng_chance(rng, 3, 4))
		err = txn_commit(v, &merge_by_key, NULL, &opt);
	view_close(v);
	if (err == -ETXNCONFLICT || err == -ESTALE) {
		atomic_fetch_add(&sh->conflicts, 1);
		return;
	}
	if (!refused(sh, err))
		expect(err == 0);
}

/* ---- data ---- */

static int write_file(struct view *v, uint64_t ino, uint32_t blocks, uint64_t tag, uint64_t *ret_lsn)
{
	uint8_t val[KV_VALUE_MAX];
	uint32_t sums[256];
	struct batch *b;
	struct extent e;
	uint8_t *buf;
	size_t len;
	int err = batch_open(v, &b);

	if (err)
		return err;
	err = batch_alloc(b, blocks, false, &e);
	if (err)
		goto out;
	buf = mem_alloc_blocks((size_t)e.blocks * BLOCK_SIZE);
	expect(buf);
	len = kv_extent_make(val, e.addr, e.blocks, tag, 0, buf);
	for (uint32_t i = 0; i < e.blocks; i++)
		sums[i] = le32_get(((struct kv_extent_val *)val)->sums[i]);
	err = batch_data(b, e.addr, e.blocks, buf, sums);
	if (!err)
		err = batch_put(b, key_make(ino, KVT_EXTENT, 0), val, len);
	if (!err)
		err = batch_commit(b, ret_lsn);
out:
	batch_close(b);
	return err;
}

static int clone_file(struct view *v, uint64_t from, uint64_t to)
{
	struct batch *b;
	const void *val;
	size_t len;
	int err = batch_open(v, &b);

	if (err)
		return err;
	do {
		err = batch_lock(b);
		if (!err)
			err = batch_get(b, key_make(from, KVT_EXTENT, 0), &val, &len);
		if (!err)
			err = batch_put(b, key_make(to, KVT_EXTENT, 0), val, len);
		if (!err)
			err = batch_commit(b, NULL);
	} while (err == -EAGAIN);
	batch_close(b);
	return err == -ENOENT ? 0 : err;
}

static int delete_file(struct view *v, uint64_t ino)
{
	struct batch *b;
	int err = batch_open(v, &b);

	if (err)
		return err;
	batch_releases(b);
	err = batch_del(b, key_make(ino, KVT_EXTENT, 0));
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

/* Item and data belong together, whatever happens to the file between the two reads. */
static void read_file(struct view *v, uint64_t ino)
{
	static _Thread_local _Alignas(BLOCK_SIZE) uint8_t buf[32 * BLOCK_SIZE];
	uint8_t val[KV_VALUE_MAX];
	const struct kv_extent_val *e = (const struct kv_extent_val *)val;
	unsigned cookie = view_read_begin(v);
	uint32_t sums[256], bad;
	size_t len;
	int err = view_get(v, key_make(ino, KVT_EXTENT, 0), val, sizeof(val), &len);

	expect(err == 0 || err == -ENOENT);
	if (!err) {
		for (uint32_t i = 0; i < le32_get(e->blocks); i++)
			sums[i] = le32_get(e->sums[i]);
		err = view_read(v, le64_get(e->addr), le32_get(e->blocks), buf, sums);
		if (err)
			printf("# view %" PRIu64 ": file %" PRIu64 " at %" PRIu64 "+%u, born %" PRIx64 ": error %d\n", view_id(v),
			       ino, le64_get(e->addr), le32_get(e->blocks), le64_get(e->birth), -err);
		expect(err == 0);
		expect(kv_data_right(val, buf, &bad));
	}
	view_read_end(v, cookie);
}

static void step_write(struct shared *sh, struct rng *rng, unsigned number)
{
	struct view *v = store_live(sh->store);
	uint64_t ino = FILE_INO + rng_below(rng, FILES), lsn = 0;
	int err;

	(void)number;
	switch (rng_below(rng, 6)) {
	case 0:
		err = delete_file(v, ino);
		break;
	case 1:
		err = clone_file(v, ino, FILE_INO + rng_below(rng, FILES));
		break;
	default:
		err = write_file(v, ino, rng_chance(rng, 1, 6) ? 20 : (uint32_t)rng_range(rng, 1, 3),
				 atomic_fetch_add(&sh->next_tag, 1), &lsn);
		break;
	}
	if (refused(sh, err)) {
		(void)delete_file(v, FILE_INO + rng_below(rng, FILES));
		return;
	}
	expect(err == 0);
	if (rng_chance(rng, 1, 10))
		expect(store_sync(sh->store) == 0);
}

static void step_read(struct shared *sh, struct rng *rng, unsigned number)
{
	struct view *frozen = NULL;

	(void)number;
	if (rng_chance(rng, 1, 10) && view_freeze(sh->store, &frozen) == 0) {
		for (uint64_t i = 0; i < FILES; i += 5)
			read_file(frozen, FILE_INO + i);
		view_close(frozen);
	}
	read_file(store_live(sh->store), FILE_INO + rng_below(rng, FILES));
}

/* ---- the store as a whole ---- */

static void step_snapshot(struct shared *sh, struct rng *rng, unsigned number)
{
	struct view *v;
	char name[16];
	uint64_t id;
	int err;

	snprintf(name, sizeof(name), "s%u-%u", number, (unsigned)rng_below(rng, 2));
	err = snapshot_create(sh->store, name, &id);
	if (err == -EEXIST) {
		err = snapshot_open(sh->store, name, &v);
		expect(err == 0);
		expect(sum_of(v) == TOTAL);
		for (uint64_t i = 0; i < FILES; i += 7)
			read_file(v, FILE_INO + i);
		expect(snapshot_delete(sh->store, name) == -EBUSY);
		view_close(v);
		err = snapshot_delete(sh->store, name);
		expect(err == 0);
	}
	if (!refused(sh, err))
		expect(err == 0);
	usleep(2000);
}

static void step_checkpoint(struct shared *sh, struct rng *rng, unsigned number)
{
	static _Thread_local uint64_t last_durable;
	struct store_status st;

	(void)number;
	if (rng_chance(rng, 1, 4))
		expect(store_checkpoint(sh->store) == 0);
	store_status(sh->store, &st);
	expect(st.error == 0);
	expect(st.lsn_durable >= last_durable);
	expect(st.lsn_durable <= st.lsn_next);
	last_durable = st.lsn_durable;
	usleep(1000);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng rng;

	rng_seed(&rng, rng_mix(w->sh->seed, w->kind * 16 + w->number));
	while (!atomic_load(&w->sh->stop)) {
		w->step(w->sh, &rng, w->number);
		atomic_fetch_add(&w->sh->done[w->kind], 1);
	}
	return NULL;
}

static const struct {
	const char *name;
	void (*step)(struct shared *, struct rng *, unsigned number);
	unsigned threads;
} kinds[] = {
	{ "transfers", step_transfer, 3 }, { "frozen views", step_frozen, 1 }, { "transactions", step_txn, 2 },
	{ "writes", step_write, 2 },	   { "reads", step_read, 2 },	       { "snapshots", step_snapshot, 1 },
	{ "checkpoints", step_checkpoint, 1 },
};

static void open_accounts(struct store *s)
{
	struct batch *b;

	assert_int_equal(batch_open(store_live(s), &b), 0);
	for (uint64_t i = 0; i < ACCOUNTS; i++) {
		assert_int_equal(put_balance(b, i, OPENING_BALANCE, i), 0);
		if (i % 50 == 49)
			assert_int_equal(batch_commit(b, NULL), 0);
	}
	batch_close(b);
}

static void run_on(struct bdev *dev, double seconds)
{
	const struct store_mkfs_options mkfs = { .node_size = 4096, .log_blocks = 256, .seed = 1 };
	const struct store_options opt = { .cache_bytes = 1 << 20, .data_bytes = 1 << 20, .commit_ms = 20, .discard = true,
					   .records = &kv_records };
	struct shared sh = { .seed = 1 };
	struct worker workers[32];
	struct check_result res;
	unsigned n = 0;
	struct rng rng;

	sh.seed = rng_seed_env(&rng, 1);
	atomic_init(&sh.next_tag, 1);
	assert_int_equal(store_mkfs(dev, &mkfs), 0);
	assert_int_equal(store_open(dev, &opt, &sh.store), 0);
	open_accounts(sh.store);
	for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
		for (unsigned i = 0; i < kinds[k].threads; i++, n++) {
			workers[n] = (struct worker){ .sh = &sh, .step = kinds[k].step, .kind = k, .number = i };
			assert_int_equal(pthread_create(&workers[n].thread, NULL, work, &workers[n]), 0);
		}
	usleep((useconds_t)(seconds * 1e6));
	atomic_store(&sh.stop, true);
	for (unsigned i = 0; i < n; i++)
		pthread_join(workers[i].thread, NULL);
	for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
		printf("# %s: %" PRIuFAST64 "\n", kinds[k].name, atomic_load(&sh.done[k]));
	printf("# conflicts %" PRIuFAST64 ", refused for want of room %" PRIuFAST64 "\n", atomic_load(&sh.conflicts),
	       atomic_load(&sh.full));

	assert_int_equal(store_check(sh.store, &res), 0);
	assert_int_equal(res.errors, 0);
	assert_true(sum_of(store_live(sh.store)) == TOTAL);
	for (uint64_t i = 0; i < FILES; i++)
		read_file(store_live(sh.store), FILE_INO + i);
	/* Killed, not closed: the log is replayed. */
	assert_int_equal(store_sync(sh.store), 0);
	store_crash(sh.store);
	assert_int_equal(store_open(dev, &opt, &sh.store), 0);
	assert_true(sum_of(store_live(sh.store)) == TOTAL);
	for (uint64_t i = 0; i < FILES; i++)
		read_file(store_live(sh.store), FILE_INO + i);
	assert_int_equal(store_check(sh.store, &res), 0);
	assert_int_equal(store_close(sh.store), 0);
}

static double seconds(void)
{
	const char *env = getenv("ARBOR_THREADS_SECONDS");

	return env && *env ? strtod(env, NULL) : 5;
}

static void everything_at_once_on_a_simulated_disk(void **state)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = 6000, .no_trace = true, .shuffle = true });

	(void)state;
	run_on(simdev_bdev(disk), seconds() / 2);
	simdev_free(disk);
}

static void everything_at_once_on_a_file(void **state)
{
	const char *tmp = getenv("TMPDIR");
	struct bdev *dev;
	char path[256];
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "%s/arbor-threads-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)6000 << BLOCK_SHIFT), 0);
	close(fd);
	assert_int_equal(bdev_file_open(path, &(struct bdev_file_options){ 0 }, &dev, NULL), 0);
	run_on(dev, seconds() / 2);
	bdev_close(dev);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_at_once_on_a_simulated_disk),
		cmocka_unit_test(everything_at_once_on_a_file),
	};

	kv_log_quiet();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The workloads. A group opens the database of one engine, measures its rows and closes it, so that nothing of one
 * engine goes on in the background while another is measured.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "btree/mem.h"
#include "tests/bench/bench.h"

#define SCAN_ITEMS 100u

const struct row_info row_info[ROWS] = {
	[ROW_LOAD_ORDER] = { "load, key order", "items/s", "empty to durable", 0.8, 1.0 },
	[ROW_LOAD_RANDOM] = { "load, random order", "items/s", "empty to durable", 0.8, 1.0 },
	[ROW_GET_SNAPSHOT] = { "read, warm, snapshot", "reads/s", "one state for all", 0.7, 0, .small_only = true },
	[ROW_GET_FRESH] = { "read, warm, fresh", "reads/s", "newest state each", 0.7, 0, .small_only = true },
	[ROW_SCAN_ALL] = { "scan all, warm", "items/s", "", 0.8, 1.0 },
	[ROW_SCAN_100] = { "scan 100, warm", "items/s", "", 0.8, 1.0 },
	[ROW_GET_COLD] = { "read, cold", "reads/s", "", 0, 0 },
	[ROW_SCAN_ALL_COLD] = { "scan all, cold", "items/s", "", 0.8, 1.0 },
	[ROW_SCAN_100_COLD] = { "scan 100, cold", "items/s", "", 0.8, 1.0 },
	[ROW_COMMIT_1] = { "durable commit, 1 thread", "commits/s", "one item each", 1.0, 1.0 },
	[ROW_COMMIT_N] = { "durable commit, threads", "commits/s", "one item each", 1.0, 1.0 },
	[ROW_MIXED] = { "mixed, 2 threads", "ops/s", "half reads, half writes, no sync", 0, 0 },
};

static uint64_t written_now(const struct bench *b, struct engine *e)
{
	return b->ops->written ? b->ops->written(e) : process_written();
}

static int close_engine(const struct bench *b, struct engine *e, int err)
{
	int close_err = b->ops->close(e);

	return err ? err : close_err;
}

/* ---- loads ---- */

static int load_items(const struct bench *b, struct engine *e, const struct shuffle *order)
{
	struct item *items = mem_zalloc_array(b->batch, sizeof(*items));
	struct writer *w = NULL;
	int err;

	if (!items)
		return -ENOMEM;
	err = b->ops->writer_open(e, &w);
	for (uint64_t i = 0; i < b->items && !err;) {
		size_t n = 0;

		for (; n < b->batch && i < b->items; n++, i++)
			item_make(&items[n], order ? shuffle_at(order, i) : i, b->seed);
		err = b->ops->write(w, items, n, WRITE_LOAD);
	}
	if (!err)
		err = b->ops->durable(e);
	b->ops->writer_close(w);
	mem_free(items);
	return err;
}

/* Nothing was lost, nothing is there twice, and all is in order. */
static int check_load(const struct bench *b, struct engine *e)
{
	uint64_t n, sum, want = 0;
	struct reader *r;
	int err;

	err = b->ops->reader_open(e, true, &r);
	if (err)
		return err;
	err = b->ops->scan(r, KEY_MIN, UINT64_MAX, &n, &sum);
	b->ops->reader_close(r);
	if (err)
		return err;
	for (uint64_t i = 0; i < b->items; i++) {
		struct item item;

		item_make(&item, i, 0);
		want += item_sum(item.val);
	}
	if (n != b->items || sum != want) {
		fprintf(stderr, "bench_engine: %s: %llu items are there after a load of %llu\n", b->ops->name,
			(unsigned long long)n, (unsigned long long)b->items);
		return -EUCLEAN;
	}
	return 0;
}

static int load(const struct bench *b, unsigned flags, const struct shuffle *order, struct sample *ret)
{
	uint64_t written;
	struct engine *e;
	double start;
	int err;

	dir_remove(b->env.dir);
	err = dir_make(b->env.dir);
	if (!err)
		err = b->ops->open(&b->env, ENGINE_CREATE | ENGINE_NO_SYNC | flags, &e);
	if (err)
		return err;

	written = written_now(b, e);
	start = now_seconds();
	err = load_items(b, e, order);
	ret->seconds = now_seconds() - start;
	ret->ops = (double)b->items;
	ret->changed = b->items * ITEM_SIZE;
	if (!err)
		err = b->ops->rest(e);
	ret->written = written_now(b, e) - written;
	ret->space = dir_blocks_bytes(b->env.dir);
	ret->used = b->ops->used ? b->ops->used(e) : 0;
	if (!err)
		err = check_load(b, e);
	return close_engine(b, e, err);
}

static int group_load_order(const struct bench *b, struct sample *ret)
{
	return load(b, ENGINE_ORDERED, NULL, &ret[ROW_LOAD_ORDER]);
}

static int group_load_random(const struct bench *b, struct sample *ret)
{
	struct shuffle order;

	shuffle_init(&order, b->items, b->seed);
	return load(b, 0, &order, &ret[ROW_LOAD_RANDOM]);
}

/* ---- reads ---- */

static int get_random(const struct bench *b, struct reader *r, struct rng *rng)
{
	struct key key = item_key(rng_below(rng, b->items));
	uint8_t val[VALUE_SIZE];
	int err;

	err = b->ops->get(r, key, val);
	if (!err && !item_value_right(key, val))
		err = -EUCLEAN;
	if (err == -ENOENT || err == -EUCLEAN)
		fprintf(stderr, "bench_engine: %s: a value is %s\n", b->ops->name,
			err == -ENOENT ? "missing" : "wrong");
	return err;
}

/* Until `ops` are done or the time is over. */
static int gets(const struct bench *b, struct engine *e, bool snapshot, uint64_t ops, double seconds,
		struct sample *ret)
{
	struct reader *r;
	struct rng rng;
	uint64_t n = 0;
	double start;
	int err;

	rng_seed(&rng, rng_mix(b->seed, 1));
	err = b->ops->reader_open(e, snapshot, &r);
	if (err)
		return err;
	start = now_seconds();
	do {
		for (unsigned i = 0; i < 64 && !err; i++)
			err = get_random(b, r, &rng);
		n += 64;
		ret->seconds = now_seconds() - start;
	} while (!err && n < ops && ret->seconds < seconds);
	ret->ops = (double)n;
	b->ops->reader_close(r);
	return err;
}

/* Whole scans, or scans of SCAN_ITEMS from random places, until `scans` are done or the time is over. */
static int scans(const struct bench *b, struct engine *e, bool whole, uint64_t scans_max, double seconds,
		 struct sample *ret)
{
	uint64_t items = 0, done = 0;
	struct reader *r;
	struct rng rng;
	double start;
	int err;

	rng_seed(&rng, rng_mix(b->seed, 2));
	err = b->ops->reader_open(e, true, &r);
	if (err)
		return err;
	start = now_seconds();
	do {
		struct key from = whole ? KEY_MIN : item_key(rng_below(&rng, b->items));
		uint64_t n, sum;

		err = b->ops->scan(r, from, whole ? UINT64_MAX : SCAN_ITEMS, &n, &sum);
		if (!err && whole && n != b->items) {
			fprintf(stderr, "bench_engine: %s: a scan found %llu items of %llu\n", b->ops->name,
				(unsigned long long)n, (unsigned long long)b->items);
			err = -EUCLEAN;
		}
		items += n;
		done++;
		ret->seconds = now_seconds() - start;
	} while (!err && done < scans_max && ret->seconds < seconds);
	ret->ops = (double)items;
	b->ops->reader_close(r);
	return err;
}

static int group_warm(const struct bench *b, struct sample *ret)
{
	struct sample unused;
	struct engine *e;
	int err;

	err = b->ops->open(&b->env, 0, &e);
	if (err)
		return err;
	err = scans(b, e, true, 1, 0, &unused);
	if (!err)
		err = gets(b, e, true, UINT64_MAX, b->seconds / 2, &unused);
	if (!err)
		err = gets(b, e, true, UINT64_MAX, b->seconds, &ret[ROW_GET_SNAPSHOT]);
	if (!err)
		err = gets(b, e, false, UINT64_MAX, b->seconds, &ret[ROW_GET_FRESH]);
	if (!err)
		err = scans(b, e, true, UINT64_MAX, b->seconds, &ret[ROW_SCAN_ALL]);
	if (!err)
		err = scans(b, e, false, UINT64_MAX, b->seconds, &ret[ROW_SCAN_100]);
	return close_engine(b, e, err);
}

/* A read of an empty cache must stay one: few enough that hardly two fall on one leaf. */
static uint64_t cold_ops(const struct bench *b)
{
	uint64_t n = b->items / 400;

	return n < 128 ? 128 : n > 4096 ? 4096 : n;
}

static int open_cold(const struct bench *b, unsigned flags, struct engine **ret)
{
	dir_drop_caches(b->env.dir, b->drop_host);
	return b->ops->open(&b->env, flags, ret);
}

static int group_get_cold(const struct bench *b, struct sample *ret)
{
	struct engine *e;
	int err;

	err = open_cold(b, ENGINE_POINTS, &e);
	if (err)
		return err;
	err = gets(b, e, true, cold_ops(b), b->seconds * 4, &ret[ROW_GET_COLD]);
	return close_engine(b, e, err);
}

static int group_scan_all_cold(const struct bench *b, struct sample *ret)
{
	struct engine *e;
	int err;

	err = open_cold(b, 0, &e);
	if (err)
		return err;
	err = scans(b, e, true, 1, 0, &ret[ROW_SCAN_ALL_COLD]);
	return close_engine(b, e, err);
}

static int group_scan_100_cold(const struct bench *b, struct sample *ret)
{
	struct engine *e;
	int err;

	err = open_cold(b, 0, &e);
	if (err)
		return err;
	err = scans(b, e, false, cold_ops(b) / 2, b->seconds * 4, &ret[ROW_SCAN_100_COLD]);
	return close_engine(b, e, err);
}

/* ---- several threads ---- */

struct crew {
	const struct bench *b;
	struct engine *engine;
	pthread_barrier_t start;
	atomic_bool stop;
	atomic_int err;
	bool durable; /* all durable writes; else half reads, half writes that nobody waits for */
};

struct member {
	struct crew *crew;
	pthread_t thread;
	unsigned number;
	uint64_t reads, writes;
};

static int member_step(struct member *m, struct writer *w, struct reader *r, struct rng *rng)
{
	const struct bench *b = m->crew->b;
	struct item item;

	if (!m->crew->durable && rng_chance(rng, 1, 2)) {
		m->reads++;
		return get_random(b, r, rng);
	}
	item_make(&item, rng_below(rng, b->items), rng_next(rng));
	m->writes++;
	return b->ops->write(w, &item, 1, m->crew->durable ? WRITE_DURABLE : WRITE_APPLIED);
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct crew *c = m->crew;
	struct writer *w = NULL;
	struct reader *r = NULL;
	struct rng rng;
	int err;

	rng_seed(&rng, rng_mix(c->b->seed, 100 + m->number));
	err = c->b->ops->writer_open(c->engine, &w);
	if (!err)
		err = c->b->ops->reader_open(c->engine, false, &r);
	pthread_barrier_wait(&c->start);
	while (!err && !atomic_load_explicit(&c->stop, memory_order_relaxed))
		err = member_step(m, w, r, &rng);
	if (err) {
		atomic_store(&c->err, err);
		atomic_store(&c->stop, true);
	}
	c->b->ops->reader_close(r);
	c->b->ops->writer_close(w);
	return NULL;
}

static void sleep_until(double end, const atomic_bool *stop)
{
	while (now_seconds() < end && !atomic_load(stop))
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

static int crew_run(const struct bench *b, struct engine *e, unsigned threads, bool durable, struct sample *ret)
{
	struct crew crew = { .b = b, .engine = e, .durable = durable };
	struct member *members = mem_zalloc_array(threads, sizeof(*members));
	uint64_t written = written_now(b, e);
	uint64_t reads = 0, writes = 0;
	double start;
	int err;

	if (!members)
		return -ENOMEM;
	pthread_barrier_init(&crew.start, NULL, threads + 1);
	for (unsigned i = 0; i < threads; i++) {
		members[i] = (struct member){ .crew = &crew, .number = i };
		err = pthread_create(&members[i].thread, NULL, member_main, &members[i]);
		if (err) {
			fprintf(stderr, "bench_engine: cannot start a thread\n");
			_Exit(1); /* those at the barrier would wait for ever */
		}
	}
	pthread_barrier_wait(&crew.start);
	start = now_seconds();
	sleep_until(start + b->seconds, &crew.stop);
	atomic_store(&crew.stop, true);
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(members[i].thread, NULL);
		reads += members[i].reads;
		writes += members[i].writes;
	}
	ret->seconds = now_seconds() - start;
	pthread_barrier_destroy(&crew.start);
	mem_free(members);

	err = atomic_load(&crew.err);
	if (!err)
		err = b->ops->rest(e);
	ret->ops = (double)(reads + writes);
	ret->written = written_now(b, e) - written;
	ret->changed = writes * ITEM_SIZE;
	return err;
}

static int group_commits(const struct bench *b, struct sample *ret)
{
	struct engine *e;
	int err;

	err = b->ops->open(&b->env, 0, &e);
	if (err)
		return err;
	err = crew_run(b, e, 1, true, &ret[ROW_COMMIT_1]);
	if (!err)
		err = crew_run(b, e, b->threads, true, &ret[ROW_COMMIT_N]);
	return close_engine(b, e, err);
}

static int group_mixed(const struct bench *b, struct sample *ret)
{
	struct engine *e;
	int err;

	err = b->ops->open(&b->env, ENGINE_NO_SYNC, &e);
	if (err)
		return err;
	err = crew_run(b, e, 2, false, &ret[ROW_MIXED]);
	return close_engine(b, e, err);
}

/* In this order: the second load makes the database that the rest use. */
const struct group groups[] = {
	{ "load-order", 1u << ROW_LOAD_ORDER, group_load_order },
	{ "load-random", 1u << ROW_LOAD_RANDOM, group_load_random },
	{ "warm", 1u << ROW_GET_SNAPSHOT | 1u << ROW_GET_FRESH | 1u << ROW_SCAN_ALL | 1u << ROW_SCAN_100, group_warm },
	{ "get-cold", 1u << ROW_GET_COLD, group_get_cold },
	{ "scan-cold", 1u << ROW_SCAN_ALL_COLD, group_scan_all_cold },
	{ "scan-100-cold", 1u << ROW_SCAN_100_COLD, group_scan_100_cold },
	{ "commit", 1u << ROW_COMMIT_1 | 1u << ROW_COMMIT_N, group_commits },
	{ "mixed", 1u << ROW_MIXED, group_mixed },
};
const unsigned n_groups = sizeof(groups) / sizeof(groups[0]);

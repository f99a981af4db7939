#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/failmem.h"
#include "tests/kit/logkit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define N 64u	   /* blocks of the log */
#define BASE 1000u /* data */

static struct logkit *kit_new(uint64_t blocks, unsigned ride_max, bool shuffle)
{
	struct logkit *k = calloc(1, sizeof(*k));

	assert_non_null(k);
	logkit_open(k, simdev_new(&(struct simdev_options){ .shuffle = shuffle }), blocks, ride_max, 0);
	return k;
}

static void kit_free(struct logkit *k)
{
	logkit_close(k);
	simdev_free(k->sd);
	free(k);
}

static int setup(void **state)
{
	*state = kit_new(N, 0, false);
	return 0;
}

static int setup_shuffled(void **state)
{
	*state = kit_new(N, 0, true);
	return 0;
}

static int teardown(void **state)
{
	kit_free(*state);
	return 0;
}

struct cost {
	uint64_t writes, flushes;
};

static struct cost cost(struct logkit *k)
{
	return (struct cost){ simdev_count(k->sd, SIMDEV_WRITE), simdev_count(k->sd, SIMDEV_FLUSH) };
}

#define assert_cost(k, before, w, f)                                                                                   \
	do {                                                                                                           \
		struct cost now = cost(k);                                                                             \
		assert_int_equal(now.writes - (before).writes, w);                                                     \
		assert_int_equal(now.flushes - (before).flushes, f);                                                   \
	} while (0)

static struct log_status status(struct logkit *k)
{
	struct log_status st;

	log_status(k->log, &st);
	return st;
}

static int take(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len)
{
	uint64_t *next = arg;
	struct logkit_op op;

	(void)segment;
	assert_int_equal(lsn, *next);
	logkit_parse(lsn, rec, len, &op);
	(*next)++;
	return 0;
}

/* Reads the log from pos and checks every record; returns the end. */
static struct log_scan_result read_back(struct logkit *k, struct log_pos pos)
{
	struct log_scan_result res;
	struct log_scan *scan = NULL;
	uint64_t next = pos.lsn;

	assert_int_equal(logkit_scan(k->sd, k->blocks, pos, &scan), 0);
	assert_int_equal(log_scan_each(scan, take, NULL, &next), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.end.lsn, next);
	log_scan_close(scan);
	return res;
}

/* As a checkpoint does: what stood at the boundary is home and durable. */
static struct log_pos checkpoint(struct logkit *k)
{
	struct log_pos pos = log_boundary(k->log);

	data_write_home(k->data, DATA_ATTACHED);
	assert_int_equal(data_wait(k->data), 0);
	assert_int_equal(data_flush(k->data), 0);
	if (pos.lsn > 1)
		assert_int_equal(log_sync(k->log, pos.lsn - 1), 0);
	return pos;
}

/* --- what a commit costs --- */

static void a_small_commit_is_one_write_and_one_flush(void **state)
{
	struct logkit *k = *state;
	struct cost c = cost(k);
	struct logkit_op op = { .parts = { { BASE, 4, false } }, .n = 1 };
	uint64_t lsn;

	lsn = logkit_append(k, 100);
	assert_int_equal(lsn, 1);
	assert_cost(k, c, 0, 0);
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 1, 1);
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 1, 1);
	/* With a little data the same: it rides. */
	assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 2, 2);
	assert_int_equal(status(k).lsn_durable, 3);
	assert_int_equal(read_back(k, LOGKIT_POS).records, 2);
}

static void large_data_and_the_log_share_one_flush(void **state)
{
	struct logkit *k = *state;
	struct cost c = cost(k);
	struct logkit_op op = { .parts = { { BASE, 40, false }, { BASE + 100, 1, false } }, .n = 2 };
	uint64_t lsn;

	assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 2, 1);
}

static void many_small_blocks_go_home_together(void **state)
{
	struct logkit *k = *state;
	struct cost c = cost(k);
	uint64_t lsn = 0;

	for (unsigned i = 0; i < 30; i++) {
		struct logkit_op op = { .parts = { { BASE + i, 1, false } }, .n = 1 };

		assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	}
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 2, 1);
	assert_int_equal(read_back(k, LOGKIT_POS).records, 30);
}

static void without_riding_everything_goes_home(void **state)
{
	struct logkit *k = kit_new(N, UINT_MAX, false);
	struct cost c = cost(k);
	struct logkit_op op = { .parts = { { BASE, 1, false } }, .n = 1 };
	uint64_t lsn;

	(void)state;
	assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 2, 1);
	kit_free(k);
}

static void the_timer_lets_data_go_home_and_then_marks_the_end(void **state)
{
	struct logkit *k = *state;
	struct cost c = cost(k);
	struct logkit_op op = { .parts = { { BASE, 1, false } }, .n = 1 };
	uint64_t lsn;

	/* An idle store writes nothing. */
	assert_int_equal(log_tick(k->log), 0);
	assert_cost(k, c, 0, 0);
	assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	assert_int_equal(log_tick(k->log), 0);
	assert_cost(k, c, 2, 1);
	assert_int_equal(status(k).lsn_durable, 2);
	assert_int_equal(log_tick(k->log), 0);
	assert_cost(k, c, 3, 2);
	for (int i = 0; i < 5; i++)
		assert_int_equal(log_tick(k->log), 0);
	assert_cost(k, c, 3, 2);
	assert_int_equal(read_back(k, LOGKIT_POS).segments, 2);
	/* And after each burst of work anew. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(log_sync(k->log, logkit_append(k, 10)), 0);
		for (int n = 0; n < 3; n++)
			assert_int_equal(log_tick(k->log), 0);
	}
	assert_cost(k, c, 9, 8);
	assert_int_equal(read_back(k, LOGKIT_POS).end.seq, status(k).segments + 1);
}

static void superseded_blocks_cost_nothing(void **state)
{
	struct logkit *k = *state;
	struct cost c = cost(k);
	struct data_stats st;
	uint64_t lsn = 0;

	for (unsigned i = 0; i < 20; i++) {
		struct logkit_op op = { .parts = { { BASE + i, 1, false }, { BASE + i - 1, 1, true } },
					.n = i ? 2 : 1 };

		assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	}
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_cost(k, c, 1, 1);
	data_stats(k->data, &st);
	assert_int_equal(st.ridden, 1);
	assert_int_equal(st.dropped, 19);
}

/* --- admission --- */

static void a_record_may_take_a_quarter_of_the_log(void **state)
{
	struct logkit *k = *state;
	size_t max = log_record_max(k->log);
	struct log_room room;

	assert_true(max > N / 4 * BLOCK_SIZE - 256 && max <= N / 4 * BLOCK_SIZE);
	assert_int_equal(log_admit(k->log, max + 1, 0, &room), -E2BIG);
	assert_int_equal(log_admit(k->log, SIZE_MAX, 0, &room), -E2BIG);
	assert_int_equal(log_admit(k->log, 1, SIZE_MAX, &room), -E2BIG);
	assert_int_equal(log_sync(k->log, logkit_append(k, max)), 0);
	logkit_append(k, 30);
	assert_int_equal(log_sync(k->log, logkit_append(k, max)), 0);
	assert_int_equal(read_back(k, LOGKIT_POS).records, 3);
}

static void a_full_log_says_so_until_it_is_trimmed(void **state)
{
	struct logkit *k = *state;
	struct log_room room;
	struct log_pos older = LOGKIT_POS, pos;
	unsigned n = 0;

	while (log_admit(k->log, 100, 0, &room) == 0) {
		log_unadmit(k->log, &room);
		assert_int_equal(log_sync(k->log, logkit_append(k, 100)), 0);
		n++;
	}
	assert_int_equal(n, N);
	assert_int_equal(status(k).blocks_used, N);
	assert_int_equal(read_back(k, older).records, N);
	pos = checkpoint(k);
	log_trim(k->log, older); /* nothing yet: the older slot needs it all */
	assert_int_equal(log_admit(k->log, 100, 0, &room), -EAGAIN);
	older = pos;
	pos = checkpoint(k);
	log_trim(k->log, older);
	assert_int_equal(status(k).blocks_used, 0);
	assert_int_equal(log_admit(k->log, 100, 0, &room), 0);
	log_unadmit(k->log, &room);
	assert_int_equal(read_back(k, pos).records, 0);
}

static void what_is_admitted_always_fits(void **state)
{
	struct logkit *k = *state;
	struct log_room rooms[200];
	uint8_t *rec = calloc(1, N * BLOCK_SIZE);
	struct log_pos pos[2] = { LOGKIT_POS, LOGKIT_POS };
	struct rng rng;
	unsigned n, empty = 0;

	assert_non_null(rec);
	rng_seed_env(&rng, 7);
	for (unsigned round = 0; round < 600; round++) {
		size_t bytes[200];

		for (n = 0; n < ARRAY_LEN(rooms); n++) {
			bytes[n] = (size_t)rng_range(&rng, 1, rng_chance(&rng, 1, 5) ? log_record_max(k->log) : 5000);
			if (log_admit(k->log, bytes[n], (size_t)rng_below(&rng, 300), &rooms[n]))
				break;
		}
		empty += n == 0;
		assert_true(n || round == 0 || pos[1].seq != pos[0].seq || status(k).blocks_used);
		/* In any order, each in a segment of its own or with others; some never happen. */
		while (n) {
			unsigned i = (unsigned)rng_below(&rng, n);

			if (rng_chance(&rng, 1, 6)) {
				log_unadmit(k->log, &rooms[i]);
			} else {
				uint64_t lsn = log_append(k->log, &rooms[i], rec, (size_t)rng_range(&rng, 1, bytes[i]),
							  NULL, 0);

				if (rng_chance(&rng, 1, 3))
					log_boundary(k->log);
				if (rng_chance(&rng, 1, 4))
					assert_int_equal(log_sync(k->log, lsn), 0);
			}
			rooms[i] = rooms[--n];
			bytes[i] = bytes[n];
		}
		assert_int_equal(status(k).blocks_reserved == 0, status(k).blocks_reserved == 0);
		if (rng_chance(&rng, 1, 3)) {
			log_trim(k->log, pos[0]);
			pos[0] = pos[1];
			pos[1] = checkpoint(k);
			log_trim(k->log, pos[0]);
		}
	}
	assert_true(empty < 500);
	assert_true(status(k).records > 500);
	free(rec);
}

static void only_admission_needs_memory(void **state)
{
	struct logkit *k = *state;
	struct log_room rooms[3];
	struct data_run *runs[3];
	char rec[60000] = "x";

	for (uint64_t n = 1;; n++) {
		int err;

		failmem_start(n, FAILMEM_ONCE);
		err = log_admit(k->log, sizeof(rec), 20, &rooms[0]);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			break;
		}
		assert_int_equal(err, -ENOMEM);
		assert_int_equal(status(k).blocks_reserved, 0);
	}
	assert_int_equal(log_admit(k->log, sizeof(rec), 20, &rooms[1]), 0);
	assert_int_equal(log_admit(k->log, 1, 20, &rooms[2]), 0);
	for (unsigned i = 0; i < 3; i++)
		runs[i] = logkit_put(k, BASE + 20 * i, 10 + 5 * i);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	/* Each fills a segment, so the second seals the first. */
	log_append(k->log, &rooms[0], rec, sizeof(rec), &runs[0], 1);
	log_append(k->log, &rooms[1], rec, sizeof(rec), &runs[1], 1);
	log_boundary(k->log);
	log_append(k->log, &rooms[2], rec, 1, &runs[2], 1);
	assert_int_equal(log_sync(k->log, 3), 0);
	assert_int_equal(log_tick(k->log), 0);
	assert_false(failmem_stop());
	assert_int_equal(status(k).lsn_durable, 4);
	assert_int_equal(status(k).segments, 4);
}

/* --- boundaries --- */

static void a_boundary_tells_where_the_next_segment_starts(void **state)
{
	struct logkit *k = *state;
	struct log_pos pos[2] = { LOGKIT_POS, LOGKIT_POS };
	struct rng rng;
	unsigned wraps = 0;

	rng_seed_env(&rng, 3);
	for (unsigned round = 0; round < 300; round++) {
		struct log_pos now;
		struct cost c;
		uint64_t lsn = 0, first;

		for (uint64_t n = rng_range(&rng, 1, 5); n; n--)
			lsn = logkit_append(k, (size_t)rng_range(&rng, 1, 9000));
		if (rng_chance(&rng, 1, 2))
			assert_int_equal(log_sync(k->log, lsn), 0);
		c = cost(k);
		now = log_boundary(k->log);
		assert_cost(k, c, 0, 0); /* waits for no I/O, does none where there is no data */
		assert_int_equal(now.lsn, lsn + 1);
		/* Read from there: all that comes later and nothing else. */
		first = lsn + 1;
		for (uint64_t n = rng_range(&rng, 0, 4); n; n--)
			lsn = logkit_append(k, (size_t)rng_range(&rng, 1, 9000));
		assert_int_equal(log_sync(k->log, lsn), 0);
		assert_int_equal(read_back(k, now).records, lsn + 1 - first);
		assert_int_equal(read_back(k, pos[1]).end.lsn, lsn + 1);
		assert_int_equal(read_back(k, pos[0]).end.lsn, lsn + 1);
		wraps += now.block < pos[1].block;
		log_trim(k->log, pos[1]);
		pos[0] = pos[1];
		pos[1] = now;
		checkpoint(k);
	}
	assert_true(wraps > 20);
}

static void data_dirty_at_a_boundary_is_sent_home_and_listed(void **state)
{
	struct logkit *k = *state;
	struct logkit_op op = { .parts = { { BASE, 3, false } }, .n = 1 };
	struct log_pos pos;
	struct data_stats st;
	uint64_t lsn;

	assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	pos = log_boundary(k->log);
	data_stats(k->data, &st);
	assert_int_equal(st.dirty_blocks, 0);
	assert_int_equal(pos.lsn, lsn + 1);
	logkit_append(k, 10);
	assert_int_equal(log_sync(k->log, lsn), 0);
	assert_int_equal(status(k).lsn_durable, lsn + 1);
	assert_int_equal(log_sync(k->log, lsn + 1), 0);
	assert_int_equal(status(k).lsn_durable, lsn + 2);
	assert_int_equal(read_back(k, pos).records, 1);
}

/* --- failures --- */

struct failure {
	const char *name;
	struct simdev_fault fault;
	bool with_data;
};

static const struct failure failures[] = {
	{ "a_failed_segment_write_is_for_ever",
	  { .op = SIMDEV_WRITE, .times = 1, .addr = LOGKIT_START, .blocks = N },
	  false },
	{ "a_failed_segment_write_beside_data_is_for_ever",
	  { .op = SIMDEV_WRITE, .times = 1, .addr = LOGKIT_START, .blocks = N, .err = -ENOSPC },
	  true },
	{ "a_failed_data_write_is_for_ever", { .op = SIMDEV_WRITE, .times = 1, .addr = BASE, .blocks = 100 }, true },
	{ "a_failed_flush_is_for_ever", { .op = SIMDEV_FLUSH, .times = 1 }, false },
	{ "a_failed_flush_with_data_is_for_ever", { .op = SIMDEV_FLUSH, .times = 1 }, true },
};

static void fails_for_ever(void **state)
{
	const struct failure *row = *state;

	for (int shuffle = 0; shuffle < 2; shuffle++) {
		struct logkit *k = kit_new(N, 0, shuffle);
		struct logkit_op op = { .parts = { { BASE, 30, false } }, .n = row->with_data };
		struct log_room room, late;
		uint64_t lsn;

		assert_int_equal(log_sync(k->log, logkit_append(k, 10)), 0);
		assert_int_equal(log_admit(k->log, 10, 0, &room), 0);
		assert_int_equal(log_admit(k->log, 10, 0, &late), 0);
		simdev_add_fault(k->sd, &row->fault);
		assert_int_equal(logkit_apply(k, &op, &lsn), 0);
		assert_int_equal(log_sync(k->log, lsn), -EIO);
		assert_int_equal(status(k).lsn_durable, 2);
		assert_int_equal(k->failed_log, 1);
		assert_int_equal(k->err, row->fault.err ? row->fault.err : -EIO);
		assert_int_equal(status(k).err, k->err);
		/* Whatever the disk does from now on. */
		simdev_clear_faults(k->sd);
		assert_int_equal(log_admit(k->log, 10, 0, &(struct log_room){ 0 }), -EROFS);
		lsn = log_append(k->log, &room, "late", 4, NULL, 0);
		assert_int_equal(log_sync(k->log, lsn), -EIO);
		assert_int_equal(log_sync(k->log, 1), -EIO);
		assert_int_equal(log_tick(k->log), -EIO);
		log_unadmit(k->log, &late);
		assert_int_equal(status(k).lsn_durable, 2);
		assert_int_equal(k->failed_log, 1);
		kit_free(k);
	}
}

static void a_killed_log_stays_dead(void **state)
{
	struct logkit *k = *state;
	struct cost c;
	uint64_t lsn = logkit_append(k, 10);

	log_kill(k->log, -ENOSPC);
	log_kill(k->log, -EIO);
	c = cost(k);
	assert_int_equal(log_sync(k->log, lsn), -EIO);
	assert_int_equal(log_tick(k->log), -EIO);
	assert_cost(k, c, 0, 0);
	assert_int_equal(status(k).err, -ENOSPC);
	assert_int_equal(k->failed_log, 1);
}

/* --- threads --- */

struct shared {
	struct logkit *k;
	pthread_mutex_t tree; /* as a live tree's lock */
	uint64_t next_addr;
	unsigned rounds;
	atomic_bool stop;
	struct log_pos pos[2];
};

static void *operate(void *arg)
{
	struct shared *sh = arg;
	struct logkit *k = sh->k;
	struct rng rng;

	rng_seed(&rng, (uint64_t)(uintptr_t)&rng);
	for (unsigned i = 0; i < sh->rounds; i++) {
		struct logkit_op op = { .bytes = (size_t)rng_range(&rng, 24, 6000) };
		uint32_t blocks = rng_chance(&rng, 1, 4) ? 20 : (uint32_t)rng_below(&rng, 4);
		size_t len;
		struct log_room room;
		struct data_run *run = NULL;
		uint64_t addr, lsn;
		uint8_t rec[7000];
		int err;

		while ((err = log_admit(k->log, sizeof(rec), blocks, &room)) == -EAGAIN)
			sched_yield();
		assert_int_equal(err, 0);
		addr = BASE + __atomic_fetch_add(&sh->next_addr, 20, __ATOMIC_RELAXED);
		if (blocks) {
			run = logkit_put(k, addr, blocks);
			op.n = 1;
			op.parts[0] = (struct logkit_part){ .addr = addr, .blocks = blocks };
		}
		pthread_mutex_lock(&sh->tree);
		len = logkit_record(&op, status(k).lsn_next, rec);
		lsn = log_append(k->log, &room, rec, len, &run, op.n);
		if (blocks && rng_chance(&rng, 1, 3))
			data_drop(k->data, addr, 1);
		pthread_mutex_unlock(&sh->tree);
		if (rng_chance(&rng, 1, 2)) {
			assert_int_equal(log_sync(k->log, lsn), 0);
			assert_true(status(k).lsn_durable > lsn);
		}
	}
	return NULL;
}

static void *tick(void *arg)
{
	struct shared *sh = arg;

	while (!atomic_load(&sh->stop)) {
		assert_int_equal(log_tick(sh->k->log), 0);
		sched_yield();
	}
	return NULL;
}

static void *check_in(void *arg)
{
	struct shared *sh = arg;
	struct logkit *k = sh->k;

	while (!atomic_load(&sh->stop)) {
		struct log_pos pos;

		pthread_mutex_lock(&sh->tree);
		pos = log_boundary(k->log);
		pthread_mutex_unlock(&sh->tree);
		data_write_home(k->data, DATA_ATTACHED);
		assert_int_equal(data_wait(k->data), 0);
		assert_int_equal(data_flush(k->data), 0);
		assert_int_equal(log_sync(k->log, pos.lsn - 1), 0);
		log_trim(k->log, sh->pos[1]);
		sh->pos[0] = sh->pos[1];
		sh->pos[1] = pos;
	}
	return NULL;
}

static void many_threads_append_sync_tick_and_check_in(void **state)
{
	for (int shuffle = 0; shuffle < 2; shuffle++) {
		struct shared sh = { .k = kit_new(256, 0, shuffle), .rounds = 300, .pos = { LOGKIT_POS, LOGKIT_POS } };
		pthread_t t[6];

		(void)state;
		pthread_mutex_init(&sh.tree, NULL);
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(pthread_create(&t[i], NULL, operate, &sh), 0);
		assert_int_equal(pthread_create(&t[4], NULL, tick, &sh), 0);
		assert_int_equal(pthread_create(&t[5], NULL, check_in, &sh), 0);
		for (unsigned i = 0; i < 4; i++)
			pthread_join(t[i], NULL);
		atomic_store(&sh.stop, true);
		pthread_join(t[4], NULL);
		pthread_join(t[5], NULL);
		assert_int_equal(log_tick(sh.k->log), 0);
		assert_int_equal(status(sh.k).lsn_durable, 1201);
		assert_int_equal(read_back(sh.k, sh.pos[0]).end.lsn, 1201);
		assert_int_equal(read_back(sh.k, sh.pos[1]).end.lsn, 1201);
		pthread_mutex_destroy(&sh.tree);
		kit_free(sh.k);
	}
}

static int slow_flush(void *arg, enum simdev_op op, uint64_t number, uint64_t addr, uint64_t blocks)
{
	(void)arg;
	(void)number;
	(void)addr;
	(void)blocks;
	if (op == SIMDEV_FLUSH)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return 0;
}

static void *append_and_sync(void *arg)
{
	struct shared *sh = arg;

	for (unsigned i = 0; i < sh->rounds; i++) {
		struct log_room room;
		uint64_t lsn;

		assert_int_equal(log_admit(sh->k->log, 100, 0, &room), 0);
		pthread_mutex_lock(&sh->tree);
		lsn = log_append(sh->k->log, &room, "commit", 6, NULL, 0);
		pthread_mutex_unlock(&sh->tree);
		assert_int_equal(log_sync(sh->k->log, lsn), 0);
	}
	return NULL;
}

static void those_who_wait_share_a_flush(void **state)
{
	struct shared sh = { .k = kit_new(4096, 0, false), .rounds = 40 };
	pthread_t t[8];
	uint64_t flushes;

	(void)state;
	pthread_mutex_init(&sh.tree, NULL);
	simdev_set_callback(sh.k->sd, slow_flush, NULL);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&t[i], NULL, append_and_sync, &sh), 0);
	for (unsigned i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	flushes = cost(sh.k).flushes;
	print_message("# 320 commits by 8 threads: %u flushes\n", (unsigned)flushes);
	assert_true(flushes < 320 / 2);
	pthread_mutex_destroy(&sh.tree);
	kit_free(sh.k);
}

static int die(void *arg, enum simdev_op op, uint64_t number, uint64_t addr, uint64_t blocks)
{
	(void)number;
	(void)addr;
	(void)blocks;
	return op == SIMDEV_FLUSH && ++*(unsigned *)arg > 10 ? -EIO : 0;
}

static void *append_until_it_fails(void *arg)
{
	struct shared *sh = arg;
	int err;

	for (;;) {
		struct log_room room;
		uint64_t lsn;

		err = log_admit(sh->k->log, 100, 0, &room);
		if (err)
			break;
		pthread_mutex_lock(&sh->tree);
		lsn = log_append(sh->k->log, &room, "commit", 6, NULL, 0);
		pthread_mutex_unlock(&sh->tree);
		err = log_sync(sh->k->log, lsn);
		if (err)
			break;
	}
	assert_true(err == -EIO || err == -EROFS);
	return NULL;
}

static void a_failure_wakes_everyone(void **state)
{
	for (unsigned round = 0; round < 20; round++) {
		struct shared sh = { .k = kit_new(4096, 0, false) };
		unsigned flushes = 0;
		pthread_t t[8];

		(void)state;
		pthread_mutex_init(&sh.tree, NULL);
		simdev_set_callback(sh.k->sd, die, &flushes);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(pthread_create(&t[i], NULL, append_until_it_fails, &sh), 0);
		for (unsigned i = 0; i < 8; i++)
			pthread_join(t[i], NULL);
		pthread_mutex_destroy(&sh.tree);
		kit_free(sh.k);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define T_SHUFFLED(name) cmocka_unit_test_setup_teardown(name, setup_shuffled, teardown)

int main(void)
{
	const struct CMUnitTest fixed[] = {
		T(a_small_commit_is_one_write_and_one_flush),
		T(large_data_and_the_log_share_one_flush),
		T_SHUFFLED(large_data_and_the_log_share_one_flush),
		T(many_small_blocks_go_home_together),
		cmocka_unit_test(without_riding_everything_goes_home),
		T(the_timer_lets_data_go_home_and_then_marks_the_end),
		T(superseded_blocks_cost_nothing),
		T(a_record_may_take_a_quarter_of_the_log),
		T(a_full_log_says_so_until_it_is_trimmed),
		T(what_is_admitted_always_fits),
		T(only_admission_needs_memory),
		T(a_boundary_tells_where_the_next_segment_starts),
		T(data_dirty_at_a_boundary_is_sent_home_and_listed),
		T_SHUFFLED(data_dirty_at_a_boundary_is_sent_home_and_listed),
		T(a_killed_log_stays_dead),
		cmocka_unit_test(many_threads_append_sync_tick_and_check_in),
		cmocka_unit_test(those_who_wait_share_a_flush),
		cmocka_unit_test(a_failure_wakes_everyone),
	};
	struct CMUnitTest tests[ARRAY_LEN(fixed) + ARRAY_LEN(failures)];

	logkit_quiet();
	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_LEN(failures); i++)
		tests[ARRAY_LEN(fixed) + i] = TEST_ROW(failures[i].name, fails_for_ever, &failures[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/failmem.h"
#include "tests/kit/logkit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define BASE 1000u

struct fixture {
	struct logkit k;
	struct disk_check checks[4096];
	struct data_riding riding[64];
	struct data_seal seal;
};

static struct fixture *fixture_new(bool shuffle, size_t memory_max)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	logkit_open(&f->k, simdev_new(&(struct simdev_options){ .shuffle = shuffle }), 64, 0, memory_max);
	f->seal.checks = f->checks;
	f->seal.riding = f->riding;
	return f;
}

static int setup(void **state)
{
	*state = fixture_new(false, 0);
	return 0;
}

static int setup_shuffled(void **state)
{
	*state = fixture_new(true, 0);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	logkit_close(&f->k);
	simdev_free(f->k.sd);
	free(f);
	return 0;
}

static uint64_t writes(struct fixture *f)
{
	return simdev_count(f->k.sd, SIMDEV_WRITE);
}

static bool on_disk(struct fixture *f, uint64_t addr)
{
	uint8_t block[BLOCK_SIZE];

	simdev_peek(f->k.sd, addr, block, 1);
	return logkit_filled(addr, block);
}

static void seal(struct fixture *f, size_t ride_max)
{
	assert_true(data_unlisted_blocks(f->k.data) <= ARRAY_LEN(f->checks));
	f->seal.tag++;
	data_seal(f->k.data, ride_max, &f->seal);
	for (size_t i = 0; i < f->seal.n_riding; i++)
		assert_true(logkit_filled(f->riding[i].addr, f->riding[i].block));
}

static void seal_done(struct fixture *f)
{
	assert_int_equal(data_seal_wait(f->k.data, &f->seal), 0);
	for (size_t i = 0; i < f->seal.n_checks; i++)
		assert_true(on_disk(f, le64_get(f->checks[i].addr)));
	data_seal_done(f->k.data, &f->seal);
}

static bool listed(const struct fixture *f, uint64_t addr)
{
	uint8_t block[BLOCK_SIZE];

	for (size_t i = 0; i < f->seal.n_checks; i++) {
		if (le64_get(f->checks[i].addr) != addr)
			continue;
		logkit_fill(addr, block);
		assert_int_equal(le32_get(f->checks[i].sum), data_checksum(block));
		return true;
	}
	return false;
}

static bool readable(struct fixture *f, uint64_t addr, uint32_t blocks)
{
	uint8_t *buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);
	bool ok = true;

	assert_non_null(buf);
	assert_int_equal(data_read(f->k.data, addr, blocks, buf), 0);
	for (uint32_t i = 0; i < blocks; i++)
		ok = ok && logkit_filled(addr + i, buf + (size_t)i * BLOCK_SIZE);
	mem_free(buf);
	return ok;
}

static void attach(struct fixture *f, uint64_t addr, uint32_t blocks)
{
	data_attach(f->k.data, logkit_put(&f->k, addr, blocks));
}

/* --- putting and reading --- */

static void a_small_run_stays_in_memory(void **state)
{
	struct fixture *f = *state;
	struct data_stats st;

	logkit_put(&f->k, BASE, DATA_SMALL_BLOCKS);
	assert_int_equal(writes(f), 0);
	assert_true(readable(f, BASE, DATA_SMALL_BLOCKS));
	data_stats(f->k.data, &st);
	assert_int_equal(st.dirty_blocks, DATA_SMALL_BLOCKS);
	assert_int_equal(st.memory, DATA_SMALL_BLOCKS * BLOCK_SIZE);
	data_drop(f->k.data, BASE, DATA_SMALL_BLOCKS);
	data_stats(f->k.data, &st);
	assert_int_equal(st.dirty_blocks, 0);
	assert_int_equal(st.memory, 0);
	assert_int_equal(st.dropped, DATA_SMALL_BLOCKS);
	assert_int_equal(writes(f), 0);
}

static void a_large_run_is_written_at_once(void **state)
{
	struct fixture *f = *state;

	attach(f, BASE, DATA_SMALL_BLOCKS + 1);
	assert_int_equal(writes(f), 1);
	assert_int_equal(data_wait(f->k.data), 0);
	for (unsigned i = 0; i <= DATA_SMALL_BLOCKS; i++)
		assert_true(on_disk(f, BASE + i));
}

static void a_read_takes_each_block_from_where_it_is(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 300; i += 20) {
		attach(f, BASE + i, 20); /* in flight or written */
		if (i == 140)
			assert_int_equal(data_wait(f->k.data), 0);
	}
	for (unsigned i = 300; i < 400; i++)
		attach(f, BASE + i, 1); /* in memory, not in the order of the addresses */
	for (unsigned i = 500; i > 400; i -= 5)
		attach(f, BASE + i - 5, 5);
	assert_true(readable(f, BASE, 500));
	assert_true(readable(f, BASE + 7, 1));
	assert_true(readable(f, BASE + 307, 3));
	assert_int_equal(data_wait(f->k.data), 0);
	assert_true(readable(f, BASE, 500));
	data_write_home(f->k.data, DATA_ATTACHED);
	assert_true(readable(f, BASE, 500));
	assert_int_equal(data_wait(f->k.data), 0);
	assert_true(readable(f, BASE, 500));
	assert_int_equal(data_flush(f->k.data), 0);
	assert_true(readable(f, BASE, 500));
}

static void neighbours_are_written_together(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 20; i++)
		attach(f, BASE + (i * 7) % 20, 1);
	attach(f, BASE + 21, 3);
	attach(f, BASE + 24, 16);
	logkit_put(&f->k, BASE + 40, 1); /* private: not asked for */
	data_write_home(f->k.data, DATA_ATTACHED);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(writes(f), 2);
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(on_disk(f, BASE + i), i != 20);
	data_write_home(f->k.data, DATA_PRIVATE);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_true(on_disk(f, BASE + 40));
	data_drop(f->k.data, BASE + 40, 1);
}

static void what_is_dropped_of_a_run_is_not_written(void **state)
{
	struct fixture *f = *state;
	struct data_stats st;

	attach(f, BASE, 16);
	data_drop(f->k.data, BASE, 1);
	data_drop(f->k.data, BASE + 4, 3);
	data_drop(f->k.data, BASE + 5, 1); /* again: no harm */
	data_drop(f->k.data, BASE + 15, 100);
	data_write_home(f->k.data, DATA_ATTACHED | DATA_PRIVATE);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(writes(f), 2);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(on_disk(f, BASE + i), i != 0 && i != 4 && i != 5 && i != 6 && i != 15);
	data_stats(f->k.data, &st);
	assert_int_equal(st.dropped, 5);
	assert_int_equal(st.written_home, 11);
	assert_int_equal(st.unflushed_blocks, 11);
	assert_int_equal(st.memory, 0);
}

static void a_huge_drop_passes_over_what_is_unknown(void **state)
{
	struct fixture *f = *state;
	struct data_stats st;

	for (unsigned i = 0; i < 50; i++)
		attach(f, BASE + i * 3, 2);
	data_drop(f->k.data, 1, UINT64_C(1) << 40);
	data_stats(f->k.data, &st);
	assert_int_equal(st.dirty_blocks, 0);
	assert_int_equal(st.dropped, 100);
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 0);
	seal_done(f);
}

static void a_dropped_address_may_be_put_again(void **state)
{
	struct fixture *f = *state;

	/* In memory. */
	attach(f, BASE, 8);
	data_drop(f->k.data, BASE + 2, 3);
	attach(f, BASE + 2, 3);
	assert_true(readable(f, BASE, 8));
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 8);
	seal_done(f);
	/* In flight: the put waits until the old write is over. */
	logkit_put(&f->k, BASE + 100, 64);
	data_drop(f->k.data, BASE + 100, 64);
	assert_false(on_disk(f, BASE + 110));
	attach(f, BASE + 110, 1);
	assert_true(on_disk(f, BASE + 110));
	assert_true(readable(f, BASE + 110, 1));
	/* Written, in part still needed. */
	attach(f, BASE + 200, 64);
	assert_int_equal(data_wait(f->k.data), 0);
	data_drop(f->k.data, BASE + 210, 10);
	attach(f, BASE + 210, 10);
	assert_true(readable(f, BASE + 200, 64));
	seal(f, 64);
	assert_int_equal(f->seal.n_checks, 54);
	assert_int_equal(f->seal.n_riding, 11);
	seal_done(f);
}

static void memory_is_bounded_by_writing_home(void **state)
{
	struct fixture *f = fixture_new(true, 64 * BLOCK_SIZE);
	struct data_stats st;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		attach(f, BASE + i, 1);
		data_stats(f->k.data, &st);
		assert_true(st.memory <= 64 * BLOCK_SIZE);
	}
	/* One alone may be larger than all. */
	attach(f, BASE + 2000, 200);
	attach(f, BASE + 3000, 1);
	assert_true(readable(f, BASE, 1000));
	assert_true(readable(f, BASE + 2000, 200));
	assert_true(writes(f) > 15 && writes(f) < 40);
	void *p = f;
	teardown(&p);
}

static void without_memory_a_put_changes_nothing(void **state)
{
	struct fixture *f = *state;
	uint32_t sum;
	struct data_run *r = NULL;
	void *buf = mem_alloc_blocks(BLOCK_SIZE);

	logkit_fill(BASE, buf);
	sum = data_checksum(buf);
	failmem_start(1, FAILMEM_ONCE);
	assert_int_equal(data_put(f->k.data, BASE, 1, buf, &sum, &r), -ENOMEM);
	assert_true(failmem_stop());
	assert_null(r);
	assert_int_equal(data_put(f->k.data, BASE, 1, buf, &sum, &r), 0);
	data_attach(f->k.data, r);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	/* Everything behind the put needs none. */
	seal(f, 0);
	seal_done(f);
	data_write_home(f->k.data, DATA_ATTACHED);
	assert_int_equal(data_flush(f->k.data), 0);
	assert_false(failmem_stop());
	assert_true(on_disk(f, BASE));
}

/* --- sealing --- */

static void a_seal_lists_what_is_attached_and_alive(void **state)
{
	struct fixture *f = *state;
	struct data_run *private;

	attach(f, BASE, 4);
	attach(f, BASE + 10, 4);
	data_drop(f->k.data, BASE + 10, 4);
	attach(f, BASE + 20, 4);
	data_drop(f->k.data, BASE + 21, 2);
	private = logkit_put(&f->k, BASE + 30, 4);
	logkit_put(&f->k, BASE + 100, 40);
	attach(f, BASE + 200, 40);
	assert_int_equal(data_unlisted_blocks(f->k.data), 46);
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 46);
	assert_int_equal(f->seal.n_riding, 0);
	assert_true(listed(f, BASE) && listed(f, BASE + 3) && listed(f, BASE + 20) && listed(f, BASE + 23));
	assert_true(listed(f, BASE + 200) && listed(f, BASE + 239));
	assert_false(listed(f, BASE + 21) || listed(f, BASE + 22) || listed(f, BASE + 30) || listed(f, BASE + 100));
	seal_done(f);
	/* Once is enough: that segment's flush comes before the next segment. */
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 0);
	seal_done(f);
	data_attach(f->k.data, private);
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 4);
	seal_done(f);
}

static void what_a_flush_covered_is_not_listed(void **state)
{
	struct fixture *f = *state;
	struct data_run *r = logkit_put(&f->k, BASE, 40), *other = logkit_put(&f->k, BASE + 40, 2);
	struct data_stats st;

	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(data_flush(f->k.data), 0);
	data_attach(f->k.data, r); /* the handle is good although nothing is left to be done */
	data_attach(f->k.data, other);
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 2);
	seal_done(f);
	assert_int_equal(data_flush(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.unflushed_blocks, 0);
}

static void a_flush_covers_only_what_was_written_when_it_began(void **state)
{
	struct fixture *f = *state; /* shuffled: the write completes when someone waits */
	struct data_stats st;

	attach(f, BASE, 40);
	assert_int_equal(data_flush(f->k.data), 0);
	assert_int_equal(data_wait(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.unflushed_blocks, 40);
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 40);
	seal_done(f);
	assert_int_equal(data_flush(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.unflushed_blocks, 0);
}

/* A device whose flush has something happen between its doing and its return. */
static struct {
	struct bdev_ops ops;
	int (*flush)(struct bdev *);
	struct fixture *f;
	pthread_t thread;
	atomic_uint n;
} slow;

static void *write_and_flush(void *arg)
{
	struct fixture *f = arg;

	attach(f, BASE + 100, 20);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(data_flush(f->k.data), 0);
	/* It took a flush of its own. */
	assert_int_equal(atomic_load(&slow.n), 2);
	return NULL;
}

static int slow_flush(struct bdev *dev)
{
	int err = slow.flush(dev);
	struct data_stats st = { 0 };

	if (atomic_fetch_add(&slow.n, 1))
		return err;
	attach(slow.f, BASE, 40);
	assert_int_equal(data_wait(slow.f->k.data), 0);
	assert_int_equal(pthread_create(&slow.thread, NULL, write_and_flush, slow.f), 0);
	while (st.unflushed_blocks < 60)
		data_stats(slow.f->k.data, &st);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return err;
}

static void a_flush_under_way_covers_nothing_new(void **state)
{
	struct fixture *f = *state;
	struct data_stats st;

	slow.ops = *f->k.dev->ops;
	slow.flush = slow.ops.flush;
	slow.ops.flush = slow_flush;
	slow.f = f;
	f->k.dev->ops = &slow.ops;
	assert_int_equal(data_flush(f->k.data), 0);
	pthread_join(slow.thread, NULL);
	data_stats(f->k.data, &st);
	assert_int_equal(st.unflushed_blocks, 0);
	assert_int_equal(atomic_load(&slow.n), 2);
}

static void a_disowned_run_goes_with_the_flush(void **state)
{
	struct fixture *f = *state;
	struct data_stats st;

	data_disown(f->k.data, logkit_put(&f->k, BASE, 4));
	data_disown(f->k.data, logkit_put(&f->k, BASE + 10, 40));
	data_write_home(f->k.data, DATA_PRIVATE);
	assert_int_equal(data_wait(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.unflushed_blocks, 44);
	assert_int_equal(data_flush(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.unflushed_blocks, 0);
	assert_true(readable(f, BASE, 4));
}

static void few_ride_and_stay_dirty(void **state)
{
	struct fixture *f = *state;

	attach(f, BASE, 4);
	attach(f, BASE + 10, 4);
	data_drop(f->k.data, BASE + 11, 1);
	attach(f, BASE + 100, 40); /* large: never rides */
	seal(f, 7);
	assert_int_equal(f->seal.n_riding, 7);
	assert_int_equal(f->seal.n_checks, 40);
	assert_int_equal(data_ridden_oldest(f->k.data), f->seal.tag);
	/* What rides stays there until the segment is out, whatever happens to it. */
	data_drop(f->k.data, BASE, 14);
	for (size_t i = 0; i < f->seal.n_riding; i++)
		assert_true(logkit_filled(f->riding[i].addr, f->riding[i].block));
	assert_int_equal(data_ridden_oldest(f->k.data), UINT64_MAX);
	seal_done(f);

	attach(f, BASE + 20, 4);
	seal(f, 4);
	assert_int_equal(f->seal.n_riding, 4);
	seal_done(f);
	assert_int_equal(writes(f), 1);
	/* Neither listed nor riding again; home when asked for. */
	seal(f, 4);
	assert_int_equal(f->seal.n_riding + f->seal.n_checks, 0);
	seal_done(f);
	assert_true(readable(f, BASE + 20, 4));
	data_write_home(f->k.data, DATA_ATTACHED);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_true(data_ridden_oldest(f->k.data) < f->seal.tag);
	assert_int_equal(data_flush(f->k.data), 0);
	assert_int_equal(data_ridden_oldest(f->k.data), UINT64_MAX);
	assert_true(on_disk(f, BASE + 20) && on_disk(f, BASE + 23));
}

static void too_many_go_home_instead(void **state)
{
	struct fixture *f = *state;

	attach(f, BASE + 4, 4);
	attach(f, BASE, 4);
	attach(f, BASE + 8, 1);
	seal(f, 8);
	assert_int_equal(f->seal.n_riding, 0);
	assert_int_equal(f->seal.n_checks, 9);
	seal_done(f);
	assert_int_equal(writes(f), 1);
	assert_int_equal(data_ridden_oldest(f->k.data), UINT64_MAX);
}

static void what_is_listed_is_written_although_dropped(void **state)
{
	struct fixture *f = *state; /* shuffled */

	/* More runs, none beside another, than can be in flight at once. */
	for (unsigned i = 0; i < 100; i++)
		attach(f, BASE + 2 * i, 1);
	seal(f, 0);
	assert_int_equal(f->seal.n_checks, 100);
	data_drop(f->k.data, BASE, 200);
	seal_done(f);
	assert_int_equal(writes(f), 100);
}

static void a_queued_run_that_nobody_lists_is_not_written_once_dropped(void **state)
{
	struct fixture *f = *state; /* shuffled */

	for (unsigned i = 0; i < 100; i++)
		attach(f, BASE + 2 * i, 1);
	data_write_home(f->k.data, DATA_ATTACHED);
	data_drop(f->k.data, BASE, 200);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_in_range(writes(f), 1, 99);
}

/* --- failures --- */

struct failure {
	const char *name;
	enum simdev_op op;
};

static const struct failure failures[] = {
	{ "a_failed_write_is_for_ever", SIMDEV_WRITE },
	{ "a_failed_flush_is_for_ever", SIMDEV_FLUSH },
};

static void fails_for_ever(void **state)
{
	const struct failure *row = *state;
	struct fixture *f = fixture_new(false, 0);
	struct data_run *r;
	void *p = f;

	attach(f, BASE, 4);
	attach(f, BASE + 100, 1);
	simdev_add_fault(f->k.sd, &(struct simdev_fault){ .op = row->op, .times = 1, .err = -EIO });
	seal(f, 0);
	if (row->op == SIMDEV_WRITE)
		assert_int_equal(data_seal_wait(f->k.data, &f->seal), -EIO);
	else
		assert_int_equal(data_seal_wait(f->k.data, &f->seal), 0);
	data_seal_done(f->k.data, &f->seal);
	assert_int_equal(data_flush(f->k.data), -EIO);
	assert_int_equal(data_wait(f->k.data), -EIO);
	assert_int_equal(logkit_try_put(&f->k, BASE + 200, 1, &r), -EIO);
	assert_int_equal(f->k.failed_data, 1);
	assert_int_equal(f->k.err, -EIO);
	/* What did not reach the disk is read from memory still. */
	assert_true(readable(f, BASE, 4));
	assert_true(readable(f, BASE + 100, 1));
	data_drop(f->k.data, BASE, 4);
	teardown(&p);
}

/* --- by chance --- */

enum { N_ADDR = 600 };

/* Random operations on a few addresses, each used once more after it was dropped and is out of the way. */
static void everything_agrees_with_a_model(void **state)
{
	struct rng rng;
	uint64_t seed = rng_seed_env(&rng, 1);

	(void)state;
	for (unsigned round = 0; round < 300; round++) {
		struct fixture *f = fixture_new(rng_chance(&rng, 1, 2), rng_chance(&rng, 1, 3) ? 40 * BLOCK_SIZE : 0);
		struct data_run *held[64] = { 0 };
		uint32_t held_at[64] = { 0 };
		bool live[N_ADDR] = { 0 }, attached[N_ADDR] = { 0 }, safe[N_ADDR] = { 0 };
		void *p = f;

		for (unsigned step = 0; step < 200; step++) {
			uint32_t addr = (uint32_t)rng_below(&rng, N_ADDR), blocks = 1,
				 h = (uint32_t)rng_below(&rng, 64);

			switch (rng_below(&rng, 8)) {
			case 0:
			case 1:
				blocks = (uint32_t)rng_range(&rng, 1, rng_chance(&rng, 1, 4) ? 40 : 6);
				if (held[h] || addr + blocks > N_ADDR)
					break;
				for (uint32_t i = 0; i < blocks; i++)
					blocks = live[addr + i] ? 0 : blocks;
				if (!blocks)
					break;
				held[h] = logkit_put(&f->k, BASE + addr, blocks);
				held_at[h] = addr;
				for (uint32_t i = 0; i < blocks; i++)
					live[addr + i] = true, attached[addr + i] = safe[addr + i] = false;
				break;
			case 2:
			case 3:
				if (!held[h])
					break;
				for (uint32_t i = 0; i < data_run_blocks(held[h]); i++)
					attached[held_at[h] + i] = true;
				data_attach(f->k.data, held[h]);
				held[h] = NULL;
				break;
			case 4:
				/* Not the last block of one held: its handle would go with it. */
				blocks = (uint32_t)rng_range(&rng, 1, 30);
				if (addr + blocks > N_ADDR)
					break;
				for (uint32_t i = 0; i < blocks; i++)
					if (live[addr + i] && !attached[addr + i])
						blocks = i;
				data_drop(f->k.data, BASE + addr, blocks);
				for (uint32_t i = 0; i < blocks; i++)
					live[addr + i] = false;
				break;
			case 5:
				seal(f, rng_below(&rng, 40));
				/* What is attached and alive, and was not safe before, is in there. */
				for (uint32_t i = 0; i < N_ADDR; i++) {
					bool found = listed(f, BASE + i);

					for (size_t k = 0; k < f->seal.n_riding; k++)
						found = found || f->riding[k].addr == BASE + i;
					if (live[i] && attached[i] && !safe[i] && !found)
						fail_msg("block %u is in no seal, seed %lu", i, (unsigned long)seed);
					if (found && !(live[i] && attached[i]))
						fail_msg("block %u needs no seal, seed %lu", i, (unsigned long)seed);
					safe[i] = safe[i] || found;
				}
				seal_done(f);
				break;
			case 6:
				if (rng_chance(&rng, 1, 2))
					data_write_home(f->k.data, 1 + (unsigned)rng_below(&rng, 3));
				if (rng_chance(&rng, 1, 2))
					assert_int_equal(data_wait(f->k.data), 0);
				if (rng_chance(&rng, 1, 2)) {
					assert_int_equal(data_flush(f->k.data), 0);
					data_write_home(f->k.data, DATA_ATTACHED | DATA_PRIVATE);
					assert_int_equal(data_wait(f->k.data), 0);
					assert_int_equal(data_flush(f->k.data), 0);
					for (uint32_t i = 0; i < N_ADDR; i++) {
						assert_true(!live[i] || on_disk(f, BASE + i));
						safe[i] = safe[i] || live[i];
					}
				}
				break;
			default:
				blocks = (uint32_t)rng_range(&rng, 1, N_ADDR - addr);
				for (uint32_t i = 0; i < blocks; i++)
					blocks = live[addr + i] ? blocks : i;
				if (blocks)
					assert_true(readable(f, BASE + addr, blocks));
			}
		}
		teardown(&p);
	}
}

struct worker {
	struct fixture *f;
	unsigned id;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct fixture *f = w->f;
	uint64_t base = 2000 + w->id * 4000;
	struct rng rng;

	rng_seed(&rng, w->id);
	for (unsigned i = 0; i < 150; i++) {
		uint64_t addr = base + i * 25;
		uint32_t blocks = (uint32_t)rng_range(&rng, 1, 25);
		struct data_run *r = logkit_put(&f->k, addr, blocks);

		if (rng_chance(&rng, 3, 4))
			data_attach(f->k.data, r);
		else
			data_disown(f->k.data, r);
		assert_true(readable(f, addr, blocks));
		if (rng_chance(&rng, 1, 3))
			data_drop(f->k.data, addr, blocks / 2);
		if (rng_chance(&rng, 1, 8))
			data_write_home(f->k.data, DATA_ATTACHED);
		if (rng_chance(&rng, 1, 8))
			assert_int_equal(data_wait(f->k.data), 0);
		if (rng_chance(&rng, 1, 8))
			assert_int_equal(data_flush(f->k.data), 0);
		assert_true(readable(f, addr + blocks / 2, blocks - blocks / 2));
	}
	return NULL;
}

static void *work_sealing(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < 100; i++) {
		seal(f, i % 2 * 30);
		assert_int_equal(data_seal_wait(f->k.data, &f->seal), 0);
		assert_int_equal(data_flush(f->k.data), 0);
		data_seal_done(f->k.data, &f->seal);
	}
	return NULL;
}

static void many_threads_share_it(void **state)
{
	struct fixture *f = fixture_new(true, 200 * BLOCK_SIZE);
	struct worker w[4];
	pthread_t t[5];
	struct data_stats st;
	void *p = f;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){ f, i };
		assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
	}
	assert_int_equal(pthread_create(&t[4], NULL, work_sealing, f), 0);
	for (unsigned i = 0; i < 5; i++)
		pthread_join(t[i], NULL);
	data_write_home(f->k.data, DATA_ATTACHED | DATA_PRIVATE);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(data_flush(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.dirty_blocks + st.inflight_blocks + st.unflushed_blocks + st.memory, 0);
	teardown(&p);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define T_SHUFFLED(name) cmocka_unit_test_setup_teardown(name, setup_shuffled, teardown)

int main(void)
{
	const struct CMUnitTest fixed[] = {
		T(a_small_run_stays_in_memory),
		T(a_large_run_is_written_at_once),
		T(a_read_takes_each_block_from_where_it_is),
		T_SHUFFLED(a_read_takes_each_block_from_where_it_is),
		T(neighbours_are_written_together),
		T_SHUFFLED(neighbours_are_written_together),
		T(what_is_dropped_of_a_run_is_not_written),
		T(a_huge_drop_passes_over_what_is_unknown),
		T_SHUFFLED(a_dropped_address_may_be_put_again),
		cmocka_unit_test(memory_is_bounded_by_writing_home),
		T(without_memory_a_put_changes_nothing),
		T(a_seal_lists_what_is_attached_and_alive),
		T_SHUFFLED(a_seal_lists_what_is_attached_and_alive),
		T(what_a_flush_covered_is_not_listed),
		T_SHUFFLED(a_flush_covers_only_what_was_written_when_it_began),
		T(a_flush_under_way_covers_nothing_new),
		T(a_disowned_run_goes_with_the_flush),
		T(few_ride_and_stay_dirty),
		T(too_many_go_home_instead),
		T_SHUFFLED(what_is_listed_is_written_although_dropped),
		T_SHUFFLED(a_queued_run_that_nobody_lists_is_not_written_once_dropped),
		cmocka_unit_test(everything_agrees_with_a_model),
		cmocka_unit_test(many_threads_share_it),
	};
	struct CMUnitTest tests[ARRAY_LEN(fixed) + ARRAY_LEN(failures)];

	logkit_quiet();
	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_LEN(failures); i++)
		tests[ARRAY_LEN(fixed) + i] = TEST_ROW(failures[i].name, fails_for_ever, &failures[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

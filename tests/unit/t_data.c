#include <pthread.h>
#include <string.h>
#include <time.h>

#include "tests/kit/failmem.h"
#include "tests/unit/data_fixture.h"

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
	unsigned flushes_seen;
	size_t unflushed_seen;
} slow;

static void *write_and_flush(void *arg)
{
	struct fixture *f = arg;

	attach(f, BASE + 100, 20);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(data_flush(f->k.data), 0);
	slow.flushes_seen = atomic_load(&slow.n);
	return NULL;
}

static int slow_flush(struct bdev *dev)
{
	struct data_stats st = { 0 };
	int err;

	if (atomic_fetch_add(&slow.n, 1)) {
		data_stats(slow.f->k.data, &st);
		slow.unflushed_seen = st.unflushed_blocks;
		return slow.flush(dev);
	}
	err = slow.flush(dev);
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
	assert_int_equal(slow.unflushed_seen, 60);
	assert_int_equal(slow.flushes_seen, 2);
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
	};
	struct CMUnitTest tests[ARRAY_LEN(fixed) + ARRAY_LEN(failures)];

	logkit_quiet();
	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_LEN(failures); i++)
		tests[ARRAY_LEN(fixed) + i] = TEST_ROW(failures[i].name, fails_for_ever, &failures[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/fill.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"
#include "tests/kit/test.h"

static int new_disk(void **state)
{
	*state = simdev_new(NULL);
	return 0;
}

static int free_disk(void **state)
{
	simdev_free(*state);
	return 0;
}

/* --- the device --- */

static void a_new_disk_reads_as_zeros(void **state)
{
	struct simdev *sd = *state;
	uint64_t *buf = fill_buffer(4);

	fill_words(buf, 4, 1);
	assert_int_equal(bdev_read(simdev_bdev(sd), 65532, buf, 4), 0);
	for (size_t i = 0; i < 4 * BLOCK_SIZE / 8; i++)
		assert_int_equal(buf[i], 0);
	mem_free(buf);
}

static void a_write_is_visible_at_once(void **state)
{
	struct simdev *sd = *state;
	uint64_t *buf = fill_buffer(3);

	assert_int_equal(fill_put(simdev_bdev(sd), 100, 3, 7), 0);
	assert_int_equal(bdev_read(simdev_bdev(sd), 99, buf, 3), 0);
	assert_int_equal(buf[0], 0);
	assert_int_equal(buf[BLOCK_SIZE / 8], 7);
	assert_int_equal(buf[3 * BLOCK_SIZE / 8 - 1], 7);
	mem_free(buf);
	assert_int_equal(fill_put(simdev_bdev(sd), 101, 1, 0), 0);
	assert_int_equal(fill_get(sd, 100), 7);
	assert_int_equal(fill_get(sd, 101), 0);
	assert_int_equal(fill_get(sd, 102), 7);
}

static void a_disk_may_be_huge(void **state)
{
	uint64_t blocks = (UINT64_C(1) << 50) >> BLOCK_SHIFT;
	struct simdev *sd = simdev_new(&(struct simdev_options){ .blocks = blocks });

	(void)state;
	for (uint64_t addr = blocks - 1; addr > 0; addr /= 3)
		assert_int_equal(fill_put(simdev_bdev(sd), addr, 1, addr), 0);
	for (uint64_t addr = blocks - 1; addr > 0; addr /= 3)
		assert_int_equal(fill_get(sd, addr), addr);
	assert_int_equal(fill_put(simdev_bdev(sd), blocks, 1, 1), -EINVAL);
	simdev_free(sd);
}

struct refusal {
	const char *name;
	uint64_t addr;
	uint32_t blocks;
	unsigned misaligned;
};

static const struct refusal refusals[] = {
	{ "a_transfer_past_the_end_is_refused", 65535, 2, 0 },
	{ "a_transfer_behind_the_end_is_refused", 65536, 1, 0 },
	{ "a_transfer_that_wraps_around_is_refused", UINT64_MAX, 2, 0 },
	{ "a_transfer_of_nothing_is_refused", 5, 0, 0 },
	{ "a_buffer_off_by_a_sector_is_refused", 5, 1, 512 },
};

static void refuses(void **state)
{
	const struct refusal *row = *state;
	struct simdev *sd = simdev_new(NULL);
	struct bdev *dev = simdev_bdev(sd);
	char *buf = (char *)fill_buffer(3);
	struct iovec iov = { buf + row->misaligned, (size_t)row->blocks * BLOCK_SIZE };
	struct bio_group g;
	struct bio bio = { .op = BIO_WRITE, .addr = row->addr, .iov = &iov, .iovcnt = 1, .group = &g };

	fill_words((uint64_t *)(void *)buf, 3, 1);
	assert_int_equal(bdev_read(dev, row->addr, buf + row->misaligned, row->blocks), -EINVAL);
	assert_int_equal(bdev_write(dev, row->addr, buf + row->misaligned, row->blocks), -EINVAL);
	bio_group_init(&g);
	bdev_submit(dev, &(struct bio *){ &bio }, 1);
	assert_int_equal(bdev_wait(dev, &g), -EINVAL);
	assert_int_equal(bio.err, -EINVAL);
	assert_int_equal(simdev_ops(sd), 0);
	assert_int_equal(simdev_count(sd, SIMDEV_READ), 0);
	mem_free(buf);
	simdev_free(sd);
}

static void a_read_only_disk_refuses_writes(void **state)
{
	struct simdev *sd = simdev_new(&(struct simdev_options){ .read_only = true });

	(void)state;
	assert_int_equal(fill_put(simdev_bdev(sd), 1, 1, 1), -EROFS);
	assert_int_equal(bdev_discard(simdev_bdev(sd), 1, 1), -EROFS);
	assert_int_equal(bdev_flush(simdev_bdev(sd)), 0);
	simdev_free(sd);
}

static void growing_is_seen_after_resize(void **state)
{
	struct simdev *sd = *state;
	struct bdev *dev = simdev_bdev(sd);

	simdev_set_blocks(sd, 100000);
	assert_int_equal(fill_put(dev, 99999, 1, 1), -EINVAL);
	assert_int_equal(bdev_resize(dev), 0);
	assert_int_equal(fill_put(dev, 99999, 1, 1), 0);
}

/* --- faults --- */

struct fault_row {
	const char *name;
	struct simdev_fault fault;
	const char *ops;  /* r, w, f, d in order; R, W, F, D are expected to fail */
	uint64_t content; /* of block 5 at the end; the n-th write of 1.. puts n */
};

static const struct fault_row fault_rows[] = {
	{ "the_next_write_fails_once", { .op = SIMDEV_WRITE, .times = 1 }, "rWwrf", 2 },
	{ "the_third_write_fails_once", { .op = SIMDEV_WRITE, .after = 2, .times = 1 }, "wwWw", 4 },
	{ "writes_fail_from_then_on", { .op = SIMDEV_WRITE, .after = 1 }, "wWWrfW", 1 },
	{ "two_writes_fail", { .op = SIMDEV_WRITE, .times = 2 }, "WWw", 3 },
	{ "a_failed_write_may_have_happened",
	  { .op = SIMDEV_WRITE, .after = 1, .times = 1, .effect = SIMDEV_DONE },
	  "wW",
	  2 },
	{ "a_write_may_fail_for_want_of_space", { .op = SIMDEV_WRITE, .err = -ENOSPC }, "W", 0 },
	{ "the_second_read_fails_once", { .op = SIMDEV_READ, .after = 1, .times = 1 }, "wrRrw", 2 },
	{ "reads_of_other_blocks_go_well", { .op = SIMDEV_READ, .addr = 6, .blocks = 10 }, "rr", 0 },
	{ "reads_of_a_bad_block_fail", { .op = SIMDEV_READ, .addr = 0, .blocks = 6 }, "RR", 0 },
	{ "a_failed_flush_ends_all_writing", { .op = SIMDEV_FLUSH, .after = 1, .times = 1 }, "wfwFWFrD", 2 },
	{ "a_discard_may_be_unsupported", { .op = SIMDEV_DISCARD, .err = -EOPNOTSUPP }, "wDw", 2 },
};

static void fails_as_told(void **state)
{
	const struct fault_row *row = *state;
	struct simdev *sd = simdev_new(NULL);
	struct bdev *dev = simdev_bdev(sd);
	uint64_t *buf = fill_buffer(1);
	uint64_t writes = 0, failed = 0;

	simdev_add_fault(sd, &row->fault);
	for (const char *p = row->ops; *p; p++) {
		int want = row->fault.err ? row->fault.err : -EIO;
		int err = 0;

		switch (*p | 32) {
		case 'r':
			err = bdev_read(dev, 5, buf, 1);
			break;
		case 'w':
			err = fill_put(dev, 5, 1, ++writes);
			break;
		case 'f':
			err = bdev_flush(dev);
			break;
		case 'd':
			err = bdev_discard(dev, 5000, 1);
			break;
		}
		assert_int_equal(err, *p & 32 ? 0 : want);
		failed += err != 0;
	}
	assert_int_equal(fill_get(sd, 5), row->content);
	/* Behind a failed flush bdev refuses by itself. */
	assert_int_equal(simdev_failed(sd), row->fault.op == SIMDEV_FLUSH ? 1 : failed);

	/* After a reboot the device takes writes again. */
	bdev_close(dev);
	simdev_clear_faults(sd);
	assert_int_equal(fill_put(simdev_bdev(sd), 5, 1, 99), 0);
	mem_free(buf);
	simdev_free(sd);
}

static void a_failed_write_may_be_torn(void **state)
{
	struct simdev *sd = *state;
	unsigned old = 0, new = 0;

	assert_int_equal(fill_put(simdev_bdev(sd), 10, 4, 1), 0);
	simdev_add_fault(sd, &(struct simdev_fault){ .op = SIMDEV_WRITE, .effect = SIMDEV_TORN });
	assert_int_equal(fill_put(simdev_bdev(sd), 10, 4, 2), -EIO);
	for (uint64_t a = 10; a < 14; a++)
		for (unsigned s = 0; s < FILL_SECTORS; s++) {
			assert_in_range(fill_sector(sd, a, s), 1, 2);
			*(fill_sector(sd, a, s) == 1 ? &old : &new) += 1;
		}
	assert_true(old > 0 && new > 0);
}

static int no_odd_addresses(void *arg, enum simdev_op op, uint64_t number, uint64_t addr, uint64_t blocks)
{
	(void)number;
	(void)blocks;
	++*(unsigned *)arg;
	return op == SIMDEV_WRITE && addr % 2 ? -ETIMEDOUT : 0;
}

static void a_callback_decides(void **state)
{
	struct simdev *sd = *state;
	unsigned calls = 0;

	simdev_set_callback(sd, no_odd_addresses, &calls);
	assert_int_equal(fill_put(simdev_bdev(sd), 2, 1, 1), 0);
	assert_int_equal(fill_put(simdev_bdev(sd), 3, 1, 1), -ETIMEDOUT);
	assert_int_equal(bdev_flush(simdev_bdev(sd)), 0);
	assert_int_equal(calls, 3);
}

static void a_dead_disk_does_nothing_more(void **state)
{
	struct simdev *sd = *state;
	struct bdev *dev = simdev_bdev(sd);
	uint64_t *buf = fill_buffer(1);

	simdev_kill_at(sd, 2);
	assert_int_equal(fill_put(dev, 1, 1, 1), 0);
	assert_int_equal(fill_put(dev, 2, 1, 1), 0);
	assert_int_equal(bdev_read(dev, 1, buf, 1), 0);
	assert_false(simdev_dead(sd));
	assert_int_equal(fill_put(dev, 3, 1, 1), -EIO);
	assert_true(simdev_dead(sd));
	assert_int_equal(bdev_read(dev, 1, buf, 1), -EIO);
	assert_int_equal(bdev_flush(dev), -EIO);
	assert_int_equal(simdev_ops(sd), 2);
	assert_int_equal(simdev_unflushed(sd, 2), 2);
	mem_free(buf);
}

/* --- transfers in flight --- */

struct flight {
	struct bio bio;
	struct iovec iov;
	uint64_t *buf;
	unsigned *order, *next;
	unsigned id;
};

static void landed(struct bio *bio)
{
	struct flight *f = bio->arg;

	f->order[(*f->next)++] = f->id;
}

static void launch(struct bdev *dev, struct flight *f, struct bio_group *g, uint64_t addr, uint64_t value)
{
	struct bio *bio = &f->bio;

	f->buf = fill_buffer(1);
	fill_words(f->buf, 1, value);
	f->iov = (struct iovec){ f->buf, BLOCK_SIZE };
	f->bio = (struct bio){
		.op = BIO_WRITE, .addr = addr, .iov = &f->iov, .iovcnt = 1, .group = g, .done = landed, .arg = f
	};
	bdev_submit(dev, &bio, 1);
}

static void shuffled_transfers_wait_for_wait(void **state)
{
	enum { N = 50 };
	struct simdev *sd = simdev_new(&(struct simdev_options){ .shuffle = true });
	struct bdev *dev = simdev_bdev(sd);
	unsigned order[N], next = 0, moved = 0;
	struct flight f[N];
	struct bio_group g;

	(void)state;
	bio_group_init(&g);
	for (unsigned i = 0; i < N; i++) {
		f[i].order = order;
		f[i].next = &next;
		f[i].id = i;
		launch(dev, &f[i], &g, i, 9);
	}
	assert_int_equal(next, 0);
	assert_int_equal(fill_get(sd, 3), 0);
	assert_int_equal(bdev_wait(dev, &g), 0);
	assert_int_equal(next, N);
	for (unsigned i = 0; i < N; i++) {
		moved += order[i] != i;
		assert_int_equal(fill_get(sd, i), 9);
		mem_free(f[i].buf);
	}
	assert_true(moved > N / 2);
	simdev_free(sd);
}

static void a_flush_does_not_cover_what_is_in_flight(void **state)
{
	static const enum simdev_choice drop[] = { SIMDEV_DROP };
	struct simdev *sd = simdev_new(&(struct simdev_options){ .shuffle = true });
	struct bdev *dev = simdev_bdev(sd);
	unsigned order, next = 0;
	struct flight f = { .order = &order, .next = &next };
	struct simdev_record r;
	struct simdev *after;
	struct bio_group g;

	(void)state;
	bio_group_init(&g);
	launch(dev, &f, &g, 1, 1);		     /* 0 */
	assert_int_equal(fill_put(dev, 2, 1, 1), 0); /* 1 */
	assert_int_equal(bdev_flush(dev), 0);	     /* 2 */
	assert_int_equal(simdev_unflushed(sd, 3), 1);
	assert_int_equal(bdev_wait(dev, &g), 0);
	assert_int_equal(simdev_unflushed(sd, 3), 1);
	assert_int_equal(bdev_flush(dev), 0); /* 3 */
	assert_int_equal(simdev_unflushed(sd, 3), 1);
	assert_int_equal(simdev_unflushed(sd, 4), 0);
	assert_true(simdev_record_at(sd, 0, &r));
	assert_int_equal(r.covered, 3);
	after = simdev_branch(sd, 3, drop, 0);
	assert_int_equal(fill_get(after, 1), 0);
	assert_int_equal(fill_get(after, 2), 1);
	simdev_free(after);
	mem_free(f.buf);
	simdev_free(sd);
}

struct worker {
	struct bdev *dev;
	uint64_t first;
	unsigned bad;
};

static void *write_and_read(void *arg)
{
	struct worker *w = arg;
	unsigned order[8], next;
	struct flight f[8];
	struct rng rng;

	rng_seed(&rng, w->first);
	for (unsigned round = 0; round < 100; round++) {
		struct bio_group g;

		bio_group_init(&g);
		next = 0;
		for (unsigned i = 0; i < 8; i++) {
			/* Whoever waits may complete these, so the order is not counted here. */
			f[i] = (struct flight){ .order = order, .next = &next, .id = i };
			f[i].buf = fill_buffer(1);
			fill_words(f[i].buf, 1, round);
			f[i].iov = (struct iovec){ f[i].buf, BLOCK_SIZE };
			f[i].bio = (struct bio){
				.op = BIO_WRITE, .addr = w->first + i, .iov = &f[i].iov, .iovcnt = 1, .group = &g
			};
			bdev_submit(w->dev, &(struct bio *){ &f[i].bio }, 1);
		}
		w->bad += bdev_wait(w->dev, &g) != 0;
		if (rng_chance(&rng, 1, 4))
			w->bad += bdev_flush(w->dev) != 0;
		for (unsigned i = 0; i < 8; i++) {
			fill_words(f[i].buf, 1, UINT64_MAX);
			w->bad += bdev_read(w->dev, w->first + i, f[i].buf, 1) != 0;
			w->bad += f[i].buf[17] != round;
			mem_free(f[i].buf);
		}
	}
	return NULL;
}

static void many_threads_share_a_disk(void **state)
{
	(void)state;
	for (int shuffle = 0; shuffle < 2; shuffle++) {
		struct simdev *sd = simdev_new(&(struct simdev_options){ .shuffle = shuffle });
		pthread_t thread[4];
		struct worker w[4];

		for (unsigned i = 0; i < 4; i++) {
			w[i] = (struct worker){ simdev_bdev(sd), 100 * i, 0 };
			assert_int_equal(pthread_create(&thread[i], NULL, write_and_read, &w[i]), 0);
		}
		for (unsigned i = 0; i < 4; i++) {
			pthread_join(thread[i], NULL);
			assert_int_equal(w[i].bad, 0);
		}
		simdev_free(sd);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, new_disk, free_disk)

int main(void)
{
	const struct CMUnitTest fixed[] = {
		T(a_new_disk_reads_as_zeros),
		T(a_write_is_visible_at_once),
		cmocka_unit_test(a_disk_may_be_huge),
		cmocka_unit_test(a_read_only_disk_refuses_writes),
		T(growing_is_seen_after_resize),
		T(a_failed_write_may_be_torn),
		T(a_callback_decides),
		T(a_dead_disk_does_nothing_more),
		cmocka_unit_test(shuffled_transfers_wait_for_wait),
		cmocka_unit_test(a_flush_does_not_cover_what_is_in_flight),
		cmocka_unit_test(many_threads_share_a_disk),
	};
	struct CMUnitTest tests[ARRAY_LEN(fixed) + ARRAY_LEN(refusals) + ARRAY_LEN(fault_rows)];
	struct CMUnitTest *t = tests + ARRAY_LEN(fixed);

	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
		*t++ = TEST_ROW(refusals[i].name, refuses, &refusals[i]);
	for (size_t i = 0; i < ARRAY_LEN(fault_rows); i++)
		*t++ = TEST_ROW(fault_rows[i].name, fails_as_told, &fault_rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <endian.h>
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

/* --- crashes --- */

static void a_crash_decides_about_what_no_flush_covers(void **state)
{
	static const enum simdev_choice keep_second[] = { SIMDEV_DROP, SIMDEV_KEEP };
	struct simdev *sd = *state;
	struct bdev *dev = simdev_bdev(sd);
	struct simdev *after;

	fill_put(dev, 1, 1, 10); /* 0 */
	fill_put(dev, 2, 1, 10); /* 1 */
	bdev_flush(dev);	 /* 2 */
	fill_put(dev, 2, 1, 11); /* 3 */
	fill_put(dev, 3, 1, 11); /* 4 */
	bdev_flush(dev);	 /* 5 */
	assert_int_equal(simdev_ops(sd), 6);

	assert_int_equal(simdev_unflushed(sd, 0), 0);
	assert_int_equal(simdev_unflushed(sd, 1), 1);
	assert_int_equal(simdev_unflushed(sd, 2), 2);
	assert_int_equal(simdev_unflushed(sd, 3), 0);
	assert_int_equal(simdev_unflushed(sd, 5), 2);
	assert_int_equal(simdev_unflushed(sd, 6), 0);

	after = simdev_branch(sd, 2, keep_second, 1);
	assert_int_equal(fill_get(after, 1), 0);
	assert_int_equal(fill_get(after, 2), 10);
	assert_int_equal(fill_get(after, 3), 0);
	simdev_free(after);

	after = simdev_branch(sd, 5, keep_second, 1);
	assert_int_equal(fill_get(after, 1), 10);
	assert_int_equal(fill_get(after, 2), 10);
	assert_int_equal(fill_get(after, 3), 11);
	simdev_free(after);

	after = simdev_branch(sd, 6, NULL, 1);
	assert_int_equal(fill_get(after, 1), 10);
	assert_int_equal(fill_get(after, 2), 11);
	assert_int_equal(fill_get(after, 3), 11);
	simdev_free(after);
}

static void overlapping_writes_apply_in_order(void **state)
{
	static const enum simdev_choice keep_all[] = { SIMDEV_KEEP, SIMDEV_KEEP, SIMDEV_KEEP };
	static const enum simdev_choice not_the_last[] = { SIMDEV_KEEP, SIMDEV_KEEP, SIMDEV_DROP };
	static const uint64_t all[] = { 1, 3, 3, 2, 2, 2 };
	static const uint64_t first_two[] = { 1, 1, 2, 2, 2, 2 };
	struct simdev *sd = *state;
	struct simdev *after;

	fill_put(simdev_bdev(sd), 10, 4, 1);
	fill_put(simdev_bdev(sd), 12, 4, 2);
	fill_put(simdev_bdev(sd), 11, 2, 3);
	after = simdev_branch(sd, 3, keep_all, 0);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(fill_get(after, 10 + i), all[i]);
	simdev_free(after);
	after = simdev_branch(sd, 3, not_the_last, 0);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(fill_get(after, 10 + i), first_two[i]);
	simdev_free(after);
}

static void a_failed_flush_covers_nothing(void **state)
{
	struct simdev *sd = *state;

	fill_put(simdev_bdev(sd), 1, 1, 1);
	simdev_add_fault(sd, &(struct simdev_fault){ .op = SIMDEV_FLUSH });
	assert_int_equal(bdev_flush(simdev_bdev(sd)), -EIO);
	assert_int_equal(simdev_ops(sd), 2);
	assert_int_equal(simdev_unflushed(sd, 2), 1);
}

static void a_write_that_failed_undone_is_no_choice(void **state)
{
	struct simdev *sd = *state;

	simdev_add_fault(sd, &(struct simdev_fault){ .op = SIMDEV_WRITE, .times = 1 });
	fill_put(simdev_bdev(sd), 1, 1, 1);
	assert_int_equal(simdev_unflushed(sd, 1), 0);
}

static void a_few_writes_are_enumerated_wholly(void **state)
{
	struct simdev *sd = *state;
	bool seen[3][3][3] = { { { false } } };
	unsigned states = 0;
	struct simdev_crash c;
	struct simdev *after;

	for (uint64_t a = 0; a < 3; a++)
		fill_put(simdev_bdev(sd), a, 1, 5);
	simdev_crash_begin(&c, sd, 3, 27, 1);
	assert_true(c.exhaustive);
	while ((after = simdev_crash_next(&c))) {
		unsigned kind[3];

		for (unsigned a = 0; a < 3; a++) {
			unsigned kept = 0;

			for (unsigned s = 0; s < FILL_SECTORS; s++)
				kept += fill_sector(after, a, s) == 5;
			kind[a] = kept == 0 ? 0 : kept == FILL_SECTORS ? 1 : 2;
			if (c.choice[a] != SIMDEV_TEAR)
				assert_int_equal(kind[a], c.choice[a]);
		}
		seen[c.choice[0]][c.choice[1]][c.choice[2]] = true;
		states++;
		simdev_free(after);
	}
	simdev_crash_end(&c);
	assert_int_equal(states, 27);
	for (int i = 0; i < 27; i++)
		assert_true(seen[i / 9][i / 3 % 3][i % 3]);
}

static void many_writes_are_sampled(void **state)
{
	struct simdev *sd = *state;
	uint64_t states = 0;
	struct simdev_crash c;
	struct simdev *after;

	for (uint64_t a = 0; a < 50; a++)
		fill_put(simdev_bdev(sd), a, 1, 5);
	simdev_crash_begin(&c, sd, 50, 100, 1);
	assert_false(c.exhaustive);
	while ((after = simdev_crash_next(&c))) {
		if (states == 0)
			assert_int_equal(fill_get(after, 7), 0);
		if (states == 1)
			assert_int_equal(fill_get(after, 7), 5);
		states++;
		simdev_free(after);
	}
	simdev_crash_end(&c);
	assert_int_equal(states, 100);
}

/*
 * By chance: every sector of every crash state holds either what was durable or what one of the writes behind that
 * put there, and both sides occur; and the same seed gives the same state.
 */
static void a_crash_state_holds_only_what_was_written(void **state)
{
	enum { BLOCKS = 40, OPS = 400 };
	struct bdev *dev = simdev_bdev(*state);
	struct simdev *sd = *state;
	uint64_t durable[BLOCKS] = { 0 }, now[BLOCKS] = { 0 };
	uint64_t flushed = 0; /* operations before this one are covered */
	unsigned old = 0, new = 0;
	struct rng rng;
	uint64_t seed = rng_seed_env(&rng, 42);

	for (uint64_t n = 0; n < OPS; n++) {
		if (rng_chance(&rng, 1, 12)) {
			assert_int_equal(bdev_flush(dev), 0);
			memcpy(durable, now, sizeof(now));
			flushed = n + 1;
		} else {
			uint32_t blocks = (uint32_t)rng_range(&rng, 1, 5);
			uint64_t addr = rng_below(&rng, BLOCKS - blocks + 1);

			assert_int_equal(fill_put(dev, addr, blocks, n + 1), 0);
			for (uint32_t i = 0; i < blocks; i++)
				now[addr + i] = n + 1;
		}
		for (uint64_t s = 0; s < 3; s++) {
			struct simdev *a = simdev_branch(sd, n + 1, NULL, seed + s);
			struct simdev *b = simdev_branch(sd, n + 1, NULL, seed + s);

			for (uint64_t at = 0; at < BLOCKS; at++)
				for (unsigned i = 0; i < FILL_SECTORS; i++) {
					uint64_t value = fill_sector(a, at, i);

					assert_int_equal(value, fill_sector(b, at, i));
					assert_true(value == durable[at] || value > flushed);
					assert_true(value <= now[at]);
					if (now[at] > flushed)
						*(value == now[at] ? &new : &old) += 1;
				}
			simdev_free(a);
			simdev_free(b);
		}
	}
	assert_true(old > 1000 && new > 1000);

	/* Much later, the past is still there. */
	for (uint64_t n = 0; n <= OPS; n += 13) {
		struct simdev *a = simdev_branch(sd, n, NULL, seed);

		for (uint64_t at = 0; at < BLOCKS; at++)
			assert_true(fill_sector(a, at, 3) <= n);
		simdev_free(a);
	}
}

static void without_a_trace_the_present_can_still_crash(void **state)
{
	static const enum simdev_choice drop[] = { SIMDEV_DROP };
	struct simdev *sd = simdev_new(&(struct simdev_options){ .no_trace = true });
	struct simdev_record record;
	struct simdev *after;

	(void)state;
	for (uint64_t i = 1; i < 100; i++) {
		fill_put(simdev_bdev(sd), i, 1, i);
		bdev_flush(simdev_bdev(sd));
		assert_false(simdev_record_at(sd, 2 * (i - 1), &record));
	}
	fill_put(simdev_bdev(sd), 5, 1, 1000);
	assert_int_equal(simdev_ops(sd), 199);
	assert_int_equal(simdev_unflushed(sd, 199), 1);
	after = simdev_branch(sd, 199, drop, 0);
	assert_int_equal(fill_get(after, 5), 5);
	assert_int_equal(fill_get(after, 99), 99);
	simdev_free(after);
	simdev_free(sd);
}

static void the_trace_tells_what_was_done(void **state)
{
	struct simdev *sd = *state;
	struct bdev *dev = simdev_bdev(sd);
	struct simdev_record r;

	fill_put(dev, 7, 2, 1);
	bdev_flush(dev);
	fill_put(dev, 8, 1, 1);
	assert_true(simdev_record_at(sd, 0, &r));
	assert_int_equal(r.op, SIMDEV_WRITE);
	assert_int_equal(r.addr, 7);
	assert_int_equal(r.blocks, 2);
	assert_int_equal(r.covered, 1);
	assert_true(simdev_record_at(sd, 1, &r));
	assert_int_equal(r.op, SIMDEV_FLUSH);
	assert_true(simdev_record_at(sd, 2, &r));
	assert_true(r.covered == UINT64_MAX);
	assert_false(simdev_record_at(sd, 3, &r));
}

/* --- content as a value --- */

static void a_clone_goes_its_own_way(void **state)
{
	struct simdev *sd = *state;
	struct simdev *clone;

	fill_put(simdev_bdev(sd), 1, 1, 1);
	fill_put(simdev_bdev(sd), 2, 1, 1);
	clone = simdev_clone(sd);
	fill_put(simdev_bdev(sd), 1, 1, 2);
	fill_put(simdev_bdev(clone), 2, 1, 3);
	assert_int_equal(fill_get(sd, 1), 2);
	assert_int_equal(fill_get(sd, 2), 1);
	assert_int_equal(fill_get(clone, 1), 1);
	assert_int_equal(fill_get(clone, 2), 3);
	assert_int_equal(simdev_ops(clone), 1);
	simdev_free(clone);
}

static void a_base_outlives_its_maker_and_serves_many(void **state)
{
	struct simdev *first = simdev_new(&(struct simdev_options){ .blocks = 1000 });
	struct simdev *disk[10];
	struct simdev_image *base;

	(void)state;
	fill_put(simdev_bdev(first), 500, 1, 1);
	base = simdev_freeze(first);
	simdev_free(first);
	for (uint64_t i = 0; i < 10; i++) {
		disk[i] = simdev_new(&(struct simdev_options){ .base = base });
		assert_int_equal(simdev_bdev(disk[i])->geo.blocks, 1000);
		fill_put(simdev_bdev(disk[i]), 501, 1, i);
	}
	simdev_image_free(base);
	for (uint64_t i = 0; i < 10; i++) {
		assert_int_equal(fill_get(disk[i], 500), 1);
		assert_int_equal(fill_get(disk[i], 501), i);
		simdev_free(disk[i]);
	}
}

static void a_power_cut_leaves_what_was_flushed(void **state)
{
	struct simdev *sd = simdev_new(NULL);

	(void)state;
	fill_put(simdev_bdev(sd), 1, 1, 10);
	bdev_flush(simdev_bdev(sd));
	fill_put(simdev_bdev(sd), 1, 1, 11);
	fill_put(simdev_bdev(sd), 2, 1, 11);
	simdev_power_cut(&sd);
	assert_int_equal(fill_get(sd, 1), 10);
	assert_int_equal(fill_get(sd, 2), 0);
	simdev_free(sd);
}

static void the_digest_is_of_the_content_alone(void **state)
{
	struct simdev *sd = *state, *other = simdev_new(&(struct simdev_options){ .seed = 9 });
	static const uint8_t zeros[BLOCK_SIZE];
	uint64_t empty = simdev_digest(sd), two;

	assert_int_equal(simdev_digest(other), empty);
	fill_put(simdev_bdev(sd), 1, 1, 10);
	fill_put(simdev_bdev(sd), 700, 1, 11);
	two = simdev_digest(sd);
	assert_true(two != empty);
	/* Another way to the same; at other places; the other way round. */
	fill_put(simdev_bdev(other), 700, 1, 12);
	fill_put(simdev_bdev(other), 700, 1, 11);
	assert_true(simdev_digest(other) != two);
	fill_put(simdev_bdev(other), 1, 1, 10);
	assert_int_equal(simdev_digest(other), two);
	fill_put(simdev_bdev(other), 1, 1, 11);
	fill_put(simdev_bdev(other), 700, 1, 10);
	assert_true(simdev_digest(other) != two);
	/* Zeros are what was never written. */
	simdev_poke(other, 1, 0, zeros, BLOCK_SIZE);
	simdev_poke(other, 700, 0, zeros, BLOCK_SIZE);
	assert_int_equal(simdev_digest(other), empty);
	simdev_free(other);
}

static void bit_rot_survives_a_crash(void **state)
{
	struct simdev *sd = *state;
	struct simdev *after;
	uint64_t block[BLOCK_SIZE / 8];

	fill_put(simdev_bdev(sd), 3, 1, 0);
	bdev_flush(simdev_bdev(sd));
	simdev_flip(sd, 3, 8 * 8 + 5);
	after = simdev_branch(sd, 2, NULL, 0);
	simdev_peek(after, 3, block, 1);
	assert_int_equal(le64toh(block[1]), 32);
	assert_int_equal(block[0], 0);
	simdev_free(after);
}

static void a_disk_can_be_saved_and_loaded(void **state)
{
	char path[] = "/tmp/t_simdev.XXXXXX";
	int fd = mkstemp(path);
	struct simdev *sd = *state;
	struct simdev_image *image;
	struct simdev *again;

	assert_true(fd >= 0);
	fill_put(simdev_bdev(sd), 0, 1, 1);
	fill_put(simdev_bdev(sd), 40000, 3, 2);
	assert_int_equal(simdev_save(sd, path), 0);
	assert_int_equal(simdev_load(path, &image), 0);
	again = simdev_new(&(struct simdev_options){ .base = image });
	simdev_image_free(image);
	assert_int_equal(simdev_bdev(again)->geo.blocks, 65536);
	assert_int_equal(fill_get(again, 0), 1);
	assert_int_equal(fill_get(again, 1), 0);
	assert_int_equal(fill_get(again, 40002), 2);
	simdev_free(again);
	close(fd);
	unlink(path);
}

static void a_discard_leaves_anything_but_only_there(void **state)
{
	bool zeros = false, old = false, garbage = false;

	(void)state;
	for (uint64_t seed = 0; seed < 40; seed++) {
		struct simdev *sd = simdev_new(&(struct simdev_options){ .seed = seed });
		struct simdev *same = simdev_new(&(struct simdev_options){ .seed = seed });
		uint64_t a[BLOCK_SIZE / 8], b[BLOCK_SIZE / 8];

		for (int i = 0; i < 2; i++) {
			struct bdev *dev = simdev_bdev(i ? same : sd);

			fill_put(dev, 10, 20, 7);
			assert_int_equal(bdev_discard(dev, 12, 16), 0);
		}
		for (uint64_t addr = 10; addr < 30; addr++) {
			simdev_peek(sd, addr, a, 1);
			simdev_peek(same, addr, b, 1);
			assert_memory_equal(a, b, sizeof(a));
			if (addr < 12 || addr >= 28)
				assert_int_equal(fill_get(sd, addr), 7);
			else
				*(a[9] == 0 ? &zeros : a[9] == 7 ? &old : &garbage) = true;
		}
		simdev_free(sd);
		simdev_free(same);
	}
	assert_true(zeros && old && garbage);
}

static void a_terabyte_is_discarded_at_once(void **state)
{
	uint64_t blocks = (UINT64_C(1) << 40) >> BLOCK_SHIFT;
	struct simdev *sd = simdev_new(&(struct simdev_options){ .blocks = blocks });

	(void)state;
	fill_put(simdev_bdev(sd), 77777, 1, 7);
	assert_int_equal(bdev_discard(simdev_bdev(sd), 0, blocks), 0);
	simdev_free(sd);
}

static void a_crash_state_costs_only_its_own_pages(void **state)
{
	enum { STATES = 20000 };
	struct simdev *sd = *state;
	struct timespec a, b;
	double us;

	for (uint64_t i = 0; i < 4096; i++)
		fill_put(simdev_bdev(sd), i, 1, i + 1);
	bdev_flush(simdev_bdev(sd));
	for (uint64_t i = 0; i < 4; i++)
		fill_put(simdev_bdev(sd), i * 1000, 1, 1);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (uint64_t i = 0; i < STATES; i++)
		simdev_free(simdev_branch(sd, simdev_ops(sd), NULL, i));
	clock_gettime(CLOCK_MONOTONIC, &b);
	us = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / 1e3 / STATES;
	print_message("# %.2f us a state\n", us);
	/* Far from what it takes, so that a slow machine or a sanitizer passes; copying 16 MiB would not. */
	assert_true(us < 1000);
}

#define T(name) cmocka_unit_test_setup_teardown(name, new_disk, free_disk)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_crash_decides_about_what_no_flush_covers),
		T(overlapping_writes_apply_in_order),
		T(a_failed_flush_covers_nothing),
		T(a_write_that_failed_undone_is_no_choice),
		T(a_few_writes_are_enumerated_wholly),
		T(many_writes_are_sampled),
		T(a_crash_state_holds_only_what_was_written),
		cmocka_unit_test(without_a_trace_the_present_can_still_crash),
		T(the_trace_tells_what_was_done),
		T(a_clone_goes_its_own_way),
		cmocka_unit_test(a_base_outlives_its_maker_and_serves_many),
		cmocka_unit_test(a_power_cut_leaves_what_was_flushed),
		T(the_digest_is_of_the_content_alone),
		T(bit_rot_survives_a_crash),
		T(a_disk_can_be_saved_and_loaded),
		cmocka_unit_test(a_discard_leaves_anything_but_only_there),
		cmocka_unit_test(a_terabyte_is_discarded_at_once),
		T(a_crash_state_costs_only_its_own_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

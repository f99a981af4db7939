/* t_batch.c - batches: order, ranges, locking, what is refused, and nothing changed on any error */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/failmem.h"
#include "tests/kit/rng.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define SPAN 40u /* keys {1, KVT_BYTES, 0 .. SPAN - 1} */

/*
 * A batch as text, applied to keys 0..9 that hold "old": "+3" puts, "-3" deletes, "x2:5" deletes 2..4. `left`: what each
 * key holds afterwards: '.' nothing, 'o' old, or the number of the step that put it.
 */
struct order_row {
	const char *name, *steps, *left;
};

static const struct order_row order_rows[] = {
	{ "nothing_changes_nothing", "", "oooooooooo" },
	{ "a_put_replaces", "+3", "ooo1oooooo" },
	{ "the_last_of_two_puts_wins", "+3 +3", "ooo2oooooo" },
	{ "a_deletion_after_a_put_wins", "+3 -3", "ooo.oooooo" },
	{ "a_put_after_a_deletion_wins", "-3 +3", "ooo2oooooo" },
	{ "deleting_what_is_not_there_is_no_error", "-3 -3 x3:4", "ooo.oooooo" },
	{ "a_range_takes_its_keys_and_not_its_end", "x2:5", "oo...ooooo" },
	{ "an_empty_range_takes_nothing", "x5:5", "oooooooooo" },
	{ "a_range_turned_round_takes_nothing", "x5:2", "oooooooooo" },
	{ "a_put_before_a_range_goes_with_it", "+3 x2:5", "oo...ooooo" },
	{ "a_put_after_a_range_stays", "x2:5 +3", "oo.2.ooooo" },
	{ "puts_at_both_ends_of_a_range_stay", "x2:5 +2 +4 +5", "oo2.34oooo" },
	{ "a_range_between_two_puts_of_a_key_takes_the_first", "+3 x2:5 +3", "oo.3.ooooo" },
	{ "a_later_range_takes_the_put_again", "x2:5 +3 x3:4", "oo...ooooo" },
	{ "overlapping_ranges_are_one", "x1:5 x3:8", "o.......oo" },
	{ "a_range_inside_another_is_nothing_more", "x1:8 x3:5", "o.......oo" },
	{ "a_range_around_another_with_a_put_between_takes_all", "x3:5 +4 x1:8", "o.......oo" },
	{ "a_put_survives_the_ranges_before_it", "x1:5 x3:8 +4 x6:7", "o...3...oo" },
	{ "touching_ranges_leave_nothing_between", "x1:3 x3:5", "o....ooooo" },
	{ "many_of_all_kinds", "+0 x0:4 +1 x1:2 +2 -2 +3 x8:9 +8 -9", "...7oooo9." },
};

static struct key key_at(unsigned i)
{
	return key_make(1, KVT_BYTES, i);
}

static int collect(struct batch *b, const char *steps)
{
	unsigned n = 0;
	int err = 0;

	for (const char *at = steps; !err && at && *at; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL) {
		unsigned i = (unsigned)atoi(at + 1);
		char text[8];

		n++;
		snprintf(text, sizeof(text), "%u", n);
		if (*at == '+')
			err = batch_put(b, key_at(i), text, strlen(text));
		else if (*at == '-')
			err = batch_del(b, key_at(i));
		else
			err = batch_del_range(b, key_at(i), key_at((unsigned)atoi(strchr(at, ':') + 1)));
	}
	return err;
}

static void compare(struct view *v, const char *left)
{
	for (unsigned i = 0; left[i]; i++) {
		char text[2] = { left[i], 0 };

		storekit_expect(v, 1, i, left[i] == '.' ? NULL : left[i] == 'o' ? "old" : text);
	}
}

static void put_old(struct view *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(storekit_put(v, 1, i, "old"), 0);
}

static void apply_in_order(void **state)
{
	const struct order_row *row = *state;

	for (unsigned mode = 0; mode < 4; mode++) { /* live, a transaction, live after a crash, locked */
		struct view *v, *txn = NULL;
		struct storekit k;
		struct batch *b;

		storekit_init(&k, 1024, NULL);
		v = store_live(k.s);
		put_old(v, 10);
		if (mode == 1) {
			assert_int_equal(txn_begin(k.s, &txn), 0);
			v = txn;
		}
		assert_int_equal(batch_open(v, &b), 0);
		if (mode == 3)
			assert_int_equal(batch_lock(b), 0);
		assert_int_equal(collect(b, row->steps), 0);
		assert_int_equal(batch_commit(b, NULL), 0);
		batch_close(b);
		compare(v, row->left);
		if (txn) {
			compare(store_live(k.s), "oooooooooo");
			assert_int_equal(txn_commit(txn, &merge_by_key, NULL, NULL), 0);
			view_close(txn);
			compare(store_live(k.s), row->left);
		}
		if (mode == 2) {
			assert_int_equal(store_sync(k.s), 0);
			storekit_reboot(&k, true);
			compare(store_live(k.s), row->left);
		}
		storekit_check(&k);
		storekit_release(&k);
	}
}

/* The same by chance, against an array. */
static void random_batches_do_what_a_plain_array_does(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		unsigned want[SPAN] = { 0 }, serial = 0;
		struct storekit k;
		struct rng rng;
		struct batch *b;

		rng_seed(&rng, seed);
		storekit_init(&k, 1024, NULL);
		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		for (unsigned round = 0; round < 12; round++) {
			for (unsigned n = (unsigned)rng_below(&rng, 14); n; n--) {
				unsigned i = (unsigned)rng_below(&rng, SPAN), end = i + (unsigned)rng_below(&rng, SPAN + 1 - i);

				switch (rng_below(&rng, 4)) {
				case 0:
					assert_int_equal(batch_del(b, key_at(i)), 0);
					want[i] = 0;
					break;
				case 1:
					assert_int_equal(batch_del_range(b, key_at(i), key_at(end)), 0);
					memset(want + i, 0, (end - i) * sizeof(*want));
					break;
				default:
					want[i] = ++serial;
					assert_int_equal(batch_put(b, key_at(i), &serial, sizeof(serial)), 0);
				}
			}
			assert_int_equal(batch_commit(b, NULL), 0);
			for (unsigned i = 0; i < SPAN; i++) {
				unsigned got = 0;
				size_t len;
				int err = view_get(store_live(k.s), key_at(i), &got, sizeof(got), &len);

				assert_int_equal(err, want[i] ? 0 : -ENOENT);
				assert_int_equal(got, want[i]);
			}
		}
		batch_close(b);
		storekit_check(&k);
		storekit_release(&k);
	}
}

/* ---- locking ---- */

static void a_locked_batch_reads_what_it_decides_on(void **state)
{
	struct storekit k;
	struct batch *b;
	unsigned restarts = 0;

	(void)state;
	storekit_init(&k, 4096, NULL);
	for (unsigned i = 0; i < 500; i++)
		assert_int_equal(storekit_put(store_live(k.s), i + 1, 0, "a text that makes the tree a few levels high"), 0);
	storekit_close(&k);
	storekit_open(&k); /* nothing in memory: -EAGAIN */
	assert_int_equal(batch_open(store_live(k.s), &b), 0);
	for (unsigned i = 0; i < 500; i += 7) {
		const void *val;
		size_t len;
		int err;

		do {
			err = batch_lock(b);
			if (!err)
				err = batch_get(b, key_make(i + 1, KVT_BYTES, 0), &val, &len);
			if (!err)
				err = batch_get(b, key_make(500 - i, KVT_BYTES, 0), &val, &len);
			if (!err) {
				char copy[64];

				assert_true(len < sizeof(copy));
				memcpy(copy, val, len);
				copy[0] = 'A';
				err = batch_put(b, key_make(i + 1, KVT_BYTES, 0), copy, len);
			}
			if (!err)
				err = batch_commit(b, NULL);
			restarts += err == -EAGAIN;
		} while (err == -EAGAIN);
		assert_int_equal(err, 0);
	}
	assert_true(restarts > 0);
	/* What is not there; and giving up. */
	assert_int_equal(batch_lock(b), 0);
	{
		const void *val;
		size_t len;

		assert_int_equal(batch_get(b, key_make(9999, KVT_BYTES, 0), &val, &len), -ENOENT);
	}
	assert_int_equal(batch_put(b, key_make(9999, KVT_BYTES, 0), "x", 1), 0);
	batch_cancel(b);
	storekit_expect(store_live(k.s), 9999, 0, NULL);
	batch_close(b);
	storekit_expect(store_live(k.s), 1, 0, "A text that makes the tree a few levels high");
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- what is refused ---- */

static void wrong_items_are_refused_and_leave_the_batch_as_it_was(void **state)
{
	uint8_t big[5000] = { 0 };
	struct storekit k;
	struct batch *b;
	struct view *v;
	struct extent x;

	(void)state;
	storekit_init(&k, 1024, NULL);
	assert_int_equal(batch_open(store_live(k.s), &b), 0);
	assert_int_equal(batch_put(b, key_at(0), "good", 4), 0);
	assert_int_equal(batch_put(b, key_at(1), big, sizeof(big)), -EINVAL);
	assert_int_equal(batch_put(b, key_make(1, KVT_LINK, 0), "", 0), -EUCLEAN);
	assert_int_equal(batch_put(b, key_make(1, 77, 0), "no such type", 12), -EUCLEAN);
	assert_int_not_equal(batch_put(b, key_make(KEY_INO_MAX, 255, 100), big, 16), 0); /* the engine's own */
	assert_int_equal(batch_del(b, key_make(KEY_INO_MAX, 255, 100)), -EINVAL);
	assert_int_equal(batch_raise(b, 8, 1), -EINVAL);
	assert_int_equal(batch_alloc(b, 0, false, &x), -EINVAL);
	assert_int_equal(batch_alloc(b, 257, false, &x), -EINVAL);
	assert_int_equal(batch_commit(b, NULL), 0);
	storekit_expect(store_live(k.s), 1, 0, "good");
	/* A range may reach over the engine's items and leaves them. */
	assert_int_equal(storekit_write(&k, store_live(k.s), 5, 0, 4), 0);
	assert_int_equal(storekit_clone(store_live(k.s), 5, 0, 0, 4, 6, 0), 0);
	assert_int_equal(batch_del_range(b, key_make(6, 0, 0), KEY_MAX), 0);
	assert_int_equal(batch_commit(b, NULL), 0);
	batch_close(b);
	assert_int_equal(storekit_read(store_live(k.s), 5), 4);
	assert_int_equal(view_freeze(k.s, &v), 0);
	assert_int_equal(batch_open(v, &b), -EROFS);
	view_close(v);
	storekit_check(&k);
	storekit_release(&k);
}

static void counters_rise_and_never_fall(void **state)
{
	struct storekit k;
	struct batch *b;
	struct view *txn;

	(void)state;
	storekit_init(&k, 1024, NULL);
	assert_int_equal(store_counter(k.s, 3), 0);
	assert_int_equal(batch_open(store_live(k.s), &b), 0);
	assert_int_equal(batch_raise(b, 3, 10), 0); /* alone */
	assert_int_equal(store_counter(k.s, 3), 0);
	assert_int_equal(batch_commit(b, NULL), 0);
	assert_int_equal(store_counter(k.s, 3), 10);
	assert_int_equal(batch_raise(b, 3, 5), 0);
	assert_int_equal(batch_raise(b, 7, 8), 0);
	assert_int_equal(batch_raise(b, 7, 6), 0);
	assert_int_equal(batch_put(b, key_at(0), "x", 1), 0);
	assert_int_equal(batch_commit(b, NULL), 0);
	assert_int_equal(batch_raise(b, 3, 99), 0);
	batch_cancel(b);
	batch_close(b);
	assert_int_equal(store_counter(k.s, 3), 10);
	assert_int_equal(store_counter(k.s, 7), 8);
	assert_int_equal(store_counter(k.s, 8), 0);
	assert_int_equal(txn_begin(k.s, &txn), 0);
	assert_int_equal(batch_open(txn, &b), 0);
	assert_int_equal(batch_raise(b, 3, 99), -EINVAL);
	batch_close(b);
	view_close(txn);
	assert_int_equal(store_sync(k.s), 0);
	storekit_reboot(&k, true);
	assert_int_equal(store_counter(k.s, 3), 10);
	assert_int_equal(store_counter(k.s, 7), 8);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0);
	assert_int_equal(snapshot_rollback(k.s, "s"), 0);
	assert_int_equal(store_counter(k.s, 7), 8);
	storekit_release(&k);
}

/* ---- large ones ---- */

static void records_larger_than_the_log_takes_have_their_body_outside(void **state)
{
	static uint8_t text[700];
	struct storekit k;
	struct batch *b;
	uint64_t lsn, before;

	(void)state;
	storekit_init(&k, 8192, NULL);
	k.opt.cache_bytes = 32 << 20;
	storekit_close(&k);
	storekit_open(&k);
	storekit_settle(&k);
	before = storekit_free(&k);
	memset(text, 'x', sizeof(text));
	for (unsigned round = 0; round < 4; round++) {
		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		for (unsigned n = 10; n <= 1280; n *= 2) {
			for (unsigned i = 0; i < n; i++)
				assert_int_equal(batch_put(b, key_make(n, KVT_BYTES, i), text, sizeof(text)), 0);
			assert_int_equal(batch_commit(b, &lsn), 0);
			assert_int_not_equal(lsn, 0);
		}
		batch_close(b);
		assert_int_equal(storekit_items(store_live(k.s)), 2550);
		assert_int_equal(store_sync(k.s), 0);
		if (round == 1)
			storekit_reboot(&k, true);
		assert_int_equal(storekit_items(store_live(k.s)), 2550);
		storekit_check(&k);
		for (unsigned n = 10; n <= 1280; n *= 2)
			assert_int_equal(storekit_remove(store_live(k.s), n), 0);
		assert_int_equal(storekit_items(store_live(k.s)), 0);
		storekit_check(&k);
	}
	storekit_settle(&k);
	/* The bodies came back, 450 blocks a round; what is missing waits in the pool of node addresses. */
	assert_true(storekit_free(&k) + 700 > before);
	storekit_release(&k);
}

static void more_than_memory_can_take_is_efbig_and_changes_nothing(void **state)
{
	static const uint8_t text[700];
	struct storekit k;
	struct batch *b;
	uint64_t before;

	(void)state;
	storekit_init(&k, 16384, NULL);
	k.opt.cache_bytes = 1 << 20; /* 256 nodes */
	storekit_close(&k);
	storekit_open(&k);
	storekit_settle(&k);
	before = storekit_free(&k);
	for (unsigned locked = 0; locked < 2; locked++) {
		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		if (locked)
			assert_int_equal(batch_lock(b), 0);
		for (unsigned i = 0; i < 2000; i++)
			assert_int_equal(batch_put(b, key_make(5, KVT_BYTES, i), text, sizeof(text)), 0);
		assert_int_equal(batch_commit(b, NULL), -EFBIG);
		assert_int_equal(batch_put(b, key_at(locked), "small", 5), 0); /* it is empty again */
		assert_int_equal(batch_commit(b, NULL), 0);
		batch_close(b);
	}
	assert_int_equal(storekit_items(store_live(k.s)), 2);
	storekit_check(&k);
	storekit_settle(&k);
	assert_true(storekit_free(&k) + 200 > before);
	storekit_release(&k);
}

/* ---- blocks ---- */

static void blocks_that_nothing_refers_to_are_free_again(void **state)
{
	struct storekit k;
	struct batch *b;
	struct extent x, y;
	uint8_t val[KV_VALUE_MAX];
	uint64_t before;
	size_t len;

	(void)state;
	storekit_init(&k, 1024, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "x"), 0);
	storekit_settle(&k);
	before = storekit_free(&k);
	for (unsigned how = 0; how < 4; how++) {
		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		assert_int_equal(batch_alloc(b, 20, false, &x), 0);
		assert_int_equal(batch_alloc(b, 30, false, &y), 0);
		for (unsigned i = 0; i < 2; i++) {
			struct extent *e = i ? &y : &x;
			void *buf = mem_alloc_blocks((size_t)e->blocks * BLOCK_SIZE);

			len = kv_extent_make(val, e->addr, e->blocks, 500 + i, 0, buf);
			assert_int_equal(batch_data(b, e->addr, e->blocks, buf,
						    (const uint32_t *)((struct kv_extent_val *)val)->sums), 0);
		}
		if (how == 1)
			assert_int_equal(batch_put(b, key_at(0), "no extent", 9), 0);
		if (how == 2) { /* the middle of the second one alone */
			uint8_t part[KV_VALUE_MAX];

			len = kv_extent_part(val, 5, 7, part);
			assert_int_equal(batch_put(b, storekit_file(9, 0), part, len), 0);
		}
		if (how == 3)
			batch_cancel(b);
		else
			assert_int_equal(batch_commit(b, NULL), 0);
		batch_close(b);
		assert_int_equal(storekit_read(store_live(k.s), 9), how == 2 ? 7 : 0);
		assert_int_equal(store_sync(k.s), 0);
		storekit_check(&k);
		assert_int_equal(k.checked.data_blocks, how == 2 ? 7 : 0);
		assert_int_equal(storekit_remove(store_live(k.s), 9), 0);
		storekit_settle(&k);
		assert_true(storekit_free(&k) + 8 > before);
	}
	storekit_release(&k);
}

/* ---- no memory ---- */

enum work { PUT, REPLACE, REMOVE, CLONE, CLAIM, LOCKED, WORKS };

static int do_work(struct storekit *k, struct view *v, enum work w)
{
	struct batch *b;
	const void *val;
	size_t len;
	int err;

	switch (w) {
	case PUT:
		return storekit_put(v, 1, 50, "new");
	case REPLACE:
		return storekit_write(k, v, 2, 0, 30);
	case REMOVE:
		return storekit_remove(v, 2);
	case CLONE:
		return storekit_clone(v, 2, 0, 2, 5, 3, 0);
	case CLAIM:
		return storekit_claim(v, 4, 0, 10);
	default:
		err = batch_open(v, &b);
		if (err)
			return err;
		do {
			err = batch_lock(b);
			if (!err)
				err = batch_get(b, key_at(0), &val, &len);
			if (!err)
				err = batch_put(b, key_at(51), val, len);
			if (!err)
				err = batch_commit(b, NULL);
		} while (err == -EAGAIN);
		batch_close(b);
		return err;
	}
}

static void build_small(struct storekit *k)
{
	storekit_init(k, 2048, NULL);
	put_old(store_live(k->s), 20);
	assert_int_equal(storekit_write(k, store_live(k->s), 2, 0, 30), 0);
	assert_int_equal(storekit_clone(store_live(k->s), 2, 0, 5, 10, 9, 0), 0);
	storekit_close(k);
	storekit_open(k); /* with a cold cache: more can fail */
}

static void without_memory_nothing_is_changed(void **state)
{
	(void)state;
	for (enum work w = PUT; w < WORKS; w++) {
		bool failed = true;

		for (uint64_t n = 1; failed; n++) {
			struct store_status st;
			struct storekit k;
			unsigned items;
			int err;

			build_small(&k);
			items = 22 + 1; /* with the shared record */
			failmem_start(n, FAILMEM_ONCE);
			err = do_work(&k, store_live(k.s), w);
			failed = failmem_stop();
			assert_true(err == 0 || err == -ENOMEM);
			assert_true(failed || !err);
			store_status(k.s, &st);
			assert_int_equal(st.error, 0);
			if (err)
				assert_int_equal(storekit_items(store_live(k.s)), items);
			assert_int_equal(store_sync(k.s), 0);
			storekit_check(&k);
			assert_int_equal(do_work(&k, store_live(k.s), w), 0);
			assert_int_equal(store_sync(k.s), 0);
			items = storekit_items(store_live(k.s));
			storekit_reboot(&k, true);
			assert_int_equal(storekit_items(store_live(k.s)), items);
			storekit_check(&k);
			storekit_release(&k);
		}
	}
}

static void a_large_record_without_memory_leaves_no_blocks_behind(void **state)
{
	static const uint8_t text[700];
	bool failed = true;
	struct storekit k;
	struct batch *b;
	uint64_t before;
	unsigned n;

	(void)state;
	build_small(&k);
	storekit_settle(&k);
	before = storekit_free(&k);
	for (n = 1; failed; n++) {
		int err;

		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		for (unsigned i = 0; i < 150; i++)
			assert_int_equal(batch_put(b, key_make(5, KVT_BYTES, i), text, sizeof(text)), 0);
		failmem_start(n, FAILMEM_ONCE);
		err = batch_commit(b, NULL);
		failed = failmem_stop();
		assert_true(err == 0 || err == -ENOMEM);
		batch_close(b);
		if (err)
			assert_int_equal(storekit_items(store_live(k.s)), 23);
		storekit_check(&k);
		assert_int_equal(storekit_remove(store_live(k.s), 5), 0);
	}
	storekit_check(&k);
	storekit_settle(&k);
	assert_true(n > 30); /* times 26 blocks of the body */
	assert_true(storekit_free(&k) + 300 > before);
	storekit_release(&k);
}

int main(void)
{
	enum { FIXED = 12 };
	struct CMUnitTest tests[ARRAY_LEN(order_rows) + FIXED] = {
		cmocka_unit_test(random_batches_do_what_a_plain_array_does),
		cmocka_unit_test(a_locked_batch_reads_what_it_decides_on),
		cmocka_unit_test(wrong_items_are_refused_and_leave_the_batch_as_it_was),
		cmocka_unit_test(counters_rise_and_never_fall),
		cmocka_unit_test(records_larger_than_the_log_takes_have_their_body_outside),
		cmocka_unit_test(more_than_memory_can_take_is_efbig_and_changes_nothing),
		cmocka_unit_test(blocks_that_nothing_refers_to_are_free_again),
		cmocka_unit_test(without_memory_nothing_is_changed),
		cmocka_unit_test(a_large_record_without_memory_leaves_no_blocks_behind),
	};
	size_t n = 0;

	while (tests[n].test_func)
		n++;
	for (size_t i = 0; i < ARRAY_LEN(order_rows); i++)
		tests[n++] = TEST_ROW(order_rows[i].name, apply_in_order, &order_rows[i]);
	return _cmocka_run_group_tests("batch", tests, n, NULL, NULL);
}

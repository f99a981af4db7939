/* t_full.c - a full disk never wedges (contract H) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

/* What is filled with what, and who holds on to it. */
struct row {
	const char *name;
	uint64_t blocks;
	uint32_t node_size;
	uint32_t extent;   /* blocks of each; 0: items with text alone */
	bool snapshot;	   /* of everything, when it is full */
	bool early;	   /* ... and one when it is half full */
	bool txn;	   /* a transaction has been open from the beginning */
	bool copies;
};

static const struct row rows[] = {
	{ "full_of_large_extents", 4096, 4096, 200, false, false, false, false },
	{ "full_of_single_blocks", 2048, 4096, 1, false, false, false, false },
	{ "full_of_items", 2048, 4096, 0, false, false, false, false },
	{ "full_of_items_in_large_nodes", 4096, 16384, 0, false, false, false, false },
	{ "full_with_second_copies", 4096, 4096, 3, false, false, false, true },
	{ "full_and_all_of_it_in_a_snapshot", 4096, 4096, 50, true, false, false, false },
	{ "full_of_single_blocks_and_all_in_a_snapshot", 2048, 4096, 1, true, false, false, false },
	{ "full_of_items_and_all_in_a_snapshot", 2048, 4096, 0, true, false, false, false },
	{ "full_and_two_snapshots", 4096, 4096, 20, true, true, false, false },
	{ "full_with_a_transaction_that_pins", 4096, 4096, 20, false, false, true, false },
	{ "full_with_a_transaction_and_a_snapshot", 4096, 4096, 20, true, false, true, false },
	{ "full_on_the_smallest_device", STORE_BLOCKS_MIN, 4096, 2, false, false, false, false },
	{ "full_on_the_smallest_device_and_all_in_a_snapshot", STORE_BLOCKS_MIN, 4096, 2, true, false, false, false },
};

static int add_one(struct storekit *k, struct view *v, const struct row *row, uint64_t ino)
{
	static char text[701];

	if (row->extent)
		return storekit_write(k, v, ino, 0, row->extent);
	memset(text, 't', 700);
	return storekit_put(v, ino, 0, text);
}

static uint64_t fill(struct storekit *k, const struct row *row, uint64_t ino)
{
	uint64_t first = ino;
	int err;

	while (!(err = add_one(k, store_live(k->s), row, ino))) {
		ino++;
		if (row->early && ino - first == 60)
			assert_int_equal(snapshot_create(k->s, "early", NULL), 0);
	}
	assert_int_equal(err, -ENOSPC);
	return ino;
}

static void fill_and_empty(void **state)
{
	const struct row *row = *state;
	struct store_mkfs_options mo = { .node_size = row->node_size, .log_blocks = 64, .copies = row->copies };
	struct store_status st;
	uint64_t end, again, first_end = 0;
	struct view *txn = NULL;
	struct storekit k;
	unsigned refused = 0;
	int err;

	storekit_init(&k, row->blocks, &mo);
	for (unsigned round = 0; round < 2; round++) {
		if (row->txn)
			assert_int_equal(txn_begin(k.s, &txn), 0);
		end = fill(&k, row, 100);
		if (!round)
			first_end = end;
		/* The second time as much fits, or nearly. */
		assert_true((end - 100) * 10 >= (first_end - 100) * 8);

		/* Refused before anything was changed; what was admitted becomes durable; it may be looked at. */
		assert_int_equal(store_sync(k.s), 0);
		storekit_check(&k);
		err = add_one(&k, store_live(k.s), row, end + 1);
		assert_true(err == 0 || err == -ENOSPC);
		assert_int_equal(storekit_remove(store_live(k.s), end + 1), 0);
		if (row->snapshot)
			assert_int_equal(snapshot_create(k.s, "all", NULL), 0);

		/* Everything goes. With a snapshot of it all, unlink may say -ENOSPC in the end. */
		for (uint64_t ino = 100; ino < end; ino++) {
			err = storekit_remove(store_live(k.s), ino);
			if (err) {
				assert_int_equal(err, -ENOSPC);
				assert_true(row->snapshot || row->early);
				refused++;
			}
			if (ino % 16 == 0)
				assert_int_equal(store_sync(k.s), 0);
		}
		store_status(k.s, &st);
		assert_int_equal(st.error, 0);
		if (txn) {
			/* It may have been ended for room. Else it sees what was there when it began: nothing. */
			size_t len;
			char c;

			err = view_get(txn, key_make(100, KVT_BYTES, 0), &c, 1, &len);
			assert_true(err == -ESTALE || err == -ENOENT);
			view_close(txn);
			txn = NULL;
		}
		/* Deleting a snapshot never fails. */
		if (row->early && !round)
			assert_int_equal(snapshot_delete(k.s, "early"), 0);
		if (row->snapshot)
			assert_int_equal(snapshot_delete(k.s, "all"), 0);
		for (uint64_t ino = 100; ino < end && refused; ino++)
			assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
		storekit_check(&k);
		assert_int_equal(k.checked.data_blocks, 0);
		assert_int_equal(storekit_items(store_live(k.s)), 0);
		if (round == 0)
			storekit_reboot(&k, true);
		if (row->early)
			break;
	}
	again = 0;
	while (!add_one(&k, store_live(k.s), row, 100 + again))
		again++;
	assert_true(again * 10 >= (first_end - 100) * 8);
	storekit_reboot(&k, true);
	storekit_check(&k);
	storekit_release(&k);
}

static void one_batch_may_remove_everything_a_snapshot_holds(void **state)
{
	/* As many dead-list items as there are blocks, more than the system's reserve has nodes for. */
	static const struct row row = { .extent = 1 };
	struct store_status st;
	struct storekit k;
	struct batch *b;
	uint64_t end;
	int err;

	(void)state;
	storekit_init(&k, 8192, NULL);
	/* Single blocks that do not lie together: every second one goes again first. */
	end = fill(&k, &row, 100);
	for (uint64_t ino = 100; ino < end; ino += 2)
		assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
	storekit_settle(&k);
	for (uint64_t i = 0; !storekit_write(&k, store_live(k.s), 50000 + i, 0, 1); i++)
		;
	assert_int_equal(snapshot_create(k.s, "all", NULL), 0);
	assert_int_equal(batch_open(store_live(k.s), &b), 0);
	batch_releases(b);
	assert_int_equal(batch_del_range(b, key_make(100, 0, 0), key_make(50000, 0, 0)), 0);
	err = batch_commit(b, NULL);
	batch_close(b);
	assert_true(err == 0 || err == -ENOSPC || err == -EFBIG);
	assert_int_equal(store_sync(k.s), 0);
	assert_int_equal(store_checkpoint(k.s), 0);
	store_status(k.s, &st);
	assert_int_equal(st.error, 0);
	assert_int_equal(snapshot_delete(k.s, "all"), 0);
	storekit_check(&k);
	assert_int_equal(storekit_remove(store_live(k.s), 50000), 0);
	storekit_release(&k);
}

static void claims_are_kept_for_who_made_them(void **state)
{
	struct store_status st;
	struct storekit k;
	struct batch *b;
	uint64_t end;
	unsigned filled = 0;

	(void)state;
	storekit_init(&k, 4096, NULL);
	assert_int_equal(storekit_claim(store_live(k.s), 5, 0, 1000), 0);
	assert_int_equal(storekit_claim(store_live(k.s), 6, 0, 4000), -ENOSPC); /* more than there is */
	store_status(k.s, &st);
	assert_int_equal(st.blocks_claimed, 1000);
	for (end = 100; !storekit_write(&k, store_live(k.s), end, 0, 20); end++)
		;
	storekit_check(&k);
	/* Every block of the claim can be written now. */
	for (uint64_t off = 0; off < 1000;) {
		uint64_t at[KV_VALUE_MAX / 8 + 1];
		uint8_t part[KV_VALUE_MAX];
		struct extent x;
		uint32_t n;
		size_t len;
		int err;

		assert_int_equal(view_get(store_live(k.s), storekit_file(5, off), at, sizeof(at), &len), 0);
		n = kv_extent_blocks(at);
		assert_true(kv_extent_is_claim(at));
		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		err = batch_alloc(b, n < 10 ? n : 10, true, &x);
		assert_int_equal(err, 0);
		len = kv_extent_make(part, x.addr, x.blocks, 70000 + off, 0, NULL);
		assert_int_equal(batch_put(b, storekit_file(5, off), part, len), 0);
		if (x.blocks < n) {
			len = kv_claim_make(part, n - x.blocks);
			assert_int_equal(batch_put(b, storekit_file(5, off + x.blocks), part, len), 0);
		}
		err = batch_commit(b, NULL);
		assert_int_equal(err, 0);
		batch_close(b);
		off += x.blocks;
		filled += x.blocks;
	}
	assert_int_equal(filled, 1000);
	store_status(k.s, &st);
	assert_int_equal(st.blocks_claimed, 0);
	storekit_check(&k);
	storekit_release(&k);
}

static void the_oldest_transaction_is_ended_when_it_pins_the_last_room(void **state)
{
	static const struct row items = { .extent = 0 };
	struct view *old, *young;
	struct storekit k;
	uint64_t end;

	(void)state;
	storekit_init(&k, 2048, NULL);
	end = fill(&k, &items, 100);
	assert_int_equal(txn_begin(k.s, &old), 0);
	/* Five items a leaf: every leaf is changed, and what it was is pinned. */
	for (uint64_t ino = 100; ino < end; ino += 4)
		assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
	storekit_check(&k);
	assert_int_equal(storekit_put(old, 1, 0, "x"), -ESTALE);
	assert_int_equal(txn_commit(old, &merge_by_key, NULL, NULL), -ESTALE);
	for (uint64_t ino = 100; ino < end; ino++)
		assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
	assert_int_equal(txn_begin(k.s, &young), 0);
	assert_int_equal(storekit_put(young, 1, 0, "x"), 0);
	assert_int_equal(txn_commit(young, &merge_by_key, NULL, NULL), 0);
	view_close(old);
	view_close(young);
	storekit_check(&k);
	storekit_release(&k);
}

static void a_transaction_that_fills_the_disk_can_be_aborted(void **state)
{
	struct storekit k;
	struct view *v;
	uint64_t ino;

	(void)state;
	storekit_init(&k, 2048, NULL);
	for (unsigned round = 0; round < 3; round++) {
		int err = 0;

		assert_int_equal(txn_begin(k.s, &v), 0);
		for (ino = 100; !err; ino++)
			err = storekit_write(&k, v, ino, 0, 10);
		assert_int_equal(err, -ENOSPC);
		assert_true(ino > 200);
		assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 10), -ENOSPC);
		for (uint64_t i = 100; i < 110; i++)
			assert_int_equal(storekit_remove(v, i), 0);
		if (round == 1) {
			int err2 = txn_commit(v, &merge_by_key, NULL, NULL);

			assert_true(err2 == 0 || err2 == -ENOSPC);
			if (!err2)
				for (uint64_t i = 100; i < ino; i++)
					assert_int_equal(storekit_remove(store_live(k.s), i), 0);
		}
		view_close(v);
		storekit_settle(&k);
		assert_int_equal(storekit_put(store_live(k.s), 1, 0, "x"), 0);
		storekit_check(&k);
	}
	storekit_release(&k);
}

int main(void)
{
	enum { FIXED = 6 };
	struct CMUnitTest tests[ARRAY_LEN(rows) + FIXED] = {
		cmocka_unit_test(one_batch_may_remove_everything_a_snapshot_holds),
		cmocka_unit_test(claims_are_kept_for_who_made_them),
		cmocka_unit_test(the_oldest_transaction_is_ended_when_it_pins_the_last_room),
		cmocka_unit_test(a_transaction_that_fills_the_disk_can_be_aborted),
	};
	size_t n = 0;

	while (tests[n].test_func)
		n++;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].name, fill_and_empty, &rows[i]);
	return _cmocka_run_group_tests("full", tests, n, NULL, NULL);
}

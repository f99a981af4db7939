/* t_store.c - making, opening and closing stores, and what is refused */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/super.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

/* ---- mkfs ---- */

struct mkfs_row {
	const char *name;
	uint64_t device; /* blocks */
	struct store_mkfs_options opt;
	int err;
	const char *says;
};

static const struct mkfs_row mkfs_rows[] = {
	{ "the_smallest_device_with_4_KiB_nodes_is_accepted", STORE_BLOCKS_MIN, { .node_size = 4096, .log_blocks = 64 }, 0, NULL },
	{ "defaults_suit_a_device_of_64_MiB", 16384, { .label = "data" }, 0, NULL },
	{ "one_block_less_than_the_smallest_device_is_too_small", STORE_BLOCKS_MIN - 1, { .node_size = 4096, .log_blocks = 64 },
	  -ENOSPC, "too small" },
	{ "one_block_is_too_small", 1, { 0 }, -ENOSPC, "too small" },
	{ "a_device_of_no_blocks_is_too_small", 0, { .blocks = 0 }, -ENOSPC, "too small" },
	{ "a_log_of_more_than_half_the_device_does_not_fit", 2048, { .node_size = 4096, .log_blocks = 1024 }, -ENOSPC, "too small" },
	{ "a_log_below_the_minimum_is_refused", 16384, { .log_blocks = 63 }, -EINVAL, "the log has" },
	{ "a_log_larger_than_a_group_is_refused", 262144, { .log_blocks = 32768 }, -EINVAL, "the log has" },
	{ "a_log_of_nearly_2_to_the_64_blocks_is_refused", 16384, { .log_blocks = UINT64_MAX }, -EINVAL, "the log has" },
	{ "a_node_size_that_is_no_power_of_two_is_refused", 16384, { .node_size = 12288 }, -EINVAL, "a node has" },
	{ "a_node_size_of_2_KiB_is_refused", 16384, { .node_size = 2048 }, -EINVAL, "a node has" },
	{ "a_node_size_of_64_KiB_is_refused", 16384, { .node_size = 65536 }, -EINVAL, "a node has" },
	{ "more_blocks_than_the_device_has_are_refused", 16384, { .blocks = 16385 }, -EINVAL, "were asked for" },
	{ "a_label_of_65_bytes_is_refused", 16384,
	  { .label = "12345678901234567890123456789012345678901234567890123456789012345" }, -EINVAL, "a label" },
};

static void make_one(void **state)
{
	const struct mkfs_row *row = *state;
	struct store_mkfs_options mo = row->opt;
	struct store_options opt = { .records = &kv_records, .manual = true, .seed = 5 };
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = row->device ? row->device : 1 });
	struct store *s;

	storekit_quiet();
	mo.seed = 3;
	mo.lazy_log = true;
	assert_int_equal(store_mkfs(simdev_bdev(disk), &mo), row->err);
	if (row->err) {
		assert_int_equal(storekit_said(row->says), 1);
		assert_int_equal(simdev_ops(disk), 0); /* nothing was touched */
		assert_int_equal(store_open(simdev_bdev(disk), &opt, &s), -ENODEV);
	} else {
		struct check_result r;

		assert_int_equal(store_open(simdev_bdev(disk), &opt, &s), 0);
		assert_int_equal(storekit_put(store_live(s), 1, 0, "first"), 0);
		assert_int_equal(store_check(s, &r), 0);
		assert_int_equal(store_close(s), 0);
	}
	simdev_free(disk);
}

static void a_second_mkfs_leaves_nothing_of_the_first(void **state)
{
	struct store_mkfs_options mo = { .node_size = 4096, .log_blocks = 64, .seed = 99, .lazy_log = true };
	struct store_status a, b;
	struct storekit k;

	(void)state;
	storekit_init(&k, 4096, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "old"), 0);
	assert_int_equal(store_sync(k.s), 0); /* in the log alone: it must not be replayed on the new one */
	store_status(k.s, &a);
	storekit_kill(&k, true);
	assert_int_equal(store_mkfs(simdev_bdev(k.disk), &mo), 0);
	storekit_open(&k);
	store_status(k.s, &b);
	assert_memory_not_equal(a.uuid, b.uuid, sizeof(a.uuid));
	assert_int_equal(b.recovered_records, 0);
	storekit_expect(store_live(k.s), 1, 0, NULL);
	storekit_check(&k);
	storekit_release(&k);
}

static void mkfs_cut_short_leaves_no_filesystem_or_a_whole_one(void **state)
{
	struct store_options opt = { .records = &kv_records, .manual = true, .seed = 5 };
	struct store_mkfs_options mo = { .node_size = 4096, .log_blocks = 64, .seed = 99, .lazy_log = true };
	struct storekit k;
	uint64_t from;

	(void)state;
	storekit_init(&k, 1024, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "old"), 0);
	storekit_close(&k);
	from = simdev_ops(k.disk);
	assert_int_equal(store_mkfs(simdev_bdev(k.disk), &mo), 0);
	for (uint64_t n = from; n <= simdev_ops(k.disk); n++) {
		struct simdev_crash c;
		struct simdev *after;

		simdev_crash_begin(&c, k.disk, n, 64, 1);
		while ((after = simdev_crash_next(&c))) {
			struct check_result r;
			struct store *s;
			int err = store_open(simdev_bdev(after), &opt, &s);

			if (!err) {
				assert_int_equal(store_check(s, &r), 0);
				if (n > from + 3)
					storekit_expect(store_live(s), 1, 0, NULL);
				assert_int_equal(store_close(s), 0);
			}
			simdev_free(after);
		}
		simdev_crash_end(&c);
	}
	storekit_release(&k);
}

/* ---- opening what is not right ---- */

static void patch_super(struct simdev *disk, unsigned slot, void (*change)(struct super *))
{
	static uint8_t block[BLOCK_SIZE];
	struct super s;

	simdev_peek(disk, slot ? SUPER_SLOT1 : SUPER_SLOT0, block, 1);
	assert_int_equal(super_decode(block, slot, &s), 0);
	change(&s);
	super_encode(&s, slot, block);
	simdev_poke(disk, slot ? SUPER_SLOT1 : SUPER_SLOT0, 0, block, BLOCK_SIZE);
}

static void set_incompat(struct super *s)
{
	s->incompat |= UINT64_C(1) << 40;
}

static void set_ro_compat(struct super *s)
{
	s->ro_compat |= UINT64_C(1) << 40;
}

static void set_compat(struct super *s)
{
	s->compat |= UINT64_C(1) << 40;
}

static void set_larger(struct super *s)
{
	s->blocks = 1 << 20;
}

struct open_row {
	const char *name;
	void (*change)(struct super *);
	unsigned slots; /* bits: which are changed */
	int err, err_ro;
	const char *says;
};

static const struct open_row open_rows[] = {
	{ "an_unknown_incompatible_feature_is_refused", set_incompat, 3, -EPROTONOSUPPORT, -EPROTONOSUPPORT, "" },
	{ "an_unknown_incompatible_feature_in_one_slot_is_refused", set_incompat, 2, -EPROTONOSUPPORT, -EPROTONOSUPPORT, "" },
	{ "an_unknown_read_only_compatible_feature_allows_reading_alone", set_ro_compat, 3, -EROFS, 0, "read-only" },
	{ "an_unknown_compatible_feature_is_no_obstacle", set_compat, 3, 0, 0, NULL },
	{ "a_filesystem_larger_than_its_device_is_refused", set_larger, 3, -ENXIO, -ENXIO, "the device only" },
};

static void open_one(void **state)
{
	const struct open_row *row = *state;
	struct storekit k;
	struct store *s;

	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "there"), 0);
	storekit_close(&k);
	for (unsigned i = 0; i < 2; i++)
		if (row->slots >> i & 1)
			patch_super(k.disk, i, row->change);
	for (unsigned ro = 2; ro--;) {
		uint64_t ops = simdev_ops(k.disk);

		storekit_quiet();
		k.opt.read_only = ro;
		assert_int_equal(store_open(simdev_bdev(k.disk), &k.opt, &s), ro ? row->err_ro : row->err);
		if (ro || row->err)
			assert_int_equal(simdev_ops(k.disk), ops);
		if (ro ? row->err_ro : row->err) {
			assert_true(storekit_said(row->says) > 0);
			continue;
		}
		storekit_expect(store_live(s), 1, 0, "there");
		store_crash(s);
	}
	storekit_release(&k);
}

static void one_superblock_slot_lost_is_survived_and_reported(void **state)
{
	(void)state;
	for (unsigned slot = 0; slot < 2; slot++)
		for (unsigned checkpoints = 0; checkpoints < 3; checkpoints++) {
			struct storekit k;

			storekit_init(&k, 4096, NULL);
			for (unsigned i = 0; i < checkpoints; i++) {
				assert_int_equal(storekit_write(&k, store_live(k.s), 5, i * 10, 3), 0);
				assert_int_equal(store_checkpoint(k.s), 0);
			}
			assert_int_equal(storekit_put(store_live(k.s), 1, 0, "logged"), 0);
			assert_int_equal(store_sync(k.s), 0);
			storekit_kill(&k, true);
			simdev_flip(k.disk, slot ? SUPER_SLOT1 : SUPER_SLOT0, 1000);
			storekit_quiet();
			storekit_open(&k);
			assert_true(storekit_said("unusable") > 0);
			storekit_expect(store_live(k.s), 1, 0, "logged");
			assert_int_equal(storekit_read(store_live(k.s), 5), checkpoints * 3);
			storekit_check(&k);
			/* Both are whole again. */
			storekit_quiet();
			storekit_reboot(&k, true);
			assert_int_equal(storekit_said("unusable"), 0);
			storekit_expect(store_live(k.s), 1, 0, "logged");
			storekit_check(&k);
			storekit_release(&k);
		}
}

static void both_superblock_slots_lost_are_an_error(void **state)
{
	struct storekit k;
	struct store *s;
	uint64_t ops;

	(void)state;
	storekit_init(&k, 2048, NULL);
	storekit_close(&k);
	simdev_flip(k.disk, SUPER_SLOT0, 1000);
	simdev_flip(k.disk, SUPER_SLOT1, 1000);
	ops = simdev_ops(k.disk);
	assert_int_equal(store_open(simdev_bdev(k.disk), &k.opt, &s), -EBADMSG);
	assert_int_equal(simdev_ops(k.disk), ops);
	storekit_release(&k);
}

static void segments_of_another_run_are_strangers(void **state)
{
	struct storekit k;
	uint8_t *log = malloc(64 * BLOCK_SIZE);
	struct store_status st;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "one"), 0);
	assert_int_equal(store_sync(k.s), 0);
	simdev_peek(k.disk, space_log_start_min(), log, 64);
	storekit_close(&k);
	storekit_open(&k);
	assert_int_equal(storekit_del(store_live(k.s), key_make(1, KVT_BYTES, 0)), 0);
	storekit_close(&k);
	storekit_open(&k);
	storekit_kill(&k, true);
	/* The log as it was in the first run, whole and with right checksums. */
	for (unsigned i = 0; i < 64; i++)
		simdev_poke(k.disk, space_log_start_min() + i, 0, log + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
	free(log);
	storekit_open(&k);
	store_status(k.s, &st);
	assert_int_equal(st.recovered_records, 0);
	storekit_expect(store_live(k.s), 1, 0, NULL);
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- reading only ---- */

static void read_only_replays_in_memory_and_writes_nothing(void **state)
{
	struct storekit k;
	struct batch *b;
	struct view *v;
	uint64_t ops;

	(void)state;
	storekit_init(&k, 4096, NULL);
	assert_int_equal(storekit_write(&k, store_live(k.s), 5, 0, 4), 0);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "logged"), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 6, 0, 4), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 7, 0, 100), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 5), 0);
	assert_int_equal(store_sync(k.s), 0);
	storekit_kill(&k, true);

	k.opt.read_only = true;
	k.opt.data_bytes = 8192; /* less than rides in the log */
	ops = simdev_ops(k.disk);
	storekit_open(&k);
	storekit_expect(store_live(k.s), 1, 0, "logged");
	assert_int_equal(storekit_read(store_live(k.s), 5), 0);
	assert_int_equal(storekit_read(store_live(k.s), 6), 4);
	assert_int_equal(storekit_read(store_live(k.s), 7), 100);
	assert_int_equal(batch_open(store_live(k.s), &b), -EROFS);
	assert_int_equal(txn_begin(k.s, &v), -EROFS);
	assert_int_equal(snapshot_create(k.s, "t", NULL), -EROFS);
	assert_int_equal(snapshot_delete(k.s, "s"), -EROFS);
	assert_int_equal(snapshot_rollback(k.s, "s"), -EROFS);
	assert_int_equal(store_checkpoint(k.s), -EROFS);
	assert_int_equal(store_grow(k.s), -EROFS);
	assert_int_equal(store_sync(k.s), 0);
	assert_int_equal(store_tick(k.s), 0);
	assert_int_equal(snapshot_open(k.s, "s", &v), 0);
	assert_int_equal(storekit_read(v, 5), 4);
	view_close(v);
	storekit_check(&k);
	storekit_close(&k);
	assert_int_equal(simdev_ops(k.disk), ops);

	k.opt.read_only = false;
	storekit_open(&k);
	assert_int_equal(storekit_read(store_live(k.s), 7), 100);
	storekit_check(&k);
	storekit_release(&k);
}

static void failing_to_open_read_only_leaves_no_memory_behind(void **state)
{
	struct store_status st;
	struct storekit k;
	struct store *s;

	(void)state;
	storekit_init(&k, 8192, NULL);
	/* More nodes than the smallest cache may keep dirty. */
	for (unsigned i = 0; i < 150; i++) {
		struct batch *b;
		static const char text[800];

		assert_int_equal(batch_open(store_live(k.s), &b), 0);
		assert_int_equal(batch_put(b, key_make(i, KVT_BYTES, 0), text, sizeof(text)), 0);
		assert_int_equal(batch_commit(b, NULL), 0);
		batch_close(b);
	}
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(storekit_write(&k, store_live(k.s), 1000 + i, 0, 2), 0);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(storekit_remove(store_live(k.s), 1000 + i), 0);
	assert_int_equal(store_sync(k.s), 0);
	store_status(k.s, &st);
	storekit_kill(&k, true);
	k.opt.read_only = true;
	k.opt.cache_bytes = 1; /* the least there is */
	if (!store_open(simdev_bdev(k.disk), &k.opt, &s))
		store_crash(s);
	k.opt.read_only = false;
	storekit_open(&k);
	assert_int_equal(storekit_items(store_live(k.s)), 150);
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- growing ---- */

static void a_store_grows_with_its_device(void **state)
{
	struct store_status before, after;
	struct storekit k;

	(void)state;
	storekit_init(&k, 2048, NULL);
	store_status(k.s, &before);
	assert_int_equal(store_grow(k.s), 0); /* to the size it has */
	simdev_set_blocks(k.disk, 40000);
	assert_int_equal(store_grow(k.s), 0);
	store_status(k.s, &after);
	assert_int_equal(after.blocks, 40000);
	assert_true(after.blocks_free > before.blocks_free + 37000);
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(storekit_write(&k, store_live(k.s), 5, i * 200, 200), 0);
	assert_int_equal(store_sync(k.s), 0);
	storekit_reboot(&k, true);
	assert_int_equal(storekit_read(store_live(k.s), 5), 8000);
	storekit_check(&k);
	storekit_release(&k);
}

static void growth_cut_short_is_no_growth_or_all_of_it(void **state)
{
	struct storekit k;
	uint64_t from;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_write(&k, store_live(k.s), 5, 0, 20), 0);
	assert_int_equal(store_sync(k.s), 0);
	simdev_set_blocks(k.disk, 8000);
	from = simdev_ops(k.disk);
	assert_int_equal(store_grow(k.s), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 6, 0, 200), 0);
	assert_int_equal(store_sync(k.s), 0);
	for (uint64_t n = from; n <= simdev_ops(k.disk); n++) {
		struct simdev_crash c;
		struct simdev *after;

		simdev_crash_begin(&c, k.disk, n, 8, n);
		while ((after = simdev_crash_next(&c))) {
			struct check_result r;
			struct store *s;

			assert_int_equal(store_open(simdev_bdev(after), &k.opt, &s), 0);
			assert_int_equal(storekit_read(store_live(s), 5), 20);
			assert_int_equal(store_check(s, &r), 0);
			assert_int_equal(store_close(s), 0);
			simdev_free(after);
		}
		simdev_crash_end(&c);
	}
	storekit_release(&k);
}

/* ---- second copies ---- */

static void a_bad_node_is_read_from_its_copy_and_mended(void **state)
{
	struct store_mkfs_options mo = { .node_size = 4096, .log_blocks = 64, .copies = true };
	struct store_status st;
	struct storekit k;
	uint8_t block[BLOCK_SIZE];
	unsigned broken = 0;

	(void)state;
	storekit_init(&k, 4096, &mo);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(storekit_put(store_live(k.s), i, 0, "some text that fills nodes a little"), 0);
	storekit_close(&k);
	/* One of each pair: those whose own address is the place they stand at. */
	for (uint64_t b = 0; b < 4096; b++) {
		uint64_t own;

		simdev_peek(k.disk, b, block, 1);
		memcpy(&own, block + 16, sizeof(own)); /* disk_node.addr */
		if (b >= space_log_start_min() + 64 && own == b) {
			simdev_flip(k.disk, b, 20000);
			broken++;
		}
	}
	storekit_open(&k);
	assert_int_equal(storekit_items(store_live(k.s)), 200);
	store_status(k.s, &st);
	assert_true(broken > 0);
	assert_true(st.copies_used > 0);
	assert_true(st.nodes_mended > 0);
	storekit_check(&k);
	storekit_close(&k);
	storekit_quiet();
	storekit_open(&k);
	assert_int_equal(storekit_items(store_live(k.s)), 200);
	store_status(k.s, &st);
	assert_int_equal(st.copies_used, 0);
	storekit_release(&k);
}

/* ---- failure ---- */

static void a_failed_flush_turns_the_store_read_only_for_good(void **state)
{
	struct store_status st;
	struct storekit k;
	struct view *v;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "safe"), 0);
	assert_int_equal(store_sync(k.s), 0);
	assert_int_equal(storekit_put(store_live(k.s), 2, 0, "lost"), 0);
	simdev_add_fault(k.disk, &(struct simdev_fault){ .op = SIMDEV_FLUSH, .times = 1 });
	assert_int_equal(store_sync(k.s), -EIO);
	assert_int_equal(store_sync(k.s), -EIO);
	assert_int_equal(storekit_put(store_live(k.s), 3, 0, "no"), -EROFS);
	assert_int_equal(store_checkpoint(k.s), -EROFS);
	assert_int_equal(snapshot_create(k.s, "s", NULL), -EROFS);
	assert_int_equal(txn_begin(k.s, &v), -EROFS);
	storekit_expect(store_live(k.s), 2, 0, "lost"); /* reading goes on */
	store_status(k.s, &st);
	assert_int_equal(st.error, -EIO);
	assert_true(strlen(st.error_text) > 0);
	assert_int_equal(store_close(k.s), -EIO);
	k.s = NULL;
	simdev_clear_faults(k.disk);
	bdev_close(simdev_bdev(k.disk)); /* the device, too, remembers that it failed */
	storekit_open(&k);
	storekit_expect(store_live(k.s), 1, 0, "safe");
	storekit_check(&k);
	storekit_release(&k);
}

int main(void)
{
	enum { FIXED = 16 };
	struct CMUnitTest tests[ARRAY_LEN(mkfs_rows) + ARRAY_LEN(open_rows) + FIXED] = {
		cmocka_unit_test(a_second_mkfs_leaves_nothing_of_the_first),
		cmocka_unit_test(mkfs_cut_short_leaves_no_filesystem_or_a_whole_one),
		cmocka_unit_test(one_superblock_slot_lost_is_survived_and_reported),
		cmocka_unit_test(both_superblock_slots_lost_are_an_error),
		cmocka_unit_test(segments_of_another_run_are_strangers),
		cmocka_unit_test(read_only_replays_in_memory_and_writes_nothing),
		cmocka_unit_test(failing_to_open_read_only_leaves_no_memory_behind),
		cmocka_unit_test(a_store_grows_with_its_device),
		cmocka_unit_test(growth_cut_short_is_no_growth_or_all_of_it),
		cmocka_unit_test(a_bad_node_is_read_from_its_copy_and_mended),
		cmocka_unit_test(a_failed_flush_turns_the_store_read_only_for_good),
	};
	size_t n = 0;

	while (tests[n].test_func)
		n++;
	for (size_t i = 0; i < ARRAY_LEN(mkfs_rows); i++)
		tests[n++] = TEST_ROW(mkfs_rows[i].name, make_one, &mkfs_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(open_rows); i++)
		tests[n++] = TEST_ROW(open_rows[i].name, open_one, &open_rows[i]);
	return _cmocka_run_group_tests("store", tests, n, NULL, NULL);
}

/* t_orphan.c - files without a name and large removals: what goes when, and what a crash leaves of it */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#undef BLOCK_SIZE
#include <string.h>
#include <time.h>

#include "btree/mem.h"
#include "btree/node_format.h"
#include "fs/check.h"
#include "fs/extent.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "tests/kit/filekit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define B 4096u
#define CAP (16u << 20)
#define MANY (ORPHAN_STEP_ITEMS * 2 + 100) /* items */

static uint64_t lookup(struct fskit *k, const char *name)
{
	struct fs_entry e;

	assert_int_equal(fs_lookup(k->fs, FS_ROOT, name, &e), 0);
	return e.node;
}

static int getattr(struct fskit *k, uint64_t node)
{
	struct fs_entry e;

	return fs_getattr(k->fs, node, &e);
}

static unsigned orphan_items(struct fskit *k)
{
	struct scan *scan;
	const void *val;
	unsigned n = 0;
	struct key key;
	size_t len;

	assert_int_equal(scan_open(store_live(fs_store(k->fs)), key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, 0),
				   key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, UINT64_MAX), &scan),
			 0);
	while (!scan_next(scan, &key, &val, &len))
		n++;
	scan_close(scan);
	return n;
}

/* Every other block, so that none can be joined. */
static void make_many(struct filekit *f, unsigned items)
{
	for (unsigned i = 0; i < items; i++)
		assert_int_equal(filekit_write(f, (size_t)i * 2 * B, B), 0);
	assert_int_equal(filekit_items(f).data, items);
}

/* Nothing is left of whatever was there. */
static void expect_empty(struct fskit *k)
{
	fskit_check(k);
	assert_int_equal(orphan_items(k), 0);
	assert_int_equal(k->checked.data_blocks, 0);
	assert_int_equal(storekit_items(store_live(fs_store(k->fs))), 2); /* the volume, the root directory */
}

/* ---- deletion ---- */

struct delete_row {
	const char *name;
	unsigned blocks;  /* one item each; 0: 100 inline bytes */
	unsigned xattrs;  /* of 2000 bytes */
	bool held;	  /* somebody refers to it when its name goes */
	bool large;
	enum { NO_CRASH, KILL, POWER } crash; /* after the name went and was synced, before the last reference does */
};

static const struct delete_row delete_rows[] = {
	{ "a_small_file_goes_with_its_name", 0, 0, false, false, NO_CRASH },
	{ "a_file_of_some_blocks_goes_with_its_name", 20, 0, false, false, NO_CRASH },
	{ "a_file_with_attributes_goes_with_its_name", 3, 5, false, false, NO_CRASH },
	{ "a_file_in_use_goes_with_its_last_reference", 20, 3, true, false, NO_CRASH },
	{ "a_file_in_use_is_gone_after_a_kill", 20, 3, true, false, KILL },
	{ "a_file_in_use_is_gone_after_a_power_failure", 20, 3, true, false, POWER },
	{ "a_large_file_goes_when_it_is_reaped", MANY, 0, false, true, NO_CRASH },
	{ "many_attributes_go_when_they_are_reaped", 0, 600, false, true, NO_CRASH },
	{ "a_large_file_in_use_goes_when_it_is_reaped", MANY, 600, true, true, NO_CRASH },
	{ "a_large_file_in_use_is_gone_after_a_power_failure", MANY, 600, true, true, POWER },
};

static void make_xattrs(struct fskit *k, uint64_t node, unsigned n)
{
	static char value[2000];

	for (unsigned i = 0; i < n; i++) {
		char name[32];

		snprintf(name, sizeof(name), "user.%u", i);
		memset(value, (int)i, sizeof(value));
		assert_int_equal(fs_setxattr(k->fs, node, name, value, sizeof(value), 0, false), 0);
	}
}

static void deletion(void **state)
{
	const struct delete_row *row = *state;
	struct filekit f;
	struct fskit k;
	struct statvfs before, after;
	uint64_t node = 0;

	fskit_init(&k, &(struct fskit_options){ .blocks = 16384 });
	assert_int_equal(fs_statfs(k.fs, &before), 0);
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, row->blocks);
	if (!row->blocks)
		assert_int_equal(filekit_write(&f, 0, 100), 0);
	make_xattrs(&k, f.node, row->xattrs);
	if (row->held)
		node = lookup(&k, "f");
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	assert_int_equal(fskit_node(&k, "f"), 0);
	if (row->held) {
		filekit_verify(&f);
		assert_int_equal(filekit_append(&f, B), 0);
		assert_int_equal(orphan_items(&k), 1);
		orphan_unreferenced(k.fs, node); /* somebody who is wrong */
		assert_int_equal(fs_reap(k.fs), 0);
		filekit_verify(&f);
		if (row->crash) {
			assert_int_equal(fs_sync(k.fs), 0);
			fskit_reboot(&k, row->crash == POWER);
		} else {
			fs_forget(k.fs, node, 1);
		}
	}
	assert_int_equal(orphans_waiting(k.fs), row->large && !row->crash);
	assert_int_equal(orphan_items(&k), row->large && !row->crash);
	if (row->large && !row->crash) {
		struct fs_check_result r;

		/* The first step has been made; what a kill leaves now is right, too. */
		assert_int_equal(fs_check(k.fs, &(struct fs_check_options){ .data = true }, &r), 0);
		assert_true(r.structure.data_blocks < row->blocks || row->xattrs);
		assert_int_equal(fs_reap(k.fs), 0);
	}
	assert_int_equal(getattr(&k, f.node), -ESTALE);
	assert_false(orphans_waiting(k.fs));
	expect_empty(&k);
	assert_int_equal(fs_statfs(k.fs, &after), 0);
	assert_int_equal(before.f_files - before.f_ffree, after.f_files - after.f_ffree);
	filekit_release(&f);
	fskit_release(&k);
}

static void a_file_without_a_name_may_get_one(void **state)
{
	struct fs_entry e, e2;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_tmpfile(k.fs, &fskit_root, FS_ROOT, S_IFREG | 0600, &e), 0);
	assert_int_equal(orphan_items(&k), 1);
	assert_int_equal(fs_write(k.fs, e.node, "data", 4, 0, 0), 0);
	assert_int_equal(fs_link(k.fs, e.node, FS_ROOT, "named", &e2), 0);
	assert_int_equal(orphan_items(&k), 0);
	fs_forget(k.fs, e.node, 2);
	assert_int_equal(fskit_stat(&k, "named").st_size, 4);
	orphan_unreferenced(k.fs, e.node); /* whoever asks: it has a name */
	assert_int_equal(fs_tmpfile(k.fs, &fskit_root, FS_ROOT, S_IFREG | 0600, &e), 0);
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_reboot(&k, true);
	assert_int_equal(fskit_stat(&k, "named").st_size, 4);
	assert_int_equal(getattr(&k, e.node), -ESTALE);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- ranges ---- */

static void a_large_truncation_is_done_when_it_returns(void **state)
{
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384 });
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, MANY);
	assert_int_equal(filekit_truncate(&f, 4 * B + 100), 0);
	assert_int_equal(orphan_items(&k), 0);
	assert_int_equal(filekit_items(&f).data_blocks, 3);
	assert_int_equal(filekit_truncate(&f, 1000 * B), 0);
	filekit_verify(&f);
	make_many(&f, MANY);
	assert_int_equal(filekit_truncate(&f, 0), 0);
	filekit_verify(&f);
	fskit_check(&k);
	assert_int_equal(k.checked.data_blocks, 0);
	filekit_release(&f);
	fskit_release(&k);
}

/* The file as it is before, on a disk to start from. */
static struct simdev_image *make_base(struct fskit *k, struct filekit *f)
{
	struct simdev_image *base;

	fskit_init(k, &(struct fskit_options){ .blocks = 16384 });
	filekit_init(f, k, "f", CAP);
	make_many(f, MANY);
	fskit_unmount(k);
	base = simdev_freeze(k->disk);
	simdev_free(k->disk);
	return base;
}

static void start(struct fskit *k, struct simdev_image *base, uint64_t reads)
{
	k->disk = simdev_new(&(struct simdev_options){ .base = base });
	fskit_mount(k);
	simdev_add_fault(k->disk, &(struct simdev_fault){ .op = SIMDEV_READ, .after = reads });
}

/*
 * After so many reads every other fails, so the removal stops between two batches, wherever that is; then the power goes. A
 * range item is what is left. Before and after the crash the file is whole or cut, and growing it shows zeros.
 */
static void a_large_truncation_may_stop_anywhere(void **state)
{
	const size_t cut = 4 * B + 100;
	unsigned whole = 0, left = 0, done = 0;
	struct simdev_image *base;
	struct filekit f, now;
	struct fs_options opt;
	struct fskit k;

	(void)state;
	base = make_base(&k, &f);
	opt = k.opt;
	now = f;
	now.data = mem_zalloc(CAP);
	for (uint64_t reads = 0; !done; reads++) {
		int err;

		filekit_copy(&now, &f);
		start(&k, base, reads);
		err = filekit_truncate(&now, cut);
		if (err) {
			assert_int_equal(err, -EIO);
			assert_int_equal(orphan_items(&k), 0);
			whole++;
		} else if (orphan_items(&k)) {
			assert_true(orphans_waiting(k.fs));
			left++;
		} else {
			done++;
		}
		simdev_clear_faults(k.disk);
		assert_true(filekit_right(&now));
		if (!err && reads % 2)
			assert_int_equal(filekit_truncate(&now, f.size), 0); /* finishes it first */
		assert_int_equal(fs_sync(k.fs), 0);
		fskit_reboot(&k, true);
		assert_int_equal(orphan_items(&k), 0);
		filekit_verify(&now);
		assert_int_equal(filekit_truncate(&now, f.size), 0);
		filekit_verify(&now);
		fskit_check(&k);
		fskit_release(&k);
		assert_true(reads < 1000);
		k.opt = opt;
	}
	assert_true(whole > 0);
	assert_true(left > 1);
	mem_free(now.data);
	filekit_release(&f);
	simdev_image_free(base);
}

static void a_large_deletion_may_stop_anywhere(void **state)
{
	unsigned left = 0, done = 0;
	struct simdev_image *base;
	struct fs_options opt;
	struct filekit f;
	struct fskit k;

	(void)state;
	base = make_base(&k, &f);
	opt = k.opt;
	for (uint64_t reads = 0; !done; reads++) {
		bool gone;

		start(&k, base, reads);
		gone = !fskit_unlink(&k, "f");
		if (gone && fs_reap(k.fs))
			left++;
		else if (gone)
			done++;
		simdev_clear_faults(k.disk);
		assert_int_equal(fs_sync(k.fs), 0);
		fskit_reboot(&k, true);
		if (gone)
			expect_empty(&k);
		else
			filekit_verify(&f);
		fskit_check(&k);
		fskit_release(&k);
		assert_true(reads < 1000);
		k.opt = opt;
	}
	assert_true(left > 1);
	filekit_release(&f);
	simdev_image_free(base);
}

/* A range as a crash leaves it: the item is there, and what it names is, too. */
static void leave_range(struct filekit *f, uint64_t from, uint64_t size)
{
	struct disk_orphan d = { .from = le64_put(from), .to = le64_put(UINT64_MAX) };
	struct inode i;
	struct op op;

	assert_int_equal(op_begin(f->k->fs, f->node, &op), 0);
	op_lock(&op, &f->node, 1);
	assert_int_equal(inode_load(op.view, f->node, &i), 0);
	i.size = size;
	assert_int_equal(inode_put(op.batch, &i), 0);
	assert_int_equal(batch_put(op.batch, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, f->node << 1 | FS_ORPHAN_RANGE), &d,
				   sizeof(d)),
			 0);
	assert_int_equal(op_commit(&op), 0);
	op_end(&op);
	filekit_expect_truncate(f, from);
	filekit_expect_truncate(f, size);
}

static void a_pending_range_reads_as_zeros(void **state)
{
	uint64_t from = 0, to = 0;
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384 });
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_write(&f, 0, 100 * B), 0);
	leave_range(&f, 10 * B, 90 * B);
	assert_int_equal(fs_sync(k.fs), 0);
	/* Read-only: nobody removes it, and nobody sees it. */
	k.opt.store.read_only = true;
	fskit_reboot(&k, false);
	assert_true(orphan_pending(k.fs, f.node, &from, &to));
	assert_int_equal(from, 10 * B);
	assert_true(to == UINT64_MAX);
	assert_true(filekit_right(&f));
	assert_true(filekit_same(&f, 9 * B + 50, 3 * B));
	assert_true(filekit_same(&f, 20 * B + 50, 3 * B));
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, 0, 0), -EROFS);
	assert_int_equal(fs_reap(k.fs), 0);
	fs_crash(k.fs);
	k.opt.store.read_only = false;
	fskit_mount(&k);
	assert_false(orphan_pending(k.fs, f.node, &from, &to));
	filekit_verify(&f);
	assert_int_equal(filekit_items(&f).data_blocks, 10);
	fskit_check(&k);
	filekit_release(&f);
	fskit_release(&k);
}

/* Removing fails for a while: reading, writing and truncating are right all the same. */
static void a_range_that_cannot_be_removed_yet(void **state)
{
	uint64_t from, to;
	struct extent_map m;
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384 });
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, MANY);
	leave_range(&f, 10 * B, 90 * B);
	fskit_unmount(&k);
	/* What mounting reads of the tree's upper parts is few; all after that fails. */
	k.opt.no_threads = false; /* or the mount would do it at once */
	k.opt.store.manual = true;
	for (uint64_t after = 0;; after++) {
		simdev_add_fault(k.disk, &(struct simdev_fault){ .op = SIMDEV_READ, .after = after });
		k.opt.store.seed++;
		if (!fs_mount(simdev_bdev(k.disk), &k.opt, &k.fs))
			break;
		simdev_clear_faults(k.disk);
		assert_true(after < 1000);
	}
	assert_int_equal(fs_reap(k.fs), -EIO);
	assert_true(orphan_pending(k.fs, f.node, &from, &to));
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, 20 * B, 0), -EIO);
	simdev_clear_faults(k.disk);
	assert_true(filekit_right(&f));
	assert_int_equal(filekit_write(&f, 20 * B, 1), 0);
	assert_false(orphan_pending(k.fs, f.node, &from, &to));
	assert_int_equal(fs_reap(k.fs), 0);
	assert_int_equal(extent_at(store_live(fs_store(k.fs)), f.node, 100 * B, &m), 0);
	assert_int_equal(m.kind, EXTENT_HOLE);
	filekit_verify(&f);
	fskit_check(&k);
	filekit_release(&f);
	fskit_release(&k);
}

/* An inode with a range left goes as a whole. */
static void a_file_with_a_pending_range_is_deleted(void **state)
{
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384 });
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, MANY);
	assert_true(lookup(&k, "f") == f.node);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	leave_range(&f, 10 * B, 90 * B);
	assert_int_equal(orphan_items(&k), 2);
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_reboot(&k, true);
	expect_empty(&k);
	filekit_release(&f);
	fskit_release(&k);
}

static void a_full_device_is_helped_by_what_waits_for_deletion(void **state)
{
	struct filekit f, g;
	struct fskit k;
	int err;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 4096, .log_blocks = 128 });
	filekit_init(&f, &k, "f", CAP);
	filekit_init(&g, &k, "g", CAP);
	make_many(&f, MANY);
	while (!(err = filekit_append(&g, 16 * B)))
		;
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	assert_true(orphans_waiting(k.fs));
	for (unsigned i = 0; i < (MANY - 100) / 16 * 3 / 4; i++)
		assert_int_equal(filekit_append(&g, 16 * B), 0);
	assert_false(orphans_waiting(k.fs));
	filekit_verify(&g);
	fskit_check(&k);
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

/* With its thread, the reaper deletes what is large behind the caller's back, and the end does not wait for it. */
static void the_reaper_deletes_in_the_background(void **state)
{
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384, .threads = true });
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, MANY);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	while (orphans_waiting(k.fs))
		;
	assert_int_equal(getattr(&k, f.node), -ESTALE);
	filekit_release(&f);
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, MANY);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	fskit_remount(&k);
	while (orphans_waiting(k.fs))
		;
	expect_empty(&k);
	filekit_release(&f);
	fskit_release(&k);
}

/* What is damaged is tried again, later; others do not wait for that. */
/* Flips a bit in every leaf that has nothing but items of the inode. */
static unsigned damage_leaves(struct fskit *k, uint64_t ino)
{
	static uint8_t block[BLOCK_SIZE];
	unsigned n = 0;

	for (uint64_t addr = 300; addr < 16384; addr++) {
		const struct disk_node *d = (const struct disk_node *)block;
		const struct disk_slot *slot = (const struct disk_slot *)(d + 1);

		simdev_peek(k->disk, addr, block, 1);
		if (le32_get(d->magic) != NODE_MAGIC || d->level || le64_get(slot[0].obj) >> 8 != ino ||
		    le64_get(slot[le16_get(d->nr) - 1].obj) >> 8 != ino)
			continue;
		simdev_flip(k->disk, addr, 8 * 2000);
		n++;
	}
	return n;
}

static void what_cannot_be_deleted_does_not_hold_up_others(void **state)
{
	struct disk_orphan d = { .from = le64_put(0), .to = le64_put(CAP) };
	struct timespec begin, now;
	struct filekit f, g;
	struct batch *b;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384, .threads = true });
	filekit_init(&f, &k, "f", CAP);
	make_many(&f, MANY);
	assert_int_equal(batch_open(store_live(fs_store(k.fs)), &b), 0);
	assert_int_equal(batch_put(b, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, f.node << 1 | FS_ORPHAN_RANGE), &d, sizeof(d)),
			 0);
	assert_int_equal(batch_commit(b, NULL), 0);
	batch_close(b);
	filekit_init(&g, &k, "g", CAP); /* its leaves stand behind those of the other */
	make_many(&g, MANY);
	fskit_unmount(&k);
	assert_true(damage_leaves(&k, f.node) > 0); /* it never can be */
	fskit_mount(&k);
	assert_int_equal(fs_reap(k.fs), -EBADMSG);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	assert_int_equal(fskit_unlink(&k, "g"), 0);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while (getattr(&k, g.node) != -ESTALE && now.tv_sec < begin.tv_sec + 4);
	assert_int_equal(getattr(&k, g.node), -ESTALE);
	assert_true(orphans_waiting(k.fs));
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

int main(void)
{
	static const struct CMUnitTest single[] = {
		cmocka_unit_test(what_cannot_be_deleted_does_not_hold_up_others),
		cmocka_unit_test(a_file_without_a_name_may_get_one),
		cmocka_unit_test(a_large_truncation_is_done_when_it_returns),
		cmocka_unit_test(a_large_truncation_may_stop_anywhere),
		cmocka_unit_test(a_large_deletion_may_stop_anywhere),
		cmocka_unit_test(a_pending_range_reads_as_zeros),
		cmocka_unit_test(a_range_that_cannot_be_removed_yet),
		cmocka_unit_test(a_file_with_a_pending_range_is_deleted),
		cmocka_unit_test(a_full_device_is_helped_by_what_waits_for_deletion),
		cmocka_unit_test(the_reaper_deletes_in_the_background),
	};
	struct CMUnitTest tests[ARRAY_LEN(delete_rows) + ARRAY_LEN(single)];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(delete_rows); i++)
		tests[n++] = TEST_ROW(delete_rows[i].name, deletion, &delete_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(single); i++)
		tests[n++] = single[i];
	return _cmocka_run_group_tests("orphan", tests, n, NULL, NULL);
}

/*
 * t_volume.c - making, mounting and ending; statfs; attributes
 */
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#undef BLOCK_SIZE

#include "tests/kit/fskit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

static void a_new_filesystem_has_a_root(void **state)
{
	struct fskit k;
	struct fs_entry e;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_getattr(k.fs, FS_ROOT, &e), 0);
	assert_true(S_ISDIR(e.st.st_mode));
	assert_int_equal(e.st.st_nlink, 2);
	assert_int_equal(e.st.st_ino, FS_ROOT);
	assert_int_equal(fs_getattr(k.fs, 17, &e), -ESTALE);
	assert_int_equal(fs_getattr(k.fs, FS_ROOT | 1ull << FS_VIEW_SHIFT, &e), -ESTALE);
	fskit_check(&k);
	fskit_release(&k);
}

static void a_store_without_a_root_is_refused(void **state)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = 4096 });
	struct fs_options o = { .no_threads = true, .store.seed = 3 };
	struct fs *fs;

	(void)state;
	storekit_quiet();
	assert_int_equal(store_mkfs(simdev_bdev(disk),
				    &(struct store_mkfs_options){ .node_size = 4096, .log_blocks = 64, .seed = 1 }),
			 0);
	assert_int_equal(fs_mount(simdev_bdev(disk), &o, &fs), -EUCLEAN);
	assert_int_equal(storekit_said("no root directory"), 1);
	simdev_free(disk);
}

static void attributes_survive(void **state)
{
	struct fskit k;
	struct fs_entry e;
	struct stat st = {
		.st_mode = 01751,
		.st_uid = 12,
		.st_gid = 4000000000u,
		.st_atim = { -5, 999999999 },
		.st_mtim = { 1ll << 35, 1 },
	};

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_setattr(k.fs, FS_ROOT, FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_ATIME | FS_SET_MTIME,
				    &st, &e),
			 0);
	for (int i = 0; i < 3; i++) {
		if (i)
			fskit_reboot(&k, i == 2);
		else
			assert_int_equal(fs_sync(k.fs), 0);
		assert_int_equal(fs_getattr(k.fs, FS_ROOT, &e), 0);
		assert_int_equal(e.st.st_mode, S_IFDIR | 01751);
		assert_int_equal(e.st.st_uid, 12);
		assert_int_equal(e.st.st_gid, 4000000000u);
		assert_true(e.st.st_atim.tv_sec == -5 && e.st.st_atim.tv_nsec == 999999999);
		assert_true(e.st.st_mtim.tv_sec == 1ll << 35 && e.st.st_mtim.tv_nsec == 1);
	}
	fskit_check(&k);
	fskit_release(&k);
}

/* The number of what a crash left is never used again; one that nobody can have seen after it may be. */
static void numbers_are_never_used_again(void **state)
{
	uint64_t last = 0;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	for (int i = 0; i < 6; i++) {
		struct fs_entry e;
		char name[8];

		snprintf(name, sizeof(name), "f%d", i);
		assert_int_equal(fs_mknod(k.fs, &fskit_root, FS_ROOT, name, S_IFREG | 0600, 0, &e), 0);
		assert_true(e.st.st_ino > last);
		if (i % 2) {
			assert_int_equal(fs_sync(k.fs), 0);
			last = e.st.st_ino;
		}
		fskit_reboot(&k, true);
	}
	fskit_check(&k);
	fskit_release(&k);
}

static const struct flags_row {
	const char *name;
	uint32_t flags;
	unsigned what;
	int want;
} flags_rows[] = {
	{ "immutable_mode", FS_IMMUTABLE_FL, FS_SET_MODE, -EPERM },
	{ "immutable_touch", FS_IMMUTABLE_FL, FS_SET_MTIME_NOW, -EPERM },
	{ "immutable_size", FS_IMMUTABLE_FL, FS_SET_SIZE, -EPERM },
	{ "append_mode", FS_APPEND_FL, FS_SET_MODE, -EPERM },
	{ "append_size", FS_APPEND_FL, FS_SET_SIZE, -EPERM },
	{ "append_times", FS_APPEND_FL, FS_SET_MTIME, -EPERM },
	{ "append_touch", FS_APPEND_FL, FS_SET_MTIME_NOW, 0 },
	{ "nodump_mode", FS_NODUMP_FL, FS_SET_MODE, 0 },
};

static void flags_refuse_changes(void **state)
{
	const struct flags_row *row = *state;
	struct fskit k;
	struct fs_entry e;
	uint32_t flags;
	uint64_t node;

	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	node = fskit_node(&k, "f");
	assert_int_equal(fs_setflags(k.fs, node, 0x80000000u), -EOPNOTSUPP);
	assert_int_equal(fs_setflags(k.fs, node, row->flags), 0);
	assert_int_equal(fs_getflags(k.fs, node, &flags), 0);
	assert_int_equal(flags, row->flags);
	assert_int_equal(fs_setattr(k.fs, node, row->what, &(struct stat){ .st_mode = 0600, .st_size = 5 }, &e),
			 row->want);
	assert_int_equal(fs_setflags(k.fs, node, 0), 0);
	assert_int_equal(fs_setattr(k.fs, node, row->what, &(struct stat){ .st_mode = 0600, .st_size = 5 }, &e), 0);
	fskit_check(&k);
	fskit_release(&k);
}

static void owners_lose_set_id_bits(void **state)
{
	static const struct {
		mode_t before, after;
		unsigned what;
	} rows[] = {
		{ 06755, 0755, FS_SET_UID },	    { 06755, 0755, FS_SET_GID },
		{ 06745, 02745, FS_SET_UID }, /* no execution by the group: mandatory locking, once */
		{ 06755, 06755, FS_SET_MTIME_NOW }, { 06755, 0755, FS_SET_SIZE | FS_SET_KILL_PRIV },
		{ 06755, 06755, FS_SET_SIZE },
	};
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint64_t node = fskit_node(&k, "f");
		struct fs_entry e;

		assert_int_equal(fs_setattr(k.fs, node, FS_SET_MODE, &(struct stat){ .st_mode = rows[i].before }, &e),
				 0);
		assert_int_equal(fs_setattr(k.fs, node, rows[i].what,
					    &(struct stat){ .st_uid = 3, .st_gid = 4, .st_size = 7 }, &e),
				 0);
		assert_int_equal(e.st.st_mode & 07777, rows[i].after);
	}
	fskit_check(&k);
	fskit_release(&k);
}

static void statfs_counts(void **state)
{
	struct statvfs before, after;
	struct fskit k;
	char data[65536];

	(void)state;
	fskit_init(&k, NULL);
	memset(data, 7, sizeof(data));
	assert_int_equal(fs_statfs(k.fs, &before), 0);
	assert_int_equal(before.f_files - before.f_ffree, 1);
	assert_int_equal(before.f_namemax, 255);
	assert_true(before.f_bfree <= before.f_blocks);
	assert_int_equal(fskit_create(&k, "f"), 0);
	assert_int_equal(fskit_write(&k, "f", data, sizeof(data), 0), 0);
	assert_int_equal(fs_statfs(k.fs, &after), 0);
	assert_int_equal(after.f_files - after.f_ffree, 2);
	assert_in_range(before.f_bfree - after.f_bfree, 16, 128); /* nodes are taken in groups */
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	assert_int_equal(fs_reap(k.fs), 0);
	assert_int_equal(fs_statfs(k.fs, &after), 0);
	assert_int_equal(after.f_files - after.f_ffree, 1);
	fskit_remount(&k);
	assert_int_equal(fs_statfs(k.fs, &after), 0);
	assert_int_equal(after.f_files - after.f_ffree, 1);
	fskit_check(&k);
	fskit_release(&k);
}

static void read_only_refuses_changes(void **state)
{
	struct fs_entry e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	fskit_unmount(&k);
	k.opt.store.read_only = true;
	fskit_mount(&k);
	assert_int_equal(fskit_create(&k, "g"), -EROFS);
	assert_int_equal(fs_setattr(k.fs, FS_ROOT, FS_SET_MODE, &(struct stat){ .st_mode = 0700 }, &e), -EROFS);
	assert_int_equal(fskit_unlink(&k, "f"), -EROFS);
	assert_true(fskit_node(&k, "f"));
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_unmount(&k);
	k.opt.store.read_only = false;
	fskit_mount(&k);
	fskit_check(&k);
	fskit_release(&k);
}

int main(void)
{
	struct CMUnitTest tests[32];
	size_t n = 0;

	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_new_filesystem_has_a_root);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_store_without_a_root_is_refused);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(attributes_survive);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(numbers_are_never_used_again);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(owners_lose_set_id_bits);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(statfs_counts);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(read_only_refuses_changes);
	for (size_t i = 0; i < sizeof(flags_rows) / sizeof(*flags_rows); i++)
		tests[n++] = (struct CMUnitTest){ .name = flags_rows[i].name,
						  .test_func = flags_refuse_changes,
						  .initial_state = (void *)&flags_rows[i] };
	return _cmocka_run_group_tests("volume", tests, n, NULL, NULL);
}

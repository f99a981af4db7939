/* t_names.c - making, finding and removing names (renames: t_rename.c) */
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#undef BLOCK_SIZE

#include "fs/fs_int.h"
#include "tests/kit/failmem.h"
#include "tests/kit/namekit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define X16(s) s s s s s s s s s s s s s s s s
#define NAME_255 X16("abcdefghijklmno") "abcdefghijklmno"
#define NAME_256 X16("abcdefghijklmnop")

static const struct step_row rows[] = {
	/* ---- making ---- */
	{ "a_file_that_was_made_is_found", { LOOKUP("a", -ENOENT), CREATE("a", 0), LOOKUP("a", 0), NLINK("a", 1), SIZE("a", 0),
	    SIZE("", 1), NLINK("", 2) } },
	{ "a_name_can_be_made_once", { CREATE("a", 0), CREATE("a", -EEXIST), MKDIR("a", -EEXIST),
	    SYMLINK("a", "t", -EEXIST), CREATE("b", 0), LINK("b", "a", -EEXIST) } },
	{ "a_directory_counts_its_names_and_subdirectories", { MKDIR("d", 0), NLINK("d", 2), NLINK("", 3), MKDIR("d/e", 0),
	    CREATE("d/f", 0), SYMLINK("d/s", "x", 0), NLINK("d", 3), SIZE("d", 3), UNLINK("d/f", 0), RMDIR("d/e", 0),
	    NLINK("d", 2), SIZE("d", 1) } },
	{ "every_type_can_be_made", { MKNOD("f", 0644, 0), MODE("f", S_IFREG | 0644), MKNOD("p", S_IFIFO | 0600, 0),
	    MODE("p", S_IFIFO | 0600), MKNOD("s", S_IFSOCK | 0777, 0), MODE("s", S_IFSOCK | 0755), MKNOD("c", S_IFCHR | 0600, 0),
	    MODE("c", S_IFCHR | 0600), MKNOD("b", S_IFBLK | 0660, 0), MODE("b", S_IFBLK | 0640) } },
	{ "a_symlink_has_all_permissions", { SYMLINK("s", "target", 0), MODE("s", S_IFLNK | 0777), SIZE("s", 6), NLINK("s", 1) } },
	{ "types_that_are_none_are_refused", { MKNOD("a", S_IFLNK | 0777, -EINVAL), MKNOD("a", 0170000, -EINVAL),
	    LOOKUP("a", -ENOENT) } },
	{ "the_longest_name_has_255_bytes", { CREATE(NAME_255, 0), LOOKUP(NAME_255, 0), CREATE(NAME_255, -EEXIST),
	    LOOKUP(NAME_256, -ENAMETOOLONG), CREATE(NAME_256, -ENAMETOOLONG), MKDIR(NAME_256, -ENAMETOOLONG),
	    UNLINK(NAME_256, -ENAMETOOLONG), RMDIR(NAME_256, -ENAMETOOLONG), LINK(NAME_255, NAME_256, -ENAMETOOLONG),
	    SYMLINK(NAME_256, "t", -ENAMETOOLONG), UNLINK(NAME_255, 0) } },
	{ "a_name_is_any_bytes", { CREATE("\xff\x01 \n\\", 0), LOOKUP("\xff\x01 \n\\", 0), CREATE("...", 0), CREATE(". ", 0),
	    CREATE("..a", 0), SIZE("", 4), LOOKUP("...", 0), LOOKUP("\xff\x01 \n", -ENOENT) } },
	{ "an_empty_name_is_none", { LOOKUP("d/", -ENOENT), MKDIR("d", 0), CREATE("d/", -EINVAL), LOOKUP("d/", -EINVAL) } },
	{ "only_directories_have_names_in_them", { CREATE("f", 0), SYMLINK("s", "d", 0), LOOKUP("f/a", -ENOTDIR),
	    CREATE("f/a", -ENOTDIR), MKDIR("s/a", -ENOTDIR), UNLINK("f/a", -ENOTDIR), RMDIR("f/a", -ENOTDIR),
	    LINK("f", "s/a", -ENOTDIR), LOOKUP("f/.", -ENOTDIR), LOOKUP("f/..", -ENOTDIR) } },
	{ "dots_are_found_and_never_made", { MKDIR("d", 0), MKDIR("d/e", 0), SAME("d/e/..", "d"), SAME("d/.", "d"),
	    SAME("..", ""), SAME(".", ""), CREATE("d/.", -EEXIST), MKDIR("d/..", -EEXIST), LINK("d", ".", -EEXIST),
	    SYMLINK("..", "x", -EEXIST) } },
	{ "dots_are_never_removed", { MKDIR("d", 0), UNLINK("d/.", -EISDIR), UNLINK("d/..", -EISDIR), RMDIR("d/.", -EINVAL),
	    RMDIR("d/..", -ENOTEMPTY), RMDIR(".", -EINVAL), LOOKUP("d", 0) } },
	{ "the_control_directory_is_reserved_in_the_root", { LOOKUP(FS_CONTROL_NAME, -ENOENT), CREATE(FS_CONTROL_NAME, -EEXIST),
	    MKDIR(FS_CONTROL_NAME, -EEXIST), SYMLINK(FS_CONTROL_NAME, "x", -EEXIST), UNLINK(FS_CONTROL_NAME, -EPERM),
	    RMDIR(FS_CONTROL_NAME, -EPERM), CREATE("f", 0), LINK("f", FS_CONTROL_NAME, -EEXIST), MKDIR("d", 0),
	    CREATE("d/" FS_CONTROL_NAME, 0), UNLINK("d/" FS_CONTROL_NAME, 0), CREATE(FS_CONTROL_NAME "x", 0) } },
	/* ---- links ---- */
	{ "a_link_is_the_same_file", { CREATE("a", 0), MKDIR("d", 0), LINK("a", "d/b", 0), SAME("a", "d/b"), NLINK("a", 2),
	    UNLINK("a", 0), NLINK("d/b", 1), LINK("d/b", "a", 0), UNLINK("d/b", 0), NLINK("a", 1), SIZE("d", 0) } },
	{ "directories_have_one_name", { MKDIR("d", 0), LINK("d", "e", -EPERM), NLINK("d", 2) } },
	{ "symlinks_and_devices_can_be_linked", { SYMLINK("s", "x", 0), LINK("s", "t", 0), NLINK("t", 2),
	    MKNOD("c", S_IFCHR | 0600, 0), LINK("c", "c2", 0), SAME("c", "c2"), MODE("t", S_IFLNK | 0777) } },
	/* ---- removing ---- */
	{ "what_was_removed_is_not_found", { CREATE("a", 0), UNLINK("a", 0), LOOKUP("a", -ENOENT), UNLINK("a", -ENOENT),
	    RMDIR("a", -ENOENT), SIZE("", 0), CREATE("a", 0) } },
	{ "unlink_is_for_files_and_rmdir_for_directories", { CREATE("f", 0), MKDIR("d", 0), SYMLINK("s", "d", 0),
	    UNLINK("d", -EISDIR), RMDIR("f", -ENOTDIR), RMDIR("s", -ENOTDIR), RMDIR("d", 0), UNLINK("s", 0), UNLINK("f", 0) } },
	{ "only_empty_directories_are_removed", { MKDIR("d", 0), CREATE("d/f", 0), RMDIR("d", -ENOTEMPTY), UNLINK("d/f", 0),
	    MKDIR("d/e", 0), RMDIR("d", -ENOTEMPTY), RMDIR("d/e", 0), RMDIR("d", 0), NLINK("", 2), SIZE("", 0) } },
	{ "a_removed_directory_in_use_is_empty_for_ever", { MKDIR("d", 0), HOLD("d"), RMDIR("d", 0), NLINK("@", 0),
	    CREATE("@/f", -ENOENT), MKDIR("@/f", -ENOENT), SYMLINK("@/f", "x", -ENOENT), LOOKUP("@/f", -ENOENT),
	    LOOKUP("@/.", 0), SAME("@/..", ""), CREATE("f", 0), LINK("f", "@/f", -ENOENT) } },
	{ "dot_dot_of_a_removed_directory_may_be_gone", { MKDIR("d", 0), MKDIR("d/e", 0), HOLD("d/e"), RMDIR("d/e", 0),
	    RMDIR("d", 0), LOOKUP("@/..", -ENOENT), LOOKUP("@/.", 0), NLINK("@", 0), DROP } },
	{ "a_removed_file_in_use_can_be_read", { CREATE("f", 0), HOLD("f"), UNLINK("f", 0), NLINK("@", 0), DROP } },
	/* ---- chattr ---- */
	{ "an_immutable_file_keeps_its_names", { CREATE("f", 0), FLAGS("f", FS_IMMUTABLE_FL), UNLINK("f", -EPERM),
	    LINK("f", "g", -EPERM), FLAGS("f", 0), LINK("f", "g", 0), UNLINK("f", 0) } },
	{ "an_append_only_file_keeps_its_names", { CREATE("f", 0), FLAGS("f", FS_APPEND_FL), UNLINK("f", -EPERM),
	    LINK("f", "g", -EPERM), FLAGS("f", 0), UNLINK("f", 0) } },
	{ "an_immutable_directory_keeps_its_names", { MKDIR("d", 0), CREATE("d/f", 0), CREATE("g", 0), MKDIR("d/e", 0),
	    FLAGS("d", FS_IMMUTABLE_FL), CREATE("d/x", -EPERM), MKDIR("d/x", -EPERM), SYMLINK("d/x", "y", -EPERM),
	    LINK("g", "d/x", -EPERM), UNLINK("d/f", -EPERM), RMDIR("d/e", -EPERM), RMDIR("d", -EPERM),
	    CREATE("d/f", -EEXIST), CREATE("d/e/in", 0) } },
	{ "an_append_only_directory_only_gains_names", { MKDIR("d", 0), CREATE("d/f", 0), FLAGS("d", FS_APPEND_FL),
	    CREATE("d/x", 0), MKDIR("d/y", 0), LINK("d/f", "d/z", 0), UNLINK("d/f", -EPERM), RMDIR("d/y", -EPERM),
	    RMDIR("d", -EPERM), SIZE("d", 4) } },
};

/* ---- times, owners ---- */

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec > b.tv_sec;
}

static void assert_unchanged(struct fskit *k, const char *path, const struct stat *was)
{
	struct stat now = fskit_stat(k, path);

	assert_memory_equal(&now, was, sizeof(now));
}

static void making_and_removing_change_the_directorys_times(void **state)
{
	struct stat was, now;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	was = fskit_stat(&k, "");
	assert_int_equal(fskit_create(&k, "f"), 0);
	now = fskit_stat(&k, "");
	assert_true(later(now.st_mtim, was.st_mtim) && later(now.st_ctim, was.st_ctim));
	assert_int_equal(fskit_create(&k, "f"), -EEXIST);
	assert_unchanged(&k, "", &now);
	was = now;
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	now = fskit_stat(&k, "");
	assert_true(later(now.st_mtim, was.st_mtim) && later(now.st_ctim, was.st_ctim));
	assert_int_equal(now.st_atim.tv_sec, was.st_atim.tv_sec);
	fskit_release(&k);
}

static void a_link_more_or_less_changes_only_the_files_ctime(void **state)
{
	struct stat was, now;
	struct fs_entry e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	was = fskit_stat(&k, "f");
	assert_int_equal(fs_link(k.fs, fskit_node(&k, "f"), FS_ROOT, "g", &e), 0);
	now = fskit_stat(&k, "f");
	assert_true(later(now.st_ctim, was.st_ctim));
	assert_int_equal(now.st_mtim.tv_sec, was.st_mtim.tv_sec);
	was = now;
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	now = fskit_stat(&k, "g");
	assert_true(later(now.st_ctim, was.st_ctim));
	assert_int_equal(now.st_mtim.tv_sec, was.st_mtim.tv_sec);
	fs_forget(k.fs, e.node, 1);
	fskit_release(&k);
}

static void owner_group_and_mode_come_from_caller_and_directory(void **state)
{
	static const struct fs_caller who = { .uid = 7, .gid = 8, .umask = 027 };
	struct fs_entry d, e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_mkdir(k.fs, &fskit_user, FS_ROOT, "d", 02777, &d), 0);
	assert_int_equal(fs_mknod(k.fs, &who, FS_ROOT, "f", S_IFREG | 0666, 0, &e), 0);
	assert_int_equal(e.st.st_uid, 7);
	assert_int_equal(e.st.st_gid, 8);
	assert_int_equal(e.st.st_mode, S_IFREG | 0640);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(fs_mknod(k.fs, &who, d.node, "f", S_IFREG | 0666, 0, &e), 0);
	assert_int_equal(e.st.st_gid, fskit_user.gid);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(fs_mkdir(k.fs, &who, d.node, "e", 0777, &e), 0);
	assert_int_equal(e.st.st_gid, fskit_user.gid);
	assert_int_equal(e.st.st_mode, S_IFDIR | S_ISGID | 0750);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(fs_mknod(k.fs, &who, d.node, "c", S_IFCHR | 0600, 0x12345, &e), 0);
	assert_int_equal(e.st.st_rdev, 0x12345);
	fs_forget(k.fs, e.node, 1);
	fs_forget(k.fs, d.node, 1);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- symlinks ---- */

static void symlinks_of_every_length_are_read_back(void **state)
{
	static const size_t lens[] = { 1, 59, 900, 1000, 1023, 1024, 1025, 2000, 3000, 4094, 4095 };
	char target[FS_SYMLINK_MAX + 2], buf[FS_SYMLINK_MAX + 2], name[16];
	struct fs_entry e;
	struct fskit k;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		for (size_t j = 0; j < lens[i]; j++)
			target[j] = (char)('a' + (j * 7 + i) % 26);
		target[lens[i]] = '\0';
		snprintf(name, sizeof(name), "s%zu", i);
		assert_int_equal(fs_symlink(k.fs, &fskit_user, target, FS_ROOT, name, &e), 0);
		for (unsigned again = 0; again < 2; again++) {
			assert_int_equal(fs_readlink(k.fs, e.node, buf, sizeof(buf), &len), 0);
			assert_int_equal(len, lens[i]);
			assert_string_equal(buf, target);
			assert_int_equal(e.st.st_size, len);
			fs_forget(k.fs, e.node, !again);
			fskit_remount(&k);
		}
		memset(buf, 'x', sizeof(buf));
		assert_int_equal(fs_readlink(k.fs, e.node, buf, lens[i] / 2 + 1, &len), 0);
		assert_int_equal(len, lens[i]);
		assert_int_equal(strlen(buf), lens[i] / 2);
		assert_memory_equal(buf, target, lens[i] / 2);
		assert_int_equal(buf[lens[i] / 2 + 1], 'x');
	}
	assert_int_equal(fs_readlink(k.fs, e.node, NULL, 0, &len), 0);
	fskit_check(&k);
	fskit_release(&k);
}

static void targets_too_long_or_empty_are_refused(void **state)
{
	char target[FS_SYMLINK_MAX + 2];
	struct fs_entry e;
	struct fskit k;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	memset(target, 'a', sizeof(target));
	target[sizeof(target) - 1] = '\0';
	assert_int_equal(fs_symlink(k.fs, &fskit_user, target, FS_ROOT, "s", &e), -ENAMETOOLONG);
	assert_int_equal(fs_symlink(k.fs, &fskit_user, "", FS_ROOT, "s", &e), -ENOENT);
	assert_int_equal(fskit_create(&k, "f"), 0);
	assert_int_equal(fs_readlink(k.fs, fskit_node(&k, "f"), target, sizeof(target), &len), -EINVAL);
	assert_int_equal(fs_readlink(k.fs, FS_ROOT, target, sizeof(target), &len), -EINVAL);
	assert_int_equal(fs_readlink(k.fs, 999999, target, sizeof(target), &len), -ESTALE);
	fskit_release(&k);
}

/* ---- references and deletion ---- */

static void what_has_references_outlives_its_name(void **state)
{
	struct fs_entry e, e2;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_mknod(k.fs, &fskit_user, FS_ROOT, "f", S_IFREG | 0600, 0, &e), 0);
	assert_int_equal(fs_lookup(k.fs, FS_ROOT, "f", &e2), 0);
	assert_int_equal(e.node, e2.node);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	assert_int_equal(fs_reap(k.fs), 0);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(fs_getattr(k.fs, e.node, &e2), 0);
	assert_int_equal(e2.st.st_nlink, 0);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(fs_getattr(k.fs, e.node, &e2), -ESTALE);
	fskit_check(&k);
	fskit_release(&k);
}

static void what_has_no_references_goes_with_its_name(void **state)
{
	struct fs_entry e;
	struct fskit k;
	uint64_t node;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_mkdir(&k, "d"), 0);
	node = fskit_node(&k, "d");
	assert_int_equal(fs_rmdir(k.fs, FS_ROOT, "d"), 0);
	assert_int_equal(fs_getattr(k.fs, node, &e), -ESTALE);
	assert_int_equal(fs_lookup(k.fs, node, "x", &e), -ESTALE);
	assert_int_equal(fs_mknod(k.fs, &fskit_user, node, "x", S_IFREG, 0, &e), -ESTALE);
	assert_int_equal(fs_unlink(k.fs, node, "x"), -ESTALE);
	assert_int_equal(fs_link(k.fs, node, FS_ROOT, "x", &e), -ESTALE);
	assert_int_equal(fs_tmpfile(k.fs, &fskit_user, node, 0600, &e), -ESTALE);
	fskit_check(&k);
	fskit_release(&k);
}

static void a_crash_deletes_what_was_only_referred_to(void **state)
{
	struct fs_entry e, e2;
	struct fskit k;

	(void)state;
	for (unsigned tmp = 0; tmp < 2; tmp++) {
		fskit_init(&k, NULL);
		if (tmp) {
			assert_int_equal(fs_tmpfile(k.fs, &fskit_user, FS_ROOT, 0600, &e), 0);
		} else {
			assert_int_equal(fs_mknod(k.fs, &fskit_user, FS_ROOT, "f", S_IFREG | 0600, 0, &e), 0);
			assert_int_equal(fskit_unlink(&k, "f"), 0);
		}
		assert_int_equal(fs_sync(k.fs), 0);
		fskit_reboot(&k, true);
		assert_int_equal(fs_reap(k.fs), 0);
		assert_int_equal(fs_getattr(k.fs, e.node, &e2), -ESTALE);
		fskit_check(&k);
		fskit_release(&k);
	}
}

static void a_tmpfile_has_no_name_until_it_is_linked(void **state)
{
	struct fs_entry e, e2;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_tmpfile(k.fs, &fskit_user, FS_ROOT, S_IFREG | 0666, &e), 0);
	assert_int_equal(e.st.st_nlink, 0);
	assert_int_equal(e.st.st_mode, S_IFREG | 0644);
	assert_int_equal(fskit_stat(&k, "").st_size, 0);
	assert_int_equal(fs_reap(k.fs), 0);
	assert_int_equal(fs_link(k.fs, e.node, FS_ROOT, "f", &e2), 0);
	assert_int_equal(e2.node, e.node);
	assert_int_equal(e2.st.st_nlink, 1);
	fs_forget(k.fs, e.node, 2);
	assert_int_equal(fskit_node(&k, "f"), e.node); /* the name holds it */
	fskit_check(&k);
	fskit_remount(&k);
	assert_int_equal(fskit_node(&k, "f"), e.node);

	assert_int_equal(fs_tmpfile(k.fs, &fskit_user, FS_ROOT, 0600, &e), 0);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(fs_getattr(k.fs, e.node, &e2), -ESTALE);
	assert_int_equal(fs_tmpfile(k.fs, &fskit_user, FS_ROOT, S_IFIFO | 0600, &e), -EINVAL);
	assert_int_equal(fs_tmpfile(k.fs, &fskit_user, fskit_node(&k, "f"), 0600, &e), -ENOTDIR);
	fskit_check(&k);
	fskit_release(&k);
}

static void nodes_of_views_that_do_not_exist_are_stale(void **state)
{
	uint64_t other = UINT64_C(5) << FS_VIEW_SHIFT | 1;
	struct fs_entry e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	assert_int_equal(fs_lookup(k.fs, other, "f", &e), -ESTALE);
	assert_int_equal(fs_mkdir(k.fs, &fskit_root, other, "d", 0755, &e), -ESTALE);
	assert_int_equal(fs_link(k.fs, fskit_node(&k, "f"), other, "g", &e), -EXDEV);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "f", other, "g", 0), -EXDEV);
	fskit_release(&k);
}

/* ---- limits ---- */

/* Counts by putting the inode as it would be: so many links one by one take long. */
static void set_nlink(struct fskit *k, uint64_t node, uint32_t nlink)
{
	uint64_t ino = node_ino(node);
	struct inode i;
	struct op op;

	assert_int_equal(op_begin(k->fs, node, &op), 0);
	op_lock(&op, &ino, 1);
	assert_int_equal(inode_load(op.view, ino, &i), 0);
	i.nlink = nlink;
	assert_int_equal(inode_put(op.batch, &i), 0);
	assert_int_equal(op_commit(&op), 0);
	op_end(&op);
}

static void more_links_than_can_be_counted_are_refused(void **state)
{
	struct fs_entry e;
	struct fskit k;
	uint64_t f, d;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	assert_int_equal(fskit_mkdir(&k, "d"), 0);
	assert_int_equal(fskit_mkdir(&k, "e"), 0);
	f = fskit_node(&k, "f");
	d = fskit_node(&k, "d");
	set_nlink(&k, f, FS_NLINK_MAX - 1);
	assert_int_equal(fs_link(k.fs, f, FS_ROOT, "g", &e), 0);
	fs_forget(k.fs, f, 1);
	assert_int_equal(fs_link(k.fs, f, FS_ROOT, "h", &e), -EMLINK);
	set_nlink(&k, f, 2);
	set_nlink(&k, d, FS_NLINK_MAX);
	assert_int_equal(fskit_mkdir(&k, "d/x"), -EMLINK);
	assert_int_equal(fskit_create(&k, "d/x"), 0);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "e", d, "e", 0), -EMLINK);
	assert_int_equal(fs_rename(k.fs, NULL, d, "x", FS_ROOT, "e", RENAME_EXCHANGE), -EMLINK);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "f", d, "f", 0), 0);
	set_nlink(&k, d, 2);
	fskit_check(&k);
	fskit_release(&k);
}

static void a_full_disk_lets_names_be_removed(void **state)
{
	struct fskit k;
	unsigned n = 0, more = 0;
	char name[200];
	int err;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 1024, .log_blocks = 64 });
	for (;; n++) {
		snprintf(name, sizeof(name), "%0150u", n);
		err = fskit_create(&k, name);
		if (err)
			break;
	}
	assert_int_equal(err, -ENOSPC);
	assert_true(n > 1000);
	fskit_check(&k);
	for (unsigned i = 0; i < n; i += 2) {
		snprintf(name, sizeof(name), "%0150u", i);
		assert_int_equal(fskit_unlink(&k, name), 0);
	}
	for (unsigned i = 0; i < n / 4; i++) {
		snprintf(name, sizeof(name), "%0100u", i);
		if (!fskit_create(&k, name))
			more++;
	}
	assert_true(more > 0);
	assert_int_equal(fskit_stat(&k, "").st_size, n / 2 + more);
	fskit_check(&k);
	fskit_remount(&k);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- failures leave nothing behind ---- */

static int all_makers(struct fskit *k, unsigned which, struct fs_entry *e)
{
	switch (which) {
	case 0:
		return fs_mknod(k->fs, &fskit_user, FS_ROOT, "new", S_IFREG | 0644, 0, e);
	case 1:
		return fs_mkdir(k->fs, &fskit_user, FS_ROOT, "new", 0755, e);
	case 2:
		return fs_symlink(k->fs, &fskit_user, "target", FS_ROOT, "new", e);
	case 3:
		return fs_link(k->fs, fskit_node(k, "f"), FS_ROOT, "new", e);
	case 4:
		return fs_tmpfile(k->fs, &fskit_user, FS_ROOT, 0600, e);
	case 5:
		return fs_unlink(k->fs, FS_ROOT, "f");
	case 6:
		return fs_rmdir(k->fs, FS_ROOT, "d");
	case 7:
		return fs_rename(k->fs, &fskit_user, FS_ROOT, "f", FS_ROOT, "g", RENAME_WHITEOUT);
	default:
		return fs_lookup(k->fs, FS_ROOT, "f", e);
	}
}

static void without_memory_nothing_happens(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 9; which++) {
		for (uint64_t n = 1;; n++) {
			struct fs_entry e = { 0 };
			struct stat was;
			struct fskit k;
			bool failed;
			int err;

			fskit_init(&k, NULL);
			assert_int_equal(fskit_create(&k, "f"), 0);
			assert_int_equal(fskit_create(&k, "g"), 0);
			assert_int_equal(fskit_mkdir(&k, "d"), 0);
			was = fskit_stat(&k, "");
			failmem_start(n, FAILMEM_FROM_THEN_ON);
			err = all_makers(&k, which, &e);
			failed = failmem_stop();
			if (err) {
				assert_int_equal(err, -ENOMEM);
				assert_int_equal(lookups_count(k.fs->lookups), 0);
				assert_unchanged(&k, "", &was);
			} else if (e.node) {
				assert_int_equal(lookups_count(k.fs->lookups), 1);
				fs_forget(k.fs, e.node, 1);
			}
			fskit_check(&k);
			fskit_release(&k);
			if (!failed) {
				assert_int_equal(err, 0);
				break;
			}
		}
	}
}

static void a_failed_device_changes_nothing_more(void **state)
{
	struct fs_entry e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	simdev_add_fault(k.disk, &(struct simdev_fault){ .op = SIMDEV_FLUSH });
	assert_true(fs_sync(k.fs) != 0);
	for (unsigned which = 0; which < 8; which++)
		assert_int_equal(all_makers(&k, which, &e), which == 6 ? -ENOENT : -EROFS);
	assert_int_equal(all_makers(&k, 8, &e), 0);
	assert_int_equal(lookups_count(k.fs->lookups), 1);
	fskit_release(&k);
}

int main(void)
{
	enum { FIXED = 16 };
	struct CMUnitTest tests[ARRAY_LEN(rows) + FIXED] = {
		cmocka_unit_test(making_and_removing_change_the_directorys_times),
		cmocka_unit_test(a_link_more_or_less_changes_only_the_files_ctime),
		cmocka_unit_test(owner_group_and_mode_come_from_caller_and_directory),
		cmocka_unit_test(symlinks_of_every_length_are_read_back),
		cmocka_unit_test(targets_too_long_or_empty_are_refused),
		cmocka_unit_test(what_has_references_outlives_its_name),
		cmocka_unit_test(what_has_no_references_goes_with_its_name),
		cmocka_unit_test(a_crash_deletes_what_was_only_referred_to),
		cmocka_unit_test(a_tmpfile_has_no_name_until_it_is_linked),
		cmocka_unit_test(nodes_of_views_that_do_not_exist_are_stale),
		cmocka_unit_test(more_links_than_can_be_counted_are_refused),
		cmocka_unit_test(a_full_disk_lets_names_be_removed),
		cmocka_unit_test(without_memory_nothing_happens),
		cmocka_unit_test(a_failed_device_changes_nothing_more),
	};
	size_t n = 0;

	while (tests[n].test_func)
		n++;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].name, steps_test, &rows[i]);
	return _cmocka_run_group_tests("names", tests, n, NULL, NULL);
}

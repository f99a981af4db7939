/* t_rename.c - moving, replacing and exchanging names */
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#undef BLOCK_SIZE

#include "fs/fs_int.h"
#include "tests/kit/namekit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define NOREPLACE RENAME_NOREPLACE
#define EXCHANGE RENAME_EXCHANGE
#define WHITEOUT RENAME_WHITEOUT
#define X16(s) s s s s s s s s s s s s s s s s
#define NAME_256 X16("abcdefghijklmnop")
#define IS_WHITEOUT(a_) MODE(a_, S_IFCHR)

static const struct step_row rows[] = {
	/* ---- moving ---- */
	{ "a_file_gets_another_name", { CREATE("a", 0), RENAME("a", "b", 0, 0), LOOKUP("a", -ENOENT), LOOKUP("b", 0), SIZE("", 1),
	    NLINK("b", 1) } },
	{ "a_file_moves_to_another_directory", { MKDIR("d", 0), CREATE("a", 0), RENAME("a", "d/a", 0, 0), LOOKUP("a", -ENOENT),
	    LOOKUP("d/a", 0), SIZE("", 1), SIZE("d", 1), NLINK("d", 2), NLINK("", 3) } },
	{ "a_directory_moves_with_all_in_it", { MKDIR("d", 0), MKDIR("e", 0), MKDIR("d/x", 0), CREATE("d/x/f", 0),
	    RENAME("d/x", "e/y", 0, 0), LOOKUP("e/y/f", 0), NLINK("d", 2), NLINK("e", 3), SIZE("d", 0), SIZE("e", 1),
	    SAME("e/y/..", "e"), RENAME("e/y", "y", 0, 0), SAME("y/..", ""), NLINK("", 5) } },
	{ "a_directory_gets_another_name_in_place", { MKDIR("d", 0), RENAME("d", "e", 0, 0), NLINK("", 3), SIZE("", 1),
	    SAME("e/..", "") } },
	{ "what_is_not_there_cannot_move", { MKDIR("d", 0), RENAME("a", "b", 0, -ENOENT), RENAME("a", "d/b", 0, -ENOENT),
	    RENAME("d/a", "d", 0, -ENOENT), RENAME("a", "a", 0, -ENOENT) } },
	{ "a_rename_to_itself_does_nothing", { CREATE("a", 0), MKDIR("d", 0), RENAME("a", "a", 0, 0), RENAME("d", "d", 0, 0),
	    RENAME("a", "a", EXCHANGE, 0), RENAME("a", "a", WHITEOUT, 0), RENAME("a", "a", NOREPLACE, -EEXIST), SIZE("", 2),
	    NLINK("", 3) } },
	{ "two_names_of_one_file_both_stay", { CREATE("a", 0), MKDIR("d", 0), LINK("a", "d/b", 0), RENAME("a", "d/b", 0, 0),
	    LOOKUP("a", 0), LOOKUP("d/b", 0), NLINK("a", 2), RENAME("d/b", "a", EXCHANGE, 0), RENAME("a", "d/b", WHITEOUT, 0),
	    RENAME("a", "d/b", NOREPLACE, -EEXIST), NLINK("a", 2) } },
	{ "symlinks_are_moved_and_not_followed", { MKDIR("d", 0), SYMLINK("s", "d", 0), RENAME("s", "t", 0, 0),
	    MODE("t", S_IFLNK | 0777), RENAME("t", "d", 0, -EISDIR), RENAME("d", "t", 0, -ENOTDIR) } },
	/* ---- replacing ---- */
	{ "a_file_replaces_a_file", { CREATE("a", 0), CREATE("b", 0), HOLD("a"), RENAME("a", "b", 0, 0), SAME("b", "@"),
	    SIZE("", 1), LOOKUP("a", -ENOENT), NLINK("b", 1) } },
	{ "what_was_replaced_lives_while_it_is_used", { CREATE("a", 0), CREATE("b", 0), HOLD("b"), RENAME("a", "b", 0, 0),
	    NLINK("@", 0), DROP, NLINK("b", 1) } },
	{ "what_was_replaced_keeps_its_other_names", { CREATE("a", 0), CREATE("b", 0), LINK("b", "c", 0), RENAME("a", "b", 0, 0),
	    NLINK("c", 1), LOOKUP("c", 0) } },
	{ "a_directory_replaces_an_empty_one", { MKDIR("d", 0), MKDIR("e", 0), CREATE("d/f", 0), RENAME("d", "e", 0, 0),
	    LOOKUP("e/f", 0), NLINK("", 3), SIZE("", 1), MKDIR("d", 0), MKDIR("d/x", 0), RENAME("d/x", "e", 0, -ENOTEMPTY),
	    UNLINK("e/f", 0), RENAME("d/x", "e", 0, 0), NLINK("", 4), NLINK("d", 2) } },
	{ "a_directory_replaces_no_file", { MKDIR("d", 0), CREATE("f", 0), RENAME("d", "f", 0, -ENOTDIR), LOOKUP("f", 0) } },
	{ "a_file_replaces_no_directory", { MKDIR("d", 0), CREATE("f", 0), RENAME("f", "d", 0, -EISDIR), LOOKUP("d", 0) } },
	{ "noreplace_does_not", { CREATE("a", 0), CREATE("b", 0), MKDIR("d", 0), RENAME("a", "b", NOREPLACE, -EEXIST),
	    RENAME("a", "d", NOREPLACE, -EEXIST), RENAME("d", "a", NOREPLACE, -EEXIST), RENAME("a", "d/c", NOREPLACE, 0),
	    LOOKUP("d/c", 0), LOOKUP("b", 0) } },
	/* ---- loops ---- */
	{ "no_directory_moves_into_itself", { MKDIR("a", 0), MKDIR("a/b", 0), MKDIR("a/b/c", 0), RENAME("a", "a/x", 0, -EINVAL),
	    RENAME("a", "a/b/c/x", 0, -EINVAL), RENAME("a/b", "a/b/c", 0, -EINVAL), RENAME("a", "a/b/c", EXCHANGE, -EINVAL),
	    RENAME("a/b/c", "a", EXCHANGE, -EINVAL), RENAME("a/b/c", "a", 0, -ENOTEMPTY), RENAME("a/b/c", "c", 0, 0),
	    RENAME("a", "c/a", 0, 0), RENAME("c", "c/a/b/c", 0, -EINVAL), LOOKUP("c/a/b", 0) } },
	{ "a_file_does_not_replace_the_directory_it_is_in", { MKDIR("a", 0), CREATE("a/f", 0), RENAME("a/f", "a", 0, -ENOTEMPTY),
	    RENAME("a/f", "a", EXCHANGE, -EINVAL), LOOKUP("a/f", 0) } },
	/* ---- exchanging ---- */
	{ "files_change_places", { CREATE("a", 0), MKDIR("d", 0), CREATE("d/b", 0), HOLD("a"), RENAME("a", "d/b", EXCHANGE, 0),
	    SAME("d/b", "@"), NLINK("a", 1), SIZE("", 2), SIZE("d", 1) } },
	{ "directories_change_places_and_parents", { MKDIR("a", 0), MKDIR("d", 0), MKDIR("d/b", 0), CREATE("a/1", 0),
	    CREATE("d/b/2", 0), RENAME("a", "d/b", EXCHANGE, 0), LOOKUP("a/2", 0), LOOKUP("d/b/1", 0), SAME("a/..", ""),
	    SAME("d/b/..", "d"), NLINK("d", 3), NLINK("", 4) } },
	{ "a_file_and_a_directory_change_places", { MKDIR("d", 0), CREATE("d/f", 0), MKDIR("e", 0), CREATE("e/in", 0),
	    RENAME("d/f", "e", EXCHANGE, 0), LOOKUP("d/f/in", 0), NLINK("d", 3), NLINK("", 3), SAME("d/f/..", "d"),
	    MODE("e", S_IFREG | 0644), RENAME("e", "d/f", EXCHANGE, 0), NLINK("d", 2), NLINK("", 4) } },
	{ "names_of_one_directory_change_places", { MKDIR("d", 0), CREATE("f", 0), HOLD("f"), RENAME("f", "d", EXCHANGE, 0),
	    SAME("d", "@"), MODE("f", S_IFDIR | 0755), NLINK("", 3), SIZE("", 2) } },
	{ "both_must_be_there_to_change_places", { CREATE("a", 0), RENAME("a", "b", EXCHANGE, -ENOENT),
	    RENAME("b", "a", EXCHANGE, -ENOENT), LOOKUP("a", 0) } },
	/* ---- whiteouts ---- */
	{ "a_whiteout_is_left_behind", { CREATE("a", 0), MKDIR("d", 0), RENAME("a", "d/b", WHITEOUT, 0), IS_WHITEOUT("a"),
	    NLINK("a", 1), SIZE("", 2), SIZE("d", 1), LOOKUP("d/b", 0), UNLINK("a", 0) } },
	{ "a_directory_leaves_a_whiteout", { MKDIR("d", 0), MKDIR("e", 0), RENAME("d", "e/d", WHITEOUT, 0), IS_WHITEOUT("d"),
	    NLINK("", 3), NLINK("e", 3), SIZE("", 2), SAME("e/d/..", "e") } },
	{ "a_whiteout_and_a_replaced_file", { CREATE("a", 0), CREATE("b", 0), HOLD("b"), RENAME("a", "b", WHITEOUT, 0),
	    IS_WHITEOUT("a"), NLINK("@", 0), SIZE("", 2) } },
	{ "whiteout_goes_with_noreplace", { CREATE("a", 0), CREATE("b", 0), RENAME("a", "b", WHITEOUT | NOREPLACE, -EEXIST),
	    RENAME("a", "c", WHITEOUT | NOREPLACE, 0), IS_WHITEOUT("a"), SIZE("", 3) } },
	/* ---- refused ---- */
	{ "flags_that_contradict_or_do_not_exist_are_refused", { CREATE("a", 0), CREATE("b", 0),
	    RENAME("a", "b", EXCHANGE | NOREPLACE, -EINVAL), RENAME("a", "b", EXCHANGE | WHITEOUT, -EINVAL),
	    RENAME("a", "c", 8, -EINVAL), RENAME("a", "c", 1u << 31, -EINVAL) } },
	{ "dots_do_not_move", { MKDIR("d", 0), CREATE("a", 0), RENAME("d/.", "b", 0, -EBUSY), RENAME("d/..", "b", 0, -EBUSY),
	    RENAME("a", "d/.", 0, -EBUSY), RENAME("a", "d/..", 0, -EBUSY), RENAME("a", "..", NOREPLACE, -EEXIST),
	    RENAME("a", ".", EXCHANGE, -EBUSY) } },
	{ "the_control_directory_does_not_move", { CREATE("a", 0), RENAME(FS_CONTROL_NAME, "b", 0, -EBUSY),
	    RENAME("a", FS_CONTROL_NAME, 0, -EBUSY), RENAME("a", FS_CONTROL_NAME, NOREPLACE, -EEXIST), MKDIR("d", 0),
	    RENAME("a", "d/" FS_CONTROL_NAME, 0, 0), RENAME("d/" FS_CONTROL_NAME, "a", 0, 0) } },
	{ "names_too_long_are_refused", { CREATE("a", 0), RENAME("a", NAME_256, 0, -ENAMETOOLONG),
	    RENAME(NAME_256, "a", 0, -ENAMETOOLONG), LOOKUP("a", 0) } },
	{ "only_directories_have_names", { CREATE("a", 0), CREATE("f", 0), RENAME("a", "f/b", 0, -ENOTDIR),
	    RENAME("f/b", "a", 0, -ENOTDIR) } },
	{ "nothing_moves_into_a_removed_directory", { CREATE("a", 0), MKDIR("d", 0), HOLD("d"), RMDIR("d", 0),
	    RENAME("a", "@/a", 0, -ENOENT), RENAME("@/a", "b", 0, -ENOENT), MKDIR("e", 0), RENAME("e", "@/e", 0, -ENOENT),
	    RENAME("a", "@/a", EXCHANGE, -ENOENT), LOOKUP("a", 0) } },
	{ "what_is_immutable_does_not_move", { CREATE("f", 0), CREATE("g", 0), FLAGS("f", FS_IMMUTABLE_FL),
	    RENAME("f", "h", 0, -EPERM), RENAME("g", "f", 0, -EPERM), RENAME("g", "f", EXCHANGE, -EPERM), FLAGS("f", FS_APPEND_FL),
	    RENAME("f", "h", 0, -EPERM), RENAME("g", "f", 0, -EPERM), FLAGS("f", 0), RENAME("g", "f", 0, 0) } },
	{ "nothing_moves_in_or_out_of_an_immutable_directory", { MKDIR("d", 0), CREATE("d/f", 0), CREATE("g", 0),
	    FLAGS("d", FS_IMMUTABLE_FL), RENAME("d/f", "h", 0, -EPERM), RENAME("g", "d/g", 0, -EPERM),
	    RENAME("g", "d/f", 0, -EPERM), RENAME("g", "d/f", EXCHANGE, -EPERM), RENAME("d/f", "d/g", 0, -EPERM) } },
	{ "names_move_into_an_append_only_directory_not_out", { MKDIR("d", 0), CREATE("d/f", 0), CREATE("g", 0),
	    FLAGS("d", FS_APPEND_FL), RENAME("d/f", "h", 0, -EPERM), RENAME("g", "d/f", 0, -EPERM),
	    RENAME("g", "d/f", EXCHANGE, -EPERM), RENAME("d/f", "d/g", 0, -EPERM), RENAME("g", "d/g", 0, 0), SIZE("d", 2) } },
};

/* ---- times ---- */

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec > b.tv_sec;
}

struct times_row {
	const char *name;
	const char *from_dir, *to_dir;
	unsigned flags;
	bool replaces;
};

static const struct times_row times_rows[] = {
	{ "a_rename_changes_times_within_a_directory", "d", "d", 0, false },
	{ "a_rename_changes_times_of_both_directories", "d", "e", 0, false },
	{ "a_replacing_rename_changes_times", "d", "e", 0, true },
	{ "an_exchange_changes_times", "d", "e", EXCHANGE, true },
	{ "a_whiteout_changes_times", "d", "e", WHITEOUT, false },
};

static void times_one(void **state)
{
	const struct times_row *row = *state;
	struct stat d, e, f, g = { 0 }, now;
	struct fs_entry held = { 0 };
	char path[16];
	struct fskit k;

	fskit_init(&k, NULL);
	assert_int_equal(fskit_mkdir(&k, "d"), 0);
	assert_int_equal(fskit_mkdir(&k, "e"), 0);
	assert_int_equal(fskit_create(&k, "d/f"), 0);
	snprintf(path, sizeof(path), "%s/g", row->to_dir);
	if (row->replaces) {
		assert_int_equal(fskit_create(&k, path), 0);
		assert_int_equal(fs_lookup(k.fs, fskit_node(&k, row->to_dir), "g", &held), 0);
		g = held.st;
	}
	d = fskit_stat(&k, row->from_dir);
	e = fskit_stat(&k, row->to_dir);
	f = fskit_stat(&k, "d/f");
	assert_int_equal(fs_rename(k.fs, &fskit_user, fskit_node(&k, row->from_dir), "f", fskit_node(&k, row->to_dir), "g",
				   row->flags),
			 0);
	now = fskit_stat(&k, row->from_dir);
	assert_true(later(now.st_mtim, d.st_mtim) && later(now.st_ctim, d.st_ctim));
	now = fskit_stat(&k, row->to_dir);
	assert_true(later(now.st_mtim, e.st_mtim) && later(now.st_ctim, e.st_ctim));
	now = fskit_stat(&k, path);
	assert_int_equal(now.st_ino, f.st_ino);
	assert_true(later(now.st_ctim, f.st_ctim));
	assert_int_equal(now.st_mtim.tv_sec, f.st_mtim.tv_sec);
	if (row->replaces) {
		struct fs_entry after;

		assert_int_equal(fs_getattr(k.fs, held.node, &after), 0);
		assert_int_equal(after.st.st_nlink, row->flags & EXCHANGE ? 1 : 0);
		assert_true(later(after.st.st_ctim, g.st_ctim));
		assert_int_equal(after.st.st_mtim.tv_sec, g.st_mtim.tv_sec);
		fs_forget(k.fs, held.node, 1);
	}
	if (row->flags & WHITEOUT) {
		now = fskit_stat(&k, "d/f");
		assert_int_equal(now.st_uid, fskit_user.uid);
		assert_int_equal(now.st_rdev, 0);
	}
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- at random, against a model of a tree ---- */

#define NAMES 5u
#define NODES_MAX 400u

struct node {
	bool used, dir;
	unsigned parent;
	unsigned child[NAMES]; /* 0: none */
	uint64_t ino;
};

static unsigned children(const struct node *n)
{
	unsigned c = 0;

	for (unsigned i = 0; i < NAMES; i++)
		c += n->child[i] != 0;
	return c;
}

static bool above(const struct node *all, unsigned a, unsigned of)
{
	for (; of; of = all[of].parent)
		if (of == a)
			return true;
	return !a;
}

static int model_rename(struct node *all, unsigned d1, unsigned n1, unsigned d2, unsigned n2, unsigned flags)
{
	unsigned a = all[d1].child[n1], b = all[d2].child[n2];

	if (!a)
		return -ENOENT;
	if (b && flags & NOREPLACE)
		return -EEXIST;
	if (!b && flags & EXCHANGE)
		return -ENOENT;
	if (a == b)
		return 0;
	if (all[a].dir && d1 != d2 && above(all, a, d2))
		return -EINVAL;
	if (b && all[b].dir && d1 != d2 && above(all, b, d1))
		return flags & EXCHANGE ? -EINVAL : -ENOTEMPTY;
	if (b && !(flags & EXCHANGE)) {
		if (all[a].dir != all[b].dir)
			return all[a].dir ? -ENOTDIR : -EISDIR;
		if (children(&all[b]))
			return -ENOTEMPTY;
		all[b].used = false;
	}
	all[d1].child[n1] = flags & EXCHANGE ? b : 0;
	all[d2].child[n2] = a;
	all[a].parent = d2;
	if (flags & EXCHANGE)
		all[b].parent = d1;
	return 0;
}

static const char *const names[NAMES] = { "one", "two", "three", "four", "five" };

static void compare(struct fskit *k, const struct node *all, unsigned at)
{
	unsigned subdirs = 0;
	struct fs_entry e;

	for (unsigned i = 0; i < NAMES; i++) {
		unsigned c = all[at].child[i];
		int err = fs_lookup(k->fs, all[at].ino, names[i], &e);

		assert_int_equal(err, c ? 0 : -ENOENT);
		if (err)
			continue;
		assert_int_equal(e.node, all[c].ino);
		fs_forget(k->fs, e.node, 1);
		if (!all[c].dir)
			continue;
		subdirs++;
		assert_int_equal(fs_lookup(k->fs, all[c].ino, "..", &e), 0);
		assert_int_equal(e.node, all[at].ino);
		fs_forget(k->fs, e.node, 1);
		compare(k, all, c);
	}
	assert_int_equal(fs_getattr(k->fs, all[at].ino, &e), 0);
	assert_int_equal(e.st.st_nlink, 2 + subdirs);
	assert_int_equal(e.st.st_size, children(&all[at]));
}

static unsigned pick_dir(struct rng *rng, const struct node *all)
{
	unsigned at = 0;

	for (unsigned depth = (unsigned)rng_below(rng, 6); depth; depth--) {
		unsigned c = all[at].child[rng_below(rng, NAMES)];

		if (c && all[c].dir)
			at = c;
	}
	return at;
}

static void random_renames_are_those_of_a_model(void **state)
{
	static const unsigned flags[] = { 0, 0, NOREPLACE, EXCHANGE };
	struct node *all = calloc(NODES_MAX, sizeof(*all));
	unsigned succeeded = 0;
	struct fskit k;
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, 5);
	fskit_init(&k, NULL);
	all[0] = (struct node){ .used = true, .dir = true, .ino = FS_ROOT };
	for (unsigned i = 0; i < 6000; i++) {
		unsigned d1 = pick_dir(&rng, all), n1 = (unsigned)rng_below(&rng, NAMES);
		unsigned d2 = pick_dir(&rng, all), n2 = (unsigned)rng_below(&rng, NAMES), c = all[d1].child[n1];
		struct fs_entry e;

		if (rng_chance(&rng, 1, 4)) {
			bool dir = rng_chance(&rng, 2, 3);

			for (c = 1; c < NODES_MAX && all[c].used; c++)
				;
			if (c == NODES_MAX || all[d1].child[n1])
				continue;
			assert_int_equal(fs_mknod(k.fs, &fskit_root, all[d1].ino, names[n1], dir ? S_IFDIR | 0755 : S_IFREG, 0, &e), 0);
			fs_forget(k.fs, e.node, 1);
			all[c] = (struct node){ .used = true, .dir = dir, .parent = d1, .ino = e.node };
			all[d1].child[n1] = c;
		} else if (rng_chance(&rng, 1, 8)) {
			int want = !c ? -ENOENT : children(&all[c]) ? -ENOTEMPTY : 0;

			assert_int_equal(c && !all[c].dir ? fs_unlink(k.fs, all[d1].ino, names[n1])
							  : fs_rmdir(k.fs, all[d1].ino, names[n1]),
					 want);
			if (!want) {
				all[c].used = false;
				all[d1].child[n1] = 0;
			}
		} else {
			unsigned f = flags[rng_below(&rng, ARRAY_LEN(flags))];
			uint64_t from = all[d1].ino, to = all[d2].ino;
			int want = model_rename(all, d1, n1, d2, n2, f);
			int err = fs_rename(k.fs, NULL, from, names[n1], to, names[n2], f);

			assert_int_equal(err, want);
			succeeded += !err;
		}
		if (i % 500 == 0) {
			compare(&k, all, 0);
			fskit_check(&k);
		}
	}
	compare(&k, all, 0);
	assert_true(succeeded > 500);
	fskit_remount(&k);
	compare(&k, all, 0);
	fskit_check(&k);
	fskit_release(&k);
	free(all);
}

/* ---- damage ---- */

static void set_parent(struct fskit *k, uint64_t ino, uint64_t parent)
{
	struct inode i;
	struct op op;

	assert_int_equal(op_begin(k->fs, FS_ROOT, &op), 0);
	assert_int_equal(inode_load(op.view, ino, &i), 0);
	i.parent = parent;
	assert_int_equal(inode_put(op.batch, &i), 0);
	assert_int_equal(op_commit(&op), 0);
	op_end(&op);
}

static void a_circle_of_directories_is_found_and_not_followed_for_ever(void **state)
{
	uint64_t ino[6];
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_mkdir(&k, "x"), 0);
	for (unsigned i = 0; i < ARRAY_LEN(ino); i++) {
		char name[2] = { (char)('a' + i), 0 };

		assert_int_equal(fskit_mkdir(&k, name), 0);
		ino[i] = fskit_node(&k, name);
	}
	for (unsigned i = 0; i < ARRAY_LEN(ino); i++)
		set_parent(&k, ino[i], i ? ino[i - 1] : ino[4]); /* 0 to 4 are a circle; 5 leads into it */
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "x", ino[2], "x", 0), -EUCLEAN);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "x", ino[5], "x", 0), -EUCLEAN);
	set_parent(&k, ino[3], 12345); /* of nothing */
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "x", ino[5], "x", 0), -EUCLEAN);
	fskit_release(&k);
}

int main(void)
{
	enum { FIXED = 2 };
	struct CMUnitTest tests[FIXED + ARRAY_LEN(rows) + ARRAY_LEN(times_rows)] = {
		cmocka_unit_test(random_renames_are_those_of_a_model),
		cmocka_unit_test(a_circle_of_directories_is_found_and_not_followed_for_ever),
	};
	size_t n = FIXED;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].name, steps_test, &rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(times_rows); i++)
		tests[n++] = TEST_ROW(times_rows[i].name, times_one, &times_rows[i]);
	return _cmocka_run_group_tests("rename", tests, n, NULL, NULL);
}

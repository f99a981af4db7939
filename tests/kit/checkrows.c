/*
 * Each puts items that no operation would put, and says what must be reported: problem, inode, path. Exactly these, and in
 * this order, which is that of inodes.
 */
#include "tests/kit/checkrows.h"

#include <dirent.h>
#include <string.h>

#include "tests/kit/test.h"

static void nothing(struct checkkit *f)
{
	(void)f;
}

static void no_root(struct checkkit *f)
{
	ck_del(f, key_make(FS_ROOT_INO, FS_ITEM_INODE, 0));
	ck_want(f, FS_PROBLEM_NO_ROOT, FS_ROOT_INO, "/");
}

static void root_is_a_file(struct checkkit *f)
{
	struct inode i = ck_get(f, FS_ROOT_INO);

	i.mode = S_IFREG | 0644;
	i.parent = 0;
	i.size = 0;
	i.nlink = 0;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_NO_ROOT, FS_ROOT_INO, "/");
	ck_want(f, FS_PROBLEM_INODE_BAD, FS_ROOT_INO, "/");
}

static void device_number_of_a_file(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "small"));

	i.rdev_major = 8;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_INODE_BAD, i.ino, "/small");
}

static void fifo_with_a_size(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "fifo"));

	i.size = 1;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_INODE_BAD, i.ino, "/fifo");
}

static void link_without_a_size(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "link"));

	i.size = 0;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_INODE_BAD, i.ino, "/link");
}

static void names_in_a_file(struct checkkit *f)
{
	struct inode target = ck_get(f, ck_node(f, "x"));
	uint64_t fifo = ck_node(f, "fifo");

	target.nlink = 2;
	ck_put(f, &target);
	ck_put_name(f, fifo, "name", 0, target.ino, DT_REG);
	ck_want(f, FS_PROBLEM_INODE_BAD, fifo, "/fifo");
}

static void extents_of_a_fifo(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "fifo"));

	i.blocks = 2;
	ck_put(f, &i);
	ck_put_claim(f, i.ino, 0, 2);
	ck_want(f, FS_PROBLEM_INODE_BAD, i.ino, "/fifo");
}

static void items_without_inode(struct checkkit *f)
{
	ck_put_bytes(f, key_make(4000, FS_ITEM_INLINE, 0), "x", 1);
	ck_want(f, FS_PROBLEM_ITEM_NO_INODE, 4000, NULL);
}

static void directory_without_inode(struct checkkit *f)
{
	uint64_t root = FS_ROOT_INO, a = ck_node(f, "a");

	ck_del(f, key_make(a, FS_ITEM_INODE, 0));
	ck_want(f, FS_PROBLEM_NAME_NO_INODE, root, "/a");
	ck_want(f, FS_PROBLEM_ITEM_NO_INODE, a, "/a");
}

static void name_without_inode(struct checkkit *f)
{
	uint64_t b = ck_node(f, "a/b");

	ck_put_name(f, b, "ghost", 0, 4000, DT_REG);
	ck_account(f, b, 1, 0);
	ck_want(f, FS_PROBLEM_NAME_NO_INODE, b, "/a/b/ghost");
}

static void name_of_another_type(struct checkkit *f)
{
	ck_put_name(f, FS_ROOT_INO, "x", 0, ck_node(f, "x"), DT_FIFO);
	ck_want(f, FS_PROBLEM_NAME_TYPE, FS_ROOT_INO, "/x");
}

static void name_under_another_hash(struct checkkit *f)
{
	uint64_t x = ck_node(f, "x");

	ck_del(f, ck_name_key(f, FS_ROOT_INO, "x", 0));
	assert_int_equal(dir_put(f->b, ck_name_key(f, FS_ROOT_INO, "something else", 0), "x", 1, x, DT_REG), 0);
	ck_want(f, FS_PROBLEM_NAME_HASH, FS_ROOT_INO, "/x");
}

static void name_twice(struct checkkit *f)
{
	struct inode x = ck_get(f, ck_node(f, "x"));

	x.nlink = 2;
	ck_put(f, &x);
	ck_put_name(f, FS_ROOT_INO, "x", 3, x.ino, DT_REG);
	ck_account(f, FS_ROOT_INO, 1, 0);
	ck_want(f, FS_PROBLEM_NAME_TWICE, FS_ROOT_INO, "/x");
}

static void directory_twice(struct checkkit *f)
{
	uint64_t a = ck_node(f, "a");

	ck_put_name(f, FS_ROOT_INO, "a2", 0, a, DT_DIR);
	ck_account(f, FS_ROOT_INO, 1, 1);
	ck_want(f, FS_PROBLEM_DIR_TWICE, a,
		ck_name_key(f, 1, "a", 0).off < ck_name_key(f, 1, "a2", 0).off ? "/a" : "/a2");
}

static void wrong_parent(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "a/b"));

	i.parent = ck_node(f, "empty");
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_DIR_PARENT, i.ino, "/a/b");
}

static void wrong_parent_of_root(struct checkkit *f)
{
	struct inode i = ck_get(f, FS_ROOT_INO);

	i.parent = ck_node(f, "a");
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_DIR_PARENT, FS_ROOT_INO, "/");
}

static void wrong_directory_size(struct checkkit *f)
{
	uint64_t empty = ck_node(f, "empty");

	ck_account(f, empty, 1, 0);
	ck_want(f, FS_PROBLEM_DIR_SIZE, empty, "/empty");
}

static void ring(struct checkkit *f)
{
	struct inode a = ck_get(f, ck_node(f, "a")), b = ck_get(f, ck_node(f, "a/b"));

	ck_del(f, ck_name_key(f, FS_ROOT_INO, "a", 0));
	ck_account(f, FS_ROOT_INO, -1, -1);
	ck_put_name(f, b.ino, "a", 0, a.ino, DT_DIR);
	ck_account(f, b.ino, 1, 1);
	a.parent = b.ino;
	ck_put(f, &a);
	ck_want(f, FS_PROBLEM_DIR_LOOP, a.ino, NULL);
}

static void directory_in_itself(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "empty"));

	ck_del(f, ck_name_key(f, FS_ROOT_INO, "empty", 0));
	ck_account(f, FS_ROOT_INO, -1, -1);
	ck_put_name(f, i.ino, "me", 0, i.ino, DT_DIR);
	i.parent = i.ino;
	i.size = 1;
	i.nlink = 3;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_DIR_LOOP, i.ino, NULL);
}

static void wrong_links_of_a_file(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "x"));

	i.nlink = 2;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_LINKS, i.ino, "/x");
}

static void wrong_links_of_a_directory(struct checkkit *f)
{
	uint64_t a = ck_node(f, "a");

	ck_account(f, a, 0, -1);
	ck_want(f, FS_PROBLEM_LINKS, a, "/a");
}

static void links_of_a_file_without_name(struct checkkit *f)
{
	struct inode i = ck_get(f, f->tmp);

	i.nlink = 1;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_LINKS, i.ino, NULL);
}

static void no_name(struct checkkit *f)
{
	uint64_t x = ck_node(f, "x");

	ck_del(f, ck_name_key(f, FS_ROOT_INO, "x", 0));
	ck_account(f, FS_ROOT_INO, -1, 0);
	ck_want(f, FS_PROBLEM_NO_NAME, x, NULL);
}

static void no_mark(struct checkkit *f)
{
	ck_del(f, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, f->tmp << 1));
	ck_want(f, FS_PROBLEM_NO_NAME, f->tmp, NULL);
}

static void directory_without_name(struct checkkit *f)
{
	uint64_t a = ck_node(f, "a");

	ck_del(f, ck_name_key(f, FS_ROOT_INO, "a", 0));
	ck_account(f, FS_ROOT_INO, -1, -1);
	ck_want(f, FS_PROBLEM_NO_NAME, a, NULL);
}

static void mark_of_a_named_file(struct checkkit *f)
{
	ck_put_orphan(f, ck_node(f, "x"), FS_ORPHAN_UNLINKED, 0, 0);
	ck_want(f, FS_PROBLEM_ORPHAN_BAD, ck_node(f, "x"), "/x");
}

static void mark_of_nothing(struct checkkit *f)
{
	ck_put_orphan(f, 4000, FS_ORPHAN_UNLINKED, 0, 0);
	ck_put_orphan(f, 4001, FS_ORPHAN_RANGE, 0, BLOCK_SIZE);
	ck_want(f, FS_PROBLEM_ORPHAN_BAD, 4000, NULL);
	ck_want(f, FS_PROBLEM_ORPHAN_BAD, 4001, NULL);
}

static void range_of_a_directory(struct checkkit *f)
{
	ck_put_orphan(f, ck_node(f, "a"), FS_ORPHAN_RANGE, 0, BLOCK_SIZE);
	ck_want(f, FS_PROBLEM_ORPHAN_BAD, ck_node(f, "a"), "/a");
}

static void marked_directory_with_names(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "a/b"));

	ck_del(f, ck_name_key(f, ck_node(f, "a"), "b", 0));
	ck_account(f, ck_node(f, "a"), -1, -1);
	i.nlink = 0;
	ck_put(f, &i);
	ck_put_orphan(f, i.ino, FS_ORPHAN_UNLINKED, 0, 0);
	ck_want(f, FS_PROBLEM_ORPHAN_BAD, i.ino, NULL);
}

static void overlap(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "sparse"));

	i.blocks += 2;
	ck_put(f, &i);
	ck_put_claim(f, i.ino, 3 * BLOCK_SIZE, 2);
	ck_want(f, FS_PROBLEM_EXTENT_OVERLAP, i.ino, "/sparse");
}

static void beyond(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "a/b/file"));

	i.size = 2 * BLOCK_SIZE;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_EXTENT_BEYOND, i.ino, "/a/b/file");
}

static void beyond_but_marked(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "a/b/file"));

	i.size = BLOCK_SIZE + 1;
	ck_put(f, &i);
	ck_put_orphan(f, i.ino, FS_ORPHAN_RANGE, 2 * BLOCK_SIZE, UINT64_MAX);
}

static void beyond_and_behind_the_mark(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "a/b/file"));

	i.size = 1;
	ck_put(f, &i);
	ck_put_orphan(f, i.ino, FS_ORPHAN_RANGE, BLOCK_SIZE, 2 * BLOCK_SIZE);
	ck_want(f, FS_PROBLEM_EXTENT_BEYOND, i.ino, "/a/b/file");
}

static void wrong_blocks(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "a/b/file"));

	i.blocks--;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_BLOCKS, i.ino, "/a/b/file");
}

static void inline_beside_extents(struct checkkit *f)
{
	uint64_t ino = ck_node(f, "a/b/file");

	ck_put_bytes(f, key_make(ino, FS_ITEM_INLINE, 0), "x", 1);
	ck_want(f, FS_PROBLEM_INLINE_BAD, ino, "/a/b/file");
}

static void inline_longer_than_size(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "small"));

	i.size = 4;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_INLINE_BAD, i.ino, "/small");
}

static void inline_in_the_middle(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "x"));

	i.size = 100;
	ck_put(f, &i);
	ck_put_bytes(f, key_make(i.ino, FS_ITEM_INLINE, 10), "x", 1);
	ck_want(f, FS_PROBLEM_INLINE_BAD, i.ino, "/x");
}

static void inline_in_a_directory(struct checkkit *f)
{
	ck_put_bytes(f, key_make(ck_node(f, "empty"), FS_ITEM_INLINE, 0), "x", 1);
	ck_want(f, FS_PROBLEM_INLINE_BAD, ck_node(f, "empty"), "/empty");
}

static void target_too_short(struct checkkit *f)
{
	ck_put_bytes(f, key_make(ck_node(f, "link"), FS_ITEM_INLINE, 0), "smal", 4);
	ck_want(f, FS_PROBLEM_INLINE_BAD, ck_node(f, "link"), "/link");
}

static void target_with_a_zero_byte(struct checkkit *f)
{
	ck_put_bytes(f, key_make(ck_node(f, "link"), FS_ITEM_INLINE, 0), "sm\0ll", 5);
	ck_want(f, FS_PROBLEM_INLINE_BAD, ck_node(f, "link"), "/link");
}

static void target_missing(struct checkkit *f)
{
	ck_del(f, key_make(ck_node(f, "link"), FS_ITEM_INLINE, 0));
	ck_want(f, FS_PROBLEM_INLINE_BAD, ck_node(f, "link"), "/link");
}

static void xattr_end_missing(struct checkkit *f)
{
	struct key last = ck_xattr_at(f, ck_node(f, "x"), "user.big", 0, 0), key;
	size_t len;

	last.off |= 0xff;
	assert_int_equal(view_floor(store_live(fs_store(f->k.fs)), last, &key, NULL, 0, &len), 0);
	assert_true(key.off & 0xff);
	ck_del(f, key);
	ck_want(f, FS_PROBLEM_XATTR_BAD, ck_node(f, "x"), "/x");
}

static void xattr_middle_missing(struct checkkit *f)
{
	ck_del(f, ck_xattr_at(f, ck_node(f, "x"), "user.big", 0, 1));
	ck_want(f, FS_PROBLEM_XATTR_BAD, ck_node(f, "x"), "/x");
}

static void xattr_beginning_missing(struct checkkit *f)
{
	ck_del(f, ck_xattr_at(f, ck_node(f, "x"), "user.big", 0, 0));
	ck_want(f, FS_PROBLEM_XATTR_BAD, ck_node(f, "x"), "/x");
}

static void xattr_under_another_hash(struct checkkit *f)
{
	uint64_t x = ck_node(f, "x");

	ck_copy_xattr(f, ck_xattr_at(f, x, "user.small", 0, 0), ck_xattr_at(f, x, "user.other", 0, 0));
	ck_del(f, ck_xattr_at(f, x, "user.small", 0, 0));
	ck_want(f, FS_PROBLEM_XATTR_BAD, x, "/x");
}

static void xattr_twice(struct checkkit *f)
{
	uint64_t x = ck_node(f, "x");

	ck_copy_xattr(f, ck_xattr_at(f, x, "user.small", 0, 0), ck_xattr_at(f, x, "user.small", 7, 0));
	ck_want(f, FS_PROBLEM_XATTR_BAD, x, "/x");
}

static void xattr_not_marked(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "x"));

	i.state = 0;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_XATTR_STATE, i.ino, "/x");
}

static void xattr_marked_and_none_there(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "fifo"));

	i.state = FS_STATE_XATTRS;
	ck_put(f, &i);
	ck_want(f, FS_PROBLEM_XATTR_STATE, i.ino, "/fifo");
}

static void number_beyond_the_limit(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "fifo"));

	i.ino = store_counter(fs_store(f->k.fs), FS_COUNTER_INO_LIMIT);
	ck_put(f, &i);
	ck_put_name(f, FS_ROOT_INO, "new", 0, i.ino, DT_FIFO);
	ck_account(f, FS_ROOT_INO, 1, 0);
	ck_want(f, FS_PROBLEM_INO_LIMIT, i.ino, "/new");
}

static void wrong_number_of_inodes(struct checkkit *f)
{
	assert_int_equal(batch_raise(f->b, FS_COUNTER_INODES_MADE, 5000), 0);
	ck_want(f, FS_PROBLEM_INODE_COUNT, 0, NULL);
}

static void several_in_order(struct checkkit *f)
{
	struct inode i = ck_get(f, ck_node(f, "x"));

	ck_want(f, FS_PROBLEM_DIR_SIZE, FS_ROOT_INO, "/");
	ck_account(f, FS_ROOT_INO, 1, 0);
	i.nlink = 2;
	i.size = 10;
	i.blocks = 4;
	ck_put(f, &i);
	ck_put_bytes(f, key_make(i.ino, FS_ITEM_INLINE, 1), "y", 1);
	ck_want(f, FS_PROBLEM_LINKS, i.ino, "/x");
	ck_want(f, FS_PROBLEM_BLOCKS, i.ino, "/x");
	ck_want(f, FS_PROBLEM_INLINE_BAD, i.ino, "/x");
}

const struct checkrow checkrows[] = {
#define ROW(x)                                                                                                         \
	{                                                                                                              \
#x, x                                                                                                  \
	}
	ROW(nothing),
	ROW(no_root),
	ROW(root_is_a_file),
	ROW(device_number_of_a_file),
	ROW(fifo_with_a_size),
	ROW(link_without_a_size),
	ROW(names_in_a_file),
	ROW(extents_of_a_fifo),
	ROW(items_without_inode),
	ROW(directory_without_inode),
	ROW(name_without_inode),
	ROW(name_of_another_type),
	ROW(name_under_another_hash),
	ROW(name_twice),
	ROW(directory_twice),
	ROW(wrong_parent),
	ROW(wrong_parent_of_root),
	ROW(wrong_directory_size),
	ROW(ring),
	ROW(directory_in_itself),
	ROW(wrong_links_of_a_file),
	ROW(wrong_links_of_a_directory),
	ROW(links_of_a_file_without_name),
	ROW(no_name),
	ROW(no_mark),
	ROW(directory_without_name),
	ROW(mark_of_a_named_file),
	ROW(mark_of_nothing),
	ROW(range_of_a_directory),
	ROW(marked_directory_with_names),
	ROW(overlap),
	ROW(beyond),
	ROW(beyond_but_marked),
	ROW(beyond_and_behind_the_mark),
	ROW(wrong_blocks),
	ROW(inline_beside_extents),
	ROW(inline_longer_than_size),
	ROW(inline_in_the_middle),
	ROW(inline_in_a_directory),
	ROW(target_too_short),
	ROW(target_with_a_zero_byte),
	ROW(target_missing),
	ROW(xattr_end_missing),
	ROW(xattr_middle_missing),
	ROW(xattr_beginning_missing),
	ROW(xattr_under_another_hash),
	ROW(xattr_twice),
	ROW(xattr_not_marked),
	ROW(xattr_marked_and_none_there),
	ROW(number_beyond_the_limit),
	ROW(wrong_number_of_inodes),
	ROW(several_in_order),
#undef ROW
};

const size_t n_checkrows = ARRAY_LEN(checkrows);

/*
 * check.h - whether a filesystem is what it should be: names against inodes, counts, extents, checksums of data
 *
 * Stands on store_check, which checks everything below items. Changes nothing.
 */
#ifndef ARBOR_FS_CHECK_H
#define ARBOR_FS_CHECK_H

#include "fs/fs.h"

/* Each problem found: name, number (for ever), what it means. */
#define FS_PROBLEMS(X)                                                                             \
	X(NO_ROOT, 1, "there is no root directory")                                                \
	X(INODE_BAD, 2, "an inode's fields do not fit together")                                   \
	X(ITEM_NO_INODE, 3, "items of an inode that does not exist")                               \
	X(NAME_NO_INODE, 4, "a name refers to an inode that does not exist")                       \
	X(NAME_TYPE, 5, "a name's type is not its inode's")                                        \
	X(NAME_HASH, 6, "a name stands under another name's hash")                                 \
	X(NAME_TWICE, 7, "a directory has one name twice")                                         \
	X(DIR_TWICE, 8, "a directory has more than one name")                                      \
	X(DIR_PARENT, 9, "a directory's parent is not where its name is")                          \
	X(DIR_SIZE, 10, "a directory's number of names is wrong")                                  \
	X(DIR_LOOP, 11, "directories that cannot be reached from the root")                        \
	X(LINKS, 12, "an inode's link count is wrong")                                             \
	X(NO_NAME, 13, "an inode without a name that is not marked for deletion")                  \
	X(ORPHAN_BAD, 14, "a mark for deletion of an inode that has names or does not exist")      \
	X(EXTENT_OVERLAP, 15, "extents of one file overlap")                                       \
	X(EXTENT_BEYOND, 16, "an extent beyond the end of a file that nothing promised")           \
	X(BLOCKS, 17, "an inode's number of blocks is wrong")                                      \
	X(INLINE_BAD, 18, "inline data that does not fit its file")                                \
	X(XATTR_BAD, 19, "an extended attribute that is incomplete or misplaced")                  \
	X(XATTR_STATE, 20, "an inode's mark for extended attributes is wrong")                     \
	X(INO_LIMIT, 21, "an inode number at or beyond the limit of those handed out")             \
	X(INODE_COUNT, 22, "the number of inodes is wrong")                                        \
	X(DATA_BAD, 23, "a data block does not verify")                                            \
	X(STRUCTURE, 24, "the structure below the items is damaged")                               \
	X(UNREADABLE, 25, "a part of the tree cannot be read")

enum fs_problem {
#define X(name, number, text) FS_PROBLEM_##name = (number),
	FS_PROBLEMS(X)
#undef X
};

struct fs_problem_report {
	enum fs_problem problem;
	const char *view; /* "live", or a snapshot's name */
	uint64_t ino;	  /* 0: none in particular. NAME_*: the directory's, and path is the name's */
	const char *path; /* NULL where none is known */
	const char *text; /* what was found and what was expected; one line */
};

struct fs_check_options {
	bool data;	  /* read and verify every file's data */
	bool no_structure; /* skip store_check */
	unsigned threads; /* for data; 0: as many as processors, at most 8 */
	void (*report)(void *arg, const struct fs_problem_report *);
	/* done and total of a phase ("structure", "items", "names", "data"); never from two threads at once. */
	void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
	void *arg;
};

/* Inodes to extents: of live. data_blocks: read, of all views, each once. */
struct fs_check_result {
	struct check_result structure;
	uint64_t inodes, directories, names, xattrs, extents, data_blocks, views, problems;
};

/* Live and all snapshots. The filesystem must not change meanwhile. 0: clean; -EUCLEAN: problems were reported; else what
 * kept it from checking. */
int fs_check(struct fs *, const struct fs_check_options *, struct fs_check_result *ret);

#endif

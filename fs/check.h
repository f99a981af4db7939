/*
 * check.h - whether a filesystem is what it should be: names against inodes, counts, extents, checksums of data
 *
 * Stands on store_check, which checks everything below items. Changes nothing.
 */
#ifndef ARBOR_FS_CHECK_H
#define ARBOR_FS_CHECK_H

#include "fs/fs.h"

/*
 * Each problem found: name, number (for ever), what mending it takes (below), what it means. From SUPER_SLOT on they come from
 * store_rebuild's survey, not from fs_check.
 */
#define FS_PROBLEMS(X)                                                                               \
	X(NO_ROOT, 1, ASK, "there is no root directory")                                             \
	X(INODE_BAD, 2, ASK, "an inode's fields do not fit together")                                \
	X(ITEM_NO_INODE, 3, ASK, "items of an inode that does not exist")                            \
	X(NAME_NO_INODE, 4, ASK, "a name refers to an inode that does not exist")                    \
	X(NAME_TYPE, 5, SAFE, "a name's type is not its inode's")                                    \
	X(NAME_HASH, 6, SAFE, "a name stands under another name's hash")                             \
	X(NAME_TWICE, 7, ASK, "a directory has one name twice")                                      \
	X(DIR_TWICE, 8, ASK, "a directory has more than one name")                                   \
	X(DIR_PARENT, 9, SAFE, "a directory's parent is not where its name is")                      \
	X(DIR_SIZE, 10, SAFE, "a directory's number of names is wrong")                              \
	X(DIR_LOOP, 11, ASK, "directories that cannot be reached from the root")                     \
	X(LINKS, 12, SAFE, "an inode's link count is wrong")                                         \
	X(NO_NAME, 13, ASK, "an inode without a name that is not marked for deletion")               \
	X(ORPHAN_BAD, 14, SAFE, "a mark for deletion of an inode that has names or does not exist")  \
	X(EXTENT_OVERLAP, 15, ASK, "extents of one file overlap")                                    \
	X(EXTENT_BEYOND, 16, ASK, "an extent beyond the end of a file that nothing promised")        \
	X(BLOCKS, 17, SAFE, "an inode's number of blocks is wrong")                                  \
	X(INLINE_BAD, 18, ASK, "inline data that does not fit its file")                             \
	X(XATTR_BAD, 19, ASK, "an extended attribute that is incomplete or misplaced")               \
	X(XATTR_STATE, 20, SAFE, "an inode's mark for extended attributes is wrong")                 \
	X(INO_LIMIT, 21, SAFE, "an inode number at or beyond the limit of those handed out")         \
	X(INODE_COUNT, 22, SAFE, "the number of inodes is wrong")                                    \
	X(DATA_BAD, 23, ASK, "a data block does not verify")                                         \
	X(STRUCTURE, 24, REPORT, "the structure below the items is damaged")                         \
	X(UNREADABLE, 25, REPORT, "a part of the tree cannot be read")                               \
	X(LOST_MARK, 26, ASK, "a part of the tree was lost, and its repair was not finished")        \
	X(CONTENT_LOST, 27, ASK, "a part of a file's content was lost")                              \
	X(NAMES_LOST, 28, ASK, "names in a directory were lost")                                     \
	X(XATTRS_LOST, 29, ASK, "extended attributes may have been lost")                            \
	X(SUPER_SLOT, 30, SAFE, "a superblock slot does not verify")                                 \
	X(LOG_DAMAGED, 31, ASK, "the log is damaged: the newest operations are lost")                \
	X(NODE_LOST, 32, ASK, "a node of the tree cannot be read from any copy")                     \
	X(ITEM_BAD, 33, ASK, "an item does not verify, or is misplaced")                             \
	X(SHARED_COUNT, 34, SAFE, "shared counts are wrong")                                         \
	X(DEAD_LIST, 35, SAFE, "dead lists of snapshots are wrong")                                  \
	X(SPACE_MAP, 36, SAFE, "the space map is wrong or cannot be read")                           \
	X(SNAPSHOT_LOST, 37, ASK, "a snapshot cannot be kept")                                       \
	X(NODE_COPY, 38, SAFE, "one of a node's two copies does not verify")

enum fs_problem {
#define X(name, number, answer, text) FS_PROBLEM_##name = (number),
	FS_PROBLEMS(X)
#undef X
};

/* What mending a problem takes. */
enum fs_answer {
	FS_ANSWER_SAFE,	  /* what is wrong follows from other things: it is set to that, and no user sees a difference */
	FS_ANSWER_ASK,	  /* it changes what users see, or gives something up */
	FS_ANSWER_REPORT, /* fs_repair does not mend it */
};
enum fs_answer fs_problem_answer(enum fs_problem);
const char *fs_problem_text(enum fs_problem); /* "unknown problem" for a number that is none */

struct fs_problem_report {
	enum fs_problem problem;
	const char *view; /* "live", or a snapshot's name */
	uint64_t ino;	  /* 0: none in particular. NAME_*: the directory's, and path is the name's */
	const char *path; /* NULL where none is known */
	const char *text; /* what was found and what was expected; one line */
	uint64_t where;	  /* where several may be told of one inode: the offset of the item's key, or of the data */
	uint64_t want;	  /* what was counted, or the inode that should stand there */
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

/* Inodes to lost_blocks (content that was given up, FS_EXTENT_LOST): of live. data_blocks: read, of all views, each once. */
struct fs_check_result {
	struct check_result structure;
	uint64_t inodes, directories, names, xattrs, extents, lost_blocks, data_blocks, views, problems;
};

/* Live and all snapshots. The filesystem must not change meanwhile. 0: clean; -EUCLEAN: problems were reported; else what
 * kept it from checking. */
int fs_check(struct fs *, const struct fs_check_options *, struct fs_check_result *ret);

#endif

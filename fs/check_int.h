/*
 * check_int.h - what the files of the check share
 *
 * One view is looked at after the other: items (one scan of everything, which fills a table of inodes), names (each directory's,
 * counted in the table), then the table itself; data last. Items and names are done in parts, ranges of inode numbers, by
 * several threads.
 *
 * Problems are kept until the view's names are known, and told in order of inode numbers with their paths.
 */
#ifndef ARBOR_FS_CHECK_INT_H
#define ARBOR_FS_CHECK_INT_H

#include "fs/check.h"
#include "fs/fs_int.h"

#define CHECK_PARTS 256u
#define CHECK_PATH_MAX 4096u

/* One inode, in order of numbers. 48 bytes, because there are many. */
struct check_inode {
	uint64_t id;	   /* number << 16 | DT_* type << 12 | CHECK_* */
	uint64_t parent;   /* directories: as the inode says */
	uint64_t named_in; /* a directory with a name of it: the parent, if that has one; 0: none (atomic) */
	uint64_t size;	   /* directories: as the inode says */
	uint32_t nlink;	   /* as the inode says */
	uint32_t names;	   /* found (atomic) */
	uint32_t subdirs;  /* directories: names of directories found in it */
	uint32_t entries;  /* directories: names found in it */
};

#define CHECK_INCOMPLETE 1u /* items of it could not be read */
#define CHECK_MARKED 2u	    /* an orphan item says: to be deleted */
#define CHECK_NAMES 4u	    /* there are names in it, whatever its type */
#define CHECK_MISSING 8u    /* the inode itself is not there: only what it names counts */
#define CHECK_WALKED 16u    /* search for rings: done */
#define CHECK_WALKING 32u   /* ... on the way up from where it is now */
#define CHECK_RING 64u	    /* ... one was found, and it is part of it */

static inline uint64_t check_ino(const struct check_inode *i)
{
	return i->id >> 16;
}

static inline unsigned check_type(const struct check_inode *i)
{
	return (unsigned)i->id >> 12 & 15u;
}

/* A range of inode numbers; ino belongs to part (ino - 1) / span, at most the last. */
struct check_part {
	struct check_inode *at;
	size_t n, cap;
};

/* `where` of a bad mark: its kind, or that both go. */
#define CHECK_BOTH_MARKS 2u

/* An orphan item, or both of an inode. */
struct check_mark {
	uint64_t ino;
	bool unlinked, range;
	uint64_t from, to; /* of the range */
};

/* Keys from <= key < to that could not be read. */
struct check_lost {
	struct key from, to;
	int err;
};

/* Keys from <= key < to that a rebuild has lost: there is an FS_ITEM_LOST item with this number. */
struct check_gap {
	struct key from, to;
	uint64_t number;
};

/* Over everything, as fs_repair_salvaged puts it: says nothing of its own. */
static inline bool check_gap_is_all(const struct check_gap *g)
{
	return key_equal(g->from, key_make(FS_ORPHAN_INO, FS_ITEM_VOLUME, 0)) && key_ino(g->to) > FS_INO_MAX;
}

struct check_pending {
	enum fs_problem problem;
	uint64_t ino, where, seq; /* the order in which they are told */
	uint64_t want;
	char *text, *name;	  /* name: one in the directory `ino`, to end the path with; NULL: none */
};

struct check {
	struct fs *fs;
	const struct fs_check_options *opt;
	struct fs_check_result *ret;
	unsigned threads;
	uint64_t ino_limit, blocks;
	uint8_t *seen; /* blocks whose data was verified in any view: a bit each */
	uint64_t *bad; /* those that did not verify, sorted */
	size_t n_bad, cap_bad;

	/* The view. */
	struct view *view;
	const char *name;
	bool live;
	uint64_t span, view_blocks;
	unsigned n_parts;
	struct check_part part[CHECK_PARTS];
	struct check_mark *marks;
	size_t n_marks, cap_marks;
	struct check_gap *gaps;
	size_t n_gaps, cap_gaps;
	bool gap_over_all; /* one of them is all there is: see fs_repair_salvaged */
	bool names_lost; /* names may be missing */
	uint64_t path_steps;

	/* Guards what follows, *ret, the call-backs, `bad` and names_lost. */
	pthread_mutex_t lock;
	struct check_lost *lost;
	size_t n_lost, cap_lost;
	struct check_pending *pending;
	size_t n_pending, cap_pending;
	uint64_t seq;
};

/* ---- check.c ---- */

/* Notes a problem. name: NULL, or one in the directory `ino` (no path of its own then). where: order within the inode, and what
 * the repair finds it by; want: the right value, for the repair. */
void check_problem(struct check *, enum fs_problem, uint64_t ino, uint64_t where, uint64_t want, const char *name,
		   size_t name_len, const char *fmt, ...) __attribute__((format(printf, 8, 9)));
/* Tells all that has been noted. One thread. */
void check_tell(struct check *);

/* Job 0 .. n - 1, by several threads; the first error ends it. phase: for progress, NULL: none. */
int check_parallel(struct check *, size_t n, int (*job)(struct check *, size_t i, void *arg), void *arg,
		   const char *phase);

/* Whether an error of reading is damage: the check goes on behind it. */
static inline bool check_is_damage(int err)
{
	return err == -EUCLEAN || err == -EBADMSG || err == -EIO;
}

/* A scan failed with err. 0: goes on behind, what is left out has been noted and is in *ret; >0: that was the end; <0: err. */
int check_skip(struct check *, struct scan *, int err, struct check_lost *ret);
/* Whether the key may be among what could not be read. After the items' pass. */
bool check_may_be_lost(struct check *, struct key);

struct check_inode *check_find(struct check *, uint64_t ino); /* NULL: not there */
const struct check_mark *check_mark_of(const struct check *, uint64_t ino);

/* Names with one hash, to find one that is there twice. */
struct check_same {
	uint64_t hash;
	uint8_t *buf; /* length, name, length, name, ... */
	size_t n, cap;
};
/* <0; 0: new; 1: was there. */
int check_same_add(struct check_same *, uint64_t hash, const uint8_t *name, size_t len);

/* The name as it can stand in a line: bytes that cannot be printed as \xNN. */
#define CHECK_SHOWN_MAX (4u * FS_NAME_MAX + 1)
const char *check_shown(char buf[CHECK_SHOWN_MAX], const uint8_t *name, size_t len);

/* ---- the passes ---- */

int check_items(struct check *);
int check_names(struct check *);
int check_path(struct check *, uint64_t ino, char buf[CHECK_PATH_MAX], const char **ret); /* NULL: none known */
int check_data(struct check *);

#endif

/*
 * checkkit.h - a filesystem with a bit of everything, to be damaged, and what its check tells
 *
 *	/a/b/file	three blocks of data		/small, /a/hard		one file, inline data
 *	/empty		a directory			/sparse			room promised beyond its end
 *	/link		to "small"			/fifo, /null		special files
 *	/x		attributes, one in several items	checkkit.tmp	a file without a name
 *
 * Items are put by hand into the batch, as no operation would put them. What must not fail asserts.
 */
#ifndef ARBOR_TESTS_KIT_CHECKKIT_H
#define ARBOR_TESTS_KIT_CHECKKIT_H

#include "fs/check.h"
#include "fs/fs_int.h"
#include "tests/kit/fskit.h"

#define CHECKKIT_REPORTS 64u

struct checkkit_report {
	enum fs_problem problem;
	uint64_t ino;
	char view[32], path[300], text[400];
};

struct checkkit {
	struct fskit k;
	struct batch *b; /* of live */
	struct fs_check_options opt;
	struct fs_check_result result;
	struct checkkit_report got[CHECKKIT_REPORTS], want[CHECKKIT_REPORTS];
	unsigned n_got, n_want, n_progress;
	uint64_t tmp;
};

void checkkit_init(struct checkkit *, uint64_t blocks); /* 0: 8192 */
void checkkit_release(struct checkkit *);
void checkkit_remount(struct checkkit *); /* what the cache has is gone: the next look reads the disk */

/* Wants a problem to be told (path NULL: without one), in live or in another view. */
void ck_want(struct checkkit *, enum fs_problem, uint64_t ino, const char *path);
void ck_want_in(struct checkkit *, const char *view, enum fs_problem, uint64_t ino, const char *path);
/* Runs the check without the structure's unless f->opt says otherwise: asserts that what is wanted is told, and nothing else. */
void ck_check(struct checkkit *);

uint64_t ck_node(struct checkkit *, const char *path);
struct inode ck_get(struct checkkit *, uint64_t ino);

/* Into the batch. */
void ck_put(struct checkkit *, const struct inode *);
void ck_put_bytes(struct checkkit *, struct key, const void *val, size_t len);
void ck_put_name(struct checkkit *, uint64_t dir, const char *name, unsigned slot, uint64_t ino, unsigned type);
void ck_put_claim(struct checkkit *, uint64_t ino, uint64_t off, uint32_t blocks);
void ck_put_orphan(struct checkkit *, uint64_t ino, enum fs_orphan_kind, uint64_t from, uint64_t to);
void ck_account(struct checkkit *, uint64_t dir, int names, int subdirs); /* the directory's numbers change by these */
void ck_copy_xattr(struct checkkit *, struct key from, struct key to);	  /* its first item */
void ck_del(struct checkkit *, struct key);
void ck_commit(struct checkkit *);

struct key ck_name_key(struct checkkit *, uint64_t dir, const char *name, unsigned slot);
struct key ck_xattr_at(struct checkkit *, uint64_t ino, const char *name, unsigned slot, unsigned chunk);

#endif

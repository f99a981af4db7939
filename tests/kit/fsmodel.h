/*
 * fsmodel.h - a plain filesystem in memory, which says what is right
 *
 * Inodes in an array by a number that is never used again (id; the root is FSM_ROOT), each with its names, attributes and
 * pages. Nothing is clever but two things. Pages are shared between clones, so that a copy of the whole model is cheap: the
 * crash tests keep one, and go forward from it operation by operation. And every inode's digest is kept until the inode
 * changes, so that the digest of the whole is cheap too.
 *
 * Errors. POSIX does not say which error comes first where several apply, and the kernel and fs/ differ there. So an
 * operation collects all that apply (errs), and any of them is right. Where there is none, the operation succeeds, and
 * with `apply` it happens:
 *
 *	fsm_judge(m);		fsm_unlink(m, dir, "a");	what would be right?
 *	fsm_apply(m, now);	fsm_unlink(m, dir, "a");	it happened
 *
 * The inode numbers of the filesystem under test are part of the state (ino): whoever applies an operation that makes an
 * inode says which number it got.
 *
 * Memory comes from malloc, so that failmem counts the engine's allocations alone; running out of it aborts. Not thread-safe.
 */
#ifndef ARBOR_TESTS_KIT_FSMODEL_H
#define ARBOR_TESTS_KIT_FSMODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#define FSM_ROOT 1u
#define FSM_PAGE 4096u
#define FSM_HANDLES 6u
#define FSM_ERRS 8u
#define FSM_NAME_MAX 255u
#define FSM_SIZE_MAX (UINT64_C(1) << 44)

/* As in <linux/fs.h>, which defines a BLOCK_SIZE of its own. */
#define FSM_IMMUTABLE 0x10u
#define FSM_APPEND 0x20u
#define FSM_NODUMP 0x40u

struct fsm_page {
	unsigned refs;
	uint8_t bytes[FSM_PAGE];
};

struct fsm_slot {
	uint64_t number;
	struct fsm_page *page;
};

struct fsm_name {
	char *name;
	uint32_t id;
};

struct fsm_xattr {
	char *name;
	void *val;
	size_t size;
};

struct fsm_inode {
	uint32_t id;
	uint32_t parent; /* directories: where the name is; the root: itself */
	uint64_t ino;	 /* in the filesystem under test */
	uint32_t mode, uid, gid, flags, nlink;
	dev_t rdev;
	uint64_t size; /* directories: not kept */
	struct timespec atime, mtime, ctime, btime;
	char *target;
	struct fsm_name *names;
	size_t n_names;
	struct fsm_xattr *xattrs;
	size_t n_xattrs;
	struct fsm_slot *slots; /* ascending */
	size_t n_slots, cap_slots;
	unsigned holds; /* handles that refer to it */
	bool linkable;	/* from O_TMPFILE, and never had a name */
	bool clean;	/* digest is right */
	uint64_t digest;
};

struct fsm {
	struct fsm_inode **inodes; /* by id; NULL: gone */
	size_t n_inodes;
	struct fsm_inode *handle[FSM_HANDLES];
	uint64_t digest; /* sum of those of clean inodes that have names */
	bool times;	 /* times are part of the state */
	bool atime;	 /* reading sets the access time */

	/* Of the operation: */
	bool apply;
	int errs[FSM_ERRS]; /* positive */
	unsigned n_errs;
	struct timespec now;
	uint32_t uid, gid, umask; /* who asks */
	uint64_t made;		  /* number that the filesystem gave to a new inode */
};

/* ---- life ---- */

struct fsm *fsm_new(uint64_t root_ino, uint32_t root_mode);
struct fsm *fsm_clone(const struct fsm *);
void fsm_free(struct fsm *); /* accepts NULL */

void fsm_judge(struct fsm *);
void fsm_apply(struct fsm *, struct timespec now);
bool fsm_allows(const struct fsm *, int err); /* 0 or negative errno is what fsm_judge and the operation say */

/* ---- looking ---- */

struct fsm_inode *fsm_inode(const struct fsm *, uint32_t id); /* NULL: gone */
struct fsm_inode *fsm_find(const struct fsm *, const struct fsm_inode *dir, const char *name);
const struct fsm_xattr *fsm_xattr_find(const struct fsm_inode *, const char *name);
void fsm_bytes(const struct fsm_inode *, uint64_t off, size_t len, uint8_t *buf); /* zeros beyond the end */
bool fsm_zero(const struct fsm_inode *, uint64_t from, uint64_t to);		  /* only zeros there */
unsigned fsm_depth(const struct fsm *, const struct fsm_inode *dir);
/* A path below the root, "" for the root; any of those a file has. false: it has none, or it does not fit. */
bool fsm_path(const struct fsm *, const struct fsm_inode *, char *buf, size_t size);

/* Of everything that has a name. Equal for equal states. */
uint64_t fsm_digest(struct fsm *);
/* Prints up to `max` differences with `prefix` before each; how many there are. */
unsigned fsm_diff(const struct fsm *want, const struct fsm *got, FILE *f, const char *prefix, unsigned max);

/* ---- building by hand: what a filesystem was found to hold ---- */

struct fsm_inode *fsm_add_inode(struct fsm *, uint64_t ino, uint32_t mode);
void fsm_add_name(struct fsm_inode *dir, const char *name, uint32_t id);
void fsm_add_bytes(struct fsm_inode *, uint64_t off, const void *bytes, size_t len); /* size stays */
void fsm_wipe(struct fsm_inode *, uint64_t from, uint64_t to); /* reads as zeros from now on; size stays */
void fsm_add_xattr(struct fsm_inode *, const char *name, const void *val, size_t size);

/* ---- operations ---- */

/* dir and node may be NULL: -ENOENT. */
void fsm_create(struct fsm *, struct fsm_inode *dir, const char *name, uint32_t mode,
		dev_t rdev); /* any but symlinks */
void fsm_symlink(struct fsm *, struct fsm_inode *dir, const char *name, const char *target);
void fsm_tmpfile(struct fsm *, struct fsm_inode *dir, uint32_t mode, unsigned handle);
void fsm_link(struct fsm *, struct fsm_inode *node, struct fsm_inode *dir, const char *name);
void fsm_unlink(struct fsm *, struct fsm_inode *dir, const char *name);
void fsm_rmdir(struct fsm *, struct fsm_inode *dir, const char *name);
void fsm_rename(struct fsm *, struct fsm_inode *dir, const char *name, struct fsm_inode *dir2, const char *name2,
		unsigned flags);

void fsm_open(struct fsm *, struct fsm_inode *, unsigned handle); /* takes the handle, which must be free */
void fsm_close(struct fsm *, unsigned handle);

void fsm_write(struct fsm *, struct fsm_inode *, uint64_t off, const void *bytes, size_t len, bool append,
	       bool kill_priv);
void fsm_truncate(struct fsm *, struct fsm_inode *, uint64_t size, bool kill_priv);
void fsm_fallocate(struct fsm *, struct fsm_inode *, int mode, uint64_t off, uint64_t len);
void fsm_copy(struct fsm *, struct fsm_inode *from, uint64_t off, struct fsm_inode *to, uint64_t off2, uint64_t len);
void fsm_read(struct fsm *, struct fsm_inode *);	       /* errors, access time */
void fsm_readdir(struct fsm *, struct fsm_inode *);	       /* the same */
void fsm_readlink(struct fsm *, struct fsm_inode *);	       /* the same */
void fsm_seek(struct fsm *, struct fsm_inode *, uint64_t off); /* errors */

void fsm_chmod(struct fsm *, struct fsm_inode *, uint32_t mode);
void fsm_chown(struct fsm *, struct fsm_inode *, uint32_t uid, uint32_t gid); /* (uint32_t)-1: as it is */
void fsm_utimes(struct fsm *, struct fsm_inode *, struct timespec atime, struct timespec mtime);
void fsm_setflags(struct fsm *, struct fsm_inode *, uint32_t flags);
void fsm_setxattr(struct fsm *, struct fsm_inode *, const char *name, const void *val, size_t size, int flags);
void fsm_removexattr(struct fsm *, struct fsm_inode *, const char *name);
void fsm_getxattr(struct fsm *, struct fsm_inode *, const char *name); /* errors */

#endif

/*
 * fsops.h - random operations on files, and what they can be carried out on
 *
 * An operation is a plain struct: files by the model's numbers, names by number, data by seed. So a list of them is a
 * reproduction, and can be applied to the model alone. fsop_gen makes one by chance from what the model holds, so that most
 * of them succeed, and enough of them fail in interesting ways.
 *
 * A driver carries out one operation on a filesystem: fsdrive_direct on fs/, fsdrive_syscalls on a directory of a mounted one.
 * It gets files as paths below its root, or as handles it was told to open, and fills an answer.
 */
#ifndef ARBOR_TESTS_KIT_FSOPS_H
#define ARBOR_TESTS_KIT_FSOPS_H

#include "tests/kit/fsmodel.h"
#include "tests/kit/rng.h"

#define FSOP_KINDS(X)                                                                                                  \
	X(CREATE, create)                                                                                              \
	X(MKDIR, mkdir)                                                                                                \
	X(MKNOD, mknod)                                                                                                \
	X(SYMLINK, symlink)                                                                                            \
	X(LINK, link)                                                                                                  \
	X(UNLINK, unlink)                                                                                              \
	X(RMDIR, rmdir)                                                                                                \
	X(RENAME, rename)                                                                                              \
	X(OPEN, open)                                                                                                  \
	X(CLOSE, close)                                                                                                \
	X(TMPFILE, tmpfile)                                                                                            \
	X(WRITE, write)                                                                                                \
	X(APPEND, append)                                                                                              \
	X(MAPWRITE, mapwrite)                                                                                          \
	X(TRUNCATE, truncate)                                                                                          \
	X(FALLOCATE, fallocate)                                                                                        \
	X(COPY, copy)                                                                                                  \
	X(READ, read)                                                                                                  \
	X(SEEK, seek)                                                                                                  \
	X(READDIR, readdir)                                                                                            \
	X(READLINK, readlink)                                                                                          \
	X(STAT, stat)                                                                                                  \
	X(CHMOD, chmod)                                                                                                \
	X(CHOWN, chown)                                                                                                \
	X(UTIMES, utimes)                                                                                              \
	X(SETFLAGS, setflags)                                                                                          \
	X(SETXATTR, setxattr)                                                                                          \
	X(GETXATTR, getxattr)                                                                                          \
	X(REMOVEXATTR, removexattr)                                                                                    \
	X(LISTXATTR, listxattr)                                                                                        \
	X(SYNC, sync)                                                                                                  \
	X(STATFS, statfs)                                                                                              \
	X(TICK, tick)                                                                                                  \
	X(CHECKPOINT, checkpoint)                                                                                      \
	X(FORGET_ALL, forget_all)

enum fsop_kind {
#define X(name, lower) FSOP_##name,
	FSOP_KINDS(X)
#undef X
		FSOP_COUNT
};

extern const char *const fsop_names[FSOP_COUNT];

/* A file: by handle, or by name in a directory (name FSOP_SELF: the directory itself). */
struct fsop_at {
	int handle;   /* -1: none */
	uint32_t dir; /* id in the model */
	uint16_t name;
};
#define FSOP_SELF UINT16_MAX

struct fsop {
	enum fsop_kind kind;
	struct fsop_at at, to;	 /* to: link, rename, copy */
	uint32_t mode, uid, gid; /* mode: also flags of rename, fallocate, setxattr, setflags; whence */
	dev_t rdev;
	uint64_t off, off2, len;
	uint16_t attr;	/* number of an attribute's name */
	uint64_t seed;	/* data, targets, values, times */
	bool kill_priv; /* the writer has no rights beyond the file's */
	uint8_t chunk;	/* readdir: entries read at once */
};

/* Zero weight: does not happen. */
struct fsop_profile {
	const char *name;
	unsigned weight[FSOP_COUNT];
	unsigned names;	     /* different names: 1 .. */
	uint64_t file_max;   /* writes end there */
	uint64_t write_max;  /* length of one */
	uint64_t far_one_in; /* one write of so many is far beyond that; 0: none */
	size_t xattr_max;    /* length of a value */
	bool direct;	     /* what only fs/ is asked: kill_priv, other callers, odd modes */
};

extern const struct fsop_profile fsop_mixed, fsop_names_only, fsop_data_only, fsop_growing, fsop_syscalls;

struct fsop fsop_gen(const struct fsop_profile *, const struct fsm *, struct rng *);
void fsop_print(FILE *, const struct fsop *);

/* What numbers and seeds of an operation stand for. */
#define FSOP_NAME_SIZE 257u
const char *fsop_name(uint16_t number, char buf[FSOP_NAME_SIZE]);
const char *fsop_attr(uint16_t number);
void fsop_fill(uint64_t seed, void *buf, size_t len); /* few zeros */
size_t fsop_target(uint64_t seed, char buf[4096]);

/* ---- drivers ---- */

/* An operation with everything looked up. Paths are below the root; "" is the root. */
struct fsop_args {
	const struct fsop *op;
	const char *dir, *dir2; /* NULL: no such directory */
	const char *name, *name2;
	const char *path, *path2; /* whole; where handle is -1 */
	int handle, handle2;
	const void *data; /* to be written, value, target */
	size_t len;
	const char *attr;
	uint32_t uid, gid, umask; /* who asks */
	struct timespec atime, mtime;
};

struct fsop_attrs {
	struct stat st;
	struct timespec btime;
	uint32_t flags;
};

struct fsop_entry {
	char name[256];
	uint64_t ino;
	unsigned type;
};

struct fsop_answer {
	int err;
	uint64_t n;   /* bytes moved, position, size of the file */
	uint64_t ino; /* of what was made */
	struct fsop_attrs attrs;
	uint8_t *data; /* what was read; grows, stays over operations */
	size_t len, cap;
	struct fsop_entry *entries;
	size_t n_entries, cap_entries;
};

uint8_t *fsop_answer_room(struct fsop_answer *, size_t len);
struct fsop_entry *fsop_answer_entry(struct fsop_answer *); /* one more */
void fsop_answer_release(struct fsop_answer *);

struct fs_driver;
typedef void fs_driver_call(struct fs_driver *, const struct fsop_args *, struct fsop_answer *);

struct fs_driver {
	fs_driver_call *const *calls; /* by kind; NULL: has no such thing */
	bool callers;		      /* anyone may ask, not only who we are */
	bool old_dotdot;	      /* listings of a moved directory may still show its old parent's number */
};

/* fs/fs.h, below a node on which the caller holds a reference. */
struct fs;
struct fsdrive_direct {
	struct fs_driver driver;
	struct fs *fs;
	uint64_t root;
	uint64_t handle[FSM_HANDLES]; /* 0: none */
};
void fsdrive_direct_init(struct fsdrive_direct *, struct fs *, uint64_t root);

/* System calls, below a directory. */
struct fsdrive_syscalls {
	struct fs_driver driver;
	char root[512];
	int dirfd;
	int handle[FSM_HANDLES];
};
int fsdrive_syscalls_init(struct fsdrive_syscalls *, const char *root);
void fsdrive_syscalls_release(struct fsdrive_syscalls *);

#endif

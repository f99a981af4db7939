/*
 * fs.h - files and directories: the door of the filesystem
 *
 * What a mounted filesystem can do, one call an operation, without a kernel: the FUSE adapter decodes a request, calls
 * one of these, and replies; tests call them on a simulated disk; fsck, mkfs and the model run on them too.
 *
 * Nodes. A file is named by a node id: view << 48 | inode number; the root of live is 1. Ids are for ever: an inode
 * number is never used again. Calls that return a struct fs_entry (lookup, create, ...) take a reference on its node for
 * the caller, as FUSE counts them ("nlookup"); fs_forget gives them back. A file without a name lives as long as
 * references do.
 *
 * Every change is one batch of the store: all or nothing after a crash, in the order in which calls return. Exceptions
 * that take several (fallocate of very many blocks, removal of very large ranges) say so.
 *
 * Permissions are the kernel's business (default_permissions); what only a filesystem can enforce is enforced here:
 * immutable and append-only files, set-group-id directories, set-id bits lost on write, ACL inheritance, name and size
 * limits.
 *
 * Threads: everything may be called from any thread. Any call may wait for the device.
 *
 * Errors: 0 or negative errno, those POSIX names for the call; -EUCLEAN/-EBADMSG/-EIO for damage, -EROFS after a failed
 * write (contract G).
 */
#ifndef ARBOR_FS_FS_H
#define ARBOR_FS_FS_H

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <time.h>

#include "btree/dev/bdev.h"
#include "wal/store.h"

struct fs;

#define FS_ROOT 1u /* node id of live's root */
#define FS_VIEW_SHIFT 48
#define FS_CONTROL_NAME ".arbor" /* a directory of the root that is found by name only */

/* ---- making, mounting ---- */

struct fs_mkfs_options {
	struct store_mkfs_options store;
	uid_t uid; /* of the root directory */
	gid_t gid;
	mode_t mode; /* 0: 0755 */
};

/* Makes an empty filesystem: a store with a root directory. Overwrites whatever is there. Errors as store_mkfs. */
int fs_mkfs(struct bdev *, const struct fs_mkfs_options *);

enum fs_atime { FS_RELATIME, FS_NOATIME, FS_STRICTATIME };

struct fs_options {
	struct store_options store; /* .records is set by fs_mount */
	enum fs_atime atime;
	bool nodiratime; /* for status: listing a directory never updates its access time */
	bool acl;	 /* POSIX ACLs: without it system.posix_acl_* is EOPNOTSUPP */
	bool writeback;	 /* the kernel owns sizes and times of files it has cached */
	/* fsck: mounts also what lacks a root directory or has marks of lost parts, and leaves alone what is to be deleted:
	 * nothing changes but what calls say. */
	bool repair;
	bool no_threads; /* tests: deletion of what has no name happens in fs_forget and fs_reap; implies store.manual */
	/* Tests: the clock. NULL: the system's. */
	void (*now)(void *arg, struct timespec *ret);
	void *now_arg;
};

/* Opens, recovers, finishes what a crash left half done. The device must outlive it. */
int fs_mount(struct bdev *, const struct fs_options *, struct fs **ret);

/* Ends it with a checkpoint. All other calls must have returned; references still held are forgotten: what has no name is
 * deleted by the next mount. The checkpoint's result. Accepts NULL. */
int fs_unmount(struct fs *);
/* Ends it as a kill does: nothing more is written. */
void fs_crash(struct fs *);

struct store *fs_store(struct fs *);

/* ---- who asks ---- */

struct fs_caller {
	uid_t uid;
	gid_t gid;
	mode_t umask; /* taken off new files' modes, where no default ACL says otherwise; 0 if that has been done */
};

/* ---- names ---- */

struct fs_entry {
	uint64_t node;
	struct stat st;	     /* st_ino is the plain inode number; blocks of 512 bytes; st_dev is 0 */
	struct timespec btime;
};

/* "." and ".." are found too. -ENOENT, -ENOTDIR, -ENAMETOOLONG, -ESTALE: no such node. */
int fs_lookup(struct fs *, uint64_t parent, const char *name, struct fs_entry *ret);
void fs_forget(struct fs *, uint64_t node, uint64_t n);

/* Every type: regular files, directories (S_IFDIR), devices, fifos, sockets. rdev for devices only. */
int fs_mknod(struct fs *, const struct fs_caller *, uint64_t parent, const char *name, mode_t mode, dev_t rdev,
	     struct fs_entry *ret);
int fs_mkdir(struct fs *, const struct fs_caller *, uint64_t parent, const char *name, mode_t mode, struct fs_entry *ret);
int fs_symlink(struct fs *, const struct fs_caller *, const char *target, uint64_t parent, const char *name,
	       struct fs_entry *ret);
int fs_tmpfile(struct fs *, const struct fs_caller *, uint64_t parent, mode_t mode, struct fs_entry *ret);
int fs_link(struct fs *, uint64_t node, uint64_t parent, const char *name, struct fs_entry *ret);
int fs_unlink(struct fs *, uint64_t parent, const char *name);
int fs_rmdir(struct fs *, uint64_t parent, const char *name);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT of <linux/fs.h>; others -EINVAL. */
int fs_rename(struct fs *, const struct fs_caller *, uint64_t parent, const char *name, uint64_t parent2,
	      const char *name2, unsigned flags);
/* Fills buf with up to size - 1 bytes and a NUL; the target's length is *ret_len. */
int fs_readlink(struct fs *, uint64_t node, char *buf, size_t size, size_t *ret_len);

struct fs_dirent {
	const char *name; /* NUL-terminated, valid during the call */
	size_t name_len;
	uint64_t ino;
	unsigned type;	  /* DT_* */
	uint64_t next;	  /* the position behind it */
	const struct fs_entry *entry; /* plus: attributes and a reference, not for "." and ".."; else NULL */
};
/*
 * Calls each for what stands at position `pos` (0: the beginning) and behind, "." and ".." first, until it returns non-zero
 * or there is no more. With `plus` each accepted name but "." and ".." takes a reference on its node. A position stays right
 * whatever is made or removed meanwhile. Positions are below 2^63.
 */
int fs_readdir(struct fs *, uint64_t node, uint64_t pos, bool plus, int (*each)(void *arg, const struct fs_dirent *),
	       void *arg);

/* ---- attributes ---- */

int fs_getattr(struct fs *, uint64_t node, struct fs_entry *ret); /* takes no reference */

enum fs_set {
	FS_SET_MODE = 1,
	FS_SET_UID = 2,
	FS_SET_GID = 4,
	FS_SET_SIZE = 8,
	FS_SET_ATIME = 16,
	FS_SET_MTIME = 32,
	FS_SET_CTIME = 64,
	FS_SET_ATIME_NOW = 128,
	FS_SET_MTIME_NOW = 256,
	FS_SET_KILL_PRIV = 512, /* with a size: set-id bits go */
};
/* What `what` names, taken from st. One batch, but for the removal of what a large truncation leaves (orphan.h). */
int fs_setattr(struct fs *, uint64_t node, unsigned what, const struct stat *st, struct fs_entry *ret);

int fs_getflags(struct fs *, uint64_t node, uint32_t *ret); /* FS_*_FL of <linux/fs.h> */
int fs_setflags(struct fs *, uint64_t node, uint32_t flags); /* -EOPNOTSUPP: one that means nothing here */

/* ---- extended attributes ---- */

/* size 0: only *ret_len. -ERANGE: does not fit; -ENODATA; -EOPNOTSUPP: a namespace that is not there. */
int fs_getxattr(struct fs *, uint64_t node, const char *name, void *buf, size_t size, size_t *ret_len);
/* NUL-terminated names, one behind the other. */
int fs_listxattr(struct fs *, uint64_t node, char *buf, size_t size, size_t *ret_len);
/* flags: XATTR_CREATE, XATTR_REPLACE. kill_sgid: an access ACL is set by someone outside the group. */
int fs_setxattr(struct fs *, uint64_t node, const char *name, const void *val, size_t size, int flags, bool kill_sgid);
int fs_removexattr(struct fs *, uint64_t node, const char *name);

/* ---- data ---- */

#define FS_IO_MAX (1u << 20) /* the most that one read or write takes */
/* What a buffer for fs_read must hold, and it must be aligned to BLOCK_SIZE. */
#define FS_READ_BUFFER(size) (((size_t)(size) + 2 * 4096u - 1) & ~(size_t)4095u)

/* *ret_data points into buf. Short only at the end of the file. Updates the access time as fs_options.atime says. */
int fs_read(struct fs *, uint64_t node, uint64_t off, size_t size, void *buf, const void **ret_data, size_t *ret_len);

enum fs_write_flags {
	FS_WRITE_APPEND = 1,	/* at the end of the file, whatever `off` says */
	FS_WRITE_KILL_PRIV = 2, /* set-id bits go */
	FS_WRITE_CACHE = 4,	/* written by the kernel from its page cache: with `writeback` times are not touched */
};
/* All of it or nothing. -EFBIG: past the largest size; -ENOSPC. */
int fs_write(struct fs *, uint64_t node, const void *buf, size_t size, uint64_t off, unsigned flags);

/* mode: FALLOC_FL_* of <linux/falloc.h>; others -EOPNOTSUPP. */
int fs_fallocate(struct fs *, uint64_t node, int mode, uint64_t off, uint64_t len);
/* whence: SEEK_DATA or SEEK_HOLE. -ENXIO. */
int fs_seek(struct fs *, uint64_t node, uint64_t off, int whence, uint64_t *ret_off);
/* Shares whole blocks where both offsets allow it, copies the rest. May do less than asked, as copy_file_range. */
int fs_copy_range(struct fs *, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off, uint64_t len,
		  uint64_t *ret_len);

/* ---- the whole ---- */

/* Everything answered so far is durable. Serves fsync, fdatasync, fsync of a directory, and syncfs. */
int fs_sync(struct fs *);
int fs_statfs(struct fs *, struct statvfs *ret);
/* Deletes what has no name and no references any more, now. */
int fs_reap(struct fs *);

#endif

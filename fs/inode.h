/*
 * inode.h - inodes in memory: a copy of the item, decoded, for the length of one operation
 *
 * There is no cache of inodes and no dirty state: the tree is the truth, and a read of it takes a microsecond. Load, change
 * the copy, put it into the batch.
 */
#ifndef ARBOR_FS_INODE_H
#define ARBOR_FS_INODE_H

#include "fs/fs_format.h"
#include "fs/op.h"

struct inode {
	uint64_t ino;
	uint32_t mode, flags, uid, gid, nlink, state;
	uint64_t size;
	uint64_t blocks; /* of 4 KiB */
	uint64_t parent;
	uint32_t rdev_major, rdev_minor;
	struct timespec atime, mtime, ctime, btime;
	uint64_t changes;
};

/* -ESTALE: there is none. */
int inode_load(struct view *, uint64_t ino, struct inode *ret);
int inode_decode(uint64_t ino, const void *val, size_t len, struct inode *ret); /* val has been validated */
int inode_put(struct batch *, const struct inode *); /* counts the change */

/* A new inode of the parent's view: number, owner, group and mode by the rules (set-group-id directories), times, one
 * name (directories: two). Nothing is put. */
int inode_new(struct op *, const struct fs_caller *, const struct inode *parent, mode_t mode, struct inode *ret);

void inode_to_entry(uint64_t node, const struct inode *, struct fs_entry *ret);

/* The content was changed now. */
void inode_touch(struct inode *, const struct timespec *now); /* mtime and ctime */
/* Set-user-id goes; set-group-id where the group may execute; the caller deletes security.capability (xattr_kill_caps). */
void inode_kill_priv(struct inode *);

#endif

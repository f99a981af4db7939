/*
 * xattr.h - extended attributes, as the other parts of fs/ need them
 */
#ifndef ARBOR_FS_XATTR_H
#define ARBOR_FS_XATTR_H

#include "fs/inode.h"

/* Whole value into buf (size bytes). -ENODATA, -ERANGE. *ret_len is the value's length, also with -ERANGE. */
int xattr_read(struct fs *, struct view *, const struct inode *, const char *name, void *buf, size_t size, size_t *ret_len);
/* Into the batch; sets the inode's state, does not put the inode. Replaces what is there. -ENOSPC: no slot, name list full. */
int xattr_write(struct op *, struct inode *, const char *name, const void *val, size_t size);
/* For an inode that is new: nothing can be there yet. */
int xattr_write_new(struct op *, struct inode *, const char *name, const void *val, size_t size);
int xattr_delete(struct op *, struct inode *, const char *name); /* -ENODATA */
/* Of one inode, a batch deletes at most one attribute, and does not add a new one as well: whether any is left is read from
 * the tree as it was before the batch. */

/* Drops security.capability, if it is there: part of losing privileges. Cheap where the inode has no attributes. */
int xattr_kill_caps(struct op *, struct inode *);

/* Every name of an inode, with its key, in order of keys; a result other than 0 ends it and is returned. The name is not
 * terminated. */
int xattr_each(struct view *, uint64_t ino, int (*each)(void *arg, struct key, const char *name, size_t len), void *arg);

uint64_t xattr_hash(struct fs *, const char *name, size_t len); /* 48 bits: the upper part of the key's offset */

#endif

/*
 * acl.h - POSIX access control lists: what the kernel leaves to a filesystem
 *
 * The kernel checks permissions; here are validation, the tie between an access ACL and the mode, and inheritance of a
 * directory's default ACL. Values have the kernel's format (<linux/posix_acl_xattr.h>) and are kept as they come.
 */
#ifndef ARBOR_FS_ACL_H
#define ARBOR_FS_ACL_H

#include "fs/inode.h"

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

/* 0 or -EINVAL. */
int acl_check(const void *val, size_t size);
/* The permission bits an access ACL stands for, into *mode; *ret_minimal: it says no more than the mode does. */
int acl_to_mode(const void *val, size_t size, uint32_t *mode, bool *ret_minimal);
/* chmod: the ACL's owner, mask (or group) and other entries become what the mode says. Changes val. */
int acl_from_mode(void *val, size_t size, uint32_t mode);

/* A new inode in a directory: takes off the umask, or, if the parent has a default ACL, sets mode and ACLs from it. */
int acl_inherit(struct op *, const struct fs_caller *, const struct inode *parent, struct inode *child);
/* After chmod: brings an access ACL into line, if there is one. */
int acl_chmod(struct op *, struct inode *);

#endif

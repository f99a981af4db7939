/*
 * namei.h - what operations on names share: references on what is returned, and what may be done with a name
 */
#ifndef ARBOR_FS_NAMEI_H
#define ARBOR_FS_NAMEI_H

#include "fs/dir.h"

/*
 * A reference on the node, for the caller of the operation, and its attributes. -ENOENT: it has no name (any more);
 * then no reference is taken. No lock need be held.
 */
int entry_get(struct op *, uint64_t node, struct fs_entry *ret);
/* Its last name is gone, and the batch committed: it is deleted, now or when the last reference goes. No locks held. */
void node_unnamed(struct fs *, uint64_t node);

int dir_load(struct view *, uint64_t ino, struct inode *ret); /* -ENOTDIR, -ESTALE */
/* What a name refers to, under the locks of both. -EUCLEAN: it cannot be that. */
int named_load(struct op *, const struct dir_slot *, struct inode *ret);

/* Immutable and append-only directories and files; directories that have been removed. */
int may_add(const struct inode *dir);			       /* -ENOENT, -EPERM */
int may_remove(const struct inode *dir, const struct inode *); /* -EPERM */

/* The directory gets (or loses) names, of which so many are directories. -EMLINK, -EUCLEAN. */
int dir_account(struct inode *dir, int names, int subdirs);
/* The inode loses a name; the last one: puts the orphan item. Puts the inode. */
int name_lost(struct op *, struct inode *);

/* Number, mode, owner, ACLs of a new inode. Nothing is put but its extended attributes. */
int node_new(struct op *, const struct fs_caller *, const struct inode *dir, mode_t mode, dev_t rdev,
	     struct inode *ret);

enum name_kind { NAME_PLAIN, NAME_DOT, NAME_DOTDOT, NAME_CONTROL };
enum name_kind name_kind(uint64_t parent, const char *name);

#endif

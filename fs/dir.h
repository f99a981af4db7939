/*
 * dir.h - the names in a directory
 *
 * A name is one item, keyed by a hash of the name and a slot (fs_format.h). Finding one is one search: the greatest key of
 * that hash, and downwards in the rare case of a collision.
 */
#ifndef ARBOR_FS_DIR_H
#define ARBOR_FS_DIR_H

#include "fs/inode.h"

struct dir_slot {
	struct key key; /* where it stands, or could be put */
	uint64_t ino;
	unsigned type; /* DT_* */
};

/* -ENOENT: not there; then *ret's key is a free place for it (-ENOSPC: 256 names with one hash). -ENAMETOOLONG, -EINVAL. */
int dir_find(struct op *, uint64_t dir, const char *name, size_t len, struct dir_slot *ret);
/* The name refers to ino from now on; key is from dir_find, in the same operation, under the directory's lock. */
int dir_put(struct batch *, struct key key, const char *name, size_t len, uint64_t ino, unsigned type);

uint64_t dir_hash(struct fs *, const char *name, size_t len); /* 1 .. FS_HASH_MAX */
int dir_name_check(const char *name, size_t *ret_len);	      /* -ENAMETOOLONG, -EINVAL (empty, '/') */

static inline unsigned mode_to_dt(uint32_t mode)
{
	return (mode & 0170000u) >> 12;
}

#endif

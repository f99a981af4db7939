/*
 * file.h - a regular file's content, as the other parts of fs/ need it
 *
 * Content is inline (one small item) or in extents. All of it under the inode's lock, and after orphan_finish.
 */
#ifndef ARBOR_FS_FILE_H
#define ARBOR_FS_FILE_H

#include "fs/extent.h"

/*
 * Sets the size, either way, with all other changes made to *inode: puts the inode, commits the op's batch. What is
 * beyond the new end is gone, the rest of its last block reads as zeros should the file grow again.
 */
int file_truncate(struct op *, struct inode *, uint64_t size);

/*
 * Makes inline data into an extent's block, so that extents can be worked with: commits a batch of its own; *inode is
 * loaded again. Nothing where there is no inline data.
 */
int file_uninline(struct op *, struct inode *);

/*
 * Writes bytes as fs_write does, into the op's batch and without committing: takes blocks, hands in data, replaces the
 * range's extents (so once in a batch), or puts inline data; sets size and blocks of *inode, not its times, and does not put it.
 * At most FS_IO_MAX bytes. With op->join see op.h.
 */
int file_write(struct op *, struct inode *, const void *buf, size_t size, uint64_t off);

/* Reads as fs_read does, of an inode that is locked; buf as there. Not beyond inode->size. No access time. Damage is what
 * it is here, -EBADMSG or -EUCLEAN. */
int file_read(struct op *, const struct inode *, uint64_t off, size_t size, void *buf, const void **ret_data, size_t *ret_len);

/* Whether the inode may be written: regular (-EISDIR, -EINVAL), not immutable, and not append-only unless `append` (-EPERM). */
int file_may_write(const struct inode *, bool append);

#endif

/*
 * file_int.h - what file.c and file_write.c share
 */
#ifndef ARBOR_FS_FILE_INT_H
#define ARBOR_FS_FILE_INT_H

#include "fs/file.h"

static inline uint64_t file_block(uint64_t off)
{
	return off & ~(uint64_t)(BLOCK_SIZE - 1);
}

static inline uint64_t file_block_up(uint64_t off)
{
	return file_block(off + BLOCK_SIZE - 1);
}

static inline struct key file_inline_key(uint64_t ino)
{
	return key_make(ino, FS_ITEM_INLINE, 0);
}

/* The inline data into buf (BLOCK_SIZE bytes). *ret_len 0: there is none. Costs nothing for a file with blocks. */
int file_inline(struct view *, const struct inode *, void *buf, size_t *ret_len);

/* One whole block of a file without inline data, zeros where there is nothing and behind the end. `block` is aligned. -ENODATA:
 * its content is lost. */
int file_read_block(struct op *, const struct inode *, uint64_t at, void *block);

#endif

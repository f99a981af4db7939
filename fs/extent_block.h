/*
 * extent_block.h - one block of a file, read and written anew
 *
 * What begins or ends inside a block (a hole punched at odd offsets, a copied range) keeps a part of that block's content. The
 * block is read, changed, and put as a fresh piece of the extent_replace that changes the whole blocks beside it, so that
 * all of it is one batch.
 */
#ifndef ARBOR_FS_EXTENT_BLOCK_H
#define ARBOR_FS_EXTENT_BLOCK_H

#include "fs/extent.h"

struct extent_block {
	uint64_t off;	/* in the file, a multiple of BLOCK_SIZE */
	uint8_t *bytes; /* BLOCK_SIZE, from mem_alloc_blocks */
	int kind;	/* what the file has there: EXTENT_HOLE, ... */
	uint32_t sum;
};

/* Reads it; a hole or a claim reads as zeros. -EIO: its content is lost. Under the inode's lock. Released by extent_block_release. */
int extent_block_read(struct view *, uint64_t ino, uint64_t off, struct extent_block *ret);
/* Takes a block for its content and hands it to the op's batch; *ret refers to b->sum. Once. */
int extent_block_put(struct op *, struct extent_block *b, struct extent_piece *ret);
void extent_block_release(struct extent_block *);

#endif

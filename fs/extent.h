/*
 * extent.h - where a file's data is
 *
 * A file's blocks are mapped by extent items, keyed by the byte offset of their first block. What none covers is a hole.
 * Changes are made range by range: extent_replace puts new pieces in the place of whatever a range has, cutting the items at
 * its ends. At most one replacement of an inode in a batch, because each reads the tree as it was before the batch.
 *
 * All of it under the inode's lock (op.h).
 */
#ifndef ARBOR_FS_EXTENT_H
#define ARBOR_FS_EXTENT_H

#include "fs/inode.h"

/* A copy of one item, or of a hole between two. */
struct extent_map {
	uint64_t from, to; /* bytes, multiples of BLOCK_SIZE; a hole behind the last item ends at UINT64_MAX */
	enum { EXTENT_HOLE, EXTENT_CLAIM, EXTENT_DATA, EXTENT_LOST } kind;
	uint64_t addr;	/* EXTENT_DATA: of the block at `from` */
	uint64_t birth;
	uint32_t sums[FS_EXTENT_BLOCKS_MAX]; /* EXTENT_DATA: of each block from `from` on */
};

/* What is at byte `off`: the whole item that covers it, or the hole around it (which begins at `off`). */
int extent_at(struct view *, uint64_t ino, uint64_t off, struct extent_map *ret);

/* The same, one after the other, of all that overlaps [from, to), cut to it. <0, 0: an item or hole, >0: end. */
struct extent_walk;
int extent_walk_open(struct view *, uint64_t ino, uint64_t from, uint64_t to, struct extent_walk **ret);
int extent_walk_next(struct extent_walk *, struct extent_map *ret);
void extent_walk_close(struct extent_walk *);

/* A piece that is put: fresh blocks of this batch, blocks another item has (a clone), a claim, or what is lost. */
struct extent_piece {
	uint64_t from;	 /* byte offset in the file, multiple of BLOCK_SIZE */
	uint32_t blocks; /* data: at most FS_EXTENT_BLOCKS_MAX; else at most FS_CLAIM_BLOCKS_MAX */
	uint64_t addr;	 /* 0: a claim, or lost */
	uint64_t birth;	 /* 0: fresh */
	const uint32_t *sums;
	bool lost; /* content that was lost; addr is 0 */
};

/*
 * Replaces [from, to) (multiples of BLOCK_SIZE) by pieces, in order of offset; what no piece covers becomes a hole. Changes
 * inode->blocks; does not put the inode. Pieces that continue each other become one item. With op->join fresh
 * data is also joined to older data in front of it (op.h). Reads no more than what overlaps; the caller bounds that (see
 * extent_bound).
 */
int extent_replace(struct op *, struct inode *, uint64_t from, uint64_t to, const struct extent_piece *pieces, size_t n);

/* Puts claims into the holes of [from, to), leaves items as they are. Counts as the batch's one replacement of the inode. */
int extent_fill(struct op *, struct inode *, uint64_t from, uint64_t to);

/* How many blocks of [from, to) are claims: what a write there has been promised. */
int extent_claimed(struct view *, uint64_t ino, uint64_t from, uint64_t to, uint64_t *ret_blocks);

/* The end of the longest part of [from, to) that has at most `items` items. */
int extent_bound(struct view *, uint64_t ino, uint64_t from, uint64_t to, unsigned items, uint64_t *ret_to);

/* Most blocks with data that an item of this filesystem may have (small nodes hold fewer checksums). */
uint32_t extent_blocks_max(struct fs *);

#endif

/*
 * readahead.h - small reads of data that lie close together become one
 *
 * Files written together lie together, and are often read together: an archive made of a tree, a build, a copy. Each is a read of
 * a few blocks, and a device takes hardly longer for thirty. So when small reads come close behind each other the window of
 * blocks around is read at once and kept for a while.
 *
 * What is given out need not be right: the caller verifies it against its checksums, and reads for itself when it is not.
 *
 * Threads: all calls from any thread.
 */
#ifndef ARBOR_WAL_READAHEAD_H
#define ARBOR_WAL_READAHEAD_H

#include <stdbool.h>
#include <stdint.h>

#include "btree/dev/bdev.h"

#define READAHEAD_BLOCKS 32u /* of a window: 128 KiB, aligned */
#define READAHEAD_SMALL 16u  /* longer reads pay for themselves */

struct readahead;

int readahead_open(struct bdev *, struct readahead **ret);
void readahead_close(struct readahead *); /* accepts NULL */

/* Blocks from a window: true if they were there, or have been read now because reads come in order. `blocks` is at most
 * READAHEAD_SMALL. */
bool readahead_get(struct readahead *, uint64_t addr, uint32_t blocks, void *buf);

/* These blocks are about to be written: what was read of them is of no use. */
void readahead_forget(struct readahead *, uint64_t addr, uint32_t blocks);

#endif

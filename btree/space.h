/*
 * space.h - which blocks are in use
 *
 * Two bitmaps a group. `used`: may not be handed out. `durable`: what the checkpoint being prepared will say. An
 * allocation sets `used` only, so what a crash finds unreachable is free again by itself; the checkpoint applies the
 * events (blocks that became reachable, blocks that stopped being so) since the last one to `durable`; space_free
 * clears `used` when the block may be handed out again, which is for the caller to know (reclaim.h). At open `used`
 * is the checkpoint's map.
 *
 * Pages are loaded lazily: opening reads one page, however large the device. Loaded groups that say nothing the disk
 * does not say may be dropped again. A page that cannot be read or does not verify is reported once and its groups
 * count as full, until fsck rebuilds it; space_apply, space_free and space_mark_used accept what concerns them and do
 * nothing.
 *
 * Every page has three homes; space_write writes each changed page to a home that neither of the last two durable
 * checkpoints uses, so no page a superblock slot refers to is ever overwritten. That needs space_commit to be called
 * once the checkpoint is durable. At open both slots must refer to the same map (mounting sees to it).
 *
 * Threads: any; one mutex, not held during device reads. space_apply, space_write, space_commit, space_grow and
 * space_rebuild_group are for one thread at a time (the checkpoint). Functions may read from the device: never call
 * them under a tree lock. Any that may read may also return -ENOMEM, and has then changed nothing.
 */
#ifndef ARBOR_BTREE_SPACE_H
#define ARBOR_BTREE_SPACE_H

#include "btree/dev/bdev.h"
#include "btree/space_format.h"
#include "btree/types.h"

struct space;

struct space_geometry {
	uint64_t blocks;     /* of the filesystem; <= the device's */
	uint64_t log_start;  /* first block of the log region, in group 0 behind its homes */
	uint64_t log_blocks;
};

/* Decoded disk_space_entry of the root page. */
struct space_root {
	uint64_t gen; /* 0: nothing was ever written */
	uint64_t sum;
	uint64_t free;
	uint8_t home;
};

/* Each stream allocates next-fit from a place of its own, so that what is written together lies together. */
enum space_stream { SPACE_NODES, SPACE_COPIES, SPACE_SMALL, SPACE_LARGE, SPACE_STREAMS };

enum space_event_kind { SPACE_REACHED, SPACE_RELEASED };
struct space_event {
	uint64_t addr;
	uint32_t blocks;
	uint32_t kind; /* enum space_event_kind */
};

/* The first block behind group 0's homes: where the log may start. */
uint64_t space_log_start_min(void);
/* Blocks that can be handed out on an empty filesystem of this geometry. */
uint64_t space_blocks_usable(const struct space_geometry *);

/*
 * mem_max: how many bytes of clean loaded pages to keep (0: 32 MiB). Reads the root page, if there is one. -EINVAL:
 * no such geometry (the log must lie in group 0), or larger than the device. A read error of the root page is
 * returned; a damaged one makes a map that is full.
 */
int space_open(struct bdev *, const struct space_geometry *, const struct space_root *root, size_t mem_max,
	       struct space **ret);
void space_close(struct space *); /* accepts NULL */

/*
 * Takes a run of at most `want` blocks, contiguous, at least `min` (1 <= min <= want <= SPACE_GROUP_BLOCKS / 2): the
 * full length where the neighbourhood has it, else the longest run that is found without reading the whole map. Sets
 * `used`. -ENOSPC only when no run of `min` blocks exists anywhere (then every group with enough free blocks has been
 * looked at).
 */
int space_alloc(struct space *, enum space_stream, uint32_t min, uint32_t want, uint64_t *ret_addr,
		uint32_t *ret_blocks);
/*
 * The same for second copies of what is at `other`: in another group where that has room, else half a group away or as
 * far as it goes. The stream is SPACE_COPIES.
 */
int space_alloc_apart(struct space *, uint64_t other, uint32_t min, uint32_t want, uint64_t *ret_addr,
		      uint32_t *ret_blocks);

/* Hands a run back: it may be given out again. -EUCLEAN when a block of it was not in use, or still is durable (nothing
 * is changed). */
int space_free(struct space *, uint64_t addr, uint64_t blocks);

/* Recovery: makes sure the run is not handed out; blocks of it may be used already. -EUCLEAN when it is not inside the
 * allocatable part of the device. */
int space_mark_used(struct space *, uint64_t addr, uint64_t blocks);

/* Whether the run lies wholly in the allocatable part of the device (not in superblocks, log, homes or past the end).
 * No run does that leaves its group, nor an empty one. */
bool space_valid(const struct space *, uint64_t addr, uint64_t blocks);

/* Blocks not used now. Exact. */
uint64_t space_free_blocks(struct space *);
uint64_t space_usable_blocks(struct space *);

/*
 * Checkpoint, in this order: apply (in the order the events happened), write (fills *ret with the root to store in
 * the superblock; the pages written still need a flush), then commit when the superblock that says so is durable.
 * Pages are written with many transfers in flight. -EUCLEAN: an event contradicts the map (reached: used and not
 * durable; released: durable). After an error of apply or write the space must not be used for another checkpoint: it
 * says -EROFS (except after -ENOMEM, where nothing was changed). -EBUSY: the last write was not committed. gen is not
 * 0. Where nothing has changed since the last write, nothing is written and *ret is as then.
 */
int space_apply(struct space *, const struct space_event *events, size_t n);
int space_write(struct space *, uint64_t gen, struct space_root *ret);
void space_commit(struct space *);
/* Free blocks according to `durable`, as the next space_write will record them. */
uint64_t space_durable_free(struct space *);

/*
 * The filesystem has grown to `blocks`; appends groups and radix levels. The next checkpoint makes it durable, and
 * only once that is committed are the new blocks counted as free and handed out, so that no log record names a block
 * which the superblock in force does not know. (Commit when both slots say so.) -EINVAL: smaller, larger than the
 * device, or too large.
 */
int space_grow(struct space *, uint64_t blocks);

/* Whether some page is known to be unreadable: its groups count as full until they are rebuilt. */
bool space_is_damaged(struct space *);
/* Loads all pages, so that what is damaged is known: for small maps. -ENOMEM. */
int space_load(struct space *);

/*
 * For scrubbing: reads the page of `level` (SPACE_LEVELS_MAX .. 0: a bitmap) over group g from its home, whatever memory has.
 * 0: it verifies; 1: it does not, but is known: the next space_write writes it to another home; -EBADMSG,
 * -EUCLEAN, -EIO: it does not, and is not known: it counts as full (reported). -ENOENT: there is none. -ENOMEM. A call that may read; not between
 * space_write and space_commit.
 */
int space_scrub(struct space *, unsigned level, uint64_t g);
/* The first group behind g that a page of this level begins with. */
uint64_t space_scrub_next(unsigned level, uint64_t g);

/* For checkers: copies the bitmaps of group g (SPACE_GROUP_BLOCKS bits each; either may be NULL). -EBADMSG: bad. */
uint64_t space_groups(const struct space *);
int space_bitmaps(struct space *, uint64_t g, uint8_t *ret_used, uint8_t *ret_durable);
/* For fsck: replaces the durable (and used) bitmap of group g; the next space_write records it. */
int space_rebuild_group(struct space *, uint64_t g, const uint8_t *bitmap);

#endif

/*
 * spacefs.h - a filesystem of nothing but its space map, and a plain array to compare it with
 *
 * What the tests of the space map share. Failures end the test (cmocka). A device of zeros, the map on it, and the root
 * entries that the two superblock slots would hold.
 */
#ifndef ARBOR_TESTS_KIT_SPACEFS_H
#define ARBOR_TESTS_KIT_SPACEFS_H

#include "btree/space.h"
#include "tests/kit/simdev.h"

#define G SPACE_GROUP_BLOCKS
#define BITMAP_BYTES (G / 8)

struct spacefs {
	struct simdev *disk;
	struct bdev *dev;
	struct space_geometry geo;
	struct space *space;
	size_t mem_max;
	uint64_t gen;
	struct space_root root, older; /* of the last two durable checkpoints */
};

/* Lines about damage go to a counter instead of stderr from here on. */
void spacefs_count_reports(void);
unsigned spacefs_reports(void); /* since the last call */

void spacefs_init(struct spacefs *, uint64_t blocks, uint64_t log_blocks);
/* On a larger device, with or without a trace. */
void spacefs_init_sized(struct spacefs *, uint64_t blocks, uint64_t log_blocks, uint64_t device_blocks, bool trace);
void spacefs_release(struct spacefs *);
void spacefs_open_root(struct spacefs *, const struct space_root *);
void spacefs_reopen(struct spacefs *); /* as after a crash, by the newest root */

/* Write and flush; the root becomes the newest in commit. checkpoint is all of it. */
int spacefs_write(struct spacefs *, struct space_root *ret);
void spacefs_commit(struct spacefs *, const struct space_root *);
void spacefs_checkpoint(struct spacefs *, const struct space_event *events, size_t n);

uint64_t spacefs_take(struct spacefs *, enum space_stream, uint32_t blocks); /* all of them, or the test fails */
/* Uses all there is in the group but its last `but` blocks, as recovery would. */
void spacefs_use_up(struct spacefs *, uint64_t g, uint32_t but);
/* The same as an event. */
struct space_event spacefs_used_up(struct spacefs *, uint64_t g, uint32_t but);
uint64_t spacefs_home(uint64_t g, unsigned level, unsigned home);
/* A bit in each home of a page; a second time makes it good. */
void spacefs_flip_homes(struct spacefs *, uint64_t g, unsigned level);

static inline struct space_event reached(uint64_t addr, uint32_t blocks)
{
	return (struct space_event){ addr, blocks, SPACE_REACHED };
}

static inline struct space_event released(uint64_t addr, uint32_t blocks)
{
	return (struct space_event){ addr, blocks, SPACE_RELEASED };
}

static inline bool bit(const uint8_t *map, uint64_t i)
{
	return map[i / 8] >> i % 8 & 1;
}

/* A byte a block, three times: now, and as the roots of the last two durable checkpoints say. */
#define BLOCK_USED 1
#define BLOCK_DURABLE 2
#define BLOCK_FIXED 4

struct blockmap {
	uint64_t blocks, root_blocks, older_blocks;
	uint8_t *now, *root, *older;
};

void blockmap_init(struct blockmap *, const struct spacefs *, uint64_t blocks_max);
void blockmap_release(struct blockmap *);
uint64_t blockmap_free(const struct blockmap *, uint8_t what); /* blocks without any of these bits */
uint64_t blockmap_longest(const struct blockmap *);	       /* run of blocks not used */
bool blockmap_all(const struct blockmap *, uint64_t addr, uint64_t blocks, uint8_t mask, uint8_t want);
void blockmap_change(struct blockmap *, uint64_t addr, uint64_t blocks, uint8_t set, uint8_t clear);
void blockmap_apply(struct blockmap *, const struct space_event *events, size_t n);
void blockmap_commit(struct blockmap *);		       /* now becomes root, root becomes older */
void blockmap_crash(struct blockmap *);			       /* everything becomes what root says */
void blockmap_grow(struct blockmap *, const struct spacefs *); /* to the filesystem's size */

/* Bit by bit, and the counts. */
void blockmap_assert(const struct blockmap *, struct spacefs *);
/* Opens both durable roots beside the running map, or on a copy of the device. */
void blockmap_assert_roots(const struct blockmap *, const struct spacefs *, struct bdev *);

#endif

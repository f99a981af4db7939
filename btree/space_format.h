/*
 * space_format.h - the space map on disk
 *
 * The device is cut into groups of SPACE_GROUP_BLOCKS blocks (128 MiB). One bitmap page a group (bit set: the block
 * is in use; bit i of byte i/8, least significant first), under a radix tree of pages of SPACE_FANOUT entries. A page
 * has no header: its entry in the page above (the root page's entry stands in the superblock) names its generation,
 * its checksum and which of its three homes holds it. An entry of generation 0 says that the page was never written:
 * all free but what is fixed (superblocks, the log, homes, what lies beyond the device's end); it is zero throughout,
 * as are entries of groups that do not exist. There are as many levels as it takes to reach all groups from one page,
 * at least one. Blocks at the end that would not make a group larger than its own homes belong to no group.
 *
 * Homes: page of level l (0: bitmap) for group g, where g is a multiple of SPACE_FANOUT^l, has the three blocks
 * meta(g) + 3 * l + {0, 1, 2}, meta(g) = g * SPACE_GROUP_BLOCKS + (g == 0 ? SPACE_META_GROUP0 : 0). They are fixed
 * for all levels up to SPACE_LEVELS_MAX whether there is such a page or not.
 */
#ifndef ARBOR_BTREE_SPACE_FORMAT_H
#define ARBOR_BTREE_SPACE_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

#define SPACE_GROUP_BLOCKS 32768u
#define SPACE_FANOUT 128u
#define SPACE_HOMES 3u
#define SPACE_LEVELS_MAX 4u   /* radix levels above the bitmaps: 128^4 groups = 32 PiB */
#define SPACE_META_GROUP0 32u /* blocks 0..31 hold the superblock slots and room to spare */

/*	OFFSET	SIZE	MEANING
 *	0	8	generation of the write; 0: never written
 *	8	8	XXH3-64 of the page's 4096 bytes, seeded with generation ^ address of the home, and 1 where
 *			that is 0; 0: the page is lost, all below it counts as in use until a checker rebuilds it
 *	16	8	free blocks in all groups below, 0 for a lost page
 *	24	1	home: 0, 1 or 2
 *	25	7	zero
 */
struct disk_space_entry {
	le64 gen;
	le64 sum;
	le64 free;
	uint8_t home;
	uint8_t zero[7];
};
static_assert(sizeof(struct disk_space_entry) == 32, "disk_space_entry");

#endif

/*
 * node_format.h - a tree node on disk
 *
 *	header | slot 0 | slot 1 | ... | slot n-1 |  zeros  | value n-1 | ... | value 1 | value 0
 *
 * Slots are sorted by key, strictly ascending. Values are packed from the node's end in slot order, without gaps, and
 * what lies between the last slot and the last value is zero: a node has exactly one form, so every byte can be
 * verified. Level 0 is a leaf; above it, a value is a disk_ref and its slot's key is the lower bound of that child. Slot 0 of
 * such a node has KEY_MIN instead: its child begins where the node itself does, and that stands in the node's parent
 * (KEY_MIN on the left edge of the tree). KEY_MAX is no item's key.
 */
#ifndef ARBOR_BTREE_NODE_FORMAT_H
#define ARBOR_BTREE_NODE_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

#define NODE_MAGIC 0x646f4e61u /* "aNod" */
#define NODE_SIZE_MIN 4096u
#define NODE_SIZE_MAX 32768u /* slots hold 16-bit offsets */
#define NODE_LEVELS_MAX 16u

#define TREE_FILES 1u /* which tree a node belongs to */
#define TREE_SYSTEM 2u

/*	OFFSET	SIZE	MEANING
 *	0	8	XXH3-64 of the node behind this field
 *	8	4	NODE_MAGIC
 *	12	1	level: 0 for a leaf
 *	13	1	zero
 *	14	2	number of slots; never 0
 *	16	8	address: its own first block
 *	24	8	address of its second copy, or 0 (both copies hold the same bytes)
 *	32	8	generation
 *	40	8	tree: TREE_FILES or TREE_SYSTEM
 *	48	16	zero
 */
struct disk_node {
	le64 sum;
	le32 magic;
	uint8_t level;
	uint8_t zero1;
	le16 nr;
	le64 addr;
	le64 copy;
	le64 gen;
	le64 tree;
	uint8_t zero2[16];
};
static_assert(sizeof(struct disk_node) == 64, "disk_node");

struct disk_slot {
	le64 obj; /* struct key */
	le64 off;
	le16 val; /* offset of the value from the node's start */
	le16 len;
};
static_assert(sizeof(struct disk_slot) == 20, "disk_slot");

struct disk_ref {
	le64 addr;
	le64 copy;
	le64 gen;
};
static_assert(sizeof(struct disk_ref) == 24, "disk_ref");

#endif

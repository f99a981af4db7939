/*
 * salvage_int.h - what the parts of the salvage share
 *
 *	salvage.c	the door, and handing out what the plan says
 *	salvage_scan.c	one pass over the device: nodes, items that identify, segments of the log
 *	salvage_plan.c	which leaf says what about which keys
 *	salvage_super.c	the superblock to go on from, with a position in the log
 */
#ifndef ARBOR_WAL_SALVAGE_INT_H
#define ARBOR_WAL_SALVAGE_INT_H

#include <bsd/sys/tree.h>

#include "btree/node.h"
#include "wal/log.h"
#include "wal/salvage.h"

#define SALVAGE_NONE SIZE_MAX

/* A node that verified where it stands, at one or both of its places. */
struct salvage_node {
	uint64_t addr, copy, gen;
	/* Of a leaf: its first and last key. Above: the lower bounds of its second and last child; first > last with one child. */
	struct key first, last;
	uint8_t level, tree;
	uint8_t shift; /* its size is 1 << shift */
	uint8_t id;    /* of a leaf that identifies: which of salvage.ids, from 1 */
	bool at_addr : 1, at_copy : 1;
	bool referenced : 1; /* a valid node names it */
	bool complete : 1;   /* everything below it is there */
	bool walked : 1;
	bool ours : 1;	  /* leads to an item that says which filesystem it is of: this one */
	bool foreign : 1; /* another one, that was on the device before */
};

/* What the upper layer says in an item; in more than one way if filesystems were made one over the other. */
struct salvage_id {
	struct super super;
	uint64_t gen; /* of the newest leaf that says so */
};
#define SALVAGE_IDS 16u

/* A segment of the log that verified. */
struct salvage_segment {
	uint64_t start, place; /* the region it belongs to, and where it stands in there */
	uint64_t epoch, seq, lsn;
	uint32_t blocks, records;
	uint64_t gen_last; /* of its records, which are in order of generations; 0: none */
};

/* Keys that are accounted for. Disjoint, and not even touching. */
struct salvage_covered {
	RB_ENTRY(salvage_covered) entry;
	struct key low, high;
};
RB_HEAD(salvage_cover, salvage_covered);

/* Keys low <= key < high are to be taken from a leaf, or lost. */
struct salvage_piece {
	struct key low, high;
	size_t leaf; /* SALVAGE_NONE: lost */
	int err;
};

struct salvage {
	struct bdev *bdev;
	struct salvage_options opt;

	struct super slot[2];
	bool slot_valid[2];
	bool super_found;
	struct super super; /* to go on from */

	uint32_t node_size;	    /* 0: not known yet */
	struct salvage_node *nodes; /* by address, then generation */
	size_t n_nodes, cap_nodes;
	uint64_t leaves;
	uint8_t *scratch; /* NODE_SIZE_MAX */

	struct salvage_id ids[SALVAGE_IDS];
	unsigned n_ids;
	const struct super *id; /* the one that counts; NULL: none */

	struct salvage_segment *segs;
	size_t n_segs, cap_segs;
	uint64_t seg_budget; /* blocks still to be read for headers that look like segments */

	uint64_t gen_max, ino_max;
	uint64_t used_first, used_end; /* of all that may be in use behind the log's start: the first block, the end */

	size_t base, wide; /* nodes; see salvage_plan.c */
	bool log_reaches;
	uint8_t *path; /* a node for each level */
	struct salvage_cover cover;
	struct salvage_piece *pieces; /* by key */
	size_t n_pieces, cap_pieces;
	struct salvage_piece *missing;
	size_t n_missing, cap_missing;
	uint64_t n_older; /* pieces neither from the base nor from `wide` */
};

/* salvage_scan.c */
int salvage_read_device(struct salvage *);
/* Whether these bytes are this node. Quiet. */
bool salvage_same(const struct salvage_node *, const void *buf);
/* From whichever place. */
int salvage_read(struct salvage *, const struct salvage_node *, void *buf);

/* salvage_plan.c */
int salvage_link(struct salvage *); /* who refers to whom */
size_t salvage_find(const struct salvage *, struct ref, unsigned tree, unsigned level);
/* The newest of the highest file trees, whole ones first; SALVAGE_NONE: there is none. */
size_t salvage_newest_root(const struct salvage *, uint64_t gen_max);
int salvage_plan(struct salvage *);
void salvage_plan_release(struct salvage *);

/* salvage_super.c */
int salvage_read_slots(struct salvage *);
/* A block of the device that begins like a segment. */
int salvage_note_segment(struct salvage *, uint64_t addr, const void *block);
/* Chooses the slot or makes a superblock, and with it the base. */
int salvage_make_super(struct salvage *);

#endif

/*
 * batch_format.h - a log record: one batch of the live view
 *
 *	header | change, change ... | fresh range ... | taken range ... | counter ...
 *
 * Records are logical: replay applies the changes to the tree again and derives the rest (which extents are released,
 * shared counts, dead lists). A record that would not fit the log has its changes in blocks of their own and a list of
 * disk_body where they would stand.
 */
#ifndef ARBOR_WAL_BATCH_FORMAT_H
#define ARBOR_WAL_BATCH_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

#define BATCH_OUTSIDE 1u /* flags: the body stands in blocks of its own */

/*	OFFSET	SIZE	MEANING
 *	0	8	generation it was made in: the birth of its fresh extents
 *	8	4	flags
 *	12	4	number of changes
 *	16	4	number of fresh ranges
 *	20	4	number of taken ranges
 *	24	4	number of counters
 *	28	4	number of disk_body that follow instead of the changes (with BATCH_OUTSIDE), else 0
 *	32	8	bytes of the changes
 *	40	8	XXH3-64 of the changes (with BATCH_OUTSIDE), else 0
 */
struct disk_batch {
	le64 gen;
	le32 flags;
	le32 changes;
	le32 fresh;
	le32 taken;
	le32 counters;
	le32 bodies;
	le64 change_bytes;
	le64 change_sum;
};
static_assert(sizeof(struct disk_batch) == 48, "disk_batch");

#define BATCH_PUT 1u /* op of a change; enum change_op has the same numbers */
#define BATCH_DEL 2u
#define BATCH_DEL_RANGE 3u

/* A change. For a put the value's bytes follow; for a range the key where it ends. No padding. */
struct disk_change {
	uint8_t op;
	uint8_t zero;
	le16 len;
	le64 obj;
	le64 off;
};
static_assert(sizeof(struct disk_change) == 20, "disk_change");

struct disk_key {
	le64 obj;
	le64 off;
};
static_assert(sizeof(struct disk_key) == 16, "disk_key");

/* Fresh: blocks that became reachable by this batch; the values that refer to them were born with it. Taken: blocks that
 * live had released, which a snapshot holds, and which this batch refers to again. */
struct disk_range {
	le64 addr;
	le32 blocks;
	le32 zero;
};
static_assert(sizeof(struct disk_range) == 16, "disk_range");

struct disk_counter {
	le32 counter;
	le32 zero;
	le64 value;
};
static_assert(sizeof(struct disk_counter) == 16, "disk_counter");

struct disk_body {
	le64 addr;
	le32 blocks;
	le32 zero;
};
static_assert(sizeof(struct disk_body) == 16, "disk_body");

#endif

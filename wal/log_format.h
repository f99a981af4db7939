/*
 * log_format.h - the log on disk
 *
 * A ring of BLOCK_SIZE blocks in a fixed region of the device. A segment is one contiguous run of blocks, written once
 * and covered by one flush: header, records, check list, riding table, zeros up to a block, riding blocks. Segments
 * follow one another; one that would not fit before the region's end starts at the region's first block instead.
 */
#ifndef ARBOR_WAL_LOG_FORMAT_H
#define ARBOR_WAL_LOG_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

#define LOG_SEGMENT_MAGIC 0x67655361u /* "aSeg" */

/*	OFFSET	SIZE	MEANING
 *	0	8	XXH3-64 of the whole segment behind this field, riding blocks included, seeded with the epoch
 *	8	4	LOG_SEGMENT_MAGIC
 *	12	4	blocks: length of the segment
 *	16	8	epoch: random, from the superblock
 *	24	8	sequence: one more than the segment before
 *	32	8	lsn of the first record (of the next one, where there is none)
 *	40	8	durable lsn: everything below it was on stable storage when this segment was written
 *	48	4	number of records
 *	52	4	bytes of records
 *	56	4	entries of the check list
 *	60	4	riding blocks
 *	64	8	block of the log region this segment was written at (misdirected writes do not verify)
 *	72	24	zero
 */
struct disk_segment {
	le64 sum;
	le32 magic;
	le32 blocks;
	le64 epoch;
	le64 seq;
	le64 lsn;
	le64 durable_lsn;
	le32 records;
	le32 record_bytes;
	le32 checks;
	le32 riding;
	le64 place;
	uint8_t zero[24];
};
static_assert(sizeof(struct disk_segment) == 96, "disk_segment");

/* In front of each record; the record's bytes follow, then zeros up to a multiple of 8. */
struct disk_record_frame {
	le32 len; /* of the record, without frame and padding; > 0 */
	le32 zero;
};
static_assert(sizeof(struct disk_record_frame) == 8, "disk_record_frame");

/* Check list: a data block that this segment's state needs and that no completed flush had covered. */
struct disk_check {
	le64 addr;
	le32 sum; /* low 32 bits of XXH3-64 of the block */
};
static_assert(sizeof(struct disk_check) == 12, "disk_check");

/* Riding table: where the riding blocks, in the same order, belong. */
struct disk_riding {
	le64 addr;
};
static_assert(sizeof(struct disk_riding) == 8, "disk_riding");

#endif

/*
 * kv_records.h - the item types of tests of the store
 *
 * The store does not know what items mean; these rows are what the tests give it. KVT_EXTENT values name data whose content
 * follows from a tag and the block's number under that tag, so whoever reads a value can verify every byte it leads to.
 * Tags are never used twice, so equal contents mean the same write.
 *
 * Two values are *the same* to a test when they differ only in where the blocks lie and when they were born; that is
 * the store's business. kv_canonical removes both.
 */
#ifndef ARBOR_TESTS_KIT_KV_RECORDS_H
#define ARBOR_TESTS_KIT_KV_RECORDS_H

#include "btree/endian.h"
#include "btree/record.h"

enum kv_type {
	KVT_BYTES = 1,  /* anything */
	KVT_EXTENT = 2, /* struct kv_extent_val */
	KVT_LINK = 3,   /* 1..255 bytes without NUL */
};

/*	OFFSET	SIZE	MEANING
 *	0	8	address; 0: a claim (tag and sums are zero)
 *	8	8	birth
 *	16	4	blocks: 1..256
 *	20	4	number of the first block under its tag (a clone of a part begins further on)
 *	24	8	tag
 *	32	4 * n	checksum of each block
 */
struct kv_extent_val {
	le64 addr;
	le64 birth;
	le32 blocks;
	le32 first;
	le64 tag;
	le32 sums[];
};

#define KV_EXTENT_BLOCKS_MAX 224u /* what fits an item of a 4 KiB node */
#define KV_VALUE_MAX (sizeof(struct kv_extent_val) + 256 * sizeof(le32))

extern const struct record_table kv_records;

/* The content of one block. */
void kv_fill(void *block, uint64_t tag, uint32_t index);

/* Builds values; each returns the length. `data`, where not NULL, receives the blocks' content. */
size_t kv_extent_make(void *val, uint64_t addr, uint32_t blocks, uint64_t tag, uint32_t first, void *data);
size_t kv_claim_make(void *val, uint32_t blocks);
/* A part of another value's extent: its blocks from .. from + blocks - 1. Of a claim: a smaller claim. */
size_t kv_extent_part(const void *val, uint32_t from, uint32_t blocks, void *ret);

uint32_t kv_extent_blocks(const void *val);
bool kv_extent_is_claim(const void *val);
uint64_t kv_extent_tag(const void *val); /* 0: a claim */

/* Sets to zero what only the store decides. */
void kv_canonical(struct key, void *val, size_t len);

/* Whether blocks read for a value are what its tag says; *ret_bad is the first that is not. */
bool kv_data_right(const void *val, const void *data, uint32_t *ret_bad);

#endif

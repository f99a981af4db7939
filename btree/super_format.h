/*
 * super_format.h - the superblock on disk
 *
 * Two slots, at blocks SUPER_SLOT0 and SUPER_SLOT1 (64 KiB apart), written in turn. The valid one with the higher serial
 * is the newest checkpoint; the other, together with the log from its position, is a whole filesystem too.
 */
#ifndef ARBOR_BTREE_SUPER_FORMAT_H
#define ARBOR_BTREE_SUPER_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

#define SUPER_SLOT0 0u
#define SUPER_SLOT1 16u
#define SUPER_MAGIC "ArborFS1" /* 8 bytes, no NUL */
#define SUPER_VERSION 1u
#define SUPER_LABEL_MAX 64u /* bytes, NUL-padded */
#define SUPER_COUNTERS 8u
#define SUPER_LOG_BLOCKS_MIN 64u

/* Feature bits. A bit we do not know: compat, ignore; ro-compat, read-only; incompat, refuse. Numbers are for ever. */
#define SUPER_INCOMPAT_COPIES (1u << 0) /* every node has a second copy */

#define SUPER_COMPAT_KNOWN 0u
#define SUPER_RO_COMPAT_KNOWN 0u
#define SUPER_INCOMPAT_KNOWN SUPER_INCOMPAT_COPIES

#define SUPER_CLEAN 1u /* flags: nothing was logged after this checkpoint */

/*	OFFSET	SIZE	MEANING
 *	0	8	address of the node
 *	8	8	address of its second copy, or 0
 *	16	8	generation
 *	24	4	levels: 0 for an empty tree (the rest is then zero)
 *	28	4	zero
 */
struct disk_root {
	le64 addr;
	le64 copy;
	le64 gen;
	le32 levels;
	le32 zero;
};
static_assert(sizeof(struct disk_root) == 32, "disk_root");

/*	OFFSET	SIZE	MEANING
 *	0	8	XXH3-64 of the block behind this field
 *	8	8	magic
 *	16	4	version of the format
 *	20	4	size of a node in bytes
 *	24	8	serial: one more with each superblock written
 *	32	16	uuid
 *	48	64	label
 *	112	8	compat feature bits
 *	120	8	ro-compat feature bits
 *	128	8	incompat feature bits
 *	136	8	blocks of the filesystem
 *	144	8	first block of the log region
 *	152	8	blocks of the log region
 *	160	8	mount epoch
 *	168	8	log epoch
 *	176	8	generation that was frozen
 *	184	4	flags
 *	188	4	slot this copy was written to: 0 or 1
 *	192	32	root of the file tree
 *	224	32	root of the system tree
 *	256	32	root of the space map: a disk_space_entry
 *	288	8	log position: block in the region
 *	296	8	log position: sequence
 *	304	8	log position: lsn
 *	312	8	blocks claimed, not chosen yet
 *	320	8	largest batch in the log, in bytes
 *	328	64	counters of the upper layer, which only grow
 *	392	16	secret for keyed hashes
 *	408	8	time of mkfs, ns since 1970
 *	416	8	time of this write, ns since 1970
 *	424	3672	zero
 */
struct disk_super {
	le64 sum;
	uint8_t magic[8];
	le32 version;
	le32 node_size;
	le64 serial;
	uint8_t uuid[16];
	uint8_t label[SUPER_LABEL_MAX];
	le64 compat;
	le64 ro_compat;
	le64 incompat;
	le64 blocks;
	le64 log_start;
	le64 log_blocks;
	le64 mount_epoch;
	le64 log_epoch;
	le64 gen;
	le32 flags;
	le32 slot;
	struct disk_root files;
	struct disk_root system;
	uint8_t space[32]; /* struct disk_space_entry */
	le64 log_block;
	le64 log_seq;
	le64 log_lsn;
	le64 claims;
	le64 batch_max;
	le64 counter[SUPER_COUNTERS];
	uint8_t secret[16];
	le64 created;
	le64 written;
	uint8_t zero[3672];
};
static_assert(sizeof(struct disk_super) == 4096, "disk_super");

#endif

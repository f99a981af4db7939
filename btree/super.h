/*
 * super.h - reading and writing the superblock slots
 *
 * super_read verifies every field of a slot; super_load picks the newest valid one and says loudly when the other is
 * damaged. Which slot is written when is the checkpoint's business. Threads: one.
 */
#ifndef ARBOR_BTREE_SUPER_H
#define ARBOR_BTREE_SUPER_H

#include "btree/dev/bdev.h"
#include "btree/space.h"
#include "btree/super_format.h"
#include "btree/types.h"

/* A superblock in memory. Plain value. */
struct super {
	uint32_t node_size;
	uint64_t serial;
	uint8_t uuid[16];
	char label[SUPER_LABEL_MAX + 1];
	uint64_t compat, ro_compat, incompat;
	uint64_t blocks, log_start, log_blocks;
	uint64_t mount_epoch, log_epoch;
	uint64_t gen;
	uint32_t flags;
	struct root files, system;
	struct space_root space;
	uint64_t log_block, log_seq, log_lsn;
	uint64_t claims, batch_max;
	uint64_t counter[SUPER_COUNTERS];
	uint8_t secret[16];
	uint64_t created, written;
};

/* Decodes and verifies one slot's block. -ENODEV: no superblock of ours (quiet); -EBADMSG, -EUCLEAN: damaged (reported);
 * -EPROTONOSUPPORT: a version or incompatible feature we do not know (reported). */
int super_decode(const void *block, unsigned slot, struct super *ret);
void super_encode(const struct super *, unsigned slot, void *block);

/*
 * The newest valid slot. *ret_slot is its number, *ret_other_ok whether the other one is valid too (else a warning has
 * been given). -ENODEV: neither is ours. Also checks that the filesystem fits the device: -ENXIO (reported).
 */
int super_load(struct bdev *, struct super *ret, unsigned *ret_slot, bool *ret_other_ok);

/* Writes a slot; no flush. Fills in sum and slot. */
int super_write(struct bdev *, unsigned slot, const struct super *);

#endif

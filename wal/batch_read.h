/*
 * batch_read.h - taking a log record apart
 *
 * Every length and count is checked against the bytes there are; a record that does not add up is -EUCLEAN. Values are not
 * looked into. Threads: any; nothing is kept.
 */
#ifndef ARBOR_WAL_BATCH_READ_H
#define ARBOR_WAL_BATCH_READ_H

#include "btree/tree.h"
#include "wal/batch_format.h"

struct batch_record {
	uint64_t gen;
	bool outside; /* the changes stand in the blocks `bodies` names; else `changes` points to them */
	uint32_t n_changes, n_fresh, n_taken, n_counters, n_bodies;
	const void *changes;
	size_t change_bytes;
	uint64_t change_sum;
	const struct disk_body *bodies;
	const struct disk_range *fresh, *taken;
	const struct disk_counter *counters;
};

/* Points into rec. */
int batch_record_read(const void *rec, size_t len, struct batch_record *ret);

/* Calls each for every change in its order; values point into `changes`. Its non-zero result ends it. */
int batch_changes_read(const void *changes, size_t bytes, uint32_t n, int (*each)(void *arg, const struct change *),
		       void *arg);

#endif

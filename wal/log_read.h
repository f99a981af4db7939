/*
 * log_read.h - reading the log back: where it ends, and what it says
 *
 * The end is where the next segment of this epoch and sequence is missing or does not verify, and nothing says that it
 * had become durable. The last segment, not known durable, counts only if every block in its check list verifies. A
 * read error, the header of a later segment of this epoch anywhere in the region (the writer flushes each segment
 * before it writes the next, so the missing one was durable), or a segment that verifies and cannot be, is damage:
 * -EUCLEAN with a message that says where, and nothing is dropped silently.
 *
 * Memory: one segment at a time (or 1 MiB), and 40 bytes for each segment found. Threads: one.
 */
#ifndef ARBOR_WAL_LOG_READ_H
#define ARBOR_WAL_LOG_READ_H

#include "wal/log.h"

struct log_scan;

struct log_scan_options {
	struct bdev *bdev;
	uint64_t start, blocks;
	uint64_t epoch;
	struct log_pos pos; /* of the checkpoint; its lsn may lie inside the segment there */
	bool ignore_damage; /* fsck: treat damage as the end (reported all the same) */
};

/* Finds the end. Reads the whole region once at most, and the blocks of one segment's check list. */
int log_scan_open(const struct log_scan_options *, struct log_scan **ret);
void log_scan_close(struct log_scan *); /* accepts NULL */

struct log_scan_result {
	struct log_pos end;	/* where the next segment would go */
	uint64_t segments, records, blocks;
	bool damaged;		/* only with ignore_damage */
};
void log_scan_result(const struct log_scan *, struct log_scan_result *ret);

/*
 * Calls `record` for each record from the position's lsn on, in order, and, where not NULL, `riding` for the riding
 * blocks of each segment before that segment's records. `segment` is the position of the segment that holds the
 * record: a scan may start there as well. Memory is valid during the call. A callback's non-zero result ends it and
 * is returned. May be called repeatedly.
 */
typedef int (*log_record_fn)(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len);
typedef int (*log_riding_fn)(void *arg, uint64_t addr, const void *block);
int log_scan_each(struct log_scan *, log_record_fn record, log_riding_fn riding, void *arg);

/* Checks one segment in memory (`len` bytes, as read): all fields and the checksum. For scan and fuzzing. */
int log_segment_check(const void *seg, size_t len, uint64_t epoch, uint64_t place);

#endif

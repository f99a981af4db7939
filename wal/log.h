/*
 * log.h - the write-ahead log: appending, group commit, trimming
 *
 * Records are opaque bytes, numbered by lsn: 1, 2, 3 ... One record is one atomic step; recovery replays a prefix of
 * them. Appending copies the record into the open segment in memory. Sealing closes the open segment and fixes what
 * it carries: its records, the riding blocks, its check list. Sealed segments are written one at a time, each with
 * one write and one flush (data_flush, so the data it lists becomes durable by the same flush); so at most the last
 * segment of a log is not known to be durable, and a hole followed by any later segment is damage, not an end.
 *
 *	admit --> append --> (open segment) --seal--> (queue) --write, flush--> durable --trim--> room again
 *
 * Group commit: who waits in log_sync and finds no writer at work becomes the writer: it seals, writes, flushes, wakes
 * the others. What was appended meanwhile goes with the next segment.
 *
 * Room: log_admit reserves for the record, the blocks of data it comes with, and rounding, before anything is
 * changed; it never waits: -EAGAIN says that a checkpoint must trim the log first.
 *
 * Failure: the first failed data write, segment write or flush is sticky; every later admit and sync returns -EROFS or
 * -EIO (contract G), and `failed` is called once.
 *
 * Threads: any; own mutex. Lock order: a view's tree lock, log, data.
 */
#ifndef ARBOR_WAL_LOG_H
#define ARBOR_WAL_LOG_H

#include "btree/dev/bdev.h"
#include "wal/data.h"
#include "wal/log_format.h"

struct log;

/* Where a segment starts, and what it begins with. As stored in the superblock. */
struct log_pos {
	uint64_t block; /* in the region: 0 .. blocks - 1 */
	uint64_t seq;
	uint64_t lsn;
};

struct log_options {
	struct bdev *bdev;
	struct data *data;
	uint64_t start;	 /* first block of the region */
	uint64_t blocks; /* >= LOG_BLOCKS_MIN */
	uint64_t epoch;
	struct log_pos pos; /* where the first segment goes; nothing of the ring is occupied */
	unsigned ride_max;  /* blocks that may ride in one segment; 0: LOG_RIDE_MAX; UINT_MAX: none */
	void (*failed)(void *arg, int err); /* may be called with the log's lock held */
	void *arg;
};

#define LOG_BLOCKS_MIN 64u
#define LOG_RIDE_MAX 32u

/* What an operation asks for before it begins; given back by log_append or log_unadmit. */
struct log_segment;
struct log_room {
	uint64_t blocks;
	size_t record_bytes, data_blocks;
	struct log_segment *spare; /* the log's own: memory for a segment, should one have to be opened */
};

int log_open(const struct log_options *, struct log **ret);
void log_close(struct log *); /* writes nothing; accepts NULL */

/* The longest record log_admit takes: about a quarter of the log. A longer one must be stored elsewhere (batch.c). */
size_t log_record_max(const struct log *);

/*
 * data_blocks: blocks of the runs that will be attached with the record. 0: room is reserved. -EAGAIN: the log is full
 * until it is trimmed. -EROFS: failed before. -E2BIG: will never fit. -ENOMEM.
 */
int log_admit(struct log *, size_t record_bytes, size_t data_blocks, struct log_room *ret);
void log_unadmit(struct log *, struct log_room *);

/*
 * Appends a record no longer than admitted and attaches its n data runs. Never fails. Returns its lsn. The caller
 * holds the lock that orders records (the live tree's).
 */
uint64_t log_append(struct log *, struct log_room *, const void *record, size_t len, struct data_run **runs, size_t n);

/* Waits until every record with a number <= lsn is durable; does the work itself if no one else does. */
int log_sync(struct log *, uint64_t lsn);

/*
 * The timer's work: writes what is appended as log_sync does but lets data go home instead of riding; when everything
 * is written and the last segment is not yet known to be durable, appends one empty segment that says so.
 */
int log_tick(struct log *);

/* For freezing: seals the open segment and says where the next one will start. Caller holds the lock of log_append. */
struct log_pos log_boundary(struct log *);

/* Everything before `pos` is no longer needed (it is the position of a durable checkpoint, the older of the two). */
void log_trim(struct log *, struct log_pos pos);

/* Fails everything from now on (a checkpoint could not write). The first error wins. */
void log_kill(struct log *, int err);

struct log_status {
	uint64_t lsn_next;    /* number the next record gets */
	uint64_t lsn_durable; /* all below this is durable */
	uint64_t blocks, blocks_used, blocks_reserved;
	uint64_t blocks_queued; /* sealed and not written yet: memory */
	uint64_t blocks_since; /* used since the last log_boundary: what the next checkpoint would cover */
	uint64_t segments, records, syncs, bytes_written;
	int err; /* 0, or why it failed */
};
void log_status(struct log *, struct log_status *ret);

#endif

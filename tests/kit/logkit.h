/*
 * logkit.h - a log and its data on a simulated disk, and records that say what they stand for
 *
 * The content of a data block follows from its address, which is written once. A record tells its own lsn, the runs it
 * made reachable and those it dropped, and has padding that follows from its lsn; so what must be readable after any
 * prefix of the records follows from the records.
 *
 * The log's region begins at LOGKIT_START; data may be anywhere behind it.
 */
#ifndef ARBOR_TESTS_KIT_LOGKIT_H
#define ARBOR_TESTS_KIT_LOGKIT_H

#include "tests/kit/simdev.h"
#include "wal/log.h"
#include "wal/log_read.h"

#define LOGKIT_START 8u
#define LOGKIT_EPOCH UINT64_C(0x1122334455667788)

struct logkit {
	struct simdev *sd;
	struct bdev *dev;
	struct data *data;
	struct log *log;
	uint64_t blocks;
	int failed_data, failed_log; /* how often the owner was told */
	int err;		     /* the first he was told of */
};

/* Opens on sd, which stays the caller's. ride_max as in log_options. */
void logkit_open(struct logkit *, struct simdev *sd, uint64_t log_blocks, unsigned ride_max, size_t memory_max);
void logkit_close(struct logkit *);

/* What the block at `addr` holds. */
void logkit_fill(uint64_t addr, void *block);
bool logkit_filled(uint64_t addr, const void *block);

/* Puts a run with that content. */
struct data_run *logkit_put(struct logkit *, uint64_t addr, uint32_t blocks);
int logkit_try_put(struct logkit *, uint64_t addr, uint32_t blocks, struct data_run **ret);

struct logkit_part {
	uint64_t addr;
	uint32_t blocks;
	bool drop;
};
#define LOGKIT_PARTS 16u

/* One operation: what it puts (not yet put) and drops, how long its record is to be at least. */
struct logkit_op {
	struct logkit_part parts[LOGKIT_PARTS];
	unsigned n;
	size_t bytes;
};

/* Admits, puts, appends, drops. 0 or log_admit's error. */
int logkit_apply(struct logkit *, const struct logkit_op *, uint64_t *ret_lsn);

/* The record of an op; returns its length. buf has room for LOGKIT_RECORD_MAX. NULL: the length alone. */
#define LOGKIT_RECORD_MAX (1u << 20)
size_t logkit_record(const struct logkit_op *, uint64_t lsn, void *buf);
/* Back again; fails the test where the record is not what logkit_record made for that lsn. */
void logkit_parse(uint64_t lsn, const void *rec, size_t len, struct logkit_op *ret);

/* Admits and appends a record of so many bytes without data. Fails the test where there is no room. */
uint64_t logkit_append(struct logkit *, size_t bytes);

/* Swallows messages to stderr until the end; how many there were so far. */
void logkit_quiet(void);
unsigned logkit_messages(void);

/* A scan of the disk's log from pos. */
int logkit_scan(struct simdev *, uint64_t log_blocks, struct log_pos pos, struct log_scan **ret);

#define LOGKIT_POS ((struct log_pos){ .block = 0, .seq = 1, .lsn = 1 })

#endif

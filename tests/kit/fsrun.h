/*
 * fsrun.h - a filesystem and its model side by side
 *
 * fsrun_step carries one operation out on both and compares what they say. fsrun_compare reads the whole tree and compares
 * that. What has been applied since the last sync is kept (log), with a copy of the model at that sync (base): after a
 * crash, fsrun_recovered looks for the prefix of the log that gives what is found.
 *
 * Every failure is -EPROTO with a text in `broken`; fsrun_print shows it with the last operations.
 */
#ifndef ARBOR_TESTS_KIT_FSRUN_H
#define ARBOR_TESTS_KIT_FSRUN_H

#include "tests/kit/fsops.h"

#define FSRUN_LAST 16u

struct fsrun_done {
	struct fsop op;
	uint64_t n, ino;
	struct timespec now;
};

struct fsrun {
	struct fs_driver *driver;
	struct fsm *model;
	struct fsm *base; /* the model at the last sync; NULL: no history is kept */
	struct fsrun_done *log;
	size_t n_log, cap_log;
	bool full_ok; /* the device may be full */
	/* Where faults are made: whether an operation may fail so although nothing is wrong with it; then nothing has happened.
	 * op is NULL for what is none (snapshots). NULL: never. */
	bool (*excuse)(void *arg, const struct fsop *op, int err);
	void *excuse_arg;
	/* The clock: told before each operation. NULL: times are not compared. */
	void (*set_now)(struct timespec);
	struct timespec now;

	struct fsop_answer answer;
	struct fsop last[FSRUN_LAST];
	uint64_t n_ops, refused, failed; /* failed: with an error that is right */
	uint64_t failed_at;		 /* of refused: number of the last */
	char broken[600];
};

/* history: keep what fsrun_recovered needs. The driver's root must be an empty directory. */
int fsrun_init(struct fsrun *, struct fs_driver *, void (*set_now)(struct timespec), bool history);
void fsrun_release(struct fsrun *);

int fsrun_step(struct fsrun *, const struct fsop *);
bool fsrun_changes(enum fsop_kind); /* whether it is one that changes something when it succeeds */

/* Whole trees. */
int fsrun_compare(struct fsrun *);

/* Handles are gone, and with them files without a name: after an unmount. */
void fsrun_closed(struct fsrun *);
/* After a crash, with the driver's handles gone: the model becomes what is found, which must be the state after a prefix
 * of the log. *ret_lost: operations behind it. */
int fsrun_recovered(struct fsrun *, size_t *ret_lost);
/* What is there now is durable. */
void fsrun_durable(struct fsrun *);

void fsrun_print(const struct fsrun *, FILE *);

#endif

/*
 * scrub.h - reads and verifies everything a mounted filesystem stores, while it is in use
 *
 * Superblocks and the space map first, then nodes (both copies of each; a bad one is mended from the other) with the data of
 * the files whose items they hold, snapshots before live, in order of inode numbers, at a bounded rate. Data that does not
 * verify is told by path and never changed. One scrub at a time runs in a thread of its own. Where it is stands in the
 * filesystem's own memory, and can be asked for; stopped, it can go on from there later; after a remount, from an inode
 * number that the caller has kept.
 *
 * Threads: any.
 */
#ifndef ARBOR_FS_SCRUB_H
#define ARBOR_FS_SCRUB_H

#include "fs/fs.h"

struct scrub;

struct scrub_options {
	uint64_t rate;	   /* bytes a second; 0: as fast as it goes */
	uint64_t from_ino; /* begin with this inode of live (0: from the beginning) */
	bool resume;	   /* go on where the last one stopped, and keep what it had found */
};

/* Less would not end within a lifetime. */
#define SCRUB_RATE_MIN (UINT64_C(4) << 10)
#define SCRUB_RATE_DEFAULT                                                                                             \
	(UINT64_C(64) << 20) /* what the tool asks for: a quarter of a slow disk, nothing of a fast one */
#define SCRUB_BAD_MAX 1000u  /* lines kept */

enum scrub_state { SCRUB_NONE, SCRUB_RUNNING, SCRUB_STOPPED, SCRUB_DONE, SCRUB_FAILED };

struct scrub_status {
	enum scrub_state state;
	uint64_t started_ns, ended_ns; /* since 1970 */
	uint64_t rate;
	uint64_t nodes, blocks,
		pages; /* verified: nodes (both copies of each), blocks of data, superblocks and pages of the map */
	uint64_t bytes, bytes_total;	  /* read; bytes_total: an estimate */
	uint64_t nodes_bad, nodes_mended; /* a copy did not verify; was written anew */
	uint64_t nodes_lost;		  /* no copy does */
	uint64_t pages_bad, pages_mended;
	uint64_t blocks_bad;
	uint64_t next_ino; /* where it would go on */
	int err;	   /* why it failed; 0 or negative */
};

int scrub_start(struct fs *,
		const struct scrub_options *); /* -EBUSY: one is running. no_threads: returns when it is done */
int scrub_stop(struct fs *);		       /* waits until it has stopped; 0 also where none runs */
void scrub_status(struct fs *, struct scrub_status *ret);
/* What the newest scrub found and could not mend, by path, oldest first: one line each ("PATH: bytes ..."). Ended by a non-zero
 * result, which is returned. Paths are searched for at the end of each view. */
int scrub_bad(struct fs *, int (*each)(void *arg, const char *line), void *arg);
const char *scrub_state_name(enum scrub_state);

/* For mounting and unmounting. Closing stops one that runs. */
int scrub_open(struct fs *);
void scrub_close(struct fs *); /* accepts one that was never opened */

#endif

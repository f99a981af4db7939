/*
 * scrub.h - reads and verifies everything a mounted filesystem stores, while it is in use
 *
 * Nodes (both copies of each; a bad one is mended from the other), then the data of all files, of live and of snapshots, at a
 * bounded rate. One scrub at a time runs in a thread of its own. Where it is stands in the filesystem's own memory, and can be
 * asked for; stopped, it can go on from there later, also after a remount (the caller keeps the position).
 */
#ifndef ARBOR_FS_SCRUB_H
#define ARBOR_FS_SCRUB_H

#include "fs/fs.h"

struct scrub_options {
	uint64_t rate;	   /* bytes a second; 0: as fast as it goes */
	uint64_t from_ino; /* go on with this inode's data (0: from the beginning, nodes first) */
};

enum scrub_state { SCRUB_NONE, SCRUB_RUNNING, SCRUB_STOPPED, SCRUB_DONE, SCRUB_FAILED };

struct scrub_status {
	enum scrub_state state;
	uint64_t started_ns, ended_ns;	    /* since 1970 */
	uint64_t nodes, blocks;		    /* read and verified */
	uint64_t bytes, bytes_total;	    /* bytes_total: an estimate */
	uint64_t nodes_bad, nodes_mended;   /* a copy did not verify; was written anew */
	uint64_t blocks_bad;
	uint64_t next_ino; /* where it would go on */
	int err;
};

int scrub_start(struct fs *, const struct scrub_options *); /* -EBUSY: one is running */
int scrub_stop(struct fs *);	/* waits until it has stopped; 0 also where none runs */
void scrub_status(struct fs *, struct scrub_status *ret);
/* Bad blocks found by the newest scrub, by path, oldest first, at most 1000 kept: one line each ("PATH: block N ..."). */
int scrub_bad(struct fs *, int (*each)(void *arg, const char *line), void *arg);

#endif

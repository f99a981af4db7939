/*
 * fsworld.h - a filesystem and its model side by side, with every state a crash may lead to
 *
 * A *world* is what can be found after a crash: the tree below the root as a model (fsmodel.h), and the snapshots, each by a
 * digest of its items (which hold the checksums of its data, so a digest says all). Each step that changes something makes
 * one; steps that fail make none. The *marks* say, against the disk's operation numbers, which of the worlds a crash may
 * lead to: none older than what was durable, none newer than the step that was under way.
 */
#ifndef ARBOR_TESTS_KIT_FSWORLD_H
#define ARBOR_TESTS_KIT_FSWORLD_H

#include "fs/fs.h"
#include "tests/kit/fsrun.h"
#include "tests/kit/simdev.h"

#define FSWORLD_SNAPS 8u

struct fsworld {
	struct fsm *m; /* nothing is open */
	uint64_t digest;
	unsigned n_snaps;
	uint64_t snap[FSWORLD_SNAPS]; /* one digest each, of name and items */
};

enum fsworld_action {
	FSWORLD_OP, /* what op says */
	FSWORLD_REMOUNT,
	FSWORLD_SNAP,	     /* creates the next snapshot */
	FSWORLD_SNAP_DELETE, /* deletes the first there is */
};

struct fsworld_step {
	enum fsworld_action action;
	struct fsop op;
};

struct fsworld_mark {
	uint64_t ops;
	size_t lo, hi;
};

struct fsworlds {
	struct simdev *disk;
	struct fs *fs; /* NULL: not mounted */
	struct fs_options opt;
	struct fsdrive_direct drive;
	struct fsrun run;
	struct fsworld *worlds;
	size_t n, cap, durable;
	struct fsworld_mark *marks;
	size_t n_marks, cap_marks;
	unsigned mounts;
	uint64_t seed;
	unsigned n_snaps;
	char snap_name[FSWORLD_SNAPS][8];
	uint64_t snap[FSWORLD_SNAPS];
	/* An operation on snapshots failed, as run.excuse allows: it may have gone half of its way, and nothing is known of
	 * snapshots any more. There are no more of those. */
	bool in_doubt;
	char broken[700];
};

/* Mounts what is on the disk. -EPROTO: no; `broken` says why. start: what the disk holds; NULL: find out, which is only
 * possible where there are no names yet. */
int fsworlds_begin(struct fsworlds *, struct simdev *disk, const struct fs_options *, const struct fsworld *start,
		   bool full_ok, uint64_t seed);
/* 0: done. 1: it had nothing to do, or was refused rightly; nothing has changed. -EPROTO: a promise was broken. */
int fsworlds_step(struct fsworlds *, const struct fsworld_step *);
/* For who unmounts by himself. 0 or the error of fs_mount, with a text in `broken`. */
int fsworlds_mount(struct fsworlds *);
/* Ends the use of the disk as a kill does. */
void fsworlds_kill(struct fsworlds *);
void fsworlds_release(struct fsworlds *);

/* Which worlds a crash right before disk operation `ops` may lead to. */
void fsworlds_allowed(const struct fsworlds *, uint64_t ops, size_t *ret_lo, size_t *ret_hi);

/* Everything that a mounted filesystem holds. 0 or -EPROTO, with why in `why`. */
int fsworld_read(struct fs *, struct fsworld *ret, char *why, size_t cap);
void fsworld_copy(struct fsworld *to, const struct fsworld *from);
void fsworld_release(struct fsworld *);
/* fs_check with all data; reports are printed. w (may be NULL): nothing is open, so there are no more inodes than there. */
int fsworld_check(struct fs *, const struct fsworld *w);

/* The time that operations see. */
void fsworld_now(void *arg, struct timespec *ret);

#endif

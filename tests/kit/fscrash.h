/*
 * fscrash.h - every way a run of file operations can end early, and what must be found afterwards
 *
 * What kv_crash.h does to the store, one floor up. A plan is carried out once on a simulated disk that remembers every write.
 * Then the disk is taken as it might be after a crash right behind each of these writes, with each write that no flush had
 * covered kept, dropped or torn; the filesystem is mounted on it, and its tree must be one of the worlds (fsworld.h) allowed
 * there, to the last byte and nanosecond; snapshots too. fs_check with all data must find nothing. Some of the states are
 * crashed again inside what mounting and checking write (recovery, deletion of files without a name, the checkpoint), and
 * again inside that, which must not change what is found; on some the work goes on for a while before the next crash.
 *
 * Batches that follow each other closely lie in one segment of the log, which no crash takes apart. So in some plans the log is
 * written behind every batch, in the middle of an operation too, as the commit timer may do it (sync_one_in). This takes the
 * place of op_commit: programs are linked with --wrap=op_commit.
 *
 * A state that differs from one tested before only by writes that did not happen is not tested again: the newest write is
 * never dropped.
 *
 * Every state can be tried alone: a *path* such as "c17:KKDT:99/r3:K:5" says at which disk operation of the plan, with what
 * choices and which seed, then the same inside the recovery. It is printed with every failure.
 */
#ifndef ARBOR_TESTS_KIT_FSCRASH_H
#define ARBOR_TESTS_KIT_FSCRASH_H

#include "tests/kit/fsworld.h"

#define FSCRASH_DEPTH 3u
#define FSCRASH_CHOICES 1024u /* writes without a flush between them */

struct fscrash_options {
	uint64_t per_point;	  /* states at one point at the most; more are sampled */
	uint64_t per_plan;	  /* about so many of a plan, its points by chance; 0: all */
	uint64_t per_point_again; /* of one point inside recovery */
	unsigned recovery_one_in; /* so many states are not crashed inside recovery for one that is; 0: none is */
	unsigned go_on_one_in;	  /* the same for going on */
};

/* A run to be crashed. */
struct fscrash_plan {
	const char *name; /* what reproduces it, for messages */
	const struct simdev_image *base;
	const struct fsworld *start; /* what base holds */
	struct fs_options opt;
	const struct fsworld_step *steps;
	size_t n_steps;
	const struct fsop_profile *profile; /* steps by chance besides */
	size_t n_chance;
	size_t first;	/* crash points: in steps[first] and later; with opening, before them too */
	size_t idle_of; /* the first so many steps: one that has nothing to do ends the plan, a shorter one is as good */
	bool opening;
	unsigned sync_one_in; /* the log is written behind every so many-th batch, by seed; 1: each, 0: when asked to */
	bool shuffle;	      /* transfers complete in any order */
	bool full_ok;	      /* -ENOSPC is no failure, where there may be any */
	uint64_t seed;
};

struct fscrash_level {
	char kind; /* c: in the plan; r: in what follows a crash; g: going on */
	uint64_t n, seed;
	char choice[FSCRASH_CHOICES + 1];
};

struct fscrash {
	struct fscrash_options opt;
	struct fscrash_level replay[FSCRASH_DEPTH]; /* only this state */
	unsigned n_replay;

	uint64_t plans, idle, points, states, recoveries, went_on, refused,
		older;				/* counted; older: not the newest world */
	struct fscrash_level at[FSCRASH_DEPTH]; /* where we are */
	unsigned depth;
};

/* 0: all well. 1: the plan has an idle step (nothing was tested). -EPROTO: a failure, which has been printed. */
int fscrash_plan(struct fscrash *, const struct fscrash_plan *);

/* Fills in c->replay. false: not a path. */
bool fscrash_parse(struct fscrash *, const char *path);

/* Makes a filesystem on a fresh disk and carries out steps: something to begin plans with. fill: then writes into a file of
 * its own until the device is full but for about so many blocks; 0: does not. kill: leaves it without unmounting. Aborts with
 * a message when that fails. */
struct fscrash_base {
	struct simdev_image *image;
	struct fsworld world;
};
void fscrash_base_make(struct fscrash_base *, const struct fs_mkfs_options *, uint64_t blocks,
		       const struct fs_options *, const struct fsworld_step *steps, size_t n, unsigned fill, bool kill,
		       uint64_t seed);
void fscrash_base_release(struct fscrash_base *);

/* The options of tests that must be deterministic: no threads, small cache, the time of fsworld_now. */
extern const struct fs_options fscrash_options;
/* 4 KiB nodes, the smallest log, a fixed seed. */
extern const struct fs_mkfs_options fscrash_mkfs;

#endif

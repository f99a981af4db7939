/*
 * fscrash.h - crash.h for filesystems: operations on files against the model, and what must be found after a crash
 *
 * The filesystem is mounted on what a crash left behind, and its tree must be one of the worlds (fsworld.h) allowed there, to
 * the last byte and nanosecond; snapshots too. fs_check with all data must find nothing. A crash inside recovery may also come
 * into the deletion of files without a name, or into the checkpoint that the check makes.
 *
 * Batches that follow each other closely lie in one segment of the log, which no crash takes apart. So in some plans the log is
 * written behind every batch, in the middle of an operation too, as the commit timer may do it (sync_one_in).
 *
 * Disks of equal content are looked at once: what was found on the first of them is compared with what is allowed for the
 * others.
 *
 * Programs are linked with --wrap for the calls in fscrash_wraps of meson.build: behind op_commit the log is written, and the
 * others say where a checkpoint, a recovery, a deletion begins and ends (crash_phase).
 */
#ifndef ARBOR_TESTS_KIT_FSCRASH_H
#define ARBOR_TESTS_KIT_FSCRASH_H

#include "tests/kit/crash.h"
#include "tests/kit/fsworld.h"

/* A run to be crashed. */
struct fscrash_plan {
	struct crash_plan plan;
	const struct fsworld *start; /* what its base holds */
	struct fs_options opt;
	const struct fsworld_step *steps;
	size_t n_steps;
	const struct fsop_profile *profile; /* steps by chance besides */
	size_t n_chance;
	size_t idle_of; /* the first so many steps: one that has nothing to do ends the plan, a shorter one is as good */
	unsigned sync_one_in; /* the log is written behind every so many-th batch, by seed; 1: each, 0: when asked to */
	bool full_ok;	      /* -ENOSPC is no failure, where there may be any */
};

extern const struct crash_world fscrash_world;

/* Of all plans so far: states whose disk had been seen before; whose files were not those of the newest world. */
struct fscrash_counts {
	uint64_t same, older;
};
extern struct fscrash_counts fscrash_counts;
void fscrash_release(void); /* what was remembered of disks */

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

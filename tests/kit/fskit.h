/*
 * fskit.h - a filesystem on a simulated disk, for unit tests
 *
 * Mounted without threads, with a clock that ticks a second an operation and fixed seeds: a run is a function of its inputs.
 * What must not fail asserts.
 */
#ifndef ARBOR_TESTS_KIT_FSKIT_H
#define ARBOR_TESTS_KIT_FSKIT_H

#include "fs/fs.h"
#include "tests/kit/simdev.h"

struct fskit {
	struct simdev *disk;
	struct fs *fs; /* NULL: not mounted */
	struct fs_options opt;
	struct timespec clock;
	struct check_result checked; /* by the last fskit_check */
};

struct fskit_options {
	uint64_t blocks;    /* 0: 8192 */
	uint32_t node_size; /* 0: 4096 */
	uint64_t log_blocks; /* 0: 256 */
	bool acl, copies, threads; /* threads: the store's and the reaper's */
};

extern const struct fs_caller fskit_root, fskit_user; /* uid and gid 0; 1000; umask 022 */

void fskit_init(struct fskit *, const struct fskit_options *); /* NULL: all zero. Made and mounted. */
void fskit_release(struct fskit *);
void fskit_mount(struct fskit *);
void fskit_unmount(struct fskit *);
void fskit_remount(struct fskit *);
/* The process dies; with power, what was not flushed is gone too. Then mounted again. */
void fskit_reboot(struct fskit *, bool power);
/* Asserts that the store's structure is right and that fs_check finds nothing, after fs_reap. */
void fskit_check(struct fskit *);

/* Shorthands below live's root; names are paths with '/', resolved by fs_lookup. References taken are given back, so
 * these are for files that have names. They return what the call returns. */
uint64_t fskit_node(struct fskit *, const char *path); /* 0: not there */
int fskit_mkdir(struct fskit *, const char *path);
int fskit_create(struct fskit *, const char *path);
int fskit_unlink(struct fskit *, const char *path);
int fskit_write(struct fskit *, const char *path, const void *data, size_t len, uint64_t off);
/* Reads the whole file; mem_alloc'ed, *ret_len its length. Asserts success. */
void *fskit_read(struct fskit *, const char *path, size_t *ret_len);
int fskit_truncate(struct fskit *, const char *path, uint64_t size);
struct stat fskit_stat(struct fskit *, const char *path); /* asserts that it is there */
uint64_t fskit_free(struct fskit *);			  /* blocks, after checkpoints that settle everything */

#endif

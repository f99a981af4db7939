/*
 * fuse_mount.h - putting a filesystem in its place: checks, mount(2) by way of libfuse, and what to set afterwards
 *
 * Whatever fails has a text that says so in one line, from which the caller makes its message.
 */
#ifndef ARBOR_FS_FUSE_MOUNT_H
#define ARBOR_FS_FUSE_MOUNT_H

#include "fs/fuse_options.h"

struct fuse_session;
struct mounted;

#define MOUNT_FAILED 32 /* exit statuses, as mount(8) has them */
#define MOUNT_USAGE 1

/* The mount point exists, is an empty directory (or -o nonempty), and there is FUSE. 0 or an exit status. */
int mount_check(const struct mount_options *, char error[MOUNT_ERROR_SIZE]);

/* Mounts. `source` is absolute. fuseblk: it is a block device that the kernel claims. */
int mount_session(struct mounted *, const char *source, bool fuseblk, struct fuse_session **ret,
		  char error[MOUNT_ERROR_SIZE]);

/* Sets what only sysfs can: read-ahead, and how much of memory may be dirty. Best effort. */
void mount_tune(const char *mountpoint, bool writeback);

#endif

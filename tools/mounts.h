/*
 * mounts.h - which ArborFS filesystems are mounted, and where
 */
#ifndef ARBOR_TOOLS_MOUNTS_H
#define ARBOR_TOOLS_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>

/* One line of /proc/self/mountinfo. The texts are parts of the line, with its escapes undone. */
struct mount_info {
	unsigned major, minor;
	char *root; /* what of the filesystem is mounted: "/" all of it */
	char *point;
	char *type;
	char *source;
};

/* Takes a line apart, in place. -EINVAL: it is none. */
int mount_info_parse(char *line, struct mount_info *ret);
bool mount_info_is_ours(const struct mount_info *);

/* Calls each for every mount of ours that shows a whole filesystem, in the order they were made; its non-zero result ends
 * it and is returned. */
int mounts_each(int (*each)(void *arg, const struct mount_info *), void *arg);

/* The mount of ours that `path` is in (not that it was mounted from): its mount point, for mem_free. -ENOENT: none. */
int mounts_find_point(const char *path, char **ret_point);
/* Where the image or device `path` is mounted. -ENOENT: nowhere. */
int mounts_find_source(const char *path, char **ret_point);

#endif

/*
 * device.h - where the daemon's device comes from
 *
 * The daemon opens its device here and nowhere else. Linked with another version of this function (tests/mount/testdev.c) it is
 * the same daemon on a device that records what it is told and fails on command.
 */
#ifndef ARBOR_FS_DEVICE_H
#define ARBOR_FS_DEVICE_H

#include "btree/dev/bdev.h"

/* As bdev_file_open. */
int device_open(const char *path, const struct bdev_file_options *, struct bdev **ret, char **ret_holder);

#endif

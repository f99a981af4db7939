/*
 * overlay.h - two devices on top of another: one that keeps what is written in memory, one that remembers what it overwrites
 *
 * overlay: writes stay in memory (sparse), reads see them, the device below is never written. For plans and dry runs.
 *
 * undo: before a block is overwritten for the first time its old content goes to a file, which is made durable before the block
 * is written. undo_apply puts everything back, newest last; applying twice, or after being cut short, is harmless. File format,
 * checksums: see overlay.c / undo.c.
 */
#ifndef ARBOR_BTREE_DEV_OVERLAY_H
#define ARBOR_BTREE_DEV_OVERLAY_H

#include "btree/dev/bdev.h"

/* Both take over `below`: closing the result closes it. On an error it stays the caller's. */
int overlay_open(struct bdev *below, struct bdev **ret);
uint64_t overlay_blocks(struct bdev *overlay); /* different blocks written so far */

int undo_open(struct bdev *below, const char *path, struct bdev **ret); /* -EEXIST: path is there */
/* Puts back. -EUCLEAN: the file is damaged, or is of another filesystem (reported); nothing changed then. */
int undo_apply(struct bdev *, const char *path, uint64_t *ret_blocks);

#endif

/*
 * tree_build.h - a new tree from items that come in order
 *
 * For rebuilding: writes full nodes straight to the device, one level's right edge in memory each, so that a tree of any
 * size takes a few nodes' worth of memory and no cache. Nothing refers to what it writes until the caller stores the root.
 * Threads: one.
 */
#ifndef ARBOR_BTREE_TREE_BUILD_H
#define ARBOR_BTREE_TREE_BUILD_H

#include "btree/dev/bdev.h"
#include "btree/node.h"
#include "btree/record.h"

struct tree_build;

struct tree_build_options {
	struct bdev *bdev;
	uint32_t node_size;
	uint64_t tree; /* TREE_FILES or TREE_SYSTEM */
	uint64_t gen;  /* of all its nodes */
	bool copies;   /* every node gets a second copy */
	const struct record_table *records;
	/* Gives a run of `blocks` blocks for a node (copy: for a second copy, far from the first). 0 or -ENOSPC. */
	int (*alloc)(void *arg, bool copy, uint32_t blocks, uint64_t *ret_addr);
	void *arg;
};

int tree_build_open(const struct tree_build_options *, struct tree_build **ret);
/* Keys strictly ascending, else -EINVAL; the value is copied. After an error the build can only be closed. */
int tree_build_add(struct tree_build *, struct key, const void *val, size_t len);
/* Writes the right edge and gives the root (levels 0: no items). The caller flushes. */
int tree_build_finish(struct tree_build *, struct root *ret);
void tree_build_close(struct tree_build *); /* accepts NULL */

#endif

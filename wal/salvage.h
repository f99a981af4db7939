/*
 * salvage.h - finds a store's nodes by their own headers, when its superblocks or a root are gone
 *
 * The last resort: reads the whole device once, and believes a node that verifies at its own address. What belongs together
 * follows from references {address, generation}, generations, and ranges of keys: newer wins, older fills only what no newer
 * node covers. It cannot tell what was deleted just before from what is there in ranges it had to fill.
 */
#ifndef ARBOR_WAL_SALVAGE_H
#define ARBOR_WAL_SALVAGE_H

#include "btree/super.h"
#include "btree/record.h"

struct salvage;

struct salvage_options {
	const struct record_table *records;
	/* An item of the upper layer that repeats what only a superblock says (uuid, label, secret, geometry of the log):
	 * fills *s and returns true. Shown every item of a leaf that verifies, in no order, with the leaf's generation. */
	bool (*identify)(void *arg, struct key, const void *val, size_t len, struct super *s);
	void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
	void *arg;
};

struct salvage_result {
	uint64_t nodes, leaves; /* that verify */
	bool super_found, identified;
};

/* -ENODEV: nothing of ours. */
int salvage_scan(struct bdev *, const struct salvage_options *, struct salvage **ret, struct salvage_result *);
void salvage_close(struct salvage *); /* accepts NULL */

/* A superblock to go on from: the best slot if one verifies, else made up from nodes, log segments and what `identify` said. Its
 * files root is not to be used. */
const struct super *salvage_super(const struct salvage *);

/* The items of live, keys strictly ascending. lost: ranges that a reference names and nothing fills. A non-zero result of a
 * call-back ends it. */
int salvage_each(struct salvage *, int (*item)(void *arg, struct key, const void *val, size_t len),
		 int (*lost)(void *arg, struct key from, struct key to, int err), void *arg);

#endif

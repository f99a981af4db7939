/*
 * salvage.h - finds a store's nodes by their own headers, when its superblocks or a root are gone
 *
 * The last resort: reads the whole device once, and believes a node that verifies at its own address. What belongs
 * together follows from references {address, generation}, generations, and ranges of keys: newer wins, older fills
 * only what no newer node covers. It cannot tell what was deleted just before from what is there in ranges it had
 * to fill.
 */
#ifndef ARBOR_WAL_SALVAGE_H
#define ARBOR_WAL_SALVAGE_H

#include "btree/super.h"
#include "btree/record.h"

struct salvage;

struct salvage_options {
	const struct record_table *records;
	/* An item of the upper layer that repeats what only a superblock says (uuid, label, secret, geometry of the log):
	 * fills *s and returns true. Shown every item that verifies, of whatever age. The newest `created` counts, and trees
	 * with another one are left out. May be NULL, as the next. */
	bool (*identify)(void *arg, struct key, const void *val, size_t len, struct super *s);
	void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
	void *arg;
};

struct salvage_result {
	uint64_t nodes, leaves; /* that verify */
	/* Neither: the secret is gone (zeros), so names have to be hashed anew. */
	bool super_found, identified;
	bool log_found;	  /* there is a log to be replayed, from the superblock's position on */
	bool log_reaches; /* it begins where the newest tree that is there ends: nothing is missing in between */
	uint64_t ranges; /* of keys, from nodes that are not of the newest tree */
};

/* -ENODEV: nothing of ours. */
int salvage_scan(struct bdev *, const struct salvage_options *, struct salvage **ret, struct salvage_result *);
void salvage_close(struct salvage *); /* accepts NULL */

/*
 * A superblock to go on from: the best slot if one verifies, else made up from nodes, log segments and what
 * `identify` said. Its files root is not to be used. Its log position and epoch are where the log goes on from what
 * salvage_each gives; with SUPER_CLEAN there is nothing to be replayed. Made up, it has no space map, its
 * generation and mount epoch are beyond all that was seen, and its system tree is the newest that was found whole
 * (or none).
 */
const struct super *salvage_super(const struct salvage *);

/*
 * The items of live as of the superblock's log position, keys strictly ascending. lost: ranges that a reference
 * names and nothing fills, and items that do not verify; in the same order. A non-zero result of a call-back ends
 * it. May be called again, and says the same as long as nobody writes to what salvage_blocks names. Shared counts
 * are derived and not given.
 */
int salvage_each(struct salvage *, int (*item)(void *arg, struct key, const void *val, size_t len),
		 int (*lost)(void *arg, struct key from, struct key to, int err), void *arg);

/* The blocks that salvage_each reads. A run may be named twice. A non-zero result ends it. */
int salvage_blocks(const struct salvage *, int (*run)(void *arg, uint64_t addr, uint32_t blocks), void *arg);

#endif

/*
 * rebuild.h - a damaged store made whole again: what can still be read, beside what was there, then one switch
 *
 * Works on a device that nobody has opened as a store. In three steps:
 *
 *	survey	every view is read as far as it can be: the superblock's trees, the records of the log laid over live's.
 *		What cannot be read is a range of keys, lost.
 *	build	views with lost nodes, with records in the log, or with wrong shared counts get a new tree, written to blocks
 *		that nothing readable uses; others keep theirs. The system tree with its dead lists and the space map are made
 *		from what the views reach.
 *	switch	a flush, then one superblock slot after the other, with an empty log under a new epoch.
 *
 * Until the switch nothing that can be read is overwritten: a crash leaves the old, damaged store. Where only the newest
 * checkpoint is damaged, and the older slot with the log is whole, both slots are made to say that one, and nothing is lost.
 *
 * Live keeps what can be read of it. A snapshot is kept whole or not at all. What is kept and not damaged keeps its tree, and
 * a log that is whole stays for the next open to replay, unless live needs a new tree.
 *
 * Memory: ten bits a block of the device, and what the log, the snapshots' dead lists and what is shared or lost take.
 */
#ifndef ARBOR_WAL_REBUILD_H
#define ARBOR_WAL_REBUILD_H

#include "btree/dev/bdev.h"
#include "btree/record.h"
#include "wal/salvage.h"

struct rebuild;

/* Keys from <= key < to of a view that could not be read, and why. */
struct rebuild_lost {
	struct key from, to;
	int err;
};

/* What was found wrong, in the order of the survey. */
enum rebuild_finding {
	REBUILD_SUPER,	  /* a superblock slot does not verify */
	REBUILD_LOG,	  /* the log is damaged: acknowledged operations behind the damage are lost */
	REBUILD_NODE,	  /* a node cannot be read from any copy */
	REBUILD_ITEM,	  /* an item does not verify, or is misplaced */
	REBUILD_SHARED,	  /* shared counts are wrong */
	REBUILD_DEAD,	  /* dead lists are wrong */
	REBUILD_SPACE,	  /* the space map is wrong or cannot be read */
	REBUILD_SNAPSHOT, /* a snapshot cannot be kept */
};

struct rebuild_options {
	const struct record_table *records;
	struct salvage *salvage; /* not NULL: live's items come from here, the superblock too */
	/* Asked once between survey and build, if anything was found; `lost` is of live, ascending, and n may be 0. The upper layer
	 * may add items to live (rebuild_put), for instance to remember what is lost. < 0 ends it, nothing changed. May be
	 * NULL. */
	int (*lost)(void *arg, struct rebuild *, const struct rebuild_lost *lost, size_t n);
	/* One line each; view: "live", a snapshot's name, or NULL. May be NULL. */
	void (*found)(void *arg, enum rebuild_finding, const char *view, const char *text);
	void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
	void *arg;
};

struct rebuild_result {
	uint64_t findings;
	uint64_t nodes_lost, items_kept, nodes_written, records_replayed, records_lost, snapshots_kept, snapshots_lost;
};

/* In `lost` only. An item of live that wins over one of the same key; the value is copied, and refers to no blocks (else
 * -EINVAL). Where the older checkpoint is gone back to there is nothing to be remembered, and n is 0: -EINVAL. */
int rebuild_put(struct rebuild *, struct key, const void *val, size_t len);

/* 0; -ENOSPC: no room beside what is there (nothing changed); -ENODEV: no superblock (see salvage.h); other errors of the
 * device. A store without any finding is left as it is (*ret tells). */
int store_rebuild(struct bdev *, const struct rebuild_options *, struct rebuild_result *ret);

#endif

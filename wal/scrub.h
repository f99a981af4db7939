/*
 * scrub.h - everything a store keeps of itself, read from the device and verified while it is in use
 *
 * Superblock slots, pages of the space map, and both copies of every node, past all caches. What does not verify and has a
 * second source is written anew: a node from its other copy, a page of the map and the older slot by a checkpoint, the newest
 * slot from memory. The log is not read: what counts of it is in memory or has been checkpointed. What items mean, and so the
 * checksums of data, is the upper layer's: it is given the items and reads data itself (view_read).
 *
 * Views are taken in order of their ids, live last, and of each only what was born after its parent: so what several share
 * is read once. A view is open for a moment only (store_scrub_open .. _close): it pins space, and a snapshot that is being
 * looked at keeps other snapshot operations waiting.
 *
 * Threads: one scrub at a time.
 */
#ifndef ARBOR_WAL_SCRUB_H
#define ARBOR_WAL_SCRUB_H

#include "wal/store.h"

enum store_scrub_kind { STORE_SCRUB_SUPER, STORE_SCRUB_SPACE, STORE_SCRUB_NODE };

/* A place that does not hold what it should. */
struct store_scrub_finding {
	enum store_scrub_kind kind;
	uint64_t addr; /* superblock, node: its block; page of the map: the group it begins with */
	bool copy;     /* nodes: the second copy */
	bool mended;   /* written anew */
	bool lost; /* nothing has it: a node's items are gone, a page's groups count as full until they are rebuilt */
	const char *view;    /* nodes: "live", "system", or a snapshot's name */
	struct key from, to; /* nodes: what its keys lie between */
	int err;
};

struct store_scrub_ops {
	/* About to read so many bytes: may wait. Non-zero ends the scrub with it (< 0). May be NULL. */
	int (*pace)(void *arg, uint64_t bytes);
	/* An item of a view, valid during the call. < 0 ends it. May be NULL. */
	int (*item)(void *arg, struct key, const void *val, size_t len);
	/* All items below `next` have been given: > 0: enough for now. May be NULL. */
	int (*leaf)(void *arg, struct key next);
	void (*found)(void *arg, const struct store_scrub_finding *); /* may be NULL */
	void *arg;
};

struct store_scrub_result {
	uint64_t nodes, pages, supers; /* looked at */
	uint64_t bad, mended, lost;    /* places: node copies, pages, slots */
};

/* All of it in one go, without items. Results are counted up in *ret. 0: also when something was found. */
int store_scrub(struct store *, const struct store_scrub_ops *, struct store_scrub_result *ret);

/* Superblocks, the space map, the system tree. Begins with a checkpoint, so that what is there now is on the device. */
int store_scrub_fixed(struct store *, const struct store_scrub_ops *, struct store_scrub_result *ret);

#define STORE_SCRUB_LIVE UINT64_MAX

struct store_scrub_view {
	uint64_t id; /* a snapshot's, or STORE_SCRUB_LIVE */
	char name[SNAPSHOT_NAME_MAX + 1];
	uint64_t born_after; /* what is older was seen in the views before */
	struct view *view;
};
/* The first view with an id from `id` on. */
int store_scrub_open(struct store *, uint64_t id, struct store_scrub_view *ret);
void store_scrub_close(struct store *, struct store_scrub_view *);
/* Somebody has no room for what he writes, and the open view pins what was released: close it soon, open it again. */
bool store_scrub_wanted(struct store *);
/* What of the view is younger than born_after, from the key on. 0: to its end; > 0: leaf() said enough. */
int store_scrub_view(struct store *, const struct store_scrub_view *, struct key from, const struct store_scrub_ops *,
		     struct store_scrub_result *ret);

#endif

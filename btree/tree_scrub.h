/*
 * tree_scrub.h - the nodes of a frozen root as they stand on the device, both copies of each
 *
 * Reading a node through the cache proves nothing about the copy that was not read, and pushes out what is in use. This
 * reads past the cache: every copy is verified as cache_load does, one that does not verify is written anew from the other
 * (or from memory). Items come from what was read, so that a pass over the nodes is a pass over the items, too.
 *
 * The root must stay reachable, and no address below it may be handed out again, until the call returns. Under no lock and
 * in no epoch.
 */
#ifndef ARBOR_BTREE_TREE_SCRUB_H
#define ARBOR_BTREE_TREE_SCRUB_H

#include "btree/cache.h"

/* A place that does not hold what it should. */
struct scrub_bad_node {
	struct ref ref;
	unsigned level;
	bool copy;	      /* the second copy */
	bool mended;	      /* it was written anew */
	bool lost;	      /* no copy can be read: what lies in low..high is gone */
	struct key low, high; /* of its keys; KEY_MAX: to the end */
	int err;
};

struct tree_scrub {
	struct key from;     /* leaves out nodes whose keys are all before it */
	uint64_t born_after; /* and those that are not younger than this generation */
	/* About to read so many bytes: may wait. Non-zero ends it. May be NULL. */
	int (*pace)(void *arg, uint64_t bytes);
	/* An item of a leaf, valid during the call. < 0 ends it. May be NULL. */
	int (*item)(void *arg, struct key, const void *val, size_t len);
	/* All items below `next` have been given. > 0: stop here. May be NULL. */
	int (*leaf)(void *arg, struct key next);
	/* Told for each bad place. May be NULL. */
	void (*bad)(void *arg, const struct scrub_bad_node *);
	void *arg;
	uint64_t nodes; /* counted up: nodes looked at on the device */
};

/* 0: all of it; > 0: leaf() said so; < 0: what a call-back said, or -ENOMEM. A node that is lost is not an error. */
int tree_scrub(struct cache *, uint64_t id, const struct root *, struct tree_scrub *);

#endif

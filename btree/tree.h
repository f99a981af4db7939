/*
 * tree.h - the copy-on-write B-tree
 *
 * A tree is a value: a root, from which everything else is reached. Changing it makes a new root. A node is changed in
 * place only if it carries the tree's current generation and was never written (nobody else can see it then); otherwise
 * it is copied to a fresh address, and so is the path up to the root. Freezing a tree is giving it a new generation.
 *
 * No function here reads from the device. Where a node is not in memory it fills in a struct miss and returns -EAGAIN,
 * having changed nothing; the caller drops its lock, calls tree_fault, and starts again. Changes are made in two steps
 * under one hold of the write lock: tree_plan looks at all the changes, finds every node they touch and says how many new
 * nodes they may need; tree_apply then cannot fail.
 *
 * Locks: readers of a root that can still change hold its lock shared; readers of a frozen root need none. Both are inside
 * an epoch. tree_plan and tree_apply: lock held exclusively, inside an epoch.
 */
#ifndef ARBOR_BTREE_TREE_H
#define ARBOR_BTREE_TREE_H

#include "btree/cache.h"

/* The largest value an item may have in nodes of this size: four items always fit a node. */
uint32_t tree_value_max(uint32_t node_size);

/* A tree that is being changed. */
struct tree {
	struct cache *cache;
	uint64_t id;		/* TREE_FILES or TREE_SYSTEM */
	struct root root;
	uint64_t gen;		/* generation of changes made now */
	bool copies;		/* nodes get a second copy */
	struct node_list dirty; /* nodes born in this tree and not written yet, whatever their generation. Who seals one
				   or sets NODE_CHECKPOINT takes it off first and counts dirty_nodes down. */
	size_t dirty_nodes;
};

void tree_init(struct tree *, struct cache *, uint64_t id, struct root, uint64_t gen, bool copies);

/*
 * What was missing, and the nodes loaded for this operation so far, pinned so that starting again makes progress. Zero
 * initialised; tree_miss_release at the end of the operation (after tree_apply, where there is one).
 */
struct miss {
	struct ref ref;
	uint64_t tree;
	unsigned level;
	struct key low;
	struct ref ahead[32]; /* siblings worth loading too (cursor) */
	struct key ahead_low[32];
	unsigned n_ahead;
	struct node **pinned;
	size_t n_pinned, cap_pinned;
	struct node **seen; /* by tree_plan: what tree_apply must find though it is evicted meanwhile */
	size_t n_seen, cap_seen;
};

/*
 * Loads what is missing. Inside the epoch in which the miss was found, under no lock. 0: start again. -ENOBUFS: leave the
 * epoch, cache_breathe, start again. Else the error to return.
 */
int tree_fault(struct cache *, struct miss *);
void tree_miss_release(struct miss *);

/* Points *val into the node: valid as long as the lock (or for frozen roots, the epoch) is held. -ENOENT, -EAGAIN. */
int tree_get(struct cache *, const struct root *, uint64_t id, struct key, const void **ret_val, size_t *ret_len,
	     struct miss *);
/* The item with the greatest key <= key. */
int tree_floor(struct cache *, const struct root *, uint64_t id, struct key, struct key *ret_key, const void **ret_val,
	       size_t *ret_len, struct miss *);

enum change_op { CHANGE_PUT = 1, CHANGE_DEL = 2, CHANGE_DEL_RANGE = 3 };

struct change {
	struct key key;
	struct key end;	 /* DEL_RANGE: first key that stays */
	const void *val; /* PUT */
	uint16_t len;
	uint8_t op;	 /* enum change_op */
};

/* A node that stopped being part of the tree. */
struct released {
	struct ref ref;
	struct node *node; /* if it was born in this tree, is dirty and neither sealed nor NODE_CHECKPOINT: the node, off the
			      dirty list; it is the caller's now: keep it for an older root, or cache_kill it (always
			      if ref.gen is the tree's present generation: then no other root reaches it, and it may
			      be empty, which cannot be written). Else NULL: it is clean, or another tree's, or owned by who writes it. */
};

struct tree_plan {
	const struct change *changes; /* sorted by key, ranges and keys not overlapping; owned by the caller */
	size_t n;

	/* Called by tree_plan for every existing item that a change replaces or deletes. May be NULL. A non-zero result
	 * ends tree_plan with it. Called again from the first when the operation starts again. */
	int (*old)(void *arg, const struct change *, struct key, const void *val, size_t len);
	void *arg;

	size_t need; /* tree_plan's answer: new nodes at the most */
	struct miss *miss; /* tree_plan's, for tree_apply: not to be released in between */

	/* Supplied by the caller before tree_apply, at least `need` of each (address of second copies only with copies). */
	struct node **frames;
	uint64_t *addrs, *copies;
	size_t supply; /* what is in the three arrays; tree_apply takes from the end and counts down */

	struct released *released; /* filled by tree_apply; room for n_released_max */
	size_t n_released, n_released_max;
	size_t need_released; /* tree_plan's answer */
};

/* Finds out what the changes need. -EAGAIN with *miss; -ENOMEM. Changes nothing. */
int tree_plan(struct tree *, struct tree_plan *, struct miss *);

/* Makes the changes. Deleting what is not there is fine. Merging with siblings happens where they are in memory. */
void tree_apply(struct tree *, struct tree_plan *);

/* ---- cursor: items in order ---- */

/*
 * One leaf at a time. On a frozen root the leaf is pinned and items are read where they are; on a root that can change
 * (copy) the leaf is copied under the caller's lock. Either way the items returned stay valid until the next seek.
 */
struct cursor {
	struct cache *cache;
	uint64_t id;
	bool copy;
	struct node *leaf;   /* pinned, or &private; NULL: nowhere */
	struct node private; /* copy: its buf */
	unsigned at;
	struct key next;     /* where the leaf's range ends: seek there to go on */
	bool last;	     /* no leaf behind this one */
	unsigned ahead;	     /* how many siblings the next miss offers: more, the longer it goes on in order */
	struct key miss_low, miss_high; /* what the node of the last -EAGAIN covers */
};

int cursor_init(struct cursor *, struct cache *, uint64_t id, bool copy); /* -ENOMEM */
void cursor_release(struct cursor *);

/* Positions on the first item >= key. 0; 1: there is none; -EAGAIN with *miss (and siblings to read ahead). The lock
 * or epoch may be left after it. */
int cursor_seek(struct cursor *, const struct root *, struct key, struct miss *);

/* The item at the cursor, then steps. 0; 1: this leaf is finished: seek c->next unless c->last. */
int cursor_item(struct cursor *, struct key *ret_key, const void **ret_val, size_t *ret_len);

/* ---- difference of two frozen roots ---- */

struct diff;
struct diff_item {
	struct key key;
	const void *a, *b; /* NULL: not there on that side */
	size_t a_len, b_len;
};

/* Walks both together and skips what they share. Enters epochs and loads nodes by itself: under no lock, in no epoch. */
int diff_open(struct cache *, uint64_t id, const struct root *a, const struct root *b, struct diff **ret);
/* Items that differ (value or presence), in order. < 0, 0 an item, 1 the end. Memory valid until the next call. */
int diff_next(struct diff *, struct diff_item *ret);
void diff_close(struct diff *);

/* ---- walk of a frozen root ---- */

struct walk_ops {
	/* A reference in a parent (or the root), before its node is read. > 0: do not descend. < 0: stop with it. May be
	 * called for a few siblings in advance, so that they can be read together. May be NULL. */
	int (*ref)(void *arg, struct ref, unsigned level);
	/* An item of a leaf. < 0: stop with it. May be NULL. */
	int (*item)(void *arg, struct key, const void *val, size_t len);
	/* A node that cannot be read, with why. 0: go on with the others; < 0: stop. NULL: stop. */
	int (*bad)(void *arg, struct ref, unsigned level, struct key low, int err);
	/* The same, with the range of keys that cannot be read (high: KEY_MAX at the tree's end). Asked where bad is NULL. */
	int (*lost)(void *arg, struct ref, unsigned level, struct key low, struct key high, int err);
};
/* Enters epochs by itself. Also checks what no single node shows: each node's keys lie between its parent's bounds. */
int tree_walk(struct cache *, uint64_t id, const struct root *, const struct walk_ops *, void *arg);

/* Debug and tests: the whole tree satisfies every structural rule; 0 or -EUCLEAN. As tree_walk. */
int tree_verify(struct cache *, uint64_t id, const struct root *);

#endif

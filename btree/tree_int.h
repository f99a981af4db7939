/*
 * tree_int.h - what the files that implement the tree share
 *
 *	tree.c		reading; planning and applying changes
 *	tree_split.c	the shape: splitting, merging, growing and shrinking of the root
 *	cursor.c	items in order
 *	tree_walk.c	the whole of a frozen root
 *	tree_diff.c	the difference of two
 */
#ifndef ARBOR_BTREE_TREE_INT_H
#define ARBOR_BTREE_TREE_INT_H

#include "btree/cache_int.h"
#include "btree/node.h"
#include "btree/tree.h"

/* ---- reading ---- */

/* A node of the level and tree that its parent says, or NULL: not in memory (or damaged, which tree_fault will tell). */
static inline struct node *node_at(const struct cache *c, uint64_t addr, uint64_t gen, uint64_t id, unsigned level)
{
	struct node *n = cache_find(c, addr, gen);

	if (!n || n->level != level || n->tree != id)
		return NULL;
	cache_touch(n);
	return n;
}

/* Fills in what is missing; -EAGAIN. */
int tree_missed(struct miss *, struct ref, uint64_t id, unsigned level, struct key low);

/* Offers another node of the same level to be loaded with it, if it is not in memory. False: no more room. */
bool tree_miss_add(struct cache *, struct miss *, struct ref, struct key low);

/* Where the range of child i begins and ends, in a node whose own range is low..high. */
static inline struct key child_low(const struct node *n, unsigned i, struct key low)
{
	return i ? node_key(n, i) : low;
}

static inline struct key child_high(const struct node *n, unsigned i, struct key high)
{
	return i + 1u < n->nr ? node_key(n, i + 1) : high;
}

/* Whether all keys lie in low..high (KEY_MAX: no end). Says so where they do not. */
int tree_check_bounds(const struct node *, struct key low, struct key high);

/*
 * Gets a node from memory or device, pinned, entering an epoch for it and making room where there is none. For who walks
 * frozen roots: under no lock, in no epoch.
 */
int tree_fetch(struct cache *, struct ref, uint64_t id, unsigned level, struct key low, struct node **ret);

/* ---- changing ---- */

/* Less than this is underfull; merging makes nodes of at most three times it. */
static inline uint32_t node_quarter(uint32_t node_size)
{
	return node_capacity(node_size) / 4;
}

/* The way from the root to a leaf. */
struct path {
	struct node *node[NODE_LEVELS_MAX];
	unsigned at[NODE_LEVELS_MAX];	  /* above level 0: the child taken */
	struct key low[NODE_LEVELS_MAX];  /* where the node's range begins */
	struct key high[NODE_LEVELS_MAX]; /* ... and ends; KEY_MAX: at the tree's end */
};

/* tree_apply at work. */
struct apply {
	struct tree *tree;
	struct tree_plan *plan;
	struct path path;
	struct key from;			   /* a range change goes on from here */
	struct node *shrunk[NODE_LEVELS_MAX]; /* per level: the node that has lost something and was not looked at since */
	bool lost;				   /* any ever did */
};

static inline bool node_changeable(const struct tree *t, const struct node *n)
{
	return n->gen == t->gen && (atomic_load_explicit(&n->state, memory_order_relaxed) &
				    (NODE_DIRTY | NODE_SEALED)) == NODE_DIRTY;
}

/* A new empty node from the plan's supply, on the tree's dirty list. */
struct node *apply_birth(struct apply *, unsigned level);
/* The node is not part of the tree any more. */
void apply_release(struct apply *, struct node *);
/* Makes every node of the path, from the root down to this level, changeable. */
void apply_own(struct apply *, unsigned down_to);

/* Puts an item at place i of the path's leaf, splitting where it does not fit. True if it split: the path is void then. */
bool tree_put(struct apply *, unsigned i, struct key, const void *val, uint16_t len);
/* The leaf at the path's end is needed no more; its parents are changeable. */
void tree_drop_leaf(struct apply *);
/* All changes before `next` have been made: merges and removes what of the path will not be changed any more. */
void tree_fix(struct apply *, unsigned from_level, struct key next);
/* At the end of all changes: a root with one child gives way to it. */
void tree_collapse(struct apply *);

/* Upper bound of the nodes that splits of the top level and growth above it need. See tree_split.c. */
struct split_bound {
	uint64_t first[NODE_LEVELS_MAX]; /* nodes of that level that may overflow as they are */
	uint64_t leaf_bytes;		 /* inserted */
};
uint64_t split_bound_nodes(const struct split_bound *, unsigned levels, uint32_t node_size);
uint64_t split_bound_of(uint64_t first, uint64_t bytes, uint32_t node_size);

#endif

/*
 * The shape of a tree that is being changed.
 *
 * Splitting. Where an item does not fit, a node is split in two such that both parts, the new item included, are as equal
 * in bytes as can be. Except where keys come in ascending order, at the right edge of the tree or at the end of an object
 * that has some items before it already (a file's extents): then a leaf is split at the new item. If little follows it, the
 * new item begins the right part, and the left one stays as full as it is. If much follows, the new item ends the left part,
 * and what comes next finds itself at the right end of a leaf. So bulk loads and appended files fill their leaves.
 *
 * Merging. A node that has become less than a quarter full absorbs a sibling, the right one or else the left one, if that is
 * in memory and the result is at most three quarters full. The items move into the node that is ours already, so merging
 * needs no new node. If neither is possible the node stays small: rules about fill are wishes, not invariants.
 *
 * How many nodes are born at the most?  C: capacity of a node, q = C/4.
 *
 * One insertion overflows a node by at most an item, and items take at most q (node_value_max), so two nodes suffice for
 * the C + q bytes, and since the parts differ by at most an item, each has at most (C + q + q) / 2 = 3q. In a split at the
 * new item the same limit is kept, but for one exception: the left part, when the new item begins the right one. Changes
 * come in key order, so nothing is inserted there any more by this group of changes. (For interior nodes the same is true
 * only if the split below was of that kind, too: else the left one of the new siblings can still split again. So they are
 * split at the right end only then.) The nodes that are made by splitting thus begin with at most 3q bytes if anything is
 * going to be inserted into them, and so do those made by merging, and a new root.
 *
 * Hence, within one group: a node can be split for the first time *as it is*, which needs that what it has and what is
 * inserted into it exceed C; and whenever a node that was made by the group is split, more than q bytes were inserted into
 * it since it was made. Each inserted byte counts for one such split only. (A value that takes another's place inserts what
 * it is longer by.) So on each level
 *
 *	splits <= (nodes on the paths that may overflow as they are) + (bytes inserted on this level) / (q + 1)
 *
 * and on the level above, bytes inserted <= splits * (size of an item with a reference). Copying a node inserts nothing
 * there, since references all have the same size; removing a child inserts nothing either. Whether a node may overflow as it
 * is depends on the splits of its own children only: as long as it has not been merged, no one else's children were. The
 * root may split like any node, and each time there is something above the top level there is one more node; that new root
 * begins with one child, and what was said holds for it.
 */
#include <assert.h>

#include "btree/tree_int.h"

uint64_t split_bound_of(uint64_t first, uint64_t bytes, uint32_t node_size)
{
	return first + bytes / (node_quarter(node_size) + 1);
}

uint64_t split_bound_nodes(const struct split_bound *b, unsigned levels, uint32_t node_size)
{
	uint64_t bytes = b->leaf_bytes, splits = 0, sum = 0;

	for (unsigned level = 0; level < levels; level++) {
		splits = split_bound_of(b->first[level], bytes, node_size);
		sum += splits;
		bytes = NODE_CHILD_BYTES * splits;
	}
	while (splits) {
		splits = split_bound_of(0, NODE_CHILD_BYTES * (splits + 1), node_size);
		sum += 1 + splits;
	}
	return sum;
}

/*
 * Where to split n when an item with a value of len bytes is put at place i: the number of items that stay, the new one
 * counted as if it were there already.
 */
static unsigned split_point(const struct node *n, unsigned i, uint16_t len)
{
	uint32_t all = node_used(n) + NODE_SLOT_BYTES + len, left = 0, best_off = UINT32_MAX;
	unsigned best = 1;

	for (unsigned k = 1; k <= n->nr; k++) {
		unsigned last = k - 1; /* the last one that stays */
		uint32_t off;

		left += NODE_SLOT_BYTES + (last == i ? len : node_len(n, last < i ? last : last - 1));
		off = left > all - left ? left - (all - left) : all - left - left;
		if (off >= best_off)
			break;
		best_off = off;
		best = k;
	}
	return best;
}

/* Whether an item put at place i of the leaf looks like one of many that come in order. */
static bool in_order(const struct apply *a, const struct node *leaf, unsigned i, struct key key)
{
	if (i == 0)
		return false;
	if (i == leaf->nr && key_equal(a->path.high[0], KEY_MAX))
		return true;
	return i > 1 && node_key(leaf, i - 2).obj == key.obj && node_key(leaf, i - 1).obj == key.obj &&
	       (i == leaf->nr || node_key(leaf, i).obj != key.obj);
}

/* The split point for such an item: right before it or right behind it, as equal parts as a last resort. */
static unsigned split_point_in_order(const struct node *n, unsigned i, uint16_t len)
{
	uint32_t item = NODE_SLOT_BYTES + len, limit = 3 * node_quarter(n->size), before = 0, behind;

	for (unsigned k = 0; k < i; k++)
		before += NODE_SLOT_BYTES + node_len(n, k);
	behind = node_used(n) - before;
	if (behind > node_quarter(n->size) && behind <= limit && before + item <= limit)
		return i + 1;
	return behind + item <= limit ? i : split_point(n, i, len);
}

static bool put_at(struct apply *a, unsigned level, unsigned i, struct key key, const void *val, uint16_t len, bool at_end);

/* The root gets a parent. */
static void grow_root(struct apply *a)
{
	struct tree *t = a->tree;
	unsigned level = t->root.levels;
	struct node *n = apply_birth(a, level);
	struct disk_ref d = ref_put(t->root.ref);

	assert(level < NODE_LEVELS_MAX);
	node_insert(n, 0, KEY_MIN, &d, sizeof(d));
	t->root = (struct root){ .ref = node_ref(n), .levels = level + 1 };
	a->path.node[level] = n;
	a->path.at[level] = 0;
	a->path.low[level] = KEY_MIN;
	a->path.high[level] = KEY_MAX;
}

/* at_end, above level 0: the child whose right sibling is put here gets no more insertions. */
static void split(struct apply *a, unsigned level, unsigned i, struct key key, const void *val, uint16_t len, bool at_end)
{
	struct node *n = a->path.node[level];
	struct node *right = apply_birth(a, level);
	struct disk_ref d = ref_put(node_ref(right));
	unsigned stay, from;
	struct key bound;

	if (level == 0) {
		bool ordered = in_order(a, n, i, key);

		stay = ordered ? split_point_in_order(n, i, len) : split_point(n, i, len);
		at_end = ordered && stay == i;
	} else {
		at_end = at_end && i == n->nr;
		stay = at_end ? i : split_point(n, i, len);
	}
	from = stay > i ? stay - 1 : stay; /* without counting the new one */
	bound = stay == i ? key : node_key(n, from);
	node_append(right, n, from, n->nr);
	node_remove(n, from, n->nr);
	if (stay > i)
		node_insert(n, i, key, val, len);
	else
		node_insert(right, i - stay, key, val, len);
	if (level)
		node_set_key(right, 0, KEY_MIN);
	assert(at_end || node_used(n) <= 3 * node_quarter(n->size));
	assert(node_used(right) <= 3 * node_quarter(n->size));
	node_assert_valid(n);
	node_assert_valid(right);

	if (level + 1 == a->tree->root.levels)
		grow_root(a);
	put_at(a, level + 1, a->path.at[level + 1] + 1, bound, &d, sizeof(d), at_end);
}

static bool put_at(struct apply *a, unsigned level, unsigned i, struct key key, const void *val, uint16_t len, bool at_end)
{
	struct node *n = a->path.node[level];

	if (node_fits(n, len)) {
		node_insert(n, i, key, val, len);
		return false;
	}
	split(a, level, i, key, val, len, at_end);
	return true;
}

bool tree_put(struct apply *a, unsigned i, struct key key, const void *val, uint16_t len)
{
	return put_at(a, 0, i, key, val, len, false);
}

/* ---- shrinking ---- */

static void lost_child(struct apply *a, unsigned level)
{
	a->shrunk[level] = a->path.node[level];
	a->lost = true;
}

/* Takes child i out of the path's node of that level. The range of a first child goes to the next, of another to the one
 * before. */
static void remove_child(struct apply *a, unsigned level, unsigned i)
{
	struct node *n = a->path.node[level];

	node_remove(n, i, i + 1);
	if (i == 0 && n->nr)
		node_set_key(n, 0, KEY_MIN);
	lost_child(a, level);
}

void tree_drop_leaf(struct apply *a)
{
	struct tree *t = a->tree;

	a->shrunk[0] = NULL;
	if (t->root.levels == 1) {
		apply_release(a, a->path.node[0]);
		t->root = (struct root){ 0 };
		return;
	}
	apply_own(a, 1);
	apply_release(a, a->path.node[0]);
	remove_child(a, 1, a->path.at[1]);
}

/* A sibling that can be absorbed: in memory, and what its parent says. */
static struct node *sibling(struct apply *a, unsigned level, unsigned i)
{
	const struct node *parent = a->path.node[level + 1], *n = a->path.node[level];
	struct ref ref = node_child_ref(parent, i);
	struct key low = child_low(parent, i, a->path.low[level + 1]), high = child_high(parent, i, a->path.high[level + 1]);
	struct node *s = cache_find(a->tree->cache, ref.addr, ref.gen);

	if (!s || s->level != level || s->tree != a->tree->id || tree_check_bounds(s, low, high))
		return NULL;
	return node_used(n) + node_used(s) <= 3 * node_quarter(n->size) ? s : NULL;
}

/* Merges the path's node of that level with one of its siblings, if it can. */
static void merge(struct apply *a, unsigned level)
{
	struct node *n = a->path.node[level], *parent = a->path.node[level + 1], *s;
	unsigned i = a->path.at[level + 1], had = n->nr;

	if (i + 1u < parent->nr && (s = sibling(a, level, i + 1))) {
		node_append(n, s, 0, s->nr);
		if (level)
			node_set_key(n, had, node_key(parent, i + 1));
		remove_child(a, level + 1, i + 1);
	} else if (i > 0 && (s = sibling(a, level, i - 1))) {
		node_prepend(n, s);
		if (level)
			node_set_key(n, s->nr, node_key(parent, i));
		node_set_ref(parent, i - 1, node_ref(n));
		remove_child(a, level + 1, i);
		a->path.at[level + 1] = i - 1;
	} else {
		return;
	}
	apply_release(a, s);
	assert(node_used(n) <= 3 * node_quarter(n->size));
	node_assert_valid(n);
	node_assert_valid(parent);
}

void tree_fix(struct apply *a, unsigned level, struct key next)
{
	/* A tree that has just become empty has no levels left to look at. */
	for (; level + 1 < a->tree->root.levels; level++) {
		struct node *n = a->path.node[level];

		if (level && key_less(next, a->path.high[level]))
			break;
		/* Only where something was lost in this very node: then it and its parent are ours. */
		if (a->shrunk[level] != n)
			continue;
		a->shrunk[level] = NULL;
		if (!n->nr) {
			remove_child(a, level + 1, a->path.at[level + 1]);
			apply_release(a, n);
		} else if (node_used(n) < node_quarter(n->size)) {
			merge(a, level);
		}
	}
}

void tree_collapse(struct apply *a)
{
	struct tree *t = a->tree;

	while (t->root.levels) {
		struct ref ref = t->root.ref;
		struct node *n = cache_find(t->cache, ref.addr, ref.gen);

		/* An only child that is not in memory may have a single child itself; some later change will find it. */
		if (!n || n->level + 1u != t->root.levels || n->tree != t->id)
			return;
		if (n->nr > (n->level ? 1 : 0))
			return;
		apply_release(a, n);
		t->root = n->nr ? (struct root){ node_child_ref(n, 0), t->root.levels - 1 } : (struct root){ 0 };
	}
}

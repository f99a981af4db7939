/*
 * The whole of a frozen root.
 *
 * Children are visited in windows of a few dozen: the caller is asked about each reference of a window, then those it wants
 * and that are not in memory are read with all their reads in flight, then they are visited one by one. Each node is
 * pinned while its subtree is visited, so a walk holds one frame per level, and a tree of any size can be walked in the
 * smallest cache.
 *
 * What no single node can show is checked here: the level, and that keys lie between what the parents say.
 */
#include <assert.h>
#include <errno.h>

#include "btree/err.h"
#include "btree/tree_int.h"

#define WINDOW 32u

int tree_fetch(struct cache *c, struct ref ref, uint64_t id, unsigned level, struct key low, struct node **ret)
{
	for (;;) {
		unsigned slot = epoch_enter(cache_epoch(c));
		int err = cache_load(c, ref, id, level, low, ret);

		epoch_exit(cache_epoch(c), slot);
		if (err != -ENOBUFS)
			return err;
		err = cache_breathe(c);
		if (err)
			return err;
	}
}

struct walk {
	struct cache *cache;
	uint64_t id;
	const struct walk_ops *ops;
	void *arg;
};

static int ask(const struct walk *w, struct ref ref, unsigned level)
{
	return w->ops->ref ? w->ops->ref(w->arg, ref, level) : 0;
}

static int walk_node(const struct walk *w, struct ref ref, unsigned level, struct key low, struct key high);

/* Children from..to-1: asks about each, reads ahead, visits. */
static int walk_window(const struct walk *w, const struct node *n, unsigned from, unsigned to, struct key low,
		       struct key high)
{
	struct ref refs[WINDOW];
	struct key lows[WINDOW];
	bool wanted[WINDOW];
	unsigned missing = 0, level = n->level - 1u, slot;
	int err;

	for (unsigned i = from; i < to; i++) {
		err = ask(w, node_child_ref(n, i), level);
		if (err < 0)
			return err;
		wanted[i - from] = err == 0;
	}

	slot = epoch_enter(cache_epoch(w->cache));
	for (unsigned i = from; i < to; i++) {
		struct ref ref = node_child_ref(n, i);

		if (wanted[i - from] && !cache_find(w->cache, ref.addr, ref.gen)) {
			refs[missing] = ref;
			lows[missing++] = child_low(n, i, low);
		}
	}
	/* Nodes high up are few, and their own windows would push each other out of a small cache. */
	if (missing > 1 && level == 0)
		cache_prefetch(w->cache, refs, lows, missing, w->id, level);
	epoch_exit(cache_epoch(w->cache), slot);

	for (unsigned i = from; i < to; i++) {
		if (!wanted[i - from])
			continue;
		err = walk_node(w, node_child_ref(n, i), level, child_low(n, i, low), child_high(n, i, high));
		if (err)
			return err;
	}
	return 0;
}

static int walk_node(const struct walk *w, struct ref ref, unsigned level, struct key low, struct key high)
{
	struct node *n;
	int err;

	err = tree_fetch(w->cache, ref, w->id, level, low, &n);
	if (!err) {
		err = tree_check_bounds(n, low, high);
		if (err)
			node_unpin(n);
	}
	if (err && !w->ops->bad && w->ops->lost)
		return w->ops->lost(w->arg, ref, level, low, high, err);
	if (err)
		return w->ops->bad ? w->ops->bad(w->arg, ref, level, low, err) : err;

	if (level) {
		for (unsigned i = 0; !err && i < n->nr; i += WINDOW)
			err = walk_window(w, n, i, i + WINDOW < n->nr ? i + WINDOW : n->nr, low, high);
	} else {
		for (unsigned i = 0; !err && w->ops->item && i < n->nr; i++)
			err = w->ops->item(w->arg, node_key(n, i), node_val(n, i), node_len(n, i));
	}
	node_unpin(n);
	return err < 0 ? err : 0;
}

int tree_walk(struct cache *c, uint64_t id, const struct root *root, const struct walk_ops *ops, void *arg)
{
	const struct walk w = { .cache = c, .id = id, .ops = ops, .arg = arg };
	int err;

	if (!root->levels)
		return 0;
	err = ask(&w, root->ref, root->levels - 1);
	if (err)
		return err < 0 ? err : 0;
	return walk_node(&w, root->ref, root->levels - 1, KEY_MIN, KEY_MAX);
}

/* ---- verification ---- */

/* Parents are never older than their children: the generations on the way down, to be compared with. */
static int verify_ref(void *arg, struct ref ref, unsigned level)
{
	const struct root *root = arg;

	if (level >= root->levels)
		return corrupt("tree", ref.addr, "level", level, root->levels);
	if (ref.gen > root->ref.gen)
		return corrupt("tree", ref.addr, "generation newer than the root's", ref.gen, root->ref.gen);
	return 0;
}

int tree_verify(struct cache *c, uint64_t id, const struct root *root)
{
	static const struct walk_ops ops = { .ref = verify_ref };

	return tree_walk(c, id, root, &ops, (void *)(uintptr_t)root);
}

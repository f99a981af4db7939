/*
 * Items in order, a leaf at a time.
 *
 * A cursor never stands on an interior node, and keeps no path: between two leaves the tree may have been changed at will
 * (or the root may be another one), so going on means seeking the key at which the last leaf's range ended. That costs one
 * descent for every leaf, a fraction of a microsecond against a hundred items, and there is nothing that could go stale.
 *
 * Reading ahead: when a leaf is missing, some of its following siblings that are missing, too, are offered with it; few at
 * first, and twice as many each time the cursor has gone on where it was. Siblings are what the parent at hand names: at its
 * last child there is nothing to offer, which costs one small read every few hundred leaves.
 */
#include <assert.h>
#include <errno.h>

#include "btree/mem.h"
#include "btree/tree_int.h"

#define AHEAD_MIN 4u
#define AHEAD_MAX 31u

int cursor_init(struct cursor *c, struct cache *cache, uint64_t id, bool copy)
{
	memset(c, 0, sizeof(*c));
	c->cache = cache;
	c->id = id;
	c->copy = copy;
	c->ahead = AHEAD_MIN;
	if (copy) {
		c->private.size = (uint16_t)cache_node_size(cache);
		c->private.buf = mem_alloc(cache_node_size(cache));
		if (!c->private.buf)
			return -ENOMEM;
	}
	return 0;
}

static void leave(struct cursor *c)
{
	if (c->leaf && !c->copy)
		node_unpin(c->leaf);
	c->leaf = NULL;
}

void cursor_release(struct cursor *c)
{
	leave(c);
	mem_free(c->private.buf);
	c->private.buf = NULL;
}

static void enter(struct cursor *c, struct node *leaf, unsigned at)
{
	if (c->copy) {
		c->private.nr = 0;
		c->private.level = leaf->level;
		node_copy_items(&c->private, leaf);
		c->leaf = &c->private;
	} else {
		node_pin(leaf);
		leave(c);
		c->leaf = leaf;
	}
	c->at = at;
}

/* Leaf i of this parent is missing: offers siblings to be loaded with it. */
static int missed(struct cursor *c, const struct node *parent, unsigned i, struct key low, unsigned ahead, struct miss *miss)
{
	int err = tree_missed(miss, node_child_ref(parent, i), c->id, parent->level - 1u, low);

	if (parent->level != 1)
		return err;
	for (unsigned at = i + 1; at < parent->nr && at <= i + ahead; at++)
		if (!tree_miss_add(c->cache, miss, node_child_ref(parent, at), node_key(parent, at)))
			break;
	return err;
}

int cursor_seek(struct cursor *c, const struct root *root, struct key key, struct miss *miss)
{
	bool in_order = c->leaf && !c->last && key_equal(key, c->next);
	unsigned ahead = in_order ? c->ahead : AHEAD_MIN;
	int err;

	if (!root->levels)
		goto none;
	for (;;) {
		unsigned level = root->levels - 1, i;
		struct ref ref = root->ref;
		struct key low = KEY_MIN, high = KEY_MAX;
		struct node *n = node_at(c->cache, ref.addr, ref.gen, c->id, level);

		c->miss_low = low;
		c->miss_high = high;
		if (!n)
			return tree_missed(miss, ref, c->id, level, low);
		while (level) {
			struct node *child;

			i = node_child(n, key);
			low = child_low(n, i, low);
			high = child_high(n, i, high);
			ref = node_child_ref(n, i);
			child = node_at(c->cache, ref.addr, ref.gen, c->id, --level);
			if (!child) {
				c->miss_low = low;
				c->miss_high = high;
				return missed(c, n, i, low, ahead, miss);
			}
			n = child;
		}
		/* Items of another node's range would come twice, or not in order. */
		err = tree_check_bounds(n, low, high);
		if (err) {
			c->miss_low = low;
			c->miss_high = high;
			return err;
		}
		i = node_search(n, key);
		if (i < n->nr) {
			enter(c, n, i);
			c->next = high;
			c->last = key_equal(high, KEY_MAX);
			c->ahead = ahead * 2 < AHEAD_MAX ? ahead * 2 : AHEAD_MAX;
			return 0;
		}
		if (key_equal(high, KEY_MAX))
			goto none;
		key = high;
	}
none:
	leave(c);
	c->last = true;
	return 1;
}

int cursor_item(struct cursor *c, struct key *ret_key, const void **ret_val, size_t *ret_len)
{
	const struct disk_slot *s;

	if (!c->leaf || c->at == c->leaf->nr)
		return 1;
	s = &node_slots(c->leaf)[c->at++];
	*ret_key = slot_key(s);
	*ret_val = c->leaf->buf + le16_get(s->val);
	*ret_len = le16_get(s->len);
	return 0;
}

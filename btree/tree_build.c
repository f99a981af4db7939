/*
 * Building a tree from left to right.
 *
 * Items come in order, so only the right edge of each level can still change: one node a level is held in memory. An item
 * that does not fit its leaf any more ends it: the leaf is written, both copies, and its reference becomes an item of the
 * level above, which may end the node there, and so on. The key of a reference is the first key of the leaf on its left edge;
 * slot 0 of a node above level 0 has KEY_MIN, as everywhere (node_format.h), so each level remembers where its node begins.
 *
 * A node's address is taken when its first item comes, since it stands in its header. All nodes have one generation, which
 * makes every child as old as its parent: what the format asks for.
 *
 * The root is the node of the lowest level that has only one. A level gets its first item when the level below has written
 * a node before its last, so no root has a single child, and no node is empty. Other nodes at the right edge may be small:
 * fill is a wish of the tree, not a rule.
 *
 * Nodes are filled to FILL_OF_16 sixteenths: full ones would all have to be split by the first changes that come.
 *
 * Every image is verified whole before it is written, as cache_write does: a node that went bad in memory, or an item that
 * its row refuses, must not reach the disk under a right checksum.
 */
#include "btree/tree_build.h"

#include <assert.h>
#include <errno.h>

#include "btree/err.h"
#include "btree/mem.h"

#define FILL_OF_16 15u

struct edge {
	struct node node;  /* buf NULL: no node of this level yet */
	struct key first;  /* where the node begins */
	uint64_t finished; /* nodes of this level that are written */
};

struct tree_build {
	struct tree_build_options opt;
	struct edge edge[NODE_LEVELS_MAX];
	unsigned char *image;
	struct key last;
	bool any, failed;
};

int tree_build_open(const struct tree_build_options *opt, struct tree_build **ret)
{
	struct tree_build *b = mem_zalloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->opt = *opt;
	b->image = mem_alloc_blocks(opt->node_size);
	if (!b->image) {
		mem_free(b);
		return -ENOMEM;
	}
	*ret = b;
	return 0;
}

void tree_build_close(struct tree_build *b)
{
	if (!b)
		return;
	for (unsigned i = 0; i < NODE_LEVELS_MAX; i++)
		mem_free(b->edge[i].node.buf);
	mem_free(b->image);
	mem_free(b);
}

/* An empty node at the right edge of this level, with addresses. */
static int begin_node(struct tree_build *b, unsigned level)
{
	uint32_t blocks = b->opt.node_size / BLOCK_SIZE;
	struct node *n = &b->edge[level].node;
	uint64_t addr, copy = 0;
	int err;

	if (!n->buf) {
		n->buf = mem_alloc_blocks(b->opt.node_size);
		if (!n->buf)
			return -ENOMEM;
		n->size = (uint16_t)b->opt.node_size;
		n->level = (uint8_t)level;
		n->tree = b->opt.tree;
		n->gen = b->opt.gen;
	}
	err = b->opt.alloc(b->opt.arg, false, blocks, &addr);
	if (!err && b->opt.copies)
		err = b->opt.alloc(b->opt.arg, true, blocks, &copy);
	if (err)
		return err;
	n->addr = addr;
	n->copy = copy;
	node_reset(n);
	return 0;
}

static int write_node(struct tree_build *b, const struct node *n)
{
	uint32_t blocks = b->opt.node_size / BLOCK_SIZE;
	int err;

	node_image(n, b->image);
	err = node_check(b->image, b->opt.node_size, b->opt.records);
	if (!err)
		err = bdev_write(b->opt.bdev, n->addr, b->image, blocks);
	if (!err && n->copy)
		err = bdev_write(b->opt.bdev, n->copy, b->image, blocks);
	return err;
}

static bool full(const struct node *n, size_t len)
{
	return node_used(n) + NODE_SLOT_BYTES + len > node_capacity(n->size) / 16 * FILL_OF_16;
}

/* An item goes to the end of a level; what does not fit any more is written, and goes to the level above. */
static int add_item(struct tree_build *b, unsigned level, struct key key, const void *val, size_t len)
{
	struct edge *e;
	int err;

	if (level == NODE_LEVELS_MAX)
		return -EFBIG;
	e = &b->edge[level];
	if (e->node.nr && full(&e->node, len)) {
		struct disk_ref ref = ref_put(node_ref(&e->node));

		err = write_node(b, &e->node);
		if (!err)
			err = add_item(b, level + 1, e->first, &ref, sizeof(ref));
		if (err)
			return err;
		e->finished++;
		e->node.nr = 0;
	}
	if (!e->node.nr) {
		err = begin_node(b, level);
		if (err)
			return err;
		e->first = key;
		if (level)
			key = KEY_MIN;
	}
	node_insert(&e->node, e->node.nr, key, val, (uint16_t)len);
	return 0;
}

int tree_build_add(struct tree_build *b, struct key key, const void *val, size_t len)
{
	int err;

	if (b->failed || len > node_value_max(b->opt.node_size) || key_equal(key, KEY_MAX) ||
	    (b->any && !key_less(b->last, key)))
		return -EINVAL;
	err = add_item(b, 0, key, val, len);
	b->failed = err;
	b->last = key;
	b->any = true;
	return err;
}

int tree_build_finish(struct tree_build *b, struct root *ret)
{
	int err = b->failed ? -EINVAL : 0;

	b->failed = true; /* once */
	if (!err && !b->any) {
		*ret = (struct root){ 0 };
		return 0;
	}
	for (unsigned level = 0; !err && level < NODE_LEVELS_MAX; level++) {
		struct edge *e = &b->edge[level];
		struct disk_ref ref = ref_put(node_ref(&e->node));

		assert(e->node.nr);
		err = write_node(b, &e->node);
		if (!err && !e->finished) {
			*ret = (struct root){ .ref = node_ref(&e->node), .levels = level + 1 };
			return 0;
		}
		if (!err)
			err = add_item(b, level + 1, e->first, &ref, sizeof(ref));
	}
	return err ? err : -EFBIG;
}

/*
 * The difference of two frozen roots, at a cost that follows from the difference and not from the trees.
 *
 * Each side is a stack of pinned nodes with a place in each: it *stands at* an entry, which is an item of a leaf or a whole
 * subtree not yet entered. An entry has a level (0 for an item, that of the node it is a slot of) and a bound: no item
 * of this side that is still to come has a smaller key. Everything follows from what the two sides stand at:
 *
 *	both at subtrees of the same reference	they are equal, whatever their bounds: both step over
 *	bounds differ				the one with the smaller bound cannot be anything the other is going to
 *						meet: a subtree is entered, an item is in the difference
 *	bounds equal, levels differ		the higher one is entered: what the lower one stands at may be in there
 *	bounds equal, both subtrees		different ones: both are entered
 *	both items of one key			compared; both step on
 *
 * Going by the smaller bound keeps the two in step, so that a subtree which both have is met by both at the same time, even
 * if it hangs at different depths or between different neighbours. Only where a shared subtree's range in one tree has grown
 * over a removed neighbour may it be entered needlessly; then what lies beside it was changed, and the cost is of that order.
 */
#include <assert.h>
#include <errno.h>

#include "btree/mem.h"
#include "btree/tree_int.h"

struct place {
	struct node *node; /* pinned */
	unsigned at;
	struct key low;	   /* of the node */
};

struct side {
	struct root root;
	bool started;	   /* the root has been entered or stepped over */
	unsigned depth;	   /* nodes on the stack */
	struct place stack[NODE_LEVELS_MAX];
	bool used;	   /* stands at an item that was given out: to be stepped over first */
};

struct diff {
	struct cache *cache;
	uint64_t id;
	struct side side[2];
};

/* What a side stands at. */
struct entry {
	bool end;
	unsigned level;	 /* 0: an item */
	struct key bound;
	struct ref ref;	 /* level > 0 */
	const void *val; /* level 0 */
	size_t len;
};

static struct entry stands_at(const struct side *s)
{
	const struct place *p;
	struct entry e = { .end = false };

	if (!s->started) {
		e.level = s->root.levels;
		e.bound = KEY_MIN;
		e.ref = s->root.ref;
		e.end = s->root.levels == 0;
		return e;
	}
	if (!s->depth) {
		e.end = true;
		return e;
	}
	p = &s->stack[s->depth - 1];
	e.level = p->node->level;
	if (e.level) {
		e.bound = child_low(p->node, p->at, p->low);
		e.ref = node_child_ref(p->node, p->at);
	} else {
		e.bound = node_key(p->node, p->at);
		e.val = node_val(p->node, p->at);
		e.len = node_len(p->node, p->at);
	}
	return e;
}

/* Over the entry it stands at, and out of the nodes that end there. */
static void step(struct side *s)
{
	s->used = false;
	if (!s->started) {
		s->started = true;
		return;
	}
	while (s->depth) {
		struct place *p = &s->stack[s->depth - 1];

		if (++p->at < p->node->nr)
			return;
		node_unpin(p->node);
		s->depth--;
	}
}

/* Leaves are about to be read one after the other: reads some together, but not what the other side has, too. */
static void read_ahead(struct diff *d, const struct side *s, const struct side *other)
{
	const struct place *p = &s->stack[s->depth - 1];
	const struct node *mine = p->node, *theirs = NULL;
	struct ref refs[32];
	struct key lows[32];
	unsigned n = 0, at = 0, slot;

	for (unsigned i = 0; i < other->depth; i++) {
		if (other->stack[i].node->level == 1) {
			theirs = other->stack[i].node;
			at = other->stack[i].at;
		}
	}
	slot = epoch_enter(cache_epoch(d->cache));
	for (unsigned i = p->at; i < mine->nr && n < 32; i++) {
		struct ref ref = node_child_ref(mine, i);

		while (theirs && at + 1u < theirs->nr && !key_less(node_key(mine, i), node_key(theirs, at + 1)))
			at++;
		if (theirs && at < theirs->nr && ref_equal(node_child_ref(theirs, at), ref))
			continue;
		if (cache_find(d->cache, ref.addr, ref.gen))
			continue;
		refs[n] = ref;
		lows[n++] = child_low(mine, i, p->low);
	}
	if (n > 1)
		cache_prefetch(d->cache, refs, lows, n, d->id, 0);
	epoch_exit(cache_epoch(d->cache), slot);
}

static bool in_memory(struct diff *d, struct ref ref)
{
	unsigned slot = epoch_enter(cache_epoch(d->cache));
	bool there = cache_find(d->cache, ref.addr, ref.gen) != NULL;

	epoch_exit(cache_epoch(d->cache), slot);
	return there;
}

/* Enters the subtree it stands at. */
static int descend(struct diff *d, struct side *s, const struct entry *e)
{
	const struct side *other = &d->side[s == &d->side[0]];
	struct node *n;
	int err;

	assert(s->depth < NODE_LEVELS_MAX);
	if (e->level == 1 && s->depth && !in_memory(d, e->ref))
		read_ahead(d, s, other);
	err = tree_fetch(d->cache, e->ref, d->id, e->level - 1, e->bound, &n);
	if (err)
		return err;
	s->started = true;
	s->stack[s->depth++] = (struct place){ .node = n, .low = e->bound };
	return 0;
}

int diff_open(struct cache *c, uint64_t id, const struct root *a, const struct root *b, struct diff **ret)
{
	struct diff *d = mem_zalloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->cache = c;
	d->id = id;
	d->side[0].root = *a;
	d->side[1].root = *b;
	*ret = d;
	return 0;
}

void diff_close(struct diff *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < 2; i++)
		for (struct side *s = &d->side[i]; s->depth; s->depth--)
			node_unpin(s->stack[s->depth - 1].node);
	mem_free(d);
}

/* Which sides move: bit 0 for a, bit 1 for b. */
static unsigned who_moves(const struct entry *a, const struct entry *b)
{
	if (a->end || b->end)
		return a->end ? 2 : 1;
	if (!key_equal(a->bound, b->bound))
		return key_less(a->bound, b->bound) ? 1 : 2;
	if (a->level != b->level)
		return a->level > b->level ? 1 : 2;
	return 3;
}

int diff_next(struct diff *d, struct diff_item *ret)
{
	struct side *a = &d->side[0], *b = &d->side[1];
	int err;

	if (a->used)
		step(a);
	if (b->used)
		step(b);
	for (;;) {
		struct entry ea = stands_at(a), eb = stands_at(b);
		unsigned moves;

		if (ea.end && eb.end)
			return 1;
		if (!ea.end && !eb.end && ea.level && ea.level == eb.level && ref_equal(ea.ref, eb.ref)) {
			step(a);
			step(b);
			continue;
		}
		moves = who_moves(&ea, &eb);
		if ((moves & 1 ? ea : eb).level) {
			err = moves & 1 ? descend(d, a, &ea) : 0;
			if (!err && moves & 2)
				err = descend(d, b, &eb);
			if (err)
				return err;
			continue;
		}
		if (moves == 3 && ea.len == eb.len && memcmp(ea.val, eb.val, ea.len) == 0) {
			step(a);
			step(b);
			continue;
		}
		a->used = moves & 1;
		b->used = moves & 2;
		*ret = (struct diff_item){ .key = moves & 1 ? ea.bound : eb.bound };
		if (moves & 1) {
			ret->a = ea.val;
			ret->a_len = ea.len;
		}
		if (moves & 2) {
			ret->b = eb.val;
			ret->b_len = eb.len;
		}
		return 0;
	}
}

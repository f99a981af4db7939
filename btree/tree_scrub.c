/*
 * A pass over the nodes of a frozen root, past the cache.
 *
 * The tree is walked downwards in key order with memory of its own: one place for each level above the leaves, and a window
 * of leaves, whose reads (two for each, with copies) are all in flight together. The pace is asked before every such
 * transfer, with nothing held but that memory.
 *
 * What is on the device and what is not. A node that is dirty in the cache has not been written: there is nothing to
 * verify, and its items are taken from memory, where it does not change any more, because the root is frozen. One that is
 * clean, or not in memory, has been written to both its places. The question is asked before the read, so a node that is
 * written in between is taken from memory once more, which is right as well.
 *
 * A copy that does not verify is read a second time before it counts as bad: another reader may just have been mending
 * it, and a device may do better when asked again. What it is mended from is, in this order, its other copy or the
 * clean node in memory. Mending writes the bytes that this (address, generation) has had all the time, so readers of either
 * copy see what they should whenever they come; and the address is not handed out again, because the caller keeps the root
 * reachable.
 */
#include "btree/tree_scrub.h"

#include <errno.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/tree_int.h"

#define LEAVES 16u /* of a window */

/* One node being looked at. */
struct place {
	struct ref ref;
	struct key low, high;
	struct node own;       /* its content when it comes from the device */
	struct node *dirty;    /* pinned: it comes from memory */
	const struct node *is; /* either; NULL: lost */
	unsigned char *buf[2];
	struct bio bio[2];
	struct iovec iov[2];
};

struct pass {
	struct cache *c;
	struct tree_scrub *o;
	uint64_t id;
	unsigned char *memory;
	struct place *at; /* LEAVES, then one for each level from 1 on */
};

static unsigned copies_of(struct ref ref)
{
	return ref.copy ? 2 : 1;
}

static uint64_t address(struct ref ref, unsigned copy)
{
	return copy ? ref.copy : ref.addr;
}

/* The node in memory, pinned, in one of the states wanted; or NULL. */
static struct node *from_memory(struct pass *p, struct ref ref, bool dirty)
{
	unsigned slot = epoch_enter(cache_epoch(p->c));
	struct node *n = cache_find(p->c, ref.addr, ref.gen);

	if (n && !!(atomic_load(&n->state) & NODE_DIRTY) == dirty)
		node_pin(n);
	else
		n = NULL;
	epoch_exit(cache_epoch(p->c), slot);
	return n;
}

/* Starts reading the copies of each, waits for all. What could not be read has an error in its bio. */
static void read_all(struct pass *p, struct place *at, unsigned n)
{
	struct bio *bios[2 * LEAVES];
	struct bio_group group;
	unsigned started = 0;

	bio_group_init(&group);
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < copies_of(at[i].ref) && !at[i].dirty; k++) {
			struct bio *bio = &at[i].bio[k];

			at[i].iov[k] = (struct iovec){ at[i].buf[k], p->c->node_size };
			*bio = (struct bio){
				.op = BIO_READ,
				.addr = address(at[i].ref, k),
				.iov = &at[i].iov[k],
				.iovcnt = 1,
				.group = &group,
			};
			if (cache_inside_device(p->c, bio->addr))
				bios[started++] = bio;
			else
				bio->err = -EUCLEAN;
		}
	if (!started)
		return;
	bdev_submit(p->c->bdev, bios, started);
	(void)bdev_wait(p->c->bdev, &group);
}

/* Whether what was read is the node; reads it again if not. 0: yes, and at->own is filled in. */
static int verify(struct pass *p, struct place *at, unsigned copy, unsigned level)
{
	struct bio *bio = &at->bio[copy];
	struct key high = at->high;
	int err = bio->err;

	if (err != -EUCLEAN && (err || !cache_plausible(p->c, at->buf[copy], at->ref)))
		err = bdev_read(p->c->bdev, bio->addr, at->buf[copy], p->c->node_size / BLOCK_SIZE);
	if (err) {
		err_log(LOG_ERROR, "scrub: cannot read node %llu at block %llu: error %d",
			(unsigned long long)at->ref.addr, (unsigned long long)bio->addr, -err);
		return err;
	}
	at->own = (struct node){ .buf = at->buf[copy], .size = (uint16_t)p->c->node_size };
	err = cache_decode(p->c, &at->own, at->ref, p->id, level, at->low);
	return err ? err : tree_check_bounds(&at->own, at->low, high);
}

/* No copy verifies: memory may have it. Makes an image of it in buf[0]. */
static bool recall(struct pass *p, struct place *at)
{
	struct node *n = from_memory(p, at->ref, false);
	bool right;

	if (!n)
		return false;
	node_image(n, at->buf[0]);
	right = !node_check(at->buf[0], p->c->node_size, p->c->records[p->id]);
	node_unpin(n);
	return right;
}

static void tell(struct pass *p, const struct place *at, unsigned level, bool copy, bool mended, bool lost, int err)
{
	struct scrub_bad_node bad = {
		.ref = at->ref,
		.level = level,
		.copy = copy,
		.mended = mended,
		.lost = lost,
		.low = at->low,
		.high = at->high,
		.err = err,
	};

	if (p->o->bad)
		p->o->bad(p->o->arg, &bad);
}

/* Verifies what read_all has read, mends, and decides where the content comes from. */
static void examine(struct pass *p, struct place *at, unsigned level)
{
	unsigned n = copies_of(at->ref), good = n;
	int err[2] = { 0 };
	bool lost;

	if (at->dirty) {
		at->is = at->dirty;
		return;
	}
	p->o->nodes++;
	at->is = NULL;
	for (unsigned k = 0; k < n; k++) {
		/* The same bytes need no second look. */
		if (k && good == 0 && !at->bio[1].err && !memcmp(at->buf[0], at->buf[1], p->c->node_size))
			continue;
		err[k] = verify(p, at, k, level);
		if (!err[k] && good == n)
			good = k;
	}
	if (good == n && recall(p, at))
		good = 0;
	lost = good == n;
	for (unsigned k = 0; k < n; k++)
		if (err[k])
			tell(p, at, level, k, !lost && cache_mend(p->c, at->ref, k, at->buf[good]), lost, err[k]);
	if (lost)
		return;
	/* Verifying the second may have left at->own with that one's bytes, or half of them. */
	at->own = (struct node){
		.buf = at->buf[good],
		.size = (uint16_t)p->c->node_size,
		.addr = at->ref.addr,
		.copy = at->ref.copy,
		.gen = at->ref.gen,
		.tree = p->id,
		.level = (uint8_t)level,
	};
	node_adopt(&at->own);
	at->is = &at->own;
}

static int prepare(struct pass *p, struct place *at, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		at[i].dirty = from_memory(p, at[i].ref, true);
		if (!at[i].dirty)
			bytes += (uint64_t)copies_of(at[i].ref) * p->c->node_size;
	}
	return p->o->pace && bytes ? p->o->pace(p->o->arg, bytes) : 0;
}

static void leave(struct place *at, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (at[i].dirty) {
			node_unpin(at[i].dirty);
			at[i].dirty = NULL;
		}
}

static int give_items(struct pass *p, const struct place *at)
{
	const struct node *n = at->is;
	int err = 0;

	for (unsigned i = 0; n && p->o->item && !err && i < n->nr; i++)
		if (!key_less(node_key(n, i), p->o->from))
			err = p->o->item(p->o->arg, node_key(n, i), node_val(n, i), node_len(n, i));
	if (err)
		return err;
	return p->o->leaf ? p->o->leaf(p->o->arg, at->high) : 0;
}

static int visit_leaves(struct pass *p, unsigned n)
{
	int err = prepare(p, p->at, n);

	if (!err) {
		read_all(p, p->at, n);
		for (unsigned i = 0; i < n; i++)
			examine(p, &p->at[i], 0);
	}
	for (unsigned i = 0; !err && i < n; i++)
		err = give_items(p, &p->at[i]);
	leave(p->at, n);
	return err;
}

static int visit(struct pass *p, unsigned level);

static bool wanted(const struct pass *p, struct ref ref, struct key high)
{
	return ref.gen > p->o->born_after && (key_less(p->o->from, high) || key_equal(high, KEY_MAX));
}

static void aim(struct place *at, struct ref ref, struct key low, struct key high)
{
	at->ref = ref;
	at->low = low;
	at->high = high;
}

/* The children of the node in this place, which is on this level. */
static int visit_children(struct pass *p, const struct place *at, unsigned level)
{
	const struct node *n = at->is;
	unsigned window = 0;
	int err = 0;

	for (unsigned i = 0; !err && i < n->nr; i++) {
		struct key low = child_low(n, i, at->low), high = child_high(n, i, at->high);

		if (!wanted(p, node_child_ref(n, i), high))
			continue;
		if (level > 1) {
			aim(&p->at[LEAVES + level - 2], node_child_ref(n, i), low, high);
			err = visit(p, level - 1);
			continue;
		}
		aim(&p->at[window++], node_child_ref(n, i), low, high);
		if (window == LEAVES) {
			err = visit_leaves(p, window);
			window = 0;
		}
	}
	return !err && window ? visit_leaves(p, window) : err;
}

/* The node that its level's place aims at, and all below it. */
static int visit(struct pass *p, unsigned level)
{
	struct place *at = &p->at[LEAVES + level - 1];
	int err = prepare(p, at, 1);

	if (!err) {
		read_all(p, at, 1);
		examine(p, at, level);
		if (at->is)
			err = visit_children(p, at, level);
	}
	leave(at, 1);
	return err;
}

int tree_scrub(struct cache *c, uint64_t id, const struct root *root, struct tree_scrub *o)
{
	struct pass p = { .c = c, .o = o, .id = id };
	size_t places = LEAVES + (root->levels > 1 ? root->levels - 1 : 0);
	int err = 0;

	if (!root->levels || !wanted(&p, root->ref, KEY_MAX))
		return 0;
	p.memory = mem_alloc_blocks(places * 2 * c->node_size);
	p.at = mem_zalloc_array(places, sizeof(*p.at));
	if (!p.memory || !p.at)
		err = -ENOMEM;
	for (size_t i = 0; !err && i < places; i++)
		for (unsigned k = 0; k < 2; k++)
			p.at[i].buf[k] = p.memory + (2 * i + k) * c->node_size;
	if (!err) {
		aim(&p.at[root->levels > 1 ? LEAVES + root->levels - 2 : 0], root->ref, KEY_MIN, KEY_MAX);
		err = root->levels > 1 ? visit(&p, root->levels - 1) : visit_leaves(&p, 1);
	}
	mem_free(p.memory);
	mem_free(p.at);
	return err;
}

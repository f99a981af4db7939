/*
 * salvage_plan.c - which leaf says what about which keys
 *
 * The problem: the device is full of nodes that verify: those of live, of snapshots, of older states whose blocks
 * have not been reused, of transactions. What was live's state?
 *
 * The idea: nodes are never changed, and a reference {address, generation} names one content for ever. So a root
 * leads to exactly its own state, however old the nodes below it are. Nodes that no valid node refers to are
 * *tops*: roots, and what is left of trees whose upper parts are gone. Tops are walked downwards, the best one
 * first. Each leaf *covers* the range of keys its parent gives it, as far as nothing has covered that before; so
 * what a newer state says of a key stands, also that there is none. What a reference names and cannot be read stays
 * open, for an older top to fill, and is lost where none does.
 *
 * The best one is the *base*, and it speaks for all keys:
 *
 *	the root that the superblock names, where it can be read. Nothing younger than that checkpoint is looked at: what
 *	came later stands in the log.
 *	without a superblock: of the highest trees the newest one that is there as a whole, else the newest. (Highest,
 *	because the pieces of a lost tree are whole trees, too, only lower.) The log goes on from there.
 *
 * All other tops follow from new to old, and a top that is not known to be a root speaks only for the keys from its
 * first to its last. Where the superblock's root is gone, or the log does not reach back to the base, they come in
 * that order before the base, so that pieces of a lost newer tree win over an older whole one. `wide` is the root
 * that then fills the rest.
 *
 * What can go wrong, and nothing in the nodes could tell:
 *
 *  - A range filled from older nodes has what was deleted or overwritten since. Extents in there may lead to blocks
 *    that are other data now; checksums tell.
 *  - Without a superblock: a transaction's tree that was written to make room in memory looks like a root, and may
 *    be newer than live's. A state before a rollback looks newer than the one after it. A tree that has become
 *    lower looks like a piece of the higher one before.
 *  - Nodes of a filesystem that was on the device before this one verify as well. Trees in which an item says so
 *    are left out; parts of them in which none does can still fill what is missing.
 *  - A user who can put blocks where he likes can make a file look like nodes. Not with a superblock: then the base
 *    is ours.
 *
 * Bounds. Levels go down by one with each step, so a walk is at most 16 deep and cannot go in circles. A node above
 * the leaves is walked once: what it can give, it gives then. That its keys lie in its parent's range follows from
 * the table, without reading it. Covered ranges are merged as they touch, so each step costs the logarithm of what
 * there is; pieces are at most as many as references to leaves, twice.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/salvage_int.h"

static int covered_cmp(const struct salvage_covered *a, const struct salvage_covered *b)
{
	return key_cmp(a->low, b->low);
}

RB_PROTOTYPE(salvage_cover, salvage_covered, entry, )
RB_GENERATE(salvage_cover, salvage_covered, entry, covered_cmp)

/* ---- references ---- */

static bool before(const struct salvage_node *n, uint64_t addr, uint64_t gen)
{
	return n->addr != addr ? n->addr < addr : n->gen < gen;
}

size_t salvage_find(const struct salvage *s, struct ref ref, unsigned tree, unsigned level)
{
	size_t from = 0, to = s->n_nodes;

	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (before(&s->nodes[mid], ref.addr, ref.gen))
			from = mid + 1;
		else
			to = mid;
	}
	if (from < s->n_nodes) {
		const struct salvage_node *n = &s->nodes[from];

		if (n->addr == ref.addr && n->gen == ref.gen && n->copy == ref.copy && n->tree == tree &&
		    n->level == level)
			return from;
	}
	return SALVAGE_NONE;
}

struct order {
	uint8_t level;
	uint64_t gen, addr;
	size_t i;
};

static int upwards(const void *pa, const void *pb)
{
	const struct order *a = pa, *b = pb;

	if (a->level != b->level)
		return a->level - b->level;
	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static int newest_first(const void *pa, const void *pb)
{
	const struct order *a = pa, *b = pb;

	if (a->gen != b->gen)
		return a->gen > b->gen ? -1 : 1;
	if (a->level != b->level)
		return b->level - a->level;
	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* Those nodes that `want` says, in an order. */
static int list_nodes(const struct salvage *s, bool (*want)(const struct salvage *, const struct salvage_node *),
		      int (*cmp)(const void *, const void *), struct order **ret, size_t *ret_n)
{
	struct order *o = NULL;
	size_t n = 0, cap = 0;

	for (size_t i = 0; i < s->n_nodes; i++) {
		const struct salvage_node *x = &s->nodes[i];

		if (!want(s, x))
			continue;
		if (mem_grow((void **)&o, &cap, n + 1, sizeof(*o))) {
			mem_free(o);
			return -ENOMEM;
		}
		o[n++] = (struct order){ x->level, x->gen, x->addr, i };
	}
	if (n)
		qsort(o, n, sizeof(*o), cmp);
	*ret = o;
	*ret_n = n;
	return 0;
}

static bool is_interior(const struct salvage *s, const struct salvage_node *n)
{
	(void)s;
	return n->level > 0;
}

static struct ref child_ref(const void *buf, unsigned i)
{
	const struct disk_node *h = buf;
	const struct disk_slot *slots = (const struct disk_slot *)(h + 1);

	return ref_get((const struct disk_ref *)((const uint8_t *)buf + le16_get(slots[i].val)));
}

static struct key child_key(const void *buf, unsigned i)
{
	return slot_key(&((const struct disk_slot *)((const struct disk_node *)buf + 1))[i]);
}

static void link_node(struct salvage *s, struct salvage_node *n, const void *buf)
{
	bool complete = true;

	for (unsigned i = 0; i < le16_get(((const struct disk_node *)buf)->nr); i++) {
		size_t child = salvage_find(s, child_ref(buf, i), n->tree, n->level - 1u);

		if (child == SALVAGE_NONE) {
			complete = false;
			continue;
		}
		s->nodes[child].referenced = true;
		complete &= s->nodes[child].complete;
		n->ours |= s->nodes[child].ours;
		n->foreign |= s->nodes[child].foreign;
	}
	n->complete = complete;
}

/* From the lowest level up, so that what is below a node is known when it is reached. */
int salvage_link(struct salvage *s)
{
	struct order *o;
	size_t n;
	int err = list_nodes(s, is_interior, upwards, &o, &n);

	if (err)
		return err;
	for (size_t i = 0; i < n; i++) {
		struct salvage_node *x = &s->nodes[o[i].i];

		if (s->opt.progress && i % 256 == 0)
			s->opt.progress(s->opt.arg, "reading references", i, n);
		if (salvage_read(s, x, s->scratch))
			x->walked = true; /* gone since; of no use */
		else
			link_node(s, x, s->scratch);
	}
	mem_free(o);
	return 0;
}

/* Whether a is to be believed rather than b. */
static bool better(const struct salvage *s, const struct salvage_node *a, const struct salvage_node *b)
{
	/* Made over another one: pieces of that one's higher tree need not say so, but ours as a whole does. */
	bool a_ours = s->n_ids > 1 && a->ours && a->complete, b_ours = s->n_ids > 1 && b->ours && b->complete;

	if (a_ours != b_ours)
		return a_ours;
	if (a->level != b->level)
		return a->level > b->level;
	return a->complete != b->complete ? a->complete : a->gen > b->gen;
}

size_t salvage_newest_root(const struct salvage *s, uint64_t gen_max)
{
	size_t best = SALVAGE_NONE;

	for (size_t i = 0; i < s->n_nodes; i++) {
		const struct salvage_node *n = &s->nodes[i];

		if (n->tree != TREE_FILES || n->referenced || n->walked || n->foreign || n->gen > gen_max)
			continue;
		if (best == SALVAGE_NONE || better(s, n, &s->nodes[best]))
			best = i;
	}
	return best;
}

/* ---- what is covered ---- */

/* The last covered range that begins at or before a key. */
static struct salvage_covered *floor_of(struct salvage *s, struct key key)
{
	struct salvage_covered want = { .low = key }, *c = RB_NFIND(salvage_cover, &s->cover, &want);

	if (c && key_equal(c->low, key))
		return c;
	return c ? RB_PREV(salvage_cover, &s->cover, c) : RB_MAX(salvage_cover, &s->cover);
}

static bool is_covered(struct salvage *s, struct key low, struct key high)
{
	struct salvage_covered *c = floor_of(s, low);

	return c && !key_less(c->high, high);
}

static int add_piece(struct salvage *s, struct key low, struct key high, size_t leaf, int err)
{
	if (leaf != SALVAGE_NONE && (key_less(s->nodes[leaf].last, low) || !key_less(s->nodes[leaf].first, high)))
		return 0; /* it says that there is nothing */
	if (mem_grow((void **)&s->pieces, &s->cap_pieces, s->n_pieces + 1, sizeof(*s->pieces)))
		return -ENOMEM;
	s->pieces[s->n_pieces++] = (struct salvage_piece){ low, high, leaf, err };
	return 0;
}

/* Gives what is not covered yet of low <= key < high to a leaf (or to what is lost, with why). */
static int cover(struct salvage *s, struct key low, struct key high, size_t leaf, int why)
{
	struct salvage_covered *c = floor_of(s, low), *all = NULL, *next;
	struct key at = low;
	int err = 0;

	if (!key_less(low, high))
		return 0;
	if (!c)
		c = RB_MIN(salvage_cover, &s->cover);
	else if (key_less(c->high, low))
		c = RB_NEXT(salvage_cover, &s->cover, c);
	for (; c && !key_less(high, c->low) && !err; c = next) {
		next = RB_NEXT(salvage_cover, &s->cover, c);
		if (key_less(at, c->low))
			err = add_piece(s, at, c->low, leaf, why);
		if (key_less(at, c->high))
			at = c->high;
		if (!all) {
			all = c;
			continue;
		}
		RB_REMOVE(salvage_cover, &s->cover, c);
		mem_free(c);
	}
	if (!err && key_less(at, high)) {
		err = add_piece(s, at, high, leaf, why);
		at = high;
	}
	if (err)
		return err;
	if (!all) {
		all = mem_alloc(sizeof(*all));
		if (!all)
			return -ENOMEM;
		*all = (struct salvage_covered){ .low = low, .high = high };
		RB_INSERT(salvage_cover, &s->cover, all);
		return 0;
	}
	/* Its place in the order stays: nothing lies between the two. */
	if (key_less(low, all->low))
		all->low = low;
	if (key_less(all->high, at))
		all->high = at;
	return 0;
}

/* ---- walking ---- */

/* A range of keys. open: that end is not known, it is where the keys below end. */
struct range {
	struct key low, high;
	bool open_low, open_high;
};

static int note_missing(struct salvage *s, const struct range *r, int err)
{
	if (r->open_low || r->open_high)
		return 0;
	if (mem_grow((void **)&s->missing, &s->cap_missing, s->n_missing + 1, sizeof(*s->missing)))
		return -ENOMEM;
	s->missing[s->n_missing++] = (struct salvage_piece){ r->low, r->high, SALVAGE_NONE, err };
	return 0;
}

/* Whether what the table knows of a node fits the range that its parent gives it. */
static bool fits(const struct salvage_node *n, const struct range *r)
{
	bool low, high;

	if (n->level && key_less(n->last, n->first))
		return true; /* a single child */
	low = r->open_low || (n->level ? key_less(r->low, n->first) : !key_less(n->first, r->low));
	high = r->open_high || key_less(n->last, r->high);
	return low && high;
}

static int walk(struct salvage *s, size_t i, const struct range *r)
{
	struct salvage_node *n = &s->nodes[i];
	uint8_t *buf = s->path + (size_t)n->level * NODE_SIZE_MAX;
	unsigned nr;
	int err;

	if (n->level == 0)
		return cover(s, r->open_low ? n->first : r->low, r->open_high ? key_next(n->last) : r->high, i, 0);
	if (n->walked)
		return 0;
	n->walked = true;
	err = salvage_read(s, n, buf);
	if (err)
		return note_missing(s, r, err);
	nr = le16_get(((const struct disk_node *)buf)->nr);
	for (unsigned k = 0; k < nr && !err; k++) {
		struct range c = {
			.low = k ? child_key(buf, k) : r->low,
			.high = k + 1 < nr ? child_key(buf, k + 1) : r->high,
			.open_low = k == 0 && r->open_low,
			.open_high = k + 1 == nr && r->open_high,
		};
		size_t child;

		if (!c.open_low && !c.open_high && is_covered(s, c.low, c.high))
			continue;
		child = salvage_find(s, child_ref(buf, k), n->tree, n->level - 1u);
		if (child == SALVAGE_NONE)
			err = note_missing(s, &c, -EBADMSG);
		else if (!fits(&s->nodes[child], &c))
			err = note_missing(s, &c, -EUCLEAN);
		else
			err = walk(s, child, &c);
	}
	return err;
}

/* A tree that speaks for all keys. */
static int walk_all(struct salvage *s, size_t i)
{
	const struct range all = { .low = KEY_MIN, .high = KEY_MAX };

	return i == SALVAGE_NONE ? 0 : walk(s, i, &all);
}

static bool is_top(const struct salvage *s, const struct salvage_node *n)
{
	return n->tree == TREE_FILES && !n->referenced && !n->foreign &&
	       n->gen <= (s->super_found ? s->super.gen : UINT64_MAX);
}

static int walk_tops(struct salvage *s)
{
	const struct range open = { .open_low = true, .open_high = true };
	struct order *o;
	size_t n, was;
	int err = list_nodes(s, is_top, newest_first, &o, &n);

	if (err)
		return err;
	for (size_t i = 0; i < n && !err && !is_covered(s, KEY_MIN, KEY_MAX); i++) {
		if (s->opt.progress && i % 64 == 0)
			s->opt.progress(s->opt.arg, "putting together", i, n);
		was = s->n_pieces;
		err = o[i].i == s->wide ? walk_all(s, o[i].i) : walk(s, o[i].i, &open);
		if (o[i].i != s->wide)
			s->n_older += s->n_pieces - was;
	}
	mem_free(o);
	return err;
}

static int by_key(const void *pa, const void *pb)
{
	return key_cmp(((const struct salvage_piece *)pa)->low, ((const struct salvage_piece *)pb)->low);
}

int salvage_plan(struct salvage *s)
{
	int err;

	if (s->super_found && !s->super.files.levels)
		return 0; /* empty, and known to be */
	s->path = mem_alloc_blocks((size_t)NODE_LEVELS_MAX * NODE_SIZE_MAX);
	if (!s->path)
		return -ENOMEM;
	err = walk_all(s, s->base);
	if (!err)
		err = walk_tops(s);
	if (!err && s->super_found && s->base == SALVAGE_NONE)
		err = note_missing(s, &(struct range){ .low = KEY_MIN, .high = KEY_MAX }, -EBADMSG);
	for (size_t i = 0; i < s->n_missing && !err; i++)
		err = cover(s, s->missing[i].low, s->missing[i].high, SALVAGE_NONE, s->missing[i].err);
	if (!err && s->n_pieces)
		qsort(s->pieces, s->n_pieces, sizeof(*s->pieces), by_key);
	if (!err && s->n_older)
		err_log(LOG_WARNING, "salvage: %" PRIu64 " ranges of keys come from older trees or from parts of trees",
			s->n_older);
	salvage_plan_release(s);
	return err;
}

/* What only planning needs. */
void salvage_plan_release(struct salvage *s)
{
	struct salvage_covered *c, *next;

	for (c = RB_MIN(salvage_cover, &s->cover); c; c = next) {
		next = RB_NEXT(salvage_cover, &s->cover, c);
		RB_REMOVE(salvage_cover, &s->cover, c);
		mem_free(c);
	}
	mem_free(s->path);
	mem_free(s->missing);
	s->path = NULL;
	s->missing = NULL;
	s->n_missing = s->cap_missing = 0;
}

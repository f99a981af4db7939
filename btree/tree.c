/*
 * Reading a tree, and changing it in two steps.
 *
 * Reading goes from reference to reference through the cache's hash. Nothing is locked, counted or pinned on the way: the
 * caller's epoch keeps every node it can meet, and for a root that can change the caller's lock keeps the content.
 *
 * Changing. A group of changes must be made as a whole or not at all, must not wait for the device under the lock, and
 * must not run out of memory or space half way. So tree_plan looks first: it visits every node on the way to every
 * change, which all have to be in memory, and computes how many nodes may be born at most (tree_split.c has the proof).
 * tree_apply then makes the changes one after the other, in key order, and merely takes what was supplied.
 *
 * tree_apply goes leaf by leaf. It *seeks* a leaf without touching anything, makes all changes that lie in the leaf's
 * range, and only then *fixes* the shape: removes the leaf if it is empty, merges it if it has become small, and the same
 * above it for every node whose range is done. The first real change makes the path changeable, top down: a node that is not
 * is copied to a new address, and the copy's address is put into its parent, which has just been made changeable itself.
 * A leaf that loses all its items to one range is dropped without being copied. A split voids the path, and the next change
 * seeks again. Making and fixing in this order matters: were an empty leaf removed before the last change in its range, a
 * later put in that range would go to its left neighbour, which was not planned and need not be in memory.
 *
 *  T1. Above level 0, child i of a node holds keys in [key i, key i+1), the first from the node's own lower bound, the last
 *	to the node's own upper bound. Leaves are at level 0 all.
 *  T2. No node is empty. The empty tree has no levels and no root.
 *  T3. A node is never changed unless it is changeable (node_changeable): in the tree's present generation, never written
 *	and not about to be. Then nobody reaches it but through this tree's root.
 *  T4. A node's generation is not less than its children's.
 *  T5. t->dirty has exactly the t->dirty_nodes nodes born here that are dirty, neither released nor taken over by who
 *	writes them.
 *  T6. tree_apply puts each node that leaves the tree into released[] once, and no other.
 *
 * Between the two steps a clean node may be evicted by another thread. Its memory is safe, being in our epoch, but the hash
 * does not find it any more; so tree_plan leaves a list of the nodes it saw, which tree_apply falls back to. Pinning them
 * all was rejected: two atomic operations per node for what hardly ever happens.
 */
#include "btree/tree.h"

#include <assert.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/tree_int.h"

uint32_t tree_value_max(uint32_t node_size)
{
	return node_value_max(node_size);
}

void tree_init(struct tree *t, struct cache *c, uint64_t id, struct root root, uint64_t gen, bool copies)
{
	*t = (struct tree){ .cache = c, .id = id, .root = root, .gen = gen, .copies = copies };
	TAILQ_INIT(&t->dirty);
}

/* ---- what is not in memory ---- */

int tree_missed(struct miss *m, struct ref ref, uint64_t id, unsigned level, struct key low)
{
	m->ref = ref;
	m->tree = id;
	m->level = level;
	m->low = low;
	m->n_ahead = 0;
	return -EAGAIN;
}

bool tree_miss_add(struct cache *c, struct miss *m, struct ref ref, struct key low)
{
	if (m->n_ahead == sizeof(m->ahead) / sizeof(m->ahead[0]))
		return false;
	if (!cache_find(c, ref.addr, ref.gen)) {
		m->ahead[m->n_ahead] = ref;
		m->ahead_low[m->n_ahead++] = low;
	}
	return true;
}

int tree_fault(struct cache *c, struct miss *m)
{
	struct ref refs[1 + sizeof(m->ahead) / sizeof(m->ahead[0])];
	struct key lows[sizeof(refs) / sizeof(refs[0])];
	struct node *n;
	int err;

	err = mem_grow((void **)&m->pinned, &m->cap_pinned, m->n_pinned + 1, sizeof(*m->pinned));
	if (err)
		return err;
	if (m->n_ahead) {
		refs[0] = m->ref;
		lows[0] = m->low;
		memcpy(refs + 1, m->ahead, m->n_ahead * sizeof(*refs));
		memcpy(lows + 1, m->ahead_low, m->n_ahead * sizeof(*lows));
		cache_prefetch(c, refs, lows, m->n_ahead + 1, m->tree, m->level);
		m->n_ahead = 0;
	}
	err = cache_load(c, m->ref, m->tree, m->level, m->low, &n);
	if (!err)
		m->pinned[m->n_pinned++] = n;
	return err;
}

void tree_miss_release(struct miss *m)
{
	for (size_t i = 0; i < m->n_pinned; i++)
		node_unpin(m->pinned[i]);
	mem_free(m->pinned);
	mem_free(m->seen);
	m->pinned = m->seen = NULL;
	m->n_pinned = m->cap_pinned = m->n_seen = m->cap_seen = m->n_ahead = 0;
}

int tree_check_bounds(const struct node *n, struct key low, struct key high)
{
	unsigned first = n->level > 0; /* slot 0 of an interior node says nothing */

	if (first < n->nr && (n->level ? !key_less(low, node_key(n, first)) : key_less(node_key(n, 0), low)))
		return corrupt("node", n->addr, "key below the node's range", node_key(n, first).obj, low.obj);
	if (first < n->nr && !key_less(node_key(n, n->nr - 1u), high))
		return corrupt("node", n->addr, "key behind the node's range", node_key(n, n->nr - 1u).obj, high.obj);
	return 0;
}

/* ---- reading ---- */

int tree_get(struct cache *c, const struct root *root, uint64_t id, struct key key, const void **ret_val, size_t *ret_len,
	     struct miss *miss)
{
	struct ref ref = root->ref;
	struct key low = KEY_MIN;
	unsigned level = root->levels;
	struct node *n;
	unsigned i;

	if (!level)
		return -ENOENT;
	for (;;) {
		n = node_at(c, ref.addr, ref.gen, id, --level);
		if (!n)
			return tree_missed(miss, ref, id, level, low);
		if (!level)
			break;
		i = node_child(n, key);
		low = child_low(n, i, low);
		ref = node_child_ref(n, i);
	}
	i = node_search(n, key);
	if (!node_has(n, i, key))
		return -ENOENT;
	*ret_val = node_val(n, i);
	*ret_len = node_len(n, i);
	return 0;
}

int tree_floor(struct cache *c, const struct root *root, uint64_t id, struct key key, struct key *ret_key,
	       const void **ret_val, size_t *ret_len, struct miss *miss)
{
	/* Where to go if the leaf has only greater keys: the nearest subtree to the left, and there to the right end. */
	struct { struct ref ref; struct key low; unsigned level; } left = { .level = 0 };
	struct ref ref = root->ref;
	struct key low = KEY_MIN;
	unsigned level = root->levels, i;
	bool rightmost = false;
	struct node *n;

	if (!level)
		return -ENOENT;
	for (;;) {
		n = node_at(c, ref.addr, ref.gen, id, --level);
		if (!n)
			return tree_missed(miss, ref, id, level, low);
		if (level) {
			i = rightmost ? n->nr - 1u : node_child(n, key);
			if (i && !rightmost) {
				left.ref = node_child_ref(n, i - 1);
				left.low = child_low(n, i - 1, low);
				left.level = level;
			}
			low = child_low(n, i, low);
			ref = node_child_ref(n, i);
			continue;
		}
		i = rightmost ? n->nr : slots_below(node_slots(n), n->nr, key, true);
		if (i)
			break;
		if (!left.level)
			return -ENOENT;
		ref = left.ref;
		low = left.low;
		level = left.level;
		rightmost = true;
	}
	if (key_less(node_key(n, i - 1), low))
		return corrupt("node", n->addr, "key below the node's range", node_key(n, i - 1).obj, low.obj);
	*ret_key = node_key(n, i - 1);
	*ret_val = node_val(n, i - 1);
	*ret_len = node_len(n, i - 1);
	return 0;
}

/* ---- planning ---- */

struct planner {
	struct tree *tree;
	struct tree_plan *plan;
	struct miss *miss;
	size_t i;	 /* the change looked at */
	struct key from; /* a range goes on from here */
	uint64_t copies, visited;
	struct split_bound bound;
};

/* What a subtree was found to need. */
struct needs {
	bool touched;	/* something in it changes */
	uint64_t first; /* 1: its top node may overflow as it is */
	uint64_t bytes; /* that may be inserted into its top node */
};

static struct key later(struct key a, struct key b)
{
	return key_less(a, b) ? b : a;
}

/* Notes a node on the way, and whether it will have to be copied if something in it changes. */
static int visit(struct planner *pl, struct node *n)
{
	struct miss *m = pl->miss;

	pl->visited++;
	if (node_changeable(pl->tree, n))
		return 0;
	if (mem_grow((void **)&m->seen, &m->cap_seen, m->n_seen + 1, sizeof(*m->seen)))
		return -ENOMEM;
	m->seen[m->n_seen++] = n;
	return 0;
}

static int call_old(struct planner *pl, const struct change *ch, const struct node *n, unsigned from, unsigned to)
{
	int err = 0;

	for (unsigned i = from; !err && pl->plan->old && i < to; i++)
		err = pl->plan->old(pl->plan->arg, ch, node_key(n, i), node_val(n, i), node_len(n, i));
	return err;
}

/* Whether a range takes all of a leaf and nothing else is to be done in it: apply then drops it without copying. */
static bool covers(const struct tree_plan *p, size_t i, const struct node *leaf, unsigned from, unsigned to, struct key high)
{
	return from == 0 && to == leaf->nr &&
	       (!key_less(p->changes[i].end, high) || i + 1 == p->n || !key_less(p->changes[i + 1].key, high));
}

/* All changes in the range of this leaf. */
static int plan_leaf(struct planner *pl, const struct node *n, struct key high, struct needs *ret)
{
	const struct tree_plan *p = pl->plan;
	bool dropped = false;
	int err = 0;

	while (!err && pl->i < p->n) {
		const struct change *ch = &p->changes[pl->i];
		struct key pos = later(ch->key, pl->from);
		unsigned from, to;

		if (!key_less(pos, high))
			break;
		from = node_search(n, pos);
		if (ch->op == CHANGE_DEL_RANGE)
			to = node_search(n, ch->end);
		else
			to = from + node_has(n, from, ch->key);
		if (from < to) {
			dropped = ch->op == CHANGE_DEL_RANGE && !ret->touched && covers(p, pl->i, n, from, to, high);
			ret->touched = true;
			err = call_old(pl, ch, n, from, to);
		}
		if (ch->op == CHANGE_PUT) {
			assert(ch->len <= tree_value_max(n->size));
			ret->touched = true;
			if (from == to)
				ret->bytes += NODE_SLOT_BYTES + ch->len;
			else if (ch->len > node_len(n, from))
				ret->bytes += ch->len - node_len(n, from);
		}
		if (ch->op == CHANGE_DEL_RANGE && key_less(high, ch->end)) {
			pl->from = high;
			break;
		}
		pl->i++;
	}
	ret->first = node_used(n) + ret->bytes > node_capacity(n->size);
	pl->bound.leaf_bytes += ret->bytes;
	if (ret->touched && !dropped && !node_changeable(pl->tree, n))
		pl->copies++;
	return err;
}

/* A child is not in memory: offers those of its siblings that the changes after this one will want, too. */
static int plan_missed(struct planner *pl, const struct node *n, unsigned i, struct key low, struct key high)
{
	const struct tree_plan *p = pl->plan;
	size_t c = pl->i;

	(void)tree_missed(pl->miss, node_child_ref(n, i), pl->tree->id, n->level - 1u, child_low(n, i, low));
	for (unsigned at = i + 1; at < n->nr; at++) {
		/* The first change that is not done before this child. */
		while (c < p->n && (p->changes[c].op == CHANGE_DEL_RANGE ? !key_less(node_key(n, at), p->changes[c].end)
									 : key_less(p->changes[c].key, node_key(n, at))))
			c++;
		if (c == p->n || !key_less(p->changes[c].key, high))
			break;
		if (key_less(p->changes[c].key, child_high(n, at, high)) &&
		    !tree_miss_add(pl->tree->cache, pl->miss, node_child_ref(n, at), node_key(n, at)))
			break;
	}
	return -EAGAIN;
}

static int plan_node(struct planner *pl, struct node *n, struct key low, struct key high, struct needs *ret)
{
	const struct tree_plan *p = pl->plan;
	uint64_t first = 0, bytes = 0;
	int err;

	*ret = (struct needs){ 0 };
	err = tree_check_bounds(n, low, high);
	if (!err)
		err = visit(pl, n);
	if (err)
		return err;
	if (!n->level)
		return plan_leaf(pl, n, high, ret);

	while (pl->i < p->n) {
		struct key pos = later(p->changes[pl->i].key, pl->from);
		struct needs below;
		struct node *child;
		struct ref ref;
		unsigned at;

		if (!key_less(pos, high))
			break;
		at = node_child(n, pos);
		ref = node_child_ref(n, at);
		child = node_at(pl->tree->cache, ref.addr, ref.gen, pl->tree->id, n->level - 1u);
		if (!child)
			return plan_missed(pl, n, at, low, high);
		err = plan_node(pl, child, child_low(n, at, low), child_high(n, at, high), &below);
		if (err)
			return err;
		ret->touched |= below.touched;
		first += below.first;
		bytes += below.bytes;
	}
	ret->bytes = NODE_CHILD_BYTES * split_bound_of(first, bytes, n->size);
	ret->first = node_used(n) + ret->bytes > node_capacity(n->size);
	pl->bound.first[n->level - 1] += first;
	if (ret->touched && !node_changeable(pl->tree, n))
		pl->copies++;
	return 0;
}

static void assert_changes_valid(const struct tree_plan *p)
{
#ifndef NDEBUG
	for (size_t i = 0; i < p->n; i++) {
		const struct change *ch = &p->changes[i];

		assert(ch->op >= CHANGE_PUT && ch->op <= CHANGE_DEL_RANGE);
		assert(!key_equal(ch->key, KEY_MAX));
		assert(ch->op != CHANGE_DEL_RANGE || key_less(ch->key, ch->end));
		if (i && p->changes[i - 1].op == CHANGE_DEL_RANGE)
			assert(!key_less(ch->key, p->changes[i - 1].end));
		else if (i)
			assert(key_less(p->changes[i - 1].key, ch->key));
	}
#else
	(void)p;
#endif
}

int tree_plan(struct tree *t, struct tree_plan *p, struct miss *miss)
{
	struct planner pl = { .tree = t, .plan = p, .miss = miss, .from = KEY_MIN };
	uint32_t size = cache_node_size(t->cache);
	struct needs needs = { 0 };
	struct node *root;
	int err = 0;

	assert_changes_valid(p);
	miss->n_seen = 0;
	p->miss = miss;
	p->need = p->need_released = 0;
	if (t->root.levels) {
		struct ref ref = t->root.ref;

		root = node_at(t->cache, ref.addr, ref.gen, t->id, t->root.levels - 1);
		if (!root)
			return tree_missed(miss, ref, t->id, t->root.levels - 1, KEY_MIN);
		err = plan_node(&pl, root, KEY_MIN, KEY_MAX, &needs);
	} else {
		/* The first leaf is born empty, and counts as one that was there. */
		for (size_t i = 0; i < p->n; i++) {
			if (p->changes[i].op == CHANGE_PUT)
				needs.bytes += NODE_SLOT_BYTES + p->changes[i].len;
		}
		needs.touched = needs.bytes > 0;
		pl.copies = needs.touched;
		pl.bound.leaf_bytes = needs.bytes;
	}
	if (err || !needs.touched)
		return err;
	pl.bound.first[t->root.levels ? t->root.levels - 1 : 0] += needs.first;
	p->need = pl.copies + split_bound_nodes(&pl.bound, t->root.levels ? t->root.levels : 1, size);
	/*
	 * What can leave the tree: every node visited, every node born, and one sibling merged away for each time a node is
	 * fixed, which happens once to each of these. And roots with one child, at the end.
	 */
	p->need_released = 2 * (pl.visited + p->need) + t->root.levels;
	return 0;
}

/* ---- applying ---- */

struct node *apply_birth(struct apply *a, unsigned level)
{
	struct tree_plan *p = a->plan;
	struct tree *t = a->tree;
	struct node *n;

	assert(p->supply > 0);
	p->supply--;
	n = p->frames[p->supply];
	n->home = t;
	cache_born(t->cache, n, p->addrs[p->supply], t->copies ? p->copies[p->supply] : 0, t->gen, t->id, level);
	TAILQ_INSERT_TAIL(&t->dirty, n, list);
	t->dirty_nodes++;
	return n;
}

void apply_release(struct apply *a, struct node *n)
{
	struct tree_plan *p = a->plan;
	unsigned state = atomic_load(&n->state);
	struct released *r = &p->released[p->n_released];

	assert(p->n_released < p->n_released_max);
	p->n_released++;
	*r = (struct released){ .ref = node_ref(n) };
	if (n->home == a->tree && (state & (NODE_DIRTY | NODE_SEALED | NODE_CHECKPOINT)) == NODE_DIRTY) {
		TAILQ_REMOVE(&a->tree->dirty, n, list);
		a->tree->dirty_nodes--;
		r->node = n;
	}
}

static struct node *find(struct apply *a, struct ref ref)
{
	struct miss *m = a->plan->miss;
	struct node *n = cache_find(a->tree->cache, ref.addr, ref.gen);

	/* Evicted since tree_plan saw it. */
	for (size_t i = m->n_seen; !n && i--;) {
		if (ref_equal(node_ref(m->seen[i]), ref))
			n = m->seen[i];
	}
	assert(n);
	return n;
}

static void seek(struct apply *a, struct key key)
{
	struct path *path = &a->path;
	unsigned level = a->tree->root.levels - 1;
	struct ref ref = a->tree->root.ref;

	path->low[level] = KEY_MIN;
	path->high[level] = KEY_MAX;
	for (;; level--) {
		struct node *n = path->node[level] = find(a, ref);
		unsigned i;

		assert(n->level == level && (n->nr || !level));
		if (!level)
			return;
		i = path->at[level] = node_child(n, key);
		path->low[level - 1] = child_low(n, i, path->low[level]);
		path->high[level - 1] = child_high(n, i, path->high[level]);
		ref = node_child_ref(n, i);
	}
}

void apply_own(struct apply *a, unsigned down_to)
{
	struct tree *t = a->tree;
	struct path *path = &a->path;
	unsigned top = t->root.levels - 1;

	for (unsigned level = top + 1; level-- > down_to;) {
		struct node *old = path->node[level], *n;

		if (node_changeable(t, old))
			continue;
		n = apply_birth(a, level);
		node_copy_items(n, old);
		if (level == top)
			t->root.ref = node_ref(n);
		else
			node_set_ref(path->node[level + 1], path->at[level + 1], node_ref(n));
		apply_release(a, old);
		path->node[level] = n;
	}
}

static void shrunk(struct apply *a, unsigned level)
{
	a->shrunk[level] = a->path.node[level];
	a->lost = true;
}

/* True: the path is void. */
static bool put(struct apply *a, const struct change *ch, unsigned i)
{
	struct node *leaf;

	apply_own(a, 0);
	leaf = a->path.node[0];
	if (node_has(leaf, i, ch->key)) {
		uint16_t old = node_len(leaf, i);

		if (node_used(leaf) - old + ch->len <= node_capacity(leaf->size)) {
			node_replace(leaf, i, ch->val, ch->len);
			if (ch->len < old)
				shrunk(a, 0);
			return false;
		}
		node_remove(leaf, i, i + 1);
	}
	return tree_put(a, i, ch->key, ch->val, ch->len);
}

static void remove_items(struct apply *a, unsigned from, unsigned to)
{
	if (from == to)
		return;
	apply_own(a, 0);
	node_remove(a->path.node[0], from, to);
	shrunk(a, 0);
}

/* Makes the changes from the i-th on that lie in the leaf the path leads to. Returns the first not done. */
static size_t change_leaf(struct apply *a, size_t i)
{
	const struct tree_plan *p = a->plan;
	struct key high = a->path.high[0];
	unsigned fix_from = 0;

	while (!fix_from && i < p->n) {
		const struct change *ch = &p->changes[i];
		const struct node *leaf = a->path.node[0];
		struct key pos = later(ch->key, a->from);
		unsigned at, to;

		if (!key_less(pos, high))
			break;
		at = node_search(leaf, pos);
		switch (ch->op) {
		case CHANGE_PUT:
			if (put(a, ch, at))
				return i + 1;
			break;
		case CHANGE_DEL:
			remove_items(a, at, at + node_has(leaf, at, ch->key));
			break;
		case CHANGE_DEL_RANGE:
			to = node_search(leaf, ch->end);
			if (at < to && covers(p, i, leaf, at, to, high)) {
				tree_drop_leaf(a);
				fix_from = 1;
			} else {
				remove_items(a, at, to);
			}
			if (key_less(high, ch->end)) {
				a->from = high;
				goto fix;
			}
			break;
		}
		i++;
	}
fix:
	tree_fix(a, fix_from, i < p->n ? later(p->changes[i].key, a->from) : KEY_MAX);
	return i;
}

/* What of T2 and T5 can be seen at a glance. */
static void assert_valid(const struct tree *t)
{
#ifndef NDEBUG
	assert(t->root.levels <= NODE_LEVELS_MAX);
	assert((t->root.levels == 0) == (t->root.ref.addr == 0));
	assert(t->root.ref.gen <= t->gen);
	assert((t->dirty_nodes == 0) == TAILQ_EMPTY(&t->dirty));
#else
	(void)t;
#endif
}

void tree_apply(struct tree *t, struct tree_plan *p)
{
	struct apply a = { .tree = t, .plan = p, .from = KEY_MIN };
	size_t i = 0;

	assert_valid(t);

	p->n_released = 0;
	assert(p->supply >= p->need && p->n_released_max >= p->need_released);
	while (i < p->n) {
		if (!t->root.levels) {
			if (p->changes[i].op != CHANGE_PUT) {
				i++;
				continue;
			}
			t->root = (struct root){ .ref = node_ref(apply_birth(&a, 0)), .levels = 1 };
		}
		seek(&a, later(p->changes[i].key, a.from));
		i = change_leaf(&a, i);
	}
	if (a.lost)
		tree_collapse(&a);
	assert_valid(t);
}

/*
 * snapshot_delete.c - taking a snapshot out: marked, worked off its lists in steps, gone
 *
 * See the essay in snapshot.c for what a deletion frees and why.
 */
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/snapshot_int.h"
#include "wal/system_format.h"

/* Changes of the line: one snapshot's item, another's, and live's. */
struct edit {
	struct snapshot put[2];
	unsigned n_put;
	uint64_t del; /* id, or 0 */
	bool live;    /* live's item and effective parent change */
	uint64_t live_parent, live_parent_gen;
};

static int edit_prepare(struct store *s, struct batch *b, void *arg)
{
	const struct edit *e = arg;
	int err = 0;

	for (unsigned i = 0; !err && i < e->n_put; i++)
		err = snapshot_put(b, &e->put[i]);
	if (!err && e->del)
		err = batch_del(b, snapshot_key(e->del));
	if (!err && e->live)
		err = snapshot_put_live(b, e->live_parent, s->dead_list, s->next_id);
	return err;
}

static void edit_frozen(struct store *s, void *arg)
{
	const struct edit *e = arg;

	if (!e->live)
		return;
	s->parent_dying = !e->del;
	s->parent = e->live_parent;
	s->parent_gen = e->live_parent_gen;
}

static const struct freeze_ops edit_ops = { edit_prepare, edit_frozen };

/*
 * One step through a dead list, under live's lock: takes up to STEP items from `at` on. Those born after `parent_gen` are
 * freed (when `free`); the others go to list `to`, or, where to is `list` itself, stay.
 */
#define STEP 64u

struct step {
	uint64_t list, to, parent_gen;
	bool free;
	struct key at;
	struct ref_range found[STEP];
	unsigned n;
	bool end;
};

/* Reads the step's items; the lock is held, so what is returned stays true. */
static int step_read(struct store *s, struct step *st, struct miss *miss)
{
	struct cursor c;
	int err;

	st->n = 0;
	st->end = false;
	err = cursor_init(&c, s->cache, TREE_SYSTEM, true);
	if (err)
		return err;
	for (struct key at = st->at; !st->end && st->n < STEP;) {
		const struct disk_dead *d;
		struct key key;
		size_t len;

		err = cursor_seek(&c, &s->system.root, at, miss);
		if (err < 0)
			break;
		while (!err && st->n < STEP && !(err = cursor_item(&c, &key, (const void **)&d, &len))) {
			if (key.obj != dead_key(st->list, 0).obj) {
				st->end = true;
				break;
			}
			st->found[st->n++] = (struct ref_range){ key.off, le32_get(d->blocks), le64_get(d->birth) };
		}
		if (err == 1) {
			if (c.last)
				st->end = true;
			at = c.next;
		}
		err = 0;
	}
	cursor_release(&c);
	return err;
}

static int step_collect(struct batch *b, struct step *st)
{
	int err = 0;

	for (unsigned i = 0; !err && i < st->n; i++) {
		const struct ref_range *x = &st->found[i];
		struct disk_dead d = { le64_put(x->birth), le32_put(x->blocks), le32_put(0) };
		bool freed = st->free && x->birth > st->parent_gen;

		if (!freed && st->to == st->list)
			continue;
		err = batch_del(b, dead_key(st->list, x->addr));
		if (!err && !freed && st->to)
			err = batch_put(b, dead_key(st->to, x->addr), &d, sizeof(d));
	}
	return err;
}

static void step_free(struct batch *b, const struct step *st)
{
	for (unsigned i = 0; i < st->n; i++)
		if (st->free && st->found[i].birth > st->parent_gen)
			reclaim_from_snapshot(b, st->found[i].addr, st->found[i].blocks, st->found[i].birth);
}

/* Runs a list through, in steps, each of them one batch of the system tree. */
static int run_list(struct store *s, struct step *st)
{
	struct batch *b = NULL;
	int err;

	err = batch_open_system(s, &b);
	st->at = dead_key(st->list, 0);
	st->end = false;
	while (!err && !st->end) {
		err = batch_lock(b);
		if (err)
			break;
		err = step_read(s, st, batch_miss(b));
		if (err == -EAGAIN)
			err = batch_fault(b);
		if (!err)
			err = step_collect(b, st);
		b->n_extra = st->n;
		if (err) {
			batch_cancel(b);
		} else if (!(err = batch_prepare(b))) {
			batch_apply(b);
			step_free(b, st);
			if (st->n)
				st->at = dead_key(st->list, st->found[st->n - 1].addr + 1);
			batch_finish(b);
		}
		if (err == -EAGAIN)
			err = 0;
	}
	batch_close(b);
	return err;
}

struct leaf {
	struct store *s;
	uint64_t parent_gen;
	struct ref_range *runs;
	size_t n, cap;
};

static int leaf_add(struct leaf *l, uint64_t addr, uint32_t blocks, uint64_t birth)
{
	if (!addr)
		return 0;
	if (mem_grow((void **)&l->runs, &l->cap, l->n + 1, sizeof(*l->runs)))
		return -ENOMEM;
	l->runs[l->n++] = (struct ref_range){ addr, blocks, birth };
	return 0;
}

static int leaf_ref(void *arg, struct ref ref, unsigned level)
{
	struct leaf *l = arg;
	uint32_t nb = l->s->super.node_size / BLOCK_SIZE;
	int err;

	(void)level;
	if (ref.gen <= l->parent_gen)
		return 1;
	err = leaf_add(l, ref.addr, nb, ref.gen);
	return err ? err : leaf_add(l, ref.copy, nb, ref.gen);
}

static int leaf_item(void *arg, struct key key, const void *val, size_t len)
{
	struct leaf *l = arg;
	struct extent x;

	if (!record_extent(&l->s->files_table, key, val, len, &x) || x.birth <= l->parent_gen)
		return 0;
	return leaf_add(l, x.addr, x.blocks, x.birth);
}

static int range_cmp(const void *pa, const void *pb)
{
	const struct ref_range *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

/* Sorted and without overlaps: each block once. */
static void make_disjoint(struct leaf *l)
{
	uint64_t done = 0;
	size_t n = 0;

	if (l->n)
		qsort(l->runs, l->n, sizeof(*l->runs), range_cmp);
	for (size_t i = 0; i < l->n; i++) {
		struct ref_range x = l->runs[i];
		uint64_t end = x.addr + x.blocks;

		if (x.addr < done)
			x.addr = done;
		if (x.addr >= end)
			continue;
		x.blocks = (uint32_t)(end - x.addr);
		l->runs[n++] = x;
		done = end;
	}
	l->n = n;
}

/*
 * A dying snapshot without children: what was born after its parent is its alone. All of it is released together with
 * its item, in one hold of the lock, because a walk cannot be taken up again in a tree that is half freed.
 */
static int free_leaf(struct store *s, const struct snapshot *sn, uint64_t parent_gen)
{
	static const struct walk_ops ops = { .ref = leaf_ref, .item = leaf_item };
	struct step drop = { .list = sn->dead_list };
	struct leaf l = { .s = s, .parent_gen = parent_gen };
	struct batch *b = NULL;
	int err;

	err = run_list(s, &drop); /* its list only says what it has not: those blocks are the parent's */
	if (!err)
		err = tree_walk(s->cache, TREE_FILES, &sn->root, &ops, &l);
	if (!err)
		err = batch_open_system(s, &b);
	make_disjoint(&l);
	while (!err) {
		err = batch_lock(b);
		if (err)
			break;
		err = batch_del(b, snapshot_key(sn->id));
		b->n_extra = l.n;
		if (err) {
			batch_cancel(b);
			break;
		}
		err = batch_prepare(b);
		if (err == -EAGAIN) {
			err = 0;
			continue;
		}
		if (err)
			break;
		batch_apply(b);
		for (size_t i = 0; i < l.n; i++)
			reclaim_from_snapshot(b, l.runs[i].addr, l.runs[i].blocks, l.runs[i].birth);
		batch_finish(b);
		break;
	}
	batch_close(b);
	mem_free(l.runs);
	return err;
}

/* The one child of a snapshot: another snapshot, or live (*ret NULL). Returns how many there are. */
unsigned snapshot_children(struct store *s, const struct snapshots *a, uint64_t id, struct snapshot **ret)
{
	unsigned n = s->parent == id;

	*ret = NULL;
	for (size_t i = 0; i < a->n; i++)
		if (a->at[i].parent == id) {
			n++;
			*ret = &a->at[i];
		}
	return n;
}

/* Takes a snapshot out for good; it is dying already. Its lists are worked off, its item goes with a checkpoint. */
static int finish_delete(struct store *s, const struct snapshots *a, struct snapshot *sn)
{
	uint64_t parent_gen = snapshot_gen(a, sn->parent);
	struct snapshot *child;
	struct edit e = { .del = sn->id };
	struct step st;
	int err;

	if (!snapshot_children(s, a, sn->id, &child)) {
		err = free_leaf(s, sn, parent_gen);
		return err ? err : checkpoint_run(s, CHECKPOINT_BOTH, NULL, NULL);
	}
	if (!child) {
		err = reclaim_drain_dead(s, 0);
		if (err)
			return err;
	}
	st = (struct step){ .list = child ? child->dead_list : s->dead_list, .parent_gen = parent_gen, .free = true };
	st.to = st.list;
	err = run_list(s, &st);
	if (err)
		return err;
	st.to = st.list;
	st.list = sn->dead_list;
	st.free = false;
	err = run_list(s, &st);
	if (err)
		return err;
	if (child) {
		e.put[e.n_put] = *child;
		e.put[e.n_put++].parent = sn->parent;
	} else {
		e.live = true;
		e.live_parent = sn->parent;
		e.live_parent_gen = parent_gen;
	}
	return checkpoint_run(s, CHECKPOINT_BOTH, &edit_ops, &e);
}

/* Marks and takes out; then the parent, if it was hidden and only waited for this. */
int snapshot_take_out(struct store *s, uint64_t id)
{
	int err = 0;

	while (!err && id) {
		struct edit e = { 0 };
		struct snapshot *sn, *child;
		struct snapshots a;
		uint64_t parent;
		unsigned n;

		err = snapshots_read(s, &a);
		sn = err ? NULL : snapshot_by_id(&a, id);
		if (!sn) {
			mem_free(a.at);
			return err;
		}
		parent = sn->parent;
		n = snapshot_children(s, &a, id, &child);
		if (!(sn->flags & SNAPSHOT_DYING)) {
			sn->flags |= n > 1 ? SNAPSHOT_HIDDEN : SNAPSHOT_DYING;
			e.put[e.n_put++] = *sn;
			e.live = s->parent == id && n == 1;
			e.live_parent = id;
			e.live_parent_gen = snapshot_gen(&a, sn->parent);
			err = checkpoint_run(s, CHECKPOINT_BOTH, &edit_ops, &e);
		}
		if (!err && n <= 1)
			err = finish_delete(s, &a, sn);
		mem_free(a.at);
		if (err || n > 1)
			return err;

		err = snapshots_read(s, &a);
		sn = err ? NULL : snapshot_by_id(&a, parent);
		id = sn && sn->flags & SNAPSHOT_HIDDEN && snapshot_children(s, &a, parent, &child) <= 1 ? parent : 0;
		mem_free(a.at);
	}
	return err;
}

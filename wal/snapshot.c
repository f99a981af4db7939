/*
 * snapshot.c - snapshots, rollback, and the dead lists that tell what a deletion frees
 *
 * A snapshot is live's root at a checkpoint, kept. Live goes on from it, so the views form a line: each derives from its
 * parent, live from the newest; rollback makes a tree of it.
 *
 * A view's *dead list* names the blocks its parent has and it has not. A block that live releases and that was born
 * not after live's parent goes there. Creating a snapshot hands live's list to the snapshot and live begins an empty one.
 * So when snapshot S, with parent P and one child C, is deleted, the blocks only S has are those on C's list that were
 * born after P: they are freed; and S's own list joins C's. (The scheme is ZFS's deadlists: M. Ahrens, "How ZFS snapshots
 * really work", BSDCan 2019.) A snapshot with several children is only hidden until one is left. One without children is
 * freed by walking it, leaving out what was not born after its parent.
 *
 * Deletion goes in steps. First the snapshot is marked as dying, durably: from then on nobody reads it, and live, where it
 * is the child, treats P as its parent. What a step frees and what it takes off the lists are in the same checkpoint. An
 * interrupted deletion is taken up again at the next open.
 *
 * Rollback makes live's present state a dying snapshot without children, and live the chosen snapshot's root. Live's lock
 * is held until that is durable: records of the new live must never be replayed on the old one.
 *
 * None of this is logged: each operation is a checkpoint written to both slots before it answers.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

struct snapshot {
	uint64_t id, gen, parent, dead_list, created, claims;
	struct root root;
	uint32_t flags;
	char name[SNAPSHOT_NAME_MAX + 1];
};

/* ---- items ---- */

static int live_validate(struct key key, const void *val, size_t len)
{
	(void)val;
	return len == sizeof(struct disk_live) ? 0 : corrupt("live item", key.off, "length", len, sizeof(struct disk_live));
}

static int snapshot_validate(struct key key, const void *val, size_t len)
{
	const struct disk_snapshot *d = val;

	if (len < sizeof(*d) || len != sizeof(*d) + d->name_len)
		return corrupt("snapshot item", key.off, "length", len, sizeof(*d));
	if (le32_get(d->levels) > NODE_LEVELS_MAX || (le32_get(d->levels) == 0) != (le64_get(d->root_addr) == 0))
		return corrupt("snapshot item", key.off, "levels", le32_get(d->levels), NODE_LEVELS_MAX);
	for (size_t i = 0; i < sizeof(d->zero); i++)
		if (d->zero[i])
			return corrupt("snapshot item", key.off, "bytes that are zero", d->zero[i], 0);
	if (le32_get(d->flags) & ~(SNAPSHOT_DYING | SNAPSHOT_HIDDEN))
		return corrupt("snapshot item", key.off, "flags", le32_get(d->flags), 0);
	return 0;
}

static int dead_validate(struct key key, const void *val, size_t len)
{
	const struct disk_dead *d = val;

	if (len != sizeof(*d) || !le32_get(d->blocks) || le32_get(d->zero))
		return corrupt("dead item", key.off, "length or blocks", len, sizeof(*d));
	return 0;
}

const struct record_table system_records = {
	.row = {
		[SYSTEM_LIVE] = { .name = "live", .validate = live_validate },
		[SYSTEM_SNAPSHOT] = { .name = "snapshot", .validate = snapshot_validate },
		[SYSTEM_DEAD] = { .name = "dead", .validate = dead_validate },
	},
};

static struct key snapshot_key(uint64_t id)
{
	return key_make(0, SYSTEM_SNAPSHOT, id);
}

static struct key dead_key(uint64_t list, uint64_t addr)
{
	return key_make(list, SYSTEM_DEAD, addr);
}

static void decode(struct snapshot *sn, uint64_t id, const struct disk_snapshot *d)
{
	*sn = (struct snapshot){
		.id = id,
		.gen = le64_get(d->gen),
		.parent = le64_get(d->parent),
		.dead_list = le64_get(d->dead_list),
		.created = le64_get(d->created),
		.claims = le64_get(d->claims),
		.root = { { le64_get(d->root_addr), le64_get(d->root_copy), le64_get(d->root_gen) }, le32_get(d->levels) },
		.flags = le32_get(d->flags),
	};
	memcpy(sn->name, d + 1, d->name_len);
}

static int put_snapshot(struct batch *b, const struct snapshot *sn)
{
	uint8_t buf[sizeof(struct disk_snapshot) + SNAPSHOT_NAME_MAX];
	struct disk_snapshot d = {
		.root_addr = le64_put(sn->root.ref.addr),
		.root_copy = le64_put(sn->root.ref.copy),
		.root_gen = le64_put(sn->root.ref.gen),
		.levels = le32_put(sn->root.levels),
		.flags = le32_put(sn->flags),
		.gen = le64_put(sn->gen),
		.parent = le64_put(sn->parent),
		.dead_list = le64_put(sn->dead_list),
		.created = le64_put(sn->created),
		.claims = le64_put(sn->claims),
		.name_len = (uint8_t)strlen(sn->name),
	};

	memcpy(buf, &d, sizeof(d));
	memcpy(buf + sizeof(d), sn->name, d.name_len);
	return batch_put(b, snapshot_key(sn->id), buf, sizeof(d) + d.name_len);
}

static int put_live(struct batch *b, uint64_t parent, uint64_t dead_list, uint64_t next_id)
{
	struct disk_live d = { le64_put(parent), le64_put(dead_list), le64_put(next_id) };

	return batch_put(b, key_make(0, SYSTEM_LIVE, 0), &d, sizeof(d));
}

/* ---- reading the system tree ---- */

int system_each(struct store *s, struct key from, struct key to,
		int (*each)(void *arg, struct key, const void *val, size_t len), void *arg)
{
	struct cursor c;
	int err;

	err = cursor_init(&c, s->cache, TREE_SYSTEM, true);
	if (err)
		return err;
	while (!err && key_less(from, to)) {
		struct miss miss;
		const void *val;
		struct key key;
		size_t len;

		miss_init(&miss);
		do {
			unsigned slot = epoch_enter(s->epoch);

			pthread_rwlock_rdlock(&s->live.lock);
			err = cursor_seek(&c, &s->system.root, from, &miss);
			pthread_rwlock_unlock(&s->live.lock);
			if (err == -EAGAIN) {
				err = view_fault(s, &miss, slot);
				if (!err)
					err = -EAGAIN;
			} else {
				epoch_exit(s->epoch, slot);
			}
		} while (err == -EAGAIN);
		tree_miss_release(&miss);
		while (!err && !(err = cursor_item(&c, &key, &val, &len)))
			err = key_less(key, to) ? each(arg, key, val, len) : 2;
		if (err == 1 && !c.last) {
			from = c.next;
			err = 0;
		}
	}
	cursor_release(&c);
	return err > 0 ? 0 : err;
}

struct all {
	struct snapshot *at;
	size_t n, cap;
};

static int add_snapshot(void *arg, struct key key, const void *val, size_t len)
{
	struct all *a = arg;

	(void)len;
	if (mem_grow((void **)&a->at, &a->cap, a->n + 1, sizeof(*a->at)))
		return -ENOMEM;
	decode(&a->at[a->n++], key.off, val);
	return 0;
}

/* All of them, in order of their ids. The caller frees a->at. */
static int read_all(struct store *s, struct all *a)
{
	*a = (struct all){ 0 };
	return system_each(s, snapshot_key(0), snapshot_key(UINT64_MAX), add_snapshot, a);
}

static struct snapshot *by_id(const struct all *a, uint64_t id)
{
	for (size_t i = 0; id && i < a->n; i++)
		if (a->at[i].id == id)
			return &a->at[i];
	return NULL;
}

static struct snapshot *by_name(const struct all *a, const char *name)
{
	for (size_t i = 0; i < a->n; i++)
		if (!(a->at[i].flags & (SNAPSHOT_DYING | SNAPSHOT_HIDDEN)) && !strcmp(a->at[i].name, name))
			return &a->at[i];
	return NULL;
}

static uint64_t gen_of(const struct all *a, uint64_t id)
{
	const struct snapshot *sn = by_id(a, id);

	return sn ? sn->gen : 0;
}

/* The generation up to which live's blocks are held by a snapshot: its parent's, or, where that one is dying, what the
 * parent of the deleted one will be. */
static uint64_t effective_parent_gen(const struct all *a, uint64_t id)
{
	const struct snapshot *sn = by_id(a, id);

	while (sn && sn->flags & SNAPSHOT_DYING)
		sn = by_id(a, sn->parent);
	return sn ? sn->gen : 0;
}

static int load_live(void *arg, struct key key, const void *val, size_t len)
{
	struct store *s = arg;
	const struct disk_live *d = val;

	(void)key;
	(void)len;
	s->parent = le64_get(d->parent);
	s->dead_list = le64_get(d->dead_list);
	s->next_id = le64_get(d->next_id);
	return 0;
}

int snapshot_load(struct store *s)
{
	struct all a;
	int err;

	s->parent = 0;
	s->dead_list = 1; /* a new store has no line yet */
	s->next_id = 2;
	err = system_each(s, key_make(0, SYSTEM_LIVE, 0), key_make(0, SYSTEM_LIVE, 1), load_live, s);
	if (!err)
		err = read_all(s, &a);
	if (err)
		return err;
	s->parent_gen = effective_parent_gen(&a, s->parent);
	s->parent_dying = by_id(&a, s->parent) && by_id(&a, s->parent)->flags & SNAPSHOT_DYING;
	if (s->parent && !by_id(&a, s->parent))
		err = corrupt("live item", s->parent, "snapshot that live derives from is not there", s->parent, 0);
	mem_free(a.at);
	return err;
}

/* ---- creating ---- */

struct create {
	struct snapshot sn;
	uint64_t list;
};

static int create_prepare(struct store *s, struct batch *b, void *arg)
{
	struct create *c = arg;
	int err;

	c->sn.id = s->next_id;
	c->list = s->next_id + 1;
	c->sn.gen = s->live.tree.gen;
	c->sn.root = s->live.tree.root;
	c->sn.parent = s->parent;
	c->sn.dead_list = s->dead_list;
	c->sn.claims = (uint64_t)atomic_load(&s->claims);
	err = put_snapshot(b, &c->sn);
	return err ? err : put_live(b, c->sn.id, c->list, s->next_id + 2);
}

static void create_frozen(struct store *s, void *arg)
{
	const struct create *c = arg;

	s->parent = c->sn.id;
	s->parent_gen = c->sn.gen;
	s->parent_dying = false;
	s->dead_list = c->list;
	s->next_id += 2;
}

static int finish_dying(struct store *s);

static int check_name(const char *name)
{
	size_t n = strlen(name);

	if (!n || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	return n > SNAPSHOT_NAME_MAX ? -ENAMETOOLONG : 0;
}

int snapshot_create(struct store *s, const char *name, uint64_t *ret_id)
{
	static const struct freeze_ops ops = { create_prepare, create_frozen };
	struct create c = { 0 };
	struct all a = { 0 };
	int err = check_name(name);

	if (err)
		return err;
	memcpy(c.sn.name, name, strlen(name));
	c.sn.created = s->opt.seed ? 0 : clock_ns();
	pthread_mutex_lock(&s->snapshot_lock);
	err = s->opt.read_only ? -EROFS : finish_dying(s);
	if (!err)
		err = read_all(s, &a);
	if (!err && by_name(&a, name))
		err = -EEXIST;
	if (!err)
		err = checkpoint_run(s, CHECKPOINT_BOTH, &ops, &c);
	pthread_mutex_unlock(&s->snapshot_lock);
	mem_free(a.at);
	if (!err && ret_id)
		*ret_id = c.sn.id;
	return err;
}

int snapshot_list(struct store *s, int (*each)(void *arg, const struct snapshot_info *), void *arg)
{
	struct all a;
	int err = read_all(s, &a);

	for (size_t i = 0; !err && i < a.n; i++) {
		const struct snapshot *sn = &a.at[i];
		struct snapshot_info info = {
			.id = sn->id,
			.parent = sn->parent,
			.gen = sn->gen,
			.created_ns = sn->created,
			.dying = sn->flags & SNAPSHOT_DYING,
			.hidden = sn->flags & SNAPSHOT_HIDDEN,
		};

		memcpy(info.name, sn->name, sizeof(info.name));
		err = each(arg, &info);
	}
	mem_free(a.at);
	return err;
}

int snapshot_open(struct store *s, const char *name, struct view **ret)
{
	struct snapshot *sn;
	struct view *v = NULL;
	struct all a;
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = read_all(s, &a);
	sn = err ? NULL : by_name(&a, name);
	if (!err && !sn)
		err = -ENOENT;
	if (!err) {
		v = mem_zalloc(sizeof(*v));
		err = v ? view_init(v, s, VIEW_FROZEN) : -ENOMEM;
	}
	if (!err) {
		v->snapshot = sn->id;
		v->base = sn->root;
		v->base_gen = sn->gen;
		tree_init(&v->tree, s->cache, TREE_FILES, sn->root, sn->gen, s->live.tree.copies);
		pthread_mutex_lock(&s->views_lock);
		v->id = s->next_view++;
		LIST_INSERT_HEAD(&s->views, v, list);
		pthread_mutex_unlock(&s->views_lock);
		*ret = v;
	} else {
		mem_free(v);
	}
	pthread_mutex_unlock(&s->snapshot_lock);
	mem_free(a.at);
	return err;
}

/* ---- deleting ---- */

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
		err = put_snapshot(b, &e->put[i]);
	if (!err && e->del)
		err = batch_del(b, snapshot_key(e->del));
	if (!err && e->live)
		err = put_live(b, e->live_parent, s->dead_list, s->next_id);
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
	struct batch *b;
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
static unsigned children(struct store *s, const struct all *a, uint64_t id, struct snapshot **ret)
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
static int finish_delete(struct store *s, const struct all *a, struct snapshot *sn)
{
	uint64_t parent_gen = gen_of(a, sn->parent);
	struct snapshot *child;
	struct edit e = { .del = sn->id };
	struct step st;
	int err;

	if (!children(s, a, sn->id, &child)) {
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
static int delete_snapshot(struct store *s, uint64_t id)
{
	int err = 0;

	while (!err && id) {
		struct edit e = { 0 };
		struct snapshot *sn, *child;
		struct all a;
		uint64_t parent;
		unsigned n;

		err = read_all(s, &a);
		sn = err ? NULL : by_id(&a, id);
		if (!sn) {
			mem_free(a.at);
			return err;
		}
		parent = sn->parent;
		n = children(s, &a, id, &child);
		if (!(sn->flags & SNAPSHOT_DYING)) {
			sn->flags |= n > 1 ? SNAPSHOT_HIDDEN : SNAPSHOT_DYING;
			e.put[e.n_put++] = *sn;
			e.live = s->parent == id && n == 1;
			e.live_parent = id;
			e.live_parent_gen = gen_of(&a, sn->parent);
			err = checkpoint_run(s, CHECKPOINT_BOTH, &edit_ops, &e);
		}
		if (!err && n <= 1)
			err = finish_delete(s, &a, sn);
		mem_free(a.at);
		if (err || n > 1)
			return err;

		err = read_all(s, &a);
		sn = err ? NULL : by_id(&a, parent);
		id = sn && sn->flags & SNAPSHOT_HIDDEN && children(s, &a, parent, &child) <= 1 ? parent : 0;
		mem_free(a.at);
	}
	return err;
}

static bool is_open(struct store *s, uint64_t id)
{
	struct view *v;
	bool open = false;

	pthread_mutex_lock(&s->views_lock);
	LIST_FOREACH(v, &s->views, list)
		open |= v->snapshot == id;
	pthread_mutex_unlock(&s->views_lock);
	return open;
}

int snapshot_delete(struct store *s, const char *name)
{
	struct snapshot *sn;
	struct all a;
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = s->opt.read_only ? -EROFS : finish_dying(s);
	if (!err)
		err = read_all(s, &a);
	if (!err) {
		sn = by_name(&a, name);
		err = !sn ? -ENOENT : is_open(s, sn->id) ? -EBUSY : delete_snapshot(s, sn->id);
		mem_free(a.at);
	}
	pthread_mutex_unlock(&s->snapshot_lock);
	return err;
}

/*
 * Deletions that were interrupted, by a crash or an error, are finished before anything else is done to the line: what
 * is half freed must not lose or gain children. snapshot_lock held.
 */
static int finish_dying(struct store *s)
{
	int err;

	for (;;) {
		struct snapshot *child;
		uint64_t id = 0;
		struct all a;

		err = read_all(s, &a);
		for (size_t i = 0; !err && i < a.n; i++)
			if (a.at[i].flags & SNAPSHOT_DYING ||
			    (a.at[i].flags & SNAPSHOT_HIDDEN && children(s, &a, a.at[i].id, &child) <= 1))
				id = a.at[i].id;
		mem_free(a.at);
		if (err || !id)
			return err;
		err = delete_snapshot(s, id);
		if (err)
			return err;
	}
}

int snapshot_resume(struct store *s)
{
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = finish_dying(s);
	pthread_mutex_unlock(&s->snapshot_lock);
	return err;
}

/* ---- rolling back ---- */

struct rollback {
	struct snapshot target, old; /* old: what live was */
	uint64_t list;
};

static int rollback_prepare(struct store *s, struct batch *b, void *arg)
{
	struct rollback *r = arg;
	int err;

	if (r->target.claims > space_free_blocks(s->space))
		return -ENOSPC;
	r->old = (struct snapshot){
		.id = s->next_id,
		.gen = s->live.tree.gen,
		.root = s->live.tree.root,
		.parent = s->parent,
		.dead_list = s->dead_list,
		.flags = SNAPSHOT_DYING,
	};
	r->list = s->next_id + 1;
	err = put_snapshot(b, &r->old);
	return err ? err : put_live(b, r->target.id, r->list, s->next_id + 2);
}

static void rollback_frozen(struct store *s, void *arg)
{
	const struct rollback *r = arg;

	s->live.tree.root = r->target.root;
	s->live.has_shared = true; /* perhaps; looked up at the next open */
	s->parent = r->target.id;
	s->parent_gen = r->target.gen;
	s->parent_dying = false;
	s->rollback_gen = r->old.gen;
	s->dead_list = r->list;
	s->next_id += 2;
	atomic_store(&s->claims, (int64_t)r->target.claims);
}

/* Transactions whose base is not younger than gen. */
static void end_all_txns(struct store *s, uint64_t gen)
{
	for (;;) {
		struct view *v, *open = NULL;

		pthread_mutex_lock(&s->views_lock);
		LIST_FOREACH(v, &s->views, list)
			if (v->kind == VIEW_TXN && atomic_load(&v->state) == VIEW_OPEN && v->base_gen <= gen)
				open = v;
		if (open)
			atomic_fetch_add(&open->refs, 1);
		pthread_mutex_unlock(&s->views_lock);
		if (!open)
			return;
		txn_end(open);
		view_put(open);
	}
}

int snapshot_rollback(struct store *s, const char *name)
{
	static const struct freeze_ops ops = { rollback_prepare, rollback_frozen };
	struct rollback r = { 0 };
	struct snapshot *sn;
	struct all a;
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = s->opt.read_only ? -EROFS : finish_dying(s);
	if (!err)
		err = read_all(s, &a);
	if (err)
		goto out;
	sn = by_name(&a, name);
	if (sn)
		r.target = *sn;
	mem_free(a.at);
	if (!sn) {
		err = -ENOENT;
		goto out;
	}
	end_all_txns(s, UINT64_MAX);
	err = checkpoint_run(s, CHECKPOINT_BOTH | CHECKPOINT_HOLD, &ops, &r);
	if (!err) {
		end_all_txns(s, r.old.gen); /* those begun meanwhile */
		err = delete_snapshot(s, r.old.id);
	}
out:
	pthread_mutex_unlock(&s->snapshot_lock);
	return err;
}

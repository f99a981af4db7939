/*
 * check.c - the structural check of a whole store
 *
 * After a checkpoint to both slots everything a store says about itself can be held against everything else:
 *
 *  - every tree verifies as a tree (tree_verify), every item by its row
 *  - within one view each block of a node stands once, and each data block as often as its shared count says
 *  - no block is both node and data, in whatever views
 *  - a view refers to nothing born after it
 *  - what a view holds was born before its parent's generation exactly if the parent holds it, too: by that alone it is
 *    decided, when a block is released, whether it is free or goes on the dead list
 *  - the space map says "in use" exactly of what some view or the system tree reaches, and of what is fixed
 *  - a view's dead list names exactly what its parent reaches and it does not, with births that say the same of the
 *    parent's own parent
 *
 * Memory: one bit a block for each of six maps, and 24 bytes for each extent of one view.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

struct map {
	uint8_t *bits;
	uint64_t blocks;
};

struct shared {
	uint64_t addr, birth;
	uint32_t blocks, refs;
};

struct check {
	struct store *s;
	struct check_result *r;
	struct map nodes, data; /* reached by any view */
	struct map view;	/* reached by the view being looked at */
	struct map parent;	/* by its parent */
	struct map old;		/* of `view`, what was born up to old_gen */
	struct map parent_old;	/* of `parent`, what was born up to grand_gen */
	struct ref_range *runs; /* extents of the view */
	size_t n_runs, cap_runs;
	struct shared *shared; /* its shared records */
	size_t n_shared, cap_shared;
	uint64_t old_gen; /* the generation of the parent of what is looked at; 0: it has none */
	uint64_t parent_gen, grand_gen;
	uint64_t gen;  /* nothing in it is younger */
	uint64_t root; /* id of the view, for messages */
	bool system;
	int err;
};

#define SHOWN_MAX 20u

static int problem(struct check *c, const char *type, uint64_t where, const char *what, uint64_t got, uint64_t want)
{
	if (c->r->errors++ < SHOWN_MAX)
		(void)corrupt(type, where, what, got, want);
	return 0;
}

static int map_open(struct map *m, uint64_t blocks)
{
	m->blocks = blocks;
	m->bits = mem_zalloc(blocks / 8 + 1);
	return m->bits ? 0 : -ENOMEM;
}

static bool map_get(const struct map *m, uint64_t i)
{
	return m->bits[i / 8] >> (i % 8) & 1;
}

static void map_set(struct map *m, uint64_t i)
{
	m->bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

static void map_put(struct map *m, uint64_t i, bool bit)
{
	m->bits[i / 8] &= (uint8_t) ~(1u << (i % 8));
	m->bits[i / 8] |= (uint8_t)((unsigned)bit << (i % 8));
}

static void map_clear(struct map *m)
{
	memset(m->bits, 0, m->blocks / 8 + 1);
}

/* A node's blocks, at either of its addresses. */
static void node_at(struct check *c, uint64_t addr, uint64_t gen)
{
	uint32_t nb = c->s->super.node_size / BLOCK_SIZE;

	if (!space_valid(c->s->space, addr, nb)) {
		problem(c, "node", addr, "address outside of the device, view", c->root, 0);
		return;
	}
	for (uint32_t i = 0; i < nb; i++) {
		if (map_get(&c->view, addr + i))
			problem(c, "node", addr, "stands twice in view", c->root, 0);
		if (map_get(&c->data, addr + i))
			problem(c, "node", addr, "overlaps data, view", c->root, 0);
		map_set(&c->view, addr + i);
		map_set(&c->nodes, addr + i);
		if (c->old_gen)
			map_put(&c->old, addr + i, gen <= c->old_gen);
	}
}

static int on_ref(void *arg, struct ref ref, unsigned level)
{
	struct check *c = arg;

	(void)level;
	c->r->nodes++;
	if (ref.gen > c->gen)
		problem(c, "node", ref.addr, "younger than its view", ref.gen, c->gen);
	node_at(c, ref.addr, ref.gen);
	if (ref.copy)
		node_at(c, ref.copy, ref.gen);
	return 0;
}

static int on_bad(void *arg, struct ref ref, unsigned level, struct key low, int err)
{
	struct check *c = arg;

	(void)low;
	return problem(c, "node", ref.addr, "cannot be read, level", level, (uint64_t)-err);
}

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	struct check *c = arg;
	const struct record_table *t = c->system ? &system_records : &c->s->files_table;
	struct extent x;

	c->r->items++;
	if (record_validate(t, key, val, len))
		return problem(c, "item", key.off, "not valid, inode", key_ino(key), 0);
	if (!c->system && key_ino(key) == KEY_INO_MAX && key_type(key) == RECORD_SHARED) {
		const struct disk_shared *d = val;

		if (!le64_get(d->birth) || le64_get(d->birth) > c->gen)
			problem(c, "shared count", key.off, "birth, not in its view", le64_get(d->birth), c->gen);
		if (mem_grow((void **)&c->shared, &c->cap_shared, c->n_shared + 1, sizeof(*c->shared)))
			return -ENOMEM;
		c->shared[c->n_shared++] =
			(struct shared){ key.off, le64_get(d->birth), le32_get(d->blocks), le32_get(d->refs) };
		return 0;
	}
	if (c->system || !record_extent(t, key, val, len, &x) || !x.addr)
		return 0;
	c->r->extents++;
	if (!space_valid(c->s->space, x.addr, x.blocks))
		return problem(c, "extent", x.addr, "outside of the device, blocks", x.blocks, 0);
	if (!x.birth || x.birth > c->gen)
		problem(c, "extent", x.addr, "birth, not in its view", x.birth, c->gen);
	if (mem_grow((void **)&c->runs, &c->cap_runs, c->n_runs + 1, sizeof(*c->runs)))
		return -ENOMEM;
	c->runs[c->n_runs++] = (struct ref_range){ x.addr, x.blocks, x.birth };
	return 0;
}

struct point {
	uint64_t addr;
	int64_t refs, shared; /* change of the running sums */
};

static int point_cmp(const void *pa, const void *pb)
{
	const struct point *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

/* References counted against shared records: one sweep over both. */
static int check_counts(struct check *c)
{
	size_t n = 0, max = 2 * (c->n_runs + c->n_shared);
	struct point *p = mem_alloc((max + 1) * sizeof(*p));
	int64_t refs = 0, shared = 0;

	if (!p)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_runs; i++) {
		p[n++] = (struct point){ c->runs[i].addr, 1, 0 };
		p[n++] = (struct point){ c->runs[i].addr + c->runs[i].blocks, -1, 0 };
	}
	for (size_t i = 0; i < c->n_shared; i++) {
		p[n++] = (struct point){ c->shared[i].addr, 0, c->shared[i].refs };
		p[n++] = (struct point){ c->shared[i].addr + c->shared[i].blocks, 0, -(int64_t)c->shared[i].refs };
	}
	if (n)
		qsort(p, n, sizeof(*p), point_cmp);
	for (size_t i = 0; i + 1 < n; i++) {
		refs += p[i].refs;
		shared += p[i].shared;
		if (p[i].addr == p[i + 1].addr || (refs == 0 && shared == 0))
			continue;
		if (shared ? refs != shared : refs > 1)
			problem(c, "shared count", p[i].addr, "references counted", (uint64_t)refs, (uint64_t)shared);
		for (uint64_t b = p[i].addr; b < p[i + 1].addr && refs; b++) {
			if (map_get(&c->nodes, b))
				problem(c, "extent", b, "overlaps a node, view", c->root, 0);
			map_set(&c->view, b);
			if (!map_get(&c->data, b))
				c->r->data_blocks++;
			map_set(&c->data, b);
		}
	}
	mem_free(p);
	return 0;
}

/* Of data that is shared, the record's birth counts. */
static void mark_old(struct check *c)
{
	for (size_t i = 0; i < c->n_runs; i++)
		for (uint32_t k = 0; k < c->runs[i].blocks; k++)
			map_put(&c->old, c->runs[i].addr + k, c->runs[i].birth <= c->old_gen);
	for (size_t i = 0; i < c->n_shared; i++)
		for (uint64_t b = c->shared[i].addr; b < c->shared[i].addr + c->shared[i].blocks && b < c->old.blocks; b++)
			map_put(&c->old, b, c->shared[i].birth <= c->old_gen);
}

/* Walks one tree into c->view. */
static int look_at(struct check *c, uint64_t tree, const struct root *root, uint64_t gen, uint64_t id)
{
	static const struct walk_ops ops = { .ref = on_ref, .item = on_item, .bad = on_bad };
	int err;

	map_clear(&c->view);
	c->n_runs = c->n_shared = 0;
	c->gen = gen;
	c->root = id;
	c->system = tree == TREE_SYSTEM;
	err = tree_walk(c->s->cache, tree, root, &ops, c);
	if (err == -EUCLEAN) {
		problem(c, "tree", root->ref.addr, "structure of view", id, 0);
		err = 0;
	}
	if (!err)
		err = check_counts(c);
	if (!err && c->old_gen)
		mark_old(c);
	return err;
}

struct line { /* a snapshot, or live (id 0) */
	uint64_t id, parent, list, gen;
	struct root root;
	bool dying;
};

struct lines {
	struct line *at;
	size_t n, cap;
};

static int add_line(void *arg, struct key key, const void *val, size_t len)
{
	const struct disk_snapshot *d = val;
	struct lines *l = arg;

	(void)len;
	if (mem_grow((void **)&l->at, &l->cap, l->n + 1, sizeof(*l->at)))
		return -ENOMEM;
	l->at[l->n++] = (struct line){
		.id = key.off,
		.parent = le64_get(d->parent),
		.list = le64_get(d->dead_list),
		.gen = le64_get(d->gen),
		.root = { { le64_get(d->root_addr), le64_get(d->root_copy), le64_get(d->root_gen) }, le32_get(d->levels) },
		.dying = le32_get(d->flags) & SNAPSHOT_DYING,
	};
	return 0;
}

static const struct line *line_of(const struct lines *l, uint64_t id)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->at[i].id == id)
			return &l->at[i];
	return NULL;
}

static uint64_t parent_gen(const struct lines *l, const struct line *v)
{
	const struct line *p = v->parent ? line_of(l, v->parent) : NULL;

	return p ? p->gen : 0;
}

static int on_dead(void *arg, struct key key, const void *val, size_t len)
{
	const struct disk_dead *d = val;
	uint64_t birth = le64_get(d->birth);
	struct check *c = arg;

	(void)len;
	if (!space_valid(c->s->space, key.off, le32_get(d->blocks)))
		return problem(c, "dead list", key.off, "outside of the device, blocks", le32_get(d->blocks), 0);
	for (uint64_t b = key.off; b < key.off + le32_get(d->blocks); b++) {
		if (!map_get(&c->parent, b) || map_get(&c->view, b)) {
			problem(c, "dead list", b, "block is not what the parent has and the view has not, view", c->root, 0);
			continue;
		}
		if (birth > c->parent_gen || (birth <= c->grand_gen) != map_get(&c->parent_old, b))
			problem(c, "dead list", b, "birth", birth, c->grand_gen);
		map_set(&c->view, b); /* accounted for */
	}
	return 0;
}

/* c->view holds what the view reaches: its parent's blocks that are not there must be on its list. */
static int check_dead_list(struct check *c, const struct lines *l, const struct line *v)
{
	const struct line *p = v->parent ? line_of(l, v->parent) : NULL; /* 0 is live's own id */
	struct map keep, keep_old;
	int err;

	if (!p) {
		if (v->parent)
			problem(c, "snapshot", v->parent, "parent is not there", v->id, 0);
		map_clear(&c->parent);
	} else {
		keep = c->view;
		keep_old = c->old;
		c->view = c->parent;
		c->old = c->parent_old;
		map_clear(&c->old);
		c->parent_gen = p->gen;
		c->grand_gen = c->old_gen = parent_gen(l, p);
		err = look_at(c, TREE_FILES, &p->root, p->gen, p->id);
		c->parent = c->view;
		c->parent_old = c->old;
		c->view = keep;
		c->old = keep_old;
		if (err)
			return err;
	}
	c->root = v->id;
	for (uint64_t b = 0; p && b < c->view.blocks; b++)
		if (map_get(&c->view, b) && map_get(&c->old, b) != map_get(&c->parent, b))
			problem(c, "birth", b, "not as its parent has it or has it not, view", v->id, map_get(&c->parent, b));
	err = system_each(c->s, key_make(v->list, SYSTEM_DEAD, 0), key_make(v->list, SYSTEM_DEAD, UINT64_MAX), on_dead, c);
	for (uint64_t b = 0; !err && b < c->view.blocks; b++)
		if (map_get(&c->parent, b) && !map_get(&c->view, b))
			problem(c, "dead list", b, "block is missing from the list of view", v->id, 0);
	return err;
}

static int check_space(struct check *c)
{
	uint8_t *bits = mem_alloc(SPACE_GROUP_BLOCKS / 8);
	int err = 0;

	if (!bits)
		return -ENOMEM;
	for (uint64_t g = 0; !err && g < space_groups(c->s->space); g++) {
		err = space_bitmaps(c->s->space, g, NULL, bits);
		if (err == -EBADMSG || err == -EUCLEAN || err == -EIO) {
			problem(c, "space map", g, "group cannot be read", (uint64_t)-err, 0);
			err = 0;
			continue;
		}
		for (uint64_t i = 0; !err && i < SPACE_GROUP_BLOCKS; i++) {
			uint64_t b = g * SPACE_GROUP_BLOCKS + i;
			bool used = bits[i / 8] >> (i % 8) & 1;
			bool reached;

			if (b >= c->nodes.blocks || !space_valid(c->s->space, b, 1))
				continue;
			reached = map_get(&c->nodes, b) || map_get(&c->data, b);
			if (reached && !used)
				problem(c, "space map", b, "block in use is free", 0, 1);
			if (!reached && used)
				problem(c, "space map", b, "block in use by nothing", 1, 0);
		}
	}
	mem_free(bits);
	return err;
}

static int check_all(struct check *c, const struct root *live, const struct root *system, uint64_t gen)
{
	struct store *s = c->s;
	struct lines l = { 0 };
	bool dying = false;
	int err;

	err = system_each(s, key_make(0, SYSTEM_SNAPSHOT, 0), key_make(0, SYSTEM_SNAPSHOT, UINT64_MAX), add_line, &l);
	if (!err && mem_grow((void **)&l.at, &l.cap, l.n + 1, sizeof(*l.at)))
		err = -ENOMEM;
	if (!err)
		err = look_at(c, TREE_SYSTEM, system, UINT64_MAX, UINT64_MAX);
	if (err)
		goto out;
	l.at[l.n++] = (struct line){ 0, s->parent, s->dead_list, gen, *live, false };
	for (size_t i = 0; i < l.n; i++)
		dying |= l.at[i].dying;
	for (size_t i = 0; !err && i < l.n; i++) {
		if (l.at[i].dying)
			continue;
		c->old_gen = parent_gen(&l, &l.at[i]);
		err = look_at(c, TREE_FILES, &l.at[i].root, l.at[i].gen, l.at[i].id);
		if (!err && !dying)
			err = check_dead_list(c, &l, &l.at[i]);
	}
	if (!err && !dying)
		err = check_space(c);
	if (!err && dying)
		err_log(LOG_INFO, "check: a snapshot is being deleted: space and dead lists were not compared");
out:
	mem_free(l.at);
	return err;
}

int store_check(struct store *s, struct check_result *ret)
{
	struct check c = { .s = s, .r = ret };
	struct view *v = NULL;
	struct root system;
	int err;

	*ret = (struct check_result){ 0 };
	err = s->opt.read_only ? 0 : checkpoint_run(s, CHECKPOINT_BOTH, NULL, NULL);
	if (!err)
		err = view_freeze(s, &v);
	if (err)
		return err;
	pthread_rwlock_rdlock(&s->live.lock);
	system = s->system.root;
	pthread_rwlock_unlock(&s->live.lock);

	err = map_open(&c.nodes, atomic_load(&s->blocks));
	if (!err)
		err = map_open(&c.data, atomic_load(&s->blocks));
	if (!err)
		err = map_open(&c.view, atomic_load(&s->blocks));
	if (!err)
		err = map_open(&c.parent, atomic_load(&s->blocks));
	if (!err)
		err = map_open(&c.old, atomic_load(&s->blocks));
	if (!err)
		err = map_open(&c.parent_old, atomic_load(&s->blocks));
	if (!err)
		err = check_all(&c, &v->base, &system, v->base_gen);
	mem_free(c.nodes.bits);
	mem_free(c.data.bits);
	mem_free(c.view.bits);
	mem_free(c.parent.bits);
	mem_free(c.old.bits);
	mem_free(c.parent_old.bits);
	mem_free(c.runs);
	mem_free(c.shared);
	view_close(v);
	return err ? err : ret->errors ? -EUCLEAN : 0;
}

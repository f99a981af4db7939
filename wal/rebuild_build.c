/*
 * rebuild_build.c - new trees beside the old ones
 *
 * Everything is written to blocks that nothing readable uses: riding blocks to their homes, which no checkpoint reaches; nodes
 * to what rebuild_alloc gives. A view's new tree carries the view's own generation: a snapshot's all the nodes of it that
 * it froze, live's a new one. So rule L1 (rebuild_line.c) holds for new nodes, too.
 *
 * When the trees are there, everything is read once more as it will be: that gives the map of what is in use and the dead
 * lists, which go into the system tree in the order of their ids. And it is read from the device, so that nothing is believed
 * to have been written that was not.
 */
#include "btree/mem.h"
#include "btree/tree_build.h"
#include "wal/rebuild_int.h"

struct build {
	struct rebuild *r;
	struct tree_build *tree;
	uint64_t items, claims;
};

static int open_tree(struct rebuild *r, uint64_t id, uint64_t gen, struct tree_build **ret)
{
	struct tree_build_options opt = {
		.bdev = r->bdev,
		.node_size = r->super.node_size,
		.tree = id,
		.gen = gen,
		.copies = r->super.incompat & SUPER_INCOMPAT_COPIES,
		.records = id == TREE_FILES ? &r->files_table : &system_records,
		.alloc = rebuild_alloc,
		.arg = r,
	};

	return tree_build_open(&opt, ret);
}

/* ---- views ---- */

static int build_item(void *arg, struct key key, const void *val, size_t len)
{
	struct build *b = arg;

	if (b->r->opt->progress && !(++b->items & 0xffff))
		b->r->opt->progress(b->r->opt->arg, "build", b->items, 0);
	return tree_build_add(b->tree, key, val, len);
}

static int build_extent(void *arg, const struct extent *x)
{
	struct build *b = arg;

	b->claims += x->addr ? 0 : x->blocks;
	return 0;
}

static int add_shared(struct tree_build *t, const struct rshareds *v)
{
	int err = 0;

	for (size_t i = 0; !err && i < v->n; i++) {
		struct disk_shared d = { le64_put(v->at[i].birth), le32_put(v->at[i].blocks), le32_put(v->at[i].refs) };

		err = tree_build_add(t, key_make(KEY_INO_MAX, RECORD_SHARED, v->at[i].addr), &d, sizeof(d));
	}
	return err;
}

static int build_view(struct rebuild *r, struct rview *v, uint64_t gen)
{
	static const struct rlook look = { .item = build_item, .extent = build_extent };
	struct build b = { .r = r };
	struct rshareds shared = { 0 };
	struct root root;
	int err;

	err = rview_map(r, v);
	if (!err)
		err = rview_count(r, v, &shared);
	if (err)
		return err;
	mem_free(v->shared.at);
	v->shared = shared;
	err = open_tree(r, TREE_FILES, gen, &b.tree);
	if (!err)
		err = rview_look(r, v, &look, &b);
	if (!err)
		err = add_shared(b.tree, &shared);
	if (!err)
		err = tree_build_finish(b.tree, &root);
	tree_build_close(b.tree);
	if (err)
		return err;
	v->sn.root = root;
	v->rebuild = false;
	if (v->sn.id)
		return 0;
	v->sn.gen = gen;
	r->super.claims = b.claims;
	r->res->items_kept = b.items;
	/* From now on live is what its tree says. */
	r->live_new = r->from_salvage = false;
	r->n_refused = 0;
	return 0;
}

static int ride_home(struct rebuild *r)
{
	int err = 0;

	for (size_t i = 0; !err && i < r->n_riding; i++)
		err = bdev_write(r->bdev, r->riding[i].addr, r->riding[i].block, 1);
	return err;
}

/* ---- the system tree ---- */

static int add_run(void *arg, const struct rebuild_run *run)
{
	struct rebuild_runs *v = arg;

	if (mem_grow((void **)&v->at, &v->cap, v->n + 1, sizeof(*v->at)))
		return -ENOMEM;
	v->at[v->n++] = *run;
	return 0;
}

static int run_cmp(const void *pa, const void *pb)
{
	const struct rebuild_run *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

/* r->vn and vd are the view's. */
static int add_dead(struct rebuild *r, struct tree_build *t, const struct rview *v)
{
	const struct rview *parent = rebuild_view(r, v->parent);
	struct rebuild_runs runs = { 0 };
	int err = parent ? rview_dead(r, parent, add_run, &runs) : 0;

	if (!err && runs.n)
		qsort(runs.at, runs.n, sizeof(*runs.at), run_cmp);
	for (size_t i = 0; !err && i < runs.n; i++) {
		struct disk_dead d = { .birth = le64_put(runs.at[i].birth), .blocks = le32_put(runs.at[i].blocks) };

		err = tree_build_add(t, dead_key(v->sn.dead_list, runs.at[i].addr), &d, sizeof(d));
	}
	mem_free(runs.at);
	return err;
}

static int add_line(struct rebuild *r, struct tree_build *t, uint64_t next_id)
{
	const struct rview *live = rebuild_live(r);
	struct disk_live d = { le64_put(live->parent), le64_put(live->sn.dead_list), le64_put(next_id) };
	int err = tree_build_add(t, key_make(0, SYSTEM_LIVE, 0), &d, sizeof(d));

	for (struct rview *v = r->views; !err && v < live; v++) {
		uint8_t buf[SNAPSHOT_ITEM_MAX];

		if (v->dropped)
			continue;
		v->sn.parent = v->parent;
		err = tree_build_add(t, snapshot_key(v->sn.id), buf, snapshot_encode(&v->sn, buf));
	}
	return err;
}

/* Each view has a list of its own. Returns the next id. */
static uint64_t number_lists(struct rebuild *r)
{
	uint64_t next = r->have_live_item ? le64_get(r->live_item.next_id) : 2;

	if (!rview_id_right(next))
		next = 2;
	for (size_t i = 0; i < r->n_views; i++) {
		const struct snapshot *sn = &r->views[i].sn;

		if (next <= sn->id)
			next = sn->id + 1;
		if (next <= sn->dead_list && rview_id_right(sn->dead_list))
			next = sn->dead_list + 1;
	}
	for (size_t i = 0; i < r->n_views; i++) {
		uint64_t *list = &r->views[i].sn.dead_list;
		bool taken = !rview_id_right(*list);

		for (size_t k = 0; k < i; k++)
			taken |= r->views[k].sn.dead_list == *list;
		if (taken)
			*list = next++;
	}
	return next;
}

static int list_cmp(const void *pa, const void *pb)
{
	const struct rview *const *a = pa, *const *b = pb;

	return ((*a)->sn.dead_list > (*b)->sn.dead_list) - ((*a)->sn.dead_list < (*b)->sn.dead_list);
}

static int system_ref(void *arg, struct ref ref, unsigned level)
{
	struct rebuild *r = arg;
	uint32_t nb = r->super.node_size / BLOCK_SIZE;

	(void)level;
	rmap_set(&r->all, ref.addr, nb);
	if (ref.copy)
		rmap_set(&r->all, ref.copy, nb);
	return 0;
}

/* Everything as it will be into r->all; a new system tree, if there is to be one. */
static int account(struct rebuild *r, bool system)
{
	static const struct walk_ops ops = { .ref = system_ref };
	struct rview **order = mem_zalloc_array(r->n_views, sizeof(*order));
	uint64_t next_id = number_lists(r);
	struct tree_build *t = NULL;
	size_t n = 0;
	int err = order ? 0 : -ENOMEM;

	rmap_clear(r, &r->all);
	for (size_t i = 0; order && i < r->n_views; i++)
		if (!r->views[i].dropped)
			order[n++] = &r->views[i];
	if (order)
		qsort(order, n, sizeof(struct rview *), list_cmp);
	if (!err && system)
		err = open_tree(r, TREE_SYSTEM, r->next_gen++, &t);
	if (!err && system)
		err = add_line(r, t, next_id);
	for (size_t i = 0; !err && i < n; i++) {
		if (r->opt->progress)
			r->opt->progress(r->opt->arg, "account", i, n);
		err = rview_map(r, order[i]);
		rmap_add(r, &r->all, &r->vn);
		rmap_add(r, &r->all, &r->vd);
		if (!err && system)
			err = add_dead(r, t, order[i]);
	}
	if (!err && system)
		err = tree_build_finish(t, &r->super.system);
	tree_build_close(t);
	mem_free(order);
	return err ? err : tree_walk(r->cache, TREE_SYSTEM, &r->super.system, &ops, r);
}

/* ---- all of it ---- */

int rebuild_build(struct rebuild *r)
{
	struct rview *live = rebuild_live(r);
	bool changed = r->system_damaged || r->dying || live->parent != live->sn.parent;
	uint64_t kept = 0;
	int err = 0;

	if (live->rebuild) {
		err = ride_home(r);
		memcpy(r->super.counter, r->counter, sizeof(r->super.counter));
	}
	for (struct rview *v = r->views; !err && v <= live; v++) {
		kept += v != live && !v->dropped;
		changed |= v != live && (v->dropped || v->parent != v->sn.parent);
		if (v->dropped || !v->rebuild)
			continue;
		/* Lists and items of snapshots say where trees are. */
		changed |= kept > 0;
		err = build_view(r, v, v == live ? r->next_gen++ : v->sn.gen);
	}
	r->res->snapshots_kept = kept;
	if (!err)
		err = account(r, changed);
	r->super.files = live->sn.root;
	return err;
}

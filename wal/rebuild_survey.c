/*
 * rebuild_survey.c - everything is read, as far as it goes, and held against everything else
 *
 * First the system tree, for the snapshots; then each view, oldest first, live last. Of each view is kept what the next steps
 * need: that it is damaged, which nodes cannot be read, which of live's keys are lost, its shared records. What a healthy
 * store says of itself is compared on the way, as store_check does: shared counts, dead lists, the space map. So a store
 * about which nothing is found here is one about which store_check finds nothing.
 *
 * What is compared is the state of the checkpoint, not that of the log, which the map and the lists know nothing of. Where
 * something cannot be read the comparison with what follows from it is left out: it would find the same again.
 *
 * A snapshot whose deletion is under way is not read: half of it may be free already. While there is one, blocks may be in use
 * by nothing else, and dead lists are on the move.
 */
#include "btree/mem.h"
#include "wal/rebuild_int.h"

struct survey {
	struct rebuild *r;
	struct rview *v;
	struct key key; /* the item at hand */
	const struct rview *parent;
	uint64_t wrong;
};

static int insert_sorted(uint64_t **at, size_t *n, size_t *cap, uint64_t x)
{
	size_t i = *n;

	if (mem_grow((void **)at, cap, *n + 1, sizeof(**at)))
		return -ENOMEM;
	for (; i && (*at)[i - 1] > x; i--)
		(*at)[i] = (*at)[i - 1];
	(*at)[i] = x;
	++*n;
	return 0;
}

/* ---- nodes ---- */

/* One of a node's two places. False: it cannot be there. */
static bool node_place(struct rebuild *r, uint64_t addr)
{
	uint32_t nb = r->super.node_size / BLOCK_SIZE;
	bool right;

	if (!space_valid(r->space, addr, nb))
		return false;
	right = rmap_empty(&r->vn, addr, nb) && rmap_empty(&r->vd, addr, nb);
	rmap_set(&r->vn, addr, nb);
	rmap_set(&r->used, addr, nb);
	return right;
}

static int on_node(void *arg, struct ref ref)
{
	struct survey *s = arg;
	bool right = node_place(s->r, ref.addr);

	if (ref.copy)
		right &= node_place(s->r, ref.copy);
	if (right && ref.gen <= s->v->sn.gen)
		return 0;
	s->v->damaged = true;
	s->r->node_twice |= !right && !s->v->sn.id;
	return rebuild_found(s->r, REBUILD_NODE, s->v, "node %" PRIu64 " is where, or younger than, it can be",
			     ref.addr);
}

static int on_lost(void *arg, struct ref ref, unsigned level, struct key from, struct key to, int err)
{
	const struct key end = key_make(KEY_INO_MAX, RECORD_SHARED, 0);
	struct survey *s = arg;
	struct rebuild *r = s->r;
	char node[80] = "no node is found"; /* by a salvage */

	s->v->damaged = true;
	r->res->nodes_lost++;
	if (ref.addr)
		snprintf(node, sizeof(node), "node %" PRIu64 " of level %u cannot be read (%s)", ref.addr, level,
			 strerror(-err));
	rebuild_found(r, REBUILD_NODE, s->v,
		      "%s: items from inode %" PRIu64 " type %u offset %" PRIu64 " to inode %" PRIu64
		      " type %u offset %" PRIu64,
		      node, key_ino(from), key_type(from), from.off, key_ino(to), key_type(to), to.off);
	if (s->v->sn.id)
		return 0;
	if (ref.addr && insert_sorted(&r->bad, &r->n_bad, &r->cap_bad, ref.addr))
		return -ENOMEM;
	/* Shared counts are nobody's loss. */
	if (key_less(end, to))
		to = end;
	return key_less(from, to) ? rebuild_lose(r, from, to, err) : 0;
}

/* ---- items ---- */

static int refuse(struct survey *s, const char *why, uint64_t value)
{
	struct rebuild *r = s->r;

	s->v->damaged = true;
	rebuild_found(r, REBUILD_ITEM, s->v, "inode %" PRIu64 " type %u offset %" PRIu64 ": %s %" PRIu64,
		      key_ino(s->key), key_type(s->key), s->key.off, why, value);
	if (s->v->sn.id)
		return 0;
	if (mem_grow((void **)&r->refused, &r->cap_refused, r->n_refused + 1, sizeof(*r->refused)))
		return -ENOMEM;
	r->refused[r->n_refused++] = s->key;
	return rebuild_lose(r, s->key, key_next(s->key), -EUCLEAN);
}

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	struct survey *s = arg;
	int err;

	s->key = key;
	s->r->res->items_kept += !s->v->sn.id;
	if (!record_validate(s->r->opt->records, key, val, len))
		return 0;
	err = refuse(s, "not valid, length", len);
	return err ? err : 1;
}

static int on_extent(void *arg, const struct extent *x)
{
	struct survey *s = arg;
	struct rebuild *r = s->r;
	uint64_t at = x->addr;
	uint32_t n;

	if (!x->addr)
		return 0;
	if (!space_valid(r->space, x->addr, x->blocks))
		return refuse(s, "its blocks are not on the device:", x->addr);
	if (!x->birth || x->birth > s->v->sn.gen)
		return refuse(s, "its blocks are younger than the view:", x->addr);
	for (; (n = rmap_piece(&r->vd, &at, x->addr + x->blocks, true)); at += n)
		rmap_set(&r->vt, at, n);
	rmap_set(&r->vd, x->addr, x->blocks);
	rmap_set(&r->used, x->addr, x->blocks);
	return 0;
}

static int on_shared(void *arg, struct key key, const void *val, size_t len)
{
	struct survey *s = arg;
	struct rshareds *v = &s->v->shared;
	const struct disk_shared *d = val;

	if (shared_row.validate(key, val, len) || !space_valid(s->r->space, key.off, 1) || !le64_get(d->birth) ||
	    le64_get(d->birth) > s->v->sn.gen) {
		s->v->recount = true;
		return rebuild_found(s->r, REBUILD_SHARED, s->v, "the record of block %" PRIu64 " is not valid",
				     key.off);
	}
	if (mem_grow((void **)&v->at, &v->cap, v->n + 1, sizeof(*v->at)))
		return -ENOMEM;
	v->at[v->n++] = (struct rshared){ key.off, le64_get(d->birth), le32_get(d->blocks), le32_get(d->refs) };
	return 0;
}

/* ---- one view ---- */

struct rview *rebuild_view(const struct rebuild *r, uint64_t id)
{
	for (size_t i = 0; id && i < r->n_views; i++)
		if (r->views[i].sn.id == id)
			return &r->views[i];
	return NULL;
}

static int compare_shared(struct rebuild *r, struct rview *v)
{
	struct rshareds want = { 0 };
	int err = rview_count(r, v, &want);

	if (err)
		return err;
	if (!rshareds_agree(&v->shared, &want)) {
		v->recount = true;
		rebuild_found(r, REBUILD_SHARED, v, "shared counts are not what the references add up to");
	}
	mem_free(want.at);
	return 0;
}

/* What the space is freed by: see rule L1 in rebuild_line.c. Of shared blocks the record's birth counts. */
static int birth_node(void *arg, struct ref ref)
{
	struct survey *s = arg;
	struct rebuild *r = s->r;
	uint32_t nb = r->super.node_size / BLOCK_SIZE;

	s->wrong += !rview_derives(r, s->parent, ref.addr, nb, ref.gen, true);
	s->wrong += ref.copy && !rview_derives(r, s->parent, ref.copy, nb, ref.gen, true);
	return 0;
}

static int birth_extent(void *arg, const struct extent *x)
{
	struct survey *s = arg;
	uint64_t at = x->addr;
	uint32_t n;

	for (; x->addr && (n = rmap_piece(&s->r->vt, &at, x->addr + x->blocks, false)); at += n)
		s->wrong += !rview_derives(s->r, s->parent, at, n, x->birth, false);
	return 0;
}

static int compare_births(struct rebuild *r, struct rview *v, const struct rview *parent)
{
	static const struct rlook look = { .node = birth_node, .extent = birth_extent };
	struct survey s = { .r = r, .v = v, .parent = parent };
	int err = rview_look(r, v, &look, &s);

	if (err || !parent || v->recount)
		return err;
	if (s.wrong)
		rebuild_found(r, REBUILD_ITEM, v, "%" PRIu64 " blocks or nodes were not born when %s says", s.wrong,
			      rview_name(parent));
	for (size_t i = 0; i < v->shared.n && !v->recount; i++) {
		const struct rshared *x = &v->shared.at[i];

		if (rview_derives(r, parent, x->addr, x->blocks, x->birth, false))
			continue;
		v->recount = true;
		rebuild_found(r, REBUILD_SHARED, v, "block %" PRIu64 " was not born when its record says", x->addr);
	}
	return 0;
}

/* The view's parent, and what that one derives from. */
struct line {
	struct rebuild *r;
	uint64_t gen, grand_gen;
	uint64_t left; /* blocks that should be on the list and have not been found there */
};

/* Into r->seen by rview_dead; what the grandparent has, by its birth, into r->pd, too. */
static int add_dead(void *arg, const struct rebuild_run *run)
{
	struct line *l = arg;

	l->left += run->blocks;
	if (run->birth <= l->grand_gen)
		rmap_set(&l->r->pd, run->addr, run->blocks);
	return 0;
}

/* A birth on a list decides, when the parent is deleted, whether the blocks are free: that is whether the grandparent has them. */
static bool dead_right(const struct line *l, const struct rdead *d)
{
	struct rebuild *r = l->r;

	if (!space_valid(r->space, d->addr, d->blocks) || !rmap_full(&r->seen, d->addr, d->blocks) || d->birth > l->gen)
		return false;
	return d->birth <= l->grand_gen ? rmap_full(&r->pd, d->addr, d->blocks)
					: rmap_empty(&r->pd, d->addr, d->blocks);
}

/* r->vn and vd are the view's. */
static int compare_dead(struct rebuild *r, const struct rview *v, const struct rview *parent)
{
	const struct rview *grand = parent ? rebuild_view(r, parent->sn.parent) : NULL;
	struct line l = { .r = r, .gen = parent ? parent->sn.gen : 0, .grand_gen = grand ? grand->sn.gen : 0 };
	uint64_t wrong = 0;
	int err = 0;

	rmap_clear(r, &r->seen);
	rmap_clear(r, &r->pd);
	if (parent)
		err = rview_dead(r, parent, add_dead, &l);
	for (size_t i = 0; !err && i < r->n_dead; i++) {
		const struct rdead *d = &r->dead[i];

		if (d->list != v->sn.dead_list)
			continue;
		if (!dead_right(&l, d)) {
			wrong++;
			continue;
		}
		rmap_unset(&r->seen, d->addr, d->blocks);
		l.left -= d->blocks;
	}
	if (err || (!l.left && !wrong))
		return err;
	r->system_damaged = true;
	return rebuild_found(r, REBUILD_DEAD, v,
			     "the dead list has %" PRIu64 " wrong entries and lacks %" PRIu64 " blocks", wrong, l.left);
}

static int compare_parent(struct rebuild *r, struct rview *v)
{
	const struct rview *parent = rebuild_view(r, v->sn.parent);
	int err;

	if (r->dying || r->system_damaged || v->damaged || (parent && parent->damaged))
		return 0;
	if (v->sn.parent && !parent) {
		r->system_damaged = true;
		return rebuild_found(r, REBUILD_SNAPSHOT, v,
				     "snapshot %" PRIu64 ", from which it derives, is not there", v->sn.parent);
	}
	err = rview_map_parent(r, parent);
	if (!err)
		err = compare_births(r, v, parent);
	return err ? err : compare_dead(r, v, parent);
}

/* As opening asks of them (snapshot_load). */
static bool generation_right(const struct rebuild *r, const struct rview *v)
{
	const struct rview *parent = rebuild_view(r, v->sn.parent);

	return v->sn.gen <= r->super.gen && (!parent || parent->sn.gen < v->sn.gen);
}

static int survey_view(struct rebuild *r, struct rview *v)
{
	static const struct rlook look = { on_node, on_item, on_extent, on_shared, on_lost };
	struct survey s = { .r = r, .v = v };
	uint64_t block;
	int err;

	if (v->sn.id && !generation_right(r, v)) {
		v->damaged = true;
		rebuild_found(r, REBUILD_ITEM, v, "generation %" PRIx64 " cannot be", v->sn.gen);
	}
	rmap_clear(r, &r->vn);
	rmap_clear(r, &r->vd);
	rmap_clear(r, &r->vt);
	err = rview_look(r, v, &look, &s);
	if (err)
		return err;
	if (rmap_meet(r, &r->vn, &r->vd, &block)) {
		v->damaged = true;
		rebuild_found(r, REBUILD_NODE, v, "block %" PRIu64 " is a node's, and data's", block);
	}
	rmap_add(r, &r->all, &r->vn);
	rmap_add(r, &r->all, &r->vd);
	rmap_add(r, &r->nodes, &r->vn);
	if (!v->damaged && !v->recount)
		err = compare_shared(r, v);
	return err ? err : compare_parent(r, v);
}

/* ---- the system tree ---- */

static int on_system_ref(void *arg, struct ref ref, unsigned level)
{
	struct survey *s = arg;
	bool right = node_place(s->r, ref.addr);

	(void)level;
	if (ref.copy)
		right &= node_place(s->r, ref.copy);
	if (right)
		return 0;
	s->r->system_damaged = true;
	return rebuild_found(s->r, REBUILD_NODE, NULL, "node %" PRIu64 " of the system tree is where it cannot be",
			     ref.addr);
}

static int on_system_lost(void *arg, struct ref ref, unsigned level, struct key from, struct key to, int err)
{
	struct survey *s = arg;

	(void)from;
	(void)to;
	if (err == -ENOMEM || err == -EBUSY)
		return err;
	s->r->system_damaged = true;
	s->r->res->nodes_lost++;
	return rebuild_found(s->r, REBUILD_NODE, NULL,
			     "node %" PRIu64 " of level %u of the system tree cannot be read (%s)", ref.addr, level,
			     strerror(-err));
}

static int add_snapshot(struct rebuild *r, uint64_t id, const struct disk_snapshot *d)
{
	struct rview *v;

	if (mem_grow((void **)&r->views, &r->cap_views, r->n_views + 1, sizeof(*r->views)))
		return -ENOMEM;
	v = &r->views[r->n_views++];
	*v = (struct rview){ 0 };
	snapshot_decode(&v->sn, id, d);
	v->dropped = v->sn.flags & SNAPSHOT_DYING; /* its deletion is finished, if anything is done at all */
	r->dying |= v->dropped;
	return 0;
}

static int on_system_item(void *arg, struct key key, const void *val, size_t len)
{
	struct rebuild *r = ((struct survey *)arg)->r;
	const struct disk_dead *d = val;
	bool line = key_ino(key) == 0 && key_type(key) != SYSTEM_DEAD;

	if (record_validate(&system_records, key, val, len) || line != (key_type(key) != SYSTEM_DEAD) ||
	    (key_type(key) == SYSTEM_LIVE && key.off) ||
	    (key_type(key) == SYSTEM_DEAD && !rview_id_right(key_ino(key))) ||
	    (key_type(key) == SYSTEM_SNAPSHOT && !rview_id_right(key.off))) {
		r->system_damaged = true;
		return rebuild_found(r, REBUILD_ITEM, NULL,
				     "key %" PRIx64 "/%" PRIx64 " of the system tree is not valid", key.obj, key.off);
	}
	if (key_type(key) == SYSTEM_LIVE) {
		memcpy(&r->live_item, val, sizeof(r->live_item));
		r->have_live_item = true;
	} else if (key_type(key) == SYSTEM_SNAPSHOT) {
		return add_snapshot(r, key.off, val);
	} else {
		if (mem_grow((void **)&r->dead, &r->cap_dead, r->n_dead + 1, sizeof(*r->dead)))
			return -ENOMEM;
		r->dead[r->n_dead++] = (struct rdead){ key_ino(key), key.off, le64_get(d->birth), le32_get(d->blocks) };
	}
	return 0;
}

/* Deleting one hands what it had to the one view that derives from it. */
static void look_at_dying(struct rebuild *r)
{
	for (size_t i = 0; i < r->n_views; i++) {
		const struct rview *v = &r->views[i];
		unsigned children = 0;

		for (size_t k = 0; k < r->n_views; k++)
			children += v->sn.id && r->views[k].sn.parent == v->sn.id;
		if (!v->dropped || children < 2)
			continue;
		r->system_damaged = true;
		rebuild_found(r, REBUILD_SNAPSHOT, v, "is being deleted, and %u views derive from it", children);
	}
}

static int survey_system(struct rebuild *r)
{
	static const struct walk_ops ops = { .ref = on_system_ref, .item = on_system_item, .lost = on_system_lost };
	struct survey s = { .r = r };
	struct rview *live;
	int err;

	err = tree_walk(r->cache, TREE_SYSTEM, &r->super.system, &ops, &s);
	if (err)
		return err;
	rmap_add(r, &r->all, &r->vn);
	rmap_add(r, &r->nodes, &r->vn);
	if (r->super.system.levels && !r->have_live_item && !r->system_damaged) {
		r->system_damaged = true;
		rebuild_found(r, REBUILD_ITEM, NULL, "the system tree does not say what live derives from");
	}
	if (mem_grow((void **)&r->views, &r->cap_views, r->n_views + 1, sizeof(*r->views)))
		return -ENOMEM;
	live = &r->views[r->n_views++];
	*live = (struct rview){
		.sn = { .gen = r->super.gen, .root = r->super.files, .dead_list = 1 },
	};
	if (r->have_live_item) {
		live->sn.parent = le64_get(r->live_item.parent);
		live->sn.dead_list = le64_get(r->live_item.dead_list);
	}
	look_at_dying(r);
	if (r->from_salvage) {
		/* It may have found what no checkpoint has named yet. */
		live->sn.gen = ((r->super.mount_epoch + 1) << GEN_EPOCH_SHIFT) - 1;
		live->damaged = true;
	}
	return 0;
}

/* Lists that are nobody's, and blocks of the system tree that are others', too. */
static int compare_system(struct rebuild *r)
{
	uint64_t block;

	if (r->system_damaged)
		return 0;
	for (size_t i = 0; i < r->n_views; i++) {
		const struct snapshot *sn = &r->views[i].sn;
		uint64_t next = r->have_live_item ? le64_get(r->live_item.next_id) : UINT64_MAX;
		bool right = rview_id_right(sn->dead_list) && sn->dead_list < next && sn->id < next;

		for (size_t k = 0; k < i; k++)
			right &= r->views[k].sn.dead_list != sn->dead_list;
		if (right)
			continue;
		r->system_damaged = true;
		return rebuild_found(r, REBUILD_DEAD, &r->views[i], "it has no number, or no dead list, of its own");
	}
	for (size_t i = 0; i < r->n_dead && !r->dying; i++) {
		bool known = false;

		for (size_t k = 0; !known && k < r->n_views; k++)
			known = r->views[k].sn.dead_list == r->dead[i].list;
		if (known)
			continue;
		r->system_damaged = true;
		return rebuild_found(r, REBUILD_DEAD, NULL, "dead list %" PRIu64 " is nobody's", r->dead[i].list);
	}
	if (rmap_meet(r, &r->other, &r->all, &block)) {
		r->system_damaged = true;
		rebuild_found(r, REBUILD_NODE, NULL, "block %" PRIu64 " is the system tree's and a view's", block);
	}
	return 0;
}

static int on_salvage_block(void *arg, uint64_t addr, uint32_t blocks)
{
	struct rebuild *r = arg;

	if (space_valid(r->space, addr, blocks))
		rmap_set(&r->used, addr, blocks);
	return 0;
}

int rebuild_survey(struct rebuild *r)
{
	bool whole = !r->opt->salvage;
	int err;

	err = survey_system(r);
	/* Kept apart from the views for a moment: they must not meet. */
	if (!err) {
		memcpy(r->other.words, r->vn.words, rmap_words(r) * sizeof(uint64_t));
		rmap_clear(r, &r->all);
	}
	for (size_t i = 0; !err && i < r->n_views; i++) {
		if (r->opt->progress)
			r->opt->progress(r->opt->arg, "survey", i, r->n_views);
		if (r->views[i].dropped)
			continue;
		err = survey_view(r, &r->views[i]);
		whole &= !r->views[i].damaged;
	}
	if (!err)
		err = compare_system(r);
	if (!err && r->from_salvage)
		err = salvage_blocks(r->opt->salvage, on_salvage_block, r);
	if (err)
		return err;
	rmap_add(r, &r->all, &r->other);
	err = rebuild_look_at_space(r, whole && !r->system_damaged && !r->dying);
	return err ? err : rebuild_read_log(r);
}

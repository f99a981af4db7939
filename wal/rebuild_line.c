/*
 * rebuild_line.c - which snapshots are kept, and what each view derives from
 *
 * The engine frees blocks by one rule: a view's block was born not after its parent exactly if the parent reaches it. A
 * store in which that does not hold loses data, or room, when something is released much later. So it is made sure of here,
 * for every view that is kept, by looking:
 *
 *	L1  a view and its parent: what of the view was born not after the parent is reached by the parent, as the same kind
 *	    (node or data), and nothing else of it is
 *	L2  what a view reaches and its parent does not is its own: no other view owns it
 *
 * By these the views are a forest, and what two of them share comes from a common ancestor.
 *
 * A snapshot in which something cannot be read is given up whole. Its rest cannot be kept as if nothing had happened: what it
 * reached through the part that is gone would break L1 for its children, and nobody can repair a snapshot's files, since
 * only live takes changes. Its children derive from its parent then. Where it had several, they shared what only it had, and
 * that has no owner any more: by L2 only the first child stays. Live is the first, always; so a rollback and damage together can
 * cost whole snapshots, and never live.
 *
 * Where the system tree does not say what a view derives from, the newest snapshot that fits by L1 is taken, or none. That
 * cannot be wrong: whatever fits is a parent by all that follows from it.
 *
 * Where an item of live says a birth that contradicts a parent that is whole, the birth is wrong, and set right.
 *
 * When live's parent changes, the log cannot be left for the next open to replay, since its records were made under the other
 * one; and where a view gets a new tree, those that derive from it get one, too.
 */
#include "btree/mem.h"
#include "wal/rebuild_int.h"

/* An item of live that gets the birth its blocks have in live's parent. */
struct fix {
	struct key key;
	uint64_t addr, birth;
	uint32_t blocks;
};

struct fit {
	struct rebuild *r;
	struct rview *v;
	const struct rview *parent;
	/* The item at hand: */
	struct key key;
	const void *val;
	size_t len;
	bool old; /* it is not the log's: it may be refused */

	uint64_t wrong, wrong_nodes;
	bool mend; /* births may be set right */
	bool mended;
	struct fix *fixes;
	size_t n_fixes, cap_fixes;
};

static int fit_node(void *arg, struct ref ref)
{
	struct fit *f = arg;
	struct rebuild *r = f->r;
	uint32_t nb = r->super.node_size / BLOCK_SIZE;

	f->wrong_nodes += !rview_derives(r, f->parent, ref.addr, nb, ref.gen, true);
	rmap_set(&r->vn, ref.addr, nb);
	if (ref.copy) {
		f->wrong_nodes += !rview_derives(r, f->parent, ref.copy, nb, ref.gen, true);
		rmap_set(&r->vn, ref.copy, nb);
	}
	return 0;
}

static int fit_item(void *arg, struct key key, const void *val, size_t len)
{
	struct fit *f = arg;
	const struct rput *p = f->r->live_new ? rebuild_put_from(f->r, key) : NULL;

	f->key = key;
	f->val = val;
	f->len = len;
	f->old = !p || !key_equal(p->key, key);
	return 0;
}

/* What salvage has found may be of any age: where it contradicts a snapshot that is whole, the snapshot is right. */
static int refuse(struct fit *f)
{
	struct rebuild *r = f->r;
	size_t i = r->n_refused;

	if (mem_grow((void **)&r->refused, &r->cap_refused, r->n_refused + 1, sizeof(*r->refused)))
		return -ENOMEM;
	for (; i && key_less(f->key, r->refused[i - 1]); i--)
		r->refused[i] = r->refused[i - 1];
	r->refused[i] = f->key;
	r->n_refused++;
	rebuild_found(r, REBUILD_ITEM, f->v,
		      "inode %" PRIu64 " type %u offset %" PRIu64 ": its blocks are not what %s has", key_ino(f->key),
		      key_type(f->key), f->key.off, rview_name(f->parent));
	return rebuild_lose(r, f->key, key_next(f->key), -EUCLEAN);
}

/*
 * Live's blocks are right and their birth is not: it is put beside the tree with another one. What the parent has not got is
 * as if it were written now; for the rest the parent is asked afterwards.
 */
static int mend_birth(struct fit *f, const struct extent *x)
{
	struct rebuild *r = f->r;
	bool none = rmap_empty(&r->pn, x->addr, x->blocks) && rmap_empty(&r->pd, x->addr, x->blocks);
	uint64_t now = (r->super.mount_epoch + 1) << GEN_EPOCH_SHIFT | 1;
	void *val;
	int err;

	if (!none && !rmap_full(&r->pd, x->addr, x->blocks)) {
		f->wrong++;
		return 0;
	}
	val = mem_alloc(f->len);
	if (!val)
		return -ENOMEM;
	memcpy(val, f->val, f->len);
	r->opt->records->row[key_type(f->key)].set_birth(val, f->len, now);
	err = rebuild_set(r, f->key, val, f->len);
	mem_free(val);
	if (!err && !none)
		err = mem_grow((void **)&f->fixes, &f->cap_fixes, f->n_fixes + 1, sizeof(*f->fixes));
	if (err)
		return err;
	if (!none)
		f->fixes[f->n_fixes++] = (struct fix){ f->key, x->addr, 0, x->blocks };
	f->mended = true;
	return 0;
}

static int ask_parent(void *arg, const struct extent *x)
{
	struct fit *f = arg;

	for (size_t i = 0; x->addr && i < f->n_fixes; i++) {
		struct fix *fix = &f->fixes[i];

		if (fix->addr < x->addr + x->blocks && x->addr < fix->addr + fix->blocks && fix->birth < x->birth)
			fix->birth = x->birth;
	}
	return 0;
}

static int mend_births(struct fit *f)
{
	static const struct rlook look = { .extent = ask_parent };
	const struct record_ops *rows = f->r->opt->records->row;
	int err = f->n_fixes ? rview_look(f->r, f->parent, &look, f) : 0;

	for (size_t i = 0; !err && i < f->n_fixes; i++) {
		struct rput *p = (struct rput *)(uintptr_t)rebuild_put_from(f->r, f->fixes[i].key);

		rows[key_type(p->key)].set_birth(p->val, p->len, f->fixes[i].birth);
	}
	mem_free(f->fixes);
	return err;
}

static int fit_extent(void *arg, const struct extent *x)
{
	struct fit *f = arg;
	struct rebuild *r = f->r;
	int err;

	if (!x->addr)
		return 0;
	if (!rview_derives(r, f->parent, x->addr, x->blocks, x->birth, false)) {
		if (!f->v->sn.id && r->from_salvage && f->old)
			return refuse(f);
		if (!f->mend)
			f->wrong++;
		else if ((err = mend_birth(f, x)))
			return err;
	}
	rmap_set(&r->vd, x->addr, x->blocks);
	return 0;
}

/* Whether the view can derive from that parent (or from none). r->other: what other views own; if it can, with what it does. */
static int fits(struct rebuild *r, struct rview *v, struct rview *parent, bool mend, bool *ret)
{
	static const struct rlook look = { .node = fit_node, .item = fit_item, .extent = fit_extent };
	struct fit f = { .r = r, .v = v, .parent = parent, .mend = mend };
	uint64_t own, block;
	int err, mended;

	*ret = false;
	/* Live's is equal to it right after a snapshot was made. */
	if (parent && parent->sn.gen >= v->sn.gen + !v->sn.id)
		return 0;
	if (parent && parent->rebuild)
		v->rebuild = true;
	if (!v->sn.id && v->rebuild)
		r->live_new = true;
	err = rview_map_parent(r, parent);
	if (err)
		return err;
	rmap_clear(r, &r->vn);
	rmap_clear(r, &r->vd);
	err = rview_look(r, v, &look, &f);
	mended = mend_births(&f);
	if (!err)
		err = mended;
	if (!v->sn.id && (f.mended || f.wrong_nodes)) {
		/* All is read again, with what was put right, and without the old nodes. */
		v->rebuild = r->live_new = true;
		f.wrong_nodes = 0;
	}
	if (err || f.wrong || f.wrong_nodes || rmap_meet(r, &r->vn, &r->vd, &block))
		return err;
	for (uint64_t i = 0; i < rmap_words(r); i++) {
		own = (r->vn.words[i] | r->vd.words[i]) & ~(r->pn.words[i] | r->pd.words[i]);
		if (own & r->other.words[i])
			return 0;
	}
	/* Of shared blocks the record's birth counts, in a view that keeps its records. */
	for (size_t i = 0; i < v->shared.n && !v->rebuild; i++)
		v->rebuild = !rview_derives(r, parent, v->shared.at[i].addr, v->shared.at[i].blocks,
					    v->shared.at[i].birth, false);
	for (uint64_t i = 0; i < rmap_words(r); i++)
		r->other.words[i] |= (r->vn.words[i] | r->vd.words[i]) & ~(r->pn.words[i] | r->pd.words[i]);
	*ret = true;
	return 0;
}

/* What the view derives from, leaving out what is dropped. False: that is not known. */
static bool declared(const struct rebuild *r, const struct rview *v, struct rview **ret)
{
	uint64_t id = v->sn.parent, below = v->sn.id ? v->sn.id : UINT64_MAX;

	*ret = NULL;
	if (!v->sn.id && r->super.system.levels && !r->have_live_item)
		return false;
	while (id) {
		struct rview *p = rebuild_view(r, id);

		if (!p || id >= below)
			return false;
		if (!p->dropped) {
			*ret = p;
			return true;
		}
		below = id;
		id = p->sn.parent;
	}
	return true;
}

static int settle(struct rebuild *r, struct rview *v, bool *ret)
{
	struct rview *first = NULL;
	bool known = declared(r, v, &first);
	int err = 0;

	*ret = false;
	if (known) {
		err = fits(r, v, first, !v->sn.id, ret);
		v->parent = first ? first->sn.id : 0;
	}
	for (size_t i = r->n_views - 1; !err && !*ret && i > 0; i--) {
		struct rview *p = &r->views[i - 1];

		if (p->dropped || p == v || (known && p == first) || (v->sn.id && p->sn.id > v->sn.id))
			continue;
		err = fits(r, v, p, false, ret);
		v->parent = p->sn.id;
	}
	if (!err && !*ret && (!known || first)) {
		err = fits(r, v, NULL, false, ret);
		v->parent = 0;
	}
	/* Live's old nodes are all that can still be in the way of live, which comes first. */
	if (!err && !*ret && !v->sn.id && !v->rebuild) {
		v->rebuild = true;
		err = fits(r, v, NULL, false, ret);
		v->parent = 0;
	}
	return err;
}

static void drop(struct rebuild *r, struct rview *v, const char *why)
{
	v->dropped = true;
	r->res->snapshots_lost++;
	rebuild_found(r, REBUILD_SNAPSHOT, v, "cannot be kept: %s", why);
}

static size_t rebuilds(const struct rebuild *r)
{
	size_t n = r->live_new;

	for (size_t i = 0; i < r->n_views; i++)
		n += r->views[i].rebuild;
	return n;
}

/* Again, when what others were held against has changed. */
static int settle_all(struct rebuild *r, bool *ret_again)
{
	struct rview *live = rebuild_live(r);
	size_t before = rebuilds(r);
	bool fit;
	int err;

	*ret_again = false;
	rmap_clear(r, &r->other);
	err = settle(r, live, &fit);
	for (struct rview *v = r->views; !err && v < live; v++) {
		if (v->dropped)
			continue;
		err = settle(r, v, &fit);
		if (!err && !fit) {
			drop(r, v, "it contradicts other views");
			*ret_again = true;
		}
	}
	if (live->parent != live->sn.parent && !(r->super.flags & SUPER_CLEAN))
		live->rebuild = r->live_new = true;
	if (rebuilds(r) != before)
		*ret_again = true;
	return err;
}

int rebuild_line(struct rebuild *r)
{
	struct rview *live = rebuild_live(r);
	bool again = true;
	int err = 0;

	for (struct rview *v = r->views; v <= live; v++) {
		v->rebuild |= v->recount && !v->dropped;
		if (v != live && v->damaged && !v->dropped)
			drop(r, v, "it cannot be read in full");
	}
	if (live->damaged || r->log_damaged || r->from_salvage)
		live->rebuild = true;
	r->live_new |= live->rebuild;
	while (!err && again) {
		if (r->opt->progress)
			r->opt->progress(r->opt->arg, "compare", 0, 1);
		err = settle_all(r, &again);
	}
	rebuild_sort_lost(r);
	return err;
}

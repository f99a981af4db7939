/*
 * rebuild_view.c - a view's items as they will be, and what follows from them
 *
 * A view that keeps its tree is read from it. Live, when it gets a new one, is three things laid over each other: its old tree
 * (or what salvage found) with holes where nodes cannot be read, the log's layer over it, and what the upper layer has put.
 * Everything that is derived is derived from this one stream, read as often as it takes: so the trees that are built, the
 * maps, the counts and the dead lists cannot disagree.
 *
 * Shared counts take no memory for what is not shared: a first reading sets one bit for blocks referred to and one for
 * those referred to again; only extents that meet the latter are collected by a second.
 */
#include "btree/mem.h"
#include "wal/rebuild_int.h"

/* ---- the stream ---- */

struct feed {
	struct rebuild *r;
	const struct rview *v;
	const struct rlook *look;
	void *arg;
	bool live, merge;
	struct key next; /* puts from here on have not been given */
};

static int give(struct feed *f, struct key key, const void *val, size_t len)
{
	struct extent x;
	int err;

	err = f->look->item ? f->look->item(f->arg, key, val, len) : 0;
	if (err || !f->look->extent)
		return err < 0 ? err : 0;
	if (!record_extent(f->r->opt->records, key, val, len, &x))
		return 0;
	return f->look->extent(f->arg, &x);
}

/* Puts before `key`, and the one at it. */
static int give_puts(struct feed *f, struct key key, bool *ret_at)
{
	const struct rput *p;
	int err = 0;

	*ret_at = false;
	while (!err && (p = rebuild_put_from(f->r, f->next)) && !key_less(key, p->key)) {
		*ret_at = key_equal(p->key, key);
		f->next = key_next(p->key);
		/* Who gets it may put something else in its place. */
		err = give(f, p->key, p->val, p->len);
	}
	return err;
}

static bool refused(const struct rebuild *r, struct key key)
{
	size_t lo = 0, hi = r->n_refused;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (key_less(r->refused[mid], key))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->n_refused && key_equal(r->refused[lo], key);
}

static int feed_item(void *arg, struct key key, const void *val, size_t len)
{
	struct feed *f = arg;
	bool replaced = false;
	int err;

	if (key.obj == UINT64_MAX)
		return !f->v->rebuild && f->look->shared ? f->look->shared(f->arg, key, val, len) : 0;
	if (f->merge) {
		err = give_puts(f, key, &replaced);
		if (err || replaced || rebuild_masked(f->r, key))
			return err;
	}
	if (f->live && refused(f->r, key))
		return 0;
	return give(f, key, val, len);
}

static bool known_bad(const struct rebuild *r, uint64_t addr)
{
	size_t lo = 0, hi = r->n_bad;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (r->bad[mid] < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->n_bad && r->bad[lo] == addr;
}

static int feed_ref(void *arg, struct ref ref, unsigned level)
{
	struct feed *f = arg;

	(void)level;
	/* Not to be told of it again. Where an address stands twice in the tree, it may be right in its other place. */
	if (!f->look->lost && f->live && !f->r->node_twice && known_bad(f->r, ref.addr))
		return 1;
	return !f->v->rebuild && f->look->node ? f->look->node(f->arg, ref) : 0;
}

static int feed_lost(void *arg, struct ref ref, unsigned level, struct key low, struct key high, int err)
{
	struct feed *f = arg;

	/* Those say nothing of the node. */
	if (err == -ENOMEM || err == -EBUSY)
		return err;
	if (f->look->lost)
		return f->look->lost(f->arg, ref, level, low, high, err);
	return f->live && known_bad(f->r, ref.addr) ? 0 : err;
}

static int salvage_lost(void *arg, struct key from, struct key to, int err)
{
	struct feed *f = arg;

	return f->look->lost ? f->look->lost(f->arg, (struct ref){ 0 }, 0, from, to, err) : 0;
}

int rview_look(struct rebuild *r, const struct rview *v, const struct rlook *look, void *arg)
{
	static const struct walk_ops ops = { .ref = feed_ref, .item = feed_item, .lost = feed_lost };
	struct feed f = { .r = r, .v = v, .look = look, .arg = arg, .live = !v->sn.id };
	bool at;
	int err;

	f.merge = f.live && v->rebuild && r->live_new;
	if (f.live && r->from_salvage)
		err = salvage_each(r->opt->salvage, feed_item, salvage_lost, &f);
	else
		err = tree_walk(r->cache, TREE_FILES, &v->sn.root, &ops, &f);
	if (!err && f.merge)
		err = give_puts(&f, KEY_MAX, &at);
	return err;
}

/* ---- maps ---- */

static int map_node(void *arg, struct ref ref)
{
	struct rebuild *r = arg;
	uint32_t nb = r->super.node_size / BLOCK_SIZE;

	rmap_set(&r->vn, ref.addr, nb);
	if (ref.copy)
		rmap_set(&r->vn, ref.copy, nb);
	return 0;
}

static int map_extent(void *arg, const struct extent *x)
{
	struct rebuild *r = arg;
	uint64_t at = x->addr;
	uint32_t n;

	if (!x->addr)
		return 0;
	for (; (n = rmap_piece(&r->vd, &at, x->addr + x->blocks, true)); at += n)
		rmap_set(&r->vt, at, n);
	rmap_set(&r->vd, x->addr, x->blocks);
	return 0;
}

int rview_map(struct rebuild *r, const struct rview *v)
{
	static const struct rlook look = { .node = map_node, .extent = map_extent };

	rmap_clear(r, &r->vn);
	rmap_clear(r, &r->vd);
	rmap_clear(r, &r->vt);
	return rview_look(r, v, &look, r);
}

static void swap(struct rmap *a, struct rmap *b)
{
	struct rmap t = *a;

	*a = *b;
	*b = t;
}

static void swap_parent(struct rebuild *r)
{
	swap(&r->vn, &r->pn);
	swap(&r->vd, &r->pd);
	swap(&r->vt, &r->seen);
}

int rview_map_parent(struct rebuild *r, const struct rview *parent)
{
	int err;

	if (!parent) {
		rmap_clear(r, &r->pn);
		rmap_clear(r, &r->pd);
		return 0;
	}
	swap_parent(r);
	err = rview_map(r, parent);
	swap_parent(r);
	return err;
}

bool rview_derives(const struct rebuild *r, const struct rview *parent, uint64_t addr, uint32_t blocks, uint64_t birth,
		   bool node)
{
	if (!parent)
		return true;
	if (birth <= parent->sn.gen)
		return rmap_full(node ? &r->pn : &r->pd, addr, blocks);
	return rmap_empty(&r->pn, addr, blocks) && rmap_empty(&r->pd, addr, blocks);
}

/* ---- shared counts ---- */

struct count {
	struct rebuild *r;
	struct rebuild_runs runs; /* references to blocks that have several */
};

static int count_extent(void *arg, const struct extent *x)
{
	struct count *c = arg;
	uint64_t at = x->addr;
	uint32_t n;

	if (!x->addr)
		return 0;
	for (; (n = rmap_piece(&c->r->vt, &at, x->addr + x->blocks, true)); at += n) {
		if (mem_grow((void **)&c->runs.at, &c->runs.cap, c->runs.n + 1, sizeof(*c->runs.at)))
			return -ENOMEM;
		c->runs.at[c->runs.n++] = (struct rebuild_run){ at, x->birth, n };
	}
	return 0;
}

static int address_cmp(const void *pa, const void *pb)
{
	const struct rshared *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

/* The first record that ends behind addr. */
static size_t shared_from(const struct rshareds *v, uint64_t addr)
{
	size_t lo = 0, hi = v->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (v->at[mid].addr + v->at[mid].blocks <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int shared_add(struct rshareds *v, struct rshared x)
{
	struct rshared *last = v->n ? &v->at[v->n - 1] : NULL;

	if (last && last->addr + last->blocks == x.addr && last->refs == x.refs && last->birth == x.birth) {
		last->blocks += x.blocks;
		return 0;
	}
	if (mem_grow((void **)&v->at, &v->cap, v->n + 1, sizeof(*v->at)))
		return -ENOMEM;
	v->at[v->n++] = x;
	return 0;
}

/* How far [addr, end) has one answer; *i is the record to look at next. NULL: no record says anything of it. */
static const struct rshared *shared_at(const struct rshareds *v, size_t *i, uint64_t addr, uint64_t end,
				       uint64_t *ret_stop)
{
	const struct rshared *s = *i < v->n && v->at[*i].addr < end ? &v->at[*i] : NULL;

	*ret_stop = end;
	if (s && s->addr > addr) {
		*ret_stop = s->addr;
		return NULL;
	}
	if (s && s->addr + s->blocks < end)
		*ret_stop = s->addr + s->blocks;
	*i += s != NULL;
	return s;
}

/* Ascending, without overlaps: else they say nothing. */
static bool shareds_sound(const struct rshareds *v)
{
	for (size_t i = 1; i < v->n; i++)
		if (v->at[i].addr < v->at[i - 1].addr + v->at[i - 1].blocks)
			return false;
	return true;
}

int rview_count(struct rebuild *r, const struct rview *v, struct rshareds *ret)
{
	static const struct rlook look = { .extent = count_extent };
	struct count c = { .r = r };
	struct rshareds out = { 0 };
	struct rshared *seg = NULL;
	size_t n = 0, kept = 0;
	uint64_t block;
	int err;

	if (!rmap_meet(r, &r->vt, &r->vt, &block)) {
		*ret = (struct rshareds){ 0 };
		return 0;
	}
	err = rview_look(r, v, &look, &c);
	if (!err && c.runs.n) {
		seg = mem_zalloc_array(2 * c.runs.n, sizeof(*seg));
		err = seg ? 0 : -ENOMEM;
	}
	/* Each address where a reference begins or ends begins a segment. */
	for (size_t i = 0; seg && i < c.runs.n; i++) {
		seg[n++].addr = c.runs.at[i].addr;
		seg[n++].addr = c.runs.at[i].addr + c.runs.at[i].blocks;
	}
	if (n)
		qsort(seg, n, sizeof(*seg), address_cmp);
	for (size_t i = 0; i < n; i++)
		if (!kept || seg[kept - 1].addr != seg[i].addr)
			seg[kept++] = seg[i];
	for (size_t i = 0; seg && i < c.runs.n; i++) {
		const struct rebuild_run *run = &c.runs.at[i];
		const struct rshared find = { .addr = run->addr };
		struct rshared *s = bsearch(&find, seg, kept, sizeof(*seg), address_cmp);

		for (; s && s->addr < run->addr + run->blocks; s++) {
			s->refs++;
			s->birth = s->birth < run->birth ? run->birth : s->birth;
		}
	}
	for (size_t i = 0; !err && i + 1 < kept; i++) {
		seg[i].blocks = (uint32_t)(seg[i + 1].addr - seg[i].addr);
		if (seg[i].refs > 1)
			err = shared_add(&out, seg[i]);
	}
	mem_free(seg);
	mem_free(c.runs.at);
	if (err)
		mem_free(out.at);
	else
		*ret = out;
	return err;
}

/* The next stretch from `at` on with one answer; its end, and the references there (0: no record). */
static uint32_t stretch(const struct rshareds *v, size_t *i, uint64_t at, uint64_t *end)
{
	while (*i < v->n && v->at[*i].addr + v->at[*i].blocks <= at)
		++*i;
	if (*i == v->n) {
		*end = UINT64_MAX;
		return 0;
	}
	if (v->at[*i].addr > at) {
		*end = v->at[*i].addr;
		return 0;
	}
	*end = v->at[*i].addr + v->at[*i].blocks;
	return v->at[*i].refs;
}

bool rshareds_agree(const struct rshareds *a, const struct rshareds *b)
{
	size_t i = 0, k = 0;

	if (!shareds_sound(a) || !shareds_sound(b))
		return false;
	for (uint64_t at = 0; i < a->n || k < b->n;) {
		uint64_t a_end, b_end;

		if (stretch(a, &i, at, &a_end) != stretch(b, &k, at, &b_end))
			return false;
		at = a_end < b_end ? a_end : b_end;
		if (at == UINT64_MAX)
			break;
	}
	return true;
}

/* ---- dead lists ---- */

struct dead {
	struct rebuild *r;
	const struct rview *parent;
	int (*each)(void *arg, const struct rebuild_run *);
	void *arg;
};

/* Blocks that are dead and new: cut where the parent's shared counts say another birth. */
static int dead_piece(struct dead *d, uint64_t addr, uint64_t end, uint64_t birth, bool node)
{
	static const struct rshareds none;
	const struct rshareds *sh = node ? &none : &d->parent->shared;
	size_t i = shared_from(sh, addr);
	uint64_t stop;
	int err = 0;

	rmap_set(&d->r->seen, addr, (uint32_t)(end - addr));
	for (; !err && addr < end; addr = stop) {
		const struct rshared *s = shared_at(sh, &i, addr, end, &stop);
		struct rebuild_run run = { addr, s ? s->birth : birth, (uint32_t)(stop - addr) };

		err = d->each(d->arg, &run);
	}
	return err;
}

/* What of a run is in none of the maps. */
static int dead_run(struct dead *d, uint64_t addr, uint64_t end, uint64_t birth, bool node, unsigned depth)
{
	const struct rmap *maps[] = { &d->r->seen, &d->r->vn, &d->r->vd };
	uint64_t at = addr;
	uint32_t n;
	int err = 0;

	if (depth == sizeof(maps) / sizeof(maps[0]))
		return dead_piece(d, addr, end, birth, node);
	for (; !err && (n = rmap_piece(maps[depth], &at, end, false)); at += n)
		err = dead_run(d, at, at + n, birth, node, depth + 1);
	return err;
}

static int dead_node(void *arg, struct ref ref)
{
	struct dead *d = arg;
	uint32_t nb = d->r->super.node_size / BLOCK_SIZE;
	int err = dead_run(d, ref.addr, ref.addr + nb, ref.gen, true, 0);

	return err || !ref.copy ? err : dead_run(d, ref.copy, ref.copy + nb, ref.gen, true, 0);
}

static int dead_extent(void *arg, const struct extent *x)
{
	return x->addr ? dead_run(arg, x->addr, x->addr + x->blocks, x->birth, false, 0) : 0;
}

int rview_dead(struct rebuild *r, const struct rview *parent, int (*each)(void *arg, const struct rebuild_run *),
	       void *arg)
{
	static const struct rlook look = { .node = dead_node, .extent = dead_extent };
	struct dead d = { r, parent, each, arg };

	rmap_clear(r, &r->seen);
	return rview_look(r, parent, &look, &d);
}

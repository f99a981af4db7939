#include "tests/kit/treekit.h"

#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/test.h"

const struct record_table treekit_records = {
	.row = { [0 ... RECORD_TYPES - 1] = { .name = "any" } },
};

struct cache_options treekit_cache_options(const struct treekit *tk)
{
	return (struct cache_options){
		.bdev = tk->bdev,
		.epoch = tk->epoch,
		.node_size = tk->opt.node_size,
		.bytes = tk->opt.frames * tk->opt.node_size,
		.records = { NULL, &treekit_records, &treekit_records },
		.mend = tk->opt.mend,
	};
}

static void open_cache(struct treekit *tk)
{
	struct cache_options opt = treekit_cache_options(tk);

	assert_int_equal(epoch_open(&tk->epoch), 0);
	opt.epoch = tk->epoch;
	assert_int_equal(cache_open(&opt, &tk->cache), 0);
}

void treekit_open(struct treekit *tk, const struct treekit_options *opt)
{
	struct simdev_options sim = { .no_trace = true };

	memset(tk, 0, sizeof(*tk));
	if (opt)
		tk->opt = *opt;
	if (!tk->opt.node_size)
		tk->opt.node_size = 4096;
	if (!tk->opt.frames)
		tk->opt.frames = 4096;
	if (!tk->opt.nodes)
		tk->opt.nodes = 65536;
	sim.blocks = tk->opt.nodes * tk->opt.node_size / BLOCK_SIZE;
	tk->sim = simdev_new(&sim);
	tk->bdev = simdev_bdev(tk->sim);
	open_cache(tk);
	tk->next_gen = UINT64_C(1) << GEN_EPOCH_SHIFT | 1;
	tk->next_addr = 16;
	tree_init(&tk->tree, tk->cache, TREE_FILES, (struct root){ 0 }, tk->next_gen++, tk->opt.copies);
}

void treekit_close(struct treekit *tk)
{
	cache_close(tk->cache);
	epoch_close(tk->epoch);
	bdev_close(tk->bdev);
	simdev_free(tk->sim);
	mem_free(tk->unused);
	mem_free(tk->old);
	mem_free(tk->released);
}

/* ---- addresses ---- */

static struct treekit_addr take_addr(struct treekit *tk)
{
	uint32_t blocks = tk->opt.node_size / BLOCK_SIZE;
	struct treekit_addr a = { .gen = 0 };

	for (size_t i = 0; tk->opt.reuse && i < tk->n_unused; i++) {
		a = tk->unused[i];
		if (a.written && a.gen == tk->tree.gen)
			continue;
		tk->unused[i] = tk->unused[--tk->n_unused];
		return a;
	}
	a.addr = tk->next_addr;
	tk->next_addr += blocks;
	if (tk->opt.copies) {
		a.copy = tk->next_addr;
		tk->next_addr += blocks;
	}
	assert_true(tk->next_addr <= tk->bdev->geo.blocks);
	return a;
}

static void give_addr(struct treekit *tk, struct treekit_addr a)
{
	assert_int_equal(mem_grow((void **)&tk->unused, &tk->cap_unused, tk->n_unused + 1, sizeof(a)), 0);
	tk->unused[tk->n_unused++] = a;
}

static void take_released(struct treekit *tk, const struct released *r)
{
	bool kept = r->ref.gen <= tk->kept_gen;

	if (kept && r->node) {
		assert_int_equal(mem_grow((void **)&tk->old, &tk->cap_old, tk->n_old + 1, sizeof(*tk->old)), 0);
		tk->old[tk->n_old++] = r->node;
	} else if (!kept) {
		if (r->node)
			cache_kill(tk->cache, r->node);
		give_addr(tk, (struct treekit_addr){ r->ref.addr, r->ref.copy, r->ref.gen, !r->node });
	}
}

/* ---- released[] against reality ---- */

static int by_addr(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int collect(void *arg, struct ref ref, unsigned level)
{
	struct { struct ref *at; size_t n, cap; } *refs = arg;

	(void)level;
	if (mem_grow((void **)&refs->at, &refs->cap, refs->n + 1, sizeof(ref)))
		return -ENOMEM;
	refs->at[refs->n++] = ref;
	return 0;
}

size_t treekit_refs(struct treekit *tk, const struct root *root, struct ref **ret)
{
	static const struct walk_ops ops = { .ref = collect };
	struct { struct ref *at; size_t n, cap; } refs = { NULL, 0, 0 };

	assert_int_equal(tree_walk(tk->cache, tk->tree.id, root, &ops, &refs), 0);
	if (refs.n)
		qsort(refs.at, refs.n, sizeof(*refs.at), by_addr);
	for (size_t i = 1; i < refs.n; i++)
		assert_true(refs.at[i - 1].addr < refs.at[i].addr);
	*ret = refs.at;
	return refs.n;
}

static bool has_ref(const struct ref *refs, size_t n, struct ref ref)
{
	const struct ref *found = n ? bsearch(&ref, refs, n, sizeof(*refs), by_addr) : NULL;

	return found && ref_equal(*found, ref);
}

/* before - after == released - (born and died in this change); no reference twice. */
static void check_released(const struct released *released, size_t n, const struct ref *before, size_t n_before,
			   const struct ref *after, size_t n_after, const struct ref *born, size_t n_born)
{
	struct ref *r = mem_zalloc_array(n + 1, sizeof(*r));
	size_t gone = 0;

	assert_non_null(r);
	for (size_t i = 0; i < n; i++)
		r[i] = released[i].ref;
	qsort(r, n, sizeof(*r), by_addr);
	for (size_t i = 0; i < n; i++) {
		assert_true(i == 0 || r[i - 1].addr < r[i].addr);
		assert_false(has_ref(after, n_after, r[i]));
		assert_true(has_ref(before, n_before, r[i]) != has_ref(born, n_born, r[i]));
	}
	for (size_t i = 0; i < n_before; i++) {
		if (has_ref(after, n_after, before[i]))
			continue;
		gone++;
		assert_true(has_ref(r, n, before[i]));
	}
	for (size_t i = 0; i < n_born; i++)
		gone += !has_ref(after, n_after, born[i]);
	assert_int_equal(gone, n);
	mem_free(r);
}

static void check_dirty_list(const struct treekit *tk)
{
	const struct node *n;
	size_t count = 0;

	TAILQ_FOREACH(n, &tk->tree.dirty, list) {
		assert_true(n->home == &tk->tree);
		assert_int_equal(atomic_load(&n->state) & (NODE_DIRTY | NODE_SEALED), NODE_DIRTY);
		count++;
	}
	assert_int_equal(count, tk->tree.dirty_nodes);
	assert_int_equal(cache_dirty(tk->cache), tk->tree.dirty_nodes + tk->n_old);
}

/* ---- changes ---- */

static int plan(struct treekit *tk, struct tree_plan *p, struct miss *miss, unsigned *slot)
{
	for (;;) {
		int err;

		*slot = epoch_enter(tk->epoch);
		err = tree_plan(&tk->tree, p, miss);
		if (err != -EAGAIN)
			return err;
		tk->faults++;
		err = tree_fault(tk->cache, miss);
		epoch_exit(tk->epoch, *slot);
		if (err == -ENOBUFS)
			err = cache_breathe(tk->cache);
		assert_int_equal(err, 0);
	}
}

void treekit_change(struct treekit *tk, const struct change *changes, size_t n)
{
	struct tree_plan p = { .changes = changes, .n = n };
	struct miss miss = { .n_ahead = 0 };
	struct ref *before = NULL, *after = NULL, *born = NULL;
	size_t n_before = 0, n_after = 0, n_born = 0, have = 0, cap = 0;
	struct node **frames = NULL;
	uint64_t *addrs = NULL, *copies = NULL;
	struct treekit_addr *taken = NULL;
	unsigned slot;

	if (tk->opt.check_released)
		n_before = treekit_refs(tk, &tk->tree.root, &before);
	tk->faults = 0;
	for (;;) {
		assert_int_equal(plan(tk, &p, &miss, &slot), 0);
		if (have >= p.need)
			break;
		epoch_exit(tk->epoch, slot);
		frames = mem_realloc(frames, p.need * sizeof(*frames));
		assert_non_null(frames);
		assert_int_equal(cache_reserve(tk->cache, frames + have, p.need - have), 0);
		have = p.need;
	}
	tk->need = p.need;
	/* Not one more than asked for. */
	cache_unreserve(tk->cache, frames + p.need, have - p.need);
	addrs = mem_zalloc_array(p.need + 1, sizeof(*addrs));
	copies = mem_zalloc_array(p.need + 1, sizeof(*copies));
	taken = mem_zalloc_array(p.need + 1, sizeof(*taken));
	for (size_t i = 0; i < p.need; i++) {
		taken[i] = take_addr(tk);
		addrs[i] = taken[i].addr;
		copies[i] = taken[i].copy;
	}
	assert_int_equal(mem_grow((void **)&tk->released, &tk->cap_released, p.need_released, sizeof(*tk->released)), 0);
	p.frames = frames;
	p.addrs = addrs;
	p.copies = tk->opt.copies ? copies : NULL;
	p.supply = p.need;
	p.released = tk->released;
	p.n_released_max = p.need_released;
	tree_apply(&tk->tree, &p);
	epoch_exit(tk->epoch, slot);
	tree_miss_release(&miss);

	tk->used = p.need - p.supply;
	tk->n_released = p.n_released;
	for (size_t i = 0; i < p.supply; i++)
		give_addr(tk, taken[i]);
	cache_unreserve(tk->cache, frames, p.supply);
	if (tk->opt.check_released) {
		n_after = treekit_refs(tk, &tk->tree.root, &after);
		born = mem_zalloc_array(tk->used + 1, sizeof(*born));
		for (size_t i = p.supply; i < p.need; i++)
			born[n_born++] = (struct ref){ addrs[i], 0, tk->tree.gen };
		if (n_born)
			qsort(born, n_born, sizeof(*born), by_addr);
		check_released(tk->released, tk->n_released, before, n_before, after, n_after, born, n_born);
	}
	for (size_t i = 0; i < tk->n_released; i++)
		take_released(tk, &tk->released[i]);
	if (tk->opt.check_released)
		check_dirty_list(tk);
	(void)cap;
	mem_free(before);
	mem_free(after);
	mem_free(born);
	mem_free(frames);
	mem_free(addrs);
	mem_free(copies);
	mem_free(taken);
}

void treekit_put(struct treekit *tk, struct key key, const void *val, size_t len)
{
	struct change ch = { .key = key, .val = val, .len = (uint16_t)len, .op = CHANGE_PUT };

	treekit_change(tk, &ch, 1);
}

void treekit_del(struct treekit *tk, struct key key)
{
	struct change ch = { .key = key, .op = CHANGE_DEL };

	treekit_change(tk, &ch, 1);
}

void treekit_del_range(struct treekit *tk, struct key from, struct key end)
{
	struct change ch = { .key = from, .end = end, .op = CHANGE_DEL_RANGE };

	treekit_change(tk, &ch, 1);
}

/* ---- freezing and writing ---- */

struct root treekit_freeze(struct treekit *tk)
{
	tk->kept_gen = tk->tree.gen;
	tk->tree.gen = tk->next_gen++;
	return tk->tree.root;
}

void treekit_forget(struct treekit *tk)
{
	for (size_t i = 0; i < tk->n_old; i++) {
		give_addr(tk, (struct treekit_addr){ tk->old[i]->addr, tk->old[i]->copy, tk->old[i]->gen, false });
		cache_kill(tk->cache, tk->old[i]);
	}
	tk->n_old = 0;
	tk->kept_gen = 0;
}

static void write_nodes(struct treekit *tk, struct node **nodes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		atomic_fetch_or(&nodes[i]->state, NODE_SEALED);
	assert_int_equal(cache_write(tk->cache, nodes, n), 0);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(atomic_load(&nodes[i]->state) & (NODE_DIRTY | NODE_SEALED), NODE_SEALED);
}

static void write_chosen(struct treekit *tk, struct rng *rng)
{
	struct node **nodes = mem_zalloc_array(tk->tree.dirty_nodes + tk->n_old + 1, sizeof(*nodes));
	struct node *node, *next;
	size_t n = 0;

	assert_non_null(nodes);
	for (node = TAILQ_FIRST(&tk->tree.dirty); node; node = next) {
		next = TAILQ_NEXT(node, list);
		if (rng && rng_chance(rng, 1, 2))
			continue;
		TAILQ_REMOVE(&tk->tree.dirty, node, list);
		tk->tree.dirty_nodes--;
		nodes[n++] = node;
	}
	for (size_t i = 0; !rng && i < tk->n_old; i++)
		nodes[n++] = tk->old[i];
	if (!rng)
		tk->n_old = 0;
	write_nodes(tk, nodes, n);
	mem_free(nodes);
}

void treekit_write(struct treekit *tk)
{
	uint64_t kept = tk->kept_gen;

	treekit_freeze(tk);
	tk->kept_gen = kept;
	write_chosen(tk, NULL);
	assert_int_equal(cache_dirty(tk->cache), 0);
}

void treekit_write_some(struct treekit *tk, struct rng *rng)
{
	write_chosen(tk, rng);
}

void treekit_drop_cache(struct treekit *tk)
{
	assert_int_equal(cache_dirty(tk->cache), 0);
	cache_close(tk->cache);
	epoch_close(tk->epoch);
	open_cache(tk);
	tk->tree.cache = tk->cache;
}

void treekit_reopen(struct treekit *tk)
{
	treekit_write(tk);
	treekit_drop_cache(tk);
	tree_init(&tk->tree, tk->cache, tk->tree.id, tk->tree.root, tk->next_gen++, tk->opt.copies);
}

/* ---- reading ---- */

static int again(struct treekit *tk, struct miss *miss, unsigned slot)
{
	int err = tree_fault(tk->cache, miss);

	tk->faults++;
	epoch_exit(tk->epoch, slot);
	return err == -ENOBUFS ? cache_breathe(tk->cache) : err;
}

bool treekit_get(struct treekit *tk, const struct root *root, struct key key, void *buf, size_t *ret_len)
{
	struct miss miss = { .n_ahead = 0 };
	const void *val;
	unsigned slot;
	int err;

	for (;;) {
		slot = epoch_enter(tk->epoch);
		err = tree_get(tk->cache, root, tk->tree.id, key, &val, ret_len, &miss);
		if (err != -EAGAIN)
			break;
		assert_int_equal(again(tk, &miss, slot), 0);
	}
	assert_true(err == 0 || err == -ENOENT);
	if (!err)
		memcpy(buf, val, *ret_len);
	epoch_exit(tk->epoch, slot);
	tree_miss_release(&miss);
	return !err;
}

bool treekit_floor(struct treekit *tk, const struct root *root, struct key key, struct key *ret_key, void *buf,
		   size_t *ret_len)
{
	struct miss miss = { .n_ahead = 0 };
	const void *val;
	unsigned slot;
	int err;

	for (;;) {
		slot = epoch_enter(tk->epoch);
		err = tree_floor(tk->cache, root, tk->tree.id, key, ret_key, &val, ret_len, &miss);
		if (err != -EAGAIN)
			break;
		assert_int_equal(again(tk, &miss, slot), 0);
	}
	assert_true(err == 0 || err == -ENOENT);
	if (!err)
		memcpy(buf, val, *ret_len);
	epoch_exit(tk->epoch, slot);
	tree_miss_release(&miss);
	return !err;
}

void treekit_fill(void *buf, uint64_t seed, size_t len)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)((seed * 0x9e3779b97f4a7c15u >> 32) + i * 31);
}

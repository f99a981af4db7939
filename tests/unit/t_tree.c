#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"
#include "tests/kit/treekit.h"

static struct key key_of(uint64_t n)
{
	return key_make(n >> 8, 1, n & 255);
}

static void put_number(struct treekit *tk, uint64_t n, size_t len)
{
	unsigned char buf[NODE_SIZE_MAX];

	treekit_fill(buf, n, len);
	treekit_put(tk, key_of(n), buf, len);
}

static void assert_number(struct treekit *tk, const struct root *root, uint64_t n, size_t len)
{
	unsigned char got[NODE_SIZE_MAX], want[NODE_SIZE_MAX];
	size_t got_len;

	assert_true(treekit_get(tk, root, key_of(n), got, &got_len));
	assert_int_equal(got_len, len);
	treekit_fill(want, n, len);
	assert_true(memcmp(got, want, len) == 0);
}

static void assert_absent(struct treekit *tk, const struct root *root, uint64_t n)
{
	unsigned char got[NODE_SIZE_MAX];
	size_t len;

	assert_false(treekit_get(tk, root, key_of(n), got, &len));
}

static void verify(struct treekit *tk, const struct root *root)
{
	assert_int_equal(tree_verify(tk->cache, tk->tree.id, root), 0);
}

/* Used and total bytes of a root's leaves. */
struct fill {
	uint64_t items, bytes, leaves;
};

static int count_leaf(void *arg, struct ref ref, unsigned level)
{
	(void)ref;
	((struct fill *)arg)->leaves += level == 0;
	return 0;
}

static int count_item(void *arg, struct key key, const void *val, size_t len)
{
	struct fill *f = arg;

	(void)key, (void)val;
	f->items++;
	f->bytes += NODE_SLOT_BYTES + len;
	return 0;
}

static struct fill fill_of(struct treekit *tk)
{
	static const struct walk_ops ops = { .ref = count_leaf, .item = count_item };
	struct fill f = { 0 };

	assert_int_equal(tree_walk(tk->cache, tk->tree.id, &tk->tree.root, &ops, &f), 0);
	return f;
}

/* ---- plain cases ---- */

static void an_empty_tree_has_nothing(void **state)
{
	struct treekit tk;

	(void)state;
	treekit_open(&tk, NULL);
	assert_absent(&tk, &tk.tree.root, 1);
	treekit_del(&tk, key_of(1));
	assert_int_equal(tk.need, 0);
	treekit_del_range(&tk, KEY_MIN, KEY_MAX);
	assert_int_equal(tk.tree.root.levels, 0);
	verify(&tk, &tk.tree.root);
	treekit_close(&tk);
}

static void the_last_item_removed_leaves_an_empty_tree(void **state)
{
	struct treekit_options opt = { .check_released = true };
	struct treekit tk;

	(void)state;
	treekit_open(&tk, &opt);
	put_number(&tk, 5, 0);
	assert_int_equal(tk.tree.root.levels, 1);
	assert_number(&tk, &tk.tree.root, 5, 0);
	treekit_del(&tk, key_of(5));
	assert_int_equal(tk.tree.root.levels, 0);
	assert_int_equal(tk.tree.root.ref.addr, 0);
	assert_int_equal(tk.tree.dirty_nodes, 0);
	treekit_close(&tk);
}

static void ascending_keys_fill_their_leaves(void **state)
{
	struct treekit tk;
	struct fill f;

	(void)state;
	treekit_open(&tk, NULL);
	for (uint64_t n = 0; n < 20000; n++)
		put_number(&tk, n, 60);
	f = fill_of(&tk);
	assert_int_equal(f.items, 20000);
	assert_true(f.bytes * 100 >= f.leaves * node_capacity(4096) * 95);
	treekit_close(&tk);
}

static void appending_to_an_object_in_the_middle_fills_its_leaves(void **state)
{
	struct treekit tk;
	struct fill before, after;

	(void)state;
	treekit_open(&tk, NULL);
	for (uint64_t ino = 1; ino < 2000; ino++)
		treekit_put(&tk, key_make(ino, 1, 0), "0123456789012345678901234567890123456789", 40);
	before = fill_of(&tk);
	for (uint64_t off = 1; off < 10000; off++)
		treekit_put(&tk, key_make(1000, 1, off), "0123456789012345678901234567890123456789", 40);
	after = fill_of(&tk);
	assert_true((after.bytes - before.bytes) * 100 >= (after.leaves - before.leaves) * node_capacity(4096) * 75);
	treekit_close(&tk);
}

static void random_keys_leave_two_thirds_full_leaves(void **state)
{
	struct treekit tk;
	struct rng rng;
	struct fill f;

	(void)state;
	rng_seed(&rng, 1);
	treekit_open(&tk, NULL);
	for (unsigned i = 0; i < 20000; i++)
		put_number(&tk, rng_below(&rng, UINT64_C(1) << 40), 60);
	f = fill_of(&tk);
	assert_true(f.bytes * 100 >= f.leaves * node_capacity(4096) * 64);
	treekit_close(&tk);
}

static void one_change_needs_few_nodes(void **state)
{
	struct treekit_options opt = { .frames = 16384 };
	struct treekit tk;
	unsigned most = 0;

	(void)state;
	treekit_open(&tk, &opt);
	for (uint64_t n = 0; n < 60000; n++)
		put_number(&tk, n * 7919 % 60000, 250);
	assert_int_equal(tk.tree.root.levels, 4);
	/* Everything is changeable in place. */
	treekit_put(&tk, key_of(17), "x", 1);
	assert_int_equal(tk.need, 0);
	/* The path is copied. */
	treekit_freeze(&tk);
	treekit_put(&tk, key_of(17), "y", 1);
	assert_int_equal(tk.need, 4);
	assert_int_equal(tk.used, 4);
	treekit_freeze(&tk);
	treekit_del(&tk, key_of(17));
	assert_int_equal(tk.need, 4);
	/* Nothing is copied where nothing changes. */
	treekit_freeze(&tk);
	treekit_del(&tk, key_of(17));
	assert_int_equal(tk.need, 0);
	assert_int_equal(tk.n_released, 0);
	for (uint64_t n = 0; n < 1000; n++) {
		treekit_freeze(&tk);
		put_number(&tk, 60000 + n * 7919 % 60000 * 1000, 60);
		most = tk.need > most ? (unsigned)tk.need : most;
	}
	assert_in_range(most, 5, 9);
	treekit_close(&tk);
}

static void a_range_drops_whole_leaves_without_copying_them(void **state)
{
	struct treekit_options opt = { .check_released = true };
	struct treekit tk;

	(void)state;
	treekit_open(&tk, &opt);
	for (uint64_t n = 0; n < 5000; n++)
		put_number(&tk, n, 60);
	treekit_freeze(&tk);
	treekit_del_range(&tk, key_of(10), key_of(4990));
	assert_in_range(tk.need, 2, 16);
	assert_true(tk.n_released > 90);
	verify(&tk, &tk.tree.root);
	assert_number(&tk, &tk.tree.root, 9, 60);
	assert_absent(&tk, &tk.tree.root, 10);
	assert_absent(&tk, &tk.tree.root, 4989);
	assert_number(&tk, &tk.tree.root, 4990, 60);
	treekit_freeze(&tk);
	treekit_del_range(&tk, KEY_MIN, KEY_MAX);
	assert_int_equal(tk.tree.root.levels, 0);
	treekit_close(&tk);
}

static void a_put_into_the_range_of_a_leaf_just_emptied_stays_there(void **state)
{
	struct treekit_options opt = { .check_released = true };
	struct treekit tk;
	unsigned char val[900];

	(void)state;
	memset(val, 7, sizeof(val));
	treekit_open(&tk, &opt);
	for (uint64_t n = 0; n < 64; n++)
		treekit_put(&tk, key_of(n * 10), val, sizeof(val));
	for (uint64_t n = 1; n < 60; n++) {
		struct change ch[] = {
			{ .key = key_of(n * 10 - 5), .end = key_of(n * 10 + 31), .op = CHANGE_DEL_RANGE },
			{ .key = key_of(n * 10 + 32), .op = CHANGE_PUT, .val = val, .len = sizeof(val) },
			{ .key = key_of(n * 10 + 35), .op = CHANGE_PUT, .val = val, .len = 1 },
		};

		treekit_freeze(&tk);
		treekit_change(&tk, ch, ARRAY_LEN(ch));
		verify(&tk, &tk.tree.root);
		treekit_put(&tk, key_of(n * 10), val, sizeof(val));
		treekit_put(&tk, key_of(n * 10 + 20), val, sizeof(val));
	}
	treekit_close(&tk);
}

static void a_tree_survives_being_written_and_opened_again(void **state)
{
	struct treekit tk;

	(void)state;
	treekit_open(&tk, NULL);
	for (uint64_t n = 0; n < 3000; n++)
		put_number(&tk, n * 7919 % 3000, n * 7919 % 3000 % 700);
	treekit_reopen(&tk);
	verify(&tk, &tk.tree.root);
	for (uint64_t n = 0; n < 3000; n++)
		assert_number(&tk, &tk.tree.root, n, n % 700);
	treekit_close(&tk);
}

static void floor_finds_the_item_before(void **state)
{
	struct treekit tk;
	unsigned char buf[NODE_SIZE_MAX];
	struct key key;
	size_t len;

	(void)state;
	treekit_open(&tk, NULL);
	assert_false(treekit_floor(&tk, &tk.tree.root, KEY_MAX, &key, buf, &len));
	for (uint64_t n = 1; n < 3000; n++)
		put_number(&tk, n * 10, 60);
	/* Leaves whose first items are gone: the floor lies in the leaf before. */
	for (uint64_t n = 1; n < 3000; n++)
		if (n % 50 > 20)
			treekit_del(&tk, key_of(n * 10));
	treekit_reopen(&tk);
	assert_false(treekit_floor(&tk, &tk.tree.root, key_of(9), &key, buf, &len));
	for (uint64_t n = 10; n < 31000; n += 3) {
		uint64_t at = n / 10 > 2999 ? 2999 : n / 10;

		while (at % 50 > 20)
			at--;
		if (at == 0) {
			assert_false(treekit_floor(&tk, &tk.tree.root, key_of(n), &key, buf, &len));
			continue;
		}
		assert_true(treekit_floor(&tk, &tk.tree.root, key_of(n), &key, buf, &len));
		assert_true(key_equal(key, key_of(at * 10)));
	}
	treekit_close(&tk);
}

struct growth_row {
	const char *name;
	uint32_t node_size;
	unsigned items, from, to; /* lengths; UINT_MAX: the largest */
	bool empty;		  /* the items are put into an empty tree instead of growing */
};

static const struct growth_row growth_rows[] = {
	{ "a leaf of empty values grows to the largest", 4096, 200, 0, UINT_MAX, false },
	{ "a leaf of small values grows to half the largest", 4096, 100, 20, 490, false },
	{ "a large leaf of empty values grows to the largest", 32768, 1600, 0, UINT_MAX, false },
	{ "an empty tree takes many of the largest values", 4096, 2000, 0, UINT_MAX, true },
	{ "an empty tree takes many empty values", 4096, 20000, 0, 0, true },
	{ "three to a leaf become four", 4096, 3000, 1, 800, true },
	{ "a tree of largest values is rewritten", 4096, 2000, UINT_MAX, UINT_MAX, false },
	{ "a tree of largest values shrinks", 4096, 2000, UINT_MAX, 0, false },
};

/* All in one group of changes: what was planned for suffices, and is not far from what is used. */
static void growing_at_once_is_supplied(void **state)
{
	const struct growth_row *row = *state;
	struct treekit_options opt = { .node_size = row->node_size, .check_released = true };
	uint32_t max = tree_value_max(row->node_size), from = row->from < max ? row->from : max,
		 to = row->to < max ? row->to : max;
	unsigned char *val = mem_zalloc(max);
	struct change *ch = mem_zalloc_array(row->items, sizeof(*ch));
	struct treekit tk;

	assert_non_null(val);
	assert_non_null(ch);
	treekit_open(&tk, &opt);
	for (unsigned i = 0; i < row->items; i++)
		ch[i] = (struct change){ .key = key_of(i), .op = CHANGE_PUT, .val = val, .len = (uint16_t)from };
	if (!row->empty) {
		treekit_change(&tk, ch, row->items);
		treekit_freeze(&tk);
	}
	for (unsigned i = 0; i < row->items; i++)
		ch[i].len = (uint16_t)to;
	treekit_change(&tk, ch, row->items);
	assert_true(tk.need <= 5 * tk.used + 8);
	verify(&tk, &tk.tree.root);
	assert_int_equal(fill_of(&tk).items, row->items);
	treekit_close(&tk);
	mem_free(ch);
	mem_free(val);
}

/* ---- what is replaced is shown ---- */

struct seen {
	struct key key[16];
	size_t len[16];
	unsigned n;
	int answer;
};

static int see(void *arg, const struct change *ch, struct key key, const void *val, size_t len)
{
	struct seen *s = arg;

	(void)ch, (void)val;
	assert_true(s->n < 16);
	s->key[s->n] = key;
	s->len[s->n++] = len;
	return s->answer;
}

static void planning_shows_every_item_that_goes(void **state)
{
	struct treekit tk;
	struct seen seen = { .n = 0 };
	struct change ch[] = {
		{ .key = key_of(5), .op = CHANGE_PUT, .val = "", .len = 0 },
		{ .key = key_of(6), .op = CHANGE_DEL },
		{ .key = key_of(7), .end = key_of(30), .op = CHANGE_DEL_RANGE },
		{ .key = key_of(35), .op = CHANGE_PUT, .val = "", .len = 0 },
		{ .key = key_of(36), .op = CHANGE_DEL },
	};
	struct tree_plan p = { .changes = ch, .n = ARRAY_LEN(ch), .old = see, .arg = &seen };
	struct miss miss = { .n_ahead = 0 };
	static const uint64_t want[] = { 5, 10, 15, 20, 25, 35 };

	(void)state;
	treekit_open(&tk, NULL);
	for (uint64_t n = 0; n < 50; n += 5)
		put_number(&tk, n, n);
	assert_int_equal(tree_plan(&tk.tree, &p, &miss), 0);
	assert_int_equal(seen.n, ARRAY_LEN(want));
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		assert_true(key_equal(seen.key[i], key_of(want[i])));
		assert_int_equal(seen.len[i], want[i]);
	}
	seen = (struct seen){ .answer = -ENOSPC };
	assert_int_equal(tree_plan(&tk.tree, &p, &miss), -ENOSPC);
	assert_int_equal(seen.n, 1);
	tree_miss_release(&miss);
	treekit_close(&tk);
}

/* ---- against a model ---- */

struct item {
	uint64_t n;
	uint64_t seed;
	uint32_t len;
};

struct model {
	struct item *at;
	size_t n, cap;
};

static size_t model_find(const struct model *m, uint64_t n)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (m->at[mid].n < n)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void model_del(struct model *m, uint64_t from, uint64_t end)
{
	size_t a = model_find(m, from), b = model_find(m, end);

	if (a == b)
		return;
	memmove(m->at + a, m->at + b, (m->n - b) * sizeof(*m->at));
	m->n -= b - a;
}

static void model_put(struct model *m, struct item item)
{
	size_t i;

	model_del(m, item.n, item.n + 1);
	i = model_find(m, item.n);
	assert_int_equal(mem_grow((void **)&m->at, &m->cap, m->n + 1, sizeof(*m->at)), 0);
	memmove(m->at + i + 1, m->at + i, (m->n - i) * sizeof(*m->at));
	m->at[i] = item;
	m->n++;
}

static struct model model_copy(const struct model *m)
{
	struct model c = { .n = m->n, .cap = m->n + 1 };

	c.at = mem_alloc(c.cap * sizeof(*c.at));
	assert_non_null(c.at);
	if (m->n)
		memcpy(c.at, m->at, m->n * sizeof(*c.at));
	return c;
}

struct compare {
	const struct model *m;
	size_t i;
};

static int compare_item(void *arg, struct key key, const void *val, size_t len)
{
	struct compare *c = arg;
	const struct item *want = &c->m->at[c->i];
	unsigned char buf[NODE_SIZE_MAX];

	assert_true(c->i < c->m->n);
	assert_true(key_equal(key, key_of(want->n)));
	assert_int_equal(len, want->len);
	treekit_fill(buf, want->seed, len);
	assert_true(memcmp(val, buf, len) == 0);
	c->i++;
	return 0;
}

static void assert_is_model(struct treekit *tk, const struct root *root, const struct model *m)
{
	static const struct walk_ops ops = { .item = compare_item };
	struct compare c = { .m = m };

	assert_int_equal(tree_walk(tk->cache, tk->tree.id, root, &ops, &c), 0);
	assert_int_equal(c.i, m->n);
}

static bool same_value(const struct item *a, const struct item *b)
{
	unsigned char x[NODE_SIZE_MAX], y[NODE_SIZE_MAX];

	if (a->len != b->len || a->seed == b->seed)
		return a->len == b->len;
	treekit_fill(x, a->seed, a->len);
	treekit_fill(y, b->seed, b->len);
	return memcmp(x, y, a->len) == 0;
}

/* The difference of two roots is that of their models. */
static void assert_diff(struct treekit *tk, const struct root *ra, const struct model *a, const struct root *rb,
			const struct model *b)
{
	size_t i = 0, j = 0;
	struct diff *d;

	assert_int_equal(diff_open(tk->cache, tk->tree.id, ra, rb, &d), 0);
	for (;;) {
		const struct item *x, *y;
		struct diff_item got;
		int err;

		while (i < a->n && j < b->n && a->at[i].n == b->at[j].n && same_value(&a->at[i], &b->at[j]))
			i++, j++;
		x = i < a->n ? &a->at[i] : NULL;
		y = j < b->n ? &b->at[j] : NULL;
		err = diff_next(d, &got);
		if (!x && !y) {
			assert_int_equal(err, 1);
			break;
		}
		assert_int_equal(err, 0);
		if (x && y && x->n != y->n) {
			if (x->n < y->n)
				y = NULL;
			else
				x = NULL;
		}
		assert_true(key_equal(got.key, key_of(x ? x->n : y->n)));
		assert_int_equal(got.a != NULL, x != NULL);
		assert_int_equal(got.b != NULL, y != NULL);
		if (x)
			assert_int_equal(got.a_len, x->len);
		if (y)
			assert_int_equal(got.b_len, y->len);
		i += x != NULL;
		j += y != NULL;
	}
	diff_close(d);
}

struct random_row {
	const char *name;
	struct treekit_options opt;
	uint64_t keys;	     /* numbers below this */
	unsigned rounds, batch_max;
	unsigned len_kind;   /* 0 small, 1 any, 2 mostly the largest, 3 all the largest or empty */
	unsigned del, range; /* percent of the changes */
	uint64_t range_max;
};

static const struct random_row random_rows[] = {
	{ "random small batches equal a model", { .check_released = true, .reuse = true }, 4000, 3000, 6, 0, 40, 3, 300 },
	{ "random large batches equal a model", { .check_released = true, .reuse = true }, 100000, 300, 400, 0, 40, 3, 5000 },
	{ "random value sizes equal a model", { .check_released = true, .reuse = true }, 3000, 1500, 20, 1, 45, 3, 300 },
	{ "the largest values equal a model", { .check_released = true, .reuse = true }, 2000, 1000, 40, 2, 45, 3, 200 },
	{ "empty and largest values equal a model", { .check_released = true, .reuse = true }, 2000, 1000, 40, 3, 45, 2, 200 },
	{ "growing to many levels and back equals a model", { .check_released = true }, 100000, 120, 1200, 3, 50, 1, 20000 },
	{ "second copies equal a model", { .check_released = true, .copies = true, .reuse = true }, 3000, 500, 20, 1, 45, 3, 300 },
	{ "16 KiB nodes equal a model", { .node_size = 16384, .check_released = true, .reuse = true }, 20000, 400, 100, 1, 45, 3, 900 },
	{ "32 KiB nodes equal a model", { .node_size = 32768, .check_released = true }, 20000, 200, 100, 2, 45, 3, 900 },
	{ "a small cache equals a model", { .frames = 160, .reuse = true }, 30000, 800, 6, 0, 45, 1, 100 },
};

#define KEPT 6u

struct kept {
	struct root root;
	struct model model;
};

static uint16_t random_len(struct rng *rng, unsigned kind, uint32_t max)
{
	switch (kind) {
	case 0:
		return (uint16_t)rng_below(rng, 120);
	case 1:
		return (uint16_t)rng_below(rng, max + 1);
	case 2:
		return (uint16_t)(rng_chance(rng, 3, 4) ? max : rng_below(rng, max + 1));
	default:
		return (uint16_t)(rng_chance(rng, 1, 2) ? max : 0);
	}
}

static void random_batch(struct treekit *tk, struct rng *rng, struct model *m, const struct random_row *row)
{
	unsigned n = 1 + (unsigned)rng_below(rng, row->batch_max);
	uint32_t max = tree_value_max(tk->opt.node_size);
	struct change *ch = mem_zalloc_array(n, sizeof(*ch));
	unsigned char *vals = mem_alloc((size_t)n * max);
	/* Some batches are spread over everything, some lie close together. */
	uint64_t at = rng_chance(rng, 1, 2) ? 0 : rng_below(rng, row->keys);
	uint64_t step = rng_chance(rng, 1, 2) ? 3 : row->keys / n + 1;
	unsigned del = row->del;

	assert_non_null(ch);
	assert_non_null(vals);
	/* Trees grow, shrink, and are nearly emptied. */
	if (rng_chance(rng, 1, 3))
		del = (unsigned)rng_below(rng, 101);
	for (unsigned i = 0; i < n; i++) {
		struct change *c = &ch[i];

		at += 1 + rng_below(rng, step);
		c->key = key_of(at);
		if (rng_chance(rng, row->range, 100)) {
			uint64_t end = at + 1 + rng_below(rng, row->range_max);

			c->op = CHANGE_DEL_RANGE;
			c->end = key_of(end);
			model_del(m, at, end);
			at = end - 1;
		} else if (rng_chance(rng, del, 100)) {
			c->op = CHANGE_DEL;
			model_del(m, at, at + 1);
		} else {
			struct item item = { at, rng_next(rng), random_len(rng, row->len_kind, max) };

			c->op = CHANGE_PUT;
			c->len = (uint16_t)item.len;
			c->val = vals + (size_t)i * max;
			treekit_fill(vals + (size_t)i * max, item.seed, item.len);
			model_put(m, item);
		}
	}
	treekit_change(tk, ch, n);
	mem_free(ch);
	mem_free(vals);
}

static void random_changes(void **state)
{
	const struct random_row *row = *state;
	struct model m = { NULL, 0, 0 };
	struct kept kept[KEPT];
	unsigned n_kept = 0;
	struct treekit tk;
	struct rng rng;

	rng_seed_env(&rng, 20);
	treekit_open(&tk, &row->opt);
	for (unsigned round = 0; round < row->rounds; round++) {
		random_batch(&tk, &rng, &m, row);
		if (round % 16 == 0 || round + 1 == row->rounds) {
			verify(&tk, &tk.tree.root);
			assert_is_model(&tk, &tk.tree.root, &m);
		}
		if (rng_chance(&rng, 1, 8)) {
			unsigned i = (unsigned)rng_below(&rng, KEPT);

			if (i < n_kept)
				mem_free(kept[i].model.at);
			else
				i = n_kept++;
			kept[i] = (struct kept){ treekit_freeze(&tk), model_copy(&m) };
		}
		if (rng_chance(&rng, 1, 10))
			treekit_write(&tk);
		if (rng_chance(&rng, 1, 10) || (row->opt.frames && tk.tree.dirty_nodes > row->opt.frames / 4))
			treekit_write_some(&tk, &rng);
		if (row->opt.frames && tk.tree.dirty_nodes + tk.n_old > row->opt.frames / 4)
			treekit_write(&tk);
		if (rng_chance(&rng, 1, 40))
			treekit_reopen(&tk);
		if (n_kept && rng_chance(&rng, 1, 8)) {
			const struct kept *a = &kept[rng_below(&rng, n_kept)], *b = &kept[rng_below(&rng, n_kept)];

			assert_is_model(&tk, &a->root, &a->model);
			assert_diff(&tk, &a->root, &a->model, &b->root, &b->model);
			assert_diff(&tk, &a->root, &a->model, &tk.tree.root, &m);
		}
		if (rng_chance(&rng, 1, 60)) {
			while (n_kept)
				mem_free(kept[--n_kept].model.at);
			treekit_forget(&tk);
		}
	}
	while (n_kept)
		mem_free(kept[--n_kept].model.at);
	mem_free(m.at);
	treekit_close(&tk);
}

int main(void)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test(an_empty_tree_has_nothing),
		cmocka_unit_test(the_last_item_removed_leaves_an_empty_tree),
		cmocka_unit_test(ascending_keys_fill_their_leaves),
		cmocka_unit_test(appending_to_an_object_in_the_middle_fills_its_leaves),
		cmocka_unit_test(random_keys_leave_two_thirds_full_leaves),
		cmocka_unit_test(one_change_needs_few_nodes),
		cmocka_unit_test(a_range_drops_whole_leaves_without_copying_them),
		cmocka_unit_test(a_put_into_the_range_of_a_leaf_just_emptied_stays_there),
		cmocka_unit_test(a_tree_survives_being_written_and_opened_again),
		cmocka_unit_test(floor_finds_the_item_before),
		cmocka_unit_test(planning_shows_every_item_that_goes),
	};
	struct CMUnitTest tests[ARRAY_LEN(plain) + ARRAY_LEN(growth_rows) + ARRAY_LEN(random_rows)];
	size_t n = ARRAY_LEN(plain);

	memcpy(tests, plain, sizeof(plain));
	for (size_t i = 0; i < ARRAY_LEN(growth_rows); i++)
		tests[n++] = TEST_ROW(growth_rows[i].name, growing_at_once_is_supplied, &growth_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(random_rows); i++)
		tests[n++] = TEST_ROW(random_rows[i].name, random_changes, &random_rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

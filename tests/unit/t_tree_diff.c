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

static void put(struct treekit *tk, uint64_t n, uint64_t version)
{
	unsigned char buf[60];

	treekit_fill(buf, n + version * 1000003, sizeof(buf));
	treekit_put(tk, key_of(n), buf, sizeof(buf));
}

static void fill(struct treekit *tk, uint64_t items)
{
	for (uint64_t n = 0; n < items; n++)
		put(tk, n * 10, 0);
}

/* How many differ, by kind; what the difference says is compared with what the roots say. */
struct found {
	unsigned only_a, only_b, changed;
};

static struct found diff(struct treekit *tk, const struct root *a, const struct root *b)
{
	struct found f = { 0, 0, 0 };
	struct key last = KEY_MIN;
	struct diff_item item;
	struct diff *d;
	int err;

	assert_int_equal(diff_open(tk->cache, TREE_FILES, a, b, &d), 0);
	while ((err = diff_next(d, &item)) == 0) {
		assert_true(f.only_a + f.only_b + f.changed == 0 || key_less(last, item.key));
		last = item.key;
		assert_true(item.a || item.b);
		f.only_a += !item.b;
		f.only_b += !item.a;
		f.changed += item.a && item.b;
		if (item.a && item.b)
			assert_true(item.a_len != item.b_len || memcmp(item.a, item.b, item.a_len) != 0);
	}
	assert_int_equal(err, 1);
	assert_int_equal(diff_next(d, &item), 1);
	diff_close(d);
	return f;
}

static void assert_found(struct found f, unsigned only_a, unsigned only_b, unsigned changed)
{
	assert_int_equal(f.only_a, only_a);
	assert_int_equal(f.only_b, only_b);
	assert_int_equal(f.changed, changed);
}

static void equal_roots_do_not_differ(void **state)
{
	struct treekit tk;
	struct root root, empty = { 0 };

	(void)state;
	treekit_open(&tk, NULL);
	assert_found(diff(&tk, &empty, &empty), 0, 0, 0);
	fill(&tk, 3000);
	treekit_reopen(&tk);
	root = tk.tree.root;
	assert_found(diff(&tk, &root, &root), 0, 0, 0);
	/* Not even the root was read. */
	assert_int_equal(atomic_load(&tk.bdev->reads), 0);
	treekit_close(&tk);
}

static void against_an_empty_root_everything_differs(void **state)
{
	struct treekit tk;
	struct root root, empty = { 0 };

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 3000);
	root = treekit_freeze(&tk);
	assert_found(diff(&tk, &root, &empty), 3000, 0, 0);
	assert_found(diff(&tk, &empty, &root), 0, 3000, 0);
	treekit_close(&tk);
}

static void an_item_rewritten_with_its_value_does_not_differ(void **state)
{
	struct treekit tk;
	struct root a;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 3000);
	a = treekit_freeze(&tk);
	put(&tk, 150, 0);
	assert_false(root_equal(a, tk.tree.root));
	assert_found(diff(&tk, &a, &tk.tree.root), 0, 0, 0);
	treekit_close(&tk);
}

static void an_empty_value_differs_from_none(void **state)
{
	struct treekit tk;
	struct root a;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 100);
	a = treekit_freeze(&tk);
	treekit_put(&tk, key_of(55), "", 0);
	assert_found(diff(&tk, &a, &tk.tree.root), 0, 1, 0);
	assert_found(diff(&tk, &tk.tree.root, &a), 1, 0, 0);
	treekit_close(&tk);
}

static void unrelated_trees_are_compared_by_their_items(void **state)
{
	struct treekit tk;
	struct root a;

	(void)state;
	treekit_open(&tk, NULL);
	for (uint64_t n = 0; n < 2000; n++)
		put(&tk, n, 0);
	a = treekit_freeze(&tk);
	treekit_del_range(&tk, KEY_MIN, KEY_MAX);
	/* In another order: another shape. */
	for (uint64_t n = 0; n < 2000; n++)
		put(&tk, (n * 777 + 5) % 2000, 0);
	assert_found(diff(&tk, &a, &tk.tree.root), 0, 0, 0);
	treekit_close(&tk);
}

static void roots_of_different_height_are_compared(void **state)
{
	struct treekit tk;
	struct root low;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 40);
	low = treekit_freeze(&tk);
	assert_int_equal(low.levels, 1);
	for (uint64_t n = 40; n < 9000; n++)
		put(&tk, n * 10, 0);
	assert_int_equal(tk.tree.root.levels, 3);
	assert_found(diff(&tk, &low, &tk.tree.root), 0, 8960, 0);
	assert_found(diff(&tk, &tk.tree.root, &low), 8960, 0, 0);
	treekit_close(&tk);
}

/* ---- cost ---- */

struct cost_row {
	const char *name;
	unsigned items;
	unsigned changes, step; /* that many, so far apart, from the middle on */
	bool delete;
	uint64_t reads_max;
};

static const struct cost_row cost_rows[] = {
	{ "one change costs two paths", 100000, 1, 1, false, 8 },
	{ "one removal costs two paths", 100000, 1, 1, true, 8 },
	{ "a run of changes costs its leaves", 100000, 500, 10, false, 2 * 14 + 8 },
	{ "a run of removals costs its leaves", 100000, 3000, 10, true, 70 + 16 },
	{ "changes far apart cost a leaf each on both sides", 100000, 100, 5000, false, 2 * (100 + 25) },
};

static void costs_follow_from_the_difference(void **state)
{
	const struct cost_row *row = *state;
	struct treekit_options opt = { .frames = 16384 };
	struct treekit tk;
	struct root a, b;
	struct found f;
	uint64_t before;

	treekit_open(&tk, &opt);
	fill(&tk, row->items);
	treekit_write(&tk);
	a = treekit_freeze(&tk);
	for (unsigned i = 0; i < row->changes; i++) {
		uint64_t n = row->items / 2 * 10 + (uint64_t)i * row->step;

		if (row->delete)
			treekit_del(&tk, key_of(n));
		else
			put(&tk, n, 1);
	}
	treekit_write(&tk);
	b = tk.tree.root;
	treekit_drop_cache(&tk);
	before = atomic_load(&tk.bdev->read_blocks);
	f = diff(&tk, &a, &b);
	assert_int_equal(f.only_a + f.changed, row->changes);
	assert_int_equal(f.only_b, 0);
	assert_in_range(atomic_load(&tk.bdev->read_blocks) - before, 2, row->reads_max);
	treekit_close(&tk);
}

/* ---- failures ---- */

static void a_damaged_node_ends_it_with_an_error(void **state)
{
	struct treekit tk;
	struct root root, empty = { 0 };
	struct ref *refs;
	struct diff *d;
	struct diff_item item;
	size_t n;
	int err;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 3000);
	treekit_write(&tk);
	root = tk.tree.root;
	n = treekit_refs(&tk, &root, &refs);
	for (size_t i = 0; i < n; i += 7) {
		treekit_drop_cache(&tk);
		simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = refs[i].addr, .blocks = 1 });
		assert_int_equal(diff_open(tk.cache, TREE_FILES, &empty, &root, &d), 0);
		while ((err = diff_next(d, &item)) == 0)
			;
		assert_int_equal(err, -EIO);
		diff_close(d);
		simdev_clear_faults(tk.sim);
	}
	mem_free(refs);
	treekit_close(&tk);
}

static void opening_without_memory_fails(void **state)
{
	struct treekit tk;
	struct root empty = { 0 };
	struct diff *d;

	(void)state;
	treekit_open(&tk, NULL);
	failmem_start(1, FAILMEM_ONCE);
	assert_int_equal(diff_open(tk.cache, TREE_FILES, &empty, &empty, &d), -ENOMEM);
	assert_true(failmem_stop());
	diff_close(NULL);
	treekit_close(&tk);
}

static void a_small_cache_is_enough(void **state)
{
	struct treekit_options opt = { .frames = 8192 };
	struct treekit tk;
	struct root a;

	(void)state;
	treekit_open(&tk, &opt);
	fill(&tk, 20000);
	treekit_write(&tk);
	a = treekit_freeze(&tk);
	for (uint64_t n = 0; n < 20000; n += 3)
		put(&tk, n * 10, 1);
	treekit_write(&tk);
	tk.opt.frames = 64;
	treekit_drop_cache(&tk);
	assert_found(diff(&tk, &a, &tk.tree.root), 0, 0, 6667);
	treekit_close(&tk);
}

int main(void)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test(equal_roots_do_not_differ),
		cmocka_unit_test(against_an_empty_root_everything_differs),
		cmocka_unit_test(an_item_rewritten_with_its_value_does_not_differ),
		cmocka_unit_test(an_empty_value_differs_from_none),
		cmocka_unit_test(unrelated_trees_are_compared_by_their_items),
		cmocka_unit_test(roots_of_different_height_are_compared),
		cmocka_unit_test(a_damaged_node_ends_it_with_an_error),
		cmocka_unit_test(opening_without_memory_fails),
		cmocka_unit_test(a_small_cache_is_enough),
	};
	struct CMUnitTest tests[ARRAY_LEN(plain) + ARRAY_LEN(cost_rows)];

	memcpy(tests, plain, sizeof(plain));
	for (size_t i = 0; i < ARRAY_LEN(cost_rows); i++)
		tests[ARRAY_LEN(plain) + i] = TEST_ROW(cost_rows[i].name, costs_follow_from_the_difference, &cost_rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

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

/* Numbers 0, 10, 20, ... as keys. */
static void fill(struct treekit *tk, uint64_t items)
{
	unsigned char buf[64];

	for (uint64_t n = 0; n < items; n++) {
		treekit_fill(buf, n * 10, sizeof(buf));
		treekit_put(tk, key_of(n * 10), buf, sizeof(buf));
	}
}

/* Seeks as long as it takes. 0 or 1. */
static int seek(struct treekit *tk, struct cursor *c, const struct root *root, struct key key, unsigned *faults)
{
	struct miss miss = { .n_ahead = 0 };

	for (;;) {
		unsigned slot = epoch_enter(tk->epoch);
		int err = cursor_seek(c, root, key, &miss);

		if (err != -EAGAIN) {
			epoch_exit(tk->epoch, slot);
			tree_miss_release(&miss);
			assert_in_range(err, 0, 1);
			return err;
		}
		++*faults;
		err = tree_fault(tk->cache, &miss);
		epoch_exit(tk->epoch, slot);
		if (err == -ENOBUFS)
			err = cache_breathe(tk->cache);
		assert_int_equal(err, 0);
	}
}

static void assert_item(struct key key, const void *val, size_t len, uint64_t n)
{
	unsigned char want[64];

	assert_true(key_equal(key, key_of(n)));
	assert_int_equal(len, sizeof(want));
	treekit_fill(want, n, sizeof(want));
	assert_memory_equal(val, want, sizeof(want));
}

struct row {
	const char *name;
	bool copy, reopen;
	size_t frames;
};

static const struct row rows[] = {
	{ "a cursor on a frozen root goes through all items", false, false, 0 },
	{ "a cursor that copies goes through all items", true, false, 0 },
	{ "a cursor on a frozen root reads what is missing", false, true, 0 },
	{ "a cursor that copies reads what is missing", true, true, 0 },
	{ "a cursor goes through a tree larger than its cache", false, true, 64 },
};

#define ITEMS 5000u

static void goes_through_all(void **state)
{
	const struct row *row = *state;
	struct treekit tk;
	struct cursor c;
	struct key at = KEY_MIN, key;
	unsigned faults = 0, leaves = 0;
	uint64_t n = 0;
	const void *val;
	size_t len;

	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	if (row->reopen) {
		treekit_write(&tk);
		if (row->frames)
			tk.opt.frames = row->frames;
		treekit_drop_cache(&tk);
	}
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, row->copy), 0);
	for (;;) {
		assert_int_equal(seek(&tk, &c, &tk.tree.root, at, &faults), 0);
		leaves++;
		while (cursor_item(&c, &key, &val, &len) == 0)
			assert_item(key, val, len, n++ * 10);
		if (c.last)
			break;
		at = c.next;
	}
	assert_int_equal(n, ITEMS);
	/* Most leaves came with others: that is what reading ahead is for. */
	if (row->reopen && !row->frames)
		assert_true(faults * 5 < leaves);
	assert_int_equal(seek(&tk, &c, &tk.tree.root, key_of(ITEMS * 10), &faults), 1);
	assert_true(c.last);
	assert_int_equal(cursor_item(&c, &key, &val, &len), 1);
	cursor_release(&c);
	treekit_close(&tk);
}

static void an_empty_tree_has_no_first_item(void **state)
{
	struct treekit tk;
	struct cursor c;
	unsigned faults = 0;

	(void)state;
	treekit_open(&tk, NULL);
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, false), 0);
	assert_int_equal(seek(&tk, &c, &tk.tree.root, KEY_MIN, &faults), 1);
	assert_true(c.last);
	cursor_release(&c);
	treekit_close(&tk);
}

static void seek_stands_on_the_first_item_not_less(void **state)
{
	struct treekit tk;
	struct cursor c;
	struct key key;
	unsigned faults = 0;
	const void *val;
	size_t len;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	/* Leaves that end before their range does. */
	for (uint64_t n = 0; n < ITEMS; n++)
		if (n % 60 > 25)
			treekit_del(&tk, key_of(n * 10));
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, true), 0);
	for (uint64_t n = 0; n < ITEMS * 10; n += 7) {
		uint64_t want = (n + 9) / 10;

		while (want % 60 > 25)
			want++;
		if (want >= ITEMS) {
			assert_int_equal(seek(&tk, &c, &tk.tree.root, key_of(n), &faults), 1);
			continue;
		}
		assert_int_equal(seek(&tk, &c, &tk.tree.root, key_of(n), &faults), 0);
		assert_int_equal(cursor_item(&c, &key, &val, &len), 0);
		assert_item(key, val, len, want * 10);
	}
	cursor_release(&c);
	treekit_close(&tk);
}

static void a_copied_leaf_stays_as_it_was(void **state)
{
	struct treekit tk;
	struct cursor c;
	struct key key;
	unsigned faults = 0;
	const void *val;
	size_t len;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 20);
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, true), 0);
	assert_int_equal(seek(&tk, &c, &tk.tree.root, KEY_MIN, &faults), 0);
	/* The live leaf changes in place meanwhile. */
	treekit_del_range(&tk, KEY_MIN, KEY_MAX);
	for (uint64_t n = 0; n < 20; n++) {
		assert_int_equal(cursor_item(&c, &key, &val, &len), 0);
		assert_item(key, val, len, n * 10);
	}
	assert_int_equal(cursor_item(&c, &key, &val, &len), 1);
	assert_true(c.last);
	cursor_release(&c);
	treekit_close(&tk);
}

static void a_pinned_leaf_stays_as_it_was(void **state)
{
	struct treekit_options opt = { .frames = 256 };
	struct treekit tk;
	struct cursor c;
	struct root root;
	struct key key;
	unsigned faults = 0;
	const void *val;
	size_t len;

	(void)state;
	treekit_open(&tk, &opt);
	fill(&tk, 3000);
	treekit_write(&tk);
	root = treekit_freeze(&tk);
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, false), 0);
	assert_int_equal(seek(&tk, &c, &root, key_of(1000), &faults), 0);
	/* Everything is replaced, and the cache is overrun. */
	for (uint64_t n = 0; n < 3000; n++) {
		treekit_put(&tk, key_of(n * 10), "new", 3);
		if (n % 200 == 199)
			treekit_write(&tk);
	}
	for (uint64_t n = 100;; n++) {
		int err = cursor_item(&c, &key, &val, &len);

		if (err)
			break;
		assert_item(key, val, len, n * 10);
	}
	cursor_release(&c);
	treekit_close(&tk);
}

static void one_lookup_does_not_read_far_ahead(void **state)
{
	struct treekit tk;
	struct cursor c;
	unsigned faults = 0;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_reopen(&tk);
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, false), 0);
	assert_int_equal(seek(&tk, &c, &tk.tree.root, key_of(100), &faults), 0);
	assert_true(atomic_load(&tk.bdev->read_blocks) <= 8);
	cursor_release(&c);
	treekit_close(&tk);
}

static void without_memory_there_is_no_copying_cursor(void **state)
{
	struct treekit tk;
	struct cursor c;

	(void)state;
	treekit_open(&tk, NULL);
	failmem_start(1, FAILMEM_ONCE);
	assert_int_equal(cursor_init(&c, tk.cache, TREE_FILES, true), -ENOMEM);
	assert_true(failmem_stop());
	cursor_release(&c);
	treekit_close(&tk);
}

int main(void)
{
	struct CMUnitTest tests[6 + ARRAY_LEN(rows)] = {
		cmocka_unit_test(an_empty_tree_has_no_first_item),
		cmocka_unit_test(seek_stands_on_the_first_item_not_less),
		cmocka_unit_test(a_copied_leaf_stays_as_it_was),
		cmocka_unit_test(a_pinned_leaf_stays_as_it_was),
		cmocka_unit_test(one_lookup_does_not_read_far_ahead),
		cmocka_unit_test(without_memory_there_is_no_copying_cursor),
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[6 + i] = TEST_ROW(rows[i].name, goes_through_all, &rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

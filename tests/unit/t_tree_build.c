/*
 * t_tree_build.c - what is built from left to right is a tree like any other
 */
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/tree_build.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"
#include "tests/kit/treekit.h"

struct place {
	uint64_t next, next_copy, left;
};

static int alloc(void *arg, bool copy, uint32_t blocks, uint64_t *ret_addr)
{
	struct place *p = arg;

	if (!p->left)
		return -ENOSPC;
	p->left--;
	*ret_addr = copy ? p->next_copy : p->next;
	*(copy ? &p->next_copy : &p->next) += blocks;
	return 0;
}

struct row {
	const char *name;
	uint32_t node_size;
	unsigned items;
	size_t len_min, len_max;
	bool copies;
	unsigned levels; /* 0: any */
};

static const struct row rows[] = {
	{ "no items are the empty tree", 4096, 0, 0, 0, false, 0 },
	{ "one item is a leaf", 4096, 1, 10, 10, false, 1 },
	{ "items that fit a leaf", 4096, 30, 100, 100, false, 1 },
	{ "two leaves", 4096, 40, 100, 100, false, 2 },
	{ "many small items", 4096, 20000, 0, 20, false, 0 },
	{ "the largest values", 4096, 3000, 900, 988, false, 0 },
	{ "values of all sizes", 4096, 5000, 0, 988, false, 0 },
	{ "large nodes", 32768, 20000, 0, 300, false, 0 },
	{ "second copies", 8192, 4000, 0, 1000, true, 0 },
};

static struct key key_of(unsigned i)
{
	return key_make(1 + i / 7, (uint8_t)(1 + i % 7 / 3), 1000 + i * 3);
}

static size_t len_of(const struct row *row, unsigned i)
{
	return row->len_min + (i * 2654435761u >> 7) % (row->len_max - row->len_min + 1);
}

static void fill(const struct row *row, unsigned i, unsigned char *buf)
{
	treekit_fill(buf, i + 1, len_of(row, i));
}

static struct tree_build_options options_of(struct treekit *tk, const struct row *row, struct place *p)
{
	return (struct tree_build_options){
		.bdev = tk->bdev,
		.node_size = row->node_size,
		.tree = TREE_FILES,
		.gen = tk->next_gen,
		.copies = row->copies,
		.records = &treekit_records,
		.alloc = alloc,
		.arg = p,
	};
}

static struct tree_build *open_build(struct treekit *tk, const struct row *row, struct place *p)
{
	struct tree_build *b = NULL;
	const struct tree_build_options opt = options_of(tk, row, p);

	assert_int_equal(tree_build_open(&opt, &b), 0);
	return b;
}

static int build_all(struct treekit *tk, const struct row *row, struct place *p, struct root *ret)
{
	struct tree_build *b = NULL;
	const struct tree_build_options opt = options_of(tk, row, p);
	unsigned char buf[8192];
	int err = tree_build_open(&opt, &b);

	for (unsigned i = 0; !err && i < row->items; i++) {
		fill(row, i, buf);
		err = tree_build_add(b, key_of(i), buf, len_of(row, i));
	}
	if (!err)
		err = tree_build_finish(b, ret);
	tree_build_close(b);
	return err;
}

static struct place place_of(const struct treekit *tk, uint64_t left)
{
	return (struct place){ .next = 100, .next_copy = tk->bdev->geo.blocks / 2, .left = left };
}

struct compare {
	const struct row *row;
	unsigned i, leaves;
	uint64_t filled;
};

static int same_item(void *arg, struct key key, const void *val, size_t len)
{
	struct compare *c = arg;
	unsigned char buf[8192];

	assert_true(c->i < c->row->items);
	fill(c->row, c->i, buf);
	assert_true(key_equal(key, key_of(c->i)));
	assert_int_equal(len, len_of(c->row, c->i));
	assert_memory_equal(val, buf, len);
	c->filled += len + 20;
	c->i++;
	return 0;
}

static int count_leaf(void *arg, struct ref ref, unsigned level)
{
	struct compare *c = arg;

	assert_true(!ref.copy == !c->row->copies);
	c->leaves += level == 0;
	return 0;
}

static void compare(struct treekit *tk, const struct row *row, const struct root *root)
{
	static const struct walk_ops ops = { .ref = count_leaf, .item = same_item };
	struct compare c = { .row = row };

	assert_int_equal(tree_verify(tk->cache, TREE_FILES, root), 0);
	assert_int_equal(tree_walk(tk->cache, TREE_FILES, root, &ops, &c), 0);
	assert_int_equal(c.i, row->items);
	/* Leaves are nearly full, but for the last: a value that is too large may leave a quarter. */
	if (c.leaves > 3)
		assert_true(c.filled > (uint64_t)(c.leaves - 1) * row->node_size * 6 / 10);
}

static void a_tree_has_what_was_added(void **state)
{
	const struct row *row = *state;
	struct treekit tk;
	struct place p;
	struct root root;

	treekit_open(&tk, &(struct treekit_options){ .node_size = row->node_size, .copies = row->copies });
	p = place_of(&tk, UINT64_MAX);
	assert_int_equal(build_all(&tk, row, &p, &root), 0);
	if (!row->items) {
		assert_true(root.levels == 0 && root.ref.addr == 0 && root.ref.gen == 0 && root.ref.copy == 0);
		treekit_close(&tk);
		return;
	}
	if (row->levels)
		assert_int_equal(root.levels, row->levels);
	assert_int_equal(root.ref.gen, tk.next_gen);
	compare(&tk, row, &root);
	treekit_close(&tk);
}

/* With second copies any node may be gone. */
static void second_copies_hold_the_same(void **state)
{
	const struct row *row = &rows[ARRAY_LEN(rows) - 1];
	unsigned char junk[BLOCK_SIZE] = { 1 };
	struct treekit tk;
	struct place p;
	struct root root;

	(void)state;
	treekit_open(&tk, &(struct treekit_options){ .node_size = row->node_size, .copies = true });
	p = place_of(&tk, UINT64_MAX);
	assert_int_equal(build_all(&tk, row, &p, &root), 0);
	for (uint64_t addr = 100; addr < p.next; addr += 2)
		simdev_poke(tk.sim, addr, 0, junk, sizeof(junk));
	compare(&tk, row, &root);
	treekit_close(&tk);
}

/* The tree goes on as one that grew: any change can be made to it. */
static void what_was_built_can_be_changed(void **state)
{
	const struct row *row = &rows[6];
	unsigned char buf[1000];
	struct treekit tk;
	struct place p;
	struct root root;

	(void)state;
	treekit_open(&tk, &(struct treekit_options){ .node_size = row->node_size });
	p = place_of(&tk, UINT64_MAX);
	assert_int_equal(build_all(&tk, row, &p, &root), 0);
	tree_init(&tk.tree, tk.cache, TREE_FILES, root, tk.next_gen + 1, false);
	tk.next_gen += 2;
	tk.next_addr = p.next;
	for (unsigned i = 0; i < row->items; i += 3)
		treekit_del(&tk, key_of(i));
	for (unsigned i = 0; i < row->items; i += 5) {
		struct key key = key_of(i);

		key.off++;
		treekit_put(&tk, key, "new", 3);
	}
	treekit_write(&tk);
	assert_int_equal(tree_verify(tk.cache, TREE_FILES, &tk.tree.root), 0);
	for (unsigned i = 0; i < row->items; i++) {
		size_t len;

		assert_int_equal(treekit_get(&tk, &tk.tree.root, key_of(i), buf, &len), i % 3 != 0);
	}
	treekit_del_range(&tk, KEY_MIN, KEY_MAX);
	assert_int_equal(tk.tree.root.levels, 0);
	treekit_close(&tk);
}

static void keys_come_in_order_or_not_at_all(void **state)
{
	static unsigned char big[5000];
	const struct row *row = &rows[1];
	struct treekit tk;
	struct place p;
	struct tree_build *b;

	(void)state;
	treekit_open(&tk, NULL);
	p = place_of(&tk, UINT64_MAX);
	b = open_build(&tk, row, &p);
	assert_int_equal(tree_build_add(b, key_make(5, 1, 5), "a", 1), 0);
	assert_int_equal(tree_build_add(b, key_make(5, 1, 5), "a", 1), -EINVAL);
	tree_build_close(b);
	b = open_build(&tk, row, &p);
	assert_int_equal(tree_build_add(b, key_make(5, 1, 5), "a", 1), 0);
	assert_int_equal(tree_build_add(b, key_make(5, 1, 4), "a", 1), -EINVAL);
	assert_int_equal(tree_build_add(b, KEY_MAX, "a", 1), -EINVAL);
	assert_int_equal(tree_build_add(b, key_make(6, 1, 0), big, 989), -EINVAL);
	tree_build_close(b);
	tree_build_close(NULL);
	treekit_close(&tk);
}

static void any_failure_is_passed_on(void **state)
{
	const struct row *row = &rows[7];
	struct treekit tk;
	struct root root;
	struct place p;
	uint64_t nodes, k;

	(void)state;
	treekit_open(&tk, &(struct treekit_options){ .node_size = row->node_size });
	p = place_of(&tk, UINT64_MAX);
	assert_int_equal(build_all(&tk, row, &p, &root), 0);
	nodes = UINT64_MAX - p.left;
	assert_true(nodes > 20);
	for (k = 0; k < nodes; k++) {
		p = place_of(&tk, k);
		assert_int_equal(build_all(&tk, row, &p, &root), -ENOSPC);
	}
	for (k = 0; k < nodes; k += 3) {
		simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_WRITE, .after = k, .times = 1 });
		p = place_of(&tk, UINT64_MAX);
		assert_int_equal(build_all(&tk, row, &p, &root), -EIO);
		simdev_clear_faults(tk.sim);
	}
	for (k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		p = place_of(&tk, UINT64_MAX);
		err = build_all(&tk, row, &p, &root);
		if (!failmem_stop())
			break;
		assert_int_equal(err, -ENOMEM);
	}
	assert_true(k > 3);
	treekit_close(&tk);
}

/* A value that its row refuses never reaches the device. */
static void what_is_not_valid_is_not_written(void **state)
{
	static const struct record_table none;
	struct tree_build *b;
	struct treekit tk;
	struct place p;
	struct root root;

	(void)state;
	treekit_open(&tk, NULL);
	p = place_of(&tk, UINT64_MAX);
	assert_int_equal(tree_build_open(&(struct tree_build_options){ .bdev = tk.bdev,
								       .node_size = 4096,
								       .tree = TREE_FILES,
								       .gen = 7,
								       .records = &none,
								       .alloc = alloc,
								       .arg = &p },
					 &b),
			 0);
	assert_int_equal(tree_build_add(b, key_make(5, 1, 5), "a", 1), 0);
	assert_int_equal(tree_build_finish(b, &root), -EUCLEAN);
	tree_build_close(b);
	assert_int_equal(simdev_count(tk.sim, SIMDEV_WRITE), 0);
	treekit_close(&tk);
}

static void quiet(void *arg, enum log_level level, const char *line)
{
	(void)arg, (void)level, (void)line;
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 5] = {
		cmocka_unit_test(second_copies_hold_the_same),	    cmocka_unit_test(what_was_built_can_be_changed),
		cmocka_unit_test(keys_come_in_order_or_not_at_all), cmocka_unit_test(any_failure_is_passed_on),
		cmocka_unit_test(what_is_not_valid_is_not_written),
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[5 + i] = TEST_ROW(rows[i].name, a_tree_has_what_was_added, &rows[i]);
	err_set_sink(quiet, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

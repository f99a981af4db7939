#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/cachekit.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"

#define SIZE 4096u

/* ---- what is not the node that was asked for ---- */

struct wrong_row {
	const char *name;
	void (*harm)(struct treekit *, struct ref *);
	int want;
};

static void rewrite_at(struct treekit *tk, uint64_t from, uint64_t to)
{
	unsigned char *buf = mem_alloc_blocks(SIZE);

	assert_non_null(buf);
	simdev_peek(tk->sim, from, buf, 1);
	simdev_poke(tk->sim, to, 0, buf, SIZE);
	mem_free(buf);
}

static void rot(struct treekit *tk, struct ref *r) { simdev_flip(tk->sim, r->addr, SIZE * 8 - 3); }
static void zeros(struct treekit *tk, struct ref *r)
{
	static const unsigned char z[SIZE];

	simdev_poke(tk->sim, r->addr, 0, z, SIZE);
}
static void torn(struct treekit *tk, struct ref *r)
{
	unsigned char junk[512];

	memset(junk, 3, sizeof(junk));
	simdev_poke(tk->sim, r->addr, SIZE - 512, junk, sizeof(junk));
}
static void misdirected(struct treekit *tk, struct ref *r)
{
	struct ref other = cachekit_written(tk, r->addr + 1, 0, CACHEKIT_GEN);

	rewrite_at(tk, other.addr, r->addr);
}
static void stale(struct treekit *tk, struct ref *r) { (void)tk, r->gen++; }
static void of_another_copy(struct treekit *tk, struct ref *r) { (void)tk, r->copy = 999; }
static void outside(struct treekit *tk, struct ref *r) { r->addr = tk->bdev->geo.blocks; }
static void far_outside(struct treekit *tk, struct ref *r) { (void)tk, r->addr = UINT64_MAX; }
static void unreadable(struct treekit *tk, struct ref *r)
{
	simdev_add_fault(tk->sim, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = r->addr, .blocks = 1 });
}
static void put_u8(struct treekit *tk, struct ref *r, size_t at, uint8_t val)
{
	unsigned char *buf = mem_alloc_blocks(SIZE);
	le64 sum;

	assert_non_null(buf);
	simdev_peek(tk->sim, r->addr, buf, 1);
	buf[at] = val;
	sum = le64_put(XXH3_64bits(buf + 8, SIZE - 8));
	memcpy(buf, &sum, 8);
	simdev_poke(tk->sim, r->addr, 0, buf, SIZE);
	mem_free(buf);
}
static void other_tree(struct treekit *tk, struct ref *r) { put_u8(tk, r, offsetof(struct disk_node, tree), TREE_SYSTEM); }
static void bad_slot(struct treekit *tk, struct ref *r) { put_u8(tk, r, sizeof(struct disk_node) + 16, 1); }

static const struct wrong_row wrong_rows[] = {
	{ "a node with a rotten bit is refused", rot, -EBADMSG },
	{ "zeros are refused", zeros, -EBADMSG },
	{ "a torn node is refused", torn, -EBADMSG },
	{ "another node's bytes are refused", misdirected, -EBADMSG },
	{ "another generation is refused", stale, -EBADMSG },
	{ "another second copy is refused", of_another_copy, -EBADMSG },
	{ "an address outside the device is refused", outside, -EUCLEAN },
	{ "an address far outside the device is refused", far_outside, -EUCLEAN },
	{ "a read error is an error", unreadable, -EIO },
	{ "a node of another tree is refused", other_tree, -EUCLEAN },
	{ "a broken slot is refused", bad_slot, -EUCLEAN },
};

static void what_is_not_the_node_is_refused(void **state)
{
	const struct wrong_row *row = *state;
	struct treekit_options opt = { .frames = 64 };
	struct node *frames[64], *n;
	struct treekit tk;
	struct cachekit_lines lines = { 0, 0 };
	struct ref ref;

	treekit_open(&tk, &opt);
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	row->harm(&tk, &ref);
	treekit_drop_cache(&tk);
	err_set_sink(cachekit_count, &lines);
	assert_int_equal(cachekit_load(&tk, ref, &n), row->want);
	err_set_sink(NULL, NULL);
	assert_true(lines.errors >= 1);
	assert_int_equal(cachekit_stats(&tk).bad, ref.copy ? 2 : 1);
	assert_false(cachekit_resident(&tk, ref));
	/* The frame was given back. */
	assert_int_equal(cache_reserve(tk.cache, frames, 64), 0);
	cache_unreserve(tk.cache, frames, 64);
	treekit_close(&tk);
}

static void level_and_lower_bound_are_checked(void **state)
{
	struct treekit tk;
	struct cachekit_lines lines = { 0, 0 };
	struct node *n;
	struct ref ref;
	unsigned slot;

	(void)state;
	treekit_open(&tk, NULL);
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	err_set_sink(cachekit_count, &lines);
	for (unsigned round = 0; round < 2; round++) {
		slot = epoch_enter(tk.epoch);
		assert_int_equal(cache_load(tk.cache, ref, TREE_FILES, 1, KEY_MIN, &n), -EUCLEAN);
		assert_int_equal(cache_load(tk.cache, ref, TREE_SYSTEM, 0, KEY_MIN, &n), -EUCLEAN);
		assert_int_equal(cache_load(tk.cache, ref, TREE_FILES, 0, key_next(cachekit_key(16)), &n), -EUCLEAN);
		assert_int_equal(cache_load(tk.cache, ref, TREE_FILES, 0, cachekit_key(16), &n), 0);
		node_unpin(n);
		epoch_exit(tk.epoch, slot);
		/* In memory, and then from the device. */
		treekit_drop_cache(&tk);
	}
	err_set_sink(NULL, NULL);
	assert_int_equal(lines.errors, 6);
	treekit_close(&tk);
}

/* ---- second copies ---- */

struct copy_row {
	const char *name;
	bool mend;
	bool io_error; /* of the first copy, instead of rot */
	bool second_bad;
};

static const struct copy_row copy_rows[] = {
	{ "a bad node is read from its second copy and mended", true, false, false },
	{ "a bad node is read from its second copy and left alone", false, false, false },
	{ "an unreadable node is read from its second copy", true, true, false },
	{ "two bad copies are an error", true, false, true },
};

static void second_copies(void **state)
{
	const struct copy_row *row = *state;
	struct treekit_options opt = { .copies = true, .mend = row->mend };
	unsigned char first[SIZE], second[SIZE];
	struct cachekit_lines lines = { 0, 0 };
	struct treekit tk;
	struct node *n;
	struct ref ref;

	treekit_open(&tk, &opt);
	ref = cachekit_written(&tk, 16, 40, CACHEKIT_GEN);
	simdev_peek(tk.sim, 16, first, 1);
	simdev_peek(tk.sim, 40, second, 1);
	assert_memory_equal(first, second, SIZE);
	if (row->io_error)
		simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = 16, .blocks = 1, .times = 1 });
	else
		simdev_flip(tk.sim, 16, 5000);
	if (row->second_bad)
		simdev_flip(tk.sim, 40, 6000);
	treekit_drop_cache(&tk);
	err_set_sink(cachekit_count, &lines);
	if (row->second_bad) {
		assert_int_equal(cachekit_load(&tk, ref, &n), -EBADMSG);
		assert_int_equal(cachekit_stats(&tk).bad, 2);
	} else {
		assert_int_equal(cachekit_load(&tk, ref, &n), 0);
		cachekit_assert_content(n, ref);
		node_unpin(n);
		assert_int_equal(cachekit_stats(&tk).copies_used, 1);
		assert_int_equal(cachekit_stats(&tk).mended, row->mend);
		simdev_peek(tk.sim, 16, first, 1);
		assert_int_equal(memcmp(first, second, SIZE) == 0, row->mend || row->io_error);
		/* Next time the first copy does, if it was mended. */
		treekit_drop_cache(&tk);
		assert_int_equal(cachekit_load(&tk, ref, &n), 0);
		node_unpin(n);
		assert_int_equal(cachekit_stats(&tk).copies_used, !row->mend);
	}
	err_set_sink(NULL, NULL);
	treekit_close(&tk);
}

/* ---- reading ahead ---- */

static void prefetch_loads_many_and_drops_the_bad(void **state)
{
	struct treekit tk;
	struct cachekit_lines lines = { 0, 0 };
	struct ref refs[32];
	struct key lows[32];
	unsigned slot;

	(void)state;
	treekit_open(&tk, NULL);
	for (unsigned i = 0; i < 32; i++) {
		refs[i] = cachekit_written(&tk, 16 + i, 0, CACHEKIT_GEN);
		lows[i] = KEY_MIN;
	}
	simdev_flip(tk.sim, refs[5].addr, 77);
	refs[6].gen++;
	refs[7].addr = tk.bdev->geo.blocks;
	treekit_drop_cache(&tk);
	simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = refs[8].addr, .blocks = 1 });
	err_set_sink(cachekit_count, &lines);
	slot = epoch_enter(tk.epoch);
	cache_prefetch(tk.cache, refs, lows, 32, TREE_FILES, 0);
	epoch_exit(tk.epoch, slot);
	err_set_sink(NULL, NULL);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(cachekit_resident(&tk, refs[i]), i < 5 || i > 8);
	/* Who really wants one of them is told. */
	assert_int_equal(lines.errors, 0);
	treekit_close(&tk);
}

static void prefetch_leaves_frames_for_others(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct node *frames[60], *n;
	struct treekit tk;
	struct ref refs[32];
	struct key lows[32];
	unsigned slot, got = 0;

	(void)state;
	treekit_open(&tk, &opt);
	for (unsigned i = 0; i < 32; i++) {
		refs[i] = cachekit_written(&tk, 16 + i, 0, CACHEKIT_GEN);
		lows[i] = KEY_MIN;
	}
	treekit_drop_cache(&tk);
	assert_int_equal(cache_reserve(tk.cache, frames, 50), 0);
	slot = epoch_enter(tk.epoch);
	cache_prefetch(tk.cache, refs, lows, 32, TREE_FILES, 0);
	epoch_exit(tk.epoch, slot);
	for (unsigned i = 0; i < 32; i++)
		got += cachekit_resident(&tk, refs[i]);
	assert_in_range(got, 6, 12);
	assert_int_equal(cachekit_load(&tk, refs[31], &n), 0);
	node_unpin(n);
	cache_unreserve(tk.cache, frames, 50);
	treekit_close(&tk);
}

/* ---- writing ---- */

static void neighbours_are_written_together(void **state)
{
	struct treekit_options opt = { .node_size = 16384 };
	struct node *nodes[300];
	struct treekit tk;
	struct node *n;

	(void)state;
	treekit_open(&tk, &opt);
	/* 300 nodes of 4 blocks, in an order of their own, with one gap. */
	for (unsigned i = 0; i < 300; i++) {
		unsigned k = i * 7 % 300;

		nodes[i] = cachekit_born(&tk, 16 + 4 * k + (k >= 150 ? 4 : 0), 0, CACHEKIT_GEN);
	}
	assert_int_equal(cachekit_write(&tk, nodes, 300), 0);
	assert_int_equal(atomic_load(&tk.bdev->written_blocks), 1200);
	assert_true(atomic_load(&tk.bdev->writes) <= 300 / 64 + 2);
	assert_int_equal(cachekit_stats(&tk).nodes_written, 300);
	treekit_drop_cache(&tk);
	for (unsigned k = 0; k < 300; k++) {
		struct ref ref = { 16 + 4 * k + (k >= 150 ? 4 : 0), 0, CACHEKIT_GEN };

		assert_int_equal(cachekit_load(&tk, ref, &n), 0);
		cachekit_assert_content(n, ref);
		node_unpin(n);
	}
	treekit_close(&tk);
}

static void a_failed_write_leaves_the_nodes_dirty(void **state)
{
	struct node *nodes[600];
	struct treekit tk;

	(void)state;
	treekit_open(&tk, NULL);
	for (unsigned i = 0; i < 600; i++)
		nodes[i] = cachekit_born(&tk, 16 + 2 * i, 0, CACHEKIT_GEN);
	simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_WRITE, .addr = 16 + 2 * 399, .blocks = 1 });
	assert_int_equal(cachekit_write(&tk, nodes, 600), -EIO);
	assert_int_equal(cache_dirty(tk.cache), 600);
	for (unsigned i = 0; i < 600; i++)
		assert_int_equal(atomic_load(&nodes[i]->state) & (NODE_DIRTY | NODE_SEALED), NODE_DIRTY | NODE_SEALED);
	treekit_close(&tk);
}

static void nodes_are_written_without_memory(void **state)
{
	struct node *nodes[600];
	struct treekit tk;
	struct node *n;

	(void)state;
	treekit_open(&tk, NULL);
	for (unsigned i = 0; i < 600; i++)
		nodes[i] = cachekit_born(&tk, 16 + 3 * (i * 7 % 600), 1 + 16 + 3 * (i * 7 % 600), CACHEKIT_GEN);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_int_equal(cachekit_write(&tk, nodes, 600), 0);
	assert_true(failmem_stop());
	treekit_drop_cache(&tk);
	for (unsigned i = 0; i < 600; i++) {
		struct ref ref = { 16 + 3 * i, 1 + 16 + 3 * i, CACHEKIT_GEN };

		assert_int_equal(cachekit_load(&tk, ref, &n), 0);
		cachekit_assert_content(n, ref);
		node_unpin(n);
	}
	treekit_close(&tk);
}

int main(void)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test(level_and_lower_bound_are_checked),
		cmocka_unit_test(prefetch_loads_many_and_drops_the_bad),
		cmocka_unit_test(prefetch_leaves_frames_for_others),
		cmocka_unit_test(neighbours_are_written_together),
		cmocka_unit_test(a_failed_write_leaves_the_nodes_dirty),
		cmocka_unit_test(nodes_are_written_without_memory),
	};
	struct CMUnitTest tests[ARRAY_LEN(plain) + ARRAY_LEN(wrong_rows) + ARRAY_LEN(copy_rows)];
	size_t n = ARRAY_LEN(plain);

	memcpy(tests, plain, sizeof(plain));
	for (size_t i = 0; i < ARRAY_LEN(wrong_rows); i++)
		tests[n++] = TEST_ROW(wrong_rows[i].name, what_is_not_the_node_is_refused, &wrong_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(copy_rows); i++)
		tests[n++] = TEST_ROW(copy_rows[i].name, second_copies, &copy_rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

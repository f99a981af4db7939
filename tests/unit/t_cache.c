#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"
#include "tests/kit/treekit.h"

#define SIZE 4096u
#define GEN (UINT64_C(1) << GEN_EPOCH_SHIFT | 5)

/* ---- helpers ---- */

struct lines {
	unsigned errors, warnings;
};

static void count_lines(void *arg, enum log_level level, const char *line)
{
	struct lines *l = arg;

	(void)line;
	l->errors += level == LOG_ERROR;
	l->warnings += level == LOG_WARNING;
}

static struct key key_of(uint64_t addr)
{
	return key_make(addr, 1, 0);
}

/* A dirty leaf with one item that says where it is. */
static struct node *born(struct treekit *tk, uint64_t addr, uint64_t copy, uint64_t gen)
{
	struct node *n;

	assert_int_equal(cache_reserve(tk->cache, &n, 1), 0);
	n->home = NULL;
	cache_born(tk->cache, n, addr, copy, gen, TREE_FILES, 0);
	node_insert(n, 0, key_of(addr), &addr, sizeof(addr));
	return n;
}

static int write_out(struct treekit *tk, struct node **nodes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		atomic_fetch_or(&nodes[i]->state, NODE_SEALED);
	return cache_write(tk->cache, nodes, n);
}

static struct ref written(struct treekit *tk, uint64_t addr, uint64_t copy, uint64_t gen)
{
	struct node *n = born(tk, addr, copy, gen);

	assert_int_equal(write_out(tk, &n, 1), 0);
	return (struct ref){ addr, copy, gen };
}

/* Loads in an epoch of its own; the node is pinned. */
static int load(struct treekit *tk, struct ref ref, struct node **ret)
{
	for (;;) {
		unsigned slot = epoch_enter(tk->epoch);
		int err = cache_load(tk->cache, ref, TREE_FILES, 0, KEY_MIN, ret);

		epoch_exit(tk->epoch, slot);
		if (err != -ENOBUFS)
			return err;
		err = cache_breathe(tk->cache);
		if (err)
			return err;
	}
}

static void assert_content(const struct node *n, struct ref ref)
{
	uint64_t addr;

	assert_int_equal(n->addr, ref.addr);
	assert_int_equal(n->gen, ref.gen);
	assert_int_equal(n->nr, 1);
	assert_true(key_equal(node_key(n, 0), key_of(ref.addr)));
	memcpy(&addr, node_val(n, 0), sizeof(addr));
	assert_int_equal(addr, ref.addr);
}

static bool resident(struct treekit *tk, struct ref ref)
{
	unsigned slot = epoch_enter(tk->epoch);
	bool there = cache_lookup(tk->cache, ref) != NULL;

	epoch_exit(tk->epoch, slot);
	return there;
}

static struct cache_stats stats(struct treekit *tk)
{
	struct cache_stats s;

	cache_stats(tk->cache, &s);
	return s;
}

/* ---- finding ---- */

static void a_node_is_found_by_address_and_generation(void **state)
{
	struct treekit tk;
	struct node *n;

	(void)state;
	treekit_open(&tk, NULL);
	n = born(&tk, 16, 0, GEN);
	assert_true(resident(&tk, (struct ref){ 16, 0, GEN }));
	assert_false(resident(&tk, (struct ref){ 16, 0, GEN + 1 }));
	assert_false(resident(&tk, (struct ref){ 17, 0, GEN }));
	assert_int_equal(cache_dirty(tk.cache), 1);
	cache_kill(tk.cache, n);
	assert_false(resident(&tk, (struct ref){ 16, 0, GEN }));
	assert_int_equal(cache_dirty(tk.cache), 0);
	treekit_close(&tk);
}

static void a_written_node_is_loaded_as_it_was(void **state)
{
	struct treekit tk;
	struct node *n, *again;
	struct ref ref;

	(void)state;
	treekit_open(&tk, NULL);
	ref = written(&tk, 16, 0, GEN);
	assert_int_equal(cache_dirty(tk.cache), 0);
	treekit_drop_cache(&tk);
	assert_int_equal(load(&tk, ref, &n), 0);
	assert_content(n, ref);
	assert_int_equal(load(&tk, ref, &again), 0);
	assert_ptr_equal(n, again);
	assert_int_equal(atomic_load(&n->pins), 2);
	node_unpin(n);
	node_unpin(n);
	assert_int_equal(stats(&tk).misses, 1);
	treekit_close(&tk);
}

static void a_born_node_takes_the_place_of_a_stale_one(void **state)
{
	struct treekit tk;
	struct ref ref;

	(void)state;
	treekit_open(&tk, NULL);
	ref = written(&tk, 16, 0, GEN);
	assert_true(resident(&tk, ref));
	born(&tk, 16, 0, GEN + 1);
	assert_false(resident(&tk, ref));
	assert_true(resident(&tk, (struct ref){ 16, 0, GEN + 1 }));
	treekit_close(&tk);
}

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
	struct ref other = written(tk, r->addr + 1, 0, GEN);

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
	struct lines lines = { 0, 0 };
	struct ref ref;

	treekit_open(&tk, &opt);
	ref = written(&tk, 16, 0, GEN);
	row->harm(&tk, &ref);
	treekit_drop_cache(&tk);
	err_set_sink(count_lines, &lines);
	assert_int_equal(load(&tk, ref, &n), row->want);
	err_set_sink(NULL, NULL);
	assert_true(lines.errors >= 1);
	assert_int_equal(stats(&tk).bad, ref.copy ? 2 : 1);
	assert_false(resident(&tk, ref));
	/* The frame was given back. */
	assert_int_equal(cache_reserve(tk.cache, frames, 64), 0);
	cache_unreserve(tk.cache, frames, 64);
	treekit_close(&tk);
}

static void level_and_lower_bound_are_checked(void **state)
{
	struct treekit tk;
	struct lines lines = { 0, 0 };
	struct node *n;
	struct ref ref;
	unsigned slot;

	(void)state;
	treekit_open(&tk, NULL);
	ref = written(&tk, 16, 0, GEN);
	err_set_sink(count_lines, &lines);
	for (unsigned round = 0; round < 2; round++) {
		slot = epoch_enter(tk.epoch);
		assert_int_equal(cache_load(tk.cache, ref, TREE_FILES, 1, KEY_MIN, &n), -EUCLEAN);
		assert_int_equal(cache_load(tk.cache, ref, TREE_SYSTEM, 0, KEY_MIN, &n), -EUCLEAN);
		assert_int_equal(cache_load(tk.cache, ref, TREE_FILES, 0, key_next(key_of(16)), &n), -EUCLEAN);
		assert_int_equal(cache_load(tk.cache, ref, TREE_FILES, 0, key_of(16), &n), 0);
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
	struct lines lines = { 0, 0 };
	struct treekit tk;
	struct node *n;
	struct ref ref;

	treekit_open(&tk, &opt);
	ref = written(&tk, 16, 40, GEN);
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
	err_set_sink(count_lines, &lines);
	if (row->second_bad) {
		assert_int_equal(load(&tk, ref, &n), -EBADMSG);
		assert_int_equal(stats(&tk).bad, 2);
	} else {
		assert_int_equal(load(&tk, ref, &n), 0);
		assert_content(n, ref);
		node_unpin(n);
		assert_int_equal(stats(&tk).copies_used, 1);
		assert_int_equal(stats(&tk).mended, row->mend);
		simdev_peek(tk.sim, 16, first, 1);
		assert_int_equal(memcmp(first, second, SIZE) == 0, row->mend || row->io_error);
		/* Next time the first copy does, if it was mended. */
		treekit_drop_cache(&tk);
		assert_int_equal(load(&tk, ref, &n), 0);
		node_unpin(n);
		assert_int_equal(stats(&tk).copies_used, !row->mend);
	}
	err_set_sink(NULL, NULL);
	treekit_close(&tk);
}

/* ---- frames ---- */

static void more_nodes_than_frames_take_turns(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct treekit tk;
	struct node *n;
	struct rng rng;

	(void)state;
	rng_seed(&rng, 4);
	treekit_open(&tk, &opt);
	for (uint64_t a = 1; a <= 1000; a++)
		written(&tk, 16 + a, 0, GEN);
	assert_true(stats(&tk).evictions > 900);
	for (unsigned i = 0; i < 5000; i++) {
		struct ref ref = { 17 + rng_below(&rng, 1000), 0, GEN };

		assert_int_equal(load(&tk, ref, &n), 0);
		assert_content(n, ref);
		node_unpin(n);
	}
	assert_int_equal(stats(&tk).frames, 64);
	assert_true(stats(&tk).bytes < 64 * (SIZE + 256) + 4096);
	treekit_close(&tk);
}

static void what_is_used_stays(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct treekit tk;
	struct node *n;
	uint64_t before;

	(void)state;
	treekit_open(&tk, &opt);
	for (uint64_t a = 0; a < 1000; a++)
		written(&tk, 16 + a, 0, GEN);
	for (uint64_t a = 0; a < 10; a++) {
		assert_int_equal(load(&tk, (struct ref){ 16 + a, 0, GEN }, &n), 0);
		node_unpin(n);
	}
	before = stats(&tk).misses;
	for (uint64_t a = 10; a < 1000; a++) {
		/* Ten nodes used all the time, and a scan. */
		for (uint64_t hot = 0; hot < 10; hot++) {
			assert_int_equal(load(&tk, (struct ref){ 16 + hot, 0, GEN }, &n), 0);
			node_unpin(n);
		}
		assert_int_equal(load(&tk, (struct ref){ 16 + a, 0, GEN }, &n), 0);
		node_unpin(n);
	}
	assert_in_range(stats(&tk).misses - before, 980, 1000);
	treekit_close(&tk);
}

static void a_pinned_node_stays(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct node *pinned[40], *n;
	struct treekit tk;

	(void)state;
	treekit_open(&tk, &opt);
	for (uint64_t a = 0; a < 1000; a++)
		written(&tk, 16 + a, 0, GEN);
	for (uint64_t a = 0; a < 40; a++)
		assert_int_equal(load(&tk, (struct ref){ 16 + a, 0, GEN }, &pinned[a]), 0);
	for (uint64_t a = 40; a < 1000; a++) {
		assert_int_equal(load(&tk, (struct ref){ 16 + a, 0, GEN }, &n), 0);
		node_unpin(n);
	}
	for (uint64_t a = 0; a < 40; a++) {
		assert_true(resident(&tk, (struct ref){ 16 + a, 0, GEN }));
		assert_content(pinned[a], (struct ref){ 16 + a, 0, GEN });
		node_unpin(pinned[a]);
	}
	treekit_close(&tk);
}

static void a_pinned_node_that_leaves_the_cache_keeps_its_content(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct treekit tk;
	struct node *n, *other;
	struct ref ref;

	(void)state;
	treekit_open(&tk, &opt);
	ref = written(&tk, 16, 0, GEN);
	assert_int_equal(load(&tk, ref, &n), 0);
	cache_kill(tk.cache, n);
	assert_false(resident(&tk, ref));
	for (uint64_t a = 20; a < 500; a++)
		written(&tk, a, 0, GEN);
	assert_content(n, ref);
	/* It can be loaded again beside it. */
	assert_int_equal(load(&tk, ref, &other), 0);
	assert_ptr_not_equal(n, other);
	node_unpin(other);
	node_unpin(n);
	for (uint64_t a = 500; a < 900; a++)
		written(&tk, a, 0, GEN);
	treekit_close(&tk);
}

static void a_frame_is_not_used_again_while_a_reader_may_see_it(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct node *frames[64], *n;
	struct treekit tk;
	struct ref ref;
	unsigned slot;

	(void)state;
	treekit_open(&tk, &opt);
	ref = written(&tk, 16, 0, GEN);
	assert_int_equal(cache_reserve(tk.cache, frames, 63), 0);
	slot = epoch_enter(tk.epoch);
	n = cache_lookup(tk.cache, ref);
	assert_non_null(n);
	cache_kill(tk.cache, n);
	/* No frame is free, and that one must not be taken. */
	assert_int_equal(cache_load(tk.cache, (struct ref){ 99, 0, GEN }, TREE_FILES, 0, KEY_MIN, &n), -ENOBUFS);
	epoch_exit(tk.epoch, slot);
	assert_int_equal(cache_reserve(tk.cache, frames + 63, 1), 0);
	cache_unreserve(tk.cache, frames, 64);
	treekit_close(&tk);
}

static void a_cache_full_of_dirty_nodes_says_so(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct node *nodes[64], *n, *frame;
	struct treekit tk;

	(void)state;
	treekit_open(&tk, &opt);
	for (unsigned i = 0; i < 64; i++)
		nodes[i] = born(&tk, 16 + i, 0, GEN);
	assert_int_equal(cache_breathe(tk.cache), -EBUSY);
	assert_int_equal(cache_reserve(tk.cache, &frame, 1), -EBUSY);
	assert_int_equal(load(&tk, (struct ref){ 10, 0, GEN }, &n), -EBUSY);
	assert_int_equal(cache_dirty(tk.cache), 64);
	assert_int_equal(write_out(&tk, nodes, 64), 0);
	assert_int_equal(cache_breathe(tk.cache), 0);
	assert_int_equal(cache_reserve(tk.cache, &frame, 1), 0);
	cache_unreserve(tk.cache, &frame, 1);
	treekit_close(&tk);
}

static void more_frames_than_there_are_cannot_be_reserved(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct node *frames[65];
	struct treekit tk;

	(void)state;
	treekit_open(&tk, &opt);
	assert_int_equal(cache_reserve(tk.cache, frames, 65), -EBUSY);
	assert_int_equal(cache_reserve(tk.cache, frames, 64), 0);
	cache_unreserve(tk.cache, frames, 64);
	treekit_close(&tk);
}

/* ---- reading ahead ---- */

static void prefetch_loads_many_and_drops_the_bad(void **state)
{
	struct treekit tk;
	struct lines lines = { 0, 0 };
	struct ref refs[32];
	struct key lows[32];
	unsigned slot;

	(void)state;
	treekit_open(&tk, NULL);
	for (unsigned i = 0; i < 32; i++) {
		refs[i] = written(&tk, 16 + i, 0, GEN);
		lows[i] = KEY_MIN;
	}
	simdev_flip(tk.sim, refs[5].addr, 77);
	refs[6].gen++;
	refs[7].addr = tk.bdev->geo.blocks;
	treekit_drop_cache(&tk);
	simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = refs[8].addr, .blocks = 1 });
	err_set_sink(count_lines, &lines);
	slot = epoch_enter(tk.epoch);
	cache_prefetch(tk.cache, refs, lows, 32, TREE_FILES, 0);
	epoch_exit(tk.epoch, slot);
	err_set_sink(NULL, NULL);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(resident(&tk, refs[i]), i < 5 || i > 8);
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
		refs[i] = written(&tk, 16 + i, 0, GEN);
		lows[i] = KEY_MIN;
	}
	treekit_drop_cache(&tk);
	assert_int_equal(cache_reserve(tk.cache, frames, 50), 0);
	slot = epoch_enter(tk.epoch);
	cache_prefetch(tk.cache, refs, lows, 32, TREE_FILES, 0);
	epoch_exit(tk.epoch, slot);
	for (unsigned i = 0; i < 32; i++)
		got += resident(&tk, refs[i]);
	assert_in_range(got, 6, 12);
	assert_int_equal(load(&tk, refs[31], &n), 0);
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

		nodes[i] = born(&tk, 16 + 4 * k + (k >= 150 ? 4 : 0), 0, GEN);
	}
	assert_int_equal(write_out(&tk, nodes, 300), 0);
	assert_int_equal(atomic_load(&tk.bdev->written_blocks), 1200);
	assert_true(atomic_load(&tk.bdev->writes) <= 300 / 64 + 2);
	assert_int_equal(stats(&tk).nodes_written, 300);
	treekit_drop_cache(&tk);
	for (unsigned k = 0; k < 300; k++) {
		struct ref ref = { 16 + 4 * k + (k >= 150 ? 4 : 0), 0, GEN };

		assert_int_equal(load(&tk, ref, &n), 0);
		assert_content(n, ref);
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
		nodes[i] = born(&tk, 16 + 2 * i, 0, GEN);
	simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_WRITE, .addr = 16 + 2 * 399, .blocks = 1 });
	assert_int_equal(write_out(&tk, nodes, 600), -EIO);
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
		nodes[i] = born(&tk, 16 + 3 * (i * 7 % 600), 1 + 16 + 3 * (i * 7 % 600), GEN);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_int_equal(write_out(&tk, nodes, 600), 0);
	assert_true(failmem_stop());
	treekit_drop_cache(&tk);
	for (unsigned i = 0; i < 600; i++) {
		struct ref ref = { 16 + 3 * i, 1 + 16 + 3 * i, GEN };

		assert_int_equal(load(&tk, ref, &n), 0);
		assert_content(n, ref);
		node_unpin(n);
	}
	treekit_close(&tk);
}

static void opening_without_memory_fails_cleanly(void **state)
{
	struct treekit tk;
	struct cache_options opt;
	struct cache *c = NULL;

	(void)state;
	treekit_open(&tk, NULL);
	opt = treekit_cache_options(&tk);
	for (uint64_t k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = cache_open(&opt, &c);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			break;
		}
		assert_int_equal(err, -ENOMEM);
	}
	cache_close(c);
	cache_close(NULL);
	treekit_close(&tk);
}

static void without_memory_for_frames_nothing_is_lost(void **state)
{
	struct treekit tk;
	struct node *n;
	struct ref ref;

	(void)state;
	treekit_open(&tk, NULL);
	ref = written(&tk, 16, 0, GEN);
	treekit_drop_cache(&tk);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_int_equal(load(&tk, ref, &n), -ENOMEM);
	assert_true(failmem_stop());
	assert_int_equal(load(&tk, ref, &n), 0);
	assert_content(n, ref);
	node_unpin(n);
	treekit_close(&tk);
}

/* ---- threads ---- */

#define THREAD_NODES 400u

struct crowd {
	struct treekit tk;
	atomic_bool stop;
};

struct member {
	struct crowd *crowd;
	uint64_t seed;
};

/* Loads, looks up, pins, reads ahead, all over a cache that is much too small. */
static void *read_at_random(void *arg)
{
	struct member *me = arg;
	struct treekit *tk = &me->crowd->tk;
	struct rng rng;

	rng_seed(&rng, me->seed);
	for (unsigned i = 0; i < 6000; i++) {
		struct ref ref = { 16 + rng_below(&rng, THREAD_NODES), 0, GEN };
		struct node *n;
		unsigned slot;

		if (rng_chance(&rng, 1, 20)) {
			struct ref refs[8];
			struct key lows[8];

			for (unsigned k = 0; k < 8; k++) {
				refs[k] = (struct ref){ 16 + rng_below(&rng, THREAD_NODES), 0, GEN };
				lows[k] = KEY_MIN;
			}
			slot = epoch_enter(tk->epoch);
			cache_prefetch(tk->cache, refs, lows, 8, TREE_FILES, 0);
			epoch_exit(tk->epoch, slot);
		}
		if (rng_chance(&rng, 1, 2)) {
			slot = epoch_enter(tk->epoch);
			n = cache_lookup(tk->cache, ref);
			if (n)
				assert_content(n, ref);
			epoch_exit(tk->epoch, slot);
			continue;
		}
		assert_int_equal(load(tk, ref, &n), 0);
		assert_content(n, ref);
		node_unpin(n);
	}
	return NULL;
}

/* Meanwhile nodes are born, some written, some killed, at addresses used again and again. */
static void *come_and_go(void *arg)
{
	struct member *me = arg;
	struct treekit *tk = &me->crowd->tk;
	uint64_t gen = GEN + me->seed * 1000000;
	struct rng rng;

	rng_seed(&rng, me->seed);
	while (!atomic_load(&me->crowd->stop)) {
		uint64_t addr = 16 + THREAD_NODES + me->seed * 16 + rng_below(&rng, 8);
		struct node *n = born(tk, addr, 0, ++gen);

		if (rng_chance(&rng, 1, 2)) {
			assert_int_equal(write_out(tk, &n, 1), 0);
			if (rng_chance(&rng, 1, 2))
				continue;
			assert_int_equal(load(tk, (struct ref){ addr, 0, gen }, &n), 0);
			assert_content(n, (struct ref){ addr, 0, gen });
			node_unpin(n);
		} else {
			cache_kill(tk->cache, n);
		}
	}
	return NULL;
}

static void threads_share_a_cache_that_is_too_small(void **state)
{
	struct treekit_options opt = { .frames = 64 };
	struct crowd crowd = { .stop = false };
	struct member members[5];
	pthread_t threads[5];

	(void)state;
	treekit_open(&crowd.tk, &opt);
	for (uint64_t a = 0; a < THREAD_NODES; a++)
		written(&crowd.tk, 16 + a, 0, GEN);
	for (unsigned i = 0; i < 5; i++) {
		members[i] = (struct member){ &crowd, i };
		assert_int_equal(pthread_create(&threads[i], NULL, i < 3 ? read_at_random : come_and_go, &members[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&crowd.stop, true);
	for (unsigned i = 3; i < 5; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(stats(&crowd.tk).frames, 64);
	assert_int_equal(cache_dirty(crowd.tk.cache), 0);
	treekit_close(&crowd.tk);
}

int main(void)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test(a_node_is_found_by_address_and_generation),
		cmocka_unit_test(a_written_node_is_loaded_as_it_was),
		cmocka_unit_test(a_born_node_takes_the_place_of_a_stale_one),
		cmocka_unit_test(level_and_lower_bound_are_checked),
		cmocka_unit_test(more_nodes_than_frames_take_turns),
		cmocka_unit_test(what_is_used_stays),
		cmocka_unit_test(a_pinned_node_stays),
		cmocka_unit_test(a_pinned_node_that_leaves_the_cache_keeps_its_content),
		cmocka_unit_test(a_frame_is_not_used_again_while_a_reader_may_see_it),
		cmocka_unit_test(a_cache_full_of_dirty_nodes_says_so),
		cmocka_unit_test(more_frames_than_there_are_cannot_be_reserved),
		cmocka_unit_test(prefetch_loads_many_and_drops_the_bad),
		cmocka_unit_test(prefetch_leaves_frames_for_others),
		cmocka_unit_test(neighbours_are_written_together),
		cmocka_unit_test(a_failed_write_leaves_the_nodes_dirty),
		cmocka_unit_test(nodes_are_written_without_memory),
		cmocka_unit_test(opening_without_memory_fails_cleanly),
		cmocka_unit_test(without_memory_for_frames_nothing_is_lost),
		cmocka_unit_test(threads_share_a_cache_that_is_too_small),
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

#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"
#include "tests/kit/treekit.h"

#define ITEMS 5000u
#define LEVELS 2u /* of a tree with so many */

static struct key key_of(uint64_t n)
{
	return key_make(n >> 8, 1, n & 255);
}

static void fill(struct treekit *tk, uint64_t items)
{
	for (uint64_t n = 0; n < items; n++)
		treekit_put(tk, key_of(n), "a value of some twenty bytes", 28);
}

static void quiet(void *arg, enum log_level level, const char *line)
{
	(void)level, (void)line;
	++*(unsigned *)arg;
}

struct count {
	unsigned refs, items, bad;
	unsigned prune_level; /* refs of this level are not descended into, if > 0 */
	int stop_at_item, stop;
	uint64_t prune_addr;
	int bad_answer;
	int bad_err;
	struct key bad_low;
};

static int on_ref(void *arg, struct ref ref, unsigned level)
{
	struct count *c = arg;

	c->refs++;
	return ref.addr == c->prune_addr || (c->prune_level && level == c->prune_level - 1);
}

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	struct count *c = arg;

	(void)key, (void)val, (void)len;
	c->items++;
	return c->stop && (int)c->items == c->stop_at_item ? c->stop : 0;
}

static int on_bad(void *arg, struct ref ref, unsigned level, struct key low, int err)
{
	struct count *c = arg;

	(void)ref, (void)level;
	c->bad++;
	c->bad_err = err;
	c->bad_low = low;
	return c->bad_answer;
}

static const struct walk_ops ops = { .ref = on_ref, .item = on_item, .bad = on_bad };

static int walk(struct treekit *tk, struct count *c)
{
	return tree_walk(tk->cache, TREE_FILES, &tk->tree.root, &ops, c);
}

/* The n-th leaf reference of a tree with at least two levels. */
static struct ref a_leaf(struct treekit *tk, unsigned n)
{
	struct ref ref = tk->tree.root.ref;
	struct node *node;

	for (unsigned level = tk->tree.root.levels - 1;; level--) {
		unsigned slot = epoch_enter(tk->epoch);

		assert_int_equal(cache_load(tk->cache, ref, TREE_FILES, level, KEY_MIN, &node), 0);
		epoch_exit(tk->epoch, slot);
		ref = node_child_ref(node, level == 1 ? n : 0);
		node_unpin(node);
		if (level == 1)
			return ref;
	}
}

static void a_walk_sees_every_node_and_item(void **state)
{
	struct treekit tk;
	struct count c = { .refs = 0 };
	struct ref *refs;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_reopen(&tk);
	assert_int_equal(walk(&tk, &c), 0);
	assert_int_equal(c.items, ITEMS);
	assert_int_equal(c.refs, treekit_refs(&tk, &tk.tree.root, &refs));
	assert_int_equal(atomic_load(&tk.bdev->read_blocks), c.refs);
	mem_free(refs);
	treekit_close(&tk);
}

static void what_is_pruned_is_not_read(void **state)
{
	struct treekit tk;
	struct count c = { .prune_level = 1 };

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_reopen(&tk);
	assert_int_equal(walk(&tk, &c), 0);
	assert_int_equal(c.items, 0);
	assert_true(c.refs > 50);
	assert_true(atomic_load(&tk.bdev->read_blocks) < 5);
	treekit_close(&tk);
}

static void a_walk_stops_where_it_is_told(void **state)
{
	struct treekit tk;
	struct count c = { .stop = -EINTR, .stop_at_item = 777 };

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	assert_int_equal(walk(&tk, &c), -EINTR);
	assert_int_equal(c.items, 777);
	treekit_close(&tk);
}

static void a_walk_goes_on_behind_a_bad_node(void **state)
{
	struct treekit tk;
	struct count c = { .bad_answer = 0 };
	unsigned lines = 0;
	struct ref leaf;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_write(&tk);
	leaf = a_leaf(&tk, 3);
	simdev_flip(tk.sim, leaf.addr, 999);
	treekit_drop_cache(&tk);
	err_set_sink(quiet, &lines);
	assert_int_equal(walk(&tk, &c), 0);
	assert_int_equal(c.bad, 1);
	assert_int_equal(c.bad_err, -EBADMSG);
	assert_in_range(c.items, ITEMS - 90, ITEMS - 40);
	c = (struct count){ .bad_answer = -EBADMSG };
	assert_int_equal(walk(&tk, &c), -EBADMSG);
	assert_int_equal(tree_verify(tk.cache, TREE_FILES, &tk.tree.root), -EBADMSG);
	err_set_sink(NULL, NULL);
	assert_true(lines > 0);
	treekit_close(&tk);
}

/* Gives a leaf another one's place: checksum and address are right, but its keys are not its parent's. */
static void keys_outside_their_parents_bounds_are_found(void **state)
{
	struct treekit tk;
	struct count c = { .bad_answer = 0 };
	struct change ch = { .key = key_of(100), .op = CHANGE_DEL };
	struct tree_plan plan = { .changes = &ch, .n = 1 };
	struct miss miss = { .n_ahead = 0 };
	struct node *parent;
	struct ref later;
	unsigned slot, lines = 0;
	int err;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, 100);
	assert_int_equal(tk.tree.root.levels, 2);
	later = a_leaf(&tk, 1);
	slot = epoch_enter(tk.epoch);
	parent = cache_lookup(tk.cache, tk.tree.root.ref);
	assert_non_null(parent);
	node_set_ref(parent, 0, later);
	err_set_sink(quiet, &lines);
	ch.key = key_of(1);
	err = tree_plan(&tk.tree, &plan, &miss);
	assert_int_equal(err, -EUCLEAN);
	epoch_exit(tk.epoch, slot);
	tree_miss_release(&miss);
	assert_int_equal(walk(&tk, &c), 0);
	assert_int_equal(c.bad, 1);
	assert_int_equal(c.bad_err, -EUCLEAN);
	assert_int_equal(tree_verify(tk.cache, TREE_FILES, &tk.tree.root), -EUCLEAN);
	err_set_sink(NULL, NULL);
	treekit_close(&tk);
}

/* A reference to a node of another level is damage, not a crash and not an answer. */
static void a_node_of_another_level_is_found(void **state)
{
	struct treekit tk;
	struct miss miss = { .n_ahead = 0 };
	struct root root;
	const void *val;
	unsigned slot, lines = 0;
	size_t len;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	root = tk.tree.root;
	root.levels--;
	slot = epoch_enter(tk.epoch);
	assert_int_equal(tree_get(tk.cache, &root, TREE_FILES, key_of(1), &val, &len, &miss), -EAGAIN);
	err_set_sink(quiet, &lines);
	assert_int_equal(tree_fault(tk.cache, &miss), -EUCLEAN);
	root = tk.tree.root;
	assert_int_equal(tree_get(tk.cache, &root, TREE_SYSTEM, key_of(1), &val, &len, &miss), -EAGAIN);
	assert_int_equal(tree_fault(tk.cache, &miss), -EUCLEAN);
	err_set_sink(NULL, NULL);
	epoch_exit(tk.epoch, slot);
	tree_miss_release(&miss);
	treekit_close(&tk);
}

/* ---- who owns what leaves the tree ---- */

/* Plans and applies with supplies of the caller's; leaves the epoch. */
struct hand {
	struct tree_plan plan;
	struct miss miss;
	struct node *frames[64];
	uint64_t addrs[64];
	struct released released[256];
	unsigned slot;
};

static void hand_plan(struct treekit *tk, struct tree *t, struct hand *h, const struct change *ch, size_t n)
{
	memset(h, 0, sizeof(*h));
	h->plan = (struct tree_plan){
		.changes = ch, .n = n, .frames = h->frames, .addrs = h->addrs, .released = h->released, .n_released_max = 256,
	};
	assert_int_equal(cache_reserve(tk->cache, h->frames, 64), 0);
	h->slot = epoch_enter(tk->epoch);
	assert_int_equal(tree_plan(t, &h->plan, &h->miss), 0);
	assert_in_range(h->plan.need, 0, 64);
	h->plan.supply = 64;
	for (unsigned i = 0; i < 64; i++) {
		h->addrs[i] = tk->next_addr;
		tk->next_addr += tk->opt.node_size / BLOCK_SIZE;
	}
}

static void hand_apply(struct treekit *tk, struct tree *t, struct hand *h)
{
	tree_apply(t, &h->plan);
	epoch_exit(tk->epoch, h->slot);
	tree_miss_release(&h->miss);
	cache_unreserve(tk->cache, h->frames, h->plan.supply);
}

static void another_trees_dirty_nodes_are_left_to_it(void **state)
{
	struct change ch = { .key = key_of(7), .op = CHANGE_PUT, .val = "mine", .len = 4 };
	struct treekit tk;
	struct tree txn;
	struct root base;
	struct hand h;
	size_t dirty;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	base = treekit_freeze(&tk);
	dirty = tk.tree.dirty_nodes;
	tree_init(&txn, tk.cache, TREE_FILES, base, tk.next_gen++, false);
	hand_plan(&tk, &txn, &h, &ch, 1);
	hand_apply(&tk, &txn, &h);
	assert_int_equal(h.plan.n_released, LEVELS);
	for (unsigned i = 0; i < LEVELS; i++)
		assert_null(h.released[i].node);
	assert_int_equal(txn.dirty_nodes, LEVELS);
	assert_int_equal(tk.tree.dirty_nodes, dirty);
	/* Its own it gives away. */
	ch.val = "again";
	ch.len = 5;
	txn.gen = tk.next_gen++;
	hand_plan(&tk, &txn, &h, &ch, 1);
	hand_apply(&tk, &txn, &h);
	assert_int_equal(h.plan.n_released, LEVELS);
	for (unsigned i = 0; i < LEVELS; i++)
		assert_non_null(h.released[i].node);
	assert_int_equal(txn.dirty_nodes, LEVELS);
	treekit_close(&tk);
}

static void nodes_being_written_are_left_to_the_checkpoint(void **state)
{
	static const unsigned flags[] = { NODE_CHECKPOINT, NODE_SEALED, NODE_CHECKPOINT | NODE_SEALED };
	struct change ch = { .key = key_of(7), .op = CHANGE_PUT, .val = "new", .len = 3 };

	(void)state;
	for (unsigned f = 0; f < ARRAY_LEN(flags); f++) {
		struct treekit tk;
		struct node *n;
		struct hand h;

		treekit_open(&tk, NULL);
		fill(&tk, ITEMS);
		if (flags[f] & NODE_CHECKPOINT)
			treekit_freeze(&tk);
		while ((n = TAILQ_FIRST(&tk.tree.dirty))) {
			TAILQ_REMOVE(&tk.tree.dirty, n, list);
			tk.tree.dirty_nodes--;
			atomic_fetch_or(&n->state, flags[f]);
		}
		hand_plan(&tk, &tk.tree, &h, &ch, 1);
		assert_int_equal(h.plan.need, LEVELS);
		hand_apply(&tk, &tk.tree, &h);
		assert_int_equal(h.plan.n_released, LEVELS);
		for (unsigned i = 0; i < LEVELS; i++)
			assert_null(h.released[i].node);
		assert_int_equal(tk.tree.dirty_nodes, LEVELS);
		treekit_close(&tk);
	}
}

static void nodes_evicted_after_planning_are_still_found(void **state)
{
	struct change ch[] = {
		{ .key = key_of(7), .op = CHANGE_PUT, .val = "new", .len = 3 },
		{ .key = key_of(2000), .op = CHANGE_DEL },
		{ .key = key_of(3000), .end = key_of(3500), .op = CHANGE_DEL_RANGE },
	};
	struct treekit tk;
	struct ref *refs;
	struct hand h;
	size_t n;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_write(&tk);
	n = treekit_refs(&tk, &tk.tree.root, &refs);
	hand_plan(&tk, &tk.tree, &h, ch, ARRAY_LEN(ch));
	for (size_t i = 0; i < n; i++)
		cache_kill(tk.cache, cache_lookup(tk.cache, refs[i]));
	for (size_t i = 0; i < n; i++)
		assert_null(cache_lookup(tk.cache, refs[i]));
	hand_apply(&tk, &tk.tree, &h);
	assert_int_equal(tree_verify(tk.cache, TREE_FILES, &tk.tree.root), 0);
	mem_free(refs);
	treekit_close(&tk);
}

/* ---- failures ---- */

static void planning_without_memory_changes_nothing(void **state)
{
	struct change ch = { .key = key_of(7), .op = CHANGE_DEL };
	struct tree_plan plan = { .changes = &ch, .n = 1 };
	struct miss miss = { .n_ahead = 0 };
	struct treekit tk;
	struct root before;
	unsigned slot;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_write(&tk);
	before = tk.tree.root;
	slot = epoch_enter(tk.epoch);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_int_equal(tree_plan(&tk.tree, &plan, &miss), -ENOMEM);
	assert_true(failmem_stop());
	assert_true(root_equal(before, tk.tree.root));
	assert_int_equal(tree_plan(&tk.tree, &plan, &miss), 0);
	epoch_exit(tk.epoch, slot);
	tree_miss_release(&miss);
	treekit_close(&tk);
}

static void a_fault_without_memory_can_be_tried_again(void **state)
{
	struct miss miss = { .n_ahead = 0 };
	struct treekit tk;
	const void *val;
	unsigned slot;
	size_t len;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_reopen(&tk);
	slot = epoch_enter(tk.epoch);
	assert_int_equal(tree_get(tk.cache, &tk.tree.root, TREE_FILES, key_of(1), &val, &len, &miss), -EAGAIN);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_int_equal(tree_fault(tk.cache, &miss), -ENOMEM);
	assert_true(failmem_stop());
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(tree_fault(tk.cache, &miss), 0);
	epoch_exit(tk.epoch, slot);
	tree_miss_release(&miss);
	treekit_close(&tk);
}

static void read_errors_are_passed_on(void **state)
{
	struct miss miss = { .n_ahead = 0 };
	struct treekit tk;
	unsigned slot, lines = 0;
	const void *val;
	size_t len;

	(void)state;
	treekit_open(&tk, NULL);
	fill(&tk, ITEMS);
	treekit_reopen(&tk);
	err_set_sink(quiet, &lines);
	simdev_add_fault(tk.sim, &(struct simdev_fault){ .op = SIMDEV_READ, .times = 1 });
	slot = epoch_enter(tk.epoch);
	assert_int_equal(tree_get(tk.cache, &tk.tree.root, TREE_FILES, key_of(1), &val, &len, &miss), -EAGAIN);
	assert_int_equal(tree_fault(tk.cache, &miss), -EIO);
	assert_int_equal(tree_fault(tk.cache, &miss), 0);
	epoch_exit(tk.epoch, slot);
	err_set_sink(NULL, NULL);
	assert_int_equal(lines, 1);
	tree_miss_release(&miss);
	treekit_close(&tk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_walk_sees_every_node_and_item),
		cmocka_unit_test(what_is_pruned_is_not_read),
		cmocka_unit_test(a_walk_stops_where_it_is_told),
		cmocka_unit_test(a_walk_goes_on_behind_a_bad_node),
		cmocka_unit_test(keys_outside_their_parents_bounds_are_found),
		cmocka_unit_test(a_node_of_another_level_is_found),
		cmocka_unit_test(another_trees_dirty_nodes_are_left_to_it),
		cmocka_unit_test(nodes_being_written_are_left_to_the_checkpoint),
		cmocka_unit_test(nodes_evicted_after_planning_are_still_found),
		cmocka_unit_test(planning_without_memory_changes_nothing),
		cmocka_unit_test(a_fault_without_memory_can_be_tried_again),
		cmocka_unit_test(read_errors_are_passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <pthread.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/cachekit.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"

#define SIZE 4096u

/* ---- finding ---- */

static void a_node_is_found_by_address_and_generation(void **state)
{
	struct treekit tk;
	struct node *n;

	(void)state;
	treekit_open(&tk, NULL);
	n = cachekit_born(&tk, 16, 0, CACHEKIT_GEN);
	assert_true(cachekit_resident(&tk, (struct ref){ 16, 0, CACHEKIT_GEN }));
	assert_false(cachekit_resident(&tk, (struct ref){ 16, 0, CACHEKIT_GEN + 1 }));
	assert_false(cachekit_resident(&tk, (struct ref){ 17, 0, CACHEKIT_GEN }));
	assert_int_equal(cache_dirty(tk.cache), 1);
	cache_kill(tk.cache, n);
	assert_false(cachekit_resident(&tk, (struct ref){ 16, 0, CACHEKIT_GEN }));
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
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	assert_int_equal(cache_dirty(tk.cache), 0);
	treekit_drop_cache(&tk);
	assert_int_equal(cachekit_load(&tk, ref, &n), 0);
	cachekit_assert_content(n, ref);
	assert_int_equal(cachekit_load(&tk, ref, &again), 0);
	assert_ptr_equal(n, again);
	assert_int_equal(atomic_load(&n->pins), 2);
	node_unpin(n);
	node_unpin(n);
	assert_int_equal(cachekit_stats(&tk).misses, 1);
	treekit_close(&tk);
}

static void a_born_node_takes_the_place_of_a_stale_one(void **state)
{
	struct treekit tk;
	struct ref ref;

	(void)state;
	treekit_open(&tk, NULL);
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	assert_true(cachekit_resident(&tk, ref));
	cachekit_born(&tk, 16, 0, CACHEKIT_GEN + 1);
	assert_false(cachekit_resident(&tk, ref));
	assert_true(cachekit_resident(&tk, (struct ref){ 16, 0, CACHEKIT_GEN + 1 }));
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
		cachekit_written(&tk, 16 + a, 0, CACHEKIT_GEN);
	assert_true(cachekit_stats(&tk).evictions > 900);
	for (unsigned i = 0; i < 5000; i++) {
		struct ref ref = { 17 + rng_below(&rng, 1000), 0, CACHEKIT_GEN };

		assert_int_equal(cachekit_load(&tk, ref, &n), 0);
		cachekit_assert_content(n, ref);
		node_unpin(n);
	}
	assert_int_equal(cachekit_stats(&tk).frames, 64);
	assert_true(cachekit_stats(&tk).bytes < 64 * (SIZE + 256) + 4096);
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
		cachekit_written(&tk, 16 + a, 0, CACHEKIT_GEN);
	for (uint64_t a = 0; a < 10; a++) {
		assert_int_equal(cachekit_load(&tk, (struct ref){ 16 + a, 0, CACHEKIT_GEN }, &n), 0);
		node_unpin(n);
	}
	before = cachekit_stats(&tk).misses;
	for (uint64_t a = 10; a < 1000; a++) {
		/* Ten nodes used all the time, and a scan. */
		for (uint64_t hot = 0; hot < 10; hot++) {
			assert_int_equal(cachekit_load(&tk, (struct ref){ 16 + hot, 0, CACHEKIT_GEN }, &n), 0);
			node_unpin(n);
		}
		assert_int_equal(cachekit_load(&tk, (struct ref){ 16 + a, 0, CACHEKIT_GEN }, &n), 0);
		node_unpin(n);
	}
	assert_in_range(cachekit_stats(&tk).misses - before, 980, 1000);
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
		cachekit_written(&tk, 16 + a, 0, CACHEKIT_GEN);
	for (uint64_t a = 0; a < 40; a++)
		assert_int_equal(cachekit_load(&tk, (struct ref){ 16 + a, 0, CACHEKIT_GEN }, &pinned[a]), 0);
	for (uint64_t a = 40; a < 1000; a++) {
		assert_int_equal(cachekit_load(&tk, (struct ref){ 16 + a, 0, CACHEKIT_GEN }, &n), 0);
		node_unpin(n);
	}
	for (uint64_t a = 0; a < 40; a++) {
		assert_true(cachekit_resident(&tk, (struct ref){ 16 + a, 0, CACHEKIT_GEN }));
		cachekit_assert_content(pinned[a], (struct ref){ 16 + a, 0, CACHEKIT_GEN });
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
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	assert_int_equal(cachekit_load(&tk, ref, &n), 0);
	cache_kill(tk.cache, n);
	assert_false(cachekit_resident(&tk, ref));
	for (uint64_t a = 20; a < 500; a++)
		cachekit_written(&tk, a, 0, CACHEKIT_GEN);
	cachekit_assert_content(n, ref);
	/* It can be loaded again beside it. */
	assert_int_equal(cachekit_load(&tk, ref, &other), 0);
	assert_ptr_not_equal(n, other);
	node_unpin(other);
	node_unpin(n);
	for (uint64_t a = 500; a < 900; a++)
		cachekit_written(&tk, a, 0, CACHEKIT_GEN);
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
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	assert_int_equal(cache_reserve(tk.cache, frames, 63), 0);
	slot = epoch_enter(tk.epoch);
	n = cache_lookup(tk.cache, ref);
	assert_non_null(n);
	cache_kill(tk.cache, n);
	/* No frame is free, and that one must not be taken. */
	assert_int_equal(cache_load(tk.cache, (struct ref){ 99, 0, CACHEKIT_GEN }, TREE_FILES, 0, KEY_MIN, &n), -ENOBUFS);
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
		nodes[i] = cachekit_born(&tk, 16 + i, 0, CACHEKIT_GEN);
	assert_int_equal(cache_breathe(tk.cache), -EBUSY);
	assert_int_equal(cache_reserve(tk.cache, &frame, 1), -EBUSY);
	assert_int_equal(cachekit_load(&tk, (struct ref){ 10, 0, CACHEKIT_GEN }, &n), -EBUSY);
	assert_int_equal(cache_dirty(tk.cache), 64);
	assert_int_equal(cachekit_write(&tk, nodes, 64), 0);
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

/* ---- without memory ---- */

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
	ref = cachekit_written(&tk, 16, 0, CACHEKIT_GEN);
	treekit_drop_cache(&tk);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_int_equal(cachekit_load(&tk, ref, &n), -ENOMEM);
	assert_true(failmem_stop());
	assert_int_equal(cachekit_load(&tk, ref, &n), 0);
	cachekit_assert_content(n, ref);
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
		struct ref ref = { 16 + rng_below(&rng, THREAD_NODES), 0, CACHEKIT_GEN };
		struct node *n;
		unsigned slot;

		if (rng_chance(&rng, 1, 20)) {
			struct ref refs[8];
			struct key lows[8];

			for (unsigned k = 0; k < 8; k++) {
				refs[k] = (struct ref){ 16 + rng_below(&rng, THREAD_NODES), 0, CACHEKIT_GEN };
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
				cachekit_assert_content(n, ref);
			epoch_exit(tk->epoch, slot);
			continue;
		}
		assert_int_equal(cachekit_load(tk, ref, &n), 0);
		cachekit_assert_content(n, ref);
		node_unpin(n);
	}
	return NULL;
}

/* Meanwhile nodes are born, some written, some killed, at addresses used again and again. */
static void *come_and_go(void *arg)
{
	struct member *me = arg;
	struct treekit *tk = &me->crowd->tk;
	uint64_t gen = CACHEKIT_GEN + me->seed * 1000000;
	struct rng rng;

	rng_seed(&rng, me->seed);
	while (!atomic_load(&me->crowd->stop)) {
		uint64_t addr = 16 + THREAD_NODES + me->seed * 16 + rng_below(&rng, 8);
		struct node *n = cachekit_born(tk, addr, 0, ++gen);

		if (rng_chance(&rng, 1, 2)) {
			assert_int_equal(cachekit_write(tk, &n, 1), 0);
			if (rng_chance(&rng, 1, 2))
				continue;
			assert_int_equal(cachekit_load(tk, (struct ref){ addr, 0, gen }, &n), 0);
			cachekit_assert_content(n, (struct ref){ addr, 0, gen });
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
		cachekit_written(&crowd.tk, 16 + a, 0, CACHEKIT_GEN);
	for (unsigned i = 0; i < 5; i++) {
		members[i] = (struct member){ &crowd, i };
		assert_int_equal(pthread_create(&threads[i], NULL, i < 3 ? read_at_random : come_and_go, &members[i]), 0);
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&crowd.stop, true);
	for (unsigned i = 3; i < 5; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(cachekit_stats(&crowd.tk).frames, 64);
	assert_int_equal(cache_dirty(crowd.tk.cache), 0);
	treekit_close(&crowd.tk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_is_found_by_address_and_generation),
		cmocka_unit_test(a_written_node_is_loaded_as_it_was),
		cmocka_unit_test(a_born_node_takes_the_place_of_a_stale_one),
		cmocka_unit_test(more_nodes_than_frames_take_turns),
		cmocka_unit_test(what_is_used_stays),
		cmocka_unit_test(a_pinned_node_stays),
		cmocka_unit_test(a_pinned_node_that_leaves_the_cache_keeps_its_content),
		cmocka_unit_test(a_frame_is_not_used_again_while_a_reader_may_see_it),
		cmocka_unit_test(a_cache_full_of_dirty_nodes_says_so),
		cmocka_unit_test(more_frames_than_there_are_cannot_be_reserved),
		cmocka_unit_test(opening_without_memory_fails_cleanly),
		cmocka_unit_test(without_memory_for_frames_nothing_is_lost),
		cmocka_unit_test(threads_share_a_cache_that_is_too_small),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

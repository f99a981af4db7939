/*
 * One writer changes a live tree under its lock, one thread freezes and writes it, and readers go through the live root
 * under the lock and through frozen roots without any. Every value says which key it belongs to and in which round it was
 * written; a frozen root must show the state of one round.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/test.h"
#include "tests/kit/treekit.h"

#define KEYS 20000u
#define ROUNDS 400u
#define FREEZE_EVERY 8u /* rounds, at least */

struct value {
	uint64_t n, round;
	unsigned char rest[48];
};

struct scene {
	struct treekit tk;
	pthread_rwlock_t lock; /* of the tree */
	atomic_bool stop;

	pthread_mutex_t frozen_lock;
	/* Guarded by frozen_lock: */
	struct root frozen;
	uint64_t frozen_round;

	uint64_t round; /* guarded by lock */
};

static struct key key_of(uint64_t n)
{
	return key_make(1 + n / 100, 1, n % 100);
}

static void assert_value(struct key key, const void *val, size_t len, uint64_t round_max)
{
	struct value v;

	assert_int_equal(len, sizeof(v));
	memcpy(&v, val, sizeof(v));
	assert_true(key_equal(key, key_of(v.n)));
	assert_true(v.round <= round_max);
}

static uint64_t frozen_round(struct scene *s)
{
	uint64_t round;

	pthread_mutex_lock(&s->frozen_lock);
	round = s->frozen_round;
	pthread_mutex_unlock(&s->frozen_lock);
	return round;
}

static void *change(void *arg)
{
	struct scene *s = arg;
	struct change ch[40];
	struct value vals[40];
	struct rng rng;

	rng_seed(&rng, 1);
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		uint64_t n = rng_below(&rng, KEYS);
		unsigned count = 1 + (unsigned)rng_below(&rng, 40);

		for (unsigned i = 0; i < count; i++, n += 1 + rng_below(&rng, 30)) {
			vals[i] = (struct value){ .n = n, .round = round };
			ch[i] = (struct change){ .key = key_of(n), .op = CHANGE_PUT, .val = &vals[i], .len = sizeof(vals[i]) };
			if (rng_chance(&rng, 1, 3)) {
				ch[i].op = CHANGE_DEL;
			} else if (rng_chance(&rng, 1, 30)) {
				ch[i].op = CHANGE_DEL_RANGE;
				n += 100;
				ch[i].end = key_of(n);
			}
		}
		pthread_rwlock_wrlock(&s->lock);
		s->round = round;
		treekit_change(&s->tk, ch, count);
		pthread_rwlock_unlock(&s->lock);
		while (frozen_round(s) + FREEZE_EVERY < round)
			sched_yield();
	}
	atomic_store(&s->stop, true);
	return NULL;
}

/* A checkpoint, as far as nodes go. */
static void *freeze_and_write(void *arg)
{
	struct scene *s = arg;
	struct treekit *tk = &s->tk;

	while (!atomic_load(&s->stop)) {
		struct node **nodes, *n;
		size_t count = 0;

		pthread_rwlock_wrlock(&s->lock);
		nodes = mem_zalloc_array(tk->tree.dirty_nodes + tk->n_old + 1, sizeof(*nodes));
		assert_non_null(nodes);
		while ((n = TAILQ_FIRST(&tk->tree.dirty))) {
			TAILQ_REMOVE(&tk->tree.dirty, n, list);
			tk->tree.dirty_nodes--;
			nodes[count++] = n;
		}
		while (tk->n_old)
			nodes[count++] = tk->old[--tk->n_old];
		for (size_t i = 0; i < count; i++)
			atomic_fetch_or(&nodes[i]->state, NODE_SEALED | NODE_CHECKPOINT);
		pthread_mutex_lock(&s->frozen_lock);
		s->frozen = treekit_freeze(tk);
		s->frozen_round = s->round;
		pthread_mutex_unlock(&s->frozen_lock);
		pthread_rwlock_unlock(&s->lock);

		assert_int_equal(cache_write(tk->cache, nodes, count), 0);
		for (size_t i = 0; i < count; i++)
			atomic_fetch_and(&nodes[i]->state, ~(unsigned)NODE_CHECKPOINT);
		mem_free(nodes);
	}
	return NULL;
}

static int fault(struct treekit *tk, struct miss *miss, unsigned slot)
{
	int err = tree_fault(tk->cache, miss);

	epoch_exit(tk->epoch, slot);
	return err == -ENOBUFS ? cache_breathe(tk->cache) : err;
}

static void *read_live(void *arg)
{
	struct scene *s = arg;
	struct treekit *tk = &s->tk;
	struct rng rng;

	rng_seed(&rng, 2);
	while (!atomic_load(&s->stop)) {
		struct key key = key_of(rng_below(&rng, KEYS)), at;
		struct miss miss = { .n_ahead = 0 };
		const void *val;
		size_t len;
		int err;

		do {
			unsigned slot;

			pthread_rwlock_rdlock(&s->lock);
			slot = epoch_enter(tk->epoch);
			if (rng_chance(&rng, 1, 2)) {
				at = key;
				err = tree_get(tk->cache, &tk->tree.root, TREE_FILES, key, &val, &len, &miss);
			} else {
				err = tree_floor(tk->cache, &tk->tree.root, TREE_FILES, key, &at, &val, &len, &miss);
			}
			if (!err)
				assert_value(at, val, len, s->round);
			pthread_rwlock_unlock(&s->lock);
			if (err == -EAGAIN) {
				int e = fault(tk, &miss, slot);

				assert_int_equal(e, 0);
			} else {
				epoch_exit(tk->epoch, slot);
			}
		} while (err == -EAGAIN);
		assert_true(err == 0 || err == -ENOENT);
		tree_miss_release(&miss);
	}
	return NULL;
}

static void *scan_live(void *arg)
{
	struct scene *s = arg;
	struct treekit *tk = &s->tk;
	struct cursor c;

	assert_int_equal(cursor_init(&c, tk->cache, TREE_FILES, true), 0);
	while (!atomic_load(&s->stop)) {
		struct miss miss = { .n_ahead = 0 };
		struct key next = KEY_MIN, key;
		const void *val;
		size_t len;
		int err;

		for (;;) {
			unsigned slot;

			pthread_rwlock_rdlock(&s->lock);
			slot = epoch_enter(tk->epoch);
			err = cursor_seek(&c, &tk->tree.root, next, &miss);
			pthread_rwlock_unlock(&s->lock);
			if (err == -EAGAIN) {
				assert_int_equal(fault(tk, &miss, slot), 0);
				continue;
			}
			epoch_exit(tk->epoch, slot);
			if (err)
				break;
			while (cursor_item(&c, &key, &val, &len) == 0)
				assert_value(key, val, len, ROUNDS);
			if (c.last)
				break;
			next = c.next;
		}
		tree_miss_release(&miss);
	}
	cursor_release(&c);
	return NULL;
}

struct sum {
	uint64_t items, round_max;
};

static int add_item(void *arg, struct key key, const void *val, size_t len)
{
	struct sum *sum = arg;

	assert_value(key, val, len, sum->round_max);
	sum->items++;
	return 0;
}

static void *read_frozen(void *arg)
{
	static const struct walk_ops ops = { .item = add_item };
	struct scene *s = arg;
	struct treekit *tk = &s->tk;
	struct root last = { .levels = 0 };
	uint64_t last_items = 0;

	while (!atomic_load(&s->stop)) {
		struct diff_item item;
		struct sum sum = { 0, 0 };
		struct root root;
		struct diff *d;
		uint64_t items;
		int err;

		pthread_mutex_lock(&s->frozen_lock);
		root = s->frozen;
		sum.round_max = s->frozen_round;
		pthread_mutex_unlock(&s->frozen_lock);
		assert_int_equal(tree_walk(tk->cache, TREE_FILES, &root, &ops, &sum), 0);

		/* The difference to the one before makes one out of the other. */
		items = last_items;
		assert_int_equal(diff_open(tk->cache, TREE_FILES, &last, &root, &d), 0);
		while ((err = diff_next(d, &item)) == 0)
			items += !item.a - !item.b;
		assert_int_equal(err, 1);
		diff_close(d);
		assert_int_equal(items, sum.items);
		last = root;
		last_items = sum.items;
	}
	return NULL;
}

static void readers_of_all_kinds_and_a_writer(void **state)
{
	static void *(*const roles[])(void *) = { change, freeze_and_write, read_live, scan_live, read_frozen, read_frozen };
	struct treekit_options opt = { .frames = 800, .nodes = 1 << 20 };
	pthread_t threads[ARRAY_LEN(roles)];
	struct scene s = { .stop = false };
	struct cache_stats stats;

	(void)state;
	treekit_open(&s.tk, &opt);
	pthread_rwlock_init(&s.lock, NULL);
	pthread_mutex_init(&s.frozen_lock, NULL);
	for (uint64_t n = 0; n < KEYS; n++) {
		struct value v = { .n = n };

		treekit_put(&s.tk, key_of(n), &v, sizeof(v));
	}
	treekit_write(&s.tk);
	s.frozen = treekit_freeze(&s.tk);
	for (unsigned i = 0; i < ARRAY_LEN(roles); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, roles[i], &s), 0);
	for (unsigned i = 0; i < ARRAY_LEN(roles); i++)
		pthread_join(threads[i], NULL);
	cache_stats(s.tk.cache, &stats);
	assert_true(stats.evictions > 0);
	assert_int_equal(tree_verify(s.tk.cache, TREE_FILES, &s.tk.tree.root), 0);
	treekit_close(&s.tk);
	pthread_rwlock_destroy(&s.lock);
	pthread_mutex_destroy(&s.frozen_lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(readers_of_all_kinds_and_a_writer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* t_lookups.c - counts of references: against a model, when memory runs out, from many threads */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fs/lookups.h"
#include "tests/kit/failmem.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

static void what_was_never_held_is_not_held(void **state)
{
	struct lookups *l;

	(void)state;
	assert_int_equal(lookups_open(&l), 0);
	assert_false(lookups_held(l, 1));
	assert_false(lookups_mark(l, 1));
	assert_false(lookups_put(l, 1, 1));
	assert_int_equal(lookups_count(l), 0);
	lookups_close(l);
	lookups_close(NULL);
}

struct put_row {
	const char *name;
	unsigned gets;
	bool mark;
	uint64_t puts[3];
	bool results[3];
	bool held;
};

static const struct put_row put_rows[] = {
	{ "the_last_put_of_a_marked_node_says_so", 2, true, { 1, 1 }, { false, true }, false },
	{ "a_node_that_is_not_marked_goes_silently", 2, false, { 1, 1 }, { false, false }, false },
	{ "puts_can_be_many_at_once", 5, true, { 3, 2 }, { false, true }, false },
	{ "more_puts_than_gets_take_all_there_are", 2, true, { 7, 1 }, { true, false }, false },
	{ "a_put_of_none_changes_nothing", 2, true, { 0, 1, 0 }, { false, false, false }, true },
	{ "the_largest_put_is_no_overflow", 3, true, { UINT64_MAX }, { true }, false },
};

static void put_one(void **state)
{
	const struct put_row *row = *state;
	struct lookups *l;

	assert_int_equal(lookups_open(&l), 0);
	for (unsigned i = 0; i < row->gets; i++) {
		assert_int_equal(lookups_get(l, 77), 0);
		if (row->mark && !i)
			assert_true(lookups_mark(l, 77));
	}
	for (unsigned i = 0; i < ARRAY_LEN(row->puts); i++)
		assert_int_equal(lookups_put(l, 77, row->puts[i]), row->results[i]);
	assert_int_equal(lookups_held(l, 77), row->held);
	assert_int_equal(lookups_count(l), row->held);
	lookups_close(l);
}

static void a_mark_ends_with_the_last_reference(void **state)
{
	struct lookups *l;

	(void)state;
	assert_int_equal(lookups_open(&l), 0);
	assert_int_equal(lookups_get(l, 5), 0);
	assert_true(lookups_mark(l, 5));
	assert_true(lookups_put(l, 5, 1));
	assert_int_equal(lookups_get(l, 5), 0);
	assert_false(lookups_put(l, 5, 1));
	lookups_close(l);
}

/* ---- against a model ---- */

#define NODES 5000u

struct model {
	uint64_t node, count;
	bool mark;
};

/* Nodes of several views, dense and far apart, so that tables have long runs and runs around their ends. */
static uint64_t node_of(unsigned i)
{
	if (i % 3 == 0)
		return 1 + i;
	if (i % 3 == 1)
		return UINT64_C(1) << 48 | i;
	return rng_mix(3, i) | 1;
}

static void step(struct lookups *l, struct rng *rng, struct model *m)
{
	uint64_t n;

	switch (rng_below(rng, 8)) {
	case 0:
		assert_int_equal(lookups_mark(l, m->node), m->count > 0);
		m->mark = m->count > 0;
		break;
	case 1:
	case 2:
	case 3:
		n = rng_below(rng, 4);
		assert_int_equal(lookups_put(l, m->node, n), m->count && n >= m->count && m->mark);
		m->count = n < m->count ? m->count - n : 0;
		m->mark = m->mark && m->count;
		break;
	default:
		assert_int_equal(lookups_get(l, m->node), 0);
		m->count++;
	}
	assert_int_equal(lookups_held(l, m->node), m->count > 0);
}

static void counts_are_those_of_a_model(void **state)
{
	struct model *m = calloc(NODES, sizeof(*m));
	struct lookups *l;
	struct rng rng;
	size_t held = 0;

	(void)state;
	rng_seed_env(&rng, 21);
	assert_int_equal(lookups_open(&l), 0);
	for (unsigned i = 0; i < NODES; i++)
		m[i].node = node_of(i);
	for (unsigned i = 0; i < 400000; i++) {
		/* Few nodes, then all, then few: tables grow, and empty again. */
		unsigned among = i < 100000 ? 300 : i < 300000 ? NODES : 1000;

		step(l, &rng, &m[rng_below(&rng, among)]);
	}
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(lookups_held(l, m[i].node), m[i].count > 0);
		held += m[i].count > 0;
	}
	assert_int_equal(lookups_count(l), held);
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(lookups_put(l, m[i].node, UINT64_MAX), m[i].mark);
	assert_int_equal(lookups_count(l), 0);
	lookups_close(l);
	free(m);
}

static void without_memory_what_is_held_stays_held(void **state)
{
	struct lookups *l;
	unsigned held = 0, refused = 0;

	(void)state;
	for (uint64_t k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = lookups_open(&l);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			break;
		}
		assert_int_equal(err, -ENOMEM);
	}
	for (unsigned i = 1; i <= 2000; i++)
		assert_int_equal(lookups_get(l, i), 0);
	failmem_start(1, FAILMEM_FROM_THEN_ON);
	for (unsigned i = 2001; i <= 20000; i++) {
		int err = lookups_get(l, i);

		assert_true(!err || err == -ENOMEM);
		held += !err;
		refused += err != 0;
		assert_int_equal(lookups_held(l, i), !err);
	}
	failmem_stop();
	assert_true(held > 0 && refused > 0);
	assert_int_equal(lookups_count(l), 2000 + held);
	for (unsigned i = 1; i <= 2000; i++)
		assert_true(lookups_held(l, i));
	for (unsigned i = 1; i <= 20000; i++) /* and it goes on */
		assert_int_equal(lookups_get(l, i), 0);
	assert_int_equal(lookups_count(l), 20000);
	lookups_close(l);
}

/* ---- threads ---- */

#define THREADS 4u
#define SHARED 64u
#define ROUNDS 20000u

struct worker {
	struct lookups *l;
	unsigned number;
	unsigned last; /* how often it was told to be the last */
	pthread_t thread;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng rng;

	rng_seed(&rng, w->number);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t node = 1 + rng_below(&rng, SHARED), own = 1000 + w->number * ROUNDS + i;

		if (lookups_get(w->l, node) || lookups_get(w->l, own) || !lookups_mark(w->l, node))
			abort();
		if (!lookups_held(w->l, node) || lookups_put(w->l, own, 1))
			abort();
		w->last += lookups_put(w->l, node, 1);
	}
	return NULL;
}

static void counts_survive_many_threads(void **state)
{
	struct worker w[THREADS];
	struct lookups *l;
	unsigned last = 0;

	(void)state;
	assert_int_equal(lookups_open(&l), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){ .l = l, .number = i };
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(w[i].thread, NULL);
		last += w[i].last;
	}
	assert_int_equal(lookups_count(l), 0);
	assert_true(last >= SHARED);
	lookups_close(l);
}

int main(void)
{
	enum { FIXED = 5 };
	struct CMUnitTest tests[FIXED + ARRAY_LEN(put_rows)] = {
		cmocka_unit_test(what_was_never_held_is_not_held),
		cmocka_unit_test(a_mark_ends_with_the_last_reference),
		cmocka_unit_test(counts_are_those_of_a_model),
		cmocka_unit_test(without_memory_what_is_held_stays_held),
		cmocka_unit_test(counts_survive_many_threads),
	};

	for (size_t i = 0; i < ARRAY_LEN(put_rows); i++)
		tests[FIXED + i] = TEST_ROW(put_rows[i].name, put_one, &put_rows[i]);
	return _cmocka_run_group_tests("lookups", tests, ARRAY_LEN(tests), NULL, NULL);
}

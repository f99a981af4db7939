#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "btree/epoch.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"

static int open_epoch(void **state)
{
	return epoch_open((struct epoch **)state);
}

static int close_epoch(void **state)
{
	epoch_close(*state);
	return 0;
}

static void with_no_one_inside_every_stamp_has_passed(void **state)
{
	struct epoch *ep = *state;

	assert_true(epoch_passed(ep, epoch_stamp(ep)));
	assert_true(epoch_passed(ep, 0));
}

static void a_stamp_waits_for_who_was_inside(void **state)
{
	struct epoch *ep = *state;
	unsigned slot = epoch_enter(ep);
	uint64_t stamp = epoch_stamp(ep);

	assert_false(epoch_passed(ep, stamp));
	assert_false(epoch_passed(ep, stamp));
	epoch_exit(ep, slot);
	assert_true(epoch_passed(ep, stamp));
}

static void a_stamp_does_not_wait_for_who_came_later(void **state)
{
	struct epoch *ep = *state;
	unsigned first = epoch_enter(ep);
	uint64_t stamp = epoch_stamp(ep);
	unsigned second = epoch_enter(ep);

	assert_int_not_equal(first, second);
	epoch_exit(ep, first);
	assert_true(epoch_passed(ep, stamp));
	assert_false(epoch_passed(ep, epoch_stamp(ep)));
	epoch_exit(ep, second);
}

static void a_newer_stamp_waits_although_an_older_one_has_passed(void **state)
{
	struct epoch *ep = *state;
	uint64_t old = epoch_stamp(ep);
	unsigned slot = epoch_enter(ep);
	uint64_t new = epoch_stamp(ep);

	assert_true(epoch_passed(ep, old));
	assert_false(epoch_passed(ep, new));
	assert_true(epoch_passed(ep, old));
	epoch_exit(ep, slot);
	assert_true(epoch_passed(ep, new));
}

static void stamps_never_decrease(void **state)
{
	struct epoch *ep = *state;
	uint64_t last = 0;

	for (int i = 0; i < 1000; i++) {
		uint64_t stamp = epoch_stamp(ep);

		assert_true(stamp >= last);
		last = stamp;
	}
}

static void all_slots_can_be_taken_and_are_waited_for(void **state)
{
	struct epoch *ep = *state;
	bool taken[512] = { false };
	unsigned slot[512];
	uint64_t stamp;

	for (int i = 0; i < 512; i++) {
		slot[i] = epoch_enter(ep);
		assert_in_range(slot[i], 0, 511);
		assert_false(taken[slot[i]]);
		taken[slot[i]] = true;
	}
	stamp = epoch_stamp(ep);
	for (int i = 0; i < 512; i++) {
		assert_false(epoch_passed(ep, stamp));
		epoch_exit(ep, slot[i]);
	}
	assert_true(epoch_passed(ep, stamp));
}

static void nested_entering_does_not_wander(void **state)
{
	struct epoch *ep = *state;
	unsigned outer = epoch_enter(ep);
	unsigned first = outer;

	for (int i = 0; i < 1000; i++) {
		epoch_exit(ep, epoch_enter(ep));
		epoch_exit(ep, outer);
		outer = epoch_enter(ep);
		assert_true(outer <= first + 1);
	}
	epoch_exit(ep, outer);
}

static void no_memory_is_reported(void **state)
{
	struct epoch *ep;

	(void)state;
	failmem_start(1, FAILMEM_ONCE);
	assert_int_equal(epoch_open(&ep), -ENOMEM);
	assert_true(failmem_stop());
}

/*
 * Readers follow a pointer to an object that a writer keeps replacing; the replaced one is poisoned and freed once its
 * stamp has passed. A reader must never see poison; the sanitizers see the rest.
 */
struct object {
	int alive;
};

struct race {
	struct epoch *ep;
	_Atomic(struct object *) shared;
	atomic_bool stop;
	atomic_uint bad;
	atomic_uint_fast64_t reads;
};

static void *read_loop(void *arg)
{
	struct race *race = arg;
	uint64_t n = 0;

	while (!atomic_load_explicit(&race->stop, memory_order_relaxed)) {
		unsigned slot = epoch_enter(race->ep);
		struct object *o = atomic_load_explicit(&race->shared, memory_order_acquire);

		if (o->alive != 1)
			atomic_fetch_add(&race->bad, 1);
		epoch_exit(race->ep, slot);
		n++;
	}
	atomic_fetch_add(&race->reads, n);
	return NULL;
}

static struct object *new_object(void)
{
	struct object *o = mem_alloc(sizeof(*o));

	assert_non_null(o);
	o->alive = 1;
	return o;
}

static void readers_never_see_what_was_freed(void **state)
{
	enum { READERS = 3, REPLACED = 20000, LIMBO = 512 };
	struct race race = { .ep = *state };
	struct object *gone[LIMBO];
	uint64_t stamp[LIMBO];
	pthread_t thread[READERS];

	atomic_store(&race.shared, new_object());
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, read_loop, &race), 0);
	for (int i = 0, freed = 0; freed < REPLACED;) {
		/* A reader that has lost its processor holds up all who come later; so many wait at once. */
		if (i < REPLACED && i - freed < LIMBO) {
			gone[i % LIMBO] = atomic_exchange(&race.shared, new_object());
			stamp[i % LIMBO] = epoch_stamp(race.ep);
			i++;
		} else {
			sched_yield();
		}
		while (freed < i && epoch_passed(race.ep, stamp[freed % LIMBO])) {
			gone[freed % LIMBO]->alive = 0;
			mem_free(gone[freed++ % LIMBO]);
		}
	}
	atomic_store(&race.stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(thread[i], NULL);
	mem_free(atomic_load(&race.shared));
	assert_int_equal(atomic_load(&race.bad), 0);
	print_message("# %llu reads\n", (unsigned long long)atomic_load(&race.reads));
}

#define T(name) cmocka_unit_test_setup_teardown(name, open_epoch, close_epoch)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(with_no_one_inside_every_stamp_has_passed),
		T(a_stamp_waits_for_who_was_inside),
		T(a_stamp_does_not_wait_for_who_came_later),
		T(a_newer_stamp_waits_although_an_older_one_has_passed),
		T(stamps_never_decrease),
		T(all_slots_can_be_taken_and_are_waited_for),
		T(nested_entering_does_not_wander),
		cmocka_unit_test(no_memory_is_reported),
		T(readers_never_see_what_was_freed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

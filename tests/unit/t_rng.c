#include <stdlib.h>
#include <string.h>

#include "tests/kit/rng.h"
#include "tests/kit/test.h"

static void one_seed_is_one_sequence(void **state)
{
	struct rng a, b;

	(void)state;
	rng_seed(&a, 7);
	rng_seed(&b, 7);
	for (int i = 0; i < 100; i++)
		assert_int_equal(rng_next(&a), rng_next(&b));
	rng_seed(&b, 8);
	assert_int_not_equal(rng_next(&a), rng_next(&b));
}

static void the_environment_replaces_the_seed(void **state)
{
	char *old = getenv("ARBOR_SEED");
	struct rng r;

	(void)state;
	old = old ? strdup(old) : NULL;
	unsetenv("ARBOR_SEED");
	assert_int_equal(rng_seed_env(&r, 5), 5);
	setenv("ARBOR_SEED", "0x10", 1);
	assert_int_equal(rng_seed_env(&r, 5), 16);
	unsetenv("ARBOR_SEED");
	if (old)
		setenv("ARBOR_SEED", old, 1);
	free(old);
}

static void numbers_stay_inside_and_reach_both_ends(void **state)
{
	bool low = false, high = false;
	struct rng r;

	(void)state;
	rng_seed(&r, 1);
	for (int i = 0; i < 1000; i++) {
		uint64_t x = rng_range(&r, 10, 13);

		assert_in_range(x, 10, 13);
		low |= x == 10;
		high |= x == 13;
		assert_int_equal(rng_below(&r, 1), 0);
		assert_true(rng_chance(&r, 1, 1));
		assert_false(rng_chance(&r, 0, 1));
	}
	assert_true(low && high);
	rng_range(&r, 0, UINT64_MAX);
}

static void bytes_fill_exactly_what_was_asked(void **state)
{
	struct rng r;

	(void)state;
	rng_seed(&r, 1);
	for (size_t n = 0; n < 40; n++) {
		unsigned char buf[41];
		unsigned zeros = 0;

		memset(buf, 0, sizeof(buf));
		rng_bytes(&r, buf, n);
		for (size_t i = 0; i < n; i++)
			zeros += buf[i] == 0;
		assert_true(n < 8 || zeros < n / 2);
		assert_int_equal(buf[n], 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_seed_is_one_sequence),
		cmocka_unit_test(the_environment_replaces_the_seed),
		cmocka_unit_test(numbers_stay_inside_and_reach_both_ends),
		cmocka_unit_test(bytes_fill_exactly_what_was_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

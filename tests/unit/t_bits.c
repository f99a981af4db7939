#include <stdbool.h>
#include <string.h>

#include "btree/bits.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define BITS 512u
#define WORDS (BITS / 64)

struct both {
	uint64_t words[WORDS];
	bool plain[BITS];
};

static void fill(struct both *b, struct rng *rng, unsigned density)
{
	memset(b, 0, sizeof(*b));
	for (uint32_t i = 0; i < BITS; i++) {
		b->plain[i] = rng_chance(rng, density, 100);
		if (b->plain[i])
			b->words[i / 64] |= UINT64_C(1) << i % 64;
	}
}

static void assert_same(const struct both *b)
{
	for (uint32_t i = 0; i < BITS; i++)
		assert_int_equal(b->words[i / 64] >> i % 64 & 1, b->plain[i]);
}

static uint32_t plain_next(const bool *plain, uint32_t from, uint32_t to, bool value)
{
	while (from < to && plain[from] != value)
		from++;
	return from;
}

static void every_function_agrees_with_a_plain_array(void **state)
{
	static struct both b;
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, 1);
	for (unsigned round = 0; round < 20000; round++) {
		uint32_t from = (uint32_t)rng_range(&rng, 0, BITS), to = (uint32_t)rng_range(&rng, from, BITS);
		uint32_t enough = (uint32_t)rng_range(&rng, 1, 80), most = (uint32_t)rng_range(&rng, enough, 100);
		uint32_t count = 0, before = from, start, len, best = 0, best_len = 0;
		bool found;

		fill(&b, &rng, (unsigned)rng_range(&rng, 0, 100));
		for (uint32_t i = from; i < to; i++)
			count += b.plain[i];
		assert_int_equal(bits_count(b.words, from, to), count);
		assert_int_equal(bits_next_set(b.words, from, to), plain_next(b.plain, from, to, true));
		assert_int_equal(bits_next_clear(b.words, from, to), plain_next(b.plain, from, to, false));
		assert_int_equal(bits_all_set(b.words, from, to), count == to - from);
		assert_int_equal(bits_all_clear(b.words, from, to), count == 0);
		while (before > 0 && !b.plain[before - 1])
			before--;
		assert_int_equal(bits_clear_before(b.words, from), before);

		found = bits_find_clear(b.words, from, to, enough, most, &start, &len);
		for (uint32_t i = from; i < to && best_len < enough;) {
			uint32_t end;

			i = plain_next(b.plain, i, to, false);
			end = plain_next(b.plain, i, to, true);
			if (end - i > best_len) {
				best = i;
				best_len = end - i < most ? end - i : most;
			}
			i = end;
		}
		assert_int_equal(found, best_len >= enough);
		assert_int_equal(len, best_len);
		if (len > 0)
			assert_int_equal(start, best);

		if (round % 2) {
			bits_set(b.words, from, to);
			memset(b.plain + from, 1, to - from);
		} else {
			bits_clear(b.words, from, to);
			memset(b.plain + from, 0, to - from);
		}
		assert_same(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_function_agrees_with_a_plain_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

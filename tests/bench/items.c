#include <string.h>

#include "tests/bench/bench.h"

struct key item_key(uint64_t i)
{
	return key_make(1 + (i >> 8), BENCH_TYPE, i & 255);
}

static uint64_t key_mark(struct key k)
{
	return (k.obj ^ k.off << 48) * UINT64_C(0x9e3779b97f4a7c15);
}

void item_make(struct item *item, uint64_t i, uint64_t salt)
{
	uint64_t words[(VALUE_SIZE + 7) / 8];
	uint64_t x;

	item->key = item_key(i);
	x = words[0] = key_mark(item->key);
	x ^= salt;
	for (size_t w = 1; w < sizeof(words) / sizeof(words[0]); w++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[w] = x;
	}
	memcpy(item->val, words, VALUE_SIZE);
}

bool item_value_right(struct key k, const void *val)
{
	return item_sum(val) == key_mark(k);
}

/* Multiplying by an odd number and folding the high half down are both invertible below a power of two; what falls
 * outside 0..n-1 goes round again. */
void shuffle_init(struct shuffle *s, uint64_t n, uint64_t seed)
{
	unsigned bits = n > 1 ? 64 - (unsigned)__builtin_clzll(n - 1) : 1;

	s->n = n;
	s->mask = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
	s->shift = (bits + 1) / 2;
	for (unsigned i = 0; i < 3; i++)
		s->mul[i] = rng_mix(seed, i) | 1;
}

uint64_t shuffle_at(const struct shuffle *s, uint64_t i)
{
	do {
		for (unsigned r = 0; r < 3; r++) {
			i = i * s->mul[r] & s->mask;
			i ^= i >> s->shift;
		}
	} while (i >= s->n);
	return i;
}

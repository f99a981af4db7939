/*
 * rng.h - the one source of chance in tests
 *
 * One seed, one run: everything a test does by chance comes from a struct rng, and the seed is printed. ARBOR_SEED in the
 * environment replaces the default. The generator is xoshiro256**, seeded through splitmix64 (Blackman and Vigna).
 */
#ifndef ARBOR_TESTS_KIT_RNG_H
#define ARBOR_TESTS_KIT_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t s[4];
};

void rng_seed(struct rng *, uint64_t seed);

/* Seeds from ARBOR_SEED where that is set, else with `seed`; prints which, and returns it. */
uint64_t rng_seed_env(struct rng *, uint64_t seed);

uint64_t rng_next(struct rng *);
uint64_t rng_below(struct rng *, uint64_t n);			  /* 0..n-1; n > 0 */
uint64_t rng_range(struct rng *, uint64_t lo, uint64_t hi);	  /* lo..hi */
bool rng_chance(struct rng *, unsigned num, unsigned den);	  /* true num times out of den */
void rng_bytes(struct rng *, void *buf, size_t bytes);

/* One value from several, without state: for what must depend on (seed, number) alone. */
uint64_t rng_mix(uint64_t a, uint64_t b);

#endif

#include "tests/kit/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

void rng_seed(struct rng *r, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		r->s[i] = splitmix(&seed);
}

uint64_t rng_seed_env(struct rng *r, uint64_t seed)
{
	const char *env = getenv("ARBOR_SEED");

	if (env && *env)
		seed = strtoull(env, NULL, 0);
	printf("# ARBOR_SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
	rng_seed(r, seed);
	return seed;
}

static uint64_t rotl(uint64_t x, int k)
{
	return x << k | x >> (64 - k);
}

uint64_t rng_next(struct rng *r)
{
	uint64_t *s = r->s;
	uint64_t result = rotl(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	/* Tests do not mind the bias, which is below n / 2^64. */
	return (uint64_t)((unsigned __int128)rng_next(r) * n >> 64);
}

uint64_t rng_range(struct rng *r, uint64_t lo, uint64_t hi)
{
	return hi - lo == UINT64_MAX ? rng_next(r) : lo + rng_below(r, hi - lo + 1);
}

bool rng_chance(struct rng *r, unsigned num, unsigned den)
{
	return rng_below(r, den) < num;
}

void rng_bytes(struct rng *r, void *buf, size_t bytes)
{
	unsigned char *p = buf;

	while (bytes > 0) {
		uint64_t x = rng_next(r);
		size_t n = bytes < sizeof(x) ? bytes : sizeof(x);

		memcpy(p, &x, n);
		p += n;
		bytes -= n;
	}
}

uint64_t rng_mix(uint64_t a, uint64_t b)
{
	uint64_t state = a;

	state = splitmix(&state) ^ b;
	return splitmix(&state);
}

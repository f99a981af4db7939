#include "btree/bits.h"

#include <assert.h>

#define WORD 64u

/* The bits of word i that lie in [from, to). */
static uint64_t mask(uint32_t i, uint32_t from, uint32_t to)
{
	uint64_t m = ~UINT64_C(0);

	if (from > i * WORD)
		m <<= from - i * WORD;
	if (to < (i + 1) * WORD)
		m &= ~UINT64_C(0) >> ((i + 1) * WORD - to);
	return m;
}

void bits_set(uint64_t *words, uint32_t from, uint32_t to)
{
	if (from < to)
		for (uint32_t i = from / WORD; i <= (to - 1) / WORD; i++)
			words[i] |= mask(i, from, to);
}

void bits_clear(uint64_t *words, uint32_t from, uint32_t to)
{
	if (from < to)
		for (uint32_t i = from / WORD; i <= (to - 1) / WORD; i++)
			words[i] &= ~mask(i, from, to);
}

uint32_t bits_count(const uint64_t *words, uint32_t from, uint32_t to)
{
	uint32_t n = 0;

	if (from < to)
		for (uint32_t i = from / WORD; i <= (to - 1) / WORD; i++)
			n += (uint32_t)__builtin_popcountll(words[i] & mask(i, from, to));
	return n;
}

/* The first bit of the range that is set in words[] ^ flip, or `to`. */
static inline uint32_t next(const uint64_t *words, uint32_t from, uint32_t to, uint64_t flip)
{
	uint64_t w;

	if (from >= to)
		return to;
	w = (words[from / WORD] ^ flip) & (~UINT64_C(0) << (from % WORD));
	for (uint32_t i = from / WORD;;) {
		if (w) {
			uint32_t at = i * WORD + (uint32_t)__builtin_ctzll(w);

			return at < to ? at : to;
		}
		if (++i * WORD >= to)
			return to;
		w = words[i] ^ flip;
	}
}

uint32_t bits_next_set(const uint64_t *words, uint32_t from, uint32_t to)
{
	return next(words, from, to, 0);
}

uint32_t bits_next_clear(const uint64_t *words, uint32_t from, uint32_t to)
{
	return next(words, from, to, ~UINT64_C(0));
}

uint32_t bits_clear_before(const uint64_t *words, uint32_t at)
{
	while (at > 0) {
		uint32_t i = (at - 1) / WORD;
		uint64_t w = words[i] & mask(i, 0, at);

		if (w)
			return (i + 1) * WORD - (uint32_t)__builtin_clzll(w);
		at = i * WORD;
	}
	return 0;
}

bool bits_all_set(const uint64_t *words, uint32_t from, uint32_t to)
{
	return bits_next_clear(words, from, to) == to;
}

bool bits_all_clear(const uint64_t *words, uint32_t from, uint32_t to)
{
	return bits_next_set(words, from, to) == to;
}

bool bits_find_clear(const uint64_t *words, uint32_t from, uint32_t to, uint32_t enough, uint32_t most,
		     uint32_t *ret_start, uint32_t *ret_len)
{
	uint32_t best = 0, best_len = 0;

	assert(enough > 0 && enough <= most);
	while (from < to) {
		uint32_t start = bits_next_clear(words, from, to);
		uint32_t end = bits_next_set(words, start, to - start > most ? start + most : to);

		if (end - start > best_len) {
			best = start;
			best_len = end - start;
			if (best_len >= enough)
				break;
		}
		from = end;
	}
	*ret_start = best;
	*ret_len = best_len;
	return best_len >= enough;
}

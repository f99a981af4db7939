/*
 * bits.h - runs of bits in an array of 64-bit words
 *
 * Bit i is bit i % 64 of word i / 64. All functions go a word at a time; ranges are [from, to) and must lie inside the
 * array. Plain memory: the caller locks.
 */
#ifndef ARBOR_BTREE_BITS_H
#define ARBOR_BTREE_BITS_H

#include <stdbool.h>
#include <stdint.h>

void bits_set(uint64_t *words, uint32_t from, uint32_t to);
void bits_clear(uint64_t *words, uint32_t from, uint32_t to);

/* How many bits of the range are set. */
uint32_t bits_count(const uint64_t *words, uint32_t from, uint32_t to);

/* The first set or clear bit of the range, or `to`. */
uint32_t bits_next_set(const uint64_t *words, uint32_t from, uint32_t to);
uint32_t bits_next_clear(const uint64_t *words, uint32_t from, uint32_t to);

/* The lowest position such that everything from there to just before `at` is clear. */
uint32_t bits_clear_before(const uint64_t *words, uint32_t at);

bool bits_all_set(const uint64_t *words, uint32_t from, uint32_t to);
bool bits_all_clear(const uint64_t *words, uint32_t from, uint32_t to);

/*
 * Looks for clear bits that lie together: stops at the first run of at least `enough`, measured up to `most` bits (0
 * < enough <= most), and returns true. Else returns false and gives the first of the longest runs (length 0: there is
 * none), measured in full.
 */
bool bits_find_clear(const uint64_t *words, uint32_t from, uint32_t to, uint32_t enough, uint32_t most,
		     uint32_t *ret_start, uint32_t *ret_len);

#endif

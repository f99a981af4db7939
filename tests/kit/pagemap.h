/*
 * pagemap.h - sparse disk content as a value
 *
 * A map from block number to a page of 4 KiB, where a page that was never set reads as zeros. Maps share what is equal:
 * taking another reference to a whole map costs a few instructions, and a change copies only the path to the page it
 * changes. So a recorded run can keep the disk's content at each flush, and thousands of crash states can stand on
 * one base. Pages are never changed once they are in a map.
 *
 * Threads: one map belongs to one thread at a time, but maps that share content may belong to different ones.
 */
#ifndef ARBOR_TESTS_KIT_PAGEMAP_H
#define ARBOR_TESTS_KIT_PAGEMAP_H

#include <stdatomic.h>

#include "btree/types.h"

struct page {
	atomic_uint refs;
	_Atomic uint64_t digest; /* 0: not known yet */
	uint8_t data[BLOCK_SIZE];
};

struct pagemap_node;

/* Zero is the empty map. To be copied with pagemap_get only. */
struct pagemap {
	struct pagemap_node *top;
	unsigned height;
};

/* A page with the caller's reference; NULL stands for a page of zeros, and is what a page of zeros becomes. */
struct page *page_new(const void *data);
struct page *page_get(struct page *); /* both accept NULL */
void page_put(struct page *);
const void *page_data(const struct page *); /* of NULL: zeros */
uint64_t page_digest(const struct page *);  /* of the content; remembered */

struct pagemap pagemap_get(const struct pagemap *);
void pagemap_put(struct pagemap *); /* empties it */

const struct page *pagemap_find(const struct pagemap *, uint64_t addr);
void pagemap_set(struct pagemap *, uint64_t addr, struct page *); /* takes a reference of its own */

/* Calls `each` for every page there is at or behind `from` and before `to`, in order. */
void pagemap_each(const struct pagemap *, uint64_t from, uint64_t to,
		  void (*each)(void *arg, uint64_t addr, const struct page *), void *arg);

#endif

/*
 * A radix tree of 32 children a node, as high as the largest address needs. A node or page with more than one reference
 * is shared and must not change; whoever changes the map below it copies it first and gives each child one more
 * reference. A path is copied from the top, so a node's own count says whether it is shared only when all nodes
 * above it are not; which is so where it is asked.
 */
#include "tests/kit/pagemap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FAN_BITS 5
#define FAN (1u << FAN_BITS)

struct pagemap_node {
	atomic_uint refs;
	void *child[FAN]; /* nodes, or pages at the lowest level */
};

static const uint8_t zeros[BLOCK_SIZE];

static void *must(void *p)
{
	if (!p) {
		fputs("the test kit is out of memory\n", stderr);
		abort();
	}
	return p;
}

/* --- pages --- */

struct page *page_new(const void *data)
{
	struct page *p;

	if (memcmp(data, zeros, BLOCK_SIZE) == 0)
		return NULL;
	p = must(malloc(sizeof(*p)));
	atomic_init(&p->refs, 1);
	atomic_init(&p->digest, 0);
	memcpy(p->data, data, BLOCK_SIZE);
	return p;
}

struct page *page_get(struct page *p)
{
	if (p)
		atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	return p;
}

void page_put(struct page *p)
{
	if (p && atomic_fetch_sub(&p->refs, 1) == 1)
		free(p);
}

const void *page_data(const struct page *p)
{
	return p ? p->data : zeros;
}

uint64_t page_digest(const struct page *p)
{
	struct page *known = (struct page *)p;
	uint64_t digest = atomic_load_explicit(&known->digest, memory_order_relaxed);

	if (digest)
		return digest;
	digest = XXH3_64bits(p->data, BLOCK_SIZE);
	atomic_store_explicit(&known->digest, digest, memory_order_relaxed);
	return digest;
}

/* --- nodes; level 0 holds pages --- */

static void node_put(struct pagemap_node *n, unsigned level)
{
	if (!n || atomic_fetch_sub(&n->refs, 1) != 1)
		return;
	for (unsigned i = 0; i < FAN; i++) {
		if (level)
			node_put(n->child[i], level - 1);
		else
			page_put(n->child[i]);
	}
	free(n);
}

/* Makes the node at *slot one that may be changed. */
static struct pagemap_node *node_own(struct pagemap_node **slot, unsigned level)
{
	struct pagemap_node *old = *slot;
	struct pagemap_node *n;

	if (old && atomic_load(&old->refs) == 1)
		return old;
	n = must(calloc(1, sizeof(*n)));
	atomic_init(&n->refs, 1);
	for (unsigned i = 0; old && i < FAN; i++) {
		n->child[i] = old->child[i];
		if (level == 0)
			page_get(n->child[i]);
		else if (n->child[i])
			atomic_fetch_add_explicit(&((struct pagemap_node *)n->child[i])->refs, 1, memory_order_relaxed);
	}
	node_put(old, level);
	*slot = n;
	return n;
}

static unsigned index_at(uint64_t addr, unsigned level)
{
	return (unsigned)(addr >> (level * FAN_BITS)) & (FAN - 1);
}

static bool fits(const struct pagemap *map, uint64_t addr)
{
	return map->height * FAN_BITS >= 64 || addr >> (map->height * FAN_BITS) == 0;
}

/* --- maps --- */

struct pagemap pagemap_get(const struct pagemap *map)
{
	if (map->top)
		atomic_fetch_add_explicit(&map->top->refs, 1, memory_order_relaxed);
	return *map;
}

void pagemap_put(struct pagemap *map)
{
	if (map->height)
		node_put(map->top, map->height - 1);
	*map = (struct pagemap){ 0 };
}

const struct page *pagemap_find(const struct pagemap *map, uint64_t addr)
{
	const struct pagemap_node *n = map->top;

	if (!fits(map, addr))
		return NULL;
	for (unsigned level = map->height; n && level-- > 1;)
		n = n->child[index_at(addr, level)];
	return n ? n->child[index_at(addr, 0)] : NULL;
}

void pagemap_set(struct pagemap *map, uint64_t addr, struct page *page)
{
	struct pagemap_node *n;

	if (!page && !pagemap_find(map, addr))
		return;
	while (map->height == 0 || !fits(map, addr)) {
		if (map->top) {
			n = must(calloc(1, sizeof(*n)));
			atomic_init(&n->refs, 1);
			n->child[0] = map->top;
			map->top = n;
		}
		map->height++;
	}
	n = node_own(&map->top, map->height - 1);
	for (unsigned level = map->height; level-- > 1;)
		n = node_own((struct pagemap_node **)&n->child[index_at(addr, level)], level - 1);
	page_get(page);
	page_put(n->child[index_at(addr, 0)]);
	n->child[index_at(addr, 0)] = page;
}

struct walk {
	uint64_t from, to;
	void (*each)(void *arg, uint64_t addr, const struct page *);
	void *arg;
};

static void walk(const struct walk *w, const struct pagemap_node *n, unsigned level, uint64_t first)
{
	uint64_t span = UINT64_C(1) << (level * FAN_BITS);

	for (unsigned i = 0; i < FAN; i++) {
		uint64_t addr = first + i * span;

		if (!n->child[i] || addr >= w->to || addr + (span - 1) < w->from)
			continue;
		if (level)
			walk(w, n->child[i], level - 1, addr);
		else
			w->each(w->arg, addr, n->child[i]);
	}
}

void pagemap_each(const struct pagemap *map, uint64_t from, uint64_t to,
		  void (*each)(void *arg, uint64_t addr, const struct page *), void *arg)
{
	const struct walk w = { from, to, each, arg };

	if (map->top)
		walk(&w, map->top, map->height - 1, 0);
}

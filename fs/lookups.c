/*
 * lookups.c - a hash table of reference counts
 *
 * A kernel that caches well refers to every file it has ever seen, so there can be many millions of these: 16 bytes
 * each, in open addressing with linear probing, and no allocation but when a table doubles. Every lookup, create and
 * forget passes here from any thread, so there are 64 tables, each with a lock that is held for a few loads. One hash
 * of the node serves both choices: its upper 6 bits pick the table, the bits below them the first place in it.
 *
 * Removal moves back what stands behind (Knuth, TAOCP 3, 6.4, algorithm R), so there are no tombstones and a table
 * never needs to be cleaned. Tables do not shrink: what was needed once is needed again.
 *
 * Invariants: no node has two places; between a node's first place and where it stands no place is free; at least one
 * place of a table is free, so that every search ends.
 */
#include "fs/lookups.h"

#include <errno.h>
#include <pthread.h>

#include "btree/mem.h"

#define SHARD_BITS 6u
#define SHARDS (1u << SHARD_BITS)
#define FIRST_BITS 6u /* places of a table that begins to be used: 2^FIRST_BITS */
#define MARK (UINT64_C(1) << 63)
#define COUNT_MAX (MARK - 1)

struct place {
	uint64_t node;	/* 0: free; no node has this id */
	uint64_t count; /* with MARK */
};

struct shard {
	_Alignas(64) pthread_mutex_t lock;
	unsigned bits; /* there are 2^bits places; 0: none yet */
	size_t used;   /* all guarded by lock */
	struct place *place;
};

struct lookups {
	struct shard shard[SHARDS];
};

static uint64_t hash_of(uint64_t node)
{
	/* Numbers ascend: a multiplication spreads them evenly over the upper bits (Knuth's Fibonacci hashing). */
	return node * UINT64_C(0x9e3779b97f4a7c15);
}

static struct shard *shard_of(struct lookups *l, uint64_t node)
{
	return &l->shard[hash_of(node) >> (64 - SHARD_BITS)];
}

static size_t first_place(uint64_t node, unsigned bits)
{
	return (size_t)(hash_of(node) << SHARD_BITS >> (64 - bits));
}

int lookups_open(struct lookups **ret)
{
	/* In whole blocks: the only aligned allocation there is. */
	struct lookups *l = mem_alloc_blocks((sizeof(*l) + 4095) & ~(size_t)4095);

	if (!l)
		return -ENOMEM;
	for (unsigned i = 0; i < SHARDS; i++) {
		l->shard[i] = (struct shard){ .bits = 0 };
		pthread_mutex_init(&l->shard[i].lock, NULL);
	}
	*ret = l;
	return 0;
}

void lookups_close(struct lookups *l)
{
	if (!l)
		return;
	for (unsigned i = 0; i < SHARDS; i++) {
		pthread_mutex_destroy(&l->shard[i].lock);
		mem_free(l->shard[i].place);
	}
	mem_free(l);
}

/* Where the node stands, or the free place where it would. */
static struct place *find(const struct shard *s, uint64_t node)
{
	size_t mask = ((size_t)1 << s->bits) - 1;
	size_t i = first_place(node, s->bits);

	while (s->place[i].node && s->place[i].node != node)
		i = (i + 1) & mask;
	return &s->place[i];
}

static struct place *find_held(const struct shard *s, uint64_t node)
{
	struct place *p = s->bits ? find(s, node) : NULL;

	return p && p->node ? p : NULL;
}

static int grow(struct shard *s)
{
	struct shard to = { .bits = s->bits ? s->bits + 1 : FIRST_BITS };

	to.place = mem_zalloc_array((size_t)1 << to.bits, sizeof(*to.place));
	if (!to.place)
		return -ENOMEM;
	for (size_t i = 0; s->bits && i < (size_t)1 << s->bits; i++)
		if (s->place[i].node)
			*find(&to, s->place[i].node) = s->place[i];
	mem_free(s->place);
	s->place = to.place;
	s->bits = to.bits;
	return 0;
}

/* Makes room for one more: at most three quarters are used while there is memory, and one place is free in any case. */
static int make_room(struct shard *s)
{
	size_t places = s->bits ? (size_t)1 << s->bits : 0;

	if (s->used + 1 <= places / 4 * 3 || !grow(s))
		return 0;
	return s->used + 1 < places ? 0 : -ENOMEM;
}

int lookups_get(struct lookups *l, uint64_t node)
{
	struct shard *s = shard_of(l, node);
	struct place *p;
	int err = 0;

	pthread_mutex_lock(&s->lock);
	p = find_held(s, node);
	if (!p) {
		err = make_room(s);
		if (!err) {
			p = find(s, node);
			*p = (struct place){ .node = node };
			s->used++;
		}
	}
	if (!err && (p->count & COUNT_MAX) < COUNT_MAX)
		p->count++;
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* Closes the gap: what stands behind it moves into it unless that would bring it before its first place. */
static void take_out(struct shard *s, struct place *p)
{
	size_t mask = ((size_t)1 << s->bits) - 1;
	size_t gap = (size_t)(p - s->place), i = gap;

	for (;;) {
		size_t first;

		i = (i + 1) & mask;
		if (!s->place[i].node)
			break;
		first = first_place(s->place[i].node, s->bits);
		if (((i - first) & mask) < ((i - gap) & mask))
			continue;
		s->place[gap] = s->place[i];
		gap = i;
	}
	s->place[gap] = (struct place){ 0 };
	s->used--;
}

bool lookups_put(struct lookups *l, uint64_t node, uint64_t n)
{
	struct shard *s = shard_of(l, node);
	bool last_of_marked = false;
	struct place *p;

	pthread_mutex_lock(&s->lock);
	p = find_held(s, node);
	if (p && (p->count & COUNT_MAX) > n) {
		p->count -= n;
	} else if (p) {
		last_of_marked = p->count & MARK;
		take_out(s, p);
	}
	pthread_mutex_unlock(&s->lock);
	return last_of_marked;
}

bool lookups_mark(struct lookups *l, uint64_t node)
{
	struct shard *s = shard_of(l, node);
	struct place *p;

	pthread_mutex_lock(&s->lock);
	p = find_held(s, node);
	if (p)
		p->count |= MARK;
	pthread_mutex_unlock(&s->lock);
	return p;
}

bool lookups_held(struct lookups *l, uint64_t node)
{
	struct shard *s = shard_of(l, node);
	bool held;

	pthread_mutex_lock(&s->lock);
	held = find_held(s, node);
	pthread_mutex_unlock(&s->lock);
	return held;
}

size_t lookups_count(struct lookups *l)
{
	size_t n = 0;

	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = &l->shard[i];

		pthread_mutex_lock(&s->lock);
		n += s->used;
		pthread_mutex_unlock(&s->lock);
	}
	return n;
}

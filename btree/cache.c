/*
 * Frames: where they come from, how they are found, when they are used again.
 *
 * The pool has a fixed maximum. Frames are allocated in chunks when first needed, with the kernel asked for huge pages:
 * a lookup in a large cache otherwise spends a good part of its time in TLB misses. A frame is never given back to the
 * heap, so a pointer to a struct node always points to one, whatever has become of it.
 *
 * Lookups take no lock: one load of the bucket, then the chain. Everything else takes `lock`, for a few instructions.
 * What a reader sees of a node was written before the node was put into its chain (release), and is not written again
 * before an epoch has passed since it was taken out. So a stale reader may read an evicted node to its end.
 *
 * Eviction is CLOCK: the hand goes round over all frames; a node used since it last came by loses its mark, one not used
 * is taken out. Taken out means: out of the hash, a stamp drawn *afterwards*, LIMBO. From there it becomes FREE when the
 * stamp has passed and nobody has it pinned. A reader may pin a node in the very moment it is evicted: it is inside an
 * epoch that began before the stamp, so it has finished pinning by the time the stamp has passed, and the check for pins
 * after that cannot miss it. Pinned then, the node is STUCK and looked at again later.
 *
 * Since frames go through limbo, taking one when none is free means waiting for other threads' epochs, which must not be
 * done inside one. So loads evict ahead of need, below a low-water mark, and cache_breathe() waits for those who found
 * none.
 *
 *  C1. A frame is in exactly one of: free, limbo, stuck, the hash (IN), somebody's hands (OUT).
 *  C2. At most one node in the hash has a given address.
 *  C3. Only clean, unpinned nodes are evicted; dirty ones leave by cache_kill only.
 *  C4. `dirty` counts the nodes with NODE_DIRTY.
 *  C5. A node that is IN does not change its addr, gen, copy, tree, level, buf, home.
 */
#include "btree/cache.h"

#include <assert.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include "btree/cache_int.h"
#include "btree/err.h"
#include "btree/mem.h"

#define CHUNK_BYTES_MAX (32u << 20)
#define CHUNK_FRAMES_MIN 32u

static struct node *frame_at(const struct cache *c, size_t i)
{
	return &c->chunks[i / c->chunk_frames].frames[i % c->chunk_frames].node;
}

static void assert_valid(const struct cache *c)
{
#ifndef NDEBUG
	assert(c->n_free + c->n_limbo + c->n_in <= c->n_frames && c->n_frames <= c->frames_max);
	assert((c->n_free == 0) == TAILQ_EMPTY(&c->free));
	assert((c->n_limbo == c->n_stuck) == TAILQ_EMPTY(&c->limbo));
	assert((c->n_stuck == 0) == TAILQ_EMPTY(&c->stuck));
#else
	(void)c;
#endif
}

/* ---- the hash; stores under the lock ---- */

static void hash_insert(struct cache *c, struct node *n)
{
	_Atomic(struct node *) *head = &c->bucket[cache_hash(c, n->addr)];

	atomic_store_explicit(&n->hash_next, atomic_load_explicit(head, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(head, n, memory_order_release);
	n->where = FRAME_IN;
	c->n_in++;
}

static void hash_remove(struct cache *c, struct node *n)
{
	_Atomic(struct node *) *at = &c->bucket[cache_hash(c, n->addr)];
	struct node *here;

	assert(n->where == FRAME_IN);
	while ((here = atomic_load_explicit(at, memory_order_relaxed)) != n)
		at = &here->hash_next;
	/* Readers must see the next node as whoever put it there left it. */
	atomic_store_explicit(at, atomic_load_explicit(&n->hash_next, memory_order_relaxed), memory_order_release);
	c->n_in--;
}

static struct node *hash_at_addr(struct cache *c, uint64_t addr)
{
	struct node *n = atomic_load_explicit(&c->bucket[cache_hash(c, addr)], memory_order_relaxed);

	while (n && n->addr != addr)
		n = atomic_load_explicit(&n->hash_next, memory_order_relaxed);
	return n;
}

/* ---- frames; lock held ---- */

static void to_limbo(struct cache *c, struct node *n, uint64_t stamp)
{
	n->where = FRAME_LIMBO;
	n->stamp = stamp;
	TAILQ_INSERT_TAIL(&c->limbo, n, list);
	c->n_limbo++;
}

static void to_free(struct cache *c, struct node *n)
{
	n->where = FRAME_FREE;
	atomic_store_explicit(&n->state, 0, memory_order_relaxed);
	/* The one used last is likely in the processor's cache. */
	TAILQ_INSERT_HEAD(&c->free, n, list);
	c->n_free++;
}

static void out_of_hash(struct cache *c, struct node *n)
{
	hash_remove(c, n);
	to_limbo(c, n, epoch_stamp(c->epoch));
}

/* Allocates the next chunk. False: the maximum is reached, or there is no memory now. */
static bool grow(struct cache *c)
{
	size_t n = c->frames_max - c->n_frames;
	struct chunk *ch = &c->chunks[c->n_chunks];

	if (n > c->chunk_frames)
		n = c->chunk_frames;
	if (!n)
		return false;
	ch->frames = mem_alloc_blocks(n * sizeof(struct frame));
	ch->data = mem_alloc_blocks(n * c->node_size);
	if (!ch->frames || !ch->data) {
		mem_free(ch->frames);
		mem_free(ch->data);
		return false;
	}
#ifdef MADV_HUGEPAGE
	(void)madvise(ch->data, n * c->node_size, MADV_HUGEPAGE);
#endif
	memset(ch->frames, 0, n * sizeof(struct frame));
	c->n_chunks++;
	c->n_frames += n;
	for (size_t i = n; i--;) {
		struct node *node = &ch->frames[i].node;

		atomic_init(&node->hash_next, NULL);
		atomic_init(&node->state, 0);
		atomic_init(&node->pins, 0);
		node->size = (uint16_t)c->node_size;
		node->buf = ch->data + i * c->node_size;
		to_free(c, node);
	}
	return true;
}

/* Limbo to free, as far as epochs have passed. */
static void reclaim(struct cache *c)
{
	struct node *n, *next;

	for (n = TAILQ_FIRST(&c->stuck); n; n = next) {
		next = TAILQ_NEXT(n, list);
		if (atomic_load(&n->pins) == 0) {
			TAILQ_REMOVE(&c->stuck, n, list);
			c->n_stuck--;
			c->n_limbo--;
			to_free(c, n);
		}
	}
	while ((n = TAILQ_FIRST(&c->limbo)) && epoch_passed(c->epoch, n->stamp)) {
		TAILQ_REMOVE(&c->limbo, n, list);
		if (atomic_load(&n->pins)) {
			TAILQ_INSERT_TAIL(&c->stuck, n, list);
			c->n_stuck++;
			continue;
		}
		c->n_limbo--;
		to_free(c, n);
	}
}

/* Takes up to `want` nodes out of the hash, looking at `look` frames at most. Returns how many. */
static size_t evict(struct cache *c, size_t want, size_t look)
{
	struct node_list batch;
	struct node *n, *next;
	size_t got = 0;
	uint64_t stamp;

	TAILQ_INIT(&batch);
	/* Do not go round and round over what is dirty all. */
	if (c->n_in <= cache_dirty(c))
		return 0;
	for (; look && got < want; look--) {
		unsigned state;

		n = frame_at(c, c->hand);
		c->hand = c->hand + 1 < c->n_frames ? c->hand + 1 : 0;
		if (n->where != FRAME_IN)
			continue;
		/* Acquire: who made it clean has finished reading it. */
		state = atomic_load_explicit(&n->state, memory_order_acquire);
		if (state & NODE_DIRTY || atomic_load(&n->pins))
			continue;
		if (state & NODE_REFERENCED) {
			atomic_fetch_and_explicit(&n->state, ~(unsigned)NODE_REFERENCED, memory_order_relaxed);
			continue;
		}
		hash_remove(c, n);
		n->where = FRAME_LIMBO;
		TAILQ_INSERT_TAIL(&batch, n, list);
		got++;
	}
	if (!got)
		return 0;
	stamp = epoch_stamp(c->epoch);
	for (n = TAILQ_FIRST(&batch); n; n = next) {
		next = TAILQ_NEXT(n, list);
		to_limbo(c, n, stamp);
	}
	c->evictions += got;
	return got;
}

static struct node *pop_free(struct cache *c)
{
	struct node *n = TAILQ_FIRST(&c->free);

	if (!n && grow(c))
		n = TAILQ_FIRST(&c->free);
	if (!n)
		return NULL;
	TAILQ_REMOVE(&c->free, n, list);
	c->n_free--;
	n->where = FRAME_OUT;
	return n;
}

struct node *cache_take(struct cache *c, bool spare)
{
	struct node *n = NULL;
	size_t room;

	pthread_mutex_lock(&c->lock);
	room = c->n_free + (c->frames_max - c->n_frames);
	if (room < c->low_water) {
		reclaim(c);
		room = c->n_free + (c->frames_max - c->n_frames);
		/* Twice the mark, and a bounded look: this is somebody's read that is waiting. */
		if (room + c->n_limbo < c->low_water)
			evict(c, 2 * c->low_water - room - c->n_limbo, c->frames_max / 4 + 64);
	}
	if (!spare || room > c->low_water / 2)
		n = pop_free(c);
	assert_valid(c);
	pthread_mutex_unlock(&c->lock);
	return n;
}

void cache_give_back(struct cache *c, struct node *n)
{
	pthread_mutex_lock(&c->lock);
	assert(n->where == FRAME_OUT);
	to_free(c, n);
	pthread_mutex_unlock(&c->lock);
}

struct node *cache_publish(struct cache *c, struct node *n, bool pin)
{
	struct node *other;

	atomic_store_explicit(&n->pins, pin, memory_order_relaxed);
	pthread_mutex_lock(&c->lock);
	other = hash_at_addr(c, n->addr);
	if (other && other->gen == n->gen) {
		if (pin)
			node_pin(other);
		atomic_store_explicit(&n->pins, 0, memory_order_relaxed);
		to_free(c, n);
		n = other;
	} else {
		/* Of another generation: a clean node whose address has been used again since. */
		if (other && !(atomic_load(&other->state) & NODE_DIRTY))
			out_of_hash(c, other);
		hash_insert(c, n);
	}
	assert_valid(c);
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* ---- waiting for frames ---- */

static void pause_a_little(unsigned tries)
{
	if (tries < 16) {
		sched_yield();
	} else {
		struct timespec ts = { .tv_nsec = tries < 64 ? 50000 : 500000 };

		nanosleep(&ts, NULL);
	}
}

/*
 * Until `need` frames are free (or can be allocated): evicts, aiming at `want`, and waits for the epochs of those who may
 * still look at what was evicted. Returns with the lock held; 0, -ENOMEM, or -EBUSY when all else is dirty or pinned.
 */
static int wait_for_frames(struct cache *c, size_t need, size_t want)
{
	pthread_mutex_lock(&c->lock);
	for (unsigned tries = 0;; tries++) {
		size_t coming, have;

		reclaim(c);
		while (c->n_free < want && grow(c))
			;
		if (c->n_free >= want || (tries && c->n_free >= need))
			return 0;
		coming = c->n_limbo - c->n_stuck;
		have = c->n_free + coming;
		/* Twice round: the first time may only take away the marks. */
		if (have < want)
			coming += evict(c, want - have, 2 * c->n_frames + 1);
		if (!coming) {
			if (c->n_free >= need)
				return 0;
			return c->n_frames < c->frames_max ? -ENOMEM : -EBUSY;
		}
		pthread_mutex_unlock(&c->lock);
		pause_a_little(tries);
		pthread_mutex_lock(&c->lock);
	}
}

int cache_breathe(struct cache *c)
{
	int err = wait_for_frames(c, 1, c->low_water);

	assert_valid(c);
	pthread_mutex_unlock(&c->lock);
	return err;
}

int cache_reserve(struct cache *c, struct node **frames, size_t n)
{
	int err;

	if (n > c->frames_max)
		return -EBUSY;
	err = wait_for_frames(c, n, n);
	for (size_t i = 0; !err && i < n; i++)
		frames[i] = pop_free(c);
	assert_valid(c);
	pthread_mutex_unlock(&c->lock);
	return err;
}

void cache_unreserve(struct cache *c, struct node **frames, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cache_give_back(c, frames[i]);
}

/* ---- birth and death ---- */

void cache_born(struct cache *c, struct node *n, uint64_t addr, uint64_t copy, uint64_t gen, uint64_t tree,
		unsigned level)
{
	struct node *stale;

	assert(n->where == FRAME_OUT);
	n->addr = addr;
	n->copy = copy;
	n->gen = gen;
	n->tree = tree;
	n->level = (uint8_t)level;
	node_reset(n);
	atomic_store_explicit(&n->pins, 0, memory_order_relaxed);
	atomic_store_explicit(&n->state, NODE_DIRTY | NODE_REFERENCED, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->dirty, 1, memory_order_relaxed);

	pthread_mutex_lock(&c->lock);
	stale = hash_at_addr(c, addr);
	if (stale) {
		assert(!(atomic_load(&stale->state) & NODE_DIRTY));
		out_of_hash(c, stale);
	}
	hash_insert(c, n);
	assert_valid(c);
	pthread_mutex_unlock(&c->lock);
}

void cache_kill(struct cache *c, struct node *n)
{
	pthread_mutex_lock(&c->lock);
	/* A clean one may have been evicted by itself. */
	if (n->where == FRAME_IN) {
		if (atomic_fetch_and(&n->state, ~(unsigned)NODE_DIRTY) & NODE_DIRTY)
			atomic_fetch_sub_explicit(&c->dirty, 1, memory_order_relaxed);
		out_of_hash(c, n);
	}
	assert_valid(c);
	pthread_mutex_unlock(&c->lock);
}

/* Whoever pins is inside an epoch, whose end is what orders the pin before reclaim()'s look at it. */
void node_pin(struct node *n)
{
	atomic_fetch_add_explicit(&n->pins, 1, memory_order_relaxed);
}

/* Release: what was read through the pin has been read before the frame is used again. */
void node_unpin(struct node *n)
{
	unsigned had = atomic_fetch_sub_explicit(&n->pins, 1, memory_order_release);

	assert(had > 0);
	(void)had;
}

struct node *cache_lookup(struct cache *c, struct ref ref)
{
	struct node *n = cache_find(c, ref.addr, ref.gen);

	if (n)
		cache_touch(n);
	return n;
}

/* ---- life ---- */

int cache_open(const struct cache_options *opt, struct cache **ret)
{
	struct cache *c;
	size_t buckets = 1, chunks;
	int err = -ENOMEM;

	assert(opt->node_size >= NODE_SIZE_MIN && opt->node_size <= NODE_SIZE_MAX);
	c = mem_alloc_blocks((sizeof(*c) + BLOCK_SIZE - 1) & ~(size_t)(BLOCK_SIZE - 1));
	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->bdev = opt->bdev;
	c->epoch = opt->epoch;
	c->node_size = opt->node_size;
	memcpy(c->records, opt->records, sizeof(c->records));
	c->mend = opt->mend;
	TAILQ_INIT(&c->free);
	TAILQ_INIT(&c->limbo);
	TAILQ_INIT(&c->stuck);
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->mend_lock, NULL);
	pthread_mutex_init(&c->spare_lock, NULL);

	c->frames_max = opt->bytes / opt->node_size;
	if (c->frames_max < CACHE_FRAMES_MIN)
		c->frames_max = CACHE_FRAMES_MIN;
	c->low_water = c->frames_max / 64 < 8 ? 8 : c->frames_max / 64;
	c->chunk_frames = c->frames_max / 8;
	if (c->chunk_frames > CHUNK_BYTES_MAX / opt->node_size)
		c->chunk_frames = CHUNK_BYTES_MAX / opt->node_size;
	if (c->chunk_frames < CHUNK_FRAMES_MIN)
		c->chunk_frames = CHUNK_FRAMES_MIN;
	chunks = (c->frames_max + c->chunk_frames - 1) / c->chunk_frames;
	c->chunks = mem_zalloc_array(chunks, sizeof(*c->chunks));

	c->hash_shift = 64;
	while (buckets < 2 * c->frames_max) {
		buckets *= 2;
		c->hash_shift--;
	}
	c->bucket = mem_zalloc_array(buckets, sizeof(*c->bucket));
	if (!c->chunks || !c->bucket)
		goto fail;
	for (size_t i = 0; i < buckets; i++)
		atomic_init(&c->bucket[i], NULL);
	err = cache_spare_open(c);
	if (err)
		goto fail;
	*ret = c;
	return 0;
fail:
	cache_close(c);
	return err;
}

void cache_close(struct cache *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_chunks; i++) {
		mem_free(c->chunks[i].frames);
		mem_free(c->chunks[i].data);
	}
	cache_spare_close(c);
	mem_free(c->chunks);
	mem_free(c->bucket);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->mend_lock);
	pthread_mutex_destroy(&c->spare_lock);
	mem_free(c);
}

struct epoch *cache_epoch(struct cache *c)
{
	return c->epoch;
}

uint32_t cache_node_size(const struct cache *c)
{
	return c->node_size;
}

size_t cache_frames(const struct cache *c)
{
	return c->frames_max;
}

size_t cache_dirty(struct cache *c)
{
	return atomic_load_explicit(&c->dirty, memory_order_relaxed);
}

void cache_stats(struct cache *c, struct cache_stats *ret)
{
	pthread_mutex_lock(&c->lock);
	*ret = (struct cache_stats){
		.frames = c->n_frames,
		.frames_max = c->frames_max,
		.dirty = cache_dirty(c),
		.bytes = c->n_frames * (c->node_size + sizeof(struct frame)) +
			 ((size_t)1 << (64 - c->hash_shift)) * sizeof(*c->bucket),
		.misses = atomic_load(&c->misses),
		.evictions = c->evictions,
		.nodes_written = atomic_load(&c->nodes_written),
		.mended = atomic_load(&c->mended),
		.copies_used = atomic_load(&c->copies_used),
		.bad = atomic_load(&c->bad),
	};
	pthread_mutex_unlock(&c->lock);
}

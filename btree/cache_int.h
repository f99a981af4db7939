/*
 * cache_int.h - the inside of the node cache, shared by the files that implement it; and its hot path, for the tree
 *
 *	cache.c		frames: allocation, the hash, eviction, birth and death
 *	cache_io.c	reading, verifying, mending, writing
 *	tree_scrub.c	what stands on the device, past the cache
 */
#ifndef ARBOR_BTREE_CACHE_INT_H
#define ARBOR_BTREE_CACHE_INT_H

#include <pthread.h>
#include <stdalign.h>

#include "btree/cache.h"
#include "btree/node.h"

/*
 *		 reserve, load			born, loaded
 *	FREE ----------------------> OUT ----------------------> IN
 *	  ^			      |				  |
 *	  |<--------------------------+				  | evicted, killed, address used again
 *	  |	   given back					  v
 *	  +---------------------------------------------------- LIMBO
 *			epoch has passed, no pins
 */
enum frame_where { FRAME_FREE, FRAME_OUT, FRAME_IN, FRAME_LIMBO };

struct frame {
	alignas(64) struct node node;
};

struct chunk {
	struct frame *frames;
	unsigned char *data;
};

struct cache {
	/* The hot part; constant after cache_open. */
	_Atomic(struct node *) *bucket; /* heads of chains; stores under lock */
	unsigned hash_shift;

	uint32_t node_size;
	struct bdev *bdev;
	struct epoch *epoch;
	const struct record_table *records[3];
	bool mend;
	size_t frames_max, chunk_frames, low_water;

	alignas(64) pthread_mutex_t lock;
	/* Guarded by lock: */
	struct chunk *chunks;
	size_t n_chunks, n_frames;	/* n_frames: frames allocated */
	struct node_list free, limbo;	/* limbo: in order of their stamps */
	struct node_list stuck;		/* LIMBO, epoch passed, but pinned then */
	size_t n_free, n_in;
	size_t n_limbo, n_stuck;	/* n_limbo counts the stuck ones, too */
	size_t hand;			/* CLOCK: index of the next frame to look at */
	uint64_t evictions;

	atomic_size_t dirty;
	atomic_uint_fast64_t misses, nodes_written, mended, copies_used, bad;

	pthread_mutex_t mend_lock; /* one mending write at a time: two of one node would overlap */
	pthread_mutex_t spare_lock;
	void *spare;		   /* write memory for when there is no other, guarded by spare_lock */
};

static inline size_t cache_hash(const struct cache *c, uint64_t addr)
{
	return (size_t)(addr * UINT64_C(0x9e3779b97f4a7c15) >> c->hash_shift);
}

/*
 * The lookup. A chain is changed only at its head and by making a predecessor skip a node; a node taken out keeps its
 * hash_next until its epoch has passed, so a reader that stands on it goes on to where it would have gone before.
 */
static inline struct node *cache_find(const struct cache *c, uint64_t addr, uint64_t gen)
{
	struct node *n = atomic_load_explicit(&c->bucket[cache_hash(c, addr)], memory_order_acquire);

	while (n && (n->addr != addr || n->gen != gen))
		n = atomic_load_explicit(&n->hash_next, memory_order_acquire);
	return n;
}

static inline void cache_touch(struct node *n)
{
	if (!(atomic_load_explicit(&n->state, memory_order_relaxed) & NODE_REFERENCED))
		atomic_fetch_or_explicit(&n->state, NODE_REFERENCED, memory_order_relaxed);
}

/* cache.c, for cache_io.c */

/* A frame to read into (OUT), or NULL. Evicts ahead of need, does not wait. spare: only while there are some left for
 * those who really need one. */
struct node *cache_take(struct cache *, bool spare);
void cache_give_back(struct cache *, struct node *);
/* Makes a node that was read findable, pinned or not; if another thread has done so first, gives back the frame and
 * returns the other's node. */
struct node *cache_publish(struct cache *, struct node *, bool pin);

/* cache_io.c, for tree_scrub.c */

bool cache_inside_device(const struct cache *, uint64_t addr);
/* Whether the bytes look like what is asked for, without a word if not. */
bool cache_plausible(const struct cache *, const void *image, struct ref ref);
/* The bytes in n->buf as the node that a reference names: 0 and n is filled in; else reported. */
int cache_decode(struct cache *, struct node *n, struct ref ref, uint64_t tree, unsigned level, struct key low);
/* Writes a verified image over the copy that does not verify (copy: the second). False: not permitted, or it failed. The
 * caller sees to it that the address is not handed out again meanwhile. */
bool cache_mend(struct cache *, struct ref, bool copy, const void *image);

/* cache_io.c, for cache.c */
int cache_spare_open(struct cache *);
void cache_spare_close(struct cache *);

#endif

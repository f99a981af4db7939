/*
 * cache.h - tree nodes in memory
 *
 * A fixed pool of frames of one node each, found by address through a hash whose lookups take no lock. A node is *dirty*
 * from its birth until it has been written; it is never changed again once *sealed* (being written or written). Clean
 * nodes without pins are evicted by CLOCK.
 *
 * Epochs: lookups, and the use of what they return, happen inside epoch_enter/epoch_exit of the cache's epoch domain (or
 * with the node pinned). A node taken out of the cache is reused only when every epoch begun before has ended. The same
 * epoch keeps the device blocks a reader may still load from being handed out again, so a reader stays in its epoch from
 * reading a reference until it has loaded the node.
 *
 * Memory: per frame node_size + 128 bytes, and 16 to 32 bytes of hash; frames are allocated when first needed.
 *
 * Threads: any. cache_lookup and pins are lock-free; the rest takes the cache's mutex, never held during I/O. Who changes
 * a node's content holds the write lock of the tree it belongs to.
 */
#ifndef ARBOR_BTREE_CACHE_H
#define ARBOR_BTREE_CACHE_H

#include <bsd/sys/queue.h>
#include <stdatomic.h>

#include "btree/dev/bdev.h"
#include "btree/epoch.h"
#include "btree/node_format.h"
#include "btree/record.h"

enum node_state {
	NODE_DIRTY = 1,	     /* never written */
	NODE_SEALED = 2,     /* is being written or was: not to be changed any more */
	NODE_REFERENCED = 4, /* CLOCK */
	NODE_CHECKPOINT = 8, /* belongs to the checkpoint being written (set and cleared by checkpoint.c) */
};

/*
 * What a lookup touches stands first, in one cache line. Fields without a remark are set before the node can be found and
 * do not change until its frame is used again. Those of the content (nr, val_start, val_bytes, the bytes of buf) change
 * only while the node is one its tree may change in place, under that tree's write lock.
 */
struct node {
	_Atomic(struct node *) hash_next; /* changes under the cache's mutex */
	uint64_t addr, gen;
	uint64_t tree;
	unsigned char *buf;  /* node_size bytes: disk_node, but values lie anywhere, and nr and sum are not kept there */
	atomic_uint state;   /* enum node_state */
	uint16_t size;	     /* node_size, for ever */
	uint16_t nr;	     /* slots */
	uint16_t val_start;  /* lowest value offset in use */
	uint16_t val_bytes;  /* bytes of live values */
	uint8_t level;
	uint8_t where;	     /* the cache's; guarded by its mutex */
	uint64_t copy;

	atomic_uint pins;    /* not evicted while > 0 */
	TAILQ_ENTRY(node) list; /* the dirty list of its tree, guarded by that tree's write lock; else its owner's */
	const struct tree *home; /* the tree it was born in, NULL for one that was read */
	uint64_t stamp;	     /* the cache's: when it was taken out of reach */
};
TAILQ_HEAD(node_list, node);

struct tree;
struct cache;
struct cache_options {
	struct bdev *bdev;
	struct epoch *epoch;
	uint32_t node_size;
	size_t bytes;				    /* frames are at most bytes / node_size, at least CACHE_FRAMES_MIN */
	const struct record_table *records[3];	    /* by tree id; outlive the cache */
	bool mend;				    /* write a good copy over a bad one */
};
#define CACHE_FRAMES_MIN 64u

int cache_open(const struct cache_options *, struct cache **ret);
void cache_close(struct cache *); /* accepts NULL; drops everything, dirty nodes included */
struct epoch *cache_epoch(struct cache *);
uint32_t cache_node_size(const struct cache *);
size_t cache_frames(const struct cache *);

/* The node a reference names, or NULL where it is not in memory. Inside an epoch. */
struct node *cache_lookup(struct cache *, struct ref);

/*
 * Reads, verifies (checksum, address, generation, tree, level, every field, every item by its record row) and enters a
 * node; returns it pinned. `low` is the lower bound its parent states. Inside an epoch, under no lock. -ENOBUFS: no
 * free frame; leave the epoch, call cache_breathe, start again. -EBADMSG, -EUCLEAN, -EIO: neither copy can be
 * read; reported. A node read from its second copy is counted, and mended if the options say so.
 */
int cache_load(struct cache *, struct ref, uint64_t tree, unsigned level, struct key low, struct node **ret);

/* Loads up to n nodes of one level with their reads in flight together, best effort, unpinned: read-ahead. */
void cache_prefetch(struct cache *, const struct ref *refs, const struct key *lows, unsigned n, uint64_t tree,
		    unsigned level);

void node_pin(struct node *);
void node_unpin(struct node *);

/* Sees to it that frames are free, evicting and waiting for epochs to end. Outside any epoch, under no lock. -EBUSY:
 * everything is dirty or pinned; write something first. */
int cache_breathe(struct cache *);

/* Takes n frames for nodes to be born. As cache_breathe. */
int cache_reserve(struct cache *, struct node **frames, size_t n);
void cache_unreserve(struct cache *, struct node **frames, size_t n);

/* A reserved frame becomes a dirty node with 0 slots. A stale node at that address leaves the cache. Never fails. */
void cache_born(struct cache *, struct node *frame, uint64_t addr, uint64_t copy, uint64_t gen, uint64_t tree,
		unsigned level);

/* The node is needed by nobody any more and was never written, or is clean. Its frame is reused after the epoch. */
void cache_kill(struct cache *, struct node *);

/*
 * Writes n sealed nodes to their addresses (and second copies), sorted, neighbours joined, many in flight; each is put
 * into its canonical form, checksummed and verified whole first (in the write buffer, the node in memory is not
 * touched). On success they are clean. Does not flush. Under no lock.
 */
int cache_write(struct cache *, struct node **nodes, size_t n);

struct cache_stats {
	size_t frames, frames_max, dirty, bytes;
	uint64_t hits, misses, evictions; /* hits is counted per load avoided only roughly, may be 0 */
	uint64_t nodes_written, mended, copies_used, bad;
};
void cache_stats(struct cache *, struct cache_stats *ret);
size_t cache_dirty(struct cache *);

/* Decodes and verifies a node's bytes as cache_load does; for fsck and fuzzing. records may be NULL. */
int node_check(const void *buf, uint32_t node_size, const struct record_table *records);

#endif

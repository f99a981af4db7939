/*
 * treekit.h - a tree on a simulated disk, with what the layers above would do for it
 *
 * Hands out addresses and generations, makes changes the way a batch does (plan, fault, reserve, apply; exactly what the
 * plan asked for is supplied), freezes, writes and reopens. Frozen roots can be kept: then what they reach is not
 * used again. Everything asserts: a function that returns has succeeded.
 */
#ifndef ARBOR_TESTS_KIT_TREEKIT_H
#define ARBOR_TESTS_KIT_TREEKIT_H

#include "btree/tree.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"

/* Zero is the default of each. */
struct treekit_options {
	uint32_t node_size; /* 4096 */
	size_t frames;	    /* 4096 */
	uint64_t nodes;	    /* room on the device: 65536 */
	bool copies;
	bool mend;
	bool check_released; /* after each change compare released[] with what became unreachable */
	bool reuse;	     /* hand addresses out again */
};

struct treekit_addr {
	uint64_t addr, copy, gen;
	bool written;
};

struct treekit {
	struct treekit_options opt;
	struct simdev *sim;
	struct bdev *bdev;
	struct epoch *epoch;
	struct cache *cache;
	struct tree tree;
	uint64_t next_gen, next_addr;

	struct treekit_addr *unused; /* to be handed out again */
	size_t n_unused, cap_unused;
	struct node **old; /* dirty, only kept roots reach them */
	size_t n_old, cap_old;
	uint64_t kept_gen; /* the newest generation that a kept root may hold; 0: none is kept */

	/* Of the last change: */
	size_t need, used, n_released;
	struct released *released;
	size_t cap_released;
	unsigned faults;
};

/* Any type, any value. */
extern const struct record_table treekit_records;

void treekit_open(struct treekit *, const struct treekit_options *); /* NULL: all defaults */
void treekit_close(struct treekit *);
struct cache_options treekit_cache_options(const struct treekit *);

/* Makes changes, sorted as tree_plan wants them. */
void treekit_change(struct treekit *, const struct change *, size_t n);
void treekit_put(struct treekit *, struct key, const void *val, size_t len);
void treekit_del(struct treekit *, struct key);
void treekit_del_range(struct treekit *, struct key from, struct key end);

/* Freezes; the root returned is kept until treekit_forget, with all others. */
struct root treekit_freeze(struct treekit *);
void treekit_forget(struct treekit *);

/* Seals and writes every dirty node, those that only kept roots reach included. The tree goes on with a new generation. */
void treekit_write(struct treekit *);
/* Seals and writes some of them, by chance, as a transaction does under memory pressure: the generation stays. */
void treekit_write_some(struct treekit *, struct rng *);
/* Writes, then opens everything again from the device. The root stays, kept ones, too. */
void treekit_reopen(struct treekit *);
/* The same without a word to the tree: only what is cached and clean is forgotten. Everything must have been written. */
void treekit_drop_cache(struct treekit *);

/* Reads with the faults that it takes. False: not there. The value is copied to buf, which has room. */
bool treekit_get(struct treekit *, const struct root *, struct key, void *buf, size_t *ret_len);
bool treekit_floor(struct treekit *, const struct root *, struct key, struct key *ret_key, void *buf, size_t *ret_len);

/* Nodes of a root, by address. An array of the caller's to free with mem_free. */
size_t treekit_refs(struct treekit *, const struct root *, struct ref **ret);

/* A value's bytes by seed; 0 bytes are fine. */
void treekit_fill(void *buf, uint64_t seed, size_t len);

#endif

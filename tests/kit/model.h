/*
 * model.h - what a store must contain, the simple way
 *
 * A *kvmap* is one state: a sorted array of items. States share their items and, until one changes, the array; so keeping
 * every state a run has gone through is cheap. Values are canonical (kv_records.h). A *world* is what a whole store
 * holds: the live state, the snapshots, the counters. The *model* is the list of worlds after each operation, and which
 * of them are known to be durable: a crash must lead to one of the worlds from `durable` on.
 *
 * Test code: running out of memory aborts. One thread.
 */
#ifndef ARBOR_TESTS_KIT_MODEL_H
#define ARBOR_TESTS_KIT_MODEL_H

#include <stdio.h>

#include "btree/types.h"

/* ---- one state ---- */

/* Identifies an item or a set of items; sets add up. */
struct kvhash {
	uint64_t lo, hi;
};

struct kv {
	struct key key;
	unsigned refs;
	uint32_t len;
	struct kvhash hash;
	uint8_t val[];
};

struct kvmap;

struct kvmap *kvmap_new(void);
struct kvmap *kvmap_ref(struct kvmap *); /* the same state, shared; whoever changes it first gets a copy */
void kvmap_unref(struct kvmap *);	 /* accepts NULL */

void kvmap_put(struct kvmap **, struct key, const void *val, size_t len); /* makes the value canonical */
void kvmap_del(struct kvmap **, struct key);
void kvmap_del_range(struct kvmap **, struct key from, struct key to);

size_t kvmap_count(const struct kvmap *);
const struct kv *kvmap_at(const struct kvmap *, size_t);
size_t kvmap_lower(const struct kvmap *, struct key); /* the first item >= key */
const struct kv *kvmap_find(const struct kvmap *, struct key); /* NULL: none */
bool kvmap_equal(const struct kvmap *, const struct kvmap *);
struct kvhash kvmap_hash(const struct kvmap *);

/* Prints the items that differ, at most `max`, as comments. */
void kvmap_print_diff(FILE *, const char *a_name, const struct kvmap *a, const char *b_name, const struct kvmap *b,
		      unsigned max);

/* ---- commit by key ---- */

enum kv_verdict {
	KV_TAKEN,    /* must succeed */
	KV_CONFLICT, /* must not */
	KV_EITHER,   /* both would be right */
};

/*
 * What merge_by_key must make of a transaction: base is what it began with, mine what it has made of it. *ret_result is
 * the new live state (a reference of the caller's), or NULL for a conflict. reads: objects (key_ino), sorted, in
 * which live must not have changed since. snapshot_since: a snapshot was made since it began, which allows the store to
 * refuse to refer to what live has given up meanwhile.
 */
enum kv_verdict kvmap_merge(struct kvmap *base, struct kvmap *mine, struct kvmap *live, const uint64_t *reads,
			    size_t n_reads, bool snapshot_since, struct kvmap **ret_result);

/* ---- all that a store holds ---- */

#define WORLD_SNAPSHOTS_MAX 8u
#define WORLD_COUNTERS 2u

struct world {
	uint64_t lsn; /* for messages */
	struct kvmap *live;
	unsigned n_snapshots;
	struct {
		char name[16];
		struct kvmap *state;
	} snapshot[WORLD_SNAPSHOTS_MAX]; /* sorted by name */
	uint64_t counter[WORLD_COUNTERS];
};

void world_init(struct world *); /* empty */
void world_release(struct world *);
void world_copy(struct world *to, const struct world *from);

int world_snapshot_find(const struct world *, const char *name); /* its index, or -1 */
void world_snapshot_add(struct world *, const char *name, struct kvmap *state); /* takes a reference of its own */
void world_snapshot_del(struct world *, unsigned index);

bool world_equal(const struct world *, const struct world *);
void world_print_diff(FILE *, const char *a_name, const struct world *a, const char *b_name, const struct world *b);

/* ---- the history ---- */

struct model {
	struct world *world; /* world[0] is the start, world[n - 1] is now */
	size_t n, cap;
	size_t durable;	     /* no crash leads to a world before this one */
};

void model_init(struct model *, const struct world *start); /* NULL: an empty store */
void model_release(struct model *);

const struct world *model_now(const struct model *);
/* Appends a world equal to the newest, for the caller to change. Ends earlier pointers into the history. */
struct world *model_next(struct model *);
void model_undo(struct model *);    /* the newest world did not come to be */
void model_settle(struct model *);  /* the newest world is durable */
void model_forget(struct model *);  /* drops all but the newest world, which is durable */

/* The newest world in lo..hi that equals `w`, or -1. */
long model_match(const struct model *, const struct world *w, size_t lo, size_t hi);

#endif

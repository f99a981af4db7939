/*
 * kv_gen.h - operations by chance
 *
 * A profile says how often each action comes and how large things get. Zero is "never" and "small".
 */
#ifndef ARBOR_TESTS_KIT_KV_GEN_H
#define ARBOR_TESTS_KIT_KV_GEN_H

#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"

struct kv_profile {
	const char *name;
	uint8_t weight[KV_ACTIONS_END];
	uint16_t inos;		/* objects 10 .. 10 + inos - 1 */
	uint16_t offs;		/* offsets 0 .. offs - 1 */
	uint16_t many_max;	/* values in one put-many */
	uint16_t extent_max;	/* blocks of one extent at the most; most are small */
	uint8_t in_txn;		/* out of 16 changes so many go to an open transaction */
};

struct kv_op kv_gen(const struct kv_profile *, struct rng *);

/* A bit of everything. */
extern const struct kv_profile kv_profile_mixed;
/* Large batches, many extents: what fills a device, and what empties it. */
extern const struct kv_profile kv_profile_heavy;
/* Snapshots, rollbacks, clones and transactions above all. */
extern const struct kv_profile kv_profile_views;

#endif

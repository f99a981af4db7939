/*
 * simdev_private.h - what the simulated disk's files share
 *
 * Everything is guarded by lock, except what is set at creation.
 */
#ifndef ARBOR_TESTS_KIT_SIMDEV_PRIVATE_H
#define ARBOR_TESTS_KIT_SIMDEV_PRIVATE_H

#include <pthread.h>

#include "tests/kit/pagemap.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"

/* What an operation puts at one block. The page is a reference; NULL: zeros. */
struct patch {
	uint64_t addr;
	struct page *page;
};

struct op {
	enum simdev_op kind;
	int err;
	bool completed;
	uint64_t addr, blocks;
	uint64_t covered;     /* see struct simdev_record */
	struct patch *patch;  /* of writes and discards; none where nothing changes */
	size_t patches;
	struct pagemap after; /* of flushes that succeeded: what is durable now */
	uint64_t open_after;  /* of those: every write before this one is covered */
};

struct simdev_image {
	struct pagemap map;
	uint64_t blocks;
};

struct fault {
	struct simdev_fault rule;
	uint64_t seen;
};

struct simdev {
	struct bdev dev; /* first: the ops are given this */
	bool opened;
	uint64_t seed;
	uint64_t blocks; /* what a resize finds */
	bool shuffle, no_trace;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct rng rng;

	struct pagemap now;  /* visible content */
	struct pagemap base; /* durable content before the trace's first operation */
	struct op *op;	     /* the trace: operation `first` + i */
	uint64_t first, ops, ops_cap;
	uint64_t open; /* every write before this one is covered */
	uint64_t count[SIMDEV_OPS];

	struct bio **pending; /* submitted and not completed (shuffle) */
	size_t n_pending, pending_cap;

	struct fault fault[SIMDEV_FAULTS];
	unsigned faults;
	uint64_t failed; /* by faults */
	int (*ask)(void *arg, enum simdev_op, uint64_t number, uint64_t addr, uint64_t blocks);
	void *ask_arg;
	uint64_t kill_at;
	bool dead;
};

void *simdev_must(void *p); /* aborts on NULL */

/* Puts a part of an operation's sectors into a map: a prefix, a suffix, all but one, or any subset. */
void simdev_tear(struct pagemap *, const struct patch *, size_t patches, struct rng *);

/* A simdev on a map, whose reference it takes over. */
struct simdev *simdev_on(struct pagemap map, uint64_t blocks, uint64_t seed);

#endif

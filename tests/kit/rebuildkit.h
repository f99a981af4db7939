/*
 * rebuildkit.h - stores to be damaged, rebuilt, and looked at
 *
 * A rebuildkit is a disk with a store of some shape that nobody has open, and the model of what it holds, with its history. What
 * is damaged is a clone of the disk. rebuildkit_expect() says everything that must hold of a disk after store_rebuild:
 *
 *	- a second rebuild finds nothing and writes nothing
 *	- the store opens, and the check finds nothing
 *	- live is what the model has, but for the ranges that were told as lost; where the log is damaged, what the model had at
 *	  some earlier operation. Snapshots are as they were, or it was told that they are not there
 *	- it goes on: changes, new and deleted snapshots, and the check still finds nothing
 *
 * Asserts, with what was found and what the engine said.
 */
#ifndef ARBOR_TESTS_KIT_REBUILDKIT_H
#define ARBOR_TESTS_KIT_REBUILDKIT_H

#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_gen.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"
#include "wal/rebuild.h"

#define REBUILDKIT_BLOCKS 1200u
#define REBUILDKIT_FINDINGS (REBUILD_SNAPSHOT + 1)
#define REBUILDKIT_SHAPES 6u

struct rebuildkit_shape {
	const char *name;
	bool copies, snapshots, rollback, log;
};
extern const struct rebuildkit_shape rebuildkit_shapes[REBUILDKIT_SHAPES];

struct rebuildkit {
	const struct rebuildkit_shape *shape;
	struct simdev *disk;
	struct kv_run run; /* its model, with all worlds */
	uint64_t log_start, log_blocks;
	unsigned tried, whole, part, snapshots_lost;
};

void rebuildkit_init(struct rebuildkit *, const struct rebuildkit_shape *);
/* The store and model of a run by chance, which ends at any moment. */
void rebuildkit_init_random(struct rebuildkit *, const struct kv_profile *, bool copies, unsigned ops, struct rng *);
void rebuildkit_release(struct rebuildkit *);
void rebuildkit_ops(struct kv_run *, const struct kv_op *, size_t n); /* each must succeed */
void rebuildkit_print(const struct rebuildkit *); /* the counts, as a comment */

enum rebuildkit_kind { KIND_SUPER, KIND_LOG, KIND_NODE, KIND_SPACE, KIND_DATA, KIND_UNUSED };
enum rebuildkit_kind rebuildkit_kind(const struct rebuildkit *, uint64_t addr);
/* how: 0 a flipped bit, 1 junk, 2 zeros. */
void rebuildkit_destroy(struct simdev *, uint64_t addr, unsigned how, struct rng *);

struct outcome {
	/* The caller's: */
	bool put;     /* put an item for each range that is lost */
	bool log_hit; /* several blocks of the log are gone: perhaps without a trace that it went on */
	int refuse;   /* what `lost` answers */
	struct salvage *salvage;

	struct rebuild_result res;
	struct rebuild_lost *lost;
	size_t n_lost;
	bool asked;
	unsigned found[REBUILDKIT_FINDINGS];
	char lines[8][160];
	unsigned n_lines;
};

int rebuildkit_rebuild(struct simdev *, struct outcome *);
void rebuildkit_outcome_release(struct outcome *);
void rebuildkit_print_outcome(const struct rebuildkit *, const char *what, uint64_t where, const struct outcome *);

/* contents: also compares what is there, and goes on with it. */
void rebuildkit_expect(struct rebuildkit *, struct simdev *, const struct outcome *, const char *what, uint64_t where,
		       bool contents);

#endif

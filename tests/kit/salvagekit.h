/*
 * salvagekit.h - stores to be salvaged: made by chance, with an item that repeats the superblock, and parts of them
 * wiped
 */
#ifndef ARBOR_TESTS_KIT_SALVAGEKIT_H
#define ARBOR_TESTS_KIT_SALVAGEKIT_H

#include "btree/super.h"
#include "tests/kit/kv_gen.h"
#include "tests/kit/model.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"
#include "wal/salvage.h"

#define SALVAGEKIT_BLOCKS 2500u

/* One view and no rollbacks: what its nodes say is never contradicted by others. */
extern const struct kv_profile salvagekit_plain;

/* Knows the item that salvagekit_make puts. */
extern const struct salvage_options salvagekit_options;

struct salvagekit {
	struct simdev *disk; /* as the store left it */
	struct kvmap *live;  /* what it held */
	struct super super;  /* the newest */
};

/* clean: closed and opened again, with nothing done since; else it was killed, and all it wrote is on the disk. */
void salvagekit_make(struct salvagekit *, const struct kv_profile *, uint64_t seed, unsigned steps, bool copies,
		     bool clean);
/* Another one over it. */
void salvagekit_again(struct salvagekit *, const struct kv_profile *, uint64_t seed, unsigned steps, bool copies,
		      bool clean);
void salvagekit_release(struct salvagekit *);

void salvagekit_wipe(struct simdev *, uint64_t addr, uint64_t blocks); /* zeros */
void salvagekit_wipe_supers(struct simdev *);
void salvagekit_wipe_node(struct simdev *, struct ref); /* all copies */

/* Blocks that begin like a node; how many. */
unsigned salvagekit_nodes(struct simdev *, uint64_t *ret, unsigned max);
/* Changes one field of a node of 4 KiB, with the checksum made right; what it is given is often another one's. */
void salvagekit_mutate(struct simdev *, uint64_t at, const uint64_t *nodes, unsigned n, struct rng *);
void salvagekit_fix_sum(uint8_t *node);

#endif

/*
 * checkrandom.h - items by chance: each valid by itself, and none of them as any operation would put it
 */
#ifndef ARBOR_TESTS_KIT_CHECKRANDOM_H
#define ARBOR_TESTS_KIT_CHECKRANDOM_H

#include "tests/kit/checkkit.h"
#include "tests/kit/rng.h"

/* Puts or deletes something of an inode that checkkit_init has made, or of a few numbers beside them, into the batch. */
void ck_random_item(struct checkkit *, struct rng *);

#endif

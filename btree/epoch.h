/*
 * epoch.h - "every operation begun before now has ended"
 *
 * Readers announce themselves with epoch_enter/epoch_exit and take no lock. Whoever takes something out of their reach
 * (a node out of the cache, a block out of the tree) draws a stamp after having done so; once epoch_passed(stamp) says
 * true, no reader can still hold it, and memory or block may be used again. This is epoch-based reclamation as in
 * K. Fraser, "Practical lock-freedom" (2004), section 5.2.3, with one slot a thread.
 *
 * Threads: everything may be called from any thread. An enter may be nested (a second slot is taken). An operation
 * inside an epoch may wait for device reads, but never for someone who waits for epoch_passed.
 */
#ifndef ARBOR_BTREE_EPOCH_H
#define ARBOR_BTREE_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

struct epoch;

int epoch_open(struct epoch **ret);
void epoch_close(struct epoch *); /* accepts NULL; no one may be inside */

/* Enters; returns the slot to give to epoch_exit. Costs one uncontended atomic exchange. At most 512 at once: a
 * further one spins until a slot is free. */
unsigned epoch_enter(struct epoch *);
void epoch_exit(struct epoch *, unsigned slot);

/* A stamp for what has been taken out of reach before this call. Stamps never decrease. */
uint64_t epoch_stamp(struct epoch *);

/* Whether everyone who was inside when `stamp` was drawn has left. Looks at each slot once; never waits. */
bool epoch_passed(struct epoch *, uint64_t stamp);

#endif

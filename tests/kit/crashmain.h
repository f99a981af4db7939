/*
 * crashmain.h - the command line of crash_kv and crash_fs: which plans, in which order, for how long
 *
 * First what is always done: every sequence of up to two operations of a table, and a core of those of three. Then, until
 * enough states have been tried or the time is over, all sequences of three in an order by seed, and random runs between them.
 * Several processes may share the work (--shard 0/8): what is numbered is dealt out in turn.
 */
#ifndef ARBOR_TESTS_KIT_CRASHMAIN_H
#define ARBOR_TESTS_KIT_CRASHMAIN_H

#include "tests/kit/crash.h"

struct crashmain_args {
	uint64_t seed, states;
	unsigned shard, shards, depth;
	double seconds;
	bool exhaustive, random, all;
	bool limited; /* states or seconds were asked for: they end what is always done, too */
	const char *plan, *replay;
};

/* All results are crash_plan's. Names: of what is numbered, NULL behind the last. */
struct crashmain {
	const char *promise; /* the test's name */
	struct crash *crash;
	uint64_t states; /* of one shard, unless told otherwise */
	bool can_all;	 /* there is an --all */
	void (*begin)(void);
	void (*end)(void);
	int (*first)(const struct crashmain *, const struct crashmain_args *); /* before the sequences; NULL: none */

	const char *(*op)(size_t i);
	const char *(*base)(size_t i); /* what a sequence begins with */
	size_t bases;		       /* of them, the first so many are for every sequence */
	const char *const *kinds;      /* the ways in which a sequence is tried */
	bool (*core)(size_t op);       /* all sequences of three of these are always tried; NULL: none */
	size_t core_base;
	/* args NULL: one that was asked for by name. */
	int (*sequence)(const struct crashmain_args *, size_t base, size_t kind, const size_t *ops, size_t len);

	const char *(*shape)(size_t i); /* of random runs */
	int (*random)(const struct crashmain_args *, size_t shape, uint64_t seed);

	/* Prints more; what must not be is told by a result that is not 0. NULL: nothing. */
	int (*report)(const struct crashmain_args *);
};

int crashmain(const struct crashmain *, int argc, char **argv);
/* The plan "KIND:BASE:op,op,op" or "random:SHAPE:SEED". Exits with a message where something of it is not there. */
int crashmain_named(const struct crashmain *, const char *plan);
#define CRASHMAIN_SEQUENCE 8u /* operations at the most */

#endif

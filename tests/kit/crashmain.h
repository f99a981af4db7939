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

/* All results are crash_plan's. */
struct crashmain {
	const char *promise; /* the test's name */
	const char *plans;   /* how plans are named */
	struct crash *crash;
	uint64_t states; /* of one shard, unless told otherwise */
	bool can_all;	 /* there is an --all */
	void (*begin)(void);
	void (*end)(void);
	int (*first)(const struct crashmain *,
		     const struct crashmain_args *); /* other plans, before the sequences; NULL: none */
	uint64_t (*sequences)(unsigned len);	     /* how many there are */
	int (*sequence)(const struct crashmain_args *, uint64_t number, unsigned len);
	uint64_t (*cores)(void); /* sequences of three that are always tried, numbered by themselves; NULL: none */
	int (*core)(const struct crashmain_args *, uint64_t number);
	int (*random)(const struct crashmain_args *, uint64_t nth); /* the nth of this shard */
	int (*named)(const struct crashmain *, const char *plan);
	/* Prints more; what must not be is told by a result that is not 0. */
	int (*report)(const struct crashmain_args *);
};

int crashmain(const struct crashmain *, int argc, char **argv);

/* For named; they exit with a message where something is not there. */
typedef const char *crashmain_name(size_t i);
size_t crashmain_find(const char *what, const char *at, size_t len, crashmain_name *name, size_t n);
/* Takes "kind:second:rest" apart: *ret_second has *ret_len bytes. Returns the rest. */
const char *crashmain_split(const struct crashmain *, const char *plan, const char **ret_second, size_t *ret_len);
#define CRASHMAIN_SEQUENCE 8u
/* Fills seq with the operations that `list` names, "op,op,op"; how many. */
size_t crashmain_list(const char *list, crashmain_name *name, size_t n, size_t seq[CRASHMAIN_SEQUENCE]);

#endif

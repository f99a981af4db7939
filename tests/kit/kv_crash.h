/*
 * kv_crash.h - every way a run can end early, and what must be found afterwards
 *
 * A plan is carried out once, on a simulated disk that remembers every write. Then the disk is taken as it might be after a
 * crash right behind each of these writes, with each write that no flush had covered kept, dropped or torn; the store is
 * opened on it, and what it holds must be one of the worlds the model allows there, data included. store_check must find
 * nothing. Some of the states are crashed again inside their recovery (and again inside that one), which must not change
 * what is recovered; on some the work goes on for a while before the next crash.
 *
 * A state that differs from one tested before only by writes that did not happen is not tested again: the newest write is
 * never dropped.
 *
 * Every state can be tried alone: a *path* such as "c17:KKDT:99/r3:K:5" says at which disk operation of the plan, with what
 * choices and which seed, then the same inside the recovery. It is printed with every failure.
 */
#ifndef ARBOR_TESTS_KIT_KV_CRASH_H
#define ARBOR_TESTS_KIT_KV_CRASH_H

#include "tests/kit/kv_run.h"

#define KV_CRASH_DEPTH 3u
#define KV_CRASH_CHOICES 1024u /* writes without a flush between them */

struct kv_crash_options {
	uint64_t per_point;	 /* states at one point at the most; more are sampled */
	uint64_t per_point_again; /* the same inside recovery */
	unsigned recovery_one_in; /* so many states are not crashed inside recovery for one that is; 0: none is */
	unsigned go_on_one_in;	 /* the same for going on */
	unsigned slot_one_in;	 /* the same for losing the newest superblock slot besides, where both are whole */
	unsigned points_one_in;	 /* not every point; 0, 1: every one */
};

/* A run to be crashed. */
struct kv_plan {
	const char *name; /* what reproduces it, for messages */
	const struct simdev_image *base;
	const struct world *start; /* what base holds */
	struct store_options opt;
	const struct kv_op *ops;
	size_t n_ops;
	size_t first; /* crash points: in ops[first] and later; with opening, before them too */
	bool opening;
	bool shuffle; /* transfers complete in any order */
	bool idle_ends; /* an operation that has nothing to do ends it: the shorter plan is as good */
	bool full_ok;	/* -ENOSPC and -EFBIG are no failures */
	uint64_t seed;
};

struct kv_level {
	char kind; /* c: in the plan; r: in a recovery; g: going on; s: the newest superblock slot is lost */
	uint64_t n, seed;
	char choice[KV_CRASH_CHOICES + 1];
};

struct kv_crash {
	struct kv_crash_options opt;
	struct kv_level replay[KV_CRASH_DEPTH]; /* only this state */
	unsigned n_replay;

	uint64_t plans, idle, points, states, recoveries, went_on, slots; /* counted */
	uint64_t full;	      /* operations refused for want of room */
	struct kv_level at[KV_CRASH_DEPTH]; /* where we are */
	unsigned depth;
};

/* 0: all well. 1: the plan has an idle operation (nothing was tested). -EPROTO: a failure, which has been printed. */
int kv_crash_plan(struct kv_crash *, const struct kv_plan *);

/* Fills in c->replay. false: not a path. */
bool kv_crash_parse(struct kv_crash *, const char *path);

/* Makes a store on a fresh disk and runs `ops` on it: something to begin plans with. kill: leaves it without closing.
 * Aborts with a message when that fails. */
struct kv_base {
	struct simdev_image *image;
	struct world world;
};
void kv_base_make(struct kv_base *, const struct store_mkfs_options *, uint64_t blocks, const struct store_options *,
		  const struct kv_op *ops, size_t n, bool kill, uint64_t seed);
void kv_base_release(struct kv_base *);

/* The options of tests that must be deterministic: no threads, small cache. */
extern const struct store_options kv_store_options;
/* 4 KiB nodes, the smallest log, a fixed seed. */
extern const struct store_mkfs_options kv_mkfs_options;

#endif

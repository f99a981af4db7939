/*
 * kv_crash.h - crash.h for stores: operations on items against the model, and what must be found after a crash
 *
 * What is recovered must be one of the worlds the model allows there, data included; store_check must find nothing.
 */
#ifndef ARBOR_TESTS_KIT_KV_CRASH_H
#define ARBOR_TESTS_KIT_KV_CRASH_H

#include "tests/kit/crash.h"
#include "tests/kit/kv_run.h"

/* A run to be crashed. */
struct kv_plan {
	struct crash_plan plan;
	const struct world *start; /* what its base holds */
	struct store_options opt;
	const struct kv_op *ops;
	size_t n_ops;
	bool idle_ends; /* an operation that has nothing to do ends it: the shorter plan is as good */
	bool full_ok;	/* -ENOSPC and -EFBIG are no failures */
};

extern const struct crash_world kv_crash_world;

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

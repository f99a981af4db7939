/*
 * crash_kv.c - what is recovered after every possible crash
 *
 * Two kinds of plans are crashed (tests/kit/crash.h says how):
 *
 *  - exhaustive: every sequence of up to three operations of the table below, on each of several states to begin with.
 *    Sequences of one and two are always all tried, those of three in an order by seed, as many as time allows; with
 *    enough time, each of them once.
 *  - random: hundreds of operations by seed, on devices of different shape: tiny log, second copies, nothing riding,
 *    nearly full.
 *
 * What one operation can do is crashed only as the last of a sequence: as an earlier one it was in the shorter sequence.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kit/crashmain.h"
#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_gen.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"
#include "wal/log.h"

/* ---- the table ---- */

#define A 10 /* bytes */
#define B 11
#define E 20 /* a small extent */
#define L 21 /* a large one */
#define F 22 /* clones */
#define G 23

struct named_op {
	const char *name;
	struct kv_op op;
};

static const struct named_op table[] = {
	{ "put", { .action = KV_PUT, .ino = A, .len = 20 } },
	{ "put-b", { .action = KV_PUT, .ino = B, .len = 300 } },
	{ "put-3000", { .action = KV_PUT_MANY, .ino = A, .off = 1, .n = 4, .len = 750 } },
	{ "del", { .action = KV_DEL, .ino = A } },
	{ "del-range", { .action = KV_DEL_INO, .ino = A } },
	{ "mix", { .action = KV_MIX, .ino = A, .n = 5, .seed = 3 } },
	{ "extent", { .action = KV_EXTENT, .ino = E, .n = 2, .seed = 1 } },
	{ "extent-3", { .action = KV_EXTENT, .ino = E, .n = 3, .seed = 2 } },
	{ "large", { .action = KV_EXTENT, .ino = L, .n = 20, .seed = 1 } },
	{ "both", { .action = KV_TWO_EXTENTS, .ino = E, .ino2 = L, .n = 18, .len = 1, .seed = 1 } },
	{ "del-extent", { .action = KV_DEL, .ino = E } },
	{ "del-large", { .action = KV_DEL_INO, .ino = L } },
	{ "claim", { .action = KV_CLAIM, .ino = G, .off = 8, .n = 3 } },
	{ "fill", { .action = KV_FILL, .ino = G, .off = 8, .seed = 1 } },
	{ "clone", { .action = KV_CLONE, .ino = E, .ino2 = F } },
	{ "clone-part", { .action = KV_CLONE, .ino = L, .ino2 = G, .n = 4, .seed = 1 } },
	{ "move", { .action = KV_MOVE, .ino = F, .ino2 = G } },
	{ "split", { .action = KV_SPLIT, .ino = L, .seed = 5 } },
	{ "del-clone", { .action = KV_DEL, .ino = F } },
	{ "sync", { .action = KV_SYNC } },
	{ "tick", { .action = KV_TICK } },
	{ "checkpoint", { .action = KV_CHECKPOINT } },
	{ "snap-create", { .action = KV_SNAP_CREATE } },
	{ "snap-delete", { .action = KV_SNAP_DELETE } },
	{ "snap-delete-last", { .action = KV_SNAP_DELETE, .slot = 255 } },
	{ "rollback", { .action = KV_SNAP_ROLLBACK } },
	{ "txn-begin", { .action = KV_TXN_BEGIN } },
	{ "txn-put", { .action = KV_PUT, .view = 1, .ino = A, .len = 50 } },
	{ "txn-extent", { .action = KV_EXTENT, .view = 1, .ino = E, .n = 3, .seed = 1 } },
	{ "txn-clone", { .action = KV_CLONE, .view = 1, .ino = E, .ino2 = F } },
	{ "txn-del", { .action = KV_DEL_INO, .view = 1, .ino = L } },
	{ "txn-commit", { .action = KV_TXN_COMMIT } },
	{ "txn-commit-nosync", { .action = KV_TXN_COMMIT, .n = 1 } },
	{ "txn-abort", { .action = KV_TXN_ABORT } },
	{ "reopen", { .action = KV_REOPEN } },
	{ "kill", { .action = KV_KILL } },
};
#define OPS ARRAY_LEN(table)

/* ---- what sequences begin with ---- */

static const struct kv_op fill_ops[] = {
	{ .action = KV_PUT, .ino = A, .len = 40 },
	{ .action = KV_PUT_MANY, .ino = 9, .n = 12, .len = 700 },
	{ .action = KV_EXTENT, .ino = E, .n = 2, .seed = 1 },
	{ .action = KV_EXTENT, .ino = L, .n = 20, .seed = 1 },
	{ .action = KV_CLONE, .ino = E, .ino2 = F },
	{ .action = KV_SNAP_CREATE },
	{ .action = KV_PUT, .ino = B, .len = 40 },
	{ .action = KV_SPLIT, .ino = L, .seed = 9 },
	{ .action = KV_EXTENT, .ino = G, .n = 3, .seed = 1 },
};

static const struct kv_op log_ops[] = {
	{ .action = KV_PUT, .ino = A, .len = 40 },
	{ .action = KV_EXTENT, .ino = E, .n = 2, .seed = 1 },
	{ .action = KV_EXTENT, .ino = L, .n = 19, .seed = 1 },
	{ .action = KV_CHECKPOINT },
	{ .action = KV_CLONE, .ino = E, .ino2 = F },
	{ .action = KV_EXTENT, .ino = G, .n = 3, .seed = 1 },
	{ .action = KV_DEL, .ino = A },
	{ .action = KV_SYNC },
	{ .action = KV_SPLIT, .ino = L, .seed = 9 },
	{ .action = KV_EXTENT, .ino = E, .n = 1, .seed = 2 },
	{ .action = KV_SYNC },
};

/* Two snapshots of which the newer was rolled away from, and a third beside it. */
static const struct kv_op tree_ops[] = {
	{ .action = KV_EXTENT, .ino = E, .n = 2, .seed = 1 },
	{ .action = KV_EXTENT, .ino = L, .n = 18, .seed = 1 },
	{ .action = KV_SNAP_CREATE, .slot = 1 },
	{ .action = KV_CLONE, .ino = E, .ino2 = F },
	{ .action = KV_EXTENT, .ino = L, .n = 3, .seed = 2 },
	{ .action = KV_SNAP_CREATE, .slot = 2 },
	{ .action = KV_DEL, .ino = E },
	{ .action = KV_SNAP_ROLLBACK, .slot = 1 },
	{ .action = KV_PUT, .ino = A, .len = 40 },
	{ .action = KV_DEL_INO, .ino = L },
	{ .action = KV_CLONE, .ino = E, .ino2 = G },
	{ .action = KV_SNAP_CREATE, .slot = 3 },
	{ .action = KV_EXTENT, .ino = E, .n = 1, .seed = 3 },
};

static const struct base_row {
	const char *name;
	const struct kv_op *ops;
	size_t n;
	bool kill;
} base_rows[] = {
	{ "empty", NULL, 0, false },
	{ "full", fill_ops, ARRAY_LEN(fill_ops), false },
	{ "log", log_ops, ARRAY_LEN(log_ops), true },
	{ "tree", tree_ops, ARRAY_LEN(tree_ops), false },
};
#define BASES ARRAY_LEN(base_rows)

#define BLOCKS (STORE_BLOCKS_MIN + 128)

/* ---- random plans: shapes of devices ---- */

static const struct shape {
	const char *name;
	const struct kv_profile *profile;
	uint64_t blocks;
	uint32_t node_size;
	unsigned frames, log_blocks;
	bool copies, discard;
	unsigned ride_max;
	unsigned ops;
} shapes[] = {
	{ "small", &kv_profile_mixed, 700, 4096, 64, LOG_BLOCKS_MIN, false, false, 0, 250 },
	{ "views", &kv_profile_views, 900, 4096, 64, LOG_BLOCKS_MIN, false, true, 0, 250 },
	{ "heavy", &kv_profile_heavy, 1400, 4096, 64, LOG_BLOCKS_MIN, false, false, 0, 250 },
	{ "full", &kv_profile_heavy, 620, 4096, 64, LOG_BLOCKS_MIN, false, true, 0, 300 },
	{ "copies", &kv_profile_mixed, 1200, 8192, 100, 96, true, false, 4, 250 },
	{ "no-riding", &kv_profile_mixed, 1600, 16384, 100, 128, false, true, UINT32_MAX, 250 },
};
#define SHAPES ARRAY_LEN(shapes)

/* ---- the run ---- */

static const char *const kinds[] = { "exhaustive", NULL };
static struct kv_base bases[BASES];
static struct crash crash = {
	.world = &kv_crash_world,
	.opt = { .per_point = 8, .per_point_again = 2, .recovery_one_in = 60, .go_on_one_in = 40, .slot_one_in = 8 },
};

static void make_bases(void)
{
	for (size_t i = 0; i < BASES; i++)
		kv_base_make(&bases[i], &kv_mkfs_options, BLOCKS, &kv_store_options, base_rows[i].ops, base_rows[i].n,
			     base_rows[i].kill, 1000 + i);
}

static void free_bases(void)
{
	for (size_t i = 0; i < BASES; i++)
		kv_base_release(&bases[i]);
}

static int run_sequence(const struct crashmain_args *a, size_t base, size_t kind, const size_t *seq, size_t len)
{
	struct kv_op ops[CRASHMAIN_SEQUENCE];
	char name[256];
	int at = snprintf(name, sizeof(name), "%s:%s:", kinds[kind], base_rows[base].name);
	struct kv_plan plan = {
		.plan = { .name = name, .base = bases[base].image, .first = len ? len - 1 : 0, .opening = len == 0,
			  .seed = 1 + base },
		.start = &bases[base].world, .opt = kv_store_options, .ops = ops, .n_ops = len, .idle_ends = true,
	};

	(void)a;
	for (size_t i = 0; i < len; i++) {
		ops[i] = table[seq[i]].op;
		at += snprintf(name + at, sizeof(name) - (size_t)at, "%s%s", i ? "," : "", table[seq[i]].name);
	}
	/* In any order, where that makes a difference: one half of the plans. */
	plan.plan.shuffle = len && seq[0] % 2;
	return crash_plan(&crash, &plan.plan);
}

static int run_shape(const struct crashmain_args *a, size_t shape, uint64_t seed)
{
	const struct shape *s = &shapes[shape];
	struct store_mkfs_options mkfs = kv_mkfs_options;
	struct kv_op *ops = calloc(s->ops, sizeof(*ops));
	struct kv_base base;
	struct rng rng;
	char name[80];
	struct kv_plan plan = {
		.plan = { .name = name, .opening = true, .seed = seed, .shuffle = seed % 2 },
		.opt = kv_store_options, .ops = ops, .n_ops = s->ops, .full_ok = true,
	};
	struct crash_options keep = crash.opt;
	int err;

	(void)a;
	if (!ops)
		abort();
	snprintf(name, sizeof(name), "random:%s:%" PRIu64, s->name, seed);
	mkfs.node_size = s->node_size;
	mkfs.log_blocks = s->log_blocks;
	mkfs.copies = s->copies;
	plan.opt.cache_bytes = (size_t)s->frames * s->node_size;
	plan.opt.discard = s->discard;
	plan.opt.ride_max = s->ride_max;
	rng_seed(&rng, rng_mix(seed, shape));
	for (unsigned i = 0; i < s->ops; i++)
		ops[i] = kv_gen(s->profile, &rng);
	kv_base_make(&base, &mkfs, s->blocks, &plan.opt, NULL, 0, false, seed);
	plan.plan.base = base.image;
	plan.start = &base.world;

	crash.opt.points_one_in = 12;
	crash.opt.per_point = 3;
	err = crash_plan(&crash, &plan.plan);
	crash.opt = keep;
	kv_base_release(&base);
	free(ops);
	return err;
}

static const char *op_name(size_t i)
{
	return i < OPS ? table[i].name : NULL;
}

static const char *base_name(size_t i)
{
	return i < BASES ? base_rows[i].name : NULL;
}

static const char *shape_name(size_t i)
{
	return i < SHAPES ? shapes[i].name : NULL;
}

static const struct crashmain crash_kv = {
	.promise = "every crash leads to an allowed world",
	.crash = &crash,
	.states = 100000,
	.begin = make_bases,
	.end = free_bases,
	.op = op_name,
	.base = base_name,
	.bases = BASES,
	.kinds = kinds,
	.sequence = run_sequence,
	.shape = shape_name,
	.random = run_shape,
};

int main(int argc, char **argv)
{
	return crashmain(&crash_kv, argc, argv);
}

/*
 * crash_kv.c - what is recovered after every possible crash
 *
 * Two kinds of plans are crashed (tests/kit/kv_crash.h says how):
 *
 *  - exhaustive: every sequence of up to three operations of the table below, on each of several states to begin with.
 *    Sequences of one and two are always all tried, those of three in an order by seed, as many as time allows; with
 *    enough time, each of them once.
 *  - random: hundreds of operations by seed, on devices of different shape: tiny log, second copies, nothing riding,
 *    nearly full.
 *
 * What one operation can do is crashed only as the last of a sequence: as an earlier one it was in the shorter sequence.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

struct args {
	uint64_t seed, states;
	unsigned shard, shards, depth;
	double seconds;
	bool exhaustive, random;
	const char *plan, *replay;
};

static struct kv_base bases[BASES];
static struct kv_crash crash;
static double started;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void make_bases(void)
{
	for (size_t i = 0; i < BASES; i++)
		kv_base_make(&bases[i], &kv_mkfs_options, BLOCKS, &kv_store_options, base_rows[i].ops, base_rows[i].n,
			     base_rows[i].kill, 1000 + i);
}

static bool over(const struct args *a)
{
	return crash.states >= a->states || now() - started >= a->seconds;
}

static int run_sequence(size_t base, const size_t *seq, size_t len)
{
	struct kv_op ops[8];
	char name[256];
	int at = snprintf(name, sizeof(name), "exhaustive:%s:", base_rows[base].name);
	struct kv_plan plan = {
		.name = name, .base = bases[base].image, .start = &bases[base].world, .opt = kv_store_options,
		.ops = ops, .n_ops = len, .first = len ? len - 1 : 0, .opening = len == 0, .idle_ends = true,
		.seed = 1 + base,
	};

	for (size_t i = 0; i < len; i++) {
		ops[i] = table[seq[i]].op;
		at += snprintf(name + at, sizeof(name) - (size_t)at, "%s%s", i ? "," : "", table[seq[i]].name);
	}
	/* In any order, where that makes a difference: one half of the plans. */
	plan.shuffle = len && seq[0] % 2;
	return kv_crash_plan(&crash, &plan);
}

/* All sequences of `len`, numbered: base first, then the operations. */
static uint64_t sequences(unsigned len)
{
	uint64_t n = BASES;

	while (len--)
		n *= OPS;
	return n;
}

static int run_number(uint64_t number, unsigned len)
{
	size_t base = number % BASES, seq[8];

	number /= BASES;
	for (unsigned i = 0; i < len; i++) {
		seq[i] = number % OPS;
		number /= OPS;
	}
	return run_sequence(base, seq, len);
}

static int run_random(uint64_t seed, size_t shape)
{
	const struct shape *s = &shapes[shape];
	struct store_mkfs_options mkfs = kv_mkfs_options;
	struct kv_op *ops = calloc(s->ops, sizeof(*ops));
	struct kv_base base;
	struct rng rng;
	char name[80];
	struct kv_plan plan = {
		.name = name, .opt = kv_store_options, .ops = ops, .n_ops = s->ops, .opening = true, .full_ok = true,
		.seed = seed, .shuffle = seed % 2,
	};
	struct kv_crash_options keep = crash.opt;
	int err;

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
	plan.base = base.image;
	plan.start = &base.world;

	crash.opt.points_one_in = 12;
	crash.opt.per_point = 3;
	err = kv_crash_plan(&crash, &plan);
	crash.opt = keep;
	kv_base_release(&base);
	free(ops);
	return err;
}

/* ---- by name ---- */

static size_t find_op(const char *name, size_t len)
{
	for (size_t i = 0; i < OPS; i++)
		if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
			return i;
	printf("no such operation: %.*s\n", (int)len, name);
	exit(2);
}

static int run_named(const char *plan)
{
	const char *rest = strchr(plan, ':'), *second = rest ? strchr(rest + 1, ':') : NULL;
	size_t seq[8], n = 0;

	if (!second) {
		printf("a plan is exhaustive:BASE:op,op,op or random:SHAPE:SEED\n");
		exit(2);
	}
	rest++;
	if (strncmp(plan, "random:", 7) == 0) {
		for (size_t i = 0; i < SHAPES; i++)
			if (strncmp(rest, shapes[i].name, (size_t)(second - rest)) == 0)
				return run_random(strtoull(second + 1, NULL, 0), i);
		printf("no such shape\n");
		exit(2);
	}
	for (const char *p = second + 1; *p && n < ARRAY_LEN(seq);) {
		size_t len = strcspn(p, ",");

		seq[n++] = find_op(p, len);
		p += len + (p[len] == ',');
	}
	for (size_t i = 0; i < BASES; i++)
		if (strlen(base_rows[i].name) == (size_t)(second - rest) &&
		    memcmp(rest, base_rows[i].name, (size_t)(second - rest)) == 0)
			return run_sequence(i, seq, n);
	printf("no such state to begin with\n");
	exit(2);
}

/* ---- all ---- */

static uint64_t coprime(uint64_t n, uint64_t seed)
{
	uint64_t p = (seed * 2 + 1) * UINT64_C(0x9e3779b97f4a7c15) % n;

	for (;; p++) {
		uint64_t a = n, b = p;

		while (b) {
			uint64_t t = a % b;

			a = b;
			b = t;
		}
		if (a == 1)
			return p;
	}
}

static int report(const struct args *a, int err, uint64_t threes)
{
	printf("# states %" PRIu64 ", plans %" PRIu64 " (and %" PRIu64 " idle), points %" PRIu64 ", crashed inside recovery %" PRIu64
	       ", went on after %" PRIu64 ", newest slot lost %" PRIu64 ", refused for want of room %" PRIu64 "\n",
	       crash.states, crash.plans, crash.idle, crash.points, crash.recoveries, crash.went_on, crash.slots, crash.full);
	if (a->exhaustive)
		printf("# sequences of three: %" PRIu64 " of %" PRIu64 "\n", threes, sequences(3) / a->shards);
	printf("# %.1f s, %.3f ms a state\n", now() - started, (now() - started) * 1000 / (double)(crash.states | 1));
	printf("%s - every crash leads to an allowed world\n", err ? "not ok 1" : "ok 1");
	fflush(stdout);
	return err ? 1 : 0;
}

static int run_all(const struct args *a)
{
	uint64_t total = sequences(3), step = coprime(total, a->seed), threes = 0, randoms = 0;
	int err = 0;

	printf("1..1\n");
	for (unsigned len = 0; a->exhaustive && len <= a->depth && len <= 2; len++)
		for (uint64_t i = a->shard; err >= 0 && i < sequences(len) && !over(a); i += a->shards)
			err = run_number(i, len);
	while (err >= 0 && !over(a)) {
		bool more = a->exhaustive && a->depth > 2 && a->shard + threes * a->shards < total;

		if (!more && !a->random)
			break;
		if (a->random && (!more || randoms * 40 <= threes)) {
			uint64_t k = randoms++ * a->shards + a->shard;

			err = run_random(rng_mix(a->seed, k) >> 32, k % SHAPES);
		} else {
			uint64_t k = a->shard + threes++ * a->shards;

			err = run_number((uint64_t)((unsigned __int128)k * step % total), 3);
		}
	}
	return report(a, err < 0 ? err : 0, threes);
}

static void usage(void)
{
	printf("crash_kv [--seed N] [--states N] [--seconds N] [--shard I/N] [--depth 0..3] [--exhaustive | --random]\n"
	       "         [--plan NAME [--replay PATH]]\n"
	       "ARBOR_SEED and ARBOR_CRASH_SECONDS in the environment set the defaults\n");
	exit(2);
}

static void parse(struct args *a, int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },    { "states", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 't' }, { "shard", required_argument, NULL, 'S' },
		{ "depth", required_argument, NULL, 'd' },   { "exhaustive", no_argument, NULL, 'e' },
		{ "random", no_argument, NULL, 'r' },	     { "plan", required_argument, NULL, 'p' },
		{ "replay", required_argument, NULL, 'R' },  { NULL, 0, NULL, 0 },
	};
	const char *env;
	int o;

	*a = (struct args){ .seed = 1, .states = 100000, .seconds = 1e9, .shards = 1, .depth = 3, .exhaustive = true,
			    .random = true };
	env = getenv("ARBOR_SEED");
	if (env && *env)
		a->seed = strtoull(env, NULL, 0);
	env = getenv("ARBOR_CRASH_SECONDS");
	if (env && *env) {
		a->seconds = strtod(env, NULL);
		a->states = UINT64_MAX;
	}
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 's':
			a->seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			a->states = strtoull(optarg, NULL, 0);
			break;
		case 't':
			a->seconds = strtod(optarg, NULL);
			a->states = UINT64_MAX;
			break;
		case 'S':
			if (sscanf(optarg, "%u/%u", &a->shard, &a->shards) != 2 || a->shard >= a->shards)
				usage();
			break;
		case 'd':
			a->depth = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'e':
			a->random = false;
			break;
		case 'r':
			a->exhaustive = false;
			break;
		case 'p':
			a->plan = optarg;
			break;
		case 'R':
			a->replay = optarg;
			break;
		default:
			usage();
		}
	}
	if (optind != argc)
		usage();
}

int main(int argc, char **argv)
{
	struct args a;
	int err;

	parse(&a, argc, argv);
	crash.opt = (struct kv_crash_options){ .per_point = 8, .per_point_again = 2, .recovery_one_in = 60, .go_on_one_in = 40,
						 .slot_one_in = 8 };
	started = now();
	if (a.replay && (!a.plan || !kv_crash_parse(&crash, a.replay)))
		usage();
	kv_log_quiet();
	printf("# seed %" PRIu64 "\n", a.seed);
	make_bases();
	if (a.plan) {
		err = run_named(a.plan);
		printf("# result %d, %" PRIu64 " states\n", err, crash.states);
		err = err < 0;
	} else {
		err = run_all(&a);
	}
	for (size_t i = 0; i < BASES; i++)
		kv_base_release(&bases[i]);
	return err;
}

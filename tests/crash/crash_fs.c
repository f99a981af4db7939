/*
 * crash_fs.c - what files are there after every possible power cut
 *
 * Two kinds of plans are crashed (tests/kit/fscrash.h says how):
 *
 *  - exhaustive: every sequence of up to three rows of the table below, on each of several filesystems to begin with, and
 *    then a sync and a checkpoint. Sequences of one and two are always all tried, those of three in an order by seed,
 *    as many as time allows. Of a sequence of one all points are crashed, of longer ones some, by seed; with --all, all of
 *    them, and all sequences. Each twice: with the log written when somebody asks for it, and behind every batch
 *    ("stepwise"), so that a crash comes between any two.
 *  - random: some hundred operations by seed, on devices of different shape.
 *
 * What one row can do is crashed only as the last of a sequence: as an earlier one it was in the shorter sequence. And a
 * sequence with a row that has nothing to do there (a name that does not exist) is the shorter sequence.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/orphan.h"
#include "tests/kit/fscrash.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

/* ---- the table ---- */

#define ROW_STEPS 6u

struct row {
	const char *name;
	struct fsworld_step step[ROW_STEPS];
	unsigned n;
};

/* Two directories, the root and the first that every filesystem here has made; names by number, 0 is "a". */
#define R FSM_ROOT
#define D (FSM_ROOT + 1)
#define AT(d, n) .at = { -1, (d), (n) }
#define TO(d, n) .to = { -1, (d), (n) }
#define NOWHERE .to = { -1, FSM_ROOT, 0 }
#define HELD(h) .at = { (h), FSM_ROOT, FSOP_SELF }

#define ONE(kind_, ...) { { .op = { .kind = FSOP_##kind_, __VA_ARGS__ } } }, 1
#define STEP(kind_, ...)                                                                                               \
	{                                                                                                              \
		.op = {.kind = FSOP_##kind_, __VA_ARGS__ }                                                             \
	}

#define FILE_MODE .mode = S_IFREG | 0644
#define DIR_MODE .mode = S_IFDIR | 0755
#define TRUSTED 3 /* an attribute that everything may have, devices too */

static const struct row table[] = {
	{ "create", ONE(CREATE, AT(R, 1), NOWHERE, FILE_MODE) },
	{ "small",
	  { STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE), STEP(WRITE, AT(R, 0), NOWHERE, .len = 100, .seed = 1) },
	  2 },
	{ "write-small", ONE(WRITE, AT(R, 0), NOWHERE, .off = 30, .len = 300, .seed = 2) },
	{ "write-block", ONE(WRITE, AT(R, 0), NOWHERE, .len = 4096, .seed = 3) },
	{ "write-large", ONE(WRITE, AT(R, 0), NOWHERE, .len = 70000, .seed = 4) },
	{ "write-over", ONE(WRITE, AT(R, 0), NOWHERE, .off = 3000, .len = 10000, .seed = 5) },
	{ "write-d",
	  { STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	    STEP(WRITE, AT(D, 0), NOWHERE, .off = 8192, .len = 66000, .seed = 6) },
	  2 },
	{ "over-d", ONE(WRITE, AT(D, 0), NOWHERE, .off = 20000, .len = 30000, .seed = 7) },
	{ "append", ONE(APPEND, AT(R, 0), NOWHERE, .len = 5000, .seed = 8) },
	{ "truncate-0", ONE(TRUNCATE, AT(R, 0), NOWHERE) },
	{ "truncate-small", ONE(TRUNCATE, AT(R, 0), NOWHERE, .off = 70) },
	{ "truncate-down", ONE(TRUNCATE, AT(R, 0), NOWHERE, .off = 9001) },
	{ "truncate-up", ONE(TRUNCATE, AT(R, 0), NOWHERE, .off = 200000) },
	{ "truncate-up-d", ONE(TRUNCATE, AT(D, 0), NOWHERE, .off = 300001) },
	{ "rename", ONE(RENAME, AT(R, 0), TO(R, 1)) },
	{ "rename-over", ONE(RENAME, AT(R, 0), TO(D, 0)) },
	{ "rename-back", ONE(RENAME, AT(D, 0), TO(R, 0)) },
	{ "exchange", ONE(RENAME, AT(R, 0), TO(D, 0), .mode = RENAME_EXCHANGE) },
	{ "exchange-dir", ONE(RENAME, AT(R, 0), TO(D, 4), .mode = RENAME_EXCHANGE) },
	{ "whiteout",
	  { STEP(LINK, AT(R, 0), TO(R, 6)), STEP(RENAME, AT(R, 6), TO(D, 3), .mode = RENAME_WHITEOUT) },
	  2 },
	{ "link", ONE(LINK, AT(R, 0), TO(D, 1)) },
	{ "unlink", ONE(UNLINK, AT(R, 0), NOWHERE) },
	{ "unlink-d", ONE(UNLINK, AT(D, 0), NOWHERE) },
	{ "mkdir", ONE(MKDIR, AT(R, 4), NOWHERE, DIR_MODE) },
	{ "mkdir-d", ONE(MKDIR, AT(D, 4), NOWHERE, DIR_MODE) },
	{ "rmdir", ONE(RMDIR, AT(R, 4), NOWHERE) },
	{ "rmdir-d", ONE(RMDIR, AT(D, 4), NOWHERE) },
	{ "move-dir", ONE(RENAME, AT(R, 4), TO(D, 4)) },
	{ "symlink", ONE(SYMLINK, AT(R, 5), NOWHERE, .seed = 35) },
	{ "symlink-long", ONE(SYMLINK, AT(D, 5), NOWHERE, .seed = 32) },
	{ "setxattr", ONE(SETXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED, .len = 40, .seed = 9) },
	{ "setxattr-long", ONE(SETXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED, .len = 6000, .seed = 10) },
	{ "removexattr", ONE(REMOVEXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED) },
	{ "chmod", ONE(CHMOD, AT(R, 0), NOWHERE, .mode = 04711) },
	{ "allocate", ONE(FALLOCATE, AT(R, 0), NOWHERE, .len = 50000) },
	{ "allocate-keep",
	  ONE(FALLOCATE, AT(R, 0), NOWHERE, .mode = FALLOC_FL_KEEP_SIZE, .off = 100000, .len = 40000) },
	{ "punch", ONE(FALLOCATE, AT(R, 0), NOWHERE, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, .off = 2000,
		       .len = 9000) },
	{ "punch-all", ONE(FALLOCATE, AT(R, 0), NOWHERE, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   .off = 4096, .len = 1 << 24) },
	{ "zero", ONE(FALLOCATE, AT(D, 0), NOWHERE, .mode = FALLOC_FL_ZERO_RANGE, .off = 10000, .len = 100000) },
	{ "clone", { STEP(CREATE, AT(R, 2), NOWHERE, FILE_MODE), STEP(COPY, AT(R, 0), TO(R, 2), .len = 65536) }, 2 },
	{ "clone-over", ONE(COPY, AT(R, 0), TO(D, 0), .len = 1 << 20) },
	{ "clone-part", ONE(COPY, AT(D, 0), TO(R, 0), .off = 4096, .off2 = 8192, .len = 20480) },
	{ "clone-self", ONE(COPY, AT(R, 0), TO(R, 0), .off2 = 131072, .len = 65536) },
	{ "sync", ONE(SYNC, AT(R, 0), NOWHERE) },
	{ "tick", ONE(TICK, AT(R, 0), NOWHERE) },
	{ "checkpoint", ONE(CHECKPOINT, AT(R, 0), NOWHERE) },
	{ "tmpfile",
	  { STEP(TMPFILE, .at = { 0, R, FSOP_SELF }, NOWHERE, FILE_MODE),
	    STEP(WRITE, HELD(0), NOWHERE, .len = 9000, .seed = 11), STEP(LINK, HELD(0), TO(D, 2)),
	    STEP(CLOSE, HELD(0), NOWHERE) },
	  4 },
	{ "tmpfile-left",
	  { STEP(TMPFILE, .at = { 1, D, FSOP_SELF }, NOWHERE, FILE_MODE),
	    STEP(WRITE, HELD(1), NOWHERE, .len = 70000, .seed = 12) },
	  2 },
	{ "save",
	  { STEP(CREATE, AT(R, 6), NOWHERE, FILE_MODE), STEP(WRITE, AT(R, 6), NOWHERE, .len = 20000, .seed = 13),
	    STEP(RENAME, AT(R, 6), TO(R, 0)) },
	  3 },
	{ "save-synced",
	  { STEP(CREATE, AT(D, 6), NOWHERE, FILE_MODE), STEP(WRITE, AT(D, 6), NOWHERE, .len = 20000, .seed = 14),
	    STEP(SYNC, AT(R, 0), NOWHERE), STEP(RENAME, AT(D, 6), TO(D, 0)) },
	  4 },
	{ "unlink-open",
	  { STEP(OPEN, AT(R, 0), .to = { 2, R, 0 }), STEP(UNLINK, AT(R, 0), NOWHERE),
	    STEP(WRITE, HELD(2), NOWHERE, .off = 5000, .len = 9000, .seed = 15), STEP(TICK, AT(R, 0), NOWHERE),
	    STEP(CLOSE, HELD(2), NOWHERE) },
	  5 },
	{ "unlink-held", { STEP(OPEN, AT(D, 0), .to = { 3, R, 0 }), STEP(UNLINK, AT(D, 0), NOWHERE) }, 2 },
	{ "close-held", ONE(CLOSE, HELD(3), NOWHERE) },
	{ "remount", { { .action = FSWORLD_REMOUNT } }, 1 },
	{ "snapshot", { { .action = FSWORLD_SNAP } }, 1 },
	{ "delete-snapshot", { { .action = FSWORLD_SNAP_DELETE } }, 1 },
};
#define ROWS ARRAY_LEN(table)

/* What every plan ends with: in the log, then in the tree. */
static const struct fsworld_step end_steps[] = {
	STEP(SYNC, AT(R, 0), NOWHERE),
	STEP(CHECKPOINT, AT(R, 0), NOWHERE),
};

/* ---- what sequences begin with ---- */

static const struct fsworld_step empty_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
};

static const struct fsworld_step files_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
	STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(R, 0), NOWHERE, .len = 90000, .seed = 101),
	STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	STEP(COPY, AT(R, 0), TO(D, 0), .len = 90000),
	STEP(MKDIR, AT(D, 4), NOWHERE, DIR_MODE),
	STEP(SETXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED, .len = 2500, .seed = 102),
	STEP(LINK, AT(R, 0), TO(D, 7)),
	{ .action = FSWORLD_SNAP },
	STEP(WRITE, AT(R, 0), NOWHERE, .off = 10000, .len = 20000, .seed = 103),
	STEP(WRITE, AT(D, 0), NOWHERE, .off = 40000, .len = 3000, .seed = 104),
	STEP(FALLOCATE, AT(D, 0), NOWHERE, .mode = FALLOC_FL_KEEP_SIZE, .off = 90000, .len = 30000),
};

/* Much in the log, and files without a name that nobody holds any more. */
static const struct fsworld_step log_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
	STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(D, 0), NOWHERE, .len = 100000, .seed = 111),
	STEP(CREATE, AT(D, 6), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(D, 6), NOWHERE, .len = 50000, .seed = 112),
	STEP(CHECKPOINT, AT(R, 0), NOWHERE),
	STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(R, 0), NOWHERE, .len = 300, .seed = 113),
	STEP(SETXATTR, AT(D, 0), NOWHERE, .len = 60, .seed = 114),
	STEP(OPEN, AT(D, 6), .to = { 4, R, 0 }),
	STEP(UNLINK, AT(D, 6), NOWHERE),
	STEP(TMPFILE, .at = { 5, R, FSOP_SELF }, NOWHERE, FILE_MODE),
	STEP(WRITE, HELD(5), NOWHERE, .len = 12000, .seed = 115),
	STEP(SYNC, AT(R, 0), NOWHERE),
	STEP(TRUNCATE, AT(D, 0), NOWHERE, .off = 50001),
	STEP(MKDIR, AT(R, 4), NOWHERE, DIR_MODE),
	STEP(COPY, AT(D, 0), TO(D, 0), .off2 = 131072, .len = 40960),
	STEP(SYNC, AT(R, 0), NOWHERE),
};

static const struct fsworld_step full_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
	STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(R, 0), NOWHERE, .len = 50000, .seed = 121),
	STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	STEP(COPY, AT(R, 0), TO(D, 0), .len = 50000),
	STEP(WRITE, AT(D, 0), NOWHERE, .off = 10000, .len = 5000, .seed = 122),
};

/* A file of so many pieces that removing them takes several batches; few plans, because reading it takes long. */
#define PIECES (ORPHAN_STEP_ITEMS + 60)
static struct fsworld_step pieces_steps[PIECES + 3];

static void make_pieces(void)
{
	const struct fsworld_step first[] = {
		STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
		STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
		STEP(WRITE, AT(R, 0), NOWHERE, .len = 4096, .seed = 131),
	};

	memcpy(pieces_steps, first, sizeof(first));
	for (size_t i = 0; i < PIECES; i++) {
		pieces_steps[3 + i] = first[2];
		pieces_steps[3 + i].op.off = (i + 1) * 8192;
		pieces_steps[3 + i].op.seed = 132 + i;
	}
}

static const struct base_row {
	const char *name;
	const struct fsworld_step *steps;
	size_t n;
	uint64_t blocks;
	unsigned fill; /* blocks left; 0: not filled */
	bool kill;
} base_rows[] = {
	{ "empty", empty_steps, ARRAY_LEN(empty_steps), 1000, 0, false },
	{ "files", files_steps, ARRAY_LEN(files_steps), 1400, 0, false },
	{ "log", log_steps, ARRAY_LEN(log_steps), 1400, 0, true },
	{ "full", full_steps, ARRAY_LEN(full_steps), 800, 12, false },
	{ "pieces", pieces_steps, ARRAY_LEN(pieces_steps), 2000, 0, false },
};
#define BASES_ALL ARRAY_LEN(base_rows)
#define BASE_PIECES (BASES_ALL - 1)
#define BASES BASE_PIECES /* for every sequence */

/* What is tried on the file of many pieces. Holes there have whole blocks: the ends of others are batches of their own, as
 * fs/file_space.c says. */
static const char *const pieces_plans[] = {
	"truncate-0",
	"truncate-down",
	"unlink",
	"punch-all",
	"save",
	"unlink-open",
	"truncate-0,truncate-up",
	"punch-all,write-over",
	"truncate-down,write-large",
	"punch-all,unlink",
	"link,rename-over",
};

/* ---- random plans: shapes of devices ---- */

/* Small files, few names, changed again and again. */
static const struct fsop_profile small_profile = {
	.name = "small",
	.weight = { [FSOP_CREATE] = 8,	   [FSOP_MKDIR] = 4,	   [FSOP_MKNOD] = 1,	 [FSOP_SYMLINK] = 2,
		    [FSOP_LINK] = 4,	   [FSOP_UNLINK] = 7,	   [FSOP_RMDIR] = 2,	 [FSOP_RENAME] = 9,
		    [FSOP_OPEN] = 4,	   [FSOP_CLOSE] = 3,	   [FSOP_TMPFILE] = 2,	 [FSOP_WRITE] = 18,
		    [FSOP_APPEND] = 6,	   [FSOP_TRUNCATE] = 8,	   [FSOP_FALLOCATE] = 8, [FSOP_COPY] = 8,
		    [FSOP_CHMOD] = 2,	   [FSOP_CHOWN] = 1,	   [FSOP_UTIMES] = 1,	 [FSOP_SETFLAGS] = 1,
		    [FSOP_SETXATTR] = 4,   [FSOP_REMOVEXATTR] = 3, [FSOP_SYNC] = 6,	 [FSOP_TICK] = 3,
		    [FSOP_CHECKPOINT] = 2, [FSOP_FORGET_ALL] = 1 },
	.names = 6,
	.file_max = 150000,
	.write_max = 40000,
	.far_one_in = 60,
	.xattr_max = 8000,
	.direct = true,
};

/* Larger ones, for devices that become full. */
static const struct fsop_profile large_profile = {
	.name = "large",
	.weight = { [FSOP_CREATE] = 8,
		    [FSOP_MKDIR] = 2,
		    [FSOP_LINK] = 1,
		    [FSOP_UNLINK] = 5,
		    [FSOP_RENAME] = 4,
		    [FSOP_OPEN] = 2,
		    [FSOP_CLOSE] = 2,
		    [FSOP_TMPFILE] = 1,
		    [FSOP_WRITE] = 20,
		    [FSOP_APPEND] = 10,
		    [FSOP_TRUNCATE] = 5,
		    [FSOP_FALLOCATE] = 12,
		    [FSOP_COPY] = 6,
		    [FSOP_SETXATTR] = 4,
		    [FSOP_REMOVEXATTR] = 1,
		    [FSOP_SYNC] = 4,
		    [FSOP_TICK] = 3,
		    [FSOP_CHECKPOINT] = 2,
		    [FSOP_FORGET_ALL] = 1 },
	.names = 5,
	.file_max = 900000,
	.write_max = 200000,
	.xattr_max = 8000,
	.direct = true,
};

static const struct shape {
	const char *name;
	const struct fsop_profile *profile;
	uint64_t blocks;
	uint32_t node_size;
	uint64_t log_blocks;
	unsigned steps;
	unsigned fill; /* blocks left at the beginning; 0: not filled */
	bool full, copies, discard;
} shapes[] = {
	{ "small", &small_profile, 1500, 4096, 0, 150, 0, false, false, false },
	{ "full", &large_profile, 900, 4096, 0, 150, 120, true, false, true },
	{ "mixed", &fsop_mixed, 3000, 4096, 0, 150, 0, true, false, true },
	{ "names", &fsop_names_only, 2000, 4096, 0, 200, 0, true, false, false },
	{ "data", &fsop_data_only, 3000, 16384, 128, 60, 0, true, false, false },
	{ "copies", &small_profile, 2000, 8192, 96, 150, 0, true, true, false },
};
#define SHAPES ARRAY_LEN(shapes)

/* ---- the run ---- */

struct args {
	uint64_t seed, states;
	unsigned shard, shards, depth;
	double seconds;
	bool exhaustive, random, all;
	const char *plan, *replay;
};

static struct fscrash_base bases[BASES_ALL];
static struct fscrash crash;
static double started;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void make_bases(void)
{
	make_pieces();
	for (size_t i = 0; i < BASES_ALL; i++)
		fscrash_base_make(&bases[i], &fscrash_mkfs, base_rows[i].blocks, &fscrash_options, base_rows[i].steps,
				  base_rows[i].n, base_rows[i].fill, base_rows[i].kill, 1000 + i);
}

static bool over(const struct args *a)
{
	return crash.states >= a->states || now() - started >= a->seconds;
}

static int run_sequence(size_t base, const size_t *seq, size_t len, bool stepwise)
{
	struct fsworld_step steps[8 * ROW_STEPS + ARRAY_LEN(end_steps)];
	char name[256];
	int at = snprintf(name, sizeof(name), "%s:%s:", stepwise ? "stepwise" : "exhaustive", base_rows[base].name);
	struct fscrash_plan plan = {
		.name = name,
		.base = bases[base].image,
		.start = &bases[base].world,
		.opt = fscrash_options,
		.steps = steps,
		.opening = len == 0,
		.full_ok = base_rows[base].fill > 0,
		.seed = 1 + base,
		.sync_one_in = stepwise,
	};

	for (size_t i = 0; i < len; i++) {
		const struct row *r = &table[seq[i]];

		plan.first = plan.n_steps;
		memcpy(&steps[plan.n_steps], r->step, r->n * sizeof(steps[0]));
		plan.n_steps += r->n;
		at += snprintf(name + at, sizeof(name) - (size_t)at, "%s%s", i ? "," : "", r->name);
	}
	/* Alone, what fails is tried, too: it may not leave anything behind. */
	plan.idle_of = len > 1 ? plan.n_steps : 0;
	memcpy(&steps[plan.n_steps], end_steps, sizeof(end_steps));
	plan.n_steps += ARRAY_LEN(end_steps);
	/* In any order, where that makes a difference: one half of the plans. */
	plan.shuffle = len && seq[0] % 2;
	return fscrash_plan(&crash, &plan);
}

/* All sequences of `len`, numbered: whether stepwise, the rows, then the base. */
static uint64_t sequences(unsigned len)
{
	uint64_t n = BASES * 2;

	while (len--)
		n *= ROWS;
	return n;
}

static int run_number(uint64_t number, unsigned len)
{
	size_t seq[8];

	for (unsigned i = 0; i < len; i++) {
		seq[i] = number % ROWS;
		number /= ROWS;
	}
	return run_sequence(number / 2 % BASES, seq, len, number % 2);
}

static int run_random(uint64_t seed, size_t shape, bool all)
{
	const struct shape *s = &shapes[shape];
	struct fs_mkfs_options mkfs = fscrash_mkfs;
	struct fscrash_base base;
	char name[80];
	struct fscrash_plan plan = {
		.name = name,
		.opt = fscrash_options,
		.profile = s->profile,
		.n_chance = s->steps,
		.opening = true,
		.full_ok = s->full,
		.seed = seed,
		.shuffle = seed % 2,
		.sync_one_in = (unsigned)(seed / 2 % 4),
	};
	struct fscrash_options keep = crash.opt;
	int err;

	snprintf(name, sizeof(name), "random:%s:%" PRIu64, s->name, seed);
	mkfs.store.node_size = s->node_size;
	if (s->log_blocks)
		mkfs.store.log_blocks = s->log_blocks;
	mkfs.store.copies = s->copies;
	plan.opt.store.cache_bytes = (size_t)128 * s->node_size;
	plan.opt.store.discard = s->discard;
	fscrash_base_make(&base, &mkfs, s->blocks, &plan.opt, empty_steps, ARRAY_LEN(empty_steps), s->fill, false,
			  rng_mix(seed, 99));
	plan.base = base.image;
	plan.start = &base.world;
	crash.opt.per_plan = all ? 0 : 40;
	crash.opt.per_point = 3;
	err = fscrash_plan(&crash, &plan);
	crash.opt = keep;
	fscrash_base_release(&base);
	return err;
}

/* ---- by name ---- */

static size_t find_row(const char *name, size_t len)
{
	for (size_t i = 0; i < ROWS; i++)
		if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
			return i;
	printf("no such operation: %.*s\n", (int)len, name);
	exit(2);
}

static int run_named(const char *plan)
{
	const char *rest = strchr(plan, ':'), *second = rest ? strchr(rest + 1, ':') : NULL;
	size_t seq[8], n = 0, len;

	if (!second) {
		printf("a plan is exhaustive:BASE:op,op,op or stepwise:BASE:op,op,op or random:SHAPE:SEED\n");
		exit(2);
	}
	rest++;
	len = (size_t)(second - rest);
	if (strncmp(plan, "random:", 7) == 0) {
		for (size_t i = 0; i < SHAPES; i++)
			if (strlen(shapes[i].name) == len && memcmp(rest, shapes[i].name, len) == 0)
				return run_random(strtoull(second + 1, NULL, 0), i, false);
		printf("no such shape\n");
		exit(2);
	}
	for (const char *p = second + 1; *p && n < ARRAY_LEN(seq);) {
		size_t l = strcspn(p, ",");

		seq[n++] = find_row(p, l);
		p += l + (p[l] == ',');
	}
	for (size_t i = 0; i < BASES_ALL; i++)
		if (strlen(base_rows[i].name) == len && memcmp(rest, base_rows[i].name, len) == 0)
			return run_sequence(i, seq, n, strncmp(plan, "stepwise:", 9) == 0);
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

static int report(const struct args *a, int err, const uint64_t *done, uint64_t randoms)
{
	printf("# states %" PRIu64 ", plans %" PRIu64 " (and %" PRIu64 " idle), points %" PRIu64
	       ", older than the newest world %" PRIu64 ", crashed inside recovery %" PRIu64 ", went on after %" PRIu64
	       ", plans with refusals for want of room %" PRIu64 "\n",
	       crash.states, crash.plans, crash.idle, crash.points, crash.older, crash.recoveries, crash.went_on,
	       crash.refused);
	for (unsigned len = 0; a->exhaustive && len <= a->depth; len++)
		printf("# sequences of %u: %" PRIu64 " of %" PRIu64 "\n", len, done[len], sequences(len) / a->shards);
	printf("# random runs: %" PRIu64 "\n", randoms);
	printf("# %.1f s, %.3f ms a state\n", now() - started, (now() - started) * 1000 / (double)(crash.states | 1));
	printf("%s - every power cut leaves the files of some moment since the last sync\n", err ? "not ok 1" : "ok 1");
	fflush(stdout);
	return err ? 1 : 0;
}

/* Removal in steps. */
static int run_pieces(const struct args *a)
{
	const struct fscrash_options keep = crash.opt;
	int err = 0;

	crash.opt.per_plan = a->all ? 0 : 12;
	crash.opt.per_point = a->all ? 27 : 2;
	crash.opt.recovery_one_in = 24;
	for (size_t i = a->shard; err >= 0 && i < ARRAY_LEN(pieces_plans) * 2; i += a->shards) {
		char name[100];

		snprintf(name, sizeof(name), "%s:pieces:%s", i % 2 ? "stepwise" : "exhaustive", pieces_plans[i / 2]);
		err = run_named(name);
	}
	crash.opt = keep;
	return err;
}

static int run_all(const struct args *a)
{
	static const uint64_t per_plan[] = { 0, 0, 5, 5 };
	static const uint64_t per_point[] = { 81, 27, 4, 4 };
	uint64_t total = sequences(3), step = coprime(total, a->seed), done[4] = { 0 }, randoms = 0;
	int err = 0;

	printf("1..1\n");
	if (a->exhaustive && a->depth)
		err = run_pieces(a);
	for (unsigned len = 0; a->exhaustive && len <= a->depth && len <= 2; len++) {
		crash.opt.per_plan = a->all ? 0 : per_plan[len];
		crash.opt.per_point = a->all ? 27 : per_point[len];
		for (uint64_t i = a->shard; err >= 0 && i < sequences(len) && !over(a); i += a->shards, done[len]++)
			err = run_number(i, len);
	}
	while (err >= 0 && !over(a)) {
		bool more = a->exhaustive && a->depth > 2 && a->shard + done[3] * a->shards < total;

		if (!more && (!a->random || (a->all && randoms)))
			break;
		if (a->random && (!more || randoms * 40 <= done[3])) {
			uint64_t k = randoms++ * a->shards + a->shard;

			err = run_random(rng_mix(a->seed, k) >> 32, (randoms - 1) % SHAPES, a->all);
		} else {
			uint64_t k = a->shard + done[3]++ * a->shards;

			err = run_number((uint64_t)((unsigned __int128)k * step % total), 3);
		}
	}
	return report(a, err < 0 ? err : 0, done, randoms);
}

static void usage(void)
{
	printf("crash_fs [--seed N] [--states N] [--seconds N] [--shard I/N] [--depth 0..3] [--exhaustive | --random] [--all]\n"
	       "         [--plan NAME [--replay PATH]]\n"
	       "ARBOR_SEED and ARBOR_CRASH_SECONDS in the environment set the defaults\n");
	exit(2);
}

static void parse(struct args *a, int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "states", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 't' },
		{ "shard", required_argument, NULL, 'S' },
		{ "depth", required_argument, NULL, 'd' },
		{ "exhaustive", no_argument, NULL, 'e' },
		{ "random", no_argument, NULL, 'r' },
		{ "all", no_argument, NULL, 'a' },
		{ "plan", required_argument, NULL, 'p' },
		{ "replay", required_argument, NULL, 'R' },
		{ NULL, 0, NULL, 0 },
	};
	const char *env;
	int o;

	*a = (struct args){
		.seed = 1, .states = 38000, .seconds = 1e9, .shards = 1, .depth = 3, .exhaustive = true, .random = true
	};
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
			if (a->depth > 3)
				usage();
			break;
		case 'e':
			a->random = false;
			break;
		case 'r':
			a->exhaustive = false;
			break;
		case 'a':
			a->all = true;
			a->states = UINT64_MAX;
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
	crash.opt = (struct fscrash_options){
		.per_point = 27, .per_point_again = 2, .recovery_one_in = 80, .go_on_one_in = 60
	};
	started = now();
	if (a.replay && (!a.plan || !fscrash_parse(&crash, a.replay)))
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
	for (size_t i = 0; i < BASES_ALL; i++)
		fscrash_base_release(&bases[i]);
	return err;
}

/*
 * crash_fs.c - what files are there after every possible power cut
 *
 * Two kinds of plans are crashed (tests/kit/crash.h says how):
 *
 *  - exhaustive: every sequence of up to three rows of the table (tests/kit/fsrows.h), on each of several filesystems to begin
 *    with, and then a sync and a checkpoint. Sequences of one and two are always all tried, and those of three of the table's
 *    core, on the filesystem where most of them have something to do; the others of three in an order by seed, as many as time
 *    allows. Of a sequence of one all points are crashed, of longer ones some, by seed; with --all, all of them, and all
 *    sequences. Each with the log written when somebody asks for it, and behind every batch ("stepwise"), so that a crash comes
 *    between any two; those of the core in turn.
 *  - random: some hundred operations by seed, on devices of different shape.
 *
 * What one row can do is crashed only as the last of a sequence: as an earlier one it was in the shorter sequence. And a
 * sequence with a row that has nothing to do there (a name that does not exist) is the shorter sequence; which two rows are such
 * on which filesystem is remembered, so that those of three with them need not be carried out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kit/crashmain.h"
#include "tests/kit/fsrows.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define BASES FSROWS_PIECES /* for every sequence */

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
#define PIECES_PLANS ARRAY_LEN(pieces_plans)

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

enum { WHEN_ASKED, STEPWISE, KINDS }; /* when the log is written */
static const char *const kinds[] = { "exhaustive", "stepwise", NULL };

static struct fscrash_base bases[FSROWS_BASES];
static struct crash crash = {
	.world = &fscrash_world,
	.opt = { .per_point = 27, .per_point_again = 2, .recovery_one_in = 80, .go_on_one_in = 60, .slot_one_in = 60 },
};

/* What is known of a sequence of two on a base. */
enum known { UNKNOWN, BUSY, IDLE };
static uint8_t pairs[BASES][FSROWS_MAX][FSROWS_MAX];

static void make_bases(void)
{
	for (unsigned i = 0; i < FSROWS_BASES; i++)
		fsrows_base_make(i, &bases[i]);
}

static void free_bases(void)
{
	for (unsigned i = 0; i < FSROWS_BASES; i++)
		fscrash_base_release(&bases[i]);
	fscrash_release();
}

static int run_plan(size_t base, size_t kind, const size_t *seq, size_t len)
{
	struct fsworld_step steps[CRASHMAIN_SEQUENCE * FSROW_STEPS + FSROWS_END];
	char name[256];
	int at = snprintf(name, sizeof(name), "%s:%s:", kinds[kind], fsrows_bases[base].name);
	struct fscrash_plan plan = {
		.plan = { .name = name, .base = bases[base].image, .opening = len == 0, .seed = 1 + base },
		.start = &bases[base].world,
		.opt = fscrash_options,
		.steps = steps,
		.full_ok = fsrows_bases[base].fill > 0,
		.sync_one_in = kind == STEPWISE,
	};

	for (size_t i = 0; i < len; i++) {
		const struct fsrow *r = &fsrows[seq[i]];

		plan.plan.first = plan.n_steps;
		memcpy(&steps[plan.n_steps], r->step, r->n * sizeof(steps[0]));
		plan.n_steps += r->n;
		at += snprintf(name + at, sizeof(name) - (size_t)at, "%s%s", i ? "," : "", r->name);
	}
	/* Alone, what fails is tried, too: it may not leave anything behind. */
	plan.idle_of = len > 1 ? plan.n_steps : 0;
	memcpy(&steps[plan.n_steps], fsrows_end, sizeof(fsrows_end));
	plan.n_steps += FSROWS_END;
	/* In any order, where that makes a difference: one half of the plans. */
	plan.plan.shuffle = len && seq[0] % 2;
	return crash_plan(&crash, &plan.plan);
}

static void set_effort(const struct crashmain_args *a, size_t len)
{
	static const uint64_t per_plan[] = { 0, 0, 5, 3 }, per_point[] = { 81, 27, 4, 3 };

	crash.opt.per_plan = a->all ? 0 : per_plan[len];
	crash.opt.per_point = a->all ? 27 : per_point[len];
}

/* What is known to be a shorter one is left out. */
static int run_sequence(const struct crashmain_args *a, size_t base, size_t kind, const size_t *seq, size_t len)
{
	int err;

	if (!a)
		return run_plan(base, kind, seq, len);
	if (len == 3 && pairs[base][seq[0]][seq[1]] == IDLE) {
		crash.idle++;
		return 1;
	}
	set_effort(a, len);
	err = run_plan(base, kind, seq, len);
	if (len == 2 && err >= 0)
		pairs[base][seq[0]][seq[1]] = err ? IDLE : BUSY;
	return err;
}

static int run_shape(const struct crashmain_args *a, size_t shape, uint64_t seed)
{
	const struct shape *s = &shapes[shape];
	struct fs_mkfs_options mkfs = fscrash_mkfs;
	struct fscrash_base base;
	char name[80];
	struct fscrash_plan plan = {
		.plan = { .name = name, .opening = true, .seed = seed, .shuffle = seed % 2 },
		.opt = fscrash_options,
		.profile = s->profile,
		.n_chance = s->steps,
		.full_ok = s->full,
		.sync_one_in = (unsigned)(seed / 2 % 4),
	};
	struct crash_options keep = crash.opt;
	int err;

	snprintf(name, sizeof(name), "random:%s:%" PRIu64, s->name, seed);
	mkfs.store.node_size = s->node_size;
	if (s->log_blocks)
		mkfs.store.log_blocks = s->log_blocks;
	mkfs.store.copies = s->copies;
	plan.opt.store.cache_bytes = (size_t)128 * s->node_size;
	plan.opt.store.discard = s->discard;
	fscrash_base_make(&base, &mkfs, s->blocks, &plan.opt, fsrows_bases[FSROWS_EMPTY].steps,
			  fsrows_bases[FSROWS_EMPTY].n, s->fill, false, rng_mix(seed, 99));
	plan.plan.base = base.image;
	plan.start = &base.world;
	crash.opt.per_plan = a && a->all ? 0 : 40;
	crash.opt.per_point = 3;
	err = crash_plan(&crash, &plan.plan);
	crash.opt = keep;
	fscrash_base_release(&base);
	return err;
}

/* Removal in steps. */
static int run_pieces(const struct crashmain *m, const struct crashmain_args *a)
{
	const struct crash_options keep = crash.opt;
	int err = 0;

	crash.opt.per_plan = a->all ? 0 : 40;
	crash.opt.per_point = a->all ? 27 : 4;
	crash.opt.recovery_one_in = 24;
	for (size_t i = a->shard; err >= 0 && i < PIECES_PLANS * KINDS; i += a->shards) {
		char name[100];

		snprintf(name, sizeof(name), "%s:pieces:%s", kinds[i / PIECES_PLANS], pieces_plans[i % PIECES_PLANS]);
		err = crashmain_named(m, name);
	}
	crash.opt = keep;
	return err;
}

/* What was crashed into; and that it was, where a shard is large enough for that. */
static int report(const struct crashmain_args *a)
{
	bool whole = a->exhaustive && a->random && a->depth == 3 && !a->limited && a->shards <= 2;
	int err = 0;

	printf("# disks that had been seen before %" PRIu64 ", older than the newest world %" PRIu64 "\n",
	       fscrash_counts.same, fscrash_counts.older);
	for (unsigned i = 0; i < CRASH_PHASES; i++) {
		printf("# crashed inside %s: %" PRIu64 "\n", crash_phase_names[i], crash.inside[i]);
		if (whole && !crash.inside[i])
			err = 1;
	}
	return err;
}

static const char *op_name(size_t i)
{
	return i < n_fsrows ? fsrows[i].name : NULL;
}

static const char *base_name(size_t i)
{
	return i < FSROWS_BASES ? fsrows_bases[i].name : NULL;
}

static const char *shape_name(size_t i)
{
	return i < SHAPES ? shapes[i].name : NULL;
}

static bool is_core(size_t i)
{
	return fsrows[i].core;
}

static const struct crashmain crash_fs = {
	.promise = "every power cut leaves the files of some moment since the last sync",
	.crash = &crash,
	.states = 150000,
	.can_all = true,
	.begin = make_bases,
	.end = free_bases,
	.first = run_pieces,
	.op = op_name,
	.base = base_name,
	.bases = BASES,
	.kinds = kinds,
	.core = is_core,
	.core_base = FSROWS_FILES,
	.sequence = run_sequence,
	.shape = shape_name,
	.random = run_shape,
	.report = report,
};

int main(int argc, char **argv)
{
	return crashmain(&crash_fs, argc, argv);
}

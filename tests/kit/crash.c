/*
 * crash.c - see crash.h
 *
 * One state after the other: branch the disk, judge it, and judge what can be made of it, by recursion. `at` says where we are
 * on the way down, and is the path that is printed. A failure ends everything, and so does an abort or a fault of what is
 * tested: the handlers print the path first.
 */
#include "tests/kit/crash.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/super.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"

/* ---- messages ---- */

void crash_print_failure(const struct crash *c, const char *what)
{
	printf("# FAILED: %s\n# plan: %s\n", what, c->plan->name);
	c->world->print_plan(c->plan);
	printf("# reproduce with: --plan '%s' --replay '", c->plan->name);
	for (unsigned i = 0; i < c->depth; i++)
		printf("%s%c%" PRIu64 ":%s:%" PRIu64, i ? "/" : "", c->at[i].kind, c->at[i].n, c->at[i].choice,
		       c->at[i].seed);
	printf("'\n");
	kv_log_print(stdout);
	fflush(stdout);
}

/* Where it was when what is tested fell over: an assertion is a failure like any other, and is to be reproduced. */
static struct crash *current;

static void fell_over(int sig)
{
	char why[80];

	if (current) {
		snprintf(why, sizeof(why), "%s %s", current->world->what, sig == SIGABRT ? "gave up" : "fell over");
		crash_print_failure(current, why);
	}
	signal(sig, SIG_DFL);
	raise(sig);
}

static void watch(struct crash *c)
{
	current = c;
	signal(SIGABRT, c ? fell_over : SIG_DFL);
	signal(SIGSEGV, c ? fell_over : SIG_DFL);
}

bool crash_parse(struct crash *c, const char *path)
{
	c->n_replay = 0;
	while (*path && c->n_replay < CRASH_DEPTH) {
		struct crash_level *l = &c->replay[c->n_replay];
		int used = 0;

		if (sscanf(path, "%c%" SCNu64 ":%1024[DKT-]:%" SCNu64 "%n", &l->kind, &l->n, l->choice, &l->seed,
			   &used) != 4)
			return false;
		c->n_replay++;
		path += used;
		path += *path == '/';
	}
	return c->n_replay > 0 && !*path;
}

/* ---- phases ---- */

const char *const crash_phase_names[CRASH_PHASES] = {
	[CRASH_CHECKPOINT] = "a checkpoint",
	[CRASH_RECOVERY] = "recovery",
	[CRASH_ORPHANS] = "the deletion of files without a name",
	[CRASH_STEPS] = "a removal in steps",
};

struct crash_trace {
	struct simdev *disk;
	size_t n, cap;
	struct {
		enum crash_phase phase;
		uint64_t from, to;
	} * part;
	uint64_t begun[CRASH_PHASES];
	unsigned nested[CRASH_PHASES];
};

static struct crash_trace *tracing; /* NULL: nothing is to be noted */

static struct crash_trace *trace_begin(struct simdev *disk)
{
	struct crash_trace *t = calloc(1, sizeof(*t));

	if (!t)
		abort();
	t->disk = disk;
	tracing = t;
	return t;
}

static void trace_free(struct crash_trace *t)
{
	if (!t)
		return;
	free(t->part);
	free(t);
}

void crash_phase_begin(enum crash_phase phase)
{
	if (tracing && !tracing->nested[phase]++)
		tracing->begun[phase] = simdev_ops(tracing->disk);
}

void crash_phase_end(enum crash_phase phase)
{
	struct crash_trace *t = tracing;

	if (!t || --t->nested[phase] || t->begun[phase] + 1 >= simdev_ops(t->disk))
		return; /* nothing was written, or there is no middle */
	if (t->n == t->cap) {
		t->cap = t->cap * 2 + 8;
		t->part = realloc(t->part, t->cap * sizeof(*t->part));
		if (!t->part)
			abort();
	}
	t->part[t->n].phase = phase;
	t->part[t->n].from = t->begun[phase];
	t->part[t->n++].to = simdev_ops(t->disk);
}

static void count_phases(struct crash *c, const struct crash_trace *t, uint64_t n)
{
	bool in[CRASH_PHASES] = { 0 };

	for (size_t i = 0; t && i < t->n; i++)
		in[t->part[i].phase] |= t->part[i].from < n && n < t->part[i].to;
	for (unsigned i = 0; i < CRASH_PHASES; i++)
		c->inside[i] += in[i];
}

/* ---- one state ---- */

static int judge(struct crash *c, struct simdev *disk, struct crash_allowed allowed);

static int try_state(struct crash *c, struct simdev *disk, struct crash_allowed allowed, struct crash_level level,
		     const enum simdev_choice *choice)
{
	static const char letter[] = { [SIMDEV_DROP] = 'D', [SIMDEV_KEEP] = 'K', [SIMDEV_TEAR] = 'T' };
	struct simdev *after = simdev_branch(disk, level.n, choice, level.seed);
	unsigned n = simdev_unflushed(disk, level.n), i;
	int err;

	for (i = 0; i < n; i++)
		level.choice[i] = letter[choice[i]];
	if (n == 0)
		level.choice[i++] = '-';
	level.choice[i] = 0;
	count_phases(c, c->trace[c->depth], level.n);
	c->at[c->depth++] = level;
	err = judge(c, after, allowed);
	c->depth--;
	simdev_free(after);
	return err;
}

/* ---- all states at a point ---- */

/* The i-th of the choices in which the newest write is not dropped, newest write first. */
static void choose_nth(enum simdev_choice *choice, unsigned n, uint64_t i)
{
	choice[n - 1] = i % 2 ? SIMDEV_TEAR : SIMDEV_KEEP;
	i /= 2;
	for (unsigned at = n - 1; at-- > 0; i /= 3)
		choice[at] = (enum simdev_choice)(i % 3);
}

static void choose_sampled(enum simdev_choice *choice, unsigned n, uint64_t i, struct rng *rng)
{
	unsigned keep = (unsigned)rng_below(rng, 9), tear = (unsigned)rng_below(rng, 4);

	for (unsigned at = 0; at < n; at++) {
		uint64_t x = rng_below(rng, 12);

		if (i < 2)
			choice[at] = i == 0 ? SIMDEV_KEEP : SIMDEV_DROP;
		else
			choice[at] = x < keep ? SIMDEV_KEEP : x < keep + tear ? SIMDEV_TEAR : SIMDEV_DROP;
	}
	if (choice[n - 1] == SIMDEV_DROP)
		choice[n - 1] = i % 2 ? SIMDEV_KEEP : SIMDEV_TEAR;
}

/* How many choices are tried; *ret_all: they are all there are. */
static uint64_t choices(unsigned unflushed, uint64_t limit, bool *ret_all)
{
	uint64_t total = unflushed ? 2 : 1;

	*ret_all = true;
	for (unsigned i = 1; *ret_all && i < unflushed; i++) {
		total *= 3;
		*ret_all = total <= limit;
	}
	return total < limit ? total : limit;
}

static int point(struct crash *c, struct simdev *disk, struct crash_allowed allowed, char kind, uint64_t n,
		 uint64_t limit, uint64_t seed)
{
	unsigned unflushed = simdev_unflushed(disk, n);
	enum simdev_choice choice[CRASH_CHOICES];
	struct crash_level level = { .kind = kind, .n = n };
	struct simdev_record rec;
	bool all;
	uint64_t total = choices(unflushed, limit, &all);
	struct rng rng;
	int err = 0;

	if (unflushed > CRASH_CHOICES) {
		printf("# %u writes without a flush are too many\n", unflushed);
		abort();
	}
	c->points++;
	rng_seed(&rng, rng_mix(seed, n));
	level.seed = rng_next(&rng) >> 32;
	if (unflushed == 0)
		return try_state(c, disk, allowed, level, choice);
	for (uint64_t i = 0; !err && i < total; i++) {
		bool kept = true;

		if (all)
			choose_nth(choice, unflushed, i);
		else
			choose_sampled(choice, unflushed, i, &rng);
		for (unsigned at = 0; at < unflushed; at++)
			kept = kept && choice[at] == SIMDEV_KEEP;
		/* The flush that follows makes the same of it, and then more is promised. */
		if (kept && simdev_record_at(disk, n, &rec) && rec.op == SIMDEV_FLUSH &&
		    simdev_unflushed(disk, n + 1) == 0)
			continue;
		level.seed = rng_next(&rng) >> 32;
		err = try_state(c, disk, allowed, level, choice);
	}
	return err;
}

/* Which points of a stretch: one in so many, and then so many that there are about so many states. */
struct sampling {
	uint64_t limit; /* of one point */
	unsigned one_in;
	uint64_t about;
};

/* All points in a stretch of disk operations: behind each of from .. to - 1. Or the one that is to be tried alone. */
static int stretch(struct crash *c, struct simdev *disk, struct crash_allowed allowed, char kind, uint64_t from,
		   uint64_t to, struct sampling s, uint64_t seed)
{
	uint64_t total = 0, done = c->states;
	bool all;
	int err = 0;

	if (c->n_replay) {
		const struct crash_level *l = &c->replay[c->depth];
		enum simdev_choice choice[CRASH_CHOICES];

		if (c->depth == c->n_replay || l->kind != kind)
			return 0;
		memset(choice, 0, sizeof(choice));
		for (unsigned i = 0; l->choice[i]; i++)
			choice[i] = l->choice[i] == 'K' ? SIMDEV_KEEP : l->choice[i] == 'T' ? SIMDEV_TEAR : SIMDEV_DROP;
		return try_state(c, disk, allowed, *l, choice);
	}
	for (uint64_t n = from + 1; s.about && n <= to; n++)
		total += choices(simdev_unflushed(disk, n), s.limit, &all);
	for (uint64_t n = from + 1; !err && n <= to; n++) {
		uint64_t x = rng_mix(seed, n);

		if ((s.one_in < 2 || x % s.one_in == 0) && (total <= s.about || x % total < s.about))
			err = point(c, disk, allowed, kind, n, s.limit, seed);
	}
	/* By chance none at all: one, somewhere. */
	if (!err && s.about && c->states == done && to > from)
		err = point(c, disk, allowed, kind, from + 1 + rng_mix(seed, to) % (to - from), 1, seed);
	return err;
}

/* ---- what is done on a recovered disk ---- */

static bool sampled(const struct crash *c, unsigned one_in, uint64_t seed)
{
	if (c->n_replay)
		return c->depth < c->n_replay;
	return one_in && rng_mix(seed, 77) % one_in == 0;
}

static int go_on(struct crash *c, struct simdev *disk, const void *state, uint64_t seed)
{
	uint64_t from = simdev_ops(disk), n;
	void *run = NULL;
	int err;

	trace_free(c->trace[c->depth]);
	c->trace[c->depth] = trace_begin(disk);
	err = c->world->go_on(c, disk, state, seed, &run);
	tracing = NULL;
	if (!err) {
		n = from + 1 + rng_mix(seed, 5) % (simdev_ops(disk) - from);
		c->world->kill(run);
		err = stretch(c, disk, (struct crash_allowed){ .run = run }, 'g', n - 1, n,
			      (struct sampling){ .limit = 2 }, seed);
	}
	c->world->run_free(run);
	return err;
}

/* Overwrites the newest slot; false where only one is whole. */
static bool lose_newest_slot(struct simdev *disk)
{
	_Alignas(BLOCK_SIZE) uint8_t block[2][BLOCK_SIZE];
	struct super super[2];

	simdev_peek(disk, SUPER_SLOT0, block[0], 1);
	simdev_peek(disk, SUPER_SLOT1, block[1], 1);
	if (super_decode(block[0], 0, &super[0]) || super_decode(block[1], 1, &super[1]))
		return false;
	memset(block[0], 0xa5, BLOCK_SIZE);
	simdev_poke(disk, super[0].serial > super[1].serial ? SUPER_SLOT0 : SUPER_SLOT1, 0, block[0], BLOCK_SIZE);
	return true;
}

/* The older slot with the log is a whole store, too, whatever the newest has made free. */
static int without_newest_slot(struct crash *c, struct simdev *disk, struct crash_allowed allowed)
{
	const struct crash_level *here = &c->at[c->depth - 1];
	int err;

	if (!lose_newest_slot(disk))
		return 0;
	c->slots++;
	c->at[c->depth++] = (struct crash_level){ .kind = 's', .n = here->n, .seed = here->seed, .choice = "-" };
	err = judge(c, disk, allowed);
	c->depth--;
	return err;
}

/* Recovers a disk after a crash and looks at everything; then does more with it. */
static int judge(struct crash *c, struct simdev *disk, struct crash_allowed allowed)
{
	const struct crash_level *here = &c->at[c->depth - 1];
	uint64_t seed = rng_mix(here->seed, here->n), recovered = 0;
	bool plain = (here->kind == 'c' || here->kind == 'r') && c->depth < CRASH_DEPTH;
	struct crash_trace *trace = plain ? trace_begin(disk) : NULL;
	struct simdev *same = NULL;
	void *state = NULL;
	int err;

	if (here->kind == 'c' &&
	    (c->n_replay ? c->n_replay > 1 && c->replay[1].kind == 's' : sampled(c, c->opt.slot_one_in, seed + 2)))
		same = simdev_clone(disk);
	c->states++;
	kv_log_clear();
	err = c->world->look(c, disk, allowed, seed, &state, &recovered);
	tracing = NULL;
	if (plain)
		c->trace[c->depth] = trace;
	if (!err && same)
		err = without_newest_slot(c, same, allowed);
	simdev_free(same);
	if (!err && plain && sampled(c, c->opt.recovery_one_in, seed)) {
		/* Inside the second recovery, a few points only. */
		struct sampling s = { .limit = c->opt.per_point_again, .one_in = c->depth == 1 ? 1 : 4 };

		c->recoveries++;
		err = stretch(c, disk, (struct crash_allowed){ .exactly = state }, 'r', 0, recovered, s, seed);
	}
	if (!err && plain && sampled(c, c->opt.go_on_one_in, seed + 1)) {
		c->went_on++;
		err = go_on(c, disk, state, seed >> 33);
	}
	if (plain) {
		trace_free(c->trace[c->depth]);
		c->trace[c->depth] = NULL;
	}
	c->world->state_free(state);
	return err < 0 ? err : 0;
}

/* ---- plans ---- */

int crash_plan(struct crash *c, const struct crash_plan *plan)
{
	const struct simdev_options disk_opt = { .base = plan->base, .seed = plan->seed, .shuffle = plan->shuffle };
	struct simdev *disk = simdev_new(&disk_opt);
	uint64_t from = 0, to;
	void *run = NULL;
	int err;

	c->depth = 0;
	c->plan = plan;
	kv_log_clear();
	watch(c);
	c->trace[0] = trace_begin(disk);
	err = c->world->carry_out(c, plan, disk, &run, &from);
	tracing = NULL;
	if (err == 1)
		c->idle++;
	if (!err) {
		struct sampling s = { c->opt.per_point, c->opt.points_one_in, c->opt.per_plan };

		to = simdev_ops(disk);
		c->world->kill(run);
		c->plans++;
		err = stretch(c, disk, (struct crash_allowed){ .run = run }, 'c', from, to, s, plan->seed);
	}
	trace_free(c->trace[0]);
	c->trace[0] = NULL;
	c->world->run_free(run);
	simdev_free(disk);
	watch(NULL);
	return err;
}

/*
 * Crash states. The disk after a crash before operation n is what the last flush before n made durable, and then, in
 * order, of every write that this flush does not cover, all, nothing or some sectors.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/kit/simdev_private.h"

/* The operations a crash at n decides about, oldest first; calls each (which may be NULL) and returns how many. */
static unsigned each_unflushed_locked(struct simdev *sd, uint64_t n,
				      void (*each)(void *arg, unsigned i, uint64_t number, const struct op *),
				      void *arg, const struct pagemap **ret_durable)
{
	uint64_t from = sd->first;
	unsigned found = 0;

	*ret_durable = &sd->base;
	for (uint64_t i = n; i-- > sd->first;) {
		const struct op *op = &sd->op[i - sd->first];

		if (op->kind == SIMDEV_FLUSH && !op->err) {
			*ret_durable = &op->after;
			from = op->open_after;
			break;
		}
	}
	for (uint64_t i = from < sd->first ? sd->first : from; i < n; i++) {
		const struct op *op = &sd->op[i - sd->first];

		/* Covered by a flush from n on is not covered at n. */
		if (op->patches == 0 || op->covered < n)
			continue;
		if (each)
			each(arg, found, i, op);
		found++;
	}
	return found;
}

static void check_locked(const struct simdev *sd, uint64_t n)
{
	if (n >= sd->first && n <= sd->first + sd->ops)
		return;
	fprintf(stderr, "the trace of the simulated disk does not reach back to operation %" PRIu64 "\n", n);
	abort();
}

unsigned simdev_unflushed(struct simdev *sd, uint64_t n)
{
	const struct pagemap *durable;
	unsigned found;

	pthread_mutex_lock(&sd->lock);
	check_locked(sd, n);
	found = each_unflushed_locked(sd, n, NULL, NULL, &durable);
	pthread_mutex_unlock(&sd->lock);
	return found;
}

/* --- choosing by seed --- */

/* Some states keep nearly all, some nearly nothing; each is a different class of bug. */
struct odds {
	unsigned keep, tear; /* out of 16 */
};

static struct odds odds_by_chance(struct rng *rng)
{
	static const struct odds kinds[] = { { 8, 0 }, { 15, 0 }, { 1, 0 }, { 5, 5 }, { 14, 2 }, { 1, 2 }, { 0, 16 } };

	return kinds[rng_below(rng, sizeof(kinds) / sizeof(kinds[0]))];
}

static enum simdev_choice choice_by_chance(struct rng *rng, struct odds odds)
{
	uint64_t x = rng_below(rng, 16);

	return x < odds.keep ? SIMDEV_KEEP : x < odds.keep + odds.tear ? SIMDEV_TEAR : SIMDEV_DROP;
}

/* --- branching --- */

struct branch {
	struct pagemap map;
	const enum simdev_choice *choice; /* NULL: by chance */
	struct rng rng;
	struct odds odds;
	uint64_t seed;
};

/* Collected first, because the map they go into starts as the one the walk finds. */
struct unflushed {
	const struct op *op;
	uint64_t number;
};

static void collect(void *arg, unsigned i, uint64_t number, const struct op *op)
{
	((struct unflushed *)arg)[i] = (struct unflushed){ op, number };
}

static void apply(struct branch *b, unsigned i, const struct unflushed *u)
{
	enum simdev_choice choice = b->choice ? b->choice[i] : choice_by_chance(&b->rng, b->odds);
	struct rng rng;

	switch (choice) {
	case SIMDEV_DROP:
		break;
	case SIMDEV_KEEP:
		for (size_t j = 0; j < u->op->patches; j++)
			pagemap_set(&b->map, u->op->patch[j].addr, u->op->patch[j].page);
		break;
	case SIMDEV_TEAR:
		rng_seed(&rng, rng_mix(b->seed, u->number));
		simdev_tear(&b->map, u->op->patch, u->op->patches, &rng);
		break;
	}
}

struct simdev *simdev_branch(struct simdev *sd, uint64_t n, const enum simdev_choice *choice, uint64_t seed)
{
	struct branch b = { .choice = choice, .seed = rng_mix(sd->seed, seed) };
	const struct pagemap *durable;
	struct unflushed *list;
	struct simdev *after;
	unsigned found;

	pthread_mutex_lock(&sd->lock);
	check_locked(sd, n);
	found = each_unflushed_locked(sd, n, NULL, NULL, &durable);
	list = simdev_must(malloc((found + 1) * sizeof(*list)));
	each_unflushed_locked(sd, n, collect, list, &durable);

	b.map = pagemap_get(durable);
	rng_seed(&b.rng, b.seed);
	b.odds = odds_by_chance(&b.rng);
	for (unsigned i = 0; i < found; i++)
		apply(&b, i, &list[i]);
	after = simdev_on(b.map, sd->blocks, b.seed);
	pthread_mutex_unlock(&sd->lock);
	free(list);
	return after;
}

void simdev_power_cut(struct simdev **sd)
{
	uint64_t n = simdev_ops(*sd);
	/* SIMDEV_DROP is 0. */
	enum simdev_choice *drop = simdev_must(calloc(simdev_unflushed(*sd, n) + 1, sizeof(*drop)));
	struct simdev *after = simdev_branch(*sd, n, drop, 1);

	free(drop);
	simdev_free(*sd);
	*sd = after;
}

/* --- going through all of them --- */

#define CHOICES 3u

void simdev_crash_begin(struct simdev_crash *c, struct simdev *run, uint64_t n, uint64_t limit, uint64_t seed)
{
	*c = (struct simdev_crash){ .run = run, .n = n, .seed = seed, .total = 1, .exhaustive = true };
	c->unflushed = simdev_unflushed(run, n);
	c->choice = simdev_must(calloc(c->unflushed + 1, sizeof(*c->choice)));
	for (unsigned i = 0; i < c->unflushed && c->exhaustive; i++) {
		c->total *= CHOICES;
		c->exhaustive = c->total <= limit;
	}
	if (!c->exhaustive)
		c->total = limit;
}

struct simdev *simdev_crash_next(struct simdev_crash *c)
{
	uint64_t digits = c->index;
	uint64_t seed = rng_mix(c->seed, c->index);
	struct odds odds;
	struct rng rng;

	if (c->index == c->total)
		return NULL;
	rng_seed(&rng, seed);
	odds = odds_by_chance(&rng);
	for (unsigned i = 0; i < c->unflushed; i++) {
		if (c->exhaustive) {
			c->choice[i] = (enum simdev_choice)(digits % CHOICES);
			digits /= CHOICES;
		} else if (c->index < 2) {
			c->choice[i] = c->index ? SIMDEV_KEEP : SIMDEV_DROP;
		} else {
			c->choice[i] = choice_by_chance(&rng, odds);
		}
	}
	c->index++;
	return simdev_branch(c->run, c->n, c->choice, seed);
}

void simdev_crash_end(struct simdev_crash *c)
{
	free(c->choice);
	c->choice = NULL;
}

static void print_one(void *arg, unsigned i, uint64_t number, const struct op *op)
{
	static const char *const name[] = { "dropped", "kept", "torn" };
	const struct simdev_crash *c = arg;

	printf("#   %" PRIu64 ": %s %" PRIu64 "+%" PRIu64 " %s\n", number,
	       op->kind == SIMDEV_WRITE ? "write" : "discard", op->addr, op->blocks, name[c->choice[i]]);
}

void simdev_crash_print(const struct simdev_crash *c)
{
	struct simdev_crash copy = *c;
	const struct pagemap *durable;

	printf("# crash before operation %" PRIu64 ", state %" PRIu64 " of %" PRIu64 ", seed %" PRIu64 "\n", c->n,
	       c->index - 1, c->total, c->seed);
	pthread_mutex_lock(&c->run->lock);
	each_unflushed_locked(c->run, c->n, print_one, &copy, &durable);
	pthread_mutex_unlock(&c->run->lock);
	fflush(stdout);
}

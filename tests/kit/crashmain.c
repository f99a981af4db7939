/*
 * crashmain.c - see crashmain.h
 *
 * A sequence is a number: what it begins with and how it is tried are its lowest digit, its operations the others. Numbers are
 * gone through in steps of a number that has no factor in common with how many there are, chosen by seed: so each comes once,
 * and whatever ends it early, it has been everywhere. Shards take every so many-th.
 */
#include "tests/kit/crashmain.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"

static double started;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static bool over(const struct crashmain *m, const struct crashmain_args *a)
{
	return m->crash->states >= a->states || now() - started >= a->seconds;
}

/* ---- names ---- */

static size_t count(const char *(*name)(size_t))
{
	size_t n = 0;

	while (name(n))
		n++;
	return n;
}

static size_t find(const char *what, const char *(*name)(size_t), const char *at, size_t len)
{
	for (size_t i = 0; name(i); i++)
		if (strlen(name(i)) == len && memcmp(name(i), at, len) == 0)
			return i;
	printf("no such %s: %.*s\n", what, (int)len, at);
	exit(2);
}

static size_t find_kind(const struct crashmain *m, const char *at, size_t len)
{
	for (size_t i = 0; m->kinds[i]; i++)
		if (strlen(m->kinds[i]) == len && memcmp(m->kinds[i], at, len) == 0)
			return i;
	printf("a plan is random:SHAPE:SEED");
	for (size_t i = 0; m->kinds[i]; i++)
		printf(", %s:BASE:op,op,op", m->kinds[i]);
	printf("\n");
	exit(2);
}

int crashmain_named(const struct crashmain *m, const char *plan)
{
	size_t len = strcspn(plan, ":"), middle = plan[len] ? strcspn(plan + len + 1, ":") : 0;
	const char *second = plan + len + 1, *rest = second + middle + 1;
	size_t seq[CRASHMAIN_SEQUENCE], n = 0;
	bool random = len == 6 && memcmp(plan, "random", 6) == 0;
	size_t kind;

	if (!plan[len] || !second[middle])
		len = 0; /* has no kind, and so is none */
	if (len && random)
		return m->random(NULL, find("shape", m->shape, second, middle), strtoull(rest, NULL, 0));
	kind = find_kind(m, plan, len);
	while (*rest && n < CRASHMAIN_SEQUENCE) {
		size_t l = strcspn(rest, ",");

		seq[n++] = find("operation", m->op, rest, l);
		rest += l + (rest[l] == ',');
	}
	return m->sequence(NULL, find("state to begin with", m->base, second, middle), kind, seq, n);
}

/* ---- numbers ---- */

static size_t starts(const struct crashmain *m)
{
	size_t kinds = 0;

	while (m->kinds[kinds])
		kinds++;
	return m->bases * kinds;
}

/* All sequences of `len`, numbered: what they begin with and how they are tried first, then the operations. */
static uint64_t sequences(const struct crashmain *m, unsigned len)
{
	uint64_t n = starts(m), ops = count(m->op);

	while (len--)
		n *= ops;
	return n;
}

static int run_number(const struct crashmain *m, const struct crashmain_args *a, uint64_t number, unsigned len)
{
	size_t start = number % starts(m), ops = count(m->op), seq[CRASHMAIN_SEQUENCE];

	number /= starts(m);
	for (unsigned i = 0; i < len; i++) {
		seq[i] = number % ops;
		number /= ops;
	}
	return m->sequence(a, start % m->bases, start / m->bases, seq, len);
}

/* Sequences of three of the core, each tried in one way. */
static uint64_t cores(const struct crashmain *m)
{
	uint64_t n = 0;

	for (size_t i = 0; m->core && m->op(i); i++)
		n += m->core(i);
	return n * n * n;
}

/* The nth operation of the core. */
static size_t core_op(const struct crashmain *m, uint64_t nth)
{
	size_t i = 0;

	for (;; i++)
		if (m->core(i) && !nth--)
			return i;
}

static int run_core(const struct crashmain *m, const struct crashmain_args *a, uint64_t number)
{
	size_t kinds = starts(m) / m->bases, seq[3];
	size_t kind = rng_mix(a->seed, number) % kinds;
	uint64_t n = 0;

	for (size_t i = 0; m->op(i); i++)
		n += m->core(i);
	for (unsigned i = 3; i-- > 0; number /= n)
		seq[i] = core_op(m, number % n);
	return m->sequence(a, m->core_base, kind, seq, 3);
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

struct done {
	uint64_t len[4], cores, randoms;
};

static int report(const struct crashmain *m, const struct crashmain_args *a, int err, const struct done *d)
{
	const struct crash *c = m->crash;
	int bad = err < 0;

	printf("# states %" PRIu64 ", plans %" PRIu64 " (and %" PRIu64 " idle), points %" PRIu64
	       ", crashed inside recovery %" PRIu64 ", went on after %" PRIu64 ", newest slot lost %" PRIu64
	       ", refused for want of room %" PRIu64 "\n",
	       c->states, c->plans, c->idle, c->points, c->recoveries, c->went_on, c->slots, c->refused);
	for (unsigned len = 0; a->exhaustive && len <= a->depth; len++)
		printf("# sequences of %u: %" PRIu64 " of %" PRIu64 "\n", len, d->len[len],
		       sequences(m, len) / a->shards);
	if (d->cores)
		printf("# sequences of 3 of the core: %" PRIu64 " of %" PRIu64 "\n", d->cores, cores(m) / a->shards);
	printf("# random runs: %" PRIu64 "\n", d->randoms);
	if (m->report && m->report(a))
		bad = 1;
	printf("# %.1f s, %.3f ms a state\n", now() - started, (now() - started) * 1000 / (double)(c->states | 1));
	printf("%s - %s\n", bad ? "not ok 1" : "ok 1", m->promise);
	fflush(stdout);
	return bad;
}

/* The nth of all, in an order by seed: whatever ends it early, it has been everywhere. */
static int run_nth(const struct crashmain *m, const struct crashmain_args *a, unsigned len, uint64_t nth)
{
	uint64_t total = sequences(m, len);

	return run_number(m, a, (uint64_t)((unsigned __int128)nth * coprime(total, a->seed) % total), len);
}

static int run_all(const struct crashmain *m, const struct crashmain_args *a)
{
	uint64_t total = sequences(m, 3);
	struct done d = { 0 };
	int err = 0;

	printf("1..1\n");
	if (m->first && a->exhaustive && a->depth)
		err = m->first(m, a);
	for (unsigned len = 0; a->exhaustive && len <= a->depth && len <= 2; len++)
		for (uint64_t i = a->shard; err >= 0 && i < sequences(m, len) && !(a->limited && over(m, a));
		     i += a->shards, d.len[len]++)
			err = run_nth(m, a, len, i);
	if (a->exhaustive && a->depth > 2)
		for (uint64_t i = a->shard; err >= 0 && i < cores(m) && !(a->limited && over(m, a));
		     i += a->shards, d.cores++)
			err = run_core(m, a, i);
	while (err >= 0 && !over(m, a)) {
		bool more = a->exhaustive && a->depth > 2 && a->shard + d.len[3] * a->shards < total;

		if (!more && (!a->random || (a->all && d.randoms)))
			break;
		if (a->random && (!more || d.randoms * 40 <= d.len[3])) {
			uint64_t k = d.randoms++ * a->shards + a->shard;

			err = m->random(a, k % count(m->shape), rng_mix(a->seed, k) >> 32);
		} else {
			err = run_nth(m, a, 3, a->shard + d.len[3]++ * a->shards);
		}
	}
	return report(m, a, err, &d);
}

/* ---- the command line ---- */

static void usage(const struct crashmain *m)
{
	printf("options: --seed N --states N --seconds N --shard I/N --depth 0..3 --exhaustive | --random%s\n"
	       "         --plan NAME [--replay PATH]\n"
	       "ARBOR_SEED and ARBOR_CRASH_SECONDS in the environment set the defaults.\n",
	       m->can_all ? " --all" : "");
	exit(2);
}

static void limit(struct crashmain_args *a, uint64_t states, double seconds)
{
	a->states = states;
	a->seconds = seconds;
	a->limited = true;
}

static void parse(const struct crashmain *m, struct crashmain_args *a, int argc, char **argv)
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

	*a = (struct crashmain_args){ .seed = 1,
				      .states = m->states,
				      .seconds = 1e9,
				      .shards = 1,
				      .depth = 3,
				      .exhaustive = true,
				      .random = true };
	env = getenv("ARBOR_SEED");
	if (env && *env)
		a->seed = strtoull(env, NULL, 0);
	env = getenv("ARBOR_CRASH_SECONDS");
	if (env && *env)
		limit(a, UINT64_MAX, strtod(env, NULL));
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 's':
			a->seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			limit(a, strtoull(optarg, NULL, 0), a->seconds);
			break;
		case 't':
			limit(a, UINT64_MAX, strtod(optarg, NULL));
			break;
		case 'S':
			if (sscanf(optarg, "%u/%u", &a->shard, &a->shards) != 2 || a->shard >= a->shards)
				usage(m);
			break;
		case 'd':
			a->depth = (unsigned)strtoul(optarg, NULL, 0);
			if (a->depth > 3)
				usage(m);
			break;
		case 'e':
			a->random = false;
			break;
		case 'r':
			a->exhaustive = false;
			break;
		case 'a':
			if (!m->can_all)
				usage(m);
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
			usage(m);
		}
	}
	if (optind != argc)
		usage(m);
}

int crashmain(const struct crashmain *m, int argc, char **argv)
{
	struct crashmain_args a;
	int err;

	parse(m, &a, argc, argv);
	started = now();
	if (a.replay && (!a.plan || !crash_parse(m->crash, a.replay)))
		usage(m);
	kv_log_quiet();
	printf("# seed %" PRIu64 "\n", a.seed);
	m->begin();
	if (a.plan) {
		err = crashmain_named(m, a.plan);
		printf("# result %d, %" PRIu64 " states\n", err, m->crash->states);
		err = err < 0;
	} else {
		err = run_all(m, &a);
	}
	m->end();
	return err;
}

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

size_t crashmain_find(const char *what, const char *at, size_t len, crashmain_name *name, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(name(i)) == len && memcmp(name(i), at, len) == 0)
			return i;
	printf("no such %s: %.*s\n", what, (int)len, at);
	exit(2);
}

const char *crashmain_split(const struct crashmain *m, const char *plan, const char **ret_second, size_t *ret_len)
{
	const char *second = strchr(plan, ':'), *rest = second ? strchr(second + 1, ':') : NULL;

	if (!rest) {
		printf("a plan is %s\n", m->plans);
		exit(2);
	}
	*ret_second = second + 1;
	*ret_len = (size_t)(rest - second - 1);
	return rest + 1;
}

size_t crashmain_list(const char *list, crashmain_name *name, size_t n, size_t seq[CRASHMAIN_SEQUENCE])
{
	size_t len = 0;

	while (*list && len < CRASHMAIN_SEQUENCE) {
		size_t l = strcspn(list, ",");

		seq[len++] = crashmain_find("operation", list, l, name, n);
		list += l + (list[l] == ',');
	}
	return len;
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
		       m->sequences(len) / a->shards);
	if (d->cores)
		printf("# sequences of 3 of the core: %" PRIu64 " of %" PRIu64 "\n", d->cores, m->cores() / a->shards);
	printf("# random runs: %" PRIu64 "\n", d->randoms);
	if (m->report && m->report(a))
		bad = 1;
	printf("# %.1f s, %.3f ms a state\n", now() - started, (now() - started) * 1000 / (double)(c->states | 1));
	printf("%s - %s\n", bad ? "not ok 1" : "ok 1", m->promise);
	fflush(stdout);
	return bad;
}

/* The nth of this shard, in an order by seed: whatever ends it early, it has been everywhere. */
static int run_nth(const struct crashmain *m, const struct crashmain_args *a, unsigned len, uint64_t nth)
{
	uint64_t total = m->sequences(len);
	uint64_t number = (uint64_t)((unsigned __int128)nth * coprime(total, a->seed) % total);

	return m->sequence(a, number, len);
}

static int run_all(const struct crashmain *m, const struct crashmain_args *a)
{
	uint64_t total = m->sequences(3);
	struct done d = { 0 };
	int err = 0;

	printf("1..1\n");
	if (m->first && a->exhaustive && a->depth)
		err = m->first(m, a);
	for (unsigned len = 0; a->exhaustive && len <= a->depth && len <= 2; len++)
		for (uint64_t i = a->shard; err >= 0 && i < m->sequences(len) && !(a->limited && over(m, a));
		     i += a->shards, d.len[len]++)
			err = run_nth(m, a, len, i);
	if (m->cores && a->exhaustive && a->depth > 2)
		for (uint64_t i = a->shard; err >= 0 && i < m->cores() && !(a->limited && over(m, a));
		     i += a->shards, d.cores++)
			err = m->core(a, i);
	while (err >= 0 && !over(m, a)) {
		bool more = a->exhaustive && a->depth > 2 && a->shard + d.len[3] * a->shards < total;

		if (!more && (!a->random || (a->all && d.randoms)))
			break;
		if (a->random && (!more || d.randoms * 40 <= d.len[3])) {
			err = m->random(a, d.randoms++);
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
	       "A plan is %s.\n"
	       "ARBOR_SEED and ARBOR_CRASH_SECONDS in the environment set the defaults.\n",
	       m->can_all ? " --all" : "", m->plans);
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
		err = m->named(m, a.plan);
		printf("# result %d, %" PRIu64 " states\n", err, m->crash->states);
		err = err < 0;
	} else {
		err = run_all(m, &a);
	}
	m->end();
	return err;
}

/*
 * bench_engine - ArborFS's engine beside LMDB and RocksDB; README.md says what each row means
 */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "btree/mem.h"
#include "tests/bench/report.h"

const struct engine_ops *const engines[ENGINES] = { &engine_arbor, &engine_lmdb, &engine_rocksdb };

struct options {
	const char *dir;
	uint64_t cache, small, large, tree, image, log;
	unsigned runs, threads;
	size_t batch;
	double seconds;
	uint64_t seed;
	unsigned engine_mask, group_mask;
	bool no_small, no_large, no_drop_host, no_hint, buffered, keep, quiet, bounds;
	const char *csv;
};

enum {
	OPT_QUICK = 256,
	OPT_FULL,
	OPT_CACHE,
	OPT_SMALL,
	OPT_LARGE,
	OPT_TREE,
	OPT_IMAGE,
	OPT_LOG,
	OPT_SECONDS,
	OPT_BATCH,
	OPT_SEED,
	OPT_ENGINES,
	OPT_ONLY,
	OPT_SET,
	OPT_CSV,
	OPT_KEEP,
	OPT_NO_DROP,
	OPT_NO_HINT,
	OPT_BUFFERED,
	OPT_BOUNDS,
};

static const struct argp_option argp_options[] = {
	{ 0, 0, 0, 0, "How much:", 1 },
	{ "quick", OPT_QUICK, 0, 0, "small sizes, one run: about 30 s", 1 },
	{ "full", OPT_FULL, 0, 0, "256 MiB of cache, 2 GiB of data: about an hour", 1 },
	{ "runs", 'r', "N", 0, "repeat each measurement, report medians (3)", 1 },
	{ "seconds", OPT_SECONDS, "S", 0, "length of a measurement that has no end of its own (0.5)", 1 },
	{ "cache", OPT_CACHE, "SIZE", 0, "cache of each engine (32M)", 1 },
	{ "small", OPT_SMALL, "SIZE", 0, "keys and values of the set that fits the cache (12M)", 1 },
	{ "large", OPT_LARGE, "SIZE", 0, "keys and values of the set that does not (128M)", 1 },
	{ 0, 0, 0, 0, "What:", 2 },
	{ "engines", OPT_ENGINES, "LIST", 0, "of arbor,lmdb,rocksdb (all)", 2 },
	{ "set", OPT_SET, "small|large", 0, "one set only", 2 },
	{ "only", OPT_ONLY, "LIST", 0,
	  "groups of rows: load-order,load-random,warm,get-cold,scan-cold,scan-100-cold,commit,mixed; all but the "
	  "first need load-random (or a directory kept)",
	  2 },
	{ "bounds", OPT_BOUNDS, 0, 0, "memory, recovery and opening times of arbor instead; --cache (64M), --tree", 2 },
	{ "tree", OPT_TREE, "SIZE", 0, "bounds: size of the tree (4G)", 2 },
	{ 0, 0, 0, 0, "How:", 3 },
	{ "dir", 'd', "DIR", 0, "where to put the files, on the device to measure (.)", 3 },
	{ "threads", 't', "N", 0, "of the many-threaded commits (8)", 3 },
	{ "batch", OPT_BATCH, "N", 0, "items a write of a load (100)", 3 },
	{ "seed", OPT_SEED, "N", 0, "of orders and values (1)", 3 },
	{ "image", OPT_IMAGE, "SIZE", 0, "arbor: size of the sparse image (by the data)", 3 },
	{ "log", OPT_LOG, "SIZE", 0, "arbor: size of the log (what mkfs chooses)", 3 },
	{ "no-drop-caches", OPT_NO_DROP, 0, 0, "cold: drop only the files' pages, not the host's page cache", 3 },
	{ "no-append-hint", OPT_NO_HINT, 0, 0, "lmdb: load in key order without MDB_APPEND", 3 },
	{ "rocksdb-buffered", OPT_BUFFERED, 0, 0, "rocksdb: read through the host's page cache for the large set too",
	  3 },
	{ "csv", OPT_CSV, "FILE", 0, "append every sample", 3 },
	{ "keep", OPT_KEEP, 0, 0, "leave the files in DIR/arbor-bench, and use those that are there", 3 },
	{ "quiet", 'q', 0, 0, "no progress on stderr", 3 },
	{ 0 },
};

/* A mask of the names in a list. */
static bool parse_list(const char *list, const char *(*name)(unsigned i), unsigned n, unsigned *ret)
{
	unsigned mask = 0;

	while (*list) {
		size_t len = strcspn(list, ",");
		unsigned i;

		for (i = 0; i < n; i++) {
			if (strlen(name(i)) == len && !strncmp(name(i), list, len))
				break;
		}
		if (i == n)
			return false;
		mask |= 1u << i;
		list += len + (list[len] == ',');
	}
	*ret = mask;
	return mask != 0;
}

static const char *engine_name(unsigned i)
{
	return engines[i]->name;
}

static const char *group_name(unsigned i)
{
	return groups[i].name;
}

static bool parse_unsigned(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 0);
	return !errno && end != text && !*end && *text != '-' && *ret >= min && *ret <= max;
}

static error_t parse_how(int key, char *arg, struct options *o, bool *ok)
{
	uint64_t n = 0;

	switch (key) {
	case 'd':
		o->dir = arg;
		break;
	case 't':
		*ok = parse_unsigned(arg, 1, 256, &n);
		o->threads = (unsigned)n;
		break;
	case 'q':
		o->quiet = true;
		break;
	case OPT_BATCH:
		*ok = parse_unsigned(arg, 1, 1u << 20, &n);
		o->batch = n;
		break;
	case OPT_SEED:
		*ok = parse_unsigned(arg, 0, UINT64_MAX, &o->seed);
		break;
	case OPT_IMAGE:
		*ok = !parse_size(arg, &o->image);
		break;
	case OPT_LOG:
		*ok = !parse_size(arg, &o->log);
		break;
	case OPT_NO_DROP:
		o->no_drop_host = true;
		break;
	case OPT_NO_HINT:
		o->no_hint = true;
		break;
	case OPT_BUFFERED:
		o->buffered = true;
		break;
	case OPT_CSV:
		o->csv = arg;
		break;
	case OPT_KEEP:
		o->keep = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	bool ok = true;
	uint64_t n = 0;
	char *end;

	switch (key) {
	case OPT_QUICK:
		o->runs = 1;
		o->seconds = 0.3;
		o->cache = 16u << 20;
		o->small = 6u << 20;
		o->large = 64u << 20;
		break;
	case OPT_FULL:
		o->seconds = 5;
		o->cache = 256u << 20;
		o->small = 96u << 20;
		o->large = UINT64_C(2) << 30;
		break;
	case 'r':
		ok = parse_unsigned(arg, 1, RUNS_MAX, &n);
		o->runs = (unsigned)n;
		break;
	case OPT_SECONDS:
		o->seconds = strtod(arg, &end);
		ok = !*end && o->seconds > 0;
		break;
	case OPT_CACHE:
		ok = !parse_size(arg, &o->cache) && o->cache;
		break;
	case OPT_SMALL:
		ok = !parse_size(arg, &o->small) && o->small >= 1u << 16;
		break;
	case OPT_LARGE:
		ok = !parse_size(arg, &o->large) && o->large >= 1u << 16;
		break;
	case OPT_TREE:
		ok = !parse_size(arg, &o->tree) && o->tree >= 1u << 20;
		break;
	case OPT_ENGINES:
		ok = parse_list(arg, engine_name, ENGINES, &o->engine_mask);
		break;
	case OPT_ONLY:
		ok = parse_list(arg, group_name, n_groups, &o->group_mask);
		break;
	case OPT_SET:
		ok = !strcmp(arg, "small") || !strcmp(arg, "large");
		o->no_small = strcmp(arg, "small");
		o->no_large = strcmp(arg, "large");
		break;
	case OPT_BOUNDS:
		o->bounds = true;
		break;
	default: {
		error_t err = parse_how(key, arg, o, &ok);

		if (err)
			return err;
	}
	}
	if (!ok)
		argp_error(state, "what is '%s'?", arg);
	return 0;
}

static void print_wrapped(const char *text)
{
	unsigned column = 0;

	printf("- ");
	while (*text) {
		size_t len = strcspn(text, " ");

		if (column && column + len > 110) {
			printf("\n  ");
			column = 0;
		}
		printf("%s%.*s", column ? " " : "", (int)len, text);
		column += (unsigned)len + 1;
		text += len + (text[len] == ' ');
	}
	printf("\n");
}

static void print_setting(const struct options *o)
{
	struct engine_env env = { .cache_bytes = o->cache, .larger = !o->no_large, .buffered = o->buffered };
	char a[32], b[32], c[32];
	struct utsname u;

	uname(&u);
	printf("bench_engine: keys of %u bytes, values of %u; cache %s; keys and values: small set %s, large set %s\n",
	       KEY_SIZE, VALUE_SIZE, format_size(o->cache, a, sizeof(a)), format_size(o->small, b, sizeof(b)),
	       format_size(o->large, c, sizeof(c)));
	printf("medians of %u runs, engines in turn; seed %llu; Linux %s, %ld processors, memory %s\n", o->runs,
	       (unsigned long long)o->seed, u.release, sysconf(_SC_NPROCESSORS_ONLN),
	       format_size((uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), a, sizeof(a)));
#ifndef NDEBUG
	printf("arbor is built with assertions\n");
#endif
	for (unsigned e = 0; e < ENGINES; e++) {
		if (o->engine_mask & 1u << e)
			print_wrapped(engines[e]->settings(&env));
	}
	fflush(stdout);
}

/* One group of one engine in one run. */
static int run_group(const struct options *o, const char *dir, struct results *res, unsigned run, unsigned engine,
		     const struct group *group)
{
	const struct engine_ops *ops = engines[engine];
	bool larger = !strcmp(res->set, "large");
	char path[4096];
	struct bench b = {
		.ops = ops,
		.env = {
			.dir = path,
			.cache_bytes = o->cache,
			.data_bytes = res->data_bytes,
			.image_bytes = o->image,
			.log_bytes = o->log,
			.larger = larger,
			.buffered = o->buffered,
			.no_hint = o->no_hint,
		},
		.items = res->data_bytes / ITEM_SIZE,
		.seed = rng_mix(o->seed, run),
		.seconds = o->seconds,
		.batch = o->batch,
		.threads = o->threads,
		.drop_host = !o->no_drop_host,
	};
	double start = now_seconds();
	int err;

	snprintf(path, sizeof(path), "%s/%s-%s", dir, ops->name, res->set);
	if (!o->quiet)
		fprintf(stderr, "%s run %u/%u %-14s %-8s", res->set, run + 1, res->runs, group->name, ops->name);
	err = group->run(&b, res->sample[run][engine]);
	if (!o->quiet)
		fprintf(stderr, " %.1f s\n", now_seconds() - start);
	if (err)
		fprintf(stderr, "bench_engine: %s: %s of the %s set: %s\n", ops->name, group->name, res->set,
			strerror(-err));
	return err;
}

static int run_set(const struct options *o, const char *dir, const char *set, uint64_t data_bytes)
{
	struct results *res = mem_zalloc(sizeof(*res));
	unsigned alive = o->engine_mask;
	int err = 0;

	if (!res)
		return -ENOMEM;
	res->set = set;
	res->runs = o->runs;
	res->threads = o->threads;
	res->data_bytes = data_bytes;
	for (unsigned run = 0; run < o->runs; run++) {
		for (unsigned g = 0; g < n_groups; g++) {
			/* Each engine comes first in turn. */
			for (unsigned i = 0; i < ENGINES; i++) {
				unsigned e = (i + run + g) % ENGINES;

				if (!(alive & 1u << e) || !(o->group_mask & 1u << g))
					continue;
				if (run_group(o, dir, res, run, e, &groups[g])) {
					alive &= ~(1u << e); /* the others go on */
					err = -EIO;
				}
			}
		}
	}
	report_table(res);
	if (o->csv && report_csv(res, o->csv)) {
		fprintf(stderr, "bench_engine: cannot write %s\n", o->csv);
		err = -EIO;
	}
	mem_free(res);
	return err;
}

static int run_all(const struct options *o, const char *dir)
{
	int err = 0, err2 = 0;

	print_setting(o);
	if (!o->no_small)
		err = run_set(o, dir, "small", o->small);
	if (!o->no_large)
		err2 = run_set(o, dir, "large", o->large);
	return err ? err : err2;
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		.options = argp_options,
		.parser = parse_option,
		.doc = "Measures ArborFS's engine beside LMDB and RocksDB, the same workloads in one run.\v"
		       "SIZE takes K, M, G or T. The exit status says whether everything ran, not whether targets were "
		       "met.",
	};
	struct options o = {
		.dir = ".",
		.small = 12u << 20,
		.large = 128u << 20,
		.tree = UINT64_C(4) << 30,
		.runs = 3,
		.threads = 8,
		.batch = 100,
		.seconds = 0.5,
		.seed = 1,
		.engine_mask = (1u << ENGINES) - 1,
		.group_mask = (1u << n_groups) - 1,
	};
	char dir[4000];
	int err;

	if (argp_parse(&argp, argc, argv, 0, NULL, &o))
		return 2;
	if (!o.cache)
		o.cache = o.bounds ? 64u << 20 : 32u << 20;

	snprintf(dir, sizeof(dir), "%s/arbor-bench%s", o.dir, o.keep ? "" : ".XXXXXX");
	err = o.keep ? dir_make(dir) : mkdtemp(dir) ? 0 : -errno;
	if (err) {
		fprintf(stderr, "bench_engine: %s: %s\n", dir, strerror(-err));
		return 2;
	}
	err = o.bounds ? bounds_run(dir, o.cache, o.tree, !o.no_drop_host) : run_all(&o, dir);
	if (!o.keep)
		dir_remove(dir);
	return err ? 1 : 0;
}

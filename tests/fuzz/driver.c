/*
 * driver.c - the main function of the standalone fuzz targets
 *
 * Runs inputs made from a seed: random bytes, valid inputs of the target (fuzz_seed), and files given, most of them
 * mutated. Run r depends on (seed, r) alone, so whatever fails is run again by --seed S --first R --runs 1; and the
 * input is left in crash-<target>-<S>-<R>, to be given as a file.
 *
 *	fuzz_super				the default number of runs, or ARBOR_FUZZ_RUNS, by ARBOR_FUZZ_SEED
 *	fuzz_super --runs 10000000 --seed 7 corpus/	mutates the files of a folder too
 *	fuzz_super crash-super-1-77		only this input, as it is
 *	fuzz_super --write-seeds corpus/ --runs 100	valid inputs as files, for libFuzzer to start from
 */
#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "tests/kit/rng.h"

#define RUNS_DEFAULT 20000u
#define INPUT_MAX (256u << 10)
#define RUN_SECONDS_MAX 20u /* an input that takes longer is a finding */

struct file {
	char *path;
	uint8_t *bytes;
	size_t len;
};

struct options {
	uint64_t runs, first, seed;
	size_t max;
	bool runs_given, seed_given;
	const char *write_seeds;
	struct file *files;
	size_t n_files;
};

/* The input being run, for the signal handler. */
static struct {
	char crash_path[256];
	char message[1024];
	const uint8_t *bytes;
	size_t len;
	volatile sig_atomic_t running;
} now;

/* ---- when it fails ---- */

static void write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

static void save_input(void)
{
	int fd;

	if (!now.running)
		return;
	now.running = 0;
	fd = now.crash_path[0] ? open(now.crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
	if (fd >= 0) {
		write_all(fd, now.bytes, now.len);
		close(fd);
	}
	write_all(STDERR_FILENO, now.message, strlen(now.message));
}

static void on_signal(int sig)
{
	save_input();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Under a sanitizer, which has handlers of its own. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void catch_failures(void)
{
	static const int signals[] = { SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL };

	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(save_input);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		if (!__sanitizer_set_death_callback || signals[i] == SIGALRM || signals[i] == SIGABRT)
			signal(signals[i], on_signal);
	}
}

static void run_one(const uint8_t *bytes, size_t len)
{
	uint8_t *exact = malloc(len ? len : 1); /* so that a sanitizer sees one byte too far */

	if (!exact)
		abort();
	memcpy(exact, bytes, len);
	now.bytes = bytes;
	now.len = len;
	now.running = 1;
	alarm(RUN_SECONDS_MAX);
	LLVMFuzzerTestOneInput(exact, len);
	alarm(0);
	now.running = 0;
	free(exact);
}

/* ---- inputs ---- */

static uint64_t interesting(struct rng *rng)
{
	uint64_t x = UINT64_C(1) << rng_below(rng, 64);

	switch (rng_below(rng, 6)) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX;
	case 2:
		return x;
	case 3:
		return x - 1;
	case 4:
		return rng_below(rng, 4096);
	default:
		return rng_next(rng);
	}
}

/* A place: mostly near the beginning, where headers are. */
static size_t place(struct rng *rng, size_t len)
{
	size_t near = len < 512 ? len : 512;

	return rng_below(rng, rng_chance(rng, 1, 2) ? near : len);
}

static size_t mutate(struct rng *rng, uint8_t *buf, size_t len, size_t cap)
{
	size_t at, n, from;
	uint64_t x;

	if (!len) {
		rng_bytes(rng, buf, cap < 64 ? cap : 64);
		return cap < 64 ? cap : 64;
	}
	at = place(rng, len);
	switch (rng_below(rng, 9)) {
	case 0:
		buf[at] ^= 1u << rng_below(rng, 8);
		break;
	case 1:
		buf[at] = (uint8_t)rng_next(rng);
		break;
	case 2: /* a number of some width, aligned or not */
	case 3:
		n = (size_t)1 << rng_below(rng, 4);
		if (rng_chance(rng, 3, 4))
			at &= ~(n - 1);
		x = interesting(rng);
		memcpy(buf + at, &x, n < len - at ? n : len - at);
		break;
	case 4: /* a number changed by a little */
		n = (size_t)1 << rng_below(rng, 4);
		at &= ~(n - 1);
		if (len - at >= n) {
			x = 0;
			memcpy(&x, buf + at, n);
			x += rng_below(rng, 17) - 8;
			memcpy(buf + at, &x, n);
		}
		break;
	case 5: /* some of it elsewhere too */
		from = rng_below(rng, len);
		n = 1 + rng_below(rng, 64);
		n = n < len - at ? n : len - at;
		n = n < len - from ? n : len - from;
		memmove(buf + at, buf + from, n);
		break;
	case 6: /* a run of one value */
		n = 1 + rng_below(rng, 64);
		memset(buf + at, rng_chance(rng, 1, 2) ? 0 : 0xff, n < len - at ? n : len - at);
		break;
	case 7: /* shorter */
		return rng_chance(rng, 1, 4) ? at : len;
	case 8: /* longer, or something put between */
		n = 1 + rng_below(rng, 32);
		if (n > cap - len || rng_chance(rng, 3, 4))
			break;
		memmove(buf + at + n, buf + at, len - at);
		rng_bytes(rng, buf + at, n);
		return len + n;
	}
	return len;
}

/* The input of one run. */
static size_t make_input(const struct options *o, struct rng *rng, uint8_t *buf)
{
	size_t len = 0;
	unsigned n;

	if (o->n_files && rng_chance(rng, 1, 2)) {
		const struct file *f = &o->files[rng_below(rng, o->n_files)];

		len = f->len < o->max ? f->len : o->max;
		memcpy(buf, f->bytes, len);
	} else if (fuzz_seed && rng_chance(rng, 15, 16)) {
		len = fuzz_seed(buf, o->max, rng_next(rng));
	}
	if (!len) {
		len = rng_below(rng, (rng_chance(rng, 1, 2) ? 256 : o->max) + 1);
		len = len < o->max ? len : o->max;
		rng_bytes(rng, buf, len);
		return len;
	}
	/* Now and then as it is; mostly few mutations, sometimes many. */
	n = rng_chance(rng, 1, 16) ? 0 : 1u << rng_below(rng, 6);
	for (unsigned i = 0; i < n; i++)
		len = mutate(rng, buf, len, o->max);
	return len;
}

static void name_run(uint64_t seed, uint64_t run)
{
	snprintf(now.crash_path, sizeof(now.crash_path), "crash-%s-%" PRIu64 "-%" PRIu64, program_invocation_short_name,
		 seed, run);
	snprintf(now.message, sizeof(now.message),
		 "\n%s: failed: --seed %" PRIu64 " --first %" PRIu64 " --runs 1 runs it again; the input is in %s\n",
		 program_invocation_short_name, seed, run, now.crash_path);
}

static void name_file(const struct file *f)
{
	now.crash_path[0] = 0; /* it is there already */
	snprintf(now.message, sizeof(now.message), "\n%s: failed: the input is %s\n", program_invocation_short_name,
		 f->path);
}

static void run_seeded(const struct options *o)
{
	uint8_t *buf = malloc(o->max);
	struct rng rng;

	if (!buf)
		abort();
	for (uint64_t run = o->first; run < o->first + o->runs; run++) {
		rng_seed(&rng, rng_mix(o->seed, run));
		name_run(o->seed, run);
		run_one(buf, make_input(o, &rng, buf));
	}
	free(buf);
}

static int write_seeds(const struct options *o)
{
	uint8_t *buf = malloc(o->max);

	if (!buf || !fuzz_seed) {
		fprintf(stderr, "%s: this target makes no valid inputs\n", program_invocation_short_name);
		free(buf);
		return 1;
	}
	for (uint64_t i = 0; i < o->runs; i++) {
		size_t len = fuzz_seed(buf, o->max, rng_mix(o->seed, i));
		char path[4096];
		FILE *f;

		snprintf(path, sizeof(path), "%s/seed-%" PRIu64, o->write_seeds, i);
		f = fopen(path, "we");
		if (!f || fwrite(buf, 1, len, f) != len || fclose(f)) {
			fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, path, strerror(errno));
			free(buf);
			return 1;
		}
	}
	free(buf);
	return 0;
}

/* ---- files ---- */

static void add_file(struct options *o, const char *path)
{
	struct file f = { .path = strdup(path), .bytes = malloc(INPUT_MAX) };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 && f.path && f.bytes ? read(fd, f.bytes, INPUT_MAX) : -1;
	struct file *more;

	if (fd >= 0)
		close(fd);
	more = n < 0 ? NULL : realloc(o->files, (o->n_files + 1) * sizeof(*more));
	if (!more) {
		fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, path, strerror(errno));
		exit(2);
	}
	f.len = (size_t)n;
	f.bytes = realloc(f.bytes, f.len ? f.len : 1);
	o->files = more;
	o->files[o->n_files++] = f;
}

static void add_path(struct options *o, const char *path)
{
	struct stat st;
	struct dirent *d;
	DIR *dir;

	if (stat(path, &st) || !S_ISDIR(st.st_mode)) {
		add_file(o, path);
		return;
	}
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", path, d->d_name);
		if (!stat(file, &st) && S_ISREG(st.st_mode))
			add_file(o, file);
	}
	if (dir)
		closedir(dir);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;
	char *end = NULL;
	uint64_t n = 0;

	if (arg && (key == 'r' || key == 's' || key == 'f' || key == 'm')) {
		n = strtoull(arg, &end, 0);
		if (end == arg || *end)
			argp_error(state, "what is '%s'?", arg);
	}
	switch (key) {
	case 'r':
		o->runs = n;
		o->runs_given = true;
		break;
	case 's':
		o->seed = n;
		break;
	case 'f':
		o->first = n;
		break;
	case 'm':
		if (n < 1 || n > INPUT_MAX)
			argp_error(state, "at most %u bytes", INPUT_MAX);
		o->max = n;
		break;
	case 'w':
		o->write_seeds = arg;
		break;
	case ARGP_KEY_ARG:
		add_path(o, arg);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
	static const struct argp_option argp_options[] = {
		{ "runs", 'r', "N", 0,
		  "inputs to make (what the target says, or 20000, or ARBOR_FUZZ_RUNS; none where files are given)", 0 },
		{ "seed", 's', "N", 0, "what they follow from (1, or ARBOR_FUZZ_SEED)", 0 },
		{ "first", 'f', "N", 0, "number of the first run (0)", 0 },
		{ "max", 'm', "BYTES", 0, "longest input (65536)", 0 },
		{ "write-seeds", 'w', "DIR", 0, "write valid inputs as files instead", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = argp_options,
		.parser = parse_option,
		.args_doc = "[FILE|FOLDER...]",
		.doc = "Runs a decoder on inputs made from a seed.\v"
		       "Files are run as they are; with --runs, mutated too.",
	};
	struct options o = {
		.runs = from_env("ARBOR_FUZZ_RUNS", fuzz_runs ? fuzz_runs() : RUNS_DEFAULT),
		.seed = from_env("ARBOR_FUZZ_SEED", 1),
		.max = 64u << 10,
	};

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (o.write_seeds)
		return write_seeds(&o);
	if (o.n_files && !o.runs_given)
		o.runs = 0;
	printf("%s: seed %" PRIu64 ", runs %" PRIu64 "..%" PRIu64 ", %zu files\n", program_invocation_short_name,
	       o.seed, o.first, o.first + o.runs, o.n_files);
	fflush(stdout);

	catch_failures();
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	for (size_t i = 0; i < o.n_files; i++) {
		name_file(&o.files[i]);
		run_one(o.files[i].bytes, o.files[i].len);
	}
	run_seeded(&o);

	for (size_t i = 0; i < o.n_files; i++) {
		free(o.files[i].path);
		free(o.files[i].bytes);
	}
	free(o.files);
	return 0;
}

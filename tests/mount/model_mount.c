/*
 * model_mount.c - random operations on a mounted filesystem against the model
 *
 *	model_mount DIR [--seed N] [--steps N] [--rounds N] [--threads N]
 *
 * The same runs as model_fs makes on fs/, with system calls in DIR: so the kernel's caches and the FUSE adapter are part of
 * what is tested. Each thread works in a directory of its own with a model of its own, and all of them append to one file.
 * Times are not compared: nobody knows them. ARBOR_SEED, ARBOR_STEPS and ARBOR_ROUNDS do the same as the options. Prints TAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/kit/fsrun.h"

#define THREADS_MAX 16u
#define RECORD 128u

struct worker {
	char root[400], shared[400];
	unsigned number;
	uint64_t seed, steps, ops;
	uint32_t records;
	int err;
	const char *what;
	struct fsdrive_syscalls drive;
	struct fsrun run;
};

static int append_record(struct worker *w)
{
	uint32_t record[RECORD / 4];
	int fd = open(w->shared, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	ssize_t n;

	if (fd < 0)
		return -errno;
	for (unsigned i = 0; i < RECORD / 4; i++)
		record[i] = w->number << 24 | w->records;
	n = write(fd, record, RECORD);
	close(fd);
	w->records++;
	return n == RECORD ? 0 : n < 0 ? -errno : -EIO;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct rng rng;

	rng_seed(&rng, w->seed);
	w->what = "beginning";
	w->err = fsdrive_syscalls_init(&w->drive, w->root);
	if (w->err)
		return NULL;
	w->err = fsrun_init(&w->run, &w->drive.driver, NULL, false);
	for (uint64_t i = 0; i < w->steps && !w->err; i++) {
		struct fsop op = fsop_gen(&fsop_syscalls, w->run.model, &rng);

		w->what = "an operation";
		w->err = fsrun_step(&w->run, &op);
		if (!w->err && rng_chance(&rng, 1, 10)) {
			w->what = "appending to the shared file";
			w->err = append_record(w);
		}
		if (!w->err && rng_chance(&rng, 1, 250)) {
			w->what = "comparing";
			w->err = fsrun_compare(&w->run);
		}
	}
	if (!w->err) {
		w->what = "comparing at the end";
		w->err = fsrun_compare(&w->run);
	}
	w->ops = w->run.n_ops;
	return NULL;
}

/* Every record of the shared file whole, and each thread's in order. */
static int check_shared(const struct worker *w, unsigned threads)
{
	uint32_t next[THREADS_MAX] = { 0 }, record[RECORD / 4];
	uint64_t total = 0, found = 0;
	FILE *f = fopen(w->shared, "r");

	for (unsigned t = 0; t < threads; t++)
		total += w[t].records;
	if (!f)
		return total ? -errno : 0;
	for (; fread(record, 1, RECORD, f) == RECORD; found++) {
		unsigned t = record[0] >> 24;
		bool whole = t < threads && (record[0] & 0xffffff) == next[t];

		for (unsigned i = 1; i < RECORD / 4; i++)
			whole = whole && record[i] == record[0];
		if (!whole) {
			printf("# record %" PRIu64 " of the shared file is wrong: %08x\n", found, record[0]);
			fclose(f);
			return -EPROTO;
		}
		next[t]++;
	}
	fclose(f);
	if (found != total)
		printf("# %" PRIu64 " records in the shared file, should be %" PRIu64 "\n", found, total);
	return found == total ? 0 : -EPROTO;
}

static int run_round(const char *dir, uint64_t seed, uint64_t number, unsigned threads, uint64_t steps, uint64_t *ops)
{
	struct worker *w = calloc(threads, sizeof(*w));
	pthread_t t[THREADS_MAX];
	int err = 0;

	if (!w)
		abort();
	for (unsigned i = 0; i < threads; i++) {
		w[i].number = i;
		w[i].seed = rng_mix(seed, number * THREADS_MAX + i);
		w[i].steps = steps;
		snprintf(w[i].root, sizeof(w[i].root), "%.300s/model-%d-%" PRIu64 "-%u", dir, (int)getpid(), number, i);
		snprintf(w[i].shared, sizeof(w[i].shared), "%.300s/shared-%d-%" PRIu64, dir, (int)getpid(), number);
		if (mkdir(w[i].root, 0755)) {
			printf("# %s: %s\n", w[i].root, strerror(errno));
			exit(1);
		}
	}
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&t[i], NULL, work, &w[i]))
			abort();
	for (unsigned i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < threads; i++) {
		*ops += w[i].ops;
		if (w[i].err) {
			printf("# thread %u: %s: error %d; seed %" PRIu64 ", round %" PRIu64 "\n", i, w[i].what,
			       -w[i].err, seed, number);
			fsrun_print(&w[i].run, stdout);
			err = w[i].err;
		}
		fsrun_release(&w[i].run);
		fsdrive_syscalls_release(&w[i].drive);
	}
	if (!err)
		err = check_shared(w, threads);
	free(w);
	return err;
}

static uint64_t number_of(const char *text, uint64_t otherwise)
{
	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "seed", 1, NULL, 's' },
						 { "steps", 1, NULL, 'n' },
						 { "rounds", 1, NULL, 'r' },
						 { "threads", 1, NULL, 't' },
						 { NULL } };
	uint64_t seed = number_of(getenv("ARBOR_SEED"), 1), steps = number_of(getenv("ARBOR_STEPS"), 1500);
	uint64_t rounds = number_of(getenv("ARBOR_ROUNDS"), 2), threads = 3, ops = 0;
	int c, err = 0;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (c) {
		case 's':
			seed = number_of(optarg, seed);
			break;
		case 'n':
			steps = number_of(optarg, steps);
			break;
		case 'r':
			rounds = number_of(optarg, rounds);
			break;
		case 't':
			threads = number_of(optarg, threads);
			break;
		default:
			return 2;
		}
	if (optind != argc - 1 || !threads || threads > THREADS_MAX) {
		fprintf(stderr, "usage: model_mount DIR [--seed N] [--steps N] [--rounds N] [--threads N]\n");
		return 2;
	}
	umask(0);
	printf("# seed %" PRIu64 "\n1..2\n", seed);
	for (unsigned many = 0; many < 2; many++) {
		for (uint64_t r = 0; r < rounds && !err; r++)
			err = run_round(argv[optind], seed, 2 * r + many, many ? (unsigned)threads : 1, steps, &ops);
		printf("%s %u - %s\n", err ? "not ok" : "ok", many + 1,
		       many ? "threads see what the model says" : "a mounted filesystem does what the model says");
		fflush(stdout);
		if (err)
			break;
	}
	printf("# %" PRIu64 " operations\n", ops);
	return err ? 1 : 0;
}

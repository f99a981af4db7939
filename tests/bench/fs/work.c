/*
 * work.c - the measured workloads, on any mounted filesystem
 *
 *	fs_work DIR WORKLOAD THREADS COUNT [SECONDS]
 *
 * Does one workload in DIR and prints "<operations> <seconds> <bytes>". The script beside it mounts, lets caches go, and makes
 * the table. Files are d<k>/f<i>, DIRS directories, thread t has those with i % THREADS == t. A workload uses what earlier
 * ones have left: create, then stat, readdir, read, rename, unlink.
 *
 * Timing is from a barrier that all threads have reached to the end of the last one, in one process: at some microseconds
 * an operation, starting a program for each would be all that is measured. SECONDS bounds workloads whose operations
 * wait for the disk; others do COUNT of them, since later ones need the files. What is read is looked at: a filesystem that
 * returns nothing is not fast.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DIRS 20
#define SMALL 4096
#define CHUNK (1u << 20)
#define THREADS_MAX 64

struct worker {
	pthread_t thread;
	const struct workload *workload;
	unsigned id, threads;
	uint64_t count;	   /* of all threads together */
	uint64_t deadline; /* ns; 0: none */
	uint64_t rng;
	uint64_t ret_begin; /* ns */
	uint64_t ret_ops, ret_bytes;
};

struct workload {
	const char *name;
	void (*run)(struct worker *);
	void (*before)(uint64_t count); /* not timed */
	bool bounded;			/* by SECONDS */
};

static pthread_barrier_t barrier;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fs_work: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t next(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Bytes that do not compress, other ones each time. */
static void fill(uint64_t *rng, uint8_t *buf, size_t n)
{
	for (size_t i = 0; i + 8 <= n; i += 8) {
		uint64_t x = next(rng);

		memcpy(buf + i, &x, 8);
	}
}

static const char *file_name(char *buf, size_t size, char kind, uint64_t i)
{
	snprintf(buf, size, "d%u/%c%llu", (unsigned)(i % DIRS), kind, (unsigned long long)i);
	return buf;
}

static void make_dirs(uint64_t count)
{
	char name[32];

	(void)count;
	for (unsigned d = 0; d < DIRS; d++) {
		snprintf(name, sizeof(name), "d%u", d);
		check(mkdir(name, 0755) == 0 || errno == EEXIST, "mkdir");
	}
}

/* A workload over files 0 .. count - 1: `each` for those of this thread, until the time is over. */
static void over_files(struct worker *w, void (*each)(struct worker *, uint64_t i))
{
	for (uint64_t i = w->id; i < w->count; i += w->threads) {
		if (w->deadline && now_ns() > w->deadline)
			break;
		each(w, i);
		w->ret_ops++;
	}
}

static void write_file(struct worker *w, char kind, uint64_t i, size_t size, bool sync)
{
	char name[64];
	uint8_t buf[SMALL];
	int fd = open(file_name(name, sizeof(name), kind, i), O_WRONLY | O_CREAT | O_EXCL, 0644);

	check(fd >= 0, "create");
	if (size) {
		fill(&w->rng, buf, size);
		check(write(fd, buf, size) == (ssize_t)size, "write");
		w->ret_bytes += size;
	}
	if (sync)
		check(fsync(fd) == 0, "fsync");
	check(close(fd) == 0, "close");
}

static void create_one(struct worker *w, uint64_t i)
{
	write_file(w, 'e', i, 0, false);
}

static void create4k_one(struct worker *w, uint64_t i)
{
	write_file(w, 'f', i, SMALL, false);
}

static void create_fsync_one(struct worker *w, uint64_t i)
{
	write_file(w, 's', i, SMALL, true);
}

static void stat_one(struct worker *w, uint64_t i)
{
	char name[64];
	struct stat st;

	(void)w;
	check(stat(file_name(name, sizeof(name), 'f', i), &st) == 0 && st.st_size == SMALL, "stat");
}

static void read_one(struct worker *w, uint64_t i)
{
	char name[64];
	uint8_t buf[SMALL];
	int fd = open(file_name(name, sizeof(name), 'f', i), O_RDONLY);

	check(fd >= 0, "open");
	check(read(fd, buf, SMALL) == SMALL, "read");
	check(close(fd) == 0, "close");
	w->ret_bytes += SMALL;
}

static void rename_one(struct worker *w, uint64_t i)
{
	char from[64], to[64];

	(void)w;
	check(rename(file_name(from, sizeof(from), 'f', i), file_name(to, sizeof(to), 'g', i)) == 0, "rename");
}

static void unlink_one(struct worker *w, uint64_t i)
{
	char name[64];

	(void)w;
	check(unlink(file_name(name, sizeof(name), 'g', i)) == 0, "unlink");
}

static void run_create(struct worker *w)
{
	over_files(w, create_one);
}

static void run_create4k(struct worker *w)
{
	over_files(w, create4k_one);
}

static void run_create_fsync(struct worker *w)
{
	over_files(w, create_fsync_one);
}

static void run_stat(struct worker *w)
{
	over_files(w, stat_one);
}

static void run_read(struct worker *w)
{
	over_files(w, read_one);
}

static void run_rename(struct worker *w)
{
	over_files(w, rename_one);
}

static void run_unlink(struct worker *w)
{
	over_files(w, unlink_one);
}

/* Every name of every directory; with `look`, its attributes as well, as ls -l asks for them. */
static void read_dirs(struct worker *w, bool look)
{
	char name[32];

	for (unsigned d = w->id; d < DIRS; d += w->threads) {
		struct dirent *e;
		struct stat st;
		DIR *dir;

		snprintf(name, sizeof(name), "d%u", d);
		dir = opendir(name);
		check(dir, "opendir");
		while (errno = 0, (e = readdir(dir))) {
			if (look)
				check(fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0, "fstatat");
			w->ret_ops++;
		}
		check(errno == 0, "readdir");
		closedir(dir);
	}
}

static void run_readdir(struct worker *w)
{
	read_dirs(w, false);
}

static void run_readdir_stat(struct worker *w)
{
	read_dirs(w, true);
}

/* Large files: COUNT is MiB. Each thread has its own file when it writes, all read the first. */
static void run_seq_write(struct worker *w)
{
	uint8_t *buf = aligned_alloc(4096, CHUNK);
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "large%u", w->id);
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	check(buf && fd >= 0, "create");
	fill(&w->rng, buf, CHUNK);
	for (uint64_t i = 0; i < w->count / w->threads; i++) {
		memcpy(buf, &i, sizeof(i));
		check(write(fd, buf, CHUNK) == CHUNK, "write");
		w->ret_ops++;
		w->ret_bytes += CHUNK;
	}
	check(fsync(fd) == 0, "fsync");
	check(close(fd) == 0, "close");
	free(buf);
}

static void run_seq_read(struct worker *w)
{
	uint8_t *buf = aligned_alloc(4096, CHUNK);
	int fd = open("large0", O_RDONLY);
	ssize_t n;

	check(buf && fd >= 0, "open");
	while ((n = read(fd, buf, CHUNK)) > 0) {
		uint64_t i;

		memcpy(&i, buf, sizeof(i));
		check(i == w->ret_ops, "content");
		w->ret_ops++;
		w->ret_bytes += (uint64_t)n;
	}
	check(n == 0, "read");
	close(fd);
	free(buf);
}

/* Random blocks of the large file, for as long as there is time. */
static void random_io(struct worker *w, bool writing, bool sync)
{
	uint8_t buf[SMALL];
	int fd = open("large0", writing ? O_RDWR : O_RDONLY);
	uint64_t blocks = w->count * (CHUNK / SMALL);

	check(fd >= 0, "open");
	if (!writing)
		posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	while (now_ns() < w->deadline) {
		off_t at = (off_t)(next(&w->rng) % blocks * SMALL);

		if (writing) {
			fill(&w->rng, buf, 64);
			check(pwrite(fd, buf, SMALL, at) == SMALL, "pwrite");
			if (sync)
				check(fdatasync(fd) == 0, "fdatasync");
		} else {
			check(pread(fd, buf, SMALL, at) == SMALL, "pread");
		}
		w->ret_ops++;
		w->ret_bytes += SMALL;
	}
	check(fsync(fd) == 0 && close(fd) == 0, "fsync");
}

static void run_rand_read(struct worker *w)
{
	random_io(w, false, false);
}

static void run_rand_write(struct worker *w)
{
	random_io(w, true, false);
}

static void run_rand_write_sync(struct worker *w)
{
	random_io(w, true, true);
}

static void run_append_sync(struct worker *w)
{
	uint8_t buf[SMALL];
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "append%u", w->id);
	fd = open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);
	check(fd >= 0, "create");
	while (w->ret_ops < w->count / w->threads && now_ns() < w->deadline) {
		fill(&w->rng, buf, sizeof(buf));
		check(write(fd, buf, sizeof(buf)) == sizeof(buf), "write");
		check(fdatasync(fd) == 0, "fdatasync");
		w->ret_ops++;
		w->ret_bytes += sizeof(buf);
	}
	check(close(fd) == 0, "close");
}

static const struct workload workloads[] = {
	{ "create", run_create, make_dirs, false },
	{ "create4k", run_create4k, make_dirs, false },
	{ "create-fsync", run_create_fsync, make_dirs, true },
	{ "stat", run_stat, NULL, false },
	{ "read", run_read, NULL, false },
	{ "readdir", run_readdir, NULL, false },
	{ "readdir-stat", run_readdir_stat, NULL, false },
	{ "rename", run_rename, NULL, false },
	{ "unlink", run_unlink, NULL, false },
	{ "seq-write", run_seq_write, NULL, false },
	{ "seq-read", run_seq_read, NULL, false },
	{ "rand-read", run_rand_read, NULL, true },
	{ "rand-write", run_rand_write, NULL, true },
	{ "rand-write-fdatasync", run_rand_write_sync, NULL, true },
	{ "append-fdatasync", run_append_sync, NULL, true },
};

static void *work(void *arg)
{
	struct worker *w = arg;

	pthread_barrier_wait(&barrier);
	w->ret_begin = now_ns();
	w->workload->run(w);
	return NULL;
}

static const struct workload *find(const char *name)
{
	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
		if (strcmp(workloads[i].name, name) == 0)
			return &workloads[i];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const struct workload *workload = argc >= 5 ? find(argv[2]) : NULL;
	unsigned threads = argc >= 5 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	uint64_t count = argc >= 5 ? strtoull(argv[4], NULL, 10) : 0;
	double seconds = argc >= 6 ? strtod(argv[5], NULL) : 2;
	uint64_t begin = UINT64_MAX, ops = 0, bytes = 0;
	struct worker workers[THREADS_MAX] = { 0 };

	if (!workload || threads == 0 || threads > THREADS_MAX) {
		fprintf(stderr, "usage: fs_work DIR WORKLOAD THREADS COUNT [SECONDS]\n");
		return 2;
	}
	check(chdir(argv[1]) == 0, argv[1]);
	if (workload->before)
		workload->before(count);
	pthread_barrier_init(&barrier, NULL, threads);
	for (unsigned i = 0; i < threads; i++) {
		workers[i] = (struct worker){ .workload = workload, .id = i, .threads = threads, .count = count };
		workers[i].rng = now_ns() + i;
		workers[i].deadline = workload->bounded ? now_ns() + (uint64_t)(seconds * 1e9) : 0;
		check(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0, "thread");
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(workers[i].thread, NULL);
		begin = workers[i].ret_begin < begin ? workers[i].ret_begin : begin;
		ops += workers[i].ret_ops;
		bytes += workers[i].ret_bytes;
	}
	printf("%llu %.9f %llu\n", (unsigned long long)ops, (double)(now_ns() - begin) / 1e9,
	       (unsigned long long)bytes);
	return 0;
}

/*
 * mmap.c - shared mappings against read and write
 *
 * Several threads write to their own pages of one file, through a shared mapping, pwrite, and now and then a mapping made
 * for one store; each keeps in memory what its pages must hold. Meanwhile everyone looks at pages through both doors. At
 * the end, and after the caller has remounted, the file must hold exactly what was stored.
 *
 *	mmap run FILE PAGES ROUNDS SEED > WANT	WANT: what FILE must hold
 *
 * A page has one writer, so that there is one right answer; threads and doors are mixed on one file, so that the kernel
 * writes pages back, drops them and reads them again while others change.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define THREADS 4

static int fd;
static uint8_t *map;
static uint8_t *want;
static size_t pages;
static unsigned rounds;
static uint64_t seed;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "mmap: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static uint64_t next(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static void look(size_t page, bool mapped)
{
	uint8_t buf[PAGE];

	if (mapped) {
		memcpy(buf, map + page * PAGE, PAGE);
	} else {
		check(pread(fd, buf, PAGE, (off_t)(page * PAGE)) == PAGE, "pread");
	}
	if (memcmp(buf, want + page * PAGE, PAGE) != 0) {
		size_t i = 0;

		while (buf[i] == want[page * PAGE + i])
			i++;
		fprintf(stderr, "mmap: page %zu byte %zu is %02x by %s, but should be %02x\n", page, i, buf[i],
			mapped ? "mapping" : "read", want[page * PAGE + i]);
		_exit(1);
	}
}

/* One store into one of the thread's own pages. */
static void change(size_t page, uint64_t *state)
{
	size_t from = next(state) % PAGE, len = 1 + next(state) % (PAGE - from);
	uint8_t byte = (uint8_t)next(state);

	memset(want + page * PAGE + from, byte, len);
	switch (next(state) % 4) {
	case 0:
	case 1:
		memset(map + page * PAGE + from, byte, len);
		break;
	case 2:
		check(pwrite(fd, want + page * PAGE + from, len, (off_t)(page * PAGE + from)) == (ssize_t)len,
		      "pwrite");
		break;
	case 3: {
		uint8_t *one = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(page * PAGE));

		check(one != MAP_FAILED, "mmap of a page");
		memset(one + from, byte, len);
		check(munmap(one, PAGE) == 0, "munmap");
		break;
	}
	}
}

static void *writer(void *arg)
{
	size_t id = (size_t)(uintptr_t)arg;
	uint64_t state = seed * THREADS + id;

	for (unsigned r = 0; r < rounds; r++) {
		size_t page = next(&state) % (pages / THREADS) * THREADS + id;

		change(page, &state);
		look(page, next(&state) & 1);
		look(next(&state) % (pages / THREADS) * THREADS + id, next(&state) & 1);
		if (next(&state) % 256 == 0)
			check(msync(map, pages * PAGE, next(&state) & 1 ? MS_SYNC : MS_ASYNC) == 0, "msync");
		if (next(&state) % 512 == 0)
			check(fsync(fd) == 0, "fsync");
		if (next(&state) % 64 == 0)
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	char *end;

	if (argc != 6 || strcmp(argv[1], "run") != 0) {
		fprintf(stderr, "usage: mmap run FILE PAGES ROUNDS SEED > FILE.want\n");
		return 2;
	}
	pages = strtoul(argv[3], &end, 10) / THREADS * THREADS;
	rounds = (unsigned)strtoul(argv[4], &end, 10);
	seed = strtoull(argv[5], &end, 10);
	fd = open(argv[2], O_RDWR | O_CREAT, 0644);
	check(fd >= 0 && pages > 0, "open");
	check(ftruncate(fd, (off_t)(pages * PAGE)) == 0, "ftruncate");
	map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(map != MAP_FAILED, "mmap");
	want = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(want != MAP_FAILED, "memory");

	for (size_t i = 0; i < THREADS; i++)
		check(pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)i) == 0, "thread");
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < pages; i++) {
		look(i, true);
		look(i, false);
	}
	check(munmap(map, pages * PAGE) == 0 && close(fd) == 0, "end");
	check(fwrite(want, PAGE, pages, stdout) == pages && fflush(stdout) == 0, "standard output");
	return 0;
}

/* fallocate, holes, SEEK_HOLE and SEEK_DATA, copy_file_range. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/mount/posix.h"

#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO FALLOC_FL_ZERO_RANGE

static int open_new(const char *path)
{
	return (int)WORKS(open(path, O_CREAT | O_TRUNC | O_RDWR, 0644));
}

/* A file of data with one range changed: what is zeros and how long it is afterwards. */
static void fallocate_modes(void)
{
	static const struct {
		int mode;
		off_t off, len, size; /* size: of the file afterwards; it has 100000 bytes */
		bool zeros;
	} rows[] = {
		{ 0, 0, 100000, 100000, false },
		{ 0, 50000, 100000, 150000, false },
		{ 0, 200000, 1, 200001, false },
		{ KEEP, 50000, 100000, 100000, false },
		{ KEEP, 200000, 50000, 100000, false },
		{ PUNCH, 0, 100000, 100000, true },
		{ PUNCH, 4096, 8192, 100000, true },
		{ PUNCH, 100, 200, 100000, true },
		{ PUNCH, 4000, 200, 100000, true },
		{ PUNCH, 5000, 50000, 100000, true },
		{ PUNCH, 90000, 50000, 100000, true },
		{ PUNCH, 150000, 50000, 100000, true },
		{ ZERO, 4096, 8192, 100000, true },
		{ ZERO, 100, 200, 100000, true },
		{ ZERO, 5001, 50003, 100000, true },
		{ ZERO, 90000, 50000, 140000, true },
		{ ZERO | KEEP, 90000, 50000, 100000, true },
		{ ZERO, 200000, 100, 200100, true },
	};

	for (size_t i = 0; i < ROWS(rows); i++) {
		uint64_t from = (uint64_t)(rows[i].off < 100000 ? rows[i].off : 100000);
		uint64_t to = (uint64_t)(rows[i].off + rows[i].len < 100000 ? rows[i].off + rows[i].len : 100000);
		int fd = open_new("f");

		write_data(fd, 0, 100000, 1);
		if (i % 2)
			WORKS(fsync(fd));
		WORKS(fallocate(fd, rows[i].mode, rows[i].off, rows[i].len));
		CHECKF(stat_of("f").st_size == rows[i].size, "row %zu: size %lld", i, (long long)stat_of("f").st_size);
		CHECKF(data_right(fd, 0, from, 1), "row %zu, before", i);
		if (rows[i].zeros)
			CHECKF(data_zero(fd, from, to), "row %zu, inside", i);
		else
			CHECKF(data_right(fd, from, to, 1), "row %zu, inside", i);
		CHECKF(data_right(fd, to, 100000, 1), "row %zu, behind", i);
		CHECKF(rows[i].size <= 100000 || data_zero(fd, 100000, (uint64_t)rows[i].size), "row %zu, beyond", i);
		close(fd);
	}
}

static void fallocate_refuses(void)
{
	int fd = open_new("f"), p[2], dir;

	FAILS(fallocate(fd, 0, 0, 0), EINVAL);
	FAILS(fallocate(fd, 0, -1, 10), EINVAL);
	FAILS(fallocate(fd, 0, 0, -1), EINVAL);
	FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
	FAILS(fallocate(fd, PUNCH | ZERO, 0, 10), EOPNOTSUPP);
	FAILS(fallocate(fd, 0x4000, 0, 10), EOPNOTSUPP);
	FAILS(fallocate(fd, 0, INT64_MAX - 10, 20), EFBIG);
	SAME(stat_of("f").st_size, 0);
	close(fd);
	fd = (int)WORKS(open("f", O_RDONLY));
	FAILS(fallocate(fd, 0, 0, 10), EBADF);
	WORKS(pipe(p));
	FAILS(fallocate(p[1], 0, 0, 10), ESPIPE);
	WORKS(mkdir("d", 0755));
	dir = (int)WORKS(open("d", O_RDONLY));
	FAILS(fallocate(dir, 0, 0, 10), EBADF);
}

static void punching_gives_room_back(void)
{
	int fd = open_new("f");
	blkcnt_t before;

	write_data(fd, 0, 4 << 20, 1);
	WORKS(fsync(fd));
	before = blocks_of("f");
	CHECK(before >= (4 << 20) / 512);
	WORKS(fallocate(fd, PUNCH, 1 << 20, 2 << 20));
	WORKS(fsync(fd));
	CHECK(blocks_of("f") <= before - (2 << 20) / 512);
	WORKS(ftruncate(fd, 0));
	SAME(blocks_of("f"), 0);
}

static void promised_room_counts_and_reads_as_zeros(void)
{
	int fd = open_new("f");

	WORKS(fallocate(fd, 0, 0, 1 << 20));
	CHECK(blocks_of("f") >= (1 << 20) / 512);
	data_zero(fd, 0, 1 << 20);
	write_data(fd, 100000, 50000, 1);
	data_zero(fd, 0, 100000);
	data_right(fd, 100000, 150000, 1);
	data_zero(fd, 150000, 1 << 20);
	SAME(posix_fallocate(fd, 0, 2 << 20), 0);
	SAME(stat_of("f").st_size, 2 << 20);
	data_right(fd, 100000, 150000, 1);
	/* Behind the end, until something is written there. */
	WORKS(fallocate(fd, KEEP, 2 << 20, 1 << 20));
	SAME(stat_of("f").st_size, 2 << 20);
	write_data(fd, (2 << 20) + 5000, 100, 3);
	data_zero(fd, 2 << 20, (2 << 20) + 5000);
}

static void data_and_holes_can_be_found(void)
{
	int fd = open_new("f");
	off_t data = 0, hole = 0;
	unsigned runs = 0;

	for (unsigned i = 0; i < 5; i++)
		write_data(fd, ((uint64_t)i << 20) + 65536, 65536, 1);
	WORKS(ftruncate(fd, 5 << 20));
	WORKS(fsync(fd));
	if (lseek(fd, 0, SEEK_HOLE) == 5 << 20)
		posix_skip("holes are not told");
	while ((data = lseek(fd, hole, SEEK_DATA)) >= 0) {
		hole = lseek(fd, data, SEEK_HOLE);
		CHECK(hole > data && data >= 0);
		SAME(data % (1 << 20), 65536);
		SAME(hole - data, 65536);
		if (hole <= data || ++runs > 10)
			break;
	}
	CHECK(data < 0 && errno == ENXIO);
	SAME(runs, 5);
	SAME(lseek(fd, 0, SEEK_HOLE), 0);
	SAME(lseek(fd, 70000, SEEK_DATA), 70000);
	SAME(lseek(fd, 70000, SEEK_HOLE), 131072);
	FAILS(lseek(fd, 5 << 20, SEEK_DATA), ENXIO);
	FAILS(lseek(fd, 5 << 20, SEEK_HOLE), ENXIO);
	FAILS(lseek(fd, -1, SEEK_DATA), ENXIO);
	/* A small file is data up to its end. */
	close(fd);
	fd = open_new("g");
	write_data(fd, 0, 10, 1);
	SAME(lseek(fd, 0, SEEK_DATA), 0);
	SAME(lseek(fd, 0, SEEK_HOLE), 10);
	SAME(lseek(fd, 9, SEEK_HOLE), 10);
	FAILS(lseek(fd, 10, SEEK_DATA), ENXIO);
}

static void found_before_it_is_synced(void)
{
	int fd = open_new("f");
	off_t at;

	WORKS(ftruncate(fd, 1 << 20));
	write_data(fd, 500000, 100, 1);
	at = lseek(fd, 0, SEEK_DATA);
	CHECKF(at >= 0 && at <= 500000, "SEEK_DATA gave %lld", (long long)at);
	at = lseek(fd, 500000, SEEK_HOLE);
	CHECKF(at >= 500100, "SEEK_HOLE gave %lld", (long long)at);
}

static ssize_t copy(int from, off_t off, int to, off_t off2, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = copy_file_range(from, &off, to, &off2, len - done, 0);

		if (n < 0)
			return n;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static void copies_are_independent(void)
{
	int a = open_new("a"), b = open_new("b");

	write_data(a, 0, 1 << 20, 1);
	SAME(copy(a, 0, b, 0, 1 << 20), 1 << 20);
	SAME(stat_of("b").st_size, 1 << 20);
	data_right(b, 0, 1 << 20, 1);
	write_data(a, 100000, 50000, 2);
	data_right(b, 0, 1 << 20, 1);
	write_data(b, 300000, 50000, 3);
	data_right(a, 300000, 350000, 1);
	data_right(a, 100000, 150000, 2);
	WORKS(ftruncate(a, 0));
	WORKS(unlink("a"));
	data_right(b, 350000, 1 << 20, 1);
	data_right(b, 300000, 350000, 3);
	data_right(b, 0, 300000, 1);
}

/* Bytes depend on their offset: a copy elsewhere is compared with what was there. */
static void copying_works_at_any_offset(void)
{
	static const struct {
		off_t from, to;
		size_t len;
	} rows[] = { { 0, 0, 1 },	{ 1, 0, 10000 },	 { 0, 1, 10000 },     { 4096, 8192, 40000 },
		     { 4097, 1, 4096 }, { 50000, 90000, 9 },	 { 0, 150000, 5000 }, { 99990, 0, 10 },
		     { 8192, 0, 4096 }, { 12288, 200000, 50001 } };
	uint8_t *src = malloc(300000), *want = calloc(1, 300000), *got = malloc(300000);
	int a = open_new("a"), b;

	if (!src || !want || !got)
		abort();
	write_data(a, 0, 100000, 1);
	SAME(pread(a, src, 300000, 0), 100000);
	for (size_t i = 0; i < ROWS(rows); i++) {
		size_t end = (size_t)rows[i].to + rows[i].len;

		b = open_new("b");
		write_data(b, 0, 100000, 7);
		memset(want, 0, 300000);
		SAME(pread(b, want, 100000, 0), 100000);
		memcpy(want + rows[i].to, src + rows[i].from, rows[i].len);
		SAME(copy(a, rows[i].from, b, rows[i].to, rows[i].len), rows[i].len);
		if (end < 100000)
			end = 100000;
		SAME(stat_of("b").st_size, end);
		SAME(pread(b, got, 300000, 0), end);
		CHECKF(!memcmp(got, want, end), "row %zu", i);
		close(b);
	}
	/* To the end and not beyond; within one file, as long as the ranges do not overlap. */
	b = open_new("b");
	SAME(copy(a, 90000, b, 0, 50000), 10000);
	SAME(copy(a, 100000, b, 0, 10), 0);
	SAME(copy(a, 0, a, 100000, 50000), 50000);
	SAME(pread(a, got, 50000, 100000), 50000);
	CHECK(!memcmp(got, src, 50000));
	FAILS(copy_file_range(a, &(loff_t){ 0 }, a, &(loff_t){ 10 }, 100, 0), EINVAL);
	FAILS(copy_file_range(a, NULL, b, NULL, 10, 1), EINVAL);
	free(src);
	free(want);
	free(got);
}

static void copying_needs_rights_and_files(void)
{
	int a = open_new("a"), b = open_new("b"), r, d, ap;

	write_data(a, 0, 1000, 1);
	r = (int)WORKS(open("b", O_RDONLY));
	FAILS(copy_file_range(a, NULL, r, NULL, 10, 0), EBADF);
	ap = (int)WORKS(open("b", O_WRONLY | O_APPEND));
	FAILS(copy_file_range(a, NULL, ap, NULL, 10, 0), EBADF);
	WORKS(mkdir("d", 0755));
	d = (int)WORKS(open("d", O_RDONLY));
	FAILS(copy_file_range(d, NULL, b, NULL, 10, 0), EISDIR);
	/* Positions move, as with read and write. */
	WORKS(lseek(a, 100, SEEK_SET));
	SAME(copy_file_range(a, NULL, b, NULL, 50, 0), 50);
	SAME(lseek(a, 0, SEEK_CUR), 150);
	SAME(lseek(b, 0, SEEK_CUR), 50);
}

static void copied_holes_read_as_zeros(void)
{
	int a = open_new("a"), b = open_new("b");

	write_data(a, 1 << 20, 4096, 1);
	WORKS(ftruncate(a, 3 << 20));
	write_data(b, 0, 3 << 20, 2);
	SAME(copy(a, 0, b, 0, 3 << 20), 3 << 20);
	data_zero(b, 0, 1 << 20);
	data_right(b, 1 << 20, (1 << 20) + 4096, 1);
	data_zero(b, (1 << 20) + 4096, 3 << 20);
}

const struct posix_case posix_space_cases[] = {
	{ "space: each mode of fallocate does what it says", fallocate_modes },
	{ "space: fallocate refuses what it must", fallocate_refuses },
	{ "space: punching and truncating give room back", punching_gives_room_back },
	{ "space: promised room counts, and reads as zeros", promised_room_counts_and_reads_as_zeros },
	{ "space: data and holes can be found", data_and_holes_can_be_found },
	{ "space: data is found before it is synced", found_before_it_is_synced },
	{ "space: copies are independent", copies_are_independent },
	{ "space: copying works at any offset", copying_works_at_any_offset },
	{ "space: copying needs rights and regular files", copying_needs_rights_and_files },
	{ "space: copied holes read as zeros", copied_holes_read_as_zeros },
	{ NULL },
};

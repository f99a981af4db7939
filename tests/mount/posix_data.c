/* Reading and writing: sizes, positions, mappings, direct I/O, several descriptors. */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/mount/posix.h"

static int open_new(const char *path)
{
	return (int)WORKS(open(path, O_CREAT | O_EXCL | O_RDWR, 0644));
}

static void what_is_written_is_read(void)
{
	static const size_t sizes[] = { 1,    511,  512,   2047,  2048,	  2049,	   4095,
					4096, 4097, 65535, 65536, 131073, 1048576, 3000001 };

	for (size_t i = 0; i < ROWS(sizes); i++) {
		int fd = open_new("f");

		write_data(fd, 0, sizes[i], (unsigned)i);
		SAME(stat_of("f").st_size, sizes[i]);
		data_right(fd, 0, sizes[i], (unsigned)i);
		WORKS(fsync(fd));
		WORKS(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
		data_right(fd, 0, sizes[i], (unsigned)i);
		close(fd);
		WORKS(unlink("f"));
	}
}

static void overwriting_changes_only_what_is_written(void)
{
	int fd = open_new("f");

	write_data(fd, 0, 300000, 1);
	for (uint64_t off = 1; off < 290000; off += 23456) {
		write_data(fd, off, 5000, 2);
		data_right(fd, off, off + 5000, 2);
		data_right(fd, off + 5000, off + 6000, 1);
		data_right(fd, off - 1, off, 1);
		write_data(fd, off, 5000, 1);
	}
	data_right(fd, 0, 300000, 1);
	SAME(stat_of("f").st_size, 300000);
}

static void reading_ends_at_the_end(void)
{
	char buf[100];
	int fd = open_new("f");

	write_data(fd, 0, 50, 1);
	SAME(pread(fd, buf, 100, 0), 50);
	SAME(pread(fd, buf, 100, 40), 10);
	SAME(pread(fd, buf, 100, 50), 0);
	SAME(pread(fd, buf, 100, 5000000), 0);
	SAME(pread(fd, buf, 0, 0), 0);
	FAILS(pread(fd, buf, 10, -1), EINVAL);
	FAILS(pwrite(fd, buf, 10, -1), EINVAL);
	FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
	SAME(lseek(fd, -10, SEEK_END), 40);
	SAME(lseek(fd, 1000, SEEK_END), 1050);
	SAME(read(fd, buf, 10), 0);
	SAME(stat_of("f").st_size, 50);
	FAILS(lseek(fd, 0, 77), EINVAL);
}

static void holes_read_as_zeros(void)
{
	int fd = open_new("f");

	write_data(fd, 1000000, 100, 1);
	SAME(stat_of("f").st_size, 1000100);
	data_zero(fd, 0, 1000000);
	data_right(fd, 1000000, 1000100, 1);
	CHECK(blocks_of("f") * 512 <= 65536);
	write_data(fd, UINT64_C(1) << 40, 10, 2);
	SAME(stat_of("f").st_size, (INT64_C(1) << 40) + 10);
	data_zero(fd, (UINT64_C(1) << 40) - 10000, UINT64_C(1) << 40);
	data_zero(fd, 1000100, 1100000);
	data_right(fd, UINT64_C(1) << 40, (UINT64_C(1) << 40) + 10, 2);
	CHECK(blocks_of("f") * 512 <= 131072);
}

static void truncating_cuts_and_pads_with_zeros(void)
{
	static const off_t sizes[] = { 5000, 100, 70000, 4096, 4097, 0, 1, 300000, 8192, 123456, 99, 1 << 20, 10 };
	off_t right = 10000;
	int fd = open_new("f");

	write_data(fd, 0, 10000, 1);
	for (size_t i = 0; i < ROWS(sizes); i++) {
		WORKS(i % 2 ? ftruncate(fd, sizes[i]) : truncate("f", sizes[i]));
		SAME(stat_of("f").st_size, sizes[i]);
		if (sizes[i] < right)
			right = sizes[i];
		data_right(fd, 0, (uint64_t)right, 1);
		data_zero(fd, (uint64_t)right, (uint64_t)sizes[i]);
	}
	FAILS(ftruncate(fd, -1), EINVAL);
	FAILS(truncate("f", -1), EINVAL);
}

static void too_large_is_refused(void)
{
	struct rlimit limit = { 100000, RLIM_INFINITY };
	int fd = open_new("f");
	char c = 'x';

	if (posix_is_writeback())
		posix_skip("the kernel's cache for writing takes any size");
	CHECK(pwrite(fd, &c, 1, INT64_MAX - 1) < 0);
	CHECK(errno == EFBIG || errno == EINVAL);
	FAILS(ftruncate(fd, INT64_MAX), EFBIG);
	SAME(stat_of("f").st_size, 0);
	signal(SIGXFSZ, SIG_IGN);
	WORKS(setrlimit(RLIMIT_FSIZE, &limit));
	write_data(fd, 0, 99990, 1);
	SAME(pwrite(fd, "0123456789abcdef", 16, 99990), 10);
	FAILS(pwrite(fd, &c, 1, 100000), EFBIG);
	FAILS(ftruncate(fd, 100001), EFBIG);
	SAME(stat_of("f").st_size, 100000);
}

static void vectors_and_positions(void)
{
	char a[3], b[5];
	struct iovec out[3] = { { (char *)"abc", 3 }, { (char *)"", 0 }, { (char *)"defgh", 5 } },
		     in[2] = { { a, 3 }, { b, 5 } };
	int fd = open_new("f"), fd2;

	SAME(writev(fd, out, 3), 8);
	SAME(lseek(fd, 0, SEEK_CUR), 8);
	SAME(preadv(fd, in, 2, 0), 8);
	CHECK(!memcmp(a, "abc", 3) && !memcmp(b, "defgh", 5));
	SAME(pwritev(fd, out, 3, 100), 8);
	SAME(lseek(fd, 0, SEEK_CUR), 8);
	SAME(stat_of("f").st_size, 108);
	SAME(pwritev2(fd, out, 3, 0, RWF_APPEND), 8);
	SAME(stat_of("f").st_size, 116);
	SAME(pwritev2(fd, out, 1, 0, RWF_DSYNC), 3);
	/* A duplicate shares the position, another open does not. */
	fd2 = dup(fd);
	WORKS(lseek(fd2, 3, SEEK_SET));
	SAME(read(fd, b, 5), 5);
	CHECK(!memcmp(b, "defgh", 5));
	close(fd2);
	fd2 = (int)WORKS(open("f", O_RDONLY));
	SAME(read(fd2, a, 3), 3);
	CHECK(!memcmp(a, "abc", 3));
}

static void processes_see_each_others_writes(void)
{
	int to[2], from[2], fd = open_new("f");
	char c = 0;
	pid_t pid;

	WORKS(pipe(to));
	WORKS(pipe(from));
	pid = fork();
	if (!pid) {
		int mine = open("f", O_RDWR);

		for (unsigned i = 0; i < 60 && read(to[0], &c, 1) == 1; i++) {
			bool right = data_right(mine, i * 3000, i * 3000 + 5000, i);

			write_data(mine, i * 3000 + 1000, 3000, i + 100);
			c = right;
			if (write(from[1], &c, 1) != 1)
				break;
		}
		_exit(0);
	}
	for (unsigned i = 0; i < 60; i++) {
		write_data(fd, i * 3000, 5000, i);
		SAME(write(to[1], &c, 1), 1);
		SAME(read(from[0], &c, 1), 1);
		CHECKF(c == 1, "round %u", i);
		data_right(fd, i * 3000 + 1000, i * 3000 + 4000, i + 100);
		data_right(fd, i * 3000 + 4000, i * 3000 + 5000, i);
	}
	waitpid(pid, NULL, 0);
}

static void shared_mappings_are_the_file(void)
{
	int fd = open_new("f");
	char *map, *map2, buf[20];

	write_data(fd, 0, 20000, 1);
	map = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	map2 = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 4096);
	if (!CHECK(map != MAP_FAILED && map2 != MAP_FAILED))
		return;
	for (unsigned i = 0; i < 20000; i++)
		if ((uint8_t)map[i] != data_byte(i, 1)) {
			CHECKF(false, "byte %u of the mapping", i);
			break;
		}
	memcpy(map + 5000, "through memory", 14);
	SAME(pread(fd, buf, 14, 5000), 14);
	CHECK(!memcmp(buf, "through memory", 14));
	CHECK(!memcmp(map2 + 904, "through memory", 14));
	SAME(pwrite(fd, "through a call", 14, 6000), 14);
	CHECK(!memcmp(map + 6000, "through a call", 14));
	CHECK(!memcmp(map2 + 1904, "through a call", 14));
	WORKS(msync(map, 20000, MS_SYNC));
	/* The rest of the last page is zeros, and stays out of the file. */
	CHECK(map[20000] == 0);
	map[20000] = 'x';
	munmap(map, 20000);
	munmap(map2, 8192);
	SAME(stat_of("f").st_size, 20000);
	WORKS(ftruncate(fd, 20100));
	data_zero(fd, 20000, 20100);
	close(fd);
	fd = (int)WORKS(open("f", O_RDONLY));
	SAME(pread(fd, buf, 14, 5000), 14);
	CHECK(!memcmp(buf, "through memory", 14));
}

static void private_mappings_are_not(void)
{
	int fd = open_new("f");
	char *map;

	write_data(fd, 0, 8192, 1);
	map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (!CHECK(map != MAP_FAILED))
		return;
	memset(map, 'x', 8192);
	data_right(fd, 0, 8192, 1);
	munmap(map, 8192);
	data_right(fd, 0, 8192, 1);
}

static void beyond_the_end_a_mapping_faults(void)
{
	int fd = open_new("f"), status = 0;
	pid_t pid;

	write_data(fd, 0, 10000, 1);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		volatile char *map = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		signal(SIGBUS, SIG_DFL);
		if (ftruncate(fd, 4096) || map[0] != (char)data_byte(0, 1))
			_exit(1);
		_exit(map[8192]);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	WORKS(ftruncate(fd, 12288));
	data_zero(fd, 4096, 12288);
}

static void a_program_can_be_run(void)
{
	int fd = open_new("script"), status;

	SAME(write(fd, "#!/bin/sh\nexit 7\n", 17), 17);
	close(fd);
	WORKS(chmod("script", 0755));
	status = system("./script");
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	status = system("cp /bin/true prog && ./prog");
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void direct_io_and_the_cache_agree(void)
{
	int fd = open_new("f"), direct = open("f", O_RDWR | O_DIRECT);
	uint8_t *buf = NULL;

	if (direct < 0 && errno == EINVAL)
		posix_skip("no O_DIRECT");
	WORKS(direct);
	if (posix_memalign((void **)&buf, 4096, 65536))
		abort();
	write_data(fd, 0, 200000, 1);
	SAME(pread(direct, buf, 65536, 4096), 65536);
	for (unsigned i = 0; i < 65536; i++)
		if (buf[i] != data_byte(4096 + i, 1)) {
			CHECKF(false, "byte %u read directly", i);
			break;
		}
	memset(buf, 'd', 65536);
	SAME(pwrite(direct, buf, 8192, 8192), 8192);
	SAME(pread(fd, buf, 3, 8191), 3);
	CHECK(buf[0] == data_byte(8191, 1) && buf[1] == 'd' && buf[2] == 'd');
	memset(buf, 'e', 65536);
	SAME(pwrite(direct, buf, 65536, 1 << 20), 65536);
	SAME(stat_of("f").st_size, (1 << 20) + 65536);
	data_zero(fd, 200000, 1 << 20);
	SAME(pread(direct, buf, 65536, (1 << 20) + 61440), 4096);
	/* Unaligned: refused, or done right. */
	if (pwrite(direct, buf + 1, 100, 5) == 100) {
		SAME(pread(direct, buf + 3, 10, 5), 10);
		CHECK(buf[3] == 'e' && buf[12] == 'e');
		SAME(pread(fd, buf, 1, 105), 1);
		CHECK(buf[0] == data_byte(105, 1));
	} else {
		CHECKF(errno == EINVAL, "%s", strerrorname_np(errno));
	}
	free(buf);
}

static void synchronous_writes_work(void)
{
	static const int flags[] = { O_SYNC, O_DSYNC, O_SYNC | O_APPEND };

	for (size_t i = 0; i < ROWS(flags); i++) {
		int fd = (int)WORKS(open("f", O_CREAT | O_TRUNC | O_RDWR | flags[i], 0644));

		write_data(fd, 0, 10000, 1);
		data_right(fd, 0, 10000, 1);
		WORKS(fsync(fd));
		WORKS(fdatasync(fd));
		WORKS(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
		WORKS(syncfs(fd));
		close(fd);
	}
	WORKS(mkdir("d", 0755));
	WORKS(fsync((int)WORKS(open("d", O_RDONLY))));
	WORKS(fsync((int)WORKS(open("f", O_RDONLY))));
}

static void sendfile_and_splice_pass_data(void)
{
	int from = open_new("a"), to = open_new("b"), fds[2];
	off_t off = 100;

	write_data(from, 0, 100000, 1);
	SAME(lseek(to, 100, SEEK_SET), 100);
	SAME(sendfile(to, from, &off, 50000), 50000);
	SAME(off, 50100);
	data_right(to, 100, 50100, 1);
	WORKS(pipe(fds));
	off = 60000;
	SAME(splice(from, &off, fds[1], NULL, 8192, 0), 8192);
	off = 60000;
	SAME(splice(fds[0], NULL, to, &off, 8192, 0), 8192);
	data_right(to, 60000, 68192, 1);
}

static void statvfs_is_sane(void)
{
	struct statvfs a, b;
	int fd;

	WORKS(statvfs(".", &a));
	CHECK(a.f_bsize >= 512 && a.f_frsize >= 512 && a.f_blocks > 0);
	CHECK(a.f_bfree <= a.f_blocks && a.f_bavail <= a.f_bfree && a.f_ffree <= a.f_files && a.f_favail <= a.f_ffree);
	SAME(a.f_namemax, 255);
	fd = open_new("f");
	write_data(fd, 0, 20 << 20, 1);
	WORKS(fsync(fd));
	WORKS(statvfs(".", &b));
	CHECK(b.f_bfree * b.f_frsize + (16 << 20) <= a.f_bfree * a.f_frsize);
	CHECKF(blocks_of("f") * 512 >= 20 << 20, "%lld blocks", (long long)blocks_of("f"));
	SAME(fstatvfs(fd, &b), 0);
}

const struct posix_case posix_data_cases[] = {
	{ "data: what is written is read", what_is_written_is_read },
	{ "data: overwriting changes only what is written", overwriting_changes_only_what_is_written },
	{ "data: reading ends at the end", reading_ends_at_the_end },
	{ "data: holes read as zeros and take no room", holes_read_as_zeros },
	{ "data: truncating cuts, and pads with zeros", truncating_cuts_and_pads_with_zeros },
	{ "data: too large is refused", too_large_is_refused },
	{ "data: vectors and positions", vectors_and_positions },
	{ "data: processes see each other's writes", processes_see_each_others_writes },
	{ "data: shared mappings are the file", shared_mappings_are_the_file },
	{ "data: private mappings are not", private_mappings_are_not },
	{ "data: beyond the end a mapping faults", beyond_the_end_a_mapping_faults },
	{ "data: a program can be run", a_program_can_be_run },
	{ "data: direct I/O and the cache agree", direct_io_and_the_cache_agree },
	{ "data: synchronous writes and fsync work", synchronous_writes_work },
	{ "data: sendfile and splice pass data", sendfile_and_splice_pass_data },
	{ "data: statvfs is sane", statvfs_is_sane },
	{ NULL },
};

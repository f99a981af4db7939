#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

double now_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The number behind "field:" in a /proc file; 0 where it is not there. */
static uint64_t proc_number(const char *path, const char *field)
{
	size_t len = strlen(field);
	char line[256];
	uint64_t n = 0;
	FILE *f;

	f = fopen(path, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, field, len) && line[len] == ':') {
			n = strtoull(line + len + 1, NULL, 10);
			break;
		}
	}
	fclose(f);
	return n;
}

uint64_t process_written(void)
{
	uint64_t written = proc_number("/proc/self/io", "write_bytes");
	uint64_t cancelled = proc_number("/proc/self/io", "cancelled_write_bytes");

	return written > cancelled ? written - cancelled : 0;
}

uint64_t process_status_kib(const char *field)
{
	return proc_number("/proc/self/status", field);
}

int dir_make(const char *path)
{
	return mkdir(path, 0777) && errno != EEXIST ? -errno : 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	remove(path);
	return 0;
}

void dir_remove(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t blocks_sum; /* nftw has no argument to pass on; one thread */

static int add_blocks(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path, (void)ftw;
	if (type == FTW_F)
		blocks_sum += (uint64_t)st->st_blocks * 512;
	return 0;
}

uint64_t dir_blocks_bytes(const char *path)
{
	blocks_sum = 0;
	nftw(path, add_blocks, 16, FTW_PHYS);
	return blocks_sum;
}

static int drop_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	int fd;

	(void)st, (void)ftw;
	if (type != FTW_F)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	fsync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	return 0;
}

void dir_drop_caches(const char *path, bool whole)
{
	int fd;

	nftw(path, drop_one, 16, FTW_PHYS);
	if (!whole)
		return;
	fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1)
		fprintf(stderr, "bench_engine: cannot drop the page cache: %s\n", strerror(errno));
	close(fd);
}

int parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	unsigned shift = 0;
	const char *unit;
	uint64_t n;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || end == text || *text == '-')
		return -EINVAL;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || (end[1] && strcmp(end + 1, "iB")))
			return -EINVAL;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -EINVAL;
	*ret_bytes = n << shift;
	return 0;
}

const char *format_size(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double x = (double)bytes;
	unsigned u = 0;

	while (x >= 1024 && u < 4) {
		x /= 1024;
		u++;
	}
	snprintf(buf, cap, x >= 100 || x == (double)(uint64_t)x ? "%.0f %s" : "%.1f %s", x, unit[u]);
	return buf;
}

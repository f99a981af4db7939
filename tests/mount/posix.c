/*
 * posix.c - POSIX and Linux semantics of a mounted filesystem
 *
 *	posix DIR [PATTERN]
 *
 * Runs each case of the tables in posix_*.c in a fresh directory below DIR, as a process of its own with a time limit, and
 * prints TAP. Cases that need rights we do not have are skipped. A PATTERN (as of the shell) picks cases by name.
 *
 * All cases also pass on ext4; where ext4 differs with good reason, the case says so. So a failure is ours.
 */
#include "tests/mount/posix.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77
#define SECONDS 60
#define SHOWN 20

static unsigned failures;

/* ---- checks ---- */

bool posix_check(bool right, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	if (right)
		return true;
	if (failures++ < SHOWN) {
		const char *base = strrchr(file, '/');

		printf("# %s:%d: not so: ", base ? base + 1 : file, line);
		va_start(ap, fmt);
		vprintf(fmt, ap);
		va_end(ap);
		printf("\n");
	}
	return false;
}

bool posix_fails(long result, int want, const char *what, const char *file, int line)
{
	int got = errno;

	if (result >= 0)
		return posix_check(false, file, line, "%s gave %ld, should fail with %s", what, result,
				   strerrorname_np(want));
	return posix_check(got == want, file, line, "%s failed with %s, should be %s", what, strerrorname_np(got),
			   strerrorname_np(want));
}

long posix_works(long result, const char *what, const char *file, int line)
{
	int err = errno;

	posix_check(result >= 0, file, line, "%s failed with %s", what, result < 0 ? strerrorname_np(err) : "");
	return result;
}

bool posix_same(long long got, long long want, const char *what, const char *file, int line)
{
	return posix_check(got == want, file, line, "%s is %lld (0%llo), should be %lld (0%llo)", what, got, got, want,
			   want);
}

void posix_skip(const char *why)
{
	printf("# skipped: %s\n", why);
	fflush(stdout);
	_exit(failures ? 1 : SKIPPED);
}

int posix_as_begin(uid_t uid, gid_t gid)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		failures = 0;
		if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			_exit(99);
		return 1;
	}
	waitpid(pid, &status, 0);
	failures += WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 1;
	return 0;
}

int posix_as_end(void)
{
	fflush(stdout);
	_exit(failures ? 1 : 0);
}

/* ---- helpers ---- */

static long fs_type(void)
{
	struct statfs st;

	return statfs(".", &st) ? 0 : (long)st.f_type;
}

bool posix_is_ext4(void)
{
	return fs_type() == 0xef53;
}

bool posix_is_fuse(void)
{
	return fs_type() == 0x65735546;
}

/* Only then an offset that no filesystem has is taken. */
bool posix_is_writeback(void)
{
	int fd = open("probe", O_CREAT | O_EXCL | O_RDWR, 0600);
	bool taken = fd >= 0 && posix_is_fuse() && pwrite(fd, "x", 1, INT64_C(1) << 62) == 1;

	if (fd >= 0) {
		CHECK(!ftruncate(fd, 0));
		close(fd);
		unlink("probe");
	}
	return taken;
}

int make_file(const char *path, mode_t mode)
{
	int fd = (int)WORKS(open(path, O_CREAT | O_EXCL | O_RDWR, mode));

	return close(fd);
}

uint8_t data_byte(uint64_t off, unsigned tag)
{
	return (uint8_t)((off * 31 + off / 4096 * 7 + tag * 13) % 255 + 1);
}

void write_data(int fd, uint64_t off, size_t len, unsigned tag)
{
	uint8_t *buf = malloc(len + 1);

	if (!buf)
		abort();
	for (size_t i = 0; i < len; i++)
		buf[i] = data_byte(off + i, tag);
	SAME(pwrite(fd, buf, len, (off_t)off), len);
	free(buf);
}

void make_data(const char *path, size_t len, unsigned tag)
{
	int fd = (int)WORKS(open(path, O_CREAT | O_TRUNC | O_RDWR, 0644));

	write_data(fd, 0, len, tag);
	close(fd);
}

static bool content_is(int fd, uint64_t from, uint64_t to, unsigned tag, bool zero)
{
	uint8_t buf[4096];

	while (from < to) {
		size_t want = to - from < sizeof(buf) ? to - from : sizeof(buf);
		ssize_t n = pread(fd, buf, want, (off_t)from);

		if (n <= 0)
			return CHECKF(false, "reading at %llu gave %zd", (unsigned long long)from, n);
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] != (zero ? 0 : data_byte(from + (uint64_t)i, tag)))
				return CHECKF(false, "byte %llu is %02x", (unsigned long long)from + (uint64_t)i,
					      buf[i]);
		from += (uint64_t)n;
	}
	return true;
}

bool data_right(int fd, uint64_t from, uint64_t to, unsigned tag)
{
	return content_is(fd, from, to, tag, false);
}

bool data_zero(int fd, uint64_t from, uint64_t to)
{
	return content_is(fd, from, to, 0, true);
}

bool exists(const char *path)
{
	struct stat st;

	return !lstat(path, &st);
}

struct stat stat_of(const char *path)
{
	struct stat st = { 0 };

	WORKS(lstat(path, &st));
	return st;
}

long long blocks_of(const char *path)
{
	close((int)WORKS(open(path, O_WRONLY)));
	return stat_of(path).st_blocks;
}

struct timespec btime_of(const char *path)
{
	struct statx st = { 0 };

	WORKS(statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st));
	CHECK(st.stx_mask & STATX_BTIME);
	return (struct timespec){ st.stx_btime.tv_sec, st.stx_btime.tv_nsec };
}

void nap(void)
{
	nanosleep(&(struct timespec){ 0, 15000000 }, NULL);
}

int time_cmp(struct timespec a, struct timespec b)
{
	if (a.tv_sec != b.tv_sec)
		return a.tv_sec < b.tv_sec ? -1 : 1;
	return a.tv_nsec < b.tv_nsec ? -1 : a.tv_nsec > b.tv_nsec;
}

void long_name(char *buf, size_t len)
{
	memset(buf, 'n', len);
	buf[len] = 0;
}

unsigned count_names(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *ent;
	unsigned n = 0;

	if (!CHECKF(d != NULL, "opendir of %s", dir))
		return 0;
	while ((ent = readdir(d)))
		n += strcmp(ent->d_name, ".") && strcmp(ent->d_name, "..");
	closedir(d);
	return n;
}

/* ---- running ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int run_case(const struct posix_case *c, const char *dir)
{
	int status = 0;
	pid_t pid;

	if (mkdir(dir, 0777)) {
		printf("# mkdir %s: %s\n", dir, strerror(errno));
		return 1;
	}
	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(SECONDS);
		umask(0);
		if (chdir(dir) || chmod(".", 0777))
			_exit(98);
		c->run();
		fflush(stdout);
		_exit(failures ? 1 : 0);
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		printf("# ended by signal %d\n", WTERMSIG(status));
	if (nftw(dir, remove_one, 32, FTW_DEPTH | FTW_PHYS))
		printf("# what the case made cannot be removed: %s\n", strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
	static const struct posix_case *const tables[] = { posix_path_cases,   posix_open_cases,  posix_name_cases,
							   posix_rename_cases, posix_time_cases,  posix_right_cases,
							   posix_data_cases,   posix_space_cases, posix_lock_cases,
							   posix_xattr_cases,  posix_dir_cases };
	unsigned number = 0, bad = 0;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: posix DIR [PATTERN]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	umask(0);
	for (size_t t = 0; t < ROWS(tables); t++)
		for (const struct posix_case *c = tables[t]; c->name; c++) {
			char dir[4096];
			int result;

			if (argc == 3 && fnmatch(argv[2], c->name, 0))
				continue;
			number++;
			if (c->root && geteuid()) {
				printf("ok %u - %s # SKIP needs root\n", number, c->name);
				continue;
			}
			snprintf(dir, sizeof(dir), "%.4000s/posix-%d-%u", argv[1], (int)getpid(), number);
			result = run_case(c, dir);
			bad += result && result != SKIPPED;
			printf("%s %u - %s%s\n", result && result != SKIPPED ? "not ok" : "ok", number, c->name,
			       result == SKIPPED ? " # SKIP not here" : "");
		}
	printf("1..%u\n", number);
	return bad ? 1 : 0;
}

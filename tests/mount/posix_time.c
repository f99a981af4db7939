/*
 * Times: which of the three each call sets, of the file and of its directory; setting them; the time of birth.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/mount/posix.h"

/* What changes: modification and change time of the file "d/f" (or "d/s", "d/l") and of its directory "d". */
#define FM 1u
#define FC 2u
#define DM 4u
#define DC 8u
#define F (FM | FC)
#define D (DM | DC)

static int fd; /* of d/f */

static void op_open(void)
{
	close((int)WORKS(open("d/f", O_RDWR)));
}

static void op_read(void)
{
	char buf[10];

	SAME(pread(fd, buf, 10, 0), 10);
}

static void op_write(void)
{
	write_data(fd, 0, 10, 2);
}

static void op_write_nothing(void)
{
	SAME(write(fd, "", 0), 0);
}

static void op_append(void)
{
	write_data(fd, 20000, 10, 2);
}

static void op_write_mapped(void)
{
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (!CHECK(map != MAP_FAILED))
		return;
	map[5]++;
	WORKS(msync(map, 4096, MS_SYNC));
	munmap(map, 4096);
}

static void op_shrink(void)
{
	WORKS(ftruncate(fd, 10));
}

static void op_grow(void)
{
	WORKS(truncate("d/f", 100000));
}

static void op_same_size(void)
{
	WORKS(ftruncate(fd, 10000));
}

static void op_o_trunc(void)
{
	close((int)WORKS(open("d/f", O_WRONLY | O_TRUNC)));
}

static void op_fallocate(void)
{
	WORKS(fallocate(fd, 0, 10000, 10000));
}

static void op_punch(void)
{
	WORKS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
}

static void op_copy(void)
{
	int from = (int)WORKS(open("other", O_RDONLY));
	off_t a = 0, b = 0;

	SAME(copy_file_range(from, &a, fd, &b, 1000, 0), 1000);
	close(from);
}

static void op_chmod(void)
{
	WORKS(chmod("d/f", 0600));
}

static void op_fchmod_same(void)
{
	WORKS(fchmod(fd, 0644));
}

static void op_chown(void)
{
	WORKS(chown("d/f", getuid(), getgid()));
}

static void op_utimes(void)
{
	struct timespec t[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };

	WORKS(futimens(fd, t));
}

static void op_utimes_omit(void)
{
	struct timespec t[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };

	WORKS(futimens(fd, t));
}

static void op_link(void)
{
	WORKS(link("d/f", "d/f2"));
}

static void op_link_elsewhere(void)
{
	WORKS(link("d/f", "f2"));
}

static void op_unlink(void)
{
	WORKS(unlink("d/f"));
}

static void op_unlink_other(void)
{
	WORKS(unlink("d/g"));
}

static void op_create(void)
{
	make_file("d/new", 0644);
}

static void op_mkdir(void)
{
	WORKS(mkdir("d/new", 0755));
}

static void op_mkfifo(void)
{
	WORKS(mkfifo("d/new", 0644));
}

static void op_symlink(void)
{
	WORKS(symlink("x", "d/new"));
}

static void op_rmdir(void)
{
	WORKS(rmdir("d/s"));
}

static void op_rename(void)
{
	WORKS(rename("d/f", "d/new"));
	WORKS(link("d/new", "kept"));
}

static void op_rename_out(void)
{
	WORKS(rename("d/g", "g"));
}

static void op_rename_in(void)
{
	WORKS(rename("other", "d/new"));
}

static void op_replace(void)
{
	WORKS(rename("other", "d/f"));
}

static void op_exchange(void)
{
	WORKS(renameat2(AT_FDCWD, "d/f", AT_FDCWD, "other", RENAME_EXCHANGE));
}

static void op_setxattr(void)
{
	WORKS(setxattr("d/f", "user.new", "1", 1, 0));
}

static void op_removexattr(void)
{
	WORKS(removexattr("d/f", "user.old"));
}

static void op_failing(void)
{
	FAILS(mkdir("d/f", 0755), EEXIST);
	FAILS(rmdir("d/f"), ENOTDIR);
	FAILS(unlink("d/missing"), ENOENT);
	FAILS(rename("d/f", "d/s"), EISDIR);
	FAILS(setxattr("d/f", "user.old", "2", 1, XATTR_CREATE), EEXIST);
	FAILS(fallocate(fd, 0, 0, 0), EINVAL);
}

static void op_list(void)
{
	char buf[100];

	count_names("d");
	SAME(readlink("d/l", buf, 100), 1);
	stat_of("d/f");
	WORKS(listxattr("d/f", buf, 100));
	SAME(access("d/f", R_OK), 0);
}

static void op_sync(void)
{
	WORKS(fsync(fd));
	WORKS(fdatasync(fd));
}

static const struct {
	const char *name;
	void (*run)(void);
	unsigned want;
} rows[] = {
	{ "opening", op_open, 0 },
	{ "reading", op_read, 0 },
	{ "writing", op_write, F },
	{ "writing nothing", op_write_nothing, 0 },
	{ "writing beyond the end", op_append, F },
	{ "writing through a mapping", op_write_mapped, F },
	{ "shrinking", op_shrink, F },
	{ "growing", op_grow, F },
	{ "ftruncate to the same size", op_same_size, F },
	{ "O_TRUNC", op_o_trunc, F },
	{ "fallocate", op_fallocate, F },
	{ "punching", op_punch, F },
	{ "copying into", op_copy, F },
	{ "chmod", op_chmod, FC },
	{ "chmod to what it was", op_fchmod_same, FC },
	{ "chown to who it was", op_chown, FC },
	{ "utimes of the access time", op_utimes, FC },
	{ "utimes of nothing", op_utimes_omit, 0 },
	{ "link", op_link, FC | D },
	{ "link from elsewhere", op_link_elsewhere, FC },
	{ "unlink of one of two names", op_unlink, FC | D },
	{ "unlink of another file", op_unlink_other, D },
	{ "creating", op_create, D },
	{ "mkdir", op_mkdir, D },
	{ "mkfifo", op_mkfifo, D },
	{ "symlink", op_symlink, D },
	{ "rmdir", op_rmdir, D },
	{ "rename", op_rename, FC | D },
	{ "rename of another out", op_rename_out, D },
	{ "rename of another in", op_rename_in, D },
	{ "being replaced", op_replace, FC | D },
	{ "exchange", op_exchange, FC | D },
	{ "setxattr", op_setxattr, FC },
	{ "removexattr", op_removexattr, FC },
	{ "what fails", op_failing, 0 },
	{ "looking", op_list, 0 },
	{ "syncing", op_sync, 0 },
};

static void make_zoo(void)
{
	WORKS(mkdir("d", 0755));
	make_data("d/f", 10000, 1);
	make_data("d/g", 100, 1);
	make_data("other", 5000, 1);
	WORKS(mkdir("d/s", 0755));
	WORKS(symlink("x", "d/l"));
	WORKS(link("d/f", "second")); /* the file stays, whatever becomes of d/f */
	WORKS(setxattr("d/f", "user.old", "1", 1, 0));
	fd = (int)WORKS(open("d/f", O_RDWR));
}

static void each_call_sets_its_times(void)
{
	for (size_t i = 0; i < ROWS(rows); i++) {
		struct stat f, d, f2, d2;
		unsigned got;

		make_zoo();
		f = stat_of("second");
		d = stat_of("d");
		nap();
		rows[i].run();
		WORKS(fsync(fd)); /* what the kernel keeps back */
		f2 = stat_of("second");
		d2 = stat_of("d");
		got = (time_cmp(f.st_mtim, f2.st_mtim) < 0 ? FM : 0) | (time_cmp(f.st_ctim, f2.st_ctim) < 0 ? FC : 0) |
		      (time_cmp(d.st_mtim, d2.st_mtim) < 0 ? DM : 0) | (time_cmp(d.st_ctim, d2.st_ctim) < 0 ? DC : 0);
		CHECKF(got == rows[i].want, "%s set%s%s%s%s, should be%s%s%s%s", rows[i].name,
		       got & FM ? " file.mtime" : "", got & FC ? " file.ctime" : "", got & DM ? " dir.mtime" : "",
		       got & DC ? " dir.ctime" : "", rows[i].want & FM ? " file.mtime" : "",
		       rows[i].want & FC ? " file.ctime" : "", rows[i].want & DM ? " dir.mtime" : "",
		       rows[i].want & DC ? " dir.ctime" : "");
		CHECKF(time_cmp(f.st_mtim, f2.st_mtim) <= 0 && time_cmp(f.st_ctim, f2.st_ctim) <= 0 &&
			       time_cmp(d.st_mtim, d2.st_mtim) <= 0 && time_cmp(d.st_ctim, d2.st_ctim) <= 0,
		       "%s: a time went backwards", rows[i].name);
		close(fd);
		if (system("rm -rf d other second f2 kept g"))
			abort();
	}
}

static void new_files_have_the_time_of_now(void)
{
	struct timespec before, after;

	clock_gettime(CLOCK_REALTIME, &before);
	nap();
	make_file("f", 0644);
	WORKS(mkdir("d", 0755));
	WORKS(symlink("x", "l"));
	WORKS(mkfifo("p", 0644));
	nap();
	clock_gettime(CLOCK_REALTIME, &after);
	for (const char *const *p = (const char *const[]){ "f", "d", "l", "p", NULL }; *p; p++) {
		struct stat st = stat_of(*p);
		const struct timespec t[4] = { st.st_atim, st.st_mtim, st.st_ctim, btime_of(*p) };

		for (unsigned i = 0; i < 4; i++)
			CHECKF(time_cmp(before, t[i]) <= 0 && time_cmp(t[i], after) <= 0, "time %u of %s is not now", i,
			       *p);
	}
}

static void the_time_of_birth_stays(void)
{
	struct timespec birth, past[2] = { { 1000, 5 }, { 1000, 5 } };

	make_data("f", 100, 1);
	birth = btime_of("f");
	nap();
	make_data("f", 5000, 2);
	WORKS(chmod("f", 0600));
	WORKS(rename("f", "g"));
	WORKS(link("g", "h"));
	WORKS(utimensat(AT_FDCWD, "g", past, 0));
	CHECK(!time_cmp(birth, btime_of("h")));
	nap();
	make_file("f", 0644);
	CHECK(time_cmp(birth, btime_of("f")) < 0);
}

static void times_are_kept_to_the_nanosecond(void)
{
	static const struct timespec times[] = {
		{ 0, 0 },
		{ 1, 1 },
		{ 1000000000, 123456789 },
		{ 2147483647, 999999999 },
		{ 4102444800, 7 },
		{ -1000000, 500000000 },
		{ 1, 999999999 },
	};

	make_file("f", 0644);
	WORKS(mkdir("d", 0755));
	WORKS(symlink("f", "l"));
	for (const char *const *p = (const char *const[]){ "f", "d", "l", NULL }; *p; p++)
		for (size_t i = 0; i + 1 < ROWS(times); i++) {
			struct timespec t[2] = { times[i], times[i + 1] };
			struct stat st;

			WORKS(utimensat(AT_FDCWD, *p, t, AT_SYMLINK_NOFOLLOW));
			st = stat_of(*p);
			CHECKF(!time_cmp(st.st_atim, t[0]), "atime of %s, row %zu: %lld.%09ld", *p, i,
			       (long long)st.st_atim.tv_sec, st.st_atim.tv_nsec);
			CHECKF(!time_cmp(st.st_mtim, t[1]), "mtime of %s, row %zu: %lld.%09ld", *p, i,
			       (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
		}
	FAILS(utimensat(AT_FDCWD, "f", (struct timespec[2]){ { 0, 1000000000 }, { 0, 0 } }, 0), EINVAL);
	FAILS(utimensat(AT_FDCWD, "f", (struct timespec[2]){ { 0, 0 }, { 0, -1 } }, 0), EINVAL);
}

static void now_and_omit_do_what_they_say(void)
{
	struct timespec old[2] = { { 1000, 11 }, { 2000, 22 } }, before, after;
	struct stat st;

	make_file("f", 0644);
	WORKS(utimensat(AT_FDCWD, "f", old, 0));
	WORKS(utimensat(AT_FDCWD, "f", (struct timespec[2]){ { 0, UTIME_OMIT }, { 3000, 33 } }, 0));
	st = stat_of("f");
	CHECK(!time_cmp(st.st_atim, old[0]) && st.st_mtim.tv_sec == 3000 && st.st_mtim.tv_nsec == 33);
	WORKS(utimensat(AT_FDCWD, "f", (struct timespec[2]){ { 4000, 44 }, { 0, UTIME_OMIT } }, 0));
	st = stat_of("f");
	CHECK(st.st_atim.tv_sec == 4000 && st.st_mtim.tv_sec == 3000);
	clock_gettime(CLOCK_REALTIME, &before);
	nap();
	WORKS(utimensat(AT_FDCWD, "f", (struct timespec[2]){ { 0, UTIME_NOW }, { 5000, 55 } }, 0));
	st = stat_of("f");
	CHECK(time_cmp(before, st.st_atim) <= 0 && st.st_mtim.tv_sec == 5000);
	WORKS(utimensat(AT_FDCWD, "f", NULL, 0));
	nap();
	clock_gettime(CLOCK_REALTIME, &after);
	st = stat_of("f");
	CHECK(time_cmp(before, st.st_mtim) <= 0 && time_cmp(st.st_mtim, after) <= 0);
	CHECK(time_cmp(before, st.st_ctim) <= 0 && time_cmp(st.st_ctim, after) <= 0);
	WORKS(symlink("f", "l"));
	WORKS(utimensat(AT_FDCWD, "l", old, 0));
	CHECK(!time_cmp(stat_of("f").st_mtim, old[1]));
	CHECK(time_cmp(stat_of("l").st_mtim, old[1]));
}

/* Times set after writing must not be overtaken by pages that are written back later. */
static void set_times_stay_after_writing(void)
{
	struct timespec past[2] = { { 1000, 11 }, { 2000, 22 } };
	int f;

	make_file("f", 0644);
	f = (int)WORKS(open("f", O_RDWR));
	write_data(f, 0, 100000, 1);
	WORKS(futimens(f, past));
	CHECK(!time_cmp(stat_of("f").st_mtim, past[1]));
	WORKS(fsync(f));
	close(f);
	CHECK(!time_cmp(stat_of("f").st_mtim, past[1]));
	nap();
	CHECK(!time_cmp(stat_of("f").st_mtim, past[1]));
}

const struct posix_case posix_time_cases[] = {
	{ "times: each call sets its times and no others", each_call_sets_its_times },
	{ "times: new files have the time of now", new_files_have_the_time_of_now },
	{ "times: the time of birth stays", the_time_of_birth_stays },
	{ "times: are kept to the nanosecond", times_are_kept_to_the_nanosecond },
	{ "times: UTIME_NOW and UTIME_OMIT do what they say", now_and_omit_do_what_they_say },
	{ "times: set times stay after writing", set_times_stay_after_writing },
	{ NULL },
};

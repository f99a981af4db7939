/*
 * Every call that takes a path, with every kind of path: one table, in which a cell is the errno (0: success). The zoo is made
 * anew for each cell.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/mount/posix.h"

/* file, dir (empty), full (dir with a file), to_file, to_dir, dangling, loop (symlinks), fifo */
static void zoo_make(void)
{
	make_file("file", 0644);
	WORKS(mkdir("dir", 0755));
	WORKS(mkdir("full", 0755));
	make_file("full/x", 0644);
	WORKS(symlink("file", "to_file"));
	WORKS(symlink("dir", "to_dir"));
	WORKS(symlink("nowhere", "dangling"));
	WORKS(symlink("loop2", "loop"));
	WORKS(symlink("loop", "loop2"));
	WORKS(mkfifo("fifo", 0644));
	make_file("other", 0644);
	WORKS(mkdir("otherdir", 0755));
}

static char name255[256], name256[257], path_long[PATH_MAX + 10], path_max[PATH_MAX];

static const char *const paths[] = {
	"missing",   "file",   "dir",	    "full",   "to_file",  "to_dir",  "dangling",
	"loop",	     "fifo",   "missing/x", "file/x", "loop/x",	  "dir/x",   "to_dir/x",
	"to_file/x", "",       "dir/",	    "file/",  "missing/", "to_dir/", "to_file/",
	"dir/.",     "dir/..", ".",	    name255,  name256,	  path_max,  path_long,
};

static int do_open(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK);

	return fd < 0 ? fd : close(fd);
}

static int do_creat(const char *path)
{
	int fd = open(path, O_CREAT | O_RDWR | O_NONBLOCK, 0644);

	return fd < 0 ? fd : close(fd);
}

static int do_excl(const char *path)
{
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0644);

	return fd < 0 ? fd : close(fd);
}

static int do_opendir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

	return fd < 0 ? fd : close(fd);
}

static int do_stat(const char *path)
{
	struct stat st;

	return stat(path, &st);
}

static int do_lstat(const char *path)
{
	struct stat st;

	return lstat(path, &st);
}

static int do_mkdir(const char *path)
{
	return mkdir(path, 0755);
}

static int do_mkfifo(const char *path)
{
	return mkfifo(path, 0644);
}

static int do_symlink(const char *path)
{
	return symlink("target", path);
}

static int do_link_from(const char *path)
{
	return link(path, "newname");
}

static int do_link_to(const char *path)
{
	return link("other", path);
}

static int do_rename_from(const char *path)
{
	return rename(path, "newname");
}

static int do_rename_file_to(const char *path)
{
	return rename("other", path);
}

static int do_rename_dir_to(const char *path)
{
	return rename("otherdir", path);
}

static int do_chmod(const char *path)
{
	return chmod(path, 0755);
}

static int do_truncate(const char *path)
{
	return truncate(path, 0);
}

static int do_readlink(const char *path)
{
	char buf[PATH_MAX];

	return (int)readlink(path, buf, sizeof(buf));
}

static int do_chdir(const char *path)
{
	int fd = open(".", O_PATH), result = chdir(path), err = errno;

	if (!result)
		WORKS(fchdir(fd));
	close(fd);
	errno = err;
	return result;
}

static int do_lutimes(const char *path)
{
	return utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
}

#define NOENT ENOENT
#define NOTDIR ENOTDIR
#define ISDIR EISDIR
#define EXIST EEXIST
#define LONG ENAMETOOLONG
#define LOOP ELOOP
#define INVAL EINVAL
#define BUSY EBUSY
#define EMPTY ENOTEMPTY
#define PERM EPERM

static const struct row {
	const char *name;
	int (*call)(const char *);
	int want[ROWS(paths)];
} rows[] = {
	/* clang-format off */
	{ "open", do_open,
	  { NOENT, 0, 0, 0, 0, 0, NOENT, LOOP, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, 0, LONG } },
	{ "creat", do_creat,
	  { 0, 0, ISDIR, ISDIR, 0, ISDIR, 0, LOOP, 0, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, ISDIR, ISDIR, ISDIR, ISDIR, ISDIR, ISDIR, ISDIR, ISDIR, 0, LONG, 0, LONG } },
	{ "excl", do_excl,
	  { 0, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, ISDIR, ISDIR, ISDIR, ISDIR, ISDIR, EXIST, EXIST, EXIST, 0, LONG, EXIST, LONG } },
	{ "opendir", do_opendir,
	  { NOENT, NOTDIR, 0, 0, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, NOTDIR, LONG } },
	{ "stat", do_stat,
	  { NOENT, 0, 0, 0, 0, 0, NOENT, LOOP, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, 0, LONG } },
	{ "lstat", do_lstat,
	  { NOENT, 0, 0, 0, 0, 0, 0, 0, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, 0, LONG } },
	{ "mkdir", do_mkdir,
	  { 0, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, EXIST, EXIST, 0, EXIST, EXIST, EXIST, EXIST, EXIST, 0, LONG, EXIST, LONG } },
	{ "mkfifo", do_mkfifo,
	  { 0, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, EXIST, EXIST, NOENT, EXIST, EXIST, EXIST, EXIST, EXIST, 0, LONG, EXIST, LONG } },
	{ "symlink", do_symlink,
	  { 0, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, EXIST, EXIST, NOENT, EXIST, EXIST, EXIST, EXIST, EXIST, 0, LONG, EXIST, LONG } },
	{ "link from", do_link_from,
	  { NOENT, 0, PERM, PERM, 0, 0, 0, 0, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, PERM, NOTDIR, NOENT, PERM, NOTDIR, PERM, PERM, PERM, NOENT, LONG, 0, LONG } },
	{ "link to", do_link_to,
	  { 0, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, EXIST, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, EXIST, EXIST, NOENT, EXIST, EXIST, EXIST, EXIST, EXIST, 0, LONG, EXIST, LONG } },
	{ "rename from", do_rename_from,
	  { NOENT, 0, 0, 0, 0, 0, 0, 0, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, NOTDIR, NOTDIR, BUSY, BUSY, BUSY, NOENT, LONG, 0, LONG } },
	{ "rename file to", do_rename_file_to,
	  { 0, 0, ISDIR, ISDIR, 0, 0, 0, 0, 0, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOTDIR, BUSY, BUSY, BUSY, 0, LONG, 0, LONG } },
	{ "rename dir to", do_rename_dir_to,
	  { 0, NOTDIR, 0, EMPTY, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOENT, NOTDIR, LOOP, 0, 0,
	    NOTDIR, NOENT, 0, NOTDIR, 0, NOTDIR, NOTDIR, BUSY, BUSY, BUSY, 0, LONG, NOTDIR, LONG } },
	{ "chmod", do_chmod,
	  { NOENT, 0, 0, 0, 0, 0, NOENT, LOOP, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, 0, LONG } },
	{ "truncate", do_truncate,
	  { NOENT, 0, ISDIR, ISDIR, 0, ISDIR, NOENT, LOOP, INVAL, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, ISDIR, NOTDIR, NOENT, ISDIR, NOTDIR, ISDIR, ISDIR, ISDIR, NOENT, LONG, 0, LONG } },
	{ "readlink", do_readlink,
	  { NOENT, INVAL, INVAL, INVAL, 0, 0, 0, 0, INVAL, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, INVAL, NOTDIR, NOENT, INVAL, NOTDIR, INVAL, INVAL, INVAL, NOENT, LONG, INVAL, LONG } },
	{ "chdir", do_chdir,
	  { NOENT, NOTDIR, 0, 0, NOTDIR, 0, NOENT, LOOP, NOTDIR, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, NOTDIR, LONG } },
	{ "lutimes", do_lutimes,
	  { NOENT, 0, 0, 0, 0, 0, 0, 0, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, 0, NOTDIR, 0, 0, 0, NOENT, LONG, 0, LONG } },
	{ "unlink", unlink,
	  { NOENT, 0, ISDIR, ISDIR, 0, 0, 0, 0, 0, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, ISDIR, NOTDIR, NOENT, NOTDIR, NOTDIR, ISDIR, ISDIR, ISDIR, NOENT, LONG, 0, LONG } },
	{ "rmdir", rmdir,
	  { NOENT, NOTDIR, 0, EMPTY, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOTDIR, NOENT, NOTDIR, LOOP, NOENT, NOENT,
	    NOTDIR, NOENT, 0, NOTDIR, NOENT, NOTDIR, NOTDIR, INVAL, EMPTY, INVAL, NOENT, LONG, NOTDIR, LONG } },
	/* clang-format on */
};

static void each_path(const struct row *row)
{
	for (size_t i = 0; i < ROWS(paths); i++) {
		int got;

		WORKS(mkdir("zoo", 0755));
		WORKS(chdir("zoo"));
		zoo_make();
		errno = 0;
		got = row->call(paths[i]) < 0 ? errno : 0;
		CHECKF(got == row->want[i], "%s of \"%.40s\" (%zu bytes) gave %s, should be %s", row->name, paths[i],
		       strlen(paths[i]), got ? strerrorname_np(got) : "success",
		       row->want[i] ? strerrorname_np(row->want[i]) : "success");
		WORKS(chdir(".."));
		if (system("rm -rf zoo"))
			abort();
	}
}

static void every_path_with_every_call(void)
{
	long_name(name255, 255);
	long_name(name256, 256);
	/* As long as a path may be, all of it slashes but the end; and one more. */
	memset(path_max, '/', PATH_MAX - 1);
	memcpy(path_max, "./", 2);
	memcpy(path_max + PATH_MAX - 5, "file", 5);
	memset(path_long, '/', PATH_MAX);
	memcpy(path_long, "./", 2);
	memcpy(path_long + PATH_MAX - 4, "file", 5);
	for (size_t i = 0; i < ROWS(rows); i++)
		each_path(&rows[i]);
}

static void symlinks_are_followed_forty_times(void)
{
	char from[16], to[16];

	make_data("l0", 5, 1);
	for (unsigned i = 1; i <= 41; i++) {
		snprintf(from, sizeof(from), "l%u", i - 1);
		snprintf(to, sizeof(to), "l%u", i);
		WORKS(symlink(from, to));
	}
	SAME(do_open("l40"), 0);
	FAILS(open("l41", O_RDONLY), ELOOP);
}

static void a_symlink_says_what_it_was_told(void)
{
	static const size_t lengths[] = { 1, 59, 60, 255, 1000, 2047, 2048, 4094, 4095 };
	char target[PATH_MAX + 1], buf[PATH_MAX + 1];

	for (size_t i = 0; i < ROWS(lengths); i++) {
		for (size_t k = 0; k < lengths[i]; k++)
			target[k] = "a/../b"[k % 6];
		target[lengths[i]] = 0;
		WORKS(symlink(target, "l"));
		SAME(stat_of("l").st_size, lengths[i]);
		SAME(stat_of("l").st_mode, S_IFLNK | 0777);
		SAME(readlink("l", buf, sizeof(buf)), lengths[i]);
		CHECK(!memcmp(buf, target, lengths[i]));
		SAME(readlink("l", buf, 1), 1);
		WORKS(unlink("l"));
	}
	memset(target, 'a', 4096);
	target[4096] = 0;
	FAILS(symlink(target, "l"), ENAMETOOLONG);
	FAILS(symlink("", "l"), ENOENT);
	make_file("f", 0644);
	FAILS(readlink("f", buf, 10), EINVAL);
	WORKS(symlink("f", "l"));
	FAILS(readlink("l", buf, 0), EINVAL);
}

static void names_are_bytes(void)
{
	static const char *const names[] = { " ",  "\n",  "\x01\x7f", "\xff\xfe\xfd", "a\\b", "...",
					     ".a", "-rf", "\xc3\xa4", "a\xcc\x88",    "A",    "a" };
	char buf[256];

	for (size_t i = 0; i < ROWS(names); i++)
		make_file(names[i], 0644);
	for (size_t i = 0; i < ROWS(names); i++)
		CHECKF(exists(names[i]), "name %zu is not there", i);
	SAME(count_names("."), ROWS(names));
	for (size_t i = 0; i < ROWS(names); i++)
		WORKS(unlink(names[i]));
	long_name(buf, 255);
	for (unsigned i = 0; i < 26; i++) {
		buf[254] = (char)('a' + i);
		make_file(buf, 0644);
	}
	SAME(count_names("."), 26);
}

static void directories_can_be_deep(void)
{
	for (unsigned i = 0; i < 300; i++) {
		WORKS(mkdir("deep", 0755));
		WORKS(chdir("deep"));
	}
	make_data("bottom", 100, 1);
	SAME(stat_of("../../..").st_nlink, 3);
	WORKS(unlink("bottom"));
	for (unsigned i = 0; i < 300; i++) {
		WORKS(chdir(".."));
		WORKS(rmdir("deep"));
	}
}

const struct posix_case posix_path_cases[] = {
	{ "path: every call with every kind of path", every_path_with_every_call },
	{ "path: symlinks are followed forty times", symlinks_are_followed_forty_times },
	{ "path: a symlink says what it was told", a_symlink_says_what_it_was_told },
	{ "path: names are bytes", names_are_bytes },
	{ "path: directories can be deep", directories_can_be_deep },
	{ NULL },
};

/*
 * renameat2: every type onto every type with every flag, what it does to directories, and what it must refuse.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/mount/posix.h"

enum type { NONE, REG, EMPTY, FULL, LINK, FIFO, TYPES };
static const char *const type_names[TYPES] = { "nothing",	   "a file",	"an empty directory",
					       "a full directory", "a symlink", "a fifo" };

static void make(const char *path, enum type type)
{
	char sub[100];

	switch (type) {
	case REG:
		make_data(path, 100, 1);
		break;
	case FULL:
	case EMPTY:
		WORKS(mkdir(path, 0755));
		snprintf(sub, sizeof(sub), "%s/x", path);
		if (type == FULL)
			make_file(sub, 0644);
		break;
	case LINK:
		WORKS(symlink("elsewhere", path));
		break;
	case FIFO:
		WORKS(mkfifo(path, 0644));
		break;
	default:
		break;
	}
}

static bool is_dir(enum type type)
{
	return type == EMPTY || type == FULL;
}

/* What renaming `from` to `to` must answer. */
static int expected(enum type from, enum type to, unsigned flags)
{
	if (from == NONE || (to == NONE && flags & RENAME_EXCHANGE))
		return ENOENT;
	if (to != NONE && flags & RENAME_NOREPLACE)
		return EEXIST;
	if (to == NONE || flags & RENAME_EXCHANGE)
		return 0;
	if (is_dir(from) && !is_dir(to))
		return ENOTDIR;
	if (!is_dir(from) && is_dir(to))
		return EISDIR;
	return to == FULL ? ENOTEMPTY : 0;
}

static void check_effect(const char *from, const char *to, ino_t ino, ino_t ino2, unsigned flags, int err)
{
	if (err) { /* nothing has changed */
		if (ino)
			SAME(stat_of(from).st_ino, ino);
		if (ino2)
			SAME(stat_of(to).st_ino, ino2);
		CHECK(exists(from) == (ino != 0) && exists(to) == (ino2 != 0));
		return;
	}
	SAME(stat_of(to).st_ino, ino);
	if (flags & RENAME_EXCHANGE)
		SAME(stat_of(from).st_ino, ino2);
	else if (flags & RENAME_WHITEOUT)
		CHECK(S_ISCHR(stat_of(from).st_mode) && stat_of(from).st_rdev == 0);
	else
		CHECK(!exists(from));
}

static void every_type(unsigned flags, bool two_dirs)
{
	const char *from = two_dirs ? "d1/from" : "d1/a", *to = two_dirs ? "d2/to" : "d1/b";

	for (enum type a = NONE; a < TYPES; a++)
		for (enum type b = NONE; b < TYPES; b++) {
			int want = expected(a, b, flags), got;
			ino_t ino, ino2;

			WORKS(mkdir("d1", 0755));
			WORKS(mkdir("d2", 0755));
			make(from, a);
			make(to, b);
			ino = a ? stat_of(from).st_ino : 0;
			ino2 = b ? stat_of(to).st_ino : 0;
			got = renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) ? errno : 0;
			if (got == EINVAL && flags)
				posix_skip("the filesystem does not know this flag");
			CHECKF(got == want || (want == ENOTEMPTY && got == EEXIST),
			       "%s to %s, flags %u, gave %s, should be %s", type_names[a], type_names[b], flags,
			       got ? strerrorname_np(got) : "success", want ? strerrorname_np(want) : "success");
			check_effect(from, to, ino, ino2, flags, got);
			/* Link counts of the directories follow their subdirectories. */
			SAME(stat_of("d1").st_nlink,
			     2 + (exists("d1/a") && S_ISDIR(stat_of("d1/a").st_mode)) +
				     (exists("d1/b") && S_ISDIR(stat_of("d1/b").st_mode)) +
				     (exists("d1/from") && S_ISDIR(stat_of("d1/from").st_mode)));
			SAME(stat_of("d2").st_nlink, 2 + (exists("d2/to") && S_ISDIR(stat_of("d2/to").st_mode)));
			if (system("rm -rf d1 d2"))
				abort();
		}
}

static void plain(void)
{
	every_type(0, false);
	every_type(0, true);
}

static void noreplace(void)
{
	every_type(RENAME_NOREPLACE, false);
	every_type(RENAME_NOREPLACE, true);
}

static void exchange(void)
{
	every_type(RENAME_EXCHANGE, false);
	every_type(RENAME_EXCHANGE, true);
}

static void whiteout(void)
{
	every_type(RENAME_WHITEOUT, false);
	every_type(RENAME_WHITEOUT, true);
	every_type(RENAME_WHITEOUT | RENAME_NOREPLACE, true);
}

static void two_names_of_one_file_stay(void)
{
	make_data("a", 100, 1);
	WORKS(link("a", "b"));
	WORKS(rename("a", "b"));
	CHECK(exists("a") && exists("b"));
	SAME(stat_of("a").st_nlink, 2);
	WORKS(rename("a", "a"));
	WORKS(mkdir("d", 0755));
	WORKS(rename("d", "d"));
	FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
	WORKS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
	SAME(stat_of("a").st_nlink, 2);
}

static void a_directory_cannot_go_into_itself(void)
{
	WORKS(mkdir("a", 0755));
	WORKS(mkdir("a/b", 0755));
	WORKS(mkdir("a/b/c", 0755));
	make_file("f", 0644);
	FAILS(rename("a", "a/x"), EINVAL);
	FAILS(rename("a", "a/b/c/x"), EINVAL);
	FAILS(rename("a", "a/b"), EINVAL);
	FAILS(rename("a/b/c", "a"), ENOTEMPTY);
	FAILS(rename("a/b", "a"), ENOTEMPTY);
	FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "a/b", RENAME_EXCHANGE), EINVAL);
	FAILS(renameat2(AT_FDCWD, "a/b/c", AT_FDCWD, "a", RENAME_EXCHANGE), EINVAL);
	WORKS(rename("f", "a/b/c/f"));
	FAILS(renameat2(AT_FDCWD, "a/b/c/f", AT_FDCWD, "a", RENAME_EXCHANGE), EINVAL);
	WORKS(rename("a/b", "b"));
	WORKS(rename("a", "b/c/a"));
	FAILS(rename("b", "b/c/a/b"), EINVAL);
}

static void dots_and_bad_flags_are_refused(void)
{
	static const unsigned bad[] = { RENAME_EXCHANGE | RENAME_NOREPLACE, RENAME_EXCHANGE | RENAME_WHITEOUT, 8,
					1u << 31 };

	WORKS(mkdir("d", 0755));
	WORKS(mkdir("e", 0755));
	make_file("f", 0644);
	make_file("g", 0644);
	FAILS(rename("d/.", "x"), EBUSY);
	FAILS(rename("d/..", "x"), EBUSY);
	FAILS(rename("f", "d/."), EBUSY);
	FAILS(rename(".", "d/x"), EBUSY);
	FAILS(rename("f", "x/"), ENOTDIR);
	FAILS(rename("f/", "x"), ENOTDIR);
	WORKS(rename("d/", "x/"));
	for (size_t i = 0; i < ROWS(bad); i++)
		FAILS(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", bad[i]), EINVAL);
}

static void dot_dot_follows_a_moved_directory(void)
{
	WORKS(mkdir("p", 0755));
	WORKS(mkdir("q", 0755));
	WORKS(mkdir("p/d", 0755));
	SAME(stat_of("p/d/..").st_ino, stat_of("p").st_ino);
	WORKS(chdir("p/d"));
	WORKS(rename("../../p/d", "../../q/e"));
	SAME(stat_of("..").st_ino, stat_of("../../q").st_ino);
	WORKS(chdir("../.."));
	SAME(stat_of("p").st_nlink, 2);
	SAME(stat_of("q").st_nlink, 3);
	WORKS(mkdir("p/d", 0755));
	WORKS(renameat2(AT_FDCWD, "p/d", AT_FDCWD, "q", RENAME_EXCHANGE));
	SAME(stat_of("p/d/e/..").st_ino, stat_of("p/d").st_ino);
	SAME(stat_of("p/d/..").st_ino, stat_of("p").st_ino);
	SAME(stat_of("q/..").st_ino, stat_of(".").st_ino);
}

static void a_replaced_name_is_never_missing(void)
{
	pid_t pid;

	make_data("target", 10, 0);
	pid = fork();
	if (!pid) {
		for (unsigned i = 0; i < 1000; i++) {
			make_data("new", 10, i);
			if (rename("new", "target"))
				_exit(1);
		}
		_exit(0);
	}
	for (unsigned i = 0; i < 3000; i++) {
		int fd = open("target", O_RDONLY);

		if (!CHECKF(fd >= 0, "round %u: %s", i, strerrorname_np(errno)))
			break;
		close(fd);
	}
	waitpid(pid, NULL, 0);
}

const struct posix_case posix_rename_cases[] = {
	{ "rename: every type onto every type", plain },
	{ "rename: every type onto every type with RENAME_NOREPLACE", noreplace },
	{ "rename: every type onto every type with RENAME_EXCHANGE", exchange },
	{ "rename: every type onto every type with RENAME_WHITEOUT", whiteout, .root = true },
	{ "rename: two names of one file stay", two_names_of_one_file_stay },
	{ "rename: a directory cannot go into itself", a_directory_cannot_go_into_itself },
	{ "rename: dots and bad flags are refused", dots_and_bad_flags_are_refused },
	{ "rename: '..' follows a moved directory", dot_dot_follows_a_moved_directory },
	{ "rename: a replaced name is never missing", a_replaced_name_is_never_missing },
	{ NULL },
};

/* Who may do what: permissions, ownership, the sticky bit, set-id bits, chattr flags. */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>
#undef BLOCK_SIZE

#include "tests/mount/posix.h"

#define USER 1000
#define OTHER 1001
#define GROUP 2000

/* Where the kernel does not ask the filesystem before it opens a file, the first write is what fails. */
static int try_write(const char *path, int flags)
{
	int fd = open(path, flags), result, err;

	if (fd < 0 || !posix_is_fuse())
		return fd < 0 ? fd : close(fd);
	result = (int)write(fd, "x", 1);
	err = errno;
	close(fd);
	errno = err;
	return result;
}

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags);

	return fd < 0 ? fd : close(fd);
}

static void permission_bits_decide(void)
{
	static const struct {
		mode_t mode;
		uid_t uid;
		gid_t gid;
		bool r, w, x;
	} rows[] = {
		{ 0400, USER, GROUP, true, false, false },   { 0200, USER, GROUP, false, true, false },
		{ 0100, USER, GROUP, false, false, true },   { 0077, USER, GROUP, false, false, false },
		{ 0040, OTHER, GROUP, true, false, false },  { 0020, OTHER, GROUP, false, true, false },
		{ 0707, OTHER, GROUP, false, false, false }, { 0004, OTHER, 3000, true, false, false },
		{ 0002, OTHER, 3000, false, true, false },   { 0770, OTHER, 3000, false, false, false },
		{ 0777, OTHER, 3000, true, true, true },     { 0000, USER, GROUP, false, false, false },
	};

	make_file("f", 0644);
	WORKS(chown("f", USER, GROUP));
	for (size_t i = 0; i < ROWS(rows); i++) {
		WORKS(chmod("f", rows[i].mode));
		AS(rows[i].uid, rows[i].gid)
		{
			CHECKF(!try_open("f", O_RDONLY) == rows[i].r, "row %zu, reading", i);
			CHECKF(!try_open("f", O_WRONLY) == rows[i].w, "row %zu, writing", i);
			CHECKF(!try_open("f", O_RDWR) == (rows[i].r && rows[i].w), "row %zu, both", i);
			CHECKF(!access("f", R_OK) == rows[i].r, "row %zu, access R_OK", i);
			CHECKF(!access("f", W_OK) == rows[i].w, "row %zu, access W_OK", i);
			CHECKF(!access("f", X_OK) == rows[i].x, "row %zu, access X_OK", i);
			CHECKF(!truncate("f", 0) == rows[i].w, "row %zu, truncate", i);
		}
	}
	/* Root may all, but execute only what someone may. */
	WORKS(chmod("f", 0));
	WORKS(try_open("f", O_RDWR));
	FAILS(access("f", X_OK), EACCES);
}

static void directories_need_their_bits(void)
{
	WORKS(mkdir("d", 0755));
	make_file("d/f", 0666);
	WORKS(mkdir("d/s", 0777));
	WORKS(chown("d", USER, GROUP));
	WORKS(chmod("d", 0700));
	AS(OTHER, GROUP)
	{
		FAILS(try_open("d/f", O_RDONLY), EACCES);
		FAILS(try_open("d", O_RDONLY), EACCES);
		FAILS(chdir("d"), EACCES);
		FAILS(access("d/f", F_OK), EACCES);
	}
	WORKS(chmod("d", 0711)); /* may pass, may not list */
	AS(OTHER, GROUP)
	{
		WORKS(try_open("d/f", O_RDONLY));
		FAILS(try_open("d", O_RDONLY), EACCES);
		FAILS(mkdir("d/new", 0755), EACCES);
		FAILS(unlink("d/f"), EACCES);
		FAILS(rename("d/f", "d/g"), EACCES);
		FAILS(link("d/f", "d/g"), EACCES);
		FAILS(symlink("x", "d/g"), EACCES);
		FAILS(open("d/new", O_CREAT | O_RDWR, 0644), EACCES);
		FAILS(rmdir("d/s"), EACCES);
		FAILS(open("d", O_TMPFILE | O_RDWR, 0600), EACCES);
	}
	WORKS(chmod("d", 0744)); /* may list, may not pass */
	AS(OTHER, GROUP)
	{
		SAME(count_names("d"), 2);
		FAILS(try_open("d/f", O_RDONLY), EACCES);
		FAILS(chdir("d"), EACCES);
	}
	WORKS(chmod("d", 0733)); /* may make and remove */
	AS(OTHER, GROUP)
	{
		make_file("d/new", 0644);
		WORKS(unlink("d/new"));
		WORKS(rename("d/f", "d/g"));
		WORKS(rmdir("d/s"));
	}
}

static void only_the_owner_changes_attributes(void)
{
	struct timespec t[2] = { { 1, 0 }, { 1, 0 } };

	make_file("f", 0666);
	WORKS(chown("f", USER, GROUP));
	AS(OTHER, GROUP)
	{
		FAILS(chmod("f", 0777), EPERM);
		FAILS(chown("f", OTHER, (gid_t)-1), EPERM);
		FAILS(chown("f", (uid_t)-1, GROUP), EPERM);
		FAILS(utimensat(AT_FDCWD, "f", t, 0), EPERM);
		WORKS(utimensat(AT_FDCWD, "f", NULL, 0)); /* who may write may say "now" */
	}
	WORKS(chmod("f", 0644));
	AS(OTHER, GROUP)
	{
		FAILS(utimensat(AT_FDCWD, "f", NULL, 0), EACCES);
		FAILS(setxattr("f", "user.x", "1", 1, 0), EACCES);
	}
	AS(USER, GROUP)
	{
		WORKS(chmod("f", 0600));
		WORKS(utimensat(AT_FDCWD, "f", t, 0));
		WORKS(chown("f", USER, GROUP));
		FAILS(chown("f", OTHER, (gid_t)-1), EPERM);
		FAILS(chown("f", (uid_t)-1, 3000), EPERM); /* a group it is not in */
		WORKS(setxattr("f", "user.x", "1", 1, 0));
		FAILS(setxattr("f", "trusted.x", "1", 1, 0), EPERM);
	}
	SAME(stat_of("f").st_mode, S_IFREG | 0600);
}

static void in_a_sticky_directory_only_owners_remove(void)
{
	WORKS(mkdir("d", 0755));
	WORKS(chown("d", USER, GROUP));
	WORKS(chmod("d", 01777));
	for (unsigned i = 0; i < 2; i++) {
		make_file(i ? "d/b" : "d/a", 0666);
		WORKS(chown(i ? "d/b" : "d/a", OTHER, GROUP));
	}
	WORKS(mkdir("d/s", 0777));
	WORKS(chown("d/s", OTHER, GROUP));
	AS(1002, GROUP)
	{
		FAILS(unlink("d/a"), EPERM);
		FAILS(rename("d/a", "d/c"), EPERM);
		FAILS(rmdir("d/s"), EPERM);
		make_file("d/mine", 0644);
		FAILS(rename("d/mine", "d/a"), EPERM);
		WORKS(rename("d/mine", "d/mine2"));
		WORKS(unlink("d/mine2"));
		WORKS(try_open("d/a", O_RDWR));
	}
	AS(OTHER, GROUP)
	{
		WORKS(rename("d/a", "d/c"));
		WORKS(unlink("d/c"));
		WORKS(rmdir("d/s"));
	}
	AS(USER, GROUP)
	{
		WORKS(unlink("d/b")); /* the directory is its */
	}
}

static void set_id(const char *path, mode_t mode)
{
	WORKS(chown(path, USER, GROUP));
	WORKS(chmod(path, mode));
	SAME(stat_of(path).st_mode & 07777, mode);
}

static void writing_takes_set_id_bits(void)
{
	static const struct {
		mode_t mode, want;
	} rows[] = { { 04777, 0777 },  { 02777, 0777 },	 { 06777, 0777 },
		     { 02767, 02767 }, { 06666, 02666 }, { 01777, 01777 } };

	make_data("f", 10000, 1);
	for (size_t i = 0; i < ROWS(rows); i++)
		for (unsigned how = 0; how < 4; how++) {
			set_id("f", rows[i].mode);
			AS(OTHER, how == 3 ? GROUP : 3000)
			{
				int fd = (int)WORKS(open("f", O_RDWR));

				if (how == 0)
					write_data(fd, 0, 10, 1);
				else if (how == 1)
					WORKS(ftruncate(fd, 500));
				else if (how == 2)
					WORKS(fallocate(fd, 0, 0, 5000));
				else
					write_data(fd, 20000, 10, 1);
				close(fd);
			}
			/* Whether mandatory locking's sign stays, kernels differ in, for a writer outside the group. */
			CHECKF((stat_of("f").st_mode & 07777) == rows[i].want ||
				       (how != 3 && (stat_of("f").st_mode & 07777) == (rows[i].want & ~02000u)),
			       "mode 0%o, way %u, became 0%o, should be 0%o", rows[i].mode, how,
			       stat_of("f").st_mode & 07777, rows[i].want);
		}
	/* Reading and writing nothing do not. */
	set_id("f", 06755);
	close((int)WORKS(open("f", O_RDWR)));
	SAME(stat_of("f").st_mode & 07777, 06755);
}

static void chown_takes_set_id_bits(void)
{
	make_file("f", 0644);
	set_id("f", 06755);
	WORKS(chown("f", OTHER, (gid_t)-1));
	SAME(stat_of("f").st_mode & 07777, 0755);
	set_id("f", 06755);
	WORKS(chown("f", (uid_t)-1, 3000));
	SAME(stat_of("f").st_mode & 07777, 0755);
	set_id("f", 06745);
	WORKS(chown("f", OTHER, 3000));
	SAME(stat_of("f").st_mode & 07777, 02745);
	set_id("f", 06755);
	AS(USER, GROUP)
	{
		WORKS(chown("f", (uid_t)-1, GROUP));
	}
	SAME(stat_of("f").st_mode & 07777, 0755);
	WORKS(mkdir("d", 0755));
	set_id("d", 06755);
	WORKS(chown("d", OTHER, 3000));
	SAME(stat_of("d").st_mode & 07777, 06755);
}

static void chmod_outside_the_group_takes_set_group_id(void)
{
	make_file("f", 0644);
	WORKS(chown("f", USER, 3000));
	AS(USER, GROUP)
	{
		WORKS(chmod("f", 02755));
	}
	SAME(stat_of("f").st_mode & 07777, 0755);
	AS(USER, 3000)
	{
		WORKS(chmod("f", 02755));
	}
	SAME(stat_of("f").st_mode & 07777, 02755);
	for (mode_t m = 0; m < 010000; m += 0123) {
		WORKS(chmod("f", m));
		SAME(stat_of("f").st_mode, S_IFREG | m);
	}
}

static void writing_takes_capabilities(void)
{
	/* cap_net_raw+ep, revision 2 */
	static const uint8_t cap[20] = { 1, 0, 0, 2, 0, 0x20 };
	char buf[64];

	make_data("f", 100, 1);
	WORKS(chmod("f", 0777));
	if (setxattr("f", "security.capability", cap, sizeof(cap), 0) && errno == EPERM)
		posix_skip("no right to set capabilities");
	SAME(getxattr("f", "security.capability", buf, sizeof(buf)), 20);
	make_data("g", 100, 1);
	SAME(rename("g", "h"), 0);
	SAME(getxattr("f", "security.capability", buf, sizeof(buf)), 20);
	AS(USER, GROUP)
	{
		int fd = (int)WORKS(open("f", O_WRONLY));

		write_data(fd, 0, 10, 2);
		close(fd);
	}
	FAILS(getxattr("f", "security.capability", buf, sizeof(buf)), ENODATA);
	WORKS(setxattr("f", "security.capability", cap, sizeof(cap), 0));
	WORKS(chown("f", USER, GROUP));
	FAILS(getxattr("f", "security.capability", buf, sizeof(buf)), ENODATA);
}

static int set_flags(const char *path, int flags)
{
	int fd = open(path, O_RDONLY), now = 0, result;

	if (fd < 0)
		return fd;
	/* Others belong to the filesystem. */
	result = ioctl(fd, FS_IOC_GETFLAGS, &now);
	flags |= now & ~(FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL);
	if (!result)
		result = ioctl(fd, FS_IOC_SETFLAGS, &flags);
	close(fd);
	return result;
}

static int get_flags(const char *path)
{
	int fd = (int)WORKS(open(path, O_RDONLY)), flags = 0;

	WORKS(ioctl(fd, FS_IOC_GETFLAGS, &flags));
	close(fd);
	return flags & (FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL);
}

static void try_flags(void)
{
	if (posix_is_writeback())
		posix_skip("the kernel's cache for writing takes what these flags forbid");
	make_file("probe", 0644);
	if (set_flags("probe", FS_IMMUTABLE_FL))
		posix_skip("no chattr here");
	SAME(get_flags("probe"), FS_IMMUTABLE_FL);
	WORKS(set_flags("probe", 0));
	WORKS(unlink("probe"));
}

static void immutable_files_stay(void)
{
	struct timespec t[2] = { { 1, 0 }, { 1, 0 } };

	try_flags();
	make_data("f", 100, 1);
	WORKS(setxattr("f", "user.x", "1", 1, 0));
	WORKS(set_flags("f", FS_IMMUTABLE_FL));
	FAILS(try_write("f", O_WRONLY), EPERM);
	FAILS(try_write("f", O_RDWR | O_APPEND), EPERM);
	FAILS(truncate("f", 0), EPERM);
	FAILS(chmod("f", 0600), EPERM);
	FAILS(chown("f", 1, 1), EPERM);
	FAILS(utimensat(AT_FDCWD, "f", t, 0), EPERM);
	FAILS(unlink("f"), EPERM);
	FAILS(rename("f", "g"), EPERM);
	FAILS(link("f", "g"), EPERM);
	FAILS(setxattr("f", "user.x", "2", 1, 0), EPERM);
	FAILS(removexattr("f", "user.x"), EPERM);
	make_file("other", 0644);
	FAILS(rename("other", "f"), EPERM);
	WORKS(try_open("f", O_RDONLY));
	WORKS(set_flags("f", 0));
	WORKS(unlink("f"));
}

static void append_only_files_grow(void)
{
	int fd;

	try_flags();
	make_data("f", 100, 1);
	WORKS(set_flags("f", FS_APPEND_FL));
	FAILS(try_write("f", O_WRONLY), EPERM);
	FAILS(try_open("f", O_WRONLY | O_APPEND | O_TRUNC), EPERM);
	FAILS(truncate("f", 0), EPERM);
	FAILS(unlink("f"), EPERM);
	FAILS(rename("f", "g"), EPERM);
	FAILS(link("f", "g"), EPERM);
	FAILS(chmod("f", 0600), EPERM);
	fd = (int)WORKS(open("f", O_WRONLY | O_APPEND));
	SAME(write(fd, "more", 4), 4);
	close(fd);
	SAME(stat_of("f").st_size, 104);
	WORKS(set_flags("f", 0));
	WORKS(unlink("f"));
}

static void flags_of_directories_hold(void)
{
	try_flags();
	WORKS(mkdir("d", 0755));
	make_file("d/f", 0644);
	WORKS(set_flags("d", FS_IMMUTABLE_FL));
	FAILS(open("d/new", O_CREAT | O_RDWR, 0644), EPERM);
	FAILS(mkdir("d/new", 0755), EPERM);
	FAILS(unlink("d/f"), EPERM);
	FAILS(rename("d/f", "f"), EPERM);
	FAILS(symlink("x", "d/new"), EPERM);
	CHECK(rmdir("d") < 0);
	WORKS(try_open("d/f", O_RDWR));
	WORKS(set_flags("d", FS_APPEND_FL));
	make_file("d/new", 0644);
	FAILS(unlink("d/f"), EPERM);
	FAILS(rename("d/f", "d/g"), EPERM);
	WORKS(set_flags("d", FS_NODUMP_FL | FS_NOATIME_FL));
	SAME(get_flags("d"), FS_NODUMP_FL | FS_NOATIME_FL);
	WORKS(set_flags("d", 0));
	WORKS(unlink("d/f"));
}

const struct posix_case posix_right_cases[] = {
	{ "rights: permission bits decide", permission_bits_decide, .root = true },
	{ "rights: directories need their bits", directories_need_their_bits, .root = true },
	{ "rights: only the owner changes attributes", only_the_owner_changes_attributes, .root = true },
	{ "rights: in a sticky directory only owners remove", in_a_sticky_directory_only_owners_remove, .root = true },
	{ "rights: writing takes set-id bits", writing_takes_set_id_bits, .root = true },
	{ "rights: chown takes set-id bits", chown_takes_set_id_bits, .root = true },
	{ "rights: chmod outside the group takes set-group-id", chmod_outside_the_group_takes_set_group_id,
	  .root = true },
	{ "rights: writing and chown take capabilities", writing_takes_capabilities, .root = true },
	{ "rights: immutable files stay as they are", immutable_files_stay, .root = true },
	{ "rights: append-only files only grow", append_only_files_grow, .root = true },
	{ "rights: flags of directories hold", flags_of_directories_hold, .root = true },
	{ NULL },
};

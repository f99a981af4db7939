/* mkdir, rmdir, link, unlink: what they answer, and what they do to link counts. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/mount/posix.h"

static void a_directory_counts_its_subdirectories(void)
{
	char name[16];

	WORKS(mkdir("d", 0755));
	SAME(stat_of("d").st_nlink, 2);
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "d/s%u", i);
		WORKS(mkdir(name, 0755));
		SAME(stat_of("d").st_nlink, 3 + i);
	}
	make_file("d/f", 0644);
	SAME(stat_of("d").st_nlink, 22);
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "d/s%u", i);
		WORKS(rmdir(name));
	}
	SAME(stat_of("d").st_nlink, 2);
	FAILS(rmdir("d"), ENOTEMPTY);
	WORKS(unlink("d/f"));
	WORKS(rmdir("d"));
	FAILS(rmdir("d"), ENOENT);
}

static void a_file_counts_its_names(void)
{
	char name[16];

	make_data("f", 1000, 1);
	WORKS(mkdir("d", 0755));
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "%sn%u", i % 2 ? "d/" : "", i);
		WORKS(link("f", name));
		SAME(stat_of("f").st_nlink, i + 2);
		SAME(stat_of(name).st_ino, stat_of("f").st_ino);
	}
	WORKS(unlink("f"));
	SAME(stat_of("n0").st_nlink, 100);
	for (unsigned i = 0; i < 99; i++) {
		snprintf(name, sizeof(name), "%sn%u", i % 2 ? "d/" : "", i);
		WORKS(unlink(name));
	}
	SAME(stat_of("d/n99").st_nlink, 1);
	SAME(stat_of("d/n99").st_size, 1000);
}

static void every_type_but_directories_can_be_linked(void)
{
	make_file("f", 0644);
	WORKS(mkfifo("p", 0644));
	WORKS(symlink("f", "l"));
	WORKS(mkdir("d", 0755));
	WORKS(link("f", "f2"));
	WORKS(link("p", "p2"));
	WORKS(link("l", "l2"));
	CHECK(S_ISLNK(stat_of("l2").st_mode));
	SAME(stat_of("l2").st_nlink, 2);
	WORKS(linkat(AT_FDCWD, "l", AT_FDCWD, "f3", AT_SYMLINK_FOLLOW));
	SAME(stat_of("f").st_nlink, 3);
	FAILS(link("d", "d2"), EPERM);
	FAILS(link("f", "d"), EEXIST);
	FAILS(link("f", "l"), EEXIST);
	FAILS(linkat(AT_FDCWD, "f", AT_FDCWD, "x", 0x40000000), EINVAL);
}

static void each_removes_its_own(void)
{
	WORKS(mkdir("d", 0755));
	make_file("f", 0644);
	WORKS(symlink("d", "l"));
	FAILS(unlink("d"), EISDIR);
	FAILS(rmdir("f"), ENOTDIR);
	FAILS(rmdir("l"), ENOTDIR);
	FAILS(unlinkat(AT_FDCWD, "d", 0), EISDIR);
	FAILS(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR), ENOTDIR);
	FAILS(unlinkat(AT_FDCWD, "f", 0x40), EINVAL);
	WORKS(unlink("l"));
	CHECK(exists("d"));
	WORKS(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
	WORKS(unlinkat(AT_FDCWD, "f", 0));
	SAME(count_names("."), 0);
}

static void a_name_can_be_used_again(void)
{
	ino_t last = 0;

	for (unsigned i = 0; i < 60; i++) {
		ino_t ino;

		switch (i % 4) {
		case 0:
			make_file("n", 0644);
			break;
		case 1:
			WORKS(mkdir("n", 0755));
			break;
		case 2:
			WORKS(symlink("x", "n"));
			break;
		default:
			WORKS(mkfifo("n", 0600));
			break;
		}
		ino = stat_of("n").st_ino;
		CHECK(posix_is_ext4() || ino != last);
		last = ino;
		WORKS(i % 4 == 1 ? rmdir("n") : unlink("n"));
		CHECK(!exists("n"));
	}
}

/* What one name resolves to must never be an answer of before. */
static void other_processes_see_changes_at_once(void)
{
	int go[2], done[2];
	char c = 0;
	pid_t pid;

	WORKS(pipe(go));
	WORKS(pipe(done));
	pid = fork();
	if (!pid) {
		for (unsigned i = 0; i < 100 && read(go[0], &c, 1) == 1; i++) {
			if (i % 2)
				unlink("n");
			else
				make_data("n", i + 1, 1);
			if (write(done[1], &c, 1) != 1)
				break;
		}
		_exit(0);
	}
	for (unsigned i = 0; i < 100; i++) {
		CHECK(exists("n") == (i % 2));
		SAME(write(go[1], &c, 1), 1);
		SAME(read(done[0], &c, 1), 1);
		CHECK(exists("n") == !(i % 2));
		if (!(i % 2))
			SAME(stat_of("n").st_size, i + 1);
	}
}

static void set_group_id_directories_pass_their_group_on(void)
{
	struct stat st;

	WORKS(mkdir("d", 0755));
	WORKS(chown("d", 0, 4242));
	WORKS(chmod("d", 02775));
	make_file("d/f", 0644);
	WORKS(mkdir("d/s", 0755));
	WORKS(mkfifo("d/p", 0644));
	WORKS(symlink("x", "d/l"));
	st = stat_of("d/f");
	SAME(st.st_gid, 4242);
	SAME(st.st_mode, S_IFREG | 0644);
	st = stat_of("d/s");
	SAME(st.st_gid, 4242);
	SAME(st.st_mode, S_IFDIR | S_ISGID | 0755);
	SAME(stat_of("d/p").st_gid, 4242);
	SAME(stat_of("d/l").st_gid, 4242);
	WORKS(mkdir("d/s/deeper", 0700));
	SAME(stat_of("d/s/deeper").st_mode, S_IFDIR | S_ISGID | 0700);
	WORKS(mkdir("plain", 0755));
	SAME(stat_of("plain").st_gid, getegid());
	WORKS(rename("plain", "d/plain"));
	SAME(stat_of("d/plain").st_gid, getegid());
}

static void new_files_belong_to_who_makes_them(void)
{
	AS(1234, 5678)
	{
		make_file("f", 0644);
		WORKS(mkdir("d", 0755));
		WORKS(symlink("x", "l"));
		WORKS(mkfifo("p", 0644));
	}
	for (const char *const *p = (const char *const[]){ "f", "d", "l", "p", NULL }; *p; p++) {
		SAME(stat_of(*p).st_uid, 1234);
		SAME(stat_of(*p).st_gid, 5678);
	}
}

const struct posix_case posix_name_cases[] = {
	{ "names: a directory counts its subdirectories", a_directory_counts_its_subdirectories },
	{ "names: a file counts its names", a_file_counts_its_names },
	{ "names: every type but directories can be linked", every_type_but_directories_can_be_linked },
	{ "names: unlink and rmdir remove each its own", each_removes_its_own },
	{ "names: a name can be used again", a_name_can_be_used_again },
	{ "names: other processes see changes at once", other_processes_see_changes_at_once },
	{ "names: set-group-id directories pass their group on", set_group_id_directories_pass_their_group_on,
	  .root = true },
	{ "names: new files belong to who makes them", new_files_belong_to_who_makes_them, .root = true },
	{ NULL },
};

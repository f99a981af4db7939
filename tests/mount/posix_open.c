/* Opening and creating: flags, modes, files without a name. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/mount/posix.h"

static void creat_makes_a_file_once(void)
{
	int fd = (int)WORKS(open("f", O_CREAT | O_EXCL | O_WRONLY, 0640));
	struct stat st = stat_of("f");

	SAME(st.st_mode, S_IFREG | 0640);
	SAME(st.st_size, 0);
	SAME(st.st_nlink, 1);
	SAME(st.st_blocks, 0);
	SAME(write(fd, "abc", 3), 3);
	close(fd);
	FAILS(open("f", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
	fd = (int)WORKS(open("f", O_CREAT | O_WRONLY, 0600));
	SAME(stat_of("f").st_mode, S_IFREG | 0640);
	SAME(stat_of("f").st_size, 3);
	close(fd);
	WORKS(symlink("missing", "dangling"));
	FAILS(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
	WORKS(fd = open("dangling", O_CREAT | O_WRONLY, 0600));
	close(fd);
	CHECK(exists("missing"));
}

static void o_trunc_empties_a_file(void)
{
	int fd;

	make_data("f", 10000, 1);
	fd = (int)WORKS(open("f", O_WRONLY | O_TRUNC));
	SAME(stat_of("f").st_size, 0);
	SAME(blocks_of("f"), 0);
	SAME(write(fd, "xy", 2), 2);
	close(fd);
	SAME(stat_of("f").st_size, 2);
	WORKS(mkdir("d", 0755));
	FAILS(open("d", O_WRONLY | O_TRUNC), EISDIR);
}

static void o_append_writes_at_the_end(void)
{
	int fd, fd2;
	char buf[8];

	make_file("f", 0644);
	fd = (int)WORKS(open("f", O_RDWR | O_APPEND));
	fd2 = (int)WORKS(open("f", O_RDWR | O_APPEND));
	for (unsigned i = 0; i < 50; i++)
		SAME(write(i % 2 ? fd : fd2, i % 2 ? "bb" : "aa", 2), 2);
	SAME(stat_of("f").st_size, 100);
	WORKS(lseek(fd, 0, SEEK_SET));
	SAME(write(fd, "cc", 2), 2);
	SAME(lseek(fd, 0, SEEK_CUR), 102);
	SAME(pread(fd, buf, 4, 98), 4);
	CHECK(!memcmp(buf, "bbcc", 4));
	SAME(pread(fd, buf, 4, 0), 4);
	CHECK(!memcmp(buf, "aabb", 4));
	/* Linux: pwrite appends as well. */
	SAME(pwrite(fd, "dd", 2, 0), 2);
	SAME(stat_of("f").st_size, 104);
}

static void flags_decide_what_a_descriptor_can(void)
{
	char c = 'x';
	int fd;

	make_data("f", 10, 1);
	fd = (int)WORKS(open("f", O_RDONLY));
	FAILS(write(fd, &c, 1), EBADF);
	FAILS(ftruncate(fd, 0), EINVAL);
	close(fd);
	fd = (int)WORKS(open("f", O_WRONLY));
	FAILS(read(fd, &c, 1), EBADF);
	close(fd);
	fd = (int)WORKS(open("f", O_PATH));
	FAILS(read(fd, &c, 1), EBADF);
	FAILS(fchmod(fd, 0600), EBADF);
	close(fd);
	FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	WORKS(mkdir("d", 0755));
	FAILS(open("d", O_WRONLY), EISDIR);
	FAILS(open("d", O_RDWR), EISDIR);
	fd = (int)WORKS(open("d", O_RDONLY | O_DIRECTORY));
	FAILS(read(fd, &c, 1), EISDIR);
	FAILS(pread(fd, &c, 1, 0), EISDIR);
	close(fd);
	FAILS(open("d", O_CREAT | O_RDONLY, 0644), EISDIR);
	WORKS(symlink("f", "l"));
	FAILS(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
	fd = (int)WORKS(open("l", O_PATH | O_NOFOLLOW));
	close(fd);
}

static void umask_takes_bits_off_new_files(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "s" };
	int fd;

	umask(027);
	close((int)WORKS(open("f", O_CREAT | O_WRONLY, 0666)));
	WORKS(mkdir("d", 0777));
	WORKS(mkfifo("p", 0666));
	WORKS(symlink("x", "l"));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	WORKS(bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
	close(fd);
	SAME(stat_of("f").st_mode, S_IFREG | 0640);
	SAME(stat_of("d").st_mode, S_IFDIR | 0750);
	SAME(stat_of("p").st_mode, S_IFIFO | 0640);
	SAME(stat_of("s").st_mode, S_IFSOCK | 0750);
	SAME(stat_of("l").st_mode, S_IFLNK | 0777);
}

static void tmpfile_has_no_name_until_it_gets_one(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0600);
	char path[64];
	struct stat st;

	if (fd < 0 && errno == EOPNOTSUPP)
		posix_skip("no O_TMPFILE");
	if (WORKS(fd) < 0)
		return;
	WORKS(fstat(fd, &st));
	SAME(st.st_nlink, 0);
	SAME(st.st_mode, S_IFREG | 0600);
	SAME(count_names("."), 0);
	write_data(fd, 0, 50000, 3);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	WORKS(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	SAME(stat_of("named").st_nlink, 1);
	SAME(stat_of("named").st_ino, st.st_ino);
	WORKS(linkat(AT_FDCWD, path, AT_FDCWD, "again", AT_SYMLINK_FOLLOW));
	SAME(stat_of("named").st_nlink, 2);
	FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), EEXIST);
	close(fd);
	fd = (int)WORKS(open("named", O_RDONLY));
	data_right(fd, 0, 50000, 3);
	close(fd);
	/* With O_EXCL it never gets one. */
	fd = (int)WORKS(open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "never", AT_SYMLINK_FOLLOW), ENOENT);
	close(fd);
	FAILS(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
	make_file("f", 0644);
	FAILS(open("f", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
}

static void a_removed_file_lives_while_it_is_open(void)
{
	int fd, fd2;
	struct stat st;
	char path[64];

	make_data("f", 20000, 1);
	fd = (int)WORKS(open("f", O_RDWR));
	WORKS(unlink("f"));
	CHECK(!exists("f"));
	WORKS(fstat(fd, &st));
	SAME(st.st_nlink, 0);
	SAME(st.st_size, 20000);
	data_right(fd, 0, 20000, 1);
	write_data(fd, 100000, 5000, 2);
	WORKS(fsync(fd));
	data_right(fd, 100000, 105000, 2);
	data_zero(fd, 20000, 100000);
	WORKS(ftruncate(fd, 10));
	WORKS(fchmod(fd, 0600));
	make_data("f", 30, 9); /* another */
	WORKS(fstat(fd, &st));
	SAME(st.st_size, 10);
	CHECK(st.st_ino != stat_of("f").st_ino);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd2 = (int)WORKS(open(path, O_RDONLY));
	data_right(fd2, 0, 10, 1);
	close(fd2);
	FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "back", AT_SYMLINK_FOLLOW), ENOENT);
	close(fd);
}

static void a_replaced_file_lives_while_it_is_open(void)
{
	int fd;

	make_data("old", 9000, 1);
	make_data("new", 100, 2);
	fd = (int)WORKS(open("old", O_RDONLY));
	WORKS(rename("new", "old"));
	data_right(fd, 0, 9000, 1);
	close(fd);
	SAME(stat_of("old").st_size, 100);
}

static void a_removed_directory_can_be_stood_in(void)
{
	int fd;

	WORKS(mkdir("d", 0755));
	fd = (int)WORKS(open("d", O_RDONLY | O_DIRECTORY));
	WORKS(rmdir("d"));
	FAILS(openat(fd, "f", O_CREAT | O_WRONLY, 0644), ENOENT);
	FAILS(mkdirat(fd, "e", 0755), ENOENT);
	FAILS(openat(fd, "f", O_RDONLY), ENOENT);
	WORKS(mkdir("d", 0755));
	FAILS(openat(fd, "f", O_CREAT | O_WRONLY, 0644), ENOENT);
	close(fd);
}

static void a_fifo_passes_bytes(void)
{
	char buf[16] = "";
	int r, w;

	WORKS(mkfifo("p", 0600));
	FAILS(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
	r = (int)WORKS(open("p", O_RDONLY | O_NONBLOCK));
	w = (int)WORKS(open("p", O_WRONLY));
	SAME(write(w, "through", 7), 7);
	SAME(read(r, buf, sizeof(buf)), 7);
	CHECK(!strcmp(buf, "through"));
	SAME(stat_of("p").st_size, 0);
	close(w);
	SAME(read(r, buf, sizeof(buf)), 0);
	close(r);
}

static void a_socket_can_be_connected_to(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "s" };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), to, from;
	char c = 0;

	WORKS(bind(listener, (struct sockaddr *)&addr, sizeof(addr)));
	FAILS(bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&addr, sizeof(addr)), EADDRINUSE);
	WORKS(listen(listener, 1));
	to = socket(AF_UNIX, SOCK_STREAM, 0);
	WORKS(connect(to, (struct sockaddr *)&addr, sizeof(addr)));
	from = (int)WORKS(accept(listener, NULL, NULL));
	SAME(write(to, "x", 1), 1);
	SAME(read(from, &c, 1), 1);
	SAME(c, 'x');
	CHECK(S_ISSOCK(stat_of("s").st_mode));
	FAILS(open("s", O_RDWR), ENXIO);
	WORKS(rename("s", "t"));
	snprintf(addr.sun_path, sizeof(addr.sun_path), "t");
	close(to);
	to = socket(AF_UNIX, SOCK_STREAM, 0);
	WORKS(connect(to, (struct sockaddr *)&addr, sizeof(addr)));
}

static void mknod_makes_every_type(void)
{
	const struct {
		const char *name;
		mode_t mode;
		dev_t dev;
	} rows[] = {
		{ "reg", S_IFREG | 0644, 0 },
		{ "fifo", S_IFIFO | 0600, 0 },
		{ "sock", S_IFSOCK | 0711, 0 },
		{ "null", S_IFCHR | 0666, makedev(1, 3) },
		{ "block", S_IFBLK | 0660, makedev(7, 250) },
		{ "large", S_IFCHR | 0600, makedev(4000, 1000000) },
		{ "plain", 0644, 0 },
	};
	char c = 'x';
	int fd;

	for (size_t i = 0; i < ROWS(rows); i++) {
		struct stat st;

		WORKS(mknod(rows[i].name, rows[i].mode, rows[i].dev));
		st = stat_of(rows[i].name);
		SAME(st.st_mode, (rows[i].mode & S_IFMT ? 0 : S_IFREG) | rows[i].mode);
		SAME(st.st_rdev, rows[i].dev);
		SAME(st.st_nlink, 1);
		SAME(st.st_size, 0);
		FAILS(mknod(rows[i].name, rows[i].mode, rows[i].dev), EEXIST);
	}
	FAILS(mknod("dir", S_IFDIR | 0755, 0), EPERM);
	FAILS(mknod("lnk", S_IFLNK | 0755, 0), EINVAL);
	/* Works where devices may be opened at all. */
	fd = open("null", O_RDWR);
	if (fd >= 0) {
		SAME(write(fd, &c, 1), 1);
		SAME(read(fd, &c, 1), 0);
		close(fd);
	} else {
		CHECKF(errno == EACCES || errno == EPERM, "opening a device gave %s", strerrorname_np(errno));
	}
}

const struct posix_case posix_open_cases[] = {
	{ "open: O_CREAT makes a file, with O_EXCL only once", creat_makes_a_file_once },
	{ "open: O_TRUNC empties a file", o_trunc_empties_a_file },
	{ "open: O_APPEND writes at the end", o_append_writes_at_the_end },
	{ "open: flags decide what a descriptor can do", flags_decide_what_a_descriptor_can },
	{ "open: umask takes bits off new files", umask_takes_bits_off_new_files },
	{ "open: O_TMPFILE makes a file without a name, which can get one", tmpfile_has_no_name_until_it_gets_one },
	{ "open: a removed file lives while it is open", a_removed_file_lives_while_it_is_open },
	{ "open: a replaced file lives while it is open", a_replaced_file_lives_while_it_is_open },
	{ "open: nothing can be made in a removed directory", a_removed_directory_can_be_stood_in },
	{ "open: a fifo passes bytes", a_fifo_passes_bytes },
	{ "open: a socket can be connected to", a_socket_can_be_connected_to },
	{ "open: mknod makes every type", mknod_makes_every_type, .root = true },
	{ NULL },
};

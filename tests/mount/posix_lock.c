/* Locks: flock, fcntl of processes and of open files, leases on nothing. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/mount/posix.h"

static struct flock range(short type, off_t from, off_t len)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = len };
}

static int set_lock(int fd, int cmd, short type, off_t from, off_t len)
{
	struct flock l = range(type, from, len);

	return fcntl(fd, cmd, &l);
}

static void flock_excludes(void)
{
	int a, b;

	make_file("f", 0644);
	a = (int)WORKS(open("f", O_RDWR));
	b = (int)WORKS(open("f", O_RDONLY));
	WORKS(flock(a, LOCK_EX));
	FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	FAILS(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	WORKS(flock(a, LOCK_SH));
	WORKS(flock(b, LOCK_SH | LOCK_NB));
	FAILS(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	WORKS(flock(b, LOCK_UN));
	WORKS(flock(a, LOCK_EX | LOCK_NB));
	close(a);
	WORKS(flock(b, LOCK_EX | LOCK_NB));
	WORKS(mkdir("d", 0755));
	a = (int)WORKS(open("d", O_RDONLY));
	WORKS(flock(a, LOCK_EX));
}

static void posix_locks_exclude_other_processes(void)
{
	struct flock l;
	int fd;

	make_data("f", 1000, 1);
	fd = (int)WORKS(open("f", O_RDWR));
	WORKS(set_lock(fd, F_SETLK, F_WRLCK, 100, 100));
	WORKS(set_lock(fd, F_SETLK, F_RDLCK, 500, 0));
	/* A process never excludes itself. */
	WORKS(set_lock((int)WORKS(open("f", O_RDWR)), F_SETLK, F_WRLCK, 150, 10));
	AS(getuid(), getgid())
	{
		int other = (int)WORKS(open("f", O_RDWR));

		FAILS(set_lock(other, F_SETLK, F_WRLCK, 150, 1), EAGAIN);
		FAILS(set_lock(other, F_SETLK, F_RDLCK, 0, 0), EAGAIN);
		WORKS(set_lock(other, F_SETLK, F_WRLCK, 0, 100));
		WORKS(set_lock(other, F_SETLK, F_RDLCK, 600, 10));
		FAILS(set_lock(other, F_SETLK, F_WRLCK, 600, 10), EAGAIN);
		l = range(F_WRLCK, 120, 10);
		WORKS(fcntl(other, F_GETLK, &l));
		SAME(l.l_type, F_WRLCK);
		SAME(l.l_pid, getppid());
		CHECK(l.l_start <= 120 && l.l_start + l.l_len >= 130);
	}
	/* Closing any descriptor of the file lets all of them go. */
	close((int)WORKS(open("f", O_RDONLY)));
	AS(getuid(), getgid())
	{
		WORKS(set_lock((int)WORKS(open("f", O_RDWR)), F_SETLK, F_WRLCK, 0, 0));
	}
	fd = (int)WORKS(open("f", O_RDONLY));
	FAILS(set_lock(fd, F_SETLK, F_WRLCK, 0, 0), EBADF);
}

static void open_file_locks_belong_to_the_open_file(void)
{
	int a, b;

	make_data("f", 1000, 1);
	a = (int)WORKS(open("f", O_RDWR));
	b = (int)WORKS(open("f", O_RDWR));
	WORKS(set_lock(a, F_OFD_SETLK, F_WRLCK, 0, 10));
	FAILS(set_lock(b, F_OFD_SETLK, F_WRLCK, 5, 10), EAGAIN);
	WORKS(set_lock(b, F_OFD_SETLK, F_WRLCK, 10, 10));
	close((int)WORKS(open("f", O_RDONLY)));
	FAILS(set_lock(b, F_OFD_SETLK, F_RDLCK, 0, 1), EAGAIN);
	close(a);
	WORKS(set_lock(b, F_OFD_SETLK, F_RDLCK, 0, 1));
}

static void waiting_for_a_lock_ends(void)
{
	int fd, status = 0, ready[2];
	pid_t pid;
	char c;

	make_data("f", 1000, 1);
	fd = (int)WORKS(open("f", O_RDWR));
	WORKS(set_lock(fd, F_SETLK, F_WRLCK, 0, 0));
	WORKS(pipe(ready));
	pid = fork();
	if (!pid) {
		int other = open("f", O_RDWR);

		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		_exit(set_lock(other, F_SETLKW, F_WRLCK, 0, 0) ? 1 : 0);
	}
	SAME(read(ready[0], &c, 1), 1);
	nap();
	SAME(waitpid(pid, &status, WNOHANG), 0);
	WORKS(set_lock(fd, F_SETLK, F_UNLCK, 0, 0));
	SAME(waitpid(pid, &status, 0), pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_dead_process_holds_no_lock(void)
{
	int fd;

	make_data("f", 1000, 1);
	AS(getuid(), getgid())
	{
		WORKS(set_lock((int)WORKS(open("f", O_RDWR)), F_SETLK, F_WRLCK, 0, 0));
		WORKS(flock((int)WORKS(open("f", O_RDWR)), LOCK_EX));
	}
	fd = (int)WORKS(open("f", O_RDWR));
	WORKS(set_lock(fd, F_SETLK, F_WRLCK, 0, 0));
	WORKS(flock(fd, LOCK_EX | LOCK_NB));
	WORKS(lockf(fd, F_TLOCK, 10));
}

const struct posix_case posix_lock_cases[] = {
	{ "locks: flock excludes", flock_excludes },
	{ "locks: fcntl locks exclude other processes", posix_locks_exclude_other_processes, .root = true },
	{ "locks: open file locks belong to the open file", open_file_locks_belong_to_the_open_file },
	{ "locks: waiting for a lock ends", waiting_for_a_lock_ends },
	{ "locks: a dead process holds no lock", a_dead_process_holds_no_lock, .root = true },
	{ NULL },
};

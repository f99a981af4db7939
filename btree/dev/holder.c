/*
 * The kernel does not say who holds an open-file-description lock: F_OFD_GETLK gives a process for the classic
 * locks only. But /proc/<pid>/fdinfo/<n> lists the locks that were taken through descriptor n. So we look for a
 * descriptor of the same file with such a line. A block device opened with O_EXCL shows no such line; there every
 * process that has it open for writing is as good a guess as can be had.
 */
#include "btree/dev/holder.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "btree/mem.h"
#include "btree/types.h"

static char *describe(const char *pid)
{
	char path[64];
	char comm[64] = "";
	char text[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
	f = fopen(path, "re");
	if (f) {
		if (!fgets(comm, sizeof(comm), f))
			comm[0] = 0;
		fclose(f);
	}
	comm[strcspn(comm, "\n")] = 0;
	snprintf(text, sizeof(text), comm[0] ? "pid %.16s (%s)" : "pid %.16s", pid, comm);
	return mem_strdup(text);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	if (S_ISBLK(a->st_mode))
		return S_ISBLK(b->st_mode) && a->st_rdev == b->st_rdev;
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether the descriptor described at `path` holds a lock, or (for a block device) is open for writing. */
static bool holds(const char *path, bool block_device)
{
	FILE *f = fopen(path, "re");
	char line[256];
	bool yes = false;

	if (!f)
		return false;
	while (!yes && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "lock:", 5) == 0)
			yes = true;
		else if (block_device && strncmp(line, "flags:", 6) == 0)
			yes = (strtoul(line + 6, NULL, 8) & O_ACCMODE) != O_RDONLY;
	}
	fclose(f);
	return yes;
}

static bool process_holds(const char *pid, int own_fd, const struct stat *st)
{
	bool own = strtol(pid, NULL, 10) == (long)getpid();
	char path[300];
	struct dirent *e;
	bool yes = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	d = opendir(path);
	if (!d)
		return false;
	while (!yes && (e = readdir(d))) {
		struct stat other;

		if (!isdigit((unsigned char)e->d_name[0]) || (own && atoi(e->d_name) == own_fd))
			continue;
		if (fstatat(dirfd(d), e->d_name, &other, 0) || !same_file(st, &other))
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, e->d_name);
		yes = holds(path, S_ISBLK(st->st_mode));
	}
	closedir(d);
	return yes;
}

static char *find_process(int fd, const struct stat *st)
{
	DIR *proc = opendir("/proc");
	char *text = NULL;
	struct dirent *e;

	if (!proc)
		return NULL;
	while (!text && (e = readdir(proc)))
		if (isdigit((unsigned char)e->d_name[0]) && process_holds(e->d_name, fd, st))
			text = describe(e->d_name);
	closedir(proc);
	return text;
}

/* Where a block device is mounted. */
static char *find_mount(dev_t dev)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[4096];
	char *text = NULL;

	if (!f)
		return NULL;
	while (!text && fgets(line, sizeof(line), f)) {
		unsigned maj, min;
		char where[2048];
		char out[2100];

		if (sscanf(line, "%*d %*d %u:%u %*s %2047s", &maj, &min, where) != 3 || makedev(maj, min) != dev)
			continue;
		snprintf(out, sizeof(out), "mounted on %s", where);
		text = mem_strdup(out);
	}
	fclose(f);
	return text;
}

char *holder_find(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct stat st;
	char *text = NULL;

	if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0) {
		char pid[24];

		snprintf(pid, sizeof(pid), "%ld", (long)lock.l_pid);
		return describe(pid);
	}
	if (fstat(fd, &st))
		return NULL;
	if (S_ISBLK(st.st_mode))
		text = find_mount(st.st_rdev);
	return text ? text : find_process(fd, &st);
}

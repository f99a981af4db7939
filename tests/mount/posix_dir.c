/* Listing directories: complete, once each, while others change them; positions; handles of files. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/mount/posix.h"

static void make_many(const char *dir, unsigned n)
{
	char name[64];

	WORKS(mkdir(dir, 0755));
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s/name-%u", dir, i);
		make_file(name, 0644);
	}
}

/* Marks what is listed; how often each. "." and ".." are counted at n and n + 1. */
static void list_all(DIR *d, unsigned n, uint8_t *seen)
{
	struct dirent *ent;
	unsigned i;

	errno = 0;
	while ((ent = readdir(d))) {
		if (!strcmp(ent->d_name, "."))
			seen[n]++;
		else if (!strcmp(ent->d_name, ".."))
			seen[n + 1]++;
		else if (sscanf(ent->d_name, "name-%u", &i) == 1 && i < n)
			seen[i]++;
		else
			CHECKF(!strncmp(ent->d_name, "new", 3), "%s is listed", ent->d_name);
	}
	CHECKF(!errno, "readdir: %s", strerrorname_np(errno));
}

static void ten_thousand_names(void)
{
	enum { N = 10000 };
	uint8_t *seen = calloc(1, N + 2);
	unsigned wrong = 0;
	DIR *d;

	if (!seen)
		abort();
	make_many("d", N);
	for (unsigned round = 0; round < 2; round++) {
		d = opendir("d");
		memset(seen, 0, N + 2);
		list_all(d, N, seen);
		for (unsigned i = 0; i < N + 2; i++)
			wrong += seen[i] != 1;
		SAME(wrong, 0);
		closedir(d);
	}
	for (unsigned i = 0; i < N; i += 7) {
		char name[64];

		snprintf(name, sizeof(name), "d/name-%u", i);
		CHECK(exists(name));
		WORKS(unlink(name));
	}
	SAME(count_names("d"), N - (N + 6) / 7);
	free(seen);
}

static void types_and_numbers_are_right(void)
{
	struct dirent *ent;
	unsigned n = 0;
	DIR *d;

	WORKS(mkdir("d", 0755));
	make_file("d/f", 0644);
	WORKS(mkdir("d/s", 0755));
	WORKS(symlink("x", "d/l"));
	WORKS(mkfifo("d/p", 0644));
	d = opendir("d");
	for (; (ent = readdir(d)); n++) {
		char path[300];
		struct stat st;

		snprintf(path, sizeof(path), "d/%s", ent->d_name);
		st = stat_of(path);
		CHECKF(ent->d_ino == st.st_ino, "%s: %llu and %llu", path, (unsigned long long)ent->d_ino,
		       (unsigned long long)st.st_ino);
		CHECKF(ent->d_type == DT_UNKNOWN || ent->d_type == IFTODT(st.st_mode), "%s: type %u", path,
		       ent->d_type);
	}
	SAME(n, 6);
	closedir(d);
}

/* What is there all the time is listed once, whatever happens to others. */
static void removing_while_listing(void)
{
	enum { N = 3000 };
	uint8_t seen[N + 2] = { 0 };
	struct dirent *ent;
	char name[64];
	unsigned i, k = 0;
	DIR *d;

	make_many("d", N);
	d = opendir("d");
	while ((ent = readdir(d)))
		if (sscanf(ent->d_name, "name-%u", &i) == 1) {
			seen[i]++;
			snprintf(name, sizeof(name), "d/name-%u", i);
			WORKS(unlink(name)); /* what was just read */
			if (k++ < 500) {
				snprintf(name, sizeof(name), "d/new-%u", k);
				make_file(name, 0644);
			}
		}
	closedir(d);
	for (i = 0, k = 0; i < N; i++)
		k += seen[i] != 1;
	SAME(k, 0);
	SAME(count_names("d"), 500);
}

static void removing_others_while_listing(void)
{
	enum { N = 2000 };
	uint8_t seen[N + 2] = { 0 };
	struct dirent *ent;
	unsigned n = 0, missed = 0, i;
	char name[64];
	DIR *d;

	make_many("d", N);
	d = opendir("d");
	while ((ent = readdir(d))) {
		if (sscanf(ent->d_name, "name-%u", &i) == 1)
			seen[i]++;
		/* Odd ones go, even ones stay. */
		if (n < N / 2) {
			snprintf(name, sizeof(name), "d/name-%u", 2 * n + 1);
			WORKS(unlink(name));
		}
		n++;
	}
	closedir(d);
	for (i = 0; i < N; i++)
		missed += i % 2 ? seen[i] > 1 : seen[i] != 1;
	SAME(missed, 0);
	SAME(count_names("d"), N / 2);
}

static void positions_can_be_returned_to(void)
{
	enum { N = 500 };
	struct {
		char name[32];
		long pos;
	} all[N + 2];
	struct dirent *ent;
	unsigned n = 0;
	char name[64];
	DIR *d;

	make_many("d", N);
	d = opendir("d");
	for (long pos = telldir(d); n < N + 2 && (ent = readdir(d)); pos = telldir(d)) {
		snprintf(all[n].name, sizeof(all[n].name), "%.30s", ent->d_name);
		all[n++].pos = pos;
	}
	SAME(n, N + 2);
	for (unsigned i = 0; i < n; i += 13) {
		seekdir(d, all[i].pos);
		ent = readdir(d);
		CHECKF(ent && !strcmp(ent->d_name, all[i].name), "position %u", i);
	}
	/* Also after names in front of it and behind it have gone. */
	for (unsigned i = 0; i < n; i++)
		if (i % 5 && all[i].name[0] != '.') {
			snprintf(name, sizeof(name), "d/%.31s", all[i].name);
			WORKS(unlink(name));
		}
	for (unsigned i = 0; i < n; i += 5) {
		seekdir(d, all[i].pos);
		ent = readdir(d);
		CHECKF(ent && !strcmp(ent->d_name, all[i].name), "position %u after removing", i);
	}
	rewinddir(d);
	for (n = 0; (ent = readdir(d)); n++)
		;
	CHECKF(n >= N / 5 && n <= N / 5 + 3, "%u names", n);
	closedir(d);
}

static void rewinding_shows_what_is_new(void)
{
	struct dirent *ent;
	unsigned n = 0;
	DIR *d;

	WORKS(mkdir("d", 0755));
	d = opendir("d");
	while (readdir(d))
		;
	make_file("d/later", 0644);
	rewinddir(d);
	while ((ent = readdir(d)))
		n += !strcmp(ent->d_name, "later");
	SAME(n, 1);
	WORKS(unlink("d/later"));
	rewinddir(d);
	for (n = 0; (ent = readdir(d)); n++)
		CHECK(ent->d_name[0] == '.');
	SAME(n, 2);
	closedir(d);
}

static void small_buffers_do(void)
{
	char buf[400] __attribute__((aligned(8)));
	char name[256];
	unsigned n = 0;
	long len;
	int fd;

	WORKS(mkdir("d", 0755));
	for (unsigned i = 0; i < 50; i++) {
		long_name(name, 200);
		WORKS(chdir("d"));
		snprintf(name, 10, "%02u", i);
		name[2] = 'n';
		make_file(name, 0644);
		WORKS(chdir(".."));
	}
	fd = (int)WORKS(open("d", O_RDONLY | O_DIRECTORY));
	while ((len = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < len; at += ((struct dirent64 *)(buf + at))->d_reclen)
			n++;
	SAME(len, 0);
	SAME(n, 52);
	WORKS(lseek(fd, 0, SEEK_SET));
	FAILS(syscall(SYS_getdents64, fd, buf, 10), EINVAL);
	close(fd);
	make_file("f", 0644);
	fd = (int)WORKS(open("f", O_RDONLY));
	FAILS(syscall(SYS_getdents64, fd, buf, sizeof(buf)), ENOTDIR);
}

static void handles_find_files_again(void)
{
	struct file_handle *h = calloc(1, sizeof(*h) + MAX_HANDLE_SZ);
	int mount_id, mnt = (int)WORKS(open(".", O_RDONLY)), fd;
	char buf[10];

	if (!h)
		abort();
	make_data("f", 10, 1);
	h->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, "f", h, &mount_id, 0) && errno == EOPNOTSUPP)
		posix_skip("no file handles");
	WORKS(rename("f", "g"));
	fd = (int)WORKS(open_by_handle_at(mnt, h, O_RDONLY));
	if (fd >= 0) {
		SAME(read(fd, buf, 10), 10);
		close(fd);
	}
	WORKS(unlink("g"));
	fd = open_by_handle_at(mnt, h, O_RDONLY);
	CHECKF(fd < 0 && errno == ESTALE, "a removed file was found");
	WORKS(mkdir("d", 0755));
	h->handle_bytes = MAX_HANDLE_SZ;
	WORKS(name_to_handle_at(AT_FDCWD, "d", h, &mount_id, 0));
	fd = (int)WORKS(open_by_handle_at(mnt, h, O_RDONLY | O_DIRECTORY));
	WORKS(openat(fd, "new", O_CREAT | O_RDWR, 0644));
	CHECK(exists("d/new"));
	free(h);
}

const struct posix_case posix_dir_cases[] = {
	{ "dir: ten thousand names are listed once each", ten_thousand_names },
	{ "dir: types and inode numbers are right", types_and_numbers_are_right },
	{ "dir: removing what was listed loses nothing", removing_while_listing },
	{ "dir: removing others loses nothing", removing_others_while_listing },
	{ "dir: positions can be returned to", positions_can_be_returned_to },
	{ "dir: rewinding shows what is new", rewinding_shows_what_is_new },
	{ "dir: small buffers do", small_buffers_do },
	{ "dir: handles find files again", handles_find_files_again, .root = true },
	{ NULL },
};

/*
 * mount_replay BASE TRACE [SEED]: the filesystems that power cuts of a recorded run could have left behind
 *
 * BASE is the image as it was when the recording began (mkfs's), TRACE what mount.arbor-test recorded. Everything happens in
 * memory and in this process, so a state costs milliseconds. Reads commands, a line each, and answers each with a line that
 * begins with "ok" or "bad"; tests/mount/powercut.py is who asks, and a line typed by hand reproduces what it found:
 *
 *	ops			ok OPERATIONS FAILED
 *	flushes			ok N...		which operations are flushes
 *	stamp N			ok NS		what was acknowledged before must be there after a crash before operation N
 *	state N HOW SEED	ok WRITES	a crash before N: mounts what is left, which recovers, and checks all of it.
 *						HOW: drop, keep (the open writes), last (only the newest is kept), seed (by
 *						chance, torn too). WRITES: operations this took
 *	again N HOW SEED	ok WRITES	a crash before the N-th of these, and so on
 *	extract PATH DIR	ok FILES	what is below PATH, copied into the directory DIR
 *	save FILE		ok		the image, as it was before it was mounted here
 *
 * A state that does not mount or that the check finds something in is "bad", with what was said.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/check.h"
#include "tests/kit/simtrace.h"

#define IO_BYTES (256u << 10)

static struct {
	struct simtrace t;
	struct simdev *disk;	     /* NULL: no state */
	struct simdev_image *before; /* the state, not mounted yet */
	struct fs *fs;
	char said[512]; /* the first complaint */
	void *buf;
} the;

static void *must(void *p)
{
	if (!p) {
		fputs("mount_replay: no memory\n", stderr);
		abort();
	}
	return p;
}

static void sink(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	if (level == LOG_ERROR && !the.said[0])
		snprintf(the.said, sizeof(the.said), "%s", line);
}

static void problem(void *arg, const struct fs_problem_report *r)
{
	char line[512];

	snprintf(line, sizeof(line), "problem %d, %s, inode %" PRIu64 ", %s: %s", (int)r->problem, r->view, r->ino,
		 r->path ? r->path : "-", r->text);
	sink(arg, LOG_ERROR, line);
}

/* ---- states ---- */

static void leave_state(void)
{
	if (the.fs)
		fs_crash(the.fs);
	simdev_free(the.disk);
	simdev_image_free(the.before);
	the.fs = NULL;
	the.disk = NULL;
	the.before = NULL;
}

/* Takes over the disk. */
static int enter_state(struct simdev *disk, uint64_t seed, const char **ret_what)
{
	static const struct fs_check_options check = { .data = true, .threads = 1, .report = problem };
	const struct fs_options o = { .store = { .seed = seed | 1 }, .no_threads = true };
	struct fs_check_result r;
	int err;

	leave_state();
	the.disk = disk;
	the.before = simdev_freeze(disk);
	the.said[0] = '\0';
	*ret_what = "mount";
	err = fs_mount(simdev_bdev(disk), &o, &the.fs);
	if (!err) {
		*ret_what = "deletion of what has no name";
		err = fs_reap(the.fs);
	}
	if (!err) {
		*ret_what = "check";
		err = fs_check(the.fs, &check, &r);
	}
	return err;
}

static struct simdev *branch(struct simdev *run, uint64_t n, const char *how, uint64_t seed)
{
	unsigned open = simdev_unflushed(run, n);
	enum simdev_choice *choice;
	struct simdev *disk;

	if (strcmp(how, "seed") == 0)
		return simdev_branch(run, n, NULL, seed);
	choice = must(calloc(open + 1, sizeof(*choice)));
	for (unsigned i = 0; i < open; i++) {
		bool keep = strcmp(how, "keep") == 0 || (strcmp(how, "last") == 0 && i == open - 1);

		choice[i] = keep ? SIMDEV_KEEP : SIMDEV_DROP;
	}
	disk = simdev_branch(run, n, choice, seed);
	free(choice);
	return disk;
}

static void do_state(struct simdev *run, uint64_t n, const char *how, uint64_t seed)
{
	const char *what;
	int err;

	if (n > simdev_ops(run)) {
		printf("bad no operation %" PRIu64 "\n", n);
		return;
	}
	err = enter_state(branch(run, n, how, seed), seed, &what);
	if (err)
		printf("bad %s: %s: %s\n", what, strerror(-err), the.said[0] ? the.said : "-");
	else
		printf("ok %" PRIu64 "\n", simdev_ops(the.disk));
}

static void do_flushes(void)
{
	struct simdev_record r;

	printf("ok");
	for (uint64_t n = 0; simdev_record_at(the.t.disk, n, &r); n++)
		if (r.op == SIMDEV_FLUSH)
			printf(" %" PRIu64, n);
	puts("");
}

/* ---- copying out ---- */

struct names {
	char **name;
	size_t n, cap;
};

static int add_name(void *arg, const struct fs_dirent *d)
{
	struct names *names = arg;

	if (strcmp(d->name, ".") == 0 || strcmp(d->name, "..") == 0)
		return 0;
	if (names->n == names->cap) {
		names->cap = names->cap ? 2 * names->cap : 64;
		names->name = must(realloc(names->name, names->cap * sizeof(*names->name)));
	}
	names->name[names->n++] = must(strdup(d->name));
	return 0;
}

static int copy_file(uint64_t node, uint64_t size, const char *to)
{
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int err = fd < 0 ? -errno : 0;

	for (uint64_t done = 0; !err && done < size;) {
		const void *data;
		size_t len;

		err = fs_read(the.fs, node, done, IO_BYTES, the.buf, &data, &len);
		if (!err && (len == 0 || write(fd, data, len) != (ssize_t)len))
			err = -EIO;
		done += len;
	}
	if (fd >= 0)
		close(fd);
	return err;
}

static int copy_link(uint64_t node, const char *to)
{
	char target[4096];
	size_t len;
	int err = fs_readlink(the.fs, node, target, sizeof(target), &len);

	return err ? err : symlink(target, to) ? -errno : 0;
}

/* Deep enough for what tests make. */
static int copy_dir(uint64_t node, const char *to, uint64_t *files)
{
	struct names names = { 0 };
	int err = fs_readdir(the.fs, node, 0, false, add_name, &names);

	if (!err && mkdir(to, 0755) && errno != EEXIST)
		err = -errno;
	for (size_t i = 0; i < names.n; i++) {
		char *name = names.name[i];
		char path[4096];
		struct fs_entry e;

		snprintf(path, sizeof(path), "%s/%s", to, name);
		if (!err)
			err = fs_lookup(the.fs, node, name, &e);
		if (!err) {
			err = S_ISDIR(e.st.st_mode)   ? copy_dir(e.node, path, files)
			      : S_ISLNK(e.st.st_mode) ? copy_link(e.node, path)
			      : S_ISREG(e.st.st_mode) ? copy_file(e.node, (uint64_t)e.st.st_size, path)
						      : 0;
			fs_forget(the.fs, e.node, 1);
			++*files;
		}
		free(name);
	}
	free(names.name);
	return err;
}

/* One name below the root is enough for who asks. */
static void do_extract(const char *name, const char *to)
{
	struct fs_entry e;
	uint64_t files = 0;
	int err;

	if (!the.fs) {
		puts("bad no state");
		return;
	}
	the.said[0] = '\0';
	err = fs_lookup(the.fs, FS_ROOT, name, &e);
	if (err == -ENOENT) {
		puts("ok 0");
		return;
	}
	if (!err) {
		err = copy_dir(e.node, to, &files);
		fs_forget(the.fs, e.node, 1);
	}
	if (err)
		printf("bad %s: %s: %s\n", name, strerror(-err), the.said);
	else
		printf("ok %" PRIu64 "\n", files);
}

static void do_save(const char *path)
{
	struct simdev *disk;
	int err;

	if (!the.before) {
		puts("bad no state");
		return;
	}
	disk = simdev_new(&(struct simdev_options){ .base = the.before });
	err = simdev_save(disk, path);
	simdev_free(disk);
	if (err)
		printf("bad %s: %s\n", path, strerror(-err));
	else
		puts("ok");
}

/* ---- commands ---- */

static void obey(char *line)
{
	char word[16], a[1024], b[1024];
	uint64_t n, seed;

	if (sscanf(line, "state %" SCNu64 " %15s %" SCNu64, &n, word, &seed) == 3)
		do_state(the.t.disk, n, word, seed);
	else if (the.disk && sscanf(line, "again %" SCNu64 " %15s %" SCNu64, &n, word, &seed) == 3)
		do_state(the.disk, n, word, seed);
	else if (sscanf(line, "stamp %" SCNu64, &n) == 1)
		printf("ok %" PRIu64 "\n", simtrace_stamp(&the.t, n));
	else if (strncmp(line, "flushes", 7) == 0)
		do_flushes();
	else if (sscanf(line, "extract %1023s %1023s", a, b) == 2)
		do_extract(a, b);
	else if (sscanf(line, "save %1023s", a) == 1)
		do_save(a);
	else if (strncmp(line, "ops", 3) == 0)
		printf("ok %" PRIu64 " %" PRIu64 "\n", simdev_ops(the.t.disk), the.t.failed);
	else
		puts("bad command");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct simdev_image *base;
	char line[4096];
	int err;

	if (argc < 3) {
		fputs("usage: mount_replay BASE TRACE [SEED]\n", stderr);
		return 2;
	}
	err_set_sink(sink, NULL);
	err = simdev_load(argv[1], &base);
	if (!err) {
		err = simtrace_load(argv[2], base, argc > 3 ? strtoull(argv[3], NULL, 10) : 1, &the.t);
		simdev_image_free(base);
	}
	if (err) {
		fprintf(stderr, "mount_replay: %s\n", strerror(-err));
		return 1;
	}
	the.buf = must(mem_alloc_blocks(FS_READ_BUFFER(IO_BYTES)));
	while (fgets(line, sizeof(line), stdin))
		obey(line);
	leave_state();
	simtrace_release(&the.t);
	mem_free(the.buf);
	return 0;
}

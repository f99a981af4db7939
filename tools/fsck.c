/*
 * fsck.arbor - checks a filesystem that is not mounted
 *
 * A filesystem that was not unmounted is not damaged: the log brings it back. So there are two steps, and only the first
 * writes. Recovery, where the log is not empty or one superblock has to be written anew: the filesystem is mounted (without
 * a mount point) and unmounted, exactly as the daemon does it. Then the check, of a filesystem opened read-only. With -n
 * the first step is left out, and the second replays the log in memory.
 *
 * Being cut short is harmless: a crash inside recovery changes nothing (contract I), and the check writes nothing. So the
 * handler for signals just ends the program.
 *
 * Problems are told, one line each, on standard output; there is no repair yet.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/check.h"
#include "tools/fsck_progress.h"
#include "tools/tool.h"

/* As fsck(8) wants them. */
enum exit_code {
	EXIT_CLEAN = 0,
	EXIT_CORRECTED = 1,
	EXIT_PROBLEMS = 4,
	EXIT_OPERATION = 8,
	EXIT_USAGE = 16,
	EXIT_CANCELLED = 32,
};

#define CACHE_BYTES ((size_t)256 << 20)

struct args {
	const char *path;
	bool no, preen, yes, force, verbose, quiet, data, drop_log;
	bool progress;
	int progress_fd;
	unsigned threads;
};

static const char help[] = "Usage: fsck.arbor [OPTION]... DEVICE\n"
			   "Checks an ArborFS filesystem, on a block device or in an image file, that is not mounted.\n"
			   "\n"
			   "  -n                      write nothing: the log is replayed in memory only\n"
			   "  -p, -a                  as at boot: recover from the log where that is needed, and\n"
			   "                          check only then\n"
			   "  -y                      answer yes to all questions; there are none yet\n"
			   "  -f, --force             with -p: check even if it was cleanly unmounted\n"
			   "      --data              read and verify the content of every file, too\n"
			   "      --threads=N         so many threads for that; the default is one a processor,\n"
			   "                          at most 8\n"
			   "      --drop-damaged-log  if the log cannot be read to its end: give up what stands\n"
			   "                          behind the damage, although it was acknowledged\n"
			   "  -C [FD]                 a progress bar, or with FD > 0 lines for a program\n"
			   "  -v, --verbose           say more\n"
			   "  -q, --quiet             only problems\n"
			   "  -h, --help\n"
			   "  -V, --version\n"
			   "\n"
			   "Without -n the log is recovered first, and a damaged superblock is written anew from\n"
			   "the other one. Everything else is reported, not repaired yet: -p and -y check and\n"
			   "recover the log, and problems stay.\n"
			   "\n"
			   "Exit status: 0 clean, 1 a superblock was written anew or the log was cut, 4 problems are\n"
			   "left, 8 could not be checked, 16 wrong usage, 32 cancelled.\n";

enum { OPT_DATA = 256, OPT_THREADS, OPT_DROP_LOG };

static const struct option options[] = {
	{ "data", no_argument, NULL, OPT_DATA },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "drop-damaged-log", no_argument, NULL, OPT_DROP_LOG },
	{ "force", no_argument, NULL, 'f' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* ---- the command line ---- */

static bool is_number(const char *s)
{
	if (*s == '-')
		s++;
	if (!*s)
		return false;
	while (isdigit((unsigned char)*s))
		s++;
	return !*s;
}

/* -C0, -C 0 and, for a bar, -C alone. Less than 0: none, until a signal says so, which we have not. */
static int take_progress(struct args *a, int argc, char **argv)
{
	const char *text = optarg;

	if (!text && optind < argc - 1 && is_number(argv[optind]))
		text = argv[optind++];
	if (text && (!is_number(text) || strlen(text) > 9)) {
		tool_usage("-C %s: not a file descriptor", text);
		return -EINVAL;
	}
	a->progress_fd = text ? atoi(text) : 0;
	a->progress = a->progress_fd >= 0;
	if (a->progress_fd > 0 && fcntl(a->progress_fd, F_GETFD) < 0) {
		tool_usage("-C %d: no such file descriptor is open", a->progress_fd);
		return -EINVAL;
	}
	return 0;
}

static int take_option(struct args *a, int opt, int argc, char **argv)
{
	uint64_t n;

	switch (opt) {
	case 'n':
		a->no = true;
		return 0;
	case 'p':
	case 'a':
		a->preen = true;
		return 0;
	case 'y':
		a->yes = true;
		return 0;
	case 'f':
		a->force = true;
		return 0;
	case 'v':
		a->verbose = true;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	case 'C':
		return take_progress(a, argc, argv);
	case OPT_DATA:
		a->data = true;
		return 0;
	case OPT_DROP_LOG:
		a->drop_log = true;
		return 0;
	case OPT_THREADS:
		if (tool_number_parse(optarg, 1, 64, &n)) {
			tool_usage("--threads=%s: must be a number from 1 to 64", optarg);
			return -EINVAL;
		}
		a->threads = (unsigned)n;
		return 0;
	case 'h':
		fputs(help, stdout);
		exit(EXIT_CLEAN);
	case 'V':
		puts("fsck.arbor (ArborFS) " ARBOR_VERSION);
		exit(EXIT_CLEAN);
	default: /* getopt has said what is wrong */
		fprintf(stderr, "Try `%s --help`.\n", tool_name());
		return -EINVAL;
	}
}

static int parse_args(int argc, char **argv, struct args *a)
{
	int opt;

	while ((opt = getopt_long(argc, argv, "npayfvqC::hV", options, NULL)) != -1) {
		int err = take_option(a, opt, argc, argv);

		if (err)
			return err;
	}
	if (a->no + a->preen + a->yes > 1) {
		tool_usage("only one of -n, -p (or -a) and -y can be given");
		return -EINVAL;
	}
	if (a->no && a->drop_log) {
		tool_usage("-n and --drop-damaged-log exclude each other");
		return -EINVAL;
	}
	if (argc - optind != 1) {
		tool_usage(argc == optind ? "which device?" : "more than one device: `%s`", argv[argc - 1]);
		return -EINVAL;
	}
	a->path = argv[optind];
	return 0;
}

/* ---- what is found ---- */

/* The path first, because that is what one looks for and a script cuts out. Names may hold any byte but NUL and '/'. */
static void put_path(const char *path)
{
	for (const unsigned char *p = (const unsigned char *)path; *p; p++)
		if (*p < 0x20 || *p == 0x7f || *p == '\\')
			printf("\\%03o", *p);
		else
			putchar(*p);
}

static const char *problem_name(enum fs_problem problem)
{
	switch (problem) {
#define X(name, number, text)                                                                                          \
	case FS_PROBLEM_##name:                                                                                        \
		return text;
		FS_PROBLEMS(X)
#undef X
	}
	return "unknown problem";
}

static void report(void *arg, const struct fs_problem_report *r)
{
	const struct args *a = arg;

	progress_hide();
	if (r->path)
		put_path(r->path);
	else if (r->ino)
		printf("inode %" PRIu64, r->ino);
	else
		printf("%s", a->path);
	printf(": ");
	if (r->view && strcmp(r->view, "live")) {
		printf("in snapshot ");
		put_path(r->view);
		printf(": ");
	}
	printf("%s", r->text && r->text[0] ? r->text : problem_name(r->problem));
	if (r->path && r->ino)
		printf(" (inode %" PRIu64 ", problem %u)\n", r->ino, (unsigned)r->problem);
	else
		printf(" (problem %u)\n", (unsigned)r->problem);
	fflush(stdout);
}

static void print_details(const struct args *a, const struct fs_check_result *r)
{
	printf("%s: %" PRIu64 " nodes with %" PRIu64 " items, %" PRIu64 " extended attributes, %" PRIu64
	       " extents with %" PRIu64 " blocks, %" PRIu64 " views\n",
	       a->path, r->structure.nodes, r->structure.items, r->xattrs, r->extents, r->structure.data_blocks,
	       r->views);
	if (a->data)
		printf("%s: %" PRIu64 " blocks of data read and verified\n", a->path, r->data_blocks);
}

static void print_summary(const struct args *a, struct fs *fs, const struct fs_check_result *r, uint64_t problems)
{
	struct statvfs st;

	if (a->quiet && !problems)
		return;
	if (a->verbose)
		print_details(a, r);
	if (problems)
		printf("%s: %" PRIu64 " problem%s; not repaired (fsck.arbor does not repair yet)\n", a->path, problems,
		       problems == 1 ? "" : "s");
	else if (fs_statfs(fs, &st) == 0)
		printf("%s: clean, %" PRIu64 " inodes (%" PRIu64 " directories), %" PRIu64 "/%" PRIu64
		       " blocks used\n",
		       a->path, r->inodes, r->directories, (uint64_t)(st.f_blocks - st.f_bfree), (uint64_t)st.f_blocks);
}

/* ---- the two steps ---- */

static int exit_code_of(int err)
{
	return tool_is_damage(err) ? EXIT_PROBLEMS : EXIT_OPERATION;
}

static int mount_it(struct bdev *dev, bool read_only, bool ignore_log_damage, struct fs **ret)
{
	struct fs_options opt = {
		.store = { .read_only = read_only, .ignore_log_damage = ignore_log_damage, .cache_bytes = CACHE_BYTES },
		.atime = FS_NOATIME,
		.no_threads = true, /* nothing may happen by itself while it is checked */
	};

	return fs_mount(dev, &opt, ret);
}

/* Whether it is the log that keeps the filesystem from being mounted. */
static bool is_log_damage(struct bdev *dev)
{
	struct fs *fs;
	bool yes;

	tool_listen_begin();
	yes = mount_it(dev, true, true, &fs) == 0;
	if (yes)
		fs_crash(fs);
	(void)tool_listen_end();
	return yes;
}

/* Opens the device for writing; the filesystem is clean afterwards. An exit code. */
static int recover(struct args *a, bool other_super_ok)
{
	struct bdev_file_options how = { 0 };
	struct store_status st;
	int err, code = EXIT_CLEAN;
	struct bdev *dev;
	struct fs *fs;

	if (tool_open(a->path, &how, &dev))
		return EXIT_OPERATION;
	err = mount_it(dev, false, false, &fs);
	if (err && a->drop_log && tool_is_damage(err) && is_log_damage(dev)) {
		tool_error(a->path, "the log is damaged; what stands behind the damage is given up");
		err = mount_it(dev, false, true, &fs);
		code = EXIT_CORRECTED;
	}
	if (err) {
		bool log = tool_is_damage(err) && is_log_damage(dev);

		tool_error(
			a->path, "cannot be recovered: %s%s", tool_why(err),
			log ? "; only its log is damaged: --drop-damaged-log goes on without what stands behind the damage"
			    : "");
		bdev_close(dev);
		return exit_code_of(err);
	}
	store_status(fs_store(fs), &st);
	err = fs_reap(fs);
	if (!err)
		err = fs_unmount(fs);
	else
		(void)fs_unmount(fs);
	bdev_close(dev);
	if (err) {
		tool_error(a->path, "cannot be recovered: %s", tool_why(err));
		return exit_code_of(err);
	}
	if (!a->quiet)
		printf("%s: recovered from the log, %" PRIu64 " operation%s replayed\n", a->path, st.recovered_records,
		       st.recovered_records == 1 ? "" : "s");
	if (!other_super_ok) {
		printf("%s: a damaged superblock was written anew\n", a->path);
		code = EXIT_CORRECTED;
	}
	return code;
}

/* `found`: problems that have been told already. */
static int check(struct args *a, struct bdev *dev, uint64_t found)
{
	struct fs_check_options opt = {
		.data = a->data,
		.threads = a->threads,
		.report = report,
		.progress = progress_show,
		.arg = a,
	};
	struct fs_check_result r = { 0 };
	struct fs *fs;
	int err;

	err = mount_it(dev, true, false, &fs);
	if (err && tool_is_damage(err) && is_log_damage(dev)) {
		printf("%s: the log is damaged: what stands behind the damage cannot be recovered\n", a->path);
		found++;
		err = mount_it(dev, true, true, &fs);
	}
	if (err) {
		tool_error(a->path, "cannot be opened for the check: %s", tool_why(err));
		return exit_code_of(err);
	}
	err = fs_check(fs, &opt, &r);
	progress_hide();
	if (err && err != -EUCLEAN) {
		tool_error(a->path, "the check could not be finished: %s", tool_why(err));
		fs_crash(fs);
		return exit_code_of(err);
	}
	if (err && !r.problems)
		r.problems = 1;
	print_summary(a, fs, &r, r.problems + found);
	fs_crash(fs);
	return r.problems + found ? EXIT_PROBLEMS : EXIT_CLEAN;
}

static int run(struct args *a)
{
	struct bdev_file_options how = { .read_only = true };
	bool other_ok = true, recover_it;
	int code = EXIT_CLEAN, err;
	uint64_t found = 0;
	struct bdev *dev;
	struct super s;

	if (tool_open(a->path, &how, &dev))
		return EXIT_OPERATION;
	err = tool_load_super(dev, &s, &other_ok);
	if (err) {
		bdev_close(dev);
		return exit_code_of(err);
	}
	recover_it = !(s.flags & SUPER_CLEAN) || !other_ok;
	if (!recover_it && a->preen && !a->force) {
		if (!a->quiet)
			printf("%s: clean, not checked (-f checks)\n", a->path);
		bdev_close(dev);
		return EXIT_CLEAN;
	}
	if (recover_it && !a->no) {
		bdev_close(dev);
		code = recover(a, other_ok);
		if (code > EXIT_CORRECTED)
			return code;
		if (tool_open(a->path, &how, &dev))
			return EXIT_OPERATION;
	} else if (!other_ok) {
		printf("%s: one superblock is damaged; without -n it is written anew from the other one\n", a->path);
		found++;
	}
	err = check(a, dev, found);
	bdev_close(dev);
	return err ? err : code;
}

static void cancelled(int signal)
{
	static const char text[] = "fsck.arbor: cancelled\n";

	(void)signal;
	progress_hide();
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(EXIT_OPERATION);
	_exit(EXIT_CANCELLED);
}

int main(int argc, char **argv)
{
	struct sigaction end = { .sa_handler = cancelled };
	struct args a = { 0 };
	int code;

	tool_init("fsck.arbor");
	if (parse_args(argc, argv, &a))
		return EXIT_USAGE;
	tool_set_verbose(a.verbose);
	tool_set_before_line(progress_hide);
	if (a.progress_fd > 0)
		progress_to_fd(a.path, a.progress_fd);
	else if (!a.quiet && a.progress_fd == 0)
		progress_bar(a.path);
	sigaction(SIGINT, &end, NULL);
	sigaction(SIGTERM, &end, NULL);
	code = run(&a);
	if (fflush(stdout) || ferror(stdout)) {
		tool_error(NULL, "standard output: %s", strerror(errno));
		return code | EXIT_OPERATION;
	}
	return code;
}

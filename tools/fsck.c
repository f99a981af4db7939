/*
 * fsck.arbor - checks a filesystem that is not mounted, and repairs it
 *
 * A filesystem that was not unmounted is not damaged: the log brings it back. Damage is something else, and a repair may
 * have to give something up. So it is looked at first, without writing (fsck_look.c), and only then, if there is anything to do
 * and whoever asked wants it done, written to (fsck_mend.c). This file is the command line, the choice of what stands
 * between the repair and the device, and the exit status.
 *
 * What may stand between: an overlay, which keeps all writes in memory, so that a plan is simply the repair itself carried out
 * where it does no harm; and a device that saves what is overwritten to a file first, so that a repair can be undone.
 *
 * Being cut short is harmless at any moment: looking writes nothing, and each step of a repair leaves a filesystem that is
 * as whole as before. So the handler for signals just ends the program.
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

#include "btree/dev/overlay.h"
#include "tools/fsck_progress.h"
#include "tools/fsck_report.h"
#include "tools/fsck_run.h"
#include "tools/probe.h"
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

struct args {
	const char *path;
	bool no, preen, yes, force, verbose, quiet, data, drop_log, salvage, plan;
	const char *undo_file; /* to be made */
	const char *undo;      /* to be put back */
	const char *lost_file;
	bool progress;
	int progress_fd;
	unsigned threads;
};

static const char help[] = "Usage: fsck.arbor [OPTION]... DEVICE\n"
			   "Checks an ArborFS filesystem, on a block device or in an image file, that is not mounted,\n"
			   "and repairs it.\n"
			   "\n"
			   "  -n                      write nothing: the log is replayed in memory only\n"
			   "  -p, -a                  as at boot: recover from the log, check only where that is\n"
			   "                          needed, and make safe repairs only\n"
			   "  -y                      answer yes to all questions\n"
			   "      --plan              say what would be repaired, and write nothing\n"
			   "  -f, --force             with -p: check even if it was cleanly unmounted\n"
			   "      --data              read and verify the content of every file, too\n"
			   "      --threads=N         so many threads for that; the default is one a processor,\n"
			   "                          at most 8\n"
			   "      --salvage           where the tree cannot be read from its root, search the whole\n"
			   "                          device for what is left of it\n"
			   "      --drop-damaged-log  if the log cannot be read to its end: give up what stands\n"
			   "                          behind the damage, without a question\n"
			   "      --undo-file=FILE    save what is overwritten to FILE first\n"
			   "      --undo=FILE         put back what such a FILE has saved, and nothing else\n"
			   "      --lost-file=FILE    write a list of what was lost to FILE\n"
			   "  -C [FD]                 a progress bar, or with FD > 0 lines for a program\n"
			   "  -v, --verbose           say more\n"
			   "  -q, --quiet             only problems\n"
			   "  -h, --help\n"
			   "  -V, --version\n"
			   "\n"
			   "Without -n, -p, -y and --plan each repair is a question. Recovery from the log is none.\n"
			   "\n"
			   "Exit status: 0 clean, 1 problems were repaired, 4 problems are left, 8 could not be\n"
			   "checked or repaired, 16 wrong usage, 32 cancelled.\n";

enum { OPT_DATA = 256, OPT_THREADS, OPT_DROP_LOG, OPT_SALVAGE, OPT_PLAN, OPT_UNDO_FILE, OPT_UNDO, OPT_LOST_FILE };

static const struct option options[] = {
	{ "data", no_argument, NULL, OPT_DATA },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "drop-damaged-log", no_argument, NULL, OPT_DROP_LOG },
	{ "salvage", no_argument, NULL, OPT_SALVAGE },
	{ "plan", no_argument, NULL, OPT_PLAN },
	{ "undo-file", required_argument, NULL, OPT_UNDO_FILE },
	{ "undo", required_argument, NULL, OPT_UNDO },
	{ "lost-file", required_argument, NULL, OPT_LOST_FILE },
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
	case OPT_SALVAGE:
		a->salvage = true;
		return 0;
	case OPT_PLAN:
		a->plan = true;
		return 0;
	case OPT_UNDO_FILE:
		a->undo_file = optarg;
		return 0;
	case OPT_UNDO:
		a->undo = optarg;
		return 0;
	case OPT_LOST_FILE:
		a->lost_file = optarg;
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

/* Options that say opposite things. */
static const char *contradiction(const struct args *a)
{
	if (a->no + a->preen + a->yes > 1)
		return "only one of -n, -p (or -a) and -y can be given";
	if (a->no && a->drop_log)
		return "-n and --drop-damaged-log exclude each other";
	if (a->no && (a->plan || a->salvage))
		return "-n writes nothing and repairs nothing: --plan shows what a repair would do";
	if (a->undo_file && (a->no || a->plan))
		return "--undo-file is for repairs, and -n and --plan make none";
	if (a->undo &&
	    (a->no || a->preen || a->yes || a->plan || a->salvage || a->drop_log || a->undo_file || a->lost_file))
		return "--undo goes with no other option of a check";
	return NULL;
}

static int check_args(struct args *a, int argc, char **argv)
{
	const char *why = contradiction(a);

	if (why) {
		tool_usage("%s", why);
		return -EINVAL;
	}
	if (argc - optind != 1) {
		tool_usage(argc == optind ? "which device?" : "more than one device: `%s`", argv[argc - 1]);
		return -EINVAL;
	}
	a->path = argv[optind];
	return 0;
}

static int parse_args(int argc, char **argv, struct args *a)
{
	int opt;

	while ((opt = getopt_long(argc, argv, "npayfvqC::hV", options, NULL)) != -1) {
		int err = take_option(a, opt, argc, argv);

		if (err)
			return err;
	}
	return check_args(a, argc, argv);
}

/* ---- results ---- */

static int exit_code_of(int err)
{
	return tool_is_damage(err) ? EXIT_PROBLEMS : EXIT_OPERATION;
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

static void print_clean(const struct args *a, const struct fsck_look *l)
{
	if (a->quiet)
		return;
	if (a->verbose)
		print_details(a, &l->check);
	printf("%s: clean, %" PRIu64 " inodes (%" PRIu64 " directories), %" PRIu64 "/%" PRIu64 " blocks used\n",
	       a->path, l->check.inodes, l->check.directories, l->blocks_used, l->blocks);
	if (l->check.lost_blocks)
		printf("%s: %" PRIu64 " blocks of files were lost in an earlier repair; reading them is an error\n",
		       a->path, l->check.lost_blocks);
}

static const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

static void print_left(const struct args *a, const struct fsck_look *l, uint64_t n)
{
	if (a->verbose)
		print_details(a, &l->check);
	printf("%s: %" PRIu64 " problem%s; not repaired\n", a->path, n, plural(n));
}

/* What to do about what is left. */
static void print_advice(const struct args *a, const struct fsck_result *r)
{
	if (r->want_salvage)
		tool_error(a->path,
			   "the tree cannot be read from its root; --salvage searches the device for what is left "
			   "of it");
	else if (r->no_room)
		tool_error(a->path,
			   "there is no room to build it anew beside what is there, and nothing was changed; mount it "
			   "read-only and copy what can be read to another place");
	else if (r->refused && a->preen)
		tool_error(a->path, "these repairs may change or lose something; run fsck.arbor without -p");
}

/* ---- looking and mending ---- */

static enum fsck_mode mode_of(const struct args *a)
{
	if (a->no)
		return FSCK_NO;
	if (a->preen)
		return FSCK_PREEN;
	return a->yes || a->plan ? FSCK_YES : FSCK_ASK;
}

/* Opens what is to be written to. A failure has been reported. */
static int open_to_mend(const struct args *a, struct bdev **ret)
{
	const struct bdev_file_options how = { .read_only = a->plan };
	struct bdev *below;
	int err = tool_open(a->path, &how, &below);

	if (err)
		return err;
	*ret = below;
	if (a->plan) {
		err = overlay_open(below, ret);
		if (err)
			tool_error(a->path, "%s", tool_why(err));
	} else if (a->undo_file) {
		err = undo_open(below, a->undo_file, ret);
		if (err)
			tool_error(a->undo_file,
				   err == -EEXIST ? "is there already; nothing was changed" : "cannot be written: %s",
				   tool_why(err));
	}
	if (err)
		bdev_close(below);
	return err;
}

static int mend(const struct args *a, const struct fsck_options *opt, const struct fsck_look *look,
		struct fsck_report *report)
{
	struct fsck_result r = { 0 };
	struct bdev *dev;
	int err, err2;

	if (open_to_mend(a, &dev))
		return EXIT_OPERATION;
	err = fsck_mend(dev, opt, look, &r);
	progress_hide();
	bdev_close(dev);
	if (r.no_room) /* then nothing has happened */
		fsck_report_release(report);
	err2 = fsck_report_lost(report, a->lost_file);
	if (err) {
		print_advice(a, &r);
		if (!r.no_room)
			tool_error(a->path, "the repair could not be finished: %s", tool_why(err));
		return look->problems ? EXIT_PROBLEMS | EXIT_OPERATION : EXIT_OPERATION;
	}
	if (r.mended && !a->quiet)
		printf("%s: %" PRIu64 " problem%s %s\n", a->path, r.mended, plural(r.mended),
		       a->plan ? "would be repaired; nothing was written" : "repaired");
	if (r.left)
		print_left(a, &r.last, r.left);
	else if (!a->plan)
		print_clean(a, &r.last);
	fflush(stdout);
	print_advice(a, &r);
	if (err2)
		return EXIT_OPERATION;
	if (r.left || (a->plan && look->problems))
		return EXIT_PROBLEMS;
	return r.mended ? EXIT_CORRECTED : EXIT_CLEAN;
}

/* It has been looked at and there is something to do. */
static int go_on(const struct args *a, struct fsck_options *opt, const struct fsck_look *look,
		 struct fsck_report *report)
{
	struct bdev_file_options how = { .read_only = true };
	struct fsck_look again;
	struct bdev *dev;
	int err;

	bool ask = look->no_super || look->structure || look->items || (look->log_damaged && !opt->drop_log);

	opt->line = fsck_report_line;
	if (opt->mode != FSCK_ASK || !ask || fsck_report_terminal())
		return mend(a, opt, look, report);
	/* Nobody can be asked: as -n would. */
	if (tool_open(a->path, &how, &dev))
		return EXIT_OPERATION;
	err = fsck_look(dev, opt, &again);
	progress_hide();
	bdev_close(dev);
	if (err)
		return exit_code_of(err);
	print_left(a, &again, again.problems);
	tool_error(a->path, "needs a terminal for interactive repairs; use -p for safe ones, -y for all, -n for none");
	return EXIT_PROBLEMS;
}

/* Something else may have been made where the filesystem was: what is salvaged would be written over it. */
static bool may_salvage(const struct args *a)
{
	char what[PROBE_TEXT];

	if (a->force || probe_signature(a->path, what) || !what[0] || strstr(what, "ArborFS"))
		return true;
	tool_error(a->path, "holds %s now, which a repair would overwrite; -f does that", what);
	return false;
}

/* Looks without a word where a repair is to follow, which will tell. */
static int look_at(const struct args *a, struct bdev *dev, const struct fsck_options *opt, struct fsck_look *ret)
{
	int err;

	if (opt->mode == FSCK_NO) {
		err = fsck_look(dev, opt, ret);
	} else {
		tool_listen_begin();
		err = fsck_look(dev, opt, ret);
		(void)tool_listen_end();
	}
	progress_hide();
	if (err == -ENODEV && a->salvage) {
		*ret = (struct fsck_look){ .no_super = true, .problems = 1 };
		err = 0;
	} else if (err) {
		tool_error(a->path, "the check could not be finished: %s", tool_why(err));
	}
	return err;
}

/* 0: go on; > 0: an exit code. */
static int begin(const struct args *a, struct bdev *dev)
{
	bool other_ok = true;
	struct super s;
	int err;

	if (a->salvage) {
		unsigned slot;

		tool_listen_begin();
		err = super_load(dev, &s, &slot, &other_ok);
		(void)tool_listen_end();
		if (err == -ENODEV || err == -EUCLEAN || err == -EBADMSG)
			return may_salvage(a) ? 0 : EXIT_OPERATION;
	}
	err = tool_load_super(dev, &s, &other_ok);
	if (err)
		return exit_code_of(err);
	if ((s.flags & SUPER_CLEAN) && other_ok && a->preen && !a->force) {
		if (!a->quiet)
			printf("%s: clean, not checked (-f checks)\n", a->path);
		return -1;
	}
	return 0;
}

static int run(const struct args *a)
{
	const struct bdev_file_options how = { .read_only = true };
	struct fsck_report report = { .device = a->path, .quiet = a->quiet, .plan = a->plan };
	struct fsck_options opt = {
		.mode = mode_of(a),
		.data = a->data,
		.salvage = a->salvage,
		.drop_log = a->drop_log,
		.threads = a->threads,
		.line = a->no ? fsck_report_line : NULL,
		.ask = fsck_report_ask,
		.progress = progress_show,
		.arg = &report,
	};
	struct fsck_look look = { 0 };
	struct bdev *dev;
	int code, err;

	if (tool_open(a->path, &how, &dev))
		return EXIT_OPERATION;
	code = begin(a, dev);
	err = code ? 0 : look_at(a, dev, &opt, &look);
	bdev_close(dev);
	if (code)
		return code < 0 ? EXIT_CLEAN : code;
	if (err)
		return exit_code_of(err);
	if (a->no && look.problems) {
		print_left(a, &look, look.problems);
		return EXIT_PROBLEMS;
	}
	if (a->no || (!look.problems && !look.dirty)) {
		print_clean(a, &look);
		return EXIT_CLEAN;
	}
	code = go_on(a, &opt, &look, &report);
	fsck_report_release(&report);
	return code;
}

static int undo(const struct args *a)
{
	const struct bdev_file_options how = { 0 };
	uint64_t blocks = 0;
	struct bdev *dev;
	int err;

	if (tool_open(a->path, &how, &dev))
		return EXIT_OPERATION;
	err = undo_apply(dev, a->undo, &blocks);
	bdev_close(dev);
	if (err) {
		tool_error(a->undo, "cannot be put back: %s",
			   err == -EUCLEAN ? "it is damaged, or not of this filesystem" : tool_why(err));
		return EXIT_OPERATION;
	}
	if (!a->quiet)
		printf("%s: %" PRIu64 " block%s put back as %s has them\n", a->path, blocks, plural(blocks), a->undo);
	return EXIT_CORRECTED;
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
	code = a.undo ? undo(&a) : run(&a);
	if (fflush(stdout) || ferror(stdout)) {
		tool_error(NULL, "standard output: %s", strerror(errno));
		return code | EXIT_OPERATION;
	}
	return code;
}

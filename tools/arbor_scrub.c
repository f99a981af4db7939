/*
 * arbor scrub - reads and verifies all of a mounted filesystem, and says what it found
 *
 * The work is the daemon's; this tells it what to do through its file .arbor/scrub (fs/control.h) and looks at that file
 * until the work is done. So it can be watched, stopped and gone on with from anywhere, and whoever is killed here leaves a
 * scrub that runs on.
 *
 * The exit status is a sum, as fsck(8)'s: what was found, and whether it came to its end.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/scrub.h"
#include "tools/arbor.h"
#include "tools/fsck_progress.h"
#include "tools/mounts.h"
#include "tools/tool.h"

enum { SCRUB_CLEAN = 0, SCRUB_MENDED = 1, SCRUB_BAD = 4, SCRUB_ERROR = 8, SCRUB_USAGE = 16, SCRUB_CANCELED = 32 };

#define LOOK_MS 200

static const char help[] =
	"Usage: arbor scrub [OPTION]... MOUNTPOINT\n"
	"Reads everything a mounted filesystem stores and verifies it, while it is in use: both copies\n"
	"of each tree node, superblocks, space map, and the data of all files. A bad copy is written\n"
	"anew from the good one. Data that does not verify is listed by path, and left as it is.\n"
	"Ctrl-C stops it; --resume goes on. MOUNTPOINT may be any path inside.\n"
	"\n"
	"  -r, --rate=SIZE    read at most so much a second (default: 64M; 0: as fast as it goes)\n"
	"      --resume       go on where the last one was stopped\n"
	"      --from=INODE   leave out what lies before this inode\n"
	"  -b, --background   start it and do not wait\n"
	"      --status       only say how far it is and what it has found\n"
	"      --stop         stop it\n"
	"      --json         for programs; the keys are in arbor-scrub(1)\n"
	"  -q, --quiet        no progress, only what is bad\n"
	"  -h, --help\n"
	"\n"
	"Exit status: the sum of 1 (bad places were mended), 4 (something is bad), 8 (it failed),\n"
	"16 (wrong command line), 32 (it was stopped).\n";

enum { OPT_RESUME = 256, OPT_FROM, OPT_STATUS, OPT_STOP, OPT_JSON };

static const struct option options[] = {
	{ "rate", required_argument, NULL, 'r' },
	{ "resume", no_argument, NULL, OPT_RESUME },
	{ "from", required_argument, NULL, OPT_FROM },
	{ "background", no_argument, NULL, 'b' },
	{ "status", no_argument, NULL, OPT_STATUS },
	{ "stop", no_argument, NULL, OPT_STOP },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct arguments {
	struct scrub_options scrub;
	bool background, status, stop, json, quiet;
	const char *path;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

/* ---- telling the daemon ---- */

static int tell(const char *point, const char *command)
{
	char path[PATH_MAX];
	int fd, err = arbor_control_path(point, "scrub", path);

	if (err)
		return err;
	/* Past the kernel's cache, or with cache=writeback no answer would come but EIO, when the file is closed. */
	fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	err = fd < 0 || write(fd, command, strlen(command)) < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (err == -EBUSY)
		tool_error(point, "a scrub is running; `arbor scrub --status` shows it, --stop ends it");
	else if (err == -EACCES || err == -EPERM)
		tool_error(point, "only root, and who has mounted it, may do that");
	else if (err == -ENOENT)
		tool_error(point, "its daemon is of a version that cannot scrub");
	else if (err)
		tool_error(point, "the daemon cannot be told: %s", tool_why(err));
	return err;
}

static int start(const char *point, const struct scrub_options *o)
{
	char command[128];

	snprintf(command, sizeof(command), "start rate=%" PRIu64 " from=%" PRIu64 "%s\n", o->rate, o->from_ino,
		 o->resume ? " resume" : "");
	return tell(point, command);
}

/* ---- what it says ---- */

static uint64_t number(json_t *json, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(json, key));
}

static const char *state_of(json_t *json)
{
	const char *s = json_string_value(json_object_get(json, "state"));

	return s ? s : "none";
}

static uint64_t mended(json_t *json)
{
	return number(json, "nodes_mended") + number(json, "pages_mended");
}

/* What was found bad and is still. */
static uint64_t bad(json_t *json)
{
	return number(json, "nodes_bad") + number(json, "pages_bad") - mended(json) + number(json, "blocks_bad");
}

static int status_of(json_t *json)
{
	int status = SCRUB_CLEAN;

	if (mended(json))
		status |= SCRUB_MENDED;
	if (bad(json))
		status |= SCRUB_BAD;
	if (strcmp(state_of(json), "failed") == 0)
		status |= SCRUB_ERROR;
	return status;
}

static void print_found(json_t *json)
{
	json_t *lines = json_object_get(json, "bad");

	for (size_t i = 0; i < json_array_size(lines); i++)
		puts(json_string_value(json_array_get(lines, i)));
	if (json_array_size(lines) >= SCRUB_BAD_MAX)
		puts("... and more: only the first of them are kept");
}

static void print_summary(json_t *json)
{
	char a[TOOL_SIZE_TEXT];
	const char *state = state_of(json);

	if (strcmp(state, "none") == 0) {
		puts("no scrub was started since it was mounted");
		return;
	}
	printf("scrub %s: %s read, %" PRIu64 " nodes, %" PRIu64 " blocks of data, %" PRIu64
	       " superblocks and pages of the space map\n",
	       state, tool_size_text(number(json, "bytes"), a), number(json, "nodes"), number(json, "blocks"),
	       number(json, "pages"));
	if (strcmp(state, "running") == 0 && number(json, "bytes_total"))
		printf("  %u%% of about %s\n",
		       (unsigned)((double)number(json, "bytes") * 100 / (double)number(json, "bytes_total")),
		       tool_size_text(number(json, "bytes_total"), a));
	if (strcmp(state, "failed") == 0)
		printf("  it failed: %s\n", strerror((int)number(json, "errno")));
	if (number(json, "nodes_bad"))
		printf("  %" PRIu64 " bad copies of nodes, %" PRIu64 " mended, %" PRIu64 " nodes lost\n",
		       number(json, "nodes_bad"), number(json, "nodes_mended"), number(json, "nodes_lost"));
	if (number(json, "pages_bad"))
		printf("  %" PRIu64 " bad superblocks or pages of the space map, %" PRIu64
		       " mended; fsck.arbor makes the others anew\n",
		       number(json, "pages_bad"), number(json, "pages_mended"));
	if (number(json, "blocks_bad"))
		printf("  %" PRIu64 " blocks of data that do not verify\n", number(json, "blocks_bad"));
	if (!mended(json) && !bad(json))
		puts("  nothing bad was found");
}

/* Says how it stands; the exit status. */
static int report(const char *point, const struct arguments *a)
{
	json_t *json;
	char *text;
	int status;

	if (arbor_ask(point, "scrub", &text, &json))
		return SCRUB_ERROR;
	status = status_of(json);
	if (a->json) {
		fputs(text, stdout);
	} else {
		print_found(json);
		if (!a->quiet)
			print_summary(json);
	}
	json_decref(json);
	mem_free(text);
	return status;
}

/* ---- waiting ---- */

static int look(const char *point, bool *ret_running, bool *ret_stopped)
{
	json_t *json;
	char *text;
	int err = arbor_ask(point, "scrub", &text, &json);

	if (err)
		return err;
	*ret_running = strcmp(state_of(json), "running") == 0;
	*ret_stopped = strcmp(state_of(json), "stopped") == 0;
	progress_show(NULL, "scrub", number(json, "bytes"), number(json, "bytes_total"));
	json_decref(json);
	mem_free(text);
	return 0;
}

static int follow(const char *point, const struct arguments *a)
{
	const struct timespec while_ms = { .tv_nsec = LOOK_MS * 1000000 };
	bool running = true, stopped = false;
	int err = 0, status;

	if (!a->quiet && !a->json)
		progress_bar(point);
	while (!err && running) {
		if (interrupted) {
			interrupted = 0;
			err = tell(point, "stop\n");
		}
		if (!err)
			err = look(point, &running, &stopped);
		if (!err && running)
			nanosleep(&while_ms, NULL);
	}
	progress_hide();
	if (err)
		return SCRUB_ERROR;
	status = report(point, a);
	if (stopped && !a->quiet && !a->json)
		puts("  stopped; --resume goes on");
	return status | (stopped ? SCRUB_CANCELED : 0);
}

/* ---- */

static int parse(int argc, char **argv, struct arguments *a)
{
	int opt;

	while ((opt = getopt_long(argc, argv, "r:bqh", options, NULL)) != -1)
		switch (opt) {
		case 'r':
			if (tool_size_parse(optarg, &a->scrub.rate)) {
				fprintf(stderr, "arbor: scrub: `%s` is no size\n", optarg);
				return SCRUB_USAGE;
			}
			if (a->scrub.rate && a->scrub.rate < SCRUB_RATE_MIN) {
				fprintf(stderr, "arbor: scrub: %s bytes a second would never end; 500M is 500 MiB\n", optarg);
				return SCRUB_USAGE;
			}
			break;
		case OPT_FROM:
			if (tool_number_parse(optarg, 1, (UINT64_C(1) << 48) - 1, &a->scrub.from_ino)) {
				fprintf(stderr, "arbor: scrub: `%s` is no inode number\n", optarg);
				return SCRUB_USAGE;
			}
			break;
		case OPT_RESUME:
			a->scrub.resume = true;
			break;
		case 'b':
			a->background = true;
			break;
		case OPT_STATUS:
			a->status = true;
			break;
		case OPT_STOP:
			a->stop = true;
			break;
		case OPT_JSON:
			a->json = true;
			break;
		case 'q':
			a->quiet = true;
			break;
		case 'h':
			fputs(help, stdout);
			return -1;
		default:
			fputs("Try `arbor help scrub`.\n", stderr);
			return SCRUB_USAGE;
		}
	if (argc - optind != 1 || a->stop + a->status + a->background > 1) {
		fputs(argc == optind	  ? "arbor: scrub: a mount point is missing\n"
		      : argc - optind > 1 ? "arbor: scrub: more than one path\n"
					  : "arbor: scrub: --stop, --status and --background exclude each other\n",
		      stderr);
		return SCRUB_USAGE;
	}
	a->path = argv[optind];
	return 0;
}

static int act(const char *point, const struct arguments *a)
{
	if (a->status)
		return report(point, a);
	if (a->stop) {
		if (tell(point, "stop\n"))
			return SCRUB_ERROR;
		return report(point, a);
	}
	if (start(point, &a->scrub))
		return SCRUB_ERROR;
	return a->background ? SCRUB_CLEAN : follow(point, a);
}

int arbor_scrub(int argc, char **argv)
{
	static char name[] = "arbor scrub"; /* for getopt's messages */
	const struct sigaction stop = { .sa_handler = on_signal };
	struct arguments a = { .scrub.rate = SCRUB_RATE_DEFAULT };
	char *point = NULL;
	int status, err;

	argv[0] = name;
	json_set_alloc_funcs(mem_alloc, mem_free);
	status = parse(argc, argv, &a);
	if (status)
		return status < 0 ? ARBOR_OK : status;
	err = mounts_find_point(a.path, &point);
	if (err) {
		tool_error(a.path, "%s",
			   err == -ENOENT && access(a.path, F_OK) == 0 ? "not on a mounted ArborFS filesystem"
								       : strerror(-err));
		return SCRUB_ERROR;
	}
	tool_set_before_line(progress_hide);
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	status = act(point, &a);
	mem_free(point);
	return status;
}

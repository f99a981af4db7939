/*
 * arbor status - what mounted filesystems say of themselves, and what an image that is not mounted holds
 *
 * A mounted filesystem is asked through its own file .arbor/status (fs/control.h), as anybody could: the daemon's text is
 * the only source, and what is printed for people is that text in words. For an image there is the superblock, put into
 * the same form.
 *
 * The device is opened read-only and, where somebody has locked it whose mount is not seen from here, without a lock: a
 * superblock that is just being written does not verify, and the other one is taken.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "btree/mem.h"
#include "tools/arbor.h"
#include "tools/mounts.h"
#include "tools/tool.h"

static const char help[] = "Usage: arbor status [--json] [MOUNTPOINT|IMAGE]\n"
			   "Says what a mounted filesystem is doing: its space, log, checkpoints, caches, and\n"
			   "whether it has failed. MOUNTPOINT may be any path inside. Of an image or device that\n"
			   "is not mounted it says what its superblock does. Without an argument: all mounted\n"
			   "ArborFS filesystems.\n"
			   "\n"
			   "      --json   for programs; the keys are in arbor-status(1). Without an argument, an\n"
			   "               array\n"
			   "  -h, --help\n"
			   "\n"
			   "Exit status: 0, 1 after a failure, 2 for a wrong command line.\n";

static const struct option options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* ---- for people ---- */

/* The value at a path such as "space.used"; NULL where it is not there (an older or newer daemon). */
static json_t *at(json_t *json, const char *path)
{
	char key[64];

	while (json && *path) {
		size_t n = strcspn(path, ".");

		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		json = json_object_get(json, key);
		path += n + (path[n] == '.');
	}
	return json;
}

static const char *text_at(json_t *json, const char *path)
{
	const char *s = json_string_value(at(json, path));

	return s ? s : "";
}

static uint64_t number_at(json_t *json, const char *path)
{
	return (uint64_t)json_integer_value(at(json, path));
}

static const char *size_at(json_t *json, const char *path, char buf[TOOL_SIZE_TEXT])
{
	return tool_size_text(number_at(json, path), buf);
}

static void print_row(const char *name, const char *value)
{
	if (value[0])
		printf("  %-14s %s\n", name, value);
}

static void print_head(json_t *json, const char *name)
{
	printf("%s\n", name);
	print_row("mounted on", text_at(json, "mountpoint"));
	print_row("options", text_at(json, "options"));
	print_row("uuid", text_at(json, "uuid"));
	print_row("label", text_at(json, "label"));
}

static void print_state(json_t *json)
{
	json_t *error = at(json, "error");

	print_row("state", text_at(json, "state"));
	if (json_is_object(error))
		printf("  %-14s %s (errno %" PRIu64 "); read-only until it is mounted again\n", "FAILED",
		       text_at(error, "text"), number_at(error, "errno"));
}

static void print_space(json_t *json)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT];
	uint64_t usable = number_at(json, "space.usable"), used = number_at(json, "space.used");

	printf("  %-14s %s, %s used (%u%%), %s available\n", "space", size_at(json, "space.size", a),
	       size_at(json, "space.used", b), usable ? (unsigned)(used * 100.0 / usable + 0.5) : 0,
	       size_at(json, "space.available", c));
	if (number_at(json, "space.claimed") || number_at(json, "space.pinned") || number_at(json, "space.reclaiming"))
		printf("  %-14s %s promised, %s pinned, %s on its way to be free\n", "",
		       size_at(json, "space.claimed", a), size_at(json, "space.pinned", b),
		       size_at(json, "space.reclaiming", c));
	printf("  %-14s %" PRIu64 " in use, %" PRIu64 " known to the kernel\n", "inodes",
	       number_at(json, "inodes.used"), number_at(json, "inodes.referenced"));
}

static void print_engine(json_t *json)
{
	char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT];
	uint64_t node = number_at(json, "node_size"), frames = number_at(json, "cache.frames");

	printf("  %-14s %s of %s used, %" PRIu64 " operations not durable yet\n", "log", size_at(json, "log.used", a),
	       size_at(json, "log.size", b), number_at(json, "log.lsn_next") - number_at(json, "log.lsn_durable"));
	printf("  %-14s %" PRIu64 " syncs in %" PRIu64 " segments\n", "", number_at(json, "log.syncs"),
	       number_at(json, "log.segments"));
	printf("  %-14s %" PRIu64 ", the last took %.1f ms, the longest stop for one %" PRIu64 " us\n", "checkpoints",
	       number_at(json, "checkpoint.count"), (double)number_at(json, "checkpoint.last_us") / 1000,
	       number_at(json, "checkpoint.freeze_max_us"));
	printf("  %-14s %" PRIu64 " nodes of %s (at most %" PRIu64 "), %" PRIu64 " dirty\n", "cache", frames,
	       tool_size_text(node, a), number_at(json, "cache.frames_max"), number_at(json, "cache.dirty"));
	if (number_at(json, "cache.copies_used") || number_at(json, "cache.nodes_mended"))
		printf("  %-14s %" PRIu64 " bad nodes read from their second copy, %" PRIu64 " mended\n", "",
		       number_at(json, "cache.copies_used"), number_at(json, "cache.nodes_mended"));
	printf("  %-14s %s dirty, %s in flight\n", "data", size_at(json, "data.dirty", a),
	       size_at(json, "data.in_flight", b));
	printf("  %-14s %" PRIu64 " open, %" PRIu64 " transactions, %" PRIu64 " snapshots\n", "views",
	       number_at(json, "views.open"), number_at(json, "views.transactions"),
	       number_at(json, "views.snapshots"));
	printf("  %-14s %s read, %s written, %" PRIu64 " flushes\n", "device", size_at(json, "device.read_bytes", a),
	       size_at(json, "device.written_bytes", b), number_at(json, "device.flushes"));
	if (number_at(json, "recovery.records"))
		printf("  %-14s %" PRIu64 " operations replayed in %.1f ms when it was mounted\n", "recovery",
		       number_at(json, "recovery.records"), (double)number_at(json, "recovery.us") / 1000);
}

/* Only where there is something to say. */
static void print_scrub(json_t *json)
{
	const char *state = text_at(json, "scrub.state");
	uint64_t total = number_at(json, "scrub.bytes_total"), done = number_at(json, "scrub.bytes");
	uint64_t ended = number_at(json, "scrub.ended_ns") / 1000000000;
	uint64_t mended = number_at(json, "scrub.nodes_mended") + number_at(json, "scrub.pages_mended");
	uint64_t bad = number_at(json, "scrub.nodes_bad") + number_at(json, "scrub.pages_bad") - mended +
		       number_at(json, "scrub.blocks_bad");
	char a[TOOL_SIZE_TEXT], when[40] = "";
	time_t t = (time_t)ended;
	struct tm tm;

	if (!state[0] || strcmp(state, "none") == 0)
		return;
	if (ended && localtime_r(&t, &tm))
		strftime(when, sizeof(when), ", %Y-%m-%d %H:%M:%S", &tm);
	printf("  %-14s %s%s, %s read", "scrub", state, when, size_at(json, "scrub.bytes", a));
	if (strcmp(state, "done") != 0 && total)
		printf(" (%u%%)", (unsigned)(done * 100.0 / (double)total));
	printf("; %" PRIu64 " bad places mended, %" PRIu64 " not\n", mended, bad);
}

static void print_mounted(json_t *json)
{
	print_head(json, text_at(json, "source"));
	print_state(json);
	print_space(json);
	print_engine(json);
	print_scrub(json);
	if (number_at(json, "pid"))
		printf("  %-14s pid %" PRIu64 "\n", "daemon", number_at(json, "pid"));
}

static void print_image(json_t *json)
{
	char a[TOOL_SIZE_TEXT];

	print_head(json, text_at(json, "source"));
	print_row("state",
		  json_is_true(at(json, "clean")) ? "not mounted, clean" : "not mounted, to be recovered from its log");
	print_row("in use by", text_at(json, "in_use_by"));
	if (!json_is_true(at(json, "superblocks_ok")))
		print_row("damaged", "one superblock; fsck.arbor writes it anew");
	print_row("size", size_at(json, "space.size", a));
	printf("  %-14s %s, %s\n", "node size", size_at(json, "node_size", a),
	       json_is_true(at(json, "copies")) ? "two copies of each" : "one copy of each");
	print_row("log", size_at(json, "log.size", a));
	print_row("made", text_at(json, "created"));
	print_row("last written", text_at(json, "written"));
}

/* ---- a mounted filesystem ---- */

static int read_text(const char *path, char **ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	char *text = NULL;
	size_t n = 0, cap = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t got;

		err = mem_grow((void **)&text, &cap, n + 4097, 1);
		if (err)
			break;
		got = read(fd, text + n, 4096);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			err = got < 0 ? -errno : 0;
			text[n] = 0;
			break;
		}
		n += (size_t)got;
	}
	close(fd);
	if (err)
		mem_free(text);
	else
		*ret = text;
	return err;
}

int arbor_control_path(const char *point, const char *name, char path[PATH_MAX])
{
	if (snprintf(path, PATH_MAX, "%s/.arbor/%s", strcmp(point, "/") ? point : "", name) < PATH_MAX)
		return 0;
	tool_error(point, "%s", strerror(ENAMETOOLONG));
	return -ENAMETOOLONG;
}

int arbor_ask(const char *point, const char *name, char **ret_text, json_t **ret)
{
	char path[PATH_MAX];
	json_error_t why;
	int err;

	err = arbor_control_path(point, name, path);
	if (err)
		return err;
	err = read_text(path, ret_text);
	if (err == -ENOTCONN || err == -ECONNABORTED) {
		tool_error(point, "its daemon has ended; unmount it (umount %s) and mount it again", point);
	} else if (err == -EACCES || err == -EPERM) {
		tool_error(point,
			   "no permission to look; ask as the user who mounted it, or mount it with -o allow_other");
	} else if (err) {
		tool_error(point, "its %s cannot be read: %s", name, tool_why(err));
	} else {
		*ret = json_loads(*ret_text, 0, &why);
		if (*ret)
			return 0;
		tool_error(path, "what the daemon says cannot be understood: %s", why.text);
		mem_free(*ret_text);
		err = -EINVAL;
	}
	return err;
}

static int show_point(const char *point, bool as_json)
{
	char *text;
	json_t *json;
	int err = arbor_ask(point, "status", &text, &json);

	if (err)
		return err;
	if (as_json)
		fputs(text, stdout);
	else
		print_mounted(json);
	json_decref(json);
	mem_free(text);
	return 0;
}

/* ---- all of them ---- */

struct all {
	bool as_json;
	json_t *array;
	dev_t seen[256]; /* one filesystem may be mounted several times */
	size_t n;
	int err; /* the last of those that could not be asked */
};

static int add_point(void *arg, const struct mount_info *m)
{
	struct all *all = arg;
	dev_t dev = (dev_t)m->major << 32 | m->minor;
	char *text;
	json_t *json;
	int err;

	for (size_t i = 0; i < all->n && i < 256; i++)
		if (all->seen[i] == dev)
			return 0;
	if (all->n < 256)
		all->seen[all->n] = dev;
	err = arbor_ask(m->point, "status", &text, &json);
	if (err) {
		all->err = err;
		all->n++;
		return 0;
	}
	if (all->as_json) {
		json_array_append(all->array, json);
	} else {
		if (all->n)
			putchar('\n');
		print_mounted(json);
	}
	all->n++;
	json_decref(json);
	mem_free(text);
	return 0;
}

static int show_all(bool as_json)
{
	struct all all = { .as_json = as_json, .array = json_array() };
	int err = mounts_each(add_point, &all);

	if (err)
		tool_error("/proc/self/mountinfo", "%s", strerror(-err));
	else if (as_json) {
		json_dumpf(all.array, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (!all.n) {
		puts("no ArborFS filesystem is mounted");
	}
	json_decref(all.array);
	return err ? err : all.err;
}

/* ---- an image ---- */

static json_t *time_json(uint64_t ns)
{
	time_t s = (time_t)(ns / 1000000000);
	char text[64];
	struct tm tm;

	if (!gmtime_r(&s, &tm) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		return json_null();
	return json_string(text);
}

/* Labels may be any bytes, and JSON is UTF-8. */
static json_t *bytes_json(const char *s)
{
	json_t *json = json_string(s);
	char copy[PATH_MAX];

	if (json)
		return json;
	snprintf(copy, sizeof(copy), "%s", s);
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	return json_string(copy);
}

static json_t *image_json(const char *path, const struct super *s, bool other_ok, const char *holder)
{
	char uuid[TOOL_UUID_TEXT];

	tool_uuid_text(s->uuid, uuid);
	return json_pack("{s:b, s:o, s:s, s:o, s:b, s:b, s:o, s:b, s:I, s:{s:I}, s:{s:I}, s:o, s:o}", "mounted", 0,
			 "source", bytes_json(path), "uuid", uuid, "label", bytes_json(s->label), "clean",
			 (s->flags & SUPER_CLEAN) != 0, "superblocks_ok", other_ok, "in_use_by",
			 holder ? bytes_json(holder) : json_null(), "copies",
			 (s->incompat & SUPER_INCOMPAT_COPIES) != 0, "node_size", (json_int_t)s->node_size, "space",
			 "size", (json_int_t)(s->blocks << BLOCK_SHIFT), "log", "size",
			 (json_int_t)(s->log_blocks << BLOCK_SHIFT), "created", time_json(s->created), "written",
			 time_json(s->written));
}

static int show_image(const char *path, bool as_json)
{
	struct bdev_file_options how = { .read_only = true };
	struct bdev *dev = NULL;
	char *holder = NULL;
	bool other_ok;
	struct super s;
	json_t *json;
	int err = bdev_file_open(path, &how, &dev, &holder);

	how.no_lock = true;
	if (err == -EBUSY && !holder)
		holder = mem_strdup("another process");
	if (err)
		err = tool_open(path, &how, &dev);
	if (!err)
		err = tool_load_super(dev, &s, &other_ok);
	if (!err) {
		json = image_json(path, &s, other_ok, holder);
		if (!json) {
			err = -ENOMEM;
			tool_error(path, "%s", strerror(ENOMEM));
		} else if (as_json) {
			json_dumpf(json, stdout, JSON_INDENT(2));
			putchar('\n');
		} else {
			print_image(json);
		}
		json_decref(json);
	}
	bdev_close(dev);
	mem_free(holder);
	return err;
}

/* ---- */

static int show(const char *path, bool as_json)
{
	char *point = NULL;
	struct stat st;
	bool device = stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
	int err = device ? mounts_find_source(path, &point) : mounts_find_point(path, &point);

	if (!err) {
		err = show_point(point, as_json);
		mem_free(point);
		return err;
	}
	if (device && err == -ENOENT)
		return show_image(path, as_json);
	if (err == -ENOENT && access(path, F_OK) == 0)
		tool_error(path, "not on an ArborFS filesystem, and no image of one");
	else
		tool_error(path, "%s", strerror(-err));
	return err;
}

int arbor_status(int argc, char **argv)
{
	static char name[] = "arbor status"; /* for getopt's messages */
	bool as_json = false;
	int opt;

	argv[0] = name;
	json_set_alloc_funcs(mem_alloc, mem_free);
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1)
		switch (opt) {
		case 'j':
			as_json = true;
			break;
		case 'h':
			fputs(help, stdout);
			return ARBOR_OK;
		default:
			fputs("Try `arbor help status`.\n", stderr);
			return ARBOR_USAGE;
		}
	if (argc - optind > 1) {
		fprintf(stderr, "arbor: status: more than one path: `%s`\n", argv[optind + 1]);
		return ARBOR_USAGE;
	}
	return (optind < argc ? show(argv[optind], as_json) : show_all(as_json)) ? ARBOR_FAILED : ARBOR_OK;
}

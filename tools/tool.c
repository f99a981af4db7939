/*
 * The engine says what it has found ("corrupt superblock: 0, checksum, got 1, want 2"); a user wants to know what it
 * means and what to do ("the superblocks are damaged"). So where a tool knows a better sentence, it listens to the engine
 * silently and puts the engine's first line behind its own, in parentheses; everywhere else the engine's lines go to
 * standard error as they come.
 *
 * Standard output is for results, which scripts read; everything else goes to standard error, through one place, so that a
 * progress bar can be taken away before a line and no two lines mix.
 */
#include "tools/tool.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uuid/uuid.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tools/mounts.h"
#include "tools/probe.h"

#define LOCK_WAIT_MS 3000u

static const char *name = "arbor";
static bool verbose;
static void (*before_line)(void);

static bool listening;
static char heard[1024];

static void put_line(const char *kind, const char *line)
{
	if (before_line)
		before_line();
	fprintf(stderr, "%s: %s%s\n", name, kind, line);
}

/* A check meets the same damage several times; once is enough to be told of it. */
#define SAID 256u
static uint64_t said[SAID];
static unsigned n_said;

static bool was_said(const char *line)
{
	uint64_t hash = XXH3_64bits(line, strlen(line));

	for (unsigned i = 0; i < SAID; i++)
		if (said[i] == hash)
			return true;
	said[n_said++ % SAID] = hash;
	return false;
}

/* Serialised by err_log. */
static void sink(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	if (listening) {
		if (level != LOG_INFO && !heard[0])
			snprintf(heard, sizeof(heard), "%s", line);
		if (!verbose)
			return;
	}
	if ((level == LOG_INFO && !verbose) || was_said(line))
		return;
	put_line(level == LOG_WARNING ? "warning: " : "", line);
}

void tool_init(const char *tool)
{
	name = tool;
	err_set_sink(sink, NULL);
}

const char *tool_name(void)
{
	return name;
}

void tool_set_verbose(bool yes)
{
	verbose = yes;
}

void tool_set_before_line(void (*before)(void))
{
	before_line = before;
}

void tool_error(const char *where, const char *fmt, ...)
{
	char line[1024];
	size_t n = 0;
	va_list ap;

	if (where) {
		snprintf(line, sizeof(line), "%.512s: ", where);
		n = strlen(line);
	}
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	put_line("", line);
}

void tool_usage(const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s; try `%s --help`\n", name, line, name);
}

const char *tool_why(int err)
{
	switch (-err) {
	case EUCLEAN:
		return "its structure is damaged";
	case EBADMSG:
		return "a checksum does not match";
	case EIO:
		return "the device failed (input/output error)";
	case ENODEV:
		return "not an ArborFS filesystem";
	case EPROTONOSUPPORT:
		return "it was made by a newer version of ArborFS";
	case ENXIO:
		return "it is larger than its device";
	default:
		return strerror(-err);
	}
}

void tool_listen_begin(void)
{
	heard[0] = 0;
	listening = true;
}

const char *tool_listen_end(void)
{
	listening = false;
	return heard;
}

/* ---- numbers ---- */

int tool_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	unsigned long long n;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (*end)
		return -EINVAL;
	if (errno || n < min || n > max)
		return -ERANGE;
	*ret = n;
	return 0;
}

int tool_size_parse(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGTPE";
	unsigned long long n;
	unsigned shift = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		const char *unit = strchr(units, toupper((unsigned char)*end));

		if (unit) {
			shift = 10 * (unsigned)(unit - units + 1);
			end++;
			if (end[0] == 'i' && end[1] == 'B')
				end += 2;
		} else if (*end == 'B') {
			end++;
		}
	}
	if (*end)
		return -EINVAL;
	if (n > (uint64_t)INT64_MAX >> shift)
		return -ERANGE;
	*ret = (uint64_t)n << shift;
	return 0;
}

const char *tool_size_text(uint64_t bytes, char buf[TOOL_SIZE_TEXT])
{
	static const char units[] = "BKMGTPE";
	unsigned unit = 0;

	while (unit < 6 && bytes >> (10 * unit) >= 1024)
		unit++;
	if (unit == 0) {
		snprintf(buf, TOOL_SIZE_TEXT, "%" PRIu64 " B", bytes);
	} else {
		uint64_t one = UINT64_C(1) << (10 * unit), whole = bytes / one, rest = bytes % one;

		/* One digit behind the point, cut, where there is anything behind it. */
		if (rest == 0 || whole >= 100)
			snprintf(buf, TOOL_SIZE_TEXT, "%" PRIu64 " %ciB", whole, units[unit]);
		else
			snprintf(buf, TOOL_SIZE_TEXT, "%" PRIu64 ".%" PRIu64 " %ciB", whole,
				 (rest >> (10 * (unit - 1))) * 10 / 1024, units[unit]);
	}
	return buf;
}

int tool_uuid_parse(const char *text, uint8_t ret[16])
{
	uuid_t uuid;

	if (strcmp(text, "random") == 0) {
		memset(ret, 0, 16);
		return 0;
	}
	if (uuid_parse(text, uuid))
		return -EINVAL;
	if (uuid_is_null(uuid))
		return -ERANGE;
	memcpy(ret, uuid, 16);
	return 0;
}

const char *tool_uuid_text(const uint8_t uuid[16], char buf[TOOL_UUID_TEXT])
{
	uuid_unparse_lower(uuid, buf);
	return buf;
}

/* ---- devices ---- */

int tool_open(const char *path, const struct bdev_file_options *opt, struct bdev **ret)
{
	struct bdev_file_options how = *opt;
	char *holder = NULL, *point = NULL;
	int err;

	/* umount returns before the daemon has made its last checkpoint: who comes right behind it waits. */
	if (!how.no_lock && mounts_find_source(path, &point) == -ENOENT)
		how.lock_wait_ms = LOCK_WAIT_MS;
	mem_free(point);
	err = bdev_file_open(path, &how, ret, &holder);

	switch (-err) {
	case 0:
		break;
	case EBUSY:
		if (holder && strncmp(holder, "mounted", 7) == 0)
			tool_error(path, "is %s; unmount it first", holder);
		else
			tool_error(path, "in use by %s; unmount it, or wait until that has ended",
				   holder ? holder : "another process or mount");
		break;
	case ENOENT:
		tool_error(path, "no such file or device");
		break;
	case ENOTBLK:
		tool_error(path, "neither a block device nor a regular file (an image)");
		break;
	case EACCES:
	case EPERM:
		tool_error(path, "no permission to %s it; run this as root or as its owner",
			   opt->read_only ? "read" : "write to");
		break;
	case EROFS:
		tool_error(path, "cannot be written to: it is read-only");
		break;
	default:
		tool_error(path, "cannot be opened: %s", tool_why(err));
		break;
	}
	mem_free(holder);
	return err;
}

static void say_not_ours(const char *path)
{
	char what[PROBE_TEXT];

	if (probe_signature(path, what) == 0 && what[0])
		tool_error(path, "not an ArborFS filesystem: it holds %s", what);
	else
		tool_error(path, "not an ArborFS filesystem; mkfs.arbor makes one");
}

int tool_load_super(struct bdev *dev, struct super *ret, bool *ret_other_ok)
{
	const char *detail;
	unsigned slot;
	int err;

	tool_listen_begin();
	err = super_load(dev, ret, &slot, ret_other_ok);
	detail = tool_listen_end();
	switch (-err) {
	case 0:
		break;
	case ENODEV:
		say_not_ours(dev->name);
		break;
	case EPROTONOSUPPORT:
		tool_error(dev->name, "made by a newer version of ArborFS (%s); use its tools", detail);
		break;
	case ENXIO:
		tool_error(dev->name, "cut off: %s; give it back its size, or restore it from a backup", detail);
		break;
	case EUCLEAN:
	case EBADMSG:
		tool_error(dev->name,
			   "both superblocks are damaged (%s); fsck.arbor --salvage searches it for what is left", detail);
		break;
	default:
		tool_error(dev->name, "the superblock cannot be read: %s", tool_why(err));
		break;
	}
	return err;
}

bool tool_is_damage(int err)
{
	return err == -EUCLEAN || err == -EBADMSG || err == -ENXIO;
}

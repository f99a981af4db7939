/*
 * The options of a mount: one table of what each is called, what value it takes and where it goes.
 *
 * mount(8) hands its helpers everything that stands in fstab, so the table also has what is not ours: options that only
 * mount(8) itself looks at (nofail, user, x-...), flags of the mount that the kernel keeps (noexec), and old habits
 * (comment=). An option that is none of these is an error and not ignored: a misspelt "wrteback" must not mount with
 * something else than was asked for. -s (sloppy, from automounters) turns that off.
 *
 * The last of several options about one thing wins, as with mount(8).
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/fuse_options.h"

const char *const mount_usage =
	"usage: mount.arbor SOURCE MOUNTPOINT [-o OPTION,...] [-f] [-v]\n"
	"\n"
	"  SOURCE                     an image file or a block device made by mkfs.arbor\n"
	"  -o OPTION,...              mount options, see below\n"
	"  -f, --foreground           stay in the foreground, messages to standard error\n"
	"  -r, --read-only            the same as -o ro\n"
	"  -s                         ignore unknown options\n"
	"  -v, --verbose              more messages\n"
	"  -d, --debug                every request to standard error; implies -f\n"
	"  -h, --help                 this text\n"
	"  -V, --version              the version\n"
	"\n"
	"  ro                         mount for reading: nothing is written to SOURCE\n"
	"  cache=writethrough         every write reaches the filesystem before it returns (default)\n"
	"  cache=writeback            the kernel collects writes\n"
	"  cache_size=SIZE            memory for the tree's nodes (default: a sixteenth of all, 64M to 1G)\n"
	"  buffer_size=SIZE           memory for data on its way to the device (default: 32M)\n"
	"  commit=SECONDS             at most this much is lost without fsync (default: 1; 0.1 to 300)\n"
	"  acl, noacl                 POSIX access control lists (default: off)\n"
	"  discard, nodiscard         tell the device which blocks are free again (default: off)\n"
	"  relatime, noatime, strictatime, nodiratime\n"
	"                             access times (default: relatime)\n"
	"  allow_other, noallow_other access by all users (default: on for root)\n"
	"  nonempty                   mount over a directory that is not empty\n"
	"  fuseblk, nofuseblk         mount as a block device (default: where SOURCE is one, for root)\n"
	"  transport=auto|dev|uring   how requests come from the kernel (default: auto)\n"
	"  readers=N                  threads that wait for requests at /dev/fuse\n"
	"  threads=N                  threads that serve requests, at most\n"
	"  spin=MICROSECONDS          look for the next request this long before sleeping (default: 50)\n"
	"  and dev, suid, exec, sync, dirsync, symfollow with their no-forms, as in mount(8)\n";

enum option_kind {
	IGNORE,
	FLAG,	/* bool = value */
	SWITCH, /* enum mount_switch = value */
	ATIME,	/* enum fs_atime = value */
	CACHE,
	TRANSPORT,
	SIZE,
	SECONDS,
	NUMBER, /* unsigned, up to value */
	REFUSE,
};

struct option_row {
	const char *name;
	enum option_kind kind;
	int value;
	size_t offset;
};

#define AT(field) offsetof(struct mount_options, field)

static const struct option_row rows[] = {
	{ "ro", FLAG, true, AT(read_only) },
	{ "rw", FLAG, false, AT(read_only) },
	{ "cache", CACHE, 0, 0 },
	{ "cache_size", SIZE, 0, AT(cache_bytes) },
	{ "buffer_size", SIZE, 0, AT(buffer_bytes) },
	{ "commit", SECONDS, 0, AT(commit_ms) },
	{ "acl", FLAG, true, AT(acl) },
	{ "noacl", FLAG, false, AT(acl) },
	{ "discard", FLAG, true, AT(discard) },
	{ "nodiscard", FLAG, false, AT(discard) },
	{ "relatime", ATIME, FS_RELATIME, AT(atime) },
	{ "norelatime", ATIME, FS_RELATIME, AT(atime) },
	{ "noatime", ATIME, FS_NOATIME, AT(atime) },
	{ "atime", ATIME, FS_RELATIME, AT(atime) },
	{ "strictatime", ATIME, FS_STRICTATIME, AT(atime) },
	{ "nostrictatime", ATIME, FS_RELATIME, AT(atime) },
	{ "nodiratime", FLAG, true, AT(nodiratime) },
	{ "diratime", FLAG, false, AT(nodiratime) },
	{ "transport", TRANSPORT, 0, 0 },
	{ "readers", NUMBER, 64, AT(readers) },
	{ "threads", NUMBER, 256, AT(threads) },
	{ "spin", NUMBER, 1000, AT(spin_us) },
	{ "allow_other", SWITCH, MOUNT_ON, AT(allow_other) },
	{ "noallow_other", SWITCH, MOUNT_OFF, AT(allow_other) },
	{ "nonempty", FLAG, true, AT(nonempty) },
	{ "fuseblk", SWITCH, MOUNT_ON, AT(fuseblk) },
	{ "nofuseblk", SWITCH, MOUNT_OFF, AT(fuseblk) },
	{ "dev", SWITCH, MOUNT_ON, AT(dev) },
	{ "nodev", SWITCH, MOUNT_OFF, AT(dev) },
	{ "suid", SWITCH, MOUNT_ON, AT(suid) },
	{ "nosuid", SWITCH, MOUNT_OFF, AT(suid) },
	{ "exec", FLAG, false, AT(noexec) },
	{ "noexec", FLAG, true, AT(noexec) },
	{ "sync", FLAG, true, AT(sync) },
	{ "async", FLAG, false, AT(sync) },
	{ "dirsync", FLAG, true, AT(dirsync) },
	{ "symfollow", FLAG, false, AT(nosymfollow) },
	{ "nosymfollow", FLAG, true, AT(nosymfollow) },
	{ "debug", FLAG, true, AT(debug) },
	{ "remount", REFUSE, 0, 0 },

	/* mount(8)'s own, and what every filesystem is given */
	{ "defaults", IGNORE, 0, 0 },
	{ "default", IGNORE, 0, 0 },
	{ "default_permissions", IGNORE, 0, 0 },
	{ "auto", IGNORE, 0, 0 },
	{ "noauto", IGNORE, 0, 0 },
	{ "nofail", IGNORE, 0, 0 },
	{ "user", IGNORE, 0, 0 },
	{ "users", IGNORE, 0, 0 },
	{ "nouser", IGNORE, 0, 0 },
	{ "nousers", IGNORE, 0, 0 },
	{ "owner", IGNORE, 0, 0 },
	{ "noowner", IGNORE, 0, 0 },
	{ "group", IGNORE, 0, 0 },
	{ "nogroup", IGNORE, 0, 0 },
	{ "_netdev", IGNORE, 0, 0 },
	{ "comment", IGNORE, 0, 0 },
	{ "uhelper", IGNORE, 0, 0 },
	{ "helper", IGNORE, 0, 0 },
	{ "loop", IGNORE, 0, 0 },
	{ "quiet", IGNORE, 0, 0 },
	{ "silent", IGNORE, 0, 0 },
	{ "loud", IGNORE, 0, 0 },
	{ "lazytime", IGNORE, 0, 0 },
	{ "nolazytime", IGNORE, 0, 0 },
	{ "iversion", IGNORE, 0, 0 },
	{ "noiversion", IGNORE, 0, 0 },
	{ "mand", IGNORE, 0, 0 },
	{ "nomand", IGNORE, 0, 0 },
};

static int complain(char error[MOUNT_ERROR_SIZE], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int complain(char error[MOUNT_ERROR_SIZE], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, MOUNT_ERROR_SIZE, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* "64M", "1GiB", "65536". */
static bool parse_size(const char *text, size_t *ret)
{
	static const char units[] = "KMGT";
	unsigned long long n;
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return false;
	if (*end) {
		unit = strchr(units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
		if (!unit || (end[1] && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "B") != 0))
			return false;
		for (int i = 0; i <= unit - units; i++)
			if (__builtin_mul_overflow(n, 1024u, &n))
				return false;
	}
	if (n < 1u << 20 || n > SIZE_MAX / 2)
		return false;
	*ret = (size_t)n;
	return true;
}

static bool parse_seconds(const char *text, unsigned *ret_ms)
{
	double s;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	s = strtod(text, &end);
	if (*end || !(s >= 0.1 && s <= 300))
		return false;
	*ret_ms = (unsigned)(s * 1000 + 0.5);
	return true;
}

static bool parse_number(const char *text, unsigned max, unsigned *ret)
{
	unsigned long n;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || *end || n > max)
		return false;
	*ret = (unsigned)n;
	return true;
}

/* One of several words: its number, or -1. */
static int word(const char *text, const char *const *words)
{
	for (int i = 0; words[i]; i++)
		if (strcmp(text, words[i]) == 0)
			return i;
	return -1;
}

static int set_with_value(const struct option_row *row, const char *value, struct mount_options *o,
			  char error[MOUNT_ERROR_SIZE])
{
	static const char *const caches[] = { "writethrough", "writeback", NULL };
	static const char *const transports[] = {
		[MOUNT_AUTO] = "auto", [MOUNT_DEV] = "dev", [MOUNT_URING] = "uring", NULL
	};
	void *field = (char *)o + row->offset;
	int n;

	switch (row->kind) {
	case CACHE:
		n = word(value, caches);
		if (n < 0)
			return complain(error, "option cache=%s: must be writethrough or writeback", value);
		o->writeback = n == 1;
		return 0;
	case TRANSPORT:
		n = word(value, transports);
		if (n < 0)
			return complain(error, "option transport=%s: must be auto, dev or uring", value);
		o->transport = (enum mount_transport)n;
		return 0;
	case SIZE:
		if (!parse_size(value, field))
			return complain(error, "option %s=%s: must be a size of at least 1M, such as 256M", row->name,
					value);
		return 0;
	case SECONDS:
		if (!parse_seconds(value, field))
			return complain(error, "option %s=%s: must be a number of seconds from 0.1 to 300", row->name,
					value);
		return 0;
	default:
		if (!parse_number(value, (unsigned)row->value, field))
			return complain(error, "option %s=%s: must be a number from 0 to %d", row->name, value,
					row->value);
		return 0;
	}
}

static int set_option(const struct option_row *row, const char *value, struct mount_options *o,
		      char error[MOUNT_ERROR_SIZE])
{
	void *field = (char *)o + row->offset;

	switch (row->kind) {
	case IGNORE:
		return 0;
	case REFUSE:
		return complain(error, "remounting is not possible: unmount it and mount it again");
	case FLAG:
	case SWITCH:
	case ATIME:
		if (value)
			return complain(error, "option %s takes no value", row->name);
		if (row->kind == FLAG)
			*(bool *)field = row->value;
		else if (row->kind == SWITCH)
			*(enum mount_switch *)field = (enum mount_switch)row->value;
		else
			*(enum fs_atime *)field = (enum fs_atime)row->value;
		return 0;
	default:
		if (!value || !*value)
			return complain(error, "option %s needs a value: %s=...", row->name, row->name);
		return set_with_value(row, value, o, error);
	}
}

static const struct option_row *find(const char *name)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strcmp(rows[i].name, name) == 0)
			return &rows[i];
	return NULL;
}

static int parse_list(const char *list, bool sloppy, struct mount_options *o, char error[MOUNT_ERROR_SIZE])
{
	char *copy = mem_strdup(list);
	char *rest = copy;
	int err = 0;

	if (!copy)
		return complain(error, "no memory");
	while (!err && rest) {
		char *name = strsep(&rest, ",");
		char *value = strchr(name, '=');
		const struct option_row *row;

		if (value)
			*value++ = '\0';
		if (!*name && !value)
			continue;
		if (strncmp(name, "x-", 2) == 0 || strncmp(name, "X-", 2) == 0)
			continue;
		row = find(name);
		if (row)
			err = set_option(row, value, o, error);
		else if (!sloppy)
			err = complain(error, "unknown option \"%s%s%s\"; see mount.arbor --help", name,
				       value ? "=" : "", value ? value : "");
	}
	mem_free(copy);
	return err;
}

int mount_options_list(const char *list, struct mount_options *o, char error[MOUNT_ERROR_SIZE])
{
	return parse_list(list, false, o, error);
}

int mount_options_parse(int argc, char **argv, struct mount_options *ret, char error[MOUNT_ERROR_SIZE])
{
	static const struct option long_options[] = {
		{ "options", required_argument, NULL, 'o' }, { "foreground", no_argument, NULL, 'f' },
		{ "read-only", no_argument, NULL, 'r' },     { "verbose", no_argument, NULL, 'v' },
		{ "debug", no_argument, NULL, 'd' },	     { "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },	     { NULL, 0, NULL, 0 },
	};
	struct mount_options o = { .spin_us = MOUNT_SPIN_DEFAULT };
	bool sloppy = false;
	int c;

	error[0] = '\0';
	/* mount(8) may put -s behind the options, and it changes what they mean. */
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		sloppy |= strcmp(argv[i], "-s") == 0;

	optind = 0;
	opterr = 0;
	while ((c = getopt_long(argc, argv, ":o:frwsnvdhVN:t:", long_options, NULL)) != -1) {
		int err = 0;

		switch (c) {
		case 'o':
			err = parse_list(optarg, sloppy, &o, error);
			break;
		case 'f':
			o.foreground = true;
			break;
		case 'r':
			o.read_only = true;
			break;
		case 'w':
			o.read_only = false;
			break;
		case 'v':
			o.verbose = true;
			break;
		case 'd':
			o.debug = true;
			break;
		case 'h':
			o.help = true;
			break;
		case 'V':
			o.version = true;
			break;
		case 's': /* see above */
		case 'n': /* there is no mtab */
		case 'N': /* the namespace: mount(8) has entered it */
		case 't':
			break;
		case ':':
			return complain(error, "%s needs a value", argv[optind - 1]);
		default:
			return complain(error, "unknown argument %s; see mount.arbor --help", argv[optind - 1]);
		}
		if (err)
			return err;
	}
	if (o.debug)
		o.foreground = true;
	if (!o.help && !o.version) {
		if (argc - optind != 2)
			return complain(error, "%s; usage: mount.arbor SOURCE MOUNTPOINT [-o OPTION,...]",
					argc - optind < 2 ? "source or mount point is missing" : "too many arguments");
		o.source = argv[optind];
		o.mountpoint = argv[optind + 1];
	}
	*ret = o;
	return 0;
}

static void append(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void append(char *buf, size_t size, const char *fmt, ...)
{
	size_t len = strlen(buf);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + len, size - len, fmt, ap);
	va_end(ap);
}

char *mount_options_text(const struct mount_options *o, char *buf, size_t size)
{
	static const char *const atimes[] = {
		[FS_RELATIME] = "relatime",
		[FS_NOATIME] = "noatime",
		[FS_STRICTATIME] = "strictatime",
	};

	buf[0] = '\0';
	append(buf, size, "%s,cache=%s,%s", o->read_only ? "ro" : "rw", o->writeback ? "writeback" : "writethrough",
	       atimes[o->atime]);
	if (o->nodiratime)
		append(buf, size, ",nodiratime");
	if (o->acl)
		append(buf, size, ",acl");
	if (o->discard)
		append(buf, size, ",discard");
	if (o->commit_ms)
		append(buf, size, ",commit=%g", o->commit_ms / 1000.0);
	if (o->cache_bytes)
		append(buf, size, ",cache_size=%zuK", o->cache_bytes >> 10);
	if (o->buffer_bytes)
		append(buf, size, ",buffer_size=%zuK", o->buffer_bytes >> 10);
	if (o->allow_other == MOUNT_ON)
		append(buf, size, ",allow_other");
	return buf;
}

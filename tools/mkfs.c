/*
 * mkfs.arbor - makes an empty filesystem on a block device or in an image file
 *
 * The order keeps what is there safe for as long as possible: the device is opened first (which takes its lock, and fails
 * where it is mounted), then looked at (libblkid knows what others have put there), then an image is made or grown, and
 * only then is anything overwritten. An image that did not exist is removed again where making the filesystem fails; one
 * that was grown gets its size back.
 *
 * A dry run is a real run in memory: the same code makes the filesystem in an anonymous file of the same size, so what it
 * says would work does work, up to the device's own failures.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/fs.h"
#include "tools/probe.h"
#include "tools/tool.h"

struct args {
	struct fs_mkfs_options fs;
	uint64_t size; /* bytes; 0: the device's */
	bool force, dry_run, quiet;
	const char *path;
};

static const char help[] = "Usage: mkfs.arbor [OPTION]... DEVICE\n"
			   "Makes an ArborFS filesystem on a block device or in an image file.\n"
			   "\n"
			   "  -L, --label=TEXT        a name for the filesystem, at most 64 bytes\n"
			   "  -U, --uuid=UUID         its uuid; `random` (the default) makes one\n"
			   "      --size=SIZE         use only so much of the device; with a file: make it, or\n"
			   "                          make it larger\n"
			   "      --node-size=SIZE    4K, 8K, 16K (the default) or 32K\n"
			   "      --log-size=SIZE     the default depends on the size: 1/16, at most 64M\n"
			   "      --copies            keep a second copy of each tree node (the default)\n"
			   "      --no-copies         do not\n"
			   "      --root-owner=UID[:GID]\n"
			   "                          who owns the root directory, numbers or names; the\n"
			   "                          default is who calls this\n"
			   "  -f, --force             overwrite what the device holds\n"
			   "  -n, --dry-run           say what would be made, and write nothing\n"
			   "  -q, --quiet             say nothing but errors\n"
			   "  -h, --help\n"
			   "  -V, --version\n"
			   "\n"
			   "Sizes are bytes, or have one of the suffixes K, M, G, T (powers of 1024).\n"
			   "Exit status: 0, or 1 after a failure.\n";

enum { OPT_SIZE = 256, OPT_NODE_SIZE, OPT_LOG_SIZE, OPT_COPIES, OPT_NO_COPIES, OPT_ROOT_OWNER };

static const struct option options[] = {
	{ "label", required_argument, NULL, 'L' },
	{ "uuid", required_argument, NULL, 'U' },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "node-size", required_argument, NULL, OPT_NODE_SIZE },
	{ "log-size", required_argument, NULL, OPT_LOG_SIZE },
	{ "copies", no_argument, NULL, OPT_COPIES },
	{ "no-copies", no_argument, NULL, OPT_NO_COPIES },
	{ "root-owner", required_argument, NULL, OPT_ROOT_OWNER },
	{ "force", no_argument, NULL, 'f' },
	{ "dry-run", no_argument, NULL, 'n' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* ---- the command line ---- */

/* Each prints what is wrong and returns -EINVAL. */
static int parse_size(const char *option, const char *text, uint64_t *ret)
{
	int err = tool_size_parse(text, ret);

	if (err == -ERANGE)
		tool_usage("%s=%s: too large", option, text);
	else if (err)
		tool_usage("%s=%s: not a size such as 4096, 16K or 10G", option, text);
	else if (*ret == 0)
		tool_usage("%s=%s: must be more than 0", option, text);
	return err || *ret == 0 ? -EINVAL : 0;
}

static int parse_node_size(const char *text, uint32_t *ret)
{
	uint64_t bytes;
	int err = parse_size("--node-size", text, &bytes);

	if (err)
		return err;
	if (bytes != 4096 && bytes != 8192 && bytes != 16384 && bytes != 32768) {
		tool_usage("--node-size=%s: must be 4K, 8K, 16K or 32K", text);
		return -EINVAL;
	}
	*ret = (uint32_t)bytes;
	return 0;
}

static int parse_log_size(const char *text, uint64_t *ret_blocks)
{
	uint64_t bytes;
	int err = parse_size("--log-size", text, &bytes);

	if (err)
		return err;
	if (bytes % BLOCK_SIZE) {
		tool_usage("--log-size=%s: must be a multiple of 4K", text);
		return -EINVAL;
	}
	*ret_blocks = bytes >> BLOCK_SHIFT;
	return 0;
}

static int parse_label(const char *text, const char **ret)
{
	if (strlen(text) > SUPER_LABEL_MAX) {
		tool_usage("--label: has %zu bytes, at most %u fit", strlen(text), SUPER_LABEL_MAX);
		return -EINVAL;
	}
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f) {
			tool_usage("--label: control characters cannot be part of it");
			return -EINVAL;
		}
	*ret = text;
	return 0;
}

static int parse_uuid(const char *text, uint8_t ret[16])
{
	int err = tool_uuid_parse(text, ret);

	if (err == -ERANGE)
		tool_usage("--uuid=%s: all zero is no uuid", text);
	else if (err)
		tool_usage("--uuid=%s: neither `random` nor of the form 01234567-89ab-cdef-0123-456789abcdef", text);
	return err ? -EINVAL : 0;
}

/* "UID[:GID]"; without a group, a user's name brings its own, and a number leaves it as it is. */
static int parse_owner(const char *text, uid_t *ret_uid, gid_t *ret_gid)
{
	const char *colon = strchr(text, ':');
	char user[256];
	uint64_t n;

	snprintf(user, sizeof(user), "%.*s", (int)(colon ? colon - text : (long)strlen(text)), text);
	if (tool_number_parse(user, 0, UINT32_MAX - 1, &n) == 0) {
		*ret_uid = (uid_t)n;
	} else {
		struct passwd *pw = getpwnam(user);

		if (!pw) {
			tool_usage("--root-owner=%s: there is no user `%s`", text, user);
			return -EINVAL;
		}
		*ret_uid = pw->pw_uid;
		*ret_gid = pw->pw_gid;
	}
	if (!colon)
		return 0;
	if (tool_number_parse(colon + 1, 0, UINT32_MAX - 1, &n) == 0) {
		*ret_gid = (gid_t)n;
	} else {
		struct group *gr = getgrnam(colon + 1);

		if (!gr) {
			tool_usage("--root-owner=%s: there is no group `%s`", text, colon + 1);
			return -EINVAL;
		}
		*ret_gid = gr->gr_gid;
	}
	return 0;
}

static int take_option(struct args *a, int opt)
{
	switch (opt) {
	case 'L':
		return parse_label(optarg, &a->fs.store.label);
	case 'U':
		return parse_uuid(optarg, a->fs.store.uuid);
	case OPT_SIZE:
		return parse_size("--size", optarg, &a->size);
	case OPT_NODE_SIZE:
		return parse_node_size(optarg, &a->fs.store.node_size);
	case OPT_LOG_SIZE:
		return parse_log_size(optarg, &a->fs.store.log_blocks);
	case OPT_COPIES:
	case OPT_NO_COPIES:
		a->fs.store.copies = opt == OPT_COPIES;
		return 0;
	case OPT_ROOT_OWNER:
		return parse_owner(optarg, &a->fs.uid, &a->fs.gid);
	case 'f':
		a->force = true;
		return 0;
	case 'n':
		a->dry_run = true;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	case 'h':
		fputs(help, stdout);
		exit(0);
	case 'V':
		puts("mkfs.arbor (ArborFS) " ARBOR_VERSION);
		exit(0);
	default: /* getopt has said what is wrong */
		fprintf(stderr, "Try `%s --help`.\n", tool_name());
		return -EINVAL;
	}
}

static int parse_args(int argc, char **argv, struct args *a)
{
	int opt;

	while ((opt = getopt_long(argc, argv, "L:U:fnqhV", options, NULL)) != -1) {
		int err = take_option(a, opt);

		if (err)
			return err;
	}
	if (argc - optind != 1) {
		tool_usage(argc == optind ? "which device?" : "more than one device: `%s`", argv[argc - 1]);
		return -EINVAL;
	}
	a->path = argv[optind];
	return 0;
}

/* ---- the device ---- */

/* What may stand in the way, apart from what opening finds out. */
static int check_target(const struct args *a)
{
	char text[PROBE_TEXT];
	int err;

	probe_loop(a->path, text);
	if (text[0]) {
		tool_error(a->path, "in use by %s; detach it first (losetup -d), or use the loop device", text);
		return -EBUSY;
	}
	err = probe_signature(a->path, text);
	if (err) {
		tool_error(a->path, "cannot be looked at for what it holds: %s", tool_why(err));
		return err;
	}
	if (text[0] && !a->force) {
		tool_error(a->path, "holds %s; use -f to overwrite it", text);
		return -EEXIST;
	}
	return 0;
}

static int set_size(const char *path, uint64_t bytes)
{
	int err = truncate(path, (off_t)bytes) ? -errno : 0;

	if (err)
		tool_error(path, "cannot be given a size of %" PRIu64 " bytes: %s", bytes, tool_why(err));
	return err;
}

static int create_image(const struct args *a)
{
	int fd = open(a->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	if (fd < 0) {
		int err = -errno;

		tool_error(a->path, "cannot be made: %s", tool_why(err));
		return err;
	}
	close(fd);
	return 0;
}

static void print_summary(struct bdev *dev, const struct args *a)
{
	char uuid[TOOL_UUID_TEXT], size[TOOL_SIZE_TEXT], node[TOOL_SIZE_TEXT], log[TOOL_SIZE_TEXT];
	static const uint8_t no_uuid[16];
	struct super s;
	unsigned slot;
	bool other;

	if (a->quiet || super_load(dev, &s, &slot, &other))
		return;
	tool_uuid_text(s.uuid, uuid);
	if (a->dry_run && !memcmp(a->fs.store.uuid, no_uuid, 16))
		snprintf(uuid, sizeof(uuid), "random");
	printf("%s: %s\n", a->path,
	       a->dry_run ? "this would be made; nothing was written" : "made an ArborFS filesystem");
	printf("  uuid       %s\n", uuid);
	printf("  label      %s\n", s.label[0] ? s.label : "(none)");
	printf("  size       %s (%" PRIu64 " blocks of 4 KiB)\n", tool_size_text(s.blocks << BLOCK_SHIFT, size),
	       s.blocks);
	printf("  node size  %s, %s\n", tool_size_text(s.node_size, node),
	       s.incompat & SUPER_INCOMPAT_COPIES ? "two copies of each node" : "one copy of each node");
	printf("  log        %s\n", tool_size_text(s.log_blocks << BLOCK_SHIFT, log));
}

static int make(struct bdev *dev, struct args *a)
{
	int err;

	a->fs.store.blocks = a->size >> BLOCK_SHIFT;
	err = fs_mkfs(dev, &a->fs); /* which says why not */
	if (!err)
		print_summary(dev, a);
	return err;
}

static int dry_run(struct args *a, uint64_t bytes)
{
	struct bdev_file_options how = { .buffered = true };
	struct bdev *dev = NULL;
	char path[64];
	int fd = memfd_create(tool_name(), MFD_CLOEXEC), err = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fd < 0 || ftruncate(fd, (off_t)bytes)) {
		err = -errno;
		tool_error(a->path, "no dry run: a file of %" PRIu64 " bytes in memory: %s", bytes, tool_why(err));
	}
	if (!err)
		err = tool_open(path, &how, &dev);
	a->fs.store.lazy_log = true;
	if (!err)
		err = make(dev, a);
	bdev_close(dev);
	if (fd >= 0)
		close(fd);
	return err;
}

/* The device is there, open and locked. */
static int run_on(struct bdev *dev, struct args *a, bool created, bool regular)
{
	uint64_t had = dev->geo.blocks << BLOCK_SHIFT, bytes = had;
	struct stat st;
	int err = created ? 0 : check_target(a);

	if (err)
		return err;
	if (a->size > had && !regular) {
		char want[TOOL_SIZE_TEXT], has[TOOL_SIZE_TEXT];

		tool_error(a->path, "has only %s; --size asks for %s", tool_size_text(had, has),
			   tool_size_text(a->size, want));
		return -ENOSPC;
	}
	if (a->size > had)
		bytes = a->size;
	if (a->dry_run)
		return dry_run(a, bytes);

	if (stat(a->path, &st))
		return -errno;
	if (bytes > had) {
		err = set_size(a->path, bytes);
		if (!err)
			err = bdev_resize(dev);
		if (err)
			return err;
	}
	if (!created) {
		err = probe_wipe(a->path);
		if (err)
			tool_error(a->path, "old signatures cannot be wiped: %s", tool_why(err));
	}
	if (!err)
		err = make(dev, a);
	if (err && bytes > had && !created)
		(void)set_size(a->path, (uint64_t)st.st_size);
	return err;
}

static int run(struct args *a)
{
	struct bdev_file_options how = { .read_only = a->dry_run };
	bool created = false;
	struct bdev *dev = NULL;
	struct stat st;
	int err;

	if (stat(a->path, &st)) {
		if (errno == ENOENT && !a->size) {
			tool_error(a->path, "no such file or device; with --size, an image file is made");
			return -ENOENT;
		}
		if (errno == ENOENT && a->dry_run)
			return dry_run(a, a->size);
		err = create_image(a);
		if (err)
			return err;
		created = true;
		if (stat(a->path, &st))
			return -errno;
	}
	err = tool_open(a->path, &how, &dev);
	if (!err)
		err = run_on(dev, a, created, S_ISREG(st.st_mode));
	bdev_close(dev);
	if (err && created)
		unlink(a->path);
	return err;
}

int main(int argc, char **argv)
{
	struct args a = {
		.fs = { .store = { .copies = true }, .uid = getuid(), .gid = getgid(), .mode = 0755 },
	};

	tool_init("mkfs.arbor");
	if (parse_args(argc, argv, &a))
		return 1;
	return run(&a) ? 1 : 0;
}

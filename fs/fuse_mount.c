/*
 * Mounting, and tuning what the protocol cannot.
 *
 * The kernel reads ahead 128 KiB on a FUSE mount whatever INIT says, and lets it have one percent of dirty memory; both are set
 * through the mount's backing device in sysfs, where root may do so. The device's number comes from mountinfo: stat(2) on
 * the mount point would be a request to ourselves.
 */
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 18)
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/fuse_mount.h"
#include "fs/fuse_ops.h"

#define READ_AHEAD_KB 2048
#define DIRTY_PERCENT 40

/* libfuse's first complaint while mounting: it says what the matter is, the later ones follow from it. It goes into the one
 * line that says so. */
static char complaint[MOUNT_ERROR_SIZE];
static bool mounting;

static void take_complaint(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[MOUNT_ERROR_SIZE];
	const char *from = line;
	size_t len;

	vsnprintf(line, sizeof(line), fmt, ap);
	if (strncmp(from, "fuse: ", 6) == 0)
		from += 6;
	len = strlen(from);
	while (len > 0 && from[len - 1] == '\n')
		len--;
	if (mounting && !complaint[0] && level <= FUSE_LOG_ERR)
		snprintf(complaint, sizeof(complaint), "%.*s", (int)len, from);
	err_log(!mounting && level <= FUSE_LOG_ERR ? LOG_WARNING : LOG_INFO, "fuse: %.*s", (int)len, from);
}

static bool is_empty(const char *path)
{
	DIR *d = opendir(path);
	bool empty = true;
	struct dirent *e;

	if (!d)
		return true; /* not ours to say */
	while (empty && (e = readdir(d)))
		empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
	closedir(d);
	return empty;
}

int mount_check(const struct mount_options *o, char error[MOUNT_ERROR_SIZE])
{
	struct stat st;

	if (stat(o->mountpoint, &st)) {
		if (errno == ENOTCONN)
			snprintf(error, MOUNT_ERROR_SIZE,
				 "%s: a mount whose daemon has ended is still here; unmount it first", o->mountpoint);
		else
			snprintf(error, MOUNT_ERROR_SIZE, "%s: the mount point cannot be used: %s", o->mountpoint,
				 errno == ENOENT ? "no such directory" : strerror(errno));
		return errno == EACCES ? MOUNT_USAGE : MOUNT_FAILED;
	}
	if (!S_ISDIR(st.st_mode)) {
		snprintf(error, MOUNT_ERROR_SIZE, "%s: the mount point is not a directory", o->mountpoint);
		return MOUNT_FAILED;
	}
	if (!o->nonempty && !is_empty(o->mountpoint)) {
		snprintf(error, MOUNT_ERROR_SIZE,
			 "%s: the mount point is not empty (-o nonempty mounts over what is there)", o->mountpoint);
		return MOUNT_FAILED;
	}
	if (access("/dev/fuse", F_OK)) {
		snprintf(error, MOUNT_ERROR_SIZE,
			 "/dev/fuse is missing: load the module fuse, or give it to the container");
		return MOUNT_FAILED;
	}
	if (geteuid() == 0 && access("/dev/fuse", R_OK | W_OK)) {
		snprintf(error, MOUNT_ERROR_SIZE, "/dev/fuse: %s", strerror(errno));
		return MOUNT_USAGE;
	}
	return 0;
}

static int add_options(const struct mount_options *o, const char *source, bool fuseblk, char **opts)
{
	bool root = geteuid() == 0;
	char name[PATH_MAX + 16];
	const struct {
		bool on;
		const char *text;
	} list[] = {
		{ true, "default_permissions" },
		{ true, "subtype=arbor" },
		{ o->allow_other == MOUNT_DEFAULT ? root : o->allow_other == MOUNT_ON, "allow_other" },
		{ o->dev == MOUNT_DEFAULT ? root : o->dev == MOUNT_ON, "dev" },
		{ o->suid == MOUNT_DEFAULT ? root : o->suid == MOUNT_ON, "suid" },
		{ o->read_only, "ro" },
		{ o->noexec, "noexec" },
		{ o->sync, "sync" },
		{ o->dirsync, "dirsync" },
		{ o->nosymfollow, "nosymfollow" },
		{ o->atime == FS_NOATIME, "noatime" },
		{ o->nodiratime, "nodiratime" },
		{ fuseblk, "blkdev" },
		{ fuseblk, "blksize=4096" },
		{ o->debug, "debug" },
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (list[i].on && fuse_opt_add_opt(opts, list[i].text))
			return -ENOMEM;
	snprintf(name, sizeof(name), "fsname=%s", source);
	return fuse_opt_add_opt_escaped(opts, name) ? -ENOMEM : 0;
}

int mount_session(struct mounted *m, const char *source, bool fuseblk, struct fuse_session **ret,
		  char error[MOUNT_ERROR_SIZE])
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_session *se = NULL;
	char *opts = NULL;
	int err = -ENOMEM;

	/* Its own io_uring must not start beside ours. */
	unsetenv("FUSE_URING_ENABLE");
	if (!m->opt->debug)
		fuse_set_log_func(take_complaint);
	complaint[0] = '\0';
	mounting = true;
	if (add_options(m->opt, source, fuseblk, &opts) || fuse_opt_add_arg(&args, "mount.arbor") ||
	    fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, opts)) {
		snprintf(error, MOUNT_ERROR_SIZE, "no memory");
		goto out;
	}
	err = -EIO;
	se = fuse_session_new(&args, &fuse_ops, sizeof(fuse_ops), m);
	if (!se || fuse_session_mount(se, m->opt->mountpoint)) {
		snprintf(error, MOUNT_ERROR_SIZE, "%s: cannot be mounted there: %s", m->opt->mountpoint,
			 complaint[0]	  ? complaint
			 : geteuid() == 0 ? "mount(2) failed"
					  : "fusermount3 failed (see above)");
		goto out;
	}
	*ret = se;
	se = NULL;
	err = 0;
out:
	mounting = false;
	if (se)
		fuse_session_destroy(se);
	fuse_opt_free_args(&args);
	mem_free(opts); /* of libfuse, from the same heap */
	return err;
}

/* ---- tuning ---- */

/* Undoes \040 and the like of mountinfo, in place. */
static void unescape(char *text)
{
	char *to = text;

	for (char *p = text; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] && p[3]) {
			*to++ = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
}

/* The last mount at this place is the one on top. */
static bool find_device(const char *mountpoint, char *ret, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[2 * PATH_MAX];
	bool found = false;

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		char dev[32], where[PATH_MAX], type[32];
		const char *rest = strstr(line, " - ");

		if (!rest || sscanf(line, "%*d %*d %31s %*s %4095s", dev, where) != 2 ||
		    sscanf(rest, " - %31s", type) != 1)
			continue;
		unescape(where);
		if (strcmp(where, mountpoint) != 0 || strncmp(type, "fuse", 4) != 0)
			continue;
		snprintf(ret, size, "%s%s", dev, strncmp(type, "fuseblk", 7) == 0 ? "-fuseblk" : "");
		found = true;
	}
	fclose(f);
	return found;
}

static void set(const char *device, const char *what, int value)
{
	char path[128], text[16];
	int fd;

	snprintf(path, sizeof(path), "/sys/class/bdi/%s/%s", device, what);
	snprintf(text, sizeof(text), "%d\n", value);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		err_log(LOG_INFO, "%s: %s", path, strerror(errno));
	close(fd);
}

void mount_tune(const char *mountpoint, bool writeback)
{
	char device[64];

	if (!find_device(mountpoint, device, sizeof(device)))
		return;
	set(device, "read_ahead_kb", READ_AHEAD_KB);
	/* Shared mappings make dirty pages in either mode. */
	set(device, "max_ratio", DIRTY_PERCENT);
	if (writeback)
		set(device, "strict_limit", 0);
}

/*
 * The driver that makes system calls, below a directory of any mounted filesystem. Files are opened for each operation and
 * closed behind it, but for the handles. Nothing here follows a symlink.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/kit/fsops.h"

static struct fsdrive_syscalls *self(struct fs_driver *driver)
{
	return (struct fsdrive_syscalls *)driver;
}

static int result(long n)
{
	return n < 0 ? -errno : 0;
}

/* For *at calls: the root itself is ".". */
static const char *rel(const char *path)
{
	return *path ? path : ".";
}

/* A path for calls that have no *at form. */
static const char *full(const struct fsdrive_syscalls *d, const char *path, char buf[8192])
{
	snprintf(buf, 8192, "%s/%s", d->root, path);
	return buf;
}

static const char *beside(const char *dir, const char *name, char buf[8192])
{
	snprintf(buf, 8192, "%s%s%s", dir, *dir ? "/" : "", name);
	return buf;
}

/* An open file, by handle or path; close_at ends its use. */
static int open_at(struct fsdrive_syscalls *d, int handle, const char *path, int flags, int *ret)
{
	*ret = handle >= 0 ? d->handle[handle]
			   : openat(d->dirfd, rel(path), flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return result(*ret);
}

static void close_at(int handle, int fd)
{
	if (handle < 0 && fd >= 0)
		close(fd);
}

static uint64_t ino_at(struct fsdrive_syscalls *d, const char *path)
{
	struct stat st;

	return fstatat(d->dirfd, rel(path), &st, AT_SYMLINK_NOFOLLOW) ? 0 : st.st_ino;
}

/* ---- names ---- */

static void do_make(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	uint32_t mode = a->op->mode;
	char path[8192];
	int fd;

	beside(a->dir, a->name, path);
	if (a->op->kind == FSOP_CREATE && a->op->seed & 4) {
		fd = openat(d->dirfd, path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode & 07777);
		r->err = result(fd);
		if (!r->err)
			close(fd);
	} else if (a->op->kind == FSOP_SYMLINK) {
		r->err = result(symlinkat(a->data, d->dirfd, path));
	} else if (S_ISDIR(mode)) {
		r->err = result(mkdirat(d->dirfd, path, mode & 07777));
	} else {
		r->err = result(mknodat(d->dirfd, path, mode, a->op->rdev));
	}
	r->ino = r->err ? 0 : ino_at(d, path);
}

static void do_tmpfile(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	int fd = openat(d->dirfd, rel(a->dir), O_TMPFILE | O_RDWR | O_CLOEXEC, a->op->mode & 07777);
	struct stat st;

	r->err = result(fd);
	if (r->err)
		return;
	r->err = result(fstat(fd, &st));
	r->ino = st.st_ino;
	d->handle[a->handle] = fd;
}

static void do_link(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	char path[8192], link[64];

	beside(a->dir2, a->name2, path);
	if (a->handle >= 0) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", d->handle[a->handle]);
		r->err = result(linkat(AT_FDCWD, link, d->dirfd, path, AT_SYMLINK_FOLLOW));
	} else {
		r->err = result(linkat(d->dirfd, rel(a->path), d->dirfd, path, 0));
	}
}

static void do_unlink(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	char path[8192];

	r->err = result(unlinkat(self(driver)->dirfd, beside(a->dir, a->name, path),
				 a->op->kind == FSOP_RMDIR ? AT_REMOVEDIR : 0));
}

static void do_rename(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	char from[8192], to[8192];

	beside(a->dir, a->name, from);
	beside(a->dir2, a->name2, to);
	r->err = result(renameat2(d->dirfd, from, d->dirfd, to, a->op->mode));
	if (!r->err && a->op->mode & RENAME_WHITEOUT)
		r->ino = ino_at(d, from);
}

static void do_open(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);

	r->err = open_at(d, -1, a->path, O_RDWR, &d->handle[a->handle2]);
}

static void do_close(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);

	r->err = result(close(d->handle[a->handle]));
	d->handle[a->handle] = -1;
}

/* ---- data ---- */

static void do_write(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	bool append = a->op->kind == FSOP_APPEND;
	struct fsdrive_syscalls *d = self(driver);
	ssize_t n;
	int fd;

	/* A handle has no O_APPEND of its own. */
	r->err = open_at(d, append ? -1 : a->handle, a->path, append ? O_WRONLY | O_APPEND : O_WRONLY, &fd);
	if (append && a->handle >= 0) {
		off_t end = lseek(d->handle[a->handle], 0, SEEK_END);

		fd = d->handle[a->handle];
		n = pwrite(fd, a->data, a->len, end);
		r->err = result(n);
	} else {
		if (r->err)
			return;
		n = append ? write(fd, a->data, a->len) : pwrite(fd, a->data, a->len, (off_t)a->op->off);
		r->err = result(n);
		close_at(a->handle, fd);
	}
	r->n = n < 0 ? 0 : (uint64_t)n;
}

/* Through memory, as far as the file goes. */
static void do_mapwrite(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	uint64_t from = a->op->off / 4096 * 4096, len;
	struct fsdrive_syscalls *d = self(driver);
	struct stat st;
	uint8_t *map;
	int fd;

	r->err = open_at(d, a->handle, a->path, O_RDWR, &fd);
	if (r->err)
		return;
	r->err = result(fstat(fd, &st));
	if (r->err || a->op->off >= (uint64_t)st.st_size)
		goto out;
	len = (uint64_t)st.st_size - a->op->off;
	if (len > a->len)
		len = a->len;
	map = mmap(NULL, a->op->off - from + len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)from);
	if (map == MAP_FAILED) {
		r->err = -errno;
		goto out;
	}
	memcpy(map + (a->op->off - from), a->data, len);
	if (a->op->seed & 8)
		r->err = result(msync(map, a->op->off - from + len, MS_SYNC));
	munmap(map, a->op->off - from + len);
	r->n = len;
out:
	close_at(a->handle, fd);
}

static void do_truncate(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	int fd;

	if (a->handle < 0 && a->op->off == 0 && a->op->seed & 4) {
		r->err = open_at(d, -1, a->path, O_WRONLY | O_TRUNC, &fd);
		close_at(-1, fd);
		return;
	}
	r->err = open_at(d, a->handle, a->path, O_WRONLY, &fd);
	if (r->err)
		return;
	r->err = result(ftruncate(fd, (off_t)a->op->off));
	close_at(a->handle, fd);
}

static void do_fallocate(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	int fd;

	r->err = open_at(self(driver), a->handle, a->path, O_WRONLY, &fd);
	if (r->err)
		return;
	r->err = result(fallocate(fd, (int)a->op->mode, (off_t)a->op->off, (off_t)a->op->len));
	close_at(a->handle, fd);
}

static void do_copy(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	off_t from = (off_t)a->op->off, to = (off_t)a->op->off2;
	struct fsdrive_syscalls *d = self(driver);
	int fd, fd2;
	ssize_t n;

	r->err = open_at(d, a->handle, a->path, O_RDONLY, &fd);
	if (r->err)
		return;
	r->err = open_at(d, a->handle2, a->path2, O_WRONLY, &fd2);
	if (!r->err) {
		n = copy_file_range(fd, &from, fd2, &to, a->op->len, 0);
		r->err = result(n);
		r->n = n < 0 ? 0 : (uint64_t)n;
		close_at(a->handle2, fd2);
	}
	close_at(a->handle, fd);
}

static void do_read(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	uint8_t *buf = fsop_answer_room(r, a->op->len + 1);
	ssize_t n;
	int fd;

	r->err = open_at(self(driver), a->handle, a->path, O_RDONLY, &fd);
	if (r->err)
		return;
	n = pread(fd, buf, a->op->len, (off_t)a->op->off);
	r->err = result(n);
	r->n = r->len = n < 0 ? 0 : (uint64_t)n;
	close_at(a->handle, fd);
}

static void do_seek(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	off_t at;
	int fd;

	r->err = open_at(self(driver), a->handle, a->path, O_RDONLY, &fd);
	if (r->err)
		return;
	at = lseek(fd, (off_t)a->op->off, (int)a->op->mode);
	r->err = result(at);
	r->n = at < 0 ? 0 : (uint64_t)at;
	close_at(a->handle, fd);
}

/* ---- looking ---- */

/* With the system call itself and a small buffer: readdir(3) reads far ahead. */
static void do_readdir(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	size_t size = a->op->chunk < 30 ? 300u * (a->op->chunk + 1u) : 32768;
	struct fsdrive_syscalls *d = self(driver);
	char buf[32768] __attribute__((aligned(8)));
	long n = 0;
	int fd;

	r->n_entries = 0;
	r->err = open_at(d, a->handle, a->path, O_RDONLY | O_DIRECTORY, &fd);
	if (r->err)
		return;
	while ((n = syscall(SYS_getdents64, fd, buf, size)) > 0)
		for (long at = 0; at < n;) {
			struct dirent64 *ent = (struct dirent64 *)(buf + at);
			struct fsop_entry *e = fsop_answer_entry(r);

			snprintf(e->name, sizeof(e->name), "%s", ent->d_name);
			e->ino = ent->d_ino;
			e->type = ent->d_type;
			at += ent->d_reclen;
		}
	r->err = result(n);
	close_at(a->handle, fd);
}

static void do_readlink(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	ssize_t n = readlinkat(self(driver)->dirfd, a->path, (char *)fsop_answer_room(r, 4097), 4097);

	r->err = *a->path ? result(n) : -EINVAL;
	r->len = n < 0 ? 0 : (size_t)n;
}

static void do_stat(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);

	r->attrs = (struct fsop_attrs){ 0 };
	if (a->handle >= 0)
		r->err = result(fstat(d->handle[a->handle], &r->attrs.st));
	else
		r->err = result(fstatat(d->dirfd, rel(a->path), &r->attrs.st, AT_SYMLINK_NOFOLLOW));
}

/* ---- attributes ---- */

static void do_chmod(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);

	if (a->handle >= 0)
		r->err = result(fchmod(d->handle[a->handle], a->op->mode));
	else
		r->err = result(fchmodat(d->dirfd, rel(a->path), a->op->mode, 0));
}

static void do_chown(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);

	if (a->handle >= 0)
		r->err = result(fchown(d->handle[a->handle], a->op->uid, a->op->gid));
	else
		r->err = result(fchownat(d->dirfd, rel(a->path), a->op->uid, a->op->gid, AT_SYMLINK_NOFOLLOW));
}

static void do_utimes(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct timespec times[2] = { a->atime, a->mtime };
	struct fsdrive_syscalls *d = self(driver);

	if (a->handle >= 0)
		r->err = result(futimens(d->handle[a->handle], times));
	else
		r->err = result(utimensat(d->dirfd, rel(a->path), times, AT_SYMLINK_NOFOLLOW));
}

static void do_xattr(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	int fd = a->handle >= 0 ? d->handle[a->handle] : -1;
	char path[8192];
	ssize_t n;

	full(d, fd < 0 ? a->path : "", path);
	switch (a->op->kind) {
	case FSOP_SETXATTR:
		n = fd >= 0 ? fsetxattr(fd, a->attr, a->data, a->len, (int)a->op->mode)
			    : lsetxattr(path, a->attr, a->data, a->len, (int)a->op->mode);
		r->err = result(n);
		break;
	case FSOP_REMOVEXATTR:
		n = fd >= 0 ? fremovexattr(fd, a->attr) : lremovexattr(path, a->attr);
		r->err = result(n);
		break;
	case FSOP_GETXATTR:
		fsop_answer_room(r, 65536);
		n = fd >= 0 ? fgetxattr(fd, a->attr, r->data, 65536) : lgetxattr(path, a->attr, r->data, 65536);
		r->err = result(n);
		r->len = n < 0 ? 0 : (size_t)n;
		break;
	default:
		fsop_answer_room(r, 65536);
		n = fd >= 0 ? flistxattr(fd, (char *)r->data, 65536) : llistxattr(path, (char *)r->data, 65536);
		r->err = result(n);
		r->len = n < 0 ? 0 : (size_t)n;
		break;
	}
}

/* ---- the whole ---- */

static void do_whole(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_syscalls *d = self(driver);
	struct statvfs st;
	int fd;

	switch (a->op->kind) {
	case FSOP_SYNC:
		r->err = result(a->op->seed & 4 ? syncfs(d->dirfd) : fsync(d->dirfd));
		break;
	case FSOP_FORGET_ALL: /* what the kernel keeps of names and attributes, where we may say so */
		fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
		if (fd >= 0) {
			if (write(fd, a->op->seed & 4 ? "2" : "3", 1) != 1)
				r->err = 0;
			close(fd);
		}
		break;
	default:
		r->err = result(fstatvfs(d->dirfd, &st));
		if (!r->err && (st.f_bfree > st.f_blocks || st.f_bavail > st.f_bfree || st.f_ffree > st.f_files))
			r->err = -EPROTO;
		break;
	}
}

static fs_driver_call *const syscalls[FSOP_COUNT] = {
	[FSOP_CREATE] = do_make,	 [FSOP_MKDIR] = do_make,	[FSOP_MKNOD] = do_make,
	[FSOP_SYMLINK] = do_make,	 [FSOP_LINK] = do_link,		[FSOP_UNLINK] = do_unlink,
	[FSOP_RMDIR] = do_unlink,	 [FSOP_RENAME] = do_rename,	[FSOP_OPEN] = do_open,
	[FSOP_CLOSE] = do_close,	 [FSOP_TMPFILE] = do_tmpfile,	[FSOP_WRITE] = do_write,
	[FSOP_APPEND] = do_write,	 [FSOP_MAPWRITE] = do_mapwrite, [FSOP_TRUNCATE] = do_truncate,
	[FSOP_FALLOCATE] = do_fallocate, [FSOP_COPY] = do_copy,		[FSOP_READ] = do_read,
	[FSOP_SEEK] = do_seek,		 [FSOP_READDIR] = do_readdir,	[FSOP_READLINK] = do_readlink,
	[FSOP_STAT] = do_stat,		 [FSOP_CHMOD] = do_chmod,	[FSOP_CHOWN] = do_chown,
	[FSOP_UTIMES] = do_utimes,	 [FSOP_SETXATTR] = do_xattr,	[FSOP_GETXATTR] = do_xattr,
	[FSOP_REMOVEXATTR] = do_xattr,	 [FSOP_LISTXATTR] = do_xattr,	[FSOP_SYNC] = do_whole,
	[FSOP_STATFS] = do_whole,	 [FSOP_FORGET_ALL] = do_whole,
};

#define FUSE_MAGIC 0x65735546

int fsdrive_syscalls_init(struct fsdrive_syscalls *d, const char *root)
{
	struct statfs st;

	*d = (struct fsdrive_syscalls){ .driver = { .calls = syscalls } };
	for (unsigned h = 0; h < FSM_HANDLES; h++)
		d->handle[h] = -1;
	snprintf(d->root, sizeof(d->root), "%s", root);
	d->dirfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->dirfd < 0)
		return -errno;
	/* The kernel checks a listing it keeps by the directory's mtime, which moving the directory does not change. */
	d->driver.old_dotdot = !fstatfs(d->dirfd, &st) && st.f_type == FUSE_MAGIC;
	return 0;
}

void fsdrive_syscalls_release(struct fsdrive_syscalls *d)
{
	for (unsigned h = 0; h < FSM_HANDLES; h++)
		if (d->handle[h] >= 0)
			close(d->handle[h]);
	close(d->dirfd);
}

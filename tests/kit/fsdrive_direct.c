/*
 * The driver that calls fs/fs.h. It resolves paths as a kernel without any cache would: a lookup for each component, and each
 * reference given back as soon as it is not needed any more. So a handle is the only thing that keeps a file alive.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fs.h"
#include "tests/kit/fsops.h"

static struct fsdrive_direct *self(struct fs_driver *driver)
{
	return (struct fsdrive_direct *)driver;
}

/* ---- finding ---- */

static void put(struct fsdrive_direct *d, uint64_t node)
{
	if (node && node != d->root)
		fs_forget(d->fs, node, 1);
}

static int resolve(struct fsdrive_direct *d, const char *path, uint64_t *ret)
{
	uint64_t node = d->root;

	if (!path)
		return -ENOENT;
	while (*path) {
		size_t len = strcspn(path, "/");
		char name[FSOP_NAME_SIZE];
		struct fs_entry e;
		int err;

		memcpy(name, path, len);
		name[len] = 0;
		err = fs_lookup(d->fs, node, name, &e);
		put(d, node);
		if (err)
			return err;
		node = e.node;
		path += len + (path[len] == '/');
	}
	*ret = node;
	return 0;
}

/* The file, by handle or path; put_at gives it back. */
static int get_at(struct fsdrive_direct *d, int handle, const char *path, uint64_t *ret)
{
	if (handle < 0)
		return resolve(d, path, ret);
	*ret = d->handle[handle];
	return *ret ? 0 : -EBADF;
}

static void put_at(struct fsdrive_direct *d, int handle, uint64_t node)
{
	if (handle < 0)
		put(d, node);
}

static struct fs_caller caller_of(const struct fsop_args *a)
{
	return (struct fs_caller){ .uid = a->uid, .gid = a->gid, .umask = a->umask };
}

static void made(struct fsdrive_direct *d, const struct fs_entry *e, struct fsop_answer *r)
{
	if (r->err)
		return;
	r->ino = e->st.st_ino;
	fs_forget(d->fs, e->node, 1);
}

static void attrs_of(struct fsdrive_direct *d, const struct fs_entry *e, struct fsop_answer *r)
{
	r->attrs.st = e->st;
	r->attrs.btime = e->btime;
	r->attrs.flags = 0;
	if (!r->err)
		r->err = fs_getflags(d->fs, e->node, &r->attrs.flags);
}

/* ---- names ---- */

static void do_mknod(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	struct fs_caller c = caller_of(a);
	struct fs_entry e;
	uint64_t dir = 0;

	r->err = resolve(d, a->dir, &dir);
	if (r->err)
		return;
	if (S_ISDIR(a->op->mode))
		r->err = fs_mkdir(d->fs, &c, dir, a->name, a->op->mode & 07777, &e);
	else
		r->err = fs_mknod(d->fs, &c, dir, a->name, a->op->mode, a->op->rdev, &e);
	made(d, &e, r);
	put(d, dir);
}

static void do_symlink(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	struct fs_caller c = caller_of(a);
	struct fs_entry e;
	uint64_t dir = 0;

	r->err = resolve(d, a->dir, &dir);
	if (r->err)
		return;
	r->err = fs_symlink(d->fs, &c, a->data, dir, a->name, &e);
	made(d, &e, r);
	put(d, dir);
}

static void do_tmpfile(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	struct fs_caller c = caller_of(a);
	struct fs_entry e;
	uint64_t dir = 0;

	r->err = resolve(d, a->dir, &dir);
	if (r->err)
		return;
	r->err = fs_tmpfile(d->fs, &c, dir, a->op->mode, &e);
	if (!r->err) {
		r->ino = e.st.st_ino;
		d->handle[a->handle] = e.node;
	}
	put(d, dir);
}

static void do_link(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t node = 0, dir = 0;
	struct fs_entry e;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = resolve(d, a->dir2, &dir);
	if (!r->err) {
		r->err = fs_link(d->fs, node, dir, a->name2, &e);
		made(d, &e, r);
		put(d, dir);
	}
	put_at(d, a->handle, node);
}

static void do_unlink(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t dir = 0;

	r->err = resolve(d, a->dir, &dir);
	if (r->err)
		return;
	r->err = a->op->kind == FSOP_RMDIR ? fs_rmdir(d->fs, dir, a->name) : fs_unlink(d->fs, dir, a->name);
	put(d, dir);
}

static void do_rename(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	struct fs_caller c = caller_of(a);
	uint64_t dir = 0, dir2 = 0;
	struct fs_entry e;

	r->err = resolve(d, a->dir, &dir);
	if (r->err)
		return;
	r->err = resolve(d, a->dir2, &dir2);
	if (!r->err) {
		r->err = fs_rename(d->fs, &c, dir, a->name, dir2, a->name2, a->op->mode);
		/* A whiteout is a new inode. */
		if (!r->err && a->op->mode & RENAME_WHITEOUT && !fs_lookup(d->fs, dir, a->name, &e))
			made(d, &e, r);
		put(d, dir2);
	}
	put(d, dir);
}

static void do_open(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);

	r->err = resolve(d, a->path, &d->handle[a->handle2]);
}

static void do_close(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);

	r->err = 0;
	fs_forget(d->fs, d->handle[a->handle], 1);
	d->handle[a->handle] = 0;
}

/* ---- data ---- */

static void do_write(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	unsigned flags = a->op->kill_priv ? FS_WRITE_KILL_PRIV : 0;
	uint64_t node = 0;

	if (a->op->kind == FSOP_APPEND)
		flags |= FS_WRITE_APPEND;
	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_write(d->fs, node, a->data, a->len, a->op->off, flags);
	r->n = r->err ? 0 : a->len;
	put_at(d, a->handle, node);
}

static void set(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r, unsigned what,
		const struct stat *st)
{
	struct fsdrive_direct *d = self(driver);
	struct fs_entry e;
	uint64_t node = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_setattr(d->fs, node, what, st, &e);
	put_at(d, a->handle, node);
}

static void do_truncate(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct stat st = { .st_size = (off_t)a->op->off };

	set(driver, a, r, FS_SET_SIZE | (a->op->kill_priv ? FS_SET_KILL_PRIV : 0), &st);
}

static void do_fallocate(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t node = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_fallocate(d->fs, node, (int)a->op->mode, a->op->off, a->op->len);
	put_at(d, a->handle, node);
}

static void do_copy(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t from = 0, to = 0;

	r->err = get_at(d, a->handle, a->path, &from);
	if (r->err)
		return;
	r->err = get_at(d, a->handle2, a->path2, &to);
	if (!r->err) {
		r->err = fs_copy_range(d->fs, from, a->op->off, to, a->op->off2, a->op->len, &r->n);
		put_at(d, a->handle2, to);
	}
	put_at(d, a->handle, from);
}

static void do_read(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	void *buf = aligned_alloc(BLOCK_SIZE, FS_READ_BUFFER(a->op->len)); /* not one of those that are made to fail */
	const void *data = NULL;
	uint64_t node = 0;
	size_t len = 0;

	if (!buf)
		abort();
	r->err = get_at(d, a->handle, a->path, &node);
	if (!r->err) {
		r->err = fs_read(d->fs, node, a->op->off, a->op->len, buf, &data, &len);
		if (!r->err && len)
			memcpy(fsop_answer_room(r, len), data, len);
		r->n = r->len = r->err ? 0 : len;
		put_at(d, a->handle, node);
	}
	free(buf);
}

static void do_seek(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t node = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_seek(d->fs, node, a->op->off, (int)a->op->mode, &r->n);
	put_at(d, a->handle, node);
}

/* ---- looking ---- */

struct listing {
	struct fsdrive_direct *d;
	struct fsop_answer *r;
	unsigned left;
	uint64_t next;
};

static int take_entry(void *arg, const struct fs_dirent *ent)
{
	struct listing *l = arg;
	struct fsop_entry *e;

	if (!l->left)
		return 1;
	l->left--;
	e = fsop_answer_entry(l->r);
	snprintf(e->name, sizeof(e->name), "%s", ent->name);
	e->ino = ent->ino;
	e->type = ent->type;
	l->next = ent->next;
	if (ent->entry) {
		if (ent->entry->st.st_ino != ent->ino)
			l->r->err = -EPROTO;
		fs_forget(l->d->fs, ent->entry->node, 1);
	}
	return 0;
}

static void do_readdir(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct listing l = { .d = self(driver), .r = r };
	uint64_t node = 0;

	r->n_entries = 0;
	r->err = get_at(l.d, a->handle, a->path, &node);
	if (r->err)
		return;
	do {
		l.left = a->op->chunk;
		r->err = fs_readdir(l.d->fs, node, l.next, a->op->seed & 1, take_entry, &l);
	} while (!r->err && !l.left);
	put_at(l.d, a->handle, node);
}

static void do_readlink(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t node = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_readlink(d->fs, node, (char *)fsop_answer_room(r, 4097), 4097, &r->len);
	if (!r->err && strlen((char *)r->data) != r->len)
		r->err = -EPROTO;
	put_at(d, a->handle, node);
}

static void do_stat(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	struct fs_entry e;
	uint64_t node = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_getattr(d->fs, node, &e);
	if (!r->err)
		attrs_of(d, &e, r);
	put_at(d, a->handle, node);
}

/* ---- attributes ---- */

static void do_chmod(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct stat st = { .st_mode = a->op->mode };

	set(driver, a, r, FS_SET_MODE, &st);
}

static void do_chown(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct stat st = { .st_uid = a->op->uid, .st_gid = a->op->gid };

	set(driver, a, r, (a->op->uid != (uint32_t)-1 ? FS_SET_UID : 0) | (a->op->gid != (uint32_t)-1 ? FS_SET_GID : 0),
	    &st);
}

static void do_utimes(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct stat st = { .st_atim = a->atime, .st_mtim = a->mtime };

	set(driver, a, r, FS_SET_ATIME | FS_SET_MTIME, &st);
}

static void do_setflags(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t node = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	r->err = fs_setflags(d->fs, node, a->op->mode);
	put_at(d, a->handle, node);
}

static void do_xattr(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	uint64_t node = 0;
	size_t len = 0;

	r->err = get_at(d, a->handle, a->path, &node);
	if (r->err)
		return;
	switch (a->op->kind) {
	case FSOP_SETXATTR:
		r->err = fs_setxattr(d->fs, node, a->attr, a->data, a->len, (int)a->op->mode, false);
		break;
	case FSOP_REMOVEXATTR:
		r->err = fs_removexattr(d->fs, node, a->attr);
		break;
	case FSOP_GETXATTR:
		r->err = fs_getxattr(d->fs, node, a->attr, NULL, 0, &len);
		if (!r->err && len)
			r->err = fs_getxattr(d->fs, node, a->attr, fsop_answer_room(r, len), len, &len);
		r->len = len;
		break;
	default:
		r->err = fs_listxattr(d->fs, node, NULL, 0, &len);
		if (!r->err && len)
			r->err = fs_listxattr(d->fs, node, (char *)fsop_answer_room(r, len), len, &len);
		r->len = len;
		break;
	}
	put_at(d, a->handle, node);
}

/* ---- the whole ---- */

static void do_whole(struct fs_driver *driver, const struct fsop_args *a, struct fsop_answer *r)
{
	struct fsdrive_direct *d = self(driver);
	struct statvfs st;

	switch (a->op->kind) {
	case FSOP_SYNC:
		r->err = fs_sync(d->fs);
		break;
	case FSOP_TICK:
		r->err = store_tick(fs_store(d->fs));
		break;
	case FSOP_CHECKPOINT:
		r->err = store_checkpoint(fs_store(d->fs));
		break;
	case FSOP_FORGET_ALL:
		r->err = fs_reap(d->fs);
		break;
	default:
		r->err = fs_statfs(d->fs, &st);
		if (!r->err && (st.f_bfree > st.f_blocks || st.f_bavail > st.f_bfree || st.f_namemax != 255 ||
				st.f_ffree > st.f_files))
			r->err = -EPROTO;
		break;
	}
}

static fs_driver_call *const direct_calls[FSOP_COUNT] = {
	[FSOP_CREATE] = do_mknod,      [FSOP_MKDIR] = do_mknod,	      [FSOP_MKNOD] = do_mknod,
	[FSOP_SYMLINK] = do_symlink,   [FSOP_LINK] = do_link,	      [FSOP_UNLINK] = do_unlink,
	[FSOP_RMDIR] = do_unlink,      [FSOP_RENAME] = do_rename,     [FSOP_OPEN] = do_open,
	[FSOP_CLOSE] = do_close,       [FSOP_TMPFILE] = do_tmpfile,   [FSOP_WRITE] = do_write,
	[FSOP_APPEND] = do_write,      [FSOP_TRUNCATE] = do_truncate, [FSOP_FALLOCATE] = do_fallocate,
	[FSOP_COPY] = do_copy,	       [FSOP_READ] = do_read,	      [FSOP_SEEK] = do_seek,
	[FSOP_READDIR] = do_readdir,   [FSOP_READLINK] = do_readlink, [FSOP_STAT] = do_stat,
	[FSOP_CHMOD] = do_chmod,       [FSOP_CHOWN] = do_chown,	      [FSOP_UTIMES] = do_utimes,
	[FSOP_SETFLAGS] = do_setflags, [FSOP_SETXATTR] = do_xattr,    [FSOP_GETXATTR] = do_xattr,
	[FSOP_REMOVEXATTR] = do_xattr, [FSOP_LISTXATTR] = do_xattr,   [FSOP_SYNC] = do_whole,
	[FSOP_STATFS] = do_whole,      [FSOP_TICK] = do_whole,	      [FSOP_CHECKPOINT] = do_whole,
	[FSOP_FORGET_ALL] = do_whole,
};

void fsdrive_direct_init(struct fsdrive_direct *d, struct fs *fs, uint64_t root)
{
	*d = (struct fsdrive_direct){ .driver = { .calls = direct_calls, .callers = true }, .fs = fs, .root = root };
}

#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "tests/kit/fsmodel.h"

/* ---- what is common ---- */

static void wrong(struct fsm *m, int err)
{
	for (unsigned i = 0; i < m->n_errs; i++)
		if (m->errs[i] == err)
			return;
	if (m->n_errs < FSM_ERRS)
		m->errs[m->n_errs++] = err;
}

/* Whether the operation is to happen. Every check is behind it. */
static bool go(const struct fsm *m)
{
	return m->apply && !m->n_errs;
}

/* To be called before anything of the inode changes. */
static void dirty(struct fsm *m, struct fsm_inode *node)
{
	if (node->clean)
		m->digest -= node->digest;
	node->clean = false;
}

static void touch_ctime(struct fsm *m, struct fsm_inode *node)
{
	dirty(m, node);
	node->ctime = m->now;
}

static void touch(struct fsm *m, struct fsm_inode *node)
{
	touch_ctime(m, node);
	node->mtime = m->now;
}

static void settle(struct fsm *m, struct fsm_inode *node)
{
	if (node->nlink || node->holds)
		return;
	dirty(m, node);
	m->inodes[node->id] = NULL;
	for (size_t i = 0; i < node->n_names; i++)
		free(node->names[i].name);
	fsm_wipe(node, 0, UINT64_MAX);
	for (size_t i = 0; i < node->n_xattrs; i++) {
		free(node->xattrs[i].name);
		free(node->xattrs[i].val);
	}
	free(node->names);
	free(node->xattrs);
	free(node->slots);
	free(node->target);
	free(node);
}

/* A place for a name, or where one should be. */
static bool place(struct fsm *m, const struct fsm_inode *dir, const char *name)
{
	if (!dir)
		wrong(m, ENOENT);
	else if (!S_ISDIR(dir->mode))
		wrong(m, ENOTDIR);
	if (strlen(name) > FSM_NAME_MAX)
		wrong(m, ENAMETOOLONG);
	return dir && S_ISDIR(dir->mode);
}

static void place_for_new(struct fsm *m, const struct fsm_inode *dir, const char *name)
{
	if (!place(m, dir, name))
		return;
	if (dir->flags & FSM_IMMUTABLE)
		wrong(m, EPERM);
	if (fsm_find(m, dir, name))
		wrong(m, EEXIST);
}

/* A name may go from its directory. */
static void may_leave(struct fsm *m, const struct fsm_inode *dir, const struct fsm_inode *node)
{
	if ((dir->flags | node->flags) & (FSM_IMMUTABLE | FSM_APPEND))
		wrong(m, EPERM);
}

static void remove_name(struct fsm_inode *dir, const char *name)
{
	for (size_t i = 0; i < dir->n_names; i++)
		if (!strcmp(dir->names[i].name, name)) {
			free(dir->names[i].name);
			dir->names[i] = dir->names[--dir->n_names];
			return;
		}
}

static void set_name(struct fsm_inode *dir, const char *name, uint32_t id)
{
	for (size_t i = 0; i < dir->n_names; i++)
		if (!strcmp(dir->names[i].name, name)) {
			dir->names[i].id = id;
			return;
		}
	fsm_add_name(dir, name, id);
}

static void kill_priv(struct fsm_inode *node)
{
	if (S_ISDIR(node->mode))
		return;
	node->mode &= ~(uint32_t)S_ISUID;
	if (node->mode & S_IXGRP)
		node->mode &= ~(uint32_t)S_ISGID;
}

static void drop_xattr(struct fsm_inode *node, const char *name)
{
	for (size_t i = 0; i < node->n_xattrs; i++)
		if (!strcmp(node->xattrs[i].name, name)) {
			free(node->xattrs[i].name);
			free(node->xattrs[i].val);
			node->xattrs[i] = node->xattrs[--node->n_xattrs];
			return;
		}
}

/* A regular file whose content can be worked with. */
static bool regular(struct fsm *m, const struct fsm_inode *node)
{
	if (!node)
		wrong(m, ENOENT);
	else if (S_ISDIR(node->mode))
		wrong(m, EISDIR);
	else if (!S_ISREG(node->mode))
		wrong(m, EINVAL);
	if (node && !S_ISREG(node->mode) && node->flags & (FSM_IMMUTABLE | FSM_APPEND))
		wrong(m, EPERM);
	return node && S_ISREG(node->mode);
}

/* ---- names ---- */

static struct fsm_inode *make(struct fsm *m, const struct fsm_inode *dir, uint32_t mode)
{
	struct fsm_inode *node = fsm_add_inode(m, m->made, mode);

	if (!S_ISLNK(mode))
		node->mode &= ~m->umask;
	node->uid = m->uid;
	node->gid = m->gid;
	node->nlink = 1;
	if (dir->mode & S_ISGID) {
		node->gid = dir->gid;
		if (S_ISDIR(mode))
			node->mode |= S_ISGID;
	}
	node->atime = node->mtime = node->ctime = node->btime = m->now;
	return node;
}

void fsm_create(struct fsm *m, struct fsm_inode *dir, const char *name, uint32_t mode, dev_t rdev)
{
	struct fsm_inode *node;

	place_for_new(m, dir, name);
	if (!go(m))
		return;
	node = make(m, dir, mode);
	if (S_ISCHR(mode) || S_ISBLK(mode))
		node->rdev = rdev;
	touch(m, dir);
	fsm_add_name(dir, name, node->id);
	if (S_ISDIR(mode)) {
		node->nlink = 2;
		node->parent = dir->id;
		dir->nlink++;
	}
}

void fsm_symlink(struct fsm *m, struct fsm_inode *dir, const char *name, const char *target)
{
	struct fsm_inode *node;

	place_for_new(m, dir, name);
	if (!go(m))
		return;
	node = make(m, dir, S_IFLNK | 0777);
	node->target = strdup(target);
	node->size = strlen(target);
	touch(m, dir);
	fsm_add_name(dir, name, node->id);
}

void fsm_tmpfile(struct fsm *m, struct fsm_inode *dir, uint32_t mode, unsigned handle)
{
	struct fsm_inode *node;

	place(m, dir, "");
	if (!go(m))
		return;
	node = make(m, dir, mode);
	node->nlink = 0;
	node->linkable = true;
	m->handle[handle] = node;
	node->holds = 1;
}

void fsm_link(struct fsm *m, struct fsm_inode *node, struct fsm_inode *dir, const char *name)
{
	place_for_new(m, dir, name);
	if (!node) {
		wrong(m, ENOENT);
		return;
	}
	if (S_ISDIR(node->mode) || node->flags & (FSM_IMMUTABLE | FSM_APPEND))
		wrong(m, EPERM);
	if (!node->nlink && !node->linkable)
		wrong(m, ENOENT);
	if (!go(m))
		return;
	touch(m, dir);
	touch_ctime(m, node);
	node->nlink++;
	node->linkable = false;
	fsm_add_name(dir, name, node->id);
}

void fsm_unlink(struct fsm *m, struct fsm_inode *dir, const char *name)
{
	struct fsm_inode *node = fsm_find(m, dir, name);

	if (place(m, dir, name) && !node)
		wrong(m, ENOENT);
	if (node)
		may_leave(m, dir, node);
	if (node && S_ISDIR(node->mode))
		wrong(m, EISDIR);
	if (!go(m))
		return;
	touch(m, dir);
	touch_ctime(m, node);
	remove_name(dir, name);
	node->nlink--;
	settle(m, node);
}

void fsm_rmdir(struct fsm *m, struct fsm_inode *dir, const char *name)
{
	struct fsm_inode *node = fsm_find(m, dir, name);

	if (place(m, dir, name) && !node)
		wrong(m, ENOENT);
	if (node)
		may_leave(m, dir, node);
	if (node && !S_ISDIR(node->mode))
		wrong(m, ENOTDIR);
	if (node && node->n_names)
		wrong(m, ENOTEMPTY);
	if (!go(m))
		return;
	touch(m, dir);
	dirty(m, node);
	remove_name(dir, name);
	dir->nlink--;
	node->nlink = 0;
	settle(m, node);
}

/* Whether `node` is `dir` or above it. */
static bool is_above(const struct fsm *m, const struct fsm_inode *node, const struct fsm_inode *dir)
{
	for (; dir && dir != node; dir = fsm_inode(m, dir->parent))
		if (dir->id == FSM_ROOT)
			return false;
	return dir == node;
}

static void judge_rename(struct fsm *m, struct fsm_inode *dir, struct fsm_inode *node, struct fsm_inode *dir2,
			 struct fsm_inode *node2, unsigned flags)
{
	if (!node)
		wrong(m, ENOENT);
	if (node2 && flags & RENAME_NOREPLACE)
		wrong(m, EEXIST);
	if (!node2 && flags & RENAME_EXCHANGE)
		wrong(m, ENOENT);
	if (!node)
		return;
	if (S_ISDIR(node->mode) && is_above(m, node, dir2))
		wrong(m, EINVAL);
	if (node2 && S_ISDIR(node2->mode) && is_above(m, node2, dir))
		wrong(m, flags & RENAME_EXCHANGE ? EINVAL : ENOTEMPTY);
	if (node == node2 && !m->n_errs)
		return;
	may_leave(m, dir, node);
	if (node2)
		may_leave(m, dir2, node2);
	else if (dir2->flags & FSM_IMMUTABLE)
		wrong(m, EPERM);
	if (!node2 || flags & RENAME_EXCHANGE)
		return;
	if (S_ISDIR(node->mode) && !S_ISDIR(node2->mode))
		wrong(m, ENOTDIR);
	if (!S_ISDIR(node->mode) && S_ISDIR(node2->mode))
		wrong(m, EISDIR);
	if (S_ISDIR(node2->mode) && node2->n_names)
		wrong(m, ENOTEMPTY);
}

static void reparent(struct fsm_inode *node, struct fsm_inode *from, struct fsm_inode *to)
{
	if (!S_ISDIR(node->mode))
		return;
	from->nlink--;
	to->nlink++;
	node->parent = to->id;
}

void fsm_rename(struct fsm *m, struct fsm_inode *dir, const char *name, struct fsm_inode *dir2, const char *name2,
		unsigned flags)
{
	struct fsm_inode *node = fsm_find(m, dir, name), *node2 = fsm_find(m, dir2, name2);
	bool places = place(m, dir, name);

	places = place(m, dir2, name2) && places;
	if (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT))
		wrong(m, EINVAL);
	if (places)
		judge_rename(m, dir, node, dir2, node2, flags);
	if (!go(m) || node == node2)
		return;
	touch(m, dir);
	touch(m, dir2);
	touch_ctime(m, node);
	if (flags & RENAME_EXCHANGE) {
		touch_ctime(m, node2);
		set_name(dir, name, node2->id);
		set_name(dir2, name2, node->id);
		reparent(node, dir, dir2);
		reparent(node2, dir2, dir);
		return;
	}
	remove_name(dir, name);
	set_name(dir2, name2, node->id);
	reparent(node, dir, dir2);
	if (flags & RENAME_WHITEOUT) {
		struct fsm_inode *white = make(m, dir, S_IFCHR);

		fsm_add_name(dir, name, white->id);
	}
	if (!node2)
		return;
	touch_ctime(m, node2);
	if (S_ISDIR(node2->mode)) {
		dir2->nlink--;
		node2->nlink = 0;
	} else {
		node2->nlink--;
	}
	settle(m, node2);
}

/* ---- handles ---- */

void fsm_open(struct fsm *m, struct fsm_inode *node, unsigned handle)
{
	if (!node)
		wrong(m, ENOENT);
	if (!go(m))
		return;
	m->handle[handle] = node;
	node->holds++;
}

void fsm_close(struct fsm *m, unsigned handle)
{
	struct fsm_inode *node = m->handle[handle];

	if (!go(m) || !node)
		return;
	m->handle[handle] = NULL;
	node->holds--;
	settle(m, node);
}

/* ---- data ---- */

void fsm_write(struct fsm *m, struct fsm_inode *node, uint64_t off, const void *bytes, size_t len, bool append,
	       bool kill)
{
	if (!regular(m, node))
		return;
	if (node->flags & FSM_IMMUTABLE || (node->flags & FSM_APPEND && !append))
		wrong(m, EPERM);
	if (append)
		off = node->size;
	if (off > FSM_SIZE_MAX || len > FSM_SIZE_MAX - off)
		wrong(m, EFBIG);
	if (!go(m) || !len)
		return;
	touch(m, node);
	fsm_add_bytes(node, off, bytes, len);
	if (off + len > node->size)
		node->size = off + len;
	if (kill)
		kill_priv(node);
	drop_xattr(node, "security.capability");
}

static void set_size(struct fsm_inode *node, uint64_t size)
{
	if (size < node->size)
		fsm_wipe(node, size, UINT64_MAX);
	node->size = size;
}

void fsm_truncate(struct fsm *m, struct fsm_inode *node, uint64_t size, bool kill)
{
	if (!regular(m, node))
		return;
	if (node->flags & (FSM_IMMUTABLE | FSM_APPEND))
		wrong(m, EPERM);
	if (size > FSM_SIZE_MAX)
		wrong(m, EFBIG);
	if (!go(m))
		return;
	touch(m, node);
	set_size(node, size);
	if (kill)
		kill_priv(node);
	drop_xattr(node, "security.capability");
}

void fsm_fallocate(struct fsm *m, struct fsm_inode *node, int mode, uint64_t off, uint64_t len)
{
	bool keep = mode & FALLOC_FL_KEEP_SIZE;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		wrong(m, EOPNOTSUPP);
	if (mode & FALLOC_FL_PUNCH_HOLE && (!keep || mode & FALLOC_FL_ZERO_RANGE))
		wrong(m, EOPNOTSUPP);
	if (!len)
		wrong(m, EINVAL);
	if (off > FSM_SIZE_MAX || len > FSM_SIZE_MAX - off)
		wrong(m, EFBIG);
	if (!regular(m, node))
		return;
	if (node->flags & FSM_IMMUTABLE || (node->flags & FSM_APPEND && mode & ~FALLOC_FL_KEEP_SIZE))
		wrong(m, EPERM);
	if (!go(m))
		return;
	touch(m, node);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		fsm_wipe(node, off, off + len);
	if (!keep && off + len > node->size)
		node->size = off + len;
	kill_priv(node);
	drop_xattr(node, "security.capability");
}

void fsm_copy(struct fsm *m, struct fsm_inode *from, uint64_t off, struct fsm_inode *to, uint64_t off2, uint64_t len)
{
	bool both = regular(m, from);
	uint8_t *buf;

	both = regular(m, to) && both;
	if (!both)
		return;
	if (to->flags & (FSM_IMMUTABLE | FSM_APPEND))
		wrong(m, EPERM);
	if (off2 > FSM_SIZE_MAX || len > FSM_SIZE_MAX - off2)
		wrong(m, EFBIG);
	if (from == to && off < off2 + len && off2 < off + len)
		wrong(m, EINVAL);
	if (!go(m) || !len)
		return;
	buf = malloc(len);
	if (!buf)
		abort();
	fsm_bytes(from, off, len, buf);
	touch(m, to);
	fsm_add_bytes(to, off2, buf, len);
	free(buf);
	if (off2 + len > to->size)
		to->size = off2 + len;
	kill_priv(to);
	drop_xattr(to, "security.capability");
}

static void accessed(struct fsm *m, struct fsm_inode *node)
{
	if (!go(m) || !m->atime)
		return;
	dirty(m, node);
	node->atime = m->now;
}

void fsm_read(struct fsm *m, struct fsm_inode *node)
{
	if (regular(m, node))
		accessed(m, node);
}

void fsm_readdir(struct fsm *m, struct fsm_inode *node)
{
	if (!node)
		wrong(m, ENOENT);
	else if (!S_ISDIR(node->mode))
		wrong(m, ENOTDIR);
	else
		accessed(m, node);
}

void fsm_readlink(struct fsm *m, struct fsm_inode *node)
{
	if (!node)
		wrong(m, ENOENT);
	else if (!S_ISLNK(node->mode))
		wrong(m, EINVAL);
	else
		accessed(m, node);
}

void fsm_seek(struct fsm *m, struct fsm_inode *node, uint64_t off)
{
	if (regular(m, node) && off >= node->size)
		wrong(m, ENXIO);
}

/* ---- attributes ---- */

static bool changeable(struct fsm *m, const struct fsm_inode *node)
{
	if (!node)
		wrong(m, ENOENT);
	else if (node->flags & (FSM_IMMUTABLE | FSM_APPEND))
		wrong(m, EPERM);
	return node;
}

void fsm_chmod(struct fsm *m, struct fsm_inode *node, uint32_t mode)
{
	changeable(m, node);
	if (!go(m))
		return;
	touch_ctime(m, node);
	node->mode = (node->mode & S_IFMT) | mode;
}

void fsm_chown(struct fsm *m, struct fsm_inode *node, uint32_t uid, uint32_t gid)
{
	changeable(m, node);
	if (!go(m))
		return;
	touch_ctime(m, node);
	if (uid != (uint32_t)-1)
		node->uid = uid;
	if (gid != (uint32_t)-1)
		node->gid = gid;
	kill_priv(node);
	if (!S_ISDIR(node->mode))
		drop_xattr(node, "security.capability");
}

void fsm_utimes(struct fsm *m, struct fsm_inode *node, struct timespec atime, struct timespec mtime)
{
	changeable(m, node);
	if (!go(m))
		return;
	touch_ctime(m, node);
	node->atime = atime;
	node->mtime = mtime;
}

void fsm_setflags(struct fsm *m, struct fsm_inode *node, uint32_t flags)
{
	if (!node)
		wrong(m, ENOENT);
	else if (!S_ISREG(node->mode) && !S_ISDIR(node->mode))
		wrong(m, EOPNOTSUPP);
	if (!go(m))
		return;
	touch_ctime(m, node);
	node->flags = flags;
}

void fsm_setxattr(struct fsm *m, struct fsm_inode *node, const char *name, const void *val, size_t size, int flags)
{
	changeable(m, node);
	if (node && flags & XATTR_CREATE && fsm_xattr_find(node, name))
		wrong(m, EEXIST);
	if (node && flags & XATTR_REPLACE && !fsm_xattr_find(node, name))
		wrong(m, ENODATA);
	if (!go(m))
		return;
	touch_ctime(m, node);
	fsm_add_xattr(node, name, val, size);
}

void fsm_removexattr(struct fsm *m, struct fsm_inode *node, const char *name)
{
	changeable(m, node);
	if (node && !fsm_xattr_find(node, name))
		wrong(m, ENODATA);
	if (!go(m))
		return;
	touch_ctime(m, node);
	drop_xattr(node, name);
}

void fsm_getxattr(struct fsm *m, struct fsm_inode *node, const char *name)
{
	if (!node)
		wrong(m, ENOENT);
	else if (!fsm_xattr_find(node, name))
		wrong(m, ENODATA);
}

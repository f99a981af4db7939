/*
 * namei.c - finding, making and removing names
 *
 * Every operation here has one shape: find the names, lock the directories and inodes concerned, look again, check what
 * only a filesystem can check, and put all that changes into one batch: the name, the inode it refers to, the
 * directory's size and times. Directories count what is in them (size: names; nlink: 2 + subdirectories), so that rmdir
 * decides on one item.
 *
 * References against deletion. An inode without a name is deleted when nobody refers to it, and who removes the last
 * name must know. So whoever returns an inode takes the reference first and looks at the inode then: if it has a name
 * at that moment, its last name goes later, and whoever takes that will find the reference (lookups_mark). If it has
 * none, the reference is given back, and what was found is not to be returned: a name found before may have been
 * removed, or may refer to another inode by now (rename over it), so the name is looked up again. Only a name that goes
 * on referring to an inode without names is damage. An inode that is just being made is referred to before the batch
 * that makes it can be seen.
 *
 * Lookups take no locks: each item is seen whole, and the order above makes what is returned right at one moment of the
 * call.
 *
 * Names that are never in a directory: "." and ".." (found by what the inode says), and the control directory's at
 * live's root, which is found elsewhere and only kept free here. For a kernel's requests the first two never come;
 * errors are Linux's.
 */
#include <dirent.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/sysmacros.h>
#undef BLOCK_SIZE

#include "fs/acl.h"
#include "fs/fs_int.h"
#include "fs/namei.h"
#include "fs/orphan.h"

/* ---- what operations share ---- */

enum name_kind name_kind(uint64_t parent, const char *name)
{
	if (name[0] != '.')
		return NAME_PLAIN;
	if (!name[1])
		return NAME_DOT;
	if (name[1] == '.' && !name[2])
		return NAME_DOTDOT;
	return parent == FS_ROOT && !strcmp(name, FS_CONTROL_NAME) ? NAME_CONTROL : NAME_PLAIN;
}

int entry_get(struct op *op, uint64_t node, struct fs_entry *ret)
{
	struct fs *fs = op->fs;
	struct inode i;
	int err = lookups_get(fs->lookups, node);

	if (err)
		return err;
	err = inode_load(op->view, node_ino(node), &i);
	if (err == -ESTALE || (!err && !i.nlink))
		err = -ENOENT;
	if (err)
		fs_forget(fs, node, 1);
	else
		inode_to_entry(node, &i, ret);
	return err;
}

void node_unnamed(struct fs *fs, uint64_t node)
{
	if (!lookups_mark(fs->lookups, node))
		orphan_unreferenced(fs, node);
}

int dir_load(struct view *v, uint64_t ino, struct inode *ret)
{
	int err = inode_load(v, ino, ret);

	return err || S_ISDIR(ret->mode) ? err : -ENOTDIR;
}

/* The name is not in the directory; but is it one? */
static int name_missing(struct op *op, uint64_t dir)
{
	struct inode i;
	int err = dir_load(op->view, dir, &i);

	return err ? err : -ENOENT;
}

int named_load(struct op *op, const struct dir_slot *slot, struct inode *ret)
{
	uint64_t dir = key_ino(slot->key);
	int err = inode_load(op->view, slot->ino, ret);

	if (err == -ESTALE)
		return corrupt("name", dir, "refers to no inode", slot->ino, 0);
	if (err)
		return err;
	if (mode_to_dt(ret->mode) != slot->type)
		return corrupt("name", dir, "type", slot->type, mode_to_dt(ret->mode));
	if (!ret->nlink)
		return corrupt("name", dir, "refers to an inode without names", slot->ino, 0);
	return 0;
}

int may_add(const struct inode *dir)
{
	if (!dir->nlink)
		return -ENOENT;
	return dir->flags & FS_IMMUTABLE_FL ? -EPERM : 0;
}

int may_remove(const struct inode *dir, const struct inode *i)
{
	return (dir->flags | i->flags) & (FS_IMMUTABLE_FL | FS_APPEND_FL) ? -EPERM : 0;
}

int dir_account(struct inode *dir, int names, int subdirs)
{
	if (names < 0 && dir->size < (unsigned)-names)
		return corrupt("directory", dir->ino, "number of names", dir->size, (unsigned)-names);
	if (subdirs < 0 && dir->nlink < 2 + (unsigned)-subdirs)
		return corrupt("directory", dir->ino, "number of subdirectories", dir->nlink, 2 + (unsigned)-subdirs);
	if (subdirs > 0 && dir->nlink + (unsigned)subdirs > FS_NLINK_MAX)
		return -EMLINK;
	dir->size += (uint64_t)(int64_t)names;
	dir->nlink += (uint32_t)subdirs;
	return 0;
}

int name_lost(struct op *op, struct inode *i)
{
	int err = 0;

	i->nlink = S_ISDIR(i->mode) ? 0 : i->nlink - 1;
	i->ctime = op->now;
	if (!i->nlink)
		err = orphan_add(op, i->ino);
	return err ? err : inode_put(op->batch, i);
}

int node_new(struct op *op, const struct fs_caller *who, const struct inode *dir, mode_t mode, dev_t rdev,
	     struct inode *ret)
{
	int err = inode_new(op, who, dir, mode, ret);

	if (err)
		return err;
	if (S_ISCHR(mode) || S_ISBLK(mode)) {
		ret->rdev_major = major(rdev);
		ret->rdev_minor = minor(rdev);
	}
	return op->fs->opt.acl && !S_ISLNK(mode) ? acl_inherit(op, who, dir, ret) : 0;
}

/* ---- finding ---- */

/* A name whose inode is gone was removed or replaced in between, once; the second time it must have changed. */
static int find_entry(struct op *op, uint64_t parent, const char *name, size_t len, struct fs_entry *ret)
{
	uint64_t gone = 0;

	for (;;) {
		struct dir_slot slot;
		int err = dir_find(op, node_ino(parent), name, len, &slot);

		if (err == -ENOENT || err == -ENOSPC)
			return name_missing(op, node_ino(parent));
		if (err)
			return err;
		if (slot.ino == gone)
			return corrupt("name", node_ino(parent), "refers to no inode with names", slot.ino, 0);
		err = entry_get(op, node_make(parent, slot.ino), ret);
		if (err != -ENOENT)
			return err;
		gone = slot.ino;
	}
}

/* "." and "..": of a directory that is in use, so it may have no name any more. */
static int find_dots(struct op *op, uint64_t parent, bool up, struct fs_entry *ret)
{
	struct inode dir;
	uint64_t node;
	int err = dir_load(op->view, node_ino(parent), &dir);

	if (err)
		return err;
	node = node_make(parent, up ? dir.parent : dir.ino);
	if (dir.nlink || up)
		return entry_get(op, node, ret);
	err = lookups_get(op->fs->lookups, node);
	if (!err)
		inode_to_entry(node, &dir, ret);
	return err;
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_entry *ret)
{
	enum name_kind kind = name_kind(parent, name);
	struct op op = { 0 };
	size_t len;
	int err = dir_name_check(name, &len);

	if (!err)
		err = op_begin_read(fs, parent, &op);
	if (err)
		return err;
	if (kind == NAME_PLAIN)
		err = find_entry(&op, parent, name, len, ret);
	else if (kind == NAME_CONTROL)
		err = -ENOENT;
	else
		err = find_dots(&op, parent, kind == NAME_DOTDOT, ret);
	op_end(&op);
	return err;
}

/* A target never changes, so a part is missing only if the symlink has been deleted meanwhile, or is damaged. */
static int target_missing(struct op *op, const struct inode *i, uint64_t off)
{
	struct inode now;
	int err = inode_load(op->view, i->ino, &now);

	return err ? err : corrupt("symlink", i->ino, "incomplete at", off, i->size);
}

int fs_readlink(struct fs *fs, uint64_t node, char *buf, size_t size, size_t *ret_len)
{
	size_t room = size ? size - 1 : 0, copied = 0;
	struct inode i;
	struct op op;
	int err = op_begin_read(fs, node, &op);

	if (!err)
		err = inode_load(op.view, node_ino(node), &i);
	if (!err && !S_ISLNK(i.mode))
		err = -EINVAL;
	for (uint64_t off = 0; !err && off < i.size;) {
		size_t left = room - copied, len;

		err = view_get(op.view, key_make(i.ino, FS_ITEM_INLINE, off), left ? buf + copied : NULL, left, &len);
		if (err == -ENOENT || (!err && len > i.size - off))
			err = target_missing(&op, &i, off);
		if (!err) {
			copied += len < left ? len : left;
			off += len;
		}
	}
	if (!err) {
		if (size)
			buf[copied] = '\0';
		*ret_len = i.size;
	}
	op_end(&op);
	return err;
}

/* ---- making ---- */

struct making {
	const struct fs_caller *who;
	uint64_t parent;
	const char *name;
	size_t len;
	mode_t mode;
	dev_t rdev;
	const char *target; /* of a symlink */
	uint64_t node;	    /* of a link: what exists already */
};

/* Under the directory's lock: the place for a new name. -EEXIST. */
static int find_free(struct op *op, uint64_t dir, const struct making *m, struct dir_slot *ret)
{
	int err = dir_find(op, dir, m->name, m->len, ret);

	return err == -ENOENT ? 0 : err ? err : -EEXIST;
}

static int check_new_name(struct making *m)
{
	int err = dir_name_check(m->name, &m->len);

	return err || name_kind(m->parent, m->name) == NAME_PLAIN ? err : -EEXIST;
}

static int put_target(struct op *op, uint64_t ino, const char *target, size_t len)
{
	size_t max = op->fs->value_max;
	int err = 0;

	for (size_t off = 0; !err && off < len; off += max)
		err = batch_put(op->batch, key_make(ino, FS_ITEM_INLINE, off), target + off,
				len - off < max ? len - off : max);
	return err;
}

/* The reference comes first: once the batch is committed, others may find the name and remove it. */
static int commit_new(struct op *op, uint64_t node, const struct inode *i, struct fs_entry *ret)
{
	int err = lookups_get(op->fs->lookups, node);

	if (err)
		return err;
	err = op_commit(op);
	if (err)
		lookups_put(op->fs->lookups, node, 1);
	else
		inode_to_entry(node, i, ret);
	return err;
}

static int make_once(struct fs *fs, const struct making *m, struct fs_entry *ret)
{
	uint64_t dir_ino = node_ino(m->parent);
	struct inode dir, child;
	struct dir_slot slot;
	struct op op;
	int err = op_begin(fs, m->parent, &op);

	if (err)
		goto out;
	op_lock(&op, &dir_ino, 1);
	err = dir_load(op.view, dir_ino, &dir);
	if (!err)
		err = find_free(&op, dir_ino, m, &slot);
	if (!err)
		err = may_add(&dir);
	if (!err)
		err = dir_account(&dir, 1, S_ISDIR(m->mode));
	if (!err)
		err = node_new(&op, m->who, &dir, m->mode, m->rdev, &child);
	if (err)
		goto out;
	if (m->target) {
		child.size = strlen(m->target);
		err = put_target(&op, child.ino, m->target, child.size);
	}
	inode_touch(&dir, &op.now);
	if (!err)
		err = inode_put(op.batch, &child);
	if (!err)
		err = inode_put(op.batch, &dir);
	if (!err)
		err = dir_put(op.batch, slot.key, m->name, m->len, child.ino, mode_to_dt(child.mode));
	if (!err)
		err = commit_new(&op, node_make(m->parent, child.ino), &child, ret);
out:
	op_end(&op);
	return err;
}

static int make(struct fs *fs, struct making *m, struct fs_entry *ret)
{
	unsigned tries = 0;
	int err = check_new_name(m);

	if (err)
		return err;
	do
		err = make_once(fs, m, ret);
	while (op_retry(fs, err, &tries));
	return err;
}

int fs_mknod(struct fs *fs, const struct fs_caller *who, uint64_t parent, const char *name, mode_t mode, dev_t rdev,
	     struct fs_entry *ret)
{
	struct making m = { .who = who, .parent = parent, .name = name, .mode = mode, .rdev = rdev };

	switch (mode & S_IFMT) {
	case 0:
		m.mode |= S_IFREG;
		return make(fs, &m, ret);
	case S_IFREG:
	case S_IFDIR:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return make(fs, &m, ret);
	default:
		return -EINVAL;
	}
}

int fs_mkdir(struct fs *fs, const struct fs_caller *who, uint64_t parent, const char *name, mode_t mode,
	     struct fs_entry *ret)
{
	struct making m = { .who = who, .parent = parent, .name = name, .mode = S_IFDIR | (mode & 07777) };

	return make(fs, &m, ret);
}

int fs_symlink(struct fs *fs, const struct fs_caller *who, const char *target, uint64_t parent, const char *name,
	       struct fs_entry *ret)
{
	struct making m = { .who = who, .parent = parent, .name = name, .mode = S_IFLNK | 0777, .target = target };
	size_t len = strnlen(target, FS_SYMLINK_MAX + 1);

	if (!len || len > FS_SYMLINK_MAX)
		return len ? -ENAMETOOLONG : -ENOENT;
	return make(fs, &m, ret);
}

static int tmpfile_once(struct fs *fs, const struct fs_caller *who, uint64_t parent, mode_t mode, struct fs_entry *ret)
{
	struct inode dir, child;
	struct op op;
	int err = op_begin(fs, parent, &op);

	if (err)
		goto out;
	op_lock_shared(&op, node_ino(parent)); /* its default ACL is several items */
	err = dir_load(op.view, node_ino(parent), &dir);
	if (!err)
		err = may_add(&dir);
	if (!err)
		err = node_new(&op, who, &dir, S_IFREG | (mode & 07777), 0, &child);
	if (err)
		goto out;
	child.nlink = 0;
	err = orphan_add(&op, child.ino);
	if (!err)
		err = inode_put(op.batch, &child);
	if (!err)
		err = commit_new(&op, node_make(parent, child.ino), &child, ret);
	if (!err)
		lookups_mark(fs->lookups, ret->node);
out:
	op_end(&op);
	return err;
}

int fs_tmpfile(struct fs *fs, const struct fs_caller *who, uint64_t parent, mode_t mode, struct fs_entry *ret)
{
	unsigned tries = 0;
	int err;

	if (mode & S_IFMT && !S_ISREG(mode))
		return -EINVAL;
	do
		err = tmpfile_once(fs, who, parent, mode, ret);
	while (op_retry(fs, err, &tries));
	return err;
}

static int link_once(struct fs *fs, const struct making *m, struct fs_entry *ret)
{
	uint64_t inos[2] = { node_ino(m->parent), node_ino(m->node) };
	struct dir_slot slot;
	struct inode dir, i;
	struct op op;
	int err = op_begin(fs, m->parent, &op);

	if (err)
		goto out;
	op_lock(&op, inos, 2);
	err = dir_load(op.view, inos[0], &dir);
	if (!err)
		err = find_free(&op, inos[0], m, &slot);
	if (!err)
		err = inode_load(op.view, inos[1], &i);
	if (!err)
		err = may_add(&dir);
	if (!err && (S_ISDIR(i.mode) || i.flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)))
		err = -EPERM;
	if (!err && i.nlink >= FS_NLINK_MAX)
		err = -EMLINK;
	if (!err)
		err = dir_account(&dir, 1, 0);
	if (!err && !i.nlink)
		err = orphan_remove(&op, i.ino);
	if (err)
		goto out;
	i.nlink++;
	i.ctime = op.now;
	inode_touch(&dir, &op.now);
	err = inode_put(op.batch, &i);
	if (!err)
		err = inode_put(op.batch, &dir);
	if (!err)
		err = dir_put(op.batch, slot.key, m->name, m->len, i.ino, mode_to_dt(i.mode));
	if (!err)
		err = commit_new(&op, m->node, &i, ret);
out:
	op_end(&op);
	return err;
}

int fs_link(struct fs *fs, uint64_t node, uint64_t parent, const char *name, struct fs_entry *ret)
{
	struct making m = { .parent = parent, .name = name, .node = node };
	unsigned tries = 0;
	int err = check_new_name(&m);

	if (!err && node >> FS_VIEW_SHIFT != parent >> FS_VIEW_SHIFT)
		err = -EXDEV;
	if (err)
		return err;
	do
		err = link_once(fs, &m, ret);
	while (op_retry(fs, err, &tries));
	return err;
}

/* ---- removing ---- */

/* Locks the directory and what the name refers to, as it is then. */
static int lock_name(struct op *op, uint64_t dir, const char *name, size_t len, struct dir_slot *ret)
{
	for (;;) {
		struct dir_slot seen;
		int err = dir_find(op, dir, name, len, &seen);

		if (err == -ENOENT || err == -ENOSPC)
			return name_missing(op, dir);
		if (err)
			return err;
		op_lock(op, (uint64_t[]){ dir, seen.ino }, 2);
		err = dir_find(op, dir, name, len, ret);
		if (!err && ret->ino == seen.ino)
			return 0;
		op_unlock(op);
		if (err && err != -ENOENT && err != -ENOSPC)
			return err;
	}
}

static int remove_once(struct fs *fs, uint64_t parent, const char *name, size_t len, bool as_dir)
{
	uint64_t dir_ino = node_ino(parent), unnamed = 0;
	struct dir_slot slot;
	struct inode dir, i;
	struct op op;
	int err = op_begin(fs, parent, &op);

	if (err)
		goto out;
	batch_releases(op.batch);
	err = lock_name(&op, dir_ino, name, len, &slot);
	if (!err)
		err = dir_load(op.view, dir_ino, &dir);
	if (!err)
		err = named_load(&op, &slot, &i);
	if (!err)
		err = may_remove(&dir, &i);
	if (!err && S_ISDIR(i.mode) != as_dir)
		err = as_dir ? -ENOTDIR : -EISDIR;
	if (!err && as_dir && i.size)
		err = -ENOTEMPTY;
	if (!err)
		err = dir_account(&dir, -1, -(int)as_dir);
	if (err)
		goto out;
	inode_touch(&dir, &op.now);
	err = name_lost(&op, &i);
	if (!err)
		err = inode_put(op.batch, &dir);
	if (!err)
		err = batch_del(op.batch, slot.key);
	if (!err)
		err = op_commit(&op);
	if (!err && !i.nlink)
		unnamed = node_make(parent, i.ino);
out:
	op_end(&op);
	if (unnamed)
		node_unnamed(fs, unnamed);
	return err;
}

static int remove_name(struct fs *fs, uint64_t parent, const char *name, bool as_dir)
{
	unsigned tries = 0;
	size_t len;
	int err = dir_name_check(name, &len);

	if (err)
		return err;
	switch (name_kind(parent, name)) {
	case NAME_DOT:
		return as_dir ? -EINVAL : -EISDIR;
	case NAME_DOTDOT:
		return as_dir ? -ENOTEMPTY : -EISDIR;
	case NAME_CONTROL:
		return -EPERM;
	default:
		break;
	}
	do
		err = remove_once(fs, parent, name, len, as_dir);
	while (op_retry(fs, err, &tries));
	return err;
}

int fs_unlink(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, false);
}

int fs_rmdir(struct fs *fs, uint64_t parent, const char *name)
{
	return remove_name(fs, parent, name, true);
}

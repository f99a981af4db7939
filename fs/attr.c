/*
 * attr.c - attributes: reading and setting them, and forgetting nodes
 *
 * The kernel has checked who may (default_permissions); what it cannot know is enforced here: immutable and append-only
 * files, and the loss of privileges when a file's owner or content changes.
 */
#include <linux/fs.h>
#undef BLOCK_SIZE

#include "fs/acl.h"
#include "fs/file.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "fs/xattr.h"

void fs_forget(struct fs *fs, uint64_t node, uint64_t n)
{
	if (lookups_put(fs->lookups, node, n))
		orphan_unreferenced(fs, node);
}

static int load(struct fs *fs, uint64_t node, struct inode *ret)
{
	struct op op;
	int err = op_begin_read(fs, node, &op);

	if (!err)
		err = inode_load(op.view, node_ino(node), ret);
	op_end(&op);
	return err;
}

int fs_getattr(struct fs *fs, uint64_t node, struct fs_entry *ret)
{
	struct inode i;
	int err = load(fs, node, &i);

	if (!err)
		inode_to_entry(node, &i, ret);
	return err;
}

#define SET_OWNER (FS_SET_UID | FS_SET_GID)
#define SET_TIMES (FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME)

/* What a chattr'ed file refuses. Nothing may change of an immutable one; an append-only one may be touched. */
static int may_set(const struct inode *i, unsigned what)
{
	if (i->flags & FS_IMMUTABLE_FL)
		return -EPERM;
	if (i->flags & FS_APPEND_FL && what & (FS_SET_MODE | SET_OWNER | FS_SET_SIZE | FS_SET_ATIME | FS_SET_MTIME))
		return -EPERM;
	return 0;
}

static int set_mode(struct op *op, struct inode *i, mode_t mode)
{
	i->mode = (i->mode & S_IFMT) | (mode & 07777);
	return i->state & FS_STATE_XATTRS ? acl_chmod(op, i) : 0;
}

static int set_owner(struct op *op, struct inode *i, unsigned what, const struct stat *st)
{
	if (what & FS_SET_UID)
		i->uid = st->st_uid;
	if (what & FS_SET_GID)
		i->gid = st->st_gid;
	/* Who is given a file must not be given its powers. A mode set in the same call is meant as it is. */
	if (!(what & FS_SET_MODE))
		inode_kill_priv(i);
	return S_ISDIR(i->mode) ? 0 : xattr_kill_caps(op, i);
}

static void set_times(struct inode *i, unsigned what, const struct stat *st, const struct timespec *now)
{
	if (what & FS_SET_ATIME)
		i->atime = st->st_atim;
	if (what & FS_SET_MTIME)
		i->mtime = st->st_mtim;
	if (what & FS_SET_ATIME_NOW)
		i->atime = *now;
	if (what & FS_SET_MTIME_NOW)
		i->mtime = *now;
	i->ctime = what & FS_SET_CTIME ? st->st_ctim : *now;
}

/* The caller holds the lock. Commits. */
static int set(struct op *op, struct inode *i, unsigned what, const struct stat *st)
{
	bool sized = what & FS_SET_SIZE;
	int err = may_set(i, what);

	if (err)
		return err;
	if (sized) {
		err = S_ISDIR(i->mode) ? -EISDIR : S_ISREG(i->mode) ? 0 : -EINVAL;
		if (!err && (st->st_size < 0 || (uint64_t)st->st_size > FS_SIZE_MAX))
			err = st->st_size < 0 ? -EINVAL : -EFBIG;
		if (!err)
			err = orphan_finish(op, i->ino);
		if (!err)
			err = inode_load(op->view, i->ino, i);
		if (err)
			return err;
		i->mtime = op->now;
		if (what & FS_SET_KILL_PRIV)
			inode_kill_priv(i);
		err = xattr_kill_caps(op, i);
	}
	if (!err && what & FS_SET_MODE)
		err = set_mode(op, i, st->st_mode);
	if (!err && what & SET_OWNER)
		err = set_owner(op, i, what, st);
	if (err)
		return err;
	set_times(i, what, st, &op->now);
	if (sized)
		return file_truncate(op, i, (uint64_t)st->st_size);
	err = inode_put(op->batch, i);
	return err ? err : op_commit(op);
}

int fs_setattr(struct fs *fs, uint64_t node, unsigned what, const struct stat *st, struct fs_entry *ret)
{
	uint64_t ino = node_ino(node);
	unsigned tries = 0;
	struct inode i;
	int err;

	do {
		struct op op;

		err = op_begin(fs, node, &op);
		if (!err) {
			op_lock(&op, &ino, 1);
			err = inode_load(op.view, ino, &i);
			if (!err)
				err = set(&op, &i, what, st);
		}
		op_end(&op);
	} while (op_retry(fs, err, &tries));
	if (!err)
		inode_to_entry(node, &i, ret);
	return err;
}

int fs_getflags(struct fs *fs, uint64_t node, uint32_t *ret)
{
	struct inode i;
	int err = load(fs, node, &i);

	if (!err)
		*ret = i.flags;
	return err;
}

int fs_setflags(struct fs *fs, uint64_t node, uint32_t flags)
{
	uint64_t ino = node_ino(node);
	struct inode i;
	struct op op;
	int err = op_begin(fs, node, &op);

	if (!err && flags & ~FS_FLAGS)
		err = -EOPNOTSUPP;
	if (!err) {
		op_lock(&op, &ino, 1);
		err = inode_load(op.view, ino, &i);
	}
	if (!err && !S_ISREG(i.mode) && !S_ISDIR(i.mode))
		err = -EOPNOTSUPP;
	if (!err) {
		i.flags = flags;
		i.ctime = op.now;
		err = inode_put(op.batch, &i);
	}
	if (!err)
		err = op_commit(&op);
	op_end(&op);
	return err;
}

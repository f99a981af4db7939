/*
 * inode.c - inodes between the tree and memory, and how new ones come to be
 */
#include "fs/inode.h"

#include <sys/sysmacros.h>

#include "fs/fs_int.h"

static struct timespec get_time(le64 sec, le32 nsec)
{
	return (struct timespec){ .tv_sec = (time_t)le64_get(sec), .tv_nsec = (long)le32_get(nsec) };
}

int inode_decode(uint64_t ino, const void *val, size_t len, struct inode *ret)
{
	const struct disk_inode *d = val;

	if (len != sizeof(*d))
		return corrupt("inode", ino, "length", len, sizeof(*d));
	*ret = (struct inode){
		.ino = ino,
		.mode = le32_get(d->mode),
		.flags = le32_get(d->flags),
		.uid = le32_get(d->uid),
		.gid = le32_get(d->gid),
		.nlink = le32_get(d->nlink),
		.state = le32_get(d->state),
		.size = le64_get(d->size),
		.blocks = le64_get(d->blocks),
		.parent = le64_get(d->parent),
		.rdev_major = le32_get(d->rdev_major),
		.rdev_minor = le32_get(d->rdev_minor),
		.atime = get_time(d->atime, d->atime_ns),
		.mtime = get_time(d->mtime, d->mtime_ns),
		.ctime = get_time(d->ctime, d->ctime_ns),
		.btime = get_time(d->btime, d->btime_ns),
		.changes = le64_get(d->changes),
	};
	return 0;
}

int inode_load(struct view *v, uint64_t ino, struct inode *ret)
{
	struct disk_inode d;
	size_t len;
	int err = view_get(v, key_make(ino, FS_ITEM_INODE, 0), &d, sizeof(d), &len);

	if (err)
		return err == -ENOENT ? -ESTALE : err;
	return inode_decode(ino, &d, len, ret);
}

int inode_put(struct batch *b, const struct inode *i)
{
	struct disk_inode d = {
		.mode = le32_put(i->mode),
		.flags = le32_put(i->flags),
		.uid = le32_put(i->uid),
		.gid = le32_put(i->gid),
		.nlink = le32_put(i->nlink),
		.state = le32_put(i->state),
		.size = le64_put(i->size),
		.blocks = le64_put(i->blocks),
		.parent = le64_put(i->parent),
		.rdev_major = le32_put(i->rdev_major),
		.rdev_minor = le32_put(i->rdev_minor),
		.atime = le64_put((uint64_t)i->atime.tv_sec),
		.mtime = le64_put((uint64_t)i->mtime.tv_sec),
		.ctime = le64_put((uint64_t)i->ctime.tv_sec),
		.btime = le64_put((uint64_t)i->btime.tv_sec),
		.atime_ns = le32_put((uint32_t)i->atime.tv_nsec),
		.mtime_ns = le32_put((uint32_t)i->mtime.tv_nsec),
		.ctime_ns = le32_put((uint32_t)i->ctime.tv_nsec),
		.btime_ns = le32_put((uint32_t)i->btime.tv_nsec),
		.changes = le64_put(i->changes + 1),
	};

	return batch_put(b, key_make(i->ino, FS_ITEM_INODE, 0), &d, sizeof(d));
}

/*
 * The next inode number. Numbers are handed out only below a limit that is durable with, or before, the batch that uses them:
 * a batch with a number at or beyond the limit known to be committed raises it, whoever else may be about to do so too.
 */
static int new_number(struct op *op, uint64_t *ret)
{
	struct fs *fs = op->fs;
	uint64_t ino = atomic_fetch_add(&fs->ino_next, 1);
	int err;

	if (ino > FS_INO_MAX)
		return -ENOSPC;
	if (ino >= atomic_load(&fs->ino_limit)) {
		op->ino_limit = ino + FS_INO_STEP;
		err = batch_raise(op->batch, FS_COUNTER_INO_LIMIT, op->ino_limit);
		if (err)
			return err;
	}
	op->made++;
	err = batch_raise(op->batch, FS_COUNTER_INODES_MADE, atomic_fetch_add(&fs->inodes_made, 1) + 1);
	if (!err && atomic_load(&fs->inodes_failed))
		err = batch_raise(op->batch, FS_COUNTER_INODES_FREED, atomic_load(&fs->inodes_freed));
	if (!err)
		*ret = ino;
	return err;
}

int inode_new(struct op *op, const struct fs_caller *who, const struct inode *parent, mode_t mode, struct inode *ret)
{
	struct inode i = {
		.mode = mode & (S_IFMT | 07777),
		.uid = who->uid,
		.gid = who->gid,
		.nlink = S_ISDIR(mode) ? 2 : 1,
		.parent = S_ISDIR(mode) ? parent->ino : 0,
		.atime = op->now,
		.mtime = op->now,
		.ctime = op->now,
		.btime = op->now,
	};
	int err = new_number(op, &i.ino);

	if (err)
		return err;
	/* With ACLs the umask counts only where the directory has no default ACL (acl_inherit). */
	if (S_ISLNK(mode))
		i.mode = S_IFLNK | 0777;
	else if (!op->fs->opt.acl)
		i.mode &= ~(who->umask & 0777);
	if (parent->mode & S_ISGID) {
		i.gid = parent->gid;
		if (S_ISDIR(mode))
			i.mode |= S_ISGID;
	}
	*ret = i;
	return 0;
}

void inode_to_entry(uint64_t node, const struct inode *i, struct fs_entry *ret)
{
	*ret = (struct fs_entry){
		.node = node,
		.st = {
			.st_ino = i->ino,
			.st_mode = i->mode,
			.st_nlink = i->nlink,
			.st_uid = i->uid,
			.st_gid = i->gid,
			.st_rdev = makedev(i->rdev_major, i->rdev_minor),
			.st_size = (off_t)i->size,
			.st_blksize = BLOCK_SIZE,
			.st_blocks = (blkcnt_t)(i->blocks * (BLOCK_SIZE / 512)),
			.st_atim = i->atime,
			.st_mtim = i->mtime,
			.st_ctim = i->ctime,
		},
		.btime = i->btime,
	};
}

void inode_touch(struct inode *i, const struct timespec *now)
{
	i->mtime = *now;
	i->ctime = *now;
}

void inode_kill_priv(struct inode *i)
{
	if (S_ISDIR(i->mode))
		return;
	i->mode &= ~(uint32_t)S_ISUID;
	/* Without permission for the group to execute it, set-group-id means mandatory locking and is no privilege. */
	if (i->mode & S_IXGRP)
		i->mode &= ~(uint32_t)S_ISGID;
}

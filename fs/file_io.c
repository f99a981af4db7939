/*
 * file_io.c - read and write as a program calls them: locks, permissions that only a filesystem can check, times
 *
 * A write is one batch: data, map, size and times. An answered write is seen by every later read, because both read the same
 * tree under the inode's lock; the shared one lets readers of one file go side by side.
 *
 * Reading changes the access time in a batch of its own, behind the read and without holding it up for others: nothing that
 * goes wrong there is the reader's business. By default that happens at most once a day for a file that does not change.
 *
 * Damage is reported by whoever found it; the program is told EIO.
 */
#include <linux/fs.h>
#undef BLOCK_SIZE

#include "fs/file.h"
#include "fs/fs.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "fs/xattr.h"

#define RELATIME_SECONDS (24 * 60 * 60)

static int io_error(int err)
{
	return err == -EBADMSG || err == -EUCLEAN ? -EIO : err;
}

/* ---- reading ---- */

static int time_cmp(const struct timespec *a, const struct timespec *b)
{
	if (a->tv_sec != b->tv_sec)
		return a->tv_sec < b->tv_sec ? -1 : 1;
	return (a->tv_nsec > b->tv_nsec) - (a->tv_nsec < b->tv_nsec);
}

static bool atime_due(struct fs *fs, const struct inode *i)
{
	struct timespec now;

	if (fs->opt.atime == FS_NOATIME || fs->read_only || i->flags & FS_NOATIME_FL)
		return false;
	if (fs->opt.atime == FS_STRICTATIME)
		return true;
	if (time_cmp(&i->atime, &i->mtime) <= 0 || time_cmp(&i->atime, &i->ctime) <= 0)
		return true;
	fs_now(fs, &now);
	return now.tv_sec - i->atime.tv_sec >= RELATIME_SECONDS;
}

static void set_atime(struct fs *fs, uint64_t node)
{
	uint64_t ino = node_ino(node);
	struct inode i;
	struct op op;
	int err = op_begin(fs, node, &op);

	if (!err) {
		op_lock(&op, &ino, 1);
		err = inode_load(op.view, ino, &i);
	}
	if (!err && atime_due(fs, &i)) {
		i.atime = op.now;
		err = inode_put(op.batch, &i);
		if (!err)
			(void)op_commit(&op);
	}
	op_end(&op);
}

int fs_read(struct fs *fs, uint64_t node, uint64_t off, size_t size, void *buf, const void **ret_data, size_t *ret_len)
{
	struct inode i;
	struct op op;
	int err = op_begin_read(fs, node, &op);

	if (!err) {
		op_lock_shared(&op, node_ino(node));
		err = inode_load(op.view, node_ino(node), &i);
	}
	if (!err && !S_ISREG(i.mode))
		err = S_ISDIR(i.mode) ? -EISDIR : -EINVAL;
	if (!err)
		err = file_read(&op, &i, off, size, buf, ret_data, ret_len);
	op_end(&op);
	if (!err && size && atime_due(fs, &i))
		set_atime(fs, node);
	return io_error(err);
}

/* ---- writing ---- */

struct request {
	const void *buf;
	size_t size;
	uint64_t off;
	unsigned flags;
};

/* What was written into the page cache before the file became immutable must still be taken: the kernel has answered it. */
static int may_write(const struct inode *i, unsigned flags)
{
	int err = file_may_write(i, flags & FS_WRITE_APPEND);

	return err == -EPERM && flags & FS_WRITE_CACHE ? 0 : err;
}

static int write_locked(struct op *op, const struct request *r, struct inode *i)
{
	struct fs *fs = op->fs;
	uint64_t off;
	int err = may_write(i, r->flags);

	if (!err && orphan_pending(fs, i->ino, &(uint64_t){ 0 }, &(uint64_t){ 0 })) {
		err = orphan_finish(op, i->ino);
		if (!err)
			err = inode_load(op->view, i->ino, i);
	}
	if (err || !r->size)
		return err;
	off = r->flags & FS_WRITE_APPEND ? i->size : r->off;
	err = file_write(op, i, r->buf, r->size, off);
	if (!err && i->state & FS_STATE_XATTRS)
		err = xattr_kill_caps(op, i);
	if (err)
		return err;
	if (r->flags & FS_WRITE_KILL_PRIV)
		inode_kill_priv(i);
	if (!(r->flags & FS_WRITE_CACHE && fs->opt.writeback))
		inode_touch(i, &op->now);
	err = inode_put(op->batch, i);
	return err ? err : op_commit(op);
}

static int write_once(struct fs *fs, uint64_t node, const struct request *r, bool join)
{
	uint64_t ino = node_ino(node);
	struct inode i;
	struct op op;
	int err = op_begin(fs, node, &op);

	if (!err) {
		op.join = join;
		op_lock(&op, &ino, 1);
		err = inode_load(op.view, ino, &i);
	}
	if (!err)
		err = write_locked(&op, r, &i);
	op_end(&op);
	return err;
}

int fs_write(struct fs *fs, uint64_t node, const void *buf, size_t size, uint64_t off, unsigned flags)
{
	struct request r = { buf, size, off, flags };
	unsigned tries = 0;
	int err;

	do {
		err = write_once(fs, node, &r, true);
		/* The generation has changed in between: what was to be joined would have two births. */
		if (err == -ERESTART)
			err = write_once(fs, node, &r, false);
	} while (op_retry(fs, err, &tries));
	return io_error(err);
}

/*
 * Data: READ, WRITE, FSYNC and what else works on a file's content; and the flags of a file, which come as an ioctl.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#undef BLOCK_SIZE

#include "fs/fuse_loop.h"
#include "fs/fuse_ops.h"

void op_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct mounted *m = mounted_of(req);
	const void *data = NULL;
	size_t len = 0;
	void *buf;
	int err;

	(void)fi;
	if (control_is_node(node)) {
		err = m->control ? control_read(m->control, node, (uint64_t)off, size, &data, &len) : -ESTALE;
	} else if (size > FS_IO_MAX) {
		err = -EINVAL;
	} else {
		buf = loop_buffer();
		err = buf ? fs_read(m->fs, node, (uint64_t)off, size, buf, &data, &len) : -ENOMEM;
	}
	if (err)
		answer_err(req, err);
	else
		fuse_reply_buf(req, data, len);
}

void op_write(fuse_req_t req, fuse_ino_t node, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct mounted *m = mounted_of(req);
	unsigned flags = 0;
	int err;

	if (control_is_node(node)) {
		err = m->control ? control_write(m->control, node, buf, size) : -ESTALE;
		if (err)
			answer_err(req, err);
		else
			fuse_reply_write(req, size);
		return;
	}
	if (fi->writepage)
		flags |= FS_WRITE_CACHE;
	else if (!m->opt->writeback && (fi->flags & O_APPEND))
		flags |= FS_WRITE_APPEND; /* with writeback the kernel knows the end of the file, and we do not */
	if (fi->kill_suidgid)
		flags |= FS_WRITE_KILL_PRIV;
	err = fs_write(m->fs, node, buf, size, (uint64_t)off, flags);
	if (err)
		answer_err(req, err);
	else
		fuse_reply_write(req, size);
}

void op_fsync(fuse_req_t req, fuse_ino_t node, int datasync, struct fuse_file_info *fi)
{
	(void)datasync;
	(void)fi;
	answer_err(req, control_is_node(node) ? 0 : fs_sync(mounted_of(req)->fs));
}

void op_fallocate(fuse_req_t req, fuse_ino_t node, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	(void)fi;
	if (control_is_node(node))
		answer_err(req, -EPERM);
	else if (off < 0 || len <= 0)
		answer_err(req, -EINVAL);
	else
		answer_err(req, fs_fallocate(mounted_of(req)->fs, node, mode, (uint64_t)off, (uint64_t)len));
}

void op_lseek(fuse_req_t req, fuse_ino_t node, off_t off, int whence, struct fuse_file_info *fi)
{
	uint64_t found;
	int err = -EINVAL;

	(void)fi;
	/* What is dirty in the kernel's cache for writing is not known here, and who copies by holes would lose it. The kernel
	 * takes this for "never ask that again" and says that all is data. */
	if (mounted_of(req)->opt->writeback) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	if (!control_is_node(node) && (whence == SEEK_DATA || whence == SEEK_HOLE))
		err = off < 0 ? -ENXIO : fs_seek(mounted_of(req)->fs, node, (uint64_t)off, whence, &found);
	if (err)
		answer_err(req, err);
	else
		fuse_reply_lseek(req, (off_t)found);
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off, struct fuse_file_info *from_fi, fuse_ino_t to,
			off_t to_off, struct fuse_file_info *to_fi, size_t len, int flags)
{
	uint64_t copied;
	int err;

	(void)from_fi;
	(void)to_fi;
	if (control_is_node(from) || control_is_node(to))
		err = -EPERM;
	else if (flags)
		err = -EINVAL;
	else
		err = fs_copy_range(mounted_of(req)->fs, from, (uint64_t)from_off, to, (uint64_t)to_off, len, &copied);
	if (err)
		answer_err(req, err);
	else
		fuse_reply_write(req, copied);
}

/* ---- flags ---- */

static const struct {
	uint32_t fl, xflag;
} flag_map[] = {
	{ FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE },
	{ FS_APPEND_FL, FS_XFLAG_APPEND },
	{ FS_NODUMP_FL, FS_XFLAG_NODUMP },
	{ FS_NOATIME_FL, FS_XFLAG_NOATIME },
};

static uint32_t flags_to_xflags(uint32_t flags)
{
	uint32_t x = 0;

	for (size_t i = 0; i < sizeof(flag_map) / sizeof(flag_map[0]); i++)
		if (flags & flag_map[i].fl)
			x |= flag_map[i].xflag;
	return x;
}

/* -EOPNOTSUPP: a flag, or another property, that means nothing here. */
static int xattr_to_flags(const struct fsxattr *x, uint32_t *ret)
{
	uint32_t left = x->fsx_xflags, flags = 0;

	for (size_t i = 0; i < sizeof(flag_map) / sizeof(flag_map[0]); i++)
		if (left & flag_map[i].xflag) {
			flags |= flag_map[i].fl;
			left &= ~flag_map[i].xflag;
		}
	left &= ~(uint32_t)FS_XFLAG_HASATTR;
	if (left || x->fsx_extsize || x->fsx_projid || x->fsx_cowextsize)
		return -EOPNOTSUPP;
	*ret = flags;
	return 0;
}

void op_ioctl(fuse_req_t req, fuse_ino_t node, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags,
	      const void *in, size_t in_size, size_t out_size)
{
	struct fs *fs = mounted_of(req)->fs;
	struct fsxattr x = { 0 };
	uint32_t fl = 0;
	int err = -EINVAL;

	(void)arg;
	(void)fi;
	(void)flags;
	if (control_is_node(node)) {
		answer_err(req, -ENOTTY);
		return;
	}
	switch (cmd) {
	case FS_IOC_GETFLAGS:
		if (out_size >= sizeof(fl))
			err = fs_getflags(fs, node, &fl);
		if (!err) {
			fuse_reply_ioctl(req, 0, &fl, sizeof(fl));
			return;
		}
		break;
	case FS_IOC_SETFLAGS:
		if (in_size >= sizeof(fl)) {
			memcpy(&fl, in, sizeof(fl));
			err = fs_setflags(fs, node, fl);
		}
		break;
	case FS_IOC_FSGETXATTR:
		if (out_size >= sizeof(x))
			err = fs_getflags(fs, node, &fl);
		if (!err) {
			x.fsx_xflags = flags_to_xflags(fl);
			fuse_reply_ioctl(req, 0, &x, sizeof(x));
			return;
		}
		break;
	case FS_IOC_FSSETXATTR:
		if (in_size >= sizeof(x)) {
			memcpy(&x, in, sizeof(x));
			err = xattr_to_flags(&x, &fl);
			if (!err)
				err = fs_setflags(fs, node, fl);
		}
		break;
	default:
		err = -ENOTTY;
		break;
	}
	if (err)
		answer_err(req, err);
	else
		fuse_reply_ioctl(req, 0, NULL, 0);
}

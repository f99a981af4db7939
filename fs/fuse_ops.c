/*
 * The table of handlers, INIT, names, attributes, extended attributes.
 *
 * What is left out is left out on purpose. OPEN, OPENDIR, FLUSH, RELEASE and RELEASEDIR: all I/O is by inode, an open
 * file's inode is held by the kernel's reference (nlookup), and write errors were reported by the write; so libfuse answers
 * ENOSYS (or success) once and they never come again, and directories are cached whole. O_TRUNC comes as a SETATTR then,
 * so the kernel must not be told that opening does it. Locks: the kernel's own are right for one machine. ACCESS:
 * default_permissions. INTERRUPT: operations are short. Splice: the data goes through our own buffers anyway.
 *
 * ENOSYS is sticky: the kernel takes it for "never ask that again" and, for an fsync, for success. None that comes from below
 * goes out (answer_err).
 */
#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/fuse_loop.h"
#include "fs/fuse_ops.h"

#define BACKGROUND_MAX 128u /* asynchronous requests in flight */
#define XATTR_STACK 1024u   /* values up to this need no heap */

/* ---- answers ---- */

void answer_err(fuse_req_t req, int err)
{
	switch (err) {
	case -EUCLEAN: /* damage; the log has said where */
	case -EBADMSG:
	case -ENOSYS:
	case -EAGAIN:
	case -ERESTART:
	case -EPROTONOSUPPORT:
		err = -EIO;
		break;
	default:
		break;
	}
	fuse_reply_err(req, -err);
}

struct fs_caller caller_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	/* Without ACLs the kernel has taken the umask off. */
	return (struct fs_caller){
		.uid = ctx->uid,
		.gid = ctx->gid,
		.umask = mounted_of(req)->opt->acl ? ctx->umask : 0,
	};
}

static double timeout_of(uint64_t node)
{
	return control_is_node(node) ? 0 : TIMEOUT_FOREVER;
}

void entry_to_fuse(const struct fs_entry *e, struct fuse_entry_param *ret)
{
	*ret = (struct fuse_entry_param){
		.ino = e->node,
		.generation = 1, /* inode numbers are never used again */
		.attr = e->st,
		.attr_timeout = timeout_of(e->node),
		.entry_timeout = timeout_of(e->node),
	};
}

static void forget(struct mounted *m, uint64_t node, uint64_t n)
{
	if (control_is_node(node)) {
		if (m->control)
			control_forget(m->control, node, n);
	} else if (m->fs) {
		fs_forget(m->fs, node, n);
	}
}

/* fi: of a CREATE or TMPFILE, whose answer says more; else NULL. */
static void answer_create(fuse_req_t req, int err, const struct fs_entry *e, struct fuse_file_info *fi)
{
	struct mounted *m = mounted_of(req);
	struct fuse_entry_param param;

	if (err) {
		answer_err(req, err);
		return;
	}
	entry_to_fuse(e, &param);
	if (fi)
		fi->keep_cache = 1;
	if ((fi ? fuse_reply_create(req, &param, fi) : fuse_reply_entry(req, &param)) < 0)
		forget(m, param.ino, 1);
}

void answer_entry(fuse_req_t req, int err, const struct fs_entry *e)
{
	answer_create(req, err, e, NULL);
}

static void answer_attr(fuse_req_t req, int err, const struct fs_entry *e)
{
	if (err)
		answer_err(req, err);
	else
		fuse_reply_attr(req, &e->st, timeout_of(e->node));
}

/* ---- INIT, DESTROY ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	static const uint64_t want[] = {
		FUSE_CAP_ASYNC_READ,	     FUSE_CAP_ASYNC_DIO,
		FUSE_CAP_EXPORT_SUPPORT,     FUSE_CAP_PARALLEL_DIROPS,
		FUSE_CAP_CACHE_SYMLINKS,     FUSE_CAP_EXPLICIT_INVAL_DATA,
		FUSE_CAP_READDIRPLUS,	     FUSE_CAP_READDIRPLUS_AUTO,
		FUSE_CAP_HANDLE_KILLPRIV_V2, FUSE_CAP_NO_OPEN_SUPPORT,
		FUSE_CAP_NO_OPENDIR_SUPPORT, FUSE_CAP_IOCTL_DIR,
		FUSE_CAP_SETXATTR_EXT,	     FUSE_CAP_DIRECT_IO_ALLOW_MMAP,
	};
	static const uint64_t refuse[] = {
		FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_ATOMIC_O_TRUNC, FUSE_CAP_SPLICE_READ, FUSE_CAP_SPLICE_WRITE,
		FUSE_CAP_SPLICE_MOVE,	  FUSE_CAP_POSIX_LOCKS,	   FUSE_CAP_FLOCK_LOCKS,
	};
	struct mounted *m = userdata;

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		fuse_set_feature_flag(conn, want[i]);
	for (size_t i = 0; i < sizeof(refuse) / sizeof(refuse[0]); i++)
		fuse_unset_feature_flag(conn, refuse[i]);
	if (m->opt->acl) {
		fuse_set_feature_flag(conn, FUSE_CAP_POSIX_ACL);
		fuse_set_feature_flag(conn, FUSE_CAP_DONT_MASK);
	}
	if (m->opt->writeback)
		fuse_set_feature_flag(conn, FUSE_CAP_WRITEBACK_CACHE);
	m->setxattr_ext = conn->want_ext & FUSE_CAP_SETXATTR_EXT;
	conn->no_interrupt = 1;
	conn->max_write = FS_IO_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->time_gran = 1;
}

/* Only a fuseblk mount sends it, and waits: the last checkpoint is on the device when umount returns. */
static void op_destroy(void *userdata)
{
	struct mounted *m = userdata;

	if (m->loop)
		loop_quiesce(m->loop);
	m->end(m);
}

/* ---- names ---- */

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mounted *m = mounted_of(req);
	struct fs_entry e;
	int err;

	if (control_is_node(parent) || (parent == FS_ROOT && m->control && strcmp(name, FS_CONTROL_NAME) == 0)) {
		err = m->control ? control_lookup(m->control, parent, name, &e) : -ESTALE;
		answer_entry(req, err, &e);
		return;
	}
	dir_looked_up(req, parent);
	err = fs_lookup(m->fs, parent, name, &e);
	if (err == -ENOENT) {
		/* Node 0 with a timeout: "not there", and it can be remembered. */
		fuse_reply_entry(req, &(struct fuse_entry_param){ .entry_timeout = TIMEOUT_FOREVER });
		return;
	}
	answer_entry(req, err, &e);
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t n)
{
	forget(mounted_of(req), node, n);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(mounted_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* Nothing is made or removed below the control directory, nor in place of it. */
static bool refused(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!control_is_node(parent) && (parent != FS_ROOT || !name || strcmp(name, FS_CONTROL_NAME) != 0))
		return false;
	answer_err(req, -EPERM);
	return true;
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct fs_caller who = caller_of(req);
	struct fs_entry e;

	if (!refused(req, parent, name))
		answer_entry(req, fs_mknod(mounted_of(req)->fs, &who, parent, name, mode, rdev, &e), &e);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fs_caller who = caller_of(req);
	struct fs_entry e;

	if (!refused(req, parent, name))
		answer_entry(req, fs_mkdir(mounted_of(req)->fs, &who, parent, name, mode, &e), &e);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct fs_caller who = caller_of(req);
	struct fs_entry e;

	if (!refused(req, parent, name))
		answer_entry(req, fs_symlink(mounted_of(req)->fs, &who, target, parent, name, &e), &e);
}

static void op_link(fuse_req_t req, fuse_ino_t node, fuse_ino_t parent, const char *name)
{
	struct fs_entry e;

	if (!refused(req, parent, name) && !refused(req, node, NULL))
		answer_entry(req, fs_link(mounted_of(req)->fs, node, parent, name, &e), &e);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!refused(req, parent, name))
		answer_err(req, fs_unlink(mounted_of(req)->fs, parent, name));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!refused(req, parent, name))
		answer_err(req, fs_rmdir(mounted_of(req)->fs, parent, name));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent2, const char *name2,
		      unsigned flags)
{
	struct fs_caller who = caller_of(req);

	if (!refused(req, parent, name) && !refused(req, parent2, name2))
		answer_err(req, fs_rename(mounted_of(req)->fs, &who, parent, name, parent2, name2, flags));
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
	char target[4096];
	size_t len;
	int err = fs_readlink(mounted_of(req)->fs, node, target, sizeof(target), &len);

	if (err)
		answer_err(req, err);
	else
		fuse_reply_readlink(req, target);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs_caller who = caller_of(req);
	struct fs_entry e;

	if (!refused(req, parent, name))
		answer_create(req, fs_mknod(mounted_of(req)->fs, &who, parent, name, S_IFREG | (mode & 07777), 0, &e),
			      &e, fi);
}

static void op_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi)
{
	struct fs_caller who = caller_of(req);
	struct fs_entry e;

	if (!refused(req, parent, NULL))
		answer_create(req, fs_tmpfile(mounted_of(req)->fs, &who, parent, S_IFREG | (mode & 07777), &e), &e, fi);
}

/* ---- attributes ---- */

static int getattr(struct mounted *m, uint64_t node, struct fs_entry *ret)
{
	if (control_is_node(node))
		return m->control ? control_getattr(m->control, node, ret) : -ESTALE;
	return fs_getattr(m->fs, node, ret);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	struct fs_entry e;

	(void)fi;
	answer_attr(req, getattr(mounted_of(req), node, &e), &e);
}

static void op_setattr(fuse_req_t req, fuse_ino_t node, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	static const struct {
		int fuse;
		unsigned fs;
	} map[] = {
		{ FUSE_SET_ATTR_MODE, FS_SET_MODE },
		{ FUSE_SET_ATTR_UID, FS_SET_UID },
		{ FUSE_SET_ATTR_GID, FS_SET_GID },
		{ FUSE_SET_ATTR_SIZE, FS_SET_SIZE },
		{ FUSE_SET_ATTR_ATIME, FS_SET_ATIME },
		{ FUSE_SET_ATTR_MTIME, FS_SET_MTIME },
		{ FUSE_SET_ATTR_CTIME, FS_SET_CTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW },
		{ FUSE_SET_ATTR_KILL_SUID, FS_SET_KILL_PRIV }, /* the protocol's one bit for both */
	};
	struct mounted *m = mounted_of(req);
	struct fs_entry e;
	unsigned what = 0;

	(void)fi;
	if (control_is_node(node) && m->control && to_set & FUSE_SET_ATTR_SIZE) {
		answer_attr(req, control_truncate(m->control, node, &e), &e);
		return;
	}
	if (refused(req, node, NULL))
		return;
	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (to_set & map[i].fuse)
			what |= map[i].fs;
	answer_attr(req, fs_setattr(m->fs, node, what, st, &e), &e);
}

static struct statx_timestamp statx_time(struct timespec t)
{
	return (struct statx_timestamp){ .tv_sec = t.tv_sec, .tv_nsec = (uint32_t)t.tv_nsec };
}

static void op_statx(fuse_req_t req, fuse_ino_t node, int flags, int mask, struct fuse_file_info *fi)
{
	struct fs_entry e;
	struct statx stx;
	int err = getattr(mounted_of(req), node, &e);

	(void)flags;
	(void)mask;
	(void)fi;
	if (err) {
		answer_err(req, err);
		return;
	}
	stx = (struct statx){
		.stx_mask = STATX_BASIC_STATS | STATX_BTIME,
		.stx_blksize = (uint32_t)e.st.st_blksize,
		.stx_nlink = (uint32_t)e.st.st_nlink,
		.stx_uid = e.st.st_uid,
		.stx_gid = e.st.st_gid,
		.stx_mode = (uint16_t)e.st.st_mode,
		.stx_ino = e.st.st_ino,
		.stx_size = (uint64_t)e.st.st_size,
		.stx_blocks = (uint64_t)e.st.st_blocks,
		.stx_atime = statx_time(e.st.st_atim),
		.stx_mtime = statx_time(e.st.st_mtim),
		.stx_ctime = statx_time(e.st.st_ctim),
		.stx_btime = statx_time(e.btime),
		.stx_rdev_major = major(e.st.st_rdev),
		.stx_rdev_minor = minor(e.st.st_rdev),
	};
	fuse_reply_statx(req, 0, &stx, timeout_of(node));
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
	struct statvfs st;
	int err = fs_statfs(mounted_of(req)->fs, &st);

	(void)node;
	if (err)
		answer_err(req, err);
	else
		fuse_reply_statfs(req, &st);
}

/* ---- extended attributes ---- */

/* trusted.* is shown to root alone (xattr(7)); the kernel leaves that to us. Returns the length of the rest. */
static size_t drop_trusted(char *names, size_t len)
{
	size_t kept = 0;

	for (size_t at = 0, n; at < len; at += n) {
		n = strnlen(names + at, len - at - 1) + 1;
		if (!strncmp(names + at, "trusted.", strlen("trusted.")))
			continue;
		memmove(names + kept, names + at, n);
		kept += n;
	}
	return kept;
}

/* What getxattr and listxattr have in common: a size is asked for, or the bytes. */
static void answer_xattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
	struct fs *fs = mounted_of(req)->fs;
	char stack[XATTR_STACK];
	char *heap = NULL, *buf = stack;
	size_t len = 0;
	int err;

	if (control_is_node(node)) {
		if (name)
			answer_err(req, -ENODATA);
		else if (size)
			fuse_reply_buf(req, stack, 0);
		else
			fuse_reply_xattr(req, 0);
		return;
	}
	if (size > sizeof(stack)) {
		buf = heap = mem_alloc(size);
		if (!buf) {
			answer_err(req, -ENOMEM);
			return;
		}
	}
	err = name ? fs_getxattr(fs, node, name, buf, size, &len) : fs_listxattr(fs, node, buf, size, &len);
	if (!err && !name && size && fuse_req_ctx(req)->uid != 0)
		len = drop_trusted(buf, len);
	if (err)
		answer_err(req, err);
	else if (size)
		fuse_reply_buf(req, buf, len);
	else
		fuse_reply_xattr(req, len);
	mem_free(heap);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
	answer_xattr(req, node, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
	answer_xattr(req, node, NULL, size);
}

/* libfuse does not pass it on: an access ACL is set by someone who is not in the file's group. */
static bool kills_sgid(const struct mounted *m)
{
	const struct fuse_setxattr_in *in = (const void *)((const struct fuse_in_header *)loop_request() + 1);

	return m->setxattr_ext && (in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t node, const char *name, const char *value, size_t size, int flags)
{
	struct mounted *m = mounted_of(req);

	if (!refused(req, node, NULL))
		answer_err(req, fs_setxattr(m->fs, node, name, value, size, flags, kills_sgid(m)));
}

static void op_removexattr(fuse_req_t req, fuse_ino_t node, const char *name)
{
	if (!refused(req, node, NULL))
		answer_err(req, fs_removexattr(mounted_of(req)->fs, node, name));
}

const struct fuse_lowlevel_ops fuse_ops = {
	.init = op_init,
	.destroy = op_destroy,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.read = op_read,
	.write = op_write,
	.fsync = op_fsync,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.fsyncdir = op_fsync,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.create = op_create,
	.tmpfile = op_tmpfile,
	.ioctl = op_ioctl,
	.fallocate = op_fallocate,
	.copy_file_range = op_copy_file_range,
	.lseek = op_lseek,
	.statx = op_statx,
};

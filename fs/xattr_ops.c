/*
 * xattr_ops.c - getxattr, listxattr, setxattr, removexattr
 *
 * Names have a namespace in front. Kept here: user., trusted., security., and the two ACLs of system.; whoever may use which
 * has been checked by the kernel. Of that, only what every kernel refuses is refused again (user. on anything but files and
 * directories, changes to immutable and append-only files), so that callers other than FUSE have the same rules.
 *
 * An inode without attributes answers from its own item, without a lock: that is nearly every call. A value may be in
 * several items, so the others read under the shared lock.
 *
 * An access ACL is two things at once, an attribute and a mode (acl.c); setting either changes both in one batch. As in the
 * kernel, flags do not apply to ACLs, and removing one that is not there is no error.
 */
#include <linux/fs.h>
#include <linux/limits.h>
#undef BLOCK_SIZE

#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <linux/xattr.h>

#include "fs/acl.h"
#include "fs/fs_int.h"
#include "fs/xattr.h"

static bool is_acl(const char *name)
{
	return !strcmp(name, ACL_ACCESS) || !strcmp(name, ACL_DEFAULT);
}

static bool has_prefix(const char *name, const char *prefix)
{
	return !strncmp(name, prefix, strlen(prefix));
}

static bool acl_may_be(const struct fs *fs, const struct inode *ino)
{
	return fs->opt.acl && !S_ISLNK(ino->mode);
}

static int check_name(const char *name)
{
	static const char *const spaces[] = { XATTR_USER_PREFIX, XATTR_TRUSTED_PREFIX, XATTR_SECURITY_PREFIX };

	if (!*name || strlen(name) > XATTR_NAME_MAX)
		return -ERANGE;
	if (is_acl(name))
		return 0;
	for (unsigned i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		if (has_prefix(name, spaces[i]))
			return name[strlen(spaces[i])] ? 0 : -EINVAL;
	return -EOPNOTSUPP;
}

/* ---- reading ---- */

int fs_getxattr(struct fs *fs, uint64_t node, const char *name, void *buf, size_t size, size_t *ret_len)
{
	struct inode ino;
	struct op op;
	int err;

	err = check_name(name);
	if (err)
		return err;
	if (!fs->opt.acl && is_acl(name))
		return -EOPNOTSUPP;
	err = op_begin_read(fs, node, &op);
	if (!err)
		err = inode_load(op.view, node_ino(node), &ino);
	if (err)
		goto out;
	if (is_acl(name) && !acl_may_be(fs, &ino)) {
		err = -EOPNOTSUPP;
	} else if (!(ino.state & FS_STATE_XATTRS)) {
		err = -ENODATA;
	} else {
		op_lock_shared(&op, ino.ino);
		err = xattr_read(fs, op.view, &ino, name, buf, size, ret_len);
	}
out:
	op_end(&op);
	return err;
}

struct listing {
	char *buf;
	size_t size, len;
	bool acls;
};

static int list_one(void *arg, struct key key, const char *name, size_t len)
{
	struct listing *l = arg;

	(void)key;
	if (!l->acls && len == strlen(ACL_ACCESS) && !memcmp(name, ACL_ACCESS, len))
		return 0;
	if (!l->acls && len == strlen(ACL_DEFAULT) && !memcmp(name, ACL_DEFAULT, len))
		return 0;
	if (l->size && l->size - l->len < len + 1)
		return -ERANGE;
	if (l->size) {
		memcpy(l->buf + l->len, name, len);
		l->buf[l->len + len] = 0;
	}
	l->len += len + 1;
	return 0;
}

int fs_listxattr(struct fs *fs, uint64_t node, char *buf, size_t size, size_t *ret_len)
{
	struct listing l = { .buf = buf, .size = size };
	struct inode ino;
	struct op op;
	int err;

	err = op_begin_read(fs, node, &op);
	if (!err)
		err = inode_load(op.view, node_ino(node), &ino);
	if (!err && ino.state & FS_STATE_XATTRS) {
		op_lock_shared(&op, ino.ino);
		l.acls = acl_may_be(fs, &ino);
		err = xattr_each(op.view, ino.ino, list_one, &l);
	}
	op_end(&op);
	if (!err)
		*ret_len = l.len;
	return err;
}

/* ---- changing ---- */

/* Begins a change of the node's attributes: checks name and inode, and holds the lock. */
static int begin(struct fs *fs, uint64_t node, const char *name, struct op *op, struct inode *ret)
{
	uint64_t n = node_ino(node);
	int err;

	err = op_begin(fs, node, op);
	if (!err)
		err = check_name(name);
	if (err)
		return err;
	op_lock(op, &n, 1);
	err = inode_load(op->view, n, ret);
	if (err)
		return err;
	if (ret->flags & (FS_IMMUTABLE_FL | FS_APPEND_FL))
		return -EPERM;
	if (is_acl(name) && !acl_may_be(fs, ret))
		return -EOPNOTSUPP;
	if (has_prefix(name, XATTR_USER_PREFIX) && !S_ISREG(ret->mode) && !S_ISDIR(ret->mode))
		return -EPERM;
	return 0;
}

static int finish(struct op *op, struct inode *ino)
{
	int err;

	ino->ctime = op->now;
	err = inode_put(op->batch, ino);
	return err ? err : op_commit(op);
}

static int remove_acl(struct op *op, struct inode *ino, const char *name)
{
	int err = xattr_delete(op, ino, name);

	return err == -ENODATA ? 0 : err;
}

static int set_acl(struct op *op, struct inode *ino, const char *name, const void *val, size_t size, bool kill_sgid)
{
	/* A header without entries is how the kernel says "none". */
	bool none = !size || size == sizeof(le32), minimal;
	int err = none ? 0 : acl_check(val, size);

	if (err)
		return err;
	if (!strcmp(name, ACL_DEFAULT)) {
		if (!S_ISDIR(ino->mode))
			return none ? 0 : -EACCES;
		return none ? remove_acl(op, ino, name) : xattr_write(op, ino, name, val, size);
	}
	if (kill_sgid)
		ino->mode &= ~(uint32_t)S_ISGID;
	if (none)
		return remove_acl(op, ino, name);
	err = acl_to_mode(val, size, &ino->mode, &minimal);
	if (err)
		return err;
	return minimal ? remove_acl(op, ino, name) : xattr_write(op, ino, name, val, size);
}

static int check_flags(struct op *op, const struct inode *ino, const char *name, int flags)
{
	size_t len;
	int err;

	if (!flags)
		return 0;
	err = xattr_read(op->fs, op->view, ino, name, NULL, 0, &len);
	if (!err)
		return flags & XATTR_CREATE ? -EEXIST : 0;
	return err == -ENODATA && !(flags & XATTR_REPLACE) ? 0 : err;
}

static int set_once(struct fs *fs, uint64_t node, const char *name, const void *val, size_t size, int flags,
		    bool kill_sgid)
{
	struct inode ino;
	struct op op;
	int err;

	err = begin(fs, node, name, &op, &ino);
	if (!err && is_acl(name)) {
		err = set_acl(&op, &ino, name, val, size, kill_sgid);
	} else if (!err) {
		err = check_flags(&op, &ino, name, flags);
		if (!err)
			err = xattr_write(&op, &ino, name, val, size);
	}
	if (!err)
		err = finish(&op, &ino);
	op_end(&op);
	return err;
}

int fs_setxattr(struct fs *fs, uint64_t node, const char *name, const void *val, size_t size, int flags, bool kill_sgid)
{
	unsigned tries = 0;
	int err;

	if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	if (size > FS_XATTR_SIZE_MAX)
		return -E2BIG;
	do
		err = set_once(fs, node, name, val, size, flags, kill_sgid);
	while (op_retry(fs, err, &tries));
	return err;
}

static int remove_once(struct fs *fs, uint64_t node, const char *name)
{
	struct inode ino;
	struct op op;
	int err;

	err = begin(fs, node, name, &op, &ino);
	if (!err) {
		batch_releases(op.batch);
		err = is_acl(name) ? remove_acl(&op, &ino, name) : xattr_delete(&op, &ino, name);
	}
	if (!err)
		err = finish(&op, &ino);
	op_end(&op);
	return err;
}

int fs_removexattr(struct fs *fs, uint64_t node, const char *name)
{
	unsigned tries = 0;
	int err;

	do
		err = remove_once(fs, node, name);
	while (op_retry(fs, err, &tries));
	return err;
}

/*
 * acl.c - POSIX access control lists
 *
 * An ACL is a header and entries in a fixed order: owner, users, group, groups, mask, other. The kernel evaluates them; what
 * is left to us is to keep two stores of permissions, the mode's nine bits and the access ACL, from contradicting each other:
 *
 *	owner's entry	always equals the mode's owner bits
 *	mask		equals the mode's group bits; without a mask, the group's entry does
 *	other's entry	always equals the mode's other bits
 *
 * So setting an ACL changes the mode, chmod changes the ACL, and an ACL of only three entries is nothing but a mode and is
 * not kept at all. A directory's default ACL takes the umask's place: what is made inside gets it as its access ACL, less
 * what the mode asked for by open or mkdir does not have. All of these are the rules of the kernel's posix_acl.c, which for
 * a FUSE filesystem it leaves to us.
 *
 * Values are stored as the kernel hands them in: little-endian, ids as numbers. Everything here works on that form in place,
 * because it is small, has been checked when it was set, and goes back to the kernel unchanged.
 */
#include "fs/acl.h"

#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs_int.h"
#include "fs/xattr.h"

/* As in <linux/posix_acl_xattr.h>, with alignment 1. */
struct acl_header {
	le32 version;
};

struct acl_entry {
	le16 tag;
	le16 perm;
	le32 id;
};

static_assert(sizeof(struct acl_header) == sizeof(struct posix_acl_xattr_header), "the kernel's form");
static_assert(sizeof(struct acl_entry) == sizeof(struct posix_acl_xattr_entry), "the kernel's form");

static size_t entries(void *val, size_t size, struct acl_entry **ret)
{
	*ret = (struct acl_entry *)((uint8_t *)val + sizeof(struct acl_header));
	return (size - sizeof(struct acl_header)) / sizeof(struct acl_entry);
}

/* The order of entries: which may come next. */
enum { WANT_OWNER, WANT_USER, WANT_GROUP, WANT_OTHER, WANT_NOTHING, WRONG };

static int next_state(int state, unsigned tag, bool *needs_mask)
{
	switch (tag) {
	case ACL_USER_OBJ:
		return state == WANT_OWNER ? WANT_USER : WRONG;
	case ACL_USER:
		*needs_mask = true;
		return state == WANT_USER ? WANT_USER : WRONG;
	case ACL_GROUP_OBJ:
		return state == WANT_USER ? WANT_GROUP : WRONG;
	case ACL_GROUP:
		*needs_mask = true;
		return state == WANT_GROUP ? WANT_GROUP : WRONG;
	case ACL_MASK:
		return state == WANT_GROUP ? WANT_OTHER : WRONG;
	case ACL_OTHER:
		return state == WANT_OTHER || (state == WANT_GROUP && !*needs_mask) ? WANT_NOTHING : WRONG;
	default:
		return WRONG;
	}
}

int acl_check(const void *val, size_t size)
{
	const struct acl_header *h = val;
	const struct acl_entry *e;
	bool needs_mask = false;
	int state = WANT_OWNER;

	if (size < sizeof(*h) || (size - sizeof(*h)) % sizeof(*e))
		return -EINVAL;
	if (le32_get(h->version) != POSIX_ACL_XATTR_VERSION)
		return -EINVAL;
	e = (const struct acl_entry *)(h + 1);
	for (size_t n = (size - sizeof(*h)) / sizeof(*e); n--; e++) {
		if (le16_get(e->perm) & ~07u)
			return -EINVAL;
		state = next_state(state, le16_get(e->tag), &needs_mask);
	}
	return state == WANT_NOTHING ? 0 : -EINVAL;
}

int acl_to_mode(const void *val, size_t size, uint32_t *mode, bool *ret_minimal)
{
	struct acl_entry *e;
	size_t n = entries((void *)(uintptr_t)val, size, &e);
	uint32_t owner = 0, group = 0, mask = 0, other = 0;
	bool masked = false, minimal = true;

	for (; n--; e++) {
		uint32_t perm = le16_get(e->perm);

		switch (le16_get(e->tag)) {
		case ACL_USER_OBJ:
			owner = perm;
			break;
		case ACL_GROUP_OBJ:
			group = perm;
			break;
		case ACL_MASK:
			mask = perm;
			masked = true;
			minimal = false;
			break;
		case ACL_OTHER:
			other = perm;
			break;
		default:
			minimal = false;
		}
	}
	*mode = (*mode & ~0777u) | owner << 6 | (masked ? mask : group) << 3 | other;
	*ret_minimal = minimal;
	return 0;
}

/* The entry whose permissions the mode's group bits stand for. */
static struct acl_entry *group_class(struct acl_entry *e, size_t n)
{
	struct acl_entry *group = NULL;

	for (; n--; e++) {
		if (le16_get(e->tag) == ACL_MASK)
			return e;
		if (le16_get(e->tag) == ACL_GROUP_OBJ)
			group = e;
	}
	return group;
}

int acl_from_mode(void *val, size_t size, uint32_t mode)
{
	struct acl_entry *e;
	size_t n = entries(val, size, &e);
	struct acl_entry *group = group_class(e, n);

	if (!group)
		return -EIO;
	for (; n--; e++) {
		if (le16_get(e->tag) == ACL_USER_OBJ)
			e->perm = le16_put((mode >> 6) & 07);
		else if (le16_get(e->tag) == ACL_OTHER)
			e->perm = le16_put(mode & 07);
	}
	group->perm = le16_put((mode >> 3) & 07);
	return 0;
}

/* A copy of a stored ACL. -ENODATA. */
static int load(struct op *op, const struct inode *ino, const char *name, void **ret, size_t *ret_size)
{
	size_t size;
	void *val;
	int err;

	err = xattr_read(op->fs, op->view, ino, name, NULL, 0, &size);
	if (err)
		return err;
	val = mem_alloc(size + 1); /* an empty one is damage, which acl_check finds */
	if (!val)
		return -ENOMEM;
	err = xattr_read(op->fs, op->view, ino, name, val, size + 1, &size);
	if (!err && acl_check(val, size))
		err = corrupt("acl", ino->ino, name, size, 0);
	if (err) {
		mem_free(val);
		return err;
	}
	*ret = val;
	*ret_size = size;
	return 0;
}

static uint32_t take_off(struct acl_entry *e, uint32_t mode)
{
	uint32_t perm = le16_get(e->perm) & mode;

	e->perm = le16_put((uint16_t)perm);
	return perm;
}

/* A default ACL becomes the access ACL of something made with `mode`: both lose what the other does not allow. */
static int mask_by_mode(void *val, size_t size, uint32_t *mode, bool *ret_minimal)
{
	struct acl_entry *e;
	size_t n = entries(val, size, &e);
	struct acl_entry *group = group_class(e, n);
	uint32_t bits;

	if (!group)
		return -EIO;
	*ret_minimal = true;
	bits = take_off(group, (*mode >> 3) & 07) << 3;
	for (; n--; e++) {
		unsigned tag = le16_get(e->tag);

		if (tag == ACL_USER_OBJ)
			bits |= take_off(e, (*mode >> 6) & 07) << 6;
		else if (tag == ACL_OTHER)
			bits |= take_off(e, *mode & 07);
		else if (tag != ACL_GROUP_OBJ)
			*ret_minimal = false;
	}
	*mode = (*mode & ~0777u) | bits;
	return 0;
}

int acl_inherit(struct op *op, const struct fs_caller *caller, const struct inode *parent, struct inode *child)
{
	void *val = NULL;
	bool minimal;
	size_t size;
	int err;

	if (S_ISLNK(child->mode))
		return 0;
	err = op->fs->opt.acl ? load(op, parent, ACL_DEFAULT, &val, &size) : -ENODATA;
	if (err == -ENODATA) {
		child->mode &= ~(caller->umask & 0777u);
		return 0;
	}
	if (err)
		return err;
	if (S_ISDIR(child->mode))
		err = xattr_write_new(op, child, ACL_DEFAULT, val, size);
	if (!err)
		err = mask_by_mode(val, size, &child->mode, &minimal);
	if (!err && !minimal)
		err = xattr_write_new(op, child, ACL_ACCESS, val, size);
	mem_free(val);
	return err;
}

int acl_chmod(struct op *op, struct inode *ino)
{
	void *val = NULL;
	size_t size;
	int err;

	if (S_ISLNK(ino->mode))
		return 0;
	err = load(op, ino, ACL_ACCESS, &val, &size);
	if (err)
		return err == -ENODATA ? 0 : err;
	err = acl_from_mode(val, size, ino->mode);
	if (!err)
		err = xattr_write(op, ino, ACL_ACCESS, val, size);
	mem_free(val);
	return err;
}

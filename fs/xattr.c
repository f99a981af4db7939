/*
 * xattr.c - extended attributes as items
 *
 * An attribute is found by a hash of its name; names whose hashes collide have different slots. The value follows the name
 * in chunk 0, and what does not fit there goes on in chunks 1, 2, ...: keys that follow each other, so a value is read by one
 * scan that begins at the hash. All chunks change in one batch, so an attribute is always whole.
 *
 * The kernel asks for security.capability before many writes, and for almost all files the answer is that there is none. So
 * the inode says whether it has any attribute at all (FS_STATE_XATTRS): without that no search is made. The flag is exact
 * (fsck checks it): set with the first attribute, cleared with the last. Whether one is the last is read from the tree as it
 * was before the batch, hence the rule of xattr.h: of one inode, a batch deletes at most one attribute, and does not add a
 * new one as well.
 *
 * listxattr can return 64 KiB at most, and fails for ever on a file whose names are longer. So the name that would
 * exceed it is refused with ENOSPC when it is set.
 *
 * Rejected: one item for all small attributes of an inode (as ext4 has it), which saves keys but makes each change a
 * rewrite of all of them and needs a second form for large values; and attributes in the inode's value, which would be read
 * and written with every change of a time.
 */
#include "fs/xattr.h"

#include <linux/limits.h>
#include <string.h>

#include "fs/fs_int.h"

#define SLOT_SHIFT 8
#define HASH_SHIFT 16
#define CHUNKS_MAX 256u
#define SLOTS_MAX 256u
#define CAPABILITY "security.capability"

uint64_t xattr_hash(struct fs *fs, const char *name, size_t len)
{
	uint64_t h = fs_hash(fs, name, len) >> 16;

	/* So that hash + 1 still fits. */
	return h < UINT64_C(0xffffffffffff) ? h : h - 1;
}

static struct key xattr_key(uint64_t ino, uint64_t hash, unsigned slot, unsigned chunk)
{
	return key_make(ino, FS_ITEM_XATTR, hash << HASH_SHIFT | (uint64_t)slot << SLOT_SHIFT | chunk);
}

static unsigned key_slot(struct key k)
{
	return (k.off >> SLOT_SHIFT) & 0xff;
}

static bool key_is_first(struct key k)
{
	return !(k.off & 0xff);
}

/* ---- finding ---- */

struct found {
	struct key key;	      /* of chunk 0; -ENODATA: where one could be put */
	uint32_t size;	      /* of the whole value */
	const uint8_t *bytes; /* of the value, in chunk 0; valid until the scan goes on */
	size_t len;
};

/* -ENODATA; then ret->key is free, or -ENOSPC if all slots are taken. The scan stands behind chunk 0. */
static int find(struct scan *s, uint64_t ino, uint64_t hash, const char *name, size_t name_len, struct found *ret)
{
	unsigned slot = 0;
	const void *val;
	struct key key;
	size_t len;
	int err;

	while (!(err = scan_next(s, &key, &val, &len))) {
		const struct disk_xattr *d = val;

		if (!key_is_first(key))
			continue;
		if (d->name_len == name_len && !memcmp(d->name, name, name_len)) {
			*ret = (struct found){ key, le32_get(d->size), d->name + name_len,
					       len - sizeof(*d) - name_len };
			return 0;
		}
		if (key_slot(key) == slot)
			slot++;
	}
	if (err < 0)
		return err;
	if (slot == SLOTS_MAX)
		return -ENOSPC;
	*ret = (struct found){ .key = xattr_key(ino, hash, slot, 0) };
	return -ENODATA;
}

static int scan_hash(struct view *v, uint64_t ino, uint64_t hash, struct scan **ret)
{
	return scan_open(v, xattr_key(ino, hash, 0, 0), xattr_key(ino, hash + 1, 0, 0), ret);
}

/* Copies the rest of a value, behind what chunk 0 has of it. */
static int read_rest(struct scan *s, const struct found *at, uint8_t *buf)
{
	size_t done = at->len;
	const void *val;
	struct key key;
	size_t len;
	int err = 0;

	for (unsigned chunk = 1; done < at->size && !err; chunk++) {
		err = scan_next(s, &key, &val, &len);
		if (err > 0 || (!err && key.off != (at->key.off | chunk)))
			return corrupt("xattr", key_ino(at->key), "missing chunk", chunk, at->size);
		if (err)
			return err;
		if (len > at->size - done)
			return corrupt("xattr", key_ino(at->key), "chunk longer than the value", len, at->size - done);
		memcpy(buf + done, val, len);
		done += len;
	}
	return err;
}

int xattr_read(struct fs *fs, struct view *v, const struct inode *ino, const char *name, void *buf, size_t size,
	       size_t *ret_len)
{
	size_t name_len = strlen(name);
	struct found at;
	struct scan *s;
	uint64_t hash;
	int err;

	if (!(ino->state & FS_STATE_XATTRS))
		return -ENODATA;
	hash = xattr_hash(fs, name, name_len);
	err = scan_hash(v, ino->ino, hash, &s);
	if (err)
		return err;
	err = find(s, ino->ino, hash, name, name_len, &at);
	if (err == -ENOSPC)
		err = -ENODATA;
	if (err)
		goto out;
	*ret_len = at.size;
	if (!size)
		goto out;
	if (size < at.size) {
		err = -ERANGE;
		goto out;
	}
	memcpy(buf, at.bytes, at.len);
	err = read_rest(s, &at, buf);
out:
	scan_close(s);
	return err;
}

/* ---- all of them ---- */

int xattr_each(struct view *v, uint64_t ino, int (*each)(void *arg, struct key, const char *name, size_t len),
	       void *arg)
{
	const void *val;
	struct scan *s;
	struct key key;
	size_t len;
	int err;

	err = scan_open(v, key_make(ino, FS_ITEM_XATTR, 0), key_make(ino, FS_ITEM_XATTR + 1, 0), &s);
	if (err)
		return err;
	while (!(err = scan_next(s, &key, &val, &len))) {
		const struct disk_xattr *d = val;

		if (!key_is_first(key))
			continue;
		err = each(arg, key, (const char *)d->name, d->name_len);
		if (err)
			break;
	}
	scan_close(s);
	return err > 0 ? 0 : err;
}

static int add_length(void *arg, struct key key, const char *name, size_t len)
{
	size_t *total = arg;

	(void)key;
	(void)name;
	*total += len + 1;
	return 0;
}

static int is_other(void *arg, struct key key, const char *name, size_t len)
{
	const struct key *mine = arg;

	(void)name;
	(void)len;
	return key_equal(key, *mine) ? 0 : -EEXIST;
}

/* ---- changing ---- */

/* Puts all chunks of a value; *ret_chunks: how many. */
static int put_chunks(struct op *op, struct key first, const char *name, const void *val, size_t size,
		      unsigned *ret_chunks)
{
	size_t name_len = strlen(name), max = op->fs->value_max, head = sizeof(struct disk_xattr) + name_len;
	size_t done = max - head < size ? max - head : size;
	struct disk_xattr *d = mem_alloc(head + done);
	unsigned chunk = 1;
	int err;

	if (!d)
		return -ENOMEM;
	d->size = le32_put((uint32_t)size);
	d->name_len = (uint8_t)name_len;
	memcpy(d->name, name, name_len);
	if (done)
		memcpy(d->name + name_len, val, done);
	err = batch_put(op->batch, first, d, head + done);
	mem_free(d);
	for (; !err && done < size; chunk++) {
		size_t len = size - done < max ? size - done : max;

		assert(chunk < CHUNKS_MAX);
		err = batch_put(op->batch, (struct key){ first.obj, first.off | chunk }, (const uint8_t *)val + done,
				len);
		done += len;
	}
	*ret_chunks = chunk;
	return err;
}

static int delete_chunks(struct op *op, struct key first, unsigned from)
{
	return batch_del_range(op->batch, (struct key){ first.obj, first.off | from },
			       (struct key){ first.obj, first.off + CHUNKS_MAX });
}

static int lookup(struct op *op, const struct inode *ino, const char *name, struct found *ret)
{
	size_t len = strlen(name);
	uint64_t hash = xattr_hash(op->fs, name, len);
	struct scan *s;
	int err;

	if (!(ino->state & FS_STATE_XATTRS)) {
		*ret = (struct found){ .key = xattr_key(ino->ino, hash, 0, 0) };
		return -ENODATA;
	}
	err = scan_hash(op->view, ino->ino, hash, &s);
	if (err)
		return err;
	err = find(s, ino->ino, hash, name, len, ret);
	scan_close(s);
	return err;
}

int xattr_write(struct op *op, struct inode *ino, const char *name, const void *val, size_t size)
{
	size_t total = strlen(name) + 1;
	struct found at;
	unsigned chunks;
	bool new;
	int err;

	if (size > FS_XATTR_SIZE_MAX)
		return -E2BIG;
	err = lookup(op, ino, name, &at);
	new = err == -ENODATA;
	if (err && !new)
		return err;
	if (new && ino->state & FS_STATE_XATTRS) {
		err = xattr_each(op->view, ino->ino, add_length, &total);
		if (err)
			return err;
		if (total > XATTR_LIST_MAX)
			return -ENOSPC;
	}
	err = put_chunks(op, at.key, name, val, size, &chunks);
	if (!err && !new &&at.size > at.len)
		err = delete_chunks(op, at.key, chunks);
	if (!err)
		ino->state |= FS_STATE_XATTRS;
	return err;
}

int xattr_write_new(struct op *op, struct inode *ino, const char *name, const void *val, size_t size)
{
	size_t len = strlen(name);
	uint64_t hash = xattr_hash(op->fs, name, len);
	/* The tree does not show what this batch has put already, so names of one hash are told apart by more of the hash. */
	unsigned slot = fs_hash(op->fs, name, len) & 0xff, chunks;
	int err;

	if (size > FS_XATTR_SIZE_MAX)
		return -E2BIG;
	err = put_chunks(op, xattr_key(ino->ino, hash, slot, 0), name, val, size, &chunks);
	if (!err)
		ino->state |= FS_STATE_XATTRS;
	return err;
}

int xattr_delete(struct op *op, struct inode *ino, const char *name)
{
	struct found at;
	int err;

	err = lookup(op, ino, name, &at);
	if (err)
		return err == -ENOSPC ? -ENODATA : err;
	err = at.size > at.len ? delete_chunks(op, at.key, 0) : batch_del(op->batch, at.key);
	if (err)
		return err;
	err = xattr_each(op->view, ino->ino, is_other, &at.key);
	if (err == -EEXIST)
		return 0;
	if (!err)
		ino->state &= ~FS_STATE_XATTRS;
	return err;
}

int xattr_kill_caps(struct op *op, struct inode *ino)
{
	int err;

	if (!(ino->state & FS_STATE_XATTRS))
		return 0;
	err = xattr_delete(op, ino, CAPABILITY);
	return err == -ENODATA ? 0 : err;
}

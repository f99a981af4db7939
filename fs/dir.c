/*
 * dir.c - finding names, and the places where they can be put
 *
 * A name's key is a hash of it, 55 bits, and a slot. Names of one hash are so rare that they need not be found fast,
 * but they must be found, and their keys must not change while the names stay, because the key is what a reader of the
 * directory remembers as its position. So colliding names stand in different slots of their hash, in no order, each one
 * item, with holes where names have gone. A search begins at the last slot and goes downwards: view_floor gives the
 * next item there is, so one search of the tree decides in all but those rare cases, both that a name is there and that
 * it is not.
 *
 * A search without locks is sound. While a name stays, it stays under its key, and each step sees the item as it is at
 * that moment; so a name that is there during the whole search is found, and what is not found was not there at some
 * moment of it.
 *
 * Rejected: all names of one hash in one item (a change would rewrite the others, and a position could not name one of
 * them); directories as blocks of their own, as in ext4 (the tree is an index already).
 */
#include "fs/dir.h"

#include <string.h>

#include "fs/fs_int.h"

#define SLOTS (1u << FS_SLOT_BITS)

uint64_t dir_hash(struct fs *fs, const char *name, size_t len)
{
	uint64_t hash = fs_hash(fs, name, len) >> (64 - 55);

	if (fs->hash_mask)
		hash &= fs->hash_mask;
	if (!hash)
		hash = 1; /* positions below 1 << FS_SLOT_BITS are those of "." and ".." */
	return hash > FS_HASH_MAX ? FS_HASH_MAX : hash;
}

int dir_name_check(const char *name, size_t *ret_len)
{
	size_t len = strnlen(name, FS_NAME_MAX + 1);

	if (len > FS_NAME_MAX)
		return -ENAMETOOLONG;
	if (!len || memchr(name, '/', len))
		return -EINVAL;
	*ret_len = len;
	return 0;
}

/* The item that stands at the slot or, if there is none, the next below it of the same hash. -ENOENT. */
static int floor_slot(struct view *v, struct key key, struct key *ret_key, void *buf, size_t cap, size_t *ret_len)
{
	int err = view_floor(v, key, ret_key, buf, cap, ret_len);

	if (!err && (ret_key->obj != key.obj || ret_key->off >> FS_SLOT_BITS != key.off >> FS_SLOT_BITS))
		err = -ENOENT;
	return err;
}

int dir_find(struct op *op, uint64_t dir, const char *name, size_t len, struct dir_slot *ret)
{
	union {
		struct disk_dirent d;
		uint8_t bytes[sizeof(struct disk_dirent) + FS_NAME_MAX];
	} val;
	unsigned slot = SLOTS - 1, above = SLOTS; /* the next to look at; the lowest seen to be taken */
	int free_slot = -1;
	struct key key;
	uint64_t hash;
	size_t val_len;
	int err;

	if (!len || len > FS_NAME_MAX)
		return len ? -ENAMETOOLONG : -EINVAL;
	hash = dir_hash(op->fs, name, len);
	for (;;) {
		unsigned found;

		err = floor_slot(op->view, key_make(dir, FS_ITEM_DIRENT, hash << FS_SLOT_BITS | slot), &key, &val,
				 sizeof(val), &val_len);
		if (err)
			break;
		if (val_len <= sizeof(val.d) || val_len > sizeof(val))
			return corrupt("name", dir, "length", val_len, sizeof(val));
		if (val_len == sizeof(val.d) + len && !memcmp(val.d.name, name, len)) {
			*ret = (struct dir_slot){ .key = key, .ino = le64_get(val.d.ino), .type = val.d.type };
			return 0;
		}
		found = key.off & (SLOTS - 1);
		if (found + 1 < above)
			free_slot = (int)found + 1;
		above = found;
		err = -ENOENT;
		if (!found)
			break;
		slot = found - 1;
	}
	if (err != -ENOENT)
		return err;
	/* The lowest free slot, so that the numbers stay small. */
	if (above)
		free_slot = 0;
	if (free_slot < 0)
		return -ENOSPC;
	*ret = (struct dir_slot){ .key = key_make(dir, FS_ITEM_DIRENT, hash << FS_SLOT_BITS | (unsigned)free_slot) };
	return -ENOENT;
}

int dir_put(struct batch *b, struct key key, const char *name, size_t len, uint64_t ino, unsigned type)
{
	union {
		struct disk_dirent d;
		uint8_t bytes[sizeof(struct disk_dirent) + FS_NAME_MAX];
	} val;

	if (!len || len > FS_NAME_MAX)
		return len ? -ENAMETOOLONG : -EINVAL;
	val.d.ino = le64_put(ino);
	val.d.type = (uint8_t)type;
	memcpy(val.d.name, name, len);
	return batch_put(b, key, &val, sizeof(val.d) + len);
}

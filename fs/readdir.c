/*
 * readdir.c - listing a directory
 *
 * A position is the key's offset of the next name to be given, so it needs no state between calls: 0 and 1 are "." and
 * "..", the names follow from 1 << FS_SLOT_BITS on, in the order of their hashes. Names that stay keep their positions;
 * so whatever is made or removed meanwhile, each name that is there all the time is given once.
 *
 * No locks: a leaf of the tree is copied as it is at one moment, and names are given from the copy. With attributes, a
 * name's inode is read, with a reference (entry_get), when the name is given; if it has gone by then, or cannot be
 * read, the name is given without: who wants to know more looks it up. The reference stays only if the name was
 * accepted.
 */
#include <dirent.h>
#include <string.h>

#include "fs/fs_int.h"
#include "fs/namei.h"

#define POS_END (UINT64_C(1) << 63)

struct listing {
	struct op op;
	uint64_t node;
	bool plus;
	int (*each)(void *arg, const struct fs_dirent *);
	void *arg;
};

/* "." and "..", which are there even in a directory that has been removed. */
static int give_dots(struct listing *l, uint64_t pos)
{
	struct fs_dirent e = { .name = "..", .name_len = 2, .type = DT_DIR };
	struct inode dir;
	int err = dir_load(l->op.view, node_ino(l->node), &dir);

	for (; !err && pos < 2; pos++) {
		e.name = pos ? ".." : ".";
		e.name_len = pos + 1;
		e.ino = pos ? dir.parent : dir.ino;
		e.next = pos + 1;
		err = l->each(l->arg, &e) ? 1 : 0;
	}
	return err;
}

static int give(struct listing *l, struct key key, const void *val, size_t len)
{
	const struct disk_dirent *d = val;
	struct fs_dirent e = { 0 };
	struct fs_entry entry;
	char name[FS_NAME_MAX + 1];

	if (len <= sizeof(*d) || len - sizeof(*d) > FS_NAME_MAX)
		return corrupt("name", key_ino(key), "length", len, sizeof(*d) + 1);
	e.name_len = len - sizeof(*d);
	memcpy(name, d->name, e.name_len);
	name[e.name_len] = '\0';
	e.name = name;
	e.ino = le64_get(d->ino);
	e.type = d->type;
	e.next = key.off + 1;
	if (l->plus && !entry_get(&l->op, node_make(l->node, e.ino), &entry))
		e.entry = &entry;
	if (!l->each(l->arg, &e))
		return 0;
	if (e.entry)
		fs_forget(l->op.fs, entry.node, 1);
	return 1;
}

static int give_names(struct listing *l, uint64_t pos)
{
	uint64_t ino = node_ino(l->node);
	struct scan *scan;
	int err = scan_open(l->op.view, key_make(ino, FS_ITEM_DIRENT, pos), key_make(ino, FS_ITEM_DIRENT, POS_END),
			    &scan);

	if (err)
		return err;
	while (!err) {
		const void *val;
		struct key key;
		size_t len;

		err = scan_next(scan, &key, &val, &len);
		if (!err)
			err = give(l, key, val, len);
	}
	scan_close(scan);
	return err;
}

int fs_readdir(struct fs *fs, uint64_t node, uint64_t pos, bool plus, int (*each)(void *arg, const struct fs_dirent *),
	       void *arg)
{
	struct listing l = { .node = node, .plus = plus, .each = each, .arg = arg };
	int err = op_begin_read(fs, node, &l.op);

	if (!err && pos < 2)
		err = give_dots(&l, pos);
	else if (!err)
		err = dir_load(l.op.view, node_ino(node), &(struct inode){ 0 });
	if (!err && pos < POS_END)
		err = give_names(&l, pos);
	op_end(&l.op);
	return err < 0 ? err : 0;
}

/*
 * check_names.c - names against inodes, and what follows from both together
 *
 * Each directory of the table is scanned for its names; each name is looked up in the table and counted there: at its inode
 * as one more name, at its directory as one more entry. When all are counted, every inode of the table is held against
 * what it says itself: link count, number of names, parent, mark for deletion.
 *
 * That every directory has one name does not make a tree: some may form a ring that hangs from nothing. So from each
 * directory we go upwards, marking the way, until something is met that is done (or the root, or what has no name: told
 * elsewhere), or the way itself: a ring. Only the ring is told, not what hangs from it.
 */
#include <dirent.h>
#include <inttypes.h>
#include <string.h>

#include "fs/check_int.h"

/* Steps of searching names for paths in one view: some seconds. */
#define PATH_STEPS_MAX (UINT64_C(20) << 20)

/* ---- names ---- */

/* Of several directories that name it, the one it says is its parent, else the one with the smallest number. */
static void note_named_in(struct check_inode *target, uint64_t dir)
{
	uint64_t old = __atomic_load_n(&target->named_in, __ATOMIC_RELAXED);

	while (!old || (old != target->parent && (dir == target->parent || dir < old)))
		if (__atomic_compare_exchange_n(&target->named_in, &old, dir, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			break;
}

static int on_name(struct check *c, struct check_inode *dir, struct check_same *same, struct key key,
		   const struct disk_dirent *d, size_t len)
{
	uint64_t ino = le64_get(d->ino), hash = key.off >> FS_SLOT_BITS, want;
	struct check_inode *target = check_find(c, ino);
	const char *name = (const char *)d->name;
	size_t name_len = len - sizeof(*d);
	char shown[CHECK_SHOWN_MAX];
	int err;

	check_shown(shown, d->name, name_len);
	dir->entries++;
	want = dir_hash(c->fs, name, name_len);
	if (hash != want)
		check_problem(c, FS_PROBLEM_NAME_HASH, check_ino(dir), key.off, 0, name, name_len,
			      "name '%s' stands under hash %" PRIx64 " instead of %" PRIx64, shown, hash, want);
	err = check_same_add(same, hash, d->name, name_len);
	if (err < 0)
		return err;
	if (err > 0)
		check_problem(c, FS_PROBLEM_NAME_TWICE, check_ino(dir), key.off, 0, name, name_len,
			      "name '%s', also for inode %" PRIu64, shown, ino);
	if (target && target->id & CHECK_MISSING)
		note_named_in(target, check_ino(dir));
	if (!target || target->id & CHECK_MISSING) {
		dir->subdirs += d->type == DT_DIR;
		if (!check_may_be_lost(c, key_make(ino, FS_ITEM_INODE, 0)))
			check_problem(c, FS_PROBLEM_NAME_NO_INODE, check_ino(dir), key.off, 0, name, name_len,
				      "name '%s' refers to inode %" PRIu64, shown, ino);
		return 0;
	}
	if (d->type != check_type(target))
		check_problem(c, FS_PROBLEM_NAME_TYPE, check_ino(dir), key.off, 0, name, name_len,
			      "name '%s' says type %u, inode %" PRIu64 " is of type %u", shown, d->type, ino,
			      check_type(target));
	dir->subdirs += check_type(target) == DT_DIR;
	__atomic_fetch_add(&target->names, 1, __ATOMIC_RELAXED);
	note_named_in(target, check_ino(dir));
	return 0;
}

static int scan_dir(struct check *c, struct check_inode *dir, struct check_same *same)
{
	uint64_t ino = check_ino(dir);
	struct key key, last = KEY_MIN;
	struct check_lost lost;
	const void *val;
	struct scan *s;
	size_t len;
	int err;

	same->n = 0;
	err = scan_open(c->view, key_make(ino, FS_ITEM_DIRENT, 0), key_make(ino, FS_ITEM_DIRENT + 1, 0), &s);
	if (err)
		return err;
	while (err <= 0) {
		err = scan_next(s, &key, &val, &len);
		if (!err) {
			if (!key_less(key, last) && key_type(key) == FS_ITEM_DIRENT)
				err = on_name(c, dir, same, key, val, len);
			last = key_next(key);
		} else if (err < 0) {
			dir->id |= CHECK_INCOMPLETE;
			err = check_skip(c, s, err, &lost);
		}
		if (err < 0)
			break;
	}
	scan_close(s);
	return err < 0 ? err : 0;
}

static int scan_part(struct check *c, size_t i, void *arg)
{
	struct check_part *p = &c->part[i];
	struct check_same same = { 0 };
	int err = 0;

	(void)arg;
	for (size_t k = 0; !err && k < p->n; k++)
		if (p->at[k].id & CHECK_NAMES)
			err = scan_dir(c, &p->at[k], &same);
	mem_free(same.buf);
	return err;
}

/* ---- the table ---- */

#define PROBLEM(c, problem, i, where, want, ...)                                                                       \
	check_problem(c, FS_PROBLEM_##problem, check_ino(i), where, want, NULL, 0, __VA_ARGS__)

static void check_links(struct check *c, const struct check_inode *i)
{
	bool dir = check_type(i) == DT_DIR, root = check_ino(i) == FS_ROOT_INO, marked = i->id & CHECK_MARKED;
	uint64_t want = i->names;

	if (marked && (i->names || root))
		PROBLEM(c, ORPHAN_BAD, i, FS_ORPHAN_UNLINKED, i->names, "%" PRIu32 " names", i->names);
	else if (marked && dir && i->entries)
		PROBLEM(c, ORPHAN_BAD, i, FS_ORPHAN_UNLINKED, 0, "a directory with %" PRIu32 " names in it", i->entries);
	if (!marked && !i->names && !root) {
		/* Without a name the link count says nothing more. */
		if (!c->names_lost && !check_may_be_lost(c, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, check_ino(i) << 1)))
			PROBLEM(c, NO_NAME, i, 0, 0, "link count %" PRIu32, i->nlink);
		return;
	}
	if (dir) {
		if (i->id & CHECK_INCOMPLETE)
			return;
		want = i->names || root ? 2 + (uint64_t)i->subdirs : 0;
	} else if (c->names_lost && i->nlink > want) {
		return;
	}
	if (i->nlink != want)
		PROBLEM(c, LINKS, i, 0, want, "link count %" PRIu32 ", counted %" PRIu64, i->nlink, want);
}

static void check_dir(struct check *c, const struct check_inode *i)
{
	uint64_t ino = check_ino(i), up = ino == FS_ROOT_INO ? FS_ROOT_INO : i->named_in;

	if (i->size != i->entries && !(i->id & CHECK_INCOMPLETE))
		PROBLEM(c, DIR_SIZE, i, 0, i->entries, "%" PRIu32 " names, the inode says %" PRIu64, i->entries, i->size);
	if (i->names > 1)
		PROBLEM(c, DIR_TWICE, i, 0, 0, "%" PRIu32 " names", i->names);
	if (up && i->names <= 1 && i->parent != up)
		PROBLEM(c, DIR_PARENT, i, 0, up, "the inode says inode %" PRIu64 ", its name is in inode %" PRIu64, i->parent,
			up);
}

static struct check_inode *up_from(struct check *c, const struct check_inode *i)
{
	return check_ino(i) == FS_ROOT_INO || !i->named_in ? NULL : check_find(c, i->named_in);
}

static void find_ring(struct check *c, struct check_inode *from)
{
	struct check_inode *i, *smallest;
	uint64_t n = 0;

	for (i = from; i && !(i->id & (CHECK_WALKED | CHECK_WALKING)); i = up_from(c, i))
		i->id |= CHECK_WALKING;
	if (i && i->id & CHECK_WALKING) {
		smallest = i;
		do {
			if (check_ino(i) < check_ino(smallest))
				smallest = i;
			i->id = (i->id & ~(uint64_t)CHECK_WALKING) | CHECK_WALKED | CHECK_RING;
			i = up_from(c, i);
			n++;
		} while (!(i->id & CHECK_WALKED));
		PROBLEM(c, DIR_LOOP, smallest, 0, smallest->named_in, "a ring of %" PRIu64 " directories", n);
	}
	for (i = from; i && i->id & CHECK_WALKING; i = up_from(c, i))
		i->id = (i->id & ~(uint64_t)CHECK_WALKING) | CHECK_WALKED;
}

static void check_marks(struct check *c)
{
	for (size_t n = 0; n < c->n_marks; n++) {
		const struct check_mark *m = &c->marks[n];
		const struct check_inode *i = check_find(c, m->ino);

		if ((!i || i->id & CHECK_MISSING) && !check_may_be_lost(c, key_make(m->ino, FS_ITEM_INODE, 0)))
			check_problem(c, FS_PROBLEM_ORPHAN_BAD, m->ino, CHECK_BOTH_MARKS, 0, NULL, 0, "the inode does not exist");
		else if (i && !(i->id & CHECK_MISSING) && m->range && check_type(i) != DT_REG)
			PROBLEM(c, ORPHAN_BAD, i, FS_ORPHAN_RANGE, 0, "a range of what is no regular file");
	}
}

int check_names(struct check *c)
{
	const struct check_inode *root;
	int err = check_parallel(c, c->n_parts, scan_part, NULL, "names");

	if (err)
		return err;
	root = check_find(c, FS_ROOT_INO);
	if (root && !(root->id & CHECK_MISSING) ? check_type(root) != DT_DIR
						: !check_may_be_lost(c, key_make(FS_ROOT_INO, FS_ITEM_INODE, 0)))
		check_problem(c, FS_PROBLEM_NO_ROOT, FS_ROOT_INO, 0, 0, NULL, 0, "inode %u is %s", FS_ROOT_INO,
			      root && !(root->id & CHECK_MISSING) ? "of another type" : "not there");
	for (unsigned part = 0; part < c->n_parts; part++)
		for (size_t k = 0; k < c->part[part].n; k++) {
			struct check_inode *i = &c->part[part].at[k];

			if (!(i->id & CHECK_MISSING))
				check_links(c, i);
			if (check_type(i) != DT_DIR)
				continue;
			check_dir(c, i);
			find_ring(c, i);
		}
	check_marks(c);
	return 0;
}

/* ---- paths ---- */

/* Writes a name of `ino` in the directory in front of *at, with a slash. 1: none was found, or there is no room. */
static int prepend_name(struct check *c, uint64_t dir, uint64_t ino, char *buf, size_t *at)
{
	struct scan *s;
	const void *val;
	struct key key;
	size_t len;
	int err;

	err = scan_open(c->view, key_make(dir, FS_ITEM_DIRENT, 0), key_make(dir, FS_ITEM_DIRENT + 1, 0), &s);
	if (err)
		return err;
	while (!(err = c->path_steps++ < PATH_STEPS_MAX ? scan_next(s, &key, &val, &len) : 1)) {
		const struct disk_dirent *d = val;
		size_t name_len = len - sizeof(*d);

		if (key_type(key) != FS_ITEM_DIRENT || le64_get(d->ino) != ino)
			continue;
		if (*at < name_len + 1) {
			err = 1;
			break;
		}
		*at -= name_len;
		memcpy(buf + *at, d->name, name_len);
		buf[--*at] = '/';
		break;
	}
	scan_close(s);
	return check_is_damage(err) ? 1 : err;
}

int check_path(struct check *c, uint64_t ino, char buf[CHECK_PATH_MAX], const char **ret)
{
	size_t at = CHECK_PATH_MAX - 1;
	int err = 0;

	*ret = NULL;
	buf[at] = 0;
	/* Rings are known; whatever else may come, each step takes two bytes of the buffer. */
	while (ino != FS_ROOT_INO && !err) {
		const struct check_inode *i = check_find(c, ino);

		if (!i || !i->named_in || i->id & CHECK_RING)
			return 0;
		err = prepend_name(c, i->named_in, ino, buf, &at);
		ino = i->named_in;
	}
	if (err)
		return err < 0 ? err : 0;
	if (!buf[at])
		buf[--at] = '/';
	*ret = buf + at;
	return 0;
}

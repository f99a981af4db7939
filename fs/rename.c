/*
 * rename.c - moving, replacing and exchanging names
 *
 * One batch changes at most: two directories, two inodes, two names, and a whiteout. What has to be decided under locks
 * is known only after looking (which inodes; whether a directory moves), so the names are looked up without locks, what
 * they refer to is locked in one go, and the names are looked up again; if they refer to something else now, all over.
 *
 * Loops. A directory moved into one of its own descendants would be cut off from the root. Whether that is so is known
 * by going up from the new parent, over directories that are not locked. fs.rename_lock makes this safe: with it held,
 * no directory gets another parent, and the new parent itself, locked and not removed, has ancestors that are not empty
 * and so cannot be removed. Renames within one directory and of files need none of it.
 *
 * The counts follow from what each directory loses and gains (dir_account), with both sides the same directory as the
 * one special case: then there is one copy of its inode, and both pointers mean it.
 */
#include <dirent.h>
#include <linux/fs.h>
#include <string.h>
#undef BLOCK_SIZE

#include "fs/fs_int.h"
#include "fs/namei.h"

enum { FROM, TO };

struct renaming {
	struct op op;
	const struct fs_caller *who;
	unsigned flags;
	uint64_t parent[2]; /* inode numbers */
	const char *name[2];
	size_t len[2];
	bool moving; /* rename_lock is held */

	int found[2]; /* what dir_find says: 0, -ENOENT, or -ENOSPC */
	struct dir_slot slot[2];
	struct inode dirs[2], *dir[2]; /* dir[TO] may be dir[FROM] */
	struct inode inode[2];	       /* [TO] only where the name is there */
};

/* ---- locking ---- */

static int find_names(struct renaming *r)
{
	for (unsigned i = FROM; i <= TO; i++) {
		int err = dir_find(&r->op, r->parent[i], r->name[i], r->len[i], &r->slot[i]);

		if (err && err != -ENOENT && err != -ENOSPC)
			return err;
		r->found[i] = err;
		if (err)
			r->slot[i].ino = 0;
	}
	return 0;
}

static bool is_dir(const struct renaming *r, unsigned i)
{
	return !r->found[i] && r->slot[i].type == DT_DIR;
}

static void unlock(struct renaming *r)
{
	op_unlock(&r->op);
	if (r->moving)
		pthread_mutex_unlock(&r->op.fs->rename_lock);
	r->moving = false;
}

static int lock_names(struct renaming *r)
{
	for (;;) {
		uint64_t inos[OP_LOCKS_MAX] = { r->parent[FROM], r->parent[TO] }, seen[2];
		unsigned n = 2;
		int err = find_names(r);

		if (err)
			return err;
		for (unsigned i = FROM; i <= TO; i++) {
			seen[i] = r->slot[i].ino;
			if (seen[i])
				inos[n++] = seen[i];
		}
		if (r->parent[FROM] != r->parent[TO] && (is_dir(r, FROM) || is_dir(r, TO))) {
			pthread_mutex_lock(&r->op.fs->rename_lock);
			r->moving = true;
		}
		op_lock(&r->op, inos, n);
		err = find_names(r);
		if (err || (r->slot[FROM].ino == seen[FROM] && r->slot[TO].ino == seen[TO]))
			return err;
		unlock(r);
	}
}

/* ---- what is allowed ---- */

/* Whether `above` is `ino` or one of the directories above it. Brent's algorithm finds a circle in a damaged tree. */
static int find_above(struct view *v, uint64_t ino, uint64_t above, bool *ret)
{
	uint64_t mark = 0, steps = 0, next_mark = 1;

	while (ino != above && ino != FS_ROOT_INO) {
		struct inode dir;
		int err = dir_load(v, ino, &dir);

		if (err == -ESTALE || err == -ENOTDIR || (!err && ino == mark))
			return corrupt("directory", ino, "cannot be reached from the root, parent", mark, steps);
		if (err)
			return err;
		if (++steps == next_mark) {
			mark = ino;
			next_mark *= 2;
		}
		ino = dir.parent;
	}
	*ret = ino == above;
	return 0;
}

static int check_loops(struct renaming *r)
{
	bool above = false;
	int err = 0;

	if (!r->moving)
		return 0;
	if (is_dir(r, FROM))
		err = find_above(r->op.view, r->parent[TO], r->slot[FROM].ino, &above);
	if (!err && above)
		return -EINVAL;
	if (!err && is_dir(r, TO))
		err = find_above(r->op.view, r->parent[FROM], r->slot[TO].ino, &above);
	if (!err && above)
		return r->flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	return err;
}

/* What is replaced must be of the same kind, and empty. */
static int check_replaced(const struct renaming *r)
{
	bool from_dir = S_ISDIR(r->inode[FROM].mode), to_dir = S_ISDIR(r->inode[TO].mode);

	if (from_dir != to_dir)
		return from_dir ? -ENOTDIR : -EISDIR;
	return to_dir && r->inode[TO].size ? -ENOTEMPTY : 0;
}

static int load(struct renaming *r)
{
	int err = dir_load(r->op.view, r->parent[FROM], &r->dirs[FROM]);

	r->dir[FROM] = r->dir[TO] = &r->dirs[FROM];
	if (!err && r->parent[FROM] != r->parent[TO]) {
		err = dir_load(r->op.view, r->parent[TO], &r->dirs[TO]);
		r->dir[TO] = &r->dirs[TO];
	}
	/* Of a directory that has been removed, those above may be gone as well: not to be looked at (check_loops). */
	if (!err && (r->found[FROM] || !r->dir[TO]->nlink))
		err = -ENOENT;
	if (!err && !r->found[TO] && r->flags & RENAME_NOREPLACE)
		err = -EEXIST;
	if (!err && r->found[TO] && r->flags & RENAME_EXCHANGE)
		err = -ENOENT;
	if (!err)
		err = named_load(&r->op, &r->slot[FROM], &r->inode[FROM]);
	if (!err && !r->found[TO])
		err = named_load(&r->op, &r->slot[TO], &r->inode[TO]);
	return err;
}

static int check(struct renaming *r)
{
	int err = check_loops(r);

	if (!err)
		err = may_remove(r->dir[FROM], &r->inode[FROM]);
	if (err)
		return err;
	if (r->found[TO])
		err = may_add(r->dir[TO]);
	else
		err = may_remove(r->dir[TO], &r->inode[TO]);
	if (!err && !r->found[TO] && !(r->flags & RENAME_EXCHANGE))
		err = check_replaced(r);
	if (!err && r->found[TO] == -ENOSPC)
		err = -ENOSPC;
	return err;
}

/* ---- doing it ---- */

/* Two directories or twice the same: the sums must be right, not what they pass through. */
static int account(struct renaming *r, int from_names, int from_subdirs, int to_names, int to_subdirs)
{
	int err;

	if (r->dir[FROM] == r->dir[TO])
		return dir_account(r->dir[FROM], from_names + to_names, from_subdirs + to_subdirs);
	err = dir_account(r->dir[FROM], from_names, from_subdirs);
	return err ? err : dir_account(r->dir[TO], to_names, to_subdirs);
}

static int put_name(struct renaming *r, unsigned at, const struct inode *i)
{
	return dir_put(r->op.batch, r->slot[at].key, r->name[at], r->len[at], i->ino, mode_to_dt(i->mode));
}

static int put_moved(struct renaming *r, unsigned from, unsigned to)
{
	struct inode *i = &r->inode[from];
	int err;

	i->ctime = r->op.now;
	if (S_ISDIR(i->mode))
		i->parent = r->parent[to];
	err = inode_put(r->op.batch, i);
	return err ? err : put_name(r, to, i);
}

static int exchange(struct renaming *r)
{
	int more = S_ISDIR(r->inode[TO].mode) - S_ISDIR(r->inode[FROM].mode);
	int err = account(r, 0, more, 0, -more);

	if (!err)
		err = put_moved(r, FROM, TO);
	return err ? err : put_moved(r, TO, FROM);
}

static int put_whiteout(struct renaming *r)
{
	struct inode i;
	int err = inode_new(&r->op, r->who, r->dir[FROM], S_IFCHR, &i);

	if (!err)
		err = inode_put(r->op.batch, &i);
	return err ? err : put_name(r, FROM, &i);
}

static int move(struct renaming *r)
{
	bool whiteout = r->flags & RENAME_WHITEOUT, replaces = !r->found[TO];
	int dir = S_ISDIR(r->inode[FROM].mode);
	int err = account(r, whiteout ? 0 : -1, -dir, replaces ? 0 : 1, replaces ? 0 : dir);

	if (!err && replaces)
		err = name_lost(&r->op, &r->inode[TO]);
	if (!err)
		err = put_moved(r, FROM, TO);
	if (!err)
		err = whiteout ? put_whiteout(r) : batch_del(r->op.batch, r->slot[FROM].key);
	return err;
}

static int put_dirs(struct renaming *r)
{
	int err;

	inode_touch(r->dir[FROM], &r->op.now);
	err = inode_put(r->op.batch, r->dir[FROM]);
	if (err || r->dir[FROM] == r->dir[TO])
		return err;
	inode_touch(r->dir[TO], &r->op.now);
	return inode_put(r->op.batch, r->dir[TO]);
}

static int rename_once(struct fs *fs, struct renaming *r, uint64_t parent)
{
	uint64_t unnamed = 0;
	int err = op_begin(fs, parent, &r->op);

	if (err)
		goto out;
	err = lock_names(r);
	if (!err)
		err = load(r);
	if (err || r->slot[FROM].ino == r->slot[TO].ino)
		goto out; /* two names of one file: both stay */
	err = check(r);
	if (!err)
		err = r->flags & RENAME_EXCHANGE ? exchange(r) : move(r);
	if (!err)
		err = put_dirs(r);
	if (!err)
		err = op_commit(&r->op);
	if (!err && !r->found[TO] && !r->inode[TO].nlink)
		unnamed = node_make(parent, r->inode[TO].ino);
out:
	unlock(r);
	op_end(&r->op);
	if (unnamed)
		node_unnamed(fs, unnamed);
	return err;
}

static int check_names(struct renaming *r, uint64_t parent, uint64_t parent2)
{
	int err = dir_name_check(r->name[FROM], &r->len[FROM]);

	if (!err)
		err = dir_name_check(r->name[TO], &r->len[TO]);
	if (!err && name_kind(parent, r->name[FROM]) != NAME_PLAIN)
		err = -EBUSY;
	if (!err && name_kind(parent2, r->name[TO]) != NAME_PLAIN)
		err = r->flags & RENAME_NOREPLACE ? -EEXIST : -EBUSY;
	return err;
}

int fs_rename(struct fs *fs, const struct fs_caller *who, uint64_t parent, const char *name, uint64_t parent2,
	      const char *name2, unsigned flags)
{
	struct renaming r = {
		.who = who,
		.flags = flags,
		.parent = { node_ino(parent), node_ino(parent2) },
		.name = { name, name2 },
	};
	unsigned tries = 0;
	int err;

	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
		return -EINVAL;
	if (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT))
		return -EINVAL;
	if (parent >> FS_VIEW_SHIFT != parent2 >> FS_VIEW_SHIFT)
		return -EXDEV;
	err = check_names(&r, parent, parent2);
	if (err)
		return err;
	do
		err = rename_once(fs, &r, parent);
	while (op_retry(fs, err, &tries));
	return err;
}

/*
 * repair_names.c - names that refer to nothing, stand in the wrong place, or are missing
 *
 * Each mend of a name changes the directory's numbers in the same batch, by what it changes. Where two directories or two
 * names are to become one, what stays is what the inode itself says (its parent), else the first.
 *
 * An inode without a name gets one in /lost+found, "#" and its number. Two kinds do not: one whose link count is 0 has been
 * deleted, and only the mark of that is missing, so it gets that again; and an empty regular file has nothing to be found
 * for. lost+found is made when it is needed, and may be deleted by whoever likes.
 *
 * To know all names of an inode takes a look at all names there are. That is done once a round, for all inodes that some mend
 * may want to know it of (repair_find_names). What it says may be stale, so each is read again.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/orphan.h"
#include "fs/repair_int.h"

#define LOST_FOUND "lost+found"
#define SUFFIXES 10000u

/* ---- finding names ---- */

static int name_cmp(const void *pa, const void *pb)
{
	const struct repair_name *a = pa, *b = pb;

	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	if (a->dir != b->dir)
		return a->dir < b->dir ? -1 : 1;
	return a->off < b->off ? -1 : a->off > b->off;
}

int repair_ino_cmp(const void *pa, const void *pb)
{
	uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;

	return a < b ? -1 : a > b;
}

int repair_find_names(struct repair *r, const uint64_t *inos, size_t n)
{
	const void *val;
	struct scan *s;
	struct key key;
	size_t len;
	int err;

	r->n_names = 0;
	if (!n)
		return 0;
	err = scan_open(r->view, key_make(FS_ROOT_INO, 0, 0), key_make(FS_INO_MAX + 1, 0, 0), &s);
	while (!err) {
		err = scan_next(s, &key, &val, &len);
		if (repair_is_damage(err)) {
			struct key from, to;

			err = scan_skip(s, &from, &to);
		} else if (!err && key_type(key) == FS_ITEM_DIRENT) {
			uint64_t ino = le64_get(((const struct disk_dirent *)val)->ino);

			if (!bsearch(&ino, inos, n, sizeof(ino), repair_ino_cmp))
				continue;
			err = mem_grow((void **)&r->names, &r->cap_names, r->n_names + 1, sizeof(*r->names));
			if (!err)
				r->names[r->n_names++] = (struct repair_name){ ino, key_ino(key), key.off };
		}
	}
	scan_close(s);
	if (r->n_names)
		qsort(r->names, r->n_names, sizeof(*r->names), name_cmp);
	return err < 0 ? err : 0;
}

const struct repair_name *repair_names_of(const struct repair *r, uint64_t ino, size_t *ret_n)
{
	size_t low = 0, high = r->n_names, n = 0;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (r->names[mid].ino < ino)
			low = mid + 1;
		else
			high = mid;
	}
	while (low + n < r->n_names && r->names[low + n].ino == ino)
		n++;
	*ret_n = n;
	return n ? r->names + low : NULL;
}

int repair_read_name(struct repair *r, uint64_t dir, uint64_t off, union repair_dirent *ret, size_t *ret_len)
{
	size_t len;
	int err = view_get(r->view, key_make(dir, FS_ITEM_DIRENT, off), ret, sizeof(*ret), &len);

	if (!err)
		*ret_len = len - sizeof(ret->d);
	return err;
}

/* The next of an inode's names from *i on that still is one. -ENOENT: no more. */
static int next_name(struct repair *r, const struct repair_name *names, size_t n, size_t *i, union repair_dirent *ret,
		     size_t *ret_len)
{
	for (; *i < n; (*i)++) {
		int err = repair_read_name(r, names[*i].dir, names[*i].off, ret, ret_len);

		if (err && err != -ENOENT)
			return err;
		if (!err && le64_get(ret->d.ino) == names[*i].ino)
			return 0;
	}
	return -ENOENT;
}

/* ---- changing names ---- */

static uint64_t add(uint64_t to, int n, uint64_t min)
{
	return n < 0 && to < min + (uint64_t)-n ? min : to + (uint64_t)(int64_t)n;
}

int edit_account(struct edit *e, uint64_t dir, int names, int subdirs)
{
	struct inode *d;
	int err = edit_inode(e, dir, &d);

	if (err == -ESTALE || (!err && !S_ISDIR(d->mode)))
		return 0;
	if (err)
		return err;
	d->size = add(d->size, names, 0);
	d->nlink = (uint32_t)add(d->nlink, subdirs, 0);
	return 0;
}

/* Whether a name counts as one of a directory: what the inode is, if there is one. */
static int is_subdir(struct repair *r, const struct disk_dirent *d, bool *ret)
{
	struct inode in;
	int err = inode_load(r->view, le64_get(d->ino), &in);

	*ret = err ? d->type == DT_DIR : S_ISDIR(in.mode);
	return err == -ESTALE ? 0 : err;
}

static int delete_name(struct edit *e, uint64_t dir, uint64_t off, const struct disk_dirent *d)
{
	bool sub;
	int err = is_subdir(e->r, d, &sub);

	if (!err)
		err = batch_del(e->op.batch, key_make(dir, FS_ITEM_DIRENT, off));
	return err ? err : edit_account(e, dir, -1, sub ? -1 : 0);
}

/* A name and a place for it. */
struct spot {
	struct key key;
	char name[FS_NAME_MAX + 1];
	size_t len;
};

/* The name, or with ~1, ~2, ... behind it (from suffix `from` on), as the directory does not have it yet. */
static int find_spot(struct edit *e, uint64_t dir, const char *name, size_t len, unsigned from, struct spot *ret)
{
	for (unsigned i = from; i < SUFFIXES; i++) {
		char suffix[16] = "";
		struct dir_slot slot;
		size_t keep;
		int err, n = i ? snprintf(suffix, sizeof(suffix), "~%u", i) : 0;

		keep = len + (size_t)n > FS_NAME_MAX ? FS_NAME_MAX - (size_t)n : len;
		memcpy(ret->name, name, keep);
		memcpy(ret->name + keep, suffix, (size_t)n + 1);
		ret->len = keep + (size_t)n;
		err = dir_find(&e->op, dir, ret->name, ret->len, &slot);
		if (err == -ENOENT) {
			ret->key = slot.key;
			return 0;
		}
		if (err && err != -ENOSPC)
			return err;
	}
	return -ENOSPC;
}

static int put_at(struct edit *e, const struct spot *s, uint64_t ino, unsigned type)
{
	return dir_put(e->op.batch, s->key, s->name, s->len, ino, type);
}

/* ---- lost+found ---- */

/* Numbers that are in use already, though they should not be, are passed over. */
static int new_inode(struct edit *e, const struct inode *root, struct inode *ret)
{
	struct key key;
	size_t len;
	int err;

	do {
		err = inode_new(&e->op, &(struct fs_caller){ 0 }, root, S_IFDIR | 0700, ret);
		if (!err)
			err = view_floor(e->op.view, key_make(ret->ino, UINT8_MAX, UINT64_MAX), &key, NULL, 0, &len);
	} while (!err && key_ino(key) == ret->ino);
	return err == -ENOENT ? 0 : err;
}

static int make_lost_found(struct repair *r, const char *name, uint64_t *ret)
{
	struct inode *root, *in, made;
	struct spot spot;
	struct edit e;
	int err = edit_begin(r, &e);

	if (!err)
		err = edit_inode(&e, FS_ROOT_INO, &root);
	if (!err)
		err = find_spot(&e, FS_ROOT_INO, name, strlen(name), 0, &spot);
	if (!err)
		err = new_inode(&e, root, &made);
	if (!err) {
		made.mode = S_IFDIR | 0700;
		made.gid = 0;
		e.in[e.n] = made;
		in = &e.in[e.n++];
		err = put_at(&e, &spot, in->ino, DT_DIR);
	}
	if (!err)
		err = edit_account(&e, FS_ROOT_INO, 1, 1);
	if (!err)
		err = edit_commit(&e);
	edit_end(&e);
	if (!err)
		*ret = made.ino;
	return err;
}

int repair_lost_found(struct repair *r, uint64_t *ret)
{
	struct dir_slot slot;
	struct inode in;
	struct op op;
	int err;

	err = inode_load(r->view, FS_ROOT_INO, &in);
	if (err || !S_ISDIR(in.mode))
		return err && err != -ESTALE ? err : -ENOTDIR;
	err = op_begin_read(r->fs, FS_ROOT, &op);
	if (err)
		return err;
	for (unsigned i = 0; i < 100; i++) {
		char name[32];

		snprintf(name, sizeof(name), i ? LOST_FOUND "~%u" : LOST_FOUND, i);
		err = dir_find(&op, FS_ROOT_INO, name, strlen(name), &slot);
		if (err == -ENOENT)
			return make_lost_found(r, name, ret);
		if (err)
			return err;
		err = inode_load(r->view, slot.ino, &in);
		if (err && err != -ESTALE)
			return err;
		if (!err && S_ISDIR(in.mode)) {
			*ret = slot.ino;
			return 0;
		}
	}
	return -EEXIST;
}

int edit_attach(struct edit *e, uint64_t lost_found, struct inode *in)
{
	struct spot spot;
	char name[32];
	int err, len = snprintf(name, sizeof(name), "#%" PRIu64, in->ino);

	err = find_spot(e, lost_found, name, (size_t)len, 0, &spot);
	if (!err)
		err = put_at(e, &spot, in->ino, mode_to_dt(in->mode));
	if (!err)
		err = edit_account(e, lost_found, 1, S_ISDIR(in->mode));
	if (!err && S_ISDIR(in->mode))
		in->parent = lost_found;
	return err;
}

int mend_no_name(struct repair *r, const struct repair_report *p)
{
	struct repair_facts f;
	uint64_t lost_found;
	struct inode in, *i;
	bool deleted, empty;
	struct edit e;
	int err = inode_load(r->view, p->ino, &in);

	if (err)
		return err == -ESTALE ? 0 : err;
	err = repair_facts(r, p->ino, &f);
	if (err)
		return err;
	deleted = !in.nlink && !(S_ISDIR(in.mode) && f.names);
	empty = S_ISREG(in.mode) && !in.size && !f.items;
	if (deleted || empty) {
		if (!repair_agree(r, p, "mark it for deletion: %s",
				  deleted ? "its last name was deleted" : "it is empty"))
			return 0;
	} else if (!repair_agree(r, p, "give it the name /" LOST_FOUND "/#%" PRIu64, p->ino)) {
		return 0;
	} else {
		err = repair_lost_found(r, &lost_found);
		if (err)
			return err;
	}
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, p->ino, &i);
	if (!err && (deleted || empty)) {
		i->nlink = 0;
		err = orphan_add(&e.op, p->ino);
	} else if (!err) {
		i->nlink = S_ISDIR(i->mode) ? 2 + (uint32_t)f.subdirs : 1;
		err = edit_attach(&e, lost_found, i);
	}
	return edit_finish(&e, err, p, false);
}

/* ---- names that go ---- */

int mend_name_no_inode(struct repair *r, const struct repair_report *p)
{
	char shown[CHECK_SHOWN_MAX];
	union repair_dirent d;
	struct inode in;
	struct edit e;
	size_t len;
	int err = repair_read_name(r, p->ino, p->where, &d, &len);

	if (err)
		return err == -ENOENT ? 0 : err;
	err = inode_load(r->view, le64_get(d.d.ino), &in);
	if (err != -ESTALE)
		return err; /* it was made again */
	if (!repair_agree(r, p, "delete the name '%s'", check_shown(shown, d.d.name, len)))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = delete_name(&e, p->ino, p->where, &d.d);
	return edit_finish(&e, err, p, true);
}

int repair_remove_named(struct repair *r, uint64_t ino)
{
	size_t n, i = 0, len;
	const struct repair_name *names = repair_names_of(r, ino, &n);
	union repair_dirent d;
	struct inode *in;
	struct edit e;
	int err = edit_begin(r, &e);

	while (!err) {
		err = next_name(r, names, n, &i, &d, &len);
		if (err)
			break;
		err = delete_name(&e, names[i].dir, names[i].off, &d.d);
		if (!err)
			err = edit_inode(&e, ino, &in);
		if (!err && in->nlink > 1) {
			in->nlink--;
			err = edit_commit(&e);
		} else if (!err) {
			break; /* the last one goes with it */
		}
		i++;
	}
	if (err == -ENOENT)
		err = 0;
	if (!err)
		err = edit_remove(&e, ino);
	if (!err)
		err = batch_del_range(e.op.batch, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, ino << 1),
				      key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, (ino + 1) << 1));
	if (!err)
		err = edit_commit(&e);
	edit_end(&e);
	return err == -ESTALE ? 0 : err;
}

/* ---- names in the wrong place ---- */

int mend_name_type(struct repair *r, const struct repair_report *p)
{
	union repair_dirent d;
	struct inode in;
	struct edit e;
	unsigned type;
	size_t len;
	int err = repair_read_name(r, p->ino, p->where, &d, &len);

	if (!err)
		err = inode_load(r->view, le64_get(d.d.ino), &in);
	if (err)
		return err == -ENOENT || err == -ESTALE ? 0 : err;
	type = mode_to_dt(in.mode);
	if (type == d.d.type || !repair_agree(r, p, "set it to %u", type))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = dir_put(e.op.batch, key_make(p->ino, FS_ITEM_DIRENT, p->where), (const char *)d.d.name, len,
			      in.ino, type);
	return edit_finish(&e, err, p, false);
}

/* To where it belongs, under another name (suffix) if that is taken. */
static int move_name(struct repair *r, const struct repair_report *p, const union repair_dirent *d, size_t len,
		     unsigned suffix)
{
	char shown[CHECK_SHOWN_MAX];
	struct spot spot;
	struct edit e;
	int err = edit_begin(r, &e);

	if (!err)
		err = find_spot(&e, p->ino, (const char *)d->d.name, len, suffix, &spot);
	if (!err && repair_agree(r, p, "put it in its place as '%s'",
				 check_shown(shown, (const uint8_t *)spot.name, spot.len))) {
		err = batch_del(e.op.batch, key_make(p->ino, FS_ITEM_DIRENT, p->where));
		if (!err)
			err = put_at(&e, &spot, le64_get(d->d.ino), d->d.type);
		if (!err)
			err = edit_commit(&e);
		if (!err)
			repair_done(r, p, false);
	}
	edit_end(&e);
	return err;
}

/* One of two names that are the same and for the same inode goes. */
static int delete_twin(struct repair *r, const struct repair_report *p, const union repair_dirent *d)
{
	struct inode *in;
	struct edit e;
	int err;

	if (!repair_agree(r, p, "delete it, the other one is for the same inode"))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = delete_name(&e, p->ino, p->where, &d->d);
	if (!err)
		err = edit_inode(&e, le64_get(d->d.ino), &in);
	if (!err && !S_ISDIR(in->mode))
		in->nlink -= in->nlink > 1;
	return edit_finish(&e, err == -ESTALE ? 0 : err, p, false);
}

/* Another item with the same name under the name's own hash. -ENOENT. */
static int find_twin(struct repair *r, const struct repair_report *p, const union repair_dirent *d, size_t len,
		     uint64_t *ret_ino)
{
	uint64_t hash = dir_hash(r->fs, (const char *)d->d.name, len) << FS_SLOT_BITS;
	const struct disk_dirent *o;
	struct scan *s;
	struct key key;
	size_t val_len;
	int err = scan_open(r->view, key_make(p->ino, FS_ITEM_DIRENT, hash),
			    key_make(p->ino, FS_ITEM_DIRENT, hash + (1u << FS_SLOT_BITS)), &s);

	if (err)
		return err;
	while (!(err = scan_next(s, &key, (const void **)&o, &val_len)))
		if (key.off != p->where && val_len == sizeof(*o) + len && !memcmp(o->name, d->d.name, len)) {
			*ret_ino = le64_get(o->ino);
			break;
		}
	scan_close(s);
	return err > 0 ? -ENOENT : err;
}

int mend_name_hash(struct repair *r, const struct repair_report *p)
{
	union repair_dirent d;
	uint64_t other;
	size_t len;
	int err = repair_read_name(r, p->ino, p->where, &d, &len);

	if (err)
		return err == -ENOENT ? 0 : err;
	if (p->where >> FS_SLOT_BITS == dir_hash(r->fs, (const char *)d.d.name, len))
		return 0;
	err = find_twin(r, p, &d, len, &other);
	if (err && err != -ENOENT)
		return err;
	if (!err && other == le64_get(d.d.ino))
		return delete_twin(r, p, &d);
	return move_name(r, p, &d, len, 0);
}

int mend_name_twice(struct repair *r, const struct repair_report *p)
{
	union repair_dirent d;
	uint64_t other;
	size_t len;
	int err = repair_read_name(r, p->ino, p->where, &d, &len);

	if (!err)
		err = find_twin(r, p, &d, len, &other);
	if (err)
		return err == -ENOENT ? 0 : err;
	if (other == le64_get(d.d.ino))
		return delete_twin(r, p, &d);
	return move_name(r, p, &d, len, 1);
}

/* ---- directories with too many names, or none from the root ---- */

/* Its names but the one at `keep` go; that one's directory is its parent. */
static int keep_one(struct repair *r, uint64_t ino, const struct repair_name *names, size_t n, size_t keep)
{
	union repair_dirent d;
	struct inode *in;
	struct edit e;
	size_t len;
	int err = edit_begin(r, &e);

	for (size_t i = 0; !err && (err = next_name(r, names, n, &i, &d, &len)) == 0; i++) {
		if (i == keep)
			continue;
		err = delete_name(&e, names[i].dir, names[i].off, &d.d);
		if (!err)
			err = edit_inode(&e, ino, &in);
		if (!err)
			in->parent = names[keep].dir;
		if (!err)
			err = edit_commit(&e);
	}
	edit_end(&e);
	return err == -ENOENT ? 0 : err;
}

int mend_dir_twice(struct repair *r, const struct repair_report *p)
{
	char shown[CHECK_SHOWN_MAX];
	union repair_dirent d, kept;
	size_t n, i = 0, keep = SIZE_MAX, len, kept_len = 0, found = 0;
	const struct repair_name *names = repair_names_of(r, p->ino, &n);
	struct inode in;
	int err = inode_load(r->view, p->ino, &in);

	for (; !err && (err = next_name(r, names, n, &i, &d, &len)) == 0; i++) {
		if (!found++ || (names[i].dir == in.parent && names[keep].dir != in.parent)) {
			keep = i;
			kept = d;
			kept_len = len;
		}
	}
	if (err != -ENOENT)
		return err == -ESTALE ? 0 : err;
	if (found < 2 || !S_ISDIR(in.mode) ||
	    !repair_agree(r, p, "keep its name '%s' in inode %" PRIu64 ", delete the others",
			  check_shown(shown, kept.d.name, kept_len), names[keep].dir))
		return 0;
	err = keep_one(r, p->ino, names, n, keep);
	if (!err)
		repair_done(r, p, true);
	return err;
}

/* The name in the ring goes; another one is the right one then, else it gets one. */
int mend_dir_loop(struct repair *r, const struct repair_report *p)
{
	size_t n, i = 0, len, ring = SIZE_MAX, other = SIZE_MAX;
	const struct repair_name *names = repair_names_of(r, p->ino, &n);
	union repair_dirent d, in_ring;
	uint64_t lost_found = 0;
	struct inode now, *in;
	struct edit e;
	int err = inode_load(r->view, p->ino, &now);

	/* (A ring may go through names that stand in what is no directory: another problem.) */
	if (err || !S_ISDIR(now.mode))
		return err == -ESTALE ? 0 : err;
	for (; (err = next_name(r, names, n, &i, &d, &len)) == 0; i++) {
		if (names[i].dir != p->want) {
			other = i;
		} else {
			ring = i;
			in_ring = d;
		}
	}
	if (err != -ENOENT || ring == SIZE_MAX)
		return err == -ENOENT ? 0 : err;
	if (other == SIZE_MAX ? !repair_agree(r, p, "move it to /" LOST_FOUND "/#%" PRIu64, p->ino)
			      : !repair_agree(r, p, "cut it, the directory has another name"))
		return 0;
	err = other == SIZE_MAX ? repair_lost_found(r, &lost_found) : 0;
	if (err)
		return err;
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, p->ino, &in);
	if (!err)
		err = delete_name(&e, names[ring].dir, names[ring].off, &in_ring.d);
	if (!err && other == SIZE_MAX)
		err = edit_attach(&e, lost_found, in);
	else if (!err)
		in->parent = names[other].dir;
	err = edit_finish(&e, err, p, false);
	return err == -ESTALE ? 0 : err;
}

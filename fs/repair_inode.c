/*
 * repair_inode.c - inodes whose fields do not fit what is there, inodes that are missing, and inline data
 *
 * What is there decides: content that can be read is not given up for a field. An inode of another type that has only names is
 * a directory; one that has only extents with data is a file; where both are, its own type decides what stays.
 *
 * An inode that is missing while its items are there is made again under its own number, so that the names that still refer to
 * it work: its type from what it has, else from what its names say; its size from its content; root's, and nobody else's to
 * read. Owner, mode and times are lost. Without any name it is found in lost+found. (One that is marked for deletion is made
 * with a link count of 0: the mark is right, and the next mount deletes it.)
 *
 * A symbolic link without its whole target is worth nothing, and dangerous where the target is a part of it: its names go.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/file_int.h"
#include "fs/repair_int.h"

#define STRIP_ITEMS 128u

/* ---- what is there ---- */

static void count_item(struct repair_facts *f, struct key key, const void *val, size_t len)
{
	const struct disk_extent *x = val;
	uint64_t end;

	f->items += key_type(key) != FS_ITEM_INODE;
	switch (key_type(key)) {
	case FS_ITEM_INODE:
		f->inode = true;
		break;
	case FS_ITEM_XATTR:
		f->xattrs = true;
		break;
	case FS_ITEM_DIRENT:
		f->names++;
		f->subdirs += ((const struct disk_dirent *)val)->type == DT_DIR;
		break;
	case FS_ITEM_INLINE:
		f->inlines++;
		f->inline_gap |= key.off != f->inline_end;
		f->inline_zero |= memchr(val, 0, len) != NULL;
		f->inline_end = key.off + len;
		break;
	case FS_ITEM_EXTENT:
		end = key.off + (uint64_t)le32_get(x->blocks) * BLOCK_SIZE;
		f->blocks += le32_get(x->blocks);
		if (le64_get(x->addr))
			f->data++;
		else if (x->flags & FS_EXTENT_LOST)
			f->lost++;
		else
			f->claims++;
		if ((le64_get(x->addr) || x->flags & FS_EXTENT_LOST) && end > f->end)
			f->end = end;
		break;
	}
}

int repair_facts(struct repair *r, uint64_t ino, struct repair_facts *ret)
{
	const void *val;
	struct scan *s;
	struct key key;
	size_t len;
	int err = scan_open(r->view, key_make(ino, 0, 0), key_make(ino + 1, 0, 0), &s);

	memset(ret, 0, sizeof(*ret));
	if (err)
		return err;
	while (!(err = scan_next(s, &key, &val, &len)))
		count_item(ret, key, val, len);
	scan_close(s);
	return err < 0 ? err : 0;
}

/* Whether the inline items are a symbolic link's target. */
static bool is_target(const struct repair_facts *f)
{
	return f->inlines && !f->inline_gap && !f->inline_zero && f->inline_end <= FS_SYMLINK_MAX;
}

/* ---- taking items out ---- */

/* One batch of it. *ret_more: there may be more. */
static int strip_some(struct repair *r, uint64_t ino, uint8_t type, uint64_t from, bool *ret_more)
{
	uint64_t blocks = 0;
	struct inode *in;
	struct scan *s;
	struct edit e;
	unsigned n = 0;
	const void *val;
	struct key key;
	size_t len;
	int err = edit_begin(r, &e);

	if (!err)
		err = scan_open(r->view, key_make(ino, type, from), key_make(ino, type + 1, 0), &s);
	if (err)
		goto out;
	while (!err && n < STRIP_ITEMS) {
		err = scan_next(s, &key, &val, &len);
		if (err)
			break;
		if (type == FS_ITEM_EXTENT)
			blocks += le32_get(((const struct disk_extent *)val)->blocks);
		err = batch_del(e.op.batch, key);
		n++;
	}
	scan_close(s);
	*ret_more = !err;
	if (err >= 0)
		err = edit_inode(&e, ino, &in);
	if (!err)
		in->blocks -= in->blocks < blocks ? in->blocks : blocks;
	if (!err || err == -ESTALE)
		err = n ? edit_commit(&e) : 0;
out:
	edit_end(&e);
	return err;
}

static int strip_from(struct repair *r, uint64_t ino, uint8_t type, uint64_t from)
{
	bool more = true;
	int err = 0;

	while (!err && more)
		err = strip_some(r, ino, type, from, &more);
	return err;
}

int repair_strip(struct repair *r, uint64_t ino, uint8_t type)
{
	return strip_from(r, ino, type, 0);
}

/* Names it has: each inode loses one. */
static int strip_names(struct repair *r, uint64_t ino)
{
	int err = 0;

	while (!err) {
		const struct disk_dirent *d;
		uint64_t target = 0;
		struct scan *s;
		struct inode *in;
		struct edit e;
		struct key key;
		size_t len;

		err = scan_open(r->view, key_make(ino, FS_ITEM_DIRENT, 0), key_make(ino, FS_ITEM_DIRENT + 1, 0), &s);
		if (err)
			break;
		err = scan_next(s, &key, (const void **)&d, &len);
		if (!err)
			target = le64_get(d->ino);
		scan_close(s);
		if (err)
			break;
		err = edit_begin(r, &e);
		if (!err)
			err = batch_del(e.op.batch, key);
		if (!err)
			err = edit_inode(&e, target, &in);
		if (!err && !S_ISDIR(in->mode))
			in->nlink -= in->nlink > 1;
		if (!err || err == -ESTALE)
			err = edit_commit(&e);
		edit_end(&e);
	}
	return err > 0 ? 0 : err;
}

/* ---- the root ---- */

int mend_no_root(struct repair *r, const struct repair_report *p)
{
	struct repair_facts f;
	struct inode in = { .ino = FS_ROOT_INO }, *root;
	struct edit e;
	int err = inode_load(r->view, FS_ROOT_INO, &in);

	if (!err && S_ISDIR(in.mode))
		return 0;
	if ((err && err != -ESTALE) || !repair_agree(r, p, "make a root directory"))
		return err == -ESTALE ? 0 : err;
	err = repair_strip(r, FS_ROOT_INO, FS_ITEM_INLINE);
	if (!err)
		err = repair_strip(r, FS_ROOT_INO, FS_ITEM_EXTENT);
	if (!err)
		err = repair_facts(r, FS_ROOT_INO, &f);
	if (err)
		return err;
	err = edit_begin(r, &e);
	if (!err) {
		in = (struct inode){
			.ino = FS_ROOT_INO,
			.mode = S_IFDIR | 0755,
			.nlink = 2 + (uint32_t)f.subdirs,
			.state = f.xattrs ? FS_STATE_XATTRS : 0,
			.size = f.names,
			.parent = FS_ROOT_INO,
			.atime = e.op.now,
			.mtime = e.op.now,
			.ctime = e.op.now,
			.btime = e.op.now,
			.changes = in.changes,
		};
		if (f.inode)
			e.in[e.n++] = in;
		else
			err = edit_make(&e, &in, &root);
	}
	return edit_finish(&e, err, p, !f.inode); /* owner, mode, and whether there were more names */
}

/* ---- fields ---- */

/* What is to become of an inode. */
struct plan {
	uint32_t mode;
	uint64_t size;
	bool strip_names, strip_extents, remove, device;
	char text[200];
};

static void say(struct plan *p, const char *what)
{
	size_t n = strlen(p->text);

	snprintf(p->text + n, sizeof(p->text) - n, "%s%s", n ? ", " : "", what);
}

static void plan_type(const struct inode *in, const struct repair_facts *f, struct plan *p)
{
	bool extents = f->data || f->lost || f->claims, content = f->data || f->lost || f->inlines;
	uint32_t perm = in->mode & 07777;

	if (f->names && !S_ISDIR(p->mode) && !content && !S_ISLNK(p->mode)) {
		p->mode = S_IFDIR | perm;
		say(p, "make it a directory");
	} else if (f->names && !S_ISDIR(p->mode)) {
		p->strip_names = true;
		say(p, "delete the names in it");
	}
	if (!extents || S_ISREG(p->mode))
		return;
	if (!S_ISDIR(p->mode) && !f->inlines && (f->data || f->lost)) {
		p->mode = S_IFREG | perm;
		say(p, "make it a regular file");
	} else {
		p->strip_extents = true;
		say(p, "delete its extents");
	}
}

static void plan_fields(const struct inode *in, const struct repair_facts *f, struct plan *p)
{
	p->device = S_ISCHR(p->mode) || S_ISBLK(p->mode);
	if (!p->device && (in->rdev_major || in->rdev_minor))
		say(p, "set its device number to 0");
	if (S_ISLNK(p->mode) && (!in->size || in->size > FS_SYMLINK_MAX)) {
		p->remove = !is_target(f);
		p->size = f->inline_end;
		say(p, p->remove ? "delete it, it has no target" : "set its size to its target's");
	} else if (!S_ISREG(p->mode) && !S_ISDIR(p->mode) && !S_ISLNK(p->mode) && in->size) {
		p->size = 0;
		say(p, "set its size to 0");
	}
	if (S_ISREG(p->mode) && !S_ISREG(in->mode))
		p->size = f->end;
	if (S_ISDIR(p->mode) && !S_ISDIR(in->mode))
		p->size = f->names;
}

static int carry_out(struct repair *r, uint64_t ino, const struct plan *p, const struct repair_facts *f)
{
	size_t n;
	const struct repair_name *names = repair_names_of(r, ino, &n);
	struct inode *in;
	struct edit e;
	int err = 0;

	if (p->strip_names)
		err = strip_names(r, ino);
	if (!err && p->strip_extents)
		err = repair_strip(r, ino, FS_ITEM_EXTENT);
	if (!err && p->remove)
		return repair_remove_named(r, ino);
	if (err)
		return err;
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, ino, &in);
	if (!err) {
		if (S_ISDIR(p->mode) && !S_ISDIR(in->mode)) {
			in->parent = n ? names[0].dir : FS_ROOT_INO;
			in->nlink = 2 + (uint32_t)f->subdirs;
		}
		in->mode = p->mode;
		in->size = p->size;
		if (!p->device)
			in->rdev_major = in->rdev_minor = 0;
		err = edit_commit(&e);
	}
	edit_end(&e);
	return err;
}

int mend_inode_bad(struct repair *r, const struct repair_report *p)
{
	struct repair_facts f;
	struct plan plan;
	struct inode in;
	int err = inode_load(r->view, p->ino, &in);

	if (!err)
		err = repair_facts(r, p->ino, &f);
	if (err)
		return err == -ESTALE ? 0 : err;
	plan = (struct plan){ .mode = in.mode, .size = in.size };
	plan_type(&in, &f, &plan);
	plan_fields(&in, &f, &plan);
	if (!plan.text[0] || !repair_agree(r, p, "%s", plan.text))
		return 0;
	err = carry_out(r, p->ino, &plan, &f);
	if (!err)
		repair_done(r, p, plan.strip_names || plan.strip_extents || plan.remove);
	return err;
}

/* ---- inline data ---- */

static int mend_target(struct repair *r, const struct repair_report *p, const struct inode *in,
		       const struct repair_facts *f)
{
	struct inode *i;
	struct edit e;
	int err;

	if (is_target(f) && f->inline_end == in->size)
		return 0;
	if (!is_target(f) || f->inline_end < in->size) {
		if (!repair_agree(r, p, "delete it: its target is not whole"))
			return 0;
		err = repair_remove_named(r, p->ino);
		if (!err)
			repair_done(r, p, true);
		return err;
	}
	if (!repair_agree(r, p, "set its size to %" PRIu64, f->inline_end))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, p->ino, &i);
	if (!err) {
		i->size = f->inline_end;
		err = edit_commit(&e);
	}
	if (!err)
		repair_done(r, p, false);
	edit_end(&e);
	return err;
}

/* A file without extents: one item at the beginning, no longer than the file. */
static int fit_inline(struct repair *r, const struct repair_report *p, const struct inode *in,
		      const struct repair_facts *f)
{
	struct key first = file_inline_key(p->ino);
	uint8_t *buf;
	struct edit e;
	size_t len = 0;
	int err;

	if (f->inlines == 1 && !f->inline_gap && f->inline_end <= in->size)
		return 0;
	if (!repair_agree(r, p, "cut it to one piece of at most %" PRIu64 " bytes", in->size))
		return 0;
	buf = mem_alloc(r->fs->value_max);
	if (!buf)
		return -ENOMEM;
	err = strip_from(r, p->ino, FS_ITEM_INLINE, 1);
	if (!err)
		err = view_get(r->view, first, buf, r->fs->value_max, &len);
	if (!err && len > in->size) {
		err = edit_begin(r, &e);
		if (!err)
			err = in->size ? batch_put(e.op.batch, first, buf, in->size) : batch_del(e.op.batch, first);
		if (!err)
			err = edit_commit(&e);
		edit_end(&e);
	}
	if (!err || err == -ENOENT) {
		err = 0;
		repair_done(r, p, f->inlines > 1 || f->inline_gap);
	}
	mem_free(buf);
	return err;
}

int mend_inline_bad(struct repair *r, const struct repair_report *p)
{
	struct repair_facts f;
	uint8_t type = FS_ITEM_INLINE;
	struct inode in;
	int err = inode_load(r->view, p->ino, &in);

	if (!err)
		err = repair_facts(r, p->ino, &f);
	if (err)
		return err == -ESTALE ? 0 : err;
	if (S_ISLNK(in.mode))
		return mend_target(r, p, &in, &f);
	if (!f.inlines)
		return 0;
	if (S_ISREG(in.mode) && !f.blocks)
		return fit_inline(r, p, &in, &f);
	/* Mere promises of room are no content. */
	if (S_ISREG(in.mode) && !f.data && !f.lost)
		type = FS_ITEM_EXTENT;
	if (!repair_agree(r, p,
			  type == FS_ITEM_EXTENT ? "keep it, release what is promised" : "delete the inline data"))
		return 0;
	err = repair_strip(r, p->ino, type);
	if (!err)
		repair_done(r, p, type == FS_ITEM_INLINE);
	return err;
}

/* ---- inodes that are missing ---- */

struct again {
	struct inode in;
	struct repair_facts f;
	size_t n_names;
	const struct repair_name *names;
	unsigned named_type; /* DT_*, as the first name says; DT_UNKNOWN: no name */
	bool deleted;	     /* there is a mark */
};

/* The names that are still there; the first one's type, and the report that tells its path. */
static int count_names(struct repair *r, uint64_t ino, struct again *a, const struct repair_report **ret_path)
{
	size_t n, alive = 0;
	const struct repair_name *names = repair_names_of(r, ino, &n);

	a->named_type = DT_UNKNOWN;
	for (size_t i = 0; i < n; i++) {
		union repair_dirent d;
		size_t len;
		int err = repair_read_name(r, names[i].dir, names[i].off, &d, &len);

		if (err && err != -ENOENT)
			return err;
		if (err || le64_get(d.d.ino) != ino)
			continue;
		if (alive++)
			continue;
		a->names = &names[i];
		a->named_type = d.d.type;
		for (size_t k = 0; k < r->n_reports; k++)
			if (r->reports[k].problem == FS_PROBLEM_NAME_NO_INODE && r->reports[k].live &&
			    r->reports[k].ino == names[i].dir && r->reports[k].where == names[i].off)
				*ret_path = &r->reports[k];
	}
	a->n_names = alive;
	return 0;
}

static uint32_t type_again(const struct again *a)
{
	const struct repair_facts *f = &a->f;

	if (f->names && !(a->named_type == DT_REG && f->data))
		return S_IFDIR;
	if (f->data || f->lost || f->claims)
		return S_IFREG;
	switch (a->named_type) {
	case DT_DIR:
		return f->inlines ? S_IFREG : S_IFDIR;
	case DT_LNK:
		return is_target(f) ? S_IFLNK : S_IFREG;
	case DT_FIFO:
		return f->inlines ? S_IFREG : S_IFIFO;
	case DT_SOCK:
		return f->inlines ? S_IFREG : S_IFSOCK;
	default: /* a device's number is lost */
		return S_IFREG;
	}
}

static const char *type_name(uint32_t type)
{
	switch (type) {
	case S_IFDIR:
		return "directory";
	case S_IFREG:
		return "regular file";
	case S_IFLNK:
		return "symbolic link";
	default:
		return "special file";
	}
}

/* Content that a lost item may have held, in front of what is there and right behind it, is not zeros. */
static int fill_lost(struct repair *r, const struct repair_report *p, struct again *a)
{
	const struct repair_facts *f = &a->f;
	uint64_t added, end = f->end;

	if (!f->inlines &&
	    (end ? repair_in_gap(r, key_make(p->ino, FS_ITEM_EXTENT, end)) : repair_in_gap(r, file_inline_key(p->ino))))
		end += BLOCK_SIZE;
	a->in.size = f->inlines && !f->blocks ? f->inline_end : end;
	if (f->inlines && !f->blocks)
		return 0;
	return repair_fill_gaps(r, p, p->ino, end, &added);
}

static int put_again(struct repair *r, struct again *a, uint64_t lost_found)
{
	struct inode *in;
	struct edit e;
	int err = edit_begin(r, &e);

	if (!err) {
		a->in.atime = a->in.mtime = a->in.ctime = a->in.btime = e.op.now;
		err = edit_make(&e, &a->in, &in);
	}
	if (!err && !a->n_names && !a->deleted)
		err = edit_attach(&e, lost_found, in);
	if (!err)
		err = edit_commit(&e);
	edit_end(&e);
	return err;
}

static int make_again(struct repair *r, const struct repair_report *p, struct again *a, uint32_t type)
{
	uint64_t lost_found = 0;
	bool dir = type == S_IFDIR;
	int err = 0;

	a->in = (struct inode){
		.ino = p->ino,
		.mode = type | (dir ? 0700 : 0600),
		.nlink = a->deleted   ? 0
			 : dir	      ? 2 + (uint32_t)a->f.subdirs
			 : a->n_names ? (uint32_t)a->n_names
				      : 1,
		.state = a->f.xattrs ? FS_STATE_XATTRS : 0,
		.size = dir		  ? a->f.names
			: type == S_IFLNK ? a->f.inline_end
					  : 0,
		.parent = dir ? a->n_names ? a->names->dir : FS_ROOT_INO : 0,
	};
	if (!a->n_names && !a->deleted)
		err = repair_lost_found(r, &lost_found);
	if (!err && type == S_IFREG)
		err = fill_lost(r, p, a);
	if (!err)
		err = repair_facts(r, p->ino, &a->f);
	a->in.blocks = a->f.blocks;
	return err ? err : put_again(r, a, lost_found);
}

int mend_item_no_inode(struct repair *r, const struct repair_report *p)
{
	const struct repair_report *named = p;
	struct repair_report told = *p;
	struct again a = { 0 };
	uint32_t type;
	size_t len;
	int err;

	err = repair_facts(r, p->ino, &a.f);
	if (err || a.f.inode || !a.f.items)
		return err;
	err = count_names(r, p->ino, &a, &named);
	if (err)
		return err;
	told.path = named->path ? named->path : p->path;
	err = view_get(r->view, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, p->ino << 1 | FS_ORPHAN_UNLINKED), NULL, 0,
		       &len);
	if (err && err != -ENOENT)
		return err;
	a.deleted = !err && !a.n_names;
	type = type_again(&a);
	if (a.deleted	? !repair_agree(r, &told, "make its inode again, for it to be deleted")
	    : a.n_names ? !repair_agree(r, &told, "make its inode again, as a %s", type_name(type))
			: !repair_agree(r, &told, "make its inode again, as a %s: /lost+found/#%" PRIu64,
					type_name(type), p->ino))
		return 0;
	err = make_again(r, &told, &a, type);
	if (!err)
		repair_done(r, &told, !a.deleted); /* owner, mode and times are */
	return err;
}

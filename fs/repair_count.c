/*
 * repair_count.c - what follows from other items and is set to what was counted; marks, and attributes that are not whole
 *
 * The check has counted, on a frozen view; nothing has changed since when these mends run, because they come first in a
 * round (struct repair_report's want). Counts are set only where they still say what the check has complained about.
 *
 * An attribute is whole or nothing: one with a part missing would be a wrong value, so all its parts go. A whole one that stands
 * under another hash is moved to its own, like a name: that is what all of them need when the secret was lost.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/orphan.h"
#include "fs/repair_int.h"
#include "fs/xattr.h"

typedef bool (*set_fn)(struct inode *, uint64_t want); /* whether that changes it */

static int set_field(struct repair *r, const struct repair_report *p, const char *what, set_fn set)
{
	struct inode *in;
	struct edit e;
	int err = edit_begin(r, &e);

	if (!err)
		err = edit_inode(&e, p->ino, &in);
	if (!err && set(in, p->want) && repair_agree(r, p, "set its %s to %" PRIu64, what, p->want)) {
		err = edit_commit(&e);
		if (!err)
			repair_done(r, p, false);
	}
	edit_end(&e);
	return err == -ESTALE ? 0 : err;
}

static bool set_size(struct inode *in, uint64_t want)
{
	bool change = S_ISDIR(in->mode) && in->size != want;

	if (change)
		in->size = want;
	return change;
}

static bool set_nlink(struct inode *in, uint64_t want)
{
	bool change = want <= FS_NLINK_MAX && in->nlink != want;

	if (change)
		in->nlink = (uint32_t)want;
	return change;
}

static bool set_blocks(struct inode *in, uint64_t want)
{
	bool change = in->blocks != want;

	in->blocks = want;
	return change;
}

static bool set_parent(struct inode *in, uint64_t want)
{
	bool change = S_ISDIR(in->mode) && want && in->parent != want;

	if (change)
		in->parent = want;
	return change;
}

int mend_dir_size(struct repair *r, const struct repair_report *p)
{
	return set_field(r, p, "number of names", set_size);
}

int mend_links(struct repair *r, const struct repair_report *p)
{
	return set_field(r, p, "link count", set_nlink);
}

int mend_blocks(struct repair *r, const struct repair_report *p)
{
	return set_field(r, p, "number of blocks", set_blocks);
}

int mend_dir_parent(struct repair *r, const struct repair_report *p)
{
	return set_field(r, p, "parent", set_parent);
}

int mend_ino_limit(struct repair *r, const struct repair_report *p)
{
	struct fs *fs = r->fs;
	struct edit e;
	int err;

	if (p->ino < store_counter(fs->store, FS_COUNTER_INO_LIMIT) || p->ino > FS_INO_MAX ||
	    !repair_agree(r, p, "raise the limit to %" PRIu64, p->ino + 1))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = batch_raise(e.op.batch, FS_COUNTER_INO_LIMIT, p->ino + 1);
	if (!err) {
		e.op.ino_limit = e.raised = p->ino + 1;
		err = edit_commit(&e);
	}
	if (!err)
		repair_done(r, p, false);
	edit_end(&e);
	return err;
}

int mend_inode_count(struct repair *r, const struct repair_report *p)
{
	struct fs *fs = r->fs;
	uint64_t made = store_counter(fs->store, FS_COUNTER_INODES_MADE);
	uint64_t freed = store_counter(fs->store, FS_COUNTER_INODES_FREED);
	struct edit e;
	int err;

	if (made - freed == p->want || !repair_agree(r, p, "set it to %" PRIu64, p->want))
		return 0;
	/* They only grow. */
	if (made - freed > p->want && made > freed)
		freed = made - p->want;
	else
		made = freed + p->want;
	err = edit_begin(r, &e);
	if (!err)
		err = batch_raise(e.op.batch, FS_COUNTER_INODES_MADE, made);
	if (!err)
		err = batch_raise(e.op.batch, FS_COUNTER_INODES_FREED, freed);
	if (!err)
		err = edit_commit(&e);
	if (!err) {
		atomic_store(&fs->inodes_made, made);
		atomic_store(&fs->inodes_freed, freed);
		repair_done(r, p, false);
	}
	edit_end(&e);
	return err;
}

/* ---- attributes ---- */

/* Whether there are any, but for those with keys from `from` to `last`. */
static int has_xattrs(struct repair *r, uint64_t ino, uint64_t from, uint64_t last, bool *ret)
{
	const void *val;
	struct scan *s;
	struct key key;
	size_t len;
	int err;

	*ret = false;
	err = scan_open(r->view, key_make(ino, FS_ITEM_XATTR, 0), key_make(ino, FS_ITEM_XATTR + 1, 0), &s);
	if (err)
		return err;
	while (!*ret && !(err = scan_next(s, &key, &val, &len)))
		*ret = key.off < from || key.off > last;
	scan_close(s);
	return err < 0 ? err : 0;
}

static void set_state(struct inode *in, bool xattrs)
{
	in->state = (in->state & ~FS_STATE_XATTRS) | (xattrs ? FS_STATE_XATTRS : 0);
}

int mend_xattr_state(struct repair *r, const struct repair_report *p)
{
	struct inode *in;
	struct edit e;
	bool some;
	int err = has_xattrs(r, p->ino, UINT64_MAX, 0, &some);

	if (err)
		return err;
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, p->ino, &in);
	if (!err && some != !!(in->state & FS_STATE_XATTRS) &&
	    repair_agree(r, p, "set it to say that there are %s", some ? "some" : "none")) {
		set_state(in, some);
		err = edit_commit(&e);
		if (!err)
			repair_done(r, p, false);
	}
	edit_end(&e);
	return err == -ESTALE ? 0 : err;
}

#define CHUNKS 256u

/* All items of one attribute, side by side. */
struct parts {
	size_t n, total; /* total: bytes of the value, as far as they are there */
	size_t len[CHUNKS];
	uint8_t *bytes;
	bool whole;
};

static int read_parts(struct repair *r, uint64_t ino, uint64_t from, struct parts *ret)
{
	size_t max = r->fs->value_max, at = 0, cap = FS_XATTR_SIZE_MAX + 2 * max, len;
	const struct disk_xattr *d;
	const void *val;
	struct scan *s;
	struct key key;
	int err;

	ret->n = 0;
	ret->whole = true;
	ret->bytes = mem_alloc(cap);
	if (!ret->bytes)
		return -ENOMEM;
	err = scan_open(r->view, key_make(ino, FS_ITEM_XATTR, from),
			key_next(key_make(ino, FS_ITEM_XATTR, from | (CHUNKS - 1))), &s);
	if (err)
		return err;
	while (!(err = scan_next(s, &key, &val, &len))) {
		/* One behind the other, and all but the last as long as can be. */
		ret->whole &= key.off == (from | ret->n) && (!ret->n || ret->len[ret->n - 1] == max) && len <= cap - at;
		if (ret->whole)
			memcpy(ret->bytes + at, val, len);
		at += len;
		ret->len[ret->n++] = len;
	}
	scan_close(s);
	d = (const struct disk_xattr *)ret->bytes;
	if (ret->whole)
		ret->whole = ret->n && at == sizeof(*d) + d->name_len + le32_get(d->size);
	return err < 0 ? err : 0;
}

/* Where a whole one belongs; 0: nowhere, because it is there already, or there is no room. */
static int find_place(struct repair *r, uint64_t ino, const struct disk_xattr *d, uint64_t *ret)
{
	uint64_t at = xattr_hash(r->fs, (const char *)d->name, d->name_len) << 16, end = at | 0xffff, slot = 0;
	const struct disk_xattr *o;
	struct scan *s;
	struct key key;
	size_t len;
	int err = scan_open(r->view, key_make(ino, FS_ITEM_XATTR, at), key_next(key_make(ino, FS_ITEM_XATTR, end)), &s);

	*ret = 0;
	if (err)
		return err;
	while (!(err = scan_next(s, &key, (const void **)&o, &len))) {
		if (!(key.off & (CHUNKS - 1)) && o->name_len == d->name_len && !memcmp(o->name, d->name, d->name_len))
			break;
		if ((key.off >> 8 & 0xff) == slot)
			slot++;
	}
	scan_close(s);
	if (err > 0 && slot < 256)
		*ret = at | slot << 8;
	return err < 0 ? err : 0;
}

/* Its items go; with `place` they are put there. */
static int change_xattr(struct repair *r, const struct repair_report *p, uint64_t from, const struct parts *parts,
			uint64_t place)
{
	struct inode *in;
	struct edit e;
	bool some;
	size_t at = 0;
	int err = has_xattrs(r, p->ino, from, from + CHUNKS - 1, &some);

	if (err)
		return err;
	err = edit_begin(r, &e);
	if (!err)
		err = batch_del_range(e.op.batch, key_make(p->ino, FS_ITEM_XATTR, from),
				      key_next(key_make(p->ino, FS_ITEM_XATTR, from | (CHUNKS - 1))));
	for (size_t i = 0; !err && place && i < parts->n; i++) {
		err = batch_put(e.op.batch, key_make(p->ino, FS_ITEM_XATTR, place | i), parts->bytes + at,
				parts->len[i]);
		at += parts->len[i];
	}
	if (!err)
		err = edit_inode(&e, p->ino, &in);
	if (!err)
		set_state(in, some || place);
	if (!err || err == -ESTALE)
		err = edit_commit(&e);
	edit_end(&e);
	return err;
}

int mend_xattr_bad(struct repair *r, const struct repair_report *p)
{
	uint64_t from = p->where & ~(uint64_t)(CHUNKS - 1), place = 0;
	struct parts *parts = mem_alloc(sizeof(*parts));
	const struct disk_xattr *d;
	int err;

	if (!parts)
		return -ENOMEM;
	err = read_parts(r, p->ino, from, parts);
	d = (const struct disk_xattr *)parts->bytes;
	if (!err && parts->whole && from >> 16 != xattr_hash(r->fs, (const char *)d->name, d->name_len))
		err = find_place(r, p->ino, d, &place);
	if (err || !parts->n || !repair_agree(r, p, place ? "put it under its own hash" : "delete the attribute"))
		goto out;
	err = change_xattr(r, p, from, parts, place);
	if (!err)
		repair_done(r, p, !place);
out:
	mem_free(parts->bytes);
	mem_free(parts);
	return err;
}

/* ---- marks for deletion ---- */

static struct key mark_key(uint64_t ino, uint64_t kind)
{
	return key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, ino << 1 | kind);
}

static int has_mark(struct repair *r, const struct repair_report *p, bool *ret)
{
	size_t len;
	int err = -ENOENT;

	for (uint64_t kind = 0; err == -ENOENT && kind < CHECK_BOTH_MARKS; kind++)
		if (p->where == CHECK_BOTH_MARKS || p->where == kind)
			err = view_get(r->view, mark_key(p->ino, kind), NULL, 0, &len);
	*ret = !err;
	return err == -ENOENT ? 0 : err;
}

/* A directory that is marked though there are names in it, and that has none itself, is found in lost+found. */
static int unmark(struct repair *r, const struct repair_report *p, bool attach)
{
	uint64_t lost_found = 0;
	struct repair_facts f;
	struct inode *in;
	struct edit e;
	int err = attach ? repair_lost_found(r, &lost_found) : 0;

	if (!err && attach)
		err = repair_facts(r, p->ino, &f);
	if (err)
		return err;
	err = edit_begin(r, &e);
	for (uint64_t kind = 0; !err && kind < CHECK_BOTH_MARKS; kind++)
		if (p->where == CHECK_BOTH_MARKS || p->where == kind)
			err = batch_del(e.op.batch, mark_key(p->ino, kind));
	if (!err && attach)
		err = edit_inode(&e, p->ino, &in);
	if (!err && attach) {
		in->nlink = 2 + (uint32_t)f.subdirs;
		err = edit_attach(&e, lost_found, in);
	}
	if (!err)
		err = edit_commit(&e);
	if (!err && p->where != FS_ORPHAN_UNLINKED)
		orphan_forget_range(r->fs, p->ino);
	edit_end(&e);
	return err;
}

int mend_orphan_bad(struct repair *r, const struct repair_report *p)
{
	struct inode in = { 0 };
	bool there, attach;
	int err = has_mark(r, p, &there);

	if (err || !there)
		return err;
	err = inode_load(r->view, p->ino, &in);
	if (err && err != -ESTALE)
		return err;
	/* It was made again meanwhile, and the mark says what is to become of it. */
	if (!err && p->where == CHECK_BOTH_MARKS)
		return 0;
	attach = !err && p->where == FS_ORPHAN_UNLINKED && !p->want && S_ISDIR(in.mode);
	if (!repair_agree(r, p, attach ? "keep it, as /lost+found/#%" PRIu64 : "delete the mark (inode %" PRIu64 ")",
			  p->ino))
		return 0;
	err = unmark(r, p, attach);
	if (!err)
		repair_done(r, p, false);
	return err;
}

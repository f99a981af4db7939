/*
 * check_items.c - the items of each inode: one scan over everything
 *
 * Keys put everything of an inode together, in the order inode, attributes, names, inline data, extents. So one scan sees
 * each inode's items in one go, and what they say of each other is checked when the next inode begins (struct items is the
 * one at hand). What is needed of it later goes into the table: 48 bytes.
 *
 * Names are only counted as present here; check_names.c looks at them when all inodes are known.
 *
 * Marks for deletion come first: a range that is marked is gone for whoever looks, whatever is left in it. Otherwise an inode
 * that is being taken apart is right at each step (see orphan.c) and gets no excuse.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/acl.h"
#include "fs/check_int.h"
#include "fs/xattr.h"

struct items {
	struct check *c;
	struct check_part *part;
	struct key last; /* no item may come at or before it */
	struct check_lost lost;

	/* The inode at hand. */
	uint64_t ino; /* 0: none */
	bool have;    /* in is there */
	bool excused; /* part of it is lost */
	struct inode in;
	const struct check_mark *mark;
	uint64_t n_items, n_names;

	bool any_xattr;
	struct check_same same;
	uint64_t x_key; /* offset of chunk 0; */
	bool x_open;	/* a value is being put together */
	bool x_bad;	/* ... and something was wrong with it: told */
	unsigned x_chunk;
	uint64_t x_got, x_size;
	size_t x_last; /* length of the last item: only the last may be shorter than can be */

	uint64_t n_inline, inline_end;
	bool inline_gap, inline_zero;

	uint64_t n_extents, blocks, end;
	bool overlap, beyond, content_lost;

	/* Sums for the result. */
	uint64_t inodes, directories, names, xattrs, extents, data_blocks, lost_blocks;
};

#define PROBLEM(it, problem, where, ...)                                                                               \
	check_problem((it)->c, FS_PROBLEM_##problem, (it)->ino, where, 0, NULL, 0, __VA_ARGS__)

/* ---- attributes ---- */

static void xattr_end(struct items *it)
{
	if (!it->x_open)
		return;
	it->x_open = false;
	if (!it->x_bad && it->x_got != it->x_size && !it->excused)
		PROBLEM(it, XATTR_BAD, it->x_key, "%" PRIu64 " bytes of a value of %" PRIu64, it->x_got, it->x_size);
}

/* Making a file in the directory, or a chmod, would stumble over it. One of more than an item is not looked into. */
static bool acl_is_bad(const struct disk_xattr *d, size_t len)
{
	const char *name = (const char *)d->name;
	size_t size = len - sizeof(*d) - d->name_len;

	return size == le32_get(d->size) &&
	       ((d->name_len == strlen(ACL_ACCESS) && !memcmp(name, ACL_ACCESS, d->name_len)) ||
		(d->name_len == strlen(ACL_DEFAULT) && !memcmp(name, ACL_DEFAULT, d->name_len))) &&
	       acl_check(name + d->name_len, size);
}

static int xattr_begin(struct items *it, struct key key, const struct disk_xattr *d, size_t len)
{
	struct check *c = it->c;
	uint64_t hash = xattr_hash(c->fs, (const char *)d->name, d->name_len);
	char shown[CHECK_SHOWN_MAX];
	int err;

	xattr_end(it);
	it->xattrs++;
	it->x_open = true;
	it->x_key = key.off;
	it->x_chunk = 0;
	it->x_size = le32_get(d->size);
	it->x_got = len - sizeof(*d) - d->name_len;
	it->x_last = len;
	it->x_bad = hash != key.off >> 16;
	if (it->x_bad)
		PROBLEM(it, XATTR_BAD, key.off, "attribute '%s' stands under hash %" PRIx64 " instead of %" PRIx64,
			check_shown(shown, d->name, d->name_len), key.off >> 16, hash);
	if (!it->x_bad && acl_is_bad(d, len)) {
		it->x_bad = true;
		PROBLEM(it, XATTR_BAD, key.off, "attribute '%s' is no access control list",
			check_shown(shown, d->name, d->name_len));
	}
	err = check_same_add(&it->same, key.off >> 16, d->name, d->name_len);
	if (err > 0)
		PROBLEM(it, XATTR_BAD, key.off, "attribute '%s' is there twice",
			check_shown(shown, d->name, d->name_len));
	return err < 0 ? err : 0;
}

static int on_xattr(struct items *it, struct key key, const void *val, size_t len)
{
	unsigned chunk = key.off & 0xff;

	it->any_xattr = true;
	if (!chunk)
		return xattr_begin(it, key, val, len);
	if (!it->x_open || (it->x_key ^ key.off) >> 8) {
		xattr_end(it);
		/* Told once for all that follow. */
		it->x_open = it->x_bad = true;
		it->x_key = key.off & ~UINT64_C(0xff);
		if (!it->excused)
			PROBLEM(it, XATTR_BAD, key.off, "part %u of an attribute without a beginning", chunk);
	}
	if (it->x_bad)
		return 0;
	if ((chunk != it->x_chunk + 1 && !it->excused) || it->x_last != it->c->fs->value_max ||
	    len > it->x_size - it->x_got) {
		it->x_bad = true;
		PROBLEM(it, XATTR_BAD, key.off, "part %u does not go on where part %u ends", chunk, it->x_chunk);
		return 0;
	}
	it->x_chunk = chunk;
	it->x_got += len;
	it->x_last = len;
	return 0;
}

/* ---- data ---- */

static void on_inline(struct items *it, struct key key, const void *val, size_t len)
{
	it->n_inline++;
	it->inline_gap |= key.off != it->inline_end;
	it->inline_zero |= memchr(val, 0, len) != NULL;
	it->inline_end = key.off + len;
}

static void on_extent(struct items *it, struct key key, const struct disk_extent *d)
{
	uint64_t blocks = le32_get(d->blocks), end = key.off + blocks * BLOCK_SIZE;
	const struct check_mark *m = it->mark;
	bool lost = d->flags & FS_EXTENT_LOST, claim = !le64_get(d->addr) && !lost;

	it->n_extents++;
	it->extents++;
	it->blocks += blocks;
	if (lost)
		it->lost_blocks += blocks;
	else if (!claim)
		it->data_blocks += blocks;
	if (key.off < it->end && !it->overlap) {
		it->overlap = true;
		PROBLEM(it, EXTENT_OVERLAP, key.off,
			"one that begins at byte %" PRIu64 " reaches into one that ends at %" PRIu64, key.off, it->end);
	}
	if (end > it->end)
		it->end = end;
	if (claim || !it->have || it->beyond || !S_ISREG(it->in.mode) || it->excused)
		return;
	if (end > ((it->in.size + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1))) {
		uint64_t from = key.off > it->in.size ? key.off : it->in.size;

		/* What a range covers is gone. It begins at a block, the size may be inside the block in front of it. */
		if (m && m->range && m->from < from + BLOCK_SIZE && end <= m->to)
			return;
		it->beyond = true;
		PROBLEM(it, EXTENT_BEYOND, key.off, "%s up to byte %" PRIu64 ", the file ends at %" PRIu64,
			lost ? "lost data" : "data", end, it->in.size);
	}
}

/* ---- one inode ---- */

static void check_fields(struct items *it)
{
	const struct inode *in = &it->in;
	bool device = S_ISCHR(in->mode) || S_ISBLK(in->mode);

	if (!device && (in->rdev_major || in->rdev_minor))
		PROBLEM(it, INODE_BAD, 0, "device number %u:%u of what is no device", in->rdev_major, in->rdev_minor);
	if (S_ISLNK(in->mode) && (!in->size || in->size > FS_SYMLINK_MAX) && !it->excused)
		PROBLEM(it, INODE_BAD, 1, "a symbolic link of %" PRIu64 " bytes", in->size);
	if (!S_ISREG(in->mode) && !S_ISDIR(in->mode) && !S_ISLNK(in->mode) && in->size)
		PROBLEM(it, INODE_BAD, 2, "size %" PRIu64 " of what has no content", in->size);
	if (it->n_names && !S_ISDIR(in->mode))
		PROBLEM(it, INODE_BAD, 4, "%" PRIu64 " names in what is no directory", it->n_names);
	if (it->n_extents && !S_ISREG(in->mode))
		PROBLEM(it, INODE_BAD, 5, "extents in what is no regular file");
}

static void check_inline(struct items *it)
{
	const struct inode *in = &it->in;

	if (S_ISLNK(in->mode)) {
		if (!in->size || in->size > FS_SYMLINK_MAX)
			return; /* told as that */
		if (it->inline_gap || it->inline_end != in->size)
			PROBLEM(it, INLINE_BAD, 0, "target of %" PRIu64 " bytes, the size is %" PRIu64, it->inline_end,
				in->size);
		else if (it->inline_zero)
			PROBLEM(it, INLINE_BAD, 0, "zero byte in a symbolic link's target");
	} else if (it->n_inline) {
		if (!S_ISREG(in->mode))
			PROBLEM(it, INLINE_BAD, 0, "data in what is no regular file");
		else if (it->n_extents)
			PROBLEM(it, INLINE_BAD, 0, "inline data beside extents");
		else if (it->n_inline > 1 || it->inline_gap)
			PROBLEM(it, INLINE_BAD, 0, "inline data in several pieces, or not at the beginning");
		else if (it->inline_end > in->size)
			PROBLEM(it, INLINE_BAD, 0, "%" PRIu64 " bytes of inline data, the size is %" PRIu64,
				it->inline_end, in->size);
	}
}

/* ---- what a rebuild has lost ---- */

/* Whether keys of the inode with these types, offset below `end`, are among it. */
static bool meets_gap(const struct items *it, unsigned type, uint64_t end)
{
	struct key from = key_make(it->ino, (uint8_t)type, 0), to = key_make(it->ino, (uint8_t)type, end);

	for (size_t i = 0; i < it->c->n_gaps; i++)
		if (key_less(it->c->gaps[i].from, to) && key_less(from, it->c->gaps[i].to))
			return true;
	return false;
}

/*
 * What of this inode is missing. Its number of blocks, of names, its mark for attributes were put with the items that are
 * lost, so they tell whether there was something.
 */
static void check_gaps(struct items *it)
{
	const struct inode *in = &it->in;

	if (!it->c->n_gaps)
		return;
	if (S_ISREG(in->mode) && in->blocks)
		it->content_lost = in->blocks > it->blocks && meets_gap(it, FS_ITEM_EXTENT, UINT64_MAX);
	else if (S_ISREG(in->mode))
		it->content_lost = in->size && !it->n_inline && !it->n_extents && meets_gap(it, FS_ITEM_INLINE, 1);
	if (it->content_lost)
		PROBLEM(it, CONTENT_LOST, 0, "a part of its content was lost");
	if (S_ISDIR(in->mode) && in->size > it->n_names && meets_gap(it, FS_ITEM_DIRENT, UINT64_MAX))
		PROBLEM(it, NAMES_LOST, 0, "%" PRIu64 " names of %" PRIu64 " were lost", in->size - it->n_names,
			in->size);
	/* (Behind a salvage one mark is over everything, which says nothing of attributes that are there.) */
	if (in->state & FS_STATE_XATTRS && !(it->any_xattr && it->c->gap_over_all) && meets_gap(it, FS_ITEM_XATTR, UINT64_MAX))
		PROBLEM(it, XATTRS_LOST, 0, "extended attributes may have been lost");
}

static int add_to_table(struct items *it)
{
	const struct inode *in = &it->in;
	bool dir = it->have && S_ISDIR(in->mode);
	struct check_part *p = it->part;
	uint64_t id = it->ino << 16;

	if (mem_grow((void **)&p->at, &p->cap, p->n + 1, sizeof(*p->at)))
		return -ENOMEM;
	id |= it->have ? mode_to_dt(in->mode) << 12 : CHECK_MISSING;
	id |= (it->mark && it->mark->unlinked ? CHECK_MARKED : 0) | (it->n_names ? CHECK_NAMES : 0) |
	      (it->excused ? CHECK_INCOMPLETE : 0);
	p->at[p->n++] = (struct check_inode){ .id = id };
	if (!it->have)
		return 0;
	p->at[p->n - 1].parent = in->parent;
	p->at[p->n - 1].size = dir ? in->size : 0;
	p->at[p->n - 1].nlink = in->nlink;
	it->inodes++;
	it->directories += dir;
	return 0;
}

static int inode_end(struct items *it)
{
	const struct inode *in = &it->in;

	if (!it->ino)
		return 0;
	xattr_end(it);
	if (!it->have) {
		/* (Of the root that is told by another number.) */
		if (!it->excused && it->ino != FS_ROOT_INO)
			PROBLEM(it, ITEM_NO_INODE, 0, "%" PRIu64 " items", it->n_items);
		return it->n_names ? add_to_table(it) : 0;
	}
	check_fields(it);
	if (it->ino >= it->c->ino_limit && it->ino != FS_ROOT_INO)
		PROBLEM(it, INO_LIMIT, 0, "the limit is %" PRIu64, it->c->ino_limit);
	if (!it->excused) {
		check_gaps(it);
		check_inline(it);
		if (it->any_xattr != !!(in->state & FS_STATE_XATTRS))
			PROBLEM(it, XATTR_STATE, 0, "%s attributes, the inode says otherwise",
				it->any_xattr ? "there are" : "no");
		if (it->blocks != in->blocks && !it->content_lost)
			check_problem(it->c, FS_PROBLEM_BLOCKS, it->ino, 0, it->blocks, NULL, 0,
				      "%" PRIu64 " in its extents, the inode says %" PRIu64, it->blocks, in->blocks);
	}
	return add_to_table(it);
}

static int inode_begin(struct items *it, uint64_t ino)
{
	int err = inode_end(it);
	struct items next = {
		.c = it->c,
		.part = it->part,
		.last = it->last,
		.lost = it->lost,
		.ino = ino,
		.mark = check_mark_of(it->c, ino),
		/* Where a node could not be read right before, the inode or some of its items may have been in it. */
		.excused = key_less(key_make(ino, 0, 0), it->lost.to),
		.same = { .buf = it->same.buf, .cap = it->same.cap },
		.inodes = it->inodes,
		.directories = it->directories,
		.names = it->names,
		.xattrs = it->xattrs,
		.extents = it->extents,
		.data_blocks = it->data_blocks,
		.lost_blocks = it->lost_blocks,
	};

	*it = next;
	return err;
}

static int on_item(struct items *it, struct key key, const void *val, size_t len)
{
	int err = 0;

	/* Nodes whose keys are not where their parents say: the structure's check tells that, here it must do no harm. */
	if (key_less(key, it->last))
		return 0;
	it->last = key_next(key);
	if (key_ino(key) != it->ino)
		err = inode_begin(it, key_ino(key));
	if (err)
		return err;
	it->n_items++;
	switch (key_type(key)) {
	case FS_ITEM_INODE:
		it->have = true;
		return inode_decode(it->ino, val, len, &it->in);
	case FS_ITEM_XATTR:
		return on_xattr(it, key, val, len);
	case FS_ITEM_DIRENT:
		it->n_names++;
		it->names++;
		break;
	case FS_ITEM_INLINE:
		on_inline(it, key, val, len);
		break;
	case FS_ITEM_EXTENT:
		on_extent(it, key, val);
		break;
	}
	return 0;
}

/* ---- all ---- */

/* What mem_grow took in advance is not needed any more. */
static void table_shrink(struct check_part *p)
{
	struct check_inode *at = p->n ? mem_realloc(p->at, p->n * sizeof(*p->at)) : NULL;

	if (at) {
		p->at = at;
		p->cap = p->n;
	}
}

static int scan_part(struct check *c, size_t i, void *arg)
{
	uint64_t from = 1 + i * c->span, to = i + 1 == c->n_parts ? FS_INO_MAX + 1 : from + c->span;
	struct items it = { .c = c, .part = &c->part[i] };
	struct scan *s;
	const void *val;
	struct key key;
	size_t len;
	int err;

	(void)arg;
	err = scan_open(c->view, key_make(from, 0, 0), key_make(to, 0, 0), &s);
	if (err)
		return err;
	for (;;) {
		err = scan_next(s, &key, &val, &len);
		if (err > 0)
			break;
		if (err < 0) {
			err = check_skip(c, s, err, &it.lost);
			it.excused = true;
			it.x_open = false;
		} else {
			err = on_item(&it, key, val, len);
		}
		if (err)
			break;
	}
	if (err >= 0)
		err = inode_end(&it);
	if (!err)
		table_shrink(it.part);
	scan_close(s);
	mem_free(it.same.buf);
	pthread_mutex_lock(&c->lock);
	c->view_blocks += it.data_blocks;
	if (c->live) {
		c->ret->inodes += it.inodes;
		c->ret->directories += it.directories;
		c->ret->names += it.names;
		c->ret->xattrs += it.xattrs;
		c->ret->extents += it.extents;
		c->ret->lost_blocks += it.lost_blocks;
	}
	pthread_mutex_unlock(&c->lock);
	return err;
}

static int add_gap(struct check *c, struct key key, const struct disk_lost *d)
{
	struct check_gap g = {
		.from = { le64_get(d->from_obj), le64_get(d->from_off) },
		.to = { le64_get(d->to_obj), le64_get(d->to_off) },
		.number = key.off,
	};

	if (mem_grow((void **)&c->gaps, &c->cap_gaps, c->n_gaps + 1, sizeof(*c->gaps)))
		return -ENOMEM;
	c->gaps[c->n_gaps++] = g;
	c->gap_over_all |= check_gap_is_all(&g);
	if (check_gap_is_all(&g))
		check_problem(c, FS_PROBLEM_LOST_MARK, 0, g.number, 0, NULL, 0, "what a salvage found was not repaired to the end");
	else
		check_problem(c, FS_PROBLEM_LOST_MARK, 0, g.number, 0, NULL, 0,
			      "items from inode %" PRIu64 " type %u offset %" PRIu64 " to inode %" PRIu64
			      " type %u offset %" PRIu64 " were lost",
			      key_ino(g.from), key_type(g.from), g.from.off, key_ino(g.to), key_type(g.to), g.to.off);
	return 0;
}

static int add_mark(struct check *c, struct key key, const void *val)
{
	const struct disk_orphan *d = val;
	uint64_t ino = key.off >> 1;
	struct check_mark *m;

	if (key_type(key) == FS_ITEM_LOST)
		return add_gap(c, key, val);
	if (key_type(key) != FS_ITEM_ORPHAN)
		return 0;
	if (!c->n_marks || c->marks[c->n_marks - 1].ino < ino) {
		if (mem_grow((void **)&c->marks, &c->cap_marks, c->n_marks + 1, sizeof(*c->marks)))
			return -ENOMEM;
		c->marks[c->n_marks++] = (struct check_mark){ .ino = ino };
	}
	m = &c->marks[c->n_marks - 1];
	if (m->ino != ino)
		return 0; /* not in order: see on_item */
	if ((key.off & 1) == FS_ORPHAN_UNLINKED) {
		m->unlinked = true;
	} else {
		m->range = true;
		m->from = le64_get(d->from);
		m->to = le64_get(d->to);
	}
	return 0;
}

static int read_marks(struct check *c)
{
	struct check_lost lost;
	const void *val;
	struct key key;
	struct scan *s;
	size_t len;
	int err;

	err = scan_open(c->view, key_make(FS_ORPHAN_INO, 0, 0), key_make(FS_ORPHAN_INO + 1, 0, 0), &s);
	if (err)
		return err;
	while (err <= 0) {
		err = scan_next(s, &key, &val, &len);
		if (!err)
			err = add_mark(c, key, val);
		else if (err < 0)
			err = check_skip(c, s, err, &lost);
		if (err < 0)
			break;
	}
	scan_close(s);
	return err < 0 ? err : 0;
}

#define SPAN_MIN 1024u

/* Parts of equal width: numbers are given out in order, so that is fair enough. */
static int cut_parts(struct check *c)
{
	uint64_t max = FS_INO_FIRST;
	struct key key;
	size_t len;
	int err;

	err = view_floor(c->view, key_make(FS_INO_MAX, UINT8_MAX, UINT64_MAX), &key, NULL, 0, &len);
	if (!err)
		max = key_ino(key) + 1;
	else if (check_is_damage(err) && c->ino_limit <= FS_INO_MAX)
		max = c->ino_limit;
	else if (err != -ENOENT && !check_is_damage(err))
		return err;
	c->n_parts = max / SPAN_MIN < CHECK_PARTS ? (unsigned)(max / SPAN_MIN) + 1 : CHECK_PARTS;
	c->span = max / c->n_parts + 1;
	return 0;
}

int check_items(struct check *c)
{
	int err = cut_parts(c);

	if (!err)
		err = read_marks(c);
	return err ? err : check_parallel(c, c->n_parts, scan_part, NULL, "items");
}

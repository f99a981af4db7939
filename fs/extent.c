/*
 * extent.c - the map from a file's blocks to blocks of the device
 *
 * The map is the file's extent items, in the order of their keys, and nothing else: no tree of our own, no cache. Finding
 * what covers an offset is one search for the greatest key not above it. Changing is replacing: whatever a range has goes,
 * what is given comes, and items that reach over an end of the range are put again, shorter. The store counts references
 * from the values before and after, so cutting an item in two, or cloning a part of it, needs no care for its blocks here.
 *
 * Invariants
 *
 * 1. Items of one file do not overlap and do not touch 2^64; keys and lengths are whole blocks.
 * 2. A part of an item has its birth and the checksums of its blocks; addr and sums move by the same number of blocks.
 * 3. A value has one birth. Fresh blocks are born at the commit, with the view's generation; so they may be joined to older
 *    blocks in front of them only where those were born in this very generation (op.join; the store checks at the commit).
 * 4. One replacement of a file in a batch: it is computed from the tree, which does not know the batch.
 *
 * Joining is what keeps a file that is appended to in small steps from having an item a step. It is bounded (JOIN_BLOCKS):
 * every step writes the whole value to the log again, 4 bytes a block.
 *
 * How much is read: replacing looks for the last item that begins in front of the range's end. In the usual cases, a write
 * behind the last item or into the middle of one, that item is all there is to know, and the search was the only one.
 *
 * Rejected: extents of variable granularity (bytes), because checksums are by block; a list of extents in the inode,
 * because large files would need a second form and small ones are one item anyway.
 */
#include "fs/extent.h"

#include <string.h>

#include "fs/fs_int.h"

#define JOIN_BLOCKS 64u
#define JOIN_FACTOR 8u /* longer ones are joined, too, to what is at least this part of them */

/* Deleting single keys costs a key each in the record, a range two. */
#define SINGLE_DELETES 4u

struct extent_value {
	uint8_t bytes[sizeof(struct disk_extent) + FS_EXTENT_BLOCKS_MAX * sizeof(le32)];
};

static inline struct disk_extent *disk(struct extent_value *v)
{
	return (struct disk_extent *)v->bytes;
}

/* Its length: only data has checksums. */
static size_t value_len(const struct disk_extent *d)
{
	return sizeof(*d) + (le64_get(d->addr) ? le32_get(d->blocks) * sizeof(le32) : 0);
}

static bool is_claim(const struct disk_extent *d)
{
	return !le64_get(d->addr) && !(d->flags & FS_EXTENT_LOST);
}

static struct key extent_key(uint64_t ino, uint64_t off)
{
	return key_make(ino, FS_ITEM_EXTENT, off);
}

static uint64_t item_end(struct key key, const struct disk_extent *d)
{
	return key.off + (uint64_t)le32_get(d->blocks) * BLOCK_SIZE;
}

uint32_t extent_blocks_max(struct fs *fs)
{
	size_t n = (fs->value_max - sizeof(struct disk_extent)) / sizeof(le32);

	return n < FS_EXTENT_BLOCKS_MAX ? (uint32_t)n : FS_EXTENT_BLOCKS_MAX;
}

/* ---- reading ---- */

/* The last item that begins at or before `off`. -ENOENT. */
static int item_floor(struct view *v, uint64_t ino, uint64_t off, struct key *ret_key, struct extent_value *ret)
{
	struct key key;
	size_t len;
	int err = view_floor(v, extent_key(ino, off), &key, ret, sizeof(*ret), &len);

	if (err)
		return err;
	if (key.obj != extent_key(ino, 0).obj)
		return -ENOENT;
	*ret_key = key;
	return 0;
}

/* The part of an item in [from, to), which overlap. */
static void map_item(struct key key, const struct disk_extent *d, uint64_t from, uint64_t to, struct extent_map *ret)
{
	uint64_t end = item_end(key, d), skip, n;

	ret->from = key.off > from ? key.off : from;
	ret->to = end < to ? end : to;
	ret->kind = le64_get(d->addr) ? EXTENT_DATA : d->flags & FS_EXTENT_LOST ? EXTENT_LOST : EXTENT_CLAIM;
	ret->addr = 0;
	ret->birth = 0;
	if (ret->kind != EXTENT_DATA)
		return;
	skip = (ret->from - key.off) / BLOCK_SIZE;
	n = (ret->to - ret->from) / BLOCK_SIZE;
	ret->addr = le64_get(d->addr) + skip;
	ret->birth = le64_get(d->birth);
	for (uint64_t i = 0; i < n; i++)
		ret->sums[i] = le32_get(d->sums[skip + i]);
}

static void map_hole(uint64_t from, uint64_t to, struct extent_map *ret)
{
	ret->from = from;
	ret->to = to;
	ret->kind = EXTENT_HOLE;
	ret->addr = ret->birth = 0;
}

struct extent_walk {
	struct view *view;
	struct scan *scan; /* opened when the first item does not cover it all */
	uint64_t ino;
	uint64_t at, to; /* what is in front of `at` has been said */
	bool begun, ended;
	bool held; /* an item has been read that lies behind a hole */
	struct key key;
	struct extent_value val;
};

int extent_walk_open(struct view *v, uint64_t ino, uint64_t from, uint64_t to, struct extent_walk **ret)
{
	struct extent_walk *w = mem_alloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->view = v;
	w->scan = NULL;
	w->ino = ino;
	w->at = from & ~(uint64_t)(BLOCK_SIZE - 1);
	w->to = to;
	w->begun = w->ended = w->held = false;
	*ret = w;
	return 0;
}

/* The next item that begins at w->at or behind, into key and val. <0, 0, >0: none. */
static int walk_item(struct extent_walk *w)
{
	const void *val;
	size_t len;
	int err = 0;

	if (!w->begun) {
		w->begun = true;
		err = item_floor(w->view, w->ino, w->at, &w->key, &w->val);
		if (!err && item_end(w->key, disk(&w->val)) > w->at)
			return 0;
		if (err && err != -ENOENT)
			return err;
		err = 0;
	}
	if (!w->scan)
		err = scan_open(w->view, extent_key(w->ino, w->at), extent_key(w->ino, w->to), &w->scan);
	if (!err)
		err = scan_next(w->scan, &w->key, &val, &len);
	if (err)
		return err;
	memcpy(&w->val, val, len);
	if (w->key.off < w->at)
		return corrupt("extent", w->ino, "overlaps the one in front of it", w->key.off, w->at);
	return 0;
}

int extent_walk_next(struct extent_walk *w, struct extent_map *ret)
{
	int err = 0;

	if (w->ended || w->at >= w->to)
		return 1;
	if (!w->held)
		err = walk_item(w);
	if (err < 0)
		return err;
	if (err) {
		w->ended = true;
		map_hole(w->at, w->to, ret);
		return 0;
	}
	w->held = w->key.off > w->at;
	if (w->held)
		map_hole(w->at, w->key.off, ret);
	else
		map_item(w->key, disk(&w->val), w->at, w->to, ret);
	w->at = ret->to;
	return 0;
}

void extent_walk_close(struct extent_walk *w)
{
	if (!w)
		return;
	scan_close(w->scan);
	mem_free(w);
}

int extent_at(struct view *v, uint64_t ino, uint64_t off, struct extent_map *ret)
{
	struct extent_walk *w;
	struct extent_value val;
	struct key key;
	int err = item_floor(v, ino, off, &key, &val);

	if (!err && item_end(key, disk(&val)) > off) {
		map_item(key, disk(&val), 0, UINT64_MAX, ret);
		return 0;
	}
	if (err && err != -ENOENT)
		return err;
	err = extent_walk_open(v, ino, off, UINT64_MAX, &w);
	if (err)
		return err;
	err = extent_walk_next(w, ret); /* a hole, to the next item or to the end */
	extent_walk_close(w);
	return err;
}

int extent_bound(struct view *v, uint64_t ino, uint64_t from, uint64_t to, unsigned items, uint64_t *ret_to)
{
	struct scan *scan = NULL;
	struct extent_value val;
	const void *unused;
	unsigned n = 0;
	struct key key;
	size_t len;
	int err = from ? item_floor(v, ino, from - 1, &key, &val) : -ENOENT;

	if (!err)
		n = item_end(key, disk(&val)) > from;
	else if (err != -ENOENT)
		return err;
	err = scan_open(v, extent_key(ino, from), extent_key(ino, to), &scan);
	while (!err) {
		err = scan_next(scan, &key, &unused, &len);
		if (!err && n++ >= items)
			break;
	}
	scan_close(scan);
	if (err >= 0)
		*ret_to = err ? to : key.off;
	return err < 0 ? err : 0;
}

int extent_claimed(struct view *v, uint64_t ino, uint64_t from, uint64_t to, uint64_t *ret_blocks)
{
	struct extent_walk *w = NULL;
	struct extent_map m;
	struct extent_value val;
	uint64_t blocks = 0;
	struct key key;
	int err = item_floor(v, ino, to - 1, &key, &val);

	if (err == -ENOENT || (!err && item_end(key, disk(&val)) <= from)) {
		*ret_blocks = 0;
		return 0;
	}
	if (!err && key.off <= from && item_end(key, disk(&val)) >= to) {
		*ret_blocks = is_claim(disk(&val)) ? (to - from) / BLOCK_SIZE : 0;
		return 0;
	}
	if (!err)
		err = extent_walk_open(v, ino, from, to, &w);
	while (!err) {
		err = extent_walk_next(w, &m);
		if (!err && m.kind == EXTENT_CLAIM)
			blocks += (m.to - m.from) / BLOCK_SIZE;
	}
	extent_walk_close(w);
	if (err >= 0)
		*ret_blocks = blocks;
	return err < 0 ? err : 0;
}

/* ---- changing ---- */

/* One replacement. */
struct replace {
	struct op *op;
	uint64_t ino, from, to;
	uint64_t removed;  /* blocks that items have in the range */
	unsigned n_inside; /* items that begin in it */
	uint64_t inside[SINGLE_DELETES];
	bool put_again[SINGLE_DELETES]; /* a put of the key replaces it */
	bool cut_front, cut_back, have_front;
	struct key front_key, back_key;
	struct extent_value front, back; /* the item that begins in front of the range; the one that ends behind it */
	/* The value being made up from pieces, not put yet. */
	bool open;
	bool older; /* it begins with blocks that are there already; the tree has it under this key */
	bool grown; /* something has been joined to what the tree has */
	uint64_t at;
	struct extent_value val;
};

static int put_value(struct replace *r, uint64_t off, const struct disk_extent *d)
{
	for (unsigned i = 0; i < r->n_inside && i < SINGLE_DELETES; i++)
		r->put_again[i] |= r->inside[i] == off;
	return batch_put(r->op->batch, extent_key(r->ino, off), d, value_len(d));
}

/* An item reached from read_old. */
static void note_item(struct replace *r, struct key key, const struct disk_extent *d)
{
	uint64_t end = item_end(key, d), a = key.off > r->from ? key.off : r->from, b = end < r->to ? end : r->to;

	if (b > a)
		r->removed += (b - a) / BLOCK_SIZE;
	if (key.off >= r->from) {
		if (r->n_inside < SINGLE_DELETES) {
			r->inside[r->n_inside] = key.off;
			r->put_again[r->n_inside] = false;
		}
		r->n_inside++;
	}
}

static void note_last(struct replace *r, struct key key, const struct disk_extent *d)
{
	r->cut_back = item_end(key, d) > r->to;
	if (!r->cut_back)
		return;
	r->back_key = key;
	memcpy(&r->back, d, value_len(d));
}

static int note_inside(struct replace *r)
{
	const struct disk_extent *d;
	struct scan *scan;
	struct key key;
	size_t len;
	int err = scan_open(r->op->view, extent_key(r->ino, r->from), extent_key(r->ino, r->to), &scan);

	if (err)
		return err;
	while (!(err = scan_next(scan, &key, (const void **)&d, &len)))
		note_item(r, key, d);
	scan_close(scan);
	return err < 0 ? err : 0;
}

/* The item in front, the items inside, and the one that reaches over the end. */
static int read_old(struct replace *r)
{
	struct view *v = r->op->view;
	int err = item_floor(v, r->ino, r->to - 1, &r->front_key, &r->front);

	if (err)
		return err == -ENOENT ? 0 : err;
	note_last(r, r->front_key, disk(&r->front));
	if (r->front_key.off == r->from)
		note_item(r, r->front_key, disk(&r->front));
	else if (r->front_key.off > r->from)
		err = note_inside(r);
	if (!err && r->front_key.off >= r->from) /* that was not it */
		err = r->from ? item_floor(v, r->ino, r->from - 1, &r->front_key, &r->front) : -ENOENT;
	if (err)
		return err == -ENOENT ? 0 : err;
	r->have_front = true;
	r->cut_front = item_end(r->front_key, disk(&r->front)) > r->from;
	if (r->cut_front)
		note_item(r, r->front_key, disk(&r->front));
	return 0;
}

/* Many: a range, in front of all puts, of which those inside survive it. */
static int delete_many(struct replace *r)
{
	if (r->n_inside <= SINGLE_DELETES)
		return 0;
	return batch_del_range(r->op->batch, extent_key(r->ino, r->from), extent_key(r->ino, r->to));
}

static int delete_few(struct replace *r)
{
	int err = 0;

	for (unsigned i = 0; !err && r->n_inside <= SINGLE_DELETES && i < r->n_inside; i++)
		if (!r->put_again[i])
			err = batch_del(r->op->batch, extent_key(r->ino, r->inside[i]));
	return err;
}

/* What the item that reaches over the range's end keeps: its blocks from r->to on. */
static int put_back(struct replace *r)
{
	struct disk_extent *d = disk(&r->back);
	uint32_t skip = (uint32_t)((r->to - r->back_key.off) / BLOCK_SIZE), n = le32_get(d->blocks) - skip;

	if (le64_get(d->addr)) {
		d->addr = le64_put(le64_get(d->addr) + skip);
		memmove(d->sums, d->sums + skip, n * sizeof(le32));
	}
	d->blocks = le32_put(n);
	return put_value(r, r->to, d);
}

static int flush_value(struct replace *r)
{
	bool put = r->open && (!r->older || r->grown);

	r->open = false;
	return put ? put_value(r, r->at, disk(&r->val)) : 0;
}

/* The item in front becomes what pieces may be joined to. */
static void begin_with_front(struct replace *r)
{
	struct disk_extent *d = disk(&r->val);

	if (!r->have_front)
		return;
	memcpy(&r->val, &r->front, value_len(disk(&r->front)));
	r->open = r->older = true;
	r->grown = r->cut_front;
	r->at = r->front_key.off;
	if (r->cut_front)
		d->blocks = le32_put((uint32_t)((r->from - r->at) / BLOCK_SIZE));
}

/* Whether the piece continues the open value: see invariant 3. */
static bool can_join(struct replace *r, const struct extent_piece *p)
{
	const struct disk_extent *d = disk(&r->val);
	uint64_t addr = le64_get(d->addr), birth = le64_get(d->birth);
	uint32_t n = le32_get(d->blocks);

	if (!r->open || r->at + (uint64_t)n * BLOCK_SIZE != p->from || !addr != !p->addr)
		return false;
	if (!(d->flags & FS_EXTENT_LOST) != !p->lost)
		return false;
	if (!addr)
		return n + p->blocks <= FS_CLAIM_BLOCKS_MAX;
	if (addr + n != p->addr || n + p->blocks > r->op->fs->extent_blocks)
		return false;
	if (birth == p->birth) /* both fresh, or neighbours of one birth */
		return true;
	return !p->birth && r->op->join && (n + p->blocks <= JOIN_BLOCKS || n <= JOIN_FACTOR * p->blocks) &&
	       birth == view_gen(r->op->view);
}

static int add_piece(struct replace *r, const struct extent_piece *p)
{
	struct disk_extent *d = disk(&r->val);
	uint32_t n = 0;

	if (can_join(r, p)) {
		n = le32_get(d->blocks);
		r->grown = true;
	} else {
		int err = flush_value(r);

		if (err)
			return err;
		*d = (struct disk_extent){
			.addr = le64_put(p->addr),
			.birth = le64_put(p->birth),
			.flags = p->lost ? FS_EXTENT_LOST : 0,
		};
		r->open = true;
		r->older = false;
		r->at = p->from;
	}
	d->blocks = le32_put(n + p->blocks);
	for (uint32_t i = 0; p->addr && i < p->blocks; i++)
		d->sums[n + i] = le32_put(p->sums[i]);
	return 0;
}

int extent_replace(struct op *op, struct inode *inode, uint64_t from, uint64_t to, const struct extent_piece *pieces,
		   size_t n)
{
	struct replace r;
	uint64_t added = 0;
	int err;

	if (from >= to)
		return 0;
	r.op = op;
	r.ino = inode->ino;
	r.from = from;
	r.to = to;
	r.removed = 0;
	r.n_inside = 0;
	r.cut_front = r.cut_back = r.have_front = false;
	r.open = r.older = r.grown = false;
	err = read_old(&r);
	if (!err)
		err = delete_many(&r);
	begin_with_front(&r);
	for (size_t i = 0; !err && i < n; i++) {
		assert(pieces[i].from >= from && pieces[i].from + (uint64_t)pieces[i].blocks * BLOCK_SIZE <= to);
		added += pieces[i].blocks;
		err = add_piece(&r, &pieces[i]);
	}
	if (!err)
		err = flush_value(&r);
	if (!err && r.cut_back)
		err = put_back(&r);
	if (!err)
		err = delete_few(&r);
	if (err)
		return err;
	/* Where the count was wrong already it must not turn into a huge one. */
	inode->blocks = (inode->blocks > r.removed ? inode->blocks - r.removed : 0) + added;
	return 0;
}

static int fill_hole(struct op *op, struct inode *inode, uint64_t from, uint64_t to)
{
	int err = 0;

	while (!err && from < to) {
		uint64_t blocks = (to - from) / BLOCK_SIZE;
		struct disk_extent d = { 0 };

		if (blocks > FS_CLAIM_BLOCKS_MAX)
			blocks = FS_CLAIM_BLOCKS_MAX;
		d.blocks = le32_put((uint32_t)blocks);
		err = batch_put(op->batch, extent_key(inode->ino, from), &d, sizeof(d));
		inode->blocks += blocks;
		from += blocks * BLOCK_SIZE;
	}
	return err;
}

int extent_fill(struct op *op, struct inode *inode, uint64_t from, uint64_t to)
{
	struct extent_walk *w = NULL;
	struct extent_map m;
	int err;

	err = extent_walk_open(op->view, inode->ino, from, to, &w);
	while (!err) {
		err = extent_walk_next(w, &m);
		if (!err && m.kind == EXTENT_HOLE)
			err = fill_hole(op, inode, m.from, m.to);
	}
	extent_walk_close(w);
	return err < 0 ? err : 0;
}

/*
 * repair_data.c - extents that overlap or reach too far, and data that does not verify
 *
 * Where extents overlap, each block goes to one of those that claim it: data before what is lost before promises, the
 * younger birth before the older. It is done for a few neighbours at a time, in one batch each: what of an item no better
 * one covers is put under its own key, and all old keys go. So the store sees which blocks are still referred to.
 *
 * Data that does not verify is not deleted: a hole would be zeros, and zeros are a wrong answer. The blocks become lost
 * content (FS_EXTENT_LOST), which says EIO for as long as nobody has written it anew; the rest of the extent stays.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/extent.h"
#include "fs/file_int.h"
#include "fs/orphan.h"
#include "fs/repair_int.h"

/* ---- overlaps ---- */

#define CLUSTER 16u
#define CLUSTERS_MAX 100000u

struct item {
	uint64_t from, to;
	union {
		struct disk_extent d;
		uint8_t bytes[sizeof(struct disk_extent) + FS_EXTENT_BLOCKS_MAX * sizeof(le32)];
	} val;
};

struct cluster {
	struct item at[CLUSTER + 1]; /* one more, to look ahead */
	unsigned n;
};

static unsigned kind_of(const struct item *i)
{
	return le64_get(i->val.d.addr) ? 2 : i->val.d.flags & FS_EXTENT_LOST ? 1 : 0;
}

/* Whether a's claim to a block is the better one. */
static bool is_better(const struct item *a, const struct item *b)
{
	uint64_t x = le64_get(a->val.d.birth), y = le64_get(b->val.d.birth);

	if (kind_of(a) != kind_of(b))
		return kind_of(a) > kind_of(b);
	return x != y ? x > y : a->from < b->from;
}

/* The next run of items that overlap, from byte `from` on: at least two, at most CLUSTER. n 0: there is none. */
static int find_cluster(struct repair *r, uint64_t ino, uint64_t from, struct cluster *c)
{
	uint64_t end = 0;
	const void *val;
	struct scan *s;
	struct key key;
	size_t len;
	int err = scan_open(r->view, key_make(ino, FS_ITEM_EXTENT, from), key_make(ino, FS_ITEM_EXTENT + 1, 0), &s);

	c->n = 0;
	while (!err && c->n < CLUSTER) {
		struct item *i = &c->at[c->n];

		err = scan_next(s, &key, &val, &len);
		if (err)
			break;
		memcpy(i->val.bytes, val, len);
		i->from = key.off;
		i->to = key.off + (uint64_t)le32_get(i->val.d.blocks) * BLOCK_SIZE;
		if (c->n && i->from >= end) {
			if (c->n > 1)
				break;
			c->at[0] = *i;
			c->n = 0;
		}
		c->n++;
		end = c->n == 1 || i->to > end ? c->at[c->n - 1].to : end;
	}
	scan_close(s);
	if (c->n < 2)
		c->n = 0;
	return err < 0 ? err : 0;
}

/* The part [from, to) of an item under its own key. */
static int put_part(struct edit *e, uint64_t ino, const struct item *i, uint64_t from, uint64_t to)
{
	struct item part = *i;
	struct disk_extent *d = &part.val.d;
	uint32_t skip = (uint32_t)((from - i->from) / BLOCK_SIZE), n = (uint32_t)((to - from) / BLOCK_SIZE);
	bool data = le64_get(d->addr);

	if (data) {
		d->addr = le64_put(le64_get(d->addr) + skip);
		memmove(d->sums, d->sums + skip, n * sizeof(le32));
	}
	d->blocks = le32_put(n);
	return batch_put(e->op.batch, key_make(ino, FS_ITEM_EXTENT, from), d,
			 sizeof(*d) + (data ? n * sizeof(le32) : 0));
}

/* Puts what of item k no better one covers; *sum: its blocks. */
static int put_rest(struct edit *e, uint64_t ino, const struct cluster *c, unsigned k, uint64_t *sum)
{
	const struct item *i = &c->at[k];
	uint64_t at = i->from;
	int err = 0;

	while (!err && at < i->to) {
		uint64_t covered = at, end = i->to;

		for (unsigned j = 0; j < c->n; j++) {
			const struct item *o = &c->at[j];

			if (j == k || !is_better(o, i))
				continue;
			if (o->from <= at && o->to > covered)
				covered = o->to;
			else if (o->from > at && o->from < end)
				end = o->from;
		}
		if (covered == at) {
			err = put_part(e, ino, i, at, end);
			*sum += (end - at) / BLOCK_SIZE;
			covered = end;
		}
		at = covered;
	}
	return err;
}

/* *ret_lost: data was cut away. */
static int resolve(struct repair *r, uint64_t ino, const struct cluster *c, bool *ret_lost)
{
	uint64_t before = 0, after = 0;
	struct inode *in;
	struct edit e;
	int err = edit_begin(r, &e);

	for (unsigned k = 0; !err && k < c->n; k++) {
		before += (c->at[k].to - c->at[k].from) / BLOCK_SIZE;
		err = batch_del(e.op.batch, key_make(ino, FS_ITEM_EXTENT, c->at[k].from));
	}
	for (unsigned k = 0; !err && k < c->n; k++) {
		uint64_t kept = 0;

		err = put_rest(&e, ino, c, k, &kept);
		after += kept;
		*ret_lost |= kind_of(&c->at[k]) == 2 && kept < le32_get(c->at[k].val.d.blocks);
	}
	if (!err)
		err = edit_inode(&e, ino, &in);
	if (!err)
		in->blocks -= in->blocks < before - after ? in->blocks : before - after;
	if (!err || err == -ESTALE)
		err = edit_commit(&e);
	edit_end(&e);
	return err;
}

int mend_extent_overlap(struct repair *r, const struct repair_report *p)
{
	struct cluster *c = mem_alloc(sizeof(*c));
	bool lost = false;
	unsigned n = 0;
	int err;

	if (!c)
		return -ENOMEM;
	err = find_cluster(r, p->ino, 0, c);
	if (err || !c->n || !repair_agree(r, p, "keep the younger of two that overlap, cut the other"))
		goto out;
	while (!err && c->n && n++ < CLUSTERS_MAX) {
		err = resolve(r, p->ino, c, &lost);
		if (!err)
			err = find_cluster(r, p->ino, c->at[0].from, c);
	}
	if (!err)
		repair_done(r, p, lost);
out:
	mem_free(c);
	return err;
}

/* ---- beyond the end ---- */

int mend_extent_beyond(struct repair *r, const struct repair_report *p)
{
	struct repair_facts f;
	struct inode in;
	uint64_t end;
	struct op op;
	int err;

	err = inode_load(r->view, p->ino, &in);
	if (!err)
		err = repair_facts(r, p->ino, &f);
	if (err)
		return err == -ESTALE ? 0 : err;
	end = file_block_up(in.size);
	if (!S_ISREG(in.mode) || f.end <= end || !repair_agree(r, p, "remove what lies beyond byte %" PRIu64, end))
		return 0;
	err = op_begin(r->fs, FS_ROOT, &op);
	if (!err)
		err = orphan_finish(&op, p->ino);
	if (!err)
		err = inode_load(r->view, p->ino, &in);
	if (!err)
		err = orphan_remove_range(&op, &in, end, UINT64_MAX);
	if (!err)
		repair_done(r, p, true);
	op_end(&op);
	return err;
}

/* ---- data ---- */

/* How many blocks from number `from` of the extent on do not verify. */
static int count_bad(struct repair *r, const struct extent_map *m, uint32_t from, uint32_t *ret)
{
	uint32_t n = (uint32_t)((m->to - m->from) / BLOCK_SIZE), i;
	unsigned cookie = view_read_begin(r->view);
	uint8_t *buf = mem_alloc_blocks(BLOCK_SIZE);
	int err = buf ? 0 : -ENOMEM;

	for (i = from; !err && i < n; i++) {
		err = view_read(r->view, m->addr + i, 1, buf, &m->sums[i]);
		if (!err)
			break;
		if (repair_is_damage(err))
			err = 0;
	}
	*ret = i - from;
	view_read_end(r->view, cookie);
	mem_free(buf);
	return err;
}

int mend_data_bad(struct repair *r, const struct repair_report *p)
{
	struct extent_piece piece = { .lost = true };
	struct extent_map m;
	struct inode *in;
	struct edit e;
	uint64_t to;
	int err = extent_at(r->view, p->ino, p->where, &m);

	if (err || m.kind != EXTENT_DATA)
		return err;
	piece.from = file_block(p->where);
	err = count_bad(r, &m, (uint32_t)((piece.from - m.from) / BLOCK_SIZE), &piece.blocks);
	if (err || !piece.blocks)
		return err;
	to = piece.from + (uint64_t)piece.blocks * BLOCK_SIZE;
	if (!repair_agree(r, p, "give up bytes %" PRIu64 " to %" PRIu64 ": reading them is an error from now on",
			  piece.from, to - 1))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, p->ino, &in);
	if (!err)
		err = extent_replace(&e.op, in, piece.from, to, &piece, 1);
	return edit_finish(&e, err, p, true);
}

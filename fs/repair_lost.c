/*
 * repair_lost.c - marks of what a rebuild has lost, and what they mean
 *
 * store_rebuild leaves a tree that is whole but lacks the items of some ranges of keys. To whoever reads it these look like holes
 * of files and like names that were never there. So the rebuild leaves a mark for each range (FS_ITEM_LOST), in the same
 * switch, nobody mounts a filesystem with a mark, and the repair draws the conclusions before the marks go:
 *
 *	content		inode.blocks says how many blocks all of its extents have. Where those that are there have fewer, each
 *			stretch of the file that no item covers, and that one with a lost key could have, becomes lost content
 *			(FS_EXTENT_LOST). A file without blocks had all its content in one item, and that is there or not.
 *	names		of a directory that has fewer than it says: what they referred to has no name now (problem 13).
 *	attributes	may be fewer: listed.
 *	inodes		that are gone while other items of them are not: made again (repair_inode.c), and what the marks cover of
 *			their content is lost content, too. Names of those that are gone wholly go (problem 4).
 *
 * The numbers in inodes are the only witness, so nothing else is mended while there are marks, and a mark goes only
 * when all that depends on it has been mended. A crash on the way leaves the marks, and what has been filled by then is
 * counted in the inode, so that what is missing still shows. (An inode that is made again counts nothing: it is put
 * behind its lost content.)
 *
 * How far a lost item may have reached: to the next one that is there, and no further than the longest item.
 *
 * A mark's number is a hash of its range: the same range is the same mark, whoever finds it again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/extent.h"
#include "fs/file_int.h"
#include "fs/repair_int.h"
#include "wal/rebuild.h"

#define FILL_ITEMS 128u
#define REACH ((uint64_t)FS_CLAIM_BLOCKS_MAX * BLOCK_SIZE)

/* ---- for store_rebuild and salvage_scan ---- */

static int put_mark(struct rebuild *rebuild, struct key from, struct key to)
{
	struct disk_lost d = {
		.from_obj = le64_put(from.obj),
		.from_off = le64_put(from.off),
		.to_obj = le64_put(to.obj),
		.to_off = le64_put(to.off),
	};
	uint64_t number = XXH3_64bits(&d, sizeof(d));

	return rebuild_put(rebuild, key_make(FS_ORPHAN_INO, FS_ITEM_LOST, number), &d, sizeof(d));
}

int fs_repair_lost(void *arg, struct rebuild *rebuild, const struct rebuild_lost *lost, size_t n)
{
	int err = 0;

	(void)arg;
	for (size_t i = 0; !err && i < n; i++)
		if (key_less(lost[i].from, lost[i].to))
			err = put_mark(rebuild, lost[i].from, lost[i].to);
	return err;
}

int fs_repair_salvaged(void *arg, struct rebuild *rebuild, const struct rebuild_lost *lost, size_t n)
{
	int err = fs_repair_lost(arg, rebuild, lost, n);

	return err ? err
		   : put_mark(rebuild, key_make(FS_ORPHAN_INO, FS_ITEM_VOLUME, 0), key_make(FS_INO_MAX + 1, 0, 0));
}

bool fs_repair_identify(void *arg, struct key key, const void *val, size_t len, struct super *s)
{
	const struct disk_volume *d = val;

	(void)arg;
	if (!key_equal(key, key_make(FS_ORPHAN_INO, FS_ITEM_VOLUME, 0)) || len != sizeof(*d))
		return false;
	memcpy(s->uuid, d->uuid, sizeof(s->uuid));
	memcpy(s->label, d->label, sizeof(d->label));
	s->label[sizeof(d->label)] = 0;
	memcpy(s->secret, d->secret, sizeof(s->secret));
	s->blocks = le64_get(d->blocks);
	s->log_start = le64_get(d->log_start);
	s->log_blocks = le64_get(d->log_blocks);
	s->incompat = le64_get(d->incompat);
	s->created = le64_get(d->created);
	return true;
}

/* ---- the marks ---- */

static int gap_cmp(const void *pa, const void *pb)
{
	const struct check_gap *a = pa, *b = pb;

	return key_cmp(a->from, b->from);
}

int repair_read_gaps(struct repair *r)
{
	const struct disk_lost *d;
	struct scan *s;
	struct key key;
	size_t len;
	int err = scan_open(r->view, key_make(FS_ORPHAN_INO, FS_ITEM_LOST, 0),
			    key_make(FS_ORPHAN_INO, FS_ITEM_LOST + 1, 0), &s);

	r->n_gaps = 0;
	while (!err) {
		err = scan_next(s, &key, (const void **)&d, &len);
		if (!err)
			err = mem_grow((void **)&r->gaps, &r->cap_gaps, r->n_gaps + 1, sizeof(*r->gaps));
		if (!err)
			r->gaps[r->n_gaps++] = (struct check_gap){
				.from = { le64_get(d->from_obj), le64_get(d->from_off) },
				.to = { le64_get(d->to_obj), le64_get(d->to_off) },
				.number = key.off,
			};
	}
	scan_close(s);
	if (r->n_gaps)
		qsort(r->gaps, r->n_gaps, sizeof(*r->gaps), gap_cmp);
	return err < 0 ? err : 0;
}

bool repair_in_gap(const struct repair *r, struct key key)
{
	for (size_t i = 0; i < r->n_gaps; i++)
		if (!key_less(key, r->gaps[i].from) && key_less(key, r->gaps[i].to))
			return true;
	return false;
}

/* ---- content ---- */

/* The bytes of the file that an item with a lost key may have covered. from >= to: none. */
static int reach_of(struct repair *r, const struct check_gap *g, uint64_t ino, uint64_t *ret_from, uint64_t *ret_to)
{
	struct key first = key_make(ino, FS_ITEM_EXTENT, 0), behind = key_make(ino, FS_ITEM_EXTENT + 1, 0), key;
	struct scan *s;
	const void *val;
	size_t len;
	int err;

	*ret_from = *ret_to = 0;
	if (!key_less(g->from, behind) || !key_less(first, g->to))
		return 0;
	if (key_less(first, g->from))
		*ret_from = file_block_up(g->from.off);
	*ret_to = UINT64_MAX;
	if (!key_less(g->to, behind))
		return 0;
	err = scan_open(r->view, g->to, behind, &s);
	if (err)
		return err;
	err = scan_next(s, &key, &val, &len);
	if (!err)
		*ret_to = key.off;
	scan_close(s);
	if (err >= 0 && g->to.off<UINT64_MAX - REACH && * ret_to> g->to.off + REACH)
		*ret_to = g->to.off + REACH;
	return err < 0 ? err : 0;
}

struct fill {
	struct repair *r;
	const struct repair_report *p;
	uint64_t ino;
	uint64_t told_from, told_to; /* a range to be told, once it does not go on */
	uint64_t blocks;
	struct edit e;
	unsigned n;
};

static void fill_tell(struct fill *f)
{
	if (f->told_from < f->told_to)
		repair_note(f->r, f->p, true,
			    "bytes %" PRIu64 " to %" PRIu64 " are lost: reading them is an error from now on",
			    f->told_from, f->told_to - 1);
	f->told_from = f->told_to = 0;
}

static int fill_commit(struct fill *f, uint64_t blocks)
{
	struct inode *in;
	int err = edit_inode(&f->e, f->ino, &in);

	if (!err)
		in->blocks += blocks;
	if (!err || err == -ESTALE)
		err = edit_commit(&f->e);
	if (!err)
		f->blocks += blocks;
	return err;
}

/* One batch: holes in [*from, to), of which *from is what is left. */
static int fill_some(struct fill *f, uint64_t *from, uint64_t to)
{
	struct extent_walk *w = NULL;
	uint64_t blocks = 0;
	struct extent_map m;
	unsigned n = 0;
	int err;

	err = extent_walk_open(f->r->view, f->ino, *from, to, &w);
	while (!err && n < FILL_ITEMS) {
		err = extent_walk_next(w, &m);
		if (err)
			break;
		*from = m.to;
		if (m.kind != EXTENT_HOLE)
			continue;
		if (f->told_to != m.from)
			fill_tell(f);
		f->told_from = f->told_to == m.from ? f->told_from : m.from;
		f->told_to = m.to;
		for (uint64_t at = m.from; !err && at < m.to; n++) {
			uint64_t left = (m.to - at) / BLOCK_SIZE;
			struct disk_extent d = { .flags = FS_EXTENT_LOST };

			left = left < FS_CLAIM_BLOCKS_MAX ? left : FS_CLAIM_BLOCKS_MAX;
			d.blocks = le32_put((uint32_t)left);
			err = batch_put(f->e.op.batch, key_make(f->ino, FS_ITEM_EXTENT, at), &d, sizeof(d));
			blocks += left;
			at += left * BLOCK_SIZE;
		}
	}
	extent_walk_close(w);
	if (err > 0)
		*from = to;
	if (err >= 0)
		err = blocks ? fill_commit(f, blocks) : 0;
	return err;
}

int repair_fill_gaps(struct repair *r, const struct repair_report *p, uint64_t ino, uint64_t end, uint64_t *ret_blocks)
{
	struct fill f = { .r = r, .p = p, .ino = ino };
	int err = 0;

	end = file_block_up(end);
	for (size_t i = 0; !err && i < r->n_gaps; i++) {
		uint64_t from, to;

		err = reach_of(r, &r->gaps[i], ino, &from, &to);
		if (err)
			break;
		to = to < end ? to : end;
		if (from >= to)
			continue;
		err = edit_begin(r, &f.e);
		while (!err && from < to)
			err = fill_some(&f, &from, to);
		edit_end(&f.e);
	}
	fill_tell(&f);
	*ret_blocks = f.blocks;
	return err;
}

/* Its number of blocks is what is there now. */
static int settle_blocks(struct repair *r, uint64_t ino)
{
	struct repair_facts f;
	struct inode *in;
	struct edit e;
	int err = repair_facts(r, ino, &f);

	if (err)
		return err;
	err = edit_begin(r, &e);
	if (!err)
		err = edit_inode(&e, ino, &in);
	if (!err && in->blocks != f.blocks) {
		in->blocks = f.blocks;
		err = edit_commit(&e);
	}
	edit_end(&e);
	return err;
}

int mend_content_lost(struct repair *r, const struct repair_report *p)
{
	uint64_t blocks;
	struct inode in;
	int err = inode_load(r->view, p->ino, &in);

	if (err)
		return err == -ESTALE ? 0 : err;
	if (!S_ISREG(in.mode) || !repair_agree(r, p, "give up what is missing: reading it is an error from now on"))
		return 0;
	err = repair_fill_gaps(r, p, p->ino, in.size, &blocks);
	if (!err)
		err = settle_blocks(r, p->ino);
	if (!err)
		repair_done(r, p, true);
	return err;
}

/* ---- the end of it ---- */

int mend_lost_mark(struct repair *r, const struct repair_report *p)
{
	struct key volume = key_make(FS_ORPHAN_INO, FS_ITEM_VOLUME, 0);
	bool all = false;
	struct edit e;
	size_t len;
	int err;

	for (size_t i = 0; i < r->n_gaps; i++)
		all |= r->gaps[i].number == p->where && check_gap_is_all(&r->gaps[i]);
	/* Whoever has agreed to a salvage need not hear of the mark over everything. */
	if (r->gaps_stay || (!all && !repair_agree(r, p, "delete the mark, all that follows from it is mended")))
		return 0;
	err = edit_begin(r, &e);
	if (!err)
		err = batch_del(e.op.batch, key_make(FS_ORPHAN_INO, FS_ITEM_LOST, p->where));
	if (!err && repair_in_gap(r, volume)) {
		err = view_get(r->view, volume, NULL, 0, &len);
		if (err == -ENOENT)
			err = volume_put(r->fs->store, e.op.batch);
	}
	if (!err)
		err = edit_commit(&e);
	if (!err && all)
		r->result.mended++;
	else if (!err)
		repair_done(r, p, false);
	edit_end(&e);
	return err;
}

/* Names and attributes: nothing can be done but to tell; it is not a problem any more when the marks are gone. */
int mend_gone(struct repair *r, const struct repair_report *p)
{
	if (r->gaps_stay)
		return 0;
	snprintf(r->action, sizeof(r->action), "%s",
		 p->problem == FS_PROBLEM_NAMES_LOST ? "they are gone" : "those that are gone are gone");
	repair_done(r, p, true);
	return 0;
}

/*
 * file_space.c - fallocate, and finding out where a file has holes
 *
 * Space is promised by claims: extent items without an address (extent.h). They count against the free blocks, so a write
 * into them cannot run out of space, but no block is chosen until there is something to put there, and a claim of any
 * length is one item.
 *
 *	reserve	puts claims into the holes of a range and leaves alone what is there
 *	punch	takes out the whole blocks of a range; of a block at its ends, it writes zeros over the part
 *	zero	the same, but with claims in the place of what was taken out
 *
 * A block at an end is written anew in the same replacement as the whole blocks (extent_block.h), so each of the three is
 * one batch as long as the range has no more than ORPHAN_STEP_ITEMS items. What has more goes in steps of that many: reserve
 * and zero range by range, each of which a crash leaves done or not done, and the size with the last; punch by
 * orphan_remove_range, which a crash does not cut in half, behind a batch for the ends.
 *
 * Invariant of file.h: behind the size, the rest of the last block is zeros. So a range that reaches the size may take
 * the last block whole.
 *
 * Rejected: allocating blocks at fallocate and marking them unwritten, as filesystems with overwriting do. Addresses are
 * written once, so a promised address is worth nothing that a number does not give.
 */
#include <linux/falloc.h>
#include <linux/fs.h>
#undef BLOCK_SIZE

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/extent_block.h"
#include "fs/file_int.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "fs/xattr.h"

/* A claim of the whole file is FS_SIZE_MAX / FS_CLAIM_BLOCKS_MAX items; and a block at each end. */
#define PIECES_MAX ((FS_SIZE_MAX >> BLOCK_SHIFT) / FS_CLAIM_BLOCKS_MAX + 3)

/* One replacement in the making. */
struct change {
	struct extent_block ends[2];
	unsigned n_ends;
	struct extent_piece pieces[PIECES_MAX];
	size_t n;
};

static void change_release(struct change *c)
{
	while (c->n_ends)
		extent_block_release(&c->ends[--c->n_ends]);
}

static void add_claims(struct change *c, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t blocks = (to - from) >> BLOCK_SHIFT;

		if (blocks > FS_CLAIM_BLOCKS_MAX)
			blocks = FS_CLAIM_BLOCKS_MAX;
		assert(c->n < PIECES_MAX);
		c->pieces[c->n++] = (struct extent_piece){ .from = from, .blocks = (uint32_t)blocks };
		from += blocks << BLOCK_SHIFT;
	}
}

/*
 * The block at `off` is to read as zeros in [from, to), a part of it. Puts a piece if that takes one, and *ret_piece says
 * so: a block that reads as zeros already stays what it is, but for a hole that is to be a claim.
 */
static int add_end(struct op *op, struct change *c, uint64_t ino, uint64_t from, uint64_t to, bool claim,
		   bool *ret_piece)
{
	struct extent_block *b = &c->ends[c->n_ends];
	uint64_t off = file_block(from);
	int err;

	*ret_piece = false;
	err = extent_block_read(op->view, ino, off, b);
	if (err)
		return err;
	c->n_ends++;
	if (b->kind == EXTENT_HOLE && claim)
		add_claims(c, off, off + BLOCK_SIZE);
	else if (b->kind != EXTENT_DATA)
		return 0;
	else {
		memset(b->bytes + (from - off), 0, to - from);
		err = extent_block_put(op, b, &c->pieces[c->n]);
		if (err)
			return err;
		c->n++;
	}
	*ret_piece = true;
	return 0;
}

/* A range of bytes [off, end) and the whole blocks in it, [from, to); from > to: it is a part of one block. */
struct cut {
	uint64_t off, from, to, end;
};

static struct cut cut_range(uint64_t off, uint64_t end, uint64_t size)
{
	/* Behind the size there is nothing to keep in its block. */
	if (end >= size && end < file_block_up(size))
		end = file_block_up(size);
	return (struct cut){ off, file_block_up(off), file_block(end), end };
}

/* Everything of the cut in one replacement; the whole blocks become claims or holes. The batch is not committed. */
static int replace_cut(struct op *op, struct inode *ino, const struct cut *cut, bool claim, struct change *c)
{
	uint64_t from = cut->from, to = cut->from < cut->to ? cut->to : cut->from;
	bool piece;
	int err = 0;

	c->n = 0;
	if (cut->off < cut->from) {
		uint64_t end = cut->end < cut->from ? cut->end : cut->from;

		err = add_end(op, c, ino->ino, cut->off, end, claim, &piece);
		if (!err && piece)
			from = file_block(cut->off);
	}
	if (!err && claim)
		add_claims(c, cut->from, cut->to);
	if (!err && cut->from <= cut->to && cut->to < cut->end) {
		err = add_end(op, c, ino->ino, cut->to, cut->end, claim, &piece);
		if (!err && piece)
			to = cut->to + BLOCK_SIZE;
	}
	if (!err)
		err = extent_replace(op, ino, from, to, c->pieces, c->n);
	return err;
}

/* ---- what is common to all changes ---- */

/* Times and privileges: as any change of content. */
static int touch(struct op *op, struct inode *ino)
{
	inode_touch(ino, &op->now);
	inode_kill_priv(ino);
	return xattr_kill_caps(op, ino);
}

static int finish(struct op *op, struct inode *ino)
{
	int err = touch(op, ino);

	if (!err)
		err = inode_put(op->batch, ino);
	return err ? err : op_commit(op);
}

static void grow(struct inode *ino, int mode, uint64_t end)
{
	if (!(mode & FALLOC_FL_KEEP_SIZE) && ino->size < end)
		ino->size = end;
}

/* ---- the three ---- */

/*
 * A few items at a time. Between two batches the lock stays, so only a crash, or no room for the rest, shows that there
 * were several.
 */
static int reserve(struct op *op, struct inode *ino, int mode, uint64_t off, uint64_t end)
{
	uint64_t from = file_block(off), to = file_block_up(end), step;
	int err;

	do {
		err = extent_bound(op->view, ino->ino, from, to, ORPHAN_STEP_ITEMS, &step);
		if (!err)
			err = extent_fill(op, ino, from, step);
		if (!err && step == to)
			grow(ino, mode, end);
		if (!err)
			err = finish(op, ino);
		from = step;
	} while (!err && from < to);
	return err;
}

static int zero(struct op *op, struct inode *ino, int mode, uint64_t off, uint64_t end, struct change *c)
{
	uint64_t size = ino->size;
	int err = 0;

	while (!err && off < end) {
		struct cut cut;
		uint64_t step;

		err = extent_bound(op->view, ino->ino, file_block(off), file_block_up(end), ORPHAN_STEP_ITEMS, &step);
		if (err)
			break;
		if (step > end)
			step = end;
		cut = cut_range(off, step, size);
		err = replace_cut(op, ino, &cut, true, c);
		if (!err && step == end)
			grow(ino, mode, end);
		if (!err)
			err = finish(op, ino);
		change_release(c);
		off = step;
	}
	return err;
}

static int punch(struct op *op, struct inode *ino, uint64_t off, uint64_t end, struct change *c)
{
	struct cut cut = cut_range(off, end, ino->size);
	uint64_t step = cut.to;
	int err = 0;

	batch_releases(op->batch);
	if (cut.from < cut.to)
		err = extent_bound(op->view, ino->ino, cut.from, cut.to, ORPHAN_STEP_ITEMS, &step);
	if (!err && step == cut.to) {
		err = replace_cut(op, ino, &cut, false, c);
		return err ? err : finish(op, ino);
	}
	/* Large: the ends, each in a replacement of its own, then the middle, which is never seen half done. */
	if (!err && cut.off < cut.from) {
		err = replace_cut(op, ino, &(struct cut){ cut.off, cut.from, cut.from, cut.from }, false, c);
		if (!err)
			err = finish(op, ino);
		change_release(c);
	}
	if (!err && cut.to < cut.end) {
		batch_releases(op->batch);
		err = replace_cut(op, ino, &(struct cut){ cut.to, cut.to, cut.to, cut.end }, false, c);
		if (!err)
			err = finish(op, ino);
	}
	if (!err)
		err = touch(op, ino);
	return err ? err : orphan_remove_range(op, ino, cut.from, cut.to);
}

/* Inline data has no blocks to take out: the item is put again with zeros in it. A file without any is a hole already. */
static int punch_inline(struct op *op, struct inode *ino, uint64_t off, uint64_t end)
{
	uint8_t *buf = mem_alloc(BLOCK_SIZE);
	size_t len;
	int err;

	if (!buf)
		return -ENOMEM;
	batch_releases(op->batch);
	err = file_inline(op->view, ino, buf, &len);
	if (!err && off < len) {
		memset(buf + off, 0, (end < len ? end : len) - off);
		err = batch_put(op->batch, file_inline_key(ino->ino), buf, len);
	}
	mem_free(buf);
	return err ? err : finish(op, ino);
}

/* ---- fallocate ---- */

static int check_mode(int mode)
{
	switch (mode) {
	case 0:
	case FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_ZERO_RANGE:
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int check_inode(const struct inode *ino, int mode)
{
	if (ino->flags & FS_IMMUTABLE_FL || (ino->flags & FS_APPEND_FL && mode & ~FALLOC_FL_KEEP_SIZE))
		return -EPERM;
	if (S_ISREG(ino->mode))
		return 0;
	return S_ISDIR(ino->mode) ? -EISDIR : S_ISFIFO(ino->mode) ? -ESPIPE : -ENODEV;
}

static int fallocate_once(struct fs *fs, uint64_t node, int mode, uint64_t off, uint64_t end)
{
	uint64_t n = node_ino(node);
	struct change *c = mem_zalloc(sizeof(*c));
	struct inode ino;
	struct op op;
	int err;

	if (!c)
		return -ENOMEM;
	err = op_begin(fs, node, &op);
	if (err)
		goto out;
	op_lock(&op, &n, 1);
	err = inode_load(op.view, n, &ino);
	if (!err)
		err = check_inode(&ino, mode);
	if (!err)
		err = orphan_finish(&op, n);
	if (!err)
		err = inode_load(op.view, n, &ino);
	if (err)
		goto out;
	if (mode & FALLOC_FL_PUNCH_HOLE) {
		err = ino.blocks ? punch(&op, &ino, off, end, c) : punch_inline(&op, &ino, off, end);
		goto out;
	}
	err = file_uninline(&op, &ino);
	if (!err && mode & FALLOC_FL_ZERO_RANGE)
		err = zero(&op, &ino, mode, off, end, c);
	else if (!err)
		err = reserve(&op, &ino, mode, off, end);
out:
	op_end(&op);
	change_release(c);
	mem_free(c);
	return err;
}

int fs_fallocate(struct fs *fs, uint64_t node, int mode, uint64_t off, uint64_t len)
{
	unsigned tries = 0;
	int err;

	if (!len)
		return -EINVAL;
	err = check_mode(mode);
	if (err)
		return err;
	if (off >= FS_SIZE_MAX || len > FS_SIZE_MAX - off)
		return -EFBIG;
	do
		err = fallocate_once(fs, node, mode, off, off + len);
	while (op_retry(fs, err, &tries));
	return err;
}

/* ---- holes ---- */

struct seek {
	uint64_t off;
	bool data; /* what is looked for */
	bool found;
};

static void look_at(struct seek *s, uint64_t from, uint64_t to, bool data)
{
	if (s->found || from >= to || to <= s->off || data != s->data)
		return;
	s->found = true;
	if (s->off < from)
		s->off = from;
}

/* What has been removed but is still there (orphan.h) is a hole already. What is lost is data: a hole would be zeros. */
static void look_around(struct seek *s, const struct extent_map *m, uint64_t from, uint64_t to)
{
	bool data = m->kind == EXTENT_DATA || m->kind == EXTENT_LOST;

	if (!data || from >= to || m->to <= from || to <= m->from) {
		look_at(s, m->from, m->to, data);
		return;
	}
	look_at(s, m->from, from, true);
	look_at(s, m->from > from ? m->from : from, m->to < to ? m->to : to, false);
	look_at(s, to, m->to, true);
}

static int seek_extents(struct op *op, const struct inode *ino, struct seek *s)
{
	struct extent_walk *w = NULL;
	uint64_t from = 0, to = 0;
	struct extent_map m;
	int err;

	orphan_pending(op->fs, ino->ino, &from, &to);
	err = extent_walk_open(op->view, ino->ino, file_block(s->off), file_block_up(ino->size), &w);
	while (!err && !s->found) {
		err = extent_walk_next(w, &m);
		if (!err)
			look_around(s, &m, from, to);
	}
	extent_walk_close(w);
	return err < 0 ? err : 0;
}

static int seek_inline(struct op *op, const struct inode *ino, struct seek *s)
{
	uint8_t *buf = mem_alloc(BLOCK_SIZE);
	size_t len;
	int err;

	if (!buf)
		return -ENOMEM;
	err = file_inline(op->view, ino, buf, &len);
	mem_free(buf);
	if (err)
		return err;
	/* Its block is data, whole, as it will be once it is in an extent. */
	look_at(s, 0, len ? BLOCK_SIZE : 0, true);
	look_at(s, len ? BLOCK_SIZE : 0, UINT64_MAX, false);
	return 0;
}

int fs_seek(struct fs *fs, uint64_t node, uint64_t off, int whence, uint64_t *ret_off)
{
	struct seek s = { .off = off, .data = whence == SEEK_DATA };
	struct inode ino;
	struct op op;
	int err;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	err = op_begin_read(fs, node, &op);
	if (err)
		return err;
	op_lock_shared(&op, node_ino(node));
	err = inode_load(op.view, node_ino(node), &ino);
	if (!err && !S_ISREG(ino.mode))
		err = S_ISDIR(ino.mode) ? -EISDIR : -EINVAL;
	if (!err && off >= ino.size)
		err = -ENXIO;
	if (!err)
		err = ino.blocks ? seek_extents(&op, &ino, &s) : seek_inline(&op, &ino, &s);
	op_end(&op);
	if (err)
		return err;
	if (!s.found || s.off >= ino.size) {
		if (s.data)
			return -ENXIO;
		s.off = ino.size; /* behind the end there is always a hole */
	}
	*ret_off = s.off;
	return 0;
}

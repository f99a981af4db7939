/*
 * file.c - a regular file's content: reading it, and changing its size
 *
 * Small content is one inline item, a part of the leaf that has the inode as well; larger content is in extents of whole blocks.
 * A file has one or the other: inline only while it has no block at all, which inode.blocks tells without a search.
 *
 * Invariants
 *
 * 1. What lies behind the file's end in its last block is zero on the device. Writing fills up with zeros, and cutting a file
 *    inside a block writes that block anew. So growing a file is changing a number.
 * 2. No item holds data behind the end's block; promises (fallocate with keep-size) may lie there, until the next truncation.
 * 3. What a truncation has cut off but not removed yet (orphan.h) reads as zeros; it is removed before anything is written.
 * 4. What is lost (FS_EXTENT_LOST) is never taken for zeros: reading it fails, a block of it can only be replaced whole. A file
 *    cut inside a lost block keeps that block as it is, so what is behind the end there is unknown, not zero, should it grow.
 *
 * Reading walks the items and joins what lies side by side on the device, so that a file written in small pieces is read in
 * large ones. Checksums are verified below, block by block; where one does not fit the whole read fails: the bytes in front of
 * it cannot be returned without the kernel taking the short answer for the end of the file.
 */
#include <linux/fs.h>
#undef BLOCK_SIZE
#include <string.h>

#include "fs/file.h"
#include "fs/file_int.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"

int file_may_write(const struct inode *i, bool append)
{
	if (!S_ISREG(i->mode))
		return S_ISDIR(i->mode) ? -EISDIR : -EINVAL;
	if (i->flags & FS_IMMUTABLE_FL || (i->flags & FS_APPEND_FL && !append))
		return -EPERM;
	return 0;
}

int file_inline(struct view *v, const struct inode *i, void *buf, size_t *ret_len)
{
	size_t len = 0;
	int err;

	if (!i->blocks && i->size) {
		err = view_get(v, file_inline_key(i->ino), buf, BLOCK_SIZE, &len);
		if (err && err != -ENOENT)
			return err;
		if (err)
			len = 0;
		if (len > BLOCK_SIZE)
			return corrupt("inline data", i->ino, "length", len, BLOCK_SIZE);
	}
	*ret_len = len < i->size ? len : (size_t)i->size;
	return 0;
}

/* ---- reading ---- */

/* Blocks of the device one behind the other that are one behind the other in the file, too. What is removed reads as zeros. */
struct gather {
	struct view *view;
	uint8_t *buf; /* for the file from `base` on */
	uint64_t base, at;
	uint64_t removed_from, removed_to;
	uint64_t addr;
	uint32_t blocks;
	uint32_t sums[FS_IO_MAX / BLOCK_SIZE + 1];
};

static int gather_read(struct gather *g)
{
	uint32_t n = g->blocks;

	g->blocks = 0;
	return n ? view_read(g->view, g->addr, n, g->buf + (g->at - g->base), g->sums) : 0;
}

static int gather_add(struct gather *g, const struct extent_map *m)
{
	uint32_t n = (uint32_t)((m->to - m->from) / BLOCK_SIZE);
	int err = 0;

	if (m->kind == EXTENT_LOST && (m->from < g->removed_from || m->to > g->removed_to))
		return -EIO;
	if (m->kind != EXTENT_DATA) {
		memset(g->buf + (m->from - g->base), 0, m->to - m->from);
		return 0;
	}
	if (g->blocks && (g->addr + g->blocks != m->addr || g->at + (uint64_t)g->blocks * BLOCK_SIZE != m->from))
		err = gather_read(g);
	if (!g->blocks) {
		g->addr = m->addr;
		g->at = m->from;
	}
	memcpy(g->sums + g->blocks, m->sums, n * sizeof(*m->sums));
	g->blocks += n;
	return err;
}

static void hide_removed(const struct gather *g, uint64_t to)
{
	uint64_t a = g->removed_from > g->base ? g->removed_from : g->base, b = g->removed_to < to ? g->removed_to : to;

	if (a < b)
		memset(g->buf + (a - g->base), 0, b - a);
}

/* from and to are whole blocks. */
static int read_extents(struct fs *fs, struct view *v, uint64_t ino, uint64_t from, uint64_t to, uint8_t *buf)
{
	struct gather g;
	struct extent_walk *w = NULL;
	struct extent_map m;
	unsigned cookie;
	int err;

	g.view = v;
	g.buf = buf;
	g.base = from;
	g.blocks = 0;
	g.removed_from = g.removed_to = 0;
	(void)orphan_pending(fs, ino, &g.removed_from, &g.removed_to);
	cookie = view_read_begin(v);
	err = extent_walk_open(v, ino, from, to, &w);
	while (!err) {
		err = extent_walk_next(w, &m);
		if (!err)
			err = gather_add(&g, &m);
	}
	if (err > 0) /* the end */
		err = gather_read(&g);
	if (!err)
		hide_removed(&g, to);
	extent_walk_close(w);
	view_read_end(v, cookie);
	return err;
}

/* n bytes at `off`, all of them in front of the end. Inline data is shorter than a block; behind it all is zero. */
static int read_inline(struct view *v, const struct inode *i, uint64_t off, size_t n, uint8_t *buf,
		       const void **ret_data)
{
	size_t len;
	int err = file_inline(v, i, buf, &len);

	if (err)
		return err;
	if (off >= len) {
		off = 0;
		len = 0;
	}
	if (off + n > len)
		memset(buf + len, 0, off + n - len);
	*ret_data = buf + off;
	return 0;
}

int file_read(struct op *op, const struct inode *i, uint64_t off, size_t size, void *buf, const void **ret_data,
	      size_t *ret_len)
{
	uint64_t from = file_block(off), to;
	size_t n;
	int err;

	if (size > FS_IO_MAX)
		size = FS_IO_MAX;
	if (off >= i->size || !size) {
		*ret_data = buf;
		*ret_len = 0;
		return 0;
	}
	n = size < i->size - off ? size : (size_t)(i->size - off);
	if (!i->blocks) {
		err = read_inline(op->view, i, off, n, buf, ret_data);
	} else {
		to = file_block_up(off + n);
		err = read_extents(op->fs, op->view, i->ino, from, to, buf);
		if (err)
			return err;
		*ret_data = (uint8_t *)buf + (off - from);
	}
	if (!err)
		*ret_len = n;
	return err;
}

int file_read_block(struct op *op, const struct inode *i, uint64_t at, void *block)
{
	struct extent_map m;
	unsigned cookie;
	int err;

	if (at >= i->size) {
		memset(block, 0, BLOCK_SIZE);
		return 0;
	}
	cookie = view_read_begin(op->view);
	err = extent_at(op->view, i->ino, at, &m);
	if (!err && m.kind == EXTENT_DATA) {
		uint64_t n = (at - m.from) / BLOCK_SIZE;

		err = view_read(op->view, m.addr + n, 1, block, &m.sums[n]);
	} else if (!err && m.kind == EXTENT_LOST) {
		err = -ENODATA;
	} else if (!err) {
		memset(block, 0, BLOCK_SIZE);
	}
	view_read_end(op->view, cookie);
	if (!err && i->size - at < BLOCK_SIZE)
		memset((uint8_t *)block + (i->size - at), 0, BLOCK_SIZE - (i->size - at));
	return err;
}

/* ---- size ---- */

static int cut_inline(struct op *op, const struct inode *i, uint64_t size)
{
	uint8_t buf[BLOCK_SIZE];
	size_t len;
	int err = file_inline(op->view, i, buf, &len);

	if (err || len <= size)
		return err;
	return size ? batch_put(op->batch, file_inline_key(i->ino), buf, size)
		    : batch_del(op->batch, file_inline_key(i->ino));
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* Zeros behind the new end in its block: a piece that replaces the block, or none (*ret_n) where there is nothing to do. */
static int cut_block(struct op *op, const struct inode *i, uint64_t size, struct extent_piece *ret, uint32_t *ret_sum,
		     size_t *ret_n)
{
	uint64_t at = file_block(size);
	size_t keep = size - at;
	struct extent x;
	uint8_t *block = mem_alloc_blocks(BLOCK_SIZE);
	int err;

	if (!block)
		return -ENOMEM;
	err = file_read_block(op, i, at, block);
	if (err == -ENODATA) { /* it stays lost, whole */
		mem_free(block);
		*ret_n = 0;
		return 0;
	}
	if (err || all_zero(block + keep, BLOCK_SIZE - keep)) {
		mem_free(block);
		*ret_n = 0;
		return err;
	}
	memset(block + keep, 0, BLOCK_SIZE - keep);
	*ret_sum = data_checksum(block);
	err = batch_alloc(op->batch, 1, false, &x);
	if (err) {
		mem_free(block);
		return err;
	}
	*ret = (struct extent_piece){ .from = at, .blocks = 1, .addr = x.addr, .sums = ret_sum };
	*ret_n = 1;
	return batch_data(op->batch, x.addr, 1, block, ret_sum);
}

int file_truncate(struct op *op, struct inode *i, uint64_t size)
{
	struct extent_piece piece;
	uint64_t old = i->size;
	uint32_t sum;
	size_t n = 0;
	int err = 0;

	if (size > FS_SIZE_MAX)
		return -EFBIG;
	if (size <= old)
		batch_releases(op->batch);
	/* Growing leaves alone what was promised behind the end. */
	if (!i->blocks || size > old) {
		if (size < old)
			err = cut_inline(op, i, size);
		i->size = size;
		if (!err)
			err = inode_put(op->batch, i);
		return err ? err : op_commit(op);
	}
	if (size < old && size % BLOCK_SIZE)
		err = cut_block(op, i, size, &piece, &sum, &n);
	if (err)
		return err;
	i->size = size;
	return orphan_replace_range(op, i, n ? piece.from : file_block_up(size), UINT64_MAX, &piece, n);
}

int file_uninline(struct op *op, struct inode *i)
{
	uint8_t *block = mem_alloc_blocks(BLOCK_SIZE);
	struct extent_piece piece = { .blocks = 1 };
	struct inode now = *i;
	struct extent x;
	uint32_t sum;
	size_t len;
	int err;

	if (!block)
		return -ENOMEM;
	err = file_inline(op->view, i, block, &len);
	if (!err && len)
		err = batch_alloc(op->batch, 1, false, &x);
	if (err || !len) {
		mem_free(block);
		return err;
	}
	memset(block + len, 0, BLOCK_SIZE - len);
	sum = data_checksum(block);
	err = batch_data(op->batch, x.addr, 1, block, &sum);
	if (!err)
		err = batch_del(op->batch, file_inline_key(i->ino));
	piece.addr = x.addr;
	piece.sums = &sum;
	if (!err)
		err = extent_replace(op, &now, 0, BLOCK_SIZE, &piece, 1);
	if (!err)
		err = inode_put(op->batch, &now);
	if (!err)
		err = op_commit(op);
	return err ? err : inode_load(op->view, i->ino, i);
}

/*
 * file_copy.c - copy_file_range: sharing blocks between files
 *
 * Where both offsets have the same place in their blocks, whole blocks are shared: the destination gets pieces with the
 * source's addresses, births and checksums, and the store counts. Nothing is read or written but items, so a copy of any
 * size takes no space for data. Blocks are never changed in place, so neither file can see what becomes of the other.
 *
 *	source		|....XXXX|XXXXXXXX|XXXXXXXX|XX......|
 *			 first	  shared   shared   last
 *	destination	|....XXXX|XXXXXXXX|XXXXXXXX|XX......|
 *
 * A block at an end, of which only a part is copied, is made up from both files and written; with the shared ones it is one
 * replacement, so one batch. The source's last block is shared too when nothing of the destination lies behind it: by the
 * invariant of file.h the rest of it is zeros.
 *
 * Holes are copied as holes, and so are claims: room that was promised to the source is not promised twice. Content that is
 * lost cannot be copied: EIO, as for whoever reads it.
 *
 * Each call is one batch, bounded by COPY_ITEMS items on either side, and by FS_IO_MAX where bytes have to be copied (the
 * offsets do not fit, or the source is inline). A call that meets a bound returns how far it got, as copy_file_range may;
 * every caller of it has a loop.
 *
 * Rejected: sharing between offsets that differ within a block. Checksums and addresses are by block, so it would need
 * references with a shift, for a case that nobody has.
 */
#include <linux/fs.h>
#undef BLOCK_SIZE

#include <string.h>
#include <sys/stat.h>

#include "fs/extent_block.h"
#include "fs/file_int.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "fs/xattr.h"

#define COPY_ITEMS ORPHAN_STEP_ITEMS
#define COPY_ITEMS_MIN 8u

/* One call. */
struct copy {
	struct op op;
	uint64_t from, to, len; /* bytes */
	struct inode src, dst;	/* src is not used where both are one */
	bool same;
	unsigned items; /* how many to replace, and to put, at most */

	/* The replacement. */
	struct extent_piece *pieces;
	size_t n, cap;
	uint32_t *sums; /* of the pieces that are shared; until all are there, a piece's are only counted */
	size_t n_sums, cap_sums;
	struct extent_block ends[2];
	unsigned n_ends;
};

static void copy_release(struct copy *c)
{
	while (c->n_ends)
		extent_block_release(&c->ends[--c->n_ends]);
	mem_free(c->pieces);
	mem_free(c->sums);
	c->pieces = NULL;
	c->sums = NULL;
	c->n = c->cap = c->n_sums = c->cap_sums = 0;
}

static struct inode *source(struct copy *c)
{
	return c->same ? &c->dst : &c->src;
}

/* ---- sharing ---- */

static struct extent_piece *new_piece(struct copy *c)
{
	if (mem_grow((void **)&c->pieces, &c->cap, c->n + 1, sizeof(*c->pieces)))
		return NULL;
	return &c->pieces[c->n++];
}

/* [from, to) of the destination's block is the source's, `shift` bytes further on; the rest stays. One of the two ends. */
static int add_end(struct copy *c, uint64_t from, uint64_t to, uint64_t shift)
{
	struct extent_block *b = &c->ends[c->n_ends], src;
	uint64_t off = file_block(from);
	struct extent_piece *p;
	int err;

	err = extent_block_read(c->op.view, c->dst.ino, off, b);
	if (err)
		return err;
	c->n_ends++;
	err = extent_block_read(c->op.view, source(c)->ino, off + shift, &src);
	if (err)
		return err;
	memcpy(b->bytes + (from - off), src.bytes + (from - off), to - from);
	extent_block_release(&src);
	p = new_piece(c);
	return p ? extent_block_put(&c->op, b, p) : -ENOMEM;
}

static int add_shared(struct copy *c, const struct extent_map *m, uint64_t shift)
{
	uint32_t blocks = (uint32_t)((m->to - m->from) >> BLOCK_SHIFT);
	struct extent_piece *p;

	if (!m->birth) /* would be taken for fresh blocks */
		return corrupt("extent", source(c)->ino, "birth", m->birth, 1);
	if (mem_grow((void **)&c->sums, &c->cap_sums, c->n_sums + blocks, sizeof(*c->sums)))
		return -ENOMEM;
	p = new_piece(c);
	if (!p)
		return -ENOMEM;
	memcpy(c->sums + c->n_sums, m->sums, blocks * sizeof(*c->sums));
	c->n_sums += blocks;
	*p = (struct extent_piece){ .from = m->from - shift, .blocks = blocks, .addr = m->addr, .birth = m->birth };
	return 0;
}

/* Destination's whole blocks [from, to). */
static int add_blocks(struct copy *c, uint64_t from, uint64_t to, uint64_t shift)
{
	struct extent_walk *w = NULL;
	struct extent_map m;
	int err;

	err = extent_walk_open(c->op.view, source(c)->ino, from + shift, to + shift, &w);
	while (!err) {
		err = extent_walk_next(w, &m);
		if (!err && m.kind == EXTENT_LOST)
			err = -EIO;
		if (!err && m.kind == EXTENT_DATA)
			err = add_shared(c, &m, shift);
	}
	extent_walk_close(w);
	return err < 0 ? err : 0;
}

/* The array of sums does not move any more. */
static void set_sums(struct copy *c)
{
	uint32_t *at = c->sums;

	for (size_t i = 0; i < c->n; i++) {
		if (!c->pieces[i].birth)
			continue;
		c->pieces[i].sums = at;
		at += c->pieces[i].blocks;
	}
}

/* How far the whole blocks of [from, to) can be copied at once. */
static int bound(struct copy *c, uint64_t from, uint64_t to, uint64_t shift, uint64_t *ret)
{
	uint64_t a = to, b = to + shift;
	int err;

	err = extent_bound(c->op.view, c->dst.ino, from, to, c->items, &a);
	if (!err)
		err = extent_bound(c->op.view, source(c)->ino, from + shift, to + shift, c->items, &b);
	if (!err)
		*ret = a < b - shift ? a : b - shift;
	return err;
}

/*
 * Offsets are the destination's; the source's are `shift` further on (in arithmetic modulo 2^64, where it is in front). Sets
 * c->len to what is done.
 */
static int share(struct copy *c)
{
	uint64_t shift = c->from - c->to, from = c->to, to = from + c->len, first = file_block_up(from), last, stop;
	uint64_t begin = file_block(from), end = to;
	int err = 0;

	/* Nothing behind it in either: the last block as it is. */
	if (to + shift == source(c)->size && to >= c->dst.size)
		end = file_block_up(to);
	last = file_block(end);
	if (begin < first) {
		err = add_end(c, from, first < end ? first : end, shift);
		if (first > end)
			last = end = first;
	}
	if (!err && first < last) {
		err = bound(c, first, last, shift, &stop);
		if (!err && stop < last)
			to = end = last = stop;
		if (!err)
			err = add_blocks(c, first, last, shift);
	}
	if (!err && last < end)
		err = add_end(c, last, end, shift);
	if (err)
		return err;
	set_sums(c);
	c->len = to - from;
	return extent_replace(&c->op, &c->dst, begin, file_block_up(end), c->pieces, c->n);
}

/* ---- bytes ---- */

static int copy_bytes(struct copy *c)
{
	const void *data;
	size_t len;
	void *buf;
	int err;

	if (c->len > FS_IO_MAX)
		c->len = FS_IO_MAX;
	buf = mem_alloc_blocks(FS_READ_BUFFER(c->len));
	if (!buf)
		return -ENOMEM;
	err = file_read(&c->op, source(c), c->from, c->len, buf, &data, &len);
	if (!err) {
		c->len = len;
		err = file_write(&c->op, &c->dst, data, len, c->to);
	}
	mem_free(buf);
	return err;
}

/* ---- the call ---- */

/* Loads both, with nothing left to be removed from either. */
static int load(struct copy *c, uint64_t from, uint64_t to)
{
	int err;

	err = inode_load(c->op.view, to, &c->dst);
	if (!err && !c->same)
		err = inode_load(c->op.view, from, &c->src);
	if (!err && !S_ISREG(source(c)->mode))
		err = S_ISDIR(source(c)->mode) ? -EISDIR : -EINVAL;
	if (!err)
		err = file_may_write(&c->dst, false);
	if (!err)
		err = orphan_finish(&c->op, to);
	if (!err && !c->same)
		err = orphan_finish(&c->op, from);
	if (!err)
		err = inode_load(c->op.view, to, &c->dst);
	if (!err && !c->same)
		err = inode_load(c->op.view, from, &c->src);
	return err;
}

/* Cuts the length to what there is and to what may be. */
static int clamp(struct copy *c)
{
	uint64_t size = source(c)->size;

	if (c->from >= size)
		c->len = 0;
	else if (c->len > size - c->from)
		c->len = size - c->from;
	if (!c->len)
		return 0;
	if (c->to >= FS_SIZE_MAX)
		return -EFBIG;
	if (c->len > FS_SIZE_MAX - c->to)
		c->len = FS_SIZE_MAX - c->to;
	if (c->same && c->from < c->to + c->len && c->to < c->from + c->len)
		return -EINVAL;
	return 0;
}

/* Whether there is something to share: blocks, or holes. */
static int can_share(struct copy *c, bool *ret)
{
	uint8_t *buf;
	size_t len;
	int err;

	*ret = (c->from ^ c->to) % BLOCK_SIZE == 0;
	if (!*ret || source(c)->blocks)
		return 0;
	buf = mem_alloc(BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	err = file_inline(c->op.view, source(c), buf, &len);
	*ret = !len;
	mem_free(buf);
	return err;
}

static int change(struct copy *c)
{
	uint64_t end;
	bool shared;
	int err;

	err = can_share(c, &shared);
	if (!err && shared)
		err = file_uninline(&c->op, &c->dst);
	if (!err)
		err = shared ? share(c) : copy_bytes(c);
	if (err)
		return err;
	end = c->to + c->len;
	if (c->dst.size < end)
		c->dst.size = end;
	inode_touch(&c->dst, &c->op.now);
	inode_kill_priv(&c->dst);
	err = xattr_kill_caps(&c->op, &c->dst);
	if (!err)
		err = inode_put(c->op.batch, &c->dst);
	return err ? err : op_commit(&c->op);
}

static int copy_once(struct fs *fs, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off, uint64_t len,
		     unsigned items, uint64_t *ret_len)
{
	uint64_t inos[2] = { node_ino(from), node_ino(to) };
	struct copy *c = mem_zalloc(sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->from = from_off;
	c->to = to_off;
	c->len = len;
	c->same = from == to;
	c->items = items;
	err = op_begin(fs, to, &c->op);
	if (!err) {
		op_lock(&c->op, inos, 2);
		err = load(c, inos[0], inos[1]);
	}
	if (!err)
		err = clamp(c);
	if (!err && c->len)
		err = change(c);
	if (!err)
		*ret_len = c->len;
	op_end(&c->op);
	copy_release(c);
	mem_free(c);
	return err;
}

int fs_copy_range(struct fs *fs, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off, uint64_t len,
		  uint64_t *ret_len)
{
	unsigned tries = 0, items = COPY_ITEMS;
	int err;

	if (from >> FS_VIEW_SHIFT != to >> FS_VIEW_SHIFT)
		return -EXDEV;
	/* Offsets are signed where they come from; so none of the sums below can wrap. */
	if (from_off > INT64_MAX || to_off > INT64_MAX)
		return -EINVAL;
	if (len > INT64_MAX)
		len = INT64_MAX;
	do {
		err = copy_once(fs, from, from_off, to, to_off, len, items, ret_len);
		/* What a batch can hold depends on the cache and the log. */
		while (err == -EFBIG && to_off < FS_SIZE_MAX && items > COPY_ITEMS_MIN) {
			items /= 4;
			err = copy_once(fs, from, from_off, to, to_off, len, items, ret_len);
		}
	} while (op_retry(fs, err, &tries));
	return err;
}

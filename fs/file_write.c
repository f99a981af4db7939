/*
 * file_write.c - writing into a file
 *
 * Addresses are written once, so every block that changes gets a fresh one, also where a few bytes of it change: the rest is
 * read and written with them. What was there before is released by the very batch that refers to the new block; so a crash
 * leaves all of the old or all of the new.
 *
 * A write is one range of blocks: [first, last]. Where the file has inline data and grows out of it, that data becomes block
 * 0 in the same batch; if the write does not touch block 0 it is one more block in front, and the file has nothing between
 * that a replacement of the whole stretch could hurt.
 *
 * Blocks that were promised (fallocate) are taken with the promise, so that a full device does not keep them from being
 * written. Which of the range's blocks these are does not matter: the store counts them at the commit.
 */
#include <string.h>

#include "fs/file_int.h"
#include "fs/fs_int.h"

/* A write that is not aligned touches one block more; inline data is another. */
#define WRITE_BLOCKS_MAX (FS_IO_MAX / BLOCK_SIZE + 2)

struct writing {
	struct op *op;
	struct inode *inode;
	const uint8_t *data; /* for the file's bytes [off, end) */
	uint64_t off, end;
	uint64_t claimed; /* promised blocks of the range that have not been taken yet */
	size_t inline_len;
	size_t n;
	uint32_t n_sums;
	uint32_t sums[WRITE_BLOCKS_MAX];
	struct extent_piece piece[WRITE_BLOCKS_MAX];
	uint8_t inline_data[BLOCK_SIZE];
};

/* What the block at `at` has before the write. */
static int old_block(struct writing *w, uint64_t at, uint8_t *block)
{
	size_t len = at ? 0 : w->inline_len;

	if (w->inode->blocks) {
		int err = file_read_block(w->op, w->inode, at, block);

		return err == -ENODATA ? -EIO : err;
	}
	memcpy(block, w->inline_data, len);
	memset(block + len, 0, BLOCK_SIZE - len);
	return 0;
}

/* What it has after it. */
static int new_block(struct writing *w, uint64_t at, uint8_t *block)
{
	uint64_t from = w->off > at ? w->off : at, to = w->end < at + BLOCK_SIZE ? w->end : at + BLOCK_SIZE;
	int err = 0;

	if (from == at && to >= w->inode->size) /* nothing of it is left, and behind the end are zeros */
		memset(block + (to - at), 0, at + BLOCK_SIZE - to);
	else if (from != at || to != at + BLOCK_SIZE)
		err = old_block(w, at, block);
	if (!err && from < to)
		memcpy(block + (from - at), w->data + (from - w->off), to - from);
	return err;
}

/* Content for the blocks just taken. */
static int write_run(struct writing *w, uint64_t at, const struct extent *x)
{
	uint8_t *buf = mem_alloc_blocks((size_t)x->blocks * BLOCK_SIZE);
	uint32_t *sums = w->sums + w->n_sums;
	int err = 0;

	if (!buf)
		return -ENOMEM;
	for (uint32_t i = 0; !err && i < x->blocks; i++) {
		uint8_t *block = buf + (size_t)i * BLOCK_SIZE;

		err = new_block(w, at + (uint64_t)i * BLOCK_SIZE, block);
		if (!err)
			sums[i] = data_checksum(block);
	}
	if (err) {
		mem_free(buf);
		return err;
	}
	w->piece[w->n++] = (struct extent_piece){ .from = at, .blocks = x->blocks, .addr = x->addr, .sums = sums };
	w->n_sums += x->blocks;
	return batch_data(w->op->batch, x->addr, x->blocks, buf, sums);
}

static int write_blocks(struct writing *w, uint64_t at, uint64_t to)
{
	int err = 0;

	while (!err && at < to) {
		uint64_t want = (to - at) / BLOCK_SIZE;
		bool claimed = w->claimed > 0;
		struct extent x;

		if (want > w->op->fs->extent_blocks)
			want = w->op->fs->extent_blocks;
		if (claimed && want > w->claimed)
			want = w->claimed;
		err = batch_alloc(w->op->batch, (uint32_t)want, claimed, &x);
		if (err)
			return err;
		if (claimed)
			w->claimed -= x.blocks;
		err = write_run(w, at, &x);
		at += (uint64_t)x.blocks * BLOCK_SIZE;
	}
	return err;
}

/* The file stays small: its content is one item. */
static int write_inline(struct writing *w)
{
	size_t len = w->inline_len;

	if (w->off > len)
		memset(w->inline_data + len, 0, w->off - len);
	memcpy(w->inline_data + w->off, w->data, w->end - w->off);
	if (w->end > len)
		len = w->end;
	return batch_put(w->op->batch, file_inline_key(w->inode->ino), w->inline_data, len);
}

static int write_extents(struct writing *w)
{
	struct op *op = w->op;
	struct inode *i = w->inode;
	uint64_t from = file_block(w->off), to = file_block_up(w->end), start = from;
	int err = 0;

	w->claimed = 0;
	w->n = w->n_sums = 0;
	if (i->blocks)
		err = extent_claimed(op->view, i->ino, from, to, &w->claimed);
	if (!err && w->inline_len) {
		err = batch_del(op->batch, file_inline_key(i->ino));
		if (!err && from) {
			start = 0;
			err = write_blocks(w, 0, BLOCK_SIZE);
		}
	}
	if (!err)
		err = write_blocks(w, from, to);
	return err ? err : extent_replace(op, i, start, to, w->piece, w->n);
}

int file_write(struct op *op, struct inode *i, const void *buf, size_t size, uint64_t off)
{
	struct writing w;
	uint64_t end = off + size;
	int err;

	if (!size)
		return 0;
	if (size > FS_IO_MAX)
		return -EINVAL;
	if (off > FS_SIZE_MAX || size > FS_SIZE_MAX - off)
		return -EFBIG;
	w.op = op;
	w.inode = i;
	w.data = buf;
	w.off = off;
	w.end = end;
	err = file_inline(op->view, i, w.inline_data, &w.inline_len);
	if (err)
		return err;
	if (end < i->size)
		end = i->size;
	if (!i->blocks && end <= op->fs->inline_max)
		err = write_inline(&w);
	else
		err = write_extents(&w);
	if (!err)
		i->size = end;
	return err;
}

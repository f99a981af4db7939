#include "fs/extent_block.h"

#include <string.h>

#include "fs/fs_int.h"

int extent_block_read(struct view *v, uint64_t ino, uint64_t off, struct extent_block *ret)
{
	struct extent_map map;
	uint8_t *buf = mem_alloc_blocks(BLOCK_SIZE);
	unsigned cookie;
	int err;

	if (!buf)
		return -ENOMEM;
	cookie = view_read_begin(v);
	err = extent_at(v, ino, off, &map);
	if (!err && map.kind == EXTENT_DATA) {
		uint64_t at = (off - map.from) >> BLOCK_SHIFT;

		err = view_read(v, map.addr + at, 1, buf, map.sums + at);
	}
	view_read_end(v, cookie);
	if (!err && map.kind == EXTENT_LOST)
		err = -EIO;
	if (err) {
		mem_free(buf);
		return err;
	}
	if (map.kind != EXTENT_DATA)
		memset(buf, 0, BLOCK_SIZE);
	*ret = (struct extent_block){ .off = off, .bytes = buf, .kind = map.kind };
	return 0;
}

int extent_block_put(struct op *op, struct extent_block *b, struct extent_piece *ret)
{
	uint8_t *buf = b->bytes;
	struct extent e;
	int err;

	err = batch_alloc(op->batch, 1, b->kind == EXTENT_CLAIM, &e);
	if (err)
		return err;
	b->sum = data_checksum(buf);
	b->bytes = NULL;
	err = batch_data(op->batch, e.addr, 1, buf, &b->sum);
	if (!err)
		*ret = (struct extent_piece){ .from = b->off, .blocks = 1, .addr = e.addr, .sums = &b->sum };
	return err;
}

void extent_block_release(struct extent_block *b)
{
	mem_free(b->bytes);
	b->bytes = NULL;
}

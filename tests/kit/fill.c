#include "tests/kit/fill.h"

#include "btree/mem.h"
#include "tests/kit/test.h"

uint64_t *fill_buffer(uint32_t blocks)
{
	uint64_t *buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);

	assert_non_null(buf);
	return buf;
}

void fill_words(uint64_t *buf, uint32_t blocks, uint64_t value)
{
	for (size_t i = 0; i < (size_t)blocks * BLOCK_SIZE / sizeof(*buf); i++)
		buf[i] = value;
}

int fill_put(struct bdev *dev, uint64_t addr, uint32_t blocks, uint64_t value)
{
	uint64_t *buf = fill_buffer(blocks);
	int err;

	fill_words(buf, blocks, value);
	err = bdev_write(dev, addr, buf, blocks);
	mem_free(buf);
	return err;
}

uint64_t fill_sector(struct simdev *sd, uint64_t addr, unsigned s)
{
	uint64_t block[BLOCK_SIZE / 8];
	const uint64_t *p = block + s * SIMDEV_SECTOR / 8;

	simdev_peek(sd, addr, block, 1);
	for (unsigned i = 0; i < SIMDEV_SECTOR / 8; i++)
		assert_int_equal(p[i], p[0]);
	return p[0];
}

uint64_t fill_get(struct simdev *sd, uint64_t addr)
{
	uint64_t value = fill_sector(sd, addr, 0);

	for (unsigned s = 1; s < FILL_SECTORS; s++)
		assert_int_equal(fill_sector(sd, addr, s), value);
	return value;
}

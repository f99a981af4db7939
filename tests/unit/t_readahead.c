/*
 * t_readahead.c - windows of data: when they are read, and that nothing old comes out of them
 */
#include <string.h>

#include "btree/mem.h"
#include "tests/kit/simdev.h"
#include "tests/kit/test.h"
#include "wal/readahead.h"

#define BLOCKS 4096u

struct fixture {
	struct simdev *disk;
	struct bdev *dev;
	struct readahead *ra;
	uint8_t *buf;
};

static void begin(struct fixture *f)
{
	f->disk = simdev_new(&(struct simdev_options){ .blocks = BLOCKS });
	f->dev = simdev_bdev(f->disk);
	f->buf = mem_alloc_blocks(READAHEAD_BLOCKS * BLOCK_SIZE);
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(f->buf, (int)i, BLOCK_SIZE);
		assert_int_equal(bdev_write(f->dev, i, f->buf, 1), 0);
	}
	assert_int_equal(readahead_open(f->dev, &f->ra), 0);
}

static void end(struct fixture *f)
{
	readahead_close(f->ra);
	mem_free(f->buf);
	simdev_free(f->disk);
}

/* One small read, as the store makes it; the device is asked where no window has it. Asserts what comes. */
static void get(struct fixture *f, uint64_t addr, uint32_t blocks)
{
	if (!readahead_get(f->ra, addr, blocks, f->buf))
		assert_int_equal(bdev_read(f->dev, addr, f->buf, blocks), 0);
	for (uint32_t i = 0; i < blocks; i++)
		assert_int_equal(f->buf[i * BLOCK_SIZE], (uint8_t)(addr + i));
}

static uint64_t reads(struct fixture *f)
{
	return atomic_load(&f->dev->reads);
}

static void reads_in_order_share_transfers(void **state)
{
	struct fixture f;
	uint64_t before;

	(void)state;
	begin(&f);
	before = reads(&f);
	for (uint64_t at = 0; at < 1024; at++)
		get(&f, at, 1);
	/* The first read, then a transfer a window. */
	assert_int_equal(reads(&f) - before, 1 + 1024 / READAHEAD_BLOCKS);
	end(&f);
}

static void scattered_reads_read_what_they_ask_for(void **state)
{
	struct fixture f;
	uint64_t before;

	(void)state;
	begin(&f);
	before = atomic_load(&f.dev->read_blocks);
	for (uint64_t i = 0; i < 50; i++)
		get(&f, i * 37 % 61 * 2 * READAHEAD_BLOCKS, 2);
	assert_int_equal(atomic_load(&f.dev->read_blocks) - before, 100);
	end(&f);
}

static void what_is_written_is_forgotten(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f);
	get(&f, 64, 1);
	get(&f, 65, 1);
	assert_true(readahead_get(f.ra, 66, 2, f.buf));
	readahead_forget(f.ra, 60, 8);
	memset(f.buf, 200, BLOCK_SIZE);
	assert_int_equal(bdev_write(f.dev, 66, f.buf, 1), 0);
	if (!readahead_get(f.ra, 66, 1, f.buf))
		assert_int_equal(bdev_read(f.dev, 66, f.buf, 1), 0);
	assert_int_equal(f.buf[0], 200);
	end(&f);
}

static void windows_do_not_reach_over_their_ends(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f);
	get(&f, READAHEAD_BLOCKS - 2, 1);
	assert_true(readahead_get(f.ra, READAHEAD_BLOCKS - 1, 1, f.buf));
	assert_false(readahead_get(f.ra, READAHEAD_BLOCKS - 1, 2, f.buf)); /* half of it in the next */
	get(&f, BLOCKS - 1, 1);
	assert_true(readahead_get(f.ra, BLOCKS - 1, 1, f.buf)); /* the device's last window */
	end(&f);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_in_order_share_transfers),
		cmocka_unit_test(scattered_reads_read_what_they_ask_for),
		cmocka_unit_test(what_is_written_is_forgotten),
		cmocka_unit_test(windows_do_not_reach_over_their_ends),
	};

	return cmocka_run_group_tests_name("readahead", tests, NULL, NULL);
}

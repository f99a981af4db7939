#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/rng.h"
#include "tests/kit/spacefs.h"
#include "tests/kit/test.h"

/* --- checkpoints --- */

static void what_was_reached_is_there_after_opening_and_nothing_else(void **state)
{
	uint64_t usable, a, b, c;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 2 * G + 9999, 1000);
	usable = space_free_blocks(fs.space);
	a = spacefs_take(&fs, SPACE_NODES, 100);
	b = spacefs_take(&fs, SPACE_SMALL, 50);
	c = spacefs_take(&fs, SPACE_LARGE, 30);
	spacefs_checkpoint(&fs, (struct space_event[]){ reached(a, 100), reached(c, 10), reached(c + 20, 10) }, 3);
	assert_int_equal(space_free_blocks(fs.space), usable - 180);
	assert_int_equal(space_durable_free(fs.space), usable - 120);
	assert_int_equal(fs.root.free, usable - 120);
	spacefs_reopen(&fs);
	assert_int_equal(space_free_blocks(fs.space), usable - 120);
	assert_int_equal(space_free(fs.space, b, 50), -EUCLEAN);
	assert_int_equal(space_mark_used(fs.space, b, 50), 0);

	/* Released: not durable, still in use until it is freed. */
	spacefs_checkpoint(&fs, (struct space_event[]){ released(a + 50, 50), reached(b, 50) }, 2);
	assert_int_equal(space_free_blocks(fs.space), usable - 170);
	assert_int_equal(space_durable_free(fs.space), usable - 120);
	assert_int_equal(space_free(fs.space, a + 50, 50), 0);
	assert_int_equal(space_free_blocks(fs.space), usable - 120);
	spacefs_reopen(&fs);
	assert_int_equal(space_free_blocks(fs.space), usable - 120);
	assert_int_equal(spacefs_reports(), 1);
	spacefs_release(&fs);
}

static void events_all_over_the_map_read_each_page_once(void **state)
{
	enum { GROUPS = 200 };
	struct space_event events[3 * GROUPS];
	uint64_t reads;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, GROUPS * (uint64_t)G, 1000);
	for (uint64_t g = 0; g < GROUPS; g++) {
		events[g] = reached(g * G + 20000, 10);
		assert_int_equal(space_mark_used(fs.space, events[g].addr, 10), 0);
	}
	spacefs_checkpoint(&fs, events, GROUPS);
	fs.mem_max = 1;
	spacefs_reopen(&fs);
	for (uint64_t i = 0; i < 3 * GROUPS; i++)
		events[i] = released(i * 77 % GROUPS * G + 20000 + i / GROUPS * 2, 2);
	reads = simdev_count(fs.disk, SIMDEV_READ);
	spacefs_checkpoint(&fs, events, 3 * GROUPS);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, GROUPS + 2);
	assert_int_equal(fs.root.free, space_blocks_usable(&fs.geo) - 4 * GROUPS);
	spacefs_reopen(&fs);
	for (uint64_t g = 0; g < GROUPS; g++)
		assert_int_equal(space_bitmaps(fs.space, g, NULL, NULL), 0);
	assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo) - 4 * GROUPS);
	spacefs_release(&fs);
}

static void events_in_their_order_may_cancel_each_other(void **state)
{
	uint64_t usable, a;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, G, 1000);
	usable = space_free_blocks(fs.space);
	a = spacefs_take(&fs, SPACE_NODES, 8);
	spacefs_checkpoint(&fs, (struct space_event[]){ reached(a, 8), released(a, 4), reached(a, 2), released(a, 1) },
			   4);
	assert_int_equal(space_durable_free(fs.space), usable - 5);
	spacefs_release(&fs);
}

static void a_checkpoint_without_changes_writes_nothing(void **state)
{
	struct space_root root;
	struct space_event ev;
	uint64_t writes;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, G, 1000);
	spacefs_checkpoint(&fs, NULL, 0);
	assert_int_equal(fs.root.gen, 0);
	ev = reached(spacefs_take(&fs, SPACE_NODES, 8), 8);
	spacefs_checkpoint(&fs, &ev, 1);
	writes = simdev_count(fs.disk, SIMDEV_WRITE);
	root = fs.root;
	spacefs_take(&fs, SPACE_NODES, 8);
	spacefs_checkpoint(&fs, NULL, 0);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_WRITE), writes);
	assert_memory_equal(&root, &fs.root, sizeof(root));
	spacefs_release(&fs);
}

struct contradiction_row {
	const char *name;
	struct space_event ev[2];
};

/* Blocks 2000..2007 are reached, 2008..2015 only used. */
static const struct contradiction_row contradiction_rows[] = {
	{ "contradiction: blocks reached twice", { { 2004, 8, SPACE_REACHED } } },
	{ "contradiction: blocks reached that are free", { { 2012, 8, SPACE_REACHED } } },
	{ "contradiction: blocks released that were not reached", { { 2004, 8, SPACE_RELEASED } } },
	{ "contradiction: blocks released twice", { { 2000, 4, SPACE_RELEASED }, { 2003, 1, SPACE_RELEASED } } },
	{ "contradiction: homes reached", { { 40, 1, SPACE_REACHED } } },
	{ "contradiction: the log released", { { 1000, 60, SPACE_RELEASED } } },
	{ "contradiction: blocks past the end", { { UINT64_C(1) << 50, 1, SPACE_REACHED } } },
};

static void an_event_that_contradicts_the_map_is_refused(void **state)
{
	const struct contradiction_row *row = *state;
	struct space_root root;
	struct space_event ev;
	struct spacefs fs;

	spacefs_init(&fs, G, 1000);
	assert_int_equal(space_mark_used(fs.space, 2000, 16), 0);
	ev = reached(2000, 8);
	spacefs_checkpoint(&fs, &ev, 1);
	assert_int_equal(space_apply(fs.space, row->ev, row->ev[1].blocks ? 2 : 1), -EUCLEAN);
	assert_int_equal(spacefs_reports(), 1);
	assert_int_equal(space_apply(fs.space, NULL, 0), -EROFS);
	assert_int_equal(space_write(fs.space, 9, &root), -EROFS);
	spacefs_take(&fs, SPACE_NODES, 4);
	spacefs_release(&fs);
}

static void a_second_write_before_the_commit_is_refused(void **state)
{
	struct space_root root;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, G, 1000);
	assert_int_equal(space_write(fs.space, 0, &root), -EINVAL);
	assert_int_equal(space_write(fs.space, 1, &root), 0);
	assert_int_equal(space_write(fs.space, 2, &root), -EBUSY);
	space_commit(fs.space);
	space_commit(fs.space);
	assert_int_equal(space_write(fs.space, 2, &root), 0);
	spacefs_release(&fs);
}

static void a_crash_anywhere_in_a_checkpoint_leaves_both_durable_roots_whole(void **state)
{
	enum { GROUPS = 6, CHECKPOINTS = 6 };
	struct blockmap m;
	struct spacefs fs;
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, 11);
	spacefs_init_sized(&fs, GROUPS * (uint64_t)G, 1000, GROUPS * (uint64_t)G, true);
	blockmap_init(&m, &fs, fs.geo.blocks);
	for (unsigned i = 0; i < CHECKPOINTS; i++) {
		uint64_t from = simdev_ops(fs.disk);
		struct space_event ev[20];
		struct space_root root;

		for (unsigned k = 0; k < ARRAY_LEN(ev); k++) {
			ev[k] = reached(spacefs_take(&fs, (enum space_stream)rng_below(&rng, SPACE_STREAMS), 3), 3);
			blockmap_change(&m, ev[k].addr, 3, BLOCK_USED | BLOCK_DURABLE, 0);
		}
		assert_int_equal(space_apply(fs.space, ev, ARRAY_LEN(ev)), 0);
		assert_int_equal(spacefs_write(&fs, &root), 0);
		for (uint64_t n = from; n <= simdev_ops(fs.disk); n++) {
			struct simdev_crash c;
			struct simdev *after;

			simdev_crash_begin(&c, fs.disk, n, 20, i);
			while ((after = simdev_crash_next(&c))) {
				struct bdev *dev = simdev_bdev(after);

				blockmap_assert_roots(&m, &fs, dev);
				bdev_close(dev);
				simdev_free(after);
			}
			simdev_crash_end(&c);
		}
		spacefs_commit(&fs, &root);
		blockmap_commit(&m);
	}
	assert_int_equal(spacefs_reports(), 0);
	spacefs_release(&fs);
	blockmap_release(&m);
}

/* Takes a block of the group and has it recorded. */
static void checkpoint_in(struct spacefs *fs, struct blockmap *m, uint64_t g, uint32_t bit)
{
	struct space_event ev = reached(g * G + bit, 1);
	struct space_root root;

	assert_int_equal(space_mark_used(fs->space, ev.addr, 1), 0);
	assert_int_equal(space_apply(fs->space, &ev, 1), 0);
	assert_int_equal(spacefs_write(fs, &root), 0);
	if (m) {
		blockmap_change(m, ev.addr, 1, BLOCK_USED | BLOCK_DURABLE, 0);
		blockmap_assert_roots(m, fs, fs->dev);
	}
	spacefs_commit(fs, &root);
	if (m)
		blockmap_commit(m);
}

/* With a mem_max of next to nothing, what was loaded before is dropped. */
static void touch(struct spacefs *fs, uint64_t from, uint64_t to)
{
	for (uint64_t g = from; g < to; g++)
		space_bitmaps(fs->space, g, NULL, NULL);
}

static void homes_of_both_durable_roots_are_remembered_while_memory_is_short(void **state)
{
	struct blockmap m;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 258 * (uint64_t)G, 1000);
	fs.mem_max = 1;
	spacefs_reopen(&fs);
	blockmap_init(&m, &fs, fs.geo.blocks);
	for (unsigned i = 0; i < 8; i++) {
		checkpoint_in(&fs, &m, 5, 5000 + i);
		touch(&fs, 128, 258);
	}
	spacefs_release(&fs);
	blockmap_release(&m);
}

/* Something that happens right before a transfer of the kind begins, once. */
static struct {
	struct spacefs *fs;
	enum bio_op op;
	void (*what)(struct spacefs *);
	const struct bdev_ops *ops;
	struct bdev_ops with;
} meanwhile;

static void submit_after(struct bdev *dev, struct bio **bios, unsigned n)
{
	void (*what)(struct spacefs *) = meanwhile.what;

	if (what && bios[0]->op == meanwhile.op) {
		meanwhile.what = NULL;
		what(meanwhile.fs);
	}
	meanwhile.ops->submit(dev, bios, n);
}

static void meanwhile_do(struct spacefs *fs, enum bio_op op, void (*what)(struct spacefs *))
{
	meanwhile.fs = fs;
	meanwhile.op = op;
	meanwhile.what = what;
	meanwhile.ops = fs->dev->ops;
	meanwhile.with = *fs->dev->ops;
	meanwhile.with.submit = submit_after;
	fs->dev->ops = &meanwhile.with;
}

static void meanwhile_end(struct spacefs *fs)
{
	assert_null(meanwhile.what);
	fs->dev->ops = meanwhile.ops;
}

static void need_memory_and_look_again(struct spacefs *fs)
{
	touch(fs, 128, 258);
	touch(fs, 128, 258);
	assert_int_equal(space_bitmaps(fs->space, 5, NULL, NULL), 0);
}

static void a_page_on_its_way_to_the_disk_is_not_read_from_there(void **state)
{
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 258 * (uint64_t)G, 1000);
	fs.mem_max = 1;
	spacefs_reopen(&fs);
	checkpoint_in(&fs, NULL, 5, 5000);
	meanwhile_do(&fs, BIO_WRITE, need_memory_and_look_again);
	checkpoint_in(&fs, NULL, 5, 5001);
	meanwhile_end(&fs);
	assert_int_equal(space_bitmaps(fs.space, 5, NULL, NULL), 0);
	assert_int_equal(spacefs_reports(), 0);
	spacefs_release(&fs);
}

static void change_the_page_four_times_and_forget_it(struct spacefs *fs)
{
	for (unsigned i = 0; i < 4; i++)
		checkpoint_in(fs, NULL, 5, 6000 + i);
	touch(fs, 128, 258);
	touch(fs, 128, 258);
}

static void a_read_that_is_overtaken_by_checkpoints_is_done_again(void **state)
{
	uint8_t map[BITMAP_BYTES];
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 258 * (uint64_t)G, 1000);
	fs.mem_max = 1;
	spacefs_reopen(&fs);
	checkpoint_in(&fs, NULL, 5, 5000);
	checkpoint_in(&fs, NULL, 6, 5000);
	spacefs_reopen(&fs);
	/* So that its radix page is there, and the next read is the bitmap's. */
	assert_int_equal(space_bitmaps(fs.space, 6, NULL, NULL), 0);
	meanwhile_do(&fs, BIO_READ, change_the_page_four_times_and_forget_it);
	assert_int_equal(space_bitmaps(fs.space, 5, map, NULL), 0);
	meanwhile_end(&fs);
	for (unsigned i = 0; i < 4; i++)
		assert_true(bit(map, 6000 + i));
	assert_int_equal(spacefs_reports(), 0);
	spacefs_release(&fs);
}

static void free_in_the_second_group(struct spacefs *fs)
{
	assert_int_equal(space_free(fs->space, G + 20000, 8), 0);
}

static void room_that_appears_behind_a_search_is_found(void **state)
{
	uint8_t *map = calloc(1, BITMAP_BYTES);
	struct spacefs fs;

	(void)state;
	/* All is full but the third group, where another stream works, so that it is looked at last. */
	spacefs_init(&fs, 5 * (uint64_t)G, 1000);
	memset(map, 0x55, BITMAP_BYTES);
	assert_int_equal(space_rebuild_group(fs.space, 2, map), 0);
	spacefs_checkpoint(&fs, NULL, 0);
	spacefs_reopen(&fs);
	for (uint64_t g = 0; g < 5; g++)
		if (g != 2)
			spacefs_use_up(&fs, g, 0);
	meanwhile_do(&fs, BIO_READ, free_in_the_second_group);
	assert_int_equal(spacefs_take(&fs, SPACE_NODES, 8), G + 20000);
	meanwhile_end(&fs);
	spacefs_release(&fs);
	free(map);
}

static void grow(struct spacefs *fs)
{
	assert_int_equal(space_grow(fs->space, 300 * (uint64_t)G), 0);
}

static void a_read_that_is_overtaken_by_growth_is_done_again(void **state)
{
	static const uint64_t sizes[] = { 120 * (uint64_t)G + 5000, 258 * (uint64_t)G + 5000 };

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		uint64_t last = sizes[i] / G;
		uint8_t map[BITMAP_BYTES];
		struct spacefs fs;

		spacefs_init_sized(&fs, sizes[i], 1000, 300 * (uint64_t)G, false);
		checkpoint_in(&fs, NULL, last, 4000);
		spacefs_reopen(&fs);
		meanwhile_do(&fs, BIO_READ, grow);
		assert_int_equal(space_bitmaps(fs.space, last, map, NULL), 0);
		meanwhile_end(&fs);
		assert_true(bit(map, 4000));
		assert_false(bit(map, 5000));
		spacefs_checkpoint(&fs, NULL, 0);
		fs.geo.blocks = 300 * (uint64_t)G;
		assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo) - 1);
		spacefs_reopen(&fs);
		assert_int_equal(space_bitmaps(fs.space, last, NULL, NULL), 0);
		assert_int_equal(spacefs_reports(), 0);
		spacefs_release(&fs);
	}
}

static void a_failed_write_ends_checkpoints_but_not_allocation(void **state)
{
	enum { GROUPS = 5, MORE = 20 };
	static const uint8_t map[BITMAP_BYTES];
	uint64_t free;

	(void)state;
	/* A bitmap of each group and the root page are written; each may fail. */
	for (unsigned k = 0; k < GROUPS + 1; k++) {
		struct space_event events[GROUPS], more[GROUPS];
		struct space_root root;
		uint64_t addr;
		struct spacefs fs;

		spacefs_init(&fs, MORE * (uint64_t)G, 1000);
		fs.mem_max = 1;
		spacefs_reopen(&fs);
		for (uint64_t g = 0; g < GROUPS; g++) {
			events[g] = reached(g * G + 20000, 10);
			more[g] = reached(g * G + 20010, 10);
			assert_int_equal(space_mark_used(fs.space, events[g].addr, 20), 0);
		}
		spacefs_checkpoint(&fs, events, GROUPS);
		assert_int_equal(space_apply(fs.space, more, GROUPS), 0);
		simdev_add_fault(fs.disk, &(struct simdev_fault){
						  .op = SIMDEV_WRITE, .after = k, .times = 1, .effect = SIMDEV_TORN });
		assert_int_equal(space_write(fs.space, 2, &root), -EIO);
		assert_int_equal(space_write(fs.space, 3, &root), -EROFS);
		assert_int_equal(space_apply(fs.space, NULL, 0), -EROFS);
		assert_int_equal(space_rebuild_group(fs.space, 0, map), -EROFS);
		space_commit(fs.space);

		/* What is in memory goes on. */
		free = space_free_blocks(fs.space);
		for (unsigned i = 0; i < 100; i++) {
			addr = spacefs_take(&fs, (enum space_stream)(i % 3), 500);
			if (i % 2)
				assert_int_equal(space_free(fs.space, addr, 500), 0);
		}
		assert_int_equal(space_free_blocks(fs.space), free - 50 * 500);
		for (unsigned round = 0; round < 3; round++)
			for (uint64_t g = 0; g < MORE; g++)
				assert_int_equal(space_bitmaps(fs.space, g, NULL, NULL), 0);
		spacefs_reopen(&fs);
		assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo) - 10 * GROUPS);
		for (uint64_t g = 0; g < GROUPS; g++)
			assert_int_equal(space_bitmaps(fs.space, g, NULL, NULL), 0);
		assert_int_equal(spacefs_reports(), 0);
		spacefs_release(&fs);
	}
}

/* --- growth --- */

struct grow_row {
	const char *name;
	uint64_t from, to;
	uint64_t levels_before, levels_after; /* pages on the way to the first bitmap, without it */
};

static const struct grow_row grow_rows[] = {
	{ "growth: within a group", 5000, 9000, 1, 1 },
	{ "growth: a part of a group becomes whole", 2 * G - 500, 2 * G, 1, 1 },
	{ "growth: a part of a group becomes whole and more", G + 500, 5 * G + 300, 1, 1 },
	{ "growth: from a full group on", 2 * G, 3 * G, 1, 1 },
	{ "growth: a tail too short for a group becomes one", 2 * G + 2, 2 * G + 100, 1, 1 },
	{ "growth: a tail that stays too short", 2 * G, 2 * G + 3, 1, 1 },
	{ "growth: not at all", 2 * G, 2 * G, 1, 1 },
	{ "growth: over a radix level", 127 * G + 5000, 131 * G, 1, 2 },
	{ "growth: over a radix level from a full page", 128 * (uint64_t)G, 128 * (uint64_t)G + 7, 1, 2 },
	{ "growth: over two radix levels", G, 16500 * (uint64_t)G + 600, 1, 3 },
	{ "growth: within the upper level", 130 * (uint64_t)G + 77, 300 * (uint64_t)G, 2, 2 },
};

static void growth(void **state)
{
	const struct grow_row *row = *state;

	/* With the map written before or not; in memory or not; grown before or between write and commit. */
	for (unsigned variant = 0; variant < 8; variant++) {
		bool written = variant & 1, reopened = variant & 2, between = variant & 4;
		struct space_event ev[2];
		uint64_t before, after, addr, last;
		struct space_root root;
		uint32_t got;
		struct spacefs fs;

		spacefs_init_sized(&fs, row->from, 500, row->to, false);
		before = space_blocks_usable(&fs.geo);
		if (written) {
			/* Something in the first group and the very last block. */
			last = row->from;
			while (!space_valid(fs.space, last, 1))
				last--;
			ev[0] = reached(spacefs_take(&fs, SPACE_NODES, 8), 8);
			ev[1] = reached(last, 1);
			assert_int_equal(space_mark_used(fs.space, last, 1), 0);
			spacefs_checkpoint(&fs, ev, 2);
			before -= 9;
		}
		if (reopened)
			spacefs_reopen(&fs);
		if (between)
			assert_int_equal(space_write(fs.space, fs.gen++, &root), 0);
		assert_int_equal(space_grow(fs.space, row->from - 1), -EINVAL);
		assert_int_equal(space_grow(fs.space, row->to + 1), -EINVAL);
		assert_int_equal(space_grow(fs.space, row->to), 0);
		assert_int_equal(space_free_blocks(fs.space), before);
		if (between) {
			spacefs_commit(&fs, &root);
			assert_int_equal(space_free_blocks(fs.space), before);
		}

		/* Nothing of it is handed out before it is durable. */
		for (uint64_t left = before; left > 0; left -= got) {
			assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 1, 16000, &addr, &got), 0);
			assert_true(addr + got <= row->from);
		}
		assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 1, 1, &addr, &got), -ENOSPC);
		assert_int_equal(space_free_blocks(fs.space), 0);

		fs.geo.blocks = row->to;
		after = space_blocks_usable(&fs.geo) - (written ? 9 : 0);
		assert_int_equal(space_durable_free(fs.space), after);
		spacefs_checkpoint(&fs, NULL, 0);
		assert_int_equal(space_free_blocks(fs.space), after - before);
		assert_int_equal(space_usable_blocks(fs.space), space_blocks_usable(&fs.geo));
		for (uint64_t left = after - before, n = 0; left > 0 && n < 1000; left -= got, n++) {
			assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 1, 16000, &addr, &got), 0);
			assert_true(addr >= row->from - 3 && addr + got <= row->to);
			assert_true(space_valid(fs.space, addr, got));
		}
		spacefs_reopen(&fs);
		assert_int_equal(space_free_blocks(fs.space), after);
		for (uint64_t g = 0; g < space_groups(fs.space) && g < 400; g++)
			assert_int_equal(space_bitmaps(fs.space, g, NULL, NULL), 0);
		assert_int_equal(space_bitmaps(fs.space, space_groups(fs.space) - 1, NULL, NULL), 0);
		if (written) {
			assert_int_equal(space_free(fs.space, ev[0].addr, 8), -EUCLEAN);
			spacefs_checkpoint(
				&fs, (struct space_event[]){ released(ev[0].addr, 8), released(ev[1].addr, 1) }, 2);
			assert_int_equal(space_free(fs.space, ev[0].addr, 8), 0);
			assert_int_equal(space_free(fs.space, ev[1].addr, 1), 0);
			assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo));
			assert_int_equal(spacefs_reports(), 1);
		}
		assert_int_equal(spacefs_reports(), 0);
		spacefs_release(&fs);
	}
}

/* --- all of them --- */

#define ROWS_MAX 100
#define ONE(f) (tests[n++] = (struct CMUnitTest){ .name = #f, .test_func = (f) })

int main(void)
{
	static struct CMUnitTest tests[ROWS_MAX];
	size_t n = 0;

	spacefs_count_reports();
	ONE(what_was_reached_is_there_after_opening_and_nothing_else);
	ONE(events_all_over_the_map_read_each_page_once);
	ONE(events_in_their_order_may_cancel_each_other);
	ONE(a_checkpoint_without_changes_writes_nothing);
	for (size_t row = 0; row < ARRAY_LEN(contradiction_rows); row++)
		tests[n++] = TEST_ROW(contradiction_rows[row].name, an_event_that_contradicts_the_map_is_refused,
				      &contradiction_rows[row]);
	ONE(a_second_write_before_the_commit_is_refused);
	ONE(a_crash_anywhere_in_a_checkpoint_leaves_both_durable_roots_whole);
	ONE(homes_of_both_durable_roots_are_remembered_while_memory_is_short);
	ONE(a_page_on_its_way_to_the_disk_is_not_read_from_there);
	ONE(a_read_that_is_overtaken_by_checkpoints_is_done_again);
	ONE(room_that_appears_behind_a_search_is_found);
	ONE(a_read_that_is_overtaken_by_growth_is_done_again);
	ONE(a_failed_write_ends_checkpoints_but_not_allocation);
	for (size_t row = 0; row < ARRAY_LEN(grow_rows); row++)
		tests[n++] = TEST_ROW(grow_rows[row].name, growth, &grow_rows[row]);
	return _cmocka_run_group_tests("space", tests, n, NULL, NULL);
}

#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/spacefs.h"
#include "tests/kit/test.h"

/* --- geometry --- */

struct geometry_row {
	const char *name;
	struct space_geometry geo;
	uint64_t groups; /* 0: refused */
};

static const struct geometry_row geometry_rows[] = {
	{ "geometry: one group cut short", { 4096, 47, 1000 }, 1 },
	{ "geometry: one full group", { G, 47, 1000 }, 1 },
	{ "geometry: no log", { G, 0, 0 }, 1 },
	{ "geometry: a log with a gap before it", { G, 100, 1000 }, 1 },
	{ "geometry: a log to the end of the group", { 2 * G, 1000, G - 1000 }, 2 },
	{ "geometry: a second group of homes alone is left out", { G + 3, 47, 10 }, 1 },
	{ "geometry: a second group with one block", { G + 4, 47, 10 }, 2 },
	{ "geometry: several groups and a part of one", { 5 * G + 1234, 47, 5000 }, 6 },
	{ "geometry: one full radix page", { 128 * (uint64_t)G, 47, 5000 }, 128 },
	{ "geometry: homes of two levels are too many for the tail", { 128 * (uint64_t)G + 6, 47, 5000 }, 128 },
	{ "geometry: a second radix page with one block", { 128 * (uint64_t)G + 7, 47, 5000 }, 129 },
	{ "geometry: nothing is refused", { 0, 0, 0 }, 0 },
	{ "geometry: no room behind the homes is refused", { 47, 0, 0 }, 0 },
	{ "geometry: a log among the homes is refused", { G, 46, 10 }, 0 },
	{ "geometry: a log past the end of group 0 is refused", { 2 * G, 1000, G - 999 }, 0 },
	{ "geometry: a log past the device is refused", { 4096, 4000, 100 }, 0 },
	{ "geometry: a log whose end wraps around is refused", { 4096, 100, UINT64_MAX - 50 }, 0 },
	{ "geometry: more groups than four levels reach is refused", { UINT64_MAX, 47, 10 }, 0 },
};

static void geometry(void **state)
{
	const struct geometry_row *row = *state;
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = 1 << 23 });
	struct bdev *dev = simdev_bdev(disk);
	struct space_root none = { 0 };
	struct space *space = NULL;
	uint64_t valid = 0;
	int err = space_open(dev, &row->geo, &none, 0, &space);

	assert_int_equal(err, row->groups ? 0 : -EINVAL);
	if (!err) {
		uint8_t *used = malloc(BITMAP_BYTES);

		assert_int_equal(space_groups(space), row->groups);
		for (uint64_t a = 0; a < row->geo.blocks + 2 * G; a++)
			valid += space_valid(space, a, 1);
		assert_int_equal(space_blocks_usable(&row->geo), valid);
		assert_int_equal(space_usable_blocks(space), valid);
		assert_int_equal(space_free_blocks(space), valid);
		assert_int_equal(space_durable_free(space), valid);
		for (uint64_t g = 0; g < row->groups; g++) {
			assert_int_equal(space_bitmaps(space, g, used, NULL), 0);
			for (uint32_t i = 0; i < G; i++)
				assert_int_equal(bit(used, i), !space_valid(space, g * G + i, 1));
		}
		assert_int_equal(space_bitmaps(space, row->groups, used, NULL), -EINVAL);
		free(used);
	} else {
		assert_int_equal(space_blocks_usable(&row->geo), 0);
	}
	space_close(space);
	bdev_close(dev);
	simdev_free(disk);
}

static void a_map_larger_than_the_device_is_refused(void **state)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = G });
	struct bdev *dev = simdev_bdev(disk);
	struct space_geometry geo = { .blocks = G + 100 };
	struct space_root none = { 0 };
	struct space *space;

	(void)state;
	assert_int_equal(space_open(dev, &geo, &none, 0, &space), -EINVAL);
	bdev_close(dev);
	simdev_free(disk);
}

static void a_run_is_valid_only_inside_its_group_and_outside_what_is_fixed(void **state)
{
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 2 * G + 500, 1000);
	assert_false(space_valid(fs.space, 0, 1));
	assert_false(space_valid(fs.space, 46, 1));
	assert_false(space_valid(fs.space, 47, 1));
	assert_false(space_valid(fs.space, 1046, 2));
	assert_true(space_valid(fs.space, 1047, 1));
	assert_true(space_valid(fs.space, 1047, G - 1047));
	assert_false(space_valid(fs.space, 1047, G - 1046));
	assert_false(space_valid(fs.space, G - 1, 5));
	assert_false(space_valid(fs.space, 1047, 0));
	assert_true(space_valid(fs.space, 2 * G + 499, 1));
	assert_false(space_valid(fs.space, 2 * G + 499, 2));
	assert_false(space_valid(fs.space, 2 * G + 500, 1));
	assert_false(space_valid(fs.space, UINT64_MAX, 1));
	assert_false(space_valid(fs.space, 1047, UINT64_MAX));
	spacefs_release(&fs);
}

/* --- allocation --- */

static void a_stream_allocates_in_one_piece_on_and_on(void **state)
{
	static const uint32_t sizes[] = { 4, 4, 1, 256, 7, 64 };
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 8 * (uint64_t)G, 1000);
	for (int stream = 0; stream < SPACE_STREAMS; stream++) {
		uint64_t next = 0;

		for (unsigned round = 0; round < 20; round++)
			for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
				uint64_t addr = spacefs_take(&fs, (enum space_stream)stream, sizes[i]);

				assert_true(next == 0 || addr == next);
				next = addr + sizes[i];
			}
	}
	spacefs_release(&fs);
}

static void streams_stay_apart(void **state)
{
	static const uint64_t blocks[] = { 3000, G, 3 * G + 500, 40 * (uint64_t)G };

	(void)state;
	for (unsigned row = 0; row < ARRAY_LEN(blocks); row++) {
		uint64_t next[SPACE_STREAMS] = { 0 };
		unsigned breaks = 0;
		struct spacefs fs;

		spacefs_init(&fs, blocks[row], 100);
		for (unsigned i = 0; i < 150; i++)
			for (int stream = 0; stream < SPACE_STREAMS; stream++) {
				uint64_t addr = spacefs_take(&fs, (enum space_stream)stream, 4);

				breaks += next[stream] && addr != next[stream];
				next[stream] = addr + 4;
			}
		assert_int_equal(breaks, 0);
		spacefs_release(&fs);
	}
}

static void a_full_group_is_left_for_one_no_other_stream_is_in(void **state)
{
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 8 * (uint64_t)G, 1000);
	spacefs_use_up(&fs, 0, 0);
	for (int stream = SPACE_STREAMS - 1; stream > 0; stream--)
		assert_int_equal(spacefs_take(&fs, (enum space_stream)stream, 4) / G, stream);
	assert_int_equal(spacefs_take(&fs, SPACE_NODES, 4) / G, SPACE_STREAMS);
	spacefs_release(&fs);
}

static void churn_stays_in_few_groups(void **state)
{
	enum { LIVE = 2000 };
	uint64_t ring[LIVE] = { 0 }, highest = 0;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 1000 * (uint64_t)G, 1000);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t *slot = &ring[i % LIVE];

		if (*slot)
			assert_int_equal(space_free(fs.space, *slot, 4), 0);
		*slot = spacefs_take(&fs, SPACE_NODES, 4);
		if (*slot > highest)
			highest = *slot;
	}
	assert_true(highest < 2 * G);
	spacefs_release(&fs);
}

static void free_blocks_are_counted_exactly(void **state)
{
	uint64_t usable, addr[100], free;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 3 * G + 777, 1000);
	usable = free = space_free_blocks(fs.space);
	for (unsigned i = 0; i < 100; i++) {
		addr[i] = spacefs_take(&fs, (enum space_stream)(i % SPACE_STREAMS), i + 1);
		free -= i + 1;
		assert_int_equal(space_free_blocks(fs.space), free);
	}
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(space_free(fs.space, addr[i], i + 1), 0);
		free += i + 1;
		assert_int_equal(space_free_blocks(fs.space), free);
	}
	assert_int_equal(free, usable);
	assert_int_equal(space_durable_free(fs.space), usable);
	spacefs_release(&fs);
}

static void every_block_is_handed_out_once_and_then_enospc(void **state)
{
	static const uint64_t blocks[] = { 2000, G + 100, 5 * G + 50 };

	(void)state;
	for (unsigned row = 0; row < ARRAY_LEN(blocks); row++) {
		uint8_t *taken = calloc(1, blocks[row]);
		uint64_t sum = 0, addr, last = 0;
		uint32_t got;
		struct spacefs fs;
		int err;

		spacefs_init(&fs, blocks[row], 500);
		while (!(err = space_alloc(fs.space, (enum space_stream)(sum % 3), 1, 100, &addr, &got))) {
			assert_true(got >= 1 && got <= 100);
			assert_true(space_valid(fs.space, addr, got));
			for (uint32_t i = 0; i < got; i++)
				assert_int_equal(taken[addr + i]++, 0);
			sum += got;
			last = addr;
		}
		assert_int_equal(err, -ENOSPC);
		assert_int_equal(sum, space_blocks_usable(&fs.geo));
		assert_int_equal(space_free_blocks(fs.space), 0);
		assert_int_equal(space_free(fs.space, last, 1), 0);
		assert_int_equal(spacefs_take(&fs, SPACE_LARGE, 1), last);
		assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, 1, &addr, &got), -ENOSPC);
		spacefs_release(&fs);
		free(taken);
	}
}

static void enospc_means_no_run_of_min_anywhere(void **state)
{
	uint64_t addr;
	uint32_t got;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 3 * (uint64_t)G, 500);
	for (uint64_t g = 0; g < 3; g++)
		spacefs_use_up(&fs, g, 0);
	/* Single free blocks everywhere, and one run of five. */
	for (uint64_t a = 3; a < 3 * (uint64_t)G; a += 2)
		if (space_valid(fs.space, a, 1))
			assert_int_equal(space_free(fs.space, a, 1), 0);
	assert_int_equal(space_alloc(fs.space, SPACE_SMALL, 2, 2, &addr, &got), -ENOSPC);
	assert_int_equal(space_free(fs.space, 2 * G + 1000, 1), 0);
	assert_int_equal(space_free(fs.space, 2 * G + 1002, 1), 0);
	assert_int_equal(space_alloc(fs.space, SPACE_SMALL, 6, 6, &addr, &got), -ENOSPC);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 4, 64, &addr, &got), 0);
	assert_int_equal(addr, 2 * G + 999);
	assert_int_equal(got, 5);
	assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 2, 64, &addr, &got), -ENOSPC);
	assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 1, 64, &addr, &got), 0);
	assert_int_equal(got, 1);
	spacefs_release(&fs);
}

static void the_wanted_length_is_found_in_the_neighbourhood(void **state)
{
	uint64_t addr;
	uint32_t got;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 12 * (uint64_t)G, 500);
	for (uint64_t g = 0; g < 12; g++)
		spacefs_use_up(&fs, g, 0);
	assert_int_equal(space_free(fs.space, 1000, 10), 0);
	assert_int_equal(space_free(fs.space, 8 * G + 1000, 200), 0);
	assert_int_equal(space_free(fs.space, 11 * G + 1000, 300), 0);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, 256, &addr, &got), 0);
	assert_int_equal(addr, 11 * G + 1000);
	assert_int_equal(got, 256);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, 256, &addr, &got), 0);
	assert_int_equal(addr, 8 * G + 1000);
	assert_int_equal(got, 200);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, 256, &addr, &got), 0);
	assert_int_equal(addr, 11 * G + 1256);
	assert_int_equal(got, 44);
	spacefs_release(&fs);
}

static void nonsense_sizes_are_refused(void **state)
{
	uint64_t addr;
	uint32_t got;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 2 * (uint64_t)G, 500);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 0, 4, &addr, &got), -EINVAL);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 5, 4, &addr, &got), -EINVAL);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, G / 2 + 1, &addr, &got), -EINVAL);
	assert_int_equal(spacefs_take(&fs, SPACE_NODES, G / 2) % G + G / 2 <= G, 1);
	spacefs_release(&fs);
}

static void freeing_what_is_not_in_use_changes_nothing(void **state)
{
	struct space_event ev;
	uint64_t addr, free;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 2 * (uint64_t)G, 500);
	addr = spacefs_take(&fs, SPACE_NODES, 8);
	free = space_free_blocks(fs.space);
	assert_int_equal(space_free(fs.space, addr + 4, 8), -EUCLEAN);
	assert_int_equal(space_free(fs.space, addr + 8, 1), -EUCLEAN);
	assert_int_equal(space_free(fs.space, 40, 1), -EUCLEAN);
	assert_int_equal(space_free(fs.space, 2 * G, 1), -EUCLEAN);
	assert_int_equal(space_free_blocks(fs.space), free);
	ev = reached(addr + 2, 2);
	assert_int_equal(space_apply(fs.space, &ev, 1), 0);
	assert_int_equal(space_free(fs.space, addr, 8), -EUCLEAN);
	assert_int_equal(space_free_blocks(fs.space), free);
	assert_int_equal(spacefs_reports(), 5);
	spacefs_release(&fs);
}

static void marking_used_twice_counts_once(void **state)
{
	uint64_t free;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, 2 * (uint64_t)G, 500);
	free = space_free_blocks(fs.space);
	assert_int_equal(space_mark_used(fs.space, 1000, 10), 0);
	assert_int_equal(space_mark_used(fs.space, 1005, 10), 0);
	assert_int_equal(space_free_blocks(fs.space), free - 15);
	assert_int_equal(space_mark_used(fs.space, 2 * G - 1, 2), -EUCLEAN);
	assert_int_equal(space_mark_used(fs.space, 33, 1), -EUCLEAN);
	assert_int_equal(space_free_blocks(fs.space), free - 15);
	spacefs_release(&fs);
}

/* --- laziness --- */

static void opening_a_tebibyte_reads_one_page_and_the_first_allocation_two(void **state)
{
	uint64_t blocks = (UINT64_C(1) << 40) / BLOCK_SIZE;
	struct space_event ev;
	uint64_t reads;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, blocks, 8192);
	ev = reached(spacefs_take(&fs, SPACE_NODES, 4), 4);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ), 0);
	spacefs_checkpoint(&fs, &ev, 1);
	/* A bitmap, its radix page, and the root page. */
	assert_int_equal(simdev_count(fs.disk, SIMDEV_WRITE), 3);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ), 0);

	reads = simdev_count(fs.disk, SIMDEV_READ);
	spacefs_reopen(&fs);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, 1);
	assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo) - 4);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, 1);
	assert_int_equal(spacefs_take(&fs, SPACE_NODES, 4), ev.addr + 4);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, 3);
	spacefs_take(&fs, SPACE_NODES, 4);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, 3);
	spacefs_release(&fs);
}

static void full_groups_are_passed_without_reading_them(void **state)
{
	enum { GROUPS = 300 };
	struct space_event *events = calloc(GROUPS, sizeof(*events));
	uint64_t reads;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, GROUPS * (uint64_t)G, 1000);
	for (unsigned g = 0; g < GROUPS - 1; g++) {
		events[g] = spacefs_used_up(&fs, g, 0);
		spacefs_use_up(&fs, g, 0);
	}
	spacefs_checkpoint(&fs, events, GROUPS - 1);
	spacefs_reopen(&fs);
	reads = simdev_count(fs.disk, SIMDEV_READ);
	assert_int_equal(spacefs_take(&fs, SPACE_SMALL, 16) / G, GROUPS - 1);
	/* The last radix page; its only group with room was never written. */
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, 1);
	spacefs_release(&fs);
	free(events);
}

static void a_fragmented_map_is_read_through_once(void **state)
{
	enum { GROUPS = 40 };
	uint8_t *map = malloc(BITMAP_BYTES);
	uint64_t reads, addr;
	uint32_t got;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, GROUPS * (uint64_t)G, 1000);
	memset(map, 0x55, BITMAP_BYTES);
	for (uint64_t g = 0; g < GROUPS; g++)
		assert_int_equal(space_rebuild_group(fs.space, g, map), 0);
	spacefs_checkpoint(&fs, NULL, 0);
	/* Room for the radix page and a few bitmaps. */
	fs.mem_max = 64 << 10;
	spacefs_reopen(&fs);

	reads = simdev_count(fs.disk, SIMDEV_READ);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 2, 2, &addr, &got), -ENOSPC);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ) - reads, GROUPS);
	reads = simdev_count(fs.disk, SIMDEV_READ);
	assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 2, 200, &addr, &got), -ENOSPC);
	assert_int_equal(simdev_count(fs.disk, SIMDEV_READ), reads);
	assert_int_equal(space_alloc(fs.space, SPACE_LARGE, 1, 200, &addr, &got), 0);
	assert_true(simdev_count(fs.disk, SIMDEV_READ) <= reads + 1);
	spacefs_release(&fs);
	free(map);
}

static void a_long_run_is_not_looked_for_in_the_whole_map(void **state)
{
	enum { GROUPS = 100 };
	uint8_t *map = malloc(BITMAP_BYTES);
	uint64_t reads, addr;
	uint32_t got;
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, GROUPS * (uint64_t)G, 1000);
	memset(map, 0x0f, BITMAP_BYTES);
	for (uint64_t g = 0; g < GROUPS; g++)
		assert_int_equal(space_rebuild_group(fs.space, g, map), 0);
	memset(map + 1000, 0, 12);
	map[1012] = 0x0f;
	assert_int_equal(space_rebuild_group(fs.space, SPACE_STREAMS + 2, map), 0);
	spacefs_checkpoint(&fs, NULL, 0);
	spacefs_reopen(&fs);
	reads = simdev_count(fs.disk, SIMDEV_READ);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, 256, &addr, &got), 0);
	/* What was seen on the way is taken where it is longest. */
	assert_int_equal(got, 100);
	assert_true(simdev_count(fs.disk, SIMDEV_READ) - reads <= 10);
	spacefs_release(&fs);
	free(map);
}

static void pages_are_dropped_when_there_are_too_many_but_used_bits_stay(void **state)
{
	enum { GROUPS = 200 };
	struct space_event events[GROUPS];
	uint64_t reads, kept[GROUPS];
	struct spacefs fs;

	(void)state;
	spacefs_init(&fs, GROUPS * (uint64_t)G, 1000);
	for (unsigned g = 0; g < GROUPS; g++) {
		events[g] = reached(g * (uint64_t)G + 20000, 10);
		assert_int_equal(space_mark_used(fs.space, events[g].addr, 10), 0);
	}
	spacefs_checkpoint(&fs, events, GROUPS);
	spacefs_checkpoint(&fs, NULL, 0);
	fs.mem_max = 100 << 10;
	spacefs_reopen(&fs);
	for (unsigned g = 0; g < GROUPS; g += 10) {
		kept[g] = g * (uint64_t)G + 25000;
		assert_int_equal(space_mark_used(fs.space, kept[g], 3), 0);
	}
	for (unsigned round = 0; round < 3; round++) {
		reads = simdev_count(fs.disk, SIMDEV_READ);
		for (unsigned g = 0; g < GROUPS; g++)
			assert_int_equal(space_mark_used(fs.space, events[g].addr, 10), 0);
		/* Had nothing been dropped, nothing would be read. */
		assert_true(simdev_count(fs.disk, SIMDEV_READ) - reads > 100);
	}
	for (unsigned g = 0; g < GROUPS; g += 10)
		assert_int_equal(space_free(fs.space, kept[g], 3), 0);
	assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo) - 10 * GROUPS);
	spacefs_release(&fs);
}

/* --- all of them --- */

#define ROWS_MAX 100
#define ONE(f) (tests[n++] = (struct CMUnitTest){ .name = #f, .test_func = (f) })

int main(void)
{
	static struct CMUnitTest tests[ROWS_MAX];
	size_t n = 0;

	spacefs_count_reports();
	for (size_t row = 0; row < ARRAY_LEN(geometry_rows); row++)
		tests[n++] = TEST_ROW(geometry_rows[row].name, geometry, &geometry_rows[row]);
	ONE(a_map_larger_than_the_device_is_refused);
	ONE(a_run_is_valid_only_inside_its_group_and_outside_what_is_fixed);
	ONE(a_stream_allocates_in_one_piece_on_and_on);
	ONE(streams_stay_apart);
	ONE(a_full_group_is_left_for_one_no_other_stream_is_in);
	ONE(churn_stays_in_few_groups);
	ONE(free_blocks_are_counted_exactly);
	ONE(every_block_is_handed_out_once_and_then_enospc);
	ONE(enospc_means_no_run_of_min_anywhere);
	ONE(the_wanted_length_is_found_in_the_neighbourhood);
	ONE(nonsense_sizes_are_refused);
	ONE(freeing_what_is_not_in_use_changes_nothing);
	ONE(marking_used_twice_counts_once);
	ONE(opening_a_tebibyte_reads_one_page_and_the_first_allocation_two);
	ONE(full_groups_are_passed_without_reading_them);
	ONE(a_fragmented_map_is_read_through_once);
	ONE(a_long_run_is_not_looked_for_in_the_whole_map);
	ONE(pages_are_dropped_when_there_are_too_many_but_used_bits_stay);
	return _cmocka_run_group_tests("space", tests, n, NULL, NULL);
}

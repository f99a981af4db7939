#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "tests/kit/failmem.h"
#include "tests/kit/spacefs.h"
#include "tests/kit/test.h"

/* --- damage --- */

struct damage_row {
	const char *name;
	uint64_t g; /* whose page is damaged */
	unsigned level;
	bool read_error;
	uint64_t bad_from, bad_to; /* the groups that count as full from then on */
};

static const struct damage_row damage_rows[] = {
	{ "damage: a bitmap", 5, 0, false, 5, 6 },
	{ "damage: the first bitmap", 0, 0, false, 0, 1 },
	{ "damage: a bitmap that cannot be read", 5, 0, true, 5, 6 },
	{ "damage: a radix page", 128, 1, false, 128, 135 },
	{ "damage: a radix page that cannot be read", 0, 1, true, 0, 128 },
	{ "damage: the root page", 0, 2, false, 0, 135 },
};

#define DAMAGE_GROUPS 135

/* Ten blocks reached in each group. */
static void damage_prepare(struct spacefs *fs)
{
	struct space_event events[DAMAGE_GROUPS];

	spacefs_init(fs, DAMAGE_GROUPS * (uint64_t)G, 1000);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++) {
		events[g] = reached(g * G + 20000, 10);
		assert_int_equal(space_mark_used(fs->space, events[g].addr, 10), 0);
	}
	spacefs_checkpoint(fs, events, DAMAGE_GROUPS);
}

static void damage_do(struct spacefs *fs, const struct damage_row *row)
{
	if (row->read_error)
		simdev_add_fault(fs->disk, &(struct simdev_fault){ .op = SIMDEV_READ,
								   .addr = spacefs_home(row->g, row->level, 0),
								   .blocks = SPACE_HOMES });
	else
		spacefs_flip_homes(fs, row->g, row->level);
}

static bool damaged(const struct damage_row *row, uint64_t g)
{
	return g >= row->bad_from && g < row->bad_to;
}

static uint64_t group_free(const struct spacefs *fs, uint64_t g)
{
	struct space_geometry upto = fs->geo;
	uint64_t n;

	upto.blocks = (g + 1) * G;
	n = space_blocks_usable(&upto);
	upto.blocks = g * G;
	return n - (g ? space_blocks_usable(&upto) : 0) - 10;
}

static void damage_counts_as_full_and_the_rest_goes_on(void **state)
{
	const struct damage_row *row = *state;
	uint8_t *map = malloc(BITMAP_BYTES);
	uint64_t room, want, addr;
	uint32_t got;
	struct spacefs fs;

	damage_prepare(&fs);
	room = want = space_free_blocks(fs.space);
	damage_do(&fs, row);
	spacefs_reopen(&fs);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++) {
		assert_int_equal(space_bitmaps(fs.space, g, map, NULL), damaged(row, g) ? -EBADMSG : 0);
		if (damaged(row, g))
			want -= group_free(&fs, g);
	}
	assert_int_equal(spacefs_reports(), 1);
	assert_int_equal(space_free_blocks(fs.space), want);
	assert_int_equal(space_durable_free(fs.space), room);
	while (!space_alloc(fs.space, SPACE_LARGE, 1, 16000, &addr, &got)) {
		assert_false(damaged(row, addr / G));
		want -= got;
	}
	assert_int_equal(want, 0);
	assert_int_equal(space_free_blocks(fs.space), 0);
	assert_int_equal(spacefs_reports(), 0);

	/* No event there, so nothing is lost: what could not be read may be read next time. */
	spacefs_checkpoint(&fs, NULL, 0);
	simdev_clear_faults(fs.disk);
	spacefs_reopen(&fs);
	if (row->read_error) {
		for (uint64_t g = 0; g < DAMAGE_GROUPS; g++)
			assert_int_equal(space_bitmaps(fs.space, g, map, NULL), 0);
		assert_int_equal(space_free_blocks(fs.space), room);
	}
	spacefs_release(&fs);
	free(map);
}

static void an_event_in_a_damaged_page_makes_it_lost_until_it_is_rebuilt(void **state)
{
	const struct damage_row *row = *state;
	uint8_t *map = calloc(1, BITMAP_BYTES), *read = malloc(BITMAP_BYTES);
	struct space_event ev = released(row->g * G + 20002, 3);
	uint64_t room, other = 0;
	struct spacefs fs;

	damage_prepare(&fs);
	room = space_free_blocks(fs.space);
	damage_do(&fs, row);
	spacefs_reopen(&fs);
	assert_int_equal(space_mark_used(fs.space, row->g * G + 20005, 10), 0);
	spacefs_checkpoint(&fs, &ev, 1);
	assert_int_equal(space_free(fs.space, ev.addr, ev.blocks), 0);
	assert_int_equal(spacefs_reports(), 1);

	/* Were it not lost, it could be read again, without the event. */
	simdev_clear_faults(fs.disk);
	if (!row->read_error)
		spacefs_flip_homes(&fs, row->g, row->level);
	spacefs_reopen(&fs);
	assert_int_equal(space_bitmaps(fs.space, row->g, read, NULL), -EBADMSG);
	assert_int_equal(space_durable_free(fs.space), space_free_blocks(fs.space));
	assert_int_equal(spacefs_reports(), 1);

	for (uint32_t i = 20000; i < 20010; i++)
		map[i / 8] |= (uint8_t)(1 << i % 8);
	for (uint64_t g = row->bad_from; g < row->bad_to; g++)
		assert_int_equal(space_rebuild_group(fs.space, g, map), 0);
	assert_int_equal(space_free_blocks(fs.space), room);
	spacefs_checkpoint(&fs, NULL, 0);
	spacefs_reopen(&fs);
	assert_int_equal(space_free_blocks(fs.space), room);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++) {
		assert_int_equal(space_bitmaps(fs.space, g, read, NULL), 0);
		for (uint32_t i = 0; i < G; i++)
			other += bit(read, i) && space_valid(fs.space, g * G + i, 1);
	}
	assert_int_equal(other, 10 * DAMAGE_GROUPS);
	assert_int_equal(spacefs_reports(), 0);
	spacefs_release(&fs);
	free(map);
	free(read);
}

static void a_partly_rebuilt_radix_page_keeps_the_rest_lost(void **state)
{
	uint8_t *map = calloc(1, BITMAP_BYTES), *read = malloc(BITMAP_BYTES);
	struct spacefs fs;

	(void)state;
	damage_prepare(&fs);
	spacefs_flip_homes(&fs, 0, 2);
	spacefs_reopen(&fs);
	assert_int_equal(space_free_blocks(fs.space), 0);
	assert_int_equal(space_rebuild_group(fs.space, 130, map), 0);
	assert_int_equal(space_rebuild_group(fs.space, DAMAGE_GROUPS, map), -EINVAL);
	spacefs_checkpoint(&fs, NULL, 0);
	spacefs_reopen(&fs);
	assert_int_equal(space_free_blocks(fs.space), G - 3);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++)
		assert_int_equal(space_bitmaps(fs.space, g, read, NULL), g == 130 ? 0 : -EBADMSG);
	assert_int_equal(spacefs_take(&fs, SPACE_NODES, 4), 130 * (uint64_t)G + 3);
	spacefs_release(&fs);
	free(map);
	free(read);
}

static void a_read_error_of_the_root_page_is_returned(void **state)
{
	struct space *space;
	struct spacefs fs;

	(void)state;
	damage_prepare(&fs);
	simdev_add_fault(fs.disk, &(struct simdev_fault){ .op = SIMDEV_READ });
	assert_int_equal(space_open(fs.dev, &fs.geo, &fs.root, 0, &space), -EIO);
	simdev_clear_faults(fs.disk);
	assert_int_equal(space_open(fs.dev, &fs.geo, &fs.root, 0, &space), 0);
	space_close(space);
	spacefs_release(&fs);
}

struct root_row {
	const char *name;
	struct space_root add; /* to the right one */
};

static const struct root_row root_rows[] = {
	{ "root entry: another generation", { .gen = 1 } },
	{ "root entry: another checksum", { .sum = 1 } },
	{ "root entry: another count", { .free = 1 } },
	{ "root entry: a count above capacity", { .free = UINT64_C(1) << 40 } },
	{ "root entry: another home", { .home = 1 } },
	{ "root entry: no such home", { .home = 7 } },
	{ "root entry: no generation but the rest", { .gen = UINT64_MAX } },
};

static void a_wrong_root_entry_makes_a_full_map(void **state)
{
	const struct root_row *row = *state;
	struct space_root root;
	struct space_event ev;
	uint64_t addr;
	uint32_t got;
	struct spacefs fs;

	spacefs_init(&fs, 3 * G, 1000);
	ev = reached(spacefs_take(&fs, SPACE_NODES, 4), 4);
	spacefs_checkpoint(&fs, &ev, 1);
	assert_int_equal(fs.root.gen, 1);
	root = fs.root;
	root.gen += row->add.gen;
	root.sum += row->add.sum;
	root.free += row->add.free;
	root.home = (uint8_t)(root.home + row->add.home);
	space_close(fs.space);
	spacefs_open_root(&fs, &root);
	assert_int_equal(space_free_blocks(fs.space), 0);
	assert_int_equal(space_alloc(fs.space, SPACE_NODES, 1, 1, &addr, &got), -ENOSPC);
	assert_int_equal(spacefs_reports(), 1);
	/* And stays one. */
	assert_int_equal(space_mark_used(fs.space, ev.addr, 4), 0);
	spacefs_checkpoint(&fs, NULL, 0);
	spacefs_reopen(&fs);
	assert_int_equal(space_free_blocks(fs.space), 0);
	spacefs_release(&fs);
}

static void damage_is_reported_once_however_short_memory_is(void **state)
{
	struct spacefs fs;

	(void)state;
	damage_prepare(&fs);
	spacefs_flip_homes(&fs, 130, 0);
	fs.mem_max = 1;
	spacefs_reopen(&fs);
	for (unsigned round = 0; round < 3; round++)
		for (uint64_t g = 0; g < DAMAGE_GROUPS; g++)
			assert_int_equal(space_bitmaps(fs.space, g, NULL, NULL), g == 130 ? -EBADMSG : 0);
	assert_int_equal(space_mark_used(fs.space, 130 * (uint64_t)G + 10, 1), 0);
	for (unsigned round = 0; round < 4; round++) {
		spacefs_checkpoint(&fs, NULL, 0);
		for (uint64_t g = 0; g < DAMAGE_GROUPS; g++)
			assert_int_equal(space_bitmaps(fs.space, g, NULL, NULL), g == 130 ? -EBADMSG : 0);
	}
	assert_int_equal(spacefs_reports(), 1);
	spacefs_release(&fs);
}

/* --- pages whose checksums are right --- */

/* One group and a part of another; blocks 50..59 of the second are in use. */
struct crafted {
	struct space_geometry geo;
	uint64_t at[2]; /* where the bitmap of the second group and the root page lie */
	uint8_t bitmap[BLOCK_SIZE];
	struct disk_space_entry entry[SPACE_FANOUT];
	struct space_root root;
	uint64_t sum_of_bitmap_for; /* gen ^ address its checksum is made for */
};

#define CRAFTED_TAIL 1000u

static void craft(struct crafted *c)
{
	*c = (struct crafted){ .geo = { G + CRAFTED_TAIL, 47, 100 } };
	c->at[0] = spacefs_home(1, 0, 2);
	c->at[1] = spacefs_home(0, 1, 1);
	memset(c->bitmap, 0xff, BLOCK_SIZE);
	for (uint32_t i = 3; i < CRAFTED_TAIL; i++)
		if (i < 50 || i >= 60)
			c->bitmap[i / 8] &= (uint8_t) ~(1 << i % 8);
	c->sum_of_bitmap_for = 7 ^ c->at[0];
	c->entry[1].gen = le64_put(7);
	c->entry[1].free = le64_put(CRAFTED_TAIL - 3 - 10);
	c->entry[1].home = 2;
	c->root = (struct space_root){ .gen = 9, .home = 1, .free = space_blocks_usable(&c->geo) - 10 };
}

static void a_free_home(struct crafted *c)
{
	c->bitmap[0] &= 0xfe;
	c->entry[1].free = le64_put(le64_get(c->entry[1].free) + 1);
	c->root.free++;
}

static void a_free_block_past_the_end(struct crafted *c)
{
	c->bitmap[BLOCK_SIZE - 1] = 0x7f;
	c->bitmap[10] |= 1; /* the count stays right */
}

static void a_wrong_count(struct crafted *c)
{
	c->bitmap[10] |= 1;
}

static void a_checksum_for_another_home(struct crafted *c)
{
	c->sum_of_bitmap_for = 7 ^ (c->at[0] - 1);
}

static void a_checksum_for_another_generation(struct crafted *c)
{
	c->sum_of_bitmap_for = 6 ^ c->at[0];
}

static void another_generation_in_the_entry(struct crafted *c)
{
	c->entry[1].gen = le64_put(8);
}

static void no_such_home(struct crafted *c)
{
	c->entry[1].home = 3;
}

static void bytes_that_are_not_zero(struct crafted *c)
{
	c->entry[77].zero[6] = 1;
}

static void an_entry_past_the_end(struct crafted *c)
{
	c->entry[2] = c->entry[1];
	c->entry[2].free = le64_put(0);
}

static void a_count_above_capacity(struct crafted *c)
{
	c->entry[1].free = le64_put(CRAFTED_TAIL - 3 + 1);
	c->root.free += 11;
}

static void a_never_written_page_with_a_count(struct crafted *c)
{
	c->entry[0].free = le64_put(5);
}

static void a_sum_of_counts_that_is_not_the_roots(struct crafted *c)
{
	c->root.free--;
}

static void nothing_wrong(struct crafted *c)
{
	(void)c;
}

struct crafted_row {
	const char *name;
	void (*spoil)(struct crafted *);
	unsigned bad; /* groups, from the last */
};

static const struct crafted_row crafted_rows[] = {
	{ "crafted: nothing wrong", nothing_wrong, 0 },
	{ "crafted: a free home", a_free_home, 1 },
	{ "crafted: a free block past the end", a_free_block_past_the_end, 1 },
	{ "crafted: a wrong count of free blocks", a_wrong_count, 1 },
	{ "crafted: a checksum for another home", a_checksum_for_another_home, 1 },
	{ "crafted: a checksum for another generation", a_checksum_for_another_generation, 1 },
	{ "crafted: another generation in the entry", another_generation_in_the_entry, 1 },
	{ "crafted: no such home", no_such_home, 2 },
	{ "crafted: bytes that are not zero", bytes_that_are_not_zero, 2 },
	{ "crafted: an entry past the end", an_entry_past_the_end, 2 },
	{ "crafted: a count above capacity", a_count_above_capacity, 2 },
	{ "crafted: a never written page with a count", a_never_written_page_with_a_count, 2 },
	{ "crafted: a sum of counts that is not the root's", a_sum_of_counts_that_is_not_the_roots, 2 },
};

static void a_page_that_no_writer_makes_is_refused(void **state)
{
	const struct crafted_row *row = *state;
	struct spacefs fs;
	struct crafted c;

	craft(&c);
	row->spoil(&c);
	spacefs_init(&fs, c.geo.blocks, c.geo.log_blocks);
	simdev_poke(fs.disk, c.at[0], 0, c.bitmap, BLOCK_SIZE);
	c.entry[1].sum = le64_put(XXH3_64bits_withSeed(c.bitmap, BLOCK_SIZE, c.sum_of_bitmap_for));
	simdev_poke(fs.disk, c.at[1], 0, c.entry, BLOCK_SIZE);
	c.root.sum = XXH3_64bits_withSeed(c.entry, BLOCK_SIZE, c.root.gen ^ c.at[1]);
	fs.root = c.root;
	spacefs_reopen(&fs);
	assert_int_equal(space_bitmaps(fs.space, 1, NULL, NULL), row->bad > 0 ? -EBADMSG : 0);
	assert_int_equal(space_bitmaps(fs.space, 0, NULL, NULL), row->bad > 1 ? -EBADMSG : 0);
	assert_int_equal(spacefs_reports(), row->bad > 0);
	if (!row->bad)
		assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&c.geo) - 10);
	spacefs_release(&fs);
}

static void growth_leaves_damaged_groups_full(void **state)
{
	const struct damage_row *row = *state;
	uint64_t free, fresh = 0;
	struct spacefs fs;

	spacefs_init_sized(&fs, DAMAGE_GROUPS * (uint64_t)G - 900, 1000, 2 * DAMAGE_GROUPS * (uint64_t)G, false);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++)
		assert_int_equal(space_mark_used(fs.space, g * G + 20000, 10), 0);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++) {
		struct space_event ev = reached(g * G + 20000, 10);

		assert_int_equal(space_apply(fs.space, &ev, 1), 0);
	}
	spacefs_checkpoint(&fs, NULL, 0);
	damage_do(&fs, row);
	spacefs_reopen(&fs);
	for (uint64_t g = 0; g < DAMAGE_GROUPS; g++)
		space_bitmaps(fs.space, g, NULL, NULL);
	free = space_free_blocks(fs.space);
	assert_int_equal(space_grow(fs.space, 2 * DAMAGE_GROUPS * (uint64_t)G), 0);
	assert_int_equal(space_free_blocks(fs.space), free);
	spacefs_checkpoint(&fs, NULL, 0);
	assert_true(space_free_blocks(fs.space) >= free);
	fs.geo.blocks = 2 * DAMAGE_GROUPS * (uint64_t)G;
	free = space_free_blocks(fs.space);
	simdev_clear_faults(fs.disk);
	spacefs_reopen(&fs);
	for (uint64_t g = 0; g < 2 * DAMAGE_GROUPS; g++)
		fresh += space_bitmaps(fs.space, g, NULL, NULL) == 0;
	assert_true(space_free_blocks(fs.space) >= free);
	assert_true(row->level == 2 ? fresh == 0 : fresh >= DAMAGE_GROUPS);
	spacefs_reports();
	spacefs_release(&fs);
}

/* --- no memory --- */

static int op_open(struct spacefs *fs)
{
	struct space *again;
	int err = space_open(fs->dev, &fs->geo, &fs->root, 0, &again);

	if (!err)
		space_close(again);
	return err;
}

static int op_alloc(struct spacefs *fs)
{
	uint64_t addr;
	uint32_t got;
	int err = space_alloc(fs->space, SPACE_LARGE, 7000, 7000, &addr, &got);

	return err ? err : space_free(fs->space, addr, got);
}

static int op_mark_used(struct spacefs *fs)
{
	return space_mark_used(fs->space, 130 * (uint64_t)G + 20000, 10);
}

static int op_free(struct spacefs *fs)
{
	int err = space_free(fs->space, 130 * (uint64_t)G + 20000, 10);

	/* It is durable; finding that out takes loading it. */
	return err == -EUCLEAN ? 0 : err;
}

static int op_apply(struct spacefs *fs)
{
	struct space_event ev[] = {
		released(20000, 10),
		released(130 * (uint64_t)G + 20000, 10),
		reached(20000, 10),
		reached(130 * (uint64_t)G + 20000, 10),
	};

	return space_apply(fs->space, ev, ARRAY_LEN(ev));
}

static int op_write(struct spacefs *fs)
{
	struct space_event ev[] = { released(20000, 10), reached(20000, 10) };
	struct space_root root;
	int err = space_apply(fs->space, ev, ARRAY_LEN(ev));

	if (!err)
		err = spacefs_write(fs, &root);
	if (!err)
		spacefs_commit(fs, &root);
	return err;
}

static int op_bitmaps(struct spacefs *fs)
{
	return space_bitmaps(fs->space, 77, NULL, NULL);
}

static int op_rebuild(struct spacefs *fs)
{
	uint8_t map[BITMAP_BYTES] = { 0 };

	/* As it is. */
	map[20000 / 8] = 0xff;
	map[20000 / 8 + 1] = 0x03;
	return space_rebuild_group(fs->space, 133, map);
}

/* Those that would change too much look at a map of their own on the same device. */

static int op_rebuild_all_that_is_above(struct spacefs *fs)
{
	uint8_t map[BITMAP_BYTES] = { 0 };
	struct space_root wrong = fs->root;
	struct space *s;
	int err;

	wrong.sum++;
	err = space_open(fs->dev, &fs->geo, &wrong, 0, &s);
	if (err)
		return err;
	err = space_rebuild_group(s, 133, map);
	space_close(s);
	return err;
}

static int op_first_use(struct spacefs *fs)
{
	struct space_root never = { 0 };
	struct space *s;
	uint64_t addr;
	uint32_t got;
	int err = space_open(fs->dev, &fs->geo, &never, 0, &s);

	if (err)
		return err;
	err = space_alloc(s, SPACE_SMALL, 1, 1, &addr, &got);
	space_close(s);
	return err;
}

static int op_grow_by_two_levels(struct spacefs *fs)
{
	struct space_geometry small = { .blocks = 5 * G + 1000 };
	struct space_root never = { 0 };
	struct space *s;
	int err = space_open(fs->dev, &small, &never, 0, &s);

	if (err)
		return err;
	err = space_grow(s, fs->dev->geo.blocks);
	space_close(s);
	return err;
}

static int op_grow(struct spacefs *fs)
{
	return space_grow(fs->space, fs->dev->geo.blocks);
}

struct memory_row {
	const char *name;
	int (*op)(struct spacefs *);
};

static const struct memory_row memory_rows[] = {
	{ "no memory: open", op_open },
	{ "no memory: alloc", op_alloc },
	{ "no memory: mark used", op_mark_used },
	{ "no memory: free", op_free },
	{ "no memory: apply", op_apply },
	{ "no memory: write", op_write },
	{ "no memory: bitmaps", op_bitmaps },
	{ "no memory: rebuild", op_rebuild },
	{ "no memory: rebuild with all that is above", op_rebuild_all_that_is_above },
	{ "no memory: first use", op_first_use },
	{ "no memory: grow", op_grow },
	{ "no memory: grow by two levels", op_grow_by_two_levels },
};

static void without_memory_nothing_happens_and_then_it_works(void **state)
{
	int (*op)(struct spacefs *) = ((const struct memory_row *)*state)->op;
	bool more = true;

	for (uint64_t k = 1; more; k++) {
		struct space_event events[DAMAGE_GROUPS];
		uint64_t free;
		struct spacefs fs;
		int err;

		/* Room to grow by a level. */
		spacefs_init_sized(&fs, DAMAGE_GROUPS * (uint64_t)G, 1000, 17000 * (uint64_t)G, false);
		for (uint64_t g = 0; g < DAMAGE_GROUPS; g++) {
			events[g] = reached(g * G + 20000, 10);
			assert_int_equal(space_mark_used(fs.space, events[g].addr, 10), 0);
		}
		spacefs_checkpoint(&fs, events, DAMAGE_GROUPS);
		spacefs_reopen(&fs);
		free = space_free_blocks(fs.space);

		failmem_start(k, FAILMEM_ONCE);
		err = op(&fs);
		more = failmem_stop();
		assert_int_equal(err, more ? -ENOMEM : 0);
		assert_int_equal(space_free_blocks(fs.space), free);
		assert_int_equal(space_durable_free(fs.space), more || op != op_grow
								       ? free
								       : space_blocks_usable(&(struct space_geometry){
										 fs.dev->geo.blocks, 47, 1000 }) -
										 10 * DAMAGE_GROUPS);
		if (more)
			assert_int_equal(op(&fs), 0);
		spacefs_checkpoint(&fs, NULL, 0);
		if (op == op_grow)
			fs.geo.blocks = fs.dev->geo.blocks;
		spacefs_reopen(&fs);
		assert_int_equal(space_free_blocks(fs.space), space_blocks_usable(&fs.geo) - 10 * DAMAGE_GROUPS);
		spacefs_release(&fs);
	}
	spacefs_reports();
}

/* --- all of them --- */

#define ROWS_MAX 100
#define ONE(f) (tests[n++] = (struct CMUnitTest){ .name = #f, .test_func = (f) })

int main(void)
{
	static struct CMUnitTest tests[ROWS_MAX];
	size_t n = 0;

	spacefs_count_reports();
	for (size_t row = 0; row < ARRAY_LEN(damage_rows); row++)
		tests[n++] =
			TEST_ROW(damage_rows[row].name, damage_counts_as_full_and_the_rest_goes_on, &damage_rows[row]);
	for (size_t row = 0; row < ARRAY_LEN(damage_rows); row++)
		tests[n++] = TEST_ROW(damage_rows[row].name,
				      an_event_in_a_damaged_page_makes_it_lost_until_it_is_rebuilt, &damage_rows[row]);
	ONE(a_partly_rebuilt_radix_page_keeps_the_rest_lost);
	ONE(a_read_error_of_the_root_page_is_returned);
	ONE(damage_is_reported_once_however_short_memory_is);
	for (size_t row = 0; row < ARRAY_LEN(crafted_rows); row++)
		tests[n++] =
			TEST_ROW(crafted_rows[row].name, a_page_that_no_writer_makes_is_refused, &crafted_rows[row]);
	for (size_t row = 0; row < ARRAY_LEN(root_rows); row++)
		tests[n++] = TEST_ROW(root_rows[row].name, a_wrong_root_entry_makes_a_full_map, &root_rows[row]);
	for (size_t row = 0; row < ARRAY_LEN(damage_rows); row++)
		tests[n++] = TEST_ROW(damage_rows[row].name, growth_leaves_damaged_groups_full, &damage_rows[row]);
	for (size_t row = 0; row < ARRAY_LEN(memory_rows); row++)
		tests[n++] = TEST_ROW(memory_rows[row].name, without_memory_nothing_happens_and_then_it_works,
				      &memory_rows[row]);
	return _cmocka_run_group_tests("space", tests, n, NULL, NULL);
}

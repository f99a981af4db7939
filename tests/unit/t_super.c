#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node_format.h"
#include "btree/super.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"
#include "tests/kit/test.h"

#define BLOCKS 4096u

static const uint64_t slot_addr[2] = { SUPER_SLOT0, SUPER_SLOT1 };

/* --- helpers --- */

static unsigned errors, warnings; /* lines reported */

static void count_lines(void *arg, enum log_level level, const char *line)
{
	(void)arg, (void)line;
	errors += level == LOG_ERROR;
	warnings += level == LOG_WARNING;
}

static int setup(void **state)
{
	(void)state;
	errors = warnings = 0;
	err_set_sink(count_lines, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	err_set_sink(NULL, NULL);
	return 0;
}

/* Every field has a value of its own. */
static struct super valid(uint64_t serial)
{
	struct super s = {
		.node_size = 16384,
		.serial = serial,
		.uuid = "0123456789abcde",
		.label = "a label",
		.compat = UINT64_C(1) << 40,
		.ro_compat = UINT64_C(1) << 41,
		.incompat = SUPER_INCOMPAT_COPIES,
		.blocks = BLOCKS,
		.log_start = space_log_start_min() + 3,
		.log_blocks = 200,
		.mount_epoch = 7,
		.log_epoch = UINT64_C(0x1122334455667788),
		.gen = UINT64_C(7) << GEN_EPOCH_SHIFT | 99,
		.flags = SUPER_CLEAN,
		.files = { { 1000, 1004, UINT64_C(7) << GEN_EPOCH_SHIFT | 98 }, 3 },
		.system = { { 2000, 2004, UINT64_C(7) << GEN_EPOCH_SHIFT | 97 }, 1 },
		.space = { .gen = 96, .sum = 95, .free = 94, .home = 2 },
		.log_block = 12,
		.log_seq = 13,
		.log_lsn = 14,
		.claims = 15,
		.batch_max = 16,
		.secret = "fedcba987654321",
		.created = 17,
		.written = 18,
	};

	for (unsigned i = 0; i < SUPER_COUNTERS; i++)
		s.counter[i] = 100 + i;
	return s;
}

static void sign(uint8_t *block)
{
	le64 sum = le64_put(XXH3_64bits(block + sizeof(le64), BLOCK_SIZE - sizeof(le64)));

	memcpy(block, &sum, sizeof(sum));
}

static void assert_same(const struct super *a, const struct super *b)
{
	assert_int_equal(a->node_size, b->node_size);
	assert_int_equal(a->serial, b->serial);
	assert_memory_equal(a->uuid, b->uuid, sizeof(a->uuid));
	assert_memory_equal(a->label, b->label, sizeof(a->label));
	assert_int_equal(a->compat, b->compat);
	assert_int_equal(a->ro_compat, b->ro_compat);
	assert_int_equal(a->incompat, b->incompat);
	assert_int_equal(a->blocks, b->blocks);
	assert_int_equal(a->log_start, b->log_start);
	assert_int_equal(a->log_blocks, b->log_blocks);
	assert_int_equal(a->mount_epoch, b->mount_epoch);
	assert_int_equal(a->log_epoch, b->log_epoch);
	assert_int_equal(a->gen, b->gen);
	assert_int_equal(a->flags, b->flags);
	assert_true(root_equal(a->files, b->files) && a->files.ref.copy == b->files.ref.copy);
	assert_true(root_equal(a->system, b->system) && a->system.ref.copy == b->system.ref.copy);
	assert_int_equal(a->space.gen, b->space.gen);
	assert_int_equal(a->space.sum, b->space.sum);
	assert_int_equal(a->space.free, b->space.free);
	assert_int_equal(a->space.home, b->space.home);
	assert_int_equal(a->log_block, b->log_block);
	assert_int_equal(a->log_seq, b->log_seq);
	assert_int_equal(a->log_lsn, b->log_lsn);
	assert_int_equal(a->claims, b->claims);
	assert_int_equal(a->batch_max, b->batch_max);
	assert_memory_equal(a->counter, b->counter, sizeof(a->counter));
	assert_memory_equal(a->secret, b->secret, sizeof(a->secret));
	assert_int_equal(a->created, b->created);
	assert_int_equal(a->written, b->written);
}

/* --- one slot --- */

static void what_was_encoded_is_decoded(void **state)
{
	uint8_t block[BLOCK_SIZE];

	(void)state;
	for (unsigned slot = 0; slot < 2; slot++) {
		struct super s = valid(5), t;

		memset(block, 0xa5, sizeof(block));
		super_encode(&s, slot, block);
		assert_int_equal(super_decode(block, slot, &t), 0);
		assert_same(&s, &t);
	}
	assert_int_equal(errors + warnings, 0);
}

static void the_longest_label_is_kept_and_ends(void **state)
{
	struct super s = valid(5), t;
	uint8_t block[BLOCK_SIZE];

	(void)state;
	memset(s.label, 'x', SUPER_LABEL_MAX);
	super_encode(&s, 0, block);
	memset(&t, 'y', sizeof(t));
	assert_int_equal(super_decode(block, 0, &t), 0);
	assert_int_equal(strlen(t.label), SUPER_LABEL_MAX);
	assert_string_equal(t.label, s.label);
}

static void trees_may_be_empty(void **state)
{
	struct super s = valid(5), t;
	uint8_t block[BLOCK_SIZE];

	(void)state;
	s.files = s.system = (struct root){ 0 };
	super_encode(&s, 0, block);
	assert_int_equal(super_decode(block, 0, &t), 0);
	assert_same(&s, &t);
}

static void any_flipped_bit_is_found(void **state)
{
	struct super s = valid(5), t;
	uint8_t block[BLOCK_SIZE];

	(void)state;
	super_encode(&s, 0, block);
	for (unsigned bit = 0; bit < BLOCK_SIZE * 8; bit++) {
		bool magic = bit / 8 >= 8 && bit / 8 < 16;

		block[bit / 8] ^= 1u << bit % 8;
		assert_int_equal(super_decode(block, 0, &t), magic ? -ENODEV : -EBADMSG);
		block[bit / 8] ^= 1u << bit % 8;
	}
}

/* A field set to a value, the checksum put right. */
struct damage {
	const char *name;
	unsigned offset, width; /* as super_format.h has them */
	uint64_t value;
	int err;
	unsigned reports; /* lines */
	struct {
		unsigned offset, width;
		uint64_t value;
	} also; /* width 0: nothing */
};

static void set(uint8_t *block, unsigned offset, unsigned width, uint64_t value)
{
	le64 v = le64_put(value);

	assert_true(width <= 8 && offset + width <= BLOCK_SIZE);
	memcpy(block + offset, &v, width);
}

static void decode_damaged(void **state)
{
	const struct damage *row = *state;
	struct super s = valid(5), t;
	uint8_t block[BLOCK_SIZE];

	errors = warnings = 0;
	super_encode(&s, 0, block);
	set(block, row->offset, row->width, row->value);
	set(block, row->also.offset, row->also.width, row->also.value);
	sign(block);
	assert_int_equal(super_decode(block, 0, &t), row->err);
	assert_int_equal(errors, row->reports);
}

#define LOG_START 144
#define LOG_BLOCKS 152
#define FILES 192
#define SYSTEM 224

static const struct damage damages[] = {
	{ "another_magic_is_not_ours", 8, 1, 'B', -ENODEV, 0 },
	{ "version_0_is_refused", 16, 4, 0, -EPROTONOSUPPORT, 1 },
	{ "a_newer_version_is_refused", 16, 4, 2, -EPROTONOSUPPORT, 1 },
	{ "node_size_0", 20, 4, 0, -EUCLEAN, 1 },
	{ "node_size_too_small", 20, 4, 2048, -EUCLEAN, 1 },
	{ "node_size_too_large", 20, 4, 65536, -EUCLEAN, 1 },
	{ "node_size_not_a_power_of_two", 20, 4, 12288, -EUCLEAN, 1 },
	{ "smallest_node_size_is_right", 20, 4, 4096, 0, 0 },
	{ "largest_node_size_is_right", 20, 4, 32768, 0, 0 },
	{ "unknown_compat_bits_are_let_through", 112, 8, UINT64_MAX, 0, 0 },
	{ "unknown_ro_compat_bits_are_let_through", 120, 8, UINT64_MAX, 0, 0 },
	{ "an_unknown_incompat_bit_is_refused", 128, 8, 2, -EPROTONOSUPPORT, 1 },
	{ "the_last_incompat_bit_is_refused", 128, 8, UINT64_C(1) << 63, -EPROTONOSUPPORT, 1 },
	{ "no_blocks", 136, 8, 0, -EUCLEAN, 1 },
	{ "more_blocks_than_bytes_can_be_counted", 136, 8, UINT64_C(1) << 51, -EUCLEAN, 1 },
	{ "log_starts_on_a_superblock", LOG_START, 8, 0, -EUCLEAN, 1 },
	{ "log_starts_inside_the_space_maps_homes", LOG_START, 8, 40, -EUCLEAN, 1 },
	{ "log_starts_behind_the_end", LOG_START, 8, BLOCKS, -EUCLEAN, 1 },
	{ "log_of_no_blocks", LOG_BLOCKS, 8, 0, -EUCLEAN, 1 },
	{ "log_too_small_to_be_used", LOG_BLOCKS, 8, SUPER_LOG_BLOCKS_MIN - 1, -EUCLEAN, 1 },
	{ "log_ends_behind_the_end", LOG_BLOCKS, 8, BLOCKS, -EUCLEAN, 1 },
	{ "log_ends_behind_group_0", LOG_BLOCKS, 8, SPACE_GROUP_BLOCKS, -EUCLEAN, 1, { 136, 8, UINT64_C(1) << 40 } },
	{ "log_wraps_around_from_its_length", LOG_BLOCKS, 8, UINT64_MAX - 10, -EUCLEAN, 1 },
	{ "log_wraps_around_from_its_start", LOG_START, 8, UINT64_MAX - 10, -EUCLEAN, 1 },
	{ "log_wraps_around_exactly", LOG_START, 8, UINT64_C(1) << 63, -EUCLEAN, 1,
	  { LOG_BLOCKS, 8, UINT64_C(1) << 63 } },
	{ "mount_epoch_beyond_its_24_bits", 160, 8, UINT64_C(1) << 24, -EUCLEAN, 1 },
	{ "last_mount_epoch_is_right", 160, 8, (UINT64_C(1) << 24) - 1, 0, 0 },
	{ "written_to_the_other_slot", 188, 4, 1, -EBADMSG, 1 },
	{ "written_to_no_slot", 188, 4, 2, -EBADMSG, 1 },
	{ "file_tree_too_high", FILES + 24, 4, NODE_LEVELS_MAX + 1, -EUCLEAN, 1 },
	{ "highest_file_tree_is_right", FILES + 24, 4, NODE_LEVELS_MAX, 0, 0 },
	{ "file_tree_with_levels_and_no_root", FILES, 8, 0, -EUCLEAN, 1 },
	{ "file_tree_with_a_root_and_no_levels", FILES + 24, 4, 0, -EUCLEAN, 1 },
	{ "file_root_behind_the_end", FILES, 8, BLOCKS, -EUCLEAN, 1 },
	{ "second_copy_of_the_file_root_behind_the_end", FILES + 8, 8, BLOCKS, -EUCLEAN, 1 },
	{ "system_tree_too_high", SYSTEM + 24, 4, UINT32_MAX, -EUCLEAN, 1 },
	{ "system_tree_with_levels_and_no_root", SYSTEM, 8, 0, -EUCLEAN, 1 },
	{ "system_tree_with_a_root_and_no_levels", SYSTEM + 24, 4, 0, -EUCLEAN, 1 },
	{ "system_root_behind_the_end", SYSTEM, 8, UINT64_MAX, -EUCLEAN, 1 },
	{ "second_copy_of_the_system_root_behind_the_end", SYSTEM + 8, 8, BLOCKS, -EUCLEAN, 1 },
	{ "space_map_at_a_home_that_is_none", 256 + 24, 1, SPACE_HOMES, -EUCLEAN, 1 },
	{ "log_position_behind_the_log", 288, 8, 200, -EUCLEAN, 1 },
	{ "last_log_position_is_right", 288, 8, 199, 0, 0 },
	{ "log_goes_on_with_segment_0", 296, 8, 0, -EUCLEAN, 1 },
	{ "log_goes_on_with_a_segment_that_is_never_reached", 296, 8, UINT64_MAX, -EUCLEAN, 1 },
	{ "log_goes_on_with_record_0", 304, 8, 0, -EUCLEAN, 1 },
	{ "log_goes_on_with_a_record_that_is_never_reached", 304, 8, UINT64_MAX, -EUCLEAN, 1 },
};

/* --- both slots --- */

static struct simdev *new_disk(void)
{
	return simdev_new(&(struct simdev_options){ .blocks = BLOCKS });
}

/* serial 0: leaves the slot empty. */
static struct simdev *disk_with(uint64_t serial0, uint64_t serial1)
{
	struct simdev *sd = new_disk();
	struct super s[2] = { valid(serial0), valid(serial1) };

	for (unsigned slot = 0; slot < 2; slot++) {
		if (s[slot].serial)
			assert_int_equal(super_write(simdev_bdev(sd), slot, &s[slot]), 0);
	}
	return sd;
}

/* Sets a field of a slot on the disk and puts its checksum right. */
static void set_on_disk(struct simdev *sd, unsigned slot, unsigned offset, unsigned width, uint64_t value)
{
	uint8_t block[BLOCK_SIZE];

	simdev_peek(sd, slot_addr[slot], block, 1);
	set(block, offset, width, value);
	sign(block);
	simdev_poke(sd, slot_addr[slot], 0, block, sizeof(block));
}

struct choice {
	const char *name;
	uint64_t serial[2];   /* 0: the slot is empty */
	int flip;	      /* slot with a flipped bit, 2: both, -1: none */
	int err;
	unsigned slot;
	bool other_ok;
	unsigned errors, warnings;
};

static void load_choice(void **state)
{
	const struct choice *row = *state;
	struct simdev *sd = disk_with(row->serial[0], row->serial[1]);
	unsigned slot = 99;
	bool other_ok = !row->other_ok;
	struct super s;

	errors = warnings = 0;
	for (int i = 0; i < 2; i++) {
		if (row->flip == i || row->flip == 2)
			simdev_flip(sd, slot_addr[i], 3000);
	}
	assert_int_equal(super_load(simdev_bdev(sd), &s, &slot, &other_ok), row->err);
	if (!row->err) {
		struct super want = valid(row->serial[row->slot]);

		assert_int_equal(slot, row->slot);
		assert_int_equal(other_ok, row->other_ok);
		assert_same(&s, &want);
	}
	assert_int_equal(errors, row->errors);
	assert_int_equal(warnings, row->warnings);
	simdev_free(sd);
}

static const struct choice choices[] = {
	{ "the_newer_slot_is_taken_when_it_is_1", { 5, 6 }, -1, 0, 1, true, 0, 0 },
	{ "the_newer_slot_is_taken_when_it_is_0", { 7, 6 }, -1, 0, 0, true, 0, 0 },
	{ "serials_compare_as_unsigned_numbers", { 1, UINT64_MAX }, -1, 0, 1, true, 0, 0 },
	{ "the_older_slot_serves_when_the_newer_is_damaged", { 5, 6 }, 1, 0, 0, false, 1, 1 },
	{ "the_newer_slot_serves_when_the_older_is_damaged", { 5, 6 }, 0, 0, 1, false, 1, 1 },
	{ "slot_1_serves_when_slot_0_is_empty", { 0, 6 }, -1, 0, 1, false, 0, 1 },
	{ "slot_0_serves_when_slot_1_is_empty", { 5, 0 }, -1, 0, 0, false, 0, 1 },
	{ "both_slots_empty_is_no_filesystem_of_ours", { 0, 0 }, -1, -ENODEV, 0, false, 0, 0 },
	{ "both_slots_damaged_is_said_so", { 5, 6 }, 2, -EBADMSG, 0, false, 2, 0 },
	{ "slot_0_damaged_and_slot_1_empty_is_damage", { 5, 0 }, 0, -EBADMSG, 0, false, 1, 0 },
	{ "slot_1_damaged_and_slot_0_empty_is_damage", { 0, 6 }, 1, -EBADMSG, 0, false, 1, 0 },
};

static void a_newer_format_in_either_slot_is_refused(void **state)
{
	(void)state;
	for (unsigned newer = 0; newer < 2; newer++) {
		struct simdev *sd = disk_with(5, 6);
		struct super s;
		unsigned slot;
		bool other_ok;

		set_on_disk(sd, newer, 128, 8, 4);
		assert_int_equal(super_load(simdev_bdev(sd), &s, &slot, &other_ok), -EPROTONOSUPPORT);
		simdev_free(sd);
	}
}

static void a_slot_that_cannot_be_read_is_done_without(void **state)
{
	(void)state;
	for (unsigned bad = 0; bad < 2; bad++) {
		struct simdev *sd = disk_with(5, 6);
		struct super s;
		unsigned slot;
		bool other_ok;

		simdev_add_fault(sd, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = slot_addr[bad], .blocks = 1 });
		assert_int_equal(super_load(simdev_bdev(sd), &s, &slot, &other_ok), 0);
		assert_int_equal(slot, !bad);
		assert_false(other_ok);
		assert_int_equal(warnings, 1 + bad);
		simdev_free(sd);
	}
}

static void a_device_that_cannot_be_read_is_an_error(void **state)
{
	struct simdev *sd = disk_with(5, 6);
	struct super s;
	unsigned slot;
	bool other_ok;

	(void)state;
	simdev_add_fault(sd, &(struct simdev_fault){ .op = SIMDEV_READ });
	assert_int_equal(super_load(simdev_bdev(sd), &s, &slot, &other_ok), -EIO);
	simdev_free(sd);
}

static void a_device_smaller_than_the_filesystem_is_refused(void **state)
{
	struct simdev *sd = disk_with(5, 6);
	struct bdev *dev = simdev_bdev(sd);
	struct super s;
	unsigned slot;
	bool other_ok;

	(void)state;
	simdev_set_blocks(sd, BLOCKS - 1);
	assert_int_equal(bdev_resize(dev), 0);
	assert_int_equal(super_load(dev, &s, &slot, &other_ok), -ENXIO);
	assert_int_equal(errors, 1);
	simdev_set_blocks(sd, BLOCKS);
	assert_int_equal(bdev_resize(dev), 0);
	assert_int_equal(super_load(dev, &s, &slot, &other_ok), 0);
	simdev_free(sd);
}

static void a_device_without_room_for_slot_1_is_no_filesystem(void **state)
{
	struct simdev *sd = simdev_new(&(struct simdev_options){ .blocks = SUPER_SLOT1 });
	struct super s;
	unsigned slot;
	bool other_ok;

	(void)state;
	assert_int_equal(super_load(simdev_bdev(sd), &s, &slot, &other_ok), -ENODEV);
	assert_int_equal(errors + warnings, 0);
	simdev_free(sd);
}

/* Whatever of a superblock's write reaches the disk: the old state or the new one, and the other slot untouched. */
static void a_torn_slot_leaves_the_other(void **state)
{
	static const enum simdev_choice choice[] = { SIMDEV_TEAR, SIMDEV_DROP, SIMDEV_KEEP };
	struct simdev *sd = disk_with(5, 6);
	struct super s = valid(7);
	unsigned old = 0, new = 0;

	(void)state;
	/* So that every sector differs between the two. */
	memset(s.secret, 0xee, sizeof(s.secret));
	assert_int_equal(bdev_flush(simdev_bdev(sd)), 0);
	assert_int_equal(super_write(simdev_bdev(sd), 0, &s), 0);
	assert_int_equal(simdev_unflushed(sd, simdev_ops(sd)), 1);
	for (uint64_t seed = 0; seed < 64; seed++) {
		struct simdev *after = simdev_branch(sd, simdev_ops(sd), &choice[seed % 3], seed);
		struct super t;
		unsigned slot;
		bool other_ok;

		assert_int_equal(super_load(simdev_bdev(after), &t, &slot, &other_ok), 0);
		assert_true((slot == 0 && t.serial == 7) || (slot == 1 && t.serial == 6));
		old += slot == 1;
		new += slot == 0;
		simdev_free(after);
	}
	assert_true(old > 0 && new > 0);
	simdev_free(sd);
}

static void a_write_that_fails_is_reported_to_the_caller(void **state)
{
	struct simdev *sd = disk_with(5, 6);
	struct super s = valid(7);

	(void)state;
	simdev_add_fault(sd, &(struct simdev_fault){ .op = SIMDEV_WRITE });
	assert_int_equal(super_write(simdev_bdev(sd), 0, &s), -EIO);
	simdev_free(sd);
}

static bool no_memory(void *arg, size_t bytes)
{
	(void)arg, (void)bytes;
	return false;
}

static void without_memory_nothing_is_done(void **state)
{
	struct simdev *sd = disk_with(5, 6);
	struct bdev *dev = simdev_bdev(sd);
	struct super s = valid(7);
	uint64_t ops = simdev_ops(sd);
	unsigned slot;
	bool other_ok;
	int load_err, write_err;

	(void)state;
	mem_set_hook(no_memory, NULL);
	load_err = super_load(dev, &s, &slot, &other_ok);
	write_err = super_write(dev, 0, &s);
	mem_set_hook(NULL, NULL);
	assert_int_equal(load_err, -ENOMEM);
	assert_int_equal(write_err, -ENOMEM);
	assert_int_equal(simdev_ops(sd), ops);
	simdev_free(sd);
}

int main(void)
{
	const struct CMUnitTest plain[] = {
		cmocka_unit_test_setup(what_was_encoded_is_decoded, setup),
		cmocka_unit_test_setup(the_longest_label_is_kept_and_ends, setup),
		cmocka_unit_test_setup(trees_may_be_empty, setup),
		cmocka_unit_test_setup(any_flipped_bit_is_found, setup),
		cmocka_unit_test_setup(a_newer_format_in_either_slot_is_refused, setup),
		cmocka_unit_test_setup(a_slot_that_cannot_be_read_is_done_without, setup),
		cmocka_unit_test_setup(a_device_that_cannot_be_read_is_an_error, setup),
		cmocka_unit_test_setup(a_device_smaller_than_the_filesystem_is_refused, setup),
		cmocka_unit_test_setup(a_device_without_room_for_slot_1_is_no_filesystem, setup),
		cmocka_unit_test_setup(a_torn_slot_leaves_the_other, setup),
		cmocka_unit_test_setup(a_write_that_fails_is_reported_to_the_caller, setup),
		cmocka_unit_test_setup(without_memory_nothing_is_done, setup),
	};
	struct CMUnitTest tests[ARRAY_LEN(plain) + ARRAY_LEN(damages) + ARRAY_LEN(choices)];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(plain); i++)
		tests[n++] = plain[i];
	for (size_t i = 0; i < ARRAY_LEN(damages); i++)
		tests[n++] = TEST_ROW(damages[i].name, decode_damaged, &damages[i]);
	for (size_t i = 0; i < ARRAY_LEN(choices); i++)
		tests[n++] = TEST_ROW(choices[i].name, load_choice, &choices[i]);
	return cmocka_run_group_tests(tests, setup, teardown);
}

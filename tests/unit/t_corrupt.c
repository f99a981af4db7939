/*
 * t_corrupt.c - no change of the image gives wrong data
 *
 * A valid image (snapshots, clones, data, a log that must be replayed) is damaged in one block: flipped bits, zeros,
 * another block's content, the same block's content of an earlier time. Then the store either refuses to open, or
 * everything read equals the model, or reading gives an error. It never gives anything else, and it never falls over.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/node_format.h"
#include "btree/super_format.h"
#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rebuildkit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"
#include "wal/log_format.h"

#define BLOCKS 800u
#define SEED 1u

static const struct kv_op early_ops[] = {
	{ .action = KV_PUT_MANY, .ino = 9, .n = 16, .len = 900 },
	{ .action = KV_PUT_MANY, .ino = 12, .n = 16, .len = 900 },
	{ .action = KV_PUT_MANY, .ino = 14, .n = 16, .len = 900 },
	{ .action = KV_EXTENT, .ino = 20, .n = 3, .seed = 1 },
	{ .action = KV_EXTENT, .ino = 21, .n = 20, .seed = 1 },
	{ .action = KV_CLONE, .ino = 20, .ino2 = 22 },
	{ .action = KV_SNAP_CREATE, .slot = 1 },
	{ .action = KV_SPLIT, .ino = 21, .seed = 1 },
	{ .action = KV_PUT_MANY, .ino = 9, .off = 4, .n = 8, .len = 500 },
	{ .action = KV_SYNC },
};

static const struct kv_op late_ops[] = {
	{ .action = KV_DEL_INO, .ino = 12 },
	{ .action = KV_EXTENT, .ino = 20, .n = 2, .seed = 2 },
	{ .action = KV_SNAP_CREATE, .slot = 2 },
	{ .action = KV_PUT_MANY, .ino = 12, .n = 10, .len = 300 },
	{ .action = KV_CHECKPOINT },
	{ .action = KV_DEL, .ino = 22 },
	{ .action = KV_CHECKPOINT },
	{ .action = KV_PUT, .ino = 10, .len = 100 },
	{ .action = KV_EXTENT, .ino = 23, .n = 1, .seed = 3 },
	{ .action = KV_SYNC },
	{ .action = KV_EXTENT, .ino = 24, .n = 18, .seed = 3 },
	{ .action = KV_SYNC },
	{ .action = KV_PUT, .ino = 11, .len = 100 },
	{ .action = KV_SYNC },
	/* Says that all before it is durable. */
	{ .action = KV_TICK },
	{ .action = KV_TICK },
};

enum kind { SUPER, LOG, NODE, SPACE, DATA, UNUSED, KINDS };
static const char *const kind_names[KINDS] = { "superblocks", "log", "nodes", "space map", "data", "unused" };

struct fixture {
	struct simdev *disk;   /* killed, to be cloned */
	struct simdev *early;  /* the same some time ago */
	struct world world;
	struct store_options opt;
	uint64_t log_start, log_blocks;
	struct {
		unsigned tried, refused, error, fine, other;
	} result[KINDS];
};

static void fixture_make(struct fixture *f, bool copies)
{
	struct store_mkfs_options mkfs = kv_mkfs_options;
	_Alignas(BLOCK_SIZE) struct disk_super super;
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = BLOCKS, .seed = 3, .no_trace = true });
	struct kv_run run;

	memset(f, 0, sizeof(*f));
	f->opt = kv_store_options;
	f->opt.records = &kv_records;
	mkfs.copies = copies;
	kv_run_init(&run, disk, &f->opt, NULL, 9);
	assert_int_equal(store_mkfs(simdev_bdev(disk), &mkfs), 0);
	assert_int_equal(kv_run_open(&run), 0);
	rebuildkit_ops(&run, early_ops, ARRAY_LEN(early_ops));
	f->early = simdev_clone(disk);
	rebuildkit_ops(&run, late_ops, ARRAY_LEN(late_ops));
	kv_run_kill(&run);
	world_copy(&f->world, model_now(&run.model));
	kv_run_release(&run);
	f->disk = disk;
	simdev_peek(disk, SUPER_SLOT0, &super, 1);
	f->log_start = le64_get(super.log_start);
	f->log_blocks = le64_get(super.log_blocks);
}

static void fixture_release(struct fixture *f)
{
	simdev_free(f->disk);
	simdev_free(f->early);
	world_release(&f->world);
}

static bool is_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, BLOCK_SIZE - 1) == 0;
}

static enum kind kind_of(const struct fixture *f, uint64_t addr, const uint8_t *block)
{
	if (addr == SUPER_SLOT0 || addr == SUPER_SLOT1)
		return SUPER;
	if (addr >= f->log_start && addr < f->log_start + f->log_blocks)
		return LOG;
	if (is_zero(block))
		return UNUSED;
	if (addr < f->log_start)
		return SPACE;
	if (le32_get(((const struct disk_node *)block)->magic) == NODE_MAGIC)
		return NODE;
	return DATA;
}

/* Opens a damaged disk. The damage is done; nothing may be said that is not so. */
static void try_damaged(struct fixture *f, struct simdev *disk, enum kind kind, const char *what, uint64_t addr,
			bool read_only)
{
	struct store_options opt = f->opt;
	struct store *store = NULL;
	char why[300] = "";
	struct world w;
	int err;

	kv_log_clear();
	opt.seed = addr + 1000;
	opt.read_only = read_only;
	f->result[kind].tried++;
	err = store_open(simdev_bdev(disk), &opt, &store);
	if (err) {
		f->result[kind].refused++;
		return;
	}
	err = kv_world_read(store, &w, why, sizeof(why));
	if (!err && !world_equal(&w, &f->world)) {
		world_print_diff(stdout, "read", &w, "right", &f->world);
		printf("# %s, %s at block %" PRIu64 "%s: wrong content\n", kind_names[kind], what, addr,
		       read_only ? ", read-only" : "");
		kv_log_print(stdout);
		fflush(stdout);
		fail();
	}
	if (err == -EPROTO) {
		printf("# %s, %s at block %" PRIu64 ": %s\n", kind_names[kind], what, addr, why);
		kv_log_print(stdout);
		fflush(stdout);
		fail();
	}
	if (err) {
		f->result[kind].error++;
	} else {
		world_release(&w);
		f->result[kind].fine++;
	}
	/* Finds it, or finds nothing; but comes to an end. */
	if (!read_only) {
		struct check_result res;

		(void)store_check(store, &res);
	}
	store_crash(store);
}

static void try_block(struct fixture *f, uint64_t addr, enum kind kind, struct rng *rng)
{
	uint8_t block[BLOCK_SIZE], other[BLOCK_SIZE];

	for (unsigned how = 0; how < 6; how++) {
		struct simdev *disk = simdev_clone(f->disk);
		const char *what = "";
		bool same = false;

		simdev_peek(disk, addr, block, 1);
		memcpy(other, block, BLOCK_SIZE);
		switch (how) {
		case 0:
			what = "a flipped bit";
			other[rng_below(rng, rng_chance(rng, 1, 2) ? 128 : BLOCK_SIZE)] ^= (uint8_t)(1u << rng_below(rng, 8));
			break;
		case 1:
			what = "zeros";
			memset(other, 0, BLOCK_SIZE);
			break;
		case 2:
			what = "a block written elsewhere";
			do {
				uint64_t from = rng_below(rng, BLOCKS);

				simdev_peek(disk, from, other, 1);
				same = from == addr;
			} while (is_zero(other) || same);
			break;
		case 3:
			what = "what was there before";
			simdev_peek(f->early, addr, other, 1);
			break;
		case 4:
			what = "junk";
			rng_bytes(rng, other + rng_below(rng, 8) * 512, 512);
			break;
		case 5:
			/* One of two slots, the other log segment ...: the same kind, the same size. */
			what = "its neighbour's content";
			simdev_peek(disk, kind == SUPER ? SUPER_SLOT0 + SUPER_SLOT1 - addr : addr + 1, other, 1);
			break;
		}
		if (memcmp(block, other, BLOCK_SIZE) != 0) {
			simdev_poke(disk, addr, 0, other, BLOCK_SIZE);
			try_damaged(f, disk, kind, what, addr, how == 4 && rng_chance(rng, 1, 4));
		}
		simdev_free(disk);
	}
}

static void print_results(const struct fixture *f)
{
	for (unsigned k = 0; k < KINDS; k++)
		printf("# %s: %u tried, %u refused, %u errors while reading, %u not concerned\n", kind_names[k],
		       f->result[k].tried, f->result[k].refused, f->result[k].error, f->result[k].fine);
}

static void damage_in_any_block_gives_the_right_content_or_an_error(void **state)
{
	struct fixture f;
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, SEED);
	fixture_make(&f, false);
	for (uint64_t addr = 0; addr < BLOCKS; addr++) {
		uint8_t block[BLOCK_SIZE];
		enum kind kind;

		simdev_peek(f.disk, addr, block, 1);
		kind = kind_of(&f, addr, block);
		if (kind == UNUSED && !rng_chance(&rng, 1, 40))
			continue;
		if (kind == LOG && is_zero(block) && !rng_chance(&rng, 1, 8))
			continue;
		try_block(&f, addr, kind, &rng);
	}
	print_results(&f);
	/* That it was tried at all. One slot alone is never missed; nodes are. */
	assert_true(f.result[SUPER].tried > 8 && f.result[SUPER].fine == f.result[SUPER].tried);
	assert_true(f.result[NODE].tried > 50 && f.result[NODE].error + f.result[NODE].refused > 20);
	assert_true(f.result[LOG].tried > 20 && f.result[LOG].refused > 5);
	assert_true(f.result[DATA].error > 30);
	assert_true(f.result[SPACE].tried > 3);
	fixture_release(&f);
}

/* Each byte of the blocks everything hangs on. */
static void every_byte_of_a_superblock_counts(void **state)
{
	struct fixture f;

	(void)state;
	fixture_make(&f, false);
	for (unsigned byte = 0; byte < BLOCK_SIZE; byte += byte < 432 ? 1 : 61) {
		struct simdev *disk = simdev_clone(f.disk);
		uint64_t addr = byte % 2 ? SUPER_SLOT0 : SUPER_SLOT1;

		simdev_flip(disk, addr, byte * 8 + byte % 8);
		try_damaged(&f, disk, SUPER, "a flipped bit", addr, false);
		simdev_free(disk);
	}
	assert_int_equal(f.result[SUPER].fine, f.result[SUPER].tried);

	/* Both at once: nothing to open. */
	for (unsigned byte = 0; byte < 432; byte += 7) {
		struct simdev *disk = simdev_clone(f.disk);

		simdev_flip(disk, SUPER_SLOT0, byte * 8);
		simdev_flip(disk, SUPER_SLOT1, byte * 8 + 1);
		try_damaged(&f, disk, SUPER, "both slots", byte, false);
		simdev_free(disk);
	}
	assert_int_equal(f.result[SUPER].refused, (431 + 7) / 7);
	fixture_release(&f);
}

/* With second copies no single bad node costs anything. */
static void with_second_copies_a_bad_node_is_read_from_the_other_and_mended(void **state)
{
	struct fixture f;
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, SEED);
	fixture_make(&f, true);
	for (uint64_t addr = f.log_start + f.log_blocks; addr < BLOCKS; addr++) {
		uint8_t block[BLOCK_SIZE];

		simdev_peek(f.disk, addr, block, 1);
		if (kind_of(&f, addr, block) == NODE)
			try_block(&f, addr, NODE, &rng);
	}
	print_results(&f);
	assert_true(f.result[NODE].tried > 50);
	assert_int_equal(f.result[NODE].fine, f.result[NODE].tried);
	fixture_release(&f);
}

static void junk_is_not_taken_for_a_store(void **state)
{
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, SEED);
	for (unsigned i = 0; i < 20; i++) {
		struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = i < 4 ? 1 + i * 10 : BLOCKS });
		struct store_options opt = kv_store_options;
		struct store *store = NULL;
		uint8_t junk[BLOCK_SIZE];

		opt.records = &kv_records;
		for (uint64_t addr = 0; i % 4 && addr < BLOCKS && i >= 4; addr++) {
			rng_bytes(&rng, junk, sizeof(junk));
			simdev_poke(disk, addr, 0, junk, sizeof(junk));
		}
		assert_int_not_equal(store_open(simdev_bdev(disk), &opt, &store), 0);
		simdev_free(disk);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damage_in_any_block_gives_the_right_content_or_an_error),
		cmocka_unit_test(every_byte_of_a_superblock_counts),
		cmocka_unit_test(with_second_copies_a_bad_node_is_read_from_the_other_and_mended),
		cmocka_unit_test(junk_is_not_taken_for_a_store),
	};

	kv_log_quiet();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * t_rebuild_faults.c - a rebuilding that is disturbed does no harm
 *
 * Power cuts before each of its writes, allocations and transfers that fail one after the other, a device without room, an
 * upper layer that says no, superblocks and pages that cannot be read: afterwards the store is as damaged as before, or it is
 * whole, and rebuilding it again leads to the same.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/node_format.h"
#include "btree/space.h"
#include "btree/super.h"
#include "tests/kit/failmem.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rebuildkit.h"
#include "tests/kit/test.h"
#include "wal/salvage.h"

#define SEED 1u

/* Two nodes and a page of the map; with a log to replay, the log too. */
static struct simdev *damaged(struct rebuildkit *f, uint64_t seed)
{
	struct simdev *disk = simdev_clone(f->disk);
	unsigned nodes = 2;
	struct rng rng;

	rng_seed(&rng, seed);
	for (unsigned tries = 0; nodes && tries < 10000; tries++) {
		uint64_t addr = rng_below(&rng, REBUILDKIT_BLOCKS);

		if (rebuildkit_kind(f, addr) != KIND_NODE)
			continue;
		rebuildkit_destroy(disk, addr, 1, &rng);
		nodes--;
	}
	if (seed % 2)
		rebuildkit_destroy(disk, 32 + (seed / 2) % 6, 1, &rng);
	return disk;
}

static void a_power_cut_before_any_write_does_no_harm(void **state)
{
	struct rebuildkit f;
	unsigned states = 0;

	rebuildkit_init(&f, *state);
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct simdev *base = damaged(&f, seed), *disk;
		struct simdev_image *image = simdev_freeze(base);
		struct outcome o = { 0 };

		disk = simdev_new(&(struct simdev_options){ .base = image, .seed = seed });
		assert_int_equal(rebuildkit_rebuild(disk, &o), 0);
		for (uint64_t n = 0; n <= simdev_ops(disk); n++) {
			struct simdev_crash c;
			struct simdev *after;

			simdev_crash_begin(&c, disk, n, 4, seed * 1000 + n);
			while ((after = simdev_crash_next(&c))) {
				struct outcome again = { 0 };

				assert_int_equal(rebuildkit_rebuild(after, &again), 0);
				/* Either nothing has happened yet, or everything. */
				if (again.res.findings) {
					assert_int_equal(again.n_lost, o.n_lost);
					for (size_t i = 0; i < o.n_lost; i++) {
						assert_true(key_equal(again.lost[i].from, o.lost[i].from));
						assert_true(key_equal(again.lost[i].to, o.lost[i].to));
					}
				}
				rebuildkit_expect(&f, after, again.res.findings ? &again : &o, "a power cut", n, true);
				rebuildkit_outcome_release(&again);
				simdev_free(after);
				states++;
			}
			simdev_crash_end(&c);
		}
		rebuildkit_outcome_release(&o);
		simdev_free(disk);
		simdev_image_free(image);
		simdev_free(base);
	}
	printf("# %s: %u states\n", f.shape->name, states);
	assert_true(states > 50);
	rebuildkit_release(&f);
}

static void any_allocation_may_fail(void **state)
{
	struct rebuildkit f;
	uint64_t k;

	rebuildkit_init(&f, *state);
	for (k = 1;; k++) {
		struct simdev *disk = damaged(&f, 1);
		struct outcome o = { 0 }, again = { 0 };
		bool failed;
		int err;

		failmem_start(k, k % 2 ? FAILMEM_ONCE : FAILMEM_FROM_THEN_ON);
		err = rebuildkit_rebuild(disk, &o);
		failed = failmem_stop();
		if (failed && err)
			assert_int_equal(err, -ENOMEM);
		if (!failed)
			assert_int_equal(err, 0);
		if (err)
			assert_int_equal(rebuildkit_rebuild(disk, &again), 0);
		/* It may have failed after the switch. */
		rebuildkit_expect(&f, disk, again.res.findings ? &again : &o, "an allocation failed", k, true);
		rebuildkit_outcome_release(&o);
		rebuildkit_outcome_release(&again);
		simdev_free(disk);
		if (!failed)
			break;
	}
	printf("# %" PRIu64 " allocations\n", k);
	assert_true(k > 30);
	rebuildkit_release(&f);
}

/* A read that fails once is a node that is lost, a page, a part of the log; or, where it was read before, an error. */
static void any_transfer_may_fail(void **state)
{
	static const enum simdev_op ops[] = { SIMDEV_WRITE, SIMDEV_FLUSH, SIMDEV_READ };
	struct rebuildkit f;

	rebuildkit_init(&f, *state);
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		bool more = true;
		uint64_t k;

		for (k = 0; more; k++) {
			struct simdev *disk = damaged(&f, 2);
			struct simdev_fault fault = {
				.op = ops[i], .after = k, .times = 1, .effect = (enum simdev_effect)(k % 3)
			};
			struct outcome o = { 0 }, again = { 0 };
			uint64_t before = simdev_count(disk, ops[i]);
			int err;

			simdev_add_fault(disk, &fault);
			err = rebuildkit_rebuild(disk, &o);
			more = simdev_count(disk, ops[i]) - before > k;
			simdev_clear_faults(disk);
			bdev_close(simdev_bdev(disk));
			if (err)
				assert_int_equal(rebuildkit_rebuild(disk, &again), 0);
			rebuildkit_expect(&f, disk, again.res.findings ? &again : &o, "a transfer failed", k, true);
			rebuildkit_outcome_release(&o);
			rebuildkit_outcome_release(&again);
			simdev_free(disk);
		}
		printf("# %" PRIu64 " %s\n", k, i == 0 ? "writes" : i == 1 ? "flushes" : "reads");
		assert_true(k > 3);
	}
	rebuildkit_release(&f);
}

static void a_no_of_the_upper_layer_leaves_everything_as_it_is(void **state)
{
	struct rebuildkit f;
	struct simdev *disk;
	struct outcome o = { .refuse = -ECANCELED };

	rebuildkit_init(&f, *state);
	disk = damaged(&f, 1);
	assert_int_equal(rebuildkit_rebuild(disk, &o), -ECANCELED);
	assert_true(o.asked);
	assert_int_equal(simdev_count(disk, SIMDEV_WRITE), 0);
	rebuildkit_outcome_release(&o);
	simdev_free(disk);
	rebuildkit_release(&f);
}

static void a_store_without_findings_is_left_alone(void **state)
{
	struct rebuildkit f;
	struct simdev *disk;
	struct outcome o = { 0 };

	rebuildkit_init(&f, *state);
	disk = simdev_clone(f.disk);
	assert_int_equal(rebuildkit_rebuild(disk, &o), 0);
	assert_int_equal(o.res.findings, 0);
	assert_false(o.asked);
	assert_int_equal(simdev_count(disk, SIMDEV_WRITE), 0);
	rebuildkit_expect(&f, disk, &o, "nothing", 0, true);
	assert_int_equal(f.whole, 1);
	rebuildkit_outcome_release(&o);
	simdev_free(disk);
	rebuildkit_release(&f);
}

/* A wrong map costs a map: trees and log stay, and so does every item. */
static void only_what_is_wrong_is_made_anew(void **state)
{
	struct rebuildkit f;

	rebuildkit_init(&f, *state);
	for (uint64_t addr = 32; addr < space_log_start_min(); addr++) {
		struct simdev *disk = simdev_clone(f.disk);
		struct outcome o = { 0 };
		struct rng rng;

		rng_seed(&rng, SEED);
		rebuildkit_destroy(disk, addr, 1, &rng);
		assert_int_equal(rebuildkit_rebuild(disk, &o), 0);
		assert_int_equal(o.found[REBUILD_SPACE], o.res.findings);
		assert_int_equal(o.n_lost, 0);
		/* Pages of the map, both slots twice. */
		assert_true(simdev_count(disk, SIMDEV_WRITE) <= 6);
		rebuildkit_expect(&f, disk, &o, "a page of the map", addr, true);
		assert_int_equal(f.part, 0);
		rebuildkit_outcome_release(&o);
		simdev_free(disk);
	}
	rebuildkit_release(&f);
}

static void what_is_lost_can_be_marked(void **state)
{
	struct rebuildkit f;
	unsigned lost = 0;

	rebuildkit_init(&f, *state);
	for (uint64_t seed = 10; seed < 40; seed++) {
		struct simdev *disk = damaged(&f, seed);
		struct outcome o = { .put = true };

		assert_int_equal(rebuildkit_rebuild(disk, &o), 0);
		assert_int_equal(o.asked, o.res.findings > 0);
		lost += o.n_lost > 0;
		rebuildkit_expect(&f, disk, &o, "nodes", seed, true);
		rebuildkit_outcome_release(&o);
		simdev_free(disk);
	}
	assert_true(lost > 5);
	rebuildkit_release(&f);
}

/* ---- a device without room ---- */

static void without_room_beside_it_nothing_is_changed(void **state)
{
	struct store_options opt = kv_store_options;
	struct store_mkfs_options mkfs = kv_mkfs_options;
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = 700, .no_trace = true });
	struct outcome o = { 0 };
	struct kv_run run;
	struct rng rng;
	uint64_t addr;
	int err = 0;

	(void)state;
	opt.records = &kv_records;
	kv_run_init(&run, disk, &opt, NULL, 5);
	assert_int_equal(store_mkfs(simdev_bdev(disk), &mkfs), 0);
	assert_int_equal(kv_run_open(&run), 0);
	/* Items fill it: a second tree has no room. */
	for (unsigned i = 0; !err; i++)
		err = kv_run_op(
			&run, &(struct kv_op){ .action = KV_PUT_MANY, .ino = (uint16_t)(10 + i), .n = 20, .len = 900 });
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(store_close(run.store), 0);
	run.store = NULL;
	rng_seed(&rng, SEED);
	for (addr = 300;; addr++) {
		uint8_t block[BLOCK_SIZE];

		simdev_peek(disk, addr, block, 1);
		if (le32_get(((const struct disk_node *)block)->magic) == NODE_MAGIC &&
		    ((const struct disk_node *)block)->level == 0)
			break;
	}
	/* Whether the block is in use is not known: one of them is. */
	do {
		rebuildkit_destroy(disk, addr++, 1, &rng);
		rebuildkit_outcome_release(&o);
		o = (struct outcome){ 0 };
		err = rebuildkit_rebuild(disk, &o);
	} while (!err && addr < 700);
	assert_int_equal(err, -ENOSPC);
	rebuildkit_outcome_release(&o);
	/* What could be read can still be. */
	assert_int_equal(kv_run_open(&run), 0);
	kv_run_release(&run);
	simdev_free(disk);
}

/* ---- many groups ---- */

static void a_map_of_many_pages_is_made_anew(void **state)
{
	struct store_options opt = kv_store_options;
	struct store_mkfs_options mkfs = kv_mkfs_options;
	const uint64_t blocks = 200u * SPACE_GROUP_BLOCKS;
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = blocks, .no_trace = true });
	struct kv_run run;
	struct rng rng;

	(void)state;
	opt.records = &kv_records;
	mkfs.copies = true;
	kv_run_init(&run, disk, &opt, NULL, 5);
	assert_int_equal(store_mkfs(simdev_bdev(disk), &mkfs), 0);
	assert_int_equal(kv_run_open(&run), 0);
	for (unsigned i = 0; i < 60; i++) {
		assert_int_equal(
			kv_run_op(&run, &(struct kv_op){ .action = KV_EXTENT, .ino = 9, .off = (uint16_t)i, .n = 30 }),
			0);
		assert_int_equal(
			kv_run_op(&run, &(struct kv_op){ .action = KV_PUT_MANY, .ino = 10, .n = 10, .len = 300 }), 0);
	}
	assert_int_equal(store_close(run.store), 0);
	run.store = NULL;
	rng_seed(&rng, SEED);
	for (unsigned round = 0; round < 12; round++) {
		struct simdev *copy = simdev_clone(disk);
		struct outcome o = { 0 };
		struct check_result check;
		struct store *s;
		struct world w;
		char why[200];

		/* Homes of group 0 and of groups further on, radix pages among them. */
		for (unsigned i = 0; i < 15; i++)
			if (round == 0 || rng_chance(&rng, 1, 2))
				rebuildkit_destroy(copy, 32 + i, 1, &rng);
		for (unsigned g = 1; g < 200; g++)
			for (unsigned i = 0; i < SPACE_HOMES; i++)
				if (rng_chance(&rng, 1, 3))
					rebuildkit_destroy(copy, (uint64_t)g * SPACE_GROUP_BLOCKS + i, 1, &rng);
		assert_int_equal(rebuildkit_rebuild(copy, &o), 0);
		assert_int_equal(o.n_lost, 0);
		opt.seed = 3 + round;
		assert_int_equal(store_open(simdev_bdev(copy), &opt, &s), 0);
		assert_int_equal(store_check(s, &check), 0);
		assert_int_equal(kv_world_read(s, &w, why, sizeof(why)), 0);
		assert_true(world_equal(&w, model_now(&run.model)));
		world_release(&w);
		assert_int_equal(store_close(s), 0);
		rebuildkit_outcome_release(&o);
		simdev_free(copy);
	}
	kv_run_release(&run);
	simdev_free(disk);
}

/* ---- superblocks ---- */

static void superblocks_that_verify_and_are_wrong(void **state)
{
	struct rebuildkit f;
	unsigned refused = 0, whole = 0;
	struct rng rng;

	rng_seed_env(&rng, SEED);
	rebuildkit_init(&f, *state);
	for (unsigned round = 0; round < 500; round++) {
		struct simdev *disk = simdev_clone(f.disk);
		unsigned from = (unsigned)rng_range(&rng, 20, 423);
		uint8_t bit = (uint8_t)(1u << rng_below(&rng, 8));
		struct outcome o = { 0 };
		int err;

		for (unsigned slot = 0; slot < 2; slot++) {
			uint64_t addr = slot ? SUPER_SLOT1 : SUPER_SLOT0;
			uint8_t block[BLOCK_SIZE];
			le64 sum;

			simdev_peek(disk, addr, block, 1);
			block[from] ^= bit;
			sum = le64_put(XXH3_64bits(block + 8, BLOCK_SIZE - 8));
			memcpy(block, &sum, sizeof(sum));
			simdev_poke(disk, addr, 0, block, sizeof(block));
		}
		err = rebuildkit_rebuild(disk, &o);
		refused += err != 0;
		whole += !err;
		/* Labels and the like are nobody's to judge; what is judged leads to a whole store. */
		if (!err && o.res.findings)
			rebuildkit_expect(&f, disk, &o, "a wrong superblock", from, false);
		rebuildkit_outcome_release(&o);
		simdev_free(disk);
	}
	printf("# %u refused, %u not\n", refused, whole);
	assert_true(refused > 20 && whole > 20);
	rebuildkit_release(&f);
}

/* ---- salvage ---- */

static bool identify(void *arg, struct key key, const void *val, size_t len, struct super *s)
{
	(void)arg, (void)key, (void)val, (void)len, (void)s;
	return false;
}

static int salvage_and_rebuild(struct simdev *disk, struct outcome *o)
{
	const struct salvage_options opt = { .records = &kv_records, .identify = identify };
	struct salvage_result res;
	int err = salvage_scan(simdev_bdev(disk), &opt, &o->salvage, &res);

	if (!err)
		err = rebuildkit_rebuild(disk, o);
	salvage_close(o->salvage);
	o->salvage = NULL;
	return err;
}

/* Old nodes fill what nothing newer covers, so what is there need not be right; but the store is whole. */
static void what_salvage_finds_becomes_a_store(void **state)
{
	struct rebuildkit f;
	struct rng rng;
	unsigned done = 0;

	rng_seed_env(&rng, SEED);
	rebuildkit_init(&f, *state);
	for (unsigned round = 0; round < 60; round++) {
		struct simdev *disk = simdev_clone(f.disk);
		struct outcome o = { 0 };
		unsigned k = (unsigned)rng_below(&rng, 6);

		if (round % 3 != 1) {
			rebuildkit_destroy(disk, SUPER_SLOT0, 1, &rng);
			rebuildkit_destroy(disk, SUPER_SLOT1, 1, &rng);
			assert_int_equal(rebuildkit_rebuild(disk, &o), -ENODEV);
			rebuildkit_outcome_release(&o);
		}
		for (uint64_t addr = f.log_start + f.log_blocks; k;
		     addr = rng_range(&rng, addr, REBUILDKIT_BLOCKS - 1)) {
			if (rebuildkit_kind(&f, addr) == KIND_NODE || rng_chance(&rng, 1, 20)) {
				rebuildkit_destroy(disk, addr, 1, &rng);
				k--;
			}
			if (++addr >= REBUILDKIT_BLOCKS - 1)
				addr = f.log_start + f.log_blocks;
		}
		o = (struct outcome){ 0 };
		assert_int_equal(salvage_and_rebuild(disk, &o), 0);
		rebuildkit_expect(&f, disk, &o, "salvage", round, false);
		rebuildkit_outcome_release(&o);
		simdev_free(disk);
		done++;
	}
	assert_int_equal(done, 60);
	rebuildkit_release(&f);
}

int main(void)
{
	const struct rebuildkit_shape *plain = &rebuildkit_shapes[0], *log = &rebuildkit_shapes[1],
				      *snapshots = &rebuildkit_shapes[2], *all = &rebuildkit_shapes[3],
				      *copies = &rebuildkit_shapes[4], *back = &rebuildkit_shapes[5];
	const struct CMUnitTest tests[] = {
		TEST_ROW("a store that was closed is left alone", a_store_without_findings_is_left_alone, plain),
		TEST_ROW("a store with a log is left alone", a_store_without_findings_is_left_alone, log),
		TEST_ROW("a store with snapshots is left alone", a_store_without_findings_is_left_alone, snapshots),
		TEST_ROW("a store with snapshots and a log is left alone", a_store_without_findings_is_left_alone, all),
		TEST_ROW("a store with copies is left alone", a_store_without_findings_is_left_alone, copies),
		TEST_ROW("a store that was rolled back is left alone", a_store_without_findings_is_left_alone, back),
		TEST_ROW("a wrong map costs a map", only_what_is_wrong_is_made_anew, snapshots),
		TEST_ROW("a wrong map costs a map, and the log stays", only_what_is_wrong_is_made_anew, all),
		TEST_ROW("what is lost can be marked", what_is_lost_can_be_marked, plain),
		TEST_ROW("what is lost can be marked beside snapshots", what_is_lost_can_be_marked, snapshots),
		TEST_ROW("a no leaves everything as it is", a_no_of_the_upper_layer_leaves_everything_as_it_is, all),
		TEST_ROW("a power cut before any write does no harm", a_power_cut_before_any_write_does_no_harm, plain),
		TEST_ROW("a power cut does no harm to snapshots and a log", a_power_cut_before_any_write_does_no_harm,
			 all),
		TEST_ROW("a power cut does no harm to what was rolled back", a_power_cut_before_any_write_does_no_harm,
			 back),
		TEST_ROW("any allocation may fail", any_allocation_may_fail, all),
		TEST_ROW("any transfer may fail", any_transfer_may_fail, all),
		cmocka_unit_test(without_room_beside_it_nothing_is_changed),
		cmocka_unit_test(a_map_of_many_pages_is_made_anew),
		TEST_ROW("superblocks that verify and are wrong", superblocks_that_verify_and_are_wrong, all),
		TEST_ROW("what salvage finds becomes a store", what_salvage_finds_becomes_a_store, plain),
		TEST_ROW("what salvage finds becomes a store with a log", what_salvage_finds_becomes_a_store, log),
		TEST_ROW("what salvage finds becomes a store with snapshots", what_salvage_finds_becomes_a_store, all),
		TEST_ROW("what salvage finds becomes a store with copies", what_salvage_finds_becomes_a_store, copies),
	};

	kv_log_quiet();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

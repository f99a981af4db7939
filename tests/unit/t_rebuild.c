/*
 * t_rebuild.c - a damaged store is made whole again, and only what is said to be lost is lost
 *
 * Stores of several shapes (with and without second copies, snapshots, a log to replay) are damaged: every block that is not
 * data in turn, several by chance, structures with their checksums made right again. kit/rebuildkit.h says what must hold
 * afterwards.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/node_format.h"
#include "btree/super.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rebuildkit.h"
#include "tests/kit/test.h"

#define SEED 1u

/* Rebuilds a disk that is damaged, and looks. */
static void try_damaged(struct rebuildkit *f, struct simdev *disk, const char *what, uint64_t where, bool log_hit)
{
	struct outcome o = { .put = where % 3 == 0, .log_hit = log_hit };
	int err;

	kv_log_clear();
	f->tried++;
	err = rebuildkit_rebuild(disk, &o);
	if (err) {
		rebuildkit_print_outcome(f, what, where, &o);
		printf("# store_rebuild: error %d\n", -err);
		fail();
	}
	rebuildkit_expect(f, disk, &o, what, where, true);
	rebuildkit_outcome_release(&o);
}

static unsigned rounds(unsigned usual)
{
	const char *text = getenv("ARBOR_ROUNDS");

	return text ? (unsigned)atoi(text) : usual;
}

static void every_block_in_turn(void **state)
{
	struct rebuildkit f;
	struct rng rng;

	rng_seed_env(&rng, SEED);
	rebuildkit_init(&f, *state);
	for (uint64_t addr = 0; addr < REBUILDKIT_BLOCKS; addr++) {
		enum rebuildkit_kind kind = rebuildkit_kind(&f, addr);
		struct simdev *disk;

		if (kind == KIND_UNUSED || kind == KIND_DATA)
			continue;
		disk = simdev_clone(f.disk);
		rebuildkit_destroy(disk, addr, (unsigned)rng_below(&rng, 3), &rng);
		try_damaged(&f, disk, "one block", addr, false);
		simdev_free(disk);
	}
	rebuildkit_print(&f);
	assert_true(f.tried > 50);
	if (f.shape->copies)
		assert_int_equal(f.snapshots_lost, 0);
	else
		assert_true(f.part > 5);
	rebuildkit_release(&f);
}

static void several_blocks_by_chance(void **state)
{
	uint64_t candidates[REBUILDKIT_BLOCKS];
	struct rebuildkit f;
	struct rng rng;
	unsigned n = 0;

	rng_seed_env(&rng, SEED);
	rebuildkit_init(&f, *state);
	for (uint64_t addr = 0; addr < REBUILDKIT_BLOCKS; addr++) {
		enum rebuildkit_kind kind = rebuildkit_kind(&f, addr);

		if (kind == KIND_LOG || kind == KIND_SPACE || kind == KIND_NODE)
			candidates[n++] = addr;
	}
	for (unsigned round = 0; round < rounds(60); round++) {
		struct simdev *disk = simdev_clone(f.disk);
		unsigned k = (unsigned)rng_range(&rng, 2, 1 + rng_range(&rng, 2, 12)), log_hit = 0;

		for (unsigned i = 0; i < k; i++) {
			uint64_t addr = candidates[rng_below(&rng, n)];

			log_hit += rebuildkit_kind(&f, addr) == KIND_LOG;
			rebuildkit_destroy(disk, addr, (unsigned)rng_below(&rng, 3), &rng);
		}
		if (rng_chance(&rng, 1, 8))
			rebuildkit_destroy(disk, rng_chance(&rng, 1, 2) ? SUPER_SLOT0 : SUPER_SLOT1, 1, &rng);
		try_damaged(&f, disk, "several blocks", round, log_hit > 1);
		simdev_free(disk);
	}
	rebuildkit_print(&f);
	rebuildkit_release(&f);
}

/* ---- stores by chance ---- */

static void a_store_by_chance_damaged_by_chance(void **state)
{
	const struct kv_profile *profile = *state;
	unsigned tried = 0, whole = 0, lost = 0;
	struct rng rng;

	rng_seed_env(&rng, SEED);
	for (unsigned round = 0; round < rounds(5); round++) {
		struct rebuildkit f;

		rebuildkit_init_random(&f, profile, rng_chance(&rng, 1, 3), (unsigned)rng_range(&rng, 20, 150), &rng);
		for (unsigned i = 0; i < 8; i++) {
			struct simdev *disk = simdev_clone(f.disk);
			unsigned k = (unsigned)rng_below(&rng, 5), log_hit = 0;

			for (unsigned tries = 0; k && tries < 10000; tries++) {
				uint64_t addr = rng_below(&rng, REBUILDKIT_BLOCKS);
				enum rebuildkit_kind kind = rebuildkit_kind(&f, addr);

				if (kind == KIND_DATA || kind == KIND_UNUSED ||
				    (kind == KIND_SUPER && addr == SUPER_SLOT1))
					continue;
				if (kind == KIND_LOG && rng_chance(&rng, 2, 3))
					continue;
				log_hit += kind == KIND_LOG;
				rebuildkit_destroy(disk, addr, (unsigned)rng_below(&rng, 3), &rng);
				k--;
			}
			try_damaged(&f, disk, "a store by chance", round * 100 + i, log_hit > 0);
			simdev_free(disk);
		}
		tried += f.tried;
		whole += f.whole;
		lost += f.snapshots_lost;
		rebuildkit_release(&f);
	}
	printf("# %u tried, %u whole again, %u without a snapshot\n", tried, whole, lost);
}

/* ---- structures that verify and are wrong ---- */

static void fix_node(uint8_t *node, uint32_t size)
{
	struct disk_node *h = (struct disk_node *)node;

	h->sum = le64_put(XXH3_64bits(node + sizeof(h->sum), size - sizeof(h->sum)));
}

/* Changes some bytes of a node, most often where its items are, and makes the checksum right. */
static void mutate(uint8_t *node, uint32_t size, struct rng *rng)
{
	struct disk_node *h = (struct disk_node *)node;
	unsigned nr = le16_get(h->nr), nr_max = (size - sizeof(*h)) / sizeof(struct disk_slot);
	struct disk_slot *slot = (struct disk_slot *)(h + 1) + rng_below(rng, nr && nr < nr_max ? nr : nr_max);
	uint32_t val = le16_get(slot->val), len = le16_get(slot->len);

	switch (rng_below(rng, 5)) {
	case 0:
		node[8 + rng_below(rng, sizeof(*h) - 8)] ^= (uint8_t)(1u << rng_below(rng, 8));
		break;
	case 1:
		((uint8_t *)slot)[rng_below(rng, sizeof(*slot))] ^= (uint8_t)(1u << rng_below(rng, 8));
		break;
	case 2:
		rng_bytes(rng, node + 8 + rng_below(rng, size - 16), 8);
		break;
	default:
		if (len && val + len <= size)
			node[val + rng_below(rng, len < 24 ? len : 24)] ^= (uint8_t)(1u << rng_below(rng, 8));
		break;
	}
	fix_node(node, size);
}

static void nodes_that_verify_and_are_wrong(void **state)
{
	uint64_t nodes[REBUILDKIT_BLOCKS];
	struct rebuildkit f;
	struct rng rng;
	unsigned n = 0;

	rng_seed_env(&rng, SEED);
	rebuildkit_init(&f, *state);
	for (uint64_t addr = 0; addr < REBUILDKIT_BLOCKS; addr++)
		if (rebuildkit_kind(&f, addr) == KIND_NODE)
			nodes[n++] = addr;
	for (unsigned round = 0; round < rounds(300); round++) {
		struct simdev *disk = simdev_clone(f.disk);
		unsigned k = (unsigned)rng_range(&rng, 1, 3);
		struct outcome o = { 0 };
		int err;

		for (unsigned i = 0; i < k; i++) {
			uint64_t addr = nodes[rng_below(&rng, n)];
			struct disk_node *h;
			uint8_t node[BLOCK_SIZE];

			simdev_peek(disk, addr, node, 1);
			mutate(node, sizeof(node), &rng);
			h = (struct disk_node *)node;
			simdev_poke(disk, addr, 0, node, sizeof(node));
			if (le64_get(h->copy) && le64_get(h->copy) < REBUILDKIT_BLOCKS)
				simdev_poke(disk, le64_get(h->copy), 0, node, sizeof(node));
		}
		kv_log_clear();
		err = rebuildkit_rebuild(disk, &o);
		if (err) {
			rebuildkit_print_outcome(&f, "a wrong node", round, &o);
			printf("# error %d\n", -err);
		}
		assert_int_equal(err, 0);
		rebuildkit_expect(&f, disk, &o, "a wrong node", round, false);
		rebuildkit_outcome_release(&o);
		simdev_free(disk);
	}
	rebuildkit_release(&f);
}

/* What an item of live says of its blocks' birth is put right where a snapshot knows better; no file and no snapshot is lost. */
static void births_are_put_right(void **state)
{
	unsigned tried = 0, mended = 0;
	struct rebuildkit f;

	rebuildkit_init(&f, *state);
	for (uint64_t addr = 0; addr < REBUILDKIT_BLOCKS; addr++) {
		uint8_t node[BLOCK_SIZE];
		struct disk_node *h = (struct disk_node *)node;
		struct disk_slot *slots = (struct disk_slot *)(h + 1);

		if (rebuildkit_kind(&f, addr) != KIND_NODE)
			continue;
		simdev_peek(f.disk, addr, node, 1);
		for (unsigned i = 0; !h->level && le64_get(h->tree) == TREE_FILES && i < 2u * le16_get(h->nr); i++) {
			struct disk_slot *slot = &slots[i / 2];
			struct kv_extent_val *val = (struct kv_extent_val *)(node + le16_get(slot->val));
			struct outcome o = { 0 };
			struct simdev *disk;
			uint64_t birth;

			if ((uint8_t)le64_get(slot->obj) != KVT_EXTENT || !le64_get(val->addr))
				continue;
			birth = le64_get(val->birth);
			val->birth = i % 2 ? le64_put(1) : h->gen;
			fix_node(node, sizeof(node));
			disk = simdev_clone(f.disk);
			simdev_poke(disk, addr, 0, node, sizeof(node));
			val->birth = le64_put(birth);
			assert_int_equal(rebuildkit_rebuild(disk, &o), 0);
			assert_int_equal(o.n_lost, 0);
			tried++;
			mended += o.res.findings && !o.found[REBUILD_SNAPSHOT];
			rebuildkit_expect(&f, disk, &o, "a birth", addr, true);
			rebuildkit_outcome_release(&o);
			simdev_free(disk);
		}
	}
	printf("# %u births, %u mended\n", tried, mended);
	assert_int_equal(f.part, f.snapshots_lost);
	assert_true(tried > 10 && mended > 2);
	rebuildkit_release(&f);
}

int main(void)
{
	struct CMUnitTest tests[3 * REBUILDKIT_SHAPES + 5];
	size_t n = 0;

	for (size_t i = 0; i < REBUILDKIT_SHAPES; i++) {
		static char names[REBUILDKIT_SHAPES][3][120];

		snprintf(names[i][0], sizeof(names[i][0]), "every block in turn of %s", rebuildkit_shapes[i].name);
		snprintf(names[i][1], sizeof(names[i][1]), "several blocks of %s", rebuildkit_shapes[i].name);
		snprintf(names[i][2], sizeof(names[i][2]), "nodes that verify and are wrong in %s",
			 rebuildkit_shapes[i].name);
		tests[n++] = TEST_ROW(names[i][0], every_block_in_turn, &rebuildkit_shapes[i]);
		tests[n++] = TEST_ROW(names[i][1], several_blocks_by_chance, &rebuildkit_shapes[i]);
		tests[n++] = TEST_ROW(names[i][2], nodes_that_verify_and_are_wrong, &rebuildkit_shapes[i]);
	}
	tests[n++] = TEST_ROW("births are put right", births_are_put_right, &rebuildkit_shapes[2]);
	tests[n++] = TEST_ROW("births are put right under a log", births_are_put_right, &rebuildkit_shapes[3]);
	tests[n++] = TEST_ROW("stores by chance", a_store_by_chance_damaged_by_chance, &kv_profile_mixed);
	tests[n++] = TEST_ROW("heavy stores by chance", a_store_by_chance_damaged_by_chance, &kv_profile_heavy);
	tests[n++] =
		TEST_ROW("stores with many views by chance", a_store_by_chance_damaged_by_chance, &kv_profile_views);
	kv_log_quiet();
	return _cmocka_run_group_tests("rebuild", tests, n, NULL, NULL);
}

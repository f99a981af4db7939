/*
 * crash_cases.c - cases that broke drafts of the design, one test each
 *
 * First those that are a list of operations: run, crashed at every write with every choice, recovered, checked (the table).
 * Behind them those that need more than that. docs/design.md names them all.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/super_format.h"
#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define BLOCKS 800u
#define E 20
#define F 22
#define G 23
#define H 24

enum flags {
	NO_RIDING = 1, /* small data is written home before its segment */
	DISCARD = 2,
	FULL_OK = 4,
	TINY_CACHE = 8,
};

struct crash_case {
	const char *name;
	unsigned flags;
	struct kv_op ops[24]; /* ends with one of action KV_ACTIONS_END */
};

#define END { .action = KV_ACTIONS_END }
#define PUT(i) { .action = KV_PUT, .ino = (i), .len = 30 }
#define EXTENT(i, blocks) { .action = KV_EXTENT, .ino = (i), .n = (blocks), .seed = 1 }
#define CLONE(from, to) { .action = KV_CLONE, .ino = (from), .ino2 = (to) }
#define MOVE(from, to) { .action = KV_MOVE, .ino = (from), .ino2 = (to) }
#define DEL(i) { .action = KV_DEL, .ino = (i) }
#define DEL_INO(i) { .action = KV_DEL_INO, .ino = (i) }
#define SYNC { .action = KV_SYNC }
#define TICK { .action = KV_TICK }
#define CHECKPOINT { .action = KV_CHECKPOINT }
#define CHECK { .action = KV_CHECK }
#define SNAPSHOT(s) { .action = KV_SNAP_CREATE, .slot = (s) }
#define DROP(s) { .action = KV_SNAP_DELETE, .slot = (s) }
#define ROLLBACK(s) { .action = KV_SNAP_ROLLBACK, .slot = (s) }
#define BEGIN { .action = KV_TXN_BEGIN }
#define COMMIT { .action = KV_TXN_COMMIT }
#define COMMIT_NOSYNC { .action = KV_TXN_COMMIT, .n = 1 }
#define ABORT { .action = KV_TXN_ABORT }
#define T_EXTENT(i, blocks) { .action = KV_EXTENT, .view = 1, .ino = (i), .n = (blocks), .seed = 1 }
#define T_CLONE(from, to) { .action = KV_CLONE, .view = 1, .ino = (from), .ino2 = (to) }
#define T_MOVE(from, to) { .action = KV_MOVE, .view = 1, .ino = (from), .ino2 = (to) }
#define T_DEL(i) { .action = KV_DEL, .view = 1, .ino = (i) }
/* Takes what was freed too early, and overwrites it. */
#define CHURN EXTENT(40, 40), CHECKPOINT, EXTENT(41, 40), CHECKPOINT, EXTENT(40, 40), SYNC

static const struct crash_case cases[] = {
	{ "a small block superseded before it was ever written survives fsync and crash", 0,
	  { EXTENT(E, 1), EXTENT(E, 1), SYNC, PUT(10), SYNC, END } },
	{ "a small block superseded before it was ever written survives without riding", NO_RIDING,
	  { EXTENT(E, 1), EXTENT(E, 1), SYNC, PUT(10), SYNC, END } },
	{ "a file in two snapshots and removed from live outlives the older snapshot", 0,
	  { EXTENT(E, 3), SNAPSHOT(1), SNAPSHOT(2), DEL(E), CHECKPOINT, DROP(1), CHURN, CHECK, END } },
	{ "a clone removed, rollback, the other removed, the snapshot deleted: the clone is whole", 0,
	  { EXTENT(E, 3), CLONE(E, F), SNAPSHOT(1), DEL(F), ROLLBACK(1), DEL(E), DROP(1), CHURN, CHECK, END } },
	{ "a clone made after the snapshot is gone after rollback, and its blocks are not", 0,
	  { EXTENT(E, 3), SNAPSHOT(1), CLONE(E, F), DEL(E), ROLLBACK(1), CHECK, DROP(1), CHURN, CHECK, END } },
	{ "live removes the source of a clone that a transaction made", 0,
	  { EXTENT(E, 3), BEGIN, T_CLONE(E, F), DEL(E), COMMIT, CHURN, CHECK, END } },
	{ "live removes the source of a transaction's clone, and two checkpoints follow", 0,
	  { EXTENT(E, 3), BEGIN, T_CLONE(E, F), DEL(E), CHECKPOINT, CHECKPOINT, CHURN, COMMIT, PUT(10), CHECK, END } },
	{ "live removes the source of a transaction's clone while a snapshot holds it", 0,
	  { EXTENT(E, 3), SNAPSHOT(1), BEGIN, T_CLONE(E, F), DEL(E), CHECKPOINT, COMMIT, CHURN, CHECK, DROP(1), CHURN, CHECK,
	    END } },
	{ "both sides move one file to different names and both get it", 0,
	  { EXTENT(E, 3), BEGIN, T_MOVE(E, F), MOVE(E, G), COMMIT, DEL(G), CHURN, CHECK, END } },
	{ "each side drops one of two references and the blocks are free", 0,
	  { EXTENT(E, 3), CLONE(E, F), CHECKPOINT, BEGIN, T_DEL(E), DEL(F), COMMIT, CHURN, CHECK, END } },
	{ "both sides write different parts of one object", 0,
	  { EXTENT(E, 3), BEGIN, { .action = KV_EXTENT, .view = 1, .ino = E, .off = 8, .n = 2, .seed = 1 },
	    { .action = KV_EXTENT, .ino = E, .off = 16, .n = 2, .seed = 1 }, COMMIT, CHURN, CHECK, END } },
	{ "a range removed in a transaction leaves what live added to it", 0,
	  { EXTENT(E, 3), BEGIN, { .action = KV_DEL_INO, .view = 1, .ino = E },
	    { .action = KV_EXTENT, .ino = E, .off = 16, .n = 2, .seed = 1 }, COMMIT, CHURN, CHECK, END } },
	{ "claimed blocks written in a transaction that aborts are a claim again", 0,
	  { { .action = KV_CLAIM, .ino = E, .n = 6 }, CHECKPOINT, BEGIN, { .action = KV_FILL, .view = 1, .ino = E },
	    { .action = KV_CLAIM, .view = 1, .ino = F, .n = 5 }, ABORT, CHECK, { .action = KV_FILL, .ino = E }, SYNC, CHECK,
	    END } },
	{ "claimed blocks written in a transaction that commits are blocks", 0,
	  { { .action = KV_CLAIM, .ino = E, .n = 6 }, BEGIN, { .action = KV_FILL, .view = 1, .ino = E },
	    { .action = KV_CLAIM, .view = 1, .ino = F, .n = 5 }, COMMIT, CHECK, DEL(E), DEL(F), CHURN, CHECK, END } },
	{ "a huge commit followed by a small synced operation", 0,
	  { BEGIN, { .action = KV_PUT_MANY, .view = 1, .ino = 11, .n = 120, .len = 900 }, T_EXTENT(E, 40), T_EXTENT(F, 1),
	    COMMIT_NOSYNC, PUT(10), SYNC, END } },
	{ "a batch too large for the log, then a small synced one", 0,
	  { PUT(9), SYNC, { .action = KV_PUT_MANY, .ino = 11, .n = 120, .len = 900 }, PUT(10), SYNC, DEL_INO(11), SYNC, END } },
	{ "a snapshot, then a crash before anything else", 0, { EXTENT(E, 1), PUT(10), SNAPSHOT(1), END } },
	{ "a small block dirty when a snapshot is made, then overwritten in live", 0,
	  { EXTENT(E, 1), SNAPSHOT(1), EXTENT(E, 1), SYNC, CHURN, CHECK, END } },
	{ "a small block dirty when a view is taken, then overwritten in live", 0,
	  { EXTENT(E, 1), { .action = KV_FREEZE }, EXTENT(E, 1), SYNC, CHURN, { .action = KV_THAW }, CHECK, END } },
	{ "a small block dirty when a transaction begins, then overwritten in live, and cloned there", NO_RIDING,
	  { EXTENT(E, 1), BEGIN, T_CLONE(E, F), EXTENT(E, 1), SYNC, TICK, COMMIT, CHURN, CHECK, END } },
	{ "riding data that is still not home two segments later", 0,
	  { EXTENT(E, 1), SYNC, PUT(10), SYNC, PUT(10), SYNC, EXTENT(F, 1), PUT(11), SYNC, END } },
	{ "riding data that is released while it rides", 0,
	  { EXTENT(E, 1), SYNC, DEL(E), SYNC, EXTENT(F, 1), SYNC, CHECKPOINT, CHECKPOINT, EXTENT(G, 4), SYNC, END } },
	{ "a transaction that writes, frees and writes again", DISCARD,
	  { BEGIN, T_EXTENT(E, 20), T_DEL(E), CHECKPOINT, CHECKPOINT, T_EXTENT(E, 20), T_EXTENT(E, 2), CHECKPOINT, T_DEL(E),
	    T_EXTENT(F, 18), COMMIT, CHURN, CHECK, END } },
	{ "a huge object removed, then written in the middle", 0,
	  { { .action = KV_PUT_MANY, .ino = E, .n = 60, .len = 400 }, EXTENT(E, 30), CHECKPOINT, DEL_INO(E),
	    { .action = KV_EXTENT, .ino = E, .off = 10, .n = 2, .seed = 1 }, SYNC, DEL_INO(E), CHECKPOINT, CHURN, CHECK, END } },
	{ "counters are never lower than what was built on them", 0,
	  { { .action = KV_MIX, .ino = 10, .n = 2, .seed = 4 }, SYNC, { .action = KV_MIX, .ino = 10, .n = 2, .seed = 5 },
	    SNAPSHOT(1), { .action = KV_MIX, .ino = 10, .n = 2, .seed = 6 }, ROLLBACK(1), END } },
	{ "a commit through the middle of a clone frees each part by itself", 0,
	  { EXTENT(E, 6), CLONE(E, F), { .action = KV_SPLIT, .ino = E, .seed = 3 }, CHECKPOINT,
	    { .action = KV_SPLIT, .ino = F, .seed = 4 }, DEL_INO(E), CHURN, DEL_INO(F), CHECK, END } },
	{ "blocks freed and discarded are not those the older checkpoint needs", DISCARD,
	  { EXTENT(E, 20), CHECKPOINT, DEL(E), CHECKPOINT, EXTENT(F, 20), CHECKPOINT, DEL(F), SYNC, CHURN, END } },
};

/* ---- the table ---- */

static struct crash_options all_choices = {
	.per_point = 27, .per_point_again = 3, .recovery_one_in = 25, .go_on_one_in = 25, .slot_one_in = 4
};

static struct store_options options(unsigned flags)
{
	struct store_options opt = kv_store_options;

	opt.ride_max = flags & NO_RIDING ? UINT32_MAX : 0;
	opt.discard = flags & DISCARD;
	if (flags & TINY_CACHE)
		opt.cache_bytes = 64 * 4096;
	return opt;
}

static void run_plan(const char *name, const struct kv_base *base, const struct kv_op *ops, size_t n, unsigned flags,
		     struct crash_options how, bool opening)
{
	struct crash c = { .world = &kv_crash_world, .opt = how };
	struct kv_plan plan = {
		.plan = { .name = name, .base = base->image, .opening = opening, .seed = 7 },
		.start = &base->world, .opt = options(flags), .ops = ops, .n_ops = n, .full_ok = flags & FULL_OK,
	};

	for (unsigned shuffle = 0; shuffle < 2; shuffle++) {
		plan.plan.shuffle = shuffle;
		plan.plan.seed += shuffle;
		assert_int_equal(crash_plan(&c, &plan.plan), 0);
	}
	printf("# %" PRIu64 " states\n", c.states);
}

static void run_case(void **state)
{
	const struct crash_case *row = *state;
	struct kv_base base;
	size_t n = 0;

	while (row->ops[n].action != KV_ACTIONS_END)
		n++;
	kv_base_make(&base, &kv_mkfs_options, BLOCKS, &kv_store_options, NULL, 0, false, 1);
	run_plan(row->name, &base, row->ops, n, row->flags, all_choices, false);
	kv_base_release(&base);
}

/* ---- recovery ---- */

static const struct kv_op logged[] = {
	PUT(10), EXTENT(E, 2), CHECKPOINT, CLONE(E, F), EXTENT(G, 18), SYNC, DEL(E), EXTENT(E, 1), SYNC, PUT(11), SYNC,
};

static void a_crash_inside_recovery_twice_changes_nothing(void **state)
{
	const struct kv_op more[] = { EXTENT(H, 1), PUT(12), SYNC };
	struct crash_options how = { .per_point = 6, .per_point_again = 4, .recovery_one_in = 1 };
	struct kv_base base;

	(void)state;
	kv_base_make(&base, &kv_mkfs_options, BLOCKS, &kv_store_options, logged, ARRAY_LEN(logged), true, 1);
	run_plan("recovery twice", &base, more, ARRAY_LEN(more), 0, how, false);
	kv_base_release(&base);
}

static void a_crash_between_the_mounts_epoch_write_and_the_end_of_recovery_is_harmless(void **state)
{
	struct crash_options how = { .per_point = 27, .per_point_again = 9, .recovery_one_in = 1, .go_on_one_in = 3 };
	struct kv_base base;

	(void)state;
	kv_base_make(&base, &kv_mkfs_options, BLOCKS, &kv_store_options, logged, ARRAY_LEN(logged), true, 1);
	run_plan("opening", &base, NULL, 0, 0, how, true);
	kv_base_release(&base);
}

/* ---- on one disk, without the machinery ---- */

struct rig {
	struct simdev *disk;
	struct kv_run run;
};

static void rig_make(struct rig *rig, uint64_t blocks, unsigned flags)
{
	struct store_options opt = options(flags);

	rig->disk = simdev_new(&(struct simdev_options){ .blocks = blocks, .seed = 3 });
	kv_run_init(&rig->run, rig->disk, &opt, NULL, 5);
	assert_int_equal(store_mkfs(simdev_bdev(rig->disk), &kv_mkfs_options), 0);
	assert_int_equal(kv_run_open(&rig->run), 0);
}

static void rig_end(struct rig *rig)
{
	kv_run_release(&rig->run);
	simdev_free(rig->disk);
}

static int act(struct rig *rig, struct kv_op op)
{
	int err = kv_run_op(&rig->run, &op);

	if (err == -EPROTO) {
		printf("# %s\n", rig->run.broken);
		kv_log_print(stdout);
		fflush(stdout);
	}
	return err;
}

#define must(rig, ...) assert_int_equal(act(rig, (struct kv_op)__VA_ARGS__), 0)

static bool in_log(struct simdev *disk, uint64_t addr)
{
	_Alignas(BLOCK_SIZE) struct disk_super super;

	simdev_peek(disk, SUPER_SLOT0, &super, 1);
	return addr >= le64_get(super.log_start) && addr < le64_get(super.log_start) + le64_get(super.log_blocks);
}

static uint64_t free_blocks(struct rig *rig)
{
	struct store_status st;

	store_status(rig->run.store, &st);
	return st.blocks_free;
}

static void superblock_slot_destroyed(unsigned which)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		uint8_t junk[BLOCK_SIZE];
		struct rig rig;

		rig_make(&rig, BLOCKS, 0);
		for (size_t i = 0; i < ARRAY_LEN(logged); i++)
			assert_int_equal(act(&rig, logged[i]), 0);
		if (which)
			must(&rig, CHECKPOINT);
		must(&rig, PUT(12));
		must(&rig, SYNC);
		/* The other slot with the log is a whole filesystem: nothing is lost. */
		memset(junk, 0xa5, sizeof(junk));
		kv_run_kill(&rig.run);
		simdev_poke(rig.disk, slot ? SUPER_SLOT1 : SUPER_SLOT0, 0, junk, sizeof(junk));
		assert_int_equal(kv_run_open(&rig.run), 0);
		assert_int_equal(kv_run_compare(&rig.run), 0);
		must(&rig, CHECK);
		rig_end(&rig);
	}
}

static void nothing_is_lost_with_either_superblock_slot_destroyed(void **state)
{
	(void)state;
	superblock_slot_destroyed(0);
	superblock_slot_destroyed(1);
}

/* Six synced segments and the one that says that all of them are durable; in each, one after the other, a flipped bit. */
static void bit_rot_in_the_middle_of_the_log_is_refused_and_never_cuts_it_short(void **state)
{
	const unsigned segments = 6;
	unsigned refused = 0;

	(void)state;
	for (unsigned at = 0; at <= segments; at++) {
		uint64_t seen = 0, start;
		struct simdev_record rec;
		struct rig rig;

		rig_make(&rig, BLOCKS, 0);
		start = simdev_ops(rig.disk);
		for (unsigned i = 0; i < segments; i++) {
			must(&rig, { .action = KV_PUT, .ino = (uint16_t)(10 + i), .len = 200 });
			must(&rig, { .action = KV_EXTENT, .ino = E, .n = 1, .seed = i });
			must(&rig, SYNC);
		}
		/* When work stops, the last segment is marked as durable. */
		must(&rig, TICK);
		must(&rig, TICK);
		kv_run_kill(&rig.run);
		for (uint64_t n = start; n < simdev_ops(rig.disk); n++) {
			if (!simdev_record_at(rig.disk, n, &rec) || rec.op != SIMDEV_WRITE || !in_log(rig.disk, rec.addr))
				continue;
			if (seen++ == at)
				simdev_flip(rig.disk, rec.addr + at % rec.blocks, 8 * (40 + 31 * at) + at % 8);
		}
		assert_true(seen > segments);
		if (kv_run_open(&rig.run))
			refused++;
		else
			assert_int_equal(kv_run_compare(&rig.run), 0);
		rig_end(&rig);
	}
	assert_int_equal(refused, segments);
}

static void fill_up(struct rig *rig)
{
	int err = 0;

	for (uint16_t i = 0; err == 0 && i < 400; i++)
		err = act(rig, (struct kv_op){ .action = KV_EXTENT, .ino = (uint16_t)(100 + i), .n = 4, .seed = i });
	assert_int_equal(err, -ENOSPC);
	err = 0;
	for (uint16_t i = 0; err == 0 && i < 2000; i++)
		err = act(rig, (struct kv_op){ .action = KV_PUT, .ino = (uint16_t)(1000 + i), .len = 800 });
	assert_int_equal(err, -ENOSPC);
}

static void a_full_disk_can_be_emptied_again(void **state)
{
	struct rig rig;
	uint64_t before;

	(void)state;
	rig_make(&rig, BLOCKS, 0);
	must(&rig, CHECK);
	before = free_blocks(&rig);
	for (int round = 0; round < 3; round++) {
		fill_up(&rig);
		must(&rig, SYNC);
		must(&rig, { .action = KV_KILL });
		must(&rig, CHECK);
		while (kvmap_count(model_now(&rig.run.model)->live)) {
			const struct kv *kv = kvmap_at(model_now(&rig.run.model)->live, 0);

			must(&rig, { .action = KV_DEL_INO, .ino = (uint16_t)key_ino(kv->key) });
		}
		must(&rig, CHECKPOINT);
		must(&rig, CHECKPOINT);
		must(&rig, CHECK);
		assert_in_range(free_blocks(&rig), before - 12, before + 40);
	}
	rig_end(&rig);
}

static void a_full_disk_with_a_snapshot_of_everything_gets_room_by_deleting_it(void **state)
{
	struct rig rig;
	unsigned refused = 0;

	(void)state;
	rig_make(&rig, BLOCKS, 0);
	fill_up(&rig);
	must(&rig, SNAPSHOT(1));
	for (uint16_t i = 0; i < 400; i++) {
		int err = act(&rig, (struct kv_op){ .action = KV_DEL_INO, .ino = (uint16_t)(100 + i) });

		refused += err == -ENOSPC;
		assert_true(err == 0 || err == 1 || err == -ENOSPC);
	}
	printf("# deletions refused: %u\n", refused);
	must(&rig, DROP(1));
	must(&rig, CHECK);
	for (uint16_t i = 0; i < 400; i++)
		assert_true(act(&rig, (struct kv_op){ .action = KV_DEL_INO, .ino = (uint16_t)(100 + i) }) >= 0);
	must(&rig, CHECKPOINT);
	must(&rig, CHECKPOINT);
	must(&rig, EXTENT(E, 60));
	must(&rig, CHECK);
	rig_end(&rig);
}

/* Four snapshots, two of them on a branch that was left; the others in every order. */
static void snapshots_can_be_deleted_in_any_order_after_a_rollback(void **state)
{
	static const uint8_t order[][4] = {
		{ 1, 2, 3, 4 }, { 1, 2, 4, 3 }, { 1, 3, 2, 4 }, { 1, 3, 4, 2 }, { 1, 4, 2, 3 }, { 1, 4, 3, 2 },
		{ 2, 1, 3, 4 }, { 2, 1, 4, 3 }, { 2, 3, 1, 4 }, { 2, 3, 4, 1 }, { 2, 4, 1, 3 }, { 2, 4, 3, 1 },
		{ 3, 1, 2, 4 }, { 3, 1, 4, 2 }, { 3, 2, 1, 4 }, { 3, 2, 4, 1 }, { 3, 4, 1, 2 }, { 3, 4, 2, 1 },
		{ 4, 1, 2, 3 }, { 4, 1, 3, 2 }, { 4, 2, 1, 3 }, { 4, 2, 3, 1 }, { 4, 3, 1, 2 }, { 4, 3, 2, 1 },
	};

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(order); k++) {
		uint64_t before;
		struct rig rig;

		rig_make(&rig, BLOCKS, 0);
		must(&rig, CHECK);
		before = free_blocks(&rig);
		must(&rig, EXTENT(E, 3));
		must(&rig, EXTENT(F, 3));
		must(&rig, SNAPSHOT(1));
		must(&rig, DEL(E));
		must(&rig, EXTENT(G, 3));
		must(&rig, SNAPSHOT(2));
		must(&rig, CLONE(G, H));
		must(&rig, DEL(F));
		must(&rig, SNAPSHOT(3));
		must(&rig, DEL(G));
		must(&rig, ROLLBACK(1));
		must(&rig, CLONE(E, H));
		must(&rig, DEL(F));
		must(&rig, EXTENT(G, 2));
		must(&rig, SNAPSHOT(4));
		must(&rig, DEL(E));
		for (unsigned i = 0; i < 4; i++) {
			must(&rig, DROP(order[k][i]));
			must(&rig, EXTENT(40, 30));
			must(&rig, CHECK);
			if (k % 3 == i)
				must(&rig, { .action = KV_KILL });
		}
		must(&rig, DEL_INO(40));
		must(&rig, DEL(G));
		must(&rig, DEL(H));
		must(&rig, CHECKPOINT);
		must(&rig, CHECKPOINT);
		must(&rig, CHECK);
		/* Addresses kept ready for nodes do not count as free. */
		assert_in_range(free_blocks(&rig), before - 8, before + 40);
		rig_end(&rig);
	}
}

static void rollbacks_to_and_fro_leave_every_snapshot_whole(void **state)
{
	struct rig rig;

	(void)state;
	rig_make(&rig, BLOCKS, 0);
	must(&rig, EXTENT(E, 3));
	must(&rig, SNAPSHOT(1));
	must(&rig, EXTENT(E, 4));
	must(&rig, SNAPSHOT(2));
	for (unsigned i = 0; i < 8; i++) {
		must(&rig, ROLLBACK(1 + i % 2));
		must(&rig, EXTENT(E, (uint16_t)(1 + i)));
		must(&rig, CLONE(E, F));
		must(&rig, CHECK);
	}
	must(&rig, DROP(2));
	must(&rig, CHECK);
	must(&rig, ROLLBACK(1));
	must(&rig, DROP(1));
	must(&rig, EXTENT(F, 60));
	must(&rig, CHECK);
	rig_end(&rig);
}

/* A reader that has seen an item and has yet to read the blocks. */
struct slow_reader {
	struct view *view;
	unsigned cookie;
	uint8_t val[KV_VALUE_MAX];
};

static void reader_begin(struct slow_reader *r, struct rig *rig, uint64_t ino)
{
	size_t len;

	r->view = store_live(rig->run.store);
	r->cookie = view_read_begin(r->view);
	assert_int_equal(view_get(r->view, key_make(ino, KVT_EXTENT, 0), r->val, sizeof(r->val), &len), 0);
}

static void reader_end(struct slow_reader *r)
{
	static _Alignas(BLOCK_SIZE) uint8_t buf[KV_EXTENT_BLOCKS_MAX * BLOCK_SIZE];
	const struct kv_extent_val *v = (const struct kv_extent_val *)r->val;
	uint32_t sums[KV_EXTENT_BLOCKS_MAX], bad, blocks = le32_get(v->blocks);

	for (uint32_t i = 0; i < blocks; i++)
		sums[i] = le32_get(v->sums[i]);
	assert_int_equal(view_read(r->view, le64_get(v->addr), blocks, buf, sums), 0);
	assert_true(kv_data_right(r->val, buf, &bad));
	view_read_end(r->view, r->cookie);
}

static void blocks_are_not_reused_while_a_slow_reader_may_read_them(void **state)
{
	struct slow_reader reader;
	struct rig rig;

	(void)state;
	rig_make(&rig, 640, DISCARD);
	must(&rig, EXTENT(E, 3));
	must(&rig, CHECKPOINT);
	reader_begin(&reader, &rig, E);
	must(&rig, DEL(E));
	for (unsigned i = 0; i < 12; i++) {
		must(&rig, EXTENT(40, 30));
		must(&rig, CHECKPOINT);
	}
	reader_end(&reader);
	for (unsigned i = 0; i < 4; i++)
		must(&rig, CHECKPOINT);
	must(&rig, CHECK);
	rig_end(&rig);
}

/* What is superseded before it was written is never written; but someone may be about to read it. */
static void data_in_memory_stays_readable_for_a_slow_reader(void **state)
{
	(void)state;
	for (unsigned blocks = 1; blocks < 40; blocks += 19) {
		for (unsigned how = 0; how < 6; how++) {
			struct slow_reader reader;
			struct rig rig;

			rig_make(&rig, 900, how % 2 ? NO_RIDING : 0);
			must(&rig, EXTENT(E, (uint16_t)blocks));
			reader_begin(&reader, &rig, E);
			if (how < 2)
				must(&rig, DEL(E));
			else
				must(&rig, EXTENT(E, (uint16_t)blocks));
			if (how >= 4)
				must(&rig, SYNC);
			reader_end(&reader);
			must(&rig, CHECK);
			rig_end(&rig);
		}
	}
}

/* Their nodes do not fit the cache: they are written, evicted, read, changed and freed, and their addresses used again. */
static void transactions_larger_than_the_cache_write_and_free_the_same_addresses_again(void **state)
{
	struct rig rig;
	uint64_t before;

	(void)state;
	rig_make(&rig, 3000, TINY_CACHE);
	must(&rig, CHECK);
	before = free_blocks(&rig);
	for (uint8_t t = 0; t < KV_TXNS; t++)
		must(&rig, { .action = KV_TXN_BEGIN, .slot = t });
	for (uint16_t round = 0; round < 8; round++) {
		for (uint8_t t = 0; t < KV_TXNS; t++) {
			const uint16_t ino = (uint16_t)(50 + 10 * t + round);

			must(&rig, { .action = KV_PUT_MANY, .view = t + 1, .ino = ino, .n = 8, .len = 850 });
			must(&rig, { .action = KV_EXTENT, .view = t + 1, .ino = ino, .n = 12, .seed = round });
			must(&rig, CHECKPOINT);
			if (round % 4)
				must(&rig, { .action = KV_DEL_INO, .view = t + 1, .ino = (uint16_t)(ino - 1) });
		}
		must(&rig, { .action = KV_PUT_MANY, .ino = (uint16_t)(100 + round), .n = 8, .len = 850 });
		assert_int_equal(kv_run_compare(&rig.run), 0);
	}
	for (uint8_t t = 0; t < KV_TXNS; t++) {
		must(&rig, { .action = t % 2 ? KV_TXN_ABORT : KV_TXN_COMMIT, .slot = t });
		must(&rig, CHECK);
	}
	must(&rig, { .action = KV_KILL });
	must(&rig, CHECK);
	while (kvmap_count(model_now(&rig.run.model)->live))
		must(&rig, DEL_INO((uint16_t)key_ino(kvmap_at(model_now(&rig.run.model)->live, 0)->key)));
	must(&rig, CHECKPOINT);
	must(&rig, CHECKPOINT);
	must(&rig, CHECK);
	assert_in_range(free_blocks(&rig), before - 12, before + 40);
	rig_end(&rig);
}

/* ---- failures of the device (contract G) ---- */

static void after_a_failed_write_or_flush_nothing_more_is_promised_and_nothing_is_lost(void **state)
{
	(void)state;
	for (unsigned flush = 0; flush < 2; flush++) {
		for (unsigned after = 0; after < 12; after++) {
			struct simdev_fault fault = { .op = flush ? SIMDEV_FLUSH : SIMDEV_WRITE, .after = after, .times = 1,
						      .effect = after % 3 };
			struct store_status st;
			struct rig rig;
			int err = 0;

			rig_make(&rig, BLOCKS, 0);
			must(&rig, EXTENT(E, 2));
			must(&rig, SYNC);
			simdev_add_fault(rig.disk, &fault);
			for (uint16_t i = 0; !err && i < 10; i++) {
				err = act(&rig, (struct kv_op){ .action = KV_EXTENT, .ino = (uint16_t)(30 + i), .n = 1 + i % 3 * 9,
								.seed = i });
				if (!err)
					err = act(&rig, (struct kv_op){ .action = i % 4 == 3 ? KV_CHECKPOINT : KV_SYNC });
			}
			assert_true(err == -EIO || err == -EROFS);
			assert_int_equal(act(&rig, (struct kv_op)SYNC), -EIO);
			assert_int_equal(act(&rig, (struct kv_op)PUT(10)), -EROFS);
			assert_int_equal(act(&rig, (struct kv_op)SNAPSHOT(1)) < 0, 1);
			store_status(rig.run.store, &st);
			assert_int_not_equal(st.error, 0);
			assert_true(st.error_text[0]);
			simdev_clear_faults(rig.disk);
			assert_int_equal(act(&rig, (struct kv_op)SYNC), -EIO);

			/* Everything that was acknowledged is there after a new beginning. */
			must(&rig, { .action = KV_KILL });
			must(&rig, CHECK);
			must(&rig, PUT(10));
			must(&rig, SYNC);
			rig_end(&rig);
		}
	}
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[ARRAY_LEN(cases) + 16];
	size_t n = 0;

	/* A pattern such as "*rollback*" picks tests. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	kv_log_quiet();
	for (; n < ARRAY_LEN(cases); n++)
		tests[n] = TEST_ROW(cases[n].name, run_case, &cases[n]);
#define ADD(f) tests[n++] = (struct CMUnitTest)cmocka_unit_test(f)
	ADD(a_crash_inside_recovery_twice_changes_nothing);
	ADD(a_crash_between_the_mounts_epoch_write_and_the_end_of_recovery_is_harmless);
	ADD(nothing_is_lost_with_either_superblock_slot_destroyed);
	ADD(bit_rot_in_the_middle_of_the_log_is_refused_and_never_cuts_it_short);
	ADD(a_full_disk_can_be_emptied_again);
	ADD(a_full_disk_with_a_snapshot_of_everything_gets_room_by_deleting_it);
	ADD(snapshots_can_be_deleted_in_any_order_after_a_rollback);
	ADD(rollbacks_to_and_fro_leave_every_snapshot_whole);
	ADD(blocks_are_not_reused_while_a_slow_reader_may_read_them);
	ADD(data_in_memory_stays_readable_for_a_slow_reader);
	ADD(transactions_larger_than_the_cache_write_and_free_the_same_addresses_again);
	ADD(after_a_failed_write_or_flush_nothing_more_is_promised_and_nothing_is_lost);
#undef ADD
	return _cmocka_run_group_tests("crash_cases", tests, n, NULL, NULL);
}

/*
 * t_refs.c - references to extents: who holds what, and when blocks are released
 *
 * Each row is a small program over files a..h (inodes 1..8) whose blocks are 10 at offset 0. After every step the store is
 * checked; the row is run as it is, reopened after each step, and killed after each step, so that replay has to come to the
 * same.
 *
 *	a+	file a is written		a-	... removed
 *	a>b	b refers to all of a		a2:3>b	b refers to blocks 2..4 of a
 *	a2:3=	a's item is replaced by one that refers to its blocks 2..4 alone
 *	a|	a's item becomes three: blocks 0..2, 3..5, 6..9, at those offsets
 *	S	snapshot, s and a number	D<n>	... deleted		R<n>	rolled back to
 *	C	checkpoint
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define BLOCKS 10u

struct row {
	const char *name;
	const char *steps; /* separated by spaces */
	uint32_t used;	   /* data blocks in the end, everything held by live and snapshots */
};

static const struct row rows[] = {
	{ "what_one_file_writes_is_released_with_it", "a+ a-", 0 },
	{ "a_file_written_over_releases_its_old_blocks", "a+ a+ a+", 10 },
	{ "a_clone_costs_nothing", "a+ a>b", 10 },
	{ "a_clone_holds_the_blocks_when_the_source_goes", "a+ a>b a-", 10 },
	{ "the_source_holds_the_blocks_when_the_clone_goes", "a+ a>b b-", 10 },
	{ "the_last_of_many_references_releases", "a+ a>b b>c c>d a- c- d- b-", 0 },
	{ "one_before_the_last_releases_nothing", "a+ a>b b>c c>d a- c- d-", 10 },
	{ "a_part_holds_only_its_blocks", "a+ a2:3>b a-", 3 },
	{ "two_parts_hold_what_either_refers_to", "a+ a2:3>b a4:4>c a-", 6 },
	{ "overlapping_parts_are_released_block_by_block", "a+ a2:3>b a4:4>c a- b-", 4 },
	{ "a_part_of_a_part_holds_its_own_blocks", "a+ a2:6>b b1:2>c a- b-", 2 },
	{ "a_shared_record_splits_in_three_and_joins_again", "a+ a>b a3:4>c c- b- a-", 0 },
	{ "a_record_in_the_middle_goes_with_the_clone_of_the_whole", "a+ a3:4>c a>b b- a-", 4 },
	{ "records_at_both_ends_stay_when_the_middle_goes", "a+ a0:3>b a7:3>c a3:4>d d- a-", 6 },
	{ "neighbouring_records_of_equal_counts_go_as_one", "a+ a0:5>b a5:5>c a>d b- c- d- a-", 0 },
	{ "replacing_a_file_by_a_part_of_itself_releases_the_rest", "a+ a2:3=", 3 },
	{ "replacing_a_cloned_file_by_a_part_of_itself_releases_nothing", "a+ a>b a2:3=", 10 },
	{ "splitting_an_item_releases_and_shares_nothing", "a+ a|", 10 },
	{ "splitting_a_cloned_item_keeps_the_counts", "a+ a>b a| b-", 10 },
	{ "a_clone_over_itself_changes_nothing", "a+ a>a", 10 },
	{ "a_clone_over_another_file_releases_that_ones_blocks", "a+ b+ a>b", 10 },
	{ "a_clone_over_another_clone_keeps_both_sources", "a+ b+ a>c b>c a- b-", 10 },
	{ "counts_survive_many_changes", "a+ a>b a>c a>d a1:2>e a1:5>f a4:1>g b- e- C c- a- f- d- g-", 0 },
	{ "checkpoints_in_between_change_nothing", "a+ C a>b C a- C a+ C b- C", 10 },
	{ "a_snapshot_holds_what_live_removes", "a+ S a-", 10 },
	{ "a_snapshot_deleted_releases_what_live_had_removed", "a+ S a- D0", 0 },
	{ "a_clone_removed_after_a_snapshot_is_counted_in_live_alone", "a+ a>b S a- D0", 10 },
	{ "a_clone_made_after_a_snapshot_ends_with_it", "a+ S a>b a- D0 b-", 0 },
	{ "a_clone_removed_then_rollback_then_the_other_removed", "a+ a>b S a- R0 b- D0 a-", 0 },
	{ "a_part_kept_through_snapshot_and_rollback", "a+ S a2:3= R0 a4:4>c a- D0", 4 },
	{ "rollback_brings_back_the_counts", "a+ a>b a>c S a- b- c- R0 a- b-", 10 },
	{ "rollback_without_clones_then_clones_anew", "a+ S b+ R0 a>b a- D0", 10 },
};

static void step(struct storekit *k, const char *at, unsigned *snapshots)
{
	struct view *live = store_live(k->s);
	uint64_t ino = (uint64_t)(at[0] - 'a' + 1), to;
	char name[8] = { 's', at[1], 0 };
	unsigned from = 0, n = BLOCKS;
	char *p;

	switch (at[0]) {
	case 'S':
		name[1] = (char)('0' + (*snapshots)++);
		assert_int_equal(snapshot_create(k->s, name, NULL), 0);
		return;
	case 'D':
		assert_int_equal(snapshot_delete(k->s, name), 0);
		return;
	case 'R':
		assert_int_equal(snapshot_rollback(k->s, name), 0);
		return;
	case 'C':
		assert_int_equal(store_checkpoint(k->s), 0);
		return;
	default:
		break;
	}
	p = (char *)(uintptr_t)at + 1;
	if (isdigit((unsigned char)*p)) {
		from = (unsigned)strtoul(p, &p, 10);
		n = (unsigned)strtoul(p + 1, &p, 10);
	} else if (*p == '>') {
		n = storekit_where(live, ino, 0).blocks;
	}
	switch (*p) {
	case '+':
		assert_int_equal(storekit_write(k, live, ino, 0, BLOCKS), 0);
		assert_int_equal(storekit_where(live, ino, 0).blocks, BLOCKS);
		break;
	case '-':
		assert_int_equal(storekit_remove(live, ino), 0);
		break;
	case '>':
		to = (uint64_t)(p[1] - 'a' + 1);
		assert_int_equal(storekit_clone(live, ino, 0, from, n, to, 0), 0);
		break;
	case '=':
		assert_int_equal(storekit_clone(live, ino, 0, from, n, ino, 0), 0);
		break;
	case '|': {
		uint8_t val[KV_VALUE_MAX], part[KV_VALUE_MAX];
		static const unsigned cut[] = { 0, 3, 6, 10 };
		struct batch *b;
		size_t len;

		assert_int_equal(view_get(live, storekit_file(ino, 0), val, sizeof(val), &len), 0);
		assert_int_equal(batch_open(live, &b), 0);
		for (unsigned i = 0; i < 3; i++) {
			len = kv_extent_part(val, cut[i], cut[i + 1] - cut[i], part);
			assert_int_equal(batch_put(b, storekit_file(ino, cut[i]), part, len), 0);
		}
		assert_int_equal(batch_commit(b, NULL), 0);
		batch_close(b);
		break;
	}
	default:
		fail_msg("step %s", at);
	}
}

enum mode { PLAIN, REOPEN, KILL, POWER, MODES };

static void run(void **state)
{
	const struct row *row = *state;

	for (enum mode mode = PLAIN; mode < MODES; mode++) {
		unsigned snapshots = 0;
		struct storekit k;
		uint64_t empty;

		storekit_init(&k, 2048, NULL);
		storekit_settle(&k);
		empty = storekit_free(&k);
		for (const char *at = row->steps; at; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL) {
			step(&k, at, &snapshots);
			if (mode == REOPEN) {
				storekit_close(&k);
				storekit_open(&k);
			} else if (mode != PLAIN) {
				assert_int_equal(store_sync(k.s), 0);
				storekit_reboot(&k, mode == POWER);
			}
			for (uint64_t ino = 1; ino <= 8; ino++)
				(void)storekit_read(store_live(k.s), ino);
			if (mode != PLAIN || !strchr(at, ' '))
				storekit_check(&k);
		}
		assert_int_equal(k.checked.data_blocks, row->used);
		/* And everything can go again. */
		for (uint64_t ino = 1; ino <= 8; ino++)
			assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
		for (unsigned i = 0; i < snapshots; i++) {
			char name[8] = { 's', (char)('0' + i), 0 };
			int err = snapshot_delete(k.s, name);

			assert_true(err == 0 || err == -ENOENT);
		}
		storekit_check(&k);
		assert_int_equal(k.checked.data_blocks, 0);
		storekit_settle(&k);
		assert_int_equal(storekit_items(store_live(k.s)), 0);
		if (mode == PLAIN)
			assert_true(storekit_free(&k) + 40 > empty); /* the system tree and the pool hold some */
		storekit_release(&k);
	}
}

/* File a gets one block more behind its last one, in the same item. 1: the next block was not free. */
static int join(struct storekit *k, uint64_t gen)
{
	struct view *live = store_live(k->s);
	uint8_t val[KV_VALUE_MAX], whole[KV_VALUE_MAX];
	struct kv_extent_val *v = (void *)val;
	struct batch *b;
	struct extent x;
	size_t len;
	void *buf;
	int err;

	assert_int_equal(view_get(live, storekit_file(1, 0), val, sizeof(val), &len), 0);
	assert_int_equal(batch_open(live, &b), 0);
	assert_int_equal(batch_alloc(b, 1, false, &x), 0);
	if (x.addr != le64_get(v->addr) + kv_extent_blocks(val)) {
		batch_close(b);
		return 1;
	}
	len = kv_extent_make(whole, le64_get(v->addr), kv_extent_blocks(val) + 1, kv_extent_tag(val), 0, NULL);
	((struct kv_extent_val *)whole)->birth = le64_put(gen);
	buf = mem_alloc_blocks(BLOCK_SIZE);
	kv_fill(buf, kv_extent_tag(val), kv_extent_blocks(val));
	assert_int_equal(batch_data(b, x.addr, 1, buf, (uint32_t[]){ data_checksum(buf) }), 0);
	assert_int_equal(batch_put(b, storekit_file(1, 0), whole, len), 0);
	err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

/* Blocks written later may join an item only while they have its birth: a snapshot in between does not hold them. */
static void fresh_blocks_join_older_ones_of_the_same_birth_only(void **state)
{
	for (enum mode mode = PLAIN; mode < MODES; mode++) {
		struct storekit k;
		uint64_t gen;

		(void)state;
		storekit_init(&k, 2048, NULL);
		assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 3), 0);
		gen = view_gen(store_live(k.s));
		assert_int_equal(join(&k, gen), 0);
		assert_int_equal(storekit_read(store_live(k.s), 1), 4);
		assert_int_equal(snapshot_create(k.s, "s0", NULL), 0);
		assert_int_not_equal(view_gen(store_live(k.s)), gen);
		assert_int_equal(join(&k, gen), -ERESTART);
		assert_int_equal(storekit_read(store_live(k.s), 1), 4);
		if (mode == REOPEN) {
			storekit_close(&k);
			storekit_open(&k);
		} else if (mode != PLAIN) {
			assert_int_equal(store_sync(k.s), 0);
			storekit_reboot(&k, mode == POWER);
		}
		storekit_check(&k);
		assert_int_equal(storekit_read(store_live(k.s), 1), 4);
		assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
		assert_int_equal(snapshot_delete(k.s, "s0"), 0);
		storekit_check(&k);
		assert_int_equal(k.checked.data_blocks, 0);
		storekit_release(&k);
	}
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 1];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[i] = TEST_ROW(rows[i].name, run, &rows[i]);
	tests[ARRAY_LEN(rows)] = (struct CMUnitTest)cmocka_unit_test(fresh_blocks_join_older_ones_of_the_same_birth_only);
	return _cmocka_run_group_tests("refs", tests, ARRAY_LEN(tests), NULL, NULL);
}

/*
 * t_space_rebuild.c - a store whose space map cannot be read opens all the same: the map is made anew from the trees
 *
 * The hard part is what a snapshot operation leaves when it is cut short: half freed snapshots, lists that have been joined in
 * part. So such operations are crashed before each write, the map is damaged in every state that this can leave, and after
 * opening (which finishes the operation) every block must be accounted for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "btree/space_int.h"
#include "btree/super.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"
#include "wal/store_int.h"

static const struct store_mkfs_options with_copies = {
	.node_size = 4096, .log_blocks = 64, .copies = true, .lazy_log = true, .seed = 5, .now_ns = 1
};

static void write_some(struct storekit *k, uint64_t ino, uint32_t blocks)
{
	for (uint64_t i = 0; i < 6; i++) {
		assert_int_equal(storekit_write(k, store_live(k->s), ino + i, 0, blocks), 0);
		for (uint64_t n = 0; n < 10; n++)
			assert_int_equal(storekit_put(store_live(k->s), ino + i, n, "an item that takes some room"), 0);
	}
}

/* Four snapshots, each with something of its own, and live in front of them. */
static void fill(struct storekit *k)
{
	char name[8];

	storekit_init(k, 4096, &with_copies);
	for (unsigned i = 0; i < 4; i++) {
		write_some(k, 100 + i * 3, 2 + i);
		if (i == 2)
			assert_int_equal(storekit_clone(store_live(k->s), 101, 0, 0, 1, 200, 0), 0);
		snprintf(name, sizeof(name), "s%u", i);
		assert_int_equal(snapshot_create(k->s, name, NULL), 0);
	}
	write_some(k, 104, 3);
	assert_int_equal(storekit_remove(store_live(k->s), 107), 0);
	assert_int_equal(store_checkpoint(k->s), 0);
}

/* All homes of the pages of a level: none can be read. */
static void damage_map(struct simdev *disk, unsigned level)
{
	for (unsigned home = 0; home < SPACE_HOMES; home++)
		simdev_flip(disk, space_home_addr(level, 0, home), 12345);
}

static int delete_middle(struct store *s)
{
	return snapshot_delete(s, "s1");
}

static int delete_newest(struct store *s)
{
	return snapshot_delete(s, "s3");
}

static int delete_oldest(struct store *s)
{
	return snapshot_delete(s, "s0");
}

static int create(struct store *s)
{
	return snapshot_create(s, "s4", NULL);
}

/* Leaves a snapshot without children, which goes in one step. */
static int roll_back(struct store *s)
{
	return snapshot_rollback(s, "s1");
}

static int roll_back_and_delete(struct store *s)
{
	int err = snapshot_rollback(s, "s1");

	if (!err)
		err = storekit_put(store_live(s), 500, 0, "later");
	if (!err)
		err = snapshot_delete(s, "s1"); /* hidden: two derive from it */
	return err ? err : snapshot_delete(s, "s2");
}

struct row {
	const char *name;
	int (*run)(struct store *);
};

static const struct row rows[] = {
	{ "while_a_snapshot_is_made", create },		  { "while_one_in_the_middle_is_deleted", delete_middle },
	{ "while_the_newest_is_deleted", delete_newest }, { "while_the_oldest_is_deleted", delete_oldest },
	{ "while_live_is_rolled_back", roll_back },	  { "while_several_things_happen", roll_back_and_delete },
};

static void crashed_and_damaged(void **state)
{
	const struct row *row = *state;
	unsigned states = 0, rebuilt = 0;
	struct storekit k;
	uint64_t from;

	fill(&k);
	from = simdev_ops(k.disk);
	assert_int_equal(row->run(k.s), 0);
	store_crash(k.s);
	k.s = NULL;
	for (uint64_t n = from; n <= simdev_ops(k.disk); n++)
		for (unsigned keep = 0; keep < 2; keep++)
			for (unsigned level = 0; level < 2; level++) {
				enum simdev_choice choice[256];
				struct storekit after = { .opt = k.opt };
				unsigned unflushed = simdev_unflushed(k.disk, n);

				assert_true(unflushed <= ARRAY_LEN(choice));
				for (unsigned i = 0; i < unflushed; i++)
					choice[i] = keep ? SIMDEV_KEEP : SIMDEV_DROP;
				after.disk = simdev_branch(k.disk, n, choice, n);
				damage_map(after.disk, level);
				storekit_quiet();
				storekit_open(&after);
				rebuilt += storekit_said("made anew from the trees") > 0;
				storekit_check(&after);
				assert_int_equal(storekit_put(store_live(after.s), 900, 0, "and on"), 0);
				storekit_close(&after);
				storekit_open(&after);
				storekit_expect(store_live(after.s), 900, 0, "and on");
				storekit_check(&after);
				storekit_release(&after);
				states++;
			}
	print_message("# %u states\n", states);
	assert_true(states > 20);
	assert_int_equal(rebuilt, states);
	storekit_release(&k);
}

static void a_log_is_replayed_on_the_new_map(void **state)
{
	struct storekit k;

	(void)state;
	fill(&k);
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(storekit_write(&k, store_live(k.s), 300 + i, 0, 2), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 104), 0);
	assert_int_equal(store_sync(k.s), 0);
	storekit_kill(&k, true);
	damage_map(k.disk, 0);
	storekit_open(&k);
	assert_int_equal(storekit_said("made anew from the trees"), 1);
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(storekit_read(store_live(k.s), 300 + i), 2);
	storekit_check(&k);
	storekit_release(&k);
}

/* What the unreadable node refers to must not be handed out: better no room than wrong bytes. */
static void not_where_a_node_cannot_be_read(void **state)
{
	struct store_options opt;
	struct storekit k;
	struct store *s;
	uint64_t root, copy;

	(void)state;
	fill(&k);
	storekit_close(&k);
	storekit_open(&k);
	root = k.s->super.files.ref.addr;
	copy = k.s->super.files.ref.copy;
	opt = k.opt;
	store_crash(k.s);
	k.s = NULL;
	damage_map(k.disk, 0);
	simdev_flip(k.disk, root, 999);
	simdev_flip(k.disk, copy, 999);
	storekit_quiet();
	/* The snapshots could still be read. */
	if (!store_open(simdev_bdev(k.disk), &opt, &s)) {
		assert_int_equal(storekit_put(store_live(s), 1, 0, "x"), -ENOSPC);
		store_crash(s);
	}
	assert_int_equal(storekit_said("made anew from the trees"), 0);
	storekit_release(&k);
}

static void read_only_it_is_enough_to_know(void **state)
{
	struct storekit k;
	uint64_t writes;

	(void)state;
	fill(&k);
	assert_int_equal(storekit_put(store_live(k.s), 300, 0, "in the log"), 0);
	assert_int_equal(store_sync(k.s), 0);
	storekit_kill(&k, true);
	damage_map(k.disk, 0);
	writes = simdev_count(k.disk, SIMDEV_WRITE);
	k.opt.read_only = true;
	storekit_open(&k);
	storekit_expect(store_live(k.s), 300, 0, "in the log");
	assert_int_equal(simdev_count(k.disk, SIMDEV_WRITE), writes);
	storekit_release(&k);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 3];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].name, crashed_and_damaged, &rows[i]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_log_is_replayed_on_the_new_map);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(not_where_a_node_cannot_be_read);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(read_only_it_is_enough_to_know);
	return _cmocka_run_group_tests("tests", tests, n, NULL, NULL);
}

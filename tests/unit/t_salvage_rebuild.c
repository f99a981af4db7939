/*
 * Salvage and rebuild together: a disk without superblocks becomes a store again. Where the newest tree, or an
 * older one and the log, is all there, it holds what it held.
 */
#include <stdio.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/salvagekit.h"
#include "tests/kit/test.h"
#include "wal/rebuild.h"

static unsigned exact;

static int salvage_and_rebuild(struct simdev *disk, struct salvage_result *r, struct rebuild_result *rr)
{
	struct rebuild_options o = { .records = &kv_records };
	int err = salvage_scan(simdev_bdev(disk), &salvagekit_options, &o.salvage, r);

	if (err)
		return err;
	err = store_rebuild(simdev_bdev(disk), &o, rr);
	salvage_close(o.salvage);
	return err;
}

/* Opens, checks, and compares; want == NULL: only checks. Twice, since the first one recovers. */
static void expect_store(struct simdev *disk, const struct kvmap *want, const char *what)
{
	struct store_options so = kv_store_options;

	so.records = &kv_records;
	for (unsigned i = 0; i < 2; i++) {
		struct check_result c;
		struct kvmap *have;
		struct store *s;
		char why[300] = "";
		int err;

		so.seed = 50 + i;
		err = store_open(simdev_bdev(disk), &so, &s);
		if (err)
			kv_log_print(stdout);
		assert_int_equal(err, 0);
		err = store_check(s, &c);
		if (err) {
			printf("# %s\n", what);
			kv_log_print(stdout);
		}
		assert_int_equal(err, 0);
		if (want) {
			err = kv_view_read(store_live(s), &have, why, sizeof(why));
			if (err)
				printf("# %s: %s\n", what, why);
			assert_int_equal(err, 0);
			if (!kvmap_equal(have, want)) {
				printf("# %s\n", what);
				kvmap_print_diff(stdout, "rebuilt", have, "model", want, 10);
				kv_log_print(stdout);
				fail();
			}
			kvmap_unref(have);
		}
		assert_int_equal(store_close(s), 0);
	}
}

/* What recovery makes of the disk as long as it has its superblocks. */
static struct kvmap *recovered(const struct salvagekit *f)
{
	struct simdev *disk = simdev_clone(f->disk);
	struct store_options so = kv_store_options;
	struct kvmap *have;
	struct store *s;
	char why[300];

	so.records = &kv_records;
	so.seed = 40;
	assert_int_equal(store_open(simdev_bdev(disk), &so, &s), 0);
	assert_int_equal(kv_view_read(store_live(s), &have, why, sizeof(why)), 0);
	assert_int_equal(store_close(s), 0);
	simdev_free(disk);
	return have;
}

static void rebuild_whole(const struct kv_profile *profile, uint64_t seed, bool clean, bool root)
{
	struct salvage_result r;
	struct rebuild_result rr;
	struct salvagekit f;
	struct kvmap *want;
	char what[100];
	int err;

	salvagekit_make(&f, profile, seed, 250, seed & 1, clean);
	want = recovered(&f);
	salvagekit_wipe_supers(f.disk);
	if (root && f.super.files.levels)
		salvagekit_wipe_node(f.disk, f.super.files.ref);
	snprintf(what, sizeof(what), "seed %u", (unsigned)seed);
	err = salvage_and_rebuild(f.disk, &r, &rr);
	if (err) {
		printf("# %s: %d\n", what, err);
		kv_log_print(stdout);
	}
	assert_int_equal(err, 0);
	assert_true(r.identified);
	if (root && !r.log_reaches) {
		expect_store(f.disk, NULL, what);
	} else {
		expect_store(f.disk, want, what);
		exact++;
	}
	kvmap_unref(want);
	salvagekit_release(&f);
}

static void superblocks_of_a_store_closed_cleanly(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++)
		rebuild_whole(&salvagekit_plain, seed, true, false);
}

static void superblocks_of_a_store_that_was_killed(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++)
		rebuild_whole(&salvagekit_plain, seed, false, false);
}

static void superblocks_and_root(void **state)
{
	(void)state;
	exact = 0;
	for (uint64_t seed = 1; seed <= 40; seed++)
		rebuild_whole(&salvagekit_plain, seed, seed & 2, true);
	print_message("# %u of 40 exact\n", exact);
	assert_true(exact > 10);
}

/* Snapshots, transactions and rollbacks as well: always a whole store, mostly the right one (see salvage_plan.c). */
static void superblocks_of_stores_with_many_views(void **state)
{
	const struct kv_profile *profiles[] = { &kv_profile_mixed, &kv_profile_views, &kv_profile_heavy };
	unsigned same = 0, n = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 45; seed++) {
		struct store_options so = kv_store_options;
		struct salvage_result r;
		struct rebuild_result rr;
		struct salvagekit f;
		struct kvmap *want, *have;
		struct store *s;
		char what[100];
		int err;

		snprintf(what, sizeof(what), "views, seed %u", (unsigned)seed);
		salvagekit_make(&f, profiles[seed % 3], seed, 200, seed & 1, seed & 4);
		want = recovered(&f);
		salvagekit_wipe_supers(f.disk);
		err = salvage_and_rebuild(f.disk, &r, &rr);
		if (err) {
			printf("# %s: %d\n", what, err);
			kv_log_print(stdout);
		}
		assert_int_equal(err, 0);
		expect_store(f.disk, NULL, what);
		so.records = &kv_records;
		so.seed = 60;
		assert_int_equal(store_open(simdev_bdev(f.disk), &so, &s), 0);
		if (!kv_view_read(store_live(s), &have, what, sizeof(what))) {
			same += kvmap_equal(have, want);
			kvmap_unref(have);
		}
		n++;
		assert_int_equal(store_close(s), 0);
		kvmap_unref(want);
		salvagekit_release(&f);
	}
	print_message("# %u of %u exact\n", same, n);
	assert_true(same > n / 2);
}

/* Whatever is left becomes a store that checks. */
static void random_damage_becomes_a_whole_store(void **state)
{
	unsigned full = 0, empty = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		struct salvage_result r;
		struct rebuild_result rr;
		struct salvagekit f;
		struct rng rng;
		char what[100];
		int err;

		snprintf(what, sizeof(what), "damage, seed %u", (unsigned)seed);
		rng_seed(&rng, seed);
		salvagekit_make(&f, seed % 3 ? &salvagekit_plain : &kv_profile_mixed, seed, 150, seed & 1, seed & 4);
		if (seed % 5)
			salvagekit_wipe_supers(f.disk);
		if (seed % 7 == 0)
			salvagekit_wipe(f.disk, 0, 256);
		if (seed % 4 == 0)
			salvagekit_wipe_node(f.disk, f.super.files.ref);
		for (unsigned k = (unsigned)rng_below(&rng, 200); k; k--)
			simdev_flip(f.disk, rng_range(&rng, 17, SALVAGEKIT_BLOCKS - 1),
				    (uint32_t)rng_below(&rng, 32768));
		err = salvage_and_rebuild(f.disk, &r, &rr);
		if (err == -ENOSPC) {
			full++;
		} else if (err == -ENODEV && seed % 7 == 0) {
			empty++; /* all nodes stood there */
		} else {
			if (err) {
				printf("# %s: %d\n", what, err);
				kv_log_print(stdout);
			}
			assert_int_equal(err, 0);
			expect_store(f.disk, NULL, what);
		}
		salvagekit_release(&f);
	}
	print_message("# %u had no room, of %u nothing was left\n", full, empty);
	assert_true(full + empty < 10);
}

/* Nodes that verify and say what cannot be. */
static void an_image_that_lies_becomes_a_whole_store(void **state)
{
	unsigned images = 0, refused = 0;

	(void)state;
	/* The last one: the log refers to blocks whose item is lost. */
	for (uint64_t seed = 1; seed; seed = seed < 6 ? seed + 1 : seed == 6 ? 39 : 0) {
		static uint64_t nodes[SALVAGEKIT_BLOCKS];
		struct salvagekit f;
		unsigned n;

		salvagekit_make(&f, &kv_profile_mixed, 300 + seed, 150, seed & 1, seed & 2);
		n = salvagekit_nodes(f.disk, nodes, SALVAGEKIT_BLOCKS);
		for (unsigned i = 0; i < 60; i++) {
			struct simdev *bad = simdev_clone(f.disk);
			struct salvage_result r;
			struct rebuild_result rr;
			struct rng rng;
			char what[100];
			int err;

			snprintf(what, sizeof(what), "lies, seed %u/%u", (unsigned)seed, i);
			rng_seed(&rng, seed * 1000 + i);
			if (rng_chance(&rng, 2, 3))
				salvagekit_wipe_supers(bad);
			for (unsigned k = (unsigned)rng_range(&rng, 1, n); k; k--)
				salvagekit_mutate(bad, nodes[rng_below(&rng, n)], nodes, n, &rng);
			err = salvage_and_rebuild(bad, &r, &rr);
			if (err == -ENODEV || err == -ENOSPC || err == -EUCLEAN) {
				refused++;
			} else {
				if (err) {
					printf("# %s: %d\n", what, err);
					kv_log_print(stdout);
				}
				assert_int_equal(err, 0);
				expect_store(bad, NULL, what);
			}
			images++;
			simdev_free(bad);
		}
		salvagekit_release(&f);
	}
	print_message("# %u images, %u refused\n", images, refused);
	assert_true(refused < images / 4);
}

/* Cut short at any write, it can be done again. */
static void a_crash_while_rebuilding_is_survived(void **state)
{
	unsigned states = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct salvage_result r;
		struct rebuild_result rr;
		struct salvagekit f;
		struct simdev *run;
		struct kvmap *want;

		salvagekit_make(&f, &salvagekit_plain, seed, 120, seed & 1, seed & 2);
		want = recovered(&f);
		salvagekit_wipe_supers(f.disk);
		run = simdev_clone(f.disk);
		assert_int_equal(salvage_and_rebuild(run, &r, &rr), 0);
		for (uint64_t n = 0; n <= simdev_ops(run); n++) {
			struct simdev_crash c;
			struct simdev *after;

			simdev_crash_begin(&c, run, n, 4, seed);
			while ((after = simdev_crash_next(&c))) {
				int err = salvage_and_rebuild(after, &r, &rr);

				if (err) {
					simdev_crash_print(&c);
					kv_log_print(stdout);
				}
				assert_int_equal(err, 0);
				expect_store(after, want, "crash while rebuilding");
				simdev_free(after);
				states++;
			}
			simdev_crash_end(&c);
		}
		simdev_free(run);
		kvmap_unref(want);
		salvagekit_release(&f);
	}
	print_message("# %u states\n", states);
	assert_true(states > 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(superblocks_of_a_store_closed_cleanly),
		cmocka_unit_test(superblocks_of_a_store_that_was_killed),
		cmocka_unit_test(superblocks_and_root),
		cmocka_unit_test(superblocks_of_stores_with_many_views),
		cmocka_unit_test(random_damage_becomes_a_whole_store),
		cmocka_unit_test(an_image_that_lies_becomes_a_whole_store),
		cmocka_unit_test(a_crash_while_rebuilding_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

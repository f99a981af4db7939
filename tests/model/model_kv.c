/*
 * model_kv.c - long runs against the model, without crashes
 *
 * Operations by seed, on a store whose cache is far too small; after each failure that was made to happen, what the store
 * holds is compared with the model. ARBOR_SEED replaces the seed, ARBOR_MODEL_SECONDS the time each test takes.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "btree/err.h"
#include "tests/kit/failmem.h"
#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_gen.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"
#include "wal/log.h"

#define SEED 1u

static uint64_t seed = SEED;
static double seconds = 4;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

struct shape {
	const char *name;
	const struct kv_profile *profile;
	uint64_t blocks;
	uint32_t node_size;
	unsigned frames, log_blocks;
	bool copies, discard, shuffle;
	unsigned ride_max;
};

static const struct shape shapes[] = {
	{ "random operations agree with the model", &kv_profile_mixed, 1500, 4096, 64, LOG_BLOCKS_MIN, .shuffle = true },
	{ "snapshots, clones and transactions agree with the model", &kv_profile_views, 1500, 4096, 64, LOG_BLOCKS_MIN,
	  .discard = true },
	{ "large batches on a small device agree with the model", &kv_profile_heavy, 1200, 4096, 300, LOG_BLOCKS_MIN,
	  .discard = true, .shuffle = true },
	{ "a store with second copies and nothing riding agrees with the model", &kv_profile_mixed, 4000, 8192, 64, 128,
	  .copies = true, .ride_max = UINT32_MAX },
	{ "a store of large nodes agrees with the model", &kv_profile_mixed, 8000, 16384, 64, 256, .shuffle = true },
};

struct rig {
	struct simdev *disk;
	struct kv_run run;
	struct rng rng;
	uint64_t n;		/* operations so far */
	uint64_t seed;
	struct kv_op last[6];
};

static void rig_make(struct rig *rig, const struct shape *s, uint64_t number)
{
	struct store_mkfs_options mkfs = kv_mkfs_options;
	struct store_options opt = kv_store_options;

	*rig = (struct rig){ .seed = rng_mix(seed, number) >> 40 };
	mkfs.node_size = s->node_size;
	mkfs.log_blocks = s->log_blocks;
	mkfs.copies = s->copies;
	opt.cache_bytes = (size_t)s->frames * s->node_size;
	opt.data_bytes = 1 << 19;
	opt.discard = s->discard;
	opt.ride_max = s->ride_max;
	rig->disk = simdev_new(&(struct simdev_options){ .blocks = s->blocks, .seed = rig->seed, .no_trace = true,
							 .shuffle = s->shuffle });
	rng_seed(&rig->rng, rig->seed);
	kv_run_init(&rig->run, rig->disk, &opt, NULL, rig->seed);
	assert_int_equal(store_mkfs(simdev_bdev(rig->disk), &mkfs), 0);
	assert_int_equal(kv_run_open(&rig->run), 0);
}

static void rig_end(struct rig *rig)
{
	kv_run_release(&rig->run);
	simdev_free(rig->disk);
}

static void fail_rig(const struct rig *rig, const char *what, int err)
{
	printf("# %s: error %d; ARBOR_SEED=%" PRIu64 ", run %" PRIu64 ", operation %" PRIu64 "\n", what, -err, seed,
	       rig->seed, rig->n);
	printf("# %s\n", rig->run.broken);
	for (unsigned i = 0; i < ARRAY_LEN(rig->last); i++) {
		printf("#   ");
		kv_op_print(stdout, &rig->last[(rig->n + i) % ARRAY_LEN(rig->last)]);
		printf("\n");
	}
	kv_log_print(stdout);
	fflush(stdout);
	fail();
}

static int step_op(struct rig *rig, struct kv_op op)
{
	int err;

	rig->last[rig->n++ % ARRAY_LEN(rig->last)] = op;
	err = kv_run_op(&rig->run, &op);
	if (err == -EPROTO)
		fail_rig(rig, "broken promise", err);
	/* The history is of no use without crashes. */
	if (rig->run.model.n > 64 && rig->run.model.durable == rig->run.model.n - 1)
		model_forget(&rig->run.model);
	return err;
}

static int step(struct rig *rig, const struct kv_profile *profile)
{
	return step_op(rig, kv_gen(profile, &rig->rng));
}

static void must_compare(struct rig *rig, const char *when)
{
	int err = kv_run_compare(&rig->run);

	if (err)
		fail_rig(rig, when, err);
}

static bool pinned_by_views(const struct rig *rig)
{
	for (unsigned i = 0; i < KV_FROZEN; i++)
		if (rig->run.frozen[i].view)
			return true;
	return model_now(&rig->run.model)->n_snapshots > 0;
}

/* What may be refused for want of room, and what may not. */
static void check_refusal(struct rig *rig, int err)
{
	const struct kv_op *op = &rig->last[(rig->n - 1) % ARRAY_LEN(rig->last)];

	if (err >= 0)
		return;
	if (err == -EFBIG && op->action < KV_SYNC)
		return;
	if (err != -ENOSPC)
		fail_rig(rig, "unexpected error", err);
	switch (op->action) {
	case KV_DEL:
	case KV_DEL_INO:
		if (op->view == 0 && !pinned_by_views(rig))
			fail_rig(rig, "a deletion is refused although nothing pins the space", err);
		break;
	case KV_SYNC:
	case KV_TICK:
	case KV_CHECKPOINT:
	case KV_SNAP_DELETE:
	case KV_REOPEN:
	case KV_KILL:
	case KV_CHECK:
		fail_rig(rig, "refused for want of room, which must never be", err);
	default:
		break;
	}
}

/* ---- agreement ---- */

static void agrees(void **state)
{
	const struct shape *s = *state;
	double end = now() + seconds;
	uint64_t ops = 0, runs = 0, refused = 0, killed = 0;

	for (; now() < end; runs++) {
		struct rig rig;

		rig_make(&rig, s, runs);
		for (unsigned i = 0; i < 1500 && now() < end + 5; i++) {
			int err = step(&rig, s->profile);

			check_refusal(&rig, err);
			refused += err == -ENOSPC || err == -EFBIG;
			if (i % 97 == 0)
				must_compare(&rig, "comparing");
		}
		check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_CHECK }));
		check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_REOPEN }));
		must_compare(&rig, "after opening again");
		ops += rig.n;
		killed += rig.run.killed;
		rig_end(&rig);
	}
	printf("# %" PRIu64 " operations in %" PRIu64 " runs, %" PRIu64 " refused, %" PRIu64
	       " transactions ended for want of room\n", ops, runs, refused, killed);
}

/* ---- failures ---- */

static void failed_allocations_change_nothing(void **state)
{
	double end = now() + seconds;
	uint64_t runs = 0, failed = 0, sticky = 0, ops = 0;

	(void)state;
	for (; now() < end; runs++) {
		struct rig rig;

		rig_make(&rig, &shapes[runs % 2], 1000 + runs);
		for (unsigned i = 0; i < 600; i++) {
			struct kv_op op = kv_gen(&kv_profile_mixed, &rig.rng);
			bool fail_it = rng_chance(&rig.rng, 1, 3) && op.action != KV_KILL && op.action != KV_REOPEN;
			struct store_status st;
			bool hit = false;
			int err;

			if (fail_it)
				failmem_start(rng_range(&rig.rng, 1, rng_chance(&rig.rng, 1, 2) ? 8 : 60),
					      rng_chance(&rig.rng, 1, 3) ? FAILMEM_FROM_THEN_ON : FAILMEM_ONCE);
			err = kv_run_op(&rig.run, &op);
			if (fail_it)
				hit = failmem_stop();
			rig.last[rig.n++ % ARRAY_LEN(rig.last)] = op;
			failed += hit;
			/* While reading back the test itself needs the store's memory: only what is known to be wrong counts. */
			if (err == -EPROTO && hit && strstr(rig.run.broken, "error 12")) {
				rig.run.broken[0] = 0;
				err = -ENOMEM;
			}
			if (err == -EPROTO)
				fail_rig(&rig, "broken promise", err);
			if (err < 0 && err != -ENOSPC && err != -EFBIG && !(hit && err == -ENOMEM)) {
				store_status(rig.run.store, &st);
				if (!st.error)
					fail_rig(&rig, "unexpected error", err);
			}
			store_status(rig.run.store, &st);
			if (st.error) {
				sticky++;
				if (step_op(&rig, (struct kv_op){ .action = KV_KILL }) < 0)
					fail_rig(&rig, "opening after a failure", -EIO);
			} else if (hit) {
				must_compare(&rig, "after a failed allocation");
			}
		}
		if (step_op(&rig, (struct kv_op){ .action = KV_CHECK }) < 0)
			fail_rig(&rig, "the check after failed allocations", -EUCLEAN);
		ops += rig.n;
		rig_end(&rig);
	}
	printf("# %" PRIu64 " operations, %" PRIu64 " with a failed allocation, %" PRIu64 " of which made it read-only\n", ops,
	       failed, sticky);
}

static void failed_opening_leaks_nothing_and_changes_nothing(void **state)
{
	uint64_t k = 1;
	struct rig rig;

	(void)state;
	rig_make(&rig, &shapes[1], 77);
	for (unsigned i = 0; i < 120; i++)
		check_refusal(&rig, step(&rig, &kv_profile_views));
	check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_SYNC }));
	for (bool hit = true; hit; k++) {
		int err;

		kv_run_kill(&rig.run);
		failmem_start(k, FAILMEM_ONCE);
		err = kv_run_open(&rig.run);
		hit = failmem_stop();
		if (err && !hit)
			fail_rig(&rig, "opening", err);
		/* Where it did without, it must be whole. */
		if (err && kv_run_open(&rig.run))
			fail_rig(&rig, "opening after an opening failed for want of memory", err);
		must_compare(&rig, "after a failed opening");
	}
	if (step_op(&rig, (struct kv_op){ .action = KV_CHECK }) < 0)
		fail_rig(&rig, "the check after failed openings", -EUCLEAN);
	printf("# %" PRIu64 " allocations\n", k);
	rig_end(&rig);
}

static void failed_reads_change_nothing(void **state)
{
	double end = now() + seconds;
	uint64_t runs = 0, failed = 0, ops = 0;

	(void)state;
	for (; now() < end; runs++) {
		struct rig rig;

		rig_make(&rig, &shapes[0], 2000 + runs);
		for (unsigned i = 0; i < 600; i++) {
			struct kv_op op = kv_gen(&kv_profile_mixed, &rig.rng);
			int err;

			/* Enough items that reads happen at all. */
			if (i < 20)
				op = (struct kv_op){ .action = KV_PUT_MANY, .ino = (uint16_t)(200 + i), .n = 30, .len = 800 };
			else if (op.action == KV_KILL || op.action == KV_REOPEN || op.action == KV_CHECK)
				continue;
			if (i > 20 && rng_chance(&rig.rng, 1, 2))
				simdev_add_fault(rig.disk, &(struct simdev_fault){ .op = SIMDEV_READ, .times = 1,
										   .after = rng_below(&rig.rng, 3) });
			err = kv_run_op(&rig.run, &op);
			rig.last[rig.n++ % ARRAY_LEN(rig.last)] = op;
			simdev_clear_faults(rig.disk);
			failed += err == -EIO;
			if (err == -EPROTO && strstr(rig.run.broken, "error 5")) {
				rig.run.broken[0] = 0;
				err = -EIO;
			}
			if (err < 0 && err != -EIO && err != -ENOSPC && err != -EFBIG)
				fail_rig(&rig, "unexpected error", err);
			if (err == -EIO) {
				struct store_status st;

				store_status(rig.run.store, &st);
				if (st.error && step_op(&rig, (struct kv_op){ .action = KV_KILL }) < 0)
					fail_rig(&rig, "opening after a failed read", err);
				must_compare(&rig, "after a failed read");
			}
		}
		if (step_op(&rig, (struct kv_op){ .action = KV_CHECK }) < 0)
			fail_rig(&rig, "the check after failed reads", -EUCLEAN);
		ops += rig.n;
		rig_end(&rig);
	}
	printf("# %" PRIu64 " operations, %" PRIu64 " with a failed read\n", ops, failed);
}

static void after_failed_writes_and_flushes_nothing_acknowledged_is_lost(void **state)
{
	double end = now() + seconds;
	uint64_t runs = 0, failed = 0;

	(void)state;
	for (; now() < end; runs++) {
		struct rig rig;

		rig_make(&rig, &shapes[runs % 3], 3000 + runs);
		for (unsigned round = 0; round < 6; round++) {
			struct store_status st = { 0 };
			int err = 0;

			simdev_add_fault(rig.disk, &(struct simdev_fault){
				.op = rng_chance(&rig.rng, 1, 3) ? SIMDEV_FLUSH : SIMDEV_WRITE,
				.after = rng_below(&rig.rng, 60), .times = rng_below(&rig.rng, 2),
				.effect = (enum simdev_effect)rng_below(&rig.rng, 3) });
			for (unsigned i = 0; i < 300 && rig.run.store && !st.error; i++) {
				struct kv_op op = kv_gen(&kv_profile_mixed, &rig.rng);

				if (op.action == KV_KILL || op.action == KV_CHECK || op.action == KV_REOPEN)
					continue;
				err = step_op(&rig, op);
				store_status(rig.run.store, &st);
				/* The failure may have been one that nobody waited for. */
				if (err < 0 && err != -ENOSPC && err != -EFBIG && !st.error)
					fail_rig(&rig, "an error that is not kept", err);
			}
			if (st.error) {
				failed++;
				if (step_op(&rig, (struct kv_op){ .action = KV_SYNC }) != -EIO)
					fail_rig(&rig, "sync does not fail after a failed write", st.error);
				err = step_op(&rig, (struct kv_op){ .action = KV_PUT, .ino = 10, .len = 5 });
				if (err != -EROFS)
					fail_rig(&rig, "a change is taken after a failed write", err);
			}
			simdev_clear_faults(rig.disk);
			err = step_op(&rig, (struct kv_op){ .action = KV_KILL });
			if (err)
				fail_rig(&rig, "opening after failed writes", err);
			if (step_op(&rig, (struct kv_op){ .action = KV_CHECK }) < 0)
				fail_rig(&rig, "the check after failed writes", -EUCLEAN);
		}
		rig_end(&rig);
	}
	printf("# %" PRIu64 " runs, read-only %" PRIu64 " times\n", runs, failed);
}

/* Contract H. */
static void a_full_device_takes_deletions_and_is_usable_again(void **state)
{
	double end = now() + seconds;
	uint64_t runs = 0;

	(void)state;
	for (; now() < end; runs++) {
		static const struct kv_profile fill = {
			.name = "fill", .weight = { [KV_PUT] = 3, [KV_PUT_MANY] = 3, [KV_EXTENT] = 6, [KV_CLONE] = 2, [KV_SYNC] = 1,
						    [KV_SPLIT] = 2, [KV_MIX] = 1, [KV_CLAIM] = 1 },
			.inos = 200, .offs = 100, .many_max = 20, .extent_max = 30,
		};
		struct rig rig;

		rig_make(&rig, &shapes[2], 4000 + runs);
		for (unsigned round = 0; round < 3; round++) {
			unsigned refused = 0;

			if (round == 2)
				(void)step_op(&rig, (struct kv_op){ .action = KV_SNAP_CREATE, .slot = 1 });
			for (unsigned i = 0; refused < 20 && i < 3000; i++) {
				int err = step(&rig, &fill);

				check_refusal(&rig, err);
				refused += err == -ENOSPC;
			}
			if (refused < 20)
				fail_rig(&rig, "the device does not get full", 0);
			check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_CHECK }));
			if (rng_chance(&rig.rng, 1, 2))
				check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_KILL }));
			if (round == 2)
				check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_SNAP_DELETE, .slot = 1 }));
			while (kvmap_count(model_now(&rig.run.model)->live)) {
				size_t n = kvmap_count(model_now(&rig.run.model)->live);
				struct key key = kvmap_at(model_now(&rig.run.model)->live, rng_below(&rig.rng, n))->key;

				check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_DEL_INO,
										   .ino = (uint16_t)key_ino(key) }));
			}
			check_refusal(&rig, step_op(&rig, (struct kv_op){ .action = KV_CHECK }));
			if (step_op(&rig, (struct kv_op){ .action = KV_EXTENT, .ino = 10, .n = 60 }))
				fail_rig(&rig, "no room after everything was deleted", -ENOSPC);
		}
		rig_end(&rig);
	}
	printf("# %" PRIu64 " runs\n", runs);
}

/* Within the group, because it prints: TAP wants its version first. */
static int take_seed(void **state)
{
	struct rng rng;

	(void)state;
	seed = rng_seed_env(&rng, SEED);
	return 0;
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[ARRAY_LEN(shapes) + 8];
	const char *env = getenv("ARBOR_MODEL_SECONDS");
	size_t n = 0;

	if (env && *env)
		seconds = strtod(env, NULL);
	/* A pattern such as "*rollback*" picks tests. */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	kv_log_quiet();
	for (; n < ARRAY_LEN(shapes); n++)
		tests[n] = TEST_ROW(shapes[n].name, agrees, &shapes[n]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(failed_allocations_change_nothing);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(failed_opening_leaks_nothing_and_changes_nothing);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(failed_reads_change_nothing);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(after_failed_writes_and_flushes_nothing_acknowledged_is_lost);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_full_device_takes_deletions_and_is_usable_again);
	return _cmocka_run_group_tests("model_kv", tests, n, take_seed, NULL);
}

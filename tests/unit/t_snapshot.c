/* t_snapshot.c - snapshots: made, deleted in every order, rolled back to; dead lists; deletions that are interrupted */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/failmem.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

/* ---- every order ---- */

#define N 4u

static const char *const names[] = { "a", "b", "c", "d", "e", "f" };

/* Four snapshots; between them files come and go, so that each holds something that others do not. */
static void build_line(struct storekit *k)
{
	struct view *live;

	storekit_init(k, 4096, NULL);
	live = store_live(k->s);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(storekit_write(k, live, 10 + i, 0, 5), 0);
		assert_int_equal(storekit_write(k, live, 20 + i, 0, 5), 0);
		assert_int_equal(storekit_write(k, live, 30, 0, 3), 0); /* in each snapshot another one */
		assert_int_equal(storekit_clone(live, 20 + i, 0, 1, 3, 40 + i, 0), 0);
		if (i)
			assert_int_equal(storekit_remove(live, 10 + i - 1), 0);
		if (i > 1)
			assert_int_equal(storekit_remove(live, 20 + i - 2), 0);
		assert_int_equal(storekit_put(live, 1, 0, names[i]), 0);
		assert_int_equal(snapshot_create(k->s, names[i], NULL), 0);
	}
	assert_int_equal(storekit_remove(live, 30), 0);
	assert_int_equal(storekit_put(live, 1, 0, "live"), 0);
}

static void look_at(struct storekit *k, const char *name)
{
	struct view *v;

	assert_int_equal(snapshot_open(k->s, name, &v), 0);
	storekit_expect(v, 1, 0, name);
	assert_int_equal(storekit_read(v, 30), 3);
	for (uint64_t ino = 10; ino < 50; ino++)
		(void)storekit_read(v, ino);
	view_close(v);
}

enum between { NOTHING, REOPEN, KILL, ROLLBACK, BETWEENS };

static void deleted_in_every_order_they_free_everything(void **state)
{
	(void)state;
	for (unsigned order = 0; order < N * N * N * N; order++) {
		unsigned at[N] = { order % N, order / N % N, order / N / N % N, order / N / N / N }, seen = 0;

		for (unsigned i = 0; i < N; i++)
			seen |= 1u << at[i];
		if (seen != (1u << N) - 1)
			continue;
		for (enum between how = NOTHING; how < BETWEENS; how++) {
			struct storekit k;

			build_line(&k);
			for (unsigned i = 0; i < N; i++) {
				/* Live goes back to what is deleted next but one: a tree of snapshots. */
				if (how == ROLLBACK && i + 1 < N) {
					assert_int_equal(snapshot_rollback(k.s, names[at[i + 1]]), 0);
					assert_int_equal(storekit_write(&k, store_live(k.s), 60 + i, 0, 2), 0);
					assert_int_equal(storekit_remove(store_live(k.s), 30), 0);
				}
				assert_int_equal(snapshot_delete(k.s, names[at[i]]), 0);
				assert_int_equal(snapshot_delete(k.s, names[at[i]]), -ENOENT);
				if (how == REOPEN) {
					storekit_close(&k);
					storekit_open(&k);
				} else if (how == KILL) {
					storekit_reboot(&k, true);
				}
				storekit_check(&k);
				for (unsigned j = i + 1; j < N; j++)
					look_at(&k, names[at[j]]);
			}
			for (uint64_t ino = 10; ino < 70; ino++)
				assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
			storekit_check(&k);
			assert_int_equal(k.checked.data_blocks, 0);
			storekit_release(&k);
		}
	}
}

/* ---- names and what is refused ---- */

static int count_one(void *arg, const struct snapshot_info *info)
{
	unsigned *n = arg;

	n[0]++;
	n[1] += info->hidden;
	n[2] += info->dying;
	return 0;
}

static void names_are_unique_and_checked(void **state)
{
	char longest[SNAPSHOT_NAME_MAX + 2];
	unsigned n[3] = { 0 };
	struct storekit k;
	uint64_t id = 0;

	(void)state;
	storekit_init(&k, 2048, NULL);
	memset(longest, 'x', sizeof(longest));
	longest[SNAPSHOT_NAME_MAX + 1] = 0;
	assert_int_equal(snapshot_create(k.s, longest, NULL), -ENAMETOOLONG);
	longest[SNAPSHOT_NAME_MAX] = 0;
	assert_int_equal(snapshot_create(k.s, longest, &id), 0);
	assert_int_not_equal(id, 0);
	assert_int_equal(snapshot_create(k.s, longest, NULL), -EEXIST);
	assert_int_equal(snapshot_create(k.s, "", NULL), -EINVAL);
	assert_int_equal(snapshot_create(k.s, ".", NULL), -EINVAL);
	assert_int_equal(snapshot_create(k.s, "..", NULL), -EINVAL);
	assert_int_equal(snapshot_create(k.s, "a/b", NULL), -EINVAL);
	assert_int_equal(snapshot_delete(k.s, "no"), -ENOENT);
	assert_int_equal(snapshot_rollback(k.s, "no"), -ENOENT);
	assert_int_equal(snapshot_list(k.s, count_one, n), 0);
	assert_int_equal(n[0], 1);
	assert_int_equal(snapshot_delete(k.s, longest), 0);
	assert_int_equal(snapshot_create(k.s, longest, NULL), 0);
	storekit_check(&k);
	storekit_release(&k);
}

static void an_open_view_keeps_its_snapshot(void **state)
{
	struct storekit k;
	struct view *v, *w;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 5), 0);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0);
	assert_int_equal(snapshot_open(k.s, "s", &v), 0);
	assert_int_equal(snapshot_open(k.s, "s", &w), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
	assert_int_equal(snapshot_delete(k.s, "s"), -EBUSY);
	view_close(v);
	assert_int_equal(snapshot_delete(k.s, "s"), -EBUSY);
	storekit_settle(&k);
	assert_int_equal(storekit_read(w, 1), 5);
	assert_int_equal(storekit_put(w, 1, 0, "no"), -EROFS);
	view_close(w);
	assert_int_equal(snapshot_delete(k.s, "s"), 0);
	storekit_check(&k);
	assert_int_equal(k.checked.data_blocks, 0);
	storekit_release(&k);
}

static void a_hidden_snapshot_waits_for_its_children(void **state)
{
	unsigned n[3] = { 0 };
	struct storekit k;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 5), 0);
	assert_int_equal(snapshot_create(k.s, "root", NULL), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 2, 0, 5), 0);
	assert_int_equal(snapshot_create(k.s, "left", NULL), 0);
	assert_int_equal(snapshot_rollback(k.s, "root"), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
	assert_int_equal(snapshot_delete(k.s, "root"), 0); /* two derive from it: left and live */
	assert_int_equal(snapshot_list(k.s, count_one, n), 0);
	assert_int_equal(n[0], 2);
	assert_int_equal(n[1], 1);
	assert_int_equal(snapshot_rollback(k.s, "root"), -ENOENT);
	assert_int_equal(snapshot_create(k.s, "root", NULL), 0); /* the name is free */
	assert_int_equal(snapshot_delete(k.s, "root"), 0);
	storekit_check(&k);
	storekit_reboot(&k, true);
	storekit_check(&k);
	assert_int_equal(snapshot_delete(k.s, "left"), 0);
	memset(n, 0, sizeof(n));
	assert_int_equal(snapshot_list(k.s, count_one, n), 0);
	assert_int_equal(n[0], 0);
	storekit_check(&k);
	assert_int_equal(k.checked.data_blocks, 0);
	storekit_release(&k);
}

/* ---- rollback ---- */

static void rollback_ends_transactions_and_spares_frozen_views(void **state)
{
	struct view *txn, *frozen, *after;
	struct storekit k;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "old"), 0);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "new"), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 2, 0, 5), 0);
	assert_int_equal(view_freeze(k.s, &frozen), 0);
	assert_int_equal(txn_begin(k.s, &txn), 0);
	assert_int_equal(storekit_write(&k, txn, 3, 0, 5), 0);
	assert_int_equal(snapshot_rollback(k.s, "s"), 0);
	assert_int_equal(txn_commit(txn, &merge_by_key, NULL, NULL), -ESTALE);
	assert_int_equal(storekit_put(txn, 1, 0, "no"), -ESTALE);
	view_close(txn);
	storekit_expect(store_live(k.s), 1, 0, "old");
	storekit_settle(&k);
	assert_int_equal(storekit_write(&k, store_live(k.s), 4, 0, 200), 0);
	storekit_expect(frozen, 1, 0, "new");
	assert_int_equal(storekit_read(frozen, 2), 5);
	view_close(frozen);
	assert_int_equal(txn_begin(k.s, &after), 0);
	assert_int_equal(storekit_put(after, 1, 0, "after"), 0);
	assert_int_equal(txn_commit(after, &merge_by_key, NULL, NULL), 0);
	view_close(after);
	storekit_expect(store_live(k.s), 1, 0, "after");
	storekit_check(&k);
	storekit_release(&k);
}

static void a_crash_anywhere_in_rollback_leaves_one_state_or_the_other(void **state)
{
	struct storekit k;
	uint64_t from;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "old"), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 2, 0, 5), 0);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "new"), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 2), 0);
	assert_int_equal(storekit_write(&k, store_live(k.s), 3, 0, 7), 0);
	assert_int_equal(store_sync(k.s), 0);
	from = simdev_ops(k.disk);
	assert_int_equal(snapshot_rollback(k.s, "s"), 0);
	for (uint64_t n = from; n <= simdev_ops(k.disk); n++) {
		struct simdev_crash c;
		struct simdev *disk;

		simdev_crash_begin(&c, k.disk, n, 6, n);
		while ((disk = simdev_crash_next(&c))) {
			struct check_result r;
			struct store *s;
			uint32_t blocks;

			assert_int_equal(store_open(simdev_bdev(disk), &k.opt, &s), 0);
			blocks = storekit_read(store_live(s), 2);
			storekit_expect(store_live(s), 1, 0, blocks ? "old" : "new");
			assert_int_equal(storekit_read(store_live(s), 3), blocks ? 0 : 7);
			assert_int_equal(store_check(s, &r), 0);
			assert_int_equal(r.data_blocks, blocks ? 5 : 12);
			assert_int_equal(store_close(s), 0);
			simdev_free(disk);
		}
		simdev_crash_end(&c);
	}
	storekit_release(&k);
}

/* ---- deletion interrupted ---- */

static void build_for_deletion(struct storekit *k)
{
	storekit_init(k, 4096, NULL);
	/* Many items on the list: several steps. */
	for (unsigned i = 0; i < 150; i++)
		assert_int_equal(storekit_write(k, store_live(k->s), 100 + i, 0, 2), 0);
	assert_int_equal(snapshot_create(k->s, "p", NULL), 0);
	for (unsigned i = 0; i < 150; i++)
		assert_int_equal(storekit_write(k, store_live(k->s), 100 + i, 0, 2), 0);
	assert_int_equal(snapshot_create(k->s, "s", NULL), 0);
	for (unsigned i = 0; i < 150; i += 2)
		assert_int_equal(storekit_remove(store_live(k->s), 100 + i), 0);
}

static void a_crash_anywhere_in_a_deletion_is_taken_up_again(void **state)
{
	struct storekit k;
	uint64_t from;

	(void)state;
	build_for_deletion(&k);
	assert_int_equal(store_sync(k.s), 0);
	from = simdev_ops(k.disk);
	assert_int_equal(snapshot_delete(k.s, "s"), 0);
	for (uint64_t n = from; n <= simdev_ops(k.disk); n++) {
		struct simdev_crash c;
		struct simdev *disk;

		simdev_crash_begin(&c, k.disk, n, 2, n);
		while ((disk = simdev_crash_next(&c))) {
			struct check_result r;
			struct store *s;
			int err;

			assert_int_equal(store_open(simdev_bdev(disk), &k.opt, &s), 0);
			assert_int_equal(store_check(s, &r), 0);
			err = snapshot_delete(s, "s");
			assert_true(err == 0 || err == -ENOENT);
			assert_int_equal(snapshot_delete(s, "p"), 0);
			assert_int_equal(store_check(s, &r), 0);
			assert_int_equal(r.data_blocks, 150);
			assert_int_equal(store_close(s), 0);
			simdev_free(disk);
		}
		simdev_crash_end(&c);
	}
	storekit_release(&k);
}

static int sticky_error(struct storekit *k)
{
	struct store_status st;

	store_status(k->s, &st);
	return st.error;
}

/* Whatever is done next, after a deletion that failed half-way, finds the line in order. */
enum next { DELETE_AGAIN, DELETE_PARENT, CREATE, ROLLBACK_TO_PARENT, WORK_AND_REOPEN, COMMIT, NEXTS };

static void a_deletion_without_memory_is_finished_by_what_comes_next(void **state)
{
	uint64_t k_alloc = 1;
	bool failed = true;

	(void)state;
	for (; failed; k_alloc += 1 + k_alloc / 12)
		for (enum next next = 0; next < NEXTS; next++) {
			struct storekit k;
			struct view *txn = NULL;
			int err;

			build_for_deletion(&k);
			if (next == COMMIT) {
				/* It refers to what live has put on its dead list meanwhile. */
				assert_int_equal(txn_begin(k.s, &txn), 0);
				assert_int_equal(storekit_clone(txn, 101, 0, 0, 2, 900, 0), 0);
				assert_int_equal(storekit_remove(store_live(k.s), 101), 0);
			}
			failmem_start(k_alloc, FAILMEM_ONCE);
			err = snapshot_delete(k.s, "s");
			failed = failmem_stop();
			assert_true(err == 0 || err == -ENOMEM);
			assert_int_equal(sticky_error(&k), 0);
			switch (next) {
			case DELETE_AGAIN:
				err = snapshot_delete(k.s, "s");
				assert_true(err == 0 || err == -ENOENT);
				break;
			case DELETE_PARENT:
				assert_int_equal(snapshot_delete(k.s, "p"), 0);
				break;
			case CREATE:
				assert_int_equal(storekit_remove(store_live(k.s), 101), 0);
				assert_int_equal(snapshot_create(k.s, "n", NULL), 0);
				break;
			case ROLLBACK_TO_PARENT:
				assert_int_equal(snapshot_rollback(k.s, "p"), 0);
				assert_int_equal(storekit_read(store_live(k.s), 100), 2);
				break;
			case WORK_AND_REOPEN:
				for (unsigned i = 1; i < 150; i += 4)
					assert_int_equal(storekit_remove(store_live(k.s), 100 + i), 0);
				assert_int_equal(store_sync(k.s), 0);
				storekit_reboot(&k, true);
				break;
			default:
				err = txn_commit(txn, &merge_by_key, NULL, NULL);
				assert_true(err == 0 || err == -ETXNCONFLICT);
				view_close(txn);
				assert_int_equal(storekit_read(store_live(k.s), 900), err ? 0 : 2);
				assert_int_equal(store_sync(k.s), 0);
				storekit_reboot(&k, true);
				assert_int_equal(storekit_read(store_live(k.s), 900), err ? 0 : 2);
			}
			(void)snapshot_delete(k.s, "s");
			storekit_check(&k);
			(void)snapshot_delete(k.s, "p");
			(void)snapshot_delete(k.s, "n");
			storekit_check(&k);
			for (uint64_t ino = 100; ino < 250; ino++)
				(void)storekit_read(store_live(k.s), ino);
			storekit_release(&k);
		}
}

/* ---- creation without memory ---- */

static void creation_without_memory_makes_none_or_a_whole_one(void **state)
{
	bool failed = true;

	(void)state;
	for (uint64_t n = 1; failed; n++) {
		struct storekit k;
		struct view *v;
		int err;

		storekit_init(&k, 2048, NULL);
		assert_int_equal(storekit_put(store_live(k.s), 1, 0, "then"), 0);
		assert_int_equal(storekit_write(&k, store_live(k.s), 2, 0, 4), 0);
		failmem_start(n, FAILMEM_ONCE);
		err = snapshot_create(k.s, "s", NULL);
		failed = failmem_stop();
		assert_true(err == 0 || err == -ENOMEM);
		assert_int_equal(sticky_error(&k), 0);
		assert_int_equal(storekit_put(store_live(k.s), 1, 0, "now"), 0);
		assert_int_equal(storekit_remove(store_live(k.s), 2), 0);
		storekit_check(&k);
		if (!err) {
			assert_int_equal(snapshot_open(k.s, "s", &v), 0);
			storekit_expect(v, 1, 0, "then");
			assert_int_equal(storekit_read(v, 2), 4);
			view_close(v);
		} else {
			assert_int_equal(snapshot_open(k.s, "s", &v), -ENOENT);
		}
		storekit_reboot(&k, true);
		assert_int_equal(snapshot_open(k.s, "s", &v), err ? -ENOENT : 0);
		if (!err)
			view_close(v);
		storekit_check(&k);
		storekit_release(&k);
	}
}

/* ---- claims ---- */

static uint64_t claimed(struct storekit *k)
{
	struct store_status st;

	store_status(k->s, &st);
	return st.blocks_claimed;
}

static void claims_are_those_of_live_and_of_open_transactions(void **state)
{
	struct storekit k;
	struct view *txn;

	(void)state;
	storekit_init(&k, 4096, NULL);
	assert_int_equal(storekit_claim(store_live(k.s), 1, 0, 100), 0);
	assert_int_equal(txn_begin(k.s, &txn), 0);
	assert_int_equal(storekit_claim(txn, 2, 0, 1000), 0);
	assert_int_equal(claimed(&k), 1100);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0); /* in the snapshot, and in the checkpoint: 100 */
	assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
	assert_int_equal(claimed(&k), 1000);
	view_close(txn);
	assert_int_equal(claimed(&k), 0);
	assert_int_equal(snapshot_rollback(k.s, "s"), 0);
	assert_int_equal(claimed(&k), 100);
	assert_int_equal(txn_begin(k.s, &txn), 0);
	assert_int_equal(storekit_claim(txn, 3, 0, 500), 0);
	assert_int_equal(storekit_remove(txn, 1), 0);
	assert_int_equal(claimed(&k), 500);
	assert_int_equal(store_checkpoint(k.s), 0);
	view_close(txn);
	storekit_reboot(&k, true);
	assert_int_equal(claimed(&k), 100);
	assert_int_equal(txn_begin(k.s, &txn), 0);
	assert_int_equal(storekit_claim(txn, 3, 0, 500), 0);
	assert_int_equal(txn_commit(txn, &merge_by_key, NULL, NULL), 0);
	assert_int_equal(claimed(&k), 600);
	view_close(txn);
	assert_int_equal(claimed(&k), 600);
	storekit_reboot(&k, true);
	assert_int_equal(claimed(&k), 600);
	storekit_check(&k);
	storekit_release(&k);
}

static void rollback_claims_again_or_changes_nothing(void **state)
{
	struct storekit k;
	uint64_t room;

	(void)state;
	storekit_init(&k, 4096, NULL);
	room = storekit_free(&k);
	assert_int_equal(storekit_claim(store_live(k.s), 1, 0, (uint32_t)room - 800), 0);
	assert_int_equal(snapshot_create(k.s, "s", NULL), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
	/* Now the room is used otherwise: by data, and by as many claims as there can be besides. */
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(storekit_write(&k, store_live(k.s), 2, i * 200, 200), 0);
	assert_int_equal(storekit_claim(store_live(k.s), 3, 0, (uint32_t)(storekit_free(&k) - 300)), 0);
	assert_int_equal(snapshot_rollback(k.s, "s"), -ENOSPC);
	assert_int_equal(storekit_read(store_live(k.s), 2), 1600);
	storekit_check(&k);
	assert_int_equal(storekit_remove(store_live(k.s), 2), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 3), 0);
	storekit_settle(&k);
	assert_int_equal(snapshot_rollback(k.s, "s"), 0);
	assert_int_equal(claimed(&k), room - 800);
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- the case of the design ---- */

static void a_file_in_two_snapshots_outlives_the_first(void **state)
{
	struct storekit k;
	struct view *v;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 8), 0);
	assert_int_equal(snapshot_create(k.s, "s1", NULL), 0);
	assert_int_equal(snapshot_create(k.s, "s2", NULL), 0);
	assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
	assert_int_equal(snapshot_delete(k.s, "s1"), 0);
	storekit_settle(&k);
	assert_int_equal(storekit_write(&k, store_live(k.s), 2, 0, 200), 0);
	assert_int_equal(snapshot_open(k.s, "s2", &v), 0);
	assert_int_equal(storekit_read(v, 1), 8);
	view_close(v);
	storekit_check(&k);
	storekit_release(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_unique_and_checked),
		cmocka_unit_test(an_open_view_keeps_its_snapshot),
		cmocka_unit_test(a_hidden_snapshot_waits_for_its_children),
		cmocka_unit_test(a_file_in_two_snapshots_outlives_the_first),
		cmocka_unit_test(rollback_ends_transactions_and_spares_frozen_views),
		cmocka_unit_test(a_crash_anywhere_in_rollback_leaves_one_state_or_the_other),
		cmocka_unit_test(claims_are_those_of_live_and_of_open_transactions),
		cmocka_unit_test(rollback_claims_again_or_changes_nothing),
		cmocka_unit_test(creation_without_memory_makes_none_or_a_whole_one),
		cmocka_unit_test(deleted_in_every_order_they_free_everything),
		cmocka_unit_test(a_crash_anywhere_in_a_deletion_is_taken_up_again),
		cmocka_unit_test(a_deletion_without_memory_is_finished_by_what_comes_next),
	};

	return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}

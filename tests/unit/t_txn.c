/* t_txn.c - transactions: isolation, what they own, their commit against a live that moves, their end */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/failmem.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

static struct view *begin(struct storekit *k)
{
	struct view *v;

	assert_int_equal(txn_begin(k->s, &v), 0);
	return v;
}

static int commit(struct view *v)
{
	return txn_commit(v, &merge_by_key, NULL, NULL);
}

/* ---- what each side sees ---- */

static void nobody_sees_a_transaction_before_its_commit(void **state)
{
	struct view *a, *b, *frozen;
	struct storekit k;

	(void)state;
	storekit_init(&k, 2048, NULL);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "base"), 0);
	a = begin(&k);
	b = begin(&k);
	assert_int_equal(storekit_put(a, 1, 0, "a"), 0);
	assert_int_equal(storekit_write(&k, a, 5, 0, 40), 0);
	assert_int_equal(storekit_put(b, 2, 0, "b"), 0);
	assert_int_equal(storekit_put(store_live(k.s), 3, 0, "live"), 0);
	storekit_expect(a, 1, 0, "a");
	storekit_expect(b, 1, 0, "base");
	storekit_expect(store_live(k.s), 1, 0, "base");
	storekit_expect(a, 2, 0, NULL);
	storekit_expect(a, 3, 0, NULL);
	assert_int_equal(view_freeze(k.s, &frozen), 0);
	assert_int_equal(commit(a), 0);
	storekit_expect(a, 1, 0, "a"); /* readable until closed */
	assert_int_equal(storekit_read(a, 5), 40);
	assert_int_equal(storekit_put(a, 1, 0, "again"), -EINVAL);
	assert_int_equal(commit(a), -EINVAL);
	storekit_expect(frozen, 1, 0, "base");
	storekit_expect(b, 1, 0, "base");
	storekit_expect(store_live(k.s), 1, 0, "a");
	assert_int_equal(storekit_read(store_live(k.s), 5), 40);
	view_close(a);
	view_close(frozen);
	view_close(b); /* aborts */
	storekit_expect(store_live(k.s), 2, 0, NULL);
	storekit_reboot(&k, true); /* a commit is durable */
	storekit_expect(store_live(k.s), 1, 0, "a");
	assert_int_equal(storekit_read(store_live(k.s), 5), 40);
	storekit_check(&k);
	storekit_release(&k);
}

static void a_transaction_is_not_recovered(void **state)
{
	struct storekit k;
	struct view *v;

	(void)state;
	storekit_init(&k, 2048, NULL);
	v = begin(&k);
	assert_int_equal(storekit_write(&k, v, 5, 0, 40), 0);
	assert_int_equal(store_checkpoint(k.s), 0);
	assert_int_equal(storekit_put(store_live(k.s), 1, 0, "live"), 0);
	assert_int_equal(store_sync(k.s), 0);
	view_close(v);
	storekit_reboot(&k, true);
	assert_int_equal(storekit_read(store_live(k.s), 5), 0);
	storekit_expect(store_live(k.s), 1, 0, "live");
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- both sides change things ---- */

/*
 * One key's fate on both sides. Base holds "b" at key 1 or nothing; ' ' leaves it, '-' deletes, else that letter is put.
 */
struct merge_row {
	const char *name;
	bool base;
	char mine, live;
	int err;
	char result; /* '-': nothing */
};

static const struct merge_row merge_rows[] = {
	{ "changed_by_the_transaction_alone", true, 'm', ' ', 0, 'm' },
	{ "changed_by_live_alone", true, ' ', 'l', 0, 'l' },
	{ "changed_by_both_is_a_conflict", true, 'm', 'l', -ETXNCONFLICT, 'l' },
	{ "changed_by_both_to_the_same_is_none", true, 'x', 'x', 0, 'x' },
	{ "deleted_by_the_transaction_alone", true, '-', ' ', 0, '-' },
	{ "deleted_by_live_alone", true, ' ', '-', 0, '-' },
	{ "deleted_by_both_is_no_conflict", true, '-', '-', 0, '-' },
	{ "deleted_here_and_changed_there_is_a_conflict", true, '-', 'l', -ETXNCONFLICT, 'l' },
	{ "changed_here_and_deleted_there_is_a_conflict", true, 'm', '-', -ETXNCONFLICT, '-' },
	{ "made_by_the_transaction_alone", false, 'm', ' ', 0, 'm' },
	{ "made_by_both_differently_is_a_conflict", false, 'm', 'l', -ETXNCONFLICT, 'l' },
	{ "made_by_both_the_same_is_none", false, 'x', 'x', 0, 'x' },
	{ "changed_to_what_it_was_is_no_change", true, 'b', 'l', 0, 'l' },
	{ "live_changed_and_back_again_is_no_change", true, 'm', 'b', 0, 'm' },
};

static void change(struct view *v, char c)
{
	char text[2] = { c, 0 };

	if (c == '-')
		assert_int_equal(storekit_del(v, key_make(1, KVT_BYTES, 0)), 0);
	else if (c != ' ')
		assert_int_equal(storekit_put(v, 1, 0, text), 0);
}

/* Live changes before the commit, or while the commit decides (from the policy's callback). */
struct meddle {
	struct storekit *k;
	char live;
	unsigned calls, at; /* meddles in this call */
	unsigned others;    /* and changes so many other objects, too */
};

static int meddling_group(void *arg, struct merge *m, uint64_t ino, const struct change_item *items, size_t n)
{
	struct meddle *me = arg;
	int err = merge_by_key.group(NULL, m, ino, items, n);

	if (me && ++me->calls == me->at) {
		change(store_live(me->k->s), me->live);
		for (unsigned i = 0; i < me->others; i++)
			assert_int_equal(storekit_put(store_live(me->k->s), 100 + i, 1, "by live"), 0);
	}
	return err;
}

static const struct merge_ops meddling = { .group = meddling_group };

static void merge_one(void **state)
{
	const struct merge_row *row = *state;

	/* 0: before; 1: meanwhile, decided again under the lock; 2: meanwhile so much that another round is better. */
	for (unsigned when = 0; when < 3; when++) {
		struct meddle me = { .live = row->live, .at = when ? 1 : 0, .others = when == 2 ? 80 : 0 };
		char text[2] = { row->result, 0 };
		struct storekit k;
		struct view *v;

		storekit_init(&k, 2048, NULL);
		me.k = &k;
		if (row->base)
			change(store_live(k.s), 'b');
		v = begin(&k);
		for (unsigned i = 0; i < 80; i++)
			assert_int_equal(storekit_put(v, 100 + i, 0, "other"), 0);
		change(v, row->mine);
		if (!when)
			change(store_live(k.s), row->live);
		assert_int_equal(txn_commit(v, &meddling, &me, NULL), row->err);
		storekit_expect(store_live(k.s), 1, 0, row->result == '-' ? NULL : text);
		storekit_expect(store_live(k.s), 100, 0, row->err ? NULL : "other");
		if (row->err) { /* it goes on, and can be mended */
			assert_int_equal(storekit_put(v, 2, 0, "more"), 0);
			if (row->base)
				change(v, 'b');
			else
				change(v, '-');
			assert_int_equal(commit(v), 0);
			storekit_expect(store_live(k.s), 100, 0, "other");
		}
		view_close(v);
		storekit_check(&k);
		storekit_reboot(&k, true);
		storekit_expect(store_live(k.s), 1, 0, row->result == '-' ? NULL : text);
		storekit_check(&k);
		storekit_release(&k);
	}
}

/* ---- serializable ---- */

static void what_was_read_must_not_have_changed(void **state)
{
	static const uint64_t reads[] = { 3, 7, 9 };
	const struct txn_commit_options opt = { .reads = reads, .n_reads = 3 };

	(void)state;
	for (unsigned ino = 1; ino <= 9; ino++)
		for (unsigned when = 0; when < 2; when++) {
			struct meddle me = { .live = ' ', .at = 0 };
			struct storekit k;
			struct view *v;
			bool hit = ino == 3 || ino == 7 || ino == 9;

			storekit_init(&k, 1024, NULL);
			assert_int_equal(storekit_put(store_live(k.s), ino, 1, "there"), 0);
			v = begin(&k);
			assert_int_equal(storekit_put(v, 50, 0, "mine"), 0);
			if (when == 0)
				assert_int_equal(storekit_del(store_live(k.s), key_make(ino, KVT_BYTES, 1)), 0);
			me.k = &k;
			assert_int_equal(txn_commit(v, &meddling, &me, &opt), when == 0 && hit ? -ETXNCONFLICT : 0);
			view_close(v);
			storekit_release(&k);
		}
}

/* ---- extents ---- */

static void extents_of_all_origins_are_merged(void **state)
{
	(void)state;
	/* Bits: a snapshot before; live removes the source; a checkpoint, two checkpoints after it; a crash at the end. */
	for (unsigned how = 0; how < 32; how++)
		for (unsigned snapshot_at = 0; snapshot_at < 3; snapshot_at++) {
			struct storekit k;
			struct view *v;
			int err;

			storekit_init(&k, 2048, NULL);
			assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 20), 0);
			if (how & 1)
				assert_int_equal(snapshot_create(k.s, "before", NULL), 0);
			v = begin(&k);
			if (snapshot_at == 1)
				assert_int_equal(snapshot_create(k.s, "during", NULL), 0);
			assert_int_equal(storekit_write(&k, v, 2, 0, 20), 0);	      /* its own */
			assert_int_equal(storekit_clone(v, 2, 0, 3, 4, 3, 0), 0);     /* shared inside */
			assert_int_equal(storekit_clone(v, 1, 0, 0, 20, 4, 0), 0);    /* live's */
			assert_int_equal(storekit_clone(v, 1, 0, 5, 6, 5, 0), 0);
			assert_int_equal(storekit_write(&k, v, 6, 0, 8), 0);	      /* and what it gives up again */
			assert_int_equal(storekit_remove(v, 6), 0);
			if (how & 2)
				assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
			for (unsigned i = 0; i < (how >> 2 & 3); i++)
				assert_int_equal(store_checkpoint(k.s), 0);
			if (snapshot_at == 2)
				assert_int_equal(snapshot_create(k.s, "late", NULL), 0);
			for (unsigned i = 0; i < 4; i++) /* what was released must not be used for this */
				assert_int_equal(storekit_write(&k, store_live(k.s), 10 + i, 0, 60), 0);
			err = commit(v);
			if (err)
				assert_int_equal(err, -ETXNCONFLICT); /* taken back across a snapshot */
			view_close(v);
			if (!err) {
				assert_int_equal(storekit_read(store_live(k.s), 2), 20);
				assert_int_equal(storekit_read(store_live(k.s), 3), 4);
				assert_int_equal(storekit_read(store_live(k.s), 4), 20);
				assert_int_equal(storekit_read(store_live(k.s), 5), 6);
			}
			if (how & 16)
				storekit_reboot(&k, true);
			storekit_check(&k);
			storekit_settle(&k);
			for (uint64_t ino = 1; ino < 20; ino++) {
				(void)storekit_read(store_live(k.s), ino);
				assert_int_equal(storekit_remove(store_live(k.s), ino), 0);
				storekit_check(&k);
			}
			(void)snapshot_delete(k.s, "late");
			(void)snapshot_delete(k.s, "before");
			(void)snapshot_delete(k.s, "during");
			storekit_check(&k);
			assert_int_equal(k.checked.data_blocks, 0);
			storekit_release(&k);
		}
}

static void an_aborted_transaction_gives_all_of_it_back(void **state)
{
	struct storekit k;
	uint64_t before;

	(void)state;
	storekit_init(&k, 8192, NULL);
	k.opt.cache_bytes = 64 * 4096; /* its nodes are written, read and evicted */
	storekit_close(&k);
	storekit_open(&k);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(storekit_put(store_live(k.s), i, 0, "some text of a certain length to fill the nodes"), 0);
	storekit_settle(&k);
	before = storekit_free(&k);
	for (unsigned round = 0; round < 6; round++) {
		struct view *v = begin(&k);

		for (unsigned i = 0; i < 40; i++) {
			assert_int_equal(storekit_write(&k, v, 1000 + i, 0, 10), 0);
			assert_int_equal(storekit_clone(v, 1000 + i, 0, 2, 5, 2000 + i, 0), 0);
			assert_int_equal(storekit_put(v, i, 0, "changed"), 0);
			if (i % 4 == 0)
				assert_int_equal(storekit_remove(v, 1000 + i), 0);
		}
		assert_int_equal(storekit_claim(v, 3000, 0, 300), 0);
		for (unsigned i = 0; i < 40; i++)
			assert_int_equal(storekit_read(v, 1000 + i), i % 4 ? 10 : 0);
		view_close(v);
		storekit_settle(&k);
	}
	assert_true(storekit_free(&k) + 300 > before);
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- memory ---- */

static void large_transactions_work_in_the_smallest_cache(void **state)
{
	struct storekit k;
	struct view *v[3];

	(void)state;
	storekit_init(&k, 16384, NULL);
	k.opt.cache_bytes = 64 * 4096;
	storekit_close(&k);
	storekit_open(&k);
	for (unsigned t = 0; t < 3; t++)
		v[t] = begin(&k);
	for (unsigned i = 0; i < 300; i++)
		for (unsigned t = 0; t < 3; t++) {
			int err = storekit_put(v[t], t * 1000 + i * 3, i, "a text that takes some room in its node, for a change");

			if (err)
				assert_int_equal(err, -ENOSPC); /* the cap: half the cache */
			if (!err && i % 10 == 0)
				assert_int_equal(storekit_put(store_live(k.s), 5000 + i * 3 + t, 0, "live"), 0);
		}
	for (unsigned t = 0; t < 3; t++) {
		assert_int_equal(storekit_items(v[t]), 300);
		assert_int_equal(commit(v[t]), 0);
		view_close(v[t]);
	}
	assert_int_equal(storekit_items(store_live(k.s)), 990);
	storekit_check(&k);
	storekit_release(&k);
}

static void a_commit_without_memory_changes_nothing_and_can_be_repeated(void **state)
{
	bool failed = true;

	(void)state;
	for (uint64_t n = 1; failed; n++) {
		struct store_status st;
		struct storekit k;
		struct view *v;
		int err;

		storekit_init(&k, 2048, NULL);
		assert_int_equal(storekit_write(&k, store_live(k.s), 1, 0, 10), 0);
		v = begin(&k);
		assert_int_equal(storekit_write(&k, v, 2, 0, 10), 0);
		assert_int_equal(storekit_clone(v, 1, 0, 2, 5, 3, 0), 0);
		assert_int_equal(storekit_remove(store_live(k.s), 1), 0);
		failmem_start(n, FAILMEM_ONCE);
		err = commit(v);
		failed = failmem_stop();
		assert_true(err == 0 || err == -ENOMEM);
		store_status(k.s, &st);
		assert_int_equal(st.error, 0);
		if (err) {
			storekit_check(&k);
			assert_int_equal(storekit_read(store_live(k.s), 2), 0);
			assert_int_equal(commit(v), 0);
		}
		view_close(v);
		storekit_reboot(&k, true);
		assert_int_equal(storekit_read(store_live(k.s), 2), 10);
		assert_int_equal(storekit_read(store_live(k.s), 3), 5);
		storekit_check(&k);
		storekit_release(&k);
	}
}

static void a_large_commit_that_is_redone_leaves_no_blocks_behind(void **state)
{
	struct storekit k;
	uint64_t before;

	(void)state;
	storekit_init(&k, 8192, NULL);
	storekit_settle(&k);
	before = storekit_free(&k);
	for (unsigned round = 0; round < 8; round++) {
		struct meddle me = { .k = &k, .live = 'x', .at = 1, .others = round % 2 ? 100 : 0 };
		char text[701];
		struct view *v = begin(&k);

		memset(text, 'a' + (int)round, 700);
		text[700] = 0;
		for (unsigned i = 0; i < 150; i++) /* more than a record takes: its body stands outside */
			assert_int_equal(storekit_put(v, 100 + i, 0, text), 0);
		assert_int_equal(storekit_put(v, 1, 5, "mine"), 0);
		assert_int_equal(txn_commit(v, &meddling, &me, NULL), 0);
		view_close(v);
		storekit_expect(store_live(k.s), 101, 0, text);
		storekit_check(&k);
	}
	for (unsigned i = 0; i < 150; i++)
		assert_int_equal(storekit_remove(store_live(k.s), 100 + i), 0);
	storekit_settle(&k);
	assert_true(storekit_free(&k) + 150 > before);
	storekit_release(&k);
}

/* ---- differences ---- */

struct seen {
	struct view *v;
	unsigned n, puts, dels;
};

static int see(void *arg, const struct change_item *it)
{
	struct seen *s = arg;
	char buf[100];
	size_t len;

	s->n++;
	s->puts += it->mine != NULL;
	s->dels += it->mine == NULL;
	/* It may look, and even change things. */
	if (it->mine && key_type(it->key) == KVT_BYTES) {
		assert_int_equal(view_get(s->v, it->key, buf, sizeof(buf), &len), 0);
		assert_int_equal(storekit_put(s->v, 900 + s->n, 0, "from inside"), 0);
	}
	return s->n == 1000 ? -EINTR : 0;
}

static void a_difference_tells_what_was_changed(void **state)
{
	struct storekit k;
	struct seen s;

	(void)state;
	storekit_init(&k, 2048, NULL);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(storekit_put(store_live(k.s), i, 0, "base"), 0);
	s = (struct seen){ .v = begin(&k) };
	assert_int_equal(txn_diff(s.v, see, &s), 0);
	assert_int_equal(s.n, 0);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(storekit_put(s.v, i, i % 2, i % 5 ? "mine" : "base"), 0);
	assert_int_equal(storekit_del(s.v, key_make(40, KVT_BYTES, 0)), 0);
	assert_int_equal(txn_diff(s.v, see, &s), 0);
	assert_int_equal(s.n, 19); /* two of the puts changed nothing */
	assert_int_equal(s.dels, 1);
	assert_int_equal(txn_diff(store_live(k.s), see, &s), -EINVAL);
	view_close(s.v);
	storekit_check(&k);
	storekit_release(&k);
}

/* ---- many ---- */

static void many_at_once_commit_what_does_not_conflict(void **state)
{
	enum { MANY = 40 };
	struct view *v[MANY];
	struct storekit k;
	unsigned done = 0;

	(void)state;
	storekit_init(&k, 8192, NULL);
	for (unsigned i = 0; i < MANY; i++) {
		v[i] = begin(&k);
		assert_int_equal(storekit_put(v[i], i / 2, 0, i % 2 ? "odd" : "even"), 0);
		assert_int_equal(storekit_write(&k, v[i], 100 + i, 0, 6), 0);
	}
	for (unsigned i = 0; i < MANY; i++) {
		unsigned at = i * 7 % MANY;
		int err = commit(v[at]);

		assert_true(err == 0 || err == -ETXNCONFLICT);
		done += !err;
		if (i % 3 == 0)
			assert_int_equal(store_checkpoint(k.s), 0);
		if (i % 2)
			view_close(v[at]);
	}
	for (unsigned i = 0; i < MANY; i += 2)
		view_close(v[i * 7 % MANY]);
	assert_int_equal(done, MANY / 2);
	assert_int_equal(storekit_items(store_live(k.s)), MANY);
	storekit_check(&k);
	assert_int_equal(k.checked.data_blocks, MANY / 2 * 6);
	storekit_release(&k);
}

int main(void)
{
	enum { FIXED = 12 };
	struct CMUnitTest tests[ARRAY_LEN(merge_rows) + FIXED] = {
		cmocka_unit_test(nobody_sees_a_transaction_before_its_commit),
		cmocka_unit_test(a_transaction_is_not_recovered),
		cmocka_unit_test(what_was_read_must_not_have_changed),
		cmocka_unit_test(extents_of_all_origins_are_merged),
		cmocka_unit_test(an_aborted_transaction_gives_all_of_it_back),
		cmocka_unit_test(large_transactions_work_in_the_smallest_cache),
		cmocka_unit_test(a_commit_without_memory_changes_nothing_and_can_be_repeated),
		cmocka_unit_test(a_large_commit_that_is_redone_leaves_no_blocks_behind),
		cmocka_unit_test(a_difference_tells_what_was_changed),
		cmocka_unit_test(many_at_once_commit_what_does_not_conflict),
	};
	size_t n = 0;

	while (tests[n].test_func)
		n++;
	for (size_t i = 0; i < ARRAY_LEN(merge_rows); i++)
		tests[n++] = TEST_ROW(merge_rows[i].name, merge_one, &merge_rows[i]);
	return _cmocka_run_group_tests("txn", tests, n, NULL, NULL);
}

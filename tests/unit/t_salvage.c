/*
 * What is found without superblocks, without a root, and in whatever else is left, held against the model; and that
 * no image makes the salvage fall over.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "tests/kit/failmem.h"
#include "tests/kit/kv_gen.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/salvagekit.h"
#include "tests/kit/test.h"

/* ---- results ---- */

struct range {
	struct key low, high;
	int err;
};

struct found {
	struct kvmap *items;
	struct range lost[400];
	unsigned n_lost;
	struct key last; /* everything comes in order */
	bool any;
};

static void in_order(struct found *f, struct key key)
{
	if (f->any)
		assert_true(key_less(f->last, key));
	f->any = true;
	f->last = key;
}

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	struct found *f = arg;

	in_order(f, key);
	assert_int_equal(record_validate(&kv_records, key, val, len), 0);
	kvmap_put(&f->items, key, val, len);
	return 0;
}

static int on_lost(void *arg, struct key from, struct key to, int err)
{
	struct found *f = arg;

	assert_true(key_less(from, to));
	assert_true(err < 0);
	if (f->any)
		assert_false(key_less(from, f->last));
	f->any = !key_equal(to, KEY_MIN);
	f->last = (struct key){ to.off ? to.obj : to.obj - 1, to.off - 1 };
	if (f->n_lost < ARRAY_LEN(f->lost))
		f->lost[f->n_lost] = (struct range){ from, to, err };
	f->n_lost++;
	return 0;
}

static int each(struct salvage *s, struct found *f)
{
	*f = (struct found){ .items = kvmap_new() };
	return salvage_each(s, on_item, on_lost, f);
}

/* Everything, in one go. */
static int salvage_all(struct simdev *disk, const struct salvage_options *opt, struct found *f, struct super *super,
		       struct salvage_result *result)
{
	struct salvage *s;
	int err = salvage_scan(simdev_bdev(disk), opt, &s, result);

	if (err)
		return err;
	err = each(s, f);
	if (super)
		*super = *salvage_super(s);
	salvage_close(s);
	return err;
}

static bool expect_items(const struct kvmap *have, const struct kvmap *want)
{
	if (kvmap_equal(have, want))
		return true;
	kvmap_print_diff(stdout, "salvaged", have, "model", want, 10);
	kv_log_print(stdout);
	return false;
}

/* ---- all of it is there ---- */

static void without_superblocks_a_store_closed_cleanly_is_found_whole(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 24; seed++) {
		struct salvage_result r;
		struct salvagekit f;
		struct found got;
		struct super s;

		salvagekit_make(&f, &salvagekit_plain, seed, 250, seed & 1, true);
		salvagekit_wipe_supers(f.disk);
		assert_int_equal(salvage_all(f.disk, &salvagekit_options, &got, &s, &r), 0);
		assert_false(r.super_found);
		assert_true(r.identified);
		assert_int_equal(got.n_lost, 0);
		if (!expect_items(got.items, f.live))
			fail_msg("seed %u", (unsigned)seed);
		assert_int_equal(s.node_size, f.super.node_size);
		assert_int_equal(s.blocks, f.super.blocks);
		assert_int_equal(s.log_start, f.super.log_start);
		assert_int_equal(s.log_blocks, f.super.log_blocks);
		assert_int_equal(s.incompat, f.super.incompat);
		assert_true(s.mount_epoch > f.super.files.ref.gen >> GEN_EPOCH_SHIFT);
		assert_true(s.counter[0] > 21 && s.counter[0] < 1000000);
		assert_memory_equal(s.uuid, f.super.uuid, 16);
		assert_memory_equal(s.secret, f.super.secret, 16);
		kvmap_unref(got.items);
		salvagekit_release(&f);
	}
}

/* The new one is the one, though the old one counted further. */
static void a_store_made_over_another_is_found_alone(void **state)
{
	unsigned further = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct salvage_result r;
		struct salvagekit f;
		struct found got;
		uint64_t gen;

		salvagekit_make(&f, &salvagekit_plain, seed, 400, seed & 1, true);
		gen = f.super.gen;
		salvagekit_again(&f, &salvagekit_plain, 50 + seed, 60, seed & 1, true);
		further += gen > f.super.gen;
		salvagekit_wipe_supers(f.disk);
		assert_int_equal(salvage_all(f.disk, &salvagekit_options, &got, NULL, &r), 0);
		if (!expect_items(got.items, f.live))
			fail_msg("seed %u", (unsigned)seed);
		kvmap_unref(got.items);
		salvagekit_release(&f);
	}
	assert_true(further > 2);
}

/* ---- parts of it are gone ---- */

/* The newest tree as it was before the damage: its leaves with their ranges, and where what leads to them stands. */
struct leaf {
	struct key low, high;
	struct ref path[NODE_LEVELS_MAX]; /* from the leaf up */
	unsigned levels;
};

struct tree {
	struct leaf leaf[1200];
	unsigned n;
	struct kvmap *items; /* without shared counts */
};

static bool read_node(struct simdev *disk, struct ref ref, uint8_t *buf)
{
	uint64_t place[2] = { ref.addr, ref.copy };

	for (unsigned i = 0; i < 2; i++) {
		const struct disk_node *h = (const struct disk_node *)buf;

		if (!place[i])
			continue;
		simdev_peek(disk, place[i], buf, 1);
		if (le32_get(h->magic) == NODE_MAGIC && le64_get(h->addr) == ref.addr && le64_get(h->gen) == ref.gen &&
		    node_sum_right(buf, BLOCK_SIZE))
			return true;
	}
	return false;
}

static void walk_tree(struct simdev *disk, struct tree *t, struct leaf *at, struct ref ref, unsigned level,
		      struct key low, struct key high)
{
	uint8_t *buf = malloc(BLOCK_SIZE);
	const struct disk_node *h = (const struct disk_node *)buf;
	const struct disk_slot *slots = (const struct disk_slot *)(h + 1);

	assert_true(read_node(disk, ref, buf));
	at->path[level] = ref;
	for (unsigned i = 0; i < le16_get(h->nr); i++) {
		struct key key = slot_key(&slots[i]);
		const uint8_t *val = buf + le16_get(slots[i].val);

		if (level)
			walk_tree(disk, t, at, ref_get((const struct disk_ref *)val), level - 1, i ? key : low,
				  i + 1u < le16_get(h->nr) ? slot_key(&slots[i + 1]) : high);
		else if (key_ino(key) != KEY_INO_MAX)
			kvmap_put(&t->items, key, val, le16_get(slots[i].len));
	}
	if (!level) {
		assert_true(t->n < ARRAY_LEN(t->leaf));
		t->leaf[t->n] = *at;
		t->leaf[t->n].low = low;
		t->leaf[t->n++].high = high;
	}
	free(buf);
}

static struct tree *tree_read(const struct salvagekit *f)
{
	struct tree *t = calloc(1, sizeof(*t));
	struct leaf at = { .levels = f->super.files.levels };

	t->items = kvmap_new();
	if (at.levels)
		walk_tree(f->disk, t, &at, f->super.files.ref, at.levels - 1, KEY_MIN, KEY_MAX);
	return t;
}

static void tree_free(struct tree *t)
{
	kvmap_unref(t->items);
	free(t);
}

static bool is_lost(const struct found *got, struct key key)
{
	for (unsigned i = 0; i < got->n_lost && i < ARRAY_LEN(got->lost); i++)
		if (!key_less(key, got->lost[i].low) && key_less(key, got->lost[i].high))
			return true;
	return false;
}

static bool same_item(const struct kv *a, const struct kv *b)
{
	return a && b && a->len == b->len && a->hash.lo == b->hash.lo && a->hash.hi == b->hash.hi;
}

struct tally {
	unsigned leaves, exact, present, gone, filled;
};

/*
 * A leaf to which everything leads: its keys are as they were, no more and no less. One that is there, but not what
 * leads to it: its items are there as they were. One that is gone: its items are told to be lost, or older ones
 * stand in for them (`filled`).
 */
static void expect_what_is_left(const struct tree *t, struct simdev *damaged, const struct found *got, bool root_known,
				bool filled, struct tally *tally)
{
	static uint8_t buf[BLOCK_SIZE];

	for (unsigned i = 0; i < t->n; i++) {
		const struct leaf *l = &t->leaf[i];
		bool there = read_node(damaged, l->path[0], buf), led_to = there;
		size_t from = kvmap_lower(t->items, l->low), to = kvmap_lower(t->items, l->high);
		size_t from2 = kvmap_lower(got->items, l->low), to2 = kvmap_lower(got->items, l->high);

		for (unsigned k = 1; k < l->levels; k++)
			led_to &= read_node(damaged, l->path[k], buf);
		tally->leaves++;
		if (led_to)
			assert_int_equal(to - from, to2 - from2);
		for (size_t k = from; k < to; k++) {
			const struct kv *want = kvmap_at(t->items, k), *have = kvmap_find(got->items, want->key);

			if (there)
				assert_true(same_item(want, have));
			else if (root_known && !have)
				assert_true(is_lost(got, want->key) || filled);
		}
		if (led_to)
			tally->exact++;
		else if (there)
			tally->present++;
		else if (to2 > from2)
			tally->filled++;
		else
			tally->gone++;
	}
}

enum damage {
	D_ROOT = 1,   /* the root, all copies */
	D_SUPERS = 2, /* both superblocks */
	D_FRONT = 4,  /* the first MiB */
	D_BLOCKS = 8, /* blocks behind the log, by chance */
};

struct damage_row {
	const char *name;
	unsigned what;
	bool clean, copies;
	uint64_t blocks_one_in;
};

static void do_damage(struct simdev *disk, const struct salvagekit *f, const struct damage_row *row, struct rng *rng)
{
	if (row->what & D_ROOT && f->super.files.levels)
		salvagekit_wipe_node(disk, f->super.files.ref);
	if (row->what & D_SUPERS)
		salvagekit_wipe_supers(disk);
	if (row->what & D_FRONT)
		salvagekit_wipe(disk, 0, 256);
	if (row->what & D_BLOCKS)
		for (uint64_t b = f->super.log_start + f->super.log_blocks; b < SALVAGEKIT_BLOCKS; b++)
			if (rng_chance(rng, 1, (unsigned)row->blocks_one_in))
				simdev_flip(disk, b, (uint32_t)rng_below(rng, 8 * BLOCK_SIZE));
}

static void what_is_left_is_found(void **state)
{
	const struct damage_row *row = *state;
	struct tally tally = { 0 };
	unsigned other = 0;

	for (uint64_t seed = 1; seed <= 10; seed++) {
		struct salvage_result r;
		struct simdev *damaged;
		struct salvagekit f;
		struct tree *t;
		struct rng rng;

		salvagekit_make(&f, &salvagekit_plain, 100 + seed, 300, row->copies, row->clean);
		t = tree_read(&f);
		if (row->clean)
			assert_true(kvmap_equal(t->items, f.live));
		for (unsigned i = 0; i < 4; i++) {
			struct found got;
			struct super s;
			int err;

			rng_seed(&rng, seed * 10 + i);
			damaged = simdev_clone(f.disk);
			do_damage(damaged, &f, row, &rng);
			err = salvage_all(damaged, &salvagekit_options, &got, &s, &r);
			assert_int_equal(err, 0);
			assert_int_equal(r.super_found, !(row->what & (D_SUPERS | D_FRONT)));
			/* With a log that goes on from an older tree, all is said only after replaying it. */
			if (r.super_found ? s.gen == f.super.gen : !r.log_found)
				expect_what_is_left(t, damaged, &got, r.super_found, r.ranges > 0, &tally);
			else
				other++;
			kvmap_unref(got.items);
			simdev_free(damaged);
		}
		tree_free(t);
		salvagekit_release(&f);
	}
	print_message("# %u leaves: %u exact, %u present, %u gone, %u filled from older ones\n", tally.leaves,
		      tally.exact, tally.present, tally.gone, tally.filled);
	assert_true(tally.leaves > 100 || row->what & (D_SUPERS | D_FRONT));
}

/* ---- images that lie ---- */

static void an_image_that_lies_is_survived(void **state)
{
	unsigned images = 0, refused = 0, with_lost = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++) {
		static uint64_t nodes[SALVAGEKIT_BLOCKS];
		struct salvagekit f;
		unsigned n;

		salvagekit_make(&f, &kv_profile_mixed, 300 + seed, 200, seed & 1, seed & 2);
		n = salvagekit_nodes(f.disk, nodes, SALVAGEKIT_BLOCKS);
		assert_true(n > 10);
		for (unsigned i = 0; i < 150; i++) {
			struct simdev *bad = simdev_clone(f.disk);
			struct salvage_result r;
			struct found got;
			struct rng rng;
			int err;

			rng_seed(&rng, seed * 1000 + i);
			if (rng_chance(&rng, 2, 3))
				salvagekit_wipe_supers(bad);
			for (unsigned k = (unsigned)rng_range(&rng, 1, n); k; k--)
				salvagekit_mutate(bad, nodes[rng_below(&rng, n)], nodes, n, &rng);
			err = salvage_all(bad, &salvagekit_options, &got, NULL, &r);
			if (err) {
				assert_int_equal(err, -ENODEV);
				refused++;
			} else {
				with_lost += got.n_lost > 0;
				kvmap_unref(got.items);
			}
			/* Each node at most a few times, and the device once. */
			assert_true(simdev_count(bad, SIMDEV_READ) < SALVAGEKIT_BLOCKS / 100 + 100 + 12 * (uint64_t)n);
			images++;
			simdev_free(bad);
		}
		salvagekit_release(&f);
	}
	print_message("# %u images, %u without anything, %u with something lost\n", images, refused, with_lost);
}

/* A leaf with one bad item loses that one. */
static void a_bad_item_is_lost_alone(void **state)
{
	struct salvage_result r;
	struct salvagekit f;
	struct found got;
	struct tree *t;
	bool done = false;

	(void)state;
	salvagekit_make(&f, &salvagekit_plain, 7, 300, false, true);
	t = tree_read(&f);
	for (unsigned i = 0; i < t->n && !done; i++) {
		uint64_t at = t->leaf[i].path[0].addr;
		uint8_t buf[BLOCK_SIZE];
		struct disk_node *h = (struct disk_node *)buf;
		struct disk_slot *slots = (struct disk_slot *)(h + 1);

		simdev_peek(f.disk, at, buf, 1);
		for (unsigned k = 0; k < le16_get(h->nr) && !done; k++) {
			struct kv_extent_val *v = (struct kv_extent_val *)(buf + le16_get(slots[k].val));

			if (key_type(slot_key(&slots[k])) != KVT_EXTENT || !le64_get(v->addr))
				continue;
			v->tag = le64_put(0);
			salvagekit_fix_sum(buf);
			simdev_poke(f.disk, at, 0, buf, BLOCK_SIZE);
			kvmap_del(&f.live, slot_key(&slots[k]));
			assert_int_equal(salvage_all(f.disk, &salvagekit_options, &got, NULL, &r), 0);
			assert_int_equal(got.n_lost, 1);
			assert_true(key_equal(got.lost[0].low, slot_key(&slots[k])));
			assert_true(key_equal(got.lost[0].high, key_next(slot_key(&slots[k]))));
			assert_true(expect_items(got.items, f.live));
			kvmap_unref(got.items);
			done = true;
		}
	}
	assert_true(done);
	tree_free(t);
	salvagekit_release(&f);
}

/* ---- what it stands on fails ---- */

static void without_memory_it_says_so(void **state)
{
	struct salvage_result r;
	struct salvagekit f;
	struct found got;
	uint64_t k;

	(void)state;
	salvagekit_make(&f, &salvagekit_plain, 5, 150, true, true);
	salvagekit_wipe_supers(f.disk);
	for (k = 1;; k++) {
		struct salvage *s = NULL;
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = salvage_scan(simdev_bdev(f.disk), &salvagekit_options, &s, &r);
		if (!err)
			err = each(s, &got);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			salvage_close(s);
			break;
		}
		assert_int_equal(err, -ENOMEM);
		if (s) {
			kvmap_unref(got.items);
			/* The plan stands. */
			assert_int_equal(each(s, &got), 0);
			assert_true(expect_items(got.items, f.live));
			kvmap_unref(got.items);
		}
		salvage_close(s);
	}
	assert_true(k > 10);
	assert_true(expect_items(got.items, f.live));
	kvmap_unref(got.items);
	salvagekit_release(&f);
}

static void a_read_that_fails_costs_what_it_would_have_read(void **state)
{
	struct salvage_result r;
	struct salvagekit f;
	uint64_t reads;

	(void)state;
	for (unsigned copies = 0; copies < 2; copies++) {
		struct simdev *disk;
		struct found got;

		salvagekit_make(&f, &salvagekit_plain, 6, 150, copies, true);
		disk = simdev_clone(f.disk);
		assert_int_equal(salvage_all(disk, &salvagekit_options, &got, NULL, &r), 0);
		assert_true(expect_items(got.items, f.live));
		kvmap_unref(got.items);
		reads = simdev_count(disk, SIMDEV_READ);
		simdev_free(disk);
		for (uint64_t k = 0; k < reads; k++) {
			int err;

			disk = simdev_clone(f.disk);
			simdev_add_fault(disk, &(struct simdev_fault){ .op = SIMDEV_READ, .after = k, .times = 1 });
			err = salvage_all(disk, &salvagekit_options, &got, NULL, &r);
			assert_int_equal(err, 0);
			/* Nothing but what is told may be missing. The scan reads again, and copies do for nodes. */
			for (size_t i = 0; i < kvmap_count(f.live); i++) {
				const struct kv *want = kvmap_at(f.live, i), *have = kvmap_find(got.items, want->key);

				assert_true(same_item(want, have) || is_lost(&got, want->key) || r.ranges);
			}
			kvmap_unref(got.items);
			simdev_free(disk);
		}
		/* Blocks that stay unreadable. */
		for (uint64_t b = 0; b < SALVAGEKIT_BLOCKS; b += 3) {
			disk = simdev_clone(f.disk);
			simdev_add_fault(disk, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = b, .blocks = 1 });
			assert_int_equal(salvage_all(disk, &salvagekit_options, &got, NULL, &r), 0);
			if (copies)
				assert_true(expect_items(got.items, f.live));
			kvmap_unref(got.items);
			simdev_free(disk);
		}
		salvagekit_release(&f);
	}
}

static void a_disk_of_something_else_is_refused(void **state)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = SALVAGEKIT_BLOCKS });
	uint8_t buf[BLOCK_SIZE];
	struct salvage_result r;
	struct salvage *s;
	struct rng rng;

	(void)state;
	assert_int_equal(salvage_scan(simdev_bdev(disk), &salvagekit_options, &s, &r), -ENODEV);
	rng_seed(&rng, 1);
	for (uint64_t b = 0; b < SALVAGEKIT_BLOCKS; b++) {
		rng_bytes(&rng, buf, sizeof(buf));
		/* Two magics, to be a little like it. */
		memcpy(buf + 8, b & 1 ? "aNod" : "aSeg", 4);
		simdev_poke(disk, b, 0, buf, sizeof(buf));
	}
	assert_int_equal(salvage_scan(simdev_bdev(disk), &salvagekit_options, &s, &r), -ENODEV);
	simdev_free(disk);
	disk = simdev_new(&(struct simdev_options){ .blocks = 1 });
	assert_int_equal(salvage_scan(simdev_bdev(disk), &salvagekit_options, &s, &r), -ENODEV);
	simdev_free(disk);
}

static const struct damage_row rows[] = {
	{ "the root", D_ROOT, .clean = true },
	{ "the root, with copies", D_ROOT, .clean = true, .copies = true },
	{ "the root, before a crash", D_ROOT },
	{ "both superblocks and the root", D_SUPERS | D_ROOT, .clean = true },
	{ "the first MiB", D_FRONT, .clean = true },
	{ "the first MiB and the root", D_FRONT | D_ROOT, .clean = true },
	{ "one block in 20", D_BLOCKS, .clean = true, .blocks_one_in = 20 },
	{ "one block in 20, with copies", D_BLOCKS, .clean = true, .copies = true, .blocks_one_in = 20 },
	{ "one block in 3, with copies", D_BLOCKS, .copies = true, .blocks_one_in = 3 },
	{ "superblocks and one block in 10", D_SUPERS | D_BLOCKS, .clean = true, .blocks_one_in = 10 },
	{ "superblocks and one block in 4, with copies", D_SUPERS | D_BLOCKS, .clean = true, .copies = true,
	  .blocks_one_in = 4 },
};

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 8] = {
		cmocka_unit_test(without_superblocks_a_store_closed_cleanly_is_found_whole),
		cmocka_unit_test(a_store_made_over_another_is_found_alone),
		cmocka_unit_test(an_image_that_lies_is_survived),
		cmocka_unit_test(a_bad_item_is_lost_alone),
		cmocka_unit_test(without_memory_it_says_so),
		cmocka_unit_test(a_read_that_fails_costs_what_it_would_have_read),
		cmocka_unit_test(a_disk_of_something_else_is_refused),
	};
	size_t n = 7;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].name, what_is_left_is_found, &rows[i]);
	return _cmocka_run_group_tests("salvage", tests, n, NULL, NULL);
}

/*
 * t_repair.c - every problem made by hand is mended, and what was right is still there
 *
 * The rows are tests/kit/checkrows.c, one problem each; `outcomes` says what some of them look like afterwards. For each: what
 * is mended is clean at the first check behind it, a second repair has nothing to do, an answer of no changes nothing, and a
 * crash at any write of the repair leaves what the next repair mends. Then many problems at once, by chance.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "fs/extent.h"
#include "fs/repair.h"
#include "tests/kit/checkrandom.h"
#include "tests/kit/checkrows.h"
#include "tests/kit/failmem.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

struct told {
	unsigned asked, done, lost;
	bool answer;
	struct rng *chance; /* not NULL: the answer is its */
	char text[200];	    /* the first action */
};

struct fix {
	struct checkkit f;
	struct told told;
	struct fs_repair_result result;
};

static bool on_ask(void *arg, const struct fs_problem_report *p, const char *action)
{
	struct told *t = arg;

	assert_true(p->text[0] && action[0] && !strchr(action, '\n'));
	assert_int_not_equal(fs_problem_answer(p->problem), FS_ANSWER_REPORT);
	if (!t->asked++)
		snprintf(t->text, sizeof(t->text), "%s", action);
	return t->chance ? rng_chance(t->chance, 1, 2) : t->answer;
}

static void on_done(void *arg, const struct fs_problem_report *p, const char *action, bool lost)
{
	struct told *t = arg;

	(void)p;
	assert_true(action[0]);
	t->done++;
	t->lost += lost;
}

static void print_left(void *arg, const struct fs_problem_report *p)
{
	(void)arg;
	print_message("# left: problem %d, inode %llu, %s: %s\n", (int)p->problem, (unsigned long long)p->ino,
		      p->path ? p->path : "-", p->text);
}

static int repair_by(struct fix *x, bool answer, struct rng *chance, bool quiet)
{
	struct fs_repair_options o = {
		.check = { .data = true, .threads = 1, .report = quiet ? NULL : print_left },
		.ask = on_ask,
		.done = on_done,
		.arg = &x->told,
	};

	x->told = (struct told){ .answer = answer, .chance = chance };
	return fs_repair(x->f.k.fs, &o, &x->result);
}

static int repair(struct fix *x, bool answer, bool quiet)
{
	return repair_by(x, answer, NULL, quiet);
}

/* Mounted as fsck does, or as everybody. */
static void remount(struct fix *x, bool repairing)
{
	x->f.k.opt.repair = repairing;
	checkkit_remount(&x->f);
}

static void damage(struct fix *x, const struct checkrow *row)
{
	checkkit_init(&x->f, 0);
	row->damage(&x->f);
	ck_commit(&x->f);
	remount(x, true);
}

/* All items of live as one number; times and the number of changes too. */
static uint64_t digest(struct fix *x)
{
	uint64_t h = 14695981039346656037u;
	const void *val;
	struct key key;
	struct scan *s;
	size_t len;

	assert_int_equal(scan_open(store_live(fs_store(x->f.k.fs)), KEY_MIN, KEY_MAX, &s), 0);
	while (!scan_next(s, &key, &val, &len)) {
		for (size_t i = 0; i < sizeof(key); i++)
			h = (h ^ ((const uint8_t *)&key)[i]) * 1099511628211u;
		for (size_t i = 0; i < len; i++)
			h = (h ^ ((const uint8_t *)val)[i]) * 1099511628211u;
	}
	scan_close(s);
	return h;
}

/* ---- what it looks like afterwards ---- */

static void expect_text(struct fix *x, const char *path, const char *text)
{
	size_t len;
	char *got = fskit_read(&x->f.k, path, &len);

	assert_int_equal(len, strlen(text));
	assert_memory_equal(got, text, len);
	mem_free(got);
}

static void expect_file(struct fix *x, const char *path, uint64_t size)
{
	size_t len;
	char *got = fskit_read(&x->f.k, path, &len);

	assert_int_equal(len, size);
	if (len > 9)
		assert_string_equal(got, "some data");
	mem_free(got);
}

static const struct outcome {
	const char *row, *there, *gone; /* paths, or NULL */
	const char *file;		/* has the three blocks of /a/b/file */
	unsigned lost;			/* how many were told to give something up */
} outcomes[] = {
	{ "no_root", "small", NULL, "a/b/file", 1 },
	{ "root_is_a_file", "small", NULL, "a/b/file", 0 },
	{ "names_in_a_file", "fifo/name", NULL, "a/b/file", 0 },
	{ "extents_of_a_fifo", "fifo", NULL, "a/b/file", 1 },
	{ "link_without_a_size", "link", NULL, "a/b/file", 0 },
	{ "items_without_inode", "lost+found/#4000", NULL, "a/b/file", 1 },
	{ "directory_without_inode", "a/hard", "lost+found", "a/b/file", 1 },
	{ "name_without_inode", NULL, "a/b/ghost", "a/b/file", 1 },
	{ "name_of_another_type", "x", NULL, "a/b/file", 0 },
	{ "name_under_another_hash", "x", NULL, "a/b/file", 0 },
	{ "name_twice", "x", "x~1", "a/b/file", 0 },
	{ "directory_twice", "a", "a2", "a/b/file", 1 },
	{ "no_name", NULL, "x", "a/b/file", 0 },
	{ "no_mark", NULL, "lost+found", "a/b/file", 0 },
	{ "overlap", "sparse", NULL, "a/b/file", 0 },
	{ "target_too_short", NULL, "link", "a/b/file", 1 },
	{ "target_missing", NULL, "link", "a/b/file", 1 },
	{ "inline_beside_extents", NULL, NULL, "a/b/file", 1 },
	{ "xattr_twice", "x", NULL, "a/b/file", 1 },
	{ "xattr_under_another_hash", "x", NULL, "a/b/file", 0 },
	{ "number_beyond_the_limit", "new", NULL, "a/b/file", 0 },
};

static void expect_outcome(struct fix *x, const char *row)
{
	for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
		const struct outcome *o = &outcomes[i];

		if (strcmp(o->row, row))
			continue;
		if (o->there)
			assert_int_not_equal(fskit_node(&x->f.k, o->there), 0);
		if (o->gone)
			assert_int_equal(fskit_node(&x->f.k, o->gone), 0);
		if (o->file)
			expect_file(x, o->file, 3 * BLOCK_SIZE);
		assert_int_equal(x->told.lost, o->lost);
	}
}

/* ---- each row ---- */

static void print_on_failure(struct fix *x, int err)
{
	if (!err)
		return;
	print_message("# repair: %d, %u rounds, mended %llu, left %llu\n", err, x->result.rounds,
		      (unsigned long long)x->result.mended, (unsigned long long)x->result.left);
	storekit_print();
}

static void row_is_mended(void **state)
{
	const struct checkrow *row = *state;
	bool any;
	struct fix x;
	int err;

	damage(&x, row);
	any = x.f.n_want;
	err = repair(&x, true, false);
	print_on_failure(&x, err);
	assert_int_equal(err, 0);
	assert_int_equal(x.result.mended > 0, any);
	assert_int_equal(x.result.left, 0);
	assert_int_equal(x.told.asked, x.result.mended);
	assert_int_equal(x.result.check.problems, 0);
	remount(&x, false);
	expect_outcome(&x, row->name);
	if (strcmp(row->name, "link_without_a_size") && strncmp(row->name, "inline_", 7))
		expect_text(&x, "small", "hello");
	fskit_check(&x.f.k);
	/* And nothing more to do. */
	assert_int_equal(repair(&x, true, false), 0);
	assert_int_equal(x.result.rounds, 0);
	assert_int_equal(x.told.asked, 0);
	checkkit_release(&x.f);
}

static void row_is_left_alone(void **state)
{
	const struct checkrow *row = *state;
	uint64_t before;
	bool any;
	struct fix x;
	int err;

	damage(&x, row);
	any = x.f.n_want;
	before = digest(&x);
	err = repair(&x, false, true);
	assert_int_equal(err, any ? -EUCLEAN : 0);
	assert_int_equal(x.result.mended, 0);
	assert_int_equal(x.told.done, 0);
	assert_int_equal(x.result.refused > 0, any);
	assert_true(x.result.left >= x.f.n_want);
	assert_int_equal(digest(&x), before);
	checkkit_release(&x.f);
}

/* The power fails at each of the repair's writes: what is there then mounts, for a repair, and that has it clean. */
static void crash_everywhere(struct fix *x, uint64_t limit)
{
	uint64_t first = simdev_ops(x->f.k.disk), last, states = 0;
	struct simdev *run;

	assert_int_equal(repair(x, true, false), 0);
	assert_int_equal(store_checkpoint(fs_store(x->f.k.fs)), 0);
	batch_close(x->f.b);
	fs_crash(x->f.k.fs);
	run = x->f.k.disk;
	last = simdev_ops(run);
	for (uint64_t n = first; n <= last; n++) {
		struct simdev_crash c;

		simdev_crash_begin(&c, run, n, limit, n);
		while ((x->f.k.disk = simdev_crash_next(&c))) {
			int err;

			x->f.k.opt.repair = true;
			fskit_mount(&x->f.k);
			err = repair(x, true, false);
			if (err) {
				print_message("# crash at %llu\n", (unsigned long long)n);
				simdev_crash_print(&c);
				print_on_failure(x, err);
			}
			assert_int_equal(err, 0);
			fs_crash(x->f.k.fs);
			simdev_free(x->f.k.disk);
			states++;
		}
		simdev_crash_end(&c);
	}
	assert_true(states >= last - first);
	simdev_free(run);
}

static void row_crashes(void **state)
{
	struct fix x;

	damage(&x, *state);
	crash_everywhere(&x, 3);
}

/* ---- more than one ---- */

static void data_that_is_bad_becomes_lost(void **state)
{
	uint64_t file, id, to, done;
	struct fs_entry e;
	struct extent_map m;
	const void *data;
	size_t len;
	uint8_t *buf = mem_alloc_blocks(8 * BLOCK_SIZE);
	struct fix x;

	(void)state;
	checkkit_init(&x.f, 0);
	file = ck_node(&x.f, "a/b/file");
	assert_int_equal(fs_mknod(x.f.k.fs, &fskit_root, FS_ROOT, "copy", S_IFREG | 0644, 0, &e), 0);
	fs_forget(x.f.k.fs, e.node, 1);
	to = e.node;
	assert_int_equal(fs_copy_range(x.f.k.fs, file, 0, to, 0, 2 * BLOCK_SIZE, &done), 0);
	assert_int_equal(extent_at(store_live(fs_store(x.f.k.fs)), file, 0, &m), 0);
	assert_int_equal(store_checkpoint(fs_store(x.f.k.fs)), 0);
	simdev_flip(x.f.k.disk, m.addr + 1, 77);
	remount(&x, true);
	/* Without reading data nobody sees it. */
	assert_int_equal(fs_repair(x.f.k.fs, &(struct fs_repair_options){ 0 }, &x.result), 0);
	assert_int_equal(repair(&x, true, false), 0);
	assert_int_equal(x.result.mended, 2);
	assert_int_equal(x.told.lost, 2);
	assert_int_equal(x.result.check.lost_blocks, 2);
	assert_non_null(strstr(x.told.text, "bytes 4096 to 8191"));
	remount(&x, false);
	assert_int_equal(fs_read(x.f.k.fs, file, BLOCK_SIZE, BLOCK_SIZE, buf, &data, &len), -EIO);
	assert_int_equal(fs_read(x.f.k.fs, to, BLOCK_SIZE, BLOCK_SIZE, buf, &data, &len), -EIO);
	assert_int_equal(fs_read(x.f.k.fs, file, 2 * BLOCK_SIZE, BLOCK_SIZE, buf, &data, &len), 0);
	assert_int_equal(fs_read(x.f.k.fs, to, 0, BLOCK_SIZE, buf, &data, &len), 0);
	assert_string_equal(data, "some data");
	fskit_check(&x.f.k);

	/* In a snapshot it is only told. */
	assert_int_equal(snapshot_create(fs_store(x.f.k.fs), "snap", &id), 0);
	assert_int_equal(store_checkpoint(fs_store(x.f.k.fs)), 0);
	simdev_flip(x.f.k.disk, m.addr, 5);
	remount(&x, true);
	storekit_quiet();
	assert_int_equal(repair(&x, true, true), -EUCLEAN);
	assert_int_equal(x.result.left, 2);
	assert_int_equal(x.result.mended, 2);
	mem_free(buf);
	checkkit_release(&x.f);
}

static void younger_extents_win(void **state)
{
	static uint8_t text[4 * BLOCK_SIZE];
	struct disk_extent *d;
	uint8_t val[2048];
	struct fix x;
	uint64_t ino;
	size_t len;
	char *got;

	(void)state;
	checkkit_init(&x.f, 0);
	assert_int_equal(fskit_create(&x.f.k, "over"), 0);
	ino = ck_node(&x.f, "over");
	memset(text, 'o', sizeof(text));
	assert_int_equal(fskit_write(&x.f.k, "over", text, 4 * BLOCK_SIZE, 0), 0);
	assert_int_equal(store_checkpoint(fs_store(x.f.k.fs)), 0);
	assert_int_equal(
		view_get(store_live(fs_store(x.f.k.fs)), key_make(ino, FS_ITEM_EXTENT, 0), val, sizeof(val), &len), 0);
	memset(text, 'y', sizeof(text));
	assert_int_equal(fskit_write(&x.f.k, "over", text, BLOCK_SIZE, BLOCK_SIZE), 0);
	/* The old one again, whole: it reaches under the new block and what was cut off behind it. */
	d = (struct disk_extent *)val;
	assert_int_equal(le32_get(d->blocks), 4);
	ck_put_bytes(&x.f, key_make(ino, FS_ITEM_EXTENT, 0), val, len);
	ck_commit(&x.f);
	remount(&x, true);
	assert_int_equal(repair(&x, true, false), 0);
	assert_int_equal(x.told.lost >= 1, true);
	remount(&x, false);
	got = fskit_read(&x.f.k, "over", &len);
	assert_int_equal(len, 4 * BLOCK_SIZE);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(got[i], i / BLOCK_SIZE == 1 ? 'y' : 'o');
	mem_free(got);
	fskit_check(&x.f.k);
	checkkit_release(&x.f);
}

static void names_without_room_get_others(void **state)
{
	char name[FS_NAME_MAX + 1];
	uint64_t small, ino;
	struct inode i;
	struct fix x;

	(void)state;
	checkkit_init(&x.f, 0);
	memset(name, 'n', FS_NAME_MAX);
	name[FS_NAME_MAX] = 0;
	ino = ck_node(&x.f, "x");
	small = ck_node(&x.f, "small");
	ck_put_name(&x.f, FS_ROOT_INO, name, 0, ino, DT_REG);
	ck_put_name(&x.f, FS_ROOT_INO, name, 1, small, DT_REG);
	ck_put_name(&x.f, FS_ROOT_INO, "x", 3, small, DT_REG);
	ck_account(&x.f, FS_ROOT_INO, 3, 0);
	i = ck_get(&x.f, ino);
	i.nlink++;
	ck_put(&x.f, &i);
	i = ck_get(&x.f, small);
	i.nlink += 2;
	ck_put(&x.f, &i);
	ck_commit(&x.f);
	remount(&x, true);
	assert_int_equal(repair(&x, true, false), 0);
	assert_int_equal(x.result.mended, 2);
	remount(&x, false);
	memcpy(name + FS_NAME_MAX - 2, "~1", 2);
	assert_int_equal(fskit_node(&x.f.k, name), small);
	assert_int_equal(fskit_node(&x.f.k, "x~1"), small);
	assert_int_equal(fskit_node(&x.f.k, "x"), ino);
	fskit_check(&x.f.k);
	checkkit_release(&x.f);
}

static void a_read_only_filesystem_is_not_repaired(void **state)
{
	struct fix x;

	(void)state;
	checkkit_init(&x.f, 0);
	batch_close(x.f.b);
	x.f.b = NULL;
	fskit_unmount(&x.f.k);
	x.f.k.opt.store.read_only = true;
	fskit_mount(&x.f.k);
	assert_int_equal(repair(&x, true, false), -EROFS);
	fskit_release(&x.f.k);
}

static void any_allocation_may_fail(void **state)
{
	unsigned failed = 0, n_rows = 0;
	struct simdev *good;
	struct fix x;

	(void)state;
	checkkit_init(&x.f, 0);
	for (size_t i = 0; i < n_checkrows && n_rows < 12; i += 4, n_rows++)
		if (strcmp(checkrows[i].name, "no_root") && strcmp(checkrows[i].name, "root_is_a_file"))
			checkrows[i].damage(&x.f);
	ck_commit(&x.f);
	batch_close(x.f.b);
	x.f.b = NULL;
	fskit_unmount(&x.f.k);
	good = x.f.k.disk;
	x.f.k.opt.repair = true;
	for (uint64_t k = 1;; k += 1 + k / 16) {
		int err;
		bool hit;

		x.f.k.disk = simdev_clone(good);
		fskit_mount(&x.f.k);
		failmem_start(k, FAILMEM_ONCE);
		err = repair(&x, true, true);
		hit = failmem_stop();
		failed += err == -ENOMEM;
		if (err)
			assert_int_equal(repair(&x, true, false), 0);
		fskit_release(&x.f.k);
		if (!hit)
			break;
		x.f.k.opt = (struct fs_options){ .store = { .seed = 1000 + k }, .no_threads = true, .repair = true };
	}
	assert_true(failed > 5);
	simdev_free(good);
}

static void random_items_are_mended(void **state)
{
	unsigned rounds = 0, mended = 0;
	uint64_t seed;
	struct rng r;

	(void)state;
	seed = rng_seed_env(&r, 1);
	for (unsigned round = 0; round < 40; round++) {
		struct fix x;
		int err;

		checkkit_init(&x.f, 0);
		for (unsigned i = 0; i < (round % 10 == 9 ? 40 : 1 + round % 8); i++) {
			for (unsigned n = 0; n < 10; n++)
				ck_random_item(&x.f, &r);
			ck_commit(&x.f);
		}
		remount(&x, true);
		storekit_quiet();
		err = repair(&x, true, false);
		if (err)
			print_message("# seed %llu round %u\n", (unsigned long long)seed, round);
		print_on_failure(&x, err);
		assert_int_equal(err, 0);
		if (x.told.asked != x.result.mended)
			storekit_print();
		assert_int_equal(x.told.asked, x.result.mended);
		rounds = x.result.rounds > rounds ? x.result.rounds : rounds;
		mended += (unsigned)x.result.mended;
		remount(&x, false);
		fskit_check(&x.f.k);
		assert_int_equal(repair(&x, true, false), 0);
		assert_int_equal(x.result.rounds, 0);
		checkkit_release(&x.f);
	}
	print_message("# %u mended, at most %u rounds\n", mended, rounds);
	assert_true(mended > 100);
}

static void random_repairs_may_be_cut_short(void **state)
{
	struct rng r;

	(void)state;
	rng_seed_env(&r, 3);
	for (unsigned round = 0; round < 6; round++) {
		struct fix x;

		checkkit_init(&x.f, 0);
		for (unsigned n = 0; n < 20; n++)
			ck_random_item(&x.f, &r);
		ck_commit(&x.f);
		remount(&x, true);
		storekit_quiet();
		crash_everywhere(&x, 4);
	}
}

/* Each answer by chance: it ends, and what was refused can be mended later. */
static void random_answers_are_taken(void **state)
{
	uint64_t refused = 0;
	struct rng r;

	(void)state;
	rng_seed_env(&r, 2);
	for (unsigned round = 0; round < 20; round++) {
		struct fix x;
		int err;

		checkkit_init(&x.f, 0);
		for (unsigned n = 0; n < 30; n++)
			ck_random_item(&x.f, &r);
		ck_commit(&x.f);
		remount(&x, true);
		storekit_quiet();
		err = repair_by(&x, true, &r, true);
		assert_true(!err || err == -EUCLEAN);
		/* (What was agreed to may need something that was not.) */
		assert_true(x.told.asked >= x.result.mended + x.result.refused);
		refused += x.result.refused;
		assert_true(x.result.left || !err);
		err = repair(&x, true, false);
		print_on_failure(&x, err);
		assert_int_equal(err, 0);
		checkkit_release(&x.f);
	}
	assert_true(refused > 50);
}

int main(void)
{
	static struct CMUnitTest tests[3 * CHECKROWS_MAX + 16];
	const struct CMUnitTest others[] = {
		cmocka_unit_test(data_that_is_bad_becomes_lost),
		cmocka_unit_test(younger_extents_win),
		cmocka_unit_test(names_without_room_get_others),
		cmocka_unit_test(a_read_only_filesystem_is_not_repaired),
		cmocka_unit_test(any_allocation_may_fail),
		cmocka_unit_test(random_items_are_mended),
		cmocka_unit_test(random_repairs_may_be_cut_short),
		cmocka_unit_test(random_answers_are_taken),
	};
	static char names[3][CHECKROWS_MAX][80];
	static void (*const run[3])(void **) = { row_is_mended, row_is_left_alone, row_crashes };
	static const char *const what[3] = { "is_mended", "is_left_alone", "crashes" };
	size_t n = 0;

	for (unsigned k = 0; k < 3; k++)
		for (size_t i = 0; i < n_checkrows; i++) {
			snprintf(names[k][i], sizeof(names[k][i]), "%s_%s", checkrows[i].name, what[k]);
			tests[n++] = TEST_ROW(names[k][i], run[k], &checkrows[i]);
		}
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		tests[n++] = others[i];
	return _cmocka_run_group_tests("repair", tests, n, NULL, NULL);
}

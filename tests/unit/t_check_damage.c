/*
 * t_check_damage.c - the check of a filesystem whose blocks or items are damaged in any way: it ends, and says so
 *
 * Bad data and leaves that cannot be read, with what must be told and what must not follow from it. Then random items, all
 * valid by themselves, and random bits of a disk, where only the end and the result count (and what the sanitizers say).
 */
#include <dirent.h>
#include <string.h>

#include "btree/node_format.h"
#include "tests/kit/checkkit.h"
#include "tests/kit/checkrandom.h"
#include "tests/kit/failmem.h"
#include "tests/kit/rng.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

/* ---- damage on the disk ---- */

/* Flips a bit in every leaf on the disk, of whatever age, that has items of the inode from the type on. */
static unsigned damage_leaves(struct checkkit *f, uint64_t ino, unsigned type)
{
	static uint8_t block[BLOCK_SIZE];
	struct store_status st;
	unsigned n = 0;

	store_status(fs_store(f->k.fs), &st);
	assert_int_equal(st.node_size, BLOCK_SIZE);
	for (uint64_t addr = 1; addr < st.blocks; addr++) {
		const struct disk_node *d = (const struct disk_node *)block;
		const struct disk_slot *slot = (const struct disk_slot *)(d + 1);
		bool has = false;

		simdev_peek(f->k.disk, addr, block, 1);
		if (le32_get(d->magic) != NODE_MAGIC || d->level)
			continue;
		for (unsigned i = 0; i < le16_get(d->nr); i++)
			has |= le64_get(slot[i].obj) >> 8 == ino && (le64_get(slot[i].obj) & 255) >= type;
		if (has)
			simdev_flip(f->k.disk, addr, 8 * 2000);
		n += has;
	}
	return n;
}

static uint64_t first_block(struct checkkit *f, uint64_t ino)
{
	struct disk_extent d;
	size_t len;

	assert_int_equal(view_get(store_live(fs_store(f->k.fs)), key_make(ino, FS_ITEM_EXTENT, 0), &d, sizeof(d), &len),
			 0);
	return le64_get(d.addr);
}

static void bad_data_is_told_for_every_file_that_has_it(void **state)
{
	struct checkkit f;
	uint64_t file, copied, id, done;
	struct fs_entry e;

	(void)state;
	checkkit_init(&f, 0);
	file = ck_node(&f, "a/b/file");
	assert_int_equal(fs_mknod(f.k.fs, &fskit_root, FS_ROOT, "clone", S_IFREG | 0644, 0, &e), 0);
	fs_forget(f.k.fs, e.node, 1);
	copied = e.node;
	assert_int_equal(fs_copy_range(f.k.fs, file, 0, copied, 0, 3 * BLOCK_SIZE, &done), 0);
	assert_int_equal(done, 3 * BLOCK_SIZE);
	assert_int_equal(first_block(&f, file), first_block(&f, copied));
	assert_int_equal(snapshot_create(fs_store(f.k.fs), "snap", &id), 0);
	f.opt.data = true;
	ck_check(&f);
	assert_int_equal(f.result.data_blocks, 3); /* each once */

	simdev_flip(f.k.disk, first_block(&f, file) + 1, 77);
	ck_want(&f, FS_PROBLEM_DATA_BAD, file, "/a/b/file");
	ck_want(&f, FS_PROBLEM_DATA_BAD, copied, "/clone");
	ck_want_in(&f, "snap", FS_PROBLEM_DATA_BAD, file, "/a/b/file");
	ck_want_in(&f, "snap", FS_PROBLEM_DATA_BAD, copied, "/clone");
	for (f.opt.threads = 1; f.opt.threads <= 4; f.opt.threads += 3) {
		ck_check(&f);
		assert_non_null(strstr(f.got[0].text, "bytes 4096 to 8191"));
		assert_non_null(strstr(f.got[3].text, "bytes 4096 to 8191"));
	}
	/* Without that option nobody looks. */
	f.opt.data = false;
	f.n_want = 0;
	ck_check(&f);
	checkkit_release(&f);
}

static void data_that_cannot_be_read_is_told(void **state)
{
	struct simdev_fault fault = { .op = SIMDEV_READ, .blocks = 1 };
	struct checkkit f;
	uint64_t file;

	(void)state;
	checkkit_init(&f, 0);
	file = ck_node(&f, "a/b/file");
	assert_int_equal(store_checkpoint(fs_store(f.k.fs)), 0);
	checkkit_remount(&f);
	fault.addr = first_block(&f, file) + 2;
	simdev_add_fault(f.k.disk, &fault);
	f.opt.data = true;
	ck_want(&f, FS_PROBLEM_DATA_BAD, file, "/a/b/file");
	ck_check(&f);
	assert_non_null(strstr(f.got[0].text, "bytes 8192 to 12287"));
	checkkit_release(&f);
}

/* Enough files that the tree has many leaves. */
static void fill(struct checkkit *f, unsigned n)
{
	char name[64];

	assert_int_equal(fskit_mkdir(&f->k, "many"), 0);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "many/%u", i);
		assert_int_equal(fskit_create(&f->k, name), 0);
	}
}

static void a_leaf_that_cannot_be_read_costs_only_itself(void **state)
{
	struct checkkit f;
	uint64_t bad, empty;
	struct inode x;

	(void)state;
	checkkit_init(&f, 0);
	fill(&f, 500);
	bad = ck_node(&f, "many/250");
	empty = ck_node(&f, "empty");
	x = ck_get(&f, ck_node(&f, "x"));
	x.nlink = 2; /* the other name may be in what is lost */
	ck_put(&f, &x);
	ck_account(&f, empty, 1, 0);
	ck_commit(&f);
	checkkit_remount(&f);
	assert_true(damage_leaves(&f, bad, 0) >= 1);
	ck_want(&f, FS_PROBLEM_UNREADABLE, 0, NULL);
	ck_want(&f, FS_PROBLEM_DIR_SIZE, empty, "/empty");
	for (f.opt.threads = 1; f.opt.threads <= 4; f.opt.threads += 3)
		ck_check(&f);
	assert_true(f.result.inodes > 400 && f.result.inodes < 515);

	f.opt.no_structure = false;
	f.n_want = 0;
	ck_want(&f, FS_PROBLEM_STRUCTURE, 0, NULL);
	ck_want(&f, FS_PROBLEM_UNREADABLE, 0, NULL);
	ck_want(&f, FS_PROBLEM_DIR_SIZE, empty, "/empty");
	ck_check(&f);
	checkkit_release(&f);
}

static void names_that_cannot_be_read_make_no_inode_nameless(void **state)
{
	struct checkkit f;

	(void)state;
	checkkit_init(&f, 0);
	fill(&f, 500);
	checkkit_remount(&f);
	/* Leaves with names of /many, and what else is in them. */
	assert_true(damage_leaves(&f, ck_node(&f, "many"), FS_ITEM_DIRENT) >= 5);
	ck_want(&f, FS_PROBLEM_UNREADABLE, 0, NULL);
	f.opt.threads = 1;
	f.n_want = 0;
	assert_int_equal(fs_check(f.k.fs, &f.opt, &f.result), -EUCLEAN);
	assert_true(f.result.problems >= 1);
	for (f.n_want = 0; f.n_want < f.result.problems;)
		ck_want(&f, FS_PROBLEM_UNREADABLE, 0, NULL);
	ck_check(&f);
	checkkit_release(&f);
}

static void a_tree_without_a_root_is_one_problem(void **state)
{
	struct checkkit f;

	(void)state;
	checkkit_init(&f, 0);
	fill(&f, 100);
	checkkit_remount(&f);
	/* Reading fails from now on; the root has been dropped from the cache or it has not: either way it ends. */
	simdev_add_fault(f.k.disk, &(struct simdev_fault){ .op = SIMDEV_READ });
	f.opt.threads = 2;
	assert_int_equal(fs_check(f.k.fs, &f.opt, &f.result), -EUCLEAN);
	assert_true(f.result.problems >= 1 && f.result.problems <= 3);
	simdev_clear_faults(f.k.disk);
	ck_check(&f);
	checkkit_release(&f);
}

/* ---- large, memory ---- */

static void many_files_are_checked_in_parts(void **state)
{
	struct checkkit f;
	uint64_t parent;
	struct inode i;

	(void)state;
	checkkit_init(&f, 16384);
	fill(&f, 5000);
	parent = ck_node(&f, "many");
	f.opt.data = true;
	for (f.opt.threads = 1; f.opt.threads <= 4; f.opt.threads += 3) {
		f.n_progress = 0;
		ck_check(&f);
		assert_true(f.n_progress > 4);
		assert_int_equal(f.result.inodes, 5000 + 13);
		assert_int_equal(f.result.directories, 5);
		assert_int_equal(f.result.names, 5000 + 12);
		assert_int_equal(f.result.xattrs, 3);
		assert_int_equal(f.result.extents, 2);
	}
	i = ck_get(&f, ck_node(&f, "many/4999"));
	i.nlink = 3;
	ck_put(&f, &i);
	ck_account(&f, parent, 1, 0);
	ck_commit(&f);
	ck_want(&f, FS_PROBLEM_DIR_SIZE, parent, "/many");
	ck_want(&f, FS_PROBLEM_LINKS, i.ino, "/many/4999");
	ck_check(&f);
	checkkit_release(&f);
}

/* The number of inodes is counted by operations before they are known to succeed. */
static void creates_that_failed_leave_the_count_right(void **state)
{
	static char buf[FS_IO_MAX];
	unsigned failed = 0;
	struct checkkit f;
	char name[32];
	int err = 0;

	(void)state;
	checkkit_init(&f, 2048);
	assert_int_equal(fskit_create(&f.k, "full"), 0);
	for (uint64_t n = 0; !err; n++)
		err = fskit_write(&f.k, "full", buf, sizeof(buf), n * sizeof(buf));
	for (uint64_t n = 1 << 20; (err = fskit_write(&f.k, "full", buf, BLOCK_SIZE, n * BLOCK_SIZE)) == 0; n += 2)
		;
	assert_int_equal(err, -ENOSPC);
	for (unsigned i = 0; i < 10000 && failed < 1500; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		failed += fskit_create(&f.k, name) == -ENOSPC;
	}
	assert_int_equal(failed, 1500);
	assert_int_equal(fskit_truncate(&f.k, "full", 0), 0);
	assert_int_equal(fskit_create(&f.k, "one more"), 0);
	checkkit_remount(&f);
	ck_check(&f);
	checkkit_release(&f);
}

static void any_allocation_may_fail(void **state)
{
	struct checkkit f;
	unsigned failed = 0;
	struct inode i;

	(void)state;
	checkkit_init(&f, 0);
	i = ck_get(&f, ck_node(&f, "x"));
	i.nlink = 2;
	ck_put(&f, &i);
	ck_put_name(&f, FS_ROOT_INO, "ghost", 0, 4000, DT_REG);
	ck_commit(&f);
	f.opt.data = true;
	f.opt.threads = 1;
	for (uint64_t k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = fs_check(f.k.fs, &f.opt, &f.result);
		if (!failmem_stop())
			break;
		failed += err == -ENOMEM;
		if (err != -ENOMEM)
			assert_int_equal(err, -EUCLEAN); /* a path or so */
	}
	assert_true(failed > 10);
	ck_want(&f, FS_PROBLEM_NAME_NO_INODE, FS_ROOT_INO, "/ghost");
	f.n_want = 0;
	ck_want(&f, FS_PROBLEM_NAME_NO_INODE, FS_ROOT_INO, "/ghost");
	ck_want(&f, FS_PROBLEM_DIR_SIZE, FS_ROOT_INO, "/");
	ck_want(&f, FS_PROBLEM_LINKS, i.ino, "/x");
	ck_check(&f);
	checkkit_release(&f);
}

/* ---- chance ---- */

static void count_problem(void *arg, const struct fs_problem_report *r)
{
	unsigned *problems = arg;

	assert_in_range(r->problem, 1, 25);
	assert_true(r->text && r->text[0]);
	problems[r->problem]++;
}

static int check_any(struct checkkit *f, unsigned problems[26])
{
	f->opt.report = count_problem;
	f->opt.progress = NULL;
	f->opt.arg = problems;
	return fs_check(f->k.fs, &f->opt, &f->result);
}

/* Flips a bit in so many nodes, of whatever age, or other blocks that are not zero. */
static void damage_nodes(struct checkkit *f, struct rng *r, unsigned n)
{
	static uint8_t block[BLOCK_SIZE];

	while (n) {
		uint64_t addr = 300 + rng_below(r, 3000);
		const struct disk_node *d = (const struct disk_node *)block;

		simdev_peek(f->k.disk, addr, block, 1);
		if (le32_get(d->magic) != NODE_MAGIC && !rng_chance(r, 1, 50))
			continue;
		simdev_flip(f->k.disk, addr, (uint32_t)rng_below(r, BLOCK_SIZE * 8));
		n--;
	}
}

static void random_items_are_survived(void **state)
{
	uint64_t seed;
	struct rng r;

	(void)state;
	seed = rng_seed_env(&r, 1);
	for (unsigned round = 0; round < 12; round++) {
		unsigned problems[26] = { 0 };
		struct checkkit f;

		checkkit_init(&f, 0);
		f.opt.data = true;
		for (unsigned i = 0; i < 40; i++) {
			uint64_t id;
			int err;

			for (unsigned n = 0; n < 10; n++)
				ck_random_item(&f, &r);
			ck_commit(&f);
			if (i == 20)
				assert_int_equal(snapshot_create(fs_store(f.k.fs), "snap", &id), 0);
			f.opt.threads = 1 + (unsigned)rng_below(&r, 2);
			err = check_any(&f, problems);
			if (err && err != -EUCLEAN)
				print_message("# seed %llu round %u: %d\n", (unsigned long long)seed, round, err);
			assert_true(!err || err == -EUCLEAN);
		}
		/* The structure is right however wrong the items are. */
		f.opt.no_structure = false;
		check_any(&f, problems);
		assert_int_equal(problems[FS_PROBLEM_STRUCTURE], 0);
		assert_int_equal(problems[FS_PROBLEM_UNREADABLE], 0);
		assert_true(problems[FS_PROBLEM_LINKS] && problems[FS_PROBLEM_NO_NAME]);
		checkkit_release(&f);
	}
}

/* A disk with flipped bits either does not mount, or is checked to the end. */
static void random_bits_are_survived(void **state)
{
	unsigned mounted = 0, told = 0;
	struct checkkit f;
	uint64_t seed;
	struct rng r;

	(void)state;
	seed = rng_seed_env(&r, 2);
	checkkit_init(&f, 0);
	fill(&f, 200);
	checkkit_remount(&f);
	fskit_unmount(&f.k);
	batch_close(f.b);
	f.b = NULL;
	f.opt.no_structure = false;
	f.opt.data = true;
	f.opt.threads = 2;
	for (unsigned round = 0; round < 60; round++) {
		struct simdev *good = f.k.disk;
		unsigned problems[26] = { 0 };
		struct fs_options opt = f.k.opt;
		int err;

		opt.store.seed = 1000 + round;
		opt.store.read_only = round % 2;
		f.k.disk = simdev_clone(good);
		damage_nodes(&f, &r, 1 + (unsigned)rng_below(&r, 4));
		err = fs_mount(simdev_bdev(f.k.disk), &opt, &f.k.fs);
		if (!err) {
			mounted++;
			err = check_any(&f, problems);
			told += err == -EUCLEAN;
			if (err && err != -EUCLEAN)
				print_message("# seed %llu round %u: %d\n", (unsigned long long)seed, round, err);
			assert_true(!err || err == -EUCLEAN);
			fs_crash(f.k.fs);
		}
		simdev_free(f.k.disk);
		f.k.disk = good;
	}
	f.k.fs = NULL;
	assert_true(mounted > 10 && told > 5);
	fskit_release(&f.k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_data_is_told_for_every_file_that_has_it),
		cmocka_unit_test(data_that_cannot_be_read_is_told),
		cmocka_unit_test(a_leaf_that_cannot_be_read_costs_only_itself),
		cmocka_unit_test(names_that_cannot_be_read_make_no_inode_nameless),
		cmocka_unit_test(a_tree_without_a_root_is_one_problem),
		cmocka_unit_test(many_files_are_checked_in_parts),
		cmocka_unit_test(creates_that_failed_leave_the_count_right),
		cmocka_unit_test(any_allocation_may_fail),
		cmocka_unit_test(random_items_are_survived),
		cmocka_unit_test(random_bits_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

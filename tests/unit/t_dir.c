/*
 * t_dir.c - names in a directory: hashes and slots, colliding names, large directories
 *
 * ARBOR_DIR_ENTRIES: how many names the large directory has (5000).
 */
#include <dirent.h>
#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef BLOCK_SIZE

#include "fs/fs_int.h"
#include "tests/kit/fskit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

/* ---- one name ---- */

struct check_row {
	const char *name;
	const char *text;
	int err;
	size_t len;
};

#define X16(s) s s s s s s s s s s s s s s s s

static const struct check_row check_rows[] = {
	{ "one_byte_is_a_name", "a", 0, 1 },
	{ "an_empty_name_is_invalid", "", -EINVAL, 0 },
	{ "a_slash_is_invalid", "/", -EINVAL, 0 },
	{ "a_slash_anywhere_is_invalid", "abc/", -EINVAL, 0 },
	{ "255_bytes_are_a_name", X16("abcdefghijklmno") "abcdefghijklmno", 0, 255 },
	{ "256_bytes_are_too_long", X16("abcdefghijklmnop"), -ENAMETOOLONG, 0 },
	{ "slashes_in_what_is_too_long_do_not_matter", X16("abcdefghijklmno/"), -ENAMETOOLONG, 0 },
};

static void check_one(void **state)
{
	const struct check_row *row = *state;
	size_t len = 0;

	assert_int_equal(dir_name_check(row->text, &len), row->err);
	assert_int_equal(len, row->len);
}

static void hashes_are_in_range_and_keyed(void **state)
{
	uint64_t first[1000], low = UINT64_MAX, high = 0;
	struct fskit k;
	char name[32];

	(void)state;
	fskit_init(&k, NULL);
	for (unsigned i = 0; i < 1000; i++) {
		int len = snprintf(name, sizeof(name), "name-%u", i);

		first[i] = dir_hash(k.fs, name, (size_t)len);
		assert_int_equal(dir_hash(k.fs, name, (size_t)len), first[i]);
		assert_in_range(first[i], 1, FS_HASH_MAX);
		low = first[i] < low ? first[i] : low;
		high = first[i] > high ? first[i] : high;
	}
	assert_true(low < FS_HASH_MAX / 100 && high > FS_HASH_MAX - FS_HASH_MAX / 100); /* all 55 bits are in use */
	assert_int_equal(dir_hash(k.fs, "ab", 2) == dir_hash(k.fs, "abc", 3), 0);
	fskit_remount(&k);
	assert_int_equal(dir_hash(k.fs, "name-7", 6), first[7]);
	fskit_release(&k);
	/* Another filesystem, another key. */
	{
		struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = 4096 });
		struct fs_mkfs_options mo = {
			.store = { .node_size = 4096, .log_blocks = 64, .seed = 99, .lazy_log = true }
		};
		struct fs_options fo = { .no_threads = true, .store = { .seed = 3 } };
		struct fs *fs;

		assert_int_equal(fs_mkfs(simdev_bdev(disk), &mo), 0);
		assert_int_equal(fs_mount(simdev_bdev(disk), &fo, &fs), 0);
		for (unsigned i = 0; i < 1000; i++) {
			int len = snprintf(name, sizeof(name), "name-%u", i);

			assert_int_not_equal(dir_hash(fs, name, (size_t)len), first[i]);
		}
		fs_crash(fs);
		simdev_free(disk);
	}
}

static void a_hash_of_zero_or_all_ones_is_moved_into_the_range(void **state)
{
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	k.fs->hash_mask = UINT64_C(1) << 60; /* beyond the hash: nothing is left of it */
	assert_int_equal(dir_hash(k.fs, "a", 1), 1);
	assert_int_equal(FS_HASH_MAX, (UINT64_C(1) << 55) - 2);
	fskit_release(&k);
}

static int find(struct fskit *k, const char *name, struct dir_slot *ret)
{
	struct op op;
	int err = op_begin_read(k->fs, FS_ROOT, &op);

	assert_int_equal(err, 0);
	err = dir_find(&op, FS_ROOT_INO, name, strlen(name), ret);
	op_end(&op);
	return err;
}

static void slots_are_taken_from_the_lowest_and_never_change(void **state)
{
	struct dir_slot slot;
	struct fskit k;
	char name[8];

	(void)state;
	fskit_init(&k, NULL);
	k.fs->hash_mask = 1; /* one hash for all */
	for (unsigned i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(find(&k, name, &slot), -ENOENT);
		assert_int_equal(slot.key.off, 1 << FS_SLOT_BITS | i);
		assert_int_equal(fskit_create(&k, name), 0);
		assert_int_equal(find(&k, name, &slot), 0);
		assert_int_equal(slot.key.off, 1 << FS_SLOT_BITS | i);
		assert_int_equal(slot.type, DT_REG);
		assert_int_equal(slot.ino, fskit_node(&k, name));
	}
	assert_int_equal(fskit_unlink(&k, "n7"), 0);
	assert_int_equal(fskit_unlink(&k, "n3"), 0);
	assert_int_equal(find(&k, "x", &slot), -ENOENT);
	assert_int_equal(slot.key.off, 1 << FS_SLOT_BITS | 3);
	assert_int_equal(fskit_unlink(&k, "n0"), 0);
	assert_int_equal(find(&k, "x", &slot), -ENOENT);
	assert_int_equal(slot.key.off, 1 << FS_SLOT_BITS);
	for (unsigned i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(find(&k, name, &slot), i == 0 || i == 3 || i == 7 ? -ENOENT : 0);
		if (slot.ino)
			assert_int_equal(slot.key.off, 1 << FS_SLOT_BITS | i);
	}
	fskit_check(&k);
	fskit_release(&k);
}

static void the_257th_name_of_one_hash_has_no_room(void **state)
{
	struct dir_slot slot;
	struct fs_entry e;
	struct fskit k;
	char name[8];

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_mkdir(&k, "d"), 0);
	assert_int_equal(fskit_create(&k, "d/f"), 0);
	k.fs->hash_mask = 1;
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "d", FS_ROOT, "d2", 0), -ENOENT); /* under its true hash */
	for (unsigned i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(fskit_create(&k, name), 0);
	}
	assert_int_equal(find(&k, "more", &slot), -ENOSPC);
	assert_int_equal(fskit_create(&k, "more"), -ENOSPC);
	assert_int_equal(fskit_mkdir(&k, "more"), -ENOSPC);
	assert_int_equal(fs_link(k.fs, fskit_node(&k, "n0"), FS_ROOT, "more", &e), -ENOSPC);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "n0", FS_ROOT, "more", 0), -ENOSPC);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "n0", FS_ROOT, "more", RENAME_EXCHANGE), -ENOENT);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "more", FS_ROOT, "n0", 0), -ENOENT);
	assert_int_equal(fs_lookup(k.fs, FS_ROOT, "more", &e), -ENOENT);
	assert_int_equal(fskit_unlink(&k, "more"), -ENOENT);
	assert_int_equal(fs_rmdir(k.fs, FS_ROOT, "more"), -ENOENT);
	assert_int_equal(fskit_create(&k, "n255"), -EEXIST);
	assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, "n0", FS_ROOT, "n200", 0), 0); /* replaces: makes room, too */
	assert_int_equal(fskit_create(&k, "more"), 0);
	for (unsigned i = 1; i < 256; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(fskit_unlink(&k, name), 0);
	}
	assert_int_equal(fskit_unlink(&k, "more"), 0);
	k.fs->hash_mask = 0;
	assert_int_equal(fskit_stat(&k, "").st_size, 1);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- colliding names at random, against a model ---- */

#define POOL 150u

struct named {
	uint64_t node; /* 0: not there */
	char name[24];
};

struct seen {
	struct named *pool;
	unsigned n;
	uint64_t pos;
};

static int see(void *arg, const struct fs_dirent *d)
{
	struct seen *s = arg;

	assert_true(d->next > s->pos);
	s->pos = d->next;
	if (d->name[0] == '.')
		return 0;
	for (unsigned i = 0; i < POOL; i++) {
		if (strcmp(s->pool[i].name, d->name))
			continue;
		assert_int_equal(s->pool[i].node, d->ino);
		s->n++;
		return 0;
	}
	fail_msg("%s", d->name);
	return 1;
}

static void compare(struct fskit *k, struct named *pool)
{
	struct seen s = { .pool = pool };
	unsigned there = 0;

	for (unsigned i = 0; i < POOL; i++) {
		assert_int_equal(fskit_node(k, pool[i].name), pool[i].node);
		there += pool[i].node != 0;
	}
	assert_int_equal(fs_readdir(k->fs, FS_ROOT, 0, false, see, &s), 0);
	assert_int_equal(s.n, there);
	assert_int_equal(fskit_stat(k, "").st_size, there);
}

struct mask_row {
	const char *name;
	uint64_t mask;
};

static const struct mask_row mask_rows[] = {
	{ "names_of_one_hash_behave_as_any", 1 },	  { "names_of_two_hashes_behave_as_any", 2 },
	{ "names_of_eight_hashes_behave_as_any", 7 },	  { "names_of_the_last_hash_behave_as_any", UINT64_C(7) << 52 },
	{ "names_of_different_hashes_behave_as_any", 0 },
};

static void random_step(struct fskit *k, struct rng *rng, struct named *pool)
{
	static const unsigned all_flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	struct named *a = &pool[rng_below(rng, POOL)], *b = &pool[rng_below(rng, POOL)];
	unsigned flags;
	int want;

	switch (rng_below(rng, 4)) {
	case 0:
	case 1:
		assert_int_equal(fskit_create(k, a->name), a->node ? -EEXIST : 0);
		a->node = fskit_node(k, a->name);
		assert_true(a->node);
		break;
	case 2:
		assert_int_equal(fskit_unlink(k, a->name), a->node ? 0 : -ENOENT);
		a->node = 0;
		break;
	default:
		flags = all_flags[rng_below(rng, ARRAY_LEN(all_flags))];
		want = !a->node ? -ENOENT : 0;
		if (!want && b->node && flags & RENAME_NOREPLACE)
			want = -EEXIST;
		if (!want && !b->node && flags & RENAME_EXCHANGE)
			want = -ENOENT;
		assert_int_equal(fs_rename(k->fs, NULL, FS_ROOT, a->name, FS_ROOT, b->name, flags), want);
		if (!want && a != b) {
			uint64_t left = flags & RENAME_EXCHANGE ? b->node : 0;

			b->node = a->node;
			a->node = left;
		}
	}
}

static void collide(void **state)
{
	const struct mask_row *row = *state;
	struct named pool[POOL] = { 0 };
	struct fskit k;
	struct rng rng;

	rng_seed_env(&rng, 31);
	fskit_init(&k, NULL);
	k.fs->hash_mask = row->mask;
	for (unsigned i = 0; i < POOL; i++)
		snprintf(pool[i].name, sizeof(pool[i].name), "%.*s%u", (int)(i % 13), "aaaaaaaaaaaaaaa", i);
	for (unsigned i = 0; i < 6000; i++) {
		random_step(&k, &rng, pool);
		if (i % 1000 == 999) {
			compare(&k, pool);
			fskit_check(&k);
		}
		if (i == 3000) {
			fskit_remount(&k);
			k.fs->hash_mask = row->mask;
			compare(&k, pool);
		}
	}
	fskit_release(&k);
}

/* ---- a large directory ---- */

static unsigned env_number(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

struct count {
	uint64_t n, pos;
};

static int count_one(void *arg, const struct fs_dirent *d)
{
	struct count *c = arg;

	assert_true(d->next > c->pos);
	c->pos = d->next;
	c->n++;
	return c->n % 777 == 0; /* in several calls */
}

static void a_large_directory_is_found_listed_and_emptied(void **state)
{
	unsigned n = env_number("ARBOR_DIR_ENTRIES", 5000);
	struct fskit_options o = { .blocks = 16384 + n / 4, .node_size = 16384, .log_blocks = 4096 };
	struct count c = { 0 };
	uint64_t before;
	struct fskit k;
	char name[40];

	(void)state;
	fskit_init(&k, &o);
	assert_int_equal(fskit_mkdir(&k, "d"), 0);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "d/entry-number-%u", i);
		assert_int_equal(fskit_create(&k, name), 0);
	}
	assert_int_equal(fskit_stat(&k, "d").st_size, n);
	fskit_remount(&k);
	for (unsigned i = 0; i < n; i += 1 + n / 5000) {
		snprintf(name, sizeof(name), "d/entry-number-%u", i);
		assert_true(fskit_node(&k, name));
		snprintf(name, sizeof(name), "d/entry-number-%u", n + i);
		assert_false(fskit_node(&k, name));
	}
	do {
		before = c.n;
		assert_int_equal(fs_readdir(k.fs, fskit_node(&k, "d"), c.pos, false, count_one, &c), 0);
	} while (c.n != before && c.n % 777 == 0);
	assert_int_equal(c.n, n + 2);
	fskit_check(&k);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "d/entry-number-%u", i);
		assert_int_equal(fskit_unlink(&k, name), 0);
	}
	assert_int_equal(fs_rmdir(k.fs, FS_ROOT, "d"), 0);
	fskit_check(&k);
	fskit_release(&k);
}

int main(void)
{
	enum { FIXED = 5 };
	struct CMUnitTest tests[FIXED + ARRAY_LEN(check_rows) + ARRAY_LEN(mask_rows)] = {
		cmocka_unit_test(hashes_are_in_range_and_keyed),
		cmocka_unit_test(a_hash_of_zero_or_all_ones_is_moved_into_the_range),
		cmocka_unit_test(slots_are_taken_from_the_lowest_and_never_change),
		cmocka_unit_test(the_257th_name_of_one_hash_has_no_room),
		cmocka_unit_test(a_large_directory_is_found_listed_and_emptied),
	};
	size_t n = FIXED;

	for (size_t i = 0; i < ARRAY_LEN(check_rows); i++)
		tests[n++] = TEST_ROW(check_rows[i].name, check_one, &check_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(mask_rows); i++)
		tests[n++] = TEST_ROW(mask_rows[i].name, collide, &mask_rows[i]);
	return _cmocka_run_group_tests("dir", tests, n, NULL, NULL);
}

/* t_readdir.c - listing directories: positions, changes meanwhile, references */
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

#define MANY 300u
#define LIST_MAX 700u

struct list {
	struct fskit *k;
	unsigned n, limit; /* limit: refuse the one behind so many; 0: none */
	bool plus;
	unsigned without; /* names given without attributes, dots not counted */
	uint64_t next;
	struct {
		char name[24];
		uint64_t ino, next, node;
		unsigned type;
	} e[LIST_MAX];
};

static int add(void *arg, const struct fs_dirent *d)
{
	struct list *l = arg;

	if (l->limit && l->n == l->limit)
		return 1;
	assert_true(l->n < LIST_MAX);
	assert_int_equal(strlen(d->name), d->name_len);
	assert_true(d->next > l->next && d->next < UINT64_C(1) << 63);
	snprintf(l->e[l->n].name, sizeof(l->e[0].name), "%s", d->name);
	l->e[l->n].ino = d->ino;
	l->e[l->n].type = d->type;
	l->e[l->n].next = d->next;
	l->e[l->n].node = d->entry ? d->entry->node : 0;
	if (d->entry) {
		assert_true(l->plus);
		assert_int_equal(d->entry->st.st_ino, d->ino);
		assert_int_equal((d->entry->st.st_mode & S_IFMT) >> 12, d->type);
		assert_true(lookups_held(l->k->fs->lookups, d->entry->node));
	} else if (strcmp(d->name, ".") && strcmp(d->name, "..")) {
		l->without++;
	}
	l->next = d->next;
	l->n++;
	return 0;
}

static int list(struct fskit *k, struct list *l, uint64_t node, uint64_t pos, bool plus)
{
	*l = (struct list){ .k = k, .plus = plus, .next = pos, .limit = l->limit };
	return fs_readdir(k->fs, node, pos, plus, add, l);
}

static void fill(struct fskit *k, const char *dir, unsigned n)
{
	char path[40];

	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s%u", dir, i);
		assert_int_equal(i % 5 ? fskit_create(k, path) : fskit_mkdir(k, path), 0);
	}
}

static void dots_come_first_and_say_who_they_are(void **state)
{
	static struct list l;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_mkdir(&k, "d"), 0);
	assert_int_equal(fskit_mkdir(&k, "d/e"), 0);
	assert_int_equal(list(&k, &l, fskit_node(&k, "d"), 0, true), 0);
	assert_int_equal(l.n, 3);
	assert_string_equal(l.e[0].name, ".");
	assert_int_equal(l.e[0].ino, fskit_node(&k, "d"));
	assert_int_equal(l.e[0].next, 1);
	assert_string_equal(l.e[1].name, "..");
	assert_int_equal(l.e[1].ino, FS_ROOT_INO);
	assert_int_equal(l.e[1].next, 2);
	assert_string_equal(l.e[2].name, "e");
	assert_int_equal(l.e[2].type, DT_DIR);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(l.e[i].type, DT_DIR);
		assert_int_equal(l.e[i].node, 0); /* no reference */
	}
	assert_int_equal(l.e[2].node, fskit_node(&k, "d/e"));
	fs_forget(k.fs, l.e[2].node, 1);
	assert_int_equal(list(&k, &l, FS_ROOT, 0, false), 0);
	assert_int_equal(l.e[0].ino, FS_ROOT_INO);
	assert_int_equal(l.e[1].ino, FS_ROOT_INO);
	assert_int_equal(l.n, 3);
	assert_int_equal(lookups_count(k.fs->lookups), 0);
	fskit_release(&k);
}

static void every_position_goes_on_where_it_was(void **state)
{
	static struct list all, rest;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	fill(&k, "", MANY);
	assert_int_equal(list(&k, &all, FS_ROOT, 0, false), 0);
	assert_int_equal(all.n, MANY + 2);
	for (unsigned i = 0; i < all.n; i++) {
		assert_int_equal(list(&k, &rest, FS_ROOT, all.e[i].next, false), 0);
		assert_int_equal(rest.n, all.n - i - 1);
		assert_memory_equal(rest.e, &all.e[i + 1], rest.n * sizeof(rest.e[0]));
	}
	/* In pieces of any size, across a mount. */
	for (unsigned size = 1; size < 40; size += 7) {
		uint64_t pos = 0;
		unsigned n = 0;

		fskit_remount(&k);
		do {
			rest.limit = size;
			assert_int_equal(list(&k, &rest, FS_ROOT, pos, false), 0);
			assert_memory_equal(rest.e, &all.e[n], rest.n * sizeof(rest.e[0]));
			n += rest.n;
			pos = rest.next;
		} while (rest.n == size);
		assert_int_equal(n, all.n);
	}
	rest.limit = 0;
	assert_int_equal(list(&k, &rest, FS_ROOT, (UINT64_C(1) << 63) - 1, false), 0);
	assert_int_equal(rest.n, 0);
	assert_int_equal(list(&k, &rest, FS_ROOT, UINT64_C(1) << 63, false), 0);
	assert_int_equal(list(&k, &rest, FS_ROOT, UINT64_MAX - 1, false), 0);
	assert_int_equal(rest.n, 0);
	fskit_release(&k);
}

static void what_stays_is_listed_once_whatever_else_changes(void **state)
{
	static struct list l;
	unsigned times[MANY] = { 0 };
	uint64_t pos = 0;
	struct fskit k;
	struct rng rng;
	char name[24];

	(void)state;
	rng_seed_env(&rng, 9);
	fskit_init(&k, NULL);
	k.fs->hash_mask = 63; /* with collisions */
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "stay%u", i);
		assert_int_equal(fskit_create(&k, name), 0);
	}
	do {
		l.limit = 1 + (unsigned)rng_below(&rng, 9);
		assert_int_equal(list(&k, &l, FS_ROOT, pos, false), 0);
		pos = l.next;
		for (unsigned i = 0; i < l.n; i++)
			if (!strncmp(l.e[i].name, "stay", 4))
				times[strtoul(l.e[i].name + 4, NULL, 10)]++;
		for (unsigned i = 0; i < 6; i++) {
			snprintf(name, sizeof(name), "come%u", (unsigned)rng_below(&rng, 100));
			if (fskit_create(&k, name))
				assert_int_equal(fskit_unlink(&k, name), 0);
		}
	} while (l.n == l.limit);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(times[i], 1);
	fskit_release(&k);
}

static void names_accepted_are_referred_to_and_others_not(void **state)
{
	static struct list l;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	fill(&k, "", 50);
	l.limit = 20;
	assert_int_equal(list(&k, &l, FS_ROOT, 0, true), 0);
	assert_int_equal(l.n, 20);
	assert_int_equal(lookups_count(k.fs->lookups), 18);
	for (unsigned i = 2; i < 20; i++) {
		assert_int_equal(l.e[i].node, l.e[i].ino);
		fs_forget(k.fs, l.e[i].node, 1);
	}
	assert_int_equal(lookups_count(k.fs->lookups), 0);
	l.limit = 0;
	assert_int_equal(list(&k, &l, FS_ROOT, 0, false), 0);
	assert_int_equal(lookups_count(k.fs->lookups), 0);
	assert_int_equal(l.without, 50);
	fskit_release(&k);
}

/* Removes everything else when the first name is given: the leaf has been copied by then. */
static int add_and_remove(void *arg, const struct fs_dirent *d)
{
	struct list *l = arg;
	char name[24];
	int err = add(arg, d);

	if (l->n != 3)
		return err;
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "%u", i);
		if (strcmp(name, d->name))
			assert_int_equal(fskit_unlink(l->k, name), 0);
	}
	return err;
}

static void names_whose_inode_has_gone_come_without(void **state)
{
	static struct list l;
	struct fskit k;
	char name[24];

	(void)state;
	for (unsigned held = 0; held < 2; held++) {
		struct fs_entry e[20];

		fskit_init(&k, NULL);
		for (unsigned i = 0; i < 20; i++) {
			snprintf(name, sizeof(name), "%u", i);
			assert_int_equal(fskit_create(&k, name), 0);
			if (held)
				assert_int_equal(fs_lookup(k.fs, FS_ROOT, name, &e[i]), 0);
		}
		l = (struct list){ .k = &k, .plus = true };
		assert_int_equal(fs_readdir(k.fs, FS_ROOT, 0, true, add_and_remove, &l), 0);
		assert_true(l.n >= 3 && l.n <= 22);
		assert_int_equal(l.without, l.n - 3);
		assert_true(l.without > 0);
		fs_forget(k.fs, l.e[2].node, 1);
		for (unsigned i = 0; held && i < 20; i++)
			fs_forget(k.fs, e[i].node, 1);
		assert_int_equal(lookups_count(k.fs->lookups), 0);
		fskit_check(&k);
		fskit_release(&k);
	}
}

static void a_removed_directory_has_only_dots(void **state)
{
	static struct list l;
	struct fs_entry e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fs_mkdir(k.fs, &fskit_root, FS_ROOT, "d", 0755, &e), 0);
	assert_int_equal(fs_rmdir(k.fs, FS_ROOT, "d"), 0);
	assert_int_equal(list(&k, &l, e.node, 0, true), 0);
	assert_int_equal(l.n, 2);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(list(&k, &l, e.node, 0, true), -ESTALE);
	assert_int_equal(list(&k, &l, e.node, 2, true), -ESTALE);
	fskit_release(&k);
}

static void only_directories_can_be_listed(void **state)
{
	static struct list l;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	assert_int_equal(list(&k, &l, fskit_node(&k, "f"), 0, false), -ENOTDIR);
	assert_int_equal(list(&k, &l, fskit_node(&k, "f"), 5, false), -ENOTDIR);
	assert_int_equal(list(&k, &l, 4711, 0, false), -ESTALE);
	assert_int_equal(list(&k, &l, UINT64_C(3) << FS_VIEW_SHIFT | 1, 0, false), -ESTALE);
	assert_int_equal(l.n, 0);
	fskit_release(&k);
}

static void types_are_those_of_the_inodes(void **state)
{
	static const mode_t types[] = { S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };
	static struct list l;
	struct fs_entry e;
	struct fskit k;
	char name[8];

	(void)state;
	fskit_init(&k, NULL);
	for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(fs_mknod(k.fs, &fskit_root, FS_ROOT, name, types[i] | 0600, 0, &e), 0);
		fs_forget(k.fs, e.node, 1);
	}
	assert_int_equal(fs_symlink(k.fs, &fskit_root, "x", FS_ROOT, "s", &e), 0);
	fs_forget(k.fs, e.node, 1);
	assert_int_equal(list(&k, &l, FS_ROOT, 2, true), 0);
	assert_int_equal(l.n, ARRAY_LEN(types) + 1);
	for (unsigned i = 0; i < l.n; i++) {
		assert_int_equal(l.e[i].type, l.e[i].name[0] == 's' ? DT_LNK : types[l.e[i].name[0] - '0'] >> 12);
		fs_forget(k.fs, l.e[i].node, 1);
	}
	fskit_release(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dots_come_first_and_say_who_they_are),
		cmocka_unit_test(every_position_goes_on_where_it_was),
		cmocka_unit_test(what_stays_is_listed_once_whatever_else_changes),
		cmocka_unit_test(names_accepted_are_referred_to_and_others_not),
		cmocka_unit_test(names_whose_inode_has_gone_come_without),
		cmocka_unit_test(a_removed_directory_has_only_dots),
		cmocka_unit_test(only_directories_can_be_listed),
		cmocka_unit_test(types_are_those_of_the_inodes),
	};

	return _cmocka_run_group_tests("readdir", tests, ARRAY_LEN(tests), NULL, NULL);
}

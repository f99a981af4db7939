/*
 * Extended attributes: what may be set on what, values of every length, lists, the inode's flag, crashes. Long random runs
 * compare every value and the list with a plain table.
 */
#include <linux/fs.h>
#include <linux/limits.h>
#undef BLOCK_SIZE

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs/fs_format.h"
#include "fs/fs_int.h"
#include "fs/xattr.h"
#include "tests/kit/failmem.h"
#include "tests/kit/fskit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

static const char long_name[] =
	"user."
	"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
	"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
	"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/* Everything a row may name: f a file, d a directory, l a symlink, p a fifo, i immutable, a append-only. */
static void make_tree(struct fskit *k)
{
	struct fs_entry e;

	assert_int_equal(fskit_create(k, "f"), 0);
	assert_int_equal(fskit_create(k, "i"), 0);
	assert_int_equal(fskit_create(k, "a"), 0);
	assert_int_equal(fskit_mkdir(k, "d"), 0);
	assert_int_equal(fs_symlink(k->fs, &fskit_root, "f", FS_ROOT, "l", &e), 0);
	fs_forget(k->fs, e.node, 1);
	assert_int_equal(fs_mknod(k->fs, &fskit_root, FS_ROOT, "p", S_IFIFO | 0666, 0, &e), 0);
	fs_forget(k->fs, e.node, 1);
	for (const char *path = "fia"; *path; path++)
		assert_int_equal(fs_setxattr(k->fs, fskit_node(k, (char[]){ *path, 0 }), "user.old", "1", 1, 0, false),
				 0);
	assert_int_equal(fs_setflags(k->fs, fskit_node(k, "i"), FS_IMMUTABLE_FL), 0);
	assert_int_equal(fs_setflags(k->fs, fskit_node(k, "a"), FS_APPEND_FL), 0);
}

struct row {
	const char *says, *path, *name;
	size_t size;
	int flags;
	int set, get, remove; /* the results, one after the other */
};

static const struct row rows[] = {
	{ "user_on_a_file", "f", "user.x", 3, 0, 0, 0, 0 },
	{ "user_on_a_directory", "d", "user.x", 3, 0, 0, 0, 0 },
	{ "user_on_a_symlink", "l", "user.x", 3, 0, -EPERM, -ENODATA, -EPERM },
	{ "user_on_a_fifo", "p", "user.x", 3, 0, -EPERM, -ENODATA, -EPERM },
	{ "trusted_on_a_symlink", "l", "trusted.x", 3, 0, 0, 0, 0 },
	{ "security_on_a_fifo", "p", "security.x", 3, 0, 0, 0, 0 },
	{ "an_empty_value", "f", "user.x", 0, 0, 0, 0, 0 },
	{ "the_largest_value", "f", "user.x", FS_XATTR_SIZE_MAX, 0, 0, 0, 0 },
	{ "a_value_too_large", "f", "user.x", FS_XATTR_SIZE_MAX + 1, 0, -E2BIG, -ENODATA, -ENODATA },
	{ "the_longest_name", "f", long_name, 3, 0, 0, 0, 0 },
	{ "no_name", "f", "", 3, 0, -ERANGE, -ERANGE, -ERANGE },
	{ "a_namespace_alone", "f", "user.", 3, 0, -EINVAL, -EINVAL, -EINVAL },
	{ "a_namespace_without_dot", "f", "user", 3, 0, -EOPNOTSUPP, -EOPNOTSUPP, -EOPNOTSUPP },
	{ "an_unknown_namespace", "f", "arbor.x", 3, 0, -EOPNOTSUPP, -EOPNOTSUPP, -EOPNOTSUPP },
	{ "something_else_of_system", "f", "system.x", 3, 0, -EOPNOTSUPP, -EOPNOTSUPP, -EOPNOTSUPP },
	{ "acls_where_they_are_off", "f", "system.posix_acl_access", 3, 0, -EOPNOTSUPP, -EOPNOTSUPP, -EOPNOTSUPP },
	{ "create_what_is_new", "f", "user.x", 3, XATTR_CREATE, 0, 0, 0 },
	{ "create_what_is_there", "f", "user.old", 3, XATTR_CREATE, -EEXIST, 0, 0 },
	{ "replace_what_is_new", "f", "user.x", 3, XATTR_REPLACE, -ENODATA, -ENODATA, -ENODATA },
	{ "replace_what_is_there", "f", "user.old", 3, XATTR_REPLACE, 0, 0, 0 },
	{ "an_unknown_flag", "f", "user.x", 3, 4, -EINVAL, -ENODATA, -ENODATA },
	{ "an_immutable_file", "i", "user.old", 3, 0, -EPERM, 0, -EPERM },
	{ "an_append_only_file", "a", "user.old", 3, 0, -EPERM, 0, -EPERM },
	{ "the_root", "", "user.x", 3, 0, 0, 0, 0 },
};

static void fill(uint8_t *buf, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i++)
		buf[i] = (uint8_t)(rng_mix(seed, i >> 2) >> (8 * (i & 3)));
}

static void a_row(void **state)
{
	const struct row *r = *state;
	uint8_t *val = malloc(r->size + 1), *got = malloc(FS_XATTR_SIZE_MAX + 1);
	struct fskit k;
	uint64_t node;
	size_t len = 99;

	fskit_init(&k, NULL);
	make_tree(&k);
	node = fskit_node(&k, r->path);
	assert_true(node);
	fill(val, r->size, 1);
	assert_int_equal(fs_setxattr(k.fs, node, r->name, val, r->size, r->flags, false), r->set);
	assert_int_equal(fs_getxattr(k.fs, node, r->name, got, FS_XATTR_SIZE_MAX, &len), r->get);
	if (!r->set && !r->get) {
		assert_int_equal(len, r->size);
		assert_memory_equal(got, val, len);
		assert_int_equal(fs_sync(k.fs), 0);
		fskit_reboot(&k, true);
		assert_int_equal(fs_getxattr(k.fs, node, r->name, got, FS_XATTR_SIZE_MAX, &len), 0);
		assert_memory_equal(got, val, r->size);
	}
	assert_int_equal(fs_removexattr(k.fs, node, r->name), r->remove);
	if (!r->remove)
		assert_int_equal(fs_getxattr(k.fs, node, r->name, got, FS_XATTR_SIZE_MAX, &len), -ENODATA);
	fskit_check(&k);
	fskit_release(&k);
	free(val);
	free(got);
}

static void buffers_that_are_too_small(void **state)
{
	char buf[64];
	struct fskit k;
	uint64_t f;
	size_t len = 0;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(fs_listxattr(k.fs, f, buf, sizeof(buf), &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(fs_setxattr(k.fs, f, "user.one", "12345", 5, 0, false), 0);
	assert_int_equal(fs_getxattr(k.fs, f, "user.one", NULL, 0, &len), 0);
	assert_int_equal(len, 5);
	assert_int_equal(fs_getxattr(k.fs, f, "user.one", buf, 4, &len), -ERANGE);
	assert_int_equal(fs_getxattr(k.fs, f, "user.one", buf, 5, &len), 0);
	assert_int_equal(fs_listxattr(k.fs, f, NULL, 0, &len), 0);
	assert_int_equal(len, 9);
	assert_int_equal(fs_listxattr(k.fs, f, buf, 8, &len), -ERANGE);
	assert_int_equal(fs_listxattr(k.fs, f, buf, 9, &len), 0);
	assert_memory_equal(buf, "user.one", 9);
	assert_int_equal(fs_getxattr(k.fs, 4711, "user.one", buf, 5, &len), -ESTALE);
	assert_int_equal(fs_setxattr(k.fs, 4711, "user.one", buf, 5, 0, false), -ESTALE);
	assert_int_equal(fs_listxattr(k.fs, 4711, buf, 5, &len), -ESTALE);
	fskit_release(&k);
}

static void the_time_of_change_moves_and_nothing_else(void **state)
{
	struct fs_entry a, b;
	struct fskit k;
	uint64_t f;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(fs_getattr(k.fs, f, &a), 0);
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", "1", 1, 0, false), 0);
	assert_int_equal(fs_getattr(k.fs, f, &b), 0);
	assert_true(b.st.st_ctim.tv_sec > a.st.st_ctim.tv_sec);
	a.st.st_ctim = b.st.st_ctim;
	assert_memory_equal(&a.st, &b.st, sizeof(a.st));
	assert_int_equal(fs_removexattr(k.fs, f, "user.x"), 0);
	assert_int_equal(fs_getattr(k.fs, f, &a), 0);
	assert_true(a.st.st_ctim.tv_sec > b.st.st_ctim.tv_sec);
	fskit_release(&k);
}

/* Names are refused while the list could still be returned whole. */
static void the_list_never_becomes_too_long(void **state)
{
	char name[256], *list = malloc(XATTR_LIST_MAX);
	unsigned n = 0;
	struct fskit k;
	size_t len;
	uint64_t f;
	int err;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	do {
		snprintf(name, sizeof(name), "%.*s%06u", 249, long_name, n);
		err = fs_setxattr(k.fs, f, name, "v", 1, 0, false);
		n += !err;
	} while (!err);
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(n, XATTR_LIST_MAX / 256);
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", "v", 1, 0, false), -ENOSPC);
	assert_int_equal(fs_listxattr(k.fs, f, list, XATTR_LIST_MAX, &len), 0);
	assert_int_equal(len, n * 256);
	/* What is there can be changed, and room made. */
	snprintf(name, sizeof(name), "%.*s%06u", 249, long_name, 7);
	assert_int_equal(fs_setxattr(k.fs, f, name, "new", 3, 0, false), 0);
	assert_int_equal(fs_removexattr(k.fs, f, name), 0);
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", "v", 1, 0, false), 0);
	fskit_check(&k);
	fskit_release(&k);
	free(list);
}

static uint32_t state_of(struct fskit *k, uint64_t node)
{
	struct inode ino;

	assert_int_equal(inode_load(store_live(k->fs->store), node_ino(node), &ino), 0);
	return ino.state;
}

static void the_inode_knows_whether_there_are_any(void **state)
{
	struct fskit k;
	uint64_t f;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(state_of(&k, f), 0);
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", "1", 1, 0, false), 0);
	assert_int_equal(fs_setxattr(k.fs, f, "user.y", "1", 1, 0, false), 0);
	assert_int_equal(state_of(&k, f), FS_STATE_XATTRS);
	assert_int_equal(fs_removexattr(k.fs, f, "user.x"), 0);
	assert_int_equal(state_of(&k, f), FS_STATE_XATTRS);
	assert_int_equal(fs_removexattr(k.fs, f, "user.x"), -ENODATA);
	assert_int_equal(fs_removexattr(k.fs, f, "user.y"), 0);
	assert_int_equal(state_of(&k, f), 0);
	fskit_check(&k);
	fskit_release(&k);
}

/* Writing, truncating and changing the owner all take security.capability away, and only that. */
static void capabilities_go_with_a_write(void **state)
{
	struct fs_entry e;
	struct fskit k;
	uint64_t f;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", "1", 1, 0, false), 0);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t done;

		assert_int_equal(fs_setxattr(k.fs, f, "security.capability", "cap", 3, 0, false), 0);
		switch (i) {
		case 0:
			assert_int_equal(fs_write(k.fs, f, "data", 4, 0, FS_WRITE_KILL_PRIV), 0);
			break;
		case 1:
			assert_int_equal(fs_fallocate(k.fs, f, 0, 0, 100000), 0);
			break;
		case 2:
			assert_int_equal(fs_copy_range(k.fs, f, 0, f, 8192, 4096, &done), 0);
			break;
		default:
			assert_int_equal(fs_setattr(k.fs, f, FS_SET_UID, &(struct stat){ .st_uid = 9 }, &e), 0);
		}
		assert_int_equal(fs_getxattr(k.fs, f, "security.capability", NULL, 0, &len), -ENODATA);
		assert_int_equal(fs_getxattr(k.fs, f, "user.x", NULL, 0, &len), 0);
	}
	fskit_check(&k);
	fskit_release(&k);
}

static void they_go_with_the_file(void **state)
{
	uint8_t *val = calloc(1, 60000);
	struct fskit k;
	uint64_t before, f;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(fskit_create(&k, "g"), 0);
	before = fskit_free(&k);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", val, 60000, 0, false), 0);
	assert_int_equal(fs_setxattr(k.fs, f, "trusted.y", val, 60000, 0, false), 0);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	fskit_check(&k);
	fskit_remount(&k); /* addresses of nodes kept for later go back */
	assert_true(fskit_free(&k) + 3 >= before);
	fskit_release(&k);
	free(val);
}

/* ---- against a table ---- */

#define NAMES 24u
#define FILES 3u

struct value {
	bool there;
	size_t size;
	unsigned seed;
};

static void name_of(unsigned i, char *buf, size_t size)
{
	static const char *const spaces[] = { "user.", "trusted.", "security." };

	/* Of very different lengths. */
	snprintf(buf, size, "%s%u%.*s", spaces[i % 3], i, (int)(i * 9), long_name + 5);
}

static void compare(struct fskit *k, const uint64_t *node, struct value (*table)[NAMES])
{
	static uint8_t want[FS_XATTR_SIZE_MAX], got[FS_XATTR_SIZE_MAX];
	static char list[XATTR_LIST_MAX];
	char name[256];

	for (unsigned f = 0; f < FILES; f++) {
		size_t total = 0, len;

		for (unsigned i = 0; i < NAMES; i++) {
			const struct value *v = &table[f][i];
			int err;

			name_of(i, name, sizeof(name));
			err = fs_getxattr(k->fs, node[f], name, got, sizeof(got), &len);
			assert_int_equal(err, v->there ? 0 : -ENODATA);
			if (!v->there)
				continue;
			total += strlen(name) + 1;
			assert_int_equal(len, v->size);
			fill(want, v->size, v->seed);
			assert_memory_equal(got, want, len);
		}
		assert_int_equal(fs_listxattr(k->fs, node[f], list, sizeof(list), &len), 0);
		assert_int_equal(len, total);
		assert_int_equal(state_of(k, node[f]), total ? FS_STATE_XATTRS : 0);
	}
}

static void random_ones_are_what_was_set(void **state)
{
	static uint8_t buf[FS_XATTR_SIZE_MAX];
	static struct value table[FILES][NAMES];
	uint32_t node_size = *(const uint32_t *)*state;
	uint64_t node[FILES];
	struct fskit k;
	struct rng rng;
	char name[256];

	memset(table, 0, sizeof(table));
	rng_seed_env(&rng, 77 + node_size);
	fskit_init(&k, &(struct fskit_options){ .node_size = node_size, .blocks = 16384, .log_blocks = 512 });
	for (unsigned f = 0; f < FILES; f++) {
		name[0] = (char)('a' + f);
		name[1] = 0;
		assert_int_equal(fskit_create(&k, name), 0);
		node[f] = fskit_node(&k, name);
	}
	for (unsigned step = 0; step < 600; step++) {
		unsigned f = (unsigned)rng_below(&rng, FILES), i = (unsigned)rng_below(&rng, NAMES);
		struct value *v = &table[f][i];

		name_of(i, name, sizeof(name));
		if (rng_chance(&rng, 2, 5)) {
			assert_int_equal(fs_removexattr(k.fs, node[f], name), v->there ? 0 : -ENODATA);
			v->there = false;
		} else {
			v->there = true;
			v->size = rng_below(&rng, rng_chance(&rng, 1, 8) ? FS_XATTR_SIZE_MAX + 1 : 3000);
			v->seed = step;
			fill(buf, v->size, v->seed);
			assert_int_equal(fs_setxattr(k.fs, node[f], name, buf, v->size, 0, false), 0);
		}
		if (step % 100 == 50)
			fskit_remount(&k);
		if (step % 100 == 99) {
			assert_int_equal(fs_sync(k.fs), 0);
			fskit_reboot(&k, true);
			compare(&k, node, table);
		}
	}
	fskit_check(&k);
	fskit_remount(&k);
	compare(&k, node, table);
	fskit_release(&k);
}

/* A crash has all of a large value or nothing of it. */
static void a_crash_never_halves_a_value(void **state)
{
	static uint8_t val[2][FS_XATTR_SIZE_MAX], got[FS_XATTR_SIZE_MAX];
	static const size_t size[2] = { 50000, 20000 };
	unsigned seen[2] = { 0 };
	struct fskit k;
	uint64_t f;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 4096 });
	for (unsigned i = 0; i < 2; i++)
		fill(val[i], size[i], i + 5);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", val[0], size[0], 0, false), 0);
	assert_int_equal(fs_sync(k.fs), 0);
	uint64_t from = simdev_ops(k.disk);
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", val[1], size[1], 0, false), 0);
	assert_int_equal(fs_sync(k.fs), 0);
	for (uint64_t n = from; n <= simdev_ops(k.disk); n++) {
		struct simdev_crash c;
		struct simdev *after;

		simdev_crash_begin(&c, k.disk, n, 6, n);
		while ((after = simdev_crash_next(&c))) {
			struct fskit k2 = k;
			unsigned i;
			size_t len;

			k2.disk = after;
			fskit_mount(&k2);
			assert_int_equal(fs_getxattr(k2.fs, f, "user.x", got, sizeof(got), &len), 0);
			i = len == size[1];
			assert_int_equal(len, size[i]);
			assert_memory_equal(got, val[i], len);
			seen[i]++;
			fskit_check(&k2);
			fskit_release(&k2);
		}
		simdev_crash_end(&c);
	}
	assert_true(seen[0] && seen[1]);
	fskit_release(&k);
}

static void without_memory_nothing_changes(void **state)
{
	static uint8_t val[2][9000], got[9000];
	unsigned failed = 0;
	struct fskit k;
	uint64_t f;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	fill(val[0], sizeof(val[0]), 3);
	fill(val[1], sizeof(val[1]), 4);
	assert_int_equal(fskit_create(&k, "f"), 0);
	f = fskit_node(&k, "f");
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", val[0], 9000, 0, false), 0);
	for (uint64_t n = 1;; n++) {
		int err;

		failmem_start(n, FAILMEM_ONCE);
		err = fs_setxattr(k.fs, f, "user.x", val[1], 8000, 0, false);
		if (!failmem_stop() || !err) {
			assert_int_equal(err, 0);
			break;
		}
		assert_int_equal(err, -ENOMEM);
		failed++;
		assert_int_equal(fs_getxattr(k.fs, f, "user.x", got, sizeof(got), &len), 0);
		assert_int_equal(len, 9000);
		assert_memory_equal(got, val[0], len);
	}
	assert_true(failed > 1);
	for (uint64_t n = 1;; n++) {
		int err;

		failmem_start(n, FAILMEM_ONCE);
		err = fs_getxattr(k.fs, f, "user.x", got, sizeof(got), &len);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			break;
		}
		assert_int_equal(err, -ENOMEM);
	}
	assert_int_equal(len, 8000);
	assert_memory_equal(got, val[1], len);
	fskit_check(&k);
	fskit_release(&k);
}

int main(void)
{
	static const uint32_t node_sizes[] = { 4096, 16384 };
	struct CMUnitTest tests[ARRAY_LEN(rows) + 16];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].says, a_row, &rows[i]);
	tests[n++] = TEST_ROW("buffers_that_are_too_small", buffers_that_are_too_small, NULL);
	tests[n++] =
		TEST_ROW("the_time_of_change_moves_and_nothing_else", the_time_of_change_moves_and_nothing_else, NULL);
	tests[n++] = TEST_ROW("the_list_never_becomes_too_long", the_list_never_becomes_too_long, NULL);
	tests[n++] = TEST_ROW("the_inode_knows_whether_there_are_any", the_inode_knows_whether_there_are_any, NULL);
	tests[n++] = TEST_ROW("capabilities_go_with_a_write", capabilities_go_with_a_write, NULL);
	tests[n++] = TEST_ROW("they_go_with_the_file", they_go_with_the_file, NULL);
	tests[n++] = TEST_ROW("random_ones_in_small_nodes", random_ones_are_what_was_set, &node_sizes[0]);
	tests[n++] = TEST_ROW("random_ones_in_large_nodes", random_ones_are_what_was_set, &node_sizes[1]);
	tests[n++] = TEST_ROW("a_crash_never_halves_a_value", a_crash_never_halves_a_value, NULL);
	tests[n++] = TEST_ROW("without_memory_nothing_changes", without_memory_nothing_changes, NULL);
	return _cmocka_run_group_tests("xattr", tests, n, NULL, NULL);
}

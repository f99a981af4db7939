/*
 * t_control.c - the hidden directory .arbor: its nodes, and the text of status
 */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/control.h"
#include "tests/kit/fskit.h"
#include "tests/kit/test.h"

static const char *const about[] = { "source", "/srv/a.img", "mountpoint", "/mnt", "options", "ro\xff", NULL };

static void open_both(struct fskit *k, struct control **c)
{
	fskit_init(k, NULL);
	assert_int_equal(control_open(k->fs, about, c), 0);
}

static void release_both(struct fskit *k, struct control *c)
{
	control_close(c);
	fskit_release(k);
}

/* Looks up .arbor/status. */
static uint64_t status_node(struct control *c, struct fs_entry *ret)
{
	struct fs_entry dir;

	assert_int_equal(control_lookup(c, FS_ROOT, FS_CONTROL_NAME, &dir), 0);
	assert_true(control_is_node(dir.node));
	assert_int_equal(control_lookup(c, dir.node, "status", ret), 0);
	assert_true(control_is_node(ret->node));
	return ret->node;
}

static json_t *parse(struct control *c)
{
	json_t *json;
	char *text;

	assert_int_equal(control_status(c, &text), 0);
	assert_int_equal(text[strlen(text) - 1], '\n');
	json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(json);
	mem_free(text);
	return json;
}

static void nodes_of_the_tree_are_not_ours(void **state)
{
	(void)state;
	assert_false(control_is_node(FS_ROOT));
	assert_false(control_is_node((UINT64_C(1) << FS_VIEW_SHIFT) - 1));
	assert_false(control_is_node(UINT64_C(0xfffe) << FS_VIEW_SHIFT | 1));
	assert_true(control_is_node(FS_CONTROL_VIEW << FS_VIEW_SHIFT | 1));
}

static void status_says_what_it_should(void **state)
{
	/* Keys are for ever: a line here is never taken away. */
	static const char *const keys[] = {
		"mounted", "pid",   "source",	 "mountpoint", "options", "uuid",  "label",
		"state",   "error", "node_size", "space",      "inodes",  "log",   "checkpoint",
		"cache",   "data",  "views",	 "recovery",   "device",  "mount", "scrub",
	};
	struct control *c;
	struct fskit k;
	json_t *json;

	(void)state;
	open_both(&k, &c);
	assert_int_equal(fskit_create(&k, "file"), 0);
	json = parse(c);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!json_object_get(json, keys[i]))
			fail_msg("no key %s", keys[i]);
	assert_int_equal(json_object_size(json), ARRAY_LEN(keys));
	assert_true(json_is_true(json_object_get(json, "mounted")));
	assert_true(json_is_null(json_object_get(json, "error")));
	assert_string_equal(json_string_value(json_object_get(json, "state")), "read-write");
	assert_string_equal(json_string_value(json_object_get(json, "source")), "/srv/a.img");
	assert_string_equal(json_string_value(json_object_get(json, "options")), "ro?");
	assert_int_equal(strlen(json_string_value(json_object_get(json, "uuid"))), 36);
	assert_int_equal(json_integer_value(json_object_get(json, "node_size")), 4096);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "space"), "size")), 8192 * 4096);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "log"), "size")), 256 * 4096);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "inodes"), "used")), 2);
	assert_string_equal(json_string_value(json_object_get(json_object_get(json, "mount"), "cache")),
			    "writethrough");
	json_decref(json);
	release_both(&k, c);
}

static void a_failure_is_shown(void **state)
{
	struct control *c;
	struct fskit k;
	json_t *json;

	(void)state;
	open_both(&k, &c);
	simdev_add_fault(k.disk, &(struct simdev_fault){ .op = SIMDEV_WRITE });
	(void)fskit_create(&k, "file");
	assert_int_not_equal(fs_sync(k.fs), 0);
	json = parse(c);
	assert_string_equal(json_string_value(json_object_get(json, "state")), "failed");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "error"), "errno")), EIO);
	assert_non_null(json_string_value(json_object_get(json_object_get(json, "error"), "text")));
	json_decref(json);
	control_close(c);
	simdev_clear_faults(k.disk);
	fs_crash(k.fs);
	k.fs = NULL;
	fskit_release(&k);
}

static void each_lookup_is_a_text_of_its_own(void **state)
{
	struct fs_entry one, two, again;
	const void *data, *later;
	size_t len, later_len;
	struct control *c;
	struct fskit k;

	(void)state;
	open_both(&k, &c);
	status_node(c, &one);
	assert_int_equal(control_read(c, one.node, 0, 1 << 20, &data, &len), 0);
	assert_int_equal(one.st.st_size, len);
	assert_true(S_ISREG(one.st.st_mode));
	assert_int_equal(one.st.st_mode & 0777, 0444);

	assert_int_equal(fskit_create(&k, "file"), 0);
	status_node(c, &two);
	assert_int_not_equal(one.node, two.node);
	assert_int_equal(control_read(c, one.node, 0, 1 << 20, &later, &later_len), 0);
	assert_ptr_equal(data, later);
	assert_int_equal(len, later_len);
	assert_int_equal(control_read(c, two.node, 0, 1 << 20, &later, &later_len), 0);
	assert_true(len != later_len || memcmp(data, later, len));

	/* In pieces, and behind the end. */
	assert_int_equal(control_read(c, one.node, 10, 5, &later, &later_len), 0);
	assert_int_equal(later_len, 5);
	assert_memory_equal(later, (const char *)data + 10, 5);
	assert_int_equal(control_read(c, one.node, len, 5, &later, &later_len), 0);
	assert_int_equal(later_len, 0);
	assert_int_equal(control_read(c, one.node, UINT64_MAX, 5, &later, &later_len), 0);
	assert_int_equal(later_len, 0);

	control_forget(c, one.node, 1);
	assert_int_equal(control_getattr(c, one.node, &again), -ESTALE);
	assert_int_equal(control_read(c, one.node, 0, 5, &later, &later_len), -ESTALE);
	assert_int_equal(control_getattr(c, two.node, &again), 0);
	assert_int_equal(again.st.st_size, two.st.st_size);
	release_both(&k, c); /* what was not forgotten goes, too */
}

static void names_that_are_not_there(void **state)
{
	struct fs_entry dir, file, e;
	struct control *c;
	struct fskit k;

	(void)state;
	open_both(&k, &c);
	assert_int_equal(control_lookup(c, FS_ROOT, "other", &e), -ENOENT);
	assert_int_equal(control_lookup(c, FS_ROOT, FS_CONTROL_NAME, &dir), 0);
	assert_int_equal(control_lookup(c, dir.node, "other", &e), -ENOENT);
	status_node(c, &file);
	assert_int_equal(control_lookup(c, file.node, "x", &e), -ENOTDIR);
	assert_int_equal(control_lookup(c, dir.node, ".", &e), 0);
	assert_int_equal(e.node, dir.node);
	assert_int_equal(control_lookup(c, dir.node, "..", &e), 0);
	assert_int_equal(e.node, FS_ROOT);
	fs_forget(k.fs, FS_ROOT, 1);
	release_both(&k, c);
}

struct listing {
	char text[64];
	unsigned stop;
};

static int list(void *arg, const struct fs_dirent *d)
{
	struct listing *l = arg;
	size_t n = strlen(l->text);

	assert_int_equal(strlen(d->name), d->name_len);
	assert_null(d->entry);
	snprintf(l->text + n, sizeof(l->text) - n, "%s ", d->name);
	return l->stop && --l->stop == 0;
}

static void the_directory_lists_its_names(void **state)
{
	struct listing all = { "", 0 }, one = { "", 1 }, rest = { "", 0 }, none = { "", 0 };
	struct fs_entry dir, file;
	struct control *c;
	struct fskit k;

	(void)state;
	open_both(&k, &c);
	assert_int_equal(control_lookup(c, FS_ROOT, FS_CONTROL_NAME, &dir), 0);
	assert_int_equal(control_readdir(c, dir.node, 0, list, &all), 0);
	assert_string_equal(all.text, ". .. status scrub ");
	assert_int_equal(control_readdir(c, dir.node, 0, list, &one), 0);
	assert_string_equal(one.text, ". ");
	assert_int_equal(control_readdir(c, dir.node, 1, list, &rest), 0);
	assert_string_equal(rest.text, ".. status scrub ");
	assert_int_equal(control_readdir(c, dir.node, 4, list, &none), 0);
	assert_int_equal(control_readdir(c, dir.node, UINT64_MAX, list, &none), 0);
	assert_string_equal(none.text, "");
	status_node(c, &file);
	assert_int_equal(control_readdir(c, file.node, 0, list, &none), -ENOTDIR);
	release_both(&k, c);
}

static int tell(struct control *c, uint64_t node, const char *command)
{
	return control_write(c, node, command, strlen(command));
}

/* What the file says now: the value of a key. */
static json_t *scrub_says(struct control *c, struct fs_entry *ret)
{
	struct fs_entry dir;
	const void *text;
	json_t *json;
	size_t len;

	assert_int_equal(control_lookup(c, FS_ROOT, FS_CONTROL_NAME, &dir), 0);
	assert_int_equal(control_lookup(c, dir.node, "scrub", ret), 0);
	assert_int_equal(control_read(c, ret->node, 0, SIZE_MAX, &text, &len), 0);
	json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(json);
	return json;
}

static void the_scrub_is_told_what_to_do(void **state)
{
	static const struct {
		const char *command;
		int err;
	} rows[] = {
		{ "", -EINVAL },
		{ "star", -EINVAL },
		{ "start\n", 0 },
		{ "start rate=1000000000 from=20 resume", 0 },
		{ "start  rate=0 ", 0 },
		{ "start rate=", -EINVAL },
		{ "start rate=-1", -EINVAL },
		{ "start rate=1k", -EINVAL },
		{ "start rate=99999999999999999999", -EINVAL },
		{ "start from=281474976710656", -EINVAL },
		{ "start rate", -EINVAL },
		{ "start resume=1", -EINVAL },
		{ "start now", -EINVAL },
		{ "stop now", -EINVAL },
		{ "stop", 0 },
	};
	struct fs_entry scrub, status, e;
	char longest[200];
	struct control *c;
	struct fskit k;
	json_t *json;

	(void)state;
	open_both(&k, &c);
	json = scrub_says(c, &scrub);
	assert_string_equal(json_string_value(json_object_get(json, "state")), "none");
	assert_int_equal(json_array_size(json_object_get(json, "bad")), 0);
	json_decref(json);
	assert_int_equal(scrub.st.st_mode, S_IFREG | 0600);
	assert_int_equal(scrub.st.st_uid, geteuid());
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(tell(c, scrub.node, rows[i].command), rows[i].err);
	memset(longest, ' ', sizeof(longest));
	memcpy(longest, "start", 5);
	assert_int_equal(control_write(c, scrub.node, longest, sizeof(longest)), -EINVAL);
	longest[120] = '\n'; /* what stands behind is what was there before */
	memset(longest + 121, 'x', sizeof(longest) - 121);
	assert_int_equal(control_write(c, scrub.node, longest, sizeof(longest)), 0);
	json = scrub_says(c, &e);
	assert_string_equal(json_string_value(json_object_get(json, "state")), "done");
	assert_true(json_integer_value(json_object_get(json, "nodes")) > 0);
	json_decref(json);
	/* Only there. */
	status_node(c, &status);
	assert_int_equal(tell(c, status.node, "stop"), -EPERM);
	assert_int_equal(control_truncate(c, status.node, &e), -EPERM);
	assert_int_equal(control_truncate(c, scrub.node, &e), 0);
	assert_int_equal(e.st.st_size, 0);
	control_forget(c, scrub.node, 1);
	assert_int_equal(tell(c, scrub.node, "stop"), -EPERM);
	release_both(&k, c);
}

static void nodes_are_bounded(void **state)
{
	struct fs_entry dir, e;
	struct control *c;
	struct fskit k;
	uint64_t first = 0;
	unsigned n = 0;
	int err;

	(void)state;
	open_both(&k, &c);
	assert_int_equal(control_lookup(c, FS_ROOT, FS_CONTROL_NAME, &dir), 0);
	while (!(err = control_lookup(c, dir.node, "status", &e))) {
		first = first ? first : e.node;
		assert_true(++n < 100000);
	}
	assert_int_equal(err, -ENOMEM);
	control_forget(c, first, 1);
	assert_int_equal(control_lookup(c, dir.node, "status", &e), 0);
	release_both(&k, c);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_of_the_tree_are_not_ours),
		cmocka_unit_test(status_says_what_it_should),
		cmocka_unit_test(a_failure_is_shown),
		cmocka_unit_test(each_lookup_is_a_text_of_its_own),
		cmocka_unit_test(names_that_are_not_there),
		cmocka_unit_test(the_directory_lists_its_names),
		cmocka_unit_test(the_scrub_is_told_what_to_do),
		cmocka_unit_test(nodes_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

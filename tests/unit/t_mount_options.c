/*
 * The command line of mount.arbor: one row a case.
 */
#include <errno.h>
#include <string.h>

#include "fs/fuse_options.h"
#include "tests/kit/test.h"

struct row {
	const char *name;
	const char *list;  /* -o; NULL: none */
	const char *text;  /* mount_options_text; NULL: it must be refused */
	const char *error; /* a part of the message */
};

static const struct row rows[] = {
	{ "nothing is read-write, write-through, relatime", NULL, "rw,cache=writethrough,relatime", NULL },
	{ "an empty list is nothing", "", "rw,cache=writethrough,relatime", NULL },
	{ "empty elements are nothing", ",,ro,,", "ro,cache=writethrough,relatime", NULL },
	{ "ro", "ro", "ro,cache=writethrough,relatime", NULL },
	{ "the last one wins", "ro,rw,noatime,strictatime", "rw,cache=writethrough,strictatime", NULL },
	{ "writeback", "cache=writeback", "rw,cache=writeback,relatime", NULL },
	{ "writethrough again", "cache=writeback,cache=writethrough", "rw,cache=writethrough,relatime", NULL },
	{ "an unknown cache", "cache=fast", NULL, "must be writethrough or writeback" },
	{ "a cache without value", "cache", NULL, "needs a value" },
	{ "a cache with an empty value", "cache=", NULL, "needs a value" },
	{ "sizes", "cache_size=256M,buffer_size=1GiB",
	  "rw,cache=writethrough,relatime,cache_size=262144K,buffer_size=1048576K", NULL },
	{ "a size in bytes", "cache_size=1048576", "rw,cache=writethrough,relatime,cache_size=1024K", NULL },
	{ "a size too small", "cache_size=1K", NULL, "at least 1M" },
	{ "a size that is none", "cache_size=much", NULL, "must be a size" },
	{ "a negative size", "cache_size=-1M", NULL, "must be a size" },
	{ "a size past everything", "cache_size=99999999999T", NULL, "must be a size" },
	{ "a size with a tail", "cache_size=1Mx", NULL, "must be a size" },
	{ "commit", "commit=5", "rw,cache=writethrough,relatime,commit=5", NULL },
	{ "a part of a second", "commit=0.5", "rw,cache=writethrough,relatime,commit=0.5", NULL },
	{ "no time at all", "commit=0", NULL, "0.1 to 300" },
	{ "too long a time", "commit=301", NULL, "0.1 to 300" },
	{ "not a time", "commit=nan", NULL, "0.1 to 300" },
	{ "all switches", "acl,discard,nodiratime,noatime,allow_other",
	  "rw,cache=writethrough,noatime,nodiratime,acl,discard,allow_other", NULL },
	{ "all switches off again", "acl,discard,nodiratime,allow_other,noacl,nodiscard,diratime,noallow_other",
	  "rw,cache=writethrough,relatime", NULL },
	{ "a switch with a value", "ro=1", NULL, "takes no value" },
	{ "what fstab gives everyone",
	  "defaults,nofail,noauto,user,users,owner,group,_netdev,x-systemd.automount,X-mount.mkdir=0755,comment=a,"
	  "exec,suid,dev,async,user=joe,x-gvfs-show",
	  "rw,cache=writethrough,relatime", NULL },
	{ "an unknown option", "wrteback", NULL, "unknown option \"wrteback\"" },
	{ "an unknown option with a value", "fast=yes", NULL, "unknown option \"fast=yes\"" },
	{ "a name that begins like one", "rox", NULL, "unknown option" },
	{ "remount", "remount,ro", NULL, "remounting is not possible" },
	{ "transport", "transport=dev", "rw,cache=writethrough,relatime", NULL },
	{ "an unknown transport", "transport=pigeon", NULL, "auto, dev or uring" },
	{ "too many readers", "readers=65", NULL, "0 to 64" },
	{ "readers that are no number", "readers=x", NULL, "0 to 64" },
	{ "readers with a tail", "readers=2x", NULL, "0 to 64" },
};

static void parses_a_list(void **state)
{
	const struct row *row = *state;
	const char *argv[] = { "mount.arbor", "image", "dir", "-o", row->list, NULL };
	struct mount_options o;
	char error[MOUNT_ERROR_SIZE], text[512];
	int err = mount_options_parse(row->list ? 5 : 3, (char **)(uintptr_t)argv, &o, error);

	if (!row->text) {
		assert_int_equal(err, -EINVAL);
		assert_non_null(strstr(error, row->error));
		return;
	}
	assert_string_equal(error, "");
	assert_int_equal(err, 0);
	assert_string_equal(mount_options_text(&o, text, sizeof(text)), row->text);
	assert_string_equal(o.source, "image");
	assert_string_equal(o.mountpoint, "dir");
}

#define PARSE(...)                                                                                                     \
	({                                                                                                             \
		const char *argv[] = { "mount.arbor", __VA_ARGS__, NULL };                                             \
		mount_options_parse(ARRAY_LEN(argv) - 1, (char **)(uintptr_t)argv, &o, error);                         \
	})

static void arguments(void **state)
{
	struct mount_options o;
	char error[MOUNT_ERROR_SIZE];

	(void)state;
	assert_int_equal(PARSE("a", "b"), 0);
	assert_false(o.foreground || o.verbose || o.read_only || o.help);
	/* As mount(8) calls its helpers, and as people write it. */
	assert_int_equal(PARSE("a", "b", "-n", "-v", "-o", "ro"), 0);
	assert_true(o.verbose && o.read_only);
	assert_int_equal(PARSE("-f", "-o", "ro", "a", "-oacl", "b"), 0);
	assert_true(o.foreground && o.read_only && o.acl);
	assert_string_equal(o.source, "a");
	assert_string_equal(o.mountpoint, "b");
	assert_int_equal(PARSE("-r", "a", "b"), 0);
	assert_true(o.read_only);
	assert_int_equal(PARSE("-r", "-w", "a", "b"), 0);
	assert_false(o.read_only);
	assert_int_equal(PARSE("a", "b", "-t", "arbor", "-N", "/proc/1/ns/mnt"), 0);
	assert_int_equal(PARSE("--", "-a", "-b"), 0);
	assert_string_equal(o.source, "-a");
	assert_int_equal(PARSE("--help"), 0);
	assert_true(o.help);
	assert_int_equal(PARSE("-V"), 0);
	assert_true(o.version);
	assert_int_equal(PARSE("-d", "a", "b"), 0);
	assert_true(o.debug && o.foreground);

	assert_int_equal(PARSE("a"), -EINVAL);
	assert_non_null(strstr(error, "missing"));
	assert_int_equal(PARSE("a", "b", "c"), -EINVAL);
	assert_non_null(strstr(error, "too many"));
	assert_int_equal(PARSE("a", "b", "-x"), -EINVAL);
	assert_non_null(strstr(error, "unknown argument"));
	assert_int_equal(PARSE("a", "b", "-o"), -EINVAL);
	assert_non_null(strstr(error, "needs a value"));
}

static void sloppy_ignores_what_it_does_not_know(void **state)
{
	struct mount_options o;
	char error[MOUNT_ERROR_SIZE];

	(void)state;
	assert_int_equal(PARSE("a", "b", "-o", "vers=4,ro", "-s"), 0);
	assert_true(o.read_only);
	assert_int_equal(o.spin_us, MOUNT_SPIN_DEFAULT);
	/* But what it knows must be right. */
	assert_int_equal(PARSE("a", "b", "-s", "-o", "cache=fast"), -EINVAL);
}

static void a_list_adds_to_what_is_set(void **state)
{
	struct mount_options o = { .read_only = true };
	char error[MOUNT_ERROR_SIZE] = "";

	(void)state;
	assert_int_equal(mount_options_list("transport=uring,readers=3,threads=9,spin=40", &o, error), 0);
	assert_true(o.read_only);
	assert_int_equal(o.transport, MOUNT_URING);
	assert_int_equal(o.readers, 3);
	assert_int_equal(o.threads, 9);
	assert_int_equal(o.spin_us, 40);
	assert_int_equal(mount_options_list("nosuid,dev,nofuseblk,noexec,sync", &o, error), 0);
	assert_int_equal(o.suid, MOUNT_OFF);
	assert_int_equal(o.dev, MOUNT_ON);
	assert_int_equal(o.fuseblk, MOUNT_OFF);
	assert_true(o.noexec && o.sync);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 3] = {
		cmocka_unit_test(arguments),
		cmocka_unit_test(sloppy_ignores_what_it_does_not_know),
		cmocka_unit_test(a_list_adds_to_what_is_set),
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[3 + i] = TEST_ROW(rows[i].name, parses_a_list, &rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

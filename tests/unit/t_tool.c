/*
 * t_tool.c - the tools' helpers that need no device: sizes, numbers, uuids, lines of mountinfo
 */
#include <stdio.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/test.h"
#include "tools/mounts.h"
#include "tools/tool.h"

struct size_row {
	const char *name, *text;
	int err;
	uint64_t bytes;
};

static const struct size_row sizes[] = {
	{ "a plain number is bytes", "4096", 0, 4096 },
	{ "bytes can say so", "512B", 0, 512 },
	{ "zero is a size", "0", 0, 0 },
	{ "kilo", "16K", 0, 16384 },
	{ "small letters do", "16k", 0, 16384 },
	{ "mega", "3M", 0, UINT64_C(3) << 20 },
	{ "giga with its unit", "10GiB", 0, UINT64_C(10) << 30 },
	{ "tera", "2T", 0, UINT64_C(2) << 40 },
	{ "the largest", "9223372036854775807", 0, INT64_MAX },
	{ "one more is too many", "9223372036854775808", -ERANGE, 0 },
	{ "more than 64 bits", "99999999999999999999", -ERANGE, 0 },
	{ "a suffix that makes it too large", "8388608T", -ERANGE, 0 },
	{ "just not too large", "8388607T", 0, UINT64_C(8388607) << 40 },
	{ "nothing is no size", "", -EINVAL, 0 },
	{ "a suffix alone is none", "K", -EINVAL, 0 },
	{ "negative is none", "-1", -EINVAL, 0 },
	{ "a sign is none", "+1", -EINVAL, 0 },
	{ "a space in front is none", " 1", -EINVAL, 0 },
	{ "a fraction is none", "1.5G", -EINVAL, 0 },
	{ "an unknown suffix is none", "1X", -EINVAL, 0 },
	{ "two suffixes are none", "1KK", -EINVAL, 0 },
	{ "half a unit is none", "1Ki", -EINVAL, 0 },
	{ "hexadecimal is none", "0x10", -EINVAL, 0 },
};

static void size_is_parsed(void **state)
{
	const struct size_row *row = *state;
	uint64_t bytes = 77;

	assert_int_equal(tool_size_parse(row->text, &bytes), row->err);
	assert_int_equal(bytes, row->err ? 77 : row->bytes);
}

struct text_row {
	const char *name;
	uint64_t bytes;
	const char *text;
};

static const struct text_row texts[] = {
	{ "nothing", 0, "0 B" },
	{ "less than a kilobyte", 1023, "1023 B" },
	{ "a kilobyte", 1024, "1 KiB" },
	{ "a whole number has no fraction", UINT64_C(64) << 20, "64 MiB" },
	{ "a fraction is cut", 1024 + 1023, "1.9 KiB" },
	{ "half", (UINT64_C(3) << 30) / 2, "1.5 GiB" },
	{ "hundreds have no fraction", 150 * 1024 + 512, "150 KiB" },
	{ "the largest", UINT64_MAX, "15.9 EiB" },
};

static void size_is_shown(void **state)
{
	const struct text_row *row = *state;
	char buf[TOOL_SIZE_TEXT];

	assert_string_equal(tool_size_text(row->bytes, buf), row->text);
}

static void a_number_has_bounds(void **state)
{
	uint64_t n = 77;

	(void)state;
	assert_int_equal(tool_number_parse("5", 1, 10, &n), 0);
	assert_int_equal(n, 5);
	assert_int_equal(tool_number_parse("1", 1, 10, &n), 0);
	assert_int_equal(tool_number_parse("10", 1, 10, &n), 0);
	assert_int_equal(tool_number_parse("0", 1, 10, &n), -ERANGE);
	assert_int_equal(tool_number_parse("11", 1, 10, &n), -ERANGE);
	assert_int_equal(tool_number_parse("99999999999999999999", 0, UINT64_MAX, &n), -ERANGE);
	assert_int_equal(tool_number_parse("-1", 0, 10, &n), -EINVAL);
	assert_int_equal(tool_number_parse("5x", 0, 10, &n), -EINVAL);
	assert_int_equal(tool_number_parse("", 0, 10, &n), -EINVAL);
	assert_int_equal(n, 10);
}

static void a_uuid_comes_back_as_it_was(void **state)
{
	static const uint8_t zero[16];
	uint8_t uuid[16] = { 1 };
	char buf[TOOL_UUID_TEXT];

	(void)state;
	assert_int_equal(tool_uuid_parse("01234567-89AB-cdef-8123-456789abcdef", uuid), 0);
	assert_int_equal(uuid[0], 0x01);
	assert_int_equal(uuid[15], 0xef);
	assert_string_equal(tool_uuid_text(uuid, buf), "01234567-89ab-cdef-8123-456789abcdef");
	assert_int_equal(tool_uuid_parse("random", uuid), 0);
	assert_memory_equal(uuid, zero, 16);
	assert_int_equal(tool_uuid_parse("00000000-0000-0000-0000-000000000000", uuid), -ERANGE);
	assert_int_equal(tool_uuid_parse("01234567", uuid), -EINVAL);
	assert_int_equal(tool_uuid_parse("", uuid), -EINVAL);
}

struct mount_row {
	const char *name, *line;
	int err;
	bool ours;
	unsigned major, minor;
	const char *point, *source;
};

static const struct mount_row mounts[] = {
	{ "a mount of ours", "36 35 0:98 / /mnt rw,noatime shared:1 - fuse.arbor /srv/a.img rw,user_id=0\n", 0, true, 0,
	  98, "/mnt", "/srv/a.img" },
	{ "without optional fields", "36 35 0:98 / /mnt rw - fuse.arbor /srv/a.img rw", 0, true, 0, 98, "/mnt",
	  "/srv/a.img" },
	{ "with two of them", "36 35 8:17 / /mnt rw shared:1 master:2 - fuseblk.arbor /dev/sdb1 rw", 0, true, 8, 17,
	  "/mnt", "/dev/sdb1" },
	{ "escapes are undone", "36 35 0:98 / /a\\040b\\134c\\012d rw - fuse.arbor /x\\011y rw", 0, true, 0, 98,
	  "/a b\\c\nd", "/x\ty" },
	{ "a backslash that is no escape", "36 35 0:98 / /a\\9b\\04 rw - fuse.arbor x rw", 0, true, 0, 98, "/a\\9b\\04",
	  "x" },
	{ "another filesystem", "36 35 8:1 / / rw - ext4 /dev/sda1 rw", 0, false, 8, 1, "/", "/dev/sda1" },
	{ "another FUSE filesystem", "36 35 0:9 / /m rw - fuse.sshfs host: rw", 0, false, 0, 9, "/m", "host:" },
	{ "no dash", "36 35 0:98 / /mnt rw shared:1 fuse.arbor x rw", -EINVAL, false, 0, 0, NULL, NULL },
	{ "cut after the type", "36 35 0:98 / /mnt rw - fuse.arbor", -EINVAL, false, 0, 0, NULL, NULL },
	{ "cut in front of the dash", "36 35 0:98 /", -EINVAL, false, 0, 0, NULL, NULL },
	{ "no numbers", "36 35 x / /mnt rw - fuse.arbor x rw", -EINVAL, false, 0, 0, NULL, NULL },
	{ "nothing", "", -EINVAL, false, 0, 0, NULL, NULL },
};

static void mountinfo_is_parsed(void **state)
{
	const struct mount_row *row = *state;
	struct mount_info m;
	char line[256];

	snprintf(line, sizeof(line), "%s", row->line);
	assert_int_equal(mount_info_parse(line, &m), row->err);
	if (row->err)
		return;
	assert_int_equal(mount_info_is_ours(&m), row->ours);
	assert_int_equal(m.major, row->major);
	assert_int_equal(m.minor, row->minor);
	assert_string_equal(m.root, "/");
	assert_string_equal(m.point, row->point);
	assert_string_equal(m.source, row->source);
}

/* What the engine says while somebody listens is not seen, and the first line is remembered. */
static void listening_keeps_the_first_line(void **state)
{
	(void)state;
	tool_init("t_tool");
	tool_listen_begin();
	err_log(LOG_INFO, "not this");
	err_log(LOG_ERROR, "first %d", 1);
	err_log(LOG_ERROR, "second");
	assert_string_equal(tool_listen_end(), "first 1");
	tool_listen_begin();
	assert_string_equal(tool_listen_end(), "");
	err_set_sink(NULL, NULL);
}

static void damage_is_told_from_failure(void **state)
{
	(void)state;
	assert_true(tool_is_damage(-EUCLEAN));
	assert_true(tool_is_damage(-EBADMSG));
	assert_false(tool_is_damage(-EIO));
	assert_false(tool_is_damage(-ENOMEM));
	assert_false(tool_is_damage(0));
}

#define PLAIN 4u

int main(void)
{
	struct CMUnitTest tests[PLAIN + ARRAY_LEN(sizes) + ARRAY_LEN(texts) + ARRAY_LEN(mounts)] = {
		cmocka_unit_test(a_number_has_bounds),
		cmocka_unit_test(a_uuid_comes_back_as_it_was),
		cmocka_unit_test(listening_keeps_the_first_line),
		cmocka_unit_test(damage_is_told_from_failure),
	};
	size_t n = PLAIN;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		tests[n++] = TEST_ROW(sizes[i].name, size_is_parsed, &sizes[i]);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		tests[n++] = TEST_ROW(texts[i].name, size_is_shown, &texts[i]);
	for (size_t i = 0; i < ARRAY_LEN(mounts); i++)
		tests[n++] = TEST_ROW(mounts[i].name, mountinfo_is_parsed, &mounts[i]);
	return _cmocka_run_group_tests("tool", tests, n, NULL, NULL);
}

#include <stdio.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/test.h"

static char seen[2048];
static enum log_level seen_level;
static int lines;

static void remember(void *arg, enum log_level level, const char *line)
{
	assert_ptr_equal(arg, &lines);
	seen_level = level;
	snprintf(seen, sizeof(seen), "%s", line);
	lines++;
}

static int with_sink(void **state)
{
	(void)state;
	lines = 0;
	err_set_sink(remember, &lines);
	return 0;
}

static int without_sink(void **state)
{
	(void)state;
	err_set_sink(NULL, NULL);
	return 0;
}

static void a_line_reaches_the_sink_with_its_level(void **state)
{
	(void)state;
	err_log(LOG_WARNING, "%d of %s", 3, "four");
	assert_int_equal(lines, 1);
	assert_int_equal(seen_level, LOG_WARNING);
	assert_string_equal(seen, "3 of four");
}

static void logging_leaves_errno_alone(void **state)
{
	(void)state;
	errno = ERANGE;
	err_log(LOG_INFO, "x");
	assert_int_equal(errno, ERANGE);
}

static void a_long_line_is_cut(void **state)
{
	char text[4096];

	(void)state;
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	err_log(LOG_ERROR, "%s", text);
	assert_int_equal(strlen(seen), 1023);
}

static void corruption_is_told_in_the_fixed_grammar(void **state)
{
	(void)state;
	assert_int_equal(corrupt("node", 77, "level", 3, 2), -EUCLEAN);
	assert_int_equal(seen_level, LOG_ERROR);
	assert_memory_equal(seen, "corrupt node: 77, level, got 3, want 2 (", 40);
	assert_non_null(strstr(seen, "tests/unit/t_err.c:"));
	assert_int_equal(lines, 1);
}

static void a_bad_checksum_has_an_error_of_its_own(void **state)
{
	(void)state;
	assert_int_equal(bad_checksum("segment", 5, "sum", UINT64_MAX, 0), -EBADMSG);
	assert_non_null(strstr(seen, "corrupt segment: 5, sum, got 18446744073709551615, want 0"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, with_sink, without_sink)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_line_reaches_the_sink_with_its_level),
		T(logging_leaves_errno_alone),
		T(a_long_line_is_cut),
		T(corruption_is_told_in_the_fixed_grammar),
		T(a_bad_checksum_has_an_error_of_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test.h - cmocka, with what it forgets to include, and rows as tests
 *
 * Names are sentences. A table-driven test gives each row its name: fill a struct CMUnitTest with TEST_ROW.
 */
#ifndef ARBOR_TESTS_KIT_TEST_H
#define ARBOR_TESTS_KIT_TEST_H

/* In this order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* One test of a table: *state is the row. */
#define TEST_ROW(row_name, func, row)                                                                             \
	(struct CMUnitTest)                                                                                       \
	{                                                                                                         \
		.name = (row_name), .test_func = (func), .initial_state = (void *)(uintptr_t)(row)                \
	}

#endif

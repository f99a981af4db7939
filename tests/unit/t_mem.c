#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/types.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"

static void blocks_are_aligned(void **state)
{
	(void)state;
	for (size_t n = 1; n < 20; n++) {
		void *p = mem_alloc_blocks(n * BLOCK_SIZE);

		assert_int_equal((uintptr_t)p % BLOCK_SIZE, 0);
		mem_free(p);
	}
}

static void an_array_too_large_is_refused(void **state)
{
	(void)state;
	assert_null(mem_zalloc_array(SIZE_MAX / 2, 3));
}

static void a_grown_array_keeps_its_elements(void **state)
{
	uint32_t *array = NULL;
	size_t cap = 0;

	(void)state;
	for (uint32_t i = 0; i < 1000; i++) {
		assert_int_equal(mem_grow((void **)&array, &cap, i + 1, sizeof(*array)), 0);
		assert_true(cap > i);
		array[i] = i;
	}
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(array[i], i);
	mem_free(array);
}

static void growing_past_all_memory_changes_nothing(void **state)
{
	uint64_t *array = NULL;
	size_t cap = 0;
	uint64_t *before;
	size_t cap_before;

	(void)state;
	assert_int_equal(mem_grow((void **)&array, &cap, 4, sizeof(*array)), 0);
	before = array;
	cap_before = cap;
	assert_int_equal(mem_grow((void **)&array, &cap, SIZE_MAX, sizeof(*array)), -ENOMEM);
	assert_int_equal(mem_grow((void **)&array, &cap, SIZE_MAX / 4, sizeof(*array)), -ENOMEM);
	failmem_start(1, FAILMEM_ONCE);
	assert_int_equal(mem_grow((void **)&array, &cap, 100, sizeof(*array)), -ENOMEM);
	assert_true(failmem_stop());
	assert_ptr_equal(array, before);
	assert_int_equal(cap, cap_before);
	mem_free(array);
}

static void *zalloc_array(size_t n)
{
	return mem_zalloc_array(n, 1);
}

static void *realloc_null(size_t n)
{
	return mem_realloc(NULL, n);
}

static void *strdup_x(size_t n)
{
	(void)n;
	return mem_strdup("x");
}

struct row {
	const char *name;
	void *(*alloc)(size_t bytes);
};

static const struct row doors[] = {
	{ "mem_alloc_fails_on_command", mem_alloc },
	{ "mem_zalloc_fails_on_command", mem_zalloc },
	{ "mem_zalloc_array_fails_on_command", zalloc_array },
	{ "mem_realloc_fails_on_command", realloc_null },
	{ "mem_alloc_blocks_fails_on_command", mem_alloc_blocks },
	{ "mem_strdup_fails_on_command", strdup_x },
};

static void fails_on_command(void **state)
{
	const struct row *row = *state;
	void *p;

	failmem_start(2, FAILMEM_ONCE);
	p = row->alloc(10);
	assert_non_null(p);
	mem_free(p);
	assert_null(row->alloc(10));
	p = row->alloc(10);
	assert_non_null(p);
	mem_free(p);
	assert_true(failmem_stop());
	assert_int_equal(failmem_count(), 3);

	failmem_start(1, FAILMEM_FROM_THEN_ON);
	assert_null(row->alloc(10));
	assert_null(row->alloc(10));
	assert_true(failmem_stop());

	failmem_start(0, FAILMEM_ONCE);
	p = row->alloc(10);
	assert_non_null(p);
	mem_free(p);
	assert_false(failmem_stop());
}

int main(void)
{
	struct CMUnitTest tests[4 + ARRAY_LEN(doors)] = {
		cmocka_unit_test(blocks_are_aligned),
		cmocka_unit_test(an_array_too_large_is_refused),
		cmocka_unit_test(a_grown_array_keeps_its_elements),
		cmocka_unit_test(growing_past_all_memory_changes_nothing),
	};

	for (size_t i = 0; i < ARRAY_LEN(doors); i++)
		tests[4 + i] = TEST_ROW(doors[i].name, fails_on_command, &doors[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

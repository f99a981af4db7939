/* t_file_memory.c - one allocation after the other fails: each call on a file happens, or does not */
#include <errno.h>

#include "fs/fs_int.h"
#include "tests/kit/failmem.h"
#include "tests/kit/filekit.h"
#include "tests/kit/test.h"

#define B 4096u
#define CAP (1u << 20)

enum call { WRITE, APPEND, CUT, CLAIM, READ };

struct memory_row {
	const char *name;
	size_t before; /* bytes in the file */
	enum call call;
	size_t off, len; /* CUT: off is the size. CLAIM: up to len */
};

static const struct memory_row rows[] = {
	{ "a_first_small_write", 0, WRITE, 0, 100 },
	{ "a_write_that_outgrows_inline_data", 100, WRITE, 3 * B, 2 * B + 10 },
	{ "an_append_of_a_part_of_a_block", 2 * B + 10, APPEND, 0, 300 },
	{ "an_append_of_blocks", 4 * B, APPEND, 0, 3 * B },
	{ "a_write_into_the_middle", 8 * B, WRITE, B + 100, 5 * B },
	{ "a_promise_behind_inline_data", 100, CLAIM, 0, 9 * B },
	{ "a_promise_behind_blocks", 3 * B, CLAIM, 0, 9 * B },
	{ "a_cut_of_inline_data", 100, CUT, 50, 0 },
	{ "a_cut_inside_a_block", 8 * B, CUT, 5 * B + 1, 0 },
	{ "a_cut_to_nothing", 8 * B, CUT, 0, 0 },
	{ "a_read", 8 * B, READ, 100, 3 * B },
};

static int try(struct filekit *f, const struct memory_row *row, void *buf)
{
	const void *data;
	size_t len;

	switch (row->call) {
	case WRITE:
		return filekit_write(f, row->off, row->len);
	case APPEND:
		return filekit_append(f, row->len);
	case CUT:
		return filekit_truncate(f, row->off);
	case CLAIM:
		return filekit_claim(f, row->off, row->len);
	case READ:
		return fs_read(f->k->fs, f->node, row->off, row->len, buf, &data, &len);
	}
	return -EINVAL;
}

/* How many calls failed. Cold: the tree's nodes have to be read as well. */
static unsigned without_memory(const struct memory_row *row, bool cold, enum failmem_mode mode)
{
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(CAP));
	struct filekit f;
	struct fskit k;
	unsigned n_failed = 0;
	bool failed = true;

	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_write(&f, 0, row->before), 0);
	for (uint64_t n = 1; failed; n++) {
		int err;

		if (cold)
			fskit_remount(&k);
		failmem_start(n, mode);
		err = try(&f, row, buf);
		failed = failmem_stop();
		n_failed += err != 0;
		if (err)
			assert_int_equal(err, -ENOMEM);
		assert_true(failed || !err);
		filekit_verify(&f); /* as it was, or as it is to be */
		if (failed && !err) {
			/* It could do without. From the beginning, for those that come after. */
			assert_int_equal(filekit_truncate(&f, 0), 0);
			assert_int_equal(filekit_write(&f, 0, row->before), 0);
		}
	}
	fskit_check(&k);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	fskit_check(&k);
	assert_int_equal(k.checked.data_blocks, 0);
	mem_free(buf);
	filekit_release(&f);
	fskit_release(&k);
	return n_failed;
}

static void memory(void **state)
{
	unsigned failed = 0;

	failed += without_memory(*state, false, FAILMEM_ONCE);
	failed += without_memory(*state, false, FAILMEM_FROM_THEN_ON);
	failed += without_memory(*state, true, FAILMEM_ONCE);
	failed += without_memory(*state, true, FAILMEM_FROM_THEN_ON);
	assert_true(failed > 0);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows)];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[i] = TEST_ROW(rows[i].name, memory, &rows[i]);
	return _cmocka_run_group_tests("file_memory", tests, ARRAY_LEN(tests), NULL, NULL);
}

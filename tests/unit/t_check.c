/*
 * t_check.c - every problem the check knows is told, and nothing beside it
 *
 * The rows are tests/kit/checkrows.c. Problems that come from damaged blocks are t_check_damage.c's.
 */
#include <assert.h>
#include <string.h>

#include "tests/kit/checkrows.h"
#include "tests/kit/test.h"

/* Items by hand: told in live, and once more for a snapshot that has the same. */
static void row_is_told(void **state)
{
	const struct checkrow *row = *state;
	struct checkkit f;
	uint64_t id;

	checkkit_init(&f, 0);
	row->damage(&f);
	ck_commit(&f);
	ck_check(&f);
	/* Whatever the items say, the structure below them is right. */
	f.opt.no_structure = false;
	ck_check(&f);
	if (!strcmp(row->name, "wrong_number_of_inodes"))
		goto out;
	assert_int_equal(snapshot_create(fs_store(f.k.fs), "snap", &id), 0);
	for (unsigned i = 0, n = f.n_want; i < n; i++)
		ck_want_in(&f, "snap", f.want[i].problem, f.want[i].ino,
			   f.want[i].path[0] == '-' ? NULL : f.want[i].path);
	ck_check(&f);
	assert_int_equal(f.result.views, 2);
out:
	checkkit_release(&f);
}

int main(void)
{
	static struct CMUnitTest tests[CHECKROWS_MAX];

	assert(n_checkrows <= CHECKROWS_MAX);
	for (size_t i = 0; i < n_checkrows; i++)
		tests[i] = TEST_ROW(checkrows[i].name, row_is_told, &checkrows[i]);
	return _cmocka_run_group_tests("check", tests, n_checkrows, NULL, NULL);
}

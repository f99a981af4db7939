#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/kit/simtrace.h"
#include "tests/kit/test.h"

/*
 * A trace in letters, a moment each: W and w, X and x, Y and y are the beginning and the successful end of a write, of block 1, 2
 * and 3; a lower-case letter behind '!' is a failure. F f and G g are flushes. D d is a discard of block 1. The byte that a
 * write writes is its place in the text.
 */
struct row {
	const char *name, *trace;
	uint64_t crash;		  /* before this operation */
	unsigned open;		  /* what that crash decides about */
	uint8_t drop[3], keep[3]; /* blocks 1 to 3 with nothing of it, with all; ANY: not looked at */
};

#define ANY 255u

static const struct row rows[] = {
	{ "a write is open until a flush ends", "WwF", 1, 1, { 0 }, { 1 } },
	{ "a flush covers what had ended before it began", "WwFf", 2, 0, { 1 }, { 1 } },
	{ "right before its end a flush has covered nothing", "WwFf", 1, 1, { 0 }, { 1 } },
	{ "a flush does not cover what ends while it is under way", "WFwf", 2, 1, { 0 }, { 1 } },
	{ "nor what begins while it is", "FWwf", 2, 1, { 0 }, { 2 } },
	{ "nor what never ends", "WFf", 2, 1, { 0 }, { 1 } },
	{ "the second flush covers what the first did not", "WFwfGg", 3, 0, { 1 }, { 1 } },
	{ "two flushes at once cover what had ended before each", "WwFXxGfg", 3, 1, { 1, 0 }, { 1, 4 } },
	{ "and both", "WwFXxGfg", 4, 0, { 1, 4 }, { 1, 4 } },
	{ "a flush that failed covers nothing", "WwF!f", 2, 1, { 0 }, { 1 } },
	{ "a write that failed stays open", "W!wFf", 2, 1, { 0 }, { 1 } },
	{ "what lies behind an open write is covered", "WXxFf", 3, 1, { 0, 2 }, { 1, 2 } },
	{ "a second write to a block comes behind the first", "WwFfWw", 3, 1, { 1 }, { 5 } },
	{ "a crash in front of everything finds the base", "WwFf", 0, 0, { 0 }, { 0 } },
	{ "a discard may have happened or not", "WwFfDd", 3, 1, { 1 }, { ANY } },
	{ "a discard that failed did nothing", "WwFfD!d", 3, 0, { 1 }, { 1 } },
	{ "a block that was discarded can be written again", "WwFfDdWwGg", 5, 0, { 7 }, { 7 } },
};

static void put_record(FILE *f, struct simtrace_record r, uint8_t fill)
{
	uint8_t block[BLOCK_SIZE];

	assert_int_equal(fwrite(&r, sizeof(r), 1, f), 1);
	if (r.kind != SIMTRACE_WRITE)
		return;
	memset(block, fill, sizeof(block));
	assert_int_equal(fwrite(block, sizeof(block), 1, f), 1);
}

static void put_trace(const char *path, const char *text)
{
	static const char letters[] = "WXYFGDwxyfgd";
	static const enum simtrace_kind kinds[] = { SIMTRACE_WRITE,	SIMTRACE_WRITE,	    SIMTRACE_WRITE,
						    SIMTRACE_FLUSH,	SIMTRACE_FLUSH,	    SIMTRACE_DISCARD,
						    SIMTRACE_WRITE_END, SIMTRACE_WRITE_END, SIMTRACE_WRITE_END,
						    SIMTRACE_FLUSH_END, SIMTRACE_FLUSH_END, SIMTRACE_DISCARD_END };
	FILE *f = fopen(path, "w");
	uint64_t id[6], ids = 0;
	int err = 0;

	assert_non_null(f);
	for (size_t i = 0; text[i]; i++) {
		size_t at = (size_t)(strchr(letters, text[i]) - letters);
		struct simtrace_record r = { .stamp_ns = 100 * (i + 1) };

		if (text[i] == '!') {
			err = -5;
			continue;
		}
		r.kind = kinds[at];
		r.err = err;
		r.id = at < 6 ? ids : id[at - 6];
		if (at < 6)
			id[at] = ids++;
		if (at < 3 || at == 5) {
			r.addr = at < 3 ? at + 1 : 1;
			r.blocks = 1;
		}
		put_record(f, r, (uint8_t)(i + 1));
		err = 0;
	}
	fclose(f);
}

static void load(const char *text, struct simtrace *t)
{
	char path[] = "/tmp/t_simtrace-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	put_trace(path, text);
	assert_int_equal(simtrace_load(path, NULL, 1, t), 0);
	unlink(path);
}

static void expect(struct simtrace *t, const struct row *row, enum simdev_choice choice, const uint8_t *want)
{
	enum simdev_choice all[8];
	struct simdev *after;

	for (unsigned i = 0; i < ARRAY_LEN(all); i++)
		all[i] = choice;
	after = simdev_branch(t->disk, row->crash, all, 1);
	for (uint64_t addr = 1; addr <= 3; addr++) {
		uint8_t block[BLOCK_SIZE];

		simdev_peek(after, addr, block, 1);
		if (want[addr - 1] != ANY)
			assert_int_equal(block[0], want[addr - 1]);
	}
	simdev_free(after);
}

static void crash_row(void **state)
{
	const struct row *row = *state;
	struct simtrace t;

	load(row->trace, &t);
	assert_int_equal(simdev_unflushed(t.disk, row->crash), row->open);
	expect(&t, row, SIMDEV_DROP, row->drop);
	expect(&t, row, SIMDEV_KEEP, row->keep);
	simtrace_release(&t);
}

static void a_write_has_the_time_it_began_a_flush_the_time_it_ended(void **state)
{
	struct simtrace t;

	(void)state;
	load("WFwf", &t);
	assert_int_equal(simtrace_stamp(&t, 0), 100);
	assert_int_equal(simtrace_stamp(&t, 1), 400);
	assert_true(simtrace_stamp(&t, 2) == UINT64_MAX);
	simtrace_release(&t);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + 1];

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
		tests[i] = TEST_ROW(rows[i].name, crash_row, &rows[i]);
	tests[ARRAY_LEN(rows)] =
		(struct CMUnitTest)cmocka_unit_test(a_write_has_the_time_it_began_a_flush_the_time_it_ended);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

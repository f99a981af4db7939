/*
 * t_file_random.c - random changes of a few files, with crashes, against arrays of bytes
 *
 * What was synced survives; of what came after, a prefix does, over all files together.
 */
#include <errno.h>
#include <stdlib.h>

#include "btree/mem.h"
#include "tests/kit/filekit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define B 4096u

#define FILES 3u
#define RANDOM_CAP (1536u << 10)

enum change { WRITE, APPEND, CUT, CLAIM };

struct random_op {
	unsigned file;
	enum change op;
	size_t off, len;
};

struct random_run {
	struct fskit k;
	struct rng rng;
	struct filekit f[FILES];
	struct filekit base[FILES]; /* at the last sync: what a crash cannot take */
	struct random_op since[64]; /* done since, in order */
	unsigned n_since;
};

static size_t pick_size(struct rng *r)
{
	switch (rng_below(r, 6)) {
	case 0:
		return rng_range(r, 1, 100);
	case 1:
		return rng_range(r, 1, 3000);
	case 2:
		return B * rng_range(r, 1, 4);
	case 3:
		return rng_range(r, 1, 8 * B);
	case 4:
		return B * rng_range(r, 1, 40);
	default:
		return rng_chance(r, 1, 4) ? rng_range(r, 1, FS_IO_MAX) : B;
	}
}

static struct random_op pick(struct random_run *t)
{
	struct random_op op = { .file = (unsigned)rng_below(&t->rng, FILES) };
	struct filekit *f = &t->f[op.file];
	bool aligned = rng_chance(&t->rng, 1, 2);
	size_t reach = f->size + 10 * B < f->cap ? f->size + 10 * B : f->cap;

	switch (rng_below(&t->rng, 9)) {
	case 8:
		op.op = CLAIM;
		op.off = rng_below(&t->rng, reach / B) * B;
		op.len = op.off + B * rng_range(&t->rng, 1, 30);
		return op;
	case 0:
		op.op = CUT;
		op.off = rng_chance(&t->rng, 1, 6) ? 0 : rng_below(&t->rng, reach);
		if (aligned)
			op.off -= op.off % B;
		return op;
	case 1:
	case 2:
	case 3:
		op.op = APPEND;
		op.off = f->size;
		break;
	default:
		op.op = WRITE;
		op.off = rng_below(&t->rng, reach);
		if (aligned)
			op.off -= op.off % B;
	}
	op.len = pick_size(&t->rng);
	if (op.len > f->cap - op.off)
		op.len = f->cap - op.off;
	return op;
}

static void keep(struct random_run *t)
{
	for (unsigned i = 0; i < FILES; i++)
		filekit_copy(&t->base[i], &t->f[i]);
	t->n_since = 0;
}

static void do_op(struct random_run *t, const struct random_op *op)
{
	struct filekit *f = &t->f[op->file];
	int err = -EINVAL;

	switch (op->op) {
	case WRITE:
		err = filekit_write(f, op->off, op->len);
		break;
	case APPEND:
		err = filekit_append(f, op->len);
		break;
	case CUT:
		err = filekit_truncate(f, op->off);
		break;
	case CLAIM:
		err = filekit_claim(f, op->off, op->len);
		break;
	}
	assert_int_equal(err, 0);
	t->since[t->n_since++] = *op;
	if (t->n_since == ARRAY_LEN(t->since)) {
		assert_int_equal(fs_sync(t->k.fs), 0);
		keep(t);
	}
}

static void expect(struct filekit *f, const struct random_op *op)
{
	if (op->op == CUT)
		filekit_expect_truncate(f, op->off);
	else if (op->op != CLAIM)
		filekit_expect_write(f, op->off, op->len);
}

/* After a crash: the files are as they were after some of what was done since the last sync. */
static void find_prefix(struct random_run *t)
{
	for (unsigned i = 0; i < FILES; i++)
		filekit_copy(&t->f[i], &t->base[i]);
	for (unsigned n = 0;; n++) {
		bool right = true;

		for (unsigned i = 0; right && i < FILES; i++)
			right = filekit_right(&t->f[i]);
		if (right) {
			keep(t);
			return;
		}
		if (n == t->n_since)
			break;
		expect(&t->f[t->since[n].file], &t->since[n]);
	}
	fail_msg("after the crash the files are in no state they have been in");
}

static void random_run(uint64_t seed, uint32_t node_size, unsigned steps)
{
	static const char *const names[] = { "a", "b", "c" };
	static struct random_run t;

	t.n_since = 0;
	rng_seed_env(&t.rng, seed);
	fskit_init(&t.k, &(struct fskit_options){ .node_size = node_size });
	for (unsigned i = 0; i < FILES; i++) {
		filekit_init(&t.f[i], &t.k, names[i], RANDOM_CAP);
		t.base[i] = t.f[i];
		t.base[i].data = mem_zalloc(RANDOM_CAP);
	}
	assert_int_equal(fs_sync(t.k.fs), 0);
	for (unsigned n = 0; n < steps; n++) {
		struct random_op op = pick(&t);
		struct filekit *f = &t.f[rng_below(&t.rng, FILES)];
		size_t off = rng_below(&t.rng, f->size + 1), len = pick_size(&t.rng);

		do_op(&t, &op);
		assert_true(filekit_same(f, off, len));
		switch (rng_below(&t.rng, 40)) {
		case 0:
			fskit_remount(&t.k);
			keep(&t);
			break;
		case 1:
		case 2:
			fskit_reboot(&t.k, rng_chance(&t.rng, 1, 2));
			find_prefix(&t);
			break;
		case 3:
			assert_int_equal(store_tick(fs_store(t.k.fs)), 0);
			break;
		case 4:
			assert_int_equal(fs_sync(t.k.fs), 0);
			keep(&t);
			break;
		case 5:
			for (unsigned i = 0; i < FILES; i++)
				filekit_verify(&t.f[i]);
			break;
		default:
			break;
		}
	}
	for (unsigned i = 0; i < FILES; i++)
		filekit_verify(&t.f[i]);
	fskit_check(&t.k);
	for (unsigned i = 0; i < FILES; i++) {
		filekit_release(&t.f[i]);
		mem_free(t.base[i].data); /* the rest is shared */
	}
	fskit_release(&t.k);
}

struct random_row {
	const char *name;
	uint64_t seed;
	uint32_t node_size;
};

static const struct random_row random_rows[] = {
	{ "random_changes_and_crashes_small_nodes_1", 1, 4096 },
	{ "random_changes_and_crashes_small_nodes_2", 2, 4096 },
	{ "random_changes_and_crashes_large_nodes_3", 3, 16384 },
	{ "random_changes_and_crashes_large_nodes_4", 4, 16384 },
};

static void random_test(void **state)
{
	const struct random_row *row = *state;

	const char *steps = getenv("ARBOR_STEPS");

	random_run(row->seed, row->node_size, steps ? (unsigned)strtoul(steps, NULL, 10) : 400);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(random_rows)];

	for (size_t i = 0; i < ARRAY_LEN(random_rows); i++)
		tests[i] = TEST_ROW(random_rows[i].name, random_test, &random_rows[i]);
	return _cmocka_run_group_tests("file_random", tests, ARRAY_LEN(tests), NULL, NULL);
}

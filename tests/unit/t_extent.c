/* t_extent.c - the map of a file: replacing, joining, filling, bounds; against a plain array of blocks */
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/extent.h"
#include "fs/fs_int.h"
#include "tests/kit/filekit.h"
#include "tests/kit/rng.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define B 4096u
#define BLOCKS 96u /* of the files here */

/* ---- one replacement ---- */

/*
 * A file's map as a string, a letter a block: '.' hole, '-' claim, 'a'..'z' data, one letter for each piece that was put;
 * the same letter in a row are its blocks in order.
 */
struct map {
	struct fskit k;
	uint64_t ino;
	uint32_t gap; /* blocks left out behind each piece: with one, pieces are not neighbours on the device */
	struct {
		uint64_t addr;
		uint32_t sums[BLOCKS];
	} piece[26];
};

static void map_init(struct map *m, uint32_t node_size)
{
	*m = (struct map){ 0 };
	fskit_init(&m->k, &(struct fskit_options){ .node_size = node_size });
	assert_int_equal(fskit_create(&m->k, "f"), 0);
	m->ino = fskit_node(&m->k, "f");
}

static void begin(struct map *m, struct op *op, struct inode *i)
{
	assert_int_equal(op_begin(m->k.fs, m->ino, op), 0);
	op_lock(op, &m->ino, 1);
	assert_int_equal(inode_load(op->view, m->ino, i), 0);
}

static int end(struct op *op, struct inode *i)
{
	int err = inode_put(op->batch, i);

	if (!err)
		err = op_commit(op);
	op_end(op);
	return err;
}

/* Fresh blocks with a content of their own. */
static void take(struct map *m, struct op *op, char name, uint32_t blocks, struct extent_piece *ret)
{
	uint32_t *sums = m->piece[name - 'a'].sums;
	uint8_t *buf = mem_alloc_blocks((size_t)blocks * B);
	struct extent x;

	assert_int_equal(batch_alloc(op->batch, blocks + m->gap, false, &x), 0);
	assert_int_equal(x.blocks, blocks + m->gap);
	for (uint32_t i = 0; i < blocks; i++) {
		memset(buf + (size_t)i * B, name, B);
		buf[(size_t)i * B] = (uint8_t)i;
		sums[i] = data_checksum(buf + (size_t)i * B);
	}
	assert_int_equal(batch_data(op->batch, x.addr, blocks, buf, sums), 0);
	m->piece[name - 'a'].addr = x.addr;
	ret->addr = x.addr;
	ret->sums = sums;
}

/* Replaces the blocks from `from` on by what the letters say: new letters are taken, '-' claims, '.' is left out. */
static int put(struct map *m, uint32_t from, const char *text, bool join)
{
	struct extent_piece p[BLOCKS] = { 0 };
	size_t n = 0, len = strlen(text);
	struct inode i;
	struct op op;

	begin(m, &op, &i);
	op.join = join;
	for (size_t at = 0; at < len;) {
		size_t run = strspn(text + at, (char[]){ text[at], 0 });

		if (text[at] != '.') {
			p[n] = (struct extent_piece){ .from = (uint64_t)(from + at) * B, .blocks = (uint32_t)run };
			if (text[at] != '-')
				take(m, &op, text[at], (uint32_t)run, &p[n]);
			n++;
		}
		at += run;
	}
	assert_int_equal(extent_replace(&op, &i, (uint64_t)from * B, (uint64_t)(from + len) * B, p, n), 0);
	return end(&op, &i);
}

/* The first blocks of the file as letters, and in *ret_items what its items are. */
static void expect_map(struct map *m, const char *text)
{
	uint64_t blocks = 0, end_at = strlen(text) * (uint64_t)B;
	struct view *v = store_live(fs_store(m->k.fs));
	struct extent_walk *w;
	struct extent_map x;
	char got[BLOCKS + 1] = "";
	struct inode i;
	size_t n = 0;

	assert_int_equal(extent_walk_open(v, m->ino, 0, end_at, &w), 0);
	while (!extent_walk_next(w, &x)) {
		for (uint64_t at = x.from; at < x.to; at += B) {
			char c = x.kind == EXTENT_HOLE ? '.' : x.kind == EXTENT_CLAIM ? '-' : '?';
			uint64_t skip = (at - x.from) / B;

			for (unsigned p = 0; c == '?' && p < 26; p++)
				for (unsigned b = 0; b < BLOCKS && m->piece[p].addr; b++)
					if (x.addr + skip == m->piece[p].addr + b && x.sums[skip] == m->piece[p].sums[b])
						c = (char)('a' + p);
			got[n++] = c;
		}
	}
	extent_walk_close(w);
	assert_string_equal(got, text);
	assert_int_equal(extent_at(v, m->ino, end_at, &x), 0);
	assert_int_equal(x.kind, EXTENT_HOLE);
	assert_true(x.to == UINT64_MAX);
	for (; *text; text++)
		blocks += *text != '.';
	assert_int_equal(inode_load(v, m->ino, &i), 0);
	assert_int_equal(i.blocks, blocks);
}

static unsigned count_items(struct map *m)
{
	struct filekit f = { .k = &m->k, .node = m->ino };
	struct filekit_items n = filekit_items(&f);

	return n.data + n.claims;
}

struct replace_row {
	const char *name;
	const char *first; /* from block 0 on */
	uint32_t from;
	const char *put, *map;
	unsigned items;
};

static const struct replace_row replace_rows[] = {
	{ "into_nothing", "", 3, "aa", "...aa", 1 },
	{ "nothing_into_nothing", "", 3, "..", "", 0 },
	{ "behind_an_item", "aaa", 3, "bb", "aaabb", 2 },
	{ "in_front_of_an_item", "...aaa", 1, "bb", ".bbaaa", 2 },
	{ "the_whole_of_an_item", ".aaa", 1, "bbb", ".bbb", 1 },
	{ "the_front_of_an_item", "aaaa", 0, "bb", "bbaa", 2 },
	{ "the_back_of_an_item", "aaaa", 2, "bb", "aabb", 2 },
	{ "the_middle_of_an_item", "aaaaaa", 2, "bb", "aabbaa", 3 },
	{ "a_hole_in_the_middle_of_an_item", "aaaaaa", 2, "..", "aa..aa", 2 },
	{ "over_two_ends", "aaaabbbb", 2, "cccc", "aaccccbb", 3 },
	{ "over_two_ends_and_what_is_between", "aaaabbccdd.eeee", 2, "ffff.ggggg", "aaffff.gggggeee", 4 },
	{ "many_items_by_one", "aabbccddeeffgghh", 1, "iiiiiiiiiiiiii", "aiiiiiiiiiiiiiih", 3 },
	{ "many_items_by_nothing", "aabbccddeeffgghh", 1, "..............", "a..............h", 2 },
	{ "many_items_by_pieces_at_their_keys", "aabbccddeeffgghh", 2, "ii..jj..kk..", "aaii..jj..kk..hh", 5 },
	{ "one_block_at_an_items_key", "aabbcc", 2, "d", "aadbcc", 4 },
	{ "a_claim_by_data", "------", 2, "aa", "--aa--", 3 },
	{ "data_by_a_claim", "aaaaaa", 2, "--", "aa--aa", 3 },
	{ "a_claim_by_nothing", "------", 0, "..", "..----", 1 },
	{ "claims_are_joined", "--", 2, "---", "-----", 1 },
	{ "claims_with_a_gap_are_not", "--", 3, "---", "--.---", 2 },
	{ "a_claim_is_not_joined_to_data", "aa", 2, "--", "aa--", 2 },
	{ "an_item_far_behind_stays", "aa..........bb", 2, "ccc", "aaccc.......bb", 3 },
};

static void replace_on(const struct replace_row *row, uint32_t node_size)
{
	struct map m;

	map_init(&m, node_size);
	m.gap = 1;
	assert_int_equal(put(&m, 0, row->first, false), 0);
	expect_map(&m, row->first);
	assert_int_equal(put(&m, row->from, row->put, false), 0);
	expect_map(&m, row->map);
	assert_int_equal(count_items(&m), row->items);
	assert_int_equal(fs_sync(m.k.fs), 0);
	fskit_reboot(&m.k, true);
	expect_map(&m, row->map);
	assert_int_equal(store_check(fs_store(m.k.fs), &m.k.checked), 0);
	fskit_release(&m.k);
}

static void replace(void **state)
{
	replace_on(*state, 4096);
	replace_on(*state, 16384);
}

/* ---- random ---- */

/* What the map must be: for each block the letter's serial, and which of its blocks. */
struct ref_block {
	char kind; /* '.', '-', 'd' */
	uint64_t addr;
	uint32_t sum;
};

static void compare(struct map *m, const struct ref_block *ref, uint32_t from, uint32_t to)
{
	struct view *v = store_live(fs_store(m->k.fs));
	struct extent_walk *w;
	struct extent_map x;
	uint64_t claims = 0, n = 0;
	uint32_t at = from;

	assert_int_equal(extent_walk_open(v, m->ino, (uint64_t)from * B, (uint64_t)to * B, &w), 0);
	while (!extent_walk_next(w, &x)) {
		assert_int_equal(x.from, (uint64_t)at * B);
		for (uint64_t i = 0; x.from + i * B < x.to; i++, at++) {
			const struct ref_block *r = &ref[at];

			assert_int_equal(x.kind, r->kind == '.' ? EXTENT_HOLE : r->kind == '-' ? EXTENT_CLAIM : EXTENT_DATA);
			if (x.kind != EXTENT_DATA)
				continue;
			assert_int_equal(x.addr + i, r->addr);
			assert_int_equal(x.sums[i], r->sum);
		}
	}
	extent_walk_close(w);
	assert_int_equal(at, to);
	for (uint32_t i = from; i < to; i++)
		claims += ref[i].kind == '-';
	assert_int_equal(extent_claimed(v, m->ino, (uint64_t)from * B, (uint64_t)to * B, &n), 0);
	assert_int_equal(n, claims);
	assert_int_equal(extent_at(v, m->ino, (uint64_t)from * B + 7, &x), 0);
	assert_int_equal(x.kind, ref[from].kind == '.' ? EXTENT_HOLE : ref[from].kind == '-' ? EXTENT_CLAIM : EXTENT_DATA);
	assert_true(x.from <= (uint64_t)from * B && x.to > (uint64_t)from * B);
	if (x.kind == EXTENT_DATA)
		assert_int_equal(x.addr + from - x.from / B, ref[from].addr);
}

/* Pieces of all kinds into a range; clones are taken from the map itself. */
static void change(struct map *m, struct rng *rng, struct ref_block *ref)
{
	uint32_t from = (uint32_t)rng_below(rng, BLOCKS), to = from + 1 + (uint32_t)rng_below(rng, BLOCKS - from), n = 0;
	static struct ref_block next[BLOCKS];
	static uint32_t sums[BLOCKS][BLOCKS];
	struct extent_piece p[BLOCKS];
	struct inode i;
	struct op op;

	begin(m, &op, &i);
	op.join = rng_chance(rng, 1, 2);
	m->gap = rng_chance(rng, 1, 2);
	memcpy(next, ref, sizeof(next));
	for (uint32_t at = from; at < to;) {
		uint32_t len = 1 + (uint32_t)rng_below(rng, to - at > 12 ? 12 : to - at);
		unsigned what = (unsigned)rng_below(rng, 4);
		struct extent_map x;

		p[n] = (struct extent_piece){ .from = (uint64_t)at * B, .blocks = len };
		if (what == 0) { /* a hole */
			for (uint32_t j = 0; j < len; j++)
				next[at + j] = (struct ref_block){ .kind = '.' };
			at += len;
			continue;
		}
		if (what == 1) {
			for (uint32_t j = 0; j < len; j++)
				next[at + j] = (struct ref_block){ .kind = '-' };
		} else if (what == 2) {
			take(m, &op, 'a', len, &p[n]);
			memcpy(sums[n], p[n].sums, len * sizeof(uint32_t));
			p[n].sums = sums[n];
			for (uint32_t j = 0; j < len; j++)
				next[at + j] = (struct ref_block){ 'd', p[n].addr + j, sums[n][j] };
		} else {
			uint64_t src = rng_below(rng, BLOCKS) * B, skip;

			assert_int_equal(extent_at(op.view, m->ino, src, &x), 0);
			if (x.kind != EXTENT_DATA)
				continue;
			skip = (src - x.from) / B;
			if (len > (x.to - src) / B)
				len = (uint32_t)((x.to - src) / B);
			memcpy(sums[n], x.sums + skip, len * sizeof(uint32_t));
			p[n] = (struct extent_piece){ (uint64_t)at * B, len, x.addr + skip, x.birth, sums[n] };
			for (uint32_t j = 0; j < len; j++)
				next[at + j] = ref[src / B + j];
		}
		at += len;
		n++;
	}
	assert_int_equal(extent_replace(&op, &i, (uint64_t)from * B, (uint64_t)to * B, p, n), 0);
	assert_int_equal(end(&op, &i), 0);
	memcpy(ref, next, sizeof(next));
}

static void fill(struct map *m, struct rng *rng, struct ref_block *ref)
{
	uint32_t from = (uint32_t)rng_below(rng, BLOCKS), to = from + 1 + (uint32_t)rng_below(rng, BLOCKS - from);
	struct inode i;
	struct op op;

	begin(m, &op, &i);
	assert_int_equal(extent_fill(&op, &i, (uint64_t)from * B, (uint64_t)to * B), 0);
	assert_int_equal(end(&op, &i), 0);
	for (uint32_t j = from; j < to; j++)
		if (ref[j].kind == '.')
			ref[j].kind = '-';
}

static void random_on(uint64_t seed, uint32_t node_size)
{
	struct ref_block ref[BLOCKS];
	struct view *old = NULL;
	struct rng rng;
	struct map m;

	rng_seed_env(&rng, seed);
	map_init(&m, node_size);
	for (uint32_t i = 0; i < BLOCKS; i++)
		ref[i] = (struct ref_block){ .kind = '.' };
	for (unsigned n = 0; n < 600; n++) {
		uint32_t from = (uint32_t)rng_below(&rng, BLOCKS), to = from + 1 + (uint32_t)rng_below(&rng, BLOCKS - from);
		uint64_t blocks = 0;
		struct inode i;

		if (rng_chance(&rng, 1, 8))
			fill(&m, &rng, ref);
		else
			change(&m, &rng, ref);
		compare(&m, ref, from, to);
		switch (rng_below(&rng, 30)) {
		case 0: /* a new generation, and what it needs kept */
			view_close(old);
			assert_int_equal(view_freeze(fs_store(m.k.fs), &old), 0);
			break;
		case 1:
			assert_int_equal(store_check(fs_store(m.k.fs), &m.k.checked), 0);
			break;
		case 2:
			view_close(old);
			old = NULL;
			assert_int_equal(fs_sync(m.k.fs), 0);
			fskit_reboot(&m.k, rng_chance(&rng, 1, 2));
			break;
		default:
			break;
		}
		compare(&m, ref, 0, BLOCKS);
		assert_int_equal(inode_load(store_live(fs_store(m.k.fs)), m.ino, &i), 0);
		for (uint32_t j = 0; j < BLOCKS; j++)
			blocks += ref[j].kind != '.';
		assert_int_equal(i.blocks, blocks);
	}
	view_close(old);
	assert_int_equal(fskit_unlink(&m.k, "f"), 0);
	assert_int_equal(store_check(fs_store(m.k.fs), &m.k.checked), 0);
	assert_int_equal(m.k.checked.data_blocks, 0);
	fskit_release(&m.k);
}

struct random_row {
	const char *name;
	uint64_t seed;
	uint32_t node_size;
};

static const struct random_row random_rows[] = {
	{ "random_replacements_small_nodes_1", 1, 4096 },
	{ "random_replacements_small_nodes_2", 2, 4096 },
	{ "random_replacements_large_nodes_3", 3, 16384 },
};

static void random_test(void **state)
{
	const struct random_row *row = *state;

	random_on(row->seed, row->node_size);
}

/* ---- bounds, sizes ---- */

static void a_bound_counts_items(void **state)
{
	uint64_t to = 0;
	struct view *v;
	struct map m;

	(void)state;
	map_init(&m, 4096);
	v = store_live(fs_store(m.k.fs));
	assert_int_equal(extent_bound(v, m.ino, 0, UINT64_MAX, 1, &to), 0);
	assert_true(to == UINT64_MAX);
	m.gap = 1;
	assert_int_equal(put(&m, 0, "aa.bb.cc.dd", false), 0);
	for (unsigned items = 1; items <= 5; items++) {
		static const uint64_t want[] = { 3, 6, 9 };

		assert_int_equal(extent_bound(v, m.ino, 0, UINT64_MAX, items, &to), 0);
		assert_true(to == (items <= 3 ? want[items - 1] * B : UINT64_MAX));
	}
	/* The one that reaches into the range counts. */
	assert_int_equal(extent_bound(v, m.ino, B, UINT64_MAX, 1, &to), 0);
	assert_int_equal(to, 3 * B);
	assert_int_equal(extent_bound(v, m.ino, 2 * B, UINT64_MAX, 1, &to), 0);
	assert_int_equal(to, 6 * B);
	assert_int_equal(extent_bound(v, m.ino, B, 5 * B, 2, &to), 0);
	assert_int_equal(to, 5 * B);
	fskit_release(&m.k);
}

static void an_item_is_no_longer_than_its_node_allows(void **state)
{
	static const struct {
		uint32_t node_size, max;
	} rows[] = { { 4096, 255 }, { 16384, 256 } };

	(void)state;
	for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
		struct filekit f;
		struct fskit k;

		fskit_init(&k, &(struct fskit_options){ .node_size = rows[r].node_size });
		assert_in_range(extent_blocks_max(k.fs), 128, rows[r].max);
		assert_int_equal(extent_blocks_max(k.fs), k.fs->extent_blocks);
		filekit_init(&f, &k, "f", 4 << 20);
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(filekit_append(&f, FS_IO_MAX), 0);
		filekit_verify(&f);
		assert_in_range(filekit_items(&f).data, 1024 / extent_blocks_max(k.fs), 1024 / extent_blocks_max(k.fs) + 6);
		fskit_check(&k);
		filekit_release(&f);
		fskit_release(&k);
	}
}

static void a_claim_may_be_as_long_as_a_file(void **state)
{
	struct extent_map x;
	struct inode i;
	struct map m;
	struct op op;
	int err;

	(void)state;
	map_init(&m, 4096);
	begin(&m, &op, &i);
	assert_int_equal(extent_fill(&op, &i, 0, FS_SIZE_MAX), 0);
	assert_int_equal(i.blocks, FS_SIZE_MAX / B);
	err = end(&op, &i);
	assert_int_equal(err, -ENOSPC); /* the device has no room for the promise */
	expect_map(&m, "");

	/* Cutting long claims. */
	begin(&m, &op, &i);
	assert_int_equal(extent_fill(&op, &i, 100 * B, 1100 * B), 0);
	assert_int_equal(end(&op, &i), 0);
	begin(&m, &op, &i);
	assert_int_equal(extent_replace(&op, &i, 500 * B, 600 * B, NULL, 0), 0);
	assert_int_equal(end(&op, &i), 0);
	assert_int_equal(extent_at(store_live(fs_store(m.k.fs)), m.ino, 150 * B, &x), 0);
	assert_int_equal(x.from, 100 * B);
	assert_int_equal(x.to, 500 * B);
	assert_int_equal(extent_at(store_live(fs_store(m.k.fs)), m.ino, 550 * B, &x), 0);
	assert_int_equal(x.kind, EXTENT_HOLE);
	assert_int_equal(x.to, 600 * B);
	assert_int_equal(extent_at(store_live(fs_store(m.k.fs)), m.ino, 1099 * B, &x), 0);
	assert_int_equal(x.kind, EXTENT_CLAIM);
	assert_int_equal(x.from, 600 * B);
	assert_int_equal(store_check(fs_store(m.k.fs), &m.k.checked), 0);
	fskit_release(&m.k);
}

int main(void)
{
	static const struct CMUnitTest single[] = {
		cmocka_unit_test(a_bound_counts_items),
		cmocka_unit_test(an_item_is_no_longer_than_its_node_allows),
		cmocka_unit_test(a_claim_may_be_as_long_as_a_file),
	};
	struct CMUnitTest tests[ARRAY_LEN(replace_rows) + ARRAY_LEN(random_rows) + ARRAY_LEN(single)];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(replace_rows); i++)
		tests[n++] = TEST_ROW(replace_rows[i].name, replace, &replace_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(random_rows); i++)
		tests[n++] = TEST_ROW(random_rows[i].name, random_test, &random_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(single); i++)
		tests[n++] = single[i];
	return _cmocka_run_group_tests("extent", tests, n, NULL, NULL);
}

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node.h"
#include "btree/tree.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define SIZE 4096u

/* A node of its own memory. */
static struct node *node_new(uint32_t size, unsigned level)
{
	struct node *n = mem_zalloc(sizeof(*n));

	assert_non_null(n);
	n->buf = mem_alloc_blocks(size);
	assert_non_null(n->buf);
	memset(n->buf, 0xa5, size);
	n->size = (uint16_t)size;
	n->addr = 100;
	n->copy = 200;
	n->gen = 77;
	n->tree = TREE_FILES;
	n->level = (uint8_t)level;
	node_reset(n);
	return n;
}

static void node_free(struct node *n)
{
	mem_free(n->buf);
	mem_free(n);
}

static struct key key_of(uint64_t n)
{
	return (struct key){ n / 16, n % 16 };
}

static void quiet(void *arg, enum log_level level, const char *line)
{
	(void)level, (void)line;
	++*(unsigned *)arg;
}

static void put(struct node *n, uint64_t key, const void *val, uint16_t len)
{
	node_insert(n, node_search(n, key_of(key)), key_of(key), val, len);
}

/* ---- searching ---- */

static void search_finds_the_first_item_not_less(void **state)
{
	struct node *n = node_new(SIZE, 0);

	(void)state;
	assert_int_equal(node_search(n, key_of(5)), 0);
	for (unsigned count = 1; count < 100; count++) {
		put(n, count * 3, "x", 1);
		for (unsigned k = 0; k <= count * 3 + 1; k++) {
			assert_int_equal(node_search(n, key_of(k)), k == 0 ? 0 : (k + 2) / 3 - 1);
			assert_int_equal(node_has(n, node_search(n, key_of(k)), key_of(k)), k > 0 && k % 3 == 0);
		}
	}
	node_free(n);
}

static void a_child_is_found_by_the_range_its_key_begins(void **state)
{
	struct node *n = node_new(SIZE, 1);
	struct disk_ref d = ref_put((struct ref){ 5, 0, 1 });

	(void)state;
	node_insert(n, 0, KEY_MIN, &d, sizeof(d));
	for (unsigned count = 1; count < 80; count++) {
		node_insert(n, count, key_of(count * 3), &d, sizeof(d));
		for (unsigned k = 0; k <= count * 3 + 1; k++)
			assert_int_equal(node_child(n, key_of(k)), k / 3);
		assert_int_equal(node_child(n, KEY_MAX), count);
	}
	node_free(n);
}

/* ---- changing, against a model ---- */

struct model_item {
	bool there;
	uint16_t len;
	unsigned char val[1024];
};

#define MODEL_KEYS 300u

static void assert_is_model(const struct node *n, const struct model_item *m)
{
	unsigned at = 0;

	node_assert_valid(n);
	for (unsigned k = 0; k < MODEL_KEYS; k++) {
		if (!m[k].there)
			continue;
		assert_true(at < n->nr && key_equal(node_key(n, at), key_of(k)));
		assert_int_equal(node_len(n, at), m[k].len);
		assert_true(memcmp(node_val(n, at), m[k].val, m[k].len) == 0);
		at++;
	}
	assert_int_equal(at, n->nr);
}

/* The image verifies, and a node made of it has the same items. */
static void assert_image(const struct node *n)
{
	struct node *back = node_new(n->size, n->level);
	struct node *image = node_new(n->size, n->level);

	node_image(n, back->buf);
	assert_int_equal(node_check(back->buf, n->size, NULL), 0);
	node_adopt(back);
	assert_int_equal(back->nr, n->nr);
	assert_int_equal(back->val_bytes, n->val_bytes);
	for (unsigned i = 0; i < n->nr; i++) {
		assert_true(key_equal(node_key(n, i), node_key(back, i)));
		assert_int_equal(node_len(n, i), node_len(back, i));
		assert_true(memcmp(node_val(n, i), node_val(back, i), node_len(n, i)) == 0);
	}
	/* There is one form: the image of the image is the image. */
	node_image(back, image->buf);
	assert_memory_equal(image->buf, back->buf, n->size);
	node_free(back);
	node_free(image);
}

static const uint32_t sizes[] = { 4096, 8192, 16384, 32768 };

static void random_changes_equal_a_model(void **state)
{
	uint32_t size = *(const uint32_t *)*state;
	struct node *n = node_new(size, 0);
	struct model_item *m = mem_zalloc(MODEL_KEYS * sizeof(*m));
	struct rng rng;

	assert_non_null(m);
	rng_seed_env(&rng, size);
	for (unsigned round = 0; round < 20000; round++) {
		unsigned k = (unsigned)rng_below(&rng, MODEL_KEYS), i = node_search(n, key_of(k));
		uint16_t len = (uint16_t)rng_below(&rng, rng_chance(&rng, 1, 2) ? 30 : sizeof(m->val));

		if (rng_chance(&rng, 1, 3)) {
			unsigned to = k + (unsigned)rng_below(&rng, 4);

			node_remove(n, i, node_search(n, key_of(to)));
			for (; k < to && k < MODEL_KEYS; k++)
				m[k].there = false;
		} else {
			unsigned char val[sizeof(m->val)];

			rng_bytes(&rng, val, len);
			if (m[k].there) {
				if (node_used(n) - m[k].len + len > node_capacity(size))
					continue;
				node_replace(n, i, val, len);
			} else {
				if (!node_fits(n, len))
					continue;
				node_insert(n, i, key_of(k), val, len);
			}
			m[k].there = true;
			m[k].len = len;
			memcpy(m[k].val, val, len);
		}
		if (round % 16 == 0)
			assert_is_model(n, m);
		if (round % 256 == 0 && n->nr)
			assert_image(n);
	}
	node_free(n);
	mem_free(m);
}

static void items_move_between_nodes(void **state)
{
	struct model_item *m = mem_zalloc(MODEL_KEYS * sizeof(*m));
	struct rng rng;

	(void)state;
	assert_non_null(m);
	rng_seed_env(&rng, 7);
	for (unsigned round = 0; round < 300; round++) {
		struct node *low = node_new(SIZE, 0), *high = node_new(SIZE, 0), *copy = node_new(SIZE, 0);
		unsigned border = (unsigned)rng_below(&rng, MODEL_KEYS);

		memset(m, 0, MODEL_KEYS * sizeof(*m));
		for (unsigned k = 0; k < MODEL_KEYS; k++) {
			struct node *n = k < border ? low : high;

			m[k].len = (uint16_t)rng_below(&rng, 40);
			if (node_used(low) + node_used(high) + 2 * (NODE_SLOT_BYTES + 40) > node_capacity(SIZE))
				break;
			rng_bytes(&rng, m[k].val, m[k].len);
			m[k].there = true;
			put(n, k, m[k].val, m[k].len);
			/* Holes. */
			put(n, k + 1, "hole", 4);
			node_remove(n, n->nr - 1u, n->nr);
		}
		node_copy_items(copy, high);
		if (round % 2) {
			node_append(low, high, 0, high->nr);
			assert_is_model(low, m);
		} else {
			node_prepend(high, low);
			assert_is_model(high, m);
			node_prepend(copy, low);
			assert_is_model(copy, m);
		}
		node_free(low);
		node_free(high);
		node_free(copy);
	}
	mem_free(m);
}

static void a_node_filled_to_the_last_byte_verifies(void **state)
{
	uint32_t size = *(const uint32_t *)*state, max = tree_value_max(size);
	struct node *n = node_new(size, 0);
	unsigned char *val = mem_zalloc(max);

	assert_non_null(val);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(node_fits(n, max));
		put(n, i, val, (uint16_t)max);
	}
	assert_int_equal(node_used(n), node_capacity(size));
	assert_false(node_fits(n, 0));
	assert_image(n);
	mem_free(val);
	node_free(n);
}

/* ---- what does not verify ---- */

struct bad_row {
	const char *name;
	unsigned level;
	void (*harm)(unsigned char *buf);
	bool keep_sum; /* leave the checksum as it was */
	int want;
};

static struct disk_node *head(unsigned char *buf)
{
	return (struct disk_node *)buf;
}

static struct disk_slot *slot(unsigned char *buf, unsigned i)
{
	return (struct disk_slot *)(buf + sizeof(struct disk_node)) + i;
}

static struct disk_ref *child(unsigned char *buf, unsigned i)
{
	return (struct disk_ref *)(buf + le16_get(slot(buf, i)->val));
}

static void nothing(unsigned char *b) { (void)b; }
static void flip_value(unsigned char *b) { b[SIZE - 1] ^= 1; }
static void flip_sum(unsigned char *b) { b[0] ^= 1; }
static void magic(unsigned char *b) { head(b)->magic = le32_put(NODE_MAGIC + 1); }
static void level_too_high(unsigned char *b) { head(b)->level = NODE_LEVELS_MAX; }
static void leaf_says_interior(unsigned char *b) { head(b)->level = 1; }
static void interior_says_leaf(unsigned char *b) { head(b)->level = 0; }
static void zero1(unsigned char *b) { head(b)->zero1 = 1; }
static void zero2(unsigned char *b) { head(b)->zero2[15] = 1; }
static void no_items(unsigned char *b) { head(b)->nr = le16_put(0); }
static void too_many(unsigned char *b) { head(b)->nr = le16_put(UINT16_MAX); }
static void one_more(unsigned char *b) { head(b)->nr = le16_put(le16_get(head(b)->nr) + 1); }
static void one_less(unsigned char *b) { head(b)->nr = le16_put(le16_get(head(b)->nr) - 1); }
static void addr_zero(unsigned char *b) { head(b)->addr = le64_put(0); }
static void copy_is_itself(unsigned char *b) { head(b)->copy = head(b)->addr; }
static void gen_zero(unsigned char *b) { head(b)->gen = le64_put(0); }
static void tree_unknown(unsigned char *b) { head(b)->tree = le64_put(3); }
static void swapped(unsigned char *b)
{
	struct disk_slot s = *slot(b, 1);

	slot(b, 1)->obj = slot(b, 2)->obj;
	slot(b, 1)->off = slot(b, 2)->off;
	slot(b, 2)->obj = s.obj;
	slot(b, 2)->off = s.off;
}
static void same_key(unsigned char *b)
{
	slot(b, 2)->obj = slot(b, 1)->obj;
	slot(b, 2)->off = slot(b, 1)->off;
}
static void val_elsewhere(unsigned char *b) { slot(b, 1)->val = le16_put(le16_get(slot(b, 1)->val) - 1); }
static void val_behind(unsigned char *b) { slot(b, 0)->val = le16_put(SIZE); }
static void val_in_header(unsigned char *b) { slot(b, 2)->val = le16_put(8); }
static void len_longer(unsigned char *b) { slot(b, 1)->len = le16_put(le16_get(slot(b, 1)->len) + 1); }
static void len_huge(unsigned char *b) { slot(b, 1)->len = le16_put(UINT16_MAX); }
static void len_over_max(unsigned char *b)
{
	slot(b, 2)->len = le16_put((uint16_t)(tree_value_max(SIZE) + 1));
	slot(b, 2)->val = le16_put((uint16_t)(le16_get(slot(b, 1)->val) - tree_value_max(SIZE) - 1));
}
static void dirt_between(unsigned char *b) { b[2000] = 1; }
static void dirt_behind_slots(unsigned char *b) { *(unsigned char *)slot(b, 3) = 1; }
static void key_max(unsigned char *b)
{
	slot(b, 2)->obj = le64_put(UINT64_MAX);
	slot(b, 2)->off = le64_put(UINT64_MAX);
}
static void first_key(unsigned char *b) { slot(b, 0)->off = le64_put(1); }
static void child_zero(unsigned char *b) { child(b, 1)->addr = le64_put(0); }
static void child_itself(unsigned char *b) { child(b, 1)->addr = head(b)->addr; }
static void child_copy_same(unsigned char *b) { child(b, 1)->copy = child(b, 1)->addr; }
static void child_gen_zero(unsigned char *b) { child(b, 1)->gen = le64_put(0); }
static void child_newer(unsigned char *b) { child(b, 1)->gen = le64_put(le64_get(head(b)->gen) + 1); }

static const struct bad_row bad_rows[] = {
	{ "a leaf verifies", 0, nothing, false, 0 },
	{ "an interior node verifies", 1, nothing, false, 0 },
	{ "a flipped value bit does not verify", 0, flip_value, true, -EBADMSG },
	{ "a flipped checksum bit does not verify", 0, flip_sum, true, -EBADMSG },
	{ "a wrong magic does not verify", 0, magic, false, -EUCLEAN },
	{ "a level out of range does not verify", 0, level_too_high, false, -EUCLEAN },
	{ "a leaf that says it is interior does not verify", 0, leaf_says_interior, false, -EUCLEAN },
	{ "an interior node that says it is a leaf verifies by itself", 1, interior_says_leaf, false, 0 },
	{ "a reserved byte does not verify", 0, zero1, false, -EUCLEAN },
	{ "reserved bytes do not verify", 0, zero2, false, -EUCLEAN },
	{ "a node without items does not verify", 0, no_items, false, -EUCLEAN },
	{ "more items than fit do not verify", 0, too_many, false, -EUCLEAN },
	{ "one item more does not verify", 0, one_more, false, -EUCLEAN },
	{ "one item less does not verify", 0, one_less, false, -EUCLEAN },
	{ "address 0 does not verify", 0, addr_zero, false, -EUCLEAN },
	{ "a copy at the node's own address does not verify", 0, copy_is_itself, false, -EUCLEAN },
	{ "generation 0 does not verify", 0, gen_zero, false, -EUCLEAN },
	{ "an unknown tree does not verify", 0, tree_unknown, false, -EUCLEAN },
	{ "keys out of order do not verify", 0, swapped, false, -EUCLEAN },
	{ "a key twice does not verify", 0, same_key, false, -EUCLEAN },
	{ "a value out of place does not verify", 0, val_elsewhere, false, -EUCLEAN },
	{ "a value behind the node does not verify", 0, val_behind, false, -EUCLEAN },
	{ "a value inside the header does not verify", 0, val_in_header, false, -EUCLEAN },
	{ "a length one too long does not verify", 0, len_longer, false, -EUCLEAN },
	{ "a length past the node does not verify", 0, len_huge, false, -EUCLEAN },
	{ "a length over the largest value does not verify", 0, len_over_max, false, -EUCLEAN },
	{ "dirt between slots and values does not verify", 0, dirt_between, false, -EUCLEAN },
	{ "dirt right behind the slots does not verify", 0, dirt_behind_slots, false, -EUCLEAN },
	{ "the greatest key does not verify", 0, key_max, false, -EUCLEAN },
	{ "a first child with a key does not verify", 1, first_key, false, -EUCLEAN },
	{ "a child at address 0 does not verify", 1, child_zero, false, -EUCLEAN },
	{ "a node that is its own child does not verify", 1, child_itself, false, -EUCLEAN },
	{ "a child whose copy is itself does not verify", 1, child_copy_same, false, -EUCLEAN },
	{ "a child of generation 0 does not verify", 1, child_gen_zero, false, -EUCLEAN },
	{ "a child newer than its parent does not verify", 1, child_newer, false, -EUCLEAN },
	{ "a reference of another length does not verify", 1, len_longer, false, -EUCLEAN },
};

static void damage_is_found(void **state)
{
	const struct bad_row *row = *state;
	struct node *n = node_new(SIZE, row->level);
	unsigned char *buf = mem_alloc_blocks(SIZE);
	unsigned lines = 0;
	int err;

	assert_non_null(buf);
	for (unsigned i = 0; i < 3; i++) {
		struct disk_ref d = ref_put((struct ref){ 10 + i, 20 + i, 70 + i });

		if (row->level)
			node_insert(n, i, i ? key_of(i * 100) : KEY_MIN, &d, sizeof(d));
		else
			put(n, i * 100 + 1, "twelve bytes", 12);
	}
	node_image(n, buf);
	row->harm(buf);
	if (!row->keep_sum)
		head(buf)->sum = le64_put(XXH3_64bits(buf + 8, SIZE - 8));
	err_set_sink(quiet, &lines);
	err = node_check(buf, SIZE, NULL);
	err_set_sink(NULL, NULL);
	assert_int_equal(err, row->want);
	assert_int_equal(lines, row->want != 0);
	mem_free(buf);
	node_free(n);
}

static int only_short(struct key key, const void *val, size_t len)
{
	(void)val;
	return len < 5 ? 0 : corrupt("item", key_ino(key), "length", len, 4);
}

static void values_are_verified_by_their_rows(void **state)
{
	static const struct record_table table = { .row = { [1] = { .name = "short", .validate = only_short } } };
	struct node *n = node_new(SIZE, 0);
	unsigned char *buf = mem_alloc_blocks(SIZE);
	unsigned lines = 0;

	(void)state;
	assert_non_null(buf);
	err_set_sink(quiet, &lines);
	node_insert(n, 0, key_make(1, 1, 0), "four", 4);
	node_image(n, buf);
	assert_int_equal(node_check(buf, SIZE, &table), 0);
	node_replace(n, 0, "fives", 5);
	node_image(n, buf);
	assert_int_equal(node_check(buf, SIZE, &table), -EUCLEAN);
	assert_int_equal(node_check(buf, SIZE, NULL), 0);
	node_replace(n, 0, "four", 4);
	node_insert(n, 1, key_make(1, 2, 0), "", 0);
	node_image(n, buf);
	assert_int_equal(node_check(buf, SIZE, &table), -EUCLEAN);
	err_set_sink(NULL, NULL);
	assert_int_equal(lines, 2);
	mem_free(buf);
	node_free(n);
}

int main(void)
{
	static char names[2 * ARRAY_LEN(sizes)][64];
	struct CMUnitTest tests[4 + 2 * ARRAY_LEN(sizes) + ARRAY_LEN(bad_rows)] = {
		cmocka_unit_test(search_finds_the_first_item_not_less),
		cmocka_unit_test(a_child_is_found_by_the_range_its_key_begins),
		cmocka_unit_test(items_move_between_nodes),
		cmocka_unit_test(values_are_verified_by_their_rows),
	};
	size_t n = 4;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		snprintf(names[2 * i], sizeof(names[0]), "random changes of %u bytes equal a model", sizes[i]);
		tests[n++] = TEST_ROW(names[2 * i], random_changes_equal_a_model, &sizes[i]);
		snprintf(names[2 * i + 1], sizeof(names[0]), "%u bytes filled to the last one verify", sizes[i]);
		tests[n++] = TEST_ROW(names[2 * i + 1], a_node_filled_to_the_last_byte_verifies, &sizes[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad_rows); i++)
		tests[n++] = TEST_ROW(bad_rows[i].name, damage_is_found, &bad_rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * A tree node: node_check, and the use of one that passed. The input is a node, filled up with zeros to the next node size.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/node.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/quiet.h"
#include "tests/kit/rng.h"

/* Types 1 to 3 exist, the second with an opinion. */
static int even(struct key key, const void *val, size_t len)
{
	const uint8_t *p = val;
	unsigned sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += p[i];
	return sum % 2 ? corrupt("item", key_ino(key), "sum", sum, 0) : 0;
}

static const struct record_table table = {
	.row = { [1] = { .name = "any" }, [2] = { .name = "even", .validate = even }, [3] = { .name = "other" } },
};

static void sign(uint8_t *buf, uint32_t size)
{
	le64 sum = le64_put(XXH3_64bits(buf + sizeof(sum), size - sizeof(sum)));

	memcpy(buf, &sum, sizeof(sum));
}

static struct node node_of(uint8_t *buf, uint32_t size)
{
	const struct disk_node *h = (const struct disk_node *)buf;
	struct node n = {
		.addr = le64_get(h->addr),
		.copy = le64_get(h->copy),
		.gen = le64_get(h->gen),
		.tree = le64_get(h->tree),
		.level = h->level,
		.size = (uint16_t)size,
		.buf = buf,
	};

	return n;
}

/* Everything in it can be found, and every value lies inside. */
static void look(const struct node *n)
{
	node_assert_valid(n);
	assert(n->nr > 0 && n->level < NODE_LEVELS_MAX);
	assert(node_used(n) <= node_capacity(n->size));
	for (unsigned i = 0; i < n->nr; i++) {
		const uint8_t *val = node_val(n, i);

		assert(val >= n->buf + sizeof(struct disk_node) && val + node_len(n, i) <= n->buf + n->size);
		assert(node_search(n, node_key(n, i)) == i);
		if (n->level) {
			assert(node_child(n, node_key(n, i)) == i);
			assert(node_child_ref(n, i).addr != 0);
		} else {
			assert(node_len(n, i) <= node_value_max(n->size));
			assert(!record_validate(&table, node_key(n, i), val, node_len(n, i)));
		}
	}
}

/* Some of its items go, some come back, some get another length. */
static void change(struct node *n, uint64_t seed)
{
	static const uint8_t zeros[NODE_SIZE_MAX];
	static uint8_t again[NODE_SIZE_MAX];
	const struct disk_ref some = ref_put((struct ref){ n->addr == 1 ? 2 : 1, 0, 1 });
	struct rng rng;

	rng_seed(&rng, seed);
	for (unsigned round = 0; round < 40; round++) {
		unsigned i = (unsigned)rng_below(&rng, n->nr + 1u);
		uint16_t len = (uint16_t)rng_below(&rng, node_value_max(n->size) + 1);
		struct key key = { rng_next(&rng) >> rng_below(&rng, 60) << 8 | 1, rng_next(&rng) };

		if (n->level)
			len = sizeof(struct disk_ref);
		if (rng_chance(&rng, 1, 3) && i < n->nr && (i || !n->level)) {
			node_remove(n, i, i + 1);
		} else if (rng_chance(&rng, 1, 2) && i < n->nr && !n->level) {
			if (node_used(n) - node_len(n, i) + len <= node_capacity(n->size))
				node_replace(n, i, zeros, len);
		} else {
			i = node_search(n, key);
			if (!node_has(n, i, key) && node_fits(n, len))
				node_insert(n, i, key, n->level ? (const void *)&some : zeros, len);
		}
		node_assert_valid(n);
	}
	if (!n->nr)
		return;
	node_image(n, again);
	assert(!node_check(again, n->size, &table));
}

static void run(const uint8_t *bytes, uint32_t size, uint64_t seed)
{
	static uint8_t buf[NODE_SIZE_MAX], image[NODE_SIZE_MAX];
	int err = node_check(bytes, size, &table);
	struct node n;

	if (err) {
		assert(err == -EBADMSG || err == -EUCLEAN);
		return;
	}
	memcpy(buf, bytes, size);
	n = node_of(buf, size);
	node_adopt(&n);
	look(&n);
	/* A node has one form. */
	node_image(&n, image);
	assert(!memcmp(image, bytes, size));
	change(&n, seed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	/* As large as the node and no larger, so that a step past its end is noticed. */
	uint32_t size = NODE_SIZE_MIN;
	struct disk_node *h;
	uint8_t *bytes;

	while (size < len && size < NODE_SIZE_MAX)
		size *= 2;
	bytes = calloc(1, size);
	assert(bytes);
	memcpy(bytes, data, len < size ? len : size);
	run(bytes, size, len);

	/* The same as if it had been written so. */
	h = (struct disk_node *)bytes;
	h->magic = le32_put(NODE_MAGIC);
	sign(bytes, size);
	run(bytes, size, XXH3_64bits(bytes, 64));
	free(bytes);
	return 0;
}

size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed)
{
	static uint8_t content[NODE_SIZE_MAX];
	struct node n = { .buf = content };
	struct key key = KEY_MIN;
	uint32_t size;
	struct rng rng;

	rng_seed(&rng, seed);
	size = NODE_SIZE_MIN << rng_below(&rng, 4);
	if (cap < size)
		return 0;
	n.size = (uint16_t)size;
	n.addr = rng_range(&rng, 1, 1000);
	n.copy = rng_chance(&rng, 1, 2) ? n.addr + 1000 : 0;
	n.gen = rng_range(&rng, 1, 1000);
	n.tree = rng_range(&rng, TREE_FILES, TREE_SYSTEM);
	n.level = rng_chance(&rng, 1, 2) ? 0 : (uint8_t)rng_below(&rng, NODE_LEVELS_MAX);
	node_reset(&n);
	for (unsigned items = 1 + (unsigned)rng_below(&rng, 200); items; items--) {
		static uint8_t val[NODE_SIZE_MAX];
		struct disk_ref d = ref_put((struct ref){ rng_range(&rng, 1001, 2000), rng_below(&rng, 2) * 3000, n.gen });
		uint16_t len = (uint16_t)rng_below(&rng, rng_chance(&rng, 1, 4) ? node_value_max(size) + 1 : 60);

		if (!n.level || n.nr) {
			key = key_make(key_ino(key) + rng_below(&rng, 3), (uint8_t)rng_range(&rng, 1, 3), rng_next(&rng));
			if (n.nr && !key_less(node_key(&n, n.nr - 1u), key))
				continue;
		}
		if (n.level)
			len = sizeof(d);
		else
			memset(val, (int)rng_below(&rng, 128) * 2, len);
		if (!node_fits(&n, len))
			break;
		node_insert(&n, n.nr, key, n.level ? (const void *)&d : val, len);
	}
	node_image(&n, buf);
	return size;
}

#include "tests/kit/cachekit.h"

#include <string.h>

#include "btree/node.h"
#include "tests/kit/test.h"

void cachekit_count(void *arg, enum log_level level, const char *line)
{
	struct cachekit_lines *l = arg;

	(void)line;
	l->errors += level == LOG_ERROR;
	l->warnings += level == LOG_WARNING;
}

struct key cachekit_key(uint64_t addr)
{
	return key_make(addr, 1, 0);
}

struct node *cachekit_born(struct treekit *tk, uint64_t addr, uint64_t copy, uint64_t gen)
{
	struct node *n;

	assert_int_equal(cache_reserve(tk->cache, &n, 1), 0);
	n->home = NULL;
	cache_born(tk->cache, n, addr, copy, gen, TREE_FILES, 0);
	node_insert(n, 0, cachekit_key(addr), &addr, sizeof(addr));
	return n;
}

int cachekit_write(struct treekit *tk, struct node **nodes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		atomic_fetch_or(&nodes[i]->state, NODE_SEALED);
	return cache_write(tk->cache, nodes, n);
}

struct ref cachekit_written(struct treekit *tk, uint64_t addr, uint64_t copy, uint64_t gen)
{
	struct node *n = cachekit_born(tk, addr, copy, gen);

	assert_int_equal(cachekit_write(tk, &n, 1), 0);
	return (struct ref){ addr, copy, gen };
}

int cachekit_load(struct treekit *tk, struct ref ref, struct node **ret)
{
	for (;;) {
		unsigned slot = epoch_enter(tk->epoch);
		int err = cache_load(tk->cache, ref, TREE_FILES, 0, KEY_MIN, ret);

		epoch_exit(tk->epoch, slot);
		if (err != -ENOBUFS)
			return err;
		err = cache_breathe(tk->cache);
		if (err)
			return err;
	}
}

void cachekit_assert_content(const struct node *n, struct ref ref)
{
	uint64_t addr;

	assert_int_equal(n->addr, ref.addr);
	assert_int_equal(n->gen, ref.gen);
	assert_int_equal(n->nr, 1);
	assert_true(key_equal(node_key(n, 0), cachekit_key(ref.addr)));
	memcpy(&addr, node_val(n, 0), sizeof(addr));
	assert_int_equal(addr, ref.addr);
}

bool cachekit_resident(struct treekit *tk, struct ref ref)
{
	unsigned slot = epoch_enter(tk->epoch);
	bool there = cache_lookup(tk->cache, ref) != NULL;

	epoch_exit(tk->epoch, slot);
	return there;
}

struct cache_stats cachekit_stats(struct treekit *tk)
{
	struct cache_stats s;

	cache_stats(tk->cache, &s);
	return s;
}

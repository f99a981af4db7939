/*
 * batch_sort.c - from what a batch collected, in any order, to changes sorted by key that do not overlap
 */
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"

static int collected_cmp(const void *pa, const void *pb)
{
	const struct collected *a = pa, *b = pb;
	int c = key_cmp(a->key, b->key);

	return c ? c : (a->order > b->order) - (a->order < b->order);
}

static bool in_order(const struct collected *c, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (!key_less(c[i - 1].key, c[i].key))
			return false;
	return true;
}

static int add_change(struct batch *b, const struct collected *c, struct key from, struct key to)
{
	if (mem_grow((void **)&b->changes, &b->cap_changes, b->n_changes + 1, sizeof(*b->changes)))
		return -ENOMEM;
	b->changes[b->n_changes++] =
		(struct change){ .key = from, .end = to, .val = b->buf + c->val, .len = c->len, .op = c->op };
	return 0;
}

static int change_cmp(const void *pa, const void *pb)
{
	const struct change *a = pa, *b = pb;

	return key_cmp(a->key, b->key);
}

/*
 * Ranges and single keys to changes that do not overlap: a range covers what came before it, and what came after cuts it.
 * Sorted by key; runs once per batch, ranges are few.
 */
int batch_sort(struct batch *b)
{
	struct collected *c = b->coll;
	size_t n = b->n_coll, ranges = 0;
	struct key done = KEY_MIN; /* ranges so far reach up to here */

	if (b->changes_end)
		return 0;
	b->n_changes = 0;
	b->changes_end = b->len;
	for (size_t i = 0; i < n; i++)
		ranges += c[i].op == CHANGE_DEL_RANGE;
	if (!in_order(c, n))
		qsort(c, n, sizeof(*c), collected_cmp);
	for (size_t i = 0; i < n; i++) {
		bool covered = false;
		struct key at, end;

		if (c[i].op != CHANGE_DEL_RANGE) {
			/* The last of a key wins, unless a later range covers it. */
			for (size_t j = i + 1; j < n && key_equal(c[j].key, c[i].key); j++)
				covered |= c[j].op != CHANGE_DEL_RANGE;
			for (size_t j = 0; ranges && j < n && !covered; j++)
				covered = c[j].op == CHANGE_DEL_RANGE && c[j].order > c[i].order &&
					  !key_less(c[i].key, c[j].key) && key_less(c[i].key, c[j].end);
			if (!covered && add_change(b, &c[i], c[i].key, c[i].key))
				return -ENOMEM;
			continue;
		}
		at = key_less(c[i].key, done) ? done : c[i].key;
		end = c[i].end;
		if (!key_less(at, end))
			continue;
		done = end;
		/* Keys inside that survive (they are younger) cut it in pieces. */
		for (size_t j = 0; j < n; j++) {
			bool inside = c[j].op != CHANGE_DEL_RANGE && !key_less(c[j].key, at) && key_less(c[j].key, end);

			if (!inside)
				continue;
			for (size_t k = 0; inside && k < n; k++)
				inside = !(c[k].op == CHANGE_DEL_RANGE && c[k].order > c[j].order &&
					   !key_less(c[j].key, c[k].key) && key_less(c[j].key, c[k].end));
			if (!inside)
				continue;
			if (key_less(at, c[j].key) && add_change(b, &c[i], at, c[j].key))
				return -ENOMEM;
			at = key_next(c[j].key);
		}
		if (key_less(at, end) && add_change(b, &c[i], at, end))
			return -ENOMEM;
	}
	/* The pieces of a range stand in front of the keys that cut it. */
	if (ranges)
		qsort(b->changes, b->n_changes, sizeof(*b->changes), change_cmp);
	return 0;
}

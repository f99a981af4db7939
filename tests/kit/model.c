#include "tests/kit/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/kit/kv_records.h"

struct kvmap {
	unsigned refs;
	size_t n, cap;
	struct kvhash hash;
	struct kv **item;
};

static void *must(void *p)
{
	if (!p) {
		fputs("the test kit is out of memory\n", stderr);
		abort();
	}
	return p;
}

/* ---- items ---- */

static struct kv *kv_new(struct key key, const void *val, size_t len)
{
	struct kv *kv = must(malloc(sizeof(*kv) + len));
	XXH128_hash_t h;

	kv->key = key;
	kv->refs = 1;
	kv->len = (uint32_t)len;
	if (len)
		memcpy(kv->val, val, len);
	kv_canonical(key, kv->val, len);
	h = XXH3_128bits_withSeed(kv->val, len, key.obj * UINT64_C(0x9e3779b97f4a7c15) ^ key.off);
	/* Two keys whose seeds collide must not be taken for each other. */
	kv->hash = (struct kvhash){ h.low64 ^ key.obj, h.high64 ^ key.off * UINT64_C(0xc2b2ae3d27d4eb4f) };
	return kv;
}

static void kv_unref(struct kv *kv)
{
	if (--kv->refs == 0)
		free(kv);
}

static struct kvhash hash_add(struct kvhash a, struct kvhash b)
{
	return (struct kvhash){ a.lo + b.lo, a.hi + b.hi };
}

static struct kvhash hash_sub(struct kvhash a, struct kvhash b)
{
	return (struct kvhash){ a.lo - b.lo, a.hi - b.hi };
}

static bool kv_same(const struct kv *a, const struct kv *b)
{
	if (a == b)
		return true;
	return a && b && a->len == b->len && memcmp(a->val, b->val, a->len) == 0;
}

/* ---- states ---- */

struct kvmap *kvmap_new(void)
{
	struct kvmap *m = must(calloc(1, sizeof(*m)));

	m->refs = 1;
	return m;
}

struct kvmap *kvmap_ref(struct kvmap *m)
{
	m->refs++;
	return m;
}

void kvmap_unref(struct kvmap *m)
{
	if (!m || --m->refs > 0)
		return;
	for (size_t i = 0; i < m->n; i++)
		kv_unref(m->item[i]);
	free(m->item);
	free(m);
}

static struct kvmap *own(struct kvmap **slot)
{
	struct kvmap *old = *slot;
	struct kvmap *m;

	if (old->refs == 1)
		return old;
	m = kvmap_new();
	m->n = old->n;
	m->cap = old->n + 4;
	m->hash = old->hash;
	m->item = must(malloc(m->cap * sizeof(m->item[0])));
	for (size_t i = 0; i < m->n; i++) {
		m->item[i] = old->item[i];
		m->item[i]->refs++;
	}
	kvmap_unref(old);
	*slot = m;
	return m;
}

size_t kvmap_lower(const struct kvmap *m, struct key key)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (key_less(m->item[mid]->key, key))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct kv *kvmap_find(const struct kvmap *m, struct key key)
{
	size_t i = kvmap_lower(m, key);

	return i < m->n && key_equal(m->item[i]->key, key) ? m->item[i] : NULL;
}

/* Replaces the items [at, at + gone) by `kv` (NULL: nothing), which becomes the map's. */
static void splice(struct kvmap *m, size_t at, size_t gone, struct kv *kv)
{
	size_t put = kv ? 1 : 0;

	for (size_t i = at; i < at + gone; i++) {
		m->hash = hash_sub(m->hash, m->item[i]->hash);
		kv_unref(m->item[i]);
	}
	if (m->n + put - gone > m->cap) {
		m->cap = m->cap * 2 + 8;
		m->item = must(realloc(m->item, m->cap * sizeof(m->item[0])));
	}
	if (m->n > at + gone)
		memmove(m->item + at + put, m->item + at + gone, (m->n - at - gone) * sizeof(m->item[0]));
	m->n = m->n + put - gone;
	if (kv) {
		m->item[at] = kv;
		m->hash = hash_add(m->hash, kv->hash);
	}
}

static void put_item(struct kvmap **slot, struct kv *kv)
{
	struct kvmap *m = own(slot);
	size_t i = kvmap_lower(m, kv->key);

	splice(m, i, i < m->n && key_equal(m->item[i]->key, kv->key), kv);
}

void kvmap_put(struct kvmap **slot, struct key key, const void *val, size_t len)
{
	put_item(slot, kv_new(key, val, len));
}

void kvmap_del(struct kvmap **slot, struct key key)
{
	if (kvmap_find(*slot, key))
		splice(own(slot), kvmap_lower(*slot, key), 1, NULL);
}

void kvmap_del_range(struct kvmap **slot, struct key from, struct key to)
{
	size_t a = kvmap_lower(*slot, from);
	size_t b = kvmap_lower(*slot, to);

	if (a < b)
		splice(own(slot), a, b - a, NULL);
}

size_t kvmap_count(const struct kvmap *m)
{
	return m->n;
}

const struct kv *kvmap_at(const struct kvmap *m, size_t i)
{
	return m->item[i];
}

struct kvhash kvmap_hash(const struct kvmap *m)
{
	return m->hash;
}

bool kvmap_equal(const struct kvmap *a, const struct kvmap *b)
{
	return a == b || (a->n == b->n && a->hash.lo == b->hash.lo && a->hash.hi == b->hash.hi);
}

/* ---- two states side by side ---- */

struct pair {
	struct key key;
	struct kv *a, *b; /* NULL: not there */
};

/* The next pair of items of which one key at least is not used up; false at the end. */
static bool next_pair(const struct kvmap *a, size_t *ai, const struct kvmap *b, size_t *bi, struct pair *ret)
{
	struct kv *x = *ai < a->n ? a->item[*ai] : NULL;
	struct kv *y = *bi < b->n ? b->item[*bi] : NULL;

	if (!x && !y)
		return false;
	if (x && y && !key_equal(x->key, y->key)) {
		if (key_less(x->key, y->key))
			y = NULL;
		else
			x = NULL;
	}
	*ai += x != NULL;
	*bi += y != NULL;
	*ret = (struct pair){ x ? x->key : y->key, x, y };
	return true;
}

static void print_value(FILE *f, const struct kv *kv)
{
	if (!kv)
		fprintf(f, "absent");
	else if (key_type(kv->key) == KVT_EXTENT)
		kv_records.row[KVT_EXTENT].print(f, kv->key, kv->val, kv->len);
	else
		fprintf(f, "%" PRIu32 " bytes %02x%02x%02x%02x...", kv->len, kv->len > 0 ? kv->val[0] : 0,
			kv->len > 1 ? kv->val[1] : 0, kv->len > 2 ? kv->val[2] : 0, kv->len > 3 ? kv->val[3] : 0);
}

void kvmap_print_diff(FILE *f, const char *a_name, const struct kvmap *a, const char *b_name, const struct kvmap *b,
		      unsigned max)
{
	size_t ai = 0, bi = 0;
	struct pair p;

	while (max > 0 && next_pair(a, &ai, b, &bi, &p)) {
		if (kv_same(p.a, p.b))
			continue;
		fprintf(f, "#   key %" PRIu64 "/%u/%" PRIu64 ": %s: ", key_ino(p.key), key_type(p.key), p.key.off, a_name);
		print_value(f, p.a);
		fprintf(f, "; %s: ", b_name);
		print_value(f, p.b);
		fprintf(f, "\n");
		max--;
	}
}

static bool is_read(uint64_t ino, const uint64_t *reads, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (reads[i] == ino)
			return true;
	return false;
}

/* Whether a value leads to blocks that some value of `m` leads to as well. */
static bool refers_into(const struct kv *kv, const struct kvmap *m)
{
	if (key_type(kv->key) != KVT_EXTENT || kv_extent_tag(kv->val) == 0)
		return false;
	for (size_t i = 0; i < m->n; i++)
		if (key_type(m->item[i]->key) == KVT_EXTENT && kv_extent_tag(m->item[i]->val) == kv_extent_tag(kv->val))
			return true;
	return false;
}

enum kv_verdict kvmap_merge(struct kvmap *base, struct kvmap *mine, struct kvmap *live, const uint64_t *reads,
			    size_t n_reads, bool snapshot_since, struct kvmap **ret_result)
{
	enum kv_verdict verdict = KV_TAKEN;
	struct kvmap *result = kvmap_ref(live);
	size_t ai = 0, bi = 0;
	struct pair p;

	*ret_result = NULL;
	while (next_pair(base, &ai, mine, &bi, &p)) {
		const struct kv *now;

		if (kv_same(p.a, p.b))
			continue;
		now = kvmap_find(live, p.key);
		if (kv_same(now, p.a)) {
			if (p.b) {
				if (snapshot_since && refers_into(p.b, base))
					verdict = KV_EITHER;
				p.b->refs++;
				put_item(&result, p.b);
			} else {
				kvmap_del(&result, p.key);
			}
		} else if (!kv_same(now, p.b)) {
			kvmap_unref(result);
			return KV_CONFLICT;
		} else if (now && key_type(p.key) == KVT_EXTENT) {
			/* The same but for their place, which is what the store compares. */
			verdict = KV_EITHER;
		}
	}
	/* Who changed nothing can be thought of as having run when it began. */
	if (kvmap_equal(base, mine))
		n_reads = 0;
	for (ai = bi = 0; n_reads > 0 && next_pair(base, &ai, live, &bi, &p);) {
		if (!kv_same(p.a, p.b) && is_read(key_ino(p.key), reads, n_reads)) {
			kvmap_unref(result);
			return KV_CONFLICT;
		}
	}
	*ret_result = result;
	return verdict;
}

/* ---- worlds ---- */

void world_init(struct world *w)
{
	*w = (struct world){ .live = kvmap_new() };
}

void world_release(struct world *w)
{
	kvmap_unref(w->live);
	for (unsigned i = 0; i < w->n_snapshots; i++)
		kvmap_unref(w->snapshot[i].state);
	*w = (struct world){ 0 };
}

void world_copy(struct world *to, const struct world *from)
{
	*to = *from;
	kvmap_ref(to->live);
	for (unsigned i = 0; i < to->n_snapshots; i++)
		kvmap_ref(to->snapshot[i].state);
}

int world_snapshot_find(const struct world *w, const char *name)
{
	for (unsigned i = 0; i < w->n_snapshots; i++)
		if (strcmp(w->snapshot[i].name, name) == 0)
			return (int)i;
	return -1;
}

void world_snapshot_add(struct world *w, const char *name, struct kvmap *state)
{
	unsigned at = 0;

	if (w->n_snapshots == WORLD_SNAPSHOTS_MAX || strlen(name) >= sizeof(w->snapshot[0].name))
		abort();
	while (at < w->n_snapshots && strcmp(w->snapshot[at].name, name) < 0)
		at++;
	memmove(&w->snapshot[at + 1], &w->snapshot[at], (w->n_snapshots - at) * sizeof(w->snapshot[0]));
	memset(&w->snapshot[at], 0, sizeof(w->snapshot[at]));
	memcpy(w->snapshot[at].name, name, strlen(name));
	w->snapshot[at].state = kvmap_ref(state);
	w->n_snapshots++;
}

void world_snapshot_del(struct world *w, unsigned index)
{
	kvmap_unref(w->snapshot[index].state);
	w->n_snapshots--;
	memmove(&w->snapshot[index], &w->snapshot[index + 1], (w->n_snapshots - index) * sizeof(w->snapshot[0]));
}

bool world_equal(const struct world *a, const struct world *b)
{
	if (!kvmap_equal(a->live, b->live) || a->n_snapshots != b->n_snapshots)
		return false;
	for (unsigned i = 0; i < a->n_snapshots; i++)
		if (strcmp(a->snapshot[i].name, b->snapshot[i].name) != 0 ||
		    !kvmap_equal(a->snapshot[i].state, b->snapshot[i].state))
			return false;
	return memcmp(a->counter, b->counter, sizeof(a->counter)) == 0;
}

void world_print_diff(FILE *f, const char *a_name, const struct world *a, const char *b_name, const struct world *b)
{
	kvmap_print_diff(f, a_name, a->live, b_name, b->live, 8);
	for (unsigned i = 0; i < WORLD_COUNTERS; i++)
		if (a->counter[i] != b->counter[i])
			fprintf(f, "#   counter %u: %s: %" PRIu64 "; %s: %" PRIu64 "\n", i, a_name, a->counter[i], b_name,
				b->counter[i]);
	for (unsigned i = 0; i < a->n_snapshots; i++) {
		int j = world_snapshot_find(b, a->snapshot[i].name);

		if (j < 0) {
			fprintf(f, "#   snapshot %s: only %s\n", a->snapshot[i].name, a_name);
		} else if (!kvmap_equal(a->snapshot[i].state, b->snapshot[j].state)) {
			fprintf(f, "#   snapshot %s differs\n", a->snapshot[i].name);
			kvmap_print_diff(f, a_name, a->snapshot[i].state, b_name, b->snapshot[j].state, 8);
		}
	}
	for (unsigned i = 0; i < b->n_snapshots; i++)
		if (world_snapshot_find(a, b->snapshot[i].name) < 0)
			fprintf(f, "#   snapshot %s: only %s\n", b->snapshot[i].name, b_name);
}

/* ---- the history ---- */

void model_init(struct model *m, const struct world *start)
{
	*m = (struct model){ .n = 1, .cap = 16 };
	m->world = must(malloc(m->cap * sizeof(m->world[0])));
	if (start)
		world_copy(&m->world[0], start);
	else
		world_init(&m->world[0]);
}

void model_release(struct model *m)
{
	for (size_t i = 0; i < m->n; i++)
		world_release(&m->world[i]);
	free(m->world);
	*m = (struct model){ 0 };
}

const struct world *model_now(const struct model *m)
{
	return &m->world[m->n - 1];
}

struct world *model_next(struct model *m)
{
	if (m->n == m->cap) {
		m->cap *= 2;
		m->world = must(realloc(m->world, m->cap * sizeof(m->world[0])));
	}
	world_copy(&m->world[m->n], &m->world[m->n - 1]);
	return &m->world[m->n++];
}

void model_undo(struct model *m)
{
	world_release(&m->world[--m->n]);
}

void model_settle(struct model *m)
{
	m->durable = m->n - 1;
}

void model_forget(struct model *m)
{
	for (size_t i = 0; i + 1 < m->n; i++)
		world_release(&m->world[i]);
	m->world[0] = m->world[m->n - 1];
	m->n = 1;
	m->durable = 0;
}

long model_match(const struct model *m, const struct world *w, size_t lo, size_t hi)
{
	for (size_t i = hi + 1; i-- > lo;)
		if (world_equal(&m->world[i], w))
			return (long)i;
	return -1;
}

/*
 * Inside one node's buffer.
 *
 * A node that is changed in memory keeps the layout it has on disk: header, sorted slots growing upwards, values growing
 * downwards from the end. Removing an item leaves a hole among the values; `val_start` is the lowest value in use and
 * `val_bytes` what the values really take. A new value goes right below val_start. When that place is too small although
 * the holes would do, the values are packed, through a copy on the stack, in slot order: that is the form that is
 * written, so a packed node and its image have the same layout.
 *
 * A free list inside the node was rejected: with values of a few dozen to a few hundred bytes, packing 16 KiB once per
 * couple of dozen changes costs less than searching for a hole at each of them.
 *
 *  N1. Slots are strictly ascending by key; none has KEY_MAX. Slot 0 above level 0 has KEY_MIN.
 *  N2. Every value lies in val_start .. size, and slots end at or before val_start. Values do not overlap.
 *  N3. val_bytes is the sum of the slots' lengths.
 *  N4. Above level 0 every value is a disk_ref.
 */
#include "btree/node.h"

#include <assert.h>
#include <xxhash.h>

#include "btree/err.h"

static uint32_t slots_end(const struct node *n)
{
	return (uint32_t)sizeof(struct disk_node) + n->nr * NODE_SLOT_BYTES;
}

static struct disk_node *header(const struct node *n)
{
	return (struct disk_node *)n->buf;
}

void node_assert_valid(const struct node *n)
{
#ifndef NDEBUG
	uint32_t bytes = 0;

	assert(slots_end(n) <= n->val_start && n->val_start <= n->size);
	for (unsigned i = 0; i < n->nr; i++) {
		const struct disk_slot *s = &node_slots(n)[i];
		uint32_t val = le16_get(s->val), len = le16_get(s->len);

		assert(val >= n->val_start && val + len <= n->size);
		assert(!n->level || len == sizeof(struct disk_ref));
		assert(i == 0 || key_less(slot_key(s - 1), slot_key(s)));
		bytes += len;
	}
	assert(bytes == n->val_bytes);
	assert(!n->nr || !n->level || key_equal(node_key(n, 0), KEY_MIN));
	assert(!n->nr || !key_equal(node_key(n, n->nr - 1u), KEY_MAX));
#else
	(void)n;
#endif
}

void node_reset(struct node *n)
{
	struct disk_node *h = header(n);

	memset(h, 0, sizeof(*h));
	h->magic = le32_put(NODE_MAGIC);
	h->level = n->level;
	h->addr = le64_put(n->addr);
	h->copy = le64_put(n->copy);
	h->gen = le64_put(n->gen);
	h->tree = le64_put(n->tree);
	n->nr = 0;
	n->val_start = n->size;
	n->val_bytes = 0;
}

void node_adopt(struct node *n)
{
	n->nr = le16_get(header(n)->nr);
	n->val_start = le16_get(node_slots(n)[n->nr - 1].val);
	n->val_bytes = (uint16_t)(n->size - n->val_start);
	node_assert_valid(n);
}

/* Moves the values to where node_image would put them. */
static void pack(struct node *n)
{
	unsigned char old[NODE_SIZE_MAX];
	uint32_t at = n->size;

	memcpy(old + n->val_start, n->buf + n->val_start, n->size - n->val_start);
	for (unsigned i = 0; i < n->nr; i++) {
		struct disk_slot *s = &node_slots(n)[i];
		uint16_t len = le16_get(s->len);

		at -= len;
		memcpy(n->buf + at, old + le16_get(s->val), len);
		s->val = le16_put((uint16_t)at);
	}
	n->val_start = (uint16_t)at;
	assert(n->size - at == n->val_bytes);
}

/* Room for a new value of len bytes; `slots` more slots are about to be added. */
static uint16_t place(struct node *n, uint16_t len, unsigned slots)
{
	uint32_t end = slots_end(n) + slots * NODE_SLOT_BYTES;

	if (n->val_start < end + len)
		pack(n);
	assert(n->val_start >= end + len);
	n->val_start = (uint16_t)(n->val_start - len);
	n->val_bytes = (uint16_t)(n->val_bytes + len);
	return n->val_start;
}

void node_insert(struct node *n, unsigned i, struct key key, const void *val, uint16_t len)
{
	struct disk_slot *s = &node_slots(n)[i];
	uint16_t at;

	assert(i <= n->nr && node_fits(n, len));
	at = place(n, len, 1);
	memmove(s + 1, s, (n->nr - i) * sizeof(*s));
	*s = (struct disk_slot){ le64_put(key.obj), le64_put(key.off), le16_put(at), le16_put(len) };
	if (len)
		memcpy(n->buf + at, val, len);
	n->nr++;
}

void node_replace(struct node *n, unsigned i, const void *val, uint16_t len)
{
	struct disk_slot *s = &node_slots(n)[i];
	uint16_t old = le16_get(s->len);

	assert(i < n->nr && node_used(n) - old + len <= node_capacity(n->size));
	if (len > old) {
		n->val_bytes = (uint16_t)(n->val_bytes - old);
		s->len = le16_put(0);
		/* The slot's old place may be lost in packing now: its length is 0. */
		s->val = le16_put(place(n, len, 0));
	} else {
		n->val_bytes = (uint16_t)(n->val_bytes - (old - len));
	}
	s->len = le16_put(len);
	if (len)
		memcpy(n->buf + le16_get(s->val), val, len);
}

void node_set_key(struct node *n, unsigned i, struct key key)
{
	node_slots(n)[i].obj = le64_put(key.obj);
	node_slots(n)[i].off = le64_put(key.off);
}

void node_set_ref(struct node *n, unsigned i, struct ref ref)
{
	struct disk_ref d = ref_put(ref);

	assert(n->level && i < n->nr);
	memcpy(node_val(n, i), &d, sizeof(d));
}

void node_remove(struct node *n, unsigned from, unsigned to)
{
	struct disk_slot *s = node_slots(n);

	assert(from <= to && to <= n->nr);
	for (unsigned i = from; i < to; i++)
		n->val_bytes = (uint16_t)(n->val_bytes - le16_get(s[i].len));
	memmove(s + from, s + to, (n->nr - to) * sizeof(*s));
	n->nr = (uint16_t)(n->nr - (to - from));
	if (!n->nr)
		n->val_start = n->size;
}

void node_copy_items(struct node *dst, const struct node *src)
{
	assert(dst->size == src->size && dst->nr == 0 && dst->level == src->level);
	memcpy(node_slots(dst), node_slots(src), src->nr * sizeof(struct disk_slot));
	memcpy(dst->buf + src->val_start, src->buf + src->val_start, src->size - src->val_start);
	dst->nr = src->nr;
	dst->val_start = src->val_start;
	dst->val_bytes = src->val_bytes;
}

void node_append(struct node *dst, const struct node *src, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++)
		node_insert(dst, dst->nr, node_key(src, i), node_val(src, i), node_len(src, i));
}

void node_prepend(struct node *dst, const struct node *src)
{
	struct disk_slot *s = node_slots(dst);
	uint32_t at;

	assert(node_used(dst) + node_used(src) <= node_capacity(dst->size));
	if (slots_end(dst) + node_used(src) > dst->val_start)
		pack(dst);
	memmove(s + src->nr, s, dst->nr * sizeof(*s));
	memcpy(s, node_slots(src), src->nr * sizeof(*s));
	at = dst->val_start;
	for (unsigned i = 0; i < src->nr; i++) {
		uint16_t len = node_len(src, i);

		at -= len;
		memcpy(dst->buf + at, node_val(src, i), len);
		s[i].val = le16_put((uint16_t)at);
	}
	dst->nr = (uint16_t)(dst->nr + src->nr);
	dst->val_start = (uint16_t)at;
	dst->val_bytes = (uint16_t)(dst->val_bytes + src->val_bytes);
}

static uint64_t sum_of(const struct disk_node *h, uint32_t size)
{
	return XXH3_64bits((const unsigned char *)h + sizeof(h->sum), size - sizeof(h->sum));
}

void node_image(const struct node *n, void *buf)
{
	struct disk_node *h = buf;
	struct disk_slot *s = (struct disk_slot *)(h + 1);
	uint32_t at = n->size;

	memcpy(h, n->buf, slots_end(n));
	h->nr = le16_put(n->nr);
	for (unsigned i = 0; i < n->nr; i++) {
		uint16_t len = node_len(n, i);

		at -= len;
		memcpy((unsigned char *)buf + at, node_val(n, i), len);
		s[i].val = le16_put((uint16_t)at);
	}
	memset((unsigned char *)buf + slots_end(n), 0, at - slots_end(n));
	h->sum = le64_put(sum_of(h, n->size));
}

/* ---- verification ---- */

/* The first byte of p..end that is not zero, or end. */
static const unsigned char *skip_zeros(const unsigned char *p, const unsigned char *end)
{
	static const unsigned char zeros[64];

	while (end - p >= (ptrdiff_t)sizeof(zeros) && memcmp(p, zeros, sizeof(zeros)) == 0)
		p += sizeof(zeros);
	while (p < end && !*p)
		p++;
	return p;
}

bool node_sum_right(const void *buf, uint32_t size)
{
	const struct disk_node *h = buf;

	return sum_of(h, size) == le64_get(h->sum);
}

static int check_header(const struct disk_node *h, uint32_t size)
{
	uint64_t addr = le64_get(h->addr), sum = sum_of(h, size);

	if (sum != le64_get(h->sum))
		return bad_checksum("node", addr, "checksum", sum, le64_get(h->sum));
	if (le32_get(h->magic) != NODE_MAGIC)
		return corrupt("node", addr, "magic", le32_get(h->magic), NODE_MAGIC);
	if (h->level >= NODE_LEVELS_MAX)
		return corrupt("node", addr, "level", h->level, NODE_LEVELS_MAX - 1);
	if (h->zero1)
		return corrupt("node", addr, "reserved byte", h->zero1, 0);
	if (!le16_get(h->nr))
		return corrupt("node", addr, "no items", 0, 1);
	if (le16_get(h->nr) > node_capacity(size) / NODE_SLOT_BYTES)
		return corrupt("node", addr, "number of items", le16_get(h->nr), node_capacity(size) / NODE_SLOT_BYTES);
	if (!addr)
		return corrupt("node", addr, "own address", addr, 1);
	if (le64_get(h->copy) == addr)
		return corrupt("node", addr, "address of the second copy", addr, 0);
	if (!le64_get(h->gen))
		return corrupt("node", addr, "generation", 0, 1);
	if (le64_get(h->tree) != TREE_FILES && le64_get(h->tree) != TREE_SYSTEM)
		return corrupt("node", addr, "tree", le64_get(h->tree), TREE_FILES);
	for (size_t i = 0; i < sizeof(h->zero2); i++)
		if (h->zero2[i])
			return corrupt("node", addr, "reserved bytes", h->zero2[i], 0);
	return 0;
}

static int check_child(const struct disk_node *h, const struct disk_ref *d)
{
	uint64_t addr = le64_get(h->addr);
	struct ref r = ref_get(d);

	if (!r.addr || r.addr == addr)
		return corrupt("node", addr, "address of a child", r.addr, 0);
	if (r.copy == r.addr)
		return corrupt("node", addr, "address of a child's second copy", r.copy, 0);
	/* A node is copied or changed whenever one below it is, so it is never older. */
	if (!r.gen || r.gen > le64_get(h->gen))
		return corrupt("node", addr, "generation of a child", r.gen, le64_get(h->gen));
	return 0;
}

int node_check(const void *buf, uint32_t size, const struct record_table *records)
{
	const struct disk_node *h = buf;
	const struct disk_slot *slots = (const struct disk_slot *)(h + 1);
	uint64_t addr = le64_get(h->addr);
	uint32_t end, at = size;
	unsigned nr;
	int err;

	err = check_header(h, size);
	if (err)
		return err;
	nr = le16_get(h->nr);
	end = (uint32_t)sizeof(*h) + nr * NODE_SLOT_BYTES;
	for (unsigned i = 0; i < nr; i++) {
		uint32_t len = le16_get(slots[i].len), max = node_value_max(size);
		struct key key = slot_key(&slots[i]);
		const unsigned char *val;

		if (i && !key_less(slot_key(&slots[i - 1]), key))
			return corrupt("node", addr, "order of keys at slot", i, key.obj);
		if (h->level ? len != sizeof(struct disk_ref) : len > max)
			return corrupt("node", addr, "length of a value", len, h->level ? sizeof(struct disk_ref) : max);
		if (len > at - end)
			return corrupt("node", addr, "values reach into the slots at slot", i, len);
		at -= len;
		if (le16_get(slots[i].val) != at)
			return corrupt("node", addr, "place of a value", le16_get(slots[i].val), at);
		val = (const unsigned char *)buf + at;
		if (h->level)
			err = check_child(h, (const struct disk_ref *)val);
		else if (records)
			err = record_validate(records, key, val, len);
		if (err)
			return err;
	}
	if (h->level && !key_equal(slot_key(&slots[0]), KEY_MIN))
		return corrupt("node", addr, "key of the first child", le64_get(slots[0].obj), 0);
	if (key_equal(slot_key(&slots[nr - 1]), KEY_MAX))
		return corrupt("node", addr, "key out of range", UINT64_MAX, UINT64_MAX - 1);
	if (skip_zeros((const unsigned char *)buf + end, (const unsigned char *)buf + at) != (const unsigned char *)buf + at)
		return corrupt("node", addr, "bytes between slots and values", 1, 0);
	return 0;
}

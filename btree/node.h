/*
 * node.h - inside one node's buffer
 *
 * In memory a node is its disk form, relaxed: slots are sorted and dense behind the header, but values lie anywhere behind
 * them, with holes where some were removed; struct node keeps the counts. node_image() makes the one form that is written.
 *
 * Nothing here fails: callers ask node_fits() first. Nothing here allocates. Whoever changes a node holds what cache.h
 * demands for it.
 */
#ifndef ARBOR_BTREE_NODE_H
#define ARBOR_BTREE_NODE_H

#include "btree/cache.h"

/* Bytes an item takes: its slot and its value. */
#define NODE_SLOT_BYTES ((uint32_t)sizeof(struct disk_slot))
#define NODE_CHILD_BYTES ((uint32_t)(sizeof(struct disk_slot) + sizeof(struct disk_ref)))

/* Bytes for items in a node. */
static inline uint32_t node_capacity(uint32_t node_size)
{
	return node_size - (uint32_t)sizeof(struct disk_node);
}

/* The largest value: four items always fit a node. */
static inline uint32_t node_value_max(uint32_t node_size)
{
	return node_capacity(node_size) / 4 - NODE_SLOT_BYTES;
}

static inline uint32_t node_used(const struct node *n)
{
	return n->nr * NODE_SLOT_BYTES + n->val_bytes;
}

/* Whether an item with a value of len bytes has room (perhaps after closing the holes). */
static inline bool node_fits(const struct node *n, uint32_t len)
{
	return node_used(n) + NODE_SLOT_BYTES + len <= node_capacity(n->size);
}

static inline struct disk_slot *node_slots(const struct node *n)
{
	return (struct disk_slot *)(n->buf + sizeof(struct disk_node));
}

static inline struct key slot_key(const struct disk_slot *s)
{
	return (struct key){ le64_get(s->obj), le64_get(s->off) };
}

static inline struct key node_key(const struct node *n, unsigned i)
{
	return slot_key(&node_slots(n)[i]);
}

static inline void *node_val(const struct node *n, unsigned i)
{
	return n->buf + le16_get(node_slots(n)[i].val);
}

static inline uint16_t node_len(const struct node *n, unsigned i)
{
	return le16_get(node_slots(n)[i].len);
}

static inline struct ref ref_get(const struct disk_ref *d)
{
	return (struct ref){ le64_get(d->addr), le64_get(d->copy), le64_get(d->gen) };
}

static inline struct disk_ref ref_put(struct ref r)
{
	return (struct disk_ref){ le64_put(r.addr), le64_put(r.copy), le64_put(r.gen) };
}

/* The reference to child i of an interior node. */
static inline struct ref node_child_ref(const struct node *n, unsigned i)
{
	return ref_get(node_val(n, i));
}

static inline struct ref node_ref(const struct node *n)
{
	return (struct ref){ n->addr, n->copy, n->gen };
}

/* One comparison of 128-bit numbers, so that the searches below compile to code without branches on keys. */
static inline unsigned __int128 key_number(struct key k)
{
	return (unsigned __int128)k.obj << 64 | k.off;
}

/*
 * How many of n sorted slots have a key < k (or <= k with or_equal).
 *
 * Far more time than by comparing is spent by waiting for memory. So both slots that the next step may look at are
 * asked for before it is known which one it will be.
 */
static inline unsigned slots_below(const struct disk_slot *slots, unsigned n, struct key k, bool or_equal)
{
	const struct disk_slot *base = slots;
	unsigned __int128 want = key_number(k);

	if (!n)
		return 0;
	while (n > 1) {
		unsigned half = n / 2;
		unsigned __int128 at = key_number(slot_key(&base[half - 1]));

		n -= half;
		__builtin_prefetch(&base[n / 2]);
		__builtin_prefetch(&base[half + n / 2]);
		base += (or_equal ? at <= want : at < want) ? half : 0;
	}
	return (unsigned)(base - slots) +
	       (or_equal ? key_number(slot_key(base)) <= want : key_number(slot_key(base)) < want);
}

/* The first item with a key >= k; nr if there is none. */
static inline unsigned node_search(const struct node *n, struct key k)
{
	return slots_below(node_slots(n), n->nr, k, false);
}

/* Whether item i is there and has just this key. */
static inline bool node_has(const struct node *n, unsigned i, struct key k)
{
	return i < n->nr && key_equal(node_key(n, i), k);
}

/* The child in whose range k lies; slot 0's key is not looked at. The node has at least one child. */
static inline unsigned node_child(const struct node *n, struct key k)
{
	return slots_below(node_slots(n) + 1, n->nr - 1u, k, true);
}

/* No items; the header in the buffer as it will be written, but for nr and sum. Fields of *n must be set. */
void node_reset(struct node *);

/* Takes the counts from a buffer that has passed node_check. The fields of *n that name it are the caller's. */
void node_adopt(struct node *);

/* Puts an item at place i; it must fit. val must not point into this node. */
void node_insert(struct node *, unsigned i, struct key, const void *val, uint16_t len);

/* Gives item i another value; the difference must fit. Same length: in place. */
void node_replace(struct node *, unsigned i, const void *val, uint16_t len);

void node_set_key(struct node *, unsigned i, struct key);
void node_set_ref(struct node *, unsigned i, struct ref);

/* Removes items from..to-1. */
void node_remove(struct node *, unsigned from, unsigned to);

/* Copies all items of src into the empty node dst of the same size. */
void node_copy_items(struct node *dst, const struct node *src);

/* Appends copies of the items from..to-1 of src, which must fit and be greater than what dst has. */
void node_append(struct node *dst, const struct node *src, unsigned from, unsigned to);

/* The same in front. */
void node_prepend(struct node *dst, const struct node *src);

/* The form to be written, with checksum: node_size bytes at buf. */
void node_image(const struct node *, void *buf);

/* Whether node_size bytes carry the right checksum. Says nothing if not. */
bool node_sum_right(const void *buf, uint32_t node_size);

/* Stops the program unless the counts and the order of the slots are right. Nothing where NDEBUG is set. */
void node_assert_valid(const struct node *);

#endif

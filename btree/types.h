/*
 * types.h - the few values every layer speaks in
 *
 * An *address* is a block number on the device (blocks of 4 KiB); 0 means "none", because block 0 always holds
 * a superblock. A *generation* is a value of the one global counter, mount epoch << 40 | count; an (address,
 * generation) pair names one content for ever.
 */
#ifndef ARBOR_BTREE_TYPES_H
#define ARBOR_BTREE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_SHIFT 12
#define BLOCK_SIZE (1u << BLOCK_SHIFT)

#define GEN_EPOCH_SHIFT 40

/*
 * The key of an item. On disk and in memory it is two integers compared one after the other; `obj` is
 * ino << 8 | type, so that everything of one inode is adjacent and sorted by type, then by offset.
 */
struct key {
	uint64_t obj;
	uint64_t off;
};

#define KEY_INO_MAX ((UINT64_C(1) << 56) - 1)
#define KEY_MIN ((struct key){ 0, 0 })
#define KEY_MAX ((struct key){ UINT64_MAX, UINT64_MAX })

static inline struct key key_make(uint64_t ino, uint8_t type, uint64_t off)
{
	return (struct key){ .obj = ino << 8 | type, .off = off };
}

static inline uint64_t key_ino(struct key k)
{
	return k.obj >> 8;
}

static inline uint8_t key_type(struct key k)
{
	return (uint8_t)k.obj;
}

static inline bool key_less(struct key a, struct key b)
{
	return a.obj < b.obj || (a.obj == b.obj && a.off < b.off);
}

static inline int key_cmp(struct key a, struct key b)
{
	return key_less(a, b) ? -1 : key_less(b, a);
}

static inline bool key_equal(struct key a, struct key b)
{
	return a.obj == b.obj && a.off == b.off;
}

/* The smallest key greater than k; k must not be KEY_MAX. */
static inline struct key key_next(struct key k)
{
	return (struct key){ .obj = k.obj + (k.off == UINT64_MAX), .off = k.off + 1 };
}

/* A run of blocks and the generation in which it became reachable from the view that wrote it. */
struct extent {
	uint64_t addr;
	uint32_t blocks;
	uint64_t birth;
};

/* A reference to a tree node: where it is, where its second copy is (0: none), and which write of it. */
struct ref {
	uint64_t addr;
	uint64_t copy;
	uint64_t gen;
};

static inline bool ref_equal(struct ref a, struct ref b)
{
	return a.addr == b.addr && a.gen == b.gen;
}

/* A tree as a value: its root node and how many levels it has. levels == 0: the empty tree (ref is zero). */
struct root {
	struct ref ref;
	uint32_t levels;
};

static inline bool root_equal(struct root a, struct root b)
{
	return a.levels == b.levels && ref_equal(a.ref, b.ref);
}

#endif

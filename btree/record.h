/*
 * record.h - what the engine must know of the items it stores
 *
 * The engine stores keys and values and does not know what they mean. The upper layer hands in one row per item type:
 * how to verify and print a value, and which blocks it refers to. Daemon, fsck and inspection share the rows.
 */
#ifndef ARBOR_BTREE_RECORD_H
#define ARBOR_BTREE_RECORD_H

#include <stdio.h>

#include "btree/types.h"

/*
 * Where an item refers to data blocks. The address, birth and count are those of the blocks referred to, which
 * may be a part of what was once written together. addr == 0 with blocks > 0 is a claim: room promised, not yet
 * chosen (fallocate).
 */
struct record_ops {
	const char *name;
	/* Checks a value as read from disk or as it is about to be stored. 0 or -EUCLEAN (through corrupt()). NULL: any
	 * value is right. */
	int (*validate)(struct key key, const void *val, size_t len);
	/* For inspection. NULL: hex. */
	void (*print)(FILE *f, struct key key, const void *val, size_t len);
	/* The blocks a value refers to: returns true and fills *ret if it refers to any. NULL: it never does. Called
	 * only with values that have been validated. */
	bool (*extent)(struct key key, const void *val, size_t len, struct extent *ret);
	/* Changes the birth inside a value that refers to blocks. NULL where extent is NULL. */
	void (*set_birth)(void *val, size_t len, uint64_t birth);
};

#define RECORD_TYPES 256

/* All rows, by type; .name == NULL: no such type, and an item of it is corrupt. The table outlives the store. */
struct record_table {
	struct record_ops row[RECORD_TYPES];
};

int record_validate(const struct record_table *, struct key, const void *val, size_t len);
bool record_extent(const struct record_table *, struct key, const void *val, size_t len, struct extent *ret);

#endif

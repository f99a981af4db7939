/*
 * filekit.h - a file and what must be in it: every change is made to a plain array of bytes as well
 */
#ifndef ARBOR_TESTS_KIT_FILEKIT_H
#define ARBOR_TESTS_KIT_FILEKIT_H

#include "tests/kit/fskit.h"

struct filekit {
	struct fskit *k;
	const char *name; /* in the root directory */
	uint64_t node;
	uint8_t *data;	/* cap bytes; zeros behind size */
	uint8_t *bytes; /* cap bytes: what is being written. Calls themselves take no memory (failmem.h). */
	size_t size, cap;
	uint32_t tag; /* of the next write: no two write the same bytes */
};

/* Creates it. No test writes behind `cap`. */
void filekit_init(struct filekit *, struct fskit *, const char *name, size_t cap);
void filekit_release(struct filekit *);
void filekit_copy(struct filekit *to, const struct filekit *from); /* what must be in it; same cap */

/* The calls' results; what must be in it changes where they are 0. */
int filekit_write(struct filekit *, size_t off, size_t len);
int filekit_append(struct filekit *, size_t len);
int filekit_truncate(struct filekit *, size_t size);

/* Promises room for the holes of [from, to), multiples of a block; the size stays. */
int filekit_claim(struct filekit *, size_t from, size_t to);

/* Only what must be in it changes. */
void filekit_expect_write(struct filekit *, size_t off, size_t len);
void filekit_expect_truncate(struct filekit *, size_t size);

/* One read, and whether it gives the right bytes. Asserts success. */
bool filekit_same(struct filekit *, size_t off, size_t len);
/* Size and content; asserts. */
void filekit_verify(struct filekit *);
bool filekit_right(struct filekit *); /* the same as an answer */

/* The file's items, from extents: data, claims. Asserts that they are in order. */
struct filekit_items {
	unsigned data, claims;
	uint64_t data_blocks, claim_blocks;
};
struct filekit_items filekit_items(struct filekit *);

#endif

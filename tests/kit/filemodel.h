/*
 * filemodel.h - what one regular file should be: its bytes, and for each block whether it is a hole, promised, or data
 *
 * Changes are made to both, the file and the model, by the test; filemodel_expect compares everything that can be seen of the
 * file: size, blocks, content, and every answer of SEEK_DATA and SEEK_HOLE.
 */
#ifndef ARBOR_TESTS_KIT_FILEMODEL_H
#define ARBOR_TESTS_KIT_FILEMODEL_H

#include "tests/kit/fskit.h"
#include "tests/kit/rng.h"

struct filemodel {
	uint64_t cap; /* bytes: no call goes beyond */
	uint64_t size;
	size_t inline_max;
	bool inlined; /* there is inline data */
	uint8_t *bytes;
	char *kind; /* of each block: '.' hole, 'c' claim, 'D' data */
};

void filemodel_init(struct filemodel *, struct fskit *, uint64_t cap);
void filemodel_release(struct filemodel *);
void filemodel_assign(struct filemodel *,
		      const struct filemodel *from); /* becomes the same; both have been initialised */

void filemodel_write(struct filemodel *, const void *data, uint64_t len, uint64_t off);
void filemodel_truncate(struct filemodel *, uint64_t size);
void filemodel_fallocate(struct filemodel *, int mode, uint64_t off, uint64_t len);
/* As much as the call said it did. The same model twice is fine. */
void filemodel_copy(const struct filemodel *from, uint64_t from_off, struct filemodel *to, uint64_t to_off,
		    uint64_t len);

void filemodel_expect(const struct filemodel *, struct fskit *, uint64_t node);
/* Whether the file reads as this, holes included. The number of blocks is not looked at: it is that of what has been removed
 * already and is still there (orphan.h), too. */
bool filemodel_is(const struct filemodel *, struct fskit *, uint64_t node);

#endif

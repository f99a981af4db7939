/*
 * metakit.h - a filesystem with a bit of everything, and where its metadata stands on the disk
 *
 * For tests that damage one place after the other. What must not fail asserts.
 */
#ifndef ARBOR_TESTS_KIT_METAKIT_H
#define ARBOR_TESTS_KIT_METAKIT_H

#include "tests/kit/fskit.h"

enum meta_kind { META_SUPER, META_SPACE, META_NODE, META_COPY };

/* A superblock slot, a home of the space map that is in force, a node or its second copy. */
struct meta_place {
	enum meta_kind kind;
	uint64_t addr;
	uint32_t blocks;
	uint64_t twin;	/* of a node its second copy, and the other way round; else 0 */
	unsigned level; /* of nodes, and of pages of the map */
};

struct meta_places {
	struct meta_place *at;
	size_t n, cap;
};

/* What the newest checkpoint reaches: both trees, every snapshot; both slots; the pages of the map. */
void metakit_places(struct fskit *, struct meta_places *ret);
void metakit_free(struct meta_places *);

/* Directories, files of all sizes in the order of a seed, clones, promises, attributes, symlinks, deletions; with `snapshot` one in
 * the middle of it. About `files` files. */
void metakit_fill(struct fskit *, unsigned files, bool snapshot);
/* Reads everything in live and says what it is in one number; `stray` (may be NULL) is how many calls failed. */
uint64_t metakit_digest(struct fskit *, unsigned *stray);

/* All files' data blocks: where block `i` of the file at `path` is. 0: nowhere. */
uint64_t metakit_block(struct fskit *, const char *path, uint64_t i);

#endif

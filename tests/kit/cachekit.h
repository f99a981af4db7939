/*
 * cachekit.h - nodes of one item each, for tests of the node cache on a treekit
 */
#ifndef ARBOR_TESTS_KIT_CACHEKIT_H
#define ARBOR_TESTS_KIT_CACHEKIT_H

#include "btree/err.h"
#include "tests/kit/treekit.h"

#define CACHEKIT_GEN (UINT64_C(1) << GEN_EPOCH_SHIFT | 5)

/* Counts what is reported; give it to err_set_sink. */
struct cachekit_lines {
	unsigned errors, warnings;
};
void cachekit_count(void *lines, enum log_level, const char *line);

/* The key of the one item of the node at this address. */
struct key cachekit_key(uint64_t addr);

/* A dirty leaf with one item that says where it is. */
struct node *cachekit_born(struct treekit *, uint64_t addr, uint64_t copy, uint64_t gen);
/* Seals and writes nodes; what cache_write says. */
int cachekit_write(struct treekit *, struct node **, size_t n);
/* Both; the reference. */
struct ref cachekit_written(struct treekit *, uint64_t addr, uint64_t copy, uint64_t gen);

/* Loads in an epoch of its own, making room; the node is pinned. */
int cachekit_load(struct treekit *, struct ref, struct node **ret);
void cachekit_assert_content(const struct node *, struct ref);
bool cachekit_resident(struct treekit *, struct ref);
struct cache_stats cachekit_stats(struct treekit *);

#endif

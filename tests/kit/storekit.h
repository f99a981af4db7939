/*
 * storekit.h - a store on a simulated disk, for unit tests
 *
 * Opened with `manual`: nothing happens but what a call does. What must not fail asserts; what a test may want to see fail
 * returns the error. Items are those of kv_records.h; a *file* here is an inode number with KVT_EXTENT items, keyed by the
 * number of their first block.
 */
#ifndef ARBOR_TESTS_KIT_STOREKIT_H
#define ARBOR_TESTS_KIT_STOREKIT_H

#include "tests/kit/kv_records.h"
#include "tests/kit/simdev.h"
#include "wal/store.h"

struct storekit {
	struct simdev *disk;
	struct store *s; /* NULL: not open */
	struct store_options opt;
	uint64_t next_tag;
	struct check_result checked; /* by the last storekit_check */
};

/* A disk of so many blocks, made and opened. mkfs: NULL: 4 KiB nodes, the smallest log. */
void storekit_init(struct storekit *, uint64_t blocks, const struct store_mkfs_options *mkfs);
void storekit_release(struct storekit *);
void storekit_open(struct storekit *);
void storekit_close(struct storekit *);
/* The process dies; and, with power, what was not flushed is gone, too. Views and batches have been closed before. */
void storekit_kill(struct storekit *, bool power);
/* After it: opened again. */
void storekit_reboot(struct storekit *, bool power);
void storekit_check(struct storekit *);	 /* asserts that nothing is wrong */
void storekit_settle(struct storekit *); /* checkpoints, until what was released is free */

/* Messages of the engine: how many lines had this text since the last storekit_quiet. */
void storekit_quiet(void);
unsigned storekit_said(const char *text);
void storekit_print(void); /* the last few */

/* One batch each; `v` is live or a transaction. */
int storekit_put(struct view *v, uint64_t ino, uint64_t off, const char *text);
int storekit_del(struct view *v, struct key key);
int storekit_remove(struct view *v, uint64_t ino); /* all items of it, making room */
int storekit_write(struct storekit *, struct view *v, uint64_t ino, uint64_t off, uint32_t blocks);
int storekit_claim(struct view *v, uint64_t ino, uint64_t off, uint32_t blocks);
/* Blocks from .. from + blocks - 1 of the extent at (ino, off), referred to at (ino2, off2) as well. */
int storekit_clone(struct view *v, uint64_t ino, uint64_t off, uint32_t from, uint32_t blocks, uint64_t ino2, uint64_t off2);

/* Asserts: the item's text, or that there is none (NULL). */
void storekit_expect(struct view *v, uint64_t ino, uint64_t off, const char *text);
/* Reads every extent of the file and verifies each byte; how many blocks, claims not counted. */
uint32_t storekit_read(struct view *v, uint64_t ino);
/* Where the extent at (ino, off) lies; addr 0: not there or a claim. */
struct extent storekit_where(struct view *v, uint64_t ino, uint64_t off);
/* How many items there are in all. */
unsigned storekit_items(struct view *v);

uint64_t storekit_free(struct storekit *); /* blocks */

static inline struct key storekit_file(uint64_t ino, uint64_t off)
{
	return key_make(ino, KVT_EXTENT, off);
}

#endif

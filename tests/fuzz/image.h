/*
 * image.h - damaged images of whole filesystems, for the targets that mount and check them
 *
 * An input is not an image but a *script*: which base image, and a list of changes to it. The bases are made in memory by fixed
 * recipes (image_base.c); a walk over each lists all its *places*, the fields of every structure that stands in it, by what
 * they are part of and what they mean (image_map.c). A change names a place by its group and its number there, so it hits
 * the middle of a structure whatever the number is; afterwards the checksums on the way to it are put right (image_script.c), or
 * hardly any change would get past the first check. So an input of some ten bytes is a whole image, inputs can be kept
 * in the repository, and a mutation of an input is a mutation of the image where it matters.
 *
 * Numbers of places follow from the recipe and from how the engine lays things out; a kept script goes on to be a valid one
 * when these change, but may then hit something else. What must be kept for good becomes a unit test.
 */
#ifndef ARBOR_TESTS_FUZZ_IMAGE_H
#define ARBOR_TESTS_FUZZ_IMAGE_H

#include <assert.h>

#include "btree/endian.h"
#include "btree/types.h"
#include "fs/fs.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"

/* ---- scripts ---- */

struct image_head {
	uint8_t base;  /* of IMAGE_BASES, modulo */
	uint8_t flags; /* the target's */
	le16 seed;     /* of what is done with the image */
};
static_assert(sizeof(struct image_head) == 4, "image_head");

/* What a change does to its place. Numbers are kept scripts' (modulo their count). */
enum image_how {
	IMAGE_SET,   /* value */
	IMAGE_FLIP,  /* bit `value` */
	IMAGE_ADD,   /* value - 128, of one byte: a little more or less */
	IMAGE_CONST, /* a number at which things change their meaning */
	IMAGE_POOL,  /* another number that means the same: an address for an address, an inode for an inode */
	IMAGE_LIKE,  /* what another place of the group has */
	IMAGE_SWAP,  /* both */
	IMAGE_HOWS
};

#define IMAGE_RAW 0x80u /* in `how`: checksums stay as they are */
#define IMAGE_ONE 0x40u /* nodes with a second copy: only the first changes */

struct image_change {
	uint8_t group; /* of IMAGE_GROUPS, modulo */
	uint8_t how;
	le16 arg;   /* groups EDIT and BLOCK: what to do */
	le32 place; /* modulo the group's number of places */
	le64 value;
};
static_assert(sizeof(struct image_change) == 16, "image_change");

#define IMAGE_CHANGES_MAX 64u

/* ---- places ---- */

/* The structure a place is part of. */
#define IMAGE_GROUPS(X)                                                                                                \
	X(SUPER)                                                                                                       \
	X(NODE)                                                                                                        \
	X(SLOT)                                                                                                        \
	X(REF)                                                                                                         \
	X(INODE)                                                                                                       \
	X(XATTR)                                                                                                       \
	X(DIRENT)                                                                                                      \
	X(INLINE)                                                                                                      \
	X(EXTENT)                                                                                                      \
	X(ORPHAN)                                                                                                      \
	X(VOLUME)                                                                                                      \
	X(SHARED)                                                                                                      \
	X(SYSTEM)                                                                                                      \
	X(SPACE)                                                                                                       \
	X(BITMAP)                                                                                                      \
	X(SEGMENT)                                                                                                     \
	X(RECORD)                                                                                                      \
	X(CHANGE)                                                                                                      \
	X(TAIL)                                                                                                        \
	X(LOGGED)                                                                                                      \
	X(DATA)                                                                                                        \
	X(EDIT)                                                                                                        \
	X(BLOCK)

enum image_group {
#define X(name) IMAGE_##name,
	IMAGE_GROUPS(X)
#undef X
		IMAGE_N_GROUPS
};

/* What a number means, which says what else could stand there. */
enum image_meaning {
	MEANS_NUMBER,
	MEANS_ADDR,
	MEANS_GEN,
	MEANS_INO,
	MEANS_OBJ,    /* ino << 8 | type */
	MEANS_OFFSET, /* of a key: bytes, or a hash */
	MEANS_BLOCKS,
	MEANS_BYTES,
	MEANS_MODE,
	MEANS_SERIAL,
	MEANINGS
};

struct image_place {
	uint32_t block;
	uint16_t at; /* byte in the block, which holds all of it */
	uint8_t width, meaning;
};

/* Something with a checksum of its own, at `addr`. */
enum image_owner_kind { OWNER_SUPER, OWNER_NODE, OWNER_SPACE, OWNER_SEGMENT, OWNER_BODY };
struct image_owner {
	enum image_owner_kind kind;
	uint64_t addr, copy;
	uint32_t blocks;
	unsigned level;		  /* nodes, space pages */
	struct image_place entry; /* space pages: the entry that names it; bodies: change_sum of the record */
	uint64_t bytes;		  /* bodies */
};

/* Where the checksum of a data block stands. */
struct image_sum {
	uint64_t addr;
	struct image_place place;
};

struct image_list {
	struct image_place *at;
	size_t n, cap;
};

struct image {
	struct simdev *disk; /* never opened again */
	uint64_t blocks, log_start, log_blocks;
	uint32_t node_size;
	struct image_list group[IMAGE_N_GROUPS];
	struct image_list meaning[MEANINGS];
	struct image_owner *owner;
	size_t n_owners, cap_owners;
	uint32_t *owner_of; /* by block: 1 + its number, or 0 */
	struct image_sum *sum;
	size_t n_sums, cap_sums;
	uint64_t *inos; /* that have an inode item */
	size_t n_inos, cap_inos;
};

#define IMAGE_BASES 4u

/* Made when first asked for, and kept. */
const struct image *image_base(unsigned n);
struct simdev *image_recipe(unsigned n); /* image_base.c: what it is made of */
void image_walk(struct image *);	 /* image_map.c: finds the places */
const char *image_group_name(enum image_group);

/* The base with the changes made; for simdev_free. Too short a script is its base. */
struct simdev *image_make(const uint8_t *script, size_t len, struct image_head *ret_head);

struct simdev *image_copy(struct simdev *); /* content and size, and no trace */

/* A script with a few changes, by chance; and one like the one in buf. */
size_t image_script(uint8_t *buf, size_t cap, struct rng *);
size_t image_mutate(uint8_t *buf, size_t len, size_t cap, struct rng *);

/* ---- what is done with it: image_work.c ---- */

struct image_work {
	struct fs *fs;
	struct rng rng;
	bool whole;   /* the check found nothing: nothing may be said to be damaged */
	bool lost;    /* a repair gave up content: reading it is EIO */
	unsigned sum; /* of all that was read */
};

void image_options(struct fs_options *, uint64_t seed); /* a small cache, no threads, a clock of its own */
/* Reads all there is, in odd sizes, from all sides. Asserts what no damage excuses. */
void image_look(struct image_work *);
/* A fixed set of changes all over the place, and what is above files: snapshots, transactions, checkpoints. */
void image_change_all(struct image_work *);
/* With ARBOR_FUZZ_TALK in the environment: a line to stderr; the engine's messages go there then, too. */
void image_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* While on: an allocation that only a damaged number can have asked for aborts. */
void image_guard(bool on);
/* Aborts, with a line that says what. */
#define image_must(cond, what) ((cond) ? (void)0 : image_fail(what, #cond, __FILE__, __LINE__))
void image_fail(const char *what, const char *cond, const char *file, int line) __attribute__((noreturn));

#endif

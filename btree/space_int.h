/*
 * space_int.h - the inside of the space map, shared by its own sources only
 *
 *	space_page.c	what a page means: geometry, verification, its form on disk (no state, no lock)
 *	space_map.c	the pages in memory: finding, loading, dropping, counting
 *	space.c		the allocator: alloc, free, and the invariants
 *	space_ckpt.c	what changes the durable map: apply, write, commit, grow, rebuild
 *	space_scrub.c	pages as the device has them
 *
 * Functions that need the lock end in _locked; those marked "may unlock" let go of it while the device reads, after
 * which no pointer into the map that was taken before is good any more.
 */
#ifndef ARBOR_BTREE_SPACE_INT_H
#define ARBOR_BTREE_SPACE_INT_H

#include <bsd/sys/queue.h>
#include <pthread.h>

#include "btree/space.h"

#define SPACE_WORDS (SPACE_GROUP_BLOCKS / 64u)
#define SPACE_HOME_NONE 0xff

/* What the geometry says, worked out once. */
struct space_shape {
	struct space_geometry geo;
	uint64_t groups;
	uint64_t end;	 /* behind the last block of the last group */
	unsigned levels; /* of radix pages; the root page is of this level */
};

struct space_page;

/* A page as the page above it knows it. Guarded by space.lock. */
struct space_child {
	struct space_root disk;	 /* the entry as last written or read */
	uint64_t free_used;	 /* blocks below that may be handed out; 0 when bad */
	uint64_t free_durable;	 /* what the next checkpoint will record */
	struct space_page *page; /* NULL: not loaded */
	uint64_t written;	 /* the checkpoint that wrote `disk`; 0: before this mount */
	uint32_t run_max;	 /* no run of free blocks below is longer */
	uint8_t home_prev;	 /* the home before disk.home */
	bool bad;		 /* unreadable: everything below counts as used */
};

/* What both kinds of page have in front. Guarded by space.lock. */
struct space_page {
	TAILQ_ENTRY(space_page) clock;
	LIST_ENTRY(space_page) dirty_link;
	struct space_radix *parent; /* NULL: the root page */
	uint64_t first;		    /* group */
	unsigned level;		    /* 0: a space_bitmap, else a space_radix */
	bool dirty;		    /* says something its home does not say */
	bool hot;		    /* used since the clock's hand passed */
};

struct space_bitmap {
	struct space_page page;
	uint64_t used[SPACE_WORDS];
	uint64_t durable[SPACE_WORDS];
};

struct space_radix {
	struct space_page page;
	unsigned loaded; /* children in memory */
	struct space_child child[SPACE_FANOUT];
};

/* Next fit: where to look first. The end of a group (bit == SPACE_GROUP_BLOCKS) is not the beginning of the next. */
struct space_cursor {
	uint64_t g;
	uint32_t bit;
};

struct space {
	struct bdev *dev;
	size_t mem_max;
	uint64_t log_start, log_end;  /* as in shape.geo; never change */
	_Atomic uint64_t end, groups; /* as in shape, for readers without the lock */

	pthread_mutex_t lock; /* guards all below */
	struct space_shape shape;
	struct space_child root;
	TAILQ_HEAD(, space_page) clock; /* every page in memory */
	LIST_HEAD(, space_page) dirty[SPACE_LEVELS_MAX + 1];
	size_t pages, mem;
	unsigned keep; /* > 0: nothing is dropped */

	struct space_cursor cursor[SPACE_STREAMS];
	uint64_t freed;	    /* how often room has appeared */
	uint64_t bad_pages; /* known to be unreadable */
	uint64_t alloc_end; /* blocks from here on are not handed out yet: see space_grow */
	uint64_t held;	    /* free blocks from alloc_end on */

	uint64_t committed;		/* number of the newest durable checkpoint; the one found at open is 1 */
	bool writing;			/* written, not committed */
	uint64_t write_end, write_held; /* shape.end and held as that checkpoint has them */
	bool failed;			/* an apply or write failed half way: no further checkpoint */
};

/* --- space_page.c */

/* -EINVAL: no filesystem has this geometry. */
int space_shape_init(const struct space_geometry *, struct space_shape *ret);
/* Groups below a page of this level. */
static inline uint64_t space_span(unsigned level)
{
	return UINT64_C(1) << (7 * level);
}
/* Which child of a page of level `level + 1` leads to group g. */
static inline unsigned space_slot(unsigned level, uint64_t g)
{
	return (unsigned)(g >> (7 * level)) % SPACE_FANOUT;
}
static_assert(SPACE_FANOUT == 1 << 7, "space_span");
/* Blocks of group g in front of everything that can be handed out: homes, and in group 0 the superblocks. */
uint32_t space_group_front(uint64_t g);
/* Blocks that can be handed out below the page of this level that begins with group first. */
uint64_t space_capacity(const struct space_shape *, unsigned level, uint64_t first);
uint64_t space_home_addr(unsigned level, uint64_t first, unsigned home);
/* Sets the bits of group g that are never free. */
void space_set_fixed(const struct space_shape *, uint64_t g, uint64_t *words);

/* Why a page is bad: kept until it is certain that it is, so that it is reported once or not at all. */
struct space_damage {
	int err;
	const char *reason;
	uint64_t got, want;
};

/* A page of which nothing was ever written. NULL: no memory. */
struct space_page *space_page_new(const struct space_shape *, unsigned level, uint64_t first);
/* As `buf` and its entry say. 0, -ENOMEM, or another error and *ret_why filled. */
int space_page_decode(const struct space_shape *, unsigned level, uint64_t first, const struct space_root *entry,
		      const uint8_t *buf, struct space_page **ret, struct space_damage *ret_why);
/* Fills buf and entry->sum; the other fields of the entry are given. */
void space_page_encode(const struct space_page *, struct space_root *entry, uint8_t *buf);
int space_entry_check(const struct space_shape *, unsigned level, uint64_t first, const struct space_root *entry,
		      struct space_damage *ret_why);
/* The entry of a page whose content is gone for good. */
static inline bool space_entry_lost(const struct space_root *entry)
{
	return entry->gen != 0 && entry->sum == 0;
}
/* A child as its entry alone describes it. */
void space_child_init(struct space_child *, const struct space_shape *, unsigned level, uint64_t first,
		      const struct space_root *entry);
size_t space_page_bytes(const struct space_page *);

static inline struct space_bitmap *space_as_bitmap(struct space_page *p)
{
	assert(p->level == 0);
	return (struct space_bitmap *)p;
}

static inline struct space_radix *space_as_radix(struct space_page *p)
{
	assert(p->level > 0);
	return (struct space_radix *)p;
}

/* --- space_map.c */

struct space_child *space_child_of_locked(struct space *, const struct space_page *);
/* Where the page of this level over group g hangs; NULL when the way there is not loaded or bad. */
struct space_child *space_find_child_locked(struct space *, unsigned level, uint64_t g, struct space_radix **ret_parent);
bool space_entry_equal(const struct space_root *a, const struct space_root *b);
/* The topmost unreadable child on the way to group g; NULL: there is none, or the way is not loaded. */
struct space_child *space_bad_locked(struct space *, uint64_t g, unsigned *ret_level, struct space_radix **ret_parent);

/*
 * The page of this level over group g, loaded if need be (may unlock). -ENOMEM, or -EBADMSG: it, or a page above it, is
 * bad.
 */
int space_get_locked(struct space *, unsigned level, uint64_t g, struct space_page **ret);
int space_get_bitmap_locked(struct space *, uint64_t g, struct space_bitmap **ret);
/* Loads the bitmaps of the given groups together (may unlock). What is bad, or could not be inserted, is left out. */
int space_prefetch_locked(struct space *, const uint64_t *groups, unsigned n);
#define SPACE_PREFETCH 32u
/* Reads the root page. Unlike the others fails with the device's error. */
int space_load_root_locked(struct space *);

/* From *g on, the first group below `end` that may have a run of `need` free blocks; 1: none (may unlock). */
int space_next_group_locked(struct space *, uint64_t *g, uint64_t end, uint32_t need);

/* Puts a new page below its child, which must have none. */
void space_insert_locked(struct space *, struct space_child *, struct space_radix *parent, struct space_page *);
/* Drops pages nobody needs while there are more bytes than mem_max; looks at `look` of them at most. */
void space_shrink_locked(struct space *, size_t look);
/* The page, and so all above it, has to be written. */
void space_dirty_locked(struct space *, struct space_page *);
/* Adds to the free counts of a page and of all above it. */
void space_count_locked(struct space *, struct space_page *, int64_t used, int64_t durable);
/* Whether no run of the page can be too long for run_max, its own and those above. */
bool space_run_bounded_locked(struct space *, const struct space_page *);
/* A run of this length has appeared in the page / no run of the page is longer than this. */
void space_run_raise_locked(struct space *, struct space_page *, uint32_t len);
void space_run_lower_locked(struct space *, struct space_page *, uint32_t len);

/* Checks every invariant of everything in memory (debug builds; no-op with NDEBUG). */
void space_assert_valid_locked(struct space *);
/* The same at the beginning and end of every public function, in builds with ARBOR_PARANOID. */
#ifdef ARBOR_PARANOID
#define space_assert_paranoid_locked(s) space_assert_valid_locked(s)
#else
#define space_assert_paranoid_locked(s) ((void)(s))
#endif

#endif

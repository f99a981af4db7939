/*
 * The meaning of one page of the space map: where it lives, what must be true of it, how it is stored. No state and no
 * lock; space_format.h has the bytes.
 *
 * A page carries no header, so nothing in it says what it is; its entry one level up does. A checksum seeded with
 * generation and address proves that these are the bytes of that write at that home. What a correct writer can never
 * have produced is refused all the same (a free count that is not the bitmap's, a fixed block that is free), because
 * the allocator builds on it.
 */
#include "btree/bits.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space_int.h"

#include <xxhash.h>

static_assert(SPACE_GROUP_BLOCKS / 8 == BLOCK_SIZE, "a bitmap fills its page");
static_assert(SPACE_FANOUT * sizeof(struct disk_space_entry) == BLOCK_SIZE, "a radix page is full");

/* How many multiples of m are in [a, b). */
static uint64_t multiples(uint64_t a, uint64_t b, uint64_t m)
{
	return (b + m - 1) / m - (a + m - 1) / m;
}

uint32_t space_group_front(uint64_t g)
{
	uint32_t pages = 0;

	for (unsigned level = 0; level <= SPACE_LEVELS_MAX && g % space_span(level) == 0; level++)
		pages++;
	return (g == 0 ? SPACE_META_GROUP0 : 0) + pages * SPACE_HOMES;
}

uint64_t space_log_start_min(void)
{
	return space_group_front(0);
}

int space_shape_init(const struct space_geometry *geo, struct space_shape *ret)
{
	struct space_shape sh = { .geo = *geo, .groups = geo->blocks / SPACE_GROUP_BLOCKS, .levels = 1 };
	uint64_t tail = geo->blocks % SPACE_GROUP_BLOCKS;

	/* A tail that has no room for more than its homes is left alone. */
	if (tail > space_group_front(sh.groups))
		sh.groups++;
	sh.end = sh.groups * SPACE_GROUP_BLOCKS;
	if (sh.end > geo->blocks)
		sh.end = geo->blocks;
	if (sh.groups == 0 || sh.groups > space_span(SPACE_LEVELS_MAX))
		return -EINVAL;
	while (space_span(sh.levels) < sh.groups)
		sh.levels++;

	/* The log does not pass the end of group 0, where group 1 has its homes. */
	if (geo->log_blocks > 0) {
		uint64_t room = sh.end < SPACE_GROUP_BLOCKS ? sh.end : SPACE_GROUP_BLOCKS;

		if (geo->log_start < space_log_start_min() || geo->log_start > room ||
		    geo->log_blocks > room - geo->log_start)
			return -EINVAL;
	}
	*ret = sh;
	return 0;
}

uint64_t space_capacity(const struct space_shape *sh, unsigned level, uint64_t first)
{
	uint64_t behind = first + space_span(level);
	uint64_t blocks, fixed = 0;

	if (first >= sh->groups)
		return 0;
	if (behind > sh->groups)
		behind = sh->groups;
	blocks = behind == sh->groups ? sh->end : behind * SPACE_GROUP_BLOCKS;
	blocks -= first * SPACE_GROUP_BLOCKS;
	for (unsigned l = 0; l <= SPACE_LEVELS_MAX; l++)
		fixed += multiples(first, behind, space_span(l)) * SPACE_HOMES;
	if (first == 0)
		fixed += SPACE_META_GROUP0 + sh->geo.log_blocks;
	return blocks - fixed;
}

uint64_t space_blocks_usable(const struct space_geometry *geo)
{
	struct space_shape sh;

	return space_shape_init(geo, &sh) ? 0 : space_capacity(&sh, sh.levels, 0);
}

uint64_t space_home_addr(unsigned level, uint64_t first, unsigned home)
{
	return first * SPACE_GROUP_BLOCKS + (first == 0 ? SPACE_META_GROUP0 : 0) + SPACE_HOMES * level + home;
}

/* The ranges of group g that are never free; `out` has room for three. */
static unsigned fixed_ranges(const struct space_shape *sh, uint64_t g, uint32_t out[3][2])
{
	uint64_t start = g * SPACE_GROUP_BLOCKS;
	unsigned n = 0;

	out[n][0] = 0;
	out[n++][1] = space_group_front(g);
	if (g == 0 && sh->geo.log_blocks > 0) {
		out[n][0] = (uint32_t)sh->geo.log_start;
		out[n++][1] = (uint32_t)(sh->geo.log_start + sh->geo.log_blocks);
	}
	if (sh->end < start + SPACE_GROUP_BLOCKS) {
		out[n][0] = (uint32_t)(sh->end - start);
		out[n++][1] = SPACE_GROUP_BLOCKS;
	}
	return n;
}

void space_set_fixed(const struct space_shape *sh, uint64_t g, uint64_t *words)
{
	uint32_t range[3][2];
	unsigned n = fixed_ranges(sh, g, range);

	for (unsigned i = 0; i < n; i++)
		bits_set(words, range[i][0], range[i][1]);
}

size_t space_page_bytes(const struct space_page *p)
{
	return p->level ? sizeof(struct space_radix) : sizeof(struct space_bitmap);
}

void space_child_init(struct space_child *c, const struct space_shape *sh, unsigned level, uint64_t first,
		      const struct space_root *entry)
{
	uint64_t free = entry->gen ? entry->free : space_capacity(sh, level, first);

	*c = (struct space_child){
		.disk = *entry,
		.free_used = free,
		.free_durable = free,
		.run_max = free < SPACE_GROUP_BLOCKS ? (uint32_t)free : SPACE_GROUP_BLOCKS,
		.home_prev = SPACE_HOME_NONE,
	};
}

static struct space_page *page_alloc(unsigned level, uint64_t first)
{
	struct space_page *p = mem_zalloc(level ? sizeof(struct space_radix) : sizeof(struct space_bitmap));

	if (!p)
		return NULL;
	p->level = level;
	p->first = first;
	return p;
}

struct space_page *space_page_new(const struct space_shape *sh, unsigned level, uint64_t first)
{
	static const struct space_root never;
	struct space_page *p = page_alloc(level, first);

	if (!p)
		return NULL;
	if (level == 0) {
		struct space_bitmap *bm = space_as_bitmap(p);

		space_set_fixed(sh, first, bm->used);
		space_set_fixed(sh, first, bm->durable);
	} else {
		for (unsigned i = 0; i < SPACE_FANOUT; i++)
			space_child_init(&space_as_radix(p)->child[i], sh, level - 1, first + i * space_span(level - 1),
					 &never);
	}
	return p;
}

static int damage(struct space_damage *why, int err, const char *reason, uint64_t got, uint64_t want)
{
	*why = (struct space_damage){ err, reason, got, want };
	return err;
}

static bool all_zero(const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n > 0 && b[n - 1] == 0)
		n--;
	return n == 0;
}

int space_entry_check(const struct space_shape *sh, unsigned level, uint64_t first, const struct space_root *entry,
		      struct space_damage *why)
{
	uint64_t capacity = space_capacity(sh, level, first);

	if (entry->gen == 0) {
		if (entry->sum || entry->free || entry->home)
			return damage(why, -EUCLEAN, "entry without generation is not empty", entry->free, 0);
		return 0;
	}
	if (first >= sh->groups)
		return damage(why, -EUCLEAN, "entry past the end", first, sh->groups);
	if (entry->home >= SPACE_HOMES)
		return damage(why, -EUCLEAN, "home", entry->home, SPACE_HOMES - 1);
	if (entry->free > capacity)
		return damage(why, -EUCLEAN, "free blocks above capacity", entry->free, capacity);
	return 0;
}

static uint64_t checksum(const uint8_t *buf, uint64_t gen, uint64_t addr)
{
	uint64_t sum = XXH3_64bits_withSeed(buf, BLOCK_SIZE, gen ^ addr);

	return sum ? sum : 1;
}

static int decode_bitmap(const struct space_shape *sh, const struct space_root *entry, const uint8_t *buf,
			 struct space_bitmap *bm, struct space_damage *why)
{
	uint32_t range[3][2];
	unsigned n = fixed_ranges(sh, bm->page.first, range);
	uint64_t free;

	for (unsigned i = 0; i < SPACE_WORDS; i++) {
		le64 w;

		memcpy(&w, buf + i * sizeof(w), sizeof(w));
		bm->used[i] = le64_get(w);
	}
	for (unsigned i = 0; i < n; i++)
		if (!bits_all_set(bm->used, range[i][0], range[i][1]))
			return damage(why, -EUCLEAN, "fixed block is free",
				      bits_next_clear(bm->used, range[i][0], range[i][1]), range[i][0]);
	free = SPACE_GROUP_BLOCKS - bits_count(bm->used, 0, SPACE_GROUP_BLOCKS);
	if (free != entry->free)
		return damage(why, -EUCLEAN, "free blocks", free, entry->free);
	memcpy(bm->durable, bm->used, sizeof(bm->durable));
	return 0;
}

static int decode_radix(const struct space_shape *sh, const struct space_root *entry, const uint8_t *buf,
			struct space_radix *radix, struct space_damage *why)
{
	unsigned level = radix->page.level - 1;
	uint64_t free = 0;

	for (unsigned i = 0; i < SPACE_FANOUT; i++) {
		uint64_t first = radix->page.first + i * space_span(level);
		struct disk_space_entry d;
		struct space_root e;
		int err;

		memcpy(&d, buf + i * sizeof(d), sizeof(d));
		if (!all_zero(d.zero, sizeof(d.zero)))
			return damage(why, -EUCLEAN, "entry's zero bytes", i, 0);
		e = (struct space_root){
			.gen = le64_get(d.gen),
			.sum = le64_get(d.sum),
			.free = le64_get(d.free),
			.home = d.home,
		};
		err = space_entry_check(sh, level, first, &e, why);
		if (err)
			return err;
		space_child_init(&radix->child[i], sh, level, first, &e);
		free += radix->child[i].free_durable;
	}
	if (free != entry->free)
		return damage(why, -EUCLEAN, "free blocks", free, entry->free);
	return 0;
}

int space_page_decode(const struct space_shape *sh, unsigned level, uint64_t first, const struct space_root *entry,
		      const uint8_t *buf, struct space_page **ret, struct space_damage *why)
{
	uint64_t sum = checksum(buf, entry->gen, space_home_addr(level, first, entry->home));
	struct space_page *p;
	int err;

	if (sum != entry->sum)
		return damage(why, -EBADMSG, "checksum", sum, entry->sum);
	p = page_alloc(level, first);
	if (!p)
		return -ENOMEM;
	err = level ? decode_radix(sh, entry, buf, space_as_radix(p), why)
		    : decode_bitmap(sh, entry, buf, space_as_bitmap(p), why);
	if (err) {
		mem_free(p);
		return err;
	}
	*ret = p;
	return 0;
}

void space_page_encode(const struct space_page *p, struct space_root *entry, uint8_t *buf)
{
	if (p->level == 0) {
		const struct space_bitmap *bm = (const struct space_bitmap *)p;

		for (unsigned i = 0; i < SPACE_WORDS; i++) {
			le64 w = le64_put(bm->durable[i]);

			memcpy(buf + i * sizeof(w), &w, sizeof(w));
		}
	} else {
		const struct space_radix *radix = (const struct space_radix *)p;

		for (unsigned i = 0; i < SPACE_FANOUT; i++) {
			const struct space_root *e = &radix->child[i].disk;
			struct disk_space_entry d = {
				.gen = le64_put(e->gen),
				.sum = le64_put(e->sum),
				.free = le64_put(e->free),
				.home = e->home,
			};

			memcpy(buf + i * sizeof(d), &d, sizeof(d));
		}
	}
	entry->sum = checksum(buf, entry->gen, space_home_addr(p->level, p->first, entry->home));
}

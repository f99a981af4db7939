/*
 * rebuild_map.c - maps of blocks while a store is rebuilt, and the space map at its end
 *
 * Which blocks may be written to is the one question a rebuilding must never get wrong. Everything that was seen to be
 * referred to is set in `used`, readable or not, and so is what the old space map calls used as far as it can be read: new
 * nodes go elsewhere. Places are handed out next fit, second copies from the middle of the device on.
 *
 * The space map itself is written by btree/space, which knows the homes of its pages: it is opened with the old root, so that
 * no page that this root leads to is overwritten. A root page that the device cannot read is given as lost, which is
 * how space.h names a page whose content is gone.
 */
#include "btree/bits.h"
#include "btree/mem.h"
#include "wal/rebuild_int.h"

#define WORDS (SPACE_GROUP_BLOCKS / 64u)

static uint64_t *words_at(const struct rmap *m, uint64_t addr)
{
	return m->words + addr / SPACE_GROUP_BLOCKS * WORDS;
}

uint64_t rmap_words(const struct rebuild *r)
{
	return r->groups * WORDS;
}

static struct rmap *map_of(struct rebuild *r, unsigned i)
{
	struct rmap *maps[] = { &r->used, &r->all, &r->nodes, &r->vn,	&r->vd,
				&r->vt,	  &r->pn,  &r->pd,    &r->seen, &r->other };

	return i < sizeof(maps) / sizeof(maps[0]) ? maps[i] : NULL;
}

int rmaps_open(struct rebuild *r)
{
	struct rmap *m;

	for (unsigned i = 0; (m = map_of(r, i)); i++) {
		m->words = mem_zalloc_array(rmap_words(r), sizeof(*m->words));
		if (!m->words)
			return -ENOMEM;
	}
	r->cursor[1].g = r->groups / 2;
	r->cursor[1].bit = r->groups > 1 ? 0 : (uint32_t)(r->super.blocks / 2);
	return 0;
}

void rmaps_close(struct rebuild *r)
{
	struct rmap *m;

	for (unsigned i = 0; (m = map_of(r, i)); i++)
		mem_free(m->words);
}

void rmap_clear(const struct rebuild *r, struct rmap *m)
{
	memset(m->words, 0, rmap_words(r) * sizeof(*m->words));
}

void rmap_set(struct rmap *m, uint64_t addr, uint32_t blocks)
{
	uint32_t from = addr % SPACE_GROUP_BLOCKS;

	bits_set(words_at(m, addr), from, from + blocks);
}

void rmap_unset(struct rmap *m, uint64_t addr, uint32_t blocks)
{
	uint32_t from = addr % SPACE_GROUP_BLOCKS;

	bits_clear(words_at(m, addr), from, from + blocks);
}

bool rmap_full(const struct rmap *m, uint64_t addr, uint32_t blocks)
{
	uint32_t from = addr % SPACE_GROUP_BLOCKS;

	return bits_all_set(words_at(m, addr), from, from + blocks);
}

bool rmap_empty(const struct rmap *m, uint64_t addr, uint32_t blocks)
{
	uint32_t from = addr % SPACE_GROUP_BLOCKS;

	return bits_all_clear(words_at(m, addr), from, from + blocks);
}

uint32_t rmap_piece(const struct rmap *m, uint64_t *addr, uint64_t end, bool set)
{
	const uint64_t *words = words_at(m, *addr);
	uint64_t base = *addr - *addr % SPACE_GROUP_BLOCKS;
	uint32_t at, stop = (uint32_t)(end - base), from = (uint32_t)(*addr - base);

	if (*addr >= end)
		return 0;
	at = set ? bits_next_set(words, from, stop) : bits_next_clear(words, from, stop);
	*addr = base + at;
	return (set ? bits_next_clear(words, at, stop) : bits_next_set(words, at, stop)) - at;
}

void rmap_add(const struct rebuild *r, struct rmap *to, const struct rmap *from)
{
	for (uint64_t i = 0; i < rmap_words(r); i++)
		to->words[i] |= from->words[i];
}

bool rmap_meet(const struct rebuild *r, const struct rmap *a, const struct rmap *b, uint64_t *ret_block)
{
	for (uint64_t i = 0; i < rmap_words(r); i++) {
		uint64_t both = a->words[i] & b->words[i];

		if (both) {
			*ret_block = i * 64 + (uint64_t)__builtin_ctzll(both);
			return true;
		}
	}
	return false;
}

/* ---- the old space map ---- */

static void group_words(const uint8_t *bytes, uint64_t *words)
{
	for (unsigned i = 0; i < WORDS; i++) {
		le64 w;

		memcpy(&w, bytes + i * sizeof(w), sizeof(w));
		words[i] = le64_get(w);
	}
}

/* How many blocks of a group the old map has wrong. Fixed ones are never reached, and always used. */
static uint64_t differences(const struct rebuild *r, uint64_t g, const uint64_t *old, const uint64_t *reached,
			    bool exact)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t wrong = exact ? old[i] ^ reached[i] : reached[i] & ~old[i];

		for (; wrong; wrong &= wrong - 1)
			n += space_valid(r->space, g * SPACE_GROUP_BLOCKS + i * 64 + (uint64_t)__builtin_ctzll(wrong),
					 1);
	}
	return n;
}

/* Where the map cannot be read, what is fixed is known all the same. */
static void set_fixed(struct rebuild *r, uint64_t g)
{
	for (uint64_t i = 0; i < SPACE_GROUP_BLOCKS; i++)
		if (!space_valid(r->space, g * SPACE_GROUP_BLOCKS + i, 1))
			rmap_set(&r->used, g * SPACE_GROUP_BLOCKS + i, 1);
}

int rebuild_look_at_space(struct rebuild *r, bool exact)
{
	uint8_t *bytes = mem_alloc(SPACE_GROUP_BLOCKS / 8);
	uint64_t *old = mem_alloc(WORDS * sizeof(*old));
	uint64_t bad = 0, wrong = 0;
	int err = bytes && old ? 0 : -ENOMEM;

	for (uint64_t g = 0; !err && g < r->groups; g++) {
		err = space_bitmaps(r->space, g, NULL, bytes);
		if (err == -ENOMEM)
			break;
		if (err) {
			bad++;
			set_fixed(r, g);
			err = 0;
			continue;
		}
		group_words(bytes, old);
		wrong += differences(r, g, old, r->all.words + g * WORDS, exact);
		for (unsigned i = 0; i < WORDS; i++)
			r->used.words[g * WORDS + i] |= old[i];
	}
	mem_free(bytes);
	mem_free(old);
	if (!err && bad)
		rebuild_found(r, REBUILD_SPACE, NULL, "the map of %" PRIu64 " groups of blocks cannot be read", bad);
	if (!err && wrong)
		rebuild_found(r, REBUILD_SPACE, NULL, "%" PRIu64 " blocks are marked wrongly", wrong);
	return err;
}

/* ---- places for new nodes ---- */

int rebuild_alloc(void *arg, bool copy, uint32_t blocks, uint64_t *ret_addr)
{
	struct rebuild *r = arg;
	struct space_cursor_at *at = &r->cursor[copy];

	/* The cursor's group is looked at twice: behind the cursor first, and from its beginning in the end. */
	for (uint64_t i = 0; i <= r->groups; i++) {
		uint64_t g = (at->g + i) % r->groups;
		uint32_t start, len;

		if (!bits_find_clear(r->used.words + g * WORDS, i ? 0 : at->bit, SPACE_GROUP_BLOCKS, blocks, blocks,
				     &start, &len))
			continue;
		*at = (struct space_cursor_at){ g, start + blocks };
		*ret_addr = g * SPACE_GROUP_BLOCKS + start;
		rmap_set(&r->used, *ret_addr, blocks);
		return 0;
	}
	return -ENOSPC;
}

/* ---- the new space map ---- */

int rebuild_write_space(struct rebuild *r, uint64_t gen)
{
	uint8_t *bytes = mem_alloc(SPACE_GROUP_BLOCKS / 8);
	uint64_t *old = mem_alloc(WORDS * sizeof(*old));
	int err = bytes && old ? 0 : -ENOMEM;

	for (uint64_t g = 0; !err && g < r->groups; g++) {
		const uint64_t *reached = r->all.words + g * WORDS;

		err = space_bitmaps(r->space, g, NULL, bytes);
		if (err == -ENOMEM)
			break;
		if (!err)
			group_words(bytes, old);
		if (!err && !differences(r, g, old, reached, true))
			continue;
		for (unsigned i = 0; i < WORDS; i++) {
			le64 w = le64_put(reached[i]);

			memcpy(bytes + i * sizeof(w), &w, sizeof(w));
		}
		err = space_rebuild_group(r->space, g, bytes);
	}
	if (!err)
		err = space_write(r->space, gen, &r->super.space);
	mem_free(bytes);
	mem_free(old);
	return err;
}

/*
 * The space map: which blocks are in use.
 *
 * The problem. A copy-on-write store allocates all the time and may not give a block out again until nothing durable
 * can reach it any more. The map itself has to survive crashes without a log and without allocating (or it would
 * change while it is written), must not be read whole at mount, and is asked so often that a search must cost a few
 * words of memory.
 *
 * The idea. One bit a block, in pages of one group each, under a radix tree of checksums. Every page of the map has
 * three homes at addresses that follow from its place in the tree. A checkpoint is a value, like everything here: it
 * writes what has changed to homes that neither of the last two durable checkpoints uses, up to the root page, whose
 * entry goes into the superblock. Two homes are taken by those two at most, so the third is always free, and writing
 * the map allocates nothing.
 *
 * In memory each group has the map twice. What is *used* may not be handed out; what is *durable* is what the next
 * checkpoint will say. Allocation makes a block used. The checkpoint makes it durable once it is reachable; released,
 * it stops being durable at once and stays used until the caller knows that nothing can reach or touch it any more. A
 * block that was handed out and never became reachable is used and not durable: after a crash it is simply free.
 *
 * Loading is lazy: a page is read when somebody needs it, and a page that says the same in memory and on disk may be
 * dropped. Free blocks are counted for every subtree, so a search does not enter what is full; run_max, an upper
 * bound of the longest free run below, keeps it out of what is only fragmented. A search that fails in a group has
 * measured the group's longest run, which becomes its bound; freeing measures the run that the freed blocks are now
 * part of, and raises the bound to it if it is longer. So a fragmented map is read through once, not at every call.
 *
 * Where a stream looks. Next fit: on from where it allocated last. When it comes to the end of a group of which half is
 * free again it begins that group anew, so that a small filesystem does not wander over the whole of a large sparse
 * image; otherwise it goes on to the next group no other stream is working in. It looks for the full length, then for
 * half of it, and so on; once NEAR_GROUPS groups have been searched in vain, it takes the longest run it has seen.
 * ENOSPC is said only when every group has been ruled out. Second copies of nodes keep out of the group of the first.
 *
 * Damage. A page that does not verify is reported once and everything below it counts as used. Events that belong
 * there cannot be recorded, so from the first such event on the page's entry is written without a checksum: the page
 * is lost for good, and cannot come back (a read error may be gone next time) with a map that lacks the event. Opening
 * the store rebuilds it from the trees where the device is small or has no room left, the checker in any case.
 *
 * Invariants, checked by space_assert_valid_locked:
 *
 *  I1	durable is a part of used.
 *  I2	Blocks that are never free (space_set_fixed) are set in both.
 *  I3	A child's free_used and free_durable are the counts of clear bits below it; a bad child's free_used is 0.
 *  I4	run_max is not less than any run of free blocks below.
 *  I5	A page that is not dirty says in durable what its home says; its entry's free is its free_durable. What is above
 *	a dirty page is dirty.
 *  I6	The page of a child that is not in memory has used == durable: free_used == free_durable unless bad.
 *  I7	A page in memory hangs below its parent, which is in memory too; counts of pages and bytes agree.
 *  I8	A bad child has no page.
 *
 * Rejected: extents in a tree of their own (recursion: the map's changes change the map), a log of the map's changes
 * (a second recovery), two homes (the older superblock slot would not survive a crash during the next checkpoint).
 */
#include "btree/bits.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space_int.h"

#define MEM_MAX_DEFAULT ((size_t)32 << 20)
/* A search gives up on the wanted length after so many groups it had to look into. */
#define NEAR_GROUPS 8

/* --- opening and closing */

/* Streams begin apart from each other: in groups of their own, or spread over the few there are. */
static void place_cursors(struct space *s)
{
	for (unsigned i = 0; i < SPACE_STREAMS; i++) {
		uint64_t at = s->shape.groups > SPACE_STREAMS ? (uint64_t)i * SPACE_GROUP_BLOCKS
							      : s->shape.end / SPACE_STREAMS * i;

		s->cursor[i] = (struct space_cursor){ at / SPACE_GROUP_BLOCKS, at % SPACE_GROUP_BLOCKS };
	}
}

int space_open(struct bdev *dev, const struct space_geometry *geo, const struct space_root *root, size_t mem_max,
	       struct space **ret)
{
	struct space_damage why;
	struct space_shape sh;
	struct space *s;
	int err;

	err = space_shape_init(geo, &sh);
	if (err || sh.end > dev->geo.blocks)
		return -EINVAL;
	s = mem_zalloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->dev = dev;
	s->mem_max = mem_max ? mem_max : MEM_MAX_DEFAULT;
	s->shape = sh;
	s->log_start = geo->log_blocks ? geo->log_start : 0;
	s->log_end = s->log_start + geo->log_blocks;
	atomic_init(&s->end, sh.end);
	atomic_init(&s->groups, sh.groups);
	pthread_mutex_init(&s->lock, NULL);
	TAILQ_INIT(&s->clock);
	for (unsigned i = 0; i <= SPACE_LEVELS_MAX; i++)
		LIST_INIT(&s->dirty[i]);
	s->committed = 1;
	s->alloc_end = sh.end;
	place_cursors(s);

	err = space_entry_check(&sh, sh.levels, 0, root, &why);
	if (err) {
		err_corrupt(err, __FILE__, __LINE__, "space root", 0, why.reason, why.got, why.want);
		s->root.disk = *root;
		s->root.disk.gen += root->gen == 0; /* or it would say: never written, all free */
		s->root.disk.free = 0;
		s->root.disk.home %= SPACE_HOMES;
		s->root.home_prev = SPACE_HOME_NONE;
		s->root.bad = true;
		s->bad_pages = 1;
		*ret = s;
		return 0;
	}
	space_child_init(&s->root, &sh, sh.levels, 0, root);
	pthread_mutex_lock(&s->lock);
	err = root->gen ? space_load_root_locked(s) : 0;
	pthread_mutex_unlock(&s->lock);
	if (err) {
		space_close(s);
		return err;
	}
	*ret = s;
	return 0;
}

void space_close(struct space *s)
{
	struct space_page *p, *next;

	if (!s)
		return;
	space_assert_valid_locked(s);
	TAILQ_FOREACH_SAFE(p, &s->clock, clock, next)
		mem_free(p);
	pthread_mutex_destroy(&s->lock);
	mem_free(s);
}

/* --- allocation */

struct search {
	enum space_stream stream;
	uint32_t want;	   /* never more than this */
	unsigned budget;   /* groups that may still be searched in vain */
	uint64_t avoid;	   /* a group to be left out */
	uint64_t best_g;   /* where the longest run was seen on the way */
	uint32_t best_len; /* 0: none */

	struct space_bitmap *bm; /* the find */
	uint32_t start, len;
};

/* How much of group g may be handed out from: all, except in the group a growth has added to. */
static uint32_t group_limit(const struct space *s, uint64_t g)
{
	uint64_t limit = s->alloc_end - g * SPACE_GROUP_BLOCKS;

	return limit < SPACE_GROUP_BLOCKS ? (uint32_t)limit : SPACE_GROUP_BLOCKS;
}

/*
 * Looks in one group, from a bit on, for a run of at least `need` blocks; `again`: from the group's beginning if
 * there is none behind.
 */
static bool search_group(struct space *s, struct search *q, struct space_bitmap *bm, uint32_t from, bool again,
			 uint32_t need)
{
	struct space_child *c = space_child_of_locked(s, &bm->page);
	uint32_t limit = group_limit(s, bm->page.first);
	bool found;

	if (c->free_used < need || c->run_max < need)
		return false;
	found = bits_find_clear(bm->used, from, limit, need, q->want, &q->start, &q->len);
	if (!found && from > 0 && again) {
		from = 0;
		found = bits_find_clear(bm->used, 0, limit, need, q->want, &q->start, &q->len);
	}
	q->bm = bm;
	if (found)
		return true;
	/* Searched whole, the group has been measured. (What a growth holds back has not been looked at.) */
	if (from == 0 && (limit == SPACE_GROUP_BLOCKS || s->alloc_end == s->shape.end))
		space_run_lower_locked(s, &bm->page, q->len);
	if (q->len > q->best_len) {
		q->best_g = bm->page.first;
		q->best_len = q->len;
	}
	return false;
}

static bool others_place(const struct space *s, enum space_stream stream, uint64_t g)
{
	for (unsigned i = 0; i < SPACE_STREAMS; i++)
		if (i != stream && s->cursor[i].g == g)
			return true;
	return false;
}

/*
 * One round through the map, from the stream's cursor to the cursor's group again, for a run of at least `need` blocks.
 * 0: found; 1: none. `near`: within the budget, and leaving other streams' groups to them. May unlock.
 */
static int search_round(struct space *s, struct search *q, uint32_t need, bool near)
{
	uint64_t groups = (s->alloc_end + SPACE_GROUP_BLOCKS - 1) / SPACE_GROUP_BLOCKS;
	uint64_t home = s->cursor[q->stream].g;
	uint32_t from = s->cursor[q->stream].bit;

	for (unsigned leg = 0; leg < 2; leg++) {
		uint64_t end = leg == 0 ? groups : home + 1;

		for (uint64_t g = leg == 0 ? home : 0;; g++) {
			struct space_bitmap *bm;
			bool at_home, again;
			int err;

			err = space_next_group_locked(s, &g, end, need);
			if (err < 0)
				return err;
			if (err > 0)
				break;
			at_home = leg == 0 && g == home;
			if (g == q->avoid || (near && g != home && others_place(s, q->stream, g)))
				continue;
			err = space_get_bitmap_locked(s, g, &bm);
			if (err == -EBADMSG)
				continue;
			if (err)
				return err;
			again = at_home && space_child_of_locked(s, &bm->page)->free_used >= SPACE_GROUP_BLOCKS / 2;
			if (search_group(s, q, bm, at_home ? from : 0, again, need))
				return 0;
			if (near && --q->budget == 0)
				return 1;
		}
	}
	return 1;
}

/* 0: found; 1: there is no run of `min` blocks. May unlock. */
static int search(struct space *s, struct search *q, uint32_t min)
{
	struct space_bitmap *bm;
	uint32_t need = q->want;
	int err;

	/* What is wanted, else half of it, and so on, as long as looking is cheap. */
	for (;;) {
		err = search_round(s, q, need, true);
		if (err <= 0)
			return err;
		if (need == min || q->budget == 0)
			break;
		need = need / 2 > min ? need / 2 : min;
	}
	if (q->best_len >= min) {
		err = space_get_bitmap_locked(s, q->best_g, &bm);
		if (err == -ENOMEM)
			return err;
		if (!err && search_group(s, q, bm, 0, false, q->best_len))
			return 0;
	}
	return search_round(s, q, min, false);
}

#define AVOID_NONE UINT64_MAX

/* May unlock. */
static int alloc_locked(struct space *s, enum space_stream stream, uint64_t avoid, uint32_t min, uint32_t want,
			uint64_t *ret_addr, uint32_t *ret_blocks)
{
	struct search q;
	uint64_t freed;
	int err;

	do {
		/* Room may appear, while the lock is let go of, where the search has already been. */
		freed = s->freed;
		q = (struct search){ .stream = stream, .want = want, .budget = NEAR_GROUPS, .avoid = avoid };
		err = search(s, &q, min);
	} while (err > 0 && s->freed != freed);
	if (err > 0)
		err = -ENOSPC;
	if (!err) {
		uint64_t g = q.bm->page.first;

		assert(bits_all_clear(q.bm->used, q.start, q.start + q.len));
		bits_set(q.bm->used, q.start, q.start + q.len);
		space_count_locked(s, &q.bm->page, -(int64_t)q.len, 0);
		s->cursor[stream] = (struct space_cursor){ g, q.start + q.len };
		*ret_addr = g * SPACE_GROUP_BLOCKS + q.start;
		*ret_blocks = q.len;
	}
	return err;
}

int space_alloc(struct space *s, enum space_stream stream, uint32_t min, uint32_t want, uint64_t *ret_addr,
		uint32_t *ret_blocks)
{
	int err;

	assert((unsigned)stream < SPACE_STREAMS);
	if (min == 0 || min > want || want > SPACE_GROUP_BLOCKS / 2)
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	err = alloc_locked(s, stream, AVOID_NONE, min, want, ret_addr, ret_blocks);
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/*
 * What damages one copy (a scratch, an erase block, a write gone astray) often reaches its neighbourhood. Within one group,
 * next fit from half a group away keeps both in step: where the first copies go on, so do the second.
 */
int space_alloc_apart(struct space *s, uint64_t other, uint32_t min, uint32_t want, uint64_t *ret_addr,
		      uint32_t *ret_blocks)
{
	uint64_t g = other / SPACE_GROUP_BLOCKS, first = g * SPACE_GROUP_BLOCKS, blocks;
	int err = -ENOSPC;

	if (min == 0 || min > want || want > SPACE_GROUP_BLOCKS / 2)
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	if (s->alloc_end > SPACE_GROUP_BLOCKS)
		err = alloc_locked(s, SPACE_COPIES, g, min, want, ret_addr, ret_blocks);
	if (err == -ENOSPC) {
		blocks = s->alloc_end - first < SPACE_GROUP_BLOCKS ? s->alloc_end - first : SPACE_GROUP_BLOCKS;
		s->cursor[SPACE_COPIES] = (struct space_cursor){ g, (uint32_t)((other - first + blocks / 2) % blocks) };
		err = alloc_locked(s, SPACE_COPIES, AVOID_NONE, min, want, ret_addr, ret_blocks);
	}
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* --- runs given by address */

bool space_valid(const struct space *s, uint64_t addr, uint64_t blocks)
{
	uint64_t end = atomic_load_explicit(&s->end, memory_order_relaxed);
	uint64_t g = addr / SPACE_GROUP_BLOCKS;
	uint64_t bit = addr % SPACE_GROUP_BLOCKS;

	/* A run that leaves its group runs into the next one's homes. */
	if (blocks == 0 || addr >= end || blocks > end - addr || blocks > SPACE_GROUP_BLOCKS - bit)
		return false;
	if (bit < space_group_front(g))
		return false;
	return addr >= s->log_end || addr + blocks <= s->log_start;
}

int space_free(struct space *s, uint64_t addr, uint64_t blocks)
{
	uint32_t from = addr % SPACE_GROUP_BLOCKS, to, run, run_end;
	struct space_bitmap *bm;
	int err;

	if (!space_valid(s, addr, blocks))
		return corrupt("space map", addr, "free of blocks that are not allocatable", blocks, 0);
	to = from + (uint32_t)blocks;
	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	err = space_get_bitmap_locked(s, addr / SPACE_GROUP_BLOCKS, &bm);
	if (err) {
		/* What is bad is full until it is rebuilt. */
		if (err == -EBADMSG)
			err = 0;
		goto out;
	}
	if (!bits_all_set(bm->used, from, to)) {
		err = corrupt("space map", addr, "free of blocks that are not in use", blocks, 0);
		goto out;
	}
	if (!bits_all_clear(bm->durable, from, to)) {
		err = corrupt("space map", addr, "free of blocks that were not released", blocks, 0);
		goto out;
	}
	bits_clear(bm->used, from, to);
	space_count_locked(s, &bm->page, (int64_t)blocks, 0);
	if (!space_run_bounded_locked(s, &bm->page)) {
		run = bits_clear_before(bm->used, from);
		run_end = bits_next_set(bm->used, to, SPACE_GROUP_BLOCKS);
		space_run_raise_locked(s, &bm->page, run_end - run);
	}
	s->freed++;
out:
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

uint64_t space_free_blocks(struct space *s)
{
	uint64_t free;

	pthread_mutex_lock(&s->lock);
	free = s->root.free_used > s->held ? s->root.free_used - s->held : 0;
	pthread_mutex_unlock(&s->lock);
	return free;
}

uint64_t space_usable_blocks(struct space *s)
{
	struct space_geometry geo;

	pthread_mutex_lock(&s->lock);
	geo = s->shape.geo;
	geo.blocks = s->alloc_end;
	pthread_mutex_unlock(&s->lock);
	return space_blocks_usable(&geo);
}

uint64_t space_durable_free(struct space *s)
{
	uint64_t free;

	pthread_mutex_lock(&s->lock);
	free = s->root.free_durable;
	pthread_mutex_unlock(&s->lock);
	return free;
}

bool space_is_damaged(struct space *s)
{
	bool damaged;

	pthread_mutex_lock(&s->lock);
	damaged = s->bad_pages > 0;
	pthread_mutex_unlock(&s->lock);
	return damaged;
}

uint64_t space_groups(const struct space *s)
{
	return atomic_load_explicit(&s->groups, memory_order_relaxed);
}

int space_bitmaps(struct space *s, uint64_t g, uint8_t *ret_used, uint8_t *ret_durable)
{
	struct space_bitmap *bm;
	int err;

	if (g >= space_groups(s))
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	err = space_get_bitmap_locked(s, g, &bm);
	for (unsigned i = 0; !err && i < SPACE_WORDS; i++) {
		le64 used = le64_put(bm->used[i]), durable = le64_put(bm->durable[i]);

		if (ret_used)
			memcpy(ret_used + i * sizeof(used), &used, sizeof(used));
		if (ret_durable)
			memcpy(ret_durable + i * sizeof(durable), &durable, sizeof(durable));
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* --- the invariants */

#ifndef NDEBUG
static uint32_t longest_run(const uint64_t *words)
{
	uint32_t start, len;

	bits_find_clear(words, 0, SPACE_GROUP_BLOCKS, SPACE_GROUP_BLOCKS, SPACE_GROUP_BLOCKS, &start, &len);
	return len;
}

static void assert_bitmap(struct space *s, struct space_bitmap *bm)
{
	const struct space_child *c = space_child_of_locked(s, &bm->page);
	uint32_t longest = longest_run(bm->used);
	uint64_t fixed[SPACE_WORDS] = { 0 };

	space_set_fixed(&s->shape, bm->page.first, fixed);
	for (unsigned i = 0; i < SPACE_WORDS; i++) {
		assert((bm->durable[i] & ~bm->used[i]) == 0); /* I1 */
		assert((fixed[i] & ~bm->durable[i]) == 0);    /* I2 */
	}
	assert(c->free_used == SPACE_GROUP_BLOCKS - bits_count(bm->used, 0, SPACE_GROUP_BLOCKS));	/* I3 */
	assert(c->free_durable == SPACE_GROUP_BLOCKS - bits_count(bm->durable, 0, SPACE_GROUP_BLOCKS)); /* I3 */
	for (const struct space_page *p = &bm->page; p; p = p->parent ? &p->parent->page : NULL)
		assert(space_child_of_locked(s, p)->run_max >= longest); /* I4 */
}

static void assert_radix(struct space *s, struct space_radix *radix)
{
	const struct space_child *c = space_child_of_locked(s, &radix->page);
	uint64_t used = 0, durable = 0;
	unsigned loaded = 0;

	for (unsigned i = 0; i < SPACE_FANOUT; i++) {
		const struct space_child *below = &radix->child[i];
		uint64_t first = radix->page.first + i * space_span(radix->page.level - 1);

		used += below->free_used;
		durable += below->free_durable;
		assert(below->free_used <= below->free_durable);
		assert(below->free_durable <= space_capacity(&s->shape, radix->page.level - 1, first));
		if (below->page) {
			loaded++;
			assert(!below->bad);		      /* I8 */
			assert(below->page->parent == radix); /* I7 */
			assert(below->page->first == first && below->page->level == radix->page.level - 1);
		} else {
			assert(below->bad ? below->free_used == 0 : below->free_used == below->free_durable); /* I6 */
		}
	}
	assert(c->free_used == used && c->free_durable == durable); /* I3 */
	assert(radix->loaded == loaded);			    /* I7 */
}

void space_assert_valid_locked(struct space *s)
{
	size_t pages = 0, mem = 0;
	struct space_page *p;

	assert(s->root.free_used <= s->root.free_durable);
	assert(!s->root.page || (!s->root.page->parent && s->root.page->level == s->shape.levels));
	TAILQ_FOREACH(p, &s->clock, clock) {
		const struct space_child *c = space_child_of_locked(s, p);

		pages++;
		mem += space_page_bytes(p);
		assert(c->page == p);							 /* I7 */
		assert(p->dirty || c->disk.gen == 0 || c->free_durable == c->disk.free); /* I5 */
		assert(!p->dirty || !p->parent || p->parent->page.dirty);		 /* I5 */
		if (p->level > 0)
			assert_radix(s, space_as_radix(p));
		else
			assert_bitmap(s, space_as_bitmap(p));
	}
	assert(pages == s->pages && mem == s->mem); /* I7 */
}
#else
void space_assert_valid_locked(struct space *s)
{
	(void)s;
}
#endif

/*
 * What changes the durable map: the checkpoint, growth, and the checker's rebuilding.
 *
 * A checkpoint applies the events of its time to `durable`, and then writes what has changed level by level upwards:
 * a parent needs its children's checksums, but not that they have arrived, so the transfers of all levels overlap and
 * only the last wait is for everything. A page is copied out under the lock and may change again at once.
 *
 * The checkpoint found at open has number 1 (space.committed), every space_commit counts on, and a child remembers
 * which one wrote its entry. So at any time the home of the newest durable checkpoint is disk.home, and that of the
 * one before is home_prev if the newest one wrote the page, and disk.home otherwise. Neither is written to.
 *
 * After an error in the middle, memory says things the disk does not: no further checkpoint is made, nothing is dropped
 * any more, and reading, allocating and freeing go on with what is in memory.
 */
#include "btree/bits.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space_int.h"

/* Pages in flight at a time. */
#define WRITE_BATCH 64u
/* Events between two breaths: others may take the lock. */
#define EVENTS_AT_ONCE 512u

/* --- events */

/* An event under a bad page cannot be recorded: what the page says must not be believed again. */
static void lose(struct space *s, uint64_t g)
{
	struct space_radix *parent;
	unsigned level;
	struct space_child *c = space_bad_locked(s, g, &level, &parent);
	int64_t free;

	if (!c || space_entry_lost(&c->disk))
		return;
	free = (int64_t)c->free_durable;
	c->disk.sum = 0;
	c->disk.free = 0;
	c->free_durable = 0;
	if (parent) {
		space_count_locked(s, &parent->page, 0, -free);
		space_dirty_locked(s, &parent->page);
	}
}

int space_mark_used(struct space *s, uint64_t addr, uint64_t blocks)
{
	uint32_t from = addr % SPACE_GROUP_BLOCKS, to;
	struct space_bitmap *bm;
	int err;

	if (!space_valid(s, addr, blocks))
		return corrupt("space map", addr, "use of blocks that are not allocatable", blocks, 0);
	to = from + (uint32_t)blocks;
	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	err = space_get_bitmap_locked(s, addr / SPACE_GROUP_BLOCKS, &bm);
	if (err == -EBADMSG) {
		lose(s, addr / SPACE_GROUP_BLOCKS);
		err = 0;
	} else if (!err) {
		uint32_t fresh = to - from - bits_count(bm->used, from, to);

		bits_set(bm->used, from, to);
		space_count_locked(s, &bm->page, -(int64_t)fresh, 0);
	}
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* Reads what the events need, many pages at a time. Changes nothing that matters. */
static int prefetch(struct space *s, const struct space_event *events, size_t n)
{
	uint64_t want[SPACE_PREFETCH], last = UINT64_MAX;
	unsigned k = 0;
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		uint64_t g = events[i].addr / SPACE_GROUP_BLOCKS;
		struct space_page *p;
		bool known = false;

		if (i % EVENTS_AT_ONCE == EVENTS_AT_ONCE - 1) {
			pthread_mutex_unlock(&s->lock);
			pthread_mutex_lock(&s->lock);
		}
		if (g == last || !space_valid(s, events[i].addr, events[i].blocks))
			continue;
		last = g;
		err = space_get_locked(s, 1, g, &p);
		if (err == -EBADMSG)
			err = 0;
		else if (!err)
			known = space_as_radix(p)->child[space_slot(0, g)].page;
		for (unsigned j = 0; j < k && !known; j++)
			known = want[j] == g;
		if (!err && !known)
			want[k++] = g;
		if (k == SPACE_PREFETCH) {
			err = space_prefetch_locked(s, want, k);
			k = 0;
		}
	}
	if (!err && k > 0)
		err = space_prefetch_locked(s, want, k);
	return err;
}

static int apply_one(struct space *s, const struct space_event *ev)
{
	uint64_t g = ev->addr / SPACE_GROUP_BLOCKS;
	uint32_t from = ev->addr % SPACE_GROUP_BLOCKS;
	uint32_t to = from + ev->blocks;
	struct space_bitmap *bm;
	int err;

	if (!space_valid(s, ev->addr, ev->blocks))
		return corrupt("space map", ev->addr, "event outside the allocatable part", ev->blocks, ev->kind);
	err = space_get_bitmap_locked(s, g, &bm);
	if (err == -EBADMSG) {
		lose(s, g);
		return 0;
	}
	if (err)
		return err;
	if (ev->kind == SPACE_REACHED) {
		if (!bits_all_set(bm->used, from, to))
			return corrupt("space map", ev->addr, "blocks reached that were never taken", ev->blocks, 0);
		if (!bits_all_clear(bm->durable, from, to))
			return corrupt("space map", ev->addr, "blocks reached twice", ev->blocks, 0);
		bits_set(bm->durable, from, to);
		space_count_locked(s, &bm->page, 0, -(int64_t)ev->blocks);
	} else {
		if (!bits_all_set(bm->durable, from, to))
			return corrupt("space map", ev->addr, "blocks released that were not reached", ev->blocks, 0);
		bits_clear(bm->durable, from, to);
		space_count_locked(s, &bm->page, 0, (int64_t)ev->blocks);
	}
	space_dirty_locked(s, &bm->page);
	return 0;
}

int space_apply(struct space *s, const struct space_event *events, size_t n)
{
	int err;

	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	if (s->failed) {
		pthread_mutex_unlock(&s->lock);
		return -EROFS;
	}
	s->keep++;
	err = prefetch(s, events, n);
	for (size_t i = 0; i < n && !err; i++) {
		if (i % EVENTS_AT_ONCE == EVENTS_AT_ONCE - 1) {
			pthread_mutex_unlock(&s->lock);
			pthread_mutex_lock(&s->lock);
		}
		err = apply_one(s, &events[i]);
		if (err)
			s->failed = true;
	}
	if (!s->failed) {
		s->keep--;
		space_shrink_locked(s, 2 * SPACE_PREFETCH);
	}
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* --- writing */

struct writer {
	uint8_t *buf; /* WRITE_BATCH blocks */
	unsigned n;
	struct bio_group group;
	struct bio bio[WRITE_BATCH], *list[WRITE_BATCH];
	struct iovec iov[WRITE_BATCH];
};

static void writer_close(struct writer *w)
{
	if (w)
		mem_free(w->buf);
	mem_free(w);
}

static struct writer *writer_open(void)
{
	struct writer *w = mem_zalloc(sizeof(*w));

	if (!w)
		return NULL;
	bio_group_init(&w->group);
	w->buf = mem_alloc_blocks(WRITE_BATCH * BLOCK_SIZE);
	if (!w->buf) {
		writer_close(w);
		return NULL;
	}
	return w;
}

static int writer_flush(struct writer *w, struct bdev *dev)
{
	int err;

	if (w->n == 0)
		return 0;
	bdev_submit(dev, w->list, w->n);
	err = bdev_wait(dev, &w->group);
	w->n = 0;
	return err;
}

static uint8_t pick_home(const struct space *s, const struct space_child *c)
{
	uint8_t home = 0;

	/* Never written: nobody uses any. */
	if (c->disk.gen == 0)
		return 0;
	while (home == c->disk.home || (c->written == s->committed && home == c->home_prev))
		home++;
	assert(home < SPACE_HOMES);
	return home;
}

/* Copies a dirty page out as a transfer of w. Its parent is dirty too. */
static void write_page(struct space *s, struct writer *w, struct space_page *p, uint64_t gen)
{
	struct space_child *c = space_child_of_locked(s, p);
	uint8_t home = pick_home(s, c);
	uint8_t *buf = w->buf + (size_t)w->n * BLOCK_SIZE;

	c->home_prev = c->disk.gen ? c->disk.home : SPACE_HOME_NONE;
	c->written = s->committed + 1;
	c->disk = (struct space_root){ .gen = gen, .free = c->free_durable, .home = home };
	space_page_encode(p, &c->disk, buf);

	w->iov[w->n] = (struct iovec){ .iov_base = buf, .iov_len = BLOCK_SIZE };
	w->bio[w->n] = (struct bio){
		.op = BIO_WRITE,
		.addr = space_home_addr(p->level, p->first, home),
		.iov = &w->iov[w->n],
		.iovcnt = 1,
		.group = &w->group,
	};
	w->list[w->n] = &w->bio[w->n];
	w->n++;

	LIST_REMOVE(p, dirty_link);
	p->dirty = false;
}

int space_write(struct space *s, uint64_t gen, struct space_root *ret)
{
	struct writer *w;
	int err = 0;

	if (gen == 0)
		return -EINVAL;
	w = writer_open();
	if (!w)
		return -ENOMEM;
	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	if (s->failed || s->writing) {
		err = s->failed ? -EROFS : -EBUSY;
		goto out;
	}
	/* A page that is dropped and read again while it is on its way would be found to be bad. */
	s->keep++;
	for (unsigned level = 0; level <= s->shape.levels && !err; level++) {
		struct space_page *p;

		while (!err && (p = LIST_FIRST(&s->dirty[level]))) {
			if (w->n < WRITE_BATCH) {
				write_page(s, w, p, gen);
				continue;
			}
			pthread_mutex_unlock(&s->lock);
			err = writer_flush(w, s->dev);
			pthread_mutex_lock(&s->lock);
		}
	}
	if (!err) {
		*ret = s->root.disk;
		s->write_end = s->shape.end;
		s->write_held = s->held;
		pthread_mutex_unlock(&s->lock);
		err = writer_flush(w, s->dev);
		pthread_mutex_lock(&s->lock);
	}
	if (err) {
		s->failed = true;
	} else {
		s->keep--;
		s->writing = true;
	}
out:
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	writer_close(w);
	return err;
}

void space_commit(struct space *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->writing) {
		s->writing = false;
		s->committed++;
		if (s->alloc_end != s->write_end)
			s->freed++;
		s->alloc_end = s->write_end;
		s->held -= s->write_held;
		space_shrink_locked(s, s->pages);
	}
	space_assert_valid_locked(s);
	pthread_mutex_unlock(&s->lock);
}

/* --- growing */

/*
 * Hangs the root below radix pages of higher levels, for group 0, made beforehand. The old root is the first child of
 * the first of them, the rest of whose children were never written.
 */
static void raise_root(struct space *s, struct space_page **above, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct space_radix *radix = space_as_radix(above[i]);
		struct space_child old = s->root;
		uint64_t used = old.free_used, durable = old.free_durable;

		for (unsigned k = 1; k < SPACE_FANOUT; k++) {
			used += radix->child[k].free_used;
			durable += radix->child[k].free_durable;
		}
		radix->child[0] = old;
		if (old.page) {
			old.page->parent = radix;
			radix->loaded++;
		}
		s->root = (struct space_child){
			.free_used = used,
			.free_durable = durable,
			.run_max = SPACE_GROUP_BLOCKS,
			.home_prev = SPACE_HOME_NONE,
		};
		space_insert_locked(s, &s->root, NULL, above[i]);
		space_dirty_locked(s, above[i]);
	}
}

/* The bitmap's blocks from `from` on were past the end. Returns how many of them are not any more. */
static int64_t widen_bitmap(struct space *s, struct space_bitmap *bm, uint32_t from)
{
	uint64_t to = s->shape.end - bm->page.first * SPACE_GROUP_BLOCKS;

	if (to > SPACE_GROUP_BLOCKS)
		to = SPACE_GROUP_BLOCKS;
	bits_clear(bm->used, from, (uint32_t)to);
	bits_clear(bm->durable, from, (uint32_t)to);
	return (int64_t)to - from;
}

/* The children behind the one with group `last` were past the end. */
static int64_t widen_radix(struct space *s, struct space_radix *radix, uint64_t last)
{
	static const struct space_root never;
	unsigned level = radix->page.level - 1;
	int64_t fresh = 0;

	for (unsigned i = space_slot(level, last) + 1; i < SPACE_FANOUT; i++) {
		space_child_init(&radix->child[i], &s->shape, level, radix->page.first + i * space_span(level), &never);
		fresh += (int64_t)radix->child[i].free_used;
	}
	return fresh;
}

/* The page of group `last`, formerly the last one, and those above it have room for more than before. */
static void widen(struct space *s, const struct space_shape *old, uint64_t last)
{
	struct space_child *c = &s->root;
	struct space_page *path[SPACE_LEVELS_MAX + 1];
	unsigned level = s->shape.levels, n = 0;

	while (c->page) {
		path[n++] = c->page;
		c->run_max = SPACE_GROUP_BLOCKS;
		if (level == 0)
			break;
		c = &space_as_radix(c->page)->child[space_slot(--level, last)];
	}
	while (n-- > 0) {
		struct space_page *p = path[n];
		int64_t fresh;

		/* Pages made for the raised root have been counted. */
		if (p->level > old->levels)
			break;
		if (p->level > 0)
			fresh = widen_radix(s, space_as_radix(p), last);
		else
			fresh = widen_bitmap(s, space_as_bitmap(p), (uint32_t)(old->end - last * SPACE_GROUP_BLOCKS));
		space_count_locked(s, p, fresh, fresh);
		space_dirty_locked(s, p);
	}
}

int space_grow(struct space *s, uint64_t blocks)
{
	struct space_page *above[SPACE_LEVELS_MAX] = { 0 }, *p;
	struct space_shape old, sh;
	struct space_geometry geo;
	unsigned n = 0;
	uint64_t free;
	int err;

	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	old = s->shape;
	geo = old.geo;
	geo.blocks = blocks;
	err = blocks < old.geo.blocks || blocks > s->dev->geo.blocks ? -EINVAL : space_shape_init(&geo, &sh);
	if (err)
		goto out;

	/* All that is only partly filled is above the last group. Where it is bad it stays full. */
	err = space_get_locked(s, 0, old.groups - 1, &p);
	if (err == -ENOMEM)
		goto out;
	err = 0;
	for (; n < sh.levels - old.levels; n++) {
		above[n] = space_page_new(&sh, old.levels + 1 + n, 0);
		if (!above[n]) {
			err = -ENOMEM;
			goto out;
		}
	}

	free = s->root.free_used;
	s->shape = sh;
	if (sh.end != old.end) {
		raise_root(s, above, n);
		n = 0;
		widen(s, &old, old.groups - 1);
	}
	s->held += s->root.free_used - free;
	atomic_store(&s->end, sh.end);
	atomic_store(&s->groups, sh.groups);
out:
	while (n > 0)
		mem_free(above[--n]);
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/* --- rebuilding */

/* A page in place of the bad one below c: a bitmap that is full, or a radix page all of whose children are lost. */
static int replace(struct space *s, struct space_child *c, struct space_radix *parent, unsigned level, uint64_t first)
{
	struct space_page *p = space_page_new(&s->shape, level, first);
	int64_t free = (int64_t)c->free_durable;

	if (!p)
		return -ENOMEM;
	if (level == 0) {
		struct space_bitmap *bm = space_as_bitmap(p);

		bits_set(bm->used, 0, SPACE_GROUP_BLOCKS);
		bits_set(bm->durable, 0, SPACE_GROUP_BLOCKS);
	} else {
		struct space_radix *radix = space_as_radix(p);

		for (unsigned i = 0; i < SPACE_FANOUT; i++) {
			struct space_child *below = &radix->child[i];

			if (first + i * space_span(level - 1) >= s->shape.groups)
				continue;
			*below = (struct space_child){
				.disk.gen = c->disk.gen,
				.home_prev = SPACE_HOME_NONE,
				.bad = true,
			};
			s->bad_pages++;
		}
	}
	c->bad = false;
	s->bad_pages--;
	c->free_durable = 0;
	if (parent)
		space_count_locked(s, &parent->page, 0, -free);
	space_insert_locked(s, c, parent, p);
	space_dirty_locked(s, p);
	return 0;
}

int space_rebuild_group(struct space *s, uint64_t g, const uint8_t *bitmap)
{
	struct space_bitmap *bm;
	struct space_child *c;
	uint32_t free;
	int err;

	if (g >= space_groups(s))
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	space_assert_paranoid_locked(s);
	if (s->failed) {
		err = -EROFS;
		goto out;
	}
	while ((err = space_get_bitmap_locked(s, g, &bm)) == -EBADMSG) {
		struct space_radix *parent;
		unsigned level;

		c = space_bad_locked(s, g, &level, &parent);
		err = replace(s, c, parent, level, g & ~(space_span(level) - 1));
		if (err)
			break;
	}
	if (err)
		goto out;

	for (unsigned i = 0; i < SPACE_WORDS; i++) {
		le64 w;

		memcpy(&w, bitmap + i * sizeof(w), sizeof(w));
		bm->used[i] = le64_get(w);
	}
	space_set_fixed(&s->shape, g, bm->used);
	memcpy(bm->durable, bm->used, sizeof(bm->durable));
	free = SPACE_GROUP_BLOCKS - bits_count(bm->used, 0, SPACE_GROUP_BLOCKS);
	c = space_child_of_locked(s, &bm->page);
	space_count_locked(s, &bm->page, (int64_t)(free - c->free_used), (int64_t)(free - c->free_durable));
	space_run_raise_locked(s, &bm->page, SPACE_GROUP_BLOCKS);
	space_dirty_locked(s, &bm->page);
	s->freed++;
out:
	space_assert_paranoid_locked(s);
	pthread_mutex_unlock(&s->lock);
	return err;
}

/*
 * The pages of the space map in memory: a tree that is there in parts.
 *
 * The mutex is never held while the device reads, and pages have no reference counts. What makes that simple is that
 * a pointer to a page is good only until the lock is let go of, and that everyone who lets go of it begins at the
 * root again. A load copies the entry, unlocks, reads, locks, looks for the same place again, and puts the page there
 * only if the entry is still what it was and nobody has been faster. A page that does not verify is believed to be
 * bad under the same condition: the entry may have been written anew, twice, while the read was on its way.
 *
 * Pages that say nothing the disk does not say are dropped by a clock's hand (second chance). A radix page carries
 * more than its bytes: which homes the last two checkpoints use, and that a child is bad; while any of that matters,
 * it stays.
 */
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space_int.h"

struct space_child *space_child_of_locked(struct space *s, const struct space_page *p)
{
	return p->parent ? &p->parent->child[space_slot(p->level, p->first)] : &s->root;
}

struct space_child *space_find_child_locked(struct space *s, unsigned level, uint64_t g, struct space_radix **ret_parent)
{
	struct space_child *c = &s->root;
	struct space_radix *parent = NULL;

	for (unsigned l = s->shape.levels; l > level; l--) {
		if (c->bad || !c->page)
			return NULL;
		parent = space_as_radix(c->page);
		c = &parent->child[space_slot(l - 1, g)];
	}
	*ret_parent = parent;
	return c;
}

struct space_child *space_bad_locked(struct space *s, uint64_t g, unsigned *ret_level, struct space_radix **ret_parent)
{
	struct space_child *c = &s->root;
	struct space_radix *parent = NULL;
	unsigned l = s->shape.levels;

	while (!c->bad) {
		if (l == 0 || !c->page)
			return NULL;
		parent = space_as_radix(c->page);
		c = &parent->child[space_slot(--l, g)];
	}
	*ret_level = l;
	*ret_parent = parent;
	return c;
}

/* --- counting */

void space_count_locked(struct space *s, struct space_page *p, int64_t used, int64_t durable)
{
	for (;;) {
		struct space_child *c = space_child_of_locked(s, p);

		c->free_used += (uint64_t)used;
		c->free_durable += (uint64_t)durable;
		if (!p->parent)
			return;
		p = &p->parent->page;
	}
}

void space_run_raise_locked(struct space *s, struct space_page *p, uint32_t len)
{
	for (;;) {
		struct space_child *c = space_child_of_locked(s, p);

		if (c->run_max < len)
			c->run_max = len;
		if (!p->parent)
			return;
		p = &p->parent->page;
	}
}

bool space_run_bounded_locked(struct space *s, const struct space_page *p)
{
	uint64_t free = space_child_of_locked(s, p)->free_used;

	for (;; p = &p->parent->page) {
		if (space_child_of_locked(s, p)->run_max < free)
			return false;
		if (!p->parent)
			return true;
	}
}

void space_run_lower_locked(struct space *s, struct space_page *p, uint32_t len)
{
	for (;;) {
		struct space_child *c = space_child_of_locked(s, p);

		if (c->run_max <= len)
			return;
		c->run_max = len;
		if (!p->parent)
			return;
		/* What holds for this page holds for the one above as far as its other children allow. */
		for (unsigned i = 0; i < SPACE_FANOUT; i++) {
			const struct space_child *other = &p->parent->child[i];
			uint64_t most = other->run_max < other->free_used ? other->run_max : other->free_used;

			if (most > len)
				len = (uint32_t)most;
		}
		p = &p->parent->page;
	}
}

void space_dirty_locked(struct space *s, struct space_page *p)
{
	while (!p->dirty) {
		p->dirty = true;
		LIST_INSERT_HEAD(&s->dirty[p->level], p, dirty_link);
		if (!p->parent)
			return;
		p = &p->parent->page;
	}
}

/* --- coming and going */

void space_insert_locked(struct space *s, struct space_child *c, struct space_radix *parent, struct space_page *p)
{
	assert(!c->page);
	c->page = p;
	p->parent = parent;
	p->hot = true;
	if (parent)
		parent->loaded++;
	TAILQ_INSERT_TAIL(&s->clock, p, clock);
	s->pages++;
	s->mem += space_page_bytes(p);
}

/* Whether everything the page says in memory is also said by the disk. */
static bool droppable(const struct space *s, const struct space_page *p)
{
	const struct space_child *c;

	if (p->dirty || !p->parent)
		return false;
	c = &p->parent->child[space_slot(p->level, p->first)];
	/* durable is a part of used, so equal counts are equal bits. */
	if (c->free_used != c->free_durable)
		return false;
	if (p->level > 0) {
		const struct space_radix *radix = (const struct space_radix *)p;

		if (radix->loaded > 0)
			return false;
		/* A page written by the newest durable checkpoint has its home of the older one in home_prev only. */
		for (unsigned i = 0; i < SPACE_FANOUT; i++)
			if (radix->child[i].bad || radix->child[i].written >= s->committed)
				return false;
	}
	return true;
}

static void drop(struct space *s, struct space_page *p)
{
	space_child_of_locked(s, p)->page = NULL;
	p->parent->loaded--;
	TAILQ_REMOVE(&s->clock, p, clock);
	s->pages--;
	s->mem -= space_page_bytes(p);
	mem_free(p);
}

void space_shrink_locked(struct space *s, size_t look)
{
	if (s->keep > 0)
		return;
	/* Not twice around: what has just been loaded must outlive the call. */
	if (look > s->pages)
		look = s->pages;
	for (; look > 0 && s->mem > s->mem_max; look--) {
		struct space_page *p = TAILQ_FIRST(&s->clock);

		if (!p->hot && droppable(s, p)) {
			drop(s, p);
			continue;
		}
		p->hot = false;
		TAILQ_REMOVE(&s->clock, p, clock);
		TAILQ_INSERT_TAIL(&s->clock, p, clock);
	}
}

/* --- loading */

/* One page on its way in. */
struct load {
	uint64_t g;
	struct space_root entry; /* as it was when the read began */
	uint8_t *buf;		 /* NULL: nothing to read */
	struct space_page *page; /* NULL: see `why` */
	struct space_damage why;
	int err; /* of reading it */
};

static void read_all(struct bdev *dev, unsigned level, struct load *l, unsigned n)
{
	struct bio bios[SPACE_PREFETCH], *bio[SPACE_PREFETCH];
	struct iovec iov[SPACE_PREFETCH];
	struct bio_group group;
	unsigned started = 0;

	bio_group_init(&group);
	for (unsigned i = 0; i < n; i++) {
		uint64_t first = l[i].g & ~(space_span(level) - 1);

		if (!l[i].buf)
			continue;
		iov[i] = (struct iovec){ .iov_base = l[i].buf, .iov_len = BLOCK_SIZE };
		bios[i] = (struct bio){
			.op = BIO_READ,
			.addr = space_home_addr(level, first, l[i].entry.home),
			.iov = &iov[i],
			.iovcnt = 1,
			.group = &group,
		};
		bio[started++] = &bios[i];
	}
	if (started > 0) {
		bdev_submit(dev, bio, started);
		bdev_wait(dev, &group);
	}
	for (unsigned i = 0; i < n; i++) {
		if (!l[i].buf)
			continue;
		l[i].err = bios[i].err;
		/* What is bad stays so until the next mount, and takes all the space it tells of with it: asked twice. */
		if (l[i].err)
			l[i].err = bdev_read(dev, bios[i].addr, l[i].buf, 1);
	}
}

/* Without the lock: reads and decodes. Sets each load's page or its why.err. */
static void fetch(struct bdev *dev, const struct space_shape *sh, unsigned level, struct load *l, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		l[i].page = NULL;
		l[i].why = (struct space_damage){ 0 };
		l[i].buf = NULL;
		if (l[i].entry.gen == 0)
			continue;
		if (space_entry_lost(&l[i].entry)) {
			l[i].why = (struct space_damage){ -EBADMSG, "page was lost", l[i].entry.gen, 0 };
			continue;
		}
		l[i].buf = mem_alloc_blocks(BLOCK_SIZE);
		if (!l[i].buf)
			l[i].why.err = -ENOMEM;
	}
	read_all(dev, level, l, n);
	for (unsigned i = 0; i < n; i++) {
		uint64_t first = l[i].g & ~(space_span(level) - 1);

		if (l[i].entry.gen == 0) {
			l[i].page = space_page_new(sh, level, first);
			if (!l[i].page)
				l[i].why.err = -ENOMEM;
		} else if (l[i].buf && l[i].err) {
			l[i].why = (struct space_damage){ l[i].err, "read error", (uint64_t)-l[i].err, 0 };
		} else if (l[i].buf) {
			int err = space_page_decode(sh, level, first, &l[i].entry, l[i].buf, &l[i].page, &l[i].why);

			if (err)
				l[i].why.err = err;
		}
		mem_free(l[i].buf);
		l[i].buf = NULL;
	}
}

static void mark_bad(struct space *s, struct space_child *c, struct space_radix *parent)
{
	int64_t free = (int64_t)c->free_used;

	c->bad = true;
	s->bad_pages++;
	c->free_used = 0;
	c->run_max = 0;
	if (parent)
		space_count_locked(s, &parent->page, -free, 0);
}

bool space_entry_equal(const struct space_root *a, const struct space_root *b)
{
	return a->gen == b->gen && a->sum == b->sum && a->free == b->free && a->home == b->home;
}

/*
 * Loads the pages of this level over l[].g, whose entries were taken under the lock just now. Unlocks. Afterwards
 * each is in its place, or bad, or the map has changed meanwhile and nothing was done about it. -ENOMEM: not all
 * could be tried.
 */
static int load_locked(struct space *s, unsigned level, struct load *l, unsigned n)
{
	struct space_shape sh = s->shape;
	struct space_damage why[SPACE_PREFETCH];
	uint64_t where[SPACE_PREFETCH];
	unsigned bad = 0;
	int err = 0;

	pthread_mutex_unlock(&s->lock);
	fetch(s->dev, &sh, level, l, n);
	pthread_mutex_lock(&s->lock);

	for (unsigned i = 0; i < n; i++) {
		struct space_radix *parent;
		struct space_child *c = NULL;

		/* Growing changes what is right for a page, and its level. */
		if (s->shape.end == sh.end)
			c = space_find_child_locked(s, level, l[i].g, &parent);
		if (l[i].why.err == -ENOMEM) {
			err = -ENOMEM;
		} else if (!c || c->page || c->bad || !space_entry_equal(&c->disk, &l[i].entry)) {
			mem_free(l[i].page);
		} else if (l[i].page) {
			space_insert_locked(s, c, parent, l[i].page);
		} else {
			mark_bad(s, c, parent);
			where[bad] = l[i].g & ~(space_span(level) - 1);
			why[bad++] = l[i].why;
		}
	}
	space_shrink_locked(s, 2 * SPACE_PREFETCH);

	if (bad > 0) {
		pthread_mutex_unlock(&s->lock);
		for (unsigned i = 0; i < bad; i++)
			err_corrupt(why[i].err, __FILE__, __LINE__, level ? "space radix page" : "space bitmap",
				    where[i], why[i].reason, why[i].got, why[i].want);
		pthread_mutex_lock(&s->lock);
	}
	return err;
}

int space_get_locked(struct space *s, unsigned level, uint64_t g, struct space_page **ret)
{
	assert(g < s->shape.groups);
	for (;;) {
		struct space_child *c = &s->root;
		unsigned l = s->shape.levels;
		struct load load;
		int err;

		while (!c->bad && c->page) {
			c->page->hot = true;
			if (l == level) {
				*ret = c->page;
				return 0;
			}
			c = &space_as_radix(c->page)->child[space_slot(--l, g)];
		}
		if (c->bad)
			return -EBADMSG;
		load.g = g;
		load.entry = c->disk;
		err = load_locked(s, l, &load, 1);
		if (err)
			return err;
	}
}

int space_get_bitmap_locked(struct space *s, uint64_t g, struct space_bitmap **ret)
{
	struct space_page *p;
	int err = space_get_locked(s, 0, g, &p);

	if (!err)
		*ret = space_as_bitmap(p);
	return err;
}

int space_prefetch_locked(struct space *s, const uint64_t *groups, unsigned n)
{
	struct load load[SPACE_PREFETCH];
	unsigned k = 0;

	assert(n <= SPACE_PREFETCH);
	for (unsigned i = 0; i < n; i++) {
		struct space_radix *parent;
		struct space_child *c = space_find_child_locked(s, 0, groups[i], &parent);

		if (!c || c->page || c->bad)
			continue;
		load[k].g = groups[i];
		load[k++].entry = c->disk;
	}
	return k > 0 ? load_locked(s, 0, load, k) : 0;
}

int space_load_root_locked(struct space *s)
{
	struct load load = { .g = 0, .entry = s->root.disk };
	int err = load_locked(s, s->shape.levels, &load, 1);

	if (err)
		return err;
	/* Damage is lasting and makes the map count as full; the device may do better when it is asked again. */
	err = load.why.err;
	return err == -EBADMSG || err == -EUCLEAN ? 0 : err;
}

int space_next_group_locked(struct space *s, uint64_t *g, uint64_t end, uint32_t need)
{
	while (*g < end) {
		struct space_child *c = &s->root;
		unsigned l = s->shape.levels;

		while (!c->bad && c->free_used >= need && c->run_max >= need) {
			struct space_page *p;
			int err;

			if (l == 0)
				return 0;
			if (!c->page) {
				err = space_get_locked(s, l, *g, &p);
				if (err == -ENOMEM)
					return err;
				/* Loaded, or bad now: begin at the root either way. */
				c = &s->root;
				l = s->shape.levels;
				continue;
			}
			c->page->hot = true;
			c = &space_as_radix(c->page)->child[space_slot(--l, *g)];
		}
		*g = (*g | (space_span(l) - 1)) + 1;
	}
	return 1;
}

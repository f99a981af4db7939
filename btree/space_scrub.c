/*
 * Pages of the space map as the device has them, for scrubbing.
 *
 * A page in memory may have gone bad at home without anybody noticing: it is read once. So the home is read and verified
 * against the entry above it, whatever memory has. What does not verify is made dirty where memory has the page: the
 * next checkpoint writes it to another of its homes. Where memory does not, the page is loaded the ordinary way, which finds
 * it bad and says so.
 *
 * A home is not written while an entry in force names it, so an entry that is the same before and after the read, with no
 * checkpoint in between (the caller sees to that), proves that the home should have held that page.
 */
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space_int.h"

int space_load(struct space *s)
{
	uint64_t want[SPACE_PREFETCH];
	int err = 0;

	pthread_mutex_lock(&s->lock);
	for (uint64_t g = 0; err != -ENOMEM && g < s->shape.groups; g += SPACE_PREFETCH) {
		struct space_page *above;
		unsigned n = 0;

		while (n < SPACE_PREFETCH && g + n < s->shape.groups) {
			want[n] = g + n;
			n++;
		}
		static_assert(SPACE_FANOUT % SPACE_PREFETCH == 0, "all below one page");
		err = space_get_locked(s, 1, g, &above);
		if (!err)
			err = space_prefetch_locked(s, want, n);
	}
	pthread_mutex_unlock(&s->lock);
	return err == -ENOMEM ? err : 0;
}

uint64_t space_scrub_next(unsigned level, uint64_t g)
{
	return (g | (space_span(level) - 1)) + 1;
}

/* Reads and verifies, twice if need be. Without the lock. */
static int read_home(struct space *s, const struct space_shape *sh, unsigned level, uint64_t first,
		     const struct space_root *entry)
{
	uint8_t *buf = mem_alloc_blocks(BLOCK_SIZE);
	struct space_page *page = NULL;
	struct space_damage why;
	int err = buf ? -EIO : -ENOMEM;

	for (unsigned tries = 0; buf && err && err != -ENOMEM && tries < 2; tries++) {
		err = bdev_read(s->dev, space_home_addr(level, first, entry->home), buf, 1);
		if (!err)
			err = space_page_decode(sh, level, first, entry, buf, &page, &why);
	}
	mem_free(page);
	mem_free(buf);
	return err;
}

int space_scrub(struct space *s, unsigned level, uint64_t g)
{
	uint64_t first = g & ~(space_span(level) - 1);
	struct space_radix *parent;
	struct space_page *page;
	struct space_child *c;
	struct space_shape sh;
	struct space_root entry;
	int err = 0;

	pthread_mutex_lock(&s->lock);
	sh = s->shape;
	if (level > sh.levels || g >= sh.groups) {
		err = -ENOENT;
		goto out;
	}
	if (level < sh.levels)
		err = space_get_locked(s, level + 1, g, &page);
	c = err ? NULL : space_find_child_locked(s, level, g, &parent);
	/* What is below a bad page has been told with it. */
	if (!c || c->disk.gen == 0) {
		err = err == -ENOMEM ? err : -ENOENT;
		goto out;
	}
	if (c->bad) {
		err = -EBADMSG;
		goto out;
	}
	entry = c->disk;
	pthread_mutex_unlock(&s->lock);
	err = read_home(s, &sh, level, first, &entry);
	pthread_mutex_lock(&s->lock);
	if (!err || err == -ENOMEM)
		goto out;
	c = s->shape.end == sh.end ? space_find_child_locked(s, level, g, &parent) : NULL;
	if (!c || !space_entry_equal(&c->disk, &entry)) {
		err = 0;
	} else if (c->page) {
		space_dirty_locked(s, c->page);
		err = 1;
	} else {
		int load = space_get_locked(s, level, g, &page);

		/* The device has changed its mind. */
		if (!load)
			err = 0;
		else if (load == -ENOMEM)
			err = load;
	}
out:
	pthread_mutex_unlock(&s->lock);
	return err;
}

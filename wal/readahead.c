/*
 * readahead.c - see readahead.h
 *
 * Windows are aligned, and each has one slot it may be in: a look is one comparison. A window is read only when the one before it,
 * or itself, has been touched lately by a small read; so random reads pay nothing but the look.
 *
 * Reading happens without a lock. A slot being read belongs to its reader; others go to the device for themselves. A window is
 * given up when one of its blocks is written, also while it is being read (`doomed`). Even without that nobody would
 * get wrong bytes, but by a checksum of 32 bits alone.
 *
 * Rejected: a cache of data blocks (the kernel has one, and it is larger); reading ahead of large reads (the kernel does).
 */
#include "wal/readahead.h"

#include <pthread.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"

#define SLOTS 64u
#define RECENT 8u

struct slot {
	uint64_t window; /* guarded by lock, as all here */
	uint8_t *buf;	 /* NULL: never used */
	bool valid, loading, doomed;
};

struct readahead {
	struct bdev *bdev;
	pthread_mutex_t lock;
	struct slot slot[SLOTS];
	uint64_t recent[RECENT]; /* windows that small reads have touched; UINT64_MAX: none */
	unsigned next;
};

int readahead_open(struct bdev *bdev, struct readahead **ret)
{
	struct readahead *r = mem_zalloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->bdev = bdev;
	pthread_mutex_init(&r->lock, NULL);
	memset(r->recent, 0xff, sizeof(r->recent));
	*ret = r;
	return 0;
}

void readahead_close(struct readahead *r)
{
	if (!r)
		return;
	for (unsigned i = 0; i < SLOTS; i++)
		mem_free(r->slot[i].buf);
	pthread_mutex_destroy(&r->lock);
	mem_free(r);
}

/* Remembers the touch. Whether reads come in order around here. */
static bool touch_locked(struct readahead *r, uint64_t window)
{
	bool found = false;

	for (unsigned i = 0; i < RECENT; i++) {
		if (r->recent[i] == window)
			return true;
		if (window && r->recent[i] == window - 1) {
			r->recent[i] = window;
			found = true;
		}
	}
	if (!found)
		r->recent[r->next++ % RECENT] = window;
	return found;
}

/* The lock is dropped while reading. */
static bool load_locked(struct readahead *r, struct slot *s, uint64_t window)
{
	uint64_t addr = window * READAHEAD_BLOCKS;
	int err;

	if (s->loading || addr + READAHEAD_BLOCKS > r->bdev->geo.blocks)
		return false;
	if (!s->buf)
		s->buf = mem_alloc_blocks(READAHEAD_BLOCKS * BLOCK_SIZE);
	if (!s->buf)
		return false;
	s->window = window;
	s->valid = s->doomed = false;
	s->loading = true;
	pthread_mutex_unlock(&r->lock);
	err = bdev_read(r->bdev, addr, s->buf, READAHEAD_BLOCKS);
	pthread_mutex_lock(&r->lock);
	s->loading = false;
	s->valid = !err && !s->doomed;
	return s->valid;
}

bool readahead_get(struct readahead *r, uint64_t addr, uint32_t blocks, void *buf)
{
	uint64_t window = addr / READAHEAD_BLOCKS;
	struct slot *s = &r->slot[window % SLOTS];
	bool there;

	if ((addr + blocks - 1) / READAHEAD_BLOCKS != window)
		return false;
	pthread_mutex_lock(&r->lock);
	there = s->valid && s->window == window;
	if (touch_locked(r, window) && !there)
		there = load_locked(r, s, window);
	if (there)
		memcpy(buf, s->buf + (addr % READAHEAD_BLOCKS) * BLOCK_SIZE, (size_t)blocks * BLOCK_SIZE);
	pthread_mutex_unlock(&r->lock);
	return there;
}

void readahead_forget(struct readahead *r, uint64_t addr, uint32_t blocks)
{
	uint64_t last = (addr + blocks - 1) / READAHEAD_BLOCKS;

	pthread_mutex_lock(&r->lock);
	for (uint64_t w = addr / READAHEAD_BLOCKS; w <= last; w++) {
		struct slot *s = &r->slot[w % SLOTS];

		if (s->window == w) {
			s->valid = false;
			s->doomed = true;
		}
	}
	pthread_mutex_unlock(&r->lock);
}

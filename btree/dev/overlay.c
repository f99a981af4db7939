/*
 * overlay.c - a device whose writes stay in memory
 *
 * The problem: to say what a repair would do, it has to be carried out, because what is found late depends on what
 * was mended early. Copying the device first is out of the question.
 *
 * The idea: what is written is kept in pages, one a block, in a tree by address; a read takes from there what is
 * there and all else from the device below, which is opened for reading only and never sees a write or a discard.
 * So everything above, recovery and checkpoints included, runs as it always does.
 *
 * Transfers are made at once, by the thread that submits them: who waits for a group of another thread's sleeps
 * until that thread says so. Nothing is durable, a flush has nothing to do. Memory grows with the number of
 * different blocks written, 4 KiB and the page's entry each; when there is no more, writes fail with -ENOMEM.
 *
 * Rejected: a sparse temporary file behind a bitmap (needs a place with room, and cleaning up), and stealing the
 * pages of the caller's buffers (they are not the device's to keep).
 */
#include "btree/dev/overlay.h"

#include <assert.h>
#include <bsd/sys/tree.h>
#include <pthread.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"

struct page {
	RB_ENTRY(page) entry;
	uint64_t addr;
	uint8_t data[]; /* BLOCK_SIZE */
};

RB_HEAD(overlay_pages, page);

struct overlay {
	struct bdev dev; /* first: the ops are given this */
	struct bdev *below;
	pthread_mutex_t lock;
	pthread_cond_t completed;   /* some group has become smaller */
	struct overlay_pages pages; /* guarded by lock, with what they hold */
	uint64_t n;		    /* guarded by lock */
};

static int page_cmp(const struct page *a, const struct page *b)
{
	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

RB_PROTOTYPE(overlay_pages, page, entry, )
RB_GENERATE(overlay_pages, page, entry, page_cmp)

static struct overlay *overlay_of(struct bdev *dev)
{
	return (struct overlay *)dev;
}

static struct page *find(struct overlay *o, uint64_t addr)
{
	struct page key = { .addr = addr };

	return RB_FIND(overlay_pages, &o->pages, &key);
}

static int write_blocks(struct overlay *o, uint64_t addr, const uint8_t *buf, uint32_t blocks)
{
	int err = 0;

	pthread_mutex_lock(&o->lock);
	for (uint32_t i = 0; i < blocks && !err; i++) {
		struct page *p = find(o, addr + i);

		if (!p) {
			p = mem_alloc(sizeof(*p) + BLOCK_SIZE);
			if (!p) {
				err = -ENOMEM;
				break;
			}
			p->addr = addr + i;
			RB_INSERT(overlay_pages, &o->pages, p);
			o->n++;
		}
		memcpy(p->data, buf + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
	}
	pthread_mutex_unlock(&o->lock);
	return err;
}

static int read_blocks(struct overlay *o, uint64_t addr, uint8_t *buf, uint32_t blocks)
{
	int err = 0;

	for (uint32_t i = 0; i < blocks && !err;) {
		uint32_t n = 0; /* blocks from here on that are not ours */

		pthread_mutex_lock(&o->lock);
		while (i + n < blocks) {
			struct page *p = find(o, addr + i + n);

			if (p) {
				memcpy(buf + (size_t)(i + n) * BLOCK_SIZE, p->data, BLOCK_SIZE);
				break;
			}
			n++;
		}
		pthread_mutex_unlock(&o->lock);
		if (n)
			err = bdev_read(o->below, addr + i, buf + (size_t)i * BLOCK_SIZE, n);
		i += n + 1;
	}
	return err;
}

static int overlay_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	return op == BIO_READ ? read_blocks(overlay_of(dev), addr, buf, blocks)
			      : write_blocks(overlay_of(dev), addr, buf, blocks);
}

static void overlay_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	struct overlay *o = overlay_of(dev);

	for (unsigned i = 0; i < n; i++) {
		uint64_t addr = bios[i]->addr;
		int err = 0;

		for (int k = 0; k < bios[i]->iovcnt && !err; k++) {
			uint32_t blocks = (uint32_t)(bios[i]->iov[k].iov_len >> BLOCK_SHIFT);

			err = overlay_rw(dev, bios[i]->op, addr, bios[i]->iov[k].iov_base, blocks);
			addr += blocks;
		}
		bio_complete(bios[i], err);
	}
	pthread_mutex_lock(&o->lock);
	pthread_cond_broadcast(&o->completed);
	pthread_mutex_unlock(&o->lock);
}

static void overlay_wait(struct bdev *dev, struct bio_group *g)
{
	struct overlay *o = overlay_of(dev);

	pthread_mutex_lock(&o->lock);
	while (atomic_load_explicit(&g->pending, memory_order_acquire))
		pthread_cond_wait(&o->completed, &o->lock);
	pthread_mutex_unlock(&o->lock);
}

static void overlay_poll(struct bdev *dev)
{
	struct overlay *o = overlay_of(dev);

	pthread_mutex_lock(&o->lock);
	pthread_cond_broadcast(&o->completed);
	pthread_mutex_unlock(&o->lock);
}

static int overlay_flush(struct bdev *dev)
{
	(void)dev;
	return 0;
}

static int overlay_discard(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	(void)dev;
	(void)addr;
	(void)blocks;
	return -EOPNOTSUPP;
}

static int overlay_resize(struct bdev *dev)
{
	struct overlay *o = overlay_of(dev);
	int err = bdev_resize(o->below);

	if (!err)
		__atomic_store_n(&dev->geo.blocks, o->below->geo.blocks, __ATOMIC_RELAXED);
	return err;
}

static void overlay_close(struct bdev *dev)
{
	struct overlay *o = overlay_of(dev);
	struct page *p, *next;

	for (p = RB_MIN(overlay_pages, &o->pages); p; p = next) {
		next = RB_NEXT(overlay_pages, &o->pages, p);
		RB_REMOVE(overlay_pages, &o->pages, p);
		mem_free(p);
	}
	bdev_close(o->below);
	pthread_cond_destroy(&o->completed);
	pthread_mutex_destroy(&o->lock);
	mem_free(o);
}

static const struct bdev_ops overlay_ops = {
	.submit = overlay_submit,
	.wait = overlay_wait,
	.poll = overlay_poll,
	.rw = overlay_rw,
	.flush = overlay_flush,
	.discard = overlay_discard,
	.resize = overlay_resize,
	.close = overlay_close,
};

int overlay_open(struct bdev *below, struct bdev **ret)
{
	struct overlay *o = mem_zalloc(sizeof(*o));

	if (!o)
		return -ENOMEM;
	bdev_init(&o->dev, &overlay_ops, below->name);
	/* Written to it can be in any case, and a discard would have nothing to tell. */
	o->dev.geo = (struct bdev_geometry){ .blocks = below->geo.blocks };
	o->below = below;
	RB_INIT(&o->pages);
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->completed, NULL);
	*ret = &o->dev;
	return 0;
}

uint64_t overlay_blocks(struct bdev *dev)
{
	struct overlay *o = overlay_of(dev);
	uint64_t n;

	assert(dev->ops == &overlay_ops);
	pthread_mutex_lock(&o->lock);
	n = o->n;
	pthread_mutex_unlock(&o->lock);
	return n;
}

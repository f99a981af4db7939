#include "btree/dev/bdev.h"

#include "btree/err.h"

void bdev_init(struct bdev *dev, const struct bdev_ops *ops, const char *name)
{
	dev->ops = ops;
	dev->name = name;
	atomic_init(&dev->dead, false);
	atomic_init(&dev->read_blocks, 0);
	atomic_init(&dev->written_blocks, 0);
	atomic_init(&dev->reads, 0);
	atomic_init(&dev->writes, 0);
	atomic_init(&dev->flushes, 0);
}

static void add(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static bool inside(const struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	/* A resize may go on in another thread. */
	uint64_t end = __atomic_load_n(&dev->geo.blocks, __ATOMIC_RELAXED);

	return addr <= end && blocks <= end - addr;
}

/* The rules that hold for every transfer, and the counting of those that pass. */
static int admit(struct bdev *dev, enum bio_op op, uint64_t addr, uint64_t blocks)
{
	if (blocks == 0 || !inside(dev, addr, blocks))
		return -EINVAL;
	if (op == BIO_READ) {
		add(&dev->reads, 1);
		add(&dev->read_blocks, blocks);
		return 0;
	}
	if (dev->geo.read_only)
		return -EROFS;
	if (atomic_load(&dev->dead))
		return -EIO;
	add(&dev->writes, 1);
	add(&dev->written_blocks, blocks);
	return 0;
}

static bool aligned(const void *p, size_t bytes)
{
	return (((uintptr_t)p | bytes) & (BLOCK_SIZE - 1)) == 0;
}

static int rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	int err = aligned(buf, 0) ? admit(dev, op, addr, blocks) : -EINVAL;

	return err ? err : dev->ops->rw(dev, op, addr, buf, blocks);
}

int bdev_read(struct bdev *dev, uint64_t addr, void *buf, uint32_t blocks)
{
	return rw(dev, BIO_READ, addr, buf, blocks);
}

int bdev_write(struct bdev *dev, uint64_t addr, const void *buf, uint32_t blocks)
{
	/* A backend does not write to the buffer of a write. */
	return rw(dev, BIO_WRITE, addr, (void *)(uintptr_t)buf, blocks);
}

int bdev_flush(struct bdev *dev)
{
	int err;

	if (dev->geo.read_only)
		return 0;
	if (atomic_load(&dev->dead))
		return -EIO;
	add(&dev->flushes, 1);
	err = dev->ops->flush(dev);
	if (err && !atomic_exchange(&dev->dead, true))
		err_log(LOG_ERROR, "%s: flush failed with error %d, no further write is accepted", dev->name, -err);
	return err;
}

int bdev_discard(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	if (!inside(dev, addr, blocks))
		return -EINVAL;
	if (dev->geo.read_only)
		return -EROFS;
	if (atomic_load(&dev->dead))
		return -EIO;
	return blocks ? dev->ops->discard(dev, addr, blocks) : 0;
}

int bdev_resize(struct bdev *dev)
{
	return dev->ops->resize(dev);
}

void bdev_close(struct bdev *dev)
{
	if (dev)
		dev->ops->close(dev);
}

static int check(struct bdev *dev, const struct bio *bio)
{
	uint64_t bytes = 0;

	if (bio->iovcnt < 1 || bio->iovcnt > BIO_IOV_MAX)
		return -EINVAL;
	for (int i = 0; i < bio->iovcnt; i++) {
		if (!aligned(bio->iov[i].iov_base, bio->iov[i].iov_len) || bio->iov[i].iov_len == 0)
			return -EINVAL;
		if (__builtin_add_overflow(bytes, bio->iov[i].iov_len, &bytes))
			return -EINVAL;
	}
	return admit(dev, bio->op, bio->addr, bytes >> BLOCK_SHIFT);
}

void bdev_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	unsigned from = 0;
	bool refused = false;

	/* All of them before the first starts, or a group could look finished half way. */
	for (unsigned i = 0; i < n; i++)
		atomic_fetch_add_explicit(&bios[i]->group->pending, 1, memory_order_relaxed);

	for (unsigned i = 0; i < n; i++) {
		int err = check(dev, bios[i]);

		if (!err)
			continue;
		if (i > from)
			dev->ops->submit(dev, bios + from, i - from);
		bio_complete(bios[i], err);
		refused = true;
		from = i + 1;
	}
	if (n > from)
		dev->ops->submit(dev, bios + from, n - from);
	if (refused)
		dev->ops->poll(dev);
}

int bdev_wait(struct bdev *dev, struct bio_group *g)
{
	if (atomic_load_explicit(&g->pending, memory_order_acquire))
		dev->ops->wait(dev, g);
	return atomic_exchange(&g->err, 0);
}

void bdev_poll(struct bdev *dev)
{
	dev->ops->poll(dev);
}

void bio_complete(struct bio *bio, int err)
{
	struct bio_group *g = bio->group;

	bio->err = err;
	if (err) {
		int none = 0;

		atomic_compare_exchange_strong(&g->err, &none, err);
	}
	if (bio->done)
		bio->done(bio);
	atomic_fetch_sub_explicit(&g->pending, 1, memory_order_release);
}

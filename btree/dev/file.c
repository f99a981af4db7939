/*
 * The backend for image files and block devices. Transfers are direct (O_DIRECT) where that is possible, because the
 * engine has a cache of its own and must know when bytes have left this host's memory; where it is refused, ordinary
 * I/O with fdatasync keeps the same contract.
 *
 * Two writers on one image destroy it, so opening takes a lock: an open-file-description lock on the file or on
 * the device's node (exclusive to write, shared to read; it ends with the process, whatever ends it), and for a block
 * device also O_EXCL, which keeps off mounted devices and those of other programs.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>
#undef BLOCK_SIZE /* of linux/fs.h; ours is types.h's */

#include "btree/dev/bdev.h"
#include "btree/dev/holder.h"
#include "btree/dev/queue.h"
#include "btree/err.h"
#include "btree/mem.h"

#define LOCK_RETRY_MS 20u

struct file {
	struct bdev dev; /* first: the ops are given this */
	struct queue *queue;
	char *path;
	int fd;
	bool block_device;
};

static struct file *file_of(struct bdev *dev)
{
	return (struct file *)dev;
}

static int read_size(struct file *f, uint64_t *ret_blocks)
{
	uint64_t bytes;

	if (f->block_device) {
		if (ioctl(f->fd, BLKGETSIZE64, &bytes))
			return -errno;
	} else {
		struct stat st;

		if (fstat(f->fd, &st))
			return -errno;
		bytes = (uint64_t)st.st_size;
	}
	*ret_blocks = bytes >> BLOCK_SHIFT;
	return 0;
}

/* In bytes; 0: the device does not discard. A partition has it from its disk. */
static uint64_t discard_granularity(dev_t dev)
{
	static const char *const where[] = {
		"/sys/dev/block/%u:%u/queue/%s",
		"/sys/dev/block/%u:%u/../queue/%s",
	};
	static const char *const what[] = { "discard_max_bytes", "discard_granularity" };
	unsigned long long value[2] = { 0, 0 };

	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++) {
			char path[128];
			FILE *s;

			snprintf(path, sizeof(path), where[i], major(dev), minor(dev), what[j]);
			s = fopen(path, "re");
			if (!s)
				continue;
			if (fscanf(s, "%llu", &value[j]) != 1)
				value[j] = 0;
			fclose(s);
		}
	return value[0] ? value[1] : 0;
}

/* --- operations --- */

static void file_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	queue_submit(file_of(dev)->queue, bios, n);
}

static void file_wait(struct bdev *dev, struct bio_group *g)
{
	queue_wait(file_of(dev)->queue, g);
}

static void file_poll(struct bdev *dev)
{
	queue_poll(file_of(dev)->queue);
}

static int file_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	struct iovec iov = { .iov_base = buf, .iov_len = (size_t)blocks << BLOCK_SHIFT };

	return queue_transfer(file_of(dev)->fd, op, addr << BLOCK_SHIFT, &iov, 1, 0);
}

static int file_flush(struct bdev *dev)
{
	/* An interrupted call has reported nothing yet. */
	while (fdatasync(file_of(dev)->fd))
		if (errno != EINTR)
			return queue_error(-errno);
	return 0;
}

static int file_discard(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	struct file *f = file_of(dev);
	uint64_t each = dev->geo.discard_blocks;
	uint64_t from, to;

	if (each == 0)
		return -EOPNOTSUPP;
	from = (addr + each - 1) / each * each;
	to = (addr + blocks) / each * each;
	if (from >= to)
		return 0;
	for (;;) {
		int rc;

		if (f->block_device) {
			uint64_t range[2] = { from << BLOCK_SHIFT, (to - from) << BLOCK_SHIFT };

			rc = ioctl(f->fd, BLKDISCARD, range);
		} else {
			rc = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(from << BLOCK_SHIFT),
				       (off_t)((to - from) << BLOCK_SHIFT));
		}
		if (rc == 0)
			return 0;
		if (errno != EINTR)
			return errno == ENOSYS ? -EOPNOTSUPP : queue_error(-errno);
	}
}

static int file_resize(struct bdev *dev)
{
	uint64_t blocks = 0;
	int err = read_size(file_of(dev), &blocks);

	if (!err)
		__atomic_store_n(&dev->geo.blocks, blocks, __ATOMIC_RELAXED);
	return err;
}

static void file_close(struct bdev *dev)
{
	struct file *f = file_of(dev);

	queue_close(f->queue);
	if (f->fd >= 0)
		close(f->fd);
	mem_free(f->path);
	mem_free(f);
}

static const struct bdev_ops file_ops = {
	.submit = file_submit,
	.wait = file_wait,
	.poll = file_poll,
	.rw = file_rw,
	.flush = file_flush,
	.discard = file_discard,
	.resize = file_resize,
	.close = file_close,
};

/* --- opening --- */

static int open_path(struct file *f, const struct bdev_file_options *opt)
{
	/* Not to hang on a FIFO; it has no meaning for what we accept. */
	int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (opt->read_only ? O_RDONLY : O_RDWR);
	struct stat st;

	/* Before opening: opening some devices does something. */
	if (stat(f->path, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -ENOTBLK;
	if (S_ISBLK(st.st_mode) && !opt->read_only && !opt->no_lock && !opt->no_claim)
		flags |= O_EXCL;

	f->fd = opt->buffered ? -1 : open(f->path, flags | O_DIRECT);
	if (f->fd < 0 && (opt->buffered || errno == EINVAL))
		f->fd = open(f->path, flags);
	if (f->fd < 0)
		return -errno;

	if (fstat(f->fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -ENOTBLK;
	f->block_device = S_ISBLK(st.st_mode);

	/* io_uring would give up rather than wait. */
	flags = fcntl(f->fd, F_GETFL);
	return flags < 0 || fcntl(f->fd, F_SETFL, flags & ~O_NONBLOCK) ? -errno : 0;
}

/* Direct I/O can be accepted by open and refused by the first transfer (blocks larger than ours, some overlays). */
static int try_direct(struct file *f)
{
	int flags = fcntl(f->fd, F_GETFL);
	int err = 0;
	void *buf;

	if (flags < 0 || !(flags & O_DIRECT))
		return 0;
	buf = mem_alloc_blocks(BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	if (pread(f->fd, buf, BLOCK_SIZE, 0) < 0 && errno == EINVAL && fcntl(f->fd, F_SETFL, flags & ~O_DIRECT))
		err = -errno;
	mem_free(buf);
	return err;
}

static int lock(const struct file *f, const struct bdev_file_options *opt)
{
	struct flock range = { .l_type = opt->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (opt->no_lock || fcntl(f->fd, F_OFD_SETLK, &range) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static void find_holder(const struct file *f, char **ret_holder)
{
	/* With O_EXCL refused there is no descriptor to ask with. */
	int fd = f->fd >= 0 ? f->fd : open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return;
	*ret_holder = holder_find(fd);
	if (fd != f->fd)
		close(fd);
}

static int open_and_lock(struct file *f, const struct bdev_file_options *opt)
{
	unsigned waited_ms = 0;

	for (;;) {
		int err = open_path(f, opt);

		if (!err)
			err = lock(f, opt);
		if (err != -EBUSY || waited_ms >= opt->lock_wait_ms)
			return err;
		if (f->fd >= 0)
			close(f->fd);
		f->fd = -1;
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_RETRY_MS * 1000000 }, NULL);
		waited_ms += LOCK_RETRY_MS;
	}
}

int bdev_file_open(const char *path, const struct bdev_file_options *opt, struct bdev **ret, char **ret_holder)
{
	static const struct bdev_file_options defaults;
	struct file *f = mem_zalloc(sizeof(*f));
	struct stat st;
	int err;

	if (ret_holder)
		*ret_holder = NULL;
	if (!f)
		return -ENOMEM;
	if (!opt)
		opt = &defaults;
	f->fd = -1;
	f->path = mem_strdup(path);
	if (!f->path) {
		err = -ENOMEM;
		goto out;
	}
	bdev_init(&f->dev, &file_ops, f->path);

	err = open_and_lock(f, opt);
	if (err == -EBUSY && ret_holder)
		find_holder(f, ret_holder);
	if (err)
		goto out;
	err = try_direct(f);
	if (err)
		goto out;

	err = read_size(f, &f->dev.geo.blocks);
	if (err)
		goto out;
	f->dev.geo.read_only = opt->read_only;
	f->dev.geo.discard_blocks = 1;
	if (f->block_device && fstat(f->fd, &st) == 0) {
		uint64_t bytes = discard_granularity(st.st_rdev);

		f->dev.geo.discard_blocks = bytes ? (uint32_t)((bytes + BLOCK_SIZE - 1) >> BLOCK_SHIFT) : 0;
	}

	err = queue_open(f->fd, opt->queue_depth, opt->no_uring, &f->queue);
	if (err)
		goto out;
	*ret = &f->dev;
	return 0;
out:
	file_close(&f->dev);
	return err;
}

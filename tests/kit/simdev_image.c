/*
 * The content of a simulated disk taken as a value, and changed behind the engine's back.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/err.h"
#include "tests/kit/simdev_private.h"

struct simdev_image *simdev_freeze(struct simdev *sd)
{
	struct simdev_image *image = simdev_must(malloc(sizeof(*image)));

	pthread_mutex_lock(&sd->lock);
	image->map = pagemap_get(&sd->now);
	image->blocks = sd->blocks;
	pthread_mutex_unlock(&sd->lock);
	return image;
}

void simdev_image_free(struct simdev_image *image)
{
	if (!image)
		return;
	pagemap_put(&image->map);
	free(image);
}

struct simdev *simdev_clone(struct simdev *sd)
{
	struct simdev_image *image = simdev_freeze(sd);
	struct simdev *clone = simdev_new(&(struct simdev_options){ .base = image, .seed = sd->seed });

	simdev_image_free(image);
	return clone;
}

static void add_page(void *arg, uint64_t addr, const struct page *page)
{
	*(uint64_t *)arg += rng_mix(page_digest(page), addr);
}

uint64_t simdev_digest(struct simdev *sd)
{
	uint64_t sum = 0;

	pthread_mutex_lock(&sd->lock);
	pagemap_each(&sd->now, 0, sd->blocks, add_page, &sum);
	pthread_mutex_unlock(&sd->lock);
	return sum ? sum : 1;
}

struct saving {
	int fd;
	int err;
};

static void save_page(void *arg, uint64_t addr, const struct page *page)
{
	struct saving *s = arg;

	if (!s->err && pwrite(s->fd, page_data(page), BLOCK_SIZE, (off_t)(addr << BLOCK_SHIFT)) != BLOCK_SIZE)
		s->err = errno ? -errno : -EIO;
}

int simdev_save(struct simdev *sd, const char *path)
{
	struct saving s = { .fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) };

	if (s.fd < 0)
		return -errno;
	pthread_mutex_lock(&sd->lock);
	if (ftruncate(s.fd, (off_t)(sd->blocks << BLOCK_SHIFT)))
		s.err = -errno;
	pagemap_each(&sd->now, 0, sd->blocks, save_page, &s);
	pthread_mutex_unlock(&sd->lock);
	if (close(s.fd) && !s.err)
		s.err = -errno;
	return s.err;
}

int simdev_load(const char *path, struct simdev_image **ret)
{
	struct simdev_image *image = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size, from = 0, to;
	int err = 0;

	if (fd < 0)
		return -errno;
	size = lseek(fd, 0, SEEK_END);
	if (size < 0) {
		err = -errno;
		goto out;
	}
	image = simdev_must(calloc(1, sizeof(*image)));
	image->blocks = (uint64_t)size >> BLOCK_SHIFT;
	size = (off_t)(image->blocks << BLOCK_SHIFT);
	while (!err && (from = lseek(fd, from, SEEK_DATA)) >= 0 && from < size) {
		to = lseek(fd, from, SEEK_HOLE);
		for (from &= ~(off_t)(BLOCK_SIZE - 1); !err && from < to && from < size; from += BLOCK_SIZE) {
			uint8_t bytes[BLOCK_SIZE];
			struct page *page;

			if (pread(fd, bytes, BLOCK_SIZE, from) != BLOCK_SIZE) {
				err = -EIO;
				break;
			}
			page = page_new(bytes);
			pagemap_set(&image->map, (uint64_t)from >> BLOCK_SHIFT, page);
			page_put(page);
		}
	}
out:
	close(fd);
	if (err)
		simdev_image_free(image);
	else
		*ret = image;
	return err;
}

/* --- past the bdev --- */

void simdev_peek(struct simdev *sd, uint64_t addr, void *buf, uint32_t blocks)
{
	pthread_mutex_lock(&sd->lock);
	for (uint32_t i = 0; i < blocks; i++)
		memcpy((char *)buf + (size_t)i * BLOCK_SIZE, page_data(pagemap_find(&sd->now, addr + i)), BLOCK_SIZE);
	pthread_mutex_unlock(&sd->lock);
}

static void change_locked(struct pagemap *map, uint64_t addr, uint32_t offset, const void *bytes, uint32_t len)
{
	uint8_t block[BLOCK_SIZE];
	struct page *page;

	memcpy(block, page_data(pagemap_find(map, addr)), BLOCK_SIZE);
	memcpy(block + offset, bytes, len);
	page = page_new(block);
	pagemap_set(map, addr, page);
	page_put(page);
}

/* Where a crash right now would start from. */
static struct pagemap *durable_locked(struct simdev *sd)
{
	for (uint64_t i = sd->ops; i-- > 0;)
		if (sd->op[i].kind == SIMDEV_FLUSH && !sd->op[i].err)
			return &sd->op[i].after;
	return &sd->base;
}

void simdev_poke(struct simdev *sd, uint64_t addr, uint32_t offset, const void *bytes, uint32_t len)
{
	pthread_mutex_lock(&sd->lock);
	change_locked(&sd->now, addr, offset, bytes, len);
	change_locked(durable_locked(sd), addr, offset, bytes, len);
	pthread_mutex_unlock(&sd->lock);
}

void simdev_flip(struct simdev *sd, uint64_t addr, uint32_t bit)
{
	uint8_t block[BLOCK_SIZE];

	simdev_peek(sd, addr, block, 1);
	block[bit / 8] ^= (uint8_t)(1u << bit % 8);
	simdev_poke(sd, addr, bit / 8, &block[bit / 8], 1);
}

/*
 * undo.c - a device that remembers what it overwrites, and putting that back
 *
 * The problem: a repair decides what a damaged filesystem meant. Who sees the result may want to have the damage
 * back, to try something else.
 *
 * The idea: the first time a block is written, its old content is appended to a file, which is made durable before
 * the write goes down. So whatever a crash leaves, each block of the device that differs from what it was has its
 * old content in the file:
 *
 *	header | record | record | ...
 *
 * A record is {checksum, address, group, index in the group} and the block. What one fdatasync makes durable is a
 * *group*; its blocks are written only afterwards, so a torn last group is no damage: nothing of it is needed.
 * Records are verified from the file's beginning; behind one that does not verify there may be others of its own
 * group, but none of a later one: that would be damage in the middle, and then nothing is put back at all. The last
 * record, written when the device is closed, says that there is no more (END), and how the superblocks looked then.
 *
 * Is it the right device? Its size and the uuid in its superblocks must be those of the header; and with an END, a
 * superblock that verifies must be the one of the end or the one that was saved. Another one means that the
 * filesystem has been used since, and old blocks put under its newer ones would destroy it.
 *
 * Putting back: all but the superblocks, a flush, then the superblocks one after the other, each with a flush,
 * first the one that verified back then. So until the old state is there as a whole some superblock verifies, and
 * names this filesystem; and doing it again does the same. Blocks that could not be read before they were written
 * stay as they are now.
 *
 * Memory: one bit a block of the device, of which the system gives only what is touched. One mutex is held while
 * old content is saved; writes themselves go on in the device below.
 */
#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "btree/dev/overlay.h"
#include "btree/dev/queue.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/super.h"

#define UNDO_MAGIC "ArborUnd" /* 8 bytes, no NUL */
#define UNDO_VERSION 1u
#define UNDO_END UINT64_MAX /* as an address: the last record */
#define CHUNK 64u	    /* blocks moved at once */

/* The first block of the file; zeros follow. */
struct undo_header {
	le64 sum; /* XXH3-64 of the block behind this field */
	uint8_t magic[8];
	le32 version;
	le32 zero;
	le64 blocks;	  /* of the device */
	le64 salt;	  /* random: seeds the checksums of the records */
	uint8_t uuid[16]; /* of the filesystem; zero where no superblock verified */
};
static_assert(sizeof(struct undo_header) == 56, "undo_header");

/* In front of each block. */
struct undo_record {
	le64 sum; /* XXH3-64 of what follows this field, the block included */
	le64 addr;
	le64 group;
	le64 index;
};
static_assert(sizeof(struct undo_record) == 32, "undo_record");

#define RECORD_BYTES (sizeof(struct undo_record) + BLOCK_SIZE)

/* A record in memory as it stands in the file. */
struct undo_image {
	struct undo_record head;
	uint8_t block[BLOCK_SIZE];
};
static_assert(sizeof(struct undo_image) == RECORD_BYTES, "undo_image");

/* The block of the END record: checksums of the superblocks' blocks, 0 where one cannot be read; then zeros. */
struct undo_end {
	le64 slot[2];
};

static const uint64_t slot_addr[2] = { SUPER_SLOT0, SUPER_SLOT1 };

static uint64_t record_at(uint64_t i)
{
	return BLOCK_SIZE + i * RECORD_BYTES;
}

static uint64_t header_sum(const void *block)
{
	return XXH3_64bits((const uint8_t *)block + sizeof(le64), BLOCK_SIZE - sizeof(le64));
}

static uint64_t record_sum(const struct undo_image *r, uint64_t salt)
{
	return XXH3_64bits_withSeed(&r->head.addr, sizeof(*r) - sizeof(r->head.sum), salt);
}

/* All of it, or an error. Unlike the device's transfers these are of any length. */
static int transfer(int fd, enum bio_op op, uint64_t off, void *buf, size_t len)
{
	while (len) {
		ssize_t moved = op == BIO_READ ? pread(fd, buf, len, (off_t)off) : pwrite(fd, buf, len, (off_t)off);

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return moved ? queue_error(-errno) : -EIO;
		buf = (uint8_t *)buf + moved;
		off += (uint64_t)moved;
		len -= (size_t)moved;
	}
	return 0;
}

/* One superblock's block: its content, whether it verifies, and is one of ours at all. */
struct slot {
	bool readable, ours, valid;
	uint64_t sum;
	uint8_t uuid[16];
};

static void look_at_slot(unsigned i, const void *block, struct slot *s)
{
	struct super super;
	int err = super_decode(block, i, &super);

	*s = (struct slot){ .readable = true, .ours = err != -ENODEV, .valid = err == 0 };
	s->sum = XXH3_64bits(block, BLOCK_SIZE);
	if (s->valid)
		memcpy(s->uuid, super.uuid, sizeof(s->uuid));
}

static void read_slot(struct bdev *dev, unsigned i, void *block, struct slot *s)
{
	if (slot_addr[i] >= dev->geo.blocks || bdev_read(dev, slot_addr[i], block, 1))
		*s = (struct slot){ 0 };
	else
		look_at_slot(i, block, s);
}

/* ---- remembering ---- */

struct undo {
	struct bdev dev; /* first: the ops are given this */
	struct bdev *below;
	int fd;
	uint64_t salt;
	pthread_mutex_t lock;
	uint64_t *saved;	   /* one bit a block; this and what follows is guarded by lock */
	uint8_t *buf;		   /* CHUNK blocks */
	struct undo_image *images; /* as many */
	uint64_t n;		   /* records in the file */
	uint64_t group, index;
	int err; /* the file failed: final */
};

static struct undo *undo_of(struct bdev *dev)
{
	return (struct undo *)dev;
}

static bool is_saved(const struct undo *u, uint64_t addr)
{
	return u->saved[addr / 64] >> (addr % 64) & 1;
}

/* Appends n <= CHUNK blocks that lie together. */
static int append(struct undo *u, uint64_t addr, const void *blocks, unsigned n)
{
	int err;

	for (unsigned i = 0; i < n; i++) {
		struct undo_image *r = &u->images[i];

		r->head = (struct undo_record){
			.addr = le64_put(addr + i),
			.group = le64_put(u->group),
			.index = le64_put(u->index + i),
		};
		memcpy(r->block, (const uint8_t *)blocks + (size_t)i * BLOCK_SIZE, BLOCK_SIZE);
		r->head.sum = le64_put(record_sum(r, u->salt));
	}
	err = transfer(u->fd, BIO_WRITE, record_at(u->n), u->images, n * RECORD_BYTES);
	if (!err) {
		u->n += n;
		u->index += n;
	}
	return err;
}

static int save_run(struct undo *u, uint64_t addr, unsigned n)
{
	int err = bdev_read(u->below, addr, u->buf, n);

	if (!err)
		return append(u, addr, u->buf, n);
	if (n == 1) {
		err_log(LOG_WARNING,
			"%s: block %" PRIu64 " cannot be read (%s): there is nothing to be remembered of it",
			u->dev.name, addr, strerror(-err));
		return 0;
	}
	err = 0;
	for (unsigned i = 0; i < n && !err; i++)
		err = save_run(u, addr + i, 1);
	return err;
}

/* Saves what is not saved yet of these blocks; not durable yet. */
static int save(struct undo *u, uint64_t addr, uint64_t blocks)
{
	int err = 0;

	for (uint64_t i = 0; i < blocks && !err;) {
		unsigned n = 0;

		while (n < CHUNK && i + n < blocks && !is_saved(u, addr + i + n))
			n++;
		if (n)
			err = save_run(u, addr + i, n);
		i += n ? n : 1;
	}
	return err;
}

static void mark_saved(struct undo *u, uint64_t addr, uint64_t blocks)
{
	for (uint64_t b = addr; b < addr + blocks; b++)
		u->saved[b / 64] |= UINT64_C(1) << (b % 64);
}

/* Ends the group: durable, before anything of it is written to the device. */
static int harden(struct undo *u)
{
	if (!u->index)
		return 0;
	u->group++;
	u->index = 0;
	while (fdatasync(u->fd))
		if (errno != EINTR)
			return queue_error(-errno);
	return 0;
}

static int fail_locked(struct undo *u, int err)
{
	if (err && !u->err) {
		err_log(LOG_ERROR, "%s: the undo file cannot be written (%s): nothing more is written to the device",
			u->dev.name, strerror(-err));
		u->err = err;
	}
	return u->err;
}

static uint64_t bio_blocks(const struct bio *bio)
{
	uint64_t blocks = 0;

	for (int i = 0; i < bio->iovcnt; i++)
		blocks += bio->iov[i].iov_len >> BLOCK_SHIFT;
	return blocks;
}

static int save_bios(struct undo *u, struct bio **bios, unsigned n)
{
	int err;

	pthread_mutex_lock(&u->lock);
	err = u->err;
	for (unsigned i = 0; i < n && !err; i++)
		if (bios[i]->op == BIO_WRITE)
			err = save(u, bios[i]->addr, bio_blocks(bios[i]));
	if (!err)
		err = harden(u);
	for (unsigned i = 0; i < n && !err; i++)
		if (bios[i]->op == BIO_WRITE)
			mark_saved(u, bios[i]->addr, bio_blocks(bios[i]));
	err = fail_locked(u, err);
	pthread_mutex_unlock(&u->lock);
	return err;
}

/* The bios go down as they are: they have been checked and counted, and the device below completes them. */
static void undo_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	struct undo *u = undo_of(dev);
	int err = save_bios(u, bios, n);

	if (!err) {
		u->below->ops->submit(u->below, bios, n);
		return;
	}
	for (unsigned i = 0; i < n; i++)
		if (bios[i]->op == BIO_WRITE)
			bio_complete(bios[i], err);
		else
			u->below->ops->submit(u->below, &bios[i], 1);
	u->below->ops->poll(u->below);
}

static void undo_wait(struct bdev *dev, struct bio_group *g)
{
	struct bdev *below = undo_of(dev)->below;

	below->ops->wait(below, g);
}

static void undo_poll(struct bdev *dev)
{
	bdev_poll(undo_of(dev)->below);
}

static int undo_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	struct undo *u = undo_of(dev);
	struct iovec iov = { .iov_base = buf, .iov_len = (size_t)blocks << BLOCK_SHIFT };
	struct bio bio = { .op = BIO_WRITE, .addr = addr, .iov = &iov, .iovcnt = 1 }, *list = &bio;
	int err;

	if (op == BIO_READ)
		return bdev_read(u->below, addr, buf, blocks);
	err = save_bios(u, &list, 1);
	return err ? err : bdev_write(u->below, addr, buf, blocks);
}

static int undo_flush(struct bdev *dev)
{
	return bdev_flush(undo_of(dev)->below);
}

/* What a discard leaves is undefined: to remember all of it would be costly, and nobody needs it. */
static int undo_discard(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	(void)dev;
	(void)addr;
	(void)blocks;
	return -EOPNOTSUPP;
}

/* It keeps the size that the header says. */
static int undo_resize(struct bdev *dev)
{
	(void)dev;
	return 0;
}

static int write_end(struct undo *u)
{
	struct undo_end end = { 0 };
	int err;

	/* What the END says of the superblocks must not be taken back by a power cut. */
	err = u->err ? u->err : bdev_flush(u->below);
	if (err)
		return err;
	for (unsigned i = 0; i < 2; i++) {
		struct slot s;

		read_slot(u->below, i, u->buf, &s);
		end.slot[i] = le64_put(s.sum);
	}
	memset(u->buf, 0, BLOCK_SIZE);
	memcpy(u->buf, &end, sizeof(end));
	err = append(u, UNDO_END, u->buf, 1);
	return err ? err : harden(u);
}

static void release(struct undo *u)
{
	if (u->fd >= 0)
		close(u->fd);
	pthread_mutex_destroy(&u->lock);
	mem_free(u->saved);
	mem_free(u->buf);
	mem_free(u->images);
	mem_free(u);
}

static void undo_close(struct bdev *dev)
{
	struct undo *u = undo_of(dev);
	int err = write_end(u);

	if (err)
		err_log(LOG_WARNING, "%s: the undo file has no end (%s); it can be used all the same", dev->name,
			strerror(-err));
	bdev_close(u->below);
	release(u);
}

static const struct bdev_ops undo_ops = {
	.submit = undo_submit,
	.wait = undo_wait,
	.poll = undo_poll,
	.rw = undo_rw,
	.flush = undo_flush,
	.discard = undo_discard,
	.resize = undo_resize,
	.close = undo_close,
};

/* Makes the file's name durable. */
static int sync_folder(const char *path)
{
	char *folder = mem_strdup(path), *slash;
	int fd, err = 0;

	if (!folder)
		return -ENOMEM;
	slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder] = 0;
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mem_free(folder);
	if (fd < 0)
		return -errno;
	if (fsync(fd))
		err = -errno;
	close(fd);
	return err;
}

static int write_header(struct undo *u)
{
	struct undo_header h = {
		.version = le32_put(UNDO_VERSION),
		.blocks = le64_put(u->dev.geo.blocks),
		.salt = le64_put(u->salt),
	};
	struct slot s;
	int err;

	memcpy(h.magic, UNDO_MAGIC, sizeof(h.magic));
	for (unsigned i = 2; i-- > 0;) {
		read_slot(u->below, i, u->buf, &s);
		if (s.valid)
			memcpy(h.uuid, s.uuid, sizeof(h.uuid));
	}
	memset(u->buf, 0, BLOCK_SIZE);
	memcpy(u->buf, &h, sizeof(h));
	h.sum = le64_put(header_sum(u->buf));
	memcpy(u->buf, &h, sizeof(h));
	err = transfer(u->fd, BIO_WRITE, 0, u->buf, BLOCK_SIZE);
	if (!err && fsync(u->fd))
		err = queue_error(-errno);
	return err;
}

int undo_open(struct bdev *below, const char *path, struct bdev **ret)
{
	struct undo *u = mem_zalloc(sizeof(*u));
	int err = -ENOMEM;

	if (!u)
		return -ENOMEM;
	u->fd = -1;
	u->below = below;
	pthread_mutex_init(&u->lock, NULL);
	bdev_init(&u->dev, &undo_ops, below->name);
	u->dev.geo = below->geo;
	u->dev.geo.discard_blocks = 0;
	u->saved = mem_zalloc((below->geo.blocks / 64 + 1) * sizeof(*u->saved));
	u->buf = mem_alloc_blocks((size_t)CHUNK * BLOCK_SIZE);
	u->images = mem_zalloc_array(CHUNK, sizeof(*u->images));
	if (!u->saved || !u->buf || !u->images)
		goto out;
	if (getrandom(&u->salt, sizeof(u->salt), 0) != (ssize_t)sizeof(u->salt)) {
		err = -EIO;
		goto out;
	}
	u->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (u->fd < 0) {
		err = -errno;
		goto out;
	}
	err = write_header(u);
	if (!err)
		err = sync_folder(path);
	if (err) {
		unlink(path);
		goto out;
	}
	*ret = &u->dev;
	return 0;
out:
	release(u);
	return err;
}

/* ---- putting back ---- */

struct undo_file {
	const char *path;
	int fd;
	struct undo_header h;
	uint64_t bytes;
	uint64_t n;	      /* records to put back */
	uint64_t slot_rec[2]; /* which of them are superblocks; UINT64_MAX: none */
	struct slot old[2];   /* these */
	bool ended;
	struct undo_end end;
	struct undo_image image; /* the record read last */
	uint8_t *buf;		 /* CHUNK blocks */
};

/* Reads record i. 0: it verifies; 1: it does not; or an error. */
static int read_record(struct undo_file *f, uint64_t i)
{
	int err = transfer(f->fd, BIO_READ, record_at(i), &f->image, RECORD_BYTES);

	return err ? err : record_sum(&f->image, le64_get(f->h.salt)) != le64_get(f->image.head.sum);
}

static int read_header(struct undo_file *f, const struct bdev *dev)
{
	struct stat st;
	int err;

	if (fstat(f->fd, &st))
		return -errno;
	f->bytes = (uint64_t)st.st_size;
	if (f->bytes < BLOCK_SIZE)
		return corrupt("undo file", 0, "length", f->bytes, BLOCK_SIZE);
	err = transfer(f->fd, BIO_READ, 0, f->buf, BLOCK_SIZE);
	if (err)
		return err;
	memcpy(&f->h, f->buf, sizeof(f->h));
	if (memcmp(f->h.magic, UNDO_MAGIC, sizeof(f->h.magic)) != 0) {
		err_log(LOG_ERROR, "%s: is no undo file", f->path);
		return -EUCLEAN;
	}
	if (header_sum(f->buf) != le64_get(f->h.sum))
		return corrupt("undo file", 0, "checksum", header_sum(f->buf), le64_get(f->h.sum));
	if (le32_get(f->h.version) != UNDO_VERSION)
		return corrupt("undo file", 0, "version", le32_get(f->h.version), UNDO_VERSION);
	if (le64_get(f->h.blocks) != dev->geo.blocks) {
		err_log(LOG_ERROR, "%s: is of a device of %" PRIu64 " blocks, this one has %" PRIu64, f->path,
			le64_get(f->h.blocks), dev->geo.blocks);
		return -EUCLEAN;
	}
	return 0;
}

static int note_record(struct undo_file *f, uint64_t i)
{
	uint64_t addr = le64_get(f->image.head.addr);

	if (f->ended)
		return corrupt("undo file", record_at(i), "record behind the end", addr, 0);
	if (addr == UNDO_END) {
		f->ended = true;
		memcpy(&f->end, f->image.block, sizeof(f->end));
		return 0;
	}
	if (addr >= le64_get(f->h.blocks))
		return corrupt("undo file", record_at(i), "address", addr, le64_get(f->h.blocks));
	for (unsigned s = 0; s < 2; s++)
		if (addr == slot_addr[s]) {
			f->slot_rec[s] = i;
			look_at_slot(s, f->image.block, &f->old[s]);
		}
	f->n = i + 1;
	return 0;
}

/* Every record of the file, before the first is used. */
static int verify(struct undo_file *f)
{
	uint64_t n = (f->bytes - BLOCK_SIZE) / RECORD_BYTES, bad = UINT64_MAX;
	int err;

	for (uint64_t i = 0; i < n; i++) {
		err = read_record(f, i);
		if (err < 0)
			return err;
		if (err) {
			bad = i < bad ? i : bad;
			continue;
		}
		if (bad != UINT64_MAX) {
			/* Of the group that was being written when it all ended; or proof that it went on. */
			uint64_t index = le64_get(f->image.head.index), first = index <= i ? i - index : 0;

			if (first > bad || le64_get(f->image.head.addr) == UNDO_END)
				return corrupt("undo file", record_at(bad), "damaged record before a good one", bad, i);
			continue;
		}
		err = note_record(f, i);
		if (err)
			return err;
	}
	if (f->ended && (bad != UINT64_MAX || record_at(n) != f->bytes))
		return corrupt("undo file", record_at(n), "bytes behind the end", f->bytes, record_at(n));
	if (!f->ended)
		err_log(LOG_WARNING, "%s: what wrote it was cut short", f->path);
	return 0;
}

static int other_device(const struct undo_file *f, const char *why)
{
	err_log(LOG_ERROR, "%s: %s", f->path, why);
	return -EUCLEAN;
}

static int check_device(struct undo_file *f, struct bdev *dev)
{
	static const uint8_t no_uuid[16];
	bool known = memcmp(f->h.uuid, no_uuid, sizeof(no_uuid)) != 0, ours = false;

	for (unsigned i = 0; i < 2; i++) {
		struct slot s;

		read_slot(dev, i, f->buf, &s);
		ours |= s.ours;
		if (!s.valid)
			continue;
		if (known && memcmp(s.uuid, f->h.uuid, sizeof(s.uuid)) != 0)
			return other_device(f, "is of another filesystem");
		if (f->ended && s.sum != le64_get(f->end.slot[i]) &&
		    (f->slot_rec[i] == UINT64_MAX || s.sum != f->old[i].sum))
			return other_device(f, "the filesystem has been used since; what was is gone");
	}
	return known && !ours ? other_device(f, "is of a filesystem, and there is none on this device") : 0;
}

/* Record i, verified before, to a place in the buffer. */
static int read_again(struct undo_file *f, uint64_t i, unsigned place)
{
	int err = read_record(f, i);

	if (err)
		return err < 0 ? err : corrupt("undo file", record_at(i), "changes while it is read", 0, 0);
	memcpy(f->buf + (size_t)place * BLOCK_SIZE, f->image.block, BLOCK_SIZE);
	return 0;
}

static int put_chunk(struct undo_file *f, struct bdev *dev, uint64_t from, unsigned n)
{
	struct bio bios[CHUNK], *list[CHUNK];
	struct iovec iov[CHUNK];
	struct bio_group group;
	unsigned k = 0;

	bio_group_init(&group);
	for (unsigned i = 0; i < n; i++) {
		int err = read_again(f, from + i, i);

		if (err)
			return err;
		if (from + i == f->slot_rec[0] || from + i == f->slot_rec[1])
			continue;
		iov[k] = (struct iovec){ f->buf + (size_t)i * BLOCK_SIZE, BLOCK_SIZE };
		bios[k] = (struct bio){ .op = BIO_WRITE,
					.addr = le64_get(f->image.head.addr),
					.iov = &iov[k],
					.iovcnt = 1,
					.group = &group };
		list[k] = &bios[k];
		k++;
	}
	if (!k)
		return 0;
	bdev_submit(dev, list, k);
	return bdev_wait(dev, &group);
}

static int put_slot(struct undo_file *f, struct bdev *dev, unsigned slot)
{
	int err;

	if (f->slot_rec[slot] == UINT64_MAX)
		return 0;
	err = read_again(f, f->slot_rec[slot], 0);
	if (!err)
		err = bdev_write(dev, slot_addr[slot], f->buf, 1);
	return err ? err : bdev_flush(dev);
}

static int put_back(struct undo_file *f, struct bdev *dev)
{
	unsigned first = !f->old[0].valid && f->old[1].valid;
	int err = 0;

	for (uint64_t i = 0; i < f->n && !err; i += CHUNK)
		err = put_chunk(f, dev, i, f->n - i < CHUNK ? (unsigned)(f->n - i) : CHUNK);
	if (!err)
		err = bdev_flush(dev);
	if (!err)
		err = put_slot(f, dev, first);
	return err ? err : put_slot(f, dev, !first);
}

int undo_apply(struct bdev *dev, const char *path, uint64_t *ret_blocks)
{
	struct undo_file *f = mem_zalloc(sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	f->path = path;
	f->slot_rec[0] = f->slot_rec[1] = UINT64_MAX;
	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	err = f->fd < 0 ? -errno : 0;
	if (err)
		goto out;
	err = -ENOMEM;
	f->buf = mem_alloc_blocks((size_t)CHUNK * BLOCK_SIZE);
	if (!f->buf)
		goto out;
	err = read_header(f, dev);
	if (!err)
		err = verify(f);
	if (!err)
		err = check_device(f, dev);
	if (!err)
		err = put_back(f, dev);
	if (!err && ret_blocks)
		*ret_blocks = f->n;
out:
	mem_free(f->buf);
	if (f->fd >= 0)
		close(f->fd);
	mem_free(f);
	return err;
}

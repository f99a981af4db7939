/*
 * The overlay must look like a disk that was written, and leave the one below alone; what the undo file holds must
 * lead back to the first byte, from wherever a crash left the disk and the file.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "btree/dev/overlay.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "btree/super.h"
#include "tests/kit/failmem.h"
#include "tests/kit/rng.h"
#include "tests/kit/simdev.h"
#include "tests/kit/test.h"

#define BLOCKS 512u
#define RECORD 4128u /* of the undo file */
#define MANY 24u

static char last_line[256];

static void keep_line(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	(void)level;
	snprintf(last_line, sizeof(last_line), "%s", line);
}

/* ---- disks ---- */

static void put_super(struct bdev *dev, unsigned slot, uint64_t serial, const char *uuid)
{
	struct super s = {
		.node_size = 4096,
		.serial = serial,
		.blocks = dev->geo.blocks,
		.log_start = space_log_start_min(),
		.log_blocks = 64,
		.mount_epoch = 1,
		.log_seq = 1,
		.log_lsn = 1,
	};

	memcpy(s.uuid, uuid, 15);
	assert_int_equal(super_write(dev, slot, &s), 0);
}

/* Both superblocks, and something everywhere else. */
static struct simdev *make_disk(uint64_t blocks)
{
	struct simdev *fresh = simdev_new(&(struct simdev_options){ .blocks = blocks, .seed = 3 }), *disk;
	struct bdev *dev = simdev_bdev(fresh);
	uint8_t *buf = mem_alloc_blocks(BLOCK_SIZE);
	struct rng r;

	rng_seed(&r, 5);
	for (uint64_t b = 0; b < blocks; b++) {
		rng_bytes(&r, buf, BLOCK_SIZE);
		assert_int_equal(bdev_write(dev, b, buf, 1), 0);
	}
	put_super(dev, 0, 8, "this filesystem");
	put_super(dev, 1, 9, "this filesystem");
	assert_int_equal(bdev_flush(dev), 0);
	mem_free(buf);
	disk = simdev_clone(fresh);
	simdev_free(fresh);
	return disk;
}

static bool same(struct simdev *a, struct simdev *b)
{
	static uint8_t x[BLOCK_SIZE], y[BLOCK_SIZE];

	for (uint64_t i = 0; i < BLOCKS; i++) {
		simdev_peek(a, i, x, 1);
		simdev_peek(b, i, y, 1);
		if (memcmp(x, y, BLOCK_SIZE) != 0) {
			print_message("# block %u differs\n", (unsigned)i);
			return false;
		}
	}
	return true;
}

/* Writes of one to a few blocks, one by one or many at once; `steps` of them, with flushes and superblocks in between. */
static int scribble(struct bdev *dev, uint64_t seed, unsigned steps)
{
	uint8_t *buf = mem_alloc_blocks((size_t)MANY * 4 * BLOCK_SIZE);
	struct rng r;
	int err = 0;

	rng_seed(&r, seed);
	for (unsigned i = 0; i < steps && !err; i++) {
		rng_bytes(&r, buf, (size_t)MANY * 4 * BLOCK_SIZE);
		if (rng_chance(&r, 1, 8)) {
			put_super(dev, (unsigned)rng_below(&r, 2), 10 + i, "this filesystem");
		} else if (rng_chance(&r, 1, 3)) {
			uint32_t n = (uint32_t)rng_range(&r, 1, 16);

			err = bdev_write(dev, rng_range(&r, 17, BLOCKS - n), buf, n);
		} else {
			unsigned n = (unsigned)rng_range(&r, 1, MANY);
			struct bio bios[MANY], *list[MANY];
			struct iovec iov[MANY][2];
			struct bio_group g;
			uint64_t at = rng_range(&r, 17, 40);

			bio_group_init(&g);
			for (unsigned k = 0; k < n; k++) {
				uint8_t *p = buf + (size_t)k * 4 * BLOCK_SIZE;

				/* Not over one another: one of every 17 blocks or so. */
				iov[k][0] = (struct iovec){ p, BLOCK_SIZE };
				iov[k][1] = (struct iovec){ p + BLOCK_SIZE, rng_range(&r, 1, 3) * BLOCK_SIZE };
				bios[k] = (struct bio){
					.op = BIO_WRITE, .addr = at, .iov = iov[k], .iovcnt = 2, .group = &g
				};
				list[k] = &bios[k];
				at += 17;
			}
			bdev_submit(dev, list, n);
			err = bdev_wait(dev, &g);
		}
		if (!err && rng_chance(&r, 1, 4))
			err = bdev_flush(dev);
	}
	mem_free(buf);
	return err;
}

/* All blocks, read in runs of all lengths and by bios: must be what `want` holds. */
static void expect_reads(struct bdev *dev, struct simdev *want)
{
	uint8_t *got = mem_alloc_blocks(64 * BLOCK_SIZE), *right = mem_alloc_blocks(64 * BLOCK_SIZE);
	struct rng r;

	rng_seed(&r, 77);
	for (unsigned i = 0; i < 200; i++) {
		uint32_t n = (uint32_t)rng_range(&r, 2, 64);
		uint64_t addr = rng_below(&r, BLOCKS - n + 1);
		struct iovec iov[2] = { { got, BLOCK_SIZE }, { got + BLOCK_SIZE, (n - 1) * BLOCK_SIZE } };
		struct bio_group g;
		struct bio bio = { .op = BIO_READ, .addr = addr, .iov = iov, .iovcnt = 2, .group = &g }, *list = &bio;

		bio_group_init(&g);
		if (i & 1) {
			assert_int_equal(bdev_read(dev, addr, got, n), 0);
		} else {
			bdev_submit(dev, &list, 1);
			assert_int_equal(bdev_wait(dev, &g), 0);
		}
		simdev_peek(want, addr, right, n);
		assert_memory_equal(got, right, (size_t)n * BLOCK_SIZE);
	}
	mem_free(got);
	mem_free(right);
}

/* ---- overlay ---- */

static void an_overlay_reads_what_was_written_and_leaves_the_disk_alone(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk), *twin = simdev_clone(disk);
		struct bdev *over, *plain = simdev_bdev(twin);

		assert_int_equal(overlay_open(simdev_bdev(disk), &over), 0);
		assert_int_equal(overlay_blocks(over), 0);
		assert_int_equal(scribble(over, seed, 12), 0);
		assert_int_equal(scribble(plain, seed, 12), 0);
		expect_reads(over, twin);
		assert_true(overlay_blocks(over) > 0 && overlay_blocks(over) <= over->written_blocks);
		assert_int_equal(bdev_flush(over), 0);
		assert_int_equal(bdev_discard(over, 20, 10), -EOPNOTSUPP);
		bdev_close(over);
		assert_int_equal(simdev_count(disk, SIMDEV_WRITE), 0);
		assert_int_equal(simdev_count(disk, SIMDEV_FLUSH), 0);
		assert_true(same(disk, before));
		simdev_free(disk);
		simdev_free(before);
		simdev_free(twin);
	}
}

static void an_overlay_of_a_disk_opened_for_reading_is_written(void **state)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = BLOCKS, .read_only = true });
	struct bdev *over;

	(void)state;
	assert_int_equal(overlay_open(simdev_bdev(disk), &over), 0);
	assert_int_equal(scribble(over, 3, 5), 0);
	simdev_set_blocks(disk, 2 * BLOCKS);
	assert_int_equal(bdev_resize(over), 0);
	assert_int_equal(over->geo.blocks, 2 * BLOCKS);
	bdev_close(over);
	simdev_free(disk);
}

static void an_overlay_passes_read_errors_on(void **state)
{
	struct simdev *disk = make_disk(BLOCKS);
	uint8_t *buf = mem_alloc_blocks(4 * BLOCK_SIZE);
	struct bdev *over;

	(void)state;
	simdev_add_fault(disk, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = 101, .blocks = 1 });
	assert_int_equal(overlay_open(simdev_bdev(disk), &over), 0);
	assert_int_equal(bdev_read(over, 100, buf, 4), -EIO);
	assert_int_equal(bdev_write(over, 101, buf, 1), 0);
	assert_int_equal(bdev_read(over, 100, buf, 4), 0);
	bdev_close(over);
	simdev_free(disk);
	mem_free(buf);
}

static void an_overlay_without_memory_fails_writes(void **state)
{
	struct simdev *disk = make_disk(BLOCKS);
	uint8_t *buf = mem_alloc_blocks(4 * BLOCK_SIZE);
	struct bdev *over;

	(void)state;
	failmem_start(1, FAILMEM_ONCE);
	assert_int_equal(overlay_open(simdev_bdev(disk), &over), -ENOMEM);
	assert_true(failmem_stop());
	assert_int_equal(overlay_open(simdev_bdev(disk), &over), 0);
	failmem_start(3, FAILMEM_FROM_THEN_ON);
	assert_int_equal(bdev_write(over, 40, buf, 4), -ENOMEM);
	assert_true(failmem_stop());
	assert_int_equal(overlay_blocks(over), 2);
	assert_int_equal(bdev_write(over, 40, buf, 4), 0);
	bdev_close(over);
	simdev_free(disk);
	mem_free(buf);
}

struct waiter {
	struct bdev *dev;
	struct bio_group group;
	int err;
};

static void *wait_for_group(void *arg)
{
	struct waiter *w = arg;

	w->err = bdev_wait(w->dev, &w->group);
	return NULL;
}

static void another_thread_may_wait_for_a_group(void **state)
{
	struct simdev *disk = make_disk(BLOCKS);
	uint8_t *buf = mem_alloc_blocks(BLOCK_SIZE);
	struct iovec iov = { buf, BLOCK_SIZE };
	struct waiter w = { 0 };
	struct bio bio = { .op = BIO_WRITE, .addr = 50, .iov = &iov, .iovcnt = 1, .group = &w.group }, *list = &bio;
	pthread_t thread;

	(void)state;
	assert_int_equal(overlay_open(simdev_bdev(disk), &w.dev), 0);
	for (unsigned i = 0; i < 50; i++) {
		bio_group_init(&w.group);
		/* Held open, so that the other thread has to wait. */
		atomic_fetch_add(&w.group.pending, 1);
		pthread_create(&thread, NULL, wait_for_group, &w);
		atomic_fetch_sub(&w.group.pending, 1);
		bdev_submit(w.dev, &list, 1);
		pthread_join(thread, NULL);
		assert_int_equal(w.err, 0);
		assert_int_equal(atomic_load(&w.group.pending), 0);
	}
	bdev_close(w.dev);
	simdev_free(disk);
	mem_free(buf);
}

/* ---- undo ---- */

static char undo_path[64], cut_path[80];

static void new_path(void)
{
	snprintf(undo_path, sizeof(undo_path), "t_overlay.%d.undo", (int)getpid());
	snprintf(cut_path, sizeof(cut_path), "%s.cut", undo_path);
	unlink(undo_path);
	unlink(cut_path);
}

static uint64_t file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

static uint8_t *file_read(const char *path, uint64_t *ret_bytes)
{
	int fd = open(path, O_RDONLY);
	uint8_t *p;

	assert_true(fd >= 0);
	*ret_bytes = file_size(path);
	p = malloc(*ret_bytes + 1);
	assert_int_equal(read(fd, p, *ret_bytes), *ret_bytes);
	close(fd);
	return p;
}

static void file_write(const char *path, const uint8_t *p, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, bytes), bytes);
	close(fd);
}

/* The disk's size in the undo file at each of its operations. */
struct watch {
	struct simdev *disk;
	uint64_t *size; /* by operation number */
	uint64_t ops;
};

static int watch_op(void *arg, enum simdev_op op, uint64_t number, uint64_t addr, uint64_t blocks)
{
	struct watch *w = arg;

	(void)addr;
	(void)blocks;
	if (op != SIMDEV_READ) {
		w->size = realloc(w->size, (number + 1) * sizeof(*w->size));
		while (w->ops <= number)
			w->size[w->ops++] = file_size(undo_path);
	}
	return 0;
}

static void undo_leads_back(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk);
		uint64_t n = 0, writes;
		struct bdev *dev;

		new_path();
		assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
		assert_int_equal(scribble(dev, seed, 12), 0);
		assert_int_equal(bdev_discard(dev, 20, 10), -EOPNOTSUPP);
		assert_int_equal(bdev_resize(dev), 0);
		expect_reads(dev, disk);
		bdev_close(dev);
		assert_false(same(disk, before));
		for (unsigned twice = 0; twice < 2; twice++) {
			assert_int_equal(undo_apply(simdev_bdev(disk), undo_path, &n), 0);
			assert_int_equal(n, (file_size(undo_path) - BLOCK_SIZE) / RECORD - 1);
			assert_true(same(disk, before));
		}
		writes = simdev_count(disk, SIMDEV_WRITE);
		assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), -EEXIST);
		assert_int_equal(simdev_count(disk, SIMDEV_WRITE), writes);
		unlink(undo_path);
		simdev_free(disk);
		simdev_free(before);
	}
}

static void undo_leads_back_from_wherever_a_crash_left_disk_and_file(void **state)
{
	uint64_t states = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk);
		struct watch w = { .disk = disk };
		uint64_t bytes;
		uint8_t *file;
		struct bdev *dev;
		struct rng r;

		rng_seed(&r, seed);
		new_path();
		assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
		simdev_set_callback(disk, watch_op, &w);
		assert_int_equal(scribble(dev, seed, 10), 0);
		bdev_close(dev);
		simdev_set_callback(disk, NULL, NULL);
		file = file_read(undo_path, &bytes);
		for (uint64_t n = 0; n <= w.ops; n++) {
			/* What the file had when the operation before began, and any part of what came next. */
			uint64_t from = n ? w.size[n - 1] : BLOCK_SIZE, to = n < w.ops ? w.size[n] : bytes;
			struct simdev_crash c;
			struct simdev *after;

			simdev_crash_begin(&c, disk, n, 3, seed);
			while ((after = simdev_crash_next(&c))) {
				uint64_t cut = rng_range(&r, from, to);
				uint8_t *torn = malloc(cut + 1);

				memcpy(torn, file, cut);
				if (cut > from && rng_chance(&r, 1, 2))
					memset(torn + from, 0, rng_below(&r, cut - from));
				file_write(cut_path, torn, cut);
				free(torn);
				assert_int_equal(undo_apply(simdev_bdev(after), cut_path, NULL), 0);
				assert_true(same(after, before));
				simdev_free(after);
				states++;
			}
			simdev_crash_end(&c);
		}
		free(file);
		free(w.size);
		unlink(undo_path);
		unlink(cut_path);
		simdev_free(disk);
		simdev_free(before);
	}
	print_message("# %u states\n", (unsigned)states);
	assert_true(states > 100);
}

static void undo_that_is_cut_short_can_be_done_again(void **state)
{
	uint64_t states = 0;

	(void)state;
	for (unsigned closed = 0; closed < 2; closed++) {
		struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk), *run;
		uint64_t bytes;
		uint8_t *file;
		struct bdev *dev;

		new_path();
		assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
		assert_int_equal(scribble(dev, 11, 12), 0);
		put_super(dev, 0, 99, "this filesystem");
		put_super(dev, 1, 100, "this filesystem");
		bdev_close(dev);
		file = file_read(undo_path, &bytes);
		file_write(cut_path, file, closed ? bytes : bytes - RECORD);
		free(file);
		run = simdev_clone(disk);
		assert_int_equal(undo_apply(simdev_bdev(run), cut_path, NULL), 0);
		for (uint64_t n = 0; n <= simdev_ops(run); n++) {
			struct simdev_crash c;
			struct simdev *after;

			simdev_crash_begin(&c, run, n, 6, 1);
			while ((after = simdev_crash_next(&c))) {
				assert_int_equal(undo_apply(simdev_bdev(after), cut_path, NULL), 0);
				assert_true(same(after, before));
				simdev_free(after);
				states++;
			}
			simdev_crash_end(&c);
		}
		simdev_free(run);
		unlink(undo_path);
		unlink(cut_path);
		simdev_free(disk);
		simdev_free(before);
	}
	print_message("# %u states\n", (unsigned)states);
}

/* Every damaged byte of a file that was closed is refused, and nothing is written; but in its end, which may be torn. */
static void a_damaged_undo_file_is_refused(void **state)
{
	struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk);
	uint64_t bytes, whole;
	uint8_t *file;
	struct bdev *dev;
	struct rng r;

	(void)state;
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	assert_int_equal(scribble(dev, 2, 6), 0);
	bdev_close(dev);
	file = file_read(undo_path, &bytes);
	whole = simdev_count(disk, SIMDEV_WRITE);
	rng_seed(&r, 9);
	for (unsigned i = 0; i < 300; i++) {
		/* The first bytes of header and record, and anywhere. */
		uint64_t at = i < 60 ? i : i < 100 ? BLOCK_SIZE + i - 60 : rng_below(&r, bytes - RECORD);

		file[at] ^= (uint8_t)(1u << (i % 8));
		file_write(cut_path, file, bytes);
		file[at] ^= (uint8_t)(1u << (i % 8));
		assert_int_equal(undo_apply(simdev_bdev(disk), cut_path, NULL), -EUCLEAN);
	}
	for (unsigned i = 0; i < 10; i++) {
		file_write(cut_path, file, rng_below(&r, BLOCK_SIZE));
		assert_int_equal(undo_apply(simdev_bdev(disk), cut_path, NULL), -EUCLEAN);
	}
	/* Something behind the end. */
	file = realloc(file, bytes + RECORD);
	memset(file + bytes, 0, RECORD);
	for (unsigned more = 1; more <= RECORD; more += RECORD - 1) {
		file_write(cut_path, file, bytes + more);
		assert_int_equal(undo_apply(simdev_bdev(disk), cut_path, NULL), -EUCLEAN);
	}
	assert_int_equal(undo_apply(simdev_bdev(disk), "t_overlay.none", NULL), -ENOENT);
	assert_int_equal(simdev_count(disk, SIMDEV_WRITE), whole);
	file[bytes - 1] ^= 1;
	file_write(cut_path, file, bytes);
	assert_int_equal(undo_apply(simdev_bdev(disk), cut_path, NULL), 0);
	assert_true(same(disk, before));
	free(file);
	unlink(undo_path);
	unlink(cut_path);
	simdev_free(disk);
	simdev_free(before);
}

/* Without its end, too: a group that is followed by another had become durable. */
static void damage_in_the_middle_is_no_torn_end(void **state)
{
	struct simdev *disk = make_disk(BLOCKS);
	uint8_t *buf = mem_alloc_blocks(3 * BLOCK_SIZE), *file;
	uint64_t bytes;
	struct bdev *dev;

	(void)state;
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	for (uint64_t g = 0; g < 3; g++) /* three groups of three */
		assert_int_equal(bdev_write(dev, 100 + 3 * g, buf, 3), 0);
	bdev_close(dev);
	file = file_read(undo_path, &bytes);
	assert_int_equal(bytes, BLOCK_SIZE + 10 * RECORD);
	for (unsigned i = 0; i < 9; i++) {
		file[BLOCK_SIZE + i * RECORD + 2000] ^= 1;
		file_write(cut_path, file, bytes - RECORD);
		file[BLOCK_SIZE + i * RECORD + 2000] ^= 1;
		assert_int_equal(undo_apply(simdev_bdev(disk), cut_path, NULL), i < 6 ? -EUCLEAN : 0);
	}
	free(file);
	mem_free(buf);
	unlink(undo_path);
	unlink(cut_path);
	simdev_free(disk);
}

static void undo_of_another_device_is_refused(void **state)
{
	struct simdev *disk = make_disk(BLOCKS), *other = make_disk(BLOCKS), *larger = make_disk(BLOCKS + 1),
		      *empty = simdev_new(&(struct simdev_options){ .blocks = BLOCKS }),
		      *bad[3] = { other, larger, empty };
	struct bdev *dev;

	(void)state;
	put_super(simdev_bdev(other), 0, 1, "another one    ");
	put_super(simdev_bdev(other), 1, 2, "another one    ");
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	assert_int_equal(scribble(dev, 2, 6), 0);
	bdev_close(dev);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t writes = simdev_count(bad[i], SIMDEV_WRITE);

		last_line[0] = 0;
		assert_int_equal(undo_apply(simdev_bdev(bad[i]), undo_path, NULL), -EUCLEAN);
		assert_true(strstr(last_line, " of a") != NULL);
		assert_int_equal(simdev_count(bad[i], SIMDEV_WRITE), writes);
	}
	unlink(undo_path);
	simdev_free(disk);
	simdev_free(other);
	simdev_free(larger);
	simdev_free(empty);
}

static void undo_after_the_filesystem_was_used_again_is_refused(void **state)
{
	struct simdev *disk = make_disk(BLOCKS);
	uint64_t writes;
	struct bdev *dev;

	(void)state;
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	put_super(dev, 0, 20, "this filesystem");
	bdev_close(dev);
	put_super(simdev_bdev(disk), 1, 21, "this filesystem");
	writes = simdev_count(disk, SIMDEV_WRITE);
	assert_int_equal(undo_apply(simdev_bdev(disk), undo_path, NULL), -EUCLEAN);
	assert_true(strstr(last_line, "used since") != NULL);
	assert_int_equal(simdev_count(disk, SIMDEV_WRITE), writes);
	unlink(undo_path);
	simdev_free(disk);
}

static void undo_of_a_disk_without_superblocks_works(void **state)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .blocks = BLOCKS }), *before = simdev_clone(disk);
	struct bdev *dev;

	(void)state;
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	assert_int_equal(scribble(dev, 4, 20), 0);
	bdev_close(dev);
	assert_int_equal(undo_apply(simdev_bdev(disk), undo_path, NULL), 0);
	assert_true(same(disk, before));
	unlink(undo_path);
	simdev_free(disk);
	simdev_free(before);
}

static void what_cannot_be_read_can_be_overwritten(void **state)
{
	struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk);
	uint8_t *buf = mem_alloc_blocks(8 * BLOCK_SIZE), *got = mem_alloc_blocks(BLOCK_SIZE);
	uint64_t n;
	struct bdev *dev;

	(void)state;
	memset(buf, 'x', (size_t)8 * BLOCK_SIZE);
	simdev_add_fault(disk, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = 203, .blocks = 1 });
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	assert_int_equal(bdev_write(dev, 200, buf, 8), 0);
	assert_true(strstr(last_line, "block 203 cannot be read") != NULL);
	bdev_close(dev);
	simdev_clear_faults(disk);
	assert_int_equal(undo_apply(simdev_bdev(disk), undo_path, &n), 0);
	assert_int_equal(n, 7);
	simdev_peek(disk, 203, got, 1);
	assert_memory_equal(got, buf, BLOCK_SIZE);
	simdev_peek(before, 203, got, 1);
	simdev_poke(disk, 203, 0, got, BLOCK_SIZE);
	assert_true(same(disk, before));
	unlink(undo_path);
	simdev_free(disk);
	simdev_free(before);
	mem_free(buf);
	mem_free(got);
}

/* No write goes down when its old content cannot be kept; reads still do. */
static void without_room_for_the_undo_file_nothing_is_written(void **state)
{
	struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk);
	uint8_t *buf = mem_alloc_blocks(8 * BLOCK_SIZE);
	struct rlimit old, small;
	struct bdev *dev;

	(void)state;
	new_path();
	assert_int_equal(undo_open(simdev_bdev(disk), undo_path, &dev), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = old;
	small.rlim_cur = BLOCK_SIZE + 3 * RECORD + 1000;
	setrlimit(RLIMIT_FSIZE, &small);
	assert_int_not_equal(bdev_write(dev, 200, buf, 8), 0);
	assert_int_not_equal(scribble(dev, 4, 8), 0);
	assert_int_not_equal(bdev_write(dev, 300, buf, 1), 0);
	assert_int_equal(simdev_count(disk, SIMDEV_WRITE), 0);
	expect_reads(dev, before);
	setrlimit(RLIMIT_FSIZE, &old);
	bdev_close(dev);
	assert_true(same(disk, before));
	assert_int_equal(undo_apply(simdev_bdev(disk), undo_path, NULL), 0);
	assert_true(same(disk, before));
	unlink(undo_path);
	simdev_free(disk);
	simdev_free(before);
	mem_free(buf);
}

static void undo_without_memory_changes_nothing(void **state)
{
	struct simdev *disk = make_disk(BLOCKS), *before = simdev_clone(disk), *written;
	struct bdev *dev;

	(void)state;
	new_path();
	for (uint64_t k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = undo_open(simdev_bdev(disk), undo_path, &dev);
		if (!failmem_stop())
			break;
		assert_int_equal(err, -ENOMEM);
		assert_int_equal(access(undo_path, F_OK), -1);
	}
	assert_int_equal(scribble(dev, 4, 8), 0);
	bdev_close(dev);
	written = simdev_clone(disk);
	for (uint64_t k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = undo_apply(simdev_bdev(disk), undo_path, NULL);
		if (!failmem_stop())
			break;
		assert_int_equal(err, -ENOMEM);
		assert_true(same(disk, written));
	}
	assert_true(same(disk, before));
	unlink(undo_path);
	simdev_free(disk);
	simdev_free(before);
	simdev_free(written);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_overlay_reads_what_was_written_and_leaves_the_disk_alone),
		cmocka_unit_test(an_overlay_of_a_disk_opened_for_reading_is_written),
		cmocka_unit_test(an_overlay_passes_read_errors_on),
		cmocka_unit_test(an_overlay_without_memory_fails_writes),
		cmocka_unit_test(another_thread_may_wait_for_a_group),
		cmocka_unit_test(undo_leads_back),
		cmocka_unit_test(undo_leads_back_from_wherever_a_crash_left_disk_and_file),
		cmocka_unit_test(undo_that_is_cut_short_can_be_done_again),
		cmocka_unit_test(a_damaged_undo_file_is_refused),
		cmocka_unit_test(damage_in_the_middle_is_no_torn_end),
		cmocka_unit_test(undo_of_another_device_is_refused),
		cmocka_unit_test(undo_after_the_filesystem_was_used_again_is_refused),
		cmocka_unit_test(undo_of_a_disk_without_superblocks_works),
		cmocka_unit_test(what_cannot_be_read_can_be_overwritten),
		cmocka_unit_test(without_room_for_the_undo_file_nothing_is_written),
		cmocka_unit_test(undo_without_memory_changes_nothing),
	};

	err_set_sink(keep_line, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

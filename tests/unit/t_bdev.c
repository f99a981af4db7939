#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "btree/dev/bdev.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/failmem.h"
#include "tests/kit/test.h"

#define BLOCKS 4096u

/* Every test of the table runs once a mode. */
struct mode {
	const char *name;
	struct bdev_file_options opt;
};

static const struct mode modes[] = {
	{ "io_uring", { .queue_depth = 8 } },
	{ "threads", { .no_uring = true } },
	{ "buffered io_uring", { .buffered = true, .queue_depth = 1 } },
	{ "buffered threads", { .buffered = true, .no_uring = true } },
};

struct image {
	char path[64];
	struct bdev *dev;
};

/* In the build directory, where direct I/O is more likely than in /tmp. */
static void make_image(struct image *im, uint64_t bytes)
{
	int fd;

	snprintf(im->path, sizeof(im->path), "t_bdev.XXXXXX");
	fd = mkstemp(im->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
	im->dev = NULL;
}

static void open_image(struct image *im, const struct mode *mode)
{
	make_image(im, BLOCKS * (uint64_t)BLOCK_SIZE);
	assert_int_equal(bdev_file_open(im->path, &mode->opt, &im->dev, NULL), 0);
	assert_int_equal(im->dev->geo.blocks, BLOCKS);
}

static void drop_image(struct image *im)
{
	bdev_close(im->dev);
	unlink(im->path);
}

static uint64_t *buffer(uint32_t blocks, uint64_t value)
{
	uint64_t *buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);

	assert_non_null(buf);
	for (size_t i = 0; i < (size_t)blocks * BLOCK_SIZE / 8; i++)
		buf[i] = value;
	return buf;
}

static int put(struct bdev *dev, uint64_t addr, uint32_t blocks, uint64_t value)
{
	uint64_t *buf = buffer(blocks, value);
	int err = bdev_write(dev, addr, buf, blocks);

	mem_free(buf);
	return err;
}

static uint64_t get(struct bdev *dev, uint64_t addr)
{
	uint64_t *buf = buffer(1, 0xdead);
	uint64_t value;

	assert_int_equal(bdev_read(dev, addr, buf, 1), 0);
	value = buf[0];
	assert_int_equal(buf[BLOCK_SIZE / 8 - 1], value);
	mem_free(buf);
	return value;
}

/* --- transfers --- */

static void what_is_written_is_read(struct image *im)
{
	assert_int_equal(put(im->dev, 0, 1, 1), 0);
	assert_int_equal(put(im->dev, 7, 300, 2), 0);
	assert_int_equal(put(im->dev, BLOCKS - 1, 1, 3), 0);
	assert_int_equal(bdev_flush(im->dev), 0);
	assert_int_equal(get(im->dev, 0), 1);
	assert_int_equal(get(im->dev, 1), 0);
	assert_int_equal(get(im->dev, 306), 2);
	assert_int_equal(get(im->dev, BLOCKS - 1), 3);
	assert_int_equal(atomic_load(&im->dev->writes), 3);
	assert_int_equal(atomic_load(&im->dev->written_blocks), 302);
	assert_int_equal(atomic_load(&im->dev->reads), 4);
	assert_int_equal(atomic_load(&im->dev->read_blocks), 4);
	assert_int_equal(atomic_load(&im->dev->flushes), 1);
}

static void what_is_written_is_there_after_reopening(struct image *im)
{
	struct bdev_file_options other = { .no_uring = true, .buffered = true };

	assert_int_equal(put(im->dev, 9, 2, 5), 0);
	assert_int_equal(bdev_flush(im->dev), 0);
	bdev_close(im->dev);
	assert_int_equal(bdev_file_open(im->path, &other, &im->dev, NULL), 0);
	assert_int_equal(get(im->dev, 10), 5);
}

/* A bio of its own allocation, in up to three pieces, freed by its done(). */
struct transfer {
	struct bio bio;
	struct iovec iov[3];
	uint64_t *buf[3];
	uint64_t want;
	atomic_uint *done, *bad;
};

static void transfer_done(struct bio *bio)
{
	struct transfer *t = bio->arg;

	if (bio->err)
		atomic_fetch_add(t->bad, 1);
	for (int i = 0; i < bio->iovcnt; i++) {
		if (bio->op == BIO_READ && (t->buf[i][0] != t->want || t->buf[i][BLOCK_SIZE / 8 - 1] != t->want))
			atomic_fetch_add(t->bad, 1);
		mem_free(t->buf[i]);
	}
	atomic_fetch_add(t->done, 1);
	mem_free(t);
}

static struct transfer *transfer_new(enum bio_op op, uint64_t addr, int pieces, uint64_t value, struct bio_group *g)
{
	struct transfer *t = mem_zalloc(sizeof(*t));

	assert_non_null(t);
	for (int i = 0; i < pieces; i++) {
		t->buf[i] = buffer(1, op == BIO_WRITE ? value : 0xdead);
		t->iov[i] = (struct iovec){ t->buf[i], BLOCK_SIZE };
	}
	t->want = value;
	t->bio = (struct bio){
		.op = op, .addr = addr, .iov = t->iov, .iovcnt = pieces, .group = g, .done = transfer_done, .arg = t
	};
	return t;
}

static void submit_all(struct bdev *dev, enum bio_op op, uint64_t first, unsigned n, uint64_t salt, struct bio_group *g,
		       atomic_uint *done, atomic_uint *bad)
{
	struct bio *bios[1000];

	assert_true(n <= ARRAY_LEN(bios));
	for (unsigned i = 0; i < n; i++) {
		struct transfer *t = transfer_new(op, first + 3 * i, 1 + (int)(i % 3), salt + i, g);

		t->done = done;
		t->bad = bad;
		bios[i] = &t->bio;
	}
	bdev_submit(dev, bios, n);
}

static void a_thousand_transfers_are_in_flight_at_once(struct image *im)
{
	atomic_uint done = 0, bad = 0;
	struct bio_group g;

	bio_group_init(&g);
	submit_all(im->dev, BIO_WRITE, 0, 1000, 77, &g, &done, &bad);
	assert_int_equal(bdev_wait(im->dev, &g), 0);
	assert_int_equal(done, 1000);
	submit_all(im->dev, BIO_READ, 0, 1000, 77, &g, &done, &bad);
	assert_int_equal(bdev_wait(im->dev, &g), 0);
	assert_int_equal(done, 2000);
	assert_int_equal(bad, 0);
}

static void polling_completes_too(struct image *im)
{
	atomic_uint done = 0, bad = 0;
	struct bio_group g;

	bio_group_init(&g);
	submit_all(im->dev, BIO_WRITE, 0, 20, 1, &g, &done, &bad);
	for (int i = 0; atomic_load(&done) < 20 && i < 10000; i++) {
		bdev_poll(im->dev);
		usleep(1000);
	}
	assert_int_equal(done, 20);
	assert_int_equal(bdev_wait(im->dev, &g), 0);
}

static void the_largest_vector_is_moved_whole(struct image *im)
{
	struct iovec iov[BIO_IOV_MAX];
	struct bio_group g;
	struct bio bio = { .op = BIO_WRITE, .addr = 1000, .iov = iov, .iovcnt = BIO_IOV_MAX, .group = &g };

	bio_group_init(&g);
	for (uint64_t i = 0; i < BIO_IOV_MAX; i++)
		iov[i] = (struct iovec){ buffer(1, i), BLOCK_SIZE };
	bdev_submit(im->dev, &(struct bio *){ &bio }, 1);
	assert_int_equal(bdev_wait(im->dev, &g), 0);
	for (uint64_t i = 0; i < BIO_IOV_MAX; i++) {
		assert_int_equal(get(im->dev, 1000 + i), i);
		mem_free(iov[i].iov_base);
	}
}

static void what_breaks_the_rules_is_refused_alone(struct image *im)
{
	char *good = (char *)buffer(2, 6);
	struct iovec one = { good, BLOCK_SIZE };
	struct iovec nothing = { good, 0 };
	struct iovec odd_base = { good + 512, BLOCK_SIZE };
	struct iovec odd_length = { good, 512 };
	struct iovec last_odd[2] = { one, odd_length };
	struct bio_group g;
	struct bio bio[] = {
		{ .op = BIO_WRITE, .addr = BLOCKS, .iov = &one, .iovcnt = 1 },
		{ .op = BIO_WRITE, .addr = 1, .iov = &one, .iovcnt = 1 }, /* good */
		{ .op = BIO_WRITE, .addr = UINT64_MAX, .iov = &one, .iovcnt = 1 },
		{ .op = BIO_READ, .addr = 2, .iov = &nothing, .iovcnt = 1 },
		{ .op = BIO_WRITE, .addr = 2, .iov = &odd_base, .iovcnt = 1 },
		{ .op = BIO_WRITE, .addr = 2, .iov = &odd_length, .iovcnt = 1 },
		{ .op = BIO_WRITE, .addr = 2, .iov = last_odd, .iovcnt = 2 },
		{ .op = BIO_WRITE, .addr = 2, .iov = &one, .iovcnt = 0 },
		{ .op = BIO_WRITE, .addr = 2, .iov = &one, .iovcnt = BIO_IOV_MAX + 1 },
		{ .op = BIO_WRITE, .addr = 3, .iov = &one, .iovcnt = 1 }, /* good */
	};
	struct bio *bios[ARRAY_LEN(bio)];

	bio_group_init(&g);
	for (size_t i = 0; i < ARRAY_LEN(bio); i++) {
		bio[i].group = &g;
		bios[i] = &bio[i];
	}
	bdev_submit(im->dev, bios, ARRAY_LEN(bio));
	assert_int_equal(bdev_wait(im->dev, &g), -EINVAL);
	assert_int_equal(bdev_wait(im->dev, &g), 0); /* told once */
	for (size_t i = 0; i < ARRAY_LEN(bio); i++)
		assert_int_equal(bio[i].err, i == 1 || i == 9 ? 0 : -EINVAL);
	assert_int_equal(get(im->dev, 1), 6);
	assert_int_equal(get(im->dev, 2), 0);
	assert_int_equal(get(im->dev, 3), 6);

	assert_int_equal(bdev_write(im->dev, 5, good + 8, 1), -EINVAL);
	assert_int_equal(bdev_read(im->dev, BLOCKS - 1, good, 2), -EINVAL);
	assert_int_equal(bdev_read(im->dev, 0, good, 0), -EINVAL);
	assert_int_equal(bdev_discard(im->dev, BLOCKS - 1, 2), -EINVAL);
	assert_int_equal(bdev_discard(im->dev, 1, 0), 0);
	mem_free(good);
}

static void an_image_cut_short_gives_errors(struct image *im)
{
	uint64_t *buf = buffer(4, 0);
	struct iovec iov = { buf, 4 * BLOCK_SIZE };
	struct bio_group g;
	struct bio bio = { .op = BIO_READ, .addr = 98, .iov = &iov, .iovcnt = 1, .group = &g };

	assert_int_equal(truncate(im->path, 100 * BLOCK_SIZE), 0);
	assert_int_equal(bdev_read(im->dev, 98, buf, 4), -EIO);
	assert_int_equal(bdev_read(im->dev, 200, buf, 1), -EIO);
	assert_int_equal(bdev_read(im->dev, 98, buf, 2), 0);
	bio_group_init(&g);
	bdev_submit(im->dev, &(struct bio *){ &bio }, 1);
	assert_int_equal(bdev_wait(im->dev, &g), -EIO);
	mem_free(buf);
}

static void a_grown_image_is_seen_after_resize(struct image *im)
{
	assert_int_equal(truncate(im->path, (BLOCKS + 10) * (off_t)BLOCK_SIZE + 123), 0);
	assert_int_equal(put(im->dev, BLOCKS, 1, 1), -EINVAL);
	assert_int_equal(bdev_resize(im->dev), 0);
	assert_int_equal(im->dev->geo.blocks, BLOCKS + 10);
	assert_int_equal(put(im->dev, BLOCKS + 9, 1, 1), 0);
	assert_int_equal(get(im->dev, BLOCKS + 9), 1);
}

static void a_discard_gives_room_back(struct image *im)
{
	struct stat before, after;
	int err;

	assert_int_equal(put(im->dev, 10, 1000, 4), 0);
	assert_int_equal(bdev_flush(im->dev), 0);
	assert_int_equal(stat(im->path, &before), 0);
	err = bdev_discard(im->dev, 11, 998);
	if (err == -EOPNOTSUPP)
		return;
	assert_int_equal(err, 0);
	assert_int_equal(get(im->dev, 10), 4);
	assert_int_equal(get(im->dev, 500), 0);
	assert_int_equal(get(im->dev, 1009), 4);
	assert_int_equal(stat(im->path, &after), 0);
	assert_int_equal(after.st_size, before.st_size);
	assert_true(after.st_blocks < before.st_blocks);
}

static void closing_waits_for_what_is_in_flight(struct image *im)
{
	struct bdev_file_options look = { .no_lock = true };
	atomic_uint done = 0, bad = 0;
	struct bio_group g;

	bio_group_init(&g);
	submit_all(im->dev, BIO_WRITE, 0, 500, 3, &g, &done, &bad);
	bdev_close(im->dev);
	im->dev = NULL;
	assert_int_equal(done, 500);
	assert_int_equal(bad, 0);
	assert_int_equal(bdev_file_open(im->path, &look, &im->dev, NULL), 0);
	assert_int_equal(get(im->dev, 3 * 499), 3 + 499);
}

/* --- threads --- */

struct worker {
	struct bdev *dev;
	unsigned id;
	atomic_uint bad;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned round = 0; round < 20; round++) {
		atomic_uint done = 0, bad = 0;
		struct bio_group g;

		bio_group_init(&g);
		submit_all(w->dev, BIO_WRITE, w->id * 500, 100, round, &g, &done, &bad);
		if (round % 4 == 0)
			bdev_poll(w->dev);
		bad += bdev_wait(w->dev, &g) != 0;
		bad += done != 100;
		if (round % 5 == 0)
			bad += bdev_flush(w->dev) != 0;
		submit_all(w->dev, BIO_READ, w->id * 500, 100, round, &g, &done, &bad);
		bad += bdev_wait(w->dev, &g) != 0;
		bad += done != 200;
		w->bad += bad;
	}
	return NULL;
}

static void many_threads_wait_each_for_their_own(struct image *im)
{
	struct worker w[6];
	pthread_t thread[ARRAY_LEN(w)];

	for (unsigned i = 0; i < ARRAY_LEN(w); i++) {
		w[i].dev = im->dev;
		w[i].id = i;
		atomic_init(&w[i].bad, 0);
		assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_LEN(w); i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(w[i].bad, 0);
	}
}

struct leaver {
	struct bdev *dev;
	struct bio_group *group;
	atomic_uint done, bad;
};

static void *submit_and_leave(void *arg)
{
	struct leaver *l = arg;

	submit_all(l->dev, BIO_WRITE, 0, 200, 9, l->group, &l->done, &l->bad);
	return NULL;
}

static void who_submitted_may_have_ended(struct image *im)
{
	for (int round = 0; round < 10; round++) {
		struct leaver l = { .dev = im->dev };
		struct bio_group g;
		pthread_t thread;

		bio_group_init(&g);
		l.group = &g;
		assert_int_equal(pthread_create(&thread, NULL, submit_and_leave, &l), 0);
		pthread_join(thread, NULL);
		assert_int_equal(bdev_wait(im->dev, &g), 0);
		assert_int_equal(l.done, 200);
		assert_int_equal(l.bad, 0);
	}
}

/* --- opening and locking: without modes --- */

static void a_read_only_device_refuses_writes(void **state)
{
	struct bdev_file_options ro = { .read_only = true };
	struct image im;

	(void)state;
	make_image(&im, BLOCKS * (uint64_t)BLOCK_SIZE);
	assert_int_equal(chmod(im.path, 0444), 0);
	assert_int_equal(bdev_file_open(im.path, &ro, &im.dev, NULL), 0);
	assert_true(im.dev->geo.read_only);
	assert_int_equal(put(im.dev, 1, 1, 1), -EROFS);
	assert_int_equal(bdev_discard(im.dev, 1, 1), -EROFS);
	assert_int_equal(bdev_flush(im.dev), 0);
	assert_int_equal(get(im.dev, 1), 0);
	drop_image(&im);
}

static void sizes_are_rounded_down_to_blocks(void **state)
{
	static const struct {
		uint64_t bytes, blocks;
	} sizes[] = { { 0, 0 }, { 4095, 0 }, { 4096, 1 }, { 8191, 1 }, { UINT64_C(1) << 40, UINT64_C(1) << 28 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct image im;

		make_image(&im, sizes[i].bytes);
		assert_int_equal(bdev_file_open(im.path, NULL, &im.dev, NULL), 0);
		assert_int_equal(im.dev->geo.blocks, sizes[i].blocks);
		drop_image(&im);
	}
}

static void what_is_no_device_is_refused(void **state)
{
	struct bdev *dev = NULL;
	char *holder;

	(void)state;
	assert_int_equal(bdev_file_open("does/not/exist", NULL, &dev, &holder), -ENOENT);
	assert_int_equal(bdev_file_open(".", NULL, &dev, &holder), -ENOTBLK);
	assert_int_equal(bdev_file_open("/dev/null", NULL, &dev, &holder), -ENOTBLK);
	assert_null(dev);
	assert_null(holder);
}

/* A process of its own opens the image, says so, and holds it until told to end. */
static pid_t hold(const char *path, bool read_only, int *ret_end)
{
	int ready[2], end[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(end), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct bdev_file_options opt = { .read_only = read_only, .no_uring = true };
		struct bdev *dev;
		bool ok = bdev_file_open(path, &opt, &dev, NULL) == 0;

		close(end[1]);
		if (!ok || write(ready[1], "x", 1) != 1)
			_exit(1);
		_exit(read(end[0], &byte, 1) != 0); /* ends without closing, as killed */
	}
	close(ready[1]);
	close(end[0]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	*ret_end = end[1];
	return pid;
}

static void release(pid_t pid, int end)
{
	int status;

	close(end);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

struct lock_row {
	const char *name;
	bool first_reads, second_reads, second_looks;
	int want;
};

static const struct lock_row lock_rows[] = {
	{ "a_writer_keeps_a_writer_out", false, false, false, -EBUSY },
	{ "a_writer_keeps_a_reader_out", false, true, false, -EBUSY },
	{ "a_reader_keeps_a_writer_out", true, false, false, -EBUSY },
	{ "two_readers_share", true, true, false, 0 },
	{ "who_only_looks_asks_no_one", false, true, true, 0 },
};

static void locks(void **state)
{
	const struct lock_row *row = *state;
	struct bdev_file_options opt = { .read_only = row->second_reads, .no_lock = row->second_looks };
	char *holder = NULL;
	struct image im;
	char want[64];
	pid_t pid;
	int end;

	make_image(&im, BLOCKS * (uint64_t)BLOCK_SIZE);
	pid = hold(im.path, row->first_reads, &end);
	assert_int_equal(bdev_file_open(im.path, &opt, &im.dev, &holder), row->want);
	if (row->want) {
		assert_non_null(holder);
		snprintf(want, sizeof(want), "pid %d (", (int)pid);
		assert_memory_equal(holder, want, strlen(want));
		mem_free(holder);
	} else {
		assert_null(holder);
		bdev_close(im.dev);
	}
	release(pid, end);

	/* It ends with the process. */
	assert_int_equal(bdev_file_open(im.path, NULL, &im.dev, NULL), 0);
	drop_image(&im);
}

static void one_process_cannot_open_twice(void **state)
{
	struct bdev *second = NULL;
	char *holder = NULL;
	struct image im;

	(void)state;
	open_image(&im, &modes[0]);
	assert_int_equal(bdev_file_open(im.path, NULL, &second, &holder), -EBUSY);
	assert_null(second);
	assert_non_null(holder);
	mem_free(holder);
	drop_image(&im);
}

static void *close_soon(void *arg)
{
	usleep(150000);
	bdev_close(arg);
	return NULL;
}

static void waiting_for_the_lock_gets_it(void **state)
{
	struct bdev_file_options patient = { .lock_wait_ms = 10000 };
	struct bdev_file_options hasty = { .lock_wait_ms = 50 };
	struct bdev *second = NULL;
	struct image im;
	pthread_t thread;

	(void)state;
	open_image(&im, &modes[0]);
	assert_int_equal(bdev_file_open(im.path, &hasty, &second, NULL), -EBUSY);
	assert_int_equal(pthread_create(&thread, NULL, close_soon, im.dev), 0);
	assert_int_equal(bdev_file_open(im.path, &patient, &second, NULL), 0);
	pthread_join(thread, NULL);
	im.dev = second;
	drop_image(&im);
}

static void no_memory_leaves_nothing_behind(void **state)
{
	struct image im;

	(void)state;
	make_image(&im, BLOCKS * (uint64_t)BLOCK_SIZE);
	for (uint64_t k = 1;; k++) {
		int err;

		failmem_start(k, FAILMEM_ONCE);
		err = bdev_file_open(im.path, NULL, &im.dev, NULL);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			assert_true(k > 2);
			break;
		}
		assert_int_equal(err, -ENOMEM);
	}
	drop_image(&im);
}

/* --- */

typedef void (*mode_test)(struct image *);

static const struct {
	const char *name;
	mode_test test;
} mode_tests[] = {
	{ "what_is_written_is_read", what_is_written_is_read },
	{ "what_is_written_is_there_after_reopening", what_is_written_is_there_after_reopening },
	{ "a_thousand_transfers_are_in_flight_at_once", a_thousand_transfers_are_in_flight_at_once },
	{ "polling_completes_too", polling_completes_too },
	{ "the_largest_vector_is_moved_whole", the_largest_vector_is_moved_whole },
	{ "what_breaks_the_rules_is_refused_alone", what_breaks_the_rules_is_refused_alone },
	{ "an_image_cut_short_gives_errors", an_image_cut_short_gives_errors },
	{ "a_grown_image_is_seen_after_resize", a_grown_image_is_seen_after_resize },
	{ "a_discard_gives_room_back", a_discard_gives_room_back },
	{ "closing_waits_for_what_is_in_flight", closing_waits_for_what_is_in_flight },
	{ "many_threads_wait_each_for_their_own", many_threads_wait_each_for_their_own },
	{ "who_submitted_may_have_ended", who_submitted_may_have_ended },
};

struct mode_row {
	char name[96];
	const struct mode *mode;
	mode_test test;
};

static void in_mode(void **state)
{
	const struct mode_row *row = *state;
	struct image im;

	open_image(&im, row->mode);
	row->test(&im);
	drop_image(&im);
}

int main(void)
{
	static struct mode_row mode_rows[ARRAY_LEN(modes) * ARRAY_LEN(mode_tests)];
	const struct CMUnitTest fixed[] = {
		cmocka_unit_test(a_read_only_device_refuses_writes), cmocka_unit_test(sizes_are_rounded_down_to_blocks),
		cmocka_unit_test(what_is_no_device_is_refused),	     cmocka_unit_test(one_process_cannot_open_twice),
		cmocka_unit_test(waiting_for_the_lock_gets_it),	     cmocka_unit_test(no_memory_leaves_nothing_behind),
	};
	struct CMUnitTest tests[ARRAY_LEN(mode_rows) + ARRAY_LEN(fixed) + ARRAY_LEN(lock_rows)];
	struct CMUnitTest *t = tests;
	struct mode_row *row = mode_rows;

	for (size_t i = 0; i < ARRAY_LEN(mode_tests); i++)
		for (size_t m = 0; m < ARRAY_LEN(modes); m++, row++) {
			snprintf(row->name, sizeof(row->name), "%s (%s)", mode_tests[i].name, modes[m].name);
			row->mode = &modes[m];
			row->test = mode_tests[i].test;
			*t++ = TEST_ROW(row->name, in_mode, row);
		}
	for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
		*t++ = fixed[i];
	for (size_t i = 0; i < ARRAY_LEN(lock_rows); i++)
		*t++ = TEST_ROW(lock_rows[i].name, locks, &lock_rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * What io_uring does only when the machine is short of something: the calls of liburing are wrapped (meson.build), and
 * refuse, cut short or cancel on command. Buffers are spoiled where the kernel is to have left them alone.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#undef BLOCK_SIZE /* of linux/fs.h */

#include "btree/dev/queue.h"
#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/test.h"

#define BLOCKS 64u
#define PIECES 3

int __real_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
unsigned __real_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count);
unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count);

static struct {
	int init_error;
	int submit_error;
	int submit_failures;
	bool cut;	  /* results are those of a transfer cut short after `moved` bytes */
	int moved;	  /* bytes, or a negative errno */
	unsigned carried; /* entries that do nothing */
} fault;

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	return fault.init_error ? fault.init_error : __real_io_uring_queue_init(entries, ring, flags);
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	if (fault.submit_failures > 0) {
		fault.submit_failures--;
		return fault.submit_error;
	}
	return __real_io_uring_submit(ring);
}

static void spoil(const struct bio *bio, size_t from)
{
	for (int i = 0; i < bio->iovcnt; i++) {
		size_t len = bio->iov[i].iov_len;

		if (from < len)
			memset((char *)bio->iov[i].iov_base + from, 0xee, len - from);
		from -= from < len ? from : len;
	}
}

unsigned __wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count)
{
	unsigned n = __real_io_uring_peek_batch_cqe(ring, cqes, count);

	for (unsigned i = 0; i < n; i++) {
		const struct bio *bio = io_uring_cqe_get_data(cqes[i]);

		if (!bio) {
			fault.carried++;
		} else if (fault.cut) {
			spoil(bio, fault.moved > 0 ? (size_t)fault.moved : 0);
			cqes[i]->res = fault.moved;
		}
	}
	return n;
}

/* --- a queue on a file in which block n is full of n --- */

struct fixture {
	char path[32];
	int fd;
	struct queue *q;
};

static void stop(struct fixture *f)
{
	queue_close(f->q);
	close(f->fd);
	unlink(f->path);
}

static void start(struct fixture *f, unsigned depth)
{
	uint8_t block[BLOCK_SIZE];

	snprintf(f->path, sizeof(f->path), "t_queue.XXXXXX");
	f->fd = mkstemp(f->path);
	assert_true(f->fd >= 0);
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(block, (int)i, sizeof(block));
		assert_int_equal(write(f->fd, block, sizeof(block)), sizeof(block));
	}
	assert_int_equal(queue_open(f->fd, depth, false, &f->q), 0);
	if (!fault.init_error && strcmp(queue_kind(f->q), "io_uring") != 0) {
		stop(f);
		skip(); /* not permitted here */
	}
}

struct read {
	struct bio bio;
	struct iovec iov[PIECES];
	uint8_t *buf;
};

/* Reads n runs of PIECES blocks and checks what came. Returns the group's error. */
static int read_all(struct fixture *f, unsigned n)
{
	struct read r[16];
	struct bio *bios[16];
	struct bio_group g;
	int err;

	assert_true(n <= 16);
	bio_group_init(&g);
	for (unsigned i = 0; i < n; i++) {
		r[i].buf = mem_alloc_blocks(PIECES * BLOCK_SIZE);
		assert_non_null(r[i].buf);
		for (unsigned j = 0; j < PIECES; j++)
			r[i].iov[j] = (struct iovec){ r[i].buf + j * BLOCK_SIZE, BLOCK_SIZE };
		r[i].bio = (struct bio){
			.op = BIO_READ, .addr = PIECES * i, .iov = r[i].iov, .iovcnt = PIECES, .group = &g
		};
		bios[i] = &r[i].bio;
	}
	atomic_store(&g.pending, n);
	queue_submit(f->q, bios, n);
	queue_wait(f->q, &g);
	err = atomic_load(&g.err);
	for (unsigned i = 0; i < n; i++) {
		for (unsigned b = 0; !err && b < PIECES * BLOCK_SIZE; b++)
			assert_int_equal(r[i].buf[b], PIECES * i + b / BLOCK_SIZE);
		mem_free(r[i].buf);
	}
	return err;
}

static int clear_fault(void **state)
{
	(void)state;
	memset(&fault, 0, sizeof(fault));
	return 0;
}

static void without_io_uring_threads_do_it(void **state)
{
	static const int errors[] = { -EPERM, -ENOSYS, -ENOMEM, -EMFILE };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		struct fixture f;

		fault.init_error = errors[i];
		start(&f, 4);
		assert_string_equal(queue_kind(f.q), "threads");
		assert_int_equal(read_all(&f, 16), 0);
		stop(&f);
	}
}

struct row {
	const char *name;
	int moved;
	int want;
};

static const struct row rows[] = {
	{ "a_transfer_cut_short_goes_on", BLOCK_SIZE, 0 },
	{ "a_transfer_cut_inside_a_block_goes_on", BLOCK_SIZE + 512, 0 },
	{ "a_transfer_cut_before_its_last_byte_goes_on", PIECES *BLOCK_SIZE - 1, 0 },
	{ "a_transfer_of_nothing_is_an_error", 0, -EIO },
	{ "a_transfer_of_less_than_a_block_is_an_error", 512, -EIO },
	{ "a_cancelled_transfer_is_done_again", -ECANCELED, 0 },
	{ "a_transfer_told_to_try_again_is_done_again", -EAGAIN, 0 },
	{ "an_interrupted_transfer_is_done_again", -EINTR, 0 },
	{ "a_transfer_without_memory_is_done_again", -ENOMEM, 0 },
	{ "a_failed_transfer_has_failed", -EIO, -EIO },
	{ "a_bad_medium_is_an_io_error", -EBADMSG, -EIO },
	{ "a_full_host_is_told", -ENOSPC, -ENOSPC },
	{ "a_full_quota_is_a_full_host", -EDQUOT, -ENOSPC },
	{ "a_timeout_is_told", -ETIMEDOUT, -ETIMEDOUT },
};

static void ends_as_it_should(void **state)
{
	const struct row *row = *state;
	struct fixture f;

	clear_fault(NULL);
	fault.cut = true;
	fault.moved = row->moved;
	start(&f, 4);
	assert_int_equal(read_all(&f, 16), row->want);
	fault.cut = false;
	assert_int_equal(read_all(&f, 16), 0);
	stop(&f);
}

static void a_kernel_that_refuses_for_a_while_is_asked_again(void **state)
{
	static const int errors[] = { -EAGAIN, -EBUSY, -EINTR, -ENOMEM };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		struct fixture f;

		start(&f, 8);
		fault.submit_error = errors[i];
		fault.submit_failures = 5;
		assert_int_equal(read_all(&f, 16), 0);
		assert_int_equal(fault.submit_failures, 0);
		assert_int_equal(fault.carried, 0);
		stop(&f);
	}
}

static void what_the_kernel_refuses_for_good_is_done_by_hand(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 4);
	fault.submit_error = -EAGAIN;
	fault.submit_failures = 1000000;
	assert_int_equal(read_all(&f, 10), 0); /* more than the ring holds: it is full of what was refused */

	/* When it comes round, what was refused goes along and does nothing. */
	fault.submit_failures = 0;
	for (int i = 0; i < 4; i++)
		assert_int_equal(read_all(&f, 16), 0);
	assert_int_equal(fault.carried, 4);
	stop(&f);
}

static void closing_after_a_refusal_does_not_hang(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 4);
	fault.submit_error = -EAGAIN;
	fault.submit_failures = 1000000;
	assert_int_equal(read_all(&f, 1), 0);
	queue_poll(f.q);
	stop(&f);
}

#define T(name) cmocka_unit_test_setup(name, clear_fault)

int main(void)
{
	struct CMUnitTest tests[4 + ARRAY_LEN(rows)] = {
		T(without_io_uring_threads_do_it),
		T(a_kernel_that_refuses_for_a_while_is_asked_again),
		T(what_the_kernel_refuses_for_good_is_done_by_hand),
		T(closing_after_a_refusal_does_not_hang),
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[4 + i] = TEST_ROW(rows[i].name, ends_as_it_should, &rows[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

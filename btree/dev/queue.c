/*
 * One mutex guards the submission ring, the completion ring and the list of the thread pool. There is no thread of our
 * own for io_uring: of the threads that wait, one at a time takes the role of the reaper (`reaping`), blocks in the
 * kernel without the mutex, takes what has completed out of the ring with the mutex held, gives the role back, and then
 * completes the bios without the mutex. The others sleep on `changed`, which is broadcast when the role is free and
 * again when bios have been completed, because either can be what they wait for.
 *
 * Only the reaper takes completions out of the ring. If anyone else could, a reaper on its way into the kernel might
 * find that the completion it goes to wait for has been taken by another, and sleep for ever.
 *
 * A bio's buffers pass from the submitter through the mutex to the reaper, and from there through the group's counter
 * to the waiter; so there is an order of events that does not depend on the kernel, which a race detector cannot see.
 *
 * Whatever the ring does not do whole is finished by hand, in the thread that notices: the rest of a short transfer,
 * what the kernel refused to queue for want of memory, and what it cancelled because the submitting thread has
 * ended. This is rare, and keeps one way only of telling an error.
 */
#include <liburing.h>
#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>
#undef BLOCK_SIZE /* of linux/fs.h, through liburing.h; ours is types.h's */

#include "btree/dev/queue.h"
#include "btree/err.h"
#include "btree/mem.h"

#define DEPTH_DEFAULT 64u
#define DEPTH_MAX 4096u
#define REAP_BATCH 64u
#define POOL_THREADS 4
#define ENTER_TRIES 100

struct queue {
	int fd;
	bool uring;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* bios have been completed, or the reaper's role is free */

	/* io_uring; guarded by lock */
	struct io_uring ring;
	unsigned depth;
	unsigned in_flight; /* bios in the ring that have not been reaped, at most depth */
	bool reaping;

	/* thread pool; guarded by lock */
	pthread_cond_t work;
	struct bio *first, *last; /* linked through next_of() */
	bool ending;
	int threads;
	pthread_t thread[POOL_THREADS];
};

/* One completion, taken out of the ring. */
struct reaped {
	struct bio *bio;
	int res;
};

static uint64_t bio_bytes(const struct bio *bio)
{
	uint64_t bytes = 0;

	for (int i = 0; i < bio->iovcnt; i++)
		bytes += bio->iov[i].iov_len;
	return bytes;
}

int queue_error(int err)
{
	switch (err) {
	case 0:
	case -ETIMEDOUT:
	case -ENOSPC:
	case -EOPNOTSUPP:
		return err;
	case -EDQUOT:
	case -EFBIG:
		return -ENOSPC;
	default:
		return -EIO;
	}
}

int queue_transfer(int fd, enum bio_op op, uint64_t off, const struct iovec *iov, int iovcnt, uint64_t skip)
{
	struct iovec rest[BIO_IOV_MAX];

	for (;;) {
		uint64_t pass = skip;
		int n = 0;
		ssize_t moved;

		for (int i = 0; i < iovcnt; i++) {
			if (pass >= iov[i].iov_len) {
				pass -= iov[i].iov_len;
				continue;
			}
			rest[n].iov_base = (char *)iov[i].iov_base + pass;
			rest[n].iov_len = iov[i].iov_len - pass;
			pass = 0;
			n++;
		}
		if (n == 0)
			return 0;
		if (op == BIO_READ)
			moved = preadv(fd, rest, n, (off_t)(off + skip));
		else
			moved = pwritev(fd, rest, n, (off_t)(off + skip));
		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return queue_error(-errno);
		/* Direct I/O cannot go on in the middle of a block; and no progress is no success. */
		moved &= ~(ssize_t)(BLOCK_SIZE - 1);
		if (moved == 0)
			return -EIO;
		skip += (uint64_t)moved;
	}
}

static int transfer_bio(const struct queue *q, const struct bio *bio, uint64_t skip)
{
	return queue_transfer(q->fd, bio->op, bio->addr << BLOCK_SHIFT, bio->iov, bio->iovcnt, skip);
}

/* --- io_uring --- */

/* Turns a completion's result into the bio's; finishes by hand what is worth it. No lock held. */
static void settle(struct queue *q, struct bio *bio, int res)
{
	int err;

	if (res >= 0) {
		uint64_t moved = (uint64_t)res & ~(uint64_t)(BLOCK_SIZE - 1);

		if ((uint64_t)res == bio_bytes(bio))
			err = 0;
		else
			err = moved ? transfer_bio(q, bio, moved) : -EIO;
	} else if (res == -EAGAIN || res == -EINTR || res == -ENOMEM || res == -ECANCELED) {
		err = transfer_bio(q, bio, 0);
	} else {
		err = queue_error(res);
	}
	bio_complete(bio, err);
}

/* Takes completions out of the ring. The caller is the reaper. */
static unsigned take_locked(struct queue *q, struct reaped *got)
{
	struct io_uring_cqe *cqe[REAP_BATCH];
	unsigned n = io_uring_peek_batch_cqe(&q->ring, cqe, REAP_BATCH);

	for (unsigned i = 0; i < n; i++) {
		got[i].bio = io_uring_cqe_get_data(cqe[i]);
		got[i].res = cqe[i]->res;
		if (got[i].bio)
			q->in_flight--;
	}
	io_uring_cq_advance(&q->ring, n);
	return n;
}

/*
 * Reaps once, and waits for at least one completion if `block`. The lock is dropped and taken again. Nobody may be
 * reaping; with `block` something must be in flight. Returns how many were reaped.
 */
static unsigned reap_locked(struct queue *q, bool block)
{
	struct reaped got[REAP_BATCH];
	unsigned n;

	q->reaping = true;
	n = take_locked(q, got);
	while (n == 0 && block) {
		pthread_mutex_unlock(&q->lock);
		io_uring_enter((unsigned)q->ring.ring_fd, 0, 1, IORING_ENTER_GETEVENTS, NULL);
		pthread_mutex_lock(&q->lock);
		n = take_locked(q, got);
	}
	q->reaping = false;
	if (n == 0)
		return 0;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);

	for (unsigned i = 0; i < n; i++)
		if (got[i].bio)
			settle(q, got[i].bio, got[i].res);

	pthread_mutex_lock(&q->lock);
	pthread_cond_broadcast(&q->changed);
	return n;
}

/* Lets someone make progress: reaps, or waits for the one who does. */
static void progress_locked(struct queue *q)
{
	if (!q->reaping && q->in_flight > 0)
		reap_locked(q, true);
	else
		pthread_cond_wait(&q->changed, &q->lock);
}

/*
 * Gives the prepared entries to the kernel. Returns how many of the newest it would not have, after a good while; those
 * are turned into entries that do nothing and are not counted as in flight, which a later call carries along.
 */
static unsigned enter_locked(struct queue *q, struct io_uring_sqe **sqe, unsigned n)
{
	unsigned left = n;

	for (int tries = 0; tries < ENTER_TRIES; tries++) {
		int done = io_uring_submit(&q->ring);
		unsigned ready = io_uring_sq_ready(&q->ring);

		/* Do-nothing entries of an earlier refusal go first. */
		left = ready < left ? ready : left;
		if (left == 0)
			break;
		if (done != -EINTR)
			usleep(1000);
	}
	for (unsigned i = n - left; i < n; i++) {
		io_uring_prep_nop(sqe[i]);
		io_uring_sqe_set_data(sqe[i], NULL);
	}
	q->in_flight -= left;
	return left;
}

static void uring_submit(struct queue *q, struct bio **bios, unsigned n)
{
	struct io_uring_sqe *sqe[REAP_BATCH];
	unsigned i = 0;

	while (i < n) {
		unsigned prepared = 0;
		unsigned refused;

		pthread_mutex_lock(&q->lock);
		while (q->in_flight >= q->depth)
			progress_locked(q);
		while (i + prepared < n && prepared < REAP_BATCH && q->in_flight < q->depth) {
			struct bio *bio = bios[i + prepared];
			struct io_uring_sqe *s = io_uring_get_sqe(&q->ring);

			if (!s)
				break;
			if (bio->op == BIO_READ)
				io_uring_prep_readv(s, q->fd, bio->iov, (unsigned)bio->iovcnt,
						    bio->addr << BLOCK_SHIFT);
			else
				io_uring_prep_writev(s, q->fd, bio->iov, (unsigned)bio->iovcnt,
						     bio->addr << BLOCK_SHIFT);
			io_uring_sqe_set_data(s, bio);
			sqe[prepared++] = s;
			q->in_flight++;
		}
		refused = enter_locked(q, sqe, prepared);
		/* Who went to sleep because nothing was in flight can reap now. */
		pthread_cond_broadcast(&q->changed);
		pthread_mutex_unlock(&q->lock);

		i += prepared - refused;
		if (refused == 0 && prepared > 0)
			continue;
		for (unsigned by_hand = refused ? refused : 1; by_hand > 0; by_hand--, i++)
			bio_complete(bios[i], transfer_bio(q, bios[i], 0));
		pthread_mutex_lock(&q->lock);
		pthread_cond_broadcast(&q->changed);
		pthread_mutex_unlock(&q->lock);
	}
}

/* --- thread pool --- */

static struct bio *next_of(const struct bio *bio)
{
	return (struct bio *)(uintptr_t)bio->priv[0];
}

static void *pool_thread(void *arg)
{
	struct queue *q = arg;

	pthread_mutex_lock(&q->lock);
	for (;;) {
		struct bio *bio = q->first;

		if (!bio) {
			if (q->ending)
				break;
			pthread_cond_wait(&q->work, &q->lock);
			continue;
		}
		q->first = next_of(bio);
		pthread_mutex_unlock(&q->lock);
		bio_complete(bio, transfer_bio(q, bio, 0));
		pthread_mutex_lock(&q->lock);
		pthread_cond_broadcast(&q->changed);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

static void pool_submit(struct queue *q, struct bio **bios, unsigned n)
{
	pthread_mutex_lock(&q->lock);
	for (unsigned i = 0; i < n; i++) {
		bios[i]->priv[0] = 0;
		if (q->first)
			q->last->priv[0] = (uintptr_t)bios[i];
		else
			q->first = bios[i];
		q->last = bios[i];
	}
	if (n == 1)
		pthread_cond_signal(&q->work);
	else
		pthread_cond_broadcast(&q->work);
	pthread_mutex_unlock(&q->lock);
}

static void pool_stop(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->ending = true;
	pthread_cond_broadcast(&q->work);
	pthread_mutex_unlock(&q->lock);
	for (int i = 0; i < q->threads; i++)
		pthread_join(q->thread[i], NULL);
}

/* --- both --- */

int queue_open(int fd, unsigned depth, bool no_uring, struct queue **ret)
{
	struct queue *q = mem_zalloc(sizeof(*q));
	int err = 0;

	if (!q)
		return -ENOMEM;
	q->fd = fd;
	q->depth = depth ? depth : DEPTH_DEFAULT;
	if (q->depth > DEPTH_MAX)
		q->depth = DEPTH_MAX;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->changed, NULL);
	pthread_cond_init(&q->work, NULL);

	/* Refused in many containers, and by some administrators. */
	q->uring = !no_uring && io_uring_queue_init(q->depth, &q->ring, 0) == 0;
	while (!q->uring && q->threads < POOL_THREADS) {
		err = -pthread_create(&q->thread[q->threads], NULL, pool_thread, q);
		if (err)
			break;
		q->threads++;
	}
	/* Fewer threads than wanted do. */
	if (!q->uring && q->threads == 0) {
		queue_close(q);
		return err;
	}
	*ret = q;
	return 0;
}

void queue_close(struct queue *q)
{
	if (!q)
		return;
	if (q->uring) {
		pthread_mutex_lock(&q->lock);
		while (q->in_flight > 0)
			progress_locked(q);
		pthread_mutex_unlock(&q->lock);
		io_uring_queue_exit(&q->ring);
	} else {
		pool_stop(q);
	}
	pthread_cond_destroy(&q->work);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
	mem_free(q);
}

void queue_submit(struct queue *q, struct bio **bios, unsigned n)
{
	if (q->uring)
		uring_submit(q, bios, n);
	else
		pool_submit(q, bios, n);
}

void queue_wait(struct queue *q, struct bio_group *g)
{
	pthread_mutex_lock(&q->lock);
	while (atomic_load_explicit(&g->pending, memory_order_acquire)) {
		if (q->uring)
			progress_locked(q);
		else
			pthread_cond_wait(&q->changed, &q->lock);
	}
	pthread_mutex_unlock(&q->lock);
}

void queue_poll(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	if (q->uring)
		while (!q->reaping && q->in_flight > 0 && reap_locked(q, false) > 0)
			;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

const char *queue_kind(const struct queue *q)
{
	return q->uring ? "io_uring" : "threads";
}

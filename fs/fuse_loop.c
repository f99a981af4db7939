/*
 * The transport over /dev/fuse, and what both transports do with a request.
 *
 * Threads that wait for requests all sleep in one queue of the kernel and are woken in turn, each with a cold cache and,
 * on a machine with idle CPUs, on another CPU than the client's; waking that costs several times what a request does. So
 * as few as possible read: one on a small machine, and before it sleeps it looks for a next request for as long as waking it
 * would take, as long as that finds any (spin_read). It serves what it has read by itself. When that may take long it first
 * gives its place as a reader to another thread (leader and followers), and looks for a place, or for rest, only when it is
 * done. The thread that rested last takes the place, because its stack and buffers are warm.
 *
 * When a request may take long is known from two sides: by its kind (loop_request_waits), and by the device, which the
 * daemon wraps so that it calls loop_waits before it waits for a transfer. So a lookup that finds everything in memory
 * costs no change of threads, and one that must read does not stop the others. Where there are no others, as far as the last
 * waits showed, the place is kept (keeps_place), and a device that stops answering is noticed by the main thread.
 *
 * No deadlock: a handler waits for the device and for other handlers, never for a request that has not come yet. So even when
 * all threads that may exist wait, with nobody reading, they come back. Where the bound is reached a reader keeps its place.
 *
 * Sleeping readers are woken for the end by a signal, repeated until the last has left, because it could arrive
 * between the look at `stopping` and the sleep.
 *
 * Rejected: libfuse's own loop (threads come and go with the load, all of them read; no way to answer SYNCFS); one
 * descriptor a thread (clone_fd), which splits only the lists of requests being served; splice, because all data goes
 * through our own buffers.
 */
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 18)
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/fuse_loop_int.h"
#include "fs/fuse_ring.h"

#define KICK SIGUSR1
#define KICK_MS 20
#define THREADS_DEFAULT 32u
#define WRITE_LONG (256u << 10)
#define HAND_OVER 64u	     /* see keeps_place */
#define WAIT_LONG_US 2000u   /* nobody should be held up for longer than this, even once */
#define STUCK_US 500000u     /* ... and is not for longer than this, looked after every */
#define STUCK_LOOK_MS 1000
#define SPIN_TRIES 8	    /* in vain in a row, then no try for a while: */
#define SPIN_PAUSE_MIN 64u  /* so many requests, doubled each time, */
#define SPIN_PAUSE_MAX 4096u /* until one is worth while again */

/* Of the protocol, but missing from older kernel headers. */
#define OP_SYNCFS 50u
#define OP_COPY_FILE_RANGE_64 53u
#define INIT_EXT (1u << 30)
#define INIT_OVER_IO_URING_2 (1u << (41 - 32)) /* in flags2 */

/* Headers in front of what a WRITE carries. */
#define WRITE_HEAD (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
static_assert(WRITE_HEAD <= LOOP_HEAD, "the headers have room");

_Thread_local struct loop_thread *loop_self;

/* ---- serving ---- */

bool loop_request_waits(const struct fuse_in_header *in)
{
	switch (in->opcode) {
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case OP_SYNCFS:
	case FUSE_FALLOCATE:
	case FUSE_COPY_FILE_RANGE:
	case OP_COPY_FILE_RANGE_64:
	case FUSE_DESTROY:
		return true;
	case FUSE_WRITE:
		return in->len > WRITE_LONG;
	default:
		return false;
	}
}

/* Without libfuse, for what it does not know. */
static void answer(struct loop *l, const struct fuse_in_header *in, int err)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = err, .unique = in->unique };
	struct iovec iov = { &out, sizeof(out) };

	if (loop_self->entry)
		ring_answer(loop_self->entry, &iov, 1);
	else if (write(l->fd, &out, sizeof(out)) < 0 && errno != ENOENT && errno != ENODEV)
		err_log(LOG_WARNING, "fuse: an answer was not accepted: %s", strerror(errno));
}

/* INIT has been answered. */
static void got_ready(struct loop *l)
{
	l->ready = true;
	l->init_unique = 0;
	if (l->rings) {
		int err = l->ring_offered ? rings_start(l->rings) : -EOPNOTSUPP;

		if (err) {
			err_log(LOG_INFO, "no io_uring for requests (%s): they come through /dev/fuse", strerror(-err));
			rings_close(l->rings);
			l->rings = NULL;
		}
	}
	if (l->opt.ready)
		l->opt.ready(l->opt.arg);
}

/* The kernel takes no further request to a connection that refused INIT, and keeps the mount all the same. */
static void init_failed(struct loop *l)
{
	atomic_store(&l->err, l->init_err);
	loop_stop(l);
}

void loop_serve(struct loop *l, const void *request, size_t len)
{
	const struct fuse_in_header *in = request;
	struct fuse_buf buf = { .size = len, .mem = (void *)(uintptr_t)request };
	uint32_t opcode = in->opcode;

	loop_self->request = request;
	atomic_fetch_add(&l->active, 1);
	if (atomic_load(&l->ended)) {
		if (opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET)
			answer(l, in, -ENODEV);
	} else if (opcode == OP_SYNCFS) {
		answer(l, in, l->opt.sync(l->opt.arg));
	} else {
		if (opcode == FUSE_INIT)
			l->init_unique = in->unique;
		fuse_session_process_buf(l->opt.session, &buf);
		if (opcode == FUSE_INIT && l->init_err)
			init_failed(l);
		else if (opcode == FUSE_INIT && !l->ready)
			got_ready(l);
	}
	atomic_fetch_sub(&l->active, 1);
	loop_self->request = NULL;
}

void loop_quiesce(struct loop *l)
{
	atomic_store(&l->ended, true);
	while (atomic_load(&l->active) > 1)
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

const void *loop_request(void)
{
	return loop_self->request;
}

void *loop_buffer(void)
{
	struct loop_thread *t = loop_self;

	if (t->entry)
		return ring_buffer(t->entry);
	if (!t->out)
		t->out = mem_alloc_blocks(LOOP_BODY);
	return t->out;
}

bool loop_has_ring(const struct loop *l)
{
	return l->rings != NULL;
}

/* ---- answers, where they do not all go to /dev/fuse ---- */

/* libfuse cannot offer io_uring without running it by itself, so the bit is added on the way out. */
static ssize_t answer_init(struct loop *l, int fd, const struct iovec *iov, int n)
{
	const struct fuse_init_in *asked = (const void *)((const struct fuse_in_header *)loop_self->request + 1);
	const struct fuse_out_header *out = iov[0].iov_base;
	struct fuse_init_out init;
	struct iovec patched[2] = { iov[0], { &init, sizeof(init) } };

	l->init_err = out->error;
	if (n != 2 || out->error || iov[1].iov_len != sizeof(init) || !(asked->flags & INIT_EXT) ||
	    !(asked->flags2 & INIT_OVER_IO_URING_2))
		return writev(fd, iov, n);
	memcpy(&init, iov[1].iov_base, sizeof(init));
	init.flags |= INIT_EXT;
	init.flags2 |= INIT_OVER_IO_URING_2;
	l->ring_offered = true;
	return writev(fd, patched, 2);
}

static ssize_t io_writev(int fd, struct iovec *iov, int n, void *userdata)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	struct loop_thread *t = loop_self;

	(void)userdata;
	if (t && t->request && out->unique == ((const struct fuse_in_header *)t->request)->unique) {
		if (t->entry) {
			ring_answer(t->entry, iov, n);
			return out->len;
		}
		if (out->unique == t->loop->init_unique)
			return answer_init(t->loop, fd, iov, n);
	}
	return writev(fd, iov, n);
}

static ssize_t io_read(int fd, void *buf, size_t size, void *userdata)
{
	(void)userdata;
	return read(fd, buf, size);
}

/* ---- readers ---- */

static void *thread_main(void *arg);

static int start_thread_locked(struct loop *l)
{
	struct loop_thread *t = mem_zalloc(sizeof(*t));
	int err = -ENOMEM;

	if (!t)
		return err;
	t->loop = l;
	pthread_cond_init(&t->wake, NULL);
	t->in = mem_alloc_blocks(LOOP_HEAD + LOOP_BODY);
	if (!t->in)
		goto out;
	err = -pthread_create(&t->id, NULL, thread_main, t);
	if (err)
		goto out;
	t->next = l->threads;
	l->threads = t;
	l->running++;
	l->started++;
	return 0;
out:
	mem_free(t->in);
	pthread_cond_destroy(&t->wake);
	mem_free(t);
	return err;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Another request is there, and nobody has taken it. */
static bool request_pends(const struct loop *l)
{
	return poll(&(struct pollfd){ .fd = l->fd, .events = POLLIN }, 1, 0) > 0;
}

/*
 * Handing over wakes a thread for nothing where only one client asks, and that is most of what a read from a fast device or an
 * fsync costs then. So a reader keeps its place, until a wait was seen to hold somebody up: a request was there when it
 * ended, or it was long. From then on readers hand over, until that was in vain HAND_OVER times in a row.
 */
static bool keeps_place(struct loop *l, struct loop_thread *t)
{
	unsigned n = atomic_load_explicit(&l->hand_over, memory_order_relaxed);

	if (!t->waits_since) { /* the first time in this request */
		t->waits_since = now_us();
		t->received = atomic_load_explicit(&l->received, memory_order_relaxed);
		if (n > 0)
			atomic_store_explicit(&l->hand_over, n - 1, memory_order_relaxed);
	}
	return n == 0;
}

void loop_waited(void)
{
	struct loop_thread *t = loop_self;
	struct loop *l;
	bool held_up;

	if (!t || !t->waits_since)
		return;
	l = t->loop;
	if (t->reader)
		held_up = request_pends(l);
	else
		held_up = atomic_load_explicit(&l->received, memory_order_relaxed) != t->received;
	if (held_up)
		atomic_store_explicit(&l->hand_over, HAND_OVER, memory_order_relaxed);
}

/* Lets another thread read in its place, if there is one to do so. */
static void hand_over_locked(struct loop *l, struct loop_thread *t)
{
	struct loop_thread *next = l->idle;

	if (next) {
		l->idle = next->next_idle;
		next->next_idle = NULL;
		pthread_cond_signal(&next->wake);
	} else if (l->started >= l->opt.threads || start_thread_locked(l)) {
		return;
	}
	t->reader = false;
	l->reading--;
}

void loop_waits(void)
{
	struct loop_thread *t = loop_self;
	struct loop *l;

	if (!t || !t->reader || keeps_place(t->loop, t))
		return;
	l = t->loop;
	pthread_mutex_lock(&l->lock);
	if (t->reader)
		hand_over_locked(l, t);
	pthread_mutex_unlock(&l->lock);
}

/* Served. Returns whether that took waiting. */
static bool forget_wait(struct loop *l, struct loop_thread *t)
{
	if (!t->waits_since)
		return false;
	if (now_us() - t->waits_since > WAIT_LONG_US)
		atomic_store_explicit(&l->hand_over, HAND_OVER, memory_order_relaxed);
	pthread_mutex_lock(&l->lock);
	t->waits_since = 0;
	pthread_mutex_unlock(&l->lock);
	return true;
}

/* The device does not answer: who waits for it must not keep others from what is in memory. */
static void relieve_stuck_locked(struct loop *l)
{
	uint64_t now = now_us();

	for (struct loop_thread *t = l->threads; t; t = t->next) {
		uint64_t since = t->waits_since;

		if (t->reader && since && now - since > STUCK_US)
			hand_over_locked(l, t);
	}
}

/* Waits for a reader's place. false: it is over. */
static bool take_place(struct loop *l, struct loop_thread *t)
{
	pthread_mutex_lock(&l->lock);
	while (!t->reader && !atomic_load(&l->stopping)) {
		if (l->reading < l->opt.readers) {
			l->reading++;
			t->reader = true;
			break;
		}
		t->next_idle = l->idle;
		l->idle = t;
		pthread_cond_wait(&t->wake, &l->lock);
		/* Who woke us has taken us from the stack; if nobody did, we are still on it. */
		for (struct loop_thread **at = &l->idle; *at; at = &(*at)->next_idle)
			if (*at == t) {
				*at = t->next_idle;
				break;
			}
	}
	pthread_mutex_unlock(&l->lock);
	return t->reader && !atomic_load(&l->stopping);
}

void loop_fail(struct loop *l, int err)
{
	int none = 0;

	atomic_compare_exchange_strong(&l->err, &none, err);
	loop_stop(l);
}

struct spin {
	unsigned vain, pause, next_pause;
};

/*
 * The descriptor does not block. Looks for a request for a short time, where that has been worth while lately. It is not where
 * the client runs on this very CPU, or thinks for long between two requests; nor behind a request that has waited for the device.
 */
static ssize_t spin_read(struct loop *l, void *buf, size_t size, struct spin *spin, bool waited)
{
	ssize_t n = read(l->fd, buf, size);
	uint64_t until;

	if (n >= 0 || errno != EAGAIN)
		return n;
	if (waited) {
		/* The CPU has been idle already, and the client is woken beside us when we go to sleep. */
	} else if (spin->pause > 0) {
		spin->pause--;
	} else {
		until = now_us() + l->opt.spin_us;
		do {
			n = read(l->fd, buf, size);
		} while (n < 0 && errno == EAGAIN && now_us() < until && !atomic_load(&l->stopping));
		if (n >= 0 || errno != EAGAIN) {
			*spin = (struct spin){ .next_pause = SPIN_PAUSE_MIN };
			return n;
		}
		if (++spin->vain >= SPIN_TRIES) {
			spin->vain = 0;
			spin->pause = spin->next_pause;
			if (spin->next_pause < SPIN_PAUSE_MAX)
				spin->next_pause *= 2;
		}
	}
	if (!atomic_load(&l->stopping) && poll(&(struct pollfd){ .fd = l->fd, .events = POLLIN }, 1, -1) < 0)
		return -1;
	return read(l->fd, buf, size);
}

/* 0: look again, or it is over. */
static size_t receive(struct loop *l, void *buf, size_t size, struct spin *spin, bool waited)
{
	ssize_t n = l->opt.spin_us ? spin_read(l, buf, size, spin, waited) : read(l->fd, buf, size);

	if (n >= (ssize_t)sizeof(struct fuse_in_header))
		return (size_t)n;
	if (n >= 0) {
		err_log(LOG_ERROR, "fuse: a request of %zd bytes", n);
		loop_fail(l, -EIO);
		return 0;
	}
	switch (errno) {
	case EINTR:
	case EAGAIN:
	case ENOENT: /* taken back before we had it */
		break;
	case ENODEV: /* unmounted */
	case ECONNABORTED:
		loop_stop(l);
		break;
	default:
		err_log(LOG_ERROR, "fuse: requests cannot be read: %s", strerror(errno));
		loop_fail(l, -errno);
		break;
	}
	return 0;
}

static void *thread_main(void *arg)
{
	struct loop_thread *t = arg;
	struct loop *l = t->loop;
	char *request = t->in + LOOP_HEAD - WRITE_HEAD;
	size_t room = WRITE_HEAD + LOOP_BODY;
	struct spin spin = { .next_pause = SPIN_PAUSE_MIN };
	sigset_t kick;

	pthread_setname_np(pthread_self(), "fuse");
	sigemptyset(&kick);
	sigaddset(&kick, KICK);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	loop_self = t;
	while (take_place(l, t)) {
		bool waited = false;

		while (t->reader && !atomic_load(&l->stopping)) {
			size_t len = receive(l, request, room, &spin, waited);

			if (len == 0)
				continue;
			atomic_fetch_add_explicit(&l->received, 1, memory_order_relaxed);
			if (loop_request_waits((struct fuse_in_header *)request))
				loop_waits();
			loop_serve(l, request, len);
			waited = forget_wait(l, t);
		}
	}
	loop_self = NULL;

	pthread_mutex_lock(&l->lock);
	if (t->reader)
		l->reading--;
	t->reader = false;
	l->running--;
	pthread_cond_signal(&l->left);
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ---- the whole ---- */

void loop_stop(struct loop *l)
{
	atomic_store(&l->stopping, true);
	pthread_mutex_lock(&l->lock);
	for (struct loop_thread *t = l->idle; t; t = t->next_idle)
		pthread_cond_signal(&t->wake);
	pthread_cond_signal(&l->left);
	pthread_mutex_unlock(&l->lock);
}

static void on_kick(int sig)
{
	(void)sig;
}

static void add_ms(struct timespec *t, long ms)
{
	t->tv_sec += ms / 1000;
	t->tv_nsec += ms % 1000 * 1000000;
	if (t->tv_nsec >= 1000000000) {
		t->tv_nsec -= 1000000000;
		t->tv_sec++;
	}
}

int loop_run(struct loop *l)
{
	int err;

	pthread_mutex_lock(&l->lock);
	err = start_thread_locked(l);
	while (!err && l->started < l->opt.readers)
		err = start_thread_locked(l);
	if (err)
		atomic_store(&l->stopping, true);
	while (l->running > 0) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		if (!atomic_load(&l->stopping)) {
			add_ms(&until, STUCK_LOOK_MS);
			if (pthread_cond_timedwait(&l->left, &l->lock, &until) == ETIMEDOUT)
				relieve_stuck_locked(l);
			continue;
		}
		for (struct loop_thread *t = l->threads; t; t = t->next)
			if (t->reader)
				pthread_kill(t->id, KICK);
		add_ms(&until, KICK_MS);
		pthread_cond_timedwait(&l->left, &l->lock, &until);
	}
	pthread_mutex_unlock(&l->lock);
	if (l->rings)
		rings_stop(l->rings);
	return err ? err : atomic_load(&l->err);
}

int loop_open(const struct loop_options *opt, struct loop **ret)
{
	static const struct fuse_custom_io io = { .writev = io_writev, .read = io_read };
	struct sigaction kick = { .sa_handler = on_kick };
	struct loop *l = mem_zalloc(sizeof(*l));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int flags, err;

	if (!l)
		return -ENOMEM;
	l->opt = *opt;
	if (l->opt.readers == 0)
		l->opt.readers = cpus > 2 ? 2 : 1;
	if (cpus < 2)
		l->opt.spin_us = 0;
	if (l->opt.threads == 0)
		l->opt.threads = THREADS_DEFAULT;
	if (l->opt.threads < l->opt.readers + 1)
		l->opt.threads = l->opt.readers + 1;
	l->fd = fuse_session_fd(opt->session);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->left, NULL);
	sigaction(KICK, &kick, NULL);

	flags = fcntl(l->fd, F_GETFL);
	if (l->opt.spin_us && (flags < 0 || fcntl(l->fd, F_SETFL, flags | O_NONBLOCK))) {
		err = -errno;
		goto out;
	}
	if (l->opt.ring) {
		err = fuse_session_custom_io(opt->session, &io, sizeof(io), l->fd);
		if (!err)
			err = rings_open(l, &l->rings);
		if (err)
			err_log(LOG_INFO, "no io_uring for requests (%s): they come through /dev/fuse", strerror(-err));
	}
	*ret = l;
	return 0;
out:
	loop_close(l);
	return err;
}

void loop_close(struct loop *l)
{
	if (!l)
		return;
	rings_close(l->rings);
	while (l->threads) {
		struct loop_thread *t = l->threads;

		l->threads = t->next;
		pthread_join(t->id, NULL);
		pthread_cond_destroy(&t->wake);
		mem_free(t->in);
		mem_free(t->out);
		mem_free(t);
	}
	pthread_cond_destroy(&l->left);
	pthread_mutex_destroy(&l->lock);
	mem_free(l);
}

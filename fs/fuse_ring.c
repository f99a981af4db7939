/*
 * FUSE over io_uring.
 *
 * The kernel has a queue for each possible CPU, and a request goes into the one of the CPU its caller runs on. Each queue is
 * given RING_DEPTH entries. An entry goes round like this:
 *
 *	with the kernel --(a request was put into it: a completion)--> served --(answered: COMMIT_AND_FETCH)--> with the kernel
 *
 * One thread an online CPU, pinned to it, has an io_uring for the queue of its CPU; queues of CPUs that are offline are
 * spread over them, because the kernel uses none before it has entries for all.
 *
 * libfuse decodes one piece of memory that begins with the header, as /dev/fuse gives it; the ring gives three pieces: the
 * header, the operation's arguments, the payload. There is room in front of the payload, so the first two are copied
 * there (some hundred bytes at most) and the payload stays where it is. Answers that were made in the payload (a read) are
 * not copied either.
 *
 * A thread that waits stops its CPU's whole queue. So what may wait (loop_request_waits, and reads, which may go to the device)
 * is served by another thread, as it is: entry, request and buffer are its until it has answered. Only the ring's own
 * thread speaks to its io_uring: the entry goes back over a list without locks, and an eventfd where that thread
 * sleeps. (libfuse 3.18's own implementation, which we do not use, lets another thread prepare a submission while the ring's
 * thread is handing the queue over to the kernel without the lock, so a half-written entry may be submitted; and it runs
 * all handlers in the ring's thread.) A submission from another thread would also bind the entry's next request to that
 * thread, because the kernel fills an entry in the context of the task that submitted it.
 *
 * A read that comes alone is served in place: for one client that waits for each read, handing over only adds two changes
 * of threads. As soon as requests are seen to overlap, the next RING_BUSY of them are handed over.
 */
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 18)
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#undef BLOCK_SIZE

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/fuse_loop_int.h"
#include "fs/fuse_ring.h"

#define RING_DEPTH 16u
#define RING_BUSY 64u
#define PARAM_URING "/sys/module/fuse/parameters/enable_uring"
#define CPUS_POSSIBLE "/sys/devices/system/cpu/possible"

/* The kernel's interface (linux/fuse.h of 6.14 and later). */
#define CMD_REGISTER 1u
#define CMD_COMMIT_AND_FETCH 2u

struct ring_header {
	char in_out[128];
	char op_in[128];
	struct {
		uint64_t flags;
		uint64_t commit_id;
		uint32_t payload_size;
		uint32_t padding;
		uint64_t reserved;
	} entry;
};
static_assert(sizeof(struct ring_header) == 288, "as the kernel has it");

struct ring_cmd {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t padding[6];
};
static_assert(sizeof(struct ring_cmd) <= 80, "fits a submission of 128 bytes");

struct ring_entry {
	struct ring *ring;
	struct ring_entry *next; /* in `done` of the ring, or in the workers' queue */
	uint16_t qid;
	bool answered; /* of its owner at the moment */
	uint64_t commit_id;
	struct ring_header *header;
	char *body; /* LOOP_HEAD bytes, then the payload: LOOP_BODY bytes */
	const void *request;
	size_t request_len;
	struct iovec iov[2];
};

struct ring {
	struct rings *all;
	struct io_uring io;
	bool io_open;
	int wake_fd;
	uint64_t woken;
	int cpu;
	unsigned n, with_kernel, handed, busy; /* of the ring's thread */
	struct ring_entry *entries;
	_Atomic(struct ring_entry *) done; /* answered by workers */
	atomic_bool sleeping;

	pthread_t thread;
	bool started;
	struct loop_thread self;
};

struct worker {
	pthread_t thread;
	struct loop_thread self;
	struct rings *all;
};

struct rings {
	struct loop *loop;
	unsigned n_rings;
	struct ring *ring;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* registered, err */
	unsigned registered;	/* rings; guarded by lock */
	int err;

	pthread_cond_t work;
	struct ring_entry *first, **last; /* waiting for a worker */
	unsigned n_waiting, n_idle, n_workers;
	bool stopping;
	struct worker *workers;
};

bool rings_permitted(void)
{
	FILE *f = fopen(PARAM_URING, "re");
	int c = f ? getc(f) : EOF;

	if (f)
		fclose(f);
	return c == 'Y';
}

/* The kernel counts possible CPUs, not those there are: "0-3" or "0,2-7". */
static unsigned possible_cpus(void)
{
	unsigned last = 0, n;
	FILE *f = fopen(CPUS_POSSIBLE, "re");

	if (!f)
		return (unsigned)get_nprocs_conf();
	while (fscanf(f, "%u", &n) == 1) {
		last = n;
		if (getc(f) == EOF)
			break;
	}
	fclose(f);
	return last + 1;
}

/* ---- submissions (the ring's thread) ---- */

static struct io_uring_sqe *get_sqe(struct ring *r)
{
	/* There is one for each entry and one for the eventfd. */
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->io);

	assert(sqe);
	memset(sqe, 0, 2 * sizeof(*sqe));
	return sqe;
}

static void submit_entry(struct ring_entry *e, uint32_t op)
{
	struct io_uring_sqe *sqe = get_sqe(e->ring);
	struct ring_cmd *cmd = (void *)sqe->cmd;

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE;
	sqe->fd = 0;
	sqe->cmd_op = op;
	sqe->user_data = (uintptr_t)e;
	if (op == CMD_REGISTER) {
		sqe->addr = (uintptr_t)e->iov;
		sqe->len = 2;
	}
	cmd->qid = e->qid;
	cmd->commit_id = op == CMD_REGISTER ? 0 : e->commit_id;
	e->ring->with_kernel++;
}

static void submit_wake(struct ring *r)
{
	struct io_uring_sqe *sqe = get_sqe(r);

	sqe->opcode = IORING_OP_READ;
	sqe->fd = r->wake_fd;
	sqe->addr = (uintptr_t)&r->woken;
	sqe->len = sizeof(r->woken);
	sqe->user_data = (uintptr_t)r;
}

static void wake(struct ring *r)
{
	uint64_t one = 1;

	if (atomic_exchange(&r->sleeping, false) && write(r->wake_fd, &one, sizeof(one)) < 0)
		err_log(LOG_ERROR, "fuse: a ring cannot be woken: %s", strerror(errno));
}

/* ---- answers ---- */

void *ring_buffer(struct ring_entry *e)
{
	return e->body + LOOP_HEAD;
}

void ring_answer(struct ring_entry *e, const struct iovec *iov, int n)
{
	struct fuse_out_header out = *(const struct fuse_out_header *)iov[0].iov_base;
	char *payload = e->body + LOOP_HEAD;
	size_t len = 0;

	for (int i = 1; i < n; i++) {
		if (len + iov[i].iov_len > FS_IO_MAX) {
			err_log(LOG_ERROR, "fuse: an answer of more than %u bytes", FS_IO_MAX);
			out.error = -EIO;
			len = 0;
			break;
		}
		if (iov[i].iov_base != payload + len)
			memmove(payload + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	out.len = (uint32_t)(sizeof(out) + len);
	memcpy(e->header->in_out, &out, sizeof(out));
	e->header->entry.payload_size = (uint32_t)len;
	e->answered = true;
}

/* ---- requests ---- */

/* Makes one piece of it, as /dev/fuse gives it. false: not a request. */
static bool assemble(struct ring_entry *e)
{
	struct fuse_in_header in;
	size_t payload = e->header->entry.payload_size;
	size_t args;
	char *at;

	memcpy(&in, e->header->in_out, sizeof(in));
	e->commit_id = e->header->entry.commit_id;
	if (in.len < sizeof(in) + payload || payload > FS_IO_MAX)
		return false;
	args = in.len - sizeof(in) - payload;
	if (args > sizeof(e->header->op_in))
		return false;
	at = e->body + LOOP_HEAD - args - sizeof(in);
	memcpy(at, &in, sizeof(in));
	memcpy(at + sizeof(in), e->header->op_in, args);
	e->request = at;
	e->request_len = in.len;
	return true;
}

/* Whatever a handler does, the kernel gets an answer and its entry back. */
static void serve(struct loop_thread *t, struct ring_entry *e)
{
	e->answered = false;
	t->entry = e;
	loop_serve(t->loop, e->request, e->request_len);
	t->entry = NULL;
	if (!e->answered) {
		struct fuse_out_header out = {
			.error = -EIO,
			.unique = ((const struct fuse_in_header *)e->request)->unique,
		};

		ring_answer(e, &(struct iovec){ &out, sizeof(out) }, 1);
	}
}

/* ---- workers ---- */

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct rings *all = w->all;

	pthread_setname_np(pthread_self(), "fuse worker");
	loop_self = &w->self;
	pthread_mutex_lock(&all->lock);
	for (;;) {
		struct ring_entry *e, *old;
		struct ring *r;

		while (!all->first && !all->stopping) {
			all->n_idle++;
			pthread_cond_wait(&all->work, &all->lock);
			all->n_idle--;
		}
		e = all->first;
		if (!e)
			break;
		all->first = e->next;
		if (!all->first)
			all->last = &all->first;
		all->n_waiting--;
		pthread_mutex_unlock(&all->lock);

		serve(&w->self, e);
		r = e->ring;
		old = atomic_load(&r->done);
		do
			e->next = old;
		while (!atomic_compare_exchange_weak(&r->done, &old, e));
		wake(r);
		pthread_mutex_lock(&all->lock);
	}
	pthread_mutex_unlock(&all->lock);
	loop_self = NULL;
	return NULL;
}

static bool hand_over(struct ring_entry *e)
{
	struct rings *all = e->ring->all;
	bool ok = true;

	pthread_mutex_lock(&all->lock);
	if (all->n_idle <= all->n_waiting && all->n_workers < all->loop->opt.threads) {
		struct worker *w = &all->workers[all->n_workers];

		w->all = all;
		w->self.loop = all->loop;
		if (pthread_create(&w->thread, NULL, worker_main, w) == 0)
			all->n_workers++;
		ok = all->n_workers > 0;
	}
	if (ok) {
		e->next = NULL;
		*all->last = e;
		all->last = &e->next;
		all->n_waiting++;
		e->ring->handed++;
		pthread_cond_signal(&all->work);
	}
	pthread_mutex_unlock(&all->lock);
	return ok;
}

/* ---- the ring's thread ---- */

static bool may_wait(struct ring *r, const struct fuse_in_header *in)
{
	if (loop_request_waits(in))
		return true;
	if (in->opcode != FUSE_READ)
		return false;
	if (r->busy == 0)
		return false;
	r->busy--;
	return true;
}

static void take_request(struct ring *r, struct ring_entry *e)
{
	if (!assemble(e)) {
		struct fuse_out_header out = { .error = -EIO, .unique = e->commit_id };

		err_log(LOG_ERROR, "fuse: a request in a ring that is none");
		ring_answer(e, &(struct iovec){ &out, sizeof(out) }, 1);
		submit_entry(e, CMD_COMMIT_AND_FETCH);
		return;
	}
	if (may_wait(r, e->request) && hand_over(e))
		return;
	serve(&r->self, e);
	submit_entry(e, CMD_COMMIT_AND_FETCH);
}

/* Every completion there is. */
static unsigned take_completions(struct ring *r)
{
	struct rings *all = r->all;
	struct io_uring_cqe *cqe;
	unsigned head, n = 0, requests = 0;

	io_uring_for_each_cqe(&r->io, head, cqe)
	{
		struct ring_entry *e = (void *)(uintptr_t)cqe->user_data;

		n++;
		if ((void *)e == (void *)r) {
			submit_wake(r);
			continue;
		}
		r->with_kernel--;
		switch (cqe->res) {
		case 0:
			requests++;
			take_request(r, e);
			break;
		case -EAGAIN:
		case -EINTR:
			submit_entry(e, e->commit_id ? CMD_COMMIT_AND_FETCH : CMD_REGISTER);
			break;
		case -ENOTCONN: /* unmounted */
		case -ECONNABORTED:
		case -ECANCELED:
		case -ENODEV:
			loop_stop(all->loop);
			break;
		default:
			err_log(LOG_ERROR, "fuse: a ring entry is lost: %s", strerror(-cqe->res));
			break;
		}
	}
	io_uring_cq_advance(&r->io, n);
	return requests;
}

static void take_done(struct ring *r)
{
	struct ring_entry *e = atomic_exchange(&r->done, NULL);

	while (e) {
		struct ring_entry *next = e->next;

		r->handed--;
		submit_entry(e, CMD_COMMIT_AND_FETCH);
		e = next;
	}
}

/* The kernel refuses all of a queue's entries or none. */
static int register_entries(struct ring *r)
{
	struct io_uring_cqe *cqe;
	unsigned head;
	int n, err = 0;

	for (unsigned i = 0; i < r->n; i++)
		submit_entry(&r->entries[i], CMD_REGISTER);
	submit_wake(r);
	n = io_uring_submit(&r->io);
	if (n < 0)
		return n;
	io_uring_for_each_cqe(&r->io, head, cqe) if (cqe->user_data != (uintptr_t)r && cqe->res < 0 &&
						     cqe->res != -EAGAIN) err = cqe->res;
	return err;
}

static void say_registered(struct rings *all, int err)
{
	pthread_mutex_lock(&all->lock);
	all->registered++;
	if (err && !all->err)
		all->err = err;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
}

static void *ring_main(void *arg)
{
	struct ring *r = arg;
	struct loop *l = r->all->loop;
	cpu_set_t cpus;
	int err;

	pthread_setname_np(pthread_self(), "fuse ring");
	CPU_ZERO(&cpus);
	CPU_SET((unsigned)r->cpu, &cpus);
	(void)sched_setaffinity(0, sizeof(cpus), &cpus);
	loop_self = &r->self;
	err = register_entries(r);
	say_registered(r->all, err);
	if (err)
		return NULL;

	while (!atomic_load(&l->stopping)) {
		unsigned requests;

		atomic_store(&r->sleeping, true);
		if (atomic_load(&r->done) || atomic_load(&l->stopping))
			err = io_uring_submit(&r->io);
		else
			err = io_uring_submit_and_wait(&r->io, 1);
		atomic_store(&r->sleeping, false);
		if (err < 0 && err != -EINTR && err != -EAGAIN && err != -EBUSY) {
			err_log(LOG_ERROR, "fuse: a ring failed: %s", strerror(-err));
			loop_fail(l, err);
			break;
		}
		requests = take_completions(r);
		/* More than one at once, or one while others are served. */
		if (requests > 1 || (requests && r->handed))
			r->busy = RING_BUSY;
		take_done(r);
	}
	/* Answers that workers still have to give are for nobody: the connection ends. */
	loop_self = NULL;
	return NULL;
}

/* ---- the whole ---- */

static int open_entry(struct ring *r, struct ring_entry *e, uint16_t qid)
{
	e->ring = r;
	e->qid = qid;
	e->header = mem_alloc_blocks(BLOCK_SIZE);
	e->body = mem_alloc_blocks(LOOP_HEAD + LOOP_BODY);
	if (!e->header || !e->body)
		return -ENOMEM;
	e->iov[0] = (struct iovec){ e->header, BLOCK_SIZE };
	e->iov[1] = (struct iovec){ e->body + LOOP_HEAD, FS_IO_MAX };
	return 0;
}

static int open_ring(struct ring *r, unsigned queues)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SQE128 | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
	};
	unsigned n_queues = 0;
	int err;

	for (unsigned q = 0; q < queues; q++)
		n_queues += q % r->all->n_rings == (unsigned)(r - r->all->ring);
	r->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (r->wake_fd < 0)
		return -errno;
	p.cq_entries = 2 * (n_queues * RING_DEPTH + 1);
	err = io_uring_queue_init_params(n_queues * RING_DEPTH + 1, &r->io, &p);
	if (err)
		return err;
	r->io_open = true;
	err = io_uring_register_files(&r->io, &r->all->loop->fd, 1);
	if (err)
		return err;

	r->entries = mem_zalloc_array((size_t)n_queues * RING_DEPTH, sizeof(*r->entries));
	if (!r->entries)
		return -ENOMEM;
	for (unsigned q = 0; q < queues; q++) {
		if (q % r->all->n_rings != (unsigned)(r - r->all->ring))
			continue;
		for (unsigned i = 0; i < RING_DEPTH; i++) {
			err = open_entry(r, &r->entries[r->n++], (uint16_t)q);
			if (err)
				return err;
		}
	}
	return 0;
}

int rings_open(struct loop *l, struct rings **ret)
{
	unsigned queues = possible_cpus(), cpus = (unsigned)get_nprocs();
	struct rings *all;
	int err = 0;

	if (!rings_permitted())
		return -EOPNOTSUPP;
	all = mem_zalloc(sizeof(*all));
	if (!all)
		return -ENOMEM;
	all->loop = l;
	all->last = &all->first;
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	pthread_cond_init(&all->work, NULL);
	all->n_rings = cpus < queues ? cpus : queues;
	all->ring = mem_zalloc_array(all->n_rings, sizeof(*all->ring));
	all->workers = mem_zalloc_array(l->opt.threads, sizeof(*all->workers));
	if (!all->ring || !all->workers)
		err = -ENOMEM;
	for (unsigned i = 0; !err && i < all->n_rings; i++) {
		struct ring *r = &all->ring[i];

		r->all = all;
		r->cpu = (int)i;
		r->wake_fd = -1;
		r->self.loop = l;
		err = open_ring(r, queues);
	}
	if (err) {
		rings_close(all);
		return err;
	}
	*ret = all;
	return 0;
}

int rings_start(struct rings *all)
{
	unsigned n = 0;
	int err = 0;

	for (unsigned i = 0; !err && i < all->n_rings; i++) {
		err = -pthread_create(&all->ring[i].thread, NULL, ring_main, &all->ring[i]);
		all->ring[i].started = !err;
		n += !err;
	}
	pthread_mutex_lock(&all->lock);
	while (all->registered < n)
		pthread_cond_wait(&all->changed, &all->lock);
	/* The kernel holds everything back until all its queues have entries, unless it has refused some itself. */
	if (err && !all->err)
		loop_fail(all->loop, err);
	if (!err)
		err = all->err;
	pthread_mutex_unlock(&all->lock);
	return err;
}

void rings_stop(struct rings *all)
{
	for (unsigned i = 0; i < all->n_rings; i++) {
		struct ring *r = &all->ring[i];
		uint64_t one = 1;

		if (r->started) {
			if (write(r->wake_fd, &one, sizeof(one)) < 0)
				err_log(LOG_ERROR, "fuse: a ring cannot be woken: %s", strerror(errno));
			pthread_join(r->thread, NULL);
		}
		r->started = false;
	}
	pthread_mutex_lock(&all->lock);
	all->stopping = true;
	pthread_cond_broadcast(&all->work);
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < all->n_workers; i++)
		pthread_join(all->workers[i].thread, NULL);
	all->n_workers = 0;
}

void rings_close(struct rings *all)
{
	if (!all)
		return;
	if (all->ring)
		rings_stop(all);
	for (unsigned i = 0; all->ring && i < all->n_rings; i++) {
		struct ring *r = &all->ring[i];

		if (r->io_open)
			io_uring_queue_exit(&r->io);
		if (r->all && r->wake_fd >= 0)
			close(r->wake_fd);
		for (unsigned j = 0; r->entries && j < r->n; j++) {
			mem_free(r->entries[j].header);
			mem_free(r->entries[j].body);
		}
		mem_free(r->entries);
	}
	pthread_cond_destroy(&all->work);
	pthread_cond_destroy(&all->changed);
	pthread_mutex_destroy(&all->lock);
	mem_free(all->workers);
	mem_free(all->ring);
	mem_free(all);
}

/*
 * The daemon's device for tests: the ordinary one, with a layer on top that records what it is told and fails on command.
 *
 * mount.arbor-test is mount.arbor with this file in place of fs/device.c. The environment says what it does:
 *
 *	ARBOR_TESTDEV_TRACE=FILE	records every write, flush and discard, as tests/kit/simtrace.h has it
 *	ARBOR_TESTDEV_SOCKET=PATH	takes commands there, from the first moment on
 *	ARBOR_TESTDEV_FIRST=COMMANDS	obeyed before the device is used, separated by ';'
 *
 * A command is a line, its answer is a line ("ok ...", "error ..."):
 *
 *	fail KIND N ERRNO TIMES EFFECT	the N-th operation from now on, and TIMES in all (0: every one from then on). KIND: read,
 *					write, flush, discard. ERRNO: EIO, ENOSPC, ETIMEDOUT. EFFECT of a write: none, torn, done
 *	delay KIND MS			each of this kind takes so much longer
 *	memory N TIMES			the N-th allocation of the daemon, libfuse's too, from now on fails; TIMES 1 or 0
 *	clear				no more of all that
 *	counts				reads, writes, flushes, discards, allocations so far, and how many of each were made to fail
 *
 * A transfer goes to the device below as a bio of our own, whose done() completes the original: so whoever waits for the
 * original's group is served by the device below, which looks at nothing but the group's counter. The trace is written with
 * plain write(2), a record at a time under a lock, before a transfer begins and before anybody hears that it has ended. So it
 * outlives the daemon, and what it says began later did begin later.
 */
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/device.h"
#include "tests/kit/failmem.h"
#include "tests/kit/rng.h"
#include "tests/kit/simtrace.h"

#define RULES 16u
#define SECTORS (BLOCK_SIZE / SIMDEV_SECTOR)

enum effect { EFFECT_NONE, EFFECT_TORN, EFFECT_DONE };

struct rule {
	enum simdev_op kind;
	uint64_t skip, times; /* left; times 0: for ever */
	bool for_ever;
	int err;
	enum effect effect;
};

struct testdev {
	struct bdev dev; /* first: the ops are given this */
	struct bdev *below;
	struct bio_group group; /* of our own bios; nobody waits for it */

	pthread_mutex_t trace_lock; /* the trace's order is the order under it */
	int trace;		    /* -1: none */
	uint64_t next_id;	    /* guarded by trace_lock */

	pthread_mutex_t lock; /* guards the rest */
	struct rule rule[RULES];
	unsigned rules;
	uint64_t count[SIMDEV_OPS], failed[SIMDEV_OPS];
	unsigned delay_ms[SIMDEV_OPS];
	struct rng rng;

	int listener; /* -1: none */
	pthread_t thread;
};

/* A bio under way. */
struct shadow {
	struct bio bio;
	struct testdev *t;
	struct bio *orig;
	uint64_t id; /* in the trace */
};

static const char *const kind_name[SIMDEV_OPS] = {
	[SIMDEV_READ] = "read",
	[SIMDEV_WRITE] = "write",
	[SIMDEV_FLUSH] = "flush",
	[SIMDEV_DISCARD] = "discard",
};

static struct testdev *test_of(struct bdev *dev)
{
	return (struct testdev *)dev;
}

static void *must(void *p)
{
	if (!p) {
		fputs("testdev: no memory\n", stderr);
		abort();
	}
	return p;
}

/* ---- allocations past mem.h, which are libfuse's ---- */

/* The linker has every call in the program go here (--wrap). What comes through mem.h is asked about twice, which does not matter. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t each);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t each);

void *__wrap_malloc(size_t bytes)
{
	return failmem_allow() ? __real_malloc(bytes) : NULL;
}

void *__wrap_calloc(size_t n, size_t each)
{
	return failmem_allow() ? __real_calloc(n, each) : NULL;
}

/* ---- the trace ---- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void write_all(int fd, const void *data, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, data, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			perror("testdev: the trace");
			abort();
		}
		data = (const char *)data + n;
		bytes -= (size_t)n;
	}
}

/* id of an end: that of its beginning. Returns the id. */
static uint64_t trace(struct testdev *t, struct simtrace_record r, const struct iovec *iov, int iovcnt)
{
	bool begins = r.kind == SIMTRACE_WRITE || r.kind == SIMTRACE_FLUSH || r.kind == SIMTRACE_DISCARD;

	if (t->trace < 0)
		return 0;
	pthread_mutex_lock(&t->trace_lock);
	if (begins)
		r.id = t->next_id++;
	r.stamp_ns = now_ns();
	write_all(t->trace, &r, sizeof(r));
	for (int i = 0; i < iovcnt; i++)
		write_all(t->trace, iov[i].iov_base, iov[i].iov_len);
	pthread_mutex_unlock(&t->trace_lock);
	return r.id;
}

static uint64_t iov_blocks(const struct iovec *iov, int iovcnt)
{
	uint64_t bytes = 0;

	for (int i = 0; i < iovcnt; i++)
		bytes += iov[i].iov_len;
	return bytes >> BLOCK_SHIFT;
}

static uint64_t trace_write(struct testdev *t, uint64_t addr, const struct iovec *iov, int iovcnt)
{
	return trace(
		t, (struct simtrace_record){ .kind = SIMTRACE_WRITE, .addr = addr, .blocks = iov_blocks(iov, iovcnt) },
		iov, iovcnt);
}

static void trace_end(struct testdev *t, enum simtrace_kind kind, uint64_t id, int err)
{
	trace(t, (struct simtrace_record){ .kind = kind, .id = id, .err = err }, NULL, 0);
}

/* ---- faults ---- */

/* Counts an operation, lets it wait, and returns the error it is to have. */
static int decide(struct testdev *t, enum simdev_op kind, enum effect *ret_effect)
{
	unsigned delay_ms;
	int err = 0;

	*ret_effect = EFFECT_NONE;
	pthread_mutex_lock(&t->lock);
	t->count[kind]++;
	delay_ms = t->delay_ms[kind];
	for (unsigned i = 0; i < t->rules; i++) {
		struct rule *r = &t->rule[i];

		if (r->kind != kind)
			continue;
		if (r->skip) {
			r->skip--;
			continue;
		}
		if (err || (!r->times && !r->for_ever))
			continue;
		if (r->times)
			r->times--;
		err = r->err;
		*ret_effect = r->effect;
		t->failed[kind]++;
	}
	pthread_mutex_unlock(&t->lock);
	if (delay_ms)
		usleep(delay_ms * 1000);
	return err;
}

/* What a write that fails has done all the same. */
static void leave(struct testdev *t, enum effect effect, uint64_t addr, const struct iovec *iov, int iovcnt)
{
	uint32_t blocks = (uint32_t)iov_blocks(iov, iovcnt), at = 0;
	char *buf;

	if (effect == EFFECT_NONE)
		return;
	buf = must(aligned_alloc(BLOCK_SIZE, (size_t)blocks << BLOCK_SHIFT));
	if (bdev_read(t->below, addr, buf, blocks))
		abort();
	for (int i = 0; i < iovcnt; i++)
		for (size_t off = 0; off < iov[i].iov_len; off += SIMDEV_SECTOR, at++) {
			bool put;

			pthread_mutex_lock(&t->lock);
			put = effect == EFFECT_DONE || rng_chance(&t->rng, 1, 2);
			pthread_mutex_unlock(&t->lock);
			if (put)
				memcpy(buf + (size_t)at * SIMDEV_SECTOR, (char *)iov[i].iov_base + off, SIMDEV_SECTOR);
		}
	if (bdev_write(t->below, addr, buf, blocks))
		abort();
	free(buf);
}

/* ---- operations ---- */

static int test_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	struct testdev *t = test_of(dev);
	struct iovec iov = { .iov_base = buf, .iov_len = (size_t)blocks << BLOCK_SHIFT };
	enum effect effect;
	uint64_t id = 0;
	int err;

	if (op == BIO_READ) {
		err = decide(t, SIMDEV_READ, &effect);
		return err ? err : bdev_read(t->below, addr, buf, blocks);
	}
	id = trace_write(t, addr, &iov, 1);
	err = decide(t, SIMDEV_WRITE, &effect);
	if (err)
		leave(t, effect, addr, &iov, 1);
	else
		err = bdev_write(t->below, addr, buf, blocks);
	trace_end(t, SIMTRACE_WRITE_END, id, err);
	return err;
}

static void shadow_done(struct bio *bio)
{
	struct shadow *s = bio->arg;
	struct bio *orig = s->orig;
	int err = bio->err;

	if (bio->op == BIO_WRITE)
		trace_end(s->t, SIMTRACE_WRITE_END, s->id, err);
	free(s);
	bio_complete(orig, err);
}

/* Whether it was refused. */
static bool submit_one(struct testdev *t, struct bio *orig)
{
	bool is_write = orig->op == BIO_WRITE;
	enum effect effect;
	struct shadow *s;
	struct bio *bio;
	uint64_t id = 0;
	int err;

	if (is_write)
		id = trace_write(t, orig->addr, orig->iov, orig->iovcnt);
	err = decide(t, is_write ? SIMDEV_WRITE : SIMDEV_READ, &effect);
	if (err) {
		if (is_write) {
			leave(t, effect, orig->addr, orig->iov, orig->iovcnt);
			trace_end(t, SIMTRACE_WRITE_END, id, err);
		}
		bio_complete(orig, err);
		return true;
	}
	s = must(__real_calloc(1, sizeof(*s)));
	*s = (struct shadow){ .t = t, .orig = orig, .id = id };
	s->bio = (struct bio){ .op = orig->op,
			       .addr = orig->addr,
			       .iov = orig->iov,
			       .iovcnt = orig->iovcnt,
			       .group = &t->group,
			       .done = shadow_done,
			       .arg = s };
	bio = &s->bio;
	bdev_submit(t->below, &bio, 1);
	return false;
}

static void test_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	struct testdev *t = test_of(dev);
	bool refused = false;

	for (unsigned i = 0; i < n; i++)
		refused |= submit_one(t, bios[i]);
	if (refused)
		bdev_poll(t->below);
}

static void test_wait(struct bdev *dev, struct bio_group *g)
{
	struct bdev *below = test_of(dev)->below;

	/* Not bdev_wait: the error is for who waits for us. */
	below->ops->wait(below, g);
}

static void test_poll(struct bdev *dev)
{
	bdev_poll(test_of(dev)->below);
}

static int test_flush(struct bdev *dev)
{
	struct testdev *t = test_of(dev);
	uint64_t id = trace(t, (struct simtrace_record){ .kind = SIMTRACE_FLUSH }, NULL, 0);
	enum effect effect;
	int err = decide(t, SIMDEV_FLUSH, &effect);

	if (!err)
		err = bdev_flush(t->below);
	trace_end(t, SIMTRACE_FLUSH_END, id, err);
	return err;
}

static int test_discard(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	struct testdev *t = test_of(dev);
	uint64_t id =
		trace(t, (struct simtrace_record){ .kind = SIMTRACE_DISCARD, .addr = addr, .blocks = blocks }, NULL, 0);
	enum effect effect;
	int err = decide(t, SIMDEV_DISCARD, &effect);

	if (!err)
		err = bdev_discard(t->below, addr, blocks);
	trace_end(t, SIMTRACE_DISCARD_END, id, err);
	return err;
}

static int test_resize(struct bdev *dev)
{
	struct bdev *below = test_of(dev)->below;
	int err = bdev_resize(below);

	if (!err)
		__atomic_store_n(&dev->geo.blocks, __atomic_load_n(&below->geo.blocks, __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
	return err;
}

static void test_close(struct bdev *dev)
{
	struct testdev *t = test_of(dev);

	if (t->listener >= 0) {
		pthread_cancel(t->thread);
		pthread_join(t->thread, NULL);
		close(t->listener);
	}
	bdev_close(t->below);
	if (t->trace >= 0)
		close(t->trace);
	free(t);
}

static const struct bdev_ops test_ops = {
	.submit = test_submit,
	.wait = test_wait,
	.poll = test_poll,
	.rw = test_rw,
	.flush = test_flush,
	.discard = test_discard,
	.resize = test_resize,
	.close = test_close,
};

/* ---- commands ---- */

static int find(const char *const *names, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

static bool add_rule(struct testdev *t, const char *args)
{
	static const char *const errno_name[] = { "EIO", "ENOSPC", "ETIMEDOUT" };
	static const int errno_value[] = { -EIO, -ENOSPC, -ETIMEDOUT };
	static const char *const effect_name[] = { "none", "torn", "done" };
	char kind[16], error[16], effect[16];
	unsigned long n, times;
	int k, e, f;
	bool fits;

	if (sscanf(args, "%15s %lu %15s %lu %15s", kind, &n, error, &times, effect) != 5 || n == 0)
		return false;
	k = find(kind_name, SIMDEV_OPS, kind);
	e = find(errno_name, 3, error);
	f = find(effect_name, 3, effect);
	if (k < 0 || e < 0 || f < 0)
		return false;
	pthread_mutex_lock(&t->lock);
	fits = t->rules < RULES;
	if (fits)
		t->rule[t->rules++] = (struct rule){ .kind = (enum simdev_op)k,
						     .skip = n - 1,
						     .times = times,
						     .for_ever = times == 0,
						     .err = errno_value[e],
						     .effect = (enum effect)f };
	pthread_mutex_unlock(&t->lock);
	return fits;
}

static bool set_delay(struct testdev *t, const char *args)
{
	char kind[16];
	unsigned ms;
	int k;

	if (sscanf(args, "%15s %u", kind, &ms) != 2)
		return false;
	k = find(kind_name, SIMDEV_OPS, kind);
	if (k < 0)
		return false;
	pthread_mutex_lock(&t->lock);
	t->delay_ms[k] = ms;
	pthread_mutex_unlock(&t->lock);
	return true;
}

static bool set_memory(const char *args)
{
	unsigned long n, times;

	if (sscanf(args, "%lu %lu", &n, &times) != 2 || times > 1)
		return false;
	failmem_arm(n, times ? FAILMEM_ONCE : FAILMEM_FROM_THEN_ON);
	return true;
}

static void clear(struct testdev *t)
{
	failmem_arm(0, FAILMEM_ONCE);
	pthread_mutex_lock(&t->lock);
	t->rules = 0;
	memset(t->delay_ms, 0, sizeof(t->delay_ms));
	pthread_mutex_unlock(&t->lock);
}

static void counts(struct testdev *t, char *answer, size_t size)
{
	int n = snprintf(answer, size, "ok");

	pthread_mutex_lock(&t->lock);
	for (unsigned k = 0; k < SIMDEV_OPS; k++)
		n += snprintf(answer + n, size - (size_t)n, " %s %" PRIu64 " failed-%s %" PRIu64, kind_name[k],
			      t->count[k], kind_name[k], t->failed[k]);
	pthread_mutex_unlock(&t->lock);
	snprintf(answer + n, size - (size_t)n, " memory %" PRIu64 " failed-memory %" PRIu64, failmem_count(),
		 failmem_failed());
}

static void obey(struct testdev *t, const char *line, char *answer, size_t size)
{
	bool ok = true;

	while (*line == ' ')
		line++;
	snprintf(answer, size, "ok");
	if (strncmp(line, "fail ", 5) == 0)
		ok = add_rule(t, line + 5);
	else if (strncmp(line, "delay ", 6) == 0)
		ok = set_delay(t, line + 6);
	else if (strncmp(line, "memory ", 7) == 0)
		ok = set_memory(line + 7);
	else if (strcmp(line, "clear") == 0)
		clear(t);
	else if (strcmp(line, "counts") == 0)
		counts(t, answer, size);
	else
		ok = false;
	if (!ok)
		snprintf(answer, size, "error: no such command: %s", line);
}

/* One client at a time, one command a connection. */
static void *commands_main(void *arg)
{
	struct testdev *t = arg;

	for (;;) {
		char line[256], answer[512];
		int fd = accept(t->listener, NULL, NULL);
		ssize_t n;

		if (fd < 0)
			continue;
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		n = read(fd, line, sizeof(line) - 1);
		if (n > 0) {
			line[n] = '\0';
			line[strcspn(line, "\n")] = '\0';
			obey(t, line, answer, sizeof(answer));
			dprintf(fd, "%s\n", answer);
		}
		close(fd);
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	}
	return NULL;
}

static int listen_at(struct testdev *t, const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(at.sun_path))
		return -ENAMETOOLONG;
	memcpy(at.sun_path, path, strlen(path));
	unlink(path);
	t->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (t->listener < 0 || bind(t->listener, (struct sockaddr *)&at, sizeof(at)) || listen(t->listener, 8) ||
	    pthread_create(&t->thread, NULL, commands_main, t)) {
		perror(path);
		abort();
	}
	return 0;
}

/* Where the daemon dies: offsets in the program, for addr2line -e. */
static void on_death(int sig)
{
	void *frame[64];

	backtrace_symbols_fd(frame, backtrace(frame, 64), STDERR_FILENO);
	raise(sig);
}

static void tell_of_death(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL };
	const struct sigaction sa = { .sa_handler = on_death, .sa_flags = (int)SA_RESETHAND | SA_NODEFER };
	void *frame;

	/* The first call loads a library. */
	backtrace(&frame, 1);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &sa, NULL);
}

static void obey_all(struct testdev *t, const char *list)
{
	while (*list) {
		size_t n = strcspn(list, ";");
		char line[256], answer[512];

		snprintf(line, sizeof(line), "%.*s", (int)n, list);
		obey(t, line, answer, sizeof(answer));
		if (strncmp(answer, "ok", 2) != 0)
			fprintf(stderr, "testdev: %s\n", answer);
		list += n + (list[n] == ';');
	}
}

int device_open(const char *path, const struct bdev_file_options *opt, struct bdev **ret, char **ret_holder)
{
	const char *trace_path = getenv("ARBOR_TESTDEV_TRACE"), *socket_path = getenv("ARBOR_TESTDEV_SOCKET");
	const char *first = getenv("ARBOR_TESTDEV_FIRST");
	struct testdev *t = must(__real_calloc(1, sizeof(*t)));
	int err;

	tell_of_death();
	t->trace = t->listener = -1;
	err = bdev_file_open(path, opt, &t->below, ret_holder);
	if (err) {
		free(t);
		return err;
	}
	bdev_init(&t->dev, &test_ops, t->below->name);
	t->dev.geo = t->below->geo;
	bio_group_init(&t->group);
	pthread_mutex_init(&t->trace_lock, NULL);
	pthread_mutex_init(&t->lock, NULL);
	rng_seed(&t->rng, 1);
	/* No thread of the engine runs yet. */
	failmem_start(0, FAILMEM_ONCE);
	if (first)
		obey_all(t, first);
	if (trace_path) {
		t->trace = open(trace_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (t->trace < 0) {
			perror(trace_path);
			abort();
		}
	}
	if (socket_path)
		err = listen_at(t, socket_path);
	if (err) {
		test_close(&t->dev);
		return err;
	}
	*ret = &t->dev;
	return 0;
}

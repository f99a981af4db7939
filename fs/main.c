/*
 * mount.arbor: the daemon.
 *
 *	parse -> check -> fork -> open the device -> recover -> mount -> serve -> unmount -> last checkpoint -> end
 *
 * Everything that can fail comes before the mount, and before the parent returns: it waits for the child to say that INIT has
 * been answered, so who started it has either a working mount or one line that says why not. The image's lock is held until
 * the process has ended, and a new daemon waits some seconds for one that is just ending.
 *
 * A fuseblk mount (a block device, by root) has the kernel claim the device exclusively, which would collide with a claim of
 * ours; so the device is opened with the lock that ArborFS's programs keep among themselves, while a second descriptor holds the
 * claim until right before mount(2).
 *
 * Signals: a thread of its own waits for SIGTERM and SIGINT and ends the loop; then everything goes the way of an
 * unmount. A signal before that ends the process at once, which recovery is used to.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

/* btree/err.h has levels of these names. */
#undef LOG_WARNING
#undef LOG_INFO
enum { SYSLOG_ERR = LOG_ERR, SYSLOG_WARNING = 4, SYSLOG_INFO = 6 };

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/device.h"
#include "fs/fuse_loop.h"
#include "fs/fuse_mount.h"
#include "fs/fuse_ops.h"
#include "fs/fuse_ring.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define LOCK_WAIT_MS 5000u
#define CLAIM_RETRY_MS 50u
#define CACHE_MIN ((size_t)64 << 20)
#define CACHE_MAX ((size_t)1 << 30)

struct daemon {
	struct mount_options opt;
	char source[PATH_MAX], mountpoint[PATH_MAX];
	struct mounted m;
	struct bdev *dev;
	const struct bdev_ops *dev_ops; /* the device's own */
	struct bdev_ops waiting_ops;
	struct fuse_session *session;
	bool fuseblk, ready;
	int claim;  /* a block device's second descriptor, -1: none */
	int report; /* to the parent, -1: none */
	int result; /* of the last checkpoint */
	pthread_t signals;
	_Atomic(struct loop *) serving;
	atomic_int verbose;
	atomic_bool opening;	      /* the engine's first complaint goes into one line with our own */
	char first[MOUNT_ERROR_SIZE]; /* of it */
	atomic_bool to_syslog;
};

static struct daemon the;

/* ---- messages ---- */

/* Whether the line is kept for a message of our own. */
static bool keep_first(const char *line)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	bool keep;

	pthread_mutex_lock(&lock);
	keep = atomic_load(&the.opening) && !the.first[0];
	if (keep)
		snprintf(the.first, sizeof(the.first), "%.*s", (int)sizeof(the.first) - 1, line);
	pthread_mutex_unlock(&lock);
	return keep;
}

static void sink(void *arg, enum log_level level, const char *line)
{
	static const int priority[] = {
		[LOG_ERROR] = SYSLOG_ERR,
		[LOG_WARNING] = SYSLOG_WARNING,
		[LOG_INFO] = SYSLOG_INFO,
	};

	(void)arg;
	if (level == LOG_INFO && !atomic_load(&the.verbose))
		return;
	if (level == LOG_ERROR && keep_first(line))
		return;
	if (atomic_load(&the.to_syslog))
		syslog(priority[level], "%s", line);
	else
		fprintf(stderr, "mount.arbor: %s\n", line);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	char line[2 * PATH_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	sink(NULL, LOG_ERROR, line);
}

/* Tells who waits in the foreground. */
static void report(int status)
{
	unsigned char byte = (unsigned char)status;

	if (the.report < 0)
		return;
	if (write(the.report, &byte, 1) < 0)
		say("nobody waits for the mount: %s", strerror(errno));
	close(the.report);
	the.report = -1;
}

/* ---- into the background ---- */

/* In the child it returns; the parent ends here, with the status the child reports. */
static int go_background(void)
{
	unsigned char status = MOUNT_FAILED;
	int fd[2], end = 0;
	ssize_t n;
	pid_t pid;

	if (pipe2(fd, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		close(fd[0]);
		the.report = fd[1];
		setsid();
		return 0;
	}
	close(fd[1]);
	do
		n = read(fd[0], &status, 1);
	while (n < 0 && errno == EINTR);
	if (n <= 0 && waitpid(pid, &end, 0) == pid && WIFSIGNALED(end))
		fprintf(stderr, "mount.arbor: ended by signal %d\n", WTERMSIG(end));
	exit(status);
}

static void leave_terminal(void)
{
	int fd = open("/dev/null", O_RDWR);

	openlog("mount.arbor", LOG_PID, LOG_DAEMON);
	atomic_store(&the.to_syslog, true);
	if (fd < 0)
		return;
	dup2(fd, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

/* ---- signals ---- */

static void end_signals(sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGTERM);
	sigaddset(ret, SIGINT);
}

static void *signal_main(void *arg)
{
	sigset_t set;
	int sig;

	(void)arg;
	end_signals(&set);
	for (;;) {
		struct loop *l;

		if (sigwait(&set, &sig))
			continue;
		l = atomic_load(&the.serving);
		if (!l) {
			say("ended by signal %d before the mount", sig);
			report(MOUNT_FAILED);
			_exit(MOUNT_FAILED);
		}
		loop_stop(l);
	}
}

static int watch_signals(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t set;

	sigaction(SIGHUP, &ignore, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	/* Before any thread is made: all inherit it. */
	end_signals(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return -pthread_create(&the.signals, NULL, signal_main, NULL);
}

/* ---- the device ---- */

static int waiting_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	int err;

	loop_waits();
	err = the.dev_ops->rw(dev, op, addr, buf, blocks);
	loop_waited();
	return err;
}

static void waiting_wait(struct bdev *dev, struct bio_group *g)
{
	if (!atomic_load(&g->pending)) {
		the.dev_ops->wait(dev, g);
		return;
	}
	loop_waits();
	the.dev_ops->wait(dev, g);
	loop_waited();
}

static int waiting_flush(struct bdev *dev)
{
	int err;

	loop_waits();
	err = the.dev_ops->flush(dev);
	loop_waited();
	return err;
}

/* So that a handler which has to wait for the device lets others be served. */
static void tell_loop_of_waits(void)
{
	the.dev_ops = the.dev->ops;
	the.waiting_ops = *the.dev_ops;
	the.waiting_ops.rw = waiting_rw;
	the.waiting_ops.wait = waiting_wait;
	the.waiting_ops.flush = waiting_flush;
	the.dev->ops = &the.waiting_ops;
}

/* Keeps others off a block device until the kernel does. */
static int claim_device(void)
{
	unsigned waited_ms = 0;

	for (;;) {
		the.claim = open(the.source, O_RDONLY | O_EXCL | O_CLOEXEC);
		if (the.claim >= 0)
			return 0;
		if (errno != EBUSY || waited_ms >= LOCK_WAIT_MS)
			return -errno;
		nanosleep(&(struct timespec){ .tv_nsec = CLAIM_RETRY_MS * 1000000 }, NULL);
		waited_ms += CLAIM_RETRY_MS;
	}
}

static int open_failed(int err, const char *holder)
{
	const char *path = the.source;

	switch (-err) {
	case EBUSY:
		if (holder && strncmp(holder, "mounted", 7) == 0)
			say("%s: is %s", path, holder);
		else
			say("%s: is in use by %s", path, holder ? holder : "another program");
		return MOUNT_FAILED;
	case ENOENT:
		say("%s: no such image file or block device", path);
		return MOUNT_FAILED;
	case ENOTBLK:
		say("%s: neither an image file nor a block device", path);
		return MOUNT_FAILED;
	case EACCES:
	case EPERM:
		say("%s: no permission to %s it", path, the.opt.read_only ? "read" : "write to");
		return MOUNT_USAGE;
	case EROFS:
		say("%s: cannot be written to; mount it with -o ro", path);
		return MOUNT_FAILED;
	default:
		say("%s: cannot be opened: %s", path, strerror(-err));
		return MOUNT_FAILED;
	}
}

/* 0 or an exit status. */
static int open_device(void)
{
	struct bdev_file_options o = {
		.read_only = the.opt.read_only,
		.lock_wait_ms = LOCK_WAIT_MS,
	};
	char *holder = NULL;
	struct stat st;
	int err, status;

	if (stat(the.source, &st))
		return open_failed(-errno, NULL);
	if (the.opt.fuseblk == MOUNT_ON && !S_ISBLK(st.st_mode)) {
		say("%s: is not a block device, which -o fuseblk needs", the.source);
		return MOUNT_USAGE;
	}
	/* A mount for reading has no last checkpoint to wait for, and the device may be shared. */
	the.fuseblk = S_ISBLK(st.st_mode) && geteuid() == 0 && !the.opt.read_only && the.opt.fuseblk != MOUNT_OFF;
	/* Where the claim is refused, opening without fuseblk is too, and finds out who has it. */
	o.no_claim = the.fuseblk && claim_device() == 0;
	err = device_open(the.source, &o, &the.dev, &holder);
	status = err ? open_failed(err, holder) : 0;
	mem_free(holder);
	if (!status)
		tell_loop_of_waits();
	return status;
}

/* ---- the filesystem ---- */

static size_t cache_default(void)
{
	size_t bytes = (size_t)sysconf(_SC_PHYS_PAGES) / 16 * (size_t)sysconf(_SC_PAGESIZE);

	return bytes < CACHE_MIN ? CACHE_MIN : bytes > CACHE_MAX ? CACHE_MAX : bytes;
}

static const char *fs_why(int err)
{
	switch (-err) {
	case ENODEV:
		return "not an ArborFS filesystem; mkfs.arbor makes one";
	case EPROTONOSUPPORT:
		return "made by a newer version of ArborFS";
	case ENXIO:
		return "cut off: the filesystem is larger than its device";
	case EUCLEAN:
		return "its structure is damaged; run fsck.arbor";
	case EBADMSG:
		return "a checksum does not match; run fsck.arbor";
	case EIO:
		return "the device failed";
	case EROFS:
		return "cannot be written to; mount it with -o ro";
	case ENOMEM:
		return "not enough memory; a larger cache_size= may be needed";
	default:
		return strerror(-err);
	}
}

static int open_fs(void)
{
	const struct fs_options o = {
		.store = {
			.cache_bytes = the.opt.cache_bytes ? the.opt.cache_bytes : cache_default(),
			.data_bytes = the.opt.buffer_bytes,
			.commit_ms = the.opt.commit_ms,
			.read_only = the.opt.read_only,
			.discard = the.opt.discard,
			.on_wait = loop_waits,
		},
		.atime = the.opt.atime,
		.nodiratime = the.opt.nodiratime,
		.acl = the.opt.acl,
		.writeback = the.opt.writeback,
	};
	char options[512];
	const char *const about[] = {
		"source",     the.source,
		"mountpoint", the.mountpoint,
		"options",    mount_options_text(&the.opt, options, sizeof(options)),
		"daemon",     "mount.arbor " ARBOR_VERSION,
		NULL,
	};
	int err;

	atomic_store(&the.opening, true);
	err = fs_mount(the.dev, &o, &the.m.fs);
	atomic_store(&the.opening, false);
	if (err) {
		bool detail = the.first[0] && err != -ENODEV;

		say("%s: %s%s%s%s", the.source, fs_why(err), detail ? " (" : "", detail ? the.first : "",
		    detail ? ")" : "");
		return MOUNT_FAILED;
	}
	if (the.first[0])
		say("%s", the.first);
	err = control_open(the.m.fs, about, &the.m.control);
	if (err) {
		say("%s", strerror(-err));
		return MOUNT_FAILED;
	}
	return 0;
}

/* The end, by whichever way it comes first: DESTROY, or the loop's end. */
static void end_fs(struct mounted *m)
{
	int err;

	if (!m->fs)
		return;
	control_close(m->control);
	m->control = NULL;
	err = fs_unmount(m->fs);
	m->fs = NULL;
	bdev_close(the.dev);
	the.dev = NULL;
	if (err) {
		the.result = err;
		say("%s: the last checkpoint failed: %s", the.source, strerror(-err));
	}
}

static int sync_fs(void *arg)
{
	struct daemon *d = arg;

	return fs_sync(d->m.fs);
}

/* ---- serving ---- */

static void mount_works(void *arg)
{
	struct daemon *d = arg;

	mount_tune(d->mountpoint, d->opt.writeback);
	err_log(LOG_INFO, "%s mounted on %s, requests through %s", d->source, d->mountpoint,
		loop_has_ring(d->m.loop) ? "io_uring" : "/dev/fuse");
	d->ready = true;
	if (d->opt.transport == MOUNT_URING && !loop_has_ring(d->m.loop)) {
		say("requests cannot come through io_uring, which transport=uring asks for");
		d->ready = false;
		loop_stop(d->m.loop);
		return;
	}
	if (!d->opt.foreground) {
		report(0);
		leave_terminal();
	}
}

/* 0 or an exit status. */
static int serve(void)
{
	const struct loop_options o = {
		.session = the.session,
		.ring = the.opt.transport != MOUNT_DEV,
		.readers = the.opt.readers,
		.threads = the.opt.threads,
		.spin_us = the.opt.spin_us,
		.sync = sync_fs,
		.ready = mount_works,
		.arg = &the,
	};
	struct loop *l;
	int err = loop_open(&o, &l);

	if (!err) {
		the.m.loop = l;
		atomic_store(&the.serving, l);
		err = loop_run(l);
	}
	if (err)
		say("%s: %s", the.mountpoint, strerror(-err));
	else if (!the.ready)
		say("%s: the mount did not come about", the.mountpoint);
	return err || !the.ready ? MOUNT_FAILED : 0;
}

static int run(void)
{
	char error[MOUNT_ERROR_SIZE];
	int status = open_device();

	if (!status)
		status = open_fs();
	if (status)
		return status;
	if (the.claim >= 0) {
		close(the.claim);
		the.claim = -1;
	}
	if (mount_session(&the.m, the.source, the.fuseblk, &the.session, error)) {
		say("%s", error);
		return geteuid() == 0 ? MOUNT_FAILED : MOUNT_USAGE;
	}
	return serve();
}

/* What run has opened, in reverse; the connection first, so that no one waits for answers. */
static void finish(void)
{
	struct loop *l = the.m.loop;

	/* It is the only other one that looks at the loop. A further signal has nothing to end. */
	pthread_cancel(the.signals);
	pthread_join(the.signals, NULL);
	/* The rings hold the connection open too. */
	the.m.loop = NULL;
	loop_close(l);
	if (the.session)
		fuse_session_unmount(the.session);
	end_fs(&the.m);
	if (the.session)
		fuse_session_destroy(the.session);
	bdev_close(the.dev);
	if (the.claim >= 0)
		close(the.claim);
}

static int check(void)
{
	char error[MOUNT_ERROR_SIZE];
	int status;

	if (the.opt.transport == MOUNT_URING && !rings_permitted()) {
		say("transport=uring: the kernel does not permit FUSE over io_uring (module parameter enable_uring of fuse)");
		return MOUNT_FAILED;
	}
	status = mount_check(&the.opt, error);
	if (status) {
		say("%s", error);
		return status;
	}
	if (!realpath(the.opt.source, the.source)) {
		snprintf(the.source, sizeof(the.source), "%s", the.opt.source);
		return open_failed(-errno, NULL);
	}
	if (!realpath(the.opt.mountpoint, the.mountpoint)) {
		say("%s: %s", the.opt.mountpoint, strerror(errno));
		return MOUNT_FAILED;
	}
	the.opt.source = the.source;
	the.opt.mountpoint = the.mountpoint;
	return 0;
}

int main(int argc, char **argv)
{
	char error[MOUNT_ERROR_SIZE];
	int err, status;

	the.claim = the.report = -1;
	the.m.opt = &the.opt;
	the.m.end = end_fs;
	err_set_sink(sink, NULL);
	if (mount_options_parse(argc, argv, &the.opt, error)) {
		say("%s", error);
		return MOUNT_USAGE;
	}
	if (the.opt.help || the.opt.version) {
		fputs(the.opt.help ? mount_usage : "mount.arbor " ARBOR_VERSION "\n", stdout);
		return 0;
	}
	atomic_store(&the.verbose, the.opt.verbose);
	status = check();
	if (status)
		return status;
	umask(0);
	err = the.opt.foreground ? 0 : go_background();
	if (!err)
		err = watch_signals();
	if (err) {
		say("%s", strerror(-err));
		report(MOUNT_FAILED);
		return MOUNT_FAILED;
	}
	if (chdir("/"))
		err_log(LOG_INFO, "chdir: %s", strerror(errno));
	/* The kernel must not come back to us for memory while we serve it. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);

	status = run();
	finish();
	report(status);
	return status ? status : the.result ? MOUNT_FAILED : 0;
}

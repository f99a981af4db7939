/*
 * orphan.c - see orphan.h
 *
 * Everything here follows one pattern: an item says what is to be done, then it is done in batches that are each right by
 * themselves, and the last one takes the item away. So there is nothing to undo after a crash, and doing a step twice does no
 * harm. What the batches leave in between:
 *
 *	unlinked	the inode with nlink 0, its item, and fewer and fewer extents and attributes (always whole ones);
 *			inode.blocks is right at each step. The last batch deletes what is left, inode and item included.
 *	range		the inode with its new size, the item with what has not been done yet, inode.blocks right.
 *
 * In memory are a queue of nodes that wait for the reaper, and the ranges that are pending. A range is in the table from before
 * the batch that makes its item until after the one that deletes it; whoever could look in between does not have the inode's
 * lock. So a removal that fails half-way needs no memory to be remembered.
 *
 * Who deletes. When the last name goes, lookups_mark says whether somebody refers to the inode: if so, its last fs_forget comes
 * to orphan_unreferenced, else the caller does. Both only mean "look": the decision is made under the inode's lock, because a
 * file made by O_TMPFILE may have got a name, and by lookups_mark again, because a lookup that lost the race against unlink may
 * hold it for a moment. A small file goes right there; of a large one only the first step, the rest is the reaper's.
 *
 * A failure (no space left for the nodes that deleting changes, a node that cannot be read) sets the node aside; the reaper
 * rests before it tries those again, and goes on with others. fs_reap tries at once: op_retry calls it when room has run out.
 *
 * Steps are bounded in items, by counting them in front; a file that has no more blocks than a step has items needs no counting.
 */
#include "fs/orphan.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "fs/fs_int.h"

/* After a failure; doubled by each that follows, because what is damaged stays so, and each try says it again. */
#define REST_SECONDS 5
#define REST_SECONDS_MAX 3600

struct range {
	uint64_t ino, from, to;
};

struct orphans {
	pthread_mutex_t lock; /* guards what follows, but for the atomics and the thread's handle */
	pthread_cond_t wake;  /* there is something in the queue, or the end has come */
	pthread_cond_t idle;  /* busy has become 0 */
	uint64_t *queue;      /* nodes, [head, n) */
	size_t head, n, cap;
	uint64_t *failed; /* nodes to be tried again, but not at once */
	size_t n_failed, cap_failed;
	unsigned busy; /* nodes being worked on */
	struct range *ranges;
	size_t n_ranges, cap_ranges;
	_Atomic size_t pending; /* n_ranges */
	_Atomic bool stop;
	bool threaded;
	pthread_t thread;
};

static struct key orphan_key(uint64_t ino, enum fs_orphan_kind kind)
{
	return key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, ino << 1 | kind);
}

static int put_item(struct batch *b, uint64_t ino, enum fs_orphan_kind kind, uint64_t from, uint64_t to)
{
	struct disk_orphan d = { .from = le64_put(from), .to = le64_put(to) };

	return batch_put(b, orphan_key(ino, kind), &d, sizeof(d));
}

int orphan_add(struct op *op, uint64_t ino)
{
	return put_item(op->batch, ino, FS_ORPHAN_UNLINKED, 0, 0);
}

int orphan_remove(struct op *op, uint64_t ino)
{
	return batch_del(op->batch, orphan_key(ino, FS_ORPHAN_UNLINKED));
}

/* ---- the queue ---- */

/* Without memory it waits for the next mount. */
static void queue_push(struct orphans *o, uint64_t node)
{
	pthread_mutex_lock(&o->lock);
	if (o->head && o->n == o->cap) {
		memmove(o->queue, o->queue + o->head, (o->n - o->head) * sizeof(*o->queue));
		o->n -= o->head;
		o->head = 0;
	}
	if (!mem_grow((void **)&o->queue, &o->cap, o->n + 1, sizeof(*o->queue))) {
		o->queue[o->n++] = node;
		pthread_cond_signal(&o->wake);
	}
	pthread_mutex_unlock(&o->lock);
}

/* Those that wait in the queue must not wait for it. */
static void queue_failed(struct orphans *o, uint64_t node)
{
	pthread_mutex_lock(&o->lock);
	if (!mem_grow((void **)&o->failed, &o->cap_failed, o->n_failed + 1, sizeof(*o->failed)))
		o->failed[o->n_failed++] = node;
	pthread_mutex_unlock(&o->lock);
}

static void queue_again(struct orphans *o)
{
	for (;;) {
		uint64_t node = 0;

		pthread_mutex_lock(&o->lock);
		if (o->n_failed)
			node = o->failed[--o->n_failed];
		pthread_mutex_unlock(&o->lock);
		if (!node)
			return;
		queue_push(o, node);
	}
}

static bool queue_pop(struct orphans *o, uint64_t *ret)
{
	bool some;

	pthread_mutex_lock(&o->lock);
	some = o->head < o->n;
	if (some) {
		*ret = o->queue[o->head++];
		o->busy++;
	}
	if (o->head == o->n)
		o->head = o->n = 0;
	pthread_mutex_unlock(&o->lock);
	return some;
}

static void queue_done(struct orphans *o)
{
	pthread_mutex_lock(&o->lock);
	if (!--o->busy)
		pthread_cond_broadcast(&o->idle);
	pthread_mutex_unlock(&o->lock);
}

bool orphans_waiting(struct fs *fs)
{
	struct orphans *o = fs->orphans;
	bool some;

	pthread_mutex_lock(&o->lock);
	some = o->head < o->n || o->n_failed || o->busy;
	pthread_mutex_unlock(&o->lock);
	return some;
}

/* ---- pending ranges ---- */

static struct range *range_find_locked(struct orphans *o, uint64_t ino)
{
	for (size_t i = 0; i < o->n_ranges; i++)
		if (o->ranges[i].ino == ino)
			return &o->ranges[i];
	return NULL;
}

static int range_add(struct orphans *o, uint64_t ino, uint64_t from, uint64_t to)
{
	int err;

	pthread_mutex_lock(&o->lock);
	assert(!range_find_locked(o, ino)); /* orphan_finish comes first */
	err = mem_grow((void **)&o->ranges, &o->cap_ranges, o->n_ranges + 1, sizeof(*o->ranges));
	if (!err) {
		o->ranges[o->n_ranges++] = (struct range){ ino, from, to };
		atomic_store(&o->pending, o->n_ranges);
	}
	pthread_mutex_unlock(&o->lock);
	return err;
}

static void range_drop(struct orphans *o, uint64_t ino)
{
	struct range *r;

	if (!atomic_load(&o->pending))
		return;
	pthread_mutex_lock(&o->lock);
	r = range_find_locked(o, ino);
	if (r) {
		*r = o->ranges[--o->n_ranges];
		atomic_store(&o->pending, o->n_ranges);
	}
	pthread_mutex_unlock(&o->lock);
}

bool orphan_pending(struct fs *fs, uint64_t node, uint64_t *ret_from, uint64_t *ret_to)
{
	struct orphans *o = fs->orphans;
	struct range *r;

	if (!atomic_load(&o->pending))
		return false;
	pthread_mutex_lock(&o->lock);
	r = range_find_locked(o, node_ino(node));
	if (r) {
		*ret_from = r->from;
		*ret_to = r->to;
	}
	pthread_mutex_unlock(&o->lock);
	return r;
}

/* ---- removing a range ---- */

/* How far one batch may go from `from` on. */
static int step_end(struct op *op, const struct inode *i, uint64_t from, uint64_t to, uint64_t *ret)
{
	if (i->blocks <= ORPHAN_STEP_ITEMS) {
		*ret = to;
		return 0;
	}
	return extent_bound(op->view, i->ino, from, to, ORPHAN_STEP_ITEMS, ret);
}

/* The steps behind the first; the item says [from, to). On an error *i is what the last batch left. */
static int finish_range(struct op *op, struct inode *i, uint64_t from, uint64_t to)
{
	struct inode was = *i;
	int err = 0;

	while (!err && from < to) {
		uint64_t end = from;

		batch_releases(op->batch);
		err = step_end(op, i, from, to, &end);
		if (!err)
			err = extent_replace(op, i, from, end, NULL, 0);
		if (!err)
			err = end < to ? put_item(op->batch, i->ino, FS_ORPHAN_RANGE, end, to)
				       : batch_del(op->batch, orphan_key(i->ino, FS_ORPHAN_RANGE));
		if (!err)
			err = inode_put(op->batch, i);
		if (!err)
			err = op_commit(op);
		from = end;
		if (!err)
			was = *i;
	}
	if (err) {
		batch_cancel(op->batch);
		*i = was;
	}
	return err;
}

int orphan_replace_range(struct op *op, struct inode *i, uint64_t from, uint64_t to, const struct extent_piece *pieces,
			 size_t n)
{
	struct orphans *o = op->fs->orphans;
	uint64_t end;
	bool large;
	int err = step_end(op, i, from, to, &end);

	if (err)
		return err;
	large = end < to;
	if (large)
		err = range_add(o, i->ino, end, to);
	if (err)
		return err;
	err = extent_replace(op, i, from, end, pieces, n);
	if (!err && large)
		err = put_item(op->batch, i->ino, FS_ORPHAN_RANGE, end, to);
	if (!err)
		err = inode_put(op->batch, i);
	if (!err)
		err = op_commit(op);
	if (!large)
		return err;
	if (err) {
		range_drop(o, i->ino);
		return err;
	}
	err = finish_range(op, i, end, to);
	if (!err) {
		range_drop(o, i->ino);
		return 0;
	}
	err_log(LOG_WARNING, "inode %" PRIu64 ": not all of what was cut off could be removed, left for later: %s",
		i->ino, strerror(-err));
	queue_push(o, i->ino);
	return 0;
}

int orphan_remove_range(struct op *op, struct inode *i, uint64_t from, uint64_t to)
{
	batch_releases(op->batch);
	return orphan_replace_range(op, i, from, to, NULL, 0);
}

void orphan_forget_range(struct fs *fs, uint64_t ino)
{
	range_drop(fs->orphans, ino);
}

int orphan_finish(struct op *op, uint64_t ino)
{
	uint64_t from, to;
	struct inode i;
	int err;

	if (!orphan_pending(op->fs, ino, &from, &to))
		return 0;
	err = inode_load(op->view, ino, &i);
	if (!err)
		err = finish_range(op, &i, from, to);
	if (!err)
		range_drop(op->fs->orphans, ino);
	return err;
}

/* ---- deleting an inode ---- */

/*
 * The end of the longest front part of its attributes that one batch may delete: *ret_all says that it is all of them. An
 * attribute is never taken apart; the longest has far fewer items than a step.
 */
static int bound_xattrs(struct op *op, uint64_t ino, struct key *ret_end, bool *ret_all)
{
	struct key key, end = key_make(ino, FS_ITEM_XATTR, 0);
	struct scan *scan = NULL;
	unsigned n = 0;
	const void *val;
	size_t len;
	int err;

	err = scan_open(op->view, end, key_make(ino, FS_ITEM_XATTR + 1, 0), &scan);
	while (!err) {
		err = scan_next(scan, &key, &val, &len);
		if (!err && !(key.off & 0xff))
			end = key;
		if (!err && n++ >= ORPHAN_STEP_ITEMS)
			break;
	}
	scan_close(scan);
	if (err < 0)
		return err;
	*ret_all = err > 0;
	*ret_end = end;
	return 0;
}

/* Extents and attributes until what is left fits into one batch. *ret_done: a step was made, there is more to do. */
static int delete_some(struct op *op, struct inode *i, bool *ret_done)
{
	bool all = true;
	struct key end;
	uint64_t to;
	int err = step_end(op, i, 0, UINT64_MAX, &to);

	if (!err && to != UINT64_MAX) {
		err = extent_replace(op, i, 0, to, NULL, 0);
		if (!err)
			err = inode_put(op->batch, i);
		*ret_done = true;
		return err ? err : op_commit(op);
	}
	if (!err && i->state & FS_STATE_XATTRS)
		err = bound_xattrs(op, i->ino, &end, &all);
	*ret_done = !all;
	if (err || all)
		return err;
	err = batch_del_range(op->batch, key_make(i->ino, FS_ITEM_XATTR, 0), end);
	return err ? err : op_commit(op);
}

static int delete_rest(struct op *op, uint64_t ino)
{
	struct fs *fs = op->fs;
	uint64_t unused, freed;
	int err = batch_del_range(op->batch, key_make(ino, 0, 0), key_make(ino + 1, 0, 0));

	if (!err)
		err = batch_del(op->batch, orphan_key(ino, FS_ORPHAN_UNLINKED));
	if (!err && orphan_pending(fs, ino, &unused, &unused))
		err = batch_del(op->batch, orphan_key(ino, FS_ORPHAN_RANGE));
	if (err)
		return err;
	freed = atomic_fetch_add(&fs->inodes_freed, 1) + 1;
	err = batch_raise(op->batch, FS_COUNTER_INODES_FREED, freed);
	if (!err)
		err = op_commit(op);
	/* The number may be durable already, with another's greater one: so it is made up for, and not taken back. */
	if (err)
		atomic_fetch_add(&fs->inodes_made, 1);
	else
		range_drop(fs->orphans, ino);
	return err;
}

/* One step towards what the node waits for. *ret_more: it was not the last. */
static int reap_step(struct fs *fs, uint64_t node, bool *ret_more)
{
	uint64_t ino = node_ino(node);
	struct inode i;
	struct op op;
	int err = op_begin(fs, node, &op);

	*ret_more = false;
	if (!err) {
		op_lock(&op, &ino, 1);
		err = inode_load(op.view, ino, &i);
		if (err == -ESTALE)
			range_drop(fs->orphans, ino); /* somebody was faster */
		else if (!err && i.nlink)
			err = orphan_finish(&op, ino);
		else if (!err && !lookups_mark(fs->lookups, node)) {
			batch_releases(op.batch);
			err = delete_some(&op, &i, ret_more);
			if (!err && !*ret_more)
				err = delete_rest(&op, ino);
		}
	}
	op_end(&op);
	return err == -ESTALE ? 0 : err;
}

void orphan_unreferenced(struct fs *fs, uint64_t node)
{
	bool more;
	int err;

	if (fs->read_only)
		return;
	err = reap_step(fs, node, &more);
	if ((err && err != -EROFS) || more)
		queue_push(fs->orphans, node);
}

/* ---- the reaper ---- */

static int reap(struct fs *fs, uint64_t node)
{
	bool more = true;
	int err = 0;

	while (!err && more)
		err = atomic_load(&fs->orphans->stop) ? -EINTR : reap_step(fs, node, &more);
	return err;
}

/* Everything that is in the queue now, once; what fails is set aside. The first error. */
static int drain(struct fs *fs)
{
	struct orphans *o = fs->orphans;
	size_t left;
	uint64_t node;
	int ret = 0;

	pthread_mutex_lock(&o->lock);
	left = o->n - o->head;
	pthread_mutex_unlock(&o->lock);
	while (left-- && queue_pop(o, &node)) {
		int err = reap(fs, node);

		if (err)
			queue_failed(o, node);
		queue_done(o);
		ret = ret ? ret : err;
	}
	return ret;
}

/* Until the thread, and others like us, have done what they had taken. */
static void wait_idle(struct orphans *o)
{
	pthread_mutex_lock(&o->lock);
	while (o->busy && !atomic_load(&o->stop))
		pthread_cond_wait(&o->idle, &o->lock);
	pthread_mutex_unlock(&o->lock);
}

int fs_reap(struct fs *fs)
{
	int err;

	if (fs->read_only)
		return 0;
	queue_again(fs->orphans);
	err = drain(fs);
	wait_idle(fs->orphans);
	if (err)
		return err;
	queue_again(fs->orphans); /* what the thread could not do is ours again */
	return drain(fs);
}

/* Waits for something new, or until what failed is to be tried again; lock held. */
static bool rested_locked(struct orphans *o, const struct timespec *until)
{
	int err = 0;

	while (!atomic_load(&o->stop) && o->head == o->n && err != ETIMEDOUT)
		err = o->n_failed ? pthread_cond_timedwait(&o->wake, &o->lock, until)
				  : pthread_cond_wait(&o->wake, &o->lock);
	return err == ETIMEDOUT;
}

static void *reaper(void *arg)
{
	struct fs *fs = arg;
	struct orphans *o = fs->orphans;
	struct timespec until = { 0 };
	time_t rest = REST_SECONDS;

	while (!atomic_load(&o->stop)) {
		bool rested;

		pthread_mutex_lock(&o->lock);
		rested = rested_locked(o, &until);
		pthread_mutex_unlock(&o->lock);
		if (rested)
			queue_again(o);
		if (drain(fs)) {
			clock_gettime(CLOCK_MONOTONIC, &until);
			until.tv_sec += rest;
			rest = rest < REST_SECONDS_MAX / 2 ? 2 * rest : REST_SECONDS_MAX;
		} else if (rested) {
			rest = REST_SECONDS;
		}
	}
	return NULL;
}

/* ---- beginning and end ---- */

/* What a crash left: ranges into the table, all of it into the queue. */
static int find_all(struct fs *fs)
{
	struct orphans *o = fs->orphans;
	const struct disk_orphan *d;
	struct scan *scan;
	struct key key;
	size_t len;
	int err = scan_open(store_live(fs->store), key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, 0),
			    key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, UINT64_MAX), &scan);

	if (err)
		return err;
	while (!err) {
		err = scan_next(scan, &key, (const void **)&d, &len);
		if (err)
			break;
		if ((key.off & 1) == FS_ORPHAN_RANGE)
			err = range_add(o, key.off >> 1, le64_get(d->from), le64_get(d->to));
		if (!err)
			queue_push(o, key.off >> 1);
	}
	scan_close(scan);
	return err < 0 ? err : 0;
}

static void release(struct orphans *o)
{
	pthread_cond_destroy(&o->idle);
	pthread_cond_destroy(&o->wake);
	pthread_mutex_destroy(&o->lock);
	mem_free(o->queue);
	mem_free(o->failed);
	mem_free(o->ranges);
	mem_free(o);
}

int orphans_open(struct fs *fs)
{
	struct orphans *o = mem_zalloc(sizeof(*o));
	pthread_condattr_t attr;
	int err;

	if (!o)
		return -ENOMEM;
	pthread_mutex_init(&o->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&o->wake, &attr);
	pthread_condattr_destroy(&attr);
	pthread_cond_init(&o->idle, NULL);
	fs->orphans = o;
	err = find_all(fs);
	if (!err && !fs->read_only && !fs->opt.no_threads && !fs->opt.repair) {
		err = -pthread_create(&o->thread, NULL, reaper, fs);
		o->threaded = !err;
	}
	if (err) {
		fs->orphans = NULL;
		release(o);
		return err;
	}
	if (!fs->read_only && fs->opt.no_threads && !fs->opt.repair)
		(void)drain(fs); /* what fails waits for fs_reap */
	return 0;
}

void orphans_close(struct fs *fs)
{
	struct orphans *o = fs->orphans;

	if (!o)
		return;
	pthread_mutex_lock(&o->lock);
	atomic_store(&o->stop, true);
	pthread_cond_broadcast(&o->wake);
	pthread_mutex_unlock(&o->lock);
	if (o->threaded)
		pthread_join(o->thread, NULL);
	fs->orphans = NULL;
	release(o);
}

/*
 * store.c - making, opening and closing a store; its state; its background threads
 *
 * Two threads: one makes checkpoints when asked, one ticks the log every commit interval (contract C). Everything else
 * is done by the threads that call. With `manual` there are none, and whoever would wait for one does its work: every run
 * is then a function of its inputs, which the crash tests need.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* splitmix64 (S. Vigna) over the seed, or the system's generator. */
static uint64_t random_next(uint64_t *state)
{
	uint64_t z;

	if (!*state) {
		if (getrandom(&z, sizeof(z), 0) != (ssize_t)sizeof(z))
			z = clock_ns();
		return z;
	}
	z = (*state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint64_t store_random(struct store *s)
{
	return random_next(&s->seed_state);
}

uint64_t store_next_gen(struct store *s)
{
	return atomic_fetch_add(&s->next_gen, 1);
}

/* ---- failure is sticky ---- */

int store_failed(struct store *s)
{
	return atomic_load_explicit(&s->error, memory_order_relaxed) ? -EROFS : 0;
}

void store_fail(struct store *s, int err, const char *what)
{
	int none = 0;

	if (!err || !atomic_compare_exchange_strong(&s->error, &none, err))
		return;
	pthread_mutex_lock(&s->bg_lock);
	snprintf(s->error_text, sizeof(s->error_text), "%s: %s", what, strerror(-err));
	pthread_mutex_unlock(&s->bg_lock);
	err_log(LOG_ERROR, "%s failed (%s): the filesystem is read-only from now on; what was acknowledged before is safe",
		what, strerror(-err));
	if (s->log)
		log_kill(s->log, err);
}

static void data_failed(void *arg, int err)
{
	store_fail(arg, err, "writing data");
}

static void log_failed(void *arg, int err)
{
	struct store *s = arg;
	int none = 0;

	/* Called with the log's lock held: no way back into the log from here. */
	if (!atomic_compare_exchange_strong(&s->error, &none, err))
		return;
	pthread_mutex_lock(&s->bg_lock);
	snprintf(s->error_text, sizeof(s->error_text), "writing the log: %s", strerror(-err));
	pthread_mutex_unlock(&s->bg_lock);
	err_log(LOG_ERROR, "writing the log failed (%s): the filesystem is read-only from now on", strerror(-err));
}

/* ---- mkfs ---- */

static int write_zeros(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	enum { CHUNK = 256 };
	void *buf = mem_alloc_blocks((size_t)CHUNK * BLOCK_SIZE);
	int err = 0;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, (size_t)CHUNK * BLOCK_SIZE);
	for (uint64_t done = 0; !err && done < blocks;) {
		uint32_t n = blocks - done < CHUNK ? (uint32_t)(blocks - done) : CHUNK;

		err = bdev_write(dev, addr + done, buf, n);
		done += n;
	}
	mem_free(buf);
	return err;
}

static_assert(LOG_BLOCKS_MIN == SUPER_LOG_BLOCKS_MIN, "what mkfs makes can be read");

/* The log gets 1/16 of a small device and at most 64 MiB: three checkpoints' worth of records, quickly scanned. */
uint64_t store_log_default(uint64_t blocks)
{
	uint64_t n = blocks / 16;

	if (n < LOG_BLOCKS_MIN)
		n = LOG_BLOCKS_MIN;
	return n > 16384 ? 16384 : n;
}

int store_mkfs(struct bdev *dev, const struct store_mkfs_options *opt)
{
	static const uint8_t no_uuid[16];
	uint64_t blocks = opt->blocks ? opt->blocks : dev->geo.blocks, start = space_log_start_min(), seed = opt->seed;
	struct space_geometry geo;
	struct super s = {
		.node_size = opt->node_size ? opt->node_size : 16384,
		.serial = 1,
		.incompat = opt->copies ? SUPER_INCOMPAT_COPIES : 0,
		.blocks = blocks,
		.log_start = start,
		.log_blocks = opt->log_blocks ? opt->log_blocks : store_log_default(blocks),
		.log_seq = 1,
		.log_lsn = 1,
		.flags = SUPER_CLEAN,
		.created = opt->now_ns ? opt->now_ns : clock_ns(),
	};
	int err;

	if (blocks > dev->geo.blocks) {
		err_log(LOG_ERROR, "mkfs: %" PRIu64 " blocks were asked for, the device has %" PRIu64, blocks, dev->geo.blocks);
		return -EINVAL;
	}
	if (s.node_size < NODE_SIZE_MIN || s.node_size > NODE_SIZE_MAX || s.node_size & (s.node_size - 1)) {
		err_log(LOG_ERROR, "mkfs: a node has 4096, 8192, 16384 or 32768 bytes, not %" PRIu32, s.node_size);
		return -EINVAL;
	}
	if (s.log_blocks < LOG_BLOCKS_MIN || s.log_blocks > SPACE_GROUP_BLOCKS - start) {
		err_log(LOG_ERROR, "mkfs: the log has %u to %" PRIu64 " blocks, not %" PRIu64, LOG_BLOCKS_MIN,
			SPACE_GROUP_BLOCKS - start, s.log_blocks);
		return -EINVAL;
	}
	geo = (struct space_geometry){ blocks, start, s.log_blocks };
	if (blocks < STORE_BLOCKS_MIN || start + s.log_blocks > blocks / 2 ||
	    space_blocks_usable(&geo) * BLOCK_SIZE < 64ull * s.node_size * (opt->copies ? 2 : 1)) {
		err_log(LOG_ERROR, "mkfs: a device of %" PRIu64 " blocks of 4 KiB is too small for nodes of %" PRIu32
			" bytes and a log of %" PRIu64 " blocks", blocks, s.node_size, s.log_blocks);
		return -ENOSPC;
	}
	if (opt->label) {
		if (strlen(opt->label) > SUPER_LABEL_MAX) {
			err_log(LOG_ERROR, "mkfs: a label has at most %u bytes, not %zu", SUPER_LABEL_MAX, strlen(opt->label));
			return -EINVAL;
		}
		memcpy(s.label, opt->label, strlen(opt->label));
	}
	memcpy(s.uuid, opt->uuid, sizeof(s.uuid));
	for (unsigned i = 0; i < 2; i++) {
		uint64_t r = random_next(&seed);

		if (!memcmp(opt->uuid, no_uuid, sizeof(no_uuid)))
			memcpy(s.uuid + 8 * i, &r, sizeof(r));
		r = random_next(&seed);
		memcpy(s.secret + 8 * i, &r, sizeof(r));
	}
	if (!memcmp(opt->uuid, no_uuid, sizeof(no_uuid))) {
		s.uuid[6] = (uint8_t)((s.uuid[6] & 0x0f) | 0x40); /* RFC 9562: version 4, random */
		s.uuid[8] = (uint8_t)((s.uuid[8] & 0x3f) | 0x80);
	}
	s.log_epoch = random_next(&seed);

	/* Whatever was there must not look like ours, should this be cut short: superblocks go first and come last. */
	err = write_zeros(dev, SUPER_SLOT0, 1);
	if (!err)
		err = write_zeros(dev, SUPER_SLOT1, 1);
	if (!err)
		err = bdev_flush(dev);
	if (!err && !opt->lazy_log)
		err = write_zeros(dev, start, s.log_blocks);
	if (!err)
		err = bdev_flush(dev);
	if (!err)
		err = super_write(dev, 1, &s);
	s.serial++;
	if (!err)
		err = super_write(dev, 0, &s);
	if (!err)
		err = bdev_flush(dev);
	if (err)
		err_log(LOG_ERROR, "mkfs: writing %s: %s", dev->name, strerror(-err));
	return err;
}

/* ---- background ---- */

static void *checkpoint_thread(void *arg)
{
	struct store *s = arg;

	pthread_mutex_lock(&s->bg_lock);
	while (!s->bg_stop) {
		uint64_t n;
		int err;

		if (s->ckpt_wanted <= s->ckpt_done) {
			pthread_cond_wait(&s->bg_wake, &s->bg_lock);
			continue;
		}
		n = ++s->ckpt_begun;
		pthread_mutex_unlock(&s->bg_lock);
		err = checkpoint_run(s, 0, NULL, NULL);
		pthread_mutex_lock(&s->bg_lock);
		s->ckpt_done = n;
		s->ckpt_err = err;
		pthread_cond_broadcast(&s->bg_done);
	}
	pthread_mutex_unlock(&s->bg_lock);
	return NULL;
}

static void *tick_thread(void *arg)
{
	struct store *s = arg;
	struct timespec until;

	pthread_mutex_lock(&s->bg_lock);
	while (!s->bg_stop) {
		uint64_t at = clock_ns() + (uint64_t)s->opt.commit_ms * 1000000u;

		until = (struct timespec){ (time_t)(at / 1000000000u), (long)(at % 1000000000u) };
		if (!s->tick_wanted && pthread_cond_timedwait(&s->bg_tick_wake, &s->bg_lock, &until) != ETIMEDOUT &&
		    !s->tick_wanted)
			continue;
		s->tick_wanted = false;
		pthread_mutex_unlock(&s->bg_lock);
		(void)store_tick(s);
		pthread_mutex_lock(&s->bg_lock);
	}
	pthread_mutex_unlock(&s->bg_lock);
	return NULL;
}

static int bg_start(struct store *s)
{
	int err;

	if (s->opt.manual || s->opt.read_only)
		return 0;
	err = pthread_create(&s->bg_checkpoint, NULL, checkpoint_thread, s);
	if (err)
		return -err;
	err = pthread_create(&s->bg_tick, NULL, tick_thread, s);
	if (err) {
		pthread_mutex_lock(&s->bg_lock);
		s->bg_stop = true;
		pthread_cond_broadcast(&s->bg_wake);
		pthread_mutex_unlock(&s->bg_lock);
		pthread_join(s->bg_checkpoint, NULL);
		return -err;
	}
	s->bg_running = true;
	return 0;
}

static void bg_end(struct store *s)
{
	if (!s->bg_running)
		return;
	pthread_mutex_lock(&s->bg_lock);
	s->bg_stop = true;
	pthread_cond_broadcast(&s->bg_wake);
	pthread_cond_broadcast(&s->bg_tick_wake);
	pthread_mutex_unlock(&s->bg_lock);
	pthread_join(s->bg_checkpoint, NULL);
	pthread_join(s->bg_tick, NULL);
	s->bg_running = false;
}

void tick_request(struct store *s)
{
	if (!s->bg_running)
		return;
	pthread_mutex_lock(&s->bg_lock);
	if (!s->tick_wanted)
		pthread_cond_signal(&s->bg_tick_wake);
	s->tick_wanted = true;
	pthread_mutex_unlock(&s->bg_lock);
}

void checkpoint_request(struct store *s)
{
	if (!s->bg_running) {
		if (!s->opt.read_only && !checkpoint_mine())
			(void)checkpoint_run(s, 0, NULL, NULL);
		return;
	}
	pthread_mutex_lock(&s->bg_lock);
	if (s->ckpt_wanted <= s->ckpt_begun) {
		s->ckpt_wanted = s->ckpt_begun + 1;
		pthread_cond_signal(&s->bg_wake);
	}
	pthread_mutex_unlock(&s->bg_lock);
}

int checkpoint_wait(struct store *s)
{
	uint64_t want;
	int err;

	if (checkpoint_mine())
		return -EBUSY; /* it would wait for itself */
	if (!s->bg_running)
		return checkpoint_run(s, 0, NULL, NULL);
	if (s->opt.on_wait)
		s->opt.on_wait();
	pthread_mutex_lock(&s->bg_lock);
	want = s->ckpt_begun + 1;
	if (s->ckpt_wanted < want) {
		s->ckpt_wanted = want;
		pthread_cond_signal(&s->bg_wake);
	}
	while (s->ckpt_done < want && !s->bg_stop)
		pthread_cond_wait(&s->bg_done, &s->bg_lock);
	err = s->ckpt_err;
	pthread_mutex_unlock(&s->bg_lock);
	return err;
}

/* ---- opening and closing ---- */

static void store_free(struct store *s)
{
	if (!s)
		return;
	bg_end(s);
	log_close(s->log);
	if (s->data)
		data_close(s->data);
	readahead_close(s->readahead);
	for (struct event *e; (e = RB_MIN(event_set, &s->pinned));) {
		RB_REMOVE(event_set, &s->pinned, e);
		if (e->ripe) /* the others stand on a list */
			mem_free(e);
	}
	events_free(&s->events);
	events_free(&s->checkpoint.staged);
	events_free(&s->limbo_old);
	events_free(&s->limbo_new);
	events_free(&s->private);
	for (struct event *e; (e = RB_MIN(event_set, &s->dead));) {
		RB_REMOVE(event_set, &s->dead, e);
		mem_free(e);
	}
	supply_close(s);
	cache_close(s->cache);
	space_close(s->space);
	epoch_close(s->epoch);
	epoch_close(s->reading);
	view_destroy(&s->live);
	pthread_mutex_destroy(&s->views_lock);
	pthread_mutex_destroy(&s->checkpoint.lock);
	pthread_mutex_destroy(&s->limbo_lock);
	pthread_mutex_destroy(&s->snapshot_lock);
	pthread_mutex_destroy(&s->bg_lock);
	pthread_cond_destroy(&s->bg_wake);
	pthread_cond_destroy(&s->bg_tick_wake);
	pthread_cond_destroy(&s->bg_done);
	mem_free(s);
}

int store_cache_open(struct store *s, size_t bytes)
{
	struct cache_options co = {
		.bdev = s->bdev,
		.epoch = s->epoch,
		.node_size = s->super.node_size,
		.bytes = bytes,
		.records = { [TREE_FILES] = &s->files_table, [TREE_SYSTEM] = &system_records },
		.mend = !s->opt.read_only,
	};
	struct cache *new;
	int err = cache_open(&co, &new);

	if (err)
		return err;
	cache_close(s->cache);
	s->cache = s->live.tree.cache = s->system.cache = new;
	return 0;
}

static int open_parts(struct store *s)
{
	struct space_geometry geo = { s->super.blocks, s->super.log_start, s->super.log_blocks };
	bool copies = s->super.incompat & SUPER_INCOMPAT_COPIES;
	int err;

	err = epoch_open(&s->epoch);
	if (!err)
		err = epoch_open(&s->reading);
	if (err)
		return err;
	err = store_cache_open(s, s->opt.cache_bytes);
	if (!err)
		err = space_open(s->bdev, &geo, &s->super.space, 0, &s->space);
	if (!err)
		/* Read-only, riding blocks stay in memory, however many the log holds: nothing may be written. */
		err = data_open(s->bdev, s->opt.read_only ? SIZE_MAX / 2 : s->opt.data_bytes, data_failed, s, &s->data);
	if (!err)
		err = readahead_open(s->bdev, &s->readahead);
	if (err)
		return err;
	tree_init(&s->live.tree, s->cache, TREE_FILES, s->super.files, 0, copies);
	tree_init(&s->system, s->cache, TREE_SYSTEM, s->super.system, 0, copies);
	atomic_store(&s->claims, (int64_t)s->super.claims);
	memcpy(s->counter, s->super.counter, sizeof(s->counter));
	s->batch_max = s->super.batch_max;
	s->frozen_gen = s->super.gen;
	err = snapshot_load(s);
	return err ? err : view_find_shared(&s->live);
}

#define SPACE_SMALL_GROUPS 64u /* 8 GiB */

/* On a small device a group is a good part of it, and reading all nodes takes a moment. */
static int look_at_space(struct store *s)
{
	int err;

	if (s->rebuild_space || s->opt.read_only || space_groups(s->space) > SPACE_SMALL_GROUPS)
		return 0;
	err = space_load(s->space);
	s->rebuild_space = !err && space_is_damaged(s->space);
	return err;
}

static int start_log(struct store *s)
{
	struct log_options lo = {
		.bdev = s->bdev,
		.data = s->data,
		.start = s->super.log_start,
		.blocks = s->super.log_blocks,
		.epoch = s->super.log_epoch,
		.pos = { s->super.log_block, s->super.log_seq, s->super.log_lsn },
		.ride_max = s->opt.ride_max,
		.failed = log_failed,
		.arg = s,
	};

	return log_open(&lo, &s->log);
}

/* *ret_damaged: there is not enough room, and a part of the space map cannot be read, so there may be some. */
static int try_open(struct bdev *dev, const struct store_options *opt, bool rebuild_space, struct store **ret,
		    bool *ret_damaged)
{
	struct store *s;
	bool other_ok;
	int err;

	s = mem_zalloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->bdev = dev;
	s->opt = *opt;
	s->seed_state = opt->seed;
	if (!s->opt.cache_bytes)
		s->opt.cache_bytes = 64u << 20;
	if (!s->opt.commit_ms)
		s->opt.commit_ms = 1000;
	s->opt.read_only |= dev->geo.read_only;
	s->files_table = *opt->records;
	s->files_table.row[RECORD_SHARED] = shared_row;
	TAILQ_INIT(&s->events);
	TAILQ_INIT(&s->checkpoint.staged);
	TAILQ_INIT(&s->limbo_old);
	TAILQ_INIT(&s->limbo_new);
	TAILQ_INIT(&s->private);
	TAILQ_INIT(&s->old_nodes);
	RB_INIT(&s->pinned);
	RB_INIT(&s->dead);
	pthread_mutex_init(&s->views_lock, NULL);
	pthread_mutex_init(&s->checkpoint.lock, NULL);
	pthread_mutex_init(&s->limbo_lock, NULL);
	pthread_mutex_init(&s->snapshot_lock, NULL);
	pthread_mutex_init(&s->bg_lock, NULL);
	pthread_mutex_init(&s->supply.lock, NULL);
	pthread_mutex_init(&s->supply.returned_lock, NULL);
	pthread_cond_init(&s->bg_wake, NULL);
	pthread_cond_init(&s->bg_tick_wake, NULL);
	pthread_cond_init(&s->bg_done, NULL);
	s->next_view = 1;
	s->replaying = true;
	s->rebuild_space = rebuild_space;
	err = view_init(&s->live, s, VIEW_LIVE);
	if (err) {
		mem_free(s);
		return err;
	}

	err = super_load(dev, &s->super, &s->slot, &other_ok);
	if (err == -ENODEV)
		err_log(LOG_ERROR, "%s: not an ArborFS filesystem", dev->name);
	if (!err && s->super.ro_compat & ~(uint64_t)SUPER_RO_COMPAT_KNOWN && !s->opt.read_only) {
		err_log(LOG_ERROR, "%s: has features unknown here (%#" PRIx64 ") that allow only mounting read-only", dev->name,
			s->super.ro_compat);
		err = -EROFS;
	}
	atomic_store(&s->blocks, err ? 0 : s->super.blocks);
	if (!err)
		err = open_parts(s);
	if (!err)
		err = look_at_space(s);
	if (!err)
		err = recover(s);
	if (!err)
		err = supply_open(s);
	if (err)
		goto fail;
	if (s->opt.read_only) {
		*ret = s;
		return 0;
	}
	*ret_damaged = space_is_damaged(s->space) && supply_short(s);
	err = *ret_damaged && !s->rebuild_space ? -ENOSPC : start_log(s);
	if (!err)
		err = snapshot_resume(s);
	if (!err)
		err = bg_start(s);
	if (err)
		goto fail;
	*ret = s;
	return 0;
fail:
	*ret_damaged |= err == -ENOSPC && s->space && space_is_damaged(s->space);
	store_free(s);
	return err;
}

/*
 * A crash inside recovery changes nothing, and so does giving up and beginning anew. On a large device the map is rebuilt only where
 * opening cannot do without: it means reading all nodes, and a few groups that count as full do no harm there.
 */
int store_open(struct bdev *dev, const struct store_options *opt, struct store **ret)
{
	bool damaged = false;
	int err = try_open(dev, opt, false, ret, &damaged);

	return err == -ENOSPC && damaged ? try_open(dev, opt, true, ret, &damaged) : err;
}

int store_close(struct store *s)
{
	int err = 0;

	if (!s)
		return 0;
	bg_end(s);
	if (!s->opt.read_only && !store_failed(s))
		err = checkpoint_run(s, CHECKPOINT_CLEAN | CHECKPOINT_BOTH, NULL, NULL);
	else if (!s->opt.read_only)
		err = -EIO;
	store_free(s);
	return err;
}

void store_crash(struct store *s)
{
	store_free(s);
}

/* ---- the small things ---- */

struct bdev *store_bdev(struct store *s)
{
	return s->bdev;
}

size_t store_value_max(const struct store *s)
{
	return tree_value_max(s->super.node_size);
}

const uint8_t *store_secret(const struct store *s)
{
	return s->super.secret;
}

int store_sync_lsn(struct store *s, uint64_t lsn)
{
	if (!s->log)
		return 0;
	return log_sync(s->log, lsn);
}

int store_sync(struct store *s)
{
	struct log_status ls;

	if (!s->log)
		return 0;
	log_status(s->log, &ls);
	return log_sync(s->log, ls.lsn_next - 1);
}

int store_tick(struct store *s)
{
	return s->log ? log_tick(s->log) : 0;
}

int store_checkpoint(struct store *s)
{
	int err = store_failed(s);

	return err ? err : s->opt.read_only ? -EROFS : checkpoint_wait(s);
}

uint64_t store_counter(struct store *s, unsigned counter)
{
	uint64_t value;

	if (counter >= SUPER_COUNTERS)
		return 0;
	pthread_rwlock_rdlock(&s->live.lock);
	value = s->counter[counter];
	pthread_rwlock_unlock(&s->live.lock);
	return value;
}

int store_grow(struct store *s)
{
	int err = s->opt.read_only ? -EROFS : store_failed(s);

	if (!err)
		err = bdev_resize(s->bdev);
	if (err)
		return err;
	pthread_mutex_lock(&s->checkpoint.lock);
	if (s->bdev->geo.blocks > s->super.blocks) {
		err = space_grow(s->space, s->bdev->geo.blocks);
		if (!err)
			s->new_blocks = s->bdev->geo.blocks;
	}
	pthread_mutex_unlock(&s->checkpoint.lock);
	return err ? err : checkpoint_run(s, CHECKPOINT_BOTH, NULL, NULL);
}

static int count_snapshot(void *arg, const struct snapshot_info *info)
{
	uint64_t *n = arg;

	*n += !info->dying && !info->hidden;
	return 0;
}

void store_status(struct store *s, struct store_status *ret)
{
	struct cache_stats cs;
	struct data_stats ds;
	struct view *v;
	struct event *e;

	cache_stats(s->cache, &cs);
	data_stats(s->data, &ds);
	*ret = (struct store_status){
		.blocks = atomic_load(&s->blocks),
		.checkpoint_last_us = atomic_load(&s->checkpoint.last_us),
		.blocks_free = space_free_blocks(s->space),
		.blocks_usable = space_usable_blocks(s->space),
		.blocks_claimed = store_claims(s),
		.blocks_reclaiming = atomic_load(&s->reclaiming),
		.node_size = s->super.node_size,
		.log_start = s->super.log_start,
		.incompat = s->super.incompat,
		.created_ns = s->super.created,
		.log_blocks = s->super.log_blocks,
		.checkpoints = atomic_load(&s->checkpoints),
		.checkpoint_freeze_max_us = atomic_load(&s->checkpoint.freeze_max_us),
		.cache_frames = cs.frames,
		.cache_frames_max = cs.frames_max,
		.cache_dirty = cs.dirty,
		.nodes_written = cs.nodes_written,
		.nodes_mended = cs.mended,
		.copies_used = cs.copies_used,
		.data_dirty = ds.dirty_blocks,
		.data_inflight = ds.inflight_blocks,
		.recovered_records = s->recovered_records,
		.recovered_us = s->recovered_us,
		.log_damaged = s->log_damaged,
		.error = atomic_load(&s->error),
	};
	supply_status(s, &ret->blocks_pooled, &ret->blocks_reserved);
	memcpy(ret->uuid, s->super.uuid, sizeof(ret->uuid));
	memcpy(ret->label, s->super.label, sizeof(ret->label));
	if (s->log) {
		struct log_status ls;

		log_status(s->log, &ls);
		ret->log_used = ls.blocks_used;
		ret->lsn_next = ls.lsn_next;
		ret->lsn_durable = ls.lsn_durable;
		ret->syncs = ls.syncs;
		ret->segments = ls.segments;
	}
	pthread_mutex_lock(&s->bg_lock);
	memcpy(ret->error_text, s->error_text, sizeof(ret->error_text));
	pthread_mutex_unlock(&s->bg_lock);
	pthread_rwlock_rdlock(&s->live.lock);
	RB_FOREACH(e, event_set, &s->pinned)
		ret->blocks_pinned += e->blocks;
	pthread_rwlock_unlock(&s->live.lock);
	(void)snapshot_list(s, count_snapshot, &ret->snapshots);
	pthread_mutex_lock(&s->views_lock);
	LIST_FOREACH(v, &s->views, list) {
		ret->views++;
		ret->txns += v->kind == VIEW_TXN && atomic_load(&v->state) == VIEW_OPEN;
	}
	pthread_mutex_unlock(&s->views_lock);
}

/*
 * batch.c - a group of changes, applied as one
 *
 * A batch collects, then applies. Collecting builds the log record as it goes: batch_put appends to a buffer that becomes
 * the record, and the tree later copies values from there. Applying takes the view's lock and, under it,
 *
 *	plans	finds every node the changes touch and every value they replace; settles which extents are thereby
 *		referred to more or less (refs.c); checks that nodes, addresses, log and memory suffice
 *	applies	appends the record (that is the moment: log order is apply order), changes the tree, turns what was
 *		released into events (reclaim.c)
 *
 * Planning may find something missing: a node not in memory, too few frames or addresses. Then the lock is dropped, the
 * thing fetched, and planning starts again; nothing has been changed. Applying cannot fail. No device read and no wait
 * happens under the lock.
 *
 * The same code applies batches of the live view, of transactions (no log; what is released is private), of the system
 * tree (no log; derived again at replay), and replays records.
 */
#include "wal/batch_read.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

/* Items under this key and above are the engine's own. */
static const struct key key_reserved = { KEY_INO_MAX << 8 | RECORD_SHARED, 0 };

struct tree *batch_tree(struct batch *b)
{
	return b->system ? &b->store->system : &b->view->tree;
}

bool batch_is_live(const struct batch *b)
{
	return b->view->kind == VIEW_LIVE;
}

bool batch_is_logged(const struct batch *b)
{
	return batch_is_live(b) && !b->system && !b->replay;
}

/* ---- collecting ---- */

void batch_reset(struct batch *b)
{
	b->len = sizeof(struct disk_batch);
	b->changes_end = 0;
	b->n_coll = b->n_changes = 0;
	b->allocated.n = b->replay_taken.n = b->bodies.n = 0;
	b->n_runs = b->n_raises = 0;
	b->data_blocks = 0;
	b->n_draining = 0;
	b->scarce = false;
	b->n_extra = 0;
	b->claim_tries = 0;
	if (b->class != SUPPLY_SYSTEM)
		b->class = SUPPLY_NORMAL;
	refs_reset(&b->refs);
}

static int batch_new(struct view *v, bool system, struct batch **ret)
{
	struct batch *b = mem_zalloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->view = v;
	b->store = v->store;
	b->system = system;
	b->class = system ? SUPPLY_SYSTEM : SUPPLY_NORMAL;
	TAILQ_INIT(&b->spare);
	if (mem_grow((void **)&b->buf, &b->cap, 512, 1)) {
		mem_free(b);
		return -ENOMEM;
	}
	batch_reset(b);
	*ret = b;
	return 0;
}

int batch_open(struct view *v, struct batch **ret)
{
	if (v->kind == VIEW_FROZEN || v->store->opt.read_only)
		return -EROFS;
	return batch_new(v, false, ret);
}

int batch_open_system(struct store *s, struct batch **ret)
{
	return batch_new(&s->live, true, ret);
}

int batch_open_replay(struct store *s, struct batch **ret)
{
	int err = batch_new(&s->live, false, ret);

	if (!err) {
		(*ret)->replay = true;
		(*ret)->class = SUPPLY_SYSTEM;
	}
	return err;
}

static void supply_drop(struct batch *b, size_t keep)
{
	struct tree_plan *p = &b->plan;

	if (p->supply <= keep)
		return;
	cache_unreserve(b->store->cache, p->frames + keep, p->supply - keep);
	while (p->supply > keep) {
		struct node_addr na;

		p->supply--;
		na = (struct node_addr){ p->addrs[p->supply], p->copies[p->supply] };
		(void)supply_return(b->store, &na, 1);
	}
}

/* Unlocks; what the batch holds in nodes and events stays, within reason, for the next one. */
static void unlock(struct batch *b)
{
	if (!b->locked)
		return;
	b->locked = false;
	pthread_rwlock_unlock(&b->view->lock);
	epoch_exit(b->store->epoch, b->epoch_slot);
}

void batch_hold(struct batch *b)
{
	b->locked = false;
	epoch_exit(b->store->epoch, b->epoch_slot);
}

void batch_drop_room(struct batch *b)
{
	if (b->room_bytes)
		log_unadmit(b->store->log, &b->room);
	b->room_bytes = 0;
}

/* Blocks taken for a batch that does not happen. Their data may be on its way, so they take the long road back. */
static void drop_blocks(struct batch *b, struct ref_ranges *v)
{
	for (size_t i = 0; i < v->n; i++) {
		struct event *e;

		data_drop(b->store->data, v->at[i].addr, v->at[i].blocks);
		e = b->n_spare ? event_take(b) : mem_zalloc(sizeof(*e));
		if (!e)
			continue; /* in use until the next mount: nothing better without memory */
		e->addr = v->at[i].addr;
		e->blocks = v->at[i].blocks;
		reclaim_private(b->store, e);
	}
	v->n = 0;
}

void batch_finish(struct batch *b)
{
	unlock(b);
	batch_drop_room(b);
	if (b->nested) {
		batch_reset(b->nested);
		tree_miss_release(&b->nested->miss);
	}
	batch_reset(b);
	if (b->plan.supply > 16)
		supply_drop(b, 16);
	if (b->miss.n_pinned)
		tree_miss_release(&b->miss);
}

void batch_cancel(struct batch *b)
{
	unlock(b);
	if (!b->replay)
		drop_blocks(b, &b->allocated);
	drop_blocks(b, &b->bodies);
	batch_finish(b);
}

void batch_close(struct batch *b)
{
	if (!b)
		return;
	batch_cancel(b);
	supply_drop(b, 0);
	events_free(&b->spare);
	tree_miss_release(&b->miss);
	refs_release(&b->refs);
	if (b->nested) {
		b->nested->locked = false;
		batch_close(b->nested);
	}
	mem_free(b->buf);
	mem_free(b->coll);
	mem_free(b->changes);
	mem_free(b->merged);
	mem_free(b->allocated.at);
	mem_free(b->replay_taken.at);
	mem_free(b->bodies.at);
	mem_free(b->runs);
	mem_free(b->raises);
	mem_free(b->plan.frames);
	mem_free(b->plan.addrs);
	mem_free(b->plan.copies);
	mem_free(b->plan.released);
	mem_free(b);
}

static int collect(struct batch *b, uint8_t op, struct key key, struct key end, const void *val, size_t len)
{
	struct disk_change d = { .op = op, .len = le16_put((uint16_t)len), .obj = le64_put(key.obj), .off = le64_put(key.off) };

	if (!key_less(key, key_reserved) && !b->system)
		return -EINVAL;
	if (mem_grow((void **)&b->buf, &b->cap, b->len + sizeof(d) + len, 1) ||
	    mem_grow((void **)&b->coll, &b->cap_coll, b->n_coll + 1, sizeof(*b->coll)))
		return -ENOMEM;
	memcpy(b->buf + b->len, &d, sizeof(d));
	b->len += sizeof(d);
	if (len)
		memcpy(b->buf + b->len, val, len);
	b->coll[b->n_coll] = (struct collected){ key, end, b->len, (uint16_t)len, op, (uint32_t)b->n_coll };
	b->n_coll++;
	b->len += len;
	return 0;
}

int batch_put(struct batch *b, struct key key, const void *val, size_t len)
{
	struct store *s = b->store;
	int err;

	if (len > tree_value_max(s->super.node_size))
		return -EINVAL;
	err = record_validate(b->system ? &system_records : &s->files_table, key, val, len);
	return err ? err : collect(b, CHANGE_PUT, key, key, val, len);
}

int batch_del(struct batch *b, struct key key)
{
	return collect(b, CHANGE_DEL, key, key, NULL, 0);
}

int batch_del_range(struct batch *b, struct key from, struct key to)
{
	struct disk_key end;

	if (!b->system && key_less(key_reserved, to))
		to = key_reserved;
	if (!key_less(from, to))
		return 0;
	end = (struct disk_key){ le64_put(to.obj), le64_put(to.off) };
	return collect(b, CHANGE_DEL_RANGE, from, to, &end, sizeof(end));
}

int batch_raise(struct batch *b, unsigned counter, uint64_t value)
{
	if (counter >= SUPER_COUNTERS || !batch_is_live(b))
		return -EINVAL;
	if (mem_grow((void **)&b->raises, &b->cap_raises, b->n_raises + 1, sizeof(*b->raises)))
		return -ENOMEM;
	b->raises[b->n_raises].counter = counter;
	b->raises[b->n_raises++].value = value;
	return 0;
}

void batch_releases(struct batch *b)
{
	if (b->class < SUPPLY_RELEASING)
		b->class = SUPPLY_RELEASING;
}

int batch_alloc(struct batch *b, uint32_t want, bool claimed, struct extent *ret)
{
	struct store *s = b->store;
	uint32_t blocks;
	uint64_t addr;
	int err;

	if (!want || want > DATA_RUN_BLOCKS_MAX)
		return -EINVAL;
	if (claimed && b->class == SUPPLY_NORMAL)
		b->class = SUPPLY_CLAIMED;
	err = store_failed(s);
	for (unsigned tries = 0; !err; tries++) {
		err = supply_data(s, want, claimed, b->class, &addr, &blocks);
		if (err != -ENOSPC)
			break;
		err = make_room(s, b->class, tries);
	}
	if (err)
		return err;
	err = ranges_add(&b->allocated, addr, blocks, 0);
	if (err) {
		(void)space_free(s->space, addr, blocks);
		return err;
	}
	*ret = (struct extent){ addr, blocks, 0 };
	return 0;
}

static int put_run(struct batch *b, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums)
{
	int err = mem_grow((void **)&b->runs, &b->cap_runs, b->n_runs + 1, sizeof(*b->runs));

	readahead_forget(b->store->readahead, addr, blocks);
	if (!err)
		err = data_put(b->store->data, addr, blocks, buf, sums, &b->runs[b->n_runs]);
	if (err) {
		mem_free(buf);
		return err;
	}
	b->n_runs++;
	b->data_blocks += blocks;
	return 0;
}

int batch_data(struct batch *b, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums)
{
	int err = store_failed(b->store);

	if (err) {
		mem_free(buf);
		return err;
	}
	return put_run(b, addr, blocks, buf, sums);
}

/* ---- the usual way ---- */

int batch_write_body(struct batch *b)
{
	struct store *s = b->store;
	size_t bytes, done = 0;
	int err = 0;

	if (b->bodies.n || !batch_is_logged(b) || batch_record_max(b) <= log_record_max(s->log))
		return 0;
	bytes = b->changes_end - sizeof(struct disk_batch);
	b->body_sum = XXH3_64bits(b->buf + sizeof(struct disk_batch), bytes);
	while (!err && done < bytes) {
		size_t left = bytes - done, n;
		uint32_t want = (uint32_t)((left + BLOCK_SIZE - 1) / BLOCK_SIZE), blocks, sums[DATA_RUN_BLOCKS_MAX];
		uint64_t addr;
		uint8_t *buf;

		if (want > DATA_RUN_BLOCKS_MAX)
			want = DATA_RUN_BLOCKS_MAX;
		for (unsigned tries = 0;; tries++) {
			err = supply_data(s, want, false, b->class, &addr, &blocks);
			if (err == -ENOSPC)
				err = make_room(s, b->class, tries);
			else
				break;
			if (err)
				break;
		}
		if (err)
			break;
		err = ranges_add(&b->bodies, addr, blocks, 0);
		if (err) {
			(void)space_free(s->space, addr, blocks);
			break;
		}
		n = (size_t)blocks * BLOCK_SIZE;
		buf = mem_alloc_blocks(n);
		if (!buf)
			return -ENOMEM;
		if (n > left) {
			memset(buf + left, 0, n - left);
			n = left;
		}
		memcpy(buf, b->buf + sizeof(struct disk_batch) + done, n);
		for (uint32_t i = 0; i < blocks; i++)
			sums[i] = data_checksum(buf + (size_t)i * BLOCK_SIZE);
		err = put_run(b, addr, blocks, buf, sums);
		done += n;
	}
	return err;
}

/* A commit interval's worth of records can be a lot of memory: written early when more than that waits, and when it grows
 * faster than the device takes it, by who makes it grow. */
#define TICK_EARLY_BLOCKS 512u
#define TICK_WAIT_BLOCKS 2048u

void checkpoint_if_due(struct store *s)
{
	struct log_status ls;

	log_status(s->log, &ls);
	if (ls.blocks_queued > TICK_WAIT_BLOCKS && !s->opt.manual)
		(void)store_tick(s);
	else if (ls.blocks_queued > TICK_EARLY_BLOCKS)
		tick_request(s);
	if (ls.blocks_since > ls.blocks / 3 || cache_dirty(s->cache) > cache_frames(s->cache) / 8 * 5)
		checkpoint_request(s);
}

/* After the lock has been dropped: what is due in the background, or here where there is none. */
static void follow_up(struct batch *b)
{
	struct store *s = b->store;

	if (b->view->kind == VIEW_TXN) {
		size_t share = cache_frames(s->cache) / 8 / (size_t)(atomic_load(&s->n_txns) + 1);

		if (share < 4)
			share = 4;
		if (b->plan_dirty > share)
			(void)view_relieve(b->view, share / 2);
	} else {
		checkpoint_if_due(s);
	}
}

int batch_make_ready(struct batch *b)
{
	int err = store_failed(b->store);

	if (!err)
		err = batch_sort(b);
	if (!err)
		err = batch_write_body(b);
	while (!err && batch_is_logged(b)) {
		err = batch_admit(b, batch_record_max(b));
		if (err != -EAGAIN)
			break;
		err = checkpoint_wait(b->store);
	}
	return err;
}

/* Locks and plans, as often as it takes. */
int batch_lock_and_plan(struct batch *b)
{
	int err;

	b->keep = true;
	do {
		err = batch_make_ready(b);
		if (!err)
			err = batch_lock(b);
		if (!err)
			err = batch_prepare(b);
	} while (err == -EAGAIN);
	b->keep = false;
	if (err)
		batch_cancel(b);
	return err;
}

int batch_commit(struct batch *b, uint64_t *ret_lsn)
{
	struct view *v = b->view;
	int err;

	if (ret_lsn)
		*ret_lsn = 0;
	if (!b->n_coll && !b->n_raises) {
		batch_cancel(b);
		return 0;
	}
	if (b->locked) {
		err = batch_prepare(b);
	} else {
		err = batch_lock_and_plan(b);
	}
	if (err)
		return err;
	batch_apply(b);
	if (ret_lsn)
		*ret_lsn = b->lsn;
	b->plan_dirty = v->tree.dirty_nodes;
	batch_finish(b);
	follow_up(b);
	return 0;
}

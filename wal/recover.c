/*
 * recover.c - from what a crash left to a state that can be served
 *
 *	epoch	a new mount epoch, durable in both slots, before anything else is written: so that no node a crashed run
 *		wrote can pass for one that replay writes
 *	scan	finds the end of the log; what its records made reachable is marked used, riding blocks go home
 *	replay	applies the records behind the checkpoint, in order, through the same code that applied them first
 *	end	a checkpoint to both slots, with a new log epoch: old segments are strangers from now on
 *
 * The log is not touched before the end, and everything else goes to addresses that were free, so a crash inside recovery
 * changes nothing and the next one does the same again. Its work is bounded by the log. When memory is short, replay makes
 * checkpoints on its way; they move the log position on, under the old log epoch.
 */
#include <inttypes.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/batch_read.h"
#include "wal/log_read.h"
#include "wal/store_int.h"

static int write_epoch(struct store *s, unsigned slot)
{
	int err;

	s->super.serial++;
	err = super_write(s->bdev, slot, &s->super);
	return err ? err : bdev_flush(s->bdev);
}

/* Both slots say the same after this: the older one becomes a copy of the newest first, then that one follows. */
static int new_epoch(struct store *s)
{
	int err;

	s->super.mount_epoch++;
	if (s->super.mount_epoch >> (64 - GEN_EPOCH_SHIFT))
		return corrupt("superblock", 0, "mount epoch", s->super.mount_epoch, 0);
	atomic_store(&s->next_gen, s->super.mount_epoch << GEN_EPOCH_SHIFT | 1);
	if (s->opt.read_only)
		return 0;
	err = write_epoch(s, !s->slot);
	return err ? err : write_epoch(s, s->slot);
}

static int mark(struct store *s, uint64_t addr, uint32_t blocks, const char *what)
{
	if (!blocks || !space_valid(s->space, addr, blocks))
		return corrupt("log record", addr, what, blocks, 0);
	return space_mark_used(s->space, addr, blocks);
}

/* What replay will have to hold at once, found on the way. */
struct marked {
	struct store *s;
	uint64_t changes_max; /* of one record */
	uint64_t changes;     /* of all */
	uint64_t gen;	      /* of the last: they do not go backwards */
};

static int mark_record(void *arg, uint64_t lsn, const struct log_pos *at, const void *rec, size_t len)
{
	struct marked *m = arg;
	struct store *s = m->s;
	struct batch_record r = { 0 };
	int err;

	(void)at;
	err = batch_record_read(rec, len, &r);
	if (!err && (r.gen < m->gen || r.gen >> GEN_EPOCH_SHIFT >= s->super.mount_epoch))
		err = corrupt("log record", lsn, "generation", r.gen, m->gen);
	m->gen = r.gen;
	if (!err) {
		m->changes += r.n_changes;
		if (r.n_changes > m->changes_max)
			m->changes_max = r.n_changes;
	}
	for (uint32_t i = 0; !err && i < r.n_fresh; i++)
		err = mark(s, le64_get(r.fresh[i].addr), le32_get(r.fresh[i].blocks), "fresh blocks");
	/* Where their release is older than the checkpoint, its map has them free. */
	for (uint32_t i = 0; !err && i < r.n_taken; i++)
		err = mark(s, le64_get(r.taken[i].addr), le32_get(r.taken[i].blocks), "blocks taken back");
	for (uint32_t i = 0; !err && i < r.n_bodies; i++)
		err = mark(s, le64_get(r.bodies[i].addr), le32_get(r.bodies[i].blocks), "blocks of an outside body");
	return err;
}

static int riding_home(void *arg, uint64_t addr, const void *block)
{
	struct store *s = ((struct marked *)arg)->s;
	struct data_run *run;
	uint32_t sum;
	void *buf;
	int err;

	if (!space_valid(s->space, addr, 1))
		return corrupt("log segment", addr, "riding block", addr, 0);
	if (s->opt.read_only && data_has(s->data, addr))
		return corrupt("log segment", addr, "riding block that rode before", addr, 0);
	buf = mem_alloc_blocks(BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	memcpy(buf, block, BLOCK_SIZE);
	if (!s->opt.read_only) {
		err = bdev_write(s->bdev, addr, buf, 1);
		mem_free(buf);
		return err;
	}
	/* Read-only: it stays in memory, where readers look first. */
	sum = data_checksum(buf);
	err = data_put(s->data, addr, 1, buf, &sum, &run);
	if (err)
		mem_free(buf);
	return err;
}

struct replay {
	struct store *s;
	struct batch *b;
	uint64_t records;
};

static int replay_record(void *arg, uint64_t lsn, const struct log_pos *at, const void *rec, size_t len)
{
	struct replay *r = arg;
	struct store *s = r->s;
	int err;

	/* A checkpoint made now goes on with this record. */
	s->replay_pos = (struct log_pos){ at->block, at->seq, lsn };
	err = batch_replay(r->b, rec, len);
	if (err) {
		err_log(LOG_ERROR, "recovery: record %" PRIu64 " cannot be applied: %s", lsn, strerror(-err));
		return err;
	}
	s->replay_pos.lsn = lsn + 1;
	r->records++;
	return 0;
}

/*
 * A batch that fitted the cache it was applied in must fit at replay: there, every node on its way is copied, none being
 * dirty yet, and the cache may be smaller than it was. Memory is taken as it is used; afterwards the cache has the size it
 * was asked to have. Read-only, nothing can be written to make room, so all of the log must fit.
 */
#define NODES_A_CHANGE 8u

static int enough_memory(const struct marked *m)
{
	struct store *s = m->s;
	uint64_t changes = s->opt.read_only ? m->changes : m->changes_max;
	uint64_t bytes = s->opt.cache_bytes + (changes * NODES_A_CHANGE + 64) * s->super.node_size;

	return store_cache_open(s, bytes);
}

int recover(struct store *s)
{
	struct log_scan_options opt = {
		.bdev = s->bdev,
		.start = s->super.log_start,
		.blocks = s->super.log_blocks,
		.epoch = s->super.log_epoch,
		.pos = { s->super.log_block, s->super.log_seq, s->super.log_lsn },
		.ignore_damage = s->opt.ignore_log_damage,
	};
	struct marked m = { .s = s };
	struct replay r = { .s = s };
	struct log_scan *scan = NULL;
	struct log_scan_result found;
	uint64_t start = clock_ns();
	int err;

	err = new_epoch(s);
	if (err)
		return err;
	s->live.tree.gen = store_next_gen(s);
	s->system.gen = store_next_gen(s);
	s->replay_pos = opt.pos;
	if (s->rebuild_space)
		err = space_rebuild(s);
	if (err)
		return err;
	if (s->super.flags & SUPER_CLEAN)
		goto end;

	err = log_scan_open(&opt, &scan);
	if (!err) {
		log_scan_result(scan, &found);
		s->log_damaged = found.damaged;
		err = log_scan_each(scan, mark_record, riding_home, &m);
	}
	if (!err)
		err = enough_memory(&m);
	if (!err)
		err = batch_open_replay(s, &r.b);
	if (!err)
		err = log_scan_each(scan, replay_record, NULL, &r);
	batch_close(r.b);
	log_scan_close(scan);
	if (err)
		return err;
end:
	/* Releases counted as pinned until here, because a later record could have taken them back. */
	pthread_rwlock_wrlock(&s->live.lock);
	s->replaying = false;
	reclaim_unpin(s);
	pthread_rwlock_unlock(&s->live.lock);
	s->recovered_records = r.records;
	if (!s->opt.read_only)
		err = checkpoint_run(s, CHECKPOINT_BOTH | CHECKPOINT_EPOCH, NULL, NULL);
	else if (r.records && (err = checkpoint_in_memory(s)) == -ENOSPC)
		err = 0; /* full: reading goes well without it */
	if (!err && !s->opt.read_only && r.records)
		err = store_cache_open(s, s->opt.cache_bytes);
	s->recovered_us = (clock_ns() - start) / 1000;
	return err;
}

/*
 * checkpoint.c - making a frozen root durable, while operations go on
 *
 *	drain	moves pending dead-list entries into the system tree, a few at a time
 *	freeze	under live's lock, briefly: closes the log segment (so the log position is exact), takes root, dirty nodes
 *		and the events since the last checkpoint, and gives live a new generation
 *	write	data to its homes, nodes in address order with many writes in flight, the changed pages of the space map
 *	flush	one, after the log up to the freeze is durable
 *	super	the older slot, and a flush: this is the moment
 *	after	trims the log to the checkpoint before, ripens what that one released
 *
 * Live is never written over: what is frozen stays as it is, and what live changes meanwhile goes to new addresses. A
 * crash anywhere leaves the other slot, and the log from its position, untouched.
 *
 * A failure up to the freeze is the caller's and changes nothing. After it, the store fails for good (contract G).
 */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"

static _Thread_local bool mine;

bool checkpoint_mine(void)
{
	return mine;
}

/* What the freeze has taken. */
struct frozen {
	struct super super;
	struct log_pos pos;
	struct node **nodes;
	size_t n_nodes, cap_nodes;
	struct event_list events;
	size_t n_events;
	struct space_event *space_events;
	size_t n_space;
};

static void take_nodes(struct frozen *f, struct tree *t)
{
	struct node *node;

	while ((node = TAILQ_FIRST(&t->dirty))) {
		TAILQ_REMOVE(&t->dirty, node, list);
		atomic_fetch_or(&node->state, NODE_SEALED | NODE_CHECKPOINT);
		node_pin(node); /* it is clean, and could be evicted, before we are done with it */
		f->nodes[f->n_nodes++] = node;
	}
	t->dirty_nodes = 0;
}

/* Room for the nodes that freeze takes, `born` more than are dirty now. Under live's lock, before anything is changed. */
static int freeze_reserve(struct store *s, struct frozen *f, size_t born)
{
	size_t n = s->live.tree.dirty_nodes + s->system.dirty_nodes + born;

	return mem_grow((void **)&f->nodes, &f->cap_nodes, n + 1, sizeof(struct node *));
}

/* Under live's lock. Cannot fail: what goes with it, a snapshot's item for one, is in the tree already. */
static void freeze(struct store *s, struct frozen *f, unsigned flags)
{
	take_nodes(f, &s->live.tree);
	take_nodes(f, &s->system);
	TAILQ_CONCAT(&f->events, &s->events, list);

	if (flags & CHECKPOINT_EPOCH)
		f->pos = (struct log_pos){ 0, 1, s->replay_pos.lsn };
	else
		f->pos = s->log ? log_boundary(s->log) : s->replay_pos;

	f->super.gen = s->live.tree.gen;
	f->super.files = s->live.tree.root;
	f->super.system = s->system.root;
	f->super.log_block = f->pos.block;
	f->super.log_seq = f->pos.seq;
	f->super.log_lsn = f->pos.lsn;
	f->super.claims = (uint64_t)atomic_load(&s->claims); /* of live alone: transactions do not outlive a crash */
	f->super.batch_max = s->batch_max;
	memcpy(f->super.counter, s->counter, sizeof(f->super.counter));

	s->frozen_gen = s->live.tree.gen;
	s->live.tree.gen = store_next_gen(s);
	s->system.gen = store_next_gen(s);
	atomic_fetch_add(&s->checkpoints, 1);

	pthread_mutex_lock(&s->limbo_lock);
	TAILQ_CONCAT(&f->events, &s->private, list);
	pthread_mutex_unlock(&s->limbo_lock);
}

/* Drains what is left, lets a snapshot operation have its say, and freezes: one hold of the lock. */
static int drain_and_freeze(struct store *s, struct frozen *f, unsigned flags, const struct freeze_ops *ops, void *arg)
{
	struct batch *b;
	bool done = false;
	int err;

	err = batch_open_system(s, &b);
	if (err)
		return err;
	while (!done && !err) {
		uint64_t start;

		err = batch_lock(b);
		if (err)
			break;
		start = clock_ns();
		err = reclaim_drain_some(b);
		done = s->n_dead <= b->n_draining;
		if (!err && done && ops)
			err = ops->prepare(s, b, arg);
		if (err) {
			if (b->locked)
				batch_cancel(b);
		} else {
			err = batch_prepare(b);
		}
		if (err == -EAGAIN) {
			err = 0;
			done = false;
			continue;
		}
		if (!err && done && (err = freeze_reserve(s, f, b->plan.need)))
			batch_cancel(b);
		if (err)
			break;
		batch_apply(b);
		reclaim_drained(b);
		if (done) {
			if (ops)
				ops->frozen(s, arg);
			freeze(s, f, flags);
			uint64_t us = (clock_ns() - start) / 1000;
			if (us > atomic_load(&s->checkpoint.freeze_max_us))
				atomic_store(&s->checkpoint.freeze_max_us, us);
		}
		if (done && (flags & CHECKPOINT_HOLD))
			batch_hold(b);
		batch_finish(b);
	}
	batch_close(b);
	return err;
}

/* Space events of nodes and extents, in order. Events are split under live's lock, so this is read under it, too. */
static int gather_space_events(struct store *s, struct frozen *f, bool held)
{
	uint32_t nb = s->super.node_size / BLOCK_SIZE;
	const struct event *e;
	size_t n = 0;

	if (!held)
		pthread_rwlock_rdlock(&s->live.lock);
	TAILQ_FOREACH(e, &f->events, list)
		n++;
	f->space_events = mem_alloc((2 * (n + f->n_nodes) + 1) * sizeof(*f->space_events));
	for (size_t i = 0; f->space_events && i < f->n_nodes; i++) {
		f->space_events[f->n_space++] = (struct space_event){ f->nodes[i]->addr, nb, SPACE_REACHED };
		if (f->nodes[i]->copy)
			f->space_events[f->n_space++] = (struct space_event){ f->nodes[i]->copy, nb, SPACE_REACHED };
	}
	TAILQ_FOREACH(e, &f->events, list) {
		uint32_t kind = e->kind == EVENT_REACHED ? SPACE_REACHED : SPACE_RELEASED;

		if (!f->space_events || (e->kind != EVENT_REACHED && e->kind != EVENT_RELEASED))
			continue;
		f->space_events[f->n_space++] = (struct space_event){ e->addr, e->blocks, kind };
		if (e->copy)
			f->space_events[f->n_space++] = (struct space_event){ e->copy, e->blocks, kind };
	}
	if (!held)
		pthread_rwlock_unlock(&s->live.lock);
	return f->space_events ? 0 : -ENOMEM;
}

static void wait_for_memory(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* Memory can be short for a moment; a checkpoint that has frozen must not fail for that. */
static int patient(int (*step)(struct store *, struct frozen *), struct store *s, struct frozen *f)
{
	int err = step(s, f);

	for (unsigned tries = 0; err == -ENOMEM && tries < 10; tries++) {
		wait_for_memory();
		err = step(s, f);
	}
	return err;
}

static int write_nodes(struct store *s, struct frozen *f)
{
	return f->n_nodes ? cache_write(s->cache, f->nodes, f->n_nodes) : 0;
}

static int apply_space(struct store *s, struct frozen *f)
{
	return space_apply(s->space, f->space_events, f->n_space);
}

static int write_space(struct store *s, struct frozen *f)
{
	return space_write(s->space, f->super.gen, &f->super.space);
}

static int write_super(struct store *s, struct frozen *f, unsigned slot)
{
	int err;

	f->super.serial++;
	f->super.written = s->opt.seed ? 0 : clock_ns();
	err = super_write(s->bdev, slot, &f->super);
	for (unsigned tries = 0; err == -ENOMEM && tries < 10; tries++) {
		wait_for_memory();
		err = super_write(s->bdev, slot, &f->super);
	}
	return err ? err : data_flush(s->data);
}

static int write_out(struct store *s, struct frozen *f, unsigned flags, const char **what)
{
	int err;

	*what = "writing data home";
	data_write_home(s->data, DATA_ATTACHED);
	err = data_wait(s->data);
	if (!err) {
		*what = "writing nodes";
		err = patient(write_nodes, s, f);
	}
	if (!err) {
		*what = "applying events to the space map";
		err = patient(apply_space, s, f);
	}
	if (!err) {
		*what = "writing the space map";
		err = patient(write_space, s, f);
	}
	if (!err && s->log && f->pos.lsn > 1) {
		*what = "syncing the log";
		err = log_sync(s->log, f->pos.lsn - 1);
	}
	if (!err) {
		*what = "flushing";
		err = data_flush(s->data);
	}
	if (!err) {
		*what = "writing the superblock";
		err = write_super(s, f, !s->slot);
	}
	if (!err && (flags & CHECKPOINT_BOTH))
		err = write_super(s, f, s->slot);
	return err;
}

/* Nothing refers any more to what the checkpoint before this one had released. */
static void settle(struct store *s, struct frozen *f, unsigned flags, bool held)
{
	if (!held)
		pthread_rwlock_wrlock(&s->live.lock);
	reclaim_ripen(s, &s->checkpoint.staged);
	if (flags & CHECKPOINT_BOTH)
		reclaim_ripen(s, &f->events);
	else
		TAILQ_CONCAT(&s->checkpoint.staged, &f->events, list);
	if (!held)
		pthread_rwlock_unlock(&s->live.lock);
}

int checkpoint_in_memory(struct store *s)
{
	struct frozen f = { 0 };
	int err;

	TAILQ_INIT(&f.events);
	err = reclaim_drain_dead(s, 64);
	if (!err)
		err = drain_and_freeze(s, &f, 0, NULL, NULL);
	if (!err)
		err = gather_space_events(s, &f, false);
	if (!err)
		err = apply_space(s, &f);
	TAILQ_CONCAT(&s->checkpoint.staged, &f.events, list);
	for (size_t i = 0; i < f.n_nodes; i++)
		node_unpin(f.nodes[i]); /* they stay dirty, and so in memory */
	mem_free(f.nodes);
	mem_free(f.space_events);
	return err;
}

/* What a checkpoint changes of the superblock in memory; the rest others read without a lock. */
static void adopt(struct store *s, const struct super *new)
{
	struct super *super = &s->super;

	super->serial = new->serial;
	super->flags = new->flags;
	super->gen = new->gen;
	super->files = new->files;
	super->system = new->system;
	super->space = new->space;
	super->blocks = new->blocks;
	super->log_epoch = new->log_epoch;
	super->log_block = new->log_block;
	super->log_seq = new->log_seq;
	super->log_lsn = new->log_lsn;
	super->claims = new->claims;
	super->batch_max = new->batch_max;
	memcpy(super->counter, new->counter, sizeof(super->counter));
	super->written = new->written;
	atomic_store(&s->blocks, new->blocks);
}

int checkpoint_run(struct store *s, unsigned flags, const struct freeze_ops *ops, void *arg)
{
	struct checkpoint *c = &s->checkpoint;
	bool held = flags & CHECKPOINT_HOLD;
	struct frozen f = { 0 };
	const char *what = "";
	uint64_t start = clock_ns();
	int err;

	pthread_mutex_lock(&c->lock);
	mine = true;
	TAILQ_INIT(&f.events);
	/* A size that only one slot knows would leave the other unable to replay records beyond its own. */
	if (s->new_blocks > s->super.blocks)
		flags |= CHECKPOINT_BOTH;
	err = s->opt.read_only ? -EROFS : store_failed(s);
	if (!err)
		err = reclaim_drain_dead(s, 64);
	if (!err) {
		data_write_home(s->data, DATA_ATTACHED);
		f.super = s->super;
		f.super.flags = flags & CHECKPOINT_CLEAN ? SUPER_CLEAN : 0;
		if (flags & CHECKPOINT_EPOCH)
			f.super.log_epoch = store_random(s);
		err = drain_and_freeze(s, &f, flags, ops, arg);
	}
	if (err)
		goto out;

	what = "gathering the events of the space map";
	err = gather_space_events(s, &f, held);
	for (unsigned tries = 0; err == -ENOMEM && tries < 10; tries++) {
		wait_for_memory();
		err = gather_space_events(s, &f, held);
	}
	if (!err) {
		f.super.blocks = s->new_blocks ? s->new_blocks : f.super.blocks;
		err = write_out(s, &f, flags, &what);
	}
	if (err) {
		store_fail(s, err, what);
		if (held)
			pthread_rwlock_unlock(&s->live.lock);
		TAILQ_CONCAT(&c->staged, &f.events, list);
		goto out;
	}
	if (!(flags & CHECKPOINT_BOTH))
		s->slot = !s->slot;
	adopt(s, &f.super);
	if (s->log)
		log_trim(s->log, flags & CHECKPOINT_BOTH ? f.pos : c->log_pos);
	c->log_pos = f.pos;
	space_commit(s->space);
	settle(s, &f, flags, held);
	if (held)
		pthread_rwlock_unlock(&s->live.lock);
	atomic_store(&c->last_us, (clock_ns() - start) / 1000);
out:
	for (size_t i = 0; i < f.n_nodes; i++)
		node_unpin(f.nodes[i]);
	mem_free(f.nodes);
	mem_free(f.space_events);
	mine = false;
	pthread_mutex_unlock(&c->lock);
	if (!err) {
		int64_t freed = reclaim_limbo(s, false);

		if (freed < 0 && freed != -ENOMEM)
			store_fail(s, (int)freed, "handing space back");
		supply_refill(s);
	}
	return err;
}

/*
 * reclaim.c - from "not reachable any more" to "may be handed out again"
 *
 * A block that live stops referring to is not free. It is handed out again only when
 *
 *  (1) the checkpoint that contains the release and the one after it are durable, so that the older superblock slot
 *	with the log is whole at any moment;
 *  (2) no open view can reach it: a transaction or frozen view begun between its birth and its release;
 *  (3) every operation begun before has ended (epochs);
 *  (4) its discard, if any, has completed.
 *
 * Each release is an event. Its way:
 *
 *	                       checkpoint          next checkpoint                epoch passed
 *	reclaim_* --> store.events --> checkpoint.staged ---ripen---> limbo --------------------> space_free
 *	                  |                                  ^
 *	                  `--(an open view reaches it)--> store.pinned --(unpin)--'
 *
 * Events of blocks that became reachable go the same way as far as the checkpoint, which applies both kinds, in order, to
 * the space map it writes; so the hot path touches no bitmap.
 *
 * What a snapshot holds (born not after live's parent) is not released at all: it goes on live's dead list, by way of
 * store.dead in memory, so that the hot path does not change a second tree. A checkpoint first moves these into the
 * system tree. They are derived again at replay and never logged.
 *
 * Nodes that were never written are simpler: nobody but open views can know them. Where none does, node and address are
 * free at once.
 *
 * Events are allocated before the lock is taken (events_reserve): nothing here can fail under it.
 */
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

static int event_cmp(struct event *a, struct event *b)
{
	return (a->addr > b->addr) - (a->addr < b->addr);
}
RB_GENERATE(event_set, event, set, event_cmp)

int events_reserve(struct batch *b, size_t n)
{
	while (b->n_spare < n) {
		struct event *e = mem_alloc(sizeof(*e));

		if (!e)
			return -ENOMEM;
		TAILQ_INSERT_HEAD(&b->spare, e, list);
		b->n_spare++;
	}
	return 0;
}

struct event *event_take(struct batch *b)
{
	struct event *e = TAILQ_FIRST(&b->spare);

	if (!e)
		abort(); /* the plan's arithmetic is wrong: going on would lose track of blocks */
	TAILQ_REMOVE(&b->spare, e, list);
	b->n_spare--;
	*e = (struct event){ 0 };
	return e;
}

void events_free(struct event_list *list)
{
	struct event *e;

	while ((e = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, e, list);
		mem_free(e);
	}
}

static uint64_t event_blocks(const struct event *e)
{
	return (uint64_t)e->blocks * (e->copy ? 2 : 1);
}

bool reclaim_pinned(struct store *s, uint64_t birth, uint64_t gen)
{
	const struct pin *p;

	if (s->replaying)
		return true;
	LIST_FOREACH(p, &s->pins, list)
		if (birth <= p->gen && p->gen < gen)
			return true;
	return false;
}

void reclaim_reached(struct batch *b, uint64_t addr, uint32_t blocks, uint64_t birth)
{
	struct event *e = event_take(b);

	e->kind = EVENT_REACHED;
	e->addr = addr;
	e->blocks = blocks;
	e->birth = birth;
	TAILQ_INSERT_TAIL(&b->store->events, e, list);
}

/* The common part: blocks that some checkpoint says, or the next would have said, are in use. */
static void release(struct batch *b, uint64_t addr, uint64_t copy, uint32_t blocks, uint64_t birth, bool pinned)
{
	struct store *s = b->store;
	struct event *e = event_take(b);

	e->addr = addr;
	e->copy = copy;
	e->blocks = blocks;
	e->birth = birth;
	e->gen = s->live.tree.gen;
	if (birth <= s->parent_gen) {
		e->kind = EVENT_DEAD;
		if (RB_INSERT(event_set, &s->dead, e))
			mem_free(e); /* a damaged tree can release it twice: it is on its way already */
		else
			s->n_dead++;
		return;
	}
	e->kind = EVENT_RELEASED;
	TAILQ_INSERT_TAIL(&s->events, e, list);
	atomic_fetch_add(&s->reclaiming, event_blocks(e));
	if (pinned) {
		e->pinned = true;
		RB_INSERT(event_set, &s->pinned, e);
	}
}

/*
 * Data that nothing refers to any more need not be written. But who has seen the reference, in view_read_begin and _end, may
 * be about to read it, and memory has the only copy: then it is written as if nothing had happened.
 */
void reclaim_drop_data(struct store *s, uint64_t addr, uint64_t blocks)
{
	if (epoch_passed(s->reading, epoch_stamp(s->reading)))
		data_drop(s->data, addr, blocks);
}

void reclaim_extent(struct batch *b, uint64_t addr, uint32_t blocks, uint64_t birth)
{
	struct store *s = b->store;
	bool pinned = reclaim_pinned(s, birth, s->live.tree.gen);

	/* What no checkpoint and no view refers to need never be written. */
	if (!pinned && birth > s->frozen_gen)
		reclaim_drop_data(s, addr, blocks);
	release(b, addr, 0, blocks, birth, pinned);
}

void reclaim_from_snapshot(struct batch *b, uint64_t addr, uint32_t blocks, uint64_t birth)
{
	struct store *s = b->store;
	struct event *e = event_take(b);

	/* When live released it is not known; any view begun since its birth may have it. */
	e->kind = EVENT_RELEASED;
	e->addr = addr;
	e->blocks = blocks;
	e->birth = birth;
	e->gen = s->live.tree.gen;
	TAILQ_INSERT_TAIL(&s->events, e, list);
	atomic_fetch_add(&s->reclaiming, event_blocks(e));
	if (reclaim_pinned(s, birth, e->gen)) {
		e->pinned = true;
		RB_INSERT(event_set, &s->pinned, e);
	}
}

static uint32_t node_blocks(struct store *s)
{
	return s->super.node_size / BLOCK_SIZE;
}

/* A node that is on no disk and that nobody reaches: gone at once, its address ready for another. */
static void discard_node(struct batch *b, struct node *node)
{
	struct node_addr na = { node->addr, node->copy };

	cache_kill(b->store->cache, node);
	if (supply_return(b->store, &na, 1)) {
		struct event *e = event_take(b);

		e->addr = na.addr;
		e->copy = na.copy;
		e->blocks = node_blocks(b->store);
		reclaim_private(b->store, e);
	}
}

void reclaim_node(struct batch *b, const struct released *r)
{
	struct store *s = b->store;
	uint64_t gen = s->live.tree.gen;
	bool pinned = !b->system && !s->replaying && reclaim_pinned(s, r->ref.gen, gen);
	struct event *e;

	if (!r->node && b->system) {
		/* The system tree is in no snapshot and no view reads old roots of it. */
		e = event_take(b);
		e->kind = EVENT_RELEASED;
		e->addr = r->ref.addr;
		e->copy = r->ref.copy;
		e->blocks = node_blocks(s);
		e->birth = r->ref.gen;
		e->gen = gen;
		TAILQ_INSERT_TAIL(&s->events, e, list);
		atomic_fetch_add(&s->reclaiming, event_blocks(e));
	} else if (!r->node) {
		release(b, r->ref.addr, r->ref.copy, node_blocks(s), r->ref.gen, pinned);
	} else if (!pinned) {
		discard_node(b, r->node);
	} else {
		/* Never written, and only open views know it: theirs until they end, or until memory is short. */
		e = event_take(b);
		e->kind = EVENT_PRIVATE;
		e->addr = r->ref.addr;
		e->copy = r->ref.copy;
		e->blocks = node_blocks(s);
		e->birth = r->ref.gen;
		e->gen = gen;
		e->pinned = true;
		e->ripe = true;
		e->node = r->node;
		RB_INSERT(event_set, &s->pinned, e);
		TAILQ_INSERT_TAIL(&s->old_nodes, r->node, list);
		s->n_old_nodes++;
		atomic_fetch_add(&s->reclaiming, event_blocks(e));
	}
}

void reclaim_private(struct store *s, struct event *e)
{
	e->kind = EVENT_PRIVATE;
	atomic_fetch_add(&s->reclaiming, event_blocks(e));
	pthread_mutex_lock(&s->limbo_lock);
	TAILQ_INSERT_TAIL(&s->private, e, list);
	pthread_mutex_unlock(&s->limbo_lock);
}

void reclaim_private_node(struct batch *b, const struct released *r)
{
	struct event *e;

	if (r->ref.gen <= b->view->base_gen)
		return; /* live's, or a snapshot's */
	if (r->node) {
		discard_node(b, r->node);
		return;
	}
	e = event_take(b);
	e->addr = r->ref.addr;
	e->copy = r->ref.copy;
	e->blocks = node_blocks(b->store);
	reclaim_private(b->store, e);
}

/* The event with the greatest address <= addr, or NULL. */
static struct event *event_floor(struct event_set *set, uint64_t addr)
{
	struct event key = { .addr = addr };
	struct event *e = RB_NFIND(event_set, set, &key);

	if (e && e->addr == addr)
		return e;
	return e ? RB_PREV(event_set, set, e) : RB_MAX(event_set, set);
}

bool reclaim_find(struct event_set *set, uint64_t addr, uint64_t *blocks)
{
	struct event *e = event_floor(set, addr), *next;
	uint64_t end = addr + *blocks;

	if (e && e->addr + e->blocks > addr) {
		if (e->addr + e->blocks < end)
			*blocks = e->addr + e->blocks - addr;
		return true;
	}
	next = e ? RB_NEXT(event_set, set, e) : RB_MIN(event_set, set);
	if (next && next->addr < end)
		*blocks = next->addr - addr;
	return false;
}

/*
 * Cuts [addr, end) out of event e, which overlaps it, leaving e as that middle part: what lies outside becomes events of
 * its own with the same fate, beside it in whatever list and set e is in.
 */
static void event_cut(struct batch *b, struct event_set *set, struct event *e, uint64_t addr, uint64_t end, bool listed)
{
	uint64_t e_end = e->addr + e->blocks;

	if (e->addr < addr) {
		struct event *left = event_take(b);

		*left = *e;
		left->blocks = (uint32_t)(addr - e->addr);
		RB_REMOVE(event_set, set, e);
		e->addr = addr;
		e->blocks = (uint32_t)(e_end - addr);
		RB_INSERT(event_set, set, left);
		RB_INSERT(event_set, set, e);
		if (listed)
			TAILQ_INSERT_BEFORE(e, left, list);
		if (set == &b->store->dead)
			b->store->n_dead++;
	}
	if (e_end > end) {
		struct event *right = event_take(b);

		*right = *e;
		right->addr = end;
		right->blocks = (uint32_t)(e_end - end);
		e->blocks = (uint32_t)(end - e->addr);
		RB_INSERT(event_set, set, right);
		if (listed)
			TAILQ_INSERT_BEFORE(e, right, list);
		if (set == &b->store->dead)
			b->store->n_dead++;
	}
}

void reclaim_repin(struct batch *b, uint64_t addr, uint32_t blocks, uint64_t birth)
{
	struct store *s = b->store;
	uint64_t end = addr + blocks;

	for (uint64_t at = addr; at < end;) {
		uint64_t n = end - at;
		struct event *e;

		if (!reclaim_find(&s->pinned, at, &n)) {
			if (!s->replaying)
				abort(); /* refs_settle found it there, under the same lock */
			at += n; /* released before the checkpoint that replay begins with */
			continue;
		}
		e = event_floor(&s->pinned, at);
		event_cut(b, &s->pinned, e, at, end < e->addr + e->blocks ? end : e->addr + e->blocks, !e->ripe);
		at = e->addr + e->blocks;
		RB_REMOVE(event_set, &s->pinned, e);
		e->pinned = false;
		e->taken = true;
		atomic_fetch_sub(&s->reclaiming, event_blocks(e));
		if (e->ripe)
			mem_free(e);
	}
	reclaim_reached(b, addr, blocks, birth);
}

void reclaim_undead(struct batch *b, uint64_t addr, uint32_t blocks)
{
	struct store *s = b->store;

	for (uint64_t at = addr, left = blocks; left;) {
		uint64_t n = left;

		if (reclaim_find(&s->dead, at, &n)) {
			struct event *e = event_floor(&s->dead, at);

			event_cut(b, &s->dead, e, at, at + n, false);
			RB_REMOVE(event_set, &s->dead, e);
			s->n_dead--;
			mem_free(e);
		}
		at += n;
		left -= n;
	}
}

/* Hands a list of ripe events to limbo, with a stamp drawn now. Consumes the list. */
static void to_limbo(struct store *s, struct event_list *ripe)
{
	if (TAILQ_EMPTY(ripe))
		return;
	pthread_mutex_lock(&s->limbo_lock);
	TAILQ_CONCAT(&s->limbo_new, ripe, list);
	pthread_mutex_unlock(&s->limbo_lock);
}

void reclaim_unpin(struct store *s)
{
	struct event_list ripe = TAILQ_HEAD_INITIALIZER(ripe);
	struct event *e, *next;

	RB_FOREACH_SAFE(e, event_set, &s->pinned, next) {
		if (reclaim_pinned(s, e->birth, e->gen))
			continue;
		RB_REMOVE(event_set, &s->pinned, e);
		e->pinned = false;
		if (e->node) {
			TAILQ_REMOVE(&s->old_nodes, e->node, list);
			s->n_old_nodes--;
			cache_kill(s->cache, e->node);
			e->node = NULL;
		}
		if (e->ripe)
			TAILQ_INSERT_TAIL(&ripe, e, list);
	}
	to_limbo(s, &ripe);
}

void reclaim_ripen(struct store *s, struct event_list *staged)
{
	struct event_list ripe = TAILQ_HEAD_INITIALIZER(ripe);
	struct event *e;

	while ((e = TAILQ_FIRST(staged))) {
		TAILQ_REMOVE(staged, e, list);
		if (e->kind == EVENT_REACHED || e->taken) {
			mem_free(e);
			continue;
		}
		e->ripe = true;
		if (!e->pinned)
			TAILQ_INSERT_TAIL(&ripe, e, list);
	}
	to_limbo(s, &ripe);
}

/* One list of events back to the map. */
static int hand_back(struct store *s, struct event_list *list, int64_t *freed)
{
	struct event *e;
	int err = 0;

	while ((e = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, e, list);
		if (s->opt.discard) {
			(void)bdev_discard(s->bdev, e->addr, e->blocks);
			if (e->copy)
				(void)bdev_discard(s->bdev, e->copy, e->blocks);
		}
		err = space_free(s->space, e->addr, e->blocks);
		if (!err && e->copy) {
			/* Once the first copy is gone the second is an event of its own. */
			e->addr = e->copy;
			e->copy = 0;
			atomic_fetch_sub(&s->reclaiming, e->blocks);
			atomic_fetch_add(&s->reclaimed, e->blocks);
			*freed += e->blocks;
			err = space_free(s->space, e->addr, e->blocks);
		}
		if (err) {
			/* Without memory it waits for the next time, and so do the others. */
			TAILQ_INSERT_HEAD(list, e, list);
			to_limbo(s, list);
			return err;
		}
		atomic_fetch_sub(&s->reclaiming, event_blocks(e));
		atomic_fetch_add(&s->reclaimed, event_blocks(e));
		*freed += (int64_t)event_blocks(e);
		mem_free(e);
	}
	return err;
}

#define LIMBO_WAITS 200u /* of 0.1 ms and more */

int64_t reclaim_limbo(struct store *s, bool wait)
{
	int64_t freed = 0;

	/*
	 * The waiting is bounded: the caller may hold a transaction's lock (its commit) that someone inside an epoch waits
	 * for, or be inside one itself (view_read_begin).
	 */
	for (unsigned waits = 0;; waits++) {
		struct event_list ready = TAILQ_HEAD_INITIALIZER(ready);
		bool passed, empty;
		int err;

		/* Two lists: what waits for a stamp, and what has come since it was drawn. */
		pthread_mutex_lock(&s->limbo_lock);
		if (TAILQ_EMPTY(&s->limbo_old)) {
			TAILQ_CONCAT(&s->limbo_old, &s->limbo_new, list);
			s->limbo_stamp = epoch_stamp(s->epoch);
			s->limbo_reading = epoch_stamp(s->reading);
		}
		passed = epoch_passed(s->epoch, s->limbo_stamp) && epoch_passed(s->reading, s->limbo_reading);
		if (passed)
			TAILQ_CONCAT(&ready, &s->limbo_old, list);
		empty = TAILQ_EMPTY(&s->limbo_old) && TAILQ_EMPTY(&s->limbo_new);
		pthread_mutex_unlock(&s->limbo_lock);

		err = hand_back(s, &ready, &freed);
		if (err)
			return err;
		if (empty || (!passed && (!wait || waits >= LIMBO_WAITS)))
			return freed;
		if (!passed && waits < LIMBO_WAITS / 2)
			sched_yield();
		else if (!passed)
			nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	}
}

int reclaim_drain_some(struct batch *b)
{
	struct store *s = b->store;
	struct event *e;
	unsigned n = 0;

	b->n_draining = 0;
	RB_FOREACH(e, event_set, &s->dead) {
		struct disk_dead d = { .birth = le64_put(e->birth), .blocks = le32_put(e->blocks) };
		int err = batch_put(b, key_make(s->dead_list, SYSTEM_DEAD, e->addr), &d, sizeof(d));

		if (!err && e->copy)
			err = batch_put(b, key_make(s->dead_list, SYSTEM_DEAD, e->copy), &d, sizeof(d));
		if (err)
			return err;
		b->n_draining++;
		if (++n == 64)
			break;
	}
	return 0;
}

/* After batch_apply: what reclaim_drain_some put is in the tree. */
void reclaim_drained(struct batch *b)
{
	struct store *s = b->store;

	for (; b->n_draining; b->n_draining--) {
		struct event *e = RB_MIN(event_set, &s->dead);

		RB_REMOVE(event_set, &s->dead, e);
		s->n_dead--;
		mem_free(e);
	}
}

int reclaim_drain_dead(struct store *s, size_t leave)
{
	struct batch *b;
	bool more = true;
	int err;

	err = batch_open_system(s, &b);
	if (err)
		return err;
	while (more) {
		err = batch_lock(b);
		if (err)
			break;
		more = s->n_dead > leave;
		if (!more) {
			batch_finish(b);
			break;
		}
		err = reclaim_drain_some(b);
		if (err) {
			batch_cancel(b);
			break;
		}
		err = batch_prepare(b);
		if (err == -EAGAIN)
			continue;
		if (err)
			break;
		batch_apply(b);
		reclaim_drained(b);
		batch_finish(b);
	}
	batch_close(b);
	return err;
}

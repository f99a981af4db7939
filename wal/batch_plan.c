/*
 * batch_plan.c - everything that has to be true before a batch can be applied
 *
 * Before the lock: room in the log, frames and addresses for new nodes, and patience where memory or space is short.
 * Under it: every node the changes touch, every value they replace, what becomes of extents (refs.c), of the dead list
 * (taken.c), and whether what was brought suffices. Where it does not, the lock is dropped, the thing fetched, and planning
 * starts again from the first change; nothing has been changed.
 */
#include "btree/err.h"
#include "btree/mem.h"
#include "wal/batch_format.h"
#include "wal/store_int.h"

/* ---- admission ---- */

/* The record's length at the most. Every value can make one fresh range, and a commit can take ranges back besides. */
size_t batch_record_max(const struct batch *b)
{
	size_t body = b->bodies.n ? b->bodies.n * sizeof(struct disk_body) : b->changes_end - sizeof(struct disk_batch);

	return sizeof(struct disk_batch) + body + (2 * b->n_coll + b->allocated.n) * sizeof(struct disk_range) +
	       b->n_raises * sizeof(struct disk_counter);
}

int batch_admit(struct batch *b, size_t bytes)
{
	int err;

	if (bytes <= b->room_bytes)
		return 0;
	batch_drop_room(b);
	err = log_admit(b->store->log, bytes, b->data_blocks, &b->room);
	if (!err)
		b->room_bytes = bytes;
	return err == -E2BIG ? -EFBIG : err;
}

/* How many dirty nodes live and the transactions may have before operations wait for them to be written. */
static size_t dirty_max(struct store *s)
{
	return cache_frames(s->cache) / 8 * 7;
}

/*
 * Replay on a full device. A plan's need is a bound; when the batch was applied first, what it did not use of it was used
 * afterwards, by data that is marked as used already. So there may be less than the bound now. Takes all there is, at most
 * n; the batch is then applied change by change (batch_apply_slices), where the bound is close to what it takes.
 */
static size_t take_all(struct batch *b, struct node_addr *na, size_t n)
{
	size_t got = 0;

	while (got < n && !supply_nodes(b->store, b->class, &na[got], 1))
		got++;
	return got;
}

/* n addresses. A guess takes them only where they are at hand. *n may come back smaller: for a guess, and in replay. */
static int take_addrs(struct batch *b, struct node_addr *na, size_t *n, bool guess)
{
	struct store *s = b->store;
	int err = supply_nodes(s, b->class, na, *n);

	if (err && b->replay) {
		*n = take_all(b, na, *n);
		b->scarce = true;
		return 0;
	}
	if (err == -ENOSPC && guess) {
		*n = 0;
		return 0;
	}
	/* The checkpoint itself must not wait for a checkpoint. */
	for (unsigned tries = 0; err == -ENOSPC && b->class != SUPPLY_SYSTEM; tries++) {
		err = make_room(s, b->class, tries);
		if (err)
			break;
		err = supply_nodes(s, b->class, na, *n);
	}
	return err;
}

static int supply_grow(struct batch *b, size_t cap)
{
	struct tree_plan *p = &b->plan;
	struct node **frames;
	uint64_t *addrs, *copies;

	if (cap <= b->cap_supply)
		return 0;
	frames = mem_realloc(p->frames, cap * sizeof(*frames));
	if (!frames)
		return -ENOMEM;
	p->frames = frames;
	addrs = mem_realloc(p->addrs, cap * sizeof(*addrs));
	if (!addrs)
		return -ENOMEM;
	p->addrs = addrs;
	copies = mem_realloc(p->copies, cap * sizeof(*copies));
	if (!copies)
		return -ENOMEM;
	p->copies = copies;
	b->cap_supply = cap;
	return 0;
}

static int take_frames(struct batch *b, struct node **frames, size_t n)
{
	struct store *s = b->store;
	int err = cache_reserve(s->cache, frames, n);

	for (unsigned tries = 0; err == -EBUSY && tries < 8; tries++) {
		err = store_relieve(s);
		if (!err)
			err = cache_reserve(s->cache, frames, n);
	}
	return err == -EBUSY ? -EFBIG : err; /* what it has loaded and what it wants do not fit together */
}

/*
 * Frames and addresses for `want` new nodes. No locks held. guess: no plan has asked for them yet, so a full device is not an
 * error, nor reason to make room.
 */
static int supply_fill(struct batch *b, size_t want, bool guess)
{
	struct store *s = b->store;
	struct tree_plan *p = &b->plan;
	struct node_addr *na;
	size_t n, asked;
	int err;

	if (want <= p->supply)
		return 0;
	if (want > cache_frames(s->cache) / 2)
		return -EFBIG;
	err = supply_grow(b, want);
	if (err)
		return err;
	n = asked = want - p->supply;
	na = mem_alloc(n * sizeof(*na));
	if (!na)
		return -ENOMEM;
	err = take_frames(b, p->frames + p->supply, asked);
	if (err)
		goto out;
	err = take_addrs(b, na, &n, guess);
	if (err)
		n = 0;
	cache_unreserve(s->cache, p->frames + p->supply + n, asked - n);
	for (size_t i = 0; i < n; i++) {
		p->addrs[p->supply + i] = na[n - 1 - i].addr; /* taken from the end: ascending */
		p->copies[p->supply + i] = na[n - 1 - i].copy;
	}
	p->supply += n;
out:
	mem_free(na);
	return err;
}

int batch_supply(struct batch *b, size_t want)
{
	int err = supply_fill(b, want, false);

	return !err && b->plan.supply < want ? -ENOSPC : err;
}

/* As many as the last plan lacked. What cannot be had is not asked for again: the batch may be used for a smaller one. */
static int supply_wanted(struct batch *b, bool guess)
{
	int err = supply_fill(b, b->nodes_wanted < 8 ? 8 : b->nodes_wanted, guess);

	if (err)
		b->nodes_wanted = 0;
	return err;
}

/* Before the lock: waits where others must do something first. */
static int get_ready(struct batch *b)
{
	struct store *s = b->store;
	int err;

	if (!b->system) {
		err = store_failed(s);
		if (err)
			return err;
		for (unsigned tries = 0; cache_dirty(s->cache) > dirty_max(s) && tries < 4; tries++) {
			err = b->replay && !s->opt.read_only ? checkpoint_run(s, 0, NULL, NULL) : store_relieve(s);
			if (err)
				return err;
		}
		if (b->class == SUPPLY_RELEASING && supply_low(s)) {
			err = make_room(s, SUPPLY_RELEASING, 0);
			if (err && err != -ENOSPC)
				return err;
		}
	}
	return supply_wanted(b, b->class == SUPPLY_SYSTEM);
}

/* ---- planning ---- */

int batch_lock(struct batch *b)
{
	struct view *v = b->view;
	int err, state = atomic_load(&v->state);

	/* An ended transaction hears that, and not what else is wrong. */
	err = state == VIEW_STALE ? -ESTALE : get_ready(b);
	if (err) {
		batch_cancel(b);
		return err;
	}
	b->epoch_slot = epoch_enter(b->store->epoch);
	view_lock_exclusive(v);
	b->locked = true;
	state = atomic_load(&v->state);
	if (state != VIEW_OPEN) {
		batch_cancel(b);
		return state == VIEW_STALE ? -ESTALE : -EINVAL;
	}
	/* What a transaction gave up may be handed to it again two checkpoints later: never under the same generation. */
	if (v->kind == VIEW_TXN && v->ckpt_count != atomic_load(&b->store->checkpoints)) {
		v->ckpt_count = atomic_load(&b->store->checkpoints);
		v->tree.gen = store_next_gen(b->store);
	}
	return 0;
}

struct miss *batch_miss(struct batch *b)
{
	return &b->miss;
}

int batch_fault(struct batch *b)
{
	int err;

	b->locked = false;
	pthread_rwlock_unlock(&b->view->lock);
	err = view_fault(b->store, &b->miss, b->epoch_slot);
	return err ? err : -EAGAIN;
}

int batch_get(struct batch *b, struct key key, const void **ret_val, size_t *ret_len)
{
	struct tree *t = batch_tree(b);
	int err = tree_get(b->store->cache, &t->root, t->id, key, ret_val, ret_len, &b->miss);

	if (!err || err == -ENOENT)
		return err;
	if (err == -EAGAIN)
		err = batch_fault(b);
	if (!(err == -EAGAIN && b->keep))
		batch_cancel(b);
	return err;
}

static int on_old(void *arg, const struct change *c, struct key key, const void *val, size_t len)
{
	struct batch *b = arg;
	struct extent x;

	(void)c;
	if (!record_extent(&b->store->files_table, key, val, len, &x))
		return 0;
	return refs_add(&b->refs, x.addr, x.blocks, -1, x.birth);
}

static int count_new(struct batch *b)
{
	int err = 0;

	for (size_t i = 0; !err && i < b->n_changes; i++) {
		const struct change *c = &b->changes[i];
		struct extent x;

		if (c->op == CHANGE_PUT && record_extent(&b->store->files_table, c->key, c->val, c->len, &x))
			err = refs_add(&b->refs, x.addr, x.blocks, +1, x.birth);
	}
	return err;
}

/* The changes the batch makes to the tree: its own, and those to shared counts, which sort behind them. */
static int plan_all(struct batch *b)
{
	struct refs *r = &b->refs;
	struct tree_plan *p = &b->plan;

	p->changes = b->changes;
	p->n = b->n_changes;
	if (!r->n_changes)
		return 0;
	if (mem_grow((void **)&b->merged, &b->cap_merged, b->n_changes + r->n_changes, sizeof(*b->merged)))
		return -ENOMEM;
	memcpy(b->merged, b->changes, b->n_changes * sizeof(*b->merged));
	memcpy(b->merged + b->n_changes, r->changes, r->n_changes * sizeof(*b->merged));
	p->changes = b->merged;
	p->n = b->n_changes + r->n_changes;
	p->old = NULL;
	return tree_plan(batch_tree(b), p, &b->miss);
}

static int plan_tree(struct batch *b)
{
	struct tree_plan *p = &b->plan;
	int err;

	refs_reset(&b->refs);
	p->changes = b->changes;
	p->n = b->n_changes;
	p->old = b->system ? NULL : on_old;
	p->arg = b;
	err = b->system ? 0 : count_new(b);
	p->need = p->need_released = 0;
	if (!err && p->n)
		err = tree_plan(batch_tree(b), p, &b->miss);
	if (!err && !b->system)
		err = refs_settle(b, &b->miss);
	if (!err)
		err = plan_all(b);
	return err;
}

static bool is_fresh(const struct refs *r, uint64_t addr)
{
	for (size_t i = 0; i < r->fresh.n; i++)
		if (addr >= r->fresh.at[i].addr && addr - r->fresh.at[i].addr < r->fresh.at[i].blocks)
			return true;
	return false;
}

/*
 * A value has one birth for all of its blocks. One that begins with older blocks and ends with fresh ones says the older
 * ones' birth, so that has to be the present generation; what the caller saw (view_gen) may have changed since.
 */
static int check_joined(const struct batch *b)
{
	uint64_t gen = b->view->tree.gen;

	for (size_t i = 0; b->refs.fresh.n && i < b->n_changes; i++) {
		const struct change *c = &b->changes[i];
		struct extent x;

		if (c->op == CHANGE_PUT && record_extent(&b->store->files_table, c->key, c->val, c->len, &x) && x.addr &&
		    x.blocks > 1 && x.birth != gen && is_fresh(&b->refs, x.addr + x.blocks - 1) && !is_fresh(&b->refs, x.addr))
			return -ERESTART;
	}
	return 0;
}

enum lack { LACK_NODE, LACK_NESTED, LACK_SUPPLY, LACK_LOG, LACK_CLAIMS };

/* Taken ranges that stand on the dead list in the system tree: the items go, and what is left of them comes back. */
static int plan_nested(struct batch *b, enum lack *what)
{
	struct store *s = b->store;
	struct batch *n = b->nested;
	int err = 0;

	if (!n) {
		err = batch_open_system(s, &b->nested);
		if (err)
			return err;
		n = b->nested;
	}
	batch_reset(n);
	err = taken_collect(b);
	if (!err && n->n_coll) {
		err = batch_sort(n);
		if (!err) {
			n->plan.changes = n->changes;
			n->plan.n = n->n_changes;
			n->plan.old = NULL;
			/* A miss of its own: a plan's says what its apply must find. */
			err = tree_plan(&s->system, &n->plan, &n->miss);
			*what = LACK_NESTED;
		}
	}
	return err;
}

/* What applying takes besides nodes: memory for what is released, events, the record's tail. */
static int reserve_memory(struct batch *b)
{
	struct refs *r = &b->refs;
	struct tree_plan *p = &b->plan;
	size_t events = r->fresh.n + r->unused.n + r->released.n + r->taken.n + 3 * r->n_taken_events + p->need_released +
			b->bodies.n + b->n_extra;

	if (mem_grow((void **)&p->released, &p->n_released_max, p->need_released, sizeof(*p->released)) ||
	    mem_grow((void **)&b->buf, &b->cap,
		     b->changes_end + sizeof(struct disk_batch) + b->bodies.n * sizeof(struct disk_body) +
			     (r->fresh.n + r->taken.n) * sizeof(struct disk_range) +
			     b->n_raises * sizeof(struct disk_counter),
		     1))
		return -ENOMEM;
	return events_reserve(b, events);
}

static void rebase(struct batch *b, const uint8_t *old)
{
	for (size_t i = 0; i < b->n_changes; i++)
		b->changes[i].val = b->buf + ((const uint8_t *)b->changes[i].val - old);
}

static size_t record_bytes(const struct batch *b)
{
	return sizeof(struct disk_batch) +
	       (b->bodies.n ? b->bodies.n * sizeof(struct disk_body) : b->changes_end - sizeof(struct disk_batch)) +
	       (b->refs.fresh.n + b->refs.taken.n) * sizeof(struct disk_range) +
	       b->n_raises * sizeof(struct disk_counter);
}

/* Everything that has to be true before applying. Lock held. -EAGAIN: something is missing, see *what. */

static int plan(struct batch *b, enum lack *what)
{
	struct store *s = b->store;
	const uint8_t *buf = b->buf;
	struct batch *n = b->nested;
	int err;

	*what = LACK_NODE;
	err = plan_tree(b);
	if (!err && !b->system && !b->replay && !b->merge)
		err = check_joined(b);
	if (!err && b->refs.taken.n) {
		err = plan_nested(b, what);
		n = b->nested;
	}
	if (err)
		return err;
	/* A commit is one batch: what it changes and the nodes it touches, about as many as the transaction has made, must
	 * fit in memory. */
	if (b->view->kind == VIEW_TXN && (b->view->changed_bytes + b->changes_end > s->opt.cache_bytes / 2 ||
					  b->view->own_nodes + b->plan.need > cache_frames(s->cache) / 3))
		return -ENOSPC;
	if (b->refs.claims > 0 && !b->replay) {
		/* What a transaction has claimed is to become live's, and stands in for it. */
		uint64_t mine = b->merge_claims > 0 ? (uint64_t)b->merge_claims : 0, all = store_claims(s);

		if (supply_for_claims((all > mine ? all - mine : 0) + (uint64_t)b->refs.claims) > space_free_blocks(s->space)) {
			*what = LACK_CLAIMS;
			return -EAGAIN;
		}
	}
	*what = LACK_SUPPLY;
	b->slices = b->replay && b->scarce && b->plan.need > b->plan.supply;
	if (b->plan.need > b->plan.supply && !b->slices) {
		b->nodes_wanted = b->plan.need;
		return -EAGAIN;
	}
	if (n && n->n_coll && n->plan.need > n->plan.supply) {
		n->nodes_wanted = n->plan.need;
		return -EAGAIN;
	}
	err = reserve_memory(b);
	if (!err && n && n->n_coll)
		err = reserve_memory(n);
	if (b->buf != buf)
		rebase(b, buf);
	if (b->plan.changes != b->changes && b->buf != buf)
		memcpy(b->merged, b->changes, b->n_changes * sizeof(*b->merged));
	if (err)
		return err;
	*what = LACK_LOG;
	return batch_is_logged(b) ? batch_admit(b, record_bytes(b)) : 0;
}

/* Drops the lock and gets what is lacking. */
static int fetch(struct batch *b, enum lack what)
{
	int err = 0;

	b->locked = false;
	pthread_rwlock_unlock(&b->view->lock);
	if (what == LACK_NODE || what == LACK_NESTED)
		return view_fault(b->store, what == LACK_NODE ? &b->miss : &b->nested->miss, b->epoch_slot);
	epoch_exit(b->store->epoch, b->epoch_slot);
	if (what == LACK_LOG) {
		batch_drop_room(b);
		return checkpoint_wait(b->store);
	}
	/* What was released may still wait for its checkpoint. A batch that is begun again by its caller would ask for ever. */
	if (what == LACK_CLAIMS)
		return b->keep ? make_room(b->store, b->class, b->claim_tries++) : -ENOSPC;
	err = supply_wanted(b, false);
	if (!err && b->nested)
		err = supply_wanted(b->nested, false);
	return err;
}

/* One attempt. 0: planned, lock held. -EAGAIN: lock dropped, what was missing is there, the batch still full. */
static int try_plan(struct batch *b)
{
	enum lack what = LACK_NODE;
	int err = b->changes_end ? 0 : batch_sort(b); /* once; a batch that locks early comes here unsorted */

	if (!err)
		err = plan(b, &what);
	if (err == -EAGAIN) {
		err = fetch(b, what);
		if (!err)
			err = -EAGAIN;
	}
	return err;
}

int batch_prepare(struct batch *b)
{
	int err = try_plan(b);

	/* Kept batches (a commit's) are planned again as they are. */
	if (err && !(err == -EAGAIN && b->keep))
		batch_cancel(b);
	return err;
}

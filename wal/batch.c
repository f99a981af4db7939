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

static struct tree *batch_tree(struct batch *b)
{
	return b->system ? &b->store->system : &b->view->tree;
}

static bool is_live(const struct batch *b)
{
	return b->view->kind == VIEW_LIVE;
}

static bool is_logged(const struct batch *b)
{
	return is_live(b) && !b->system && !b->replay;
}

/* ---- collecting ---- */

static void batch_reset(struct batch *b)
{
	b->len = sizeof(struct disk_batch);
	b->changes_end = 0;
	b->n_coll = b->n_changes = 0;
	b->allocated.n = b->replay_taken.n = b->bodies.n = 0;
	b->claimed_alloc = 0;
	b->n_runs = b->n_raises = 0;
	b->data_blocks = 0;
	b->n_draining = 0;
	b->n_extra = 0;
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

static void drop_room(struct batch *b)
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
	drop_room(b);
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
	if (counter >= SUPER_COUNTERS || !is_live(b))
		return -EINVAL;
	if (mem_grow((void **)&b->raises, &b->cap_raises, b->n_raises + 1, sizeof(*b->raises)))
		return -ENOMEM;
	b->raises[b->n_raises].counter = counter;
	b->raises[b->n_raises++].value = value;
	return 0;
}

void batch_releases(struct batch *b)
{
	if (b->class == SUPPLY_NORMAL)
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

/* ---- from what was collected to sorted changes, one a key ---- */

static int collected_cmp(const void *pa, const void *pb)
{
	const struct collected *a = pa, *b = pb;
	int c = key_cmp(a->key, b->key);

	return c ? c : (a->order > b->order) - (a->order < b->order);
}

static bool in_order(const struct collected *c, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (!key_less(c[i - 1].key, c[i].key))
			return false;
	return true;
}

static int add_change(struct batch *b, const struct collected *c, struct key from, struct key to)
{
	if (mem_grow((void **)&b->changes, &b->cap_changes, b->n_changes + 1, sizeof(*b->changes)))
		return -ENOMEM;
	b->changes[b->n_changes++] =
		(struct change){ .key = from, .end = to, .val = b->buf + c->val, .len = c->len, .op = c->op };
	return 0;
}

static int change_cmp(const void *pa, const void *pb)
{
	const struct change *a = pa, *b = pb;

	return key_cmp(a->key, b->key);
}

/*
 * Ranges and single keys to changes that do not overlap: a range covers what came before it, and what came after cuts it.
 * Sorted by key; runs once per batch, ranges are few.
 */
static int sort_changes(struct batch *b)
{
	struct collected *c = b->coll;
	size_t n = b->n_coll, ranges = 0;
	struct key done = KEY_MIN; /* ranges so far reach up to here */

	if (b->changes_end)
		return 0;
	b->n_changes = 0;
	b->changes_end = b->len;
	for (size_t i = 0; i < n; i++)
		ranges += c[i].op == CHANGE_DEL_RANGE;
	if (!in_order(c, n))
		qsort(c, n, sizeof(*c), collected_cmp);
	for (size_t i = 0; i < n; i++) {
		bool covered = false;
		struct key at, end;

		if (c[i].op != CHANGE_DEL_RANGE) {
			/* The last of a key wins, unless a later range covers it. */
			for (size_t j = i + 1; j < n && key_equal(c[j].key, c[i].key); j++)
				covered |= c[j].op != CHANGE_DEL_RANGE;
			for (size_t j = 0; ranges && j < n && !covered; j++)
				covered = c[j].op == CHANGE_DEL_RANGE && c[j].order > c[i].order &&
					  !key_less(c[i].key, c[j].key) && key_less(c[i].key, c[j].end);
			if (!covered && add_change(b, &c[i], c[i].key, c[i].key))
				return -ENOMEM;
			continue;
		}
		at = key_less(c[i].key, done) ? done : c[i].key;
		end = c[i].end;
		if (!key_less(at, end))
			continue;
		done = end;
		/* Keys inside that survive (they are younger) cut it in pieces. */
		for (size_t j = 0; j < n; j++) {
			bool inside = c[j].op != CHANGE_DEL_RANGE && !key_less(c[j].key, at) && key_less(c[j].key, end);

			if (!inside)
				continue;
			for (size_t k = 0; inside && k < n; k++)
				inside = !(c[k].op == CHANGE_DEL_RANGE && c[k].order > c[j].order &&
					   !key_less(c[j].key, c[k].key) && key_less(c[j].key, c[k].end));
			if (!inside)
				continue;
			if (key_less(at, c[j].key) && add_change(b, &c[i], at, c[j].key))
				return -ENOMEM;
			at = key_next(c[j].key);
		}
		if (key_less(at, end) && add_change(b, &c[i], at, end))
			return -ENOMEM;
	}
	/* The pieces of a range stand in front of the keys that cut it. */
	if (ranges)
		qsort(b->changes, b->n_changes, sizeof(*b->changes), change_cmp);
	return 0;
}

/* ---- admission ---- */

/* The record's length at the most. Every value can make one fresh range, and a commit can take ranges back besides. */
static size_t record_bytes_max(const struct batch *b)
{
	size_t body = b->bodies.n ? b->bodies.n * sizeof(struct disk_body) : b->changes_end - sizeof(struct disk_batch);

	return sizeof(struct disk_batch) + body + (2 * b->n_coll + b->allocated.n) * sizeof(struct disk_range) +
	       b->n_raises * sizeof(struct disk_counter);
}

static int admit(struct batch *b, size_t bytes)
{
	int err;

	if (bytes <= b->room_bytes)
		return 0;
	drop_room(b);
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

/* Nodes and addresses for `want` new nodes. No locks held. */
static int supply_fill(struct batch *b, size_t want)
{
	struct store *s = b->store;
	struct tree_plan *p = &b->plan;
	struct node_addr *na;
	size_t n, cap = b->cap_supply;
	int err;

	if (want <= p->supply)
		return 0;
	if (want > cache_frames(s->cache) / 2)
		return -EFBIG;
	if (want > cap) {
		struct node **frames = mem_realloc(p->frames, want * sizeof(*frames));
		uint64_t *addrs, *copies;

		if (!frames)
			return -ENOMEM;
		p->frames = frames;
		addrs = mem_realloc(p->addrs, want * sizeof(*addrs));
		if (!addrs)
			return -ENOMEM;
		p->addrs = addrs;
		copies = mem_realloc(p->copies, want * sizeof(*copies));
		if (!copies)
			return -ENOMEM;
		p->copies = copies;
		b->cap_supply = want;
	}
	n = want - p->supply;
	na = mem_alloc(n * sizeof(*na));
	if (!na)
		return -ENOMEM;
	err = cache_reserve(s->cache, p->frames + p->supply, n);
	for (unsigned tries = 0; err == -EBUSY && tries < 8; tries++) {
		err = store_relieve(s);
		if (!err)
			err = cache_reserve(s->cache, p->frames + p->supply, n);
	}
	if (err)
		goto out;
	for (unsigned tries = 0;; tries++) {
		err = supply_nodes(s, b->class, na, n);
		if (err != -ENOSPC)
			break;
		/* The checkpoint itself must not wait for a checkpoint. */
		err = b->class == SUPPLY_SYSTEM ? -ENOSPC : make_room(s, b->class, tries);
		if (err)
			break;
	}
	if (err) {
		cache_unreserve(s->cache, p->frames + p->supply, n);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		p->addrs[p->supply + i] = na[n - 1 - i].addr; /* taken from the end: ascending */
		p->copies[p->supply + i] = na[n - 1 - i].copy;
	}
	p->supply += n;
out:
	mem_free(na);
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
	return supply_fill(b, b->nodes_wanted < 8 ? 8 : b->nodes_wanted);
}

/* ---- planning ---- */

int batch_lock(struct batch *b)
{
	struct view *v = b->view;
	int err, state;

	err = get_ready(b);
	if (err) {
		batch_cancel(b);
		return err;
	}
	b->epoch_slot = epoch_enter(b->store->epoch);
	pthread_rwlock_wrlock(&v->lock);
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

enum lack { LACK_NODE, LACK_NESTED, LACK_SUPPLY, LACK_LOG };

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
		err = sort_changes(n);
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
	if (!err && b->refs.taken.n) {
		err = plan_nested(b, what);
		n = b->nested;
	}
	if (err)
		return err;
	/* What a commit has to hold in memory is bounded. */
	if (b->view->kind == VIEW_TXN && b->view->changed_bytes + b->changes_end > s->opt.cache_bytes / 2)
		return -ENOSPC;
	if (b->refs.claims > 0 && !b->replay) {
		/* What a transaction has claimed is to become live's, and stands in for it. */
		uint64_t mine = b->merge_claims > 0 ? (uint64_t)b->merge_claims : 0, all = store_claims(s);

		if ((all > mine ? all - mine : 0) + (uint64_t)b->refs.claims > space_free_blocks(s->space))
			return -ENOSPC;
	}
	*what = LACK_SUPPLY;
	if (b->plan.need > b->plan.supply) {
		b->nodes_wanted = b->plan.need + 4;
		return -EAGAIN;
	}
	if (n && n->n_coll && n->plan.need > n->plan.supply) {
		n->nodes_wanted = n->plan.need + 4;
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
	return is_logged(b) ? admit(b, record_bytes(b)) : 0;
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
		drop_room(b);
		return checkpoint_wait(b->store);
	}
	err = supply_fill(b, b->nodes_wanted);
	if (!err && b->nested)
		err = supply_fill(b->nested, b->nested->nodes_wanted);
	return err;
}

/* One attempt. 0: planned, lock held. -EAGAIN: lock dropped, what was missing is there, the batch still full. */
static int try_plan(struct batch *b)
{
	enum lack what = LACK_NODE;
	int err = b->changes_end ? 0 : sort_changes(b); /* once; a batch that locks early comes here unsorted */

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

/* ---- applying ---- */

static bool in_ranges(const struct ref_ranges *v, uint64_t addr)
{
	size_t lo = 0, hi = v->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (v->at[mid].addr + v->at[mid].blocks <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < v->n && v->at[lo].addr <= addr;
}

/* What the batch wrote itself is born with it. */
static void set_births(struct batch *b, uint64_t gen)
{
	const struct record_table *t = &b->store->files_table;

	if (!b->refs.fresh.n)
		return;
	for (size_t i = 0; i < b->n_changes; i++) {
		const struct change *c = &b->changes[i];
		struct extent x;

		if (c->op == CHANGE_PUT && record_extent(t, c->key, c->val, c->len, &x) && x.addr &&
		    in_ranges(&b->refs.fresh, x.addr))
			t->row[key_type(c->key)].set_birth(b->buf + ((const uint8_t *)c->val - b->buf), c->len, gen);
	}
}

static void add_tail(struct batch *b, const struct ref_ranges *v)
{
	for (size_t i = 0; i < v->n; i++) {
		struct disk_range d = { .addr = le64_put(v->at[i].addr), .blocks = le32_put(v->at[i].blocks) };

		memcpy(b->buf + b->len, &d, sizeof(d));
		b->len += sizeof(d);
	}
}

/*
 * The record, in the buffer that holds the changes already: its header stands in front of them; or behind them, where the
 * changes are an outside body and not part of the record. Returns where it starts.
 */
static const uint8_t *finish_record(struct batch *b, uint64_t gen)
{
	struct disk_batch h = {
		.gen = le64_put(gen),
		.flags = le32_put(b->bodies.n ? BATCH_OUTSIDE : 0),
		.changes = le32_put((uint32_t)b->n_coll),
		.fresh = le32_put((uint32_t)b->refs.fresh.n),
		.taken = le32_put((uint32_t)b->refs.taken.n),
		.counters = le32_put((uint32_t)b->n_raises),
		.bodies = le32_put((uint32_t)b->bodies.n),
		.change_bytes = le64_put(b->changes_end - sizeof(h)),
		.change_sum = le64_put(b->bodies.n ? b->body_sum : 0),
	};
	uint8_t *rec = b->bodies.n ? b->buf + b->changes_end : b->buf;

	memcpy(rec, &h, sizeof(h));
	b->len = b->changes_end + (b->bodies.n ? sizeof(h) : 0);
	add_tail(b, &b->bodies);
	add_tail(b, &b->refs.fresh);
	add_tail(b, &b->refs.taken);
	for (size_t i = 0; i < b->n_raises; i++) {
		struct disk_counter d = { .counter = le32_put(b->raises[i].counter), .value = le64_put(b->raises[i].value) };

		memcpy(b->buf + b->len, &d, sizeof(d));
		b->len += sizeof(d);
	}
	return rec;
}

static uint64_t log_record(struct batch *b, uint64_t gen)
{
	struct store *s = b->store;
	const uint8_t *rec = finish_record(b, gen);
	uint64_t lsn = log_append(s->log, &b->room, rec, (size_t)(b->buf + b->len - rec), b->runs, b->n_runs);

	b->room_bytes = 0;
	if (b->len > s->batch_max)
		s->batch_max = b->len;
	return lsn;
}

static void private_event(struct batch *b, uint64_t addr, uint32_t blocks)
{
	struct event *e = event_take(b);

	e->addr = addr;
	e->blocks = blocks;
	reclaim_private(b->store, e);
}

static void apply_extents(struct batch *b, uint64_t gen)
{
	struct refs *r = &b->refs;
	struct store *s = b->store;

	for (size_t i = 0; i < r->unused.n; i++) {
		data_drop(s->data, r->unused.at[i].addr, r->unused.at[i].blocks);
		private_event(b, r->unused.at[i].addr, r->unused.at[i].blocks);
	}
	for (size_t i = 0; i < r->released.n; i++) {
		const struct ref_range *x = &r->released.at[i];

		if (is_live(b)) {
			reclaim_extent(b, x->addr, x->blocks, x->birth);
		} else if (x->birth > b->view->base_gen) {
			data_drop(s->data, x->addr, x->blocks);
			private_event(b, x->addr, x->blocks);
		}
	}
	if (r->fresh.n && !is_live(b))
		b->view->own_extents = true;
	for (size_t i = 0; is_live(b) && i < r->fresh.n; i++)
		reclaim_reached(b, r->fresh.at[i].addr, r->fresh.at[i].blocks, gen);
	for (size_t i = 0; i < r->taken.n; i++) {
		const struct ref_range *x = &r->taken.at[i];

		if (x->birth > s->parent_gen)
			reclaim_repin(b, x->addr, x->blocks, x->birth);
		else
			reclaim_undead(b, x->addr, x->blocks);
	}
	for (size_t i = 0; i < b->bodies.n; i++)
		private_event(b, b->bodies.at[i].addr, b->bodies.at[i].blocks);
	b->bodies.n = 0;
	b->allocated.n = 0;
}

static void apply_tree(struct batch *b)
{
	struct tree_plan *p = &b->plan;

	p->n_released = 0;
	if (p->n)
		tree_apply(batch_tree(b), p);
	for (size_t i = 0; i < p->n_released; i++) {
		if (is_live(b))
			reclaim_node(b, &p->released[i]);
		else
			reclaim_private_node(b, &p->released[i]);
	}
}

void batch_apply(struct batch *b)
{
	struct store *s = b->store;
	struct view *v = b->view;
	uint64_t gen = b->replay ? b->replay_gen : batch_tree(b)->gen;

	b->lsn = 0;
	if (b->system) {
		apply_tree(b);
		return;
	}
	set_births(b, gen);
	if (is_logged(b)) {
		b->lsn = log_record(b, gen);
		if (!LIST_EMPTY(&s->watches))
			watch_note(s, b->changes, b->n_changes);
	} else if (!b->replay) {
		for (size_t i = 0; i < b->n_runs; i++)
			data_disown(s->data, b->runs[i]);
	}
	b->n_runs = 0;
	apply_tree(b);
	apply_extents(b, gen);
	if (b->nested && b->nested->n_coll && b->refs.taken.n)
		apply_tree(b->nested);
	if (b->refs.n_changes)
		v->has_shared = true;
	atomic_fetch_add(is_live(b) ? &s->claims : &s->txn_claims, b->refs.claims);
	if (is_live(b)) {
		for (size_t i = 0; i < b->n_raises; i++)
			if (b->raises[i].value > s->counter[b->raises[i].counter])
				s->counter[b->raises[i].counter] = b->raises[i].value;
	} else {
		v->claims += b->refs.claims;
		v->changed_bytes += b->changes_end;
	}
}

/* ---- the usual way ---- */

int batch_write_body(struct batch *b)
{
	struct store *s = b->store;
	size_t bytes, done = 0;
	int err = 0;

	if (b->bodies.n || !is_logged(b) || record_bytes_max(b) <= log_record_max(s->log))
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

void checkpoint_if_due(struct store *s)
{
	struct log_status ls;

	log_status(s->log, &ls);
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
		err = sort_changes(b);
	if (!err)
		err = batch_write_body(b);
	while (!err && is_logged(b)) {
		err = admit(b, record_bytes_max(b));
		if (err != -EAGAIN)
			break;
		err = checkpoint_wait(b->store);
	}
	return err;
}

/* Locks and plans, as often as it takes. */
static int lock_and_plan(struct batch *b)
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
		err = lock_and_plan(b);
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

/* ---- replay ---- */

static int replay_change(void *arg, const struct change *c)
{
	struct batch *b = arg;

	if (c->op == CHANGE_PUT)
		return batch_put(b, c->key, c->val, c->len);
	return c->op == CHANGE_DEL ? batch_del(b, c->key) : batch_del_range(b, c->key, c->end);
}

static int replay_body(struct batch *b, const struct batch_record *r)
{
	size_t blocks = 0, done = 0;
	uint8_t *buf;
	int err = 0;

	for (uint32_t i = 0; i < r->n_bodies; i++)
		blocks += le32_get(r->bodies[i].blocks);
	if (r->change_bytes > blocks * BLOCK_SIZE || r->change_bytes + BLOCK_SIZE <= blocks * BLOCK_SIZE)
		return corrupt("log record", 0, "bytes of its outside body", r->change_bytes, blocks * BLOCK_SIZE);
	buf = mem_alloc_blocks(blocks * BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	for (uint32_t i = 0; !err && i < r->n_bodies; i++) {
		uint32_t n = le32_get(r->bodies[i].blocks);

		err = bdev_read(b->store->bdev, le64_get(r->bodies[i].addr), buf + done, n);
		done += (size_t)n * BLOCK_SIZE;
	}
	if (!err && XXH3_64bits(buf, r->change_bytes) != r->change_sum)
		err = bad_checksum("log record", le64_get(r->bodies[0].addr), "checksum of its outside body",
				   XXH3_64bits(buf, r->change_bytes), r->change_sum);
	if (!err)
		err = batch_changes_read(buf, r->change_bytes, r->n_changes, replay_change, b);
	mem_free(buf);
	return err;
}

int batch_replay(struct batch *b, const void *record, size_t len)
{
	struct batch_record r;
	int err;

	err = batch_record_read(record, len, &r);
	if (err)
		return err;
	b->replay_gen = r.gen;
	err = r.outside ? replay_body(b, &r) : batch_changes_read(r.changes, r.change_bytes, r.n_changes, replay_change, b);
	for (uint32_t i = 0; !err && i < r.n_fresh; i++)
		err = ranges_add(&b->allocated, le64_get(r.fresh[i].addr), le32_get(r.fresh[i].blocks), 0);
	for (uint32_t i = 0; !err && i < r.n_taken; i++)
		err = ranges_add(&b->replay_taken, le64_get(r.taken[i].addr), le32_get(r.taken[i].blocks), 0);
	for (uint32_t i = 0; !err && i < r.n_bodies; i++)
		err = ranges_add(&b->bodies, le64_get(r.bodies[i].addr), le32_get(r.bodies[i].blocks), 0);
	for (uint32_t i = 0; !err && i < r.n_counters; i++)
		err = batch_raise(b, le32_get(r.counters[i].counter), le64_get(r.counters[i].value));
	if (!err)
		err = lock_and_plan(b);
	if (err) {
		b->bodies.n = 0;
		batch_cancel(b);
		return err;
	}
	batch_apply(b);
	batch_finish(b);
	return 0;
}

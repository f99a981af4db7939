/*
 * merge.c - a transaction's commit: what it changed, merged into live as one batch
 *
 * The work is done off live's lock, against a frozen live: the transaction's changes are the difference of its root from
 * its base, grouped by object, and the upper layer decides group by group what becomes of live. What it says is kept
 * per group. A *watch* meanwhile notes which objects live's batches change. Then, under the lock, the groups of those
 * objects are decided again, against live itself, and the whole is applied as one batch: one record, so all of it or
 * nothing is recovered. Where live has changed much meanwhile, the round is repeated off the lock first.
 *
 * First committer wins: whoever gets the lock has committed, the other sees it as a change of live.
 */
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

#define REDO_LOCKED_MAX 64u /* more groups than that are decided again off the lock */

struct said { /* one result: put or delete */
	struct key key;
	size_t val, len; /* in group.values */
	bool put;
};

struct group {
	uint64_t ino;
	struct change_item *items; /* mine against base; memory in merge.mem */
	size_t n, cap;
	struct said *said;
	size_t n_said, cap_said;
	uint8_t *values;
	size_t n_values, cap_values;
	bool stale; /* live has changed it since it was decided */
};

struct merge {
	struct view *txn;
	struct store *store;
	struct view *live; /* frozen; NULL: under the lock, through batch */
	struct batch *batch;
	struct group *groups, *now;
	size_t n_groups, cap_groups;
	uint8_t **mem; /* copies of items' values */
	size_t n_mem, cap_mem;
	uint8_t *got; /* merge_live's answer */
	size_t cap_got;
	struct watch watch;
	bool watching;
	bool refill; /* the batch does not hold what the groups say */
};

void watch_note(struct store *s, const struct change *c, size_t n)
{
	struct watch *w;

	LIST_FOREACH(w, &s->watches, list) {
		for (size_t i = 0; i < n && !w->overflow; i++) {
			uint64_t ino = key_ino(c[i].key);

			if (w->n && w->inos[w->n - 1] == ino)
				continue;
			/* A range over several objects: all of them. Bounded: past that, everything may have changed. */
			if ((c[i].op == CHANGE_DEL_RANGE && key_ino(c[i].end) != ino &&
			     !(key_ino(c[i].end) == ino + 1 && !key_type(c[i].end) && !c[i].end.off)) ||
			    w->n >= 65536 || mem_grow((void **)&w->inos, &w->cap, w->n + 1, sizeof(*w->inos)))
				w->overflow = true;
			else
				w->inos[w->n++] = ino;
		}
	}
}

/* ---- what the policy may call ---- */

int merge_live(struct merge *m, struct key key, const void **ret_val, size_t *ret_len)
{
	size_t len;
	int err;

	if (!m->live)
		return batch_get(m->batch, key, ret_val, ret_len);
	for (;;) {
		err = view_get(m->live, key, m->got, m->cap_got, &len);
		if (err || len <= m->cap_got)
			break;
		if (mem_grow((void **)&m->got, &m->cap_got, len, 1))
			return -ENOMEM;
	}
	if (!err) {
		*ret_val = m->got;
		*ret_len = len;
	}
	return err;
}

static int say(struct merge *m, struct key key, bool put, const void *val, size_t len)
{
	struct group *g = m->now;

	if (!g)
		return -EINVAL;
	if (mem_grow((void **)&g->said, &g->cap_said, g->n_said + 1, sizeof(*g->said)) ||
	    mem_grow((void **)&g->values, &g->cap_values, g->n_values + len + 1, 1))
		return -ENOMEM;
	g->said[g->n_said++] = (struct said){ key, g->n_values, len, put };
	if (len)
		memcpy(g->values + g->n_values, val, len);
	g->n_values += len;
	return 0;
}

int merge_put(struct merge *m, struct key key, const void *val, size_t len)
{
	return say(m, key, true, val, len);
}

int merge_del(struct merge *m, struct key key)
{
	return say(m, key, false, NULL, 0);
}

int merge_take(struct merge *m, const struct change_item *it)
{
	return it->mine ? merge_put(m, it->key, it->mine, it->mine_len) : merge_del(m, it->key);
}

static bool same(const void *a, size_t a_len, const void *b, size_t b_len)
{
	return !a == !b && (!a || (a_len == b_len && !memcmp(a, b, a_len)));
}

static int by_key_group(void *arg, struct merge *m, uint64_t ino, const struct change_item *items, size_t n)
{
	(void)arg;
	(void)ino;
	for (size_t i = 0; i < n; i++) {
		const struct change_item *it = &items[i];
		const void *live = NULL;
		size_t len = 0;
		int err = merge_live(m, it->key, &live, &len);

		if (err && err != -ENOENT)
			return err;
		if (err == -ENOENT)
			live = NULL;
		if (same(live, len, it->base, it->base_len))
			err = merge_take(m, it);
		else
			err = same(live, len, it->mine, it->mine_len) ? 0 : -ETXNCONFLICT;
		if (err)
			return err;
	}
	return 0;
}

const struct merge_ops merge_by_key = { .group = by_key_group };

/* ---- what the transaction has changed ---- */

static bool is_shared_item(struct key k)
{
	return key_ino(k) == KEY_INO_MAX && key_type(k) == RECORD_SHARED;
}

static int txn_differences(struct view *v, int (*each)(void *arg, const struct change_item *), void *arg)
{
	struct diff_item d;
	struct diff *diff;
	int err;

	err = diff_open(v->store->cache, TREE_FILES, &v->base, &v->tree.root, &diff);
	if (err)
		return err;
	while (!(err = diff_next(diff, &d))) {
		struct change_item it = { .key = d.key, .base = d.a, .mine = d.b, .base_len = d.a_len, .mine_len = d.b_len };

		if (is_shared_item(d.key))
			break; /* counts follow from the changes; nothing comes behind them */
		err = each(arg, &it);
		if (err)
			break;
	}
	diff_close(diff);
	return err > 0 ? 0 : err;
}

static void merge_release(struct merge *m);

static int copy_value(struct merge *m, const void **val, size_t len)
{
	uint8_t *copy;

	if (!*val)
		return 0;
	if (mem_grow((void **)&m->mem, &m->cap_mem, m->n_mem + 1, sizeof(*m->mem)))
		return -ENOMEM;
	copy = mem_alloc(len ? len : 1);
	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, *val, len);
	m->mem[m->n_mem++] = copy;
	*val = copy;
	return 0;
}

static int add_item(void *arg, const struct change_item *item)
{
	struct merge *m = arg;
	uint64_t ino = key_ino(item->key);
	struct change_item it = *item;
	struct group *g = m->n_groups ? &m->groups[m->n_groups - 1] : NULL;
	int err;

	if (!g || g->ino != ino) {
		if (mem_grow((void **)&m->groups, &m->cap_groups, m->n_groups + 1, sizeof(*m->groups)))
			return -ENOMEM;
		g = &m->groups[m->n_groups++];
		*g = (struct group){ .ino = ino, .stale = true };
	}
	if (mem_grow((void **)&g->items, &g->cap, g->n + 1, sizeof(*g->items)))
		return -ENOMEM;
	err = copy_value(m, &it.base, it.base_len);
	if (!err)
		err = copy_value(m, &it.mine, it.mine_len);
	if (!err)
		g->items[g->n++] = it;
	return err;
}

/* Collected under the lock, told without it: nodes that a batch replaces meanwhile would go from under the walk. */
/* ---- the rounds ---- */

static int decide(struct merge *m, const struct merge_ops *ops, void *arg, struct group *g)
{
	int err;

	g->n_said = g->n_values = 0;
	m->now = g;
	err = ops->group(arg, m, g->ino, g->items, g->n);
	m->now = NULL;
	if (!err)
		g->stale = false;
	return err;
}

static int ino_cmp(const void *pa, const void *pb)
{
	const uint64_t *a = pa, *b = pb;

	return (*a > *b) - (*a < *b);
}

static bool has_ino(const uint64_t *inos, size_t n, uint64_t ino)
{
	return n && bsearch(&ino, inos, n, sizeof(*inos), ino_cmp);
}

/* Marks the groups live has touched since the watch began; how many. Under live's lock. */
static size_t mark_stale(struct merge *m)
{
	struct watch *w = &m->watch;
	size_t n = 0;

	if (w->n)
		qsort(w->inos, w->n, sizeof(*w->inos), ino_cmp);
	for (size_t i = 0; i < m->n_groups; i++) {
		struct group *g = &m->groups[i];

		if (w->overflow || has_ino(w->inos, w->n, g->ino))
			g->stale = true;
		n += g->stale;
	}
	return n;
}

/* Serializable: has live changed what the transaction read? Under the lock, for what came after the frozen live. */
static bool reads_touched(struct merge *m, const struct txn_commit_options *opt)
{
	struct watch *w = &m->watch;

	for (size_t i = 0; i < opt->n_reads; i++)
		if (w->overflow || has_ino(w->inos, w->n, opt->reads[i]))
			return true;
	return false;
}

static int check_reads(struct merge *m, const struct txn_commit_options *opt)
{
	struct diff_item d;
	struct diff *diff;
	int err;

	if (!opt->n_reads)
		return 0;
	err = diff_open(m->store->cache, TREE_FILES, &m->txn->base, &m->live->tree.root, &diff);
	if (err)
		return err;
	while (!(err = diff_next(diff, &d)))
		if (has_ino(opt->reads, opt->n_reads, key_ino(d.key))) {
			err = -ETXNCONFLICT;
			break;
		}
	diff_close(diff);
	return err > 0 ? 0 : err;
}

static void watch_stop(struct merge *m)
{
	if (!m->watching)
		return;
	pthread_rwlock_wrlock(&m->store->live.lock);
	LIST_REMOVE(&m->watch, list);
	pthread_rwlock_unlock(&m->store->live.lock);
	m->watching = false;
}

/*
 * Freezes live and watches it from that moment on: begun before, so nothing falls between; and what a watch noted after
 * the last look at it counts still.
 */
static int look_at_live(struct merge *m)
{
	struct store *s = m->store;

	view_close(m->live);
	m->live = NULL;
	pthread_rwlock_wrlock(&s->live.lock);
	(void)mark_stale(m);
	m->watch.n = 0;
	m->watch.overflow = false;
	if (!m->watching)
		LIST_INSERT_HEAD(&s->watches, &m->watch, list);
	m->watching = true;
	pthread_rwlock_unlock(&s->live.lock);
	return view_freeze(s, &m->live);
}

static int fill_batch(struct merge *m)
{
	struct batch *b = m->batch;
	int err = 0;

	batch_cancel(b);
	for (size_t i = 0; !err && i < m->n_groups; i++) {
		const struct group *g = &m->groups[i];

		for (size_t j = 0; !err && j < g->n_said; j++) {
			const struct said *x = &g->said[j];

			err = x->put ? batch_put(b, x->key, g->values + x->val, x->len) : batch_del(b, x->key);
		}
	}
	return err;
}

/*
 * The last step: under the lock, decides again what live has touched, then applies. -EAGAIN: something was loaded or
 * prepared, call again; *ret_far: live has moved so far that another round off the lock is better.
 */
static int commit_locked(struct merge *m, const struct merge_ops *ops, void *arg, const struct txn_commit_options *opt,
			 uint64_t *ret_lsn, bool *ret_far)
{
	struct batch *b = m->batch;
	size_t stale;
	int err;

	err = batch_lock(b);
	if (err)
		return err;
	if (m->txn->base_gen <= m->store->rollback_gen) {
		batch_cancel(b);
		return -ESTALE;
	}
	stale = mark_stale(m);
	if (reads_touched(m, opt)) {
		batch_cancel(b);
		return -ETXNCONFLICT;
	}
	if (stale > REDO_LOCKED_MAX || m->watch.overflow) {
		batch_cancel(b);
		*ret_far = true;
		return -EAGAIN;
	}
	if (stale) {
		/* Decided against live as it stands; then once more through the lock with the batch filled anew. */
		struct view *frozen = m->live;

		m->live = NULL;
		b->keep = true;
		for (size_t i = 0; !err && i < m->n_groups; i++)
			if (m->groups[i].stale)
				err = decide(m, ops, arg, &m->groups[i]);
		m->live = frozen;
		b->keep = false;
		if (!err) {
			m->watch.n = 0;
			m->refill = true;
		}
		if (b->locked)
			batch_cancel(b);
		return err ? err : -EAGAIN;
	}
	if (ops->finish) {
		struct view *frozen = m->live;

		m->live = NULL;
		b->keep = true;
		err = ops->finish(arg, m);
		b->keep = false;
		m->live = frozen;
		if (err) {
			if (b->locked)
				batch_cancel(b);
			m->refill = true;
			return err;
		}
	}
	b->keep = true;
	err = batch_prepare(b);
	b->keep = false;
	if (err) {
		m->refill = err != -EAGAIN;
		return err;
	}
	batch_apply(b);
	*ret_lsn = b->lsn;
	atomic_fetch_sub(&m->store->txn_claims, m->txn->claims);
	m->txn->claims = 0;
	/* What the transaction wrote is live's from here on; its view goes on reading it, so what live releases of it later
	 * stays. */
	m->txn->committed.gen = m->store->live.tree.gen;
	m->store->live.tree.gen = store_next_gen(m->store);
	LIST_INSERT_HEAD(&m->store->pins, &m->txn->committed, list);
	m->txn->committed_pinned = true;
	atomic_store(&m->txn->state, VIEW_COMMITTED);
	batch_finish(b);
	return 0;
}

static void merge_release(struct merge *m)
{
	watch_stop(m);
	view_close(m->live);
	batch_close(m->batch);
	for (size_t i = 0; i < m->n_groups; i++) {
		mem_free(m->groups[i].items);
		mem_free(m->groups[i].said);
		mem_free(m->groups[i].values);
	}
	for (size_t i = 0; i < m->n_mem; i++)
		mem_free(m->mem[i]);
	mem_free(m->groups);
	mem_free(m->mem);
	mem_free(m->got);
	mem_free(m->watch.inos);
}

/* Everything up to the application; the transaction's lock is held. */
static int merge_run(struct merge *m, const struct merge_ops *ops, void *arg, const struct txn_commit_options *opt,
		     uint64_t *ret_lsn)
{
	struct view *v = m->txn;
	bool far = true;
	int err;

	err = txn_differences(v, add_item, m);
	if (err || !m->n_groups)
		return err;
	/* What the transaction wrote is to be durable before the record that refers to it can be. */
	if (v->own_extents) {
		data_write_home(m->store->data, DATA_PRIVATE);
		err = data_wait(m->store->data);
		if (!err)
			err = data_flush(m->store->data);
		if (err)
			return err;
	}
	err = batch_open(&m->store->live, &m->batch);
	if (err)
		return err;
	m->batch->merge = true;
	m->batch->base_gen = v->base_gen;
	m->batch->merge_claims = v->claims;
	m->refill = true;
	for (;;) {
		if (far) {
			err = look_at_live(m);
			if (!err)
				err = check_reads(m, opt);
			for (size_t i = 0; !err && i < m->n_groups; i++)
				if (m->groups[i].stale)
					err = decide(m, ops, arg, &m->groups[i]);
			if (err)
				return err;
			far = false;
			m->refill = true;
		}
		if (m->refill) {
			err = fill_batch(m);
			if (!err)
				err = batch_make_ready(m->batch);
			if (err)
				return err;
			m->refill = false;
		}
		err = commit_locked(m, ops, arg, opt, ret_lsn, &far);
		if (err != -EAGAIN)
			return err;
	}
}

/* With every frame dirty or pinned nothing can be loaded: writes what can be written, without the transaction's lock. */
#define RELIEVE_TRIES 4u

static bool relieved(struct store *s, int err, unsigned tries)
{
	return err == -EBUSY && tries < RELIEVE_TRIES && !store_relieve(s);
}

static int commit_once(struct view *v, const struct merge_ops *ops, void *arg, const struct txn_commit_options *opt,
		       uint64_t *ret_lsn)
{
	struct merge m = { .txn = v, .store = v->store };
	int err;

	pthread_rwlock_wrlock(&v->lock);
	switch (atomic_load(&v->state)) {
	case VIEW_STALE:
		err = -ESTALE;
		break;
	case VIEW_COMMITTED:
		err = -EINVAL;
		break;
	default:
		err = merge_run(&m, ops, arg, opt, ret_lsn);
		if (!err)
			atomic_store(&v->state, VIEW_COMMITTED); /* also when there was nothing to merge */
	}
	pthread_rwlock_unlock(&v->lock);
	merge_release(&m);
	return err;
}

int txn_commit(struct view *v, const struct merge_ops *ops, void *arg, const struct txn_commit_options *opt)
{
	static const struct txn_commit_options defaults;
	uint64_t lsn = 0;
	unsigned tries = 0;
	int err;

	if (v->kind != VIEW_TXN)
		return -EINVAL;
	if (!opt)
		opt = &defaults;
	err = store_failed(v->store);
	if (err)
		return err;
	do
		err = commit_once(v, ops, arg, opt, &lsn);
	while (relieved(v->store, err, tries++));
	if (!err) {
		atomic_fetch_sub(&v->store->n_txns, 1);
		checkpoint_if_due(v->store);
	}
	if (!err && lsn && !opt->no_sync)
		err = store_sync_lsn(v->store, lsn);
	return err;
}

int txn_diff(struct view *v, int (*each)(void *arg, const struct change_item *), void *arg)
{
	unsigned tries = 0;
	int err;

	if (v->kind != VIEW_TXN)
		return -EINVAL;
	do {
		struct merge m = { .txn = v, .store = v->store };

		pthread_rwlock_rdlock(&v->lock);
		err = atomic_load(&v->state) == VIEW_STALE ? -ESTALE : txn_differences(v, add_item, &m);
		pthread_rwlock_unlock(&v->lock);
		if (!err) {
			for (size_t i = 0; !err && i < m.n_groups; i++)
				for (size_t j = 0; !err && j < m.groups[i].n; j++)
					err = each(arg, &m.groups[i].items[j]);
			merge_release(&m);
			return err;
		}
		merge_release(&m);
	} while (relieved(v->store, err, tries++));
	return err;
}

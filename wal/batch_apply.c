/*
 * batch_apply.c - a planned batch happens: record, tree, events. Nothing here can fail.
 */
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/batch_format.h"

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

		if (batch_is_live(b)) {
			reclaim_extent(b, x->addr, x->blocks, x->birth);
		} else if (x->birth > b->view->base_gen) {
			reclaim_drop_data(s, x->addr, x->blocks);
			private_event(b, x->addr, x->blocks);
		}
	}
	if (r->fresh.n && !batch_is_live(b))
		b->view->own_extents = true;
	for (size_t i = 0; batch_is_live(b) && i < r->fresh.n; i++)
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

void batch_apply_tree(struct batch *b)
{
	struct tree_plan *p = &b->plan;

	size_t supply = p->supply;

	p->n_released = 0;
	if (p->n)
		tree_apply(batch_tree(b), p);
	b->view->own_nodes += supply - p->supply;
	for (size_t i = 0; i < p->n_released; i++) {
		if (batch_is_live(b)) {
			reclaim_node(b, &p->released[i]);
		} else {
			b->view->own_nodes -= p->released[i].ref.gen > b->view->base_gen;
			reclaim_private_node(b, &p->released[i]);
		}
	}
}

void batch_apply(struct batch *b)
{
	struct store *s = b->store;
	struct view *v = b->view;
	uint64_t gen = b->replay ? b->replay_gen : batch_tree(b)->gen;

	b->lsn = 0;
	if (b->system) {
		batch_apply_tree(b);
		return;
	}
	set_births(b, gen);
	if (batch_is_logged(b)) {
		b->lsn = log_record(b, gen);
		if (!LIST_EMPTY(&s->watches))
			watch_note(s, b->changes, b->n_changes);
	} else if (!b->replay) {
		for (size_t i = 0; i < b->n_runs; i++)
			data_disown(s->data, b->runs[i]);
	}
	b->n_runs = 0;
	if (b->slices)
		b->slices_err = batch_apply_slices(b);
	else
		batch_apply_tree(b);
	apply_extents(b, gen);
	if (b->nested && b->nested->n_coll && b->refs.taken.n)
		batch_apply_tree(b->nested);
	if (b->refs.n_changes)
		v->has_shared = true;
	atomic_fetch_add(batch_is_live(b) ? &s->claims : &s->txn_claims, b->refs.claims);
	if (batch_is_live(b)) {
		for (size_t i = 0; i < b->n_raises; i++)
			if (b->raises[i].value > s->counter[b->raises[i].counter])
				s->counter[b->raises[i].counter] = b->raises[i].value;
	} else {
		v->claims += b->refs.claims;
		v->changed_bytes += b->changes_end;
	}
}

/*
 * batch_replay.c - a record of the log becomes a batch again
 */
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/batch_read.h"

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
	buf = mem_alloc_blocks(blocks * BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	for (uint32_t i = 0; !err && i < r->n_bodies; i++) {
		uint32_t n = le32_get(r->bodies[i].blocks);

		err = data_read(b->store->data, le64_get(r->bodies[i].addr), n, buf + done);
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

/*
 * Where the bound for the whole batch cannot be had: each change is planned and applied by itself, which no one sees, because
 * nothing is served before recovery has ended. References have been settled over the whole batch.
 */
int batch_apply_slices(struct batch *b)
{
	struct store *s = b->store;
	struct tree_plan *p = &b->plan;
	const struct change *changes = p->changes;
	size_t n = p->n;

	p->n = 1;
	p->old = NULL;
	for (size_t i = 0; i < n;) {
		int err;

		p->changes = &changes[i];
		err = tree_plan(batch_tree(b), p, &b->miss);
		if (!err && p->need <= p->supply) {
			if (mem_grow((void **)&p->released, &p->n_released_max, p->need_released, sizeof(*p->released)))
				return -ENOMEM;
			/* Those reserved for the extents come on top. */
			err = events_reserve(b, b->n_spare + p->need_released);
			if (err)
				return err;
			batch_apply_tree(b);
			i++;
			continue;
		}
		if (err && err != -EAGAIN)
			return err;
		pthread_rwlock_unlock(&b->view->lock);
		if (err) {
			err = view_fault(s, &b->miss, b->epoch_slot);
		} else {
			epoch_exit(s->epoch, b->epoch_slot);
			err = batch_supply(b, p->need);
		}
		b->epoch_slot = epoch_enter(s->epoch);
		pthread_rwlock_wrlock(&b->view->lock);
		if (err)
			return err;
	}
	return 0;
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
		err = batch_lock_and_plan(b);
	if (err) {
		b->bodies.n = 0;
		batch_cancel(b);
		return err;
	}
	batch_apply(b);
	err = b->slices ? b->slices_err : 0;
	batch_finish(b);
	return err;
}

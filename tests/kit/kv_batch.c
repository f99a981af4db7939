#include "tests/kit/kv_batch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/tree.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rng.h"

#define TRIES_MAX 1000

/* One change as it was asked for. */
struct edit {
	enum change_op op;
	struct key key, end;
	size_t len;
	uint8_t *val;
};

struct build {
	struct kv_run *run;
	const struct kv_op *op;
	struct kvmap *state; /* what the view holds before, not ours */
	struct batch *batch;
	struct rng rng;
	struct edit *edit;
	size_t n, cap;
	uint64_t raise; /* of counter 0; 0: none */
};

static void note(struct build *b, struct edit e, const void *val)
{
	if (b->n == b->cap) {
		b->cap = b->cap * 2 + 16;
		b->edit = realloc(b->edit, b->cap * sizeof(*b->edit));
		if (!b->edit)
			abort();
	}
	if (e.op == CHANGE_PUT) {
		e.val = malloc(e.len + 1);
		if (!e.val)
			abort();
		memcpy(e.val, val, e.len);
	}
	b->edit[b->n++] = e;
}

static void forget(struct build *b)
{
	for (size_t i = 0; i < b->n; i++)
		free(b->edit[i].val);
	b->n = 0;
	b->raise = 0;
}

/* ---- single changes ---- */

static int put(struct build *b, struct key key, const void *val, size_t len)
{
	int err = batch_put(b->batch, key, val, len);

	if (!err)
		note(b, (struct edit){ .op = CHANGE_PUT, .key = key, .len = len }, val);
	return err;
}

static int del(struct build *b, struct key key)
{
	int err = batch_del(b->batch, key);

	if (!err)
		note(b, (struct edit){ .op = CHANGE_DEL, .key = key }, NULL);
	return err;
}

static int del_range(struct build *b, struct key from, struct key to)
{
	int err = batch_del_range(b->batch, from, to);

	if (!err)
		note(b, (struct edit){ .op = CHANGE_DEL_RANGE, .key = from, .end = to }, NULL);
	return err;
}

static int put_bytes(struct build *b, uint64_t ino, uint64_t off, size_t len)
{
	uint8_t val[BLOCK_SIZE];
	uint64_t tag = b->run->next_tag++;

	if (len > tree_value_max(NODE_SIZE_MIN))
		len = tree_value_max(NODE_SIZE_MIN);
	kv_fill(val, tag, 0);
	return put(b, key_make(ino, KVT_BYTES, off), val, len);
}

static int put_link(struct build *b, uint64_t ino, uint64_t off)
{
	char text[40];
	int len = snprintf(text, sizeof(text), "../target/%" PRIu64, b->run->next_tag++);

	return put(b, key_make(ino, KVT_LINK, off), text, (size_t)len);
}

/* Data for blocks just taken, whole or in two parts. */
static int put_data(struct build *b, const struct extent *e, const struct kv_extent_val *v)
{
	uint32_t cut = e->blocks > 1 && rng_chance(&b->rng, 1, 4) ? e->blocks / 2 : e->blocks;

	for (uint32_t from = 0; from < e->blocks; from += cut) {
		uint32_t n = e->blocks - from < cut ? e->blocks - from : cut;
		uint32_t sums[256];
		uint8_t *buf = mem_alloc_blocks((size_t)n * BLOCK_SIZE);
		int err;

		if (!buf)
			return -ENOMEM;
		for (uint32_t i = 0; i < n; i++) {
			sums[i] = le32_get(v->sums[from + i]);
			kv_fill(buf + (size_t)i * BLOCK_SIZE, le64_get(v->tag), le32_get(v->first) + from + i);
		}
		err = batch_data(b->batch, e->addr + from, n, buf, sums);
		if (err)
			return err;
	}
	return 0;
}

/* `blocks` blocks of fresh data, in as many items as the store gives runs. */
static int put_extent(struct build *b, uint64_t ino, uint64_t off, uint32_t blocks, bool claimed)
{
	uint64_t tag = b->run->next_tag++;

	for (uint32_t done = 0; done < blocks;) {
		uint8_t val[KV_VALUE_MAX];
		uint32_t want = blocks - done < KV_EXTENT_BLOCKS_MAX ? blocks - done : KV_EXTENT_BLOCKS_MAX;
		struct extent e;
		size_t len;
		int err;

		err = batch_alloc(b->batch, want, claimed, &e);
		if (err)
			return err;
		if (!e.addr || !e.blocks || e.blocks > want)
			return kv_broken(b->run, "batch_alloc of %u gives %" PRIu64 "+%u", want, e.addr, e.blocks);
		len = kv_extent_make(val, e.addr, e.blocks, tag, done, NULL);
		err = put_data(b, &e, (struct kv_extent_val *)val);
		if (!err)
			err = put(b, key_make(ino, KVT_EXTENT, off + done), val, len);
		if (err)
			return err;
		done += e.blocks;
	}
	return 0;
}

/* ---- changes that begin with what is there ---- */

/* The value of a key under the batch's lock, compared with the model's. 1: there is none. */
static int get(struct build *b, struct key key, uint8_t *val, size_t *ret_len)
{
	const struct kv *want = kvmap_find(b->state, key);
	uint8_t same[KV_VALUE_MAX];
	const void *p;
	size_t len;
	int err = batch_get(b->batch, key, &p, &len);

	if (err && err != -ENOENT)
		return err;
	if ((err == -ENOENT) != !want)
		return kv_broken(b->run, "batch_get %s a key that is %s", err ? "misses" : "finds",
				 want ? "there" : "not there");
	if (err)
		return 1;
	if (len != want->len)
		return kv_broken(b->run, "batch_get of a wrong length");
	memcpy(val, p, len);
	memcpy(same, p, len);
	kv_canonical(key, same, len);
	if (memcmp(same, want->val, len) != 0)
		return kv_broken(b->run, "batch_get of a wrong value");
	*ret_len = len;
	return 0;
}

static int clone(struct build *b, uint64_t ino, uint64_t off, uint64_t ino2, uint32_t part, bool move)
{
	uint8_t val[KV_VALUE_MAX], copy[KV_VALUE_MAX];
	struct key key = key_make(ino, KVT_EXTENT, off);
	uint32_t blocks, from = 0;
	size_t len;
	int err = get(b, key, val, &len);

	if (err)
		return err;
	blocks = kv_extent_blocks(val);
	if (part && part < blocks)
		from = (uint32_t)rng_below(&b->rng, blocks - part + 1);
	else
		part = blocks;
	len = kv_extent_part(val, from, part, copy);
	err = put(b, key_make(ino2, KVT_EXTENT, off + from), copy, len);
	if (!err && move)
		err = del(b, key);
	return err;
}

/* What a write in the middle of an extent does to its item. The new block has been put by put_extent before. */
static int split(struct build *b, uint64_t ino, uint64_t off, uint32_t at)
{
	uint8_t val[KV_VALUE_MAX], part[KV_VALUE_MAX];
	size_t len;
	int err = get(b, key_make(ino, KVT_EXTENT, off), val, &len);

	if (err)
		return err;
	len = kv_extent_part(val, 0, at, part);
	err = put(b, key_make(ino, KVT_EXTENT, off), part, len);
	if (!err && kv_extent_blocks(val) > at + 1) {
		len = kv_extent_part(val, at + 1, kv_extent_blocks(val) - at - 1, part);
		err = put(b, key_make(ino, KVT_EXTENT, off + at + 1), part, len);
	}
	return err;
}

/* ---- whole batches ---- */

static int lock(struct build *b)
{
	return batch_lock(b->batch);
}

static int build_split(struct build *b)
{
	const struct kv_op *op = b->op;
	const struct kv *old = kvmap_find(b->state, key_make(op->ino, KVT_EXTENT, op->off));
	uint32_t at;
	int err;

	if (!old || kv_extent_blocks(old->val) < 2)
		return 1;
	at = 1 + (uint32_t)rng_below(&b->rng, kv_extent_blocks(old->val) - 1);
	err = put_extent(b, op->ino, op->off + at, 1, kv_extent_tag(old->val) == 0);
	if (!err)
		err = lock(b);
	return err ? err : split(b, op->ino, op->off, at);
}

static int build_fill(struct build *b)
{
	const struct kv_op *op = b->op;
	const struct kv *old = kvmap_find(b->state, key_make(op->ino, KVT_EXTENT, op->off));
	int err;

	if (!old || kv_extent_tag(old->val))
		return 1;
	/* Where the store gives less than the whole, the rest of the claim is replaced by the following items all the same. */
	err = put_extent(b, op->ino, op->off, kv_extent_blocks(old->val), true);
	return err;
}

static int build_many(struct build *b)
{
	int err = 0;

	for (unsigned i = 0; !err && i < b->op->n; i++)
		err = put_bytes(b, b->op->ino, b->op->off + i, b->op->len);
	return err;
}

static int mix_one(struct build *b, bool locked)
{
	uint64_t ino = b->op->ino + rng_below(&b->rng, 4), ino2 = b->op->ino + rng_below(&b->rng, 4);
	uint64_t off = rng_below(&b->rng, 4);
	int err;

	if (!locked) {
		switch (rng_below(&b->rng, 4)) {
		case 0:
			return put_bytes(b, ino, off, rng_range(&b->rng, 1, 600));
		case 1:
			return put_link(b, ino, off);
		default:
			return put_extent(b, ino, off, (uint32_t)rng_range(&b->rng, 1, 4), false);
		}
	}
	switch (rng_below(&b->rng, 6)) {
	case 0:
		return put_bytes(b, ino, off, rng_range(&b->rng, 1, 900));
	case 1:
		return del(b, key_make(ino, KVT_EXTENT, off));
	case 2:
		return del(b, key_make(ino, KVT_BYTES, off));
	case 3:
		return del_range(b, key_make(ino, 0, 0), key_make(ino, KVT_BYTES, 2));
	default:
		/* The source may have been changed by this very batch: batch_get says what was before it. */
		err = clone(b, ino, off, ino2, (uint32_t)rng_below(&b->rng, 3), false);
		return err > 0 ? 0 : err;
	}
}

static int build_mix(struct build *b)
{
	unsigned n = b->op->n ? b->op->n : 4, early = n / 2;
	int err = 0;

	for (unsigned i = 0; !err && i < early; i++)
		err = mix_one(b, false);
	if (!err)
		err = lock(b);
	for (unsigned i = early; !err && i < n; i++)
		err = mix_one(b, true);
	if (!err && b->op->view == 0) {
		b->raise = model_now(&b->run->model)->counter[0] + 1 + rng_below(&b->rng, 5);
		err = batch_raise(b->batch, 0, b->raise);
	}
	return err;
}

static int build_claim(struct build *b)
{
	uint8_t val[KV_VALUE_MAX];
	uint32_t blocks = b->op->n < KV_EXTENT_BLOCKS_MAX ? b->op->n : KV_EXTENT_BLOCKS_MAX;
	size_t len = kv_claim_make(val, blocks);

	return put(b, key_make(b->op->ino, KVT_EXTENT, b->op->off), val, len);
}

static bool has_ino(const struct build *b, uint64_t ino)
{
	size_t i = kvmap_lower(b->state, key_make(ino, 0, 0));

	return i < kvmap_count(b->state) && key_ino(kvmap_at(b->state, i)->key) == ino;
}

static int build_del(struct build *b)
{
	const struct kv_op *op = b->op;
	int err = 0;
	bool any = false;

	for (uint8_t type = KVT_BYTES; !err && type <= KVT_LINK; type++) {
		struct key key = key_make(op->ino, type, op->off);

		if (!kvmap_find(b->state, key))
			continue;
		any = true;
		err = del(b, key);
	}
	return err || any ? err : 1;
}

static int build_clone(struct build *b)
{
	const struct kv_op *op = b->op;
	int err = lock(b);

	return err ? err : clone(b, op->ino, op->off, op->ino2, op->n, op->action == KV_MOVE);
}

static int build(struct build *b)
{
	const struct kv_op *op = b->op;
	int err;

	rng_seed(&b->rng, op->seed);
	switch ((enum kv_action)op->action) {
	case KV_PUT:
		return put_bytes(b, op->ino, op->off, op->len);
	case KV_PUT_MANY:
		return build_many(b);
	case KV_PUT_LINK:
		return put_link(b, op->ino, op->off);
	case KV_DEL:
		batch_releases(b->batch);
		return build_del(b);
	case KV_DEL_INO:
		if (!has_ino(b, op->ino))
			return 1;
		batch_releases(b->batch);
		return del_range(b, key_make(op->ino, 0, 0), key_make(op->ino + 1u, 0, 0));
	case KV_MIX:
		return build_mix(b);
	case KV_EXTENT:
		return put_extent(b, op->ino, op->off, op->n, false);
	case KV_TWO_EXTENTS:
		err = put_extent(b, op->ino, op->off, op->n, false);
		return err ? err : put_extent(b, op->ino2, op->off, op->len, false);
	case KV_CLAIM:
		return build_claim(b);
	case KV_FILL:
		return build_fill(b);
	case KV_CLONE:
	case KV_MOVE:
		return build_clone(b);
	case KV_SPLIT:
		return build_split(b);
	default:
		abort();
	}
}

static void apply(const struct build *b, struct kvmap **state)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct edit *e = &b->edit[i];

		switch (e->op) {
		case CHANGE_PUT:
			kvmap_put(state, e->key, e->val, e->len);
			break;
		case CHANGE_DEL:
			kvmap_del(state, e->key);
			break;
		case CHANGE_DEL_RANGE:
			kvmap_del_range(state, e->key, e->end);
			break;
		}
	}
}

static void commit_model(struct build *b, uint64_t lsn)
{
	struct world *w;

	if (b->op->view) {
		apply(b, &b->run->txn[b->op->view - 1].mine);
		return;
	}
	w = model_next(&b->run->model);
	w->lsn = lsn;
	apply(b, &w->live);
	if (b->raise > w->counter[0])
		w->counter[0] = b->raise;
}

int kv_batch_op(struct kv_run *r, const struct kv_op *op)
{
	struct kv_txn *t = op->view ? &r->txn[op->view - 1] : NULL;
	struct build b = { .run = r, .op = op, .state = t ? t->mine : model_now(&r->model)->live };
	uint64_t lsn = 0;
	int err;

	err = batch_open(t ? t->view : store_live(r->store), &b.batch);
	if (err)
		return err;
	err = -EAGAIN;
	for (int i = 0; err == -EAGAIN; i++) {
		if (i == TRIES_MAX) {
			err = kv_broken(r, "a batch begins again without end");
			break;
		}
		forget(&b);
		err = build(&b);
		if (!err)
			err = batch_commit(b.batch, &lsn);
		else if (err != -EAGAIN)
			batch_cancel(b.batch);
	}
	if (!err && !t && lsn == 0)
		err = kv_broken(r, "a batch of the live view has no number");
	if (!err)
		commit_model(&b, lsn);
	batch_close(b.batch);
	forget(&b);
	free(b.edit);
	return err;
}

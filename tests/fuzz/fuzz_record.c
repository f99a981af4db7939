/*
 * A log record: batch_record_read and batch_changes_read. The input is the record.
 */
#include <assert.h>
#include <string.h>

#include "btree/err.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/quiet.h"
#include "tests/kit/rng.h"
#include "wal/batch_read.h"

/* What the changes are taken to be, which must lie inside the bytes they were read from. */
struct seen {
	const uint8_t *begin, *end;
	uint64_t sum;
	uint32_t n;
};

static void touch(struct seen *seen, const void *p, size_t len)
{
	const uint8_t *at = p;

	assert(at >= seen->begin && at <= seen->end && len <= (size_t)(seen->end - at));
	for (size_t i = 0; i < len; i++)
		seen->sum += at[i];
}

static int look(void *arg, const struct change *c)
{
	struct seen *seen = arg;

	assert(c->op == CHANGE_PUT || c->op == CHANGE_DEL || c->op == CHANGE_DEL_RANGE);
	if (c->op == CHANGE_PUT)
		touch(seen, c->val, c->len);
	if (c->op == CHANGE_DEL_RANGE)
		assert(key_less(c->key, c->end));
	seen->n++;
	return 0;
}

static void read_changes(const void *changes, size_t bytes, uint32_t n)
{
	struct seen seen = { .begin = changes, .end = (const uint8_t *)changes + bytes };
	int err;

	err = batch_changes_read(changes, bytes, n, look, &seen);
	assert(!err || err == -EUCLEAN);
	assert(err || seen.n == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seen seen = { .begin = data, .end = data + size };
	struct batch_record r;
	int err;

	err = batch_record_read(data, size, &r);
	assert(!err || err == -EUCLEAN);
	if (!err) {
		touch(&seen, r.bodies, r.n_bodies * sizeof(*r.bodies));
		touch(&seen, r.fresh, r.n_fresh * sizeof(*r.fresh));
		touch(&seen, r.taken, r.n_taken * sizeof(*r.taken));
		touch(&seen, r.counters, r.n_counters * sizeof(*r.counters));
		assert(r.n_changes <= r.change_bytes / sizeof(struct disk_change));
		if (!r.outside) {
			touch(&seen, r.changes, r.change_bytes);
			read_changes(r.changes, r.change_bytes, r.n_changes);
		}
	}

	/* The same bytes as a body that stands outside the log. */
	if (size >= sizeof(struct disk_batch))
		read_changes(data + sizeof(struct disk_batch), size - sizeof(struct disk_batch),
			     le32_get(((const struct disk_batch *)data)->changes));
	return 0;
}

/* ---- valid records ---- */

struct out {
	uint8_t *at, *end;
};

/* What does not fit is left out, and found out at the end. */
static void *append(struct out *o, size_t bytes)
{
	void *p = o->at;

	if ((size_t)(o->end - o->at) < bytes)
		return NULL;
	memset(p, 0, bytes);
	o->at += bytes;
	return p;
}

static bool append_change(struct out *o, struct rng *rng, uint64_t ino)
{
	struct disk_change *c = append(o, sizeof(*c));
	struct disk_key *end;
	uint8_t *val;
	size_t len;

	if (!c)
		return false;
	c->op = (uint8_t)rng_range(rng, CHANGE_PUT, CHANGE_DEL_RANGE);
	c->obj = le64_put(ino << 8 | 1);
	c->off = le64_put(rng_below(rng, 1000));
	if (c->op == CHANGE_PUT) {
		len = rng_below(rng, 200);
		c->len = le16_put((uint16_t)len);
		val = append(o, len);
		if (!val)
			return false;
		rng_bytes(rng, val, len);
	} else if (c->op == CHANGE_DEL_RANGE) {
		c->len = le16_put(sizeof(*end));
		end = append(o, sizeof(*end));
		if (!end)
			return false;
		end->obj = le64_put(ino << 8 | 2);
	}
	return true;
}

static bool append_ranges(struct out *o, struct rng *rng, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct disk_range *r = append(o, sizeof(*r));

		if (!r)
			return false;
		r->addr = le64_put(rng_range(rng, 1, 1u << 20));
		r->blocks = le32_put((uint32_t)rng_range(rng, 1, 256));
	}
	return true;
}

size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed)
{
	struct out o = { buf, buf + cap };
	uint32_t changes, fresh, taken, counters, bodies;
	uint64_t body_blocks = 0;
	struct disk_batch *d;
	uint8_t *from;
	struct rng rng;
	bool ok = true;

	rng_seed(&rng, seed);
	d = append(&o, sizeof(*d));
	if (!d)
		return 0;
	changes = (uint32_t)rng_below(&rng, 20);
	bodies = rng_chance(&rng, 1, 4) ? (uint32_t)rng_range(&rng, 1, 4) : 0;
	fresh = (uint32_t)rng_below(&rng, 5);
	taken = (uint32_t)rng_below(&rng, 3);
	counters = (uint32_t)rng_below(&rng, 3);

	d->gen = le64_put(rng_next(&rng));
	d->flags = le32_put(bodies ? BATCH_OUTSIDE : 0);
	d->changes = le32_put(changes);
	d->fresh = le32_put(fresh);
	d->taken = le32_put(taken);
	d->counters = le32_put(counters);
	d->bodies = le32_put(bodies);
	d->change_sum = le64_put(bodies ? rng_next(&rng) : 0);
	from = o.at;
	for (uint32_t i = 0; i < changes && !bodies && ok; i++)
		ok = append_change(&o, &rng, i + 1);
	if (!bodies)
		d->change_bytes = le64_put((uint64_t)(o.at - from));
	ok = ok && append_ranges(&o, &rng, bodies + fresh + taken); /* a disk_body looks the same */
	for (uint32_t i = 0; ok && i < bodies; i++)
		body_blocks += le32_get(((const struct disk_body *)(d + 1))[i].blocks);
	if (bodies)
		d->change_bytes = le64_put(body_blocks * BLOCK_SIZE - rng_below(&rng, BLOCK_SIZE));
	for (uint32_t i = 0; i < counters && ok; i++) {
		struct disk_counter *c = append(&o, sizeof(*c));

		ok = c != NULL;
		if (ok)
			c->value = le64_put(rng_next(&rng));
	}
	return ok ? (size_t)(o.at - buf) : 0;
}

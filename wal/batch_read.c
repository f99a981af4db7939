/*
 * batch_read.c - see batch_read.h
 */
#include "wal/batch_read.h"

#include "btree/err.h"

static_assert(CHANGE_PUT == BATCH_PUT && CHANGE_DEL == BATCH_DEL && CHANGE_DEL_RANGE == BATCH_DEL_RANGE,
	      "operations have the numbers of the format");

static int check_tail(const struct batch_record *r)
{
	uint64_t blocks = 0;

	for (uint32_t i = 0; i < r->n_bodies; i++) {
		if (!le32_get(r->bodies[i].blocks) || le32_get(r->bodies[i].zero))
			return corrupt("log record", le64_get(r->bodies[i].addr), "blocks of an outside body",
				       le32_get(r->bodies[i].blocks), le32_get(r->bodies[i].zero));
		blocks += le32_get(r->bodies[i].blocks);
	}
	if (r->outside && (r->change_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE != blocks)
		return corrupt("log record", 0, "bytes of its outside body", r->change_bytes, blocks * BLOCK_SIZE);
	/* Memory is made ready by this number. */
	if (r->n_changes > r->change_bytes / sizeof(struct disk_change))
		return corrupt("log record", 0, "changes in so many bytes", r->n_changes, r->change_bytes);
	/* Fresh and taken ranges lie behind one another. */
	for (uint32_t i = 0; i < r->n_fresh + r->n_taken; i++)
		if (!le32_get(r->fresh[i].blocks) || le32_get(r->fresh[i].zero))
			return corrupt("log record", le64_get(r->fresh[i].addr), "blocks of a range",
				       le32_get(r->fresh[i].blocks), le32_get(r->fresh[i].zero));
	for (uint32_t i = 0; i < r->n_counters; i++)
		if (le32_get(r->counters[i].zero))
			return corrupt("log record", i, "zero bytes of a counter", le32_get(r->counters[i].zero), 0);
	return 0;
}

int batch_record_read(const void *rec, size_t len, struct batch_record *ret)
{
	const struct disk_batch *d = rec;
	const uint8_t *at = rec;
	uint64_t want;

	if (len < sizeof(*d))
		return corrupt("log record", 0, "length", len, sizeof(*d));
	*ret = (struct batch_record){
		.gen = le64_get(d->gen),
		.outside = le32_get(d->flags) & BATCH_OUTSIDE,
		.n_changes = le32_get(d->changes),
		.n_fresh = le32_get(d->fresh),
		.n_taken = le32_get(d->taken),
		.n_counters = le32_get(d->counters),
		.n_bodies = le32_get(d->bodies),
		.change_bytes = le64_get(d->change_bytes),
		.change_sum = le64_get(d->change_sum),
	};
	if (le32_get(d->flags) & ~BATCH_OUTSIDE)
		return corrupt("log record", 0, "flags", le32_get(d->flags), BATCH_OUTSIDE);
	if (!ret->gen || (!ret->outside && ret->change_sum))
		return corrupt("log record", 0, "generation, or checksum of changes that are inside", ret->gen, ret->change_sum);
	if (ret->outside != (ret->n_bodies > 0))
		return corrupt("log record", 0, "blocks of an outside body", ret->n_bodies, ret->outside);
	if (ret->outside ? ret->change_bytes >> 63 : ret->change_bytes > len)
		return corrupt("log record", 0, "bytes of changes", ret->change_bytes, len);

	want = sizeof(*d) + (ret->outside ? 0 : ret->change_bytes) +
	       (uint64_t)ret->n_bodies * sizeof(struct disk_body) +
	       ((uint64_t)ret->n_fresh + ret->n_taken) * sizeof(struct disk_range) +
	       (uint64_t)ret->n_counters * sizeof(struct disk_counter);
	if (want != len)
		return corrupt("log record", 0, "length by its counts", want, len);

	at += sizeof(*d);
	ret->changes = at;
	if (!ret->outside)
		at += ret->change_bytes;
	ret->bodies = (const void *)at;
	at += ret->n_bodies * sizeof(struct disk_body);
	ret->fresh = (const void *)at;
	at += ret->n_fresh * sizeof(struct disk_range);
	ret->taken = (const void *)at;
	at += ret->n_taken * sizeof(struct disk_range);
	ret->counters = (const void *)at;
	return check_tail(ret);
}

int batch_changes_read(const void *changes, size_t bytes, uint32_t n, int (*each)(void *arg, const struct change *),
		       void *arg)
{
	const uint8_t *at = changes, *end = at + bytes;
	int err = 0;

	for (uint32_t i = 0; !err && i < n; i++) {
		const struct disk_change *d = (const void *)at;
		struct change c;

		if ((size_t)(end - at) < sizeof(*d))
			return corrupt("log record", i, "bytes left for a change", (uint64_t)(end - at), sizeof(*d));
		at += sizeof(*d);
		c = (struct change){
			.key = { le64_get(d->obj), le64_get(d->off) },
			.op = d->op,
			.len = le16_get(d->len),
			.val = at,
		};
		if (c.op != CHANGE_PUT && c.op != CHANGE_DEL && c.op != CHANGE_DEL_RANGE)
			return corrupt("log record", i, "operation", c.op, CHANGE_PUT);
		if (d->zero)
			return corrupt("log record", i, "zero byte of a change", d->zero, 0);
		if ((c.op == CHANGE_DEL && c.len) || (c.op == CHANGE_DEL_RANGE && c.len != sizeof(struct disk_key)))
			return corrupt("log record", i, "length of a deletion", c.len, 0);
		if ((size_t)(end - at) < c.len)
			return corrupt("log record", i, "bytes left for a value", (uint64_t)(end - at), c.len);
		at += c.len;
		if (c.op == CHANGE_DEL_RANGE) {
			const struct disk_key *k = c.val;

			c.end = (struct key){ le64_get(k->obj), le64_get(k->off) };
			if (!key_less(c.key, c.end))
				return corrupt("log record", i, "end of a range", c.end.obj, c.key.obj);
		}
		err = each(arg, &c);
	}
	if (!err && at != end)
		return corrupt("log record", n, "bytes behind the last change", (uint64_t)(end - at), 0);
	return err;
}

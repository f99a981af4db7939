/*
 * rebuild_log.c - the log's records, laid over live's items
 *
 * Replay as recovery does it needs a tree that can be changed. Here the tree may have holes, so the records become a layer of
 * their own: the last word of the log about each key. Puts are kept with their values; every deletion, of a key or of a range,
 * is a *mask* that hides what the tree says. A later put shows through the masks before it, and a later deletion takes the
 * puts it covers away. What the layer knows is not lost, whatever happened to the tree below it.
 *
 * A record counts as a whole or not at all: all of it is looked through before any of it is laid down. At the first record
 * that cannot be, the log ends, with a finding: what follows was made on top of it. A single value that its row refuses is
 * not that: its key is lost, the rest of the record holds.
 *
 * Nothing is written. Blocks that ride in the log are kept in memory until the build sends them home; whatever the records
 * call theirs (fresh ranges, ranges taken back, bodies) is not for new nodes.
 */
#include <xxhash.h>

#include "btree/mem.h"
#include "wal/batch_read.h"
#include "wal/log_read.h"
#include "wal/rebuild_int.h"

static int rput_cmp(struct rput *a, struct rput *b)
{
	return key_cmp(a->key, b->key);
}
RB_GENERATE(rput_tree, rput, link, rput_cmp)

static int rmask_cmp(struct rmask *a, struct rmask *b)
{
	return key_cmp(a->from, b->from);
}
RB_GENERATE(rmask_tree, rmask, link, rmask_cmp)

static struct key key_shared_min(void)
{
	return key_make(KEY_INO_MAX, RECORD_SHARED, 0);
}

/* ---- the layer ---- */

const struct rput *rebuild_put_from(const struct rebuild *r, struct key key)
{
	struct rput find = { .key = key };

	return RB_NFIND(rput_tree, (struct rput_tree *)(uintptr_t)&r->puts, &find);
}

/* The mask with the greatest beginning <= key, or NULL. */
static struct rmask *mask_floor(const struct rebuild *r, struct key key)
{
	struct rmask_tree *t = (struct rmask_tree *)(uintptr_t)&r->masks;
	struct rmask find = { .from = key };
	struct rmask *m = RB_NFIND(rmask_tree, t, &find);

	if (m && key_equal(m->from, key))
		return m;
	return m ? RB_PREV(rmask_tree, t, m) : RB_MAX(rmask_tree, t);
}

bool rebuild_masked(const struct rebuild *r, struct key key)
{
	const struct rmask *m = mask_floor(r, key);

	return m && key_less(key, m->to);
}

int rebuild_set(struct rebuild *r, struct key key, const void *val, size_t len)
{
	struct rput *p = mem_zalloc(sizeof(*p) + len), *old;

	if (!p)
		return -ENOMEM;
	p->key = key;
	p->len = (uint16_t)len;
	if (len)
		memcpy(p->val, val, len);
	old = RB_FIND(rput_tree, &r->puts, p);
	if (old) {
		RB_REMOVE(rput_tree, &r->puts, old);
		mem_free(old);
	}
	RB_INSERT(rput_tree, &r->puts, p);
	return 0;
}

static int hide(struct rebuild *r, struct key from, struct key to)
{
	struct rmask *m = mem_zalloc(sizeof(*m)), *next;

	if (!m)
		return -ENOMEM;
	for (struct rput *p, *after = (struct rput *)(uintptr_t)rebuild_put_from(r, from); (p = after);) {
		if (!key_less(p->key, to))
			break;
		after = RB_NEXT(rput_tree, &r->puts, p);
		RB_REMOVE(rput_tree, &r->puts, p);
		mem_free(p);
	}
	/* One mask in place of all it meets. */
	*m = (struct rmask){ .from = from, .to = to };
	next = mask_floor(r, from);
	if (!next || key_less(next->to, from))
		next = next ? RB_NEXT(rmask_tree, &r->masks, next) : RB_MIN(rmask_tree, &r->masks);
	while (next && !key_less(m->to, next->from)) {
		struct rmask *gone = next;

		next = RB_NEXT(rmask_tree, &r->masks, gone);
		if (key_less(gone->from, m->from))
			m->from = gone->from;
		if (key_less(m->to, gone->to))
			m->to = gone->to;
		RB_REMOVE(rmask_tree, &r->masks, gone);
		mem_free(gone);
	}
	RB_INSERT(rmask_tree, &r->masks, m);
	return 0;
}

void rebuild_forget_log(struct rebuild *r)
{
	struct rmask *m;
	struct rput *p;

	while ((p = RB_MIN(rput_tree, &r->puts))) {
		RB_REMOVE(rput_tree, &r->puts, p);
		mem_free(p);
	}
	while ((m = RB_MIN(rmask_tree, &r->masks))) {
		RB_REMOVE(rmask_tree, &r->masks, m);
		mem_free(m);
	}
	for (size_t i = 0; i < r->n_riding; i++)
		mem_free(r->riding[i].block);
	mem_free(r->riding);
	r->riding = NULL;
	r->n_riding = r->cap_riding = 0;
}

/* ---- what is lost, less what the log knows ---- */

static int lost_cmp(const void *pa, const void *pb)
{
	const struct rebuild_lost *a = pa, *b = pb;

	return key_cmp(a->from, b->from);
}

/* Appends what of l nothing is known of: between puts and masks. */
static int cut_one(struct rebuild *r, struct rebuild_lost l)
{
	struct key at = l.from;

	while (key_less(at, l.to)) {
		const struct rput *p = rebuild_put_from(r, at);
		struct rmask find = { .from = at };
		struct rmask *m = mask_floor(r, at);
		struct key end = l.to, next = l.to;
		int err;

		if (m && key_less(at, m->to)) {
			at = m->to;
			continue;
		}
		m = RB_NFIND(rmask_tree, &r->masks, &find);
		if (p && key_less(p->key, end)) {
			end = p->key;
			next = key_next(p->key);
		}
		if (m && key_less(m->from, end)) {
			end = m->from;
			next = m->to;
		}
		if (key_less(at, end)) {
			err = rebuild_lose(r, at, end, l.err);
			if (err)
				return err;
		}
		at = next;
	}
	return 0;
}

static int cut_lost(struct rebuild *r)
{
	struct rebuild_lost *old = r->lost;
	size_t n = r->n_lost;
	int err = 0;

	r->lost = NULL;
	r->n_lost = r->cap_lost = 0;
	for (size_t i = 0; !err && i < n; i++)
		err = cut_one(r, old[i]);
	mem_free(old);
	return err;
}

/* In order, joined where they touch. */
void rebuild_sort_lost(struct rebuild *r)
{
	size_t kept = 0;

	if (r->n_lost)
		qsort(r->lost, r->n_lost, sizeof(*r->lost), lost_cmp);
	for (size_t i = 0; i < r->n_lost; i++) {
		struct rebuild_lost *last = kept ? &r->lost[kept - 1] : NULL;

		if (last && !key_less(last->to, r->lost[i].from)) {
			if (key_less(last->to, r->lost[i].to))
				last->to = r->lost[i].to;
			continue;
		}
		r->lost[kept++] = r->lost[i];
	}
	r->n_lost = kept;
}

/* ---- reading ---- */

struct reader {
	struct rebuild *r;
	const struct batch_record *rec;
	uint64_t lsn, done;
	uint64_t gen; /* of the last record: they do not go backwards */
	bool stopped; /* at a record that cannot be; said so */
	int err;      /* of memory or device: ends everything */
	struct key *refused;
	size_t n_refused, cap_refused;
};

static int stop(struct reader *rd, const char *what)
{
	rd->stopped = true;
	rebuild_found(rd->r, REBUILD_LOG, NULL, "record %" PRIu64 ": %s: it and what follows it is lost", rd->lsn,
		      what);
	return 1;
}

static int fail(struct reader *rd, int err)
{
	rd->err = err;
	return 1;
}

static int on_riding(void *arg, uint64_t addr, const void *block)
{
	struct reader *rd = arg;
	struct rebuild *r = rd->r;
	void *copy;

	if (!space_valid(r->space, addr, 1) || !rmap_empty(&r->nodes, addr, 1))
		return stop(rd, "a block that rides with it has no place");
	copy = mem_alloc_blocks(BLOCK_SIZE);
	if (!copy || mem_grow((void **)&r->riding, &r->cap_riding, r->n_riding + 1, sizeof(*r->riding))) {
		mem_free(copy);
		return fail(rd, -ENOMEM);
	}
	memcpy(copy, block, BLOCK_SIZE);
	r->riding[r->n_riding++] = (struct riding){ addr, copy };
	rmap_set(&r->used, addr, 1);
	return 0;
}

/* Blocks of an outside body: from the log where they ride, else from the device. */
static int body_block(struct rebuild *r, uint64_t addr, void *buf)
{
	for (size_t i = r->n_riding; i > 0; i--) {
		if (r->riding[i - 1].addr != addr)
			continue;
		memcpy(buf, r->riding[i - 1].block, BLOCK_SIZE);
		return 0;
	}
	return bdev_read(r->bdev, addr, buf, 1);
}

/* *ret: the changes, in memory of the caller's to free. 0; 1: cannot be read. */
static int read_body(struct reader *rd, void **ret)
{
	const struct batch_record *rec = rd->rec;
	uint64_t blocks = 0, done = 0;
	uint8_t *buf;

	for (uint32_t i = 0; i < rec->n_bodies; i++)
		blocks += le32_get(rec->bodies[i].blocks);
	if (rec->change_bytes > blocks * BLOCK_SIZE || rec->change_bytes + BLOCK_SIZE <= blocks * BLOCK_SIZE)
		return stop(rd, "the length of its outside body");
	buf = mem_alloc_blocks(blocks * BLOCK_SIZE);
	if (!buf)
		return fail(rd, -ENOMEM);
	for (uint32_t i = 0; i < rec->n_bodies; i++) {
		for (uint32_t k = 0; k < le32_get(rec->bodies[i].blocks); k++, done++) {
			if (!body_block(rd->r, le64_get(rec->bodies[i].addr) + k, buf + done * BLOCK_SIZE))
				continue;
			mem_free(buf);
			return stop(rd, "its outside body cannot be read");
		}
	}
	if (XXH3_64bits(buf, rec->change_bytes) != rec->change_sum) {
		mem_free(buf);
		return stop(rd, "the checksum of its outside body");
	}
	*ret = buf;
	return 0;
}

/* Shared counts are derived, never logged. */
static int looks_right(void *arg, const struct change *c)
{
	(void)arg;
	if (!key_less(c->key, key_shared_min()) || (c->op == CHANGE_DEL_RANGE && key_less(key_shared_min(), c->end)))
		return corrupt("log record", c->key.off, "key that is the store's own", c->key.obj, 0);
	return 0;
}

static bool value_right(struct rebuild *r, const struct change *c)
{
	struct extent x;

	if (c->len > tree_value_max(r->super.node_size) || record_validate(r->opt->records, c->key, c->val, c->len))
		return false;
	if (!record_extent(r->opt->records, c->key, c->val, c->len, &x) || !x.addr)
		return true;
	return space_valid(r->space, x.addr, x.blocks) && x.birth >> GEN_EPOCH_SHIFT <= r->super.mount_epoch;
}

/* The tree is not the one the record was made for: an item must be wrong. Recovery could not replay that; here it can be laid over. */
static void note_conflict(struct reader *rd, uint64_t addr, const char *what)
{
	struct rview *live = rebuild_live(rd->r);

	if (live->damaged) /* then it may be what is lost */
		return;
	rebuild_found(rd->r, REBUILD_ITEM, live, "record %" PRIu64 " refers to block %" PRIu64 ", which %s", rd->lsn,
		      addr, what);
	live->damaged = true;
}

static int lay(void *arg, const struct change *c)
{
	struct reader *rd = arg;
	struct rebuild *r = rd->r;
	struct extent x;
	int err;

	if (c->op == CHANGE_DEL_RANGE)
		return hide(r, c->key, c->end);
	if (c->op == CHANGE_DEL)
		return hide(r, c->key, key_next(c->key));
	if (value_right(r, c)) {
		/* r->vd: what live has, and what the records have brought. */
		if (record_extent(r->opt->records, c->key, c->val, c->len, &x) && x.addr) {
			if (!rmap_full(&r->vd, x.addr, x.blocks))
				note_conflict(rd, x.addr, "live has not got");
			/* Live may have lost the item that had them. */
			rmap_set(&r->used, x.addr, x.blocks);
		}
		return rebuild_set(r, c->key, c->val, c->len);
	}
	rebuild_found(r, REBUILD_ITEM, rebuild_live(r), "record %" PRIu64 ": the value of inode %" PRIu64 " type %u offset %" PRIu64,
		      rd->lsn, key_ino(c->key), key_type(c->key), c->key.off);
	rebuild_live(r)->damaged = true; /* recovery cannot apply the record: live is built with what was laid over it */
	err = hide(r, c->key, key_next(c->key));
	if (!err)
		err = mem_grow((void **)&rd->refused, &rd->cap_refused, rd->n_refused + 1, sizeof(*rd->refused));
	if (!err)
		rd->refused[rd->n_refused++] = c->key;
	return err;
}

/* What the record calls its own. 0; 1: it cannot be. */
static int note_ranges(struct reader *rd)
{
	const struct batch_record *rec = rd->rec;
	struct rebuild *r = rd->r;

	/* Fresh and taken ranges lie behind one another. */
	for (uint32_t i = 0; i < rec->n_fresh + rec->n_taken; i++) {
		uint64_t addr = le64_get(rec->fresh[i].addr);
		uint32_t n = le32_get(rec->fresh[i].blocks);

		if (!space_valid(r->space, addr, n))
			return stop(rd, "blocks outside of the device");
		if (i < rec->n_fresh && !rmap_empty(&r->all, addr, n))
			note_conflict(rd, addr, "is in use already");
		rmap_set(&r->used, addr, n);
		rmap_set(&r->vd, addr, n);
	}
	for (uint32_t i = 0; i < rec->n_bodies; i++) {
		uint64_t addr = le64_get(rec->bodies[i].addr);
		uint32_t n = le32_get(rec->bodies[i].blocks);

		if (!space_valid(r->space, addr, n))
			return stop(rd, "blocks outside of the device");
		if (!rmap_empty(&r->all, addr, n))
			note_conflict(rd, addr, "is in use already");
		rmap_set(&r->used, addr, n);
	}
	for (uint32_t i = 0; i < rec->n_counters; i++)
		if (le32_get(rec->counters[i].counter) >= SUPER_COUNTERS)
			return stop(rd, "a counter that is not there");
	return 0;
}

static int on_record(void *arg, uint64_t lsn, const struct log_pos *at, const void *bytes, size_t len)
{
	struct reader *rd = arg;
	struct rebuild *r = rd->r;
	struct batch_record rec;
	void *body = NULL;
	const void *changes;
	int err;

	(void)at;
	rd->lsn = lsn;
	rd->rec = &rec;
	if (batch_record_read(bytes, len, &rec))
		return stop(rd, "it is malformed");
	if (rec.gen < rd->gen || rec.gen >> GEN_EPOCH_SHIFT > r->super.mount_epoch)
		return stop(rd, "its generation");
	rd->gen = rec.gen;
	err = note_ranges(rd);
	if (!err && rec.outside)
		err = read_body(rd, &body);
	if (err)
		return err;
	changes = rec.outside ? body : rec.changes;
	if (batch_changes_read(changes, rec.change_bytes, rec.n_changes, looks_right, NULL))
		err = stop(rd, "its changes are malformed");
	else if ((err = batch_changes_read(changes, rec.change_bytes, rec.n_changes, lay, rd)))
		err = fail(rd, err);
	mem_free(body);
	if (err)
		return err;
	for (uint32_t i = 0; i < rec.n_counters; i++) {
		uint64_t *counter = &r->counter[le32_get(rec.counters[i].counter)];

		if (*counter < le64_get(rec.counters[i].value))
			*counter = le64_get(rec.counters[i].value);
	}
	r->log_end = lsn + 1;
	rd->done++;
	return 0;
}

/* Values that were refused, and that nothing has replaced since. */
static int lose_refused(struct reader *rd)
{
	int err = 0;

	for (size_t i = 0; !err && i < rd->n_refused; i++) {
		const struct rput *p = rebuild_put_from(rd->r, rd->refused[i]);

		if (!p || !key_equal(p->key, rd->refused[i]))
			err = rebuild_lose(rd->r, rd->refused[i], key_next(rd->refused[i]), -EUCLEAN);
	}
	return err;
}

int rebuild_read_log(struct rebuild *r)
{
	struct log_scan_options opt = {
		.bdev = r->bdev,
		.start = r->super.log_start,
		.blocks = r->super.log_blocks,
		.epoch = r->super.log_epoch,
		.pos = { r->super.log_block, r->super.log_seq, r->super.log_lsn },
		.ignore_damage = true,
	};
	struct log_scan_result res;
	struct reader rd = { .r = r, .lsn = r->super.log_lsn };
	struct log_scan *scan;
	int err;

	memcpy(r->counter, r->super.counter, sizeof(r->counter));
	r->log_end = r->super.log_lsn;
	if (r->super.flags & SUPER_CLEAN) {
		rebuild_sort_lost(r);
		return 0;
	}
	err = log_scan_open(&opt, &scan);
	if (err)
		return err;
	log_scan_result(scan, &res);
	if (res.damaged)
		rebuild_found(r, REBUILD_LOG, NULL,
			      "damaged behind record %" PRIu64 ": what had been acknowledged after it is lost",
			      res.end.lsn - 1);
	err = log_scan_each(scan, on_record, on_riding, &rd);
	log_scan_close(scan);
	if (err == -EUCLEAN && !rd.stopped) {
		rd.lsn = r->log_end;
		(void)stop(&rd, "it cannot be read again");
	} else if (err < 0) {
		rd.err = err;
	}
	r->log_damaged = res.damaged || rd.stopped;
	r->res->records_replayed = rd.done;
	if (rd.stopped && res.records > rd.done)
		r->res->records_lost = res.records - rd.done;
	/* Values that were refused are lost whatever the layer says. */
	err = rd.err ? rd.err : cut_lost(r);
	if (!err)
		err = lose_refused(&rd);
	rebuild_sort_lost(r);
	mem_free(rd.refused);
	return err;
}

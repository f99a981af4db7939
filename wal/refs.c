/*
 * refs.c - which extents a batch refers to more or less than before, and what follows from it
 *
 * Nobody counts references by hand. While a batch is planned, every value it stores adds one reference to each block of
 * its extent and every value it replaces or deletes gives one back. refs_settle adds these up block range by block range
 * and decides, for each range whose sum is not zero, from what the view already knows:
 *
 *	before	from
 *	0	the batch's own fresh blocks
 *	2..	a shared record {address, blocks, birth, references} in the view's file tree
 *	1	neither: what an item refers to and no record mentions is referred to once
 *
 * After: 0 releases the blocks, 1 needs no record, 2 and more is written as a record. So an extent that was never cloned
 * costs nothing, and a filesystem without clones (has_shared false) is not even asked. Additions are counted before
 * subtractions, so what a batch moves from one key to another is neither released nor shared.
 *
 * A transaction's commit may refer to blocks that live has released meanwhile, which are "before: 0" though they are not
 * fresh: pinned ones (only open views reach them) and those on live's dead list are taken back.
 *
 * All of it is deterministic given the tree, so replay derives it again; only fresh and taken ranges are logged.
 */
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

struct edge {
	uint64_t addr;
	int32_t plus, minus, fresh, taken; /* change of the running sums at addr */
	uint64_t birth;			   /* of the reference that begins here */
};

struct shared_record {
	uint64_t addr, end, birth;
	uint32_t refs;
	uint64_t done; /* up to here its blocks are dealt with */
};

static struct key shared_key(uint64_t addr)
{
	return key_make(KEY_INO_MAX, RECORD_SHARED, addr);
}

static int shared_validate(struct key key, const void *val, size_t len)
{
	const struct disk_shared *d = val;

	if (len != sizeof(*d))
		return corrupt("shared count", key.off, "length", len, sizeof(*d));
	if (key_ino(key) != KEY_INO_MAX)
		return corrupt("shared count", key.off, "inode number", key_ino(key), KEY_INO_MAX);
	if (le32_get(d->refs) < 2 || le32_get(d->blocks) == 0)
		return corrupt("shared count", key.off, "references or blocks", le32_get(d->refs), 2);
	if (!key.off || key.off > UINT64_MAX - le32_get(d->blocks))
		return corrupt("shared count", key.off, "blocks", le32_get(d->blocks), 0);
	return 0;
}

static void shared_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_shared *d = val;

	(void)len;
	fprintf(f, "shared %llu +%u refs %u birth %llx", (unsigned long long)key.off, le32_get(d->blocks),
		le32_get(d->refs), (unsigned long long)le64_get(d->birth));
}

const struct record_ops shared_row = { .name = "shared", .validate = shared_validate, .print = shared_print };

void refs_reset(struct refs *r)
{
	r->n = 0;
	r->claims = 0;
	r->fresh.n = r->unused.n = r->released.n = r->taken.n = 0;
	r->n_changes = 0;
}

void refs_release(struct refs *r)
{
	mem_free(r->deltas);
	mem_free(r->fresh.at);
	mem_free(r->unused.at);
	mem_free(r->released.at);
	mem_free(r->taken.at);
	mem_free(r->changes);
	mem_free(r->values);
	mem_free(r->edges);
	mem_free(r->records);
	*r = (struct refs){ 0 };
}

int refs_add(struct refs *r, uint64_t addr, uint32_t blocks, int delta, uint64_t birth)
{
	if (!addr) {
		r->claims += delta * (int64_t)blocks;
		return 0;
	}
	if (mem_grow((void **)&r->deltas, &r->cap, r->n + 1, sizeof(*r->deltas)))
		return -ENOMEM;
	r->deltas[r->n++] = (struct ref_delta){ addr, blocks, delta, birth };
	return 0;
}

/* Appends a range, joining it to the last where they touch. */
int ranges_add(struct ref_ranges *v, uint64_t addr, uint64_t blocks, uint64_t birth)
{
	while (blocks) {
		struct ref_range *last = v->n ? &v->at[v->n - 1] : NULL;
		uint32_t n = blocks > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)blocks;

		if (last && last->addr + last->blocks == addr && last->birth == birth && last->blocks < UINT32_MAX / 2) {
			if (n > UINT32_MAX / 2 - last->blocks)
				n = UINT32_MAX / 2 - last->blocks;
			last->blocks += n;
		} else {
			if (mem_grow((void **)&v->at, &v->cap, v->n + 1, sizeof(*v->at)))
				return -ENOMEM;
			v->at[v->n++] = (struct ref_range){ addr, n, birth };
		}
		addr += n;
		blocks -= n;
	}
	return 0;
}

static int edge_cmp(const void *pa, const void *pb)
{
	const struct edge *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

/* The batch's deltas and the ranges it knows more about, as edges sorted by address. */
static int collect_edges(struct batch *b, size_t *ret_n)
{
	struct refs *r = &b->refs;
	size_t n = 0, want = 2 * (r->n + b->allocated.n + b->replay_taken.n);
	struct edge *e;

	if (mem_grow(&r->edges, &r->cap_edges, want + 2 * r->n, sizeof(*e)))
		return -ENOMEM;
	e = r->edges;
	for (size_t i = 0; i < r->n; i++) {
		const struct ref_delta *d = &r->deltas[i];
		int32_t plus = d->delta > 0 ? d->delta : 0, minus = d->delta < 0 ? -d->delta : 0;
		/* In a commit, what the transaction wrote itself is fresh for live. */
		int32_t fresh = b->merge && plus && d->birth > b->base_gen;

		e[n++] = (struct edge){ .addr = d->addr, .plus = plus, .minus = minus, .fresh = fresh, .birth = d->birth };
		e[n++] = (struct edge){ .addr = d->addr + d->blocks, .plus = -plus, .minus = -minus, .fresh = -fresh };
	}
	for (size_t i = 0; i < b->allocated.n; i++) {
		e[n++] = (struct edge){ .addr = b->allocated.at[i].addr, .fresh = 1 };
		e[n++] = (struct edge){ .addr = b->allocated.at[i].addr + b->allocated.at[i].blocks, .fresh = -1 };
	}
	for (size_t i = 0; i < b->replay_taken.n; i++) {
		e[n++] = (struct edge){ .addr = b->replay_taken.at[i].addr, .taken = 1 };
		e[n++] = (struct edge){ .addr = b->replay_taken.at[i].addr + b->replay_taken.at[i].blocks, .taken = -1 };
	}
	if (n)
		qsort(e, n, sizeof(*e), edge_cmp);
	*ret_n = n;
	return 0;
}

static int record_cmp(const void *pa, const void *pb)
{
	const struct shared_record *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

/* Adds to r->records every shared record that overlaps [addr, end). From the end backwards: a floor is all it takes. */
static int find_records(struct batch *b, uint64_t addr, uint64_t end, size_t *n, struct miss *miss)
{
	struct refs *r = &b->refs;
	struct view *v = b->view;

	for (uint64_t at = end - 1;;) {
		const struct disk_shared *d;
		struct shared_record *rec;
		struct key key;
		size_t len;
		int err;

		err = tree_floor(v->tree.cache, &v->tree.root, v->tree.id, shared_key(at), &key, (const void **)&d, &len,
				 miss);
		if (err == -ENOENT)
			return 0;
		if (err)
			return err;
		if (key.obj != shared_key(0).obj || key.off + le32_get(d->blocks) <= addr)
			return 0;
		if (mem_grow(&r->records, &r->cap_records, *n + 1, sizeof(*rec)))
			return -ENOMEM;
		rec = (struct shared_record *)r->records + (*n)++;
		*rec = (struct shared_record){
			.addr = key.off,
			.end = key.off + le32_get(d->blocks),
			.birth = le64_get(d->birth),
			.refs = le32_get(d->refs),
			.done = key.off,
		};
		if (key.off <= addr)
			return 0;
		at = key.off - 1;
	}
}

/*
 * A commit adds a reference to blocks that are older than the transaction. Does live hold them still? Answers for
 * the blocks from addr on: *ret_blocks of them, at most `blocks`, have the same answer.
 */
int dead_lookup(struct store *s, uint64_t list, uint64_t addr, uint64_t *blocks, bool *ret_in, struct miss *miss)
{
	*ret_in = false;
	for (;;) {
		const struct disk_dead *d;
		struct key key;
		size_t len;
		int err;

		err = tree_floor(s->cache, &s->system.root, TREE_SYSTEM, key_make(list, SYSTEM_DEAD, addr + *blocks - 1),
				 &key, (const void **)&d, &len, miss);
		if (err == -ENOENT)
			return 0;
		if (err)
			return err;
		if (key.obj != key_make(list, SYSTEM_DEAD, 0).obj || key.off + le32_get(d->blocks) <= addr)
			return 0;
		if (key.off <= addr) {
			*ret_in = true;
			if (key.off + le32_get(d->blocks) - addr < *blocks)
				*blocks = key.off + le32_get(d->blocks) - addr;
			return 0;
		}
		*blocks = key.off - addr; /* ours begins before it: ask again for what lies in front */
	}
}

static int find_held(struct batch *b, uint64_t addr, uint64_t *blocks, uint64_t birth, bool *ret, struct miss *miss)
{
	struct store *s = b->store;
	uint64_t id, gen;
	bool in;
	int err;

	*ret = false;
	/*
	 * Pinned blocks keep their birth; but where a snapshot has been made since, which does not hold them, their birth
	 * would say it did. While live's parent is being deleted its dead list is on the move, which no record tells: replay
	 * could not know where the blocks were taken from.
	 */
	if (reclaim_find(&s->pinned, addr, blocks))
		return birth > s->parent_gen && !s->parent_dying ? 0 : -ETXNCONFLICT;
	if (reclaim_find(&s->dead, addr, blocks))
		return s->parent_dying ? -ETXNCONFLICT : 0;
	err = dead_lookup(s, s->dead_list, addr, blocks, &in, miss);
	if (!err && in && s->parent_dying)
		err = -ETXNCONFLICT;
	if (err || in)
		return err;
	*ret = true;
	/*
	 * A snapshot made since the transaction began may have got live's dead list: what stands there is not live's to
	 * take back. Rare enough (clone in the transaction, removal and snapshot outside) to call it a conflict.
	 */
	for (id = s->parent, gen = s->parent_gen; id && gen > b->base_gen;) {
		const struct disk_snapshot *d;
		size_t len;

		err = tree_get(s->cache, &s->system.root, TREE_SYSTEM, key_make(0, SYSTEM_SNAPSHOT, id),
			       (const void **)&d, &len, miss);
		if (err)
			return err == -ENOENT ? corrupt("snapshot", id, "not there", 0, id) : err;
		err = dead_lookup(s, le64_get(d->dead_list), addr, blocks, &in, miss);
		if (err || in)
			return err ? err : -ETXNCONFLICT;
		id = le64_get(d->parent);
		gen = le64_get(d->gen);
	}
	return 0;
}

struct settle {
	struct batch *b;
	struct miss *miss;
	struct shared_record *rec, *rec_end; /* records not finished yet */
	uint64_t gen;			     /* birth of fresh blocks */
};

/* [addr, +blocks) is referred to `refs` times from now on. Fewer than two need no record. */
static int put_record(struct settle *st, uint64_t addr, uint64_t blocks, uint32_t refs, uint64_t birth)
{
	struct refs *r = &st->b->refs;
	struct disk_shared *last = r->n_changes ? &r->values[r->n_changes - 1] : NULL;

	if (refs < 2 || !blocks)
		return 0;
	/* `changes` holds only puts while ranges are settled; a neighbour with the same say is joined. */
	if (last && r->changes[r->n_changes - 1].key.off + le32_get(last->blocks) == addr && le32_get(last->refs) == refs &&
	    le64_get(last->birth) == birth && le32_get(last->blocks) + blocks <= UINT32_MAX) {
		last->blocks = le32_put(le32_get(last->blocks) + (uint32_t)blocks);
		return 0;
	}
	if (mem_grow((void **)&r->changes, &r->cap_changes, r->n_changes + 1, sizeof(*r->changes)) ||
	    mem_grow((void **)&r->values, &r->cap_values, r->n_changes + 1, sizeof(*r->values)))
		return -ENOMEM;
	r->values[r->n_changes] = (struct disk_shared){ le64_put(birth), le32_put((uint32_t)blocks), le32_put(refs) };
	r->changes[r->n_changes++] = (struct change){ .key = shared_key(addr), .op = CHANGE_PUT,
						      .len = sizeof(struct disk_shared) };
	return 0;
}

/* Finishes the records that end at or before addr: what no range touched of them stays as it is. */
static int finish_records(struct settle *st, uint64_t addr)
{
	int err = 0;

	for (; !err && st->rec < st->rec_end && st->rec->end <= addr; st->rec++)
		err = put_record(st, st->rec->done, st->rec->end - st->rec->done, st->rec->refs, st->rec->birth);
	return err;
}

/* One range whose references change: plus more, minus fewer. Records in its way have been found. */
static int settle_range(struct settle *st, uint64_t addr, uint64_t end, int32_t plus, int32_t minus, bool fresh, bool taken,
			uint64_t birth)
{
	struct refs *r = &st->b->refs;
	int err;

	while (addr < end) {
		uint64_t blocks = end - addr;
		int64_t before = fresh || taken ? 0 : 1, after;
		bool held = true;
		uint64_t ruling = fresh ? st->gen : birth;

		err = finish_records(st, addr);
		if (err)
			return err;
		if (st->rec < st->rec_end && st->rec->addr <= addr) {
			struct shared_record *rec = st->rec;

			if (rec->end - addr < blocks)
				blocks = rec->end - addr;
			err = put_record(st, rec->done, addr - rec->done, rec->refs, rec->birth);
			if (err)
				return err;
			rec->done = addr + blocks;
			before = rec->refs;
			ruling = rec->birth;
		} else {
			if (st->rec < st->rec_end && st->rec->addr < end)
				blocks = st->rec->addr - addr;
			r->n_taken_events += taken;
			if (st->b->merge && !fresh && plus > minus) {
				err = find_held(st->b, addr, &blocks, birth, &held, st->miss);
				if (err)
					return err;
				before = held;
				r->n_taken_events += !held;
			}
		}
		after = before + plus - minus;
		if (after < 0 || after > UINT32_MAX)
			return corrupt("extent", addr, "references given back", (uint64_t)(minus - plus), (uint64_t)before);
		if (fresh)
			err = ranges_add(plus ? &r->fresh : &r->unused, addr, blocks, st->gen);
		else if (before == 0)
			err = ranges_add(&r->taken, addr, blocks, birth);
		else if (after == 0)
			err = ranges_add(&r->released, addr, blocks, ruling);
		if (!err)
			err = put_record(st, addr, blocks, (uint32_t)after, ruling);
		if (err)
			return err;
		addr += blocks;
	}
	return 0;
}

static bool same_as_record(const struct shared_record *rec, const struct change *put, const struct disk_shared *val)
{
	return put->key.off == rec->addr && le32_get(val->blocks) == rec->end - rec->addr &&
	       le32_get(val->refs) == rec->refs && le64_get(val->birth) == rec->birth;
}

static int change_cmp(const void *pa, const void *pb)
{
	const struct change *a = pa, *b = pb;

	return key_cmp(a->key, b->key);
}

/* The old records go, the new ones come; where both have the same key the put is enough, and what stays needs neither. */
static int records_to_changes(struct refs *r, const struct shared_record *rec, size_t n)
{
	size_t puts = r->n_changes, kept = 0, p = 0;

	for (size_t i = 0; i < puts; i++)
		r->changes[i].val = &r->values[i];
	for (size_t i = 0; i < n; i++) {
		while (p < puts && r->changes[p].key.off < rec[i].addr)
			p++;
		if (p < puts && r->changes[p].key.off == rec[i].addr) {
			if (same_as_record(&rec[i], &r->changes[p], r->changes[p].val))
				r->changes[p].op = 0; /* nothing to do */
			continue;
		}
		if (mem_grow((void **)&r->changes, &r->cap_changes, r->n_changes + 1, sizeof(*r->changes)))
			return -ENOMEM;
		r->changes[r->n_changes++] = (struct change){ .key = shared_key(rec[i].addr), .op = CHANGE_DEL };
	}
	for (size_t i = 0; i < r->n_changes; i++)
		if (r->changes[i].op)
			r->changes[kept++] = r->changes[i];
	r->n_changes = kept;
	if (kept)
		qsort(r->changes, kept, sizeof(*r->changes), change_cmp);
	return 0;
}

int refs_settle(struct batch *b, struct miss *miss)
{
	struct refs *r = &b->refs;
	struct settle st = { .b = b, .miss = miss, .gen = b->replay ? b->replay_gen : b->view->tree.gen };
	size_t n_edges, n_records = 0, unique = 0;
	const struct edge *e;
	int err;

	r->fresh.n = r->unused.n = r->released.n = r->taken.n = 0;
	r->n_changes = r->n_taken_events = 0;
	if (!r->n && !b->allocated.n)
		return 0;
	err = collect_edges(b, &n_edges);
	if (err)
		return err;

	/* Two sweeps over the same ranges: first all records in their way, then the decisions. */
	for (int pass = 0; pass < 2; pass++) {
		int32_t plus = 0, minus = 0, fresh = 0, taken = 0;
		uint64_t birth = 0;

		e = r->edges;
		for (size_t i = 0; i < n_edges; i++) {
			uint64_t addr = e[i].addr, end;

			plus += e[i].plus;
			minus += e[i].minus;
			fresh += e[i].fresh;
			taken += e[i].taken;
			if (e[i].birth)
				birth = e[i].birth;
			end = i + 1 < n_edges ? e[i + 1].addr : addr;
			if (end == addr || (plus == minus && !(fresh > 0)))
				continue;
			if (pass == 1)
				err = settle_range(&st, addr, end, plus, minus, fresh > 0, taken > 0, birth);
			else if (b->view->has_shared && !(fresh > 0))
				err = find_records(b, addr, end, &n_records, miss);
			if (err)
				return err;
		}
		if (pass == 0) {
			struct shared_record *rec = r->records;

			if (n_records)
				qsort(rec, n_records, sizeof(*rec), record_cmp);
			for (size_t i = 0; i < n_records; i++) {
				if (unique && rec[unique - 1].addr == rec[i].addr)
					continue;
				if (unique && rec[unique - 1].end > rec[i].addr)
					return corrupt("shared count", rec[i].addr, "begins inside the one before",
						       rec[unique - 1].addr, rec[unique - 1].end);
				rec[unique++] = rec[i];
			}
			st.rec = rec;
			st.rec_end = rec ? rec + unique : NULL;
		}
	}
	err = finish_records(&st, UINT64_MAX);
	if (!err)
		err = records_to_changes(r, r->records, unique);
	return err;
}

int view_find_shared(struct view *v)
{
	struct miss miss;
	int err;

	miss_init(&miss);
	do {
		unsigned slot = epoch_enter(v->store->epoch);
		const void *val;
		struct key key;
		size_t len;

		err = tree_floor(v->tree.cache, &v->tree.root, v->tree.id, shared_key(UINT64_MAX), &key, &val, &len, &miss);
		if (!err)
			v->has_shared = key.obj == shared_key(0).obj;
		if (err == -EAGAIN) {
			err = view_fault(v->store, &miss, slot);
			if (!err)
				err = -EAGAIN;
		} else {
			epoch_exit(v->store->epoch, slot);
		}
	} while (err == -EAGAIN);
	tree_miss_release(&miss);
	if (err == -ENOENT) {
		v->has_shared = false;
		err = 0;
	}
	return err;
}

/*
 * What a store keeps of itself, verified on the device.
 *
 * Superblocks and the space map change only in a checkpoint, so they are looked at under the checkpoint's lock, a block or a page
 * at a time: whatever is in force then must be there. Of the slots the newest must be, byte for byte, what memory has; the
 * older one must verify and be one behind. The newest is mended first, in place, with a flush: a checkpoint writes the older
 * slot, and if that were torn while the newest is bad, both would be gone. All else is mended by a checkpoint.
 *
 * The system tree is not frozen with a view and its nodes are pinned by none. What the last checkpoint wrote of it stays as long
 * as no other checkpoint comes: it is walked under that lock, too, in one go (it holds snapshots and dead lists only), and the
 * pace is kept afterwards.
 *
 * Live is walked through frozen views, whose pin keeps the addresses from reuse. Snapshots hold their own; what could take one
 * away is kept waiting by snapshot_lock, rather than told that the snapshot is busy.
 */
#include "wal/scrub.h"

#include <inttypes.h>
#include <time.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/tree_scrub.h"
#include "wal/snapshot_int.h"

struct walk {
	const struct store_scrub_ops *ops;
	struct store_scrub_result *r;
	const char *view;
	uint64_t debt; /* bytes read, and not paid for yet */
};

static int pace(const struct store_scrub_ops *ops, uint64_t bytes)
{
	return ops->pace && bytes ? ops->pace(ops->arg, bytes) : 0;
}

static void tell(const struct store_scrub_ops *ops, struct store_scrub_result *r, const struct store_scrub_finding *f)
{
	r->bad++;
	r->mended += f->mended;
	r->lost += f->lost;
	if (ops->found)
		ops->found(ops->arg, f);
}

/* Whether anything may be written, for mending. */
static bool may_write(struct store *s)
{
	return !s->opt.read_only && !store_failed(s);
}

/* ---- superblocks ---- */

static const uint64_t slot_addr[2] = { SUPER_SLOT0, SUPER_SLOT1 };

/* Whether the slot holds what it should. Under the checkpoint's lock. -ENOMEM, or what is wrong with it. */
static int verify_slot(struct store *s, unsigned slot, void *buf, void *want)
{
	struct super super;
	uint64_t serial;
	int err = -EIO;

	for (unsigned tries = 0; err && tries < 2; tries++)
		err = bdev_read(s->bdev, slot_addr[slot], buf, 1);
	if (err)
		return err;
	/* Read-only, memory is ahead of the newest by an epoch. */
	if (slot == s->slot && !s->opt.read_only) {
		super_encode(&s->super, slot, want);
		if (!memcmp(buf, want, BLOCK_SIZE))
			return 0;
		return bad_checksum("superblock", slot_addr[slot], "is not what was written last, slot", slot, 0);
	}
	serial = s->super.serial - (slot != s->slot);
	err = super_decode(buf, slot, &super);
	if (err == -ENODEV)
		return bad_checksum("superblock", slot_addr[slot], "is none, slot", slot, 0);
	if (!err && (super.serial != serial || memcmp(super.uuid, s->super.uuid, sizeof(super.uuid))))
		err = bad_checksum("superblock", slot_addr[slot], "an old one: serial", super.serial, serial);
	return err;
}

/* The newest slot, whose content memory has. Under the checkpoint's lock. */
static int rewrite_newest(struct store *s)
{
	int err = super_write(s->bdev, s->slot, &s->super);

	if (!err)
		err = data_flush(s->data);
	if (err && err != -ENOMEM)
		store_fail(s, err, "writing a superblock anew");
	return err;
}

static int scrub_slot(struct store *s, bool newest, const struct store_scrub_ops *ops, struct store_scrub_result *r)
{
	unsigned char *buf = mem_alloc_blocks(2 * BLOCK_SIZE);
	struct store_scrub_finding f = { .kind = STORE_SCRUB_SUPER };
	unsigned slot;
	int err;

	if (!buf)
		return -ENOMEM;
	pthread_mutex_lock(&s->checkpoint.lock);
	slot = newest ? s->slot : !s->slot;
	f.addr = slot_addr[slot];
	f.err = verify_slot(s, slot, buf, buf + BLOCK_SIZE);
	if (f.err && newest && may_write(s))
		f.mended = !rewrite_newest(s);
	pthread_mutex_unlock(&s->checkpoint.lock);
	mem_free(buf);
	if (f.err && !newest && may_write(s))
		f.mended = !checkpoint_wait(s);
	r->supers++;
	if (f.err)
		tell(ops, r, &f);
	err = pace(ops, BLOCK_SIZE);
	return err ? err : newest ? store_failed(s) : 0;
}

/* ---- the space map ---- */

static int scrub_page(struct store *s, unsigned level, uint64_t g, const struct store_scrub_ops *ops,
		      struct store_scrub_result *r)
{
	struct store_scrub_finding f = { .kind = STORE_SCRUB_SPACE, .addr = g };
	int state;

	pthread_mutex_lock(&s->checkpoint.lock);
	state = space_scrub(s->space, level, g);
	pthread_mutex_unlock(&s->checkpoint.lock);
	if (state == -ENOMEM || state == -ENOENT)
		return state == -ENOENT ? 0 : state;
	r->pages++;
	if (state) {
		f.err = state > 0 ? -EBADMSG : state;
		f.mended = state > 0 && may_write(s) && !checkpoint_wait(s);
		f.lost = state < 0;
		tell(ops, r, &f);
	}
	return pace(ops, BLOCK_SIZE);
}

static int scrub_space(struct store *s, const struct store_scrub_ops *ops, struct store_scrub_result *r)
{
	int err = 0;

	for (unsigned level = SPACE_LEVELS_MAX + 1; !err && level--;)
		for (uint64_t g = 0; !err && g < space_groups(s->space); g = space_scrub_next(level, g))
			err = scrub_page(s, level, g, ops, r);
	return err;
}

/* ---- trees ---- */

static void on_bad(void *arg, const struct scrub_bad_node *bad)
{
	struct walk *w = arg;
	struct store_scrub_finding f = {
		.kind = STORE_SCRUB_NODE,
		.addr = bad->copy ? bad->ref.copy : bad->ref.addr,
		.copy = bad->copy,
		.mended = bad->mended,
		.lost = bad->lost,
		.view = w->view,
		.from = bad->low,
		.to = bad->high,
		.err = bad->err,
	};

	tell(w->ops, w->r, &f);
}

static int on_pace(void *arg, uint64_t bytes)
{
	struct walk *w = arg;

	return pace(w->ops, bytes);
}

static int on_debt(void *arg, uint64_t bytes)
{
	struct walk *w = arg;

	w->debt += bytes;
	return 0;
}

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	struct walk *w = arg;

	return w->ops->item(w->ops->arg, key, val, len);
}

static int on_leaf(void *arg, struct key next)
{
	struct walk *w = arg;

	return w->ops->leaf(w->ops->arg, next);
}

static int scrub_system(struct store *s, const struct store_scrub_ops *ops, struct store_scrub_result *r)
{
	struct walk w = { .ops = ops, .r = r, .view = "system" };
	struct tree_scrub t = { .pace = on_debt, .bad = on_bad, .arg = &w };
	struct root root;
	int err;

	pthread_mutex_lock(&s->checkpoint.lock);
	root = s->super.system;
	err = tree_scrub(s->cache, TREE_SYSTEM, &root, &t);
	pthread_mutex_unlock(&s->checkpoint.lock);
	r->nodes += t.nodes;
	return err ? err : pace(ops, w.debt);
}

int store_scrub_view(struct store *s, const struct store_scrub_view *v, struct key from,
		     const struct store_scrub_ops *ops, struct store_scrub_result *r)
{
	struct walk w = { .ops = ops, .r = r, .view = v->name };
	struct tree_scrub t = {
		.from = from,
		.born_after = v->born_after,
		.pace = on_pace,
		.item = ops->item ? on_item : NULL,
		.leaf = ops->leaf ? on_leaf : NULL,
		.bad = on_bad,
		.arg = &w,
	};
	int err = tree_scrub(s->cache, TREE_FILES, &v->view->base, &t);

	r->nodes += t.nodes;
	return err;
}

/* ---- views ---- */

int store_scrub_open(struct store *s, uint64_t id, struct store_scrub_view *ret)
{
	struct store_scrub_view v = { .id = STORE_SCRUB_LIVE, .name = "live" };
	const struct snapshot *sn = NULL;
	struct snapshots a = { 0 };
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = id == STORE_SCRUB_LIVE ? 0 : snapshots_read(s, &a);
	for (size_t i = 0; !err && !sn && i < a.n; i++)
		if (a.at[i].id >= id && !(a.at[i].flags & SNAPSHOT_DYING))
			sn = &a.at[i];
	if (sn) {
		v.id = sn->id;
		memcpy(v.name, sn->name, sizeof(v.name));
		v.born_after = snapshot_held_gen(&a, sn->parent);
		err = snapshot_view(s, sn, &v.view);
	} else if (!err) {
		err = view_freeze(s, &v.view);
		pthread_rwlock_rdlock(&s->live.lock);
		v.born_after = s->parent_gen;
		pthread_rwlock_unlock(&s->live.lock);
	}
	mem_free(a.at);
	if (err || v.id == STORE_SCRUB_LIVE)
		pthread_mutex_unlock(&s->snapshot_lock);
	if (err)
		return err;
	atomic_store(&s->scrub_wanted, false);
	atomic_fetch_add(&s->scrub_views, 1);
	*ret = v;
	return 0;
}

void store_scrub_close(struct store *s, struct store_scrub_view *v)
{
	view_close(v->view);
	v->view = NULL;
	atomic_fetch_sub(&s->scrub_views, 1);
	if (v->id != STORE_SCRUB_LIVE)
		pthread_mutex_unlock(&s->snapshot_lock);
}

bool store_scrub_wanted(struct store *s)
{
	return atomic_load_explicit(&s->scrub_wanted, memory_order_relaxed);
}

#define GIVE_WAY_MS 2000u

bool scrub_give_way(struct store *s)
{
	if (!atomic_load(&s->scrub_views) || checkpoint_mine())
		return false;
	if (s->opt.on_wait)
		s->opt.on_wait();
	atomic_store(&s->scrub_wanted, true);
	for (unsigned ms = 0; ms < GIVE_WAY_MS && atomic_load(&s->scrub_views); ms++) {
		/* Closed, and the next one opened. */
		if (!atomic_load(&s->scrub_wanted))
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return !atomic_load(&s->scrub_views);
}

/* ---- all of it ---- */

int store_scrub_fixed(struct store *s, const struct store_scrub_ops *ops, struct store_scrub_result *r)
{
	int err = may_write(s) ? checkpoint_wait(s) : 0;

	/* After a failure the slots and the map are what they were then: memory knows better, and cannot be written. */
	if (!err && !store_failed(s))
		err = scrub_slot(s, true, ops, r);
	if (!err && !store_failed(s))
		err = scrub_slot(s, false, ops, r);
	if (!err && !store_failed(s))
		err = scrub_space(s, ops, r);
	if (!err)
		err = scrub_system(s, ops, r);
	return err;
}

int store_scrub(struct store *s, const struct store_scrub_ops *ops, struct store_scrub_result *r)
{
	struct store_scrub_ops nodes = { .pace = ops->pace, .found = ops->found, .arg = ops->arg };
	struct store_scrub_view v = { .id = 0 };
	int err = store_scrub_fixed(s, &nodes, r);

	for (uint64_t id = 1; !err && v.id != STORE_SCRUB_LIVE; id = v.id + 1) {
		err = store_scrub_open(s, id, &v);
		if (err)
			break;
		err = store_scrub_view(s, &v, KEY_MIN, &nodes, r);
		store_scrub_close(s, &v);
	}
	return err;
}

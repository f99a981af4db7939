/*
 * snapshot.c - snapshots, rollback, and the dead lists that tell what a deletion frees
 *
 * A snapshot is live's root at a checkpoint, kept. Live goes on from it, so the views form a line: each derives from its
 * parent, live from the newest; rollback makes a tree of it.
 *
 * A view's *dead list* names the blocks its parent has and it has not. A block that live releases and that was born
 * not after live's parent goes there. Creating a snapshot hands live's list to the snapshot and live begins an empty one.
 * So when snapshot S, with parent P and one child C, is deleted, the blocks only S has are those on C's list that were
 * born after P: they are freed; and S's own list joins C's. (The scheme is ZFS's deadlists: M. Ahrens, "How ZFS snapshots
 * really work", BSDCan 2019.) A snapshot with several children is only hidden until one is left. One without children is
 * freed by walking it, leaving out what was not born after its parent.
 *
 * Deletion goes in steps. First the snapshot is marked as dying, durably: from then on nobody reads it, and live, where it
 * is the child, treats P as its parent. What a step frees and what it takes off the lists are in the same checkpoint. An
 * interrupted deletion is taken up again at the next open.
 *
 * Rollback makes live's present state a dying snapshot without children, and live the chosen snapshot's root. Live's lock
 * is held until that is durable: records of the new live must never be replayed on the old one.
 *
 * None of this is logged: each operation is a checkpoint written to both slots before it answers.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/snapshot_int.h"
#include "wal/system_format.h"

/* ---- items ---- */

static int live_validate(struct key key, const void *val, size_t len)
{
	(void)val;
	return len == sizeof(struct disk_live) ? 0 : corrupt("live item", key.off, "length", len, sizeof(struct disk_live));
}

static int snapshot_validate(struct key key, const void *val, size_t len)
{
	const struct disk_snapshot *d = val;

	if (len < sizeof(*d) || len != sizeof(*d) + d->name_len)
		return corrupt("snapshot item", key.off, "length", len, sizeof(*d));
	if (le32_get(d->levels) > NODE_LEVELS_MAX || (le32_get(d->levels) == 0) != (le64_get(d->root_addr) == 0))
		return corrupt("snapshot item", key.off, "levels", le32_get(d->levels), NODE_LEVELS_MAX);
	for (size_t i = 0; i < sizeof(d->zero); i++)
		if (d->zero[i])
			return corrupt("snapshot item", key.off, "bytes that are zero", d->zero[i], 0);
	if (le32_get(d->flags) & ~(SNAPSHOT_DYING | SNAPSHOT_HIDDEN))
		return corrupt("snapshot item", key.off, "flags", le32_get(d->flags), 0);
	/* Ids grow: so the lines have no loops. */
	if (le64_get(d->parent) >= key.off || !le64_get(d->dead_list))
		return corrupt("snapshot item", key.off, "parent or dead list", le64_get(d->parent), le64_get(d->dead_list));
	if (le64_get(d->root_gen) > le64_get(d->gen))
		return corrupt("snapshot item", key.off, "generation", le64_get(d->root_gen), le64_get(d->gen));
	return 0;
}

static int dead_validate(struct key key, const void *val, size_t len)
{
	const struct disk_dead *d = val;

	if (len != sizeof(*d) || !le32_get(d->blocks) || le32_get(d->zero))
		return corrupt("dead item", key.off, "length or blocks", len, sizeof(*d));
	if (!key.off || key.off > UINT64_MAX - le32_get(d->blocks))
		return corrupt("dead item", key.off, "blocks", le32_get(d->blocks), 0);
	return 0;
}

const struct record_table system_records = {
	.row = {
		[SYSTEM_LIVE] = { .name = "live", .validate = live_validate },
		[SYSTEM_SNAPSHOT] = { .name = "snapshot", .validate = snapshot_validate },
		[SYSTEM_DEAD] = { .name = "dead", .validate = dead_validate },
	},
};

struct key snapshot_key(uint64_t id)
{
	return key_make(0, SYSTEM_SNAPSHOT, id);
}

struct key dead_key(uint64_t list, uint64_t addr)
{
	return key_make(list, SYSTEM_DEAD, addr);
}

void snapshot_decode(struct snapshot *sn, uint64_t id, const struct disk_snapshot *d)
{
	*sn = (struct snapshot){
		.id = id,
		.gen = le64_get(d->gen),
		.parent = le64_get(d->parent),
		.dead_list = le64_get(d->dead_list),
		.created = le64_get(d->created),
		.claims = le64_get(d->claims),
		.root = { { le64_get(d->root_addr), le64_get(d->root_copy), le64_get(d->root_gen) }, le32_get(d->levels) },
		.flags = le32_get(d->flags),
	};
	memcpy(sn->name, d + 1, d->name_len);
}

size_t snapshot_encode(const struct snapshot *sn, void *buf)
{
	struct disk_snapshot d = {
		.root_addr = le64_put(sn->root.ref.addr),
		.root_copy = le64_put(sn->root.ref.copy),
		.root_gen = le64_put(sn->root.ref.gen),
		.levels = le32_put(sn->root.levels),
		.flags = le32_put(sn->flags),
		.gen = le64_put(sn->gen),
		.parent = le64_put(sn->parent),
		.dead_list = le64_put(sn->dead_list),
		.created = le64_put(sn->created),
		.claims = le64_put(sn->claims),
		.name_len = (uint8_t)strlen(sn->name),
	};

	memcpy(buf, &d, sizeof(d));
	memcpy((uint8_t *)buf + sizeof(d), sn->name, d.name_len);
	return sizeof(d) + d.name_len;
}

int snapshot_put(struct batch *b, const struct snapshot *sn)
{
	uint8_t buf[SNAPSHOT_ITEM_MAX];

	return batch_put(b, snapshot_key(sn->id), buf, snapshot_encode(sn, buf));
}

int snapshot_put_live(struct batch *b, uint64_t parent, uint64_t dead_list, uint64_t next_id)
{
	struct disk_live d = { le64_put(parent), le64_put(dead_list), le64_put(next_id) };

	return batch_put(b, key_make(0, SYSTEM_LIVE, 0), &d, sizeof(d));
}

/* ---- reading the system tree ---- */

int system_each(struct store *s, struct key from, struct key to,
		int (*each)(void *arg, struct key, const void *val, size_t len), void *arg)
{
	struct cursor c;
	int err;

	err = cursor_init(&c, s->cache, TREE_SYSTEM, true);
	if (err)
		return err;
	while (!err && key_less(from, to)) {
		struct miss miss;
		const void *val;
		struct key key;
		size_t len;

		miss_init(&miss);
		do {
			unsigned slot = epoch_enter(s->epoch);

			pthread_rwlock_rdlock(&s->live.lock);
			err = cursor_seek(&c, &s->system.root, from, &miss);
			pthread_rwlock_unlock(&s->live.lock);
			if (err == -EAGAIN) {
				err = view_fault(s, &miss, slot);
				if (!err)
					err = -EAGAIN;
			} else {
				epoch_exit(s->epoch, slot);
			}
		} while (err == -EAGAIN);
		tree_miss_release(&miss);
		while (!err && !(err = cursor_item(&c, &key, &val, &len)))
			err = key_less(key, to) ? each(arg, key, val, len) : 2;
		if (err == 1 && !c.last) {
			from = c.next;
			err = 0;
		}
	}
	cursor_release(&c);
	return err > 0 ? 0 : err;
}

static int add_snapshot(void *arg, struct key key, const void *val, size_t len)
{
	struct snapshots *a = arg;

	(void)len;
	if (mem_grow((void **)&a->at, &a->cap, a->n + 1, sizeof(*a->at)))
		return -ENOMEM;
	snapshot_decode(&a->at[a->n++], key.off, val);
	return 0;
}

/* All of them, in order of their ids. The caller frees a->at. */
int snapshots_read(struct store *s, struct snapshots *a)
{
	*a = (struct snapshots){ 0 };
	return system_each(s, snapshot_key(0), snapshot_key(UINT64_MAX), add_snapshot, a);
}

struct snapshot *snapshot_by_id(const struct snapshots *a, uint64_t id)
{
	for (size_t i = 0; id && i < a->n; i++)
		if (a->at[i].id == id)
			return &a->at[i];
	return NULL;
}

static struct snapshot *snapshot_by_name(const struct snapshots *a, const char *name)
{
	for (size_t i = 0; i < a->n; i++)
		if (!(a->at[i].flags & (SNAPSHOT_DYING | SNAPSHOT_HIDDEN)) && !strcmp(a->at[i].name, name))
			return &a->at[i];
	return NULL;
}

uint64_t snapshot_gen(const struct snapshots *a, uint64_t id)
{
	const struct snapshot *sn = snapshot_by_id(a, id);

	return sn ? sn->gen : 0;
}

/* The parent's, or, where that one is dying, what the parent of the deleted one will be. */
uint64_t snapshot_held_gen(const struct snapshots *a, uint64_t id)
{
	const struct snapshot *sn = snapshot_by_id(a, id);

	while (sn && sn->flags & SNAPSHOT_DYING)
		sn = snapshot_by_id(a, sn->parent);
	return sn ? sn->gen : 0;
}

static int load_live(void *arg, struct key key, const void *val, size_t len)
{
	struct store *s = arg;
	const struct disk_live *d = val;

	(void)key;
	(void)len;
	s->parent = le64_get(d->parent);
	s->dead_list = le64_get(d->dead_list);
	s->next_id = le64_get(d->next_id);
	return 0;
}

int snapshot_load(struct store *s)
{
	struct snapshots a = { 0 };
	int err;

	s->parent = 0;
	s->dead_list = 1; /* a new store has no line yet */
	s->next_id = 2;
	err = system_each(s, key_make(0, SYSTEM_LIVE, 0), key_make(0, SYSTEM_LIVE, 1), load_live, s);
	if (!err)
		err = snapshots_read(s, &a);
	if (err) {
		mem_free(a.at);
		return err;
	}
	s->parent_gen = snapshot_held_gen(&a, s->parent);
	s->parent_dying = snapshot_by_id(&a, s->parent) && snapshot_by_id(&a, s->parent)->flags & SNAPSHOT_DYING;
	for (size_t i = 0; !err && i < a.n; i++) {
		const struct snapshot *sn = &a.at[i];
		struct snapshot *child;

		if (sn->id >= s->next_id || sn->dead_list >= s->next_id)
			err = corrupt("live item", s->next_id, "the next id is in use", sn->id, sn->dead_list);
		else if (sn->gen > s->super.gen || sn->gen <= snapshot_gen(&a, sn->parent))
			err = corrupt("snapshot item", sn->id, "generation", sn->gen, snapshot_gen(&a, sn->parent));
		else if (sn->flags & SNAPSHOT_DYING && snapshot_children(s, &a, sn->id, &child) > 1)
			err = corrupt("snapshot item", sn->id, "views that derive from one being deleted",
				      snapshot_children(s, &a, sn->id, &child), 1);
	}
	if (!err && s->parent && !snapshot_by_id(&a, s->parent))
		err = corrupt("live item", s->parent, "snapshot that live derives from is not there", s->parent, 0);
	mem_free(a.at);
	return err;
}

/* ---- creating ---- */

struct create {
	struct snapshot sn;
	uint64_t list;
};

static int create_prepare(struct store *s, struct batch *b, void *arg)
{
	struct create *c = arg;
	int err;

	c->sn.id = s->next_id;
	c->list = s->next_id + 1;
	c->sn.gen = s->live.tree.gen;
	c->sn.root = s->live.tree.root;
	c->sn.parent = s->parent;
	c->sn.dead_list = s->dead_list;
	c->sn.claims = (uint64_t)atomic_load(&s->claims);
	err = snapshot_put(b, &c->sn);
	return err ? err : snapshot_put_live(b, c->sn.id, c->list, s->next_id + 2);
}

static void create_frozen(struct store *s, void *arg)
{
	const struct create *c = arg;

	s->parent = c->sn.id;
	s->parent_gen = c->sn.gen;
	s->parent_dying = false;
	s->dead_list = c->list;
	s->next_id += 2;
}

static int finish_dying(struct store *s);

static int check_name(const char *name)
{
	size_t n = strlen(name);

	if (!n || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	return n > SNAPSHOT_NAME_MAX ? -ENAMETOOLONG : 0;
}

int snapshot_create(struct store *s, const char *name, uint64_t *ret_id)
{
	static const struct freeze_ops ops = { create_prepare, create_frozen };
	struct create c = { 0 };
	struct snapshots a = { 0 };
	int err = check_name(name);

	if (err)
		return err;
	memcpy(c.sn.name, name, strlen(name));
	c.sn.created = s->opt.seed ? 0 : clock_ns();
	pthread_mutex_lock(&s->snapshot_lock);
	err = s->opt.read_only ? -EROFS : finish_dying(s);
	if (!err)
		err = snapshots_read(s, &a);
	if (!err && snapshot_by_name(&a, name))
		err = -EEXIST;
	if (!err)
		err = checkpoint_run(s, CHECKPOINT_BOTH, &ops, &c);
	pthread_mutex_unlock(&s->snapshot_lock);
	mem_free(a.at);
	if (!err && ret_id)
		*ret_id = c.sn.id;
	return err;
}

int snapshot_list(struct store *s, int (*each)(void *arg, const struct snapshot_info *), void *arg)
{
	struct snapshots a;
	int err = snapshots_read(s, &a);

	for (size_t i = 0; !err && i < a.n; i++) {
		const struct snapshot *sn = &a.at[i];
		struct snapshot_info info = {
			.id = sn->id,
			.parent = sn->parent,
			.gen = sn->gen,
			.created_ns = sn->created,
			.dying = sn->flags & SNAPSHOT_DYING,
			.hidden = sn->flags & SNAPSHOT_HIDDEN,
		};

		memcpy(info.name, sn->name, sizeof(info.name));
		err = each(arg, &info);
	}
	mem_free(a.at);
	return err;
}

int snapshot_view(struct store *s, const struct snapshot *sn, struct view **ret)
{
	struct view *v = mem_zalloc(sizeof(*v));
	int err = v ? view_init(v, s, VIEW_FROZEN) : -ENOMEM;

	if (err) {
		mem_free(v);
		return err;
	}
	v->snapshot = sn->id;
	v->base = sn->root;
	v->base_gen = sn->gen;
	tree_init(&v->tree, s->cache, TREE_FILES, sn->root, sn->gen, s->live.tree.copies);
	pthread_mutex_lock(&s->views_lock);
	v->id = s->next_view++;
	LIST_INSERT_HEAD(&s->views, v, list);
	pthread_mutex_unlock(&s->views_lock);
	*ret = v;
	return 0;
}

int snapshot_open(struct store *s, const char *name, struct view **ret)
{
	struct snapshot *sn;
	struct snapshots a;
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = snapshots_read(s, &a);
	sn = err ? NULL : snapshot_by_name(&a, name);
	if (!err)
		err = sn ? snapshot_view(s, sn, ret) : -ENOENT;
	pthread_mutex_unlock(&s->snapshot_lock);
	mem_free(a.at);
	return err;
}

/* ---- deleting ---- */

static bool is_open(struct store *s, uint64_t id)
{
	struct view *v;
	bool open = false;

	pthread_mutex_lock(&s->views_lock);
	LIST_FOREACH(v, &s->views, list)
		open |= v->snapshot == id;
	pthread_mutex_unlock(&s->views_lock);
	return open;
}

int snapshot_delete(struct store *s, const char *name)
{
	struct snapshot *sn;
	struct snapshots a;
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = s->opt.read_only ? -EROFS : finish_dying(s);
	if (!err)
		err = snapshots_read(s, &a);
	if (!err) {
		sn = snapshot_by_name(&a, name);
		err = !sn ? -ENOENT : is_open(s, sn->id) ? -EBUSY : snapshot_take_out(s, sn->id);
		mem_free(a.at);
		if (err && err != -ENOENT && err != -EBUSY && !store_failed(s) && !snapshots_read(s, &a)) {
			/* Marked, durably: it is gone for everybody, and the rest is for the next snapshot operation. */
			if (!snapshot_by_name(&a, name))
				err = 0;
			mem_free(a.at);
		}
	}
	pthread_mutex_unlock(&s->snapshot_lock);
	return err;
}

/*
 * Deletions that were interrupted, by a crash or an error, are finished before anything else is done to the line: what
 * is half freed must not lose or gain children. snapshot_lock held.
 */
static int finish_dying(struct store *s)
{
	uint64_t before = 0;
	int err;

	for (;;) {
		struct snapshot *child;
		uint64_t id = 0;
		struct snapshots a;

		err = snapshots_read(s, &a);
		for (size_t i = 0; !err && i < a.n; i++)
			if (a.at[i].flags & SNAPSHOT_DYING ||
			    (a.at[i].flags & SNAPSHOT_HIDDEN && snapshot_children(s, &a, a.at[i].id, &child) <= 1))
				id = a.at[i].id;
		mem_free(a.at);
		if (err || !id)
			return err;
		if (id == before)
			return corrupt("snapshot", id, "a deletion that does not end", id, 0);
		before = id;
		err = snapshot_take_out(s, id);
		if (err)
			return err;
	}
}

int snapshot_resume(struct store *s)
{
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = finish_dying(s);
	pthread_mutex_unlock(&s->snapshot_lock);
	return err;
}

/* ---- rolling back ---- */

struct rollback {
	struct snapshot target, old; /* old: what live was */
	uint64_t list;
};

static int rollback_prepare(struct store *s, struct batch *b, void *arg)
{
	struct rollback *r = arg;
	int err;

	if (r->target.claims > space_free_blocks(s->space))
		return -ENOSPC;
	r->old = (struct snapshot){
		.id = s->next_id,
		.gen = s->live.tree.gen,
		.root = s->live.tree.root,
		.parent = s->parent,
		.dead_list = s->dead_list,
		.flags = SNAPSHOT_DYING,
	};
	r->list = s->next_id + 1;
	err = snapshot_put(b, &r->old);
	return err ? err : snapshot_put_live(b, r->target.id, r->list, s->next_id + 2);
}

static void rollback_frozen(struct store *s, void *arg)
{
	const struct rollback *r = arg;

	s->live.tree.root = r->target.root;
	s->live.has_shared = true; /* perhaps; looked up at the next open */
	s->parent = r->target.id;
	s->parent_gen = r->target.gen;
	s->parent_dying = false;
	s->rollback_gen = r->old.gen;
	s->dead_list = r->list;
	s->next_id += 2;
	atomic_store(&s->claims, (int64_t)r->target.claims);
}

/* Transactions whose base is not younger than gen. */
static void end_all_txns(struct store *s, uint64_t gen)
{
	for (;;) {
		struct view *v, *open = NULL;

		pthread_mutex_lock(&s->views_lock);
		LIST_FOREACH(v, &s->views, list)
			if (v->kind == VIEW_TXN && atomic_load(&v->state) == VIEW_OPEN && v->base_gen <= gen)
				open = v;
		if (open)
			atomic_fetch_add(&open->refs, 1);
		pthread_mutex_unlock(&s->views_lock);
		if (!open)
			return;
		txn_end(open);
		view_put(open);
	}
}

int snapshot_rollback(struct store *s, const char *name)
{
	static const struct freeze_ops ops = { rollback_prepare, rollback_frozen };
	struct rollback r = { 0 };
	struct snapshot *sn;
	struct snapshots a;
	int err;

	pthread_mutex_lock(&s->snapshot_lock);
	err = s->opt.read_only ? -EROFS : finish_dying(s);
	if (!err)
		err = snapshots_read(s, &a);
	if (err)
		goto out;
	sn = snapshot_by_name(&a, name);
	if (sn)
		r.target = *sn;
	mem_free(a.at);
	if (!sn) {
		err = -ENOENT;
		goto out;
	}
	end_all_txns(s, UINT64_MAX);
	err = checkpoint_run(s, CHECKPOINT_BOTH | CHECKPOINT_HOLD, &ops, &r);
	if (!err) {
		end_all_txns(s, r.old.gen); /* those begun meanwhile */
		if (snapshot_take_out(s, r.old.id)) /* rolled back it is; the rest is for the next snapshot operation */
			err = store_failed(s);
	}
out:
	pthread_mutex_unlock(&s->snapshot_lock);
	return err;
}

#include "tests/kit/rebuildkit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/node_format.h"
#include "btree/super.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/test.h"

/* ---- stores ---- */

static const struct kv_op plain_ops[] = {
	{ .action = KV_PUT_MANY, .ino = 9, .n = 16, .len = 900 },
	{ .action = KV_PUT_MANY, .ino = 12, .n = 40, .len = 700 },
	{ .action = KV_PUT_MANY, .ino = 14, .n = 60, .len = 300 },
	{ .action = KV_EXTENT, .ino = 20, .n = 3, .seed = 1 },
	{ .action = KV_EXTENT, .ino = 21, .n = 20, .seed = 1 },
	{ .action = KV_CLONE, .ino = 20, .ino2 = 22 },
	{ .action = KV_CLONE, .ino = 20, .ino2 = 27, .n = 1 },
	{ .action = KV_CLAIM, .ino = 28, .n = 5 },
	{ .action = KV_CHECKPOINT },
	{ .action = KV_SPLIT, .ino = 21, .seed = 1 },
	{ .action = KV_PUT_MANY, .ino = 9, .off = 4, .n = 8, .len = 500 },
	{ .action = KV_DEL, .ino = 14, .off = 7 },
	{ .action = KV_SYNC },
};

static const struct kv_op snapshot_ops[] = {
	{ .action = KV_SNAP_CREATE, .slot = 1 },
	{ .action = KV_PUT_MANY, .ino = 9, .n = 10, .len = 800 },
	{ .action = KV_EXTENT, .ino = 20, .n = 2, .seed = 2 },
	{ .action = KV_SNAP_CREATE, .slot = 2 },
	{ .action = KV_DEL_INO, .ino = 12 },
	{ .action = KV_EXTENT, .ino = 25, .n = 4, .seed = 5 },
	{ .action = KV_SNAP_CREATE, .slot = 3 },
	{ .action = KV_PUT_MANY, .ino = 12, .n = 10, .len = 300 },
	{ .action = KV_DEL, .ino = 22 },
	{ .action = KV_CHECKPOINT },
};

/* Live and the third snapshot both derive from the second. */
static const struct kv_op rollback_ops[] = {
	{ .action = KV_SNAP_ROLLBACK, .slot = 2 },
	{ .action = KV_PUT_MANY, .ino = 30, .n = 12, .len = 300 },
	{ .action = KV_EXTENT, .ino = 31, .n = 4, .seed = 9 },
	{ .action = KV_DEL, .ino = 20 },
	{ .action = KV_CHECKPOINT },
};

static const struct kv_op log_ops[] = {
	{ .action = KV_PUT, .ino = 10, .len = 100 },
	{ .action = KV_EXTENT, .ino = 23, .n = 1, .seed = 3 },
	{ .action = KV_SYNC },
	{ .action = KV_EXTENT, .ino = 24, .n = 18, .seed = 3 },
	{ .action = KV_DEL_INO, .ino = 9 },
	{ .action = KV_SYNC },
	{ .action = KV_CLONE, .ino = 24, .ino2 = 26, .n = 2 },
	{ .action = KV_PUT, .ino = 9, .off = 3, .len = 60 },
	{ .action = KV_SYNC },
	{ .action = KV_PUT_MANY, .ino = 14, .off = 10, .n = 3, .len = 100 },
	{ .action = KV_SYNC },
	{ .action = KV_TICK },
	{ .action = KV_TICK },
};

const struct rebuildkit_shape rebuildkit_shapes[REBUILDKIT_SHAPES] = {
	{ "a store that was closed", false, false, false, false },
	{ "a store with a log", false, false, false, true },
	{ "a store with snapshots", false, true, false, false },
	{ "a store with snapshots and a log", false, true, false, true },
	{ "a store with second copies, snapshots and a log", true, true, false, true },
	{ "a store that was rolled back", false, true, true, true },
};

void rebuildkit_ops(struct kv_run *run, const struct kv_op *ops, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int err = kv_run_op(run, &ops[i]);

		if (err) {
			printf("# op %zu: error %d %s\n", i, -err, run->broken);
			kv_log_print(stdout);
		}
		assert_int_equal(err, 0);
	}
}

static void begin(struct rebuildkit *f, bool copies)
{
	struct store_mkfs_options mkfs = kv_mkfs_options;

	f->disk = simdev_new(&(struct simdev_options){ .blocks = REBUILDKIT_BLOCKS, .seed = 3, .no_trace = true });
	mkfs.copies = copies;
	kv_run_init(&f->run, f->disk, &kv_store_options, NULL, 9);
	assert_int_equal(store_mkfs(simdev_bdev(f->disk), &mkfs), 0);
	assert_int_equal(kv_run_open(&f->run), 0);
}

static void end(struct rebuildkit *f, bool kill)
{
	_Alignas(BLOCK_SIZE) struct disk_super super;

	if (kill) {
		kv_run_kill(&f->run);
	} else {
		assert_int_equal(store_close(f->run.store), 0);
		f->run.store = NULL;
	}
	simdev_peek(f->disk, SUPER_SLOT0, &super, 1);
	f->log_start = le64_get(super.log_start);
	f->log_blocks = le64_get(super.log_blocks);
}

void rebuildkit_init(struct rebuildkit *f, const struct rebuildkit_shape *shape)
{
	memset(f, 0, sizeof(*f));
	f->shape = shape;
	begin(f, shape->copies);
	rebuildkit_ops(&f->run, plain_ops, ARRAY_LEN(plain_ops));
	if (shape->snapshots)
		rebuildkit_ops(&f->run, snapshot_ops, ARRAY_LEN(snapshot_ops));
	if (shape->rollback)
		rebuildkit_ops(&f->run, rollback_ops, ARRAY_LEN(rollback_ops));
	if (shape->log)
		rebuildkit_ops(&f->run, log_ops, ARRAY_LEN(log_ops));
	end(f, shape->log);
}

void rebuildkit_init_random(struct rebuildkit *f, const struct kv_profile *profile, bool copies, unsigned ops,
			    struct rng *rng)
{
	static const struct rebuildkit_shape plain = { "a store by chance", false, true, true, true },
					     twice = { "a store by chance with second copies", true, true, true, true };

	memset(f, 0, sizeof(*f));
	f->shape = copies ? &twice : &plain;
	begin(f, copies);
	for (unsigned i = 0; i < ops; i++) {
		struct kv_op op = kv_gen(profile, rng);
		int err = kv_run_op(&f->run, &op);

		if (err == -EPROTO)
			printf("# %s\n", f->run.broken);
		assert_true(err >= 0 || err == -ENOSPC || err == -EFBIG);
	}
	end(f, true);
}

void rebuildkit_release(struct rebuildkit *f)
{
	kv_run_release(&f->run);
	simdev_free(f->disk);
}

/* ---- rebuilding, and looking at what has become of it ---- */

static int on_lost(void *arg, struct rebuild *r, const struct rebuild_lost *lost, size_t n)
{
	struct outcome *o = arg;

	assert_false(o->asked);
	o->asked = true;
	o->n_lost = n;
	o->lost = malloc((n + 1) * sizeof(*lost));
	for (size_t i = 0; i < n; i++) {
		assert_true(key_less(lost[i].from, lost[i].to));
		assert_true(i == 0 || key_less(lost[i - 1].to, lost[i].from));
		o->lost[i] = lost[i];
		if (o->put) {
			struct key at = lost[i].from;

			/* A type that takes anything. */
			if (key_type(at) != KVT_BYTES)
				at = key_make(key_ino(at) + 1000, KVT_BYTES, i);
			assert_int_equal(rebuild_put(r, at, "lost", 4), 0);
		}
	}
	return o->refuse;
}

static void on_found(void *arg, enum rebuild_finding what, const char *view, const char *text)
{
	struct outcome *o = arg;

	o->found[what]++;
	snprintf(o->lines[o->n_lines++ % 8], sizeof(o->lines[0]), "%d %s: %s", what, view ? view : "-", text);
}

int rebuildkit_rebuild(struct simdev *disk, struct outcome *o)
{
	struct rebuild_options opt = {
		.records = &kv_records, .lost = on_lost, .found = on_found, .arg = o, .salvage = o->salvage
	};

	return store_rebuild(simdev_bdev(disk), &opt, &o->res);
}

void rebuildkit_outcome_release(struct outcome *o)
{
	free(o->lost);
	memset(o, 0, sizeof(*o));
}

void rebuildkit_print_outcome(const struct rebuildkit *f, const char *what, uint64_t where, const struct outcome *o)
{
	printf("# %s, %s, block %" PRIu64 "\n", f->shape->name, what, where);
	for (unsigned i = o->n_lines > 8 ? o->n_lines - 8 : 0; i < o->n_lines; i++)
		printf("#   found: %s\n", o->lines[i % 8]);
	for (size_t i = 0; i < o->n_lost && i < 10; i++)
		printf("#   lost: %" PRIx64 "/%" PRIx64 " to %" PRIx64 "/%" PRIx64 "\n", o->lost[i].from.obj,
		       o->lost[i].from.off, o->lost[i].to.obj, o->lost[i].to.off);
	kv_log_print(stdout);
	fflush(stdout);
}

static bool is_lost(const struct outcome *o, struct key key)
{
	for (size_t i = 0; i < o->n_lost; i++)
		if (!key_less(key, o->lost[i].from) && key_less(key, o->lost[i].to))
			return true;
	return false;
}

static bool is_mark(const struct kv *kv)
{
	return kv->len == 4 && memcmp(kv->val, "lost", 4) == 0;
}

/* What is lost may be missing; all else is as in `want`. */
static bool agrees(const struct outcome *o, const struct kvmap *have, const struct kvmap *want)
{
	for (size_t i = 0; i < kvmap_count(have); i++) {
		const struct kv *kv = kvmap_at(have, i), *w = kvmap_find(want, kv->key);

		if (o->put && is_mark(kv))
			continue;
		if (!w || w->len != kv->len || memcmp(w->val, kv->val, kv->len) != 0)
			return false;
	}
	for (size_t i = 0; i < kvmap_count(want); i++) {
		struct key key = kvmap_at(want, i)->key;

		if (!kvmap_find(have, key) && !is_lost(o, key))
			return false;
	}
	return true;
}

static bool world_agrees(const struct outcome *o, const struct world *have, const struct world *want)
{
	if (!agrees(o, have->live, want->live) || memcmp(have->counter, want->counter, sizeof(have->counter)) != 0)
		return false;
	for (unsigned i = 0; i < have->n_snapshots; i++) {
		int k = world_snapshot_find(want, have->snapshot[i].name);

		if (k < 0 || !kvmap_equal(have->snapshot[i].state, want->snapshot[k].state))
			return false;
	}
	return o->found[REBUILD_SNAPSHOT] + o->found[REBUILD_NODE] + o->found[REBUILD_ITEM] ||
	       have->n_snapshots == want->n_snapshots;
}

static bool model_agrees(const struct rebuildkit *f, const struct outcome *o, const struct world *have)
{
	const struct model *m = &f->run.model;

	for (size_t i = m->n; i-- > (o->found[REBUILD_LOG] || o->log_hit ? 0 : m->durable);)
		if (world_agrees(o, have, &m->world[i]))
			return true;
	return false;
}

static const struct kv_op after_ops[] = {
	{ .action = KV_DEL_INO, .ino = 14 },
	{ .action = KV_SNAP_CREATE, .slot = 5 },
	{ .action = KV_EXTENT, .ino = 40, .n = 9, .seed = 7 },
	{ .action = KV_DEL_INO, .ino = 20 },
	{ .action = KV_DEL_INO, .ino = 21 },
	{ .action = KV_SNAP_DELETE, .slot = 255 },
	{ .action = KV_DEL_INO, .ino = 22 },
	{ .action = KV_DEL_INO, .ino = 27 },
	{ .action = KV_CHECK },
	{ .action = KV_SNAP_DELETE },
	{ .action = KV_CHECK },
	{ .action = KV_SNAP_DELETE },
	{ .action = KV_SNAP_DELETE },
	{ .action = KV_CHECK },
};

/* The store goes on as if nothing had happened: what is released later is right, too. */
static void goes_on(struct simdev *disk, const struct world *from)
{
	struct kv_run run;

	kv_run_init(&run, disk, &kv_store_options, from, 77);
	assert_int_equal(kv_run_open(&run), 0);
	for (size_t i = 0; i < ARRAY_LEN(after_ops); i++) {
		int err = kv_run_op(&run, &after_ops[i]);

		if (err < 0)
			printf("# op %zu: error %d %s\n", i, -err, run.broken);
		assert_true(err >= 0);
	}
	kv_run_release(&run);
}

/* Everything that must hold of a disk that has been rebuilt with this outcome. */
void rebuildkit_expect(struct rebuildkit *f, struct simdev *disk, const struct outcome *o, const char *what,
		       uint64_t where, bool compare)
{
	struct outcome again = { 0 };
	struct store_options opt = kv_store_options;
	struct check_result check;
	struct store *store = NULL;
	uint64_t writes = simdev_count(disk, SIMDEV_WRITE);
	struct world w;
	char why[300] = "";
	int err;

	kv_log_clear();
	err = rebuildkit_rebuild(disk, &again);
	if (err || again.res.findings || simdev_count(disk, SIMDEV_WRITE) != writes) {
		rebuildkit_print_outcome(f, what, where, o);
		rebuildkit_print_outcome(f, "the second time", where, &again);
		printf("# the second time: error %d, %" PRIu64 " findings\n", -err, again.res.findings);
		fail();
	}
	rebuildkit_outcome_release(&again);
	opt.records = &kv_records;
	opt.seed = where + 1000;
	err = store_open(simdev_bdev(disk), &opt, &store);
	if (!err)
		err = store_check(store, &check);
	if (err) {
		rebuildkit_print_outcome(f, what, where, o);
		printf("# opening or checking: error %d\n", -err);
		fail();
	}
	if (!compare) {
		store_crash(store);
		return;
	}
	err = kv_world_read(store, &w, why, sizeof(why));
	if (err || !model_agrees(f, o, &w)) {
		rebuildkit_print_outcome(f, what, where, o);
		printf("# reading: error %d %s\n", -err, why);
		if (!err)
			world_print_diff(stdout, "read", &w, "right", model_now(&f->run.model));
		fail();
	}
	assert_int_equal(store_close(store), 0);
	f->whole += world_equal(&w, model_now(&f->run.model));
	f->part += !world_equal(&w, model_now(&f->run.model));
	f->snapshots_lost += w.n_snapshots < model_now(&f->run.model)->n_snapshots;
	goes_on(disk, &w);
	world_release(&w);
}

/* ---- damage ---- */

static bool is_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, BLOCK_SIZE - 1) == 0;
}

enum rebuildkit_kind rebuildkit_kind(const struct rebuildkit *f, uint64_t addr)
{
	uint8_t block[BLOCK_SIZE];

	simdev_peek(f->disk, addr, block, 1);
	if (addr == SUPER_SLOT0 || addr == SUPER_SLOT1)
		return KIND_SUPER;
	if (addr >= f->log_start && addr < f->log_start + f->log_blocks)
		return KIND_LOG;
	if (is_zero(block))
		return KIND_UNUSED;
	if (addr < f->log_start)
		return KIND_SPACE;
	return le32_get(((const struct disk_node *)block)->magic) == NODE_MAGIC ? KIND_NODE : KIND_DATA;
}

void rebuildkit_destroy(struct simdev *disk, uint64_t addr, unsigned how, struct rng *rng)
{
	uint8_t block[BLOCK_SIZE] = { 0 };

	if (how == 0)
		simdev_flip(disk, addr, (uint32_t)rng_below(rng, BLOCK_SIZE * 8));
	if (how == 1)
		rng_bytes(rng, block, sizeof(block));
	if (how)
		simdev_poke(disk, addr, 0, block, sizeof(block));
}

void rebuildkit_print(const struct rebuildkit *f)
{
	printf("# %s: %u tried, %u whole again, %u with losses, %u without a snapshot\n", f->shape->name, f->tried,
	       f->whole, f->part, f->snapshots_lost);
}

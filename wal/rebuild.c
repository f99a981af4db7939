/*
 * rebuild.c - a damaged store made whole again
 *
 * The problem. Ordinary opening needs a whole store: it replays the log into trees by the code that wrote them, and that
 * code trusts what verified. With a hole in a tree, a map page gone or a log that is cut, there is no such state to begin with.
 * Mending in place would be writing into the only copy of what is left, under rules that no longer hold.
 *
 * The idea is the engine's own: what there is stays as it is, and a new state is made beside it. Everything that can be
 * derived is derived again from the items (shared counts, dead lists, the map, claims), so that it does not matter in which
 * ways it was wrong. Then superblocks are switched, which is one moment.
 *
 *	survey	 rebuild_survey.c, rebuild_log.c: reads only
 *	line	 rebuild_line.c: which snapshots stay
 *	lost	 the upper layer is asked; it may still say no, and nothing has been changed
 *	epoch	 a new mount epoch in both slots, as every opening does: what is written from here on has generations of its own.
 *		 Both slots name the newest checkpoint after it
 *	build	 rebuild_build.c: new nodes, riding blocks, pages of the space map to homes that the slots do not use
 *	switch	 flush; the older slot, flush; the other, flush
 *
 * Until the switch a crash leaves the store as damaged as it was, and another rebuild finds the same. After the first slot
 * it is the new one.
 *
 * Where nodes are lost that only the newest checkpoint wrote, after a crash, the one before it and the log still have everything:
 * then both slots are made to name that one, and nothing else is done.
 *
 * What is whole keeps its tree: a wrong map costs a map. Then the log, where it is whole, stays too, and the next open
 * replays it. Live gets a new tree when it has holes, when its counts are wrong, when the log is damaged (so that its good part
 * is taken and the rest is gone for good), when its parent changes, or when the upper layer puts something.
 *
 * Rejected: repairing single nodes by copying their path. It would take less room, but its correctness rests on each case of
 * what was damaged; a tree built anew from a stream of items has one case.
 */
#include <stdarg.h>
#include <sys/random.h>

#include "btree/mem.h"
#include "wal/rebuild_int.h"

#define CACHE_BYTES ((size_t)16 << 20)

int rebuild_found(struct rebuild *r, enum rebuild_finding what, const struct rview *v, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r->res->findings++;
	if (r->opt->found)
		r->opt->found(r->opt->arg, what, v ? rview_name(v) : NULL, text);
	return 0;
}

int rebuild_lose(struct rebuild *r, struct key from, struct key to, int err)
{
	if (mem_grow((void **)&r->lost, &r->cap_lost, r->n_lost + 1, sizeof(*r->lost)))
		return -ENOMEM;
	r->lost[r->n_lost++] = (struct rebuild_lost){ from, to, err };
	return 0;
}

int rebuild_put(struct rebuild *r, struct key key, const void *val, size_t len)
{
	struct extent x;
	int err;

	if (!r->asking || key.obj == UINT64_MAX || len > tree_value_max(r->super.node_size))
		return -EINVAL;
	err = record_validate(r->opt->records, key, val, len);
	if (err)
		return err;
	if (record_extent(r->opt->records, key, val, len, &x) && x.addr)
		return -EINVAL;
	rebuild_live(r)->rebuild = true;
	return rebuild_set(r, key, val, len);
}

/* ---- opening ---- */

static struct rebuild *begin(struct bdev *dev, const struct rebuild_options *opt, struct rebuild_result *res)
{
	struct rebuild *r = mem_zalloc(sizeof(*r));

	if (!r)
		return NULL;
	r->bdev = dev;
	r->opt = opt;
	r->res = res;
	RB_INIT(&r->puts);
	RB_INIT(&r->masks);
	return r;
}

static int load_super(struct rebuild *r)
{
	int err = super_load(r->bdev, &r->super, &r->slot, &r->other_ok);

	r->super_ok = !err;
	if (err == -ENOMEM || err == -EPROTONOSUPPORT)
		return err;
	if (err && !r->opt->salvage)
		return err == -ENXIO ? err : -ENODEV;
	if (err || !r->other_ok)
		rebuild_found(r, REBUILD_SUPER, NULL, err ? "no slot verifies" : "slot %u does not verify", !r->slot);
	if (r->opt->salvage) {
		uint64_t serial = err ? 0 : r->super.serial, epoch = err ? 0 : r->super.mount_epoch;

		r->super = *salvage_super(r->opt->salvage);
		r->super.serial = r->super.serial < serial ? serial : r->super.serial;
		r->super.mount_epoch = r->super.mount_epoch < epoch ? epoch : r->super.mount_epoch;
		r->from_salvage = true;
	}
	if (r->super.ro_compat & ~(uint64_t)SUPER_RO_COMPAT_KNOWN) {
		err_log(LOG_ERROR, "%s: has features unknown here (%#" PRIx64 ")", r->bdev->name, r->super.ro_compat);
		return -EROFS;
	}
	return 0;
}

static int open_space(struct rebuild *r)
{
	struct space_geometry geo = { r->super.blocks, r->super.log_start, r->super.log_blocks };
	struct space_root root = r->super.space;
	int err = space_open(r->bdev, &geo, &root, 0, &r->space);

	if (err == -EINVAL)
		return corrupt("superblock", 0, "geometry", r->super.blocks, r->super.log_blocks);
	if (err && err != -ENOMEM) {
		/* The device cannot read the root page: then it is lost. */
		root.sum = root.free = 0;
		err = space_open(r->bdev, &geo, &root, 0, &r->space);
	}
	if (!err)
		r->groups = space_groups(r->space);
	return err;
}

static int open_parts(struct rebuild *r)
{
	struct cache_options co = { .bdev = r->bdev, .node_size = r->super.node_size, .bytes = CACHE_BYTES };
	int err;

	if (r->super.blocks > r->bdev->geo.blocks)
		return -ENXIO;
	r->files_table = *r->opt->records;
	r->files_table.row[RECORD_SHARED] = shared_row;
	err = epoch_open(&r->epoch);
	co.epoch = r->epoch;
	if (!err)
		err = cache_open(&co, &r->cache);
	if (!err)
		err = open_space(r);
	return err ? err : rmaps_open(r);
}

static void close_all(struct rebuild *r)
{
	rebuild_forget_log(r);
	for (size_t i = 0; i < r->n_views; i++)
		mem_free(r->views[i].shared.at);
	mem_free(r->views);
	mem_free(r->dead);
	mem_free(r->refused);
	mem_free(r->bad);
	mem_free(r->lost);
	rmaps_close(r);
	space_close(r->space);
	cache_close(r->cache);
	epoch_close(r->epoch);
	mem_free(r);
}

/* ---- the superblock ---- */

static int load_slot(struct rebuild *r, unsigned slot, struct super *ret)
{
	void *block = mem_alloc_blocks(BLOCK_SIZE);
	int err = block ? bdev_read(r->bdev, slot ? SUPER_SLOT1 : SUPER_SLOT0, block, 1) : -ENOMEM;

	if (!err)
		err = super_decode(block, slot, ret);
	mem_free(block);
	return err;
}

static int write_slot(struct rebuild *r, struct super *s, unsigned slot)
{
	int err;

	r->super.serial++;
	s->serial = r->super.serial;
	err = super_write(r->bdev, slot, s);
	return err ? err : bdev_flush(r->bdev);
}

/* As opening does it: both slots name the newest checkpoint afterwards. */
static int new_epoch(struct rebuild *r)
{
	struct super old;
	int err;

	r->super.mount_epoch++;
	if (r->super.mount_epoch >> (64 - GEN_EPOCH_SHIFT))
		return corrupt("superblock", 0, "mount epoch", r->super.mount_epoch, 0);
	r->next_gen = r->super.mount_epoch << GEN_EPOCH_SHIFT | 1;
	if (!r->super_ok)
		return 0;
	err = load_slot(r, r->slot, &old);
	if (err)
		return err;
	old.mount_epoch = r->super.mount_epoch;
	err = write_slot(r, &old, !r->slot);
	return err ? err : write_slot(r, &old, r->slot);
}

static int switch_over(struct rebuild *r, bool fresh_log)
{
	unsigned first = r->super_ok ? !r->slot : 1;
	struct super *s = &r->super;
	int err;

	err = rebuild_write_space(r, r->next_gen++);
	if (err)
		return err;
	s->gen = r->next_gen++;
	s->written = clock_ns();
	if (fresh_log) {
		if (getrandom(&s->log_epoch, sizeof(s->log_epoch), 0) != (ssize_t)sizeof(s->log_epoch))
			s->log_epoch += s->written;
		s->log_block = 0;
		s->log_seq = 1;
		s->log_lsn = r->log_end;
		s->flags = SUPER_CLEAN;
	}
	err = bdev_flush(r->bdev);
	if (!err)
		err = write_slot(r, s, first);
	return err ? err : write_slot(r, s, !first);
}

/* ---- the checkpoint before ---- */

/*
 * The older slot with the log from its position is a whole filesystem, too, and says the same (design.md, 10). So what only the
 * newest checkpoint has written can be lost without losing anything.
 */
static int older_is_whole(struct rebuild *r, struct super *ret, bool *ret_whole)
{
	const struct rebuild_options opt = { .records = r->opt->records };
	const struct super *s = &r->super;
	struct rebuild_result res = { 0 };
	struct rebuild *o;
	int err;

	*ret_whole = false;
	if (!r->super_ok || !r->other_ok || r->opt->salvage || !r->res->nodes_lost)
		return 0;
	o = begin(r->bdev, &opt, &res);
	if (!o)
		return -ENOMEM;
	err = load_slot(r, !r->slot, &o->super);
	if (!err && o->super.log_epoch == s->log_epoch &&
	    !(root_equal(o->super.files, s->files) && root_equal(o->super.system, s->system))) {
		err = open_parts(o);
		if (!err)
			err = rebuild_survey(o);
		*ret_whole = !err && !res.findings;
		*ret = o->super;
	}
	close_all(o);
	return err == -ENOMEM ? err : 0;
}

/* Both slots become the older checkpoint's; the next open replays the log from there. */
static int fall_back(struct rebuild *r, struct super *older)
{
	int err;

	rebuild_found(r, REBUILD_NODE, NULL,
		      "the checkpoint before has everything, with the log: it is gone back to, and nothing is lost");
	err = r->opt->lost ? r->opt->lost(r->opt->arg, r, NULL, 0) : 0;
	if (err)
		return err;
	r->super.mount_epoch++;
	if (r->super.mount_epoch >> (64 - GEN_EPOCH_SHIFT))
		return corrupt("superblock", 0, "mount epoch", r->super.mount_epoch, 0);
	older->mount_epoch = r->super.mount_epoch;
	err = write_slot(r, older, r->slot);
	return err ? err : write_slot(r, older, !r->slot);
}

/* ---- the three steps ---- */

static int ask(struct rebuild *r)
{
	bool was = rebuild_live(r)->rebuild;
	int err;

	if (!r->opt->lost)
		return 0;
	r->asking = true;
	err = r->opt->lost(r->opt->arg, r, r->lost, r->n_lost);
	r->asking = false;
	/* Live is read with the log then, which was not so when its line was settled. */
	if (!err && !was && rebuild_live(r)->rebuild)
		err = rebuild_line(r);
	return err;
}

static int run(struct rebuild *r)
{
	bool fresh_log, whole;
	struct super older;
	int err;

	err = rebuild_survey(r);
	if (err || (!r->res->findings && !r->opt->salvage))
		return err;
	err = older_is_whole(r, &older, &whole);
	if (!err && whole)
		return fall_back(r, &older);
	if (!err)
		err = rebuild_line(r);
	if (!err)
		err = ask(r);
	if (err)
		return err;
	fresh_log = rebuild_live(r)->rebuild;
	if (!fresh_log)
		r->res->records_replayed = 0; /* the next open does that */
	err = new_epoch(r);
	if (!err)
		err = rebuild_build(r);
	return err ? err : switch_over(r, fresh_log);
}

int store_rebuild(struct bdev *dev, const struct rebuild_options *opt, struct rebuild_result *ret)
{
	struct rebuild *r;
	int err;

	*ret = (struct rebuild_result){ 0 };
	r = begin(dev, opt, ret);
	if (!r)
		return -ENOMEM;
	err = load_super(r);
	if (!err)
		err = open_parts(r);
	if (!err)
		err = run(r);
	close_all(r);
	return err;
}

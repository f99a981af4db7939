/*
 * Pages of the space map that cannot be read, made anew from the trees when a store is opened.
 *
 * A lost page makes everything below it count as full, which costs room and nothing else. On a small device that can be
 * all the room there is: then the log cannot be replayed, and nothing can be changed any more. But the map is derived: in use is
 * what a checkpoint's roots reach. So before replay, when memory says what the checkpoint says, the lost groups are made
 * from
 *
 *	- the system tree, live, and every snapshot that is whole: nodes, second copies, extents. Of each view only what was
 *	  born after its parent, where that one is walked, too.
 *	- the dead lists: what is left of a snapshot whose deletion was interrupted stands in its child's list, and its own
 *	  nodes may be gone already, so it is not walked; unless it has no child (rollback), for then it goes in one step, and as
 *	  long as it is there it is whole.
 *
 * The checkpoint that ends recovery writes the new pages. Where a node cannot be read nothing can be said about what it reaches:
 * everything stays as it is.
 */
#include <inttypes.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/snapshot_int.h"
#include "wal/system_format.h"

struct rebuild {
	struct store *s;
	uint8_t **bits; /* by group: what is in use; NULL: its page can be read */
	uint64_t groups, lost;
	uint64_t born_after; /* of the view being walked */
	bool system;
};

static void mark(struct rebuild *r, uint64_t addr, uint64_t blocks)
{
	for (uint64_t b = addr; b < addr + blocks; b++) {
		uint8_t *bits = b / SPACE_GROUP_BLOCKS < r->groups ? r->bits[b / SPACE_GROUP_BLOCKS] : NULL;

		if (bits)
			bits[b % SPACE_GROUP_BLOCKS / 8] |= (uint8_t)(1u << (b % 8));
	}
}

static int on_ref(void *arg, struct ref ref, unsigned level)
{
	struct rebuild *r = arg;
	uint32_t blocks = r->s->super.node_size / BLOCK_SIZE;

	(void)level;
	if (ref.gen <= r->born_after)
		return 1;
	mark(r, ref.addr, blocks);
	if (ref.copy)
		mark(r, ref.copy, blocks);
	return 0;
}

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	struct rebuild *r = arg;
	struct extent x;

	if (r->system) {
		const struct disk_dead *d = val;

		if (key_type(key) == SYSTEM_DEAD)
			mark(r, key.off, le32_get(d->blocks));
	} else if (record_extent(&r->s->files_table, key, val, len, &x) && x.addr) {
		mark(r, x.addr, x.blocks);
	}
	return 0;
}

static int walk(struct rebuild *r, uint64_t tree, const struct root *root, uint64_t born_after)
{
	static const struct walk_ops ops = { .ref = on_ref, .item = on_item };

	r->system = tree == TREE_SYSTEM;
	r->born_after = born_after;
	return tree_walk(r->s->cache, tree, root, &ops, r);
}

static bool is_whole(struct store *s, const struct snapshots *a, const struct snapshot *sn)
{
	struct snapshot *child;

	return !(sn->flags & SNAPSHOT_DYING) || !snapshot_children(s, a, sn->id, &child);
}

/* Up to where what `id` has was marked with it. */
static uint64_t walked_gen(struct store *s, const struct snapshots *a, uint64_t id)
{
	const struct snapshot *sn = snapshot_by_id(a, id);

	return sn && is_whole(s, a, sn) ? sn->gen : 0;
}

static int walk_all(struct rebuild *r)
{
	struct store *s = r->s;
	struct snapshots a;
	int err = snapshots_read(s, &a);

	if (!err)
		err = walk(r, TREE_SYSTEM, &s->system.root, 0);
	for (size_t i = 0; !err && i < a.n; i++)
		if (is_whole(s, &a, &a.at[i]))
			err = walk(r, TREE_FILES, &a.at[i].root, walked_gen(s, &a, a.at[i].parent));
	if (!err)
		err = walk(r, TREE_FILES, &s->live.tree.root, walked_gen(s, &a, s->parent));
	mem_free(a.at);
	return err;
}

static int find_lost(struct rebuild *r)
{
	for (uint64_t g = 0; g < r->groups; g++) {
		int err = space_bitmaps(r->s->space, g, NULL, NULL);

		if (err == -ENOMEM)
			return err;
		if (!err)
			continue;
		r->bits[g] = mem_zalloc(SPACE_GROUP_BLOCKS / 8);
		if (!r->bits[g])
			return -ENOMEM;
		r->lost++;
	}
	return 0;
}

int space_rebuild(struct store *s)
{
	struct rebuild r = { .s = s, .groups = space_groups(s->space) };
	int err;

	r.bits = mem_zalloc_array(r.groups, sizeof(*r.bits));
	if (!r.bits)
		return -ENOMEM;
	err = find_lost(&r);
	if (!err && r.lost)
		err = walk_all(&r);
	for (uint64_t g = 0; !err && g < r.groups; g++)
		if (r.bits[g])
			err = space_rebuild_group(s->space, g, r.bits[g]);
	if (!err && r.lost)
		err_log(LOG_WARNING,
			"the space map could not be read in %" PRIu64 " groups of 128 MiB: made anew from the trees",
			r.lost);
	if (err && err != -ENOMEM) {
		err_log(LOG_ERROR, "the space map cannot be made anew (%s): what it does not say counts as in use",
			strerror(-err));
		err = 0;
	}
	for (uint64_t g = 0; g < r.groups; g++)
		mem_free(r.bits[g]);
	mem_free(r.bits);
	return err;
}

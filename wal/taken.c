/*
 * taken.c - a commit takes blocks back from live's dead list
 *
 * Blocks that live released and a snapshot holds stand on live's dead list, as items of the system tree. When a commit (or
 * its replay) makes live refer to such blocks again, they must leave the list in the same step. So that batch carries a
 * nested one, of the system tree: each item the taken ranges overlap is replaced by what they leave of it.
 */
#include "btree/err.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

/* The item being cut: its blocks from `from` on are still to be put back. */
struct cut {
	struct batch *nested;
	uint64_t list;
	uint64_t key, from, end; /* end == 0: none */
	struct disk_dead item;
};

static int put_rest(struct cut *c, uint64_t to)
{
	int err = 0;

	if (c->from < to) {
		c->item.blocks = le32_put((uint32_t)(to - c->from));
		err = batch_put(c->nested, key_make(c->list, SYSTEM_DEAD, c->from), &c->item, sizeof(c->item));
	}
	return err;
}

/* [addr, addr + blocks) goes from the item that holds it; ranges come in ascending order. */
static int cut_range(struct cut *c, struct key key, const struct disk_dead *d, uint64_t addr, uint64_t blocks)
{
	int err = 0;

	if (!c->end || key.off != c->key) {
		err = c->end ? put_rest(c, c->end) : 0;
		if (!err)
			err = batch_del(c->nested, key); /* a rest that begins where it began wins over this */
		c->key = c->from = key.off;
		c->end = key.off + le32_get(d->blocks);
		c->item = *d;
	}
	if (!err)
		err = put_rest(c, addr);
	c->from = addr + blocks;
	return err;
}

int taken_collect(struct batch *b)
{
	struct store *s = b->store;
	struct cut c = { .nested = b->nested, .list = s->dead_list };
	int err = 0;

	for (size_t i = 0; i < b->refs.taken.n; i++) {
		uint64_t addr = b->refs.taken.at[i].addr, end = addr + b->refs.taken.at[i].blocks;

		while (addr < end) {
			const struct disk_dead *d;
			uint64_t blocks = end - addr;
			struct key key;
			size_t len;
			bool in;

			err = dead_lookup(s, s->dead_list, addr, &blocks, &in, &b->miss);
			if (!err && in)
				err = tree_floor(s->cache, &s->system.root, TREE_SYSTEM,
						 key_make(s->dead_list, SYSTEM_DEAD, addr), &key, (const void **)&d, &len,
						 &b->miss);
			if (!err && in)
				err = cut_range(&c, key, d, addr, blocks);
			if (err)
				return err;
			addr += blocks;
		}
	}
	return c.end ? put_rest(&c, c.end) : 0;
}

/*
 * salvage.c - finds a store's nodes by their own headers
 *
 * In four steps, all in salvage_scan():
 *
 *	slots	what the superblocks say, if one verifies
 *	scan	one pass over the device; a table of all nodes that verify, 80 bytes each
 *	link	every node above the leaves is read once more: who refers to whom, and which trees are there as a whole
 *	plan	a list of (range of keys, leaf), sorted, without overlaps
 *
 * salvage_each() then only follows the plan, reading leaves again, some at a time. It can be called as often as the
 * rebuild needs it, and gives the same each time, because the plan does not change and its blocks are kept from
 * being written.
 *
 * The log is not applied here. What the superblock that is handed out says of the log fits what is given, whether
 * that is from a slot or was found (salvage_super.c); so the rebuild replays it in the same way in all cases.
 *
 * Rejected: believing the interior nodes' key ranges only and sorting all items of all leaves by generation. A
 * leaf's generation says when it was written last, not which of two states with different leaves came later for one
 * key; and what was deleted would always come back.
 */
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/salvage_int.h"
#include "wal/system_format.h"

#define WINDOW 32u /* leaves read at once */

int salvage_scan(struct bdev *bdev, const struct salvage_options *opt, struct salvage **ret,
		 struct salvage_result *result)
{
	struct salvage *s = mem_zalloc(sizeof(*s));
	int err = -ENOMEM;

	if (!s)
		return -ENOMEM;
	s->bdev = bdev;
	s->opt = *opt;
	RB_INIT(&s->cover);
	s->scratch = mem_alloc_blocks(NODE_SIZE_MAX);
	if (s->scratch)
		err = salvage_read_slots(s);
	if (!err)
		err = salvage_read_device(s);
	if (!err)
		err = salvage_link(s);
	if (!err)
		err = salvage_make_super(s);
	if (!err)
		err = salvage_plan(s);
	if (err) {
		salvage_close(s);
		return err;
	}
	*result = (struct salvage_result){
		.nodes = s->n_nodes,
		.leaves = s->leaves,
		.super_found = s->super_found,
		.identified = s->id != NULL,
		.log_found = !(s->super.flags & SUPER_CLEAN),
		.log_reaches = s->log_reaches,
		.ranges = s->n_older,
	};
	*ret = s;
	return 0;
}

void salvage_close(struct salvage *s)
{
	if (!s)
		return;
	salvage_plan_release(s);
	mem_free(s->pieces);
	mem_free(s->nodes);
	mem_free(s->segs);
	mem_free(s->scratch);
	mem_free(s);
}

const struct super *salvage_super(const struct salvage *s)
{
	return &s->super;
}

int salvage_blocks(const struct salvage *s, int (*run)(void *arg, uint64_t addr, uint32_t blocks), void *arg)
{
	uint32_t blocks = s->node_size / BLOCK_SIZE;
	int err = 0;

	for (size_t i = 0; i < s->n_pieces && !err; i++) {
		const struct salvage_node *n;

		if (s->pieces[i].leaf == SALVAGE_NONE)
			continue;
		n = &s->nodes[s->pieces[i].leaf];
		if (n->at_addr)
			err = run(arg, n->addr, blocks);
		if (!err && n->at_copy)
			err = run(arg, n->copy, blocks);
	}
	return err;
}

/* ---- handing out ---- */

struct stream {
	struct salvage *s;
	int (*item)(void *arg, struct key, const void *val, size_t len);
	int (*lost)(void *arg, struct key from, struct key to, int err);
	void *arg;
	uint8_t *bufs; /* WINDOW nodes */
	int err[WINDOW];
};

static int give_lost(const struct stream *t, struct key from, struct key to, int err)
{
	return t->lost ? t->lost(t->arg, from, to, err) : 0;
}

static int give_leaf(const struct stream *t, const struct salvage_piece *p, const void *buf)
{
	const struct disk_node *h = buf;
	const struct disk_slot *slots = (const struct disk_slot *)(h + 1);
	unsigned nr = le16_get(h->nr);
	int err = 0;

	for (unsigned i = slots_below(slots, nr, p->low, false); i < nr && !err; i++) {
		struct key key = slot_key(&slots[i]);
		const void *val = (const uint8_t *)buf + le16_get(slots[i].val);
		size_t len = le16_get(slots[i].len);

		if (!key_less(key, p->high))
			break;
		if (key_ino(key) == KEY_INO_MAX && key_type(key) == RECORD_SHARED)
			continue;
		if (record_validate(t->s->opt.records, key, val, len))
			err = give_lost(t, key, key_next(key), -EUCLEAN);
		else
			err = t->item(t->arg, key, val, len);
	}
	return err;
}

/* The leaves of pieces p[0 .. n - 1], with all reads in flight. */
static void read_window(struct stream *t, const struct salvage_piece *p, unsigned n)
{
	struct bio bios[WINDOW], *list[WINDOW];
	struct iovec iov[WINDOW];
	struct bio_group group;
	unsigned k = 0;

	bio_group_init(&group);
	for (unsigned i = 0; i < n; i++) {
		const struct salvage_node *x;

		if (p[i].leaf == SALVAGE_NONE)
			continue;
		x = &t->s->nodes[p[i].leaf];
		iov[k] = (struct iovec){ t->bufs + (size_t)i * t->s->node_size, t->s->node_size };
		bios[k] = (struct bio){ .op = BIO_READ,
					.addr = x->at_addr ? x->addr : x->copy,
					.iov = &iov[k],
					.iovcnt = 1,
					.group = &group };
		list[k] = &bios[k];
		k++;
	}
	if (k)
		bdev_submit(t->s->bdev, list, k);
	(void)bdev_wait(t->s->bdev, &group);
	k = 0;
	for (unsigned i = 0; i < n; i++) {
		const struct salvage_node *x;
		uint8_t *buf = t->bufs + (size_t)i * t->s->node_size;

		t->err[i] = p[i].err;
		if (p[i].leaf == SALVAGE_NONE)
			continue;
		x = &t->s->nodes[p[i].leaf];
		if (bios[k++].err || !salvage_same(x, buf))
			t->err[i] = salvage_read(t->s, x, buf);
	}
}

int salvage_each(struct salvage *s, int (*item)(void *arg, struct key, const void *val, size_t len),
		 int (*lost)(void *arg, struct key from, struct key to, int err), void *arg)
{
	struct stream t = { .s = s, .item = item, .lost = lost, .arg = arg };
	int err = 0;

	if (!s->n_pieces)
		return 0;
	t.bufs = mem_alloc_blocks((size_t)WINDOW * s->node_size);
	if (!t.bufs)
		return -ENOMEM;
	for (size_t i = 0; i < s->n_pieces && !err; i += WINDOW) {
		unsigned n = s->n_pieces - i < WINDOW ? (unsigned)(s->n_pieces - i) : WINDOW;

		read_window(&t, &s->pieces[i], n);
		for (unsigned k = 0; k < n && !err; k++) {
			const struct salvage_piece *p = &s->pieces[i + k];

			err = t.err[k] ? give_lost(&t, p->low, p->high, t.err[k])
				       : give_leaf(&t, p, t.bufs + (size_t)k * s->node_size);
		}
	}
	mem_free(t.bufs);
	return err;
}

/*
 * salvage_super.c - the superblock to go on from, with a position in the log
 *
 * One slot that verifies is enough: it says everything. Where both do, the newer one is taken, unless its tree is
 * not there as a whole and the older one's is; the older one with the log from its position is the same filesystem.
 * A slot of a newer format is refused, as always.
 *
 * With none, one is made up: geometry, uuid, label and secret from the item of the upper layer that repeats them;
 * the size of nodes as most of them are; and what only grows set beyond everything seen. Without such an item the
 * names' secret is gone (zeros), the log's region follows from its segments, and failing these from the size of the
 * device.
 *
 * The log. Its segments carry their epoch, place and sequence, its records the generation they were made in. A tree
 * whose root has generation g has all records up to g: a change gives the root a newer one. So the log goes on at
 * the first record with a greater generation, in the epoch that has the newest records. Every opening of a store
 * begins a new epoch but counts records on, so whether the record before that one is to be found, in whatever
 * epoch, tells whether anything is missing between tree and log.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/random.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/batch_format.h"
#include "wal/log_format.h"
#include "wal/log_read.h"
#include "wal/salvage_int.h"
#include "wal/store_int.h"
#include "wal/system_format.h"

#define SEGMENT_READS 8u    /* so many times the region is read, at most, to verify what looks like a segment */
#define INO_MARGIN 0x10000u /* inode numbers that may have been handed out beyond those seen */

/* ---- slots ---- */

int salvage_read_slots(struct salvage *s)
{
	static const uint64_t addr[2] = { SUPER_SLOT0, SUPER_SLOT1 };
	unsigned newest;

	for (unsigned i = 0; i < 2; i++) {
		struct super *p = &s->slot[i];
		int err = -ENODEV;

		if (addr[i] < s->bdev->geo.blocks && !bdev_read(s->bdev, addr[i], s->scratch, 1))
			err = super_decode(s->scratch, i, p);
		if (err == -EPROTONOSUPPORT)
			return err;
		s->slot_valid[i] = !err && p->log_start + p->log_blocks <= s->bdev->geo.blocks;
		if (s->slot_valid[i] && p->blocks > s->bdev->geo.blocks) {
			err_log(LOG_ERROR,
				"superblock: the filesystem has %" PRIu64 " blocks, the device only %" PRIu64
				"; what stood behind is lost",
				p->blocks, s->bdev->geo.blocks);
			p->blocks = s->bdev->geo.blocks;
		}
	}
	if (s->slot_valid[0] && s->slot_valid[1] && memcmp(s->slot[0].uuid, s->slot[1].uuid, sizeof(s->slot[0].uuid)))
		/* A mkfs that was cut short. */
		s->slot_valid[s->slot[0].created > s->slot[1].created] = false;
	s->super_found = s->slot_valid[0] || s->slot_valid[1];
	if (s->super_found) {
		newest = !s->slot_valid[0] || (s->slot_valid[1] && s->slot[1].serial > s->slot[0].serial);
		s->super = s->slot[newest];
		s->node_size = s->super.node_size;
	}
	s->seg_budget = SEGMENT_READS * (uint64_t)SPACE_GROUP_BLOCKS;
	return 0;
}

static size_t root_of(const struct salvage *s, const struct super *p)
{
	return p->files.levels ? salvage_find(s, p->files.ref, TREE_FILES, p->files.levels - 1) : SALVAGE_NONE;
}

/* How much of a slot's tree is there: 0 nothing, 1 its root, 2 all. */
static int worth(const struct salvage *s, unsigned slot)
{
	size_t root = root_of(s, &s->slot[slot]);

	if (!s->slot_valid[slot])
		return -1;
	if (!s->slot[slot].files.levels)
		return 2;
	return root == SALVAGE_NONE ? 0 : 1 + s->nodes[root].complete;
}

static void choose_slot(struct salvage *s)
{
	unsigned newest = s->slot[1].serial > s->slot[0].serial;
	unsigned best = worth(s, !newest) > worth(s, newest) ? !newest : newest;

	s->super = s->slot[best];
	if (s->slot_valid[!best] && s->slot[!best].serial > s->super.serial)
		s->super.serial = s->slot[!best].serial; /* what is written next must be newer than both */
	s->base = root_of(s, &s->super);
	s->log_reaches = true;
	s->wide = s->base == SALVAGE_NONE ? salvage_newest_root(s, s->super.gen) : SALVAGE_NONE;
}

/* ---- the log ---- */

/* Calls each for the records of a segment that has been checked; true ends it. */
static bool each_record(const void *seg, bool (*each)(void *arg, uint64_t lsn, uint64_t gen), void *arg)
{
	const struct disk_segment *h = seg;
	const uint8_t *p = (const uint8_t *)(h + 1);
	uint64_t lsn = le64_get(h->lsn);

	for (uint32_t n = le32_get(h->records); n; n--, lsn++) {
		struct disk_record_frame f;

		memcpy(&f, p, sizeof(f));
		p += sizeof(f);
		if (le32_get(f.len) >= sizeof(struct disk_batch) &&
		    each(arg, lsn, le64_get(((const struct disk_batch *)(const void *)p)->gen)))
			return true;
		p += (le32_get(f.len) + 7) & ~7u;
	}
	return false;
}

static bool greatest_gen(void *arg, uint64_t lsn, uint64_t gen)
{
	uint64_t *max = arg;

	(void)lsn;
	if (gen > *max)
		*max = gen;
	return false;
}

int salvage_note_segment(struct salvage *s, uint64_t addr, const void *block)
{
	const struct disk_segment *h = block;
	uint64_t place = le64_get(h->place), blocks = le32_get(h->blocks), gen = 0;
	uint8_t *seg;
	int err = 0;

	if (addr >= SPACE_GROUP_BLOCKS || place > addr || addr - place < space_log_start_min() || !blocks ||
	    blocks > SPACE_GROUP_BLOCKS - addr || blocks > s->bdev->geo.blocks - addr || blocks > s->seg_budget)
		return 0;
	s->seg_budget -= blocks;
	seg = mem_alloc_blocks(blocks * BLOCK_SIZE);
	if (!seg)
		return -ENOMEM;
	if (bdev_read(s->bdev, addr, seg, (uint32_t)blocks))
		goto out;
	h = (const struct disk_segment *)(const void *)seg;
	if (log_segment_check(h, blocks * BLOCK_SIZE, le64_get(h->epoch), place))
		goto out;
	(void)each_record(h, greatest_gen, &gen);
	err = -ENOMEM;
	if (mem_grow((void **)&s->segs, &s->cap_segs, s->n_segs + 1, sizeof(*s->segs)))
		goto out;
	err = 0;
	s->segs[s->n_segs++] = (struct salvage_segment){
		.start = addr - place,
		.place = place,
		.epoch = le64_get(h->epoch),
		.seq = le64_get(h->seq),
		.lsn = le64_get(h->lsn),
		.blocks = (uint32_t)blocks,
		.records = le32_get(h->records),
		.gen_last = gen,
	};
	if (gen > s->gen_max && gen >> GEN_EPOCH_SHIFT < UINT64_C(1) << (63 - GEN_EPOCH_SHIFT))
		s->gen_max = gen;
out:
	mem_free(seg);
	return err;
}

static bool fits_region(const struct salvage_segment *g, const struct super *p)
{
	return g->start == p->log_start && g->place + g->blocks <= p->log_blocks;
}

/* Where the log stands, if the upper layer did not say: where its newest segments do, and at least as long as they need. */
static void find_region(struct salvage *s, struct super *p)
{
	const struct salvage_segment *newest = NULL;
	uint64_t end = LOG_BLOCKS_MIN, room;

	for (size_t i = 0; i < s->n_segs; i++)
		if (!newest || s->segs[i].gen_last > newest->gen_last)
			newest = &s->segs[i];
	p->log_start = newest ? newest->start : space_log_start_min();
	for (size_t i = 0; i < s->n_segs; i++)
		if (s->segs[i].start == p->log_start && s->segs[i].place + s->segs[i].blocks > end)
			end = s->segs[i].place + s->segs[i].blocks;
	p->log_blocks = store_log_default(p->blocks);
	room = s->used_first > p->log_start ? s->used_first - p->log_start : 0;
	if (p->log_blocks > room)
		p->log_blocks = room;
	if (p->log_blocks < end)
		p->log_blocks = end;
	if (p->log_blocks > SPACE_GROUP_BLOCKS - p->log_start)
		p->log_blocks = SPACE_GROUP_BLOCKS - p->log_start;
	if (p->log_blocks > p->blocks - p->log_start)
		p->log_blocks = p->blocks - p->log_start;
}

struct newer {
	uint64_t than, lsn, gen;
};

static bool first_newer(void *arg, uint64_t lsn, uint64_t gen)
{
	struct newer *n = arg;

	n->lsn = lsn;
	n->gen = gen;
	return gen > n->than;
}

/* The first record of a segment that is newer than a generation, and of which it is; its own first one where it cannot be
 * read any more. */
static uint64_t lsn_behind(struct salvage *s, const struct salvage_segment *g, uint64_t gen, uint64_t *ret_gen)
{
	struct newer n = { .than = gen, .lsn = g->lsn };
	uint8_t *seg = mem_alloc_blocks((size_t)g->blocks * BLOCK_SIZE);
	uint64_t lsn = g->lsn;

	if (seg && !bdev_read(s->bdev, g->start + g->place, seg, g->blocks) &&
	    !log_segment_check(seg, (size_t)g->blocks * BLOCK_SIZE, g->epoch, g->place) &&
	    each_record(seg, first_newer, &n)) {
		lsn = n.lsn;
		gen = n.gen;
	}
	mem_free(seg);
	*ret_gen = gen;
	return lsn;
}

/* Whether a node of live or a transaction was written after one generation and before another. */
static bool any_between(const struct salvage *s, uint64_t gen, uint64_t end)
{
	for (size_t i = 0; i < s->n_nodes; i++)
		if (s->nodes[i].tree == TREE_FILES && s->nodes[i].gen > gen && s->nodes[i].gen < end)
			return true;
	return false;
}

/* Sets the position behind what a tree of this generation has; and says whether anything is missing in between. */
static void find_position(struct salvage *s, struct super *p, uint64_t gen)
{
	const struct salvage_segment *newest = NULL, *first = NULL;
	uint64_t first_gen;

	s->log_reaches = false;
	for (size_t i = 0; i < s->n_segs; i++)
		if (fits_region(&s->segs[i], p) && s->segs[i].gen_last &&
		    (!newest || s->segs[i].gen_last > newest->gen_last))
			newest = &s->segs[i];
	if (!newest)
		return;
	for (size_t i = 0; i < s->n_segs; i++) {
		const struct salvage_segment *g = &s->segs[i];

		if (fits_region(g, p) && g->epoch == newest->epoch && g->gen_last > gen &&
		    (!first || g->seq < first->seq))
			first = g;
	}
	if (!first) {
		s->log_reaches = true;
		return;
	}
	p->flags = 0;
	p->log_epoch = first->epoch;
	p->log_block = first->place;
	p->log_seq = first->seq;
	p->log_lsn = lsn_behind(s, first, gen, &first_gen);
	/* The first ever; not the first of its segment; the first since the store was opened, and nothing tells of a tree between. */
	s->log_reaches =
		p->log_lsn == 1 || p->log_lsn > first->lsn || (first->seq == 1 && !any_between(s, gen, first_gen));
	for (size_t i = 0; i < s->n_segs; i++) {
		const struct salvage_segment *g = &s->segs[i];

		s->log_reaches |= g->records && g->gen_last && g->gen_last <= gen && g->lsn + g->records == p->log_lsn;
	}
}

/* ---- one that is made up ---- */

static bool id_plausible(const struct salvage *s)
{
	const struct super *id = s->id;

	return id && id->log_start >= space_log_start_min() && id->log_blocks >= LOG_BLOCKS_MIN &&
	       id->log_start < SPACE_GROUP_BLOCKS && id->log_blocks <= SPACE_GROUP_BLOCKS - id->log_start &&
	       id->log_start + id->log_blocks <= s->bdev->geo.blocks &&
	       !(id->incompat & ~(uint64_t)SUPER_INCOMPAT_KNOWN);
}

/*
 * The newest system tree that is there as a whole. It begins with live's line, by which a leaf that was once in a
 * higher tree is told from a root. What it says of snapshots is as true as their trees can be read.
 */
static struct root newest_system(const struct salvage *s)
{
	const struct salvage_node *best = NULL;

	for (size_t i = 0; i < s->n_nodes; i++) {
		const struct salvage_node *n = &s->nodes[i];

		if (n->tree == TREE_SYSTEM && n->complete && !n->referenced && (!best || n->gen > best->gen) &&
		    (n->level || key_equal(n->first, key_make(0, SYSTEM_LIVE, 0))))
			best = n;
	}
	if (!best)
		return (struct root){ 0 };
	return (struct root){ .ref = { best->addr, best->copy, best->gen }, .levels = best->level + 1u };
}

static int make_up(struct salvage *s)
{
	struct super p = {
		.node_size = s->node_size,
		.serial = 1,
		.blocks = s->bdev->geo.blocks,
		.mount_epoch = (s->gen_max >> GEN_EPOCH_SHIFT) + 1,
		.gen = s->gen_max,
		.flags = SUPER_CLEAN,
		.log_seq = 1,
		.log_lsn = 1,
		.counter[0] = s->ino_max + 1 + INO_MARGIN,
	};

	if (getrandom(p.uuid, sizeof(p.uuid), 0) != (ssize_t)sizeof(p.uuid) ||
	    getrandom(&p.log_epoch, sizeof(p.log_epoch), 0) != (ssize_t)sizeof(p.log_epoch))
		return -EIO;
	s->base = salvage_newest_root(s, UINT64_MAX);
	if (id_plausible(s)) {
		memcpy(p.uuid, s->id->uuid, sizeof(p.uuid));
		memcpy(p.label, s->id->label, sizeof(p.label));
		memcpy(p.secret, s->id->secret, sizeof(p.secret));
		p.incompat = s->id->incompat;
		p.created = s->id->created;
		p.log_start = s->id->log_start;
		p.log_blocks = s->id->log_blocks;
		p.blocks = s->id->blocks > s->used_end ? s->id->blocks : s->used_end;
		if (p.blocks < p.log_start + p.log_blocks || p.blocks > s->bdev->geo.blocks)
			p.blocks = s->bdev->geo.blocks;
	} else {
		s->id = NULL;
		p.incompat = s->base != SALVAGE_NONE && s->nodes[s->base].copy ? SUPER_INCOMPAT_COPIES : 0;
		find_region(s, &p);
	}
	find_position(s, &p, s->base == SALVAGE_NONE ? 0 : s->nodes[s->base].gen);
	p.system = newest_system(s);
	/* Nothing younger than the base may win over it, where the log has all that came after it. */
	if (!s->log_reaches && s->base != SALVAGE_NONE) {
		s->wide = s->base;
		s->base = SALVAGE_NONE;
	}
	s->super = p;
	return 0;
}

int salvage_make_super(struct salvage *s)
{
	s->base = s->wide = SALVAGE_NONE;
	if (s->super_found) {
		choose_slot(s);
		return 0;
	}
	return s->n_nodes ? make_up(s) : -ENODEV;
}

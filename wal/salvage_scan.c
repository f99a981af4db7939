/*
 * salvage_scan.c - one pass over the device
 *
 * A node is believed when its checksum is right, it stands at one of the two addresses it names, and everything
 * node_check() looks at holds. Its items are not looked at then: a leaf with one bad item loses that item only.
 * Neither are nodes of another size than the filesystem's; where no superblock says which, the size that most nodes
 * have is the one.
 *
 * The two copies of a node become one entry. What is kept of a node is its header and its outermost keys, 80 bytes;
 * whatever is needed of its content later is read again, and verified again.
 *
 * A block that cannot be read costs itself only.
 */
#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space.h"
#include "wal/log_format.h"
#include "wal/salvage_int.h"

#define CHUNK_BLOCKS 256u
#define EPOCH_MAX ((UINT64_C(1) << (64 - GEN_EPOCH_SHIFT)) - 16) /* later ones are not believed */

static uint32_t blocks_of(uint32_t size)
{
	return size / BLOCK_SIZE;
}

static bool inside(const struct salvage *s, uint64_t addr, uint64_t blocks)
{
	return addr <= s->bdev->geo.blocks && blocks <= s->bdev->geo.blocks - addr;
}

bool salvage_same(const struct salvage_node *n, const void *buf)
{
	const struct disk_node *h = buf;

	return le32_get(h->magic) == NODE_MAGIC && le64_get(h->addr) == n->addr && le64_get(h->copy) == n->copy &&
	       le64_get(h->gen) == n->gen && h->level == n->level && le64_get(h->tree) == n->tree &&
	       node_sum_right(buf, 1u << n->shift) && !node_check(buf, 1u << n->shift, NULL);
}

int salvage_read(struct salvage *s, const struct salvage_node *n, void *buf)
{
	uint32_t blocks = blocks_of(1u << n->shift);
	int err = -EBADMSG;

	if (n->at_addr) {
		err = bdev_read(s->bdev, n->addr, buf, blocks);
		if (!err && salvage_same(n, buf))
			return 0;
	}
	if (n->at_copy) {
		err = bdev_read(s->bdev, n->copy, buf, blocks);
		if (!err && salvage_same(n, buf))
			return 0;
	}
	return err ? err : -EBADMSG;
}

/* ---- one node ---- */

static void used(struct salvage *s, uint64_t addr, uint64_t blocks)
{
	if (!inside(s, addr, blocks))
		return;
	if (addr < s->used_first && addr >= space_log_start_min())
		s->used_first = addr;
	if (addr + blocks > s->used_end)
		s->used_end = addr + blocks;
}

/* Which filesystem an item says it is of, from 1; 0: it does not say. */
static uint8_t identify(struct salvage *s, struct key key, const void *val, size_t len, uint64_t gen)
{
	struct super id = { 0 };
	unsigned i;

	if (!s->opt.identify || !s->opt.identify(s->opt.arg, key, val, len, &id))
		return 0;
	for (i = 0; i < s->n_ids; i++)
		if (s->ids[i].super.created == id.created && !memcmp(s->ids[i].super.uuid, id.uuid, sizeof(id.uuid)))
			break;
	if (i == SALVAGE_IDS)
		return 0;
	if (i == s->n_ids || gen > s->ids[i].gen)
		s->ids[i] = (struct salvage_id){ id, gen };
	s->n_ids += i == s->n_ids;
	return (uint8_t)(i + 1);
}

/* What the items of a leaf tell about the whole. */
static void look_at_items(struct salvage *s, const void *buf, struct salvage_node *n)
{
	const struct disk_node *h = buf;
	const struct disk_slot *slots = (const struct disk_slot *)(h + 1);

	for (unsigned i = 0; i < le16_get(h->nr); i++) {
		struct key key = slot_key(&slots[i]);
		const void *val = (const uint8_t *)buf + le16_get(slots[i].val);
		size_t len = le16_get(slots[i].len);
		struct extent x;

		if (key_ino(key) == KEY_INO_MAX || record_validate(s->opt.records, key, val, len))
			continue;
		if (key_ino(key) > s->ino_max)
			s->ino_max = key_ino(key);
		if (record_extent(s->opt.records, key, val, len, &x) && x.addr)
			used(s, x.addr, x.blocks);
		if (!n->id)
			n->id = identify(s, key, val, len, n->gen);
	}
}

static int add_node(struct salvage *s, uint64_t at, const void *buf, unsigned shift)
{
	const struct disk_node *h = buf;
	const struct disk_slot *slots = (const struct disk_slot *)(h + 1);
	unsigned nr = le16_get(h->nr);
	struct salvage_node n = {
		.addr = le64_get(h->addr),
		.copy = le64_get(h->copy),
		.gen = le64_get(h->gen),
		.level = h->level,
		.tree = (uint8_t)le64_get(h->tree),
		.shift = (uint8_t)shift,
		.complete = h->level == 0,
	};

	n.at_addr = n.addr == at;
	n.at_copy = n.copy == at;
	n.first = slot_key(&slots[n.level && nr > 1 ? 1 : 0]);
	n.last = slot_key(&slots[nr - 1]);
	if (n.level && nr == 1)
		n.first = KEY_MAX;
	if (mem_grow((void **)&s->nodes, &s->cap_nodes, s->n_nodes + 1, sizeof(*s->nodes)))
		return -ENOMEM;
	s->nodes[s->n_nodes++] = n;
	if (n.gen > s->gen_max)
		s->gen_max = n.gen;
	used(s, n.addr, 1u << (shift - BLOCK_SHIFT));
	if (n.copy)
		used(s, n.copy, 1u << (shift - BLOCK_SHIFT));
	if (n.level == 0 && n.tree == TREE_FILES)
		look_at_items(s, buf, &s->nodes[s->n_nodes - 1]);
	return 0;
}

/* A block that begins like a node; `avail` blocks from there on are in memory. */
static int candidate(struct salvage *s, uint64_t at, const uint8_t *p, uint32_t avail)
{
	const struct disk_node *h = (const struct disk_node *)p;
	uint64_t addr = le64_get(h->addr), copy = le64_get(h->copy);

	if (addr != at && copy != at)
		return 0;
	if (s->super_found && at >= s->super.log_start && at - s->super.log_start < s->super.log_blocks)
		return 0; /* rides in the log, or is of a filesystem before this one */
	for (unsigned shift = 12; 1u << shift <= NODE_SIZE_MAX; shift++) {
		uint32_t size = 1u << shift, blocks = blocks_of(size);
		const uint8_t *buf = p;

		if ((s->node_size && s->node_size != size) || !inside(s, addr, blocks) || !inside(s, copy, blocks) ||
		    !inside(s, at, blocks))
			continue;
		if (blocks > avail) {
			if (bdev_read(s->bdev, at, s->scratch, blocks))
				continue;
			buf = s->scratch;
		}
		if (!node_sum_right(buf, size))
			continue;
		if (node_check(buf, size, NULL) || le64_get(h->gen) >> GEN_EPOCH_SHIFT > EPOCH_MAX)
			return 0;
		return add_node(s, at, buf, shift);
	}
	return 0;
}

/* ---- all of them ---- */

static int by_place(const void *pa, const void *pb)
{
	const struct salvage_node *a = pa, *b = pb;

	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	if (a->gen != b->gen)
		return a->gen < b->gen ? -1 : 1;
	/* What stands at the address itself comes first. */
	return b->at_addr - a->at_addr;
}

static void choose_size(struct salvage *s)
{
	size_t n[16] = { 0 };
	unsigned best = 12;

	for (size_t i = 0; i < s->n_nodes; i++)
		n[s->nodes[i].shift]++;
	for (unsigned shift = 12; 1u << shift <= NODE_SIZE_MAX; shift++)
		if (n[shift] > n[best])
			best = shift;
	s->node_size = 1u << best;
}

/* The filesystem that was made last is the one, or that of the superblock; what others left is marked. */
static void choose_id(struct salvage *s)
{
	unsigned best = 0;

	for (unsigned i = 1; i <= s->n_ids; i++) {
		const struct super *id = &s->ids[i - 1].super;

		if (s->super_found ? id->created == s->super.created : !best || id->created > s->id->created) {
			best = i;
			s->id = id;
		}
	}
	for (size_t i = 0; best && i < s->n_nodes; i++) {
		s->nodes[i].ours = s->nodes[i].id == best;
		s->nodes[i].foreign = s->nodes[i].id && !s->nodes[i].ours;
	}
}

/* Sorts, makes one of two copies, forgets what has another size. */
static void settle(struct salvage *s)
{
	size_t n = 0;

	if (!s->n_nodes)
		return;
	if (!s->node_size)
		choose_size(s);
	qsort(s->nodes, s->n_nodes, sizeof(*s->nodes), by_place);
	for (size_t i = 0; i < s->n_nodes; i++) {
		struct salvage_node *prev = n ? &s->nodes[n - 1] : NULL, *now = &s->nodes[i];

		if (1u << now->shift != s->node_size)
			continue;
		if (prev && prev->addr == now->addr && prev->gen == now->gen) {
			/* Two that disagree: the one at the address is it. */
			if (prev->copy == now->copy && prev->level == now->level && prev->tree == now->tree &&
			    key_equal(prev->first, now->first) && key_equal(prev->last, now->last))
				prev->at_copy |= now->at_copy;
			continue;
		}
		s->nodes[n++] = *now;
	}
	s->n_nodes = n;
	choose_id(s);
	for (size_t i = 0; i < n; i++)
		s->leaves += s->nodes[i].level == 0;
}

/* Block by block, where a chunk cannot be read as a whole; what cannot be read looks empty. */
static void read_singly(struct salvage *s, uint64_t addr, uint8_t *buf, uint32_t blocks)
{
	for (uint32_t i = 0; i < blocks; i++)
		if (bdev_read(s->bdev, addr + i, buf + (size_t)i * BLOCK_SIZE, 1))
			memset(buf + (size_t)i * BLOCK_SIZE, 0, BLOCK_SIZE);
}

static int look_at_block(struct salvage *s, uint64_t at, const uint8_t *p, uint32_t avail)
{
	const struct disk_node *node = (const struct disk_node *)p;
	const struct disk_segment *seg = (const struct disk_segment *)p;

	if (le32_get(node->magic) == NODE_MAGIC)
		return candidate(s, at, p, avail);
	if (le32_get(seg->magic) == LOG_SEGMENT_MAGIC && !s->super_found)
		return salvage_note_segment(s, at, p);
	return 0;
}

int salvage_read_device(struct salvage *s)
{
	uint64_t total = s->bdev->geo.blocks;
	uint8_t *buf = mem_alloc_blocks((size_t)CHUNK_BLOCKS * BLOCK_SIZE);
	int err = buf ? 0 : -ENOMEM;

	s->used_first = UINT64_MAX;
	for (uint64_t at = 0; at < total && !err;) {
		uint32_t n = total - at < CHUNK_BLOCKS ? (uint32_t)(total - at) : CHUNK_BLOCKS;

		if (s->opt.progress)
			s->opt.progress(s->opt.arg, "looking for nodes", at, total);
		if (bdev_read(s->bdev, at, buf, n))
			read_singly(s, at, buf, n);
		for (uint32_t i = 0; i < n && !err; i++)
			err = look_at_block(s, at + i, buf + (size_t)i * BLOCK_SIZE, n - i);
		at += n;
	}
	mem_free(buf);
	if (!err)
		settle(s);
	return err;
}

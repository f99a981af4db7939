/*
 * The places of a base image: a walk from the newest superblock over all that is reached, with the structures of the
 * *_format.h headers as tables of fields. The image is known to be right, so nothing is verified here; what does not fit is an
 * abort.
 *
 * Trees are read as of the newest superblock slot, before the log: that is what recovery begins with. Every structure with a
 * checksum of its own is an owner, and each block belongs to at most one, so that a change of a byte says by its block alone
 * which checksums are to be put right.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/node_format.h"
#include "btree/space_format.h"
#include "btree/super_format.h"
#include "fs/fs_format.h"
#include "tests/fuzz/image.h"
#include "wal/batch_format.h"
#include "wal/log_format.h"
#include "wal/system_format.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static void *grow(void *at, size_t n, size_t *cap, size_t each)
{
	if (n < *cap)
		return at;
	*cap = *cap ? *cap * 2 : 64;
	at = realloc(at, *cap * each);
	if (!at)
		abort();
	return at;
}

/* ---- fields ---- */

struct field {
	uint16_t at;
	uint8_t width, meaning;
};
#define F(type, member, means)                                                                                         \
	{                                                                                                              \
		offsetof(type, member), sizeof(((type *)0)->member), (means)                                           \
	}
#define AT(offset, width, means)                                                                                       \
	{                                                                                                              \
		(offset), (width), (means)                                                                             \
	}

static const struct field super_fields[] = {
	F(struct disk_super, magic, MEANS_NUMBER),
	F(struct disk_super, version, MEANS_NUMBER),
	F(struct disk_super, node_size, MEANS_BYTES),
	F(struct disk_super, serial, MEANS_SERIAL),
	AT(offsetof(struct disk_super, uuid), 8, MEANS_NUMBER),
	AT(offsetof(struct disk_super, label), 8, MEANS_NUMBER),
	F(struct disk_super, compat, MEANS_NUMBER),
	F(struct disk_super, ro_compat, MEANS_NUMBER),
	F(struct disk_super, incompat, MEANS_NUMBER),
	F(struct disk_super, blocks, MEANS_BLOCKS),
	F(struct disk_super, log_start, MEANS_ADDR),
	F(struct disk_super, log_blocks, MEANS_BLOCKS),
	F(struct disk_super, mount_epoch, MEANS_NUMBER),
	F(struct disk_super, log_epoch, MEANS_NUMBER),
	F(struct disk_super, gen, MEANS_GEN),
	F(struct disk_super, flags, MEANS_NUMBER),
	F(struct disk_super, slot, MEANS_NUMBER),
	F(struct disk_super, files.addr, MEANS_ADDR),
	F(struct disk_super, files.copy, MEANS_ADDR),
	F(struct disk_super, files.gen, MEANS_GEN),
	F(struct disk_super, files.levels, MEANS_NUMBER),
	F(struct disk_super, system.addr, MEANS_ADDR),
	F(struct disk_super, system.copy, MEANS_ADDR),
	F(struct disk_super, system.gen, MEANS_GEN),
	F(struct disk_super, system.levels, MEANS_NUMBER),
	F(struct disk_super, log_block, MEANS_BLOCKS),
	F(struct disk_super, log_seq, MEANS_SERIAL),
	F(struct disk_super, log_lsn, MEANS_SERIAL),
	F(struct disk_super, claims, MEANS_BLOCKS),
	F(struct disk_super, batch_max, MEANS_BYTES),
	AT(offsetof(struct disk_super, counter), 8, MEANS_INO),
	AT(offsetof(struct disk_super, counter) + 8, 8, MEANS_NUMBER),
	AT(offsetof(struct disk_super, counter) + 16, 8, MEANS_NUMBER),
	AT(offsetof(struct disk_super, secret), 8, MEANS_NUMBER),
	AT(offsetof(struct disk_super, secret) + 8, 8, MEANS_NUMBER),
	AT(offsetof(struct disk_super, zero), 8, MEANS_NUMBER),
};

static const struct field node_fields[] = {
	F(struct disk_node, magic, MEANS_NUMBER),
	F(struct disk_node, level, MEANS_NUMBER),
	F(struct disk_node, zero1, MEANS_NUMBER),
	F(struct disk_node, nr, MEANS_NUMBER),
	F(struct disk_node, addr, MEANS_ADDR),
	F(struct disk_node, copy, MEANS_ADDR),
	F(struct disk_node, gen, MEANS_GEN),
	F(struct disk_node, tree, MEANS_NUMBER),
	AT(offsetof(struct disk_node, zero2), 8, MEANS_NUMBER),
};

static const struct field slot_fields[] = {
	F(struct disk_slot, obj, MEANS_OBJ),
	F(struct disk_slot, off, MEANS_OFFSET),
	F(struct disk_slot, val, MEANS_BYTES),
	F(struct disk_slot, len, MEANS_BYTES),
};

static const struct field ref_fields[] = {
	F(struct disk_ref, addr, MEANS_ADDR),
	F(struct disk_ref, copy, MEANS_ADDR),
	F(struct disk_ref, gen, MEANS_GEN),
};

static const struct field inode_fields[] = {
	F(struct disk_inode, mode, MEANS_MODE),	      F(struct disk_inode, flags, MEANS_NUMBER),
	F(struct disk_inode, uid, MEANS_NUMBER),      F(struct disk_inode, gid, MEANS_NUMBER),
	F(struct disk_inode, nlink, MEANS_NUMBER),    F(struct disk_inode, state, MEANS_NUMBER),
	F(struct disk_inode, size, MEANS_OFFSET),     F(struct disk_inode, blocks, MEANS_BLOCKS),
	F(struct disk_inode, parent, MEANS_INO),      F(struct disk_inode, rdev_major, MEANS_NUMBER),
	F(struct disk_inode, atime, MEANS_NUMBER),    F(struct disk_inode, ctime, MEANS_NUMBER),
	F(struct disk_inode, mtime_ns, MEANS_NUMBER), F(struct disk_inode, changes, MEANS_SERIAL),
};

static const struct field xattr_fields[] = {
	F(struct disk_xattr, size, MEANS_BYTES),
	F(struct disk_xattr, name_len, MEANS_BYTES),
	AT(5, 1, MEANS_NUMBER),
	AT(5, 8, MEANS_NUMBER),
	AT(30, 4, MEANS_NUMBER), /* an ACL's value */
};

static const struct field dirent_fields[] = {
	F(struct disk_dirent, ino, MEANS_INO),
	F(struct disk_dirent, type, MEANS_NUMBER),
	AT(9, 1, MEANS_NUMBER),
	AT(10, 2, MEANS_NUMBER),
};

static const struct field inline_fields[] = { AT(0, 1, MEANS_NUMBER), AT(1, 8, MEANS_NUMBER) };

static const struct field extent_fields[] = {
	F(struct disk_extent, addr, MEANS_ADDR),
	F(struct disk_extent, birth, MEANS_GEN),
	F(struct disk_extent, blocks, MEANS_BLOCKS),
	F(struct disk_extent, codec, MEANS_NUMBER),
	F(struct disk_extent, flags, MEANS_NUMBER),
	F(struct disk_extent, zero, MEANS_NUMBER),
	F(struct disk_extent, raw_len, MEANS_BYTES),
	AT(32, 4, MEANS_NUMBER),
	AT(36, 4, MEANS_NUMBER),
};

static const struct field orphan_fields[] = {
	F(struct disk_orphan, from, MEANS_OFFSET),
	F(struct disk_orphan, to, MEANS_OFFSET),
};

static const struct field volume_fields[] = {
	AT(0, 8, MEANS_NUMBER),
	F(struct disk_volume, blocks, MEANS_BLOCKS),
	F(struct disk_volume, log_start, MEANS_ADDR),
	F(struct disk_volume, log_blocks, MEANS_BLOCKS),
	F(struct disk_volume, incompat, MEANS_NUMBER),
};

static const struct field shared_fields[] = {
	F(struct disk_shared, birth, MEANS_GEN),
	F(struct disk_shared, blocks, MEANS_BLOCKS),
	F(struct disk_shared, refs, MEANS_NUMBER),
};

static const struct field live_fields[] = {
	F(struct disk_live, parent, MEANS_SERIAL),
	F(struct disk_live, dead_list, MEANS_SERIAL),
	F(struct disk_live, next_id, MEANS_SERIAL),
};

static const struct field snapshot_fields[] = {
	F(struct disk_snapshot, root_addr, MEANS_ADDR), F(struct disk_snapshot, root_copy, MEANS_ADDR),
	F(struct disk_snapshot, root_gen, MEANS_GEN),	F(struct disk_snapshot, levels, MEANS_NUMBER),
	F(struct disk_snapshot, flags, MEANS_NUMBER),	F(struct disk_snapshot, gen, MEANS_GEN),
	F(struct disk_snapshot, parent, MEANS_SERIAL),	F(struct disk_snapshot, dead_list, MEANS_SERIAL),
	F(struct disk_snapshot, claims, MEANS_BLOCKS),	F(struct disk_snapshot, name_len, MEANS_BYTES),
	F(struct disk_snapshot, zero, MEANS_NUMBER),	AT(80, 1, MEANS_NUMBER),
};

static const struct field dead_fields[] = {
	F(struct disk_dead, birth, MEANS_GEN),
	F(struct disk_dead, blocks, MEANS_BLOCKS),
	F(struct disk_dead, zero, MEANS_NUMBER),
};

static const struct field space_fields[] = {
	F(struct disk_space_entry, gen, MEANS_GEN),	F(struct disk_space_entry, sum, MEANS_NUMBER),
	F(struct disk_space_entry, free, MEANS_BLOCKS), F(struct disk_space_entry, home, MEANS_NUMBER),
	F(struct disk_space_entry, zero, MEANS_NUMBER),
};

static const struct field segment_fields[] = {
	F(struct disk_segment, magic, MEANS_NUMBER),   F(struct disk_segment, blocks, MEANS_BLOCKS),
	F(struct disk_segment, epoch, MEANS_NUMBER),   F(struct disk_segment, seq, MEANS_SERIAL),
	F(struct disk_segment, lsn, MEANS_SERIAL),     F(struct disk_segment, durable_lsn, MEANS_SERIAL),
	F(struct disk_segment, records, MEANS_NUMBER), F(struct disk_segment, record_bytes, MEANS_BYTES),
	F(struct disk_segment, checks, MEANS_NUMBER),  F(struct disk_segment, riding, MEANS_NUMBER),
	F(struct disk_segment, place, MEANS_BLOCKS),
};

static const struct field record_fields[] = {
	F(struct disk_batch, gen, MEANS_GEN),		F(struct disk_batch, flags, MEANS_NUMBER),
	F(struct disk_batch, changes, MEANS_NUMBER),	F(struct disk_batch, fresh, MEANS_NUMBER),
	F(struct disk_batch, taken, MEANS_NUMBER),	F(struct disk_batch, counters, MEANS_NUMBER),
	F(struct disk_batch, bodies, MEANS_NUMBER),	F(struct disk_batch, change_bytes, MEANS_BYTES),
	F(struct disk_batch, change_sum, MEANS_NUMBER),
};

static const struct field frame_fields[] = { F(struct disk_record_frame, len, MEANS_BYTES) };

static const struct field change_fields[] = {
	F(struct disk_change, op, MEANS_NUMBER),
	F(struct disk_change, len, MEANS_BYTES),
	F(struct disk_change, obj, MEANS_OBJ),
	F(struct disk_change, off, MEANS_OFFSET),
};

static const struct field key_fields[] = {
	F(struct disk_key, obj, MEANS_OBJ),
	F(struct disk_key, off, MEANS_OFFSET),
};

static const struct field range_fields[] = {
	F(struct disk_range, addr, MEANS_ADDR),
	F(struct disk_range, blocks, MEANS_BLOCKS),
	F(struct disk_range, zero, MEANS_NUMBER),
};

static const struct field counter_fields[] = {
	F(struct disk_counter, counter, MEANS_NUMBER),
	F(struct disk_counter, value, MEANS_INO),
};

static const struct field check_fields[] = {
	F(struct disk_check, addr, MEANS_ADDR),
	F(struct disk_check, sum, MEANS_NUMBER),
};

static const struct field riding_fields[] = { F(struct disk_riding, addr, MEANS_ADDR) };

const char *image_group_name(enum image_group g)
{
	static const char *const names[] = {
#define X(name) #name,
		IMAGE_GROUPS(X)
#undef X
	};

	return names[g];
}

/* ---- adding places ---- */

static void list_add(struct image_list *l, struct image_place p)
{
	l->at = grow(l->at, l->n, &l->cap, sizeof(*l->at));
	l->at[l->n++] = p;
}

/* `at` may lie in a later block than `block`. A number that crosses blocks is no place. */
static struct image_place place_at(uint64_t block, size_t at, uint8_t width, uint8_t meaning)
{
	return (struct image_place){ (uint32_t)(block + at / BLOCK_SIZE), (uint16_t)(at % BLOCK_SIZE), width, meaning };
}

static void add_place(struct image *m, enum image_group g, uint64_t block, size_t at, uint8_t width, uint8_t meaning)
{
	struct image_place p = place_at(block, at, width, meaning);

	if (p.at + width > BLOCK_SIZE || p.block >= m->blocks)
		return;
	list_add(&m->group[g], p);
	list_add(&m->meaning[meaning], p);
}

/* Those of n fields of a structure of `len` bytes that lie inside it. */
static void add_fields(struct image *m, enum image_group g, uint64_t block, size_t at, size_t len,
		       const struct field *f, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((size_t)f[i].at + f[i].width <= len)
			add_place(m, g, block, at + f[i].at, f[i].width, f[i].meaning);
}
#define ADD_FIELDS(m, g, block, at, len, table) add_fields(m, g, block, at, len, table, ARRAY_LEN(table))

static void add_owner(struct image *m, const struct image_owner *o)
{
	m->owner = grow(m->owner, m->n_owners, &m->cap_owners, sizeof(*m->owner));
	m->owner[m->n_owners++] = *o;
	for (uint32_t i = 0; i < o->blocks; i++)
		m->owner_of[o->addr + i] = (uint32_t)m->n_owners;
}

static void add_sum(struct image *m, uint64_t addr, struct image_place p)
{
	if (p.at + p.width > BLOCK_SIZE || addr >= m->blocks)
		return;
	m->sum = grow(m->sum, m->n_sums, &m->cap_sums, sizeof(*m->sum));
	m->sum[m->n_sums++] = (struct image_sum){ addr, p };
	/* Each data block is some places of its own, once. */
	for (size_t i = 0; i + 1 < m->n_sums; i++)
		if (m->sum[i].addr == addr)
			return;
	add_place(m, IMAGE_DATA, addr, 0, 8, MEANS_NUMBER);
	add_place(m, IMAGE_DATA, addr, BLOCK_SIZE - 8, 8, MEANS_NUMBER);
}

/* ---- items ---- */

static void add_extent(struct image *m, enum image_group g, uint64_t block, size_t at, const uint8_t *val, size_t len)
{
	const struct disk_extent *d = (const void *)val;

	ADD_FIELDS(m, g, block, at, len, extent_fields);
	for (uint32_t i = 0; le64_get(d->addr) && i < le32_get(d->blocks); i++)
		add_sum(m, le64_get(d->addr) + i, place_at(block, at + sizeof(*d) + 4 * i, 4, MEANS_NUMBER));
}

/* Of the file tree: in a leaf, or (group LOGGED) in a record. */
static void add_file_item(struct image *m, bool logged, struct key key, uint64_t block, size_t at, const uint8_t *val,
			  size_t len)
{
#define GROUP(name) (logged ? IMAGE_LOGGED : IMAGE_##name)
	switch (key_type(key)) {
	case FS_ITEM_INODE:
		ADD_FIELDS(m, GROUP(INODE), block, at, len, inode_fields);
		m->inos = grow(m->inos, m->n_inos, &m->cap_inos, sizeof(*m->inos));
		m->inos[m->n_inos++] = key_ino(key);
		break;
	case FS_ITEM_XATTR:
		if (!(key.off & 0xff))
			ADD_FIELDS(m, GROUP(XATTR), block, at, len, xattr_fields);
		break;
	case FS_ITEM_DIRENT:
		ADD_FIELDS(m, GROUP(DIRENT), block, at, len, dirent_fields);
		break;
	case FS_ITEM_INLINE:
		ADD_FIELDS(m, GROUP(INLINE), block, at, len, inline_fields);
		break;
	case FS_ITEM_EXTENT:
		add_extent(m, GROUP(EXTENT), block, at, val, len);
		break;
	case FS_ITEM_ORPHAN:
		ADD_FIELDS(m, GROUP(ORPHAN), block, at, len, orphan_fields);
		break;
	case FS_ITEM_VOLUME:
		ADD_FIELDS(m, GROUP(VOLUME), block, at, len, volume_fields);
		break;
	case RECORD_SHARED:
		ADD_FIELDS(m, GROUP(SHARED), block, at, len, shared_fields);
		break;
	}
#undef GROUP
}

static void walk_tree(struct image *m, uint64_t tree, uint64_t addr, uint64_t copy);

static void add_system_item(struct image *m, struct key key, uint64_t block, size_t at, const uint8_t *val, size_t len)
{
	const struct disk_snapshot *d = (const void *)val;

	switch (key_type(key)) {
	case SYSTEM_LIVE:
		ADD_FIELDS(m, IMAGE_SYSTEM, block, at, len, live_fields);
		break;
	case SYSTEM_SNAPSHOT:
		ADD_FIELDS(m, IMAGE_SYSTEM, block, at, len, snapshot_fields);
		if (le32_get(d->levels))
			walk_tree(m, TREE_FILES, le64_get(d->root_addr), le64_get(d->root_copy));
		break;
	case SYSTEM_DEAD:
		ADD_FIELDS(m, IMAGE_SYSTEM, block, at, len, dead_fields);
		break;
	}
}

/* ---- trees ---- */

static void walk_node(struct image *m, uint64_t tree, uint64_t addr, const uint8_t *buf)
{
	const struct disk_node *h = (const void *)buf;
	const struct disk_slot *slots = (const void *)(h + 1);

	ADD_FIELDS(m, IMAGE_NODE, addr, 0, sizeof(*h), node_fields);
	for (unsigned i = 0; i < le16_get(h->nr); i++) {
		struct key key = { le64_get(slots[i].obj), le64_get(slots[i].off) };
		size_t slot_at = sizeof(*h) + i * sizeof(*slots), at = le16_get(slots[i].val),
		       len = le16_get(slots[i].len);
		const struct disk_ref *ref = (const void *)(buf + at);

		ADD_FIELDS(m, IMAGE_SLOT, addr, slot_at, sizeof(*slots), slot_fields);
		list_add(&m->group[IMAGE_EDIT], place_at(addr, slot_at, 0, MEANS_NUMBER));
		if (h->level) {
			ADD_FIELDS(m, IMAGE_REF, addr, at, len, ref_fields);
			walk_tree(m, tree, le64_get(ref->addr), le64_get(ref->copy));
		} else if (tree == TREE_SYSTEM) {
			add_system_item(m, key, addr, at, buf + at, len);
		} else {
			add_file_item(m, false, key, addr, at, buf + at, len);
		}
	}
}

static void walk_tree(struct image *m, uint64_t tree, uint64_t addr, uint64_t copy)
{
	uint32_t blocks = m->node_size / BLOCK_SIZE;
	uint8_t *buf;

	if (m->owner_of[addr]) /* snapshots share nodes */
		return;
	buf = malloc(m->node_size);
	if (!buf || addr + blocks > m->blocks)
		abort();
	simdev_peek(m->disk, addr, buf, blocks);
	add_owner(m,
		  &(struct image_owner){ OWNER_NODE, addr, copy, blocks, ((struct disk_node *)buf)->level, { 0 }, 0 });
	walk_node(m, tree, addr, buf);
	free(buf);
}

/* ---- the space map ---- */

static uint64_t home_of(unsigned level, uint64_t g, unsigned home)
{
	return g * SPACE_GROUP_BLOCKS + (g ? 0 : SPACE_META_GROUP0) + 3 * level + home;
}

/* Small images: one group. */
static void walk_space(struct image *m, uint64_t block, size_t at)
{
	uint8_t buf[BLOCK_SIZE];

	for (unsigned level = 2; level-- > 0;) {
		struct disk_space_entry e;
		uint64_t addr;

		simdev_peek(m->disk, block, buf, 1);
		memcpy(&e, buf + at, sizeof(e));
		ADD_FIELDS(m, IMAGE_SPACE, block, at, sizeof(e), space_fields);
		if (!le64_get(e.gen))
			return;
		addr = home_of(level, 0, e.home);
		add_owner(m, &(struct image_owner){ OWNER_SPACE, addr, 0, 1, level,
						    place_at(block, at, sizeof(e), MEANS_NUMBER), 0 });
		block = addr;
		at = 0;
	}
	for (size_t i = 0; i < m->blocks / 8; i += 2)
		add_place(m, IMAGE_BITMAP, block, i, 2, MEANS_NUMBER);
	ADD_FIELDS(m, IMAGE_SPACE, home_of(1, 0, 0), sizeof(struct disk_space_entry), sizeof(struct disk_space_entry),
		   space_fields); /* of a group that does not exist */
}

/* ---- the log ---- */

/* Changes that stand at `at` of the blocks from `block` on. */
static void walk_changes(struct image *m, uint64_t block, size_t at, const uint8_t *p, const uint8_t *end, uint32_t n)
{
	while (n-- && (size_t)(end - p) >= sizeof(struct disk_change)) {
		const struct disk_change *c = (const void *)p;
		struct key key = { le64_get(c->obj), le64_get(c->off) };
		size_t len = le16_get(c->len);

		if (len > (size_t)(end - p) - sizeof(*c))
			abort();
		ADD_FIELDS(m, IMAGE_CHANGE, block, at, sizeof(*c), change_fields);
		if (c->op == BATCH_DEL_RANGE)
			ADD_FIELDS(m, IMAGE_CHANGE, block, at + sizeof(*c), len, key_fields);
		else
			add_file_item(m, true, key, block, at + sizeof(*c), p + sizeof(*c), len);
		p += sizeof(*c) + len;
		at += sizeof(*c) + len;
	}
}

/* Changes that stand outside the log: in one run of blocks, or they are left alone. */
static void walk_body(struct image *m, const struct disk_batch *d, const struct disk_body *body, struct image_place sum)
{
	uint64_t addr = le64_get(body->addr), bytes = le64_get(d->change_bytes);
	uint32_t blocks = le32_get(body->blocks);
	uint8_t *buf;

	if (le32_get(d->bodies) != 1 || m->owner_of[addr])
		return;
	buf = malloc((size_t)blocks * BLOCK_SIZE);
	if (!buf || bytes > (size_t)blocks * BLOCK_SIZE)
		abort();
	simdev_peek(m->disk, addr, buf, blocks);
	add_owner(m, &(struct image_owner){ OWNER_BODY, addr, 0, blocks, 0, sum, bytes });
	walk_changes(m, addr, 0, buf, buf + bytes, le32_get(d->changes));
	free(buf);
}

static void walk_record(struct image *m, uint64_t block, size_t at, const uint8_t *p, size_t len)
{
	const struct disk_batch *d = (const void *)p;
	size_t body = le64_get(d->change_bytes), tail;

	ADD_FIELDS(m, IMAGE_RECORD, block, at, len, record_fields);
	if (le32_get(d->flags) & BATCH_OUTSIDE) {
		struct image_place sum = place_at(block, at + offsetof(struct disk_batch, change_sum), 8, MEANS_NUMBER);

		body = le32_get(d->bodies) * sizeof(struct disk_body);
		if ((size_t)sum.at + 8 <= BLOCK_SIZE)
			walk_body(m, d, (const void *)(d + 1), sum);
		for (uint32_t i = 0; i < le32_get(d->bodies); i++)
			ADD_FIELDS(m, IMAGE_TAIL, block, at + sizeof(*d) + i * sizeof(struct disk_body),
				   sizeof(struct disk_body), range_fields);
	} else {
		walk_changes(m, block, at + sizeof(*d), p + sizeof(*d), p + sizeof(*d) + body, le32_get(d->changes));
	}
	tail = sizeof(*d) + body;
	for (uint32_t i = le32_get(d->fresh) + le32_get(d->taken); i > 0; i--, tail += sizeof(struct disk_range))
		ADD_FIELDS(m, IMAGE_TAIL, block, at + tail, len - tail, range_fields);
	for (uint32_t i = le32_get(d->counters); i > 0; i--, tail += sizeof(struct disk_counter))
		ADD_FIELDS(m, IMAGE_TAIL, block, at + tail, len - tail, counter_fields);
}

static void walk_segment(struct image *m, uint64_t addr, const uint8_t *seg)
{
	const struct disk_segment *h = (const void *)seg;
	size_t at = sizeof(*h);

	ADD_FIELDS(m, IMAGE_SEGMENT, addr, 0, sizeof(*h), segment_fields);
	for (uint32_t i = 0; i < le32_get(h->records); i++) {
		uint32_t len = le32_get(((const struct disk_record_frame *)(seg + at))->len);

		ADD_FIELDS(m, IMAGE_SEGMENT, addr, at, sizeof(struct disk_record_frame), frame_fields);
		at += sizeof(struct disk_record_frame);
		walk_record(m, addr, at, seg + at, len);
		at += (len + 7u) & ~7u;
	}
	at = sizeof(*h) + le32_get(h->record_bytes);
	for (uint32_t i = 0; i < le32_get(h->checks); i++, at += sizeof(struct disk_check)) {
		const struct disk_check *c = (const void *)(seg + at);

		ADD_FIELDS(m, IMAGE_TAIL, addr, at, sizeof(*c), check_fields);
		add_sum(m, le64_get(c->addr), place_at(addr, at + offsetof(struct disk_check, sum), 4, MEANS_NUMBER));
	}
	for (uint32_t i = 0; i < le32_get(h->riding); i++, at += sizeof(struct disk_riding))
		ADD_FIELDS(m, IMAGE_TAIL, addr, at, sizeof(struct disk_riding), riding_fields);
}

static void walk_log(struct image *m, const struct disk_super *s)
{
	uint64_t place = le64_get(s->log_block), seq = le64_get(s->log_seq);
	uint8_t *region = malloc(m->log_blocks * BLOCK_SIZE);

	if (!region)
		abort();
	simdev_peek(m->disk, m->log_start, region, (uint32_t)m->log_blocks);
	for (unsigned wrapped = 0; wrapped < 2;) {
		const struct disk_segment *h = (const void *)(region + place * BLOCK_SIZE);
		uint32_t blocks = le32_get(h->blocks);

		if (place >= m->log_blocks || le32_get(h->magic) != LOG_SEGMENT_MAGIC || le64_get(h->seq) != seq ||
		    le64_get(h->epoch) != le64_get(s->log_epoch) || m->owner_of[m->log_start + place]) {
			wrapped++;
			place = 0;
			continue;
		}
		add_owner(m, &(struct image_owner){ OWNER_SEGMENT, m->log_start + place, 0, blocks, 0, { 0 }, 0 });
		walk_segment(m, m->log_start + place, (const uint8_t *)h);
		place += blocks;
		seq++;
	}
	free(region);
}

/* ---- all of it ---- */

void image_walk(struct image *m)
{
	uint8_t buf[2][BLOCK_SIZE];
	const struct disk_super *s[2] = { (void *)buf[0], (void *)buf[1] }, *newest;
	uint64_t addr[2] = { SUPER_SLOT0, SUPER_SLOT1 };
	unsigned slot;

	for (unsigned i = 0; i < 2; i++)
		simdev_peek(m->disk, addr[i], buf[i], 1);
	slot = le64_get(s[1]->serial) > le64_get(s[0]->serial);
	newest = s[slot];
	m->blocks = le64_get(newest->blocks);
	m->log_start = le64_get(newest->log_start);
	m->log_blocks = le64_get(newest->log_blocks);
	m->node_size = le32_get(newest->node_size);
	m->owner_of = calloc(m->blocks, sizeof(*m->owner_of));
	if (!m->owner_of || m->blocks > SPACE_GROUP_BLOCKS)
		abort();
	/* The newest one's places stand first, and twice: the other is hardly looked at. */
	for (unsigned i = 0; i < 3; i++) {
		unsigned n = i < 2 ? slot : !slot;

		if (i)
			add_owner(m, &(struct image_owner){ OWNER_SUPER, addr[n], 0, 1, 0, { 0 }, 0 });
		ADD_FIELDS(m, IMAGE_SUPER, addr[n], 0, BLOCK_SIZE, super_fields);
	}
	walk_space(m, addr[slot], offsetof(struct disk_super, space));
	if (le32_get(newest->files.levels))
		walk_tree(m, TREE_FILES, le64_get(newest->files.addr), le64_get(newest->files.copy));
	if (le32_get(newest->system.levels))
		walk_tree(m, TREE_SYSTEM, le64_get(newest->system.addr), le64_get(newest->system.copy));
	walk_log(m, newest);
	for (uint64_t i = 0; i < m->blocks; i++) {
		static const uint8_t zeros[BLOCK_SIZE];

		simdev_peek(m->disk, i, buf[0], 1);
		if (memcmp(buf[0], zeros, BLOCK_SIZE))
			list_add(&m->group[IMAGE_BLOCK], place_at(i, 0, 0, MEANS_NUMBER));
	}
}

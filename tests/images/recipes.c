/*
 * recipes - images of filesystems with one thing wrong
 *
 *	recipes NAME FILE	makes the image
 *	recipes --list		all names
 *
 * Two kinds. "item-..." are the rows of tests/kit/checkrows.c: items that no operation would put, in a filesystem that is otherwise
 * right. The others damage blocks of a filesystem made by known.c: which one is found by a walk over the whole image, as
 * the fuzz targets do it (tests/fuzz/image_map.c). Where damage is to be seen behind a checksum, that is made right again.
 *
 * What fsck.arbor must say of each, and how it ends, stands in `expect`; `run` compares.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/node_format.h"
#include "btree/space_format.h"
#include "btree/super_format.h"
#include "tests/images/known.h"
#include "tests/kit/checkrows.h"
#include "tests/kit/test.h"
#include "wal/system_format.h"

/* ---- bytes with their checksums ---- */

static void read_at(const struct image *m, uint64_t addr, void *buf, size_t len)
{
	simdev_peek(m->disk, addr, buf, (uint32_t)(len / BLOCK_SIZE));
}

static void write_at(const struct image *m, uint64_t addr, const void *buf, size_t len)
{
	for (size_t i = 0; i < len; i += BLOCK_SIZE)
		simdev_poke(m->disk, addr + i / BLOCK_SIZE, 0, (const uint8_t *)buf + i, BLOCK_SIZE);
}

static void put_super(const struct image *m, uint64_t addr, struct disk_super *d)
{
	d->sum = le64_put(XXH3_64bits((uint8_t *)d + sizeof(d->sum), BLOCK_SIZE - sizeof(d->sum)));
	write_at(m, addr, d, BLOCK_SIZE);
}

/* Both copies. */
static void put_node(const struct image *m, const struct image_owner *o, uint8_t *buf)
{
	struct disk_node *d = (struct disk_node *)buf;

	d->sum = le64_put(XXH3_64bits(buf + sizeof(d->sum), m->node_size - sizeof(d->sum)));
	write_at(m, o->addr, buf, m->node_size);
	if (o->copy)
		write_at(m, o->copy, buf, m->node_size);
}

/* A page of the space map, with free blocks more or less, and everything above it up to the superblock. */
static void put_space_page(const struct image *m, const struct image_owner *o, const uint8_t *page, int64_t more)
{
	uint8_t above[BLOCK_SIZE];
	struct disk_space_entry *e = (struct disk_space_entry *)(above + o->entry.at);
	uint64_t at = o->entry.block;

	write_at(m, o->addr, page, BLOCK_SIZE);
	read_at(m, at, above, BLOCK_SIZE);
	e->sum = le64_put(XXH3_64bits_withSeed(page, BLOCK_SIZE, le64_get(e->gen) ^ o->addr));
	e->free = le64_put(le64_get(e->free) + (uint64_t)more);
	if (at == SUPER_SLOT0 || at == SUPER_SLOT1)
		put_super(m, at, (struct disk_super *)above);
	else
		put_space_page(m, &m->owner[m->owner_of[at] - 1], above, more);
}

/* ---- what there is ---- */

static const struct image_owner *owner_of_kind(const struct image *m, enum image_owner_kind kind, unsigned level,
					       unsigned number)
{
	for (size_t i = 0; i < m->n_owners; i++) {
		const struct image_owner *o = &m->owner[i];

		if (o->kind == kind && o->level == level && !number--)
			return o;
	}
	fprintf(stderr, "recipes: there is none of kind %d, level %u\n", (int)kind, level);
	exit(1);
}

/* The first one that stands behind the system tree's nodes is no part of live. */
static const struct image_owner *snapshot_leaf(const struct image *m)
{
	bool system = false;

	for (size_t i = 0; i < m->n_owners; i++) {
		const struct image_owner *o = &m->owner[i];
		uint8_t buf[BLOCK_SIZE];

		if (o->kind != OWNER_NODE)
			continue;
		read_at(m, o->addr, buf, BLOCK_SIZE);
		if (le64_get(((struct disk_node *)buf)->tree) == TREE_SYSTEM)
			system = true;
		else if (system && o->level == 0)
			return o;
	}
	fprintf(stderr, "recipes: the snapshot has no leaf of its own\n");
	exit(1);
}

/* Changes the first item of a tree that `change` says yes to: its value is at val. */
static void change_item(const struct image *m, uint64_t tree, bool (*change)(struct key, uint8_t *val))
{
	uint8_t *buf = malloc(m->node_size);
	struct disk_node *d = (struct disk_node *)buf;
	struct disk_slot *slots = (struct disk_slot *)(d + 1);

	for (size_t i = 0; i < m->n_owners; i++) {
		const struct image_owner *o = &m->owner[i];

		if (o->kind != OWNER_NODE || o->level)
			continue;
		read_at(m, o->addr, buf, m->node_size);
		for (unsigned j = 0; le64_get(d->tree) == tree && j < le16_get(d->nr); j++) {
			struct key key = { le64_get(slots[j].obj), le64_get(slots[j].off) };

			if (!change(key, buf + le16_get(slots[j].val)))
				continue;
			put_node(m, o, buf);
			free(buf);
			return;
		}
	}
	fprintf(stderr, "recipes: there is no such item\n");
	exit(1);
}

static void spoil(const struct image *m, uint64_t addr)
{
	simdev_flip(m->disk, addr, 8 * 2001);
}

static void wipe(const struct image *m, uint64_t addr)
{
	static const uint8_t zeros[BLOCK_SIZE];

	write_at(m, addr, zeros, BLOCK_SIZE);
}

/* The leaf in the middle of the files, and the number of leaves. */
static const struct image_owner *middle(const struct image *m, unsigned level)
{
	unsigned n = 0;

	for (size_t i = 0; i < m->n_owners; i++)
		n += m->owner[i].kind == OWNER_NODE && m->owner[i].level == level;
	return owner_of_kind(m, OWNER_NODE, level, n / 2);
}

static const struct image_owner *root(const struct image *m)
{
	for (size_t i = 0; i < m->n_owners; i++)
		if (m->owner[i].kind == OWNER_NODE)
			return &m->owner[i];
	exit(1);
}

/* ---- damage to blocks ---- */

static void nothing(struct image *m)
{
	(void)m;
}

static void slot_0(struct image *m)
{
	spoil(m, SUPER_SLOT0);
}

static void slot_1(struct image *m)
{
	spoil(m, SUPER_SLOT1);
}

static void slots(struct image *m)
{
	slot_0(m);
	slot_1(m);
}

static void slots_wiped(struct image *m)
{
	wipe(m, SUPER_SLOT0);
	wipe(m, SUPER_SLOT1);
}

static void root_lost(struct image *m)
{
	spoil(m, root(m)->addr);
}

static void root_lost_twice(struct image *m)
{
	spoil(m, root(m)->addr);
	spoil(m, root(m)->copy);
}

static void root_copy_bad(struct image *m)
{
	spoil(m, root(m)->copy);
}

static void leaf_lost(struct image *m)
{
	spoil(m, middle(m, 0)->addr);
}

/* A leaf that begins among the names of a directory, the inode of which stands in another. */
static void names_lost(struct image *m)
{
	for (size_t i = 0; i < m->n_owners; i++) {
		const struct image_owner *o = &m->owner[i];
		uint8_t buf[BLOCK_SIZE];
		struct disk_slot *slot = (struct disk_slot *)(buf + sizeof(struct disk_node));

		if (o->kind != OWNER_NODE || o->level)
			continue;
		read_at(m, o->addr, buf, BLOCK_SIZE);
		if ((le64_get(slot->obj) & 255) == FS_ITEM_DIRENT) {
			spoil(m, o->addr);
			return;
		}
	}
	fprintf(stderr, "recipes: no leaf begins with a name\n");
	exit(1);
}

static void leaf_copy_bad(struct image *m)
{
	spoil(m, middle(m, 0)->copy);
}

static void leaf_lost_twice(struct image *m)
{
	leaf_lost(m);
	leaf_copy_bad(m);
}

static void interior_lost(struct image *m)
{
	spoil(m, middle(m, 1)->addr);
}

static void slot_and_leaf(struct image *m)
{
	slot_1(m);
	leaf_lost(m);
}

static void bitmap_lost(struct image *m)
{
	spoil(m, owner_of_kind(m, OWNER_SPACE, 0, 0)->addr);
}

static void space_root_lost(struct image *m)
{
	spoil(m, owner_of_kind(m, OWNER_SPACE, 1, 0)->addr);
}

static void change_bitmap(struct image *m, uint64_t addr, bool used)
{
	const struct image_owner *o = owner_of_kind(m, OWNER_SPACE, 0, 0);
	uint8_t page[BLOCK_SIZE];

	read_at(m, o->addr, page, BLOCK_SIZE);
	assert_int_equal(page[addr / 8] >> addr % 8 & 1, !used);
	page[addr / 8] ^= (uint8_t)(1u << addr % 8);
	put_space_page(m, o, page, used ? -1 : 1);
}

static void block_leaked(struct image *m)
{
	change_bitmap(m, m->blocks - 1, true);
}

static void used_block_free(struct image *m)
{
	change_bitmap(m, middle(m, 0)->addr, false);
}

static bool wrong_count(struct key key, uint8_t *val)
{
	struct disk_shared *d = (struct disk_shared *)val;

	if (key_ino(key) != KEY_INO_MAX || key_type(key) != RECORD_SHARED)
		return false;
	d->refs = le32_put(le32_get(d->refs) + 1);
	return true;
}

static void shared_count(struct image *m)
{
	change_item(m, TREE_FILES, wrong_count);
}

static bool wrong_dead(struct key key, uint8_t *val)
{
	struct disk_dead *d = (struct disk_dead *)val;

	if (key_type(key) != SYSTEM_DEAD)
		return false;
	d->blocks = le32_put(le32_get(d->blocks) + 1);
	return true;
}

static void dead_list(struct image *m)
{
	change_item(m, TREE_SYSTEM, wrong_dead);
}

static bool no_mode(struct key key, uint8_t *val)
{
	if (key_type(key) != FS_ITEM_INODE || key_ino(key) < FS_INO_FIRST + 20)
		return false;
	((struct disk_inode *)val)->mode = le32_put(0);
	return true;
}

static void item_not_valid(struct image *m)
{
	change_item(m, TREE_FILES, no_mode);
}

static void log_hole(struct image *m)
{
	spoil(m, owner_of_kind(m, OWNER_SEGMENT, 0, 1)->addr);
}

static void log_hole_and_leaf(struct image *m)
{
	log_hole(m);
	leaf_lost(m);
}

static void data_bad(struct image *m)
{
	spoil(m, m->sum[m->n_sums / 2].addr);
}

static void snapshot_leaf_lost(struct image *m)
{
	spoil(m, snapshot_leaf(m)->addr);
}

struct recipe {
	const char *name;
	void (*damage)(struct image *);
	struct known_options shape;
};

#define ONE                                                                                                            \
	{                                                                                                              \
		.seed = 11                                                                                             \
	}
#define TWO                                                                                                            \
	{                                                                                                              \
		.seed = 12, .copies = true                                                                             \
	}
#define SNAPSHOT                                                                                                       \
	{                                                                                                              \
		.seed = 13, .snapshot = true                                                                           \
	}
#define FULL                                                                                                           \
	{                                                                                                              \
		.seed = 16, .full = true, .blocks = 4096                                                               \
	}
#define KILLED                                                                                                         \
	{                                                                                                              \
		.seed = 14, .killed = true                                                                             \
	}
#define LARGE                                                                                                          \
	{                                                                                                              \
		.seed = 15, .files = 1500, .blocks = 24576                                                             \
	}

static const struct recipe recipes[] = {
	{ "nothing", nothing, TWO },
	{ "killed", nothing, KILLED },
	{ "slot-0", slot_0, TWO },
	{ "slot-1", slot_1, TWO },
	{ "slots", slots, TWO },
	{ "slots-one-copy", slots, ONE },
	{ "slots-wiped", slots_wiped, TWO },
	{ "slots-killed", slots, KILLED },
	{ "root", root_lost, ONE },
	{ "root-one-of-two", root_lost, TWO },
	{ "root-other-of-two", root_copy_bad, TWO },
	{ "root-both-of-two", root_lost_twice, TWO },
	{ "interior", interior_lost, LARGE },
	{ "leaf", leaf_lost, ONE },
	{ "leaf-of-names", names_lost, ONE },
	{ "leaf-one-of-two", leaf_lost, TWO },
	{ "leaf-other-of-two", leaf_copy_bad, TWO },
	{ "leaf-both-of-two", leaf_lost_twice, TWO },
	{ "slot-and-leaf", slot_and_leaf, ONE },
	{ "bitmap", bitmap_lost, TWO },
	{ "space-root", space_root_lost, TWO },
	{ "block-leaked", block_leaked, TWO },
	{ "used-block-free", used_block_free, TWO },
	{ "shared-count", shared_count, TWO },
	{ "dead-list", dead_list, SNAPSHOT },
	{ "item", item_not_valid, ONE },
	{ "leaf-when-full", leaf_lost, FULL },
	{ "log-hole", log_hole, KILLED },
	{ "log-hole-and-leaf", log_hole_and_leaf, KILLED },
	{ "data", data_bad, ONE },
	{ "snapshot-leaf", snapshot_leaf_lost, SNAPSHOT },
};

static struct simdev *make_known(const struct recipe *r)
{
	struct known known;
	struct image m = { .disk = known_make(&known, &r->shape) };

	known_release(&known);
	image_walk(&m);
	r->damage(&m);
	known_map_release(&m);
	return m.disk;
}

/* ---- items ---- */

/* A rebuild had got to its end, and the repair behind it had not. */
static void unfinished(struct checkkit *f)
{
	uint64_t ino = ck_node(f, "a/b/file");
	struct disk_lost d = {
		.from_obj = le64_put(key_make(ino, FS_ITEM_EXTENT, 0).obj),
		.to_obj = le64_put(key_make(ino + 1, FS_ITEM_INODE, 0).obj),
	};

	ck_del(f, key_make(ino, FS_ITEM_EXTENT, 0));
	ck_put_bytes(f, key_make(0, FS_ITEM_LOST, 0), &d, sizeof(d));
}

static const struct checkrow more_rows[] = { { "unfinished_repair", unfinished } };

static struct simdev *make_items(const struct checkrow *row)
{
	struct checkkit f;

	checkkit_init(&f, 0);
	row->damage(&f);
	ck_commit(&f);
	batch_close(f.b);
	fskit_unmount(&f.k);
	return f.k.disk;
}

/* ---- the command line ---- */

static const struct checkrow *find_row(const char *name)
{
	for (size_t i = 0; i < n_checkrows; i++)
		if (!strcmp(checkrows[i].name, name))
			return &checkrows[i];
	for (size_t i = 0; i < ARRAY_LEN(more_rows); i++)
		if (!strcmp(more_rows[i].name, name))
			return &more_rows[i];
	return NULL;
}

static void list(void)
{
	for (size_t i = 0; i < ARRAY_LEN(recipes); i++)
		puts(recipes[i].name);
	for (size_t i = 0; i < n_checkrows; i++)
		printf("item-%s\n", checkrows[i].name);
	for (size_t i = 0; i < ARRAY_LEN(more_rows); i++)
		printf("item-%s\n", more_rows[i].name);
}

int main(int argc, char **argv)
{
	const struct checkrow *row = NULL;
	struct simdev *disk = NULL;
	int err;

	if (argc == 2 && !strcmp(argv[1], "--list")) {
		list();
		return 0;
	}
	if (argc != 3) {
		fputs("usage: recipes NAME FILE | --list\n", stderr);
		return 2;
	}
	if (!strncmp(argv[1], "item-", 5))
		row = find_row(argv[1] + 5);
	if (row)
		disk = make_items(row);
	for (size_t i = 0; !disk && i < ARRAY_LEN(recipes); i++)
		if (!strcmp(recipes[i].name, argv[1]))
			disk = make_known(&recipes[i]);
	if (!disk) {
		fprintf(stderr, "recipes: there is no %s\n", argv[1]);
		return 2;
	}
	err = simdev_save(disk, argv[2]);
	simdev_free(disk);
	if (err)
		fprintf(stderr, "recipes: %s: %s\n", argv[2], strerror(-err));
	return err ? 1 : 0;
}

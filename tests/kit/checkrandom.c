#include "tests/kit/checkrandom.h"

#include <dirent.h>
#include <string.h>

#include "fs/xattr.h"
#include "tests/kit/test.h"

#define INOS 24u

static uint64_t random_ino(struct rng *r)
{
	return rng_chance(r, 1, 8) ? FS_ROOT_INO : FS_INO_FIRST + rng_below(r, INOS);
}

static void random_inode(struct checkkit *f, struct rng *r)
{
	static const uint32_t types[] = { S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO, S_IFCHR };
	static const uint64_t sizes[] = { 0, 1, 5, 100, BLOCK_SIZE, 3 * BLOCK_SIZE - 1, 1 << 20, FS_SIZE_MAX };
	struct inode i = {
		.ino = random_ino(r),
		.mode = types[rng_below(r, ARRAY_LEN(types))] | 0644,
		.nlink = rng_chance(r, 1, 20) ? UINT32_MAX : (uint32_t)rng_below(r, 4),
		.size = sizes[rng_below(r, ARRAY_LEN(sizes))],
		.blocks = rng_chance(r, 1, 20) ? UINT64_MAX : rng_below(r, 8),
		.state = (uint32_t)rng_below(r, 2),
		.rdev_major = (uint32_t)rng_below(r, 2),
	};

	if (S_ISDIR(i.mode))
		i.parent = random_ino(r);
	ck_put(f, &i);
}

static void random_name(struct checkkit *f, struct rng *r)
{
	static const uint8_t types[] = { DT_REG, DT_DIR, DT_DIR, DT_LNK };
	char name[FS_NAME_MAX + 1];
	size_t len = rng_chance(r, 1, 30) ? FS_NAME_MAX : 1 + rng_below(r, 2);
	struct key key;

	for (size_t i = 0; i < len; i++)
		name[i] = rng_chance(r, 1, 20) ? (char)(1 + rng_below(r, 31)) : (char)('a' + rng_below(r, 4));
	name[len] = 0;
	key = ck_name_key(f, random_ino(r), name, (unsigned)rng_below(r, 3));
	if (rng_chance(r, 1, 10))
		key.off = (1 + rng_below(r, FS_HASH_MAX)) << FS_SLOT_BITS;
	assert_int_equal(dir_put(f->b, key, name, len, FS_INO_FIRST + rng_below(r, INOS), types[rng_below(r, 4)]), 0);
}

static void random_xattr(struct checkkit *f, struct rng *r)
{
	static const char *const names[] = { "user.a", "user.b", "user.c" };
	const char *name = names[rng_below(r, 3)];
	uint8_t buf[2048] = { 0 };
	struct disk_xattr *d = (struct disk_xattr *)buf;
	unsigned chunk = rng_chance(r, 1, 2) ? 0 : 1 + (unsigned)rng_below(r, 3);
	struct key key = ck_xattr_at(f, random_ino(r), name, (unsigned)rng_below(r, 2), chunk);
	size_t len = rng_chance(r, 1, 3) ? f->k.fs->value_max : 1 + rng_below(r, 100), head = sizeof(*d) + 6;

	if (!chunk) {
		if (len < head)
			len = head;
		d->name_len = 6;
		memcpy(d->name, name, 6);
		d->size = le32_put((uint32_t)(len - head + (rng_chance(r, 1, 2) ? 0 : rng_below(r, 4000))));
	}
	if (rng_chance(r, 1, 10))
		key.off ^= UINT64_C(1) << (16 + rng_below(r, 48));
	ck_put_bytes(f, key, buf, len);
}

static void random_extent(struct checkkit *f, struct rng *r)
{
	uint64_t ino = random_ino(r), off = rng_below(r, 8) * BLOCK_SIZE;
	uint32_t blocks = 1 + (uint32_t)rng_below(r, 4);
	uint8_t val[sizeof(struct disk_extent) + 4 * sizeof(le32)] = { 0 };
	struct disk_extent *d = (struct disk_extent *)val;
	struct extent x;
	uint32_t sums[4];
	uint8_t *buf;

	if (rng_chance(r, 1, 2)) {
		ck_put_claim(f, ino, off, blocks);
		return;
	}
	assert_int_equal(batch_alloc(f->b, blocks, false, &x), 0);
	buf = mem_alloc_blocks((size_t)x.blocks * BLOCK_SIZE);
	assert_non_null(buf);
	rng_bytes(r, buf, (size_t)x.blocks * BLOCK_SIZE);
	d->addr = le64_put(x.addr);
	d->blocks = le32_put(x.blocks);
	for (uint32_t i = 0; i < x.blocks; i++) {
		sums[i] = data_checksum(buf + (size_t)i * BLOCK_SIZE);
		d->sums[i] = le32_put(sums[i] ^ rng_chance(r, 1, 20));
	}
	assert_int_equal(batch_data(f->b, x.addr, x.blocks, buf, sums), 0);
	ck_put_bytes(f, key_make(ino, FS_ITEM_EXTENT, off), val, sizeof(*d) + x.blocks * sizeof(le32));
}

static void random_orphan(struct checkkit *f, struct rng *r)
{
	uint64_t ino = FS_INO_FIRST + rng_below(r, INOS), from = rng_below(r, 4) * BLOCK_SIZE;

	if (rng_chance(r, 1, 2))
		ck_put_orphan(f, ino, FS_ORPHAN_UNLINKED, 0, 0);
	else
		ck_put_orphan(f, ino, FS_ORPHAN_RANGE, from, rng_chance(r, 1, 2) ? UINT64_MAX : from + 2 * BLOCK_SIZE);
}

static void random_removal(struct checkkit *f, struct rng *r)
{
	uint64_t ino = random_ino(r);
	uint8_t type = (uint8_t)(1 + rng_below(r, 5));

	if (rng_chance(r, 1, 4))
		ck_del(f, key_make(ino, FS_ITEM_INODE, 0));
	else
		assert_int_equal(batch_del_range(f->b, key_make(ino, type, 0), key_make(ino, type + 1, 0)), 0);
}

void ck_random_item(struct checkkit *f, struct rng *r)
{
	static const char text[8] = "tar\0get";

	switch (rng_below(r, 12)) {
	case 0:
	case 1:
	case 2:
		random_inode(f, r);
		break;
	case 3:
	case 4:
	case 5:
	case 6:
		random_name(f, r);
		break;
	case 7:
		random_xattr(f, r);
		break;
	case 8:
		random_extent(f, r);
		break;
	case 9:
		ck_put_bytes(f, key_make(random_ino(r), FS_ITEM_INLINE, rng_below(r, 6)), text, 1 + rng_below(r, 7));
		break;
	case 10:
		random_orphan(f, r);
		break;
	case 11:
		random_removal(f, r);
		break;
	}
}

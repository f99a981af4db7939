/*
 * records.c - what each item type may look like, how it is printed, and which blocks it refers to
 *
 * Validation looks at one item and its key: every field in its range, lengths that fit. What items say of each other (link
 * counts, sizes) is check.c's. It runs whenever an item is put, whenever a leaf is read, and right before one is written, so
 * code above may trust what it states: in particular names are 1 to 255 bytes without NUL and '/', and extents have as many
 * checksums as blocks.
 */
#include "fs/records.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "btree/err.h"
#include "fs/fs_format.h"

#define NSEC 1000000000u

static int validate_ino(const char *what, struct key key)
{
	uint64_t ino = key_ino(key);

	if (ino != FS_ROOT_INO && (ino < FS_INO_FIRST || ino > FS_INO_MAX))
		return corrupt(what, ino, "inode number", ino, FS_INO_FIRST);
	return 0;
}

static bool is_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return mode <= (S_IFMT | 07777);
	default:
		return false;
	}
}

static int inode_validate(struct key key, const void *val, size_t len)
{
	const struct disk_inode *d = val;
	uint64_t ino = key_ino(key);
	uint32_t mode;

	if (len != sizeof(*d))
		return corrupt("inode", ino, "length", len, sizeof(*d));
	if (key.off)
		return corrupt("inode", ino, "offset", key.off, 0);
	mode = le32_get(d->mode);
	if (!is_type(mode))
		return corrupt("inode", ino, "mode", mode, S_IFREG);
	if (le32_get(d->flags) & ~FS_FLAGS)
		return corrupt("inode", ino, "flags", le32_get(d->flags), FS_FLAGS);
	if (le32_get(d->state) & ~FS_STATE_ALL)
		return corrupt("inode", ino, "state", le32_get(d->state), FS_STATE_ALL);
	if (le64_get(d->size) > FS_SIZE_MAX)
		return corrupt("inode", ino, "size", le64_get(d->size), FS_SIZE_MAX);
	if (le32_get(d->atime_ns) >= NSEC || le32_get(d->mtime_ns) >= NSEC || le32_get(d->ctime_ns) >= NSEC ||
	    le32_get(d->btime_ns) >= NSEC)
		return corrupt("inode", ino, "nanoseconds", le32_get(d->mtime_ns), NSEC);
	if (S_ISDIR(mode) ? !le64_get(d->parent) || le64_get(d->parent) > FS_INO_MAX : le64_get(d->parent) != 0)
		return corrupt("inode", ino, "parent", le64_get(d->parent), S_ISDIR(mode));
	return validate_ino("inode", key);
}

static void inode_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_inode *d = val;

	(void)key;
	(void)len;
	fprintf(f,
		"mode %o flags %" PRIx32 " uid %" PRIu32 " gid %" PRIu32 " nlink %" PRIu32 " state %" PRIx32
		" size %" PRIu64 " blocks %" PRIu64 " parent %" PRIu64 " rdev %" PRIu32 ":%" PRIu32 " mtime %" PRId64
		".%09" PRIu32 " changes %" PRIu64,
		le32_get(d->mode), le32_get(d->flags), le32_get(d->uid), le32_get(d->gid), le32_get(d->nlink),
		le32_get(d->state), le64_get(d->size), le64_get(d->blocks), le64_get(d->parent),
		le32_get(d->rdev_major), le32_get(d->rdev_minor), (int64_t)le64_get(d->mtime), le32_get(d->mtime_ns),
		le64_get(d->changes));
}

static int xattr_validate(struct key key, const void *val, size_t len)
{
	const struct disk_xattr *d = val;
	uint64_t ino = key_ino(key);

	if (key.off & 0xff) {
		if (!len)
			return corrupt("xattr", ino, "empty chunk", len, 1);
		return validate_ino("xattr", key);
	}
	if (len < sizeof(*d) || !d->name_len || len < sizeof(*d) + d->name_len)
		return corrupt("xattr", ino, "length", len, sizeof(*d) + 1);
	if (le32_get(d->size) > FS_XATTR_SIZE_MAX)
		return corrupt("xattr", ino, "size", le32_get(d->size), FS_XATTR_SIZE_MAX);
	if (len - sizeof(*d) - d->name_len > le32_get(d->size))
		return corrupt("xattr", ino, "longer than its size", len, le32_get(d->size));
	if (memchr(d->name, 0, d->name_len))
		return corrupt("xattr", ino, "zero byte in the name", 0, 1);
	return validate_ino("xattr", key);
}

static void xattr_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_xattr *d = val;

	if (key.off & 0xff)
		fprintf(f, "chunk %u: %zu bytes", (unsigned)(key.off & 0xff), len);
	else
		fprintf(f, "%.*s: %" PRIu32 " bytes", d->name_len, (const char *)d->name, le32_get(d->size));
}

static int dirent_validate(struct key key, const void *val, size_t len)
{
	const struct disk_dirent *d = val;
	uint64_t ino = key_ino(key), hash = key.off >> FS_SLOT_BITS;
	size_t name_len = len - sizeof(*d);

	if (len <= sizeof(*d) || name_len > FS_NAME_MAX)
		return corrupt("name", ino, "length", len, sizeof(*d) + 1);
	if (!hash || hash > FS_HASH_MAX)
		return corrupt("name", ino, "hash", hash, FS_HASH_MAX);
	if (memchr(d->name, 0, name_len) || memchr(d->name, '/', name_len))
		return corrupt("name", ino, "zero byte or slash", 0, 1);
	if (d->name[0] == '.' && (name_len == 1 || (name_len == 2 && d->name[1] == '.')))
		return corrupt("name", ino, "dot", name_len, 0);
	if (le64_get(d->ino) < FS_INO_FIRST || le64_get(d->ino) > FS_INO_MAX)
		return corrupt("name", ino, "inode number", le64_get(d->ino), FS_INO_FIRST);
	if (!is_type((uint32_t)d->type << 12))
		return corrupt("name", ino, "type", d->type, DT_REG);
	return validate_ino("name", key);
}

static void dirent_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_dirent *d = val;

	(void)key;
	fprintf(f, "ino %" PRIu64 " type %u name ", le64_get(d->ino), d->type);
	for (size_t i = 0; i < len - sizeof(*d); i++)
		fprintf(f, d->name[i] >= 32 && d->name[i] < 127 && d->name[i] != '\\' ? "%c" : "\\x%02x", d->name[i]);
}

static int inline_validate(struct key key, const void *val, size_t len)
{
	(void)val;
	if (!len)
		return corrupt("inline data", key_ino(key), "length", len, 1);
	if (key.off > FS_SYMLINK_MAX)
		return corrupt("inline data", key_ino(key), "offset", key.off, FS_SYMLINK_MAX);
	return validate_ino("inline data", key);
}

static int extent_validate(struct key key, const void *val, size_t len)
{
	const struct disk_extent *d = val;
	uint64_t ino = key_ino(key), blocks, max;
	bool claim; /* or lost: no checksums */

	if (len < sizeof(*d))
		return corrupt("extent", ino, "length", len, sizeof(*d));
	blocks = le32_get(d->blocks);
	claim = !le64_get(d->addr);
	max = claim ? FS_CLAIM_BLOCKS_MAX : FS_EXTENT_BLOCKS_MAX;
	if (!blocks || blocks > max)
		return corrupt("extent", ino, "blocks", blocks, max);
	if (len != sizeof(*d) + (claim ? 0 : blocks * sizeof(le32)))
		return corrupt("extent", ino, "length", len, sizeof(*d) + (claim ? 0 : blocks * sizeof(le32)));
	if (d->codec || d->flags & ~(claim ? FS_EXTENT_LOST : 0) || le16_get(d->zero) || le32_get(d->raw_len) || le32_get(d->zero2))
		return corrupt("extent", ino, "codec or flags", d->codec, d->flags);
	if (claim && le64_get(d->birth))
		return corrupt("extent", ino, "birth of a promise", le64_get(d->birth), 0);
	if (key.off % BLOCK_SIZE)
		return corrupt("extent", ino, "offset", key.off, BLOCK_SIZE);
	if (key.off > FS_SIZE_MAX || blocks * BLOCK_SIZE > FS_SIZE_MAX - key.off)
		return corrupt("extent", ino, "end", key.off + blocks * BLOCK_SIZE, FS_SIZE_MAX);
	return validate_ino("extent", key);
}

static bool extent_is_lost(const struct disk_extent *d)
{
	return d->flags & FS_EXTENT_LOST;
}

static void extent_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_extent *d = val;

	(void)len;
	if (extent_is_lost(d))
		fprintf(f, "at %" PRIu64 " lost %" PRIu32, key.off, le32_get(d->blocks));
	else if (!le64_get(d->addr))
		fprintf(f, "at %" PRIu64 " promise of %" PRIu32, key.off, le32_get(d->blocks));
	else
		fprintf(f, "at %" PRIu64 " addr %" PRIu64 " blocks %" PRIu32 " birth %" PRIx64, key.off,
			le64_get(d->addr), le32_get(d->blocks), le64_get(d->birth));
}

static bool extent_of(struct key key, const void *val, size_t len, struct extent *ret)
{
	const struct disk_extent *d = val;

	(void)key;
	(void)len;
	if (extent_is_lost(d))
		return false;
	*ret = (struct extent){ le64_get(d->addr), le32_get(d->blocks), le64_get(d->birth) };
	return true;
}

static void extent_set_birth(void *val, size_t len, uint64_t birth)
{
	struct disk_extent *d = val;

	(void)len;
	d->birth = le64_put(birth);
}

static int orphan_validate(struct key key, const void *val, size_t len)
{
	const struct disk_orphan *d = val;
	uint64_t ino = key.off >> 1;

	if (len != sizeof(*d))
		return corrupt("orphan", ino, "length", len, sizeof(*d));
	if (key_ino(key) != FS_ORPHAN_INO)
		return corrupt("orphan", ino, "key", key_ino(key), FS_ORPHAN_INO);
	if (ino < FS_INO_FIRST || ino > FS_INO_MAX)
		return corrupt("orphan", ino, "inode number", ino, FS_INO_FIRST);
	if ((key.off & 1) == FS_ORPHAN_UNLINKED
		    ? le64_get(d->from) || le64_get(d->to)
		    : le64_get(d->from) >= le64_get(d->to) || le64_get(d->from) % BLOCK_SIZE ||
			      (le64_get(d->to) != UINT64_MAX && le64_get(d->to) % BLOCK_SIZE))
		return corrupt("orphan", ino, "range", le64_get(d->from), le64_get(d->to));
	return 0;
}

static void orphan_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_orphan *d = val;

	(void)len;
	if ((key.off & 1) == FS_ORPHAN_UNLINKED)
		fprintf(f, "ino %" PRIu64 " to be deleted", key.off >> 1);
	else
		fprintf(f, "ino %" PRIu64 " from %" PRIu64 " to %" PRIu64 " to be removed", key.off >> 1,
			le64_get(d->from), le64_get(d->to));
}

static int lost_validate(struct key key, const void *val, size_t len)
{
	const struct disk_lost *d = val;
	struct key from, to;

	if (len != sizeof(*d))
		return corrupt("lost", key.off, "length", len, sizeof(*d));
	if (key_ino(key) != FS_ORPHAN_INO)
		return corrupt("lost", key.off, "key", key_ino(key), FS_ORPHAN_INO);
	from = (struct key){ le64_get(d->from_obj), le64_get(d->from_off) };
	to = (struct key){ le64_get(d->to_obj), le64_get(d->to_off) };
	if (!key_less(from, to))
		return corrupt("lost", key.off, "range", from.obj, to.obj);
	return 0;
}

static void lost_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_lost *d = val;

	(void)key;
	(void)len;
	fprintf(f, "items from inode %" PRIu64 " type %u offset %" PRIu64 " to inode %" PRIu64 " type %u offset %" PRIu64,
		le64_get(d->from_obj) >> 8, d->from_obj.b[0], le64_get(d->from_off), le64_get(d->to_obj) >> 8,
		d->to_obj.b[0], le64_get(d->to_off));
}

static int volume_validate(struct key key, const void *val, size_t len)
{
	const struct disk_volume *d = val;

	if (len != sizeof(*d))
		return corrupt("volume", key.off, "length", len, sizeof(*d));
	if (key_ino(key) != FS_ORPHAN_INO || key.off)
		return corrupt("volume", key.off, "key", key_ino(key), FS_ORPHAN_INO);
	if (!le64_get(d->blocks) || !le64_get(d->log_start) || !le64_get(d->log_blocks))
		return corrupt("volume", key.off, "blocks", le64_get(d->blocks), le64_get(d->log_blocks));
	return 0;
}

static void volume_print(FILE *f, struct key key, const void *val, size_t len)
{
	const struct disk_volume *d = val;

	(void)key;
	(void)len;
	fprintf(f, "label '%.*s' blocks %" PRIu64 " log %" PRIu64 " + %" PRIu64 " incompat %" PRIx64, (int)sizeof(d->label),
		(const char *)d->label, le64_get(d->blocks), le64_get(d->log_start), le64_get(d->log_blocks),
		le64_get(d->incompat));
}

const struct record_table fs_records = {
	.row = {
		[FS_ITEM_INODE] = { .name = "inode", .validate = inode_validate, .print = inode_print },
		[FS_ITEM_XATTR] = { .name = "xattr", .validate = xattr_validate, .print = xattr_print },
		[FS_ITEM_DIRENT] = { .name = "name", .validate = dirent_validate, .print = dirent_print },
		[FS_ITEM_INLINE] = { .name = "inline", .validate = inline_validate },
		[FS_ITEM_EXTENT] = { .name = "extent", .validate = extent_validate, .print = extent_print,
				     .extent = extent_of, .set_birth = extent_set_birth },
		[FS_ITEM_ORPHAN] = { .name = "orphan", .validate = orphan_validate, .print = orphan_print },
		[FS_ITEM_LOST] = { .name = "lost", .validate = lost_validate, .print = lost_print },
		[FS_ITEM_VOLUME] = { .name = "volume", .validate = volume_validate, .print = volume_print },
	},
};

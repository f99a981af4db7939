/*
 * fs_format.h - the items of a filesystem: keys and values
 *
 * Every item belongs to an inode, by the first part of its key. Numbers are for ever.
 *
 *	TYPE	INO	OFFSET				VALUE
 *	inode	n	0				struct disk_inode
 *	xattr	n	hash | slot | chunk		struct disk_xattr in chunk 0, bare bytes in the others
 *	dirent	n	hash | slot			struct disk_dirent
 *	inline	n	offset of the first byte	bytes: small file data, or a symlink's target
 *	extent	n	offset of the first byte	struct disk_extent
 *	orphan	0	ino << 1 | kind			struct disk_orphan
 *	lost	0	number				struct disk_lost
 *	volume	0	0				struct disk_volume
 *
 * A file has inline items or extent items, never both. Inline data of a file is one item at offset 0, at most as long as
 * the file's size; a symlink's target may need several. What no item covers reads as zeros.
 */
#ifndef ARBOR_FS_FS_FORMAT_H
#define ARBOR_FS_FS_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

/* Types of items: name, number. */
#define FS_ITEM_TYPES(X) \
	X(INODE, 1)      \
	X(XATTR, 2)      \
	X(DIRENT, 3)     \
	X(INLINE, 4)     \
	X(EXTENT, 5)     \
	X(ORPHAN, 6)     \
	X(LOST, 7)       \
	X(VOLUME, 8)

enum fs_item_type {
#define X(name, number) FS_ITEM_##name = (number),
	FS_ITEM_TYPES(X)
#undef X
};

#define FS_ROOT_INO 1u
#define FS_INO_FIRST 16u		      /* 2 to 15 are reserved */
#define FS_INO_MAX ((UINT64_C(1) << 48) - 1) /* inode numbers have 48 bits */
#define FS_ORPHAN_INO 0u

/* Counters of the superblock. */
enum fs_counter {
	FS_COUNTER_INO_LIMIT = 0, /* inode numbers below it may have been handed out */
	FS_COUNTER_INODES_MADE = 1,
	FS_COUNTER_INODES_FREED = 2,
};

/*	OFFSET	SIZE	MEANING
 *	0	4	mode: type and permissions, as st_mode
 *	4	4	flags: FS_IMMUTABLE_FL and the like, as in <linux/fs.h>; only those of FS_FLAGS
 *	8	4	uid
 *	12	4	gid
 *	16	4	number of names (a directory: 2 + its subdirectories)
 *	20	4	state: FS_STATE_*
 *	24	8	size: bytes; a directory: number of names in it
 *	32	8	blocks of 4 KiB that extent items have, promise, or have lost
 *	40	8	parent (directories only)
 *	48	4	device number, major (devices only)
 *	52	4	device number, minor
 *	56	8	access time, seconds since 1970 (signed)
 *	64	8	modification time
 *	72	8	change time
 *	80	8	birth time
 *	88	4	nanoseconds of each: access
 *	92	4	modification
 *	96	4	change
 *	100	4	birth
 *	104	8	number of changes: grows with each change of data or metadata
 */
struct disk_inode {
	le32 mode;
	le32 flags;
	le32 uid;
	le32 gid;
	le32 nlink;
	le32 state;
	le64 size;
	le64 blocks;
	le64 parent;
	le32 rdev_major;
	le32 rdev_minor;
	le64 atime;
	le64 mtime;
	le64 ctime;
	le64 btime;
	le32 atime_ns;
	le32 mtime_ns;
	le32 ctime_ns;
	le32 btime_ns;
	le64 changes;
};
static_assert(sizeof(struct disk_inode) == 112, "disk_inode");

#define FS_STATE_XATTRS 1u /* there are xattr items */
#define FS_STATE_ALL FS_STATE_XATTRS

/* The flags of <linux/fs.h> that are kept: immutable 0x10, append only 0x20, nodump 0x40, noatime 0x80. */
#define FS_FLAGS 0xf0u

#define FS_SIZE_MAX (UINT64_C(1) << 44) /* 16 TiB */
#define FS_NLINK_MAX 0x7fffffffu
#define FS_NAME_MAX 255u
#define FS_SYMLINK_MAX 4095u

/*
 * A directory's names. The key's offset is hash << 8 | slot: 55 bits of a keyed hash of the name (1 .. 2^55 - 2), and a slot
 * that tells names of one hash apart. It is the cookie of readdir, so it never changes while the name stays.
 *
 *	OFFSET	SIZE	MEANING
 *	0	8	inode number
 *	8	1	type: DT_* of <dirent.h>
 *	9	n	name: 1 to 255 bytes, without NUL or '/'
 */
struct disk_dirent {
	le64 ino;
	uint8_t type;
	uint8_t name[];
};
static_assert(sizeof(struct disk_dirent) == 9, "disk_dirent");

#define FS_HASH_MAX ((UINT64_C(1) << 55) - 2)
#define FS_SLOT_BITS 8

/*
 * An extended attribute. The key's offset is hash << 16 | slot << 8 | chunk, with 48 bits of a keyed hash of the name.
 * Chunk 0 has this header, the name, and the first bytes of the value; the others just bytes. All but the last are as
 * long as an item can be.
 *
 *	OFFSET	SIZE	MEANING
 *	0	4	length of the whole value: at most 65536
 *	4	1	length of the name: 1 to 255
 *	5	n	name with its namespace ("user.x"), then the value
 */
struct disk_xattr {
	le32 size;
	uint8_t name_len;
	uint8_t name[];
};
static_assert(sizeof(struct disk_xattr) == 5, "disk_xattr");

#define FS_XATTR_SIZE_MAX 65536u

/*
 * A run of file blocks that have data, or the promise of room for it. The key's offset is a multiple of 4096.
 *
 *	OFFSET	SIZE	MEANING
 *	0	8	address; 0: a promise (fallocate), which reads as zeros, or lost
 *	8	8	birth
 *	16	4	blocks: with data at most 256; a promise at most 2^24
 *	20	1	codec: 0, stored as it is
 *	21	1	flags: FS_EXTENT_*
 *	22	2	zero
 *	24	4	length of the raw data; 0 with codec 0
 *	28	4	zero
 *	32	4 * n	checksum of each block (the lower half of its XXH3-64); none for a promise
 */
struct disk_extent {
	le64 addr;
	le64 birth;
	le32 blocks;
	uint8_t codec;
	uint8_t flags;
	le16 zero;
	le32 raw_len;
	le32 zero2;
	le32 sums[];
};
static_assert(sizeof(struct disk_extent) == 32, "disk_extent");

/* Content that was lost: address and birth 0, no checksums, blocks as in a promise. Reads as EIO until it is written again. It
 * counts in the inode's blocks, which so tell inline content from extents, but promises no room. May stand beyond the last byte
 * only as far as the block that holds it. */
#define FS_EXTENT_LOST 1u

#define FS_EXTENT_BLOCKS_MAX 256u
#define FS_CLAIM_BLOCKS_MAX (1u << 24)

/*
 * Work that a crash must not leave half done. Kind 0: the inode has no name any more; it and all its items go when nobody
 * uses it. Kind 1: what it has in [from, to) is gone already for whoever reads it; the items are still to be deleted.
 *
 *	OFFSET	SIZE	MEANING
 *	0	8	from: bytes, a multiple of 4096 (kind 0: 0)
 *	8	8	to (kind 0: 0); 2^64 - 1: everything behind
 */
struct disk_orphan {
	le64 from;
	le64 to;
};
static_assert(sizeof(struct disk_orphan) == 16, "disk_orphan");

/*
 * A range of keys that a rebuild could not read, until fsck has drawn the conclusions. While there is one the filesystem is
 * not mounted.
 *
 *	OFFSET	SIZE	MEANING
 *	0	8	from: key, obj
 *	8	8	key, off
 *	16	8	to, which is the first key behind: obj
 *	24	8	key, off
 */
struct disk_lost {
	le64 from_obj;
	le64 from_off;
	le64 to_obj;
	le64 to_off;
};
static_assert(sizeof(struct disk_lost) == 32, "disk_lost");

/*
 * What only the superblock knows, once more, so that a salvage that finds no superblock finds it in a leaf. Written by mkfs; never
 * changed, so a label or a size set later is not in it.
 *
 *	OFFSET	SIZE	MEANING
 *	0	16	uuid
 *	16	64	label, padded with NUL
 *	80	16	secret
 *	96	8	blocks
 *	104	8	first block of the log
 *	112	8	blocks of the log
 *	120	8	incompat features
 *	128	8	time of mkfs
 */
struct disk_volume {
	uint8_t uuid[16];
	uint8_t label[64];
	uint8_t secret[16];
	le64 blocks;
	le64 log_start;
	le64 log_blocks;
	le64 incompat;
	le64 created;
};
static_assert(sizeof(struct disk_volume) == 136, "disk_volume");

enum fs_orphan_kind { FS_ORPHAN_UNLINKED = 0, FS_ORPHAN_RANGE = 1 };

#endif

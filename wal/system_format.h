/*
 * system_format.h - the items the engine itself keeps
 *
 * The system tree holds what concerns all views: the live view's line, the snapshots, the dead lists. It changes together
 * with live and is part of no snapshot. Item types of the system tree are numbered for ever.
 *
 * Shared counts stand in each view's own file tree, under the highest inode number, so that a snapshot carries them.
 */
#ifndef ARBOR_WAL_SYSTEM_FORMAT_H
#define ARBOR_WAL_SYSTEM_FORMAT_H

#include <assert.h>

#include "btree/endian.h"

/* X(symbol, number, name) */
#define SYSTEM_TYPES(X)                                                                                           \
	X(SYSTEM_LIVE, 1, "live")                                                                                  \
	X(SYSTEM_SNAPSHOT, 2, "snapshot")                                                                          \
	X(SYSTEM_DEAD, 3, "dead")

enum system_type {
#define SYSTEM_TYPE_ENUM(symbol, number, name) symbol = number,
	SYSTEM_TYPES(SYSTEM_TYPE_ENUM)
#undef SYSTEM_TYPE_ENUM
};

/* Key {0, SYSTEM_LIVE, 0}.
 *	0	8	id of the snapshot live derives from, or 0
 *	8	8	id of live's dead list
 *	16	8	the next snapshot or dead list gets this id
 */
struct disk_live {
	le64 parent;
	le64 dead_list;
	le64 next_id;
};
static_assert(sizeof(struct disk_live) == 24, "disk_live");

#define SNAPSHOT_DYING 1u  /* flags: deletion has begun; its content is not readable any more */
#define SNAPSHOT_HIDDEN 2u /* flags: deleted by its user, kept because several views derive from it */

/* Key {0, SYSTEM_SNAPSHOT, id}; the name's bytes follow.
 *	0	8	address of its root node
 *	8	8	address of the root's second copy, or 0
 *	16	8	generation of the root node
 *	24	4	levels of the tree
 *	28	4	flags
 *	32	8	generation that was frozen
 *	40	8	id of the snapshot it derives from, or 0
 *	48	8	id of its dead list
 *	56	8	time of creation, ns since 1970
 *	64	8	blocks claimed in it
 *	72	1	length of the name
 *	73	7	zero
 */
struct disk_snapshot {
	le64 root_addr;
	le64 root_copy;
	le64 root_gen;
	le32 levels;
	le32 flags;
	le64 gen;
	le64 parent;
	le64 dead_list;
	le64 created;
	le64 claims;
	uint8_t name_len;
	uint8_t zero[7];
};
static_assert(sizeof(struct disk_snapshot) == 80, "disk_snapshot");

/* Key {dead list, SYSTEM_DEAD, address}, dead list > 0: blocks that the list's view does not hold and its parent does.
 *	0	8	birth
 *	8	4	blocks
 *	12	4	zero
 */
struct disk_dead {
	le64 birth;
	le32 blocks;
	le32 zero;
};
static_assert(sizeof(struct disk_dead) == 16, "disk_dead");

/* In the file tree, key {KEY_INO_MAX, RECORD_SHARED, address}: blocks referred to more than once.
 *	0	8	birth: the one that rules
 *	8	4	blocks
 *	12	4	references, at least 2
 */
#define RECORD_SHARED 255u
struct disk_shared {
	le64 birth;
	le32 blocks;
	le32 refs;
};
static_assert(sizeof(struct disk_shared) == 16, "disk_shared");

#endif

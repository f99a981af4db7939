/*
 * fs_int.h - what the files of fs/ share: the filesystem's state in memory
 */
#ifndef ARBOR_FS_FS_INT_H
#define ARBOR_FS_FS_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "fs/dir.h"
#include "fs/fs.h"
#include "fs/fs_format.h"
#include "fs/inode.h"
#include "fs/lookups.h"
#include "fs/op.h"

#define FS_STRIPES 1024u
#define FS_INO_STEP 4096u /* how far the durable limit is raised at once */

struct orphans; /* orphan.c */
struct batch_pool; /* op.c */
struct scrub; /* scrub.c */

struct fs {
	struct fs_options opt;
	struct bdev *dev;
	struct store *store;
	bool read_only;
	size_t value_max;	/* of an item */
	size_t inline_max;	/* file data kept in an item */
	uint32_t extent_blocks;	/* see extent_blocks_max */

	pthread_rwlock_t stripe[FS_STRIPES];
	pthread_mutex_t rename_lock; /* one move of a directory at a time */

	_Atomic uint64_t ino_next;
	_Atomic uint64_t ino_limit; /* durable with, or before, the batch that used numbers below it */
	_Atomic uint64_t inodes_made, inodes_freed;
	_Atomic bool inodes_failed; /* some of those freed were made by operations that failed */

	uint64_t hash_mask; /* tests: only these bits of a name's hash count; 0: all */

	struct lookups *lookups;
	struct orphans *orphans;
	struct batch_pool *batches;
	struct scrub *scrub;
};

#define FS_INLINE_MAX 2048u

void fs_now(struct fs *, struct timespec *ret);
/* Keyed, so that nobody can make names collide. len <= FS_NAME_MAX. */
uint64_t fs_hash(struct fs *, const void *bytes, size_t len);

/* What a salvage wants to know, see struct disk_volume. */
int volume_put(struct store *, struct batch *);

int batch_pool_open(struct batch_pool **ret);
void batch_pool_close(struct batch_pool *);

#endif

/*
 * op.h - one operation: the view it works on, its time, its batch; and the locks that keep operations apart
 *
 * An operation that changes something
 *
 *	op_begin	resolves the node's view, reads the clock
 *	op_lock		takes the locks of the inodes it reads and changes
 *	...		reads from op.view, puts into op.batch
 *	op_commit	one batch: it happens, or nothing does
 *	op_end		gives everything back
 *
 * Locks. Inode locks are stripes, picked by inode number. Whoever changes an item of an inode, or decides on what it reads
 * of it, holds that inode's lock exclusively until its batch is committed. Data is read under the shared lock. Attributes and
 * names are read without: one item is always seen whole. op_lock takes all locks of one operation at once, in order of
 * stripes; more cannot be added later: who finds out more (a name's inode) lets go, locks again with what it knows now, and
 * looks again (op_relock). An inode that no name refers to yet needs no lock.
 *
 * Order: fs.rename_lock -> stripes -> the store's locks. No lock of fs/ is held while a reply is sent.
 */
#ifndef ARBOR_FS_OP_H
#define ARBOR_FS_OP_H

#include <time.h>

#include "fs/fs.h"

#define OP_LOCKS_MAX 4u

struct op {
	struct fs *fs;
	struct view *view;
	struct batch *batch; /* NULL in operations that only read */
	struct timespec now;
	uint64_t ino_limit; /* with the commit, all numbers below it may have been handed out */
	unsigned made;	    /* inodes that the batch makes */
	/* Fresh data may be joined to older data in front of it; then op_commit may return -ERESTART, once the store's
	 * generation has changed: the operation is done again without. False unless the operation sets it. */
	bool join;
	unsigned n_locks;
	bool shared;
	uint16_t stripe[OP_LOCKS_MAX];
};

/* Reading: -ESTALE: the view has ended or does not exist. */
int op_begin_read(struct fs *, uint64_t node, struct op *);
/* Changing: opens a batch too. -EROFS: the view or the filesystem cannot be changed. */
int op_begin(struct fs *, uint64_t node, struct op *);
void op_lock(struct op *, const uint64_t *inos, unsigned n); /* exclusive; duplicates are fine; n <= OP_LOCKS_MAX */
void op_lock_shared(struct op *, uint64_t ino);
void op_unlock(struct op *);
/* Commits the batch. The locks stay. The batch is empty again afterwards, in every case. */
int op_commit(struct op *);
void op_end(struct op *); /* unlocks, cancels what was not committed. Accepts one that failed to begin. */

/*
 * Room ran out: whether to try the whole operation again, after what has no name any more has been deleted. Call it with
 * nothing held, behind op_end: `do err = ...; while (op_retry(fs, err, &tries));`
 */
bool op_retry(struct fs *, int err, unsigned *tries);

static inline uint64_t node_ino(uint64_t node)
{
	return node & ((UINT64_C(1) << FS_VIEW_SHIFT) - 1);
}

static inline uint64_t node_make(uint64_t like, uint64_t ino)
{
	return (like & ~((UINT64_C(1) << FS_VIEW_SHIFT) - 1)) | ino;
}

#endif

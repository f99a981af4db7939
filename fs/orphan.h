/*
 * orphan.h - work in bounded steps: deletion of files without a name, removal of large ranges
 *
 * Removing much (a file of 1 TiB, a hole punched into it) must not be one batch. So the batch that answers the caller leaves
 * an orphan item: what it names is gone for whoever looks, and is deleted behind it in batches of bounded size. A crash in
 * between leaves the item, and the next mount goes on.
 *
 * Unlinked: an inode whose last name goes gets the item in the same batch. It is deleted when its last reference goes
 * (fs_forget), by the reaper's thread where it is large. At mount all of them are: nobody can refer to them.
 *
 * Range: small removals are done in the batch itself and leave nothing. A large one is done step by step before the call
 * that asked for it returns, under the inode's lock; so only after a crash are there ranges left, and these are finished
 * in the background, by the first that wants to change the file, or by fs_reap. Until then reading sees zeros there
 * (orphan_pending); orphan_finish is called by whoever is about to change or share the content.
 */
#ifndef ARBOR_FS_ORPHAN_H
#define ARBOR_FS_ORPHAN_H

#include "fs/extent.h"

/* Items that one batch may remove: a bound for its memory, log record and lock time. */
#define ORPHAN_STEP_ITEMS 512u

/* Finds what a crash left; starts the reaper's thread unless options say no. With fs_options.repair nothing is deleted but by
 * fs_reap. */
int orphans_open(struct fs *);
void orphans_close(struct fs *); /* stops the thread; what is left stays for the next mount */

bool orphans_waiting(struct fs *); /* whether fs_reap would find something to do */

/* The inode has lost its last name: puts the item. The caller puts the inode with nlink 0 in the same batch. */
int orphan_add(struct op *, uint64_t ino);
/* It has a name again (link of a O_TMPFILE). */
int orphan_remove(struct op *, uint64_t ino);
/* After the batch was committed, or when the last reference went: nobody refers to it, delete it, now or soon. */
void orphan_unreferenced(struct fs *, uint64_t node);

/*
 * Removes what the file has in [from, to) (multiples of BLOCK_SIZE, to may be UINT64_MAX), with the inode's other changes:
 * puts the inode, commits. Small: one batch. Large: a batch with a range item, then as many as it takes. Errors after the
 * first batch are reported to the log and left to the reaper: the removal has happened. The op's batch is empty afterwards.
 */
int orphan_remove_range(struct op *, struct inode *, uint64_t from, uint64_t to);

/*
 * The same with pieces (extent_replace) in the front part of the range. It makes no use of the room kept for removals unless the
 * caller has said batch_releases.
 */
int orphan_replace_range(struct op *, struct inode *, uint64_t from, uint64_t to, const struct extent_piece *pieces, size_t n);

/* Whether part of the file is to be seen as removed: [*from, *to). Almost always false, at the cost of one load. */
bool orphan_pending(struct fs *, uint64_t node, uint64_t *ret_from, uint64_t *ret_to);
/* The repair has deleted the mark of it. */
void orphan_forget_range(struct fs *, uint64_t ino);
/* Finishes it, if there is any. The inode's lock is held, the batch is empty; it is empty afterwards, too. */
int orphan_finish(struct op *, uint64_t ino);

#endif

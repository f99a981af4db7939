/*
 * store.h - the storage door: what the filesystem sees of everything below it
 *
 * A store holds one tree of items (key, value) and the data blocks those items refer to. A *view* is a state of that
 * tree: the live one, a transaction's private one, or a frozen one (a snapshot, or the state at some moment). A *batch* is
 * a group of changes to a view that is applied as one: seen whole or not at all, and for the live view one record of
 * the log, so also recovered whole or not at all, in the order of application.
 *
 * Which blocks are in use follows from the items: a batch that stores a value referring to an extent takes a reference, one
 * that replaces or deletes it gives it back. Callers never count.
 *
 * Ownership: views and batches are the caller's until closed, and must be closed before the store. Values and data
 * passed in are copied, but for data buffers (see batch_data).
 *
 * Threads: everything may be called from any thread; one batch or cursor is used by one thread at a time. Any call but
 * batch_put and the like may wait for the device.
 *
 * Errors: 0 or negative errno as in btree/err.h. After a failed write or flush every change returns -EROFS, store_sync
 * returns -EIO, and store_status says why (contract G).
 */
#ifndef ARBOR_WAL_STORE_H
#define ARBOR_WAL_STORE_H

#include "btree/dev/bdev.h"
#include "btree/record.h"
#include "btree/types.h"

struct store;
struct view;
struct batch;

/* ---- making and opening ---- */

struct store_mkfs_options {
	uint64_t blocks;	/* 0: the whole device */
	uint32_t node_size;	/* 0: 16 KiB */
	uint64_t log_blocks;	/* 0: by size of the device */
	const char *label;	/* NULL: none */
	uint8_t uuid[16];	/* all zero: random */
	bool copies;		/* every node has a second copy */
	bool lazy_log;		/* tests: do not write the log region */
	uint64_t now_ns;	/* 0: the clock */
	uint64_t seed;		/* tests: where random values come from; 0: the system */
};

/* Makes an empty store. Overwrites whatever is there. -ENOSPC: too small; -EINVAL: geometry; both say why. */
int store_mkfs(struct bdev *, const struct store_mkfs_options *);
#define STORE_BLOCKS_MIN 512u /* with the smallest log and 4 KiB nodes */

struct store_options {
	size_t cache_bytes;	/* nodes in memory; 0: 64 MiB */
	size_t data_bytes;	/* data on its way to the device; 0: 32 MiB */
	unsigned commit_ms;	/* contract C; 0: 1000 */
	bool read_only;		/* replays in memory, writes nothing */
	bool discard;		/* tell the device which blocks are free again */
	bool manual;		/* tests: no threads; checkpoints happen only where a call needs one or asks for it */
	bool ignore_log_damage; /* fsck only */
	unsigned ride_max;	/* see log.h */
	void (*on_wait)(void);	/* called by who is about to wait for a checkpoint; NULL: nothing. No locks are held. */
	uint64_t seed;		/* tests: where random values come from; 0: the system */
	/* Which items exist and what they mean; outlives the store. */
	const struct record_table *records;
};

/* Opens, recovering first where needed. The device is the caller's and must outlive the store. */
int store_open(struct bdev *, const struct store_options *, struct store **ret);

/* A last checkpoint (unless failed or read-only), then frees everything. The checkpoint's result. Accepts NULL. */
int store_close(struct store *);

/* Frees everything and writes nothing: what a kill leaves behind. For tests and after a failure. */
void store_crash(struct store *);

struct store_status {
	uint8_t uuid[16];
	char label[65];
	uint64_t blocks, blocks_free, blocks_usable, blocks_claimed, blocks_pinned, blocks_reclaiming;
	uint64_t blocks_pooled, blocks_reserved; /* set aside for nodes; of these, for what makes room alone */
	uint32_t node_size;
	uint64_t log_start, incompat, created_ns; /* as mkfs set them */
	uint64_t log_blocks, log_used, lsn_next, lsn_durable, syncs, segments;
	uint64_t checkpoints, checkpoint_last_us, checkpoint_freeze_max_us;
	size_t cache_frames, cache_frames_max, cache_dirty;
	uint64_t nodes_written, nodes_mended, copies_used;
	size_t data_dirty, data_inflight;
	uint64_t views, txns, snapshots;
	uint64_t recovered_records, recovered_us; /* by the last open */
	bool log_damaged;			  /* ... which ended in front of damage, because of ignore_log_damage */
	int error;				  /* sticky; 0 while all is well */
	char error_text[128];
};
void store_status(struct store *, struct store_status *ret);

struct bdev *store_bdev(struct store *);
size_t store_value_max(const struct store *);		/* the longest value an item may have */
const uint8_t *store_secret(const struct store *); /* 16 bytes, per filesystem, for keyed hashes */

/* The filesystem takes the device's present size. Answers when a checkpoint says so. */
int store_grow(struct store *);

/* ---- durability ---- */

/* Returns when everything applied to the live view so far is durable. Free when nothing is unflushed. */
int store_sync(struct store *);
/* The same up to one batch, by the lsn batch_commit returned. */
int store_sync_lsn(struct store *, uint64_t lsn);
/* Makes a checkpoint and waits for it. */
int store_checkpoint(struct store *);
/* What the timer does: for stores opened with `manual`. */
int store_tick(struct store *);

/* Counters of the upper layer, durable with the batches that raise them. The live value. */
uint64_t store_counter(struct store *, unsigned counter);

/* ---- views ---- */

struct view *store_live(struct store *); /* the store's; not to be closed */

/* The live state at this moment. Reading it takes no locks. Pins the space others release while it is open. */
int view_freeze(struct store *, struct view **ret);

/* A transaction: a private view of the live state at this moment, to be changed by batches of its own. */
int txn_begin(struct store *, struct view **ret);

/* Ends a frozen view or a transaction that was committed, else aborts it. Accepts NULL. */
void view_close(struct view *);

uint64_t view_id(const struct view *); /* unique while the store is open; live is 0 */

/* The birth that blocks written now get. It changes with every checkpoint, snapshot and transaction begun. */
uint64_t view_gen(struct view *);

/* Copies at most `cap` bytes of the value; *ret_len is its full length. -ENOENT. */
int view_get(struct view *, struct key, void *buf, size_t cap, size_t *ret_len);
/* The item with the greatest key <= key. */
int view_floor(struct view *, struct key, struct key *ret_key, void *buf, size_t cap, size_t *ret_len);

struct scan;
/* Items with from <= key < to, in order. Each leaf is seen as it was at one moment; on frozen views all are. */
int scan_open(struct view *, struct key from, struct key to, struct scan **ret);
int scan_next(struct scan *, struct key *ret_key, const void **ret_val, size_t *ret_len); /* <0, 0 item, >0 end */
/* After scan_next has returned an error: what it could not read (the keys of a node), and the scan goes on behind it. >0: that
 * is the end. */
int scan_skip(struct scan *, struct key *ret_from, struct key *ret_to);
void scan_close(struct scan *);

/* ---- batches ---- */

/* Begins an empty batch for a view that can be changed. Reusable: batch_commit and batch_cancel leave it empty. */
int batch_open(struct view *, struct batch **ret);
void batch_close(struct batch *); /* accepts NULL; cancels */
void batch_cancel(struct batch *); /* empties it; blocks it allocated are free again */

/*
 * Joining: a value may refer to older blocks followed by fresh ones of this batch, if the older ones' birth is the present
 * generation (view_gen), which is then the value's birth. Where the generation has changed before the commit, that returns
 * -ERESTART, and nothing has happened.
 */

/* The changes, in any order; a later one wins over an earlier one of the same key. The value is validated and copied. */
int batch_put(struct batch *, struct key, const void *val, size_t len);
int batch_del(struct batch *, struct key);
int batch_del_range(struct batch *, struct key from, struct key to); /* from <= key < to */

/* Raises a counter to at least `value` when the batch commits. Live only. */
int batch_raise(struct batch *, unsigned counter, uint64_t value);

/* This batch, until it is committed or cancelled, makes room: it may use the reserve kept for such (unlink, truncate
 * down). Live and transactions. */
void batch_releases(struct batch *);

/*
 * Takes blocks for data: at least 1, at most `want` (<= 256), contiguous. They are the batch's until it commits; those
 * that no value put refers to by then are free again. claimed: they replace blocks promised by a claim.
 */
int batch_alloc(struct batch *, uint32_t want, bool claimed, struct extent *ret);

/*
 * The content of blocks taken by batch_alloc (all or a part of an extent, each block once). `buf` is from
 * mem_alloc_blocks and is the store's from now on, also on failure. sums: one checksum a block (data_checksum). May
 * wait when much data is on its way.
 */
int batch_data(struct batch *, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums);

/*
 * Reads what a batch decides on must not change before it commits. batch_lock takes the view's write lock, which
 * batch_commit and batch_cancel drop; batch_get then reads without waiting for the device. -EAGAIN from batch_get or
 * batch_commit means that something had to be loaded: the lock is dropped and the batch is empty; start again.
 * Between them, nothing may be called but batch_ functions on this batch (not batch_alloc, not batch_data: do those
 * first). The memory batch_get points to is valid until batch_commit.
 */
int batch_lock(struct batch *);
int batch_get(struct batch *, struct key, const void **ret_val, size_t *ret_len);

/*
 * Applies it. *ret_lsn (may be NULL) is its number for store_sync_lsn, 0 in a private view. -ENOSPC, -EFBIG (more than one
 * batch can hold), -EROFS, -EIO, -EAGAIN (only after batch_lock), -ERESTART (see above): nothing has been changed. The batch is empty afterwards
 * in every case.
 */
int batch_commit(struct batch *, uint64_t *ret_lsn);

/* ---- data ---- */

uint32_t data_checksum(const void *block);

/* Reads blocks an item of the view refers to into buf (aligned) and verifies each against sums (NULL: does not). -EBADMSG,
 * reported. Call it between view_read_begin and _end if the view can change, begun before the item was read. */
int view_read(struct view *, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums);
unsigned view_read_begin(struct view *); /* blocks seen from now on are not reused until _end */
void view_read_end(struct view *, unsigned cookie);

/* ---- transactions: difference and commit ---- */

struct change_item {
	struct key key;
	const void *base, *mine; /* NULL: not there */
	size_t base_len, mine_len;
};
/* What a transaction has changed since it began, in key order; values in counted references of extents are not compared by
 * content. Calls each; its non-zero result ends it. */
int txn_diff(struct view *, int (*each)(void *arg, const struct change_item *), void *arg);

/*
 * Commit merges in units the upper layer knows. The changes of one object (key_ino) form a group, in key order.
 *
 * group: decides one group. Reads live with merge_live, and says what to do with merge_put, merge_del, merge_take. It
 * returns 0 or -ETXNCONFLICT or an error; -EAGAIN from a merge_ function is passed on. It may be called again for a
 * group whose object live has changed meanwhile: what it said before is then forgotten.
 * finish: last checks across groups, with merge_live. Called under live's lock; must be quick. May be NULL.
 */
struct merge;
struct merge_ops {
	int (*group)(void *arg, struct merge *, uint64_t ino, const struct change_item *items, size_t n);
	int (*finish)(void *arg, struct merge *);
};
int merge_live(struct merge *, struct key, const void **ret_val, size_t *ret_len); /* valid until the next call */
/* A value that refers to an extent must be one of the transaction's own (base or mine, or a part of it), not live's. */
int merge_put(struct merge *, struct key, const void *val, size_t len);
int merge_del(struct merge *, struct key);
int merge_take(struct merge *, const struct change_item *); /* mine as it is: put or delete */

/* The default policy: the unit is the key. A key unchanged in live is taken; changed on both sides, a conflict unless both
 * results are equal. `arg` is not used. */
extern const struct merge_ops merge_by_key;

struct txn_commit_options {
	bool no_sync;	     /* do not wait until it is durable */
	/* Serializable: objects (key_ino) the transaction has read, sorted; a change of one in live since the transaction
	 * began is a conflict. */
	const uint64_t *reads;
	size_t n_reads;
};
/*
 * Merges the transaction into the live view as one batch. 0: committed (the view stays readable until closed, and takes no
 * further batches). -ETXNCONFLICT and any other error: nothing has happened, and the transaction goes on.
 */
int txn_commit(struct view *, const struct merge_ops *, void *arg, const struct txn_commit_options *);

/* ---- snapshots ---- */

#define SNAPSHOT_NAME_MAX 255u

struct snapshot_info {
	uint64_t id;
	uint64_t parent; /* the snapshot it was derived from, or 0 */
	uint64_t gen;
	uint64_t created_ns;
	bool dying, hidden; /* being deleted; deleted, but still needed by others */
	char name[SNAPSHOT_NAME_MAX + 1];
};
/* Each answers when it is durable. Names are unique: -EEXIST, -ENOENT. */
int snapshot_create(struct store *, const char *name, uint64_t *ret_id);
int snapshot_delete(struct store *, const char *name); /* -EBUSY while a view of it is open */
int snapshot_open(struct store *, const char *name, struct view **ret);
/* Live becomes the snapshot's state. Ends all transactions (their views return -ESTALE). Live's state is lost unless a
 * snapshot holds it. -ENOSPC: the snapshot's claims do not fit; nothing changed. */
int snapshot_rollback(struct store *, const char *name);
int snapshot_list(struct store *, int (*each)(void *arg, const struct snapshot_info *), void *arg);

/* ---- checking ---- */

struct check_result {
	uint64_t nodes, items, extents, data_blocks, errors;
};
/*
 * Checks the whole structure of an open store, right after a checkpoint it makes: every node of every view, items by
 * their rows, the space map against what is reachable, dead lists, shared counts. `data`: what record rows give as
 * extents is not read here (the upper layer knows the checksums). 0: clean; -EUCLEAN: errors were found and reported.
 */
int store_check(struct store *, struct check_result *ret);

#endif

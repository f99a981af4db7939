/*
 * kv_run.h - a store and its model, driven side by side
 *
 * A run is a list of kv_op. Each is carried out on the store and, if it succeeded, on the model; what the store reads back on
 * the way is compared. The run notes, against the disk's operation numbers, which worlds a crash may lead to (marks), so that
 * crash states can be judged afterwards (kv_crash.h).
 *
 * Results: 0 done; 1 there was nothing to do (no such snapshot ...); -EPROTO the store broke a promise (r->broken says
 * which); any other error is the store's, and the model stands where it stood.
 *
 * Everything by chance comes from op.seed; so a list of kv_op is a reproduction.
 */
#ifndef ARBOR_TESTS_KIT_KV_RUN_H
#define ARBOR_TESTS_KIT_KV_RUN_H

#include "tests/kit/model.h"
#include "tests/kit/simdev.h"
#include "wal/store.h"

/* X(symbol, name). What takes `view` works on live (0) or on the transaction in slot view - 1. */
#define KV_ACTIONS(X)                                                                                             \
	X(KV_PUT, "put")		/* view, ino, off: `len` bytes */                                         \
	X(KV_PUT_MANY, "put-many")	/* view, ino: n values of `len` bytes at off, off + 1, ... */             \
	X(KV_PUT_LINK, "put-link")	/* view, ino, off */                                                      \
	X(KV_DEL, "del")		/* view, ino, off: bytes, extent and link of that name */                 \
	X(KV_DEL_INO, "del-ino")	/* view, ino: all of it, as a range; makes room */                        \
	X(KV_MIX, "mix")		/* view: a batch of n changes by seed over inos ino .. ino + 3, a counter */ \
	X(KV_EXTENT, "extent")		/* view, ino, off: n blocks of data */                                    \
	X(KV_TWO_EXTENTS, "two-extents") /* view, ino, ino2: in one batch, n and len blocks */                    \
	X(KV_CLAIM, "claim")		/* view, ino, off: n blocks without an address */                         \
	X(KV_FILL, "fill")		/* view, ino, off: the claim there gets blocks and data */                \
	X(KV_CLONE, "clone")		/* view, ino, off -> ino2, off: the whole extent, or n blocks of it */    \
	X(KV_MOVE, "move")		/* view, ino, off -> ino2, off */                                         \
	X(KV_SPLIT, "split")		/* view, ino, off: one block in the middle is written anew */             \
	X(KV_SYNC, "sync")                                                                                        \
	X(KV_TICK, "tick")                                                                                        \
	X(KV_CHECKPOINT, "checkpoint")                                                                            \
	X(KV_SNAP_CREATE, "snap-create")	/* snapshot `slot`; the lowest free one if 0 */                   \
	X(KV_SNAP_DELETE, "snap-delete")	/* snapshot `slot`; 0: the first there is, 255: the last */       \
	X(KV_SNAP_ROLLBACK, "snap-rollback")	/* as above */                                                    \
	X(KV_TXN_BEGIN, "txn-begin")	/* slot */                                                                \
	X(KV_TXN_COMMIT, "txn-commit")	/* slot; n: do not wait; len: with a read set */                          \
	X(KV_TXN_ABORT, "txn-abort")	/* slot */                                                                \
	X(KV_FREEZE, "freeze")		/* slot */                                                                \
	X(KV_THAW, "thaw")		/* slot: compared, then closed */                                         \
	X(KV_REOPEN, "reopen")		/* closed and opened */                                                   \
	X(KV_KILL, "kill")		/* the process dies, the disk does not; opened again */                   \
	X(KV_CHECK, "check")		/* store_check, and everything compared with the model */

enum kv_action {
#define KV_ACTION_ENUM(symbol, name) symbol,
	KV_ACTIONS(KV_ACTION_ENUM)
#undef KV_ACTION_ENUM
	KV_ACTIONS_END
};
const char *kv_action_name(enum kv_action);

struct kv_op {
	uint8_t action; /* enum kv_action */
	uint8_t view, slot;
	uint16_t ino, ino2, off;
	uint16_t n, len;
	uint64_t seed;
};
void kv_op_print(FILE *, const struct kv_op *);

#define KV_TXNS 4u
#define KV_FROZEN 4u

/* From disk operation `ops` on, a crash leads to one of world[durable .. worlds - 1]. */
struct kv_mark {
	uint64_t ops;
	size_t durable, worlds;
};

struct kv_txn {
	struct view *view; /* NULL: the slot is free */
	struct kvmap *base, *mine;
	bool snapshot_since; /* see kvmap_merge */
};

struct kv_run {
	/* The caller's. */
	struct simdev *disk;
	struct store_options opt; /* records and seed are filled in */
	uint64_t seed;
	bool marking;

	struct store *store; /* NULL: not open */
	struct model model;
	struct kv_txn txn[KV_TXNS];
	struct {
		struct view *view;
		struct kvmap *state;
	} frozen[KV_FROZEN];
	struct kv_mark *marks;
	size_t n_marks, cap_marks;
	uint64_t next_tag;
	unsigned opens;
	uint64_t killed; /* transactions the store ended by itself, to get room */
	/* An operation on snapshots gave an error, though not one that ends everything: it may have gone half of its way, and
	 * kv_run_compare takes either world. */
	bool in_doubt;
	struct world doubt;
	char broken[512];
};

/* Sets up; the store is not opened yet. start: what the disk holds (NULL: an empty store). */
void kv_run_init(struct kv_run *, struct simdev *disk, const struct store_options *, const struct world *start,
		 uint64_t seed);
int kv_run_open(struct kv_run *);
int kv_run_op(struct kv_run *, const struct kv_op *);
/* Compares live, transactions, frozen views and snapshots with the model. */
int kv_run_compare(struct kv_run *);
/* Closes all views and the store as a kill would. */
void kv_run_kill(struct kv_run *);
/* kv_run_kill, and frees the model and marks. The disk stays. */
void kv_run_release(struct kv_run *);

/* Which worlds a crash right before disk operation `ops` may lead to. */
void kv_run_allowed(const struct kv_run *, uint64_t ops, size_t *ret_lo, size_t *ret_hi);

/* Reads everything a store holds, data included, and verifies the data. 0, or an error, with why in `why`. */
int kv_world_read(struct store *, struct world *ret, char *why, size_t cap);
/* One view, as a state. */
int kv_view_read(struct view *, struct kvmap **ret, char *why, size_t cap);

/*
 * Messages of the engine. Quiet keeps the last few lines, kv_log_print prints them as comments: most crash states make
 * the engine say something, which is of interest only where a test fails.
 */
void kv_log_quiet(void);
void kv_log_clear(void);
void kv_log_print(FILE *);

#endif

/*
 * store_int.h - the inside of a store, shared by the files of wal/ that implement the storage door
 *
 *	store.c		making, opening, closing, status, background threads
 *	view.c		views: reading, scanning, freezing, transactions' beginning and end
 *	batch*.c	groups of changes: collecting, sorting, planning, applying, replaying
 *	refs.c		references to extents: net effect of a batch, shared counts
 *	taken.c		blocks taken back from live's dead list
 *	supply.c	addresses for nodes and data; the reserves
 *	reclaim.c	from "not reachable any more" to "may be handed out again"
 *	checkpoint.c	making a frozen root durable
 *	recover.c	replay
 *	space_rebuild.c	a space map that cannot be read, made anew at open
 *	scrub.c		what stands on the device, verified while in use
 *	merge.c		a transaction's commit
 *	snapshot*.c	snapshots and their dead lists
 *	check.c		the structural check
 *
 * Lock order, outermost first:
 *	snapshot_lock -> checkpoint.lock -> a transaction's view.lock -> live.lock -> views_lock -> supply.lock -> log -> data -> cache, space
 * An epoch may be entered anywhere; whoever waits for an epoch to pass is in none and holds no lock.
 */
#ifndef ARBOR_WAL_STORE_INT_H
#define ARBOR_WAL_STORE_INT_H

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <pthread.h>
#include <stdatomic.h>

#include "btree/cache.h"
#include "btree/space.h"
#include "btree/super.h"
#include "btree/tree.h"
#include "wal/data.h"
#include "wal/log.h"
#include "wal/readahead.h"
#include "wal/store.h"

/* ---- reclaim.c: what happened to blocks since the last checkpoint ---- */

enum event_kind {
	EVENT_REACHED,	/* became reachable from live */
	EVENT_RELEASED, /* stopped being so, and no snapshot holds it */
	EVENT_PRIVATE,	/* never was, for a checkpoint: a transaction's, a record's body, what an abort gives back */
	EVENT_DEAD,	/* stopped being reachable from live, but a snapshot holds it: on its way to live's dead list */
};

struct event {
	TAILQ_ENTRY(event) list; /* of the interval or stage it is in; store.dead_list_pending's for EVENT_DEAD */
	RB_ENTRY(event) set;	 /* store.pinned, or store.dead */
	uint64_t addr;
	uint64_t copy; /* nodes: the second copy, released with it; or 0 */
	uint32_t blocks;
	uint8_t kind;
	bool pinned; /* in store.pinned: an open view can reach it */
	bool ripe;   /* its two checkpoints are durable (only pinned ones stay around then) */
	bool taken;  /* live refers to it again: nothing is to be freed */
	uint64_t birth;
	uint64_t gen;	   /* live's generation when it was released */
	struct node *node; /* a node never written that only an open view can reach, or NULL */
};
TAILQ_HEAD(event_list, event);
RB_HEAD(event_set, event);
RB_PROTOTYPE(event_set, event, set, event_cmp)

/* Keeps what was reachable in live at generation `gen` and before from reuse. In store.pins, guarded by live.lock. */
struct pin {
	LIST_ENTRY(pin) list;
	uint64_t gen;
};
LIST_HEAD(pin_list, pin);

/* ---- views ---- */

enum view_kind { VIEW_LIVE, VIEW_TXN, VIEW_FROZEN };
enum view_state { VIEW_OPEN, VIEW_COMMITTED, VIEW_STALE };

struct view {
	struct store *store;
	enum view_kind kind;
	uint64_t id;
	pthread_rwlock_t lock; /* not used for frozen ones */
	struct tree tree;      /* guarded by lock; frozen: only root is used */
	atomic_int state;      /* enum view_state; changes under lock */
	bool has_shared;       /* there may be shared counts in it; guarded by lock */

	struct pin pin;	     /* transactions, frozen ones */
	struct pin committed; /* a transaction's, once committed: what it wrote is live's, and it still reads it */
	bool pinned;	     /* pin is in store.pins; guarded by live.lock */
	bool committed_pinned; /* likewise */
	struct root base;    /* transactions: what it began with */
	uint64_t base_gen;   /* what carries a later generation is its own */
	bool base_shared;    /* has_shared of base */
	uint64_t ckpt_count; /* transactions: checkpoints when tree.gen was drawn */
	size_t own_nodes;	/* transactions: nodes of its own; guarded by lock */
	uint64_t changed_bytes; /* transactions: of its batches; guarded by lock */
	int64_t claims;	     /* transactions: claimed in it beyond its base; guarded by lock */
	bool own_extents;    /* transactions: it may refer to blocks it allocated; guarded by lock */
	bool own_written;    /* transactions: nodes of its own have been written; guarded by lock */
	atomic_uint refs;    /* the owner's, and those who write its nodes home */
	uint64_t snapshot;   /* frozen view of that snapshot, or 0 */
	LIST_ENTRY(view) list; /* store.views, guarded by views_lock */
};

/* ---- supply.c ---- */

/* In order of what they may take: CLAIMED is a batch that writes what was promised. */
enum supply_class { SUPPLY_NORMAL, SUPPLY_CLAIMED, SUPPLY_RELEASING, SUPPLY_SYSTEM };

/* Addresses of nodes: taken from the map (`used`), not reachable: a crash gives them back. */
struct node_addr {
	uint64_t addr, copy;
};
struct node_stack {
	struct node_addr *at;
	size_t n, cap;
};

struct supply {
	pthread_mutex_t lock;	     /* may be held while the map reads from the device */
	struct node_stack pool;	     /* ready for anybody */
	struct node_stack releasing; /* reserve (b): operations that make room */
	struct node_stack system;    /* reserve (c): checkpoint, abort, deletion of snapshots */
	size_t releasing_full, system_full; /* what they should hold */
	pthread_mutex_t returned_lock;	    /* never held for long: taken under a tree's lock */
	struct node_stack returned;	    /* on their way back into the pool */
};

/* ---- a group of changes being prepared: batch.c ---- */

/* One reference that a batch adds (+1) or gives back (-1). */
struct ref_delta {
	uint64_t addr;
	uint32_t blocks;
	int32_t delta;
	uint64_t birth;
};

/* A run of blocks with the same fate. */
struct ref_range {
	uint64_t addr;
	uint32_t blocks;
	uint64_t birth;
};
struct ref_ranges {
	struct ref_range *at;
	size_t n, cap;
};

struct refs {
	struct ref_delta *deltas;
	size_t n, cap;
	int64_t claims; /* blocks newly claimed, less those no longer claimed */
	/* Results of refs_settle: */
	struct ref_ranges fresh;    /* of the batch's fresh blocks, those it refers to */
	struct ref_ranges unused;   /* ... and those it does not */
	struct ref_ranges released; /* referred to by nothing in the view any more */
	struct ref_ranges taken;    /* not held by live: taken back from its dead list, or from what open views pin */
	size_t n_taken_events;	    /* at most so many events are cut for that, times 3 */
	struct change *changes;	    /* to shared counts */
	size_t n_changes, cap_changes;
	struct disk_shared *values; /* of those puts */
	size_t cap_values;
	/* Working memory */
	void *edges, *records;
	size_t cap_edges, cap_records;
};

/* A value or range as collected; the value's bytes stand in the batch's buffer. */
struct collected {
	struct key key, end;
	size_t val; /* offset in buf */
	uint16_t len;
	uint8_t op;
	uint32_t order;
};

struct batch {
	struct view *view;
	struct store *store;
	bool locked;		/* batch_lock: view's lock and epoch held */
	unsigned epoch_slot;
	enum supply_class class;
	bool merge;		/* a transaction's commit: may refer to what live does not hold */
	bool replay;		/* recovery: nothing is logged; births are gen */
	uint64_t replay_gen;
	bool keep;		/* what was collected survives -EAGAIN */
	uint64_t lsn;		/* of what was applied */
	size_t plan_dirty;	/* dirty nodes of the view after it */
	bool system;		/* changes the system tree instead (of live) */
	uint64_t base_gen;	/* merge: births after it are the transaction's own */
	int64_t merge_claims;	/* merge: the transaction's claims */

	uint8_t *buf;		/* the record being built: header, then changes as they came */
	size_t len, cap;
	size_t changes_end;	/* where the changes end, once they are sorted: what follows is the record's tail */
	struct collected *coll;
	size_t n_coll, cap_coll;
	struct change *changes;	/* sorted, one per key */
	size_t n_changes, cap_changes;
	struct change *merged;	/* with those of refs */
	size_t cap_merged;

	struct ref_ranges allocated; /* by batch_alloc; in replay the record's fresh ranges */
	struct ref_ranges replay_taken;
	unsigned claim_tries;	     /* how often room was made for promises */
	struct data_run **runs;
	size_t n_runs, cap_runs;
	size_t data_blocks;	     /* in runs */
	struct { uint32_t counter; uint64_t value; } *raises;
	size_t n_raises, cap_raises;

	struct ref_ranges bodies;    /* blocks of an outside body */
	uint64_t body_sum;
	struct log_room room;	     /* admitted */
	size_t room_bytes;	     /* for a record of that length; 0: nothing is admitted */

	struct refs refs;
	struct miss miss;
	struct tree_plan plan;
	bool scarce;		/* replay: there are no more nodes to be had than it holds */
	bool slices;		/* replay: to be applied change by change */
	int slices_err;		/* and this became of it */
	size_t nodes_wanted;	/* supply that was enough last time */
	size_t cap_supply;	/* of plan.frames, addrs, copies */
	struct batch *nested;	 /* system changes that go with it (taken ranges), or NULL */
	unsigned n_draining;	 /* system: dead events it moves into the tree */
	struct event_list spare; /* events to be used under the lock */
	size_t n_spare;
	size_t n_extra; /* events that whoever prepared it takes itself, after batch_apply */
};

/* Objects that live's batches have changed since a commit looked at it: merge.c. Guarded by live.lock. */
struct watch {
	LIST_ENTRY(watch) list;
	uint64_t *inos;
	size_t n, cap;
	bool overflow; /* not all are there */
};
void watch_note(struct store *, const struct change *changes, size_t n);

/* ---- checkpoint.c ---- */

struct checkpoint {
	pthread_mutex_t lock;	    /* one at a time */
	struct event_list staged;   /* of the last checkpoint: ripe after the next one */
	struct log_pos log_pos;	    /* of the last one: the next one trims to it */
	atomic_uint_fast64_t last_us;
	atomic_uint_fast64_t freeze_max_us;
};

struct store {
	struct bdev *bdev;
	struct store_options opt;
	struct record_table files_table;
	struct super super; /* as last written; guarded by checkpoint.lock */
	unsigned slot;	    /* of it */

	struct epoch *epoch;   /* of the cache: nodes, and blocks one operation looks at */
	struct epoch *reading; /* view_read_begin: blocks only, so that whoever is in it may wait for a frame */
	struct cache *cache;
	struct space *space;
	struct data *data;
	struct readahead *readahead;
	struct log *log;

	struct view live;
	atomic_uint_fast64_t next_gen;

	/* Guarded by live.lock: */
	LIST_HEAD(, watch) watches;	/* commits that want to know what live changes meanwhile */
	struct tree system;
	struct event_list events;	/* of this interval, in order */
	struct event_set pinned;	/* released, but open views can reach it: by address, disjoint */
	struct event_set dead;		/* EVENT_DEAD not in the system tree yet: by address, disjoint */
	size_t n_dead;
	struct node_list old_nodes;	/* never written, only open views reach them */
	size_t n_old_nodes;
	struct pin_list pins;
	uint64_t parent, parent_gen;	/* snapshot live derives from, its generation; 0 */
	bool parent_dying;		/* it is being deleted: parent_gen is that of the one before it */
	uint64_t rollback_gen;		/* transactions begun up to here have lost their live; 0 */
	uint64_t dead_list, next_id;
	uint64_t counter[SUPER_COUNTERS];
	uint64_t batch_max;
	uint64_t frozen_gen;		/* what the last checkpoint froze: data born up to here must reach its home */

	atomic_int_fast64_t claims;	/* of live; changes under live.lock */
	atomic_int_fast64_t txn_claims; /* of open transactions, beyond their bases: never part of a checkpoint */

	pthread_mutex_t views_lock;
	LIST_HEAD(, view) views;
	uint64_t next_view;
	atomic_uint n_txns; /* open */

	struct supply supply;
	struct checkpoint checkpoint;

	pthread_mutex_t limbo_lock;
	/* Guarded by limbo_lock: */
	struct event_list limbo_old;	 /* ripe, waits for the operations begun before limbo_stamp */
	struct event_list limbo_new;	 /* ripe since */
	uint64_t limbo_stamp, limbo_reading; /* of either epoch */
	struct event_list private;	 /* EVENT_PRIVATE since the last checkpoint */
	atomic_uint_fast64_t reclaiming; /* blocks released and not handed back yet */
	atomic_uint_fast64_t reclaimed;	 /* blocks handed back since open */

	/* Background threads and who waits for them. */
	pthread_mutex_t bg_lock;
	pthread_cond_t bg_wake, bg_tick_wake, bg_done;
	pthread_t bg_checkpoint, bg_tick;
	bool bg_running, bg_stop, tick_wanted;
	uint64_t ckpt_wanted, ckpt_begun, ckpt_done; /* guarded by bg_lock */
	int ckpt_err;				     /* of the last one */
	atomic_uint_fast64_t checkpoints;

	atomic_uint_fast64_t blocks; /* of the filesystem, by the last superblock */
	atomic_int error;
	char error_text[128];
	uint64_t new_blocks;	   /* the filesystem has grown to this; 0: not since open; guarded by checkpoint.lock */
	atomic_uint scrub_views;   /* open: they pin what others release */
	atomic_bool scrub_wanted;  /* ... and somebody needs it */
	bool rebuild_space;	   /* open: pages of the space map that cannot be read are made anew first */
	bool replaying;		   /* no views are open, but what is released may be taken back: counts as pinned */
	struct log_pos replay_pos; /* recovery: where a checkpoint made now says that the log goes on */
	pthread_mutex_t snapshot_lock; /* one snapshot operation at a time; before checkpoint.lock */
	uint64_t recovered_records, recovered_us;
	bool log_damaged; /* by the last open; it was told to ignore it */
	uint64_t seed_state;
};

/* Blocks promised to live and to open transactions. */
static inline uint64_t store_claims(struct store *s)
{
	int64_t n = atomic_load(&s->claims) + atomic_load(&s->txn_claims);

	return n > 0 ? (uint64_t)n : 0;
}

/* store.c */
int store_cache_open(struct store *, size_t bytes); /* instead of the one there is, in which no node is dirty */
int store_failed(struct store *); /* 0, or -EROFS once it has failed */
void store_fail(struct store *, int err, const char *what);
uint64_t store_next_gen(struct store *);
uint64_t store_random(struct store *);
uint64_t clock_ns(void);
uint64_t store_log_default(uint64_t blocks); /* blocks of the log of a device of this size */
void checkpoint_request(struct store *);   /* soon, in the background; inline later when manual */
void tick_request(struct store *);	   /* the log's timer strikes now; not when manual */
int checkpoint_wait(struct store *);	   /* one begun after the call; runs it where there is no thread. No locks held. */

/* view.c */
/* A view's lock is held for a microsecond or two, and sleeping on it costs many: these spin a little first. */
void view_lock_shared(struct view *);
void view_lock_exclusive(struct view *);
int view_init(struct view *, struct store *, enum view_kind);
void view_destroy(struct view *);
int view_relieve(struct view *, size_t keep); /* writes a transaction's nodes home beyond `keep` dirty ones */
int store_relieve(struct store *); /* every frame is dirty or pinned: writes something, so that some are not */
/* One missing node: loads it, or makes room. After it the epoch has been left. 0: start again. */
void view_put(struct view *); /* drops a reference */
int view_fault(struct store *, struct miss *, unsigned epoch_slot);
static inline void miss_init(struct miss *m)
{
	m->n_ahead = 0;
	m->pinned = m->seen = NULL;
	m->n_pinned = m->cap_pinned = m->n_seen = m->cap_seen = 0;
}
bool txn_kill_oldest(struct store *);
void txn_end(struct view *); /* aborts it if it is open; the view is stale then */

/* Shared by the files of a batch. */
struct tree *batch_tree(struct batch *);
bool batch_is_live(const struct batch *);   /* of the live view (or the system tree, which goes with it) */
bool batch_is_logged(const struct batch *);
void batch_reset(struct batch *);
int batch_sort(struct batch *);		    /* once a batch; -ENOMEM */
size_t batch_record_max(const struct batch *); /* the record's length at the most */
int batch_admit(struct batch *, size_t bytes); /* room in the log; keeps what it has if that is enough */
int batch_supply(struct batch *, size_t want); /* nodes and addresses in hand; no locks held */
void batch_apply_tree(struct batch *);	       /* what is planned, and events for what it releases */
int batch_apply_slices(struct batch *);	       /* replay only: may fail in the middle */
void batch_drop_room(struct batch *);
int batch_lock_and_plan(struct batch *);    /* as often as it takes; 0: lock held, apply cannot fail */

/* batch.c */
int batch_open_system(struct store *, struct batch **ret); /* of the system tree; locks live */
/* batch_commit in steps, after batch_lock. prepare: 0, the lock is held and apply cannot fail. Else the lock is
 * dropped, the batch empty; -EAGAIN: begin again. */
int batch_prepare(struct batch *);
void batch_apply(struct batch *);  /* makes the changes; the lock stays held */
void batch_finish(struct batch *); /* drops the lock, empties the batch */
struct miss *batch_miss(struct batch *); /* for own reads of the tree under batch_lock */
int batch_fault(struct batch *);   /* such a read said -EAGAIN: drops the lock, loads; -EAGAIN or the error */
void batch_hold(struct batch *);   /* leaves the lock to the caller: it stays held past batch_finish */
int batch_make_ready(struct batch *); /* sorts, admits to the log: before batch_lock, for a batch that is kept */
void checkpoint_if_due(struct store *);
int batch_write_body(struct batch *); /* before batch_lock, for a batch that may be too long for the log */
int batch_open_replay(struct store *, struct batch **ret);
int batch_replay(struct batch *, const void *record, size_t len); /* recovery: applies one record */

/* refs.c */
void refs_reset(struct refs *);
void refs_release(struct refs *);
int refs_add(struct refs *, uint64_t addr, uint32_t blocks, int delta, uint64_t birth);
/* Net effect, under the view's lock. -EAGAIN with *miss. */
int refs_settle(struct batch *, struct miss *);
/* Whether block addr stands on a dead list in the system tree; *blocks (at most as given) have the same answer. */
int dead_lookup(struct store *, uint64_t list, uint64_t addr, uint64_t *blocks, bool *ret_in, struct miss *);
int ranges_add(struct ref_ranges *, uint64_t addr, uint64_t blocks, uint64_t birth);
int view_find_shared(struct view *); /* sets has_shared by looking */
extern const struct record_ops shared_row;

/* taken.c */
int taken_collect(struct batch *); /* fills b->nested with what the taken ranges change in live's dead list */

/* supply.c */
int supply_open(struct store *);
void supply_close(struct store *);
int supply_nodes(struct store *, enum supply_class, struct node_addr *ret, size_t n);
int supply_return(struct store *, const struct node_addr *, size_t n); /* never written ones; -ENOMEM: not taken */
int supply_data(struct store *, uint32_t want, bool claimed, enum supply_class, uint64_t *ret_addr, uint32_t *ret_blocks);
uint64_t supply_for_claims(uint64_t claims); /* blocks to keep for promises of so many */
void supply_status(struct store *, uint64_t *ret_pooled, uint64_t *ret_reserved); /* blocks */
void supply_refill(struct store *);	/* fills the reserves again; after space has come back */
bool supply_low(struct store *);
bool supply_short(struct store *);	/* the reserves cannot be filled */
int make_room(struct store *, enum supply_class, unsigned tries); /* 0: try again */

/* reclaim.c */
int events_reserve(struct batch *, size_t n);	 /* spare events, before the lock is taken */
struct event *event_take(struct batch *);	 /* one of them */
void events_free(struct event_list *);
/* Live, under its lock: blocks became reachable; an extent is not any more; a node is not any more. */
void reclaim_reached(struct batch *, uint64_t addr, uint32_t blocks, uint64_t birth);
void reclaim_extent(struct batch *, uint64_t addr, uint32_t blocks, uint64_t birth);
void reclaim_node(struct batch *, const struct released *);
void reclaim_drop_data(struct store *, uint64_t addr, uint64_t blocks); /* what was not written need not be, perhaps */
/* Blocks that no checkpoint ever saw: a transaction's own, an outside body, what an abort gives back. Any thread. */
void reclaim_private(struct store *, struct event *e);
void reclaim_private_node(struct batch *, const struct released *); /* a transaction's, under its lock */
/* Whether block addr is in the set; *blocks (at most as given) have the same answer. */
bool reclaim_find(struct event_set *, uint64_t addr, uint64_t *blocks);
/* Live refers to pinned blocks again, under its lock: nothing is to be freed, and they are reached again. */
void reclaim_repin(struct batch *, uint64_t addr, uint32_t blocks, uint64_t birth);
/* ... to blocks whose EVENT_DEAD is pending: takes what is there out; the rest stands in the system tree. */
void reclaim_undead(struct batch *, uint64_t addr, uint32_t blocks);
/* Blocks that only a deleted snapshot had. */
void reclaim_from_snapshot(struct batch *, uint64_t addr, uint32_t blocks, uint64_t birth);
bool reclaim_pinned(struct store *, uint64_t birth, uint64_t gen); /* an open view can reach what was released in gen */
void reclaim_unpin(struct store *);	  /* pins have gone: looks at store.pinned again; live.lock held */
void reclaim_ripen(struct store *, struct event_list *staged); /* two checkpoints are durable; live.lock held */
/* Hands back what no operation can see any more; the number of blocks, or < 0. No locks, no epoch. */
int64_t reclaim_limbo(struct store *, bool wait);
int reclaim_drain_dead(struct store *, size_t leave); /* moves dead events into the system tree */
int reclaim_drain_some(struct batch *system);	      /* a part of it, into a locked system batch */
void reclaim_drained(struct batch *system);	      /* after batch_apply of it */

/* checkpoint.c */
#define CHECKPOINT_BOTH 1u  /* write both slots */
#define CHECKPOINT_CLEAN 2u /* nothing follows it */
#define CHECKPOINT_EPOCH 4u /* new log epoch (recovery) */
#define CHECKPOINT_HOLD 8u  /* live's lock is kept until the superblock is durable (rollback) */

/* What a snapshot operation does in the moment a checkpoint freezes live. Both under live's lock. */
struct freeze_ops {
	int (*prepare)(struct store *, struct batch *system, void *arg); /* may put system items; may be called again */
	void (*frozen)(struct store *, void *arg);			 /* the items are in the tree; before the freeze */
};
int checkpoint_run(struct store *, unsigned flags, const struct freeze_ops *, void *arg);
/* Read-only, after replay: dead lists and space map say what a checkpoint would write, so that they can be checked. */
int checkpoint_in_memory(struct store *s);
bool checkpoint_mine(void); /* the calling thread is inside a checkpoint */

/* scrub.c */
bool scrub_give_way(struct store *); /* what a scrub pins is needed: true once it has let go. No locks held. */

/* space_rebuild.c */
int space_rebuild(struct store *); /* at open, before replay: pages of the space map that cannot be read, from the trees */

/* recover.c */
int recover(struct store *); /* marks, replays; s->super is the newest, its epoch written. Ends with a checkpoint to both */

/* snapshot.c */
extern const struct record_table system_records;
int snapshot_load(struct store *);   /* at open: live's line */
int snapshot_resume(struct store *); /* at open: deletions that were under way */
/* Items of the system tree, read under live's shared lock, one leaf at a time. */
int system_each(struct store *, struct key from, struct key to,
		int (*each)(void *arg, struct key, const void *val, size_t len), void *arg);

#endif

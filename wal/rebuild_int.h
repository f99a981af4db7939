/*
 * rebuild_int.h - what the files of store_rebuild share
 *
 *	rebuild.c	   the three steps, the superblock, findings
 *	rebuild_map.c	   maps of blocks, places for new nodes, the space map
 *	rebuild_log.c	   the log's records, laid over live's items
 *	rebuild_view.c	   the items of a view as they will be; shared counts; dead lists
 *	rebuild_survey.c   reading everything as far as it goes, and holding it against each other
 *	rebuild_line.c	   which snapshots can be kept, and what derives from what
 *	rebuild_build.c	   new trees, riding blocks
 */
#ifndef ARBOR_WAL_REBUILD_INT_H
#define ARBOR_WAL_REBUILD_INT_H

#include <inttypes.h>
#include <stdlib.h>

#include "btree/err.h"
#include "wal/rebuild.h"
#include "wal/snapshot_int.h"

/* One bit a block, by whole groups: a run that leaves no group lies in one group's words. */
struct rmap {
	uint64_t *words;
};

/* Blocks that a view refers to more than once. */
struct rshared {
	uint64_t addr, birth;
	uint32_t blocks, refs;
};

struct rshareds {
	struct rshared *at;
	size_t n, cap;
};

/* A snapshot, or live: sn.id is 0 then, and sn.gen what the checkpoint froze. */
struct rview {
	struct snapshot sn;
	struct rshareds shared; /* its records; those it should have, once the view is known to be rebuilt */
	bool damaged;		/* something in it cannot be read or cannot be */
	bool dropped;		/* snapshots: not kept */
	bool recount;		/* its shared records are wrong: it will be rebuilt */
	bool rebuild;		/* gets a new tree: from rebuild_line on */
	uint64_t parent;	/* what it will derive from: rebuild_line.c */
};

/* The log's last word about a key. */
struct rput {
	RB_ENTRY(rput) link;
	struct key key;
	uint16_t len;
	uint8_t val[];
};
RB_HEAD(rput_tree, rput);

/* Keys of which the log says that what was there before its puts is gone: from <= key < to. Disjoint. */
struct rmask {
	RB_ENTRY(rmask) link;
	struct key from, to;
};
RB_HEAD(rmask_tree, rmask);

struct riding {
	uint64_t addr;
	void *block;
};

struct rebuild_run {
	uint64_t addr, birth;
	uint32_t blocks;
};

struct rebuild_runs {
	struct rebuild_run *at;
	size_t n, cap;
};

/* An entry of a dead list as it was found. */
struct rdead {
	uint64_t list, addr, birth;
	uint32_t blocks;
};

struct rebuild {
	struct bdev *bdev;
	const struct rebuild_options *opt;
	struct rebuild_result *res;
	struct record_table files_table;

	struct super super; /* what is gone on from; then what is written */
	bool super_ok;	    /* a slot verifies */
	bool other_ok;	    /* both do */
	unsigned slot;	    /* it */
	uint64_t next_gen;

	struct epoch *epoch;
	struct cache *cache; /* its own: takes items as they are, mends nothing */
	struct space *space;
	uint64_t groups;

	struct rview *views; /* snapshots by id, then live */
	size_t n_views, cap_views;
	struct disk_live live_item;
	bool have_live_item;
	struct rdead *dead;
	size_t n_dead, cap_dead;
	bool dying;	     /* one was found whose deletion is under way */
	bool system_damaged; /* the system tree has to be made anew */

	struct rput_tree puts;
	struct rmask_tree masks;
	struct riding *riding;
	size_t n_riding, cap_riding;
	bool log_damaged;
	uint64_t log_end; /* lsn */
	uint64_t counter[SUPER_COUNTERS];

	struct key *refused; /* items of live that are not taken, ascending */
	size_t n_refused, cap_refused;
	uint64_t *bad; /* addresses of live's nodes that cannot be read, ascending */
	size_t n_bad, cap_bad;
	bool node_twice; /* a node is referred to from two places of live, or from where it cannot be */
	struct rebuild_lost *lost;
	size_t n_lost, cap_lost;

	bool live_new;	   /* live's items are read with the log and what was put laid over them */
	bool asking;	   /* inside opt->lost */
	bool from_salvage; /* live's items come from there: until it is built */

	struct rmap used;	/* not for new nodes */
	struct rmap all;	/* what readable views reach; then: what the new ones do */
	struct rmap nodes;	/* of all: nodes */
	struct rmap vn, vd, vt; /* of the view at hand: nodes; data; data referred to more than once */
	struct rmap pn, pd;	/* of its parent */
	struct rmap seen;	/* scratch */
	struct rmap other;	/* what is not the view's: of the system tree (survey); what other views own (line) */
	struct space_cursor_at {
		uint64_t g;
		uint32_t bit;
	} cursor[2]; /* where nodes, and second copies, are looked for */
};

static inline struct rview *rebuild_live(const struct rebuild *r)
{
	return &r->views[r->n_views - 1];
}

/* Of a snapshot or a dead list: those of lists stand in keys as inode numbers. One counter gives both, so that none comes near
 * the end. */
static inline bool rview_id_right(uint64_t id)
{
	return id && id < KEY_INO_MAX / 2;
}

static inline const char *rview_name(const struct rview *v)
{
	return v->sn.id ? v->sn.name : "live";
}

/* ---- rebuild.c ---- */

int rebuild_found(struct rebuild *, enum rebuild_finding, const struct rview *, const char *fmt, ...)
	__attribute__((format(printf, 4, 5))); /* 0 */
int rebuild_lose(struct rebuild *, struct key from, struct key to, int err);

/* ---- rebuild_map.c ---- */

int rmaps_open(struct rebuild *);
void rmaps_close(struct rebuild *);
void rmap_clear(const struct rebuild *, struct rmap *);
/* Of runs that space_valid has agreed to. */
void rmap_set(struct rmap *, uint64_t addr, uint32_t blocks);
void rmap_unset(struct rmap *, uint64_t addr, uint32_t blocks);
bool rmap_full(const struct rmap *, uint64_t addr, uint32_t blocks);  /* all are set */
bool rmap_empty(const struct rmap *, uint64_t addr, uint32_t blocks); /* none is */
/* Cuts a run by the bits of `m`: the next piece of [*addr, end) whose bits are `set`; its length, 0: there is none. */
uint32_t rmap_piece(const struct rmap *, uint64_t *addr, uint64_t end, bool set);
void rmap_add(const struct rebuild *, struct rmap *to, const struct rmap *from);
bool rmap_meet(const struct rebuild *, const struct rmap *, const struct rmap *, uint64_t *ret_block);
uint64_t rmap_words(const struct rebuild *);

/* What the old map calls used goes into r->used. exact: it must say just what r->all does; else at least that. */
int rebuild_look_at_space(struct rebuild *, bool exact);
int rebuild_alloc(void *rebuild, bool copy, uint32_t blocks, uint64_t *ret_addr);
/* Makes the space map say what r->all says. */
int rebuild_write_space(struct rebuild *, uint64_t gen);

/* ---- rebuild_log.c ---- */

/* Fills the layer, and cuts what it knows out of r->lost, which is in order afterwards. */
int rebuild_read_log(struct rebuild *);
void rebuild_sort_lost(struct rebuild *);
void rebuild_forget_log(struct rebuild *);
int rebuild_set(struct rebuild *, struct key, const void *val, size_t len); /* a put, over what was there */
const struct rput *rebuild_put_from(const struct rebuild *, struct key);    /* the first one >= key, or NULL */
bool rebuild_masked(const struct rebuild *, struct key);

RB_PROTOTYPE(rput_tree, rput, link, rput_cmp)
RB_PROTOTYPE(rmask_tree, rmask, link, rmask_cmp)

/* ---- rebuild_view.c ---- */

/* What is called for a view's content. Each may be NULL; a result < 0 ends it. */
struct rlook {
	int (*node)(void *arg, struct ref);
	int (*item)(void *arg, struct key, const void *val, size_t len);
	int (*extent)(void *arg, const struct extent *); /* of an item, after it; not claims */
	int (*shared)(void *arg, struct key, const void *val, size_t len);
	/* NULL: what is known to be unreadable is passed over, anything else is an error. */
	int (*lost)(void *arg, struct ref, unsigned level, struct key from, struct key to, int err);
};
/* Items ascending, shared counts last. A view that is still to be rebuilt has items alone, no nodes and no counts. */
int rview_look(struct rebuild *, const struct rview *, const struct rlook *, void *arg);

/* Sets r->vn, vd and vt. */
int rview_map(struct rebuild *, const struct rview *);
/* Sets r->pn and pd, of a view's parent (NULL: none), and leaves the view's maps alone. */
int rview_map_parent(struct rebuild *, const struct rview *parent);
/* Whether a run of a view was born after its parent's generation exactly if the parent, in r->pn and pd, has not got it. */
bool rview_derives(const struct rebuild *, const struct rview *parent, uint64_t addr, uint32_t blocks, uint64_t birth,
		   bool node);
/* The shared counts that the view should have, of whose blocks r->vt says that they are referred to more than once. Their birth
 * is the greatest of the references'. */
int rview_count(struct rebuild *, const struct rview *, struct rshareds *ret);
bool rshareds_agree(const struct rshareds *, const struct rshareds *); /* on blocks and references */
/* What the parent reaches and the view in r->vn and vd does not, each block once (r->seen has them), in no order. */
int rview_dead(struct rebuild *, const struct rview *parent, int (*each)(void *arg, const struct rebuild_run *),
	       void *arg);

/* ---- rebuild_survey.c, rebuild_line.c, rebuild_build.c ---- */

int rebuild_survey(struct rebuild *);
int rebuild_line(struct rebuild *);
struct rview *rebuild_view(const struct rebuild *, uint64_t id); /* a snapshot that was found, or NULL */
int rebuild_build(struct rebuild *);

#endif

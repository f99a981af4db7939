/*
 * snapshot_int.h - what snapshot.c and snapshot_delete.c share
 */
#ifndef ARBOR_WAL_SNAPSHOT_INT_H
#define ARBOR_WAL_SNAPSHOT_INT_H

#include "wal/store_int.h"
#include "wal/system_format.h"

/* A snapshot's item, decoded. */
struct snapshot {
	uint64_t id, gen, parent, dead_list, created, claims;
	struct root root;
	uint32_t flags;
	char name[SNAPSHOT_NAME_MAX + 1];
};

/* All of them, in order of their ids. */
struct snapshots {
	struct snapshot *at;
	size_t n, cap;
};

struct key snapshot_key(uint64_t id);
void snapshot_decode(struct snapshot *, uint64_t id, const struct disk_snapshot *);
size_t snapshot_encode(const struct snapshot *, void *buf); /* SNAPSHOT_ITEM_MAX bytes of room; the item's length */
#define SNAPSHOT_ITEM_MAX (sizeof(struct disk_snapshot) + SNAPSHOT_NAME_MAX)
struct key dead_key(uint64_t list, uint64_t addr);
int snapshot_put(struct batch *system, const struct snapshot *);
int snapshot_put_live(struct batch *system, uint64_t parent, uint64_t dead_list, uint64_t next_id);
int snapshots_read(struct store *, struct snapshots *ret); /* the caller frees ret->at */
struct snapshot *snapshot_by_id(const struct snapshots *, uint64_t id);
uint64_t snapshot_gen(const struct snapshots *, uint64_t id); /* 0 where there is none */
/* The generation up to which a snapshot holds what derives from `id`: its own, or, where it is dying, that of the next before it
 * that is not. */
uint64_t snapshot_held_gen(const struct snapshots *, uint64_t id);
/* A frozen view of it. snapshot_lock is held. */
int snapshot_view(struct store *, const struct snapshot *, struct view **ret);

/* How many views derive from it. *ret: one of those that are snapshots, or NULL. */
unsigned snapshot_children(struct store *, const struct snapshots *, uint64_t id, struct snapshot **ret);

/* Deletes it, or hides it while several views derive from it. snapshot_lock is held. */
int snapshot_take_out(struct store *, uint64_t id);

#endif

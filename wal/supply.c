/*
 * supply.c - addresses for nodes and data, and the reserves that keep a full disk from wedging (contract H)
 *
 * Addresses of nodes are taken from the map a handful at a time, so that nodes born together lie together, and wait in
 * a pool: planning a batch then takes them without reading the map. The reserves are such addresses too, taken and kept,
 * not a number subtracted from a count: so they are whole runs, whatever fragmentation does to the rest. All of it is
 * `used` only, never durable, and therefore free again after a crash.
 *
 *	normal     pool, map;			only while both reserves are full, and of the pool what claims leave
 *	claimed    pool, map, half of (b)	writes of what was promised: of the map also what is kept for that
 *	releasing  pool, map, reserve (b)	operations that make room: unlink, truncate down; in the end even what is
 *						promised, because nobody else makes room
 *	system     pool, map, reserves (c), (b)	checkpoint, abort, deletion of snapshots
 *
 * Blocks that were claimed (fallocate) are kept back from everything but what claimed them.
 */
#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"

#define POOL_REFILL 64u /* nodes taken from the map at once, where there is plenty */

static uint32_t node_blocks(const struct store *s)
{
	return s->super.node_size / BLOCK_SIZE;
}

static int push(struct node_stack *st, struct node_addr na)
{
	if (mem_grow((void **)&st->at, &st->cap, st->n + 1, sizeof(*st->at)))
		return -ENOMEM;
	st->at[st->n++] = na;
	return 0;
}

/* What has been returned joins the pool; supply.lock held. */
static void absorb(struct supply *u)
{
	pthread_mutex_lock(&u->returned_lock);
	while (u->returned.n && !push(&u->pool, u->returned.at[u->returned.n - 1]))
		u->returned.n--;
	pthread_mutex_unlock(&u->returned_lock);
}

/* Writing what was promised takes nodes besides: the items it becomes, and a few for the changes under way. */
uint64_t supply_for_claims(uint64_t claims)
{
	return claims + claims / 32 + (claims < 128 ? claims : 128);
}

/* What the map's free blocks are kept from: nothing; what is promised; the nodes to write it, too. */
enum keep { KEEP_NOTHING, KEEP_CLAIMS, KEEP_CLAIMS_AND_NODES };

static uint64_t room_but(struct store *s, enum keep keep)
{
	uint64_t claims = keep == KEEP_NOTHING ? 0 : store_claims(s), free = space_free_blocks(s->space);

	if (keep == KEEP_CLAIMS_AND_NODES)
		claims = supply_for_claims(claims);
	return claims > free ? 0 : free - claims;
}

/* Gives nodes of the pool back to the map, as many as it takes until there are so many blocks; supply.lock held. */
static void pool_to_map(struct store *s, uint32_t want, enum keep keep)
{
	struct node_stack *pool = &s->supply.pool;
	uint32_t nb = node_blocks(s);
	uint64_t claims;

	absorb(&s->supply);
	claims = keep == KEEP_NOTHING ? 0 : supply_for_claims(store_claims(s));
	/* Nodes are whole runs, and hard to come by again: not for nothing. */
	if (space_free_blocks(s->space) + pool->n * (s->live.tree.copies ? 2 * nb : nb) <= claims)
		return;
	while (pool->n && room_but(s, keep) < want) {
		struct node_addr na = pool->at[--pool->n];

		(void)space_free(s->space, na.addr, nb);
		if (na.copy)
			(void)space_free(s->space, na.copy, nb);
	}
}

/* Takes up to n nodes from the map into `to`; at least one, or -ENOSPC. supply.lock held. */
static int from_map(struct store *s, struct node_stack *to, size_t n, enum keep keep)
{
	uint32_t nb = node_blocks(s), got, got2 = 0;
	uint64_t addr, copy = 0, room = room_but(s, keep);
	uint64_t each = s->live.tree.copies ? 2 * nb : nb;
	int err;

	if (room < each)
		return -ENOSPC;
	if (n > room / each)
		n = room / each;
	if (mem_grow((void **)&to->at, &to->cap, to->n + n, sizeof(*to->at)))
		return -ENOMEM;
	err = space_alloc(s->space, SPACE_NODES, nb, (uint32_t)n * nb, &addr, &got);
	if (err)
		return err;
	if (s->live.tree.copies) {
		err = space_alloc_apart(s->space, addr, nb, got / nb * nb, &copy, &got2);
		if (err) {
			(void)space_free(s->space, addr, got);
			return err;
		}
	}
	n = got / nb;
	if (copy && got2 / nb < n)
		n = got2 / nb;
	if (got > n * nb)
		(void)space_free(s->space, addr + n * nb, got - n * nb);
	if (got2 > n * nb)
		(void)space_free(s->space, copy + n * nb, got2 - n * nb);
	/* The stack gives from its end: push backwards, so that addresses come in ascending order. */
	for (size_t i = n; i--;)
		to->at[to->n++] = (struct node_addr){ addr + i * nb, copy ? copy + i * nb : 0 };
	return 0;
}

static void refill(struct store *s, struct node_stack *reserve, size_t full)
{
	while (reserve->n < full) {
		if (s->supply.pool.n) {
			if (push(reserve, s->supply.pool.at[s->supply.pool.n - 1]))
				return;
			s->supply.pool.n--;
		} else if (from_map(s, reserve, full - reserve->n, KEEP_CLAIMS_AND_NODES)) {
			return;
		}
	}
}

/* The reserve for the checkpoint first: everything else depends on it. supply.lock held. */
static bool reserves_full(struct store *s)
{
	struct supply *u = &s->supply;

	absorb(u);
	refill(s, &u->system, u->system_full);
	refill(s, &u->releasing, u->releasing_full);
	return u->system.n >= u->system_full && u->releasing.n >= u->releasing_full;
}

void supply_refill(struct store *s)
{
	pthread_mutex_lock(&s->supply.lock);
	(void)reserves_full(s);
	pthread_mutex_unlock(&s->supply.lock);
}

void supply_status(struct store *s, uint64_t *ret_pooled, uint64_t *ret_reserved)
{
	struct supply *u = &s->supply;
	uint64_t each = node_blocks(s) * (s->live.tree.copies ? 2u : 1u);

	pthread_mutex_lock(&u->lock);
	absorb(u);
	*ret_reserved = (u->releasing.n + u->system.n) * each;
	*ret_pooled = u->pool.n * each + *ret_reserved;
	pthread_mutex_unlock(&u->lock);
}

int supply_open(struct store *s)
{
	struct supply *u = &s->supply;
	size_t nodes = space_usable_blocks(s->space) / node_blocks(s) / (s->live.tree.copies ? 2 : 1);

	u->releasing_full = nodes / 64;
	if (u->releasing_full < 16)
		u->releasing_full = 16;
	if (u->releasing_full > 1024)
		u->releasing_full = 1024;
	u->system_full = u->releasing_full / 2 < 16 ? 16 : u->releasing_full / 2;
	if (!s->opt.read_only)
		supply_refill(s);
	return 0;
}

bool supply_short(struct store *s)
{
	bool is_short;

	pthread_mutex_lock(&s->supply.lock);
	is_short = !reserves_full(s);
	pthread_mutex_unlock(&s->supply.lock);
	return is_short;
}

void supply_close(struct store *s)
{
	struct supply *u = &s->supply;

	mem_free(u->pool.at);
	mem_free(u->releasing.at);
	mem_free(u->system.at);
	mem_free(u->returned.at);
	pthread_mutex_destroy(&u->lock);
	pthread_mutex_destroy(&u->returned_lock);
}

static size_t take(struct node_stack *from, struct node_addr *to, size_t n)
{
	size_t i;

	for (i = 0; i < n && from->n; i++)
		to[i] = from->at[--from->n];
	return i;
}

/* What has been taken to write promises may be in the pool by now: it is not for everybody. supply.lock held. */
static bool leaves_claims(struct store *s, size_t n)
{
	uint64_t each = node_blocks(s) * (s->live.tree.copies ? 2u : 1u);

	return space_free_blocks(s->space) + s->supply.pool.n * each >= supply_for_claims(store_claims(s)) + n * each;
}

int supply_nodes(struct store *s, enum supply_class class, struct node_addr *ret, size_t n)
{
	struct supply *u = &s->supply;
	size_t got = 0;
	int err = 0;

	pthread_mutex_lock(&u->lock);
	absorb(u);
	if (class == SUPPLY_NORMAL && (!reserves_full(s) || !leaves_claims(s, n)))
		err = -ENOSPC;
	while (!err) {
		got += take(&u->pool, ret + got, n - got);
		if (got == n)
			break;
		/* On a small or full device a large refill would only hold blocks back from data. */
		uint64_t share = space_free_blocks(s->space) / node_blocks(s) / 32;
		/* What stays in the pool is for everybody: not of what was kept for promises. */
		size_t more = class == SUPPLY_CLAIMED ? 0
			      : share < POOL_REFILL   ? share
						      : POOL_REFILL,
		       want = n - got + more;

		err = from_map(s, &u->pool, want,
			       class == SUPPLY_SYSTEM || class == SUPPLY_CLAIMED ? KEEP_NOTHING
										 : KEEP_CLAIMS_AND_NODES);
	}
	if (err == -ENOSPC && class == SUPPLY_SYSTEM)
		got += take(&u->system, ret + got, n - got);
	/* The blocks kept for promises may be there, but in no run as long as a node. The old nodes come back. */
	if (err == -ENOSPC &&
	    (class > SUPPLY_CLAIMED || (class == SUPPLY_CLAIMED && u->releasing.n >= u->releasing_full / 2 + n - got)))
		got += take(&u->releasing, ret + got, n - got);
	/* The reserve may be short where there are promises: what is kept for those comes first. But nobody else makes room. */
	while (err == -ENOSPC && class == SUPPLY_RELEASING && got < n && !from_map(s, &u->pool, n - got, KEEP_NOTHING))
		got += take(&u->pool, ret + got, n - got);
	if (got == n) {
		err = 0;
	} else {
		/* All or none; the memory is there, the stack held them a moment ago. */
		while (got)
			if (push(&u->pool, ret[--got]))
				err = -ENOMEM;
	}
	pthread_mutex_unlock(&u->lock);
	return err;
}

int supply_return(struct store *s, const struct node_addr *na, size_t n)
{
	int err = 0;

	pthread_mutex_lock(&s->supply.returned_lock);
	for (size_t i = 0; !err && i < n; i++)
		err = push(&s->supply.returned, na[i]);
	pthread_mutex_unlock(&s->supply.returned_lock);
	return err;
}

/* Reserve (b) is half gone: a checkpoint is due before more is taken from it. */
bool supply_low(struct store *s)
{
	bool low;

	pthread_mutex_lock(&s->supply.lock);
	low = s->supply.releasing.n < s->supply.releasing_full / 2;
	pthread_mutex_unlock(&s->supply.lock);
	return low;
}

/*
 * Cutting inside a block takes a new one. The place of a node from the reserve, as far as it is wanted; the rest is free. Half
 * of the reserve is left to nodes: what comes back with the next checkpoints fills it again.
 */
static int data_from_reserve(struct store *s, uint32_t want, uint64_t *ret_addr, uint32_t *ret_blocks)
{
	struct node_stack *from = &s->supply.releasing;
	uint32_t nb = node_blocks(s), n = want < nb ? want : nb;
	struct node_addr na;

	if (from->n <= s->supply.releasing_full / 2)
		return -ENOSPC;
	na = from->at[--from->n];
	if (n < nb)
		(void)space_free(s->space, na.addr + n, nb - n);
	if (na.copy)
		(void)space_free(s->space, na.copy, nb);
	*ret_addr = na.addr;
	*ret_blocks = n;
	return 0;
}

int supply_data(struct store *s, uint32_t want, bool claimed, enum supply_class class, uint64_t *ret_addr,
		uint32_t *ret_blocks)
{
	struct supply *u = &s->supply;
	enum space_stream stream = want < DATA_SMALL_BLOCKS ? SPACE_SMALL : SPACE_LARGE;
	uint64_t room;
	int err = 0;

	pthread_mutex_lock(&u->lock);
	if (class <= SUPPLY_CLAIMED && !claimed && !reserves_full(s))
		err = -ENOSPC;
	if (!err) {
		enum keep keep = claimed ? KEEP_NOTHING : KEEP_CLAIMS_AND_NODES;

		pool_to_map(s, want, keep);
		room = room_but(s, keep);
		err = -ENOSPC;
		if (room)
			err = space_alloc(s->space, stream, 1, room < want ? (uint32_t)room : want, ret_addr,
					  ret_blocks);
		if (err == -ENOSPC && class > SUPPLY_CLAIMED)
			err = data_from_reserve(s, want, ret_addr, ret_blocks);
		room = room_but(s, KEEP_CLAIMS);
		if (err == -ENOSPC && class > SUPPLY_CLAIMED && room)
			err = space_alloc(s->space, stream, 1, room < want ? (uint32_t)room : want, ret_addr,
					  ret_blocks);
	}
	pthread_mutex_unlock(&u->lock);
	return err;
}

/*
 * What to do about -ENOSPC: blocks that were released come back with the checkpoints after their release, so make one
 * and look again. When that brings nothing more, whoever must not fail ends the oldest transaction, which pins what others
 * have released.
 */
int make_room(struct store *s, enum supply_class class, unsigned tries)
{
	uint64_t before = atomic_load(&s->reclaimed);
	bool gave_way = false;
	int64_t freed;

	if (store_failed(s))
		return -EROFS;
	if (tries >= 64)
		return -ENOSPC;
	for (unsigned round = 0;; round++) {
		/* Two checkpoints, once nothing holds them any more: then they are free. */
		for (unsigned i = 0; i < (round ? 3 : 1) && atomic_load(&s->reclaiming); i++) {
			int err = checkpoint_wait(s);

			if (err)
				return err;
			freed = reclaim_limbo(s, true);
			if (freed < 0)
				return (int)freed;
			supply_refill(s);
		}
		if ((atomic_load(&s->reclaimed) != before && tries < 16) || (atomic_load(&s->reclaiming) && tries < 4))
			return 0;
		/* A scrub does not make a device full. */
		if (!gave_way && scrub_give_way(s)) {
			gave_way = true;
			continue;
		}
		if (class <= SUPPLY_CLAIMED || !txn_kill_oldest(s))
			return -ENOSPC;
	}
}

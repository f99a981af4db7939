/*
 * view.c - views: reading them, freezing live, and how transactions begin and end
 *
 * Freezing costs a generation: live goes on under a new one, so every node it had is never changed again, and the frozen
 * view is live's root of that moment with a pin. The pin keeps what live releases later from being handed out
 * (reclaim.c). A transaction is a frozen view with a generation of its own on top.
 *
 * Everything a transaction owns (nodes and extents born after its base) is known by walking its tree and leaving out
 * what was there before; so nothing is recorded on the way, and ending it costs what it has changed.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/store_int.h"

int view_init(struct view *v, struct store *s, enum view_kind kind)
{
	pthread_rwlockattr_t attr;
	int err;

	v->store = s;
	v->kind = kind;
	atomic_init(&v->state, VIEW_OPEN);
	atomic_init(&v->refs, 1);
	pthread_rwlockattr_init(&attr);
	/* A stream of readers must not starve the writer. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	err = pthread_rwlock_init(&v->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return -err;
}

#define SPIN_TRIES 200u

static inline void spin_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

void view_lock_shared(struct view *v)
{
	for (unsigned i = 0; i < SPIN_TRIES; i++) {
		if (!pthread_rwlock_tryrdlock(&v->lock))
			return;
		spin_pause();
	}
	pthread_rwlock_rdlock(&v->lock);
}

void view_lock_exclusive(struct view *v)
{
	for (unsigned i = 0; i < SPIN_TRIES; i++) {
		if (!pthread_rwlock_trywrlock(&v->lock))
			return;
		spin_pause();
	}
	pthread_rwlock_wrlock(&v->lock);
}

void view_destroy(struct view *v)
{
	pthread_rwlock_destroy(&v->lock);
}

void view_put(struct view *v)
{
	if (atomic_fetch_sub(&v->refs, 1) == 1) {
		view_destroy(v);
		mem_free(v);
	}
}

uint64_t view_id(const struct view *v)
{
	return v->id;
}

uint64_t view_gen(struct view *v)
{
	uint64_t gen;

	view_lock_shared(v);
	gen = v->tree.gen;
	pthread_rwlock_unlock(&v->lock);
	return gen;
}

struct view *store_live(struct store *s)
{
	return &s->live;
}

int view_fault(struct store *s, struct miss *miss, unsigned slot)
{
	int err = tree_fault(s->cache, miss);

	epoch_exit(s->epoch, slot);
	if (err == -ENOBUFS) {
		err = cache_breathe(s->cache);
		if (err == -EBUSY)
			err = store_relieve(s);
		if (err == -EBUSY)
			err = -ENOMEM; /* the cache is full of what only a checkpoint under way will write */
	}
	return err;
}

/* ---- memory: a transaction's nodes go to their addresses when there are many ---- */

#define RELIEVE_NODES 256u

/* Inside an epoch, entered before the nodes were taken from their list: it keeps the addresses from reuse while the writes
 * are in flight, should the nodes be given up. */
static int write_nodes(struct store *s, struct node **nodes, size_t n)
{
	int err;

	if (!n)
		return 0;
	err = cache_write(s->cache, nodes, n);
	for (size_t i = 0; i < n; i++)
		node_unpin(nodes[i]);
	if (err && err != -ENOMEM)
		store_fail(s, err, "writing a transaction's nodes");
	return err;
}

int view_relieve(struct view *v, size_t keep)
{
	struct node **nodes = mem_alloc(RELIEVE_NODES * sizeof(struct node *));
	int err = 0;

	if (!nodes)
		return -ENOMEM;
	for (bool more = true; more && !err;) {
		unsigned slot = epoch_enter(v->store->epoch);
		struct node *node;
		size_t n = 0;

		/* Who holds it for long (a commit) may be waiting for the very memory this is to free. */
		if (pthread_rwlock_trywrlock(&v->lock)) {
			epoch_exit(v->store->epoch, slot);
			break;
		}
		while (v->tree.dirty_nodes > keep && n < RELIEVE_NODES && (node = TAILQ_FIRST(&v->tree.dirty))) {
			TAILQ_REMOVE(&v->tree.dirty, node, list);
			v->tree.dirty_nodes--;
			atomic_fetch_or(&node->state, NODE_SEALED);
			node_pin(node);
			nodes[n++] = node;
			v->own_written = true;
		}
		pthread_rwlock_unlock(&v->lock);
		more = n == RELIEVE_NODES;
		err = write_nodes(v->store, nodes, n);
		epoch_exit(v->store->epoch, slot);
	}
	mem_free(nodes);
	return err;
}

/* Nodes that only older roots reach. */
static int relieve_old(struct store *s)
{
	struct node **nodes = mem_alloc(RELIEVE_NODES * sizeof(struct node *)), *node;
	unsigned slot;
	size_t n = 0;
	int err;

	if (!nodes)
		return -ENOMEM;
	slot = epoch_enter(s->epoch);
	pthread_rwlock_wrlock(&s->live.lock);
	while (n < RELIEVE_NODES && (node = TAILQ_FIRST(&s->old_nodes))) {
		struct event key = { .addr = node->addr };
		struct event *e = RB_FIND(event_set, &s->pinned, &key);

		TAILQ_REMOVE(&s->old_nodes, node, list);
		s->n_old_nodes--;
		if (e)
			e->node = NULL;
		atomic_fetch_or(&node->state, NODE_SEALED);
		node_pin(node);
		nodes[n++] = node;
	}
	pthread_rwlock_unlock(&s->live.lock);
	err = write_nodes(s, nodes, n);
	epoch_exit(s->epoch, slot);
	mem_free(nodes);
	return err;
}

int store_relieve(struct store *s)
{
	uint64_t after = 0;
	int err;

	if (s->opt.read_only)
		return -ENOMEM;
	err = relieve_old(s);
	while (!err) {
		struct view *v, *found = NULL;

		pthread_mutex_lock(&s->views_lock);
		LIST_FOREACH(v, &s->views, list)
			if (v->kind == VIEW_TXN && v->id > after && (!found || v->id < found->id))
				found = v;
		if (found)
			atomic_fetch_add(&found->refs, 1);
		pthread_mutex_unlock(&s->views_lock);
		if (!found)
			break;
		after = found->id;
		err = view_relieve(found, 0);
		view_put(found);
	}
	if (!err)
		err = checkpoint_wait(s);
	return err;
}

/* ---- beginning and end ---- */

static void view_enter(struct view *v)
{
	struct store *s = v->store;

	pthread_mutex_lock(&s->views_lock);
	v->id = s->next_view++;
	LIST_INSERT_HEAD(&s->views, v, list);
	pthread_mutex_unlock(&s->views_lock);
}

static int freeze_live(struct store *s, enum view_kind kind, struct view **ret)
{
	struct view *v;
	int err;

	v = mem_zalloc(sizeof(*v));
	if (!v)
		return -ENOMEM;
	err = view_init(v, s, kind);
	if (err) {
		mem_free(v);
		return err;
	}
	pthread_rwlock_wrlock(&s->live.lock);
	v->pin.gen = v->base_gen = s->live.tree.gen;
	v->base = s->live.tree.root;
	v->has_shared = v->base_shared = s->live.has_shared;
	s->live.tree.gen = store_next_gen(s);
	LIST_INSERT_HEAD(&s->pins, &v->pin, list);
	v->pinned = true;
	tree_init(&v->tree, s->cache, TREE_FILES, v->base, store_next_gen(s), s->live.tree.copies);
	pthread_rwlock_unlock(&s->live.lock);
	v->ckpt_count = atomic_load(&s->checkpoints);
	if (kind == VIEW_TXN)
		atomic_fetch_add(&s->n_txns, 1);
	view_enter(v);
	*ret = v;
	return 0;
}

int view_freeze(struct store *s, struct view **ret)
{
	return freeze_live(s, VIEW_FROZEN, ret);
}

int txn_begin(struct store *s, struct view **ret)
{
	int err = s->opt.read_only ? -EROFS : store_failed(s);

	return err ? err : freeze_live(s, VIEW_TXN, ret);
}

static void unpin(struct view *v)
{
	struct store *s = v->store;

	pthread_rwlock_wrlock(&s->live.lock);
	if (v->pinned)
		LIST_REMOVE(&v->pin, list);
	if (v->committed_pinned)
		LIST_REMOVE(&v->committed, list);
	if (v->pinned || v->committed_pinned)
		reclaim_unpin(s);
	v->pinned = v->committed_pinned = false;
	pthread_rwlock_unlock(&s->live.lock);
}

struct own {
	struct view *v;
	bool extents;
	struct ref *nodes;
	size_t n_nodes, cap_nodes;
	struct ref_range *runs;
	size_t n_runs, cap_runs;
};

static int own_ref(void *arg, struct ref ref, unsigned level)
{
	struct own *o = arg;
	struct node *node;

	(void)level;
	if (ref.gen <= o->v->base_gen)
		return 1;
	/* Those never written stand on the dirty list. (tree_walk is inside an epoch here.) */
	node = cache_lookup(o->v->store->cache, ref);
	if (node && (atomic_load(&node->state) & (NODE_DIRTY | NODE_SEALED)) == NODE_DIRTY)
		return 0;
	if (mem_grow((void **)&o->nodes, &o->cap_nodes, o->n_nodes + 1, sizeof(*o->nodes)))
		return -ENOMEM;
	o->nodes[o->n_nodes++] = ref;
	return 0;
}

static int own_item(void *arg, struct key key, const void *val, size_t len)
{
	struct own *o = arg;
	struct extent x;

	if (!o->extents || !record_extent(&o->v->store->files_table, key, val, len, &x) || !x.addr ||
	    x.birth <= o->v->base_gen)
		return 0;
	if (mem_grow((void **)&o->runs, &o->cap_runs, o->n_runs + 1, sizeof(*o->runs)))
		return -ENOMEM;
	o->runs[o->n_runs++] = (struct ref_range){ x.addr, x.blocks, x.birth };
	return 0;
}

static int run_cmp(const void *pa, const void *pb)
{
	const struct ref_range *a = pa, *b = pb;

	return (a->addr > b->addr) - (a->addr < b->addr);
}

static int give_back(struct store *s, uint64_t addr, uint64_t copy, uint32_t blocks)
{
	struct event *e = mem_zalloc(sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->addr = addr;
	e->copy = copy;
	e->blocks = blocks;
	reclaim_private(s, e);
	return 0;
}

/*
 * Gives back what only this transaction owns; of a committed one, its nodes: its extents are live's now. v->lock held
 * exclusively. What cannot be found because a node cannot be read stays in use until the next mount.
 */
static void free_own(struct view *v, bool extents)
{
	static const struct walk_ops ops = { .ref = own_ref, .item = own_item };
	struct store *s = v->store;
	struct own o = { .v = v, .extents = extents && v->own_extents };
	uint32_t nb = s->super.node_size / BLOCK_SIZE;
	struct node *node;
	uint64_t done = 0;
	int err = 0;

	if (v->own_written || o.extents)
		err = tree_walk(s->cache, TREE_FILES, &v->tree.root, &ops, &o);
	for (size_t i = 0; !err && i < o.n_nodes; i++)
		err = give_back(s, o.nodes[i].addr, o.nodes[i].copy, nb);
	if (o.n_runs)
		qsort(o.runs, o.n_runs, sizeof(*o.runs), run_cmp);
	for (size_t i = 0; !err && i < o.n_runs; i++) { /* each block once, however often it is referred to */
		uint64_t from = o.runs[i].addr > done ? o.runs[i].addr : done;
		uint64_t end = o.runs[i].addr + o.runs[i].blocks;

		if (end <= from)
			continue;
		data_drop(s->data, from, end - from);
		err = give_back(s, from, 0, (uint32_t)(end - from));
		done = end;
	}
	if (err)
		err_log(LOG_WARNING, "transaction %" PRIu64 ": not all of its space was given back: %s", v->id,
			strerror(-err));
	while ((node = TAILQ_FIRST(&v->tree.dirty))) {
		struct node_addr na = { node->addr, node->copy };

		TAILQ_REMOVE(&v->tree.dirty, node, list);
		cache_kill(s->cache, node);
		(void)supply_return(s, &na, 1);
	}
	v->tree.dirty_nodes = 0;
	v->tree.root = v->base;
	if (extents)
		atomic_fetch_sub(&s->txn_claims, v->claims);
	v->claims = 0;
	mem_free(o.nodes);
	mem_free(o.runs);
}

/* Ends a transaction that is open: its changes are gone, its view is stale. */
void txn_end(struct view *v)
{
	bool was_open;

	pthread_rwlock_wrlock(&v->lock);
	was_open = atomic_load(&v->state) == VIEW_OPEN;
	if (was_open) {
		atomic_store(&v->state, VIEW_STALE);
		free_own(v, true);
	}
	pthread_rwlock_unlock(&v->lock);
	if (was_open) {
		atomic_fetch_sub(&v->store->n_txns, 1);
		unpin(v);
	}
}

bool txn_kill_oldest(struct store *s)
{
	struct view *v, *oldest = NULL;

	pthread_mutex_lock(&s->views_lock);
	LIST_FOREACH(v, &s->views, list)
		if (v->kind == VIEW_TXN && atomic_load(&v->state) == VIEW_OPEN && (!oldest || v->id < oldest->id))
			oldest = v;
	if (oldest)
		atomic_fetch_add(&oldest->refs, 1);
	pthread_mutex_unlock(&s->views_lock);
	if (!oldest)
		return false;
	err_log(LOG_WARNING, "the device is full: transaction %" PRIu64 " is ended, it pins what others have released",
		oldest->id);
	txn_end(oldest);
	view_put(oldest);
	return true;
}

void view_close(struct view *v)
{
	struct store *s;

	if (!v || v->kind == VIEW_LIVE)
		return;
	s = v->store;
	if (v->kind == VIEW_TXN) {
		txn_end(v);
		pthread_rwlock_wrlock(&v->lock);
		if (atomic_load(&v->state) == VIEW_COMMITTED)
			free_own(v, false);
		pthread_rwlock_unlock(&v->lock);
	}
	unpin(v);
	pthread_mutex_lock(&s->views_lock);
	LIST_REMOVE(v, list);
	pthread_mutex_unlock(&s->views_lock);
	view_put(v);
}

/* ---- reading ---- */

static inline bool changeable(const struct view *v)
{
	return v->kind != VIEW_FROZEN;
}

static inline int view_readable(struct view *v)
{
	return atomic_load_explicit(&v->state, memory_order_acquire) == VIEW_STALE ? -ESTALE : 0;
}

static int view_lookup(struct view *v, struct key key, bool floor, struct key *ret_key, void *buf, size_t cap,
		       size_t *ret_len)
{
	struct store *s = v->store;
	struct miss miss;
	int err;

	miss_init(&miss);
	do {
		unsigned slot = epoch_enter(s->epoch);
		const void *val;
		size_t len;

		if (changeable(v))
			view_lock_shared(v);
		err = view_readable(v);
		if (!err)
			err = floor ? tree_floor(s->cache, &v->tree.root, v->tree.id, key, ret_key, &val, &len, &miss) :
				      tree_get(s->cache, &v->tree.root, v->tree.id, key, &val, &len, &miss);
		if (!err) {
			if (cap)
				memcpy(buf, val, len < cap ? len : cap);
			*ret_len = len;
		}
		if (changeable(v))
			pthread_rwlock_unlock(&v->lock);
		if (err == -EAGAIN) {
			err = view_fault(s, &miss, slot);
			if (!err)
				err = -EAGAIN;
		} else {
			epoch_exit(s->epoch, slot);
		}
	} while (err == -EAGAIN);
	if (miss.n_pinned || miss.pinned)
		tree_miss_release(&miss);
	return err;
}

int view_get(struct view *v, struct key key, void *buf, size_t cap, size_t *ret_len)
{
	return view_lookup(v, key, false, NULL, buf, cap, ret_len);
}

int view_floor(struct view *v, struct key key, struct key *ret_key, void *buf, size_t cap, size_t *ret_len)
{
	return view_lookup(v, key, true, ret_key, buf, cap, ret_len);
}

struct scan {
	struct view *view;
	struct cursor cursor;
	struct key next, to;
	bool begun, ended;
};

int scan_open(struct view *v, struct key from, struct key to, struct scan **ret)
{
	struct scan *sc = mem_zalloc(sizeof(*sc));
	int err;

	if (!sc)
		return -ENOMEM;
	sc->view = v;
	sc->next = from;
	sc->to = to;
	err = cursor_init(&sc->cursor, v->store->cache, TREE_FILES, changeable(v));
	if (err) {
		mem_free(sc);
		return err;
	}
	*ret = sc;
	return 0;
}

static int scan_seek(struct scan *sc)
{
	struct view *v = sc->view;
	struct store *s = v->store;
	struct miss miss;
	int err;

	miss_init(&miss);
	do {
		unsigned slot = epoch_enter(s->epoch);

		if (changeable(v))
			view_lock_shared(v);
		err = view_readable(v);
		if (!err)
			err = cursor_seek(&sc->cursor, &v->tree.root, sc->next, &miss);
		if (changeable(v))
			pthread_rwlock_unlock(&v->lock);
		if (err == -EAGAIN) {
			err = view_fault(s, &miss, slot);
			if (!err)
				err = -EAGAIN;
		} else {
			epoch_exit(s->epoch, slot);
		}
	} while (err == -EAGAIN);
	tree_miss_release(&miss);
	return err;
}

int scan_next(struct scan *sc, struct key *ret_key, const void **ret_val, size_t *ret_len)
{
	int err;

	for (;;) {
		if (sc->ended)
			return 1;
		if (sc->begun) {
			err = cursor_item(&sc->cursor, ret_key, ret_val, ret_len);
			if (!err && key_less(*ret_key, sc->to))
				return 0;
			if (!err || sc->cursor.last) {
				sc->ended = true;
				return 1;
			}
			sc->next = sc->cursor.next;
		}
		if (!key_less(sc->next, sc->to)) {
			sc->ended = true;
			return 1;
		}
		err = scan_seek(sc);
		if (err) {
			sc->ended = true;
			return err;
		}
		sc->begun = true;
	}
}

int scan_skip(struct scan *sc, struct key *ret_from, struct key *ret_to)
{
	*ret_from = sc->cursor.miss_low;
	*ret_to = sc->cursor.miss_high;
	/* Always forward, whatever the nodes say. */
	if (!key_less(sc->next, sc->cursor.miss_high) || !key_less(sc->cursor.miss_high, sc->to))
		return 1;
	sc->next = sc->cursor.miss_high;
	sc->begun = sc->ended = false;
	return 0;
}

void scan_close(struct scan *sc)
{
	if (!sc)
		return;
	cursor_release(&sc->cursor);
	mem_free(sc);
}

/* ---- data ---- */

unsigned view_read_begin(struct view *v)
{
	return epoch_enter(v->store->reading);
}

void view_read_end(struct view *v, unsigned cookie)
{
	epoch_exit(v->store->reading, cookie);
}

/* The first block that is not what its checksum says, or `blocks`. */
static uint32_t first_bad(uint32_t blocks, const void *buf, const uint32_t *sums, uint32_t *ret_got)
{
	for (uint32_t i = 0; i < blocks; i++) {
		*ret_got = data_checksum((const uint8_t *)buf + (size_t)i * BLOCK_SIZE);
		if (*ret_got != sums[i])
			return i;
	}
	return blocks;
}

int view_read(struct view *v, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums)
{
	struct store *s = v->store;
	uint32_t got, bad;
	int err;

	if (!space_valid(s->space, addr, blocks))
		return corrupt("extent", addr, "outside of the device, blocks", blocks, 0);
	/* What has not reached the device is not to be looked for there. */
	if (sums && blocks <= READAHEAD_SMALL && !data_has(s->data, addr) &&
	    readahead_get(s->readahead, addr, blocks, buf)) {
		if (first_bad(blocks, buf, sums, &got) == blocks)
			return 0;
		readahead_forget(s->readahead, addr, blocks); /* it was on its way to the device when the window was read */
	}
	err = data_read(s->data, addr, blocks, buf);
	if (err || !sums)
		return err;
	bad = first_bad(blocks, buf, sums, &got);
	return bad < blocks ? bad_checksum("data block", addr + bad, "checksum", got, sums[bad]) : 0;
}

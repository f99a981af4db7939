/*
 * Nodes from the device and to it.
 *
 * Reading. A reference says what must be there: address, address of the second copy, generation; the caller says the tree,
 * the level and the lower bound. Bytes that do not verify against all of that are not a node, whichever of torn, lost,
 * stale or misdirected the write was. With a second copy those bytes are tried next, and when they verify they are
 * written over the first (both places hold the same bytes). That is the one case where something is written to an address
 * for the second time. It is safe against the address being handed out again because the reader is inside an epoch, and
 * one at a time, since two threads may find the same bad node.
 *
 * Writing. Nodes are sorted by address. Their images are made in a few large buffers, neighbours on the device in one
 * transfer; while one buffer is on its way the next is filled. A node with a second copy is written in a second pass,
 * sorted by that address: two places far apart in one pass would turn both streams into seeks. Every image is verified
 * whole before it leaves: a node that went bad in memory must not reach the disk with a right checksum.
 *
 * Memory for writing is taken per call; should there be none, a small buffer that was taken at the start serves one caller
 * at a time: a checkpoint never fails for want of memory.
 */
#include "btree/cache.h"

#include <assert.h>
#include <stdlib.h>

#include "btree/cache_int.h"
#include "btree/err.h"
#include "btree/mem.h"

/* ---- reading ---- */

/* What the reference and the parent say, of a node whose content is known to be right by itself. */
static int check_node(const struct node *n, struct ref ref, uint64_t tree, unsigned level, struct key low)
{
	if (n->copy != ref.copy)
		return bad_checksum("node", ref.addr, "address of the second copy", n->copy, ref.copy);
	if (n->tree != tree)
		return corrupt("node", ref.addr, "tree", n->tree, tree);
	if (n->level != level)
		return corrupt("node", ref.addr, "level", n->level, level);
	if (level == 0 && key_less(node_key(n, 0), low))
		return corrupt("node", ref.addr, "first key below its lower bound", node_key(n, 0).obj, low.obj);
	if (level > 0 && n->nr > 1 && !key_less(low, node_key(n, 1)))
		return corrupt("node", ref.addr, "second key below its lower bound", node_key(n, 1).obj, low.obj);
	return 0;
}

int cache_decode(struct cache *c, struct node *n, struct ref ref, uint64_t tree, unsigned level, struct key low)
{
	const struct disk_node *h = (const struct disk_node *)n->buf;
	int err;

	err = node_check(n->buf, c->node_size, c->records[tree]);
	if (err)
		return err;
	if (le64_get(h->addr) != ref.addr)
		return bad_checksum("node", ref.addr, "own address", le64_get(h->addr), ref.addr);
	if (le64_get(h->gen) != ref.gen)
		return bad_checksum("node", ref.addr, "generation", le64_get(h->gen), ref.gen);
	n->addr = ref.addr;
	n->gen = ref.gen;
	n->copy = le64_get(h->copy);
	n->tree = le64_get(h->tree);
	n->level = h->level;
	n->home = NULL;
	node_adopt(n);
	return check_node(n, ref, tree, level, low);
}

bool cache_inside_device(const struct cache *c, uint64_t addr)
{
	/* A resize may go on in another thread. */
	uint64_t blocks = __atomic_load_n(&c->bdev->geo.blocks, __ATOMIC_RELAXED);
	uint64_t node = c->node_size / BLOCK_SIZE;

	return addr && node <= blocks && addr <= blocks - node;
}

static int read_at(struct cache *c, uint64_t addr, struct node *n)
{
	int err;

	if (!cache_inside_device(c, addr))
		return corrupt("node", addr, "address outside the device", addr,
			       __atomic_load_n(&c->bdev->geo.blocks, __ATOMIC_RELAXED));
	err = bdev_read(c->bdev, addr, n->buf, c->node_size / BLOCK_SIZE);
	if (err)
		err_log(LOG_ERROR, "cannot read node %llu: error %d", (unsigned long long)addr, -err);
	return err;
}

bool cache_mend(struct cache *c, struct ref ref, bool copy, const void *image)
{
	uint64_t addr = copy ? ref.copy : ref.addr;
	const char *which = copy ? "second copy of " : "";
	int err;

	if (!c->mend || c->bdev->geo.read_only || !cache_inside_device(c, addr))
		return false;
	pthread_mutex_lock(&c->mend_lock);
	err = bdev_write(c->bdev, addr, image, c->node_size / BLOCK_SIZE);
	pthread_mutex_unlock(&c->mend_lock);
	if (err) {
		err_log(LOG_WARNING, "cannot mend %snode %llu: error %d", which, (unsigned long long)ref.addr, -err);
		return false;
	}
	atomic_fetch_add(&c->mended, 1);
	err_log(LOG_WARNING, "%snode %llu mended from its other copy", which, (unsigned long long)ref.addr);
	return true;
}

/* Reads the node into a frame, from wherever it can be read. */
static int read_node(struct cache *c, struct node *n, struct ref ref, uint64_t tree, unsigned level, struct key low)
{
	int err = read_at(c, ref.addr, n);

	if (!err)
		err = cache_decode(c, n, ref, tree, level, low);
	if (!err)
		return 0;
	atomic_fetch_add(&c->bad, 1);
	if (!ref.copy)
		return err;
	if (read_at(c, ref.copy, n) || cache_decode(c, n, ref, tree, level, low)) {
		atomic_fetch_add(&c->bad, 1);
		return err;
	}
	atomic_fetch_add(&c->copies_used, 1);
	(void)cache_mend(c, ref, false, n->buf);
	return 0;
}

int cache_load(struct cache *c, struct ref ref, uint64_t tree, unsigned level, struct key low, struct node **ret)
{
	struct node *n = cache_lookup(c, ref);
	int err;

	if (n) {
		node_pin(n);
		err = check_node(n, ref, tree, level, low);
		if (err) {
			node_unpin(n);
			return err;
		}
		*ret = n;
		return 0;
	}
	n = cache_take(c, false);
	if (!n)
		return -ENOBUFS;
	atomic_fetch_add_explicit(&c->misses, 1, memory_order_relaxed);
	err = read_node(c, n, ref, tree, level, low);
	if (err) {
		cache_give_back(c, n);
		return err;
	}
	*ret = cache_publish(c, n, true);
	return 0;
}

bool cache_plausible(const struct cache *c, const void *image, struct ref ref)
{
	const struct disk_node *h = image;

	return le32_get(h->magic) == NODE_MAGIC && le64_get(h->addr) == ref.addr && le64_get(h->gen) == ref.gen &&
	       node_sum_right(image, c->node_size);
}

#define PREFETCH_MAX 64u

void cache_prefetch(struct cache *c, const struct ref *refs, const struct key *lows, unsigned n, uint64_t tree,
		    unsigned level)
{
	struct bio bios[PREFETCH_MAX], *ptrs[PREFETCH_MAX];
	struct iovec iov[PREFETCH_MAX];
	struct node *frames[PREFETCH_MAX];
	unsigned which[PREFETCH_MAX], got = 0;
	struct bio_group group;

	bio_group_init(&group);
	for (unsigned i = 0; i < n && got < PREFETCH_MAX; i++) {
		if (cache_find(c, refs[i].addr, refs[i].gen) || !cache_inside_device(c, refs[i].addr))
			continue;
		frames[got] = cache_take(c, true);
		if (!frames[got])
			break;
		iov[got] = (struct iovec){ frames[got]->buf, c->node_size };
		bios[got] = (struct bio){
			.op = BIO_READ, .addr = refs[i].addr, .iov = &iov[got], .iovcnt = 1, .group = &group,
		};
		ptrs[got] = &bios[got];
		which[got++] = i;
	}
	if (!got)
		return;
	atomic_fetch_add_explicit(&c->misses, got, memory_order_relaxed);
	bdev_submit(c->bdev, ptrs, got);
	(void)bdev_wait(c->bdev, &group);
	for (unsigned i = 0; i < got; i++) {
		struct ref ref = refs[which[i]];

		if (!bios[i].err && cache_plausible(c, frames[i]->buf, ref) &&
		    !cache_decode(c, frames[i], ref, tree, level, lows[which[i]]))
			(void)cache_publish(c, frames[i], false);
		else
			cache_give_back(c, frames[i]);
	}
}

/* ---- writing ---- */

#define WRITE_BYTES (1u << 20) /* of one buffer */
#define WRITE_BUFS 4u	       /* buffers on their way or being filled */
#define SPARE_BYTES (128u << 10)

struct write_buf {
	unsigned char *data;
	struct bio *bios, **ptrs; /* one for each node it has room for */
	struct iovec *iov;
	struct bio_group group;
};

struct writer {
	struct cache *c;
	struct write_buf buf[WRITE_BUFS];
	unsigned bufs, next;
	size_t room; /* nodes in a buffer */
	void *memory;
};

static size_t room_in(const struct cache *c, size_t bytes)
{
	return bytes / c->node_size;
}

/* Memory for one buffer of `room` nodes: data first, so that it is aligned. */
static size_t buf_bytes(const struct cache *c, size_t room)
{
	size_t bytes = room * (c->node_size + sizeof(struct bio) + sizeof(struct bio *) + sizeof(struct iovec));

	return (bytes + BLOCK_SIZE - 1) & ~(size_t)(BLOCK_SIZE - 1);
}

int cache_spare_open(struct cache *c)
{
	c->spare = mem_alloc_blocks(buf_bytes(c, room_in(c, SPARE_BYTES)));
	return c->spare ? 0 : -ENOMEM;
}

void cache_spare_close(struct cache *c)
{
	mem_free(c->spare);
}

/* May take the spare lock; always succeeds. */
static void writer_open(struct writer *w, struct cache *c, size_t nodes)
{
	unsigned char *p;

	w->c = c;
	w->next = 0;
	w->room = room_in(c, WRITE_BYTES);
	w->bufs = WRITE_BUFS;
	if (nodes <= w->room) {
		w->room = nodes;
		w->bufs = 1;
	}
	w->memory = p = mem_alloc_blocks(w->bufs * buf_bytes(c, w->room));
	if (!p) {
		pthread_mutex_lock(&c->spare_lock);
		p = c->spare;
		w->room = room_in(c, SPARE_BYTES);
		w->bufs = 1;
	}
	for (unsigned i = 0; i < w->bufs; i++, p += buf_bytes(c, w->room)) {
		struct write_buf *b = &w->buf[i];

		b->data = p;
		b->bios = (struct bio *)(p + w->room * c->node_size);
		b->ptrs = (struct bio **)(b->bios + w->room);
		b->iov = (struct iovec *)(b->ptrs + w->room);
		bio_group_init(&b->group);
	}
}

static void writer_close(struct writer *w)
{
	if (w->memory)
		mem_free(w->memory);
	else
		pthread_mutex_unlock(&w->c->spare_lock);
}

static uint64_t target(const struct node *n, bool copy)
{
	return copy ? n->copy : n->addr;
}

/* Fills a buffer with images of n nodes and starts writing it. */
static int write_some(struct writer *w, struct node **nodes, size_t n, bool copy)
{
	struct cache *c = w->c;
	struct write_buf *b = &w->buf[w->next];
	uint32_t blocks = c->node_size / BLOCK_SIZE;
	unsigned n_bios = 0;
	int err;

	w->next = (w->next + 1) % w->bufs;
	err = bdev_wait(c->bdev, &b->group);
	for (size_t i = 0; !err && i < n; i++) {
		unsigned char *image = b->data + i * c->node_size;
		uint64_t addr = target(nodes[i], copy);

		node_image(nodes[i], image);
		err = node_check(image, c->node_size, c->records[nodes[i]->tree]);
		assert(!err);
		if (n_bios && b->bios[n_bios - 1].addr + b->iov[n_bios - 1].iov_len / BLOCK_SIZE == addr) {
			b->iov[n_bios - 1].iov_len += blocks * BLOCK_SIZE;
			continue;
		}
		b->iov[n_bios] = (struct iovec){ image, c->node_size };
		b->bios[n_bios] = (struct bio){
			.op = BIO_WRITE, .addr = addr, .iov = &b->iov[n_bios], .iovcnt = 1, .group = &b->group,
		};
		b->ptrs[n_bios] = &b->bios[n_bios];
		n_bios++;
	}
	if (!err)
		bdev_submit(c->bdev, b->ptrs, n_bios);
	return err;
}

static int by_addr(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int by_copy(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;

	return x->copy < y->copy ? -1 : x->copy > y->copy;
}

static int write_pass(struct writer *w, struct node **nodes, size_t n, bool copy)
{
	int err = 0;

	qsort(nodes, n, sizeof(*nodes), copy ? by_copy : by_addr);
	/* Those without a second copy come first. */
	while (copy && n && !nodes[0]->copy) {
		nodes++;
		n--;
	}
	while (!err && n) {
		size_t part = n < w->room ? n : w->room;

		err = write_some(w, nodes, part, copy);
		nodes += part;
		n -= part;
	}
	for (unsigned i = 0; i < w->bufs; i++) {
		int e = bdev_wait(w->c->bdev, &w->buf[i].group);

		if (!err)
			err = e;
	}
	return err;
}

int cache_write(struct cache *c, struct node **nodes, size_t n)
{
	struct writer w;
	size_t was_dirty = 0;
	int err;

	if (!n)
		return 0;
	for (size_t i = 0; i < n; i++)
		assert(atomic_load(&nodes[i]->state) & NODE_SEALED);
	writer_open(&w, c, n);
	err = write_pass(&w, nodes, n, false);
	if (!err)
		err = write_pass(&w, nodes, n, true);
	writer_close(&w);
	if (err)
		return err;
	for (size_t i = 0; i < n; i++)
		was_dirty += !!(atomic_fetch_and(&nodes[i]->state, ~(unsigned)NODE_DIRTY) & NODE_DIRTY);
	atomic_fetch_sub(&c->dirty, was_dirty);
	atomic_fetch_add(&c->nodes_written, n);
	return 0;
}

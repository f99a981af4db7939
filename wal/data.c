/*
 * The problem: between the answer to a write and its safety lies a time in which the block must be readable, may
 * become superfluous, must be named in the log, and has to reach the device sooner or later, and all that with one
 * flush for data and log together.
 *
 * The idea: a block address has one content for ever, so nothing has to be ordered. A run walks through
 *
 *	RUN_DIRTY -----enqueue----> RUN_QUEUED -----form_job----> RUN_INFLIGHT
 *	    |                            |                            | complete
 *	    |  (all blocks dropped)      |                            v
 *	    `--------> freed <-----------'                       RUN_WRITTEN -----flush----> freed, or RUN_COVERED while
 *	                                                              (RUN_FAILED)           the owner has the handle
 *
 * Runs are found by address through a hash of chunks (16 blocks): a run stands in the chain of each chunk it touches,
 * with nodes that come with it, so that only data_put allocates. Blocks of a run die one by one (`dead`); the run
 * stays in the chains until all have, so several runs may claim one address, but at most one of them holds it alive.
 *
 * Writing: enqueue puts runs in the queue in the order of their addresses; form_job joins neighbours into one of a
 * fixed number of jobs, which bounds what is in flight; a seal therefore needs no memory to start writes. Who finds
 * all jobs taken leaves the rest in the queue: whoever waits, pumps. The jobs are never freed, because a bio's group
 * is touched last of all by the completing thread.
 *
 * A completion may come in any thread, in the middle of a submit even, and must not block: it pushes the job on a
 * lock-free stack (`completed`), and who takes the mutex next does the rest. Nothing is ever submitted or waited for
 * under the mutex, so it may be taken under a tree's lock. `io` is held from forming jobs to having submitted them, so
 * that a waiter can tell that a job it sees is known to the device.
 *
 * What is listed, and when: a seal lists the attached runs that no seal has seen (`fresh`), save what has died and
 * what a flush has covered. What it listed is durable before the next segment is written (that one's flush follows
 * this one's), so no later seal needs to name it again. What rode is in a durable segment in the same way; it stays
 * dirty and may be superseded before it is ever written home.
 *
 * Invariants, under the mutex:
 *  1. live is the number of blocks not dead; a run without live blocks is freed, or QUEUED and listed, or INFLIGHT, or
 *     has had a part in a job.
 *  2. fresh holds the runs that are attached, in no seal so far, and in no flush; n_fresh is their live blocks, and
 *     n_fresh_dirty those of them that are DIRTY.
 *  3. the dirty tree holds the DIRTY runs, the queue the QUEUED ones, `written` the WRITTEN ones by completion.
 *  4. a block that was listed is written (only `skip` blocks are not, and a listed block never becomes one).
 *  5. a run has its buffer while it is DIRTY, QUEUED, INFLIGHT or FAILED, and while someone has pinned it.
 *
 * Rejected: a list that every unwritten segment repeats (grows with the square of what is queued); waiting for
 * completions on a condition variable (with io_uring somebody has to reap); one group for all writes (never empty
 * under a stream of them).
 */
#include <xxhash.h>

#include "wal/data_int.h"

static int dirty_cmp(const struct data_run *a, const struct data_run *b)
{
	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	return a->serial < b->serial ? -1 : a->serial > b->serial;
}

RB_GENERATE(data_dirty, data_run, dirty_link, dirty_cmp)

uint32_t data_checksum(const void *block)
{
	return (uint32_t)XXH3_64bits(block, BLOCK_SIZE);
}

uint32_t data_run_blocks(const struct data_run *r)
{
	return r->blocks;
}

/* --- runs and how they are found --- */

static size_t nodes_of(uint64_t addr, uint32_t blocks)
{
	return (size_t)(((addr + blocks - 1) >> CHUNK_SHIFT) - (addr >> CHUNK_SHIFT) + 1);
}

static struct chunk_chain *chain_of(const struct data *d, uint64_t chunk)
{
	return &d->chains[(chunk * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (d->n_chains - 1)];
}

static void chains_grow(struct data *d)
{
	size_t n = d->n_chains * 4;
	struct chunk_chain *bigger = mem_zalloc_array(n, sizeof(*bigger)), *old = d->chains;
	struct chunk_node *node;

	if (!bigger)
		return; /* longer chains, no more */
	d->chains = bigger;
	for (size_t i = d->n_chains; i-- > 0;) {
		while ((node = LIST_FIRST(&old[i]))) {
			size_t j;

			LIST_REMOVE(node, link);
			j = (node->chunk * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (n - 1);
			LIST_INSERT_HEAD(&bigger[j], node, link);
		}
	}
	d->n_chains = n;
	mem_free(old);
}

static void run_link(struct data *d, struct data_run *r)
{
	if (d->n_nodes > d->n_chains * 2)
		chains_grow(d);
	for (uint32_t i = 0; i < r->n_nodes; i++)
		LIST_INSERT_HEAD(chain_of(d, r->nodes[i].chunk), &r->nodes[i], link);
	d->n_nodes += r->n_nodes;
	LIST_INSERT_HEAD(&d->all, r, all_link);
	d->n_runs++;
}

static struct data_run *run_new(uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums)
{
	size_t n = nodes_of(addr, blocks), head = sizeof(struct data_run) + blocks * sizeof(*sums);
	struct data_run *r;

	head = (head + 7) & ~(size_t)7;
	r = mem_alloc(head + n * sizeof(*r->nodes));
	if (!r)
		return NULL;
	memset(r, 0, sizeof(*r));
	r->addr = addr;
	r->blocks = r->live = blocks;
	r->state = RUN_DIRTY;
	r->held = true;
	r->buf = buf;
	memcpy(r->sums, sums, blocks * sizeof(*sums));
	r->nodes = (struct chunk_node *)(void *)((char *)r + head);
	r->n_nodes = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		r->nodes[i].run = r;
		r->nodes[i].chunk = (addr >> CHUNK_SHIFT) + i;
	}
	return r;
}

void data_run_buffer_free(struct data *d, struct data_run *r)
{
	if (!r->buf || r->pins)
		return;
	mem_free(r->buf);
	r->buf = NULL;
	d->memory -= (size_t)r->blocks * BLOCK_SIZE;
	atomic_fetch_sub(&d->buffered, 1);
}

static void fresh_remove(struct data *d, struct data_run *r)
{
	if (!r->fresh)
		return;
	r->fresh = false;
	TAILQ_REMOVE(&d->fresh, r, fresh_link);
	d->n_fresh -= r->live;
	if (r->state == RUN_DIRTY)
		d->n_fresh_dirty -= r->live;
}

static void ridden_remove(struct data *d, struct data_run *r)
{
	if (!r->rides)
		return;
	r->rides = false;
	TAILQ_REMOVE(&d->ridden, r, ridden_link);
}

/* Nobody needs the run any more: out of everything. It must not be in flight. */
void data_run_forget(struct data *d, struct data_run *r)
{
	assert(r->jobs == 0 && !r->gone);
	fresh_remove(d, r);
	ridden_remove(d, r);
	if (r->state == RUN_DIRTY)
		RB_REMOVE(data_dirty, &d->dirty, r);
	else if (r->state == RUN_QUEUED)
		TAILQ_REMOVE(&d->queue, r, state_link);
	else if (r->state == RUN_WRITTEN)
		TAILQ_REMOVE(&d->written, r, state_link);
	for (uint32_t i = 0; i < r->n_nodes; i++)
		LIST_REMOVE(&r->nodes[i], link);
	d->n_nodes -= r->n_nodes;
	LIST_REMOVE(r, all_link);
	d->n_runs--;
	r->gone = true;
	data_run_buffer_free(d, r);
	if (!r->pins)
		mem_free(r);
}

static void unpin(struct data *d, struct data_run *r)
{
	assert(r->pins > 0);
	if (--r->pins)
		return;
	if (r->gone || r->state == RUN_WRITTEN || r->state == RUN_COVERED)
		data_run_buffer_free(d, r);
	if (r->gone)
		mem_free(r);
}

/* The last live block of r has gone. What is still to be written, or under way, goes later. */
bool data_run_forget_if_dead(struct data *d, struct data_run *r)
{
	if (r->live || r->state == RUN_INFLIGHT || (r->state == RUN_QUEUED && (r->listed || r->jobs)))
		return false;
	data_run_forget(d, r);
	return true;
}

/* --- putting, attaching, dropping, reading --- */

/* Is a block of [addr, addr + blocks) still on its way to the device, from its former life? */
static bool in_the_way(struct data *d, uint64_t addr, uint32_t blocks)
{
	for (uint64_t c = addr >> CHUNK_SHIFT; c <= (addr + blocks - 1) >> CHUNK_SHIFT; c++) {
		struct chunk_node *node;

		LIST_FOREACH(node, chain_of(d, c), link) {
			struct data_run *r = node->run;
			uint64_t from = addr > r->addr ? addr : r->addr, end = addr + blocks;

			if (end > r->addr + r->blocks)
				end = r->addr + r->blocks;
			for (; from < end; from++) {
				/* Two owners of one address would be the end of everything. */
				assert(set_has(&r->dead, (uint32_t)(from - r->addr)));
				if ((r->state == RUN_QUEUED || r->state == RUN_INFLIGHT) &&
				    !set_has(&r->skip, (uint32_t)(from - r->addr)))
					return true;
			}
		}
	}
	return false;
}

int data_put(struct data *d, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums, struct data_run **ret)
{
	size_t bytes = (size_t)blocks * BLOCK_SIZE;
	struct data_run *r;
	int err;

	assert(addr && blocks && blocks <= DATA_RUN_BLOCKS_MAX && ((uintptr_t)buf & (BLOCK_SIZE - 1)) == 0);
	r = run_new(addr, blocks, buf, sums);
	if (!r)
		return -ENOMEM;
	data_lock(d);
	while (!d->err && in_the_way(d, addr, blocks) && data_wait_oldest(d))
		;
	while (!d->err && d->memory && d->memory + bytes > d->memory_max) {
		data_enqueue_dirty(d, DATA_ATTACHED | DATA_PRIVATE);
		if (!data_wait_oldest(d))
			break;
	}
	if (d->err) {
		err = d->err;
		data_unlock(d);
		mem_free(r);
		return err;
	}
	d->memory += bytes;
	atomic_fetch_add(&d->buffered, 1);
	run_link(d, r);
	r->serial = ++d->serial;
	RB_INSERT(data_dirty, &d->dirty, r);
	*ret = r;
	if (blocks > DATA_SMALL_BLOCKS) {
		data_enqueue(d, r);
		data_pump(d, true);
	}
	data_unlock(d);
	return 0;
}

void data_attach(struct data *d, struct data_run *r)
{
	data_lock(d);
	assert(r->held && !r->attached && r->live);
	r->held = false;
	r->attached = true;
	if (r->state == RUN_COVERED) {
		data_run_forget(d, r);
	} else {
		r->fresh = true;
		TAILQ_INSERT_TAIL(&d->fresh, r, fresh_link);
		d->n_fresh += r->live;
		if (r->state == RUN_DIRTY)
			d->n_fresh_dirty += r->live;
	}
	data_unlock(d);
}

void data_disown(struct data *d, struct data_run *r)
{
	data_lock(d);
	assert(r->held && !r->attached && r->live);
	r->held = false;
	if (r->state == RUN_COVERED)
		data_run_forget(d, r);
	data_unlock(d);
}

/* Drops what of r lies in [from, end). True: that was the last of it, and it is freed. */
static bool drop_part(struct data *d, struct data_run *r, uint64_t from, uint64_t end)
{
	if (from < r->addr)
		from = r->addr;
	if (end > r->addr + r->blocks)
		end = r->addr + r->blocks;
	for (; from < end; from++) {
		uint32_t i = (uint32_t)(from - r->addr);

		if (set_has(&r->dead, i))
			continue;
		if (r->fresh) {
			d->n_fresh--;
			d->n_fresh_dirty -= r->state == RUN_DIRTY;
		}
		set_add(&r->dead, i);
		r->live--;
		if (r->state == RUN_DIRTY || (r->state == RUN_QUEUED && !r->listed && i >= r->cursor)) {
			set_add(&r->skip, i);
			d->dropped++;
		}
	}
	if (r->live)
		return false;
	fresh_remove(d, r);
	ridden_remove(d, r);
	return data_run_forget_if_dead(d, r);
}

static void drop_chunk(struct data *d, uint64_t chunk, uint64_t addr, uint64_t end)
{
	struct chunk_node *node, *next;

	LIST_FOREACH_SAFE(node, chain_of(d, chunk), link, next) {
		/* The next node may be of the run that goes: from the start then, what is dead is passed by. */
		if (node->chunk == chunk && drop_part(d, node->run, addr, end))
			next = LIST_FIRST(chain_of(d, chunk));
	}
}

void data_drop(struct data *d, uint64_t addr, uint64_t blocks)
{
	uint64_t first = addr >> CHUNK_SHIFT, last = (addr + blocks - 1) >> CHUNK_SHIFT;
	struct data_run *r, *next;

	if (blocks == 0)
		return;
	data_lock(d);
	if (last - first >= d->n_runs) {
		LIST_FOREACH_SAFE(r, &d->all, all_link, next)
			drop_part(d, r, addr, addr + blocks);
	} else {
		for (; first <= last; first++)
			drop_chunk(d, first, addr, addr + blocks);
	}
	data_unlock(d);
}

struct hit {
	struct data_run *run;
	uint32_t from, blocks; /* within the read */
};

/* What of [addr, addr + blocks) is in memory, pinned; blocks <= DATA_RUN_BLOCKS_MAX. Ascending by chunk only. */
static unsigned find_hits(struct data *d, uint64_t addr, uint32_t blocks, struct hit *hits)
{
	unsigned n = 0;

	for (uint64_t c = addr >> CHUNK_SHIFT; c <= (addr + blocks - 1) >> CHUNK_SHIFT; c++) {
		uint64_t lo = c << CHUNK_SHIFT, hi = lo + CHUNK_BLOCKS;
		struct chunk_node *node;

		lo = lo < addr ? addr : lo;
		hi = hi > addr + blocks ? addr + blocks : hi;
		LIST_FOREACH(node, chain_of(d, c), link) {
			struct data_run *r = node->run;
			uint64_t a = lo > r->addr ? lo : r->addr;

			if (node->chunk != c || !r->buf || r->state == RUN_WRITTEN || r->state == RUN_COVERED)
				continue;
			for (; a < hi && a < r->addr + r->blocks; a++) {
				if (set_has(&r->dead, (uint32_t)(a - r->addr)))
					continue;
				if (n && hits[n - 1].run == r && addr + hits[n - 1].from + hits[n - 1].blocks == a) {
					hits[n - 1].blocks++;
					continue;
				}
				r->pins++;
				hits[n++] = (struct hit){ .run = r, .from = (uint32_t)(a - addr), .blocks = 1 };
			}
		}
	}
	return n;
}

bool data_has(struct data *d, uint64_t addr)
{
	struct chunk_node *node;
	bool has = false;

	if (atomic_load(&d->buffered) == 0)
		return false;
	data_lock(d);
	LIST_FOREACH(node, chain_of(d, addr >> CHUNK_SHIFT), link) {
		struct data_run *r = node->run;

		if (r->buf && r->state != RUN_WRITTEN && r->state != RUN_COVERED && addr >= r->addr &&
		    addr < r->addr + r->blocks && !set_has(&r->dead, (uint32_t)(addr - r->addr))) {
			has = true;
			break;
		}
	}
	data_unlock(d);
	return has;
}

static int read_some(struct data *d, uint64_t addr, uint32_t blocks, uint8_t *buf)
{
	struct hit hits[DATA_RUN_BLOCKS_MAX];
	block_set have = { { 0 } };
	unsigned n;
	int err = 0;

	data_lock(d);
	n = find_hits(d, addr, blocks, hits);
	data_unlock(d);
	for (unsigned i = 0; i < n; i++) {
		memcpy(buf + (size_t)hits[i].from * BLOCK_SIZE,
		       hits[i].run->buf + (size_t)(addr + hits[i].from - hits[i].run->addr) * BLOCK_SIZE,
		       (size_t)hits[i].blocks * BLOCK_SIZE);
		for (uint32_t b = 0; b < hits[i].blocks; b++)
			set_add(&have, hits[i].from + b);
	}
	for (uint32_t from = 0, end; !err && from < blocks; from = end + 1) {
		for (end = from; end < blocks && !set_has(&have, end);)
			end++;
		if (end > from)
			err = bdev_read(d->bdev, addr + from, buf + (size_t)from * BLOCK_SIZE, end - from);
	}
	if (n) {
		data_lock(d);
		for (unsigned i = 0; i < n; i++)
			unpin(d, hits[i].run);
		data_unlock(d);
	}
	return err;
}

int data_read(struct data *d, uint64_t addr, uint32_t blocks, void *buf)
{
	uint8_t *to = buf;
	int err = 0;

	/* What the caller may read was put before; so a zero seen here is not news from the past. */
	if (atomic_load(&d->buffered) == 0)
		return bdev_read(d->bdev, addr, buf, blocks);
	while (blocks && !err) {
		uint32_t n = blocks < DATA_RUN_BLOCKS_MAX ? blocks : DATA_RUN_BLOCKS_MAX;

		err = read_some(d, addr, n, to);
		addr += n;
		to += (size_t)n * BLOCK_SIZE;
		blocks -= n;
	}
	return err;
}

/* --- for the log --- */

size_t data_unlisted_blocks(struct data *d)
{
	size_t n;

	data_lock(d);
	n = d->n_fresh;
	data_unlock(d);
	return n;
}

static void ride(struct data *d, struct data_run *r, struct data_seal *s)
{
	for (uint32_t i = 0; i < r->blocks; i++) {
		if (set_has(&r->dead, i))
			continue;
		r->pins++;
		s->riding[s->n_riding++] =
			(struct data_riding){ .addr = r->addr + i, .block = r->buf + (size_t)i * BLOCK_SIZE, .run = r };
	}
	d->n_ridden += r->live;
	assert(!r->rides && (TAILQ_EMPTY(&d->ridden) || TAILQ_LAST(&d->ridden, run_queue)->tag <= s->tag));
	r->rides = true;
	r->tag = s->tag;
	TAILQ_INSERT_TAIL(&d->ridden, r, ridden_link);
}

static void list(struct data_run *r, struct data_seal *s)
{
	for (uint32_t i = 0; i < r->blocks; i++)
		if (!set_has(&r->dead, i))
			s->checks[s->n_checks++] =
				(struct disk_check){ .addr = le64_put(r->addr + i), .sum = le32_put(r->sums[i]) };
	r->listed = true;
	if (r->state != RUN_WRITTEN && r->state != RUN_FAILED) {
		LIST_INSERT_HEAD(&s->waiting, r, seal_link);
		r->waited = true;
	}
}

static bool touch(const struct data_run *a, const struct data_run *b)
{
	return a && b && a->addr + a->blocks == b->addr && a->waited && b->waited;
}

/* Enqueues r amid those that were listed with it and lie beside it, in the order of addresses. */
static void enqueue_with_neighbours(struct data *d, struct data_run *r)
{
	struct data_run *other;

	while (touch((other = RB_PREV(data_dirty, &d->dirty, r)), r))
		r = other;
	do {
		other = RB_NEXT(data_dirty, &d->dirty, r);
		if (!touch(r, other))
			other = NULL;
		data_enqueue(d, r);
	} while ((r = other));
}

void data_seal(struct data *d, size_t ride_max, struct data_seal *s)
{
	struct data_run *r, *next;
	bool rides;

	s->n_checks = s->n_riding = 0;
	LIST_INIT(&s->waiting);
	data_lock(d);
	rides = d->n_fresh_dirty && d->n_fresh_dirty <= ride_max;
	TAILQ_FOREACH_SAFE(r, &d->fresh, fresh_link, next) {
		fresh_remove(d, r);
		if (rides && r->state == RUN_DIRTY)
			ride(d, r, s);
		else
			list(r, s);
	}
	assert(d->n_fresh == 0 && d->n_fresh_dirty == 0);
	if (!rides && !d->err) {
		LIST_FOREACH(r, &s->waiting, seal_link)
			if (r->state == RUN_DIRTY)
				enqueue_with_neighbours(d, r);
		data_pump(d, false);
	}
	data_unlock(d);
}

/* A job in flight that carries a part of r. */
static struct job *job_of(struct data *d, const struct data_run *r)
{
	for (unsigned i = 0; r->jobs && i < JOBS; i++) {
		if (!d->jobs[i].busy)
			continue;
		for (int k = 0; k < d->jobs[i].bio.iovcnt; k++)
			if (d->jobs[i].runs[k] == r)
				return &d->jobs[i];
	}
	return NULL;
}

int data_seal_wait(struct data *d, struct data_seal *s)
{
	struct data_run *r;
	int err;

	data_lock(d);
	while (!d->err && (r = LIST_FIRST(&s->waiting))) {
		struct job *j = job_of(d, r);

		if (j)
			data_wait_job(d, j);
		else
			data_wait_oldest(d);
	}
	err = d->err;
	data_unlock(d);
	return err;
}

void data_seal_done(struct data *d, struct data_seal *s)
{
	struct data_run *r;

	if (s->n_riding + s->n_checks == 0)
		return;
	data_lock(d);
	for (size_t i = 0; i < s->n_riding; i++)
		unpin(d, s->riding[i].run);
	s->n_riding = 0;
	while ((r = LIST_FIRST(&s->waiting))) {
		LIST_REMOVE(r, seal_link);
		r->waited = false;
	}
	data_unlock(d);
}

uint64_t data_ridden_oldest(struct data *d)
{
	struct data_run *r;
	uint64_t tag;

	data_lock(d);
	r = TAILQ_FIRST(&d->ridden);
	tag = r ? r->tag : UINT64_MAX;
	data_unlock(d);
	return tag;
}

/* --- opening, closing, looking --- */

int data_open(struct bdev *bdev, size_t memory_max, void (*failed)(void *arg, int err), void *arg, struct data **ret)
{
	struct data *d = mem_zalloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->n_chains = 1024;
	d->chains = mem_zalloc_array(d->n_chains, sizeof(*d->chains));
	if (!d->chains) {
		mem_free(d);
		return -ENOMEM;
	}
	d->bdev = bdev;
	d->memory_max = memory_max ? memory_max : MEMORY_MAX_DEFAULT;
	d->failed = failed;
	d->arg = arg;
	LIST_INIT(&d->all);
	RB_INIT(&d->dirty);
	TAILQ_INIT(&d->queue);
	TAILQ_INIT(&d->written);
	TAILQ_INIT(&d->fresh);
	TAILQ_INIT(&d->ridden);
	data_jobs_init(d);
	pthread_mutex_init(&d->io, NULL);
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->flushed, NULL);
	*ret = d;
	return 0;
}

void data_close(struct data *d)
{
	struct data_run *r;

	if (!d)
		return;
	/* Not only until they are done, but until nobody touches their groups any more. */
	for (unsigned i = 0; i < JOBS; i++)
		bdev_wait(d->bdev, &d->jobs[i].group);
	data_lock(d);
	assert(d->n_busy == 0);
	while ((r = LIST_FIRST(&d->all))) {
		assert(r->pins == 0);
		data_run_forget(d, r);
	}
	data_unlock(d);
	pthread_cond_destroy(&d->flushed);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->io);
	mem_free(d->chains);
	mem_free(d);
}

void data_stats(struct data *d, struct data_stats *ret)
{
	struct data_run *r;

	*ret = (struct data_stats){ 0 };
	data_lock(d);
	LIST_FOREACH(r, &d->all, all_link) {
		if (r->state == RUN_DIRTY)
			ret->dirty_blocks += r->live;
		else if (r->state == RUN_QUEUED || r->state == RUN_INFLIGHT)
			ret->inflight_blocks += r->live;
		else if (r->state == RUN_WRITTEN)
			ret->unflushed_blocks += r->live;
	}
	ret->memory = d->memory;
	ret->written_home = d->written_home;
	ret->dropped = d->dropped;
	ret->ridden = d->n_ridden;
	data_unlock(d);
}

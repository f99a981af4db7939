/*
 * The visible content is one pagemap, `now`. A write makes its pages, records them in the trace, and puts them into
 * `now` when it completes; a flush keeps a reference to the whole of `now` in the trace, which is exactly what is durable
 * from then on, because pages get into `now` by completing only. So a crash state (simdev_crash.c) is the map of the last
 * flush and the writes behind it, and neither the recording nor the branching ever copies a disk.
 */
#include "tests/kit/simdev.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/simdev_private.h"

#define BLOCKS_DEFAULT 65536u
#define NONE UINT64_MAX
#define SECTORS (BLOCK_SIZE / SIMDEV_SECTOR)
#define ALL_SECTORS ((1u << SECTORS) - 1)

/* Larger discards are decided as a whole, and leave garbage only where something was. */
#define DISCARD_BY_BLOCK_MAX 4096u

/* What reads that fail leave in the buffer. */
#define POISON 0xdb

void *simdev_must(void *p)
{
	if (!p) {
		fputs("the simulated disk is out of memory\n", stderr);
		abort();
	}
	return p;
}

static struct simdev *sim_of(struct bdev *dev)
{
	return (struct simdev *)dev;
}

/* --- tearing --- */

/* Puts the sectors named by mask. */
static void put_sectors(struct pagemap *map, const struct patch *p, unsigned mask)
{
	uint8_t mixed[BLOCK_SIZE];
	const uint8_t *fresh = page_data(p->page);
	struct page *page;

	if (mask == 0)
		return;
	if (mask == ALL_SECTORS) {
		pagemap_set(map, p->addr, p->page);
		return;
	}
	memcpy(mixed, page_data(pagemap_find(map, p->addr)), BLOCK_SIZE);
	for (unsigned s = 0; s < SECTORS; s++)
		if (mask & 1u << s)
			memcpy(mixed + s * SIMDEV_SECTOR, fresh + s * SIMDEV_SECTOR, SIMDEV_SECTOR);
	page = page_new(mixed);
	pagemap_set(map, p->addr, page);
	page_put(page);
}

void simdev_tear(struct pagemap *map, const struct patch *patch, size_t patches, struct rng *rng)
{
	enum { PREFIX, SUFFIX, ALL_BUT_ONE, ANY, KINDS } kind = rng_below(rng, KINDS);
	uint64_t sectors = patches * SECTORS;
	uint64_t at;

	if (patches == 0)
		return;
	at = rng_range(rng, 1, sectors - 1);
	for (size_t i = 0; i < patches; i++) {
		unsigned mask = 0;

		for (unsigned s = 0; s < SECTORS; s++) {
			uint64_t n = i * SECTORS + s;
			bool put = (kind == PREFIX && n < at) || (kind == SUFFIX && n >= at) ||
				   (kind == ALL_BUT_ONE && n != at) || (kind == ANY && rng_chance(rng, 1, 2));

			mask |= (unsigned)put << s;
		}
		put_sectors(map, &patch[i], mask);
	}
}

/* --- trace --- */

static uint64_t next_number(const struct simdev *sd)
{
	return sd->first + sd->ops;
}

static struct op *op_at(struct simdev *sd, uint64_t number)
{
	return &sd->op[number - sd->first];
}

static struct op *record_locked(struct simdev *sd, enum simdev_op kind, uint64_t addr, uint64_t blocks, int err)
{
	struct op *op;

	if (sd->ops == sd->ops_cap) {
		sd->ops_cap = sd->ops_cap ? 2 * sd->ops_cap : 64;
		sd->op = simdev_must(realloc(sd->op, sd->ops_cap * sizeof(*sd->op)));
	}
	op = &sd->op[sd->ops++];
	*op = (struct op){ .kind = kind, .err = err, .addr = addr, .blocks = blocks, .covered = NONE };
	return op;
}

static void forget(struct op *op)
{
	for (size_t i = 0; i < op->patches; i++)
		page_put(op->patch[i].page);
	free(op->patch);
	pagemap_put(&op->after);
}

/* Without a trace: what is durable and behind us goes. */
static void trim_locked(struct simdev *sd)
{
	uint64_t n = sd->open - sd->first;

	pagemap_put(&sd->base);
	sd->base = pagemap_get(&sd->now);
	for (uint64_t i = 0; i < n; i++)
		forget(&sd->op[i]);
	sd->ops -= n;
	memmove(sd->op, sd->op + n, sd->ops * sizeof(*sd->op));
	sd->first = sd->open;
}

/* --- faults --- */

static bool touches(const struct simdev_fault *f, uint64_t addr, uint64_t blocks)
{
	return f->blocks == 0 || (addr < f->addr + f->blocks && f->addr < addr + blocks);
}

/* Counts an operation that begins; returns the error it is to end with. */
static int begin_locked(struct simdev *sd, enum simdev_op kind, uint64_t addr, uint64_t blocks,
			enum simdev_effect *ret_effect)
{
	uint64_t number = kind == SIMDEV_READ ? sd->count[kind] : next_number(sd);
	int err = 0;

	*ret_effect = SIMDEV_NOT_DONE;
	if (kind != SIMDEV_READ && number >= sd->kill_at)
		sd->dead = true;
	if (sd->dead)
		return -EIO;
	sd->count[kind]++;
	if (sd->ask)
		err = sd->ask(sd->ask_arg, kind, number, addr, blocks);
	for (unsigned i = 0; i < sd->faults; i++) {
		struct fault *f = &sd->fault[i];
		uint64_t seen;

		if (f->rule.op != kind || !touches(&f->rule, addr, blocks))
			continue;
		seen = f->seen++;
		if (err || seen < f->rule.after || (f->rule.times && seen - f->rule.after >= f->rule.times))
			continue;
		err = f->rule.err ? f->rule.err : -EIO;
		*ret_effect = f->rule.effect;
		sd->failed++;
	}
	return err;
}

/* --- transfers --- */

/* A transfer that has begun. Kept in bio->priv while it is pending. */
struct ticket {
	uint64_t number; /* NONE: leaves no trace */
	int err;
	enum simdev_effect effect;
};

static uint64_t iov_blocks(const struct iovec *iov, int iovcnt)
{
	uint64_t bytes = 0;

	for (int i = 0; i < iovcnt; i++)
		bytes += iov[i].iov_len;
	return bytes >> BLOCK_SHIFT;
}

static struct ticket transfer_begin_locked(struct simdev *sd, enum bio_op dir, uint64_t addr, const struct iovec *iov,
					   int iovcnt)
{
	enum simdev_op kind = dir == BIO_READ ? SIMDEV_READ : SIMDEV_WRITE;
	uint64_t blocks = iov_blocks(iov, iovcnt);
	struct ticket t = { .number = NONE };
	struct op *op;
	size_t n = 0;

	t.err = begin_locked(sd, kind, addr, blocks, &t.effect);
	if (kind == SIMDEV_READ || sd->dead)
		return t;

	t.number = next_number(sd);
	op = record_locked(sd, kind, addr, blocks, t.err);
	if (t.err && t.effect == SIMDEV_NOT_DONE)
		return t;
	op->patch = simdev_must(malloc(blocks * sizeof(*op->patch)));
	op->patches = blocks;
	for (int i = 0; i < iovcnt; i++)
		for (size_t off = 0; off < iov[i].iov_len; off += BLOCK_SIZE, n++)
			op->patch[n] = (struct patch){ addr + n, page_new((char *)iov[i].iov_base + off) };
	return t;
}

static int transfer_end_locked(struct simdev *sd, struct ticket t, enum bio_op dir, uint64_t addr,
			       const struct iovec *iov, int iovcnt)
{
	struct op *op;

	if (sd->dead)
		t.err = -EIO;
	if (dir == BIO_READ) {
		for (int i = 0; i < iovcnt; i++)
			for (size_t off = 0; off < iov[i].iov_len; off += BLOCK_SIZE, addr++) {
				char *to = (char *)iov[i].iov_base + off;

				if (t.err)
					memset(to, POISON, BLOCK_SIZE);
				else
					memcpy(to, page_data(pagemap_find(&sd->now, addr)), BLOCK_SIZE);
			}
		return t.err;
	}
	/* What the disk died over stays open in the trace: it may have happened or not. */
	if (t.number == NONE || sd->dead)
		return t.err;

	op = op_at(sd, t.number);
	if (t.err && t.effect == SIMDEV_TORN) {
		struct rng rng;

		rng_seed(&rng, rng_mix(sd->seed, t.number));
		simdev_tear(&sd->now, op->patch, op->patches, &rng);
	} else {
		for (size_t i = 0; i < op->patches; i++)
			pagemap_set(&sd->now, op->patch[i].addr, op->patch[i].page);
	}
	op->completed = true;
	return t.err;
}

static int sim_rw(struct bdev *dev, enum bio_op dir, uint64_t addr, void *buf, uint32_t blocks)
{
	struct simdev *sd = sim_of(dev);
	struct iovec iov = { .iov_base = buf, .iov_len = (size_t)blocks << BLOCK_SHIFT };
	struct ticket t;
	int err;

	pthread_mutex_lock(&sd->lock);
	t = transfer_begin_locked(sd, dir, addr, &iov, 1);
	err = transfer_end_locked(sd, t, dir, addr, &iov, 1);
	pthread_mutex_unlock(&sd->lock);
	return err;
}

static struct ticket bio_begin_locked(struct simdev *sd, const struct bio *bio)
{
	return transfer_begin_locked(sd, bio->op, bio->addr, bio->iov, bio->iovcnt);
}

static int bio_end_locked(struct simdev *sd, const struct bio *bio, struct ticket t)
{
	return transfer_end_locked(sd, t, bio->op, bio->addr, bio->iov, bio->iovcnt);
}

static void wake(struct simdev *sd)
{
	pthread_mutex_lock(&sd->lock);
	pthread_cond_broadcast(&sd->changed);
	pthread_mutex_unlock(&sd->lock);
}

static void sim_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	struct simdev *sd = sim_of(dev);

	for (unsigned i = 0; i < n; i++) {
		struct bio *bio = bios[i];
		struct ticket t;
		int err;

		pthread_mutex_lock(&sd->lock);
		t = bio_begin_locked(sd, bio);
		if (sd->shuffle) {
			bio->priv[0] = t.number;
			bio->priv[1] = (uint64_t)-t.err;
			bio->priv[2] = t.effect;
			if (sd->n_pending == sd->pending_cap) {
				sd->pending_cap = sd->pending_cap ? 2 * sd->pending_cap : 64;
				sd->pending = simdev_must(realloc(sd->pending, sd->pending_cap * sizeof(*sd->pending)));
			}
			sd->pending[sd->n_pending++] = bio;
			pthread_mutex_unlock(&sd->lock);
			continue;
		}
		err = bio_end_locked(sd, bio, t);
		pthread_mutex_unlock(&sd->lock);
		bio_complete(bio, err);
	}
	wake(sd);
}

/* Completes one pending transfer, any. The lock is dropped and taken again. */
static void complete_one_locked(struct simdev *sd)
{
	size_t i = rng_below(&sd->rng, sd->n_pending);
	struct bio *bio = sd->pending[i];
	struct ticket t = { .number = bio->priv[0],
			    .err = -(int)bio->priv[1],
			    .effect = (enum simdev_effect)bio->priv[2] };
	int err;

	sd->pending[i] = sd->pending[--sd->n_pending];
	err = bio_end_locked(sd, bio, t);
	pthread_mutex_unlock(&sd->lock);
	bio_complete(bio, err);
	pthread_mutex_lock(&sd->lock);
	pthread_cond_broadcast(&sd->changed);
}

static void sim_wait(struct bdev *dev, struct bio_group *g)
{
	struct simdev *sd = sim_of(dev);

	pthread_mutex_lock(&sd->lock);
	while (atomic_load_explicit(&g->pending, memory_order_acquire)) {
		if (sd->n_pending)
			complete_one_locked(sd);
		else
			pthread_cond_wait(&sd->changed, &sd->lock);
	}
	pthread_mutex_unlock(&sd->lock);
}

static void sim_poll(struct bdev *dev)
{
	struct simdev *sd = sim_of(dev);

	pthread_mutex_lock(&sd->lock);
	while (sd->n_pending && rng_chance(&sd->rng, 3, 4))
		complete_one_locked(sd);
	pthread_cond_broadcast(&sd->changed);
	pthread_mutex_unlock(&sd->lock);
}

static int sim_flush(struct bdev *dev)
{
	struct simdev *sd = sim_of(dev);
	enum simdev_effect effect;
	uint64_t number;
	struct op *flush;
	int err;

	pthread_mutex_lock(&sd->lock);
	err = begin_locked(sd, SIMDEV_FLUSH, 0, 0, &effect);
	if (sd->dead)
		goto out;
	number = next_number(sd);
	flush = record_locked(sd, SIMDEV_FLUSH, 0, 0, err);
	flush->completed = true;
	if (err)
		goto out;

	for (uint64_t i = sd->open; i < number; i++) {
		struct op *op = op_at(sd, i);

		if (op->completed && op->covered == NONE && op->kind != SIMDEV_FLUSH)
			op->covered = number;
	}
	while (sd->open < next_number(sd) && op_at(sd, sd->open)->completed)
		sd->open++;
	flush->after = pagemap_get(&sd->now);
	flush->open_after = sd->open;
	if (sd->no_trace)
		trim_locked(sd);
out:
	pthread_mutex_unlock(&sd->lock);
	return err;
}

/* --- discard --- */

enum discard { DISCARD_ZEROS, DISCARD_OLD, DISCARD_GARBAGE, DISCARD_MIXED };

struct patches {
	struct patch *patch;
	size_t n, cap;
};

static void add_patch(struct patches *p, uint64_t addr, struct page *page)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 16;
		p->patch = simdev_must(realloc(p->patch, p->cap * sizeof(*p->patch)));
	}
	p->patch[p->n++] = (struct patch){ addr, page };
}

static struct page *garbage(struct rng *rng)
{
	uint8_t bytes[BLOCK_SIZE];

	rng_bytes(rng, bytes, sizeof(bytes));
	return page_new(bytes);
}

struct discard_walk {
	struct patches *patches;
	enum discard kind;
	struct rng *rng;
};

static void discard_block(struct discard_walk *w, uint64_t addr)
{
	enum discard kind = w->kind == DISCARD_MIXED ? (enum discard)rng_below(w->rng, DISCARD_MIXED) : w->kind;

	if (kind != DISCARD_OLD)
		add_patch(w->patches, addr, kind == DISCARD_GARBAGE ? garbage(w->rng) : NULL);
}

static void discard_page(void *arg, uint64_t addr, const struct page *page)
{
	(void)page;
	discard_block(arg, addr);
}

static int sim_discard(struct bdev *dev, uint64_t addr, uint64_t blocks)
{
	struct simdev *sd = sim_of(dev);
	struct patches patches = { 0 };
	struct discard_walk w = { .patches = &patches };
	enum simdev_effect effect;
	struct rng rng;
	struct op *op;
	int err;

	pthread_mutex_lock(&sd->lock);
	err = begin_locked(sd, SIMDEV_DISCARD, addr, blocks, &effect);
	if (sd->dead)
		goto out;
	rng_seed(&rng, rng_mix(sd->seed, next_number(sd)));
	w.rng = &rng;
	w.kind = (enum discard)rng_below(&rng, DISCARD_MIXED + 1);
	op = record_locked(sd, SIMDEV_DISCARD, addr, blocks, err);
	op->completed = true;
	if (err)
		goto out;

	if (blocks > DISCARD_BY_BLOCK_MAX)
		pagemap_each(&sd->now, addr, addr + blocks, discard_page, &w);
	else
		for (uint64_t a = addr; a < addr + blocks; a++)
			discard_block(&w, a);
	op->patch = patches.patch;
	op->patches = patches.n;
	for (size_t i = 0; i < op->patches; i++)
		pagemap_set(&sd->now, op->patch[i].addr, op->patch[i].page);
out:
	pthread_mutex_unlock(&sd->lock);
	return err;
}

/* --- life --- */

static int sim_resize(struct bdev *dev)
{
	struct simdev *sd = sim_of(dev);

	pthread_mutex_lock(&sd->lock);
	__atomic_store_n(&dev->geo.blocks, sd->blocks, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&sd->lock);
	return 0;
}

static void sim_close(struct bdev *dev)
{
	struct simdev *sd = sim_of(dev);

	pthread_mutex_lock(&sd->lock);
	while (sd->n_pending)
		complete_one_locked(sd);
	sd->opened = false;
	pthread_mutex_unlock(&sd->lock);
}

static const struct bdev_ops sim_ops = {
	.submit = sim_submit,
	.wait = sim_wait,
	.poll = sim_poll,
	.rw = sim_rw,
	.flush = sim_flush,
	.discard = sim_discard,
	.resize = sim_resize,
	.close = sim_close,
};

struct simdev *simdev_on(struct pagemap map, uint64_t blocks, uint64_t seed)
{
	struct simdev *sd = simdev_must(calloc(1, sizeof(*sd)));

	pthread_mutex_init(&sd->lock, NULL);
	pthread_cond_init(&sd->changed, NULL);
	sd->blocks = blocks;
	sd->seed = seed;
	rng_seed(&sd->rng, seed);
	sd->kill_at = NONE;
	sd->now = map;
	sd->base = pagemap_get(&map);
	return sd;
}

struct simdev *simdev_new(const struct simdev_options *opt)
{
	static const struct simdev_options defaults;
	struct pagemap map = { 0 };
	uint64_t blocks;
	struct simdev *sd;

	if (!opt)
		opt = &defaults;
	blocks = opt->blocks ? opt->blocks : BLOCKS_DEFAULT;
	if (opt->base) {
		map = pagemap_get(&opt->base->map);
		if (!opt->blocks)
			blocks = opt->base->blocks;
	}
	sd = simdev_on(map, blocks, opt->seed);
	sd->shuffle = opt->shuffle;
	sd->no_trace = opt->no_trace;
	sd->dev.geo.read_only = opt->read_only;
	return sd;
}

void simdev_free(struct simdev *sd)
{
	if (!sd)
		return;
	if (sd->opened)
		sim_close(&sd->dev);
	for (uint64_t i = 0; i < sd->ops; i++)
		forget(&sd->op[i]);
	free(sd->op);
	free(sd->pending);
	pagemap_put(&sd->now);
	pagemap_put(&sd->base);
	pthread_cond_destroy(&sd->changed);
	pthread_mutex_destroy(&sd->lock);
	free(sd);
}

struct bdev *simdev_bdev(struct simdev *sd)
{
	if (!sd->opened) {
		bdev_init(&sd->dev, &sim_ops, "simdev");
		sd->dev.geo.blocks = sd->blocks;
		sd->dev.geo.discard_blocks = 1;
		sd->opened = true;
	}
	return &sd->dev;
}

void simdev_set_blocks(struct simdev *sd, uint64_t blocks)
{
	pthread_mutex_lock(&sd->lock);
	sd->blocks = blocks;
	pthread_mutex_unlock(&sd->lock);
}

/* --- trace and faults, from outside --- */

uint64_t simdev_ops(struct simdev *sd)
{
	uint64_t n;

	pthread_mutex_lock(&sd->lock);
	n = next_number(sd);
	pthread_mutex_unlock(&sd->lock);
	return n;
}

uint64_t simdev_count(struct simdev *sd, enum simdev_op kind)
{
	uint64_t n;

	pthread_mutex_lock(&sd->lock);
	n = sd->count[kind];
	pthread_mutex_unlock(&sd->lock);
	return n;
}

bool simdev_record_at(struct simdev *sd, uint64_t number, struct simdev_record *ret)
{
	bool found;

	pthread_mutex_lock(&sd->lock);
	found = number >= sd->first && number < next_number(sd);
	if (found) {
		const struct op *op = op_at(sd, number);

		*ret = (struct simdev_record){ .number = number,
					       .op = op->kind,
					       .addr = op->addr,
					       .blocks = op->blocks,
					       .covered = op->covered,
					       .err = op->err };
	}
	pthread_mutex_unlock(&sd->lock);
	return found;
}

void simdev_add_fault(struct simdev *sd, const struct simdev_fault *rule)
{
	pthread_mutex_lock(&sd->lock);
	if (sd->faults == SIMDEV_FAULTS) {
		fputs("the simulated disk has no room for another fault\n", stderr);
		abort();
	}
	sd->fault[sd->faults++] = (struct fault){ .rule = *rule };
	pthread_mutex_unlock(&sd->lock);
}

void simdev_clear_faults(struct simdev *sd)
{
	pthread_mutex_lock(&sd->lock);
	sd->faults = 0;
	sd->ask = NULL;
	sd->kill_at = NONE;
	sd->dead = false;
	pthread_mutex_unlock(&sd->lock);
}

uint64_t simdev_failed(struct simdev *sd)
{
	uint64_t n;

	pthread_mutex_lock(&sd->lock);
	n = sd->failed;
	pthread_mutex_unlock(&sd->lock);
	return n;
}

void simdev_set_callback(struct simdev *sd,
			 int (*ask)(void *arg, enum simdev_op, uint64_t number, uint64_t addr, uint64_t blocks),
			 void *arg)
{
	pthread_mutex_lock(&sd->lock);
	sd->ask = ask;
	sd->ask_arg = arg;
	pthread_mutex_unlock(&sd->lock);
}

void simdev_kill_at(struct simdev *sd, uint64_t number)
{
	pthread_mutex_lock(&sd->lock);
	sd->kill_at = number;
	pthread_mutex_unlock(&sd->lock);
}

bool simdev_dead(struct simdev *sd)
{
	bool dead;

	pthread_mutex_lock(&sd->lock);
	dead = sd->dead;
	pthread_mutex_unlock(&sd->lock);
	return dead;
}

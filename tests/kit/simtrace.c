/*
 * Makes the operations of a simulated disk without running it: each record is turned into what simdev.c would have noted. The
 * difference is time. The simulated disk's flush is one moment; here writes end while a flush is under way, and are not covered by
 * it. So which writes are open at a flush's end is decided by two positions in the file, that of the write's end and that of the
 * flush's beginning, and `durable` collects the covered ones in the order in which they began. That order is right: a write
 * may only be followed by another of the same block once it has ended, so whatever covers the second covers the first.
 */
#include "tests/kit/simtrace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/kit/simdev_private.h"

#define NONE UINT64_MAX
#define BLOCKS_MAX (1u << 20) /* of one write: more is damage */

struct loading {
	struct simtrace *t;
	struct simdev *disk;
	struct pagemap durable;
	uint64_t position; /* in records */

	/* By id: the operation it became (writes, discards), where it ended, or where it began (flushes). */
	struct begun {
		uint64_t op, at;
	} * begun;
	size_t begun_n, begun_cap;

	uint64_t *ended; /* by operation: position of its end; NONE */
	size_t ended_cap;
	void *buf;
	size_t buf_cap;
};

static void *grow(void *array, size_t *cap, size_t need, size_t each)
{
	if (need <= *cap)
		return array;
	while (*cap < need)
		*cap = *cap ? 2 * *cap : 64;
	return simdev_must(realloc(array, *cap * each));
}

static struct op *add_op(struct loading *l, enum simdev_op kind, const struct simtrace_record *r)
{
	struct simdev *disk = l->disk;
	uint64_t n = disk->ops;

	disk->op = grow(disk->op, &disk->ops_cap, n + 1, sizeof(*disk->op));
	l->ended = grow(l->ended, &l->ended_cap, n + 1, sizeof(*l->ended));
	l->t->stamp = grow(l->t->stamp, &l->t->stamps_cap, n + 1, sizeof(*l->t->stamp));
	disk->op[n] = (struct op){ .kind = kind, .err = r->err, .addr = r->addr, .blocks = r->blocks, .covered = NONE };
	l->ended[n] = NONE;
	l->t->stamp[n] = r->stamp_ns;
	disk->count[kind]++;
	disk->ops++;
	return &disk->op[n];
}

static int add_begun(struct loading *l, const struct simtrace_record *r, uint64_t op)
{
	if (r->id != l->begun_n)
		return -EUCLEAN;
	l->begun = grow(l->begun, &l->begun_cap, l->begun_n + 1, sizeof(*l->begun));
	l->begun[l->begun_n++] = (struct begun){ .op = op, .at = l->position };
	return 0;
}

/* ---- records ---- */

static int on_write(struct loading *l, const struct simtrace_record *r)
{
	struct op *op = add_op(l, SIMDEV_WRITE, r);

	op->patch = simdev_must(malloc(r->blocks * sizeof(*op->patch)));
	op->patches = r->blocks;
	for (uint64_t i = 0; i < r->blocks; i++)
		op->patch[i] = (struct patch){ r->addr + i, page_new((char *)l->buf + i * BLOCK_SIZE) };
	return add_begun(l, r, l->disk->ops - 1);
}

struct discarding {
	struct op *op;
	size_t cap;
	struct rng rng;
};

/* What was there may still be there (the crash drops the discard), be zeros, or anything. */
static void discard_page(void *arg, uint64_t addr, const struct page *page)
{
	struct discarding *d = arg;
	struct op *op = d->op;
	uint8_t garbage[BLOCK_SIZE];
	struct page *to = NULL;

	(void)page;
	if (rng_chance(&d->rng, 1, 2)) {
		rng_bytes(&d->rng, garbage, sizeof(garbage));
		to = page_new(garbage);
	}
	op->patch = grow(op->patch, &d->cap, op->patches + 1, sizeof(*op->patch));
	op->patch[op->patches++] = (struct patch){ addr, to };
}

static int on_discard(struct loading *l, const struct simtrace_record *r)
{
	struct discarding d = { .op = add_op(l, SIMDEV_DISCARD, r) };

	rng_seed(&d.rng, rng_mix(l->disk->seed, l->disk->ops));
	pagemap_each(&l->disk->now, r->addr, r->addr + r->blocks, discard_page, &d);
	return add_begun(l, r, l->disk->ops - 1);
}

static void put(struct pagemap *map, const struct op *op)
{
	for (size_t i = 0; i < op->patches; i++)
		pagemap_set(map, op->patch[i].addr, op->patch[i].page);
}

static void forget(struct op *op)
{
	for (size_t i = 0; i < op->patches; i++)
		page_put(op->patch[i].page);
	free(op->patch);
	op->patch = NULL;
	op->patches = 0;
}

static int on_transfer_end(struct loading *l, const struct simtrace_record *r)
{
	uint64_t n = r->id < l->begun_n ? l->begun[r->id].op : NONE;
	struct op *op;

	if (n == NONE)
		return -EUCLEAN;
	op = &l->disk->op[n];
	op->err = r->err;
	if (r->err) {
		/* A write that failed may have happened or may yet; a discard did not. */
		if (op->kind == SIMDEV_DISCARD)
			forget(op);
		else
			l->t->failed++;
		return 0;
	}
	op->completed = true;
	l->ended[n] = l->position;
	put(&l->disk->now, op);
	return 0;
}

static int on_flush_end(struct loading *l, const struct simtrace_record *r)
{
	struct simdev *disk = l->disk;
	struct op *flush;
	uint64_t number;

	if (r->id >= l->begun_n)
		return -EUCLEAN;
	flush = add_op(l, SIMDEV_FLUSH, r);
	number = disk->ops - 1;
	flush->completed = true;
	l->t->failed += r->err != 0;
	if (r->err)
		return 0;
	for (uint64_t i = disk->open; i < number; i++) {
		struct op *op = &disk->op[i];

		if (op->kind == SIMDEV_FLUSH || op->covered != NONE || l->ended[i] == NONE ||
		    l->ended[i] > l->begun[r->id].at)
			continue;
		op->covered = number;
		put(&l->durable, op);
	}
	while (disk->open < number &&
	       (disk->op[disk->open].kind == SIMDEV_FLUSH || disk->op[disk->open].covered != NONE))
		disk->open++;
	flush->after = pagemap_get(&l->durable);
	flush->open_after = disk->open;
	return 0;
}

static int on_record(struct loading *l, const struct simtrace_record *r)
{
	switch (r->kind) {
	case SIMTRACE_WRITE:
		return on_write(l, r);
	case SIMTRACE_DISCARD:
		return on_discard(l, r);
	case SIMTRACE_FLUSH:
		return add_begun(l, r, NONE);
	case SIMTRACE_WRITE_END:
	case SIMTRACE_DISCARD_END:
		return on_transfer_end(l, r);
	case SIMTRACE_FLUSH_END:
		return on_flush_end(l, r);
	default:
		return -EUCLEAN;
	}
}

/* ---- the file ---- */

/* >0: the end, also in the middle of a record. */
static int read_record(struct loading *l, FILE *f, struct simtrace_record *r)
{
	size_t bytes;

	if (fread(r, sizeof(*r), 1, f) != 1)
		return 1;
	if (r->kind != SIMTRACE_WRITE)
		return 0;
	if (r->blocks == 0 || r->blocks > BLOCKS_MAX)
		return -EUCLEAN;
	bytes = (size_t)r->blocks << BLOCK_SHIFT;
	l->buf = grow(l->buf, &l->buf_cap, bytes, 1);
	return fread(l->buf, bytes, 1, f) == 1 ? 0 : 1;
}

int simtrace_load(const char *path, const struct simdev_image *base, uint64_t seed, struct simtrace *ret)
{
	struct simtrace t = { .disk = simdev_new(&(struct simdev_options){ .base = base, .seed = seed }) };
	struct loading l = { .t = &t, .disk = t.disk, .durable = pagemap_get(&t.disk->base) };
	FILE *f = fopen(path, "re");
	int err = f ? 0 : -errno;

	while (!err) {
		struct simtrace_record r;

		err = read_record(&l, f, &r);
		if (!err)
			err = on_record(&l, &r);
		l.position++;
	}
	if (f)
		fclose(f);
	free(l.begun);
	free(l.ended);
	free(l.buf);
	pagemap_put(&l.durable);
	if (err > 0) {
		*ret = t;
		return 0;
	}
	fprintf(stderr, "%s: record %" PRIu64 " is none\n", path, l.position);
	simtrace_release(&t);
	return err;
}

void simtrace_release(struct simtrace *t)
{
	simdev_free(t->disk);
	free(t->stamp);
	*t = (struct simtrace){ 0 };
}

uint64_t simtrace_stamp(const struct simtrace *t, uint64_t n)
{
	return n < t->disk->ops ? t->stamp[n] : UINT64_MAX;
}

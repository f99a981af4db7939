/*
 * The space map against a plain array, by chance: one thread, where every bit is compared, and several at once.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/rng.h"
#include "tests/kit/spacefs.h"
#include "tests/kit/test.h"

/* Runs of blocks in the same state. */
struct piece {
	uint64_t addr;
	uint32_t blocks;
};

struct pieces {
	struct piece *v;
	size_t n, cap;
};

static void piece_add(struct pieces *p, uint64_t addr, uint32_t blocks)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 64;
		p->v = realloc(p->v, p->cap * sizeof(*p->v));
	}
	p->v[p->n++] = (struct piece){ addr, blocks };
}

/* Takes one out, or the end of one. */
static struct piece piece_pick(struct pieces *p, struct rng *rng)
{
	size_t i = rng_below(rng, p->n);
	struct piece out = p->v[i];

	if (out.blocks > 1 && rng_chance(rng, 1, 3)) {
		uint32_t keep = (uint32_t)rng_range(rng, 1, out.blocks - 1);

		p->v[i].blocks = keep;
		out.addr += keep;
		out.blocks -= keep;
	} else {
		p->v[i] = p->v[--p->n];
	}
	return out;
}

struct events {
	struct space_event *v;
	size_t n, cap;
};

static void event_add(struct events *e, struct space_event ev)
{
	if (e->n == e->cap) {
		e->cap = e->cap ? 2 * e->cap : 64;
		e->v = realloc(e->v, e->cap * sizeof(*e->v));
	}
	e->v[e->n++] = ev;
}

/* --- one thread --- */

struct random_row {
	const char *name;
	uint64_t blocks, blocks_max; /* grows from the one to the other */
	uint64_t log_blocks;
	size_t mem_max;
	uint64_t seed;
	unsigned steps;
	unsigned fill; /* per cent used up at the beginning, in long runs */
};

static const struct random_row random_rows[] = {
	{ "random: a tiny filesystem", 700, 700, 400, 0, 1, 4000, 0 },
	{ "random: a tiny filesystem that grows within its group", 700, 3000, 400, 0, 2, 4000, 0 },
	{ "random: one group", G, G, 1000, 0, 3, 3000, 95 },
	{ "random: a few groups, nothing kept in memory", 4 * G + 777, 4 * G + 777, 1000, 1, 4, 1500, 90 },
	{ "random: a few groups that grow", 2 * G + 777, 6 * G + 5, 1000, 1, 5, 1500, 95 },
	{ "random: two levels, nothing kept in memory", 131 * G + 9, 131 * G + 9, 1000, 1, 6, 250, 99 },
	{ "random: growth over a radix level", 127 * G + 99, 130 * G + 44, 1000, 1, 7, 250, 99 },
};

/* A piece is taken, then reached, then released, then freed. */
struct run {
	struct spacefs fs;
	struct blockmap m;
	struct rng rng;
	struct pieces taken, live, gone;
	struct events events; /* since the last checkpoint */
};

static void run_fill(struct run *r, unsigned percent)
{
	for (uint64_t a = 0; percent && a < r->m.blocks;
	     a += rng_range(&r->rng, 1, 2 * G) * (100 - percent) / 100 + 1) {
		uint64_t behind = a + rng_range(&r->rng, 1, 2 * G);

		for (; a < behind && a < r->m.blocks; a++) {
			uint64_t len = G - a % G;

			len = len < behind - a ? len : behind - a;
			len = len < r->m.blocks - a ? len : r->m.blocks - a;
			if (!space_valid(r->fs.space, a, len))
				continue;
			assert_int_equal(space_mark_used(r->fs.space, a, len), 0);
			blockmap_change(&r->m, a, len, BLOCK_USED, 0);
			piece_add(&r->taken, a, (uint32_t)len);
			a += len - 1;
		}
	}
}

static void run_alloc(struct run *r)
{
	uint32_t want = (uint32_t)rng_range(&r->rng, 1, rng_chance(&r->rng, 1, 10) ? 4000 : 80);
	uint32_t min = rng_chance(&r->rng, 1, 2) ? want : (uint32_t)rng_range(&r->rng, 1, want), got;
	uint64_t addr;
	int err =
		space_alloc(r->fs.space, (enum space_stream)rng_below(&r->rng, SPACE_STREAMS), min, want, &addr, &got);

	if (err) {
		assert_int_equal(err, -ENOSPC);
		assert_true(blockmap_longest(&r->m) < min);
		return;
	}
	assert_true(got >= min && got <= want);
	assert_true(blockmap_all(&r->m, addr, got, BLOCK_USED, 0));
	blockmap_change(&r->m, addr, got, BLOCK_USED, 0);
	piece_add(&r->taken, addr, got);
}

static void run_free(struct run *r, struct pieces *from)
{
	struct piece p = piece_pick(from, &r->rng);

	assert_int_equal(space_free(r->fs.space, p.addr, p.blocks), 0);
	blockmap_change(&r->m, p.addr, p.blocks, 0, BLOCK_USED);
}

static void run_checkpoint(struct run *r)
{
	struct space_root root;

	assert_int_equal(space_apply(r->fs.space, r->events.v, r->events.n), 0);
	blockmap_apply(&r->m, r->events.v, r->events.n);
	r->events.n = 0;
	assert_int_equal(spacefs_write(&r->fs, &root), 0);
	/* Until the new root is durable both older ones must be whole. */
	blockmap_assert_roots(&r->m, &r->fs, r->fs.dev);
	spacefs_commit(&r->fs, &root);
	blockmap_commit(&r->m);
	blockmap_assert(&r->m, &r->fs);
}

static void run_grow(struct run *r, uint64_t blocks_max)
{
	uint64_t blocks = rng_chance(&r->rng, 1, 3) ? blocks_max : rng_range(&r->rng, r->m.blocks, blocks_max);
	uint64_t room = space_free_blocks(r->fs.space);

	assert_int_equal(space_grow(r->fs.space, blocks), 0);
	assert_int_equal(space_free_blocks(r->fs.space), room);
	r->fs.geo.blocks = blocks;
	blockmap_grow(&r->m, &r->fs);
	run_checkpoint(r);
}

/* What was not reached by the last checkpoint is free again. Both slots then say the same. */
static void run_crash(struct run *r)
{
	spacefs_reopen(&r->fs);
	r->fs.older = r->fs.root;
	blockmap_crash(&r->m);
	r->events.n = r->taken.n = r->live.n = r->gone.n = 0;
	for (uint64_t a = 0; a < r->m.blocks; a++)
		if ((r->m.now[a] & (BLOCK_DURABLE | BLOCK_FIXED)) == BLOCK_DURABLE)
			piece_add(&r->live, a, 1);
	blockmap_assert(&r->m, &r->fs);
}

static void random_operations_agree_with_a_plain_array(void **state)
{
	const struct random_row *row = *state;
	struct run r = { 0 };
	struct piece p;

	rng_seed_env(&r.rng, row->seed);
	spacefs_init_sized(&r.fs, row->blocks, row->log_blocks, row->blocks_max, false);
	r.fs.mem_max = row->mem_max;
	spacefs_reopen(&r.fs);
	blockmap_init(&r.m, &r.fs, row->blocks_max);
	run_fill(&r, row->fill);

	for (unsigned step = 0; step < row->steps; step++) {
		uint64_t what = rng_below(&r.rng, 100);

		if (what < 50) {
			run_alloc(&r);
		} else if (what < 65 && r.taken.n > 0) {
			p = piece_pick(&r.taken, &r.rng);
			event_add(&r.events, reached(p.addr, p.blocks));
			piece_add(&r.live, p.addr, p.blocks);
		} else if (what < 75 && r.live.n > 0) {
			p = piece_pick(&r.live, &r.rng);
			event_add(&r.events, released(p.addr, p.blocks));
			piece_add(&r.gone, p.addr, p.blocks);
		} else if (what < 80 && r.taken.n > 0) {
			run_free(&r, &r.taken);
		} else if (what < 93 && r.gone.n > 0 && r.events.n == 0) {
			run_free(&r, &r.gone);
		} else if (what < 97) {
			run_checkpoint(&r);
		} else if (what < 98 && r.m.blocks < row->blocks_max && r.events.n == 0) {
			run_grow(&r, row->blocks_max);
		} else if (what == 99 && rng_chance(&r.rng, 1, 3)) {
			run_crash(&r);
		}
	}
	assert_int_equal(spacefs_reports(), 0);
	spacefs_release(&r.fs);
	blockmap_release(&r.m);
	free(r.events.v);
	free(r.taken.v);
	free(r.live.v);
	free(r.gone.v);
}

/* --- threads --- */

#define CHURNERS 4
#define CHURN_GROUPS 140
#define CHURN_ROUNDS 4000

enum { NOBODY = 0, FULL = 254, RELEASED = 255 };

static struct {
	struct spacefs fs;
	atomic_uchar *owner; /* one a block: a churner's number, or one of those above */
	atomic_uint running;
	pthread_mutex_t lock;
	struct events events; /* for the next checkpoint; guarded by lock */
	struct pieces gone;   /* released, to be freed after the next checkpoint; guarded by lock */
} race;

static void race_event(struct space_event ev)
{
	pthread_mutex_lock(&race.lock);
	event_add(&race.events, ev);
	if (ev.kind == SPACE_RELEASED)
		piece_add(&race.gone, ev.addr, ev.blocks);
	pthread_mutex_unlock(&race.lock);
}

static void race_own(uint64_t addr, uint32_t blocks, unsigned char from, unsigned char to)
{
	for (uint64_t a = addr; a < addr + blocks; a++) {
		unsigned char expected = from;

		if (!atomic_compare_exchange_strong(&race.owner[a], &expected, to))
			abort();
	}
}

static void *churn(void *arg)
{
	unsigned char me = (unsigned char)(uintptr_t)arg;
	struct pieces mine = { 0 }, live = { 0 };
	struct rng rng;

	rng_seed(&rng, me);
	for (unsigned i = 0; i < CHURN_ROUNDS; i++) {
		uint64_t what = rng_below(&rng, 10), addr;
		struct piece p;
		uint32_t got;
		int err;

		if (what < 5) {
			err = space_alloc(race.fs.space, (enum space_stream)rng_below(&rng, SPACE_STREAMS), 1,
					  (uint32_t)rng_range(&rng, 1, 3000), &addr, &got);
			if (err == -ENOSPC)
				continue;
			if (err)
				abort();
			race_own(addr, got, NOBODY, me);
			piece_add(&mine, addr, got);
		} else if (what < 7 && mine.n > 0) {
			p = piece_pick(&mine, &rng);
			race_own(p.addr, p.blocks, me, NOBODY);
			if (space_free(race.fs.space, p.addr, p.blocks))
				abort();
		} else if (what < 8 && mine.n > 0) {
			p = piece_pick(&mine, &rng);
			race_event(reached(p.addr, p.blocks));
			piece_add(&live, p.addr, p.blocks);
		} else if (what < 9 && live.n > 0) {
			p = piece_pick(&live, &rng);
			race_own(p.addr, p.blocks, me, RELEASED);
			race_event(released(p.addr, p.blocks));
		} else {
			if (space_bitmaps(race.fs.space, rng_below(&rng, CHURN_GROUPS), NULL, NULL))
				abort();
			(void)space_free_blocks(race.fs.space);
			(void)space_valid(race.fs.space, i, 1);
		}
	}
	free(mine.v);
	free(live.v);
	atomic_fetch_sub(&race.running, 1);
	return NULL;
}

static void race_checkpoint(void)
{
	struct events events;
	struct pieces gone;

	pthread_mutex_lock(&race.lock);
	events = race.events;
	gone = race.gone;
	memset(&race.events, 0, sizeof(race.events));
	memset(&race.gone, 0, sizeof(race.gone));
	pthread_mutex_unlock(&race.lock);
	spacefs_checkpoint(&race.fs, events.v, events.n);
	for (size_t i = 0; i < gone.n; i++) {
		race_own(gone.v[i].addr, gone.v[i].blocks, RELEASED, NOBODY);
		assert_int_equal(space_free(race.fs.space, gone.v[i].addr, gone.v[i].blocks), 0);
	}
	free(events.v);
	free(gone.v);
}

static void threads_and_checkpoints_never_share_a_block(void **state)
{
	uint8_t *used = malloc(BITMAP_BYTES), *durable = malloc(BITMAP_BYTES);
	pthread_t thread[CHURNERS];
	uint64_t free_blocks = 0, checkpoints = 0, grown = CHURN_GROUPS;

	(void)state;
	memset(&race, 0, sizeof(race));
	spacefs_init_sized(&race.fs, CHURN_GROUPS * (uint64_t)G, 1000, (CHURN_GROUPS + 20) * (uint64_t)G, false);
	race.fs.mem_max = 1;
	spacefs_reopen(&race.fs);
	race.owner = calloc((CHURN_GROUPS + 20) * (size_t)G, 1);
	pthread_mutex_init(&race.lock, NULL);
	/* Nearly full, so that the threads move about. */
	for (uint64_t g = 0; g < CHURN_GROUPS; g++) {
		struct space_event ev = spacefs_used_up(&race.fs, g, 900);

		spacefs_use_up(&race.fs, g, 900);
		race_event(ev);
		race_own(ev.addr, ev.blocks, NOBODY, FULL);
	}
	race_checkpoint();

	atomic_init(&race.running, CHURNERS);
	for (unsigned i = 0; i < CHURNERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, churn, (void *)(uintptr_t)(i + 1)), 0);
	while (atomic_load(&race.running)) {
		race_checkpoint();
		if (++checkpoints % 4 == 0 && grown < CHURN_GROUPS + 20)
			assert_int_equal(space_grow(race.fs.space, race.fs.geo.blocks = ++grown * (uint64_t)G), 0);
	}
	for (unsigned i = 0; i < CHURNERS; i++)
		pthread_join(thread[i], NULL);
	race_checkpoint();
	print_message("# %llu checkpoints\n", (unsigned long long)checkpoints);

	for (uint64_t g = 0; g < grown; g++) {
		assert_int_equal(space_bitmaps(race.fs.space, g, used, durable), 0);
		for (uint32_t i = 0; i < G; i++)
			if (space_valid(race.fs.space, g * G + i, 1)) {
				assert_int_equal(bit(used, i), atomic_load(&race.owner[g * G + i]) != 0);
				free_blocks += !bit(used, i);
			}
	}
	assert_int_equal(space_free_blocks(race.fs.space), free_blocks);
	spacefs_release(&race.fs);
	free(race.owner);
	free(race.events.v);
	free(race.gone.v);
	free(used);
	free(durable);
}

/* --- all of them --- */

#define ROWS_MAX 100
#define ONE(f) (tests[n++] = (struct CMUnitTest){ .name = #f, .test_func = (f) })

int main(void)
{
	static struct CMUnitTest tests[ROWS_MAX];
	size_t n = 0;

	spacefs_count_reports();
	for (size_t row = 0; row < ARRAY_LEN(random_rows); row++)
		tests[n++] =
			TEST_ROW(random_rows[row].name, random_operations_agree_with_a_plain_array, &random_rows[row]);
	ONE(threads_and_checkpoints_never_share_a_block);
	return _cmocka_run_group_tests("space", tests, n, NULL, NULL);
}

/*
 * check_data.c - reads every block of file data and holds it against its checksum
 *
 * Extents are collected in windows, in the order of files, and read in the order of addresses: neighbours together, several
 * threads. A window bounds the memory for the checksums, and is large enough that little is lost at its ends.
 *
 * A block is read once, however many files and views refer to it: a bit each says that it was verified. The addresses that
 * did not verify are kept, so that every file that has such a block is told, not only the first.
 *
 * Blocks are compared here and not by view_read, which would end at the first that is wrong. Where reading several together
 * fails, they are read one by one.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/check_int.h"

#define WINDOW_RUNS 32768u
#define WINDOW_BLOCKS 131072u /* 512 MiB */
#define READ_BLOCKS 256u

/* An extent item. */
struct run {
	uint64_t addr, ino, off;
	uint32_t blocks, sum; /* sum: its first, in window.sums */
	bool wanted;	      /* some of it was not verified before */
};

struct window {
	struct run *runs;
	size_t n_runs;
	uint32_t *sums;
	size_t n_sums;
	uint32_t *groups; /* first run of what is read together; one more at the end */
	size_t n_groups;
	uint64_t done; /* blocks, for progress */
};

static bool bit_get(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static bool is_inside(const struct check *c, const struct run *r)
{
	return r->addr < c->blocks && r->blocks <= c->blocks - r->addr;
}

static void tell_bad(struct check *c, const struct run *r, uint32_t from, uint32_t to)
{
	check_problem(c, FS_PROBLEM_DATA_BAD, r->ino, r->off + (uint64_t)from * BLOCK_SIZE, 0, NULL, 0,
		      "bytes %" PRIu64 " to %" PRIu64 ", at block %" PRIu64 " of the device",
		      r->off + (uint64_t)from * BLOCK_SIZE, r->off + (uint64_t)to * BLOCK_SIZE - 1, r->addr + from);
}

/* ---- reading ---- */

static int note_bad(struct check *c, uint64_t addr)
{
	int err;

	pthread_mutex_lock(&c->lock);
	err = mem_grow((void **)&c->bad, &c->cap_bad, c->n_bad + 1, sizeof(*c->bad));
	if (!err)
		c->bad[c->n_bad++] = addr;
	pthread_mutex_unlock(&c->lock);
	return err;
}

/* One run whose bytes are in buf; NULL: they have to be read block by block into `one`. */
static int verify_run(struct check *c, const struct window *w, const struct run *r, const uint8_t *buf, uint8_t *one)
{
	uint32_t bad_from = 0;
	bool bad = false;
	int err;

	for (uint32_t i = 0; i <= r->blocks; i++) {
		bool right = i == r->blocks;

		if (!right && buf) {
			right = data_checksum(buf + (size_t)i * BLOCK_SIZE) == w->sums[r->sum + i];
		} else if (!right) {
			err = view_read(c->view, r->addr + i, 1, one, NULL);
			if (err && !check_is_damage(err))
				return err;
			right = !err && data_checksum(one) == w->sums[r->sum + i];
		}
		if (right && bad)
			tell_bad(c, r, bad_from, i);
		if (right) {
			bad = false;
			continue;
		}
		if (!bad)
			bad_from = i;
		bad = true;
		err = note_bad(c, r->addr + i);
		if (err)
			return err;
	}
	return 0;
}

static int read_group(struct check *c, size_t g, void *arg)
{
	struct window *w = arg;
	const struct run *first = &w->runs[w->groups[g]], *end = &w->runs[w->groups[g + 1]];
	const struct run *last = first;
	uint32_t blocks;
	uint8_t *buf;
	bool whole;
	int err;

	if (!first->wanted)
		return 0;
	for (const struct run *r = first; r < end; r++)
		if (r->wanted)
			last = r;
	blocks = (uint32_t)(last->addr + last->blocks - first->addr);
	buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	err = view_read(c->view, first->addr, blocks, buf, NULL);
	whole = !err;
	if (check_is_damage(err))
		err = 0;
	for (const struct run *r = first; !err && r < end; r++)
		if (r->wanted)
			err = verify_run(c, w, r, whole ? buf + (r->addr - first->addr) * BLOCK_SIZE : NULL, buf);
	mem_free(buf);
	pthread_mutex_lock(&c->lock);
	c->ret->data_blocks += blocks;
	w->done += blocks;
	if (c->opt->progress)
		c->opt->progress(c->opt->arg, "data", w->done, c->view_blocks > w->done ? c->view_blocks : w->done);
	pthread_mutex_unlock(&c->lock);
	return err;
}

/* ---- a window ---- */

static int run_cmp(const void *pa, const void *pb)
{
	const struct run *a = pa, *b = pb;

	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	return a->off < b->off ? -1 : a->off > b->off;
}

static int addr_cmp(const void *pa, const void *pb)
{
	uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;

	return a < b ? -1 : a > b;
}

/* Which runs have to be read, and which are read together: wanted ones that are neighbours. */
static void make_groups(struct check *c, struct window *w)
{
	uint64_t end = 0, begin = 0;

	w->n_groups = 0;
	for (size_t i = 0; i < w->n_runs; i++) {
		struct run *r = &w->runs[i];
		bool joins;

		r->wanted = false;
		for (uint64_t b = r->addr; is_inside(c, r) && b < r->addr + r->blocks; b++) {
			r->wanted |= !bit_get(c->seen, b);
			c->seen[b / 8] |= (uint8_t)(1u << (b % 8));
		}
		if (!r->wanted)
			continue;
		joins = w->n_groups && r->addr == end && r->addr + r->blocks - begin <= READ_BLOCKS;
		if (!joins) {
			w->groups[w->n_groups++] = (uint32_t)i;
			begin = r->addr;
		}
		end = r->addr + r->blocks;
	}
	w->groups[w->n_groups] = (uint32_t)w->n_runs;
}

static bool is_bad(const struct check *c, uint64_t addr)
{
	return c->n_bad && bsearch(&addr, c->bad, c->n_bad, sizeof(*c->bad), addr_cmp);
}

/* What was verified for another file, or cannot be read at all. */
static void look_at_known(struct check *c, const struct run *r)
{
	uint32_t from = 0;

	if (!is_inside(c, r)) {
		check_problem(c, FS_PROBLEM_DATA_BAD, r->ino, r->off, 0, NULL, 0,
			      "byte %" PRIu64 " is at block %" PRIu64 ", outside of the device", r->off, r->addr);
		return;
	}
	for (uint32_t i = 0; c->n_bad && i < r->blocks; i = from) {
		for (from = i; from < r->blocks && is_bad(c, r->addr + from); from++)
			;
		if (from > i)
			tell_bad(c, r, i, from);
		else
			from++;
	}
}

static int window_verify(struct check *c, struct window *w)
{
	int err;

	if (!w->n_runs)
		return 0;
	qsort(w->runs, w->n_runs, sizeof(*w->runs), run_cmp);
	make_groups(c, w);
	err = check_parallel(c, w->n_groups, read_group, w, NULL);
	if (err)
		return err;
	if (c->n_bad)
		qsort(c->bad, c->n_bad, sizeof(*c->bad), addr_cmp);
	for (size_t i = 0; i < w->n_runs; i++)
		if (!w->runs[i].wanted)
			look_at_known(c, &w->runs[i]);
	w->n_runs = w->n_sums = 0;
	check_tell(c);
	return 0;
}

static int window_add(struct check *c, struct window *w, struct key key, const struct disk_extent *d)
{
	struct run *r = &w->runs[w->n_runs++];

	*r = (struct run){
		.addr = le64_get(d->addr),
		.ino = key_ino(key),
		.off = key.off,
		.blocks = le32_get(d->blocks),
		.sum = (uint32_t)w->n_sums,
	};
	for (uint32_t i = 0; i < r->blocks; i++)
		w->sums[w->n_sums++] = le32_get(d->sums[i]);
	if (w->n_runs < WINDOW_RUNS && w->n_sums + FS_EXTENT_BLOCKS_MAX <= WINDOW_BLOCKS)
		return 0;
	return window_verify(c, w);
}

int check_data(struct check *c)
{
	struct window w = {
		.runs = mem_zalloc_array(WINDOW_RUNS, sizeof(*w.runs)),
		.sums = mem_zalloc_array(WINDOW_BLOCKS, sizeof(*w.sums)),
		.groups = mem_zalloc_array(WINDOW_RUNS + 1, sizeof(*w.groups)),
	};
	struct scan *s = NULL;
	const void *val;
	struct key key;
	size_t len;
	int err = w.runs && w.sums && w.groups ? 0 : -ENOMEM;

	if (!err)
		err = scan_open(c->view, key_make(FS_ROOT_INO, 0, 0), key_make(FS_INO_MAX + 1, 0, 0), &s);
	while (!err) {
		err = scan_next(s, &key, &val, &len);
		if (!err && key_type(key) == FS_ITEM_EXTENT && le64_get(((const struct disk_extent *)val)->addr)) {
			err = window_add(c, &w, key, val);
		} else if (check_is_damage(err)) {
			struct key from, to; /* told before */

			err = scan_skip(s, &from, &to);
		}
	}
	if (err > 0)
		err = window_verify(c, &w);
	scan_close(s);
	mem_free(w.runs);
	mem_free(w.sums);
	mem_free(w.groups);
	return err;
}

/*
 * scrub_data.c - a chunk of data, read and compared while its view is open
 *
 * The extents that a few leaves name are read in the order of addresses, neighbours (and what clones share) in one transfer of up to
 * 1 MiB, past the read-ahead's windows, so that what comes is what the device has now. (What has not reached the device yet
 * comes from memory.) A block that does not match its checksum, or could not be read with the others, is read by itself once
 * more before it counts as bad.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/scrub_int.h"

static int run_cmp(const void *pa, const void *pb)
{
	const struct scrub_run *a = pa, *b = pb;

	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	return a->off < b->off ? -1 : a->off > b->off;
}

/* Whether this very extent has been verified before the step was made again. */
static bool is_done(struct scrub_chunk *c, const struct scrub_run *r)
{
	const struct scrub_run *found;

	if (c->n_sorted != c->n_done)
		qsort(c->done, c->n_done, sizeof(*c->done), run_cmp);
	c->n_sorted = c->n_done;
	found = c->n_done ? bsearch(r, c->done, c->n_done, sizeof(*c->done), run_cmp) : NULL;
	return found && found->birth == r->birth && found->blocks == r->blocks;
}

int scrub_chunk_item(struct scrub *sc, struct key key, const void *val)
{
	const struct disk_extent *d = val;
	struct scrub_chunk *c = &sc->chunk;
	struct scrub_run r;

	if (key_type(key) != FS_ITEM_EXTENT || !le64_get(d->addr) || le64_get(d->birth) <= sc->born_after)
		return 0;
	r = (struct scrub_run){
		.addr = le64_get(d->addr),
		.birth = le64_get(d->birth),
		.ino = key_ino(key),
		.off = key.off,
		.blocks = le32_get(d->blocks),
		.sum = c->n_sums,
	};
	if (is_done(c, &r))
		return 0;
	if (mem_grow((void **)&c->runs, &c->cap_runs, c->n_runs + 1, sizeof(*c->runs)) ||
	    mem_grow((void **)&c->sums, &c->cap_sums, c->n_sums + r.blocks, sizeof(*c->sums)) ||
	    mem_grow((void **)&c->done, &c->cap_done, c->n_done + c->n_runs + 1, sizeof(*c->done)))
		return -ENOMEM;
	c->runs[c->n_runs++] = r;
	for (uint32_t i = 0; i < r.blocks; i++)
		c->sums[c->n_sums++] = le32_get(d->sums[i]);
	return 0;
}

void scrub_chunk_release(struct scrub_chunk *c)
{
	mem_free(c->runs);
	mem_free(c->sums);
	mem_free(c->done);
	mem_free(c->buf);
	*c = (struct scrub_chunk){ 0 };
}

static bool is_damage(int err)
{
	return err == -EUCLEAN || err == -EBADMSG || err == -EIO;
}

/* The block did not verify: once more, by itself. 0: it does now; -EBADMSG: it is bad; else why it cannot be told. */
static int second_look(struct scrub *sc, struct view *v, uint64_t addr, uint32_t want)
{
	uint8_t *one = sc->chunk.buf + SCRUB_READ_BLOCKS * BLOCK_SIZE;
	int err = view_read(v, addr, 1, one, NULL);

	if (err && !is_damage(err))
		return err;
	if (!err && data_checksum(one) == want)
		return 0;
	if (err)
		err_log(LOG_ERROR, "scrub: cannot read data block %llu: error %d", (unsigned long long)addr, -err);
	else
		(void)bad_checksum("data block", addr, "checksum", data_checksum(one), want);
	return -EBADMSG;
}

/* bytes: NULL where the transfer failed. */
static int verify_run(struct scrub *sc, struct view *v, const struct scrub_run *r, const uint8_t *bytes)
{
	const uint32_t *sums = sc->chunk.sums + r->sum;
	struct scrub_find bad = { .lo = r->ino, .hi = r->ino };
	int err = 0;

	for (uint32_t i = 0; i <= r->blocks; i++) {
		if (i < r->blocks) {
			if (bytes && data_checksum(bytes + (size_t)i * BLOCK_SIZE) == sums[i])
				err = 0;
			else
				err = second_look(sc, v, r->addr + i, sums[i]);
			if (err && err != -EBADMSG)
				return err;
		}
		if (i < r->blocks && err) {
			if (!bad.blocks) {
				bad.off = r->off + (uint64_t)i * BLOCK_SIZE;
				bad.addr = r->addr + i;
			}
			bad.blocks++;
		} else if (bad.blocks) {
			if (scrub_find_add(sc, &bad))
				return -ENOMEM;
			scrub_count(sc, &sc->st.blocks_bad, bad.blocks);
			bad.blocks = 0;
		}
	}
	scrub_count(sc, &sc->st.blocks, r->blocks);
	sc->chunk.done[sc->chunk.n_done++] = *r; /* there is room */
	sc->chunk.n_sorted = 0;
	return 0;
}

int scrub_chunk_verify(struct scrub *sc, struct view *v)
{
	struct scrub_chunk *c = &sc->chunk;
	int err = 0;

	if (!c->buf)
		c->buf = mem_alloc_blocks((SCRUB_READ_BLOCKS + 1) * BLOCK_SIZE);
	if (!c->buf)
		return -ENOMEM;
	if (c->n_runs)
		qsort(c->runs, c->n_runs, sizeof(*c->runs), run_cmp);
	for (size_t i = 0, next; !err && i < c->n_runs; i = next) {
		uint64_t from = c->runs[i].addr, end = from + c->runs[i].blocks;
		bool whole;

		for (next = i + 1; next < c->n_runs && c->runs[next].addr <= end; next++) {
			uint64_t to = c->runs[next].addr + c->runs[next].blocks;

			if (to > from + SCRUB_READ_BLOCKS)
				break;
			end = to > end ? to : end;
		}
		err = scrub_pace(sc, (end - from) * BLOCK_SIZE);
		if (err)
			break;
		err = view_read(v, from, (uint32_t)(end - from), c->buf, NULL);
		whole = !err;
		if (is_damage(err))
			err = 0;
		for (; !err && i < next; i++)
			err = verify_run(sc, v, &c->runs[i],
					 whole ? c->buf + (c->runs[i].addr - from) * BLOCK_SIZE : NULL);
		sc->may_yield = true;
	}
	return err;
}

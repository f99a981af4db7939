/*
 * The log: log_segment_check on pieces, and a scan of a region made of them. The input is a list of pieces
 *
 *	{ u8 place, u8 flags, u16 len } and len bytes
 *
 * copied into the region from block `place` on; flags say which fields are put right first, or hardly anything would
 * get past the checksum.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "btree/err.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/quiet.h"
#include "tests/kit/rng.h"
#include "wal/log_read.h"

#define START 1u
#define N 64u
#define BLOCKS 128u /* behind the region: zeros, for check lists to match */
#define EPOCH UINT64_C(0xfeedfacecafe)

enum { PUT_IDENTITY = 1, PUT_BLOCKS = 2, PUT_SUM = 4, PUT_SEQUENCE = 8 };

/* --- a disk that can be read --- */

static uint8_t disk[BLOCKS * BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));

static int mem_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	(void)dev;
	assert(op == BIO_READ);
	memcpy(buf, disk + addr * BLOCK_SIZE, (size_t)blocks * BLOCK_SIZE);
	return 0;
}

static void mem_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t addr = bios[i]->addr;

		for (int k = 0; k < bios[i]->iovcnt; k++) {
			uint32_t blocks = (uint32_t)(bios[i]->iov[k].iov_len / BLOCK_SIZE);

			mem_rw(dev, bios[i]->op, addr, bios[i]->iov[k].iov_base, blocks);
			addr += blocks;
		}
		bio_complete(bios[i], 0);
	}
}

static void mem_wait(struct bdev *dev, struct bio_group *g)
{
	(void)dev, (void)g;
}

static void mem_poll(struct bdev *dev)
{
	(void)dev;
}

static const struct bdev_ops mem_ops = { .submit = mem_submit, .wait = mem_wait, .poll = mem_poll, .rw = mem_rw };

/* --- what must hold --- */

struct seen {
	uint64_t next, records, sum;
};

static int see_record(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len)
{
	struct seen *s = arg;

	assert(lsn == s->next && len > 0 && len < N * BLOCK_SIZE);
	assert(segment->block < N && segment->lsn <= lsn);
	s->next++;
	s->records++;
	s->sum += XXH3_64bits(rec, len); /* touches all of it */
	return 0;
}

static int see_riding(void *arg, uint64_t addr, const void *block)
{
	struct seen *s = arg;

	assert(addr != 0);
	s->sum += XXH3_64bits(block, BLOCK_SIZE);
	return 0;
}

static void scan(struct bdev *dev, struct log_pos pos)
{
	struct log_scan_options opt = { .bdev = dev, .start = START, .blocks = N, .epoch = EPOCH, .pos = pos };
	struct log_scan_result a, b;
	struct log_scan *s = NULL;
	int err = log_scan_open(&opt, &s);

	assert(err == 0 || err == -EUCLEAN);
	if (!err) {
		struct seen once = { .next = pos.lsn }, twice = { .next = pos.lsn };

		log_scan_result(s, &a);
		assert(!a.damaged && a.blocks <= N && a.segments <= N && a.end.block < N);
		assert(a.end.seq == pos.seq + a.segments && a.end.lsn == pos.lsn + a.records);
		assert(log_scan_each(s, see_record, see_riding, &once) == 0);
		assert(log_scan_each(s, see_record, see_riding, &twice) == 0);
		assert(once.records == a.records && once.sum == twice.sum);
		log_scan_close(s);
	}
	/* Who ignores damage gets something, and the same when nothing is damaged. */
	opt.ignore_damage = true;
	assert(log_scan_open(&opt, &s) == 0);
	log_scan_result(s, &b);
	assert(b.damaged == (err != 0));
	if (!err)
		assert(b.end.lsn == a.end.lsn && b.end.block == a.end.block && b.segments == a.segments);
	log_scan_close(s);
}

static void put_right(uint8_t *at, size_t room, uint8_t place, uint8_t flags, uint64_t seq)
{
	struct disk_segment *h = (void *)at;
	uint64_t blocks;

	if (flags & PUT_IDENTITY) {
		h->magic = le32_put(LOG_SEGMENT_MAGIC);
		h->epoch = le64_put(EPOCH);
		h->place = le64_put(place);
	}
	if (flags & PUT_SEQUENCE)
		h->seq = le64_put(seq);
	blocks = le32_get(h->blocks);
	if (flags & PUT_BLOCKS) {
		blocks = blocks % (room / BLOCK_SIZE) + 1;
		h->blocks = le32_put((uint32_t)blocks);
	}
	if (flags & PUT_SUM && blocks > 0 && blocks <= room / BLOCK_SIZE)
		h->sum = le64_put(
			XXH3_64bits_withSeed(at + sizeof(h->sum), blocks * BLOCK_SIZE - sizeof(h->sum), EPOCH));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bdev dev = { .ops = &mem_ops, .geo = { .blocks = BLOCKS }, .name = "fuzz" };
	struct log_pos pos = { .block = 0, .seq = 1, .lsn = 1 };
	uint64_t seq = 1;

	memset(disk, 0, sizeof(disk));
	while (size >= 4) {
		uint8_t place = data[0] % N, flags = data[1];
		size_t len = (size_t)data[2] | (size_t)data[3] << 8, room = (size_t)(N - place) * BLOCK_SIZE;
		uint8_t *at = disk + (size_t)(START + place) * BLOCK_SIZE;
		int err;

		data += 4;
		size -= 4;
		len = len < size ? len : size;
		len = len < room ? len : room;
		memcpy(at, data, len);
		data += len;
		size -= len;
		put_right(at, room, place, flags, seq++);
		err = log_segment_check(at, room, EPOCH, place);
		assert(err == 0 || err == -EBADMSG || err == -EUCLEAN);
		/* Not at another place, not of another epoch, not when it is cut short. */
		if (!err) {
			assert(log_segment_check(at, room, EPOCH, place + 1u) == -EBADMSG);
			assert(log_segment_check(at, room, EPOCH + 1, place) == -EBADMSG);
			assert(log_segment_check(at,
						 le32_get(((struct disk_segment *)(void *)at)->blocks) * BLOCK_SIZE - 1,
						 EPOCH, place) == -EBADMSG);
		}
	}
	scan(&dev, pos);
	/* From a segment in the middle, as a checkpoint made while replaying does. */
	pos.lsn = 2;
	scan(&dev, pos);
	pos = (struct log_pos){ .block = N - 1, .seq = 1, .lsn = 1 };
	scan(&dev, pos);
	return 0;
}

/* --- inputs that are nearly right --- */

struct out {
	uint8_t *buf;
	size_t len, cap;
};

static void emit(struct out *o, const void *bytes, size_t n)
{
	if (o->len + n <= o->cap)
		memcpy(o->buf + o->len, bytes, n);
	o->len += n;
}

/* A segment with so many records, listed blocks and riding ones; its content as short as it may be cut. */
static size_t make_segment(struct rng *rng, uint8_t *seg, uint64_t seq, uint64_t lsn, uint32_t *ret_records,
			   uint32_t *ret_blocks)
{
	static const uint8_t zeros[BLOCK_SIZE];
	struct disk_segment *h = (void *)seg;
	uint32_t records = (uint32_t)rng_below(rng, 5), checks = (uint32_t)rng_below(rng, 4);
	uint32_t riding = (uint32_t)rng_below(rng, 3);
	size_t at = sizeof(*h), blocks;

	memset(seg, 0, 8 * BLOCK_SIZE);
	for (uint32_t i = 0; i < records; i++) {
		size_t len = (size_t)rng_range(rng, 1, rng_chance(rng, 1, 8) ? 3000 : 60);
		struct disk_record_frame f = { .len = le32_put((uint32_t)len) };

		memcpy(seg + at, &f, sizeof(f));
		rng_bytes(rng, seg + at + sizeof(f), len);
		at += sizeof(f) + ((len + 7) & ~(size_t)7);
	}
	h->record_bytes = le32_put((uint32_t)(at - sizeof(*h)));
	for (uint32_t i = 0; i < checks; i++) {
		struct disk_check c = { .addr = le64_put(START + N + rng_below(rng, BLOCKS - START - N)),
					.sum = le32_put(data_checksum(zeros)) };

		memcpy(seg + at, &c, sizeof(c));
		at += sizeof(c);
	}
	for (uint32_t i = 0; i < riding; i++) {
		struct disk_riding r = { .addr = le64_put(rng_range(rng, 1, BLOCKS)) };

		memcpy(seg + at, &r, sizeof(r));
		at += sizeof(r);
	}
	blocks = (at + BLOCK_SIZE - 1) / BLOCK_SIZE + riding;
	h->blocks = le32_put((uint32_t)blocks);
	h->seq = le64_put(seq);
	h->lsn = le64_put(lsn);
	h->durable_lsn = le64_put(lsn);
	h->records = le32_put(records);
	h->checks = le32_put(checks);
	h->riding = le32_put(riding);
	*ret_records = records;
	*ret_blocks = (uint32_t)blocks;
	return at;
}

size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed)
{
	static uint8_t seg[5 * 3100 + 8 * BLOCK_SIZE];
	struct out o = { .buf = buf, .cap = cap };
	uint64_t lsn = 1, place = 0;
	struct rng rng;

	rng_seed(&rng, seed);
	for (uint64_t seq = 1, n = rng_range(&rng, 1, 6); seq <= n; seq++) {
		uint32_t records, blocks;
		size_t len = make_segment(&rng, seg, seq, lsn, &records, &blocks);
		uint8_t head[4];

		if (place + blocks > N)
			break;
		head[0] = (uint8_t)place;
		head[1] = PUT_IDENTITY | PUT_SUM;
		head[2] = (uint8_t)len;
		head[3] = (uint8_t)(len >> 8);
		emit(&o, head, sizeof(head));
		emit(&o, seg, len);
		lsn += records;
		place += blocks;
	}
	return o.len <= cap ? o.len : 0;
}

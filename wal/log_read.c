/*
 * The problem: tell the end of the log, where a crash cut it, from damage to what had been acknowledged. Both look
 * like a segment that does not verify.
 *
 * The idea: the writer flushes every segment before it writes the next. So whatever is found of a segment with a
 * higher sequence proves that the missing one was durable once: damage. With nothing of the kind in the whole region,
 * the hole is the end. What proves it is a header whose first sector is ours (magic, epoch, place, a sequence beyond
 * the hole's); its segment need not verify, because a torn one was begun all the same. Nothing else can look like it:
 * the epoch is random and the place is in the header, so neither other laps, other runs, nor blocks that ride can.
 *
 * Where the next segment is: behind the last, or, when it was too long for that, at the region's start; the sequence
 * tells, a number is written at one place only. Behind the last is looked first.
 *
 * The last segment alone is not known to be durable, so its check list is read: it must have every block. If not, the
 * log ends before it (and the one before it *is* known to be durable: the last one's existence says so). A read error
 * anywhere is damage, since it hides what we look for.
 *
 * Bounds: each block of the region is read once to find the end (a chunk of 1 MiB at a time), again by each
 * log_scan_each; a segment is at most the region; all segments together are at most one lap.
 */
#include "wal/log_read.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"

#define CHUNK_BLOCKS 256u
#define CHECK_BIOS 32u

struct found {
	uint64_t place;
	uint64_t seq, lsn;
	uint32_t blocks, records;
};
static_assert(sizeof(struct found) <= 40, "promised in log_read.h");

/* A piece of the region in memory. */
struct window {
	uint8_t *buf;
	size_t capacity; /* blocks */
	uint64_t from, blocks;
};

struct log_scan {
	struct log_scan_options opt;
	struct found *found;
	size_t n, capacity;
	struct window window;
	struct log_pos end;
	uint64_t blocks;
	bool damaged;
};

/* --- one segment --- */

/* The header's fixed fields: is this where a segment of ours begins? */
static bool header_ours(const struct disk_segment *h, uint64_t epoch, uint64_t place)
{
	return le32_get(h->magic) == LOG_SEGMENT_MAGIC && le64_get(h->epoch) == epoch && le64_get(h->place) == place &&
	       le32_get(h->blocks) > 0;
}

static bool zeros(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static int records_check(const uint8_t *p, size_t bytes, uint32_t records)
{
	while (bytes) {
		struct disk_record_frame f;
		size_t len;

		if (bytes < sizeof(f) || records-- == 0)
			return -EUCLEAN;
		memcpy(&f, p, sizeof(f));
		len = le32_get(f.len);
		p += sizeof(f);
		bytes -= sizeof(f);
		if (len == 0 || len > bytes || bytes - len < (-len & 7) || le32_get(f.zero) ||
		    !zeros(p + len, -len & 7))
			return -EUCLEAN;
		len = (len + 7) & ~(size_t)7;
		p += len;
		bytes -= len;
	}
	return records ? -EUCLEAN : 0;
}

/* The parts of a segment of `blocks` blocks; their sizes are those of a checked header. */
static const struct disk_check *checks_of(const struct disk_segment *h)
{
	return (const struct disk_check *)(const void *)((const uint8_t *)(h + 1) + le32_get(h->record_bytes));
}

static const struct disk_riding *riding_of(const struct disk_segment *h)
{
	return (const struct disk_riding *)(const void *)(checks_of(h) + le32_get(h->checks));
}

int log_segment_check(const void *seg, size_t len, uint64_t epoch, uint64_t place)
{
	const struct disk_segment *h = seg;
	uint64_t bytes, head, lsn, end;

	if (len < sizeof(*h) || !header_ours(h, epoch, place))
		return -EBADMSG;
	bytes = (uint64_t)le32_get(h->blocks) * BLOCK_SIZE;
	if (bytes > len)
		return -EBADMSG;
	if (XXH3_64bits_withSeed((const uint8_t *)seg + sizeof(h->sum), bytes - sizeof(h->sum), epoch) !=
	    le64_get(h->sum))
		return -EBADMSG;

	/* Ours for certain: from here on nothing is excused. No sum below overflows: five 32-bit numbers. */
	head = sizeof(*h) + (uint64_t)le32_get(h->record_bytes) +
	       (uint64_t)le32_get(h->checks) * sizeof(struct disk_check) +
	       (uint64_t)le32_get(h->riding) * sizeof(struct disk_riding);
	end = (head + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
	if (end + (uint64_t)le32_get(h->riding) * BLOCK_SIZE != bytes)
		return -EUCLEAN;
	lsn = le64_get(h->lsn);
	if (le64_get(h->durable_lsn) > lsn || lsn + le32_get(h->records) < lsn || le64_get(h->seq) == UINT64_MAX)
		return -EUCLEAN;
	if (!zeros(h->zero, sizeof(h->zero)) || !zeros((const uint8_t *)seg + head, end - head))
		return -EUCLEAN;
	for (uint32_t i = 0; i < le32_get(h->checks); i++)
		if (le64_get(checks_of(h)[i].addr) == 0)
			return -EUCLEAN;
	for (uint32_t i = 0; i < le32_get(h->riding); i++)
		if (le64_get(riding_of(h)[i].addr) == 0)
			return -EUCLEAN;
	return records_check((const uint8_t *)(h + 1), le32_get(h->record_bytes), le32_get(h->records));
}

/* --- reading the region --- */

/* Reports damage at a block of the region. */
static int damage(const struct log_scan *s, uint64_t place, const char *reason, uint64_t got, uint64_t want)
{
	return corrupt("log", s->opt.start + place, reason, got, want);
}

static int window_read(struct log_scan *s, uint64_t from, uint64_t blocks)
{
	struct window *w = &s->window;
	int err;

	w->blocks = 0;
	if (blocks > w->capacity) {
		uint8_t *buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);

		if (!buf)
			return -ENOMEM;
		mem_free(w->buf);
		w->buf = buf;
		w->capacity = (size_t)blocks;
	}
	err = bdev_read(s->opt.bdev, s->opt.start + from, w->buf, (uint32_t)blocks);
	if (!err) {
		w->from = from;
		w->blocks = blocks;
	}
	return err;
}

/* Memory with blocks [from, from + blocks) of the region. Reads ahead, but an error there is not one here. */
static int window_get(struct log_scan *s, uint64_t from, uint64_t blocks, const uint8_t **ret)
{
	struct window *w = &s->window;
	uint64_t ahead = s->opt.blocks - from;
	int err = 0;

	assert(blocks <= ahead);
	if (from < w->from || from + blocks > w->from + w->blocks) {
		if (ahead > CHUNK_BLOCKS)
			ahead = CHUNK_BLOCKS;
		err = blocks < ahead ? window_read(s, from, ahead) : -EIO;
		if (err && err != -ENOMEM)
			err = window_read(s, from, blocks);
	}
	if (!err)
		*ret = w->buf + (size_t)(from - w->from) * BLOCK_SIZE;
	return err;
}

/*
 * Is there a segment at `place` with the sequence of s->end? 0: yes, whole. 1: no (or not whole). Else an error; what
 * is whole but cannot be is one.
 */
static int segment_at(struct log_scan *s, uint64_t place, const struct disk_segment **ret)
{
	const struct disk_segment *h;
	const uint8_t *p;
	uint64_t before;
	uint32_t blocks;
	int err;

	err = window_get(s, place, 1, &p);
	if (err == -ENOMEM)
		return err;
	if (err)
		return damage(s, place, "unreadable", (uint64_t)-err, 0);
	h = (const struct disk_segment *)(const void *)p;
	blocks = le32_get(h->blocks);
	if (!header_ours(h, s->opt.epoch, place) || le64_get(h->seq) != s->end.seq || blocks > s->opt.blocks - place)
		return 1;
	err = window_get(s, place, blocks, &p);
	if (err == -ENOMEM)
		return err;
	if (err)
		return damage(s, place, "unreadable", (uint64_t)-err, 0);
	h = (const struct disk_segment *)(const void *)p;
	err = log_segment_check(h, (size_t)blocks * BLOCK_SIZE, s->opt.epoch, place);
	if (err == -EBADMSG)
		return 1;
	if (err)
		return damage(s, place, "malformed segment", le64_get(h->seq), s->end.seq);
	/* The checkpoint's position may lie inside its segment (one made during recovery): its records up to there are
	 * skipped. */
	if (!s->n && le64_get(h->lsn) < s->end.lsn && s->end.lsn - le64_get(h->lsn) <= le32_get(h->records))
		s->end.lsn = le64_get(h->lsn);
	/* A checkpoint made while replaying may stand amid the first one's records. */
	before = s->end.lsn - le64_get(h->lsn);
	if (le64_get(h->lsn) > s->end.lsn || before > (s->n ? 0 : le32_get(h->records)))
		return damage(s, place, "lsn", le64_get(h->lsn), s->end.lsn);
	*ret = h;
	return 0;
}

static int note(struct log_scan *s, uint64_t place, const struct disk_segment *h)
{
	uint64_t skipped = place == s->end.block ? 0 : s->opt.blocks - s->end.block;
	uint32_t blocks = le32_get(h->blocks);
	int err;

	/* At the region's start only what would not have fitted behind the last one; and never more than one lap. */
	if (skipped && blocks <= skipped)
		return damage(s, place, "segment skipped", skipped, blocks);
	if (s->blocks + skipped + blocks > s->opt.blocks)
		return damage(s, place, "more than a lap", s->blocks + skipped + blocks, s->opt.blocks);
	err = mem_grow((void **)&s->found, &s->capacity, s->n + 1, sizeof(*s->found));
	if (err)
		return err;
	s->found[s->n++] = (struct found){ .place = place,
					   .seq = s->end.seq,
					   .lsn = le64_get(h->lsn),
					   .blocks = blocks,
					   .records = le32_get(h->records) };
	s->blocks += skipped + blocks;
	s->end.block = (place + blocks) % s->opt.blocks;
	s->end.seq++;
	s->end.lsn = le64_get(h->lsn) + le32_get(h->records);
	return 0;
}

/* Follows the segments from the start to the first that is not there. */
static int follow(struct log_scan *s)
{
	for (;;) {
		const struct disk_segment *h;
		uint64_t place = s->end.block;
		int err = segment_at(s, place, &h);

		if (err == 1 && place != 0) {
			place = 0;
			err = segment_at(s, place, &h);
		}
		if (err == 0)
			err = note(s, place, h);
		if (err)
			return err < 0 ? err : 0;
	}
}

/* Looks through the rest of the region for anything that was written after the hole. */
static int look_beyond(struct log_scan *s)
{
	uint64_t n = s->opt.blocks - s->blocks;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t place = (s->end.block + i) % s->opt.blocks, seq;
		const struct disk_segment *h;
		const uint8_t *p;
		int err = window_get(s, place, 1, &p);

		if (err == -ENOMEM)
			return err;
		if (err)
			return damage(s, place, "unreadable", (uint64_t)-err, 0);
		h = (const struct disk_segment *)(const void *)p;
		seq = le64_get(h->seq);
		if (header_ours(h, s->opt.epoch, place) && seq > s->end.seq && seq - s->end.seq <= s->opt.blocks)
			return damage(s, s->end.block, "segment missing before a later one", seq, s->end.seq);
	}
	return 0;
}

/* --- the check list of the last segment --- */

struct check {
	uint64_t addr;
	uint32_t sum;
};

static int check_cmp(const void *pa, const void *pb)
{
	const struct check *a = pa, *b = pb;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

/* The next run of neighbours from checks[i] on, at most `room` blocks. */
static size_t neighbours(const struct check *checks, size_t i, size_t n, size_t room)
{
	size_t k = 1;

	while (i + k < n && k < room && checks[i + k].addr == checks[i].addr + k)
		k++;
	return k;
}

/* Verifies checks[0 .. n), many reads in flight. 0, 1 where one does not match, or an error. */
static int verify_blocks(struct log_scan *s, const struct check *checks, size_t n, uint8_t *buf)
{
	struct bio bios[CHECK_BIOS], *list[CHECK_BIOS];
	struct iovec iov[CHECK_BIOS];
	struct bio_group group;
	int err;

	bio_group_init(&group);
	for (size_t i = 0; i < n;) {
		size_t done = 0;
		unsigned b = 0;

		while (b < CHECK_BIOS && i + done < n && done < CHUNK_BLOCKS) {
			size_t k = neighbours(checks, i + done, n, CHUNK_BLOCKS - done);

			iov[b] = (struct iovec){ .iov_base = buf + done * BLOCK_SIZE, .iov_len = k * BLOCK_SIZE };
			bios[b] = (struct bio){ .op = BIO_READ,
						.addr = checks[i + done].addr,
						.iov = &iov[b],
						.iovcnt = 1,
						.group = &group };
			list[b] = &bios[b];
			b++;
			done += k;
		}
		bdev_submit(s->opt.bdev, list, b);
		err = bdev_wait(s->opt.bdev, &group);
		if (err)
			return corrupt("log", checks[i].addr, "listed data unreadable", (uint64_t)-err, 0);
		for (size_t k = 0; k < done; k++)
			if (data_checksum(buf + k * BLOCK_SIZE) != checks[i + k].sum)
				return 1;
		i += done;
	}
	return 0;
}

/* Does every block that the last segment lists stand where it should? 0, 1 (no), or an error. */
static int verify_last(struct log_scan *s)
{
	const struct found *f = &s->found[s->n - 1];
	const struct disk_segment *h;
	struct check *checks = NULL;
	uint8_t *buf = NULL;
	const uint8_t *p;
	size_t n;
	int err;

	err = window_get(s, f->place, f->blocks, &p);
	if (err)
		return err == -ENOMEM ? err : damage(s, f->place, "unreadable", (uint64_t)-err, 0);
	h = (const struct disk_segment *)(const void *)p;
	n = le32_get(h->checks);
	if (n == 0)
		return 0;
	err = -ENOMEM;
	checks = mem_zalloc_array(n, sizeof(*checks));
	buf = mem_alloc_blocks((size_t)CHUNK_BLOCKS * BLOCK_SIZE);
	if (!checks || !buf)
		goto out;
	for (size_t i = 0; i < n; i++)
		checks[i] =
			(struct check){ .addr = le64_get(checks_of(h)[i].addr), .sum = le32_get(checks_of(h)[i].sum) };
	qsort(checks, n, sizeof(*checks), check_cmp);
	err = verify_blocks(s, checks, n, buf);
out:
	mem_free(buf);
	mem_free(checks);
	return err;
}

/* Takes the last segment away again. */
static void drop_last(struct log_scan *s)
{
	const struct found *f = &s->found[--s->n];

	s->end.seq = f->seq;
	s->end.lsn = s->n ? f->lsn : s->opt.pos.lsn;
	/* Back behind the one before, not to a place it may have skipped to: the next one decides that anew. */
	if (s->n == 0) {
		s->end.block = s->opt.pos.block;
		s->blocks = 0;
	} else {
		const struct found *last = &s->found[s->n - 1];

		s->end.block = (last->place + last->blocks) % s->opt.blocks;
		s->blocks -= f->blocks + (f->place == s->end.block ? 0 : s->opt.blocks - s->end.block);
	}
}

/* --- the door --- */

int log_scan_open(const struct log_scan_options *opt, struct log_scan **ret)
{
	struct log_scan *s;
	int err;

	if (opt->blocks == 0 || opt->blocks > UINT32_MAX || opt->pos.block >= opt->blocks)
		return -EINVAL;
	s = mem_zalloc(sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->opt = *opt;
	s->end = opt->pos;
	err = follow(s);
	if (!err)
		err = look_beyond(s);
	if (!err && s->n) {
		err = verify_last(s);
		if (err == 1 || err == -EUCLEAN)
			drop_last(s);
		if (err == 1)
			err = 0;
	}
	if (err == -EUCLEAN && opt->ignore_damage) {
		s->damaged = true;
		err = 0;
	}
	if (err)
		log_scan_close(s);
	else
		*ret = s;
	return err;
}

void log_scan_close(struct log_scan *s)
{
	if (!s)
		return;
	mem_free(s->found);
	mem_free(s->window.buf);
	mem_free(s);
}

void log_scan_result(const struct log_scan *s, struct log_scan_result *ret)
{
	*ret = (struct log_scan_result){ .end = s->end,
					 .segments = s->n,
					 .records = s->end.lsn - s->opt.pos.lsn,
					 .blocks = s->blocks,
					 .damaged = s->damaged };
}

static int each_riding(const struct disk_segment *h, log_riding_fn riding, void *arg)
{
	uint32_t n = le32_get(h->riding);
	const uint8_t *block = (const uint8_t *)h + (size_t)(le32_get(h->blocks) - n) * BLOCK_SIZE;
	int err = 0;

	for (uint32_t i = 0; i < n && !err; i++, block += BLOCK_SIZE)
		err = riding(arg, le64_get(riding_of(h)[i].addr), block);
	return err;
}

typedef int record_fn(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len);

static int each_record(const struct log_scan *s, const struct found *found, const struct disk_segment *h,
		       record_fn *record, void *arg)
{
	struct log_pos segment = { .block = found->place, .seq = found->seq, .lsn = found->lsn };
	const uint8_t *p = (const uint8_t *)(h + 1);
	uint64_t lsn = le64_get(h->lsn);
	int err = 0;

	for (uint32_t n = le32_get(h->records); n && !err; n--, lsn++) {
		struct disk_record_frame f;
		size_t len;

		memcpy(&f, p, sizeof(f));
		len = le32_get(f.len);
		p += sizeof(f);
		if (lsn >= s->opt.pos.lsn)
			err = record(arg, lsn, &segment, p, len);
		p += (len + 7) & ~(size_t)7;
	}
	return err;
}

int log_scan_each(struct log_scan *s, log_record_fn record, log_riding_fn riding, void *arg)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct found *f = &s->found[i];
		const struct disk_segment *h;
		const uint8_t *p;
		int err = window_get(s, f->place, f->blocks, &p);

		if (err == -ENOMEM)
			return err;
		if (err)
			return damage(s, f->place, "unreadable", (uint64_t)-err, 0);
		h = (const struct disk_segment *)(const void *)p;
		if (log_segment_check(h, (size_t)f->blocks * BLOCK_SIZE, s->opt.epoch, f->place) ||
		    le64_get(h->seq) != f->seq || le32_get(h->blocks) != f->blocks)
			return damage(s, f->place, "segment changed since the scan", le64_get(h->seq), f->seq);
		if (riding)
			err = each_riding(h, riding, arg);
		if (!err && record)
			err = each_record(s, f, h, record, arg);
		if (err)
			return err;
	}
	return 0;
}

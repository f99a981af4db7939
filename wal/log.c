/*
 * The problem: make a stream of records durable in order, for many threads at once, with one write and one flush for
 * as many of them as possible, in a region of fixed size that must never fill up under what was let in; and let
 * nobody wait for the device who holds a lock.
 *
 * The idea: a segment is built in memory in the very bytes that go to the device. log_append copies the record behind
 * the last one; sealing adds the check list (straight from data_seal) and fixes length and place; the writer adds
 * what may take time, outside the mutex: riding blocks, checksum, write, flush. One thread at a time writes: whoever
 * waits and finds no one at it does it himself, with no change of threads; who comes while he does waits for the next
 * turn.
 *
 * Who has just been released is often back in a moment with the next record. A leader that goes at once leaves them
 * all behind, and turns alternate between one and the others: half the throughput. So he yields a little (`gather`),
 * if the last turns had a crowd, and gives it up for a while when it does not come. Alone, nobody ever waits.
 *
 * Two condition variables serve the waiting, one for those whose segment is being written (`turn`), one for the
 * others: at the end of a turn all of the former wake, of the latter one, who leads the next turn.
 *
 * Room. Places are counted in *virtual* blocks, from `tail` to `head`, never wrapping; the place in the region is the
 * remainder by its size. A segment that does not fit before the region's end skips to its start and wastes the rest,
 * once a lap. Admission reserves what the operation would need as the only one in its segment; sharing one only makes
 * it less, since headers and rounding are paid once. `reserved` is the sum over those admitted and the open segment;
 * `fits` says whether, wherever the region's end falls among the segments made of it, all of them find a place.
 * Riding is done only where it fits besides, so it needs no reserve, nor does the empty segment of log_tick. Memory
 * likewise: each admission takes a spare segment along, in case it has to open one.
 *
 * Durability. Segments are written strictly one after the other, each with its flush before the next: so a segment
 * found on the device, torn or whole, proves all earlier ones durable; log_read relies on that, and so does
 * data_seal, which lists a block once only.
 *
 * Invariants, under the mutex:
 *  1. tail <= head <= tail + blocks, and `reserved` fits.
 *  2. lsn and sequence are gapless over what is durable, the queue, and the open segment.
 *  3. lsn_durable grows only after the flush of the segment that reaches it, and never after an error.
 *  4. no durable byte between tail and head is written again: a segment's place is taken from head, once.
 *  5. every admission holds a spare segment, big enough for it alone.
 *  6. when nobody writes, nobody waits without someone awake who will write.
 *
 * Rejected: a log thread (a hand-over in every fsync); rewriting the last, partly filled block (a durable byte at
 * risk).
 */
#include "wal/log.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"

#define SEGMENT_BLOCKS_MAX 256u /* of records and check list; a longer record has a segment to itself */
#define SPARE_MAX 16u
#define GATHER_NS_MAX 200000u
#define GATHER_BACKOFF_MAX 64u

struct log_segment {
	STAILQ_ENTRY(log_segment) link; /* the queue, the spares */
	uint8_t *buf;
	uint32_t capacity; /* blocks, without those for riding */
	bool big;	   /* longer than the common ones: counted in log.big, not kept */
	uint64_t seq, lsn;
	uint64_t place; /* in the region */
	uint32_t blocks;
	uint32_t records;
	size_t record_bytes;
	size_t data_blocks; /* of the runs attached: bounds the check list */
	struct data_seal seal;
	struct data_riding riding[]; /* ride_max */
};
STAILQ_HEAD(segment_queue, log_segment);

struct log {
	struct bdev *bdev;
	struct data *data;
	uint64_t start, blocks, epoch;
	uint32_t cap, ride_max; /* blocks */
	void (*failed)(void *arg, int err);
	void *arg;

	atomic_int err; /* the first error; set without the mutex, so that it can be set from anywhere */

	pthread_mutex_t lock; /* guards everything below */
	pthread_cond_t written[2];
	unsigned turn;	   /* which of them waits for what is being written */
	uint64_t turn_end; /* the lsn up to which that reaches */
	bool writing;
	unsigned waiting;
	unsigned crowd;		 /* threads with a part in the last turn or waiting for the next */
	unsigned gather_skip;	 /* turns to go without gathering */
	unsigned gather_backoff; /* how many after the next failure */
	uint64_t turn_ns;	 /* how long writing a segment takes, on average */

	uint64_t tail, head;	/* virtual blocks */
	uint64_t head_boundary; /* head at the last log_boundary */
	uint64_t reserved;	/* blocks for admitted operations and the open segment */
	uint64_t big_blocks;	/* the longest of the big segments */
	unsigned big;		/* of them admitted or open */

	uint64_t seq; /* of the next segment sealed */
	uint64_t lsn; /* of the next record */
	uint64_t lsn_durable;
	bool unmarked;		    /* no segment says that the last one is durable */
	struct log_segment *open;   /* NULL: none; made by the first record */
	struct segment_queue queue; /* sealed, not durable */
	uint64_t queued;	    /* blocks of those in it */
	struct segment_queue spares;
	unsigned n_spares;
	struct log_segment *mark; /* for log_tick; NULL while in the queue */

	uint64_t segments, records, syncs, bytes_written;
};

static size_t frame_bytes(size_t len)
{
	return sizeof(struct disk_record_frame) + ((len + 7) & ~(size_t)7);
}

static uint64_t to_blocks(size_t bytes)
{
	return (bytes + BLOCK_SIZE - 1) >> BLOCK_SHIFT;
}

/* Blocks of a segment with so much in it, without the riding blocks themselves. */
static uint64_t segment_blocks(size_t record_bytes, size_t checks, size_t riding)
{
	return to_blocks(sizeof(struct disk_segment) + record_bytes + checks * sizeof(struct disk_check) +
			 riding * sizeof(struct disk_riding));
}

static uint64_t open_blocks(const struct log *l)
{
	return l->open ? segment_blocks(l->open->record_bytes, l->open->data_blocks, 0) : 0;
}

/* The first error wins. Any locks may be held. */
static void fail(struct log *l, int err)
{
	int none = 0;

	if (!atomic_compare_exchange_strong(&l->err, &none, err))
		return;
	err_log(LOG_ERROR, "%s: the log failed with error %d", l->bdev->name, -err);
	if (l->failed)
		l->failed(l->arg, err);
}

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- room --- */

/* Could segments of at most `longest` blocks each, `blocks` in all, be placed from head on, however they are cut? */
static bool fits(const struct log *l, uint64_t blocks, uint64_t longest)
{
	uint64_t used = l->head - l->tail;

	if (l->head / l->blocks != l->tail / l->blocks || l->head % l->blocks + blocks <= l->blocks)
		return used + blocks <= l->blocks;
	/* The region's end lies ahead and is reached: the segment that does so wastes less than its own length. */
	if (longest > blocks)
		longest = blocks;
	return used + blocks + longest - 1 <= l->blocks;
}

static uint64_t longest(const struct log *l)
{
	return l->big_blocks > l->cap ? l->big_blocks : l->cap;
}

static void assert_valid(const struct log *l)
{
	assert(l->tail <= l->head && l->head - l->tail <= l->blocks);
	assert(l->reserved >= open_blocks(l) && fits(l, l->reserved, longest(l)));
	assert(l->lsn_durable <= l->lsn &&
	       (l->lsn_durable == l->lsn || l->open || l->writing || !STAILQ_EMPTY(&l->queue) || l->err));
	(void)l;
}

/* --- segments in memory --- */

static struct log_segment *segment_new(const struct log *l, uint64_t capacity)
{
	struct log_segment *s = mem_zalloc(sizeof(*s) + l->ride_max * sizeof(s->riding[0]));

	if (!s)
		return NULL;
	s->buf = mem_alloc_blocks(
		(size_t)(capacity + to_blocks(l->ride_max * sizeof(struct disk_riding)) + l->ride_max) * BLOCK_SIZE);
	if (!s->buf) {
		mem_free(s);
		return NULL;
	}
	s->capacity = (uint32_t)capacity;
	s->big = capacity > l->cap;
	s->seal.riding = s->riding;
	return s;
}

static void segment_free(struct log_segment *s)
{
	if (!s)
		return;
	mem_free(s->buf);
	mem_free(s);
}

static void big_done(struct log *l, const struct log_segment *s)
{
	if (s->big && --l->big == 0)
		l->big_blocks = 0;
}

/* Returns a segment that was not used, or not any more. */
static void segment_put(struct log *l, struct log_segment *s)
{
	if (s->big || l->n_spares >= SPARE_MAX) {
		segment_free(s);
		return;
	}
	/* The one whose memory was touched last is taken first. */
	STAILQ_INSERT_HEAD(&l->spares, s, link);
	l->n_spares++;
}

static void segment_open(struct log *l, struct log_segment *s)
{
	s->lsn = l->lsn;
	s->records = 0;
	s->record_bytes = 0;
	s->data_blocks = 0;
	l->open = s;
}

/* How many blocks may ride in s without taking room from anyone. */
static size_t ride_max(const struct log *l, const struct log_segment *s)
{
	size_t max = s->data_blocks < l->ride_max ? s->data_blocks : l->ride_max;
	uint64_t blocks = segment_blocks(s->record_bytes, s->data_blocks, max) + max;
	uint64_t others = l->reserved - open_blocks(l);

	return fits(l, others + blocks, blocks > longest(l) ? blocks : longest(l)) ? max : 0;
}

/* Closes the open segment: nothing of it changes any more but what the writer fills in. Waits for nothing. */
static void seal(struct log *l, bool may_ride)
{
	struct log_segment *s = l->open;
	uint64_t left;

	s->seq = l->seq++;
	s->seal.tag = s->seq;
	s->seal.checks = (struct disk_check *)(void *)(s->buf + sizeof(struct disk_segment) + s->record_bytes);
	data_seal(l->data, may_ride ? ride_max(l, s) : 0, &s->seal);
	assert(s->seal.n_checks + s->seal.n_riding <= s->data_blocks);

	l->reserved -= open_blocks(l);
	l->open = NULL;
	s->blocks = (uint32_t)(segment_blocks(s->record_bytes, s->seal.n_checks, s->seal.n_riding) + s->seal.n_riding);
	left = l->blocks - l->head % l->blocks;
	if (s->blocks > left)
		l->head += left;
	s->place = l->head % l->blocks;
	l->head += s->blocks;
	big_done(l, s);
	STAILQ_INSERT_TAIL(&l->queue, s, link);
	l->queued += s->blocks;
	assert_valid(l);
}

/* --- admitting and appending --- */

size_t log_record_max(const struct log *l)
{
	return (size_t)(l->blocks / 4) * BLOCK_SIZE - sizeof(struct disk_segment) - frame_bytes(0) - 8;
}

/* With the mutex held, which is let go where memory has to be found. */
static struct log_segment *spare_get(struct log *l, uint64_t blocks)
{
	struct log_segment *s = blocks <= l->cap ? STAILQ_FIRST(&l->spares) : NULL;

	if (s) {
		STAILQ_REMOVE_HEAD(&l->spares, link);
		l->n_spares--;
		return s;
	}
	pthread_mutex_unlock(&l->lock);
	s = segment_new(l, blocks <= l->cap ? l->cap : blocks);
	pthread_mutex_lock(&l->lock);
	return s;
}

int log_admit(struct log *l, size_t record_bytes, size_t data_blocks, struct log_room *ret)
{
	struct log_segment *spare;
	uint64_t blocks;
	int err = 0;

	/* The list of a huge record's data counts against the record's own bound twice over, no more. */
	if (record_bytes == 0 || record_bytes > log_record_max(l) || data_blocks > l->blocks * BLOCK_SIZE)
		return -E2BIG;
	blocks = segment_blocks(frame_bytes(record_bytes), data_blocks, 0);
	if (blocks > l->blocks / 2)
		return -E2BIG;
	if (atomic_load(&l->err))
		return -EROFS;

	pthread_mutex_lock(&l->lock);
	spare = spare_get(l, blocks);
	if (!spare) {
		err = -ENOMEM;
	} else if (!fits(l, l->reserved + blocks, blocks > longest(l) ? blocks : longest(l))) {
		segment_put(l, spare);
		err = -EAGAIN;
	} else {
		if (spare->big) {
			l->big++;
			if (blocks > l->big_blocks)
				l->big_blocks = blocks;
		}
		l->reserved += blocks;
		*ret = (struct log_room){
			.blocks = blocks, .record_bytes = record_bytes, .data_blocks = data_blocks, .spare = spare
		};
		assert_valid(l);
	}
	pthread_mutex_unlock(&l->lock);
	return err;
}

/* Gives back what `room` holds. */
static void room_return(struct log *l, struct log_room *room)
{
	l->reserved -= room->blocks;
	if (room->spare) {
		big_done(l, room->spare);
		segment_put(l, room->spare);
	}
	*room = (struct log_room){ 0 };
}

void log_unadmit(struct log *l, struct log_room *room)
{
	if (room->blocks == 0)
		return;
	pthread_mutex_lock(&l->lock);
	room_return(l, room);
	assert_valid(l);
	pthread_mutex_unlock(&l->lock);
}

static void copy_record(struct log_segment *s, const void *record, size_t len)
{
	uint8_t *p = s->buf + sizeof(struct disk_segment) + s->record_bytes;
	struct disk_record_frame frame = { .len = le32_put((uint32_t)len) };
	size_t padded = frame_bytes(len);

	memset(p + padded - 8, 0, 8);
	memcpy(p, &frame, sizeof(frame));
	memcpy(p + sizeof(frame), record, len);
	s->record_bytes += padded;
	s->records++;
}

uint64_t log_append(struct log *l, struct log_room *room, const void *record, size_t len, struct data_run **runs,
		    size_t n)
{
	size_t data_blocks = 0;
	uint64_t before, lsn;

	for (size_t i = 0; i < n; i++)
		data_blocks += data_run_blocks(runs[i]);
	assert(len > 0 && len <= room->record_bytes && data_blocks <= room->data_blocks);

	pthread_mutex_lock(&l->lock);
	if (l->open && segment_blocks(l->open->record_bytes + frame_bytes(len), l->open->data_blocks + data_blocks, 0) >
			       l->open->capacity)
		seal(l, false);
	before = open_blocks(l);
	if (!l->open) {
		segment_open(l, room->spare);
		/* A big one stays counted until it is sealed. */
		room->spare = NULL;
	}
	copy_record(l->open, record, len);
	l->open->data_blocks += data_blocks;
	for (size_t i = 0; i < n; i++)
		data_attach(l->data, runs[i]);
	l->reserved += open_blocks(l) - before;
	room_return(l, room);
	lsn = l->lsn++;
	l->records++;
	assert_valid(l);
	pthread_mutex_unlock(&l->lock);
	return lsn;
}

/* --- writing --- */

/* Everything in s that was left open at the seal. */
static void segment_finish(const struct log *l, struct log_segment *s, uint64_t lsn_durable)
{
	size_t at = sizeof(struct disk_segment) + s->record_bytes + s->seal.n_checks * sizeof(struct disk_check);
	size_t bytes = (size_t)s->blocks * BLOCK_SIZE;
	size_t riding_at = bytes - s->seal.n_riding * BLOCK_SIZE;
	struct disk_segment h = {
		.magic = le32_put(LOG_SEGMENT_MAGIC),
		.blocks = le32_put(s->blocks),
		.epoch = le64_put(l->epoch),
		.seq = le64_put(s->seq),
		.lsn = le64_put(s->lsn),
		.durable_lsn = le64_put(lsn_durable),
		.records = le32_put(s->records),
		.record_bytes = le32_put((uint32_t)s->record_bytes),
		.checks = le32_put((uint32_t)s->seal.n_checks),
		.riding = le32_put((uint32_t)s->seal.n_riding),
		.place = le64_put(s->place),
	};

	for (size_t i = 0; i < s->seal.n_riding; i++) {
		struct disk_riding r = { .addr = le64_put(s->riding[i].addr) };

		memcpy(s->buf + at, &r, sizeof(r));
		at += sizeof(r);
		memcpy(s->buf + riding_at + i * BLOCK_SIZE, s->riding[i].block, BLOCK_SIZE);
	}
	memset(s->buf + at, 0, riding_at - at);
	memcpy(s->buf, &h, sizeof(h));
	h.sum = le64_put(XXH3_64bits_withSeed(s->buf + sizeof(h.sum), bytes - sizeof(h.sum), l->epoch));
	memcpy(s->buf, &h.sum, sizeof(h.sum));
}

/* Writes s while the data it lists is on its way: in no order, since the flush covers both and the list is checked. */
static int segment_write(struct log *l, struct log_segment *s)
{
	struct iovec iov = { .iov_base = s->buf, .iov_len = (size_t)s->blocks * BLOCK_SIZE };
	struct bio_group group;
	struct bio bio = { .op = BIO_WRITE, .addr = l->start + s->place, .iov = &iov, .iovcnt = 1, .group = &group };
	struct bio *bios[] = { &bio };
	int err, err_data;

	if (s->seal.n_checks == 0)
		return bdev_write(l->bdev, l->start + s->place, s->buf, s->blocks);
	bio_group_init(&group);
	bdev_submit(l->bdev, bios, 1);
	err_data = data_seal_wait(l->data, &s->seal);
	err = bdev_wait(l->bdev, &group);
	return err_data ? err_data : err;
}

/* The head of the queue, durably. With the mutex held, which is let go meanwhile; `writing` is set. */
static void write_next(struct log *l)
{
	struct log_segment *s = STAILQ_FIRST(&l->queue);
	uint64_t lsn_durable = l->lsn_durable, start, took;
	int err;

	assert(s->lsn == lsn_durable);
	STAILQ_REMOVE_HEAD(&l->queue, link);
	l->queued -= s->blocks;
	pthread_mutex_unlock(&l->lock);
	start = clock_ns();
	segment_finish(l, s, lsn_durable);
	err = segment_write(l, s);
	if (!err)
		err = data_flush(l->data);
	data_seal_done(l->data, &s->seal);
	if (err)
		fail(l, err);
	took = clock_ns() - start;
	pthread_mutex_lock(&l->lock);

	l->turn_ns = l->turn_ns - l->turn_ns / 8 + took / 8;
	if (!atomic_load(&l->err)) {
		l->lsn_durable += s->records;
		l->segments++;
		l->bytes_written += (uint64_t)s->blocks * BLOCK_SIZE;
		l->unmarked = s->records > 0;
	}
	if (s->capacity == 1)
		l->mark = s;
	else
		segment_put(l, s);
}

/* Before a turn, with the mutex held, which is let go meanwhile: lets those come who are expected. */
static void gather(struct log *l)
{
	unsigned missing = l->crowd > l->waiting + 1 ? l->crowd - l->waiting - 1 : 0, still;
	uint64_t patience = l->turn_ns / 4, start;

	if (missing == 0)
		return;
	if (l->gather_skip) {
		l->gather_skip--;
		return;
	}
	if (patience > GATHER_NS_MAX)
		patience = GATHER_NS_MAX;
	start = clock_ns();
	l->writing = true;
	do {
		pthread_mutex_unlock(&l->lock);
		sched_yield();
		pthread_mutex_lock(&l->lock);
		still = l->crowd > l->waiting + 1 ? l->crowd - l->waiting - 1 : 0;
	} while (still && clock_ns() - start < patience);
	l->writing = false;
	if (still * 2 <= missing) {
		l->gather_backoff = 0;
		return;
	}
	l->gather_backoff =
		l->gather_backoff * 2 + 1 < GATHER_BACKOFF_MAX ? l->gather_backoff * 2 + 1 : GATHER_BACKOFF_MAX;
	l->gather_skip = l->gather_backoff;
}

/* Takes the turn and writes the queue up to and including the segment that reaches lsn. */
static void take_turn(struct log *l, uint64_t lsn)
{
	struct log_segment *s;

	l->writing = true;
	l->turn ^= 1;
	l->turn_end = l->lsn_durable;
	STAILQ_FOREACH(s, &l->queue, link) {
		l->turn_end = s->lsn + s->records;
		if (l->turn_end > lsn)
			break;
	}
	lsn = l->turn_end;
	do
		write_next(l);
	while (!atomic_load(&l->err) && l->lsn_durable < lsn);
	l->writing = false;
	l->crowd = l->waiting + 1;
	pthread_cond_broadcast(&l->written[l->turn]);
	pthread_cond_signal(&l->written[!l->turn]);
}

static int sync_locked(struct log *l, uint64_t lsn, bool may_ride)
{
	while (!atomic_load(&l->err) && l->lsn_durable <= lsn) {
		if (l->writing) {
			pthread_cond_t *c = &l->written[lsn < l->turn_end ? l->turn : !l->turn];

			l->waiting++;
			pthread_cond_wait(c, &l->lock);
			l->waiting--;
			continue;
		}
		if (may_ride)
			gather(l);
		if (atomic_load(&l->err))
			break;
		if (l->open && l->open->lsn <= lsn)
			seal(l, may_ride || l->waiting);
		take_turn(l, lsn);
	}
	if (!atomic_load(&l->err))
		return 0;
	/* Who was woken to lead the next turn does not: so nobody else would be woken. */
	pthread_cond_broadcast(&l->written[0]);
	pthread_cond_broadcast(&l->written[1]);
	return -EIO;
}

int log_sync(struct log *l, uint64_t lsn)
{
	int err;

	pthread_mutex_lock(&l->lock);
	assert(lsn < l->lsn);
	l->syncs++;
	err = sync_locked(l, lsn, true);
	pthread_mutex_unlock(&l->lock);
	return err;
}

/* An empty segment, which says in its header that everything before it is durable. */
static void mark_durable(struct log *l)
{
	struct log_segment *s = l->mark;

	if (!s || !fits(l, l->reserved + 1, longest(l)))
		return; /* the log is full: no harm, another time */
	l->mark = NULL;
	segment_open(l, s);
	l->reserved++;
	seal(l, false);
	take_turn(l, l->lsn);
}

int log_tick(struct log *l)
{
	int err;

	pthread_mutex_lock(&l->lock);
	if (l->lsn_durable < l->lsn)
		err = sync_locked(l, l->lsn - 1, false);
	else {
		err = atomic_load(&l->err) ? -EIO : 0;
		if (!err && !l->writing && l->unmarked) {
			mark_durable(l);
			err = atomic_load(&l->err) ? -EIO : 0;
		}
	}
	pthread_mutex_unlock(&l->lock);
	return err;
}

/* --- boundary, trim --- */

struct log_pos log_boundary(struct log *l)
{
	struct log_pos pos;

	pthread_mutex_lock(&l->lock);
	if (l->open)
		seal(l, false);
	l->head_boundary = l->head;
	pos = (struct log_pos){ .block = l->head % l->blocks, .seq = l->seq, .lsn = l->lsn };
	pthread_mutex_unlock(&l->lock);
	return pos;
}

void log_trim(struct log *l, struct log_pos pos)
{
	uint64_t tail;

	pthread_mutex_lock(&l->lock);
	/* A full ring's two ends are the same block. */
	tail = l->tail + (pos.block + l->blocks - l->tail % l->blocks) % l->blocks;
	if (pos.seq == l->seq)
		tail = l->head;
	assert(tail % l->blocks == pos.block && tail <= l->head && pos.lsn <= l->lsn_durable);
	/* What rode in a segment that goes is home, under a flush: else its only durable copy would go. */
	assert(atomic_load(&l->err) || data_ridden_oldest(l->data) >= pos.seq);
	l->tail = tail;
	assert_valid(l);
	pthread_mutex_unlock(&l->lock);
}

void log_kill(struct log *l, int err)
{
	/* Who waits is told by the writer he waits for. */
	fail(l, err);
}

/* --- opening, closing, looking --- */

int log_open(const struct log_options *opt, struct log **ret)
{
	struct log *l;
	uint64_t cap;
	uint64_t rides = opt->ride_max == 0 ? LOG_RIDE_MAX : opt->ride_max == UINT_MAX ? 0 : opt->ride_max;

	if (opt->blocks < LOG_BLOCKS_MIN || opt->blocks > UINT32_MAX || opt->pos.block >= opt->blocks)
		return -EINVAL;
	l = mem_zalloc(sizeof(*l));
	if (!l)
		return -ENOMEM;
	cap = opt->blocks / 4 < SEGMENT_BLOCKS_MAX ? opt->blocks / 4 : SEGMENT_BLOCKS_MAX;
	l->bdev = opt->bdev;
	l->data = opt->data;
	l->start = opt->start;
	l->blocks = opt->blocks;
	l->epoch = opt->epoch;
	l->cap = (uint32_t)cap;
	l->ride_max = (uint32_t)(rides < opt->blocks / 8 ? rides : opt->blocks / 8);
	l->failed = opt->failed;
	l->arg = opt->arg;
	l->tail = l->head = l->head_boundary = opt->pos.block;
	l->seq = opt->pos.seq;
	l->lsn = l->lsn_durable = opt->pos.lsn;
	STAILQ_INIT(&l->queue);
	STAILQ_INIT(&l->spares);
	l->mark = segment_new(l, 1);
	if (!l->mark) {
		mem_free(l);
		return -ENOMEM;
	}
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->written[0], NULL);
	pthread_cond_init(&l->written[1], NULL);
	*ret = l;
	return 0;
}

static void queue_free(struct log *l, struct segment_queue *q)
{
	struct log_segment *s;

	while ((s = STAILQ_FIRST(q))) {
		STAILQ_REMOVE_HEAD(q, link);
		data_seal_done(l->data, &s->seal);
		segment_free(s);
	}
}

void log_close(struct log *l)
{
	if (!l)
		return;
	assert(!l->writing && l->waiting == 0);
	queue_free(l, &l->queue);
	queue_free(l, &l->spares);
	segment_free(l->open);
	segment_free(l->mark);
	pthread_cond_destroy(&l->written[1]);
	pthread_cond_destroy(&l->written[0]);
	pthread_mutex_destroy(&l->lock);
	mem_free(l);
}

void log_status(struct log *l, struct log_status *ret)
{
	pthread_mutex_lock(&l->lock);
	*ret = (struct log_status){
		.lsn_next = l->lsn,
		.lsn_durable = l->lsn_durable,
		.blocks = l->blocks,
		.blocks_used = l->head - l->tail,
		.blocks_reserved = l->reserved,
		.blocks_queued = l->queued,
		.blocks_since = l->head - l->head_boundary + open_blocks(l),
		.segments = l->segments,
		.records = l->records,
		.syncs = l->syncs,
		.bytes_written = l->bytes_written,
		.err = atomic_load(&l->err),
	};
	pthread_mutex_unlock(&l->lock);
}

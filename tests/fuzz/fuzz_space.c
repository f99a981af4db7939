/*
 * The space map: pages and a root entry of anyone's making, and what a filesystem does with them. The input is
 *
 *	OFFSET	SIZE	MEANING
 *	0	1	groups: below 224 one to six, else 129 to 136, for which there are two levels above the bitmaps
 *	1	2	blocks of the last group
 *	3	1	log blocks / 64
 *	4	1	the root page's generation, 0: never written
 *	5	1	its home
 *	6	8	its count of free blocks
 *	14	8	its checksum
 *	22	42	operations, a byte each
 *	64	4096	root page, then as many as there are: pages of the next lower level for the first entries in
 *			use, and bitmaps below those
 *
 * and is tried as it is and once more with all checksums and counts put right.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/space.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/quiet.h"
#include "tests/kit/rng.h"

#define G SPACE_GROUP_BLOCKS
#define HEADER 64u
#define OPS 42u
#define PAGES_MAX 24u

/* --- a device that holds the homes somebody has written to; all else reads as zeros --- */

struct home {
	uint64_t addr;
	uint8_t bytes[BLOCK_SIZE];
};

static struct {
	struct bdev dev;
	struct home *home;
	size_t n, cap;
} disk;

static uint8_t *disk_find(uint64_t addr)
{
	for (size_t i = 0; i < disk.n; i++)
		if (disk.home[i].addr == addr)
			return disk.home[i].bytes;
	return NULL;
}

static void disk_put(uint64_t addr, const void *bytes)
{
	uint8_t *at = disk_find(addr);

	if (!at) {
		if (disk.n == disk.cap) {
			disk.cap = disk.cap ? 2 * disk.cap : 64;
			disk.home = realloc(disk.home, disk.cap * sizeof(*disk.home));
			assert(disk.home);
		}
		disk.home[disk.n].addr = addr;
		at = disk.home[disk.n++].bytes;
	}
	memcpy(at, bytes, BLOCK_SIZE);
}

/* The map writes to homes and nowhere else. */
static void assert_home(uint64_t addr)
{
	uint64_t g = addr / G, bit = addr % G - (g == 0 ? SPACE_META_GROUP0 : 0);

	assert(bit < (g == 0 ? 15 : g % SPACE_FANOUT == 0 ? 6 : 3));
}

static int disk_rw(struct bdev *dev, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks)
{
	uint8_t *at = disk_find(addr);

	(void)dev;
	assert(blocks == 1);
	assert_home(addr);
	if (op == BIO_WRITE)
		disk_put(addr, buf);
	else if (at)
		memcpy(buf, at, BLOCK_SIZE);
	else
		memset(buf, 0, BLOCK_SIZE);
	return 0;
}

static void disk_submit(struct bdev *dev, struct bio **bios, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		assert(bios[i]->iovcnt == 1 && bios[i]->iov[0].iov_len == BLOCK_SIZE);
		bio_complete(bios[i], disk_rw(dev, bios[i]->op, bios[i]->addr, bios[i]->iov[0].iov_base, 1));
	}
}

static void disk_wait(struct bdev *dev, struct bio_group *g)
{
	(void)dev;
	assert(!atomic_load(&g->pending));
}

static void disk_poll(struct bdev *dev)
{
	(void)dev;
}

static const struct bdev_ops disk_ops = {
	.submit = disk_submit,
	.wait = disk_wait,
	.poll = disk_poll,
	.rw = disk_rw,
};

/* --- the input --- */

struct input {
	struct space_geometry geo;
	struct space_root root;
	const uint8_t *ops;
	unsigned levels;
	size_t pages;
	uint8_t page[PAGES_MAX][BLOCK_SIZE];
};

static uint64_t get(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

static void parse(struct input *in, const uint8_t *header, const uint8_t *data, size_t size)
{
	uint64_t groups = header[0] < 224 ? 1 + header[0] % 6u : SPACE_FANOUT + 1 + header[0] % 8u;

	memset(in, 0, sizeof(*in));
	in->geo.blocks = (groups - 1) * G + get(header + 1, 2) % G + 1;
	in->geo.log_start = space_log_start_min();
	in->geo.log_blocks = get(header + 3, 1) * 64;
	in->root = (struct space_root){
		.gen = get(header + 4, 1),
		.home = header[5],
		.free = get(header + 6, 8),
		.sum = get(header + 14, 8),
	};
	in->ops = header + 22;
	in->levels = groups > SPACE_FANOUT ? 2 : 1;
	for (; in->pages < PAGES_MAX && size > 0; in->pages++) {
		size_t n = size < BLOCK_SIZE ? size : BLOCK_SIZE;

		memcpy(in->page[in->pages], data, n);
		data += n;
		size -= n;
	}
}

static uint64_t home_addr(unsigned level, uint64_t first, unsigned home)
{
	return first * G + (first == 0 ? SPACE_META_GROUP0 : 0) + SPACE_HOMES * level + home;
}

static uint64_t usable_before(const struct space_geometry *geo, uint64_t g)
{
	struct space_geometry upto = *geo;

	if (g == 0)
		return 0;
	if (g * G < upto.blocks)
		upto.blocks = g * G;
	return space_blocks_usable(&upto);
}

/* Blocks that can be handed out below the page of this level at group first. */
static uint64_t capacity(const struct space_geometry *geo, unsigned level, uint64_t first)
{
	uint64_t span = level ? SPACE_FANOUT : 1;

	return usable_before(geo, first + (level == 2 ? SPACE_FANOUT * span : span)) - usable_before(geo, first);
}

/* Puts a page and what is below it where its entry says; with `right` it makes entry and page agree. */
static size_t lay(struct input *in, size_t next, unsigned level, uint64_t first, struct space_root *e, bool right)
{
	uint8_t *page = in->page[next];
	uint64_t addr, span = level == 2 ? SPACE_FANOUT : 1, free = 0;
	struct disk_space_entry *entry = (void *)page;

	if (e->gen == 0 || next >= in->pages)
		return next;
	if (right)
		e->home %= SPACE_HOMES;
	next++;
	for (unsigned i = 0; level > 0 && i < SPACE_FANOUT; i++) {
		uint64_t child = first + i * span;
		struct space_root below = {
			.gen = le64_get(entry[i].gen),
			.sum = le64_get(entry[i].sum),
			.free = le64_get(entry[i].free),
			.home = entry[i].home,
		};

		if (right && child * G >= in->geo.blocks)
			memset(&below, 0, sizeof(below));
		if (right && below.gen == 0)
			memset(&below, 0, sizeof(below));
		if (child * G < in->geo.blocks)
			next = lay(in, next, level - 1, child, &below, right);
		if (!right)
			continue;
		if (below.gen && below.free > capacity(&in->geo, level - 1, child))
			below.free = capacity(&in->geo, level - 1, child);
		entry[i] = (struct disk_space_entry){
			.gen = le64_put(below.gen),
			.sum = le64_put(below.sum),
			.free = le64_put(below.free),
			.home = below.home,
		};
		free += below.gen ? below.free : capacity(&in->geo, level - 1, child);
	}
	if (level == 0 && right) {
		uint32_t front = first == 0 ? 47 : first % SPACE_FANOUT == 0 ? 6 : 3;

		for (uint32_t i = 0; i < G; i++) {
			uint64_t a = first * G + i;
			bool fixed = i < front || a >= in->geo.blocks ||
				     (a >= in->geo.log_start && a < in->geo.log_start + in->geo.log_blocks);

			if (fixed)
				page[i / 8] |= (uint8_t)(1 << i % 8);
			free += !(page[i / 8] >> i % 8 & 1);
		}
	}
	addr = home_addr(level, first, e->home);
	if (right) {
		e->free = free;
		e->sum = XXH3_64bits_withSeed(page, BLOCK_SIZE, e->gen ^ addr);
	}
	disk_put(addr, page);
	return next;
}

/* --- what is done --- */

struct taken {
	uint64_t addr;
	uint32_t blocks;
	bool durable;
};

static uint64_t count_free(struct space *s, bool durable)
{
	static uint64_t used[G / 64], dur[G / 64];
	uint64_t n = 0;

	for (uint64_t g = 0; g < space_groups(s); g++) {
		int err = space_bitmaps(s, g, (uint8_t *)used, (uint8_t *)dur);

		assert(!err || err == -EBADMSG);
		for (uint32_t i = 0; !err && i < G / 64; i++) {
			assert(!(dur[i] & ~used[i]));
			n += 64 - (unsigned)__builtin_popcountll(durable ? dur[i] : used[i]);
		}
	}
	return n;
}

static void checkpoint(struct space *s, struct space_root *root, struct taken *t, unsigned n, uint64_t gen)
{
	struct space_event ev[OPS];
	unsigned k = 0;
	int err;

	for (unsigned i = 0; i < n; i++) {
		if (t[i].blocks == 0 || (i % 3 == 0 && !t[i].durable))
			continue;
		/* What is durable is let go; what is not becomes so. */
		ev[k++] = (struct space_event){ t[i].addr, t[i].blocks, t[i].durable ? SPACE_RELEASED : SPACE_REACHED };
		t[i].durable = !t[i].durable;
	}
	err = space_apply(s, ev, k);
	assert(!err);
	err = space_write(s, gen, root);
	assert(!err);
	space_commit(s);
}

static unsigned operate(struct space *s, const uint8_t *ops, struct space_root *root, struct taken *t)
{
	unsigned n = 0;
	uint64_t gen = 1000;

	for (unsigned i = 0; i < OPS; i++) {
		uint32_t want = UINT32_C(1) << (ops[i] >> 4), min = ops[i] & 1 ? want : 1;
		uint64_t room = space_free_blocks(s);
		int err;

		if ((ops[i] & 0xf) < 10) {
			if (want > G / 2)
				want = G / 2;
			if (min > want)
				min = want;
			err = space_alloc(s, (enum space_stream)(ops[i] % SPACE_STREAMS), min, want, &t[n].addr,
					  &t[n].blocks);
			assert(!err || err == -ENOSPC);
			if (err)
				continue;
			assert(space_valid(s, t[n].addr, t[n].blocks) && t[n].blocks >= min && t[n].blocks <= want);
			assert(space_free_blocks(s) <= room - t[n].blocks);
			for (unsigned k = 0; k < n; k++)
				assert(t[k].blocks == 0 || t[k].addr + t[k].blocks <= t[n].addr ||
				       t[n].addr + t[n].blocks <= t[k].addr);
			t[n++].durable = false;
		} else if ((ops[i] & 0xf) < 13 && n > 0) {
			struct taken *gone = &t[ops[i] % n];

			err = space_free(s, gone->addr, gone->blocks);
			assert(err == (gone->blocks && !gone->durable ? 0 : -EUCLEAN));
			if (!err)
				gone->blocks = 0;
		} else {
			checkpoint(s, root, t, n, gen++);
		}
	}
	checkpoint(s, root, t, n, gen);
	return n;
}

static void mount_and_use(const struct input *in, const struct space_root *first)
{
	struct taken taken[OPS] = { 0 };
	struct space_root root = *first;
	struct space *s;
	uint64_t durable;
	int err;

	bdev_init(&disk.dev, &disk_ops, "fuzz");
	disk.dev.geo.blocks = in->geo.blocks;
	err = space_open(&disk.dev, &in->geo, &root, in->ops[0] & 1 ? 1 : 0, &s);
	if (err) {
		assert(err == -EINVAL && space_blocks_usable(&in->geo) == 0);
		return;
	}
	assert(space_free_blocks(s) <= space_usable_blocks(s));
	operate(s, in->ops, &root, taken);
	assert(space_free_blocks(s) >= count_free(s, false));
	/* Now all that is bad is known. */
	assert(space_free_blocks(s) == count_free(s, false));
	durable = count_free(s, true);
	space_close(s);

	/* And it is all there again. */
	err = space_open(&disk.dev, &in->geo, &root, 0, &s);
	assert(!err);
	assert(count_free(s, false) == durable);
	assert(space_free_blocks(s) == durable);
	space_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct input in;
	uint8_t header[HEADER] = { 0 };
	size_t n = size < HEADER ? size : HEADER;

	if (n > 0)
		memcpy(header, data, n);
	for (unsigned right = 0; right < 2; right++) {
		parse(&in, header, data + n, size - n);
		disk.n = 0;
		lay(&in, 0, in.levels, 0, &in.root, right);
		mount_and_use(&in, &in.root);
	}
	return 0;
}

size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed)
{
	struct rng rng;
	size_t pages, len;

	rng_seed(&rng, seed);
	pages = (size_t)rng_range(&rng, 1, 8);
	len = HEADER + pages * BLOCK_SIZE;
	if (len > cap)
		return 0;
	memset(buf, 0, len);
	rng_bytes(&rng, buf, HEADER);
	buf[4] |= 1;
	buf[5] %= SPACE_HOMES;
	for (size_t p = 0; p < pages; p++) {
		uint8_t *page = buf + HEADER + p * BLOCK_SIZE;
		struct disk_space_entry *entry = (void *)page;
		bool radix = p == 0 || (buf[0] >= 224 && p == 1);

		for (uint32_t i = 0; radix && i < SPACE_FANOUT; i++)
			if (rng_chance(&rng, 1, 3)) {
				entry[i].gen = le64_put(rng_range(&rng, 1, 9));
				entry[i].home = (uint8_t)rng_below(&rng, 3);
			}
		for (uint32_t i = 0; !radix && i < BLOCK_SIZE; i++)
			page[i] = rng_chance(&rng, 1, 2) ? 0xff : (uint8_t)rng_next(&rng);
	}
	return len;
}

#include "tests/kit/spacefs.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/test.h"

static atomic_uint reports;

static void count_report(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
	atomic_fetch_add(&reports, 1);
}

void spacefs_count_reports(void)
{
	err_set_sink(count_report, NULL);
}

unsigned spacefs_reports(void)
{
	return atomic_exchange(&reports, 0);
}

void spacefs_open_root(struct spacefs *fs, const struct space_root *root)
{
	assert_int_equal(space_open(fs->dev, &fs->geo, root, fs->mem_max, &fs->space), 0);
}

void spacefs_init_sized(struct spacefs *fs, uint64_t blocks, uint64_t log_blocks, uint64_t device_blocks, bool trace)
{
	memset(fs, 0, sizeof(*fs));
	fs->geo = (struct space_geometry){
		.blocks = blocks,
		.log_start = space_log_start_min(),
		.log_blocks = log_blocks,
	};
	fs->disk = simdev_new(&(struct simdev_options){ .blocks = device_blocks, .no_trace = !trace });
	fs->dev = simdev_bdev(fs->disk);
	fs->gen = 1;
	spacefs_open_root(fs, &fs->root);
	spacefs_reports();
}

void spacefs_init(struct spacefs *fs, uint64_t blocks, uint64_t log_blocks)
{
	spacefs_init_sized(fs, blocks, log_blocks, blocks, false);
}

void spacefs_release(struct spacefs *fs)
{
	space_close(fs->space);
	bdev_close(fs->dev);
	simdev_free(fs->disk);
}

void spacefs_reopen(struct spacefs *fs)
{
	space_close(fs->space);
	spacefs_open_root(fs, &fs->root);
}

int spacefs_write(struct spacefs *fs, struct space_root *ret)
{
	int err = space_write(fs->space, fs->gen++, ret);

	return err ? err : bdev_flush(fs->dev);
}

void spacefs_commit(struct spacefs *fs, const struct space_root *root)
{
	space_commit(fs->space);
	fs->older = fs->root;
	fs->root = *root;
}

void spacefs_checkpoint(struct spacefs *fs, const struct space_event *events, size_t n)
{
	struct space_root root;

	assert_int_equal(space_apply(fs->space, events, n), 0);
	assert_int_equal(spacefs_write(fs, &root), 0);
	spacefs_commit(fs, &root);
}

uint64_t spacefs_take(struct spacefs *fs, enum space_stream stream, uint32_t blocks)
{
	uint64_t addr;
	uint32_t got;

	assert_int_equal(space_alloc(fs->space, stream, blocks, blocks, &addr, &got), 0);
	assert_int_equal(got, blocks);
	assert_true(space_valid(fs->space, addr, blocks));
	return addr;
}

struct space_event spacefs_used_up(struct spacefs *fs, uint64_t g, uint32_t but)
{
	uint64_t end = ((g + 1) * G < fs->geo.blocks ? (g + 1) * G : fs->geo.blocks) - but;
	uint64_t addr = g * G;

	while (addr < end && !space_valid(fs->space, addr, end - addr))
		addr++;
	assert_true(addr < end);
	return reached(addr, (uint32_t)(end - addr));
}

void spacefs_use_up(struct spacefs *fs, uint64_t g, uint32_t but)
{
	struct space_event ev = spacefs_used_up(fs, g, but);

	assert_int_equal(space_mark_used(fs->space, ev.addr, ev.blocks), 0);
}

uint64_t spacefs_home(uint64_t g, unsigned level, unsigned home)
{
	return g * G + (g == 0 ? SPACE_META_GROUP0 : 0) + level * SPACE_HOMES + home;
}

void spacefs_flip_homes(struct spacefs *fs, uint64_t g, unsigned level)
{
	for (unsigned h = 0; h < SPACE_HOMES; h++)
		simdev_flip(fs->disk, spacefs_home(g, level, h), 77);
}

/* --- the plain array --- */

static void fix(struct blockmap *m, const struct spacefs *fs)
{
	for (uint64_t a = 0; a < m->blocks; a++)
		if (!space_valid(fs->space, a, 1))
			m->now[a] = BLOCK_FIXED | BLOCK_USED | BLOCK_DURABLE;
		else if (m->now[a] & BLOCK_FIXED)
			m->now[a] = 0; /* was past the end */
}

void blockmap_init(struct blockmap *m, const struct spacefs *fs, uint64_t blocks_max)
{
	*m = (struct blockmap){
		.blocks = fs->geo.blocks,
		.root_blocks = fs->geo.blocks,
		.older_blocks = fs->geo.blocks,
		.now = calloc(1, blocks_max),
		.root = malloc(blocks_max),
		.older = malloc(blocks_max),
	};
	fix(m, fs);
	memcpy(m->root, m->now, m->blocks);
	memcpy(m->older, m->now, m->blocks);
}

void blockmap_release(struct blockmap *m)
{
	free(m->now);
	free(m->root);
	free(m->older);
}

uint64_t blockmap_free(const struct blockmap *m, uint8_t what)
{
	uint64_t n = 0;

	for (uint64_t a = 0; a < m->blocks; a++)
		n += !(m->now[a] & what);
	return n;
}

uint64_t blockmap_longest(const struct blockmap *m)
{
	uint64_t run = 0, longest = 0;

	for (uint64_t a = 0; a < m->blocks; a++) {
		run = m->now[a] & BLOCK_USED ? 0 : run + 1;
		if (run > longest)
			longest = run;
	}
	return longest;
}

bool blockmap_all(const struct blockmap *m, uint64_t addr, uint64_t blocks, uint8_t mask, uint8_t want)
{
	for (uint64_t a = addr; a < addr + blocks; a++)
		if (a >= m->blocks || (m->now[a] & mask) != want)
			return false;
	return true;
}

void blockmap_change(struct blockmap *m, uint64_t addr, uint64_t blocks, uint8_t set, uint8_t clear)
{
	for (uint64_t a = addr; a < addr + blocks; a++)
		m->now[a] = (uint8_t)((m->now[a] | set) & ~clear);
}

void blockmap_apply(struct blockmap *m, const struct space_event *events, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (events[i].kind == SPACE_REACHED)
			blockmap_change(m, events[i].addr, events[i].blocks, BLOCK_DURABLE, 0);
		else
			blockmap_change(m, events[i].addr, events[i].blocks, 0, BLOCK_DURABLE);
}

void blockmap_commit(struct blockmap *m)
{
	uint8_t *older = m->older;

	m->older = m->root;
	m->older_blocks = m->root_blocks;
	m->root = older;
	m->root_blocks = m->blocks;
	memcpy(m->root, m->now, m->blocks);
}

void blockmap_crash(struct blockmap *m)
{
	assert_int_equal(m->root_blocks, m->blocks);
	for (uint64_t a = 0; a < m->blocks; a++)
		m->now[a] = m->root[a] & BLOCK_DURABLE ? m->root[a] | BLOCK_USED : 0;
	memcpy(m->older, m->root, m->root_blocks);
	m->older_blocks = m->root_blocks;
}

void blockmap_grow(struct blockmap *m, const struct spacefs *fs)
{
	memset(m->now + m->blocks, 0, fs->geo.blocks - m->blocks);
	m->blocks = fs->geo.blocks;
	fix(m, fs);
}

static void assert_bits(const uint8_t *map, uint64_t g, const uint8_t *plain, uint64_t blocks, uint8_t what)
{
	for (uint64_t i = 0; i < G; i++) {
		uint64_t a = g * G + i;

		if (bit(map, i) != (a >= blocks || plain[a] & what))
			fail_msg("block %llu, bit %d", (unsigned long long)a, what);
	}
}

void blockmap_assert(const struct blockmap *m, struct spacefs *fs)
{
	uint8_t *used = malloc(BITMAP_BYTES), *durable = malloc(BITMAP_BYTES);

	for (uint64_t g = 0; g < space_groups(fs->space); g++) {
		assert_int_equal(space_bitmaps(fs->space, g, used, durable), 0);
		assert_bits(used, g, m->now, m->blocks, BLOCK_USED);
		assert_bits(durable, g, m->now, m->blocks, BLOCK_DURABLE);
	}
	assert_int_equal(space_free_blocks(fs->space), blockmap_free(m, BLOCK_USED));
	assert_int_equal(space_durable_free(fs->space), blockmap_free(m, BLOCK_DURABLE));
	free(used);
	free(durable);
}

static void assert_root(struct bdev *dev, const struct space_geometry *geo, uint64_t blocks,
			const struct space_root *root, const uint8_t *plain)
{
	struct space_geometry then = *geo;
	uint8_t *used = malloc(BITMAP_BYTES);
	struct space *s;

	then.blocks = blocks;
	assert_int_equal(space_open(dev, &then, root, 1, &s), 0);
	for (uint64_t g = 0; g < space_groups(s); g++) {
		assert_int_equal(space_bitmaps(s, g, used, NULL), 0);
		assert_bits(used, g, plain, blocks, BLOCK_DURABLE);
	}
	space_close(s);
	free(used);
}

void blockmap_assert_roots(const struct blockmap *m, const struct spacefs *fs, struct bdev *dev)
{
	assert_root(dev, &fs->geo, m->root_blocks, &fs->root, m->root);
	assert_root(dev, &fs->geo, m->older_blocks, &fs->older, m->older);
}

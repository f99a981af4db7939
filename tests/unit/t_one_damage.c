/*
 * t_one_damage.c - damage to any single block of metadata loses nothing
 *
 * A filesystem with a bit of everything, cleanly unmounted and with a log to replay, on small and on several groups: one block of its
 * metadata after the other (both slots, every page of the space map, both copies of every node of live and of a snapshot) is
 * made zeros, gets a flipped bit, or goes back to what stood there earlier. Each time it mounts, everything reads as before,
 * writing goes on, and after unmounting the check finds nothing.
 *
 * And the log: damage of what had been acknowledged is refused, never taken for the log's end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/scrub.h"
#include "tests/kit/metakit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"
#include "wal/log_format.h"
#include "wal/store_int.h"

enum how { ZEROS, FLIP, OLDER, HOWS };

static const char *const how_names[] = { "zeros", "a flipped bit", "older content" };

/* The address sanitizer makes a mount ten times as long. */
#ifdef __SANITIZE_ADDRESS__
#define EVERY 5u
#else
#define EVERY 1u
#endif

struct row {
	const char *name;
	uint64_t blocks;
	uint32_t node_size;
	unsigned files;
	bool crash;	/* a log to replay */
	unsigned empty; /* files besides, that only make the tree larger */
};

static const struct row rows[] = {
	{ "any_block_of_a_clean_image", 8192, 4096, 150, false },
	{ "any_block_of_an_image_with_a_log", 8192, 4096, 150, true },
	{ "any_block_of_a_clean_image_of_large_nodes", 16384, 16384, 100, false },
	{ "any_block_of_an_image_of_large_nodes_with_a_log", 16384, 16384, 100, true },
	{ "any_block_of_a_deep_tree_with_a_log", 16384, 4096, 60, true, 1600 },
	{ "any_block_of_three_groups_with_a_log", 3 * 32768, 4096, 60, true },
};

struct made {
	struct fskit k;
	struct simdev *older; /* what was there earlier */
	struct meta_places p;
	uint64_t digest;
	unsigned damaged, mounts;
};

static void touch_a_few(struct fskit *k, unsigned seed)
{
	char name[32], text[3000];

	memset(text, 'a' + (int)(seed % 26), sizeof(text));
	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "more%u-%u", seed, i);
		assert_int_equal(fskit_create(k, name), 0);
		for (unsigned n = 0; n < 3; n++)
			assert_int_equal(fskit_write(k, name, text, sizeof(text), n * 20000), 0);
	}
	snprintf(name, sizeof(name), "more%u-2", seed);
	assert_int_equal(fskit_unlink(k, name), 0);
}

static void make(struct made *m, const struct row *row)
{
	*m = (struct made){ 0 };
	fskit_init(&m->k,
		   &(struct fskit_options){ .copies = true, .blocks = row->blocks, .node_size = row->node_size });
	m->k.opt.atime = FS_NOATIME;
	m->k.opt.store.cache_bytes = 4u << 20; /* it is mounted a thousand times */
	fskit_remount(&m->k);
	metakit_fill(&m->k, row->files / 2, false);
	for (unsigned i = 0; i < row->empty; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d3/empty%u", i);
		assert_int_equal(fskit_create(&m->k, name), 0);
	}
	fskit_unmount(&m->k);
	m->older = simdev_clone(m->k.disk);
	fskit_mount(&m->k);
	assert_int_equal(snapshot_create(fs_store(m->k.fs), "half", NULL), 0);
	touch_a_few(&m->k, 100);
	assert_int_equal(store_checkpoint(fs_store(m->k.fs)), 0);
	touch_a_few(&m->k, 101);
	if (!row->crash)
		fskit_remount(&m->k);
	else
		assert_int_equal(fs_sync(m->k.fs), 0);
	m->digest = metakit_digest(&m->k, NULL);
	if (row->crash) {
		assert_int_equal(fs_sync(m->k.fs), 0);
		metakit_places(&m->k, &m->p);
		fs_crash(m->k.fs);
		m->k.fs = NULL;
	} else {
		fskit_unmount(&m->k);
		fskit_mount(&m->k);
		/* What is in force then is what the last checkpoint of unmounting has written. */
		fs_crash(m->k.fs);
		m->k.fs = NULL;
		fskit_mount(&m->k);
		fskit_unmount(&m->k);
		fskit_mount(&m->k);
		metakit_places(&m->k, &m->p);
		fs_crash(m->k.fs);
		m->k.fs = NULL;
	}
}

static void release(struct made *m)
{
	metakit_free(&m->p);
	simdev_free(m->older);
	fskit_release(&m->k);
}

/* False: that is what stands there. */
static bool damage(struct made *m, struct simdev *disk, uint64_t addr, enum how how)
{
	uint8_t was[BLOCK_SIZE], is[BLOCK_SIZE] = { 0 };

	simdev_peek(disk, addr, was, 1);
	if (how == FLIP) {
		simdev_flip(disk, addr, (unsigned)(addr * 7919 % (8 * BLOCK_SIZE)));
		return true;
	}
	if (how == OLDER)
		simdev_peek(m->older, addr, is, 1);
	if (!memcmp(was, is, BLOCK_SIZE))
		return false;
	simdev_poke(disk, addr, 0, is, BLOCK_SIZE);
	return true;
}

static void expect_whole(struct made *m, unsigned seed)
{
	struct fskit *k = &m->k;

	fskit_mount(k);
	assert_int_equal(metakit_digest(k, NULL), m->digest);
	touch_a_few(k, seed);
	assert_int_equal(fs_sync(k->fs), 0);
	fskit_remount(k);
	/* A bad second copy that nothing has read is still bad, until it is scrubbed. */
	assert_int_equal(scrub_start(k->fs, &(struct scrub_options){ 0 }), 0);
	fskit_check(k);
	fskit_unmount(k);
	m->mounts++;
}

static void any_block(void **state)
{
	const struct row *row = *state;
	unsigned level = 0;
	struct made m;

	make(&m, row);
	for (size_t i = 0; i < m.p.n; i++)
		for (uint32_t b = 0; b < m.p.at[i].blocks; b++)
			for (enum how how = 0; how < HOWS; how++) {
				struct simdev *whole = m.k.disk;
				uint64_t addr = m.p.at[i].addr + b;

				/* Of many places each in one way. */
				if ((m.p.n > 60 && how != (i + b) % HOWS) || (i + b) % EVERY)
					continue;
				m.k.disk = simdev_clone(whole);
				if (damage(&m, m.k.disk, addr, how)) {
					storekit_quiet();
					if (getenv("ARBOR_VERBOSE"))
						print_message("# %s in block %llu, kind %d level %u\n", how_names[how],
							      (unsigned long long)addr, (int)m.p.at[i].kind,
							      m.p.at[i].level);
					expect_whole(&m, 1000 + (unsigned)i);
					m.damaged++;
				}
				simdev_free(m.k.disk);
				m.k.disk = whole;
			}
	for (size_t i = 0; i < m.p.n; i++)
		level = m.p.at[i].kind == META_NODE && m.p.at[i].level > level ? m.p.at[i].level : level;
	print_message("# %zu places, trees of %u levels, %u damages\n", m.p.n, level + 1, m.damaged);
	assert_true(m.damaged > 50 / EVERY);
	release(&m);
}

/* ---- the log ---- */

struct segment {
	uint64_t block, blocks; /* on the device */
	unsigned records;
};

/* The segments of the running log, in order of their places. */
static unsigned find_segments(struct fskit *k, struct segment *ret, unsigned max)
{
	const struct super *s = &fs_store(k->fs)->super;
	uint8_t buf[BLOCK_SIZE];
	unsigned n = 0;

	for (uint64_t at = 0; at < s->log_blocks; at++) {
		const struct disk_segment *h = (const void *)buf;

		simdev_peek(k->disk, s->log_start + at, buf, 1);
		if (le32_get(h->magic) != LOG_SEGMENT_MAGIC || le64_get(h->epoch) != s->log_epoch ||
		    le64_get(h->place) != at || le64_get(h->seq) < s->log_seq)
			continue;
		assert_true(n < max);
		ret[n++] = (struct segment){ s->log_start + at, le32_get(h->blocks), le32_get(h->records) };
	}
	return n;
}

static unsigned refused;

static void expect_refused(struct fskit *k, uint64_t addr, bool clear)
{
	struct simdev *whole = k->disk;
	struct fs *fs;
	uint8_t zeros[BLOCK_SIZE] = { 0 };

	k->disk = simdev_clone(whole);
	if (clear)
		simdev_poke(k->disk, addr, 0, zeros, BLOCK_SIZE);
	else
		simdev_flip(k->disk, addr, (unsigned)(addr * 7919 % (8 * BLOCK_SIZE)));
	storekit_quiet();
	if (fs_mount(simdev_bdev(k->disk), &k->opt, &fs) != -EUCLEAN)
		fail_msg("block %llu, %s: not refused", (unsigned long long)addr, clear ? "zeros" : "a flipped bit");
	assert_true(storekit_said("corrupt log") > 0);
	refused++;
	simdev_free(k->disk);
	k->disk = whole;
}

static void acknowledged_log(void **state)
{
	struct segment seg[64];
	struct fskit k;
	char name[20];
	unsigned n, with_records = 0;

	(void)state;
	fskit_init(&k, NULL);
	assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
	for (unsigned i = 0; i < 12; i++) {
		uint8_t bytes[9000];

		snprintf(name, sizeof(name), "file%u", i);
		memset(bytes, (int)i + 1, sizeof(bytes));
		assert_int_equal(fskit_create(&k, name), 0);
		if (i % 3 == 0)
			assert_int_equal(fskit_write(&k, name, bytes, sizeof(bytes), 0), 0);
		assert_int_equal(fs_sync(k.fs), 0);
	}
	/* The timer's next strike says in an empty segment that the last one is durable, too. */
	assert_int_equal(store_tick(fs_store(k.fs)), 0);
	n = find_segments(&k, seg, ARRAY_LEN(seg));
	fs_crash(k.fs);
	k.fs = NULL;
	assert_true(n > 10);
	for (unsigned i = 0; i < n; i++) {
		with_records += seg[i].records > 0;
		for (uint64_t b = 0; seg[i].records && b < seg[i].blocks; b++) {
			expect_refused(&k, seg[i].block + b, true);
			expect_refused(&k, seg[i].block + b, false);
		}
	}
	assert_int_equal(with_records, 12);
	/* The empty one says nothing of its own: without it all is there. */
	assert_int_equal(seg[n - 1].records, 0);
	simdev_flip(k.disk, seg[n - 1].block, 99);
	fskit_mount(&k);
	for (unsigned i = 0; i < 12; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		assert_true(fskit_node(&k, name) != 0);
	}
	fskit_check(&k);
	fskit_release(&k);
	print_message("# %u damages refused\n", refused);
}

/* ---- where second copies are ---- */

struct size {
	const char *name;
	uint64_t blocks;
	uint32_t node_size;
};

static const struct size sizes[] = {
	{ "copies_are_far_away_on_4_MiB", 1024, 4096 },
	{ "copies_are_far_away_on_32_MiB", 8192, 16384 },
	{ "copies_are_far_away_on_128_MiB", 32768, 16384 },
	{ "copies_are_far_away_on_130_MiB", 33400, 4096 },
	{ "copies_are_far_away_on_256_MiB", 2 * 32768, 16384 },
	{ "copies_are_far_away_on_600_MiB", 5 * 32768 - 10000, 32768 },
	{ "copies_are_far_away_on_4_GiB", 32 * 32768, 16384 },
};

static void copies_are_far_away(void **state)
{
	const struct size *size = *state;
	uint64_t groups = (size->blocks + 32767) / 32768;
	struct meta_places p;
	struct fskit k;
	unsigned n = 0, near = 0;
	char name[32];

	fskit_init(&k, &(struct fskit_options){ .copies = true,
						.blocks = size->blocks,
						.node_size = size->node_size,
						.log_blocks = size->blocks < 8192 ? 64 : 256 });
	for (unsigned i = 0; i < 400; i++) {
		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(fskit_create(&k, name), 0);
		if (i % 7 == 0)
			assert_int_equal(fskit_write(&k, name, "x", 1, 5000), 0);
		if (i % 5 == 4 && i > 20) {
			snprintf(name, sizeof(name), "%u", i - 20);
			assert_int_equal(fskit_unlink(&k, name), 0);
		}
		if (i % 20 == 0)
			assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
	}
	assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
	metakit_places(&k, &p);
	for (size_t i = 0; i < p.n; i++) {
		uint64_t a = p.at[i].addr, b = p.at[i].twin, apart = a > b ? a - b : b - a;

		if (p.at[i].kind != META_NODE)
			continue;
		n++;
		assert_true(b != 0);
		near += groups > 1 ? a / 32768 == b / 32768 : apart < size->blocks / 4;
	}
	print_message("# %u nodes, %u with their copies near\n", n, near);
	assert_true(n > 1);
	/* A last group of a few blocks cannot hold them all. */
	assert_int_equal(near, 0);
	metakit_free(&p);
	fskit_release(&k);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(rows) + ARRAY_LEN(sizes) + 1];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		tests[n++] = TEST_ROW(rows[i].name, any_block, &rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		tests[n++] = TEST_ROW(sizes[i].name, copies_are_far_away, &sizes[i]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(acknowledged_log);
	return _cmocka_run_group_tests("tests", tests, n, NULL, NULL);
}

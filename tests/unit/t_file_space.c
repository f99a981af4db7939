/*
 * fallocate, holes and SEEK_DATA/SEEK_HOLE: what is refused, each kind of range by each kind of file, space that was
 * promised on a full device, large ranges, crashes; and long random runs against a model (filemodel.h).
 */
#include <linux/falloc.h>
#include <linux/fs.h>
#undef BLOCK_SIZE

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/err.h"
#include "btree/types.h"
#include "fs/fs_format.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "tests/kit/failmem.h"
#include "tests/kit/filemodel.h"
#include "tests/kit/test.h"

#define KEEP FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO FALLOC_FL_ZERO_RANGE
#define CAP (64u * BLOCK_SIZE)

static uint64_t make(struct fskit *k, const char *name, mode_t mode)
{
	struct fs_entry e;

	if (S_ISDIR(mode))
		assert_int_equal(fs_mkdir(k->fs, &fskit_root, FS_ROOT, name, mode, &e), 0);
	else
		assert_int_equal(fs_mknod(k->fs, &fskit_root, FS_ROOT, name, mode, 0, &e), 0);
	fs_forget(k->fs, e.node, 1);
	return e.node;
}

/* ---- what is refused ---- */

static const struct refusal {
	const char *says;
	mode_t type;
	uint32_t flags;
	int mode;
	uint64_t off, len;
	int result;
} refusals[] = {
	{ "no_length", S_IFREG, 0, 0, 0, 0, -EINVAL },
	{ "collapse", S_IFREG, 0, FALLOC_FL_COLLAPSE_RANGE, 0, 4096, -EOPNOTSUPP },
	{ "insert", S_IFREG, 0, FALLOC_FL_INSERT_RANGE, 0, 4096, -EOPNOTSUPP },
	{ "unshare", S_IFREG, 0, FALLOC_FL_UNSHARE_RANGE, 0, 4096, -EOPNOTSUPP },
	{ "punch_without_keep_size", S_IFREG, 0, FALLOC_FL_PUNCH_HOLE, 0, 4096, -EOPNOTSUPP },
	{ "punch_and_zero", S_IFREG, 0, PUNCH | ZERO, 0, 4096, -EOPNOTSUPP },
	{ "beyond_the_largest_size", S_IFREG, 0, 0, FS_SIZE_MAX, 1, -EFBIG },
	{ "over_the_largest_size", S_IFREG, 0, 0, FS_SIZE_MAX - 4096, 4097, -EFBIG },
	{ "a_punch_over_it", S_IFREG, 0, PUNCH, FS_SIZE_MAX - 4096, 4097, -EFBIG },
	{ "up_to_it_punched", S_IFREG, 0, PUNCH, FS_SIZE_MAX - 4096, 4096, 0 },
	{ "up_to_it_kept", S_IFREG, 0, KEEP, FS_SIZE_MAX - 4096, 4096, 0 },
	{ "the_whole_space_of_offsets", S_IFREG, 0, 0, 1, UINT64_MAX, -EFBIG },
	{ "more_than_there_is", S_IFREG, 0, 0, 0, FS_SIZE_MAX, -ENOSPC },
	{ "zeros_for_more_than_there_is", S_IFREG, 0, ZERO, 0, FS_SIZE_MAX, -ENOSPC },
	{ "a_directory", S_IFDIR, 0, 0, 0, 4096, -EISDIR },
	{ "a_fifo", S_IFIFO, 0, 0, 0, 4096, -ESPIPE },
	{ "a_device", S_IFCHR, 0, 0, 0, 4096, -ENODEV },
	{ "immutable", S_IFREG, FS_IMMUTABLE_FL, KEEP, 0, 4096, -EPERM },
	{ "append_only_reserved", S_IFREG, FS_APPEND_FL, 0, 0, 4096, 0 },
	{ "append_only_punched", S_IFREG, FS_APPEND_FL, PUNCH, 0, 4096, -EPERM },
	{ "append_only_zeroed", S_IFREG, FS_APPEND_FL, ZERO | KEEP, 0, 4096, -EPERM },
};

static void a_refusal(void **state)
{
	const struct refusal *r = *state;
	struct fskit k;
	uint64_t node;

	fskit_init(&k, NULL);
	node = make(&k, "x", r->type | 0666);
	if (r->flags)
		assert_int_equal(fs_setflags(k.fs, node, r->flags), 0);
	assert_int_equal(fs_fallocate(k.fs, node, r->mode, r->off, r->len), r->result);
	assert_int_equal(fs_fallocate(k.fs, 4711, r->mode, r->off, r->len) < 0, true);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- one range of one file ---- */

/* The file is written as text, a character a block: '.' hole, 'c' claim, 'D' data; then the last block's length in bytes. */
static const struct shape {
	const char *name, *blocks;
	unsigned last; /* bytes of the last block that are within the size; 0: it is behind the size */
} shapes[] = {
	{ "an_empty_file", "", 0 },
	{ "an_inline_file", "i", 700 },
	{ "a_small_file", "D", 3000 },
	{ "a_hole", "..........", 4096 },
	{ "data", "DDDDDDDDDD", 4096 },
	{ "an_odd_size", "DDDDDDDDDD", 17 },
	{ "data_and_holes", "D.D..DD..D", 100 },
	{ "promises", "ccDcc.DDcc", 4096 },
	{ "promises_behind_the_end", "DDDDDcccc", 0 },
};

static const struct range {
	const char *name;
	uint64_t off, len;
} ranges[] = {
	{ "everything", 0, 16 * 4096 },
	{ "whole_blocks", 2 * 4096, 3 * 4096 },
	{ "one_block", 4096, 4096 },
	{ "a_part_of_a_block", 4096 + 100, 200 },
	{ "a_part_of_the_first", 5, 300 },
	{ "odd_at_both_ends", 4096 + 100, 4 * 4096 },
	{ "odd_at_the_front", 2 * 4096 - 1, 2 * 4096 + 1 },
	{ "odd_at_the_back", 2 * 4096, 2 * 4096 + 1 },
	{ "two_blocks_in_part", 2 * 4096 - 10, 20 },
	{ "the_last_block", 9 * 4096, 4096 },
	{ "up_to_an_odd_size", 8 * 4096 + 5, 4096 + 12 },
	{ "over_the_end", 9 * 4096 + 10, 5 * 4096 },
	{ "behind_the_end", 12 * 4096, 7000 },
};

static const int modes[] = { 0, KEEP, PUNCH, ZERO, ZERO | KEEP };

static void make_shape(struct fskit *k, const struct shape *s, uint64_t node, struct filemodel *m)
{
	size_t n = strlen(s->blocks);
	uint64_t size = 0;
	uint8_t buf[BLOCK_SIZE];

	for (size_t i = 0; i < n; i++) {
		uint64_t len = s->blocks[i] == 'i' || (i + 1 == n && s->last) ? s->last : BLOCK_SIZE;

		if (s->last || s->blocks[i] == 'D')
			size = i * BLOCK_SIZE + len;
		memset(buf, 'a' + (int)i, sizeof(buf));
		if (s->blocks[i] == 'D' || s->blocks[i] == 'i') {
			assert_int_equal(fs_write(k->fs, node, buf, len, i * BLOCK_SIZE, 0), 0);
			filemodel_write(m, buf, len, i * BLOCK_SIZE);
		}
	}
	if (m->size != size) {
		struct fs_entry e;

		assert_int_equal(fs_setattr(k->fs, node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)size }, &e), 0);
		filemodel_truncate(m, size);
	}
	for (size_t i = 0; i < n; i++) {
		if (s->blocks[i] != 'c')
			continue;
		assert_int_equal(fs_fallocate(k->fs, node, KEEP, i * BLOCK_SIZE, 1), 0);
		filemodel_fallocate(m, KEEP, i * BLOCK_SIZE, 1);
	}
	filemodel_expect(m, k, node);
}

/* Every kind of range and every mode on files of one shape. */
static void a_shape(void **state)
{
	const struct shape *s = *state;
	uint64_t before;
	struct fskit k;

	fskit_init(&k, NULL);
	before = fskit_free(&k);
	for (size_t r = 0; r < ARRAY_LEN(ranges); r++) {
		for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
			uint64_t node = make(&k, "x", S_IFREG | 06777);
			struct fs_entry a, b;
			struct filemodel m;

			filemodel_init(&m, &k, CAP);
			make_shape(&k, s, node, &m);
			assert_int_equal(fs_getattr(k.fs, node, &a), 0);
			assert_int_equal(fs_fallocate(k.fs, node, modes[i], ranges[r].off, ranges[r].len), 0);
			filemodel_fallocate(&m, modes[i], ranges[r].off, ranges[r].len);
			assert_int_equal(fs_getattr(k.fs, node, &b), 0);
			assert_true(b.st.st_mtim.tv_sec > a.st.st_mtim.tv_sec);
			assert_int_equal(b.st.st_mode & 07777, 0755); /* the umask took the rest */
			filemodel_expect(&m, &k, node);
			/* Twice is the same as once. */
			assert_int_equal(fs_fallocate(k.fs, node, modes[i], ranges[r].off, ranges[r].len), 0);
			filemodel_expect(&m, &k, node);
			if (i == r % ARRAY_LEN(modes)) {
				assert_int_equal(fs_sync(k.fs), 0);
				fskit_reboot(&k, true);
				filemodel_expect(&m, &k, node);
			}
			/* What it is has no effect on what becomes of it. */
			assert_int_equal(fs_write(k.fs, node, "written", 7, 4090, 0), 0);
			filemodel_write(&m, "written", 7, 4090);
			filemodel_expect(&m, &k, node);
			assert_int_equal(fskit_unlink(&k, "x"), 0);
			filemodel_release(&m);
		}
		fskit_check(&k);
	}
	fskit_remount(&k);
	assert_true(fskit_free(&k) + 4 >= before);
	fskit_release(&k);
}

/* ---- promises ---- */

static uint64_t claimed(struct fskit *k)
{
	struct store_status st;

	store_status(fs_store(k->fs), &st);
	return st.blocks_claimed;
}

static void fill_device(struct fskit *k, uint64_t node, uint64_t *ret_size)
{
	static uint8_t buf[64 * BLOCK_SIZE];
	uint64_t off = 0;

	memset(buf, 'x', sizeof(buf));
	for (size_t len = sizeof(buf); len >= BLOCK_SIZE;) {
		int err = fs_write(k->fs, node, buf, len, off, 0);

		if (!err)
			off += len;
		else
			len /= 2;
		assert_true(!err || err == -ENOSPC);
	}
	*ret_size = off;
}

static void promised_room_is_there_on_a_full_device(void **state)
{
	const uint64_t blocks = 600;
	static uint8_t buf[7 * BLOCK_SIZE];
	uint64_t a, b, size;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 4096 });
	a = make(&k, "a", S_IFREG | 0666);
	b = make(&k, "b", S_IFREG | 0666);
	assert_int_equal(fs_fallocate(k.fs, a, 0, 0, blocks / 2 * BLOCK_SIZE), 0);
	assert_int_equal(fs_fallocate(k.fs, a, KEEP, blocks / 2 * BLOCK_SIZE, blocks / 2 * BLOCK_SIZE), 0);
	assert_int_equal(claimed(&k), blocks);
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_reboot(&k, true);
	assert_int_equal(claimed(&k), blocks);
	fill_device(&k, b, &size);
	assert_int_equal(fs_fallocate(k.fs, b, KEEP, size, 64 * BLOCK_SIZE), -ENOSPC);
	assert_int_equal(claimed(&k), blocks);
	/* From the back and from the front, in pieces that do not divide it. Writing over what was written is another matter. */
	for (uint64_t at = 0; at + 7 < blocks / 2; at += 7) {
		uint64_t off = at / 7 % 2 ? at : blocks - 7 - at;

		memset(buf, (int)at, sizeof(buf));
		if (off + 7 > blocks)
			continue;
		assert_int_equal(fs_write(k.fs, a, buf, sizeof(buf), off * BLOCK_SIZE, 0), 0);
	}
	assert_true(claimed(&k) < blocks / 2 + 7);
	assert_int_equal(fs_write(k.fs, b, buf, sizeof(buf), size, 0), -ENOSPC);
	/* What is left of it goes back. */
	assert_int_equal(fskit_truncate(&k, "a", 0), 0);
	assert_int_equal(claimed(&k), 0);
	assert_true(fskit_free(&k) > blocks / 2);
	assert_int_equal(fs_write(k.fs, b, buf, sizeof(buf), size, 0), 0);
	fskit_check(&k);
	fskit_release(&k);
}

/* The hardest way: block by block in no order, while others go on taking what they can get. */
static void promised_room_is_not_taken_by_others(void **state)
{
	const uint32_t blocks = 1500;
	static uint32_t order[1500];
	uint32_t node_size = *(const uint32_t *)*state;
	uint64_t a, b, size, refused = 0;
	uint8_t buf[BLOCK_SIZE];
	struct fskit k;
	struct rng rng;

	rng_seed_env(&rng, node_size);
	fskit_init(&k, &(struct fskit_options){ .blocks = 8192, .node_size = node_size });
	a = make(&k, "a", S_IFREG | 0666);
	b = make(&k, "b", S_IFREG | 0666);
	assert_int_equal(fs_fallocate(k.fs, a, 0, 0, blocks * BLOCK_SIZE), 0);
	fill_device(&k, b, &size);
	for (uint32_t i = 0; i < blocks; i++) {
		uint32_t j = (uint32_t)rng_below(&rng, i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	for (uint32_t i = 0; i < blocks; i++) {
		char name[32];
		int err;

		memset(buf, (int)i, sizeof(buf));
		assert_int_equal(fs_write(k.fs, a, buf, sizeof(buf), order[i] * BLOCK_SIZE, 0), 0);
		snprintf(name, sizeof(name), "a name, not a short one %u", i);
		err = fskit_create(&k, name);
		assert_true(!err || err == -ENOSPC);
		refused += err != 0;
		err = fs_write(k.fs, b, buf, sizeof(buf), rng_below(&rng, size), 0);
		assert_true(!err || err == -ENOSPC);
		refused += err != 0;
	}
	assert_true(refused > blocks / 2); /* it was full */
	assert_int_equal(claimed(&k), 0);
	assert_int_equal(fskit_unlink(&k, "b"), 0);
	fskit_check(&k);
	fskit_release(&k);
}

static void no_room_changes_nothing(void **state)
{
	struct filemodel m;
	struct fskit k;
	uint64_t node;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048 });
	node = make(&k, "x", S_IFREG | 0666);
	filemodel_init(&m, &k, CAP);
	make_shape(&k, &shapes[6], node, &m);
	assert_int_equal(fs_fallocate(k.fs, node, 0, 4096, 4096u * 4096), -ENOSPC);
	filemodel_expect(&m, &k, node);
	assert_int_equal(fs_fallocate(k.fs, node, ZERO, 4096, 4096u * 4096), -ENOSPC);
	filemodel_expect(&m, &k, node);
	assert_int_equal(claimed(&k), 0);
	filemodel_release(&m);
	fskit_check(&k);
	fskit_release(&k);
}

/* With the device full, a punch at odd offsets still works: it needs a block for each end, and gives more. */
static void a_punch_works_on_a_full_device(void **state)
{
	uint64_t a, size;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048 });
	a = make(&k, "a", S_IFREG | 0666);
	fill_device(&k, a, &size);
	assert_int_equal(fs_fallocate(k.fs, a, PUNCH, 4096 + 5, 30 * 4096), 0);
	assert_int_equal(fs_fallocate(k.fs, a, PUNCH, 40 * 4096, 30 * 4096), 0);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- large ---- */

#define LARGE_BLOCKS 2600u

/* Every second block: more items than one batch may remove or make. */
static void make_large(struct fskit *k, uint64_t node, struct filemodel *m)
{
	uint8_t buf[BLOCK_SIZE];

	for (uint64_t i = 0; i < LARGE_BLOCKS; i += 2) {
		memset(buf, (int)i % 251 + 1, sizeof(buf));
		assert_int_equal(fs_write(k->fs, node, buf, sizeof(buf), i * BLOCK_SIZE, 0), 0);
		filemodel_write(m, buf, sizeof(buf), i * BLOCK_SIZE);
	}
	static_assert(LARGE_BLOCKS / 2 > 2 * ORPHAN_STEP_ITEMS, "several steps");
}

static void a_large_range(void **state)
{
	int mode = *(const int *)*state;
	uint64_t off = BLOCK_SIZE / 2, len = (LARGE_BLOCKS - 3) * BLOCK_SIZE;
	struct filemodel m;
	struct fskit k;
	uint64_t node;

	fskit_init(&k, &(struct fskit_options){ .blocks = 16384, .log_blocks = 512 });
	node = make(&k, "x", S_IFREG | 0666);
	filemodel_init(&m, &k, (LARGE_BLOCKS + 8) * BLOCK_SIZE);
	make_large(&k, node, &m);
	assert_int_equal(fs_fallocate(k.fs, node, mode, off, len), 0);
	filemodel_fallocate(&m, mode, off, len);
	filemodel_expect(&m, &k, node);
	fskit_check(&k);
	fskit_remount(&k);
	filemodel_expect(&m, &k, node);
	filemodel_release(&m);
	fskit_release(&k);
}

/* A large punch is seen whole or, but for the ends, not at all, wherever it is cut. */
static void a_crash_in_a_large_punch(void **state)
{
	const uint64_t off = 10 * BLOCK_SIZE, len = (LARGE_BLOCKS - 20) * BLOCK_SIZE;
	unsigned seen[2] = { 0 };
	struct filemodel m[2];
	struct fskit k;
	uint64_t node, from, ops;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384, .log_blocks = 512 });
	node = make(&k, "x", S_IFREG | 0666);
	for (unsigned i = 0; i < 2; i++)
		filemodel_init(&m[i], &k, (LARGE_BLOCKS + 8) * BLOCK_SIZE);
	make_large(&k, node, &m[0]);
	filemodel_assign(&m[1], &m[0]);
	filemodel_fallocate(&m[1], PUNCH, off, len);
	assert_int_equal(fs_sync(k.fs), 0);
	from = simdev_ops(k.disk);
	assert_int_equal(fs_fallocate(k.fs, node, PUNCH, off, len), 0);
	assert_int_equal(fs_sync(k.fs), 0);
	ops = simdev_ops(k.disk);
	for (uint64_t n = from; n <= ops; n += 1 + (ops - from) / 24) {
		struct fskit k2 = k;
		unsigned i;

		k2.disk = simdev_branch(k.disk, n, NULL, n);
		fskit_mount(&k2);
		i = filemodel_is(&m[1], &k2, node);
		assert_true(i || filemodel_is(&m[0], &k2, node));
		/* What is still to be removed is counted as blocks until it is. */
		fskit_check(&k2);
		filemodel_expect(&m[i], &k2, node);
		seen[i]++;
		assert_int_equal(fs_write(k2.fs, node, "again", 5, 50 * BLOCK_SIZE, 0), 0);
		fskit_check(&k2);
		fskit_release(&k2);
	}
	assert_true(seen[0] && seen[1]);
	for (unsigned i = 0; i < 2; i++)
		filemodel_release(&m[i]);
	fskit_release(&k);
}

/*
 * Memory runs out in the middle: once the first batch has happened, the range is gone for everybody, whatever is still there,
 * also behind a crash; and it can be written again.
 */
static void a_large_punch_that_stops_in_the_middle(void **state)
{
	const uint64_t off = 10 * BLOCK_SIZE, len = (LARGE_BLOCKS - 20) * BLOCK_SIZE;
	uint64_t master, node, a, b, done, at;
	unsigned stopped = 0;
	struct filemodel m[3];
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384, .log_blocks = 512 });
	master = make(&k, "master", S_IFREG | 0666);
	for (unsigned i = 0; i < 3; i++)
		filemodel_init(&m[i], &k, (LARGE_BLOCKS + 8) * BLOCK_SIZE);
	make_large(&k, master, &m[0]);
	filemodel_assign(&m[1], &m[0]);
	filemodel_fallocate(&m[1], PUNCH, off, len);
	for (uint64_t n = 8; n < 100000 && stopped < 4; n += n / 2) {
		bool failed;
		int err;

		node = make(&k, "x", S_IFREG | 0666);
		for (at = 0; at < m[0].size; at += done)
			assert_int_equal(fs_copy_range(k.fs, master, at, node, at, m[0].size - at, &done), 0);
		failmem_start(n, FAILMEM_FROM_THEN_ON);
		err = fs_fallocate(k.fs, node, PUNCH, off, len);
		failed = failmem_stop();
		assert_true(err == 0 || err == -ENOMEM);
		assert_true(filemodel_is(&m[err ? 0 : 1], &k, node));
		if (!err && failed && orphan_pending(k.fs, node, &a, &b)) {
			stopped++;
			if (stopped % 2) {
				assert_int_equal(fs_sync(k.fs), 0);
				fskit_reboot(&k, true);
				assert_true(filemodel_is(&m[1], &k, node));
			}
			filemodel_assign(&m[2], &m[1]);
			assert_int_equal(fs_fallocate(k.fs, node, 0, 40 * BLOCK_SIZE, 10 * BLOCK_SIZE), 0);
			filemodel_fallocate(&m[2], 0, 40 * BLOCK_SIZE, 10 * BLOCK_SIZE);
			assert_int_equal(fs_write(k.fs, node, "again", 5, 50 * BLOCK_SIZE, 0), 0);
			filemodel_write(&m[2], "again", 5, 50 * BLOCK_SIZE);
			filemodel_expect(&m[2], &k, node);
		}
		assert_int_equal(fskit_unlink(&k, "x"), 0);
		fskit_check(&k);
	}
	assert_true(stopped > 0);
	filemodel_expect(&m[0], &k, master);
	for (unsigned i = 0; i < 3; i++)
		filemodel_release(&m[i]);
	fskit_release(&k);
}

/* ---- looking for holes ---- */

static void seeking_is_refused(void **state)
{
	uint64_t f, got = 77;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	f = make(&k, "f", S_IFREG | 0666);
	assert_int_equal(fs_seek(k.fs, f, 0, SEEK_DATA, &got), -ENXIO);
	assert_int_equal(fs_seek(k.fs, f, 0, SEEK_HOLE, &got), -ENXIO);
	assert_int_equal(fs_write(k.fs, f, "x", 1, 0, 0), 0);
	assert_int_equal(fs_seek(k.fs, f, 0, SEEK_SET, &got), -EINVAL);
	assert_int_equal(fs_seek(k.fs, f, 1, SEEK_HOLE, &got), -ENXIO);
	assert_int_equal(fs_seek(k.fs, f, UINT64_MAX, SEEK_DATA, &got), -ENXIO);
	assert_int_equal(fs_seek(k.fs, FS_ROOT, 0, SEEK_DATA, &got), -EISDIR);
	assert_int_equal(fs_seek(k.fs, 4711, 0, SEEK_DATA, &got), -ESTALE);
	assert_int_equal(got, 77);
	fskit_release(&k);
}

/* ---- at random ---- */

static void change(struct fskit *k, struct rng *rng, uint64_t node, struct filemodel *m, unsigned step)
{
	static uint8_t buf[CAP];
	uint64_t off = rng_below(rng, rng_chance(rng, 1, 3) ? 3000 : CAP - 1), len = rng_range(rng, 1, CAP - off);
	struct fs_entry e;

	if (rng_chance(rng, 1, 3))
		len = rng_range(rng, 1, len < 5000 ? len : 5000);
	if (rng_chance(rng, 1, 3)) {
		off &= ~(uint64_t)(BLOCK_SIZE - 1);
		len = (len + BLOCK_SIZE - 1) & ~(uint64_t)(BLOCK_SIZE - 1);
		len = len < CAP - off ? len : CAP - off;
	}
	switch (rng_below(rng, 8)) {
	case 0:
	case 1:
	case 2:
		memset(buf, (int)step % 255 + 1, len);
		assert_int_equal(fs_write(k->fs, node, buf, len, off, 0), 0);
		filemodel_write(m, buf, len, off);
		break;
	case 3:
		off = rng_chance(rng, 1, 4) ? 0 : off;
		assert_int_equal(fs_setattr(k->fs, node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)off }, &e), 0);
		filemodel_truncate(m, off);
		break;
	default: {
		int mode = modes[rng_below(rng, ARRAY_LEN(modes))];

		assert_int_equal(fs_fallocate(k->fs, node, mode, off, len), 0);
		filemodel_fallocate(m, mode, off, len);
	}
	}
}

static void random_changes_are_those_of_the_model(void **state)
{
	uint64_t seed = *(const uint64_t *)*state;
	struct filemodel m, synced;
	struct fskit k;
	struct rng rng;
	uint64_t node;

	rng_seed_env(&rng, seed);
	fskit_init(&k, &(struct fskit_options){ .node_size = seed % 2 ? 4096 : 16384 });
	node = make(&k, "x", S_IFREG | 0666);
	filemodel_init(&m, &k, CAP);
	filemodel_init(&synced, &k, CAP);
	assert_int_equal(fs_sync(k.fs), 0);
	for (unsigned step = 0; step < 1200; step++) {
		change(&k, &rng, node, &m, step);
		filemodel_expect(&m, &k, node);
		if (rng_chance(&rng, 1, 40)) {
			assert_int_equal(fs_sync(k.fs), 0);
			filemodel_assign(&synced, &m);
		}
		switch (rng_below(&rng, 200)) {
		case 0:
			fskit_check(&k);
			break;
		case 1:
			fskit_remount(&k);
			filemodel_expect(&m, &k, node);
			filemodel_assign(&synced, &m);
			break;
		case 2:
			assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
			filemodel_assign(&synced, &m);
			break;
		case 3:
			assert_int_equal(fs_sync(k.fs), 0);
			fskit_reboot(&k, true);
			filemodel_expect(&m, &k, node);
			filemodel_assign(&synced, &m);
		}
	}
	fskit_check(&k);
	filemodel_release(&m);
	filemodel_release(&synced);
	fskit_release(&k);
}

int main(void)
{
	static const uint32_t node_sizes[] = { 4096, 16384 };
	static const uint64_t seeds[] = { 1, 2, 3 };
	struct CMUnitTest tests[ARRAY_LEN(refusals) + ARRAY_LEN(shapes) + 16];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
		tests[n++] = TEST_ROW(refusals[i].says, a_refusal, &refusals[i]);
	for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
		tests[n++] = TEST_ROW(shapes[i].name, a_shape, &shapes[i]);
	tests[n++] = TEST_ROW("promised_room_is_there_on_a_full_device", promised_room_is_there_on_a_full_device, NULL);
	for (size_t i = 0; i < ARRAY_LEN(node_sizes); i++)
		tests[n++] = TEST_ROW("promised_room_is_not_taken_by_others", promised_room_is_not_taken_by_others,
				      &node_sizes[i]);
	tests[n++] = TEST_ROW("no_room_changes_nothing", no_room_changes_nothing, NULL);
	tests[n++] = TEST_ROW("a_punch_works_on_a_full_device", a_punch_works_on_a_full_device, NULL);
	tests[n++] = TEST_ROW("a_large_range_reserved", a_large_range, &modes[0]);
	tests[n++] = TEST_ROW("a_large_range_punched", a_large_range, &modes[2]);
	tests[n++] = TEST_ROW("a_large_range_zeroed", a_large_range, &modes[3]);
	tests[n++] = TEST_ROW("a_crash_in_a_large_punch", a_crash_in_a_large_punch, NULL);
	tests[n++] = TEST_ROW("a_large_punch_that_stops_in_the_middle", a_large_punch_that_stops_in_the_middle, NULL);
	tests[n++] = TEST_ROW("seeking_is_refused", seeking_is_refused, NULL);
	for (size_t i = 0; i < ARRAY_LEN(seeds); i++)
		tests[n++] = TEST_ROW("random_changes_are_those_of_the_model", random_changes_are_those_of_the_model,
				      &seeds[i]);
	return _cmocka_run_group_tests("file_space", tests, n, NULL, NULL);
}

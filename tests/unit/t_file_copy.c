/*
 * copy_file_range: what is refused, ranges at all kinds of offsets between files of all kinds, that whole blocks cost no
 * room, that copies have nothing more to do with each other, crashes; and long random runs of all changes of content on
 * three files, compared with a model (filemodel.h).
 */
#include <linux/falloc.h>
#include <linux/fs.h>
#undef BLOCK_SIZE

#include <stdlib.h>
#include <string.h>

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

static uint64_t blocks_free(struct fskit *k)
{
	fskit_remount(k); /* addresses of nodes that are kept for later go back */
	return fskit_free(k);
}

/* ---- what is refused ---- */

static const struct refusal {
	const char *says;
	mode_t from, to;
	uint32_t from_flags, to_flags;
	uint64_t from_off, to_off, len;
	int result;
	uint64_t done;
} refusals[] = {
	{ "nothing", S_IFREG, S_IFREG, 0, 0, 0, 0, 0, 0, 0 },
	{ "from_the_end", S_IFREG, S_IFREG, 0, 0, 10000, 0, 5, 0, 0 },
	{ "from_far_behind_it", S_IFREG, S_IFREG, 0, 0, 1 << 30, 0, 5, 0, 0 },
	{ "more_than_there_is", S_IFREG, S_IFREG, 0, 0, 9000, 0, 5000, 0, 1000 },
	{ "as_much_as_can_be_said", S_IFREG, S_IFREG, 0, 0, 4096, 4096, UINT64_MAX, 0, 5904 },
	{ "to_the_largest_size", S_IFREG, S_IFREG, 0, 0, 0, FS_SIZE_MAX, 1, -EFBIG, 0 },
	{ "up_to_the_largest_size", S_IFREG, S_IFREG, 0, 0, 0, FS_SIZE_MAX - 4096, 10000, 0, 4096 },
	{ "offsets_that_are_negative", S_IFREG, S_IFREG, 0, 0, UINT64_MAX, 0, 10, -EINVAL, 0 },
	{ "from_a_directory", S_IFDIR, S_IFREG, 0, 0, 0, 0, 1, -EISDIR, 0 },
	{ "to_a_directory", S_IFREG, S_IFDIR, 0, 0, 0, 0, 1, -EISDIR, 0 },
	{ "from_a_fifo", S_IFIFO, S_IFREG, 0, 0, 0, 0, 1, -EINVAL, 0 },
	{ "to_a_device", S_IFREG, S_IFBLK, 0, 0, 0, 0, 1, -EINVAL, 0 },
	{ "from_an_immutable_file", S_IFREG, S_IFREG, FS_IMMUTABLE_FL, 0, 0, 0, 5, 0, 5 },
	{ "to_an_immutable_file", S_IFREG, S_IFREG, 0, FS_IMMUTABLE_FL, 0, 0, 5, -EPERM, 0 },
	{ "to_an_append_only_file", S_IFREG, S_IFREG, 0, FS_APPEND_FL, 0, 0, 5, -EPERM, 0 },
};

static void a_refusal(void **state)
{
	static const uint8_t data[10000];
	const struct refusal *r = *state;
	uint64_t from, to, done = 0;
	struct fskit k;

	fskit_init(&k, NULL);
	from = make(&k, "from", r->from | 0666);
	to = make(&k, "to", r->to | 0666);
	if (S_ISREG(r->from))
		assert_int_equal(fs_write(k.fs, from, data, sizeof(data), 0, 0), 0);
	if (r->from_flags)
		assert_int_equal(fs_setflags(k.fs, from, r->from_flags), 0);
	if (r->to_flags)
		assert_int_equal(fs_setflags(k.fs, to, r->to_flags), 0);
	assert_int_equal(fs_copy_range(k.fs, from, r->from_off, to, r->to_off, r->len, &done), r->result);
	assert_int_equal(done, r->done);
	assert_int_equal(fs_copy_range(k.fs, 4711, 0, from, 0, 1, &done), -ESTALE);
	assert_int_equal(fs_copy_range(k.fs, from, 0, 4711, 0, 1, &done), -ESTALE);
	assert_int_equal(fs_copy_range(k.fs, from, 0, from | UINT64_C(1) << FS_VIEW_SHIFT, 0, 1, &done), -EXDEV);
	fskit_check(&k);
	fskit_release(&k);
}

static const struct overlap {
	const char *says;
	uint64_t from, to, len;
	int result;
} overlaps[] = {
	{ "onto_itself", 0, 0, 4096, -EINVAL },
	{ "one_byte_too_many", 0, 4096, 4097, -EINVAL },
	{ "one_byte_too_many_backwards", 4096, 0, 4097, -EINVAL },
	{ "side_by_side", 0, 4096, 4096, 0 },
	{ "side_by_side_backwards", 4096, 0, 4096, 0 },
	{ "cut_at_the_end_they_do_not_overlap", 9000, 10000, 5000, 0 },
	{ "unaligned", 1, 5000, 3000, 0 },
	{ "within_one_block", 10, 100, 50, 0 },
};

static void an_overlap(void **state)
{
	const struct overlap *o = *state;
	uint8_t data[10000];
	struct filemodel m;
	uint64_t f, done;
	struct fskit k;

	fskit_init(&k, NULL);
	f = make(&k, "f", S_IFREG | 0666);
	filemodel_init(&m, &k, CAP);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 >> 3);
	assert_int_equal(fs_write(k.fs, f, data, sizeof(data), 0, 0), 0);
	filemodel_write(&m, data, sizeof(data), 0);
	assert_int_equal(fs_copy_range(k.fs, f, o->from, f, o->to, o->len, &done), o->result);
	if (!o->result)
		filemodel_copy(&m, o->from, &m, o->to, done);
	filemodel_expect(&m, &k, f);
	filemodel_release(&m);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- all kinds of files ---- */

/* A character a block: '.' hole, 'c' claim, 'D' data, 'i' inline; then the last block's length. */
static const struct shape {
	const char *name, *blocks;
	unsigned last;
} shapes[] = {
	{ "empty", "", 0 },
	{ "inline", "i", 700 },
	{ "small", "D", 3000 },
	{ "a_hole", "......", 4096 },
	{ "data", "DDDDDDDD", 4096 },
	{ "odd", "DDDDDDDD", 17 },
	{ "mixed", "D.cDD.c.D", 100 },
	{ "promised_behind", "DDDcccc", 0 },
};

static void make_shape(struct fskit *k, const struct shape *s, uint64_t node, struct filemodel *m, int tag)
{
	size_t n = strlen(s->blocks);
	uint64_t size = 0;
	uint8_t buf[BLOCK_SIZE];
	struct fs_entry e;

	for (size_t i = 0; i < n; i++) {
		uint64_t len = s->blocks[i] == 'i' || (i + 1 == n && s->last) ? s->last : BLOCK_SIZE;

		if (s->last || s->blocks[i] == 'D')
			size = i * BLOCK_SIZE + len;
		memset(buf, tag + (int)i, sizeof(buf));
		if (s->blocks[i] == 'D' || s->blocks[i] == 'i') {
			assert_int_equal(fs_write(k->fs, node, buf, len, i * BLOCK_SIZE, 0), 0);
			filemodel_write(m, buf, len, i * BLOCK_SIZE);
		}
	}
	assert_int_equal(fs_setattr(k->fs, node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)size }, &e), 0);
	filemodel_truncate(m, size);
	for (size_t i = 0; i < n; i++) {
		if (s->blocks[i] != 'c')
			continue;
		assert_int_equal(fs_fallocate(k->fs, node, KEEP, i * BLOCK_SIZE, 1), 0);
		filemodel_fallocate(m, KEEP, i * BLOCK_SIZE, 1);
	}
}

static const struct range {
	uint64_t from, to, len;
} ranges[] = {
	{ 0, 0, CAP / 2 },		 /* everything */
	{ 0, 4096, 2 * 4096 },		 /* whole blocks, moved */
	{ 8192, 0, 3 * 4096 },		 /* and back */
	{ 0, 40 * 4096, CAP / 4 },	 /* behind the end */
	{ 100, 100, 5 * 4096 },		 /* odd at both ends */
	{ 4096 + 100, 100, 4096 - 100 }, /* odd at the front only */
	{ 4096, 2 * 4096, 4096 + 5 },	 /* at the back only */
	{ 100, 4096 + 100, 50 },	 /* within a block */
	{ 100, 4096 + 100, 4000 },	 /* of two blocks a part */
	{ 0, 1, CAP / 4 },		 /* cannot be shared */
	{ 5000, 300, 9000 },
	{ 0, 4095, 2 },
};

static void a_pair(void **state)
{
	const struct shape *s = *state;
	uint64_t before;
	struct fskit k;

	fskit_init(&k, NULL);
	before = blocks_free(&k);
	for (size_t t = 0; t < ARRAY_LEN(shapes); t++) {
		for (size_t r = 0; r < ARRAY_LEN(ranges); r++) {
			uint64_t from = make(&k, "from", S_IFREG | 0666), to = make(&k, "to", S_IFREG | 06777), done;
			struct filemodel a, b;
			struct fs_entry e0, e;

			filemodel_init(&a, &k, CAP);
			filemodel_init(&b, &k, CAP);
			make_shape(&k, s, from, &a, 'a');
			make_shape(&k, &shapes[t], to, &b, 'n');
			assert_int_equal(fs_getattr(k.fs, to, &e0), 0);
			assert_int_equal(
				fs_copy_range(k.fs, from, ranges[r].from, to, ranges[r].to, ranges[r].len, &done), 0);
			assert_int_equal(done, ranges[r].from >= a.size			 ? 0
					       : a.size - ranges[r].from < ranges[r].len ? a.size - ranges[r].from
											 : ranges[r].len);
			filemodel_copy(&a, ranges[r].from, &b, ranges[r].to, done);
			assert_int_equal(fs_getattr(k.fs, to, &e), 0);
			assert_int_equal(e.st.st_mode & 06000, done ? 0 : e0.st.st_mode & 06000);
			assert_int_equal(e.st.st_mtim.tv_sec > e0.st.st_mtim.tv_sec, done > 0);
			filemodel_expect(&a, &k, from);
			filemodel_expect(&b, &k, to);
			/* Neither sees what becomes of the other. */
			assert_int_equal(fs_write(k.fs, from, "from", 4, 4094, 0), 0);
			filemodel_write(&a, "from", 4, 4094);
			filemodel_expect(&b, &k, to);
			assert_int_equal(fs_write(k.fs, to, "to", 2, 8191, 0), 0);
			filemodel_write(&b, "to", 2, 8191);
			filemodel_expect(&a, &k, from);
			assert_int_equal(fskit_unlink(&k, "from"), 0);
			filemodel_expect(&b, &k, to);
			assert_int_equal(fskit_unlink(&k, "to"), 0);
			filemodel_release(&a);
			filemodel_release(&b);
		}
		fskit_check(&k);
	}
	assert_true(blocks_free(&k) + 4 >= before);
	fskit_release(&k);
}

/* ---- large ---- */

/* The caller's loop. */
static unsigned copy_all(struct fskit *k, uint64_t from, uint64_t to, uint64_t len)
{
	uint64_t at = 0, done;
	unsigned calls = 0;

	for (; at < len; at += done, calls++) {
		assert_int_equal(fs_copy_range(k->fs, from, at, to, at, len - at, &done), 0);
		assert_true(done > 0 && done <= len - at);
	}
	return calls;
}

static void a_clone_of_a_large_file_takes_no_blocks(void **state)
{
	const uint64_t size = 12u << 20;
	uint8_t *buf = malloc(FS_IO_MAX);
	uint64_t from, to[4], before, after;
	struct filemodel m;
	struct fskit k;
	struct rng rng;

	(void)state;
	rng_seed(&rng, 5);
	fskit_init(&k, NULL);
	filemodel_init(&m, &k, size);
	from = make(&k, "from", S_IFREG | 0666);
	for (uint64_t off = 0; off < size; off += FS_IO_MAX) {
		uint64_t len = size - 5 - off < FS_IO_MAX ? size - 5 - off : FS_IO_MAX;

		rng_bytes(&rng, buf, len);
		assert_int_equal(fs_write(k.fs, from, buf, len, off, 0), 0);
		filemodel_write(&m, buf, len, off);
	}
	before = blocks_free(&k);
	for (unsigned i = 0; i < 4; i++) {
		to[i] = make(&k, (char[]){ (char)('a' + i), 0 }, S_IFREG | 0666);
		assert_int_equal(copy_all(&k, from, to[i], m.size), 1);
		filemodel_expect(&m, &k, to[i]);
	}
	after = blocks_free(&k);
	/* Four files of 3072 blocks: some nodes, no data. */
	assert_true(before - after < 80);
	fskit_check(&k);
	/* The room comes back with the last of them. */
	assert_int_equal(fskit_unlink(&k, "from"), 0);
	for (unsigned i = 1; i < 4; i++)
		assert_int_equal(fskit_unlink(&k, (char[]){ (char)('a' + i), 0 }), 0);
	assert_true(blocks_free(&k) < before + 80);
	filemodel_expect(&m, &k, to[0]);
	fskit_check(&k);
	assert_int_equal(fskit_unlink(&k, "a"), 0);
	assert_true(blocks_free(&k) >= before + size / BLOCK_SIZE);
	fskit_check(&k);
	filemodel_release(&m);
	fskit_release(&k);
	free(buf);
}

#define PIECES 1300u

/* More items than one call takes, in the source, the destination or both; with copies of them in between. */
static void a_file_in_many_pieces(void **state)
{
	static const uint64_t shift = 3 * BLOCK_SIZE;
	uint64_t node[2], at = 0, done;
	struct filemodel m[2];
	uint8_t buf[BLOCK_SIZE];
	unsigned calls = 0;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 16384, .log_blocks = 512 });
	for (unsigned f = 0; f < 2; f++) {
		filemodel_init(&m[f], &k, (2 * PIECES + 8) * BLOCK_SIZE);
		node[f] = make(&k, f ? "to" : "from", S_IFREG | 0666);
		for (uint64_t i = f; i < 2 * PIECES; i += 2) {
			memset(buf, (int)(i % 251) + 1, sizeof(buf));
			assert_int_equal(fs_write(k.fs, node[f], buf, sizeof(buf), i * BLOCK_SIZE, 0), 0);
			filemodel_write(&m[f], buf, sizeof(buf), i * BLOCK_SIZE);
		}
	}
	for (; at < m[0].size; at += done, calls++) {
		assert_int_equal(fs_copy_range(k.fs, node[0], at, node[1], at + shift, m[0].size - at, &done), 0);
		assert_true(done > 0);
		filemodel_copy(&m[0], at, &m[1], at + shift, done);
		filemodel_expect(&m[1], &k, node[1]);
	}
	assert_true(calls >= PIECES / ORPHAN_STEP_ITEMS);
	filemodel_expect(&m[0], &k, node[0]);
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_reboot(&k, true);
	for (unsigned f = 0; f < 2; f++)
		filemodel_expect(&m[f], &k, node[f]);
	fskit_check(&k);
	for (unsigned f = 0; f < 2; f++)
		filemodel_release(&m[f]);
	fskit_release(&k);
}

/* Sparse, and much larger than the device. */
static void holes_are_copied_as_holes(void **state)
{
	const uint64_t size = UINT64_C(1) << 42;
	uint64_t from, to, before, done;
	struct fs_entry e;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	from = make(&k, "from", S_IFREG | 0666);
	to = make(&k, "to", S_IFREG | 0666);
	assert_int_equal(fs_setattr(k.fs, from, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)size }, &e), 0);
	before = blocks_free(&k);
	assert_int_equal(fs_copy_range(k.fs, from, 0, to, 0, size, &done), 0);
	assert_int_equal(done, size);
	assert_int_equal(fs_write(k.fs, from, "x", 1, size / 2, 0), 0);
	assert_int_equal(fs_copy_range(k.fs, from, 0, to, 0, size, &done), 0);
	assert_int_equal(done, size);
	assert_int_equal(fs_getattr(k.fs, to, &e), 0);
	assert_int_equal(e.st.st_size, size);
	assert_int_equal(e.st.st_blocks, 8);
	assert_true(before - blocks_free(&k) < 8);
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- crashes ---- */

/* One call is seen whole or not at all. */
static void a_crash_never_halves_a_copy(void **state)
{
	static const uint64_t from_off = 100, to_off = 3 * BLOCK_SIZE + 100, len = 9 * BLOCK_SIZE + 5;
	unsigned seen[2] = { 0 };
	uint64_t from, to, start, done;
	struct filemodel a, b[2];
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 4096 });
	from = make(&k, "from", S_IFREG | 0666);
	to = make(&k, "to", S_IFREG | 0666);
	filemodel_init(&a, &k, CAP);
	make_shape(&k, &(struct shape){ "", "DDDD.DD.cDDDDD", 4096 }, from, &a, 'a');
	for (unsigned i = 0; i < 2; i++)
		filemodel_init(&b[i], &k, CAP);
	make_shape(&k, &(struct shape){ "", "DDDDDD..DDD", 900 }, to, &b[0], 'n');
	assert_int_equal(fs_sync(k.fs), 0);
	filemodel_assign(&b[1], &b[0]);
	start = simdev_ops(k.disk);
	assert_int_equal(fs_copy_range(k.fs, from, from_off, to, to_off, len, &done), 0);
	assert_int_equal(done, len);
	filemodel_copy(&a, from_off, &b[1], to_off, len);
	assert_int_equal(fs_sync(k.fs), 0);
	assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
	for (uint64_t n = start; n <= simdev_ops(k.disk); n++) {
		struct simdev_crash c;
		struct simdev *after;

		simdev_crash_begin(&c, k.disk, n, 5, n);
		while ((after = simdev_crash_next(&c))) {
			struct fskit k2 = k;
			unsigned i;

			k2.disk = after;
			fskit_mount(&k2);
			i = filemodel_is(&b[1], &k2, to);
			filemodel_expect(&b[i], &k2, to);
			filemodel_expect(&a, &k2, from);
			seen[i]++;
			fskit_check(&k2);
			fskit_release(&k2);
		}
		simdev_crash_end(&c);
	}
	assert_true(seen[0] && seen[1]);
	filemodel_release(&a);
	for (unsigned i = 0; i < 2; i++)
		filemodel_release(&b[i]);
	fskit_release(&k);
}

/* ---- no memory ---- */

static const struct starved {
	const char *says;
	uint64_t from_off, to_off, len;
	int mode; /* of fallocate instead; -1: copy */
} starved[] = {
	{ "shared_without_memory", 100, 4096 + 100, 5 * 4096, -1 }, { "copied_without_memory", 100, 7, 5 * 4096, -1 },
	{ "punched_without_memory", 0, 100, 5 * 4096, PUNCH },	    { "reserved_without_memory", 0, 100, 12 * 4096, 0 },
	{ "zeroed_without_memory", 0, 100, 12 * 4096, ZERO },
};

static int starving_call(struct fskit *k, const struct starved *s, uint64_t from, uint64_t to)
{
	uint64_t done;

	if (s->mode >= 0)
		return fs_fallocate(k->fs, to, s->mode, s->to_off, s->len);
	return fs_copy_range(k->fs, from, s->from_off, to, s->to_off, s->len, &done);
}

/* Whichever allocation fails: nothing has happened. */
static void without_memory(void **state)
{
	const struct starved *s = *state;
	struct filemodel a, b;
	unsigned failed = 0;
	uint64_t from, to;
	struct fskit k;

	fskit_init(&k, NULL);
	from = make(&k, "from", S_IFREG | 0666);
	to = make(&k, "to", S_IFREG | 0666);
	filemodel_init(&a, &k, CAP);
	filemodel_init(&b, &k, CAP);
	make_shape(&k, &shapes[6], from, &a, 'a');
	make_shape(&k, &shapes[5], to, &b, 'n');
	for (uint64_t n = 1;; n++) {
		int err;

		failmem_start(n, FAILMEM_ONCE);
		err = starving_call(&k, s, from, to);
		if (!failmem_stop()) {
			assert_int_equal(err, 0);
			break;
		}
		if (!err)
			break; /* one that can be done without */
		assert_int_equal(err, -ENOMEM);
		failed++;
		filemodel_expect(&a, &k, from);
		filemodel_expect(&b, &k, to);
	}
	assert_true(failed > 3);
	if (s->mode >= 0)
		filemodel_fallocate(&b, s->mode, s->to_off, s->len);
	else
		filemodel_copy(&a, s->from_off, &b, s->to_off, s->len);
	filemodel_expect(&b, &k, to);
	fskit_check(&k);
	filemodel_release(&a);
	filemodel_release(&b);
	fskit_release(&k);
}

/* ---- at random ---- */

#define FILES 3u

struct run {
	struct fskit k;
	struct rng rng;
	uint64_t node[FILES];
	struct filemodel m[FILES];
};

static void copy(struct run *r, unsigned f, unsigned g)
{
	uint64_t from = rng_below(&r->rng, CAP), to = rng_below(&r->rng, CAP), len, done = 0;
	int err;

	if (rng_chance(&r->rng, 2, 3)) {
		from &= ~(uint64_t)(BLOCK_SIZE - 1);
		to &= ~(uint64_t)(BLOCK_SIZE - 1);
	} else if (rng_chance(&r->rng, 2, 3)) {
		to = (to & ~(uint64_t)(BLOCK_SIZE - 1)) | from % BLOCK_SIZE;
	}
	len = rng_range(&r->rng, 1, CAP - (from > to ? from : to));
	err = fs_copy_range(r->k.fs, r->node[f], from, r->node[g], to, len, &done);
	if (err) {
		assert_int_equal(err, -EINVAL);
		assert_int_equal(f, g);
		return;
	}
	/* All of it: there is nothing in files of this size that would take two calls. */
	if (from >= r->m[f].size)
		len = 0;
	else if (len > r->m[f].size - from)
		len = r->m[f].size - from;
	assert_int_equal(done, len);
	filemodel_copy(&r->m[f], from, &r->m[g], to, done);
}

static void change(struct run *r, unsigned step)
{
	static const int modes[] = { 0, KEEP, PUNCH, PUNCH, ZERO, ZERO | KEEP };
	static uint8_t buf[CAP];
	unsigned f = (unsigned)rng_below(&r->rng, FILES);
	uint64_t off = rng_below(&r->rng, rng_chance(&r->rng, 1, 3) ? 3000 : CAP - 1),
		 len = rng_range(&r->rng, 1, CAP - off);
	struct fs_entry e;

	if (rng_chance(&r->rng, 1, 3))
		len = rng_range(&r->rng, 1, len < 5000 ? len : 5000);
	switch (rng_below(&r->rng, 10)) {
	case 0:
	case 1:
	case 2:
		rng_bytes(&r->rng, buf, len);
		assert_int_equal(fs_write(r->k.fs, r->node[f], buf, len, off, 0), 0);
		filemodel_write(&r->m[f], buf, len, off);
		break;
	case 3:
		off = rng_chance(&r->rng, 1, 4) ? 0 : off;
		assert_int_equal(
			fs_setattr(r->k.fs, r->node[f], FS_SET_SIZE, &(struct stat){ .st_size = (off_t)off }, &e), 0);
		filemodel_truncate(&r->m[f], off);
		break;
	case 4:
	case 5: {
		int mode = modes[step % ARRAY_LEN(modes)];

		assert_int_equal(fs_fallocate(r->k.fs, r->node[f], mode, off, len), 0);
		filemodel_fallocate(&r->m[f], mode, off, len);
		break;
	}
	default:
		copy(r, f, (unsigned)rng_below(&r->rng, FILES));
	}
}

static void expect_all(struct run *r)
{
	for (unsigned f = 0; f < FILES; f++)
		filemodel_expect(&r->m[f], &r->k, r->node[f]);
}

static void random_changes_are_those_of_the_model(void **state)
{
	uint64_t seed = *(const uint64_t *)*state;
	struct run *r = calloc(1, sizeof(*r));

	rng_seed_env(&r->rng, seed);
	fskit_init(&r->k, &(struct fskit_options){ .node_size = seed % 2 ? 4096 : 16384 });
	for (unsigned f = 0; f < FILES; f++) {
		r->node[f] = make(&r->k, (char[]){ (char)('a' + f), 0 }, S_IFREG | 0666);
		filemodel_init(&r->m[f], &r->k, CAP);
	}
	for (unsigned step = 0; step < 900; step++) {
		change(r, step);
		expect_all(r);
		switch (rng_below(&r->rng, 150)) {
		case 0:
			fskit_check(&r->k);
			break;
		case 1:
			fskit_remount(&r->k);
			expect_all(r);
			break;
		case 2:
		case 3:
			assert_int_equal(store_checkpoint(fs_store(r->k.fs)), 0);
			break;
		case 4:
		case 5:
			assert_int_equal(fs_sync(r->k.fs), 0);
			fskit_reboot(&r->k, true);
			expect_all(r);
		}
	}
	fskit_check(&r->k);
	for (unsigned f = 0; f < FILES; f++)
		filemodel_release(&r->m[f]);
	fskit_release(&r->k);
	free(r);
}

int main(void)
{
	static const uint64_t seeds[] = { 21, 22, 23 };
	struct CMUnitTest
		tests[ARRAY_LEN(refusals) + ARRAY_LEN(overlaps) + ARRAY_LEN(shapes) + ARRAY_LEN(starved) + 12];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
		tests[n++] = TEST_ROW(refusals[i].says, a_refusal, &refusals[i]);
	for (size_t i = 0; i < ARRAY_LEN(overlaps); i++)
		tests[n++] = TEST_ROW(overlaps[i].says, an_overlap, &overlaps[i]);
	for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
		tests[n++] = TEST_ROW(shapes[i].name, a_pair, &shapes[i]);
	tests[n++] = TEST_ROW("a_clone_of_a_large_file_takes_no_blocks", a_clone_of_a_large_file_takes_no_blocks, NULL);
	tests[n++] = TEST_ROW("a_file_in_many_pieces", a_file_in_many_pieces, NULL);
	tests[n++] = TEST_ROW("holes_are_copied_as_holes", holes_are_copied_as_holes, NULL);
	tests[n++] = TEST_ROW("a_crash_never_halves_a_copy", a_crash_never_halves_a_copy, NULL);
	for (size_t i = 0; i < ARRAY_LEN(starved); i++)
		tests[n++] = TEST_ROW(starved[i].says, without_memory, &starved[i]);
	for (size_t i = 0; i < ARRAY_LEN(seeds); i++)
		tests[n++] = TEST_ROW("random_changes_are_those_of_the_model", random_changes_are_those_of_the_model,
				      &seeds[i]);
	return _cmocka_run_group_tests("file_copy", tests, n, NULL, NULL);
}

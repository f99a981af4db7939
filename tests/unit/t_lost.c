/*
 * t_lost.c - content that is lost: it is an error to read it, until it is written anew, and never zeros
 *
 * A file of six blocks, of which blocks 2 and 3 are lost (in one item, put by hand). Each test does one thing to it, and looks
 * at what reads as what; the check must find nothing wrong afterwards.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "fs/file.h"
#include "tests/kit/checkkit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define B BLOCK_SIZE
#define BLOCKS 6u

struct lost {
	struct checkkit f;
	uint64_t node;
	uint8_t buf[16 * B] __attribute__((aligned(B)));
};

/* One letter for each byte's block: 'a' + number. */
static void pattern(uint8_t *buf)
{
	for (unsigned i = 0; i < BLOCKS * B; i++)
		buf[i] = (uint8_t)('a' + i / B);
}

static void put_lost(struct lost *t, uint64_t ino, uint64_t off, uint32_t blocks)
{
	struct disk_extent d = { .blocks = le32_put(blocks), .flags = FS_EXTENT_LOST };

	ck_put_bytes(&t->f, key_make(ino, FS_ITEM_EXTENT, off), &d, sizeof(d));
}

/* Blocks 2 and 3 of an inode's one extent. */
static void lose_middle(struct lost *t, uint64_t ino)
{
	struct inode i = ck_get(&t->f, ino);
	struct extent_piece piece = { .from = 2 * B, .blocks = 2, .lost = true };
	struct op op;

	assert_int_equal(op_begin(t->f.k.fs, FS_ROOT, &op), 0);
	assert_int_equal(extent_replace(&op, &i, 2 * B, 4 * B, &piece, 1), 0);
	assert_int_equal(inode_put(op.batch, &i), 0);
	assert_int_equal(op_commit(&op), 0);
	op_end(&op);
	assert_int_equal(i.blocks, BLOCKS);
}

static int setup(void **state)
{
	static struct lost only;
	struct lost *t = &only;

	memset(t, 0, sizeof(*t));
	checkkit_init(&t->f, 0);
	assert_int_equal(fskit_create(&t->f.k, "f"), 0);
	pattern(t->buf);
	assert_int_equal(fskit_write(&t->f.k, "f", t->buf, BLOCKS * B, 0), 0);
	t->node = ck_node(&t->f, "f");
	lose_middle(t, t->node);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct lost *t = *state;

	/* Nothing is wrong with any of it, also behind a restart. */
	t->f.opt.no_structure = false;
	t->f.opt.data = true;
	ck_check(&t->f);
	checkkit_remount(&t->f);
	ck_check(&t->f);
	checkkit_release(&t->f);
	return 0;
}

static int read_at(struct lost *t, uint64_t off, size_t size, const uint8_t **ret)
{
	const void *data = NULL;
	size_t len = 0;
	int err = fs_read(t->f.k.fs, t->node, off, size, t->buf, &data, &len);

	if (!err && len != size)
		return -ERANGE;
	*ret = data;
	return err;
}

/* A letter a block: '.' zeros, '!' an error, else the byte it is full of; '?': of several. */
static void expect(struct lost *t, const char *want)
{
	size_t n = strlen(want);
	char got[32] = "";

	assert_int_equal(((size_t)fskit_stat(&t->f.k, "f").st_size + B - 1) / B, n);
	for (size_t i = 0; i < n; i++) {
		const uint8_t *p = NULL;
		size_t len = (size_t)fskit_stat(&t->f.k, "f").st_size - i * B;
		int err;

		len = len < B ? len : B;
		err = read_at(t, i * B, len, &p);
		if (err && err != -EIO)
			print_message("# block %zu: %d\n", i, err);
		assert_true(!err || err == -EIO);
		got[i] = err ? '!' : p[0] ? (char)p[0] : '.';
		for (size_t k = 1; !err && k < len; k++)
			if (p[k] != p[0])
				got[i] = '?';
	}
	assert_string_equal(got, want);
}

static uint32_t lost_blocks(struct lost *t)
{
	struct extent_map m;
	uint64_t at = 0, n = 0;

	do {
		assert_int_equal(extent_at(store_live(fs_store(t->f.k.fs)), t->node, at, &m), 0);
		n += m.kind == EXTENT_LOST ? (m.to - m.from) / B : 0;
		at = m.to;
	} while (at != UINT64_MAX);
	return (uint32_t)n;
}

/* ---- reading ---- */

static void reading_it_is_an_error_and_the_rest_is_not(void **state)
{
	struct lost *t = *state;
	const uint8_t *p = NULL;

	expect(t, "ab!!ef");
	assert_int_equal(read_at(t, 0, 2 * B, &p), 0);
	assert_int_equal(read_at(t, 0, 2 * B + 1, &p), -EIO);
	assert_int_equal(read_at(t, 4 * B - 1, 10, &p), -EIO);
	assert_int_equal(read_at(t, 4 * B, 2 * B, &p), 0);
	assert_int_equal(p[0], 'e');
	assert_int_equal(fskit_stat(&t->f.k, "f").st_blocks, BLOCKS * 8);
}

static void the_check_counts_it_and_finds_no_fault(void **state)
{
	struct lost *t = *state;

	ck_check(&t->f);
	assert_int_equal(t->f.result.lost_blocks, 2);
}

static void a_search_for_data_finds_it(void **state)
{
	struct lost *t = *state;
	uint64_t off;

	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * B), 0);
	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * B, B), 0);
	assert_int_equal(fs_seek(t->f.k.fs, t->node, 0, SEEK_DATA, &off), 0);
	assert_int_equal(off, 2 * B);
	assert_int_equal(fs_seek(t->f.k.fs, t->node, 2 * B, SEEK_HOLE, &off), 0);
	assert_int_equal(off, 4 * B);
	expect(t, "..!!.f");
}

/* ---- writing ---- */

static int write_x(struct lost *t, uint64_t off, size_t size)
{
	memset(t->buf, 'x', size);
	return fs_write(t->f.k.fs, t->node, t->buf, size, off, 0);
}

static void whole_blocks_replace_it(void **state)
{
	struct lost *t = *state;

	assert_int_equal(write_x(t, 2 * B, B), 0);
	expect(t, "abx!ef");
	assert_int_equal(write_x(t, 2 * B, 2 * B), 0);
	expect(t, "abxxef");
	assert_int_equal(lost_blocks(t), 0);
}

static void parts_of_a_block_cannot_be_written(void **state)
{
	struct lost *t = *state;

	assert_int_equal(write_x(t, 2 * B, 100), -EIO);
	assert_int_equal(write_x(t, 3 * B + 1, B - 1), -EIO);
	assert_int_equal(write_x(t, B, B + 1), -EIO);
	assert_int_equal(write_x(t, 2 * B, 2 * B + 1), 0); /* its parts of blocks are of others */
	assert_int_equal(lost_blocks(t), 0);
	assert_int_equal(write_x(t, 4 * B, B), 0);
	expect(t, "abxxxf");
}

static void the_last_block_can_be_written_up_to_the_end(void **state)
{
	struct lost *t = *state;

	assert_int_equal(fskit_truncate(&t->f.k, "f", 3 * B + 100), 0);
	expect(t, "ab!!");
	assert_int_equal(write_x(t, 3 * B, 99), -EIO);
	assert_int_equal(write_x(t, 3 * B + 100, 10), -EIO);
	assert_int_equal(write_x(t, 3 * B, 100), 0);
	expect(t, "ab!x");
	assert_int_equal(fskit_truncate(&t->f.k, "f", 4 * B), 0);
	expect(t, "ab!?"); /* zeros behind it */
}

/* ---- size and space ---- */

static void a_cut_in_a_lost_block_does_not_make_zeros(void **state)
{
	struct lost *t = *state;

	assert_int_equal(fskit_truncate(&t->f.k, "f", 2 * B + 5), 0);
	expect(t, "ab!");
	assert_int_equal(lost_blocks(t), 1);
	assert_int_equal(fskit_truncate(&t->f.k, "f", 4 * B), 0);
	expect(t, "ab!.");
	assert_int_equal(fskit_truncate(&t->f.k, "f", 2 * B), 0);
	expect(t, "ab");
	assert_int_equal(lost_blocks(t), 0);
	assert_int_equal(fskit_truncate(&t->f.k, "f", 4 * B), 0);
	expect(t, "ab..");
}

static void holes_take_it_away_in_whole_blocks(void **state)
{
	struct lost *t = *state;
	int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, punch, 2 * B + 1, 10), -EIO);
	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, punch, B + 1, B), -EIO);
	expect(t, "ab!!ef");
	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, punch, B, 2 * B), 0);
	expect(t, "a..!ef");
	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, FALLOC_FL_ZERO_RANGE, 3 * B, B), 0);
	expect(t, "a...ef");
	assert_int_equal(lost_blocks(t), 0);
}

static void a_reservation_leaves_it_alone(void **state)
{
	struct lost *t = *state;

	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, 0, 0, 8 * B), 0);
	expect(t, "ab!!ef..");
	assert_int_equal(fs_fallocate(t->f.k.fs, t->node, FALLOC_FL_ZERO_RANGE, 2 * B, B), 0);
	expect(t, "ab.!ef..");
	assert_int_equal(lost_blocks(t), 1);
}

static void deleting_the_file_frees_the_rest(void **state)
{
	struct lost *t = *state;
	uint64_t before = fskit_free(&t->f.k), now;

	assert_int_equal(fskit_unlink(&t->f.k, "f"), 0);
	now = fskit_free(&t->f.k);
	assert_in_range(now, before + BLOCKS - 2, before + BLOCKS + 2);
}

/* A file whose small content was lost has one lost block and no inline data. */
static void a_small_file_that_is_lost(void **state)
{
	struct lost *t = *state;
	struct inode i;

	t->node = ck_node(&t->f, "small");
	i = ck_get(&t->f, t->node);
	i.blocks = 1;
	ck_put(&t->f, &i);
	ck_del(&t->f, key_make(i.ino, FS_ITEM_INLINE, 0));
	put_lost(t, i.ino, 0, 1);
	ck_commit(&t->f);
	assert_int_equal(read_at(t, 0, 5, &(const uint8_t *){ NULL }), -EIO);
	assert_int_equal(write_x(t, 1, 1), -EIO);
	assert_int_equal(write_x(t, 0, 5), 0);
	assert_int_equal(read_at(t, 0, 5, &(const uint8_t *){ NULL }), 0);
	assert_int_equal(lost_blocks(t), 0);
}

/* ---- copies ---- */

static void it_cannot_be_copied(void **state)
{
	struct lost *t = *state;
	uint64_t done, to;

	assert_int_equal(fskit_create(&t->f.k, "copy"), 0);
	to = ck_node(&t->f, "copy");
	assert_int_equal(fs_copy_range(t->f.k.fs, t->node, 0, to, 0, 6 * B, &done), -EIO);
	assert_int_equal(fs_copy_range(t->f.k.fs, t->node, 1, to, 0, 6 * B, &done), -EIO);
	assert_int_equal(fs_copy_range(t->f.k.fs, t->node, 3 * B + 1, to, 1, 100, &done), -EIO);
	assert_int_equal(fskit_stat(&t->f.k, "copy").st_size, 0);
	assert_int_equal(fs_copy_range(t->f.k.fs, t->node, 0, to, 0, 2 * B, &done), 0);
	assert_int_equal(fs_copy_range(t->f.k.fs, t->node, 4 * B, to, 2 * B, 2 * B, &done), 0);
	/* Into it: whole blocks only. */
	assert_int_equal(fs_copy_range(t->f.k.fs, to, 1, t->node, 2 * B + 1, 10, &done), -EIO);
	assert_int_equal(fs_copy_range(t->f.k.fs, to, 0, t->node, 2 * B, B, &done), 0);
	expect(t, "aba!ef");
}

/* A removal that a crash has cut short: what is marked is gone, lost or not. */
static void what_is_removed_already_reads_as_zeros(void **state)
{
	struct lost *t = *state;
	struct fs_options opt = t->f.k.opt;

	ck_put_orphan(&t->f, t->node, FS_ORPHAN_RANGE, B, 4 * B);
	ck_commit(&t->f);
	t->f.k.opt.repair = true; /* nobody finishes it */
	checkkit_remount(&t->f);
	expect(t, "a...ef");
	assert_int_equal(write_x(t, 2 * B, 10), 0);
	expect(t, "a.?.ef");
	t->f.k.opt.repair = opt.repair;
}

/* ---- items ---- */

static void wrong_items_are_refused(void **state)
{
	static const uint8_t zeros[200];
	struct disk_extent d = { .blocks = le32_put(1), .flags = FS_EXTENT_LOST };
	struct disk_lost l = { .from_obj = le64_put(5), .to_obj = le64_put(5) };
	struct lost *t = *state;
	struct batch *b = t->f.b;

	storekit_quiet();
	d.birth = le64_put(1);
	assert_int_equal(batch_put(b, key_make(t->node, FS_ITEM_EXTENT, 0), &d, sizeof(d)), -EUCLEAN);
	d.birth = le64_put(0);
	d.flags = 2;
	assert_int_equal(batch_put(b, key_make(t->node, FS_ITEM_EXTENT, 0), &d, sizeof(d)), -EUCLEAN);
	d.flags = FS_EXTENT_LOST;
	d.blocks = le32_put(FS_CLAIM_BLOCKS_MAX + 1);
	assert_int_equal(batch_put(b, key_make(t->node, FS_ITEM_EXTENT, 0), &d, sizeof(d)), -EUCLEAN);
	assert_int_equal(batch_put(b, key_make(0, FS_ITEM_LOST, 0), &l, sizeof(l)), -EUCLEAN);
	assert_int_equal(batch_put(b, key_make(0, FS_ITEM_LOST, 0), &l, sizeof(l) - 1), -EUCLEAN);
	l.to_off = le64_put(1);
	assert_int_equal(batch_put(b, key_make(20, FS_ITEM_LOST, 0), &l, sizeof(l)), -EUCLEAN);
	assert_int_equal(batch_put(b, key_make(0, FS_ITEM_VOLUME, 0), zeros, sizeof(struct disk_volume)), -EUCLEAN);
	assert_int_equal(batch_put(b, key_make(0, FS_ITEM_VOLUME, 0), zeros, sizeof(struct disk_volume) + 1), -EUCLEAN);
	batch_cancel(b);
}

static void a_filesystem_with_marks_is_not_mounted(void **state)
{
	struct disk_lost l = { .from_obj = le64_put(key_make(500, 1, 0).obj),
			       .to_obj = le64_put(key_make(501, 1, 0).obj) };
	struct lost *t = *state;
	struct fs *fs;

	ck_put_bytes(&t->f, key_make(0, FS_ITEM_LOST, 77), &l, sizeof(l));
	ck_commit(&t->f);
	ck_want(&t->f, FS_PROBLEM_LOST_MARK, 0, NULL);
	ck_check(&t->f);
	batch_close(t->f.b);
	fskit_unmount(&t->f.k);
	storekit_quiet();
	t->f.k.opt.store.seed++;
	assert_int_equal(fs_mount(simdev_bdev(t->f.k.disk), &t->f.k.opt, &fs), -EUCLEAN);
	assert_int_equal(storekit_said("its repair was not finished: run fsck.arbor -y"), 1);
	t->f.k.opt.repair = true;
	fskit_mount(&t->f.k);
	assert_int_equal(batch_open(store_live(fs_store(t->f.k.fs)), &t->f.b), 0);
	ck_check(&t->f);
	ck_del(&t->f, key_make(0, FS_ITEM_LOST, 77));
	ck_commit(&t->f);
	t->f.n_want = 0;
	t->f.k.opt.repair = false;
}

static void what_a_salvage_wants_to_know_is_there(void **state)
{
	struct lost *t = *state;
	struct disk_volume d;
	struct store_status st;
	size_t len;

	store_status(fs_store(t->f.k.fs), &st);
	assert_int_equal(view_get(store_live(fs_store(t->f.k.fs)), key_make(0, FS_ITEM_VOLUME, 0), &d, sizeof(d), &len),
			 0);
	assert_int_equal(len, sizeof(d));
	assert_memory_equal(d.uuid, st.uuid, sizeof(d.uuid));
	assert_memory_equal(d.secret, store_secret(fs_store(t->f.k.fs)), sizeof(d.secret));
	assert_int_equal(le64_get(d.blocks), st.blocks);
	assert_int_equal(le64_get(d.log_start), st.log_start);
	assert_int_equal(le64_get(d.log_blocks), st.log_blocks);
	assert_int_equal(le64_get(d.created), 1);
	assert_true(st.log_start && st.log_blocks);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(reading_it_is_an_error_and_the_rest_is_not),
		TEST(the_check_counts_it_and_finds_no_fault),
		TEST(a_search_for_data_finds_it),
		TEST(whole_blocks_replace_it),
		TEST(parts_of_a_block_cannot_be_written),
		TEST(the_last_block_can_be_written_up_to_the_end),
		TEST(a_cut_in_a_lost_block_does_not_make_zeros),
		TEST(holes_take_it_away_in_whole_blocks),
		TEST(a_reservation_leaves_it_alone),
		TEST(deleting_the_file_frees_the_rest),
		TEST(a_small_file_that_is_lost),
		TEST(it_cannot_be_copied),
		TEST(what_is_removed_already_reads_as_zeros),
		TEST(wrong_items_are_refused),
		TEST(a_filesystem_with_marks_is_not_mounted),
		TEST(what_a_salvage_wants_to_know_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

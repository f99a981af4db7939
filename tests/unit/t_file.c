/* t_file.c - a file's content: writing, reading, cutting; damage, a full device */
#include <linux/falloc.h>
#include <linux/fs.h>
#undef BLOCK_SIZE
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/extent.h"
#include "fs/file.h"
#include "fs/fs_int.h"
#include "tests/kit/filekit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

#define B 4096u
#define CAP (4u << 20)

/* ---- cases ---- */

enum step_op { END, WRITE, APPEND, CUT, CLAIM, SYNC };

struct step {
	enum step_op op;
	size_t off, len; /* CUT: off is the size. CLAIM: up to len */
};

struct content_row {
	const char *name;
	struct step step[8];
	int data; /* items with data at the end, where it is a matter of the format; -1: any */
};

static const struct content_row content_rows[] = {
	{ "small_data_is_inline", { { WRITE, 0, 100 } }, 0 },
	{ "inline_data_grows_and_is_overwritten", { { WRITE, 0, 100 }, { APPEND, 0, 50 }, { WRITE, 20, 60 } }, 0 },
	{ "inline_data_may_begin_with_a_hole", { { WRITE, 500, 100 } }, 0 },
	{ "what_is_as_long_as_inline_data_can_be_is_inline", { { WRITE, 0, 900 } }, 0 },
	{ "inline_data_grows_out_in_its_block", { { WRITE, 0, 100 }, { WRITE, 2100, 100 } }, 1 },
	{ "inline_data_grows_out_over_a_block", { { WRITE, 10, 100 }, { WRITE, 60, 2 * B } }, 1 },
	{ "inline_data_grows_out_by_a_block_far_behind", { { WRITE, 0, 100 }, { WRITE, 100 * B + 7, 20 } }, 2 },
	{ "inline_data_grows_out_by_whole_blocks_behind", { { WRITE, 0, 100 }, { WRITE, B, 3 * B } }, -1 },
	{ "inline_data_of_a_file_that_was_made_longer", { { WRITE, 0, 100 }, { CUT, 10 * B, 0 }, { WRITE, 10, 10 } }, -1 },
	{ "inline_data_is_cut", { { WRITE, 0, 100 }, { CUT, 40, 0 }, { CUT, 90, 0 } }, 0 },
	{ "inline_data_is_cut_to_nothing", { { WRITE, 0, 100 }, { CUT, 0, 0 }, { WRITE, 30, 10 } }, 0 },
	{ "a_file_may_be_one_hole", { { CUT, 3 * B + 5, 0 } }, 0 },
	{ "a_hole_and_one_block_in_it", { { CUT, 9 * B, 0 }, { WRITE, 4 * B, B } }, 1 },
	{ "whole_blocks_are_one_item", { { WRITE, 0, 64 * B } }, 1 },
	{ "a_mebibyte_unaligned", { { WRITE, 1000, FS_IO_MAX } }, -1 },
	{ "a_part_of_a_block_is_overwritten", { { WRITE, 0, 4 * B }, { WRITE, B + 100, 200 } }, 3 },
	{ "the_last_part_of_a_block_is_overwritten", { { WRITE, 0, 4 * B }, { WRITE, 2 * B - 10, 10 } }, 3 },
	{ "a_write_over_block_bounds", { { WRITE, 0, 4 * B }, { WRITE, B - 5, B + 10 } }, 2 },
	{ "the_first_item_is_cut_in_front", { { WRITE, 0, 4 * B }, { WRITE, 0, B } }, 2 },
	{ "the_same_block_twice", { { WRITE, 0, B }, { WRITE, 0, B }, { WRITE, 0, B } }, 1 },
	{ "many_items_are_replaced_by_one",
	  { { WRITE, 0, B }, { WRITE, 2 * B, B }, { WRITE, 4 * B, B }, { WRITE, 6 * B, B }, { WRITE, 8 * B, B },
	    { WRITE, 10 * B, B }, { WRITE, B, 9 * B } }, -1 },
	{ "a_write_behind_the_end_leaves_zeros", { { WRITE, 0, 2 * B + 100 }, { WRITE, 2 * B + 300, 10 } }, -1 },
	{ "a_write_far_behind_the_end_leaves_a_hole", { { WRITE, 0, 2 * B + 100 }, { WRITE, 20 * B + 300, 10 } }, 2 },
	{ "cut_inside_a_block_and_made_longer", { { WRITE, 0, 4 * B }, { CUT, B + 77, 0 }, { CUT, 4 * B, 0 } }, -1 },
	{ "cut_inside_a_block_and_appended_to", { { WRITE, 0, 4 * B }, { CUT, B + 77, 0 }, { APPEND, 0, 3 * B } }, -1 },
	{ "cut_at_a_block", { { WRITE, 0, 4 * B }, { CUT, 2 * B, 0 }, { CUT, 3 * B + 1, 0 } }, 1 },
	{ "cut_to_nothing_and_written_again", { { WRITE, 0, 40 * B }, { CUT, 0, 0 }, { WRITE, 0, 10 } }, 0 },
	{ "cut_in_a_hole", { { WRITE, 10 * B, B }, { CUT, 5 * B + 7, 0 }, { WRITE, 6 * B, 1 } }, 1 },
	{ "cut_where_zeros_have_been_written", { { WRITE, 0, B + 10 }, { CUT, 2 * B, 0 }, { CUT, B + 20, 0 } }, -1 },
	{ "cut_to_the_same_size", { { WRITE, 0, 2 * B + 9 }, { CUT, 2 * B + 9, 0 } }, 1 },
	{ "appended_bit_by_bit", { { APPEND, 0, 1500 }, { APPEND, 0, 1500 }, { APPEND, 0, 1500 }, { APPEND, 0, 5000 } }, -1 },
	{ "appended_by_blocks_is_one_item",
	  { { APPEND, 0, B }, { APPEND, 0, B }, { APPEND, 0, B }, { APPEND, 0, B }, { APPEND, 0, B } }, 1 },
	{ "appended_over_a_checkpoint_is_two_items",
	  { { APPEND, 0, B }, { APPEND, 0, B }, { SYNC, 1, 0 }, { APPEND, 0, B }, { APPEND, 0, B } }, 2 },
	{ "a_promise_reads_as_zeros_and_is_written", { { CLAIM, 0, 8 * B }, { CUT, 7 * B, 0 }, { WRITE, 2 * B + 5, B } }, 1 },
	{ "a_promise_behind_the_end_is_written", { { WRITE, 0, B }, { CLAIM, B, 8 * B }, { APPEND, 0, 3 * B } }, -1 },
	{ "a_promise_behind_the_end_goes_when_the_file_is_cut",
	  { { WRITE, 0, 2 * B }, { CLAIM, 0, 8 * B }, { CUT, 2 * B - 5, 0 }, { CUT, 8 * B, 0 } }, -1 },
	{ "a_promise_behind_the_new_end_goes_when_the_file_is_made_longer",
	  { { WRITE, 0, 2 * B }, { CLAIM, 0, 8 * B }, { CUT, 4 * B, 0 }, { WRITE, B, 2 * B } }, -1 },
	{ "inline_data_and_a_promise", { { WRITE, 0, 100 }, { CLAIM, 0, 4 * B }, { APPEND, 0, B } }, -1 },
	{ "a_write_over_data_promises_and_holes",
	  { { WRITE, B, 2 * B }, { CLAIM, 4 * B, 6 * B }, { WRITE, 7 * B, B }, { WRITE, 100, 7 * B } }, -1 },
	{ "nothing_is_written", { { WRITE, 100, 0 } }, 0 },
};

static void run(struct filekit *f, const struct step *s)
{
	switch (s->op) {
	case WRITE:
		assert_int_equal(filekit_write(f, s->off, s->len), 0);
		break;
	case APPEND:
		assert_int_equal(filekit_append(f, s->len), 0);
		break;
	case CUT:
		assert_int_equal(filekit_truncate(f, s->off), 0);
		break;
	case CLAIM:
		assert_int_equal(filekit_claim(f, s->off, s->len), 0);
		break;
	case SYNC:
		assert_int_equal(s->off ? store_checkpoint(fs_store(f->k->fs)) : fs_sync(f->k->fs), 0);
		break;
	case END:
		break;
	}
}

static void content_on(const struct content_row *row, uint32_t node_size)
{
	struct filekit f;
	struct fskit k;

	fskit_init(&k, &(struct fskit_options){ .node_size = node_size });
	filekit_init(&f, &k, "f", CAP);
	for (const struct step *s = row->step; s < row->step + 8 && s->op; s++) {
		run(&f, s);
		filekit_verify(&f);
	}
	if (row->data >= 0)
		assert_int_equal(filekit_items(&f).data, row->data);
	for (size_t off = 0; off < f.size; off += 1 + f.size / 7)
		for (size_t len = 1; len < 3 * B; len += 1500)
			assert_true(filekit_same(&f, off, len));
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_reboot(&k, true);
	filekit_verify(&f);
	fskit_remount(&k);
	filekit_verify(&f);
	fskit_check(&k);
	/* Nothing of it stays. */
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	fskit_check(&k);
	assert_int_equal(k.checked.data_blocks, 0);
	filekit_release(&f);
	fskit_release(&k);
}

static void content(void **state)
{
	content_on(*state, 4096);
	content_on(*state, 16384);
}

/* ---- what is refused ---- */

static void limits_and_kinds_are_kept(void **state)
{
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(B));
	struct filekit f;
	struct fskit k;
	struct fs_entry e;
	const void *data;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, FS_SIZE_MAX, 0), -EFBIG);
	assert_int_equal(fs_write(k.fs, f.node, "xy", 2, FS_SIZE_MAX - 1, 0), -EFBIG);
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, UINT64_MAX, 0), -EFBIG);
	assert_int_equal(fs_setattr(k.fs, f.node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)FS_SIZE_MAX + 1 }, &e),
			 -EFBIG);
	filekit_verify(&f);
	assert_int_equal(fs_write(k.fs, FS_ROOT, "x", 1, 0, 0), -EISDIR);
	assert_int_equal(fs_read(k.fs, FS_ROOT, 0, 1, buf, &data, &len), -EISDIR);
	assert_int_equal(fs_setattr(k.fs, FS_ROOT, FS_SET_SIZE, &(struct stat){ .st_size = 0 }, &e), -EISDIR);
	assert_int_equal(fs_read(k.fs, 12345, 0, 1, buf, &data, &len), -ESTALE);
	assert_int_equal(fs_write(k.fs, 12345, "x", 1, 0, 0), -ESTALE);

	/* The very last byte. */
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, FS_SIZE_MAX - 1, 0), 0);
	assert_int_equal(fs_read(k.fs, f.node, FS_SIZE_MAX - 2, B, buf, &data, &len), 0);
	assert_int_equal(len, 2);
	assert_memory_equal(data, "\0x", 2);
	fskit_check(&k);
	mem_free(buf);
	filekit_release(&f);
	fskit_release(&k);
}

static void flags_forbid_writing(void **state)
{
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_write(&f, 0, 2 * B), 0);
	assert_int_equal(fs_setflags(k.fs, f.node, FS_APPEND_FL), 0);
	assert_int_equal(filekit_write(&f, 0, 10), -EPERM);
	assert_int_equal(filekit_write(&f, f.size, 10), -EPERM);
	assert_int_equal(filekit_append(&f, 10), 0);
	assert_int_equal(filekit_truncate(&f, 0), -EPERM);
	assert_int_equal(fs_setflags(k.fs, f.node, FS_IMMUTABLE_FL), 0);
	assert_int_equal(filekit_append(&f, 10), -EPERM);
	filekit_verify(&f);
	filekit_release(&f);
	fskit_release(&k);
}

static void writing_takes_privileges_and_sets_times(void **state)
{
	struct filekit f;
	struct fskit k;
	struct fs_entry e, e2;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(fs_setattr(k.fs, f.node, FS_SET_MODE, &(struct stat){ .st_mode = 06775 }, &e), 0);
	assert_int_equal(fs_setxattr(k.fs, f.node, "security.capability", "cap", 3, 0, false), 0);
	assert_int_equal(fs_setxattr(k.fs, f.node, "user.x", "1", 1, 0, false), 0);
	assert_int_equal(fs_getattr(k.fs, f.node, &e), 0);
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, 0, 0), 0);
	assert_int_equal(fs_getattr(k.fs, f.node, &e2), 0);
	assert_int_equal(e2.st.st_mode & 07777, 06775);
	assert_true(e2.st.st_mtim.tv_sec > e.st.st_mtim.tv_sec);
	assert_int_equal(e2.st.st_mtim.tv_sec, e2.st.st_ctim.tv_sec);
	assert_int_equal(fs_getxattr(k.fs, f.node, "security.capability", NULL, 0, &(size_t){ 0 }), -ENODATA);
	assert_int_equal(fs_getxattr(k.fs, f.node, "user.x", NULL, 0, &(size_t){ 0 }), 0);
	assert_int_equal(fs_write(k.fs, f.node, "x", 1, 0, FS_WRITE_KILL_PRIV), 0);
	assert_int_equal(fs_getattr(k.fs, f.node, &e2), 0);
	assert_int_equal(e2.st.st_mode & 07777, 0775);
	fskit_check(&k);
	filekit_release(&f);
	fskit_release(&k);
}

/* ---- access time ---- */

struct atime_row {
	const char *name;
	enum fs_atime mode;
	uint32_t flags;
	bool read_only;
	bool first, second, next_day; /* whether these reads change it */
};

static const struct atime_row atime_rows[] = {
	{ "relatime_is_set_by_the_first_read_and_once_a_day", FS_RELATIME, 0, false, true, false, true },
	{ "strictatime_is_set_by_every_read", FS_STRICTATIME, 0, false, true, true, true },
	{ "noatime_is_never_set", FS_NOATIME, 0, false, false, false, false },
	{ "the_noatime_flag_of_a_file_counts", FS_STRICTATIME, FS_NOATIME_FL, false, false, false, false },
	{ "a_read_only_filesystem_sets_no_atime", FS_STRICTATIME, 0, true, false, false, false },
};

static bool read_sets_atime(struct filekit *f)
{
	struct fs_entry e, e2;

	assert_int_equal(fs_getattr(f->k->fs, f->node, &e), 0);
	assert_true(filekit_same(f, 0, 10));
	assert_int_equal(fs_getattr(f->k->fs, f->node, &e2), 0);
	assert_int_equal(e.st.st_ctim.tv_sec, e2.st.st_ctim.tv_sec);
	return e.st.st_atim.tv_sec != e2.st.st_atim.tv_sec;
}

static void access_time(void **state)
{
	const struct atime_row *row = *state;
	struct filekit f;
	struct fskit k;

	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_write(&f, 0, 100), 0);
	if (row->flags)
		assert_int_equal(fs_setflags(k.fs, f.node, row->flags), 0);
	k.opt.atime = row->mode;
	k.opt.store.read_only = row->read_only;
	fskit_remount(&k);
	assert_int_equal(read_sets_atime(&f), row->first);
	assert_int_equal(read_sets_atime(&f), row->second);
	k.clock.tv_sec += 24 * 60 * 60;
	assert_int_equal(read_sets_atime(&f), row->next_day);
	filekit_release(&f);
	fskit_release(&k);
}

/* ---- joining ---- */

static uint64_t blocks_in_use(struct fskit *k)
{
	struct check_result r;

	assert_int_equal(store_check(fs_store(k->fs), &r), 0);
	return r.data_blocks;
}

static void what_is_appended_stays_in_few_items(void **state)
{
	struct filekit f, g;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	filekit_init(&g, &k, "g", CAP);
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(filekit_append(&f, B), 0);
	assert_true(filekit_items(&f).data <= 256 / 64 + 4); /* at most 64 blocks an item, where no checkpoint comes */
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(filekit_append(&g, 16 * B), 0);
	assert_true(filekit_items(&g).data <= 256 / 128 + 4);
	filekit_verify(&f);
	filekit_verify(&g);
	fskit_check(&k);
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

/* What is joined must be born together: a snapshot between two appends holds the first and not the second. */
static void a_snapshot_between_appends_is_not_joined_over(void **state)
{
	struct view *frozen, *snap;
	struct filekit f;
	struct fskit k;
	struct store *s;
	uint64_t id;

	(void)state;
	fskit_init(&k, NULL);
	s = fs_store(k.fs);
	filekit_init(&f, &k, "f", CAP);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(filekit_append(&f, B), 0);
	assert_int_equal(view_freeze(s, &frozen), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(filekit_append(&f, B), 0);
	assert_int_equal(filekit_items(&f).data, 2);
	assert_int_equal(snapshot_create(s, "one", &id), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(filekit_append(&f, B), 0);
	assert_int_equal(filekit_items(&f).data, 3);
	assert_int_equal(blocks_in_use(&k), 15);
	view_close(frozen);
	assert_int_equal(snapshot_create(s, "two", &id), 0);
	assert_int_equal(filekit_write(&f, 3 * B, 9 * B), 0);
	filekit_verify(&f);
	assert_int_equal(blocks_in_use(&k), 15 + 9);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	assert_int_equal(blocks_in_use(&k), 15);
	assert_int_equal(snapshot_delete(s, "one"), 0);
	assert_int_equal(blocks_in_use(&k), 15);
	assert_int_equal(snapshot_open(s, "two", &snap), 0);
	view_close(snap);
	assert_int_equal(snapshot_delete(s, "two"), 0);
	assert_int_equal(blocks_in_use(&k), 0);
	filekit_release(&f);
	fskit_release(&k);
}

/* The generation changes between reading the map and the commit. */
static void a_join_that_comes_too_late_is_refused(void **state)
{
	char block[B] = "late";
	struct view *frozen;
	struct filekit f;
	struct inode i;
	struct fskit k;
	struct op op;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_append(&f, B), 0);
	for (int join = 1; join >= 0; join--) {
		assert_int_equal(op_begin(k.fs, f.node, &op), 0);
		op.join = join;
		op_lock(&op, &f.node, 1);
		assert_int_equal(inode_load(op.view, f.node, &i), 0);
		assert_int_equal(file_write(&op, &i, block, B, B), 0);
		assert_int_equal(inode_put(op.batch, &i), 0);
		assert_int_equal(view_freeze(fs_store(k.fs), &frozen), 0);
		view_close(frozen);
		assert_int_equal(op_commit(&op), join ? -ERESTART : 0);
		op_end(&op);
		assert_int_equal(filekit_items(&f).data, join ? 1 : 2);
	}
	fskit_check(&k);
	filekit_release(&f);
	fskit_release(&k);
}

/* ---- damage ---- */

static void a_damaged_block_is_an_error_and_never_data(void **state)
{
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(8 * B));
	struct extent_map m;
	struct filekit f;
	struct fskit k;
	const void *data;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_write(&f, 0, 8 * B), 0);
	fskit_remount(&k);
	assert_int_equal(extent_at(store_live(fs_store(k.fs)), f.node, 3 * B, &m), 0);
	assert_int_equal(m.kind, EXTENT_DATA);
	simdev_flip(k.disk, m.addr + (3 * B - m.from) / B, 12345);

	storekit_quiet();
	assert_int_equal(fs_read(k.fs, f.node, 0, 8 * B, buf, &data, &len), -EIO);
	assert_int_equal(fs_read(k.fs, f.node, 3 * B + 5, 1, buf, &data, &len), -EIO);
	assert_true(storekit_said("corrupt data block") >= 2);
	assert_true(filekit_same(&f, 0, 3 * B));
	assert_true(filekit_same(&f, 4 * B, 4 * B));
	/* A part of it cannot be changed, nor kept by a truncation; as a whole it can be replaced or cut off. */
	assert_int_equal(filekit_write(&f, 3 * B + 1, 10), -EIO);
	assert_int_equal(filekit_write(&f, 3 * B, B), 0);
	filekit_verify(&f);
	fskit_check(&k);
	mem_free(buf);
	filekit_release(&f);
	fskit_release(&k);
}

static void a_device_that_fails_to_read_is_an_error(void **state)
{
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(8 * B));
	struct extent_map m;
	struct filekit f;
	struct fskit k;
	const void *data;
	size_t len;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(filekit_write(&f, 0, 8 * B), 0);
	fskit_remount(&k);
	assert_int_equal(extent_at(store_live(fs_store(k.fs)), f.node, 0, &m), 0);
	simdev_add_fault(k.disk, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = m.addr, .blocks = 1, .times = 1 });
	assert_int_equal(fs_read(k.fs, f.node, 0, 8 * B, buf, &data, &len), -EIO);
	filekit_verify(&f);
	mem_free(buf);
	filekit_release(&f);
	fskit_release(&k);
}

/* ---- a full device ---- */

static void a_full_device_refuses_whole_writes_and_gives_room_back(void **state)
{
	struct filekit f, g;
	struct fskit k;
	size_t full, n = 0;
	int err = 0;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048, .log_blocks = 64 });
	filekit_init(&f, &k, "f", 8 << 20);
	filekit_init(&g, &k, "g", CAP);
	assert_int_equal(filekit_write(&g, 0, 20 * B + 5), 0);
	for (size_t size = FS_IO_MAX / 2; size >= B; size /= 2)
		while (!(err = filekit_append(&f, size)))
			n++;
	assert_int_equal(err, -ENOSPC);
	assert_true(n > 8);
	full = f.size;
	filekit_verify(&f);
	assert_int_equal(filekit_write(&g, 7, 1), -ENOSPC);
	filekit_verify(&g);
	/* Cutting inside a block writes one. */
	assert_int_equal(filekit_truncate(&g, 10 * B + 3), 0);
	assert_int_equal(filekit_truncate(&f, full / 2 + 100), 0);
	assert_int_equal(filekit_append(&g, 20 * B), 0);
	filekit_verify(&f);
	filekit_verify(&g);
	fskit_remount(&k);
	filekit_verify(&f);
	filekit_verify(&g);
	/* Deleting makes room for whoever comes next, at once. */
	while (!(err = filekit_append(&g, 40 * B)))
		;
	assert_int_equal(err, -ENOSPC);
	assert_int_equal(fskit_unlink(&k, "f"), 0);
	assert_int_equal(filekit_append(&g, 40 * B), 0);
	filekit_verify(&g);
	fskit_check(&k);
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

/* What a refused write gives back may be enough for a smaller one, two checkpoints later. */
static void fill_up(struct filekit *f)
{
	size_t was;

	do {
		was = f->size;
		for (size_t size = 64 * B; size >= B; size /= 2)
			while (!filekit_append(f, size))
				;
		fskit_free(f->k);
	} while (f->size > was);
}

/* Cutting inside a block writes one, and there is none. */
static void a_file_on_a_full_device_can_be_cut_anywhere(void **state)
{
	struct filekit f, g;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048, .log_blocks = 64 });
	filekit_init(&f, &k, "f", CAP);
	filekit_init(&g, &k, "g", 8 << 20);
	assert_int_equal(filekit_write(&f, 0, 100 * B), 0);
	fill_up(&g);
	for (unsigned i = 99; i > 90; i--) {
		assert_int_equal(filekit_truncate(&f, i * B + 1 + i), 0);
		filekit_verify(&f);
	}
	fskit_check(&k);
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

static void what_was_promised_can_be_written_on_a_full_device(void **state)
{
	struct store_status st;
	struct filekit f, g;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048, .log_blocks = 64 });
	filekit_init(&f, &k, "f", CAP);
	filekit_init(&g, &k, "g", 8 << 20);
	assert_int_equal(filekit_claim(&f, 10 * B, 150 * B), 0);
	assert_int_equal(filekit_claim(&f, 0, 2 * CAP), -ENOSPC);
	fill_up(&g);
	assert_int_equal(filekit_write(&f, 9 * B, B), -ENOSPC);
	/* Single blocks, all over it, so that it takes many items; then the rest. */
	for (unsigned i = 10; i < 150; i += 3)
		assert_int_equal(filekit_write(&f, i * B + 7, 100), 0);
	filekit_verify(&f);
	for (unsigned i = 10; i < 148; i += 3)
		assert_int_equal(filekit_write(&f, (i + 1) * B, 2 * B), 0);
	assert_int_equal(filekit_write(&f, 149 * B, B), 0);
	filekit_verify(&f);
	store_status(fs_store(k.fs), &st);
	assert_int_equal(st.blocks_claimed, 0);
	fskit_remount(&k);
	filekit_verify(&f);
	filekit_verify(&g);
	fskit_check(&k);
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

/* Who reserves first and then sets the size in steps keeps the reservation. */
static void growing_keeps_what_was_promised_behind_the_end(void **state)
{
	struct filekit f;
	struct fskit k;

	(void)state;
	fskit_init(&k, NULL);
	filekit_init(&f, &k, "f", CAP);
	assert_int_equal(fs_fallocate(k.fs, f.node, FALLOC_FL_KEEP_SIZE, 0, 100 * B), 0);
	assert_int_equal(fskit_stat(&k, "f").st_blocks, 100 * 8);
	for (unsigned size = 1; size <= 3; size++) {
		assert_int_equal(filekit_truncate(&f, size * 10 * B + size), 0);
		assert_int_equal(fskit_stat(&k, "f").st_blocks, 100 * 8);
	}
	filekit_verify(&f);
	assert_int_equal(filekit_truncate(&f, 30 * B), 0);
	assert_int_equal(fskit_stat(&k, "f").st_blocks, 30 * 8);
	fskit_check(&k);
	filekit_release(&f);
	fskit_release(&k);
}

/* Not a block is left, and no checkpoint brings one. */
static void a_device_full_of_small_files_lets_each_be_cut(void **state)
{
	static const uint8_t bytes[5000] = { [0 ... 4999] = 0x5a };
	struct stat st = { .st_size = 4999 };
	uint64_t nodes[2048];
	struct fs_entry e;
	struct fskit k;
	unsigned n = 0;
	char name[16];

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048, .log_blocks = 64 });
	for (unsigned refused = 0; refused < 20 && n < ARRAY_LEN(nodes);) {
		snprintf(name, sizeof(name), "f%u", n);
		if (fs_mknod(k.fs, &fskit_root, FS_ROOT, name, S_IFREG | 0644, 0, &e)) {
			refused++;
			fskit_free(&k);
			continue;
		}
		if (fs_write(k.fs, e.node, bytes, sizeof(bytes), 0, 0)) {
			refused++;
			assert_int_equal(fskit_unlink(&k, name), 0);
			fs_forget(k.fs, e.node, 1);
			fskit_free(&k);
			continue;
		}
		nodes[n++] = e.node;
	}
	assert_true(n > 100);
	/* Each is one more item, so the tree grows, and in the end there is no room for that either. */
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(fs_setattr(k.fs, nodes[i], FS_SET_SIZE, &st, &e), 0);
	for (unsigned i = 100; i < n; i++)
		(void)fs_setattr(k.fs, nodes[i], FS_SET_SIZE, &st, &e);
	for (unsigned i = n; i--;) {
		snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(fskit_unlink(&k, name), 0);
		fs_forget(k.fs, nodes[i], 1);
	}
	fskit_check(&k);
	fskit_release(&k);
}

/* What writing promises takes and gives back is not for others, and the reserves are there after a mount. */
static void others_do_not_use_up_what_was_promised(void **state)
{
	struct filekit f, g;
	char name[64];
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .blocks = 2048, .log_blocks = 64 });
	filekit_init(&f, &k, "f", CAP);
	filekit_init(&g, &k, "g", 8 << 20);
	assert_int_equal(filekit_claim(&f, 0, 400 * B), 0);
	fill_up(&g);
	for (unsigned i = 0; i < 400; i += 2) {
		struct store_status st;

		assert_int_equal(filekit_write(&f, i * B, B), 0);
		for (unsigned j = 0; j < 8; j++) {
			snprintf(name, sizeof(name), "%050u", 8 * i + j);
			(void)fskit_create(&k, name);
		}
		if (i % 40)
			continue;
		fskit_free(&k);
		store_status(fs_store(k.fs), &st);
		assert_true(st.blocks_free + st.blocks_pooled - st.blocks_reserved >= st.blocks_claimed);
	}
	fskit_remount(&k);
	for (unsigned i = 1; i < 400; i += 2)
		assert_int_equal(filekit_write(&f, i * B, B), 0);
	filekit_verify(&f);
	assert_int_equal(fskit_unlink(&k, "g"), 0);
	fskit_check(&k);
	filekit_release(&f);
	filekit_release(&g);
	fskit_release(&k);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(content_rows) + ARRAY_LEN(atime_rows) + 14];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(content_rows); i++)
		tests[n++] = TEST_ROW(content_rows[i].name, content, &content_rows[i]);
	for (size_t i = 0; i < ARRAY_LEN(atime_rows); i++)
		tests[n++] = TEST_ROW(atime_rows[i].name, access_time, &atime_rows[i]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(limits_and_kinds_are_kept);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(flags_forbid_writing);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(writing_takes_privileges_and_sets_times);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(what_is_appended_stays_in_few_items);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_snapshot_between_appends_is_not_joined_over);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_join_that_comes_too_late_is_refused);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_damaged_block_is_an_error_and_never_data);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_device_that_fails_to_read_is_an_error);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_full_device_refuses_whole_writes_and_gives_room_back);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_file_on_a_full_device_can_be_cut_anywhere);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(what_was_promised_can_be_written_on_a_full_device);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(growing_keeps_what_was_promised_behind_the_end);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_device_full_of_small_files_lets_each_be_cut);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(others_do_not_use_up_what_was_promised);
	return _cmocka_run_group_tests("file", tests, n, NULL, NULL);
}

/*
 * t_scrub_threads.c - the scrub in its thread: at its pace, stopped and gone on with, while others write, on a device that is
 * nearly full
 */
#include <errno.h>
#include <linux/fs.h>
#undef BLOCK_SIZE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/scrub.h"
#include "tests/kit/metakit.h"
#include "tests/kit/test.h"

static int count_line(void *arg, const char *line)
{
	(void)line;
	++*(unsigned *)arg;
	return 0;
}

static unsigned lines_of(struct fskit *k)
{
	unsigned n = 0;

	assert_int_equal(scrub_bad(k->fs, count_line, &n), 0);
	return n;
}

static void wait_until_over(struct fskit *k, struct scrub_status *st)
{
	do {
		usleep(1000);
		scrub_status(k->fs, st);
	} while (st->state == SCRUB_RUNNING);
}

static void open_threaded(struct fskit *k, unsigned files)
{
	fskit_init(k, &(struct fskit_options){ .copies = true, .blocks = 16384, .threads = true });
	metakit_fill(k, files, true);
	assert_int_equal(store_checkpoint(fs_store(k->fs)), 0);
}

static void it_keeps_to_its_rate(void **state)
{
	struct scrub_options o = { .rate = 4u << 20 };
	struct timespec from, to;
	struct scrub_status st;
	struct fskit k;
	double s;

	(void)state;
	open_threaded(&k, 60);
	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(scrub_start(k.fs, &o), 0);
	assert_int_equal(scrub_start(k.fs, &o), -EBUSY);
	wait_until_over(&k, &st);
	clock_gettime(CLOCK_MONOTONIC, &to);
	s = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	assert_int_equal(st.state, SCRUB_DONE);
	assert_true(st.bytes > 1u << 20);
	/* The last transfer, of 1 MiB at most, is not waited for. */
	assert_true(s > (double)(st.bytes - (1u << 20)) / (double)o.rate);
	fskit_release(&k);
}

static void stopped_it_goes_on_where_it_was(void **state)
{
	static const struct scrub_options all;
	struct scrub_options slow = { .rate = 2u << 20 }, resume = { .resume = true };
	struct scrub_status whole, st;
	struct fskit k;
	unsigned stops = 0;

	(void)state;
	open_threaded(&k, 120);
	simdev_flip(k.disk, metakit_block(&k, "d2/file6", 9), 5);
	simdev_flip(k.disk, metakit_block(&k, "d2/file118", 9), 5);
	assert_int_equal(scrub_start(k.fs, &all), 0);
	wait_until_over(&k, &whole);
	assert_int_equal(whole.blocks_bad, 2);
	assert_int_equal(scrub_stop(k.fs), 0);

	assert_int_equal(scrub_start(k.fs, &slow), 0);
	for (;;) {
		usleep(150000);
		assert_int_equal(scrub_stop(k.fs), 0);
		scrub_status(k.fs, &st);
		if (st.state == SCRUB_DONE)
			break;
		assert_int_equal(st.state, SCRUB_STOPPED);
		if (++stops == 3)
			slow = resume;
		slow.resume = true;
		assert_int_equal(scrub_start(k.fs, &slow), 0);
	}
	assert_true(stops >= 2);
	assert_int_equal(st.blocks_bad, 2);
	assert_int_equal(lines_of(&k), 2);
	assert_true(st.blocks >= whole.blocks);
	/* From a number, as after a remount. */
	slow = (struct scrub_options){ .from_ino = fskit_node(&k, "d2/file118") };
	assert_int_equal(scrub_start(k.fs, &slow), 0);
	wait_until_over(&k, &st);
	assert_int_equal(st.state, SCRUB_DONE);
	assert_int_equal(st.blocks_bad, 1);
	assert_true(st.blocks < whole.blocks / 2);
	fskit_release(&k);
}

static void unmounting_does_not_wait_for_it(void **state)
{
	struct scrub_options slow = { .rate = 1 };
	struct timespec from, to;
	struct fskit k;

	(void)state;
	open_threaded(&k, 30);
	assert_int_equal(scrub_start(k.fs, &slow), 0);
	usleep(20000);
	clock_gettime(CLOCK_MONOTONIC, &from);
	fskit_unmount(&k);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_true(to.tv_sec - from.tv_sec < 5);
	fskit_mount(&k);
	fskit_release(&k);
}

struct writer {
	struct fskit *k;
	unsigned number;
	atomic_bool stop;
	unsigned rounds;
};

static void *write_on(void *arg)
{
	static const size_t sizes[] = { 100, 6000, 70000 };
	struct writer *w = arg;
	char name[40];
	uint8_t *buf = mem_alloc_blocks(70000 + BLOCK_SIZE);

	assert_non_null(buf);
	for (unsigned i = 0; !atomic_load(&w->stop); i++) {
		struct fs_entry e;

		snprintf(name, sizeof(name), "w%u-%u", w->number, i % 50);
		(void)fs_unlink(w->k->fs, FS_ROOT, name);
		assert_int_equal(fs_mknod(w->k->fs, &fskit_root, FS_ROOT, name, S_IFREG | 0644, 0, &e), 0);
		memset(buf, (int)i, sizes[i % 3]);
		for (unsigned n = 0; n < 3; n++)
			assert_int_equal(fs_write(w->k->fs, e.node, buf, sizes[i % 3], n * 5000, 0), 0);
		fs_forget(w->k->fs, e.node, 1);
		if (i % 8 == 0)
			assert_int_equal(fs_sync(w->k->fs), 0);
		w->rounds++;
	}
	mem_free(buf);
	return NULL;
}

/* Blocks are freed and used anew all the time, and nothing of it must be taken for damage. */
static void others_write_meanwhile(void **state)
{
	static const struct scrub_options all;
	struct writer w[2] = { { .number = 0 }, { .number = 1 } };
	pthread_t thread[2];
	struct scrub_status st;
	struct fskit k;
	uint64_t id;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .copies = true, .blocks = 8192, .threads = true });
	metakit_fill(&k, 60, true);
	for (unsigned i = 0; i < 2; i++) {
		w[i].k = &k;
		assert_int_equal(pthread_create(&thread[i], NULL, write_on, &w[i]), 0);
	}
	for (unsigned i = 0; i < 12; i++) {
		char name[20];

		assert_int_equal(scrub_start(k.fs, &all), 0);
		snprintf(name, sizeof(name), "s%u", i);
		if (i % 4 == 1)
			assert_int_equal(snapshot_create(fs_store(k.fs), name, &id), 0);
		snprintf(name, sizeof(name), "s%u", i - 1);
		if (i % 4 == 2)
			assert_int_equal(snapshot_delete(fs_store(k.fs), name), 0);
		wait_until_over(&k, &st);
		assert_int_equal(st.state, SCRUB_DONE);
		assert_int_equal(st.nodes_bad + st.pages_bad + st.blocks_bad + st.nodes_lost, 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		atomic_store(&w[i].stop, true);
		pthread_join(thread[i], NULL);
		assert_true(w[i].rounds > 10);
	}
	fskit_unmount(&k);
	fskit_mount(&k);
	fskit_check(&k);
	fskit_release(&k);
}

/* What its views pin is given back to who needs it. */
static void it_does_not_make_a_device_full(void **state)
{
	struct scrub_options slow = { .rate = 600 << 10 };
	static uint8_t bytes[300 * BLOCK_SIZE];
	struct timespec from, now;
	struct scrub_status st;
	struct fskit k;
	unsigned rounds = 0, n = 0;
	char name[20];
	int err;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .copies = true, .blocks = 8192, .threads = true });
	memset(bytes, 7, sizeof(bytes));
	assert_int_equal(fskit_create(&k, "again"), 0);
	assert_int_equal(fskit_write(&k, "again", bytes, sizeof(bytes), 0), 0);
	do {
		snprintf(name, sizeof(name), "fill%u", n++);
		assert_int_equal(fskit_create(&k, name), 0);
		err = fskit_write(&k, name, bytes, 100 * BLOCK_SIZE, 0);
	} while (!err);
	assert_int_equal(err, -ENOSPC);
	for (unsigned i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "fill%u", i);
		assert_int_equal(fskit_unlink(&k, name), 0);
	}
	assert_int_equal(fs_reap(k.fs), 0);
	(void)fskit_free(&k);
	assert_int_equal(scrub_start(k.fs, &slow), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	do {
		bytes[0] = (uint8_t)rounds++;
		err = fskit_write(&k, "again", bytes, sizeof(bytes), 0);
		assert_int_equal(err, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - from.tv_sec < 4);
	scrub_status(k.fs, &st);
	assert_int_equal(st.state, SCRUB_RUNNING);
	assert_true(st.blocks > 0); /* it goes on all the same */
	slow.rate = 0;
	slow.resume = true;
	assert_int_equal(scrub_stop(k.fs), 0);
	assert_int_equal(scrub_start(k.fs, &slow), 0);
	wait_until_over(&k, &st);
	assert_int_equal(st.state, SCRUB_DONE);
	assert_int_equal(st.nodes_bad + st.blocks_bad, 0);
	print_message("# %u rounds\n", rounds);
	fskit_release(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_keeps_to_its_rate),
		cmocka_unit_test(stopped_it_goes_on_where_it_was),
		cmocka_unit_test(unmounting_does_not_wait_for_it),
		cmocka_unit_test(others_write_meanwhile),
		cmocka_unit_test(it_does_not_make_a_device_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

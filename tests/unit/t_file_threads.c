/* t_file_threads.c - files written, read, cut and deleted by several threads, while generations change */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "tests/kit/filekit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define B 4096u
#define WRITERS 2u
#define SHARED_SIZE (5 * B + 100)

static struct {
	struct fskit k;
	struct filekit own[WRITERS];
	uint64_t shared;
	_Atomic bool stop;
	_Atomic unsigned wrong; /* what a thread finds: asserting is the main thread's */
} t;

static void check(bool right, int line)
{
	if (right)
		return;
	atomic_fetch_add(&t.wrong, 1);
	printf("# t_file_threads.c:%d: wrong\n", line);
}
#define CHECK(x) check((x), __LINE__)

/* A file of its own: what was answered is what is read. */
static void *own_writer(void *arg)
{
	struct filekit *f = arg;
	struct rng rng;

	rng_seed(&rng, (uint64_t)(f - t.own) + 1);
	for (unsigned i = 0; i < 1500 && !t.wrong; i++) {
		size_t off = rng_below(&rng, f->size + 1), len = rng_range(&rng, 1, 5 * B);

		switch (rng_below(&rng, 6)) {
		case 0:
			CHECK(!filekit_truncate(f, off));
			break;
		case 1:
			CHECK(!filekit_write(f, off, len));
			break;
		default:
			CHECK(!filekit_append(f, B));
		}
		CHECK(filekit_same(f, rng_below(&rng, f->size + 1), 3 * B));
	}
	return NULL;
}

/* Whole blocks at the end, which are joined wherever that is right: see generations(). */
static void *appender(void *arg)
{
	struct filekit *f = arg;

	for (unsigned i = 0; i < 3000 && !t.wrong; i++) {
		if (f->size + B > f->cap)
			CHECK(!filekit_truncate(f, 0));
		CHECK(!filekit_append(f, B));
		CHECK(filekit_same(f, f->size - B, B));
	}
	return NULL;
}

/* One call writes one value: readers never see two. */
static void *shared_writer(void *arg)
{
	uint8_t *buf = mem_alloc(SHARED_SIZE);

	for (unsigned i = 0; i < 800; i++) {
		memset(buf, (int)(2 * i + 1 + (uintptr_t)arg) & 0xff, SHARED_SIZE);
		CHECK(!fs_write(t.k.fs, t.shared, buf, SHARED_SIZE, 1000, 0));
	}
	mem_free(buf);
	return NULL;
}

static void *shared_reader(void *arg)
{
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(SHARED_SIZE));

	(void)arg;
	while (!t.stop) {
		const void *data;
		size_t len;

		CHECK(!fs_read(t.k.fs, t.shared, 1000, SHARED_SIZE, buf, &data, &len));
		CHECK(len == SHARED_SIZE);
		CHECK(!memcmp(data, (const char *)data + 1, len - 1));
	}
	mem_free(buf);
	return NULL;
}

/* What is joined to what must be of one generation, and that changes all the time. */
static void *generations(void *arg)
{
	struct store *s = arg;

	for (unsigned n = 0; !t.stop; n++) {
		struct view *v;

		CHECK(!view_freeze(s, &v));
		view_close(v);
		if (n % 64 == 0)
			CHECK(!store_checkpoint(s));
	}
	return NULL;
}

/* Large files come and go; the reaper has its own thread. */
static void *deleter(void *arg)
{
	(void)arg;
	for (unsigned n = 0; n < 6; n++) {
		struct fs_entry e;

		CHECK(!fs_mknod(t.k.fs, &fskit_root, FS_ROOT, "large", S_IFREG | 0600, 0, &e));
		for (unsigned i = 0; i < ORPHAN_STEP_ITEMS + 50; i++)
			CHECK(!fs_write(t.k.fs, e.node, "x", 1, (uint64_t)i * 2 * B, 0));
		CHECK(!fs_unlink(t.k.fs, FS_ROOT, "large"));
		CHECK(!fs_write(t.k.fs, e.node, "x", 1, 0, 0));
		fs_forget(t.k.fs, e.node, 1);
	}
	CHECK(!fs_reap(t.k.fs));
	return NULL;
}

static void threads_on_files(void **state)
{
	static const char *const names[] = { "a", "b" };
	pthread_t writer[WRITERS + 3], helper[2];
	unsigned n = 0;

	(void)state;
	fskit_init(&t.k, &(struct fskit_options){ .blocks = 32768, .log_blocks = 1024, .threads = true });
	for (unsigned i = 0; i < WRITERS; i++)
		filekit_init(&t.own[i], &t.k, names[i], 8 << 20);
	assert_int_equal(fskit_create(&t.k, "shared"), 0);
	t.shared = fskit_node(&t.k, "shared");
	assert_int_equal(fskit_truncate(&t.k, "shared", 1000 + SHARED_SIZE), 0);

	assert_int_equal(pthread_create(&helper[0], NULL, shared_reader, NULL), 0);
	assert_int_equal(pthread_create(&helper[1], NULL, generations, fs_store(t.k.fs)), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&writer[n++], NULL, i ? own_writer : appender, &t.own[i]), 0);
	assert_int_equal(pthread_create(&writer[n++], NULL, shared_writer, (void *)0), 0);
	assert_int_equal(pthread_create(&writer[n++], NULL, shared_writer, (void *)1), 0);
	assert_int_equal(pthread_create(&writer[n++], NULL, deleter, NULL), 0);
	for (unsigned i = 0; i < n; i++)
		pthread_join(writer[i], NULL);
	t.stop = true;
	pthread_join(helper[0], NULL);
	pthread_join(helper[1], NULL);

	assert_int_equal(t.wrong, 0);
	assert_false(orphans_waiting(t.k.fs));
	for (unsigned i = 0; i < WRITERS; i++)
		filekit_verify(&t.own[i]);
	fskit_remount(&t.k);
	for (unsigned i = 0; i < WRITERS; i++)
		filekit_verify(&t.own[i]);
	fskit_check(&t.k);
	for (unsigned i = 0; i < WRITERS; i++)
		filekit_release(&t.own[i]);
	fskit_release(&t.k);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_on_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

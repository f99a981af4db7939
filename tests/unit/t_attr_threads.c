/*
 * Attributes and copies from several threads: a value is always one that was set, whole; copies in both directions at once
 * neither wait for each other for ever nor mix.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "btree/types.h"
#include "tests/kit/fskit.h"
#include "tests/kit/test.h"

#define ROUNDS 500
#define VALUE 20000u /* several items */
#define FILE_BLOCKS 24u

struct shared {
	struct fskit k;
	uint64_t f[2];
	_Atomic int wrong;
};

struct worker {
	struct shared *s;
	unsigned n;
};

static bool all_equal(const uint8_t *p, size_t n)
{
	return !memcmp(p, p + 1, n - 1);
}

static void *set_values(void *arg)
{
	struct worker *w = arg;
	uint8_t *val = malloc(VALUE);

	for (unsigned i = 0; i < ROUNDS; i++) {
		size_t len = VALUE - i % 7 * 2500;
		int err;

		memset(val, (int)(i * 2 + w->n), VALUE);
		err = i % 10 == 9 ? fs_removexattr(w->s->k.fs, w->s->f[0], "user.x")
				  : fs_setxattr(w->s->k.fs, w->s->f[0], "user.x", val, len, 0, false);
		w->s->wrong |= err && !(err == -ENODATA && i % 10 == 9);
	}
	free(val);
	return NULL;
}

static void *get_values(void *arg)
{
	struct worker *w = arg;
	uint8_t *val = malloc(VALUE);
	char list[64];
	size_t len;

	for (unsigned i = 0; i < 2 * ROUNDS; i++) {
		int err = fs_getxattr(w->s->k.fs, w->s->f[0], "user.x", val, VALUE, &len);

		w->s->wrong |= err ? err != -ENODATA : !all_equal(val, len);
		err = fs_listxattr(w->s->k.fs, w->s->f[0], list, sizeof(list), &len);
		w->s->wrong |= err || (len && len != sizeof("user.x"));
	}
	free(val);
	return NULL;
}

/* Each file is of one byte, throughout, because every change of it is one batch. */
static void *copy_files(void *arg)
{
	struct worker *w = arg;
	struct fs *fs = w->s->k.fs;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t done;
		int err = fs_copy_range(fs, w->s->f[w->n], 0, w->s->f[!w->n], 0, FILE_BLOCKS * BLOCK_SIZE, &done);

		w->s->wrong |= err || done != FILE_BLOCKS * BLOCK_SIZE;
		/* Within the file, from its second half to the first. */
		err = fs_copy_range(fs, w->s->f[0], FILE_BLOCKS / 2 * BLOCK_SIZE, w->s->f[0], 0,
				    FILE_BLOCKS / 2 * BLOCK_SIZE, &done);
		w->s->wrong |= err != 0;
	}
	return NULL;
}

static void *read_files(void *arg)
{
	struct worker *w = arg;
	uint8_t *buf = mem_alloc_blocks(FS_READ_BUFFER(FILE_BLOCKS * BLOCK_SIZE));

	for (unsigned i = 0; i < ROUNDS; i++) {
		const void *data;
		size_t len;
		uint64_t off;
		int err = fs_read(w->s->k.fs, w->s->f[i % 2], 0, FILE_BLOCKS * BLOCK_SIZE, buf, &data, &len);

		w->s->wrong |= err || len != FILE_BLOCKS * BLOCK_SIZE || !all_equal(data, len);
		err = fs_seek(w->s->k.fs, w->s->f[i % 2], 0, SEEK_DATA, &off);
		w->s->wrong |= err || off;
		err = fs_seek(w->s->k.fs, w->s->f[i % 2], 0, SEEK_HOLE, &off);
		w->s->wrong |= err || off != FILE_BLOCKS * BLOCK_SIZE;
	}
	mem_free(buf);
	return NULL;
}

static void run(void *(*change)(void *), void *(*look)(void *))
{
	static uint8_t data[FILE_BLOCKS * BLOCK_SIZE];
	struct shared s = { 0 };
	struct worker w[4];
	pthread_t t[4];

	fskit_init(&s.k, &(struct fskit_options){ .threads = true });
	for (unsigned i = 0; i < 2; i++) {
		char name[2] = { (char)('a' + i), 0 };

		assert_int_equal(fskit_create(&s.k, name), 0);
		s.f[i] = fskit_node(&s.k, name);
		memset(data, 'a' + (int)i, sizeof(data));
		assert_int_equal(fs_write(s.k.fs, s.f[i], data, sizeof(data), 0, 0), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){ &s, i % 2 };
		assert_int_equal(pthread_create(&t[i], NULL, i < 2 ? change : look, &w[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(s.wrong, 0);
	s.k.opt.no_threads = true;
	fskit_remount(&s.k);
	fskit_check(&s.k);
	fskit_release(&s.k);
}

static void values_are_always_whole(void **state)
{
	(void)state;
	run(set_values, get_values);
}

static void copies_in_both_directions(void **state)
{
	(void)state;
	run(copy_files, read_files);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_are_always_whole),
		cmocka_unit_test(copies_in_both_directions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

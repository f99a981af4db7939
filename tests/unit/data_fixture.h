/*
 * data_fixture.h - data on a simulated disk, and a seal to look at; for the tests of wal/data
 */
#ifndef ARBOR_TESTS_UNIT_DATA_FIXTURE_H
#define ARBOR_TESTS_UNIT_DATA_FIXTURE_H

#include <stdlib.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/logkit.h"
#include "tests/kit/test.h"

#define BASE 1000u

struct fixture {
	struct logkit k;
	struct disk_check checks[4096];
	struct data_riding riding[64];
	struct data_seal seal;
};

static inline struct fixture *fixture_new(bool shuffle, size_t memory_max)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	logkit_open(&f->k, simdev_new(&(struct simdev_options){ .shuffle = shuffle }), 64, 0, memory_max);
	f->seal.checks = f->checks;
	f->seal.riding = f->riding;
	return f;
}

static inline int setup(void **state)
{
	*state = fixture_new(false, 0);
	return 0;
}

static inline int setup_shuffled(void **state)
{
	*state = fixture_new(true, 0);
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	logkit_close(&f->k);
	simdev_free(f->k.sd);
	free(f);
	return 0;
}

static inline uint64_t writes(struct fixture *f)
{
	return simdev_count(f->k.sd, SIMDEV_WRITE);
}

static inline bool on_disk(struct fixture *f, uint64_t addr)
{
	uint8_t block[BLOCK_SIZE];

	simdev_peek(f->k.sd, addr, block, 1);
	return logkit_filled(addr, block);
}

static inline void seal(struct fixture *f, size_t ride_max)
{
	assert_true(data_unlisted_blocks(f->k.data) <= ARRAY_LEN(f->checks));
	f->seal.tag++;
	data_seal(f->k.data, ride_max, &f->seal);
	for (size_t i = 0; i < f->seal.n_riding; i++)
		assert_true(logkit_filled(f->riding[i].addr, f->riding[i].block));
}

static inline void seal_done(struct fixture *f)
{
	assert_int_equal(data_seal_wait(f->k.data, &f->seal), 0);
	for (size_t i = 0; i < f->seal.n_checks; i++)
		assert_true(on_disk(f, le64_get(f->checks[i].addr)));
	data_seal_done(f->k.data, &f->seal);
}

static inline bool listed(const struct fixture *f, uint64_t addr)
{
	uint8_t block[BLOCK_SIZE];

	for (size_t i = 0; i < f->seal.n_checks; i++) {
		if (le64_get(f->checks[i].addr) != addr)
			continue;
		logkit_fill(addr, block);
		assert_int_equal(le32_get(f->checks[i].sum), data_checksum(block));
		return true;
	}
	return false;
}

static inline bool readable(struct fixture *f, uint64_t addr, uint32_t blocks)
{
	uint8_t *buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);
	bool ok = true;

	assert_non_null(buf);
	assert_int_equal(data_read(f->k.data, addr, blocks, buf), 0);
	for (uint32_t i = 0; i < blocks; i++)
		ok = ok && logkit_filled(addr + i, buf + (size_t)i * BLOCK_SIZE);
	mem_free(buf);
	return ok;
}

static inline void attach(struct fixture *f, uint64_t addr, uint32_t blocks)
{
	data_attach(f->k.data, logkit_put(&f->k, addr, blocks));
}

#endif

#include <pthread.h>

#include "tests/kit/rng.h"
#include "tests/unit/data_fixture.h"

enum { N_ADDR = 600 };

/* Random operations on a few addresses, each used once more after it was dropped and is out of the way. */
static void everything_agrees_with_a_model(void **state)
{
	struct rng rng;
	uint64_t seed = rng_seed_env(&rng, 1);

	(void)state;
	for (unsigned round = 0; round < 300; round++) {
		struct fixture *f = fixture_new(rng_chance(&rng, 1, 2), rng_chance(&rng, 1, 3) ? 40 * BLOCK_SIZE : 0);
		struct data_run *held[64] = { 0 };
		uint32_t held_at[64] = { 0 };
		bool live[N_ADDR] = { 0 }, attached[N_ADDR] = { 0 }, safe[N_ADDR] = { 0 };
		void *p = f;

		for (unsigned step = 0; step < 200; step++) {
			uint32_t addr = (uint32_t)rng_below(&rng, N_ADDR), blocks = 1,
				 h = (uint32_t)rng_below(&rng, 64);

			switch (rng_below(&rng, 8)) {
			case 0:
			case 1:
				blocks = (uint32_t)rng_range(&rng, 1, rng_chance(&rng, 1, 4) ? 40 : 6);
				if (held[h] || addr + blocks > N_ADDR)
					break;
				for (uint32_t i = 0; i < blocks; i++)
					blocks = live[addr + i] ? 0 : blocks;
				if (!blocks)
					break;
				held[h] = logkit_put(&f->k, BASE + addr, blocks);
				held_at[h] = addr;
				for (uint32_t i = 0; i < blocks; i++)
					live[addr + i] = true, attached[addr + i] = safe[addr + i] = false;
				break;
			case 2:
			case 3:
				if (!held[h])
					break;
				for (uint32_t i = 0; i < data_run_blocks(held[h]); i++)
					attached[held_at[h] + i] = true;
				data_attach(f->k.data, held[h]);
				held[h] = NULL;
				break;
			case 4:
				/* Not the last block of one held: its handle would go with it. */
				blocks = (uint32_t)rng_range(&rng, 1, 30);
				if (addr + blocks > N_ADDR)
					break;
				for (uint32_t i = 0; i < blocks; i++)
					if (live[addr + i] && !attached[addr + i])
						blocks = i;
				data_drop(f->k.data, BASE + addr, blocks);
				for (uint32_t i = 0; i < blocks; i++)
					live[addr + i] = false;
				break;
			case 5:
				seal(f, rng_below(&rng, 40));
				/* What is attached and alive, and was not safe before, is in there. */
				for (uint32_t i = 0; i < N_ADDR; i++) {
					bool found = listed(f, BASE + i);

					for (size_t k = 0; k < f->seal.n_riding; k++)
						found = found || f->riding[k].addr == BASE + i;
					if (live[i] && attached[i] && !safe[i] && !found)
						fail_msg("block %u is in no seal, seed %lu", i, (unsigned long)seed);
					if (found && !(live[i] && attached[i]))
						fail_msg("block %u needs no seal, seed %lu", i, (unsigned long)seed);
					safe[i] = safe[i] || found;
				}
				seal_done(f);
				break;
			case 6:
				if (rng_chance(&rng, 1, 2))
					data_write_home(f->k.data, 1 + (unsigned)rng_below(&rng, 3));
				if (rng_chance(&rng, 1, 2))
					assert_int_equal(data_wait(f->k.data), 0);
				if (rng_chance(&rng, 1, 2)) {
					assert_int_equal(data_flush(f->k.data), 0);
					data_write_home(f->k.data, DATA_ATTACHED | DATA_PRIVATE);
					assert_int_equal(data_wait(f->k.data), 0);
					assert_int_equal(data_flush(f->k.data), 0);
					for (uint32_t i = 0; i < N_ADDR; i++) {
						assert_true(!live[i] || on_disk(f, BASE + i));
						safe[i] = safe[i] || live[i];
					}
				}
				break;
			default:
				blocks = (uint32_t)rng_range(&rng, 1, N_ADDR - addr);
				for (uint32_t i = 0; i < blocks; i++)
					blocks = live[addr + i] ? blocks : i;
				if (blocks)
					assert_true(readable(f, BASE + addr, blocks));
			}
		}
		teardown(&p);
	}
}

struct worker {
	struct fixture *f;
	unsigned id;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct fixture *f = w->f;
	uint64_t base = 2000 + w->id * 4000;
	struct rng rng;

	rng_seed(&rng, w->id);
	for (unsigned i = 0; i < 150; i++) {
		uint64_t addr = base + i * 25;
		uint32_t blocks = (uint32_t)rng_range(&rng, 1, 25);
		struct data_run *r = logkit_put(&f->k, addr, blocks);

		if (rng_chance(&rng, 3, 4))
			data_attach(f->k.data, r);
		else
			data_disown(f->k.data, r);
		assert_true(readable(f, addr, blocks));
		if (rng_chance(&rng, 1, 3))
			data_drop(f->k.data, addr, blocks / 2);
		if (rng_chance(&rng, 1, 8))
			data_write_home(f->k.data, DATA_ATTACHED);
		if (rng_chance(&rng, 1, 8))
			assert_int_equal(data_wait(f->k.data), 0);
		if (rng_chance(&rng, 1, 8))
			assert_int_equal(data_flush(f->k.data), 0);
		assert_true(readable(f, addr + blocks / 2, blocks - blocks / 2));
	}
	return NULL;
}

static void *work_sealing(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < 100; i++) {
		seal(f, i % 2 * 30);
		assert_int_equal(data_seal_wait(f->k.data, &f->seal), 0);
		assert_int_equal(data_flush(f->k.data), 0);
		data_seal_done(f->k.data, &f->seal);
	}
	return NULL;
}

static void many_threads_share_it(void **state)
{
	struct fixture *f = fixture_new(true, 200 * BLOCK_SIZE);
	struct worker w[4];
	pthread_t t[5];
	struct data_stats st;
	void *p = f;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){ f, i };
		assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
	}
	assert_int_equal(pthread_create(&t[4], NULL, work_sealing, f), 0);
	for (unsigned i = 0; i < 5; i++)
		pthread_join(t[i], NULL);
	data_write_home(f->k.data, DATA_ATTACHED | DATA_PRIVATE);
	assert_int_equal(data_wait(f->k.data), 0);
	assert_int_equal(data_flush(f->k.data), 0);
	data_stats(f->k.data, &st);
	assert_int_equal(st.dirty_blocks + st.inflight_blocks + st.unflushed_blocks + st.memory, 0);
	teardown(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_agrees_with_a_model),
		cmocka_unit_test(many_threads_share_it),
	};

	logkit_quiet();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

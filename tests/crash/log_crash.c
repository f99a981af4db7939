/*
 * log_crash.c - the log and its data, crashed at every write
 *
 * A script of operations runs once on a simulated disk. Then, for every point in its trace, the disks that a crash
 * there could leave behind are made, and each is scanned from the two newest checkpoint positions. What comes out
 * must be a prefix of the records, no shorter than the last successful sync, and every block that is live after that
 * prefix must be there: in a segment, if it rode in one that the scan found, else at home.
 *
 * First all scripts of a few steps, with all crash states; then long ones by chance, with samples.
 * ARBOR_STEPS and ARBOR_ROUNDS make either longer.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/logkit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define N 64u
#define BASE 1000u
#define ADDRS 8192u
#define LSNS 1024u
#define MARKS 1024u

struct mark {
	uint64_t op; /* of the disk: from here on it holds */
	uint64_t lsn;
	struct log_pos pos;
};

struct run {
	struct logkit k;
	struct rng rng;
	char name[200];

	/* By address from BASE: the lsn of the record that made the block reachable, and of the one that dropped it. */
	uint64_t born[ADDRS], gone[ADDRS];
	uint32_t next_addr;
	struct logkit_op ops[LSNS];
	uint64_t lsn; /* of the last record */

	struct mark synced[MARKS], ckpts[MARKS];
	unsigned n_synced, n_ckpts;
};

static struct run *run_new(uint64_t seed, bool shuffle)
{
	struct run *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	rng_seed(&r->rng, seed);
	logkit_open(&r->k, simdev_new(&(struct simdev_options){ .seed = seed, .shuffle = shuffle }), N, 0,
		    64 * BLOCK_SIZE);
	r->ckpts[r->n_ckpts++] = (struct mark){ .pos = LOGKIT_POS };
	return r;
}

static void run_free(struct run *r)
{
	logkit_close(&r->k);
	simdev_free(r->k.sd);
	free(r);
}

/* --- steps --- */

static void note_durable(struct run *r)
{
	struct log_status st;

	log_status(r->k.log, &st);
	assert_true(r->n_synced < MARKS);
	r->synced[r->n_synced++] = (struct mark){ .op = simdev_ops(r->k.sd), .lsn = st.lsn_durable - 1 };
}

static void do_sync(struct run *r)
{
	assert_int_equal(log_sync(r->k.log, r->lsn), 0);
	note_durable(r);
	assert_int_equal(r->synced[r->n_synced - 1].lsn, r->lsn);
}

static void do_tick(struct run *r)
{
	assert_int_equal(log_tick(r->k.log), 0);
	note_durable(r);
}

static void do_checkpoint(struct run *r)
{
	struct log_pos pos = log_boundary(r->k.log);

	data_write_home(r->k.data, DATA_ATTACHED);
	assert_int_equal(data_wait(r->k.data), 0);
	assert_int_equal(data_flush(r->k.data), 0);
	assert_int_equal(log_sync(r->k.log, pos.lsn - 1), 0);
	note_durable(r);
	assert_true(r->n_ckpts < MARKS);
	r->ckpts[r->n_ckpts++] = (struct mark){ .op = simdev_ops(r->k.sd), .pos = pos };
	log_trim(r->k.log, r->ckpts[r->n_ckpts - 2].pos);
}

static void do_append(struct run *r, const struct logkit_op *op)
{
	uint64_t lsn = 0;
	int err;

	while ((err = logkit_apply(&r->k, op, &lsn)) == -EAGAIN)
		do_checkpoint(r);
	assert_int_equal(err, 0);
	assert_int_equal(lsn, ++r->lsn);
	assert_true(lsn < LSNS);
	r->ops[lsn] = *op;
	for (unsigned i = 0; i < op->n; i++) {
		const struct logkit_part *p = &op->parts[i];

		for (uint32_t b = 0; b < p->blocks; b++) {
			if (p->drop)
				r->gone[p->addr - BASE + b] = lsn;
			else
				r->born[p->addr - BASE + b] = lsn;
		}
	}
}

static void add_put(struct run *r, struct logkit_op *op, uint32_t blocks)
{
	assert_true(r->next_addr + blocks + 1 < ADDRS);
	op->parts[op->n++] = (struct logkit_part){ .addr = BASE + r->next_addr, .blocks = blocks };
	/* Now beside the last one, now not. */
	r->next_addr += blocks + (r->lsn % 3 == 0);
}

/* Drops up to `blocks` of what is alive, from a place by chance on. */
static void add_drop(struct run *r, struct logkit_op *op, uint32_t blocks)
{
	uint32_t from = r->next_addr ? (uint32_t)rng_below(&r->rng, r->next_addr) : 0, n = 0;

	/* Mostly something new. */
	if (rng_chance(&r->rng, 2, 3) && r->next_addr > 20)
		from = r->next_addr - 1 - (uint32_t)rng_below(&r->rng, 20);
	while (from < r->next_addr && !(r->born[from] && !r->gone[from]))
		from++;
	while (n < blocks && from + n < r->next_addr && r->born[from + n] && !r->gone[from + n])
		n++;
	if (n)
		op->parts[op->n++] = (struct logkit_part){ .addr = BASE + from, .blocks = n, .drop = true };
}

static void step_plain(struct run *r)
{
	do_append(r, &(struct logkit_op){ .bytes = 100 });
}

static void step_small(struct run *r)
{
	struct logkit_op op = { .n = 0 };

	add_put(r, &op, 2);
	do_append(r, &op);
}

static void step_many_small(struct run *r)
{
	struct logkit_op op = { .n = 0 };

	for (unsigned i = 0; i < 3; i++)
		add_put(r, &op, 4);
	do_append(r, &op);
}

static void step_supersede(struct run *r)
{
	struct logkit_op op = { .n = 0 };

	/* The newest blocks go, one comes. */
	for (uint32_t from = r->next_addr; from-- > 0 && op.n == 0;)
		if (r->born[from] && !r->gone[from])
			op.parts[op.n++] = (struct logkit_part){ .addr = BASE + from, .blocks = 1, .drop = true };
	add_put(r, &op, 1);
	do_append(r, &op);
}

static void step_large(struct run *r)
{
	struct logkit_op op = { .n = 0 };

	add_put(r, &op, 18);
	do_append(r, &op);
}

static const struct step {
	const char *name;
	void (*func)(struct run *);
} steps[] = {
	{ "plain", step_plain },
	{ "small", step_small },
	{ "many-small", step_many_small },
	{ "supersede", step_supersede },
	{ "large", step_large },
	{ "sync", do_sync },
	{ "tick", do_tick },
	{ "checkpoint", do_checkpoint },
};

static void step_by_chance(struct run *r)
{
	struct logkit_op op = { .n = 0 };
	struct data_run *private;

	switch (rng_below(&r->rng, 16)) {
	case 0:
	case 1:
	case 2:
		do_sync(r);
		return;
	case 3:
		do_tick(r);
		return;
	case 4:
		do_checkpoint(r);
		return;
	case 5:
		data_write_home(r->k.data, DATA_ATTACHED);
		return;
	case 6:
		assert_int_equal(rng_chance(&r->rng, 1, 2) ? data_wait(r->k.data) : data_flush(r->k.data), 0);
		return;
	case 7:
		private
		= logkit_put(&r->k, BASE + r->next_addr, 3);
		data_drop(r->k.data, BASE + r->next_addr, data_run_blocks(private));
		r->next_addr += 3;
		return;
	case 8:
		log_boundary(r->k.log);
		return;
	}
	for (uint64_t n = rng_below(&r->rng, 4); n; n--) {
		if (rng_chance(&r->rng, 1, 3))
			add_drop(r, &op, (uint32_t)rng_range(&r->rng, 1, 8));
		else if (rng_chance(&r->rng, 1, 6))
			add_put(r, &op, (uint32_t)rng_range(&r->rng, 17, 40));
		else
			add_put(r, &op, (uint32_t)rng_range(&r->rng, 1, 4));
	}
	/* A put and a drop of the same step may not meet: drops see only what was there before. */
	op.bytes = (size_t)rng_range(&r->rng, 1, rng_chance(&r->rng, 1, 8) ? log_record_max(r->k.log) : 3000);
	do_append(r, &op);
}

/* --- verification --- */

struct look {
	const struct run *r;
	uint64_t next;
	bool rode[ADDRS];
	char why[200];
};

static int look_record(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len)
{
	struct look *l = arg;
	struct logkit_op op;

	(void)segment;
	logkit_parse(lsn, rec, len, &op);
	if (lsn != l->next++ || lsn > l->r->lsn || op.n != l->r->ops[lsn].n ||
	    memcmp(op.parts, l->r->ops[lsn].parts, op.n * sizeof(op.parts[0])) != 0) {
		snprintf(l->why, sizeof(l->why), "record %" PRIu64 " is another", lsn);
		return -ECANCELED;
	}
	return 0;
}

static int look_riding(void *arg, uint64_t addr, const void *block)
{
	struct look *l = arg;

	if (!logkit_filled(addr, block)) {
		snprintf(l->why, sizeof(l->why), "riding block %" PRIu64 " is another", addr);
		return -ECANCELED;
	}
	l->rode[addr - BASE] = true;
	return 0;
}

/* Scans one crash state from one position. */
static void look(struct look *l, struct simdev *after, struct log_pos pos, uint64_t lsn_min)
{
	struct log_scan_result res;
	struct log_scan *scan = NULL;
	uint8_t block[BLOCK_SIZE];
	int err;

	l->next = pos.lsn;
	memset(l->rode, 0, sizeof(l->rode));
	err = logkit_scan(after, N, pos, &scan);
	if (err) {
		snprintf(l->why, sizeof(l->why), "scan says %d", err);
		return;
	}
	log_scan_result(scan, &res);
	err = log_scan_each(scan, look_record, look_riding, l);
	if (!err && res.end.lsn != l->next)
		snprintf(l->why, sizeof(l->why), "end at %" PRIu64 " after %" PRIu64, res.end.lsn, l->next);
	if (!err && res.end.lsn <= lsn_min)
		snprintf(l->why, sizeof(l->why), "end at %" PRIu64 ", synced to %" PRIu64, res.end.lsn, lsn_min);
	for (uint32_t i = 0; i < l->r->next_addr && !*l->why; i++) {
		uint64_t last = res.end.lsn - 1;

		if (l->rode[i] || !l->r->born[i] || l->r->born[i] > last || (l->r->gone[i] && l->r->gone[i] <= last))
			continue;
		simdev_peek(after, BASE + i, block, 1);
		if (!logkit_filled(BASE + i, block))
			snprintf(l->why, sizeof(l->why), "block %u of record %" PRIu64 " is lost, end %" PRIu64,
				 BASE + i, l->r->born[i], res.end.lsn);
	}
	log_scan_close(scan);
}

/* All that can be after a crash at any point; the number of states looked at. */
static uint64_t crash_everywhere(struct run *r, uint64_t limit)
{
	static struct look l;
	uint64_t states = 0;

	for (uint64_t n = 0; n <= simdev_ops(r->k.sd); n++) {
		struct simdev_crash c;
		struct simdev *after;
		uint64_t lsn_min = 0;
		unsigned newest = 0;

		for (unsigned i = 0; i < r->n_synced && r->synced[i].op <= n; i++)
			lsn_min = r->synced[i].lsn;
		for (unsigned i = 0; i < r->n_ckpts && r->ckpts[i].op <= n; i++)
			newest = i;
		simdev_crash_begin(&c, r->k.sd, n, limit, n);
		while ((after = simdev_crash_next(&c))) {
			l.r = r;
			l.why[0] = '\0';
			look(&l, after, r->ckpts[newest].pos, lsn_min);
			if (newest && !*l.why)
				look(&l, after, r->ckpts[newest - 1].pos, lsn_min);
			if (*l.why) {
				simdev_crash_print(&c);
				fail_msg("%s: crash before operation %" PRIu64 ": %s", r->name, n, l.why);
			}
			bdev_close(simdev_bdev(after));
			simdev_free(after);
			states++;
		}
		simdev_crash_end(&c);
	}
	return states;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 10) : otherwise;
}

static void every_short_script_survives_every_crash(void **state)
{
	uint64_t len = number("ARBOR_STEPS", 3), all = 1, states = 0;

	(void)state;
	for (uint64_t i = 0; i < len; i++)
		all *= ARRAY_LEN(steps);
	for (uint64_t script = 0; script < all; script++) {
		struct run *r = run_new(script, script % 2);
		uint64_t rest = script;

		for (uint64_t i = 0; i < len; i++, rest /= ARRAY_LEN(steps)) {
			const struct step *s = &steps[rest % ARRAY_LEN(steps)];

			snprintf(r->name + strlen(r->name), sizeof(r->name) - strlen(r->name), "%s ", s->name);
			s->func(r);
		}
		do_sync(r);
		states += crash_everywhere(r, 729);
		run_free(r);
	}
	print_message("# %" PRIu64 " scripts, %" PRIu64 " crash states\n", all, states);
}

static void long_scripts_survive_sampled_crashes(void **state)
{
	uint64_t rounds = number("ARBOR_ROUNDS", 40), states = 0;
	struct rng rng;
	uint64_t seed = rng_seed_env(&rng, 5);

	(void)state;
	for (uint64_t round = 0; round < rounds; round++) {
		struct run *r = run_new(rng_mix(seed, round), round % 2);

		snprintf(r->name, sizeof(r->name), "seed %" PRIu64 " round %" PRIu64, seed, round);
		for (unsigned i = 0; i < 60; i++)
			step_by_chance(r);
		states += crash_everywhere(r, 30);
		run_free(r);
	}
	print_message("# %" PRIu64 " scripts, %" PRIu64 " crash states\n", rounds, states);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_short_script_survives_every_crash),
		cmocka_unit_test(long_scripts_survive_sampled_crashes),
	};

	logkit_quiet();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

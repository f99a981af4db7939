#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/logkit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define N 64u
#define N_MAX 1024u
#define BASE 1000u

static void kit_open(struct logkit *k)
{
	logkit_open(k, simdev_new(NULL), N, 0, 0);
}

static void kit_close(struct logkit *k)
{
	logkit_close(k);
	simdev_free(k->sd);
}

static uint64_t sync_one(struct logkit *k, size_t bytes)
{
	uint64_t lsn = logkit_append(k, bytes);

	assert_int_equal(log_sync(k->log, lsn), 0);
	return lsn;
}

static int take(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len)
{
	uint64_t *next = arg;
	struct logkit_op op;

	assert_int_equal(lsn, (*next)++);
	assert_true(segment->lsn <= lsn && segment->block < N_MAX);
	logkit_parse(lsn, rec, len, &op);
	return 0;
}

/* --- one segment in memory --- */

static uint8_t *read_region(struct logkit *k)
{
	uint8_t *region = mem_alloc_blocks(N * BLOCK_SIZE);

	assert_non_null(region);
	simdev_peek(k->sd, LOGKIT_START, region, N);
	return region;
}

static void resum(uint8_t *seg)
{
	struct disk_segment h;

	memcpy(&h, seg, sizeof(h));
	h.sum = le64_put(XXH3_64bits_withSeed(seg + 8, (size_t)le32_get(h.blocks) * BLOCK_SIZE - 8, LOGKIT_EPOCH));
	memcpy(seg, &h.sum, 8);
}

/* A segment with two records, of 100 and 13 bytes, 30 listed blocks and one that rides. */
static uint8_t *sample(size_t *ret_len)
{
	struct logkit k;
	struct logkit_op op = { .parts = { { BASE, 30, false }, { BASE + 50, 1, false } }, .n = 2, .bytes = 100 };
	struct log_room room;
	uint64_t lsn;
	uint8_t *region;

	kit_open(&k);
	assert_int_equal(logkit_apply(&k, &op, &lsn), 0);
	assert_int_equal(log_admit(k.log, 13, 0, &room), 0);
	lsn = log_append(k.log, &room, "thirteenbytes", 13, NULL, 0);
	assert_int_equal(log_sync(k.log, lsn), 0);
	region = read_region(&k);
	kit_close(&k);
	*ret_len = 2 * BLOCK_SIZE;
	assert_int_equal(log_segment_check(region, *ret_len, LOGKIT_EPOCH, 0), 0);
	return region;
}

static void every_bit_of_a_segment_counts(void **state)
{
	size_t len;
	uint8_t *seg = sample(&len);

	(void)state;
	for (size_t bit = 0; bit < len * 8; bit += bit < 2048 ? 1 : 61) {
		seg[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(log_segment_check(seg, len, LOGKIT_EPOCH, 0), -EBADMSG);
		seg[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(log_segment_check(seg, len, LOGKIT_EPOCH + 1, 0), -EBADMSG);
	assert_int_equal(log_segment_check(seg, len, LOGKIT_EPOCH, 1), -EBADMSG);
	assert_int_equal(log_segment_check(seg, len - 1, LOGKIT_EPOCH, 0), -EBADMSG);
	assert_int_equal(log_segment_check(seg, 0, LOGKIT_EPOCH, 0), -EBADMSG);
	assert_int_equal(log_segment_check(seg, len + 100, LOGKIT_EPOCH, 0), 0);
	mem_free(seg);
}

/* Fields that cannot be although the checksum says they were written so. `record`: offset in the first frame. */
struct lie {
	const char *name;
	size_t offset;
	unsigned width;
	uint64_t value;
};

#define FRAMES sizeof(struct disk_segment)
#define FIELD(f) offsetof(struct disk_segment, f)

static const struct lie lies[] = {
	{ "one_record_too_many_is_malformed", FIELD(records), 4, 3 },
	{ "one_record_too_few_is_malformed", FIELD(records), 4, 1 },
	{ "no_records_but_bytes_is_malformed", FIELD(records), 4, 0 },
	{ "more_record_bytes_is_malformed", FIELD(record_bytes), 4, 144 },
	{ "record_bytes_beyond_the_segment_are_malformed", FIELD(record_bytes), 4, UINT32_MAX },
	{ "more_checks_than_fit_is_malformed", FIELD(checks), 4, UINT32_MAX },
	{ "more_riding_than_fits_is_malformed", FIELD(riding), 4, 2 },
	{ "a_huge_number_of_riding_blocks_is_malformed", FIELD(riding), 4, UINT32_MAX },
	{ "no_riding_table_but_a_block_is_malformed", FIELD(riding), 4, 0 },
	{ "a_durable_lsn_beyond_its_own_is_malformed", FIELD(durable_lsn), 8, 2 },
	{ "an_lsn_that_overflows_is_malformed", FIELD(lsn), 8, UINT64_MAX },
	{ "the_last_sequence_of_all_is_malformed", FIELD(seq), 8, UINT64_MAX },
	{ "a_byte_in_the_header_s_reserve_is_malformed", FIELD(zero) + 23, 1, 1 },
	{ "a_record_of_no_length_is_malformed", FRAMES, 4, 0 },
	{ "a_record_longer_than_the_rest_is_malformed", FRAMES, 4, 200 },
	{ "a_record_as_long_as_can_be_is_malformed", FRAMES, 4, UINT32_MAX },
	{ "a_frame_with_more_in_it_is_malformed", FRAMES + 4, 1, 1 },
	{ "padding_that_is_not_zero_is_malformed", FRAMES + 8 + 104 + 8 + 13, 1, 1 },
	{ "a_listed_address_of_zero_is_malformed", FRAMES + 8 + 104 + 8 + 16, 8, 0 },
	{ "a_riding_address_of_zero_is_malformed", FRAMES + 8 + 104 + 8 + 16 + 30 * 12, 8, 0 },
	{ "a_byte_behind_the_tables_is_malformed", FRAMES + 8 + 104 + 8 + 16 + 30 * 12 + 8, 1, 1 },
};

static void is_malformed(void **state)
{
	const struct lie *row = *state;
	size_t len;
	uint8_t *seg = sample(&len);
	le64 v = le64_put(row->value);

	memcpy(seg + row->offset, v.b, row->width);
	resum(seg);
	assert_int_equal(log_segment_check(seg, len, LOGKIT_EPOCH, 0), -EUCLEAN);
	mem_free(seg);
}

/* --- the end, and damage --- */

/*
 * Five segments, each one block with one record, the last of them not known durable; then something happens to the
 * disk. What the scan must say: how many records there are, or -1 for damage.
 */
struct event {
	const char *name;
	int flip[2]; /* blocks of the region in which a bit flips; -1: none */
	int fault;   /* block that cannot be read; -1: none */
	int records;
	int ignored; /* records when damage is to be ignored */
};

#define NONE                                                                                                           \
	{                                                                                                              \
		-1, -1                                                                                                 \
	}

static const struct event events[] = {
	{ "an_unharmed_log_is_read_whole", NONE, -1, 5, 5 },
	{ "a_torn_last_segment_is_the_end", { 4, -1 }, -1, 4, 4 },
	{ "a_rotten_first_segment_is_damage", { 0, -1 }, -1, -1, 0 },
	{ "a_rotten_segment_amid_others_is_damage", { 2, -1 }, -1, -1, 2 },
	{ "a_rotten_segment_before_the_last_is_damage", { 3, -1 }, -1, -1, 3 },
	{ "a_rotten_segment_before_a_torn_one_is_damage", { 3, 4 }, -1, -1, 3 },
	{ "garbage_behind_the_end_is_nothing", { 9, 40 }, -1, 5, 5 },
	{ "an_unreadable_segment_is_damage", NONE, 1, -1, 1 },
	{ "an_unreadable_last_segment_is_damage", NONE, 4, -1, 4 },
	{ "an_unreadable_block_behind_the_end_is_damage", NONE, 5, -1, 5 },
	{ "an_unreadable_block_far_behind_the_end_is_damage", NONE, 63, -1, 5 },
};

static void the_end_is_told_from_damage(void **state)
{
	const struct event *row = *state;
	struct log_scan_options opt = { .start = LOGKIT_START, .blocks = N, .epoch = LOGKIT_EPOCH, .pos = LOGKIT_POS };
	struct log_scan_result res;
	struct log_scan *scan = NULL;
	unsigned messages = logkit_messages();
	uint64_t next = 1;
	struct logkit k;
	int err;

	kit_open(&k);
	for (unsigned i = 0; i < 5; i++)
		sync_one(&k, 100);
	for (unsigned i = 0; i < 2; i++)
		if (row->flip[i] >= 0)
			simdev_flip(k.sd, LOGKIT_START + (unsigned)row->flip[i], 32000);
	if (row->fault >= 0)
		simdev_add_fault(k.sd, &(struct simdev_fault){ .op = SIMDEV_READ,
							       .blocks = 1,
							       .addr = LOGKIT_START + (unsigned)row->fault });
	opt.bdev = k.dev;
	err = log_scan_open(&opt, &scan);
	if (row->records < 0) {
		assert_int_equal(err, -EUCLEAN);
		assert_null(scan);
		assert_int_equal(logkit_messages(), messages + 1);
	} else {
		assert_int_equal(err, 0);
		log_scan_result(scan, &res);
		assert_int_equal(res.records, row->records);
		assert_int_equal(res.segments, row->records);
		assert_int_equal(res.blocks, row->records);
		assert_int_equal(res.end.lsn, row->records + 1);
		assert_int_equal(res.end.seq, row->records + 1);
		assert_int_equal(res.end.block, row->records);
		assert_false(res.damaged);
		log_scan_close(scan);
		assert_int_equal(logkit_messages(), messages);
	}
	opt.ignore_damage = true;
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, row->ignored);
	assert_int_equal(res.damaged, row->records < 0);
	assert_int_equal(log_scan_each(scan, take, NULL, &next), 0);
	assert_int_equal(next, row->ignored + 1);
	log_scan_close(scan);
	kit_close(&k);
}

static void the_mark_of_the_timer_protects_the_last_record(void **state)
{
	struct log_scan *scan = NULL;
	struct logkit k;

	(void)state;
	kit_open(&k);
	sync_one(&k, 100);
	assert_int_equal(log_tick(k.log), 0);
	simdev_flip(k.sd, LOGKIT_START, 9);
	assert_int_equal(logkit_scan(k.sd, N, LOGKIT_POS, &scan), -EUCLEAN);
	kit_close(&k);
}

static void listed_data_decides_about_the_last_segment(void **state)
{
	struct logkit_op op = { .parts = { { BASE, 20, false }, { BASE + 100, 17, false } }, .n = 2 };
	struct log_scan_options opt = { .start = LOGKIT_START, .blocks = N, .epoch = LOGKIT_EPOCH, .pos = LOGKIT_POS };
	struct log_scan_result res;
	struct log_scan *scan;
	struct logkit k;
	uint64_t lsn;

	(void)state;
	kit_open(&k);
	opt.bdev = k.dev;
	sync_one(&k, 10);
	assert_int_equal(logkit_apply(&k, &op, &lsn), 0);
	assert_int_equal(log_sync(k.log, lsn), 0);
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, 2);
	log_scan_close(scan);

	simdev_flip(k.sd, BASE + 116, 5);
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, 1);
	assert_int_equal(res.end.block, 1);
	assert_int_equal(res.end.lsn, 2);
	log_scan_close(scan);

	/* What cannot be read may be right: that is for a human to decide. */
	simdev_add_fault(k.sd, &(struct simdev_fault){ .op = SIMDEV_READ, .addr = BASE + 7, .blocks = 1 });
	assert_int_equal(log_scan_open(&opt, &scan), -EUCLEAN);
	opt.ignore_damage = true;
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, 1);
	assert_true(res.damaged);
	log_scan_close(scan);
	opt.ignore_damage = false;

	/* Once a later segment says that it was durable, its list is not asked any more. */
	sync_one(&k, 10);
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, 3);
	log_scan_close(scan);
	simdev_clear_faults(k.sd);
	kit_close(&k);
}

static void a_long_list_is_verified_wholly(void **state)
{
	struct log_scan *scan;
	struct log_scan_result res;
	struct logkit k;
	uint64_t lsn = 0;

	(void)state;
	kit_open(&k);
	/* Neighbours, single blocks, all in no order. */
	for (unsigned i = 0; i < 150; i++) {
		uint32_t blocks = i % 10 == 0 ? 40 : 1 + i % 3;
		struct logkit_op op = { .parts = { { BASE + (i * 67 % 150) * 50, blocks, false } }, .n = 1 };

		assert_int_equal(logkit_apply(&k, &op, &lsn), 0);
	}
	assert_int_equal(log_sync(k.log, lsn), 0);
	for (unsigned i = 0; i < 150; i++) {
		uint32_t last = i % 10 == 0 ? 39 : i % 3;
		uint64_t addr = BASE + (i * 67 % 150) * 50 + last;

		assert_int_equal(logkit_scan(k.sd, N, LOGKIT_POS, &scan), 0);
		log_scan_result(scan, &res);
		assert_int_equal(res.records, 150);
		log_scan_close(scan);
		simdev_flip(k.sd, addr, 77);
		assert_int_equal(logkit_scan(k.sd, N, LOGKIT_POS, &scan), 0);
		log_scan_result(scan, &res);
		assert_int_equal(res.records, 0);
		log_scan_close(scan);
		simdev_flip(k.sd, addr, 77);
	}
	kit_close(&k);
}

struct riding {
	uint64_t addr[64];
	unsigned n;
};

static int take_riding(void *arg, uint64_t addr, const void *block)
{
	struct riding *r = arg;

	assert_true(logkit_filled(addr, block));
	r->addr[r->n++] = addr;
	return 0;
}

static int stop_at_three(void *arg, uint64_t lsn, const struct log_pos *segment, const void *rec, size_t len)
{
	(void)arg;
	(void)segment;
	(void)rec;
	(void)len;
	return lsn == 3 ? -ECANCELED : 0;
}

static void riding_blocks_come_with_their_addresses(void **state)
{
	struct logkit_op op = { .parts = { { BASE, 3, false }, { BASE + 1, 1, true }, { BASE + 9, 1, false } },
				.n = 3 };
	struct riding r = { .n = 0 };
	struct log_scan *scan;
	struct logkit k;
	uint64_t lsn;

	(void)state;
	kit_open(&k);
	sync_one(&k, 10);
	assert_int_equal(logkit_apply(&k, &op, &lsn), 0);
	assert_int_equal(log_sync(k.log, lsn), 0);
	sync_one(&k, 10);
	assert_int_equal(logkit_scan(k.sd, N, LOGKIT_POS, &scan), 0);
	for (unsigned pass = 0; pass < 2; pass++) {
		r.n = 0;
		assert_int_equal(log_scan_each(scan, NULL, take_riding, &r), 0);
		assert_int_equal(r.n, 3);
		assert_int_equal(r.addr[0], BASE);
		assert_int_equal(r.addr[1], BASE + 2);
		assert_int_equal(r.addr[2], BASE + 9);
		assert_int_equal(log_scan_each(scan, stop_at_three, NULL, NULL), -ECANCELED);
	}
	log_scan_close(scan);
	kit_close(&k);
}

static void a_segment_that_changes_after_the_scan_is_damage(void **state)
{
	struct log_scan *scan;
	struct logkit k;
	uint64_t next = 1;

	(void)state;
	/* So long that the scan no longer has the first segments in memory. */
	logkit_open(&k, simdev_new(NULL), 1024, 0, 0);
	for (unsigned i = 0; i < 30; i++)
		sync_one(&k, 20 * BLOCK_SIZE);
	assert_int_equal(logkit_scan(k.sd, 1024, LOGKIT_POS, &scan), 0);
	simdev_flip(k.sd, LOGKIT_START + 40, 8 * 200);
	assert_int_equal(log_scan_each(scan, take, NULL, &next), -EUCLEAN);
	assert_int_equal(next, 2);
	log_scan_close(scan);
	kit_close(&k);
}

/* Rounds of any sizes, so that the ring wraps at every offset; the scan from the older position finds it all. */
static void the_ring_is_followed_around_its_end(void **state)
{
	struct log_pos pos[2] = { LOGKIT_POS, LOGKIT_POS };
	struct logkit k;
	struct rng rng;

	(void)state;
	rng_seed_env(&rng, 11);
	kit_open(&k);
	for (unsigned round = 0; round < 500; round++) {
		struct log_scan_result res;
		struct log_scan *scan;
		uint64_t next = pos[0].lsn, lsn;

		if (rng_chance(&rng, 1, 10)) {
			lsn = sync_one(&k, 10);
			assert_int_equal(log_tick(k.log), 0);
		}
		lsn = sync_one(&k, (size_t)rng_range(&rng, 1, rng_chance(&rng, 1, 4) ? 60000 : 3000));
		assert_int_equal(logkit_scan(k.sd, N, pos[0], &scan), 0);
		assert_int_equal(log_scan_each(scan, take, NULL, &next), 0);
		log_scan_result(scan, &res);
		assert_int_equal(res.end.lsn, lsn + 1);
		assert_int_equal(next, lsn + 1);
		log_scan_close(scan);
		log_trim(k.log, pos[1]);
		pos[0] = pos[1];
		pos[1] = log_boundary(k.log);
	}
	kit_close(&k);
}

static void a_position_may_lie_amid_a_segment(void **state)
{
	struct log_scan_result res;
	struct log_scan *scan;
	struct logkit k;
	uint64_t next;

	(void)state;
	kit_open(&k);
	sync_one(&k, 10);
	for (unsigned i = 0; i < 4; i++)
		logkit_append(&k, 10);
	assert_int_equal(log_sync(k.log, 5), 0);
	sync_one(&k, 10);
	for (uint64_t lsn = 2; lsn <= 6; lsn++) {
		assert_int_equal(logkit_scan(k.sd, N, (struct log_pos){ 1, 2, lsn }, &scan), 0);
		log_scan_result(scan, &res);
		assert_int_equal(res.records, 7 - lsn);
		assert_int_equal(res.end.lsn, 7);
		next = lsn;
		assert_int_equal(log_scan_each(scan, take, NULL, &next), 0);
		assert_int_equal(next, 7);
		log_scan_close(scan);
	}
	assert_int_equal(logkit_scan(k.sd, N, (struct log_pos){ 1, 2, 1 }, &scan), -EUCLEAN);
	assert_int_equal(logkit_scan(k.sd, N, (struct log_pos){ 1, 2, 7 }, &scan), -EUCLEAN);
	kit_close(&k);
}

static void another_epoch_is_no_log(void **state)
{
	struct log_scan_options opt = { .start = LOGKIT_START, .blocks = N, .epoch = 5, .pos = LOGKIT_POS };
	struct log_scan_result res;
	struct log_scan *scan;
	struct logkit k;

	(void)state;
	kit_open(&k);
	for (unsigned i = 0; i < 5; i++)
		sync_one(&k, 100);
	opt.bdev = k.dev;
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, 0);
	assert_int_equal(res.end.seq, 1);
	log_scan_close(scan);
	/* Nor is what was there before the position. */
	opt.epoch = LOGKIT_EPOCH;
	opt.pos = (struct log_pos){ .block = 5, .seq = 6, .lsn = 6 };
	assert_int_equal(log_scan_open(&opt, &scan), 0);
	log_scan_result(scan, &res);
	assert_int_equal(res.records, 0);
	assert_int_equal(res.end.block, 5);
	log_scan_close(scan);
	kit_close(&k);
}

int main(void)
{
	const struct CMUnitTest fixed[] = {
		cmocka_unit_test(every_bit_of_a_segment_counts),
		cmocka_unit_test(the_mark_of_the_timer_protects_the_last_record),
		cmocka_unit_test(listed_data_decides_about_the_last_segment),
		cmocka_unit_test(a_long_list_is_verified_wholly),
		cmocka_unit_test(riding_blocks_come_with_their_addresses),
		cmocka_unit_test(a_segment_that_changes_after_the_scan_is_damage),
		cmocka_unit_test(the_ring_is_followed_around_its_end),
		cmocka_unit_test(a_position_may_lie_amid_a_segment),
		cmocka_unit_test(another_epoch_is_no_log),
	};
	struct CMUnitTest tests[ARRAY_LEN(fixed) + ARRAY_LEN(lies) + ARRAY_LEN(events)];
	struct CMUnitTest *t = tests + ARRAY_LEN(fixed);

	logkit_quiet();
	memcpy(tests, fixed, sizeof(fixed));
	for (size_t i = 0; i < ARRAY_LEN(lies); i++)
		*t++ = TEST_ROW(lies[i].name, is_malformed, &lies[i]);
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		*t++ = TEST_ROW(events[i].name, the_end_is_told_from_damage, &events[i]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

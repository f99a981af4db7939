#include "tests/kit/logkit.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

static void data_failed(void *arg, int err)
{
	struct logkit *k = arg;

	__atomic_add_fetch(&k->failed_data, 1, __ATOMIC_RELAXED);
	k->err = k->err ? k->err : err;
	log_kill(k->log, err);
}

static void log_failed(void *arg, int err)
{
	struct logkit *k = arg;

	__atomic_add_fetch(&k->failed_log, 1, __ATOMIC_RELAXED);
	k->err = k->err ? k->err : err;
}

void logkit_open(struct logkit *k, struct simdev *sd, uint64_t log_blocks, unsigned ride_max, size_t memory_max)
{
	struct log_options opt = {
		.start = LOGKIT_START,
		.blocks = log_blocks,
		.epoch = LOGKIT_EPOCH,
		.pos = LOGKIT_POS,
		.ride_max = ride_max,
		.failed = log_failed,
		.arg = k,
	};

	*k = (struct logkit){ .sd = sd, .dev = simdev_bdev(sd), .blocks = log_blocks };
	assert_int_equal(data_open(k->dev, memory_max, data_failed, k, &k->data), 0);
	opt.bdev = k->dev;
	opt.data = k->data;
	assert_int_equal(log_open(&opt, &k->log), 0);
}

void logkit_close(struct logkit *k)
{
	log_close(k->log);
	data_close(k->data);
	bdev_close(k->dev);
}

void logkit_fill(uint64_t addr, void *block)
{
	uint64_t *p = block;

	for (size_t i = 0; i < BLOCK_SIZE / sizeof(*p); i++)
		p[i] = rng_mix(addr, i);
}

bool logkit_filled(uint64_t addr, const void *block)
{
	const uint64_t *p = block;

	for (size_t i = 0; i < BLOCK_SIZE / sizeof(*p); i++)
		if (p[i] != rng_mix(addr, i))
			return false;
	return true;
}

int logkit_try_put(struct logkit *k, uint64_t addr, uint32_t blocks, struct data_run **ret)
{
	uint8_t *buf = mem_alloc_blocks((size_t)blocks * BLOCK_SIZE);
	uint32_t sums[DATA_RUN_BLOCKS_MAX];
	int err;

	if (!buf)
		return -ENOMEM;
	for (uint32_t i = 0; i < blocks; i++) {
		logkit_fill(addr + i, buf + (size_t)i * BLOCK_SIZE);
		sums[i] = data_checksum(buf + (size_t)i * BLOCK_SIZE);
	}
	err = data_put(k->data, addr, blocks, buf, sums, ret);
	if (err)
		mem_free(buf);
	return err;
}

struct data_run *logkit_put(struct logkit *k, uint64_t addr, uint32_t blocks)
{
	struct data_run *r = NULL;

	assert_int_equal(logkit_try_put(k, addr, blocks, &r), 0);
	return r;
}

struct wire {
	uint64_t lsn, n, len;
	struct {
		uint64_t addr, blocks, drop;
	} parts[LOGKIT_PARTS];
};

size_t logkit_record(const struct logkit_op *op, uint64_t lsn, void *buf)
{
	size_t head = offsetof(struct wire, parts) + op->n * sizeof(((struct wire *)0)->parts[0]);
	size_t len = op->bytes > head ? op->bytes : head;
	struct wire w = { .lsn = lsn, .n = op->n, .len = len };
	uint8_t *p = buf;

	if (!buf)
		return len;
	for (unsigned i = 0; i < op->n; i++) {
		w.parts[i].addr = op->parts[i].addr;
		w.parts[i].blocks = op->parts[i].blocks;
		w.parts[i].drop = op->parts[i].drop;
	}
	memcpy(p, &w, head);
	for (size_t i = head; i < len; i++)
		p[i] = (uint8_t)(lsn * 31 + i);
	return len;
}

void logkit_parse(uint64_t lsn, const void *rec, size_t len, struct logkit_op *ret)
{
	const uint8_t *p = rec;
	size_t head = offsetof(struct wire, parts);
	struct wire w;

	assert_true(len >= head);
	memcpy(&w, p, head);
	assert_int_equal(w.lsn, lsn);
	assert_int_equal(w.len, len);
	assert_true(w.n <= LOGKIT_PARTS);
	memcpy(w.parts, p + head, w.n * sizeof(w.parts[0]));
	head += w.n * sizeof(w.parts[0]);
	for (size_t i = head; i < len; i++)
		assert_int_equal(p[i], (uint8_t)(lsn * 31 + i));
	*ret = (struct logkit_op){ .n = (unsigned)w.n, .bytes = len };
	for (unsigned i = 0; i < w.n; i++)
		ret->parts[i] = (struct logkit_part){ .addr = w.parts[i].addr,
						      .blocks = (uint32_t)w.parts[i].blocks,
						      .drop = w.parts[i].drop != 0 };
}

int logkit_apply(struct logkit *k, const struct logkit_op *op, uint64_t *ret_lsn)
{
	struct data_run *runs[LOGKIT_PARTS];
	struct log_room room;
	struct log_status st;
	size_t len = logkit_record(op, 0, NULL), blocks = 0, n = 0;
	uint8_t *rec;
	int err;

	for (unsigned i = 0; i < op->n; i++)
		blocks += op->parts[i].drop ? 0 : op->parts[i].blocks;
	err = log_admit(k->log, len, blocks, &room);
	if (err)
		return err;
	for (unsigned i = 0; i < op->n && !err; i++)
		if (!op->parts[i].drop)
			err = logkit_try_put(k, op->parts[i].addr, op->parts[i].blocks, &runs[n++]);
	if (err) {
		log_unadmit(k->log, &room);
		return err;
	}
	log_status(k->log, &st);
	rec = malloc(len);
	assert_non_null(rec);
	logkit_record(op, st.lsn_next, rec);
	*ret_lsn = log_append(k->log, &room, rec, len, runs, n);
	assert_int_equal(*ret_lsn, st.lsn_next);
	free(rec);
	for (unsigned i = 0; i < op->n; i++)
		if (op->parts[i].drop)
			data_drop(k->data, op->parts[i].addr, op->parts[i].blocks);
	return 0;
}

uint64_t logkit_append(struct logkit *k, size_t bytes)
{
	struct logkit_op op = { .bytes = bytes };
	uint64_t lsn = 0;

	assert_int_equal(logkit_apply(k, &op, &lsn), 0);
	return lsn;
}

static atomic_uint messages;

static void swallow(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	(void)level;
	(void)line;
	atomic_fetch_add(&messages, 1);
}

void logkit_quiet(void)
{
	err_set_sink(swallow, NULL);
}

unsigned logkit_messages(void)
{
	return atomic_load(&messages);
}

int logkit_scan(struct simdev *sd, uint64_t log_blocks, struct log_pos pos, struct log_scan **ret)
{
	struct log_scan_options opt = {
		.bdev = simdev_bdev(sd), .start = LOGKIT_START, .blocks = log_blocks, .epoch = LOGKIT_EPOCH, .pos = pos
	};

	return log_scan_open(&opt, ret);
}

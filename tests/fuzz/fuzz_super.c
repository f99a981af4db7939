/*
 * The superblock: super_decode. The input is one block (shorter ones are filled up with zeros).
 */
#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/node_format.h"
#include "btree/super.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/quiet.h"
#include "tests/kit/rng.h"

static void sign(uint8_t *block)
{
	le64 sum = le64_put(XXH3_64bits(block + sizeof(le64), BLOCK_SIZE - sizeof(le64)));

	memcpy(block, &sum, sizeof(sum));
}

static bool root_sane(const struct root *r, uint64_t blocks)
{
	return r->levels <= NODE_LEVELS_MAX && (r->levels > 0) == (r->ref.addr > 0) && r->ref.addr < blocks &&
	       r->ref.copy < blocks;
}

/* What everything above relies on once a slot has been accepted. */
static void check_accepted(const struct super *s)
{
	assert(s->node_size >= NODE_SIZE_MIN && s->node_size <= NODE_SIZE_MAX && !(s->node_size & (s->node_size - 1)));
	assert(s->blocks > 0 && s->blocks <= UINT64_MAX >> BLOCK_SHIFT);
	assert(s->log_blocks >= 1 && s->log_blocks <= s->blocks);
	assert(s->log_start >= space_log_start_min() && s->log_start < s->blocks);
	assert(s->log_blocks <= s->blocks - s->log_start);
	assert(s->log_block < s->log_blocks);
	assert(s->mount_epoch < UINT64_C(1) << (64 - GEN_EPOCH_SHIFT));
	assert(s->space.home < SPACE_HOMES);
	assert(root_sane(&s->files, s->blocks) && root_sane(&s->system, s->blocks));
	assert(memchr(s->label, '\0', sizeof(s->label)));
	assert(!(s->incompat & ~(uint64_t)SUPER_INCOMPAT_KNOWN));
}

static void decode(const uint8_t *block, unsigned slot)
{
	uint8_t again[BLOCK_SIZE];
	struct super s, t;
	int err;

	err = super_decode(block, slot, &s);
	if (err) {
		assert(err == -ENODEV || err == -EBADMSG || err == -EUCLEAN || err == -EPROTONOSUPPORT);
		return;
	}
	check_accepted(&s);

	/* What was read is what would be written. */
	super_encode(&s, slot, again);
	err = super_decode(again, slot, &t);
	assert(!err);
	check_accepted(&t);
	assert(s.serial == t.serial && s.gen == t.gen && s.log_lsn == t.log_lsn && s.written == t.written);
	assert(root_equal(s.files, t.files) && root_equal(s.system, t.system));
	assert(!memcmp(s.label, t.label, sizeof(s.label)) && !memcmp(s.secret, t.secret, sizeof(s.secret)));

	/* A slot's block is not taken for the other slot's. */
	assert(super_decode(block, !slot, &t) == -EBADMSG);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t block[BLOCK_SIZE] = { 0 };
	struct disk_super *d = (void *)block;
	unsigned slot;

	memcpy(block, data, size < BLOCK_SIZE ? size : BLOCK_SIZE);
	decode(block, 0);
	decode(block, 1);

	/* The same as if it had been written so. */
	memcpy(d->magic, SUPER_MAGIC, sizeof(d->magic));
	slot = le32_get(d->slot) & 1;
	sign(block);
	decode(block, slot);
	return 0;
}

size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed)
{
	struct super s = { 0 };
	struct rng rng;

	if (cap < BLOCK_SIZE)
		return 0;
	rng_seed(&rng, seed);
	s.node_size = NODE_SIZE_MIN << rng_below(&rng, 4);
	s.serial = rng_next(&rng) >> rng_below(&rng, 64);
	rng_bytes(&rng, s.uuid, sizeof(s.uuid));
	memset(s.label, 'a', rng_below(&rng, SUPER_LABEL_MAX + 1));
	s.log_start = space_log_start_min();
	s.log_blocks = rng_range(&rng, 1, SPACE_GROUP_BLOCKS - s.log_start);
	s.blocks = s.log_start + s.log_blocks + rng_below(&rng, UINT64_C(1) << rng_below(&rng, 50));
	s.incompat = rng_chance(&rng, 1, 2) ? SUPER_INCOMPAT_COPIES : 0;
	s.mount_epoch = rng_range(&rng, 1, 1000);
	s.log_epoch = rng_next(&rng);
	s.gen = s.mount_epoch << GEN_EPOCH_SHIFT | rng_range(&rng, 1, 1000);
	s.flags = (uint32_t)rng_below(&rng, 2);
	s.log_block = rng_below(&rng, s.log_blocks);
	s.log_seq = rng_below(&rng, 1000);
	s.log_lsn = rng_range(&rng, 1, 1000);
	super_encode(&s, (unsigned)rng_below(&rng, 2), buf);
	return BLOCK_SIZE;
}

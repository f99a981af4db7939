#include "tests/kit/kv_gen.h"

const struct kv_profile kv_profile_mixed = {
	.name = "mixed",
	.weight = {
		[KV_PUT] = 30, [KV_PUT_MANY] = 4, [KV_PUT_LINK] = 3, [KV_DEL] = 14, [KV_DEL_INO] = 3, [KV_MIX] = 14,
		[KV_EXTENT] = 18, [KV_TWO_EXTENTS] = 4, [KV_CLAIM] = 2, [KV_FILL] = 4, [KV_CLONE] = 9, [KV_MOVE] = 4,
		[KV_SPLIT] = 6, [KV_SYNC] = 9, [KV_TICK] = 4, [KV_CHECKPOINT] = 3, [KV_SNAP_CREATE] = 2,
		[KV_SNAP_DELETE] = 3, [KV_SNAP_ROLLBACK] = 1, [KV_TXN_BEGIN] = 5, [KV_TXN_COMMIT] = 4,
		[KV_TXN_ABORT] = 2, [KV_FREEZE] = 2, [KV_THAW] = 3, [KV_REOPEN] = 1, [KV_KILL] = 1, [KV_CHECK] = 1,
	},
	.inos = 8, .offs = 6, .many_max = 8, .extent_max = 24, .in_txn = 4,
};

const struct kv_profile kv_profile_heavy = {
	.name = "heavy",
	.weight = {
		[KV_PUT] = 10, [KV_PUT_MANY] = 10, [KV_DEL] = 12, [KV_DEL_INO] = 8, [KV_MIX] = 10, [KV_EXTENT] = 30,
		[KV_TWO_EXTENTS] = 10, [KV_CLAIM] = 4, [KV_FILL] = 4, [KV_CLONE] = 4, [KV_SPLIT] = 6, [KV_SYNC] = 6,
		[KV_TICK] = 3, [KV_CHECKPOINT] = 2, [KV_SNAP_CREATE] = 1, [KV_SNAP_DELETE] = 3, [KV_TXN_BEGIN] = 2,
		[KV_TXN_COMMIT] = 2, [KV_TXN_ABORT] = 1, [KV_FREEZE] = 1, [KV_THAW] = 3, [KV_KILL] = 1,
	},
	.inos = 6, .offs = 40, .many_max = 120, .extent_max = 60, .in_txn = 3,
};

const struct kv_profile kv_profile_views = {
	.name = "views",
	.weight = {
		[KV_PUT] = 12, [KV_PUT_MANY] = 3, [KV_DEL] = 14, [KV_DEL_INO] = 3, [KV_MIX] = 12, [KV_EXTENT] = 18,
		[KV_CLONE] = 16, [KV_MOVE] = 6, [KV_SPLIT] = 8, [KV_CLAIM] = 2, [KV_FILL] = 2, [KV_SYNC] = 4,
		[KV_CHECKPOINT] = 3, [KV_SNAP_CREATE] = 8, [KV_SNAP_DELETE] = 7, [KV_SNAP_ROLLBACK] = 3,
		[KV_TXN_BEGIN] = 9, [KV_TXN_COMMIT] = 9, [KV_TXN_ABORT] = 2, [KV_FREEZE] = 4, [KV_THAW] = 4,
		[KV_REOPEN] = 1, [KV_KILL] = 1, [KV_CHECK] = 1,
	},
	.inos = 5, .offs = 4, .many_max = 5, .extent_max = 20, .in_txn = 7,
};

static uint16_t up_to(struct rng *rng, uint64_t max)
{
	return (uint16_t)rng_range(rng, 1, max ? max : 1);
}

/* Mostly small: large values would soon be all there is. */
static uint16_t skewed(struct rng *rng, uint64_t max)
{
	return rng_chance(rng, 3, 4) ? up_to(rng, max < 4 ? max : 4) : up_to(rng, max);
}

struct kv_op kv_gen(const struct kv_profile *p, struct rng *rng)
{
	struct kv_op op = { 0 };
	unsigned total = 0, at;

	for (unsigned i = 0; i < KV_ACTIONS_END; i++)
		total += p->weight[i];
	at = (unsigned)rng_below(rng, total);
	while (at >= p->weight[op.action])
		at -= p->weight[op.action++];

	op.seed = rng_next(rng) >> 16;
	op.ino = (uint16_t)(10 + rng_below(rng, p->inos));
	op.ino2 = (uint16_t)(10 + rng_below(rng, p->inos));
	op.off = (uint16_t)rng_below(rng, p->offs);
	if (op.action < KV_SYNC && rng_chance(rng, p->in_txn, 16))
		op.view = (uint8_t)rng_range(rng, 1, KV_TXNS);

	switch ((enum kv_action)op.action) {
	case KV_PUT:
		op.len = rng_chance(rng, 1, 4) ? up_to(rng, 980) : up_to(rng, 120);
		break;
	case KV_PUT_MANY:
		op.n = up_to(rng, p->many_max);
		op.len = up_to(rng, 900);
		break;
	case KV_MIX:
		op.n = up_to(rng, 8);
		break;
	case KV_EXTENT:
		op.n = skewed(rng, p->extent_max);
		break;
	case KV_TWO_EXTENTS:
		op.n = skewed(rng, p->extent_max);
		op.len = skewed(rng, p->extent_max);
		break;
	case KV_CLAIM:
		op.n = up_to(rng, 6);
		break;
	case KV_CLONE:
		op.n = (uint16_t)rng_below(rng, 4);
		break;
	case KV_SNAP_CREATE:
	case KV_SNAP_DELETE:
	case KV_SNAP_ROLLBACK:
		/* Four at the most: the device is small. */
		op.slot = (uint8_t)rng_range(rng, 1, 4);
		break;
	case KV_TXN_COMMIT:
		op.n = rng_chance(rng, 1, 3);
		op.len = rng_chance(rng, 1, 4);
		/* fall through */
	case KV_TXN_BEGIN:
	case KV_TXN_ABORT:
		op.slot = (uint8_t)rng_below(rng, KV_TXNS);
		break;
	case KV_FREEZE:
	case KV_THAW:
		op.slot = (uint8_t)rng_below(rng, KV_FROZEN);
		break;
	default:
		break;
	}
	return op;
}

#include "tests/kit/salvagekit.h"

#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/node.h"
#include "tests/kit/kv_crash.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

const struct kv_profile salvagekit_plain = {
	.name = "plain",
	.weight = {
		[KV_PUT] = 30, [KV_PUT_MANY] = 12, [KV_PUT_LINK] = 3, [KV_DEL] = 10, [KV_DEL_INO] = 1, [KV_MIX] = 14,
		[KV_EXTENT] = 12, [KV_TWO_EXTENTS] = 4, [KV_CLAIM] = 2, [KV_FILL] = 4, [KV_CLONE] = 9, [KV_MOVE] = 4,
		[KV_SPLIT] = 6, [KV_SYNC] = 6, [KV_TICK] = 4, [KV_CHECKPOINT] = 4, [KV_REOPEN] = 1,
	},
	.inos = 12, .offs = 12, .many_max = 12, .extent_max = 12,
};

#define ID_KEY key_make(2, KVT_BYTES, 0)
#define ID_MAGIC UINT64_C(0x1d1d1d1d)

struct id_item {
	uint64_t magic, blocks, log_start, log_blocks, incompat, created;
	uint8_t uuid[16], secret[16];
};

static bool identify(void *arg, struct key key, const void *val, size_t len, struct super *s)
{
	struct id_item d;

	(void)arg;
	if (!key_equal(key, ID_KEY) || len != sizeof(d))
		return false;
	memcpy(&d, val, sizeof(d));
	if (d.magic != ID_MAGIC)
		return false;
	s->blocks = d.blocks;
	s->log_start = d.log_start;
	s->log_blocks = d.log_blocks;
	s->incompat = d.incompat;
	s->created = d.created;
	memcpy(s->uuid, d.uuid, sizeof(s->uuid));
	memcpy(s->secret, d.secret, sizeof(s->secret));
	return true;
}

const struct salvage_options salvagekit_options = { .records = &kv_records, .identify = identify };

static void read_super(struct simdev *disk, struct super *ret)
{
	struct super s[2];
	uint8_t block[BLOCK_SIZE];

	simdev_peek(disk, SUPER_SLOT0, block, 1);
	assert_int_equal(super_decode(block, 0, &s[0]), 0);
	simdev_peek(disk, SUPER_SLOT1, block, 1);
	assert_int_equal(super_decode(block, 1, &s[1]), 0);
	*ret = s[s[1].serial > s[0].serial];
}

static void put_id(struct kv_run *run)
{
	struct id_item d = { .magic = ID_MAGIC };
	struct super s;
	struct batch *b;

	read_super(run->disk, &s);
	d.blocks = s.blocks;
	d.log_start = s.log_start;
	d.log_blocks = s.log_blocks;
	d.incompat = s.incompat;
	d.created = s.created;
	memcpy(d.uuid, s.uuid, sizeof(d.uuid));
	memcpy(d.secret, s.secret, sizeof(d.secret));
	assert_int_equal(batch_open(store_live(run->store), &b), 0);
	assert_int_equal(batch_put(b, ID_KEY, &d, sizeof(d)), 0);
	assert_int_equal(batch_commit(b, NULL), 0);
	batch_close(b);
	kvmap_put(&model_next(&run->model)->live, ID_KEY, &d, sizeof(d));
}

void salvagekit_make(struct salvagekit *f, const struct kv_profile *profile, uint64_t seed, unsigned steps, bool copies,
		     bool clean)
{
	*f = (struct salvagekit){
		.disk = simdev_new(
			&(struct simdev_options){ .blocks = SALVAGEKIT_BLOCKS, .seed = seed, .no_trace = true }),
	};
	salvagekit_again(f, profile, seed, steps, copies, clean);
}

void salvagekit_again(struct salvagekit *f, const struct kv_profile *profile, uint64_t seed, unsigned steps,
		      bool copies, bool clean)
{
	struct store_mkfs_options mkfs = kv_mkfs_options;
	struct store_options opt = kv_store_options;
	struct kv_run run;
	struct rng rng;

	kv_log_quiet();
	opt.records = &kv_records;
	mkfs.copies = copies;
	mkfs.seed = seed;
	rng_seed(&rng, seed);
	mkfs.now_ns = f->super.created + 1;
	kvmap_unref(f->live);
	kv_run_init(&run, f->disk, &opt, NULL, seed);
	assert_int_equal(store_mkfs(simdev_bdev(f->disk), &mkfs), 0);
	assert_int_equal(kv_run_open(&run), 0);
	put_id(&run);
	for (unsigned i = 0; i < steps; i++) {
		struct kv_op op = kv_gen(profile, &rng);
		int err = kv_run_op(&run, &op);

		assert_true(err == 0 || err == 1 || err == -ENOSPC);
	}
	if (clean)
		assert_int_equal(kv_run_op(&run, &(struct kv_op){ .action = KV_REOPEN }), 0);
	f->live = kvmap_ref(model_now(&run.model)->live);
	kv_run_release(&run);
	read_super(f->disk, &f->super);
}

void salvagekit_release(struct salvagekit *f)
{
	simdev_free(f->disk);
	kvmap_unref(f->live);
}

void salvagekit_wipe(struct simdev *disk, uint64_t addr, uint64_t blocks)
{
	static const uint8_t zeros[BLOCK_SIZE];

	for (uint64_t b = addr; b < addr + blocks; b++)
		simdev_poke(disk, b, 0, zeros, BLOCK_SIZE);
}

void salvagekit_wipe_supers(struct simdev *disk)
{
	salvagekit_wipe(disk, SUPER_SLOT0, 1);
	salvagekit_wipe(disk, SUPER_SLOT1, 1);
}

void salvagekit_wipe_node(struct simdev *disk, struct ref ref)
{
	salvagekit_wipe(disk, ref.addr, 1);
	if (ref.copy)
		salvagekit_wipe(disk, ref.copy, 1);
}

/* ---- images that lie ---- */

void salvagekit_fix_sum(uint8_t *buf)
{
	struct disk_node *h = (struct disk_node *)buf;

	h->sum = le64_put(XXH3_64bits(buf + sizeof(h->sum), BLOCK_SIZE - sizeof(h->sum)));
}

void salvagekit_mutate(struct simdev *disk, uint64_t at, const uint64_t *nodes, unsigned n, struct rng *rng)
{
	uint8_t buf[BLOCK_SIZE], other[BLOCK_SIZE];
	struct disk_node *h = (struct disk_node *)buf;
	const struct disk_node *o = (const struct disk_node *)other;
	struct disk_slot *slots = (struct disk_slot *)(h + 1);
	struct disk_ref *ref;
	unsigned nr, k;

	simdev_peek(disk, at, buf, 1);
	simdev_peek(disk, nodes[rng_below(rng, n)], other, 1);
	nr = le16_get(h->nr) && le16_get(h->nr) < 200 ? le16_get(h->nr) : 1;
	k = (unsigned)rng_below(rng, nr);
	ref = (struct disk_ref *)(buf + (le16_get(slots[k].val) & 0xfff));
	switch (rng_below(rng, 14)) {
	case 0:
		h->gen = o->gen;
		break;
	case 1:
		h->gen = le64_put(le64_get(h->gen) + rng_below(rng, 5));
		break;
	case 2:
		h->gen = le64_put(rng_next(rng));
		break;
	case 3:
		h->level = (uint8_t)rng_below(rng, 17);
		break;
	case 4:
		h->copy = rng_chance(rng, 1, 2) ? o->addr : le64_put(rng_next(rng));
		break;
	case 5:
		h->addr = rng_chance(rng, 1, 2) ? o->addr : le64_put(rng_next(rng));
		break;
	case 6: /* another one's child, or itself */
	case 7:
	case 8:
		if (h->level && le16_get(slots[k].val) <= BLOCK_SIZE - sizeof(*ref))
			*ref = rng_chance(rng, 1, 4) ? (struct disk_ref){ h->addr, h->copy, h->gen }
						     : (struct disk_ref){ o->addr, o->copy, o->gen };
		break;
	case 9: { /* all children the same node */
		struct disk_ref same = { o->addr, o->copy, o->gen };

		for (unsigned i = 0; h->level && i < nr; i++)
			if (le16_get(slots[i].val) <= BLOCK_SIZE - sizeof(same))
				memcpy(buf + le16_get(slots[i].val), &same, sizeof(same));
		break;
	}
	case 10:
		slots[k].obj = le64_put(rng_chance(rng, 1, 2) ? UINT64_MAX : le64_get(slots[k].obj) + 1);
		break;
	case 11:
		h->tree = le64_put(rng_range(rng, 0, 3));
		break;
	case 12:
		h->nr = le16_put((uint16_t)rng_below(rng, 300));
		break;
	default: /* bytes of a value */
		if (le16_get(slots[k].len))
			buf[(le16_get(slots[k].val) + rng_below(rng, le16_get(slots[k].len))) & 0xfff] ^= 0x41;
	}
	salvagekit_fix_sum(buf);
	simdev_poke(disk, at, 0, buf, BLOCK_SIZE);
}

unsigned salvagekit_nodes(struct simdev *disk, uint64_t *ret, unsigned max)
{
	uint8_t buf[BLOCK_SIZE];
	unsigned n = 0;

	for (uint64_t b = 1; b < SALVAGEKIT_BLOCKS && n < max; b++) {
		simdev_peek(disk, b, buf, 1);
		if (le32_get(((struct disk_node *)buf)->magic) == NODE_MAGIC)
			ret[n++] = b;
	}
	return n;
}

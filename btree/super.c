/*
 * super.c - see super.h
 *
 * Only the newest slot that verifies counts. A slot that looks like ours but does not verify is damage and is said
 * so; a slot that does not look like ours at all (another filesystem, zeros) is not. A filesystem of which one slot was
 * lost mounts from the other, because the older slot with the log is whole.
 */
#include "btree/super.h"

#include <inttypes.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/node_format.h"

static const uint64_t slot_addr[2] = { SUPER_SLOT0, SUPER_SLOT1 };

static uint64_t checksum(const void *block)
{
	return XXH3_64bits((const uint8_t *)block + sizeof(le64), BLOCK_SIZE - sizeof(le64));
}

static struct disk_root root_encode(const struct root *r)
{
	return (struct disk_root){
		.addr = le64_put(r->ref.addr),
		.copy = le64_put(r->ref.copy),
		.gen = le64_put(r->ref.gen),
		.levels = le32_put(r->levels),
	};
}

static int root_decode(const struct disk_root *d, const struct super *s, uint64_t where, struct root *ret)
{
	*ret = (struct root){
		.ref = { le64_get(d->addr), le64_get(d->copy), le64_get(d->gen) },
		.levels = le32_get(d->levels),
	};
	if (ret->levels > NODE_LEVELS_MAX)
		return corrupt("superblock", where, "tree levels", ret->levels, NODE_LEVELS_MAX);
	if ((ret->levels == 0) != (ret->ref.addr == 0))
		return corrupt("superblock", where, "root address of a tree with or without levels", ret->ref.addr,
			       ret->levels);
	if (ret->levels == 0 && (ret->ref.copy || ret->ref.gen))
		return corrupt("superblock", where, "copy or generation of an empty tree", ret->ref.copy, ret->ref.gen);
	if (ret->ref.addr >= s->blocks || ret->ref.copy >= s->blocks)
		return corrupt("superblock", where, "root address", ret->ref.addr, s->blocks);
	if (ret->ref.gen >> GEN_EPOCH_SHIFT > s->mount_epoch)
		return corrupt("superblock", where, "root of a later mount", ret->ref.gen, s->mount_epoch);
	if (le32_get(d->zero))
		return corrupt("superblock", where, "bytes that are zero", le32_get(d->zero), 0);
	return 0;
}

static int check_fields(const struct super *s, uint64_t where)
{
	bool power_of_two = (s->node_size & (s->node_size - 1)) == 0;
	uint64_t log_min = space_log_start_min();

	if (s->node_size < NODE_SIZE_MIN || s->node_size > NODE_SIZE_MAX || !power_of_two)
		return corrupt("superblock", where, "node size", s->node_size, NODE_SIZE_MIN);
	if (s->log_start < log_min || s->log_start >= SPACE_GROUP_BLOCKS)
		return corrupt("superblock", where, "start of the log", s->log_start, log_min);
	if (s->log_blocks < SUPER_LOG_BLOCKS_MIN || s->log_blocks > SPACE_GROUP_BLOCKS - s->log_start ||
	    s->log_start + s->log_blocks > s->blocks)
		return corrupt("superblock", where, "blocks of the log", s->log_blocks, SPACE_GROUP_BLOCKS);
	if (s->log_block >= s->log_blocks)
		return corrupt("superblock", where, "position in the log", s->log_block, s->log_blocks);
	/* Both count from 1, and never come near the end. */
	if (!s->log_seq || s->log_seq >> 63)
		return corrupt("superblock", where, "sequence in the log", s->log_seq, 1);
	if (!s->log_lsn || s->log_lsn >> 63)
		return corrupt("superblock", where, "record in the log", s->log_lsn, 1);
	if (s->space.home >= SPACE_HOMES)
		return corrupt("superblock", where, "home of the space map", s->space.home, SPACE_HOMES);
	if (s->mount_epoch >> (64 - GEN_EPOCH_SHIFT))
		return corrupt("superblock", where, "mount epoch", s->mount_epoch, 0);
	if (s->blocks >> 51)
		return corrupt("superblock", where, "blocks", s->blocks, 0);
	if (s->space.free > s->blocks || s->claims > s->blocks)
		return corrupt("superblock", where, "free or claimed blocks", s->space.free, s->claims);
	if (s->flags & ~SUPER_CLEAN)
		return corrupt("superblock", where, "flags", s->flags, SUPER_CLEAN);
	if (s->gen >> GEN_EPOCH_SHIFT > s->mount_epoch || s->space.gen >> GEN_EPOCH_SHIFT > s->mount_epoch)
		return corrupt("superblock", where, "generation of a later mount", s->gen, s->mount_epoch);
	return 0;
}

int super_decode(const void *block, unsigned slot, struct super *ret)
{
	const struct disk_super *d = block;
	const struct disk_space_entry *space = (const void *)d->space;
	uint64_t where = slot_addr[slot];
	int err;

	if (memcmp(d->magic, SUPER_MAGIC, sizeof(d->magic)))
		return -ENODEV;
	if (le64_get(d->sum) != checksum(block))
		return bad_checksum("superblock", where, "checksum", le64_get(d->sum), checksum(block));
	if (le32_get(d->version) != SUPER_VERSION) {
		err_log(LOG_ERROR, "superblock: format version %" PRIu32 " is not known here (only %u)",
			le32_get(d->version), SUPER_VERSION);
		return -EPROTONOSUPPORT;
	}
	for (size_t i = 0; i < sizeof(d->zero); i++)
		if (d->zero[i])
			return corrupt("superblock", where, "bytes that are zero", d->zero[i], 0);
	if (le32_get(d->slot) != slot)
		return bad_checksum("superblock", where, "slot", le32_get(d->slot), slot);

	*ret = (struct super){
		.node_size = le32_get(d->node_size),
		.serial = le64_get(d->serial),
		.compat = le64_get(d->compat),
		.ro_compat = le64_get(d->ro_compat),
		.incompat = le64_get(d->incompat),
		.blocks = le64_get(d->blocks),
		.log_start = le64_get(d->log_start),
		.log_blocks = le64_get(d->log_blocks),
		.mount_epoch = le64_get(d->mount_epoch),
		.log_epoch = le64_get(d->log_epoch),
		.gen = le64_get(d->gen),
		.flags = le32_get(d->flags),
		.space = { .gen = le64_get(space->gen), .sum = le64_get(space->sum), .free = le64_get(space->free),
			   .home = space->home },
		.log_block = le64_get(d->log_block),
		.log_seq = le64_get(d->log_seq),
		.log_lsn = le64_get(d->log_lsn),
		.claims = le64_get(d->claims),
		.batch_max = le64_get(d->batch_max),
		.created = le64_get(d->created),
		.written = le64_get(d->written),
	};
	memcpy(ret->uuid, d->uuid, sizeof(ret->uuid));
	memcpy(ret->label, d->label, SUPER_LABEL_MAX);
	memcpy(ret->secret, d->secret, sizeof(ret->secret));
	for (unsigned i = 0; i < SUPER_COUNTERS; i++)
		ret->counter[i] = le64_get(d->counter[i]);
	if (ret->incompat & ~(uint64_t)SUPER_INCOMPAT_KNOWN) {
		err_log(LOG_ERROR, "superblock: incompatible feature bits %#" PRIx64 " are not known here",
			ret->incompat & ~(uint64_t)SUPER_INCOMPAT_KNOWN);
		return -EPROTONOSUPPORT;
	}
	err = check_fields(ret, where);
	if (!err)
		err = root_decode(&d->files, ret, where, &ret->files);
	if (!err)
		err = root_decode(&d->system, ret, where, &ret->system);
	return err;
}

void super_encode(const struct super *s, unsigned slot, void *block)
{
	struct disk_super *d = block;
	struct disk_space_entry space = {
		.gen = le64_put(s->space.gen),
		.sum = le64_put(s->space.sum),
		.free = le64_put(s->space.free),
		.home = s->space.home,
	};

	memset(d, 0, sizeof(*d));
	memcpy(d->magic, SUPER_MAGIC, sizeof(d->magic));
	d->version = le32_put(SUPER_VERSION);
	d->node_size = le32_put(s->node_size);
	d->serial = le64_put(s->serial);
	memcpy(d->uuid, s->uuid, sizeof(d->uuid));
	memcpy(d->label, s->label, SUPER_LABEL_MAX);
	d->compat = le64_put(s->compat);
	d->ro_compat = le64_put(s->ro_compat);
	d->incompat = le64_put(s->incompat);
	d->blocks = le64_put(s->blocks);
	d->log_start = le64_put(s->log_start);
	d->log_blocks = le64_put(s->log_blocks);
	d->mount_epoch = le64_put(s->mount_epoch);
	d->log_epoch = le64_put(s->log_epoch);
	d->gen = le64_put(s->gen);
	d->flags = le32_put(s->flags);
	d->slot = le32_put(slot);
	d->files = root_encode(&s->files);
	d->system = root_encode(&s->system);
	memcpy(d->space, &space, sizeof(space));
	d->log_block = le64_put(s->log_block);
	d->log_seq = le64_put(s->log_seq);
	d->log_lsn = le64_put(s->log_lsn);
	d->claims = le64_put(s->claims);
	d->batch_max = le64_put(s->batch_max);
	for (unsigned i = 0; i < SUPER_COUNTERS; i++)
		d->counter[i] = le64_put(s->counter[i]);
	memcpy(d->secret, s->secret, sizeof(d->secret));
	d->created = le64_put(s->created);
	d->written = le64_put(s->written);
	d->sum = le64_put(checksum(d));
}

int super_load(struct bdev *dev, struct super *ret, unsigned *ret_slot, bool *ret_other_ok)
{
	struct super s[2];
	int err[2];
	unsigned best;
	void *buf;

	buf = mem_alloc_blocks(BLOCK_SIZE);
	if (!buf)
		return -ENOMEM;
	for (unsigned i = 0; i < 2; i++) {
		err[i] = slot_addr[i] < dev->geo.blocks ? bdev_read(dev, slot_addr[i], buf, 1) : -ENODEV;
		if (!err[i])
			err[i] = super_decode(buf, i, &s[i]);
	}
	mem_free(buf);

	/* A slot of a newer format is not damage: refuse rather than go on from an older one. */
	if (err[0] == -EPROTONOSUPPORT || err[1] == -EPROTONOSUPPORT)
		return -EPROTONOSUPPORT;
	if (err[0] && err[1])
		return err[0] == -ENODEV ? err[1] : err[0];
	if (!err[0] && !err[1] && memcmp(s[0].uuid, s[1].uuid, sizeof(s[0].uuid))) {
		/* mkfs over an older filesystem, cut short. It writes slot 0 last, wiping both before. */
		err_log(LOG_ERROR, "superblock: the two slots belong to different filesystems");
		return -EUCLEAN;
	}
	best = err[0] ? 1 : err[1] ? 0 : s[1].serial > s[0].serial;
	*ret_other_ok = !err[!best];
	if (!*ret_other_ok)
		err_log(LOG_WARNING, "superblock: slot %u is unusable (%s); going on from slot %u and the log", !best,
			strerror(-err[!best]), best);
	if (s[best].blocks > dev->geo.blocks) {
		err_log(LOG_ERROR, "superblock: the filesystem has %" PRIu64 " blocks, the device only %" PRIu64,
			s[best].blocks, dev->geo.blocks);
		return -ENXIO;
	}
	*ret = s[best];
	*ret_slot = best;
	return 0;
}

int super_write(struct bdev *dev, unsigned slot, const struct super *s)
{
	void *buf = mem_alloc_blocks(BLOCK_SIZE);
	int err;

	if (!buf)
		return -ENOMEM;
	super_encode(s, slot, buf);
	err = bdev_write(dev, slot_addr[slot], buf, 1);
	mem_free(buf);
	return err;
}

/*
 * volume.c - making, mounting and ending a filesystem
 *
 * A filesystem is a store with a root directory in it. Mounting opens the store (which recovers), then sets up what fs/ has
 * in memory: nothing of it is read from the device but the orphans. Inode numbers are handed out from the durable limit on;
 * what the last mount had taken below it and not used is lost, at most FS_INO_STEP numbers of 2^48.
 *
 * A filesystem with marks of lost parts (FS_ITEM_LOST) is not mounted: what is missing there would be taken for holes and for
 * names that were deleted.
 */
#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "fs/extent.h"
#include "fs/fs_int.h"
#include "fs/orphan.h"
#include "fs/records.h"
#include "fs/scrub.h"

void fs_now(struct fs *fs, struct timespec *ret)
{
	if (fs->opt.now)
		fs->opt.now(fs->opt.now_arg, ret);
	else
		clock_gettime(CLOCK_REALTIME, ret);
}

uint64_t fs_hash(struct fs *fs, const void *bytes, size_t len)
{
	const uint8_t *secret = store_secret(fs->store);
	uint8_t buf[sizeof(XXH64_hash_t) + FS_NAME_MAX];
	XXH64_hash_t seed;

	assert(len <= FS_NAME_MAX);
	/* Both halves of the secret matter: one as the seed, one in front of what is hashed. */
	memcpy(&seed, secret, sizeof(seed));
	memcpy(buf, secret + sizeof(seed), sizeof(seed));
	memcpy(buf + sizeof(seed), bytes, len);
	return XXH3_64bits_withSeed(buf, sizeof(seed) + len, seed);
}

/* ---- mkfs ---- */

int volume_put(struct store *s, struct batch *b)
{
	struct disk_volume d = { 0 };
	struct store_status st;

	store_status(s, &st);
	memcpy(d.uuid, st.uuid, sizeof(d.uuid));
	memcpy(d.label, st.label, sizeof(d.label));
	memcpy(d.secret, store_secret(s), sizeof(d.secret));
	d.blocks = le64_put(st.blocks);
	d.log_start = le64_put(st.log_start);
	d.log_blocks = le64_put(st.log_blocks);
	d.incompat = le64_put(st.incompat);
	d.created = le64_put(st.created_ns);
	return batch_put(b, key_make(FS_ORPHAN_INO, FS_ITEM_VOLUME, 0), &d, sizeof(d));
}

static int put_root(struct store *s, const struct fs_mkfs_options *o)
{
	struct inode root = {
		.ino = FS_ROOT_INO,
		.mode = S_IFDIR | (o->mode ? o->mode & 07777 : 0755),
		.uid = o->uid,
		.gid = o->gid,
		.nlink = 2,
		.parent = FS_ROOT_INO,
	};
	struct batch *b;
	int err;

	if (o->store.now_ns)
		root.mtime = (struct timespec){ (time_t)(o->store.now_ns / 1000000000),
						(long)(o->store.now_ns % 1000000000) };
	else
		clock_gettime(CLOCK_REALTIME, &root.mtime);
	root.atime = root.ctime = root.btime = root.mtime;
	err = batch_open(store_live(s), &b);
	if (err)
		return err;
	err = inode_put(b, &root);
	if (!err)
		err = volume_put(s, b);
	if (!err)
		err = batch_raise(b, FS_COUNTER_INO_LIMIT, FS_INO_FIRST);
	if (!err)
		err = batch_raise(b, FS_COUNTER_INODES_MADE, 1);
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

int fs_mkfs(struct bdev *dev, const struct fs_mkfs_options *o)
{
	struct store_options so = { .records = &fs_records, .manual = true, .seed = o->store.seed };
	struct store *s;
	int err;

	err = store_mkfs(dev, &o->store);
	if (!err)
		err = store_open(dev, &so, &s);
	if (err)
		return err;
	err = put_root(s, o);
	if (err) {
		store_crash(s);
		return err;
	}
	return store_close(s);
}

/* ---- mounting ---- */

static int init_locks(struct fs *fs)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	/* A stream of readers must not starve the writer. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (unsigned i = 0; i < FS_STRIPES; i++)
		pthread_rwlock_init(&fs->stripe[i], &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&fs->rename_lock, NULL);
	return 0;
}

static void release(struct fs *fs)
{
	lookups_close(fs->lookups);
	for (unsigned i = 0; i < FS_STRIPES; i++)
		pthread_rwlock_destroy(&fs->stripe[i]);
	pthread_mutex_destroy(&fs->rename_lock);
	mem_free(fs);
}

/* The root directory must be there, or this is a store of something else. */
static int check_root(struct fs *fs)
{
	struct inode root;
	int err = inode_load(store_live(fs->store), FS_ROOT_INO, &root);

	if (err == -ESTALE || (!err && !S_ISDIR(root.mode)))
		return corrupt("filesystem", FS_ROOT_INO, "no root directory", err ? 0 : root.mode, S_IFDIR);
	return err;
}

/* Nothing may be left of a repair. */
static int check_lost(struct fs *fs)
{
	struct key key, last = key_make(FS_ORPHAN_INO, FS_ITEM_LOST, UINT64_MAX);
	size_t len;
	int err = view_floor(store_live(fs->store), last, &key, NULL, 0, &len);

	if (err || key.obj != last.obj)
		return err == -ENOENT ? 0 : err;
	err_log(LOG_ERROR, "parts of the filesystem were lost, and its repair was not finished: run fsck.arbor -y");
	return -EUCLEAN;
}

static void init_numbers(struct fs *fs)
{
	uint64_t limit = store_counter(fs->store, FS_COUNTER_INO_LIMIT);

	if (limit < FS_INO_FIRST)
		limit = FS_INO_FIRST;
	atomic_init(&fs->ino_next, limit);
	atomic_init(&fs->ino_limit, limit);
	atomic_init(&fs->inodes_made, store_counter(fs->store, FS_COUNTER_INODES_MADE));
	atomic_init(&fs->inodes_freed, store_counter(fs->store, FS_COUNTER_INODES_FREED));
	fs->value_max = store_value_max(fs->store);
	fs->inline_max = fs->value_max < FS_INLINE_MAX ? fs->value_max : FS_INLINE_MAX;
	fs->extent_blocks = extent_blocks_max(fs);
}

int fs_mount(struct bdev *dev, const struct fs_options *opt, struct fs **ret)
{
	struct fs *fs = mem_zalloc(sizeof(*fs));
	int err;

	if (!fs)
		return -ENOMEM;
	fs->opt = *opt;
	fs->opt.store.records = &fs_records;
	fs->opt.store.manual |= opt->no_threads;
	fs->dev = dev;
	init_locks(fs);
	err = lookups_open(&fs->lookups);
	if (err)
		goto out_fs;
	err = store_open(dev, &fs->opt.store, &fs->store);
	if (err)
		goto out_fs;
	fs->read_only = fs->opt.store.read_only || dev->geo.read_only;
	err = opt->repair ? 0 : check_lost(fs);
	if (!err && !opt->repair)
		err = check_root(fs);
	if (err)
		goto out_store;
	init_numbers(fs);
	err = batch_pool_open(&fs->batches);
	if (err)
		goto out_store;
	err = scrub_open(fs);
	if (err)
		goto out_pool;
	err = orphans_open(fs);
	if (err)
		goto out_scrub;
	*ret = fs;
	return 0;

out_scrub:
	scrub_close(fs);
out_pool:
	batch_pool_close(fs->batches);
out_store:
	store_crash(fs->store);
out_fs:
	release(fs);
	return err;
}

int fs_unmount(struct fs *fs)
{
	int err;

	if (!fs)
		return 0;
	scrub_close(fs);
	orphans_close(fs);
	batch_pool_close(fs->batches);
	err = store_close(fs->store);
	release(fs);
	return err;
}

void fs_crash(struct fs *fs)
{
	scrub_close(fs);
	orphans_close(fs);
	batch_pool_close(fs->batches);
	store_crash(fs->store);
	release(fs);
}

struct store *fs_store(struct fs *fs)
{
	return fs->store;
}

/* ---- the whole ---- */

int fs_sync(struct fs *fs)
{
	return fs->read_only ? 0 : store_sync(fs->store);
}

/*
 * Inodes take no room of their own but a few hundred bytes in the tree, so how many more there can be follows from the
 * free space.
 */
#define BYTES_PER_INODE 512u

int fs_statfs(struct fs *fs, struct statvfs *ret)
{
	struct store_status st;
	uint64_t free, kept, avail, used = atomic_load(&fs->inodes_made), freed = atomic_load(&fs->inodes_freed);

	store_status(fs->store, &st);
	/* What was released and waits for its checkpoint is as good as free: who needs it waits for that. */
	free = st.blocks_free + st.blocks_pooled + st.blocks_reclaiming;
	if (free > st.blocks_usable)
		free = st.blocks_usable;
	kept = st.blocks_claimed + st.blocks_reserved;
	avail = free > kept ? free - kept : 0;
	free = free > st.blocks_claimed ? free - st.blocks_claimed : 0;
	used = used > freed ? used - freed : 0;
	*ret = (struct statvfs){
		.f_bsize = BLOCK_SIZE,
		.f_frsize = BLOCK_SIZE,
		.f_blocks = st.blocks_usable,
		.f_bfree = free,
		.f_bavail = avail,
		.f_ffree = avail * (BLOCK_SIZE / BYTES_PER_INODE),
		.f_favail = avail * (BLOCK_SIZE / BYTES_PER_INODE),
		.f_files = used + avail * (BLOCK_SIZE / BYTES_PER_INODE),
		.f_namemax = FS_NAME_MAX,
		.f_flag = fs->read_only ? ST_RDONLY : 0,
	};
	return 0;
}

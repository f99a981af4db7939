/*
 * The base images: small filesystems with a bit of everything.
 *
 *	0	4 KiB nodes; snapshots, clones, promises, orphans; killed, with a log of several segments
 *	1	the same with a second copy of every node, unmounted
 *	2	three levels of 4 KiB nodes (large attributes, long names); killed
 *	3	next to nothing, in nodes of 8 KiB with copies; killed
 *
 * Everything follows from fixed seeds and a clock that ticks.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/posix_acl.h>
#undef BLOCK_SIZE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "fs/acl.h"
#include "fs/fs_format.h"
#include "tests/fuzz/image.h"

#define B ((uint64_t)BLOCK_SIZE)

static const struct fs_caller caller = { 1000, 100, 022 };

struct recipe {
	struct simdev *disk;
	struct fs *fs;
	struct fs_options opt;
	struct batch *batch;
};

#define must(call) must_be_zero((call), #call, __LINE__)

static void must_be_zero(int err, const char *call, int line)
{
	if (!err)
		return;
	fprintf(stderr, "image_base.c:%d: %s: %s\n", line, call, strerror(-err));
	abort();
}

/* ---- shorthands: everything stands in some directory ---- */

static uint64_t entered(struct recipe *r, const struct fs_entry *e)
{
	fs_forget(r->fs, e->node, 1); /* it has a name */
	return e->node;
}

static uint64_t make(struct recipe *r, uint64_t dir, const char *name, mode_t mode)
{
	struct fs_entry e;

	must(S_ISDIR(mode) ? fs_mkdir(r->fs, &caller, dir, name, mode, &e)
			   : fs_mknod(r->fs, &caller, dir, name, mode, makedev(1, 3), &e));
	return entered(r, &e);
}

static uint64_t make_link(struct recipe *r, uint64_t dir, const char *name, const char *target)
{
	struct fs_entry e;

	must(fs_symlink(r->fs, &caller, target, dir, name, &e));
	return entered(r, &e);
}

static void add_name(struct recipe *r, uint64_t node, uint64_t dir, const char *name)
{
	struct fs_entry e;

	must(fs_link(r->fs, node, dir, name, &e));
	entered(r, &e);
}

static void write_at(struct recipe *r, uint64_t node, uint64_t off, size_t len)
{
	static char buf[128 * BLOCK_SIZE];

	for (size_t i = 0; i < len; i++)
		buf[i] = (char)(node * 31 + off + i * 7 + i / 256);
	must(fs_write(r->fs, node, buf, len, off, 0));
}

static void set_attr(struct recipe *r, uint64_t node, const char *name, size_t size)
{
	static char val[FS_XATTR_SIZE_MAX];

	memset(val, (int)size, sizeof(val));
	must(fs_setxattr(r->fs, node, name, val, size, 0, false));
}

static void truncate_to(struct recipe *r, uint64_t node, uint64_t size)
{
	struct fs_entry e;

	must(fs_setattr(r->fs, node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)size }, &e));
}

static void clone(struct recipe *r, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off, uint64_t len)
{
	uint64_t done;

	must(fs_copy_range(r->fs, from, from_off, to, to_off, len, &done));
}

static void set_acl(struct recipe *r, uint64_t node, const char *name)
{
	static const struct {
		uint16_t tag, perm;
		uint32_t id;
	} entry[] = {
		{ ACL_USER_OBJ, 7, UINT32_MAX }, { ACL_USER, 5, 1001 },	       { ACL_GROUP_OBJ, 5, UINT32_MAX },
		{ ACL_MASK, 5, UINT32_MAX },	 { ACL_OTHER, 4, UINT32_MAX },
	};
	uint8_t buf[4 + 8 * 5] = { 2 };

	for (unsigned i = 0; i < 5; i++) {
		le16 tag = le16_put(entry[i].tag), perm = le16_put(entry[i].perm);
		le32 id = le32_put(entry[i].id);

		memcpy(buf + 4 + 8 * i, &tag, 2);
		memcpy(buf + 6 + 8 * i, &perm, 2);
		memcpy(buf + 8 + 8 * i, &id, 4);
	}
	must(fs_setxattr(r->fs, node, name, buf, sizeof(buf), 0, false));
}

static void snapshot(struct recipe *r, const char *name)
{
	uint64_t id;

	must(snapshot_create(fs_store(r->fs), name, &id));
}

/* What an operation that was cut short leaves. */
static void leave_range(struct recipe *r, uint64_t node, uint64_t from, uint64_t to)
{
	struct disk_orphan d = { .from = le64_put(from), .to = le64_put(to) };

	must(batch_open(store_live(fs_store(r->fs)), &r->batch));
	must(batch_put(r->batch, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, node << 1 | FS_ORPHAN_RANGE), &d, sizeof(d)));
	must(batch_commit(r->batch, NULL));
	batch_close(r->batch);
}

static void leave_nameless(struct recipe *r, uint64_t dir)
{
	struct fs_entry e;

	must(fs_tmpfile(r->fs, &caller, dir, 0600, &e));
	write_at(r, e.node, 0, 3 * B); /* the reference is never given back */
}

/* ---- what is in it ---- */

static void fill_files(struct recipe *r)
{
	uint64_t a = make(r, FS_ROOT, "a", S_IFDIR | 0755), b = make(r, a, "b", S_IFDIR | 02775);
	uint64_t data = make(r, b, "data", S_IFREG | 0644), holes = make(r, a, "holes", S_IFREG | 0600);
	uint64_t small = make(r, FS_ROOT, "small", S_IFREG | 0644), part = make(r, FS_ROOT, "clone", S_IFREG | 0644);
	uint64_t x = make(r, FS_ROOT, "x", S_IFREG | 0644);
	static char target[FS_SYMLINK_MAX];

	make(r, b, "empty", S_IFDIR | 0700);
	write_at(r, data, 0, 5 * B + 77);
	write_at(r, data, 9 * B, 2 * B);
	for (unsigned i = 0; i < 6; i++)
		write_at(r, holes, i * 3 * B, B);
	must(fs_fallocate(r->fs, holes, FALLOC_FL_KEEP_SIZE, 20 * B, 6 * B));
	must(fs_fallocate(r->fs, holes, 0, 4 * B, 4 * B));
	write_at(r, small, 0, 300);
	add_name(r, small, a, "hard");
	add_name(r, small, b, "harder");
	clone(r, data, 0, part, 0, 4 * B);
	clone(r, data, B, part, 6 * B, 2 * B);
	make_link(r, FS_ROOT, "link", "a/b/data");
	memset(target, 't', sizeof(target) - 1);
	make_link(r, a, "long", target);
	make(r, FS_ROOT, "fifo", S_IFIFO | 0644);
	make(r, a, "null", S_IFCHR | 0666);
	make(r, a, "socket", S_IFSOCK | 0600);
	set_attr(r, x, "user.small", 10);
	set_attr(r, x, "user.big", 2500);
	set_attr(r, x, "security.capability", 20);
	set_attr(r, a, "trusted.dir", 0);
	set_acl(r, x, ACL_ACCESS);
	set_acl(r, b, ACL_ACCESS);
	set_acl(r, b, ACL_DEFAULT);
	make(r, b, "inherits", S_IFREG | 0666);
}

static void fill_many(struct recipe *r, const char *dir_name, unsigned n, size_t name_len)
{
	uint64_t dir = make(r, FS_ROOT, dir_name, S_IFDIR | 0755);

	for (unsigned i = 0; i < n; i++) {
		char name[FS_NAME_MAX + 1];
		uint64_t node;

		memset(name, 'n', sizeof(name));
		snprintf(name + name_len - 3, 4, "%03u", i);
		node = make(r, dir, name, S_IFREG | 0644);
		if (i % 4 == 1)
			write_at(r, node, 0, 40);
		else if (i % 4 == 2)
			write_at(r, node, (i % 3) * B, B);
	}
}

static uint64_t find(struct recipe *r, uint64_t dir, const char *name)
{
	struct fs_entry e;

	must(fs_lookup(r->fs, dir, name, &e));
	return entered(r, &e);
}

/* Snapshots in all their states: derived from each other, deleted between others, gone back to. */
static void fill_snapshots(struct recipe *r)
{
	struct store *s = fs_store(r->fs);

	snapshot(r, "first");
	write_at(r, find(r, find(r, FS_ROOT, "a"), "holes"), 0, 2 * B);
	must(fs_unlink(r->fs, FS_ROOT, "x"));
	snapshot(r, "second");
	write_at(r, find(r, FS_ROOT, "clone"), 0, B);
	make(r, FS_ROOT, "lost by going back", S_IFREG | 0644);
	snapshot(r, "third");
	must(snapshot_rollback(s, "first"));
	truncate_to(r, find(r, FS_ROOT, "clone"), 2 * B + 5);
	write_at(r, find(r, find(r, FS_ROOT, "a"), "holes"), 3 * B, 2 * B);
	snapshot(r, "fourth");
	must(snapshot_delete(s, "first")); /* others derive from it: it is kept, hidden */
	must(fs_unlink(r->fs, find(r, FS_ROOT, "a"), "hard"));
	must(fs_rename(r->fs, &caller, FS_ROOT, "fifo", FS_ROOT, "pipe", 0));
	leave_nameless(r, FS_ROOT);
	leave_range(r, find(r, FS_ROOT, "clone"), 0, 8 * B);
}

/* The end of the log: what is to be replayed. */
static void fill_log(struct recipe *r, bool long_record)
{
	uint64_t a = find(r, FS_ROOT, "a"), b = find(r, a, "b"), node;

	node = make(r, a, "logged", S_IFREG | 0644);
	write_at(r, node, 0, 2 * B + 9); /* rides */
	must(fs_sync(r->fs));
	write_at(r, node, 8 * B, 12 * B); /* too much to ride: on the check list */
	set_attr(r, node, "user.logged", 50);
	must(fs_sync(r->fs));
	must(fs_rename(r->fs, &caller, FS_ROOT, "small", b, "harder", 0));
	must(fs_rename(r->fs, &caller, a, "logged", FS_ROOT, "clone", RENAME_EXCHANGE));
	clone(r, node, 8 * B, node, 0, 3 * B);
	must(fs_fallocate(r->fs, node, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * B, 2 * B));
	truncate_to(r, node, 13 * B + 1);
	if (long_record)
		set_attr(r, node, "user.long", 40000);
	must(fs_sync(r->fs));
	leave_nameless(r, b);
	leave_range(r, node, 9 * B, 12 * B);
	make(r, b, "last", S_IFDIR | 0755);
	must(fs_unlink(r->fs, FS_ROOT, "pipe"));
	must(fs_sync(r->fs));
}

/* ---- the recipes ---- */

static void start(struct recipe *r, uint64_t blocks, uint32_t node_size, bool copies)
{
	struct fs_mkfs_options mo = { .store = { .node_size = node_size,
						 .log_blocks = 64,
						 .label = "fuzz",
						 .copies = copies,
						 .lazy_log = true,
						 .now_ns = 1,
						 .seed = 7 } };

	r->disk = simdev_new(&(struct simdev_options){ .blocks = blocks, .no_trace = true });
	image_options(&r->opt, 11);
	r->opt.store.cache_bytes = 8u << 20; /* large attributes are one batch */
	must(fs_mkfs(simdev_bdev(r->disk), &mo));
	must(fs_mount(simdev_bdev(r->disk), &r->opt, &r->fs));
}

struct simdev *image_recipe(unsigned n)
{
	struct recipe r = { 0 };

	start(&r, n == 2 ? 3072 : 1536, n == 3 ? 8192 : 4096, n % 2);
	if (n == 3) {
		write_at(&r, make(&r, make(&r, FS_ROOT, "d", S_IFDIR | 0755), "f", S_IFREG | 0644), 0, B + 1);
		must(fs_sync(r.fs));
		fs_crash(r.fs);
		return r.disk;
	}
	fill_files(&r);
	fill_many(&r, "many", n == 2 ? 60 : 20, n == 2 ? FS_NAME_MAX : 40);
	for (unsigned i = 0; n == 2 && i < 7; i++) {
		char name[16];

		snprintf(name, sizeof(name), "user.%u", i);
		set_attr(&r, find(&r, FS_ROOT, "small"), name, FS_XATTR_SIZE_MAX - i);
	}
	fill_snapshots(&r);
	must(store_checkpoint(fs_store(r.fs)));
	fill_log(&r, n == 0);
	if (n == 1) {
		must(store_checkpoint(fs_store(r.fs)));
		must(fs_unmount(r.fs));
	} else {
		fs_crash(r.fs);
	}
	return r.disk;
}

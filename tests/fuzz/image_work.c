/*
 * What is done with a mounted image: everything is looked at, everything is changed, and what stands above files (views,
 * snapshots, transactions) is used.
 *
 * The files are found by walking the directories, each at most once a directory names it, and bounded: a damaged filesystem may
 * have loops. What fails is no matter, damaged as it is. What matters: nothing falls over, comes back with what cannot be,
 * or goes on for ever; and where the check has found nothing wrong, no operation may meet damage.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/xattr.h>
#undef BLOCK_SIZE

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/fs_format.h"
#include "fs/records.h"
#include "tests/fuzz/image.h"

#define FILES_MAX 200u
#define NAMES_MAX 150u /* of one directory */
#define READ_MAX 70000u
#define ITEMS_MAX 20000u

static const struct fs_caller caller = { 1000, 100, 022 };

struct file {
	uint64_t node, parent;
	mode_t mode;
	uint64_t size;
	char name[FS_NAME_MAX + 1];
};

struct files {
	struct image_work *w;
	struct file *at; /* each with a reference, but for the root */
	unsigned n;
	/* The directory being read. */
	uint64_t dir, last;
	unsigned names;
};

void image_fail(const char *what, const char *cond, const char *file, int line)
{
	fprintf(stderr, "%s:%d: %s: not so: %s\n", file, line, what, cond);
	abort();
}

void image_say(const char *fmt, ...)
{
	va_list ap;

	if (!getenv("ARBOR_FUZZ_TALK"))
		return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/*
 * A result that any operation may have on a damaged filesystem, but not on a whole one. Checksums of data are another matter:
 * see fuzz_fsck.c.
 */
static int result(struct image_work *w, int err, const char *what)
{
	if (err == -EUCLEAN || err == -EBADMSG || err == -EIO || err == -EROFS || err == -ENOSPC)
		image_say("%s: %s", what, strerror(-err));
	image_must(err <= 0 && err > -4096, what);
	if (w->whole)
		image_must(err != -EUCLEAN && err != -EROFS && (err != -EIO || w->lost), what);
	return err;
}

/* Records are at most as long as the log, everything else is smaller. */
#define ALLOC_MAX (32u << 20)

static bool allow(void *arg, size_t bytes)
{
	(void)arg;
	image_must(bytes <= ALLOC_MAX, "size of an allocation");
	return true;
}

void image_guard(bool on)
{
	mem_set_hook(on ? allow : NULL, NULL);
}

static void tick(void *arg, struct timespec *ret)
{
	static time_t now = 1000000;

	(void)arg;
	*ret = (struct timespec){ ++now, 5 };
}

void image_options(struct fs_options *o, uint64_t seed)
{
	*o = (struct fs_options){
		.store = { .cache_bytes = 256u << 10, .data_bytes = 1u << 20, .seed = seed },
		.acl = true,
		.no_threads = true,
		.now = tick,
	};
}

/* ---- finding the files ---- */

static int on_name(void *arg, const struct fs_dirent *d)
{
	struct files *f = arg;
	struct file *new;

	image_must(d->name_len > 0 && d->name_len <= FS_NAME_MAX && !d->name[d->name_len], "length of a name");
	image_must(strlen(d->name) == d->name_len && !strchr(d->name, '/'), "bytes of a name");
	image_must(d->next > f->last && d->next < UINT64_C(1) << 63, "positions of readdir");
	f->last = d->next;
	if (++f->names > NAMES_MAX || f->n >= FILES_MAX)
		return 1;
	if (!d->entry)
		return 0;
	new = &f->at[f->n++];
	*new = (struct file){ d->entry->node, f->dir, d->entry->st.st_mode, (uint64_t)d->entry->st.st_size, "" };
	memcpy(new->name, d->name, d->name_len);
	return 0;
}

static int on_plain_name(void *arg, const struct fs_dirent *d)
{
	unsigned *n = arg;

	image_must(!d->entry && d->name_len <= FS_NAME_MAX, "a plain name");
	return ++*n > 10;
}

static bool seen(const struct files *f, unsigned i)
{
	for (unsigned j = 0; j < i; j++)
		if (f->at[j].node == f->at[i].node)
			return true;
	return false;
}

static void find_files(struct image_work *w, struct files *f)
{
	*f = (struct files){ .w = w, .at = calloc(FILES_MAX, sizeof(*f->at)), .n = 1 };
	if (!f->at)
		abort();
	f->at[0] = (struct file){ .node = FS_ROOT, .parent = FS_ROOT, .mode = S_IFDIR, .name = "." };
	for (unsigned i = 0; i < f->n; i++) {
		unsigned n = 0;

		if (!S_ISDIR(f->at[i].mode) || seen(f, i))
			continue;
		f->dir = f->at[i].node;
		f->last = 0;
		f->names = 0;
		result(w, fs_readdir(w->fs, f->dir, 0, true, on_name, f), "readdir");
		result(w, fs_readdir(w->fs, f->dir, f->last / 2, false, on_plain_name, &n), "readdir from the middle");
	}
}

static void forget_files(struct files *f)
{
	for (unsigned i = 1; i < f->n; i++)
		fs_forget(f->w->fs, f->at[i].node, 1);
	free(f->at);
}

/* ---- looking ---- */

static void read_at(struct image_work *w, uint64_t node, uint64_t off, size_t size, size_t *ret_len)
{
	static _Alignas(BLOCK_SIZE) uint8_t buf[FS_READ_BUFFER(READ_MAX)];
	const void *data = NULL;
	unsigned sum = 0;

	*ret_len = 0;
	if (result(w, fs_read(w->fs, node, off, size, buf, &data, ret_len), "read")) {
		*ret_len = 0;
		return;
	}
	image_must(*ret_len <= size, "length of what was read");
	if (!*ret_len)
		return;
	image_must((const uint8_t *)data >= buf && (const uint8_t *)data + *ret_len <= buf + FS_READ_BUFFER(size),
		   "place of what was read");
	for (size_t i = 0; i < *ret_len; i++)
		sum += ((const uint8_t *)data)[i];
	w->sum += sum;
}

static void look_at_data(struct image_work *w, const struct file *f)
{
	static const size_t sizes[] = { 1, 4095, 4097, 13, 70000, 4096, 8191 };
	uint64_t off = 0, to;
	size_t len;

	for (unsigned i = 0; i < 24; i++) {
		read_at(w, f->node, off, sizes[i % 7], &len);
		off += len ? len : sizes[i % 7];
	}
	read_at(w, f->node, f->size ? f->size - 1 : 0, 100, &len);
	read_at(w, f->node, f->size > 5000 ? f->size - 5000 : 0, 6000, &len);
	read_at(w, f->node, f->size, 1, &len);
	read_at(w, f->node, f->size / 2, 20000, &len);
	read_at(w, f->node, rng_below(&w->rng, f->size + 1), 20000, &len);
	off = 0;
	for (unsigned i = 0; i < 40; i++) {
		if (result(w, fs_seek(w->fs, f->node, off, i % 2 ? SEEK_HOLE : SEEK_DATA, &to), "seek"))
			break;
		image_must(to >= off, "seek goes forward");
		off = to;
	}
}

static void look_at_attrs(struct image_work *w, const struct file *f)
{
	static char list[FS_XATTR_SIZE_MAX], val[FS_XATTR_SIZE_MAX];
	size_t len = 0, all = 0;

	if (result(w, fs_listxattr(w->fs, f->node, list, sizeof(list), &len), "listxattr") || !len)
		return;
	image_must(len <= sizeof(list) && !list[len - 1], "list of attributes");
	(void)result(w, fs_listxattr(w->fs, f->node, NULL, 0, &all), "listxattr");
	for (size_t at = 0; at < len; at += strlen(list + at) + 1) {
		size_t n = 0;

		if (!result(w, fs_getxattr(w->fs, f->node, list + at, val, sizeof(val), &n), "getxattr"))
			image_must(n <= sizeof(val), "length of an attribute");
		(void)result(w, fs_getxattr(w->fs, f->node, list + at, val, 3, &n), "getxattr");
	}
}

static void look_at_file(struct image_work *w, const struct file *f)
{
	static char target[FS_SYMLINK_MAX + 1];
	struct fs_entry e;
	uint32_t flags;
	size_t len = 0;

	(void)result(w, fs_getattr(w->fs, f->node, &e), "getattr");
	(void)result(w, fs_getflags(w->fs, f->node, &flags), "getflags");
	if (!result(w, fs_lookup(w->fs, f->parent, f->name, &e), "lookup"))
		fs_forget(w->fs, e.node, 1);
	look_at_attrs(w, f);
	if (S_ISREG(f->mode))
		look_at_data(w, f);
	if (S_ISLNK(f->mode) && !result(w, fs_readlink(w->fs, f->node, target, sizeof(target), &len), "readlink"))
		image_must(len < sizeof(target) && !target[len], "length of a link's target");
	if (S_ISDIR(f->mode)) {
		if (!result(w, fs_lookup(w->fs, f->node, "..", &e), "lookup"))
			fs_forget(w->fs, e.node, 1);
		if (!result(w, fs_lookup(w->fs, f->node, "not there", &e), "lookup"))
			fs_forget(w->fs, e.node, 1);
	}
}

/* Items as they are, and the data they refer to. */
static void look_at_view(struct image_work *w, struct view *v)
{
	static _Alignas(BLOCK_SIZE) uint8_t buf[FS_EXTENT_BLOCKS_MAX * BLOCK_SIZE];
	struct key key, last = KEY_MIN, from, to;
	struct scan *scan;
	struct extent x;
	const void *val;
	size_t len;
	int err = 0;

	if (result(w, scan_open(v, KEY_MIN, KEY_MAX, &scan), "scan"))
		return;
	for (unsigned n = 0; err <= 0 && n < ITEMS_MAX; n++) {
		err = scan_next(scan, &key, &val, &len);
		if (err < 0) {
			(void)result(w, err, "scan");
			if (scan_skip(scan, &from, &to) > 0)
				break;
			continue;
		}
		if (err)
			break;
		image_must(!n || key_less(last, key), "order of a scan");
		last = key;
		if (record_extent(&fs_records, key, val, len, &x) && x.addr && n % 4 == 0)
			(void)result(w, view_read(v, x.addr, x.blocks, buf, NULL), "view_read");
		if (n % 16 == 0)
			(void)result(w, view_floor(v, (struct key){ key.obj, key.off + 1 }, &from, buf, 100, &len),
				     "view_floor");
	}
	scan_close(scan);
}

struct snapshots {
	char name[16][SNAPSHOT_NAME_MAX + 1];
	unsigned n;
};

static int on_snapshot(void *arg, const struct snapshot_info *info)
{
	struct snapshots *s = arg;

	image_must(strlen(info->name) <= SNAPSHOT_NAME_MAX, "name of a snapshot");
	if (s->n == 16)
		return 1;
	memcpy(s->name[s->n++], info->name, sizeof(info->name));
	return 0;
}

static void look_at_views(struct image_work *w)
{
	static struct snapshots s;
	struct store *store = fs_store(w->fs);
	struct view *v;

	look_at_view(w, store_live(store));
	s.n = 0;
	image_must(snapshot_list(store, on_snapshot, &s) <= 1, "list of snapshots");
	for (unsigned i = 0; i < s.n; i++)
		if (!snapshot_open(store, s.name[i], &v)) {
			look_at_view(w, v);
			view_close(v);
		}
}

void image_look(struct image_work *w)
{
	struct store_status st;
	struct statvfs sv;
	struct files f;

	find_files(w, &f);
	for (unsigned i = 0; i < f.n; i++)
		if (!seen(&f, i))
			look_at_file(w, &f.at[i]);
	forget_files(&f);
	look_at_views(w);
	store_status(fs_store(w->fs), &st);
	if (!result(w, fs_statfs(w->fs, &sv), "statfs"))
		image_must(sv.f_bavail <= sv.f_bfree && sv.f_bfree <= sv.f_blocks, "statfs");
}

/* ---- changing ---- */

static const struct file *some(struct files *f)
{
	return &f->at[rng_below(&f->w->rng, f->n)];
}

static uint64_t some_off(struct files *f, const struct file *file)
{
	struct rng *rng = &f->w->rng;
	uint64_t edge = rng_below(rng, 30) * BLOCK_SIZE;

	if (rng_chance(rng, 1, 8))
		return file->size + rng_below(rng, 10000);
	return rng_chance(rng, 1, 2) ? edge : edge + rng_below(rng, BLOCK_SIZE);
}

static void change_content(struct files *f, const struct file *file)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_ZERO_RANGE };
	static const uint8_t bytes[40000] = { 1, 2, 3 };
	struct image_work *w = f->w;
	uint64_t off = some_off(f, file), len = 1 + rng_below(&w->rng, sizeof(bytes)), done;
	struct fs_entry e;

	switch (rng_below(&w->rng, 5)) {
	case 0:
		result(w, fs_write(w->fs, file->node, bytes, len, off, 0), "write");
		break;
	case 1:
		result(w, fs_write(w->fs, file->node, bytes, 100, 0, FS_WRITE_APPEND | FS_WRITE_KILL_PRIV), "append");
		break;
	case 2:
		result(w, fs_setattr(w->fs, file->node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)off }, &e),
		       "truncate");
		break;
	case 3:
		result(w, fs_fallocate(w->fs, file->node, modes[rng_below(&w->rng, 4)], off, len), "fallocate");
		break;
	case 4:
		result(w,
		       fs_copy_range(w->fs, some(f)->node, off & ~UINT64_C(4095), file->node,
				     some_off(f, file) & ~UINT64_C(4095), len, &done),
		       "copy_range");
		break;
	}
}

static void change_attrs(struct files *f, const struct file *file)
{
	static const char *const names[] = { "user.small", "user.big", "user.new", "trusted.dir", "user.0" };
	static const char val[3000] = "value";
	struct image_work *w = f->w;
	const char *name = names[rng_below(&w->rng, 5)];
	struct stat st = { .st_mode = (mode_t)rng_below(&w->rng, 010000), .st_uid = 7, .st_mtim = { 99, 99 } };
	struct fs_entry e;

	switch (rng_below(&w->rng, 4)) {
	case 0:
		result(w, fs_setattr(w->fs, file->node, FS_SET_MODE | FS_SET_UID | FS_SET_MTIME, &st, &e), "setattr");
		break;
	case 1:
		result(w, fs_setxattr(w->fs, file->node, name, val, rng_below(&w->rng, sizeof(val)), 0, false),
		       "setxattr");
		break;
	case 2:
		result(w, fs_removexattr(w->fs, file->node, name), "removexattr");
		break;
	case 3:
		result(w, fs_setflags(w->fs, file->node, rng_chance(&w->rng, 1, 4) ? FS_NODUMP_FL : 0), "setflags");
		break;
	}
}

static void made(struct image_work *w, int err, const struct fs_entry *e)
{
	if (!result(w, err, "making a name"))
		fs_forget(w->fs, e->node, 1);
}

static uint64_t some_dir(struct files *f)
{
	for (unsigned i = 0; i < 8; i++) {
		const struct file *file = some(f);

		if (S_ISDIR(file->mode))
			return file->node;
	}
	return FS_ROOT;
}

static void change_names(struct files *f, const struct file *file)
{
	static const unsigned flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT };
	struct image_work *w = f->w;
	uint64_t dir = some_dir(f);
	const struct file *other = some(f);
	struct fs_entry e;
	char name[32];

	snprintf(name, sizeof(name), "new %u", (unsigned)rng_below(&w->rng, 20));
	switch (rng_below(&w->rng, 10)) {
	case 0:
		made(w, fs_mknod(w->fs, &caller, dir, name, S_IFREG | 0644, 0, &e), &e);
		break;
	case 1:
		made(w, fs_mkdir(w->fs, &caller, dir, name, 0755, &e), &e);
		break;
	case 2:
		made(w, fs_symlink(w->fs, &caller, "target", dir, name, &e), &e);
		break;
	case 3:
		made(w, fs_link(w->fs, file->node, dir, name, &e), &e);
		break;
	case 4:
		made(w, fs_tmpfile(w->fs, &caller, dir, 0600, &e), &e);
		break;
	case 5:
		result(w, fs_unlink(w->fs, file->parent, file->name), "unlink");
		break;
	case 6:
		result(w, fs_rmdir(w->fs, file->parent, file->name), "rmdir");
		break;
	case 7:
		result(w, fs_rename(w->fs, &caller, file->parent, file->name, dir, name, 0), "rename");
		break;
	default:
		result(w,
		       fs_rename(w->fs, &caller, file->parent, file->name, other->parent, other->name,
				 flags[rng_below(&w->rng, 5)]),
		       "rename over");
		break;
	}
}

static void change_files(struct image_work *w, unsigned steps)
{
	struct files f;

	find_files(w, &f);
	for (unsigned i = 0; i < steps; i++) {
		const struct file *file = some(&f);

		switch (rng_below(&w->rng, 8)) {
		case 0:
		case 1:
		case 2:
			change_content(&f, file);
			break;
		case 3:
			change_attrs(&f, file);
			break;
		case 7:
			if (rng_chance(&w->rng, 1, 4))
				result(w,
				       rng_chance(&w->rng, 1, 4) ? store_checkpoint(fs_store(w->fs)) : fs_sync(w->fs),
				       "sync");
			break;
		default:
			change_names(&f, file);
			break;
		}
	}
	forget_files(&f);
	(void)result(w, fs_reap(w->fs), "reap");
}

/* A transaction that changes nothing that matters: the root's inode becomes what it is. */
static void change_in_txn(struct image_work *w)
{
	struct key key = key_make(FS_ROOT_INO, FS_ITEM_INODE, 0);
	uint8_t val[sizeof(struct disk_inode)];
	struct batch *b = NULL;
	struct view *v;
	size_t len = 0;
	int err;

	if (result(w, txn_begin(fs_store(w->fs), &v), "txn_begin"))
		return;
	err = view_get(v, key, val, sizeof(val), &len);
	if (!err)
		err = batch_open(v, &b);
	if (!err)
		err = batch_put(b, key, val, len);
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	if (!err)
		err = txn_commit(v, &merge_by_key, NULL, &(struct txn_commit_options){ 0 });
	(void)result(w, err, "transaction");
	view_close(v);
}

static void change_snapshots(struct image_work *w)
{
	static struct snapshots s;
	struct store *store = fs_store(w->fs);
	uint64_t id;

	s.n = 0;
	(void)snapshot_list(store, on_snapshot, &s);
	(void)result(w, snapshot_create(store, "made by fuzzing", &id), "snapshot_create");
	for (unsigned i = 0; i < s.n; i++)
		if (rng_chance(&w->rng, 1, 2))
			(void)result(w, snapshot_delete(store, s.name[i]), "snapshot_delete");
}

void image_change_all(struct image_work *w)
{
	change_files(w, 60);
	change_in_txn(w);
	image_say("change: sync, snapshots");
	(void)result(w, fs_sync(w->fs), "sync");
	change_snapshots(w);
	image_say("change: more");
	change_files(w, 60);
	(void)result(w, store_checkpoint(fs_store(w->fs)), "checkpoint");
	change_files(w, 20);
}

#include "tests/kit/fskit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/check.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"

const struct fs_caller fskit_root = { 0, 0, 022 }, fskit_user = { 1000, 1000, 022 };

#define must(call) must_be_zero((call), #call, __LINE__)

static void must_be_zero(int err, const char *call, int line)
{
	if (!err)
		return;
	print_message("# fskit.c:%d: %s: %d\n", line, call, err);
	storekit_print();
	fail();
}

static void tick(void *arg, struct timespec *ret)
{
	struct fskit *k = arg;

	*ret = (struct timespec){ __atomic_add_fetch(&k->clock.tv_sec, 1, __ATOMIC_RELAXED), 5 };
}

void fskit_init(struct fskit *k, const struct fskit_options *o)
{
	static const struct fskit_options none;
	struct fs_mkfs_options mo = { 0 };

	o = o ? o : &none;
	storekit_quiet();
	*k = (struct fskit){ .clock = { .tv_sec = 1000000 } };
	mo.store.node_size = o->node_size ? o->node_size : 4096;
	mo.store.log_blocks = o->log_blocks ? o->log_blocks : 256;
	mo.store.copies = o->copies;
	mo.store.seed = 7;
	mo.store.now_ns = 1;
	mo.store.lazy_log = true;
	k->disk = simdev_new(&(struct simdev_options){ .blocks = o->blocks ? o->blocks : 8192 });
	k->opt = (struct fs_options){
		.store = { .seed = 11 },
		.acl = o->acl,
		.no_threads = !o->threads,
		.now = tick,
		.now_arg = k,
	};
	must(fs_mkfs(simdev_bdev(k->disk), &mo));
	fskit_mount(k);
}

void fskit_release(struct fskit *k)
{
	if (k->fs)
		fs_crash(k->fs);
	simdev_free(k->disk);
	*k = (struct fskit){ 0 };
}

void fskit_mount(struct fskit *k)
{
	k->opt.store.seed++; /* a seed used twice would give two runs the same log epoch */
	must(fs_mount(simdev_bdev(k->disk), &k->opt, &k->fs));
}

void fskit_unmount(struct fskit *k)
{
	struct fs *fs = k->fs;

	k->fs = NULL;
	must(fs_unmount(fs));
}

void fskit_remount(struct fskit *k)
{
	fskit_unmount(k);
	fskit_mount(k);
}

void fskit_reboot(struct fskit *k, bool power)
{
	fs_crash(k->fs);
	k->fs = NULL;
	if (power)
		simdev_power_cut(&k->disk);
	fskit_mount(k);
}

static void print_problem(void *arg, const struct fs_problem_report *r)
{
	(void)arg;
	print_message("# problem %d: ino %llu %s: %s\n", (int)r->problem, (unsigned long long)r->ino,
		      r->path ? r->path : "-", r->text);
}

void fskit_check(struct fskit *k)
{
	struct fs_check_options o = { .data = true, .threads = 1, .report = print_problem };
	struct fs_check_result r;

	must(fs_reap(k->fs));
	must(fs_check(k->fs, &o, &r));
	k->checked = r.structure;
}

/* ---- paths ---- */

/* The node of all but the last part of the path; *ret_name is the last. */
static int parent_of(struct fskit *k, const char *path, uint64_t *ret, const char **ret_name)
{
	uint64_t node = FS_ROOT;
	const char *slash;

	while ((slash = strchr(path, '/'))) {
		char name[256];
		struct fs_entry e;
		int err;

		snprintf(name, sizeof(name), "%.*s", (int)(slash - path), path);
		err = fs_lookup(k->fs, node, name, &e);
		if (err)
			return err;
		fs_forget(k->fs, e.node, 1);
		node = e.node;
		path = slash + 1;
	}
	*ret = node;
	*ret_name = path;
	return 0;
}

uint64_t fskit_node(struct fskit *k, const char *path)
{
	uint64_t parent;
	struct fs_entry e;

	if (!*path)
		return FS_ROOT;
	if (parent_of(k, path, &parent, &path) || fs_lookup(k->fs, parent, path, &e))
		return 0;
	fs_forget(k->fs, e.node, 1);
	return e.node;
}

static int make(struct fskit *k, const char *path, mode_t mode)
{
	struct fs_entry e;
	uint64_t parent;
	int err = parent_of(k, path, &parent, &path);

	if (!err)
		err = S_ISDIR(mode) ? fs_mkdir(k->fs, &fskit_root, parent, path, mode, &e)
				    : fs_mknod(k->fs, &fskit_root, parent, path, mode, 0, &e);
	if (!err)
		fs_forget(k->fs, e.node, 1);
	return err;
}

int fskit_mkdir(struct fskit *k, const char *path)
{
	return make(k, path, S_IFDIR | 0777);
}

int fskit_create(struct fskit *k, const char *path)
{
	return make(k, path, S_IFREG | 0666);
}

int fskit_unlink(struct fskit *k, const char *path)
{
	uint64_t parent;
	int err = parent_of(k, path, &parent, &path);

	return err ? err : fs_unlink(k->fs, parent, path);
}

int fskit_write(struct fskit *k, const char *path, const void *data, size_t len, uint64_t off)
{
	uint64_t node = fskit_node(k, path);
	int err = node ? 0 : -ENOENT;

	for (size_t done = 0; !err && done < len; done += FS_IO_MAX)
		err = fs_write(k->fs, node, (const char *)data + done, len - done < FS_IO_MAX ? len - done : FS_IO_MAX,
			       off + done, 0);
	return err;
}

void *fskit_read(struct fskit *k, const char *path, size_t *ret_len)
{
	uint64_t node = fskit_node(k, path);
	size_t size, done = 0;
	char *all, *buf;

	assert_true(node);
	size = (size_t)fskit_stat(k, path).st_size;
	all = mem_alloc(size + 1);
	buf = mem_alloc_blocks(FS_READ_BUFFER(FS_IO_MAX));
	while (done < size) {
		const void *data;
		size_t len;

		must(fs_read(k->fs, node, done, size - done < FS_IO_MAX ? size - done : FS_IO_MAX, buf, &data, &len));
		assert_true(len > 0);
		memcpy(all + done, data, len);
		done += len;
	}
	mem_free(buf);
	*ret_len = size;
	return all;
}

int fskit_truncate(struct fskit *k, const char *path, uint64_t size)
{
	uint64_t node = fskit_node(k, path);
	struct fs_entry e;

	return node ? fs_setattr(k->fs, node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)size }, &e) : -ENOENT;
}

struct stat fskit_stat(struct fskit *k, const char *path)
{
	uint64_t node = fskit_node(k, path);
	struct fs_entry e;

	assert_true(node);
	must(fs_getattr(k->fs, node, &e));
	return e.st;
}

uint64_t fskit_free(struct fskit *k)
{
	struct store_status st;

	for (unsigned i = 0; i < 3; i++)
		must(store_checkpoint(fs_store(k->fs)));
	store_status(fs_store(k->fs), &st);
	return st.blocks_free;
}

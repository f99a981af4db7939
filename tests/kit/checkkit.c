#include "tests/kit/checkkit.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "fs/xattr.h"
#include "tests/kit/test.h"

#define BIG 3000u /* an attribute of several items */

/* ---- what was told, and what should be ---- */

static void on_report(void *arg, const struct fs_problem_report *r)
{
	struct checkkit *f = arg;
	struct checkkit_report *g = &f->got[f->n_got < CHECKKIT_REPORTS ? f->n_got++ : CHECKKIT_REPORTS - 1];

	*g = (struct checkkit_report){ .problem = r->problem, .ino = r->ino };
	snprintf(g->view, sizeof(g->view), "%s", r->view);
	snprintf(g->path, sizeof(g->path), "%s", r->path ? r->path : "-");
	snprintf(g->text, sizeof(g->text), "%s", r->text);
	assert_true(r->text[0] && !strchr(r->text, '\n'));
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
	struct checkkit *f = arg;

	assert_true(phase[0] && done <= total);
	f->n_progress++;
}

void ck_want_in(struct checkkit *f, const char *view, enum fs_problem problem, uint64_t ino, const char *path)
{
	struct checkkit_report *w = &f->want[f->n_want++];

	*w = (struct checkkit_report){ .problem = problem, .ino = ino };
	snprintf(w->view, sizeof(w->view), "%s", view);
	snprintf(w->path, sizeof(w->path), "%s", path ? path : "-");
}

void ck_want(struct checkkit *f, enum fs_problem problem, uint64_t ino, const char *path)
{
	ck_want_in(f, "live", problem, ino, path);
}

static void print_reports(const char *what, const struct checkkit_report *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		print_message("# %s: %s: problem %d, inode %llu, %s: %s\n", what, r[i].view, (int)r[i].problem,
			      (unsigned long long)r[i].ino, r[i].path, r[i].text);
}

void ck_check(struct checkkit *f)
{
	bool same;
	int err;

	f->n_got = 0;
	f->opt.report = on_report;
	f->opt.progress = on_progress;
	f->opt.arg = f;
	f->opt.threads = f->opt.threads ? f->opt.threads : 1;
	err = fs_check(f->k.fs, &f->opt, &f->result);
	same = f->n_got == f->n_want && err == (f->n_want ? -EUCLEAN : 0) && f->result.problems == f->n_got;
	for (unsigned i = 0; same && i < f->n_got; i++)
		same = f->got[i].problem == f->want[i].problem && f->got[i].ino == f->want[i].ino &&
		       !strcmp(f->got[i].path, f->want[i].path) && !strcmp(f->got[i].view, f->want[i].view);
	if (!same) {
		print_message("# result %d\n", err);
		print_reports("want", f->want, f->n_want);
		print_reports("got", f->got, f->n_got);
		fail();
	}
}

/* ---- the filesystem ---- */

uint64_t ck_node(struct checkkit *f, const char *path)
{
	uint64_t n = fskit_node(&f->k, path);

	assert_true(n);
	return n;
}

static void make_special(struct checkkit *f, const char *name, mode_t mode, dev_t rdev)
{
	struct fs_entry e;

	assert_int_equal(fs_mknod(f->k.fs, &fskit_root, FS_ROOT, name, mode, rdev, &e), 0);
	fs_forget(f->k.fs, e.node, 1);
}

static void set_xattr(struct checkkit *f, const char *path, const char *name, size_t size)
{
	static const char val[BIG];

	assert_int_equal(fs_setxattr(f->k.fs, ck_node(f, path), name, val, size, 0, false), 0);
}

void checkkit_init(struct checkkit *f, uint64_t blocks)
{
	static const char text[3 * BLOCK_SIZE] = "some data";
	struct fskit *k = &f->k;
	struct fs_entry e;

	memset(f, 0, sizeof(*f));
	f->opt.no_structure = true;
	fskit_init(k, &(struct fskit_options){ .blocks = blocks });
	assert_int_equal(fskit_mkdir(k, "a"), 0);
	assert_int_equal(fskit_mkdir(k, "a/b"), 0);
	assert_int_equal(fskit_mkdir(k, "empty"), 0);
	assert_int_equal(fskit_create(k, "a/b/file"), 0);
	assert_int_equal(fskit_write(k, "a/b/file", text, sizeof(text), 0), 0);
	assert_int_equal(fskit_create(k, "small"), 0);
	assert_int_equal(fskit_write(k, "small", "hello", 5, 0), 0);
	assert_int_equal(fskit_create(k, "sparse"), 0);
	assert_int_equal(fs_fallocate(k->fs, ck_node(f, "sparse"), FALLOC_FL_KEEP_SIZE, 4 * BLOCK_SIZE, 8 * BLOCK_SIZE),
			 0);
	assert_int_equal(fs_link(k->fs, ck_node(f, "small"), ck_node(f, "a"), "hard", &e), 0);
	fs_forget(k->fs, e.node, 1);
	assert_int_equal(fs_symlink(k->fs, &fskit_root, "small", FS_ROOT, "link", &e), 0);
	fs_forget(k->fs, e.node, 1);
	make_special(f, "fifo", S_IFIFO | 0644, 0);
	make_special(f, "null", S_IFCHR | 0666, makedev(1, 3));
	assert_int_equal(fskit_create(k, "x"), 0);
	set_xattr(f, "x", "user.small", 10);
	set_xattr(f, "x", "user.big", BIG);
	set_xattr(f, "a", "user.dir", 0);
	assert_int_equal(fs_tmpfile(k->fs, &fskit_root, FS_ROOT, 0600, &e), 0);
	f->tmp = e.node;
	assert_int_equal(batch_open(store_live(fs_store(k->fs)), &f->b), 0);
}

void checkkit_release(struct checkkit *f)
{
	batch_close(f->b);
	fskit_release(&f->k);
}

void checkkit_remount(struct checkkit *f)
{
	batch_close(f->b);
	fskit_remount(&f->k);
	assert_int_equal(batch_open(store_live(fs_store(f->k.fs)), &f->b), 0);
}

/* ---- items put by hand; ck_commit() makes them one batch ---- */

void ck_commit(struct checkkit *f)
{
	assert_int_equal(batch_commit(f->b, NULL), 0);
}

struct inode ck_get(struct checkkit *f, uint64_t ino)
{
	struct inode i;

	assert_int_equal(inode_load(store_live(fs_store(f->k.fs)), ino, &i), 0);
	return i;
}

void ck_put(struct checkkit *f, const struct inode *i)
{
	assert_int_equal(inode_put(f->b, i), 0);
}

void ck_put_bytes(struct checkkit *f, struct key key, const void *val, size_t len)
{
	assert_int_equal(batch_put(f->b, key, val, len), 0);
}

void ck_del(struct checkkit *f, struct key key)
{
	assert_int_equal(batch_del(f->b, key), 0);
}

struct key ck_name_key(struct checkkit *f, uint64_t dir, const char *name, unsigned slot)
{
	return key_make(dir, FS_ITEM_DIRENT, dir_hash(f->k.fs, name, strlen(name)) << FS_SLOT_BITS | slot);
}

void ck_put_name(struct checkkit *f, uint64_t dir, const char *name, unsigned slot, uint64_t ino, unsigned type)
{
	assert_int_equal(dir_put(f->b, ck_name_key(f, dir, name, slot), name, strlen(name), ino, type), 0);
}

void ck_put_claim(struct checkkit *f, uint64_t ino, uint64_t off, uint32_t blocks)
{
	struct disk_extent d = { .blocks = le32_put(blocks) };

	ck_put_bytes(f, key_make(ino, FS_ITEM_EXTENT, off), &d, sizeof(d));
}

void ck_put_orphan(struct checkkit *f, uint64_t ino, enum fs_orphan_kind kind, uint64_t from, uint64_t to)
{
	struct disk_orphan d = { .from = le64_put(from), .to = le64_put(to) };

	ck_put_bytes(f, key_make(FS_ORPHAN_INO, FS_ITEM_ORPHAN, ino << 1 | kind), &d, sizeof(d));
}

void ck_account(struct checkkit *f, uint64_t dir, int names, int subdirs)
{
	struct inode i = ck_get(f, dir);

	i.size += (uint64_t)(int64_t)names;
	i.nlink += (uint32_t)subdirs;
	ck_put(f, &i);
}

struct key ck_xattr_at(struct checkkit *f, uint64_t ino, const char *name, unsigned slot, unsigned chunk)
{
	return key_make(ino, FS_ITEM_XATTR, xattr_hash(f->k.fs, name, strlen(name)) << 16 | slot << 8 | chunk);
}

void ck_copy_xattr(struct checkkit *f, struct key from, struct key to)
{
	uint8_t buf[4096];
	size_t len;

	assert_int_equal(view_get(store_live(fs_store(f->k.fs)), from, buf, sizeof(buf), &len), 0);
	ck_put_bytes(f, to, buf, len);
}

#include "tests/kit/metakit.h"

#include <dirent.h>
#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/space_int.h"
#include "fs/fs_format.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"
#include "wal/snapshot_int.h"

/* ---- places ---- */

static void add(struct meta_places *p, struct meta_place place)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->at[i].addr == place.addr)
			return;
	assert_int_equal(mem_grow((void **)&p->at, &p->cap, p->n + 1, sizeof(*p->at)), 0);
	p->at[p->n++] = place;
}

struct collect {
	struct meta_places *p;
	uint32_t blocks;
};

static int on_ref(void *arg, struct ref ref, unsigned level)
{
	struct collect *c = arg;

	add(c->p, (struct meta_place){ META_NODE, ref.addr, c->blocks, ref.copy, level });
	if (ref.copy)
		add(c->p, (struct meta_place){ META_COPY, ref.copy, c->blocks, ref.addr, level });
	return 0;
}

static void add_tree(struct store *s, struct collect *c, uint64_t tree, const struct root *root)
{
	static const struct walk_ops ops = { .ref = on_ref };

	assert_int_equal(tree_walk(s->cache, tree, root, &ops, c), 0);
}

void metakit_places(struct fskit *k, struct meta_places *ret)
{
	struct store *s = fs_store(k->fs);
	struct collect c = { ret, s->super.node_size / BLOCK_SIZE };
	struct snapshots a;

	*ret = (struct meta_places){ 0 };
	add(ret, (struct meta_place){ META_SUPER, SUPER_SLOT0, 1, SUPER_SLOT1, 0 });
	add(ret, (struct meta_place){ META_SUPER, SUPER_SLOT1, 1, SUPER_SLOT0, 0 });
	for (unsigned level = 0; level <= s->space->shape.levels; level++)
		for (uint64_t g = 0; g < s->space->shape.groups; g += space_span(level)) {
			struct space_radix *parent;
			struct space_child *child;

			pthread_mutex_lock(&s->space->lock);
			child = space_find_child_locked(s->space, level, g, &parent);
			if (child && child->disk.gen)
				add(ret, (struct meta_place){ META_SPACE, space_home_addr(level, g, child->disk.home),
							      1, 0, level });
			pthread_mutex_unlock(&s->space->lock);
		}
	add_tree(s, &c, TREE_FILES, &s->super.files);
	add_tree(s, &c, TREE_SYSTEM, &s->super.system);
	assert_int_equal(snapshots_read(s, &a), 0);
	for (size_t i = 0; i < a.n; i++)
		add_tree(s, &c, TREE_FILES, &a.at[i].root);
	mem_free(a.at);
}

void metakit_free(struct meta_places *p)
{
	mem_free(p->at);
	*p = (struct meta_places){ 0 };
}

uint64_t metakit_block(struct fskit *k, const char *path, uint64_t i)
{
	struct disk_extent d;
	struct key key;
	size_t len;
	uint64_t ino = fskit_node(k, path);

	assert_int_equal(view_floor(store_live(fs_store(k->fs)), key_make(ino, FS_ITEM_EXTENT, i * BLOCK_SIZE), &key,
				    &d, sizeof(d), &len),
			 0);
	if (key.obj != key_make(ino, FS_ITEM_EXTENT, 0).obj || !le64_get(d.addr) ||
	    i - key.off / BLOCK_SIZE >= le32_get(d.blocks))
		return 0;
	return le64_get(d.addr) + i - key.off / BLOCK_SIZE;
}

/* ---- content ---- */

static void write_file(struct fskit *k, const char *path, size_t len, uint64_t seed)
{
	static uint8_t buf[40 * BLOCK_SIZE];
	struct rng r;

	rng_seed(&r, seed);
	assert_true(len <= sizeof(buf));
	rng_bytes(&r, buf, len);
	assert_int_equal(fskit_create(k, path), 0);
	if (len)
		assert_int_equal(fskit_write(k, path, buf, len, 0), 0);
}

static void clone_file(struct fskit *k, const char *from, const char *to, size_t len)
{
	uint64_t done;

	assert_int_equal(fskit_create(k, to), 0);
	assert_int_equal(fs_copy_range(k->fs, fskit_node(k, from), 0, fskit_node(k, to), 0, len, &done), 0);
}

static void one_file(struct fskit *k, unsigned i)
{
	static const size_t sizes[] = { 0, 17, 2000, 5000, 3 * BLOCK_SIZE, 9 * BLOCK_SIZE + 1, 33 * BLOCK_SIZE };
	char path[64], other[64];
	size_t len = sizes[i % ARRAY_LEN(sizes)];

	snprintf(path, sizeof(path), "d%u/file%u", i % 4, i);
	write_file(k, path, len, i);
	if (i % 5 == 0)
		assert_int_equal(fs_setxattr(k->fs, fskit_node(k, path), "user.note", path, strlen(path), 0, false), 0);
	if (i % 14 == 4) {
		snprintf(other, sizeof(other), "d%u/clone%u", i % 4, i);
		clone_file(k, path, other, len);
	}
	if (i % 11 == 3)
		assert_int_equal(fs_fallocate(k->fs, fskit_node(k, path), FALLOC_FL_KEEP_SIZE, 64 * BLOCK_SIZE,
					      4 * BLOCK_SIZE),
				 0);
	if (i % 9 == 8) {
		snprintf(other, sizeof(other), "d%u/file%u", (i - 3) % 4, i - 3);
		assert_int_equal(fskit_unlink(k, other), 0);
	}
}

void metakit_fill(struct fskit *k, unsigned files, bool snapshot)
{
	struct fs_entry e;
	char name[16];

	for (unsigned i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "d%u", i);
		assert_int_equal(fskit_mkdir(k, name), 0);
	}
	assert_int_equal(fs_symlink(k->fs, &fskit_root, "d0/file0", FS_ROOT, "link", &e), 0);
	fs_forget(k->fs, e.node, 1);
	for (unsigned i = 0; i < files; i++) {
		one_file(k, i);
		if (snapshot && i == files / 2)
			assert_int_equal(snapshot_create(fs_store(k->fs), "half", NULL), 0);
		if (i % 32 == 31)
			assert_int_equal(store_checkpoint(fs_store(k->fs)), 0);
	}
	assert_int_equal(fs_reap(k->fs), 0);
}

/* ---- reading everything ---- */

struct names {
	struct names *next;
	uint64_t ino;
	unsigned type;
	char name[FS_NAME_MAX + 1];
};

static int on_name(void *arg, const struct fs_dirent *d)
{
	struct names **list = arg, *n;

	if (!strcmp(d->name, ".") || !strcmp(d->name, ".."))
		return 0;
	n = mem_zalloc(sizeof(*n));
	assert_non_null(n);
	n->ino = d->ino;
	n->type = d->type;
	memcpy(n->name, d->name, d->name_len);
	n->next = *list;
	*list = n;
	return 0;
}

struct digest {
	struct fskit *k;
	uint64_t sum;
	unsigned stray;
};

static void mix(struct digest *d, const void *bytes, size_t len)
{
	d->sum = XXH3_64bits_withSeed(bytes, len, d->sum);
}

static void digest_file(struct digest *d, uint64_t node, uint64_t size)
{
	const void *data;
	size_t len;
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(FS_IO_MAX));

	assert_non_null(buf);
	for (uint64_t off = 0; off < size; off += FS_IO_MAX) {
		if (fs_read(d->k->fs, node, off, FS_IO_MAX, buf, &data, &len))
			d->stray++;
		else
			mix(d, data, len);
	}
	mem_free(buf);
}

static void digest_entry(struct digest *d, uint64_t node, const struct fs_entry *e)
{
	char text[4096];
	size_t len;
	int err;

	mix(d, &e->st.st_size, sizeof(e->st.st_size));
	mix(d, &e->st.st_mode, sizeof(e->st.st_mode));
	mix(d, &e->st.st_nlink, sizeof(e->st.st_nlink));
	mix(d, &e->st.st_blocks, sizeof(e->st.st_blocks));
	mix(d, &e->st.st_mtim.tv_sec, sizeof(e->st.st_mtim.tv_sec));
	err = fs_getxattr(d->k->fs, node, "user.note", text, sizeof(text), &len);
	if (!err)
		mix(d, text, len);
	d->stray += err && err != -ENODATA;
	if (S_ISLNK(e->st.st_mode)) {
		err = fs_readlink(d->k->fs, node, text, sizeof(text), &len);
		d->stray += err != 0;
		if (!err)
			mix(d, text, len);
	}
	if (S_ISREG(e->st.st_mode))
		digest_file(d, node, (uint64_t)e->st.st_size);
}

static void digest_dir(struct digest *d, uint64_t node)
{
	struct names *list = NULL, *n;

	d->stray += fs_readdir(d->k->fs, node, 0, false, on_name, &list) != 0;
	while ((n = list)) {
		struct fs_entry e;
		int err = fs_lookup(d->k->fs, node, n->name, &e);

		list = n->next;
		d->stray += err != 0;
		if (!err) {
			mix(d, n->name, strlen(n->name));
			digest_entry(d, e.node, &e);
			if (S_ISDIR(e.st.st_mode))
				digest_dir(d, e.node);
			fs_forget(d->k->fs, e.node, 1);
		}
		mem_free(n);
	}
}

uint64_t metakit_digest(struct fskit *k, unsigned *stray)
{
	struct digest d = { .k = k };

	digest_dir(&d, FS_ROOT);
	if (stray)
		*stray = d.stray;
	else
		assert_int_equal(d.stray, 0);
	return d.sum;
}

#include "tests/kit/filekit.h"

#include <string.h>

#include "btree/mem.h"
#include "fs/file.h"
#include "tests/kit/test.h"

void filekit_init(struct filekit *f, struct fskit *k, const char *name, size_t cap)
{
	*f = (struct filekit){ .k = k, .name = name, .cap = cap, .tag = 1 };
	f->data = mem_zalloc(cap);
	f->bytes = mem_alloc(cap);
	assert_non_null(f->data);
	assert_non_null(f->bytes);
	assert_int_equal(fskit_create(k, name), 0);
	f->node = fskit_node(k, name);
	assert_true(f->node);
}

void filekit_release(struct filekit *f)
{
	mem_free(f->data);
	mem_free(f->bytes);
	*f = (struct filekit){ 0 };
}

void filekit_copy(struct filekit *to, const struct filekit *from)
{
	assert_int_equal(to->cap, from->cap);
	memcpy(to->data, from->data, from->cap);
	to->size = from->size;
	to->tag = from->tag;
	to->node = from->node;
}

static void make_bytes(uint8_t *p, size_t len, uint32_t tag)
{
	uint32_t x = tag * 2654435761u | 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		p[i] = (uint8_t)(x | 1); /* never zero: what is zero was not written */
	}
}

void filekit_expect_write(struct filekit *f, size_t off, size_t len)
{
	make_bytes(f->data + off, len, f->tag++);
	if (len && off + len > f->size)
		f->size = off + len;
}

void filekit_expect_truncate(struct filekit *f, size_t size)
{
	if (size < f->size)
		memset(f->data + size, 0, f->size - size);
	f->size = size;
}

static int write_at(struct filekit *f, size_t off, size_t len, unsigned flags)
{
	int err;

	assert_true(off + len <= f->cap);
	make_bytes(f->bytes, len, f->tag);
	err = fs_write(f->k->fs, f->node, f->bytes, len, flags & FS_WRITE_APPEND ? 12345 : off, flags);
	if (!err)
		filekit_expect_write(f, off, len);
	return err;
}

int filekit_write(struct filekit *f, size_t off, size_t len)
{
	return write_at(f, off, len, 0);
}

int filekit_append(struct filekit *f, size_t len)
{
	return write_at(f, f->size, len, FS_WRITE_APPEND);
}

int filekit_truncate(struct filekit *f, size_t size)
{
	struct fs_entry e;
	int err;

	assert_true(size <= f->cap);
	err = fs_setattr(f->k->fs, f->node, FS_SET_SIZE, &(struct stat){ .st_size = (off_t)size }, &e);
	if (err)
		return err;
	assert_int_equal(e.st.st_size, size);
	filekit_expect_truncate(f, size);
	return 0;
}

int filekit_claim(struct filekit *f, size_t from, size_t to)
{
	struct inode i;
	struct op op;
	int err = op_begin(f->k->fs, f->node, &op);

	if (!err) {
		op_lock(&op, &f->node, 1);
		err = inode_load(op.view, f->node, &i);
	}
	if (!err)
		err = file_uninline(&op, &i);
	if (!err)
		err = extent_fill(&op, &i, from, to);
	if (!err)
		err = inode_put(op.batch, &i);
	if (!err)
		err = op_commit(&op);
	op_end(&op);
	return err;
}

bool filekit_same(struct filekit *f, size_t off, size_t len)
{
	void *buf = mem_alloc_blocks(FS_READ_BUFFER(len));
	size_t want = off >= f->size ? 0 : len < f->size - off ? len : f->size - off, got = 1;
	const void *data = NULL;
	bool same;

	assert_non_null(buf);
	memset(buf, 0xee, FS_READ_BUFFER(len));
	assert_int_equal(fs_read(f->k->fs, f->node, off, len, buf, &data, &got), 0);
	same = got == want && !memcmp(data, f->data + off, got);
	mem_free(buf);
	return same;
}

bool filekit_right(struct filekit *f)
{
	struct fs_entry e;

	assert_int_equal(fs_getattr(f->k->fs, f->node, &e), 0);
	if ((size_t)e.st.st_size != f->size)
		return false;
	for (size_t off = 0; off <= f->size; off += FS_IO_MAX)
		if (!filekit_same(f, off, FS_IO_MAX))
			return false;
	return true;
}

void filekit_verify(struct filekit *f)
{
	struct fs_entry e;
	struct filekit_items n = filekit_items(f);

	assert_int_equal(fs_getattr(f->k->fs, f->node, &e), 0);
	assert_int_equal(e.st.st_size, f->size);
	assert_int_equal(e.st.st_blocks, 8 * (n.data_blocks + n.claim_blocks));
	assert_true(filekit_right(f));
}

struct filekit_items filekit_items(struct filekit *f)
{
	struct filekit_items n = { 0 };
	struct extent_walk *w;
	struct extent_map m;
	uint64_t at = 0;
	int err;

	assert_int_equal(extent_walk_open(store_live(fs_store(f->k->fs)), f->node, 0, UINT64_MAX, &w), 0);
	while (!(err = extent_walk_next(w, &m))) {
		assert_int_equal(m.from, at);
		assert_true(m.to > m.from);
		at = m.to;
		if (m.kind == EXTENT_HOLE)
			continue;
		if (m.kind == EXTENT_DATA) {
			n.data++;
			n.data_blocks += (m.to - m.from) / BLOCK_SIZE;
		} else {
			n.claims++;
			n.claim_blocks += (m.to - m.from) / BLOCK_SIZE;
		}
	}
	assert_int_equal(err, 1);
	assert_true(at == UINT64_MAX);
	extent_walk_close(w);
	return n;
}

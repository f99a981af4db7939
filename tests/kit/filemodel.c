#include "tests/kit/filemodel.h"

#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "fs/fs_int.h"
#include "tests/kit/test.h"

static uint64_t block_up(uint64_t off)
{
	return (off + BLOCK_SIZE - 1) / BLOCK_SIZE;
}

static uint64_t max_of(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

void filemodel_init(struct filemodel *m, struct fskit *k, uint64_t cap)
{
	assert_true(cap % BLOCK_SIZE == 0);
	*m = (struct filemodel){ .cap = cap, .inline_max = k->fs->inline_max };
	m->bytes = calloc(1, cap);
	m->kind = malloc(cap / BLOCK_SIZE);
	memset(m->kind, '.', cap / BLOCK_SIZE);
}

void filemodel_release(struct filemodel *m)
{
	free(m->bytes);
	free(m->kind);
}

void filemodel_assign(struct filemodel *m, const struct filemodel *from)
{
	assert_true(m->cap == from->cap);
	m->size = from->size;
	m->inlined = from->inlined;
	memcpy(m->bytes, from->bytes, m->cap);
	memcpy(m->kind, from->kind, m->cap / BLOCK_SIZE);
}

static uint64_t count(const struct filemodel *m)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < m->cap / BLOCK_SIZE; i++)
		n += m->kind[i] != '.';
	return n;
}

static void set_kind(struct filemodel *m, uint64_t from, uint64_t to, char kind)
{
	if (from < to)
		memset(m->kind + from, kind, to - from);
}

static void uninline(struct filemodel *m)
{
	if (m->inlined)
		m->kind[0] = 'D';
	m->inlined = false;
}

void filemodel_write(struct filemodel *m, const void *data, uint64_t len, uint64_t off)
{
	uint64_t end = max_of(off + len, m->size);

	if (!len)
		return;
	assert_true(off + len <= m->cap);
	if (!count(m) && end <= m->inline_max) {
		m->inlined = true;
	} else {
		uninline(m);
		set_kind(m, off / BLOCK_SIZE, block_up(off + len), 'D');
	}
	memmove(m->bytes + off, data, len);
	m->size = end;
}

void filemodel_truncate(struct filemodel *m, uint64_t size)
{
	assert_true(size <= m->cap);
	memset(m->bytes + size, 0, m->cap - size);
	if (size <= m->size) /* growing keeps what was promised behind */
		set_kind(m, block_up(size), m->cap / BLOCK_SIZE, '.');
	if (!size)
		m->inlined = false;
	m->size = size;
}

static void reserve(struct filemodel *m, uint64_t from, uint64_t to)
{
	for (; from < to; from++)
		if (m->kind[from] == '.')
			m->kind[from] = 'c';
}

void filemodel_fallocate(struct filemodel *m, int mode, uint64_t off, uint64_t len)
{
	uint64_t end = off + len, first = block_up(off), last = end / BLOCK_SIZE;

	assert_true(end <= m->cap);
	if (mode & FALLOC_FL_PUNCH_HOLE || mode & FALLOC_FL_ZERO_RANGE)
		memset(m->bytes + off, 0, len);
	/* The size's block may go whole. */
	if (end >= m->size && end < block_up(m->size) * BLOCK_SIZE)
		last = block_up(m->size);
	if (mode & FALLOC_FL_PUNCH_HOLE) {
		if (!m->inlined)
			set_kind(m, first, last, '.');
		return;
	}
	uninline(m);
	if (mode & FALLOC_FL_ZERO_RANGE)
		set_kind(m, first, last, 'c');
	reserve(m, off / BLOCK_SIZE, block_up(end));
	if (!(mode & FALLOC_FL_KEEP_SIZE))
		m->size = max_of(m->size, end);
}

void filemodel_copy(const struct filemodel *from, uint64_t from_off, struct filemodel *to, uint64_t to_off,
		    uint64_t len)
{
	uint64_t end = to_off + len, first = block_up(to_off), last = end / BLOCK_SIZE;
	int64_t shift = ((int64_t)from_off - (int64_t)to_off) / BLOCK_SIZE;

	if (!len)
		return;
	if ((from_off ^ to_off) % BLOCK_SIZE || from->inlined) {
		filemodel_write(to, from->bytes + from_off, len, to_off);
		return;
	}
	uninline(to);
	if (from_off + len == from->size && end >= to->size)
		last = block_up(end);
	if (to_off % BLOCK_SIZE)
		to->kind[to_off / BLOCK_SIZE] = 'D';
	for (uint64_t i = first; i < last; i++)
		to->kind[i] = from->kind[(int64_t)i + shift] == 'D' ? 'D' : '.';
	if (last * BLOCK_SIZE < end)
		to->kind[last] = 'D';
	memmove(to->bytes + to_off, from->bytes + from_off, len);
	to->size = max_of(to->size, end);
}

/* ---- comparing ---- */

static bool same_content(const struct filemodel *m, struct fskit *k, uint64_t node)
{
	uint8_t *buf = mem_alloc_blocks(FS_READ_BUFFER(FS_IO_MAX));
	bool same = true;

	for (uint64_t at = 0; same && at < m->size; at += FS_IO_MAX) {
		uint64_t want = m->size - at < FS_IO_MAX ? m->size - at : FS_IO_MAX;
		const void *data;
		size_t len;

		assert_int_equal(fs_read(k->fs, node, at, FS_IO_MAX, buf, &data, &len), 0);
		same = len == want && !memcmp(data, m->bytes + at, len);
		for (size_t i = 0; !same && i < len && i < want; i++) {
			if (((const uint8_t *)data)[i] != m->bytes[at + i]) {
				print_message("# byte %llu\n", (unsigned long long)(at + i));
				break;
			}
		}
	}
	mem_free(buf);
	return same;
}

static char seen_kind(const struct filemodel *m, uint64_t block)
{
	if (m->inlined)
		return block ? '.' : 'D';
	return m->kind[block] == 'D' ? 'D' : '.';
}

static bool same_holes(const struct filemodel *m, struct fskit *k, uint64_t node)
{
	uint64_t data = UINT64_MAX, hole = m->size, got;
	int err;

	/* From the end to the front, so that the model's answer is at hand. */
	for (uint64_t i = block_up(m->size); i--;) {
		uint64_t at = i * BLOCK_SIZE + i % 3 * 7;

		if (at >= m->size)
			at = i * BLOCK_SIZE;
		if (seen_kind(m, i) == 'D')
			data = i * BLOCK_SIZE;
		else
			hole = i * BLOCK_SIZE;
		err = fs_seek(k->fs, node, at, SEEK_DATA, &got);
		if (data == UINT64_MAX ? err != -ENXIO : err || got != max_of(at, data)) {
			print_message("# SEEK_DATA %llu: %d\n", (unsigned long long)at, err);
			return false;
		}
		err = fs_seek(k->fs, node, at, SEEK_HOLE, &got);
		if (err || got != max_of(at, hole)) {
			print_message("# SEEK_HOLE %llu: %d\n", (unsigned long long)at, err);
			return false;
		}
	}
	return fs_seek(k->fs, node, m->size, SEEK_DATA, &got) == -ENXIO &&
	       fs_seek(k->fs, node, m->size, SEEK_HOLE, &got) == -ENXIO;
}

bool filemodel_is(const struct filemodel *m, struct fskit *k, uint64_t node)
{
	struct fs_entry e;

	assert_int_equal(fs_getattr(k->fs, node, &e), 0);
	return (uint64_t)e.st.st_size == m->size && same_content(m, k, node) && same_holes(m, k, node);
}

void filemodel_expect(const struct filemodel *m, struct fskit *k, uint64_t node)
{
	struct fs_entry e;

	assert_int_equal(fs_getattr(k->fs, node, &e), 0);
	assert_int_equal(e.st.st_size, m->size);
	if (!m->inlined)
		assert_int_equal(e.st.st_blocks, count(m) * 8);
	assert_true(same_content(m, k, node));
	assert_true(same_holes(m, k, node));
}

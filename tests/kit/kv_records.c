#include "tests/kit/kv_records.h"

#include <inttypes.h>

#include "btree/err.h"
#include "tests/kit/rng.h"
#include "wal/data.h"

static int validate_extent(struct key key, const void *val, size_t len)
{
	const struct kv_extent_val *v = val;
	uint32_t blocks;

	if (len < sizeof(*v))
		return corrupt("test extent", key_ino(key), "length", len, sizeof(*v));
	blocks = le32_get(v->blocks);
	if (blocks == 0 || blocks > 256)
		return corrupt("test extent", key_ino(key), "blocks", blocks, 256);
	if (len != sizeof(*v) + blocks * sizeof(le32))
		return corrupt("test extent", key_ino(key), "length", len, sizeof(*v) + blocks * sizeof(le32));
	if ((le64_get(v->addr) == 0) != (le64_get(v->tag) == 0))
		return corrupt("test extent", key_ino(key), "tag of a claim", le64_get(v->tag), 0);
	return 0;
}

static bool extent_of(struct key key, const void *val, size_t len, struct extent *ret)
{
	const struct kv_extent_val *v = val;

	(void)key;
	(void)len;
	*ret = (struct extent){ le64_get(v->addr), le32_get(v->blocks), le64_get(v->birth) };
	return true;
}

static void set_birth(void *val, size_t len, uint64_t birth)
{
	struct kv_extent_val *v = val;

	(void)len;
	v->birth = le64_put(birth);
}

static void print_extent(FILE *f, struct key key, const void *val, size_t len)
{
	const struct kv_extent_val *v = val;

	(void)key;
	(void)len;
	fprintf(f, "addr %" PRIu64 " blocks %" PRIu32 " birth %" PRIx64 " tag %" PRIu64 " first %" PRIu32,
		le64_get(v->addr), le32_get(v->blocks), le64_get(v->birth), le64_get(v->tag), le32_get(v->first));
}

static int validate_link(struct key key, const void *val, size_t len)
{
	if (len == 0 || len > 255)
		return corrupt("test link", key_ino(key), "length", len, 255);
	if (memchr(val, 0, len))
		return corrupt("test link", key_ino(key), "zero byte", 0, 1);
	return 0;
}

const struct record_table kv_records = {
	.row = {
		[KVT_BYTES] = { .name = "bytes" },
		[KVT_EXTENT] = { .name = "extent", .validate = validate_extent, .print = print_extent,
				.extent = extent_of, .set_birth = set_birth },
		[KVT_LINK] = { .name = "link", .validate = validate_link },
	},
};

void kv_fill(void *block, uint64_t tag, uint32_t index)
{
	uint64_t x = rng_mix(tag, index);
	uint64_t *p = block;

	for (size_t i = 0; i < BLOCK_SIZE / sizeof(*p); i++) {
		p[i] = x;
		x = x * UINT64_C(0x5851f42d4c957f2d) + UINT64_C(0x14057b7ef767814f);
	}
}

size_t kv_extent_make(void *val, uint64_t addr, uint32_t blocks, uint64_t tag, uint32_t first, void *data)
{
	struct kv_extent_val *v = val;
	uint64_t scratch[BLOCK_SIZE / sizeof(uint64_t)];

	*v = (struct kv_extent_val){
		.addr = le64_put(addr),
		.blocks = le32_put(blocks),
		.first = le32_put(first),
		.tag = le64_put(tag),
	};
	for (uint32_t i = 0; i < blocks; i++) {
		void *block = data ? (char *)data + (size_t)i * BLOCK_SIZE : (void *)scratch;

		kv_fill(block, tag, first + i);
		v->sums[i] = le32_put(data_checksum(block));
	}
	return sizeof(*v) + blocks * sizeof(le32);
}

size_t kv_claim_make(void *val, uint32_t blocks)
{
	struct kv_extent_val *v = val;
	size_t len = sizeof(*v) + blocks * sizeof(le32);

	memset(val, 0, len);
	v->blocks = le32_put(blocks);
	return len;
}

size_t kv_extent_part(const void *val, uint32_t from, uint32_t blocks, void *ret)
{
	const struct kv_extent_val *v = val;
	struct kv_extent_val *p = ret;

	if (kv_extent_tag(val) == 0)
		return kv_claim_make(ret, blocks);
	*p = *v;
	p->addr = le64_put(le64_get(v->addr) + from);
	p->blocks = le32_put(blocks);
	p->first = le32_put(le32_get(v->first) + from);
	memcpy(p->sums, v->sums + from, blocks * sizeof(le32));
	return sizeof(*p) + blocks * sizeof(le32);
}

uint32_t kv_extent_blocks(const void *val)
{
	return le32_get(((const struct kv_extent_val *)val)->blocks);
}

bool kv_extent_is_claim(const void *val)
{
	return le64_get(((const struct kv_extent_val *)val)->addr) == 0;
}

uint64_t kv_extent_tag(const void *val)
{
	return le64_get(((const struct kv_extent_val *)val)->tag);
}

void kv_canonical(struct key key, void *val, size_t len)
{
	struct kv_extent_val *v = val;

	(void)len;
	if (key_type(key) != KVT_EXTENT)
		return;
	v->addr = le64_put(0);
	v->birth = le64_put(0);
}

bool kv_data_right(const void *val, const void *data, uint32_t *ret_bad)
{
	const struct kv_extent_val *v = val;
	uint64_t block[BLOCK_SIZE / sizeof(uint64_t)];

	for (uint32_t i = 0; i < le32_get(v->blocks); i++) {
		kv_fill(block, le64_get(v->tag), le32_get(v->first) + i);
		if (memcmp(block, (const char *)data + (size_t)i * BLOCK_SIZE, BLOCK_SIZE) != 0) {
			*ret_bad = i;
			return false;
		}
	}
	return true;
}

/*
 * Scripts: changes to a base image, then the checksums.
 *
 * Three steps. Fields are changed first, one after the other, each seeing what those before it did. Then whole items and
 * blocks: these move what stands around them, and the places are the base's. At last every owner that was touched gets its
 * checksum, from the inside out, because a checksum may stand inside what another one covers:
 *
 *	data -> item, check list -> body of a record -> node, segment
 *	bitmap -> space page -> superblock
 *
 * What cannot be done (a value that does not fit its node, a place that an earlier change has made unrecognisable) is left out.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "btree/node_format.h"
#include "btree/space_format.h"
#include "fs/fs_format.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"
#include "wal/log_format.h"

struct making {
	const struct image *m;
	struct simdev *disk;
	bool *touched; /* owners whose checksum is to be put right */
	bool *data;    /* blocks of data, likewise */
	bool one;
};

static const uint64_t constants[] = {
	0,
	1,
	2,
	3,
	7,
	8,
	15,
	16,
	17,
	255,
	256,
	257,
	1000,
	4095,
	4096,
	4097,
	32767,
	32768,
	65535,
	65536,
	65537,
	1u << 20,
	1u << 24,
	(1u << 24) + 1,
	0x7fffffff,
	0x80000000,
	0xffffffff,
	1ull << 32,
	1ull << 40,
	1ull << 44,
	(1ull << 44) + 1,
	(1ull << 44) - 4096,
	(1ull << 48) - 1,
	1ull << 48,
	1ull << 51,
	1ull << 55,
	(1ull << 56) - 1,
	1ull << 56,
	INT64_MAX,
	(uint64_t)INT64_MIN,
	UINT64_MAX - 4095,
	UINT64_MAX - 1,
	UINT64_MAX,
};
#define N_CONSTANTS (sizeof(constants) / sizeof(constants[0]))

/* ---- places ---- */

static uint64_t get(struct making *k, struct image_place p)
{
	uint8_t block[BLOCK_SIZE];
	le64 v = { 0 };

	simdev_peek(k->disk, p.block, block, 1);
	memcpy(v.b, block + p.at, p.width);
	return le64_get(v);
}

static void touch(struct making *k, uint64_t block)
{
	uint32_t owner = k->m->owner_of[block];

	if (owner)
		k->touched[owner - 1] = true;
	else
		k->data[block] = true;
}

static void put(struct making *k, struct image_place p, uint64_t value, bool raw)
{
	le64 v = le64_put(value);

	simdev_poke(k->disk, p.block, p.at, v.b, p.width);
	if (!raw)
		touch(k, p.block);
}

static struct image_place pick(const struct image_list *l, uint64_t n)
{
	return l->at[n % l->n];
}

/* Another number with the same meaning. */
static uint64_t from_pool(struct making *k, enum image_meaning meaning, uint64_t n)
{
	const struct image *m = k->m;
	const uint64_t edges[] = { 0,
				   1,
				   SPACE_META_GROUP0,
				   m->log_start,
				   m->log_start + m->log_blocks,
				   m->blocks,
				   m->blocks - 1,
				   m->blocks / 2,
				   SPACE_GROUP_BLOCKS };

	switch (meaning) {
	case MEANS_ADDR:
		if (n % 4 == 0)
			return edges[n / 4 % (sizeof(edges) / sizeof(edges[0]))];
		if (n % 4 == 1 && m->n_sums)
			return m->sum[n / 4 % m->n_sums].addr;
		return n % 8 == 3 ? m->owner[n / 8 % m->n_owners].copy : m->owner[n / 4 % m->n_owners].addr;
	case MEANS_INO:
		return m->inos[n % m->n_inos];
	case MEANS_OBJ:
		return m->inos[n / 8 % m->n_inos] << 8 | (n % 8 + 1);
	default:
		return get(k, pick(&m->meaning[meaning], n));
	}
}

static void change_field(struct making *k, const struct image_change *c)
{
	const struct image_list *l = &k->m->group[c->group % IMAGE_N_GROUPS];
	struct image_place p, other;
	bool raw = c->how & IMAGE_RAW;
	uint64_t value = le64_get(c->value), old;

	if (!l->n)
		return;
	p = pick(l, le32_get(c->place));
	if (!p.width)
		return; /* a place for a whole item or block */
	old = get(k, p);
	switch (c->how % 64 % IMAGE_HOWS) {
	case IMAGE_FLIP:
		value = old ^ UINT64_C(1) << value % (8 * p.width);
		break;
	case IMAGE_ADD:
		value = old + (value & 255) - 128;
		break;
	case IMAGE_CONST:
		value = constants[value % N_CONSTANTS];
		break;
	case IMAGE_POOL:
		value = from_pool(k, p.meaning, value);
		break;
	case IMAGE_LIKE:
		value = get(k, pick(l, value));
		break;
	case IMAGE_SWAP:
		other = pick(l, value);
		value = get(k, other);
		put(k, other, old, raw);
		break;
	default:
		break;
	}
	image_say("script: %s: block %u byte %u: %#llx becomes %#llx%s", image_group_name(c->group % IMAGE_N_GROUPS),
		  p.block, p.at, (unsigned long long)old, (unsigned long long)value, raw ? ", raw" : "");
	put(k, p, value, raw);
}

/* ---- whole items ---- */

struct item {
	struct key key;
	uint16_t val, len;
};

struct edit {
	uint8_t buf[NODE_SIZE_MAX];
	uint8_t more[NODE_SIZE_MAX]; /* a value from elsewhere */
	struct item item[NODE_SIZE_MAX / sizeof(struct disk_slot) + 1];
	unsigned n;
};

static bool edit_read(struct making *k, uint64_t addr, uint8_t *buf)
{
	const struct image_owner *o = k->m->owner_of[addr] ? &k->m->owner[k->m->owner_of[addr] - 1] : NULL;

	if (!o || o->kind != OWNER_NODE || o->addr != addr)
		return false;
	simdev_peek(k->disk, addr, buf, o->blocks);
	return true;
}

static bool edit_open(struct making *k, uint64_t addr, struct edit *e)
{
	const struct disk_node *h = (const void *)e->buf;
	const struct disk_slot *s = (const void *)(h + 1);
	uint32_t size = k->m->node_size;

	if (!edit_read(k, addr, e->buf))
		return false;
	e->n = le16_get(h->nr);
	if (sizeof(*h) + e->n * sizeof(*s) > size)
		return false;
	for (unsigned i = 0; i < e->n; i++) {
		struct item *it = &e->item[i];

		*it = (struct item){ { le64_get(s[i].obj), le64_get(s[i].off) },
				     le16_get(s[i].val),
				     le16_get(s[i].len) };
		if ((uint32_t)it->val + it->len > size)
			return false;
	}
	return true;
}

/* The one form a node has. What does not fit stays undone. */
static void edit_close(struct making *k, uint64_t addr, struct edit *e, bool raw)
{
	static uint8_t out[NODE_SIZE_MAX];
	uint32_t size = k->m->node_size, at = size;
	struct disk_node *h = (void *)out;
	struct disk_slot *s = (void *)(h + 1);
	size_t used = sizeof(*h) + e->n * sizeof(*s);

	for (unsigned i = 0; i < e->n; i++)
		used += e->item[i].len;
	if (used > size)
		return;
	memset(out, 0, size);
	memcpy(h, e->buf, sizeof(*h));
	h->nr = le16_put((uint16_t)e->n);
	for (unsigned i = 0; i < e->n; i++) {
		const struct item *it = &e->item[i];

		at -= it->len;
		/* `val` at and behind size: in `more`. */
		memcpy(out + at, it->val < size ? e->buf + it->val : e->more + (it->val - size), it->len);
		s[i] = (struct disk_slot){ le64_put(it->key.obj), le64_put(it->key.off), le16_put((uint16_t)at),
					   le16_put(it->len) };
	}
	for (uint32_t i = 0; i < size / BLOCK_SIZE; i++) {
		simdev_poke(k->disk, addr + i, 0, out + i * BLOCK_SIZE, BLOCK_SIZE);
		if (!raw)
			touch(k, addr + i);
	}
}

static void edit_remove(struct edit *e, unsigned i)
{
	memmove(&e->item[i], &e->item[i + 1], (e->n - i - 1) * sizeof(e->item[0]));
	e->n--;
}

/* In order of keys, behind those with the same. */
static void edit_insert(struct edit *e, struct item it)
{
	unsigned i = e->n;

	if (e->n + 1 >= sizeof(e->item) / sizeof(e->item[0]))
		return;
	while (i > 0 && key_less(it.key, e->item[i - 1].key))
		i--;
	memmove(&e->item[i + 1], &e->item[i], (e->n - i) * sizeof(e->item[0]));
	e->item[i] = it;
	e->n++;
}

/* Numbers are kept scripts' (modulo their count). */
enum edit_what {
	EDIT_DELETE,
	EDIT_RESIZE,
	EDIT_MOVE_OFF,	/* another offset */
	EDIT_MOVE_INO,	/* to another inode */
	EDIT_MOVE_TYPE, /* another type */
	EDIT_COPY_INO,
	EDIT_COPY_OFF,
	EDIT_VALUES, /* two items change values */
	EDIT_ORDER,  /* two items change places */
	EDIT_BRING,  /* an item from another node */
	EDIT_BRING_VALUE,
	EDITS
};

static struct key edit_key(struct making *k, struct key key, enum edit_what what, uint64_t value)
{
	switch (what) {
	case EDIT_MOVE_OFF:
	case EDIT_COPY_OFF:
		key.off = value % 4 == 3 ? value >> 2
					 : key.off + (value % 4 == 0   ? (value >> 2) % 512 - 256
						      : value % 4 == 1 ? ((value >> 2) % 64 - 32) * BLOCK_SIZE
								       : UINT64_C(1) << (value >> 2) % 64);
		break;
	case EDIT_MOVE_INO:
	case EDIT_COPY_INO:
		key.obj = k->m->inos[value % k->m->n_inos] << 8 | (key.obj & 0xff);
		break;
	default:
		key.obj = (key.obj & ~UINT64_C(0xff)) | (value & 0xff);
		break;
	}
	return key;
}

/* An item, or its value, from another node; it is then behind the node's own bytes. */
static bool edit_bring(struct making *k, struct edit *e, uint64_t n, struct item *ret)
{
	struct image_place from = pick(&k->m->group[IMAGE_EDIT], n);
	unsigned i = (unsigned)((from.at - sizeof(struct disk_node)) / sizeof(struct disk_slot));
	const struct disk_node *h = (const void *)e->more;
	const struct disk_slot *s = (const void *)(h + 1);
	uint32_t size = k->m->node_size;

	if (!edit_read(k, from.block, e->more) || i >= le16_get(h->nr) ||
	    sizeof(*h) + le16_get(h->nr) * sizeof(*s) > size ||
	    (uint32_t)le16_get(s[i].val) + le16_get(s[i].len) > size)
		return false;
	*ret = (struct item){ { le64_get(s[i].obj), le64_get(s[i].off) },
			      (uint16_t)(size + le16_get(s[i].val)),
			      le16_get(s[i].len) };
	return size + le16_get(s[i].val) <= UINT16_MAX;
}

static void change_item(struct making *k, const struct image_change *c)
{
	static struct edit e;
	uint64_t value = le64_get(c->value);
	enum edit_what what = le16_get(c->arg) % EDITS;
	struct image_place p;
	struct item it, other;
	unsigned i, j;

	if (!k->m->group[IMAGE_EDIT].n)
		return;
	p = pick(&k->m->group[IMAGE_EDIT], le32_get(c->place));
	if (!edit_open(k, p.block, &e) || !e.n)
		return;
	i = (unsigned)((p.at - sizeof(struct disk_node)) / sizeof(struct disk_slot)) % e.n;
	j = (unsigned)(value % e.n);
	it = e.item[i];
	image_say("script: EDIT %d: node %u item %u of %u, value %llu", (int)what, p.block, i, e.n,
		  (unsigned long long)value);
	switch (what) {
	case EDIT_DELETE:
		edit_remove(&e, i);
		break;
	case EDIT_RESIZE:
		e.item[i].len = (uint16_t)(value % 1100);
		if ((uint32_t)it.val + e.item[i].len > k->m->node_size)
			e.item[i].val = (uint16_t)(k->m->node_size - e.item[i].len);
		break;
	case EDIT_MOVE_OFF:
	case EDIT_MOVE_INO:
	case EDIT_MOVE_TYPE:
		edit_remove(&e, i);
		it.key = edit_key(k, it.key, what, value);
		edit_insert(&e, it);
		break;
	case EDIT_COPY_INO:
	case EDIT_COPY_OFF:
		it.key = edit_key(k, it.key, what, value);
		edit_insert(&e, it);
		break;
	case EDIT_VALUES:
		e.item[i] = (struct item){ it.key, e.item[j].val, e.item[j].len };
		e.item[j] = (struct item){ e.item[j].key, it.val, it.len };
		break;
	case EDIT_ORDER:
		e.item[i] = e.item[j];
		e.item[j] = it;
		break;
	case EDIT_BRING:
		if (edit_bring(k, &e, value, &other))
			edit_insert(&e, other);
		break;
	case EDIT_BRING_VALUE:
		if (edit_bring(k, &e, value, &other))
			e.item[i] = (struct item){ it.key, other.val, other.len };
		break;
	case EDITS:
		break;
	}
	edit_close(k, p.block, &e, c->how & IMAGE_RAW);
}

/* ---- whole blocks ---- */

static void change_block(struct making *k, const struct image_change *c)
{
	const struct image_list *l = &k->m->group[IMAGE_BLOCK];
	uint64_t value = le64_get(c->value), addr = pick(l, le32_get(c->place)).block, from = pick(l, value).block;
	uint8_t block[BLOCK_SIZE], other[BLOCK_SIZE];
	struct rng rng;

	simdev_peek(k->disk, addr, block, 1);
	simdev_peek(k->disk, from, other, 1);
	image_say("script: BLOCK %d: %llu, from %llu, value %llu%s", le16_get(c->arg) % 5, (unsigned long long)addr,
		  (unsigned long long)from, (unsigned long long)value, c->how & IMAGE_RAW ? ", raw" : "");
	switch (le16_get(c->arg) % 5) {
	case 0:
		memset(block, 0, sizeof(block));
		break;
	case 1:
		memcpy(block, other, sizeof(block));
		break;
	case 2:
		block[value / 8 % BLOCK_SIZE] ^= (uint8_t)(1u << value % 8);
		break;
	case 3: /* a sector of junk, as after a torn write */
		rng_seed(&rng, value);
		rng_bytes(&rng, block + value % 8 * 512, 512);
		break;
	case 4:
		simdev_poke(k->disk, from, 0, block, BLOCK_SIZE);
		if (!(c->how & IMAGE_RAW))
			touch(k, from);
		memcpy(block, other, sizeof(block));
		break;
	}
	simdev_poke(k->disk, addr, 0, block, BLOCK_SIZE);
	if (!(c->how & IMAGE_RAW))
		touch(k, addr);
}

/* ---- checksums ---- */

static void fix_data(struct making *k, uint64_t addr)
{
	uint8_t block[BLOCK_SIZE];
	uint32_t sum;

	simdev_peek(k->disk, addr, block, 1);
	sum = (uint32_t)XXH3_64bits(block, BLOCK_SIZE);
	for (size_t i = 0; i < k->m->n_sums; i++)
		if (k->m->sum[i].addr == addr)
			put(k, k->m->sum[i].place, sum, false);
}

static void put_sum(struct making *k, uint64_t addr, uint64_t sum)
{
	le64 v = le64_put(sum);

	simdev_poke(k->disk, addr, 0, v.b, sizeof(v));
}

static void fix_segment(struct making *k, const struct image_owner *o)
{
	const struct disk_segment *h;
	uint64_t end = k->m->log_start + k->m->log_blocks;
	uint8_t *buf = malloc(k->m->log_blocks * BLOCK_SIZE);
	uint32_t blocks;

	if (!buf)
		abort();
	simdev_peek(k->disk, o->addr, buf, 1);
	h = (const void *)buf;
	blocks = le32_get(h->blocks);
	if (!blocks || blocks > end - o->addr)
		blocks = o->blocks;
	simdev_peek(k->disk, o->addr, buf, blocks);
	put_sum(k, o->addr, XXH3_64bits_withSeed(buf + 8, (size_t)blocks * BLOCK_SIZE - 8, le64_get(h->epoch)));
	free(buf);
}

static void fix_space(struct making *k, const struct image_owner *o)
{
	uint8_t buf[BLOCK_SIZE], page[BLOCK_SIZE];
	struct disk_space_entry e;
	uint64_t sum;

	simdev_peek(k->disk, o->entry.block, buf, 1);
	memcpy(&e, buf + o->entry.at, sizeof(e));
	simdev_peek(k->disk, o->addr, page, 1);
	sum = XXH3_64bits_withSeed(page, BLOCK_SIZE, le64_get(e.gen) ^ o->addr);
	put(k,
	    (struct image_place){ o->entry.block, (uint16_t)(o->entry.at + offsetof(struct disk_space_entry, sum)), 8,
				  MEANS_NUMBER },
	    sum ? sum : 1, false);
}

static void fix_owner(struct making *k, const struct image_owner *o)
{
	static uint8_t buf[NODE_SIZE_MAX];

	switch (o->kind) {
	case OWNER_SUPER:
		simdev_peek(k->disk, o->addr, buf, 1);
		put_sum(k, o->addr, XXH3_64bits(buf + 8, BLOCK_SIZE - 8));
		break;
	case OWNER_NODE:
		simdev_peek(k->disk, o->addr, buf, o->blocks);
		put_sum(k, o->addr, XXH3_64bits(buf + 8, k->m->node_size - 8));
		simdev_peek(k->disk, o->addr, buf, o->blocks);
		for (uint32_t i = 0; o->copy && !k->one && i < o->blocks; i++)
			simdev_poke(k->disk, o->copy + i, 0, buf + i * BLOCK_SIZE, BLOCK_SIZE);
		break;
	case OWNER_SPACE:
		fix_space(k, o);
		break;
	case OWNER_SEGMENT:
		fix_segment(k, o);
		break;
	case OWNER_BODY: {
		uint8_t *body = malloc((size_t)o->blocks * BLOCK_SIZE);

		if (!body)
			abort();
		simdev_peek(k->disk, o->addr, body, o->blocks);
		put(k, o->entry, XXH3_64bits(body, o->bytes), false);
		free(body);
		for (uint32_t i = 0; i < o->blocks; i++)
			fix_data(k, o->addr + i);
		break;
	}
	}
}

static void fix_sums(struct making *k)
{
	static const enum image_owner_kind order[] = { OWNER_BODY, OWNER_NODE, OWNER_SPACE, OWNER_SEGMENT,
						       OWNER_SUPER };

	for (uint64_t addr = 0; addr < k->m->blocks; addr++)
		if (k->data[addr])
			fix_data(k, addr);
	/* Space pages stand in the list from the top down. */
	for (unsigned kind = 0; kind < sizeof(order) / sizeof(order[0]); kind++)
		for (size_t i = k->m->n_owners; i-- > 0;)
			if (k->touched[i] && k->m->owner[i].kind == order[kind])
				fix_owner(k, &k->m->owner[i]);
}

/* ---- scripts ---- */

const struct image *image_base(unsigned n)
{
	static struct image *bases[IMAGE_BASES];

	n %= IMAGE_BASES;
	if (!bases[n]) {
		bases[n] = calloc(1, sizeof(*bases[n]));
		if (!bases[n])
			abort();
		bases[n]->disk = image_recipe(n);
		image_walk(bases[n]);
		for (unsigned g = 0; g < IMAGE_N_GROUPS; g++)
			image_say("base %u: %s has %zu places", n, image_group_name(g), bases[n]->group[g].n);
	}
	return bases[n];
}

struct simdev *image_copy(struct simdev *disk)
{
	struct simdev_image *content = simdev_freeze(disk);
	struct simdev *copy = simdev_new(&(struct simdev_options){ .base = content, .no_trace = true });

	simdev_image_free(content);
	return copy;
}

struct simdev *image_make(const uint8_t *script, size_t len, struct image_head *ret_head)
{
	struct making k = { 0 };
	const struct image_change *c;
	size_t n;

	memset(ret_head, 0, sizeof(*ret_head));
	memcpy(ret_head, script, len < sizeof(*ret_head) ? len : sizeof(*ret_head));
	c = (const void *)(script + sizeof(*ret_head));
	n = len < sizeof(*ret_head) ? 0 : (len - sizeof(*ret_head)) / sizeof(*c);
	n = n < IMAGE_CHANGES_MAX ? n : IMAGE_CHANGES_MAX;
	k.m = image_base(ret_head->base);
	k.disk = image_copy(k.m->disk);
	k.touched = calloc(k.m->n_owners, sizeof(*k.touched));
	k.data = calloc(k.m->blocks, sizeof(*k.data));
	if (!k.touched || !k.data)
		abort();
	for (size_t i = 0; i < n; i++) {
		k.one |= c[i].how & IMAGE_ONE;
		change_field(&k, &c[i]);
	}
	for (size_t i = 0; i < n; i++) {
		if (c[i].group % IMAGE_N_GROUPS == IMAGE_EDIT)
			change_item(&k, &c[i]);
		else if (c[i].group % IMAGE_N_GROUPS == IMAGE_BLOCK)
			change_block(&k, &c[i]);
	}
	fix_sums(&k);
	free(k.touched);
	free(k.data);
	return k.disk;
}

/* ---- by chance ---- */

static uint64_t some_value(struct rng *rng)
{
	switch (rng_below(rng, 4)) {
	case 0:
		return rng_below(rng, 256);
	case 1:
		return rng_below(rng, 65536);
	case 2:
		return constants[rng_below(rng, N_CONSTANTS)];
	default:
		return rng_next(rng);
	}
}

static struct image_change some_change(struct rng *rng, uint8_t group)
{
	struct image_change c = {
		.group = group,
		.how = (uint8_t)rng_below(rng, IMAGE_HOWS),
		.arg = le16_put((uint16_t)rng_below(rng, 64)),
		.place = le32_put((uint32_t)rng_next(rng)),
		.value = le64_put(some_value(rng)),
	};

	if (rng_chance(rng, 1, 16))
		c.how |= IMAGE_RAW;
	if (rng_chance(rng, 1, 8))
		c.how |= IMAGE_ONE;
	return c;
}

size_t image_script(uint8_t *buf, size_t cap, struct rng *rng)
{
	struct image_head head = { (uint8_t)rng_below(rng, IMAGE_BASES), (uint8_t)rng_next(rng),
				   le16_put((uint16_t)rng_below(rng, 8)) };
	size_t n = rng_chance(rng, 1, 2) ? 1 : 1u << rng_below(rng, 5), len = sizeof(head);
	uint8_t group = (uint8_t)rng_below(rng, IMAGE_N_GROUPS);

	if (cap < len)
		return 0;
	memcpy(buf, &head, len);
	for (size_t i = 0; i < n && len + sizeof(struct image_change) <= cap; i++, len += sizeof(struct image_change)) {
		struct image_change c = some_change(rng, group);

		memcpy(buf + len, &c, sizeof(c));
		if (rng_chance(rng, 1, 2))
			group = (uint8_t)rng_below(rng, IMAGE_N_GROUPS);
	}
	return len;
}

size_t image_mutate(uint8_t *buf, size_t len, size_t cap, struct rng *rng)
{
	size_t each = sizeof(struct image_change), n, at;
	struct image_change c;

	if (len < sizeof(struct image_head) + each)
		return image_script(buf, cap, rng);
	n = (len - sizeof(struct image_head)) / each;
	at = sizeof(struct image_head) + rng_below(rng, n) * each;
	len = sizeof(struct image_head) + n * each;
	memcpy(&c, buf + at, each);
	switch (rng_below(rng, 7)) {
	case 0: /* one more */
	case 1:
		if (len + each > cap || n >= IMAGE_CHANGES_MAX)
			break;
		c = some_change(rng, rng_chance(rng, 1, 2) ? c.group : (uint8_t)rng_below(rng, IMAGE_N_GROUPS));
		memmove(buf + at + each, buf + at, len - at);
		memcpy(buf + at, &c, each);
		return len + each;
	case 2: /* one less */
		if (n == 1)
			break;
		memmove(buf + at, buf + at + each, len - at - each);
		return len - each;
	case 3:
		c.value =
			le64_put(rng_chance(rng, 1, 2) ? some_value(rng) : le64_get(c.value) + rng_below(rng, 17) - 8);
		break;
	case 4:
		c.place = le32_put(rng_chance(rng, 1, 2) ? (uint32_t)rng_next(rng) : le32_get(c.place) + 1);
		break;
	case 5:
		c = some_change(rng, c.group);
		break;
	case 6:
		buf[rng_below(rng, sizeof(struct image_head))] ^= (uint8_t)(1u << rng_below(rng, 8));
		return len;
	}
	memcpy(buf + at, &c, each);
	return len;
}

/* ---- what both targets tell the driver ---- */

uint64_t fuzz_runs(void)
{
	return 1000;
}

size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed)
{
	struct rng rng;

	rng_seed(&rng, seed);
	return image_script(buf, cap, &rng);
}

size_t LLVMFuzzerCustomMutator(uint8_t *buf, size_t len, size_t cap, unsigned seed)
{
	struct rng rng;

	rng_seed(&rng, seed);
	if (LLVMFuzzerMutate && rng_chance(&rng, 1, 3))
		return LLVMFuzzerMutate(buf, len, cap);
	return image_mutate(buf, len, cap, &rng);
}

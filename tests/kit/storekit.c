#include "tests/kit/storekit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "tests/kit/test.h"

/* ---- messages ---- */

#define LINES 256u
static char lines[LINES][200];
static unsigned n_lines;
static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep_line(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	(void)level;
	pthread_mutex_lock(&lines_lock);
	snprintf(lines[n_lines++ % LINES], sizeof(lines[0]), "%s", line);
	pthread_mutex_unlock(&lines_lock);
}

void storekit_quiet(void)
{
	pthread_mutex_lock(&lines_lock);
	n_lines = 0;
	pthread_mutex_unlock(&lines_lock);
	err_set_sink(keep_line, NULL);
}

unsigned storekit_said(const char *text)
{
	unsigned n = 0;

	pthread_mutex_lock(&lines_lock);
	for (unsigned i = 0; i < n_lines && i < LINES; i++)
		n += strstr(lines[i], text) != NULL;
	pthread_mutex_unlock(&lines_lock);
	return n;
}

void storekit_print(void)
{
	unsigned from = n_lines > 12 ? n_lines - 12 : 0;

	for (unsigned i = from; i < n_lines; i++)
		print_message("# %s\n", lines[i % LINES]);
}

#define must(call) must_be_zero((call), #call, __LINE__)

static void must_be_zero(int err, const char *call, int line)
{
	if (!err)
		return;
	print_message("# storekit.c:%d: %s: %d\n", line, call, err);
	storekit_print();
	fail();
}

/* ---- life ---- */

void storekit_init(struct storekit *k, uint64_t blocks, const struct store_mkfs_options *mkfs)
{
	struct store_mkfs_options mo = { .node_size = 4096, .log_blocks = 64 };

	*k = (struct storekit){ .next_tag = 1 };
	storekit_quiet();
	if (mkfs)
		mo = *mkfs;
	mo.seed = mo.seed ? mo.seed : 7;
	mo.now_ns = 1;
	mo.lazy_log = true;
	k->disk = simdev_new(&(struct simdev_options){ .blocks = blocks });
	k->opt = (struct store_options){ .records = &kv_records, .manual = true, .seed = 11 };
	must(store_mkfs(simdev_bdev(k->disk), &mo));
	storekit_open(k);
}

void storekit_open(struct storekit *k)
{
	k->opt.seed++; /* a seed used twice would give two runs the same log epoch */
	must(store_open(simdev_bdev(k->disk), &k->opt, &k->s));
}

void storekit_close(struct storekit *k)
{
	struct store *s = k->s;

	k->s = NULL;
	must(store_close(s));
}

void storekit_release(struct storekit *k)
{
	if (k->s)
		store_crash(k->s);
	simdev_free(k->disk);
	*k = (struct storekit){ 0 };
}

void storekit_kill(struct storekit *k, bool power)
{
	store_crash(k->s);
	k->s = NULL;
	if (power)
		simdev_power_cut(&k->disk);
}

void storekit_reboot(struct storekit *k, bool power)
{
	storekit_kill(k, power);
	storekit_open(k);
}

void storekit_check(struct storekit *k)
{
	must(store_check(k->s, &k->checked));
}

void storekit_settle(struct storekit *k)
{
	for (unsigned i = 0; i < 3; i++)
		must(store_checkpoint(k->s));
}

uint64_t storekit_free(struct storekit *k)
{
	struct store_status st;

	store_status(k->s, &st);
	return st.blocks_free;
}

/* ---- changes ---- */

int storekit_put(struct view *v, uint64_t ino, uint64_t off, const char *text)
{
	struct batch *b = NULL;
	int err = batch_open(v, &b);

	if (err)
		return err;
	err = batch_put(b, key_make(ino, KVT_BYTES, off), text, strlen(text));
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

int storekit_del(struct view *v, struct key key)
{
	struct batch *b = NULL;
	int err = batch_open(v, &b);

	if (err)
		return err;
	batch_releases(b);
	err = batch_del(b, key);
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

int storekit_remove(struct view *v, uint64_t ino)
{
	struct batch *b = NULL;
	int err = batch_open(v, &b);

	if (err)
		return err;
	batch_releases(b);
	err = batch_del_range(b, key_make(ino, 0, 0), key_make(ino + 1, 0, 0));
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

int storekit_write(struct storekit *k, struct view *v, uint64_t ino, uint64_t off, uint32_t blocks)
{
	uint64_t tag = k->next_tag++;
	struct batch *b = NULL;
	int err = batch_open(v, &b);

	if (err)
		return err;
	for (uint32_t done = 0; !err && done < blocks;) {
		uint8_t val[KV_VALUE_MAX];
		struct extent x;
		size_t len;
		void *buf;
		uint32_t want = blocks - done > KV_EXTENT_BLOCKS_MAX ? KV_EXTENT_BLOCKS_MAX : blocks - done;

		err = batch_alloc(b, want, false, &x);
		if (err)
			break;
		buf = mem_alloc_blocks((size_t)x.blocks * BLOCK_SIZE);
		if (!buf) {
			err = -ENOMEM;
			break;
		}
		len = kv_extent_make(val, x.addr, x.blocks, tag, done, buf);
		err = batch_data(b, x.addr, x.blocks, buf, (const uint32_t *)((struct kv_extent_val *)val)->sums);
		if (!err)
			err = batch_put(b, storekit_file(ino, off + done), val, len);
		done += x.blocks;
	}
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

int storekit_claim(struct view *v, uint64_t ino, uint64_t off, uint32_t blocks)
{
	struct batch *b = NULL;
	int err = batch_open(v, &b);

	for (uint32_t done = 0; !err && done < blocks;) {
		uint32_t n = blocks - done < KV_EXTENT_BLOCKS_MAX ? blocks - done : KV_EXTENT_BLOCKS_MAX;
		uint8_t val[KV_VALUE_MAX];
		size_t len = kv_claim_make(val, n);

		err = batch_put(b, storekit_file(ino, off + done), val, len);
		done += n;
	}
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

int storekit_clone(struct view *v, uint64_t ino, uint64_t off, uint32_t from, uint32_t blocks, uint64_t ino2, uint64_t off2)
{
	uint8_t val[KV_VALUE_MAX], part[KV_VALUE_MAX];
	struct batch *b = NULL;
	size_t len;
	int err = view_get(v, storekit_file(ino, off), val, sizeof(val), &len);

	if (err)
		return err;
	err = batch_open(v, &b);
	if (err)
		return err;
	len = kv_extent_part(val, from, blocks, part);
	err = batch_put(b, storekit_file(ino2, off2), part, len);
	if (!err)
		err = batch_commit(b, NULL);
	batch_close(b);
	return err;
}

/* ---- looking ---- */

void storekit_expect(struct view *v, uint64_t ino, uint64_t off, const char *text)
{
	char buf[5000];
	size_t len = 0;
	int err = view_get(v, key_make(ino, KVT_BYTES, off), buf, sizeof(buf), &len);

	if (!text) {
		assert_int_equal(err, -ENOENT);
		return;
	}
	must(err);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(buf, text, len);
}

uint32_t storekit_read(struct view *v, uint64_t ino)
{
	void *data = mem_alloc_blocks(256 * BLOCK_SIZE);
	uint32_t total = 0, bad;
	struct scan *sc;
	const void *val;
	struct key key;
	size_t len;
	int err;

	assert_non_null(data);
	must(scan_open(v, storekit_file(ino, 0), storekit_file(ino, UINT64_MAX), &sc));
	while (!(err = scan_next(sc, &key, &val, &len))) {
		uint32_t n = kv_extent_blocks(val);
		uint64_t copy[KV_VALUE_MAX / 8 + 1]; /* aligned */
		const struct kv_extent_val *x = memcpy(copy, val, len);

		if (kv_extent_is_claim(val))
			continue;
		must(view_read(v, le64_get(x->addr), n, data, (const uint32_t *)x->sums));
		assert_true(kv_data_right(val, data, &bad));
		total += n;
	}
	assert_int_equal(err, 1);
	scan_close(sc);
	mem_free(data);
	return total;
}

struct extent storekit_where(struct view *v, uint64_t ino, uint64_t off)
{
	uint64_t val[KV_VALUE_MAX / 8 + 1];
	const struct kv_extent_val *x = (const void *)val;
	size_t len;

	if (view_get(v, storekit_file(ino, off), val, sizeof(val), &len))
		return (struct extent){ 0 };
	return (struct extent){ le64_get(x->addr), kv_extent_blocks(val), le64_get(x->birth) };
}

unsigned storekit_items(struct view *v)
{
	struct scan *sc;
	const void *val;
	unsigned n = 0;
	struct key key;
	size_t len;
	int err;

	must(scan_open(v, KEY_MIN, KEY_MAX, &sc));
	while (!(err = scan_next(sc, &key, &val, &len)))
		n++;
	assert_int_equal(err, 1);
	scan_close(sc);
	return n;
}

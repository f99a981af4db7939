/*
 * t_repair_lost.c - after parts of the tree were lost: every file is intact, or says EIO and was listed
 *
 * A filesystem of files whose every byte is known, by inode number. Then ranges of keys go: by hand with the mark a rebuild
 * leaves, or for real, by flipping bits in leaves and running store_rebuild. What the repair makes of it must be clean; and of
 * each inode there was: its data reads as it was written, block by block, or is an error and its loss was told; or it is
 * gone, and that was told, of itself or of the directory it was in. Nothing reads as zeros that was not.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "btree/node_format.h"
#include "fs/extent.h"
#include "fs/records.h"
#include "fs/repair.h"
#include "tests/kit/checkkit.h"
#include "tests/kit/rng.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"
#include "wal/rebuild.h"

#define B BLOCK_SIZE
#define FILES 120u
#define LIST_MAX 4096u

struct known {
	uint64_t ino, dir, size;
	bool regular, sparse; /* sparse: only its even blocks were written */
	char path[64];
};

struct world {
	struct checkkit f;
	struct known known[FILES + 32];
	unsigned n;
	/* What the repair said is lost. */
	uint64_t inos[LIST_MAX];
	char paths[LIST_MAX][64];
	unsigned n_inos, n_paths;
	struct fs_repair_result result;
	uint8_t buf[2 * B] __attribute__((aligned(B)));
	unsigned intact, broken, gone, moved;
};

static uint8_t byte_at(uint64_t ino, uint64_t block)
{
	return (uint8_t)(1 + (ino * 31 + block * 7) % 250);
}

/* ---- before ---- */

static void write_file(struct world *w, struct known *k, unsigned blocks)
{
	for (unsigned i = 0; i < blocks; i++) {
		/* Backwards, so that each block has an item of its own. */
		unsigned at = k->sparse ? 2 * (blocks - 1 - i) : blocks - 1 - i;
		size_t len = k->size - (uint64_t)at * B < B ? k->size - (uint64_t)at * B : B;

		memset(w->buf, byte_at(k->ino, at), len);
		assert_int_equal(fs_write(w->f.k.fs, k->ino, w->buf, len, (uint64_t)at * B, 0), 0);
	}
}

/* Its first block again, with the same content. */
static int write_first(struct world *w, const struct known *k)
{
	memset(w->buf, byte_at(k->ino, 0), B);
	return k->size < B ? 0 : fs_write(w->f.k.fs, k->ino, w->buf, B, 0, 0);
}

static void add(struct world *w, const char *dir, unsigned i, struct rng *r)
{
	struct known *k = &w->known[w->n++];
	unsigned blocks = rng_chance(r, 1, 3) ? 0 : rng_chance(r, 1, 8) ? 60 : 1 + (unsigned)rng_below(r, 6);

	memset(k, 0, sizeof(*k));
	snprintf(k->path, sizeof(k->path), "%s/%u", dir, i);
	assert_int_equal(fskit_create(&w->f.k, k->path), 0);
	k->ino = ck_node(&w->f, k->path);
	k->dir = ck_node(&w->f, dir);
	k->regular = true;
	k->sparse = rng_chance(r, 1, 4);
	k->size =
		blocks ? (uint64_t)(k->sparse ? 2 * blocks - 1 : blocks) * B - rng_below(r, B) : 1 + rng_below(r, 500);
	write_file(w, k, blocks ? blocks : 1);
	if (rng_chance(r, 1, 6))
		assert_int_equal(fs_setxattr(w->f.k.fs, k->ino, "user.a", w->buf, 100, 0, false), 0);
}

static void add_dir(struct world *w, const char *path)
{
	struct known *k = &w->known[w->n++];

	*k = (struct known){ 0 };
	snprintf(k->path, sizeof(k->path), "%s", path);
	assert_int_equal(fskit_mkdir(&w->f.k, path), 0);
	k->ino = ck_node(&w->f, path);
	k->dir = strrchr(path, '/') ? ck_node(&w->f, "d") : FS_ROOT_INO;
}

static struct world *make(struct rng *r)
{
	struct world *w = aligned_alloc(B, (sizeof(*w) + B - 1) / B * B);

	assert_non_null(w);
	memset(w, 0, sizeof(*w));
	checkkit_init(&w->f, 16384);
	add_dir(w, "d");
	add_dir(w, "d/e");
	add_dir(w, "g");
	for (unsigned i = 0; i < FILES; i++)
		add(w, i % 3 == 0 ? "d" : i % 3 == 1 ? "d/e" : "g", i, r);
	return w;
}

static void release(struct world *w)
{
	checkkit_release(&w->f);
	free(w);
}

static void remount(struct world *w, bool repairing)
{
	w->f.k.opt.repair = repairing;
	checkkit_remount(&w->f);
}

/* ---- repair ---- */

static void on_done(void *arg, const struct fs_problem_report *p, const char *action, bool lost)
{
	struct world *w = arg;

	(void)action;
	if (!lost)
		return;
	assert_true(w->n_inos < LIST_MAX && w->n_paths < LIST_MAX);
	w->inos[w->n_inos++] = p->ino;
	if (p->path)
		snprintf(w->paths[w->n_paths++], sizeof(w->paths[0]), "%s", p->path);
}

static void print_left(void *arg, const struct fs_problem_report *p)
{
	(void)arg;
	print_message("# left: problem %d, inode %llu, %s: %s\n", (int)p->problem, (unsigned long long)p->ino,
		      p->path ? p->path : "-", p->text);
}

static void repair(struct world *w)
{
	struct fs_repair_options o = {
		.check = { .threads = 1, .report = print_left, .data = true },
		.done = on_done,
		.arg = w,
	};
	int err = fs_repair(w->f.k.fs, &o, &w->result);

	if (err)
		storekit_print();
	assert_int_equal(err, 0);
}

static bool ino_listed(const struct world *w, uint64_t ino)
{
	for (unsigned i = 0; i < w->n_inos; i++)
		if (w->inos[i] == ino)
			return true;
	return false;
}

/* By the last part: what it stands in may have moved to lost+found. Each is there once. */
static bool path_listed(const struct world *w, const char *path)
{
	const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;

	for (unsigned i = 0; i < w->n_paths; i++)
		if (!strcmp(strrchr(w->paths[i], '/') + 1, last))
			return true;
	return false;
}

/* ---- after ---- */

static void look_at_block(struct world *w, const struct known *k, const struct inode *in, uint64_t at, bool *broken)
{
	uint64_t off = at * B;
	size_t len = k->size - off < B ? k->size - off : B, got;
	uint8_t want = k->sparse && at % 2 ? 0 : byte_at(k->ino, at);
	const void *data;
	int err;

	if (off >= in->size) { /* an inode that was made again, and its end was lost */
		*broken = true;
		return;
	}
	err = fs_read(w->f.k.fs, k->ino, off, B, w->buf, &data, &got);
	if (err == -EIO) {
		*broken = true;
		return;
	}
	assert_int_equal(err, 0);
	len = len < got ? len : got;
	for (size_t i = 0; i < len; i++)
		if (((const uint8_t *)data)[i] != want) {
			print_message("# %s (inode %llu) block %llu byte %zu: %u instead of %u\n", k->path,
				      (unsigned long long)k->ino, (unsigned long long)at, i, ((const uint8_t *)data)[i],
				      want);
			fail();
		}
}

static bool is_there(struct world *w, uint64_t ino, struct inode *ret)
{
	return !inode_load(store_live(fs_store(w->f.k.fs)), ino, ret);
}

static void look_at(struct world *w, const struct known *k)
{
	bool broken = false, named;
	struct inode in, dir;

	if (!is_there(w, k->ino, &in)) {
		w->gone++;
		if (!path_listed(w, k->path) && !ino_listed(w, k->dir) && is_there(w, k->dir, &dir)) {
			print_message("# %s (inode %llu) is gone and was not listed\n", k->path,
				      (unsigned long long)k->ino);
			fail();
		}
		return;
	}
	named = fskit_node(&w->f.k, k->path) == k->ino;
	w->moved += !named;
	for (uint64_t at = 0; k->regular && at * B < k->size; at++)
		look_at_block(w, k, &in, at, &broken);
	if (in.size != k->size && k->regular)
		broken = true;
	if (broken && !ino_listed(w, k->ino)) {
		print_message("# %s (inode %llu) is broken and was not listed\n", k->path, (unsigned long long)k->ino);
		fail();
	}
	w->broken += broken;
	w->intact += !broken;
}

static void look_at_all(struct world *w)
{
	remount(w, false);
	for (unsigned i = 0; i < w->n; i++)
		look_at(w, &w->known[i]);
	fskit_check(&w->f.k);
}

/* ---- ranges by hand ---- */

static struct key nth_key(struct world *w, uint64_t n)
{
	struct key key = KEY_MIN;
	struct scan *s;
	const void *val;
	size_t len;

	assert_int_equal(scan_open(store_live(fs_store(w->f.k.fs)), key_make(FS_ROOT_INO, 0, 0), KEY_MAX, &s), 0);
	do
		assert_int_equal(scan_next(s, &key, &val, &len), 0);
	while (n--);
	scan_close(s);
	return key;
}

static uint64_t count_keys(struct world *w)
{
	struct scan *s;
	struct key key;
	const void *val;
	size_t len;
	uint64_t n = 0;

	assert_int_equal(scan_open(store_live(fs_store(w->f.k.fs)), key_make(FS_ROOT_INO, 0, 0), KEY_MAX, &s), 0);
	while (!scan_next(s, &key, &val, &len))
		n++;
	scan_close(s);
	return n;
}

static void put_mark(struct world *w, struct key from, struct key to, uint64_t number)
{
	struct disk_lost d = { le64_put(from.obj), le64_put(from.off), le64_put(to.obj), le64_put(to.off) };

	ck_put_bytes(&w->f, key_make(0, FS_ITEM_LOST, number), &d, sizeof(d));
}

/* So many neighbours from the n-th on go. */
static void lose(struct world *w, uint64_t n, uint64_t items, uint64_t number)
{
	struct key from = nth_key(w, n), to = nth_key(w, n + items);

	assert_int_equal(batch_del_range(w->f.b, from, to), 0);
	put_mark(w, from, to, number);
	ck_commit(&w->f);
}

static void ranges_that_are_lost_are_told_file_by_file(void **state)
{
	unsigned intact = 0, broken = 0, gone = 0, moved = 0;
	uint64_t seed;
	struct rng r;

	(void)state;
	seed = rng_seed_env(&r, 1);
	for (unsigned round = 0; round < 40; round++) {
		struct world *w = make(&r);
		uint64_t total = count_keys(w);
		char text[64];

		snprintf(text, sizeof(text), "seed %llu round %u", (unsigned long long)seed, round);
		for (unsigned i = 0; i <= rng_below(&r, 3); i++) {
			uint64_t items = 1 + rng_below(&r, 40);

			lose(w, rng_below(&r, total - 400), items, i);
		}
		/* Some has been written since: it is in the log, and laid over what was lost. */
		if (round % 3 == 0)
			for (unsigned i = 0; i < 5; i++)
				(void)write_first(w, &w->known[3 + rng_below(&r, FILES)]);
		remount(w, true);
		storekit_quiet();
		print_message("# %s\n", text);
		repair(w);
		look_at_all(w);
		intact += w->intact;
		broken += w->broken;
		gone += w->gone;
		moved += w->moved;
		release(w);
	}
	print_message("# intact %u, broken %u, gone %u, moved %u\n", intact, broken, gone, moved);
	assert_true(intact > 3000 && broken > 50 && gone > 50 && moved > 5);
}

/* A crash at each write of such a repair. */
static void lost_ranges_survive_crashes_of_their_repair(void **state)
{
	uint64_t first, last;
	struct simdev *run;
	struct world *w;
	struct rng r;

	(void)state;
	rng_seed_env(&r, 7);
	w = make(&r);
	lose(w, 300, 30, 1);
	lose(w, 500, 12, 2);
	remount(w, true);
	first = simdev_ops(w->f.k.disk);
	repair(w);
	assert_int_equal(store_checkpoint(fs_store(w->f.k.fs)), 0);
	batch_close(w->f.b);
	fs_crash(w->f.k.fs);
	run = w->f.k.disk;
	last = simdev_ops(run);
	assert_true(last > first);
	for (uint64_t n = first; n <= last; n++) {
		struct simdev_crash c;

		simdev_crash_begin(&c, run, n, 3, n);
		while ((w->f.k.disk = simdev_crash_next(&c))) {
			w->f.k.opt.repair = true;
			fskit_mount(&w->f.k);
			assert_int_equal(batch_open(store_live(fs_store(w->f.k.fs)), &w->f.b), 0);
			/* What the first repair has told counts: this one tells the rest. */
			repair(w);
			look_at_all(w);
			batch_close(w->f.b);
			fs_crash(w->f.k.fs);
			simdev_free(w->f.k.disk);
		}
		simdev_crash_end(&c);
	}
	simdev_free(run);
	free(w);
}

/* With an answer of no to everything, or to the marks alone, these stay, and so nobody mounts it. */
static bool no_mark(void *arg, const struct fs_problem_report *p, const char *action)
{
	unsigned *n = arg;

	(void)action;
	if (p->problem != FS_PROBLEM_LOST_MARK)
		return true;
	++*n;
	return false;
}

static void marks_stay_when_they_are_refused(void **state)
{
	unsigned asked = 0;
	struct fs_repair_options o = { .check.threads = 1, .ask = no_mark, .arg = &asked };
	struct world *w;
	struct fs *fs;
	struct rng r;

	(void)state;
	rng_seed_env(&r, 9);
	w = make(&r);
	lose(w, 400, 30, 1);
	remount(w, true);
	assert_int_equal(fs_repair(w->f.k.fs, &o, &w->result), -EUCLEAN);
	assert_int_equal(asked, 1);
	batch_close(w->f.b);
	fskit_unmount(&w->f.k);
	w->f.k.opt.repair = false;
	w->f.k.opt.store.seed++;
	assert_int_equal(fs_mount(simdev_bdev(w->f.k.disk), &w->f.k.opt, &fs), -EUCLEAN);
	w->f.k.opt.repair = true;
	fskit_mount(&w->f.k);
	assert_int_equal(batch_open(store_live(fs_store(w->f.k.fs)), &w->f.b), 0);
	/* What was filled before is not told again, but told it was. */
	for (unsigned i = 0; i < w->n; i++)
		w->inos[w->n_inos++] = w->known[i].ino;
	repair(w);
	look_at_all(w);
	release(w);
}

/* The small item with the volume's data, when it is lost, is put again. */
static void the_volume_is_told_again(void **state)
{
	struct key key = key_make(0, FS_ITEM_VOLUME, 0);
	uint8_t before[sizeof(struct disk_volume)], after[sizeof(struct disk_volume)];
	struct world *w;
	struct rng r;
	size_t len;

	(void)state;
	rng_seed_env(&r, 3);
	w = make(&r);
	assert_int_equal(view_get(store_live(fs_store(w->f.k.fs)), key, before, sizeof(before), &len), 0);
	ck_del(&w->f, key);
	put_mark(w, key, key_next(key), 1);
	ck_commit(&w->f);
	remount(w, true);
	repair(w);
	look_at_all(w);
	assert_int_equal(w->broken + w->gone, 0);
	assert_int_equal(view_get(store_live(fs_store(w->f.k.fs)), key, after, sizeof(after), &len), 0);
	assert_memory_equal(before, after, len);
	release(w);
}

/* ---- leaves for real ---- */

/* Flips a bit in `n` leaves, of whatever age, that begin with this inode or a later one. */
static unsigned damage(struct world *w, struct rng *r, uint64_t ino, unsigned n)
{
	static uint8_t block[B];
	uint64_t found[8192];
	unsigned n_found = 0;

	for (uint64_t addr = 300; addr < 16384; addr++) {
		const struct disk_node *d = (const struct disk_node *)block;
		const struct disk_slot *slot = (const struct disk_slot *)(d + 1);

		simdev_peek(w->f.k.disk, addr, block, 1);
		if (le32_get(d->magic) != NODE_MAGIC || d->level || le64_get(d->tree) != 1 || n_found == 8192)
			continue;
		if (le64_get(slot[0].obj) >> 8 >= ino)
			found[n_found++] = addr;
	}
	for (unsigned i = 0; i < n && n_found; i++)
		simdev_flip(w->f.k.disk, found[rng_below(r, n_found)], 8 * 2000);
	return n_found;
}

static int rebuild(struct world *w, struct rebuild_result *ret)
{
	struct rebuild_options o = { .records = &fs_records, .lost = fs_repair_lost };

	return store_rebuild(simdev_bdev(w->f.k.disk), &o, ret);
}

static void leaves_that_are_lost_are_told_file_by_file(void **state)
{
	unsigned intact = 0, broken = 0, gone = 0, moved = 0, nodes = 0;
	uint64_t seed;
	struct rng r;

	(void)state;
	seed = rng_seed_env(&r, 4);
	for (unsigned round = 0; round < 40; round++) {
		struct rebuild_result result = { 0 };
		struct world *w = make(&r);
		bool crash = round % 2;

		print_message("# seed %llu round %u\n", (unsigned long long)seed, round);
		assert_int_equal(store_checkpoint(fs_store(w->f.k.fs)), 0);
		batch_close(w->f.b);
		if (crash) { /* with something in the log */
			for (unsigned i = 3; i < 20; i++)
				assert_int_equal(write_first(w, &w->known[i]), 0);
			assert_int_equal(fs_sync(w->f.k.fs), 0);
			fs_crash(w->f.k.fs);
		} else {
			assert_int_equal(fs_unmount(w->f.k.fs), 0);
		}
		w->f.k.fs = NULL;
		damage(w, &r, round % 4 < 2 ? w->known[3].ino : 0,
		       1 + (unsigned)rng_below(&r, 40)); /* (3: the first file) */
		storekit_quiet();
		assert_int_equal(rebuild(w, &result), 0);
		nodes += (unsigned)result.nodes_lost;
		w->f.k.opt.repair = true;
		fskit_mount(&w->f.k);
		assert_int_equal(batch_open(store_live(fs_store(w->f.k.fs)), &w->f.b), 0);
		repair(w);
		look_at_all(w);
		intact += w->intact;
		broken += w->broken;
		gone += w->gone;
		moved += w->moved;
		release(w);
	}
	print_message("# %u leaves lost: intact %u, broken %u, gone %u, moved %u\n", nodes, intact, broken, gone,
		      moved);
	assert_true(nodes > 20 && broken > 20 && intact > 1000 && gone > 20 && moved > 20);
}

/*
 * Superblocks gone: all that is left are nodes, and the item that says what only superblocks knew. With every node there nothing
 * is lost. With some of them gone older ones come in their place, so content may be older; but what comes out is clean.
 */
static void without_superblocks_nodes_are_found(void **state)
{
	static const uint8_t zeros[B];
	unsigned intact = 0, broken = 0, gone = 0, blind = 0;
	uint64_t seed;
	struct rng r;

	(void)state;
	seed = rng_seed_env(&r, 5);
	for (unsigned round = 0; round < 12; round++) {
		struct salvage_options so = { .records = &fs_records, .identify = fs_repair_identify };
		struct rebuild_options ro = { .records = &fs_records, .lost = fs_repair_salvaged };
		struct salvage_result sr;
		struct rebuild_result rr;
		struct world *w = make(&r);

		print_message("# seed %llu round %u\n", (unsigned long long)seed, round);
		if (round) /* else all is in the log, but one leaf */
			assert_int_equal(store_checkpoint(fs_store(w->f.k.fs)), 0);
		batch_close(w->f.b);
		if (round % 2)
			assert_int_equal(fs_unmount(w->f.k.fs), 0);
		else
			fs_crash(w->f.k.fs);
		w->f.k.fs = NULL;
		simdev_poke(w->f.k.disk, 0, 0, zeros, B);
		simdev_poke(w->f.k.disk, 16, 0, zeros, B);
		if (round % 4 >= 2)
			damage(w, &r, 0, 1 + (unsigned)rng_below(&r, 20));
		storekit_quiet();
		assert_int_equal(salvage_scan(simdev_bdev(w->f.k.disk), &so, &ro.salvage, &sr), 0);
		assert_false(sr.super_found);
		blind += !sr.identified; /* the secret is gone: all names are hashed anew */
		assert_int_equal(store_rebuild(simdev_bdev(w->f.k.disk), &ro, &rr), 0);
		salvage_close(ro.salvage);
		w->f.k.opt.repair = true;
		fskit_mount(&w->f.k);
		assert_int_equal(batch_open(store_live(fs_store(w->f.k.fs)), &w->f.b), 0);
		repair(w);
		remount(w, false);
		fskit_check(&w->f.k);
		if (round == 1) {
			look_at_all(w);
			assert_int_equal(w->gone, 0);
			intact += w->intact;
			broken += w->broken;
			gone += w->gone;
		}
		release(w);
	}
	print_message("# %u without a secret; intact %u, broken %u, gone %u\n", blind, intact, broken, gone);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_that_are_lost_are_told_file_by_file),
		cmocka_unit_test(lost_ranges_survive_crashes_of_their_repair),
		cmocka_unit_test(marks_stay_when_they_are_refused),
		cmocka_unit_test(the_volume_is_told_again),
		cmocka_unit_test(leaves_that_are_lost_are_told_file_by_file),
		cmocka_unit_test(without_superblocks_nodes_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

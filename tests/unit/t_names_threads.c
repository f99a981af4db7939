/*
 * t_names_threads.c - names from many threads at once
 *
 * What must hold at every moment: a node that is referred to exists; a name that is replaced by rename is always there;
 * a lookup never returns an inode without names. At the end the filesystem is whole and nothing is left over. Meant for
 * the thread sanitizer, too.
 *
 * ARBOR_THREADS_SECONDS: how long each test takes (1).
 */
#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef BLOCK_SIZE

#include "fs/fs_int.h"
#include "tests/kit/fskit.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define THREADS 4u
#define DIRS 3u
#define NAMES 6u
#define HELD 8u

/* A thread cannot longjmp out of a test. */
#define expect(cond)                                                                                                   \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond);                                            \
			fflush(stdout);                                                                                \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

struct shared {
	struct fs *fs;
	uint64_t dir[DIRS];
	uint64_t place[2], child[2];
	atomic_uint inside;
	atomic_bool stop;
	atomic_uint_fast64_t done;
};

struct worker {
	struct shared *sh;
	void (*step)(struct worker *);
	unsigned number;
	struct rng rng;
	uint64_t held[HELD]; /* references, 0: none */
	pthread_t thread;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	rng_seed(&w->rng, w->number + 100);
	while (!atomic_load(&w->sh->stop)) {
		w->step(w);
		atomic_fetch_add(&w->sh->done, 1);
	}
	for (unsigned i = 0; i < HELD; i++)
		if (w->held[i])
			fs_forget(w->sh->fs, w->held[i], 1);
	return NULL;
}

static void run(struct shared *sh, void (*const steps[THREADS])(struct worker *))
{
	const char *text = getenv("ARBOR_THREADS_SECONDS");
	struct timespec rest = { .tv_sec = text ? atoi(text) : 1 };
	struct worker w[THREADS] = { 0 };

	for (unsigned i = 0; i < THREADS; i++) {
		w[i].sh = sh;
		w[i].number = i;
		w[i].step = steps[i];
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	nanosleep(&rest, NULL);
	atomic_store(&sh->stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
	print_message("# %llu operations\n", (unsigned long long)atomic_load(&sh->done));
	assert_true(atomic_load(&sh->done) > 100);
}

/* Keeps a reference that was just taken in place of an older one, which must still be good. */
static void hold(struct worker *w, uint64_t node)
{
	unsigned i = (unsigned)rng_below(&w->rng, HELD);
	struct fs_entry e;

	expect(!fs_getattr(w->sh->fs, node, &e));
	if (w->held[i]) {
		expect(!fs_getattr(w->sh->fs, w->held[i], &e));
		fs_forget(w->sh->fs, w->held[i], 1);
	}
	w->held[i] = node;
}

static const char *const names[NAMES] = { "a", "b", "c", "d", "e", "f" };

static int keep_entry(void *arg, const struct fs_dirent *d)
{
	struct worker *w = arg;

	if (d->entry) {
		expect(d->entry->st.st_nlink > 0);
		hold(w, d->entry->node);
	}
	return 0;
}

static bool one_of(int err, const int *allowed)
{
	while (*allowed && *allowed != err)
		allowed++;
	return !err || *allowed;
}

static void make_something(struct worker *w, uint64_t dir, const char *name)
{
	static const int allowed[] = { -EEXIST, -ENOENT, -ESTALE, -ENOTDIR, 0 };
	struct fs_entry e, e2;
	int err;

	switch (rng_below(&w->rng, 4)) {
	case 0:
		err = fs_mkdir(w->sh->fs, &fskit_user, dir, name, 0755, &e);
		break;
	case 1:
		err = fs_symlink(w->sh->fs, &fskit_user, "somewhere", dir, name, &e);
		break;
	case 2:
		err = fs_tmpfile(w->sh->fs, &fskit_user, dir, 0600, &e);
		if (err)
			break;
		if (!fs_link(w->sh->fs, e.node, dir, name, &e2)) {
			expect(e2.node == e.node);
			fs_forget(w->sh->fs, e2.node, 1);
		}
		break;
	default:
		err = fs_mknod(w->sh->fs, &fskit_user, dir, name, S_IFREG | 0644, 0, &e);
	}
	expect(one_of(err, allowed));
	if (!err)
		hold(w, e.node);
}

/* A directory of the few, or any node held: a file, or a directory that may have been removed. */
static uint64_t pick_dir(struct worker *w)
{
	uint64_t held = w->held[rng_below(&w->rng, HELD)];

	return held && rng_chance(&w->rng, 1, 4) ? held : w->sh->dir[rng_below(&w->rng, DIRS)];
}

static void anything(struct worker *w)
{
	static const int missing[] = { -ENOENT, -ENOTDIR, -EISDIR, -ENOTEMPTY, 0 };
	static const int links[] = { -ENOENT, -ENOTDIR, -EEXIST, -EPERM, 0 };
	static const int renames[] = { -ENOENT, -ENOTDIR, -EISDIR, -ENOTEMPTY, -EEXIST, -EINVAL, 0 };
	static const unsigned flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT };
	uint64_t dir = pick_dir(w), held = w->held[rng_below(&w->rng, HELD)];
	const char *name = names[rng_below(&w->rng, NAMES)];
	struct fs *fs = w->sh->fs;
	struct fs_entry e;
	int err;

	switch (rng_below(&w->rng, 10)) {
	case 0:
		expect(one_of(fs_unlink(fs, dir, name), missing));
		break;
	case 1:
		expect(one_of(fs_rmdir(fs, dir, name), missing));
		break;
	case 2:
	case 3:
	case 4:
		err = fs_rename(fs, &fskit_user, dir, name, pick_dir(w), names[rng_below(&w->rng, NAMES)],
				flags[rng_below(&w->rng, ARRAY_LEN(flags))]);
		expect(one_of(err, renames));
		break;
	case 5:
		err = held ? fs_link(fs, held, dir, name, &e) : -ENOENT;
		expect(one_of(err, links));
		if (!err)
			hold(w, e.node);
		break;
	case 6:
		err = fs_lookup(fs, dir, name, &e);
		expect(one_of(err, missing));
		if (!err) {
			expect(e.st.st_nlink > 0);
			hold(w, e.node);
		}
		break;
	case 7:
		err = fs_readdir(fs, dir, 0, true, keep_entry, w);
		expect(!err || err == -ENOTDIR);
		break;
	default:
		make_something(w, dir, name);
	}
}

static void begin(struct fskit *k, struct shared *sh, bool collisions)
{
	fskit_init(k, &(struct fskit_options){ .blocks = 32768, .log_blocks = 2048, .threads = true });
	k->fs->hash_mask = collisions ? 1 : 0;
	*sh = (struct shared){ .fs = k->fs };
	for (unsigned i = 0; i < DIRS; i++) {
		char name[16];
		struct fs_entry e;

		snprintf(name, sizeof(name), "dir%u", i);
		assert_int_equal(fs_mkdir(k->fs, &fskit_root, FS_ROOT, name, 0755, &e), 0);
		sh->dir[i] = e.node;
	}
}

static void end(struct fskit *k, struct shared *sh, bool collisions)
{
	for (unsigned i = 0; i < DIRS; i++)
		fs_forget(k->fs, sh->dir[i], 1);
	assert_int_equal(lookups_count(k->fs->lookups), 0);
	fskit_check(k);
	fskit_remount(k);
	k->fs->hash_mask = collisions ? 1 : 0;
	fskit_check(k);
	fskit_release(k);
}

static void everything_at_once_leaves_a_whole_filesystem(void **state)
{
	static void (*const steps[THREADS])(struct worker *) = { anything, anything, anything, anything };
	bool collisions = *(const bool *)*state;
	struct shared sh;
	struct fskit k;

	begin(&k, &sh, collisions);
	run(&sh, steps);
	end(&k, &sh, collisions);
}

/* ---- replacing ---- */

static void replace(struct worker *w)
{
	struct fs_entry e;
	char name[16];

	snprintf(name, sizeof(name), "new%u", w->number);
	expect(!fs_mknod(w->sh->fs, &fskit_user, w->sh->dir[0], name, S_IFREG | 0644, 0, &e));
	expect(!fs_rename(w->sh->fs, NULL, w->sh->dir[0], name, w->sh->dir[0], "always", 0));
	fs_forget(w->sh->fs, e.node, 1);
}

static void look(struct worker *w)
{
	struct fs_entry e;

	expect(!fs_lookup(w->sh->fs, w->sh->dir[0], "always", &e));
	expect(e.st.st_nlink == 1);
	hold(w, e.node);
}

static int find_always(void *arg, const struct fs_dirent *d)
{
	bool *found = arg;

	*found |= !strcmp(d->name, "always");
	return 0;
}

static void list(struct worker *w)
{
	bool found = false;

	expect(!fs_readdir(w->sh->fs, w->sh->dir[0], 0, false, find_always, &found));
	expect(found);
	look(w);
}

static void a_name_that_is_replaced_is_always_there(void **state)
{
	static void (*const steps[THREADS])(struct worker *) = { replace, replace, look, list };
	bool collisions = *(const bool *)*state;
	struct shared sh;
	struct fs_entry e;
	struct fskit k;

	begin(&k, &sh, collisions);
	assert_int_equal(fs_mknod(k.fs, &fskit_user, sh.dir[0], "always", S_IFREG | 0644, 0, &e), 0);
	fs_forget(k.fs, e.node, 1);
	run(&sh, steps);
	end(&k, &sh, collisions);
}

/* ---- directories into each other ---- */

/* Moves any of a few directories into any other; whoever would make a loop is refused, and all stay reachable. */
static void nest(struct worker *w)
{
	uint64_t from = w->sh->dir[rng_below(&w->rng, DIRS)], to = w->sh->dir[rng_below(&w->rng, DIRS)];
	static const int allowed[] = { -ENOENT, -EINVAL, -ENOTEMPTY, 0 };
	const char *name = names[rng_below(&w->rng, 3)];

	if (rng_chance(&w->rng, 1, 3))
		from = FS_ROOT;
	if (rng_chance(&w->rng, 1, 3))
		to = FS_ROOT;
	expect(one_of(fs_rename(w->sh->fs, NULL, from, name, to, names[rng_below(&w->rng, 3)],
				rng_chance(&w->rng, 1, 3) ? RENAME_EXCHANGE : 0),
		      allowed));
}

static void directories_never_make_a_loop(void **state)
{
	static void (*const steps[THREADS])(struct worker *) = { nest, nest, nest, nest };
	struct shared sh;
	struct fskit k;

	(void)state;
	begin(&k, &sh, false);
	for (unsigned i = 0; i < DIRS; i++) {
		char name[16];

		snprintf(name, sizeof(name), "dir%u", i);
		assert_int_equal(fs_rename(k.fs, NULL, FS_ROOT, name, FS_ROOT, names[i], 0), 0);
		snprintf(name, sizeof(name), "%s/stays", names[i]);
		assert_int_equal(fskit_create(&k, name), 0); /* so that none is replaced */
	}
	run(&sh, steps);
	for (unsigned i = 0; i < DIRS; i++) {
		struct fs_entry e;

		assert_int_equal(fs_lookup(k.fs, sh.dir[i], "stays", &e), 0);
		fs_forget(k.fs, e.node, 1);
	}
	end(&k, &sh, false);
}

static void look_around(struct worker *w)
{
	struct fs_entry e;

	expect(!fs_lookup(w->sh->fs, w->sh->child[w->number % 2], "..", &e));
	fs_forget(w->sh->fs, e.node, 1);
}

/*
 * Two directories each into the other's child, by operations that have no directory in common: only the lock on moves
 * keeps both from succeeding.
 */
static void into_each_other(struct worker *w)
{
	struct shared *sh = w->sh;
	unsigned me = w->number % 2;

	if (w->number > 1)
		return look_around(w);
	if (fs_rename(sh->fs, NULL, sh->place[me], "moved", sh->child[!me], "moved", 0))
		return;
	expect(atomic_fetch_add(&sh->inside, 1) == 0);
	sched_yield();
	atomic_fetch_sub(&sh->inside, 1);
	expect(!fs_rename(sh->fs, NULL, sh->child[!me], "moved", sh->place[me], "moved", 0));
}

static void two_directories_do_not_move_into_each_other(void **state)
{
	static void (*const steps[THREADS])(struct worker *) = { into_each_other, into_each_other, into_each_other,
								 into_each_other };
	struct fs_entry place, moved, child;
	struct shared sh;
	struct fskit k;

	(void)state;
	begin(&k, &sh, false);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(fs_mkdir(k.fs, &fskit_root, FS_ROOT, i ? "place1" : "place0", 0755, &place), 0);
		assert_int_equal(fs_mkdir(k.fs, &fskit_root, place.node, "moved", 0755, &moved), 0);
		assert_int_equal(fs_mkdir(k.fs, &fskit_root, moved.node, "child", 0755, &child), 0);
		sh.place[i] = place.node;
		sh.child[i] = child.node;
		fs_forget(k.fs, place.node, 1);
		fs_forget(k.fs, moved.node, 1);
		fs_forget(k.fs, child.node, 1);
	}
	run(&sh, steps);
	end(&k, &sh, false);
}

/* ---- links ---- */

/* One name that refers to either of two files in turn, is removed, and all the while both get and lose other names. */
static void relink(struct worker *w)
{
	struct shared *sh = w->sh;
	unsigned which = (unsigned)rng_below(&w->rng, 2);
	struct fs_entry e;
	char name[16];
	int err;

	snprintf(name, sizeof(name), "link%u", w->number);
	switch (w->number) {
	case 0:
		err = fs_unlink(sh->fs, sh->dir[0], "name");
		expect(!err || err == -ENOENT);
		break;
	case 1:
		expect(!fs_link(sh->fs, sh->dir[1 + which], sh->place[0], name, &e));
		fs_forget(sh->fs, e.node, 1);
		expect(!fs_unlink(sh->fs, sh->place[0], name));
		break;
	default:
		expect(!fs_link(sh->fs, sh->dir[1 + which], sh->dir[0], name, &e));
		fs_forget(sh->fs, e.node, 1);
		expect(!fs_rename(sh->fs, NULL, sh->dir[0], name, sh->dir[0], "name", 0));
		err = fs_unlink(sh->fs, sh->dir[0], name); /* "name" was a link of the same file already */
		expect(!err || err == -ENOENT);
	}
}

static void link_counts_stay_right(void **state)
{
	static void (*const steps[THREADS])(struct worker *) = { relink, relink, relink, relink };
	struct fs_entry e;
	struct shared sh;
	struct fskit k;

	(void)state;
	begin(&k, &sh, false);
	sh.place[0] = sh.dir[1]; /* a directory of its own; the two files stand in for the others */
	for (unsigned i = 1; i < DIRS; i++) {
		assert_int_equal(fs_mknod(k.fs, &fskit_user, FS_ROOT, names[i], S_IFREG, 0, &e), 0);
		if (i > 1)
			fs_forget(k.fs, sh.dir[i], 1);
		sh.dir[i] = e.node;
	}
	run(&sh, steps);
	fs_forget(k.fs, sh.place[0], 1);
	for (unsigned i = 1; i < DIRS; i++) {
		assert_int_equal(fs_getattr(k.fs, sh.dir[i], &e), 0);
		assert_in_range(e.st.st_nlink, 1, 2);
	}
	end(&k, &sh, false);
}

int main(void)
{
	static const bool no, yes = true;
	const struct CMUnitTest tests[] = {
		TEST_ROW("everything_at_once_leaves_a_whole_filesystem", everything_at_once_leaves_a_whole_filesystem,
			 &no),
		TEST_ROW("everything_at_once_with_one_hash_for_all_names", everything_at_once_leaves_a_whole_filesystem,
			 &yes),
		TEST_ROW("a_name_that_is_replaced_is_always_there", a_name_that_is_replaced_is_always_there, &no),
		TEST_ROW("a_colliding_name_that_is_replaced_is_always_there", a_name_that_is_replaced_is_always_there,
			 &yes),
		TEST_ROW("directories_never_make_a_loop", directories_never_make_a_loop, &no),
		cmocka_unit_test(two_directories_do_not_move_into_each_other),
		cmocka_unit_test(link_counts_stay_right),
	};

	return _cmocka_run_group_tests("names_threads", tests, ARRAY_LEN(tests), NULL, NULL);
}

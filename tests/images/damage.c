/*
 * damage - filesystems with random blocks damaged, repaired, and compared with what they were
 *
 *	damage [--images N | --seconds S] [--seed S] [--first N] [--verbose]
 *
 * Image n of a seed depends on (seed, n) alone, so `--seed S --first N --images 1` is that one again. Each is a filesystem of
 * which every byte is known (known.h), as it stands after an unmount or a kill, with nodes in one copy or two, with or
 * without a snapshot. Of its blocks 1 to 40 are damaged: any that are used, or nodes, superblocks, the space map, the log, data.
 * Then what `fsck.arbor -y --data` does is done (with --salvage where it asks for that), and:
 *
 *	- the second look finds nothing (but bad data in snapshots, which are never changed), and it mounts as any other
 *	- every file has the bytes it had, or reading them is an error, or it was told that it lost something
 *	- every eighth repair is undone from its undo file: every block is what it was before
 *	- every fourth has an allocation or a transfer fail first, and is begun again
 *	- every fourth is cut short by a power cut at some write, with what was not flushed kept, dropped or torn, and begun again
 *
 * A file that cannot be read in parts or is not there must have been named by a line about it or its directory. Where the log was
 * damaged that holds for what was made late, and after a salvage, which says itself that it may find an older state, for all.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "btree/dev/overlay.h"
#include "btree/mem.h"
#include "btree/super_format.h"
#include "tests/images/known.h"
#include "tests/kit/failmem.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"
#include "tools/fsck_run.h"

#define DAMAGE_MAX 40u
#define IMAGES 1000u

/* ---- the filesystems ---- */

static const struct known_options shapes[] = {
	{ .seed = 1, .copies = true, .snapshot = true },
	{ .seed = 2, .copies = true, .snapshot = true, .killed = true },
	{ .seed = 3 },
	{ .seed = 4, .killed = true },
	{ .seed = 5, .snapshot = true },
	{ .seed = 6, .snapshot = true, .killed = true },
};
#define BASES ARRAY_LEN(shapes)

static struct base {
	struct known known;
	struct simdev_image *image;
	struct image map;
} bases[BASES];

static void make_bases(void)
{
	for (size_t i = 0; i < BASES; i++) {
		struct base *b = &bases[i];
		struct simdev *disk = known_make(&b->known, &shapes[i]);

		b->image = simdev_freeze(disk);
		b->map.disk = disk;
		image_walk(&b->map);
	}
}

static void free_bases(void)
{
	for (size_t i = 0; i < BASES; i++) {
		known_release(&bases[i].known);
		simdev_image_free(bases[i].image);
		simdev_free(bases[i].map.disk);
		known_map_release(&bases[i].map);
	}
}

/* ---- one image ---- */

struct told {
	char *text, *path;
	uint64_t ino;
	unsigned problem;
	bool lost;
};

struct run {
	uint64_t seed, number;
	struct rng rng;
	const struct base *base;
	struct simdev *disk;
	struct told *told;
	size_t n_told, cap_told;
	struct range {
		uint64_t from, to; /* inodes, both with */
	} * range;
	size_t n_ranges, cap_ranges;
	bool log_lost, super_lost, salvaged;
	bool quiet;
	bool tail_hit;		/* the end of the log */
	uint64_t snapshot_data; /* bad data in a snapshot: nothing of a snapshot is ever changed */
	char what[400];		/* what was damaged */
};

static struct count {
	uint64_t images, blocks, unharmed, mended, lost, salvaged, undone, cut, faults;
	uint64_t intact, unreadable, moved, missing, shorter, older;
} counted;

/* Inodes of which nothing but the number is known are told by that: "inodes A to B", "inode A,", "inodes from A on". */
static void keep_range(struct run *r, const char *text)
{
	struct range n = { 0 };

	if (sscanf(text, "inodes %" SCNu64 " to %" SCNu64, &n.from, &n.to) == 2)
		;
	else if (sscanf(text, "inodes from %" SCNu64, &n.from) == 1)
		n.to = UINT64_MAX;
	else if (sscanf(text, "inode %" SCNu64, &n.from) == 1)
		n.to = n.from;
	else
		return;
	if (r->n_ranges == r->cap_ranges) {
		r->cap_ranges = r->cap_ranges ? 2 * r->cap_ranges : 64;
		r->range = realloc(r->range, r->cap_ranges * sizeof(*r->range));
		assert_non_null(r->range);
	}
	r->range[r->n_ranges++] = n;
}

static void on_line(void *arg, const struct fsck_line *l)
{
	struct run *r = arg;
	char text[800];
	struct told *t;

	if (r->n_told == r->cap_told) {
		r->cap_told = r->cap_told ? 2 * r->cap_told : 64;
		r->told = realloc(r->told, r->cap_told * sizeof(*r->told));
		assert_non_null(r->told);
	}
	snprintf(text, sizeof(text), "%s: %s%s%s: %s: %s%s (problem %u)", l->path ? l->path : "-",
		 l->view ? l->view : "", l->view ? ": " : "", l->text, l->action ? l->action : "left",
		 l->lost ? "lost" : "", l->ino ? " inode" : "", l->problem);
	t = &r->told[r->n_told++];
	*t = (struct told){ strdup(text), l->path ? strdup(l->path) : NULL, l->ino, l->problem, l->lost };
	if (l->problem == FS_PROBLEM_LOST_MARK && l->lost)
		keep_range(r, l->text);
	r->log_lost |= l->problem == FS_PROBLEM_LOG_DAMAGED;
	r->super_lost |= l->problem == FS_PROBLEM_SUPER_SLOT;
	r->snapshot_data += l->problem == FS_PROBLEM_DATA_BAD && !l->action && l->view && strcmp(l->view, "live");
}

/* The list of losses has the file, or a directory above it. */
static bool was_told(void *arg, const struct known_file *f)
{
	const struct run *r = arg;

	/* With the older superblock the log begins earlier. */
	if (r->salvaged || (r->log_lost && r->super_lost) || ((r->log_lost || r->tail_hit) && f->late))
		return true;
	for (size_t i = 0; i < r->n_ranges; i++)
		if (r->range[i].from <= f->ino && f->ino <= r->range[i].to)
			return true;
	for (size_t i = 0; i < r->n_told; i++) {
		const struct told *t = &r->told[i];
		size_t len = t->path ? strlen(t->path) : 0;

		if (!t->lost && f->size) /* an empty file without a name is deleted, and that is no loss */
			continue;
		if (t->ino && t->ino == f->ino)
			return true;
		if (len > 1 && strncmp(t->path + 1, f->path, len - 1) == 0 &&
		    (f->path[len - 1] == 0 || f->path[len - 1] == '/'))
			return true;
	}
	return false;
}

static void note(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(struct run *r, const char *fmt, ...)
{
	size_t n = strlen(r->what);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->what + n, sizeof(r->what) - n, fmt, ap);
	va_end(ap);
}

static void damage_block(struct run *r, uint64_t addr)
{
	uint8_t buf[BLOCK_SIZE] = { 0 };

	switch (rng_below(&r->rng, 4)) {
	case 0:
		simdev_flip(r->disk, addr, (uint32_t)rng_below(&r->rng, BLOCK_SIZE * 8));
		break;
	case 1:
		simdev_poke(r->disk, addr, 0, buf, BLOCK_SIZE);
		break;
	case 2:
		rng_bytes(&r->rng, buf, BLOCK_SIZE);
		simdev_poke(r->disk, addr, 0, buf, BLOCK_SIZE);
		break;
	case 3: /* a misdirected write */
		simdev_peek(r->disk, rng_below(&r->rng, r->base->map.blocks), buf, 1);
		simdev_poke(r->disk, addr, 0, buf, BLOCK_SIZE);
		break;
	}
	counted.blocks++;
}

/* The last segment may be the log's end as well as not: nothing behind it says that it had become durable. So may be what it
 * vouches for. */
static bool is_tail(const struct image *m, uint64_t addr)
{
	const struct image_owner *last = &m->owner[m->n_owners - 1];

	if (last->kind != OWNER_SEGMENT)
		return false;
	if (addr >= last->addr && addr < last->addr + last->blocks)
		return true;
	for (size_t i = 0; i < m->n_sums; i++)
		if (m->sum[i].addr == addr && m->sum[i].place.block >= last->addr &&
		    m->sum[i].place.block < last->addr + last->blocks)
			return true;
	return false;
}

/* A block of something of a kind. 0: there is none. */
static uint64_t block_of(struct run *r, enum image_owner_kind kind)
{
	const struct image *m = &r->base->map;

	for (unsigned i = 0; i < 1000; i++) {
		const struct image_owner *o = &m->owner[rng_below(&r->rng, m->n_owners)];

		if (o->kind == kind)
			return (o->copy && rng_chance(&r->rng, 1, 2) ? o->copy : o->addr) +
			       rng_below(&r->rng, o->blocks);
	}
	return 0;
}

static void damage_some(struct run *r)
{
	static const char *const aims[] = { "any", "nodes", "nodes", "super", "space", "log", "data", "mixed" };
	const struct image *m = &r->base->map;
	unsigned k = 1 + (unsigned)rng_below(&r->rng, rng_chance(&r->rng, 1, 2) ? 5 : DAMAGE_MAX);
	unsigned aim = (unsigned)rng_below(&r->rng, ARRAY_LEN(aims));

	note(r, "base %zu, %s:", (size_t)(r->base - bases), aims[aim]);
	if (aim == 3 && k > 2)
		k = 2;
	for (unsigned i = 0; i < k; i++) {
		unsigned which = aim == 7 ? (unsigned)rng_below(&r->rng, 7) : aim;
		const struct image_list *used = &m->group[IMAGE_BLOCK];
		uint64_t addr = 0;

		switch (which) {
		case 1:
		case 2:
			addr = block_of(r, OWNER_NODE);
			break;
		case 3: /* not the same one twice, so that k is what it says */
			addr = i ? SUPER_SLOT1 : SUPER_SLOT0;
			if (rng_chance(&r->rng, 1, 2) && k == 1)
				addr = SUPER_SLOT1;
			break;
		case 4:
			addr = block_of(r, OWNER_SPACE);
			break;
		case 5:
			addr = block_of(r, OWNER_SEGMENT);
			break;
		case 6:
			addr = m->n_sums ? m->sum[rng_below(&r->rng, m->n_sums)].addr : 0;
			break;
		}
		if (!addr && which != 3)
			addr = used->at[rng_below(&r->rng, used->n)].block;
		damage_block(r, addr);
		r->tail_hit |= is_tail(m, addr);
		note(r, " %" PRIu64, addr);
	}
}

/* ---- repair ---- */

static int look(struct run *r, struct bdev *dev, bool tell, struct fsck_look *ret)
{
	const struct fsck_options o = {
		.mode = FSCK_NO, .data = true, .threads = 1, .line = tell ? on_line : NULL, .arg = r
	};
	int err = fsck_look(dev, &o, ret);

	if (err != -ENODEV)
		return err;
	*ret = (struct fsck_look){ .no_super = true, .problems = 1 };
	return 0;
}

/* As fsck.arbor -y --data does it; the whole of it again with --salvage where that is asked for. */
static int mend(struct run *r, struct bdev *dev, struct fsck_result *ret)
{
	struct fsck_options o = { .mode = FSCK_YES, .data = true, .threads = 1, .line = on_line, .arg = r };
	struct fsck_look before;
	int err = look(r, dev, false, &before);

	if (!err && !before.problems && !before.dirty)
		counted.unharmed++;
	if (!err)
		err = fsck_mend(dev, &o, &before, ret);
	if (!err && ret->want_salvage) {
		o.salvage = r->salvaged = true;
		counted.salvaged++;
		err = look(r, dev, false, &before);
		if (!err)
			err = fsck_mend(dev, &o, &before, ret);
	}
	if (err && !r->quiet)
		print_message("# mending: %s\n", strerror(-err));
	return err;
}

static int look_inside(struct run *r)
{
	static struct fs_options opt = { .no_threads = true, .atime = FS_NOATIME };
	struct known_left left;
	unsigned wrong;
	struct fs *fs;
	int err = fs_mount(simdev_bdev(r->disk), &opt, &fs);

	if (err) {
		print_message("# it cannot be mounted: %s\n", strerror(-err));
		return err;
	}
	wrong = known_look(&r->base->known, fs, r->salvaged, was_told, r, &left);
	counted.older += left.older;
	counted.intact += left.intact;
	counted.unreadable += left.unreadable;
	counted.moved += left.moved;
	counted.missing += left.missing;
	counted.shorter += left.shorter;
	err = fs_unmount(fs);
	return err ? err : wrong ? -EUCLEAN : 0;
}

static bool same(const struct simdev_image *before, struct simdev *now)
{
	struct simdev *was = simdev_new(&(struct simdev_options){ .base = before, .no_trace = true });
	uint8_t a[BLOCK_SIZE], b[BLOCK_SIZE];
	uint64_t blocks = simdev_bdev(was)->geo.blocks;
	bool yes = true;

	for (uint64_t i = 0; yes && i < blocks; i++) {
		simdev_peek(was, i, a, 1);
		simdev_peek(now, i, b, 1);
		yes = !memcmp(a, b, BLOCK_SIZE);
		if (!yes)
			print_message("# block %" PRIu64 " was not put back\n", i);
	}
	simdev_free(was);
	return yes;
}

/* On a disk of its own: repair through an undo file, then back. */
static int undo(struct run *r, const struct simdev_image *before, const char *dir)
{
	struct simdev *disk = simdev_new(&(struct simdev_options){ .base = before, .no_trace = true });
	struct fsck_result result;
	char path[300];
	struct bdev *dev;
	int err;

	snprintf(path, sizeof(path), "%s/undo-%" PRIu64, dir, r->number);
	err = undo_open(simdev_bdev(disk), path, &dev);
	if (!err) {
		err = mend(r, dev, &result);
		bdev_close(dev);
	}
	if (!err)
		err = undo_apply(simdev_bdev(disk), path, NULL);
	if (err)
		print_message("# undo: %s\n", strerror(-err));
	if (!err && !same(before, disk))
		err = -EUCLEAN;
	(void)unlink(path);
	simdev_free(disk);
	counted.undone++;
	return err;
}

static int repair(struct run *r)
{
	struct fsck_result result = { 0 };
	struct fsck_look after;
	int err = mend(r, simdev_bdev(r->disk), &result);

	if (err)
		return err;
	counted.mended += result.mended;
	counted.lost += result.lost;
	if (result.left > r->snapshot_data || result.last.problems > r->snapshot_data) {
		print_message("# %" PRIu64 " problems are left\n", result.left);
		(void)look(r, simdev_bdev(r->disk), true, &after);
		return -EUCLEAN;
	}
	err = look_inside(r);
	if (!err)
		err = look(r, simdev_bdev(r->disk), false, &after);
	if (!err && after.problems > r->snapshot_data) {
		print_message("# the second look finds %" PRIu64 " problems\n", after.problems);
		err = -EUCLEAN;
	}
	return err;
}

static void forget_told(struct run *r)
{
	for (size_t i = 0; i < r->n_told; i++) {
		free(r->told[i].text);
		free(r->told[i].path);
	}
	r->n_told = r->n_ranges = 0;
	r->log_lost = r->super_lost = r->salvaged = false;
	r->snapshot_data = 0;
}

/* The power is cut somewhere in a first repair. What that one told still counts: it may have been done. */
static void cut_short(struct run *r)
{
	uint64_t end = simdev_ops(r->disk) + rng_below(&r->rng, rng_chance(&r->rng, 1, 2) ? 40 : 400);
	struct fsck_result result = { 0 };
	struct simdev *after;

	simdev_kill_at(r->disk, end);
	r->quiet = true;
	counted.cut += mend(r, simdev_bdev(r->disk), &result) != 0;
	r->quiet = false;
	after = simdev_branch(r->disk, simdev_ops(r->disk), NULL, rng_next(&r->rng));
	simdev_free(r->disk);
	r->disk = after;
	note(r, ", cut short before operation %" PRIu64, end);
}

/* An allocation or a transfer fails once in a first repair, which may end with an error, or not. */
static void fail_once(struct run *r)
{
	static const enum simdev_op ops[] = { SIMDEV_WRITE, SIMDEV_READ, SIMDEV_FLUSH };
	struct simdev_fault fault = { .op = ops[rng_below(&r->rng, ARRAY_LEN(ops))], .times = 1 };
	uint64_t k = 1 + rng_below(&r->rng, rng_chance(&r->rng, 1, 2) ? 60 : 2000);
	struct fsck_result result = { 0 };
	bool memory = rng_chance(&r->rng, 1, 2);
	struct bdev *dev = simdev_bdev(r->disk);

	fault.after = fault.op == SIMDEV_FLUSH ? k % 8 : k / 4;
	note(r, ", failing %s %" PRIu64,
	     memory		       ? "allocation"
	     : fault.op == SIMDEV_READ ? "read"
				       : "write",
	     memory ? k : fault.after);
	r->quiet = true;
	if (memory)
		failmem_start(k, FAILMEM_ONCE);
	else
		simdev_add_fault(r->disk, &fault);
	counted.faults += mend(r, dev, &result) != 0;
	if (memory)
		(void)failmem_stop();
	r->quiet = false;
	bdev_close(dev);
	simdev_clear_faults(r->disk);
}

static bool run_image(uint64_t seed, uint64_t number, const char *dir, bool verbose)
{
	struct run r = { .seed = seed, .number = number };
	struct simdev_image *before;
	int err;

	rng_seed(&r.rng, rng_mix(seed, number));
	r.base = &bases[rng_below(&r.rng, BASES)];
	r.disk = simdev_new(&(struct simdev_options){ .base = r.base->image, .no_trace = true });
	damage_some(&r);
	before = simdev_freeze(r.disk);
	if (number % 4 == 1)
		cut_short(&r);
	else if (number % 4 == 3)
		fail_once(&r);
	err = repair(&r);
	if (err || verbose) {
		print_message("# image %" PRIu64 ": %s%s\n", number, r.what, err ? "" : ": right");
		for (size_t i = 0; i < r.n_told; i++)
			print_message("#   %s\n", r.told[i].text);
	}
	if (err) {
		storekit_print();
		print_message("# again: --seed %" PRIu64 " --first %" PRIu64 " --images 1\n", seed, number);
	}
	if (!err && number % 8 == 0) {
		forget_told(&r);
		err = undo(&r, before, dir);
	}
	forget_told(&r);
	free(r.told);
	free(r.range);
	simdev_image_free(before);
	simdev_free(r.disk);
	counted.images++;
	return !err;
}

/* ---- all of them ---- */

static void print_counts(uint64_t failed)
{
	const struct count *c = &counted;

	print_message("# %" PRIu64 " images with %" PRIu64 " damaged blocks: %" PRIu64 " not harmed by it, %" PRIu64
		      " salvaged, %" PRIu64 " undone, %" PRIu64 " cut short first, %" PRIu64
		      " with a fault first, %" PRIu64 " failed\n",
		      c->images, c->blocks, c->unharmed, c->salvaged, c->undone, c->cut, c->faults, failed);
	print_message("# %" PRIu64 " problems repaired, %" PRIu64 " with a loss\n", c->mended, c->lost);
	print_message("# files: %" PRIu64 " intact (%" PRIu64 " of them in lost+found), %" PRIu64
		      " with parts unreadable, %" PRIu64 " with less than they had, %" PRIu64 " gone, %" PRIu64
		      " with zeros of before they were written\n",
		      c->intact, c->moved, c->unreadable, c->shorter, c->missing, c->older);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "images", required_argument, NULL, 'n' }, { "seconds", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },   { "first", required_argument, NULL, 'f' },
		{ "verbose", no_argument, NULL, 'v' },	    { NULL, 0, NULL, 0 },
	};
	const char *env = getenv("ARBOR_DAMAGE_SECONDS"), *tmp = getenv("TMPDIR");
	uint64_t images = IMAGES, seconds = env ? strtoull(env, NULL, 10) : 0, seed = 1, first = 0, failed = 0;
	char dir[200];
	bool verbose = false;
	time_t end;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'n':
			images = strtoull(optarg, NULL, 10);
			break;
		case 't':
			seconds = strtoull(optarg, NULL, 10);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 10);
			break;
		case 'f':
			first = strtoull(optarg, NULL, 10);
			break;
		case 'v':
			verbose = true;
			break;
		default:
			return 2;
		}
	}
	if (!tmp) /* undo files wait for their disk */
		tmp = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
	snprintf(dir, sizeof(dir), "%s/arbor-damage-XXXXXX", tmp);
	if (!mkdtemp(dir))
		return 2;
	printf("1..1\n# seed %" PRIu64 "\n", seed);
	make_bases();
	end = time(NULL) + (time_t)seconds;
	for (uint64_t n = first; seconds ? time(NULL) < end : n < first + images; n++)
		failed += !run_image(seed, n, dir, verbose);
	free_bases();
	(void)rmdir(dir);
	print_counts(failed);
	printf("%sok 1 - random damage is repaired, and what is lost is told\n", failed ? "not " : "");
	return failed != 0;
}

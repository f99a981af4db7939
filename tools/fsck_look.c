/*
 * fsck_look.c - everything that can be found out about a filesystem without writing to it
 *
 * A filesystem that was not unmounted is looked at as it will be: its log is replayed in memory. If the log is damaged that
 * goes as far as the damage, and the region is searched for what else it had: operations whose segments were durable and
 * are lost with what stands in front of them.
 *
 * Looking first and writing afterwards is what makes a damaged filesystem safe to repair: recovery takes room as the space
 * map says, and where that is wrong the room may be what is to be rescued.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "btree/node.h"
#include "tools/fsck_run.h"
#include "tools/tool.h"
#include "wal/log_format.h"
#include "wal/scrub.h"

#define CACHE_BYTES ((size_t)256 << 20)

struct look {
	struct bdev *dev;
	const struct fsck_options *o;
	struct fsck_look *r;
	uint64_t places; /* read by the scrub */
};

static void say(struct look *l, enum fs_problem problem, const char *text)
{
	const struct fsck_line line = { .problem = problem, .text = text };

	l->r->problems++;
	if (l->o->line)
		l->o->line(l->o->arg, &line);
}

int fsck_mount(struct bdev *dev, bool read_only, struct fs **ret)
{
	const struct fs_options opt = {
		.store = { .read_only = read_only, .ignore_log_damage = true, .cache_bytes = CACHE_BYTES },
		.atime = FS_NOATIME,
		.no_threads = true, /* nothing may happen by itself */
		.repair = true,
	};

	return fs_mount(dev, &opt, ret);
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
	struct look *l = arg;

	if (l->o->progress)
		l->o->progress(l->o->arg, phase, done, total);
}

/* ---- the log ---- */

#define READ_BLOCKS 256u

/* The lsn behind a segment's records, from its header alone; 0: this is none of that log. */
static uint64_t lsn_behind(const void *block, const struct super *s, uint64_t place)
{
	const struct disk_segment *d = block;
	uint64_t end = le64_get(d->lsn) + le32_get(d->records);

	if (le32_get(d->magic) != LOG_SEGMENT_MAGIC || le64_get(d->epoch) != s->log_epoch ||
	    le64_get(d->place) != place || le64_get(d->seq) < s->log_seq)
		return 0;
	/* A header need not verify, so what it says must at least be possible: a record takes eight bytes and more. */
	if (end < s->log_lsn || end - s->log_lsn > s->log_blocks * (BLOCK_SIZE / 8))
		return 0;
	return end;
}

int fsck_log_behind(struct bdev *dev, const struct super *s, uint64_t lsn, uint64_t *ret)
{
	uint8_t *buf = mem_alloc_blocks((size_t)READ_BLOCKS * BLOCK_SIZE);
	uint64_t end = 0;

	if (!buf)
		return -ENOMEM;
	for (uint64_t at = 0; at < s->log_blocks; at += READ_BLOCKS) {
		uint32_t n = s->log_blocks - at < READ_BLOCKS ? (uint32_t)(s->log_blocks - at) : READ_BLOCKS;

		if (bdev_read(dev, s->log_start + at, buf, n))
			continue; /* an estimate: it goes without */
		for (uint32_t i = 0; i < n; i++) {
			uint64_t e = lsn_behind(buf + (size_t)i * BLOCK_SIZE, s, at + i);

			end = e > end ? e : end;
		}
	}
	mem_free(buf);
	*ret = end > lsn ? end - lsn : 0;
	return 0;
}

static int look_at_log(struct look *l, const struct super *s, const struct store_status *st)
{
	char text[160];
	int err;

	l->r->replayed = st->recovered_records;
	l->r->log_damaged = st->log_damaged;
	if (!st->log_damaged)
		return 0;
	err = fsck_log_behind(l->dev, s, s->log_lsn + st->recovered_records, &l->r->log_lost);
	if (err)
		return err;
	snprintf(text, sizeof(text),
		 "the log is damaged: %" PRIu64 " operation%s or more that were acknowledged stand behind the damage",
		 l->r->log_lost, l->r->log_lost == 1 ? "" : "s");
	say(l, FS_PROBLEM_LOG_DAMAGED, text);
	return 0;
}

/* ---- copies ---- */

static void on_place(void *arg, const struct store_scrub_finding *f)
{
	struct look *l = arg;

	l->r->copies += f->kind == STORE_SCRUB_NODE && !f->lost;
}

static int on_pace(void *arg, uint64_t bytes)
{
	struct look *l = arg;
	uint64_t nodes = l->r->check.structure.nodes;

	(void)bytes;
	if (l->places++ % 64 == 0)
		on_progress(l, "copies", l->places < nodes ? l->places : nodes, nodes);
	return 0;
}

static int look_at_copies(struct look *l, struct fs *fs)
{
	const struct store_scrub_ops ops = { .found = on_place, .pace = on_pace, .arg = l };
	struct store_scrub_result r = { 0 };
	char text[120];
	int err;

	err = store_scrub(fs_store(fs), &ops, &r);
	if (err)
		return err;
	if (l->r->copies) {
		snprintf(text, sizeof(text), "%" PRIu64 " cop%s of nodes do%s not verify; the other copy does",
			 l->r->copies, l->r->copies == 1 ? "y" : "ies", l->r->copies == 1 ? "es" : "");
		say(l, FS_PROBLEM_NODE_COPY, text);
	}
	return 0;
}

/* ---- all of it ---- */

static void on_problem(void *arg, const struct fs_problem_report *r)
{
	struct look *l = arg;
	const struct fsck_line line = {
		.problem = r->problem,
		.view = r->view,
		.path = r->path,
		.ino = r->ino,
		.text = r->text,
	};

	l->r->problems++;
	if (r->problem == FS_PROBLEM_STRUCTURE || r->problem == FS_PROBLEM_UNREADABLE)
		l->r->structure = true;
	else
		l->r->items++;
	if (l->o->line)
		l->o->line(l->o->arg, &line);
}

static int look_inside(struct look *l, struct fs *fs)
{
	const struct fs_check_options opt = {
		.data = l->o->data,
		.threads = l->o->threads,
		.report = on_problem,
		.progress = on_progress,
		.arg = l,
	};
	struct statvfs st;
	int err;

	err = fs_check(fs, &opt, &l->r->check);
	if (err == -EUCLEAN)
		err = 0;
	if (!err && !fs_statfs(fs, &st)) {
		l->r->blocks = st.f_blocks;
		l->r->blocks_used = st.f_blocks - st.f_bfree;
	}
	return err;
}

/* Whether a place holds the node that the superblock names. Level and items are not looked at: it is reached, that is all. */
static bool is_root(struct bdev *dev, const struct super *s, uint64_t addr, uint8_t *buf)
{
	const struct disk_node *d = (const struct disk_node *)buf;

	return addr && addr + s->node_size / BLOCK_SIZE <= dev->geo.blocks &&
	       !bdev_read(dev, addr, buf, s->node_size / BLOCK_SIZE) && node_sum_right(buf, s->node_size) &&
	       le64_get(d->addr) == s->files.ref.addr && le64_get(d->gen) == s->files.ref.gen;
}

static int look_at_root(struct look *l, const struct super *s)
{
	uint8_t *buf = mem_alloc_blocks(s->node_size);

	if (!buf)
		return -ENOMEM;
	l->r->root_lost = s->files.levels && !is_root(l->dev, s, s->files.ref.addr, buf) &&
			  !is_root(l->dev, s, s->files.ref.copy, buf);
	mem_free(buf);
	return 0;
}

int fsck_look(struct bdev *dev, const struct fsck_options *o, struct fsck_look *ret)
{
	struct fsck_look result = { 0 };
	struct look l = { .dev = dev, .o = o, .r = &result };
	struct store_status st;
	bool other_ok = true;
	char text[160];
	struct super s;
	unsigned slot;
	struct fs *fs;
	int err;

	err = super_load(dev, &s, &slot, &other_ok);
	if (err == -EUCLEAN || err == -EBADMSG) {
		result.no_super = true;
		say(&l, FS_PROBLEM_SUPER_SLOT, "no superblock verifies");
		*ret = result;
		return 0;
	}
	if (err)
		return err;
	result.dirty = !(s.flags & SUPER_CLEAN);
	result.super_bad = !other_ok;
	if (!other_ok)
		say(&l, FS_PROBLEM_SUPER_SLOT, "one superblock is damaged");
	err = fsck_mount(dev, true, &fs);
	/* Without a readable space map there is no room for what the log wants to change. */
	if (err && !fsck_is_damage(err) && err != -ENOSPC)
		return err;
	if (err) {
		result.structure = true;
		snprintf(text, sizeof(text), "cannot be opened: %s", tool_why(err));
		say(&l, FS_PROBLEM_STRUCTURE, text);
		err = look_at_root(&l, &s);
		if (!err)
			*ret = result;
		return err;
	}
	store_status(fs_store(fs), &st);
	err = look_at_log(&l, &s, &st);
	if (!err)
		err = look_inside(&l, fs);
	/* A rebuild does not want to know: it leaves what has one good copy as it is or writes it elsewhere. */
	if (!err && !result.structure)
		err = look_at_copies(&l, fs);
	fs_crash(fs);
	if (!err)
		*ret = result;
	return err;
}

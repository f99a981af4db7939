/*
 * fsck_mend.c - a repair from beginning to end
 *
 *	look ---> structure damaged? ---> store_rebuild (from salvage, where nodes cannot be reached) --.
 *	     \                                                                                           v
 *	      `--> log damaged? agreed? ---> mount for writing: recovery, the other superblock ---> copies of nodes
 *	                                                                                                 |
 *	                                                       another look <--- unmount <--- fs_repair <'
 *
 * What decides is asked before anything is written: the log and the rebuild first, each problem of items in turn. Every
 * arrow is one switch of superblocks or some batches, so being cut short leaves a filesystem that is looked at the next time
 * as this one was.
 *
 * What a rebuild finds is kept until it is known whether it happens, because a line also says what is done. What is given up is
 * told before it is: afterwards there may be nobody left to tell it, and nothing on the device does. It is surveyed
 * a second time, with what a scan of the device found, if the first time a part of the tree cannot be read and the caller
 * wants that scan.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/fs_format.h"
#include "fs/records.h"
#include "fs/repair.h"
#include "tools/fsck_run.h"
#include "tools/tool.h"
#include "wal/rebuild.h"
#include "wal/salvage.h"
#include "wal/scrub.h"

struct finding {
	enum rebuild_finding what;
	bool scanned; /* what it has lost comes from the scan */
	char *view, *text;
};

struct mend {
	struct bdev *dev;
	const struct fsck_options *o;
	const struct fsck_look *look;
	struct fsck_result *r;

	/* The rebuild's survey. */
	struct finding *found;
	size_t n_found, cap_found;
	bool scanning;	 /* a scan of the device feeds it */
	bool agreed;	 /* it was, so what follows has been done when it ends well */
	bool incomplete; /* it ended because a part of the tree cannot be read */
	bool no_memory;
};

/* ---- what is told ---- */

static void put_line(struct mend *m, const struct fsck_line *line)
{
	if (m->o->line)
		m->o->line(m->o->arg, line);
}

static void remark(struct mend *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void remark(struct mend *m, const char *fmt, ...)
{
	struct fsck_line line = { 0 };
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	line.text = text;
	put_line(m, &line);
}

static void mended(struct mend *m, const struct fsck_line *line)
{
	m->r->mended++;
	m->r->lost += line->lost;
	m->r->changed = true;
	put_line(m, line);
}

static void left(struct mend *m, const struct fsck_line *line)
{
	m->r->left++;
	put_line(m, line);
}

static bool agreed(struct mend *m, const struct fsck_line *line)
{
	bool yes = false;

	switch (m->o->mode) {
	case FSCK_YES:
		yes = true;
		break;
	case FSCK_PREEN:
		yes = fs_problem_answer(line->problem) == FS_ANSWER_SAFE;
		break;
	case FSCK_ASK:
		yes = m->o->ask(m->o->arg, line);
		break;
	case FSCK_NO:
		break;
	}
	m->r->refused |= !yes;
	return yes;
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
	struct mend *m = arg;

	if (m->o->progress)
		m->o->progress(m->o->arg, phase, done, total);
}

/* ---- the rebuild ---- */

/* What each finding is called, and what a rebuild does about it. */
static const struct {
	enum fs_problem problem;
	const char *action;
	bool lost; /* by itself: content is told by fs_repair, with paths */
} findings[] = {
	[REBUILD_SUPER] = { FS_PROBLEM_SUPER_SLOT, "write it anew", false },
	[REBUILD_LOG] = { FS_PROBLEM_LOG_DAMAGED, "give up what stands behind the damage", true },
	[REBUILD_NODE] = { FS_PROBLEM_NODE_LOST, "leave it out", false },
	[REBUILD_ITEM] = { FS_PROBLEM_ITEM_BAD, "leave it out", false },
	[REBUILD_SHARED] = { FS_PROBLEM_SHARED_COUNT, "count them anew", false },
	[REBUILD_DEAD] = { FS_PROBLEM_DEAD_LIST, "make them anew", false },
	[REBUILD_SPACE] = { FS_PROBLEM_SPACE_MAP, "make it anew", false },
	[REBUILD_SNAPSHOT] = { FS_PROBLEM_SNAPSHOT_LOST, "delete it", true },
};

static void on_found(void *arg, enum rebuild_finding what, const char *view, const char *text)
{
	struct finding f = { .what = what };
	struct mend *m = arg;

	f.text = mem_strdup(text);
	f.view = view ? mem_strdup(view) : NULL;
	if (!f.text || (view && !f.view) ||
	    mem_grow((void **)&m->found, &m->cap_found, m->n_found + 1, sizeof(*m->found))) {
		mem_free(f.text);
		mem_free(f.view);
		m->no_memory = true;
		return;
	}
	m->found[m->n_found++] = f;
}

static struct fsck_line finding_line(const struct finding *f)
{
	return (struct fsck_line){
		.problem = findings[f->what].problem,
		.view = f->view,
		.text = f->text,
	};
}

/* The survey is made again with what a scan has found: only that takes away what could not be read in live. */
static void keep_unread(struct mend *m)
{
	size_t kept = 0;

	for (size_t i = 0; i < m->n_found; i++) {
		struct finding *f = &m->found[i];

		if (f->what == REBUILD_NODE && (!f->view || !strcmp(f->view, "live"))) {
			f->scanned = true;
			m->found[kept++] = *f;
		} else {
			mem_free(f->text);
			mem_free(f->view);
		}
	}
	m->n_found = kept;
}

static void forget_findings(struct mend *m)
{
	for (size_t i = 0; i < m->n_found; i++) {
		mem_free(m->found[i].text);
		mem_free(m->found[i].view);
	}
	m->n_found = 0;
}

/* Tells them and forgets them. */
static void tell_findings(struct mend *m, bool done)
{
	for (size_t i = 0; i < m->n_found; i++) {
		struct fsck_line line = finding_line(&m->found[i]);

		if (!done) {
			left(m, &line);
			continue;
		}
		line.action = findings[m->found[i].what].action;
		line.lost = findings[m->found[i].what].lost;
		if (m->found[i].scanned)
			line.action = "take what nodes that were found by the scan have of it";
		mended(m, &line);
	}
	forget_findings(m);
}

/* One question for all that a rebuild gives up; none where everything it does is to derive. */
static bool agreed_to_rebuild(struct mend *m, size_t ranges)
{
	struct fsck_line ask = { .problem = FS_PROBLEM_STRUCTURE, .action = "build it anew from what can be read" };
	char text[160];
	bool safe = !ranges;

	for (size_t i = 0; i < m->n_found; i++)
		safe &= fs_problem_answer(findings[m->found[i].what].problem) == FS_ANSWER_SAFE;
	if (safe)
		ask.problem = FS_PROBLEM_SPACE_MAP; /* any that is safe */
	if (m->o->mode == FSCK_ASK)
		for (size_t i = 0; i < m->n_found; i++) {
			struct fsck_line line = finding_line(&m->found[i]);

			put_line(m, &line);
		}
	snprintf(text, sizeof(text), "the structure below the items is damaged; %zu part%s of the tree cannot be read",
		 ranges, ranges == 1 ? "" : "s");
	ask.text = text;
	return agreed(m, &ask);
}

/* Inodes that were lost whole: where their names were lost with them, or in directories that were, nothing else tells of them. */
static void tell_inodes(struct mend *m, const struct rebuild_lost *lost, size_t n)
{
	for (size_t i = 0, next; i < n; i = next) {
		struct key from = lost[i].from, to = lost[i].to;
		uint64_t first = key_ino(from), last;
		char text[120];

		for (next = i + 1; next < n && !key_less(to, lost[next].from); next++)
			to = lost[next].to;
		first += key_less(key_make(first, FS_ITEM_INODE, 0), from);
		last = key_ino(to) - !key_less(key_make(key_ino(to), FS_ITEM_INODE, 0), to);
		first = first < FS_ROOT_INO ? FS_ROOT_INO : first;
		if (first > last || first > FS_INO_MAX)
			continue;
		if (last >= FS_INO_MAX)
			snprintf(text, sizeof(text), "inodes from %" PRIu64 " on, as far as there were any", first);
		else if (first == last)
			snprintf(text, sizeof(text), "inode %" PRIu64 ", if there was one", first);
		else
			snprintf(text, sizeof(text), "inodes %" PRIu64 " to %" PRIu64 ", as far as there were any",
				 first, last);
		m->r->lost++;
		put_line(m, &(struct fsck_line){
				    .problem = FS_PROBLEM_LOST_MARK,
				    .text = text,
				    .action = "give up what cannot be read of them",
				    .lost = true,
			    });
	}
}

static int on_lost(void *arg, struct rebuild *b, const struct rebuild_lost *lost, size_t n)
{
	struct mend *m = arg;

	if (m->no_memory)
		return -ENOMEM;
	if (n && !m->scanning && (m->o->salvage || m->look->root_lost)) {
		m->incomplete = true;
		return -ECANCELED;
	}
	if (!agreed_to_rebuild(m, n))
		return -ECANCELED;
	m->agreed = true;
	tell_findings(m, true);
	tell_inodes(m, lost, n);
	return m->scanning ? fs_repair_salvaged(NULL, b, lost, n) : fs_repair_lost(NULL, b, lost, n);
}

static int run_rebuild(struct mend *m, struct salvage *s, struct rebuild_result *ret)
{
	const struct rebuild_options opt = {
		.records = &fs_records,
		.salvage = s,
		.lost = on_lost,
		.found = on_found,
		.progress = on_progress,
		.arg = m,
	};

	m->incomplete = false;
	m->scanning = s != NULL;
	return store_rebuild(m->dev, &opt, ret);
}

static int rebuild_from_scan(struct mend *m, struct rebuild_result *ret)
{
	const struct salvage_options opt = {
		.records = &fs_records,
		.identify = fs_repair_identify,
		.progress = on_progress,
		.arg = m,
	};
	struct salvage_result r;
	struct salvage *s;
	int err;

	err = salvage_scan(m->dev, &opt, &s, &r);
	if (err)
		return err;
	remark(m, "%" PRIu64 " nodes were found by a scan of the device, %" PRIu64 " of them with items", r.nodes,
	       r.leaves);
	keep_unread(m);
	err = run_rebuild(m, s, ret);
	salvage_close(s);
	return err;
}

/* 0: it is whole now below the items; 1: it was not wanted, and nothing has been changed. */
static int rebuild(struct mend *m)
{
	struct rebuild_result r = { 0 };
	int err = -ECANCELED;

	m->incomplete = m->look->no_super;
	if (!m->incomplete)
		err = run_rebuild(m, NULL, &r);
	if (m->incomplete && m->o->salvage)
		err = rebuild_from_scan(m, &r);
	m->r->want_salvage = m->incomplete && !m->o->salvage;
	if (err == -ECANCELED && !m->agreed && m->look->no_super) {
		const struct fsck_line line = { .problem = FS_PROBLEM_SUPER_SLOT, .text = "no superblock verifies" };

		left(m, &line);
	}
	tell_findings(m, err == 0);
	if (err == -ECANCELED && !m->agreed)
		return 1;
	m->r->no_room = err == -ENOSPC;
	if (err)
		return err;
	m->r->changed |= r.nodes_written || r.findings;
	remark(m, "built anew: %" PRIu64 " items kept, %" PRIu64 " nodes lost, %" PRIu64 " records of the log replayed",
	       r.items_kept, r.nodes_lost, r.records_replayed);
	return 0;
}

/* ---- copies ---- */

static void on_place(void *arg, const struct store_scrub_finding *f)
{
	uint64_t *n = arg;

	*n += f->kind == STORE_SCRUB_NODE && f->mended;
}

/* Those mended by reading, by the way, are among them. */
static int mend_copies(struct mend *m, struct fs *fs, bool rebuilt)
{
	struct store_scrub_ops ops = { .found = on_place };
	struct store_scrub_result r = { 0 };
	struct store_status st;
	uint64_t n = 0;
	char text[80];
	int err;

	store_status(fs_store(fs), &st);
	if (!rebuilt && !m->look->copies && !st.nodes_mended)
		return 0;
	ops.arg = &n;
	err = store_scrub(fs_store(fs), &ops, &r);
	if (err)
		return err;
	n += st.nodes_mended;
	snprintf(text, sizeof(text), "%" PRIu64 " cop%s of nodes did not verify", n, n == 1 ? "y" : "ies");
	if (n)
		mended(m, &(struct fsck_line){
				  .problem = FS_PROBLEM_NODE_COPY,
				  .text = text,
				  .action = "write them anew from the other copies",
			  });
	return 0;
}

/* ---- items ---- */

static struct fsck_line line_of(const struct fs_problem_report *r)
{
	return (struct fsck_line){
		.problem = r->problem,
		.view = r->view,
		.path = r->path,
		.ino = r->ino,
		.text = r->text,
	};
}

static bool on_ask(void *arg, const struct fs_problem_report *r, const char *action)
{
	struct fsck_line line = line_of(r);

	line.action = action;
	return agreed(arg, &line);
}

static void on_done(void *arg, const struct fs_problem_report *r, const char *action, bool lost)
{
	struct fsck_line line = line_of(r);

	line.action = action;
	line.lost = lost;
	mended(arg, &line);
}

static void on_left(void *arg, const struct fs_problem_report *r)
{
	struct fsck_line line = line_of(r);

	left(arg, &line);
}

static int mend_items(struct mend *m, struct fs *fs)
{
	const struct fs_repair_options opt = {
		.check = { .data = m->o->data,
			   .threads = m->o->threads,
			   .report = on_left,
			   .progress = on_progress,
			   .arg = m },
		.ask = on_ask,
		.done = on_done,
		.arg = m,
	};
	struct fs_repair_result r;
	int err;

	err = fs_repair(fs, &opt, &r);
	return err == -EUCLEAN ? 0 : err;
}

/* ---- from beginning to end ---- */

/* The log is gone when it has been mounted: what was behind the damage has to be agreed on first. */
static bool agreed_to_log(struct mend *m, char text[160])
{
	struct fsck_line line = { .problem = FS_PROBLEM_LOG_DAMAGED, .text = text };

	snprintf(text, 160,
		 "the log is damaged: %" PRIu64 " operation%s or more that were acknowledged stand behind the damage",
		 m->look->log_lost, m->look->log_lost == 1 ? "" : "s");
	line.action = "give them up";
	if (m->o->drop_log || agreed(m, &line))
		return true;
	line.action = NULL;
	left(m, &line);
	return false;
}

static int write_it(struct mend *m, bool rebuilt)
{
	char text[160];
	struct fs *fs;
	int err, err2;

	if (!rebuilt && m->look->log_damaged && !agreed_to_log(m, text))
		return 0;
	if (!rebuilt && m->look->log_damaged)
		mended(m, &(struct fsck_line){ .problem = FS_PROBLEM_LOG_DAMAGED,
					       .text = text,
					       .action = "give them up",
					       .lost = true });
	err = fsck_mount(m->dev, false, &fs);
	if (err)
		return err;
	m->r->changed = true;
	if (!rebuilt && m->look->dirty)
		remark(m, "recovered from the log, %" PRIu64 " operation%s replayed", m->look->replayed,
		       m->look->replayed == 1 ? "" : "s");
	if (!rebuilt && m->look->super_bad)
		mended(m, &(struct fsck_line){
				  .problem = FS_PROBLEM_SUPER_SLOT,
				  .text = "one superblock is damaged",
				  .action = "write it anew",
			  });
	err = mend_copies(m, fs, rebuilt);
	if (!err && (rebuilt || m->look->items))
		err = mend_items(m, fs);
	if (!err)
		err = fs_reap(fs);
	err2 = fs_unmount(fs);
	return err ? err : err2;
}

int fsck_mend(struct bdev *dev, const struct fsck_options *o, const struct fsck_look *look, struct fsck_result *ret)
{
	struct fsck_result result = { .last = *look };
	struct mend m = { .dev = dev, .o = o, .look = look, .r = &result };
	struct fsck_options quiet = *o;
	bool needed = look->no_super || look->structure, again;
	int err = 0;

	if (needed)
		err = rebuild(&m);
	if (!err)
		err = write_it(&m, needed);
	forget_findings(&m);
	mem_free(m.found);
	again = !err && (needed || look->problems);
	if (err > 0)
		err = 0; /* nothing was changed, and what is left has been told */
	if (!err && again && result.changed) {
		/* What fs_repair has left it has told. */
		if (result.left)
			quiet.line = NULL;
		err = fsck_look(dev, &quiet, &result.last);
		if (!err)
			result.left = result.last.problems;
	}
	*ret = result;
	return err;
}

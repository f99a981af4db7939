/*
 * repair.c - rounds of check and mend, and what all mends share
 *
 * The check knows everything that is wrong and how to tell it apart; so the repair has no search of its own. It takes what
 * the check tells, mends what it can, and lets the check say whether that was right. What one mend brings to light (a name
 * that was deleted was an inode's last one) the next round finds.
 *
 *	full check -> mend -> quick check -> mend -> ... -> nothing left, or nothing more to mend -> full check
 *
 * Quick: without the structure below the items and without reading data, which mends of items do not change. Rounds are
 * bounded, and each ends the sooner the less there is.
 *
 * Invariants
 *
 * 1. Marks of lost parts come first (repair_lost.c): while there is one, only what it takes to draw its conclusions is done,
 *    because numbers that other mends would set are the only witness of what was lost.
 * 2. Each mend leaves the filesystem with no problem it did not have, but for those that its own cause explains, and a
 *    crash in it or behind it is mended by the next repair.
 * 3. Who answers no is not asked again.
 *
 * Rejected: mending inside the passes of the check, as e2fsck does. It saves rounds, but a check that changes what it counts
 * has to know of every pass which of its numbers are stale; and ours runs in several threads on a frozen view.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/repair_int.h"

#define ROUNDS_MAX 100u
#define REPORTS_MAX 65536u

/* ---- what the check tells ---- */

static void drop_reports(struct repair *r)
{
	for (size_t i = 0; i < r->n_reports; i++) {
		mem_free(r->reports[i].view);
		mem_free(r->reports[i].path);
		mem_free(r->reports[i].text);
	}
	r->n_reports = 0;
	r->more = false;
}

static void collect(void *arg, const struct fs_problem_report *p)
{
	struct repair *r = arg;
	struct repair_report *c;

	if (r->n_reports >= REPORTS_MAX) {
		r->more = true;
		return;
	}
	if (mem_grow((void **)&r->reports, &r->cap_reports, r->n_reports + 1, sizeof(*r->reports))) {
		r->no_mem = -ENOMEM;
		return;
	}
	c = &r->reports[r->n_reports++];
	*c = (struct repair_report){
		.problem = p->problem,
		.live = !strcmp(p->view, "live"),
		.ino = p->ino,
		.where = p->where,
		.want = p->want,
		.view = mem_strdup(p->view),
		.path = p->path ? mem_strdup(p->path) : NULL,
		.text = mem_strdup(p->text),
	};
	if (!c->view || !c->text || (p->path && !c->path))
		r->no_mem = -ENOMEM;
}

static struct fs_problem_report as_told(const struct repair_report *p)
{
	return (struct fs_problem_report){
		.problem = p->problem,
		.view = p->view,
		.ino = p->ino,
		.path = p->path,
		.text = p->text,
		.where = p->where,
		.want = p->want,
	};
}

static void tell_left(struct repair *r)
{
	for (size_t i = 0; r->opt->check.report && i < r->n_reports; i++) {
		struct fs_problem_report told = as_told(&r->reports[i]);
		char text[1600];

		if (!r->reports[i].live) {
			snprintf(text, sizeof(text), "%s (it stays as long as the snapshot does: delete that)",
				 told.text);
			told.text = text;
		}
		r->opt->check.report(r->opt->check.arg, &told);
	}
}

/* ---- asking and telling ---- */

static int refused_cmp(const void *pa, const void *pb)
{
	const struct repair_refused *a = pa, *b = pb;

	if (a->problem != b->problem)
		return a->problem < b->problem ? -1 : 1;
	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	return a->where < b->where ? -1 : a->where > b->where;
}

static bool was_refused(const struct repair *r, const struct repair_report *p)
{
	struct repair_refused key = { p->ino, p->where, p->problem };

	return r->n_sorted && bsearch(&key, r->refused, r->n_sorted, sizeof(key), refused_cmp);
}

bool repair_agree(struct repair *r, const struct repair_report *p, const char *fmt, ...)
{
	struct fs_problem_report told = as_told(p);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->action, sizeof(r->action), fmt, ap);
	va_end(ap);
	if (!r->opt->ask || r->opt->ask(r->opt->arg, &told, r->action))
		return true;
	r->result.refused++;
	if (mem_grow((void **)&r->refused, &r->cap_refused, r->n_refused + 1, sizeof(*r->refused)))
		r->no_mem = -ENOMEM;
	else
		r->refused[r->n_refused++] = (struct repair_refused){ p->ino, p->where, p->problem };
	return false;
}

void repair_done(struct repair *r, const struct repair_report *p, bool lost)
{
	struct fs_problem_report told = as_told(p);

	r->result.mended++;
	if (r->opt->done)
		r->opt->done(r->opt->arg, &told, r->action, lost);
}

void repair_note(struct repair *r, const struct repair_report *p, bool lost, const char *fmt, ...)
{
	struct fs_problem_report told = as_told(p);
	char action[sizeof(r->action)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(action, sizeof(action), fmt, ap);
	va_end(ap);
	if (r->opt->done)
		r->opt->done(r->opt->arg, &told, action, lost);
}

/* ---- one batch ---- */

int edit_begin(struct repair *r, struct edit *e)
{
	int err;

	memset(e, 0, sizeof(*e));
	e->r = r;
	err = op_begin(r->fs, FS_ROOT, &e->op);
	/* A full device must not keep its filesystem from being mended; what a mend adds is little. */
	if (!err)
		batch_releases(e->op.batch);
	return err;
}

int edit_inode(struct edit *e, uint64_t ino, struct inode **ret)
{
	int err;

	for (unsigned i = 0; i < e->n; i++)
		if (e->in[i].ino == ino) {
			*ret = &e->in[i];
			return 0;
		}
	assert(e->n < EDIT_INODES);
	err = inode_load(e->op.view, ino, &e->in[e->n]);
	if (!err)
		*ret = &e->in[e->n++];
	return err;
}

int edit_make(struct edit *e, const struct inode *in, struct inode **ret)
{
	struct fs *fs = e->r->fs;
	int err;

	assert(e->n < EDIT_INODES);
	e->in[e->n] = *in;
	*ret = &e->in[e->n++];
	if (in->ino != FS_ROOT_INO && in->ino >= atomic_load(&fs->ino_limit)) {
		e->op.ino_limit = e->raised = in->ino + 1;
		err = batch_raise(e->op.batch, FS_COUNTER_INO_LIMIT, e->raised);
		if (err)
			return err;
	}
	e->op.made++;
	return batch_raise(e->op.batch, FS_COUNTER_INODES_MADE, atomic_fetch_add(&fs->inodes_made, 1) + 1);
}

int edit_remove(struct edit *e, uint64_t ino)
{
	struct inode *in;
	int err = edit_inode(e, ino, &in);

	if (!err)
		err = batch_del_range(e->op.batch, key_make(ino, 0, 0), key_make(ino + 1, 0, 0));
	if (err)
		return err;
	e->gone[in - e->in] = true;
	return batch_raise(e->op.batch, FS_COUNTER_INODES_FREED, atomic_fetch_add(&e->r->fs->inodes_freed, 1) + 1);
}

int edit_commit(struct edit *e)
{
	struct fs *fs = e->r->fs;
	int err = 0;

	for (unsigned i = 0; !err && i < e->n; i++)
		if (!e->gone[i])
			err = inode_put(e->op.batch, &e->in[i]);
	if (!err)
		err = op_commit(&e->op);
	if (!err && e->raised > atomic_load(&fs->ino_next))
		atomic_store(&fs->ino_next, e->raised);
	e->n = 0;
	e->raised = 0;
	memset(e->gone, 0, sizeof(e->gone));
	if (!err)
		batch_releases(e->op.batch);
	return err;
}

void edit_end(struct edit *e)
{
	op_end(&e->op);
}

int edit_finish(struct edit *e, int err, const struct repair_report *p, bool lost)
{
	if (!err)
		err = edit_commit(e);
	if (!err)
		repair_done(e->r, p, lost);
	edit_end(e);
	return err;
}

/* ---- a round ---- */

struct step {
	enum fs_problem problem;
	int (*mend)(struct repair *, const struct repair_report *);
};

/* While there are marks. */
static const struct step lost_steps[] = {
	{ FS_PROBLEM_INO_LIMIT, mend_ino_limit },
	{ FS_PROBLEM_NO_ROOT, mend_no_root },
	{ FS_PROBLEM_EXTENT_OVERLAP, mend_extent_overlap },
	{ FS_PROBLEM_ITEM_NO_INODE, mend_item_no_inode },
	{ FS_PROBLEM_CONTENT_LOST, mend_content_lost },
	{ FS_PROBLEM_LOST_MARK, mend_lost_mark },
	{ FS_PROBLEM_NAMES_LOST, mend_gone },
	{ FS_PROBLEM_XATTRS_LOST, mend_gone },
};

static const struct step steps[] = {
	/* To what was counted. */
	{ FS_PROBLEM_INO_LIMIT, mend_ino_limit },
	{ FS_PROBLEM_INODE_COUNT, mend_inode_count },
	{ FS_PROBLEM_DIR_SIZE, mend_dir_size },
	{ FS_PROBLEM_LINKS, mend_links },
	{ FS_PROBLEM_BLOCKS, mend_blocks },
	{ FS_PROBLEM_XATTR_STATE, mend_xattr_state },
	{ FS_PROBLEM_DIR_PARENT, mend_dir_parent },
	/* Inodes, and what is in them. */
	{ FS_PROBLEM_NO_ROOT, mend_no_root },
	{ FS_PROBLEM_EXTENT_OVERLAP, mend_extent_overlap },
	{ FS_PROBLEM_ITEM_NO_INODE, mend_item_no_inode },
	{ FS_PROBLEM_INODE_BAD, mend_inode_bad },
	{ FS_PROBLEM_ORPHAN_BAD, mend_orphan_bad },
	{ FS_PROBLEM_EXTENT_BEYOND, mend_extent_beyond },
	{ FS_PROBLEM_INLINE_BAD, mend_inline_bad },
	{ FS_PROBLEM_XATTR_BAD, mend_xattr_bad },
	{ FS_PROBLEM_DATA_BAD, mend_data_bad },
	/* Names. */
	{ FS_PROBLEM_NAME_NO_INODE, mend_name_no_inode },
	{ FS_PROBLEM_NAME_TYPE, mend_name_type },
	{ FS_PROBLEM_NAME_HASH, mend_name_hash },
	{ FS_PROBLEM_NAME_TWICE, mend_name_twice },
	{ FS_PROBLEM_DIR_LOOP, mend_dir_loop },
	{ FS_PROBLEM_DIR_TWICE, mend_dir_twice },
	{ FS_PROBLEM_NO_NAME, mend_no_name },
};

/* Errors that end the repair; after any other one the problem stays, and the rest goes on. */
static bool is_fatal(const struct repair *r, int err)
{
	struct store_status st;

	if (err != -EIO)
		return err == -EROFS || err == -ENOMEM;
	store_status(r->fs->store, &st);
	return st.error;
}

static int mend_kind(struct repair *r, const struct step *s)
{
	for (size_t i = 0; i < r->n_reports; i++) {
		const struct repair_report *p = &r->reports[i];
		uint64_t before = r->result.mended;
		int err = 0;

		if (p->problem != s->problem || !p->live)
			continue;
		if (!was_refused(r, p))
			err = s->mend(r, p);
		if (!err)
			err = r->no_mem;
		/* Whatever kept it from being mended. (That it was mended by another one does no harm: the next round.) */
		r->gaps_stay |= r->result.mended == before;
		if (is_fatal(r, err))
			return err;
		if (err)
			err_log(LOG_WARNING, "problem %d of inode %" PRIu64 " could not be mended: %s", (int)p->problem,
				p->ino, strerror(-err));
	}
	return 0;
}

static bool wants_names(enum fs_problem p)
{
	return p == FS_PROBLEM_ITEM_NO_INODE || p == FS_PROBLEM_INODE_BAD || p == FS_PROBLEM_INLINE_BAD ||
	       p == FS_PROBLEM_DIR_LOOP || p == FS_PROBLEM_DIR_TWICE;
}

static int find_names(struct repair *r)
{
	uint64_t *inos = mem_zalloc_array(r->n_reports + 1, sizeof(*inos));
	size_t n = 0;
	int err;

	if (!inos)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_reports; i++)
		if (r->reports[i].live && wants_names(r->reports[i].problem))
			inos[n++] = r->reports[i].ino;
	qsort(inos, n, sizeof(*inos), repair_ino_cmp);
	err = repair_find_names(r, inos, n);
	mem_free(inos);
	return err;
}

static int mend_all(struct repair *r)
{
	const struct step *s = steps;
	size_t n = sizeof(steps) / sizeof(steps[0]);
	int err = repair_read_gaps(r);

	if (!err)
		err = find_names(r);
	if (r->n_gaps) {
		s = lost_steps;
		n = sizeof(lost_steps) / sizeof(lost_steps[0]);
	}
	r->gaps_stay = r->more;
	for (size_t i = 0; !err && i < n; i++)
		err = mend_kind(r, &s[i]);
	if (r->n_refused)
		qsort(r->refused, r->n_refused, sizeof(*r->refused), refused_cmp);
	r->n_sorted = r->n_refused;
	return err;
}

static void progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
	const struct repair *r = arg;

	r->opt->check.progress(r->opt->check.arg, phase, done, total);
}

static int check(struct repair *r, bool full)
{
	struct fs_check_options o = r->opt->check;
	int err;

	drop_reports(r);
	o.report = collect;
	o.arg = r;
	o.progress = o.progress ? progress : NULL;
	o.data &= full;
	o.no_structure |= !full;
	err = fs_check(r->fs, &o, &r->result.check);
	if (err == -EUCLEAN)
		err = 0;
	return err ? err : r->no_mem;
}

static int rounds(struct repair *r)
{
	bool full = true;

	for (;;) {
		uint64_t before = r->result.mended;
		int err = check(r, full);

		if (err)
			return err;
		if (r->n_reports && r->result.rounds < ROUNDS_MAX) {
			r->result.rounds++;
			err = mend_all(r);
			if (err)
				return err;
		}
		if (r->result.mended > before) {
			full = false;
			continue;
		}
		if (full)
			return 0;
		full = true;
	}
}

int fs_repair(struct fs *fs, const struct fs_repair_options *opt, struct fs_repair_result *ret)
{
	struct repair *r = mem_zalloc(sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->fs = fs;
	r->view = store_live(fs->store);
	r->opt = opt;
	err = fs->read_only ? -EROFS : rounds(r);
	if (!err) {
		r->result.left = r->result.check.problems;
		tell_left(r);
		*ret = r->result;
		err = r->result.left ? -EUCLEAN : 0;
	}
	drop_reports(r);
	mem_free(r->reports);
	mem_free(r->names);
	mem_free(r->gaps);
	mem_free(r->refused);
	mem_free(r);
	return err;
}

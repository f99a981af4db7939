/*
 * check.c - the check of a whole filesystem: views one after the other, threads, and how problems are told
 *
 * The store's own check comes first: it answers for nodes, the space map and reference counts. What is left is what items
 * say of each other, and that is looked at here with nothing but scans: each item has been validated by its row, every
 * relation between two may be anything.
 *
 * Rules that hold in all passes:
 *
 *  1. Nothing is changed, and nothing found is followed without a bound: loops go over items in key order, over tables made
 *     from them, or upwards with a mark on whatever was passed.
 *  2. A node that cannot be read costs its own keys. They are remembered (struct check_lost), and a conclusion that would need
 *     them is not drawn: a name whose inode may be among them is no problem, an inode without a name is none while names
 *     may be among them.
 *  3. One cause, one problem, where that can be told apart: what follows from a problem alone is not told again.
 *
 * Paths are for people, and searched only when there is something to tell: upwards through the directory that names an
 * inode, by a scan for the name. A budget of steps bounds it where there are many problems in huge directories.
 *
 * Rejected: a second table of names in memory (more than all inodes take, for the sake of damaged filesystems alone); walking
 * the directories from the root (random access where the scans are in order, and what is not reachable needs a scan anyway).
 */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/check_int.h"

#define PENDING_MAX 20000u
#define THREADS_MAX 8u

static_assert(sizeof(struct check_inode) == 48, "one for each inode: memory");

/* ---- problems ---- */

enum fs_answer fs_problem_answer(enum fs_problem problem)
{
	switch (problem) {
#define X(name, number, answer, text)                                                                                  \
	case FS_PROBLEM_##name:                                                                                        \
		return FS_ANSWER_##answer;
		FS_PROBLEMS(X)
#undef X
	}
	return FS_ANSWER_REPORT;
}

const char *fs_problem_text(enum fs_problem problem)
{
	switch (problem) {
#define X(name, number, answer, text)                                                                                  \
	case FS_PROBLEM_##name:                                                                                        \
		return text;
		FS_PROBLEMS(X)
#undef X
	}
	return "unknown problem";
}

static void tell(struct check *c, const struct check_pending *p, const char *path, const char *text)
{
	struct fs_problem_report r = {
		.problem = p->problem,
		.view = c->name,
		.ino = p->ino,
		.path = path,
		.text = text,
		.where = p->where,
		.want = p->want,
	};

	if (c->opt->report)
		c->opt->report(c->opt->arg, &r);
}

static char *copy_name(const char *name, size_t len)
{
	char *s = mem_alloc(len + 1);

	if (s) {
		memcpy(s, name, len);
		s[len] = 0;
	}
	return s;
}

void check_problem(struct check *c, enum fs_problem problem, uint64_t ino, uint64_t where, uint64_t want,
		   const char *name, size_t name_len, const char *fmt, ...)
{
	struct check_pending p = { .problem = problem, .ino = ino, .where = where, .want = want };
	char text[CHECK_SHOWN_MAX + 200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p.text = mem_strdup(text);
	p.name = name ? copy_name(name, name_len) : NULL;
	pthread_mutex_lock(&c->lock);
	c->ret->problems++;
	p.seq = c->seq++;
	/* Too many to be kept, or no memory: told at once, without a path. */
	if (!p.text || (name && !p.name) || c->n_pending >= PENDING_MAX ||
	    mem_grow((void **)&c->pending, &c->cap_pending, c->n_pending + 1, sizeof(*c->pending))) {
		tell(c, &p, NULL, text);
		mem_free(p.text);
		mem_free(p.name);
	} else {
		c->pending[c->n_pending++] = p;
	}
	pthread_mutex_unlock(&c->lock);
}

static int pending_cmp(const void *pa, const void *pb)
{
	const struct check_pending *a = pa, *b = pb;

	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	if (a->problem != b->problem)
		return a->problem < b->problem ? -1 : 1;
	if (a->where != b->where)
		return a->where < b->where ? -1 : 1;
	return a->seq < b->seq ? -1 : a->seq > b->seq;
}

void check_tell(struct check *c)
{
	char buf[CHECK_PATH_MAX], whole[CHECK_PATH_MAX + FS_NAME_MAX + 2];

	if (c->n_pending)
		qsort(c->pending, c->n_pending, sizeof(*c->pending), pending_cmp);
	for (size_t i = 0; i < c->n_pending; i++) {
		struct check_pending *p = &c->pending[i];
		const char *path = NULL;

		/* Without memory there is no path, but still a problem. */
		if (!p->ino || check_path(c, p->ino, buf, &path))
			path = NULL;
		if (path && p->name) {
			snprintf(whole, sizeof(whole), "%s/%s", strcmp(path, "/") ? path : "", p->name);
			path = whole;
		}
		tell(c, p, path, p->text);
		mem_free(p->text);
		mem_free(p->name);
	}
	c->n_pending = 0;
}

const char *check_shown(char buf[CHECK_SHOWN_MAX], const uint8_t *name, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 5 <= CHECK_SHOWN_MAX; i++) {
		if (name[i] >= ' ' && name[i] != 0x7f && name[i] != '\\')
			buf[n++] = (char)name[i];
		else
			n += (size_t)snprintf(buf + n, 5, "\\x%02x", name[i]);
	}
	buf[n] = 0;
	return buf;
}

int check_same_add(struct check_same *s, uint64_t hash, const uint8_t *name, size_t len)
{
	if (!s->n || s->hash != hash) {
		s->hash = hash;
		s->n = 0;
	}
	for (size_t at = 0; at < s->n; at += 1u + s->buf[at])
		if (s->buf[at] == len && !memcmp(s->buf + at + 1, name, len))
			return 1;
	if (mem_grow((void **)&s->buf, &s->cap, s->n + 1 + len, 1))
		return -ENOMEM;
	s->buf[s->n] = (uint8_t)len;
	memcpy(s->buf + s->n + 1, name, len);
	s->n += 1 + len;
	return 0;
}

/* ---- what cannot be read ---- */

/* Whether names, or directories to look for names in, can stand there. */
static bool may_hold_names(const struct check_lost *l)
{
	unsigned type = key_type(l->from);

	return l->from.obj != l->to.obj || type == FS_ITEM_DIRENT || type == FS_ITEM_INODE;
}

int check_skip(struct check *c, struct scan *s, int err, struct check_lost *ret)
{
	struct check_lost l = { .err = err };
	int end;

	if (!check_is_damage(err))
		return err;
	end = scan_skip(s, &l.from, &l.to);
	pthread_mutex_lock(&c->lock);
	err = mem_grow((void **)&c->lost, &c->cap_lost, c->n_lost + 1, sizeof(*c->lost));
	if (!err) {
		c->lost[c->n_lost++] = l;
		c->names_lost |= may_hold_names(&l);
	}
	pthread_mutex_unlock(&c->lock);
	*ret = l;
	return err ? err : end;
}

bool check_may_be_lost(struct check *c, struct key key)
{
	bool lost = false;

	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; !lost && i < c->n_lost; i++)
		lost = !key_less(key, c->lost[i].from) && key_less(key, c->lost[i].to);
	pthread_mutex_unlock(&c->lock);
	return lost;
}

static int lost_cmp(const void *pa, const void *pb)
{
	const struct check_lost *a = pa, *b = pb;
	int d = key_cmp(a->from, b->from);

	return d ? d : key_cmp(a->to, b->to);
}

/* One node may have been met by several scans, and neighbours may have been lost together. */
static void tell_lost(struct check *c)
{
	size_t next;

	if (c->n_lost)
		qsort(c->lost, c->n_lost, sizeof(*c->lost), lost_cmp);
	for (size_t i = 0; i < c->n_lost; i = next) {
		struct check_lost l = c->lost[i];

		for (next = i + 1; next < c->n_lost && !key_less(l.to, c->lost[next].from); next++)
			if (key_less(l.to, c->lost[next].to))
				l.to = c->lost[next].to;
		check_problem(c, FS_PROBLEM_UNREADABLE, 0, i, 0, NULL, 0,
			      "items from inode %" PRIu64 " type %u offset %" PRIu64 " to inode %" PRIu64
			      " type %u offset %" PRIu64 " cannot be read: %s",
			      key_ino(l.from), key_type(l.from), l.from.off, key_ino(l.to), key_type(l.to), l.to.off,
			      strerror(-l.err));
	}
}

/* ---- the table ---- */

struct check_inode *check_find(struct check *c, uint64_t ino)
{
	uint64_t i = ino ? (ino - 1) / c->span : 0;
	struct check_part *p = &c->part[i < c->n_parts ? i : c->n_parts - 1];
	size_t low = 0, high = p->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (check_ino(&p->at[mid]) < ino)
			low = mid + 1;
		else
			high = mid;
	}
	return low < p->n && check_ino(&p->at[low]) == ino ? &p->at[low] : NULL;
}

const struct check_mark *check_mark_of(const struct check *c, uint64_t ino)
{
	size_t low = 0, high = c->n_marks;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (c->marks[mid].ino < ino)
			low = mid + 1;
		else
			high = mid;
	}
	return low < c->n_marks && c->marks[low].ino == ino ? &c->marks[low] : NULL;
}

/* ---- threads ---- */

struct parallel {
	struct check *c;
	size_t n, done;
	int (*job)(struct check *c, size_t i, void *arg);
	void *arg;
	const char *phase;
	_Atomic size_t next;
	_Atomic int err;
};

static void *work(void *arg)
{
	struct parallel *p = arg;
	size_t i;

	while (!atomic_load(&p->err) && (i = atomic_fetch_add(&p->next, 1)) < p->n) {
		int none = 0, err = p->job(p->c, i, p->arg);

		if (err)
			atomic_compare_exchange_strong(&p->err, &none, err);
		if (!p->phase || !p->c->opt->progress)
			continue;
		pthread_mutex_lock(&p->c->lock);
		p->c->opt->progress(p->c->opt->arg, p->phase, ++p->done, p->n);
		pthread_mutex_unlock(&p->c->lock);
	}
	return NULL;
}

int check_parallel(struct check *c, size_t n, int (*job)(struct check *, size_t i, void *arg), void *arg,
		   const char *phase)
{
	struct parallel p = { .c = c, .n = n, .job = job, .arg = arg, .phase = phase };
	pthread_t thread[THREADS_MAX];
	unsigned started = 0;

	/* This thread works, too; fewer than wanted are fine. */
	while (started + 1 < c->threads && started + 1 < n && !pthread_create(&thread[started], NULL, work, &p))
		started++;
	work(&p);
	while (started)
		pthread_join(thread[--started], NULL);
	return atomic_load(&p.err);
}

/* ---- views ---- */

/* The number of inodes is raised by batches that overlap: after a crash it may be off by those. */
#define COUNT_TOLERANCE 1024u

static void check_counters(struct check *c)
{
	uint64_t made = store_counter(c->fs->store, FS_COUNTER_INODES_MADE);
	uint64_t freed = store_counter(c->fs->store, FS_COUNTER_INODES_FREED);
	uint64_t said = made > freed ? made - freed : 0;
	uint64_t off = said > c->ret->inodes ? said - c->ret->inodes : c->ret->inodes - said;

	if (off > COUNT_TOLERANCE && !c->n_lost)
		check_problem(c, FS_PROBLEM_INODE_COUNT, 0, 0, c->ret->inodes, NULL, 0,
			      "counted %" PRIu64 ", the counters say %" PRIu64, c->ret->inodes, said);
}

static void forget_view(struct check *c)
{
	for (unsigned i = 0; i < CHECK_PARTS; i++) {
		mem_free(c->part[i].at);
		c->part[i] = (struct check_part){ 0 };
	}
	mem_free(c->marks);
	c->marks = NULL;
	mem_free(c->gaps);
	c->gaps = NULL;
	c->n_gaps = c->cap_gaps = 0;
	c->gap_over_all = false;
	c->n_marks = c->cap_marks = c->n_lost = 0;
	c->names_lost = false;
	c->path_steps = 0;
	c->view_blocks = 0;
	c->view = NULL;
}

/* Takes the view. */
static int look_at(struct check *c, struct view *v, const char *name, bool live)
{
	int err;

	c->view = v;
	c->name = name;
	c->live = live;
	c->n_parts = 1;
	c->span = FS_INO_MAX;
	err = check_items(c);
	if (!err)
		err = check_names(c);
	if (!err) {
		tell_lost(c);
		if (live)
			check_counters(c);
	}
	check_tell(c);
	if (!err && c->opt->data) {
		err = check_data(c);
		check_tell(c);
	}
	c->ret->views++;
	forget_view(c);
	view_close(v);
	return err;
}

struct snapshots {
	char (*name)[SNAPSHOT_NAME_MAX + 1];
	size_t n, cap;
};

static int add_snapshot(void *arg, const struct snapshot_info *info)
{
	struct snapshots *s = arg;

	if (info->dying || info->hidden)
		return 0;
	if (mem_grow((void **)&s->name, &s->cap, s->n + 1, sizeof(*s->name)))
		return -ENOMEM;
	memcpy(s->name[s->n++], info->name, sizeof(*s->name));
	return 0;
}

static int check_views(struct check *c)
{
	struct snapshots s = { 0 };
	struct view *v;
	int err;

	err = view_freeze(c->fs->store, &v);
	if (!err)
		err = look_at(c, v, "live", true);
	if (!err)
		err = snapshot_list(c->fs->store, add_snapshot, &s);
	c->name = "live";
	if (check_is_damage(err)) {
		check_problem(c, FS_PROBLEM_UNREADABLE, 0, 0, 0, NULL, 0, "the list of snapshots cannot be read: %s",
			      strerror(-err));
		check_tell(c);
		err = 0;
	}
	for (size_t i = 0; !err && i < s.n; i++) {
		err = snapshot_open(c->fs->store, s.name[i], &v);
		if (!err) {
			err = look_at(c, v, s.name[i], false);
		} else if (check_is_damage(err)) {
			c->name = s.name[i];
			check_problem(c, FS_PROBLEM_UNREADABLE, 0, 0, 0, NULL, 0, "the snapshot cannot be opened: %s",
				      strerror(-err));
			check_tell(c);
			err = 0;
		}
	}
	mem_free(s.name);
	return err;
}

static int check_structure(struct check *c)
{
	int err;

	if (c->opt->no_structure)
		return 0;
	if (c->opt->progress)
		c->opt->progress(c->opt->arg, "structure", 0, 1);
	err = store_check(c->fs->store, &c->ret->structure);
	if (check_is_damage(err)) {
		if (c->ret->structure.errors)
			check_problem(c, FS_PROBLEM_STRUCTURE, 0, 0, 0, NULL, 0, "%" PRIu64 " errors were found",
				      c->ret->structure.errors);
		else
			check_problem(c, FS_PROBLEM_STRUCTURE, 0, 0, 0, NULL, 0, "it could not be checked: %s",
				      strerror(-err));
		check_tell(c);
		err = 0;
	}
	if (!err && c->opt->progress)
		c->opt->progress(c->opt->arg, "structure", 1, 1);
	return err;
}

static unsigned threads_wanted(const struct fs_check_options *opt)
{
	long n = opt->threads ? (long)opt->threads : sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > (long)THREADS_MAX ? THREADS_MAX : (unsigned)n;
}

int fs_check(struct fs *fs, const struct fs_check_options *opt, struct fs_check_result *ret)
{
	struct fs_check_result result = { 0 };
	struct check *c = mem_zalloc(sizeof(*c));
	struct store_status status;
	int err;

	if (!c)
		return -ENOMEM;
	store_status(fs->store, &status);
	c->fs = fs;
	c->opt = opt;
	c->ret = &result;
	c->name = "live";
	c->threads = threads_wanted(opt);
	c->ino_limit = store_counter(fs->store, FS_COUNTER_INO_LIMIT);
	c->blocks = status.blocks;
	pthread_mutex_init(&c->lock, NULL);
	err = check_structure(c);
	if (!err && opt->data) {
		c->seen = mem_zalloc(c->blocks / 8 + 1);
		err = c->seen ? 0 : -ENOMEM;
	}
	if (!err)
		err = check_views(c);
	if (!err)
		*ret = result;
	if (!err && result.problems)
		err = -EUCLEAN;
	pthread_mutex_destroy(&c->lock);
	mem_free(c->seen);
	mem_free(c->bad);
	mem_free(c->lost);
	mem_free(c->pending);
	mem_free(c);
	return err;
}

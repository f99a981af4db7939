#include "tests/kit/fsworld.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fs/check.h"
#include "tests/kit/fsload.h"

static struct timespec clock_now = { 900000, 0 };

static void set_now(struct timespec now)
{
	clock_now = now;
}

void fsworld_now(void *arg, struct timespec *ret)
{
	(void)arg;
	*ret = clock_now;
}

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

/* ---- snapshots ---- */

struct listing {
	unsigned n;
	char name[FSWORLD_SNAPS][8];
};

static int take_name(void *arg, const struct snapshot_info *info)
{
	struct listing *l = arg;

	if (info->dying || info->hidden)
		return 0;
	if (l->n == FSWORLD_SNAPS || strlen(info->name) >= sizeof(l->name[0]))
		return -E2BIG;
	snprintf(l->name[l->n++], sizeof(l->name[0]), "%.7s", info->name);
	return 0;
}

/* Everything a snapshot holds, in one number. */
static int snap_digest(struct store *s, const char *name, uint64_t *ret)
{
	uint64_t sum = XXH3_64bits(name, strlen(name));
	struct view *view;
	struct scan *scan;
	struct key key;
	const void *val;
	size_t len;
	int err = snapshot_open(s, name, &view);

	if (err)
		return err;
	err = scan_open(view, KEY_MIN, KEY_MAX, &scan);
	if (!err) {
		while (!(err = scan_next(scan, &key, &val, &len)))
			sum = rng_mix(rng_mix(sum, key.obj), rng_mix(key.off, XXH3_64bits(val, len)));
		scan_close(scan);
	}
	view_close(view);
	if (err < 0)
		return err;
	*ret = sum;
	return 0;
}

/* ---- worlds ---- */

static uint64_t digest_of(struct fsm *m, const uint64_t *snap, unsigned n_snaps)
{
	uint64_t snaps = 0;

	for (unsigned i = 0; i < n_snaps; i++)
		snaps += snap[i];
	return rng_mix(fsm_digest(m), snaps);
}

void fsworld_copy(struct fsworld *to, const struct fsworld *from)
{
	*to = *from;
	to->m = fsm_clone(from->m);
}

void fsworld_release(struct fsworld *w)
{
	fsm_free(w->m);
	w->m = NULL;
}

int fsworld_read(struct fs *fs, struct fsworld *ret, char *why, size_t cap)
{
	struct fsdrive_direct drive;
	struct fsop_answer answer = { 0 };
	struct listing list = { 0 };
	struct fsworld w = { 0 };
	int err;

	fsdrive_direct_init(&drive, fs, FS_ROOT);
	err = fsload(&drive.driver, &answer, true, &w.m, why, cap);
	if (!err) {
		err = snapshot_list(fs_store(fs), take_name, &list);
		for (unsigned i = 0; !err && i < list.n; i++)
			err = snap_digest(fs_store(fs), list.name[i], &w.snap[i]);
		if (err)
			snprintf(why, cap, "reading snapshots: error %d", -err);
	}
	fsop_answer_release(&answer);
	if (err) {
		fsworld_release(&w);
		return -EPROTO;
	}
	w.n_snaps = list.n;
	w.m->inodes[FSM_ROOT]->parent = FSM_ROOT;
	w.digest = digest_of(w.m, w.snap, w.n_snaps);
	*ret = w;
	return 0;
}

static void print_problem(void *arg, const struct fs_problem_report *p)
{
	(void)arg;
	printf("# problem %d, inode %" PRIu64 " (%s): %s\n", p->problem, p->ino, p->path ? p->path : "?", p->text);
}

int fsworld_check(struct fs *fs, const struct fsworld *w)
{
	struct fs_check_options o = { .data = true, .threads = 1, .report = print_problem };
	struct fs_check_result result;
	uint64_t inodes = 0;
	int err = fs_check(fs, &o, &result);

	for (size_t i = 0; !err && w && i < w->m->n_inodes; i++)
		inodes += w->m->inodes[i] != NULL;
	if (err || !w || inodes == result.inodes)
		return err;
	printf("# there are %" PRIu64 " inodes, and %" PRIu64 " of them have names\n", result.inodes, inodes);
	return -EUCLEAN;
}

/* ---- what a crash may lead to ---- */

static struct fsworld_mark *mark(struct fsworlds *r, size_t hi)
{
	if (r->n_marks == r->cap_marks) {
		r->cap_marks = r->cap_marks * 2 + 16;
		r->marks = must(realloc(r->marks, r->cap_marks * sizeof(*r->marks)));
	}
	r->marks[r->n_marks] = (struct fsworld_mark){ simdev_ops(r->disk), r->durable, hi };
	return &r->marks[r->n_marks++];
}

void fsworlds_allowed(const struct fsworlds *r, uint64_t ops, size_t *ret_lo, size_t *ret_hi)
{
	size_t lo = 0, hi = 0;

	for (size_t i = 0; i < r->n_marks && r->marks[i].ops <= ops; i++) {
		lo = r->marks[i].lo;
		/* What began behind the last operation has not written anything yet. */
		if (r->marks[i].ops < ops)
			hi = r->marks[i].hi;
	}
	*ret_lo = lo;
	*ret_hi = hi > lo ? hi : lo;
}

/* The model as it is now, if that is something new. */
static void push(struct fsworlds *r)
{
	uint64_t digest = digest_of(r->run.model, r->snap, r->n_snaps);
	struct fsworld *w;

	if (r->n && r->worlds[r->n - 1].digest == digest)
		return;
	if (r->n == r->cap) {
		r->cap = r->cap * 2 + 8;
		r->worlds = must(realloc(r->worlds, r->cap * sizeof(*r->worlds)));
	}
	w = &r->worlds[r->n++];
	*w = (struct fsworld){ .m = fsm_clone(r->run.model), .digest = digest, .n_snaps = r->n_snaps };
	memcpy(w->snap, r->snap, sizeof(w->snap));
	fsm_apply(w->m, (struct timespec){ 0 });
	for (unsigned h = 0; h < FSM_HANDLES; h++)
		fsm_close(w->m, h);
}

__attribute__((format(printf, 2, 3))) static int broken(struct fsworlds *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->broken, sizeof(r->broken), fmt, ap);
	va_end(ap);
	return -EPROTO;
}

/* ---- life ---- */

int fsworlds_mount(struct fsworlds *r)
{
	int err;

	/* A seed used twice would give two runs the same log epoch. */
	r->opt.store.seed = rng_mix(r->seed, ++r->mounts) | 1;
	err = fs_mount(simdev_bdev(r->disk), &r->opt, &r->fs);
	if (err) {
		r->fs = NULL;
		broken(r, "mounting gives error %d", -err);
		return err;
	}
	fsdrive_direct_init(&r->drive, r->fs, FS_ROOT);
	return 0;
}

static int find_snaps(struct fsworlds *r)
{
	struct listing list = { 0 };
	int err = snapshot_list(fs_store(r->fs), take_name, &list);

	for (unsigned i = 0; !err && i < list.n; i++)
		err = snap_digest(fs_store(r->fs), list.name[i], &r->snap[i]);
	if (err)
		return broken(r, "reading snapshots gives error %d", -err);
	r->n_snaps = list.n;
	memcpy(r->snap_name, list.name, sizeof(list.name));
	return 0;
}

int fsworlds_begin(struct fsworlds *r, struct simdev *disk, const struct fs_options *opt, const struct fsworld *start,
		   bool full_ok, uint64_t seed)
{
	int err;

	*r = (struct fsworlds){ .disk = disk, .opt = *opt, .seed = seed };
	if (fsworlds_mount(r))
		return -EPROTO;
	if (start) {
		r->run = (struct fsrun){ .driver = &r->drive.driver, .set_now = set_now, .now = { 2000000, 0 } };
		r->run.model = fsm_clone(start->m);
	} else {
		err = fsrun_init(&r->run, &r->drive.driver, set_now, false);
		if (err)
			return broken(r, "an empty filesystem cannot be read: error %d", -err);
	}
	r->run.full_ok = full_ok;
	err = find_snaps(r);
	if (err)
		return err;
	push(r);
	if (start && r->worlds[0].digest != start->digest)
		return broken(r, "the disk does not hold the snapshots that it should");
	mark(r, 0);
	return 0;
}

void fsworlds_kill(struct fsworlds *r)
{
	if (r->fs)
		fs_crash(r->fs);
	r->fs = NULL;
	bdev_close(simdev_bdev(r->disk));
}

void fsworlds_release(struct fsworlds *r)
{
	if (r->fs)
		fsworlds_kill(r);
	fsrun_release(&r->run);
	for (size_t i = 0; i < r->n; i++)
		fsworld_release(&r->worlds[i]);
	free(r->worlds);
	free(r->marks);
}

/* ---- steps ---- */

static int remount(struct fsworlds *r)
{
	struct fs *fs = r->fs;
	int err;

	r->fs = NULL;
	err = fs_unmount(fs);
	if (err)
		return broken(r, "unmounting gives error %d", -err);
	fsrun_closed(&r->run);
	return fsworlds_mount(r) ? -EPROTO : 0;
}

static bool excused(struct fsworlds *r, int err)
{
	bool yes = r->run.excuse && r->run.excuse(r->run.excuse_arg, NULL, err);

	r->in_doubt |= yes;
	return yes;
}

static int snap(struct fsworlds *r)
{
	uint64_t id;
	char name[8];
	int err;

	if (r->n_snaps == FSWORLD_SNAPS || r->in_doubt)
		return 1;
	for (unsigned i = 0;; i++) {
		bool taken = false;

		snprintf(name, sizeof(name), "s%u", i);
		for (unsigned k = 0; k < r->n_snaps; k++)
			taken |= !strcmp(r->snap_name[k], name);
		if (!taken)
			break;
	}
	err = snapshot_create(fs_store(r->fs), name, &id);
	if (err == -ENOSPC && r->run.full_ok)
		return 1;
	if (!err)
		err = snap_digest(fs_store(r->fs), name, &r->snap[r->n_snaps]);
	if (err && excused(r, err))
		return 1;
	if (err)
		return broken(r, "making a snapshot gives error %d", -err);
	memcpy(r->snap_name[r->n_snaps++], name, sizeof(name));
	return 0;
}

static int snap_delete(struct fsworlds *r)
{
	int err;

	if (!r->n_snaps || r->in_doubt)
		return 1;
	err = snapshot_delete(fs_store(r->fs), r->snap_name[0]);
	if (err && excused(r, err))
		return 1;
	if (err)
		return broken(r, "deleting a snapshot gives error %d", -err);
	r->n_snaps--;
	memmove(r->snap, r->snap + 1, r->n_snaps * sizeof(r->snap[0]));
	memmove(r->snap_name, r->snap_name + 1, r->n_snaps * sizeof(r->snap_name[0]));
	return 0;
}

/* Handles that are not there, or there already: a list of steps need not know. */
static bool handles_fit(const struct fsworlds *r, const struct fsop *op)
{
	struct fsm_inode *const *handle = r->run.model->handle;

	if (op->kind == FSOP_OPEN)
		return !handle[op->to.handle];
	if (op->kind == FSOP_TMPFILE)
		return !handle[op->at.handle];
	return (op->at.handle < 0 || handle[op->at.handle]) && (op->to.handle < 0 || handle[op->to.handle]);
}

static int one_op(struct fsworlds *r, const struct fsop *op)
{
	uint64_t not_done = r->run.failed + r->run.refused;
	struct fsop of_all = *op;
	int err;

	/* What concerns no file must not be skipped for want of one. */
	if (op->kind == FSOP_SYNC || op->kind == FSOP_TICK || op->kind == FSOP_CHECKPOINT ||
	    op->kind == FSOP_FORGET_ALL)
		of_all.at = (struct fsop_at){ -1, FSM_ROOT, FSOP_SELF };
	if (!handles_fit(r, &of_all))
		return 1;
	err = fsrun_step(&r->run, &of_all);
	if (err)
		return broken(r, "%s: %.500s", fsop_names[op->kind], r->run.broken);
	return r->run.failed + r->run.refused > not_done;
}

static bool makes_durable(const struct fsworld_step *s)
{
	return s->action != FSWORLD_OP || s->op.kind == FSOP_SYNC || s->op.kind == FSOP_CHECKPOINT;
}

int fsworlds_step(struct fsworlds *r, const struct fsworld_step *s)
{
	size_t at = r->n_marks;
	int err = 0;

	mark(r, r->n);
	switch (s->action) {
	case FSWORLD_OP:
		err = one_op(r, &s->op);
		break;
	case FSWORLD_REMOUNT:
		err = remount(r);
		break;
	case FSWORLD_SNAP:
		err = snap(r);
		break;
	case FSWORLD_SNAP_DELETE:
		err = snap_delete(r);
		break;
	}
	if (err < 0)
		return err;
	push(r);
	r->marks[at].hi = r->n - 1;
	if (!err && makes_durable(s))
		r->durable = r->n - 1;
	mark(r, r->n - 1);
	return err;
}

/*
 * faults_fs.c - what becomes of files when something fails: each I/O, each allocation, each block
 *
 * One workload, every row of fsrows.h one behind the other with syncs, checkpoints and a remount between them, is run again and
 * again beside the model. In each run one thing fails: the k-th read, write, flush, discard, allocation of memory, of blocks, or
 * commit; once or from then on; a write not done, torn, or done and reported as failed. All k, until a run ends before its k-th.
 *
 * What must hold, whatever fails:
 *
 *  - An operation fails only where something was made to fail in it, or afterwards as contract G says, and has then not
 *    happened. All others give the model's result.
 *  - G: once a write or flush has failed, no sync and no checkpoint succeeds any more, and once the store says that it has
 *    failed, no change. What can be read is read, and right. Error and reason stay the same.
 *  - Where nothing of that kind has failed, everything works again when the fault is over, and the check finds nothing.
 *  - When the disk is well again, after a kill, a power cut or an unmount that may have failed, it can be mounted; it holds the
 *    files of some moment not before the last sync that succeeded; the check finds nothing.
 *
 * Contract H is tried on devices of every size from too small on: on a full one removals and truncations succeed, then writes.
 *
 * A pattern as argument picks tests; ARBOR_STRIDE=1 takes every k everywhere; ARBOR_AT=k runs only that one, and is
 * printed with a failure.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/check.h"
#include "tests/kit/failmem.h"
#include "tests/kit/fsrows.h"
#include "tests/kit/kv_run.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

enum source { DISK, GONE, MEMORY, BLOCKS, COMMITS };

static const struct kind {
	const char *name;
	enum source source;
	enum simdev_op op;
	enum simdev_effect effect;
	int err;
	bool from_then_on;
	bool sticky;	 /* contract G */
	unsigned stride; /* not every k by default */
} kinds[] = {
	{ "a read fails", DISK, SIMDEV_READ },
	{ "reads fail from then on", DISK, SIMDEV_READ, .from_then_on = true },
	{ "a write fails", DISK, SIMDEV_WRITE, SIMDEV_NOT_DONE, .sticky = true },
	{ "a write is torn", DISK, SIMDEV_WRITE, SIMDEV_TORN, .sticky = true },
	{ "a write is done and reported as failed", DISK, SIMDEV_WRITE, SIMDEV_DONE, .sticky = true },
	{ "a write times out", DISK, SIMDEV_WRITE, SIMDEV_NOT_DONE, -ETIMEDOUT, .sticky = true },
	{ "a write times out and is done", DISK, SIMDEV_WRITE, SIMDEV_DONE, -ETIMEDOUT, .sticky = true },
	{ "writes fail from then on", DISK, SIMDEV_WRITE, SIMDEV_NOT_DONE, .from_then_on = true, .sticky = true },
	{ "a flush fails", DISK, SIMDEV_FLUSH, .sticky = true },
	{ "a flush times out", DISK, SIMDEV_FLUSH, .err = -ETIMEDOUT, .sticky = true },
	{ "flushes fail from then on", DISK, SIMDEV_FLUSH, .from_then_on = true, .sticky = true },
	{ "a discard fails", DISK, SIMDEV_DISCARD },
	{ "discards fail from then on", DISK, SIMDEV_DISCARD, .from_then_on = true },
	{ "the disk is gone from then on", GONE },
	{ "an allocation fails", MEMORY },
	{ "allocations fail from then on", MEMORY, .from_then_on = true, .stride = 7 },
	{ "there is no block", BLOCKS },
	{ "there are no blocks from then on", BLOCKS, .from_then_on = true },
	{ "a commit finds no room", COMMITS },
	{ "commits find no room from then on", COMMITS, .from_then_on = true },
};

/* ---- blocks and commits that fail: calls that are wrapped ---- */

static struct {
	enum source source;
	uint64_t at; /* counted from 1; 0: none */
	bool from_then_on;
	uint64_t n, failed;
} refusal;

static bool refuse(enum source source)
{
	if (!refusal.at || refusal.source != source)
		return false;
	refusal.n++;
	if (refusal.n < refusal.at || (refusal.n > refusal.at && !refusal.from_then_on))
		return false;
	refusal.failed++;
	return true;
}

int __real_batch_alloc(struct batch *, uint32_t, bool, struct extent *);
int __wrap_batch_alloc(struct batch *, uint32_t, bool, struct extent *);
int __real_batch_commit(struct batch *, uint64_t *);
int __wrap_batch_commit(struct batch *, uint64_t *);

int __wrap_batch_alloc(struct batch *b, uint32_t want, bool claimed, struct extent *ret)
{
	return refuse(BLOCKS) ? -ENOSPC : __real_batch_alloc(b, want, claimed, ret);
}

int __wrap_batch_commit(struct batch *b, uint64_t *ret_lsn)
{
	if (!refuse(COMMITS))
		return __real_batch_commit(b, ret_lsn);
	batch_cancel(b);
	return -ENOSPC;
}

/* ---- a run ---- */

struct rig {
	const struct kind *kind;
	uint64_t k; /* from 0 */
	struct simdev *disk;
	struct fsworlds w;
	struct store_status status; /* behind the last step */
	uint64_t failed;	    /* before the step under way */
	bool ended;		    /* the filesystem could not be mounted again */
	bool lossy;		    /* reading may fail: the disk still does, or what was written last is not on it */
	const char *step;
	uint64_t steps, excused;
};

static struct fscrash_base base;
static struct {
	uint64_t runs, faults, failed_stores, excused, unread;
} total;
static uint64_t all_runs, all_faults;

static void fail_rig(struct rig *r, const char *what, int err)
{
	printf("# %s: error %d (%s); step %" PRIu64 " (%s); ARBOR_AT=%" PRIu64 "\n# %s\n", what, -err,
	       r->kind ? r->kind->name : "a full device", r->steps, r->step, r->k, r->w.broken);
	printf("# store: error %d %s\n", r->status.error, r->status.error_text);
	fsrun_print(&r->w.run, stdout);
	kv_log_print(stdout);
	fflush(stdout);
	fail();
}

static void must(struct rig *r, const char *what, int err)
{
	if (err)
		fail_rig(r, what, err);
}

static void arm(struct rig *r)
{
	const struct kind *f = r->kind;

	switch (f->source) {
	case DISK:
		simdev_add_fault(r->disk, &(struct simdev_fault){ .op = f->op,
								  .after = r->k,
								  .times = f->from_then_on ? 0 : 1,
								  .err = f->err,
								  .effect = f->effect });
		break;
	case GONE:
		simdev_kill_at(r->disk, r->k);
		break;
	case MEMORY:
		failmem_start(r->k + 1, f->from_then_on ? FAILMEM_FROM_THEN_ON : FAILMEM_ONCE);
		break;
	default:
		refusal.source = f->source;
		refusal.at = r->k + 1;
		refusal.from_then_on = f->from_then_on;
		refusal.n = refusal.failed = 0;
		break;
	}
}

/* How often something was made to fail so far. */
static uint64_t failed(const struct rig *r)
{
	switch (r->kind->source) {
	case DISK:
		return simdev_failed(r->disk);
	case GONE:
		return simdev_dead(r->disk);
	case MEMORY:
		return failmem_failed();
	default:
		return refusal.failed;
	}
}

static void disarm(struct rig *r)
{
	if (r->kind->source == MEMORY)
		(void)failmem_stop();
	refusal.at = 0;
	simdev_clear_faults(r->disk);
}

/* Handles are the kernel's. */
static bool writes(enum fsop_kind kind)
{
	return fsrun_changes(kind) && kind != FSOP_OPEN && kind != FSOP_CLOSE;
}

static bool excuse(void *arg, const struct fsop *op, int err)
{
	struct rig *r = arg;
	bool hit = failed(r) > r->failed || simdev_dead(r->disk);
	bool reads = op && !fsrun_changes(op->kind) && op->kind != FSOP_SYNC && op->kind != FSOP_CHECKPOINT &&
		     op->kind != FSOP_TICK && op->kind != FSOP_FORGET_ALL;
	bool fine;

	if (hit)
		fine = err == -EIO || err == -ENOMEM || err == -ENOSPC || err == -EROFS || err == -ETIMEDOUT;
	else if (r->status.error && !reads)
		fine = err == -EIO || err == -EROFS;
	else if (r->kind->op == SIMDEV_READ && r->kind->from_then_on && err == -ENOSPC)
		fine = r->failed; /* what a page of the space map says is not known: its blocks count as used */
	else
		fine = r->lossy && (err == -EIO || err == -EBADMSG);
	r->excused += fine;
	return fine;
}

/* What contract G says about a step that has been carried out. `was`: the store had failed before it. */
static void check_sticky(struct rig *r, const struct fsworld_step *s, bool was, int result)
{
	bool syncs = s->action != FSWORLD_OP || s->op.kind == FSOP_SYNC || s->op.kind == FSOP_CHECKPOINT;
	struct store_status st;

	store_status(fs_store(r->w.fs), &st);
	if (was) {
		if (st.error != r->status.error || strcmp(st.error_text, r->status.error_text))
			fail_rig(r, "the reason for the failure has changed", -st.error);
		if (!result && !r->w.run.answer.err && (syncs || writes(s->op.kind)) &&
		    !(s->op.kind == FSOP_COPY && !r->w.run.answer.n)) /* of nothing */
			fail_rig(r, "it succeeds after a failure", -st.error);
	}
	if (st.error && !st.error_text[0])
		fail_rig(r, "the store has failed and does not say why", -st.error);
	r->status = st;
	if (r->kind->sticky && syncs && !result && !st.error && failed(r))
		fail_rig(r, "a sync succeeds after a failed write or flush", 0);
}

/* The workload's own, because it may fail. */
static void remount(struct rig *r)
{
	struct fs *fs = r->w.fs;
	bool sticky = r->status.error;
	int err;

	r->w.fs = NULL;
	err = fs_unmount(fs);
	if (err && !sticky && failed(r) == r->failed)
		fail_rig(r, "unmounting", err);
	if (!err && sticky)
		fail_rig(r, "unmounting succeeds after a failure", -r->status.error);
	fsrun_closed(&r->w.run);
	if (!err) {
		r->w.durable = r->w.n - 1;
		err = fsworlds_mount(&r->w);
		if (err && failed(r) == r->failed)
			fail_rig(r, "mounting again", err);
		r->status = (struct store_status){ 0 };
	}
	r->ended = err;
}

/* Whiteouts: the driver has to look the new inode's number up, which must not fail. */
static bool left_out(const struct fsrow *row)
{
	return !strcmp(row->name, "whiteout");
}

static void step(struct rig *r, const struct fsworld_step *s)
{
	bool was = r->status.error;
	int err;

	r->failed = failed(r);
	r->steps++;
	if (s->action == FSWORLD_REMOUNT) {
		remount(r);
		return;
	}
	r->w.run.answer.err = 0;
	err = fsworlds_step(&r->w, s);
	if (err < 0)
		fail_rig(r, "a step", err);
	/* 1 without an error: there was nothing to do, or it failed rightly. */
	check_sticky(r, s, was, err);
}

/* "a" of the directory, if there is one. */
static void read_file(struct rig *r, uint32_t dir)
{
	const struct fsworld_step s = {
		.op = { .kind = FSOP_READ, .at = { -1, dir, 0 }, .to.handle = -1, .len = 1 << 18 }
	};

	if (!r->ended)
		step(r, &s);
}

static void row(struct rig *r, const char *name)
{
	const struct fsrow *row = fsrows_find(name);

	r->step = name;
	for (unsigned n = 0; n < row->n && !r->ended && !left_out(row); n++)
		step(r, &row->step[n]);
}

static void workload(struct rig *r)
{
	r->failed = 0;
	r->step = "mount";
	if (fsworlds_begin(&r->w, r->disk, &r->w.opt, &base.world, false, 77 + r->k)) {
		if (!failed(r))
			fail_rig(r, "beginning", -EPROTO);
		r->ended = true;
		return;
	}
	r->w.run.excuse = excuse;
	r->w.run.excuse_arg = r;
	for (size_t i = 0; i < n_fsrows && !r->ended; i++) {
		row(r, "small"); /* so that there is something to do */
		row(r, "write-d");
		row(r, "setxattr");
		row(r, fsrows[i].name);
		read_file(r, FSM_ROOT);
		read_file(r, FSM_ROOT + 1);
		/* Now and then, so that there is something in the log, and in the tree. */
		if (i % 5 == 4 && !r->ended)
			step(r, &fsrows_end[i / 5 % 3 == 2]);
	}
	r->step = "the end";
	for (unsigned i = 0; i < FSROWS_END && !r->ended; i++)
		step(r, &fsrows_end[i]);
}

/* ---- afterwards ---- */

/* Every file is asked for all it has. What is there is right; what the disk does not give is an error. */
static void read_all(struct rig *r)
{
	static const enum fsop_kind kinds_of_reading[] = { FSOP_STAT, FSOP_LISTXATTR, FSOP_READ, FSOP_READDIR,
							   FSOP_READLINK };
	struct fsm *m = r->w.run.model;
	uint64_t excused = r->excused;

	r->step = "reading everything";
	r->lossy = true;
	for (size_t d = 0; d < m->n_inodes; d++) {
		if (!m->inodes[d] || !S_ISDIR(m->inodes[d]->mode))
			continue;
		for (unsigned name = 0; name <= 8; name++)
			for (unsigned i = 0; i < ARRAY_LEN(kinds_of_reading); i++) {
				const struct fsworld_step s = {
					.op = { .kind = kinds_of_reading[i],
						.at = { -1, (uint32_t)d, name == 8 ? FSOP_SELF : (uint16_t)name },
						.to.handle = -1,
						.len = 1 << 19,
						.chunk = 50 }
				};

				step(r, &s);
			}
	}
	r->lossy = false;
	total.unread += r->excused - excused;
}

/* What failed is not counted. */
static void check_inodes(struct rig *r)
{
	const struct fs_check_options o = { .no_structure = true, .threads = 1 };
	struct fs_check_result found;
	struct statvfs st;

	must(r, "counting inodes", fs_check(r->w.fs, &o, &found));
	must(r, "statfs", fs_statfs(r->w.fs, &st));
	if (st.f_files - st.f_ffree != found.inodes) {
		printf("# %" PRIu64 " inodes are counted, there are %" PRIu64 "\n", (uint64_t)(st.f_files - st.f_ffree),
		       found.inodes);
		fail_rig(r, "the number of inodes is wrong", -EUCLEAN);
	}
}

/* While it is mounted, with the fault over. */
static void look_mounted(struct rig *r)
{
	const struct fsworld_step sync = fsrows_end[0];

	r->failed = failed(r); /* disarmed: nothing more is excused by it */
	if (r->status.error) {
		read_all(r);
		return;
	}
	r->step = "after the fault";
	must(r, "comparing after the fault", fsrun_compare(&r->w.run));
	step(r, &sync);
	must(r, "reaping after the fault", fs_reap(r->w.fs));
	must(r, "the check after the fault", fsworld_check(r->w.fs, NULL));
	check_inodes(r);
}

static bool is_allowed(struct rig *r, struct fsworld *found)
{
	if (!r->w.n) /* never mounted */
		return found->digest == base.world.digest;
	for (size_t i = r->w.durable; i < r->w.n; i++) {
		struct fsworld *w = &r->w.worlds[i];

		if (r->w.in_doubt ? fsm_digest(w->m) == fsm_digest(found->m) : w->digest == found->digest)
			return true;
	}
	return false;
}

/* Ends it in one of several ways, and mounts what is left. */
static void end_and_look(struct rig *r)
{
	struct fs_options opt = r->w.opt;
	struct fsworld found = { 0 };
	struct fs *fs = r->w.fs;
	unsigned how = (unsigned)(r->k % 4);
	int err;

	r->step = "the end of the mount";
	r->w.fs = NULL;
	if (fs && how == 3) {
		err = fs_unmount(fs);
		if (!err == !!r->status.error)
			fail_rig(r, "unmounting at the end", err);
		if (!err)
			r->w.durable = r->w.n - 1;
	} else if (fs) {
		fs_crash(fs);
	}
	bdev_close(simdev_bdev(r->disk));
	if (how == 1) {
		simdev_power_cut(&r->disk);
	} else if (how == 2) {
		struct simdev *after = simdev_branch(r->disk, simdev_ops(r->disk), NULL, r->k);

		simdev_free(r->disk);
		r->disk = after;
	}
	r->w.disk = r->disk;
	r->step = "the next mount";
	opt.store.seed = rng_mix(r->k, 4711) | 1;
	must(r, "mounting after the fault", fs_mount(simdev_bdev(r->disk), &opt, &fs));
	r->w.fs = fs;
	must(r, "reading after the fault", fsworld_read(fs, &found, r->w.broken, sizeof(r->w.broken)));
	if (!is_allowed(r, &found)) {
		printf("# %zu .. %zu are allowed\n", r->w.durable, r->w.n);
		if (r->w.n)
			fsm_diff(r->w.worlds[r->w.n - 1].m, found.m, stdout, "#   ", 8);
		fail_rig(r, "what is found after the fault is no moment since the last sync", -EPROTO);
	}
	must(r, "reaping after the next mount", fs_reap(fs));
	must(r, "the check after the next mount", fsworld_check(fs, &found));
	fsworld_release(&found);
}

static bool run_one(const struct kind *kind, uint64_t k)
{
	struct rig r = { .kind = kind, .k = k };
	bool hit;

	r.disk = simdev_new(&(struct simdev_options){ .base = base.image, .seed = k });
	r.w.opt = fscrash_options;
	r.w.opt.store.cache_bytes = 64 * 4096;
	r.w.opt.store.discard = true;
	kv_log_clear();
	arm(&r);
	workload(&r);
	hit = failed(&r) > 0;
	total.faults += failed(&r);
	disarm(&r);
	if (hit) {
		total.runs++;
		if (!r.ended)
			look_mounted(&r);
		total.failed_stores += r.status.error != 0;
		total.excused += r.excused;
		end_and_look(&r);
	} else {
		assert_false(r.ended);
		assert_int_equal(r.excused, 0);
	}
	fsworlds_release(&r.w);
	simdev_free(r.disk);
	return hit;
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *env = getenv(name);

	return env && *env ? strtoull(env, NULL, 0) : otherwise;
}

static void nothing_acknowledged_is_lost(void **state)
{
	const struct kind *kind = *state;
	uint64_t stride = env_number("ARBOR_STRIDE", kind->stride ? kind->stride : 1), k = 0;

	memset(&total, 0, sizeof(total));
	if (getenv("ARBOR_AT")) {
		assert_true(run_one(kind, env_number("ARBOR_AT", 0)));
	} else {
		while (run_one(kind, k))
			k += stride;
		/* Something has been tried. */
		assert_true(total.runs > 0);
	}
	all_runs += total.runs;
	all_faults += total.faults;
	printf("# %" PRIu64 " runs, %" PRIu64 " faults; %" PRIu64 " stores failed for good; %" PRIu64
	       " operations failed with it, %" PRIu64 " of them read what was not on the disk\n",
	       total.runs, total.faults, total.failed_stores, total.excused, total.unread);
}

/* ---- full devices ---- */

static void step_full(struct rig *r, struct fsop op)
{
	const struct fsworld_step s = { .op = op };
	int err;

	r->steps++;
	err = fsworlds_step(&r->w, &s);
	if (err < 0)
		fail_rig(r, "a step on a full device", err);
	store_status(fs_store(r->w.fs), &r->status);
	if (r->status.error)
		fail_rig(r, "the store has failed for want of room", -r->status.error);
}

/* Everything goes; fsrun refuses to hear -ENOSPC of it. */
static void empty_dir(struct rig *r, struct fsm_inode *dir)
{
	while (dir->n_names) {
		struct fsm_inode *node = fsm_inode(r->w.run.model, dir->names[0].id);
		struct fsop op = { .at = { -1, dir->id, 0 }, .to.handle = -1 };
		char name[FSOP_NAME_SIZE];
		size_t before = dir->n_names;

		while (strcmp(fsop_name(op.at.name, name), dir->names[0].name))
			op.at.name++;
		if (S_ISDIR(node->mode))
			empty_dir(r, node);
		op.kind = FSOP_TRUNCATE;
		if (S_ISREG(node->mode) && node->size)
			step_full(r, op);
		op.kind = S_ISDIR(node->mode) ? FSOP_RMDIR : FSOP_UNLINK;
		step_full(r, op);
		if (dir->n_names == before)
			fail_rig(r, "a removal on a full device", -ENOSPC);
	}
}

/* Files until nothing fits, then one block each. */
static void fill(struct rig *r)
{
	struct fsop op = { .kind = FSOP_CREATE, .mode = S_IFREG | 0644, .at = { -1, FSM_ROOT, 7 }, .to.handle = -1 };

	step_full(r, op);
	op.kind = FSOP_WRITE;
	for (op.len = 65536; op.len >= 4096;) {
		uint64_t refused = r->w.run.refused;

		op.seed = op.off;
		step_full(r, op);
		if (r->w.run.refused > refused)
			op.len /= 4;
		else
			op.off += op.len;
	}
}

static void fill_and_empty(struct rig *r)
{
	for (size_t i = 0; i < n_fsrows; i++) {
		r->step = fsrows[i].name;
		for (unsigned n = 0; n < fsrows[i].n; n++) {
			r->steps++;
			if (fsworlds_step(&r->w, &fsrows[i].step[n]) < 0)
				fail_rig(r, "a step", -EPROTO);
		}
	}
	r->step = "filling";
	fill(r);
	r->step = "emptying";
	for (unsigned h = 0; h < FSM_HANDLES; h++)
		step_full(r,
			  (struct fsop){ .kind = FSOP_CLOSE, .at = { (int)h, FSM_ROOT, FSOP_SELF }, .to.handle = -1 });
	while (r->w.n_snaps)
		if (fsworlds_step(&r->w, &(struct fsworld_step){ .action = FSWORLD_SNAP_DELETE }))
			fail_rig(r, "deleting a snapshot on a full device", -EPROTO);
	empty_dir(r, fsm_inode(r->w.run.model, FSM_ROOT));
	step_full(r, (struct fsop){ .kind = FSOP_FORGET_ALL, .to.handle = -1 });
	step_full(r, (struct fsop){ .kind = FSOP_CHECKPOINT, .to.handle = -1 });
}

static void a_full_device_never_wedges(void **state)
{
	struct fs_mkfs_options mkfs = fscrash_mkfs;
	uint64_t devices = 0, too_small = 0, refused = 0, once = 0;

	(void)state;
	mkfs.store.lazy_log = true;
	for (uint64_t blocks = 300; blocks < 1500; blocks += 20) {
		struct rig r = { .k = blocks };
		uint64_t before;
		int err;

		kv_log_clear();
		r.disk = simdev_new(&(struct simdev_options){ .blocks = blocks, .no_trace = true });
		err = fs_mkfs(simdev_bdev(r.disk), &mkfs);
		if (err) {
			assert_int_equal(err, -ENOSPC);
			assert_int_equal(devices, 0);
			too_small++;
			simdev_free(r.disk);
			continue;
		}
		devices++;
		must(&r, "beginning", fsworlds_begin(&r.w, r.disk, &fscrash_options, NULL, true, blocks));
		must(&r, "the first directory", fsworlds_step(&r.w, &fsrows_bases[FSROWS_EMPTY].steps[0]));
		for (unsigned round = 0; round < 2; round++) {
			fill_and_empty(&r);
			once += r.w.run.refused > 0;
			refused += r.w.run.refused;
			/* Writes go again. */
			r.step = "writing again";
			before = r.w.run.refused;
			step_full(&r, (struct fsop){ .kind = FSOP_MKDIR,
						     .mode = S_IFDIR | 0755,
						     .at = { -1, FSM_ROOT, 3 },
						     .to.handle = -1 });
			step_full(&r, (struct fsop){ .kind = FSOP_CREATE,
						     .mode = S_IFREG | 0644,
						     .at = { -1, FSM_ROOT, 8 },
						     .to.handle = -1 });
			step_full(&r, (struct fsop){ .kind = FSOP_WRITE,
						     .at = { -1, FSM_ROOT, 8 },
						     .to.handle = -1,
						     .len = 40000,
						     .seed = 5 });
			step_full(&r, (struct fsop){ .kind = FSOP_SYNC, .to.handle = -1 });
			if (r.w.run.refused > before)
				fail_rig(&r, "no room after everything was removed", -ENOSPC);
			must(&r, "comparing", fsrun_compare(&r.w.run));
			must(&r, "the check", fsworld_check(r.w.fs, NULL));
			must(&r, "a remount", fsworlds_step(&r.w, &(struct fsworld_step){ .action = FSWORLD_REMOUNT }));
			must(&r, "comparing after a remount", fsrun_compare(&r.w.run));
		}
		fsworlds_release(&r.w);
		simdev_free(r.disk);
	}
	printf("# %" PRIu64 " devices, and %" PRIu64 " too small to be made; %" PRIu64
	       " operations refused for want of room\n",
	       devices, too_small, refused);
	assert_true(once > 0 && too_small > 0);
}

/* ---- main ---- */

static int begin(void **state)
{
	(void)state;
	kv_log_quiet();
	fsrows_base_make(FSROWS_FILES, &base);
	return 0;
}

static int end(void **state)
{
	(void)state;
	fscrash_base_release(&base);
	printf("# in all %" PRIu64 " runs with %" PRIu64 " faults\n", all_runs, all_faults);
	return 0;
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[ARRAY_LEN(kinds) + 1];
	size_t n = 0;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	for (; n < ARRAY_LEN(kinds); n++)
		tests[n] = TEST_ROW(kinds[n].name, nothing_acknowledged_is_lost, &kinds[n]);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_full_device_never_wedges);
	return _cmocka_run_group_tests("faults_fs", tests, n, begin, end);
}

#include "tests/kit/kv_run.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "btree/err.h"
#include "tests/kit/kv_batch.h"
#include "tests/kit/kv_records.h"
#include "tests/kit/rng.h"

static const char *const action_names[] = {
#define KV_ACTION_NAME(symbol, name) [symbol] = name,
	KV_ACTIONS(KV_ACTION_NAME)
#undef KV_ACTION_NAME
};

const char *kv_action_name(enum kv_action action)
{
	return action_names[action];
}

void kv_op_print(FILE *f, const struct kv_op *op)
{
	fprintf(f, "%s view=%u slot=%u ino=%u ino2=%u off=%u n=%u len=%u seed=%" PRIu64, action_names[op->action], op->view,
		op->slot, op->ino, op->ino2, op->off, op->n, op->len, op->seed);
}

/* ---- the engine's messages ---- */

#define LOG_LINES 24
static char log_line[LOG_LINES][200];
static unsigned log_next;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep_line(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	(void)level;
	pthread_mutex_lock(&log_lock);
	snprintf(log_line[log_next++ % LOG_LINES], sizeof(log_line[0]), "%s", line);
	pthread_mutex_unlock(&log_lock);
}

void kv_log_quiet(void)
{
	err_set_sink(keep_line, NULL);
}

void kv_log_clear(void)
{
	log_next = 0;
}

void kv_log_print(FILE *f)
{
	for (unsigned i = log_next > LOG_LINES ? log_next - LOG_LINES : 0; i < log_next; i++)
		fprintf(f, "#   engine: %s\n", log_line[i % LOG_LINES]);
}

/* ---- reading what is there ---- */

static int read_data(struct view *view, const void *val, char *why, size_t cap)
{
	static _Thread_local _Alignas(BLOCK_SIZE) uint8_t buf[256 * BLOCK_SIZE];
	const struct kv_extent_val *v = val;
	uint32_t blocks = le32_get(v->blocks), bad;
	uint32_t sums[256];
	int err;

	if (kv_extent_is_claim(val))
		return 0;
	for (uint32_t i = 0; i < blocks; i++)
		sums[i] = le32_get(v->sums[i]);
	err = view_read(view, le64_get(v->addr), blocks, buf, sums);
	if (err) {
		snprintf(why, cap, "reading the data of tag %" PRIu64 " at block %" PRIu64 "+%u: error %d", le64_get(v->tag),
			 le64_get(v->addr), blocks, -err);
		return err;
	}
	if (!kv_data_right(val, buf, &bad)) {
		snprintf(why, cap, "wrong data: tag %" PRIu64 " at block %" PRIu64 "+%u, the %u. block", le64_get(v->tag),
			 le64_get(v->addr), blocks, bad);
		return -EPROTO;
	}
	return 0;
}

int kv_view_read(struct view *view, struct kvmap **ret, char *why, size_t cap)
{
	struct kvmap *m = kvmap_new();
	unsigned cookie = view_read_begin(view);
	struct key before = KEY_MIN, key;
	struct scan *scan = NULL;
	const void *val;
	size_t len;
	int err;

	/* Shared counts stand behind all items and are the store's own. */
	err = scan_open(view, KEY_MIN, key_make(KEY_INO_MAX, 0, 0), &scan);
	while (!err && !(err = scan_next(scan, &key, &val, &len))) {
		if (kvmap_count(m) && !key_less(before, key)) {
			snprintf(why, cap, "a scan went back to key %" PRIx64 "/%" PRIx64, key.obj, key.off);
			err = -EPROTO;
			break;
		}
		before = key;
		kvmap_put(&m, key, val, len);
		if (key_type(key) == KVT_EXTENT)
			err = read_data(view, val, why, cap);
	}
	scan_close(scan);
	view_read_end(view, cookie);
	if (err > 0)
		err = 0;
	if (err) {
		if (!*why)
			snprintf(why, cap, "reading a view: error %d", -err);
		kvmap_unref(m);
		return err;
	}
	*ret = m;
	return 0;
}

struct names {
	char name[WORLD_SNAPSHOTS_MAX][16];
	unsigned n;
};

static int note_name(void *arg, const struct snapshot_info *info)
{
	struct names *names = arg;

	if (info->dying || info->hidden)
		return 0;
	if (names->n == WORLD_SNAPSHOTS_MAX || strlen(info->name) >= sizeof(names->name[0]))
		return -EPROTO;
	memcpy(names->name[names->n++], info->name, strlen(info->name) + 1);
	return 0;
}

int kv_world_read(struct store *store, struct world *ret, char *why, size_t cap)
{
	struct world w = { 0 };
	struct names names = { 0 };
	int err;

	*why = 0;
	err = kv_view_read(store_live(store), &w.live, why, cap);
	if (!err) {
		err = snapshot_list(store, note_name, &names);
		if (err)
			snprintf(why, cap, "listing snapshots: error %d", -err);
	}
	for (unsigned i = 0; !err && i < names.n; i++) {
		struct kvmap *state = NULL;
		struct view *view = NULL;

		err = snapshot_open(store, names.name[i], &view);
		if (err)
			snprintf(why, cap, "opening snapshot %s: error %d", names.name[i], -err);
		else
			err = kv_view_read(view, &state, why, cap);
		view_close(view);
		if (!err)
			world_snapshot_add(&w, names.name[i], state);
		kvmap_unref(state);
	}
	for (unsigned i = 0; i < WORLD_COUNTERS; i++)
		w.counter[i] = store_counter(store, i);
	if (err)
		world_release(&w);
	else
		*ret = w;
	return err;
}

/* ---- the run ---- */

int kv_broken(struct kv_run *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!r->broken[0])
		vsnprintf(r->broken, sizeof(r->broken), fmt, ap);
	va_end(ap);
	return -EPROTO;
}

static struct kv_mark *mark(struct kv_run *r, size_t worlds)
{
	struct kv_mark *m;

	if (r->n_marks == r->cap_marks) {
		r->cap_marks = r->cap_marks * 2 + 16;
		r->marks = realloc(r->marks, r->cap_marks * sizeof(*r->marks));
		if (!r->marks)
			abort();
	}
	m = &r->marks[r->n_marks++];
	*m = (struct kv_mark){ simdev_ops(r->disk), r->model.durable, worlds };
	return m;
}

void kv_run_allowed(const struct kv_run *r, uint64_t ops, size_t *ret_lo, size_t *ret_hi)
{
	size_t i = r->n_marks;

	*ret_lo = 0;
	*ret_hi = 0;
	while (i-- > 0) {
		if (r->marks[i].ops > ops)
			continue;
		*ret_lo = r->marks[i].durable;
		*ret_hi = r->marks[i].worlds - 1;
		return;
	}
}

void kv_run_init(struct kv_run *r, struct simdev *disk, const struct store_options *opt, const struct world *start,
		 uint64_t seed)
{
	*r = (struct kv_run){ .disk = disk, .opt = *opt, .seed = seed, .next_tag = (seed << 24 | 1) & INT64_MAX };
	r->opt.records = &kv_records;
	model_init(&r->model, start);
}

static bool read_only_by_failure(struct kv_run *r)
{
	struct store_status st;

	store_status(r->store, &st);
	return st.error != 0;
}

static void no_doubt(struct kv_run *r)
{
	if (r->in_doubt)
		world_release(&r->doubt);
	r->in_doubt = false;
}

int kv_run_open(struct kv_run *r)
{
	int err;

	/* Another seed each time, as real ones would be; 0 means none. */
	r->opt.seed = rng_mix(r->seed, ++r->opens) | 1;
	err = store_open(simdev_bdev(r->disk), &r->opt, &r->store);
	if (err)
		r->store = NULL;
	return err;
}

static void end_txn(struct kv_txn *t)
{
	view_close(t->view);
	kvmap_unref(t->base);
	kvmap_unref(t->mine);
	*t = (struct kv_txn){ 0 };
}

static void end_frozen(struct kv_run *r, unsigned slot)
{
	view_close(r->frozen[slot].view);
	kvmap_unref(r->frozen[slot].state);
	r->frozen[slot].view = NULL;
	r->frozen[slot].state = NULL;
}

static void end_views(struct kv_run *r)
{
	for (unsigned i = 0; i < KV_TXNS; i++)
		if (r->txn[i].view)
			end_txn(&r->txn[i]);
	for (unsigned i = 0; i < KV_FROZEN; i++)
		if (r->frozen[i].view)
			end_frozen(r, i);
}

void kv_run_kill(struct kv_run *r)
{
	end_views(r);
	if (r->store)
		store_crash(r->store);
	r->store = NULL;
	bdev_close(simdev_bdev(r->disk));
}

void kv_run_release(struct kv_run *r)
{
	kv_run_kill(r);
	no_doubt(r);
	model_release(&r->model);
	free(r->marks);
	r->marks = NULL;
}

static int compare_view(struct kv_run *r, struct view *view, const struct kvmap *want, const char *name)
{
	struct kvmap *have = NULL;
	char why[200] = "";
	int err = kv_view_read(view, &have, why, sizeof(why));

	if (err)
		return kv_broken(r, "%s: %s", name, why);
	if (!kvmap_equal(have, want)) {
		kvmap_print_diff(stdout, "store", have, "model", want, 8);
		err = kv_broken(r, "%s is not what the model has", name);
	}
	kvmap_unref(have);
	return err;
}

static int compare_frozen(struct kv_run *r, unsigned slot)
{
	return compare_view(r, r->frozen[slot].view, r->frozen[slot].state, "a frozen view");
}

static int compare_txn(struct kv_run *r, struct kv_txn *t)
{
	size_t len;
	int err = view_get(t->view, KEY_MAX, NULL, 0, &len);

	/* The store may end a transaction when room is short. */
	if (err == -ESTALE) {
		r->killed++;
		end_txn(t);
		return 0;
	}
	return compare_view(r, t->view, t->mine, "a transaction");
}

int kv_run_compare(struct kv_run *r)
{
	struct world w;
	char why[200];
	int err = kv_world_read(r->store, &w, why, sizeof(why));

	if (err)
		return kv_broken(r, "%s", why);
	if (r->in_doubt && world_equal(&w, &r->doubt)) {
		struct world *next = model_next(&r->model);

		world_release(next);
		world_copy(next, &w);
		model_settle(&r->model);
	}
	no_doubt(r);
	if (!world_equal(&w, model_now(&r->model))) {
		world_print_diff(stdout, "store", &w, "model", model_now(&r->model));
		err = kv_broken(r, "the store is not what the model has");
	}
	world_release(&w);
	for (unsigned i = 0; !err && i < KV_TXNS; i++)
		if (r->txn[i].view)
			err = compare_txn(r, &r->txn[i]);
	for (unsigned i = 0; !err && i < KV_FROZEN; i++)
		if (r->frozen[i].view)
			err = compare_frozen(r, i);
	return err;
}

/* ---- what the store says of durability ---- */

/* What the log calls durable has to survive, whoever asked for it. */
static void settle_by_lsn(struct kv_run *r)
{
	struct store_status st;

	store_status(r->store, &st);
	for (size_t i = r->model.n; i-- > r->model.durable + 1;) {
		uint64_t lsn = r->model.world[i].lsn;

		if (lsn && lsn < st.lsn_durable) {
			r->model.durable = i;
			return;
		}
	}
}

/* ---- operations on the store as a whole ---- */

static int op_durable(struct kv_run *r, int err)
{
	if (!err)
		model_settle(&r->model);
	return err;
}

static bool snapshot_name(const struct kv_run *r, const struct kv_op *op, char *ret, size_t cap)
{
	const struct world *w = model_now(&r->model);

	if (op->action == KV_SNAP_CREATE) {
		for (unsigned i = op->slot ? op->slot : 1; i <= WORLD_SNAPSHOTS_MAX; i++) {
			snprintf(ret, cap, "s%u", i);
			if (world_snapshot_find(w, ret) < 0 && w->n_snapshots < WORLD_SNAPSHOTS_MAX)
				return true;
			if (op->slot)
				return false;
		}
		return false;
	}
	if (w->n_snapshots == 0)
		return false;
	if (op->slot == 0 || op->slot == 255)
		snprintf(ret, cap, "%s", w->snapshot[op->slot ? w->n_snapshots - 1 : 0].name);
	else
		snprintf(ret, cap, "s%u", op->slot);
	return world_snapshot_find(w, ret) >= 0;
}

/* A transaction must be told that live went elsewhere. */
static int expect_stale(struct kv_run *r)
{
	for (unsigned i = 0; i < KV_TXNS; i++) {
		size_t len;
		int err;

		if (!r->txn[i].view)
			continue;
		err = view_get(r->txn[i].view, KEY_MIN, NULL, 0, &len);
		if (err != -ESTALE)
			return kv_broken(r, "a transaction goes on after a rollback: result %d", err);
		end_txn(&r->txn[i]);
	}
	return 0;
}

static int op_snapshot(struct kv_run *r, const struct kv_op *op)
{
	char name[16];
	struct world *w;
	uint64_t id;
	int err, i;

	if (!snapshot_name(r, op, name, sizeof(name)))
		return 1;
	if (op->action == KV_SNAP_CREATE)
		err = snapshot_create(r->store, name, &id);
	else if (op->action == KV_SNAP_DELETE)
		err = snapshot_delete(r->store, name);
	else
		err = snapshot_rollback(r->store, name);
	/* After a failed write nobody knows: either world may be found later. */
	if (err && !read_only_by_failure(r)) {
		if (err != -EIO && err != -ENOMEM)
			return err;
		no_doubt(r);
		r->in_doubt = true;
		world_copy(&r->doubt, model_now(&r->model));
		w = &r->doubt;
	} else {
		w = model_next(&r->model);
	}
	w->lsn = 0;
	i = world_snapshot_find(w, name);
	if (op->action == KV_SNAP_CREATE) {
		world_snapshot_add(w, name, w->live);
		for (unsigned t = 0; t < KV_TXNS; t++)
			r->txn[t].snapshot_since = true;
	} else if (op->action == KV_SNAP_DELETE) {
		world_snapshot_del(w, (unsigned)i);
	} else {
		kvmap_unref(w->live);
		w->live = kvmap_ref(w->snapshot[i].state);
	}
	if (err)
		return err;
	model_settle(&r->model);
	return op->action == KV_SNAP_ROLLBACK ? expect_stale(r) : 0;
}

static int op_txn_begin(struct kv_run *r, const struct kv_op *op)
{
	struct kv_txn *t = &r->txn[op->slot];
	int err;

	if (t->view)
		return 1;
	err = txn_begin(r->store, &t->view);
	if (err) {
		t->view = NULL;
		return err;
	}
	t->base = kvmap_ref(model_now(&r->model)->live);
	t->mine = kvmap_ref(t->base);
	t->snapshot_since = false;
	return 0;
}

static int op_txn_commit(struct kv_run *r, const struct kv_op *op)
{
	struct kv_txn *t = &r->txn[op->slot];
	struct txn_commit_options opt = { .no_sync = op->n != 0 };
	uint64_t reads[2] = { op->ino, op->ino + 1u };
	struct kvmap *result;
	enum kv_verdict verdict;
	struct world *w;
	int err;

	if (!t->view)
		return 1;
	if (op->len) {
		opt.reads = reads;
		opt.n_reads = 2;
	}
	verdict = kvmap_merge(t->base, t->mine, model_now(&r->model)->live, opt.reads, opt.n_reads, t->snapshot_since,
			      &result);
	err = txn_commit(t->view, &merge_by_key, NULL, &opt);
	if (err == -ESTALE) {
		r->killed++;
		end_txn(t);
		kvmap_unref(result);
		return 1;
	}
	if ((err == 0 && verdict == KV_CONFLICT) || (err == -ETXNCONFLICT && verdict == KV_TAKEN)) {
		kvmap_print_diff(stdout, "base", t->base, "transaction", t->mine, 20);
		kvmap_print_diff(stdout, "base", t->base, "live", model_now(&r->model)->live, 20);
	}
	if (err == 0 && verdict == KV_CONFLICT) {
		kvmap_unref(result);
		return kv_broken(r, "a conflicting transaction was committed");
	}
	if (err == -ETXNCONFLICT) {
		kvmap_unref(result);
		if (verdict == KV_TAKEN)
			return kv_broken(r, "a transaction without a conflict was refused");
		err = compare_txn(r, t);
		if (!err && t->view)
			end_txn(t);
		return err ? err : 1;
	}
	if ((err && !read_only_by_failure(r)) || !result) {
		kvmap_unref(result);
		return err;
	}
	w = model_next(&r->model);
	w->lsn = 0;
	kvmap_unref(w->live);
	w->live = result;
	if (err)
		return err;
	/* A commit that changes nothing is no operation of live's, and promises nothing for those before. */
	if (!opt.no_sync && !kvmap_equal(w->live, r->model.world[r->model.n - 2].live))
		model_settle(&r->model);
	end_txn(t);
	return 0;
}

static int op_txn_abort(struct kv_run *r, const struct kv_op *op)
{
	struct kv_txn *t = &r->txn[op->slot];

	if (!t->view)
		return 1;
	end_txn(t);
	return 0;
}

static int op_freeze(struct kv_run *r, const struct kv_op *op)
{
	int err;

	if (r->frozen[op->slot].view)
		return 1;
	err = view_freeze(r->store, &r->frozen[op->slot].view);
	if (err) {
		r->frozen[op->slot].view = NULL;
		return err;
	}
	r->frozen[op->slot].state = kvmap_ref(model_now(&r->model)->live);
	return 0;
}

static int op_thaw(struct kv_run *r, const struct kv_op *op)
{
	int err;

	if (!r->frozen[op->slot].view)
		return 1;
	err = compare_frozen(r, op->slot);
	end_frozen(r, op->slot);
	return err;
}

static int op_reopen(struct kv_run *r)
{
	int err;

	end_views(r);
	err = store_close(r->store);
	r->store = NULL;
	bdev_close(simdev_bdev(r->disk));
	if (err)
		return err;
	model_settle(&r->model);
	if (r->marking)
		mark(r, r->model.n);
	return kv_run_open(r);
}

/* What the disk still knows decides where the run goes on. */
static int op_kill(struct kv_run *r)
{
	struct world w;
	char why[200];
	long i;
	int err;

	kv_run_kill(r);
	err = kv_run_open(r);
	if (err)
		return err;
	err = kv_world_read(r->store, &w, why, sizeof(why));
	if (err)
		return kv_broken(r, "after a kill: %s", why);
	i = model_match(&r->model, &w, r->model.durable, r->model.n - 1);
	if (i < 0) {
		world_print_diff(stdout, "store", &w, "newest world", model_now(&r->model));
		err = kv_broken(r, "after a kill the store is in none of the allowed worlds");
	} else if ((size_t)i != r->model.n - 1) {
		struct world *next = model_next(&r->model);

		world_release(next);
		world_copy(next, &r->model.world[i]);
		next->lsn = 0;
	}
	world_release(&w);
	if (!err)
		model_settle(&r->model);
	return err;
}

static int op_check(struct kv_run *r)
{
	struct check_result res = { 0 };
	int err = store_check(r->store, &res);

	if (err == -EUCLEAN || res.errors)
		return kv_broken(r, "the check finds %" PRIu64 " errors", res.errors);
	if (err)
		return err;
	model_settle(&r->model);
	return kv_run_compare(r);
}

/* Whether it brings a new world. */
static bool changes_world(const struct kv_op *op)
{
	switch (op->action) {
	case KV_SNAP_CREATE:
	case KV_SNAP_DELETE:
	case KV_SNAP_ROLLBACK:
	case KV_TXN_COMMIT:
		return true;
	default:
		return op->action < KV_SYNC && op->view == 0;
	}
}

static int dispatch(struct kv_run *r, const struct kv_op *op)
{
	switch ((enum kv_action)op->action) {
	case KV_SYNC:
		return op_durable(r, store_sync(r->store));
	case KV_TICK:
		return op_durable(r, store_tick(r->store));
	case KV_CHECKPOINT:
		return op_durable(r, store_checkpoint(r->store));
	case KV_SNAP_CREATE:
	case KV_SNAP_DELETE:
	case KV_SNAP_ROLLBACK:
		return op_snapshot(r, op);
	case KV_TXN_BEGIN:
		return op_txn_begin(r, op);
	case KV_TXN_COMMIT:
		return op_txn_commit(r, op);
	case KV_TXN_ABORT:
		return op_txn_abort(r, op);
	case KV_FREEZE:
		return op_freeze(r, op);
	case KV_THAW:
		return op_thaw(r, op);
	case KV_REOPEN:
		return op_reopen(r);
	case KV_KILL:
		return op_kill(r);
	case KV_CHECK:
		return op_check(r);
	default:
		return kv_batch_op(r, op);
	}
}

int kv_run_op(struct kv_run *r, const struct kv_op *op)
{
	size_t n = r->model.n, at = r->n_marks;
	int err;

	if (op->view && !r->txn[op->view - 1].view)
		return 1;
	if (r->marking)
		mark(r, n + changes_world(op));
	err = dispatch(r, op);
	if (err == -ESTALE && op->view) {
		r->killed++;
		end_txn(&r->txn[op->view - 1]);
		err = 1;
	}
	if (!r->marking || err == -EPROTO)
		return err;
	if (r->model.n == n)
		r->marks[at].worlds = n;
	if (!err && r->store)
		settle_by_lsn(r);
	mark(r, r->model.n);
	return err;
}

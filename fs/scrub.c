/*
 * scrub.c - the scrub's thread, where it is, and how fast it may go
 *
 * A pass goes through the store in steps (store_scrub_view): each opens a view, walks nodes from where the last one ended,
 * notes the extents of the leaves it passes, and when enough data has come together, or a few seconds have passed, stops
 * walking, reads and compares that data, and lets the view go. While the view is open nothing it refers to is handed out again,
 * so what does not verify is damage and never a block that was freed and used anew; and because it is open for a moment
 * only, a scrub that takes days holds back no space. What live changes meanwhile in front of the scrub is seen as it is then;
 * what it changes behind was written, and verified, just now.
 *
 * Where somebody finds no room meanwhile, what the view pins may be what he lacks (store_scrub_wanted): then the view is closed
 * after the next transfer, and the step made again with a new one, but for the data that it has verified.
 *
 * The pace is a bucket without depth: each transfer moves the time at which the next one may begin. It is waited for with
 * nothing held but the view; stopping is waking.
 *
 * Findings are kept by inode numbers and get their paths at the end of each view: an inode does not know its names, so
 * finding them means a pass over all of them, which is worth it once and not for every block.
 *
 * Nothing here is durable: a scrub that was interrupted by the end of the mount begins again, or where the caller says.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "fs/scrub_int.h"

#define CHUNK_NS UINT64_C(3000000000) /* a view is kept open for so long, then the data is read */
#define CHUNK_BLOCKS_MIN 256u	      /* of data; what one leaf names may be more */
#define CHUNK_BLOCKS_MAX 8192u
#define SLICE_NS UINT64_C(20000000)

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t wall_ns(struct fs *fs)
{
	struct timespec t;

	fs_now(fs, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const char *scrub_state_name(enum scrub_state state)
{
	static const char *const names[] = {
		[SCRUB_NONE] = "none", [SCRUB_RUNNING] = "running", [SCRUB_STOPPED] = "stopped",
		[SCRUB_DONE] = "done", [SCRUB_FAILED] = "failed",
	};

	return names[state];
}

/* ---- the pace ---- */

void scrub_count(struct scrub *sc, uint64_t *counter, uint64_t n)
{
	pthread_mutex_lock(&sc->lock);
	*counter += n;
	pthread_mutex_unlock(&sc->lock);
}

/* Somebody lacks what the open view pins. */
static bool wanted(struct scrub *sc)
{
	return sc->viewing && store_scrub_wanted(sc->fs->store);
}

int scrub_pace(void *arg, uint64_t bytes)
{
	struct scrub *sc = arg;
	uint64_t now = now_ns();
	int err;

	if (sc->due_ns < now)
		sc->due_ns = now;
	pthread_mutex_lock(&sc->lock);
	/* In slices: nobody wakes it where its view is wanted. Then what has to be read before it is let go is read at once, and
	 * paid for with no view open. */
	for (; !sc->stop && !wanted(sc) && now < sc->due_ns; now = now_ns()) {
		uint64_t at = sc->due_ns < now + SLICE_NS ? sc->due_ns : now + SLICE_NS;
		struct timespec until = { (time_t)(at / 1000000000u), (long)(at % 1000000000u) };

		(void)pthread_cond_timedwait(&sc->wake, &sc->lock, &until);
	}
	err = sc->stop ? -ECANCELED : sc->may_yield && wanted(sc) ? -EAGAIN : 0;
	if (!err) {
		sc->st.bytes += bytes;
		if (sc->st.bytes_total < sc->st.bytes)
			sc->st.bytes_total = sc->st.bytes;
	}
	pthread_mutex_unlock(&sc->lock);
	if (!err && sc->opt.rate)
		sc->due_ns += (uint64_t)((double)bytes * 1e9 / (double)sc->opt.rate);
	return err;
}

/* ---- what is found ---- */

int scrub_find_add(struct scrub *sc, const struct scrub_find *f)
{
	if (sc->n_finds >= SCRUB_BAD_MAX)
		return 0;
	if (mem_grow((void **)&sc->finds, &sc->cap_finds, sc->n_finds + 1, sizeof(*sc->finds)))
		return -ENOMEM;
	sc->finds[sc->n_finds++] = *f;
	return 0;
}

void scrub_line_add(struct scrub *sc, char *line)
{
	pthread_mutex_lock(&sc->lock);
	if (line && sc->n_lines < SCRUB_BAD_MAX &&
	    !mem_grow((void **)&sc->lines, &sc->cap_lines, sc->n_lines + 1, sizeof(*sc->lines))) {
		sc->lines[sc->n_lines++] = line;
		line = NULL;
	}
	pthread_mutex_unlock(&sc->lock);
	mem_free(line);
}

static void lines_free(struct scrub *sc)
{
	for (size_t i = 0; i < sc->n_lines; i++)
		mem_free(sc->lines[i]);
	sc->n_lines = 0;
}

static void on_found(void *arg, const struct store_scrub_finding *f)
{
	struct scrub *sc = arg;
	bool node = f->kind == STORE_SCRUB_NODE;

	pthread_mutex_lock(&sc->lock);
	*(node ? &sc->st.nodes_bad : &sc->st.pages_bad) += 1;
	*(node ? &sc->st.nodes_mended : &sc->st.pages_mended) += f->mended;
	/* A node whose copies are all bad is told once for each. */
	if (node && f->lost && !f->copy)
		sc->st.nodes_lost++;
	pthread_mutex_unlock(&sc->lock);
	if (node && f->lost && !f->copy && strcmp(f->view, "system")) {
		/* An inode whose first item is what comes next has lost nothing. */
		bool before = key_type(f->to) <= FS_ITEM_INODE && f->to.off == 0 && key_ino(f->to) > key_ino(f->from);
		uint64_t hi = key_ino(f->to) - before;
		struct scrub_find find = { .lo = key_ino(f->from), .hi = hi < FS_INO_MAX ? hi : FS_INO_MAX };

		find.addr = f->addr;
		(void)scrub_find_add(sc, &find);
	}
}

/* ---- a pass ---- */

static int on_item(void *arg, struct key key, const void *val, size_t len)
{
	(void)len;
	return scrub_chunk_item(arg, key, val);
}

static int on_leaf(void *arg, struct key next)
{
	struct scrub *sc = arg;

	pthread_mutex_lock(&sc->lock);
	sc->next = next;
	pthread_mutex_unlock(&sc->lock);
	return sc->chunk.n_sums >= sc->chunk_blocks || now_ns() > sc->chunk_until || wanted(sc);
}

static void note_nodes(struct scrub *sc, const struct store_scrub_result *r)
{
	scrub_count(sc, &sc->st.nodes, r->nodes);
	scrub_count(sc, &sc->st.pages, r->pages + r->supers);
}

static void go_to(struct scrub *sc, uint64_t view, uint64_t born_after, struct key next)
{
	pthread_mutex_lock(&sc->lock);
	sc->view = view;
	sc->born_after = born_after;
	sc->next = next;
	pthread_mutex_unlock(&sc->lock);
}

/* The step was not finished and will be made again. What data was verified in it is known (scrub_chunk.done); of nodes only what was
 * mended. */
static void step_back(struct scrub *sc, const struct scrub_status *was, struct key from, size_t n_finds)
{
	size_t n = n_finds;

	for (size_t i = n_finds; i < sc->n_finds; i++)
		if (sc->finds[i].blocks)
			sc->finds[n++] = sc->finds[i];
	sc->n_finds = n;
	pthread_mutex_lock(&sc->lock);
	sc->next = from;
	sc->st.nodes_bad = was->nodes_bad + (sc->st.nodes_mended - was->nodes_mended);
	sc->st.nodes_lost = was->nodes_lost;
	pthread_mutex_unlock(&sc->lock);
}

/* Some nodes of the view and their data. As store_scrub_view; -EAGAIN: the view is wanted, begin again. */
static int look(struct scrub *sc, struct store_scrub_view *v, const struct store_scrub_ops *ops)
{
	struct store_scrub_result r = { 0 };
	struct scrub_status was;
	struct key from;
	size_t n_finds;
	int err, more;

	if (v->id != sc->view) { /* the snapshot is not there any more, or this is the first */
		go_to(sc, v->id, v->born_after, KEY_MIN);
		sc->chunk.n_done = sc->n_finds = 0;
	} else if (key_equal(sc->next, KEY_MIN)) {
		sc->born_after = v->born_after;
	} else {
		v->born_after = sc->born_after; /* of live this rises with each snapshot, which comes behind us */
	}
	from = sc->next;
	n_finds = sc->n_finds;
	scrub_status(sc->fs, &was);
	sc->chunk_until = now_ns() + CHUNK_NS;
	more = store_scrub_view(sc->fs->store, v, from, ops, &r);
	note_nodes(sc, &r);
	err = more < 0 ? more : scrub_chunk_verify(sc, v->view);
	sc->chunk.n_runs = sc->chunk.n_sums = 0;
	if (!err)
		sc->chunk.n_done = 0;
	else
		step_back(sc, &was, from, n_finds);
	if (err != -EAGAIN && (err || !more)) {
		int told = scrub_tell(sc, v, err);

		err = err ? err : told;
	}
	return err ? err : more;
}

/* > 0: that was the last of all. */
static int step(struct scrub *sc, const struct store_scrub_ops *ops)
{
	struct store_scrub_view v;
	int err;

	err = scrub_pace(sc, 0);
	if (!err)
		err = store_scrub_open(sc->fs->store, sc->view, &v);
	if (err)
		return err;
	sc->viewing = true;
	sc->may_yield = false;
	err = look(sc, &v, ops);
	sc->viewing = sc->may_yield = false;
	store_scrub_close(sc->fs->store, &v);
	if (err)
		return err < 0 && err != -EAGAIN ? err : 0;
	if (v.id == STORE_SCRUB_LIVE)
		return 1;
	go_to(sc, v.id + 1, 0, KEY_MIN);
	return 0;
}

static int pass(struct scrub *sc)
{
	const struct store_scrub_ops ops = {
		.pace = scrub_pace, .item = on_item, .leaf = on_leaf, .found = on_found, .arg = sc
	};
	struct store_scrub_result r = { 0 };
	int err = 0;

	if (!sc->fixed_done) {
		err = store_scrub_fixed(sc->fs->store, &ops, &r);
		note_nodes(sc, &r);
		sc->fixed_done = !err;
	}
	while (!err)
		err = step(sc, &ops);
	return err < 0 ? err : 0;
}

static void *run(void *arg)
{
	struct scrub *sc = arg;
	int err = pass(sc);

	pthread_mutex_lock(&sc->lock);
	sc->st.state = !err ? SCRUB_DONE : err == -ECANCELED ? SCRUB_STOPPED : SCRUB_FAILED;
	sc->st.err = err == -ECANCELED ? 0 : err;
	sc->st.ended_ns = wall_ns(sc->fs);
	if (!err) {
		sc->st.bytes_total = sc->st.bytes;
		sc->fixed_done = false;
		sc->view = 1;
		sc->next = KEY_MIN;
	}
	pthread_mutex_unlock(&sc->lock);
	if (err && err != -ECANCELED)
		err_log(LOG_ERROR, "scrub: cannot go on: %s", strerror(-err));
	return NULL;
}

/* ---- starting and stopping ---- */

static void set_up(struct scrub *sc, const struct scrub_options *o)
{
	size_t blocks = o->rate ? (size_t)(o->rate / BLOCK_SIZE) : CHUNK_BLOCKS_MAX;
	struct store_status ss;
	uint64_t empty;

	store_status(sc->fs->store, &ss);
	empty = ss.blocks_free + ss.blocks_pooled;
	pthread_mutex_lock(&sc->lock);
	if (!o->resume || sc->st.state == SCRUB_NONE || sc->st.state == SCRUB_DONE) {
		lines_free(sc);
		sc->st = (struct scrub_status){ .started_ns = wall_ns(sc->fs) };
		sc->fixed_done = o->from_ino > 0;
		sc->view = o->from_ino ? STORE_SCRUB_LIVE : 1;
		sc->next = o->from_ino ? key_make(o->from_ino, 0, 0) : KEY_MIN;
		sc->born_after = 0;
		sc->n_finds = 0;
		sc->chunk.n_done = 0;
	}
	sc->st.bytes_total = ss.blocks_usable > empty ? (ss.blocks_usable - empty) * BLOCK_SIZE : 0;
	sc->st.rate = o->rate;
	sc->st.state = SCRUB_RUNNING;
	sc->st.ended_ns = 0;
	sc->st.err = 0;
	sc->stop = false;
	sc->opt = *o;
	sc->due_ns = 0;
	sc->chunk_blocks = blocks < CHUNK_BLOCKS_MIN   ? CHUNK_BLOCKS_MIN
			   : blocks > CHUNK_BLOCKS_MAX ? CHUNK_BLOCKS_MAX
						       : blocks;
	pthread_mutex_unlock(&sc->lock);
}

static void join(struct scrub *sc)
{
	if (sc->joinable)
		pthread_join(sc->thread, NULL);
	sc->joinable = false;
}

static bool is_running(struct scrub *sc)
{
	bool running;

	pthread_mutex_lock(&sc->lock);
	running = sc->st.state == SCRUB_RUNNING;
	pthread_mutex_unlock(&sc->lock);
	return running;
}

int scrub_start(struct fs *fs, const struct scrub_options *o)
{
	struct scrub *sc = fs->scrub;
	int err = 0;

	pthread_mutex_lock(&sc->control);
	if (is_running(sc)) {
		pthread_mutex_unlock(&sc->control);
		return -EBUSY;
	}
	join(sc);
	set_up(sc, o);
	if (fs->opt.no_threads) {
		run(sc);
	} else {
		err = -pthread_create(&sc->thread, NULL, run, sc);
		sc->joinable = !err;
	}
	if (err) {
		pthread_mutex_lock(&sc->lock);
		sc->st.state = SCRUB_FAILED;
		sc->st.err = err;
		pthread_mutex_unlock(&sc->lock);
	}
	pthread_mutex_unlock(&sc->control);
	return err;
}

int scrub_stop(struct fs *fs)
{
	struct scrub *sc = fs->scrub;

	pthread_mutex_lock(&sc->control);
	pthread_mutex_lock(&sc->lock);
	sc->stop = true;
	pthread_cond_broadcast(&sc->wake);
	pthread_mutex_unlock(&sc->lock);
	join(sc);
	pthread_mutex_unlock(&sc->control);
	return 0;
}

void scrub_status(struct fs *fs, struct scrub_status *ret)
{
	struct scrub *sc = fs->scrub;

	pthread_mutex_lock(&sc->lock);
	*ret = sc->st;
	ret->next_ino = key_ino(sc->next);
	pthread_mutex_unlock(&sc->lock);
}

int scrub_bad(struct fs *fs, int (*each)(void *arg, const char *line), void *arg)
{
	struct scrub *sc = fs->scrub;
	int err = 0;

	pthread_mutex_lock(&sc->lock);
	for (size_t i = 0; !err && i < sc->n_lines; i++)
		err = each(arg, sc->lines[i]);
	pthread_mutex_unlock(&sc->lock);
	return err;
}

/* ---- mounting and unmounting ---- */

int scrub_open(struct fs *fs)
{
	struct scrub *sc = mem_zalloc(sizeof(*sc));
	pthread_condattr_t attr;

	if (!sc)
		return -ENOMEM;
	sc->fs = fs;
	sc->view = 1;
	pthread_mutex_init(&sc->control, NULL);
	pthread_mutex_init(&sc->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&sc->wake, &attr);
	pthread_condattr_destroy(&attr);
	fs->scrub = sc;
	return 0;
}

void scrub_close(struct fs *fs)
{
	struct scrub *sc = fs->scrub;

	if (!sc)
		return;
	scrub_stop(fs);
	lines_free(sc);
	mem_free(sc->lines);
	mem_free(sc->finds);
	scrub_chunk_release(&sc->chunk);
	pthread_cond_destroy(&sc->wake);
	pthread_mutex_destroy(&sc->lock);
	pthread_mutex_destroy(&sc->control);
	mem_free(sc);
	fs->scrub = NULL;
}

/*
 * data_io.c - writing data home: jobs, completions, waiting, the flush
 *
 * The idea and the invariants are in data.c.
 */
#include "wal/data_int.h"

/* --- completions, the lock --- */

static void write_done(struct bio *bio)
{
	struct job *j = bio->arg;
	struct job *head = atomic_load_explicit(&j->data->completed, memory_order_relaxed);

	do
		j->next = head;
	while (!atomic_compare_exchange_weak_explicit(&j->data->completed, &head, j, memory_order_release,
						      memory_order_relaxed));
}

void data_jobs_init(struct data *d)
{
	for (unsigned i = 0; i < JOBS; i++) {
		struct job *j = &d->jobs[i];

		j->data = d;
		bio_group_init(&j->group);
		j->bio.group = &j->group;
		j->bio.done = write_done;
		j->bio.arg = j;
	}
}

/* Every part of r has been in a job, and all of them are back. */
static void run_complete(struct data *d, struct data_run *r)
{
	if (r->waited) {
		LIST_REMOVE(r, seal_link);
		r->waited = false;
	}
	if (r->failed) {
		/* Its bytes may be nowhere but here. */
		r->state = RUN_FAILED;
	} else {
		r->state = RUN_WRITTEN;
		r->serial = ++d->serial;
		TAILQ_INSERT_TAIL(&d->written, r, state_link);
		data_run_buffer_free(d, r);
	}
	if (r->live == 0)
		data_run_forget(d, r);
}

static void job_complete(struct data *d, struct job *j)
{
	if (j->bio.err && !d->err)
		d->err = j->bio.err;
	for (int i = 0; i < j->bio.iovcnt; i++) {
		struct data_run *r = j->runs[i];

		if (j->bio.err)
			r->failed = true;
		else
			d->written_home += j->iov[i].iov_len / BLOCK_SIZE;
		if (--r->jobs)
			continue;
		if (r->state == RUN_INFLIGHT)
			run_complete(d, r);
		else
			data_run_forget_if_dead(d, r);
	}
	j->busy = false;
	d->n_busy--;
}

void data_lock(struct data *d)
{
	struct job *j;

	pthread_mutex_lock(&d->lock);
	if (!atomic_load_explicit(&d->completed, memory_order_relaxed))
		return;
	j = atomic_exchange_explicit(&d->completed, NULL, memory_order_acquire);
	while (j) {
		struct job *next = j->next;

		job_complete(d, j);
		j = next;
	}
}

/* Also where the owner learns of a failure. */
void data_unlock(struct data *d)
{
	int err = d->told ? 0 : d->err;

	if (err)
		d->told = true;
	pthread_mutex_unlock(&d->lock);
	if (err) {
		err_log(LOG_ERROR, "%s: writing file data failed with error %d", d->bdev->name, -err);
		if (d->failed)
			d->failed(d->arg, err);
	}
}

/* --- writing --- */

void data_enqueue(struct data *d, struct data_run *r)
{
	assert(r->state == RUN_DIRTY);
	RB_REMOVE(data_dirty, &d->dirty, r);
	if (r->fresh)
		d->n_fresh_dirty -= r->live;
	r->state = RUN_QUEUED;
	r->serial = ++d->serial;
	TAILQ_INSERT_TAIL(&d->queue, r, state_link);
}

/* The next blocks of r that are to be written: from cursor up to the result; cursor == result: no more. */
static uint32_t next_piece(struct data_run *r)
{
	uint32_t end;

	while (r->cursor < r->blocks && set_has(&r->skip, r->cursor))
		r->cursor++;
	for (end = r->cursor; end < r->blocks && !set_has(&r->skip, end);)
		end++;
	return end;
}

/* Takes as much of the queue's head as lies together. NULL: nothing to do, or no job left to do it with. */
static struct job *form_job(struct data *d)
{
	struct job *j = NULL;
	uint64_t end_addr = 0;
	uint32_t blocks = 0;
	int n = 0;

	if (d->err || d->n_busy == JOBS)
		return NULL;
	for (unsigned i = 0; !j; i++)
		j = d->jobs[i].busy ? NULL : &d->jobs[i];
	for (struct data_run *r; n < (int)JOB_PIECES && (r = TAILQ_FIRST(&d->queue));) {
		uint32_t end = next_piece(r), from = r->cursor;

		if (from < end) {
			if (n && (r->addr + from != end_addr || blocks + (end - from) > JOB_BLOCKS_MAX))
				break;
			if (n == 0)
				j->first = r->serial;
			j->runs[n] = r;
			j->iov[n].iov_base = r->buf + (size_t)from * BLOCK_SIZE;
			j->iov[n++].iov_len = (size_t)(end - from) * BLOCK_SIZE;
			blocks += end - from;
			end_addr = r->addr + end;
			r->jobs++;
			r->cursor = end;
		}
		if (next_piece(r) > r->cursor)
			break; /* a hole, then more of the same run: another job */
		TAILQ_REMOVE(&d->queue, r, state_link);
		r->state = RUN_INFLIGHT;
		if (r->jobs == 0)
			run_complete(d, r);
	}
	if (n == 0)
		return NULL;
	j->bio.op = BIO_WRITE;
	j->bio.addr = end_addr - blocks;
	j->bio.iov = j->iov;
	j->bio.iovcnt = n;
	j->busy = true;
	j->serial = ++d->serial;
	d->n_busy++;
	return j;
}

/*
 * Starts what the queue holds as far as jobs reach. With the lock held, which is let go meanwhile. `patient` is for
 * those who may wait while another thread submits; for others that thread, or the next one who waits, does it.
 */
void data_pump(struct data *d, bool patient)
{
	struct bio *bios[JOBS];
	struct job *j;

	if (TAILQ_EMPTY(&d->queue) || d->n_busy == JOBS || d->err)
		return;
	if (patient) {
		pthread_mutex_unlock(&d->lock);
		pthread_mutex_lock(&d->io);
		data_lock(d);
	} else if (pthread_mutex_trylock(&d->io)) {
		return;
	}
	for (;;) {
		unsigned n = 0;

		while ((j = form_job(d)))
			bios[n++] = &j->bio;
		if (n == 0)
			break;
		pthread_mutex_unlock(&d->lock);
		bdev_submit(d->bdev, bios, n);
		data_lock(d);
	}
	pthread_mutex_unlock(&d->io);
}

/* Waits, with the lock let go meanwhile, until job j is done; others may be too, and j may be at something new. */
void data_wait_job(struct data *d, struct job *j)
{
	pthread_mutex_unlock(&d->lock);
	/* Whoever formed it may not have submitted it yet. */
	pthread_mutex_lock(&d->io);
	pthread_mutex_unlock(&d->io);
	bdev_wait(d->bdev, &j->group);
	data_lock(d);
}

/* Waits until something comes back. False: nothing is on its way. */
bool data_wait_oldest(struct data *d)
{
	struct job *oldest = NULL;

	data_pump(d, true);
	for (unsigned i = 0; i < JOBS; i++)
		if (d->jobs[i].busy && (!oldest || d->jobs[i].serial < oldest->serial))
			oldest = &d->jobs[i];
	if (oldest)
		data_wait_job(d, oldest);
	return oldest;
}

void data_enqueue_dirty(struct data *d, unsigned which)
{
	struct data_run *r, *next;

	RB_FOREACH_SAFE(r, data_dirty, &d->dirty, next)
		if (which & (r->attached ? DATA_ATTACHED : DATA_PRIVATE))
			data_enqueue(d, r);
}

void data_write_home(struct data *d, unsigned which)
{
	data_lock(d);
	if (!d->err)
		data_enqueue_dirty(d, which);
	data_pump(d, true);
	data_unlock(d);
}

/* With the lock held: has every write enqueued up to `serial` come back? If not, waits a little. */
static bool written_up_to(struct data *d, uint64_t serial)
{
	struct data_run *head;

	data_pump(d, true);
	for (unsigned i = 0; i < JOBS; i++) {
		if (d->jobs[i].busy && d->jobs[i].first <= serial) {
			data_wait_job(d, &d->jobs[i]);
			return false;
		}
	}
	head = TAILQ_FIRST(&d->queue);
	if (d->err || !head || head->serial > serial)
		return true;
	data_wait_oldest(d);
	return false;
}

int data_wait(struct data *d)
{
	uint64_t serial;
	int err;

	data_lock(d);
	serial = d->serial;
	while (!written_up_to(d, serial))
		;
	err = d->err;
	data_unlock(d);
	return err;
}

/* --- flushing --- */

/* A flush has covered r. */
static void run_cover(struct data *d, struct data_run *r)
{
	assert(r->state == RUN_WRITTEN);
	if (!r->held) {
		data_run_forget(d, r);
		return;
	}
	TAILQ_REMOVE(&d->written, r, state_link);
	r->state = RUN_COVERED;
}

int data_flush(struct data *d)
{
	uint64_t ticket;
	int err;

	data_lock(d);
	/* A flush that has begun already may have begun too early for what this caller wrote. */
	ticket = d->flushes_begun + 1;
	while (d->flushes_done < ticket && !d->err) {
		struct data_run *r;
		uint64_t mark;

		if (d->flushing) {
			pthread_cond_wait(&d->flushed, &d->lock);
			continue;
		}
		d->flushing = true;
		d->flushes_begun++;
		mark = d->serial;
		pthread_mutex_unlock(&d->lock);
		err = bdev_flush(d->bdev);
		data_lock(d);
		d->flushing = false;
		if (err && !d->err)
			d->err = err;
		if (!err) {
			d->flushes_done = d->flushes_begun;
			while ((r = TAILQ_FIRST(&d->written)) && r->serial <= mark)
				run_cover(d, r);
		}
		pthread_cond_broadcast(&d->flushed);
	}
	err = d->err;
	data_unlock(d);
	return err;
}

/*
 * data_int.h - what data.c (runs: put, attach, drop, read, seal) and data_io.c (jobs: write, wait, flush) share
 *
 * The idea and the invariants are in data.c.
 */
#ifndef ARBOR_WAL_DATA_INT_H
#define ARBOR_WAL_DATA_INT_H

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include <bsd/sys/tree.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "wal/data.h"

#define CHUNK_SHIFT 4
#define CHUNK_BLOCKS (1u << CHUNK_SHIFT)
#define JOBS 32u
#define JOB_PIECES 64u
#define JOB_BLOCKS_MAX 256u
#define MEMORY_MAX_DEFAULT ((size_t)32 << 20)

enum run_state { RUN_DIRTY, RUN_QUEUED, RUN_INFLIGHT, RUN_WRITTEN, RUN_COVERED, RUN_FAILED };

struct chunk_node {
	LIST_ENTRY(chunk_node) link;
	struct data_run *run;
	uint64_t chunk;
};
LIST_HEAD(chunk_chain, chunk_node);

typedef struct {
	uint64_t w[DATA_RUN_BLOCKS_MAX / 64];
} block_set;

/* All of it is guarded by data.lock, but for what a pin or the state INFLIGHT keeps still: buf, addr, blocks, sums. */
struct data_run {
	uint64_t addr;
	uint32_t blocks;
	uint32_t live;
	enum run_state state;
	bool attached;
	bool held;   /* the owner has the handle: not attached, not disowned */
	bool fresh;  /* in data.fresh */
	bool rides;  /* in data.ridden: a log segment holds the only durable copy */
	bool listed; /* in a seal's list: must be written, dropped or not */
	bool gone;   /* unlinked; freed with the last pin */
	bool waited; /* in data_seal.waiting */
	bool failed;
	unsigned pins;
	unsigned jobs;	 /* in flight */
	uint32_t cursor; /* first block not in a job so far */
	uint64_t serial; /* of the put; of the enqueue once QUEUED; of the completion once WRITTEN */
	uint64_t tag;	 /* of the seal it rode in */
	uint8_t *buf;
	block_set dead; /* dropped */
	block_set skip; /* never to be written */

	RB_ENTRY(data_run) dirty_link;
	TAILQ_ENTRY(data_run) state_link; /* queue, written */
	TAILQ_ENTRY(data_run) fresh_link;
	TAILQ_ENTRY(data_run) ridden_link;
	LIST_ENTRY(data_run) seal_link; /* data_seal.waiting: listed and not complete */
	LIST_ENTRY(data_run) all_link;

	struct chunk_node *nodes;
	uint32_t n_nodes;
	uint32_t sums[];
};
TAILQ_HEAD(run_queue, data_run);
RB_HEAD(data_dirty, data_run);

struct job {
	struct bio bio;
	struct bio_group group;
	struct data *data;
	struct job *next; /* in data.completed */
	bool busy;
	uint64_t serial;
	uint64_t first; /* the enqueue serial of its first run */
	struct data_run *runs[JOB_PIECES];
	struct iovec iov[JOB_PIECES];
};

struct data {
	struct bdev *bdev;
	size_t memory_max;
	void (*failed)(void *arg, int err);
	void *arg;

	struct job *_Atomic completed;
	atomic_size_t buffered; /* runs whose content is in memory: lets reads pass by */

	pthread_mutex_t io;   /* held from form_job to the end of bdev_submit; before lock */
	pthread_mutex_t lock; /* guards everything below */
	pthread_cond_t flushed;

	struct chunk_chain *chains;
	size_t n_chains, n_nodes;
	LIST_HEAD(, data_run) all;
	size_t n_runs;
	struct data_dirty dirty;
	struct run_queue queue;	  /* ascending serial */
	struct run_queue written; /* ascending serial */
	struct run_queue fresh;	  /* by attach */
	struct run_queue ridden;  /* ascending tag */
	size_t n_fresh, n_fresh_dirty;
	size_t memory;
	uint64_t serial;

	struct job jobs[JOBS];
	unsigned n_busy;

	uint64_t flushes_begun, flushes_done; /* done: all flushes up to this number have ended well */
	bool flushing;

	int err;
	bool told;
	uint64_t written_home, dropped, n_ridden;
};

static inline bool set_has(const block_set *s, uint32_t i)
{
	return s->w[i / 64] >> i % 64 & 1;
}

static inline void set_add(block_set *s, uint32_t i)
{
	s->w[i / 64] |= UINT64_C(1) << i % 64;
}

/* data.c. With the lock held. */

RB_PROTOTYPE(data_dirty, data_run, dirty_link, )
/* Frees the buffer, unless someone has pinned it. */
void data_run_buffer_free(struct data *, struct data_run *);
/* Nobody needs the run any more: out of everything. It must not be in flight. */
void data_run_forget(struct data *, struct data_run *);
/* Forgets a run without a live block, unless it is still to be written, or under way. True: it is gone. */
bool data_run_forget_if_dead(struct data *, struct data_run *);

/* data_io.c. */

void data_jobs_init(struct data *);

/* Takes the lock and does what completions have left to do. Unlocking is where the owner learns of a failure. */
void data_lock(struct data *);
void data_unlock(struct data *);

/* All below: with the lock held, which the last three let go meanwhile. */

/* A DIRTY run is to be written. */
void data_enqueue(struct data *, struct data_run *);
void data_enqueue_dirty(struct data *, unsigned which);
/*
 * Starts what the queue holds as far as jobs reach. `patient` is for those who may wait while another thread submits;
 * for others that thread, or the next one who waits, does it.
 */
void data_pump(struct data *, bool patient);
/* Waits until job j is done; others may be too, and j may be at something new. */
void data_wait_job(struct data *, struct job *j);
/* Waits until something comes back. False: nothing is on its way. */
bool data_wait_oldest(struct data *);

#endif

/*
 * op.c - beginning and ending operations
 *
 * Batches are expensive to make (buffers, reserved nodes) and cheap to use again, so ended operations leave theirs in a small
 * pool. Nothing is shared between operations but the stripes.
 */
#include "fs/op.h"

#include <assert.h>

#include "fs/fs_int.h"
#include "fs/orphan.h"

#define POOL_BATCHES 8u

struct batch_pool {
	pthread_mutex_t lock;
	unsigned n; /* guarded by lock, as is batch[] */
	struct batch *batch[POOL_BATCHES];
};

int batch_pool_open(struct batch_pool **ret)
{
	struct batch_pool *p = mem_zalloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	*ret = p;
	return 0;
}

void batch_pool_close(struct batch_pool *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < p->n; i++)
		batch_close(p->batch[i]);
	pthread_mutex_destroy(&p->lock);
	mem_free(p);
}

static int pool_get(struct fs *fs, struct batch **ret)
{
	struct batch_pool *p = fs->batches;

	pthread_mutex_lock(&p->lock);
	*ret = p->n ? p->batch[--p->n] : NULL;
	pthread_mutex_unlock(&p->lock);
	return *ret ? 0 : batch_open(store_live(fs->store), ret);
}

static void pool_put(struct fs *fs, struct batch *b)
{
	struct batch_pool *p = fs->batches;

	pthread_mutex_lock(&p->lock);
	if (p->n < POOL_BATCHES) {
		p->batch[p->n++] = b;
		b = NULL;
	}
	pthread_mutex_unlock(&p->lock);
	batch_close(b);
}

int op_begin_read(struct fs *fs, uint64_t node, struct op *ret)
{
	*ret = (struct op){ .fs = fs };
	if (node >> FS_VIEW_SHIFT) /* transactions and snapshots are not served yet: live is the only view */
		return -ESTALE;
	ret->view = store_live(fs->store);
	return 0;
}

int op_begin(struct fs *fs, uint64_t node, struct op *ret)
{
	int err = op_begin_read(fs, node, ret);

	if (err)
		return err;
	if (fs->read_only)
		return -EROFS;
	fs_now(fs, &ret->now);
	return pool_get(fs, &ret->batch);
}

/* ---- locks ---- */

static uint16_t stripe_of(uint64_t ino)
{
	return (uint16_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 32) % FS_STRIPES;
}

void op_lock(struct op *op, const uint64_t *inos, unsigned n)
{
	assert(!op->n_locks && n <= OP_LOCKS_MAX);
	for (unsigned i = 0; i < n; i++) {
		uint16_t s = stripe_of(inos[i]);
		unsigned at = op->n_locks;

		for (unsigned j = 0; j < op->n_locks; j++)
			if (op->stripe[j] == s)
				at = OP_LOCKS_MAX;
		if (at == OP_LOCKS_MAX)
			continue;
		for (; at && op->stripe[at - 1] > s; at--)
			op->stripe[at] = op->stripe[at - 1];
		op->stripe[at] = s;
		op->n_locks++;
	}
	op->shared = false;
	for (unsigned i = 0; i < op->n_locks; i++)
		pthread_rwlock_wrlock(&op->fs->stripe[op->stripe[i]]);
}

void op_lock_shared(struct op *op, uint64_t ino)
{
	assert(!op->n_locks);
	op->stripe[0] = stripe_of(ino);
	op->n_locks = 1;
	op->shared = true;
	pthread_rwlock_rdlock(&op->fs->stripe[op->stripe[0]]);
}

void op_unlock(struct op *op)
{
	while (op->n_locks)
		pthread_rwlock_unlock(&op->fs->stripe[op->stripe[--op->n_locks]]);
}

/* ---- the end ---- */

/* Made and gone: the difference counts. The next one that is made says so durably, see new_number. */
static void count_failed(struct op *op)
{
	if (!op->made)
		return;
	atomic_fetch_add(&op->fs->inodes_freed, op->made);
	atomic_store(&op->fs->inodes_failed, true);
	op->made = 0;
}

int op_commit(struct op *op)
{
	struct fs *fs = op->fs;
	int err = batch_commit(op->batch, NULL);

	if (err) {
		count_failed(op);
	} else if (op->ino_limit) {
		uint64_t old = atomic_load(&fs->ino_limit);

		while (old < op->ino_limit && !atomic_compare_exchange_weak(&fs->ino_limit, &old, op->ino_limit))
			;
	}
	op->made = 0;
	op->ino_limit = 0;
	return err;
}

void op_end(struct op *op)
{
	op_unlock(op);
	if (op->batch) {
		count_failed(op); /* cancelled */
		batch_cancel(op->batch);
		pool_put(op->fs, op->batch);
		op->batch = NULL;
	}
}

bool op_retry(struct fs *fs, int err, unsigned *tries)
{
	if (err != -ENOSPC || (*tries)++)
		return false;
	return orphans_waiting(fs) && !fs_reap(fs);
}

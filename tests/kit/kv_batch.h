/*
 * kv_batch.h - the operations of kv_run.h that are one batch (those before KV_SYNC)
 *
 * A batch is built on the store, noting each change; when it has been committed, the changes are made to the model. An
 * -EAGAIN begins it anew, as the store's contract asks for.
 */
#ifndef ARBOR_TESTS_KIT_KV_BATCH_H
#define ARBOR_TESTS_KIT_KV_BATCH_H

#include "tests/kit/kv_run.h"

int kv_batch_op(struct kv_run *, const struct kv_op *);

/* A broken promise: keeps the first text; returns -EPROTO. */
int kv_broken(struct kv_run *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif

/*
 * queue.h - many transfers at once on a file descriptor
 *
 * What file.c's asynchronous half is made of: io_uring where the kernel permits it, else a few threads. Bios come checked
 * (bdev.c) and complete as struct bdev promises. The descriptor stays the caller's and must outlive the queue.
 */
#ifndef ARBOR_BTREE_DEV_QUEUE_H
#define ARBOR_BTREE_DEV_QUEUE_H

#include "btree/dev/bdev.h"

struct queue;

int queue_open(int fd, unsigned depth, bool no_uring, struct queue **ret);
void queue_close(struct queue *); /* waits for what is in flight; accepts NULL */

void queue_submit(struct queue *, struct bio **bios, unsigned n);
void queue_wait(struct queue *, struct bio_group *);
void queue_poll(struct queue *);

/* "io_uring" or "threads". */
const char *queue_kind(const struct queue *);

/*
 * Moves the bytes of an iovec behind the first `skip` ones, at byte offset `off` + skip, in the calling thread; goes on
 * after a short transfer. 0 or one of the errors bdev.h names.
 */
int queue_transfer(int fd, enum bio_op op, uint64_t off, const struct iovec *iov, int iovcnt, uint64_t skip);

/* What a host error means in bdev.h's words. Takes and returns a negative errno. */
int queue_error(int err);

#endif

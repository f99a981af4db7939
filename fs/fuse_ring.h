/*
 * fuse_ring.h - FUSE over io_uring (Linux 6.14 and later, with fuse.enable_uring=1)
 *
 * The kernel keeps a queue for each CPU. We give each a number of entries: a header and a buffer of ours, in which it puts
 * the next request made on that CPU; committing the answer fetches the next. One thread a CPU serves what comes, pinned
 * there, so that client and server run on one CPU and no other has to be woken.
 *
 * rings_open takes all memory and descriptors it can need; rings_start, once INIT has been answered, hands the entries over.
 */
#ifndef ARBOR_FS_FUSE_RING_H
#define ARBOR_FS_FUSE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

struct loop;
struct rings;
struct ring_entry;

/* Whether the kernel would accept it at present. */
bool rings_permitted(void);

int rings_open(struct loop *, struct rings **ret);
int rings_start(struct rings *);
void rings_stop(struct rings *);  /* returns when no thread of it serves any more */
void rings_close(struct rings *); /* accepts NULL */

/* The answer to what the calling thread serves; iov[0] is a struct fuse_out_header. */
void ring_answer(struct ring_entry *, const struct iovec *iov, int n);
void *ring_buffer(struct ring_entry *);

#endif

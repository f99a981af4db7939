/*
 * fuse_loop.h - how requests come from the kernel and answers go back
 *
 * Two transports under one handler table. /dev/fuse: threads read a request, serve it, write the answer. io_uring
 * (fuse_ring.h): the kernel puts requests into our memory, one queue a CPU; what it cannot send that way (INIT, forgets)
 * still comes through /dev/fuse, so that transport always runs. libfuse decodes and encodes for both.
 *
 * Handlers are plain functions that answer before they return, and do not know which transport they serve. That none of them
 * holds up the others while it waits is the loop's business: it knows from a request's header that one may wait (an
 * fsync), and is told by loop_waits() where only the handler can know (a read that has to go to the device).
 *
 * Threads: loop_open, loop_run and loop_close are the main thread's; the others may be called from any.
 */
#ifndef ARBOR_FS_FUSE_LOOP_H
#define ARBOR_FS_FUSE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fuse_session;
struct loop;

struct loop_options {
	struct fuse_session *session; /* mounted */
	bool ring;		      /* offer the kernel io_uring; it may decline */
	unsigned readers;	      /* threads that wait at /dev/fuse; 0: by the number of CPUs */
	unsigned threads;	      /* threads that serve, at most; 0: 32 */
	unsigned spin_us;	      /* look for the next request this long before sleeping */
	int (*sync)(void *arg);	      /* everything answered is durable (syncfs) */
	void (*ready)(void *arg);     /* called once, when INIT has been answered: the mount works */
	void *arg;
};

int loop_open(const struct loop_options *, struct loop **ret);
/* Serves until it is unmounted, the connection is aborted, or loop_stop. No handler runs any more when it returns. */
int loop_run(struct loop *);
void loop_stop(struct loop *);
void loop_close(struct loop *); /* accepts NULL */

/* Whether requests come through io_uring: known once `ready` has been called. */
bool loop_has_ring(const struct loop *);

/* ---- for handlers ---- */

/* Waits until no other handler runs; requests that come later are refused. For DESTROY. */
void loop_quiesce(struct loop *);
/* The request as the kernel sent it, from its struct fuse_in_header on, while it is not answered. */
const void *loop_request(void);
/* Room for an answer: FS_READ_BUFFER(FS_IO_MAX) bytes, aligned to blocks; until the request is answered. NULL: no memory. */
void *loop_buffer(void);

/* The caller, a handler or not, is about to wait for the device: someone else should look after the next request. */
void loop_waits(void);
/* It has waited: for the loop to learn whether that held others up. May be left out. */
void loop_waited(void);

#endif

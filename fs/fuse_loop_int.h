/*
 * fuse_loop_int.h - what the two transports share
 */
#ifndef ARBOR_FS_FUSE_LOOP_INT_H
#define ARBOR_FS_FUSE_LOOP_INT_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "fs/fs.h"
#include "fs/fuse_loop.h"

struct fuse_buf;
struct ring_entry;
struct rings;

/* In front of what is aligned to blocks: a request's headers, so that the data of a WRITE is aligned too. */
#define LOOP_HEAD 4096u
#define LOOP_BODY FS_READ_BUFFER(FS_IO_MAX)

/* A thread that runs handlers, for itself (thread-local). */
struct loop_thread {
	struct loop *loop;
	const void *request;	  /* being served */
	char *in;		  /* requests of /dev/fuse: LOOP_HEAD + LOOP_BODY bytes */
	void *out;		  /* loop_buffer's, made at first use */
	struct ring_entry *entry; /* served: came through io_uring, and goes back there */
	atomic_bool reader;	  /* holds one of the readers' places; changes under the loop's lock */
	_Atomic(uint64_t) waits_since; /* when the request being served first waited, us; 0: it has not */
	unsigned received;	  /* the loop's, at that time */

	pthread_t id;
	pthread_cond_t wake;
	struct loop_thread *next_idle, *next;
};

struct loop {
	struct loop_options opt;
	int fd;
	atomic_bool stopping;
	atomic_bool ended;    /* by DESTROY: handlers may not be called any more */
	atomic_uint active;   /* handlers running */
	atomic_uint hand_over; /* so many waits more give the reader's place away */
	atomic_uint received;  /* requests, at /dev/fuse */
	atomic_int err;	      /* why it stopped, if not for a good reason */
	bool ready;	      /* INIT has been answered; guarded by being before everything else */
	uint64_t init_unique; /* INIT being answered, 0: not */
	int init_err;	      /* what it was answered with */
	bool ring_offered;    /* by the kernel */
	struct rings *rings;  /* NULL: /dev/fuse only */

	pthread_mutex_t lock;
	pthread_cond_t left; /* a thread has ended */
	unsigned reading;    /* threads with a reader's place; guarded by lock, as are those below */
	unsigned running, started;
	struct loop_thread *idle; /* a stack: the one that ran last is warm */
	struct loop_thread *threads;
};

extern _Thread_local struct loop_thread *loop_self;

/* Serves one request: [request, len) is as /dev/fuse gives it. */
void loop_serve(struct loop *, const void *request, size_t len);
/* Serving it may wait for long. */
bool loop_request_waits(const struct fuse_in_header *);
void loop_fail(struct loop *, int err);

#endif

/*
 * bdev.h - the block device everything is stored on
 *
 * A vtable, so that the same engine runs on an image file or block device (file.c), on the simulated disk of the
 * tests (tests/kit/simdev), and later on network block devices. The contract that every backend keeps and that
 * everything above relies on:
 *
 *  - Offsets and lengths are multiples of BLOCK_SIZE, buffers are aligned to BLOCK_SIZE, and a transfer lies inside
 *    the device. Anything else is -EINVAL and touches nothing.
 *  - Nothing is ordered. Two transfers in flight may reach the disk in either order; a write that overlaps another
 *    transfer in flight leaves undefined bytes. Callers order by waiting.
 *  - A completed write is visible to every later read, but may be lost, or torn at 512-byte sectors, by a crash.
 *    A flush that *began after a write completed* and that returned 0 makes that write durable. A write still in
 *    flight when the flush begins may or may not be covered.
 *  - A failed flush is final: what it should have covered may be gone although later flushes succeed (fsyncgate).
 *    The backend remembers it, and every later write and flush returns -EIO.
 *  - Errors: -EIO the transfer failed; -ETIMEDOUT it may still reach the disk at any later time (so its target must
 *    be treated as undefined until the device is closed); -EREMOTEIO (network devices) another host has taken the
 *    device over: final, nothing may be written any more; -ENOSPC the file below could not grow (image files on a
 *    full host filesystem): the write did not happen. After any failed write the target's content is undefined.
 *  - A bio's memory belongs to the backend from submit until its done() has been called.
 *  - All functions may be called from any thread at once, except close, which ends everything.
 */
#ifndef ARBOR_BTREE_DEV_BDEV_H
#define ARBOR_BTREE_DEV_BDEV_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "btree/types.h"

struct bdev;
struct bio_group;

enum bio_op { BIO_READ, BIO_WRITE };

/* One asynchronous transfer. The caller fills the first part and keeps it alive until done() is called. */
struct bio {
	enum bio_op op;
	uint64_t addr;		  /* first block */
	struct iovec *iov;	  /* each base and length aligned to BLOCK_SIZE */
	int iovcnt;		  /* 1..BIO_IOV_MAX */
	struct bio_group *group;  /* the group that waits for it; never NULL */
	void (*done)(struct bio *); /* called once, from any thread inside submit, wait or poll (so hold no lock there
				       that done takes) or one of the backend's; may be NULL; must not block, submit or wait. `err` is set. It may free the bio, but not the group: that is
				       told afterwards, so that who waits for the group finds every done() over. */
	void *arg;		  /* the caller's */

	int err;		  /* result: 0 or negative errno */
	uint64_t priv[4];	  /* the backend's */
};

#define BIO_IOV_MAX 256

/* A set of bios someone waits for together. */
struct bio_group {
	atomic_uint pending; /* submitted and not done */
	atomic_int err;	     /* the first error of any of them */
};

static inline void bio_group_init(struct bio_group *g)
{
	atomic_init(&g->pending, 0);
	atomic_init(&g->err, 0);
}

struct bdev_geometry {
	uint64_t blocks;	  /* size of the device in blocks, rounded down */
	uint32_t discard_blocks;  /* granularity of discard, 0: discard does nothing here */
	bool read_only;
};

struct bdev_ops {
	/* Starts n transfers. Each is accounted to its group and completes exactly once, with bio->err, also when
	 * it could not be started. Never fails as a whole. */
	void (*submit)(struct bdev *, struct bio **bios, unsigned n);
	/* Waits until g->pending is 0, reaping (and calling done() of) whatever completes meanwhile. */
	void (*wait)(struct bdev *, struct bio_group *g);
	/* Reaps what has completed, without waiting, and has everyone in wait() look at their group again. */
	void (*poll)(struct bdev *);
	/* One transfer, now, in the calling thread. */
	int (*rw)(struct bdev *, enum bio_op op, uint64_t addr, void *buf, uint32_t blocks);
	int (*flush)(struct bdev *);
	/* The content becomes undefined (zeros or old data). Best effort: -EOPNOTSUPP is not a failure. */
	int (*discard)(struct bdev *, uint64_t addr, uint64_t blocks);
	/* Reads the size again (the image has been grown); updates the geometry. */
	int (*resize)(struct bdev *);
	void (*close)(struct bdev *);
};

struct bdev {
	const struct bdev_ops *ops;
	struct bdev_geometry geo; /* blocks changes only in bdev_resize */
	const char *name;	  /* for messages; owned by the backend */

	atomic_bool dead; /* a flush has failed: no write and no flush succeeds any more; kept by the functions below */

	/* Counters for status and benchmarks; updated by the functions below. */
	atomic_uint_fast64_t read_blocks, written_blocks, reads, writes, flushes;
};

/* How to open an image file or block device (file.c). Zero is the default of each. */
struct bdev_file_options {
	bool read_only;	      /* open for reading, shared lock */
	bool buffered;	      /* no O_DIRECT (falls back to this by itself where O_DIRECT is refused) */
	bool no_uring;	      /* use the thread pool even where io_uring is permitted */
	bool no_lock;	      /* tools that only look (inspect) */
	bool no_claim;	      /* block devices: the lock, but no O_EXCL: the caller mounts it (fuseblk), and the kernel claims it
				 then */
	unsigned queue_depth; /* transfers in flight; 0: 64 */
	unsigned lock_wait_ms; /* wait this long for the lock of an ending daemon; 0: refuse at once */
};

/*
 * Opens `path`. The lock is exclusive between processes (OFD lock for files, O_EXCL for block devices), shared when
 * read-only. -EBUSY: someone holds it; *ret_holder, where not NULL, is then a text (for mem_free) such as
 * "pid 1234 (mount.arbor)" or NULL where it cannot be told. -ENOTBLK: neither a regular file nor a block device.
 */
int bdev_file_open(const char *path, const struct bdev_file_options *opt, struct bdev **ret, char **ret_holder);

/* For backends: sets up the generic part. The geometry is the backend's to fill. */
void bdev_init(struct bdev *, const struct bdev_ops *, const char *name);

/*
 * Synchronous transfers; count, check bounds and alignment, then call the backend. A transfer of no blocks is -EINVAL;
 * a write to a read-only device is -EROFS, and so is a discard.
 */
int bdev_read(struct bdev *, uint64_t addr, void *buf, uint32_t blocks);
int bdev_write(struct bdev *, uint64_t addr, const void *buf, uint32_t blocks);
int bdev_flush(struct bdev *);
int bdev_discard(struct bdev *, uint64_t addr, uint64_t blocks);
int bdev_resize(struct bdev *);
void bdev_close(struct bdev *); /* accepts NULL; waits for what is in flight */

/* Asynchronous: submit, then wait on the group. A bio out of bounds or unaligned completes with -EINVAL. */
void bdev_submit(struct bdev *, struct bio **bios, unsigned n);
int bdev_wait(struct bdev *, struct bio_group *g); /* the group's first error, which it resets to 0 */
void bdev_poll(struct bdev *);

/* For backends: marks a bio complete: sets err, accounts the group, calls done. The group may be gone after this. */
void bio_complete(struct bio *, int err);

#endif

/*
 * simdev.h - the simulated disk
 *
 * A bdev wholly in memory, sparse and deterministic. It keeps what bdev.h promises and not a bit more: a completed write is
 * visible at once and durable after a flush that began later; until then a crash may keep it, drop it, or tear it at
 * 512-byte sectors.
 *
 * Operations that change the disk (write, flush, discard) have one running number, from 0; so have reads, of their own.
 * The *trace* remembers all of the former. From it any number of disks can be made as they might be after a crash
 * right before operation n:
 *
 *	for (uint64_t n = from; n <= simdev_ops(run); n++) {
 *		struct simdev_crash c;
 *		struct simdev *after;
 *
 *		simdev_crash_begin(&c, run, n, limit, seed);
 *		while ((after = simdev_crash_next(&c))) {
 *			... open simdev_bdev(after), look ...
 *			simdev_free(after);
 *		}
 *		simdev_crash_end(&c);
 *	}
 *
 * The other way is to let a run hit the crash itself: simdev_kill_at(), then simdev_branch() when it has given up.
 *
 * The struct lives longer than the bdev: bdev_close() only ends its use, simdev_bdev() opens it again. Memory comes
 * from malloc and not from mem.h, so that failmem counts the engine's allocations alone; running out of it aborts.
 *
 * Threads: any, one mutex; except simdev_free and simdev_bdev.
 */
#ifndef ARBOR_TESTS_KIT_SIMDEV_H
#define ARBOR_TESTS_KIT_SIMDEV_H

#include "btree/dev/bdev.h"

struct simdev;
struct simdev_image;

#define SIMDEV_SECTOR 512u

/* --- life --- */

/* Zero is the default of each. */
struct simdev_options {
	uint64_t blocks;	    /* size; 0: the base's, else 65536 (256 MiB) */
	const struct simdev_image *base; /* content to start from, shared; NULL: zeros */
	uint64_t seed;		    /* of tearing, discarding and reordering */
	bool shuffle;		    /* submitted transfers complete in wait() and poll() only, in any order */
	bool no_trace;		    /* forget what a flush has made durable; branches at the current point only */
	bool read_only;
};

struct simdev *simdev_new(const struct simdev_options *); /* NULL: all defaults */
void simdev_free(struct simdev *); /* accepts NULL; the bdev need not be closed */

/* The device. Opens it again after bdev_close(), with its memory of a failed flush cleared, as by a reboot. */
struct bdev *simdev_bdev(struct simdev *);

/* Content frozen; shared, not copied. An image belongs to its getter, for any number of simdevs. */
struct simdev_image *simdev_freeze(struct simdev *);
void simdev_image_free(struct simdev_image *); /* accepts NULL; simdevs made from it go on */
struct simdev *simdev_clone(struct simdev *);  /* content, size and seed; a fresh trace, no faults */
uint64_t simdev_digest(struct simdev *);       /* of the content: equal for equal ones; never 0 */

/* To look at a state with other tools, and back. A file of the disk's size, sparse. 0 or negative errno. */
int simdev_save(struct simdev *, const char *path);
int simdev_load(const char *path, struct simdev_image **ret);

/* The size seen by the next bdev_resize. */
void simdev_set_blocks(struct simdev *, uint64_t blocks);

/* Past bdev, trace and faults: what is there, and bit rot. */
void simdev_peek(struct simdev *, uint64_t addr, void *buf, uint32_t blocks);
void simdev_poke(struct simdev *, uint64_t addr, uint32_t offset, const void *bytes, uint32_t len);
void simdev_flip(struct simdev *, uint64_t addr, uint32_t bit);

/* --- trace --- */

enum simdev_op { SIMDEV_READ, SIMDEV_WRITE, SIMDEV_FLUSH, SIMDEV_DISCARD, SIMDEV_OPS };

struct simdev_record {
	uint64_t number;
	enum simdev_op op;
	uint64_t addr, blocks; /* of writes and discards */
	uint64_t covered;      /* number of the flush that made it durable; UINT64_MAX: none */
	int err;	       /* what the caller was told; 0 */
};

uint64_t simdev_ops(struct simdev *);			/* operations so far: the number of the next one */
uint64_t simdev_count(struct simdev *, enum simdev_op); /* of one kind */
bool simdev_record_at(struct simdev *, uint64_t number, struct simdev_record *ret); /* false: not in the trace */

/* --- faults --- */

/* What is left of a write that fails. */
enum simdev_effect { SIMDEV_NOT_DONE, SIMDEV_TORN, SIMDEV_DONE };

struct simdev_fault {
	enum simdev_op op;
	uint64_t after;	 /* the first to fail comes after this many more of its kind (inside the range); 0: the next */
	uint64_t times;	 /* how many fail; 0: all from then on */
	uint64_t addr, blocks; /* only those that touch this range; blocks == 0: any. Flushes touch none. */
	int err;	 /* negative errno; 0: -EIO */
	enum simdev_effect effect;
};

#define SIMDEV_FAULTS 16

void simdev_add_fault(struct simdev *, const struct simdev_fault *); /* at most SIMDEV_FAULTS; copied */
void simdev_clear_faults(struct simdev *);			      /* and revives a dead disk */
uint64_t simdev_failed(struct simdev *);			      /* operations that faults have made fail so far */

/* Asked before every operation, with the mutex held; what is not 0 is its error (effect: not done). */
void simdev_set_callback(struct simdev *, int (*ask)(void *arg, enum simdev_op, uint64_t number, uint64_t addr,
						     uint64_t blocks), void *arg);

/* Operation `number` and everything after it fails with -EIO and leaves no trace. */
void simdev_kill_at(struct simdev *, uint64_t number);
bool simdev_dead(struct simdev *);

/* --- crashes --- */

enum simdev_choice { SIMDEV_DROP, SIMDEV_KEEP, SIMDEV_TEAR };

/* Writes and discards before operation n that no flush before n covers. */
unsigned simdev_unflushed(struct simdev *, uint64_t n);

/*
 * The disk as it might be after a crash right before operation n <= simdev_ops(). choice has simdev_unflushed() values,
 * oldest first; NULL: by seed. How a write is torn follows from the seed. A simdev of its own, without a trace.
 */
struct simdev *simdev_branch(struct simdev *, uint64_t n, const enum simdev_choice *choice, uint64_t seed);

/* The power fails now, and what was not flushed is gone: *sd becomes the disk that is left. */
void simdev_power_cut(struct simdev **sd);

/*
 * All crash states at n: every combination of choices while there are at most `limit`, otherwise `limit` states: all
 * dropped, all kept, then by seed.
 */
struct simdev_crash {
	struct simdev *run;
	uint64_t n, seed;
	unsigned unflushed;
	uint64_t total;	 /* states that will be produced */
	uint64_t index;	 /* of the next */
	bool exhaustive;
	enum simdev_choice *choice; /* of the newest */
};

void simdev_crash_begin(struct simdev_crash *, struct simdev *run, uint64_t n, uint64_t limit, uint64_t seed);
struct simdev *simdev_crash_next(struct simdev_crash *); /* NULL: no more */
void simdev_crash_end(struct simdev_crash *);
/* Prints which writes the newest state kept, dropped and tore, as TAP comments. */
void simdev_crash_print(const struct simdev_crash *);

#endif

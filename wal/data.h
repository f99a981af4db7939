/*
 * data.h - data blocks on their way to the device
 *
 * File data goes to its own, write-once address. Between data_put and the flush that covers it a run of blocks is
 * known here: so that readers see it, so that the log can list it (or carry it) in the segment that makes it
 * recoverable, and so that a block that is superseded before it was written is never written at all.
 *
 *	            put (large)
 *	 .--------------------------.
 *	 |                          v
 *	put --> DIRTY --write--> INFLIGHT --done--> WRITTEN --flush--> (gone)
 *	          |                 ^
 *	          `-- ride, later --'
 *
 * A run is *private* until data_attach (in the critical section in which the record naming it is appended to the
 * log): private runs are never listed nor do they ride. Small runs (<= DATA_SMALL_BLOCKS) stay DIRTY in memory until
 * someone needs them on the device; larger ones are submitted by data_put. A run's buffer is freed when its write has
 * completed; reads come from memory until then.
 *
 * Threads: any; own mutex. Lock order: a view's tree lock, log, data. data_put may wait (memory limit); never call it
 * under a lock. After a failed write everything that waits returns -EIO and `failed` was called once.
 */
#ifndef ARBOR_WAL_DATA_H
#define ARBOR_WAL_DATA_H

#include <bsd/sys/queue.h>

#include "btree/dev/bdev.h"
#include "btree/types.h"
#include "wal/log_format.h"

#define DATA_SMALL_BLOCKS 16u /* 64 KiB */
#define DATA_RUN_BLOCKS_MAX 256u

struct data;
struct data_run; /* one put; owned by data, the handle is valid until attached, dropped whole or disowned */

/* memory_max: bytes of buffers held before data_put waits (0: 32 MiB). failed: called once, no locks held but those of
 * the caller, with the error of the first failed write. */
int data_open(struct bdev *, size_t memory_max, void (*failed)(void *arg, int err), void *arg, struct data **ret);
void data_close(struct data *); /* waits for what is in flight; dirty runs are dropped */

/* The checksum of one block as it stands in extents and check lists: the low 32 bits of its XXH3-64. */
uint32_t data_checksum(const void *block);

/*
 * Takes over `buf` (from mem_alloc_blocks, `blocks` * BLOCK_SIZE bytes) as the content of the freshly allocated run at
 * `addr`, with the checksum of each block (copied). On an error buf still belongs to the caller.
 */
int data_put(struct data *, uint64_t addr, uint32_t blocks, void *buf, const uint32_t *sums, struct data_run **ret);

/* The record that refers to the run is in the log: the next seal lists it or lets it ride. Never fails. */
void data_attach(struct data *, struct data_run *);
uint32_t data_run_blocks(const struct data_run *);

/*
 * The owner will never attach the run (it is a transaction's, whose commit writes home, waits and flushes first). It stays
 * private, and is forgotten once a flush has covered it. Never fails.
 */
void data_disown(struct data *, struct data_run *);

/*
 * The blocks became unreachable from every view; where a record says so, it has been appended before (or a segment
 * that ends between the two would lack them). What was not written is not going to be, and nothing of it is listed
 * any more; what is listed or in flight goes on. Runs may be dropped in parts. Also how an operation that failed
 * gives back its private runs. Never fails.
 */
void data_drop(struct data *, uint64_t addr, uint64_t blocks);

/* Reads blocks, wherever they are. Does not verify. */
int data_read(struct data *, uint64_t addr, uint32_t blocks, void *buf);
/* Whether that block would be read from memory. */
bool data_has(struct data *, uint64_t addr);

/* Submits every dirty run (attached, private or both), neighbours joined into large writes. Does not wait. */
#define DATA_ATTACHED 1u
#define DATA_PRIVATE 2u
void data_write_home(struct data *, unsigned which);

/* Waits until every write submitted before the call has completed; the first error, which is also sticky. */
int data_wait(struct data *);

/*
 * The one flush everybody uses: what had been written when it began is covered when it returns 0. Concurrent callers
 * may share one flush where the order of things allows it.
 */
int data_flush(struct data *);

/*
 * For the log, at seal time: what the segment being sealed must carry or list. The caller owns the memory and keeps
 * the structure where it is until data_seal_done. A run appears in exactly one seal, the first after its attach: what
 * one segment listed is durable before the next segment is written.
 */
struct data_riding {
	uint64_t addr;
	const void *block; /* valid until data_seal_done */
	struct data_run *run; /* data's own */
};
LIST_HEAD(data_run_list, data_run);
struct data_seal {
	struct disk_check *checks;   /* room for data_unlisted_blocks entries */
	size_t n_checks;
	struct data_riding *riding;  /* room for ride_max entries */
	size_t n_riding;
	uint64_t tag;		     /* the caller's number for the segment, ascending; see data_ridden_oldest */
	struct data_run_list waiting; /* data's own: listed runs whose write has not completed */
};
/* What data_seal could list at most now. */
size_t data_unlisted_blocks(struct data *);
/*
 * ride_max: let at most so many blocks ride, all of the dirty attached ones or none; 0: none. Dirty ones that do not
 * ride are submitted now and listed. Fills `seal`, whose memory, its sizes and tag the caller has set up; allocates
 * nothing, waits for nothing and never fails.
 */
void data_seal(struct data *, size_t ride_max, struct data_seal *seal);
/* Waits for the writes of the blocks that the seal listed (not for others). */
int data_seal_wait(struct data *, struct data_seal *);
/* The segment is written and flushed (or failed): riding memory may be let go. */
void data_seal_done(struct data *, struct data_seal *);
/* The smallest tag of a seal in which a block rode that is still needed and not yet home under a completed flush;
 * UINT64_MAX: none. The segment with that tag must not be trimmed. */
uint64_t data_ridden_oldest(struct data *);

struct data_stats {
	size_t dirty_blocks, inflight_blocks, unflushed_blocks, memory;
	uint64_t written_home, dropped, ridden; /* blocks, since open */
};
void data_stats(struct data *, struct data_stats *ret);

#endif

/*
 * scrub_int.h - what the files of the scrub share
 *
 *	scrub.c		the thread, its state, starting, stopping, the pace
 *	scrub_data.c	a chunk of data: collecting its extents, reading, comparing
 *	scrub_names.c	what was found, told by path
 */
#ifndef ARBOR_FS_SCRUB_INT_H
#define ARBOR_FS_SCRUB_INT_H

#include <pthread.h>

#include "fs/fs_int.h"
#include "fs/scrub.h"
#include "wal/scrub.h"

/* An extent to be read. */
struct scrub_run {
	uint64_t addr, birth, ino, off;
	uint32_t blocks;
	size_t sum; /* its first, in scrub_chunk.sums */
};

struct scrub_chunk {
	struct scrub_run *runs;
	size_t n_runs, cap_runs;
	uint32_t *sums;
	size_t n_sums, cap_sums;
	struct scrub_run *done; /* verified, in a step that will be made again; those in front are sorted */
	size_t n_done, cap_done, n_sorted;
	uint8_t *buf; /* SCRUB_READ_BLOCKS, and one */
};
#define SCRUB_READ_BLOCKS 256u

/* Something that is lost, until its path is known. */
struct scrub_find {
	uint64_t lo, hi; /* inode numbers */
	uint64_t off;	 /* data: bytes; blocks > 0 */
	uint64_t addr;	 /* of the block, or of the node */
	uint32_t blocks; /* 0: a node */
};

struct scrub {
	struct fs *fs;
	pthread_mutex_t control; /* one start or stop at a time; before lock */
	pthread_t thread;	 /* guarded by control */
	bool joinable;		 /* likewise */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* stop has been set */
	/* Guarded by lock: */
	bool stop;
	struct scrub_status st;
	char **lines;
	size_t n_lines, cap_lines;

	/* The running scrub's, and between two of them whoever starts one. */
	struct scrub_options opt;
	bool fixed_done;     /* superblocks, map, system tree */
	uint64_t view;	     /* where it is: id of the view, */
	uint64_t born_after; /* what of it is looked at, */
	struct key next;     /* and from where on */
	struct scrub_chunk chunk;
	struct scrub_find *finds; /* of the view it is in */
	size_t n_finds, cap_finds;
	uint64_t due_ns;      /* when the next transfer may begin */
	uint64_t chunk_until; /* then the view is to be let go */
	size_t chunk_blocks;
	bool viewing;	/* a view is open */
	bool may_yield; /* ... and has been of use: it may be closed if it is wanted */
};

/* Before reading so many bytes: waits for the rate, counts them. -ECANCELED: to be stopped; -EAGAIN: the view is wanted. */
int scrub_pace(void *scrub, uint64_t bytes);
/* Adds to a counter of sc->st. */
void scrub_count(struct scrub *, uint64_t *counter, uint64_t n);
int scrub_find_add(struct scrub *, const struct scrub_find *);
void scrub_line_add(struct scrub *, char *line); /* takes it over; NULL: nothing */

/* scrub_data.c */
int scrub_chunk_item(struct scrub *, struct key, const void *val);
int scrub_chunk_verify(struct scrub *, struct view *); /* and empties it */
void scrub_chunk_release(struct scrub_chunk *);

/* scrub_names.c: turns the finds of this view into lines. quick: with inode numbers, without looking for names. */
int scrub_tell(struct scrub *, const struct store_scrub_view *, bool quick);

#endif

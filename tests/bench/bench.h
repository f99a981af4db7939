/*
 * bench.h - the comparison of ArborFS's engine with LMDB and RocksDB
 *
 * One item is a 16-byte key and a value of VALUE_SIZE bytes. All engines store the same items in the same order and run
 * the same workloads (work.c) through struct engine_ops; what each has to be told so that the comparison is fair stands
 * at the top of its engine_*.c and is printed with the results.
 *
 * Errors: 0 or negative errno; an engine reports its own reason on stderr first.
 */
#ifndef ARBOR_TESTS_BENCH_BENCH_H
#define ARBOR_TESTS_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "btree/types.h"
#include "tests/kit/rng.h"

#define KEY_SIZE 16u
#define VALUE_SIZE 100u
#define ITEM_SIZE (KEY_SIZE + VALUE_SIZE)

struct item {
	struct key key;
	uint8_t val[VALUE_SIZE];
};

/* ---- engines ---- */

struct engine_env {
	const char *dir; /* the engine's own directory */
	size_t cache_bytes;
	uint64_t data_bytes;  /* keys and values that will be stored: sizes images and maps */
	uint64_t image_bytes; /* arbor: size of the sparse image; 0: by data_bytes */
	uint64_t log_bytes;   /* arbor: 0: what mkfs chooses */
	bool larger;	      /* the data is larger than the cache */
	bool buffered;	      /* rocksdb: the host's page cache behind the block cache even where `larger` */
	bool no_hint;	      /* lmdb: do not say that keys come in order */
};

/* How a database is opened. */
enum {
	ENGINE_CREATE = 1,  /* make it, empty */
	ENGINE_NO_SYNC = 2, /* nothing will be written with WRITE_DURABLE */
	ENGINE_POINTS = 4,  /* cold single reads follow: reading ahead is waste */
	ENGINE_ORDERED = 8, /* keys will come in order */
};

enum write_how {
	WRITE_LOAD,    /* durable when engine_ops.durable returns */
	WRITE_APPLIED, /* seen by later reads; durable some time later */
	WRITE_DURABLE, /* durable when it returns */
};

/* Each engine's own struct begins with one of these. */
struct engine {
	const struct engine_ops *ops;
};
struct writer {
	struct engine *engine;
};
struct reader {
	struct engine *engine;
};

struct engine_ops {
	const char *name;
	const char *(*settings)(const struct engine_env *); /* one paragraph for the output; static memory */

	int (*open)(const struct engine_env *, unsigned flags, struct engine **ret);
	int (*close)(struct engine *);

	/* Everything written so far is durable. Part of the time of a load. */
	int (*durable)(struct engine *);
	/* All is in its last place: a checkpoint made, compactions ended. Not part of any time. */
	int (*rest)(struct engine *);

	/* For one thread. `write` stores n items as one atomic step. */
	int (*writer_open)(struct engine *, struct writer **ret);
	int (*write)(struct writer *, const struct item *, size_t n, enum write_how);
	void (*writer_close)(struct writer *);

	/* For one thread. snapshot: one state for all reads; else each read sees all that was committed before it. */
	int (*reader_open)(struct engine *, bool snapshot, struct reader **ret);
	int (*get)(struct reader *, struct key, void *val); /* copies VALUE_SIZE bytes; -ENOENT */
	/* Looks at up to `limit` items from the first key >= from, in place. *ret_sum: item_sum of each, added up. */
	int (*scan)(struct reader *, struct key from, uint64_t limit, uint64_t *ret_n, uint64_t *ret_sum);
	void (*reader_close)(struct reader *);

	/* Bytes sent to the device since open. NULL: taken from /proc/self/io. */
	uint64_t (*written)(struct engine *);
	/* Bytes in use inside the files. NULL: not known apart from the files' blocks. */
	uint64_t (*used)(struct engine *);
};

extern const struct engine_ops engine_arbor, engine_lmdb, engine_rocksdb;

/* The key as the peers store it: sorts bytewise as struct key does. */
static inline void key_bytes(struct key k, uint8_t out[KEY_SIZE])
{
	uint64_t be[2] = { __builtin_bswap64(k.obj), __builtin_bswap64(k.off) };

	__builtin_memcpy(out, be, KEY_SIZE);
}

/* What a scan does with each item: the same little for all. */
static inline uint64_t item_sum(const void *val)
{
	uint64_t x;

	__builtin_memcpy(&x, val, sizeof(x));
	return x;
}

/* ---- items (items.c) ---- */

/* The i-th item's key, in key order: 256 items to an inode number, of type BENCH_TYPE. */
#define BENCH_TYPE 1u
struct key item_key(uint64_t i);

/* Fills in an item: a value that names its key, then bytes that do not compress and depend on salt. */
void item_make(struct item *, uint64_t i, uint64_t salt);
/* Whether a value read is of this key. */
bool item_value_right(struct key, const void *val);

/* A bijection of 0..n-1, so that a random order needs no memory. */
struct shuffle {
	uint64_t n, mask, mul[3];
	unsigned shift;
};
void shuffle_init(struct shuffle *, uint64_t n, uint64_t seed);
uint64_t shuffle_at(const struct shuffle *, uint64_t i);

/* ---- the machine (machine.c) ---- */

double now_seconds(void);
uint64_t process_written(void);			/* write_bytes - cancelled_write_bytes of /proc/self/io */
uint64_t process_status_kib(const char *field); /* "VmHWM", "VmRSS" of /proc/self/status */
int dir_make(const char *path);
void dir_remove(const char *path);				/* with everything in it */
uint64_t dir_blocks_bytes(const char *path);			/* what its files occupy */
void dir_drop_caches(const char *path, bool whole);		/* whole: the host's page cache too, where permitted */
int parse_size(const char *text, uint64_t *ret_bytes);		/* "64M" */
const char *format_size(uint64_t bytes, char *buf, size_t cap); /* "64 MiB" */

/* ---- workloads (work.c) ---- */

struct bench {
	const struct engine_ops *ops;
	struct engine_env env;
	uint64_t items;
	uint64_t seed;	  /* of this run: the same for all engines */
	double seconds;	  /* how long a measurement without an end goes on */
	size_t batch;	  /* items a write of a load */
	unsigned threads; /* of the many-threaded commits */
	bool drop_host;	  /* cold: drop the host's page cache too */
};

/* One measurement. */
struct sample {
	double ops, seconds;
	uint64_t written, changed; /* bytes; 0: not measured */
	uint64_t space, used;	   /* bytes after it; 0: not measured */
};

enum row {
	ROW_LOAD_ORDER,
	ROW_LOAD_RANDOM,
	ROW_GET_SNAPSHOT,
	ROW_GET_FRESH,
	ROW_SCAN_ALL,
	ROW_SCAN_100,
	ROW_GET_COLD,
	ROW_SCAN_ALL_COLD,
	ROW_SCAN_100_COLD,
	ROW_COMMIT_1,
	ROW_COMMIT_N,
	ROW_MIXED,
	ROWS,
};

struct row_info {
	const char *name, *unit, *what;
	double want_lmdb, want_rocksdb; /* the target; 0: none */
	bool small_only;		/* the target is for data that fits the cache */
};
extern const struct row_info row_info[ROWS];

/* Rows that are measured together, on one opening of the database; ret[] is indexed by row. */
struct group {
	const char *name;
	unsigned rows; /* 1 << row */
	int (*run)(const struct bench *, struct sample *ret);
};
extern const struct group groups[];
extern const unsigned n_groups;

/* ---- bounds (bounds.c) ---- */

/* Memory, recovery time and opening time of ArborFS alone. */
int bounds_run(const char *dir, size_t cache_bytes, uint64_t tree_bytes, bool drop_host);

#endif

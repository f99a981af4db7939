/*
 * fsrows.c - see fsrows.h
 *
 * The table is the list of what programs do to files, with the cases of each that fs/ treats differently: inline, one block,
 * several extents; at the end, over the end, in the middle; within a directory and between two. fsync, fdatasync, and fsync of a
 * file or directory are one call here (fs_sync), so they are one row.
 *
 * Names are few and the same in all rows, so that most rows have something to do after most others.
 */
#include "tests/kit/fsrows.h"

#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/orphan.h"
#include "tests/kit/test.h"

/* Two directories, the root and the first that every filesystem here has made; names by number, 0 is "a". */
#define R FSM_ROOT
#define D (FSM_ROOT + 1)
#define AT(d, n) .at = { -1, (d), (n) }
#define TO(d, n) .to = { -1, (d), (n) }
#define NOWHERE .to = { -1, FSM_ROOT, 0 }
#define HELD(h) .at = { (h), FSM_ROOT, FSOP_SELF }

#define ONE(kind_, ...) { { .op = { .kind = FSOP_##kind_, __VA_ARGS__ } } }, 1
#define STEP(kind_, ...)                                                                                               \
	{                                                                                                              \
		.op = {.kind = FSOP_##kind_, __VA_ARGS__ }                                                             \
	}

#define FILE_MODE .mode = S_IFREG | 0644
#define DIR_MODE .mode = S_IFDIR | 0755
#define TRUSTED 3 /* an attribute that everything may have, devices too */

const struct fsrow fsrows[] = {
	{ "create", ONE(CREATE, AT(R, 1), NOWHERE, FILE_MODE), true },
	{ "small",
	  { STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE), STEP(WRITE, AT(R, 0), NOWHERE, .len = 100, .seed = 1) },
	  2 },
	{ "write-small", ONE(WRITE, AT(R, 0), NOWHERE, .off = 30, .len = 300, .seed = 2), true },
	{ "write-block", ONE(WRITE, AT(R, 0), NOWHERE, .len = 4096, .seed = 3) },
	{ "write-large", ONE(WRITE, AT(R, 0), NOWHERE, .len = 70000, .seed = 4), true },
	{ "write-over", ONE(WRITE, AT(R, 0), NOWHERE, .off = 3000, .len = 10000, .seed = 5), true },
	{ "write-d",
	  { STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	    STEP(WRITE, AT(D, 0), NOWHERE, .off = 8192, .len = 66000, .seed = 6) },
	  2 },
	{ "over-d", ONE(WRITE, AT(D, 0), NOWHERE, .off = 20000, .len = 30000, .seed = 7), true },
	{ "append", ONE(APPEND, AT(R, 0), NOWHERE, .len = 5000, .seed = 8), true },
	{ "truncate-0", ONE(TRUNCATE, AT(R, 0), NOWHERE), true },
	{ "truncate-small", ONE(TRUNCATE, AT(R, 0), NOWHERE, .off = 70) },
	{ "truncate-down", ONE(TRUNCATE, AT(R, 0), NOWHERE, .off = 9001), true },
	{ "truncate-up", ONE(TRUNCATE, AT(R, 0), NOWHERE, .off = 200000), true },
	{ "truncate-up-d", ONE(TRUNCATE, AT(D, 0), NOWHERE, .off = 300001) },
	{ "rename", ONE(RENAME, AT(R, 0), TO(R, 1)), true },
	{ "rename-over", ONE(RENAME, AT(R, 0), TO(D, 0)), true },
	{ "rename-back", ONE(RENAME, AT(D, 0), TO(R, 0)), true },
	{ "exchange", ONE(RENAME, AT(R, 0), TO(D, 0), .mode = RENAME_EXCHANGE), true },
	{ "exchange-dir", ONE(RENAME, AT(R, 0), TO(D, 4), .mode = RENAME_EXCHANGE) },
	{ "whiteout",
	  { STEP(LINK, AT(R, 0), TO(R, 6)), STEP(RENAME, AT(R, 6), TO(D, 3), .mode = RENAME_WHITEOUT) },
	  2 },
	{ "link", ONE(LINK, AT(R, 0), TO(D, 1)), true },
	{ "unlink", ONE(UNLINK, AT(R, 0), NOWHERE), true },
	{ "unlink-d", ONE(UNLINK, AT(D, 0), NOWHERE), true },
	{ "mkdir", ONE(MKDIR, AT(R, 4), NOWHERE, DIR_MODE), true },
	{ "mkdir-d", ONE(MKDIR, AT(D, 4), NOWHERE, DIR_MODE) },
	{ "rmdir", ONE(RMDIR, AT(R, 4), NOWHERE) },
	{ "rmdir-d", ONE(RMDIR, AT(D, 4), NOWHERE), true },
	{ "move-dir", ONE(RENAME, AT(R, 4), TO(D, 4)) },
	{ "symlink", ONE(SYMLINK, AT(R, 5), NOWHERE, .seed = 35), true },
	{ "symlink-long", ONE(SYMLINK, AT(D, 5), NOWHERE, .seed = 32) },
	{ "setxattr", ONE(SETXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED, .len = 40, .seed = 9), true },
	{ "setxattr-long", ONE(SETXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED, .len = 6000, .seed = 10) },
	{ "removexattr", ONE(REMOVEXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED) },
	{ "chmod", ONE(CHMOD, AT(R, 0), NOWHERE, .mode = 04711) },
	{ "allocate", ONE(FALLOCATE, AT(R, 0), NOWHERE, .len = 50000), true },
	{ "allocate-keep",
	  ONE(FALLOCATE, AT(R, 0), NOWHERE, .mode = FALLOC_FL_KEEP_SIZE, .off = 100000, .len = 40000) },
	{ "punch",
	  ONE(FALLOCATE, AT(R, 0), NOWHERE, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, .off = 2000,
	      .len = 9000),
	  true },
	{ "punch-all", ONE(FALLOCATE, AT(R, 0), NOWHERE, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   .off = 4096, .len = 1 << 24) },
	{ "zero", ONE(FALLOCATE, AT(D, 0), NOWHERE, .mode = FALLOC_FL_ZERO_RANGE, .off = 10000, .len = 100000) },
	{ "clone",
	  { STEP(CREATE, AT(R, 2), NOWHERE, FILE_MODE), STEP(COPY, AT(R, 0), TO(R, 2), .len = 65536) },
	  2,
	  true },
	{ "clone-over", ONE(COPY, AT(R, 0), TO(D, 0), .len = 1 << 20), true },
	{ "clone-part", ONE(COPY, AT(D, 0), TO(R, 0), .off = 4096, .off2 = 8192, .len = 20480) },
	{ "clone-self", ONE(COPY, AT(R, 0), TO(R, 0), .off2 = 131072, .len = 65536) },
	{ "sync", ONE(SYNC, AT(R, 0), NOWHERE), true },
	{ "tick", ONE(TICK, AT(R, 0), NOWHERE) },
	{ "checkpoint", ONE(CHECKPOINT, AT(R, 0), NOWHERE), true },
	{ "tmpfile",
	  { STEP(TMPFILE, .at = { 0, R, FSOP_SELF }, NOWHERE, FILE_MODE),
	    STEP(WRITE, HELD(0), NOWHERE, .len = 9000, .seed = 11), STEP(LINK, HELD(0), TO(D, 2)),
	    STEP(CLOSE, HELD(0), NOWHERE) },
	  4,
	  true },
	{ "tmpfile-left",
	  { STEP(TMPFILE, .at = { 1, D, FSOP_SELF }, NOWHERE, FILE_MODE),
	    STEP(WRITE, HELD(1), NOWHERE, .len = 70000, .seed = 12) },
	  2 },
	{ "save",
	  { STEP(CREATE, AT(R, 6), NOWHERE, FILE_MODE), STEP(WRITE, AT(R, 6), NOWHERE, .len = 20000, .seed = 13),
	    STEP(RENAME, AT(R, 6), TO(R, 0)) },
	  3,
	  true },
	{ "save-synced",
	  { STEP(CREATE, AT(D, 6), NOWHERE, FILE_MODE), STEP(WRITE, AT(D, 6), NOWHERE, .len = 20000, .seed = 14),
	    STEP(SYNC, AT(R, 0), NOWHERE), STEP(RENAME, AT(D, 6), TO(D, 0)) },
	  4 },
	{ "unlink-open",
	  { STEP(OPEN, AT(R, 0), .to = { 2, R, 0 }), STEP(UNLINK, AT(R, 0), NOWHERE),
	    STEP(WRITE, HELD(2), NOWHERE, .off = 5000, .len = 9000, .seed = 15), STEP(TICK, AT(R, 0), NOWHERE),
	    STEP(CLOSE, HELD(2), NOWHERE) },
	  5 },
	{ "unlink-held", { STEP(OPEN, AT(D, 0), .to = { 3, R, 0 }), STEP(UNLINK, AT(D, 0), NOWHERE) }, 2 },
	{ "close-held", ONE(CLOSE, HELD(3), NOWHERE) },
	{ "remount", { { .action = FSWORLD_REMOUNT } }, 1 },
	{ "snapshot", { { .action = FSWORLD_SNAP } }, 1 },
	{ "delete-snapshot", { { .action = FSWORLD_SNAP_DELETE } }, 1 },
};

const size_t n_fsrows = ARRAY_LEN(fsrows);

const struct fsrow *fsrows_find(const char *name)
{
	for (size_t i = 0; i < n_fsrows; i++)
		if (!strcmp(fsrows[i].name, name))
			return &fsrows[i];
	abort();
}

const struct fsworld_step fsrows_end[FSROWS_END] = {
	STEP(SYNC, AT(R, 0), NOWHERE),
	STEP(CHECKPOINT, AT(R, 0), NOWHERE),
};

/* ---- what sequences begin with ---- */

static const struct fsworld_step empty_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
};

static const struct fsworld_step files_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
	STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(R, 0), NOWHERE, .len = 90000, .seed = 101),
	STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	STEP(COPY, AT(R, 0), TO(D, 0), .len = 90000),
	STEP(MKDIR, AT(D, 4), NOWHERE, DIR_MODE),
	STEP(SETXATTR, AT(R, 0), NOWHERE, .attr = TRUSTED, .len = 2500, .seed = 102),
	STEP(LINK, AT(R, 0), TO(D, 7)),
	{ .action = FSWORLD_SNAP },
	STEP(WRITE, AT(R, 0), NOWHERE, .off = 10000, .len = 20000, .seed = 103),
	STEP(WRITE, AT(D, 0), NOWHERE, .off = 40000, .len = 3000, .seed = 104),
	STEP(FALLOCATE, AT(D, 0), NOWHERE, .mode = FALLOC_FL_KEEP_SIZE, .off = 90000, .len = 30000),
};

/* Much in the log, and files without a name that nobody holds any more. */
static const struct fsworld_step log_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
	STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(D, 0), NOWHERE, .len = 100000, .seed = 111),
	STEP(CREATE, AT(D, 6), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(D, 6), NOWHERE, .len = 50000, .seed = 112),
	STEP(CHECKPOINT, AT(R, 0), NOWHERE),
	STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(R, 0), NOWHERE, .len = 300, .seed = 113),
	STEP(SETXATTR, AT(D, 0), NOWHERE, .len = 60, .seed = 114),
	STEP(OPEN, AT(D, 6), .to = { 4, R, 0 }),
	STEP(UNLINK, AT(D, 6), NOWHERE),
	STEP(TMPFILE, .at = { 5, R, FSOP_SELF }, NOWHERE, FILE_MODE),
	STEP(WRITE, HELD(5), NOWHERE, .len = 12000, .seed = 115),
	STEP(SYNC, AT(R, 0), NOWHERE),
	STEP(TRUNCATE, AT(D, 0), NOWHERE, .off = 50001),
	STEP(MKDIR, AT(R, 4), NOWHERE, DIR_MODE),
	STEP(COPY, AT(D, 0), TO(D, 0), .off2 = 131072, .len = 40960),
	STEP(SYNC, AT(R, 0), NOWHERE),
};

static const struct fsworld_step full_steps[] = {
	STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
	STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
	STEP(WRITE, AT(R, 0), NOWHERE, .len = 50000, .seed = 121),
	STEP(CREATE, AT(D, 0), NOWHERE, FILE_MODE),
	STEP(COPY, AT(R, 0), TO(D, 0), .len = 50000),
	STEP(WRITE, AT(D, 0), NOWHERE, .off = 10000, .len = 5000, .seed = 122),
};
/* A file of so many pieces that removing them takes several batches; few plans, because reading it takes long. */
#define PIECES (ORPHAN_STEP_ITEMS + 60)
static struct fsworld_step pieces_steps[PIECES + 3];

static void make_pieces(void)
{
	const struct fsworld_step first[] = {
		STEP(MKDIR, AT(R, 3), NOWHERE, DIR_MODE),
		STEP(CREATE, AT(R, 0), NOWHERE, FILE_MODE),
		STEP(WRITE, AT(R, 0), NOWHERE, .len = 4096, .seed = 131),
	};

	memcpy(pieces_steps, first, sizeof(first));
	for (size_t i = 0; i < PIECES; i++) {
		pieces_steps[3 + i] = first[2];
		pieces_steps[3 + i].op.off = (i + 1) * 8192;
		pieces_steps[3 + i].op.seed = 132 + i;
	}
}

const struct fsrows_base fsrows_bases[FSROWS_BASES] = {
	[FSROWS_EMPTY] = { "empty", empty_steps, ARRAY_LEN(empty_steps), 1000, 0, false },
	[FSROWS_FILES] = { "files", files_steps, ARRAY_LEN(files_steps), 1400, 0, false },
	[FSROWS_LOG] = { "log", log_steps, ARRAY_LEN(log_steps), 1400, 0, true },
	[FSROWS_FULL] = { "full", full_steps, ARRAY_LEN(full_steps), 800, 12, false },
	[FSROWS_PIECES] = { "pieces", pieces_steps, ARRAY_LEN(pieces_steps), 2000, 0, false },
};

void fsrows_base_make(enum fsrows_base_kind kind, struct fscrash_base *ret)
{
	const struct fsrows_base *b = &fsrows_bases[kind];

	if (kind == FSROWS_PIECES)
		make_pieces();
	fscrash_base_make(ret, &fscrash_mkfs, b->blocks, &fscrash_options, b->steps, b->n, b->fill, b->kill,
			  1000 + kind);
}

/*
 * fsrows.h - what is done to files, as a table: the operations that crash_fs and faults_fs go through, and the filesystems that
 * they begin with
 */
#ifndef ARBOR_TESTS_KIT_FSROWS_H
#define ARBOR_TESTS_KIT_FSROWS_H

#include "tests/kit/fscrash.h"

#define FSROW_STEPS 6u

struct fsrow {
	const char *name;
	struct fsworld_step step[FSROW_STEPS];
	unsigned n;
	bool core; /* one of those of which all sequences of three are tried by default */
};
extern const struct fsrow fsrows[];
extern const size_t n_fsrows;
const struct fsrow *fsrows_find(const char *name); /* aborts where there is none */
#define FSROWS_MAX 64u				   /* n_fsrows at the most */

/* What a plan ends with: in the log, then in the tree. */
#define FSROWS_END 2u
extern const struct fsworld_step fsrows_end[FSROWS_END];

enum fsrows_base_kind {
	FSROWS_EMPTY,
	FSROWS_FILES, /* two files that share data, a snapshot of them */
	FSROWS_LOG,   /* killed: much in the log, and files without a name that nobody holds any more */
	FSROWS_FULL,
	FSROWS_PIECES, /* a file of very many extents: removing them takes several batches */
	FSROWS_BASES
};
struct fsrows_base {
	const char *name;
	const struct fsworld_step *steps;
	size_t n;
	uint64_t blocks;
	unsigned fill; /* blocks left; 0: not filled */
	bool kill;
};
extern const struct fsrows_base fsrows_bases[FSROWS_BASES];
void fsrows_base_make(enum fsrows_base_kind, struct fscrash_base *ret);

#endif

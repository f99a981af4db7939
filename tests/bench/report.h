/*
 * report.h - medians and tables
 */
#ifndef ARBOR_TESTS_BENCH_REPORT_H
#define ARBOR_TESTS_BENCH_REPORT_H

#include "tests/bench/bench.h"

#define ENGINES 3u
#define RUNS_MAX 64u

extern const struct engine_ops *const engines[ENGINES]; /* arbor first */

/* All samples of one set of data; .seconds == 0: not measured. */
struct results {
	const char *set; /* "small", "large" */
	unsigned runs;
	unsigned threads; /* of ROW_COMMIT_N */
	uint64_t data_bytes;
	struct sample sample[RUNS_MAX][ENGINES][ROWS];
};

void report_table(const struct results *);
/* One line for each sample, for other programs; `path` is appended to. */
int report_csv(const struct results *, const char *path);

#endif

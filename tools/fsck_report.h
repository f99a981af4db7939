/*
 * fsck_report.h - what fsck.arbor prints: a line for each problem, questions, and the list of what was lost
 *
 * Lines go to standard output, because scripts read them: "PATH: what was found[: what was done] (inode N, problem P)".
 * Questions go there too; answers are read from standard input. Threads: as fsck_run.h.
 */
#ifndef ARBOR_TOOLS_FSCK_REPORT_H
#define ARBOR_TOOLS_FSCK_REPORT_H

#include "tools/fsck_run.h"

struct fsck_report {
	const char *device;
	bool quiet;    /* no remarks */
	bool plan;     /* what is said to be done was only tried */
	bool all;      /* one of the answers was: yes to all that follow */
	bool no_input; /* standard input has ended: no to all */
	char **lost;   /* a line each, oldest first */
	size_t n_lost, cap_lost;
};

/* For fsck_options; arg is a struct fsck_report. */
void fsck_report_line(void *arg, const struct fsck_line *);
bool fsck_report_ask(void *arg, const struct fsck_line *);

/* Whether there is somebody to be asked. */
bool fsck_report_terminal(void);

/* Prints what was lost; with a file, writes it there, too (which must not be there yet). A failure has been reported. */
int fsck_report_lost(struct fsck_report *, const char *file);

void fsck_report_release(struct fsck_report *); /* forgets what was lost */

#endif

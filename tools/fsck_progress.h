/*
 * fsck_progress.h - how far a check has come: a bar on a terminal, or lines for another program
 *
 * Threads: calls may come from any thread, never two at once.
 */
#ifndef ARBOR_TOOLS_FSCK_PROGRESS_H
#define ARBOR_TOOLS_FSCK_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* A bar on standard error. Does nothing unless that is a terminal. */
void progress_bar(const char *device);
/* Lines "<phase> <done> <total> <device>" to a descriptor, as e2fsck does for -C. */
void progress_to_fd(const char *device, int fd);

/* As struct fs_check_options wants it. */
void progress_show(void *arg, const char *phase, uint64_t done, uint64_t total);

/* Takes the bar off the terminal; the next progress_show brings it back. Safe in a signal handler. */
void progress_hide(void);

#endif

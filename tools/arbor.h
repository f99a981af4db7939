/*
 * arbor.h - the subcommands of arbor(1)
 *
 * Each is given its arguments, its own name first, and returns the exit status: 0, 1 after a failure, 2 for a wrong command
 * line, unless it says otherwise.
 */
#ifndef ARBOR_TOOLS_ARBOR_H
#define ARBOR_TOOLS_ARBOR_H

#include <jansson.h>
#include <limits.h>

enum { ARBOR_OK = 0, ARBOR_FAILED = 1, ARBOR_USAGE = 2 };

int arbor_status(int argc, char **argv);
int arbor_scrub(int argc, char **argv); /* exit status of its own, see arbor-scrub(1) */

/* A file of the mounted filesystem's .arbor directory: its path; its text (for mem_free), and that as JSON. Failures have been
 * reported. */
int arbor_control_path(const char *point, const char *name, char path[PATH_MAX]);
int arbor_ask(const char *point, const char *name, char **ret_text, json_t **ret);

#endif

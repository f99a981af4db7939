/*
 * arbor.h - the subcommands of arbor(1)
 *
 * Each is given its arguments, its own name first, and returns the exit status: 0, 1 after a failure, 2 for a wrong command
 * line.
 */
#ifndef ARBOR_TOOLS_ARBOR_H
#define ARBOR_TOOLS_ARBOR_H

enum { ARBOR_OK = 0, ARBOR_FAILED = 1, ARBOR_USAGE = 2 };

int arbor_status(int argc, char **argv);

#endif

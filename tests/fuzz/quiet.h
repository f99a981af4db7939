/*
 * quiet.h - the engine's messages go nowhere: almost every input is damaged, and each would be reported. Unless
 * ARBOR_FUZZ_TALK is in the environment: then they are shown.
 *
 * Defines LLVMFuzzerInitialize. Included once, by a target.
 */
#ifndef ARBOR_TESTS_FUZZ_QUIET_H
#define ARBOR_TESTS_FUZZ_QUIET_H

#include <stdlib.h>

#include "btree/err.h"
#include "tests/fuzz/fuzz.h"

static void quiet(void *arg, enum log_level level, const char *line)
{
	(void)arg, (void)level, (void)line;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	if (!getenv("ARBOR_FUZZ_TALK"))
		err_set_sink(quiet, NULL);
	return 0;
}

#endif

/*
 * simtrace.h - what a real device was told, as a run of the simulated disk
 *
 * A recording device (tests/mount/testdev.c) writes a trace: a record when a write, flush or discard begins, and one when it has
 * ended, in this order as one thread would have seen them. Loaded, it is a struct simdev whose trace is that run, so that every
 * crash of it can be made with simdev_branch and simdev_crash_begin:
 *
 *  - a write is an operation from where it began. Until a flush covers it, that is one which began behind its end and succeeded,
 *    a crash keeps, drops or tears it. A write that failed, or never ended, is not covered by any.
 *  - a flush is an operation where it ended.
 *  - a discard is a write of zeros or garbage.
 *
 * Each record has the time (CLOCK_MONOTONIC). A program on the mounted filesystem that notes the time when fsync returned can
 * so be asked what a crash before operation n must not have lost: what was acknowledged before simtrace_stamp(n).
 */
#ifndef ARBOR_TESTS_KIT_SIMTRACE_H
#define ARBOR_TESTS_KIT_SIMTRACE_H

#include "tests/kit/simdev.h"

enum simtrace_kind {
	SIMTRACE_WRITE = 1, /* followed by the data */
	SIMTRACE_WRITE_END,
	SIMTRACE_FLUSH,
	SIMTRACE_FLUSH_END,
	SIMTRACE_DISCARD,
	SIMTRACE_DISCARD_END,
};

/* The file is a row of these, in the machine's own byte order. */
struct simtrace_record {
	uint32_t kind;
	int32_t err;	   /* of an end */
	uint64_t id;	   /* 0, 1, 2 ... of what begins; the same at its end */
	uint64_t stamp_ns; /* never smaller than the one before */
	uint64_t addr, blocks;
};

struct simtrace {
	struct simdev *disk;
	uint64_t *stamp; /* of operation n */
	size_t stamps_cap;
	uint64_t failed; /* writes and flushes that did */
};

/* Loads a trace that began on `base`. A record that was cut off ends it. -EUCLEAN: not a trace. */
int simtrace_load(const char *path, const struct simdev_image *base, uint64_t seed, struct simtrace *ret);
void simtrace_release(struct simtrace *);

/* When operation n began: what was acknowledged before is in every crash before n. Behind the last one: UINT64_MAX. */
uint64_t simtrace_stamp(const struct simtrace *, uint64_t n);

#endif

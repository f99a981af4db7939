/*
 * fuzz.h - what a fuzz target is
 *
 * One fuzz_<name>.c for each decoder, and for the filesystem as a whole. It takes any bytes, decodes them the way the program would, and asserts what
 * must hold of whatever the decoder lets through. It reports nothing and keeps no state from one input to the next.
 *
 * Where a checksum stands in front, a target tries the input as it is and once more with the checksum put right, or
 * hardly any input would get further. The targets image and fsck take scripts, of changes to a whole image: see image.h.
 *
 * Each becomes two programs (meson.build): fuzz_<name>, a standalone program with the main function of driver.c,
 * which is also a test; and with -Dfuzz=true and clang, fuzz_<name>_libfuzzer.
 */
#ifndef ARBOR_TESTS_FUZZ_FUZZ_H
#define ARBOR_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * Optional. Writes a valid input that follows from `seed` and returns its length (at most cap; 0: did not fit). The
 * driver mutates these, so that inputs are nearly right where random bytes would be refused at the first field.
 */
size_t fuzz_seed(uint8_t *buf, size_t cap, uint64_t seed) __attribute__((weak));

/* Optional. How many runs the driver makes where nobody says: for targets that are slow. */
uint64_t fuzz_runs(void) __attribute__((weak));

/* Optional, for libFuzzer: another input near the one in buf. LLVMFuzzerMutate is its own way, by bytes. */
size_t LLVMFuzzerCustomMutator(uint8_t *buf, size_t len, size_t cap, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *buf, size_t len, size_t cap) __attribute__((weak));

/* Optional. Called once before the first input. */
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

#endif

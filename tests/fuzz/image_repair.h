/*
 * image_repair.h - a damaged image, repaired the way fsck.arbor does it
 */
#ifndef ARBOR_TESTS_FUZZ_IMAGE_REPAIR_H
#define ARBOR_TESTS_FUZZ_IMAGE_REPAIR_H

#include "tests/kit/simdev.h"

/* Whether it said that all is well now, so that it must be. *ret_lost: content was given up. */
bool image_repair(struct simdev *, bool *ret_lost);

#endif

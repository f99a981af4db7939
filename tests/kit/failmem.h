/*
 * failmem.h - allocations that fail on command
 *
 * Between start and stop every allocation through mem.h is counted, and the k-th fails (k from 1; 0: none), alone or
 * with all that follow. A test proves that no failure does harm by going through all of them:
 *
 *	for (uint64_t k = 1; ; k++) {
 *		failmem_start(k, FAILMEM_ONCE);
 *		err = what_is_tested();
 *		if (!failmem_stop())
 *			break;			// there were fewer than k
 *		assert_int_equal(err, -ENOMEM);
 *		...				// and nothing has changed
 *	}
 *
 * Not to be started or stopped while other threads allocate. But once started it may be armed again at any time: for programs
 * whose threads never rest.
 */
#ifndef ARBOR_TESTS_KIT_FAILMEM_H
#define ARBOR_TESTS_KIT_FAILMEM_H

#include <stdbool.h>
#include <stdint.h>

enum failmem_mode { FAILMEM_ONCE, FAILMEM_FROM_THEN_ON };

void failmem_start(uint64_t k, enum failmem_mode);
bool failmem_stop(void);       /* whether one was made to fail since start */
uint64_t failmem_count(void);  /* allocations asked for since start */

bool failmem_allow(void); /* asks, as an allocation through mem.h does */
void failmem_arm(uint64_t k, enum failmem_mode); /* the k-th from now on; 0: none */
uint64_t failmem_failed(void);			  /* how many were made to fail since start, or since it was armed */

#endif

/*
 * fill.h - blocks whose content is one number
 *
 * For tests that ask which write a block or a sector holds. Failures end the test (cmocka).
 */
#ifndef ARBOR_TESTS_KIT_FILL_H
#define ARBOR_TESTS_KIT_FILL_H

#include "tests/kit/simdev.h"

#define FILL_SECTORS (BLOCK_SIZE / SIMDEV_SECTOR)

uint64_t *fill_buffer(uint32_t blocks); /* for mem_free; not filled */
void fill_words(uint64_t *buf, uint32_t blocks, uint64_t value);

int fill_put(struct bdev *, uint64_t addr, uint32_t blocks, uint64_t value); /* bdev_write of such blocks */

/* The number a sector or a whole block holds; all its words must agree. */
uint64_t fill_sector(struct simdev *, uint64_t addr, unsigned sector);
uint64_t fill_get(struct simdev *, uint64_t addr);

#endif

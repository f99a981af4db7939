/*
 * mem.h - the one door to the heap
 *
 * Every allocation of btree/, wal/ and fs/ goes through here, so that tests can make any one of them fail and so that
 * tidy.py can tell a bare malloc. All return NULL when there is no memory; callers turn that into -ENOMEM before
 * anything is changed.
 */
#ifndef ARBOR_BTREE_MEM_H
#define ARBOR_BTREE_MEM_H

#include <stdbool.h>
#include <stddef.h>

void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_zalloc_array(size_t n, size_t each);	   /* NULL when n * each overflows */
void *mem_realloc(void *p, size_t bytes);	   /* as realloc; bytes > 0 */
void *mem_alloc_blocks(size_t bytes);		   /* aligned to BLOCK_SIZE for transfers, not zeroed */
char *mem_strdup(const char *s);
void mem_free(void *p);				   /* accepts NULL; for all of the above */

/*
 * Makes room for `need` elements of `each` bytes in a growing array: *cap is its capacity in elements. The array
 * moves; on failure -ENOMEM and nothing changes.
 */
int mem_grow(void **array, size_t *cap, size_t need, size_t each);

/* Tests: asked before every allocation; false makes it fail. NULL: none. Not to be changed while threads run. */
void mem_set_hook(bool (*allow)(void *arg, size_t bytes), void *arg);

#endif

#include "btree/mem.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "btree/types.h"

static bool (*hook)(void *arg, size_t bytes);
static void *hook_arg;

static bool allowed(size_t bytes)
{
	return !hook || hook(hook_arg, bytes);
}

void mem_set_hook(bool (*allow)(void *arg, size_t bytes), void *arg)
{
	hook = allow;
	hook_arg = arg;
}

void *mem_alloc(size_t bytes)
{
	return allowed(bytes) ? malloc(bytes ? bytes : 1) : NULL;
}

void *mem_zalloc(size_t bytes)
{
	return allowed(bytes) ? calloc(1, bytes ? bytes : 1) : NULL;
}

void *mem_zalloc_array(size_t n, size_t each)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, each, &bytes))
		return NULL;
	return mem_zalloc(bytes);
}

void *mem_realloc(void *p, size_t bytes)
{
	return allowed(bytes) ? realloc(p, bytes) : NULL;
}

void *mem_alloc_blocks(size_t bytes)
{
	void *p;

	if (!allowed(bytes) || posix_memalign(&p, BLOCK_SIZE, bytes ? bytes : 1))
		return NULL;
	return p;
}

char *mem_strdup(const char *s)
{
	size_t bytes = strlen(s) + 1;
	char *p = mem_alloc(bytes);

	return p ? memcpy(p, s, bytes) : NULL;
}

void mem_free(void *p)
{
	free(p);
}

int mem_grow(void **array, size_t *cap, size_t need, size_t each)
{
	size_t want = *cap ? *cap : 8;
	size_t bytes;
	void *p;

	if (need <= *cap)
		return 0;
	while (want < need)
		if (__builtin_mul_overflow(want, 2, &want))
			return -ENOMEM;
	if (__builtin_mul_overflow(want, each, &bytes))
		return -ENOMEM;
	p = mem_realloc(*array, bytes);
	if (!p)
		return -ENOMEM;
	*array = p;
	*cap = want;
	return 0;
}

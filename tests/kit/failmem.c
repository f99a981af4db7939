#include "tests/kit/failmem.h"

#include <stdatomic.h>
#include <stddef.h>

#include "btree/mem.h"

static atomic_uint_fast64_t asked;
static atomic_uint_fast64_t failed;
static atomic_uint_fast64_t fail_at; /* 0: never */
static atomic_int fail_mode;

bool failmem_allow(void)
{
	uint64_t n = atomic_fetch_add(&asked, 1) + 1;
	uint64_t at = atomic_load(&fail_at);

	if (at == 0 || n < at || (n > at && atomic_load(&fail_mode) == FAILMEM_ONCE))
		return true;
	atomic_fetch_add(&failed, 1);
	return false;
}

static bool allow(void *arg, size_t bytes)
{
	(void)arg;
	(void)bytes;
	return failmem_allow();
}

void failmem_start(uint64_t k, enum failmem_mode mode)
{
	atomic_store(&asked, 0);
	atomic_store(&failed, 0);
	atomic_store(&fail_at, k);
	atomic_store(&fail_mode, mode);
	mem_set_hook(allow, NULL);
}

void failmem_arm(uint64_t k, enum failmem_mode mode)
{
	atomic_store(&fail_at, 0);
	atomic_store(&failed, 0);
	atomic_store(&fail_mode, mode);
	if (k)
		atomic_store(&fail_at, atomic_load(&asked) + k);
}

uint64_t failmem_failed(void)
{
	return atomic_load(&failed);
}

bool failmem_stop(void)
{
	mem_set_hook(NULL, NULL);
	return atomic_load(&failed) > 0;
}

uint64_t failmem_count(void)
{
	return atomic_load(&asked);
}

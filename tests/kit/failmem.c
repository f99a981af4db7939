#include "tests/kit/failmem.h"

#include <stdatomic.h>
#include <stddef.h>

#include "btree/mem.h"

static atomic_uint_fast64_t asked;
static atomic_bool failed;
static uint64_t fail_at;
static enum failmem_mode fail_mode;

static bool allow(void *arg, size_t bytes)
{
	uint64_t n = atomic_fetch_add(&asked, 1) + 1;

	(void)arg;
	(void)bytes;
	if (fail_at == 0 || n < fail_at || (n > fail_at && fail_mode == FAILMEM_ONCE))
		return true;
	atomic_store(&failed, true);
	return false;
}

void failmem_start(uint64_t k, enum failmem_mode mode)
{
	atomic_store(&asked, 0);
	atomic_store(&failed, false);
	fail_at = k;
	fail_mode = mode;
	mem_set_hook(allow, NULL);
}

bool failmem_stop(void)
{
	mem_set_hook(NULL, NULL);
	return atomic_load(&failed);
}

uint64_t failmem_count(void)
{
	return atomic_load(&asked);
}

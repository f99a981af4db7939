/*
 * The counter `now` is the number of stamps drawn. Entering stores the counter's value in a slot that was free; leaving
 * stores 0. A stamp s is the counter's value before it was raised, so whoever was inside when s was drawn has a
 * value <= s in its slot, and s has passed when no slot holds such a value.
 *
 * A reader may load the counter, sleep, and only then take its slot. Its value is then older than it needs to be, which
 * merely delays others. But it may also take its slot after epoch_passed() has looked there and found it free. It must
 * then see everything that was done before the stamp was drawn, or it could pick up a pointer to what is being freed.
 * That is why the scan looks at a slot with a read-modify-write: the reader's own exchange on the same slot, coming
 * later, synchronises with it. No fences are needed, and race detectors follow the argument.
 *
 * The scan covers the slots below `high`, which only grows; a reader that takes a slot for the first time raises it
 * after having taken the slot, and either that is seen by the scan, or (both being read-modify-writes of `high`) the
 * reader synchronises with the scan there.
 *
 * `settled` remembers the newest stamp known to have passed, so that asking for older ones costs one load.
 */
#include "btree/epoch.h"

#include <errno.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

#include "btree/mem.h"
#include "btree/types.h"

#define SLOTS 512u
#define CACHE_LINE 64

struct slot {
	alignas(CACHE_LINE) atomic_uint_fast64_t entered; /* 0: free */
};

struct epoch {
	alignas(CACHE_LINE) atomic_uint_fast64_t now;
	alignas(CACHE_LINE) atomic_uint high;
	atomic_uint_fast64_t settled;
	struct slot slot[SLOTS];
};

/*
 * Where this thread left last. Threads that meet in a slot part for good: the later one stays where it ends up. Shared by
 * all epochs of the process, which is harmless.
 */
static _Thread_local unsigned hint;

int epoch_open(struct epoch **ret)
{
	/* In whole blocks: the only aligned allocation there is. */
	struct epoch *ep = mem_alloc_blocks((sizeof(*ep) + BLOCK_SIZE - 1) & ~(size_t)(BLOCK_SIZE - 1));

	if (!ep)
		return -ENOMEM;
	atomic_init(&ep->now, 1);
	atomic_init(&ep->high, 0);
	atomic_init(&ep->settled, 0);
	for (unsigned i = 0; i < SLOTS; i++)
		atomic_init(&ep->slot[i].entered, 0);
	*ret = ep;
	return 0;
}

void epoch_close(struct epoch *ep)
{
	mem_free(ep);
}

static void raise_high(struct epoch *ep, unsigned to)
{
	unsigned high = atomic_load(&ep->high);

	while (high < to && !atomic_compare_exchange_weak(&ep->high, &high, to))
		;
}

unsigned epoch_enter(struct epoch *ep)
{
	unsigned tries = 0;

	for (unsigned i = hint;; i = (i + 1) % SLOTS) {
		uint_fast64_t free = 0;

		if (atomic_compare_exchange_strong(&ep->slot[i].entered, &free, atomic_load(&ep->now))) {
			raise_high(ep, i + 1);
			hint = i;
			return i;
		}
		if (++tries % SLOTS == 0)
			sched_yield();
	}
}

void epoch_exit(struct epoch *ep, unsigned slot)
{
	/* The outermost exit comes last, so that nested ones do not make the hint wander. */
	hint = slot;
	atomic_store_explicit(&ep->slot[slot].entered, 0, memory_order_release);
}

uint64_t epoch_stamp(struct epoch *ep)
{
	return atomic_fetch_add(&ep->now, 1);
}

bool epoch_passed(struct epoch *ep, uint64_t stamp)
{
	uint_fast64_t known = atomic_load(&ep->settled);
	uint_fast64_t oldest;
	unsigned high;

	if (stamp <= known)
		return true;

	/* Everything stamped before the scan begins has passed unless a slot says otherwise. */
	oldest = atomic_load(&ep->now);
	high = atomic_fetch_or(&ep->high, 0);
	for (unsigned i = 0; i < high; i++) {
		uint_fast64_t entered = atomic_fetch_or(&ep->slot[i].entered, 0);

		if (entered && entered < oldest)
			oldest = entered;
	}
	while (known < oldest - 1 && !atomic_compare_exchange_weak(&ep->settled, &known, oldest - 1))
		;
	return stamp < oldest;
}

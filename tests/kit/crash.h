/*
 * crash.h - every way a run can end early, and what must be found afterwards
 *
 * A plan is carried out once, on a simulated disk that remembers every write. Then the disk is taken as it might be after a
 * crash right behind each of these writes, with each write that no flush had covered kept, dropped or torn; what is recovered
 * from it is looked at. Some of the states are crashed again inside what recovering them wrote, and again inside that, which
 * must not change what is found; on some the work goes on for a while before the next crash; on some the newest superblock
 * slot is lost besides.
 *
 * What is run and looked at is a *world*: stores (kv_crash.h) or filesystems (fscrash.h). This is what is the same for both.
 *
 * A state that differs from one tested before only by writes that did not happen is not tested again: the newest write is
 * never dropped.
 *
 * Every state can be tried alone: a *path* such as "c17:KKDT:99/r3:K:5" says at which disk operation of the plan, with what
 * choices and which seed, then the same inside the recovery. It is printed with every failure.
 */
#ifndef ARBOR_TESTS_KIT_CRASH_H
#define ARBOR_TESTS_KIT_CRASH_H

#include "tests/kit/simdev.h"

#define CRASH_DEPTH 3u
#define CRASH_CHOICES 1024u /* writes without a flush between them */

struct crash_options {
	uint64_t per_point;	  /* states at one point at the most; more are sampled */
	uint64_t per_plan;	  /* about so many of a plan, its points by chance; 0: all */
	uint64_t per_point_again; /* of one point inside recovery */
	unsigned points_one_in;	  /* not every point of a plan; 0, 1: every one */
	unsigned recovery_one_in; /* so many states are not crashed inside recovery for one that is; 0: none is */
	unsigned go_on_one_in;	  /* the same for going on */
	unsigned slot_one_in;	  /* the same for losing the newest superblock slot besides, where both are whole */
};

/* What every plan has; a world's own plans begin with it. */
struct crash_plan {
	const char *name; /* what reproduces it, for messages */
	const struct simdev_image *base;
	uint64_t seed;
	size_t first; /* crash points: in the step `first` and later; with opening, before them too */
	bool opening;
	bool shuffle; /* transfers complete in any order */
};

struct crash_level {
	char kind; /* c: in the plan; r: in what follows a crash; g: going on; s: the newest superblock slot is lost */
	uint64_t n, seed;
	char choice[CRASH_CHOICES + 1];
};

/* What a disk may hold after a crash: what the marks of a run say, or exactly this state. */
struct crash_allowed {
	const void *run, *exactly;
};

struct crash;
struct crash_world {
	const char *what; /* "the store" */
	/* Carries the plan out on its disk. 0, 1: it has an idle step and is not to be crashed, -EPROTO: printed. *ret_from: the
	 * first disk operation of interest. *ret_run, in every case, for kill and run_free. */
	int (*carry_out)(struct crash *, const struct crash_plan *, struct simdev *, void **ret_run,
			 uint64_t *ret_from);
	/* Recovers, compares, checks, and gives the disk back closed. 0: *ret_state is what was found, and recovering it was
	 * disk operations 0 .. *ret_ops - 1. 1: all is well, and nothing more is to be done here. -EPROTO: printed. */
	int (*look)(struct crash *, struct simdev *, struct crash_allowed, uint64_t seed, void **ret_state,
		    uint64_t *ret_ops);
	/* Works on a recovered disk that holds `state`. As carry_out. */
	int (*go_on)(struct crash *, struct simdev *, const void *state, uint64_t seed, void **ret_run);
	void (*kill)(void *run); /* ends the use of the disk as a kill does */
	void (*run_free)(void *run);
	void (*state_free)(void *state);
	void (*print_plan)(const struct crash_plan *);
};

/* Parts of the work that a crash should come into the middle of: noted by who wraps the calls that do it. */
enum crash_phase { CRASH_CHECKPOINT, CRASH_RECOVERY, CRASH_ORPHANS, CRASH_STEPS, CRASH_PHASES };
extern const char *const crash_phase_names[CRASH_PHASES];

struct crash {
	const struct crash_world *world;
	struct crash_options opt;
	struct crash_level replay[CRASH_DEPTH]; /* only this state */
	unsigned n_replay;

	uint64_t plans, idle, points, states, recoveries, went_on, slots; /* counted */
	uint64_t refused;						  /* steps, for want of room */
	uint64_t inside[CRASH_PHASES];					  /* states whose crash came into one */
	const struct crash_plan *plan;
	struct crash_level at[CRASH_DEPTH]; /* where we are */
	unsigned depth;
	struct crash_trace *trace[CRASH_DEPTH]; /* phases of the run that is crashed at this depth */
};

/* 0: all well. 1: the plan has an idle step (nothing was tested). -EPROTO: a failure, which has been printed. */
int crash_plan(struct crash *, const struct crash_plan *);

/* Fills in c->replay. false: not a path. */
bool crash_parse(struct crash *, const char *path);

void crash_print_failure(const struct crash *, const char *what);

/* The part from begin to end; they may nest. Nothing where no plan is under way. */
void crash_phase_begin(enum crash_phase);
void crash_phase_end(enum crash_phase);

#endif

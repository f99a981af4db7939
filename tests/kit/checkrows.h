/*
 * checkrows.h - every problem of items that the check knows, made by hand: for the check, for the repair, for images
 */
#ifndef ARBOR_TESTS_KIT_CHECKROWS_H
#define ARBOR_TESTS_KIT_CHECKROWS_H

#include "tests/kit/checkkit.h"

/* Puts the damage into the batch of a filesystem as checkkit_init makes it, and says by ck_want what is to be told. */
struct checkrow {
	const char *name;
	void (*damage)(struct checkkit *);
};
extern const struct checkrow checkrows[];
extern const size_t n_checkrows;
#define CHECKROWS_MAX 80u /* n_checkrows at the most */

#endif

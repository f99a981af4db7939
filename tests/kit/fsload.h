/*
 * fsload.h - what a filesystem holds, read through a driver into a model
 *
 * Names, attributes, data, extended attributes; links by inode number. So two states are compared as two models are.
 */
#ifndef ARBOR_TESTS_KIT_FSLOAD_H
#define ARBOR_TESTS_KIT_FSLOAD_H

#include "tests/kit/fsops.h"

/* -EPROTO with a text in why: something could not be read, or contradicts itself. `answer` is working memory. */
int fsload(struct fs_driver *, struct fsop_answer *answer, bool times, struct fsm **ret, char *why, size_t why_size);
void fsload_inode(const struct fsop_attrs *, struct fsm_inode *ret); /* attributes only */

#endif

/*
 * namekit.h - operations on names as tables: what is done to which paths, and what it must answer
 *
 * Paths begin at live's root, or at the node held by STEP_HOLD: "@" or "@/name". All but the last part is looked up.
 * References taken are given back, but for that of STEP_HOLD.
 */
#ifndef ARBOR_TESTS_KIT_NAMEKIT_H
#define ARBOR_TESTS_KIT_NAMEKIT_H

#include "tests/kit/fskit.h"

enum step_op {
	STEP_END,
	STEP_MKNOD,
	STEP_SYMLINK, /* at a, to b */
	STEP_LINK,    /* a, as b */
	STEP_UNLINK,
	STEP_RMDIR,
	STEP_RENAME,
	STEP_LOOKUP,
	STEP_FLAGS,
	STEP_NLINK, /* what getattr must say: */
	STEP_SIZE,
	STEP_MODE,
	STEP_SAME, /* a and b are one inode */
	STEP_HOLD, /* one reference more on a, for "@" */
	STEP_DROP,
};

struct step {
	enum step_op op;
	const char *a, *b;
	unsigned arg;
	int err;
};

#define MKNOD(a_, mode_, err_) { .op = STEP_MKNOD, .a = (a_), .arg = (mode_), .err = (err_) }
#define CREATE(a_, err_) MKNOD(a_, S_IFREG | 0644, err_)
#define MKDIR(a_, err_) MKNOD(a_, S_IFDIR | 0755, err_)
#define SYMLINK(a_, to_, err_) { .op = STEP_SYMLINK, .a = (a_), .b = (to_), .err = (err_) }
#define LINK(a_, b_, err_) { .op = STEP_LINK, .a = (a_), .b = (b_), .err = (err_) }
#define UNLINK(a_, err_) { .op = STEP_UNLINK, .a = (a_), .err = (err_) }
#define RMDIR(a_, err_) { .op = STEP_RMDIR, .a = (a_), .err = (err_) }
#define RENAME(a_, b_, flags_, err_) { .op = STEP_RENAME, .a = (a_), .b = (b_), .arg = (flags_), .err = (err_) }
#define LOOKUP(a_, err_) { .op = STEP_LOOKUP, .a = (a_), .err = (err_) }
#define FLAGS(a_, flags_) { .op = STEP_FLAGS, .a = (a_), .arg = (flags_) }
#define NLINK(a_, n_) { .op = STEP_NLINK, .a = (a_), .arg = (n_) }
#define SIZE(a_, n_) { .op = STEP_SIZE, .a = (a_), .arg = (n_) }
#define MODE(a_, mode_) { .op = STEP_MODE, .a = (a_), .arg = (mode_) }
#define SAME(a_, b_) { .op = STEP_SAME, .a = (a_), .b = (b_) }
#define HOLD(a_) { .op = STEP_HOLD, .a = (a_) }
#define DROP { .op = STEP_DROP }

/* A test of a table: makes a filesystem, runs the steps up to STEP_END, checks it, also after it is mounted again. */
#define STEPS_MAX 14u
struct step_row {
	const char *name;
	struct step step[STEPS_MAX];
};
void steps_test(void **state); /* *state: struct step_row */

#endif

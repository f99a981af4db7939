/*
 * repair.h - mends what fs_check finds
 *
 * Stands on a store that is whole (store_rebuild has seen to that, where it was needed) and open for writing. Each repair
 * is one batch or a few that leave no new problem between them, so a crash leaves a filesystem with some repairs made.
 * Rounds: check, mend what was found, check again, until nothing is found or nothing more is mended.
 */
#ifndef ARBOR_FS_REPAIR_H
#define ARBOR_FS_REPAIR_H

#include "fs/check.h"

struct fs_repair_options {
	struct fs_check_options check; /* report is called for problems that stay, and with `data` also data is checked */
	/* Whether to mend this one. `action`: what would be done, one line ("give it the name /lost+found/#17"). NULL: yes. */
	bool (*ask)(void *arg, const struct fs_problem_report *, const char *action);
	/* It was done. `lost` tells that content or a name was given up. May be NULL. */
	void (*done)(void *arg, const struct fs_problem_report *, const char *action, bool lost);
	void *arg;
};

struct fs_repair_result {
	struct fs_check_result check; /* the last one */
	uint64_t mended, refused, left;
	unsigned rounds;
};

/* 0: clean now; -EUCLEAN: problems are left; else what kept it from going on. */
int fs_repair(struct fs *, const struct fs_repair_options *, struct fs_repair_result *ret);

/*
 * Marks what store_rebuild could not read: makes FS_ITEM_LOST items. For rebuild_options.lost; arg is not used. fs_mount refuses
 * a filesystem with such marks with -EUCLEAN (unless fs_options.repair), and fs_repair turns them into what they mean: file
 * content that reads as EIO (FS_EXTENT_LOST), names that are gone, inodes to be found in lost+found.
 */
struct rebuild;
struct rebuild_lost;
int fs_repair_lost(void *arg, struct rebuild *, const struct rebuild_lost *, size_t n);
/*
 * The same behind a salvage, whose ranges may be older than what refers to them: one more mark over everything. So where an inode
 * says that it had more than is there, that is lost, not a wrong count.
 */
int fs_repair_salvaged(void *arg, struct rebuild *, const struct rebuild_lost *, size_t n);

/* For salvage_options.identify: knows FS_ITEM_VOLUME. */
struct super;
bool fs_repair_identify(void *arg, struct key, const void *val, size_t len, struct super *);

#endif

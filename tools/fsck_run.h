/*
 * fsck_run.h - looking at a filesystem, and mending it, on any device
 *
 * The two halves of fsck.arbor. Looking never writes: it replays the log in memory, checks everything and says what is
 * wrong. Mending begins where looking ended, on a device open for writing, and ends with another look. What to do with a
 * problem is the caller's: a mode, and in one of them a question for each.
 *
 * Nothing is printed here but by the call-backs; the engine's own lines go where err_set_sink says.
 *
 * Threads: one, but `progress` and `line` may be called from others, never two at once.
 */
#ifndef ARBOR_TOOLS_FSCK_RUN_H
#define ARBOR_TOOLS_FSCK_RUN_H

#include "btree/err.h"
#include "btree/super.h"
#include "fs/check.h"

enum fsck_mode {
	FSCK_NO,    /* nothing is mended */
	FSCK_PREEN, /* what is derived from something else is */
	FSCK_YES,   /* everything is */
	FSCK_ASK,   /* what the answer to each question says */
};

/* One thing that was found, or (problem 0) a remark. */
struct fsck_line {
	unsigned problem; /* enum fs_problem */
	const char *view; /* NULL: live */
	const char *path; /* NULL: not known */
	uint64_t ino;
	const char *text;   /* what was found */
	const char *action; /* what was done about it; asking: what would be. NULL: nothing */
	bool lost;	    /* something that was there before is given up by it */
};

struct fsck_options {
	enum fsck_mode mode;
	bool data;	  /* read and verify the content of files, too */
	bool salvage;	  /* where the tree cannot be read, look for its nodes on the whole device */
	bool drop_log;	  /* FSCK_ASK: what stands behind damage of the log is given up without a question */
	unsigned threads; /* for data; 0: as fs_check */
	void (*line)(void *arg, const struct fsck_line *); /* NULL: silent */
	bool (*ask)(void *arg, const struct fsck_line *);  /* FSCK_ASK */
	void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
	void *arg;
};

/* What a look has found. */
struct fsck_look {
	bool no_super;	   /* no superblock verifies */
	bool super_bad;	   /* one of the two does not */
	bool root_lost;	   /* no copy of the files' root can be read */
	bool dirty;	   /* there is a log to be replayed, or it was not unmounted */
	bool log_damaged;  /* it cannot be read to its end */
	bool structure;	   /* something below the items is damaged: it takes a rebuild */
	uint64_t log_lost; /* operations behind the damage, at least */
	uint64_t copies;   /* places that do not verify and whose content stands elsewhere too */
	uint64_t items;	   /* problems of items: what fs_repair is for */
	uint64_t problems; /* all of them */
	uint64_t replayed; /* records of the log */
	uint64_t blocks_used, blocks;
	struct fs_check_result check;
};

/* 0: it was looked at, see *ret; errors: that was not possible. -ENODEV, -EPROTONOSUPPORT, -ENXIO as super_load. */
int fsck_look(struct bdev *, const struct fsck_options *, struct fsck_look *ret);

struct fsck_result {
	uint64_t mended, lost; /* problems that were; those of them that something was lost with */
	uint64_t left;	       /* problems that are still there */
	bool refused;	       /* some only because the mode says so */
	bool want_salvage;     /* what is left needs `salvage` */
	bool no_room;	       /* there was no room to build a new tree in */
	bool changed;	       /* something was written */
	struct fsck_look last; /* how it looks now; of the look before where nothing was done */
};

/* `look`: of this device, unchanged since. 0, see *ret; errors: mending was not possible, and could not be finished. */
int fsck_mend(struct bdev *, const struct fsck_options *, const struct fsck_look *look, struct fsck_result *ret);

/* Mounts it as both do: no threads, and though a repair of it was cut short. Result as fs_mount. */
int fsck_mount(struct bdev *, bool read_only, struct fs **ret);

/* Whether the error means damage, and not that it could not be looked at. */
static inline bool fsck_is_damage(int err)
{
	return err == -EUCLEAN || err == -EBADMSG || err == -EIO;
}

/* Operations that the log's region tells of from `lsn` on, whether they can be read or not. */
int fsck_log_behind(struct bdev *, const struct super *, uint64_t lsn, uint64_t *ret);

#endif

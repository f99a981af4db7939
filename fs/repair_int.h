/*
 * repair_int.h - what the files of the repair share
 *
 * A round collects what the check tells (struct repair_report), then goes through it by kind of problem, in a fixed order. A
 * mend looks at the items anew, because others may have changed them since; says what it would do (repair_agree); does it in
 * one batch, or several that are right one by one (struct edit); and says that it did (repair_done). What turns out to be
 * mended already is passed over in silence.
 *
 * What one mend may rely on: counts (links, names in a directory, blocks) are set first, to what the check has counted; all
 * other mends change them by what they change. So they stay right, in whatever order the others come.
 */
#ifndef ARBOR_FS_REPAIR_INT_H
#define ARBOR_FS_REPAIR_INT_H

#include "fs/check_int.h"
#include "fs/repair.h"

struct repair_report {
	enum fs_problem problem;
	bool live;
	uint64_t ino, where, want;
	char *view, *path, *text; /* path: NULL: none known */
};

/* A name of an inode that somebody has to know all names of. */
struct repair_name {
	uint64_t ino, dir, off; /* off: of its key */
};

struct repair_refused {
	uint64_t ino, where;
	enum fs_problem problem;
};

struct repair {
	struct fs *fs;
	struct view *view; /* live */
	const struct fs_repair_options *opt;
	struct fs_repair_result result;

	struct repair_report *reports; /* of the last check */
	size_t n_reports, cap_reports;
	bool more;  /* there were more than are kept */
	int no_mem; /* -ENOMEM: so will this round end */

	struct repair_name *names; /* sorted by ino, dir, off */
	size_t n_names, cap_names;
	struct check_gap *gaps; /* sorted by from */
	size_t n_gaps, cap_gaps;
	struct repair_refused *refused; /* sorted but for the last n_refused - n_sorted */
	size_t n_refused, cap_refused, n_sorted;

	bool gaps_stay; /* this round: something that depends on the marks was not mended */
	char action[CHECK_SHOWN_MAX + 300];
};

/* ---- repair.c ---- */

/* What would be done, one line; whether to do it. */
bool repair_agree(struct repair *, const struct repair_report *, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void repair_done(struct repair *, const struct repair_report *, bool lost);
/* One more thing to be listed that came of it: the same report, another action. */
void repair_note(struct repair *, const struct repair_report *, bool lost, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* One batch: the inodes it changes, loaded once and put together. */
#define EDIT_INODES 4u

struct edit {
	struct repair *r;
	struct op op;
	struct inode in[EDIT_INODES];
	bool gone[EDIT_INODES]; /* not to be put */
	unsigned n;
	uint64_t raised; /* a number that was in use at or beyond the limit */
};

int edit_begin(struct repair *, struct edit *);
/* The copy that edit_commit puts. -ESTALE: there is none. */
int edit_inode(struct edit *, uint64_t ino, struct inode **ret);
/* One that was not there. Counts it, and raises the limit of numbers where it must. */
int edit_make(struct edit *, const struct inode *, struct inode **ret);
/* All its items go with the batch; there are few. */
int edit_remove(struct edit *, uint64_t ino);
int edit_commit(struct edit *); /* empty again afterwards */
/* How most mends end: without an error so far it commits, and what the report tells is done. Ends it; the first error. */
int edit_finish(struct edit *, int err, const struct repair_report *, bool lost);
void edit_end(struct edit *); /* accepts one that failed to begin */

static inline bool repair_is_damage(int err)
{
	return check_is_damage(err);
}

/* ---- repair_inode.c ---- */

/* What an inode has, from one look at its items. */
struct repair_facts {
	bool inode, xattrs;
	uint64_t items; /* all but the inode itself */
	uint64_t names, subdirs;
	uint64_t data, claims, lost; /* extents of each kind */
	uint64_t blocks;	     /* of all of them */
	uint64_t end;		     /* of data and lost ones */
	uint64_t inlines, inline_end;
	bool inline_gap, inline_zero;
};
int repair_facts(struct repair *, uint64_t ino, struct repair_facts *ret);
/* Deletes its items of one type in steps; keeps the inode's number of blocks, if there is one. */
int repair_strip(struct repair *, uint64_t ino, uint8_t type);

int mend_no_root(struct repair *, const struct repair_report *);
int mend_inode_bad(struct repair *, const struct repair_report *);
int mend_item_no_inode(struct repair *, const struct repair_report *);
int mend_inline_bad(struct repair *, const struct repair_report *);

/* ---- repair_count.c ---- */

int mend_dir_size(struct repair *, const struct repair_report *);
int mend_links(struct repair *, const struct repair_report *);
int mend_blocks(struct repair *, const struct repair_report *);
int mend_dir_parent(struct repair *, const struct repair_report *);
int mend_xattr_state(struct repair *, const struct repair_report *);
int mend_ino_limit(struct repair *, const struct repair_report *);
int mend_inode_count(struct repair *, const struct repair_report *);
int mend_xattr_bad(struct repair *, const struct repair_report *);
int mend_orphan_bad(struct repair *, const struct repair_report *);

/* ---- repair_names.c ---- */

int repair_ino_cmp(const void *, const void *); /* of uint64_t, for qsort */
/* All names, wherever, of the inodes (sorted), into r->names. */
int repair_find_names(struct repair *, const uint64_t *inos, size_t n);
/* Those of one inode. */
const struct repair_name *repair_names_of(const struct repair *, uint64_t ino, size_t *ret_n);

union repair_dirent {
	struct disk_dirent d;
	uint8_t bytes[sizeof(struct disk_dirent) + FS_NAME_MAX];
};
/* -ENOENT: it is not there any more. */
int repair_read_name(struct repair *, uint64_t dir, uint64_t off, union repair_dirent *ret, size_t *ret_len);

/* The directory has so many more names and subdirectories. Nothing where it has no inode: whoever makes that counts. */
int edit_account(struct edit *, uint64_t dir, int names, int subdirs);
/* The directory of that name; makes it. A batch of its own. */
int repair_lost_found(struct repair *, uint64_t *ret);
/* The inode, one of the edit's, gets a name in it. Its link count is the caller's. */
int edit_attach(struct edit *, uint64_t lost_found, struct inode *);
/* All its names, then itself. */
int repair_remove_named(struct repair *, uint64_t ino);

int mend_name_no_inode(struct repair *, const struct repair_report *);
int mend_name_type(struct repair *, const struct repair_report *);
int mend_name_hash(struct repair *, const struct repair_report *);
int mend_name_twice(struct repair *, const struct repair_report *);
int mend_dir_twice(struct repair *, const struct repair_report *);
int mend_dir_loop(struct repair *, const struct repair_report *);
int mend_no_name(struct repair *, const struct repair_report *);

/* ---- repair_data.c ---- */

int mend_extent_overlap(struct repair *, const struct repair_report *);
int mend_extent_beyond(struct repair *, const struct repair_report *);
int mend_data_bad(struct repair *, const struct repair_report *);

/* ---- repair_lost.c ---- */

/* The marks, into r->gaps. */
int repair_read_gaps(struct repair *);
/* Whether the key is among what was lost. */
bool repair_in_gap(const struct repair *, struct key);
/*
 * What no item covers in front of byte `end`, and an item that was lost may have covered, becomes lost content. *ret_blocks: how
 * much. An inode that is there counts them. Tells each range.
 */
int repair_fill_gaps(struct repair *, const struct repair_report *, uint64_t ino, uint64_t end, uint64_t *ret_blocks);

int mend_content_lost(struct repair *, const struct repair_report *);
int mend_lost_mark(struct repair *, const struct repair_report *);
int mend_gone(struct repair *, const struct repair_report *);

#endif

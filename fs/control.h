/*
 * control.h - what the filesystem says of itself, and may be told: the hidden directory .arbor of live's root
 *
 *	status	anybody may read
 *	scrub	for root and who has mounted it: reading says what the scrub is at and has found; each write is one command:
 *		"start", with "rate=BYTES" (a second), "from=INODE", "resume" as wanted; "stop"
 *
 * These nodes have ids of their own (view FS_CONTROL_VIEW) and no place in the tree. A text is made when it is looked up and
 * does not change while the node is referred to; each lookup makes a new node, so that no kernel cache shows an old one.
 * The FUSE adapter asks control_is_node first and sends what is ours here; everything else that would change something is -EPERM.
 * Entries must be answered with timeouts of 0.
 */
#ifndef ARBOR_FS_CONTROL_H
#define ARBOR_FS_CONTROL_H

#include "fs/fs.h"

#define FS_CONTROL_VIEW UINT64_C(0xffff)

static inline bool control_is_node(uint64_t node)
{
	return node >> FS_VIEW_SHIFT == FS_CONTROL_VIEW;
}

struct control;

/* `about` is put into the status by whoever mounts: source, mount point, options; "key", "value" pairs, NULL at the end. */
int control_open(struct fs *, const char *const *about, struct control **ret);
void control_close(struct control *);

/* parent: FS_ROOT with FS_CONTROL_NAME, or the control directory with a name in it. */
int control_lookup(struct control *, uint64_t parent, const char *name, struct fs_entry *ret);
void control_forget(struct control *, uint64_t node, uint64_t n);
int control_getattr(struct control *, uint64_t node, struct fs_entry *ret);
int control_read(struct control *, uint64_t node, uint64_t off, size_t size, const void **ret_data, size_t *ret_len);
/* One command, whole. -EINVAL: there is none like it; -EPERM: nothing can be told to this node; or what came of it. */
int control_write(struct control *, uint64_t node, const void *buf, size_t size);
/* O_TRUNC, which comes before a write. -EPERM where there is nothing to be written. */
int control_truncate(struct control *, uint64_t node, struct fs_entry *ret);
int control_readdir(struct control *, uint64_t node, uint64_t pos, int (*each)(void *arg, const struct fs_dirent *),
		    void *arg);

/* The same text, as `arbor status --json` prints it. *ret is from mem_alloc. */
int control_status(struct control *, char **ret);

#endif

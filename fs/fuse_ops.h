/*
 * fuse_ops.h - the handlers: decode a request, make one call into fs/, answer
 *
 * What every handler shares is here: how an entry is answered, and the one function through which errors go out.
 */
#ifndef ARBOR_FS_FUSE_OPS_H
#define ARBOR_FS_FUSE_OPS_H

#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 18)
#include <fuse_lowlevel.h>

#include "fs/control.h"
#include "fs/fs.h"
#include "fs/fuse_options.h"

/* What the handlers work on: libfuse's userdata. */
struct mounted {
	struct fs *fs;		 /* NULL once it has ended */
	struct control *control; /* NULL: none */
	const struct mount_options *opt;
	struct loop *loop; /* NULL before and after it serves */
	bool setxattr_ext; /* the kernel says more of a SETXATTR */
	/* Ends the filesystem: final checkpoint. Called once, by DESTROY or when the loop has ended. */
	void (*end)(struct mounted *);
};

extern const struct fuse_lowlevel_ops fuse_ops;

static inline struct mounted *mounted_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* We are the only ones to change anything, so what the kernel has learnt stays right. */
#define TIMEOUT_FOREVER 1e9

/* err: 0 or negative. */
void answer_err(fuse_req_t, int err);
/* 0: the entry, else the error. If it does not arrive, the reference is given back. */
void answer_entry(fuse_req_t, int err, const struct fs_entry *);
void entry_to_fuse(const struct fs_entry *, struct fuse_entry_param *ret);
/* Who asks. */
struct fs_caller caller_of(fuse_req_t);

/* fuse_file.c */
void op_read(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);
void op_write(fuse_req_t, fuse_ino_t, const char *, size_t, off_t, struct fuse_file_info *);
void op_fsync(fuse_req_t, fuse_ino_t, int, struct fuse_file_info *);
void op_fallocate(fuse_req_t, fuse_ino_t, int, off_t, off_t, struct fuse_file_info *);
void op_lseek(fuse_req_t, fuse_ino_t, off_t, int, struct fuse_file_info *);
void op_copy_file_range(fuse_req_t, fuse_ino_t, off_t, struct fuse_file_info *, fuse_ino_t, off_t,
			struct fuse_file_info *, size_t, int);
void op_ioctl(fuse_req_t, fuse_ino_t, unsigned, void *, struct fuse_file_info *, unsigned, const void *, size_t,
	      size_t);

/* fuse_dir.c */
void dir_looked_up(fuse_req_t, fuse_ino_t dir); /* a name in it */
void op_readdir(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);
void op_readdirplus(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);

#endif

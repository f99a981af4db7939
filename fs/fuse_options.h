/*
 * fuse_options.h - the command line of mount.arbor
 *
 *	mount.arbor SOURCE MOUNTPOINT [-o OPTION,...] [-f] [-v] ...
 *
 * Knows nothing of FUSE and prints nothing. Options that mount(8) and fstab give to every filesystem, and that mean nothing
 * here, are accepted; everything else unknown is an error.
 */
#ifndef ARBOR_FS_FUSE_OPTIONS_H
#define ARBOR_FS_FUSE_OPTIONS_H

#include "fs/fs.h"

enum mount_transport {
	MOUNT_AUTO,  /* io_uring where the kernel permits it */
	MOUNT_DEV,   /* reads and writes of /dev/fuse */
	MOUNT_URING, /* io_uring or an error */
};

enum mount_switch { MOUNT_DEFAULT, MOUNT_OFF, MOUNT_ON };

/* About what it takes to wake an idle CPU of a virtual machine and come to run there. */
#define MOUNT_SPIN_DEFAULT 50u

struct mount_options {
	const char *source, *mountpoint; /* of argv */
	bool help, version;		 /* nothing else matters then */
	bool foreground, verbose, debug;

	bool read_only, acl, discard, writeback, nonempty;
	enum fs_atime atime;
	bool nodiratime;
	size_t cache_bytes;  /* nodes in memory; 0: by the machine's memory */
	size_t buffer_bytes; /* data on its way to the device; 0: the engine's default */
	unsigned commit_ms;  /* 0: the engine's default */

	enum mount_transport transport;
	unsigned readers, threads; /* 0: by the number of CPUs */
	unsigned spin_us;	   /* look for the next request this long before sleeping */

	/* MOUNT_DEFAULT: on for root, off for others (allow_other), as the source is (fuseblk) */
	enum mount_switch allow_other, fuseblk, dev, suid;
	bool noexec, sync, dirsync, nosymfollow;
};

#define MOUNT_ERROR_SIZE 256u

/* -EINVAL: `error` says what is wrong, in one line. */
int mount_options_parse(int argc, char **argv, struct mount_options *ret, char error[MOUNT_ERROR_SIZE]);

/* What one -o list asks for, on top of what *o says already. */
int mount_options_list(const char *list, struct mount_options *o, char error[MOUNT_ERROR_SIZE]);

/* The usage text, with a line for each option. */
extern const char *const mount_usage;

/* The options in effect as one -o list, for messages and the status; buf is returned. */
char *mount_options_text(const struct mount_options *, char *buf, size_t size);

#endif

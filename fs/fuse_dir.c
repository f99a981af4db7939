/*
 * READDIR and READDIRPLUS. Without OPENDIR there is no handle, so each request says where it goes on: positions are those of
 * fs_readdir, which stay right whatever changes. The kernel keeps the whole listing until the directory changes.
 *
 * Attributes with names. Who looks at each file he lists (ls -l, tar, rsync) is served ten times as fast when names come with
 * attributes, who only wants names a third as fast, because the kernel makes an inode for each. The kernel asks for them at the
 * beginning of every directory, and further on where it has seen lookups. So do we: a thread gets its first directory
 * without, and if lookups follow in it, all later ones with. What that costs at most, once, is a lookup for each name of the
 * first answer, some two hundred.
 */
#include <errno.h>
#include <linux/fuse.h>
#include <stdatomic.h>

#include "fs/fuse_loop.h"
#include "fs/fuse_ops.h"

/* ---- who wants attributes ---- */

/* Thread << 32 | directory << 1 | whether it looks. One word, so that it needs no lock; what is lost by a race or by two
 * threads that share a place costs some lookups. */
#define VISITORS 256u
static _Atomic uint64_t visitors[VISITORS];

static uint64_t visitor_make(fuse_req_t req, fuse_ino_t dir)
{
	return (uint64_t)(uint32_t)fuse_req_ctx(req)->pid << 32 | (uint32_t)(dir << 1);
}

static _Atomic uint64_t *visitor_of(uint64_t visitor)
{
	return &visitors[(visitor >> 32) % VISITORS];
}

void dir_looked_up(fuse_req_t req, fuse_ino_t dir)
{
	uint64_t visitor = visitor_make(req, dir);

	if (atomic_load_explicit(visitor_of(visitor), memory_order_relaxed) == visitor)
		atomic_store_explicit(visitor_of(visitor), visitor | 1, memory_order_relaxed);
}

/* A directory is begun. */
static bool wants_attributes(fuse_req_t req, fuse_ino_t dir)
{
	uint64_t visitor = visitor_make(req, dir);
	uint64_t old = atomic_load_explicit(visitor_of(visitor), memory_order_relaxed);

	if (old >> 32 == visitor >> 32 && old & 1)
		return true;
	atomic_store_explicit(visitor_of(visitor), visitor, memory_order_relaxed);
	return false;
}

/* ---- listing ---- */

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	bool plus; /* the form of the answer; an entry in it need not have attributes */
};

/* Non-zero: it does not fit any more. */
static int add(void *arg, const struct fs_dirent *d)
{
	struct listing *l = arg;
	size_t room = l->size - l->used;
	size_t need;

	if (l->plus) {
		struct fuse_entry_param e = {
			.attr = { .st_ino = d->ino, .st_mode = d->type << 12 },
		};

		/* "." and "..", and whatever comes without attributes, take no reference: node 0. */
		if (d->entry)
			entry_to_fuse(d->entry, &e);
		need = fuse_add_direntry_plus(l->req, l->buf + l->used, room, d->name, &e, (off_t)d->next);
	} else {
		struct stat st = { .st_ino = d->ino, .st_mode = d->type << 12 };

		need = fuse_add_direntry(l->req, l->buf + l->used, room, d->name, &st, (off_t)d->next);
	}
	if (need > room)
		return 1;
	l->used += need;
	return 0;
}

/* Gives back the references of a listing that has not arrived. */
static void forget_listing(struct fs *fs, const char *buf, size_t len)
{
	for (size_t at = 0; at < len;) {
		const struct fuse_direntplus *d = (const void *)(buf + at);

		if (d->entry_out.nodeid)
			fs_forget(fs, d->entry_out.nodeid, 1);
		at += FUSE_DIRENTPLUS_SIZE(d);
	}
}

static void list(fuse_req_t req, fuse_ino_t node, size_t size, off_t pos, bool plus)
{
	struct mounted *m = mounted_of(req);
	struct listing l = {
		.req = req,
		.buf = loop_buffer(),
		.size = size < FS_IO_MAX ? size : FS_IO_MAX,
		.plus = plus,
	};
	int err;

	if (!l.buf || pos < 0) {
		answer_err(req, l.buf ? -EINVAL : -ENOMEM);
		return;
	}
	if (control_is_node(node))
		err = m->control ? control_readdir(m->control, node, (uint64_t)pos, add, &l) : -ESTALE;
	else
		err = fs_readdir(m->fs, node, (uint64_t)pos, plus && (pos || wants_attributes(req, node)), add, &l);
	/* What was found before an error goes out first; the error comes again with the next request. */
	if (err < 0 && l.used == 0)
		answer_err(req, err);
	else if (fuse_reply_buf(req, l.buf, l.used) < 0 && plus && m->fs)
		forget_listing(m->fs, l.buf, l.used);
}

void op_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t pos, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, node, size, pos, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t pos, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, node, size, pos, true);
}

/*
 * READDIR and READDIRPLUS. Without OPENDIR there is no handle, so each request says where it goes on: positions are those of
 * fs_readdir, which stay right whatever changes. The kernel keeps the whole listing until the directory changes.
 */
#include <errno.h>
#include <linux/fuse.h>

#include "fs/fuse_loop.h"
#include "fs/fuse_ops.h"

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size, used;
	bool plus;
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

		/* "." and ".." come without attributes, and take no reference: node 0. */
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
		err = fs_readdir(m->fs, node, (uint64_t)pos, plus, add, &l);
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

#include "tests/kit/fsload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_SIZE 4096u
#define READ_STEP 262144u
#define READ_WHOLE (UINT64_C(16) << 20) /* larger files are read where they say they have data */

void fsload_inode(const struct fsop_attrs *a, struct fsm_inode *n)
{
	n->ino = a->st.st_ino;
	n->mode = a->st.st_mode;
	n->nlink = (uint32_t)a->st.st_nlink;
	n->uid = a->st.st_uid;
	n->gid = a->st.st_gid;
	n->rdev = S_ISCHR(n->mode) || S_ISBLK(n->mode) ? a->st.st_rdev : 0;
	n->size = (uint64_t)a->st.st_size;
	n->atime = a->st.st_atim;
	n->mtime = a->st.st_mtim;
	n->ctime = a->st.st_ctim;
	n->btime = a->btime;
	n->flags = a->flags;
}

struct loader {
	struct fs_driver *driver;
	struct fsop_answer *answer;
	char *why;
	size_t why_size;
	struct fsm *m;
};

__attribute__((format(printf, 2, 3))) static int broken(struct loader *l, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(l->why, l->why_size, fmt, ap);
	va_end(ap);
	return -EPROTO;
}

static int ask(struct loader *l, enum fsop_kind kind, const char *path, struct fsop *op, const char *attr)
{
	struct fsop_args a = { .op = op, .path = path, .handle = -1, .handle2 = -1, .attr = attr };
	struct fsop_answer *r = l->answer;

	op->kind = kind;
	op->chunk = 50;
	r->err = 0;
	l->driver->calls[kind](l->driver, &a, r);
	return r->err;
}

static int load_data(struct loader *l, const char *path, struct fsm_inode *node)
{
	struct fsop_answer *r = l->answer;
	struct fsop op = { 0 };
	int err;

	for (uint64_t off = 0; off < node->size;) {
		uint64_t end = node->size;

		if (node->size > READ_WHOLE) {
			op = (struct fsop){ .off = off, .mode = SEEK_DATA };
			err = ask(l, FSOP_SEEK, path, &op, NULL);
			if (err == -ENXIO)
				return 0;
			if (err)
				return broken(l, "%.200s: seeking data at %" PRIu64 " gave %d", path, off, err);
			op = (struct fsop){ .off = off = r->n, .mode = SEEK_HOLE };
			err = ask(l, FSOP_SEEK, path, &op, NULL);
			if (err || r->n <= off)
				return broken(l, "%.200s: seeking a hole at %" PRIu64 " gave %d", path, off, err);
			end = r->n;
		}
		while (off < end) {
			op = (struct fsop){ .off = off, .len = end - off < READ_STEP ? end - off : READ_STEP };
			err = ask(l, FSOP_READ, path, &op, NULL);
			if (err || r->n != op.len)
				return broken(l,
					      "%.200s: reading %" PRIu64 " bytes at %" PRIu64 " gave %d, %" PRIu64
					      " bytes",
					      path, op.len, off, err, r->n);
			fsm_add_bytes(node, off, r->data, r->n);
			off += r->n;
		}
	}
	return 0;
}

static int load_xattrs(struct loader *l, const char *path, struct fsm_inode *node)
{
	struct fsop_answer *r = l->answer;
	struct fsop op = { 0 };
	int err = ask(l, FSOP_LISTXATTR, path, &op, NULL);
	size_t len = r->len;
	char *names;

	if (err)
		return broken(l, "%.200s: listing attributes gave %d", path, err);
	names = malloc(len + 1);
	if (!names)
		abort();
	if (len)
		memcpy(names, r->data, len);
	for (size_t at = 0; at < len && !err; at += strlen(names + at) + 1) {
		op = (struct fsop){ 0 };
		err = ask(l, FSOP_GETXATTR, path, &op, names + at);
		if (err)
			broken(l, "%.200s: attribute %.50s gave %d", path, names + at, err);
		else
			fsm_add_xattr(node, names + at, r->data, r->len);
	}
	free(names);
	return err ? -EPROTO : 0;
}

static int load_node(struct loader *l, const char *path, struct fsm_inode *node);

static int load_dir(struct loader *l, const char *path, struct fsm_inode *dir)
{
	struct fsop_answer *r = l->answer;
	struct fsop op = { .seed = strlen(path) };
	struct fsop_entry *entries;
	int err = ask(l, FSOP_READDIR, path, &op, NULL);
	size_t n = r->n_entries;
	char *sub = malloc(PATH_SIZE);

	entries = calloc(n + 1, sizeof(*entries));
	if (!entries || !sub)
		abort();
	if (n)
		memcpy(entries, r->entries, n * sizeof(*entries));
	if (err)
		err = broken(l, "%.200s: listing gave %d", path, err);
	for (size_t i = 0; i < n && !err; i++) {
		struct fsm_inode *node = NULL;

		if (!strcmp(entries[i].name, ".") || !strcmp(entries[i].name, ".."))
			continue;
		for (size_t k = 1; k < l->m->n_inodes; k++)
			if (l->m->inodes[k]->ino == entries[i].ino)
				node = l->m->inodes[k];
		if (fsm_find(l->m, dir, entries[i].name))
			err = broken(l, "%.200s: %.50s is listed twice", path, entries[i].name);
		snprintf(sub, PATH_SIZE, "%.3500s%s%s", path, *path ? "/" : "", entries[i].name);
		if (!node) {
			node = fsm_add_inode(l->m, entries[i].ino, 0);
			fsm_add_name(dir, entries[i].name, node->id);
			node->parent = dir->id;
			if (!err)
				err = load_node(l, sub, node);
			if (!err && (node->ino != entries[i].ino || node->mode >> 12 != entries[i].type))
				err = broken(l, "%.200s is listed with another inode number or type", sub);
		} else {
			fsm_add_name(dir, entries[i].name, node->id);
		}
	}
	free(entries);
	free(sub);
	return err;
}

static int load_node(struct loader *l, const char *path, struct fsm_inode *node)
{
	struct fsop_answer *r = l->answer;
	struct fsop op = { 0 };
	int err = ask(l, FSOP_STAT, path, &op, NULL);

	if (err)
		return broken(l, "%.200s: stat gave %d", path, err);
	fsload_inode(&r->attrs, node);
	err = load_xattrs(l, path, node);
	if (!err && S_ISLNK(node->mode)) {
		op = (struct fsop){ 0 };
		err = ask(l, FSOP_READLINK, path, &op, NULL);
		if (err)
			return broken(l, "%.200s: readlink gave %d", path, err);
		node->target = strndup((const char *)r->data, r->len);
	}
	if (!err && S_ISREG(node->mode))
		err = load_data(l, path, node);
	if (!err && S_ISDIR(node->mode))
		err = load_dir(l, path, node);
	return err;
}

int fsload(struct fs_driver *driver, struct fsop_answer *answer, bool times, struct fsm **ret, char *why, size_t size)
{
	struct loader l = { driver, answer, why, size, fsm_new(0, 0) };
	int err;

	l.m->times = times;
	err = load_node(&l, "", l.m->inodes[FSM_ROOT]);
	if (err) {
		fsm_free(l.m);
		return err;
	}
	*ret = l.m;
	return 0;
}

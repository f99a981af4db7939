#include "tests/kit/fsrun.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/kit/fsload.h"

#define PATH_SIZE 4096u

__attribute__((format(printf, 2, 3))) static int broken(struct fsrun *run, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(run->broken, sizeof(run->broken), fmt, ap);
	va_end(ap);
	return -EPROTO;
}

void fsrun_print(const struct fsrun *run, FILE *f)
{
	fprintf(f, "# operation %" PRIu64 ": %s\n", run->n_ops, run->broken);
	for (unsigned i = 0; i < FSRUN_LAST && i < run->n_ops; i++) {
		unsigned back = FSRUN_LAST < run->n_ops ? FSRUN_LAST - 1 - i : (unsigned)run->n_ops - 1 - i;

		fprintf(f, "#   ");
		fsop_print(f, &run->last[(run->n_ops - 1 - back) % FSRUN_LAST]);
		fprintf(f, "\n");
	}
	fflush(f);
}

/* ---- arguments ---- */

struct decoded {
	struct fsop_args args;
	char dir[PATH_SIZE], dir2[PATH_SIZE], path[PATH_SIZE], path2[PATH_SIZE];
	char name[FSOP_NAME_SIZE], name2[FSOP_NAME_SIZE];
	uint8_t *data;
	char target[4096];
};

static void join(const char *dir, const char *name, char *buf)
{
	if (snprintf(buf, PATH_SIZE, "%.3500s%s%s", dir, *dir && *name ? "/" : "", name) >= (int)PATH_SIZE)
		abort();
}

static void decode_at(const struct fsm *m, const struct fsop_at *at, char *dir, char *name, char *path,
		      const char **ret_dir, const char **ret_path)
{
	const struct fsm_inode *node = fsm_inode(m, at->dir);

	*ret_dir = *ret_path = NULL;
	name[0] = 0;
	if (at->name != FSOP_SELF)
		fsop_name(at->name, name);
	if (!node || !fsm_path(m, node, dir, PATH_SIZE))
		return;
	join(dir, name, path);
	*ret_dir = dir;
	*ret_path = path;
}

static struct timespec time_of(uint64_t seed)
{
	return (struct timespec){ .tv_sec = (time_t)(seed % 4000000000u) - 1000000,
				  .tv_nsec = (long)(seed % 1000000000u) };
}

static struct decoded *decode(const struct fsm *m, const struct fsop *op, bool callers)
{
	struct decoded *d = calloc(1, sizeof(*d));
	struct fsop_args *a;

	if (!d)
		abort();
	a = &d->args;
	a->op = op;
	a->handle = op->at.handle;
	a->handle2 = op->to.handle;
	decode_at(m, &op->at, d->dir, d->name, d->path, &a->dir, &a->path);
	decode_at(m, &op->to, d->dir2, d->name2, d->path2, &a->dir2, &a->path2);
	a->name = d->name;
	a->name2 = d->name2;
	a->attr = fsop_attr(op->attr);
	a->atime = time_of(op->seed);
	a->mtime = time_of(op->seed / 3);
	if (callers) {
		a->umask = op->seed & 2 ? 022 : 0;
		a->uid = op->uid;
		a->gid = op->gid;
	}
	switch (op->kind) {
	case FSOP_WRITE:
	case FSOP_APPEND:
	case FSOP_MAPWRITE:
	case FSOP_SETXATTR:
		d->data = malloc(op->len + 1);
		if (!d->data)
			abort();
		fsop_fill(op->seed, d->data, op->len);
		a->data = d->data;
		a->len = op->len;
		break;
	case FSOP_SYMLINK:
		a->len = fsop_target(op->seed, d->target);
		a->data = d->target;
		break;
	default:
		break;
	}
	return d;
}

static void decoded_free(struct decoded *d)
{
	free(d->data);
	free(d);
}

/* ---- the model's side ---- */

static struct fsm_inode *node_at(const struct fsm *m, const struct fsop_at *at, const char *name)
{
	if (at->handle >= 0)
		return m->handle[at->handle];
	if (at->name == FSOP_SELF)
		return fsm_inode(m, at->dir);
	return fsm_find(m, fsm_inode(m, at->dir), name);
}

/* A path that leads through something that is no directory. */
static bool not_a_directory(const struct fsm *m, const struct fsop_at *at)
{
	const struct fsm_inode *dir = fsm_inode(m, at->dir);

	return at->handle < 0 && at->name != FSOP_SELF && dir && !S_ISDIR(dir->mode);
}

static void judge_path(struct fsm *m, const struct fsop_at *at, const char *name)
{
	if (not_a_directory(m, at) && m->n_errs < FSM_ERRS)
		m->errs[m->n_errs++] = ENOTDIR;
	if (at->handle < 0 && strlen(name) > FSM_NAME_MAX && m->n_errs < FSM_ERRS)
		m->errs[m->n_errs++] = ENAMETOOLONG;
}

/* What is left of a copy's length behind the source's end. */
static uint64_t copy_length(const struct fsm_inode *from, uint64_t off, uint64_t len)
{
	if (!from || off >= from->size)
		return 0;
	return len < from->size - off ? len : from->size - off;
}

/* What is done to a file, found by name or handle. */
static void to_node(struct fsm *m, const struct fsop_args *a, struct fsm_inode *node, struct fsm_inode *node2,
		    uint64_t n)
{
	const struct fsop *op = a->op;

	judge_path(m, &op->at, a->name);
	switch (op->kind) {
	case FSOP_OPEN:
		fsm_open(m, node, (unsigned)a->handle2);
		break;
	case FSOP_WRITE:
		fsm_write(m, node, op->off, a->data, m->apply ? n : op->len, false, op->kill_priv);
		break;
	case FSOP_APPEND:
		fsm_write(m, node, 0, a->data, m->apply ? n : op->len, true, op->kill_priv);
		break;
	case FSOP_MAPWRITE: /* n: what lies inside the file */
		if (m->apply ? n : copy_length(node, op->off, op->len))
			fsm_write(m, node, op->off, a->data, n, false, false);
		else
			fsm_read(m, node);
		break;
	case FSOP_TRUNCATE:
		fsm_truncate(m, node, op->off, op->kill_priv);
		break;
	case FSOP_FALLOCATE:
		fsm_fallocate(m, node, (int)op->mode, op->off, op->len);
		break;
	case FSOP_COPY:
		judge_path(m, &op->to, a->name2);
		fsm_copy(m, node, op->off, node2, op->off2, m->apply ? n : copy_length(node, op->off, op->len));
		break;
	case FSOP_READ:
		fsm_read(m, node);
		break;
	case FSOP_SEEK:
		fsm_seek(m, node, op->off);
		break;
	case FSOP_READDIR:
		fsm_readdir(m, node);
		break;
	case FSOP_READLINK:
		fsm_readlink(m, node);
		break;
	case FSOP_CHMOD:
		fsm_chmod(m, node, op->mode);
		break;
	case FSOP_CHOWN:
		fsm_chown(m, node, op->uid, op->gid);
		break;
	case FSOP_UTIMES:
		fsm_utimes(m, node, a->atime, a->mtime);
		break;
	case FSOP_SETFLAGS:
		fsm_setflags(m, node, op->mode);
		break;
	case FSOP_SETXATTR:
		fsm_setxattr(m, node, a->attr, a->data, a->len, (int)op->mode);
		break;
	case FSOP_REMOVEXATTR:
		fsm_removexattr(m, node, a->attr);
		break;
	case FSOP_GETXATTR:
		fsm_getxattr(m, node, a->attr);
		break;
	case FSOP_STAT:
	case FSOP_LISTXATTR:
		if (!node && m->n_errs < FSM_ERRS)
			m->errs[m->n_errs++] = ENOENT;
		break;
	default: /* the whole */
		m->n_errs = 0;
		break;
	}
}

/* Carries it out on the model, or says which errors are right. n: bytes moved, as far as that is the filesystem's choice. */
static void to_model(struct fsm *m, const struct fsop_args *a, uint64_t n)
{
	const struct fsop *op = a->op;
	struct fsm_inode *dir = fsm_inode(m, op->at.dir), *dir2 = fsm_inode(m, op->to.dir);
	struct fsm_inode *node = node_at(m, &op->at, a->name), *node2 = node_at(m, &op->to, a->name2);

	m->uid = a->uid;
	m->gid = a->gid;
	m->umask = a->umask;
	switch (op->kind) {
	case FSOP_CREATE:
	case FSOP_MKDIR:
	case FSOP_MKNOD:
		fsm_create(m, dir, a->name, op->mode, op->rdev);
		break;
	case FSOP_SYMLINK:
		fsm_symlink(m, dir, a->name, a->data);
		break;
	case FSOP_LINK:
		judge_path(m, &op->at, a->name);
		fsm_link(m, node, dir2, a->name2);
		break;
	case FSOP_UNLINK:
		fsm_unlink(m, dir, a->name);
		break;
	case FSOP_RMDIR:
		fsm_rmdir(m, dir, a->name);
		break;
	case FSOP_RENAME:
		fsm_rename(m, dir, a->name, dir2, a->name2, op->mode);
		break;
	case FSOP_TMPFILE:
		fsm_tmpfile(m, dir, op->mode, (unsigned)a->handle);
		break;
	case FSOP_CLOSE:
		fsm_close(m, (unsigned)a->handle);
		break;
	default:
		to_node(m, a, node, node2, n);
		break;
	}
}

/* ---- what an answer says ---- */

static int check_read(struct fsrun *run, const struct fsm_inode *node, const struct fsop *op)
{
	struct fsop_answer *r = &run->answer;
	uint64_t want = copy_length(node, op->off, op->len);
	uint8_t *buf;
	int err = 0;

	if (r->n != want)
		return broken(run, "read %" PRIu64 " bytes instead of %" PRIu64, r->n, want);
	buf = malloc(want + 1);
	if (!buf)
		abort();
	fsm_bytes(node, op->off, want, buf);
	for (uint64_t i = 0; i < want && !err; i++)
		if (buf[i] != r->data[i])
			err = broken(run, "byte %" PRIu64 " reads as %02x, should be %02x", op->off + i, r->data[i],
				     buf[i]);
	free(buf);
	return err;
}

static int check_seek(struct fsrun *run, const struct fsm_inode *node, const struct fsop *op)
{
	uint64_t at = run->answer.n;

	if (at < op->off || at > node->size || (op->mode == SEEK_DATA && at == node->size))
		return broken(run, "seek from %" PRIu64 " gave %" PRIu64 " of a file of %" PRIu64, op->off, at,
			      node->size);
	if (op->mode == SEEK_DATA && !fsm_zero(node, op->off, at))
		return broken(run, "seek from %" PRIu64 " to data at %" PRIu64 " passes data", op->off, at);
	if (op->mode == SEEK_HOLE && at < node->size && !fsm_zero(node, at, at + 1))
		return broken(run, "there is no hole at %" PRIu64, at);
	return 0;
}

/* Holes may be reported as data, so where there is none up to the end both answers are right. */
static bool no_data(const struct fsm_inode *node, const struct fsop *op)
{
	return op->kind == FSOP_SEEK && op->mode == SEEK_DATA && node && S_ISREG(node->mode) && op->off < node->size &&
	       fsm_zero(node, op->off, node->size);
}

static int check_readdir(struct fsrun *run, const struct fsm_inode *dir)
{
	const struct fsop_answer *r = &run->answer;
	unsigned dots = 0;

	for (size_t i = 0; i < r->n_entries; i++) {
		const struct fsop_entry *e = &r->entries[i];
		const struct fsm_inode *node;

		for (size_t k = 0; k < i; k++)
			if (!strcmp(r->entries[k].name, e->name))
				return broken(run, "%.60s is listed twice", e->name);
		if (!strcmp(e->name, ".") || !strcmp(e->name, "..")) {
			node = e->name[1] ? fsm_inode(run->model, dir->parent) : dir;
			dots++;
			if (e->name[1] && (dir->id == FSM_ROOT || run->driver->old_dotdot))
				continue;
		} else {
			node = fsm_find(run->model, dir, e->name);
		}
		if (!node)
			return broken(run, "%.60s is listed and should not be there", e->name);
		if (node->ino != e->ino || (node->mode & S_IFMT) >> 12 != e->type)
			return broken(run,
				      "%.60s is listed with inode %" PRIu64 " type %u, should be %" PRIu64 " type %u",
				      e->name, e->ino, e->type, node->ino, (node->mode & S_IFMT) >> 12);
	}
	if (dots != 2 || r->n_entries != dir->n_names + 2)
		return broken(run, "%zu names listed (%u of them dots), should be %zu and 2", r->n_entries, dots,
			      dir->n_names);
	return 0;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static int check_stat(struct fsrun *run, const struct fsm_inode *want)
{
	struct fsm_inode got = { 0 };

	fsload_inode(&run->answer.attrs, &got);
	if (got.ino != want->ino || got.mode != want->mode || got.nlink != want->nlink || got.uid != want->uid ||
	    got.gid != want->gid || got.rdev != want->rdev || got.flags != want->flags)
		return broken(run,
			      "stat: ino %" PRIu64 " mode 0%o nlink %u uid %u gid %u rdev %#lx flags %#x, should be "
			      "%" PRIu64 " 0%o %u %u %u %#lx %#x",
			      got.ino, got.mode, got.nlink, got.uid, got.gid, (unsigned long)got.rdev, got.flags,
			      want->ino, want->mode, want->nlink, want->uid, want->gid, (unsigned long)want->rdev,
			      want->flags);
	if (!S_ISDIR(want->mode) && got.size != want->size)
		return broken(run, "stat: size %" PRIu64 ", should be %" PRIu64, got.size, want->size);
	if (!run->model->times)
		return 0;
	if (!same_time(got.atime, want->atime) || !same_time(got.mtime, want->mtime) ||
	    !same_time(got.ctime, want->ctime) || !same_time(got.btime, want->btime))
		return broken(run, "stat: times a %ld m %ld c %ld b %ld, should be %ld %ld %ld %ld",
			      (long)got.atime.tv_sec, (long)got.mtime.tv_sec, (long)got.ctime.tv_sec,
			      (long)got.btime.tv_sec, (long)want->atime.tv_sec, (long)want->mtime.tv_sec,
			      (long)want->ctime.tv_sec, (long)want->btime.tv_sec);
	return 0;
}

static int check_xattrs(struct fsrun *run, const struct fsm_inode *node, const struct fsop_args *a)
{
	const struct fsop_answer *r = &run->answer;
	const struct fsm_xattr *x;
	size_t n = 0;

	if (a->op->kind == FSOP_GETXATTR) {
		x = fsm_xattr_find(node, a->attr);
		if (r->len != x->size || memcmp(r->data, x->val, x->size))
			return broken(run, "attribute %.40s has another value (%zu bytes, should be %zu)", a->attr,
				      r->len, x->size);
		return 0;
	}
	for (size_t at = 0; at < r->len; n++) {
		const char *name = (const char *)r->data + at;

		if (!memchr(name, 0, r->len - at))
			return broken(run, "the list of attributes does not end");
		if (!fsm_xattr_find(node, name))
			return broken(run, "attribute %.60s is listed and should not be there", name);
		at += strlen(name) + 1;
	}
	if (n != node->n_xattrs)
		return broken(run, "%zu attributes listed, should be %zu", n, node->n_xattrs);
	return 0;
}

static int check_answer(struct fsrun *run, const struct fsop_args *a)
{
	const struct fsm_inode *node = node_at(run->model, &a->op->at, a->name);
	const struct fsop_answer *r = &run->answer;
	uint64_t left;

	switch (a->op->kind) {
	case FSOP_READ:
		return check_read(run, node, a->op);
	case FSOP_SEEK:
		return check_seek(run, node, a->op);
	case FSOP_READDIR:
		return check_readdir(run, node);
	case FSOP_READLINK:
		if (r->len != node->size || memcmp(r->data, node->target, r->len))
			return broken(run, "the target differs: %zu bytes, should be %" PRIu64, r->len, node->size);
		return 0;
	case FSOP_STAT:
		return check_stat(run, node);
	case FSOP_GETXATTR:
	case FSOP_LISTXATTR:
		return check_xattrs(run, node, a);
	case FSOP_COPY:
		left = copy_length(node, a->op->off, a->op->len);
		if (r->n > left || (left && !r->n))
			return broken(run, "copied %" PRIu64 " bytes of %" PRIu64, r->n, left);
		return 0;
	case FSOP_WRITE:
	case FSOP_APPEND:
		if (r->n != a->len && !run->full_ok)
			return broken(run, "wrote %" PRIu64 " bytes of %zu", r->n, a->len);
		return 0;
	default:
		return 0;
	}
}

/* ---- steps ---- */

/* Contract H: what makes room, or needs none, is never refused for want of it. */
static bool may_be_refused(const struct fsop_args *a, const struct fsm_inode *node)
{
	switch (a->op->kind) {
	case FSOP_UNLINK:
	case FSOP_RMDIR:
	case FSOP_OPEN:
	case FSOP_CLOSE:
	case FSOP_READ:
	case FSOP_SEEK:
	case FSOP_READDIR:
	case FSOP_READLINK:
	case FSOP_STAT:
	case FSOP_GETXATTR:
	case FSOP_LISTXATTR:
	case FSOP_SYNC:
	case FSOP_STATFS:
	case FSOP_TICK:
	case FSOP_CHECKPOINT:
	case FSOP_FORGET_ALL:
		return false;
	case FSOP_TRUNCATE:
		return node && a->op->off > node->size;
	default:
		return true;
	}
}

static void remember(struct fsrun *run, const struct fsop *op)
{
	if (!run->base)
		return;
	if (run->n_log == run->cap_log) {
		run->cap_log = run->cap_log * 2 + 64;
		run->log = realloc(run->log, run->cap_log * sizeof(*run->log));
		if (!run->log)
			abort();
	}
	run->log[run->n_log++] = (struct fsrun_done){ *op, run->answer.n, run->answer.ino, run->now };
}

bool fsrun_changes(enum fsop_kind kind)
{
	switch (kind) {
	case FSOP_READ:
	case FSOP_SEEK:
	case FSOP_READDIR:
	case FSOP_READLINK:
	case FSOP_STAT:
	case FSOP_GETXATTR:
	case FSOP_LISTXATTR:
	case FSOP_SYNC:
	case FSOP_STATFS:
	case FSOP_TICK:
	case FSOP_CHECKPOINT:
	case FSOP_FORGET_ALL:
		return false;
	default:
		return true;
	}
}

static int step(struct fsrun *run, const struct fsop_args *a)
{
	const struct fsop *op = a->op;
	struct fsop_answer *r = &run->answer;
	struct fsm_inode *node = node_at(run->model, &op->at, a->name);
	char allowed[80] = "success";
	int err;

	run->driver->calls[op->kind](run->driver, a, r);
	if (r->err == -ENOSPC && run->full_ok && may_be_refused(a, node)) {
		run->refused++;
		run->failed_at = run->n_ops;
		return 0;
	}
	fsm_judge(run->model);
	to_model(run->model, a, r->n);
	if (!fsm_allows(run->model, r->err) && !(r->err == -ENXIO && no_data(node, op))) {
		if (r->err && run->excuse && run->excuse(run->excuse_arg, op, r->err)) {
			run->refused++;
			return 0;
		}
		for (unsigned i = 0; i < run->model->n_errs; i++)
			snprintf(allowed + (i ? strlen(allowed) : 0), sizeof(allowed) - (i ? strlen(allowed) : 0),
				 "%s%s", i ? " or " : "", strerrorname_np(run->model->errs[i]));
		return broken(run, "%s gave %s, should be %s", fsop_names[op->kind],
			      r->err ? strerrorname_np(-r->err) : "success", allowed);
	}
	if (r->err) {
		run->failed++;
		return 0;
	}
	err = check_answer(run, a);
	if (err)
		return err;
	if (op->kind == FSOP_SYNC)
		fsrun_durable(run);
	if (!fsrun_changes(op->kind))
		return 0;
	run->model->made = r->ino;
	fsm_apply(run->model, run->now);
	to_model(run->model, a, r->n);
	remember(run, op);
	return 0;
}

int fsrun_step(struct fsrun *run, const struct fsop *op)
{
	struct decoded *d;
	int err = 0;

	if (!run->driver->calls[op->kind])
		return 0;
	run->last[run->n_ops++ % FSRUN_LAST] = *op;
	run->now.tv_sec++;
	run->now.tv_nsec = (run->now.tv_nsec + 7919) % 1000000000;
	if (run->set_now)
		run->set_now(run->now);
	run->answer.err = 0;
	run->answer.n = run->answer.ino = 0;
	d = decode(run->model, op, run->driver->callers);
	/* A directory that has gone meanwhile (replays of shortened lists). */
	if (op->at.handle >= 0 || d->args.path)
		err = step(run, &d->args);
	decoded_free(d);
	return err;
}

/* ---- whole trees ---- */

/* What the filesystem holds, as a model. */
static int load(struct fsrun *run, struct fsm **ret)
{
	return fsload(run->driver, &run->answer, run->set_now != NULL, ret, run->broken, sizeof(run->broken));
}

int fsrun_compare(struct fsrun *run)
{
	struct fsm *found;
	int err = load(run, &found);

	if (err)
		return err;
	if (fsm_digest(found) != fsm_digest(run->model)) {
		fsm_diff(run->model, found, stdout, "# ", 12);
		err = broken(run, "the tree differs from the model");
	}
	fsm_free(found);
	return err;
}

/* ---- life ---- */

int fsrun_init(struct fsrun *run, struct fs_driver *driver, void (*set_now)(struct timespec), bool history)
{
	int err;

	*run = (struct fsrun){ .driver = driver, .set_now = set_now, .now = { 1000000, 0 } };
	err = load(run, &run->model);
	if (!err && run->model->inodes[FSM_ROOT]->n_names)
		err = -ENOTEMPTY;
	if (err)
		return err;
	run->model->inodes[FSM_ROOT]->parent = FSM_ROOT;
	if (history)
		run->base = fsm_clone(run->model);
	return 0;
}

void fsrun_release(struct fsrun *run)
{
	fsm_free(run->model);
	fsm_free(run->base);
	free(run->log);
	fsop_answer_release(&run->answer);
}

void fsrun_durable(struct fsrun *run)
{
	if (!run->base)
		return;
	fsm_free(run->base);
	run->base = fsm_clone(run->model);
	run->n_log = 0;
}

static void close_all(struct fsm *m)
{
	fsm_apply(m, (struct timespec){ 0 });
	for (unsigned h = 0; h < FSM_HANDLES; h++)
		fsm_close(m, h);
}

void fsrun_closed(struct fsrun *run)
{
	close_all(run->model);
}

int fsrun_recovered(struct fsrun *run, size_t *ret_lost)
{
	struct fsm *found, *m = fsm_clone(run->base), *best = NULL;
	uint64_t digest;
	int err = load(run, &found);

	if (err) {
		fsm_free(m);
		return err;
	}
	digest = fsm_digest(found);
	for (size_t i = 0;; i++) {
		struct decoded *d;

		if (fsm_digest(m) == digest) {
			fsm_free(best);
			best = fsm_clone(m);
			*ret_lost = run->n_log - i;
		}
		if (i == run->n_log)
			break;
		m->made = run->log[i].ino;
		d = decode(m, &run->log[i].op, run->driver->callers);
		fsm_apply(m, run->log[i].now);
		to_model(m, &d->args, run->log[i].n);
		decoded_free(d);
	}
	if (best) {
		close_all(best);
		fsm_free(run->model);
		run->model = best;
		fsrun_durable(run);
	} else {
		printf("# the end of the log (%zu operations since the last sync), compared with what was found:\n",
		       run->n_log);
		fsm_diff(run->model, found, stdout, "#   ", 8);
		printf("# its beginning:\n");
		fsm_diff(run->base, found, stdout, "#   ", 8);
		err = broken(run, "what is found after a crash is not the state after any prefix of the operations");
	}
	fsm_free(found);
	fsm_free(m);
	return err;
}

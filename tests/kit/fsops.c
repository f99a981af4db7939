#include "tests/kit/fsops.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

const char *const fsop_names[FSOP_COUNT] = {
#define X(name, lower) [FSOP_##name] = #lower,
	FSOP_KINDS(X)
#undef X
};

/* ---- what numbers stand for ---- */

#define NAME_LONG 8u	 /* as long as it may be */
#define NAME_TOO_LONG 9u /* and one more */

const char *fsop_name(uint16_t number, char buf[FSOP_NAME_SIZE])
{
	static const char *const odd[] = { "\xc3\xbc-n\xc3\xa4me", "with space", ".hidden", "...",
					   "tab\tand\nline",	   "\xff\xfe" };

	if (number < NAME_LONG)
		snprintf(buf, FSOP_NAME_SIZE, "%c", 'a' + number);
	else if (number <= NAME_TOO_LONG) {
		memset(buf, 'x', 256);
		buf[number == NAME_LONG ? 255 : 256] = 0;
	} else if (number < 10 + sizeof(odd) / sizeof(odd[0]))
		snprintf(buf, FSOP_NAME_SIZE, "%s", odd[number - 10]);
	else
		snprintf(buf, FSOP_NAME_SIZE, "file-%u", number);
	return buf;
}

const char *fsop_attr(uint16_t number)
{
	static const char *const names[] = {
		"user.a",
		"user.b",
		"user.some rather long name, which attributes may have, and few do, though nothing forbids it",
		"trusted.a",
		"trusted.t",
		"security.capability",
	};

	return names[number % (sizeof(names) / sizeof(names[0]))];
}
#define ATTR_USER 3u
#define ATTR_ANY 5u
#define ATTR_ALL 6u

void fsop_fill(uint64_t seed, void *buf, size_t len)
{
	struct rng r;

	rng_seed(&r, seed);
	rng_bytes(&r, buf, len);
	/* A block of zeros among data is still data. */
	if (seed % 5 == 0 && len > 8192)
		memset((uint8_t *)buf + 2048, 0, 5000);
}

size_t fsop_target(uint64_t seed, char buf[4096])
{
	size_t len = seed % 16 == 0 ? 4095 : seed % 16 < 3 ? 300 + seed % 1500 : 1 + seed % 60;

	for (size_t i = 0; i < len; i++)
		buf[i] = "abc/.d-"[(seed >> i % 50) % 7];
	buf[len] = 0;
	return len;
}

void fsop_print(FILE *f, const struct fsop *op)
{
	fprintf(f,
		"%s handle %d dir %u name %d | handle %d dir %u name %d | mode 0%o uid %d gid %d off %" PRIu64
		" off2 %" PRIu64 " len %" PRIu64 " attr %u seed %" PRIu64 "%s",
		fsop_names[op->kind], op->at.handle, op->at.dir, op->at.name == FSOP_SELF ? -1 : op->at.name,
		op->to.handle, op->to.dir, op->to.name == FSOP_SELF ? -1 : op->to.name, op->mode, (int)op->uid,
		(int)op->gid, op->off, op->off2, op->len, op->attr, op->seed, op->kill_priv ? " kill" : "");
}

/* ---- profiles ---- */

const struct fsop_profile fsop_mixed = {
	.name = "mixed",
	.weight = { [FSOP_CREATE] = 10,	   [FSOP_MKDIR] = 5,	 [FSOP_MKNOD] = 2,     [FSOP_SYMLINK] = 3,
		    [FSOP_LINK] = 5,	   [FSOP_UNLINK] = 7,	 [FSOP_RMDIR] = 2,     [FSOP_RENAME] = 8,
		    [FSOP_OPEN] = 4,	   [FSOP_CLOSE] = 3,	 [FSOP_TMPFILE] = 2,   [FSOP_WRITE] = 20,
		    [FSOP_APPEND] = 5,	   [FSOP_TRUNCATE] = 6,	 [FSOP_FALLOCATE] = 8, [FSOP_COPY] = 4,
		    [FSOP_READ] = 10,	   [FSOP_SEEK] = 4,	 [FSOP_READDIR] = 3,   [FSOP_READLINK] = 1,
		    [FSOP_STAT] = 4,	   [FSOP_CHMOD] = 2,	 [FSOP_CHOWN] = 2,     [FSOP_UTIMES] = 2,
		    [FSOP_SETFLAGS] = 1,   [FSOP_SETXATTR] = 5,	 [FSOP_GETXATTR] = 2,  [FSOP_REMOVEXATTR] = 2,
		    [FSOP_LISTXATTR] = 1,  [FSOP_SYNC] = 3,	 [FSOP_STATFS] = 1,    [FSOP_TICK] = 1,
		    [FSOP_CHECKPOINT] = 1, [FSOP_FORGET_ALL] = 1 },
	.names = 16,
	.file_max = 300000,
	.write_max = 70000,
	.far_one_in = 60,
	.xattr_max = 20000,
	.direct = true,
};

const struct fsop_profile fsop_names_only = {
	.name = "names",
	.weight = { [FSOP_CREATE] = 20,
		    [FSOP_MKDIR] = 12,
		    [FSOP_MKNOD] = 3,
		    [FSOP_SYMLINK] = 4,
		    [FSOP_LINK] = 8,
		    [FSOP_UNLINK] = 10,
		    [FSOP_RMDIR] = 6,
		    [FSOP_RENAME] = 24,
		    [FSOP_READDIR] = 4,
		    [FSOP_STAT] = 2,
		    [FSOP_OPEN] = 2,
		    [FSOP_CLOSE] = 2,
		    [FSOP_TMPFILE] = 2,
		    [FSOP_SYNC] = 2,
		    [FSOP_TICK] = 1,
		    [FSOP_CHECKPOINT] = 1,
		    [FSOP_WRITE] = 2 },
	.names = 400,
	.file_max = 5000,
	.write_max = 3000,
	.xattr_max = 100,
	.direct = true,
};

const struct fsop_profile fsop_data_only = {
	.name = "data",
	.weight = { [FSOP_CREATE] = 3,
		    [FSOP_UNLINK] = 2,
		    [FSOP_OPEN] = 2,
		    [FSOP_CLOSE] = 2,
		    [FSOP_WRITE] = 40,
		    [FSOP_APPEND] = 6,
		    [FSOP_TRUNCATE] = 8,
		    [FSOP_FALLOCATE] = 14,
		    [FSOP_COPY] = 10,
		    [FSOP_READ] = 15,
		    [FSOP_SEEK] = 6,
		    [FSOP_STAT] = 2,
		    [FSOP_SYNC] = 4,
		    [FSOP_TICK] = 3,
		    [FSOP_CHECKPOINT] = 2 },
	.names = 4,
	.file_max = 2000000,
	.write_max = 600000,
	.far_one_in = 40,
	.xattr_max = 100,
	.direct = true,
};

/* Grows: for devices that are to get full. */
const struct fsop_profile fsop_growing = {
	.name = "growing",
	.weight = { [FSOP_CREATE] = 20,	   [FSOP_MKDIR] = 6,	 [FSOP_SYMLINK] = 4,  [FSOP_LINK] = 4,
		    [FSOP_UNLINK] = 3,	   [FSOP_RENAME] = 6,	 [FSOP_OPEN] = 2,     [FSOP_CLOSE] = 1,
		    [FSOP_TMPFILE] = 2,	   [FSOP_WRITE] = 40,	 [FSOP_APPEND] = 15,  [FSOP_TRUNCATE] = 4,
		    [FSOP_FALLOCATE] = 10, [FSOP_COPY] = 6,	 [FSOP_READ] = 6,     [FSOP_READDIR] = 2,
		    [FSOP_STAT] = 3,	   [FSOP_SETXATTR] = 20, [FSOP_GETXATTR] = 2, [FSOP_REMOVEXATTR] = 1,
		    [FSOP_RMDIR] = 1,	   [FSOP_SYNC] = 3,	 [FSOP_STATFS] = 2,   [FSOP_TICK] = 2,
		    [FSOP_CHECKPOINT] = 2, [FSOP_FORGET_ALL] = 1 },
	.names = 60,
	.file_max = 1000000,
	.write_max = 200000,
	.xattr_max = 30000,
	.direct = true,
};

const struct fsop_profile fsop_syscalls = {
	.name = "system calls",
	.weight = { [FSOP_CREATE] = 10,	  [FSOP_MKDIR] = 5,    [FSOP_MKNOD] = 2,    [FSOP_SYMLINK] = 3,
		    [FSOP_LINK] = 5,	  [FSOP_UNLINK] = 7,   [FSOP_RMDIR] = 2,    [FSOP_RENAME] = 8,
		    [FSOP_OPEN] = 4,	  [FSOP_CLOSE] = 3,    [FSOP_TMPFILE] = 2,  [FSOP_WRITE] = 18,
		    [FSOP_APPEND] = 5,	  [FSOP_MAPWRITE] = 5, [FSOP_TRUNCATE] = 6, [FSOP_FALLOCATE] = 8,
		    [FSOP_COPY] = 4,	  [FSOP_READ] = 14,    [FSOP_SEEK] = 4,	    [FSOP_READDIR] = 3,
		    [FSOP_READLINK] = 1,  [FSOP_STAT] = 6,     [FSOP_CHMOD] = 2,    [FSOP_CHOWN] = 2,
		    [FSOP_UTIMES] = 2,	  [FSOP_SETXATTR] = 3, [FSOP_GETXATTR] = 3, [FSOP_REMOVEXATTR] = 2,
		    [FSOP_LISTXATTR] = 1, [FSOP_SYNC] = 2,     [FSOP_STATFS] = 1,   [FSOP_FORGET_ALL] = 1 },
	.names = 16,
	.file_max = 1000000,
	.write_max = 200000,
	.xattr_max = 2000,
};

/* ---- chance ---- */

struct gen {
	const struct fsop_profile *p;
	const struct fsm *m;
	struct rng *r;
};

#define DEPTH_MAX 6u

/* A directory: from the root downwards. */
static struct fsm_inode *pick_dir(struct gen *g)
{
	struct fsm_inode *dir = fsm_inode(g->m, FSM_ROOT);

	while (dir->n_names && rng_chance(g->r, 2, 3)) {
		struct fsm_inode *next = NULL;

		for (unsigned tries = 0; tries < 4 && !next; tries++) {
			next = g->m->inodes[dir->names[rng_below(g->r, dir->n_names)].id];
			if (!S_ISDIR(next->mode))
				next = NULL;
		}
		if (!next)
			break;
		dir = next;
	}
	return dir;
}

/* Number of a name; the model keeps text. Names that nobody generates have no number. */
static uint16_t name_number(struct gen *g, const char *text)
{
	char buf[FSOP_NAME_SIZE];

	if (!strncmp(text, "file-", 5))
		return (uint16_t)strtoul(text + 5, NULL, 10);
	for (uint16_t i = 0; i < 16; i++)
		if (!strcmp(fsop_name(i, buf), text))
			return i;
	return (uint16_t)rng_below(g->r, g->p->names);
}

static struct fsop_at any_name(struct gen *g)
{
	struct fsm_inode *dir = pick_dir(g);

	/* Now and then something that is no directory. */
	if (rng_chance(g->r, 1, 40) && dir->n_names) {
		struct fsm_inode *other = g->m->inodes[dir->names[rng_below(g->r, dir->n_names)].id];

		if (S_ISREG(other->mode))
			dir = other;
	}
	return (struct fsop_at){ -1, dir->id, (uint16_t)rng_below(g->r, g->p->names) };
}

/* Mostly one that is there, of a type (0: any). */
static struct fsop_at some_name(struct gen *g, uint32_t type)
{
	for (unsigned tries = 0; tries < 8; tries++) {
		struct fsm_inode *dir = pick_dir(g);
		struct fsm_name *n = dir->n_names ? &dir->names[rng_below(g->r, dir->n_names)] : NULL;

		if (n && (!type || (g->m->inodes[n->id]->mode & S_IFMT) == type))
			return (struct fsop_at){ -1, dir->id, name_number(g, n->name) };
	}
	return any_name(g);
}

static struct fsop_at likely_name(struct gen *g, uint32_t type)
{
	return rng_chance(g->r, 1, 12) ? any_name(g) : some_name(g, type);
}

static int open_handle(struct gen *g, bool want)
{
	unsigned from = (unsigned)rng_below(g->r, FSM_HANDLES);

	for (unsigned i = 0; i < FSM_HANDLES; i++) {
		unsigned h = (from + i) % FSM_HANDLES;

		if (!g->m->handle[h] == !want)
			return (int)h;
	}
	return -1;
}

static const struct fsm_inode *node_at(const struct fsm *m, const struct fsop_at *at)
{
	char buf[FSOP_NAME_SIZE];

	if (at->handle >= 0)
		return m->handle[at->handle];
	if (at->name == FSOP_SELF)
		return fsm_inode(m, at->dir);
	return fsm_find(m, fsm_inode(m, at->dir), fsop_name(at->name, buf));
}

/* A regular file, by handle or name; rarely a directory. Never what the kernel would wait at. */
static struct fsop_at some_file(struct gen *g)
{
	struct fsop_at at = { open_handle(g, true), FSM_ROOT, 0 };
	const struct fsm_inode *node;

	if (at.handle >= 0 && rng_chance(g->r, 1, 3))
		return at;
	at = some_name(g, S_IFREG);
	node = node_at(g->m, &at);
	if (node && !S_ISREG(node->mode) && !S_ISDIR(node->mode))
		at.name = FSOP_SELF;
	return at;
}

/* Anything, by name; sometimes a handle, sometimes a directory itself (but not the root: it is not ours alone). */
static struct fsop_at some_node(struct gen *g)
{
	struct fsop_at at = { open_handle(g, true), FSM_ROOT, 0 };

	if (at.handle >= 0 && rng_chance(g->r, 1, 5))
		return at;
	return likely_name(g, 0);
}

static uint64_t some_offset(struct gen *g, const struct fsop_at *at)
{
	const struct fsm_inode *node = node_at(g->m, at);
	uint64_t size = node && S_ISREG(node->mode) ? node->size : 0, max = g->p->file_max;

	switch (rng_below(g->r, 8)) {
	case 0:
		return 0;
	case 1:
		return rng_below(g->r, 5000);
	case 2:
		return rng_below(g->r, max / 4096 + 1) * 4096;
	case 3:
		return size < max ? size : rng_below(g->r, max);
	case 4:
		return size && size < max ? rng_below(g->r, size) : rng_below(g->r, max);
	case 5:
		return size && size < max ? rng_below(g->r, size) / 4096 * 4096 : 4096;
	case 6:
		return size < max ? size + rng_below(g->r, 9000) : rng_below(g->r, max);
	default:
		return rng_below(g->r, max);
	}
}

static uint64_t some_length(struct gen *g)
{
	uint64_t max = g->p->write_max;

	switch (rng_below(g->r, 6)) {
	case 0:
		return rng_range(g->r, 1, 100);
	case 1:
		return rng_range(g->r, 1, max < 4096 ? max : 4096);
	case 2:
		return max < 4096 ? max : rng_range(g->r, 1, max / 4096) * 4096;
	case 3:
		return 4096;
	case 4:
		return rng_range(g->r, 1, max < 20000 ? max : 20000);
	default:
		return rng_range(g->r, 1, max);
	}
}

static uint32_t some_mode(struct gen *g, bool dir)
{
	static const uint32_t modes[] = { 0644, 0600, 0755, 0444, 0777, 0, 0640 };
	uint32_t mode = modes[rng_below(g->r, 7)];

	if (dir && rng_chance(g->r, 1, 6))
		mode |= S_ISVTX;
	return mode;
}

static void gen_new(struct gen *g, struct fsop *op)
{
	static const uint32_t types[] = { S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK };

	op->at = rng_chance(g->r, 1, 10) ? some_name(g, 0) : any_name(g);
	op->mode = some_mode(g, op->kind == FSOP_MKDIR);
	op->uid = op->gid = g->p->direct && rng_chance(g->r, 1, 3) ? 1000 : 0;
	if (op->kind == FSOP_MKDIR) {
		op->mode |= S_IFDIR;
		if (fsm_depth(g->m, fsm_inode(g->m, op->at.dir)) >= DEPTH_MAX)
			op->at.dir = FSM_ROOT;
	} else if (op->kind == FSOP_MKNOD) {
		op->mode |= types[rng_below(g->r, 4)];
		op->rdev = makedev((unsigned)rng_range(g->r, 1, 250), (unsigned)rng_below(g->r, 100000));
		if (S_ISFIFO(op->mode) || S_ISSOCK(op->mode))
			op->rdev = 0;
	} else if (op->kind != FSOP_SYMLINK) {
		op->mode |= S_IFREG;
	}
	if (op->kind == FSOP_TMPFILE) {
		const struct fsm_inode *dir = fsm_inode(g->m, op->at.dir);

		op->at.handle = open_handle(g, false);
		op->at.name = FSOP_SELF;
		if (op->at.handle < 0 || !S_ISDIR(dir->mode) || dir->flags & FSM_IMMUTABLE)
			*op = (struct fsop){ .kind = FSOP_CREATE, .at = any_name(g), .mode = S_IFREG | 0644 };
	}
}

/* Only what may be opened again by a path: links to files without a name need /proc. */
static void gen_link(struct gen *g, struct fsop *op)
{
	op->at = likely_name(g, rng_chance(g->r, 9, 10) ? S_IFREG : 0);
	op->to = any_name(g);
	if (rng_chance(g->r, 1, 3)) {
		int h = open_handle(g, true);

		if (h >= 0 && (g->m->handle[h]->nlink || g->m->handle[h]->linkable))
			op->at.handle = h;
	}
}

static void gen_rename(struct gen *g, struct fsop *op)
{
	static const uint32_t flags[] = { 0,
					  0,
					  0,
					  0,
					  RENAME_NOREPLACE,
					  RENAME_EXCHANGE,
					  RENAME_EXCHANGE,
					  RENAME_WHITEOUT,
					  RENAME_EXCHANGE | RENAME_NOREPLACE };
	const struct fsm_inode *node, *to;

	op->at = likely_name(g, rng_chance(g->r, 1, 3) ? S_IFDIR : 0);
	op->mode = flags[rng_below(g->r, rng_chance(g->r, 1, 2) ? 1 : 9)];
	op->to = rng_chance(g->r, 1, op->mode & RENAME_EXCHANGE ? 1 : 3) ? some_name(g, 0) : any_name(g);
	node = node_at(g->m, &op->at);
	to = fsm_inode(g->m, op->to.dir);
	/* A directory that moves takes what is in it along. */
	if (node && S_ISDIR(node->mode) && fsm_depth(g->m, to) >= DEPTH_MAX / 2)
		op->to.dir = FSM_ROOT;
	to = node_at(g->m, &op->to);
	if (to && S_ISDIR(to->mode) && op->mode & RENAME_EXCHANGE &&
	    fsm_depth(g->m, fsm_inode(g->m, op->at.dir)) >= DEPTH_MAX / 2)
		op->mode = 0;
}

static void gen_data(struct gen *g, struct fsop *op)
{
	static const int falloc[] = { 0,
				      FALLOC_FL_KEEP_SIZE,
				      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      FALLOC_FL_ZERO_RANGE,
				      FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				      FALLOC_FL_COLLAPSE_RANGE };
	uint64_t far_off = g->p->far_one_in && rng_chance(g->r, 1, (unsigned)g->p->far_one_in) ? UINT64_C(1) << 43 : 0;

	op->at = some_file(g);
	op->off = some_offset(g, &op->at);
	op->len = some_length(g);
	op->kill_priv = g->p->direct && rng_chance(g->r, 1, 2);
	switch (op->kind) {
	case FSOP_WRITE:
		op->off += far_off;
		if (far_off && rng_chance(g->r, 1, 4))
			op->off = FSM_SIZE_MAX - rng_below(g->r, 2 * op->len);
		break;
	case FSOP_TRUNCATE:
		op->off += far_off;
		if (rng_chance(g->r, 1, 3))
			op->off = 0;
		break;
	case FSOP_FALLOCATE:
		op->mode = (uint32_t)falloc[rng_below(g->r, g->p->direct ? 7 : 6)];
		if (rng_chance(g->r, 1, 2))
			op->len *= 3;
		break;
	case FSOP_COPY:
		op->to = rng_chance(g->r, 1, 3) ? op->at : some_file(g);
		op->off2 = some_offset(g, &op->to);
		if (rng_chance(g->r, 1, 2)) { /* where blocks can be shared */
			op->off = op->off / 4096 * 4096;
			op->off2 = op->off2 / 4096 * 4096;
		}
		if (node_at(g->m, &op->at) == node_at(g->m, &op->to) && op->off < op->off2 + op->len &&
		    op->off2 < op->off + op->len)
			op->off2 = op->off + op->len;
		break;
	case FSOP_SEEK:
		op->mode = rng_chance(g->r, 1, 2) ? SEEK_HOLE : SEEK_DATA;
		op->len = 0;
		/* A directory's positions are anything. */
		if (!g->p->direct && node_at(g->m, &op->at) && !S_ISREG(node_at(g->m, &op->at)->mode))
			op->kind = FSOP_STAT;
		break;
	default:
		break;
	}
}

static void gen_attr(struct gen *g, struct fsop *op)
{
	static const uint32_t ids[] = { 0, 1, 1000, 65534, (uint32_t)-1 };
	const struct fsm_inode *node;

	op->at = some_node(g);
	node = node_at(g->m, &op->at);
	switch (op->kind) {
	case FSOP_CHMOD: /* symlinks have no mode of their own */
		if (node && S_ISLNK(node->mode))
			op->at = (struct fsop_at){ -1, op->at.dir, FSOP_SELF };
		op->mode = some_mode(g, true) | (rng_chance(g->r, 1, 2) ? (uint32_t)rng_below(g->r, 8) << 9 : 0);
		/* Whether root's own writing takes them away, filesystems differ in. */
		if (!g->p->direct && node && !S_ISDIR(node->mode))
			op->mode &= 01777;
		if (op->at.dir == FSM_ROOT && op->at.name == FSOP_SELF)
			op->mode = 0755;
		break;
	case FSOP_CHOWN:
		op->uid = ids[rng_below(g->r, 5)];
		op->gid = ids[rng_below(g->r, op->uid == (uint32_t)-1 ? 4 : 5)];
		break;
	case FSOP_SETFLAGS: /* mostly taken back soon, or nothing can be done any more */
		op->mode = node && node->flags
				   ? 0
				   : (uint32_t[]){ FSM_IMMUTABLE, FSM_APPEND, FSM_NODUMP, 0 }[rng_below(g->r, 4)];
		break;
	case FSOP_SETXATTR:
	case FSOP_GETXATTR:
	case FSOP_REMOVEXATTR:
		/* user.* is for files and directories only, says the kernel. */
		op->attr = (uint16_t)rng_below(g->r, g->p->direct ? ATTR_ALL : ATTR_ANY);
		if (node && !S_ISREG(node->mode) && !S_ISDIR(node->mode))
			op->attr = (uint16_t)rng_range(g->r, ATTR_USER, ATTR_ANY - 1);
		if (op->kind == FSOP_SETXATTR) {
			op->mode = (uint32_t[]){ 0, 0, XATTR_CREATE, XATTR_REPLACE }[rng_below(g->r, 4)];
			op->len = rng_chance(g->r, 1, 6) ? rng_below(g->r, g->p->xattr_max + 1) : rng_below(g->r, 200);
		} else if (node && node->n_xattrs && rng_chance(g->r, 5, 6)) {
			const char *have = node->xattrs[rng_below(g->r, node->n_xattrs)].name;

			for (uint16_t i = 0; i < ATTR_ALL; i++)
				if (!strcmp(fsop_attr(i), have))
					op->attr = i;
		}
		break;
	default:
		break;
	}
}

struct fsop fsop_gen(const struct fsop_profile *p, const struct fsm *m, struct rng *r)
{
	struct gen g = { p, m, r };
	struct fsop op = { .at = { -1, FSM_ROOT, 0 }, .to = { -1, FSM_ROOT, 0 } };
	unsigned total = 0, pick;

	for (unsigned i = 0; i < FSOP_COUNT; i++)
		total += p->weight[i];
	pick = (unsigned)rng_below(r, total);
	for (unsigned i = 0; i < FSOP_COUNT; pick -= p->weight[i++])
		if (pick < p->weight[i]) {
			op.kind = (enum fsop_kind)i;
			break;
		}
	op.seed = rng_next(r) >> 20;
	op.chunk = (uint8_t)rng_range(r, 1, 40);
	switch (op.kind) {
	case FSOP_CREATE:
	case FSOP_MKDIR:
	case FSOP_MKNOD:
	case FSOP_SYMLINK:
	case FSOP_TMPFILE:
		gen_new(&g, &op);
		break;
	case FSOP_LINK:
		gen_link(&g, &op);
		break;
	case FSOP_UNLINK:
		op.at = likely_name(&g, rng_chance(r, 1, 10) ? S_IFDIR : S_IFREG);
		break;
	case FSOP_RMDIR:
		op.at = likely_name(&g, rng_chance(r, 9, 10) ? S_IFDIR : 0);
		break;
	case FSOP_RENAME:
		gen_rename(&g, &op);
		break;
	case FSOP_OPEN:
		op.at = some_name(&g, S_IFREG);
		op.to.handle = open_handle(&g, false);
		if (op.to.handle < 0 || !node_at(m, &op.at) || !S_ISREG(node_at(m, &op.at)->mode))
			op = (struct fsop){ .kind = FSOP_STATFS, .at.handle = -1, .to.handle = -1 };
		break;
	case FSOP_CLOSE:
		op.at.handle = open_handle(&g, true);
		if (op.at.handle < 0)
			op = (struct fsop){ .kind = FSOP_STATFS, .at.handle = -1, .to.handle = -1 };
		break;
	case FSOP_WRITE:
	case FSOP_APPEND:
	case FSOP_MAPWRITE:
	case FSOP_TRUNCATE:
	case FSOP_FALLOCATE:
	case FSOP_COPY:
	case FSOP_READ:
	case FSOP_SEEK:
		gen_data(&g, &op);
		break;
	case FSOP_READDIR:
		op.at = (struct fsop_at){ -1, pick_dir(&g)->id, FSOP_SELF };
		break;
	case FSOP_READLINK:
		op.at = likely_name(&g, S_IFLNK);
		break;
	default:
		gen_attr(&g, &op);
		break;
	}
	return op;
}

/* ---- answers ---- */

uint8_t *fsop_answer_room(struct fsop_answer *a, size_t len)
{
	if (len > a->cap) {
		a->cap = len * 2;
		a->data = realloc(a->data, a->cap);
		if (!a->data)
			abort();
	}
	a->len = len;
	return a->data;
}

struct fsop_entry *fsop_answer_entry(struct fsop_answer *a)
{
	if (a->n_entries == a->cap_entries) {
		a->cap_entries = a->cap_entries * 2 + 16;
		a->entries = realloc(a->entries, a->cap_entries * sizeof(*a->entries));
		if (!a->entries)
			abort();
	}
	return &a->entries[a->n_entries++];
}

void fsop_answer_release(struct fsop_answer *a)
{
	free(a->data);
	free(a->entries);
	*a = (struct fsop_answer){ 0 };
}

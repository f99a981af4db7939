#include "tests/images/known.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "btree/mem.h"
#include "tests/kit/rng.h"
#include "tests/kit/test.h"

#define PIECE (64u * 1024)

#define must(call) must_be_zero((call), #call, __LINE__)

static void must_be_zero(int err, const char *call, int line)
{
	if (!err)
		return;
	print_message("# known.c:%d: %s: %d\n", line, call, err);
	fail();
}

/* ---- content ---- */

/* Bytes off..off + len - 1; off and len are multiples of 8. */
static void content(const struct known_file *f, uint64_t off, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t block = (off + i) / BLOCK_SIZE, word = 0;

		if (block % f->every == 0)
			word = rng_mix(f->seed, (off + i) / 8);
		memcpy(buf + i, &word, 8);
	}
}

/* A symlink's target, and an attribute's value: letters. */
static void letters(uint64_t seed, char *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (char)('a' + rng_mix(seed, i) % 26);
	buf[len] = 0;
}

/* ---- making ---- */

static void write_content(struct fskit *k, const struct known_file *f)
{
	static uint8_t buf[BLOCK_SIZE];

	for (uint64_t off = 0; off < f->size; off += BLOCK_SIZE * (uint64_t)f->every) {
		size_t len = f->size - off < BLOCK_SIZE ? (size_t)(f->size - off) : BLOCK_SIZE;

		content(f, off, buf, BLOCK_SIZE);
		must(fskit_write(k, f->path, buf, len, off));
	}
	if (fskit_stat(k, f->path).st_size != (off_t)f->size)
		must(fskit_truncate(k, f->path, f->size));
}

static void make_link(struct fskit *k, struct known_file *f)
{
	char target[1024], *slash = strrchr(f->path, '/');
	struct fs_entry e;
	char parent[48];

	snprintf(parent, sizeof(parent), "%.*s", (int)(slash - f->path), f->path);
	letters(f->seed, target, f->size);
	must(fs_symlink(k->fs, &fskit_root, target, fskit_node(k, parent), slash + 1, &e));
	fs_forget(k->fs, e.node, 1);
}

/* Shares all blocks of an older file, and so has its content. */
static bool make_clone(struct fskit *k, struct known_file *f, const struct known_file *of)
{
	uint64_t done = 0;

	if (of->kind != KNOWN_FILE || of->size < BLOCK_SIZE || of->size > FS_IO_MAX)
		return false;
	f->size = of->size;
	f->seed = of->seed;
	f->every = of->every;
	must(fs_copy_range(k->fs, fskit_node(k, of->path), 0, fskit_node(k, f->path), 0, of->size, &done));
	if (done < of->size)
		write_content(k, f);
	return true;
}

static void choose_shape(struct known_file *f, struct rng *r)
{
	f->every = 1;
	switch (rng_below(r, 8)) {
	case 0:
		break; /* empty */
	case 1:
	case 2:
		f->size = 1 + rng_below(r, 900);
		break;
	case 3:
	case 4:
		f->size = 1 + rng_below(r, 4 * BLOCK_SIZE);
		break;
	case 5:
		f->size = 1 + rng_below(r, 40 * BLOCK_SIZE);
		break;
	case 6:
		f->every = 3;
		f->size = 1 + rng_below(r, 30 * BLOCK_SIZE);
		break;
	case 7:
		f->kind = KNOWN_LINK;
		f->size = 1 + rng_below(r, 900);
		break;
	}
}

static void make_file(struct known *w, struct fskit *k, struct known_file *f, struct rng *r)
{
	char value[2000];

	f->seed = rng_next(r);
	if (f->kind == KNOWN_DIR) {
		must(fskit_mkdir(k, f->path));
	} else {
		choose_shape(f, r);
		if (f->kind == KNOWN_LINK) {
			make_link(k, f);
		} else {
			must(fskit_create(k, f->path));
			if (w->n < 10 || !rng_chance(r, 1, 6) || !make_clone(k, f, &w->at[rng_below(r, w->n - 1)]))
				write_content(k, f);
		}
	}
	if (f->kind == KNOWN_FILE && rng_chance(r, 1, 5)) {
		f->xattr = 1 + rng_below(r, sizeof(value) - 1);
		letters(f->seed, value, f->xattr);
		must(fs_setxattr(k->fs, fskit_node(k, f->path), "user.known", value, f->xattr, 0, false));
	}
	f->ino = (uint64_t)fskit_stat(k, f->path).st_ino;
}

static void fill_up(struct fskit *k)
{
	static uint8_t buf[BLOCK_SIZE];
	int err = 0;

	must(fskit_create(k, "full"));
	for (uint64_t n = 0; !err; n++)
		err = fskit_write(k, "full", buf, sizeof(buf), n * BLOCK_SIZE);
	assert_int_equal(err, -ENOSPC);
}

#define PER_DIR 40u

struct simdev *known_make(struct known *w, const struct known_options *o)
{
	unsigned files = o->files ? o->files : 300;
	struct simdev *disk;
	struct fskit k;
	struct rng r;
	uint64_t id;
	char dir[24];

	rng_seed(&r, o->seed);
	*w = (struct known){ .seed = o->seed };
	w->at = calloc(files, sizeof(*w->at));
	assert_non_null(w->at);
	fskit_init(&k, &(struct fskit_options){ .blocks = o->blocks, .copies = o->copies });
	for (unsigned i = 0; i < files; i++) {
		struct known_file *f = &w->at[w->n++];

		f->kind = i % PER_DIR ? KNOWN_FILE : KNOWN_DIR;
		f->late = i >= files - files / 10;
		snprintf(dir, sizeof(dir), "%s%u", i / PER_DIR % 3 == 2 ? "d0/d" : "d", i / PER_DIR);
		if (f->kind == KNOWN_DIR)
			snprintf(f->path, sizeof(f->path), "%s", dir);
		else
			snprintf(f->path, sizeof(f->path), "%s/file-%u", dir, i);
		make_file(w, &k, f, &r);
		if (o->snapshot && i == files * 2 / 3)
			must(snapshot_create(fs_store(k.fs), "snap", &id));
		if (i == files - files / 10 - 1)
			must(store_checkpoint(fs_store(k.fs)));
		else if (f->late && i % 4 == 0)
			must(fs_sync(k.fs)); /* a segment of its own */
	}
	if (o->full)
		fill_up(&k);
	must(fs_sync(k.fs));
	if (o->killed)
		fs_crash(k.fs);
	else
		must(fs_unmount(k.fs));
	k.fs = NULL;
	disk = k.disk;
	return disk;
}

void known_release(struct known *w)
{
	free(w->at);
	*w = (struct known){ 0 };
}

void known_map_release(struct image *m)
{
	for (unsigned i = 0; i < IMAGE_N_GROUPS; i++)
		free(m->group[i].at);
	for (unsigned i = 0; i < MEANINGS; i++)
		free(m->meaning[i].at);
	free(m->owner);
	free(m->owner_of);
	free(m->sum);
	free(m->inos);
}

/* ---- looking ---- */

static int lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_entry *ret)
{
	int err = fs_lookup(fs, parent, name, ret);

	if (!err)
		fs_forget(fs, ret->node, 1);
	return err;
}

static int look_in_lost_and_found(struct fs *fs, uint64_t ino, struct fs_entry *ret)
{
	struct fs_entry dir;
	char name[32];
	int err = lookup(fs, FS_ROOT, "lost+found", &dir);

	snprintf(name, sizeof(name), "#%llu", (unsigned long long)ino);
	return err ? err : lookup(fs, dir.node, name, ret);
}

/* Under its name in its directory, wherever that is now, or in lost+found. */
static int find(const struct known *w, struct fs *fs, const struct known_file *f, struct fs_entry *ret, bool *ret_moved)
{
	const char *slash = strrchr(f->path, '/'), *name = slash ? slash + 1 : f->path;
	struct fs_entry dir = { .node = FS_ROOT };
	bool moved = false;
	int err = slash ? -ENOENT : 0;

	for (size_t i = 0; slash && i < w->n; i++) {
		const struct known_file *p = &w->at[i];

		if (strlen(p->path) == (size_t)(slash - f->path) && !strncmp(p->path, f->path, strlen(p->path))) {
			err = find(w, fs, p, &dir, &moved);
			break;
		}
	}
	if (!err)
		err = lookup(fs, dir.node, name, ret);
	if (err == -ENOENT || err == -ENOTDIR) {
		moved = true;
		err = look_in_lost_and_found(fs, f->ino, ret);
	}
	*ret_moved = moved;
	return err;
}

static bool is_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

/* 0: all there; 1: parts cannot be read; -EILSEQ: bytes that were never there; -ESTALE: zeros where there should be something;
 * else what kept it from being read. */
static int look_at_content(const struct known_file *f, struct fs *fs, uint64_t node, uint64_t size)
{
	static uint8_t want[PIECE];
	uint8_t *buf = mem_alloc_blocks(FS_READ_BUFFER(PIECE));
	bool unreadable = false, zeros = false;
	int err = 0;

	for (uint64_t off = 0; !err && off < size; off += BLOCK_SIZE) {
		const void *data;
		size_t len;

		err = fs_read(fs, node, off, BLOCK_SIZE, buf, &data, &len);
		if (err == -EIO || err == -EBADMSG || err == -EUCLEAN) {
			unreadable = true;
			err = 0;
			continue;
		}
		content(f, off, want, BLOCK_SIZE);
		if (off + BLOCK_SIZE > f->size)
			memset(want + (off < f->size ? f->size - off : 0), 0,
			       BLOCK_SIZE - (off < f->size ? f->size - off : 0));
		if (err || !memcmp(data, want, len))
			continue;
		if (is_zero(data, len)) {
			zeros = true;
		} else {
			print_message("# %s: wrong bytes at %llu\n", f->path, (unsigned long long)off);
			err = -EILSEQ;
		}
	}
	mem_free(buf);
	return err ? err : zeros ? -ESTALE : unreadable;
}

static int look_at_link(const struct known_file *f, struct fs *fs, uint64_t node)
{
	char want[1024], got[4096];
	size_t len;
	int err = fs_readlink(fs, node, got, sizeof(got), &len);

	letters(f->seed, want, f->size);
	if (err)
		return err == -EIO || err == -EBADMSG || err == -EUCLEAN ? 1 : err;
	return strcmp(got, want) ? -EILSEQ : 0;
}

/* 0: as it was, or there was none; 1: gone or not readable. */
static int look_at_xattr(const struct known_file *f, struct fs *fs, uint64_t node)
{
	char want[2001], got[4096];
	size_t len;
	int err;

	if (!f->xattr)
		return 0;
	letters(f->seed, want, f->xattr);
	err = fs_getxattr(fs, node, "user.known", got, sizeof(got), &len);
	if (err)
		return err == -ENODATA || err == -EIO || err == -EBADMSG || err == -EUCLEAN ? 1 : err;
	return len != f->xattr || memcmp(got, want, len) ? -EILSEQ : 0;
}

/* CHANGED: its inode was lost and made again, from what else there was: a length of whole blocks, a file for a link. */
enum found { INTACT, UNREADABLE, SHORTER, LOST_XATTR, CHANGED, OLDER, WRONG };

static enum found look_at(const struct known_file *f, struct fs *fs, const struct fs_entry *e)
{
	uint64_t size = (uint64_t)e->st.st_size;
	int err = 0;

	if (f->kind == KNOWN_DIR)
		return S_ISDIR(e->st.st_mode) ? INTACT : WRONG;
	if (f->kind == KNOWN_LINK) {
		if (!S_ISLNK(e->st.st_mode))
			return S_ISREG(e->st.st_mode) ? CHANGED : WRONG;
		err = look_at_link(f, fs, e->node);
	} else {
		if (!S_ISREG(e->st.st_mode))
			return WRONG;
		err = look_at_content(f, fs, e->node, size);
	}
	if (err < 0)
		return err == -ESTALE ? OLDER : WRONG;
	if (f->kind == KNOWN_FILE && size != f->size)
		return size < f->size ? SHORTER : CHANGED;
	if (err)
		return UNREADABLE;
	err = look_at_xattr(f, fs, e->node);
	return err < 0 ? WRONG : err ? LOST_XATTR : INTACT;
}

unsigned known_look(const struct known *w, struct fs *fs, bool older,
		    bool (*told)(void *arg, const struct known_file *), void *arg, struct known_left *ret)
{
	unsigned wrong = 0;

	*ret = (struct known_left){ 0 };
	for (size_t i = 0; i < w->n; i++) {
		const struct known_file *f = &w->at[i];
		bool may = told(arg, f), elsewhere, bad = false;
		struct fs_entry e;
		int err = find(w, fs, f, &e, &elsewhere);

		if (err) {
			ret->missing++;
			bad = err != -ENOENT || !may;
		} else {
			ret->moved += elsewhere;
			switch (look_at(f, fs, &e)) {
			case INTACT:
				ret->intact++;
				break;
			case UNREADABLE:
				ret->unreadable++;
				bad = !may;
				break;
			case SHORTER:
			case LOST_XATTR:
			case CHANGED:
				ret->shorter++;
				bad = !may;
				break;
			case OLDER:
				ret->older++;
				bad = !older;
				err = -EILSEQ;
				break;
			case WRONG:
				err = -EILSEQ;
				bad = true;
				break;
			}
		}
		if (bad && ++wrong <= 10)
			print_message("# %s (inode %llu): %s\n", f->path, (unsigned long long)f->ino,
				      err == -EILSEQ ? "not what it was"
				      : err	     ? strerror(-err)
						     : "less than there was, and nobody told");
	}
	return wrong;
}

/*
 * scrub_names.c - what was found, told by path
 *
 * An inode does not know its names. So when there is something to tell, all names of the view are passed once more, past
 * the cache, and those of the inodes in question are kept; from there the way up is known, because a directory does know
 * its parent, and its name there is found by a scan of that one directory.
 *
 * Where nothing has a name (a deleted file that is still open, or names that are lost themselves) the number is told.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/check_int.h"
#include "fs/scrub_int.h"

#define PATH_ROOM 4096u
#define LINE_ROOM (PATH_ROOM + CHECK_SHOWN_MAX + 256u)

struct name {
	uint64_t ino, dir;
	char text[FS_NAME_MAX + 1];
};

struct span {
	uint64_t lo, hi;
};

struct names {
	struct scrub *sc;
	struct span *wanted; /* inode numbers, sorted, apart from each other */
	size_t n_wanted;
	struct name *at;
	size_t n, cap;
};

static bool has(const struct names *w, uint64_t ino)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->at[i].ino == ino)
			return true;
	return false;
}

static int span_cmp(const void *pa, const void *pb)
{
	const struct span *a = pa, *b = pb;

	return a->lo < b->lo ? -1 : a->lo > b->lo;
}

static int note_wanted(struct names *w)
{
	const struct scrub *sc = w->sc;
	size_t n = 0;

	w->wanted = mem_zalloc_array(sc->n_finds, sizeof(*w->wanted));
	if (!w->wanted)
		return -ENOMEM;
	for (size_t i = 0; i < sc->n_finds; i++)
		w->wanted[i] = (struct span){ sc->finds[i].lo, sc->finds[i].hi };
	qsort(w->wanted, sc->n_finds, sizeof(*w->wanted), span_cmp);
	for (size_t i = 0; i < sc->n_finds; i++) {
		if (!n || w->wanted[i].lo > w->wanted[n - 1].hi)
			w->wanted[n++] = w->wanted[i];
		else if (w->wanted[i].hi > w->wanted[n - 1].hi)
			w->wanted[n - 1].hi = w->wanted[i].hi;
	}
	w->n_wanted = n;
	return 0;
}

/* There may be very many names. */
static bool in_question(const struct names *w, uint64_t ino)
{
	size_t low = 0, high = w->n_wanted;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (w->wanted[mid].hi < ino)
			low = mid + 1;
		else
			high = mid;
	}
	return low < w->n_wanted && w->wanted[low].lo <= ino;
}

static int on_name(void *arg, struct key key, const void *val, size_t len)
{
	const struct disk_dirent *d = val;
	struct names *w = arg;
	uint64_t ino;

	if (key_type(key) != FS_ITEM_DIRENT)
		return 0;
	ino = le64_get(d->ino);
	/* The first name is enough. */
	if (w->n >= SCRUB_BAD_MAX || !in_question(w, ino) || has(w, ino))
		return 0;
	if (mem_grow((void **)&w->at, &w->cap, w->n + 1, sizeof(*w->at)))
		return -ENOMEM;
	w->at[w->n] = (struct name){ .ino = ino, .dir = key_ino(key) };
	memcpy(w->at[w->n++].text, d->name, len - sizeof(*d));
	return 0;
}

static int on_pace(void *arg, uint64_t bytes)
{
	struct names *w = arg;

	return scrub_pace(w->sc, bytes);
}

/* Puts a name and a slash in front of *at. False: no room. */
static bool prepend(char *buf, size_t *at, const uint8_t *name, size_t len)
{
	char shown[CHECK_SHOWN_MAX];
	size_t n;

	check_shown(shown, name, len);
	n = strlen(shown);
	if (*at < n + 1)
		return false;
	*at -= n;
	memcpy(buf + *at, shown, n);
	buf[--*at] = '/';
	return true;
}

/* The name of a directory in its parent. > 0: there is none. */
static int prepend_dir(struct view *v, uint64_t parent, uint64_t dir, char *buf, size_t *at)
{
	const void *val;
	struct scan *s;
	struct key key;
	size_t len;
	int err;

	err = scan_open(v, key_make(parent, FS_ITEM_DIRENT, 0), key_make(parent, FS_ITEM_DIRENT + 1, 0), &s);
	if (err)
		return err;
	while (!(err = scan_next(s, &key, &val, &len))) {
		const struct disk_dirent *d = val;

		if (key_type(key) != FS_ITEM_DIRENT || le64_get(d->ino) != dir)
			continue;
		err = prepend(buf, at, d->name, len - sizeof(*d)) ? 0 : 1;
		break;
	}
	scan_close(s);
	return err;
}

/* The path of a name, as far up as it can be followed. buf: PATH_ROOM. */
static const char *path_of(struct view *v, const struct name *name, char *buf)
{
	size_t at = PATH_ROOM - 1;
	uint64_t dir = name->dir;
	struct inode inode;

	buf[at] = 0;
	if (!prepend(buf, &at, (const uint8_t *)name->text, strlen(name->text)))
		return name->text;
	while (dir != FS_ROOT_INO) {
		if (inode_load(v, dir, &inode) || prepend_dir(v, inode.parent, dir, buf, &at)) {
			/* Damaged on the way: what there is, from the nearest directory. */
			char from[40];
			size_t n = (size_t)snprintf(from, sizeof(from), "(inode %" PRIu64 ")", dir);

			if (at >= n) {
				at -= n;
				memcpy(buf + at, from, n);
			}
			break;
		}
		dir = inode.parent;
	}
	return buf + at;
}

static void tell(struct scrub *sc, const struct store_scrub_view *v, const struct scrub_find *f, const char *path)
{
	char shown[CHECK_SHOWN_MAX], who[64];
	char *line = mem_alloc(LINE_ROOM), *shorter;
	size_t n = 0;

	if (!line)
		return;
	if (v->id != STORE_SCRUB_LIVE)
		n = (size_t)snprintf(line, LINE_ROOM,
				     "snapshot %s: ", check_shown(shown, (const uint8_t *)v->name, strlen(v->name)));
	if (!path && f->lo == f->hi)
		snprintf(who, sizeof(who), "inode %" PRIu64, f->lo);
	else if (!path)
		snprintf(who, sizeof(who), "inodes %" PRIu64 " to %" PRIu64, f->lo, f->hi);
	if (f->blocks)
		snprintf(line + n, LINE_ROOM - n,
			 "%s: bytes %" PRIu64 " to %" PRIu64 " do not verify, at block %" PRIu64 " of the device",
			 path ? path : who, f->off, f->off + (uint64_t)f->blocks * BLOCK_SIZE - 1, f->addr);
	else
		snprintf(line + n, LINE_ROOM - n,
			 "%s: metadata is lost: the node at block %" PRIu64 " cannot be read from any copy",
			 path ? path : who, f->addr);
	shorter = mem_realloc(line, strlen(line) + 1);
	scrub_line_add(sc, shorter ? shorter : line);
}

static void tell_find(struct scrub *sc, const struct store_scrub_view *v, const struct names *w,
		      const struct scrub_find *f, char *buf)
{
	bool told = false;

	if (f->lo <= FS_ROOT_INO && f->hi >= FS_ROOT_INO) {
		tell(sc, v, f, "/");
		told = true;
	}
	for (size_t i = 0; i < w->n; i++)
		if (f->lo <= w->at[i].ino && w->at[i].ino <= f->hi) {
			tell(sc, v, f, path_of(v->view, &w->at[i], buf));
			told = true;
		}
	if (!told)
		tell(sc, v, f, NULL);
}

int scrub_tell(struct scrub *sc, const struct store_scrub_view *v, bool quick)
{
	struct names w = { .sc = sc };
	const struct store_scrub_ops ops = { .pace = on_pace, .item = on_name, .arg = &w };
	struct store_scrub_result r = { 0 };
	struct store_scrub_view all = *v;
	char *buf = NULL;
	int err = 0;

	if (!sc->n_finds)
		return 0;
	all.born_after = 0;
	sc->may_yield = false;
	if (!quick) {
		buf = mem_alloc(PATH_ROOM);
		err = buf ? note_wanted(&w) : -ENOMEM;
		if (!err)
			err = store_scrub_view(sc->fs->store, &all, KEY_MIN, &ops, &r);
	}
	/* Without names there are numbers. */
	if (err || !buf)
		w.n = 0;
	for (size_t i = 0; i < sc->n_finds; i++)
		tell_find(sc, v, &w, &sc->finds[i], buf);
	sc->n_finds = 0;
	mem_free(w.wanted);
	mem_free(w.at);
	mem_free(buf);
	return err;
}

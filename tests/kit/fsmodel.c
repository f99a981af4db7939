#include "tests/kit/fsmodel.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include "tests/kit/rng.h"

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "fsmodel: no memory\n");
		abort();
	}
	return p;
}

static void *grown(void *array, size_t n, size_t each)
{
	return must(realloc(array, (n + 1) * each));
}

/* ---- life ---- */

static struct fsm_page *page_get(struct fsm_page *page)
{
	page->refs++;
	return page;
}

static void page_put(struct fsm_page *page)
{
	if (!--page->refs)
		free(page);
}

static void inode_free(struct fsm_inode *node)
{
	if (!node)
		return;
	for (size_t i = 0; i < node->n_names; i++)
		free(node->names[i].name);
	for (size_t i = 0; i < node->n_xattrs; i++) {
		free(node->xattrs[i].name);
		free(node->xattrs[i].val);
	}
	for (size_t i = 0; i < node->n_slots; i++)
		page_put(node->slots[i].page);
	free(node->names);
	free(node->xattrs);
	free(node->slots);
	free(node->target);
	free(node);
}

struct fsm_inode *fsm_add_inode(struct fsm *m, uint64_t ino, uint32_t mode)
{
	struct fsm_inode *node = must(calloc(1, sizeof(*node)));

	if (!m->n_inodes) { /* 0 is nobody */
		m->inodes = grown(m->inodes, 0, sizeof(struct fsm_inode *));
		m->inodes[m->n_inodes++] = NULL;
	}
	m->inodes = grown(m->inodes, m->n_inodes, sizeof(struct fsm_inode *));
	node->id = (uint32_t)m->n_inodes;
	node->ino = ino;
	node->mode = mode;
	m->inodes[m->n_inodes++] = node;
	return node;
}

struct fsm *fsm_new(uint64_t root_ino, uint32_t root_mode)
{
	struct fsm *m = must(calloc(1, sizeof(*m)));
	struct fsm_inode *root = fsm_add_inode(m, root_ino, S_IFDIR | root_mode);

	root->nlink = 2;
	root->parent = root->id;
	return m;
}

static struct fsm_inode *inode_clone(const struct fsm_inode *from)
{
	struct fsm_inode *node = must(malloc(sizeof(*node)));

	*node = *from;
	node->target = from->target ? must(strdup(from->target)) : NULL;
	node->names = from->n_names ? must(calloc(from->n_names, sizeof(*node->names))) : NULL;
	for (size_t i = 0; i < from->n_names; i++)
		node->names[i] = (struct fsm_name){ must(strdup(from->names[i].name)), from->names[i].id };
	node->n_xattrs = 0;
	node->xattrs = NULL;
	for (size_t i = 0; i < from->n_xattrs; i++)
		fsm_add_xattr(node, from->xattrs[i].name, from->xattrs[i].val, from->xattrs[i].size);
	node->cap_slots = from->n_slots;
	node->slots = from->n_slots ? must(calloc(from->n_slots, sizeof(*node->slots))) : NULL;
	for (size_t i = 0; i < from->n_slots; i++)
		node->slots[i] = (struct fsm_slot){ from->slots[i].number, page_get(from->slots[i].page) };
	node->clean = from->clean;
	return node;
}

struct fsm *fsm_clone(const struct fsm *from)
{
	struct fsm *m = must(malloc(sizeof(*m)));

	*m = *from;
	m->inodes = must(calloc(from->n_inodes, sizeof(struct fsm_inode *)));
	for (size_t i = 0; i < from->n_inodes; i++)
		m->inodes[i] = from->inodes[i] ? inode_clone(from->inodes[i]) : NULL;
	for (unsigned h = 0; h < FSM_HANDLES; h++)
		m->handle[h] = from->handle[h] ? m->inodes[from->handle[h]->id] : NULL;
	return m;
}

void fsm_free(struct fsm *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_inodes; i++)
		inode_free(m->inodes[i]);
	free(m->inodes);
	free(m);
}

void fsm_judge(struct fsm *m)
{
	m->apply = false;
	m->n_errs = 0;
}

void fsm_apply(struct fsm *m, struct timespec now)
{
	m->apply = true;
	m->n_errs = 0;
	m->now = now;
}

bool fsm_allows(const struct fsm *m, int err)
{
	for (unsigned i = 0; i < m->n_errs; i++)
		if (m->errs[i] == -err)
			return true;
	return !err && !m->n_errs;
}

/* ---- looking ---- */

struct fsm_inode *fsm_inode(const struct fsm *m, uint32_t id)
{
	return id < m->n_inodes ? m->inodes[id] : NULL;
}

struct fsm_inode *fsm_find(const struct fsm *m, const struct fsm_inode *dir, const char *name)
{
	if (!dir || !S_ISDIR(dir->mode))
		return NULL;
	for (size_t i = 0; i < dir->n_names; i++)
		if (!strcmp(dir->names[i].name, name))
			return m->inodes[dir->names[i].id];
	return NULL;
}

const struct fsm_xattr *fsm_xattr_find(const struct fsm_inode *node, const char *name)
{
	for (size_t i = 0; i < node->n_xattrs; i++)
		if (!strcmp(node->xattrs[i].name, name))
			return &node->xattrs[i];
	return NULL;
}

/* The first slot with a number >= number. */
static size_t slot_find(const struct fsm_inode *node, uint64_t number)
{
	size_t lo = 0, hi = node->n_slots;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (node->slots[mid].number < number)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void fsm_bytes(const struct fsm_inode *node, uint64_t off, size_t len, uint8_t *buf)
{
	memset(buf, 0, len);
	for (size_t i = slot_find(node, off / FSM_PAGE); i < node->n_slots; i++) {
		uint64_t start = node->slots[i].number * FSM_PAGE, end = start + FSM_PAGE;
		uint64_t from = start > off ? start : off, to = end < off + len ? end : off + len;

		if (start >= off + len)
			break;
		memcpy(buf + (from - off), node->slots[i].page->bytes + (from - start), to - from);
	}
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

bool fsm_zero(const struct fsm_inode *node, uint64_t from, uint64_t to)
{
	for (size_t i = slot_find(node, from / FSM_PAGE); i < node->n_slots; i++) {
		uint64_t start = node->slots[i].number * FSM_PAGE;
		uint64_t a = start > from ? start : from, b = start + FSM_PAGE < to ? start + FSM_PAGE : to;

		if (start >= to)
			break;
		if (!all_zero(node->slots[i].page->bytes + (a - start), b - a))
			return false;
	}
	return true;
}

unsigned fsm_depth(const struct fsm *m, const struct fsm_inode *dir)
{
	unsigned depth = 0;

	for (; dir && dir->id != FSM_ROOT && depth < 100; depth++)
		dir = fsm_inode(m, dir->parent);
	return depth;
}

/* The directory that has a name of it, and the name. */
static const char *name_of(const struct fsm *m, const struct fsm_inode *node, const struct fsm_inode **ret_dir)
{
	bool one = S_ISDIR(node->mode);

	for (size_t i = one ? node->parent : 1; i < (one ? node->parent + 1 : m->n_inodes); i++) {
		const struct fsm_inode *dir = m->inodes[i];

		if (!dir)
			continue;
		for (size_t k = 0; k < dir->n_names; k++)
			if (dir->names[k].id == node->id) {
				*ret_dir = dir;
				return dir->names[k].name;
			}
	}
	return NULL;
}

bool fsm_path(const struct fsm *m, const struct fsm_inode *node, char *buf, size_t size)
{
	size_t at = size - 1;

	buf[at] = 0;
	while (node->id != FSM_ROOT) {
		const struct fsm_inode *dir = NULL;
		const char *name = name_of(m, node, &dir);
		size_t len = name ? strlen(name) : 0;

		if (!name || len + 2 > at)
			return false;
		if (buf[at])
			buf[--at] = '/';
		memcpy(buf + (at -= len), name, len);
		node = dir;
	}
	memmove(buf, buf + at, size - at);
	return true;
}

/* ---- digest and difference ---- */

static uint64_t mix_bytes(uint64_t sum, const void *p, size_t n)
{
	return rng_mix(sum, XXH3_64bits(p, n));
}

static uint64_t mix_time(uint64_t sum, struct timespec t)
{
	return rng_mix(rng_mix(sum, (uint64_t)t.tv_sec), (uint64_t)t.tv_nsec);
}

/* Everything of one inode; names and attributes in any order. */
static uint64_t inode_digest(const struct fsm *m, const struct fsm_inode *node)
{
	uint64_t sum = rng_mix(node->ino, node->mode), parts = 0;

	sum = rng_mix(rng_mix(sum, node->uid), node->gid);
	sum = rng_mix(rng_mix(sum, node->flags), node->nlink);
	sum = rng_mix(rng_mix(sum, node->rdev), S_ISDIR(node->mode) ? 0 : node->size);
	if (m->times) {
		sum = mix_time(mix_time(sum, node->mtime), node->ctime);
		sum = mix_time(mix_time(sum, node->btime), node->atime);
	}
	if (node->target)
		sum = mix_bytes(sum, node->target, strlen(node->target));
	for (size_t i = 0; i < node->n_names; i++)
		parts += mix_bytes(m->inodes[node->names[i].id]->ino, node->names[i].name, strlen(node->names[i].name));
	for (size_t i = 0; i < node->n_xattrs; i++)
		parts += mix_bytes(XXH3_64bits(node->xattrs[i].name, strlen(node->xattrs[i].name)), node->xattrs[i].val,
				   node->xattrs[i].size);
	for (size_t i = 0; i < node->n_slots; i++)
		if (!all_zero(node->slots[i].page->bytes, FSM_PAGE))
			parts += mix_bytes(node->slots[i].number, node->slots[i].page->bytes, FSM_PAGE);
	return rng_mix(sum, parts);
}

uint64_t fsm_digest(struct fsm *m)
{
	for (size_t i = 1; i < m->n_inodes; i++) {
		struct fsm_inode *node = m->inodes[i];

		if (!node || node->clean || !node->nlink)
			continue;
		node->digest = inode_digest(m, node);
		node->clean = true;
		m->digest += node->digest;
	}
	return m->digest;
}

struct differ {
	const struct fsm *want, *got;
	FILE *f;
	const char *prefix;
	unsigned n, max;
	char path[600];
};

__attribute__((format(printf, 2, 3))) static void differs(struct differ *d, const char *fmt, ...)
{
	va_list ap;

	if (d->n++ >= d->max)
		return;
	va_start(ap, fmt);
	fprintf(d->f, "%s%.200s: ", d->prefix, d->path[0] ? d->path : "/");
	vfprintf(d->f, fmt, ap);
	fprintf(d->f, "\n");
	va_end(ap);
}

static void diff_number(struct differ *d, const char *what, uint64_t want, uint64_t got)
{
	if (want != got)
		differs(d, "%s is %llu (0%llo), should be %llu (0%llo)", what, (unsigned long long)got,
			(unsigned long long)got, (unsigned long long)want, (unsigned long long)want);
}

static void diff_time(struct differ *d, const char *what, struct timespec want, struct timespec got)
{
	if (want.tv_sec != got.tv_sec || want.tv_nsec != got.tv_nsec)
		differs(d, "%s is %lld.%09ld, should be %lld.%09ld", what, (long long)got.tv_sec, got.tv_nsec,
			(long long)want.tv_sec, want.tv_nsec);
}

static void diff_data(struct differ *d, const struct fsm_inode *want, const struct fsm_inode *got)
{
	const struct fsm_inode *both[2] = { want, got };

	for (unsigned w = 0; w < 2; w++)
		for (size_t i = 0; i < both[w]->n_slots; i++) {
			uint64_t off = both[w]->slots[i].number * FSM_PAGE;
			uint8_t a[FSM_PAGE], b[FSM_PAGE];

			fsm_bytes(want, off, FSM_PAGE, a);
			fsm_bytes(got, off, FSM_PAGE, b);
			for (unsigned k = 0; k < FSM_PAGE; k++)
				if (a[k] != b[k]) {
					unsigned last = FSM_PAGE - 1;

					while (a[last] == b[last])
						last--;
					differs(d, "bytes %llu to %llu differ: the first is %02x, should be %02x",
						(unsigned long long)off + k, (unsigned long long)off + last, b[k],
						a[k]);
					break;
				}
			if (d->n >= d->max)
				return;
		}
}

static void diff_xattrs(struct differ *d, const struct fsm_inode *want, const struct fsm_inode *got)
{
	for (size_t i = 0; i < want->n_xattrs; i++) {
		const struct fsm_xattr *a = &want->xattrs[i], *b = fsm_xattr_find(got, a->name);

		if (!b)
			differs(d, "attribute %s is not there", a->name);
		else if (a->size != b->size || memcmp(a->val, b->val, a->size))
			differs(d, "attribute %s has another value (%zu bytes, should be %zu)", a->name, b->size,
				a->size);
	}
	for (size_t i = 0; i < got->n_xattrs; i++)
		if (!fsm_xattr_find(want, got->xattrs[i].name))
			differs(d, "attribute %s should not be there", got->xattrs[i].name);
}

static void diff_inode(struct differ *d, const struct fsm_inode *want, const struct fsm_inode *got)
{
	size_t len = strlen(d->path);

	diff_number(d, "inode number", want->ino, got->ino);
	diff_number(d, "mode", want->mode, got->mode);
	diff_number(d, "owner", want->uid, got->uid);
	diff_number(d, "group", want->gid, got->gid);
	diff_number(d, "flags", want->flags, got->flags);
	diff_number(d, "link count", want->nlink, got->nlink);
	diff_number(d, "device number", want->rdev, got->rdev);
	if (!S_ISDIR(want->mode))
		diff_number(d, "size", want->size, got->size);
	if (d->want->times) {
		diff_time(d, "access time", want->atime, got->atime);
		diff_time(d, "modification time", want->mtime, got->mtime);
		diff_time(d, "change time", want->ctime, got->ctime);
		diff_time(d, "birth time", want->btime, got->btime);
	}
	if (want->target && got->target && strcmp(want->target, got->target))
		differs(d, "target is %.60s, should be %.60s", got->target, want->target);
	diff_xattrs(d, want, got);
	diff_data(d, want, got);
	for (size_t i = 0; i < want->n_names && d->n < d->max; i++) {
		const struct fsm_inode *b = fsm_find(d->got, got, want->names[i].name);

		snprintf(d->path + len, sizeof(d->path) - len, "/%s", want->names[i].name);
		if (!b)
			differs(d, "is not there");
		else
			diff_inode(d, d->want->inodes[want->names[i].id], b);
		d->path[len] = 0;
	}
	for (size_t i = 0; i < got->n_names; i++)
		if (!fsm_find(d->want, want, got->names[i].name))
			differs(d, "has the name %.100s, which should not be there", got->names[i].name);
}

unsigned fsm_diff(const struct fsm *want, const struct fsm *got, FILE *f, const char *prefix, unsigned max)
{
	struct differ d = { .want = want, .got = got, .f = f, .prefix = prefix, .max = max };

	diff_inode(&d, want->inodes[FSM_ROOT], got->inodes[FSM_ROOT]);
	return d.n;
}

/* ---- changing ---- */

void fsm_add_name(struct fsm_inode *dir, const char *name, uint32_t id)
{
	dir->names = grown(dir->names, dir->n_names, sizeof(*dir->names));
	dir->names[dir->n_names++] = (struct fsm_name){ must(strdup(name)), id };
}

/* The page for writing, zeros where there was none. */
static uint8_t *page_for_write(struct fsm_inode *node, uint64_t number)
{
	size_t i = slot_find(node, number);

	if (i == node->n_slots || node->slots[i].number != number) {
		if (node->n_slots == node->cap_slots) {
			node->cap_slots = node->cap_slots * 2 + 8;
			node->slots = must(realloc(node->slots, node->cap_slots * sizeof(*node->slots)));
		}
		memmove(&node->slots[i + 1], &node->slots[i], (node->n_slots - i) * sizeof(*node->slots));
		node->slots[i] = (struct fsm_slot){ number, must(calloc(1, sizeof(struct fsm_page))) };
		node->slots[i].page->refs = 1;
		node->n_slots++;
	} else if (node->slots[i].page->refs > 1) {
		struct fsm_page *copy = must(malloc(sizeof(*copy)));

		*copy = *node->slots[i].page;
		copy->refs = 1;
		page_put(node->slots[i].page);
		node->slots[i].page = copy;
	}
	return node->slots[i].page->bytes;
}

void fsm_add_bytes(struct fsm_inode *node, uint64_t off, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	while (len) {
		size_t at = off % FSM_PAGE, n = FSM_PAGE - at < len ? FSM_PAGE - at : len;

		memcpy(page_for_write(node, off / FSM_PAGE) + at, p, n);
		off += n;
		p += n;
		len -= n;
	}
}

void fsm_wipe(struct fsm_inode *node, uint64_t from, uint64_t to)
{
	size_t n = 0;

	if (from >= to)
		return;

	for (size_t i = 0; i < node->n_slots; i++) {
		uint64_t start = node->slots[i].number * FSM_PAGE, end = start + FSM_PAGE;

		if (start >= from && end <= to) {
			page_put(node->slots[i].page);
			continue;
		}
		node->slots[n++] = node->slots[i];
	}
	node->n_slots = n;
	for (unsigned k = 0; k < 2; k++) {
		uint64_t number = (k ? to - 1 : from) / FSM_PAGE, start = number * FSM_PAGE;
		uint64_t a = start > from ? start : from, b = start + FSM_PAGE < to ? start + FSM_PAGE : to;
		size_t i = slot_find(node, number);

		if (a < b && i < node->n_slots && node->slots[i].number == number)
			memset(page_for_write(node, number) + (a - start), 0, b - a);
	}
}

void fsm_add_xattr(struct fsm_inode *node, const char *name, const void *val, size_t size)
{
	void *copy = must(malloc(size + 1));

	if (size)
		memcpy(copy, val, size);
	for (size_t i = 0; i < node->n_xattrs; i++)
		if (!strcmp(node->xattrs[i].name, name)) {
			free(node->xattrs[i].val);
			node->xattrs[i].val = copy;
			node->xattrs[i].size = size;
			return;
		}
	node->xattrs = grown(node->xattrs, node->n_xattrs, sizeof(*node->xattrs));
	node->xattrs[node->n_xattrs++] = (struct fsm_xattr){ must(strdup(name)), copy, size };
}

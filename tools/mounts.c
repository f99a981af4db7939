/*
 * /proc/self/mountinfo is the only list of mounts that is never out of date. A mount shows as type "fuse.arbor" or
 * "fuseblk.arbor", with the path of the image or device as its source. Bind mounts of a directory inside have another root
 * than "/" and are passed over: the filesystem is listed where all of it is seen.
 */
#include "tools/mounts.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "btree/mem.h"

/* "\040" and the like become the bytes they stand for. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
		    s[3] <= '7') {
			*out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = 0;
}

/*
 * 36 35 98:0 /part /point rw,noatime shared:1 - type source rw,errors=continue
 * There may be none or several optional fields before the dash.
 */
int mount_info_parse(char *line, struct mount_info *ret)
{
	char *field[7] = { NULL }, *rest = line, *word;
	unsigned n = 0;
	char end;

	line[strcspn(line, "\n")] = 0;
	while (n < 6 && (word = strsep(&rest, " ")))
		field[n++] = word;
	do {
		word = strsep(&rest, " ");
	} while (word && strcmp(word, "-"));
	if (n < 6 || !word)
		return -EINVAL;
	*ret = (struct mount_info){ .root = field[3], .point = field[4] };
	ret->type = strsep(&rest, " ");
	ret->source = strsep(&rest, " ");
	if (!ret->type || !ret->source || sscanf(field[2], "%u:%u%c", &ret->major, &ret->minor, &end) != 2)
		return -EINVAL;
	unescape(ret->root);
	unescape(ret->point);
	unescape(ret->type);
	unescape(ret->source);
	return 0;
}

bool mount_info_is_ours(const struct mount_info *m)
{
	return strcmp(m->type, "fuse.arbor") == 0 || strcmp(m->type, "fuseblk.arbor") == 0;
}

int mounts_each(int (*each)(void *arg, const struct mount_info *), void *arg)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct mount_info m;
	char line[16384];
	int rc = 0;

	if (!f)
		return -errno;
	while (!rc && fgets(line, sizeof(line), f))
		if (mount_info_parse(line, &m) == 0 && mount_info_is_ours(&m) && strcmp(m.root, "/") == 0)
			rc = each(arg, &m);
	fclose(f);
	return rc;
}

struct search {
	const char *path; /* absolute */
	struct stat st;
	bool have_st;
	char *found;
	int err;
};

static bool is_inside(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strcmp(dir, "/") == 0 || (strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/'));
}

static void found(struct search *s, const char *point)
{
	mem_free(s->found);
	s->found = mem_strdup(point);
	s->err = s->found ? 0 : -ENOMEM;
}

/* Of several that match, the last one made lies on top; a longer one is nearer. Something else may be mounted inside. */
static int match_point(void *arg, const struct mount_info *m)
{
	struct search *s = arg;

	if (s->have_st && s->st.st_dev != makedev(m->major, m->minor))
		return 0;
	if (is_inside(s->path, m->point) && (!s->found || strlen(m->point) >= strlen(s->found)))
		found(s, m->point);
	return 0;
}

static int match_source(void *arg, const struct mount_info *m)
{
	struct search *s = arg;
	struct stat st;

	if (strcmp(m->source, s->path) == 0 ||
	    (stat(m->source, &st) == 0 &&
	     (S_ISBLK(st.st_mode) ? S_ISBLK(s->st.st_mode) && st.st_rdev == s->st.st_rdev
				  : st.st_dev == s->st.st_dev && st.st_ino == s->st.st_ino)))
		found(s, m->point);
	return 0;
}

static int search(struct search *s, int (*match)(void *, const struct mount_info *), char **ret_point)
{
	int err = mounts_each(match, s);

	if (!err)
		err = s->err ? s->err : s->found ? 0 : -ENOENT;
	if (!err)
		*ret_point = s->found;
	else
		mem_free(s->found);
	return err;
}

/* As realpath, for a path whose last part may not answer: the mount point of a daemon that has died gives ENOTCONN. */
static int absolute(const char *path, char out[PATH_MAX])
{
	char parent[PATH_MAX], *slash;
	size_t n;

	if (realpath(path, out))
		return 0;
	if (errno != ENOTCONN && errno != EIO && errno != EACCES)
		return -errno;
	if (snprintf(parent, sizeof(parent), "%s%s", strchr(path, '/') ? "" : "./", path) >= (int)sizeof(parent))
		return -ENAMETOOLONG;
	for (n = strlen(parent); n > 1 && parent[n - 1] == '/'; n--)
		parent[n - 1] = 0;
	slash = strrchr(parent, '/');
	if (!slash)
		return -ENOENT;
	*slash = 0;
	if (!realpath(slash == parent ? "/" : parent, out))
		return -errno;
	n = strlen(out);
	if (n + strlen(slash + 1) + 2 > PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(out + n, PATH_MAX - n, "%s%s", n == 1 ? "" : "/", slash + 1);
	return 0;
}

int mounts_find_point(const char *path, char **ret_point)
{
	char real[PATH_MAX];
	struct search s = { .path = real };
	int err = absolute(path, real);

	s.have_st = !err && stat(real, &s.st) == 0;
	return err ? err : search(&s, match_point, ret_point);
}

int mounts_find_source(const char *path, char **ret_point)
{
	char real[PATH_MAX];
	struct search s = { .path = real };
	int err = absolute(path, real);

	if (!err && stat(real, &s.st))
		err = -errno;
	return err ? err : search(&s, match_source, ret_point);
}

/* Extended attributes: namespaces, limits, flags, who may. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/mount/posix.h"

static bool listed(const char *path, const char *name)
{
	char buf[65536];
	ssize_t n = llistxattr(path, buf, sizeof(buf));

	for (ssize_t at = 0; at < n; at += (ssize_t)strlen(buf + at) + 1)
		if (!strcmp(buf + at, name))
			return true;
	return false;
}

static void set_get_list_remove(void)
{
	char buf[100];

	make_file("f", 0644);
	WORKS(mkdir("d", 0755));
	for (const char *const *p = (const char *const[]){ "f", "d", NULL }; *p; p++) {
		FAILS(getxattr(*p, "user.a", buf, 100), ENODATA);
		FAILS(removexattr(*p, "user.a"), ENODATA);
		SAME(setxattr(*p, "user.a", "value", 5, 0), 0);
		SAME(setxattr(*p, "user.b", "", 0, 0), 0);
		SAME(getxattr(*p, "user.a", buf, 100), 5);
		CHECK(!memcmp(buf, "value", 5));
		SAME(getxattr(*p, "user.b", buf, 100), 0);
		SAME(getxattr(*p, "user.a", NULL, 0), 5);
		FAILS(getxattr(*p, "user.a", buf, 4), ERANGE);
		CHECK(listed(*p, "user.a") && listed(*p, "user.b"));
		CHECK(listxattr(*p, NULL, 0) >= 14);
		FAILS(listxattr(*p, buf, 3), ERANGE);
		WORKS(setxattr(*p, "user.a", "other and longer", 16, 0));
		SAME(getxattr(*p, "user.a", buf, 100), 16);
		WORKS(removexattr(*p, "user.a"));
		CHECK(!listed(*p, "user.a") && listed(*p, "user.b"));
		FAILS(removexattr(*p, "user.a"), ENODATA);
	}
	FAILS(getxattr("missing", "user.a", buf, 100), ENOENT);
}

static void create_and_replace(void)
{
	make_file("f", 0644);
	FAILS(setxattr("f", "user.a", "1", 1, XATTR_REPLACE), ENODATA);
	WORKS(setxattr("f", "user.a", "1", 1, XATTR_CREATE));
	FAILS(setxattr("f", "user.a", "2", 1, XATTR_CREATE), EEXIST);
	WORKS(setxattr("f", "user.a", "3", 1, XATTR_REPLACE));
	FAILS(setxattr("f", "user.a", "4", 1, 0x80), EINVAL);
}

static void limits(void)
{
	char name[300] = "user.", *val = malloc(70000), *buf = malloc(70000);

	if (!val || !buf)
		abort();
	make_file("f", 0644);
	memset(val, 'v', 70000);
	memset(name + 5, 'n', 250);
	name[255] = 0;
	WORKS(setxattr("f", name, "1", 1, 0));
	CHECK(listed("f", name));
	SAME(getxattr("f", name, buf, 10), 1);
	name[255] = 'n';
	name[256] = 0;
	FAILS(setxattr("f", name, "1", 1, 0), ERANGE);
	FAILS(setxattr("f", "", "1", 1, 0), ERANGE);
	FAILS(setxattr("f", "user.big", val, 65537, 0), E2BIG);
	FAILS(setxattr("f", "user.", "1", 1, 0), EINVAL);
	if (setxattr("f", "user.big", val, 65536, 0)) {
		/* ext4 keeps them in one block unless it was made with ea_inode. */
		CHECKF(posix_is_ext4() && errno == ENOSPC, "%s", strerrorname_np(errno));
	} else {
		SAME(getxattr("f", "user.big", buf, 65536), 65536);
		CHECK(!memcmp(buf, val, 65536));
		FAILS(getxattr("f", "user.big", buf, 65535), ERANGE);
		WORKS(setxattr("f", "user.big", "small", 5, 0));
		SAME(getxattr("f", "user.big", buf, 65536), 5);
	}
	free(val);
	free(buf);
}

static void many_attributes(void)
{
	char name[32], val[64];

	make_file("f", 0644);
	for (unsigned i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "user.name-%u", i);
		snprintf(val, sizeof(val), "value of number %u", i * i);
		WORKS(setxattr("f", name, val, strlen(val), 0));
	}
	for (unsigned i = 0; i < 50; i += 2) {
		snprintf(name, sizeof(name), "user.name-%u", i);
		WORKS(removexattr("f", name));
	}
	for (unsigned i = 0; i < 50; i++) {
		char want[64];

		snprintf(name, sizeof(name), "user.name-%u", i);
		CHECKF(listed("f", name) == (i % 2), "%s", name);
		if (i % 2) {
			snprintf(want, sizeof(want), "value of number %u", i * i);
			SAME(getxattr("f", name, val, sizeof(val)), strlen(want));
			CHECK(!memcmp(val, want, strlen(want)));
		}
	}
	WORKS(rename("f", "g"));
	WORKS(link("g", "h"));
	CHECK(listed("h", "user.name-1"));
	make_file("f", 0644);
	CHECK(!listed("f", "user.name-1"));
}

static void namespaces(void)
{
	char buf[10];

	make_file("f", 0644);
	WORKS(symlink("f", "l"));
	WORKS(mkfifo("p", 0644));
	FAILS(setxattr("f", "nonsense.a", "1", 1, 0), EOPNOTSUPP);
	FAILS(setxattr("f", "plain", "1", 1, 0), EOPNOTSUPP);
	FAILS(lsetxattr("l", "user.a", "1", 1, 0), EPERM);
	FAILS(setxattr("p", "user.a", "1", 1, 0), EPERM);
	WORKS(lsetxattr("l", "trusted.a", "link", 4, 0));
	WORKS(setxattr("p", "trusted.a", "fifo", 4, 0));
	WORKS(setxattr("f", "trusted.a", "file", 4, 0));
	SAME(lgetxattr("l", "trusted.a", buf, 10), 4);
	CHECK(!memcmp(buf, "link", 4));
	SAME(getxattr("l", "trusted.a", buf, 10), 4);
	CHECK(!memcmp(buf, "file", 4));
	AS(1000, 1000)
	{
		FAILS(getxattr("f", "trusted.a", buf, 10), ENODATA);
		FAILS(setxattr("f", "trusted.b", "1", 1, 0), EPERM);
		CHECK(!listed("f", "trusted.a"));
	}
	CHECK(listed("f", "trusted.a"));
}

static void user_attributes_need_the_files_rights(void)
{
	char buf[10];

	make_file("f", 0600);
	WORKS(setxattr("f", "user.a", "1", 1, 0));
	AS(1000, 1000)
	{
		FAILS(getxattr("f", "user.a", buf, 10), EACCES);
		FAILS(setxattr("f", "user.a", "2", 1, 0), EACCES);
	}
	WORKS(chmod("f", 0644));
	AS(1000, 1000)
	{
		SAME(getxattr("f", "user.a", buf, 10), 1);
		FAILS(removexattr("f", "user.a"), EACCES);
	}
	/* In a sticky directory, only the owner. */
	WORKS(mkdir("d", 01777));
	AS(1000, 1000)
	{
		FAILS(setxattr("d", "user.a", "1", 1, 0), EPERM);
	}
}

const struct posix_case posix_xattr_cases[] = {
	{ "xattr: set, get, list, remove", set_get_list_remove },
	{ "xattr: XATTR_CREATE and XATTR_REPLACE", create_and_replace },
	{ "xattr: lengths up to the limit", limits },
	{ "xattr: many of them", many_attributes },
	{ "xattr: namespaces", namespaces, .root = true },
	{ "xattr: user attributes need the file's rights", user_attributes_need_the_files_rights, .root = true },
	{ NULL },
};

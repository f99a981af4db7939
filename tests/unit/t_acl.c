/*
 * ACLs. They are written as text in the tests, as "u7,u:5:6,g5,m4,o0": the owner, users, the group, groups (g:5:6), the mask,
 * the others.
 */
#include <linux/fs.h>
#include <linux/posix_acl.h>
#undef BLOCK_SIZE

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "btree/endian.h"
#include "btree/err.h"
#include "fs/acl.h"
#include "tests/kit/fskit.h"
#include "tests/kit/test.h"

#define ACL_BYTES 256u

static void put_entry(uint8_t *at, unsigned tag, unsigned perm, uint32_t id)
{
	le16 t = le16_put((uint16_t)tag), p = le16_put((uint16_t)perm);
	le32 i = le32_put(id);

	memcpy(at, &t, 2);
	memcpy(at + 2, &p, 2);
	memcpy(at + 4, &i, 4);
}

static size_t acl_of(const char *text, uint8_t *buf)
{
	le32 version = le32_put(2);
	size_t len = 4;

	memcpy(buf, &version, 4);
	while (text && *text) {
		unsigned tag, perm;
		uint32_t id = UINT32_MAX;
		char kind = *text++, *end;

		tag = kind == 'u'   ? ACL_USER_OBJ
		      : kind == 'g' ? ACL_GROUP_OBJ
		      : kind == 'm' ? ACL_MASK
		      : kind == 'o' ? ACL_OTHER
				    : 0x40;
		if (*text == ':') {
			tag = kind == 'u' ? ACL_USER : ACL_GROUP;
			id = (uint32_t)strtoul(text + 1, &end, 10);
			text = end + 1;
		}
		perm = (unsigned)strtoul(text, &end, 8);
		text = end + (*end == ',');
		put_entry(buf + len, tag, perm, id);
		len += 8;
	}
	return len;
}

/* The text of a stored ACL, or "-". */
static const char *text_of(struct fskit *k, uint64_t node, const char *name)
{
	static char text[512];
	uint8_t buf[ACL_BYTES];
	size_t len, n = 0;
	int err = fs_getxattr(k->fs, node, name, buf, sizeof(buf), &len);

	if (err == -ENODATA)
		return "-";
	assert_int_equal(err, 0);
	text[0] = 0;
	for (size_t at = 4; at < len; at += 8) {
		unsigned tag = buf[at], perm = buf[at + 2], id = buf[at + 4];
		char kind = tag == ACL_USER_OBJ || tag == ACL_USER     ? 'u'
			    : tag == ACL_GROUP_OBJ || tag == ACL_GROUP ? 'g'
			    : tag == ACL_MASK			       ? 'm'
								       : 'o';

		n += (size_t)snprintf(text + n, sizeof(text) - n, n ? ",%c" : "%c", kind);
		if (tag == ACL_USER || tag == ACL_GROUP)
			n += (size_t)snprintf(text + n, sizeof(text) - n, ":%u:", id);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%o", perm);
	}
	return text;
}

static unsigned mode_of(struct fskit *k, uint64_t node)
{
	struct fs_entry e;

	assert_int_equal(fs_getattr(k->fs, node, &e), 0);
	return e.st.st_mode & 07777;
}

static int set(struct fskit *k, uint64_t node, const char *name, const char *text, bool kill_sgid)
{
	uint8_t buf[ACL_BYTES];
	size_t len = acl_of(text, buf);

	return fs_setxattr(k->fs, node, name, buf, len, 0, kill_sgid);
}

static uint64_t make(struct fskit *k, uint64_t parent, const char *name, mode_t mode, mode_t umask)
{
	const struct fs_caller caller = { 0, 0, umask };
	struct fs_entry e;

	if (S_ISDIR(mode))
		assert_int_equal(fs_mkdir(k->fs, &caller, parent, name, mode, &e), 0);
	else
		assert_int_equal(fs_mknod(k->fs, &caller, parent, name, mode, 0, &e), 0);
	fs_forget(k->fs, e.node, 1);
	return e.node;
}

/* ---- form ---- */

static const struct form {
	const char *says, *text;
	int result;
} forms[] = {
	{ "three_entries", "u7,g5,o0", 0 },
	{ "all_kinds", "u7,u:1:6,u:2:4,g5,g:3:7,m7,o0", 0 },
	{ "a_mask_alone", "u7,g5,m7,o0", 0 },
	{ "nothing", "", -EINVAL },
	{ "no_owner", "g5,o0", -EINVAL },
	{ "no_group", "u7,o0", -EINVAL },
	{ "no_others", "u7,g5", -EINVAL },
	{ "two_owners", "u7,u7,g5,o0", -EINVAL },
	{ "two_groups", "u7,g5,g5,o0", -EINVAL },
	{ "two_masks", "u7,g5,m5,m5,o0", -EINVAL },
	{ "two_others", "u7,g5,o0,o0", -EINVAL },
	{ "a_user_without_mask", "u7,u:1:6,g5,o0", -EINVAL },
	{ "a_group_without_mask", "u7,g5,g:1:6,o0", -EINVAL },
	{ "users_behind_the_group", "u7,g5,u:1:6,m7,o0", -EINVAL },
	{ "groups_in_front_of_the_group", "u7,g:1:6,g5,m7,o0", -EINVAL },
	{ "others_in_front", "o0,u7,g5", -EINVAL },
	{ "an_unknown_tag", "u7,g5,x1,o0", -EINVAL },
	{ "too_many_permissions", "u17,g5,o0", -EINVAL },
};

static void a_form(void **state)
{
	const struct form *f = *state;
	uint8_t buf[ACL_BYTES];
	size_t len = acl_of(f->text, buf);

	assert_int_equal(acl_check(buf, len), f->result);
	if (f->result)
		return;
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(acl_check(buf, cut), -EINVAL);
	buf[0] = 1;
	assert_int_equal(acl_check(buf, len), -EINVAL);
}

/* ---- setting ---- */

static const struct change {
	const char *says;
	mode_t before;
	const char *access; /* set, where not NULL; "" removes it by an ACL without entries */
	bool kill_sgid;
	mode_t chmod; /* then, where not 0 */
	mode_t after;
	const char *kept;
} changes[] = {
	{ "a_minimal_one_is_only_a_mode", 0600, "u6,g4,o4", false, 0, 0644, "-" },
	{ "the_mask_is_the_groups_bits", 0600, "u6,u:5:7,g4,m6,o0", false, 0, 0660, "u6,u:5:7,g4,m6,o0" },
	{ "a_mask_alone_is_kept", 0600, "u6,g4,m0,o1", false, 0, 0601, "u6,g4,m0,o1" },
	{ "sgid_stays", 02775, "u7,u:5:7,g5,m5,o0", false, 0, 02750, "u7,u:5:7,g5,m5,o0" },
	{ "sgid_goes_where_it_must", 02775, "u7,u:5:7,g5,m5,o0", true, 0, 0750, "u7,u:5:7,g5,m5,o0" },
	{ "sgid_goes_with_a_minimal_one", 06775, "u7,g5,o0", true, 0, 04750, "-" },
	{ "chmod_changes_the_mask", 0600, "u6,u:5:7,g4,m6,o0", false, 0751, 0751, "u7,u:5:7,g4,m5,o1" },
	{ "chmod_twice_over", 0600, "u6,u:5:7,g4,m6,o0", false, 04111, 04111, "u1,u:5:7,g4,m1,o1" },
	{ "chmod_without_an_acl", 0600, NULL, false, 0751, 0751, "-" },
	{ "removed_by_one_without_entries", 0640, "", false, 0, 0640, "-" },
};

static void a_change(void **state)
{
	const struct change *c = *state;
	struct fs_entry e;
	struct fskit k;
	uint64_t f;

	fskit_init(&k, &(struct fskit_options){ .acl = true });
	f = make(&k, FS_ROOT, "f", S_IFREG | 0600, 0);
	if (c->access && !*c->access)
		assert_int_equal(set(&k, f, ACL_ACCESS, "u6,u:5:7,g4,m4,o0", false), 0);
	assert_int_equal(fs_setattr(k.fs, f, FS_SET_MODE, &(struct stat){ .st_mode = c->before }, &e), 0);
	if (c->access)
		assert_int_equal(set(&k, f, ACL_ACCESS, c->access, c->kill_sgid), 0);
	if (c->chmod)
		assert_int_equal(fs_setattr(k.fs, f, FS_SET_MODE, &(struct stat){ .st_mode = c->chmod }, &e), 0);
	assert_int_equal(mode_of(&k, f), c->after);
	assert_string_equal(text_of(&k, f, ACL_ACCESS), c->kept);
	fskit_check(&k);
	fskit_remount(&k);
	assert_int_equal(mode_of(&k, f), c->after);
	assert_string_equal(text_of(&k, f, ACL_ACCESS), c->kept);
	/* A minimal one takes the place of what there was. */
	assert_int_equal(set(&k, f, ACL_ACCESS, "u7,g0,o0", false), 0);
	assert_string_equal(text_of(&k, f, ACL_ACCESS), "-");
	fskit_check(&k);
	fskit_release(&k);
}

/* ---- inheritance ---- */

static const struct heir {
	const char *says;
	const char *parent; /* default ACL */
	mode_t mode, umask;
	mode_t after;
	const char *access, *inherited;
} heirs[] = {
	{ "without_one_the_umask_counts", NULL, S_IFREG | 0666, 022, 0644, "-", "-" },
	{ "a_directory_without_one", NULL, S_IFDIR | 0777, 027, 0750, "-", "-" },
	{ "the_umask_does_not_count_with_one", "u7,g7,o5", S_IFREG | 0666, 077, 0664, "-", "-" },
	{ "a_minimal_one_is_inherited_by_directories", "u7,g5,o0", S_IFDIR | 0777, 077, 0750, "-", "u7,g5,o0" },
	{ "a_file_gets_it_less_the_mode", "u7,u:5:7,g5,m7,o5", S_IFREG | 0640, 0, 0640, "u6,u:5:7,g5,m4,o0", "-" },
	{ "the_mode_less_it", "u6,u:5:7,g5,m4,o0", S_IFREG | 0777, 0, 0640, "u6,u:5:7,g5,m4,o0", "-" },
	{ "a_directory_gets_both", "u7,u:5:7,g5,m5,o5", S_IFDIR | 0770, 022, 0750, "u7,u:5:7,g5,m5,o0",
	  "u7,u:5:7,g5,m5,o5" },
	{ "a_mask_alone", "u7,g5,m3,o5", S_IFREG | 0666, 0, 0624, "u6,g5,m2,o4", "-" },
	{ "a_fifo", "u7,u:5:7,g5,m5,o5", S_IFIFO | 0600, 022, 0600, "u6,u:5:7,g5,m0,o0", "-" },
	{ "set_id_bits_stay", "u7,g7,o5", S_IFREG | 06755, 077, 06755, "-", "-" },
};

static void an_heir(void **state)
{
	const struct heir *h = *state;
	struct fskit k;
	uint64_t d, n;

	fskit_init(&k, &(struct fskit_options){ .acl = true });
	d = make(&k, FS_ROOT, "d", S_IFDIR | 0777, 0);
	if (h->parent)
		assert_int_equal(set(&k, d, ACL_DEFAULT, h->parent, false), 0);
	assert_int_equal(mode_of(&k, d), 0777);
	n = make(&k, d, "n", h->mode, h->umask);
	assert_int_equal(mode_of(&k, n), h->after);
	assert_string_equal(text_of(&k, n, ACL_ACCESS), h->access);
	if (S_ISDIR(h->mode))
		assert_string_equal(text_of(&k, n, ACL_DEFAULT), h->inherited);
	fskit_check(&k);
	assert_int_equal(fs_sync(k.fs), 0);
	fskit_reboot(&k, true);
	assert_string_equal(text_of(&k, n, ACL_ACCESS), h->access);
	/* Taken away, the umask counts again. */
	assert_int_equal(fs_removexattr(k.fs, d, ACL_DEFAULT), 0);
	assert_int_equal(mode_of(&k, make(&k, d, "n2", S_IFREG | 0666, 027)), 0640);
	fskit_check(&k);
	fskit_release(&k);
}

static void symlinks_have_none(void **state)
{
	uint8_t buf[ACL_BYTES];
	struct fs_entry e;
	struct fskit k;
	size_t len;
	uint64_t d;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .acl = true });
	d = make(&k, FS_ROOT, "d", S_IFDIR | 0777, 0);
	assert_int_equal(set(&k, d, ACL_DEFAULT, "u7,u:5:7,g5,m5,o5", false), 0);
	assert_int_equal(fs_symlink(k.fs, &fskit_root, "x", d, "l", &e), 0);
	assert_int_equal(e.st.st_mode & 0777, 0777);
	assert_int_equal(set(&k, e.node, ACL_ACCESS, "u7,g5,o5", false), -EOPNOTSUPP);
	assert_int_equal(fs_getxattr(k.fs, e.node, ACL_ACCESS, buf, sizeof(buf), &len), -EOPNOTSUPP);
	assert_int_equal(fs_removexattr(k.fs, e.node, ACL_ACCESS), -EOPNOTSUPP);
	fs_forget(k.fs, e.node, 1);
	fskit_check(&k);
	fskit_release(&k);
}

static void default_ones_are_for_directories(void **state)
{
	struct fskit k;
	uint64_t f, d;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .acl = true });
	f = make(&k, FS_ROOT, "f", S_IFREG | 0600, 0);
	d = make(&k, FS_ROOT, "d", S_IFDIR | 0700, 0);
	assert_int_equal(set(&k, f, ACL_DEFAULT, "u7,g5,o5", false), -EACCES);
	assert_int_equal(set(&k, f, ACL_DEFAULT, "", false), 0);
	assert_int_equal(set(&k, d, ACL_DEFAULT, "u7,g5,o5", false), 0);
	assert_string_equal(text_of(&k, d, ACL_DEFAULT), "u7,g5,o5");
	assert_int_equal(mode_of(&k, d), 0700);
	assert_int_equal(set(&k, d, ACL_DEFAULT, "u7,g5", false), -EINVAL);
	assert_int_equal(set(&k, d, ACL_DEFAULT, "", false), 0);
	assert_string_equal(text_of(&k, d, ACL_DEFAULT), "-");
	/* Gone already: no error, as in the kernel. */
	assert_int_equal(fs_removexattr(k.fs, d, ACL_DEFAULT), 0);
	assert_int_equal(fs_removexattr(k.fs, d, ACL_ACCESS), 0);
	assert_int_equal(fs_setflags(k.fs, f, FS_IMMUTABLE_FL), 0);
	assert_int_equal(set(&k, f, ACL_ACCESS, "u7,g5,o5", false), -EPERM);
	fskit_check(&k);
	fskit_release(&k);
}

/* Mounted without the option, what is there is kept and in line with the mode, but cannot be seen. */
static void without_the_option_they_are_hidden(void **state)
{
	uint8_t buf[ACL_BYTES];
	struct fs_entry e;
	struct fskit k;
	uint64_t f, d;
	size_t len;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .acl = true });
	f = make(&k, FS_ROOT, "f", S_IFREG | 0600, 0);
	d = make(&k, FS_ROOT, "d", S_IFDIR | 0700, 0);
	assert_int_equal(set(&k, f, ACL_ACCESS, "u6,u:5:7,g4,m6,o0", false), 0);
	assert_int_equal(set(&k, d, ACL_DEFAULT, "u7,g7,o7", false), 0);
	assert_int_equal(fs_setxattr(k.fs, f, "user.x", "1", 1, 0, false), 0);
	assert_int_equal(fs_listxattr(k.fs, f, (char *)buf, sizeof(buf), &len), 0);
	assert_int_equal(len, sizeof(ACL_ACCESS) + 7);
	k.opt.acl = false;
	fskit_remount(&k);
	assert_int_equal(fs_listxattr(k.fs, f, (char *)buf, sizeof(buf), &len), 0);
	assert_int_equal(len, 7);
	assert_int_equal(fs_getxattr(k.fs, f, ACL_ACCESS, buf, sizeof(buf), &len), -EOPNOTSUPP);
	assert_int_equal(set(&k, f, ACL_ACCESS, "u6,g6,o0", false), -EOPNOTSUPP);
	assert_int_equal(fs_removexattr(k.fs, f, ACL_ACCESS), -EOPNOTSUPP);
	assert_int_equal(fs_setattr(k.fs, f, FS_SET_MODE, &(struct stat){ .st_mode = 0711 }, &e), 0);
	assert_int_equal(mode_of(&k, make(&k, d, "n", S_IFREG | 0666, 077)), 0600);
	k.opt.acl = true;
	fskit_remount(&k);
	assert_string_equal(text_of(&k, f, ACL_ACCESS), "u7,u:5:7,g4,m1,o1");
	fskit_check(&k);
	fskit_release(&k);
}

int main(void)
{
	struct CMUnitTest tests[ARRAY_LEN(forms) + ARRAY_LEN(changes) + ARRAY_LEN(heirs) + 8];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(forms); i++)
		tests[n++] = TEST_ROW(forms[i].says, a_form, &forms[i]);
	for (size_t i = 0; i < ARRAY_LEN(changes); i++)
		tests[n++] = TEST_ROW(changes[i].says, a_change, &changes[i]);
	for (size_t i = 0; i < ARRAY_LEN(heirs); i++)
		tests[n++] = TEST_ROW(heirs[i].says, an_heir, &heirs[i]);
	tests[n++] = TEST_ROW("symlinks_have_none", symlinks_have_none, NULL);
	tests[n++] = TEST_ROW("default_ones_are_for_directories", default_ones_are_for_directories, NULL);
	tests[n++] = TEST_ROW("without_the_option_they_are_hidden", without_the_option_they_are_hidden, NULL);
	return _cmocka_run_group_tests("acl", tests, n, NULL, NULL);
}

#include "tests/kit/namekit.h"

#include <stdio.h>
#include <string.h>

#include "fs/fs_int.h"
#include "tests/kit/test.h"

struct steps {
	struct fskit k;
	uint64_t held;
};

/* The node in front of the path's last part, which is *path then. References are not needed while one thread works. */
static int walk(struct steps *s, const char **path, uint64_t *ret)
{
	uint64_t node = FS_ROOT;
	const char *slash;

	while ((slash = strchr(*path, '/'))) {
		char name[FS_NAME_MAX + 2];
		struct fs_entry e;
		int err;

		snprintf(name, sizeof(name), "%.*s", (int)(slash - *path), *path);
		*path = slash + 1;
		if (!strcmp(name, "@")) {
			node = s->held;
			continue;
		}
		err = fs_lookup(s->k.fs, node, name, &e);
		if (err)
			return err;
		fs_forget(s->k.fs, e.node, 1);
		node = e.node;
	}
	*ret = node;
	return 0;
}

static int find(struct steps *s, const char *path, struct fs_entry *ret)
{
	uint64_t parent;
	int err;

	if (!strcmp(path, "@"))
		return fs_getattr(s->k.fs, s->held, ret);
	if (!strcmp(path, ""))
		return fs_getattr(s->k.fs, FS_ROOT, ret);
	err = walk(s, &path, &parent);
	if (!err)
		err = fs_lookup(s->k.fs, parent, path, ret);
	if (!err)
		fs_forget(s->k.fs, ret->node, 1);
	return err;
}

/* What returns an entry takes a reference. */
static int make(struct steps *s, const struct step *st)
{
	struct fs_entry e, from;
	const char *a = st->a;
	uint64_t parent;
	int err;

	if (st->op == STEP_LINK) {
		err = find(s, st->a, &from);
		a = st->b;
		if (err)
			return err;
	}
	err = walk(s, &a, &parent);
	if (err)
		return err;
	if (st->op == STEP_SYMLINK)
		err = fs_symlink(s->k.fs, &fskit_root, st->b, parent, a, &e);
	else if (st->op == STEP_LINK)
		err = fs_link(s->k.fs, from.node, parent, a, &e);
	else if (S_ISDIR(st->arg))
		err = fs_mkdir(s->k.fs, &fskit_root, parent, a, st->arg, &e);
	else
		err = fs_mknod(s->k.fs, &fskit_root, parent, a, st->arg, 0x0502, &e);
	if (!err) {
		struct fs_entry again;

		assert_int_equal(fs_getattr(s->k.fs, e.node, &again), 0);
		assert_memory_equal(&e, &again, sizeof(e));
		assert_true(lookups_held(s->k.fs->lookups, e.node));
		fs_forget(s->k.fs, e.node, 1);
	}
	return err;
}

static int change(struct steps *s, const struct step *st)
{
	const char *a = st->a, *b = st->b;
	uint64_t parent, parent2 = 0;
	int err = walk(s, &a, &parent);

	if (!err && b)
		err = walk(s, &b, &parent2);
	if (err)
		return err;
	switch (st->op) {
	case STEP_UNLINK:
		return fs_unlink(s->k.fs, parent, a);
	case STEP_RMDIR:
		return fs_rmdir(s->k.fs, parent, a);
	default:
		return fs_rename(s->k.fs, &fskit_root, parent, a, parent2, b, st->arg);
	}
}

static int look(struct steps *s, const struct step *st)
{
	struct fs_entry e, e2;
	int err = find(s, st->a, &e);

	if (err)
		return err;
	switch (st->op) {
	case STEP_NLINK:
		assert_int_equal(e.st.st_nlink, st->arg);
		break;
	case STEP_SIZE:
		assert_int_equal(e.st.st_size, st->arg);
		break;
	case STEP_MODE:
		assert_int_equal(e.st.st_mode, st->arg);
		break;
	case STEP_SAME:
		assert_int_equal(find(s, st->b, &e2), 0);
		assert_int_equal(e.node, e2.node);
		break;
	case STEP_FLAGS:
		return fs_setflags(s->k.fs, e.node, st->arg);
	case STEP_HOLD:
		assert_int_equal(lookups_get(s->k.fs->lookups, e.node), 0);
		s->held = e.node;
		break;
	default:
		break;
	}
	return 0;
}

static int run(struct steps *s, const struct step *st)
{
	switch (st->op) {
	case STEP_MKNOD:
	case STEP_SYMLINK:
	case STEP_LINK:
		return make(s, st);
	case STEP_UNLINK:
	case STEP_RMDIR:
	case STEP_RENAME:
		return change(s, st);
	case STEP_DROP:
		fs_forget(s->k.fs, s->held, 1);
		s->held = 0;
		return 0;
	default:
		return look(s, st);
	}
}

void steps_test(void **state)
{
	const struct step_row *row = *state;
	struct steps s = { 0 };

	fskit_init(&s.k, NULL);
	for (unsigned i = 0; i < STEPS_MAX && row->step[i].op; i++) {
		int err = run(&s, &row->step[i]);

		if (err != row->step[i].err)
			print_message("# step %u (%s): %d\n", i, row->step[i].a, err);
		assert_int_equal(err, row->step[i].err);
	}
	if (s.held)
		fs_forget(s.k.fs, s.held, 1);
	assert_int_equal(lookups_count(s.k.fs->lookups), 0);
	fskit_check(&s.k);
	fskit_remount(&s.k);
	fskit_check(&s.k);
	fskit_release(&s.k);
}

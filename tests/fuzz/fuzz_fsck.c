/*
 * A damaged image, checked. The input is a script (image.h).
 *
 * Beside what fuzz_image asserts: where the check finds nothing, the filesystem is whole. No operation meets damage then, and
 * after all of them the check finds nothing either. So a check that overlooks something is found out by what stumbles over it.
 */
#include <errno.h>

#include "fs/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"
#include "tests/fuzz/image_repair.h"
#include "tests/fuzz/quiet.h"

#define READ_ONLY 1u /* in the script's flags: checked without being written to, too */
#define KILL 2u
#define REPAIR 4u

struct seen {
	unsigned data, other; /* problems */
};

static void on_problem(void *arg, const struct fs_problem_report *r)
{
	struct seen *seen = arg;

	if (r->problem == FS_PROBLEM_DATA_BAD)
		seen->data++;
	else
		seen->other++;
	image_must(r->view && r->text && r->text[0], "text of a problem");
	image_say("problem %d, %s, inode %llu, %s: %s", (int)r->problem, r->view, (unsigned long long)r->ino,
		  r->path ? r->path : "-", r->text);
}

/*
 * Each block is read once, so where two items have different checksums of it only one of them was looked at. A checksum that
 * does not fit is therefore no reason to doubt an earlier check.
 */
static int check(struct fs *fs, bool again)
{
	struct seen seen = { 0 };
	struct fs_check_options o = { .data = true, .threads = 1, .report = on_problem, .arg = &seen };
	struct fs_check_result r;
	int err = fs_check(fs, &o, &r);

	image_must(err <= 0 && err > -4096, "result of the check");
	return again && err == -EUCLEAN && seen.data && !seen.other ? 0 : err;
}

/* Mounted, checked, used if it is whole, checked again. */
static void check_and_use(struct simdev *disk, const struct image_head *head, uint64_t seed, bool whole, bool lost)
{
	struct image_work w = { .lost = lost };
	struct store_status st;
	struct fs_options o;
	int err;

	rng_seed(&w.rng, le16_get(head->seed));
	image_options(&o, seed);
	err = fs_mount(simdev_bdev(disk), &o, &w.fs);
	image_must(!whole || !err, "mounting what is whole");
	if (err)
		return;
	store_status(fs_store(w.fs), &st);
	image_say("mounted: %llu records", (unsigned long long)st.recovered_records);
	err = check(w.fs, whole);
	image_must(!whole || !err, "checking what is whole");
	if (!err) {
		w.whole = true;
		image_look(&w);
		image_change_all(&w);
		image_must(!check(w.fs, true), "checking what was whole before it was used");
	}
	if (head->flags & KILL)
		fs_crash(w.fs);
	else
		image_must(!fs_unmount(w.fs) || !w.whole, "unmounting what is whole");
	if (w.whole && !whole)
		check_and_use(disk, head, seed + 1, true, lost);
}

static void check_read_only(struct simdev *disk)
{
	struct fs_options o;
	struct fs *fs;

	image_options(&o, 201);
	o.store.read_only = true;
	if (fs_mount(simdev_bdev(disk), &o, &fs))
		return;
	(void)check(fs, false);
	(void)fs_unmount(fs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_head head;
	struct simdev *disk = image_make(data, size, &head), *copy = image_copy(disk);
	bool lost = false;

	image_guard(true);
	if (head.flags & READ_ONLY)
		check_read_only(disk);
	check_and_use(disk, &head, 202, false, false);
	if (head.flags & REPAIR && image_repair(copy, &lost))
		check_and_use(copy, &head, 302, true, lost);
	image_guard(false);
	simdev_free(copy);
	simdev_free(disk);
	return 0;
}

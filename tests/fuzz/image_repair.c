#include "tests/fuzz/image_repair.h"

#include <errno.h>

#include "fs/records.h"
#include "fs/repair.h"
#include "tests/fuzz/image.h"
#include "wal/rebuild.h"

static void on_finding(void *arg, enum rebuild_finding finding, const char *view, const char *text)
{
	(void)arg;
	image_say("rebuild: finding %d, %s: %s", (int)finding, view ? view : "-", text);
}

static void on_done(void *arg, const struct fs_problem_report *r, const char *action, bool lost)
{
	*(bool *)arg |= lost;
	image_say("repair: problem %d, inode %llu, %s: %s", (int)r->problem, (unsigned long long)r->ino, r->text,
		  action);
}

/* From the superblocks; and where that does not go, from whatever nodes there are. */
static int rebuild(struct bdev *dev, bool *lost)
{
	struct rebuild_options o = { .records = &fs_records, .lost = fs_repair_lost, .found = on_finding };
	struct salvage_options so = { .records = &fs_records, .identify = fs_repair_identify };
	struct salvage_result sr;
	struct rebuild_result r = { 0 };
	int err = store_rebuild(dev, &o, &r);

	image_must(err <= 0 && err > -4096, "result of the rebuild");
	if (err && err != -ENOSPC) {
		image_say("rebuild: %d; salvage", err);
		err = salvage_scan(dev, &so, &o.salvage, &sr);
		if (!err) {
			err = store_rebuild(dev, &o, &r);
			*lost = true;
		}
		salvage_close(o.salvage);
	}
	*lost |= r.findings > 0;
	image_say("rebuild: %d, %llu findings", err, (unsigned long long)r.findings);
	return err;
}

bool image_repair(struct simdev *disk, bool *ret_lost)
{
	struct fs_repair_options ro = { .check = { .data = true, .threads = 1 }, .done = on_done, .arg = ret_lost };
	struct fs_repair_result r = { 0 };
	struct fs_options o;
	struct fs *fs;
	int err;

	if (rebuild(simdev_bdev(disk), ret_lost))
		return false;
	image_options(&o, 301);
	o.repair = true;
	err = fs_mount(simdev_bdev(disk), &o, &fs);
	image_must(!err, "mounting what was rebuilt");
	err = fs_repair(fs, &ro, &r);
	image_say("repair: %d, %llu mended, %llu left", err, (unsigned long long)r.mended, (unsigned long long)r.left);
	image_must(err <= 0 && err > -4096, "result of the repair");
	image_must(err || !r.left, "what a repair leaves");
	image_must(!fs_unmount(fs) || err, "unmounting what was repaired");
	return !err;
}

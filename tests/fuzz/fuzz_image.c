/*
 * A damaged image, mounted and used: everything is read, everything is changed, then it is mounted again. The input is a
 * script (image.h).
 *
 * What must hold whatever the damage: no crash, no hang, no leak, no memory that is not ours, no allocation that only a
 * number in the image can have asked for, and results that can be (image_work.c).
 */
#include <string.h>

#include "fs/records.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"
#include "tests/fuzz/quiet.h"

#define KILL 1u	     /* in the script's flags: ends by a kill */
#define NO_LOOK 2u   /* changes right away, with nothing in memory */
#define VIEWS 4u     /* goes back to a snapshot in between */
#define READ_ONLY 8u /* mounted read-only first */

static void end(struct image_work *w, bool kill)
{
	if (kill)
		fs_crash(w->fs);
	else
		(void)fs_unmount(w->fs);
}

static int to_name(void *arg, const struct snapshot_info *info)
{
	memcpy(arg, info->name, sizeof(info->name));
	return info->hidden || info->dying ? 0 : 1;
}

/* Below the filesystem, whose memory knows nothing of such jumps. */
static void go_back(struct bdev *dev, uint64_t seed)
{
	char name[SNAPSHOT_NAME_MAX + 1] = "";
	struct fs_options o;
	struct store *s;

	image_options(&o, seed);
	o.store.records = &fs_records;
	o.store.manual = true;
	if (store_open(dev, &o.store, &s))
		return;
	(void)snapshot_list(s, to_name, name);
	(void)snapshot_rollback(s, name);
	(void)store_close(s);
}

static void use(struct simdev *disk, const struct image_head *head)
{
	struct image_work w = { 0 };
	struct fs_options o;

	rng_seed(&w.rng, le16_get(head->seed));
	image_options(&o, 101);
	if (head->flags & READ_ONLY) {
		o.store.read_only = true;
		if (!fs_mount(simdev_bdev(disk), &o, &w.fs)) {
			image_look(&w);
			end(&w, false);
		}
	}
	image_options(&o, 102);
	if (fs_mount(simdev_bdev(disk), &o, &w.fs))
		return;
	if (!(head->flags & NO_LOOK))
		image_look(&w);
	image_change_all(&w);
	end(&w, head->flags & KILL);
	if (head->flags & VIEWS)
		go_back(simdev_bdev(disk), 103);
	image_options(&o, 104);
	if (fs_mount(simdev_bdev(disk), &o, &w.fs))
		return;
	image_look(&w);
	end(&w, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_head head;
	struct simdev *disk = image_make(data, size, &head);

	image_guard(true);
	use(disk, &head);
	image_guard(false);
	simdev_free(disk);
	return 0;
}

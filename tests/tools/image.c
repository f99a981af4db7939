/*
 * image - does to an image what tests of the tools need: image COMMAND IMAGE [ARGUMENT]...
 *
 *	poke IMAGE SLOT OFFSET VALUE	4 bytes of a superblock, with its checksum made right again
 *	hold IMAGE			opens it as a daemon does, prints "held", and stays until killed
 *	dirty IMAGE			makes a file with data, makes it durable, makes one more directory durable, and ends
 *					as a kill does: two segments are in the log
 *	fill IMAGE			the same, and ends well
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "btree/err.h"
#include "btree/mem.h"
#include "btree/super_format.h"
#include "btree/types.h"
#include "fs/fs.h"

static int poke(struct bdev *dev, char **argv)
{
	uint64_t slot = strtoull(argv[0], NULL, 0), off = strtoull(argv[1], NULL, 0);
	uint64_t addr = slot ? SUPER_SLOT1 : SUPER_SLOT0;
	struct disk_super *d = mem_alloc_blocks(BLOCK_SIZE);
	int err = d ? bdev_read(dev, addr, d, 1) : -ENOMEM;

	if (!err) {
		*(le32 *)((char *)d + off) = le32_put((uint32_t)strtoull(argv[2], NULL, 0));
		d->sum = le64_put(XXH3_64bits((char *)d + sizeof(d->sum), BLOCK_SIZE - sizeof(d->sum)));
		err = bdev_write(dev, addr, d, 1);
	}
	if (!err)
		err = bdev_flush(dev);
	mem_free(d);
	return err;
}

static void hold(void)
{
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}

/* A directory with a file of 16 blocks, each byte of which is a 'd'. */
static int write_file(struct fs *fs)
{
	static const struct fs_caller who = { 0, 0, 0 };
	static char data[16 * BLOCK_SIZE];
	struct fs_entry dir, file;
	int err;

	memset(data, 'd', sizeof(data));
	err = fs_mkdir(fs, &who, FS_ROOT, "dir", 0755, &dir);
	if (!err)
		err = fs_mknod(fs, &who, dir.node, "file", S_IFREG | 0644, 0, &file);
	if (!err)
		err = fs_write(fs, file.node, data, sizeof(data), 0, 0);
	return err ? err : fs_sync(fs);
}

static int make_dir(struct fs *fs, const char *name)
{
	static const struct fs_caller who = { 0, 0, 0 };
	struct fs_entry dir;
	int err = fs_mkdir(fs, &who, FS_ROOT, name, 0755, &dir);

	return err ? err : fs_sync(fs);
}

static int fill(struct bdev *dev, bool crash)
{
	struct fs_options opt = { 0 };
	struct fs *fs;
	int err = fs_mount(dev, &opt, &fs);

	if (err)
		return err;
	err = write_file(fs);
	if (!err && crash)
		err = make_dir(fs, "later");
	if (err || crash) {
		fs_crash(fs);
		return err;
	}
	return fs_unmount(fs);
}

int main(int argc, char **argv)
{
	struct bdev_file_options how = { 0 };
	struct bdev *dev;
	int err;

	if (argc < 3 || (strcmp(argv[1], "poke") == 0 && argc != 6)) {
		fputs("usage: image poke|hold|dirty|fill IMAGE [SLOT OFFSET VALUE]\n", stderr);
		return 2;
	}
	err = bdev_file_open(argv[2], &how, &dev, NULL);
	if (!err) {
		if (strcmp(argv[1], "poke") == 0)
			err = poke(dev, argv + 3);
		else if (strcmp(argv[1], "hold") == 0)
			hold();
		else
			err = fill(dev, strcmp(argv[1], "dirty") == 0);
		bdev_close(dev);
	}
	if (err)
		fprintf(stderr, "image %s: %s\n", argv[1], strerror(-err));
	return err ? 1 : 0;
}

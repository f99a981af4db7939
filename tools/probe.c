/*
 * mkfs must not destroy what somebody else keeps on the device, whatever it is, so the question is not "is it ours" but
 * "is there anything anybody knows": libblkid knows every filesystem, volume manager and partition table that Linux does.
 * It does not know ArborFS, so superblocks of ours are looked for here; a damaged one counts, because somebody may want to
 * repair what stands behind it.
 *
 * Where mkfs may overwrite, the old signatures have to go: several have copies that mkfs does not write over (GPT and some
 * RAID formats at the end of the device), and the next program that probes would find two owners.
 */
#include "tools/probe.h"

#include <blkid/blkid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "btree/mem.h"
#include "btree/super.h"
#include "tools/tool.h"

static int find_ours(int fd, bool *ret)
{
	static const uint64_t slots[] = { SUPER_SLOT0, SUPER_SLOT1 };
	void *buf = mem_alloc_blocks(BLOCK_SIZE);

	if (!buf)
		return -ENOMEM;
	*ret = false;
	for (unsigned i = 0; i < 2; i++) {
		struct super super;

		if (pread(fd, buf, BLOCK_SIZE, (off_t)(slots[i] << BLOCK_SHIFT)) != (ssize_t)BLOCK_SIZE)
			continue;
		tool_listen_begin();
		*ret |= super_decode(buf, i, &super) != -ENODEV;
		tool_listen_end();
	}
	mem_free(buf);
	return 0;
}

static blkid_probe open_probe(int fd, int superblock_flags, int partition_flags)
{
	blkid_probe probe = blkid_new_probe();

	if (!probe || blkid_probe_set_device(probe, fd, 0, 0)) {
		blkid_free_probe(probe);
		return NULL;
	}
	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, superblock_flags);
	blkid_probe_enable_partitions(probe, 1);
	blkid_probe_set_partitions_flags(probe, partition_flags);
	return probe;
}

static const char *value_of(blkid_probe probe, const char *key)
{
	const char *value = NULL;

	return blkid_probe_lookup_value(probe, key, &value, NULL) ? NULL : value;
}

static void describe(blkid_probe probe, char text[PROBE_TEXT])
{
	const char *type = value_of(probe, "TYPE"), *table = value_of(probe, "PTTYPE");
	const char *usage = value_of(probe, "USAGE");
	const char *noun = usage && strcmp(usage, "filesystem") == 0 ? "filesystem" : "signature";

	if (type)
		snprintf(text, PROBE_TEXT, "%s %.40s %s", strchr("aeioux", type[0]) ? "an" : "a", type, noun);
	else if (table)
		snprintf(text, PROBE_TEXT, "a %.40s partition table", table);
	else
		snprintf(text, PROBE_TEXT, "a signature of something");
}

int probe_signature(const char *path, char text[PROBE_TEXT])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	blkid_probe probe = NULL;
	bool ours = false;
	struct stat st;
	int err = 0, rc;

	text[0] = 0;
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		err = -errno;
		goto out;
	}
	if (S_ISREG(st.st_mode) && st.st_size == 0)
		goto out;
	err = find_ours(fd, &ours);
	if (err)
		goto out;
	if (ours) {
		snprintf(text, PROBE_TEXT, "an ArborFS filesystem");
		goto out;
	}
	probe = open_probe(fd, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE, 0);
	if (!probe) {
		err = -ENOMEM;
		goto out;
	}
	rc = blkid_do_safeprobe(probe);
	if (rc == 0)
		describe(probe, text);
	else if (rc == -2)
		snprintf(text, PROBE_TEXT, "the signatures of several filesystems");
	else if (rc < 0)
		err = -EIO;
out:
	blkid_free_probe(probe);
	close(fd);
	return err;
}

int probe_wipe(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	blkid_probe probe;
	int err = 0, rc;

	if (fd < 0)
		return -errno;
	probe = open_probe(fd, BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM, BLKID_PARTS_MAGIC);
	if (!probe) {
		close(fd);
		return -ENOMEM;
	}
	while ((rc = blkid_do_probe(probe)) == 0)
		if (blkid_do_wipe(probe, 0)) {
			err = -EIO;
			break;
		}
	if (rc < 0)
		err = -EIO;
	blkid_free_probe(probe);
	if (fsync(fd) && !err)
		err = -errno;
	close(fd);
	return err;
}

void probe_loop(const char *path, char text[PROBE_TEXT])
{
	DIR *dir = opendir("/sys/block");
	struct dirent *e;
	struct stat want;

	text[0] = 0;
	if (!dir)
		return;
	if (stat(path, &want) || !S_ISREG(want.st_mode)) {
		closedir(dir);
		return;
	}
	while (!text[0] && (e = readdir(dir))) {
		char file[300], backing[4096];
		struct stat st;
		FILE *f;

		if (strncmp(e->d_name, "loop", 4))
			continue;
		snprintf(file, sizeof(file), "/sys/block/%.200s/loop/backing_file", e->d_name);
		f = fopen(file, "re");
		if (!f)
			continue;
		if (fgets(backing, sizeof(backing), f)) {
			backing[strcspn(backing, "\n")] = 0;
			if (stat(backing, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino)
				snprintf(text, PROBE_TEXT, "/dev/%.100s", e->d_name);
		}
		fclose(f);
	}
	closedir(dir);
}

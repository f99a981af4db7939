#include "fs/device.h"

int device_open(const char *path, const struct bdev_file_options *opt, struct bdev **ret, char **ret_holder)
{
	return bdev_file_open(path, opt, ret, ret_holder);
}

/*
 * holder.h - who has locked a file
 */
#ifndef ARBOR_BTREE_DEV_HOLDER_H
#define ARBOR_BTREE_DEV_HOLDER_H

/*
 * Names the process that keeps others from the file or block device behind fd, such as "pid 1234 (mount.arbor)", or where
 * a block device is mounted. Best effort, through /proc: NULL where it cannot be told. The text is for mem_free.
 */
char *holder_find(int fd);

#endif

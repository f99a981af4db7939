/*
 * records.h - the rows of all item types of a filesystem: what the store, fsck and inspection know of them
 */
#ifndef ARBOR_FS_RECORDS_H
#define ARBOR_FS_RECORDS_H

#include "btree/record.h"

extern const struct record_table fs_records;

#endif

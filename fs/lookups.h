/*
 * lookups.h - how many references the kernel holds on each node
 *
 * A table of node, count and a mark, nothing else: attributes and data are read from the tree. It decides one thing:
 * when a file without a name may be deleted.
 */
#ifndef ARBOR_FS_LOOKUPS_H
#define ARBOR_FS_LOOKUPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lookups;

int lookups_open(struct lookups **ret);
void lookups_close(struct lookups *);

int lookups_get(struct lookups *, uint64_t node); /* one more; -ENOMEM */
/*
 * The node has lost its last name. If it is held, marks it and returns true: whoever gives back the last reference
 * deletes it. If not, returns false: the caller does. Call it after the batch was committed, and decide by it, not by
 * lookups_held, whenever about to delete: a reference taken for a moment would leave the node to nobody. The mark stays
 * until the last reference goes.
 */
bool lookups_mark(struct lookups *, uint64_t node);
/* n fewer. Returns true if there were some, none is left, and the node was marked. More than there are: all go. */
bool lookups_put(struct lookups *, uint64_t node, uint64_t n);
bool lookups_held(struct lookups *, uint64_t node);
size_t lookups_count(struct lookups *); /* nodes with references */

#endif

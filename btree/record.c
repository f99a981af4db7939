#include "btree/record.h"

#include "btree/err.h"

int record_validate(const struct record_table *table, struct key key, const void *val, size_t len)
{
	const struct record_ops *row = &table->row[key_type(key)];

	if (!row->name)
		return corrupt("item", key_ino(key), "unknown type", key_type(key), 0);
	return row->validate ? row->validate(key, val, len) : 0;
}

bool record_extent(const struct record_table *table, struct key key, const void *val, size_t len, struct extent *ret)
{
	const struct record_ops *row = &table->row[key_type(key)];

	return row->extent && row->extent(key, val, len, ret);
}

/*
 * err.h - results, and the one place where corruption is reported
 *
 * Every function of this project that can fail returns 0 or a negative errno. Fixed meanings:
 *
 *	-EUCLEAN	a structure is corrupt (its checksum verified, its content cannot be)
 *	-EBADMSG	a checksum, address or generation does not match: not the bytes that were written
 *	-EIO		the device failed
 *	-EROFS		the filesystem has turned read-only after a failed write or flush (contract G)
 *	-EAGAIN		a node was not in memory; it has been or can be loaded, and the caller starts again
 *	-ENOSPC		no room, and nothing was changed
 *	-EDEADLK	a transaction's commit conflicts with what was committed meanwhile
 *
 * Iterators return < 0 for an error, 0 for an item, > 0 for the end.
 */
#ifndef ARBOR_BTREE_ERR_H
#define ARBOR_BTREE_ERR_H

#include <errno.h>
#include <stdint.h>

#define ETXNCONFLICT EDEADLK

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO };

/* Where messages go; stderr until a program sets something else. Lines come without a newline. Thread-safe. */
typedef void (*err_sink)(void *arg, enum log_level level, const char *line);
void err_set_sink(err_sink sink, void *arg);

/* One line to the sink. Lower-case, with values, no full stop. */
void err_log(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Reports damage in the fixed grammar "corrupt <type>: <where>, <reason>, got <a>, want <b>" and returns err_code
 * (-EUCLEAN or -EBADMSG): `return corrupt("node", addr, "level", got, want)`.
 */
int err_corrupt(int err_code, const char *file, int line, const char *type, uint64_t where, const char *reason,
		uint64_t got, uint64_t want);
#define corrupt(type, where, reason, got, want)                                                                   \
	err_corrupt(-EUCLEAN, __FILE__, __LINE__, type, where, reason, got, want)
#define bad_checksum(type, where, reason, got, want)                                                              \
	err_corrupt(-EBADMSG, __FILE__, __LINE__, type, where, reason, got, want)

#endif

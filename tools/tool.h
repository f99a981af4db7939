/*
 * tool.h - what the command-line tools share: messages, numbers, opening a device
 *
 * A message is one line on standard error: "<tool>: <where>: <what>[; <what to do>]", lower-case, no full stop. Lines that
 * the engine logs come out the same way.
 *
 * Threads: one, but for the engine's messages, which may come from any.
 */
#ifndef ARBOR_TOOLS_TOOL_H
#define ARBOR_TOOLS_TOOL_H

#include "btree/dev/bdev.h"
#include "btree/super.h"

/* First of all calls. The name must outlive the program. verbose: also what the engine logs as information. */
void tool_init(const char *name);
const char *tool_name(void);
void tool_set_verbose(bool verbose);
/* Called before a line is written to standard error, to take away a progress bar. NULL: nothing. */
void tool_set_before_line(void (*before)(void));

/* "<tool>: <where>: ..." on standard error; where may be NULL. */
void tool_error(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* For a wrong command line: the message, and where help is to be had. */
void tool_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What a negative errno means for a filesystem; static. */
const char *tool_why(int err);

/* Keeps what the engine logs from being seen, and remembers the first line of it. They may not be nested. */
void tool_listen_begin(void);
const char *tool_listen_end(void); /* that line, "" if there was none; valid until the next begin */

/* ---- numbers ---- */

#define TOOL_SIZE_TEXT 40u

/* "4096", "16K", "10G", "1TiB": bytes. -EINVAL: not a size; -ERANGE: more than 2^63 - 1. */
int tool_size_parse(const char *text, uint64_t *ret);
/* "16 KiB", "1.5 GiB", into buf, which is returned. */
const char *tool_size_text(uint64_t bytes, char buf[TOOL_SIZE_TEXT]);
/* A decimal number from min to max. -EINVAL, -ERANGE. */
int tool_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

#define TOOL_UUID_TEXT 37u

/* "random" gives zeros, which is what store_mkfs takes for it. -EINVAL; -ERANGE: all zero. */
int tool_uuid_parse(const char *text, uint8_t ret[16]);
const char *tool_uuid_text(const uint8_t uuid[16], char buf[TOOL_UUID_TEXT]);

/* ---- devices ---- */

/* As bdev_file_open; a failure has been reported. */
int tool_open(const char *path, const struct bdev_file_options *, struct bdev **ret);
/* As super_load; a failure has been reported, with what to do. */
int tool_load_super(struct bdev *, struct super *ret, bool *ret_other_ok);
/* Errors that mean damage, and not that it could not be looked at. */
bool tool_is_damage(int err);

#endif

/*
 * posix.h - what the parts of the conformance test share
 *
 * A case is a function. It runs in a process of its own, in a fresh directory, with umask 0, and may do what it likes there.
 * Checks print what is wrong and go on. Paths are relative: the directory is the working directory.
 */
#ifndef ARBOR_TESTS_MOUNT_POSIX_H
#define ARBOR_TESTS_MOUNT_POSIX_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

struct posix_case {
	const char *name; /* a sentence: what must hold */
	void (*run)(void);
	bool root; /* needs all rights */
};

/* One table a file, ended by a row without a name. */
extern const struct posix_case posix_path_cases[], posix_open_cases[], posix_name_cases[], posix_rename_cases[],
	posix_time_cases[], posix_right_cases[], posix_data_cases[], posix_space_cases[], posix_lock_cases[],
	posix_xattr_cases[], posix_dir_cases[];

#define ROWS(a) (sizeof(a) / sizeof((a)[0]))

/* ---- checks ---- */

__attribute__((format(printf, 4, 5))) bool posix_check(bool right, const char *file, int line, const char *fmt, ...);
bool posix_fails(long result, int want, const char *what, const char *file, int line);
long posix_works(long result, const char *what, const char *file, int line);
bool posix_same(long long got, long long want, const char *what, const char *file, int line);
__attribute__((noreturn)) void posix_skip(const char *why); /* the rest of this case */

#define CHECK(cond) posix_check((cond), __FILE__, __LINE__, "%s", #cond)
#define CHECKF(cond, ...) posix_check((cond), __FILE__, __LINE__, __VA_ARGS__)
/* The call's result is -1 and errno is that. */
#define FAILS(call, want) posix_fails((long)(call), want, #call, __FILE__, __LINE__)
/* The call's result is not negative; it is the value. */
#define WORKS(call) posix_works((long)(call), #call, __FILE__, __LINE__)
#define SAME(got, want) posix_same((long long)(got), (long long)(want), #got, __FILE__, __LINE__)

/* AS(uid, gid) { ... }: in a child with these rights and no others. Failed checks count. */
int posix_as_begin(uid_t uid, gid_t gid);
int posix_as_end(void);
#define AS(uid, gid) for (int as_ = posix_as_begin(uid, gid); as_; as_ = posix_as_end())

/* ---- what filesystem it is ---- */

bool posix_is_ext4(void);
bool posix_is_fuse(void);
bool posix_is_writeback(void); /* FUSE, and the kernel collects writes without asking */

/* ---- helpers; what must work is checked ---- */

int make_file(const char *path, mode_t mode);			   /* empty */
void make_data(const char *path, size_t len, unsigned tag);	   /* see data_right */
uint8_t data_byte(uint64_t off, unsigned tag);			   /* never 0 */
bool data_right(int fd, uint64_t from, uint64_t to, unsigned tag); /* reads and compares */
bool data_zero(int fd, uint64_t from, uint64_t to);		   /* the same, zeros */
void write_data(int fd, uint64_t off, size_t len, unsigned tag);   /* pwrite */
bool exists(const char *path);					   /* not following */
struct stat stat_of(const char *path);				   /* not following */
long long blocks_of(
	const char *path); /* with the kernel made to ask for it: some keep an older number while a file is written */
struct timespec btime_of(const char *path);
void nap(void); /* longer than any clock's tick */
int time_cmp(struct timespec a, struct timespec b);
void long_name(char *buf, size_t len); /* that many bytes and a NUL */
/* Counts names without "." and "..". */
unsigned count_names(const char *dir);

#endif

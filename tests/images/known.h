/*
 * known.h - a filesystem of which every byte follows from a seed, and what is left of it after damage and repair
 *
 * Directories with files of all shapes: empty, inline, of a few blocks, of many, with holes, clones of others, symlinks, some
 * with attributes; some made late, so that they stand in the log alone if it is killed. Nothing is ever overwritten or
 * removed, so whatever old state of a part is found again, its bytes are the right ones.
 */
#ifndef ARBOR_TESTS_IMAGES_KNOWN_H
#define ARBOR_TESTS_IMAGES_KNOWN_H

#include "tests/fuzz/image.h"
#include "tests/kit/fskit.h"

enum known_kind { KNOWN_DIR, KNOWN_FILE, KNOWN_LINK };

struct known_file {
	char path[48];
	enum known_kind kind;
	uint64_t ino, size;
	uint64_t seed;	/* of the content */
	unsigned every; /* of so many blocks one is written, the others are holes */
	size_t xattr;	/* length of user.known, 0: none */
	bool late;
};

struct known {
	struct known_file *at;
	size_t n;
	uint64_t seed;
};

struct known_options {
	uint64_t seed;
	unsigned files;	 /* 0: 300 */
	uint64_t blocks; /* of the disk; 0: 8192 */
	bool copies;	 /* of nodes */
	bool snapshot;	 /* "snap", taken when two thirds have been made */
	bool full;	 /* a file named "full" takes all the room there is */
	bool killed;	 /* the log holds what was made late; else it was unmounted */
};

/* Makes it on a fresh disk, which it returns: not mounted. Asserts. */
struct simdev *known_make(struct known *, const struct known_options *);
void known_release(struct known *);

/* What image_walk has listed; not the disk. */
void known_map_release(struct image *);

/* What is left of it. */
struct known_left {
	unsigned intact, unreadable; /* files: all there; parts of it are an error to read */
	unsigned moved;		     /* found in lost+found */
	unsigned older;		     /* parts are zeros that were written later than what is there */
	unsigned missing,
		shorter; /* not there, or not all of it or another length: only where told() says that it was told */
};

/*
 * Looks at a mounted filesystem. told(arg, file): it was said that the file, or where it stands, has lost something. older: parts
 * may be as they were before something was written.
 * Returns 0, or the number of files that are wrong, which have been printed: bytes that were never there, or a loss nobody
 * told of.
 */
unsigned known_look(const struct known *, struct fs *, bool older, bool (*told)(void *arg, const struct known_file *),
		    void *arg, struct known_left *ret);

#endif

/*
 * The phases of a check and their share of the bar are those of e2fsck's: numbered from 1, each from 0 to its total.
 * The terminal is written to ten times a second at most, so that the bar costs nothing.
 */
#include "tools/fsck_progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const phases[] = { "structure", "items", "names", "data", "copies", "scan", "survey", "build" };
#define PHASES (sizeof(phases) / sizeof(phases[0]))
#define BAR_WIDTH 40u
#define INTERVAL_NS 100000000

static const char *device;
static bool bar;
static int lines_fd = -1;
static bool shown;
static unsigned last_phase;
static int64_t last_ns;

void progress_bar(const char *dev)
{
	device = dev;
	bar = isatty(STDERR_FILENO);
}

void progress_to_fd(const char *dev, int fd)
{
	device = dev;
	lines_fd = fd;
}

static unsigned phase_number(const char *phase)
{
	for (unsigned i = 0; i < PHASES; i++)
		if (strcmp(phases[i], phase) == 0)
			return i + 1;
	return PHASES + 1;
}

static void draw(const char *phase, unsigned number, uint64_t done, uint64_t total)
{
	double part = total ? (double)done / (double)total : 1;
	char text[BAR_WIDTH + 1];
	unsigned full;

	if (part > 1)
		part = 1;
	full = (unsigned)(part * BAR_WIDTH);
	memset(text, ' ', BAR_WIDTH);
	memset(text, '=', full);
	text[BAR_WIDTH] = 0;
	/* One that is the only one has no number. */
	if (number <= PHASES)
		fprintf(stderr, "\r%u: %-9s |%s| %3u%%\033[K", number, phase, text, (unsigned)(part * 100));
	else
		fprintf(stderr, "\r%s |%s| %3u%%\033[K", phase, text, (unsigned)(part * 100));
	fflush(stderr);
	shown = true;
}

void progress_show(void *arg, const char *phase, uint64_t done, uint64_t total)
{
	unsigned number = phase_number(phase);
	struct timespec t;
	int64_t now;

	(void)arg;
	if (!bar && lines_fd < 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
	if (number == last_phase && done < total && now - last_ns < INTERVAL_NS)
		return;
	last_phase = number;
	last_ns = now;
	if (lines_fd >= 0)
		dprintf(lines_fd, "%u %" PRIu64 " %" PRIu64 " %s\n", number, done, total, device);
	if (bar)
		draw(phase, number, done, total);
}

void progress_hide(void)
{
	static const char wipe[] = "\r\033[K";

	if (!shown)
		return;
	shown = false;
	if (write(STDERR_FILENO, wipe, sizeof(wipe) - 1) < 0)
		return;
}

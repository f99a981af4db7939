#include "tools/fsck_report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "btree/mem.h"
#include "tools/fsck_progress.h"
#include "tools/tool.h"

/* ---- lines ---- */

#define SHOWN(path) (4 * strlen(path)) /* the most that its escaped form takes */

/* Names may hold any byte but NUL and '/'. Behind what is written. */
static char *put_path(char *to, const char *path)
{
	for (const unsigned char *p = (const unsigned char *)path; *p; p++)
		if (*p < 0x20 || *p == 0x7f || *p == '\\')
			to += snprintf(to, 5, "\\%03o", *p);
		else
			*to++ = (char)*p;
	return to;
}

/* "PATH: [in snapshot NAME: ]what was found", for mem_free. The path first, because that is what one looks for and a
 * script cuts out. */
static char *sentence(const struct fsck_report *r, const struct fsck_line *l)
{
	const char *text = l->text && l->text[0] ? l->text : fs_problem_text(l->problem);
	const char *view = l->view && strcmp(l->view, "live") ? l->view : NULL;
	const char *what = l->ino && text == l->text ? fs_problem_text(l->problem) : "";
	size_t size = strlen(text) + strlen(what) + strlen(r->device) + 64;
	char *s, *to;

	size += l->path ? SHOWN(l->path) : 0;
	size += view ? SHOWN(view) : 0;
	s = to = mem_alloc(size);
	if (!s)
		return NULL;
	if (l->path)
		to = put_path(to, l->path);
	else if (l->ino)
		to += snprintf(to, 32, "inode %" PRIu64, l->ino);
	else
		to = stpcpy(to, r->device);
	to = stpcpy(to, ": ");
	if (view) {
		to = put_path(stpcpy(to, "in snapshot "), view);
		to = stpcpy(to, ": ");
	}
	/* Of an inode the text is what was counted, which says little without its problem. */
	if (what[0])
		to = stpcpy(stpcpy(to, what), ": ");
	stpcpy(to, text);
	return s;
}

static void put_number(const struct fsck_line *l)
{
	if (l->path && l->ino)
		printf(" (inode %" PRIu64 ", problem %u)", l->ino, l->problem);
	else
		printf(" (problem %u)", l->problem);
}

static void keep_lost(struct fsck_report *r, const char *text, const char *action)
{
	size_t size = text ? strlen(text) + strlen(action) + 3 : 0;
	char *s = text ? mem_alloc(size) : NULL;

	if (!s || mem_grow((void **)&r->lost, &r->cap_lost, r->n_lost + 1, sizeof(*r->lost))) {
		tool_error(r->device, "no memory for the list of losses; it is not complete");
		mem_free(s);
		return;
	}
	snprintf(s, size, "%s: %s", text, action);
	r->lost[r->n_lost++] = s;
}

void fsck_report_line(void *arg, const struct fsck_line *l)
{
	struct fsck_report *r = arg;
	char *text;

	if (!l->problem && r->quiet)
		return;
	progress_hide();
	text = sentence(r, l);
	fputs(text ? text : l->text, stdout);
	if (l->action)
		printf(": %s%s", r->plan ? "would " : "", l->action);
	if (l->problem)
		put_number(l);
	putchar('\n');
	fflush(stdout);
	if (l->lost && l->action)
		keep_lost(r, text, l->action);
	mem_free(text);
}

/* ---- questions ---- */

bool fsck_report_terminal(void)
{
	return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

/* Yes is what a mere newline means, as in e2fsck. */
bool fsck_report_ask(void *arg, const struct fsck_line *l)
{
	struct fsck_report *r = arg;
	char answer[64], *text;

	if (r->all)
		return true;
	progress_hide();
	text = sentence(r, l);
	fputs(text ? text : l->text, stdout);
	mem_free(text);
	put_number(l);
	putchar('\n');
	while (!r->no_input) {
		printf("    %s? [Y]es, [n]o, [a]ll: ", l->action);
		fflush(stdout);
		if (!fgets(answer, sizeof(answer), stdin)) {
			r->no_input = true;
			putchar('\n');
			break;
		}
		switch (answer[0]) {
		case 'y':
		case 'Y':
		case '\n':
			return true;
		case 'n':
		case 'N':
			return false;
		case 'a':
		case 'A':
			r->all = true;
			return true;
		}
	}
	return false;
}

/* ---- losses ---- */

static int write_lost(const struct fsck_report *r, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	bool bad = !f;

	for (size_t i = 0; f && i < r->n_lost; i++)
		fprintf(f, "%s\n", r->lost[i]);
	if (f) {
		bad = fflush(f) != 0 || ferror(f);
		bad |= fclose(f) != 0;
	} else if (fd >= 0) {
		close(fd);
	}
	if (bad)
		tool_error(path, "the list of losses cannot be written: %s", strerror(errno));
	return bad ? -EIO : 0;
}

int fsck_report_lost(struct fsck_report *r, const char *file)
{
	if (r->n_lost) {
		printf("%s: %zu loss%s%s:\n", r->device, r->n_lost, r->n_lost == 1 ? "" : "es",
		       r->plan ? ", if it were done" : "");
		for (size_t i = 0; i < r->n_lost; i++)
			printf("    %s\n", r->lost[i]);
		fflush(stdout);
	}
	return file ? write_lost(r, file) : 0;
}

void fsck_report_release(struct fsck_report *r)
{
	for (size_t i = 0; i < r->n_lost; i++)
		mem_free(r->lost[i]);
	mem_free(r->lost);
	r->lost = NULL;
	r->n_lost = r->cap_lost = 0;
}

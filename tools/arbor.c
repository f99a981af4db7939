/*
 * arbor - what one does with a filesystem that is there
 *
 * One command with subcommands, as git's: a row of the table each, a file for each group of them.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "tools/arbor.h"
#include "tools/tool.h"

struct command {
	const char *name;
	const char *text;
	int (*run)(int argc, char **argv);
};

static int help(int argc, char **argv);

static const struct command commands[] = {
	{ "status", "what mounted filesystems are doing, or what an image holds", arbor_status },
	{ "scrub", "reads and verifies all of a mounted filesystem", arbor_scrub },
	{ "help", "this text, or that of a command", help },
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *f)
{
	fputs("Usage: arbor COMMAND [ARGUMENT]...\n"
	      "\n"
	      "Commands:\n",
	      f);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(f, "  %-8s %s\n", commands[i].name, commands[i].text);
	fputs("\n"
	      "`arbor help COMMAND` says more; `arbor --version` prints the version.\n",
	      f);
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int unknown(const char *name)
{
	fprintf(stderr, "arbor: there is no command `%s`; `arbor help` lists them\n", name);
	return ARBOR_USAGE;
}

static int help(int argc, char **argv)
{
	static char option[] = "--help";
	const struct command *c;

	if (argc < 2 || strcmp(argv[1], "help") == 0 || argv[1][0] == '-') {
		usage(stdout);
		return ARBOR_OK;
	}
	c = find(argv[1]);
	return c ? c->run(2, (char *[]){ argv[1], option, NULL }) : unknown(argv[1]);
}

int main(int argc, char **argv)
{
	const struct command *c;
	int status;

	tool_init("arbor");
	if (argc < 2) {
		usage(stderr);
		return ARBOR_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		puts("arbor (ArborFS) " ARBOR_VERSION);
		return ARBOR_OK;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		usage(stdout);
		return ARBOR_OK;
	}
	c = find(argv[1]);
	status = c ? c->run(argc - 1, argv + 1) : unknown(argv[1]);
	if ((fflush(stdout) || ferror(stdout)) && !status) {
		tool_error(NULL, "standard output: %s", strerror(errno));
		status = ARBOR_FAILED;
	}
	return status;
}

#include "btree/err.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const level_name[] = {
	[LOG_ERROR] = "error",
	[LOG_WARNING] = "warning",
	[LOG_INFO] = "info",
};

static void to_stderr(void *arg, enum log_level level, const char *line)
{
	(void)arg;
	fprintf(stderr, "arbor: %s: %s\n", level_name[level], line);
}

/* Held while the sink runs, so that lines do not mix and a sink that was replaced is never called again. */
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static err_sink sink_now = to_stderr; /* guarded by sink_lock */
static void *sink_arg;		      /* guarded by sink_lock */

void err_set_sink(err_sink sink, void *arg)
{
	pthread_mutex_lock(&sink_lock);
	sink_now = sink ? sink : to_stderr;
	sink_arg = sink ? arg : NULL;
	pthread_mutex_unlock(&sink_lock);
}

void err_log(enum log_level level, const char *fmt, ...)
{
	int saved = errno;
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);

	pthread_mutex_lock(&sink_lock);
	sink_now(sink_arg, level, line);
	pthread_mutex_unlock(&sink_lock);
	errno = saved;
}

int err_corrupt(int err_code, const char *file, int line, const char *type, uint64_t where, const char *reason,
		uint64_t got, uint64_t want)
{
	/* The compiler was given a path relative to the build directory. */
	while (strncmp(file, "../", 3) == 0)
		file += 3;
	err_log(LOG_ERROR, "corrupt %s: %" PRIu64 ", %s, got %" PRIu64 ", want %" PRIu64 " (%s:%d)", type, where,
		reason, got, want, file, line);
	return err_code;
}

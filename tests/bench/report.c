#include "tests/bench/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* The median over the runs of what `value` says; 0 where nothing was measured. */
static double median(const struct results *res, unsigned engine, enum row row, double (*value)(const struct sample *))
{
	double v[RUNS_MAX];
	size_t n = 0;

	for (unsigned run = 0; run < res->runs; run++) {
		const struct sample *s = &res->sample[run][engine][row];

		if (s->seconds > 0)
			v[n++] = value(s);
	}
	if (!n)
		return 0;
	qsort(v, n, sizeof(v[0]), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static double rate(const struct sample *s)
{
	return s->ops / s->seconds;
}

static double amplification(const struct sample *s)
{
	return s->changed ? (double)s->written / (double)s->changed : 0;
}

static double space(const struct sample *s)
{
	return (double)s->space;
}

static double used(const struct sample *s)
{
	return (double)s->used;
}

/* The largest distance of a run from the median, in percent of it, over all engines. */
static double spread(const struct results *res, enum row row)
{
	double worst = 0;

	for (unsigned e = 0; e < ENGINES; e++) {
		double mid = median(res, e, row, rate);

		for (unsigned run = 0; run < res->runs && mid > 0; run++) {
			const struct sample *s = &res->sample[run][e][row];
			double off = s->seconds > 0 ? 100 * (rate(s) - mid) / mid : 0;

			worst = off > worst ? off : -off > worst ? -off : worst;
		}
	}
	return worst;
}

static const char *row_name(const struct results *res, enum row row, char *buf, size_t cap)
{
	if (row != ROW_COMMIT_N)
		return row_info[row].name;
	snprintf(buf, cap, "durable commit, %u threads", res->threads);
	return buf;
}

static const char *number(double x, const char *format, char *buf, size_t cap)
{
	if (x <= 0)
		return "-";
	snprintf(buf, cap, format[0] == '0' ? "%.0f" : format[0] == '1' ? "%.1f" : "%.2f", x);
	return buf;
}

static void print_rate_row(const struct results *res, enum row row)
{
	double v[ENGINES], ratio[ENGINES] = { 0 };
	const struct row_info *info = &row_info[row];
	double want[ENGINES] = { 0, info->want_lmdb, info->want_rocksdb };
	bool applies = !info->small_only || !strcmp(res->set, "small");
	const char *met = "";
	char buf[7][48];

	for (unsigned e = 0; e < ENGINES; e++) {
		v[e] = median(res, e, row, rate);
		if (v[0] > 0 && v[e] > 0)
			ratio[e] = v[0] / v[e];
	}
	buf[6][0] = '\0';
	for (unsigned e = 1; e < ENGINES && applies; e++) {
		size_t len = strlen(buf[6]);

		if (!(want[e] > 0))
			continue;
		snprintf(buf[6] + len, sizeof(buf[6]) - len, "%s%s %s%.1f", len ? ", " : "", engines[e]->name,
			 row == ROW_COMMIT_1 || row == ROW_COMMIT_N ? ">" : ">=", want[e]);
		if (ratio[e] > 0 && ratio[e] < want[e])
			met = "missed";
		else if (ratio[e] > 0 && !*met)
			met = "met";
	}
	printf("%-26s %-9s %11s %11s %11s %7s %7s %5.0f%%  %-26s %s\n", row_name(res, row, buf[0], sizeof(buf[0])),
	       info->unit, number(v[0], "0", buf[1], sizeof(buf[1])), number(v[1], "0", buf[2], sizeof(buf[2])),
	       number(v[2], "0", buf[3], sizeof(buf[3])), number(ratio[1], "2", buf[4], sizeof(buf[4])),
	       number(ratio[2], "2", buf[5], sizeof(buf[5])), spread(res, row), buf[6], met);
}

static bool measured(const struct results *res, enum row row)
{
	for (unsigned e = 0; e < ENGINES; e++) {
		if (median(res, e, row, rate) > 0)
			return true;
	}
	return false;
}

static void print_amplification(const struct results *res)
{
	char buf[4][48];
	bool any = false;

	for (enum row row = 0; row < ROWS; row++) {
		if (!measured(res, row) || (row > ROW_LOAD_RANDOM && row < ROW_COMMIT_1))
			continue;
		if (!any)
			printf("\nbytes to the device per byte of change (arbor: counted at its device; lmdb, rocksdb: "
			       "write_bytes of /proc/self/io)\n%-36s %11s %11s %11s\n",
			       "", "arbor", "lmdb", "rocksdb");
		any = true;
		printf("%-36s %11s %11s %11s\n", row_name(res, row, buf[0], sizeof(buf[0])),
		       number(median(res, 0, row, amplification), "2", buf[1], sizeof(buf[1])),
		       number(median(res, 1, row, amplification), "2", buf[2], sizeof(buf[2])),
		       number(median(res, 2, row, amplification), "2", buf[3], sizeof(buf[3])));
	}
}

static const char *times_data(const struct results *res, double bytes, char *buf, size_t cap)
{
	char size[32];

	if (bytes <= 0)
		return "-";
	snprintf(buf, cap, "%s (%.2f)", format_size((uint64_t)bytes, size, sizeof(size)),
		 bytes / (double)res->data_bytes);
	return buf;
}

static void print_space(const struct results *res)
{
	char buf[4][64];

	if (!measured(res, ROW_LOAD_ORDER) && !measured(res, ROW_LOAD_RANDOM))
		return;
	printf("\nspace: blocks of the files (times the data)\n%-26s %20s %20s %20s %28s\n", "", "arbor", "lmdb",
	       "rocksdb", "arbor, in use in the image");
	for (enum row row = ROW_LOAD_ORDER; row <= ROW_LOAD_RANDOM; row++) {
		if (!measured(res, row))
			continue;
		printf("%-26s %20s %20s %20s %28s\n", row_info[row].name,
		       times_data(res, median(res, 0, row, space), buf[0], sizeof(buf[0])),
		       times_data(res, median(res, 1, row, space), buf[1], sizeof(buf[1])),
		       times_data(res, median(res, 2, row, space), buf[2], sizeof(buf[2])),
		       times_data(res, median(res, 0, row, used), buf[3], sizeof(buf[3])));
	}
}

void report_table(const struct results *res)
{
	printf("\n%-26s %-9s %11s %11s %11s %7s %7s %6s  %-26s\n", res->set, "", "arbor", "lmdb", "rocksdb", "a/lmdb",
	       "a/rocks", "spread", "target for the ratio");
	for (enum row row = 0; row < ROWS; row++) {
		if (measured(res, row))
			print_rate_row(res, row);
	}
	print_amplification(res);
	print_space(res);
	fflush(stdout);
}

int report_csv(const struct results *res, const char *path)
{
	FILE *f = fopen(path, "ae");

	if (!f)
		return -errno;
	if (ftell(f) == 0)
		fprintf(f, "set,run,engine,row,ops,seconds,written,changed,space,used\n");
	for (unsigned run = 0; run < res->runs; run++) {
		for (unsigned e = 0; e < ENGINES; e++) {
			for (enum row row = 0; row < ROWS; row++) {
				const struct sample *s = &res->sample[run][e][row];

				if (!(s->seconds > 0))
					continue;
				fprintf(f,
					"%s,%u,%s,\"%s\",%.0f,%.6f,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n",
					res->set, run, engines[e]->name, row_info[row].name, s->ops, s->seconds,
					s->written, s->changed, s->space, s->used);
			}
		}
	}
	return fclose(f) ? -EIO : 0;
}

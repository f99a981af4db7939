/*
 * t_scrub.c - the scrub of a mounted filesystem: it finds each bad place, mends what has a second source, tells the rest by path,
 * and nothing else
 */
#include <errno.h>
#include <linux/fs.h>
#undef BLOCK_SIZE
#include <stdio.h>
#include <string.h>

#include "btree/mem.h"
#include "fs/scrub.h"
#include "tests/kit/failmem.h"
#include "tests/kit/metakit.h"
#include "tests/kit/storekit.h"
#include "tests/kit/test.h"
#include "wal/scrub.h"

static const struct fskit_options with_copies = { .copies = true, .blocks = 16384 };

struct lines {
	unsigned n;
	char text[64][300];
};

static int add_line(void *arg, const char *line)
{
	struct lines *l = arg;

	if (l->n < ARRAY_LEN(l->text))
		snprintf(l->text[l->n], sizeof(l->text[0]), "%s", line);
	l->n++;
	return 0;
}

static struct lines lines_of(struct fskit *k)
{
	struct lines l = { 0 };

	assert_int_equal(scrub_bad(k->fs, add_line, &l), 0);
	return l;
}

static bool told(const struct lines *l, const char *begin, const char *in)
{
	for (unsigned i = 0; i < l->n && i < ARRAY_LEN(l->text); i++)
		if (!strncmp(l->text[i], begin, strlen(begin)) && strstr(l->text[i], in))
			return true;
	for (unsigned i = 0; i < l->n && i < ARRAY_LEN(l->text); i++)
		print_message("# line: %s\n", l->text[i]);
	return false;
}

/* Without threads it has ended when starting returns. */
static struct scrub_status scrub(struct fskit *k)
{
	static const struct scrub_options all;
	struct scrub_status st;

	assert_int_equal(scrub_start(k->fs, &all), 0);
	scrub_status(k->fs, &st);
	return st;
}

static void expect_clean(struct fskit *k)
{
	struct scrub_status st = scrub(k);

	assert_int_equal(st.state, SCRUB_DONE);
	assert_int_equal(st.nodes_bad + st.pages_bad + st.blocks_bad + st.nodes_lost, 0);
	assert_int_equal(lines_of(k).n, 0);
}

static void open_filled(struct fskit *k, unsigned files, bool snapshot)
{
	fskit_init(k, &with_copies);
	metakit_fill(k, files, snapshot);
	assert_int_equal(store_checkpoint(fs_store(k->fs)), 0);
}

static void poke_garbage(struct fskit *k, uint64_t addr, uint32_t blocks)
{
	for (uint32_t i = 0; i < blocks; i++)
		simdev_flip(k->disk, addr + i, 8 * 100 + 3);
}

/* ---- one place after the other ---- */

static void everything_is_read_and_nothing_found(void **state)
{
	struct scrub_status st;
	struct meta_places p;
	uint64_t reads, nodes = 0;
	struct fskit k;

	(void)state;
	open_filled(&k, 120, true);
	fskit_check(&k);
	metakit_places(&k, &p);
	for (size_t i = 0; i < p.n; i++)
		nodes += p.at[i].kind == META_NODE;
	reads = simdev_bdev(k.disk)->read_blocks;
	st = scrub(&k);
	assert_int_equal(st.state, SCRUB_DONE);
	assert_int_equal(st.nodes_bad + st.pages_bad + st.blocks_bad, 0);
	/* The checkpoint that it begins with writes a few anew. */
	assert_true(st.nodes >= nodes && st.nodes <= nodes + 30);
	/* What clones share is looked at for each. */
	assert_in_range(st.blocks, k.checked.data_blocks + 3, k.checked.data_blocks + 30);
	assert_true(st.bytes == st.bytes_total && st.ended_ns > st.started_ns);
	assert_true(simdev_bdev(k.disk)->read_blocks - reads >= 2 * nodes + k.checked.data_blocks);
	fskit_remount(&k);
	expect_clean(&k);
	metakit_free(&p);
	fskit_release(&k);
}

static void count_found(void *arg, const struct store_scrub_finding *f)
{
	unsigned *n = arg;

	n[f->kind]++;
	assert_true(f->mended && !f->lost && f->err);
}

/* As fsck uses it. */
static void the_store_alone_looks_at_the_same(void **state)
{
	unsigned n[3] = { 0 };
	struct store_scrub_ops ops = { .found = count_found, .arg = n };
	struct store_scrub_result r = { 0 };
	uint64_t nodes = 0, pages = 0;
	struct meta_places p;
	struct fskit k;

	(void)state;
	open_filled(&k, 60, true);
	fskit_remount(&k);
	metakit_places(&k, &p);
	for (size_t i = 0; i < p.n; i++) {
		nodes += p.at[i].kind == META_NODE;
		pages += p.at[i].kind == META_SPACE;
		if (p.at[i].kind == META_COPY)
			poke_garbage(&k, p.at[i].addr, 1);
	}
	assert_int_equal(store_scrub(fs_store(k.fs), &ops, &r), 0);
	assert_int_equal(n[STORE_SCRUB_NODE], nodes);
	assert_int_equal(n[STORE_SCRUB_SUPER] + n[STORE_SCRUB_SPACE], 0);
	assert_int_equal(r.nodes, nodes);
	assert_int_equal(r.pages, pages);
	assert_int_equal(r.supers, 2);
	assert_true(r.bad == nodes && r.mended == nodes && r.lost == 0);
	expect_clean(&k);
	metakit_free(&p);
	fskit_release(&k);
}

/* Each place, with what stood there, must be found, and must be there again afterwards. */
static void each_bad_copy_of_a_node_is_mended(void **state)
{
	uint8_t before[BLOCK_SIZE], after[BLOCK_SIZE];
	struct meta_places p;
	struct fskit k;
	unsigned n = 0;

	(void)state;
	open_filled(&k, 60, true);
	fskit_remount(&k);
	metakit_places(&k, &p);
	for (size_t i = 0; i < p.n; i++) {
		struct store_status was, is;
		struct scrub_status st;

		if (p.at[i].kind != META_NODE && p.at[i].kind != META_COPY)
			continue;
		store_status(fs_store(k.fs), &was);
		simdev_peek(k.disk, p.at[i].addr, before, 1);
		poke_garbage(&k, p.at[i].addr, 1);
		st = scrub(&k);
		simdev_peek(k.disk, p.at[i].addr, after, 1);
		assert_memory_equal(before, after, BLOCK_SIZE);
		assert_int_equal(st.state, SCRUB_DONE);
		assert_int_equal(st.nodes_bad, 1);
		assert_int_equal(st.nodes_mended, 1);
		assert_int_equal(st.nodes_lost + st.blocks_bad + st.pages_bad, 0);
		store_status(fs_store(k.fs), &is);
		assert_int_equal(is.nodes_mended, was.nodes_mended + 1);
		n++;
	}
	assert_true(n > 20);
	expect_clean(&k);
	fskit_check(&k);
	metakit_free(&p);
	fskit_release(&k);
}

static void nodes_of_all_sizes(void **state)
{
	(void)state;
	for (uint32_t size = 8192; size <= 32768; size *= 2) {
		struct meta_places p;
		struct fskit k;
		unsigned n = 0;

		fskit_init(&k, &(struct fskit_options){ .copies = true, .blocks = 32768, .node_size = size });
		metakit_fill(&k, 150, true);
		fskit_remount(&k);
		expect_clean(&k);
		metakit_places(&k, &p);
		for (size_t i = 0; i < p.n; i++)
			if (p.at[i].kind == META_COPY && ++n)
				poke_garbage(&k, p.at[i].addr + p.at[i].blocks - 1, 1);
		assert_int_equal(scrub(&k).nodes_mended, n);
		expect_clean(&k);
		metakit_free(&p);
		fskit_release(&k);
	}
}

static void without_second_copies_memory_is_the_only_help(void **state)
{
	struct scrub_status st;
	struct meta_places p;
	struct fskit k;
	unsigned leaves = 0;
	uint64_t leaf = 0;

	(void)state;
	fskit_init(&k, NULL);
	metakit_fill(&k, 60, false);
	fskit_remount(&k);
	expect_clean(&k);
	metakit_places(&k, &p); /* now memory has all of them */
	for (size_t i = 0; i < p.n; i++)
		if (p.at[i].kind == META_NODE && !p.at[i].level && ++leaves == 3) {
			assert_int_equal(p.at[i].twin, 0);
			leaf = p.at[i].addr;
		}
	poke_garbage(&k, leaf, 1);
	st = scrub(&k);
	assert_int_equal(st.nodes_bad, 1);
	assert_int_equal(st.nodes_mended, 1);
	expect_clean(&k);
	/* One that mounting has no need of. */
	fskit_remount(&k);
	poke_garbage(&k, leaf, 1);
	st = scrub(&k);
	assert_int_equal(st.nodes_bad, 1);
	assert_int_equal(st.nodes_lost, 1);
	assert_true(lines_of(&k).n > 0);
	metakit_free(&p);
	fskit_release(&k);
}

static void superblocks_and_pages_of_the_map_are_mended(void **state)
{
	struct meta_places p;
	struct fskit k;

	(void)state;
	open_filled(&k, 30, false);
	for (unsigned round = 0; round < 6; round++) {
		unsigned n = 0;

		metakit_places(&k, &p);
		for (size_t i = 0; i < p.n; i++) {
			struct scrub_status st;

			if (p.at[i].kind > META_SPACE)
				continue;
			/* Each scrub makes checkpoints, which move what is in force. */
			metakit_free(&p);
			assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
			metakit_places(&k, &p);
			poke_garbage(&k, p.at[i].addr, 1);
			/* The checkpoint that comes first writes the older slot. */
			st = scrub(&k);
			assert_int_equal(st.state, SCRUB_DONE);
			assert_int_equal(st.pages_bad, st.pages_mended);
			assert_int_equal(st.nodes_bad + st.blocks_bad, 0);
			n += st.pages_bad > 0;
		}
		assert_true(n >= 3);
		metakit_free(&p);
		expect_clean(&k);
		fskit_check(&k);
	}
	fskit_remount(&k);
	expect_clean(&k);
	fskit_release(&k);
}

/* On a device where a mount does not look at all of them. */
static void a_page_of_the_map_that_nobody_has_is_told(void **state)
{
	struct scrub_status st;
	struct meta_places p;
	uint64_t last = 0;
	struct fskit k;

	(void)state;
	fskit_init(&k, &(struct fskit_options){ .copies = true, .blocks = 70 * 32768 });
	metakit_fill(&k, 20, false);
	fskit_remount(&k);
	metakit_places(&k, &p);
	fskit_unmount(&k);
	for (size_t i = 0; i < p.n; i++)
		if (p.at[i].kind == META_SPACE && p.at[i].level == 0)
			last = p.at[i].addr;
	assert_true(last != 0);
	poke_garbage(&k, last, 1);
	fskit_mount(&k);
	st = scrub(&k);
	assert_int_equal(st.state, SCRUB_DONE);
	assert_int_equal(st.pages_bad, 1);
	assert_int_equal(st.pages_mended, 0);
	metakit_free(&p);
	fskit_release(&k);
}

static void bad_data_is_told_by_path_and_left_alone(void **state)
{
	uint8_t before[BLOCK_SIZE], after[BLOCK_SIZE];
	struct scrub_status st;
	struct lines l;
	struct fskit k;
	uint64_t addr;
	char text[80];

	(void)state;
	open_filled(&k, 60, true);
	fskit_remount(&k);
	addr = metakit_block(&k, "d2/file46", 2); /* 3 blocks, with a clone; not in the snapshot */
	assert_true(addr != 0);
	simdev_flip(k.disk, addr, 77);
	simdev_peek(k.disk, addr, before, 1);
	st = scrub(&k);
	assert_int_equal(st.state, SCRUB_DONE);
	l = lines_of(&k);
	assert_true(told(&l, "/d2/file46: ", "bytes 8192 to 12287 do not verify"));
	snprintf(text, sizeof(text), "at block %llu of the device", (unsigned long long)addr);
	assert_true(told(&l, "/d2/file46: ", text));
	assert_true(told(&l, "/d2/clone46: ", "bytes 8192 to 12287"));
	assert_int_equal(l.n, 2);
	assert_int_equal(st.blocks_bad, 2); /* one for each that has it */
	simdev_peek(k.disk, addr, after, 1);
	assert_memory_equal(before, after, BLOCK_SIZE);

	/* What live shares with a snapshot is read, and told, once: in the snapshot. */
	addr = metakit_block(&k, "d0/file12", 8);
	simdev_flip(k.disk, addr, 99);
	st = scrub(&k);
	l = lines_of(&k);
	assert_int_equal(l.n, 3);
	assert_true(told(&l, "snapshot half: /d0/file12: ", "bytes 32768 to 36863"));
	fskit_release(&k);
}

static void neighbouring_bad_blocks_are_one_line(void **state)
{
	struct scrub_status st;
	struct lines l;
	struct fskit k;

	(void)state;
	open_filled(&k, 20, false);
	for (unsigned i = 4; i < 7; i++)
		simdev_flip(k.disk, metakit_block(&k, "d2/file6", i), i);
	simdev_flip(k.disk, metakit_block(&k, "d2/file6", 32), 1);
	st = scrub(&k);
	l = lines_of(&k);
	assert_int_equal(st.blocks_bad, 4);
	assert_int_equal(l.n, 2);
	assert_true(told(&l, "/d2/file6: ", "bytes 16384 to 28671"));
	assert_true(told(&l, "/d2/file6: ", "bytes 131072 to 135167"));
	fskit_release(&k);
}

/* ---- both copies ---- */

static void damage_both(struct fskit *k, const struct meta_place *p)
{
	poke_garbage(k, p->addr, p->blocks);
	poke_garbage(k, p->twin, p->blocks);
}

static void memory_mends_both_copies(void **state)
{
	struct scrub_status st;
	struct meta_places p;
	struct fskit k;

	(void)state;
	open_filled(&k, 60, false);
	(void)metakit_digest(&k, NULL);
	/* Reading has changed access times. */
	assert_int_equal(store_checkpoint(fs_store(k.fs)), 0);
	(void)metakit_digest(&k, NULL);
	metakit_places(&k, &p);
	for (size_t i = 0; i < p.n; i++) {
		if (p.at[i].kind != META_NODE)
			continue;
		damage_both(&k, &p.at[i]);
		st = scrub(&k);
		assert_int_equal(st.nodes_bad, 2);
		assert_int_equal(st.nodes_mended, 2);
		assert_int_equal(st.nodes_lost, 0);
	}
	fskit_remount(&k);
	expect_clean(&k);
	fskit_check(&k);
	metakit_free(&p);
	fskit_release(&k);
}

static void a_node_without_a_good_copy_is_told_with_the_files_it_had(void **state)
{
	unsigned with_path = 0, leaves = 0;
	struct meta_places p;
	struct fskit k;

	(void)state;
	open_filled(&k, 60, false);
	fskit_remount(&k);
	metakit_places(&k, &p);
	fskit_unmount(&k);
	for (size_t i = 0; i < p.n; i++) {
		struct simdev *disk = k.disk;
		struct scrub_status st;
		struct lines l;

		if (p.at[i].kind != META_NODE || p.at[i].level)
			continue;
		k.disk = simdev_clone(disk);
		damage_both(&k, &p.at[i]);
		k.opt.store.read_only = true;
		/* Some are needed for mounting. */
		if (!fs_mount(simdev_bdev(k.disk), &k.opt, &k.fs)) {
			st = scrub(&k);
			assert_int_equal(st.state, SCRUB_DONE);
			assert_int_equal(st.nodes_lost, 1);
			assert_int_equal(st.nodes_bad, 2);
			l = lines_of(&k);
			assert_true(l.n >= 1);
			for (unsigned n = 0; n < l.n && n < ARRAY_LEN(l.text); n++) {
				assert_non_null(strstr(l.text[n], "metadata is lost"));
				with_path += l.text[n][0] == '/';
			}
			leaves++;
			fs_crash(k.fs);
			k.fs = NULL;
		}
		simdev_free(k.disk);
		k.disk = disk;
	}
	assert_true(leaves > 3 && with_path > 10);
	metakit_free(&p);
	fskit_release(&k);
}

/* ---- a device that makes difficulties ---- */

static void a_read_error_that_goes_away_is_none(void **state)
{
	struct scrub_status st;
	struct meta_places p;
	struct fskit k;
	uint64_t data;

	(void)state;
	open_filled(&k, 30, false);
	fskit_remount(&k);
	metakit_places(&k, &p);
	data = metakit_block(&k, "d2/file6", 1);
	for (size_t i = 0; i <= p.n; i++) {
		struct simdev_fault once = { .op = SIMDEV_READ, .times = 1, .blocks = 1 };

		once.addr = i < p.n ? p.at[i].addr : data;
		simdev_add_fault(k.disk, &once);
		st = scrub(&k);
		assert_int_equal(st.state, SCRUB_DONE);
		assert_int_equal(st.nodes_bad + st.pages_bad + st.blocks_bad, 0);
		simdev_clear_faults(k.disk);
	}
	metakit_free(&p);
	fskit_release(&k);
}

static void no_single_error_is_taken_for_damage(void **state)
{
	struct scrub_status st;
	struct fskit k;
	uint64_t n;

	(void)state;
	open_filled(&k, 120, true);
	fskit_remount(&k);
	for (n = 0;; n++) {
		uint64_t failed = simdev_failed(k.disk);

		simdev_add_fault(k.disk, &(struct simdev_fault){ .op = SIMDEV_READ, .after = n, .times = 1 });
		st = scrub(&k);
		assert_int_equal(st.state, SCRUB_DONE);
		assert_int_equal(st.nodes_bad + st.pages_bad + st.blocks_bad, 0);
		simdev_clear_faults(k.disk);
		if (simdev_failed(k.disk) == failed)
			break;
	}
	assert_true(n > 30);
	fskit_check(&k);
	fskit_release(&k);
}

static void what_cannot_be_read_is_told_or_written_anew(void **state)
{
	struct simdev_fault ever = { .op = SIMDEV_READ, .blocks = 1 };
	struct scrub_status st;
	struct meta_places p;
	struct lines l;
	struct fskit k;

	(void)state;
	open_filled(&k, 30, false);
	fskit_remount(&k);
	metakit_places(&k, &p);
	ever.addr = metakit_block(&k, "d2/file6", 1);
	simdev_add_fault(k.disk, &ever);
	st = scrub(&k);
	assert_int_equal(st.blocks_bad, 1);
	l = lines_of(&k);
	assert_int_equal(l.n, 1);
	assert_true(told(&l, "/d2/file6: ", "bytes 4096 to 8191"));
	simdev_clear_faults(k.disk);

	for (size_t i = 0; i < p.n; i++) {
		struct simdev_fault unwritable = { .op = SIMDEV_WRITE, .blocks = p.at[i].blocks, .addr = p.at[i].addr };

		if (p.at[i].kind != META_COPY)
			continue;
		ever.addr = p.at[i].addr;
		simdev_add_fault(k.disk, &ever);
		st = scrub(&k);
		assert_int_equal(st.nodes_bad, 1);
		assert_int_equal(st.nodes_mended, 1);
		simdev_clear_faults(k.disk);
		/* And where writing it fails, too, that is no failure of the filesystem. */
		poke_garbage(&k, p.at[i].addr, 1);
		simdev_add_fault(k.disk, &unwritable);
		st = scrub(&k);
		assert_int_equal(st.state, SCRUB_DONE);
		assert_int_equal(st.nodes_bad, 1);
		assert_int_equal(st.nodes_mended, 0);
		simdev_clear_faults(k.disk);
		st = scrub(&k);
		assert_int_equal(st.nodes_mended, 1);
		expect_clean(&k);
		break;
	}
	metakit_free(&p);
	fskit_release(&k);
}

static void a_failing_allocation_ends_it_and_it_can_go_on(void **state)
{
	static const struct scrub_options all, resume = { .resume = true };
	struct scrub_status st;
	struct fskit k;
	unsigned failed = 0;

	(void)state;
	open_filled(&k, 30, true);
	fskit_remount(&k);
	simdev_flip(k.disk, metakit_block(&k, "d2/file6", 1), 3);
	for (uint64_t n = 1;; n++) {
		bool hit;

		failmem_start(n, FAILMEM_ONCE);
		assert_int_equal(scrub_start(k.fs, &all), 0);
		hit = failmem_stop();
		scrub_status(k.fs, &st);
		if (!hit)
			break;
		assert_true(st.state == SCRUB_DONE || (st.state == SCRUB_FAILED && st.err == -ENOMEM));
		failed += st.state == SCRUB_FAILED;
		assert_int_equal(scrub_start(k.fs, &resume), 0);
		scrub_status(k.fs, &st);
		assert_int_equal(st.state, SCRUB_DONE);
		assert_int_equal(st.blocks_bad, 1);
		assert_int_equal(lines_of(&k).n <= 1, 1);
	}
	assert_true(failed > 10);
	assert_int_equal(lines_of(&k).n, 1);
	simdev_flip(k.disk, metakit_block(&k, "d2/file6", 1), 3);
	fskit_check(&k);
	fskit_release(&k);
}

static void read_only_it_tells_and_writes_nothing(void **state)
{
	struct scrub_status st;
	struct meta_places p;
	uint64_t writes, last = 0;
	struct fskit k;

	(void)state;
	open_filled(&k, 30, true);
	fskit_remount(&k);
	metakit_places(&k, &p);
	assert_int_equal(fskit_create(&k, "in-the-log"), 0);
	assert_int_equal(fs_sync(k.fs), 0);
	fs_crash(k.fs);
	k.fs = NULL;
	for (size_t i = 0; i < p.n; i++)
		if (p.at[i].kind == META_COPY)
			last = p.at[i].addr; /* the snapshot's: replay has no part in it */
	poke_garbage(&k, last, 1);
	k.opt.store.read_only = true;
	writes = simdev_count(k.disk, SIMDEV_WRITE);
	fskit_mount(&k);
	assert_true(fskit_node(&k, "in-the-log") != 0);
	st = scrub(&k);
	assert_int_equal(st.state, SCRUB_DONE);
	assert_int_equal(st.nodes_bad, 1);
	assert_int_equal(st.nodes_mended + st.pages_bad + st.nodes_lost, 0);
	assert_int_equal(simdev_count(k.disk, SIMDEV_WRITE), writes);
	metakit_free(&p);
	fskit_release(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_is_read_and_nothing_found),
		cmocka_unit_test(the_store_alone_looks_at_the_same),
		cmocka_unit_test(each_bad_copy_of_a_node_is_mended),
		cmocka_unit_test(nodes_of_all_sizes),
		cmocka_unit_test(without_second_copies_memory_is_the_only_help),
		cmocka_unit_test(superblocks_and_pages_of_the_map_are_mended),
		cmocka_unit_test(a_page_of_the_map_that_nobody_has_is_told),
		cmocka_unit_test(bad_data_is_told_by_path_and_left_alone),
		cmocka_unit_test(neighbouring_bad_blocks_are_one_line),
		cmocka_unit_test(memory_mends_both_copies),
		cmocka_unit_test(a_node_without_a_good_copy_is_told_with_the_files_it_had),
		cmocka_unit_test(a_read_error_that_goes_away_is_none),
		cmocka_unit_test(no_single_error_is_taken_for_damage),
		cmocka_unit_test(what_cannot_be_read_is_told_or_written_anew),
		cmocka_unit_test(a_failing_allocation_ends_it_and_it_can_go_on),
		cmocka_unit_test(read_only_it_tells_and_writes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

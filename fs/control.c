/*
 * control.c - the hidden directory .arbor
 *
 * The directory is one node that is always there; a file in it is a new node with each lookup, which carries the text as it
 * was then. So a text read in pieces is one text, two readers do not see each other, and the kernel, which keys its page
 * cache by node, cannot show an old one. A node lives until the kernel forgets it; at most NODES_MAX do, because a
 * process that looks names up faster than the kernel forgets them must not eat the memory of a daemon.
 *
 * What can be told to the filesystem is written to such a node, a command at a time: no channel but the mount is needed, and
 * who may do it is decided by the file's mode, as for any file. Nothing is kept of it; the answer is the write's error.
 *
 * The text is JSON. Its keys are an interface: they are described in arbor-status(1), new ones may be added, and none
 * changes its meaning. Sizes are in bytes, times in the unit that the key's end names.
 */
#include "fs/control.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "fs/fs_int.h"
#include "fs/scrub.h"

#define CONTROL_DIR 1u /* node numbers within the view; files have larger ones */
#define NODES_MAX 4096u

/* Inode numbers shown; 2 to 15 are reserved, so no file has them. */
enum { DIR_INO = 2, STATUS_INO = 3, SCRUB_INO = 4 };

struct control_file {
	const char *name;
	ino_t ino;
	mode_t mode; /* what may be written is its owner's alone: paths stand in it, too */
	int (*text)(struct control *, char **ret);
};

static int scrub_text(struct control *, char **ret);

static const struct control_file files[] = {
	{ "status", STATUS_INO, 0444, control_status },
	{ "scrub", SCRUB_INO, 0600, scrub_text },
};
#define FILES (sizeof(files) / sizeof(files[0]))

struct text_node {
	LIST_ENTRY(text_node) list;
	const struct control_file *file;
	uint64_t node;
	uint64_t refs;
	struct timespec made;
	size_t len;
	char *text; /* does not change */
};

struct control {
	struct fs *fs;
	json_t *about;
	struct timespec opened;
	pthread_mutex_t lock;
	LIST_HEAD(, text_node) nodes; /* guarded by lock */
	unsigned n_nodes;	      /* guarded by lock */
	uint64_t next;		      /* guarded by lock */
};

/* ---- the text ---- */

/* Names and labels may be any bytes, JSON is UTF-8: what is not is shown as question marks. */
static json_t *json_text(const char *s)
{
	json_t *json = json_string(s);
	char *copy;

	if (json)
		return json;
	copy = mem_strdup(s);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	json = json_string(copy);
	mem_free(copy);
	return json;
}

static json_int_t bytes(uint64_t blocks)
{
	return (json_int_t)(blocks << BLOCK_SHIFT);
}

static json_t *space_json(const struct store_status *st, const struct statvfs *v)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "size", bytes(st->blocks), "usable", bytes(v->f_blocks),
			 "used", bytes(v->f_blocks - v->f_bfree), "available", bytes(v->f_bavail), "claimed",
			 bytes(st->blocks_claimed), "pinned", bytes(st->blocks_pinned), "reclaiming",
			 bytes(st->blocks_reclaiming));
}

static json_t *log_json(const struct store_status *st)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "size", bytes(st->log_blocks), "used", bytes(st->log_used),
			 "lsn_next", (json_int_t)st->lsn_next, "lsn_durable", (json_int_t)st->lsn_durable, "syncs",
			 (json_int_t)st->syncs, "segments", (json_int_t)st->segments);
}

static json_t *cache_json(const struct store_status *st)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "frames", (json_int_t)st->cache_frames, "frames_max",
			 (json_int_t)st->cache_frames_max, "dirty", (json_int_t)st->cache_dirty, "nodes_written",
			 (json_int_t)st->nodes_written, "nodes_mended", (json_int_t)st->nodes_mended, "copies_used",
			 (json_int_t)st->copies_used);
}

static json_t *device_json(struct bdev *dev)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "reads", (json_int_t)atomic_load(&dev->reads), "read_bytes",
			 bytes(atomic_load(&dev->read_blocks)), "writes", (json_int_t)atomic_load(&dev->writes),
			 "written_bytes", bytes(atomic_load(&dev->written_blocks)), "flushes",
			 (json_int_t)atomic_load(&dev->flushes));
}

static json_t *mount_json(const struct fs *fs)
{
	static const char *const atime[] = {
		[FS_RELATIME] = "relatime", [FS_NOATIME] = "noatime", [FS_STRICTATIME] = "strictatime"
	};
	const struct fs_options *o = &fs->opt;

	return json_pack("{s:s, s:b, s:b, s:s, s:I, s:b}", "atime", atime[o->atime], "nodiratime", o->nodiratime, "acl",
			 o->acl, "cache", o->writeback ? "writeback" : "writethrough", "commit_ms",
			 (json_int_t)(o->store.commit_ms ? o->store.commit_ms : 1000), "discard", o->store.discard);
}

static json_t *error_json(const struct store_status *st)
{
	json_t *text;

	if (!st->error)
		return json_null();
	text = json_text(st->error_text);
	return text ? json_pack("{s:i, s:o}", "errno", -st->error, "text", text) : NULL;
}

/* What is in the status, which anybody may see: no paths. */
static json_t *scrub_json(struct fs *fs)
{
	struct scrub_status st;

	scrub_status(fs, &st);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "state",
			 scrub_state_name(st.state), "started_ns", (json_int_t)st.started_ns, "ended_ns",
			 (json_int_t)st.ended_ns, "rate", (json_int_t)st.rate, "bytes", (json_int_t)st.bytes,
			 "bytes_total", (json_int_t)st.bytes_total, "nodes", (json_int_t)st.nodes, "blocks",
			 (json_int_t)st.blocks, "pages", (json_int_t)st.pages, "nodes_bad", (json_int_t)st.nodes_bad,
			 "nodes_mended", (json_int_t)st.nodes_mended, "nodes_lost", (json_int_t)st.nodes_lost, "pages_bad",
			 (json_int_t)st.pages_bad, "pages_mended", (json_int_t)st.pages_mended, "blocks_bad",
			 (json_int_t)st.blocks_bad, "next_inode", (json_int_t)st.next_ino, "errno", -st.err);
}

static json_t *status_json(struct control *c)
{
	struct fs *fs = c->fs;
	char uuid[37], *out = uuid;
	struct store_status st;
	struct statvfs v;
	json_t *json;
	int rc = 0;

	store_status(fs->store, &st);
	if (fs_statfs(fs, &v))
		return NULL;
	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		snprintf(out, 3, "%02x", st.uuid[i]);
		out += 2;
	}

	json = json_pack("{s:b, s:I}", "mounted", 1, "pid", (json_int_t)getpid());
	if (!json)
		return NULL;
	/* json_object_set_new takes what it is given, and fails where that is NULL. */
	rc |= json_object_update(json, c->about);
	rc |= json_object_set_new(json, "uuid", json_text(uuid));
	rc |= json_object_set_new(json, "label", json_text(st.label));
	rc |= json_object_set_new(json, "state",
				  json_text(st.error	    ? "failed"
					    : fs->read_only ? "read-only"
							    : "read-write"));
	rc |= json_object_set_new(json, "error", error_json(&st));
	rc |= json_object_set_new(json, "node_size", json_integer(st.node_size));
	rc |= json_object_set_new(json, "space", space_json(&st, &v));
	rc |= json_object_set_new(json, "inodes",
				  json_pack("{s:I, s:I}", "used", (json_int_t)(v.f_files - v.f_ffree), "referenced",
					    (json_int_t)lookups_count(fs->lookups)));
	rc |= json_object_set_new(json, "log", log_json(&st));
	rc |= json_object_set_new(json, "checkpoint",
				  json_pack("{s:I, s:I, s:I}", "count", (json_int_t)st.checkpoints, "last_us",
					    (json_int_t)st.checkpoint_last_us, "freeze_max_us",
					    (json_int_t)st.checkpoint_freeze_max_us));
	rc |= json_object_set_new(json, "cache", cache_json(&st));
	rc |= json_object_set_new(json, "data",
				  json_pack("{s:I, s:I}", "dirty", bytes(st.data_dirty), "in_flight",
					    bytes(st.data_inflight)));
	rc |= json_object_set_new(json, "views",
				  json_pack("{s:I, s:I, s:I}", "open", (json_int_t)st.views, "transactions",
					    (json_int_t)st.txns, "snapshots", (json_int_t)st.snapshots));
	rc |= json_object_set_new(json, "recovery",
				  json_pack("{s:I, s:I}", "records", (json_int_t)st.recovered_records, "us",
					    (json_int_t)st.recovered_us));
	rc |= json_object_set_new(json, "device", device_json(fs->dev));
	rc |= json_object_set_new(json, "mount", mount_json(fs));
	rc |= json_object_set_new(json, "scrub", scrub_json(fs));
	if (rc) {
		json_decref(json);
		return NULL;
	}
	return json;
}

/* Takes the value; NULL: there was no memory for it. */
static int dump(json_t *json, char **ret)
{
	char *text, *line;
	size_t n;

	if (!json)
		return -ENOMEM;
	text = json_dumps(json, JSON_INDENT(2));
	json_decref(json);
	if (!text)
		return -ENOMEM;
	/* A text file ends with a newline. */
	n = strlen(text);
	line = mem_realloc(text, n + 2);
	if (!line) {
		mem_free(text);
		return -ENOMEM;
	}
	memcpy(line + n, "\n", 2);
	*ret = line;
	return 0;
}

int control_status(struct control *c, char **ret)
{
	return dump(status_json(c), ret);
}

static int add_bad(void *arg, const char *line)
{
	return json_array_append_new(arg, json_text(line)) ? -ENOMEM : 0;
}

static int scrub_text(struct control *c, char **ret)
{
	json_t *json = scrub_json(c->fs), *bad = json_array();

	if (!json || !bad || scrub_bad(c->fs, add_bad, bad) || json_object_set(json, "bad", bad)) {
		json_decref(json);
		json = NULL;
	}
	json_decref(bad);
	return dump(json, ret);
}

/* ---- opening and closing ---- */

int control_open(struct fs *fs, const char *const *about, struct control **ret)
{
	struct control *c = mem_zalloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	json_set_alloc_funcs(mem_alloc, mem_free);
	c->fs = fs;
	c->next = CONTROL_DIR + 1;
	fs_now(fs, &c->opened);
	pthread_mutex_init(&c->lock, NULL);
	LIST_INIT(&c->nodes);
	c->about = json_object();
	for (; c->about && about && about[0]; about += 2)
		if (json_object_set_new(c->about, about[0], json_text(about[1]))) {
			json_decref(c->about);
			c->about = NULL;
		}
	if (!c->about) {
		control_close(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

static void text_free(struct text_node *t)
{
	mem_free(t->text);
	mem_free(t);
}

void control_close(struct control *c)
{
	struct text_node *t;

	if (!c)
		return;
	while ((t = LIST_FIRST(&c->nodes))) {
		LIST_REMOVE(t, list);
		text_free(t);
	}
	json_decref(c->about);
	pthread_mutex_destroy(&c->lock);
	mem_free(c);
}

/* ---- nodes ---- */

static uint64_t control_node(uint64_t number)
{
	return FS_CONTROL_VIEW << FS_VIEW_SHIFT | number;
}

static struct text_node *find_locked(struct control *c, uint64_t node)
{
	struct text_node *t;

	LIST_FOREACH (t, &c->nodes, list)
		if (t->node == node)
			return t;
	return NULL;
}

static void fill_times(struct fs_entry *e, struct timespec t)
{
	e->st.st_atim = e->st.st_mtim = e->st.st_ctim = e->btime = t;
}

static void dir_entry(const struct control *c, struct fs_entry *ret)
{
	*ret = (struct fs_entry){ .node = control_node(CONTROL_DIR) };
	ret->st.st_ino = DIR_INO;
	ret->st.st_mode = S_IFDIR | 0555;
	ret->st.st_nlink = 2;
	ret->st.st_blksize = BLOCK_SIZE;
	fill_times(ret, c->opened);
}

static void text_entry(const struct text_node *t, struct fs_entry *ret)
{
	*ret = (struct fs_entry){ .node = t->node };
	ret->st.st_ino = t->file->ino;
	ret->st.st_mode = S_IFREG | t->file->mode;
	ret->st.st_uid = t->file->mode & S_IWUSR ? geteuid() : 0;
	ret->st.st_nlink = 1;
	ret->st.st_size = (off_t)t->len;
	ret->st.st_blocks = (blkcnt_t)((t->len + 511) / 512);
	ret->st.st_blksize = BLOCK_SIZE;
	fill_times(ret, t->made);
}

static int new_text(struct control *c, const struct control_file *file, struct fs_entry *ret)
{
	struct text_node *t = mem_zalloc(sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->file = file;
	err = file->text(c, &t->text);
	if (err) {
		mem_free(t);
		return err;
	}
	t->len = strlen(t->text);
	t->refs = 1;
	fs_now(c->fs, &t->made);
	pthread_mutex_lock(&c->lock);
	if (c->n_nodes < NODES_MAX) {
		t->node = control_node(c->next++);
		LIST_INSERT_HEAD(&c->nodes, t, list);
		c->n_nodes++;
		text_entry(t, ret);
	} else {
		err = -ENOMEM;
	}
	pthread_mutex_unlock(&c->lock);
	if (err)
		text_free(t);
	return err;
}

int control_lookup(struct control *c, uint64_t parent, const char *name, struct fs_entry *ret)
{
	if (parent == FS_ROOT) {
		if (strcmp(name, FS_CONTROL_NAME))
			return -ENOENT;
		dir_entry(c, ret);
		return 0;
	}
	if (parent != control_node(CONTROL_DIR))
		return control_is_node(parent) ? -ENOTDIR : -ENOENT;
	if (strcmp(name, ".") == 0) {
		dir_entry(c, ret);
		return 0;
	}
	if (strcmp(name, "..") == 0)
		return fs_lookup(c->fs, FS_ROOT, ".", ret);
	for (size_t i = 0; i < FILES; i++)
		if (strcmp(name, files[i].name) == 0)
			return new_text(c, &files[i], ret);
	return -ENOENT;
}

void control_forget(struct control *c, uint64_t node, uint64_t n)
{
	struct text_node *t;

	pthread_mutex_lock(&c->lock);
	t = find_locked(c, node);
	if (t && t->refs > n) {
		t->refs -= n;
		t = NULL;
	} else if (t) {
		LIST_REMOVE(t, list);
		c->n_nodes--;
	}
	pthread_mutex_unlock(&c->lock);
	if (t)
		text_free(t);
}

int control_getattr(struct control *c, uint64_t node, struct fs_entry *ret)
{
	struct text_node *t;

	if (node == control_node(CONTROL_DIR)) {
		dir_entry(c, ret);
		return 0;
	}
	pthread_mutex_lock(&c->lock);
	t = find_locked(c, node);
	if (t)
		text_entry(t, ret);
	pthread_mutex_unlock(&c->lock);
	return t ? 0 : -ESTALE;
}

int control_read(struct control *c, uint64_t node, uint64_t off, size_t size, const void **ret_data, size_t *ret_len)
{
	struct text_node *t;

	if (node == control_node(CONTROL_DIR))
		return -EISDIR;
	pthread_mutex_lock(&c->lock);
	t = find_locked(c, node);
	pthread_mutex_unlock(&c->lock);
	if (!t)
		return -ESTALE;
	/* Who reads has a reference, so it stays. */
	if (off > t->len)
		off = t->len;
	*ret_data = t->text + off;
	*ret_len = size < t->len - off ? size : t->len - off;
	return 0;
}

/* ---- commands ---- */

/* The file a node is of; NULL: the directory, or gone. */
static const struct control_file *file_of(struct control *c, uint64_t node)
{
	const struct text_node *t;
	const struct control_file *file;

	pthread_mutex_lock(&c->lock);
	t = find_locked(c, node);
	file = t ? t->file : NULL;
	pthread_mutex_unlock(&c->lock);
	return file;
}

static int start_scrub(struct fs *fs, char *words)
{
	struct scrub_options o = { 0 };

	for (char *word; (word = strsep(&words, " "));) {
		char *value = strchr(word, '='), *end;
		uint64_t n = 0;

		if (value) {
			*value++ = 0;
			errno = 0;
			n = strtoull(value, &end, 10);
			if (!*value || *end || errno || *value == '-')
				return -EINVAL;
		}
		if (value && strcmp(word, "rate") == 0)
			o.rate = n;
		else if (value && strcmp(word, "from") == 0 && n <= FS_INO_MAX)
			o.from_ino = n;
		else if (!value && strcmp(word, "resume") == 0)
			o.resume = true;
		else if (value || *word)
			return -EINVAL;
	}
	return scrub_start(fs, &o);
}

int control_write(struct control *c, uint64_t node, const void *buf, size_t size)
{
	const struct control_file *file = file_of(c, node);
	char text[128], *words = text, *verb;

	if (!file || file->ino != SCRUB_INO)
		return -EPERM;
	/* The kernel's page cache may send what stood behind, too: the first line counts. */
	if (size >= sizeof(text) && !memchr(buf, '\n', sizeof(text) - 1))
		return -EINVAL;
	size = size < sizeof(text) ? size : sizeof(text) - 1;
	memcpy(text, buf, size);
	text[size] = 0;
	text[strcspn(text, "\n")] = 0;
	verb = strsep(&words, " ");
	if (strcmp(verb, "start") == 0)
		return start_scrub(c->fs, words);
	return strcmp(verb, "stop") == 0 && !words ? scrub_stop(c->fs) : -EINVAL;
}

int control_truncate(struct control *c, uint64_t node, struct fs_entry *ret)
{
	const struct control_file *file = file_of(c, node);
	int err = file && file->mode & S_IWUSR ? control_getattr(c, node, ret) : -EPERM;

	if (!err)
		ret->st.st_size = 0;
	return err;
}

/* ---- the directory ---- */

int control_readdir(struct control *c, uint64_t node, uint64_t pos, int (*each)(void *arg, const struct fs_dirent *),
		    void *arg)
{
	static const struct fs_dirent dots[] = {
		{ .name = ".", .name_len = 1, .ino = DIR_INO, .type = DT_DIR, .next = 1 },
		{ .name = "..", .name_len = 2, .ino = FS_ROOT_INO, .type = DT_DIR, .next = 2 },
	};

	(void)c;
	if (node != control_node(CONTROL_DIR))
		return control_is_node(node) ? -ENOTDIR : -ESTALE;
	for (; pos < 2 + FILES; pos++) {
		struct fs_dirent d;

		if (pos < 2) {
			d = dots[pos];
		} else {
			const struct control_file *file = &files[pos - 2];

			d = (struct fs_dirent){ .name = file->name,
						.name_len = strlen(file->name),
						.ino = file->ino,
						.type = DT_REG,
						.next = pos + 1 };
		}
		if (each(arg, &d))
			break;
	}
	return 0;
}

# arbor scrub: nothing found where nothing is wrong, also while others write; damage beneath a mounted filesystem mended or told.
# needs: python3
# only: arbor
# size: 512M
# time: 120 300

# scrub STATUS OPTION...: runs it, wants this exit status
scrub()
{
	local wanted=$1 status=0
	shift
	arbor scrub --rate=0 "$@" "$MNT" >"$SCRATCH/said" 2>&1 || status=$?
	same "scrub $* ($(cat "$SCRATCH/said")): status" $status "$wanted"
}

# damage WHAT ARGUMENT: writes to the image file, under the daemon
cat >"$SCRATCH/damage.py" <<'PYTHON'
import os, struct, sys

image, what = sys.argv[1:3]
BLOCK = 4096
fd = os.open(image, os.O_RDWR)
size = os.fstat(fd).st_size

def flip(at):
    byte = os.pread(fd, 1, at)[0]
    os.pwrite(fd, bytes([byte ^ 0x10]), at)

hits = 0
if what == "nodes": # every first copy of a node, in use or not
    for block in range(size // BLOCK):
        head = os.pread(fd, 64, block * BLOCK)
        magic, = struct.unpack_from("<I", head, 8)
        addr, copy = struct.unpack_from("<QQ", head, 16)
        if magic == 0x646f4e61 and addr == block and copy:
            flip(block * BLOCK + 1000)
            hits += 1
else: # the block of data that begins so
    begin = what.encode()
    for block in range(size // BLOCK):
        if os.pread(fd, len(begin), block * BLOCK) == begin:
            flip(block * BLOCK + 2000)
            hits += 1
os.fsync(fd)
print(hits)
PYTHON
damage()
{
	python3 "$SCRATCH/damage.py" "$IMG" "$1"
}

cd /
mkdir -p "$MNT/dir/deep"
for i in $(seq 200); do
	echo "file $i" >"$MNT/dir/file$i"
	head -c $((i * 500)) /dev/urandom >"$MNT/dir/deep/random$i"
done
# Blocks that are found again by what they begin with.
python3 -c '
for i in range(8):
    print(("block %d of the marked file " % i).ljust(4095, "."))' >"$MNT/dir/deep/marked file"
python3 -c '
for i in range(3):
    print(("block %d of the other one " % i).ljust(4095, "."))' >"$MNT/other"
cp -r "$TOP/tests/mount" "$MNT/copy"
sync

# Nothing.
scrub 0
grep -q "^scrub done: .*nodes" "$SCRATCH/said" || fail "no summary: $(cat "$SCRATCH/said")"
grep -q "nothing bad" "$SCRATCH/said" || fail "it found something: $(cat "$SCRATCH/said")"
arbor status "$MNT" | grep -q "scrub *done" || fail "the status does not show it"
same "state in the status" "$(arbor status --json "$MNT" | python3 -c 'import json, sys; print(json.load(sys.stdin)["scrub"]["state"])')" "done"
same "state in the file" "$(python3 -c 'import json, sys; print(json.load(sys.stdin)["state"])' <"$MNT/.arbor/scrub")" "done"

# The file itself: who may use it, and what it takes.
same "its mode" "$(stat -c %a "$MNT/.arbor/scrub")" 600
# With writeback the answer comes when the file is closed, and the shell does not look.
if [[ ",$MOUNT_OPTIONS," != *,cache=writeback,* ]]; then
	(echo nonsense >"$MNT/.arbor/scrub") 2>/dev/null && fail "nonsense was taken"
fi
(echo x >"$MNT/.arbor/status") 2>/dev/null && fail "the status was written to"
(rm "$MNT/.arbor/scrub") 2>/dev/null && fail "it was removed"
echo "start rate=1000" >"$MNT/.arbor/scrub"
status=0
arbor scrub "$MNT" 2>"$SCRATCH/said" || status=$?
same "a second one: status" $status 8
grep -q "a scrub is running" "$SCRATCH/said" || fail "a second one: $(cat "$SCRATCH/said")"
echo stop >"$MNT/.arbor/scrub"
arbor scrub --status "$MNT" >"$SCRATCH/said"
grep -q "^scrub stopped" "$SCRATCH/said" || fail "not stopped: $(cat "$SCRATCH/said")"
scrub 0 --resume

# Others than root and who has mounted it may not, though they see that it runs.
umount_fs
mount_fs "${MOUNT_OPTIONS:+$MOUNT_OPTIONS,}allow_other"
status=0
as_nobody "$(command -v arbor)" scrub "$MNT" >"$SCRATCH/nobody" 2>&1 || status=$?
same "as nobody ($(cat "$SCRATCH/nobody")): status" $status 8
grep -q "only root" "$SCRATCH/nobody" || fail "as nobody: $(cat "$SCRATCH/nobody")"
as_nobody "$(command -v arbor)" status --json "$MNT" | grep -q '"scrub"' || fail "nobody cannot see the status"

# A signal stops it; it goes on.
arbor scrub --rate=4K "$MNT" >"$SCRATCH/said" 2>&1 &
pid=$!
running()
{
	arbor scrub --status "$MNT" | grep -q "^scrub running"
}
within 10 running || fail "it does not run"
kill -INT $pid
status=0
wait $pid || status=$?
same "interrupted: status" $status 32
scrub 0 --resume

# While others write.
(
	cd "$MNT"
	while [ ! -e "$SCRATCH/enough" ]; do
		mkdir -p busy
		for i in $(seq 40); do
			head -c $((i * 3000)) /dev/zero >"busy/$i"
			mv "busy/$i" "busy/m$i"
		done
		sync -f busy
		rm -r busy
	done
) &
writer=$!
for i in $(seq "$(short_or_long 6 60)"); do
	scrub 0
done
touch "$SCRATCH/enough"
wait $writer

# Data: told by path, left alone, and read as an error.
umount_fs
mount_fs
same "blocks damaged" "$(damage "block 5 of the marked file ")" 1
same "blocks damaged" "$(damage "block 1 of the other one ")" 1
scrub 4
grep -q "^/dir/deep/marked file: bytes 20480 to 24575 do not verify" "$SCRATCH/said" || fail "not told: $(cat "$SCRATCH/said")"
grep -q "^/other: bytes 4096 to 8191 do not verify" "$SCRATCH/said" || fail "not told: $(cat "$SCRATCH/said")"
same "lines" "$(grep -c "do not verify, at" "$SCRATCH/said")" 2
cat "$MNT/other" >/dev/null 2>&1 && fail "damaged data was read"
scrub 4 --quiet
same "lines, quiet" "$(wc -l <"$SCRATCH/said")" 2
scrub 4 --json
same "in JSON" "$(python3 -c 'import json, sys; d = json.load(sys.stdin); print(d["blocks_bad"], len(d["bad"]))' <"$SCRATCH/said")" "2 2"
python3 -c '
for i in range(3):
    print(("block %d of the other one " % i).ljust(4095, "."))' >"$MNT/other"
rm "$MNT/dir/deep/marked file"
scrub 0

# The first copies of all nodes: each is mended, and everything is there.
umount_fs
mount_fs
nodes=$(damage nodes)
[ "$nodes" -gt 5 ] || fail "only $nodes nodes"
scrub 1
grep -q "bad copies of nodes" "$SCRATCH/said" || fail "not told: $(cat "$SCRATCH/said")"
scrub 0
diff -r "$TOP/tests/mount" "$MNT/copy" || fail "the files have changed"

# Both at once, and unmounting with a scrub under way.
python3 -c '
for i in range(3):
    print(("block %d of the third one " % i).ljust(4095, "."))' >"$MNT/third"
umount_fs
mount_fs
damage nodes >/dev/null
same "blocks damaged" "$(damage "block 0 of the third one ")" 1
scrub 5
rm "$MNT/third"
scrub 0
arbor scrub --rate=4K --background "$MNT"
umount_fs
mount_fs

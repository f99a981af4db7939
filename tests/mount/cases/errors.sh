# Whatever keeps it from mounting is said in one line that names it, with a status that is not 0.
# only: arbor
# mount: no
# time: 120 300

touch "$SCRATCH/no-fsck"

# refuses STATUS WHAT PATTERN COMMAND...: one line on stderr that matches. Statuses are mount(8)'s: 1 for how it was called and
# what is not permitted, 32 for a mount that failed.
refuses()
{
	local wanted=$1 what=$2 pattern=$3 status=0
	shift 3
	timeout 60 "$@" >"$SCRATCH/out" 2>"$SCRATCH/err" </dev/null || status=$?
	same "$what ($(cat "$SCRATCH/err")): status" $status "$wanted"
	same "$what: lines" "$(cat "$SCRATCH/err" "$SCRATCH/out" | wc -l) ($(cat "$SCRATCH/err" "$SCRATCH/out"))" \
		"1 ($(cat "$SCRATCH/err"))"
	grep -q -i -E -e "$pattern" "$SCRATCH/err" || fail "$what: $(cat "$SCRATCH/err")"
	echo "$what: $(cat "$SCRATCH/err")"
	! is_mounted || fail "$what: mounted"
}

make_fs 256M
refuses 32 "no image" "missing.*no such" mount.arbor "$SCRATCH/missing" "$MNT"
refuses 32 "a directory" "." mount.arbor "$SCRATCH" "$MNT"
: >"$SCRATCH/empty"
refuses 32 "an empty file" "empty" mount.arbor "$SCRATCH/empty" "$MNT"
head -c 64M /dev/urandom >"$SCRATCH/noise"
refuses 32 "not ours" "noise" mount.arbor "$SCRATCH/noise" "$MNT"
truncate -s 256M "$SCRATCH/zeros"
refuses 32 "zeros" "zeros" mount.arbor "$SCRATCH/zeros" "$MNT"
if command -v mkfs.ext4 >/dev/null; then
	mkfs.ext4 -q -F "$SCRATCH/zeros"
	refuses 32 "an ext4 image" "zeros" mount.arbor "$SCRATCH/zeros" "$MNT"
fi
head -c 100M "$IMG" >"$SCRATCH/short"
refuses 32 "cut off" "short" mount.arbor "$SCRATCH/short" "$MNT"
refuses 32 "no mount point" "no-such-dir.*no such" mount.arbor "$IMG" "$SCRATCH/no-such-dir"
mkdir "$SCRATCH/full"
touch "$SCRATCH/full/file"
refuses 32 "a mount point that is not empty" "full.*empty" mount.arbor "$IMG" "$SCRATCH/full"
refuses 32 "a file as mount point" "empty" mount.arbor "$IMG" "$SCRATCH/empty"
refuses 1 "no mount point given" "." mount.arbor "$IMG"
refuses 1 "an unknown option" "nonsense" mount.arbor -o nonsense=1 "$IMG" "$MNT"
refuses 1 "a bad value" "commit" mount.arbor -o commit=soon "$IMG" "$MNT"
refuses 1 "a bad choice" "cache" mount.arbor -o cache=maybe "$IMG" "$MNT"

# Damage: both superblocks; then everything but the superblocks.
cp --sparse=always "$IMG" "$SCRATCH/damaged"
dd if=/dev/urandom of="$SCRATCH/damaged" bs=4k count=32 conv=notrunc status=none
size=$(stat -c %s "$SCRATCH/damaged")
dd if=/dev/urandom of="$SCRATCH/damaged" bs=4k seek=$((size / 4096 - 32)) count=32 conv=notrunc status=none
refuses 32 "superblocks overwritten" "damaged" mount.arbor "$SCRATCH/damaged" "$MNT"

# The image is in use.
mkdir "$SCRATCH/other"
mount_fs
status=0
timeout 60 mount.arbor -f "$IMG" "$SCRATCH/other" >"$SCRATCH/out" 2>&1 || status=$?
[ $status -ne 0 ] && [ $status -ne 124 ] || fail "an image in use: status $status"
same "an image in use: lines" "$(wc -l <"$SCRATCH/out")" 1
grep -q -i -E 'use|lock|mounted' "$SCRATCH/out" || fail "an image in use: $(cat "$SCRATCH/out")"
mkfs.arbor "$IMG" >"$SCRATCH/out" 2>&1 && fail "mkfs of a mounted image works"
touch "$MNT/still-there"
umount_fs
mkfs.arbor "$IMG" >"$SCRATCH/out" 2>&1 && fail "mkfs over a filesystem works without being told to"

# Not writable: says so, or mounts read-only where that was asked for.
if [ "$(id -u)" = 0 ] && as_nobody true 2>/dev/null; then
	chmod 600 "$IMG"
	refuses 1 "an image of somebody else" "permission" "${NOBODY[@]}" "$ARBOR_BUILD/mount.arbor" "$IMG" "$MNT"
	chmod 644 "$IMG"
	refuses 1 "an image that may only be read" "permission|read-only" "${NOBODY[@]}" "$ARBOR_BUILD/mount.arbor" "$IMG" "$MNT"
	chmod 666 "$IMG"
	chmod 700 "$MNT"
	if [ ! -w /dev/fuse ] || ! as_nobody test -w /dev/fuse; then
		refuses 1 "a user without /dev/fuse" "." "${NOBODY[@]}" "$ARBOR_BUILD/mount.arbor" "$IMG" "$MNT"
	fi
	chmod 755 "$MNT"
fi
mount_fs
[ -e "$MNT/still-there" ] || fail "what was there is gone"
umount_fs
check_fs

# For cases about power cuts: programs on a daemon that is recorded, then what could be left of it.

: >"$SCRATCH/checks"
CLIENTS=
# In short runs not: the image's filesystem takes longer to give back thousands of blocks than all the rest does.
[ -z "$LONG" ] || MOUNT_OPTIONS=${MOUNT_OPTIONS:+$MOUNT_OPTIONS,}discard
KILLED=$SCRATCH/killed
export KILLED

# record [SIZE] [OPTIONS]: a fresh filesystem on the recording daemon
record()
{
	make_fs "${1:-512M}"
	cp --sparse=always "$IMG" "$SCRATCH/base"
	MOUNT_ARBOR=$PROGRAMS/mount.arbor-test ARBOR_TESTDEV_TRACE=$SCRATCH/trace mount_fs "${2:-$MOUNT_OPTIONS}"
}

# client KIND NAME COMMAND...: in the background, with its output in a file and what it notes as a check of powercut.py
client()
{
	echo "$1:$2:$SCRATCH/${2%%/*}.$1.log${TARBALL:+:$TARBALL}" >>"$SCRATCH/checks"
	shift 2
	"$@" >>"$SCRATCH/client.out" 2>&1 &
	CLIENTS="$CLIENTS $!"
}

# work SECONDS: that long, then they are killed, and the filesystem is unmounted
work()
{
	local pid
	cd /
	sleep "$1"
	for pid in $CLIENTS; do
		kill -0 "$pid" 2>/dev/null || {
			cat "$SCRATCH/client.out"
			fail "a client has ended by itself"
		}
	done
	touch "$KILLED"
	# Bash says of each that it was killed.
	# shellcheck disable=SC2086
	{
		kill -9 $CLIENTS
		wait $CLIENTS || true
	} 2>/dev/null
	umount_fs
}

# replay SECONDS: states by chance for so long, then some of them mounted for real
replay()
{
	local image before checks
	checks=$(cat "$SCRATCH/checks")
	# shellcheck disable=SC2086
	python3 "$TOP/tests/mount/powercut.py" replay "$SCRATCH/base" "$SCRATCH/trace" --seconds "$1" \
		--saved "$SCRATCH/saved" --save "$(short_or_long 2 20)" $checks || fail "a power cut"
	for image in "$SCRATCH"/saved.*.img; do
		[ -e "$image" ] || continue
		before=$(cat "${image%.img}.before")
		check_fs "$image" || fail "fsck of $image"
		mv "$image" "$IMG"
		mount_fs
		# shellcheck disable=SC2086
		python3 "$TOP/tests/mount/powercut.py" mounted "$MNT" "$before" $checks || fail "a power cut, mounted"
		umount_fs
		check_fs
	done
}

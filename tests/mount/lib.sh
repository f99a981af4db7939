# Functions for cases: mounting and unmounting whatever $FS says, and a few checks.

PATH=$ARBOR_BUILD:$PATH:/usr/sbin:/sbin
PROGRAMS=$ARBOR_BUILD/tests # the C programs of the cases

skip()
{
	echo "skip: $*"
	exit 77
}

fail()
{
	echo "FAILED: $*"
	exit 1
}

# short_or_long SHORT LONG: the value for this run
short_or_long()
{
	if [ -n "$LONG" ]; then echo "$2"; else echo "$1"; fi
}

# need PROGRAM...: skips the case where one is missing
need()
{
	local program
	for program; do
		command -v "$program" >/dev/null || skip "no $program"
	done
}

# within SECONDS COMMAND...: tries until it succeeds
within()
{
	local end=$((SECONDS + $1 * SLOWER))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.02
	done
}

# same WHAT GOT WANTED
same()
{
	[ "$2" = "$3" ] || fail "$1: $2, but should be $3"
}

# as_nobody COMMAND...: as a user without rights
NOBODY=(setpriv --reuid=65534 --regid=65534 --clear-groups)
as_nobody()
{
	"${NOBODY[@]}" "$@"
}

is_mounted()
{
	grep -q " $MNT " /proc/self/mountinfo
}

is_free()
{
	! is_mounted
}

# used_kib: what is in use in the mounted filesystem
used_kib()
{
	df -k --output=used "$MNT" | tail -n 1 | tr -d ' '
}

drop_caches()
{
	sync
	echo 3 2>/dev/null >/proc/sys/vm/drop_caches || true
}

make_fs()
{
	rm -f "$IMG"
	truncate -s "${1:-$IMAGE_SIZE}" "$IMG" || return 1
	case $FS in
	arbor) mkfs.arbor "$IMG" >"$SCRATCH/mkfs.log" 2>&1 ;;
	ext4) mkfs.ext4 -q -F "$IMG" >"$SCRATCH/mkfs.log" 2>&1 ;;
	*) "mkfs.$FS" -q -f "$IMG" >"$SCRATCH/mkfs.log" 2>&1 ;;
	esac || {
		cat "$SCRATCH/mkfs.log"
		return 1
	}
}

# start_daemon SOURCE [OPTIONS]: the daemon in the foreground of a shell that keeps its process id and status in files that are
# its own: one that ends late must not speak for the next.
start_daemon()
{
	local options=${2:-$MOUNT_OPTIONS}

	DAEMON=$(mktemp "$SCRATCH/daemon-XXXXXX")
	echo "$DAEMON" >"$SCRATCH/daemon"
	(
		cd /
		set +e
		bash -c 'echo $$ >"$0.pid"; exec "${MOUNT_ARBOR:-mount.arbor}" -f "$@"' "$DAEMON" ${options:+-o "$options"} "$1" "$MNT" \
			>>"$SCRATCH/daemon.log" 2>&1
		echo $? >"$DAEMON.status"
	) 2>/dev/null &
}

# daemon_pid, daemon_status: of the one started last, also by another shell
daemon_pid()
{
	cat "$(cat "$SCRATCH/daemon").pid"
}

daemon_status()
{
	cat "$(cat "$SCRATCH/daemon").status" 2>/dev/null
}

daemon_ended()
{
	[ -s "$(cat "$SCRATCH/daemon").status" ]
}

mounted_or_ended()
{
	is_mounted || daemon_ended
}

# mount_fs [OPTIONS]: instead of the usual ones
mount_fs()
{
	local options=${1:-$MOUNT_OPTIONS}

	if [ "$FS" != arbor ]; then
		mount -t "$FS" -o "loop${1:+,$1}" "$IMG" "$MNT" && mkdir -p "$MNT" && chmod 755 "$MNT"
		return
	fi
	start_daemon "$IMG" "$options"
	within 60 mounted_or_ended && is_mounted && return 0
	echo "mounting failed with status $(daemon_status || echo none):"
	tail -n 10 "$SCRATCH/daemon.log"
	return 1
}

# wait_daemon [STATUS]: until it has ended, and with this status
wait_daemon()
{
	local status

	[ -e "$SCRATCH/daemon" ] || return 0
	within 60 daemon_ended || {
		echo "the daemon does not end"
		return 1
	}
	status=$(daemon_status)
	[ "$status" = "${1:-0}" ] && return 0
	echo "the daemon ended with status $status:"
	tail -n 20 "$SCRATCH/daemon.log"
	return 1
}

try_umount()
{
	umount "$MNT" 2>"$SCRATCH/umount.log"
}

umount_fs()
{
	# Something may still have a file open for a moment, as processes end.
	within 5 try_umount || {
		cat "$SCRATCH/umount.log"
		return 1
	}
	wait_daemon
}

# kill_fs: the daemon, with no chance to do anything; then what is left of the mount
kill_fs()
{
	kill -9 "$(daemon_pid)"
	wait_daemon 137 || return 1
	within 5 umount -l "$MNT"
}

# check_fs [IMAGE]
check_fs()
{
	local image=${1:-$IMG}

	case $FS in
	arbor) fsck.arbor -n --data "$image" >"$SCRATCH/fsck.log" 2>&1 ;;
	ext4) e2fsck -fn "$image" >"$SCRATCH/fsck.log" 2>&1 ;;
	xfs) xfs_repair -n "$image" >"$SCRATCH/fsck.log" 2>&1 ;;
	btrfs) btrfs check "$image" >"$SCRATCH/fsck.log" 2>&1 ;;
	esac && return 0
	echo "fsck ended with status $?:"
	tail -n 30 "$SCRATCH/fsck.log"
	return 1
}

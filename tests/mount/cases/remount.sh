# Unmounting and mounting again at once, signals, read-only mounts, and two daemons that want one image.
# only: arbor
# size: 256M
# time: 60 600

for i in $(seq "$(short_or_long 15 200)"); do
	cd "$MNT"
	echo "$i" >>lines
	mkdir "d$i"
	cp -r "$TOP/tests/mount" "d$i/copy"
	cd /
	case $((i % 3)) in
	0)
		umount_fs
		mount_fs
		;;
	1)
		# The old daemon may still be at work: the new one waits for the image.
		within 5 umount "$MNT"
		old=$(daemon_pid)
		mount_fs
		[ "$(daemon_pid)" != "$old" ] || fail "no new daemon"
		;;
	2)
		kill -TERM "$(daemon_pid)"
		wait_daemon 0
		within 5 is_free || fail "still mounted after SIGTERM"
		mount_fs
		;;
	esac
	same "lines after $i rounds" "$(wc -l <"$MNT/lines")" "$i"
	[ -f "$MNT/d$i/copy/lib.sh" ] || fail "a file is missing"
done

# In use: not unmounted, and nothing lost.
cd "$MNT"
exec 5>open
umount "$MNT" 2>/dev/null && fail "unmounted with a file open"
echo here >&5
exec 5>&-
same "the file" "$(cat open)" here
# Someone takes the image meanwhile: one line, and the mounted one goes on.
mkdir "$SCRATCH/second"
status=0
timeout 60 mount.arbor -f "$IMG" "$SCRATCH/second" >"$SCRATCH/second.log" 2>&1 || status=$?
[ $status -ne 0 ] && [ $status -ne 124 ] || fail "a second daemon on the same image: status $status"
same "lines said" "$(wc -l <"$SCRATCH/second.log")" 1
fsck.arbor -n "$IMG" >/dev/null 2>&1 && fail "fsck of a mounted image said all is well"
echo more >>open

# Read-only: everything is there, nothing can be changed, and the image does not change by a byte.
cd /
umount_fs
sum=$(md5sum <"$IMG")
mount_fs ro
cd "$MNT"
same "the file, read-only" "$(cat open)" "here
more"
for command in 'echo x >new' 'echo x >>open' 'rm open' 'mkdir newdir' 'chmod 600 open' 'mv open other' 'ln open other' \
	'touch open' 'ln -s a b' 'truncate -s 0 open'; do
	(eval "$command") 2>"$SCRATCH/said" && fail "read-only, but works: $command"
	grep -q 'Read-only file system' "$SCRATCH/said" || fail "$command: $(cat "$SCRATCH/said")"
done
cd /
umount_fs
same "the image after a read-only mount" "$(md5sum <"$IMG")" "$sum"

# Read-only after a kill: the log is played back in memory only.
mount_fs
echo synced >"$MNT/synced"
sync -f "$MNT/synced"
python3 -c 'import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDONLY))' "$MNT/synced"
kill_fs
sum=$(md5sum <"$IMG")
mount_fs ro
same "the synced file" "$(cat "$MNT/synced")" synced
umount_fs
same "the image after a read-only mount with a log" "$(md5sum <"$IMG")" "$sum"
mount_fs
same "the synced file" "$(cat "$MNT/synced")" synced

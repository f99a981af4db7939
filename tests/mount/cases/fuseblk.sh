# On a block device: unmounting returns when all is on the device, sync works, and `mount -t arbor` and fstab find it.
# only: arbor
# mount: no
# root: yes
# needs: losetup mount

make_fs 512M
dev=$(losetup --show -f "$IMG") || skip "no loop device"
touch "$SCRATCH/no-fsck"
cp -r "$TOP/tests" "$SCRATCH/tree"

check_device()
{
	fsck.arbor -n --data "$dev" >"$SCRATCH/fsck.log" 2>&1 || fail "fsck: $(cat "$SCRATCH/fsck.log")"
}

for i in 1 2 3; do
	mount.arbor "$dev" "$MNT" ${MOUNT_OPTIONS:+-o "$MOUNT_OPTIONS"}
	findmnt -n -o FSTYPE "$MNT" | grep fuseblk || fail "not fuseblk: $(findmnt -n "$MNT")"
	cp -r "$SCRATCH/tree" "$MNT/copy$i"
	sync
	sync -f "$MNT"
	umount "$MNT"
	# At once: nothing is left to wait for.
	check_device
	mount.arbor "$dev" "$MNT" ${MOUNT_OPTIONS:+-o "$MOUNT_OPTIONS"}
	diff -r "$SCRATCH/tree" "$MNT/copy$i"
	umount "$MNT"
done

# sync(2) makes durable what was done before it.
mount.arbor -f "$dev" "$MNT" ${MOUNT_OPTIONS:+-o "$MOUNT_OPTIONS"} &
pid=$!
within 30 is_mounted
echo kept >"$MNT/kept"
sync
kill -9 $pid
wait $pid || true
umount -l "$MNT"
within 10 mount.arbor "$dev" "$MNT"
same "what was there at sync" "$(cat "$MNT/kept")" kept
umount "$MNT"

# As mount(8) and fstab use it, with files that only this namespace sees.
mkdir "$SCRATCH/sbin"
cp -a /sbin/. "$SCRATCH/sbin/" 2>/dev/null || true
ln -sf "$ARBOR_BUILD/mount.arbor" "$SCRATCH/sbin/mount.arbor"
ln -sf "$ARBOR_BUILD/fsck.arbor" "$SCRATCH/sbin/fsck.arbor"
mount --bind "$SCRATCH/sbin" "$(readlink -f /sbin)"
mount -t arbor "$dev" "$MNT"
is_mounted || fail "mount -t arbor"
umount "$MNT"
mount -t arbor -o ro,noatime,nodev,nosuid "$dev" "$MNT"
touch "$MNT/x" 2>/dev/null && fail "not read-only"
umount "$MNT"
echo "$dev $MNT arbor defaults,noatime,nofail,x-systemd.device-timeout=5 0 2" >"$SCRATCH/fstab"
touch /etc/fstab
mount --bind "$SCRATCH/fstab" /etc/fstab
mount "$MNT"
is_mounted || fail "mount by fstab"
findmnt -n "$MNT"
same "what was there" "$(cat "$MNT/kept")" kept
umount "$MNT"
mount -a -t arbor
is_mounted || fail "mount -a"
umount "$MNT"
fsck -t arbor -n "$dev" >"$SCRATCH/fsck.log" 2>&1 || fail "fsck by type: $(cat "$SCRATCH/fsck.log")"

# The image itself, as mount(8) would be told.
losetup -d "$dev"
mount -t arbor "$IMG" "$MNT"
is_mounted || fail "mount -t arbor of an image"
umount "$MNT"
within 30 check_fs

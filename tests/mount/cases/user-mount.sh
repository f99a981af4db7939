# A user without rights mounts an image of his own through fusermount3, works in it, and unmounts it.
# only: arbor
# mount: no
# root: yes
# needs: fusermount3 setpriv

[ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid"
[ "$(stat -c %a /dev/fuse)" = 666 ] || {
	# In this namespace only.
	mknod "$SCRATCH/fuse" c 10 229
	chmod 666 "$SCRATCH/fuse"
	mount --bind "$SCRATCH/fuse" /dev/fuse
	as_nobody sh -c ': <>/dev/fuse' 2>/dev/null || skip "no /dev/fuse for users"
}
chown 65534:65534 "$MNT" "$SCRATCH"
(
	cd "$SCRATCH"
	truncate -s 256M image
	chown 65534:65534 image
	as_nobody "$ARBOR_BUILD/mkfs.arbor" image >/dev/null
)
cp "$SCRATCH/image" "$IMG"
chown 65534:65534 "$IMG"

as_nobody mount.arbor "$IMG" "$MNT"
is_mounted || fail "not mounted"
as_nobody sh -c "cd '$MNT' && mkdir d && echo hello >d/file && ln d/file d/link && cat d/link && df . && ls -la"
cat "$MNT/d/file" 2>/dev/null && fail "root may look into a user's mount, which allow_other does not allow"
as_nobody fusermount3 -u "$MNT"
within 5 is_free || fail "still mounted"
within 30 as_nobody fsck.arbor -n --data "$IMG" >"$SCRATCH/fsck.log" 2>&1 || fail "fsck: $(cat "$SCRATCH/fsck.log")"

# The daemon ends when it is asked to, too.
as_nobody mount.arbor "$IMG" "$MNT"
same "the file" "$(as_nobody cat "$MNT/d/file")" hello
as_nobody fusermount3 -u "$MNT"
within 30 as_nobody fsck.arbor -n --data "$IMG" >"$SCRATCH/fsck.log" 2>&1

# A full filesystem: each operation works or says ENOSPC, what is there stays readable, and it can always be emptied.
# needs: python3
# size: 64M
# time: 90 900

rounds=$(short_or_long 4 60)
python3 "$TOP/tests/mount/full.py" "$MNT" "$rounds" "$SEED"
cd /
umount_fs
check_fs
mount_fs
cd "$MNT"

# Programs that know nothing of all this, in the same place.
for i in $(seq "$(short_or_long 2 20)"); do
	head -c 200M /dev/zero >big 2>/dev/null && fail "200 MiB fit into 64 MiB"
	cp -r "$TOP/tests" copy 2>/dev/null || true
	echo small >small 2>/dev/null || true
	rm -rf big copy small
	head -c 20M /dev/urandom >fits
	mv fits fits2
	rm fits2
done

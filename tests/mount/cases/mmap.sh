# Files written through shared mappings, by threads and processes, beside plain reads and writes.
# time: 60 600

[ -x "$PROGRAMS/mount_mmap" ] || skip "mount_mmap is not built"
rounds=$(short_or_long 3000 100000)
"$PROGRAMS/mount_mmap" run small 16 "$rounds" "$SEED" >"$SCRATCH/small"
"$PROGRAMS/mount_mmap" run large 2048 "$rounds" $((SEED + 1)) >"$SCRATCH/large"
for i in 1 2 3; do
	"$PROGRAMS/mount_mmap" run "file$i" 64 $((rounds / 2)) $((SEED + i)) >"$SCRATCH/file$i" &
done
for job in $(jobs -p); do
	wait "$job"
done
cd /
umount_fs
mount_fs
cd "$MNT"
for name in small large file1 file2 file3; do
	cmp "$name" "$SCRATCH/$name"
done

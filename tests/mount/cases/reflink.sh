# Copies that share their blocks: df does not move, and writing to one leaves the other alone.
# needs: cp python3
# only: arbor

head -c 64M /dev/urandom >a
sync -f .
before=$(used_kib)
cp --reflink=auto a b
cat >"$SCRATCH/copy.py" <<'END'
import os, sys
src, dst = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
left, at = os.fstat(src).st_size, 0
while left:
    n = os.copy_file_range(src, dst, left, at, at)
    assert n > 0
    left, at = left - n, at + n
END
python3 "$SCRATCH/copy.py" a c
cmp a b
cmp a c
grew=$(($(used_kib) - before))
[ $grew -lt 4096 ] || fail "copies of 64 MiB took $grew KiB"

sum=$(md5sum <a)
for i in 0 1000 4095 4096 100000 8388607 67108000; do
	printf 'changed' | dd of=b bs=1 seek="$i" conv=notrunc status=none
done
same "the original" "$(md5sum <a)" "$sum"
same "the other copy" "$(md5sum <c)" "$sum"
cmp -s a b && fail "the changed copy is as it was"
rm a
same "the other copy without the original" "$(md5sum <c)" "$sum"
truncate -s 1000001 c
python3 - <<'END'
import os
# Within one file, shifted by blocks and by bytes, beside a plain copy of what should come out.
data = os.urandom(1 << 20)
open("one", "wb").write(data)
fd = os.open("one", os.O_RDWR)
want = bytearray(data)
for src, dst, n in ((0, 524288, 262144), (4096, 300000, 100000), (17, 900001, 50000), (1048576 - 100, 1048576, 100)):
    done = 0
    while done < n:
        got = os.copy_file_range(fd, fd, n - done, src + done, dst + done)
        assert got > 0
        done += got
    piece = bytes(want[src:src + n])
    if dst + n > len(want):
        want.extend(bytes(dst + n - len(want)))
    want[dst:dst + n] = piece
assert open("one", "rb").read() == bytes(want)
END
cd /
umount_fs
mount_fs
cd "$MNT"
same "size after remounting" "$(stat -c %s c)" 1000001
rm b c one
sync -f .

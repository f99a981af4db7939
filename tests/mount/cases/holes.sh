# Sparse files: tar and cp keep holes; SEEK_HOLE, punched holes and fallocate agree with what is used.
# needs: tar cp fallocate python3

truncate -s 200M holes
for at in 0 17 90 150 199; do
	printf 'data at %d' "$at" | dd of=holes bs=1M seek="$at" conv=notrunc status=none
done
blocks=$(stat -c %b holes)
[ "$blocks" -le 200 ] || fail "$blocks sectors for five blocks"

tar --sparse -cf holes.tar holes
[ "$(stat -c %s holes.tar)" -lt 1000000 ] || fail "tar did not find the holes: $(stat -c %s holes.tar) bytes"
mkdir out
tar -xf holes.tar -C out
cmp holes out/holes
[ "$(stat -c %b out/holes)" -le 200 ] || fail "tar filled the holes"
cp --sparse=auto holes copied
cmp holes copied
[ "$(stat -c %b copied)" -le 200 ] || fail "cp filled the holes"

# fallocate takes room and keeps zeros, punching gives it back.
head -c 8M /dev/urandom >solid
cp solid solid2
fallocate -p -o 1M -l 2M solid
fallocate -z -o 4M -l 1M solid
# With cache=writeback everything is said to be data: what is dirty in the kernel is not known to the daemon.
case ,$MOUNT_OPTIONS, in
*,cache=writeback,*) seek= ;;
*) seek=yes ;;
esac
python3 - "$seek" <<'END'
import os, sys
fd = os.open("solid", os.O_RDWR)
want = bytearray(open("solid2", "rb").read())
want[1 << 20:3 << 20] = bytes(2 << 20)
want[4 << 20:5 << 20] = bytes(1 << 20)
assert os.pread(fd, 9 << 20, 0) == bytes(want), "content"
if not sys.argv[1]:
    sys.exit(0)
assert os.lseek(fd, 0, os.SEEK_HOLE) == 1 << 20, "first hole"
assert os.lseek(fd, 1 << 20, os.SEEK_DATA) == 3 << 20, "data after it"
assert os.lseek(fd, 5 << 20, os.SEEK_HOLE) == 8 << 20, "the hole at the end"
try:
    os.lseek(fd, 8 << 20, os.SEEK_DATA)
    assert False, "data behind the end"
except OSError as e:
    assert e.errno == 6, e
END
sync -f .
before=$(used_kib)
fallocate -l 100M claimed
[ $(($(used_kib) - before)) -ge 90000 ] || fail "fallocate took no room"
same "size of what is claimed" "$(stat -c %s claimed)" 104857600
cmp -n 1048576 claimed /dev/zero
fallocate -n -o 100M -l 10M claimed
same "size with -n" "$(stat -c %s claimed)" 104857600
truncate -s 0 claimed
within 20 eval '[ $(($(used_kib) - before)) -lt 20000 ]' || fail "truncating gave no room back"

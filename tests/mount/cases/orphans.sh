# Files without a name that someone still uses: they work, and their room comes back, at the last close and after a kill.
# needs: python3
# time: 60 300

start=$(used_kib)
python3 - <<'END'
import os
fds = []
for i in range(50):
    fd = os.open(f"f{i}", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes([i]) * 1000000)
    if i % 2:
        os.unlink(f"f{i}")
    else:
        # The name goes to another file.
        open("other", "w").close()
        os.rename("other", f"f{i}")
        os.unlink(f"f{i}")
    fds.append(fd)
fd = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600)
os.write(fd, b"x" * 100000)
fds.append(fd)
assert os.listdir(".") in ([], ["lost+found"]), os.listdir(".")
for i, fd in enumerate(fds[:50]):
    assert os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 2000000, 0) == bytes([i]) * 1000000
    os.ftruncate(fd, 500000)
    os.pwrite(fd, b"end", 1500000)
    assert os.fstat(fd).st_size == 1500003
os.link(f"/proc/self/fd/{fds[-1]}", "linked", src_dir_fd=fds[0], follow_symlinks=True)
END
same "the linked file" "$(stat -c '%s %h' linked)" "100000 1"
rm linked
came_back()
{
	[ $(($(used_kib) - start)) -lt 4096 ]
}
within 20 came_back || fail "$(($(used_kib) - start)) KiB did not come back after the last close"

# A directory removed while someone is in it.
mkdir gone
python3 - <<'END'
import os
os.chdir("gone")
fd = os.open(".", os.O_RDONLY)
os.rmdir("../gone")
assert os.listdir(fd) == []
try:
    open("new", "w")
    assert False, "a file made in a removed directory"
except FileNotFoundError:
    pass
END

[ "$FS" = arbor ] || exit 0
# Killed while files without names are open: mounting again gives their room back.
for i in $(seq "$(short_or_long 3 30)"); do
	cd "$MNT"
	python3 -c '
import os, sys, time
fds = []
for i in range(20):
    fd = os.open(f"f{i}", os.O_RDWR | os.O_CREAT)
    os.write(fd, os.urandom(1000000))
    os.unlink(f"f{i}")
    fds.append(fd)
big = os.open("big", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(big, 0, 300 << 20)
os.write(big, b"x" * (20 << 20))
os.fsync(big)
os.ftruncate(big, 5)
os.fsync(fd)
open(sys.argv[1], "w").close()
time.sleep(1000)
' "$SCRATCH/ready" &
	pid=$!
	within 30 test -e "$SCRATCH/ready" || fail "the program does not get ready"
	rm "$SCRATCH/ready"
	cd /
	kill_fs
	kill $pid
	wait $pid || true
	check_fs || fail "round $i: fsck"
	mount_fs
	same "the truncated file" "$(stat -c %s "$MNT/big")" 5
	rm "$MNT/big"
	within 20 came_back || fail "$(($(used_kib) - start)) KiB did not come back after a kill"
done

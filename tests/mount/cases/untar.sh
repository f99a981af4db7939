# Thousands of files through tar: written, compared warm and cold, counted, and removed again.
# needs: tar find du diff
# size: 4G
# time: 60 900

files=$(short_or_long 3000 30000)
find /usr/include /usr/share -xdev \( -type f -o -type l -o -type d \) -print0 2>/dev/null |
	head -z -n "$files" >"$SCRATCH/list"
# A user's namespace has no other owners.
owners=--numeric-owner
[ -n "$REAL_ROOT" ] || owners='--owner=0 --group=0'
(cd / && tar $owners --null --no-recursion -T "$SCRATCH/list" -cf "$SCRATCH/tree.tar" 2>/dev/null)

mkdir tree
tar -xpf "$SCRATCH/tree.tar" -C tree
tar -df "$SCRATCH/tree.tar" -C tree
before=$(cd tree && find . -printf '%p %y %s %m %u %g %l\n' | sort | md5sum)
size=$(du -sk tree | cut -f 1)
bytes=$(du -sb tree | cut -f 1)
[ $((size + 8192)) -gt $((bytes / 1024 / 2)) ] || fail "du says $size KiB for $bytes bytes"

cd /
umount_fs
mount_fs
cd "$MNT"
tar -df "$SCRATCH/tree.tar" -C tree
same "the tree after remounting" "$(cd tree && find . -printf '%p %y %s %m %u %g %l\n' | sort | md5sum)" "$before"

# A copy inside, and what the kernel knows dropped before it is read.
cp -a tree copy
drop_caches
diff -r --no-dereference tree copy
same "names in the copy" "$(find copy | wc -l)" "$(find tree | wc -l)"

rm -rf tree copy
same "what is left" "$(ls -A | grep -v -x lost+found || true)" ""

# rsync with everything it can keep: hard links, ACLs, attributes, holes, owners, times. A second run finds nothing to do.
# needs: rsync setfattr setfacl
# options: acl
# root: yes
# time: 60 300

src=$SCRATCH/src
mkdir "$src"
count=$(short_or_long 300 5000)
mkdir -p "$src/deep/a/b/c/d" "$src/empty"
for i in $(seq "$count"); do
	head -c $((i * 37 % 9000)) /dev/zero | tr '\0' "$(printf '\\%o' $((65 + i % 26)))" >"$src/f$i"
done
for i in $(seq 1 10 "$count"); do
	ln "$src/f$i" "$src/deep/a/link$i"
	ln -s "../f$i" "$src/deep/symlink$i"
	chown $((1000 + i)):$((2000 + i)) "$src/f$i"
	chmod $((i % 8))$((i % 7))4 "$src/f$i"
	touch -h -d "@$((1000000000 + i * 7919)).123456789" "$src/f$i"
done
truncate -s 10M "$src/sparse"
echo end >>"$src/sparse"
mkfifo "$src/fifo"
mknod "$src/null" c 1 3
chmod 4755 "$src/f1"
chmod 2770 "$src/empty"
for i in $(seq 2 20 "$count"); do
	setfattr -n user.number -v "value $i" "$src/f$i"
	setfattr -n user.long -v "$(head -c 2000 /dev/zero | tr '\0' x)" "$src/f$i"
	setfacl -m u:1234:rw,g:77:r "$src/f$i"
done
setfacl -d -m u:55:rwx,g::rx "$src/deep"
setfattr -n trusted.t -v secret "$src/f3"

rsync -aHAXS --numeric-ids "$src/" copy/
left=$(rsync -aHAXS --numeric-ids --checksum --itemize-changes -n --delete "$src/" copy/)
same "what rsync would still do" "$left" ""
drop_caches
cd /
umount_fs
mount_fs
cd "$MNT"
left=$(rsync -aHAXS --numeric-ids --checksum --itemize-changes -n --delete "$src/" copy/)
same "what rsync would still do after remounting" "$left" ""
[ "$(stat -c %b copy/sparse)" -lt 1000 ] || fail "the hole was filled"

# Changes, then again; and from here to here.
rm "$src"/f?
echo changed >"$src/f10"
mv "$src/deep/a" "$src/moved"
rsync -aHAXS --numeric-ids --delete "$src/" copy/
rsync -aHAXS --numeric-ids copy/ copy2/
same "from here to here" "$(rsync -aHAXS --numeric-ids --checksum --itemize-changes -n --delete "$src/" copy2/)" ""

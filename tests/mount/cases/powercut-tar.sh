# Power cuts while trees are unpacked, synced by one fsync of a directory, and removed: a tree that was synced is there to the last
# byte, because fsync of anything covers all before it.
# only: arbor
# mount: no
# needs: python3 tar
# time: 90 900

. "$TOP/tests/mount/powercut.sh"
acked="python3 $TOP/tests/mount/acked.py"
(cd "$TOP" && tar -cf "$SCRATCH/tree.tar" btree tests/kit)
record
mkdir "$MNT/trees" "$MNT/mail"
TARBALL=$SCRATCH/tree.tar
client tar trees $acked tar run "$MNT/trees" "$SCRATCH/trees.tar.log" "$TARBALL"
TARBALL=
client order mail $acked order run "$MNT/mail" "$SEED" "$SCRATCH/mail.order.log"
work "$(short_or_long 3 15)"
replay "$(short_or_long 8 300)"

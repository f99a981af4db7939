# Power cuts under sqlite in both journal modes: each row that a commit returned for is there, and the database is well.
# only: arbor
# mount: no
# needs: python3
# time: 90 900

. "$TOP/tests/mount/powercut.sh"
acked="python3 $TOP/tests/mount/acked.py"
record
mkdir "$MNT/delete" "$MNT/wal" "$MNT/mail"
client sqlite delete/rows.db $acked sqlite run "$MNT/delete/rows.db" "$SCRATCH/delete.sqlite.log" delete
client sqlite wal/rows.db $acked sqlite run "$MNT/wal/rows.db" "$SCRATCH/wal.sqlite.log" wal
client order mail $acked order run "$MNT/mail" "$SEED" "$SCRATCH/mail.order.log"
work "$(short_or_long 3 15)"
replay "$(short_or_long 8 300)"

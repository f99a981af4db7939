# Power cuts under a mail drop that syncs nothing: write, close, rename, numbered. Whenever the power goes, the mails that are
# there are the first so many, each whole.
# only: arbor
# mount: no
# needs: python3
# time: 90 900

. "$TOP/tests/mount/powercut.sh"
acked="python3 $TOP/tests/mount/acked.py"
record
mkdir "$MNT/mail"
client order mail $acked order run "$MNT/mail" "$SEED" "$SCRATCH/mail.order.log"
work "$(short_or_long 3 15)"
replay "$(short_or_long 8 300)"

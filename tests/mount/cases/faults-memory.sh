# The n-th allocation of the daemon fails under load, once or from then on for a while: requests fail, nothing else does.
# only: arbor
# mount: no
# needs: python3
# time: 90 3600

touch "$SCRATCH/no-fsck"
python3 "$TOP/tests/mount/faults.py" memory --seconds 10 $(short_or_long "" --all)

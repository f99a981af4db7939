# The same while the daemon mounts, and allocations that fail: it refuses with a line that says why, or it works.
# only: arbor
# mount: no
# needs: python3
# time: 90 3600

touch "$SCRATCH/no-fsck"
python3 "$TOP/tests/mount/faults.py" mount --seconds 6 $(short_or_long "" --all)

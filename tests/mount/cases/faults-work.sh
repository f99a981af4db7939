# I/O errors under load, one a round: the n-th read, write, flush or discard fails, once or from then on, with and without
# effect. --long tries every n.
# only: arbor
# mount: no
# needs: python3
# time: 90 3600

touch "$SCRATCH/no-fsck"
python3 "$TOP/tests/mount/faults.py" work --seconds 12 $(short_or_long "" --all)

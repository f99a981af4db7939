# The daemon stopped for seconds, a slow device, the image cut off, replaced and removed under the mount, a full host.
# only: arbor
# mount: no
# needs: python3
# time: 120 300

touch "$SCRATCH/no-fsck"
python3 "$TOP/tests/mount/faults_other.py"

# What POSIX and Linux say each call does, case by case.
# time: 120 300
# root: yes

[ -x "$PROGRAMS/mount_posix" ] || skip "mount_posix is not built"
"$PROGRAMS/mount_posix" "$MNT" >"$SCRATCH/posix.tap" || {
	grep -B 30 "^not ok" "$SCRATCH/posix.tap"
	fail "POSIX cases"
}
tail -n 1 "$SCRATCH/posix.tap"

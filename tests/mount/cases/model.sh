# Random operations by one process and by several threads, compared with a model of a filesystem after each.
# time: 90 1200
# root: yes

[ -x "$PROGRAMS/mount_model" ] || skip "mount_model is not built"
"$PROGRAMS/mount_model" "$MNT" --seed "$SEED" --rounds "$(short_or_long 2 40)" --steps "$(short_or_long 1200 5000)"
cd /
umount_fs
mount_fs
cd "$MNT"
# What a mount before has left behind is there, and can go.
ls -lR . >/dev/null
rm -rf ./model-* ./shared-*
same "names left" "$(ls -A | sed "/^lost+found$/d" | wc -l)" 0

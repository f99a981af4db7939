# One case from mkfs to fsck. Run by `run` as the first process of its namespaces: when it ends, all that it started ends.

. "$LIB"

# mkfs and mount
[ "$CASE_MOUNTS" = no ] || make_fs || exit 1
begin='cd "$SCRATCH"'
if [ "$CASE_MOUNTS" = yes ]; then
	mount_fs || exit 1
	begin='cd "$MNT"'
fi

# `bash -eu` with the functions, and with the commands of the case that fails in the log.
bash -euE -c '. "$LIB"; trap '\''echo "failed: line $LINENO: $BASH_COMMAND"'\'' ERR;'"$begin"'; . "$0"' "$1"
status=$?
[ $status -eq 77 ] && exit 77
[ $status -ne 0 ] && echo "the case ended with status $status"

# Also after a failure: what unmounting and fsck have to say helps to understand it.
if is_mounted; then
	umount_fs || status=1
fi
if [ -e "$IMG" ] && [ ! -e "$SCRATCH/no-fsck" ]; then
	check_fs || status=1
fi
if [ -s "$SCRATCH/daemon.log" ] && [ $status -ne 0 ]; then
	echo "the daemon said:"
	tail -n 30 "$SCRATCH/daemon.log"
fi
exit $status

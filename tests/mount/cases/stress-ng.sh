# The filesystem stressors of stress-ng that verify what they do and that work everywhere.
# needs: stress-ng
# root: yes
# time: 90 600

seconds=$(short_or_long 1 10)
list="chmod copy-file dentry dir fallocate flock fpunch getdent hdd link rename symlink unlink utime xattr"
[ -z "$LONG" ] || list="$list access chdir chown dirdeep dirmany dup eventfd fcntl fiemap file-ioctl filename fsize fstat full
	inotify io iomix lockf locka lockofd mknod open pipe readahead seek sendfile splice sync-file tee touch verity"
supported=$(stress-ng --class 'filesystem?' 2>&1 | sed 's/^class.*://')
bad=
for name in $list; do
	case " $supported " in
	*" $name "*) ;;
	*) continue ;;
	esac
	status=0
	timeout -k 5 $(((seconds + 20) * SLOWER)) stress-ng --seed "$SEED" --temp-path . --timeout "$seconds" --verify \
		--oomable --quiet "--$name" 2 >"$SCRATCH/stress.log" 2>&1 || status=$?
	case $status in
	0 | 4) ;; # 4: not implemented here
	*)
		echo "$name: status $status"
		tail -n 5 "$SCRATCH/stress.log"
		bad="$bad $name"
		;;
	esac
done
[ -z "$bad" ] || fail "stressors:$bad"

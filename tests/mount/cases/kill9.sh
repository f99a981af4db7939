# The daemon killed with -9 under load, again and again: it mounts again at once, fsck finds nothing, what was acknowledged by
# fsync is there, and what was not synced is there up to some moment and not beyond. ROUNDS=100 for more.
# only: arbor
# needs: python3 tar git sqlite3
# size: 4G
# time: 240 3600

acked="python3 $TOP/tests/mount/acked.py"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
rounds=${ROUNDS:-$(short_or_long 5 100)}
seconds=$(short_or_long 2 4)
(cd "$TOP" && tar -cf "$SCRATCH/tree.tar" tests btree wal)
: >"$SCRATCH/git.log"
for name in files delete wal; do
	: >"$SCRATCH/$name.log"
done
mkdir "$MNT/files" "$MNT/order"
git init -q "$MNT/repo"
git -C "$MNT/repo" config core.fsync all
git -C "$MNT/repo" commit -q --allow-empty -m first
sync -f "$MNT/repo"
python3 -c 'import os; os.fsync(os.open(".", 0))'

export KILLED=$SCRATCH/killed

# stopped WHAT: a program found an error, which is one if the daemon still lives
stopped()
{
	[ -e "$KILLED" ] || echo "$1" >>"$SCRATCH/failures"
}

# Commits, each remembered outside once it is durable: git syncs what a commit consists of, not the directory with its name.
committer()
{
	local i
	cd "$MNT/repo"
	for i in $(seq 100000); do
		if ! { echo "$1 $i" >"file$((i % 20))" && git add -A && git commit -q -m "$1 $i" &&
			git rev-parse HEAD >"$SCRATCH/head" && sync .git/refs/heads; }; then
			stopped "git commit"
			return
		fi
		cat "$SCRATCH/head" >>"$SCRATCH/git.log"
	done
}

# Trees come and go, for the load.
untarrer()
{
	local i
	cd "$MNT"
	for i in $(seq 100000); do
		if ! { mkdir "tree.$1.$i" && tar -xf "$SCRATCH/tree.tar" -C "tree.$1.$i" &&
			rm -rf "tree.$1.$((i - 1))"; }; then
			stopped tar
			return
		fi
	done
}

cd /
for round in $(seq "$rounds"); do
	rm -f "$KILLED"
	$acked files run "$MNT/files" "$SCRATCH/files.log" "$SEED" || stopped "synced files" &
	$acked sqlite run "$MNT/delete.db" "$SCRATCH/delete.log" delete || stopped "sqlite, delete" &
	$acked sqlite run "$MNT/wal.db" "$SCRATCH/wal.log" wal || stopped "sqlite, wal" &
	$acked order run "$MNT/order" "$SEED" || stopped "changes in order" &
	committer "$round" >"$SCRATCH/git.out" 2>&1 &
	untarrer "$round" >"$SCRATCH/tar.out" 2>&1 &
	# Not always after the same time, and now and then soon after mounting.
	sleep "$((RANDOM % (seconds * SLOWER))).$((RANDOM % 1000))"
	sleep 0.3
	touch "$KILLED"
	kill_fs
	wait
	if [ -e "$SCRATCH/failures" ]; then
		tail -n 3 "$SCRATCH/git.out" "$SCRATCH/tar.out"
		fail "round $round, before the kill: $(cat "$SCRATCH/failures")"
	fi
	check_fs || fail "round $round: fsck after the kill"
	mount_fs || fail "round $round: does not mount"
	# Sometimes recovery is cut off as well.
	if [ $((round % 3)) -eq 0 ]; then
		kill_fs
		mount_fs || fail "round $round: does not mount after a second kill"
	fi

	# Locks of a git that was cut off are its own affair.
	find "$MNT/repo/.git" -name '*.lock' -delete
	$acked files check "$MNT/files" "$SCRATCH/files.log" || fail "round $round: synced files"
	$acked order check "$MNT/order" || fail "round $round: order"
	for mode in delete wal; do
		$acked sqlite check "$MNT/$mode.db" "$SCRATCH/$mode.log" || fail "round $round: rows in mode $mode"
	done
	git -C "$MNT/repo" fsck --no-progress --no-dangling 2>&1 || fail "round $round: git fsck"
	last=$(tail -n 1 "$SCRATCH/git.log")
	if [ -n "$last" ]; then
		git -C "$MNT/repo" merge-base --is-ancestor "$last" HEAD || fail "round $round: commit $last is gone"
	fi
	rm -rf "$MNT"/tree.*
done
wc -l <"$SCRATCH/git.log"

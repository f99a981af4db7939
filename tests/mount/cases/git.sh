# A repository cloned, worked in, repacked, and checked after each step.
# needs: git
# time: 60 300

export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git config --global --add safe.directory '*'
if ! git -C "$TOP" rev-parse -q --verify HEAD >/dev/null 2>&1; then
	# Not in a checkout: some repository will do.
	git init -q "$SCRATCH/origin"
	cp -r "$TOP/tests" "$SCRATCH/origin/"
	git -C "$SCRATCH/origin" add -A
	git -C "$SCRATCH/origin" commit -q -m first
	TOP=$SCRATCH/origin
fi

git clone -q --no-local "$TOP" clone
cd clone
git fsck --strict --no-progress
git status --porcelain | { ! grep .; }
for i in $(seq "$(short_or_long 20 300)"); do
	echo "$i" >"file$((i % 7))"
	git add -A
	git commit -q -m "commit $i"
	[ $((i % 5)) -ne 0 ] || git branch "branch$i"
done
git checkout -q -b other HEAD~5
echo other >other
git add other
git commit -q -m other
git merge -q -m merge - >/dev/null
git stash list >/dev/null
git -c gc.pruneExpire=now gc -q --aggressive
git fsck --strict --no-progress
git clone -q . ../again
diff -r -x .git . ../again
git worktree add -q ../work branch5
git -C ../work status --porcelain | { ! grep .; }
cd "$MNT"
drop_caches
git -C clone fsck --strict --no-progress
rm -rf clone work
git -C again log --oneline | wc -l

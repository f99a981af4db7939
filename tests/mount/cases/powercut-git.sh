# Power cuts under git: each commit that was synced is there, and git fsck finds nothing.
# only: arbor
# mount: no
# needs: python3 git
# time: 90 900

. "$TOP/tests/mount/powercut.sh"
acked="python3 $TOP/tests/mount/acked.py"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
record
mkdir "$MNT/mail"
git init -q "$MNT/repo"
git -C "$MNT/repo" config core.fsync all
git -C "$MNT/repo" config gc.auto 0
git -C "$MNT/repo" commit -q --allow-empty -m first
client git repo $acked git run "$MNT/repo" "$SCRATCH/repo.git.log"
client order mail $acked order run "$MNT/mail" "$SEED" "$SCRATCH/mail.order.log"
work "$(short_or_long 4 15)"
replay "$(short_or_long 8 300)"

#!/bin/bash
#
# tools.sh - what the tools say and how they end, in each case somebody will meet
#
#	tools.sh BUILD-DIRECTORY IMAGE-HELPER
#
# Nothing is mounted, so it runs anywhere. Prints TAP. Works in a directory of its own that it removes.

set -u
bin=$(readlink -f "$1")
image=$(readlink -f "$2")
export LC_ALL=C

dir=$(mktemp -d "${TMPDIR:-/tmp}/arbor-tools-XXXXXX") || exit 1
holder=
cleanup()
{
	[ -n "$holder" ] && kill "$holder" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir" || exit 1

n=0
bad=0

# report <ok?> <name>
report()
{
	n=$((n + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		bad=$((bad + 1))
		sed 's/^/# /' out
	fi
}

skip()
{
	n=$((n + 1))
	echo "ok $n - $1 # SKIP $2"
}

# expect <name> <exit status> <extended regular expression, or ''> <command> [argument]...
# The expression must match what comes out, on either stream; with '' nothing may come out.
expect()
{
	local name=$1 want=$2 pattern=$3 status=0
	shift 3

	"$@" >out 2>&1 </dev/null
	status=$?
	echo "(exit status $status, wanted $want; pattern: $pattern)" >>out
	if [ "$status" -ne "$want" ]; then
		report 1 "$name"
	elif [ -z "$pattern" ]; then
		[ "$(wc -l <out)" -eq 1 ]
		report $? "$name"
	else
		sed '$d' out | grep -Eq -e "$pattern"
		report $? "$name"
	fi
}

# one_line <name>: the last expect put out one line.
one_line()
{
	[ "$(wc -l <out)" -eq 2 ]
	report $? "$1"
}

mkfs=$bin/mkfs.arbor
fsck=$bin/fsck.arbor
arbor=$bin/arbor

# new <file> [option]...: a small image
new()
{
	local file=$1
	shift
	rm -f "$file"
	"$mkfs" -q --size 16M --log-size 1M "$@" "$file" || echo "# mkfs of $file failed"
}

# ---- mkfs ----

uuid=01234567-89ab-cdef-8123-456789abcdef
expect "mkfs makes an image and says what" 0 "uuid +$uuid" "$mkfs" --size 64M -L 'my data' -U $uuid a.img
expect "the label and the uuid are found again" 0 'label +my data' "$arbor" status a.img
expect "in JSON too" 0 "\"uuid\": \"$uuid\"" "$arbor" status --json a.img
expect "an image that was just made is clean" 0 'clean, 1 inodes' "$fsck" a.img
[ "$(stat -c %s a.img)" -eq $((64 << 20)) ]
report $? "the image has the size that was asked for"
expect "mkfs refuses what holds a filesystem" 1 'holds an ArborFS filesystem; use -f' "$mkfs" a.img
one_line "in one line"
expect "mkfs -f overwrites it" 0 '' "$mkfs" -qf -L other a.img
expect "with a new label" 0 'label +other' "$arbor" status a.img
expect "mkfs -n shows what it would make" 0 'nothing was written' "$mkfs" -nf -L third a.img
expect "and makes nothing" 0 'label +other' "$arbor" status a.img
expect "mkfs -n of an image that is not there" 0 'size +1 GiB' "$mkfs" -n --size 1G nothing.img
[ ! -e nothing.img ]
report $? "does not make it"
expect "mkfs of an image that is not there wants a size" 1 'no such file.*--size' "$mkfs" nothing.img
truncate -s 8M grow.img
expect "mkfs makes an image larger" 0 'size +32 MiB' "$mkfs" --size 32M grow.img
[ "$(stat -c %s grow.img)" -eq $((32 << 20)) ]
report $? "and so is the file"
expect "mkfs uses a part of a larger file" 0 'size +16 MiB' "$mkfs" -f --size 16M grow.img
[ "$(stat -c %s grow.img)" -eq $((32 << 20)) ]
report $? "which keeps its size"
expect "an image that cannot be made is not left behind" 1 'too small' "$mkfs" --size 64K small.img
[ ! -e small.img ]
report $? "no file is there"
truncate -s 64K small.img
expect "a file that is too small" 1 'too small' "$mkfs" small.img
expect "and one that is to grow to what is too small" 1 'too small' "$mkfs" --size 128K small.img
[ "$(stat -c %s small.img)" -eq $((64 << 10)) ]
report $? "has its old size again"
expect "no copies" 0 'one copy of each node' "$mkfs" --size 16M --no-copies one.img
expect "small nodes" 0 'node size +4 KiB, two copies' "$mkfs" -f --node-size 4K one.img
expect "the largest nodes" 0 'node size +32 KiB' "$mkfs" -f --node-size=32768 one.img
expect "a log of one's own size" 0 'log +2 MiB' "$mkfs" -f --log-size 2M one.img
expect "owner of the root by number" 0 '' "$mkfs" -qf --root-owner 12:34 one.img
expect "and by name" 0 '' "$mkfs" -qf --root-owner root one.img
expect "a directory is no device" 1 'neither a block device nor a regular file' "$mkfs" .
expect "a directory that is not there" 1 'no/where.img: cannot be made: No such' "$mkfs" --size 16M no/where.img

mkfs_refuses()
{
	expect "mkfs refuses $1" 1 "$2" "$mkfs" "${@:3}"
	one_line "in one line: $1"
}
mkfs_refuses "no device" 'which device'
mkfs_refuses "two devices" 'more than one device: .b.img' a.img b.img
mkfs_refuses "a size that is none" 'not a size' --size 10X a.img
mkfs_refuses "a negative size" 'not a size' --size=-5 a.img
mkfs_refuses "a size of 0" 'more than 0' --size 0 a.img
mkfs_refuses "a size that is too large" 'too large' --size 9999999T a.img
mkfs_refuses "an odd node size" 'must be 4K' --node-size 5000 a.img
mkfs_refuses "a node size of 64K" 'must be 4K' --node-size 64K a.img
mkfs_refuses "an odd log size" 'multiple of 4K' --log-size 12345 a.img
mkfs_refuses "a long label" 'at most 64' -L "$(printf '%065d' 0)" a.img
mkfs_refuses "a label with a newline" 'control characters' -L "$(printf 'a\nb')" a.img
mkfs_refuses "a bad uuid" 'neither' -U 1234 a.img
mkfs_refuses "a zero uuid" 'all zero' -U 00000000-0000-0000-0000-000000000000 a.img
mkfs_refuses "an unknown user" 'there is no user' --root-owner no-such-user-here a.img
mkfs_refuses "an unknown group" 'there is no group' --root-owner 0:no-such-group-here a.img
expect "mkfs refuses an unknown option" 1 'unrecognized option.*--frobnicate' "$mkfs" --frobnicate a.img
expect "a log that does not fit" 1 'log' "$mkfs" -f --size 16M --log-size 12M one.img
expect "mkfs --help" 0 '^Usage: mkfs.arbor' "$mkfs" --help
expect "mkfs --version" 0 '^mkfs.arbor .ArborFS. [0-9]' "$mkfs" --version
if [ -w /dev/full ]; then
	"$fsck" a.img >/dev/full 2>out
	[ $? -eq 8 ]
	report $? "fsck notices that its output is lost"
fi

# ---- what is not ours ----

head -c 16M /dev/urandom >random.img
expect "fsck: a missing image" 8 'missing.img: no such file or device' "$fsck" missing.img
one_line "in one line: a missing image"
expect "status: a missing image" 1 'missing.img: No such file' "$arbor" status missing.img
expect "fsck: random bytes" 8 'not an ArborFS filesystem' "$fsck" random.img
one_line "in one line: random bytes"
expect "status: random bytes" 1 'not an ArborFS filesystem' "$arbor" status random.img
: >empty.img
expect "fsck: an empty file" 8 'not an ArborFS filesystem' "$fsck" empty.img
expect "fsck: a directory" 8 'neither a block device nor' "$fsck" .
if command -v mkfs.ext4 >/dev/null; then
	truncate -s 16M ext4.img
	mkfs.ext4 -q -F ext4.img 2>/dev/null
	expect "fsck: another filesystem is named" 8 'it holds an ext4 filesystem' "$fsck" ext4.img
	expect "mkfs: another filesystem is not overwritten" 1 'holds an ext4 filesystem; use -f' "$mkfs" ext4.img
	expect "but with -f" 0 '' "$mkfs" -qf --log-size 1M ext4.img
	if command -v blkid >/dev/null; then
		expect "its signature is gone" 2 '' blkid -p ext4.img
	fi
else
	skip "another filesystem" "no mkfs.ext4"
fi

# ---- damage ----

new new.img
"$image" poke new.img 0 16 2
expect "fsck: a newer format" 8 'made by a newer version.*version 2' "$fsck" new.img
one_line "in one line: a newer format"
expect "status: a newer format" 1 'made by a newer version' "$arbor" status new.img
expect "mkfs: a newer format is not overwritten" 1 'holds an ArborFS' "$mkfs" new.img
new feature.img
"$image" poke feature.img 1 136 0x400
expect "status: an impossible field in a superblock" 0 'damaged|not mounted' "$arbor" status feature.img
new feature.img
"$image" poke feature.img 0 128 0x401
expect "fsck: an unknown feature" 8 'made by a newer version.*0x400' "$fsck" feature.img
new cut.img
truncate -s 12M cut.img
expect "fsck: an image cut short" 4 'cut off: .*4096 blocks.*3072' "$fsck" cut.img
one_line "in one line: an image cut short"

new slot.img
dd if=/dev/zero of=slot.img bs=1 seek=100 count=8 conv=notrunc status=none
printf x | dd of=slot.img bs=1 seek=100 conv=notrunc status=none
expect "fsck -n: one damaged superblock is a problem" 4 'one superblock is damaged' "$fsck" -n slot.img
cp slot.img slot2.img
expect "fsck --plan says what it would do" 4 'would write it anew .problem 30' "$fsck" --plan slot.img
cmp -s slot.img slot2.img
report $? "and does nothing"
expect "fsck: it is written anew" 1 'one superblock is damaged: write it anew .problem 30' "$fsck" slot.img
expect "and that is that" 0 'clean' "$fsck" -n slot.img
new slots.img
new data-less.img
printf x | dd of=slots.img bs=1 seek=100 conv=notrunc status=none
printf x | dd of=slots.img bs=1 seek=$((65536 + 100)) conv=notrunc status=none
expect "fsck: both superblocks are damaged" 4 'both superblocks are damaged.*--salvage' "$fsck" slots.img
one_line "in one line: both superblocks"
expect "fsck -y: nor are they made up without being asked" 4 'both superblocks are damaged.*--salvage' "$fsck" -y slots.img
expect "mkfs: they are not overwritten either" 1 'holds an ArborFS' "$mkfs" slots.img
cp slots.img slots2.img
expect "fsck --salvage makes them anew" 1 'write it anew .problem 30' "$fsck" -y --salvage --undo-file=undo slots.img
expect "and the filesystem is whole" 0 'clean, 1 inodes' "$fsck" -n slots.img
expect "an undo file is not overwritten" 8 'undo: is there already' "$fsck" -y --salvage --undo-file=undo slots2.img
expect "fsck --undo refuses another filesystem" 8 'cannot be put back' "$fsck" --undo=undo data-less.img
expect "fsck --undo puts everything back" 1 'blocks put back' "$fsck" --undo=undo slots.img
cmp -s slots.img slots2.img
report $? "every byte of it"
expect "twice is as good" 1 'blocks put back' "$fsck" --undo=undo slots.img
expect "a file that is none" 8 'cannot be put back' "$fsck" --undo=slot.img slots.img

new dirty.img
if "$image" dirty dirty.img 2>out; then
	cp dirty.img dirty2.img
	cp dirty.img before.img
	cp dirty.img torn.img
	expect "fsck -n replays the log in memory" 0 'clean, 4 inodes' "$fsck" -n --data dirty.img
	cmp -s before.img dirty.img
	report $? "and writes nothing"
	expect "status says that it was not unmounted" 0 'to be recovered' "$arbor" status dirty.img
	expect "fsck recovers" 0 'recovered from the log' "$fsck" dirty.img
	expect "and says so once" 0 'clean, not checked' "$fsck" -p dirty.img
	expect "fsck -p recovers" 0 'recovered from the log' "$fsck" -p dirty2.img
	expect "fsck -p -f checks all the same" 0 'clean, 4 inodes' "$fsck" -p -f dirty2.img
	# The first of two segments: the second says that it had become durable.
	start=$(od -An -tu8 -j144 -N8 torn.img)
	block=$(od -An -tu8 -j288 -N8 torn.img)
	printf x | dd of=torn.img bs=1 seek=$(((start + block) * 4096 + 100)) conv=notrunc status=none
	expect "fsck -n: a hole in the log" 4 'the log is damaged' "$fsck" -n torn.img
	cp torn.img torn2.img
	expect "fsck: it is not passed over silently" 4 'the log is damaged: 4 operations.*problem 31' "$fsck" torn.img
	expect "fsck: somebody must be there to be asked" 4 'needs a terminal' "$fsck" torn.img
	expect "fsck -p: nor at boot" 4 'run fsck.arbor without -p' "$fsck" -p torn.img
	cmp -s torn.img torn2.img
	report $? "nothing is written by any of these"
	expect "fsck -y says how much is lost" 1 '4 operations .*: give them up' "$fsck" -y --lost-file=lost torn2.img
	expect "and the list of losses has it" 0 '4 operations or more' cat lost
	expect "a list of losses is not overwritten" 8 'lost: the list of losses cannot be written' \
		"$fsck" -y --lost-file=lost -f torn.img
	cp before.img torn.img
	printf x | dd of=torn.img bs=1 seek=$(((start + block) * 4096 + 100)) conv=notrunc status=none
	expect "fsck --drop-damaged-log passes over it" 1 'give them up' "$fsck" --drop-damaged-log torn.img
	expect "and that is the end of it" 0 'clean, 1 inodes' "$fsck" -n --data torn.img
else
	report 1 "an image that was not unmounted"
fi
new data.img
if "$image" fill data.img 2>out; then
	expect "fsck --data reads the content" 0 'clean' "$fsck" --data data.img
	# The log, in front, has a copy of its own.
	at=$(grep -abo -F "$(printf 'd%.0s' {1..4096})" data.img | tail -n 1 | cut -d: -f1)
	printf D | dd of=data.img bs=1 seek=$((at + 5)) conv=notrunc status=none
	expect "fsck does not read data unless asked" 0 'clean' "$fsck" data.img
	expect "fsck --data finds a bad block and names the file" 4 '^/dir/file: ' "$fsck" --data data.img
	expect "and counts it" 4 'data.img: 1 problem; not repaired' "$fsck" --data -n -q data.img
	expect "fsck -p does not give it up" 4 'run fsck.arbor without -p' "$fsck" --data -p -f data.img
	cp data.img data2.img
	expect "fsck --plan would" 4 '^/dir/file: .*: would give up' "$fsck" --plan --data data.img
	cmp -s data.img data2.img
	report $? "and gives up nothing"
	if command -v script >/dev/null; then
		printf 'n\n' | script -qec "$fsck --data data.img" typed >/dev/null
		expect "fsck asks what to do" 0 'give up .*\? \[Y\]es, \[n\]o, \[a\]ll' cat typed
		expect "and no leaves it" 4 '1 problem; not repaired' "$fsck" -n --data data.img
		printf 'y\n' | script -qec "$fsck --data data.img" typed >/dev/null
		expect "yes does it" 0 '1 problem repaired' cat typed
	else
		skip "questions" "no script(1)"
		cp data2.img data.img
		expect "fsck -y does it" 1 '1 problem repaired' "$fsck" -y --data data.img
	fi
	expect "what was given up is no problem any more" 0 '1 blocks of files were lost' "$fsck" --data data.img
else
	report 1 "an image with a file"
fi
new wiped.img --no-copies
head -c $((12 << 20)) /dev/urandom | dd of=wiped.img bs=64K seek=20 conv=notrunc status=none
expect "fsck: the tree is gone" 4 'wiped.img: ' "$fsck" wiped.img
expect "fsck -n: the tree is gone" 4 'wiped.img: ' "$fsck" -n wiped.img

# ---- in use, not to be written ----

new held.img
coproc { exec "$image" hold held.img; }
holder=$COPROC_PID
read -r -t 20 line <&"${COPROC[0]}"
[ "$line" = held ]
report $? "an image is held"
expect "fsck names who holds it" 8 "in use by pid $holder .tools_image" "$fsck" held.img
expect "fsck -n too" 8 "in use by pid $holder" "$fsck" -n held.img
expect "mkfs -f keeps off" 1 "in use by pid $holder" "$mkfs" -f held.img
one_line "in one line: in use"
expect "status looks all the same" 0 "in use by +pid $holder" "$arbor" status held.img
kill "$holder"
wait "$holder" 2>/dev/null
holder=
expect "afterwards it is free" 0 'clean' "$fsck" held.img

new readonly.img
chmod 444 readonly.img
chmod 755 .
if [ "$(id -u)" -ne 0 ]; then
	run=()
elif command -v setpriv >/dev/null && setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$fsck"; then
	run=(setpriv --reuid=65534 --regid=65534 --clear-groups)
else
	run=(false)
fi
if [ "${run[0]-}" != false ]; then
	expect "mkfs: no permission" 1 'no permission to write' "${run[@]}" "$mkfs" -f readonly.img
	expect "fsck: reading is enough for a clean one" 0 'clean' "${run[@]}" "$fsck" readonly.img
	"$image" dirty readonly.img
	expect "fsck: recovery is not to be had" 8 'no permission to write' "${run[@]}" "$fsck" readonly.img
	expect "fsck -n: but looking is" 0 'clean' "${run[@]}" "$fsck" -n readonly.img
	chmod 0 readonly.img
	expect "fsck: not even reading" 8 'no permission to read' "${run[@]}" "$fsck" readonly.img
else
	skip "a file that may not be written" "needs an ordinary user"
fi

# ---- fsck's and arbor's own command lines ----

fsck_refuses()
{
	expect "fsck refuses $1" 16 "$2" "$fsck" "${@:3}"
	one_line "in one line: fsck, $1"
}
fsck_refuses "no device" 'which device'
fsck_refuses "two devices" 'more than one device' a.img one.img
fsck_refuses "-n with -y" 'only one of' -n -y a.img
fsck_refuses "-p with -n" 'only one of' -p -n a.img
fsck_refuses "threads that are none" 'from 1 to 64' --threads=many a.img
fsck_refuses "no threads" 'from 1 to 64' --threads=0 a.img
fsck_refuses "a descriptor that is none" 'not a file descriptor' -Cx a.img
fsck_refuses "a descriptor that is not open" 'no such file descriptor' -C77 a.img
fsck_refuses "-n with --drop-damaged-log" 'exclude' -n --drop-damaged-log a.img
fsck_refuses "-n with --plan" 'writes nothing' -n --plan a.img
fsck_refuses "--undo-file with --plan" '--undo-file is for repairs' --undo-file=u --plan a.img
fsck_refuses "--undo with -y" '--undo goes with no other' --undo=u -y a.img
expect "fsck refuses an unknown option" 16 'invalid option' "$fsck" -Z a.img
expect "fsck --help says what a repair is" 0 'each repair is a question' "$fsck" --help
expect "fsck --version" 0 '^fsck.arbor .ArborFS. [0-9]' "$fsck" -V
expect "fsck -q says nothing of a clean one" 0 '' "$fsck" -q a.img
expect "fsck -C 0 without a terminal draws nothing" 0 '^a.img: clean' "$fsck" -C 0 a.img
expect "fsck -C 1 tells how far it is" 0 '^1 [0-9]+ [0-9]+ a.img$' "$fsck" -C 1 a.img
expect "fsck -v counts" 0 'nodes with' "$fsck" -v a.img
expect "fsck -y" 0 'clean' "$fsck" -y a.img
expect "fsck -a" 0 'not checked' "$fsck" -a a.img
expect "arbor alone shows its commands" 2 'status +what' "$arbor"
expect "arbor help" 0 'status +what' "$arbor" help
expect "arbor help status" 0 'Usage: arbor status' "$arbor" help status
expect "arbor help of nothing" 2 'there is no command' "$arbor" help nothing
expect "arbor with an unknown command" 2 'there is no command .frob' "$arbor" frob
expect "arbor --version" 0 '^arbor .ArborFS. [0-9]' "$arbor" --version
expect "arbor status of two" 2 'more than one path' "$arbor" status a.img one.img
expect "arbor status with an unknown option" 2 'unrecognized option' "$arbor" status --frob
expect "arbor status of a directory elsewhere" 1 'not on an ArborFS filesystem' "$arbor" status /proc
expect "arbor help scrub" 0 'Usage: arbor scrub' "$arbor" help scrub
expect "arbor scrub of nothing" 16 'a mount point is missing' "$arbor" scrub
expect "arbor scrub with a rate that is none" 16 'is no size' "$arbor" scrub --rate=fast /proc
expect "arbor scrub with a rate that never ends" 16 "would never end" "$arbor" scrub --rate=500 /proc
expect "arbor scrub, both to stop and to show" 16 'exclude each other' "$arbor" scrub --stop --status /proc
expect "arbor scrub of a directory elsewhere" 8 'not on a mounted ArborFS' "$arbor" scrub /proc
expect "arbor status --json of all" 0 '^\[' "$arbor" status --json
if command -v python3 >/dev/null; then
	"$arbor" status --json a.img | python3 -c 'import json, sys; s = json.load(sys.stdin); sys.exit(s["mounted"] or s["space"]["size"] != 64 << 20)' >out 2>&1
	report $? "JSON that others can read"
	new latin.img -L "$(printf 'gr\374n')"
	"$arbor" status --json latin.img | python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)["label"] != "gr?n")' >out 2>&1
	report $? "a label that is not UTF-8"
fi

echo "1..$n"
[ "$bad" -eq 0 ]

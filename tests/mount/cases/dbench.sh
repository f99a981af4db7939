# The file operations of an office server.
# needs: dbench
# time: 60 300

loads=
for path in /usr/share/dbench/client.txt /usr/share/dbench/loadfiles/client.txt /usr/share/dbench; do
	[ -f "$path" ] && loads=$path
done
[ -n "$loads" ] || skip "dbench has no load file"
dbench -c "$loads" -D . -t "$(short_or_long 4 60)" "$(short_or_long 2 4)" >"$SCRATCH/dbench.log" 2>&1 || {
	tail -n 20 "$SCRATCH/dbench.log"
	fail dbench
}
grep -i -E 'error|failed|unexpected' "$SCRATCH/dbench.log" | grep -v semaphore && fail "dbench met errors"
tail -n 1 "$SCRATCH/dbench.log"

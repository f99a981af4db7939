# A database in each journal mode: transactions, a writer killed in the middle, integrity.
# needs: sqlite3
# time: 60 300

rows=$(short_or_long 2000 50000)
for mode in delete truncate persist wal; do
	db=$mode.db
	sqlite3 "$db" "pragma journal_mode=$mode; create table t(id integer primary key, name text, body blob);
		create index i on t(name);" >/dev/null

	# Ten transactions and many single commits.
	for part in 1 2 3 4 5 6 7 8 9 10; do
		sqlite3 "$db" "begin; with recursive n(x) as (select 1 union all select x + 1 from n where x < $rows / 10)
			insert into t(name, body) select 'n' || (x * 7919 % 1000), randomblob(x % 700) from n; commit;"
	done
	for i in $(seq "$(short_or_long 30 300)"); do
		echo "insert into t(name, body) values ('single $i', zeroblob($i));"
	done | sqlite3 "$db"
	same "rows with $mode" "$(sqlite3 "$db" 'select count(*) from t')" $((rows / 10 * 10 + $(short_or_long 30 300)))

	# A writer that dies inside a large transaction leaves nothing of it.
	sqlite3 "$db" "pragma cache_size=10; begin; update t set body = randomblob(500);
		with recursive n(x) as (select 1 union all select x + 1 from n where x < 100000000)
		insert into t(name) select 'never' from n; commit;" &
	pid=$!
	sleep 0.5
	kill -9 $pid
	wait $pid 2>/dev/null || true
	same "integrity with $mode" "$(sqlite3 "$db" 'pragma integrity_check')" ok
	same "rows of the dead with $mode" "$(sqlite3 "$db" "select count(*) from t where name = 'never'")" 0
	sqlite3 "$db" "delete from t where id % 3 = 0; vacuum;"
	same "integrity after vacuum" "$(sqlite3 "$db" 'pragma integrity_check')" ok
done

# Two writers and a reader at once.
sqlite3 both.db "pragma journal_mode=wal; create table t(who int, n int)" >/dev/null
writer()
{
	local i
	for i in $(seq 100); do
		echo ".timeout 20000"
		echo "insert into t values ($1, $i);"
	done | sqlite3 both.db
}
writer 1 &
one=$!
writer 2 &
two=$!
for i in 1 2 3 4 5; do
	sqlite3 -cmd '.timeout 20000' both.db 'select count(*) from t' >/dev/null
done
wait $one
wait $two
same "rows of two writers" "$(sqlite3 both.db 'select count(*) from t')" 200

# fio with verification: what is read is what was written, in random order, by several jobs, through the cache and past it.
# needs: fio
# size: 5G
# time: 90 900

size=$(short_or_long 16M 512M)
run()
{
	local name=$1
	shift
	fio --name="$name" --directory=. --size="$size" --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
		--randseed="$SEED" --output="$SCRATCH/fio.log" --minimal "$@" || {
		cat "$SCRATCH/fio.log"
		fail "fio $name"
	}
	rm -f "$name".*
}

run sequential --rw=write --bs=128k --ioengine=psync
run random --rw=randwrite --bs=4k --ioengine=psync
run mixed --rw=randrw --bsrange=512-64k --bs_unaligned --ioengine=psync
run jobs --rw=randwrite --bsrange=1k-32k --numjobs=4 --ioengine=psync
run direct --rw=randwrite --bs=4k --direct=1 --ioengine=psync
run libaio --rw=randwrite --bsrange=4k-64k --direct=1 --ioengine=libaio --iodepth=16
run synced --rw=randwrite --bs=4k --fsync=32 --size=4M --ioengine=psync
run osync --rw=randwrite --bs=4k --sync=1 --size=2M --ioengine=psync
run mmap --rw=randwrite --bs=4k --ioengine=mmap
run holes --rw=randwrite --bs=4k --fallocate=none --file_append=0 --io_size=4M --ioengine=psync

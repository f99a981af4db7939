# A C project made with several jobs, changed, made again: times must be such that make does what is needed, and no more.
# needs: make cc

modules=$(short_or_long 30 300)
mkdir project
cd project
for i in $(seq "$modules"); do
	printf '#include "all.h"\nint f%d(void) { return %d; }\n' "$i" "$i" >"f$i.c"
	echo "int f$i(void);" >>all.h
	echo "f$i.o: f$i.c all.h" >>deps
done
{
	printf '#include "all.h"\n#include <stdio.h>\nint main(void) { int s = 0;\n'
	for i in $(seq "$modules"); do echo "s += f$i();"; done
	printf 'printf("%%d\\n", s); return 0; }\n'
} >main.c
cat >Makefile <<'END'
objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(objects)
	cc -o $@ $^
%.o: %.c
	cc -c -o $@ $<
include deps
END
make -s -j 2
same "the program's sum" "$(./program)" $((modules * (modules + 1) / 2))
make -q || fail "make finds work right after it is done"
sleep 0.02
touch f1.c
make -q && fail "make does not see a changed file"
same "what is made again" "$(make -j 2 | wc -l)" 2
make -q
drop_caches
make -q || fail "make finds work after caches are dropped"

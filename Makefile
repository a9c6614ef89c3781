# make         the examples and tools, into build/
# make run     a small GPT-2 learns this project's own text (about two minutes), then writes some
# make test    all tests; build/tests FILTER runs some of them
# make bench   how fast this machine is, and how fast llm.h is on it
# make clean
#
# CC, CFLAGS, LDFLAGS, LDLIBS are yours to set. OPENMP is -fopenmp where the compiler has it; `make
# OPENMP=` builds without it. `make -B` after any of them has changed.
CC ?= cc
CFLAGS ?= -O2
LDLIBS ?= -lm
PROBE = mkdir -p build && cd build && \
	printf '\043include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' >probe.c && \
	$(CC) -fopenmp probe.c -o probe $(LDFLAGS) && ./probe && echo -fopenmp; rm -f probe probe.c
ifneq ($(MAKECMDGOALS),clean)
OPENMP := $(shell ($(PROBE)) 2>/dev/null)
endif
COMPILE = $(CC) $(CFLAGS) $(OPENMP)

# a thread that waits sleeps soon, so that other work on the same machine does not slow us down
GOMP_SPINCOUNT ?= 10000
export GOMP_SPINCOUNT

EXAMPLES = $(patsubst examples/%.c,build/%,$(wildcard examples/*.c))
TOOLS = $(patsubst tools/%.c,build/%,$(wildcard tools/*.c))

all: $(EXAMPLES) $(TOOLS)

build/%: examples/%.c llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/%: tools/%.c llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/tests: tests/main.c $(wildcard tests/test*) llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

run: build/train build/generate
	build/train --out build/model --seconds 100 README.md examples/*.c llm.h
	build/generate build/model "static llm_result llmi_" --temperature 0.6

test: build/tests
	build/tests

bench: build/bench
	build/bench

clean:
	rm -rf build

.PHONY: all run test bench clean

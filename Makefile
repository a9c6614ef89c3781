# make         the examples and tools, into build/
# make run     a tiny DeepSeek-V3 learns this project's own text (about two minutes), then writes
#              some; make run ARCH=gpt2 for the other kind
# make test    all tests; build/tests FILTER and build/faults FILTER run some of them
# make test-kills  300 processes are killed while they save
# make test-hf what transformers, tokenizers, gguf and llama.cpp say beside llm.h; needs Python and
#              them
# make test-mpi  examples/train_mpi.c on 1 to 4 ranks; needs MPI
# make test-serve  examples/serve.c and its clients; needs libmicrohttpd, and Python with openai
# make results loss curves of f32, bf16 and fp8, memory beside its plan, nanoGPT's recipe beside
#              PyTorch, each with its bound, then the claims about MTP, experts, latent attention
#              and balance, run by run (two hours; Ctrl-C loses one run), into build/results; needs
#              Python, and leaves out what needs matplotlib or torch where they are missing
# make fuzz    hostile input for every loader, for SECONDS=60 in all; needs clang with libFuzzer
# make coverage  what the tests run of llm.h, and what they do not; needs clang, llvm, Python
# make mutate  which of 120 single faults in llm.h the tests notice: an hour, and it goes on where
#              it was stopped; needs Python
# make bench   how fast this machine is, and how fast llm.h is on it; ARGS="--large", or any other
#              options: build/bench --help
# make clean
#
# CC, CXX, MPICC, MPIRUN, PYTHON, CFLAGS, LDFLAGS, LDLIBS are yours to set: `make -B` after any of
# them has changed. (Threads need no flag; CFLAGS="-O2 -fopenmp" uses OpenMP's instead.)
CC ?= cc
MPICC ?= mpicc
MPIRUN ?= mpirun
PYTHON ?= python3
CFLAGS ?= -O2
LDLIBS ?= -lm
COMPILE = $(CC) $(CFLAGS)

EXAMPLES = $(patsubst examples/%.c,build/%,$(filter-out %_mpi.c %/serve.c,$(wildcard examples/*.c)))
HTTPD := $(shell printf '\043include <microhttpd.h>\n' | $(CC) $(CFLAGS) -E -x c - \
	>/dev/null 2>&1 && echo -lmicrohttpd)
NO_SERVE = serve is left out: no libmicrohttpd (package libmicrohttpd-dev)
ifneq ($(shell command -v $(CXX) 2>/dev/null),)
EXAMPLES += $(patsubst examples/%.cpp,build/%,$(wildcard examples/*.cpp))
endif
TOOLS = $(patsubst tools/%.c,build/%,$(wildcard tools/*.c))

all: $(EXAMPLES) $(TOOLS)
	@if [ "$(HTTPD)" ]; then $(MAKE) -s build/serve; else echo "$(NO_SERVE)"; fi

build/chat: examples/chat.h

build/%: examples/%.c examples/cli.h llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/serve: examples/serve.c examples/cli.h examples/chat.h llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) -lmicrohttpd $(LDLIBS)

build/train_mpi: examples/train_mpi.c examples/cli.h llm.h
	@mkdir -p build
	$(MPICC) $(CFLAGS) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/%: examples/%.cpp llm.h
	@mkdir -p build
	$(CXX) -std=c++11 $(CFLAGS) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/%: tools/%.c examples/cli.h llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/tests: tests/main.c $(wildcard tests/test*) tools/tokenize.c examples/cli.h llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

build/faults: tests/faults.c tests/faults.h tests/test.h tests/test_tools.h llm.h
	@mkdir -p build
	$(COMPILE) $< -o $@ $(LDFLAGS) $(LDLIBS)

ARCH ?= deepseek
run: build/train build/generate
	build/train --arch $(ARCH) --out build/model --overwrite --steps 1000 --seconds 110 \
		--seq 256 --batch 4 --eval 250 --save 250 README.md llm.h tests/*.c examples/*.c tools/*.c
	build/generate build/model "static llm_result llmi_" --temperature 0.6

test: build/tests build/faults
	build/tests
	build/faults

test-kills: build/faults
	build/faults --kills 300

# against Hugging Face's libraries: directories in and out, tokenizers, the goldens made again, the
# formats of conversations;
# against gguf and llama.cpp: GGUF files in and out
test-hf:
	@if $(PYTHON) -c "import torch, transformers, tokenizers" 2>/dev/null; then \
		$(PYTHON) tools/check_hf.py && $(PYTHON) tools/check_evaluate.py && \
		$(PYTHON) tools/check_tokenizer.py -n 100000 && \
		$(PYTHON) tools/make_goldens.py --check && $(PYTHON) tools/check_chat.py; \
	else echo "skipped: $(PYTHON) has no torch, transformers, tokenizers (pip install them)"; fi
	@if $(PYTHON) -c "import torch, transformers, gguf, llama_cpp" 2>/dev/null; then \
		$(PYTHON) tools/check_gguf.py; \
	else echo "skipped: $(PYTHON) has no gguf, llama_cpp (pip install gguf llama-cpp-python)"; fi

test-mpi:
	@if command -v $(MPICC) >/dev/null && command -v $(MPIRUN) >/dev/null; then \
		$(MAKE) build/train_mpi && MPIRUN="$(MPIRUN)" sh tests/mpi.sh; \
	else echo "skipped: no $(MPICC) or no $(MPIRUN) (packages openmpi-bin, libopenmpi-dev)"; fi

test-serve: build/train build/generate build/quantize
	@if [ ! "$(HTTPD)" ]; then echo "skipped: $(NO_SERVE)"; \
	elif $(PYTHON) -c "import openai" 2>/dev/null; then \
		$(MAKE) -s build/serve && $(PYTHON) tools/check_serve.py; \
	else echo "skipped: $(PYTHON) has no openai (pip install openai)"; fi

bench: build/bench
	build/bench $(ARGS)

results:
	@if $(PYTHON) -c "" 2>/dev/null; then CC="$(CC)" $(PYTHON) tools/results.py; \
	else echo "skipped: no $(PYTHON)"; fi

SECONDS ?= 60
fuzz:
	sh tests/fuzz.sh $(SECONDS)

mutate:
	CC="$(CC)" $(PYTHON) tools/mutate.py

coverage:
	@if $(PYTHON) -c "" 2>/dev/null; then $(PYTHON) tools/coverage.py; \
	else echo "skipped: no $(PYTHON)"; fi

clean:
	rm -rf build

.PHONY: all run test test-kills test-hf test-mpi test-serve bench results fuzz mutate coverage clean

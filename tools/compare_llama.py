#!/usr/bin/env python3
"""llm.h beside llama.cpp, in one run, on the same GGUF files, the same number of threads: GPT-2
124M and a DeepSeek-V3 of 162 million parameters with 16 experts a layer, 2 of them active; or with
--arch 150m the preset deepseek-moe-150m.

    python3 -m venv venv && venv/bin/pip install llama-cpp-python
    venv/bin/python tools/compare_llama.py [--quick] [--types F32,Q4_K] [--arch gpt2] [--threads 2]

pip builds llama.cpp for this machine. The models have random weights; llm_gguf_save writes them
into build/compare_llama, in each type, and they are removed after use (--keep: not). Each
side is a process of its own that waits for its turn; the turns alternate, so that what else happens
on the machine meets both. llama.cpp runs through its C interface, batches of up to 512 tokens at
once, its cache in f16 as is its default, without and with flash attention, of which the faster one
counts; llm.h is compiled with plain `cc -O2` and its cache is in f32.

decode    tokens/s of 64 tokens, one by one, after a prompt of 16
prefill   tokens/s of a prompt of 512
memory    how fast so many threads read an array of 512 MiB, the fastest of 1, 2, 4 and 8 streams
          each, in the same rounds; shares of it: the weights that a token reads by its time
batch     tokens/s of 8 sequences of llm.h together, and how many times one sequence's that is
logits    root of the mean square of the difference of both sides' logits by that of the logits,
          after a prompt and 16 more tokens: the median over the positions, as another expert that
          rounding chooses changes a position as a whole

All are the best of eight rounds.
"""

import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "build", "compare_llama")
DRIVER = os.path.join(FOLDER, "driver")

MODELS = {                             # as tools/bench.c names them; the last only if asked for
    "gpt2": ("gpt2", "GPT-2 124M"),
    "moe": ("moe-162m", "DeepSeek-V3, 16 experts, 2 active, 162M"),
    "150m": ("deepseek-moe-150m", "deepseek-moe-150m"),
}
NAMES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K".split()
TYPES = ["F32", "BF16", "Q8_0", "Q4_0", "Q4_K"]
PROMPT, NEW, LONG, MANY, CHECKED = 16, 64, 512, 8, 16
ROUNDS = 8

# make MODEL TYPE=FILE...: models with the same random weights, in these types
# memory THREADS: serves "memory"
# run FILE TOKENS THREADS: serves "decode", "prefill", "batch" and "logits OUT"
# To serve: a line is a command, the answer seconds (of memory: bytes per second), and "done".
PROGRAM = r"""
#define main bench_main
#include "tools/bench.c"
#undef main
enum { PROMPT = %(PROMPT)d, NEW = %(NEW)d, LONG = %(LONG)d, MANY = %(MANY)d,
       CHECKED = %(CHECKED)d };
static llm_session *session;
static int32_t *tokens;
static float *logits;
static int vocabulary;

static void make(char **args) {
    llm_config config;
    named_config(&config, *args);
    llm_model *model = llm_model_create(&config, NULL, &error);
    TRY(model);
    printf("parameters %%.0f\nvocabulary %%d\n", (double)llm_config_param_count(&config),
           config.vocab_size);
    while (*++args) {
        char *path = strchr(*args, '=');
        int type = LLM_Q6_K;
        *path++ = 0;
        while (type && strcmp(*args, llm_dtype_name((llm_dtype)type))) type--;
        TRY(!llm_gguf_save(model, NULL, path, (llm_dtype)type, &error));
    }
    llm_model_free(model);
}
/* of its matrices and norms; of embeddings a row */
static double bytes_per_token(const llm_model *model) {
    const llm_config *c = llm_model_config(model);
    double sum = 0;
    for (size_t i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        double n = 1;
        for (int d = 0; d < t.n_dims; d++) n *= (double)t.dims[d];
        n = (double)llm_dtype_size(t.dtype, (size_t)n);
        if (strstr(t.name, ".experts.")) n *= (double)c->num_experts_per_tok / c->n_routed_experts;
        if (strstr(t.name, "wpe.") ||
            (!c->tie_embeddings && (strstr(t.name, "wte.") || strstr(t.name, "embed_tokens."))))
            n /= (double)t.dims[0];
        sum += n;
    }
    return sum;
}
static void eval(int sequence, const int32_t *from, int n) {
    TRY(!llm_session_eval(session, sequence, from, n, logits, &error));
}
static double seconds_of_run(const char *what) {
    const int many = !strcmp(what, "batch") ? MANY : 1;
    for (int i = 0; i < many; i++) TRY(!llm_session_rewind(session, i, 0, &error));
    if (!strcmp(what, "prefill")) {
        const double start = cli_seconds();
        eval(0, tokens, LONG);
        return cli_seconds() - start;
    }
    for (int i = 0; i < many; i++) eval(i, tokens + i, PROMPT);
    const double start = cli_seconds();
    for (int i = 0; i < NEW; i++)
        if (many == 1) eval(0, tokens + PROMPT + i, 1);
        else TRY(!llm_session_eval_batch(session, tokens + PROMPT + i, logits, &error));
    return cli_seconds() - start;
}
static void write_logits(const char *path) {
    FILE *file = fopen(path, "wb");
    NEED(file, "%%s: %%s", path, strerror(errno));
    TRY(!llm_session_rewind(session, 0, 0, &error));
    for (int i = 0; i <= CHECKED; i++) {
        eval(0, i ? tokens + PROMPT + i - 1 : tokens, i ? 1 : PROMPT);
        fwrite(logits, sizeof(float), (size_t)vocabulary, file);
    }
    NEED(!fclose(file), "%%s: %%s", path, strerror(errno));
}
int main(int argc, char **argv) {
    static char line[4096], what[16], path[4096];
    read_job job;
    cli_program = "driver";
    NEED(argc > 2, "too few arguments");
    if (!strcmp(argv[1], "make")) { make(argv + 2); return 0; }
    if (!strcmp(argv[1], "memory")) {
        job.n = (size_t)1 << 27;
        job.x = floats(job.n);
        job.threads = atoi(argv[2]);
    } else {
        const llm_model_desc desc = {.n_threads = atoi(argv[4])};
        const llm_session_desc session_desc = {.max_seq_len = LONG, .n_sequences = MANY};
        llm_model *model = llm_model_load(argv[2], &desc, &error);
        TRY(model);
        TRY(session = llm_session_create(model, &session_desc, &error));
        vocabulary = llm_model_config(model)->vocab_size;
        logits = floats((size_t)vocabulary * MANY);
        size_t size;
        tokens = (int32_t *)(void *)cli_read(argv[3], &size);
        printf("bytes %%.0f\n", bytes_per_token(model));
        seconds_of_run("decode");
    }
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && sscanf(line, "%%15s %%4095[^\n]", what, path) > 0) {
        if (!strcmp(what, "logits")) write_logits(path);
        else if (strcmp(what, "memory")) printf("%%.9f\n", seconds_of_run(what));
        else for (job.streams = 1; job.streams <= MOST_STREAMS; job.streams *= 2)
            printf("%%.0f\n", (double)job.n * sizeof(float) / measure(run_read, &job, 0.1, 3).best);
        printf("done\n");
        fflush(stdout);
    }
    return 0;
}
"""


# ---- llama.cpp's side: a process that speaks the driver's protocol -------------------------------

def worker(path, tokens, threads):
    """Answers each command with two times: without flash attention, and with it"""
    import ctypes

    import llama_cpp
    import numpy

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit("llama.cpp does not load %s" % path)
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    contexts = []
    for flash in (0, 1):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = LONG + NEW
        params.n_batch = params.n_ubatch = LONG
        params.n_threads = params.n_threads_batch = int(threads)
        params.flash_attn_type = flash
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(model, params)
        if context:                    # else it has no flash attention for this model
            contexts.append(context)
    with open(tokens, "rb") as file:
        data = file.read()
    values = struct.unpack("<%di" % (len(data) // 4), data)

    def batch(first, n):
        array = (llama_cpp.llama_token * n)(*values[first:first + n])
        return llama_cpp.llama_batch_get_one(array, n), array

    prompt, whole = batch(0, PROMPT), batch(0, LONG)
    single = [batch(PROMPT + i, 1) for i in range(NEW)]

    def eval_(context, one):
        if llama_cpp.llama_decode(context, one[0]):
            raise SystemExit("llama_decode failed")
        return llama_cpp.llama_get_logits(context)     # waits for them

    def seconds(context, what):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if what == "decode":
            eval_(context, prompt)
        start = time.perf_counter()
        for one in single if what == "decode" else [whole]:
            eval_(context, one)
        return time.perf_counter() - start

    def write_logits(out):
        context = contexts[0]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        with open(out, "wb") as file:
            for one in [prompt] + single[:CHECKED]:
                rows = numpy.ctypeslib.as_array(eval_(context, one), shape=(size,))
                file.write(rows.tobytes())

    for context in contexts:
        seconds(context, "decode")
        seconds(context, "prefill")
    print("ready", flush=True)
    for line in sys.stdin:
        what, _, out = line.strip().partition(" ")
        if what == "logits":
            write_logits(out)
        else:
            for context in contexts:
                print("%.9f" % seconds(context, what))
        print("done", flush=True)


class Side:
    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.best, self.facts = {}, {}
        for line in self.until("ready"):
            name, value = line.split()
            self.facts[name] = float(value)

    def until(self, word):
        lines = []
        for line in self.process.stdout:
            if line.strip() == word:
                return lines
            lines.append(line.strip())
        raise SystemExit("%s ended early: %s" % (self.process.args[0], " ".join(lines)))

    def turn(self, what, *arguments):
        """what it takes, best so far, for each of the ways that this side has"""
        self.process.stdin.write(" ".join((what, *arguments)) + "\n")
        self.process.stdin.flush()
        found = [float(line) for line in self.until("done")]
        better = max if what == "memory" else min
        self.best[what] = [better(pair) for pair in zip(self.best.get(what, found), found)]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- both sides in turns ------------------------------------------------------------------------

def difference(one, other, rows):
    import numpy

    a, b = (numpy.fromfile(path, numpy.float32).reshape(rows, -1).astype(float)
            for path in (one, other))
    each = numpy.sqrt(((a - b) ** 2).mean(1) / (b ** 2).mean(1))
    return float(numpy.median(each))


def compare(path, tokens, memory, options):
    """one file -> a line of the table"""
    threads = str(options.threads)
    memory.best = {}
    ours = Side(DRIVER, "run", path, tokens, threads)
    theirs = Side(sys.executable, os.path.abspath(__file__), "--worker", path, tokens, threads)
    out = [os.path.join(FOLDER, name) for name in ("llm.logits", "llama.logits")]
    for side, name in zip((ours, theirs), out):
        side.turn("logits", name)
    for i in range(2 if options.quick else ROUNDS):
        memory.turn("memory")
        for what in ("decode", "prefill"):
            for side in ((ours, theirs), (theirs, ours))[i % 2]:
                side.turn(what)
        ours.turn("batch")
    for side in (ours, theirs):
        side.close()
    a, b = ours.best, theirs.best
    return dict(
        bytes=ours.facts["bytes"],
        memory=max(memory.best["memory"]),
        decode=(NEW / min(a["decode"]), NEW / min(b["decode"])),
        prefill=(LONG / min(a["prefill"]), LONG / min(b["prefill"])),
        batch=MANY * NEW / min(a["batch"]),
        flash="/".join("on" if b[what].index(min(b[what])) else "off"
                       for what in ("decode", "prefill")),
        logits=difference(*out, CHECKED + 1))


def print_head(title, options):
    print("\n%s, %d threads; tokens/s, GB/s" % (title, options.threads))
    print("%5s %8s | %23s | %18s | %23s | %13s | %8s %s" % (
        "", "MB of", "decode", "of the memory", "prefill", "batch of 8", "logits", "flash"))
    print("%5s %8s | %7s %9s %5s | %6s %5s %5s | %7s %9s %5s | %7s %5s | %8s %s" % (
        "", "a token", "llm.h", "llama.cpp", "ratio", "GB/s", "llm.h", "llama", "llm.h",
        "llama.cpp", "ratio", "llm.h", "times", "differ", "attention"), flush=True)


def print_line(kind, r):
    share = [100 * r["bytes"] * speed / r["memory"] for speed in r["decode"]]
    print("%5s %8.1f | %7.1f %9.1f %5.2f | %6.1f %3.0f %% %3.0f %% | %7.0f %9.0f %5.2f | "
          "%7.1f %5.2f | %8.1e %s" % (
              kind, r["bytes"] / 1e6, *r["decode"], r["decode"][0] / r["decode"][1],
              r["memory"] / 1e9, *share, *r["prefill"], r["prefill"][0] / r["prefill"][1],
              r["batch"], r["batch"] / r["decode"][0], r["logits"], r["flash"]), flush=True)


def build(options):
    os.makedirs(FOLDER, exist_ok=True)
    source = DRIVER + ".c"
    with open(source, "w") as file:
        file.write(PROGRAM % globals())
    command = [options.cc, "-O2", "-I" + ROOT, source, "-lm", "-o", DRIVER]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=list(MODELS), help="only this model")
    parser.add_argument("--types", default=",".join(TYPES), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of eight")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="the GGUF files")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="default: %(default)s")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        import llama_cpp
    except ImportError:
        print("skipped: %s has no llama_cpp; python3 -m venv venv && venv/bin/pip install "
              "llama-cpp-python, and run this by venv/bin/python" % sys.executable)
        return 0
    if options.worker:
        return worker(*options.worker)

    types = options.types.upper().split(",")
    unknown = [kind for kind in types if kind not in NAMES]
    if unknown:
        parser.error("--types %s: not among %s" % (unknown[0], ",".join(NAMES)))
    build(options)
    print("llama-cpp-python %s" % llama_cpp.__version__)
    memory = Side(DRIVER, "memory", str(options.threads))
    try:
        for arch in [options.arch] if options.arch else ["gpt2", "moe"]:
            preset, title = MODELS[arch]
            paths = {kind: os.path.join(FOLDER, "%s-%s.gguf" % (arch, kind)) for kind in types}
            made = subprocess.run(
                [DRIVER, "make", preset, *("%s=%s" % pair for pair in paths.items())],
                stdout=subprocess.PIPE, text=True, check=True).stdout
            facts = dict(line.split() for line in made.splitlines())
            tokens = os.path.join(FOLDER, "tokens")
            random_ = random.Random(7)
            with open(tokens, "wb") as file:
                file.write(struct.pack("<%di" % (2 * LONG), *(
                    random_.randrange(int(facts["vocabulary"])) for _ in range(2 * LONG))))
            print_head("%s (%.1f million parameters)" % (title, float(facts["parameters"]) / 1e6),
                       options)
            for kind, path in paths.items():
                print_line(kind, compare(path, tokens, memory, options))
                if not options.keep:
                    os.remove(path)
    finally:
        memory.close()
        if not options.keep:
            shutil.rmtree(FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main())

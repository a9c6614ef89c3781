#!/usr/bin/env python3
"""llm.h beside PyTorch, in one run: GPT-2 124M, f32, the same sizes, the same number of threads.

    pip install torch transformers
    tools/compare_torch.py [--quick] [--only step] [--threads 2]

Builds tools/bench.c with plain `cc -O2 -fopenmp`. Each side is a process of its own that waits for
its turn; the turns alternate, so that what else happens on the machine meets both. PyTorch runs
eagerly, with transformers' GPT2LMHeadModel as it comes (dropout 0), AdamW, clipping,
zero_grad(set_to_none=True). Printed: best and median of both, llm.h's time as a share of PyTorch's,
and each process's peak memory.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCH = os.path.join(ROOT, "build", "bench")

# name, what one repetition is, arguments, repetitions per turn, rate: (unit, amount per repetition)
CASES = [
    ("step", "training step, B=4 T=64", ["--step", "4", "64"], 3, ("tokens/s", 256)),
    ("step", "training step, B=4 T=256", ["--step", "4", "256"], 2, ("tokens/s", 1024)),
    ("prefill", "prefill of 512 tokens", ["--prefill", "512"], 3, ("tokens/s", 512)),
    ("decode", "16 tokens read, 64 written", ["--decode", "64"], 2, ("tokens/s", 64)),
    ("gemm", "a step's products, 1024 rows", ["--gemm", "1024"], 1, ("GFLOP/s", 759.0)),
]


# ---- PyTorch's side: a process that speaks bench's protocol -------------------------------------

def torch_step(arguments):
    import torch
    import torch.nn.functional as F
    from transformers import GPT2Config, GPT2LMHeadModel

    B, T = int(arguments[1]), int(arguments[2])
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    groups = [
        dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=0.1),
        dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95))
    tokens = torch.randint(0, model.config.vocab_size, (B, T + 1))

    def run():
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def torch_inference(arguments):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    n = int(arguments[1])
    decode = arguments[0] == "--decode"
    model = GPT2LMHeadModel(GPT2Config(eos_token_id=None, bos_token_id=None)).eval()
    prompt = torch.randint(0, model.config.vocab_size, (1, 16 if decode else n))
    mask = torch.ones_like(prompt)

    @torch.no_grad()
    def run():
        if decode:
            model.generate(
                prompt,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=n,
                use_cache=True,
                pad_token_id=0,
            )
        else:
            model(input_ids=prompt, use_cache=True, logits_to_keep=1)

    return run


def torch_gemm(arguments):
    import torch

    rows, products = int(arguments[1]), []
    for n_in, n_out, count, conv1d in (
        (768, 2304, 12, True),
        (768, 768, 12, True),
        (768, 3072, 12, True),
        (3072, 768, 12, True),
        (768, 50257, 1, False),
    ):
        x, y = torch.randn(rows, n_in), torch.randn(rows, n_out)
        w = torch.randn(n_in, n_out) if conv1d else torch.randn(n_out, n_in)
        if conv1d:
            triples = ((x, w, y), (y, w.T, x), (x.T, y, w))
        else:
            triples = ((x, w.T, y), (y, w, x), (y.T, x, w))
        products += [(a, b, out, count) for a, b, out in triples]

    def run():  # as bench: the best of a few of each, weighted
        total = 0.0
        for a, b, out, count in products:
            best = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                torch.mm(a, b, out=out)
                best = min(best, time.perf_counter() - start)
            total += count * best
        return total

    return run


def worker(arguments, threads):
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind = arguments[0]
    run = {"--step": torch_step, "--gemm": torch_gemm}.get(kind, torch_inference)(arguments)
    run()
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            start = time.perf_counter()
            result = run()
            print(f"{result if kind == '--gemm' else time.perf_counter() - start:.6f}")
        print("done", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"maxrss {memory if sys.platform == 'darwin' else memory * 1024}")


# ---- both sides in turns ------------------------------------------------------------------------

class Side:
    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds, self.memory = [], 0.0
        self.until("ready")

    def until(self, word):
        lines = []
        for line in self.process.stdout:
            if line.strip() == word:
                return lines
            lines.append(line.strip())
        raise SystemExit(f"{self.process.args[0]} ended early: {' '.join(lines)}")

    def turn(self, repetitions):
        self.process.stdin.write(f"{repetitions}\n")
        self.process.stdin.flush()
        self.seconds += [float(line) for line in self.until("done")]

    def close(self):
        rest, _ = self.process.communicate()
        for line in rest.split("\n"):
            if line.startswith("maxrss"):
                self.memory = float(line.split()[1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=["gpt2"], default="gpt2")
    parser.add_argument("--quick", action="store_true", help="two turns instead of six")
    parser.add_argument("--only", choices=["step", "prefill", "decode", "gemm"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="default: %(default)s")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.threads)

    os.makedirs(os.path.dirname(BENCH), exist_ok=True)
    source = os.path.join(ROOT, "tools", "bench.c")
    build = [arguments.cc, "-O2", "-fopenmp", source, "-lm", "-o", BENCH]
    print(" ".join(build), flush=True)
    subprocess.run(build, check=True)
    threads = str(arguments.threads)
    turns = 2 if arguments.quick else 6
    print(f"\nGPT-2 124M, f32, {threads} threads, seconds; ratio: llm.h's time by PyTorch's\n")
    pair = f"{'best':>9} {'median':>9}"
    print(f"{'':29} {'llm.h':>19} {'PyTorch eager':>19} {'ratio':>15} {'peak memory, MB':>20}")
    print(f"{'':29} {pair} {pair} {'best':>8} {'median':>6}   {'llm.h':>6} {'torch':>6} ratio")
    for name, title, what, repetitions, (unit, amount) in CASES:
        if arguments.only not in (None, name):
            continue
        ours = Side([BENCH, *what, "--serve", "--threads", threads])
        theirs = Side(
            [sys.executable, os.path.abspath(__file__), "--threads", threads, "--worker", *what]
        )
        for turn in range(turns):
            for side in ((ours, theirs), (theirs, ours))[turn % 2]:
                side.turn(repetitions)
        for side in (ours, theirs):
            side.close()
        a, b = ours.seconds, theirs.seconds
        m, n = statistics.median(a), statistics.median(b)
        memory = f"{ours.memory / 1e6:6.0f} {theirs.memory / 1e6:6.0f} "
        memory += f"{ours.memory / theirs.memory:5.2f}"
        print(
            f"{title:29} {min(a):9.3f} {m:9.3f} {min(b):9.3f} {n:9.3f} {min(a) / min(b):8.3f} "
            f"{m / n:6.3f}   {'' if name == 'gemm' else memory}"
        )
        rate = f"    best, {unit}"
        print(f"{rate:29} {amount / min(a):9.0f} {'':9} {amount / min(b):9.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

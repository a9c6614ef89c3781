#!/usr/bin/env python3
"""llm.h beside PyTorch, in one run, the same sizes, the same number of threads: GPT-2 124M, or
with --arch a DeepSeek-V3: `deepseek`, dense, of 68 million parameters, or `moe`, of 162 million with
16 experts a layer, 2 of them active.

    pip install torch transformers
    tools/compare_torch.py [--arch moe] [--quick] [--only step] [--threads 2]
    tools/compare_torch.py --precision bf16     training steps, PyTorch's under autocast
    tools/compare_torch.py --mtp        a step with an MTP module by one without: llm.h alone

Builds tools/bench.c with plain `cc -O2`. Each side is a process of its own that waits for
its turn; the turns alternate, so that what else happens on the machine meets both. PyTorch runs
eagerly, with transformers' models (dropout 0), AdamW, clipping, zero_grad(set_to_none=True). Of its
ways to do attention, experts and AdamW those are taken that a short trial before finds fastest here;
--attention, --experts and --adamw fix them, --quick takes what is usually best. Printed: best and
median of both, llm.h's time as a share of PyTorch's, and each process's peak memory.
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

TITLES = {
    "gpt2": "GPT-2 124M",
    "deepseek": "DeepSeek-V3, dense, 68M",
    "moe": "DeepSeek-V3, 16 experts, 2 active, 162M",
}
MODELS = {"gpt2": "gpt2", "deepseek": "68m", "moe": "moe-162m"}  # as tools/bench.c names them

# name, what one repetition is, arguments, repetitions per turn, rate: (unit, amount per repetition)
STEP = ("step", "training step, B=4 T=256", ["--step", "4", "256"], 2, ("tokens/s", 1024))
PREFILL = ("prefill", "prefill of 512 tokens", ["--prefill", "512"], 3, ("tokens/s", 512))
DECODE = ("decode", "64 tokens read, 64 written", ["--decode", "64", "64"], 2, ("tokens/s", 64))
CASES = {
    "gpt2": [
        ("step", "training step, B=4 T=64", ["--step", "4", "64"], 3, ("tokens/s", 256)),
        STEP,
        PREFILL,
        ("decode", "16 tokens read, 64 written", ["--decode", "16", "64"], 2, ("tokens/s", 64)),
        ("gemm", "a step's products, 1024 rows", ["--gemm", "1024"], 1, ("GFLOP/s", 759.0)),
    ],
    "deepseek": [STEP, PREFILL, DECODE],
    "moe": [STEP, PREFILL, DECODE],
}
# PyTorch's and transformers' ways, the usually fastest first
WAYS = {
    "attention": ["sdpa", "eager"],
    "experts": ["grouped_mm", "eager", "batched_mm"],
    "adamw": ["fused", "foreach"],
}


# ---- PyTorch's side: a process that speaks bench's protocol -------------------------------------

def torch_model(options):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, GPT2Config, GPT2LMHeadModel

    moe = options.arch == "moe"
    if options.arch == "gpt2":
        kind = GPT2LMHeadModel
        config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    else:  # as tools/bench.c has them
        kind = DeepseekV3ForCausalLM
        config = DeepseekV3Config(
            vocab_size=50257, max_position_embeddings=1024, tie_word_embeddings=False,
            hidden_size=512, intermediate_size=1408, moe_intermediate_size=352,
            num_hidden_layers=12 if moe else 6, first_k_dense_replace=1 if moe else 6,
            num_attention_heads=8, num_key_value_heads=8, q_lora_rank=192, kv_lora_rank=64,
            qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
            n_routed_experts=16, num_experts_per_tok=2, n_shared_experts=1,
            n_group=1, topk_group=1, routed_scaling_factor=1.0,
        )
    config.bos_token_id = config.eos_token_id = None
    config._attn_implementation = options.attention
    config._experts_implementation = options.experts
    model = kind(config)
    count = sum(p.numel() for p in model.parameters())
    count += sum(b.numel() for name, b in model.named_buffers() if name.endswith("_bias"))
    print(f"parameters {count}")
    return model


def torch_step(options):
    import torch
    import torch.nn.functional as F

    B, T = (int(n) for n in options.worker[1:])
    model = torch_model(options).train()
    groups = [
        dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=0.1),
        dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0),
    ]
    kind = {options.adamw: True}
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), **kind)
    tokens = torch.randint(0, model.config.vocab_size, (B, T + 1))

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision != "f32"):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def torch_inference(options):
    import torch

    kind, n, *written = options.worker
    model = torch_model(options).eval()
    prompt = torch.randint(0, model.config.vocab_size, (1, int(n)))
    mask = torch.ones_like(prompt)

    @torch.no_grad()
    def run():
        if kind == "--decode":
            model.generate(
                prompt,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=int(written[0]),
                use_cache=True,
                pad_token_id=0,
            )
        else:
            model(input_ids=prompt, use_cache=True, logits_to_keep=1)

    return run


def torch_gemm(options):
    import torch

    rows, products = int(options.worker[1]), []
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


def worker(options):
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    kind = options.worker[0]
    run = {"--step": torch_step, "--gemm": torch_gemm}.get(kind, torch_inference)(options)
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
    def __init__(self, command, **streams):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **streams
        )
        self.seconds, self.facts = [], {}
        self.note(self.until("ready"))

    def until(self, word):
        lines = []
        for line in self.process.stdout:
            if line.strip() == word:
                return lines
            lines.append(line.strip())
        raise SystemExit(f"{self.process.args[0]} ended early: {' '.join(lines)}")

    def note(self, lines):
        self.facts.update((line.split()[0], float(line.split()[1])) for line in lines)

    def turn(self, repetitions):
        self.process.stdin.write(f"{repetitions}\n")
        self.process.stdin.flush()
        self.seconds += [float(line) for line in self.until("done")]

    def close(self):
        rest, _ = self.process.communicate()
        self.note(rest.splitlines())


def torch_side(options, ways, what, **streams):
    command = [sys.executable, os.path.abspath(__file__), "--arch", options.arch]
    command += ["--threads", str(options.threads), "--precision", options.precision]
    command += [word for name in ways for word in (f"--{name}", ways[name])]
    return Side([*command, "--worker", *what], **streams)


def trial(options, ways, what):
    """best of three repetitions; infinite where this way does not work"""
    try:
        side = torch_side(options, ways, what, stderr=subprocess.DEVNULL)
        side.turn(3)
        side.close()
    except SystemExit:
        side = None
    best = min(side.seconds) if side else float("inf")
    print(f"    PyTorch, {', '.join(ways.values())}: {best:.3f}", flush=True)
    return best


def fastest_ways(options, name, what):
    """from the usual ones on, one change at a time, kept where it is faster"""
    choices = {}
    for way, values in WAYS.items():
        fixed = getattr(options, way)
        if way == "experts" and options.arch != "moe" or name == "gemm":
            continue
        if way == "adamw" and name != "step":
            continue
        if way == "experts" and name == "step":  # batched_mm copies the weights for every token
            values = values[:2]
        choices[way] = [fixed] if fixed else values[: 1 if options.quick else None]
    ways = {way: values[0] for way, values in choices.items()}
    if all(len(values) == 1 for values in choices.values()):
        return ways
    best = trial(options, ways, what)
    for way, values in choices.items():
        for value in values[1:]:
            seconds = trial(options, {**ways, way: value}, what)
            if seconds < best:
                best, ways = seconds, {**ways, way: value}
    return ways


def compare(options, name, title, what, repetitions, rate):
    ways = fastest_ways(options, name, what)
    same = ["--threads", str(options.threads), "--model", MODELS[options.arch]]
    same += ["--precision", options.precision]
    ours, theirs = Side([BENCH, *what, "--serve", *same]), torch_side(options, ways, what)
    for turn in range(2 if options.quick else 6):
        for side in ((ours, theirs), (theirs, ours))[turn % 2]:
            side.turn(repetitions)
    for side in (ours, theirs):
        side.close()
    counts = [side.facts.get("parameters") for side in (ours, theirs)]
    if counts[0] != counts[1]:
        raise SystemExit(f"not the same model: {counts[0]} and {counts[1]} parameters")
    a, b = ours.seconds, theirs.seconds
    m, n = statistics.median(a), statistics.median(b)
    peaks = [side.facts["maxrss"] / 1e6 for side in (ours, theirs)]
    memory = f"{peaks[0]:6.0f} {peaks[1]:6.0f} {peaks[0] / peaks[1]:5.2f}"
    print(
        f"{title:29} {min(a):9.3f} {m:9.3f} {min(b):9.3f} {n:9.3f} {min(a) / min(b):8.3f} "
        f"{m / n:6.3f}   {'' if name == 'gemm' else memory}"
    )
    unit, amount = rate
    print(
        f"{'    best, ' + unit:29} {amount / min(a):9.0f} {'':9} {amount / min(b):9.0f} {'':9} "
        f"{', '.join(ways.values())}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=list(TITLES), default="gpt2")
    parser.add_argument("--mtp", action="store_true", help="what an MTP module adds to a step")
    parser.add_argument("--quick", action="store_true", help="two turns instead of six, no trial")
    parser.add_argument("--only", choices=["step", "prefill", "decode", "gemm"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--precision",
        choices=["f32", "bf16", "fp8"],
        default="f32",
        help="of training steps; PyTorch, which trains in no fp8 on a CPU, is in bf16 beside fp8",
    )
    for way, values in WAYS.items():
        parser.add_argument(f"--{way}", choices=values, help="PyTorch's; default: what is fastest")
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="default: %(default)s")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)

    os.makedirs(os.path.dirname(BENCH), exist_ok=True)
    source = os.path.join(ROOT, "tools", "bench.c")
    build = [options.cc, "-O2", source, "-lm", "-o", BENCH]
    print(" ".join(build), flush=True)
    subprocess.run(build, check=True)
    if options.mtp:
        command = [BENCH, "--only", "mtp", "--threads", str(options.threads)]
        return subprocess.run(command + ["--quick"] * options.quick).returncode
    if options.precision != "f32":
        options.only = "step"
    print(f"\n{TITLES[options.arch]}, {options.precision}, {options.threads} threads, seconds; ", end="")
    print("ratio: llm.h's time by PyTorch's\n")
    pair = f"{'best':>9} {'median':>9}"
    print(f"{'':29} {'llm.h':>19} {'PyTorch eager':>19} {'ratio':>15} {'peak memory, MB':>20}")
    print(f"{'':29} {pair} {pair} {'best':>8} {'median':>6}   {'llm.h':>6} {'torch':>6} ratio")
    for case in CASES[options.arch]:
        if options.only in (None, case[0]):
            compare(options, *case)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The figures about training, measured again and judged against their bounds, into a folder.

    pip install matplotlib torch        without them: no plots, no comparison with PyTorch
    tools/results.py [--only curves|memory|nanogpt|claims] [--out build/results] [--text FILE]

curves   a GPT-2 and a DeepSeek-V3 with experts and MTP, of about 2 million parameters, in f32, bf16
         and fp8 on the same batches: the losses, smoothed as in the DeepSeek-V3 report (exponential
         moving average, 0.9), may differ from those of f32 by 0.25 % at most in the last half. How
         far f32 is from itself where only the order of its sums changes (batches in two parts) is
         told beside it: with lr 1e-3 that alone moves the small DeepSeek-V3 by 0.6 %, so it is 3e-4
memory   what llm_train_memory plans for GPT-2 124M, B=4 T=256, by part, and a process's real peak
nanogpt  nanoGPT's recipe for a CPU: Tiny Shakespeare by character, 4 layers of width 128, T=64,
         B=12, 2000 steps; the same model and batches in PyTorch, eagerly, in alternating turns
claims   what MTP, experts, latent attention and balancing bring to small models, at equal updates
         and at equal time: hours, a run at a time; tools/claims.py says how

Writes results.txt (what is printed; NAME.txt with --only NAME), a CSV file per run, and curves.png
and .svg. Exit status 1 if a bound is missed. The text is Tiny Shakespeare where it is found, else
llm.h, for curves and claims only. Builds what it needs of tools/bench.c, curves.c and claims.c
with plain `cc -O2`.
"""

import argparse
import csv
import math
import os
import platform
import statistics
import subprocess
import sys
import time

from claims import add_arguments, claims
from compare_torch import ROOT, Side

SHAKESPEARE = os.path.normpath(
    os.path.join(ROOT, os.pardir, "shared", "data", "tinyshakespeare.txt")
)
RUNS = {
    "f32": ["--precision", "f32"],
    "bf16": ["--precision", "bf16"],
    "fp8": ["--precision", "fp8"],
    "f32 in parts": ["--precision", "f32", "--accumulate", "2"],
}
ARCHS = {"gpt2": "GPT-2", "deepseek": "DeepSeek-V3"}
WINDOW, WIDEST = 0.9, 0.25  # of the smoothing; largest difference in percent
CURVES = dict(
    layers=4, heads=4, width=192, seq=96, batch=24, steps=300, lr="3e-4", min_lr="3e-5", warmup=40,
    beta2=0.95, eval=100, windows=64, seed=1,
)
NANOGPT = dict(
    layers=4, heads=4, width=128, seq=64, batch=12, steps=2000, lr="1e-3", min_lr="1e-4",
    warmup=100, beta2=0.99, weight_decay=0.1, clip=1, eval=0, seed=1,
)
LOSS_BOUND, TIME_BOUND = 1.90, 0.55
# options of bench, the most that a process may take in GB; plan and process differ by 2 % at most
MEMORY = [
    ("f32", [], 2.6),
    ("f32, recompute", ["--recompute"], 2.2),
    ("bf16", ["--precision", "bf16"], 2.5),
]
PARTS = ("parameters", "gradients", "optimizer", "activations", "scratch", "total")


class Report:
    def __init__(self, path):
        self.file, self.failed = open(path, "w"), 0

    def line(self, text=""):
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def bound(self, what, value, most, unit=""):
        self.failed += not value <= most
        verdict = "PASS" if value <= most else "FAIL"
        self.line(f"{verdict}  {what}: {value:.3f}{unit}, at most {most:.3f}{unit}")


def machine(options):
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    return f"{name}, {options.threads} threads; load average at the start: {load}"


def arguments(settings):
    return [word for key, value in settings.items() for word in
            (f"--{key.replace('_', '-')}", str(value))]


# ---- curves of three precisions -----------------------------------------------------------------

def smooth(values):
    """moving average, exponential, as if what came before the first value were not there"""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total = WINDOW * total + (1 - WINDOW) * value
        weight = WINDOW * weight + (1 - WINDOW)
        result.append(total / weight)
    return result


def read_log(path):
    with open(path) as file:
        rows = list(csv.DictReader(file))
    return dict(
        train=[float(row["train_loss"]) for row in rows],
        valid=[(int(row["step"]), float(row["val_loss"])) for row in rows if row["val_loss"]],
        seconds=float(rows[-1]["seconds"]),
    )


def differences(run, base):
    """of the smoothed losses, in percent, a step each"""
    return [100 * (a / b - 1) for a, b in zip(smooth(run["train"]), smooth(base["train"]))]


def curves(options, report):
    report.line(f"\n== losses of three precisions on the same batches of {options.text}")
    report.line(" ".join(arguments(CURVES)))
    runs = {}
    for arch in ARCHS:
        for name, flags in RUNS.items():
            log = os.path.join(options.out, f"{arch}-{name.replace(' ', '-')}.csv")
            command = [options.curves, "--text", options.text, "--arch", arch, "--log", log, *flags]
            command += ["--threads", str(options.threads), *arguments(CURVES)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            runs[arch, name] = read_log(log)
    report.line(f"\n{'':25} {'smoothed, at the end':>21} {'validation':>18} {'bits/byte':>10} "
                f"{'seconds':>9}")
    for (arch, name), run in runs.items():
        base = runs[arch, "f32"]
        last, valid = differences(run, base)[-1], run["valid"][-1][1]
        report.line(
            f"{ARCHS[arch]:12} {name:12} {smooth(run['train'])[-1]:12.4f} {last:+6.3f} % "
            f"{valid:9.4f} {100 * (valid / base['valid'][-1][1] - 1):+6.3f} % "
            f"{valid / math.log(2):10.4f} {run['seconds']:9.1f}"
        )
    report.line()
    for (arch, name), run in runs.items():
        if name == "f32":
            continue
        half = differences(run, runs[arch, "f32"])[CURVES["steps"] // 2 :]
        largest = max(map(abs, half))
        what = f"{ARCHS[arch]}, {name}: largest difference from f32 in the last half"
        if name in ("bf16", "fp8"):
            report.bound(what, largest, WIDEST, " %")
        else:
            report.line(f"      {what}: {largest:.3f} %")
        report.line(f"      mean of it {statistics.fmean(half):+.3f} %, without its sign "
                    f"{statistics.fmean(map(abs, half)):.3f} %, at the end {half[-1]:+.3f} %")
    try:
        import matplotlib
    except ImportError:
        return report.line(f"plots skipped: {sys.executable} has no matplotlib (pip install it)")
    matplotlib.use("Agg")
    plot(options, runs)


def plot(options, runs):
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    steps = range(1, CURVES["steps"] + 1)
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 6.5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    for column, arch in enumerate(ARCHS):
        top, bottom = axes[:, column]
        base = runs[arch, "f32"]
        for name, colour, style in zip(RUNS, ("black", "C0", "C3", "grey"), ("-", "--", ":", "-.")):
            run = runs[arch, name]
            top.plot(steps, run["train"], color=colour, alpha=0.12, linewidth=0.8)
            top.plot(steps, smooth(run["train"]), style, color=colour, label=name)
            top.plot(*zip(*run["valid"]), "o", color=colour, markersize=3)
            bottom.plot(steps, differences(run, base), style, color=colour)
        top.set_title(f"{ARCHS[arch]}, {CURVES['layers']} layers of width {CURVES['width']}")
        top.set_yscale("log")
        top.yaxis.set_major_formatter(ScalarFormatter())
        top.yaxis.set_minor_formatter(ScalarFormatter())
        top.set_ylabel("loss per character, nats")
        top.legend(title="smoothed; dots: validation")
        bottom.axhspan(-WIDEST, WIDEST, color="C2", alpha=0.15)
        bottom.axvline(CURVES["steps"] / 2, color="grey", linewidth=0.8)
        bottom.set_ylim(-4 * WIDEST, 4 * WIDEST)
        bottom.set_ylabel("difference from f32, %")
        bottom.set_xlabel(f"step; judged from {CURVES['steps'] // 2} on")
        for ax in (top, bottom):
            ax.grid(alpha=0.3)
    for kind in ("png", "svg"):
        figure.savefig(os.path.join(options.out, f"curves.{kind}"), dpi=120)
    plt.close(figure)


# ---- memory -------------------------------------------------------------------------------------

def memory(options, report):
    report.line("\n== memory of GPT-2 124M, B=4 T=256, in MB: what llm_train_memory plans, and the "
                "peak\n   of a process that makes two steps\n")
    report.line(f"{'':15}" + "".join(f"{part:>12}" for part in PARTS) + f"{'peak':>10}")
    found = []
    for name, flags, most in MEMORY:
        command = [options.bench, "--step", "4", "256", "--reps", "1", *flags]
        command += ["--threads", str(options.threads)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        facts = dict(line.split() for line in lines.splitlines() if " " in line)
        plan = [float(facts[f"planned_{part}"]) for part in PARTS]
        peak = float(facts["maxrss"])
        planned = "".join(f"{x / 1e6:12.1f}" for x in plan)
        report.line(f"{name:15}{planned}{peak / 1e6:10.1f}")
        found.append((name, peak, peak / plan[-1] - 1, most))
    report.line()
    for name, peak, difference, most in found:
        report.bound(f"{name}: peak", peak / 1e9, most, " GB")
        report.bound(f"{name}: peak and plan differ ({100 * difference:+.2f} %) by",
                     100 * abs(difference), 2, " %")


# ---- nanoGPT's recipe ---------------------------------------------------------------------------

def random_bits(seed, n):
    """llm_random of llm.h"""
    mask = 2**64 - 1
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def torch_model(vocab_size):
    """GPT-2 as tools/curves.c has it: biases, tied head, GELU by tanh"""
    import torch
    import torch.nn.functional as F
    from torch import nn

    layers, heads, width = NANOGPT["layers"], NANOGPT["heads"], NANOGPT["width"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            B, T, C = x.shape
            parts = self.qkv(self.norm1(x)).split(C, dim=2)
            q, k, v = (y.view(B, T, heads, C // heads).transpose(1, 2) for y in parts)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocab_size, width)
            self.places = nn.Embedding(NANOGPT["seq"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    last = name.endswith(("out.weight", "down.weight"))
                    nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if last else 0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(p)

        def forward(self, x, targets):
            h = self.tokens(x) + self.places.weight[: x.shape[1]]
            for block in self.blocks:
                h = block(h)
            logits = F.linear(self.norm(h), self.tokens.weight)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    torch.manual_seed(NANOGPT["seed"])
    return GPT()


def torch_worker(options):
    """speaks as tools/curves.c with --serve does"""
    import torch

    torch.set_num_threads(options.threads)
    B, T, M, W = (NANOGPT[key] for key in ("batch", "seq", "steps", "warmup"))
    high, low, decay = float(NANOGPT["lr"]), float(NANOGPT["min_lr"]), NANOGPT["weight_decay"]
    with open(options.text, "rb") as file:
        data = file.read()
    token_of = {byte: i for i, byte in enumerate(sorted(set(data)))}
    text = torch.tensor([token_of[byte] for byte in data])
    n_train = int(len(data) * 0.9)
    starts = torch.tensor(
        [random_bits(NANOGPT["seed"], i) % (n_train - T) for i in range(M * B)]
    ).view(M, B, 1)
    model = torch_model(len(token_of)).train()
    print(f"parameters {sum(p.numel() for p in model.parameters())}")
    groups = [
        dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=decay),
        dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0),
    ]
    betas = (0.9, NANOGPT["beta2"])
    optimizer = torch.optim.AdamW(groups, lr=high, betas=betas, fused=True)

    def step(i):
        windows = text[starts[i] + torch.arange(T + 1)]
        lr = high * (i + 1) / W
        if i >= W:
            lr = low + (high - low) * (1 + math.cos(math.pi * (i - W) / (M - W))) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        model(windows[:, :-1], windows[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), NANOGPT["clip"])
        optimizer.step()

    print("ready", flush=True)
    done = 0
    for line in sys.stdin:
        for done in range(done + 1, done + 1 + int(line)):
            start = time.perf_counter()
            step(done - 1)
            print(f"{time.perf_counter() - start:.6f}")
        print("done", flush=True)
    places = torch.arange(n_train, len(data) - T, T)
    with torch.no_grad():
        windows = text[places[:, None] + torch.arange(T + 1)].split(100)
        losses = [model(x[:, :-1], x[:, 1:]).item() * len(x) for x in windows]
    print(f"val_loss {sum(losses) / len(places)}")


def fastest_wait(command):
    """-> the environment in which a trial is faster, of two ways for an idle thread to wait: as
    OpenMP does by itself, and as the Makefile sets; what both took"""
    found = []
    ways = {"OpenMP's own waiting": {}, "short waiting": {"GOMP_SPINCOUNT": "10000"}}
    for name, spin in ways.items():
        env = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
        env.update(spin)
        side = Side(command, env=env)
        side.turn(40)
        side.close()
        found.append((1e3 * statistics.median(side.seconds[10:]), name, env))
    best = min(found, key=lambda way: way[0])
    return best[2], ", ".join(f"{name} {ms:.2f}" for ms, name, _ in found)


def nanogpt(options, report):
    report.line("\n== nanoGPT's recipe: Tiny Shakespeare by character (beta1 0.9, no dropout; with "
                "biases,\n   which nanoGPT leaves out by default)")
    report.line(" ".join(arguments(NANOGPT)))
    if options.text != options.shakespeare:
        return report.line(f"skipped: no {options.shakespeare}: give it as --text")
    same = ["--text", options.text, "--threads", str(options.threads)]
    log = ["--log", os.path.join(options.out, "nanogpt.csv")]
    names, sides = ["llm.h"], []
    commands = [[options.curves, "--serve", *same, *log, *arguments(NANOGPT)]]
    try:
        import torch
        names.append(f"PyTorch {torch.__version__}, eager")
        commands.append([sys.executable, os.path.abspath(__file__), "--worker", *same])
    except ImportError:
        report.line(f"PyTorch skipped: {sys.executable} has no torch (pip install it)")
    for name, command in zip(names, commands):
        env, trials = fastest_wait(command)
        report.line(f"{name}: ms a step in a trial: {trials}")
        sides.append(Side(command, env=env))
    turn = 100
    for i in range(NANOGPT["steps"] // turn):
        for side in sides[:: 1 - 2 * (i % 2)]:
            side.turn(turn)
    report.line(f"\n{'ms a step':24} {f'best {turn}':>12} {'median':>9} {'mean':>9}   validation "
                "loss, bits per byte")
    bests, medians = [], []
    for side, name in zip(sides, names):
        side.close()
        ms = [1e3 * seconds for seconds in side.seconds]
        bests.append(min(statistics.fmean(ms[i : i + turn]) for i in range(0, len(ms), turn)))
        medians.append(statistics.median(ms))
        report.line(f"{name:24} {bests[-1]:12.2f} {medians[-1]:9.2f} {statistics.fmean(ms):9.2f}   "
                    f"{side.facts['val_loss']:.4f}  {side.facts['val_loss'] / math.log(2):.4f}")
    report.line()
    report.bound("nanoGPT's recipe: validation loss", sides[0].facts["val_loss"], LOSS_BOUND)
    if len(sides) > 1:
        counts = [side.facts["parameters"] for side in sides]
        if counts[0] != counts[1]:
            raise SystemExit(f"not the same model: {counts[0]} and {counts[1]} parameters")
        report.bound("llm.h's time by PyTorch's, median step", medians[0] / medians[1], TIME_BOUND)
        report.line(f"      best {turn} steps: {bests[0] / bests[1]:.3f}")


def main():
    tables = {"curves": curves, "memory": memory, "nanogpt": nanogpt, "claims": claims}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(tables))
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "results"))
    parser.add_argument("--text", help="Tiny Shakespeare; default: ../shared/data beside llm.h's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="default: %(default)s")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_arguments(parser)
    options = parser.parse_args()
    short = [n for n in ("quick", "smoke", "plan", "groups", "version", "readme")
             if getattr(options, n)]
    if short and options.only != "claims":
        parser.error(f"--{short[0]} goes with --only claims")
    options.shakespeare = options.text or SHAKESPEARE
    if not os.path.exists(options.shakespeare):
        if options.text:
            raise SystemExit(f"no {options.text}")
        options.text = os.path.join(ROOT, "llm.h")
    else:
        options.text = options.shakespeare
    if options.worker:
        return torch_worker(options)

    os.makedirs(options.out, exist_ok=True)
    programs = {"memory": ["bench"], "claims": ["claims"], None: ["bench", "curves", "claims"]}
    os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
    for name in programs.get(options.only, ["curves"]):
        program = os.path.join(ROOT, "build", name)
        source = os.path.join(ROOT, "tools", f"{name}.c")
        build = [options.cc, "-O2", source, "-lm", "-o", program]
        print(" ".join(build), flush=True)
        subprocess.run(build, check=True)
        setattr(options, name, program)
    name = os.path.join(options.out, f"{options.only or 'results'}.txt")
    report = Report(os.devnull if options.plan else name)
    options.machine = machine(options)
    report.line(options.machine)
    for name, table in tables.items():
        if options.only in (None, name):
            table(options, report)
    report.line(f"\n{report.failed} of the bounds missed; all of it is in {options.out}")
    return report.failed > 0


if __name__ == "__main__":
    sys.exit(main())

"""The claims that this project began with, in numbers: a part of tools/results.py.

    tools/results.py --only claims              two hours on two idle cores, with three seeds
    tools/results.py --only claims --quick      ten minutes: few updates, one seed, one rate
    tools/results.py --only claims --plan       what would be run, and how long it takes
    tools/results.py --only claims --seeds 4,5,6    again, with other seeds, compared with the first

"A cache 32 times smaller; MTP at +33 % of a step; better perplexity with MTP": each group of runs
below trains small models of some variants with tools/claims.c, on the same batches, and its table
ends with the sentence that the numbers support.

Learning rates  every variant has the same three to choose from, and takes the one with the least
    loss on a part of the text that no table reports, on the first seed; but for GROUPS' lr_of
Equal updates   all make as many, each with a cosine over its own length
Equal time      each makes as many as fit the time of the first variant's. An update's time is that
    of the processors, by the number of threads: the least seen while all variants took turns
    (times-*.csv, where the least by the clock stands beside it). What a run took is not used: so
    losses are the same however busy the machine is. These are runs of their own, as a run that is
    cut short would be judged with a learning rate that has not fallen yet
Decided         two means differ if they do so by more than the larger of the two ranges (largest
    less smallest) over the seeds; with one seed nothing is decided
The texts       Tiny Shakespeare, a token for each byte, and the project's own text of one revision,
    in 1024 tokens of BPE; where there is no Shakespeare (git), llm.h (the files as they are)

Each run is a file in claims/, under a name that hashes its options, its text and the program
(llm.h, cli.h, claims.c): what is there is not run again, so Ctrl-C loses one run at most. With
--version an earlier program goes on, which is kept there, too. tables.txt, a CSV file with the same
for each choice of seeds, and the plots are made anew each time. --readme prints the tables in
Markdown.
"""

import csv
import hashlib
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

from compare_torch import ROOT, Side

REVISION = "8cc4f3d5d1af"       # whose text is learned
OWN = re.compile(r"(README\.md|llm\.h|(tests|examples|tools)/[^/]*\.[ch])$")
DEFAULTS = ["--seq", "128", "--batch", "8", "--warmup", "50"]
TOKENS = 128 * 8                # of an update
# name: options of tools/claims.c, updates, learning rates
SIZES = {
    "2M": (["--layers", "4", "--heads", "4", "--width", "192"], 800, ["5e-4", "1e-3", "2e-3"]),
    "10M": (["--layers", "6", "--heads", "6", "--width", "384"], 400, ["5e-4", "1e-3", "2e-3"]),
}
TEXTS = {"characters": ["--vocab", "0"], "BPE": ["--vocab", "1024"]}
SMOKE = ["--layers", "2", "--heads", "2", "--width", "32", "--ffn", "64", "--expert-ffn", "16",
         "--seq", "32", "--batch", "2", "--warmup", "2"]
DENSE = ["--arch", "deepseek", "--ffn", "640"]
MOE = ["--arch", "deepseek", "--ffn", "608", "--experts", "8", "--expert-ffn", "72"]
BIG = ["--arch", "deepseek", "--ffn", "1024"]
# name: options. Parameters at 2M, embeddings of 65 characters in: dense 1,986,624, of which GPT-2
# has 99.99 %, the first MoE, in all, 100.001 %; the second MoE has as many active ones
VARIANTS = {
    "no MTP": DENSE,
    "MTP, D=1": [*DENSE, "--mtp", "1"],
    "MTP, D=2": [*DENSE, "--mtp", "2"],
    "GPT-2": ["--arch", "gpt2", "--ffn", "878"],
    "MoE, equal total": MOE,
    "MoE, equal active": ["--arch", "deepseek", "--ffn", "680", "--experts", "8", "--expert-ffn",
                          "208"],
    "uncompressed": [*DENSE, "--kv-rank", "192"],
    "uncompressed, narrower FFN": ["--arch", "deepseek", "--ffn", "496", "--kv-rank", "192"],
    "gamma 0": [*MOE, "--gamma", "0"],
    "alpha 0": [*MOE, "--alpha", "0"],
    "gamma 0, alpha 0": [*MOE, "--gamma", "0", "--alpha", "0"],
    "alpha 0.01": [*MOE, "--alpha", "0.01"],
}
# the first variant is what the others are compared with. lr_of: whose learning rate all take
GROUPS = [
    dict(name="mtp-2m-characters", about="MTP", text="characters", size="2M", timed=True,
         variants=["no MTP", "MTP, D=1", "MTP, D=2"]),
    dict(name="mtp-2m-bpe", about="MTP", text="BPE", size="2M", timed=True,
         variants=["no MTP", "MTP, D=1", "MTP, D=2"]),
    dict(name="mtp-10m-bpe", about="MTP", text="BPE", size="10M", timed=True,
         variants=["no MTP", "MTP, D=1", "MTP, D=2"]),
    dict(name="families", about="families", text="characters", size="2M", timed=True,
         variants=["no MTP", "GPT-2", "MoE, equal total", "MoE, equal active"]),
    dict(name="balance", about="balance", text="characters", size="2M", timed=False,
         lr_of="MoE, equal total",
         variants=["MoE, equal total", "gamma 0", "alpha 0", "gamma 0, alpha 0", "alpha 0.01"]),
    dict(name="latent", about="latent", text="characters", size="2M", timed=False,
         variants=["no MTP", "uncompressed", "uncompressed, narrower FFN"]),
    dict(name="families-bpe", about="families", text="BPE", size="2M", timed=True,
         variants=["no MTP", "GPT-2", "MoE, equal total", "MoE, equal active"]),
]
TITLES = {
    "MTP": "multi-token prediction: loss of the main head",
    "families": "GPT-2 beside DeepSeek-V3, dense and with experts",
    "balance": "balance of experts: router biases (gamma 0.001) and sequence loss (alpha 0.0001)",
    "latent": "latent attention, rank 48, beside rank 192, which compresses nothing",
}
SHOWN = {"no MTP": {"families": "DeepSeek, dense", "latent": "latent, rank 48"},
         "MoE, equal total": {"balance": "gamma 0.001, alpha 0.0001"}}
CLAIMED_CACHE, CLAIMED_STEP = 32, 33       # times smaller; percent


def add_arguments(parser):
    group = parser.add_argument_group("claims")
    group.add_argument("--quick", action="store_true", help="in ten minutes")
    group.add_argument("--smoke", action="store_true", help="in one, of models that learn nothing")
    group.add_argument("--plan", action="store_true", help="print it, and how long it takes")
    group.add_argument("--version", help="of the program, an earlier one: to go on with its runs")
    group.add_argument("--readme", action="store_true", help="the tables in Markdown")
    group.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
    group.add_argument("--groups", help="only those whose names begin so, with commas between")


def shown(variant, group):
    return SHOWN.get(variant, {}).get(group["about"], variant)


def slug(text):
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def duration(seconds):
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02}:{int(seconds % 60):02}"


# ---- texts --------------------------------------------------------------------------------------

def own_text():
    """of REVISION, else of the files that are here -> bytes, what it is"""
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], check=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL).stdout
    try:
        names = git("ls-tree", "-r", "--name-only", REVISION).decode().splitlines()
        return b"".join(git("show", f"{REVISION}:{name}") for name in sorted(names)
                        if OWN.match(name)), f"this project at {REVISION}"
    except (OSError, subprocess.CalledProcessError):
        names = ["README.md", "llm.h"]
        for folder in ("tests", "examples", "tools"):
            names += [f"{folder}/{name}" for name in os.listdir(os.path.join(ROOT, folder))]
        text = b""
        for name in sorted(filter(OWN.match, names)):
            with open(os.path.join(ROOT, name), "rb") as file:
                text += file.read()
        return text, "this project's files (no git history)"


# ---- runs ---------------------------------------------------------------------------------------

class Claims:
    def __init__(self, options, report):
        self.options, self.report = options, report
        self.out = os.path.join(options.out, "claims" + ("-smoke" if options.smoke else
                                                         "-quick" if options.quick else ""))
        os.makedirs(self.out, exist_ok=True)
        self.seeds = [int(seed) for seed in options.seeds.split(",")]
        self.cut = options.smoke or options.quick
        if self.cut:
            self.seeds = self.seeds[:1]
        self.texts, self.hashes = {}, {}
        self.prepare_texts()
        program = b""
        for name in ("llm.h", "examples/cli.h", "tools/claims.c"):
            with open(os.path.join(ROOT, name), "rb") as file:
                program += file.read()
        self.version = options.version or hashlib.sha256(program).hexdigest()[:10]
        self.program = self.path(f"program-{self.version}")      # stays, whatever is built
        if not os.path.exists(self.program):
            if options.version:
                raise SystemExit(f"no {self.program}")
            shutil.copy2(options.claims, self.program)
        self.groups = [
            g for g in GROUPS if not options.groups or g["name"].startswith(
                tuple(options.groups.split(",")))]
        self.sizes, self.left, self.begun = {}, None, time.monotonic()

    def prepare_texts(self):
        text, about = own_text()
        with open(self.options.text, "rb") as file:
            characters = file.read()
        for name, data in (("characters", characters), ("BPE", text)):
            if self.options.smoke:
                data = data[:60000]
            path = self.path(f"{name.lower()}.txt")
            with open(path, "wb") as file:
                file.write(data)
            self.texts[name] = path
            self.hashes[name] = hashlib.sha256(data).hexdigest()[:10]
        self.about = {"characters": os.path.basename(self.options.text), "BPE": about}

    def path(self, name):
        return os.path.join(self.out, name)

    def updates(self, size):
        return 6 if self.options.smoke else SIZES[size][1] // (6 if self.cut else 1)

    def rates(self, size):
        return SIZES[size][2][1:2] if self.cut else SIZES[size][2]

    def shape(self, group, variant):
        wide = ["--ffn", "1024"] if group["size"] == "10M" else []
        return [*TEXTS[group["text"]], *DEFAULTS, *SIZES[group["size"]][0], *VARIANTS[variant],
                *wide, *(SMOKE if self.options.smoke else [])]

    def command(self, *words):
        return [self.program, *words, "--threads", str(self.options.threads)]

    def call(self, *words):
        result = subprocess.run(self.command(*words), stdout=subprocess.PIPE, text=True)
        if result.returncode:
            raise SystemExit(f"{' '.join(words)}: failed")
        return result.stdout

    def size_of(self, group, variant):
        """numbers of parameters and so on"""
        words = (*self.shape(group, variant), "--text", self.texts[group["text"]], "--describe")
        if words not in self.sizes:
            lines = self.call(*words).splitlines()
            self.sizes[words] = {k: float(v) for k, v in (line.split() for line in lines)}
        return self.sizes[words]

    # a run is (group, variant, lr, seed, updates)
    def run_path(self, run):
        group, variant, lr, seed, updates = run
        key = digest(self.version, self.hashes[group["text"]], str(lr), str(seed), str(updates),
                     *self.shape(group, variant))
        name = slug(f"{group['text']} {group['size']} {variant} {updates} lr{lr} seed{seed}")
        return self.path(f"{name}-{key}.csv")

    def spoken_path(self, run):
        return self.run_path(run)[:-4] + "-speculation.csv"

    def model_path(self, run):
        return self.run_path(run)[:-4] + "-model"

    def is_spoken(self, run):
        return "MTP, D=" in run[1] and run[4] == self.updates(run[0]["size"])

    def rows(self, path):
        with open(path) as file:
            return list(csv.DictReader(file))

    def result(self, run):
        return self.rows(self.run_path(run))

    def chosen(self, group, variant):
        """learning rate, None while a run is missing"""
        variant = group.get("lr_of", variant)
        found = []
        for lr in self.rates(group["size"]):
            run = (group, variant, lr, self.seeds[0], self.updates(group["size"]))
            if not os.path.exists(self.run_path(run)):
                return None
            found.append((float(self.result(run)[-1]["choose_nats"]), lr))
        return min(found)[1]

    def timed_updates(self, group, variant):
        times = self.times(group)
        U = self.updates(group["size"])
        return max(2, round(U * times[group["variants"][0]] / times[variant]))

    def jobs(self, group):
        """runs in order, lr None: the one that is chosen"""
        U = self.updates(group["size"])
        for variant in dict.fromkeys([group.get("lr_of", group["variants"][0]),
                                      *group["variants"]]):
            if group.get("lr_of", variant) == variant:
                for lr in self.rates(group["size"]):
                    yield group, variant, lr, self.seeds[0], U
        for seed in self.seeds:
            for variant in group["variants"]:
                yield group, variant, None, seed, U
        for seed in self.seeds if group["timed"] else []:
            for variant in group["variants"][1:]:
                yield group, variant, None, seed, self.timed_updates(group, variant)

    def seconds(self, run):
        """estimated; evaluations are 10 * 32 + 256 + 128 windows, 8 at a time, forward only"""
        updates = run[4] + 88 / 3
        return updates * self.times(run[0])[run[1]]

    # ---- an update's time ----------------------------------------------------------------------

    def timed_variants(self, text, size):
        return list(dict.fromkeys(
            v for g in GROUPS if (g["text"], g["size"]) == (text, size) for v in g["variants"]))

    def times_path(self, group):
        variants = self.timed_variants(group["text"], group["size"])
        key = digest(self.version, self.hashes[group["text"]], str(self.options.threads),
                     *(word for v in variants for word in self.shape(group, v)))
        return self.path(slug(f"times {group['text']} {group['size']}") + f"-{key}.csv")

    def times(self, group, column="seconds"):
        """seconds of an update, of each variant; without a measurement, by operations, of which two
        cores of Zen 5 do 3e11 a second"""
        path = self.times_path(group)
        if os.path.exists(path):
            return {row["variant"]: float(row[column]) for row in self.rows(path)}
        U = {}
        for variant in self.timed_variants(group["text"], group["size"]):
            size = self.size_of(group, variant)
            U[variant] = 6 * (size["active"] + size["mtp"]) * TOKENS / 3e11
        return U

    def measure(self, group):
        """The least time of an update, of each variant in turn, until twelve rounds have not found
        one that is less by 1 % or more. The clock's is not taken, as on a busy machine no update
        has all cores"""
        path = self.times_path(group)
        if os.path.exists(path):
            return
        variants = self.timed_variants(group["text"], group["size"])
        print(f"times of an update: {group['text']}, {group['size']}, {len(variants)} variants in "
              "turns", flush=True)
        sides = [Side(self.command(*self.shape(group, v), "--text", self.texts[group["text"]],
                                   "--serve")) for v in variants]
        most, patience = (2, 2) if self.options.smoke else (6, 3) if self.cut else (60, 12)
        best, since, turn = [math.inf] * len(sides), 0, 0
        while turn < most and since < patience:
            since += 1
            for i, side in list(enumerate(sides))[:: 1 - 2 * (turn % 2)]:
                side.turn(4)
                least = min(side.seconds[1::2])        # the clock's are between
                if least < 0.99 * best[i]:
                    since = 0
                best[i] = min(best[i], least)
            turn += 1
        threads = self.options.threads
        self.write(path, ["variant", "seconds", "median", "clock", "updates"],
                   [[v, f"{b / threads:.6f}",
                     f"{statistics.median(s.seconds[1::2]) / threads:.6f}",
                     f"{min(s.seconds[::2]):.6f}", len(s.seconds) // 2]
                    for v, b, s in zip(variants, best, sides)])
        for side in sides:
            side.close()

    def write(self, path, head, rows):
        with open(path + ".tmp", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            writer.writerows(rows)
        os.replace(path + ".tmp", path)

    # ---- making them ---------------------------------------------------------------------------

    def missing(self):
        """[(run, seconds)]: those that have to be made, as far as it is known now"""
        found, seen = [], set()
        for group in self.groups:
            for run in self.jobs(group):
                lr = run[2] or self.chosen(group, run[1])
                # of those whose rate is open, the first seed's is among the three
                key = (group["text"], group["size"], run[1], lr, *run[3:])
                if key in seen or not lr and run[3] == self.seeds[0] and \
                        run[4] == self.updates(group["size"]) and \
                        group.get("lr_of", run[1]) == run[1]:
                    continue
                seen.add(key)
                if not lr or not os.path.exists(self.run_path((*run[:2], lr, *run[3:]))):
                    found.append((run, self.seconds(run)))
        return found

    def make(self, run):
        path = self.run_path(run)
        if not os.path.exists(path):
            group, variant, lr, seed, updates = run
            words = [*self.shape(group, variant), "--text", self.texts[group["text"]], "--lr", lr,
                     "--seed", str(seed), "--steps", str(updates), "--log", path + ".tmp"]
            words += ["--evals", "2"] if self.options.smoke else []
            if self.is_spoken(run):
                words += ["--save", self.model_path(run)]
            before = self.missing()
            spent, made = time.monotonic() - self.begun, self.planned - sum(s for _, s in before)
            left = sum(s for _, s in before) * (spent / made if made > 60 else 1)
            print(f"[{duration(left)} left, {len(before)} runs] {os.path.basename(path)[:-15]}",
                  end=": ", flush=True)
            self.call(*words)
            os.replace(path + ".tmp", path)
            last = self.result(run)[-1]
            print(f"{float(last['end_nats']):.4f} nats, {float(last['end_bits']):.4f} bits/byte, "
                  f"{float(last['seconds']):.0f} s", flush=True)
        return path

    def speak(self, run):
        path = self.spoken_path(run)
        if os.path.exists(path):
            return
        if not os.path.isdir(self.model_path(run)):
            os.remove(self.run_path(run))
            self.make(run)
        words = ["--speculate", self.model_path(run), *TEXTS[run[0]["text"]], *DEFAULTS, "--text",
                 self.texts[run[0]["text"]], *(SMOKE if self.options.smoke else []), "--prompts",
                 "2" if self.options.smoke else "16"]
        text = self.call(*words)
        with open(path + ".tmp", "w") as file:
            file.write(text)
        os.replace(path + ".tmp", path)

    def make_all(self):
        self.begun, self.planned = time.monotonic(), sum(s for _, s in self.missing())
        for group in self.groups:
            for run in self.jobs(group):
                self.make((*run[:2], run[2] or self.chosen(group, run[1]), *run[3:]))
            for variant in group["variants"]:
                for seed in self.seeds:
                    run = (group, variant, self.chosen(group, variant), seed,
                           self.updates(group["size"]))
                    if self.is_spoken(run):
                        self.speak(run)

    # ---- what came out -------------------------------------------------------------------------

    def outcomes(self, group, variant, updates):
        """of each seed: the last row"""
        lr = self.chosen(group, variant)
        return [self.result((group, variant, lr, seed, updates))[-1] for seed in self.seeds]


class Spread:
    def __init__(self, values):
        self.values = values
        self.mean, self.low, self.high = statistics.fmean(values), min(values), max(values)
        self.deviation = statistics.stdev(values) if len(values) > 1 else math.nan

    @property
    def range(self):
        return self.high - self.low

    def __str__(self):
        if len(self.values) < 2:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} +- {self.deviation:.4f} ({self.low:.4f}..{self.high:.4f})"


def compare(spread, base):
    """'lower', 'higher', or why that is not decided"""
    if len(spread.values) < 2:
        return "not decided: one seed has no spread"
    if abs(spread.mean - base.mean) <= max(spread.range, base.range):
        return "not decided: the spread is larger than the difference"
    return "lower" if spread.mean < base.mean else "higher"


def percent(spread, base):
    return f"{100 * (spread.mean / base.mean - 1):+.2f} %"


def aligned(report, head, rows):
    """text to the left, numbers to the right"""
    table = [head, *rows]
    if report.markdown:
        table[1:1] = [["---"] * len(head)]
        return [report.line("| " + " | ".join(map(str, row)) + " |") for row in table]
    widths = [max(len(str(row[i])) for row in table) for i in range(len(head))]
    for row in table:
        report.line("  ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w)
                              for i, (c, w) in enumerate(zip(row, widths))).rstrip())


def cache_table(claims, report, summary):
    report.line("\n-- the cache: what one token takes in all layers, in bytes of f32, and with\n"
                "   multi-head attention in their place (2 L H values of a head); in brackets, if\n"
                "   its keys were as wide as latent attention's, rotated part included")
    head, *lines = claims.call("--presets").splitlines()
    found = list(csv.DictReader([head, *lines]))
    rows, ratios = [], {}
    for row in found:
        own, other, wide = (int(row[k]) for k in ("bytes", "multi_head_bytes", "with_rope_bytes"))
        if row["preset"].startswith("deepseek") or own != other:
            ratios[row["preset"]] = other / own
        rows.append([row["preset"], f"{own:,}", f"{other:,}", f"{other / own:.1f}",
                     f"({wide / own:.1f})"])
        summary.append(["cache", row["preset"], "", "ratio", f"{other / own:.4f}", "", "", "", 1])
    aligned(report, ["preset", "cache", "multi-head", "times smaller", ""], rows)
    reached = [name for name, ratio in ratios.items() if ratio >= CLAIMED_CACHE]
    low, high = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    report.line(
        f'\n"A cache {CLAIMED_CACHE} times smaller": {len(reached)} of {len(ratios)} presets with '
        f"latent attention reach that ({', '.join(reached) or 'none'}); it is "
        f"{ratios[low]:.1f} ({low}) to {ratios[high]:.1f} ({high}) times, so the claim is "
        + ("SUPPORTED." if len(reached) == len(ratios) else
           "REFUTED as a general one; it holds for those named." if reached else "REFUTED."))


def step_table(claims, report, summary):
    rows, found = [], []
    for group in claims.groups:
        if group["about"] != "MTP":
            continue
        times, base = claims.times(group), group["variants"][0]
        clock = claims.times(group, "clock")
        for variant in group["variants"]:
            more = 100 * (times[variant] / times[base] - 1)
            size = claims.size_of(group, variant)
            share = 100 * size["mtp"] / size["parameters"]
            rows.append([f"{group['size']}, {group['text']}: {variant}",
                         f"{1e3 * times[variant]:.2f}", f"{more:+.1f} %",
                         f"{1e3 * clock[variant]:.2f}", f"{share:+.1f} %"])
            summary.append([group["name"], variant, "time", "ms/update",
                            f"{1e3 * times[variant]:.4f}", "", "", "", 1])
            if variant.endswith("D=1"):
                found.append(more)
    if not rows:
        return
    report.line("\n-- MTP's cost: the least time of an update while all variants took turns, of\n"
                "   the processors by the number of threads, and by the clock, in ms\n")
    aligned(report, ["", "ms", "more", "by the clock", "parameters"], rows)
    low, high = min(found), max(found)
    where = f"{low:+.0f} %" if low == high else f"{low:+.0f} to {high:+.0f} %"
    verdict = ("SUPPORTED, to the 3 points that these times may be wrong by"
               if low - 3 <= CLAIMED_STEP <= high + 3 else
               "REFUTED here: it costs " + ("less" if high < CLAIMED_STEP else "more"))
    report.line(f'\n"MTP at +{CLAIMED_STEP} % of a step": with one module an update takes {where}: '
                f"{verdict}. It depends on the shape: a module is a block and a pass of the head.")


def loss_table(claims, report, group, summary):
    U, base = claims.updates(group["size"]), group["variants"][0]
    modes = [("equal updates", lambda v: U)]
    if group["timed"]:
        modes.append(("equal time", lambda v: U if v == base else claims.timed_updates(group, v)))
    report.line(f"\n-- {TITLES[group['about']]}; {group['size']}, {group['text']}: "
                f"{claims.about[group['text']]}\n   (--groups {group['name']})\n")
    found, loads, rows = {}, {}, []
    balance = group["about"] == "balance"
    for mode, updates in modes:
        for variant in group["variants"]:
            last = claims.outcomes(group, variant, updates(variant))
            nats = Spread([float(row["end_nats"]) for row in last])
            bits = Spread([float(row["end_bits"]) for row in last])
            found[variant, mode] = nats
            size, lr = claims.size_of(group, variant), claims.chosen(group, variant)
            all_lr = claims.rates(group["size"])
            edge = "*" if len(all_lr) > 1 and lr in (all_lr[0], all_lr[-1]) else ""
            row = [shown(variant, group), mode, f"{1e-6 * size['parameters']:.3f}",
                   f"{1e-6 * size['active']:.3f}", lr + edge, updates(variant),
                   f"{updates(variant) * TOKENS / 1e6:.2f}", nats, f"{bits.mean:.4f}",
                   "" if variant == base else percent(nats, found[base, mode])]
            if balance:
                loads[variant] = Spread([float(r["load_max"]) for r in last])
                row += [f"{loads[variant].mean:.2f}",
                        f"{statistics.fmean(float(r['load_min']) for r in last):.2f}"]
            if group["about"] == "latent":
                row.append(f"{size['cache_bytes']:.0f}")
            rows.append(row)
            for unit, spread in (("nats/token", nats), ("bits/byte", bits)):
                summary.append([group["name"], variant, mode, unit, f"{spread.mean:.6f}",
                                f"{spread.deviation:.6f}", f"{spread.low:.6f}",
                                f"{spread.high:.6f}", len(spread.values)])
    head = ["", "at", "M param.", "active", "lr", "updates", "M tokens",
            "nats/token, held out" + (": +- deviation (range)" if len(claims.seeds) > 1 else ""),
            "bits/byte", "to the first"]
    head += ["load max", "min"] if balance else ["cache, B/token"] if group["about"] == "latent" \
        else []
    aligned(report, head, rows)
    if any("*" in str(row[4]) for row in rows):
        report.line("* the best of the three, but at their edge: a further one may be better")
    report.line()
    for mode, _ in modes:
        for variant in group["variants"][1:]:
            nats, first = found[variant, mode], found[base, mode]
            verdict = compare(nats, first)
            name, other = shown(variant, group), shown(base, group)
            text = f"{name} at {mode}: {percent(nats, first)} of {other}'s loss: {verdict}"
            if group["about"] == "MTP":
                text += {"lower": '; "better perplexity with MTP" is SUPPORTED',
                         "higher": '; "better perplexity with MTP" is REFUTED'}.get(verdict, "")
            if balance:
                text += f"; load of the most used expert: {compare(loads[variant], loads[base])}"
            report.line(text + ".")
    if group["about"] == "latent":
        options = SIZES[group["size"]][0]
        layers, width = (int(options[options.index(k) + 1]) for k in ("--layers", "--width"))
        report.line(f"Multi-head attention with these heads holds {2 * layers * width * 4} bytes a "
                    "token.")


def speculation_table(claims, report, summary):
    rows, kept = [], {}
    for group in claims.groups:
        for variant in group["variants"]:
            run = (group, variant, claims.chosen(group, variant))
            if "MTP, D=" not in variant:
                continue
            files = [claims.rows(claims.spoken_path((*run, seed, claims.updates(group["size"]))))
                     for seed in claims.seeds]
            for i, temperature in enumerate(("greedy", "0.8")):
                of = [{k: float(v) for k, v in file[i].items()} for file in files]
                accepted = Spread([r["accepted"] / max(r["drafted"], 1) for r in of])
                plain = Spread([r["tokens"] / r["plain_seconds"] for r in of])
                faster = Spread([r["plain_seconds"] / r["speculated_seconds"] for r in of])
                rows.append([f"{group['size']}, {group['text']}: {variant}", temperature,
                             f"{100 * accepted.mean:.1f} ({100 * accepted.low:.1f}.."
                             f"{100 * accepted.high:.1f}) %", f"{plain.mean:.0f}",
                             f"{plain.mean * faster.mean:.0f}",
                             f"{faster.mean:.2f} ({faster.low:.2f}..{faster.high:.2f})"])
                kept[rows[-1][0], temperature] = faster
                for unit, spread in (("accepted", accepted), ("plain tokens/s", plain),
                                     ("speed by plain", faster)):
                    summary.append([group["name"], variant, f"decoding, {temperature}", unit,
                                    f"{spread.mean:.6f}", f"{spread.deviation:.6f}",
                                    f"{spread.low:.6f}", f"{spread.high:.6f}", len(spread.values)])
    if not rows:
        return
    report.line("\n-- speculation with the MTP modules of these models: drafts that were accepted,"
                "\n"
                "   and tokens/s beside plain decoding in turns; the text is the same to the bit\n")
    aligned(report, ["", "temperature", "accepted", "plain", "speculated", "times faster"], rows)
    faster = [name for name, s in kept.items() if s.low > 1]
    slower = [name for name, s in kept.items() if s.high < 1]
    best = max(kept.values(), key=lambda s: s.mean)
    worst = min(kept.values(), key=lambda s: s.mean)
    report.line(f"\nSpeculation makes decoding faster on every seed in {len(faster)} of "
                f"{len(kept)} cases, slower in {len(slower)}; from {worst.mean:.2f} to "
                f"{best.mean:.2f} times as fast.")


# ---- plots --------------------------------------------------------------------------------------

STYLES = [("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (1, 2, 5, 2)), "v")]


def curve(claims, group, variant, updates, column):
    """-> updates, then the values of each seed"""
    lr = claims.chosen(group, variant)
    runs = [claims.result((group, variant, lr, seed, updates)) for seed in claims.seeds]
    x = [int(row["update"]) for row in runs[0]]
    return x, [[float(row[column]) for row in run] for run in runs]


def draw(ax, x, seeds, style, label, first=0):
    """mean and range, named at its end"""
    shade = ["0", "0.25", "0.45", "0.1", "0.35"][STYLES.index(style)]
    columns = list(zip(*seeds))[first:]
    x = x[first:]
    mean = [statistics.fmean(c) for c in columns]
    ax.plot(x, mean, linestyle=style[0], marker=style[1], markersize=4, color=shade, linewidth=1.4,
            label=label)
    if len(seeds) > 1:
        ax.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=shade,
                        alpha=0.15, linewidth=0)
    return x[-1], mean[-1], label


def name_ends(ax, ends):
    """labels at the lines' ends, moved apart where they would overlap"""
    low, high = ax.get_ylim()
    gap, at = (high - low) * 0.055, -math.inf
    right = max(x for x, _, _ in ends)
    for x, y, label in sorted(ends, key=lambda end: end[1]):
        at = max(y, at + gap)
        ax.annotate(label, (x, y), xytext=(right * 1.03, at), fontsize=8, va="center",
                    annotation_clip=False,
                    arrowprops=dict(arrowstyle="-", color="0.6", linewidth=0.6))
    ax.set_xlim(0, right)
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= right])
    ax.set_xlim(0, right * 1.42)


def plot(claims):
    try:
        import matplotlib
    except ImportError:
        return [f"plots skipped: {sys.executable} has no matplotlib (pip install it)"]
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = []

    def save(figure, name):
        for kind in ("png", "svg"):
            figure.savefig(claims.path(f"{name}.{kind}"), dpi=120)
        plt.close(figure)
        made.append(claims.path(f"{name}.png"))

    for group in claims.groups:
        U, base = claims.updates(group["size"]), group["variants"][0]
        panels = 2 if group["timed"] or group["about"] == "balance" else 1
        figure, axes = plt.subplots(1, panels, figsize=(6.2 * panels, 4.4), layout="constrained",
                                    squeeze=False)
        axes = axes[0]
        figure.suptitle(f"{TITLES[group['about']]}\n{group['size']}, {group['text']}", fontsize=10)
        first = 3 if not claims.options.smoke else 0        # after the steep beginning
        times = claims.times(group)
        ends = [draw(axes[0], *curve(claims, group, v, U, "held_nats"), style, shown(v, group),
                     first) for v, style in zip(group["variants"], STYLES)]
        name_ends(axes[0], ends)
        axes[0].set_xlabel("updates")
        axes[0].set_ylabel("loss of held-out text, nats per token")
        if group["timed"]:
            ends = []
            for v, style in zip(group["variants"], STYLES):
                n = U if v == base else claims.timed_updates(group, v)
                x, seeds = curve(claims, group, v, n, "held_nats")
                ends.append(draw(axes[1], [i * times[v] for i in x], seeds, style, shown(v, group),
                                 first))
            name_ends(axes[1], ends)
            axes[1].set_xlabel("seconds: updates by the least time of one")
        elif group["about"] == "balance":
            ends = []
            for v, style in zip(group["variants"], STYLES):
                x, seeds = curve(claims, group, v, U, "load_max")
                ends.append(draw(axes[1], x, seeds, style, shown(v, group)))
                draw(axes[1], *curve(claims, group, v, U, "load_min"), style, None)
            name_ends(axes[1], ends)
            axes[1].set_xlabel("updates")
            axes[1].set_ylabel("load of an expert: most and least used")
        for ax in axes:
            ax.grid(alpha=0.3)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        save(figure, group["name"])
    return made


# ---- all of it ----------------------------------------------------------------------------------

def agreement(claims, report, summary):
    """with tables of other seeds: is each mean within what their spreads allow?"""
    here = f"tables-{'-'.join(map(str, claims.seeds))}.csv"
    others = [name for name in sorted(os.listdir(claims.out))
              if re.fullmatch(r"tables-[\d-]+\.csv", name) and name != here]
    mine = {tuple(row[:4]): row for row in summary}
    for name in others:
        inside = outside = 0
        for row in claims.rows(claims.path(name)):
            key = (row["group"], row["variant"], row["at"], row["unit"])
            if row["unit"] != "nats/token" or key not in mine or int(row["seeds"]) < 2:
                continue
            mean, low, high = (float(mine[key][i]) for i in (4, 6, 7))
            spread = max(high - low, float(row["max"]) - float(row["min"]))
            if abs(mean - float(row["mean"])) <= spread:
                inside += 1
            else:
                outside += 1
                report.line(f"      {' / '.join(key)}: {mean:.4f} here, {float(row['mean']):.4f} "
                            f"there, spread {spread:.4f}")
        if inside + outside:
            report.line(f"\n{name}, of other seeds: {inside} of {inside + outside} means of losses "
                        "differ by no more than the larger range")


class Both:
    """what is printed, and in a file of its own"""
    def __init__(self, report, path, markdown):
        self.report, self.file, self.markdown = report, open(path, "w"), markdown

    def line(self, text=""):
        self.report.line(text)
        print(text, file=self.file, flush=True)


def all_of_it(options, report):
    if hasattr(os, "nice"):
        os.nice(10)
    all = Claims(options, report)
    report.line(f"\n== the claims, in numbers; {len(all.groups)} groups of runs, seeds "
                f"{options.seeds if not all.cut else all.seeds[0]}, program {all.version}")
    if not options.plan:
        for group in all.groups:
            all.measure(group)
    missing = all.missing()
    for group in all.groups:
        mine = [seconds for run, seconds in missing if run[0] is group]
        print(f"{group['name']:20} {len(mine):4} runs to make, about {duration(sum(mine))}")
    print(f"{'in all':20} {len(missing):4} runs to make, about "
          f"{duration(sum(seconds for _, seconds in missing))} if nothing else runs", flush=True)
    if options.plan:
        return
    all.make_all()

    seeds = "-".join(map(str, all.seeds))
    report = Both(report, all.path("tables.md" if options.readme else "tables.txt"),
                  options.readme)
    report.line(f"\n{options.machine}")
    for name, about in all.about.items():
        report.line(f"{name}: {about}, {os.path.getsize(all.texts[name]):,} bytes, sha256 "
                    f"{all.hashes[name]}..")
    if all.cut:
        report.line("A SHORT VERSION (--quick or --smoke): nothing can be concluded from it")
    summary = []
    cache_table(all, report, summary)
    step_table(all, report, summary)
    for group in all.groups:
        loss_table(all, report, group, summary)
    speculation_table(all, report, summary)
    head = ["group", "variant", "at", "unit", "mean", "deviation", "min", "max", "seeds"]
    all.write(all.path(f"tables-{seeds}.csv"), head, summary)
    agreement(all, report, summary)
    report.line()
    for line in plot(all):
        report.line(line)


def claims(options, report):
    try:
        all_of_it(options, report)
    except KeyboardInterrupt:
        raise SystemExit("\nstopped: the same command goes on from here")

#!/usr/bin/env python3
"""Draws the losses of one or more trainings, from the log.csv that examples/train.c writes.

    pip install matplotlib
    python3 tools/plot_loss.py build/model                      the directory, or its log.csv
    python3 tools/plot_loss.py f32 bf16 fp8 --out curves.svg --zoom --title "Three precisions"

Each run is a colour: the training loss smoothed (an exponential moving average, --smooth), faintly
what it was at each update, and points for the validation losses; the lowest of these stands in the
legend, in nats per token and bits per byte. Earlier runs have broader lines, which show under later
ones. A run is labelled with the name of its directory, or as --labels says. --rate adds a panel
with learning rate and gradient norm; with --x tokens the axis below counts tokens, not updates.
Exits 1 if a file cannot be read.
"""

import argparse
import csv
import math
import os
import sys

COLOURS = ["#2f6fb2", "#d1602b", "#3a9156", "#8a5bb0", "#b8913a", "#c2477f", "#4aa3a8", "#666666"]
GREY = "#5a5a5a"


def fail(message):
    sys.exit("plot_loss.py: " + message)


def read_log(path):
    """-> a dict of columns, each a list of floats with NaN where a row has nothing"""
    if os.path.isdir(path):
        path = os.path.join(path, "log.csv")
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        fail(f"{path}: {getattr(e, 'strerror', None) or e}")
    if rows and None in rows[-1].values():  # the last row is still being written
        rows.pop()
    if not rows:
        fail(f"{path}: no rows")
    columns = {}
    for name in rows[0]:
        try:
            columns[name] = [float(row[name] or "nan") for row in rows]
        except (TypeError, ValueError):
            fail(f"{path}: not a number in column {name}: is it a log of examples/train.c?")
    for name in ("step", "train_loss", "val_loss"):
        if name not in columns:
            fail(f"{path}: no column {name}")
    return columns


def smoothed(values, share):
    """Exponential moving average; divided by the weights so far, so that it has no bias to 0."""
    average, weight, out = 0.0, 0.0, []
    for value in values:
        if not math.isnan(value):
            average = share * average + (1 - share) * value
            weight = share * weight + (1 - share)
        out.append(average / weight if weight else math.nan)
    return out


def label_of(path):
    path = os.path.abspath(path)
    return os.path.basename(path if os.path.isdir(path) else os.path.dirname(path))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="+", help="directories of train.c, or their log.csv")
    parser.add_argument("--out", default="loss.png", help="a .png, .svg or .pdf [%(default)s]")
    parser.add_argument("--labels", nargs="+", help="one for each log")
    parser.add_argument("--title", default="")
    parser.add_argument("--smooth", type=float, metavar="S", help="what is kept of the average "
                        "at an update, in [0, 1) [it spans a fortieth of the run]")
    parser.add_argument("--x", choices=["step", "tokens"], default="step")
    parser.add_argument("--rate", action="store_true", help="learning rate and gradient norm, too")
    parser.add_argument("--mtp", action="store_true", help="the MTP module's loss, too, dashed")
    parser.add_argument("--zoom", action="store_true", help="leave out the steep beginning")
    parser.add_argument("--log", action="store_true", help="logarithmic loss")
    args = parser.parse_args()
    if args.smooth is not None and not 0 <= args.smooth < 1:
        fail(f"--smooth {args.smooth:g}: not in [0, 1)")
    labels = args.labels or [label_of(path) for path in args.logs]
    if len(labels) != len(args.logs):
        fail(f"{len(labels)} labels for {len(args.logs)} logs")
    runs = [read_log(path) for path in args.logs]
    if args.x == "tokens" and not all("tokens" in run for run in runs):
        fail("a log without a column tokens: use --x step")

    try:
        import matplotlib
    except ImportError:
        fail("needs matplotlib: pip install matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    plt.rcParams.update({
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
        "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.8, "axes.axisbelow": True,
        "svg.fonttype": "none", "svg.hashsalt": "plot_loss",
    })
    figure, axes = plt.subplots(
        2 if args.rate else 1, 1, sharex=True, squeeze=False, layout="constrained",
        figsize=(8, 6 if args.rate else 4.5), height_ratios=[3, 1.4] if args.rate else [1],
    )
    top, bottom = axes[0][0], axes[-1][0]
    norms = bottom.twinx() if args.rate else None
    seen, lowest = [], math.inf         # of the smoothed and validation losses
    for i, (run, label) in enumerate(zip(runs, labels)):
        colour = COLOURS[i % len(COLOURS)]
        x, raw, valid = run[args.x], run["train_loss"], run["val_loss"]
        share = max(0, 1 - 40 / len(x)) if args.smooth is None else args.smooth
        line = smoothed(raw, share)
        broader = 0.8 * min(len(runs) - 1 - i, 3)
        points = [(a, b) for a, b in zip(x, valid) if not math.isnan(b)]
        top.plot(x, raw, color=colour, alpha=0.18, linewidth=0.7, zorder=1)
        top.plot(x, line, color=colour, linewidth=1.7 + broader, zorder=3)
        if points:
            top.plot(*zip(*points), "o", color=colour, markersize=6 + broader,
                     markeredgecolor="white", markeredgewidth=1.2, zorder=4)
            best = min(range(len(x)), key=lambda j: (math.isnan(valid[j]), valid[j]))
            bits = run.get("val_bits_per_byte", [0] * len(x))[best]
            label += f", validation {valid[best]:.3f}"
            label += f" ({bits:.3f} bits/byte)" if bits else ""
        top.plot([], [], color=colour, linewidth=2.5, label=label)
        if args.mtp and any(run.get("mtp_loss", [])):
            top.plot(x, smoothed(run["mtp_loss"], share), "--", color=colour, linewidth=1.2)
        later = line[len(line) // 10:] + [b for a, b in points if a >= x[len(x) // 10]]
        seen += [value for value in later if not math.isnan(value)]
        lowest = min([lowest] + seen)
        if args.rate:
            bottom.plot(x, run["lr"], color=colour, linewidth=1.5 + broader)
            norms.plot(x, smoothed(run["grad_norm"], share), ":", color=colour, linewidth=1.2)

    handles = top.get_legend_handles_labels()[0]
    handles.append(top.plot([], [], "o", color=GREY, markersize=5, label="validation")[0])
    if args.mtp:
        handles.append(top.plot([], [], "--", color=GREY, linewidth=1.2, label="MTP")[0])
    top.legend(handles=handles, frameon=False, loc="upper right", labelcolor="#333333")
    top.set_ylabel("loss, nats per token")
    if args.log:
        top.set_yscale("log")
    if args.zoom and seen:
        room = 0.05 * (max(seen) - lowest)
        top.set_ylim(lowest - room, max(seen) + room)
    if args.title:
        top.set_title(args.title, loc="left", color="#222222", fontweight="bold")
    if args.rate:
        bottom.set_ylabel("learning rate")
        bottom.set_ylim(bottom=0)
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        norms.set_ylabel("gradient norm (dotted)")
        norms.set_ylim(bottom=0)
        norms.grid(False)
    bottom.set_xlabel("tokens" if args.x == "tokens" else "update")
    if args.x == "tokens":
        bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    bottom.set_xlim(left=0)
    try:
        figure.savefig(args.out, dpi=160)
    except (OSError, ValueError) as e:
        fail(f"{args.out}: {getattr(e, 'strerror', None) or e}")
    print(args.out)


if __name__ == "__main__":
    main()

"""What the tests run of llm.h, and what they do not: lines, and branches in both directions.

    python3 tools/coverage.py               make coverage
    python3 tools/coverage.py --keep        what build/coverage holds, counted again without a run

clang counts (-fprofile-instr-generate -fcoverage-mapping); without it nothing is measured. How:

- A line counts if code stands in it, directives apart; it has run if any part of it has.
- A branch is one outcome of one condition, as it stands in the text: `if (a && b)` has four. A
  condition in a macro counts where the macro is used. Constants have none.
- >>kernels is compiled once per instruction set and is one text here: a line or branch has run if
  it has in one of them. The tests compare all that the CPU has with the same plain code.
- What has not run and has a reason in tools/coverage.txt is left out of both numbers. A line of it
  is a section's tag and a piece of the text, or "function" and a pattern of names: then every
  function that a line belongs to has such a name. The comment above such lines is their reason.

What is left is printed by section. Exit status 1 where a bound is missed, and where a line of
coverage.txt has nothing to explain any more."""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from fnmatch import fnmatch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", "coverage")
TOOLS = ["clang", "llvm-profdata", "llvm-cov"]
LINES, BRANCHES = 98.0, 95.0            # percent, at least
CODE, EXPANSION = 0, 1                  # kinds of regions


def measure():
    """the tests compiled and run; what llvm-cov exports about the header goes to a file"""
    os.makedirs(BUILD, exist_ok=True)
    tests, raw, merged = (os.path.join(BUILD, name) for name in ("tests", "raw", "merged"))
    command = ["clang", "-O1", "-fprofile-instr-generate", "-fcoverage-mapping", "tests/main.c",
               "-o", tests, "-lm"]
    if subprocess.run(command + ["-fopenmp"], cwd=ROOT, stderr=subprocess.DEVNULL).returncode:
        subprocess.run(command, cwd=ROOT, check=True)
    environment = dict(os.environ, LLVM_PROFILE_FILE=raw)
    with open(os.path.join(BUILD, "log"), "w") as log:
        result = subprocess.run([tests, "-v"], cwd=ROOT, env=environment, stdout=log,
                                stderr=subprocess.STDOUT)
    if result.returncode:
        sys.exit("the tests fail: build/coverage/log")
    subprocess.run(["llvm-profdata", "merge", raw, "-o", merged], check=True)
    with open(os.path.join(BUILD, "export.json"), "w") as out:
        subprocess.run(["llvm-cov", "export", tests, "-instr-profile=" + merged, "llm.h"],
                       cwd=ROOT, stdout=out, check=True)


def sections(text):
    """for each line, the tag of the section that it stands in"""
    tags, tag = [], ""
    for i, line in enumerate(text):
        found = re.match(r" \* >>(\w+) ", line)
        if found and "====" in text[i - 1]:
            tag = found.group(1)
        tags.append(tag)
    return tags


def lines_run(segments, text):
    """{line number: has run}, by llvm-cov's rule: the largest count of what begins in a line or
    reaches into it. Lines without a letter or a digit, and comments, are none."""
    starting = defaultdict(list)
    for line, _, count, has_count, entry, gap in segments:
        starting[line].append((count, has_count, entry, gap))
    run, into, comment = {}, None, False
    for number, line in enumerate(text, 1):
        here = starting.get(number, [])
        entries = [s[0] for s in here if s[1] and s[2] and not s[3]]
        mapped = (into and into[1] or entries) and not (here and here[0][2] and not here[0][1])
        code = re.sub(r"/\*.*?\*/", "", line)
        if comment:
            comment, code = "*/" not in code, code.partition("*/")[2]
        if "/*" in code:
            comment, code = True, code.partition("/*")[0]
        if mapped and re.search(r"\w", code) and not code.lstrip().startswith("#"):
            run[number] = max(entries + ([into[0]] if into and into[1] else [])) > 0
        if here:
            into = here[-1]
    return run


def branches_taken(functions, header):
    """{(line, place in the text): [condition's place, times true, times false]}"""
    taken = {}
    for function in functions:
        expansions = {r[6]: r for r in function["regions"] if r[7] == EXPANSION}
        for *place, true, false, file, _, _ in function["branches"]:
            site = [tuple(place)]
            while file in expansions:
                region = expansions[file]
                site.append(tuple(region[:4]))
                file = region[5]
            if os.path.basename(function["filenames"][file]) != header:
                continue
            entry = taken.setdefault(tuple(site), [0, 0])
            entry[0] += true
            entry[1] += false
    return taken


def owners(functions, header):
    """{line number: the names of the functions and macros' users that it belongs to}"""
    names = defaultdict(set)
    for function in functions:
        name = function["name"].split(":")[-1]
        for first, _, last, _, _, file, _, kind in function["regions"]:
            if kind == CODE and os.path.basename(function["filenames"][file]) == header:
                for number in range(first, last + 1):
                    names[number].add(name)
    return names


def condition(text, place):
    first, begin, last, end = place
    if first == last:
        return text[first - 1][begin - 1:end - 1]
    return text[first - 1][begin - 1:] + " ..."


def read_reasons(path):
    """[[tag, text, times used]]"""
    with open(path) as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    return [line.split(None, 1) + [0] for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="count build/coverage again")
    options = parser.parse_args()
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print("skipped: no %s (packages clang, llvm)" % ", ".join(missing))
        return 0
    if not options.keep:
        measure()
    with open(os.path.join(BUILD, "export.json")) as file:
        data = json.load(file)["data"][0]
    with open(os.path.join(ROOT, "llm.h")) as file:
        text = file.read().split("\n")
    tags = sections(text)
    belongs = owners(data["functions"], "llm.h")
    reasons = read_reasons(os.path.join(ROOT, "tools", "coverage.txt"))

    def explained(number):
        found = False
        for reason in reasons:
            tag, pattern, _ = reason
            if tag == "function":
                good = belongs[number] and all(fnmatch(name, pattern) for name in belongs[number])
            else:
                good = tag == ">>" + tags[number - 1] and pattern in text[number - 1]
            if good:
                reason[2] += 1
                found = True
        return found

    left = defaultdict(lambda: defaultdict(list))      # tag -> line -> what has not happened
    counts = {"lines": [0, 0, 0], "branches": [0, 0, 0]}       # run, of, left out
    segments = [f for f in data["files"] if f["filename"].endswith("llm.h")][0]["segments"]
    for number, run in sorted(lines_run(segments, text).items()):
        count = counts["lines"]
        if not run and explained(number):
            count[2] += 1
            continue
        count[0] += run
        count[1] += 1
        if not run:
            left[tags[number - 1]][number].append("not run")
    for site, outcomes in sorted(branches_taken(data["functions"], "llm.h").items(),
                                 key=lambda item: item[0][::-1]):
        number = site[-1][0]
        never = [name for name, times in zip(("true", "false"), outcomes) if not times]
        out = len(never) if never and explained(number) else 0
        count = counts["branches"]
        count[2] += out
        count[0] += 2 - len(never)
        count[1] += 2 - out
        if never and not out:
            where = left[tags[number - 1]][number]
            if not outcomes[0] and not outcomes[1]:
                where.append("not reached: " + condition(text, site[0]))
            else:
                where.append("never %s: %s" % (never[0], condition(text, site[0])))
    for tag in sorted(left, key=lambda tag: min(left[tag])):
        print(">>" + tag)
        for number, what in sorted(left[tag].items()):
            print("  %5d  %s" % (number, text[number - 1].strip()))
            print("         " + "; ".join(sorted(set(what))))
    good = True
    for tag, pattern, used in reasons:
        if not used:
            good = False
            print("tools/coverage.txt: nothing to explain: %s %s" % (tag, pattern))
    for name, bound in ("lines", LINES), ("branches", BRANCHES):
        run, of, out = counts[name]
        share = 100.0 * run / of
        good = good and share >= bound
        print("%s: %d of %d = %.2f %%, at least %g; left out with a reason: %d"
              % (name, run, of, share, bound, out))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

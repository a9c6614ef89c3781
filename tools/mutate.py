"""Would the tests notice? Single faults are planted in llm.h, one at a time, and the tests run.

    python3 tools/mutate.py                 make mutate: about an hour on two cores
    python3 tools/mutate.py --list          the faults that it would plant, section by section

A fault is one line of the header changed by a rule (RULES, below): an operator, a constant, a
variable, an argument, a statement. Every section gets one, and more by its size. A seed and the
line's text decide which ones, so that a header that has changed elsewhere keeps its faults. A fault
that does not compile, or whose object code is what it was, is replaced by the next.

A fault is killed when a test fails, crashes or takes too long. tools/mutate.txt names those that
change nothing which could be noticed, each with its reason; they do not count. The others that
survive are printed. Exit status 0 if at least 97 % of what counts was killed.

What is known stands in build/mutate, so that a run can be stopped and started again; what survived
is tried again when the tests have changed, all when the header has."""
import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", "mutate")
BOUND = 97.0                                    # percent that have to be killed
NOT_CODE = {"api", "licence"}                   # declarations and comments
# passes that cannot run where the CPU lacks the flag: their text is not compiled
PASSES = [("LLMI_AMX", "amx_bf16"), ("LLMI_BF16", "avx512_bf16")]
WORDS = set("""auto break case char const continue default do double else enum extern float for goto
    if inline int long register return short signed sizeof static struct switch typedef union
    unsigned void volatile while NULL defined""".split())


# ---- the rules: each yields (begin, end, instead) for one line -----------------------------------
# code is the line with blanks for its comments and for what stands between quotes
def replaced(pattern, table):
    """a rule: what the pattern's first group holds becomes each of the table's words for it"""
    def rule(code):
        for found in re.finditer(pattern, code):
            for instead in table.get(found.group(1), ()):
                yield found.start(1), found.end(1), instead
    return rule


def closing(code, at):
    """the place behind the bracket that closes the one at `at`; 0: in another line"""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if not depth:
            return i + 1
    return 0


def negated(code):
    for found in re.finditer(r"\b(?:if|while) (\()", code):
        end = closing(code, found.start(1))
        if end:
            yield found.start(1), found.start(1), "(!"
            yield end, end, ")"


def constants(code):
    for found in re.finditer(r"(?<![\w.])(\d+)(u?)(?![\w.])", code):
        value = int(found.group(1))
        yield found.start(), found.end(), "%d%s" % (value + 1, found.group(2))
        if value:
            yield found.start(), found.end(), "%d%s" % (value - 1, found.group(2))
    for found in re.finditer(r"(?<![\w.])(\d+\.\d+(?:e-?\d+)?)(f?)(?!\w)", code):
        value = float(found.group(1))
        yield found.start(), found.end(), ("%r%s" % (value * 2 if value else 1.0, found.group(2)))


def dropped(code):
    found = re.match(r" +((?!(?:const|static|typedef|else|for|do|case) )\S[^;{}]*;)\s*$", code)
    if found and not re.match(r"return \S|\w+ \*?\w+(,|;)", found.group(1)):
        yield found.start(1), found.end(1), ";"
    found = re.match(r" +(else )", code)
    if found:
        yield found.start(1), found.end(1), ""


def arguments(code):
    """of a call: neighbours swapped"""
    for found in re.finditer(r"\w(\()", code):
        end = closing(code, found.start(1))
        begin, parts, depth = found.end(1), [], 0
        for i in range(begin, end):
            depth += (code[i] in "([{") - (code[i] in ")]}")
            if depth < 0 or (code[i] == "," and not depth):
                parts.append((begin, code[begin:i]))
                begin = i + 2
        for (at, left), (_, right) in zip(parts, parts[1:]):
            if left != right:
                yield at, at + len(left) + 2 + len(right), right + ", " + left


def variables(code):
    """one stands where another of the same line should"""
    names = [found for found in re.finditer(r"(?<![\w.>])[a-z]\w*\b(?!\()", code)
             if found.group() not in WORDS]
    for found in names:
        for name in sorted({other.group() for other in names} - {found.group()}):
            yield found.start(), found.end(), name


def branches(code):
    for found in re.finditer(r"\? ([^?:;]+) : ([^?:;,)]+)", code):
        yield found.start(1), found.end(2), found.group(2) + " : " + found.group(1)


RULES = {
    "relation": replaced(r" ([<>]=?|[!=]=) ", {
        "<": ["<=", ">="], ">": [">=", "<="], "<=": ["<", ">"], ">=": [">", "<"], "==": ["!="],
        "!=": ["=="]}),
    "logic": replaced(r" (&&|\|\|) |(?<![\w])(!)(?=[\w(])", {"&&": ["||"], "||": ["&&"]}),
    "not": replaced(r"(!)(?=[\w(])", {"!": [""]}),
    "negated": negated,
    "arithmetic": replaced(r"(?<=[\w)\]]) ([-+*/%]) (?=[\w(])", {
        "+": ["-"], "-": ["+"], "*": ["+"], "/": ["*"], "%": ["/"]}),
    "bits": replaced(r" (<<|>>|[&|^]) ", {
        "<<": [">>"], ">>": ["<<"], "&": ["|"], "|": ["&"], "^": ["|"]}),
    "assignment": replaced(r" ([-+*|&]=) |(\+\+|--)", {
        "+=": ["=", "-="], "-=": ["=", "+="], "*=": ["="], "|=": ["="], "&=": ["="]}),
    "step": replaced(r"(\+\+|--)", {"++": ["--"], "--": ["++"]}),
    "constant": constants,
    "dropped": dropped,
    "argument": arguments,
    "variable": variables,
    "branch": branches,
}


# ---- what could be planted -----------------------------------------------------------------------
def masked(text):
    """comments and quoted text as blanks, of the same length"""
    def blank(found):
        old = found.group()
        new = re.sub(r"[^\n]", " ", old)
        return new if old[0] == "/" else old[0] + new[1:-1] + old[-1]
    return re.sub(r"/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, text,
                  flags=re.S)


def digest(*words):
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


class Fault:
    def __init__(self, tag, rule, number, old, new):
        self.tag, self.rule, self.number, self.old, self.new = tag, rule, number, old, new
        self.content = (tag, " ".join(old.split()), " ".join(new.split()))

    def __str__(self):
        return ">>%s\n- %s\n+ %s" % self.content


def mutations(code, line):
    for name, rule in RULES.items():
        parts = list(rule(code))
        if rule is negated:                     # two places belong together
            parts = [(a[0], b[1], "(!" + code[a[0]:b[0]] + ")")
                     for a, b in zip(parts[::2], parts[1::2])]
        for begin, end, instead in parts:
            if '"' not in code[begin:end] and "'" not in code[begin:end]:
                yield name, line[:begin] + instead + line[end:]


def faults(text, seed):
    """{tag: its faults in the order in which they are tried}: the rules take turns"""
    codes, lines, found, tag = masked(text).split("\n"), text.split("\n"), {}, None
    for number, (code, line) in enumerate(zip(codes, lines)):
        head = re.match(r" \* >>(\w+) ", line)
        if head and "====" in lines[number - 1]:
            tag = head.group(1)
            continue
        directive = code.lstrip().startswith("#") and "define" not in code
        if not tag or tag in NOT_CODE or directive or "LLMI_PREFETCH" in code:
            continue
        for rule, new in mutations(code, line):
            if new.split() != line.split():
                found.setdefault(tag, {}).setdefault(rule, []).append(
                    Fault(tag, rule, number, line, new))
    order = {}
    for tag, rules in found.items():
        times = {}
        for rule, some in rules.items():
            for fault in some:                  # the same line twice in a section: which of them
                times[fault.content] = times.get(fault.content, 0) + 1
                fault.key = digest(seed, rule, *fault.content, str(times[fault.content]))
            some.sort(key=lambda fault: fault.key)
        turns = sorted(rules, key=lambda rule: digest(seed, tag, rule))
        order[tag] = [rules[rule][i] for i in range(max(map(len, rules.values())))
                      for rule in turns if i < len(rules[rule])]
    return order


def quotas(order, text, count):
    """how many faults of `count` each section gets: one, and more by its size"""
    sizes = {tag: len({fault.number for fault in some}) for tag, some in order.items()}
    quota = dict.fromkeys(order, 1)
    while sum(quota.values()) < count:
        tag = max(quota, key=lambda tag: sizes[tag] / (quota[tag] + 0.5))
        quota[tag] += 1
    return quota


def read_equivalent(path):
    """{(tag, old, new): reason}"""
    reasons, tag, old, reason, fresh = {}, "", "", "", True
    with open(path) as file:
        for line in map(str.strip, file):
            if line.startswith("#"):
                reason = line[1:].strip() if fresh else reason + " " + line[1:].strip()
                fresh = False
            elif line.startswith(">>"):
                tag = line[2:]
            elif line.startswith("- "):
                old = line[2:]
            elif line.startswith("+ "):
                reasons[(tag, old, line[2:])] = reason
                fresh = True
    return reasons


# ---- planting them -------------------------------------------------------------------------------
class Trial:
    """a copy of the header and the tests, with a build/ of its own"""
    def __init__(self, number, lines):
        self.lines = lines
        self.place = os.path.join(BUILD, str(number))
        shutil.rmtree(self.place, ignore_errors=True)
        for folder in "tests", "tools", "examples", "build":
            os.makedirs(os.path.join(self.place, folder))
            if folder != "build":
                for name in os.listdir(os.path.join(ROOT, folder)):
                    if name.endswith((".c", ".h")):
                        shutil.copy(os.path.join(ROOT, folder, name),
                                    os.path.join(self.place, folder))
        os.symlink(os.path.join(ROOT, "tests", "data"), os.path.join(self.place, "tests", "data"))
        self.compiler = os.environ.get("CC", "cc").split()

    def compile(self, fault):
        """the object code's hash, or None"""
        lines = list(self.lines)
        if fault:
            lines[fault.number] = fault.new
        with open(os.path.join(self.place, "llm.h"), "w") as file:
            file.write("\n".join(lines))
        strict = ["-Werror=incompatible-pointer-types", "-Werror=int-conversion"]
        if subprocess.run(self.compiler + strict + ["-O1", "-c", "tests/main.c", "-o",
                                                             "t.o"],
                          cwd=self.place, stderr=subprocess.DEVNULL).returncode:
            return None                         # nobody would have written it
        with open(os.path.join(self.place, "t.o"), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def run(self, seconds):
        """what killed it, or None; seconds of the CPU's time"""
        linked = subprocess.run(self.compiler + ["t.o", "-o", "t", "-lm"], cwd=self.place,
                                stderr=subprocess.DEVNULL)
        if linked.returncode:
            return "the linker"
        by = self.tested("./t", ["-x", "-v"], seconds)
        if by:
            return by
        built = subprocess.run(self.compiler + ["-O1", "tests/faults.c", "-o", "f", "-lm"],
                               cwd=self.place, stderr=subprocess.DEVNULL)
        return "the compiler" if built.returncode else self.tested("./f", ["-v"], seconds)

    def tested(self, program, options, seconds):
        """what a program of tests says: None, or which of them failed"""

        def limits():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 32, 1 << 32))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        environment = dict(os.environ, OMP_NUM_THREADS="2", GOMP_SPINCOUNT="10000")
        log = os.path.join(self.place, "log")
        with open(log, "wb") as out:
            run = subprocess.Popen([program, *options], cwd=self.place, env=environment,
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True, preexec_fn=limits)
            try:
                status = run.wait(20 * seconds)             # it sleeps, or the machine is busy
            except subprocess.TimeoutExpired:
                status = None
            try:
                os.killpg(run.pid, signal.SIGKILL)          # and what the tests have started
            except ProcessLookupError:
                pass
            run.wait()
        if status == 0:
            return None
        with open(log, errors="replace") as file:
            names = re.findall(r"^  (\w+)$", file.read(), re.M)
        what = names[-1] if names else "status %s" % status
        return "time, in " + what if status in (None, -signal.SIGXCPU) else what


def cpu_seconds():
    """of the processes that were waited for"""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the faults; nothing runs")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--section", help="this one only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with open(os.path.join(ROOT, "llm.h")) as file:
        text = file.read()
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(file.read().split())
    except OSError:
        flags = set()
    for macro, flag in PASSES:
        if flag not in flags:
            text = re.sub(r"(define %s) 1" % macro, r"\1 0", text)
    order = faults(text, options.seed)
    quota = quotas(order, text, options.count)
    if options.section:
        quota = {options.section: quota[options.section]}
    if options.list:
        for tag, n in quota.items():
            print("\n".join(map(str, order[tag][:n])))
        return 0
    equivalent = read_equivalent(os.path.join(ROOT, "tools", "mutate.txt"))

    os.makedirs(BUILD, exist_ok=True)
    header = digest(text)
    tests = hashlib.sha256()
    for name in sorted(os.listdir(os.path.join(ROOT, "tests"))):
        if name.endswith((".c", ".h")):
            with open(os.path.join(ROOT, "tests", name), "rb") as file:
                tests.update(file.read())
    tests = tests.hexdigest()
    known, path = {}, os.path.join(BUILD, "known.jsonl")
    if os.path.exists(path):
        with open(path) as file:
            for entry in map(json.loads, file):
                if entry["header"] == header and (entry["how"] != "survived" or
                                                  entry["tests"] == tests):
                    known[entry["key"]] = entry
                else:
                    known.pop(entry["key"], None)

    trials = [Trial(i, text.split("\n")) for i in range(options.jobs)]
    whole = trials[0].compile(None)
    start = cpu_seconds()
    by = trials[0].run(1800) if whole else "the compiler"
    if by:
        sys.exit("without a fault: failed by %s, in %s" % (by, trials[0].place))
    seconds = int(2 * (cpu_seconds() - start)) + 10

    lock = threading.Lock()
    slots = [tag for tag, n in quota.items() for _ in range(n)]
    random.Random(options.seed).shuffle(slots)
    queues = {tag: iter(order[tag]) for tag in quota}
    results = []

    def work(trial):
        while True:
            with lock:
                tag = slots.pop() if slots else None
            while tag:
                with lock:
                    fault = next(queues[tag], None)
                if not fault:
                    break
                entry = known.get(fault.key)
                if fault.content in equivalent:
                    entry = {"how": "equivalent", "by": equivalent[fault.content]}
                if not entry:
                    code = trial.compile(fault)
                    if not code or code == whole:
                        how, by = "same" if code else "broken", None
                    else:
                        by = trial.run(seconds)
                        how = "killed" if by else "survived"
                    entry = {"key": fault.key, "header": header, "tests": tests, "how": how,
                             "by": by}
                    with lock, open(path, "a") as file:
                        file.write(json.dumps(entry) + "\n")
                if entry["how"] in ("same", "broken"):
                    continue
                with lock:
                    results.append((fault, entry))
                    print("%3d  %-10s >>%s, %s%s" % (len(results), entry["how"], tag, fault.rule,
                          ": " + entry["by"] if entry["how"] == "killed" else ""), flush=True)
                break
            if not tag:
                return

    workers = [threading.Thread(target=work, args=(trial,)) for trial in trials]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    count = {how: sum(entry["how"] == how for _, entry in results)
             for how in ("killed", "survived", "equivalent")}
    for fault, entry in sorted(results, key=lambda result: result[0].number):
        if entry["how"] == "survived":
            print(fault)
    share = 100.0 * count["killed"] / max(1, count["killed"] + count["survived"])
    print("%d faults in %d sections: %d killed, %d survived, %d that change nothing: %.1f %% "
          "killed, at least %g" % (len(results), len(quota), count["killed"], count["survived"],
                                   count["equivalent"], share, BOUND))
    return 0 if share >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

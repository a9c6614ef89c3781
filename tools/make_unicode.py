#!/usr/bin/env python3
"""Print the table llmi_unicode, and those of some scripts, of llm.h (section >>bpe): the kind of every
code point, as the patterns of tokenizers ask for.

The regular expressions of Hugging Face `tokenizers` (checked: 0.23.3) know Unicode 16.0, so this script
insists on that version: Python 3.14, or `pip install unicodedata2==16.0.0` for any other. Scripts are
what `tokenizers` says, as unicodedata has none.

    python3 tools/make_unicode.py            print the C text
    python3 tools/make_unicode.py --check    also ask `tokenizers` about every code point

The code: ranges in ascending order, each as two numbers, the gap since the end of the one before
and 16 * length + its kind, the place in KINDS; of a script, the length alone. Last in KINDS are pairs,
a capital letter (Lu) and its small one (Ll) in turn. A number is written in base 26, most significant
digit first, in capitals but for the last digit: "Bd" is 1 * 26 + 3."""
import sys

VERSION = "16.0.0"
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata
if unicodedata.unidata_version != VERSION:
    sys.exit("this Python has Unicode %s; %s is needed: pip install unicodedata2==%s"
             % (unicodedata.unidata_version, VERSION, VERSION))
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

# S: symbols; @: those of words (letters in circles); W: white space, which is Z and a few of Cc; C: all else
KINDS = ["C", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Nd", "Nl", "No", "Pc", "P", "S", "@", "W", "LuLl"]
CIRCLED = [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]
SCRIPTS = ["Han", "Hangul", "Hiragana", "Katakana"]
POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def classify(code):
    category = unicodedata.category(chr(code))
    if any(first <= code <= last for first, last in CIRCLED):
        return "@"
    if category[0] == "Z" or 9 <= code <= 13 or code == 0x85:
        return "W"
    return category if category in KINDS else category[0]


def matched(pattern):
    """the code points that a pattern matches"""
    keep = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str
    return {code for code in POINTS if not keep(chr(code))}


def digits(value):
    text = chr(ord("a") + value % 26)
    value //= 26
    while value:
        text = chr(ord("A") + value % 26) + text
        value //= 26
    return text


def runs(values):
    """(begin, end, value) of equal values, in order"""
    begin = 0
    for code in range(1, len(values) + 1):
        if code == len(values) or values[code] != values[begin]:
            yield begin, code, values[begin]
            begin = code


def in_pairs(classes):
    """the same runs, where Lu, Ll, Lu, Ll, each of one code point, are one run of pairs"""
    result = []
    for begin, end, kind in runs(classes):
        last = result[-1] if result else (0, 0, "")
        if kind == "Ll" and end - begin == 1 and last[2] == "Lu" and last[1] == begin:
            if last[1] - last[0] > 1:
                result[-1] = last[0], begin - 1, "Lu"
            elif len(result) > 1 and result[-2][1:] == (begin - 1, "LuLl"):
                result[-2:] = [(result[-2][0], end, "LuLl")]
                continue
            else:
                result.pop()
            result.append((begin - 1, end, "LuLl"))
        else:
            result.append((begin, end, kind))
    return result


def check(classes):
    wrong = 0
    alone = Tokenizer(models.BPE())
    alone.add_tokens([AddedToken("@", single_word=True)])
    letters = ("Lu", "Ll", "Lt", "Lm", "Lo")
    kinds = {r"\p{%s}" % kind: (kind,) for kind in (*letters, "M", "Nd", "Nl", "No", "Pc")}
    kinds.update({r"\p{L}": letters, r"\p{N}": ("Nd", "Nl", "No"), r"\p{P}": ("Pc", "P"), r"\p{S}": ("S", "@"),
                  r"\s": ("W",), r"\d": ("Nd",), r"\w": (*letters, "M", "Nd", "Nl", "Pc", "@")})
    joiners, fractions = {0x200C, 0x200D}, {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}
    for pattern, some in kinds.items():
        want = {code for code in POINTS if classes[code] in some}
        if pattern == r"\w":         # alone; [\w] is as want
            wrong += len(matched(r"[\w]") ^ want)
            want |= fractions
        wrong += len(matched(pattern) ^ want)
    controls = {code for code in POINTS if classes[code] == "W" and (code < 32 or code == 0x85)}
    space = {code for code in POINTS if classes[code] == "W"}
    wrong += len(matched(r"\p{Z}") ^ (space - controls))
    other = {code for code in POINTS if classes[code] == "C"}
    wrong += len(matched(r"\p{C}") ^ (other | controls))
    for code in POINTS:
        word = classes[code] in kinds[r"\w"] or code in joiners
        wrong += (chr(code) != "@" and word) != (not alone.encode(chr(code) + "@").ids)
    print("code points that tokenizers sees differently:", wrong, file=sys.stderr)
    if wrong:
        sys.exit(1)


def table(entries, width=93, per_string=40):
    """lines of C; no entry is cut, so that each string can be read by itself"""
    lines = [""]
    for entry in entries:
        if len(lines[-1]) + len(entry) > width:
            lines.append("")
        lines[-1] += entry
    lines = ['    "%s"' % line for line in lines]
    return ",\n".join("\n".join(lines[i:i + per_string]) for i in range(0, len(lines), per_string))


def main():
    classes = [classify(code) for code in range(0x110000)]
    if "--check" in sys.argv:
        check(classes)
    entries, end = [], 0
    for begin, stop, kind in in_pairs(classes):
        if kind != "C":
            entries.append(digits(begin - end) + digits(16 * (stop - begin) + KINDS.index(kind)))
            end = stop
    print("static const char *const llmi_unicode[] = {")
    print(table(entries) + "};")
    for script in SCRIPTS:
        members, entries, end = matched(r"\p{%s}" % script), [], 0
        for begin, stop, value in runs([code in members for code in range(0x110000)]):
            if value:
                entries.append(digits(begin - end) + digits(stop - begin))
                end = stop
        print("static const char llmi_%s[] =\n%s;" % (script.lower(), table(entries)))


main()

#!/usr/bin/env python3
"""Print the table llmi_unicode of llm.h (section >>bpe): which code points are letters, numbers, marks,
punctuation or symbols, and which of them are of words, \\w.

GPT-2's pre-tokenizer asks for \\p{L}, \\p{N} and \\s, DeepSeek-V3's for \\p{M}, \\p{P} and \\p{S}, too, the
last two always together. The regular expressions of Hugging Face `tokenizers` (checked: 0.23.3) know
Unicode 16.0, so this script insists on that version: Python 3.14, or `pip install
unicodedata2==16.0.0` for any other.

    python3 tools/make_unicode.py            print the C text
    python3 tools/make_unicode.py --check    also ask `tokenizers` about every code point

The code: ranges in ascending order, each as two numbers, the gap since the end of the one before
and 8 * length + its kind, the place in KINDS. \\w are letters, marks, numbers that are digits or letters (not
category No), connecting punctuation (Pc) and letters within circles; the two joiners, which are none of
these kinds, stand in llm.h itself. A number is written in base 26, most significant digit
first, in capitals but for the last digit: "Bd" is 1 * 26 + 3. The marks from U+E0100 to U+E01EF are
left out, llm.h knows them otherwise: its table of all code points ends before them."""
import sys

VERSION = "16.0.0"
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata
if unicodedata.unidata_version != VERSION:
    sys.exit("this Python has Unicode %s; %s is needed: pip install unicodedata2==%s"
             % (unicodedata.unidata_version, VERSION, VERSION))


KINDS = "LNMP-n-p"  # n and p: as N and P, but that N are of words and P are not
CIRCLED = [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]


def classify(code):
    """L, N, M, P (or symbol), W(hite space) or O(ther), as KINDS has them. White_Space is category Z and
    a few control characters."""
    category = unicodedata.category(chr(code))
    if category == "No":
        return "n"
    if category == "Pc" or any(first <= code <= last for first, last in CIRCLED):
        return "p"
    if category[0] in "LNMPS":
        return "P" if category[0] == "S" else category[0]
    return "W" if category[0] == "Z" or 9 <= code <= 13 or code == 0x85 else "O"


def digits(value):
    text = chr(ord("a") + value % 26)
    value //= 26
    while value:
        text = chr(ord("A") + value % 26) + text
        value //= 26
    return text


def ranges(classes):
    begin = 0
    for code in range(1, len(classes) + 1):
        if code == len(classes) or classes[code] != classes[begin]:
            if classes[begin] in KINDS and begin != 0xE0100:
                yield begin, code, classes[begin]
            begin = code


def main():
    classes = [classify(code) for code in range(0x110000)]
    if "--check" in sys.argv:
        from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
        keep = {kind: pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str
                for kind, pattern in zip("LNMPW", (r"\p{L}", r"\p{N}", r"\p{M}", r"[\p{P}\p{S}]", r"\s"))}
        alone = Tokenizer(models.BPE())
        alone.add_tokens([AddedToken("@", single_word=True)])
        wrong = 0
        for code in range(0x110000):
            if 0xD800 <= code < 0xE000:
                continue
            word = classes[code] in "LNMp" or code in (0x200C, 0x200D)
            wrong += (chr(code) != "@" and word) != (not alone.encode(chr(code) + "@").ids)
            seen = [c for c, before in (("L", "a"), ("N", "1"), ("O", "!"))
                    if len(split(before + chr(code))) == 1] or ["W"]
            kind = classes[code].upper()
            wrong += seen != [kind if kind in "LNW" else "O"]
            seen = [kind for kind in keep if not keep[kind](chr(code))] or ["O"]
            wrong += seen != [kind]
        print("code points that tokenizers sees differently:", wrong, file=sys.stderr)
        if wrong:
            sys.exit(1)

    text, end = "", 0
    for begin, stop, kind in ranges(classes):
        text += digits(begin - end) + digits(8 * (stop - begin) + KINDS.index(kind))
        end = stop
    print("/* Letters, numbers, marks, punctuation and symbols of Unicode %s, by tools/make_unicode.py:"
          % VERSION)
    print(" * ranges in ascending order, each as the gap since the end of the last and 8 * length + its kind")
    print(" * (letter, number, mark, symbol; +4 where numbers are not, or symbols are, of words),")
    print(" * in base 26, most significant digit first, capitals but for the last digit. Several strings,")
    print(" * as C99 promises 4095 characters of one. */")
    print("#define LLMI_UNICODE_END 0x%Xu       /* all beyond but U+E0100 .. U+E01EF, marks, is other */" % end)
    print("static const char *const llmi_unicode[] = {")
    width, per_string = 93, 40
    lines = ['    "%s"' % text[i:i + width] for i in range(0, len(text), width)]
    strings = ["\n".join(lines[i:i + per_string]) for i in range(0, len(lines), per_string)]
    print(",\n".join(strings) + "};")


main()

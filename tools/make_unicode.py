#!/usr/bin/env python3
"""Print the table llmi_unicode of llm.h (section >>bpe): which code points are letters or numbers.

GPT-2's pre-tokenizer asks for \\p{L}, \\p{N} and \\s. The regular expressions of Hugging Face
`tokenizers` (checked: 0.23.3) know Unicode 16.0, so this script insists on that version: Python 3.14,
or `pip install unicodedata2==16.0.0` for any other.

    python3 tools/make_unicode.py            print the C text
    python3 tools/make_unicode.py --check    also ask `tokenizers` about every code point

The code: ranges in ascending order, each as two numbers, the gap since the end of the one before
and 2 * length + (1 if a number). A number is written in base 26, most significant digit first, in
capitals but for the last digit: "Bd" is 1 * 26 + 3."""
import sys

VERSION = "16.0.0"
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata
if unicodedata.unidata_version != VERSION:
    sys.exit("this Python has Unicode %s; %s is needed: pip install unicodedata2==%s"
             % (unicodedata.unidata_version, VERSION, VERSION))


def classify(code):
    """L, N, S(pace) or O(ther). White_Space is category Z and a few control characters."""
    category = unicodedata.category(chr(code))
    if category[0] in "LN":
        return category[0]
    return "S" if category[0] == "Z" or 9 <= code <= 13 or code == 0x85 else "O"


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
            if classes[begin] in "LN":
                yield begin, code, classes[begin]
            begin = code


def main():
    classes = [classify(code) for code in range(0x110000)]
    if "--check" in sys.argv:
        from tokenizers import pre_tokenizers
        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
        wrong = 0
        for code in range(0x110000):
            if 0xD800 <= code < 0xE000:
                continue
            seen = [c for c, before in (("L", "a"), ("N", "1"), ("O", "!"))
                    if len(split(before + chr(code))) == 1] or ["S"]
            wrong += seen != [classes[code]]
        print("code points that tokenizers sees differently:", wrong, file=sys.stderr)
        if wrong:
            sys.exit(1)

    text, end, limit = "", 0, 0
    for begin, stop, kind in ranges(classes):
        text += digits(begin - end) + digits(2 * (stop - begin) + (kind == "N"))
        end = limit = stop
    assert len(text) < 4095, "C99 promises 4095 characters of string"
    print("/* Letters and numbers of Unicode %s, by tools/make_unicode.py: ranges in ascending order,"
          % VERSION)
    print(" * each as the gap since the end of the last and 2 * length + (1 for numbers), in base 26,")
    print(" * most significant digit first, capitals but for the last digit. */")
    print("#define LLMI_UNICODE_END 0x%Xu       /* all beyond is neither */" % limit)
    print("static const char llmi_unicode[] =")
    width = 93
    lines = [text[i:i + width] for i in range(0, len(text), width)]
    print("\n".join('    "%s"' % line for line in lines) + ";")


main()

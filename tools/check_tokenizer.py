#!/usr/bin/env python3
"""Compare llm.h's tokenizer with Hugging Face `tokenizers` on random text, and time both.

    python3 tools/check_tokenizer.py [-n 100000] [--seed 1] [--header llm.h] [--data ../shared/data]

Encodes n random strings with each of several tokenizers (GPT-2's own where its files are found,
trained ones, with a prefix space, with added tokens that strip white space, with ignore_merges, with
DeepSeek-V3's patterns, without any); checks that decoding gives the bytes back; compares training;
compares what llm.h saves with what was loaded; and compares the pieces that the patterns of published
tokenizers cut n strings into. Then directories: vocab.json + merges.txt or
tokenizer.json beside tokenizer_config.json, special_tokens_map.json, added_tokens.json and
config.json, listed and random ones, give the ids of transformers' AutoTokenizer or are refused by
name. Exits 1 at any difference. Needs `tokenizers` and a C compiler, and `transformers` for the
directories.

    python3 tools/check_tokenizer.py --directories     only those"""
import argparse
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

# commands on stdin: a letter, a 4-byte length, that many bytes
#   E/S text -> count, tokens (S: special tokens are parsed); the program checks decode(encode)
#   P text -> count, 1, begin and end of each piece of the pre-tokenizer
#   T text with a 4-byte vocabulary size in front, W path: save what was trained
PROGRAM = r"""
#define LLM_IMPLEMENTATION
#include "%s"

static llm_error error;
static int32_t tokens[1 << 24];
static size_t n_tokens;

static void pieces(llm_tokenizer *t, const char *all, const char *text, size_t size, size_t pattern) {
    llmi_cut cut;
    size_t begin, end;
    if (pattern == t->patterns.n) {
        tokens[n_tokens++] = (int32_t)(text - all);
        tokens[n_tokens++] = (int32_t)(text + size - all);
        return;
    }
    memset(&cut, 0, sizeof cut);
    if (size && llmi_cut_start(&cut, &t->patterns, pattern, text, size, &error) == LLM_OK)
        while (llmi_cut_next(&cut, &begin, &end)) pieces(t, all, text + begin, end - begin, pattern + 1);
    llmi_cut_free(&cut, &t->patterns);
}

static int fail(const char *what) {
    fprintf(stderr, "%%s: %%s\n", what, error.message);
    return 1;
}

int main(int argc, char **argv) {
    static char text[1 << 24], back[1 << 24];
    llm_tokenizer *t = argc > 1 ? llm_tokenizer_load(argv[1], NULL, &error) : NULL;
    int command;
    if (argc > 1 && !t) return fail(argv[1]);
    while ((command = getchar()) != EOF) {
        uint32_t size, i, n;
        size_t count = 0, bytes = 0;
        double start;
        if (fread(&size, 4, 1, stdin) != 1 || size > sizeof text || fread(text, 1, size, stdin) != size) return 1;
        start = llmi_seconds();
        if (command == 'T') {
            int32_t vocab_size;
            memcpy(&vocab_size, text, 4);
            llm_tokenizer_free(t);
            t = llm_tokenizer_train(text + 4, size - 4, vocab_size, NULL, &error);
            if (!t) return fail("train");
            fprintf(stderr, "llm.h train %%.3f s\n", llmi_seconds() - start);
            continue;
        }
        if (command == 'W') {
            text[size] = 0;
            if (llm_tokenizer_save(t, text, &error)) return fail("save");
            continue;
        }
        if (command == 'P') {
            n_tokens = 0;
            pieces(t, text, text, size, 0);
            n = (uint32_t)n_tokens;
            i = 1;
            fwrite(&n, 4, 1, stdout);
            fwrite(&i, 4, 1, stdout);
            fwrite(tokens, 4, n_tokens, stdout);
            continue;
        }
        if (llm_tokenizer_encode(t, text, size, command == 'S', tokens, 1 << 24, &count, &error)) return fail("encode");
        if (size > 1000000) fprintf(stderr, "llm.h encode %%.3f s\n", llmi_seconds() - start);
        if (llm_tokenizer_decode(t, tokens, count, back, sizeof back, &bytes, &error)) return fail("decode");
        n = (uint32_t)count;
        i = bytes == size && !memcmp(text, back, size);
        fwrite(&n, 4, 1, stdout);
        fwrite(&i, 4, 1, stdout);
        fwrite(tokens, 4, count, stdout);
    }
    llm_tokenizer_free(t);
    return 0;
}
"""


class Random(random.Random):
    """Text of all kinds, in pieces of one kind each."""
    BLOCKS = [(0x41, 0x7A), (0xC0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF),
              (0x600, 0x6FF), (0x900, 0x97F), (0xB80, 0xBFF), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1F00, 0x1FFF),
              (0x2000, 0x206F), (0x2070, 0x209F), (0x2150, 0x218F), (0x2460, 0x24FF), (0x2600, 0x27BF),
              (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE100), (0xFE00, 0xFFFD),
              (0x10140, 0x1018F), (0x10300, 0x103FF), (0x11C50, 0x11D60), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F),
              (0x1F300, 0x1FAFF), (0x1FBF0, 0x1FBFF), (0x20000, 0x323AF), (0xE0100, 0xE01EF), (0x0, 0x10FFFF)]
    SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
    FIXED = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "\u2019s", "\u02bct", "''", "'", "'r", "'v ", "'l",
             "<|endoftext|>", "<|endoftext|", "<|", "|>", "<<|endoftext|>>", " <|endoftext|> ", "[ADD]", "[ADDED]",
             "[STRIP]", " [STRIP]\n ", "[LEFT]", "  [LEFT] ", "[RIGHT]", " [RIGHT]  ", "[WORD]", "-[WORD]", "whole", " [ALL] ", "foo", "bar", "\u00e9t\u00e9", "plain token",
             "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\U0001F1E9\U0001F1EA", "\u2764\ufe0f", "e\u0301", "\u0915\u094d\u0937",
             "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<|EOT|>", "<\uff5cUser\uff5c>",
             "'\u017f", "'LL'Re", "'\u212a", "don'T", "McDonald's", "HELLOworld", "iPhone15", "\u01c5a", "\u4e2d\u6587abc", "a\u4e2dB\u3002\n", "\u3005\u3007\u30fb",
             "\uff11\uff12\uff13\uff14", "\u0967\u0968\u0969\u096a", "\U0001d7ce\U0001d7cf", "\u2150\u2188", "1234567", "\uff0c\u300c\u300d\uff01", "a\n/\n//", "  \r\n\r\n  ", "x \u0301y", "\ud55c\uae00 \u1112\u1161",
             "http://www.example.com/a?b=c&d=1", "3.14159", "1,000,000", "\u0661\u0662\u0663", "\u00b2\u00bd", "\u2167", "I'll've", "x=1;\n\t\treturn y;\n"]

    def character(self):
        low, high = self.choice(self.BLOCKS)
        code = self.randint(low, high)
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"

    def piece(self, words):
        kind = self.randrange(10)
        if kind < 3:
            return self.choice(("", " ")) + self.choice(words)
        if kind == 3:
            return "".join(self.choice(self.SPACES) for _ in range(self.randint(1, 5)))
        if kind == 4:
            return self.choice(" \n\t\u3000") * self.randint(1, 40)
        if kind == 5:
            return self.choice(self.FIXED)
        if kind == 6:
            return str(self.randrange(10 ** self.randint(1, 20)))
        if kind == 7:
            return "".join(self.character() for _ in range(self.randint(1, 12)))
        if kind == 8:
            low, high = self.choice(self.BLOCKS[:-1])
            return "".join(chr(self.randint(low, high)) for _ in range(self.randint(1, 30)))
        return "".join(chr(self.randrange(128)) for _ in range(self.randint(1, 8)))

    def text(self, words):
        if self.randrange(200) == 0:
            return self.choice(("a", "ab", " ", "\n ", "\u4e00", "=-", "'ll", "\u0301")) * self.randint(1, 3000)
        return "".join(self.piece(words) for _ in range(self.randint(0, 8)))


def byte_level(vocab, merges, prefix=False, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


# DeepSeek-V3's patterns, and its special tokens
SPLITS = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
          r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
          r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
DEEPSEEK_ADDED = [AddedToken(text, special=special, normalized=normalized) for text, special, normalized in (
    ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", True, True), ("<\uff5cend\u2581of\u2581sentence\uff5c>", True, True),
    ("<\uff5cfim\u2581hole\uff5c>", False, True), ("<|EOT|>", True, False), ("<\uff5cUser\uff5c>", False, False))]


def with_splits(vocab, merges, patterns, use_regex=False, added=()):
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.Sequence([])
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, level]) if splits else level
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    return tokenizer


# the patterns of published tokenizers, as their tokenizer.json has them (Kimi's: as its Python file has it); a tuple
# is behavior, invert and pattern; "" stands for a ByteLevel's own
CASELESS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
LATIN = ("\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
         "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
         "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
         "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
         "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
         "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
         "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
         "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
         "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
         "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+")
SIGNS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"


def llama(numbers, letters=r"\p{L}", ends=r"[\r\n]*"):
    return (CASELESS + r"|[^\r\n\p{L}\p{N}]?" + letters + "+|" + numbers + r"| ?[^\s\p{L}\p{N}]+" + ends +
            r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def cased(han, ends):
    capitals, small = (r"[\p{%s}\p{Lm}\p{Lo}\p{M}" % kinds + han + "]" for kinds in (r"Lu}\p{Lt", "Ll"))
    head = r"[^\r\n\p{L}\p{N}]?"
    return (head + capitals + "*" + small + "+" + CASELESS + "?|" + head + capitals + "+" + small + "*" + CASELESS +
            r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+" + ends + r"*|\s*[\r\n]+|\s+(?!\S)|\s+")


DIGITS = pre_tokenizers.Digits(individual_digits=True)
PUBLISHED = {
    "gpt-2": [""], "gigachat": [""], "starcoder": [DIGITS, ""], "deepseek-v3": SPLITS,
    "deepseek-llm": ["[\r\n]", LATIN, SIGNS, r"\s+$", CJK, DIGITS],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGITS],
    "llama-3": [llama(r"\p{N}{1,3}")], "qwen2": [llama(r"\p{N}")], "gpt-4o": [cased("", r"[\r\n/]")],
    "kimi-k2": [r"[\p{Han}]+|" + cased(r"&&[^\p{Han}]", r"[\r\n]")],
    "qwen3.5": [CASELESS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
                r"\s*[\r\n]+|\s+(?!\S)|\s+"],
    "gpt-4": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
              r"\s+(?!\S)|\s+"],
    "aya": [r"\d{1,3}(?=(?:\d{3})*\b)", cased("", r"[\r\n/]")], "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "exaone": [llama(r"\p{N}", r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)", "[\r\n/]?")],
    "bloom": [r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"],
}


def pre_tokenizer(parts):
    pieces = [part if not isinstance(part, str) else pre_tokenizers.Split(Regex(part), "isolated")
              for part in parts if part]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=parts[-1] == "")
    return pre_tokenizers.Sequence([*pieces, level]) if pieces else level


ATOMS = ["a", "b", "s", "K", " ", "1", "\\n", ".", "\u4e00", "\\s", "\\S", "\\w", "\\W", "\\d", "[ab]", "[^a]", "[a-c1]",
         "[^\\s\\p{L}]", "\\p{L}", "\\p{N}", "\\p{Lu}", "\\P{L}", "\\p{^P}", "\\p{Han}", "[\\p{L}&&[^\\p{Han}]]", "[[a][b-d]]",
         "[^\\p{L}&&[^a-z]]", "[\\w\\-]", "\\x41", "\\u00e9", "\\x{1F600}", "\\.", "[.]", "(?=a)", "(?!\\S)", "(?=[ab]+1)", "(?!a|b1)",
         "^", "$", "\\b", "\\B", "\\A", "\\z", "(?i:'s)", "(?i:K)", "'re"]
REPEATS = ["?", "*", "+", "??", "*?", "+?", "?+", "*+", "++", "{2}", "{1,3}", "{2,}", "{,2}", "{1,2}?", "{1,2}+", "{", "{,}", "{a}"]
BEHAVIORS = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]


def random_pattern(rng, depth=2):
    ways = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        way = ""
        for _ in range(rng.randint(0 if rng.randrange(8) == 0 else 1, 3)):
            way += rng.choice(ATOMS) if depth == 0 or rng.randrange(3) else (
                rng.choice(("(?:", "(", "(?i:", "(?=", "(?!")) + random_pattern(rng, depth - 1) + ")")
            if rng.randrange(3) == 0:
                way += rng.choice(REPEATS)
        ways.append(way)
    return "|".join(ways)


def deepseek(text, vocab_size):
    """trained with DeepSeek-V3's patterns, so that its tokens are pieces of theirs"""
    tokenizer = with_splits({}, [], SPLITS)
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    data = json.loads(tokenizer.to_str())["model"]
    return data["vocab"], [tuple(m) for m in data["merges"]]


def train(text, vocab_size):
    """as llm.h: GPT-2's layout, <|endoftext|> last"""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return tokenizer


def command(letter, text):
    return letter.encode() + struct.pack("<I", len(text)) + text


def answers(data):
    """the program's: tokens, and whether they decode to the text"""
    at = 0
    while at < len(data):
        n, same = struct.unpack_from("<II", data, at)
        yield list(struct.unpack_from("<%di" % n, data, at + 8)), same
        at += 8 + 4 * n


class Checker:
    def __init__(self, folder, header, flags):
        self.folder, self.wrong = folder, 0
        self.program = os.path.join(folder, "check")
        source = os.path.join(folder, "check.c")
        with open(source, "w") as file:
            file.write(PROGRAM % os.path.abspath(header))
        subprocess.run([os.environ.get("CC", "cc"), "-O2", *flags, "-w", source, "-o", self.program, "-lm"], check=True)

    def attempt(self, arguments, commands, loud=False):
        """-> what it writes, and what it says if it fails"""
        result = subprocess.run([self.program, *arguments], input=b"".join(commands), stdout=subprocess.PIPE,
                                stderr=None if loud else subprocess.PIPE)
        return result.stdout, result.returncode and ((result.stderr or b"").decode(errors="replace") or "code %d" % result.returncode)

    def run(self, arguments, commands, loud=False):
        data, message = self.attempt(arguments, commands, loud)
        if message:
            sys.exit("the C program failed: %s" % message)
        return data

    def report(self, name, what, good):
        if not good:
            self.wrong += 1
            if self.wrong <= 10:
                print("DIFFERENT %s: %s" % (name, what))

    def listed(self, name, kinds, check):
        """check(kind) -> what is wrong, or None; one line for all of them"""
        wrong = {kind: what for kind in kinds for what in [check(kind)] if what}
        self.wrong += len(wrong)
        for kind, what in list(wrong.items())[:1]:
            print("DIFFERENT %s, %s: %s: %s" % (name, "".join(wrong), kind, what))
        return len(kinds)

    def encode(self, name, tokenizer, path, texts, special, exact=True):
        tokenizer.encode_special_tokens = not special
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        data = self.run([path], [command("S" if special else "E", text.encode()) for text in texts])
        before = self.wrong
        for text, ids, (got, same) in zip(texts, expected, answers(data)):
            self.report(name, "%r: %s, tokenizers %s" % (text[:80], got[:20], ids[:20]), got == ids)
            self.report(name, "%r does not come back from decode" % text[:80], same or not exact)
        print("%-28s %7d strings, special %d, %9d tokens, %d differences"
              % (name, len(texts), special, sum(map(len, expected)), self.wrong - before))

    def pieces(self, name, splits, texts):
        tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(characters())}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizer(splits)
        tokenizer.decoder = decoders.ByteLevel()
        path = os.path.join(self.folder, "pieces.json")
        tokenizer.save(path)
        data, before, n = self.run([path], [command("P", text.encode()) for text in texts]), self.wrong, 0
        for text, (got, _) in zip(texts, answers(data)):
            want, at = [], 0
            for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):      # a character for each byte
                want += [at, at + len(piece)]
                at += len(piece)
            n += len(want) // 2
            self.report(name, "%r: %s, tokenizers %s" % (text[:80], got[:40], want[:40]), got == want)
        print("%-28s %7d strings, %9d pieces, %d differences" % (name, len(texts), n, self.wrong - before), flush=True)
        self.saving(name, tokenizer, path)

    def random_patterns(self, rng, n):
        """a pattern that both sides take cuts alike"""
        refused, before = 0, self.wrong
        letters = "aabbcsSkK1 \n'-_.\u017f\u212a\u4e00\u00e9\u0301\u00b2\U0001f600"
        path = os.path.join(self.folder, "pattern.json")
        for _ in range(n):
            pattern, behavior, invert = random_pattern(rng), rng.choice(BEHAVIORS), rng.randrange(2) > 0
            try:
                split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
            except Exception:
                split = None
            text_of = pre_tokenizers.Split(Regex("x"), behavior, invert)
            level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(characters())}, merges=[]))
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split or text_of, level])
            tokenizer.decoder = decoders.ByteLevel()
            data = json.loads(tokenizer.to_str())
            data["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
            with open(path, "w", encoding="utf-8") as file:
                json.dump(data, file)
            texts = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 24))) for _ in range(40)]
            out, message = self.attempt([path], [command("P", text.encode()) for text in texts])
            if message:
                refused += 1
                self.report("pattern", "%r: %s" % (pattern, message), "not supported" in message
                            or "more than" in message)
                continue
            self.report("pattern", "%r is taken, not by tokenizers" % pattern, split is not None)
            for text, (got, _) in zip(texts, answers(out)):
                if split:
                    want = [len(text[:i].encode()) for _, ends in split.pre_tokenize_str(text) for i in ends]
                    self.report("pattern", "%r %s %d: %r: %s, tokenizers %s" % (
                        pattern, behavior, invert, text, got, want), got == want)
        print("%-28s %7d, of them %d refused, %d differences" % ("random patterns", n, refused, self.wrong - before))

    def odd_vocabularies(self, rng, small, n):
        """ids with gaps and in any order, ignore_merges, added tokens that spell a byte or a token of the vocabulary"""
        data, refused, before = json.loads(small.to_str())["model"], 0, self.wrong
        merges = [tuple(merge) for merge in data["merges"][:150]]
        tokens = [*characters(), *dict.fromkeys(a + b for a, b in merges)]
        path, copy = (os.path.join(self.folder, name) for name in ("odd.json", "odd_copy.json"))
        parts = ["foo", " foo", "the", " the", "a", "\u00e9", "\u00ff", "[X]", "<s>", "  ", "   ", "\n", "\u0120", "\u00c3\u00a9",
                 "http", "whole", "ba", "\u0120the", " x "]
        for _ in range(n):
            ids = list(range(len(tokens) + rng.choice((0, 0, 3, 9))))
            if rng.randrange(2):
                rng.shuffle(ids)
            vocab = dict(zip(tokens, ids))
            for word in rng.sample(["foo", "\u0120foo", "\u0120\u0120\u0120", "<s>", "\u00c3\u00a9", "whole", "ba", "\u4e00"], rng.randint(0, 3)):
                vocab.setdefault(word, rng.choice([i for i in range(len(tokens) + 40) if i not in vocab.values()][:10]))
            tokenizer = byte_level(vocab, merges, ignore_merges=rng.randrange(2) > 0)
            names = rng.sample(["a", "\u0120", "\u00ff", "\u00e9", "th", "\u0120the", "<s>", "foo", "[X]", "  ", "\u010a", "e", "\u00c3"],
                               rng.randint(0, 4))
            tokenizer.add_tokens([AddedToken(word, **{flag: rng.randrange(3) == 0 for flag in (
                "special", "normalized", "single_word", "lstrip", "rstrip")}) for word in names])
            tokenizer.save(path)
            texts = ["".join(rng.choice(parts) for _ in range(rng.randint(1, 8))) for _ in range(20)]
            for special in (0, 1):
                commands = [command("S" if special else "E", text.encode()) for text in texts]
                out, message = self.attempt([path], [*commands, command("W", copy.encode())])
                if message:
                    refused += 1
                    self.report("odd vocabulary", message, "which is another's" in message)
                    break
                for name, loaded in (("odd vocabulary", tokenizer), ("odd vocabulary, saved", Tokenizer.from_file(copy))):
                    loaded.encode_special_tokens = not special
                    for text, (got, _) in zip(texts, answers(out)):
                        try:
                            want = loaded.encode(text, add_special_tokens=False).ids
                        except BaseException as panic:           # of some of these, `tokenizers` has no ids
                            if type(panic).__name__ != "PanicException":
                                raise
                            continue
                        self.report(name, "%r: %s, tokenizers %s" % (text, got, want), got == want)
        print("%-28s %7d, of them %d refused, %d differences" % ("odd vocabularies", n, refused, self.wrong - before))

    def training(self, name, text, vocab_size):
        path = os.path.join(self.folder, "trained.json")
        self.run([], [command("T", struct.pack("<i", vocab_size) + text.encode()), command("W", path.encode())])
        want = train(text, vocab_size)
        got = Tokenizer.from_file(path)
        same = got.get_vocab() == want.get_vocab()
        merges = [[tuple(m) for m in json.loads(t.to_str())["model"]["merges"]] for t in (got, want)]
        self.report(name, "vocabulary", same)
        self.report(name, "merges", merges[0] == merges[1])
        print("%-28s %7d tokens, vocabulary %s, merges %s" % (name, got.get_vocab_size(),
              "equal" if same else "DIFFERENT", "equal" if merges[0] == merges[1] else "DIFFERENT"))
        return want

    def saving(self, name, tokenizer, path):
        copy = os.path.join(self.folder, "copy.json")
        self.run([path], [command("W", copy.encode())])
        got = Tokenizer.from_file(copy)
        a, b = json.loads(tokenizer.to_str()), json.loads(got.to_str())
        for key in ("vocab", "merges", "ignore_merges"):
            self.report(name, "saved " + key, a["model"][key] == b["model"][key])
        self.report(name, "saved added_tokens", a["added_tokens"] == b["added_tokens"])
        self.report(name, "saved pre_tokenizer", a["pre_tokenizer"] == b["pre_tokenizer"])


# ---- directories ----------------------------------------------------------------------------------------------
# A case: which files hold the tokenizer (V vocab.json and merges.txt, of GPT-2; G tokenizer.json of GPT-2, T of no
# family, D of deepseek_v3), a name, the text, and what else is in the directory: tc tokenizer_config.json, stm
# special_tokens_map.json, atj added_tokens.json, atd tc's added_tokens_decoder, added what tokenizer.json lists, model
# and json more keys of its model and of itself, config config.json, vocab and merges instead of the small ones.
EOT, PROBE, ENDED = "<|endoftext|>", "hello [A] <b> x[PAD] world", "hello<|endoftext|> world"
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("\u0120", "w"), ("o", "r"), ("\u0120w", "or"),
          ("\u0120wor", "l"), ("\u0120worl", "d"), ("\u0120", "hello")]
NAMED = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]


def characters():
    """GPT-2's, which stand for the bytes in files"""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def vocabulary(eot=True, n_bytes=256, gap=0, more=()):
    words = [*characters()[:n_bytes], *(a + b for a, b in MERGES), *more]
    vocab = {word: i for i, word in enumerate(words)}
    if eot:
        vocab[EOT] = len(words) + gap
    return vocab


def token(content, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"content": content, **plain, **flags}


def typed(content, **flags):
    return {"__type": "AddedToken", "content": content, **flags}


def listed(id_, content, **flags):
    return {"id": id_, **token(content, **flags)}


END = listed(266, EOT, special=True, normalized=False)


def files(kind, vocab=None, merges=MERGES, added=None, model=None, json_=None, tc=None, stm=None, atj=None, atd=None,
          config=None):
    vocab = vocabulary() if vocab is None else vocab
    if added is None:
        added = [listed(vocab[EOT], EOT, special=True, normalized=False)] if EOT in vocab else []
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    result = {}
    if kind == "V":
        result["vocab.json"] = vocab
        result["merges.txt"] = "#version: 0.2\n" + "".join("%s %s\n" % merge for merge in merges)
    else:
        bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
               "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
               "vocab": vocab, "merges": [list(merge) for merge in merges]}
        result["tokenizer.json"] = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": {**bpe, **(model or {})},
            **(json_ or {})}
    family = {"V": "gpt2", "G": "gpt2", "D": "deepseek_v3"}.get(kind)
    if config is None and family:
        config = {"model_type": family}
    if atd is not None:
        tc = {**(tc or {}), "added_tokens_decoder": atd}
    beside = {"config.json": config, "tokenizer_config.json": tc, "special_tokens_map.json": stm, "added_tokens.json": atj}
    result.update((name, content) for name, content in beside.items() if content is not None)
    return result


def template(*pieces, **ids):
    """$A, and names of tokens"""
    single = [{"Sequence": {"id": "A", "type_id": 0}} if piece == "$A" else
              {"SpecialToken": {"id": piece, "type_id": 0}} for piece in pieces]
    pair = [{"Sequence": {"id": id_, "type_id": i}} for i, id_ in enumerate("AB")]
    tokens = {name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
SPLIT = sequence("pretokenizers", {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated",
                                   "invert": False}, {**LEVEL, "add_prefix_space": False, "use_regex": False})
PADDING = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
           "pad_type_id": 0, "pad_token": "[PAD]"}
BARE, ASCII = vocabulary(eot=False), vocabulary(n_bytes=128)

CASES = [
    ("VGTD", "nothing beside", ENDED, {}),
    # the class: what of tokenizer.json is read, and which tokens are known without being named
    ("VG", "GPT-2's tokens of old", ENDED, dict(vocab=BARE)),
    ("TD", "no tokens of old", ENDED, dict(vocab=BARE)),
    ("VGTD", "GPT2TokenizerFast", ENDED, dict(vocab=BARE, tc={"tokenizer_class": "GPT2TokenizerFast"})),
    ("GTD", "PreTrainedTokenizerFast", ENDED, dict(
        vocab=BARE, tc={"tokenizer_class": "PreTrainedTokenizerFast"})),
    ("GTD", "LlamaTokenizerFast", ENDED, dict(vocab=BARE, tc={"tokenizer_class": "LlamaTokenizerFast"})),
    ("T", "a class in config.json", ENDED, dict(vocab=BARE, config={"model_type": "deepseek_v3",
                                                                  "tokenizer_class": "GPT2Tokenizer"})),
    ("T", "both classes", ENDED, dict(
        vocab=BARE, config={"model_type": "gpt2", "tokenizer_class": "GPT2Tokenizer"},
        tc={"tokenizer_class": "PreTrainedTokenizerFast"})),
    ("GT", "a prefix space in tokenizer.json", PROBE, dict(json_={"pre_tokenizer": LEVEL})),
    ("GT", "a pattern in tokenizer.json", "hello 12345 world", dict(
        json_={"pre_tokenizer": SPLIT}, vocab=vocabulary(more=["12", "34", "1234"]),
        merges=[*MERGES, ("1", "2"), ("3", "4"), ("12", "34")])),
    ("GT", "no pattern in tokenizer.json", "or hello", dict(
        json_={"pre_tokenizer": {**LEVEL, "add_prefix_space": False, "use_regex": False}},
        vocab=vocabulary(more=["r\u0120"]), merges=[("r", "\u0120"), *MERGES])),
    ("GT", "ignore_merges", "hello he he", dict(
        vocab=vocabulary(more=["\u0120he"]), model={"ignore_merges": True})),
    ("GT", "a template that adds nothing", ENDED, dict(json_={"post_processor": template("$A")})),
    ("GT", "a template with bos", ENDED, dict(json_={"post_processor": template(EOT, "$A", **{EOT: 266})})),
    ("GT", "a template with bos and eos", ENDED, dict(
        json_={"post_processor": template("a", "$A", EOT, **{EOT: 266, "a": 97})})),
    ("GT", "ByteLevel and a template", ENDED, dict(json_={"post_processor": sequence(
        "processors", LEVEL, template(EOT, "$A", **{EOT: 266}))})),
    # add_prefix_space
    ("VGT", "add_prefix_space", PROBE, dict(tc={"add_prefix_space": True})),
    ("GT", "add_prefix_space against tokenizer.json", PROBE, dict(tc={"add_prefix_space": False},
                                                                json_={"pre_tokenizer": LEVEL})),
    ("T", "add_prefix_space without effect", PROBE, dict(tc={"add_prefix_space": "x"})),
    ("VG", "add_prefix_space and added tokens", "[A]hello[A] hello", dict(
        tc={"add_prefix_space": True}, atj={"[A]": 267})),
    # added_tokens.json
    ("VGTD", "added_tokens.json", PROBE, dict(atj={"[A]": 267, "<b>": 268})),
    ("VGTD", "added_tokens.json in another order", PROBE, dict(atj={"[A]": 268, "<b>": 267})),
    ("VGTD", "added_tokens.json with other ids", PROBE, dict(atj={"[A]": 500, "<b>": 300})),
    ("VGTD", "added_tokens.json with tokens that are known", PROBE, dict(atj={"hello": 300, "<b>": 299})),
    ("VGTD", "added_tokens.json with the end of text", "a " + ENDED, dict(vocab=BARE, atj={EOT: 266})),
    ("VGTD", "added_tokens.json, named", ENDED, dict(vocab=BARE, atj={EOT: 266}, tc={"unk_token": EOT})),
    ("VGTD", "added_tokens.json, named by an object", ENDED, dict(
        vocab=BARE, atj={EOT: 266}, tc={"unk_token": typed(EOT)})),
    ("VGTD", "added_tokens.json, an extra token", PROBE, dict(
        atj={"[A]": 267}, tc={"additional_special_tokens": ["[A]"]})),
    ("VGTD", "added_tokens.json, an extra token of the map", PROBE, dict(
        atj={"[A]": 267}, stm={"additional_special_tokens": ["[A]"]})),
    # special tokens
    ("VGTD", "a pad token that is missing", PROBE, dict(tc={"pad_token": "[PAD]"})),
    ("VGTD", "a pad token as an object", PROBE, dict(
        tc={"pad_token": typed("[PAD]", lstrip=True, rstrip=True)})),
    ("VGTD", "special_tokens_map.json", PROBE, dict(stm={"pad_token": "[PAD]"})),
    ("VGTD", "special_tokens_map.json, an object", "hello [PAD] x", dict(stm={"pad_token": {
        "content": "[PAD]", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}})),
    ("VGTD", "special_tokens_map.json over tokenizer_config.json", PROBE, dict(
        tc={"pad_token": "<b>"}, stm={"pad_token": "[PAD]"})),
    ("VGTD", "special_tokens_map.json takes a token away", PROBE, dict(
        tc={"pad_token": "<b>"}, stm={"pad_token": None})),
    ("VGTD", "all named, in their order", PROBE, dict(
        tc={"mask_token": "<b>", "pad_token": "[PAD]", "bos_token": "[A]", "cls_token": " x"})),
    ("VGTD", "another bos, no end of text", PROBE + ENDED, dict(
        vocab=BARE, tc={"bos_token": "[A]", "pad_token": "[PAD]"})),
    ("VGTD", "null", ENDED, dict(tc={"bos_token": None, "eos_token": None, "unk_token": None})),
    ("VGTD", "null, not in the vocabulary", ENDED, dict(
        vocab=BARE, tc={"bos_token": None, "eos_token": None, "unk_token": None})),
    ("VGTD", "a word as bos", ENDED, dict(tc={"bos_token": "hell"})),
    ("VGTD", "an empty token", PROBE, dict(tc={"pad_token": "", "extra_special_tokens": ["", "[A]"]})),
    ("VGTD", "flags of the end of text", "hello <|endoftext|> world", dict(tc={name: typed(
        EOT, lstrip=True, rstrip=True, normalized=True) for name in NAMED[:3]})),
    ("VGTD", "the end of text as objects and as a string", "hello <|endoftext|> world", dict(stm={
        **{name: {"content": EOT, "lstrip": True} for name in NAMED[:3]}, "pad_token": EOT})),
    ("VGTD", "the end of text as a string and as an object", "hello <|endoftext|> world", dict(tc={
        "bos_token": EOT, "eos_token": typed(EOT, lstrip=True), "unk_token": EOT})),
    # what is not normalized is found first
    ("VGTD", "normalized by added_tokens.json", "<|endoftext|>b", dict(
        vocab=BARE, atj={EOT: 266}, tc={"extra_special_tokens": ["|>b"]})),
    ("VGTD", "not normalized by added_tokens.json", "<|endoftext|>b", dict(
        vocab=BARE, atj={EOT: 266}, tc={"eos_token": EOT, "extra_special_tokens": ["|>b"]})),
    ("VGTD", "normalized by added_tokens.json, named by an object", "[PAD]b", dict(
        atj={"[PAD]": 267}, tc={"pad_token": typed("[PAD]"), "mask_token": "]b"})),
    ("VGTD", "not normalized by added_tokens.json, named by an object of the map", "[PAD]b", dict(
        atj={"[PAD]": 267}, stm={"pad_token": {"content": "[PAD]"}, "mask_token": "]b"})),
    ("VGTD", "normalized by an object", "[PAD]b", dict(
        tc={"pad_token": typed("[PAD]", normalized=True), "mask_token": "]b"})),
    ("VGTD", "not normalized by an object", "[PAD]b", dict(
        tc={"pad_token": typed("[PAD]"), "mask_token": "]b"})),
    ("VGTD", "an extra object", "[PAD]b", dict(tc={"extra_special_tokens": [typed("[PAD]"), "]b"]})),
    ("VGTD", "an extra object that is named", "[PAD]b", dict(tc={
        "extra_special_tokens": [typed("[PAD]"), "]b"], "pad_token": "[PAD]"})),
    ("GTD", "named makes special", PROBE, dict(added=[END, listed(267, "[A]")], tc={"pad_token": "[A]"})),
    ("VGTD", "other *_token", PROBE, dict(tc={"image_token": "<b>", "foo": "[A]", "a_token": "[PAD]"})),
    ("GT", "padding of tokenizer.json", PROBE, dict(json_={"padding": PADDING})),
    ("GT", "padding of tokenizer.json, another pad token", PROBE, dict(
        json_={"padding": PADDING}, tc={"pad_token": "<b>"})),
    # extra tokens
    ("VGTD", "extra_special_tokens", PROBE, dict(tc={"extra_special_tokens": ["<b>", "[A]", "<b>"]})),
    ("VGTD", "extra_special_tokens, objects", PROBE, dict(
        tc={"extra_special_tokens": [typed("[A]", rstrip=True)]})),
    ("VGTD", "extra_special_tokens, an object", PROBE, dict(tc={
        "extra_special_tokens": {"image_token": "<b>", "foo": "[A]"}, "additional_special_tokens": ["x["]})),
    ("VGTD", "extra and additional", PROBE, dict(
        tc={"extra_special_tokens": ["<b>"], "additional_special_tokens": ["[A]"]})),
    ("VGTD", "extra that is empty and additional", PROBE, dict(tc={
        "extra_special_tokens": [], "additional_special_tokens": ["[A]"]})),
    ("VGTD", "extra of the map", PROBE, dict(
        stm={"extra_special_tokens": [{"content": "[A]", "lstrip": True}, "<b>"]})),
    ("VGTD", "extra of both", PROBE, dict(
        tc={"extra_special_tokens": ["<b>"]}, stm={"extra_special_tokens": ["[A]", "<b>"]})),
    ("VGTD", "additional of the map", PROBE, dict(stm={"additional_special_tokens": ["[A]", "<b>"]})),
    ("VGTD", "additional of both", PROBE, dict(tc={"additional_special_tokens": ["[A]"]},
                                              stm={"additional_special_tokens": ["<b>"]})),
    ("VGTD", "additional of both, empty", PROBE, dict(tc={"additional_special_tokens": []},
                                                     stm={"additional_special_tokens": ["<b>"]})),
    ("VGTD", "named and extra", PROBE, dict(
        tc={"pad_token": "[PAD]", "extra_special_tokens": ["[A]", "[PAD]", "<b>"]})),
    # added_tokens_decoder
    ("VGTD", "added_tokens_decoder", PROBE, dict(atd={
        "1000": token("[A]"), "268": token("<b>", special=True, normalized=False, lstrip=True)})),
    ("VGTD", "added_tokens_decoder, few keys", PROBE, dict(
        atd={"267": {"content": "[A]"}, "268": {"content": "<b>", "special": True}})),
    ("VGTD", "added_tokens_decoder, tokens that are known", ENDED, dict(
        atd={"3": token("hell", special=True)})),
    ("VGTD", "added_tokens_decoder shuts the others out", PROBE, dict(
        atd={}, tc={"pad_token": "<b>"}, stm={"pad_token": "[PAD]"}, atj={"[A]": 267})),
    ("GTD", "added_tokens_decoder against tokenizer.json", PROBE, dict(
        added=[END, listed(267, "[A]")], atd={"266": token(EOT, special=True), "267": token("<b>")})),
    ("GTD", "flags of added_tokens_decoder", "hello <|endoftext|> world", dict(
        atd={"266": token(EOT, lstrip=True, rstrip=True)})),
    ("GTD", "once special", "<b><b>c <b>", dict(
        added=[listed(267, "<b>", special=True)], atd={"267": token("<b>")})),
    ("GTD", "single_word of added_tokens_decoder", "<b><b>c <b>", dict(
        added=[listed(267, "<b>", special=True)], atd={"267": token("<b>", single_word=True, special=True)})),
    ("GTD", "normalized of added_tokens_decoder", "<b><b>c", dict(
        added=[listed(267, "<b>"), listed(268, "><")], atd={"268": token("><", normalized=False)})),
    # tokenizer.json's own
    ("GTD", "added tokens out of order", PROBE, dict(added=[END, listed(268, "[A]"), listed(267, "<b>")])),
    ("GTD", "added tokens with other ids", PROBE, dict(added=[END, listed(270, "[A]"), listed(300, "<b>")])),
    ("GTD", "flags of the map against tokenizer.json", "hello <|endoftext|> world", dict(
        stm={"eos_token": {"content": EOT, "lstrip": True, "normalized": True}})),
    ("GTD", "added tokens and added_tokens.json", PROBE, dict(
        added=[END, listed(267, "[A]")], atj={"<b>": 268, "[PAD]": 5})),
    # ids with gaps, bytes
    ("VGT", "a gap", PROBE + ENDED, dict(vocab=vocabulary(gap=5))),
    ("VGT", "a gap and a pad token", PROBE, dict(vocab=vocabulary(gap=5), tc={"pad_token": "[PAD]"})),
    ("VGT", "a gap and added_tokens.json", PROBE, dict(vocab=vocabulary(gap=5), atj={"[A]": 300, "<b>": 301})),
    ("GT", "a space as an added token's character", "a \u0120b", dict(added=[END, listed(32, "\u0120")])),
    ("GT", "a letter that spells a byte", "a \u00e9\u00c9b", dict(added=[END, listed(233, "\u00e9")])),
    ("GT", "a word that spells a word", "a w \u0120w b", dict(added=[END, listed(260, "\u0120w")])),
    ("GT", "spelled, not in the vocabulary", "a X \u0120X b", dict(added=[END, listed(267, "\u0120X")])),
    ("GT", "an added token of the vocabulary's bytes", "hahello", dict(
        added=[END, listed(vocabulary()["h"], "h")])),
    ("VGT", "all ASCII", ENDED, dict(vocab=ASCII)),
    ("T", "an unk_token", "h\u00e9e \u00e9\u00e9 hell\u4e2do", dict(vocab=ASCII, model={"unk_token": EOT})),
    ("T", "unk_tokens in one", "h\u00e9e \u00e9\u00e9 hell\u4e2do", dict(
        vocab=ASCII, model={"unk_token": EOT, "fuse_unk": True})),
    ("T", "an unk_token that merges", "hello h\u00e9llo", dict(vocab=ASCII, model={"unk_token": "e"})),
    ("T", "unk_tokens in one that merge", "hello h\u00e9llo", dict(
        vocab=ASCII, model={"unk_token": "e", "fuse_unk": True})),
    ("T", "an unk_token with ignore_merges", "hello h\u00e9llo", dict(
        vocab=ASCII, model={"unk_token": EOT, "ignore_merges": True})),
    ("GT", "an unk_token that is not needed", "hello \u00e9", dict(model={"unk_token": "e"})),
    # without effect
    ("VGTD", "keys without effect", ENDED, dict(
        tc={"clean_up_tokenization_spaces": True, "model_max_length": 4, "errors": "strict",
            "padding_side": "left", "chat_template": "x", "add_eos_token": True, "legacy": False},
        config={"model_type": "deepseek_v3", "tokenizer_class": "GPT2Tokenizer", "eos_token_id": 3,
                "bos_token_id": 9})),
]
# texts with bytes that the vocabulary lacks: the ids, or an error of encode that names a byte
MISSING = [("VGT", "missing bytes", "h\u00e9e \u00e9\u00e9 hell\u4e2do", dict(vocab=ASCII)),
           ("VG", "missing bytes, unk_token named", "h\u00e9e", dict(vocab=ASCII, tc={"unk_token": "h"})),
           ("G", "missing bytes, unk_token dropped", "h\u00e9e", dict(vocab=ASCII, model={"unk_token": "e"}))]
# refused, with a word of what is at fault
REFUSED = [
    ("GT", "tokenizer_class", dict(tc={"tokenizer_class": "Qwen2Tokenizer"})),
    ("VGT", "tokenizer_class", dict(tc={"tokenizer_class": "GPTNeoXTokenizerFast"})),
    ("V", "tokenizer_class", dict(tc={"tokenizer_class": "LlamaTokenizerFast"})),
    ("VGT", "tokenizer_class", dict(tc={"tokenizer_class": 5})),
    ("T", "tokenizer_class", dict(config={"model_type": "deepseek_v3", "tokenizer_class": "RobertaTokenizer"})),
    ("T", "auto_map", dict(
        tc={"tokenizer_class": "LlamaTokenizerFast", "auto_map": {"AutoTokenizer": ["a.B", None]}})),
    ("T", "auto_map", dict(tc={"auto_map": {"AutoTokenizer": ["a.B", None]}})),
    ("VG", "add_prefix_space", dict(tc={"add_prefix_space": None})),
    ("VG", "add_prefix_space", dict(tc={"add_prefix_space": 1})),
    ("VGT", "add_prefix_space", dict(stm={"add_prefix_space": True})),
    ("VGT", "pad_token", dict(tc={"pad_token": {"content": "[PAD]"}})),
    ("VGT", "pad_token", dict(tc={"pad_token": 5})),
    ("VGT", "pad_token", dict(stm={"pad_token": 5})),
    ("VGT", "extra_special_tokens", dict(tc={"extra_special_tokens": [{"content": "[A]"}]})),
    ("VGT", "extra_special_tokens", dict(tc={"extra_special_tokens": "[A]"})),
    ("VGT", "additional_special_tokens", dict(stm={"additional_special_tokens": [{"content": "[A]"}]})),
    ("VGT", "added_tokens_decoder", dict(tc={"added_tokens_decoder": []})),
    ("VGT", "added_tokens_decoder", dict(tc={"added_tokens_decoder": None})),
    ("VGT", "added_tokens_decoder", dict(atd={"267": "[A]"})),
    ("VGT", "added_tokens_decoder", dict(atd={"x": token("[A]")})),
    ("VGT", "added_tokens.json", dict(atj=["[A]"])),
    ("VGT", "added_tokens.json", dict(atj={"[A]": "267"})),
    ("VGT", "added_tokens.json", dict(atj={"[A]": 267, "<b>": 267})),
    ("GT", "267", dict(added=[END, listed(267, "[A]"), listed(267, "<b>")])),
    ("GT", "267", dict(added=[END, listed(267, "[A]")], atj={"<b>": 267})),
    ("VGT", "special_tokens_map.json", dict(stm=["[A]"])),
    ("VGT", "tokenizer_config.json", dict(tc=["[A]"])),
    ("VGT", "tokenizer_config.json", dict(tc="{")),
    ("VGT", "config.json", dict(config="{")),
    ("VGT", "fast_tokenizer_files", dict(tc={"fast_tokenizer_files": ["tokenizer.4.0.0.json"]})),
    ("VGT", "tokenizer_config.json", dict(tc={"vocab": {"a": 0}})),
    ("VGT", "266", dict(vocab={**BARE, "\u0120hello": 266}, tc={"pad_token": "[PAD]"})),     # the next id, too
    ("GT", "post_processor", dict(json_={"post_processor": template(EOT, "$A")})),
    ("GT", "post_processor", dict(json_={"post_processor": template(EOT, **{EOT: 266})})),
    ("GT", "post_processor", dict(json_={"post_processor": template("$A", "$A")})),
    ("GT", "post_processor", dict(json_={"post_processor": {**template("$A"), "single": "$A"}})),
    ("GT", "post_processor", dict(json_={"post_processor": template("a", "$A", a=100000)})),
    ("GT", "post_processor", dict(json_={"post_processor": {"type": "Foo"}})),
    ("T", "normalizer", dict(json_={"normalizer": {"type": "NFC"}})),
    ("T", "byte_fallback", dict(model={"byte_fallback": True})),
    ("T", "decoder", dict(json_={"decoder": None})),
    ("T", "pre_tokenizer", dict(json_={"pre_tokenizer": None})),
]


def random_files(rng):
    """nothing that is refused: a text is written in one way, no id is given twice, the vocabulary has no gaps"""
    words = ["[A]", "<b>", "[PAD]", " x", "hello", "hell", EOT, "<|e", "x[", "\u0120w", "[A] "]
    flags = {word: {flag: rng.random() < 0.5 for flag in ("lstrip", "rstrip", "single_word", "normalized")}
             for word in words}
    plain = {word: rng.randrange(2) for word in words}
    vocab, with_other = vocabulary(eot=rng.randrange(3) > 0), rng.random() < 0.3

    def some(most):
        return rng.sample(words, rng.randint(0, most))

    def spelled(word, **more):
        return word if plain[word] else {"content": word, **flags[word], **more}

    def whole(word):
        return spelled(word, __type="AddedToken", special=True)

    other = rng.choice(words)
    plain[other] |= with_other
    ids = rng.sample(range(300, 500), len(words))
    added = [listed(vocab.get(word, id_), word, special=rng.random() < 0.5, **flags[word])
             for word, id_ in zip(some(3), ids)]
    config = rng.choice(({"model_type": "gpt2"}, {"model_type": "deepseek_v3"}, None))
    parts = {"vocab": vocab, "added": added, "config": config}
    tc = {name: rng.choice((None, whole(word))) for name, word in zip(NAMED, some(11)) if rng.random() < 0.3}
    if with_other:
        tc["image_token"] = other
    for name in ("extra_special_tokens", "additional_special_tokens"):
        if rng.random() < 0.3:
            tc[name] = [whole(word) for word in some(3)]
    if rng.random() < 0.3:
        tc["add_prefix_space"] = rng.random() < 0.7
    if rng.random() < 0.3:
        tc["tokenizer_class"] = rng.choice(("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast",
                                            "LlamaTokenizerFast"))
    if rng.random() < 0.25:
        parts["atd"] = {str(id_): {"content": word, "special": rng.random() < 0.5, **flags[word]}
                        for word, id_ in zip(some(3), ids)}
    if rng.random() < 0.35:
        parts["stm"] = {name: rng.choice((None, spelled(word))) for name, word in zip(NAMED, some(11))
                        if rng.random() < 0.3}
        if rng.random() < 0.3:
            parts["stm"]["extra_special_tokens"] = [spelled(word) for word in some(2)]
        if rng.random() < 0.3:
            parts["stm"]["additional_special_tokens"] = [word for word in some(3) if plain[word]]
    if rng.random() < 0.3:
        taken = {item["id"] for item in added}
        parts["atj"] = {word: id_ for word, id_ in zip(some(3), ids[5:]) if id_ not in taken}
    kind = "T" if config is None else "G" if config["model_type"] == "gpt2" else "D"
    gpt2 = tc.get("tokenizer_class", "").startswith("GPT2") or "tokenizer_class" not in tc and kind == "G"
    return files("V" if gpt2 and rng.randrange(2) else kind, tc=tc or None, **parts)


def write(folder, contents):
    for name, content in contents.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))


def directory(checker, loader, contents, texts, may_refuse_bytes=False):
    """-> what is wrong, or None"""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, contents)
        copy = os.path.join(folder, "copy.json")
        want = loader.from_pretrained(folder)
        texts = [*texts, " ".join(want.get_added_vocab())]
        commands = [command(letter, text.encode()) for text in texts for letter in "SE"]
        data, message = checker.attempt([folder], [*commands, command("W", copy.encode())])
        message = message.replace(folder, "") if message else None
        if may_refuse_bytes and message and re.search(r"^encode.*0x[0-9A-F]{2}", message):
            return None
        if message and not data:
            return message.strip()
        got = [ids for ids, _ in answers(data)]
        ids = [want.encode(text, add_special_tokens=False, split_special_tokens=split)
               for text in texts for split in (False, True)]
        for i, (a, b) in enumerate(zip(got, ids)):
            if a != b:
                return "%r, special %d: %s, transformers %s" % (texts[i // 2], 1 - i % 2, a, b)
        if message:
            return message.strip()
        saved = Tokenizer.from_file(copy)
        for i, a in enumerate(got):
            saved.encode_special_tokens = bool(i % 2)
            b = saved.encode(texts[i // 2], add_special_tokens=False).ids
            if a != b:
                return "saved: %r, special %d: %s, loaded %s" % (texts[i // 2], 1 - i % 2, b, a)
    return None


def refused(checker, contents, word):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, contents)
        data, message = checker.attempt([folder], [command("S", PROBE.encode())])
        said = message.replace(folder, "").strip() if message else "loaded: %s" % next(answers(data))[0]
        return None if message and word in said else said


def directories(checker, rng, n_random):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError:
        print("directories: left out, there is no transformers")
        return
    transformers.logging.set_verbosity_error()
    loader, before = transformers.AutoTokenizer, checker.wrong
    n = 0
    for cases, may_refuse_bytes in ((CASES, False), (MISSING, True)):
        for kinds, name, text, parts in cases:
            n += checker.listed("directory, " + name, kinds, lambda kind: directory(
                checker, loader, files(kind, **parts), [text], may_refuse_bytes))
    print("%-28s %7d, %d wrong" % ("directories", n, checker.wrong - before))
    n, before = 0, checker.wrong
    for kinds, word, parts in REFUSED:
        n += checker.listed("directory to be refused for " + word, kinds, lambda kind: refused(
            checker, files(kind, **parts), word))
    print("%-28s %7d, %d wrong" % ("directories to be refused", n, checker.wrong - before))
    before = checker.wrong
    pieces = [PROBE, ENDED, "hello", "hell", "[A]", "<b>", "[PAD]", " x", EOT, "\u0120w", "[A] ", " ", "  ", "a",
              "<|e", "x["]
    for i in range(n_random):
        contents = random_files(rng)
        texts = ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 9))) for _ in range(4)]
        wrong = directory(checker, loader, contents, texts)
        beside = {name: value for name, value in contents.items()
                  if name not in ("vocab.json", "merges.txt", "tokenizer.json")}
        if "tokenizer.json" in contents:
            beside["added_tokens"] = contents["tokenizer.json"]["added_tokens"]
        checker.report("random directory", wrong and "%s, %s" % (wrong, json.dumps(beside)), not wrong)
    print("%-28s %7d, %d wrong" % ("random directories", n_random, checker.wrong - before))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser.add_argument("--header", default=os.path.join(root, "llm.h"))
    parser.add_argument("--data", default=os.path.join(root, "..", "shared", "data"))
    parser.add_argument("--flags", default="", help="more for the compiler")
    parser.add_argument("--directories", action="store_true", help="only those")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rng = Random(arguments.seed)
    corpus = os.path.join(arguments.data, "tinyshakespeare.txt")
    corpus = open(corpus if os.path.exists(corpus) else arguments.header, encoding="utf-8").read()
    words = sorted(set(corpus.split()))
    mixed = "".join(rng.text(words) for _ in range(3000))
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(folder, arguments.header, arguments.flags.split())
        directories(checker, rng, max(50, arguments.n // 200))
        if arguments.directories:
            print("%d differences" % checker.wrong)
            return checker.wrong != 0

        for name, splits in PUBLISHED.items():
            checker.pieces("pieces, " + name, splits, [rng.text(words) for _ in range(arguments.n)])

        checker.random_patterns(rng, max(50, arguments.n // 50))

        small = checker.training("train, 1000 tokens", corpus[:200000], 1000)
        checker.training("train, mixed text", mixed, 3000)
        checker.training("train, all scripts", "".join(rng.character() for _ in range(40000)), 2000)
        for i in range(20):
            letters = "ab" if i % 2 else "abc "
            text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 3000)))
            checker.training("train, few letters %d" % i, text, rng.choice((257, 258, 300, 1500)))
        checker.training("train, nothing", "", 300)

        checker.odd_vocabularies(rng, small, max(50, arguments.n // 100))
        data = json.loads(small.to_str())["model"]
        vocab, merges = data["vocab"], [tuple(m) for m in data["merges"]]
        kinds = {"trained": small}
        kinds["prefix space"] = byte_level(vocab, merges, prefix=True)
        added = [AddedToken("[ADD", special=False, normalized=True), AddedToken("[ADDED]", special=False, normalized=True),
                 AddedToken("[STRIP]", special=False, lstrip=True, rstrip=True, normalized=True),
                 AddedToken("[LEFT]", special=True, lstrip=True, normalized=False),
                 AddedToken("[RIGHT]", special=False, rstrip=True, normalized=False),
                 AddedToken("<|endoftext|>", special=True, normalized=False),
                 AddedToken("<|", special=False, normalized=False), AddedToken("bar", special=False, normalized=True),
                 AddedToken("[WORD]", special=False, single_word=True, normalized=True),
                 AddedToken("whole", special=False, single_word=True, normalized=False),
                 AddedToken("[ALL]", special=True, single_word=True, lstrip=True, rstrip=True, normalized=True),
                 AddedToken("\u00e9t\u00e9", special=False, normalized=True), AddedToken("plain token", special=True, normalized=True),
                 AddedToken("  ", special=False, normalized=True), AddedToken("\u4e00", special=True, normalized=False)]
        kinds["added tokens"] = byte_level(vocab, merges)
        kinds["added tokens"].add_tokens(added)
        kinds["added tokens, prefix space"] = byte_level(vocab, merges, prefix=True)
        kinds["added tokens, prefix space"].add_tokens(added)
        short = dict(vocab)
        for word in ("\u0120foo", "bar", "foo", "http", "\u0120\u0120\u0120", "whole"):
            short.setdefault(word, len(short))
        kinds["ignore_merges"] = byte_level(short, merges, ignore_merges=True)
        kinds["unreachable tokens"] = byte_level(short, merges)
        parts = deepseek(corpus[:300000] + mixed, 4000)
        kinds["deepseek"] = with_splits(*parts, SPLITS, added=DEEPSEEK_ADDED)
        kinds["deepseek, newlines as such"] = with_splits(
            *parts, [*SPLITS[:2], SPLITS[2].replace("\\r", "\r").replace("\\n", "\n")])
        for i, name in enumerate(("numbers", "cjk", "words")):
            kinds[name + " only"] = with_splits(*parts, [SPLITS[i]])
        kinds["gpt2 in numbers"] = with_splits(vocab, merges, SPLITS[:1], use_regex=True)
        kinds["no pattern"] = with_splits(*parts, [])
        gpt2 = [os.path.join(arguments.data, "gpt2_" + name) for name in ("vocab.json", "merges.txt")]
        if all(map(os.path.exists, gpt2)):
            kinds["gpt2"] = byte_level(*models.BPE.read_file(*gpt2))
            kinds["gpt2"].add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
        else:
            print("GPT-2's vocabulary is not in %s: left out" % arguments.data)

        for name, tokenizer in kinds.items():
            path = os.path.join(folder, name.replace(" ", "_") + ".json")
            tokenizer.save(path)
            n = arguments.n if name in ("gpt2", "trained", "deepseek") else arguments.n // 5
            for special in (1, 0):
                texts = [rng.text(words) for _ in range(n // 2)]
                # a prefix space and stripped white space are not in the tokens: decode cannot know
                checker.encode(name, tokenizer, path, texts, special,
                               exact="prefix" not in name and "added" not in name)
            checker.saving(name, tokenizer, path)
            if name == "gpt2":
                parts = os.path.join(folder, "gpt2")
                os.mkdir(parts)
                for source, target in zip(gpt2, ("vocab.json", "merges.txt")):
                    with open(source, "rb") as a, open(os.path.join(parts, target), "wb") as b:
                        b.write(a.read())
                checker.encode("gpt2, vocab.json+merges.txt", tokenizer, parts, texts[:5000], 0)

        name = "gpt2" if "gpt2" in kinds else "trained"
        tokenizer, path = kinds[name], os.path.join(folder, name + ".json")
        for title, text in (("the corpus", corpus), ("random text", mixed), ("one word", "".join(
                rng.choice("abcdefghij") for _ in range(1000000)))):
            while len(text) <= 1000000:
                text += text
            size = len(text.encode())
            print("%s, %.1f MB, %s:" % (title, size / 1e6, name), flush=True)
            for _ in range(2):
                checker.run([path], [command("E", text.encode())], loud=True)
            start = time.time()
            tokenizer.encode(text)
            print("tokenizers encode %.3f s" % (time.time() - start), flush=True)
        start = time.time()
        train(corpus, 4096)
        print("tokenizers train to 4096, %.1f MB: %.3f s" % (len(corpus) / 1e6, time.time() - start), flush=True)
        checker.run([], [command("T", struct.pack("<i", 4096) + corpus.encode())] * 2, loud=True)
    print("%d differences" % checker.wrong)
    return checker.wrong != 0


if __name__ == "__main__":
    sys.exit(main())

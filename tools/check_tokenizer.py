#!/usr/bin/env python3
"""Compare llm.h's tokenizer with Hugging Face `tokenizers` on random text, and time both.

    python3 tools/check_tokenizer.py [-n 100000] [--seed 1] [--header llm.h] [--data ../shared/data]

Encodes n random strings with each of several tokenizers (GPT-2's own where its files are found,
trained ones, with a prefix space, with added tokens that strip white space, with ignore_merges, with
DeepSeek-V3's patterns, without any); checks that decoding gives the bytes back; compares training; compares what llm.h saves with what
was loaded. Exits 1 at any difference. Needs `tokenizers` and a C compiler."""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers

# commands on stdin: a letter, a 4-byte length, that many bytes
#   E/S text -> count, tokens (S: special tokens are parsed); the program checks decode(encode)
#   T text with a 4-byte vocabulary size in front, W path: save what was trained
PROGRAM = r"""
#define LLM_IMPLEMENTATION
#include "%s"

static llm_error error;

static int fail(const char *what) {
    fprintf(stderr, "%%s: %%s\n", what, error.message);
    return 1;
}

int main(int argc, char **argv) {
    static char text[1 << 24], back[1 << 24];
    static int32_t tokens[1 << 24];
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


class Checker:
    def __init__(self, folder, header, flags):
        self.folder, self.wrong = folder, 0
        self.program = os.path.join(folder, "check")
        source = os.path.join(folder, "check.c")
        with open(source, "w") as file:
            file.write(PROGRAM % os.path.abspath(header))
        subprocess.run([os.environ.get("CC", "cc"), "-O2", *flags, "-w", source, "-o", self.program, "-lm"], check=True)

    def run(self, arguments, commands, loud=False):
        result = subprocess.run([self.program, *arguments], input=b"".join(commands), stdout=subprocess.PIPE,
                                stderr=None if loud else subprocess.PIPE)
        if result.returncode:
            sys.exit("the C program failed: %s" % (result.stderr or b"").decode())
        return result.stdout

    def report(self, name, what, good):
        if not good:
            self.wrong += 1
            if self.wrong <= 10:
                print("DIFFERENT %s: %s" % (name, what))

    def encode(self, name, tokenizer, path, texts, special, exact=True):
        tokenizer.encode_special_tokens = not special
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        data = self.run([path], [command("S" if special else "E", text.encode()) for text in texts])
        at, before = 0, self.wrong
        for text, ids in zip(texts, expected):
            n, same = struct.unpack_from("<II", data, at)
            got = list(struct.unpack_from("<%di" % n, data, at + 8))
            at += 8 + 4 * n
            self.report(name, "%r: %s, tokenizers %s" % (text[:80], got[:20], ids[:20]), got == ids)
            self.report(name, "%r does not come back from decode" % text[:80], same or not exact)
        print("%-28s %7d strings, special %d, %9d tokens, %d differences"
              % (name, len(texts), special, sum(map(len, expected)), self.wrong - before))

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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser.add_argument("--header", default=os.path.join(root, "llm.h"))
    parser.add_argument("--data", default=os.path.join(root, "..", "shared", "data"))
    parser.add_argument("--flags", default="", help="more for the compiler")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rng = Random(arguments.seed)
    corpus = os.path.join(arguments.data, "tinyshakespeare.txt")
    corpus = open(corpus if os.path.exists(corpus) else arguments.header, encoding="utf-8").read()
    words = sorted(set(corpus.split()))
    mixed = "".join(rng.text(words) for _ in range(3000))
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(folder, arguments.header, arguments.flags.split())

        small = checker.training("train, 1000 tokens", corpus[:200000], 1000)
        checker.training("train, mixed text", mixed, 3000)
        checker.training("train, all scripts", "".join(rng.character() for _ in range(40000)), 2000)
        for i in range(20):
            letters = "ab" if i % 2 else "abc "
            text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 3000)))
            checker.training("train, few letters %d" % i, text, rng.choice((257, 258, 300, 1500)))
        checker.training("train, nothing", "", 300)

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


sys.exit(main())

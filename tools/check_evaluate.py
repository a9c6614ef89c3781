#!/usr/bin/env python3
"""tools/evaluate.c against transformers: perplexity by windows, and scores of choices.

    pip install torch transformers tokenizers
    python3 tools/check_evaluate.py [FILTER] [--verbose]

Each case is a GPT-2, DeepSeek-V2 or DeepSeek-V3 of odd sizes with random weights, and a tokenizer
that is learned here, with a bos of its own, with one that is the eos, or with none. Texts, of a few
tokens and of many, are read in windows as Hugging Face's guide to perplexity does, and its losses
are weighed by the tokens that they are of. Choices are encoded as EleutherAI's harness does; where
the context's tokens are no longer there once the choice follows, they count from the first that
differs. What evaluate prints has to be the same to 2e-5, and so have tokens, bytes and accuracies.

A line per case; exits 1 if any failed, 2 if none ran. --verbose prints what is compared.
"""

import argparse
import math
import os
import random
import re
import subprocess
import sys
import tempfile

import torch
from check_hf import ROOT, deepseek, deepseek2, gpt2, logits_of, shake
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

TOLERANCE = 2e-5
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
CONTEXT = 40
WINDOWS = [(), ("--window", 40, "--stride", 40), ("--window", 17, "--stride", 17),
           ("--window", 9, "--stride", 1), ("--window", 2, "--stride", 1),
           ("--window", 13, "--stride", 5, "--batch", 3), ("--window", 40, "--stride", 39),
           ("--window", 39, "--batch", 7, "--tokens", 300)]


def learn(text, vocab, ends):
    """byte-level BPE, whose last tokens are the special ones"""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab - len(ends), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.add_special_tokens([AddedToken(end, special=True) for end in ends])
    return tokenizer


def byte_tokens(tokenizer, data):
    """of a tokenizer without merges, which takes bytes that are no UTF-8, too"""
    names = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    of = {byte: chr(byte) for byte in names}
    for byte in range(256):
        of.setdefault(byte, chr(256 + sum(other < byte for other in range(256) if other not in
                                          names)))
    return [tokenizer.token_to_id(of[byte]) for byte in data]


class Case:
    def __init__(self, config, vocab, ends, folder, seed):
        self.folder, self.generator = folder, torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        with open(os.path.join(ROOT, "README.md")) as file:
            self.text = file.read()
        self.tokenizer = learn(self.text, vocab, ends)
        config.vocab_size = self.tokenizer.get_vocab_size() + 5
        ids = [self.tokenizer.token_to_id(end) for end in ends]
        config.bos_token_id, config.eos_token_id = (ids[0], ids[-1]) if ids else (None, None)
        self.bos = ids[0] if len(ids) == 2 else None
        self.start = ids[0] if ids else None           # where something has to begin a text
        if not ids and config.model_type == "gpt2":    # whose tokenizer adds its <|endoftext|>
            self.start = self.tokenizer.get_vocab_size()
        self.model = AutoModelForCausalLM.from_config(config).eval()
        shake(self.model, self.generator)
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")
        self.model.save_pretrained(folder)
        self.tokenizer.save(os.path.join(folder, "tokenizer.json"))
        self.problems, self.worst, self.said = [], 0.0, []

    def run(self, *words):
        done = subprocess.run([PROGRAM, self.folder, *map(str, words)], capture_output=True)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def compare(self, what, mine, expected, tolerance=TOLERANCE):
        error = abs(mine - expected) / max(abs(expected), 1e-9)
        self.worst = max(self.worst, error)
        self.said.append("%s: %.8g, transformers %.8g" % (what, mine, expected))
        if not error <= tolerance:
            self.problems.append(self.said[-1])

    def put(self, name, data):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    # ---- texts ---------------------------------------------------------------------------------

    @torch.no_grad()
    def windows(self, tokens, window, stride):
        """Hugging Face's loop -> nats, the places of the tokens that count"""
        nats, counted, had = 0.0, [], 0
        for at in range(0, len(tokens), stride):
            end = min(at + window, len(tokens))
            ids = torch.tensor([tokens[at:end]])
            labels = ids.clone()
            labels[:, :-(end - had)] = -100
            n = (labels[:, 1:] != -100).sum().item()
            if n:
                nats += self.model(ids, labels=labels, use_cache=False).loss.item() * n
                counted += range(end - n, end)
            had = end
            if end == len(tokens):
                break
        return nats, counted

    def check_text(self, data, options=(), tokens=None):
        name = "%d bytes %s" % (len(data), " ".join(map(str, options)))
        path = self.put("text", data)
        if tokens is None:
            tokens = self.tokenizer.encode(data.decode(), add_special_tokens=False).ids
        values = dict(zip(options[::2], options[1::2]))
        tokens = tokens[:values.get("--tokens", len(tokens))]
        sizes = [0 if token in (self.bos, self.start) else
                 len(self.tokenizer.id_to_token(token)) for token in tokens]  # a letter a byte
        if self.bos is not None:
            tokens, sizes = [self.bos, *tokens], [0, *sizes]
        window = values.get("--window", CONTEXT)
        status, out, err = self.run(path, *options)
        if len(tokens) < 2:
            if status != 1 or not re.search("two are needed|is empty", err) or err.count("\n") > 1:
                self.problems.append("%s: not refused: %s%s" % (name, out, err))
            return
        if status:
            self.problems.append("%s: %s" % (name, err))
            return
        nats, counted = self.windows(tokens, window, values.get("--stride", window // 2))
        n, size, mean, perplexity, bits = map(float, out.split("\n")[3].split()[:5])
        if (n, size) != (len(counted), sum(sizes[i] for i in counted)):
            self.problems.append("%s: %d tokens, %d bytes instead of %d, %d" % (
                name, n, size, len(counted), sum(sizes[i] for i in counted)))
            return
        self.compare(name + ", nats", mean, nats / n)
        self.compare(name + ", perplexity", perplexity, math.exp(nats / n), 1e-4)
        self.compare(name + ", bits per byte", bits, nats / math.log(2) / size)

    def check_texts(self, merges):
        text = self.text.encode()
        for options in WINDOWS:
            self.check_text(text[:1500], options)
        for n in (0, 1, 2, 3, 30):
            self.check_text(text[:n])
        self.check_text("Ein Löwe, 二 дома 🙂 é́".encode() * 5, ("--window", 11, "--stride", 4))
        if not merges:
            data = bytes(self.random.randrange(256) for _ in range(300)) + b"\xff"
            tokens = byte_tokens(self.tokenizer, data)
            self.check_text(data, ("--window", 30, "--stride", 7), tokens)
            self.check_text(data[-3:], (), tokens[-3:])

    # ---- choices -------------------------------------------------------------------------------

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def choice(self, context, choice, window):
        """as the harness -> (the score, tokens, bytes, whether the context was cut)"""
        alone = context.rstrip(" \t\n\r\v\f")
        whole, before = self.encode(context + choice), self.encode(alone)
        start = next((i for i, token in enumerate(whole) if before[i:i + 1] != [token]), len(whole))
        if whole[:len(before)] == before:
            assert start == len(before)
        front = [self.bos] if self.bos is not None else [self.start] if not start else []
        tokens, start = front + whole, start + len(front)
        cut = max(len(tokens) - 1 - window, 0)
        tokens, start = tokens[cut:], start - cut
        logprobs = logits_of(self.model, torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
        score = sum(logprobs[i - 1, tokens[i]].item() for i in range(start, len(tokens)))
        size = len((choice.lstrip(" \t\n\r\v\f") or choice).encode())
        return score, len(tokens) - start, size, cut > 0

    def check_choices(self, questions, *options, window=CONTEXT):
        def escape(text):
            return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")

        lines = ["\t".join([*map(escape, [context, *choices]), str(answer)])
                 for context, choices, answer in questions]
        path = self.put("choices.tsv", "\n".join(lines).encode())
        status, out, err = self.run("--choices", path, "--verbose", *options)
        scores = {(int(a), int(b)): (float(c), int(d), int(e)) for a, b, c, d, e in re.findall(
            r"line (\d+), choice (\d+): (\S+) of (\d+) tokens, (\d+) bytes", out)}
        right, norm, n_cut = 0, 0, 0
        for line, (context, choices, answer) in enumerate(questions, 1):
            expected = [self.choice(context, choice, window) for choice in choices]
            for i, (score, tokens, size, _) in enumerate(expected):
                name = "%r + %r" % (context[-20:], choices[i])
                found = scores.get((line, i), (math.nan, 0, 0))
                self.compare(name, found[0], score)
                if found[1:] != (tokens, size):
                    self.problems.append("%s: %s tokens, bytes instead of %s" % (
                        name, found[1:], (tokens, size)))
            ranks = range(len(choices))
            right += max(ranks, key=lambda i: expected[i][0]) == answer
            norm += max(ranks, key=lambda i: expected[i][0] / expected[i][2]) == answer
            n_cut += any(cut for _, _, _, cut in expected)
        last = out.strip().split("\n")[-2].split() if not status else ["0"] * 4
        found = last[0], last[1], last[3]
        accuracy = tuple("%.4f" % (x / len(questions)) for x in (right, norm))
        if status or found != (str(len(questions)), *accuracy):
            self.problems.append("accuracies %s of %d instead of %s: %s" % (
                found[1:], len(questions), accuracy, err))
        words = "in %d lines of %d" % (n_cut, len(questions))
        if (words in err) != (n_cut > 0) or err.count("\n") != (n_cut > 0):
            self.problems.append("%s cut, but: %s" % (words, err))

    def check_all_choices(self):
        words = [word for word in self.text.split() if "|" not in word and len(word) < 14][:400]
        questions = []
        for _ in range(30):
            at = self.random.randrange(300)
            context = " ".join(words[at:at + self.random.randrange(12)])
            ends = ["", " " + self.random.choice(words), ",", "\n"]
            choices = [" " * self.random.randrange(3) + self.random.choice(words) +
                       self.random.choice(ends) for _ in range(self.random.randrange(2, 7))]
            if self.random.random() < 0.5:             # letters of a word on both sides
                context += self.random.choice([" ", "  ", "\n", "\t", " t", " m", " \\n"])
                choices = [self.random.choice(["he", "odel", "rain"]) + c for c in choices]
            if self.start is None:                     # a first token that joins has no score
                context = "A: " + context
            questions.append((context, choices, self.random.randrange(len(choices))))
        self.check_choices(questions)
        self.check_choices(questions, "--batch", 1, "--window", 33, window=33)
        if self.start is not None:
            self.check_choices([("", ["a", " b", "the model"], 1), (" \n", ["x", " x"], 0),
                                ("Ein L", ["öwe", "and"], 0), ("th", ["e model", "at"], 1)])
        else:
            status, _, err = self.run("--choices", self.put("choices.tsv", b"\ta\tb\t0"))
            if status != 1 or "nothing is before choice" not in err:
                self.problems.append("without a context: " + err)


# name, configuration, size of the vocabulary, its special tokens
CASES = [
    ("gpt2, one end", gpt2(n_positions=CONTEXT, n_embd=33, n_head=3), 400, [EOS]),
    ("gpt2, none", gpt2(n_positions=CONTEXT, n_embd=35, n_head=5), 330, []),
    ("gpt2, bytes", gpt2(n_positions=CONTEXT), 257, [EOS]),
    ("gpt2, bos", gpt2(n_positions=CONTEXT, tie_word_embeddings=False), 500, [BOS, EOS]),
    ("deepseek, bos", deepseek(max_position_embeddings=CONTEXT, hidden_size=33), 400, [BOS, EOS]),
    ("deepseek, bytes", deepseek(max_position_embeddings=CONTEXT), 258, [BOS, EOS]),
    ("deepseek, none", deepseek(max_position_embeddings=CONTEXT, n_shared_experts=2), 300, []),
    ("deepseek dense, one end", deepseek(max_position_embeddings=CONTEXT, q_lora_rank=None,
                                         first_k_dense_replace=3), 350, [EOS]),
    ("deepseek2, bos", deepseek2(max_position_embeddings=CONTEXT), 400, [BOS, EOS]),
]


def main():
    global PROGRAM
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases whose name contains it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="every figure that is compared")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        PROGRAM = os.path.join(temporary, "evaluate")
        command = "%s -O2 tools/evaluate.c -o %s -lm" % (os.environ.get("CC", "cc"), PROGRAM)
        subprocess.run(command.split(), cwd=ROOT, check=True)
        for i, (name, config, vocab, ends) in enumerate(CASES):
            if arguments.filter not in name:
                continue
            case = Case(config, vocab, ends, os.path.join(temporary, str(i)), arguments.seed + i)
            case.check_texts(vocab - len(ends) > 256)
            case.check_all_choices()
            passed += not case.problems
            failed += bool(case.problems)
            print("%-4s %-30s %d figures, largest difference %.1e" % (
                "FAIL" if case.problems else "ok", name, len(case.said), case.worst), flush=True)
            for line in case.said if arguments.verbose else case.problems[:5]:
                print("     " + line, flush=True)
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0 if passed else 2


if __name__ == "__main__":
    sys.exit(main())

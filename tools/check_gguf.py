#!/usr/bin/env python3
"""GGUF files into llm.h and out of it: random small models against gguf, llama.cpp, transformers.

    pip install torch transformers tokenizers gguf llama-cpp-python
    python3 tools/check_gguf.py [FILTER] [--header llm.h] [--seed 1] [--keep DIRECTORY]

Models: each case is a GPT-2 or DeepSeek-V3 that transformers makes. Its weights are put into a GGUF
file by gguf's writer, encoded by gguf or, for K types, by ggml, in every type that llm.h has. What
gguf decodes from the file, in float32 in transformers, is the truth: llm.h's logits of a batch and
through a cache are compared with it, and so are llama.cpp's; in a file of F32 or F16 llm.h differs
by rounding, in the others by no more than llama.cpp does. What llm.h decodes of the file is what
gguf decodes, to the bit, and what it holds as it is in the file are the file's bytes.

Saved: the same models, written by llm_gguf_save in every type. gguf reads what llm.h holds;
llama.cpp and llm.h give the logits of these weights; a matrix is no further from what it was than
ggml's encoding of the same type leaves it.

Tokenizers: GPT-2's (where its files are found) and trained ones with GPT-2's and DeepSeek-V3's
patterns, as GGUF files of gguf's writer and of llm_gguf_save: the ids of llama.cpp.

The error of logits is the root of the mean square of the differences over that of the logits, and
in brackets llama.cpp's. Where both round activations alike, one is the larger by chance: llm.h's
may be 1.25 times as large in a case, but not on the (geometric) average over all files of blocks,
which the last line but one has. Another expert that rounding chooses changes a token's logits as a
whole: where experts are chosen, the error is the lower quartile over the tokens, which may be 1.5
times llama.cpp's.

A line per case; with FILTER, only cases whose name contains it. Exits 1 if any failed, 2 if none
ran.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

import check_hf
import check_tokenizer
import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
B, T, PROMPT = 3, 24, 9
TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K".split()
KINDS = {name: gguf.GGMLQuantizationType[name] for name in TYPES}
FILE_TYPES = dict(F32=0, F16=1, BF16=32, Q8_0=7, Q4_0=2, Q4_1=3, Q5_0=8, Q5_1=9, Q4_K=15, Q5_K=17,
                  Q6_K=18)                             # general.file_type
FALLBACK = dict(Q4_K="Q5_0", Q5_K="Q5_1", Q6_K="Q8_0")             # rows that 256 does not divide

# run MODEL DTYPE TOKENS OUT: reads B, T, V, length of the prompt, tokens; writes OUT.logits of the
#   batch and OUT.session, the prompt at once and the rest one by one
# dump MODEL DTYPE OUT: each tensor as a line "name dtype dimensions bytes" and its data
# save MODEL DTYPE TOKENIZER DTYPE2 OUT: as GGUF; "-": no tokenizer
# ids TOKENIZER TEXTS OUT: texts with their lengths in front -> per text and parse_special 0 and 1,
#   a count and the ids; last the template's before a text
# DTYPE: as the model is loaded, "-" for the default. MODEL @x: x from memory
PROGRAM = r"""
#define LLM_IMPLEMENTATION
#include "llm.h"

static llm_error error;
static void need(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "%s: %s\n", what, error.message);
    exit(1);
}
static void *take(size_t n) {
    void *p = malloc(n + 1);
    need(p != NULL, "memory");
    return p;
}
static char *whole(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    char *data;
    need(file && !fseek(file, 0, SEEK_END), path);
    *n = (size_t)ftell(file);
    rewind(file);
    data = (char *)take(*n);
    need(fread(data, 1, *n, file) == *n, path);
    fclose(file);
    return data;
}
static FILE *create(const char *out, const char *end) {
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s%s", out, end);
    file = fopen(path, "wb");
    need(file != NULL, path);
    return file;
}
static void put(FILE *file, const void *data, size_t n) {
    need(fwrite(data, 1, n, file) == n, "write");
}
static llm_dtype dtype_of(const char *name) {
    int i = 0;
    if (!strcmp(name, "-")) return LLM_DTYPE_DEFAULT;
    for (i = 1; llm_dtype_name((llm_dtype)i) && strcmp(llm_dtype_name((llm_dtype)i), name);) i++;
    need(llm_dtype_name((llm_dtype)i) != NULL, name);
    return (llm_dtype)i;
}
static llm_model *load(const char *path, const char *dtype) {
    llm_model_desc desc;
    llm_model *model;
    memset(&desc, 0, sizeof desc);
    desc.dtype = dtype_of(dtype);
    desc.n_threads = 2;
    if (path[0] == '@') {
        size_t n;
        char *data = whole(path + 1, &n);
        model = llm_model_load_memory(NULL, 0, data, n, &desc, &error);
        memset(data, 0, n);
        free(data);
    } else model = llm_model_load(path, &desc, &error);
    need(model != NULL, "load");
    return model;
}
static void run(char **argv) {
    llm_model *model = load(argv[0], argv[1]);
    llm_session *session = llm_session_create(model, NULL, &error);
    size_t size, n, row;
    char *data = whole(argv[2], &size);
    int32_t sizes[4], *tokens = (int32_t *)data + 4;
    float *logits;
    FILE *file;
    int b, t;
    need(session != NULL, "session");
    memcpy(sizes, data, sizeof sizes);
    n = (size_t)sizes[0] * (size_t)sizes[1];
    row = (size_t)sizes[2];
    need(llm_model_config(model)->vocab_size == sizes[2], "vocab_size");
    logits = (float *)take(n * row * 4);
    need(!llm_model_logits(model, tokens, sizes[0], sizes[1], logits, &error), "logits");
    put(file = create(argv[3], ".logits"), logits, n * row * 4);
    fclose(file);
    for (b = 0; b < sizes[0]; b++) {
        const int32_t *at = tokens + b * sizes[1];
        float *to = logits + (size_t)(b * sizes[1] + sizes[3] - 1) * row;
        need(!llm_session_rewind(session, 0, 0, &error), "rewind");
        need(!llm_session_eval(session, 0, at, sizes[3], to, &error), "eval");
        for (t = sizes[3]; t < sizes[1]; t++)
            need(!llm_session_eval(session, 0, at + t, 1, to += row, &error), "eval");
    }
    put(file = create(argv[3], ".session"), logits, n * row * 4);
    fclose(file);
    llm_session_free(session);
    llm_model_free(model);
    free(logits);
    free(data);
}
static void dump(char **argv) {
    llm_model *model = load(argv[0], argv[1]);
    FILE *file = create(argv[2], "");
    size_t i;
    int d;
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        size_t n = 1, bytes;
        for (d = 0; d < t.n_dims; d++) n *= (size_t)t.dims[d];
        bytes = llm_dtype_size(t.dtype, n);
        fprintf(file, "%s %s", t.name, llm_dtype_name(t.dtype));
        for (d = 0; d < t.n_dims; d++) fprintf(file, " %d", (int)t.dims[d]);
        fprintf(file, " %lu\n", (unsigned long)bytes);
        put(file, t.data, bytes);
    }
    fclose(file);
    llm_model_free(model);
}
static void save(char **argv) {
    llm_model *model = load(argv[0], argv[1]);
    llm_tokenizer *tokenizer = NULL;
    if (strcmp(argv[2], "-")) {
        tokenizer = llm_tokenizer_load(argv[2], NULL, &error);
        need(tokenizer != NULL, "tokenizer");
    }
    need(!llm_gguf_save(model, tokenizer, argv[4], dtype_of(argv[3]), &error), "save");
    llm_tokenizer_free(tokenizer);
    llm_model_free(model);
}
static void ids(char **argv) {
    llm_tokenizer *tokenizer = llm_tokenizer_load(argv[0], NULL, &error);
    size_t size, at = 0, count;
    char *data = whole(argv[1], &size);
    int32_t *tokens = (int32_t *)take(size * 8), before[8];
    FILE *file = create(argv[2], "");
    uint32_t n;
    int special;
    need(tokenizer != NULL, "tokenizer");
    while (at < size) {
        memcpy(&n, data + at, 4);
        at += 4;
        for (special = 0; special < 2; special++) {
            uint32_t found;
            need(!llm_tokenizer_encode(tokenizer, data + at, n, special, tokens, size * 2, &count,
                                       &error), "encode");
            found = (uint32_t)count;
            put(file, &found, 4);
            put(file, tokens, count * 4);
        }
        at += n;
    }
    n = (uint32_t)llm_tokenizer_template(tokenizer, 0, before);
    put(file, &n, 4);
    put(file, before, n * 4);
    fclose(file);
    llm_tokenizer_free(tokenizer);
    free(tokens);
    free(data);
}
int main(int argc, char **argv) {
    static const struct { const char *name; int n; void (*run)(char **); } commands[] = {
        {"run", 4, run}, {"dump", 3, dump}, {"save", 5, save}, {"ids", 3, ids}};
    int i;
    for (i = 0; i < 4 && argc > 1 && strcmp(argv[1], commands[i].name); i++) {}
    need(i < 4 && argc == 2 + commands[i].n, "usage");
    commands[i].run(argv + 2);
    return 0;
}
"""

# the same commands of llama.cpp, in a process of its own, as it aborts at what it does not like
LLAMA = r"""
import struct, sys
import llama_cpp, numpy
def run(path, _, tokens, out):
    data = numpy.fromfile(tokens, numpy.int32)
    B, T, V, prompt = data[:4].tolist()
    model = llama_cpp.Llama(path, n_ctx=T, n_batch=T, n_threads=1, n_threads_batch=1,
                            logits_all=True, type_k=0, type_v=0, flash_attn=False)
    assert model.n_vocab() == V, (model.n_vocab(), V)
    for end, cut in ((".logits", T), (".session", prompt)):
        rows = []
        for sequence in data[4:].reshape(B, T).tolist():
            model.reset()
            model.eval(sequence[:cut])
            for token in sequence[cut:]:
                model.eval([token])
            rows.append(model.scores[:T].copy())
        numpy.stack(rows).astype(numpy.float32).tofile(out + end)
def ids(path, texts, out):
    model = llama_cpp.Llama(path, vocab_only=True)
    data, at = open(texts, "rb").read(), 0
    with open(out, "wb") as file:
        def put(tokens):
            file.write(struct.pack("<I%di" % len(tokens), len(tokens), *tokens))
        while at < len(data):
            size, = struct.unpack_from("<I", data, at)
            text, at = data[at + 4:at + 4 + size], at + 4 + size
            for special in (False, True):
                put(model.tokenize(text, add_bos=False, special=special))
        put(model.tokenize(b"a", add_bos=True)[:-1])
{"run": run, "ids": ids}[sys.argv[1]](*sys.argv[2:])
"""


class Programs:
    """llm.h's and llama.cpp's, and ggml's encoders"""

    def __init__(self, header, folder):
        self.path = os.path.join(folder, "program")
        shutil.copy(header, os.path.join(folder, "llm.h"))
        with open(self.path + ".c", "w") as file:
            file.write(PROGRAM)
        command = "%s -O2 -I. program.c -o program -lm" % os.environ.get("CC", "cc")
        subprocess.run(command.split(), cwd=folder, check=True)
        place = importlib.util.find_spec("llama_cpp").submodule_search_locations[0]
        ggml = ctypes.CDLL(os.path.join(place, "lib", "libggml-base.so"))
        self.quantize = ggml.ggml_quantize_chunk
        self.quantize.restype = ctypes.c_size_t
        self.quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                  ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]

    def llm(self, *arguments):
        self.run("llm.h", [self.path, *arguments])

    def llama(self, *arguments):
        self.run("llama.cpp", [sys.executable, "-c", LLAMA, *arguments])

    @staticmethod
    def run(whose, command):
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            told = [line for line in lines if re.search("error|failed|ASSERT", line)]
            raise RuntimeError("%s: %s" % (whose, " | ".join(told[:2] or lines[-2:])
                                           or "status %d" % result.returncode))

    def encode(self, values, name):
        """rows of float32 -> their bytes, as ggml and gguf have them"""
        values = np.ascontiguousarray(values, np.float32)
        if not name.endswith("_K"):
            return gguf.quants.quantize(values, KINDS[name])
        block, size = gguf.GGML_QUANT_SIZES[KINDS[name]]
        row = values.shape[-1]
        data = np.zeros((*values.shape[:-1], row // block * size), np.uint8)
        self.quantize(KINDS[name], values.ctypes.data, data.ctypes.data, 0, values.size // row, row,
                      None)
        return data


def decode(data, kind):
    return gguf.quants.dequantize(np.asarray(data), kind).astype(np.float32)


# ---- the cases -----------------------------------------------------------------------------------

def gpt2(**changes):
    return check_hf.gpt2(**{**dict(vocab_size=71, n_embd=96, n_head=4, n_layer=2), **changes})


def deepseek(**changes):
    values = dict(
        vocab_size=73, hidden_size=96, intermediate_size=160, moe_intermediate_size=32,
        num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3, n_routed_experts=6,
        n_group=1, topk_group=1, num_experts_per_tok=6, kv_lora_rank=64, q_lora_rank=32,
        qk_rope_head_dim=32, v_head_dim=32, qk_nope_head_dim=32)
    return check_hf.deepseek(**{**values, **changes})


def deepseek2(**changes):
    values = dict(
        vocab_size=73, hidden_size=96, intermediate_size=160, moe_intermediate_size=32,
        n_routed_experts=6, num_experts_per_tok=6, kv_lora_rank=64, qk_rope_head_dim=32,
        v_head_dim=32, qk_nope_head_dim=32)
    return check_hf.deepseek2(**{**values, **changes})


WIDE = dict(hidden_size=256, intermediate_size=512, moe_intermediate_size=256,
            num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=2, kv_lora_rank=256,
            q_lora_rank=256, qk_rope_head_dim=32, qk_nope_head_dim=64, v_head_dim=64)
CHOICE = dict(n_routed_experts=8, num_experts_per_tok=3)
FEW = ("F32", "F16", "BF16", "Q8_0", "Q4_K")
yarn = check_hf.yarn
# name, configuration, types, options: split_kv: the form with attn_k_b and attn_v_b; memory: loaded
# from there; parts: tensors in a file; align; chosen: not all experts; mtp: modules; no_rank: no
# key for a rank of queries that is none; no_gating: nor for V2's softmax; raw: blocks of random
# bytes, which are only decoded
CASES = [
    ("gpt2 256", gpt2(n_embd=256, n_inner=512), TYPES, {}),
    ("gpt2 32, untied", gpt2(n_inner=160, tie_word_embeddings=False), TYPES, {}),
    ("gpt2 odd rows", gpt2(n_embd=36, n_inner=52), FEW, {}),
    ("gpt2 from memory, aligned to 256", gpt2(layer_norm_epsilon=1e-2), FEW,
     dict(memory=True, align=256)),
    ("gpt2 in parts", gpt2(), ("F32", "Q5_1"), dict(parts=7)),
    ("gpt2, blocks of random bytes", gpt2(n_embd=256, n_inner=512), TYPES[3:], dict(raw=True)),
    ("deepseek 256, kv_b", deepseek(**WIDE), TYPES, {}),
    ("deepseek 256, k_b and v_b", deepseek(**WIDE), TYPES, dict(split_kv=True)),
    ("deepseek 32, no q rank, kv_b, two shared, tied",
     deepseek(q_lora_rank=None, n_shared_experts=2, tie_word_embeddings=True), TYPES, {}),
    ("deepseek 32, no q rank, k_b and v_b", deepseek(q_lora_rank=None), FEW, dict(split_kv=True)),
    ("deepseek odd rows", deepseek(hidden_size=44, kv_lora_rank=20, qk_nope_head_dim=12,
                                   v_head_dim=20), FEW, dict(split_kv=True)),
    ("deepseek dense", deepseek(first_k_dense_replace=3), FEW, {}),
    ("deepseek 3 of 8, in groups", deepseek(**CHOICE, n_group=4, topk_group=2), FEW,
     dict(chosen=True)),
    ("deepseek 3 of 8, both of two groups", deepseek(**CHOICE, n_group=2, topk_group=2), FEW,
     dict(chosen=True)),
    ("deepseek 3 of 8, everywhere, weights as they are",
     deepseek(**CHOICE, norm_topk_prob=False, first_k_dense_replace=0), FEW,
     dict(chosen=True, split_kv=True)),
    ("deepseek yarn, mscale 1", deepseek(rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0)), FEW,
     dict(split_kv=True)),
    ("deepseek yarn, mscale 0.7", deepseek(rope_parameters=yarn(mscale=0.7, mscale_all_dim=0.7)),
     FEW, {}),
    ("deepseek yarn, mscale differ", deepseek(rope_parameters=yarn(mscale=0.7, mscale_all_dim=0.3)),
     FEW, {}),
    ("deepseek yarn, no mscale", deepseek(rope_parameters=yarn()), FEW, dict(split_kv=True)),
    ("deepseek mtp", deepseek(num_mtp_layers=1), FEW, dict(mtp=1)),
    ("deepseek mtp, k_b and v_b", deepseek(num_mtp_layers=1), FEW, dict(mtp=1, split_kv=True)),
    ("deepseek, 26 layers, no key for the rank", deepseek(q_lora_rank=None, num_hidden_layers=26),
     ("F32", "Q4_K"), dict(no_rank=True)),
    ("deepseek in parts", deepseek(), ("F32", "Q8_0"), dict(parts=20, split_kv=True)),
    ("deepseek v2", deepseek2(), FEW, {}),
    ("deepseek v2, 3 of 8, no key for softmax, k_b and v_b",
     deepseek2(**CHOICE, q_lora_rank=32, routed_scaling_factor=16.0), FEW,
     dict(chosen=True, split_kv=True, no_gating=True)),
    ("deepseek v2 yarn", deepseek2(rope_parameters=yarn(mscale=0.707, mscale_all_dim=0.707)), FEW,
     {}),
]

NAMES = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm", "lm_head": "output", "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}
NAMES_IN_BLOCK = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.experts.*.gate_proj": "ffn_gate_exps",
    "mlp.experts.*.up_proj": "ffn_up_exps", "mlp.experts.*.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", "eh_proj": "nextn.eh_proj",
    "enorm": "nextn.enorm", "hnorm": "nextn.hnorm", "embed_tokens": "nextn.embed_tokens",
    "shared_head.norm": "nextn.shared_head_norm", "shared_head.head": "nextn.shared_head_head",
}


def their_name(name):
    """of a tensor of transformers -> its name in GGUF files, the number of the expert"""
    stem, end = name.rsplit(".", 1)
    if end == "e_score_correction_bias":
        return re.sub(r"model.layers.(\d+).*", r"blk.\1.exp_probs_b.bias", name), None
    if stem in NAMES:
        return NAMES[stem] + "." + end, None
    layer, stem = re.fullmatch(r"(?:transformer\.h|model\.layers)\.(\d+)\.(.*)", stem).groups()
    expert = re.search(r"experts\.(\d+)", stem)
    stem = NAMES_IN_BLOCK[re.sub(r"experts\.\d+", "experts.*", stem)]
    return "blk.%s.%s.%s" % (layer, stem, end), expert and int(expert.group(1))


def is_turned(name, values):
    return values.ndim == 2 and ".c_" in name          # GPT-2's, which are (in, out)


def to_gguf(tensors, config, split_kv):
    """of transformers' file -> of GGUF, in float32"""
    result = {}
    for name, values in tensors.items():
        values = values.float().numpy()
        theirs, expert = their_name(name)
        if is_turned(name, values):
            values = values.T
        if split_kv and "attn_kv_b" in theirs:
            heads = values.reshape(config.num_attention_heads, -1, values.shape[-1])
            nope = config.qk_nope_head_dim
            result[theirs.replace("kv_b", "k_b")] = heads[:, :nope].transpose(0, 2, 1)
            result[theirs.replace("kv_b", "v_b")] = heads[:, nope:]
        elif expert is not None:
            result.setdefault(theirs, {})[expert] = values
        else:
            result[theirs] = values
    return {name: np.stack([v[i] for i in range(len(v))]) if isinstance(v, dict) else v
            for name, v in result.items()}


def from_gguf(values, like, config):
    """of GGUF -> of transformers' file, with the names and shapes of another"""
    result = {}
    for name, tensor in like.items():
        theirs, expert = their_name(name)
        if theirs.replace("kv_b", "k_b") in values and theirs not in values:
            k = values[theirs.replace("kv_b", "k_b")].transpose(0, 2, 1)
            v = values[theirs.replace("kv_b", "v_b")]
            found = np.concatenate([k, v], axis=1).reshape(tensor.shape)
        elif theirs in values:
            found = values[theirs] if expert is None else values[theirs][expert]
        else:                          # a module's copies
            found = values[re.sub(r".*embed_tokens", "token_embd", re.sub(
                r".*shared_head_head", "output", theirs))]
        found = found.T if is_turned(name, found) else found
        assert found.shape == tuple(tensor.shape), (name, found.shape, tensor.shape)
        result[name] = torch.from_numpy(np.array(found, np.float32, order="C"))
    return result


def is_matrix(name):
    return name.endswith(".weight") and not name.endswith("norm.weight") and \
        "ffn_gate_inp" not in name and name != "position_embd.weight"


def fit(kind, row):
    """the type that takes rows of such a length, as llama.cpp chooses"""
    for name in (kind, FALLBACK.get(kind, "F16")):
        if row % gguf.GGML_QUANT_SIZES[KINDS[name]][0] == 0:
            return name
    return "F16"


def yarn_numbers(rope):
    """-> llama.cpp's attn_factor and yarn_log_multiplier that have the effect of the two mscales"""
    def scale(m):
        return 0.1 * m * np.log(rope["factor"]) + 1.0
    both = rope.get("mscale") and rope.get("mscale_all_dim")
    rotation = scale(rope["mscale"]) / scale(rope["mscale_all_dim"]) if both else scale(1.0)
    score = scale(rope.get("mscale_all_dim") or 0.0)
    multiplier = (score / rotation - 1.0) / np.log(rope["factor"])
    if abs(multiplier) < 1e-9:
        return rotation / scale(1.0), 0.0
    return rotation, multiplier


def write_keys(writer, c, kind, options):
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_head_count(c.num_attention_heads)
    if c.model_type == "gpt2":
        writer.add_block_count(c.n_layer)
        writer.add_feed_forward_length(c.n_inner or 4 * c.n_embd)
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
        return
    writer.add_block_count(c.num_hidden_layers + options.get("mtp", 0))
    if options.get("mtp"):
        writer.add_uint32("deepseek2.nextn_predict_layers", options["mtp"])
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_leading_dense_block_count(c.first_k_dense_replace)
    if not options.get("no_rank"):     # llama.cpp wants it of all but some numbers of layers
        writer.add_q_lora_rank(c.q_lora_rank or 0)
    writer.add_kv_lora_rank(c.kv_lora_rank)
    key, value = c.qk_nope_head_dim + c.qk_rope_head_dim, c.v_head_dim
    if options.get("split_kv"):
        writer.add_key_length_mla(key)
        writer.add_value_length_mla(value)
        key, value = c.kv_lora_rank + c.qk_rope_head_dim, c.kv_lora_rank
    writer.add_head_count_kv(1 if options.get("split_kv") else c.num_attention_heads)
    writer.add_key_length(key)
    writer.add_value_length(value)
    writer.add_expert_feed_forward_length(c.moe_intermediate_size)
    writer.add_expert_shared_count(c.n_shared_experts)
    writer.add_expert_count(c.n_routed_experts)
    writer.add_expert_used_count(c.num_experts_per_tok)
    if not options.get("no_gating"):
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX
                                      if c.model_type == "deepseek_v2"
                                      else gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_scale(c.routed_scaling_factor)
    if c.norm_topk_prob:
        writer.add_expert_weights_norm(True)
    if (c.n_group or 1) > (c.topk_group or 1):
        writer.add_expert_group_count(c.n_group)
        writer.add_expert_group_used_count(c.topk_group)
    writer.add_rope_dimension_count(c.qk_rope_head_dim)
    rope = c.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        factor, multiplier = yarn_numbers(rope)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if factor != 1.0:
            writer.add_float32("deepseek2.rope.scaling.attn_factor", factor)
        if multiplier:
            writer.add_rope_scaling_yarn_log_mul(multiplier)


def random_blocks(data, kind, rng):
    """in place of data; the scales are finite numbers of f16"""
    data = rng.integers(0, 256, data.shape, dtype=np.uint8)
    blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[KINDS[kind]][1])
    places = [208] if kind == "Q6_K" else [0, 2] if kind[3:] in ("1", "K") else [0]
    for at in places:
        blocks[:, at + 1] &= 0xbf
    return data


def write(path, config, tensors, kind, options, programs):
    """a GGUF file -> the path to load"""
    rng = np.random.default_rng(1)
    arch = "gpt2" if config.model_type == "gpt2" else "deepseek2"
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=options.get("parts", 0))
    if "align" in options:
        writer.add_custom_alignment(options["align"])
        writer.data_alignment = options["align"]
    write_keys(writer, config, kind, options)
    for name, values in tensors.items():
        chosen = fit(kind, values.shape[-1]) if is_matrix(name) else "F32"
        data = programs.encode(values, chosen)
        if options.get("raw") and chosen == kind:
            data = random_blocks(data, kind, rng)
        writer.add_tensor(name, data, raw_dtype=KINDS[chosen])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = len(writer.tensors)
    return gguf.gguf_writer.SHARD_NAME_FORMAT.format(path[:-5], 1, parts) if parts > 1 else path


def read(path):
    """-> every tensor of a GGUF file, (bytes, type, shape), and its keys"""
    tensors, keys = {}, {}
    first = re.fullmatch(r"(.*)-00001-of-(\d+)\.gguf", path)
    paths = [path] if not first else [
        gguf.gguf_writer.SHARD_NAME_FORMAT.format(first[1], i + 1, int(first[2]))
        for i in range(int(first[2]))]
    for one in paths:
        reader = gguf.GGUFReader(one)
        for t in reader.tensors:
            tensors[t.name] = (np.array(t.data), t.tensor_type, tuple(reversed(t.shape.tolist())))
        if one == path:
            keys = {name: field.contents() for name, field in reader.fields.items()}
    return tensors, keys


def read_dump(path):
    """-> what llm.h holds: name -> (type, shape, bytes)"""
    with open(path, "rb") as file:
        data = file.read()
    result, at = {}, 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, kind, *dims, size = data[at:end].decode().split()
        at = end + 1 + int(size)
        result[name] = (kind, tuple(map(int, dims)), data[end + 1:at])
    return result


# ---- the comparison ------------------------------------------------------------------------------

RATIOS = dict(logits=[], session=[])           # llm.h's error over llama.cpp's, of each case


class Check:
    """one model in one type"""

    def __init__(self, config, kind, options, folder, programs, seed):
        self.config, self.kind, self.options, self.programs = config, kind, options, programs
        self.measured, self.problems = [], []
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.source = os.path.join(folder, "hf")
        saving = {key: value for key, value in options.items() if key == "mtp"}
        check_hf.save(config, torch.float32, saving, self.source, generator)
        self.given = load_file(os.path.join(self.source, "model.safetensors"))
        self.tokens = torch.randint(0, config.vocab_size, (B, T), generator=generator)
        with open(self.at("tokens"), "wb") as file:
            file.write(struct.pack("<4i", B, T, config.vocab_size, PROMPT))
            file.write(self.tokens.to(torch.int32).numpy().tobytes())

    def at(self, name):
        return os.path.join(self.folder, name)

    def say(self, bad, what):
        if bad:
            self.problems.append(what)

    def meaning(self, path):
        """-> a file's tensors, what transformers would have in their place"""
        tensors, keys = read(path)
        values = {name: decode(data, kind) for name, (data, kind, _) in tensors.items()}
        self.meant = from_gguf(values, self.given, self.config)
        return tensors, keys

    def truth(self):
        """transformers' logits of these weights"""
        directory = self.at("plain")
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.source, directory)
        save_file(self.meant, os.path.join(directory, "model.safetensors"),
                  metadata={"format": "pt"})
        model, _ = check_hf.load(directory, dtype=torch.float32)
        return check_hf.logits_of(model, self.tokens)

    def logits(self, who, end, shape):
        name = self.at("%s.%s" % (who, end))
        return torch.from_numpy(np.fromfile(name, np.float32)).view(shape)

    def compare(self, path, tensors):
        """logits of a file by llm.h and by llama.cpp beside the truth"""
        expected = self.truth()
        self.programs.llm("run", ("@" if self.options.get("memory") else "") + path, "-",
                          self.at("tokens"), self.at("llm"))
        self.programs.llama("run", path, "-", self.at("tokens"), self.at("llama"))
        kinds = {kind.name for _, kind, _ in tensors.values()} - {"F32", "F16"}
        for end, first in (("logits", 0), ("session", PROMPT - 1)):
            want = expected[:, first:].double()
            scale = want.square().mean().sqrt()
            whole, quartile = [], []
            for who in ("llm", "llama"):
                difference = self.logits(who, end, expected.shape)[:, first:] - want
                whole.append((difference.square().mean().sqrt() / scale).item())
                of_tokens = difference.square().mean(-1).flatten()
                quartile.append((of_tokens.quantile(0.25).sqrt() / scale).item())
            mine, theirs = quartile if self.options.get("chosen") else whole
            self.measured.append("%s %.1e (%.1e)" % (end, mine, theirs))
            if kinds - {"BF16"} and np.isfinite(mine):
                RATIOS[end].append(mine / theirs)
            most = 1.5 if self.options.get("chosen") else 1.25
            limit = max(theirs * most, 2e-5) if kinds else 2e-5
            self.say(not mine <= limit, "%s are off by %.2e, llama.cpp's by %.2e"
                     % (end, mine, theirs))
            self.say(not whole[0] <= 0.5, "%s are off by %.2e all in all" % (end, whole[0]))
            # llama.cpp's GELU is a table of f16
            bound = 0.3 if kinds else 1e-2 if self.config.model_type == "gpt2" else 2e-3
            self.say(not theirs <= bound, "llama.cpp's %s are off by %.2e: another model" %
                     (end, theirs))

    def holds(self, path, tensors):
        """llm.h's tensors of a file are the file's: decoded to the bit, and as bytes"""
        self.programs.llm("dump", path, "F32", self.at("dump"))
        decoded = read_dump(self.at("dump"))
        self.programs.llm("dump", path, "-", self.at("dump"))
        stored = read_dump(self.at("dump"))
        differ, converted, seen = [], [], 0
        for name, meant in self.meant.items():
            theirs, expert = their_name(name)
            if name not in decoded:    # what repeats another
                self.say(theirs in tensors and "nextn" not in theirs, "no tensor " + name)
                continue
            seen += 1
            kind, dims, data = decoded[name]
            found = np.frombuffer(data, np.float32).reshape(dims)
            want = meant.numpy()
            self.say(kind != "F32", "%s is %s instead of F32" % (name, kind))
            if is_turned(name, want):
                want = want.T          # rows of outputs, as in the file
            if dims != want.shape or not np.array_equal(found, want):
                differ.append(name)
            if theirs in tensors:
                raw, given, _ = tensors[theirs]
                raw = raw if expert is None else raw[expert]
                kind, _, data = stored[name]
                if kind != given.name or (is_matrix(theirs) and data != raw.tobytes()):
                    converted.append("%s (%s of %s)" % (name, kind, given.name))
        self.say(differ, "decoded otherwise: %d of %d: %s" % (len(differ), seen,
                                                             ", ".join(differ[:3])))
        self.say(converted, "not the file's bytes: %s" % ", ".join(converted[:3]))
        self.say(set(decoded) - set(self.meant), "tensors of nothing: %s" %
                 sorted(set(decoded) - set(self.meant))[:3])

    def loaded(self):
        """a file of gguf's writer"""
        tensors = to_gguf(self.given, self.config, self.options.get("split_kv"))
        copies = ("nextn.embed_tokens", "nextn.shared_head_head")
        if "mtp" in self.options and self.options.get("split_kv"):
            tensors = {n: t for n, t in tensors.items() if not any(c in n for c in copies)}
        path = write(self.at("model.gguf"), self.config, tensors, self.kind, self.options,
                     self.programs)
        found, _ = self.meaning(path)
        if not self.options.get("raw"):
            self.compare(path, found)
        self.holds(path, found)

    def saved(self):
        """a file of llm_gguf_save"""
        path = self.at("saved.gguf")
        self.programs.llm("save", self.source, "-", "-", self.kind, path)
        tensors, keys = self.meaning(path)
        self.compare(path, tensors)
        self.holds(path, tensors)
        arch = "gpt2" if self.config.model_type == "gpt2" else "deepseek2"
        self.say(keys.get("general.architecture") != arch, "general.architecture")
        self.say(keys.get("general.file_type") != FILE_TYPES[self.kind], "general.file_type")
        given = to_gguf(self.given, self.config, "blk.0.attn_k_b.weight" in tensors)
        mine = theirs = 0.0
        for name, (data, kind, shape) in tensors.items():
            want = given[name]
            self.say(shape != want.shape, "%s: %s instead of %s" % (name, shape, want.shape))
            if not is_matrix(name):
                self.say(kind.name != "F32", "%s is %s" % (name, kind.name))
                self.say(decode(data, kind).tobytes() != np.ascontiguousarray(want).tobytes(),
                         "%s is not what was given" % name)
                continue
            if self.kind in ("F32", "F16", "BF16"):
                self.say(kind.name != self.kind or
                         data.tobytes() != self.programs.encode(want, self.kind).tobytes(),
                         "%s (%s) is not %s of what was given" % (name, kind.name, self.kind))
                continue
            least = gguf.GGML_QUANT_SIZES[KINDS[fit(self.kind, shape[-1])]]
            size = gguf.GGML_QUANT_SIZES[kind]
            self.say(size[1] / size[0] < least[1] / least[0], "%s is %s" % (name, kind.name))
            reference = decode(self.programs.encode(want, kind.name), kind)
            mine += np.square(decode(data, kind) - want, dtype=np.float64).sum()
            theirs += np.square(reference - want, dtype=np.float64).sum()
        if theirs:
            self.measured.append("matrices %.4f of ggml's error" % (mine / theirs) ** 0.5)
            self.say(mine > 1.001 * theirs, "matrices are %.4f times as far as ggml's"
                     % (mine / theirs) ** 0.5)
        # held in that type and saved as it is: the same bytes
        copy = self.at("copy.gguf")
        self.programs.llm("save", path, "-", "-", "-", copy)
        again, more = read(copy)
        self.say(set(again) != set(tensors), "saved again: other tensors")
        bad = [name for name, (data, kind, _) in again.items() if name in tensors and
               (kind != tensors[name][1] or data.tobytes() != tensors[name][0].tobytes())]
        self.say(bad, "saved again: %s differ" % bad[:3])
        other = {key for key in set(keys) | set(more) if keys.get(key) != more.get(key)}
        other -= {"general.file_type"}             # of a mixture
        self.say(other, "saved again: keys %s differ" % sorted(other))


# ---- tokenizers ----------------------------------------------------------------------------------

CONTROL, USER_DEFINED = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
# DeepSeek-V3's patterns, and some of its tokens
# the names that llama.cpp has for patterns: those of check_tokenizer.py
PATTERNS = {"deepseek-v3": "deepseek-v3", "deepseek-llm": "deepseek-llm", "qwen2": "qwen2",
            "deepseek-coder": "deepseek-coder", "llama-bpe": "llama-3", "kimi-k2": "kimi-k2",
            "starcoder": "starcoder"}
DEEPSEEK_ADDED = {"<\uff5cbegin\u2581of\u2581sentence\uff5c>": CONTROL,
                  "<\uff5cend\u2581of\u2581sentence\uff5c>": CONTROL,
                  "<\uff5cUser\uff5c>": USER_DEFINED}


def train(name, size):
    """a tokenizer of our own text -> its vocabulary and its merges"""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        text = file.read() + "\u4f60\u597d \u043f\u0440\u0438\u0432\u0435\u0442 caf\u00e9 " * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = check_tokenizer.pre_tokenizer(check_tokenizer.PUBLISHED[name])
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


def vocabulary(name, data):
    """-> tokens, their types, merges, pattern; None where GPT-2's files are not there"""
    pattern, added = "gpt-2", {"<|endoftext|>": CONTROL}
    if name == "GPT-2":
        if not os.path.exists(os.path.join(data, "gpt2_vocab.json")):
            return None
        with open(os.path.join(data, "gpt2_vocab.json"), encoding="utf-8") as file:
            ids = json.load(file)
        with open(os.path.join(data, "gpt2_merges.txt"), encoding="utf-8") as file:
            lines = file.read().split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    elif name == "trained":
        ids, merges = train("gpt-2", 600)
        added["[ADDED]"] = USER_DEFINED
    else:
        ids, merges = train(PATTERNS[name], 700)
        pattern, added = name, DEEPSEEK_ADDED
    for content in added:
        ids.setdefault(content, len(ids))
    tokens = sorted(ids, key=ids.get)
    return tokens, [added.get(t, gguf.TokenType.NORMAL) for t in tokens], merges, pattern


def texts(rng):
    """a few hundred, of what people write"""
    with open(os.path.join(ROOT, "llm.h"), encoding="utf-8") as file:
        lines = file.read().split("\n")
    pieces = [
        "The quick brown fox", "I'll've", " don't", "HE'S", "x=1;\n\t\treturn y;\n", "3.14159",
        "1,000,000", " 12345678", "  ", "   \n\n ", "\t", "\r\n", "<|endoftext|>", "[ADDED]",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>", "<|EOT|>",
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u3053\u3093\u306b\u3061\u306f", "\uc548\ub155",
        "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "na\u00efve caf\u00e9",
        "\u00fcber", "\u0645\u0631\u062d\u0628\u0627", "\U0001f600", "\U0001f469\u200d\U0001f4bb",
        "e\u0301", "\u201cquoted\u201d \u2014 dash\u2026", "\u00a7 5", "http://a.b/c?d=e&f=g",
        "$100 + \u20ac20 = ?", "a_b__c", "(((", "'''", "...", "!?", "#include <stdio.h>", "\u00a0",
    ]
    found = [rng.choice(lines) for _ in range(150)] + pieces
    for _ in range(250):
        found.append("".join(rng.choice(("", " ", "\n", "")) + rng.choice(pieces)
                             for _ in range(rng.randint(1, 6))))
    return [text.encode() for text in found if text]


def read_ids(path):
    data = np.fromfile(path, np.int32).tolist()
    result, at = [], 0
    while at < len(data):
        result.append(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    return result


def check_tokens(name, bos, folder, programs, seed, data):
    """-> (what was measured, what is wrong); nothing measured: left out"""
    found = vocabulary(name, data)
    if not found:
        return None, []
    tokens, kinds, merges, pattern = found
    given, saved = os.path.join(folder, "given.gguf"), os.path.join(folder, "saved.gguf")
    writer = gguf.GGUFWriter(given, "gpt2")
    size = len(tokens) + 7             # of the model, which may have more
    check = Check(gpt2(vocab_size=size, n_embd=32, n_head=1, n_layer=1), "Q8_0", {}, folder,
                  programs, seed)
    write_keys(writer, check.config, "F32", {})
    del writer.kv_data[0]["tokenizer.ggml.model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pattern)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    first = next(i for i, kind in enumerate(kinds) if kind == CONTROL)
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(first)
    writer.add_add_bos_token(bos)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    strings = texts(random.Random(seed))
    path = os.path.join(folder, "texts")
    with open(path, "wb") as file:
        file.write(b"".join(struct.pack("<I", len(text)) + text for text in strings))
    programs.llm("save", check.source, "-", given, "Q8_0", saved)
    ids = {}
    for who, run in (("llm", programs.llm), ("llama", programs.llama)):
        for which in (given, saved):
            run("ids", which, path, path + ".ids")
            ids[who, which] = read_ids(path + ".ids")
    problems = []
    want = ids["llama", given]
    for key, got in ids.items():
        wrong = [i for i, (a, b) in enumerate(zip(got, want)) if a != b]
        if wrong or len(got) != len(want):
            i = wrong[0] if wrong else 0
            text = strings[i // 2] if i // 2 < len(strings) else b"the template"
            problems.append("%s of %s: %d differ: %r, special %d: %s instead of %s" % (
                key[0], os.path.basename(key[1]), len(wrong), text.decode()[:60], i % 2,
                got[i][:12], want[i][:12]))
    found, keys = check.meaning(saved)
    _, before = read(given)
    for key in ("tokens", "merges", "token_type", "pre", "model", "add_bos_token"):
        key = "tokenizer.ggml." + key
        mine, theirs = keys.get(key), before.get(key)
        if key.endswith((".tokens", ".token_type")):
            if mine and len(mine) != size:
                problems.append("saved: %d %s" % (len(mine), key))
            mine = mine and mine[:len(theirs)]
        if mine != theirs:
            problems.append("saved: %s differs" % key)
    check.compare(saved, found)
    return "%d strings, %d ids, %s" % (len(strings), sum(map(len, want)), ", ".join(
        check.measured)), problems + check.problems


# ---- all of it -----------------------------------------------------------------------------------

def jobs(arguments, programs, temporary):
    """name, what does it -> (what was measured, what is wrong)"""
    def model(case, kind, way, folder):
        i, (_, config, _, options) = case
        check = Check(config, kind, options, folder, programs, arguments.seed + i)
        getattr(check, way)()
        return ", ".join(check.measured), check.problems

    for case in enumerate(CASES):
        for kind in case[1][2]:
            yield "%s %s" % (case[1][0], kind), model, (case, kind, "loaded")
    seen = set()                       # what differs only in the file that was loaded is once saved
    for case in enumerate(CASES):
        same = case[1][1].to_json_string(), case[1][3].get("mtp")
        for kind in case[1][2] if same not in seen else ():
            yield "saved: %s %s" % (case[1][0], kind), model, (case, kind, "saved")
        seen.add(same)
    for name in ("GPT-2", "trained", *PATTERNS):
        for bos in (False, True):
            yield ("tokenizer: %s%s" % (name, ", bos" if bos else ""),
                   lambda name, bos, folder: check_tokens(name, bos, folder, programs,
                                                          arguments.seed, arguments.data),
                   (name, bos))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases whose name contains it")
    parser.add_argument("--header", default=os.path.join(ROOT, "llm.h"), help="another llm.h")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", default=os.path.join(ROOT, "..", "shared", "data"),
                        help="where gpt2_vocab.json and gpt2_merges.txt are")
    parser.add_argument("--keep", metavar="DIRECTORY", help="keep the files of each case there")
    parser.add_argument("--verbose", action="store_true", help="the trace of what went wrong")
    arguments = parser.parse_args()
    if importlib.util.find_spec("llama_cpp") is None:
        print("no llama_cpp: pip install llama-cpp-python, which builds it")
        return 2
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        programs = Programs(arguments.header, temporary)
        for name, function, values in jobs(arguments, programs, temporary):
            if arguments.filter not in name:
                continue
            folder = os.path.join(arguments.keep or temporary, re.sub(r"[^\w.]+", "_", name))
            os.makedirs(folder, exist_ok=True)
            try:
                measured, problems = function(*values, folder)
            except Exception as error:  # the other cases still run
                if arguments.verbose:
                    traceback.print_exc()
                measured, problems = "", ["%s: %s" % (type(error).__name__, error)]
            if measured is None:
                print("skipped %s: no files in %s" % (name, arguments.data))
                continue
            passed += not problems
            failed += bool(problems)
            print("%-4s %-54s %s" % ("FAIL" if problems else "ok", name, measured), flush=True)
            for problem in problems[:5]:
                print("     " + problem[:400], flush=True)
            if not arguments.keep:
                shutil.rmtree(folder)
    if RATIOS["logits"]:
        means = {end: np.exp(np.mean(np.log(ratios))) for end, ratios in RATIOS.items()}
        bad = not max(means.values()) <= 1.02
        passed += not bad
        failed += bad
        print("%-4s %-54s %s of llama.cpp's error" % (
            "FAIL" if bad else "ok", "all files of blocks",
            ", ".join("%s %.3f" % item for item in means.items())))
    print("%d passed, %d failed" % (passed, failed))
    return 2 if not passed + failed else failed != 0


if __name__ == "__main__":
    sys.exit(main())

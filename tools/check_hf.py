#!/usr/bin/env python3
"""Hugging Face directories into llm.h and back: random small models against transformers.

    pip install torch transformers
    python3 tools/check_hf.py [FILTER] [--header llm.h] [--seed 1] [--keep DIRECTORY]

Each case is a GPT-2 or DeepSeek-V3 that transformers makes and saves: in one file or in shards, in
float32, bfloat16, float16 or fp8, with configurations as transformers writes them and as older
files have them. A C program with llm.h loads the directory and computes logits of a batch, the same
through a session's cache, and a greedy continuation; these must be what transformers says of the
same weights in float32. What llm.h saves, in F32 and in BF16, is loaded with transformers in turn:
the same tensors to the bit, the same logits.

A line per case; with FILTER, only cases whose name contains it. Exits 1 if any failed, 2 if none
ran.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.utils import logging

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
B, T, PROMPT, NEW = 3, 24, 9, 15
logging.set_verbosity_error()
logging.disable_progress_bar()

# DIRECTORY TOKENS OUT: reads B, T, V, number of new tokens, tokens; writes OUT.logits,
# OUT.session, OUT.tokens, and the model to OUT.f32 and OUT.bf16
PROGRAM = r"""
#define LLM_IMPLEMENTATION
#include "llm.h"

static llm_error error;
static void need(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "%s: %s\n", what, error.message);
    exit(1);
}
static void put(const char *out, const char *end, const void *data, size_t size) {
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s.%s", out, end);
    file = fopen(path, "wb");
    need(file && fwrite(data, 1, size, file) == size && fclose(file) == 0, path);
}
int main(int argc, char **argv) {
    int32_t sizes[5], *tokens, *more;
    char path[4096];
    float *logits;
    llm_model *model;
    llm_session *session;
    llm_generate_desc desc;
    size_t n, row;
    FILE *file = argc == 4 ? fopen(argv[2], "rb") : NULL;
    int b, t;
    need(file && fread(sizes, 4, 5, file) == 5, "usage: program DIRECTORY TOKENS OUT");
    n = (size_t)sizes[0] * sizes[1];
    row = (size_t)sizes[2];
    tokens = (int32_t *)malloc(n * 4);
    more = (int32_t *)malloc((size_t)sizes[4] * 4);
    logits = (float *)malloc(n * row * 4);
    need(tokens && more && logits && fread(tokens, 4, n, file) == n, "tokens");
    fclose(file);
    model = llm_model_load(argv[1], NULL, &error);
    need(model != NULL, "load");
    need(llm_model_config(model)->vocab_size == sizes[2], "vocab_size");
    need(!llm_model_logits(model, tokens, sizes[0], sizes[1], logits, &error), "logits");
    put(argv[3], "logits", logits, n * row * 4);
    session = llm_session_create(model, NULL, &error);
    need(session != NULL, "session");
    for (b = 0; b < sizes[0]; b++) {   /* a prompt at once, the rest one by one */
        const int32_t *at = tokens + b * sizes[1];
        float *to = logits + (size_t)(b * sizes[1]) * row;
        need(!llm_session_rewind(session, 0, 0, &error), "rewind");
        memset(to, 0, row * 4 * (size_t)(sizes[3] - 1));
        need(!llm_session_eval(session, 0, at, sizes[3], to + row * (size_t)(sizes[3] - 1), &error),
             "eval");
        for (t = sizes[3]; t < sizes[1]; t++)
            need(!llm_session_eval(session, 0, at + t, 1, to + row * (size_t)t, &error), "eval");
    }
    put(argv[3], "session", logits, n * row * 4);
    need(!llm_session_rewind(session, 0, 0, &error), "rewind");
    memset(&desc, 0, sizeof desc);
    desc.max_new_tokens = sizes[4];
    need(!llm_generate(session, tokens, sizes[3], &desc, more, sizes[4], NULL, &error), "generate");
    put(argv[3], "tokens", more, (size_t)sizes[4] * 4);
    snprintf(path, sizeof path, "%s.f32", argv[3]);
    need(!llm_model_save(model, path, LLM_F32, &error), "save");
    snprintf(path, sizeof path, "%s.bf16", argv[3]);
    need(!llm_model_save(model, path, LLM_BF16, &error), "save");
    llm_session_free(session);
    llm_model_free(model);
    free(tokens);
    free(more);
    free(logits);
    return 0;
}
"""


# ---- the cases -----------------------------------------------------------------------------------

def gpt2(**changes):
    values = dict(vocab_size=71, n_positions=40, n_embd=24, n_layer=3, n_head=3, bos_token_id=None,
                  eos_token_id=None)
    return GPT2Config(**{**values, **changes})


def deepseek(**changes):
    values = dict(
        vocab_size=73, max_position_embeddings=64, hidden_size=28, intermediate_size=36,
        moe_intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        n_shared_experts=1, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3,
        first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=20, qk_rope_head_dim=8, v_head_dim=10,
        qk_nope_head_dim=12, routed_scaling_factor=2.5, bos_token_id=None, eos_token_id=None,
        num_mtp_layers=0, attn_implementation="eager",
    )
    return DeepseekV3Config(**{**values, **changes})


def yarn(**changes):
    values = dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                  original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0)
    return {k: v for k, v in {**values, **changes}.items() if v is not None}


DENSE = dict(first_k_dense_replace=3)
WIDE = dict(hidden_size=140, intermediate_size=260, moe_intermediate_size=132)   # several blocks
# name, configuration, torch's type, arguments of save_pretrained and more of what save() below does
CASES = [
    ("gpt2 tied", gpt2(), torch.float32, {}),
    ("gpt2 untied", gpt2(tie_word_embeddings=False), torch.float32, {}),
    ("gpt2 n_inner, one head", gpt2(n_inner=37, n_head=1), torch.float32, {}),
    ("gpt2 odd, epsilon", gpt2(n_embd=35, n_head=5, vocab_size=61, layer_norm_epsilon=1e-2),
     torch.float32, {}),
    ("gpt2 gelu_pytorch_tanh", gpt2(activation_function="gelu_pytorch_tanh"), torch.float32, {}),
    ("gpt2 without transformer.", gpt2(), torch.float32, dict(base=True)),
    ("gpt2 old buffers, tied head", gpt2(), torch.float32, dict(old=True)),
    ("gpt2 sharded", gpt2(), torch.float32, dict(max_shard_size="10KB")),
    ("gpt2 sharded, untied", gpt2(tie_word_embeddings=False), torch.float32,
     dict(max_shard_size="20KB")),
    ("gpt2 bf16", gpt2(), torch.bfloat16, {}),
    ("gpt2 f16", gpt2(), torch.float16, {}),
    ("gpt2 bf16 sharded", gpt2(tie_word_embeddings=False), torch.bfloat16,
     dict(max_shard_size="5KB")),
    ("gpt2 f16 sharded", gpt2(), torch.float16, dict(max_shard_size="5KB")),
    ("deepseek dense", deepseek(**DENSE), torch.float32, {}),
    ("deepseek dense, q_lora none", deepseek(q_lora_rank=None, **DENSE), torch.float32, {}),
    ("deepseek dense, tied", deepseek(tie_word_embeddings=True, **DENSE), torch.float32, {}),
    ("deepseek dense, biases", deepseek(attention_bias=True, **DENSE), torch.float32, {}),
    ("deepseek dense, rope halves", deepseek(rope_interleave=False, **DENSE), torch.float32, {}),
    ("deepseek dense, epsilon", deepseek(rms_norm_eps=1e-2, **DENSE), torch.float32, {}),
    ("deepseek dense, num_mtp_layers 1", deepseek(num_mtp_layers=1, **DENSE), torch.float32, {}),
    ("deepseek moe", deepseek(), torch.float32, {}),
    ("deepseek moe everywhere", deepseek(first_k_dense_replace=0), torch.float32, {}),
    ("deepseek moe, weights not normed", deepseek(norm_topk_prob=False), torch.float32, {}),
    ("deepseek moe, one group", deepseek(n_group=1, topk_group=1), torch.float32, {}),
    ("deepseek moe, two shared", deepseek(n_shared_experts=2), torch.float32, {}),
    ("deepseek moe, q_lora none, biases, tied",
     deepseek(q_lora_rank=None, attention_bias=True, tie_word_embeddings=True), torch.float32, {}),
    ("deepseek moe, v_head_dim above", deepseek(v_head_dim=23, num_attention_heads=3,
                                                num_key_value_heads=3), torch.float32, {}),
    ("deepseek yarn", deepseek(rope_parameters=yarn()), torch.float32, {}),
    ("deepseek yarn, mscale both", deepseek(rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0)),
     torch.float32, {}),
    ("deepseek yarn, mscale differ", deepseek(rope_parameters=yarn(mscale=0.7, mscale_all_dim=0.3)),
     torch.float32, {}),
    ("deepseek yarn, mscale_all_dim only", deepseek(rope_parameters=yarn(mscale_all_dim=0.8)),
     torch.float32, {}),
    ("deepseek yarn, mscale only", deepseek(rope_parameters=yarn(mscale=0.8)), torch.float32, {}),
    ("deepseek yarn, betas, halves",
     deepseek(rope_parameters=yarn(beta_fast=8.0, beta_slow=2.0, factor=2.5),
              rope_interleave=False), torch.float32, {}),
    ("deepseek yarn, no betas", deepseek(rope_parameters=yarn(beta_fast=None, beta_slow=None)),
     torch.float32, {}),
    ("deepseek yarn, old configuration",
     deepseek(rope_parameters=yarn(mscale=1.0, mscale_all_dim=0.5)), torch.float32,
     dict(legacy=True)),
    ("deepseek old configuration", deepseek(rope_parameters=dict(rope_type="default",
                                                                 rope_theta=777.0)),
     torch.float32, dict(legacy=True)),
    ("deepseek mtp", deepseek(num_mtp_layers=1), torch.float32, dict(mtp=1)),
    ("deepseek two mtp, dense", deepseek(num_mtp_layers=2, **DENSE), torch.bfloat16, dict(mtp=2)),
    ("deepseek fp8", deepseek(**WIDE), torch.bfloat16, dict(fp8=True)),
    ("deepseek fp8, dense, mtp", deepseek(num_mtp_layers=1, **WIDE, **DENSE), torch.bfloat16,
     dict(fp8=True, mtp=1)),
    ("deepseek sharded", deepseek(), torch.float32, dict(max_shard_size="30KB")),
    ("deepseek bf16", deepseek(), torch.bfloat16, {}),
    ("deepseek f16", deepseek(), torch.float16, {}),
    ("deepseek bf16 sharded, yarn", deepseek(rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0)),
     torch.bfloat16, dict(max_shard_size="12KB")),
]


def shake(model, generator):
    """weights with which every part of the model matters"""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1:
                fan_in = tensor.shape[0] if "c_" in name else tensor.shape[-1]
                embedding = any(part in name for part in ("embed", "wte", "wpe"))
                tensor.copy_(noise * (0.3 if embedding else 1.2 / fan_in**0.5))
            else:
                norm = ("norm" in name or "ln_" in name) and name.endswith("weight")
                tensor.copy_(0.2 * noise + norm)


def to_fp8(directory):
    """as DeepSeek-V3's own files are: matrices of blocks in F8_E4M3 with scales -> a directory with
    what they stand for"""
    plain = directory + "_plain"
    shutil.copytree(directory, plain)
    tensors = load_file(os.path.join(directory, "model.safetensors"))
    stands_for = dict(tensors)
    for name, t in stands_for.items():
        if t.dim() != 2 or any(part in name for part in ("embed", "head", "mlp.gate.", "eh_proj")):
            continue
        rows, columns = t.shape
        padded = torch.zeros(-(-rows // 128) * 128, -(-columns // 128) * 128)
        padded[:rows, :columns] = t
        blocks = padded.view(padded.shape[0] // 128, 128, -1, 128)
        scales = (blocks.abs().amax(dim=(1, 3)) / 448.0).clamp_min(1e-12)
        wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
        tensors[name] = (t.float() / wide).to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = scales
        stands_for[name] = tensors[name].float() * wide
    save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    save_file({name: t.float().contiguous() for name, t in stands_for.items()},
              os.path.join(plain, "model.safetensors"), metadata={"format": "pt"})
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        values = json.load(file)
    values["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3",
                                         quant_method="fp8", weight_block_size=[128, 128])
    with open(path, "w") as file:
        json.dump(values, file, indent=2)
    return plain


def save(config, dtype, options, directory, generator):
    """-> the directory that transformers is to read: the same but for fp8"""
    options = dict(options)
    base, old, legacy, mtp, fp8 = (
        options.pop(key, 0) for key in ("base", "old", "legacy", "mtp", "fp8"))
    kind = GPT2LMHeadModel if config.model_type == "gpt2" else DeepseekV3ForCausalLM
    model = kind(config).eval()
    shake(model, generator)
    model = model.to(dtype)
    (model.transformer if base else model).save_pretrained(directory, **options)
    if "max_shard_size" in options:
        assert os.path.exists(os.path.join(directory, "model.safetensors.index.json")), "one shard"
    path = os.path.join(directory, "model.safetensors")
    if mtp:                            # as DeepSeek-V3's own files: layers that transformers skips
        tensors = load_file(path)
        width, last = config.hidden_size, "model.layers.%d." % (config.num_hidden_layers - 1)
        block = {name[len(last):]: t for name, t in tensors.items() if name.startswith(last)}
        for k in range(mtp):
            layer = "model.layers.%d." % (config.num_hidden_layers + k)
            for name, t in block.items():
                tensors[layer + name] = torch.randn(t.shape, generator=generator).to(dtype)
            tensors[layer + "eh_proj.weight"] = torch.randn(
                width, 2 * width, generator=generator).to(dtype)
            for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight"):
                tensors[layer + name] = torch.randn(width, generator=generator).to(dtype)
            tensors[layer + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
            tensors[layer + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()
        save_file(tensors, path, metadata={"format": "pt"})
    if old:                            # as files of 2022 are: masks, and the tied head twice
        tensors = load_file(path)
        for layer in range(config.n_layer):
            mask = torch.ones(config.n_positions, config.n_positions, dtype=torch.uint8).tril()
            tensors["transformer.h.%d.attn.bias" % layer] = mask[None, None]
            tensors["transformer.h.%d.attn.masked_bias" % layer] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        save_file(tensors, path, metadata={"format": "pt"})
    if legacy:                         # as DeepSeek-V3's own: rope_theta, rope_scaling with type
        path = os.path.join(directory, "config.json")
        with open(path) as file:
            values = json.load(file)
        rope = values.pop("rope_parameters")
        values["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        values["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
        values.update(scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1, ep_size=1)
        with open(path, "w") as file:
            json.dump(values, file, indent=2)
    return to_fp8(directory) if fp8 else directory


# ---- the comparison ------------------------------------------------------------------------------

def load(directory, **options):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager", **options
    )
    keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {key: sorted(info[key]) for key in keys if info[key]}
    return model.eval(), wrong


def relative(a, b):
    if a.shape != b.shape or not a.isfinite().all():
        return float("inf")
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


@torch.no_grad()
def logits_of(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits.float()


@torch.no_grad()
def greedy(model, tokens):
    """the continuation, by the whole sequence each time; and the least lead of a winner"""
    tokens, lead = tokens.clone(), float("inf")
    for _ in range(NEW):
        last = logits_of(model, tokens)[0, -1]
        top = last.topk(2).values
        lead = min(lead, ((top[0] - top[1]) / last.abs().max()).item())
        tokens = torch.cat([tokens, last.argmax()[None, None]], dim=1)
    return tokens[0, -NEW:], lead


def settings(config):
    """what a configuration says of the mathematics"""
    names = {
        "gpt2": "vocab_size n_positions n_embd n_layer n_head layer_norm_epsilon embd_pdrop "
                "attn_pdrop resid_pdrop tie_word_embeddings",
        "deepseek_v3": "vocab_size max_position_embeddings hidden_size intermediate_size "
                       "num_hidden_layers num_attention_heads kv_lora_rank q_lora_rank "
                       "qk_rope_head_dim v_head_dim qk_nope_head_dim rms_norm_eps attention_bias "
                       "attention_dropout tie_word_embeddings rope_interleave",
    }[config.model_type].split()
    values = {name: getattr(config, name) for name in names}
    return {name: float("%.6g" % v) if isinstance(v, float) else v for name, v in values.items()}


def check(name, config, dtype, options, program, folder, seed, tolerance):
    """-> (what was measured, what is wrong)"""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    source = os.path.join(folder, "hf")
    plain = save(config, dtype, options, source, generator)
    reference, wrong = load(plain, dtype=torch.float32)
    skipped = set(wrong.pop("unexpected_keys", []))        # of MTP and old files
    if wrong and "base" not in options or skipped and not {"mtp", "old"} & set(options):
        return "", ["transformers does not load its own: %s, %s" % (wrong, skipped)]
    tokens = torch.randint(0, config.vocab_size, (B, T), generator=generator)
    expected = logits_of(reference, tokens)

    paths = {key: os.path.join(folder, key) for key in ("in", "out")}
    with open(paths["in"], "wb") as file:
        file.write(struct.pack("<5i", B, T, config.vocab_size, PROMPT, NEW))
        file.write(tokens.to(torch.int32).numpy().tobytes())
    run = subprocess.run([program, source, paths["in"], paths["out"]], capture_output=True,
                         text=True)
    if run.returncode:
        return "", ["llm.h: " + (run.stderr.strip() or "status %d" % run.returncode)]

    def read(end, kind):
        with open(paths["out"] + "." + end, "rb") as file:
            return torch.frombuffer(bytearray(file.read()), dtype=kind)

    problems, measured = [], []

    def compare(what, a, b, limit=tolerance):
        error = relative(a, b)
        measured.append("%s %.1e" % (what, error))
        if not error <= limit:
            problems.append("%s differ by %.2e" % (what, error))

    compare("logits", read("logits", torch.float32).view(expected.shape), expected)
    cached = read("session", torch.float32).view(expected.shape)
    compare("cached", cached[:, PROMPT - 1:], expected[:, PROMPT - 1:])
    text, lead = greedy(reference, tokens[:1, :PROMPT])
    mine = read("tokens", torch.int32).long()
    if lead > tolerance and mine.tolist() != text.tolist():
        problems.append("greedy: %s instead of %s" % (mine.tolist(), text.tolist()))

    for kind, saved_dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        back, wrong = load(paths["out"] + "." + kind, dtype="auto")
        modules = set(wrong.pop("unexpected_keys", []))
        if wrong:
            problems.append("%s: transformers says %s" % (kind, wrong))
        if "mtp" in options:           # all is there, but for what only repeats
            given = load_file(os.path.join(plain, "model.safetensors"))
            mine = load_file(os.path.join(paths["out"] + "." + kind, "model.safetensors"))
            for key in sorted(set(given) | set(mine)):
                if key.startswith("model.layers.") and not key.endswith(
                        (".embed_tokens.weight", ".shared_head.head.weight")):
                    if key not in given or key not in mine or not torch.equal(
                            given[key].to(saved_dtype), mine[key]):
                        problems.append("%s: %s is not what was given" % (kind, key))
        elif modules:
            problems.append("%s: more tensors: %s" % (kind, sorted(modules)))
        if settings(back.config) != settings(reference.config):
            problems.append("%s: configuration %s instead of %s" % (
                kind, settings(back.config), settings(reference.config)))
        have, want = back.state_dict(), reference.state_dict()
        if set(have) != set(want):
            problems.append("%s: other tensors: %s" % (kind, sorted(set(have) ^ set(want))))
        for key in sorted(set(have) & set(want)):
            tensor = want[key].to(saved_dtype)
            if have[key].dtype != saved_dtype and have[key].dtype != torch.float32:
                problems.append("%s: %s is %s" % (kind, key, have[key].dtype))
            elif not torch.equal(have[key].to(saved_dtype), tensor):
                problems.append("%s: %s is not what was saved" % (kind, key))
        if kind == "f32":
            compare("saved", logits_of(back, tokens), expected, 1e-6)
        else:                          # the same weights in bf16, computed in float32
            rounded = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32,
                                                           attn_implementation="eager").eval()
            with torch.no_grad():
                for parameter in [*rounded.parameters(), *(
                        b for n, b in rounded.named_buffers() if "correction" in n)]:
                    parameter.copy_(parameter.to(torch.bfloat16))
            again, _ = load(paths["out"] + "." + kind, dtype=torch.float32)
            compare("bf16", logits_of(again, tokens), logits_of(rounded, tokens), 1e-6)
    return ", ".join(measured), problems


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases whose name contains it")
    parser.add_argument("--header", default=os.path.join(ROOT, "llm.h"), help="another llm.h")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1e-4,
                        help="of logits, relative to the largest")
    parser.add_argument("--keep", metavar="DIRECTORY", help="keep the files of each case there")
    parser.add_argument("--verbose", action="store_true", help="the trace of what went wrong")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(i, *case) for i, case in enumerate(CASES) if arguments.filter in case[0]]
    if not cases:
        print("no case is named so")
        return 2

    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        program = os.path.join(temporary, "program")
        shutil.copy(arguments.header, os.path.join(temporary, "llm.h"))
        with open(program + ".c", "w") as file:
            file.write(PROGRAM)
        command = "%s -O2 -I. program.c -o program -lm" % os.environ.get("CC", "cc")
        subprocess.run(command.split(), cwd=temporary, check=True)
        for i, name, config, dtype, options in cases:
            folder = os.path.join(arguments.keep or temporary,
                                  name.replace(" ", "_").replace(",", ""))
            os.makedirs(folder, exist_ok=True)
            try:
                measured, problems = check(name, config, dtype, options, program, folder,
                                           arguments.seed + i, arguments.tolerance)
            except Exception as error:  # of transformers, too: the other cases still run
                if arguments.verbose:
                    traceback.print_exc()
                measured, problems = "", ["%s: %s" % (type(error).__name__, error)]
            passed += not problems
            failed += bool(problems)
            print("%-4s %-40s %s" % ("FAIL" if problems else "ok", name, measured), flush=True)
            for problem in problems[:5]:
                print("     " + problem, flush=True)
            if not arguments.keep:
                shutil.rmtree(folder)
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Hugging Face directories into llm.h and back: random small models against transformers.

    pip install torch transformers
    python3 tools/check_hf.py [FILTER] [--header llm.h] [--seed 1] [--keep DIRECTORY]

Each case is a GPT-2, DeepSeek-V2 or DeepSeek-V3 that transformers makes and saves: in one file or
in shards, in float64, float32, bfloat16, float16 or fp8, with configurations as transformers writes
them, as older files have them, and under the names of other models that are a DeepSeek-V3. A C
program with llm.h loads the directory and computes logits of a batch, its hidden states of every
layer, the logits through a session's cache, a greedy continuation, the loss, and its gradient with
respect to every tensor; these must be what transformers and its autograd say of the same weights in
float32. What llm.h saves, in F32 and in BF16, is loaded with transformers in turn: the same tensors
to the bit, the same logits. Weights and settings that llm.h does not know have to be refused by
name.

A line per case; with FILTER, only cases whose name contains it. Every error is the largest
difference within a tensor, relative to the tensor's largest value. Exits 1 if any case failed, 2 if
none ran.
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
    DeepseekV2Config,
    DeepseekV3Config,
    GPT2Config,
)
from transformers.utils import logging

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
B, T, PROMPT, NEW = 3, 24, 9, 15
IGNORE = -100                          # LLM_IGNORE_INDEX
logging.set_verbosity_error()
logging.disable_progress_bar()

# DIRECTORY TOKENS OUT: reads B, T, V, length of the prompt, number of new tokens, tokens, targets;
# writes OUT.logits, OUT.hidden (of all layers), OUT.session, OUT.tokens, OUT.gradients, and the
# model to OUT.f32 and OUT.bf16.
# OUT.gradients has the loss, then for each tensor: length of the name, name, number of dims, dims,
# values.
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
/* of the main loss alone: modules and the balance of experts add nothing */
static void put_gradients(const char *out, llm_model *model, const int32_t *sizes,
                          const int32_t *tokens, const int32_t *targets) {
    char path[4096];
    llm_train_desc desc;
    llm_train_stats stats;
    llm_trainer *trainer;
    FILE *file;
    size_t i, k;
    memset(&desc, 0, sizeof desc);
    desc.batch_size = sizes[0];
    desc.seq_len = sizes[1];
    desc.schedule = LLM_SCHEDULE_CONSTANT;
    desc.dropout = LLM_OFF;
    desc.mtp_lambda = LLM_OFF;
    desc.router_aux_alpha = LLM_OFF;
    trainer = llm_trainer_create(model, &desc, &error);
    need(trainer != NULL, "trainer");
    need(!llm_trainer_forward(trainer, tokens, targets, &stats, &error), "forward");
    need(!llm_trainer_backward(trainer, &error), "backward");
    snprintf(path, sizeof path, "%s.gradients", out);
    file = fopen(path, "wb");
    need(file && fwrite(&stats.main_loss, 4, 1, file) == 1, path);
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        llm_tensor gradient = llm_trainer_gradient(trainer, i);
        int32_t head[2];
        size_t n = 1;
        if (!gradient.data) continue;
        head[0] = (int32_t)strlen(gradient.name);
        head[1] = gradient.n_dims;
        for (k = 0; k < (size_t)head[1]; k++) n *= (size_t)gradient.dims[k];
        for (k = 0; k < n; k++)
            ((float *)gradient.data)[k] *= (float)llm_trainer_gradient_scale(trainer);
        need(fwrite(head, 4, 2, file) == 2 &&
             fwrite(gradient.name, 1, (size_t)head[0], file) == (size_t)head[0] &&
             fwrite(gradient.dims, 8, (size_t)head[1], file) == (size_t)head[1] &&
             fwrite(gradient.data, 4, n, file) == n, path);
    }
    need(fclose(file) == 0, path);
    llm_trainer_free(trainer);
}
/* of every layer, from what the first block reads on */
static void put_hidden(const char *out, const llm_model *model, const int32_t *sizes,
                       const int32_t *tokens) {
    const llm_config *config = llm_model_config(model);
    const size_t n = (size_t)sizes[0] * sizes[1] * config->d_model;
    float *hidden = (float *)malloc(n * 4 * (size_t)(config->n_layers + 1));
    int layer;
    need(hidden != NULL, "memory");
    for (layer = 0; layer <= config->n_layers; layer++)
        need(!llm_model_hidden(model, tokens, sizes[0], sizes[1], layer, hidden + n * layer,
                               &error), "hidden");
    put(out, "hidden", hidden, n * 4 * (size_t)layer);
    free(hidden);
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
    tokens = (int32_t *)malloc(2 * n * 4);
    more = (int32_t *)malloc((size_t)sizes[4] * 4);
    logits = (float *)malloc(n * row * 4);
    need(tokens && more && logits && fread(tokens, 4, 2 * n, file) == 2 * n, "tokens");
    fclose(file);
    model = llm_model_load(argv[1], NULL, &error);
    need(model != NULL, "load");
    need(llm_model_config(model)->vocab_size == sizes[2], "vocab_size");
    need(!llm_model_logits(model, tokens, sizes[0], sizes[1], logits, &error), "logits");
    put(argv[3], "logits", logits, n * row * 4);
    put_hidden(argv[3], model, sizes, tokens);
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
    put_gradients(argv[3], model, sizes, tokens, tokens + n);
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


def odd_gpt2(**changes):
    return gpt2(**{**dict(vocab_size=61, n_embd=33, n_head=3), **changes})


def odd_deepseek(**changes):
    values = dict(vocab_size=61, hidden_size=33, intermediate_size=37, moe_intermediate_size=13,
                  num_attention_heads=3, num_key_value_heads=3, kv_lora_rank=14, q_lora_rank=19,
                  qk_rope_head_dim=6, qk_nope_head_dim=9, v_head_dim=11)
    return deepseek(**{**values, **changes})


def deepseek2(**changes):
    values = dict(
        vocab_size=61, max_position_embeddings=64, hidden_size=33, intermediate_size=37,
        moe_intermediate_size=13, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
        n_shared_experts=2, n_routed_experts=8, num_experts_per_tok=3, first_k_dense_replace=1,
        kv_lora_rank=14, q_lora_rank=None, qk_rope_head_dim=6, qk_nope_head_dim=10, v_head_dim=11,
        bos_token_id=None, eos_token_id=None, attn_implementation="eager",
    )
    return DeepseekV2Config(**{**values, **changes})


def yarn(**changes):
    values = dict(rope_type="yarn", rope_theta=1000.0, factor=4.0,
                  original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0)
    return {k: v for k, v in {**values, **changes}.items() if v is not None}


DENSE = dict(first_k_dense_replace=3)
GROUPS = dict(topk_method="group_limited_greedy", n_group=4, topk_group=2)
MASK = "transformer.h.%d.attn."        # what GPT-2's files of 2019 to 2022 have besides weights
WIDE = dict(hidden_size=140, intermediate_size=260, moe_intermediate_size=132)   # several blocks
# name, configuration, torch's type, arguments of save_pretrained and more of what save() below
# does; refused: llm.h has to fail with a message that has that; may_refuse: it may
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

# DeepSeek-V2
CASES += [("deepseek2 " + name, deepseek2(**changes), dtype, options)
          for name, changes, dtype, options in [
    ("dense", DENSE, torch.float32, {}),
    ("dense, q_lora", dict(q_lora_rank=19, **DENSE), torch.float32, {}),
    ("greedy", {}, torch.float32, {}),
    ("greedy, q_lora", dict(q_lora_rank=19), torch.float32, {}),
    ("greedy, everywhere", dict(first_k_dense_replace=0), torch.float32, {}),
    ("greedy, scaled by 1.7", dict(routed_scaling_factor=1.7), torch.float32, {}),
    ("greedy, groups of no use", dict(n_group=4, topk_group=2), torch.float32, {}),
    ("greedy, all experts", dict(num_experts_per_tok=8), torch.float32, {}),
    ("greedy, one expert", dict(num_experts_per_tok=1, n_shared_experts=1), torch.float32, {}),
    ("groups", GROUPS, torch.float32, {}),
    ("groups, scaled by 16, q_lora", dict(routed_scaling_factor=16.0, q_lora_rank=19, **GROUPS),
     torch.float32, {}),
    ("groups, one of four, two experts", dict(num_experts_per_tok=2, **{**GROUPS, "topk_group": 1}),
     torch.float32, {}),
    ("groups, all of them", {**GROUPS, "topk_group": 4}, torch.float32, {}),
    ("groups, more experts than are left", dict(num_experts_per_tok=5, **GROUPS), torch.float32,
     dict(may_refuse="num_experts_per_tok")),
    ("norm_topk_prob", dict(norm_topk_prob=True, routed_scaling_factor=1.7), torch.float32,
     dict(may_refuse="norm_topk_prob")),
    ("other topk_method", dict(topk_method="noaux_tc"), torch.float32,
     dict(refused="topk_method")),
    ("mlp_bias", dict(mlp_bias=True), torch.float32, dict(may_refuse="mlp_bias")),
    ("biases, tied, epsilon", dict(attention_bias=True, tie_word_embeddings=True,
                                   rms_norm_eps=1e-2), torch.float32, {}),
    ("yarn, mscale both", dict(rope_parameters=yarn(mscale=0.707, mscale_all_dim=0.707)),
     torch.float32, {}),
    ("yarn, mscale differ", dict(rope_parameters=yarn(mscale=0.7, mscale_all_dim=0.3), **GROUPS),
     torch.float32, {}),
    ("yarn, no mscale", dict(rope_parameters=yarn()), torch.float32, {}),
    ("yarn, old configuration", dict(rope_parameters=yarn(mscale=0.707, mscale_all_dim=0.707),
                                     routed_scaling_factor=1.0, **GROUPS), torch.float32,
     dict(legacy=True)),
    ("old configuration", dict(rope_parameters=dict(rope_type="default", rope_theta=777.0)),
     torch.float32, dict(legacy=True)),
    ("bf16 sharded", GROUPS, torch.bfloat16, dict(max_shard_size="12KB")),
    ("f64", {}, torch.float64, {}),
]]

# DeepSeek-V3 under other names, with modules or without, with buffers
CASES += [(name, odd_deepseek(**changes), dtype, options) for name, changes, dtype, options in [
    ("deepseek odd", {}, torch.float32, {}),
    ("kimi_k2", dict(rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0, beta_fast=1.0),
                     rms_norm_eps=1e-5, n_group=1, topk_group=1, first_k_dense_replace=1),
     torch.float32, dict(alias="kimi_k2", legacy=True)),
    ("joyai_llm_flash", {}, torch.float32, dict(alias="joyai_llm_flash", legacy=True)),
    ("joyai_llm_flash, dense module", dict(num_mtp_layers=1), torch.float32,
     dict(alias="joyai_llm_flash", legacy=True, mtp=1, mtp_dense=True)),
    ("kimi_k25", dict(rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0)), torch.float32,
     dict(alias="kimi_k25", legacy=True)),
    ("kimi_k25, with a vision tower", dict(rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0)),
     torch.float32, dict(alias="kimi_k25", legacy=True, vision=True)),
    ("kimi_k25, new configuration, bf16", {}, torch.bfloat16,
     dict(alias="kimi_k25", vision=True)),
    ("kimi_k25, int4", {}, torch.bfloat16,
     dict(alias="kimi_k25", legacy=True, vision=True, int4=True, refused="quant")),
    ("mtp claimed, not there", dict(num_mtp_layers=1), torch.float32, {}),
    ("mtp claimed, not there, old configuration", dict(num_mtp_layers=1), torch.bfloat16,
     dict(legacy=True)),
    ("mtp there", dict(num_mtp_layers=1), torch.float32, dict(mtp=1)),
    ("mtp there, 0 in the configuration", dict(num_mtp_layers=0), torch.float32, dict(mtp=1)),
    ("mtp there, 0, old configuration", dict(num_mtp_layers=0), torch.float32,
     dict(mtp=1, legacy=True)),
    ("mtp two claimed, one there", dict(num_mtp_layers=2), torch.float32, dict(mtp=1)),
    ("mtp one claimed, two there", dict(num_mtp_layers=1), torch.float32,
     dict(mtp=2, may_refuse="model.layers.4.")),
    ("deepseek inv_freq", {}, torch.float32,
     dict(extra={"model.layers.%d.self_attn.rotary_emb.inv_freq": torch.float32})),
    ("deepseek f64", dict(q_lora_rank=None), torch.float64, {}),
    ("deepseek unknown weight", {}, torch.float32,
     dict(extra={"model.layers.%d.self_attn.sink.weight": torch.float32},
          refused="model.layers.0.self_attn.sink.weight")),
    ("deepseek unknown weight of a module", dict(num_mtp_layers=1), torch.float32,
     dict(mtp=1, extra={"model.layers.3.gate.weight": torch.float32},
          refused="model.layers.3.gate.weight")),
]]

# GPT-2's activations and ways to scale attention
CASES += [("gpt2 " + name, odd_gpt2(activation_function=name), torch.float32, {})
          for name in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu",
                       "swish")]
CASES += [("gpt2 " + name + " is refused", odd_gpt2(activation_function=name), torch.float32,
           dict(refused="activation_function")) for name in ("tanh", "quick_gelu", "leaky_relu")]
SCALES = dict(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True,
              scale_attn_weights=False)
CASES += [("gpt2 " + ", ".join(names), odd_gpt2(**{name: SCALES[name] for name in names}),
           torch.float32, {}) for names in [
    ("scale_attn_by_inverse_layer_idx",), ("reorder_and_upcast_attn",), ("scale_attn_weights",),
    ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
    ("scale_attn_by_inverse_layer_idx", "scale_attn_weights"),
    ("reorder_and_upcast_attn", "scale_attn_weights"), tuple(SCALES)]]
CASES += [
    ("gpt2 inverse, n_inner, relu, bf16", odd_gpt2(
        n_inner=47, activation_function="relu", scale_attn_by_inverse_layer_idx=True),
     torch.bfloat16, {}),
    ("gpt2 gelu, n_inner, untied", odd_gpt2(n_inner=47, activation_function="gelu",
                                            tie_word_embeddings=False), torch.float32, {}),
    ("gpt2 silu, n_inner, no prefix", odd_gpt2(n_inner=47, activation_function="silu"),
     torch.float16, dict(base=True)),
]

# GPT-2's files with more than weights, and with other types of weights
CASES += [("gpt2 masks of %s%s" % (kind, ", no prefix" if base else ""), odd_gpt2(), torch.float32,
           dict(base=base, extra={(MASK[len("transformer."):] if base else MASK) + "bias": dtype,
                                  (MASK[len("transformer."):] if base else MASK) + "masked_bias":
                                  torch.float32}))
          for base in (False, True) for kind, dtype in [
    ("bool", torch.bool), ("u8", torch.uint8), ("i8", torch.int8), ("i16", torch.int16),
    ("i32", torch.int32), ("i64", torch.int64), ("f32", torch.float32), ("f16", torch.float16)]]
CASES += [
    ("gpt2 f64", odd_gpt2(), torch.float64, {}),
    ("gpt2 f64, no prefix", odd_gpt2(), torch.float64, dict(base=True)),
    ("gpt2 f64, untied", odd_gpt2(tie_word_embeddings=False), torch.float64, {}),
    ("gpt2 no prefix, no head", odd_gpt2(tie_word_embeddings=False), torch.float32,
     dict(base=True, refused="lm_head.weight")),
    ("gpt2 f64 sharded", odd_gpt2(n_inner=47), torch.float64, dict(max_shard_size="40KB")),
    ("gpt2 unknown weight", odd_gpt2(), torch.float32,
     dict(extra={MASK + "gate.weight": torch.float32}, refused=MASK % 0 + "gate.weight")),
    ("gpt2 unknown weight, no prefix", odd_gpt2(), torch.float32,
     dict(base=True, extra={"h.%d.mlp.gate.weight": torch.float16}, refused="h.0.mlp.gate.weight")),
    ("gpt2 unknown integers", odd_gpt2(), torch.float32,
     dict(extra={"transformer.table": torch.int64}, refused="transformer.table")),
    ("gpt2 weights of integers", odd_gpt2(), torch.float32,
     dict(extra={"transformer.wte.weight": torch.int32}, refused="transformer.wte.weight")),
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


def edit_tensors(directory, change):
    """change(tensors) in the directory's one file"""
    path = os.path.join(directory, "model.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path,
              metadata={"format": "pt"})


def edit_config(directory, change):
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        values = json.load(file)
    change(values)
    with open(path, "w") as file:
        json.dump(values, file, indent=2)


def add_modules(tensors, config, count, dense, generator):
    """as DeepSeek-V3's own files: layers that transformers skips; dense: as JoyAI-LLM-Flash's"""
    width, first = config.hidden_size, config.num_hidden_layers
    dtype = tensors["model.embed_tokens.weight"].dtype
    like = "model.layers.%d." % (0 if dense else first - 1)
    block = {name[len(like):]: t.shape for name, t in tensors.items() if name.startswith(like)}
    block["eh_proj.weight"] = (width, 2 * width)
    for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight"):
        block[name] = (width,)
    for k in range(count):
        layer = "model.layers.%d." % (first + k)
        for name, shape in block.items():
            tensors[layer + name] = torch.randn(shape, generator=generator).to(dtype)
        tensors[layer + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[layer + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()


def add_extra(tensors, config, names):
    """masks as GPT-2's, and tensors that nobody knows; %d stands for every layer"""
    for pattern, dtype in names.items():
        for layer in range(config.num_hidden_layers):
            name = pattern % layer if "%d" in pattern else pattern
            if name.endswith("attn.bias"):
                side = config.n_positions
                tensors[name] = torch.ones(side, side).tril()[None, None].to(dtype)
            elif name.endswith("masked_bias"):
                tensors[name] = torch.tensor(-1e4, dtype=dtype)
            else:
                shape = tensors[name].shape if name in tensors else (6, 5)
                tensors[name] = torch.ones(shape).to(dtype)


def old_configuration(values):
    """as DeepSeek's own: rope_theta, rope_scaling with type"""
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    values["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    values.update(moe_layer_freq=1, ep_size=1, aux_loss_alpha=0.001, seq_aux=True)
    if values["model_type"] == "deepseek_v2":
        values["scoring_func"] = "softmax"
    else:
        values.update(scoring_func="sigmoid", topk_method="noaux_tc")
    count = values.pop("num_mtp_layers", None)
    if count is not None:
        values["num_nextn_predict_layers"] = count


def under_another_name(directory, alias, legacy, vision, int4, generator):
    """the same weights as another model's files have them -> a directory with the DeepSeek-V3"""
    plain = directory + "_plain"
    shutil.copytree(directory, plain)
    if alias != "kimi_k25":
        edit_config(directory, lambda values: values.update(model_type=alias))
        return plain

    def wrap(values):
        text = {**values, "model_type": "kimi_k2" if legacy else "deepseek_v3"}
        values.clear()
        if int4:
            text["quantization_config"] = dict(
                quant_method="compressed-tensors", format="pack-quantized", config_groups={})
        values.update(architectures=["KimiK25ForConditionalGeneration"], model_type="kimi_k25",
                      text_config=text, dtype=text.get("dtype"), tie_word_embeddings=False,
                      media_placeholder_token_id=60, ignore_index=-100, pad_token_id=59,
                      projection_hidden_size=16, vision_config=dict(
                          hidden_size=16, intermediate_size=24, num_attention_heads=2,
                          num_hidden_layers=1, patch_size=4, pos_emb_height=4, pos_emb_width=4,
                          pos_emb_time=2, merge_kernel_size=[2, 2]))

    def prefix(tensors):
        dtype = tensors["lm_head.weight"].dtype
        for name in list(tensors):
            tensors["language_model." + name] = tensors.pop(name)
        block = "vision_tower.encoder.blocks.0."
        shapes = {
            "vision_tower.patch_embed.proj.weight": (16, 3, 4, 4),
            "vision_tower.patch_embed.proj.bias": (16,),
            "vision_tower.patch_embed.pos_emb.weight": (4, 4, 16),
            block + "norm0.weight": (16,), block + "norm0.bias": (16,),
            block + "norm1.weight": (16,), block + "norm1.bias": (16,),
            block + "wqkv.weight": (48, 16), block + "wqkv.bias": (48,),
            block + "wo.weight": (16, 16), block + "wo.bias": (16,),
            block + "mlp.fc0.weight": (24, 16), block + "mlp.fc0.bias": (24,),
            block + "mlp.fc1.weight": (16, 24), block + "mlp.fc1.bias": (16,),
            "vision_tower.encoder.final_layernorm.weight": (16,),
            "vision_tower.encoder.final_layernorm.bias": (16,),
            "mm_projector.pre_norm.weight": (16,), "mm_projector.pre_norm.bias": (16,),
            "mm_projector.proj.0.weight": (64, 64), "mm_projector.proj.0.bias": (64,),
            "mm_projector.proj.2.weight": (33, 64), "mm_projector.proj.2.bias": (33,),
        }
        for name, shape in shapes.items() if vision else ():
            tensors[name] = torch.randn(shape, generator=generator).to(dtype)

    edit_config(directory, wrap)
    edit_tensors(directory, prefix)
    return plain


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
    edit_config(directory, lambda values: values.update(quantization_config=dict(
        activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128])))
    return plain


def save(config, dtype, options, directory, generator):
    """-> the directory that transformers is to read: the same but for fp8 and other names"""
    options = {key: value for key, value in options.items() if key not in ("refused", "may_refuse")}
    base, old, legacy, mtp, fp8, dense, extra, alias, vision, int4 = (
        options.pop(key, 0) for key in ("base", "old", "legacy", "mtp", "fp8", "mtp_dense", "extra",
                                        "alias", "vision", "int4"))
    model = AutoModelForCausalLM.from_config(config).eval()
    shake(model, generator)
    model = model.to(dtype)
    if dtype == torch.float64:         # values that no float32 has
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.mul_(1 + 1e-8 * torch.rand(tensor.shape, generator=generator).double())
    (model.transformer if base else model).save_pretrained(directory, **options)
    if "max_shard_size" in options:
        assert os.path.exists(os.path.join(directory, "model.safetensors.index.json")), "one shard"
    if mtp:
        edit_tensors(directory, lambda t: add_modules(t, config, mtp, dense, generator))
    if old:                            # as files of 2022 are: masks, and the tied head twice
        edit_tensors(directory, lambda t: add_extra(
            t, config, {MASK + "bias": torch.uint8, MASK + "masked_bias": torch.float32}))
        edit_tensors(directory, lambda t: t.update(
            {"lm_head.weight": t["transformer.wte.weight"].clone()}))
    if extra:
        edit_tensors(directory, lambda t: add_extra(t, config, extra))
    if legacy:
        edit_config(directory, old_configuration)
    if alias:
        return under_another_name(directory, alias, legacy, vision, int4, generator)
    return to_fp8(directory) if fp8 else directory


# ---- the comparison ------------------------------------------------------------------------------

def load(directory, **options):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager", **options
    )
    if hasattr(model, "set_experts_implementation"):    # the others want widths divisible by 4
        model.set_experts_implementation("eager")
    keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {key: sorted(info[key]) for key in keys if info[key]}
    return model.eval(), wrong


def relative(a, b):
    if a.shape != b.shape or not a.isfinite().all():
        return float("inf")
    error, largest = (a.double() - b.double()).abs().max().item(), b.double().abs().max().item()
    return error / largest if largest else float("inf") if error else 0.0


@torch.no_grad()
def hidden_of(model, tokens):
    """of all layers: what the first block reads, what each leaves, the last one normed"""
    states = model(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states
    return [state.float() for state in states]


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


def gradients_of(model, tokens, targets):
    """-> (loss, {name in the files: gradient}); experts are one by one there"""
    loss = torch.nn.functional.cross_entropy(
        model(input_ids=tokens, use_cache=False).logits.flatten(0, 1), targets.flatten(),
        ignore_index=IGNORE)
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        g = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        if ".experts." in name and g.dim() == 3:
            start, part = name.rsplit(".", 1)
            for expert in range(g.shape[0]):
                names = part.replace("gate_up_proj", "gate_proj up_proj").split()
                for key, half in zip(names, g[expert].chunk(len(names))):
                    gradients["%s.%d.%s.weight" % (start, expert, key)] = half
        else:
            gradients[name] = g
    return loss.item(), gradients


def read_gradients(path):
    """what put_gradients wrote"""
    with open(path, "rb") as file:
        data = file.read()
    loss, at, gradients = struct.unpack_from("<f", data)[0], 4, {}
    while at < len(data):
        length, n_dims = struct.unpack_from("<2i", data, at)
        name = data[at + 8:at + 8 + length].decode()
        at += 8 + length
        shape = struct.unpack_from("<%dq" % n_dims, data, at)
        at += 8 * n_dims
        count = torch.Size(shape).numel()
        gradients[name] = torch.frombuffer(bytearray(data[at:at + 4 * count]),
                                           dtype=torch.float32).view(shape)
        at += 4 * count
    return loss, gradients


def compare_gradients(reference, path, tokens, targets, tolerance):
    """-> (what was measured, what is wrong)"""
    loss, expected = gradients_of(reference, tokens, targets)
    mine, found = read_gradients(path)
    problems = []
    if not abs(mine - loss) <= 1e-5 * abs(loss):
        problems.append("loss %.7g instead of %.7g" % (mine, loss))
    layers = getattr(reference.config, "num_hidden_layers")
    modules = {name for name in found if name.startswith("model.layers.")
               and int(name.split(".")[2]) >= layers}
    if set(found) - modules != set(expected):
        problems.append("gradients of other tensors: %s" % sorted(
            (set(found) - modules) ^ set(expected))[:4])
    if any(found[name].any() for name in modules):
        problems.append("a module that weighs nothing has a gradient")
    errors = {name: relative(found[name], g) for name, g in expected.items() if name in found}
    worst = sorted(errors, key=errors.get)[-3:]
    for name in reversed(worst):
        if not errors[name] <= tolerance:
            problems.append("gradients of %s differ by %.2e" % (name, errors[name]))
    return "gradients %.1e" % max(errors.values(), default=0.0), problems


TANH = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def settings(config):
    """what a configuration says of the mathematics"""
    names = {
        "gpt2": "vocab_size n_positions n_embd n_layer n_head layer_norm_epsilon embd_pdrop "
                "attn_pdrop resid_pdrop tie_word_embeddings activation_function n_inner "
                "scale_attn_weights scale_attn_by_inverse_layer_idx",
        "deepseek_v2": "vocab_size max_position_embeddings hidden_size intermediate_size "
                       "num_hidden_layers num_attention_heads kv_lora_rank q_lora_rank "
                       "qk_rope_head_dim v_head_dim qk_nope_head_dim rms_norm_eps attention_bias "
                       "attention_dropout tie_word_embeddings topk_method n_routed_experts "
                       "n_shared_experts num_experts_per_tok routed_scaling_factor",
        "deepseek_v3": "vocab_size max_position_embeddings hidden_size intermediate_size "
                       "num_hidden_layers num_attention_heads kv_lora_rank q_lora_rank "
                       "qk_rope_head_dim v_head_dim qk_nope_head_dim rms_norm_eps attention_bias "
                       "attention_dropout tie_word_embeddings rope_interleave",
    }[config.model_type].split()
    if getattr(config, "first_k_dense_replace", 0) >= config.num_hidden_layers:
        names = [name for name in names                # of experts that no layer has
                 if not any(word in name for word in ("expert", "topk", "routed"))]
    values = {name: getattr(config, name) for name in names}
    if config.model_type == "gpt2":    # what has several names, and what has a default
        values["n_inner"] = values["n_inner"] or 4 * config.n_embd
        name = values["activation_function"]
        values["activation_function"] = TANH[0] if name in TANH else name.replace("swish", "silu")
    return {name: float("%.6g" % v) if isinstance(v, float) else v for name, v in values.items()}


def check_modules(options, config, plain, saved, kind, count):
    """what llm.h saved of the modules that were given, the last of which stands for those that are
    claimed beyond it; count: as many as it says"""
    given = load_file(os.path.join(plain, "model.safetensors"))
    mine = load_file(os.path.join(saved, "model.safetensors"))
    dtype = torch.float32 if kind == "f32" else torch.bfloat16
    of = [{name for name in tensors if name.startswith("model.layers.")
           and int(name.split(".")[2]) >= config.num_hidden_layers} for tensors in (given, mine)]
    there = {name.split(".")[2] for name in of[1]}
    problems = []
    if len(there) != count:
        problems.append("%s: %d modules, %d in the configuration" % (kind, len(there), count))
    claimed = config.num_mtp_layers
    repeats = (".embed_tokens.weight", ".shared_head.head.weight")
    last = max(int(name.split(".")[2]) for name in of[0])
    for name in sorted(of[0] | of[1]):
        lost = name not in of[1] and not name.endswith(repeats) and options["mtp"] == claimed
        if lost and not options.get("mtp_dense"):
            problems.append("%s: %s is lost" % (kind, name))
        parts = name.split(".")
        parts[2] = str(min(int(parts[2]), last))
        source = given.get(".".join(parts))
        if name in of[1] and (source is None or not torch.equal(source.to(dtype),
                                                                mine[name].to(dtype))):
            problems.append("%s: %s is not what was given" % (kind, name))
    return problems


def check_saved(options, reference, plain, saved, kind):
    """what llm.h saved, as transformers reads it -> (the model, what is wrong)"""
    dtype = torch.float32 if kind == "f32" else torch.bfloat16
    back, wrong = load(saved, dtype="auto")
    modules = set(wrong.pop("unexpected_keys", []))
    problems = ["%s: transformers says %s" % (kind, wrong)] if wrong else []
    if options.get("mtp"):
        problems += check_modules(options, reference.config, plain, saved, kind,
                                  back.config.num_mtp_layers)
    elif modules:
        problems.append("%s: more tensors: %s" % (kind, sorted(modules)))
    if settings(back.config) != settings(reference.config):
        problems.append("%s: configuration %s instead of %s" % (
            kind, settings(back.config), settings(reference.config)))
    have, want = back.state_dict(), reference.state_dict()
    if set(have) != set(want):
        problems.append("%s: other tensors: %s" % (kind, sorted(set(have) ^ set(want))))
    for key in sorted(set(have) & set(want)):
        if have[key].dtype not in (dtype, torch.float32):
            problems.append("%s: %s is %s" % (kind, key, have[key].dtype))
        elif not torch.equal(have[key].to(dtype), want[key].to(dtype)):
            problems.append("%s: %s is not what was saved" % (kind, key))
    return back, problems


def check_kimi(source, tokens, expected):
    """that the directory is what transformers takes for a Kimi-K2.5 with the same logits"""
    from transformers import Kimi_K25ForConditionalGeneration    # not in every version

    model, info = Kimi_K25ForConditionalGeneration.from_pretrained(
        source, output_loading_info=True, attn_implementation="eager", dtype=torch.float32)
    model.set_experts_implementation("eager")
    wrong = {key: info[key] for key in info if info[key]}
    if wrong:
        return ["transformers does not take it for a Kimi-K2.5: %s" % wrong]
    error = relative(logits_of(model.eval(), tokens), expected)
    return [] if error <= 1e-5 else ["Kimi-K2.5 in transformers differs by %.2e" % error]


def run(program, folder, vocabulary, tokens, targets):
    """the program on folder/hf, to folder/out -> (its status, what it said)"""
    paths = [os.path.join(folder, name) for name in ("hf", "in", "out")]
    with open(paths[1], "wb") as file:
        file.write(struct.pack("<5i", B, T, vocabulary, PROMPT, NEW))
        for values in (tokens, targets):
            file.write(values.to(torch.int32).numpy().tobytes())
    done = subprocess.run([program, *paths], capture_output=True, text=True)
    return done.returncode, done.stderr.strip().replace(folder + os.sep, "")


def check(config, dtype, options, program, folder, seed, tolerance):
    """-> (what was measured, what is wrong)"""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    source = os.path.join(folder, "hf")
    plain = save(config, dtype, options, source, generator)
    tokens = torch.randint(0, config.vocab_size, (B, T), generator=generator)
    targets = torch.randint(0, config.vocab_size, (B, T), generator=generator)
    targets[torch.rand(B, T, generator=generator) < 0.2] = IGNORE
    out = os.path.join(folder, "out")
    status, said = run(program, folder, config.vocab_size, tokens, targets)
    refusal = options.get("refused") or options.get("may_refuse")
    if refusal and status == 1 and refusal in said:
        return "refused: " + said, []
    if "refused" in options:
        return "", ["llm.h should refuse it and name %s, but: %s" % (refusal, said or "it loads")]
    if status:
        return "", ["llm.h: %s" % (said or "status %d" % status)]

    reference, wrong = load(plain, dtype=torch.float32)
    skipped = set(wrong.pop("unexpected_keys", []))        # of MTP and old files
    if wrong and not options.get("base") or skipped and not {"mtp", "old", "extra"} & set(options):
        return "", ["transformers does not load its own: %s, %s" % (wrong, skipped)]
    expected = logits_of(reference, tokens)

    def read(end, kind):
        with open(out + "." + end, "rb") as file:
            return torch.frombuffer(bytearray(file.read()), dtype=kind)

    problems, measured = [], []

    def compare(what, a, b, limit=tolerance):
        error = relative(a, b)
        measured.append("%s %.1e" % (what, error))
        if not error <= limit:
            problems.append("%s differ by %.2e" % (what, error))

    compare("logits", read("logits", torch.float32).view(expected.shape), expected)
    states = hidden_of(reference, tokens)
    hidden = read("hidden", torch.float32).view(len(states), *states[0].shape)
    errors = [relative(got, state) for got, state in zip(hidden, states)]
    measured.append("hidden %.1e" % max(errors))
    problems += ["hidden states of layer %d differ by %.2e" % (layer, error)
                 for layer, error in enumerate(errors) if not error <= tolerance]
    cached = read("session", torch.float32).view(expected.shape)
    compare("cached", cached[:, PROMPT - 1:], expected[:, PROMPT - 1:])
    text, lead = greedy(reference, tokens[:1, :PROMPT])
    mine = read("tokens", torch.int32).long()
    if lead > tolerance and mine.tolist() != text.tolist():
        problems.append("greedy: %s instead of %s" % (mine.tolist(), text.tolist()))
    line, more = compare_gradients(reference, out + ".gradients", tokens, targets, 5 * tolerance)
    measured.append(line)
    problems += more
    if options.get("vision"):
        problems += check_kimi(source, tokens, expected)

    for kind in ("f32", "bf16"):
        back, more = check_saved(options, reference, plain, out + "." + kind, kind)
        problems += more
        if kind == "f32":
            compare("saved", logits_of(back, tokens), expected, 1e-6)
        else:                          # the same weights in bf16, computed in float32
            rounded, _ = load(plain, dtype=torch.float32)
            with torch.no_grad():
                for parameter in [*rounded.parameters(), *(
                        b for n, b in rounded.named_buffers() if "correction" in n)]:
                    parameter.copy_(parameter.to(torch.bfloat16))
            again, _ = load(out + "." + kind, dtype=torch.float32)
            compare("bf16", logits_of(again, tokens), logits_of(rounded, tokens), 1e-6)
    return ", ".join(measured), problems


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filter", nargs="?", default="", help="only cases whose name contains it")
    parser.add_argument("--header", default=os.path.join(ROOT, "llm.h"), help="another llm.h")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=2e-5,
                        help="of logits, relative to the largest; gradients may have 5 times that")
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
            folder = str(i) if not arguments.keep else name.replace(" ", "_").replace(",", "")
            folder = os.path.join(arguments.keep or temporary, folder)
            os.makedirs(folder, exist_ok=True)
            try:
                measured, problems = check(config, dtype, options, program, folder,
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

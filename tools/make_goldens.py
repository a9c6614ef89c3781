#!/usr/bin/env python3
"""Writes tests/data: what PyTorch and transformers say, for the tests of llm.h to compare with.

    pip install torch transformers
    tools/make_goldens.py            write tests/data
    tools/make_goldens.py --check    make everything again elsewhere and compare it with tests/data

Everything is seeded and small. Random numbers come from one generator per case; gradients, losses
and trained weights are computed a second time in double precision, and a case where float32 is not
close to that is refused: it would test noise.
"""

import argparse
import ast
import base64
import copy
import json
import math
import os
import random
import shutil
import sys
import tempfile
import warnings

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers import trainers
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_layers import MtpLayer
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RMSNorm,
)
from transformers.utils import logging

IGNORE = -100


def int32(x):
    return torch.as_tensor(x).to(torch.int32).contiguous()


def float32(x):
    return torch.as_tensor(x).to(torch.float32).contiguous()


def relative(a, b):
    """max|a-b| / max|b|"""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30)).item()


def close(name, a, b, tolerance):
    """refuses a golden that float32 does not determine; zeros plus noise count as zeros"""
    a, b = a.detach(), b.detach()
    if b.double().abs().max() < 1e-7 and a.double().abs().max() < 1e-7:
        return
    error = relative(a, b)
    if not error <= tolerance:
        raise SystemExit(
            f"{name}: float32 differs from float64 by {error:.2g}: choose another seed"
        )


def table(text):
    """a dict for each line below the first, which has the keys; a name stands for itself"""
    head, *rows = [line.split() for line in text.strip().split("\n")]
    return [
        {key: word if key == "name" else ast.literal_eval(word) for key, word in zip(head, row)}
        for row in rows
    ]


# ---- GPT-2 --------------------------------------------------------------------------------------

def gpt2_model(generator, vocab, positions, width, heads, layers, inner=None, tied=True, eps=1e-5,
               more={}):
    """a GPT2LMHeadModel without dropout whose every parameter, biases and norms too, is far from
    its usual start, so that no gradient is trivial"""
    config = GPT2Config(
        vocab_size=vocab,
        n_positions=positions,
        n_embd=width,
        n_head=heads,
        n_layer=layers,
        n_inner=inner,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=eps,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
        **more,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                p.normal_(
                    0.0, 0.35 if "wte" in name or "lm_head" in name else 0.25, generator=generator
                )
            elif "ln_" in name and name.endswith("weight"):
                p.uniform_(0.5, 1.5, generator=generator)
            else:
                p.normal_(0.0, 0.2, generator=generator)
    return model


def save_tensors(tensors, path):
    save_file(tensors, path)
    os.chmod(path, 0o644)  # safetensors writes 0600


def save_model(model, directory):
    model.save_pretrained(directory)
    path = os.path.join(directory, "generation_config.json")
    if os.path.exists(path):
        os.remove(path)
    os.chmod(os.path.join(directory, "model.safetensors"), 0o644)


def batch(generator, vocab, B, T, ignored):
    """random tokens and targets; a share of the targets counts for nothing"""
    tokens = torch.randint(0, vocab, (B, T), generator=generator)
    targets = torch.randint(0, vocab, (B, T), generator=generator)
    targets[torch.rand((B, T), generator=generator) < ignored] = IGNORE
    if (targets == IGNORE).all():
        targets[0, 0] = vocab - 1
    return tokens, targets


def loss_of(model, tokens, targets, smoothing=0.0, reduction="mean"):
    logits = model(input_ids=tokens, use_cache=False).logits
    return logits, F.cross_entropy(
        logits.flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORE,
        label_smoothing=smoothing,
        reduction=reduction,
    )


def greedy(name, model, prompt, length):
    """generate's tokens; refused where two logits are so close that rounding could decide"""
    whole = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_length=length,
        pad_token_id=0,
    )
    with torch.no_grad():
        logits = model(input_ids=whole).logits[0, prompt.shape[1] - 1 : -1]
    if logits.shape[1] > 1:
        best = logits.topk(2).values
        if (best[:, 0] - best[:, 1]).min() < 1e-3:
            raise SystemExit(f"{name}: greedy tokens hang on rounding: choose another seed")
    return whole[0, prompt.shape[1] :]


def golden_of(name, model, tokens, targets, smoothing, logits, loss, prompt, positions):
    """what a golden of any architecture has"""
    logprobs = logits.log_softmax(-1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return {
        "tokens": int32(tokens),
        "targets": int32(targets),
        "label_smoothing": float32([smoothing]),
        "logits": float32(logits.detach()),
        "loss": float32([loss.item()]),
        "logprobs": float32(logprobs.detach().masked_fill(targets == IGNORE, 0.0)),
        "correct": int32([(logits.argmax(-1) == targets).sum().item()]),
        "prompt": int32(tokens[0, :prompt]),
        "greedy": int32(greedy(name, model, tokens[:1, :prompt], positions)),
    }


def gpt2_case(out, name, seed, B, T, ignored, smoothing, prompt, **shape):
    generator = torch.Generator().manual_seed(seed)
    model = gpt2_model(generator, **shape)
    tokens, targets = batch(generator, shape["vocab"], B, T, ignored)
    logits, loss = loss_of(model, tokens, targets, smoothing)
    loss.backward()

    exact = copy.deepcopy(model).double()
    exact.zero_grad()
    logits64, loss64 = loss_of(exact, tokens, targets, smoothing)
    loss64.backward()
    close(f"{name}: logits", logits, logits64, 1e-5)
    close(f"{name}: loss", loss, loss64, 1e-6)
    for (key, p), p64 in zip(model.named_parameters(), exact.parameters()):
        close(f"{name}: gradient of {key}", p.grad, p64.grad, 2e-5)

    golden = golden_of(
        name, model, tokens, targets, smoothing, logits, loss, prompt, shape["positions"]
    )
    for key, p in model.named_parameters():
        golden["grad." + key] = float32(p.grad)
    directory = os.path.join(out, name)
    save_model(model, directory)
    save_tensors(golden, os.path.join(directory, "golden.safetensors"))


# inner: width of the MLP, 4 width if None; ignored: the share of targets that count for nothing
GPT2_CASES = """
name        seed vocab positions width heads layers inner tied  eps  B T  ignored smoothing prompt
gpt2_odd    1    61    19        12    3     2      None  True  1e-4 3 17 0.2     0.0       3
gpt2_inner  2    37    11        10    2     3      23    True  1e-5 2 11 0.0     0.0       3
gpt2_long   5    53    96        40    5     1      None  True  1e-5 2 70 0.1     0.0       3
gpt2_untied 4    29    9         8     2     1      None  False 1e-5 2 9  0.3     0.0       3
gpt2_smooth 5    31    13        16    4     2      None  True  1e-5 2 13 0.25    0.1       3
gpt2_wide   6    19    21        72    1     1      8     True  1e-5 2 20 0.0     0.0       3
gpt2_one    7    2     5         17    1     1      None  True  1e-5 1 1  0.0     0.0       1
gpt2_gelu   8    31    13        15    3     2      None  True  1e-5 2 13 0.1     0.0       3
gpt2_relu   9    31    13        15    3     2      None  True  1e-5 2 13 0.1     0.0       3
gpt2_silu   11   31    13        15    3     3      None  True  1e-5 2 13 0.1     0.0       3
"""
GPT2_MORE = {                          # Cerebras-GPT's, for instance, have gelu
    "gpt2_gelu": {"activation_function": "gelu"},
    "gpt2_relu": {"activation_function": "relu", "scale_attn_weights": False},
    "gpt2_silu": {"activation_function": "silu", "scale_attn_by_inverse_layer_idx": True},
}


def make_gpt2(out):
    for case in table(GPT2_CASES):
        gpt2_case(out, more=GPT2_MORE.get(case["name"], {}), **case)


# ---- DeepSeek-V3 and V2 -------------------------------------------------------------------------

def yarn(factor, original, **more):
    return dict(
        rope_type="yarn", factor=factor, original_max_position_embeddings=original, **more
    )


def deepseek_model(generator, D, bias, rope, **shape):
    """a DeepseekV3ForCausalLM and its D MTP layers, whose every parameter is far from its usual
    start; bias: of the routers, a random one around this value. With a topk_method in the shape, a
    DeepseekV2ForCausalLM."""
    second = "topk_method" in shape
    config = (DeepseekV2Config if second else DeepseekV3Config)(
        rope_parameters={"rope_type": "default", **rope, "rope_theta": rope.get("theta", 10000.0)},
        num_key_value_heads=shape["num_attention_heads"],
        bos_token_id=None,
        eos_token_id=None,
        **({} if second else {"num_nextn_predict_layers": D}),
        **shape,
    )
    config._attn_implementation = config._experts_implementation = "eager"
    model = (DeepseekV2ForCausalLM if second else DeepseekV3ForCausalLM)(config).eval()
    mtp_config = copy.deepcopy(config)
    mtp_config.first_k_dense_replace = 0
    mtp = torch.nn.ModuleList(
        MtpLayer(mtp_config, DeepseekV3DecoderLayer, DeepseekV3RMSNorm, 0) for _ in range(D)
    ).eval()
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *mtp.named_parameters()]:
            if p.dim() >= 2:
                wide = "embed_tokens" in name or "lm_head" in name or "gate.weight" in name
                p.normal_(0.0, 0.35 if wide else 0.25, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                p.uniform_(0.5, 1.5, generator=generator)
            else:
                p.normal_(0.0, 0.2, generator=generator)
        for name, b in [*model.named_buffers(), *mtp.named_buffers()]:
            if name.endswith("e_score_correction_bias"):
                b.normal_(bias, 0.3, generator=generator)
    return model, mtp


def deepseek_losses(model, mtp, tokens, targets, smoothing):
    """logits, the sum of the losses and its parts (report eq. 21-25)"""
    def mean(logits, targets):
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, label_smoothing=smoothing
        )

    h = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    logits = model.lm_head(h)
    parts = [mean(logits, targets)]
    T = tokens.shape[1]
    for k, layer in enumerate(mtp, 1):
        positions = torch.arange(T - k).unsqueeze(0)
        h = h[:, : T - k]
        mask = torch.full((T - k, T - k), float("-inf"), dtype=h.dtype).triu(1)[None, None]
        h = layer(
            inputs_embeds=model.model.embed_tokens(tokens[:, k:]),
            previous_hidden_state=h,
            position_embeddings=model.model.rotary_emb(h, positions),
            attention_mask=mask,
            position_ids=positions,
            cache=None,
        )
        parts.append(mean(model.lm_head(h), targets[:, k:]))
    return logits, parts[0] + (0.3 / len(mtp) * sum(parts[1:]) if len(mtp) else 0.0), parts


def deepseek_tensors(model, mtp, of):
    """`of` every parameter, under the names of the published files: experts one by one, MTP layers
    behind the others"""
    tensors = {}
    for name, p in [*model.named_parameters(), *mtp.named_parameters()]:
        if name[0].isdigit():
            k, rest = name.split(".", 1)
            rest = rest.replace("mtp_block.", "").replace("post_norm", "shared_head.norm")
            name = f"model.layers.{model.config.num_hidden_layers + int(k)}.{rest}"
        value = of(p)
        if name.endswith("experts.gate_up_proj"):
            for e, x in enumerate(value):
                gate, up = x.chunk(2)
                tensors[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate
                tensors[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for e, x in enumerate(value):
                tensors[name.replace("down_proj", f"{e}.down_proj.weight")] = x
        else:
            tensors[name] = value
    return {k: float32(v) for k, v in tensors.items()}


def deepseek_case(out, name, seed, D, bias, rope, smoothing, **shape):
    generator = torch.Generator().manual_seed(seed)
    model, mtp = deepseek_model(generator, D, bias, rope, **shape)
    B, T = 2, shape["max_position_embeddings"] - 1
    tokens, targets = batch(generator, shape["vocab_size"], B, T, 0.15)
    logits, loss, parts = deepseek_losses(model, mtp, tokens, targets, smoothing)
    loss.backward()
    exact, exact_mtp = copy.deepcopy(model).double(), copy.deepcopy(mtp).double()
    exact.zero_grad()
    exact_mtp.zero_grad()
    logits64, loss64, _ = deepseek_losses(exact, exact_mtp, tokens, targets, smoothing)
    loss64.backward()
    close(f"{name}: logits", logits, logits64, 2e-5)
    close(f"{name}: loss", loss, loss64, 1e-6)
    pairs = zip(
        [*model.named_parameters(), *mtp.named_parameters()],
        [*exact.parameters(), *exact_mtp.parameters()],
    )
    for (key, p), p64 in pairs:
        close(f"{name}: gradient of {key}", p.grad, p64.grad, 5e-5)

    golden = golden_of(name, model, tokens, targets, smoothing, logits, loss, 3, T + 1)
    golden["parts"] = float32([x.item() for x in parts])
    for key, g in deepseek_tensors(model, mtp, lambda p: p.grad).items():
        golden["grad." + key] = g
    directory = os.path.join(out, name)
    save_model(model, directory)
    if D:
        path = os.path.join(directory, "model.safetensors")
        tensors = load_file(path)
        for key, value in deepseek_tensors(model, mtp, lambda p: p.detach()).items():
            if key.startswith("model.layers."):
                tensors.setdefault(key, value)
        for key, b in mtp.named_buffers():
            if key.endswith("e_score_correction_bias"):
                k, rest = key.split(".", 1)
                layer = shape["num_hidden_layers"] + int(k)
                tensors[f"model.layers.{layer}.{rest.replace('mtp_block.', '')}"] = float32(b)
        save_tensors(tensors, path)
    save_tensors(golden, os.path.join(directory, "golden.safetensors"))


def make_deepseek(out):
    small = dict(
        vocab_size=43,
        hidden_size=20,
        intermediate_size=26,
        moe_intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=3,
        q_lora_rank=9,
        kv_lora_rank=11,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=6,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        first_k_dense_replace=1,
        max_position_embeddings=14,
        rms_norm_eps=1e-5,
        attention_bias=False,
        tie_word_embeddings=False,
    )
    second = dict(norm_topk_prob=False, hidden_size=21, kv_lora_rank=12)
    dense = dict(first_k_dense_replace=9, n_routed_experts=2, num_experts_per_tok=1)
    cases = [
        ("dense", dict(dense)),
        ("full_query", dict(dense, q_lora_rank=None, tie_word_embeddings=True)),
        ("odd", dict(dense, hidden_size=21, num_attention_heads=5, qk_nope_head_dim=7, v_head_dim=3)),
        ("one_head", dict(dense, num_attention_heads=1, v_head_dim=13, qk_rope_head_dim=2)),
        ("bias", dict(dense, attention_bias=True, rope_interleave=False)),
        ("long", dict(dense, max_position_embeddings=90, num_hidden_layers=1)),
        ("moe", dict()),
        ("groups", dict(n_group=4, topk_group=2, routed_scaling_factor=2.5)),
        ("negative", dict(n_group=2, topk_group=1, bias=-2.0, n_shared_experts=2)),
        ("raw_weights", dict(norm_topk_prob=False, first_k_dense_replace=0, attention_bias=True)),
        ("smooth", dict(smoothing=0.1, num_experts_per_tok=1, norm_topk_prob=False,
                        tie_word_embeddings=True)),
        ("yarn", dict(dense, rope=yarn(4.0, 6, mscale=1.0, mscale_all_dim=0.8), qk_rope_head_dim=8)),
        ("yarn_one", dict(rope=yarn(8.0, 5, beta_fast=4.0, beta_slow=0.5), qk_rope_head_dim=6)),
        ("yarn_all", dict(rope=yarn(3.0, 5, mscale_all_dim=1.0, theta=500.0))),
        ("mtp", dict(D=1)),
        ("mtp_two", dict(D=2, n_group=2, topk_group=1, bias=-1.0, routed_scaling_factor=1.5)),
        ("mtp_dense_trunk", dict(D=2, first_k_dense_replace=2, tie_word_embeddings=True)),
        ("v2", dict(second, topk_method="greedy", q_lora_rank=None, n_shared_experts=2,
                    rope=yarn(4.0, 6, mscale=0.707, mscale_all_dim=0.707))),
        ("v2_groups", dict(second, topk_method="group_limited_greedy", n_group=4, topk_group=2,
                           attention_bias=True, routed_scaling_factor=16.0)),
    ]
    for i, (name, changes) in enumerate(cases):
        shape = dict(small, D=0, bias=0.0, rope={}, smoothing=0.0)
        shape.update(changes)
        for seed in range(1000 + 100 * i, 1100 + 100 * i):     # the first that float32 determines
            try:
                deepseek_case(out, "deepseek_" + name, seed, **shape)
                break
            except SystemExit as refusal:
                last = refusal
        else:
            raise last


# ---- ten steps of training ----------------------------------------------------------------------

TRAIN = dict(B=3, T=11, accumulate=2, updates=10, learning_rate=0.01, min_lr_ratio=0.1, warmup=3)
TRAIN.update(max_steps=12, beta1=0.9, beta2=0.95, eps=1e-5, weight_decay=0.1, clip=1.5)
# eps is larger than usual: the gradient of a key's bias is 0 in exact arithmetic, and AdamW makes a
# step of full length from rounding noise that is above eps


def cosine(i, learning_rate, min_lr_ratio, warmup, max_steps, **_):
    low = learning_rate * min_lr_ratio
    if i < warmup:
        return learning_rate * (i + 1) / warmup
    return low + (learning_rate - low) * 0.5 * (
        1 + math.cos(math.pi * (i - warmup) / (max_steps - warmup))
    )


def train(model, tokens, targets):
    """losses of the micro-batches, norms before clipping, learning rates"""
    decays = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            dict(params=decays, weight_decay=TRAIN["weight_decay"]),
            dict(params=others, weight_decay=0.0),
        ],
        betas=(TRAIN["beta1"], TRAIN["beta2"]),
        eps=TRAIN["eps"],
    )
    losses, norms, rates = [], [], []
    for update in range(TRAIN["updates"]):
        micro = range(update * TRAIN["accumulate"], (update + 1) * TRAIN["accumulate"])
        valid = sum((targets[m] != IGNORE).sum().item() for m in micro)
        optimizer.zero_grad(set_to_none=True)
        for m in micro:
            loss = loss_of(model, tokens[m], targets[m], reduction="sum")[1]
            losses.append(loss.item() / max(1, (targets[m] != IGNORE).sum().item()))
            (loss / valid).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN["clip"]).item())
        rates.append(cosine(update, **TRAIN))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        optimizer.step()
    return losses, norms, rates


def make_trainer(out):
    generator = torch.Generator().manual_seed(100)
    model = gpt2_model(generator, vocab=23, positions=16, width=16, heads=2, layers=2)
    n = TRAIN["updates"] * TRAIN["accumulate"]
    data = [batch(generator, 23, TRAIN["B"], TRAIN["T"], (0.1, 0.7)[m % 2]) for m in range(n)]
    data[7][1].fill_(IGNORE)  # a micro-batch without a valid target
    tokens, targets = (torch.stack(x) for x in zip(*data))
    directory = os.path.join(out, "trainer")
    save_model(model, directory)

    # AdamW divides by the gradients' size, and those of the keys' biases are rounding alone: only in
    # double do all machines agree
    exact = copy.deepcopy(model).double()
    losses, norms, rates = train(model, tokens, targets)
    losses64, norms64, _ = train(exact, tokens, targets)
    close("trainer: losses", torch.tensor(losses), torch.tensor(losses64), 1e-5)
    close("trainer: norms", torch.tensor(norms), torch.tensor(norms64), 1e-5)
    if not min(norms) < TRAIN["clip"] < max(norms):
        raise SystemExit(f"trainer: clipping is always or never at work: norms {norms}")
    desc = "learning_rate min_lr_ratio warmup max_steps beta1 beta2 eps weight_decay clip"
    golden = {
        "tokens": int32(tokens),
        "targets": int32(targets),
        "losses": float32(losses64),
        "norms": float32(norms64),
        "rates": float32(rates),
        "desc": float32([TRAIN[key] for key in desc.split()] + [TRAIN["accumulate"]]),
    }
    for (key, p), p64 in zip(model.named_parameters(), exact.parameters()):
        close(f"trainer: final {key}", p, p64, 1e-4)
        golden["final." + key] = float32(p64.detach())
    save_tensors(golden, os.path.join(directory, "golden.safetensors"))


# ---- schedules ----------------------------------------------------------------------------------

def schedule(kind, learning_rate, ratio, warmup, max_steps, decay, steps):
    """rates of updates 0 .. steps-1 by torch's schedulers, one after the other"""
    from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR

    low, end = learning_rate * ratio, max_steps if kind != "constant" else steps + 1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    parts, milestones = [], []
    if warmup > 0:
        parts.append(
            LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
            if warmup > 1
            else ConstantLR(optimizer, factor=1.0, total_iters=0)
        )
        milestones.append(warmup)
    if kind == "cosine":
        parts.append(CosineAnnealingLR(optimizer, T_max=end - warmup, eta_min=low))
    elif kind == "linear":
        parts.append(
            LinearLR(optimizer, start_factor=1.0, end_factor=ratio, total_iters=end - warmup)
        )
    elif kind == "wsd":
        decay = decay or max_steps // 10
        parts += [
            ConstantLR(optimizer, factor=1.0, total_iters=0),
            LinearLR(optimizer, start_factor=1.0, end_factor=ratio, total_iters=decay),
        ]
        milestones.append(end - decay)
    else:
        parts.append(ConstantLR(optimizer, factor=1.0, total_iters=0))
    if len(parts) == 1:
        scheduler = parts[0]
    else:
        scheduler = SequentialLR(optimizer, parts, milestones)
    rates = []
    for i in range(steps):
        rates.append(low if i >= end else optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULES = ["cosine", "wsd", "linear", "constant"]  # in the order of llm_schedule


def make_schedules(out):
    golden = {}
    cases = [
        ("cosine", 3e-4, 0.1, 7, 50, 0),
        ("cosine", 1e-3, 0.0, 0, 33, 0),
        ("cosine", 0.5, 0.25, 1, 20, 0),
        ("wsd", 2e-3, 0.1, 5, 40, 12),
        ("wsd", 1e-3, 0.2, 3, 60, 0),
        ("linear", 6e-4, 0.1, 4, 30, 0),
        ("linear", 1e-2, 0.0, 0, 25, 0),
        ("constant", 1e-3, 0.1, 10, 0, 0),
        ("constant", 1e-3, 0.1, 0, 0, 0),
    ]
    for i, (kind, rate, ratio, warmup, max_steps, decay) in enumerate(cases):
        golden[f"desc{i}"] = float32([SCHEDULES.index(kind), rate, ratio, warmup, max_steps, decay])
        golden[f"rates{i}"] = float32(schedule(kind, rate, ratio, warmup, max_steps, decay, 70))
    save_tensors(golden, os.path.join(out, "schedules.safetensors"))


# ---- fp8 ----------------------------------------------------------------------------------------


def make_e4m3(out):
    """all 256 codes; and what float8_e4m3fn makes of floats: random ones, its own values, the middles
    between them, and their neighbours"""
    e4m3 = torch.float8_e4m3fn
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(e4m3).float()
    values = codes[:127]
    middles = (values[1:] + values[:-1]) / 2
    edges = torch.cat([values, middles])
    edges = torch.cat([edges, *(torch.nextafter(edges, torch.tensor(to)) for to in (0.0, 448.0))])
    generator = torch.Generator().manual_seed(8)
    noise = torch.randn(3000, generator=generator) * 2.0 ** torch.randint(
        -12, 7, (3000,), generator=generator
    )
    x = torch.cat([edges, -edges, noise]).clamp(-448.0, 448.0)
    golden = {"codes": codes, "x": float32(x), "rounded": x.to(e4m3).float()}
    save_tensors(golden, os.path.join(out, "e4m3.safetensors"))


# ---- sampling -----------------------------------------------------------------------------------

def sampling_probabilities(logits, history, temperature, top_k, top_p, min_p, penalty):
    """in the order in which generate() applies them"""
    processors = LogitsProcessorList()
    if penalty not in (0.0, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(penalty=penalty))
    processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k=top_k))
    if 0.0 < top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p=top_p))
    if min_p:
        processors.append(MinPLogitsWarper(min_p=min_p))
    return processors(history.unsqueeze(0), logits.clone().unsqueeze(0)).softmax(-1).squeeze(0)


SAMPLING_CASES = """
vocab history temperature top_k top_p min_p penalty
17    0       1.0         0     0.0   0.0   0.0
17    0       0.7         0     0.0   0.0   0.0
23    0       1.0         5     0.0   0.0   0.0
23    0       1.0         0     0.8   0.0   0.0
23    0       1.3         0     0.0   0.1   0.0
23    9       1.0         0     0.0   0.0   1.5
31    6       0.8         12    0.9   0.05  1.3
31    6       1.5         20    0.6   0.02  0.8
40    0       1.0         7     0.3   0.0   0.0
23    0       1.0         100   1.0   0.0   1.0
29    0       1.0         0     0.01  0.0   0.0
29    12      2.0         1     0.5   0.5   2.0
"""


def make_sampling(out):
    generator = torch.Generator().manual_seed(300)
    golden = {}
    cases = table(SAMPLING_CASES)
    for i, case in enumerate(cases):
        vocab, n_history = case.pop("vocab"), case.pop("history")
        logits = torch.randn(vocab, generator=generator) * 2.0
        history = torch.randint(0, vocab, (n_history,), generator=generator)  # some occur twice
        golden[f"logits{i}"] = float32(logits)
        if n_history:
            golden[f"history{i}"] = int32(history)
        golden[f"desc{i}"] = float32([*case.values()])
        golden[f"probabilities{i}"] = float32(sampling_probabilities(logits, history, **case))
    # top-k 3 keeps all equals of the third
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, -1.0, 0.0])
    golden[f"logits{len(cases)}"] = float32(logits)
    golden[f"desc{len(cases)}"] = float32([1.0, 3, 0.0, 0.0, 0.0])
    golden[f"probabilities{len(cases)}"] = float32(
        sampling_probabilities(logits, torch.zeros(0, dtype=torch.long), 1.0, 3, 0.0, 0.0, 0.0)
    )
    save_tensors(golden, os.path.join(out, "sampling.safetensors"))


# ---- byte-level BPE -----------------------------------------------------------------------------

BPE_TEXT = """The quick brown fox doesn't jump over the lazy dog; it's late, they'll say, and we've 3 dogs (or 42).
Die Straße fährt übers Öl. L'été, c'est très bien. Быстрая лиса прыгает. 敏捷的棕色狐狸跳过懒狗。 素早い茶色の狐。
for (int i = 0; i < 100; i++) {\n\t\tprintf("%d\\n", i);\n    }\n   total = a*b + c/d;  x'd y'S z’s\n\n\n  end
"""
BPE_CASES = [  # the last one: letters new in Unicode 16
    "", " ", "  ", "a", " a", "'s", "'S", "''ll", "I'll've", "x's", " 's", "\n", "\n\n", " \n a",
    "a  b", "a   ", "\t\tb", "12345678901234567890", "3.14 \u00b2\u00bd \u2167 \u0661", "\u00a0x",
    "\u3000x", "\u2003 \u2003y", "a\u200bb", "\x1c a\x85b", "\ufeffa", "e\u0301te\u0301",
    "\u0915\u094d\u0937\u093f",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "\U00020000\U000323af\U000e0100", "<|endoftext|>", "a<|endoftext|>b",
    " <|endoftext|> <|endoftext|", "<|endoftext|><|endoftext|>", "\x00\x01\x7f", "a" * 200,
    " " * 100 + "x", "ab" * 100 + "c", "\n " * 40, "ADD ADDED ADDE", " STRIP \n x",
    "LEFTLEFT  LEFT", "RIGHT  RIGHT\n\nx", "xSTRIP STRIP", "Hello world",
    " Hello  world!!! \u2026\u2014", "\u1c89\u1c8a \U00011bc0 \U0001e5d0 \U000105c0",
]


def bpe_lines(tokenizer, texts):
    """per case: special tokens known (0, 1), the text in hex ("-" if empty), the ids"""
    lines = []
    for special in (0, 1):
        tokenizer.encode_special_tokens = not special
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            lines.append(f"{special} {text.encode().hex() or '-'} {' '.join(map(str, ids))}\n")
    return "".join(lines)


def bpe_train(text, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


# (pattern, behavior, invert)
BPE_PATTERNS = [
    ("ab|a|abc", 0, 0), ("(?:ab|a)(?:c|bcd)", 0, 0), ("x*", 0, 0), ("x*?", 1, 0), ("", 0, 0), ("a|", 0, 0),
    ("a{2}", 0, 0), ("a{1,2}", 0, 0), ("a{2,}", 0, 0), ("a{,2}b", 0, 0), ("a{,}", 0, 0), ("a{x}", 0, 0),
    ("a{1,2}+b", 0, 0), ("a{1,2}?", 0, 0), ("a++", 0, 0), ("a++a", 0, 0), ("a?+a", 0, 0), ("a*+b", 0, 0),
    ("a+?b?", 0, 0), ("(?:ab)+", 4, 0), ("[ab]", 1, 0), ("[ab]", 2, 0), ("[ab]", 3, 0), ("[ab]", 4, 0),
    ("[ab]", 1, 1), ("[ab]", 2, 1), ("[ab]", 3, 1), ("[ab]", 4, 1), ("(?=b)", 3, 0), ("(?=b)", 2, 1),
    ("(?!a)\\w", 0, 0), ("\\s+(?!\\S)", 0, 0), ("(?=(?:ab)+c)", 0, 0), ("^", 0, 0), ("^a", 1, 0), ("$", 0, 0),
    ("\\s+$", 0, 0), ("\\Aa", 0, 0), ("a\\z", 0, 0), ("\\b", 0, 0), ("\\Bb", 0, 0), (".", 0, 0), (".+", 0, 0),
    ("(?i:'s)", 0, 0), ("(?i:k|s)", 0, 0), ("(?i)'ll|c", 0, 0), ("(?i:[a-z]+)", 0, 0), ("(?i:a(?-i:b))", 0, 0),
    ("[^\\s\\p{L}\\p{N}]+", 0, 0), ("[\\p{L}&&[^\\p{Han}]]+", 0, 0), ("[^\\p{L}&&[^\\p{Han}]]+", 0, 0),
    ("[a-c&&b-z&&c]", 0, 0), ("[a-c&&b&&a-z]", 0, 0), ("[]a]", 0, 0), ("[a-]", 0, 0), ("[\\d\\-x]+", 0, 0), ("[^]a]", 0, 0), ("[a[bc]]+", 0, 0),
    ("\\p{Lu}|\\p{Lt}|\\p{Lm}", 0, 0), ("\\p{Ll}+", 0, 0), ("\\p{Lo}+", 0, 0), ("\\p{M}", 0, 0), ("\\p{Nd}", 0, 0),
    ("\\p{Nl}|\\p{No}", 0, 0), ("\\p{P}", 0, 0), ("\\p{Pc}", 0, 0), ("\\p{S}", 0, 0), ("\\P{L}", 0, 0), ("\\p{^N}", 0, 0),
    ("\\p{Hiragana}+|\\p{Katakana}+|\\p{Hangul}+", 0, 0), ("\\w+", 0, 0), ("[\\w]+", 0, 0), ("\\W", 0, 0), ("\\D", 0, 0),
    ("\\x41|\\u00e9|\\x{4e00}|\\t|\\.|\\\\", 0, 0), ("{|}|]", 0, 0), ("[\u4e00-\u9fa5\u3040-\u309f]+", 0, 0),
]
BPE_PATTERN_TEXTS = [
    "ab", "abcd", "aabxxbab", "aaaaab c{x}", "a ab\nba\n", "a  \n b \n ", "'s 'S '\u017f K\u212ak 'LL'll", "a1\u0661\u00b2\u2167\u00bd_\u203f",
    "e\u0301t\u00e9 \u01c5\u02b0 HELLOworld", "\u4e2d\u6587abc\u3042\u30a2\ud55c \u3005\u3007", "a-b.[]\\^$|{}A\t\u00a0+<\u20ac",
    "\U0001f468\u200d\U0001f469 \u2460\u24b6", "  x", "\u00be\u00b3\u00b9\u00bc a\u00be", "abcabc ababab", "1234567 8,901",
]


def bpe_pieces(rng, words):
    """per pattern a line: "p", type (r regex, d Digits, l ByteLevel's), behavior, invert, the pattern in hex; then a
    line per text: "t", the text in hex, begin and end of each piece"""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import check_tokenizer as check
    lines, seen = [], set()
    patterns = [("r", *pattern) for pattern in BPE_PATTERNS] + [("d", "", 0, 0), ("d", "", 4, 0), ("l", "", 0, 0)]
    patterns += [("r", part, 0, 0) for parts in check.PUBLISHED.values() for part in parts
                 if isinstance(part, str) and part]
    more = check.Random(5)
    for kind, pattern, behavior, invert in patterns:
        if (kind, pattern, behavior, invert) in seen:
            continue
        seen.add((kind, pattern, behavior, invert))
        split = (pre_tokenizers.Digits(individual_digits=behavior == 0) if kind == "d" else
                 pre_tokenizers.ByteLevel(add_prefix_space=False) if kind == "l" else
                 pre_tokenizers.Split(Regex(pattern), check.BEHAVIORS[behavior], bool(invert)))
        lines.append(f"p {kind} {behavior} {invert} {pattern.encode().hex() or '-'}\n")
        texts = list(BPE_PATTERN_TEXTS)
        if len(pattern) > 60 or kind == "l":
            texts += [text for text in (more.text(words) for _ in range(60)) if 0 < len(text) < 80]
        for text in texts:
            ends = [len(text[:i].encode()) for _, piece in split.pre_tokenize_str(text) for i in piece]
            lines.append(f"t {text.encode().hex()}{''.join(f' {end}' for end in ends)}\n")
    return "".join(lines)


BPE_ODD_CASES = [
    "the foo ba", " foo", "foo", "\u00ffa\u00ff", "\u0120the", "\u00e9\u00c3\u00a9", "x    y", "   x", "a  \n  b", "\u4e00\u4e8c", " the the",
]


def bpe_odd():
    """ids backwards and with gaps, ignore_merges with tokens that no merges lead to, added tokens that spell a byte, or
    a token that stands for other bytes"""
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("o", "o"), ("f", "o")]
    words = [*pre_tokenizers.ByteLevel.alphabet(), *(a + b for a, b in merges)]
    vocab = {word: 600 - i for i, word in enumerate(sorted(words))}
    vocab.update({"foo": 3, "\u0120foo": 601, "\u0120\u0120\u0120": 610, "\u4e00": 5})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([
        AddedToken("\u00ff", special=True, normalized=False), AddedToken("\u00c3", normalized=False),
        AddedToken("  ", lstrip=True, rstrip=True), AddedToken("ba", single_word=True),
    ])
    return tokenizer


BPE_TIKTOKEN_CASES = [
    "[BOS]Hello<|im_end|>", "<|tool|>a<|reserved_token_460|><|reserved_token_715|><|reserved_token_716|>",
    "\u654f\u6377\u7684\u68d5\u8272abc\u72d0\u72f8", "printf printf\n\n\n  don'T I'LL THE The", "1234567 \u3005\u3007",
]


def bpe_ranks(n):
    """the tokens of a tiktoken.model: bytes in an order of their own, then what training finds"""
    characters = {byte: character for byte, character in zip(
        [*range(33, 127), *range(161, 173), *range(174, 256)], [*range(33, 127), *range(161, 173), *range(174, 256)])}
    others = iter(range(256, 512))
    to_byte = {chr(characters[byte] if byte in characters else next(others)): byte for byte in range(256)}
    data = json.loads(bpe_train(BPE_TEXT * 3, n).to_str())["model"]
    merged = [a + b for a, b in data["merges"]]
    tokens = [bytes([byte]) for byte in range(255, -1, -1)]
    return tokens + [bytes(to_byte[c] for c in token) for token in merged[:n - 256]]


def bpe_tiktoken(ranks, special):
    """the same for `tokenizers`: each token is merged of any two tokens that spell it, the lower ones first"""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import check_tokenizer as check
    spelled = {token: "".join(check.characters()[byte] for byte in token) for token in ranks}
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    merges = []
    for token in ranks:
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        splits = [split for split in splits if split[0] in rank_of and split[1] in rank_of]
        merges += [(spelled[a], spelled[b]) for a, b in sorted(splits, key=lambda s: (rank_of[s[0]], rank_of[s[1]]))]
    tokenizer = Tokenizer(models.BPE({spelled[token]: rank for token, rank in rank_of.items()}, merges,
                                     ignore_merges=True))
    tokenizer.pre_tokenizer = check.pre_tokenizer(check.PUBLISHED["kimi-k2"])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([
        AddedToken(special.get(id_, f"<|reserved_token_{id_}|>"), special=special.get(id_) != "<|tool|>", normalized=False)
        for id_ in range(len(ranks), len(ranks) + 256)])
    return tokenizer


def make_bpe(out):
    """small.json   a tokenizer of 500 tokens, with added tokens of every kind
    small.txt    cases for it
    patterns.txt what patterns cut texts into
    tiktoken/    a tiktoken.model, its tokens in the order of ranks, and special tokens
    tiktoken.txt cases for it
    odd.json     a vocabulary with gaps and ignore_merges; added tokens that are of it
    odd.txt      cases for it
    train.txt    text to train on
    train.ids    the vocabulary size asked for, then "a b result" per merge
    gpt2.txt     cases for GPT-2's own vocabulary (--gpt2-vocabulary)"""
    directory = os.path.join(out, "bpe")
    os.makedirs(directory, exist_ok=True)

    def write(name, text):
        with open(os.path.join(directory, name), "w", encoding="utf-8", newline="") as file:
            file.write(text)

    rng = random.Random(1)
    words = BPE_TEXT.split(" ")
    texts = BPE_CASES + BPE_TEXT.split("\n") + [BPE_TEXT]
    for _ in range(60):
        parts = []
        for _ in range(rng.randint(1, 12)):
            word, case = rng.choice(words), rng.choice(BPE_CASES[:30])
            number, code = str(rng.randrange(10000)), rng.randrange(128)
            code = rng.choice((code, rng.randrange(0x80, 0xD800), rng.randrange(0xE000, 0x110000)))
            parts.append(rng.choice((word, case, " ", "\n", number, chr(code))))
        texts.append("".join(parts))

    small = bpe_train(BPE_TEXT * 2, 490)
    small.add_tokens(
        [
            AddedToken("<|endoftext|>", special=True, normalized=False),
            AddedToken("ADD", special=False, normalized=True),
            AddedToken("ADDED", special=True, normalized=True),
            AddedToken("STRIP", special=False, lstrip=True, rstrip=True),
            AddedToken("LEFT", special=True, lstrip=True, normalized=False),
            AddedToken("RIGHT", special=False, rstrip=True, normalized=False),
        ]
    )
    small.save(os.path.join(directory, "small.json"), pretty=False)
    write("small.txt", bpe_lines(small, texts))
    write("patterns.txt", bpe_pieces(rng, words))
    os.makedirs(os.path.join(directory, "tiktoken"), exist_ok=True)
    ranks = bpe_ranks(460)
    special = {461: "[BOS]", 463: "<|im_end|>", 464: "<|tool|>"}
    write("tiktoken/tiktoken.model", "".join(
        f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)))
    write("tiktoken/tokenizer_config.json", json.dumps({
        "added_tokens_decoder": {str(id_): {
            "content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": text != "<|tool|>"} for id_, text in special.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}, "bos_token": "[BOS]",
        "tokenizer_class": "TikTokenTokenizer"}))
    write("tiktoken.txt", bpe_lines(bpe_tiktoken(ranks, special), texts + BPE_TIKTOKEN_CASES))
    odd = bpe_odd()
    odd.save(os.path.join(directory, "odd.json"), pretty=False)
    write("odd.txt", bpe_lines(odd, BPE_CASES + BPE_ODD_CASES))

    # few letters, so that a token is spelled in several ways and pairs come up again after a merge
    text = BPE_TEXT + "".join(rng.choice("ab ") for _ in range(3000))
    text += "".join(rng.choice(["abc", "ab", "bc", "c", "aab", " "]) for _ in range(1500))
    write("train.txt", text)
    trained = json.loads(bpe_train(text, 899).to_str())["model"]
    ids = trained["vocab"]
    write(
        "train.ids",
        "900\n" + "".join(f"{ids[a]} {ids[b]} {ids[a + b]}\n" for a, b in trained["merges"]),
    )

    if ARGUMENTS.gpt2_vocabulary:
        names = [
            os.path.join(ARGUMENTS.gpt2_vocabulary, name)
            for name in ("gpt2_vocab.json", "gpt2_merges.txt")
        ]
        gpt2 = Tokenizer(models.BPE(*models.BPE.read_file(*names)))
        gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        gpt2.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
        write("gpt2.txt", bpe_lines(gpt2, texts))


# ---- all of it ----------------------------------------------------------------------------------

MAKERS = [make_gpt2, make_deepseek, make_trainer, make_schedules, make_e4m3, make_sampling, make_bpe]
ARGUMENTS = None


def files_of(directory):
    return sorted(
        os.path.relpath(os.path.join(where, name), directory)
        for where, _, names in os.walk(directory)
        for name in names
    )


def without_versions(value):
    if isinstance(value, dict):
        return {k: without_versions(v) for k, v in value.items() if k != "transformers_version"}
    return value


def differences(a, b):
    """what differs between two files of goldens, in a line; None where nothing does"""
    if a.endswith(".safetensors"):
        x, y = load_file(a), load_file(b)
        if x.keys() != y.keys():
            return f"tensors {sorted(x.keys() ^ y.keys())}"
        for key in x:
            if x[key].dtype != y[key].dtype or x[key].shape != y[key].shape:
                return f"{key}: type or shape"
            if not x[key].is_floating_point():
                if not torch.equal(x[key], y[key]):
                    return f"{key}: values"
            elif x[key].abs().max() > 1e-7 and relative(x[key], y[key]) > 2e-5:
                return f"{key}: relative difference {relative(x[key], y[key]):.2g}"
        return None
    with open(a, "rb") as f, open(b, "rb") as g:
        x, y = f.read(), g.read()
    if a.endswith(".json"):
        x, y = without_versions(json.loads(x)), without_versions(json.loads(y))
    return None if x == y else "contents"


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", default=os.path.join(here, "tests", "data"), help="default: %(default)s"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with --out instead of writing it"
    )
    parser.add_argument(
        "--gpt2-vocabulary",
        metavar="DIR",
        help="with gpt2_vocab.json and gpt2_merges.txt; without it, gpt2.txt is as it was",
    )
    global ARGUMENTS
    ARGUMENTS = arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    if not arguments.check:
        for make in MAKERS:
            make(arguments.out)
        total = sum(
            os.path.getsize(os.path.join(arguments.out, f)) for f in files_of(arguments.out)
        )
        print(f"{len(files_of(arguments.out))} files, {total} bytes in {arguments.out}")
        return 0

    fresh = tempfile.mkdtemp()
    try:
        for make in MAKERS:
            make(fresh)
        bad = 0
        for name in sorted(set(files_of(fresh)) | set(files_of(arguments.out))):
            a, b = os.path.join(fresh, name), os.path.join(arguments.out, name)
            if name == os.path.join("bpe", "gpt2.txt") and not arguments.gpt2_vocabulary:
                continue
            if name.split(os.sep)[0] in ("fuzz", "checkpoints"):    # no goldens: llm.h's own files
                continue
            if not os.path.exists(a) or not os.path.exists(b):
                reason = f"only in {fresh if os.path.exists(a) else arguments.out}"
            else:
                reason = differences(a, b)
            if reason:
                print(f"{name}: {reason}")
                bad += 1
        print(f"{len(files_of(fresh))} files made again, {bad} differ")
        return 1 if bad else 0
    finally:
        shutil.rmtree(fresh)


if __name__ == "__main__":
    sys.exit(main())

/* llm.h -- train and run GPT-2, GPT-3 and DeepSeek-V3 models on a CPU. One header, no dependencies.
 *
 *   #define LLM_IMPLEMENTATION     in exactly ONE C or C++ file, before
 *   #include "llm.h"               everywhere else, include it plainly
 *   cc -O2 program.c -lm
 *
 * WHAT IT IS
 *   Forward and backward passes written by hand, and equal to PyTorch's to rounding; AdamW,
 *   clipping, schedules; latent attention, experts with bias balancing, multi-token prediction;
 *   inference with a key-value cache, sampling, speculation, streaming; weights of 4 to 32 bits;
 *   byte-level BPE, which it also trains; Hugging Face directories and GGUF files in and out. C99
 *   and C++11. Kernels for AVX2, AVX-512, AMX, NEON and plain C are all compiled in, and chosen
 *   when the program runs: -march is not needed.
 *
 * WHAT IT DOES NOT DO
 *   GPUs, other model families, downloading, and talking to other machines (it hands over one
 *   contiguous gradient buffer; MPI or anything else sums it).
 *
 * A COMPLETE PROGRAM: learn a text, then go on with it
 *
 *   #define LLM_IMPLEMENTATION
 *   #include "llm.h"
 *   #include <stdio.h>
 *
 *   static const char text[] = "the cat sat on the mat. the dog sat on the log. ";
 *   static int print(int32_t token, void *user) { (void)user; return putchar(token) == EOF; }
 *
 *   int main(void) {
 *       llm_config config = {0};
 *       llm_train_desc train = {0};
 *       llm_generate_desc generate = {0};
 *       llm_error err = {{0}, LLM_OK};
 *       int32_t tokens[64], targets[64];
 *       config.arch = LLM_ARCH_GPT2;
 *       config.vocab_size = 256; config.max_seq_len = 64;             // bytes are the tokens here
 *       config.d_model = 64; config.n_layers = 2; config.n_heads = 4;
 *       train.batch_size = 1; train.seq_len = 64;
 *       train.learning_rate = 3e-3f; train.max_steps = 300;
 *       for (int i = 0; i < 64; i++) {
 *           tokens[i] = text[i % 48];
 *           targets[i] = text[(i + 1) % 48];
 *       }
 *       llm_model *model = llm_model_create(&config, NULL, &err);
 *       llm_trainer *trainer = model ? llm_trainer_create(model, &train, &err) : NULL;
 *       for (int step = 0; trainer && step < 300; step++)
 *           if (llm_trainer_step(trainer, tokens, targets, NULL, &err) != LLM_OK) break;
 *       llm_session *session = err.code == LLM_OK ? llm_session_create(model, NULL, &err) : NULL;
 *       putchar(tokens[0]);                                           // a prompt of one token
 *       generate.max_new_tokens = 47;
 *       generate.on_token = print;
 *       if (session) llm_generate(session, tokens, 1, &generate, NULL, 0, NULL, &err);
 *       puts(err.message);
 *       llm_session_free(session);
 *       llm_trainer_free(trainer);
 *       llm_model_free(model);
 *       return err.code != LLM_OK;
 *   }
 *   // prints: the cat sat on the mat. the dog sat on the log.
 *
 * CONTENTS: search for a tag to get there
 *   >>api         the public declarations: results, configuration, context, model, training,
 *                 inference, text, ops
 *   Implementation, each section on those above it:
 *   >>platform >>error >>memory >>types >>random
 *   >>json >>fields       what a member of a configuration is: range, default, key of config.json
 *   >>cpu >>pool >>context >>parallel
 *   >>gemm        every matrix product
 *   >>linear >>embedding >>layernorm >>rmsnorm >>gelu >>softmax >>dropout >>swiglu >>rope
 *   >>attention   in tiles, without a T x T matrix
 *   >>loss        cross entropy, fused with the head
 *   >>config      presets, both configurations, and the table of a model's tensors
 *   >>model       parameters
 *   >>run         rows of tokens on their way through a model
 *   >>gpt2 >>mla >>moe >>deepseek   the blocks, forward and backward
 *   >>arch        one row per architecture: all that differs
 *   >>trunk       both models' forward and backward, and >>mtp, the modules after it
 *   >>parts       blocks and modules as ops; >>score, whole batches without a cache
 *   >>adamw >>schedule >>trainer
 *   >>session >>sample >>generate
 *   >>file >>data >>gguf >>bpe >>safetensors >>load >>save >>resume
 *   >>passes >>kernels   one text, included once per instruction set
 *
 * GLOSSARY
 *   B sequences of T positions, rows = B T    V vocabulary    C d_model, the stream's width
 *   L layers (blocks)    H heads    D head dim    F d_ffn          dx is the gradient of x
 *   E experts, K of them active for a token    MTP modules: as many as mtp_depth says
 *   loss: nats per valid target, a target being valid unless it is LLM_IGNORE_INDEX
 *
 * LOSSES AND HEADS
 *   Head         logits (B,T,V) = h (B,T,C) W^T; h is the stream after the final norm, W (V,C) the
 *                embedding itself where tie_embeddings is set
 *   LM loss      lse - x_target for each valid target, lse = log sum exp(x) over the row of logits;
 *                a batch's is the mean. In training head and loss run chunk by chunk: (B,T,V) never
 *                exists. perplexity = exp(loss without smoothing); accuracy: the share of targets
 *                that are the largest logit
 *   Smoothing    s = label_smoothing: (1-s) (lse - x_target) + s (lse - mean(x))
 *   Ignored      a target of LLM_IGNORE_INDEX has no loss and no gradient; an update divides by the
 *                valid targets of all its micro-batches, so that accumulation equals a large batch
 *   MTP          module k = 1 .. D has hidden states (B,T-k,C), the same head, targets k further:
 *                loss_k is the mean over its valid ones; loss = main + lambda/D (loss_1 + .. +
 *                loss_D), lambda = mtp_lambda. Gradients reach embedding, head and trunk. To
 *                generate, the modules draft and the trunk verifies (Leviathan et al.,
 *                arXiv:2211.17192): what comes out is the same
 *   Balance      alpha times the sum over MoE layers of the mean over sequences of sum_i f_i P_i;
 *                f_i = E/(K T) times the tokens whose K largest scores hold expert i, P_i the
 *                mean of s_i / sum_j s_j. It is in the gradient, not in the loss that is reported
 *   Bias         after an update, each router's bias += gamma sign(mean load - load): no gradient
 *   Ops          llm_linear, llm_cross_entropy, llm_mtp_loss; examples/loss_head.c uses them
 *
 * PRECISION
 *   Weights, gradients, moments and sums are f32 in every training; llm_train_desc.precision says
 *   what the factors of products are rounded to, to the nearest, ties to even:
 *   FP32     nothing is rounded
 *   BF16     weights, activations and their gradients are bf16 in every product. Norms,
 *            softmax, losses, the router and the stream between blocks stay f32. What blocks
 *            save for the backward is kept in bf16
 *   FP8      as that, and the linear layers' products, forward and both backward ones, are of
 *            E4M3 (DeepSeek-V3 report sec. 3.3): a scale, the power of two next above
 *            largest/448, for each tile of 1 x 128 activations or gradients along the summed
 *            index, or 128 x 128 weights; f32 sums. Embedding,
 *            head, attention between q, k, v, and router are as in BF16
 *   Where the CPU multiplies bf16 (AVX512_BF16, AMX) products do so; elsewhere values are rounded
 *   where they are packed, and multiplied in f32.
 *
 * WEIGHTS
 *   A matrix's values are of one of llm_dtype's types, F32 to Q6_K: as the file has them, or as
 *   llm_model_desc.dtype says. Norms, biases, positions, routers and their biases are f32. If rows
 *   do not fit a type's blocks, the matrix gets another type, as from llama.cpp's quantiser: Q5_0
 *   for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K, and F16 if 32 does not divide them either.
 *   Products of up to 16 rows (tokens, sequences) read blocks as they are: the activations become
 *   whole numbers of 8 bits, with a scale for 32 of them or, for K types, 256; sums are exact up to
 *   their scales. Products of more rows round blocks and activations to bf16, where the CPU
 *   multiplies bf16, and otherwise read them in f32. So do those with bf16, of GGUF files or where
 *   it was asked for, as llama.cpp does; bf16 of other files, f16 and F8 are multiplied in f32.
 *   A trainer makes f32 masters of what a model holds. Blocks are not trained: load them as F32.
 *
 * MEMORY
 *   A model owns parameters; a trainer gradients, two moments, saved activations and scratch; a
 *   session caches and scratch: each a few large blocks, planned before any is taken. Nothing is
 *   allocated in a step or per token. llm_train_memory says beforehand what a training takes. Where
 *   an object is created from a model, the model must outlive it. Freeing NULL is fine.
 *   Weights that stay as a file has them are mapped (POSIX): they take no memory of the process,
 *   only the system's cache, until a trainer moves them or somebody writes to them. If another
 *   program shortens a mapped file, the system ends this one with SIGBUS. Saves replace files: no
 *   harm.
 *
 * THREADS
 *   No mutable global state. A const model may be used by any number of threads; a trainer, a
 *   session and a context by one thread at a time. Each context has threads of its own, one for
 *   every core unless told otherwise: they start with its first work, take no signals, and sleep
 *   when there is nothing to do. A program that is compiled with OpenMP (-fopenmp) uses OpenMP's
 *   instead, which is much slower for small models where other programs use the same cores, as
 *   GNU's threads spin while they wait (GOMP_SPINCOUNT=10000 in the environment helps). A child
 *   that is forked has none of its parent's threads: it needs contexts, sessions and trainers of
 *   its own, and may only free those of its parent. On Linux with AMX, each context that is created
 *   asks the kernel for the process's tile registers.
 *
 * DETERMINISM
 *   The same call on the same machine gives the same bits, from run to run and for any number of
 *   threads. Instruction sets differ in rounding.
 *
 * MANY MACHINES
 *   Data parallel: R processes (ranks) with equal weights, each with batches of its own, sum the
 *   buffer of llm_trainer_gradients, tail included, after backward; then each makes the same
 *   update: that of the ranks' batches together. Unequal machines need a cap, llm_model_desc.isa.
 *   examples/train_mpi.c does it over MPI.
 *   Sharded      (ZeRO-1, arXiv:1910.02054) rank r's desc has shard_first, shard_count: r's slice.
 *                Each gets the summed gradient of its slice only (reduce-scatter), and the summed
 *                tail; the slices' llm_trainer_gradient_square_sum add up to norm = sqrt(sum)
 *                llm_trainer_gradient_scale; llm_trainer_update_range, then all-gather of
 *                llm_trainer_weights. Moments take 8 P / R bytes of a rank instead of 8 P, P
 *                parameters; weights and gradients stay 4 P each, as do activations
 *   Time         A ring all-reduce sends, and at the same time receives, 2 (R-1)/R x 4 P bytes per
 *                rank; reduce-scatter and all-gather together as much. At W bytes/s each way
 *                    t = t_c + t_m,   t_m = 8 P (R-1) / (R W),   efficiency e = t_c / (t_c + t_m)
 *                t_c: forward, backward and update of a rank's batch; t_m follows them, without
 *                overlap. R ranks do e R times the tokens per second of one. By this formula, not
 *                measured: GPT-2 124M (P = 124,439,808), t_c = 4.4 s:
 *                                  R = 2            8               32
 *                     1 Gbit/s     3.98 s  52 %     6.97 s  39 %     7.72 s  36 %
 *                    10 Gbit/s     0.40 s  92 %     0.70 s  86 %     0.77 s  85 %
 *                   100 Gbit/s     0.04 s  99 %     0.07 s  98 %     0.08 s  98 %
 *                Left out: latency, 2 (R-1) messages; the slowest rank, for whom all wait; summing,
 *                and copies within MPI
 *   Batches      t_m does not depend on the batch: with k times the work between two updates
 *                e = k t_c / (k t_c + t_m); k = 8 at 1 Gbit/s: 90, 83, 82 %. But an update then
 *                takes k R times one rank's batch, and there are fewer of them for the same tokens:
 *                beyond a size that grows during training, more sequences hardly improve an update
 *                (McCandlish et al., arXiv:1812.06162). If instead the whole batch is fixed, ranks
 *                share one's t_c while t_m stays, and R = t_c / t_m spend half their time waiting
 *   Equal ranks  Machines of different instruction sets round differently, and unsharded weights
 *                drift apart; sharded ones are gathered from their one owner. Router biases follow
 *                from the tail, in every rank alike. desc.seed, of dropout, should differ
 *
 * ERRORS
 *   Whatever can fail returns llm_result (or NULL) and fills the caller's llm_error: a code and one
 *   line that names file, tensor, value and bound. A failed call leaves its objects as they were, a
 *   failed save the old file. The library never exits, prints or asserts on input. Files are not
 *   trusted. A file X is written as X.tmp, X.tmp1 .. or X.tmp15 first, the first that no other
 *   writer holds: use no such names, as the next save of X removes what a dead process left there.
 *
 * MACROS, each defined before the implementation is included
 *   LLM_API         how functions are declared: extern
 *   LLM_STATIC      all functions static: for a private copy in one file
 *   LLM_MALLOC(n), LLM_FREE(p)   instead of malloc and free: both or neither
 *   LLM_ASSERT(c)   checks of the library's own promises, never of input: nothing
 *   LLM_NO_STDIO    nothing that opens files is there; models and tokenizers load from memory
 *   LLM_NO_SIMD     plain C kernels only
 *   LLM_NO_THREADS  everything in the calling thread, unless compiled with OpenMP
 *   LLM_SHARD_BYTES 5e9: the most data of one .safetensors file that a save writes (a larger tensor
 *                   has a file of its own)
 *   LLM_SELF        "llm.h": how this file includes itself, if you rename it
 *
 * REFERENCES
 *   GPT-2         Radford et al. 2019, Language Models are Unsupervised Multitask Learners
 *   GPT-3         Brown et al., arXiv:2005.14165
 *   Attention     Vaswani et al., arXiv:1706.03762; in tiles: Dao et al., 2205.14135, 2307.08691
 *   LayerNorm     Ba et al., arXiv:1607.06450        GELU   Hendrycks & Gimpel, arXiv:1606.08415
 *   DeepSeek-V3   technical report, arXiv:2412.19437; MLA also 2405.04434, DeepSeekMoE 2401.06066
 *   RMSNorm       Zhang & Sennrich, arXiv:1910.07467  SwiGLU  Shazeer, arXiv:2002.05202
 *   RoPE          Su et al., arXiv:2104.09864        YaRN   Peng et al., arXiv:2309.00071
 *   AdamW         Loshchilov & Hutter, arXiv:1711.05101
 *   BPE           Sennrich et al., arXiv:1508.07909  gemm   Goto & van de Geijn, TOMS 34(3), 2008
 *   bf16 training Micikevicius et al., 1710.03740; Kalamkar et al., 1905.12322    E4M3  2209.05433
 *
 * Licence: MIT or public domain, at your choice; see the end of the file.
 */
#ifndef LLMI_PASS       /* the kernels, at the end, are included again with LLMI_PASS defined */

#if defined(LLM_IMPLEMENTATION) && defined(__STRICT_ANSI__) && !defined(_DEFAULT_SOURCE) && \
    !defined(_POSIX_C_SOURCE) && !defined(_XOPEN_SOURCE) && !defined(_GNU_SOURCE)
  #define _DEFAULT_SOURCE 1            /* so that -std=c99 shows fsync, mmap and clock_gettime */
#endif

/* ============================================================================================
 * >>api          the public declarations
 *
 * Shapes: B sequences, T positions, V vocabulary, C d_model, L layers, H heads; row-major.
 * Every desc is zero-initialised by the caller (in C = {0}, in C++ = {}, or memset; NULL for all
 * zero); a zero selects the default written beside a field, and LLM_OFF says "really zero" where
 * zero means a default.
 * Every llm_error pointer may be NULL; it is written on failure only, and is the last argument.
 * Order of arguments: the object first. Ops: context, outputs, saved values, inputs, weights, dims.
 * Others: inputs, outputs. Types of counts: int for what a configuration bounds (B, T, rows,
 * widths, steps of a schedule); size_t for elements, bytes and tensors; int64_t for updates and
 * tokens seen. Updates are counted from 0 everywhere.
 * ========================================================================================== */
#ifndef LLM_H
#define LLM_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifndef LLM_API
  #ifdef LLM_STATIC
    #if defined(__GNUC__) && !defined(__TINYC__)
      #define LLM_API __attribute__((unused)) static
    #else
      #define LLM_API static
    #endif
  #else
    #define LLM_API extern
  #endif
#endif

/* ---- results --------------------------------------------------------------------------------- */
#define LLM_VERSION 200               /* 10000 major + 100 minor + patch                       */
LLM_API int llm_version(void);        /* LLM_VERSION of the implementation that is linked      */
typedef enum llm_result {
    LLM_OK = 0,
    LLM_ERR_ARGUMENT,    /* a caller's value is out of range: the message names it and the bound */
    LLM_ERR_MEMORY,      /* an allocation failed; everything is as before the call            */
    LLM_ERR_IO,          /* open, read, write or rename failed: message has path and reason   */
    LLM_ERR_FORMAT,      /* a file is malformed: message has path, tensor or byte offset      */
    LLM_ERR_UNSUPPORTED, /* well-formed, but asks for something llm.h does not do             */
    LLM_ERR_NUMERIC,     /* loss or gradient is not finite: the pending accumulation is       */
                         /* dropped; weights, moments and step are unchanged; training can go on */
    LLM_ERR_CANCELLED    /* a callback asked to stop                                          */
} llm_result;

typedef struct llm_error {
    char message[252];   /* one line, always terminated */
    llm_result code;
} llm_error;

/* Where memory comes from. Must be thread-safe if objects that share it are used in several
 * threads. NULL where one is asked for means LLM_MALLOC and LLM_FREE. The struct is copied. */
typedef struct llm_allocator {
    void *(*allocate)(size_t size, void *user);          /* any alignment; NULL = out of memory */
    void (*release)(void *memory, size_t size, void *user);
    void *user;
} llm_allocator;

#define LLM_OFF (-1.0f)
#define LLM_IGNORE_INDEX (-100)        /* a target that counts for nothing, as in PyTorch      */

/* ---- configuration --------------------------------------------------------------------------- */
typedef enum llm_arch { LLM_ARCH_NONE = 0, LLM_ARCH_GPT2, LLM_ARCH_DEEPSEEK_V3 } llm_arch;
/* Types of values. F8_E4M3: weights of a file, with a scale per 128 x 128 of them. The Q ones are
 * GGUF's, blocks of 32 values (K: 256) along a row, each with a scale and, in the _1 and K ones but
 * Q6_K, a least value. Bits per value: Q8_0 8.5, Q6_K 6.56, Q5_1 6, Q5_0 Q5_K 5.5, Q4_1 5, Q4_0
 * Q4_K 4.5. */
typedef enum llm_dtype {
    LLM_DTYPE_DEFAULT = 0,
    LLM_F32, LLM_F16, LLM_BF16, LLM_F8_E4M3,
    LLM_Q8_0, LLM_Q4_0, LLM_Q4_1, LLM_Q5_0, LLM_Q5_1, LLM_Q4_K, LLM_Q5_K, LLM_Q6_K,
    LLM_I32
} llm_dtype;
/* "F32", "Q4_K", ..; NULL: none of llm_dtype. Thread-safe, as all of this paragraph. */
LLM_API const char *llm_dtype_name(llm_dtype dtype);
/* bytes that n values take; 0: no such type, or n is no multiple of its block */
LLM_API size_t llm_dtype_size(llm_dtype dtype, size_t n);
/* n values to f32 and, rounded to the nearest that the type has, back: blocks are chosen for the
 * least squared error. F8_E4M3 without a scale.
 * -> LLM_ERR_ARGUMENT: NULL, another type than F32 to Q6_K, or n is no multiple of its block */
LLM_API llm_result llm_dtype_decode(float *values, const void *from, llm_dtype dtype, size_t n,
                                    llm_error *err);
LLM_API llm_result llm_dtype_encode(void *to, llm_dtype dtype, const float *values, size_t n,
                                    llm_error *err);

typedef struct llm_config {
    int vocab_size, max_seq_len, d_model, n_layers, n_heads;     /* all required, 1 or more    */
    llm_arch arch;                    /* required                                             */
    int d_ffn;                        /* GPT-2: 4 d_model; DeepSeek: required                 */
    float norm_eps;                   /* 1e-5 GPT-2, 1e-6 DeepSeek                            */
    float embd_pdrop, attn_pdrop, resid_pdrop; /* dropout in [0,1), of trainings that do not say */
    int tie_embeddings;               /* head = token embedding; presets set it, zeroed: untied */
    /* MLA, DeepSeek-V3 (names as in its config.json) */
    int q_lora_rank;                  /* 0 = full-rank query projection                       */
    int kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim;  /* required; the last is even      */
    int v_head_dim;                   /* qk_nope_head_dim                                     */
    int attention_bias;               /* 1 = biases in Wqa, Wkva and Wo                       */
    int rope_half_split;              /* 0 = interleaved pairs (DeepSeek), 1 = rotate-half    */
    float rope_theta;                 /* 10000                                                */
    float yarn_factor;                /* 0 = plain RoPE                                       */
    int yarn_original_max_seq_len;    /* required with YaRN                                   */
    float yarn_beta_fast, yarn_beta_slow;        /* 32, 1                                     */
    float yarn_mscale, yarn_mscale_all_dim;      /* 0 and above; as in transformers           */
    /* MoE */
    int n_routed_experts;             /* 0 = every layer is dense; the other fields of MoE    */
                                      /* are then ignored                                     */
    int n_shared_experts;             /* 0 = none; n of them are one FFN of width n moe_d_ffn */
    int num_experts_per_tok;          /* required: 1 to the experts of topk_group groups      */
    int n_group, topk_group;          /* 1, n_group; n_group divides n_routed_experts         */
    int moe_d_ffn;                    /* of an expert: required                               */
    int first_k_dense;                /* 0 to n_layers: the first layers, this many, have a   */
                                      /* dense FFN of width d_ffn                             */
    float routed_scaling_factor;      /* 1                                                    */
    int norm_topk_prob;               /* 1 = the chosen experts' weights are made to sum to 1 */
    /* MTP */
    int mtp_depth;                    /* modules: 0 to 4, below max_seq_len                   */
} llm_config;

/* Fills *config with a named configuration, dropout 0 (vocabulary, context):
 *   gpt2 gpt2-medium gpt2-large gpt2-xl  (50257, 1024)    gpt2-tiny  (50257, 256)
 *   gpt2-10m  (2048, 256)   gpt2-30m  (8192, 512): of about 10, 30 million parameters
 *   gpt3-small gpt3-medium gpt3-large gpt3-xl gpt3-2.7b gpt3-6.7b gpt3-13b gpt3-175b
 *     (50257, 2048): arXiv:2005.14165 table 2.1, with dense attention in every layer
 *   deepseek-small deepseek-base deepseek-large deepseek-xl  (50000, 4096): dense, about 30, 70,
 *     180, 700 million parameters    deepseek-moe-150m  (50000, 4096)
 *   deepseek-tiny  (2048, 256): experts and an MTP module
 *   deepseek-10b  (128256, 163840): the shape of GigaChat3-10B-A1.8B, 64 experts, an MTP module
 *   deepseek-v3  (129280, 163840): to be counted rather than allocated
 * -> LLM_ERR_ARGUMENT for an unknown name; the message suggests the nearest. Thread-safe. */
LLM_API llm_result llm_config_preset(llm_config *config, const char *name, llm_error *err);
/* the name of preset i = 0, 1, ...; NULL past the last or for a negative i */
LLM_API const char *llm_config_preset_name(int i);
/* -> LLM_OK, or LLM_ERR_ARGUMENT naming the first impossible field, its value and its bound. Every
 * function that takes a model's configuration calls it. Thread-safe, as all of this paragraph. */
LLM_API llm_result llm_config_validate(const llm_config *config, llm_error *err);
/* Number of parameters: with router biases, without MTP modules; the MTP modules' own; those that
 * one token passes through, embedding and head counted, router biases not. 0 for an invalid
 * configuration. Nothing is allocated. */
LLM_API uint64_t llm_config_param_count(const llm_config *config);
LLM_API uint64_t llm_config_mtp_param_count(const llm_config *config);
LLM_API uint64_t llm_config_active_param_count(const llm_config *config);
/* bytes of the key-value cache of one sequence of max_seq_len positions (0 = the model's), all
 * layers, without MTP. Values per position: GPT-2 2 L C, DeepSeek L (kv_lora_rank +
 * qk_rope_head_dim). 0 for an invalid configuration or type */
LLM_API size_t llm_config_cache_bytes(const llm_config *config, int max_seq_len,
                                      llm_dtype cache_dtype);

/* ---- context --------------------------------------------------------------------------------- */
/* The kernels of this CPU, a number of threads, and scratch memory. Ops take one; a trainer and a
 * session own one each. One thread at a time may use a context. */
typedef struct llm_context llm_context;
/* n_threads: 1 to 1024; 0 = the number of cores that this process may use (with OpenMP,
 * omp_get_max_threads; where there are no threads, 1). NULL on failure. Results do not depend on
 * n_threads, to the bit. */
LLM_API llm_context *llm_context_create(int n_threads, const llm_allocator *allocator,
                                        llm_error *err);
LLM_API void llm_context_free(llm_context *context);             /* NULL is fine */
/* Instruction sets, in order of speed. The fastest that CPU, system and compiler have is taken. A
 * cap lets unequal machines run the same kernels: the least of their llm_context_isa(NULL). */
typedef enum llm_isa {
    LLM_ISA_BEST = 0,                 /* no cap                                               */
    LLM_ISA_SCALAR,                   /* plain C                                              */
    LLM_ISA_BASE,                     /* SSE2 or NEON                                         */
    LLM_ISA_AVX2, LLM_ISA_AVX512, LLM_ISA_AVX512_BF16, LLM_ISA_AMX
} llm_isa;
LLM_API llm_isa llm_context_isa(const llm_context *context);     /* of NULL: what this CPU has */
/* most: no more than that is used from now on. -> LLM_ERR_ARGUMENT: NULL, or none of llm_isa */
LLM_API llm_result llm_context_set_isa(llm_context *context, llm_isa most, llm_error *err);
LLM_API const char *llm_isa_name(llm_isa isa);   /* "scalar", "sse2", ..; NULL: not compiled in */

/* ---- model ----------------------------------------------------------------------------------- */
/* Parameters. Any number of threads may use one model while nobody trains it. It must outlive
 * its trainer and sessions. */
typedef struct llm_model llm_model;
/* Names, dims and layout are those of the Hugging Face file: "transformer.h.0.attn.c_attn.weight"
 * is [in,out], but [out,in] in another type than F32 and in what was loaded from a GGUF file;
 * every expert is a tensor of its own. */
typedef struct llm_tensor {
    const char *name;
    llm_dtype dtype;
    int n_dims;
    int64_t dims[4];
    void *data;                       /* row-major; valid while the object lives              */
    const float *scales;              /* F8_E4M3: (dims[0] / 128, dims[1] / 128), rounded up; */
                                      /* value (i,j) is multiplied by that of its 128 x 128   */
} llm_tensor;

typedef struct llm_model_desc {
    uint64_t seed;                    /* of the initialisation                                */
    llm_dtype dtype;                  /* of matrix weights in memory, F32 to Q6_K; DEFAULT:   */
                                      /* as the file has them, or F32. See WEIGHTS            */
    const llm_allocator *allocator;   /* used by the model, its trainers and sessions         */
    int n_threads;                    /* 0 = all cores; the default of trainers and sessions  */
    llm_isa isa;                      /* cap for the model, its trainers and sessions; BEST   */
} llm_model_desc;

/* A model with fresh weights: GPT-2: matrices N(0, 0.02), residual projections N(0, 0.02/sqrt(2L)),
 * biases 0, norm weights 1; DeepSeek-V3: all matrices N(0, 0.02), norm weights 1, router biases 0.
 * The same seed gives the same weights everywhere.
 * -> NULL: invalid configuration, or LLM_ERR_MEMORY with nothing left behind */
LLM_API llm_model *llm_model_create(const llm_config *config, const llm_model_desc *desc,
                                    llm_error *err);
#ifndef LLM_NO_STDIO
/* path: a directory in Hugging Face layout (config.json, model.safetensors or its sharded index),
 * one .safetensors file whose metadata holds the configuration, or a .gguf file of llama.cpp's
 * architectures gpt2 or deepseek2 (of several parts x-00001-of-00003.gguf: any of them). Matrices
 * stay f32, f16, bf16, fp8 (E4M3 with weight_scale_inv per 128 x 128 block) or blocks, unless
 * desc->dtype says otherwise. What stays as it is gets mapped, not read, where POSIX is: pages come
 * from the file when they are used first. (GPT-2's f16 and bf16 matrices of safetensors are turned,
 * and an attention of GGUF in two halves is put together, as F16 if it was in blocks: both in
 * memory.) Meanwhile the file may be replaced or deleted, as a save does; a program that shortens
 * it or writes into it harms the model (see MEMORY above).
 * Scales, routers and their biases must be finite numbers; other weights are taken as they are.
 * MTP modules that config.json says are 0 are left out.
 * -> NULL: LLM_ERR_IO; LLM_ERR_FORMAT naming file and tensor or byte; LLM_ERR_UNSUPPORTED for what
 * would compute something else; LLM_ERR_MEMORY. Thread-safe. */
LLM_API llm_model *llm_model_load(const char *path, const llm_model_desc *desc, llm_error *err);
#endif
/* the same of the two files' contents, or of a GGUF file's in place of safetensors (config_json is
 * not read then, and may be NULL), which are copied from and may be freed afterwards */
LLM_API llm_model *llm_model_load_memory(const char *config_json, size_t config_size,
                                         const void *safetensors, size_t size,
                                         const llm_model_desc *desc, llm_error *err);
#ifndef LLM_NO_STDIO
/* Writes a directory that transformers' from_pretrained loads, in F32 (or DEFAULT) or BF16; above
 * LLM_SHARD_BYTES of data, in shards with an index. Files of an older save are replaced, or removed
 * where this one has none of their name; others stay. Whenever the process dies, llm_model_load
 * finds all of the old model or all of the new one, and the next save leaves nothing else behind
 * (other programs may see a mixture until then). Modes of files are kept; a link is replaced, and
 * what it points to stays. -> LLM_ERR_IO: nothing is replaced, or, should renaming fail after all
 * was written, the new model loads; LLM_ERR_UNSUPPORTED: another dtype. Thread-safe: those who save
 * to one directory take turns, where its file system has locks (not NFS, nor Windows). */
LLM_API llm_result llm_model_save(const llm_model *model, const char *directory, llm_dtype dtype,
                                  llm_error *err);
#endif
LLM_API void llm_model_free(llm_model *model);                   /* NULL is fine */
LLM_API const llm_config *llm_model_config(const llm_model *model);   /* defaults resolved */
LLM_API llm_isa llm_model_isa(const llm_model *model);           /* that runs; of NULL: BEST */
LLM_API size_t llm_model_tensor_count(const llm_model *model);
/* the i-th tensor; all zero past the last. Writing to data is fine while nobody else
 * uses the model, and never changes a file */
LLM_API llm_tensor llm_model_tensor(const llm_model *model, size_t i);
/* The ids that generation_config.json, else config.json, gives: where a text begins, what fills up
 * a batch, and what ends a text (generation stops there). They are kept when the model is saved. A
 * new model has none. Those of a file may be V or more: compare them before they are used. */
typedef struct llm_special_tokens {
    int32_t bos, pad;                 /* -1 = none                                            */
    int n_eos;                        /* 0 to 16                                              */
    int32_t eos[16];
} llm_special_tokens;
LLM_API llm_special_tokens llm_model_special_tokens(const llm_model *model);   /* of NULL: none */
/* Not while another thread uses the model. -> LLM_ERR_ARGUMENT: NULL, bos or pad not in [-1, V), an
 * eos not in [0, V), or n_eos not in [0, 16] */
LLM_API llm_result llm_model_set_special_tokens(llm_model *model, const llm_special_tokens *special,
                                                llm_error *err);
/* logits (B,T,V) f32 of a whole batch, without a cache; tokens (B,T) in [0,V), T <= max_seq_len.
 * Allocates what it needs and frees it; thread-safe. -> LLM_ERR_ARGUMENT naming value and bound,
 * LLM_ERR_MEMORY */
LLM_API llm_result llm_model_logits(const llm_model *model, const int32_t *tokens, int B, int T,
                                    float *logits, llm_error *err);
/* log-probabilities (B,T), natural logarithm, of targets (B,T), without ever holding (B,T,V):
 * scoring, perplexity. A target of LLM_IGNORE_INDEX gets 0. Memory, threads, errors as above. */
LLM_API llm_result llm_model_score(const llm_model *model, const int32_t *tokens,
                                   const int32_t *targets, int B, int T, float *logprobs,
                                   llm_error *err);

/* ---- training -------------------------------------------------------------------------------- */
typedef enum llm_precision {
    LLM_PRECISION_FP32 = 0, LLM_PRECISION_BF16, LLM_PRECISION_FP8
} llm_precision;
/* Learning rate of update i = 0, 1, ... (lr: learning_rate, low: lr min_lr_ratio, W: warmup_steps,
 * M: max_steps, D: decay_steps): lr (i+1)/W while i < W, and low from M on. Between, COSINE being
 * arXiv:1608.03983 eq. 5 without restarts, and WSD (warm-up, stable, decay) arXiv:2404.06395 sec.
 * 4.2:
 *   COSINE    low + (lr - low) (1 + cos(pi (i-W)/(M-W))) / 2
 *   LINEAR    lr + (low - lr) (i-W)/(M-W)
 *   WSD       lr, then over the last D updates (0: a tenth of M, at most M-W) linearly to low
 *   CONSTANT  lr, without an end */
typedef enum llm_schedule {
    LLM_SCHEDULE_COSINE = 0, LLM_SCHEDULE_WSD, LLM_SCHEDULE_LINEAR, LLM_SCHEDULE_CONSTANT
} llm_schedule;

typedef struct llm_train_desc {
    int batch_size, seq_len;          /* B, T: required                                       */
    int grad_accum_steps;             /* 1                                                    */
    float learning_rate;              /* 3e-4                                                 */
    float min_lr_ratio;               /* 0.1; LLM_OFF = 0                                     */
    int warmup_steps, max_steps, decay_steps;  /* 0; max_steps required but for CONSTANT      */
    llm_schedule schedule;
    float beta1, beta2, adam_eps;     /* 0.9, 0.95, 1e-8; above 0                             */
    float weight_decay;               /* 0.1, on tensors of 2 dims and more; LLM_OFF = none   */
    float grad_clip;                  /* 1.0; LLM_OFF = none                                  */
    float label_smoothing;            /* 0; below 1                                           */
    float dropout;                    /* of embeddings, attention and residuals, below 1;     */
                                      /* 0 = the three of the configuration; LLM_OFF = none   */
    float mtp_lambda;                 /* 0.3; LLM_OFF = 0                                     */
    float router_bias_speed;          /* gamma, 0.001; LLM_OFF = none                         */
    float router_aux_alpha;           /* sequence-wise balance loss, 0.0001; LLM_OFF = none   */
    llm_precision precision;          /* FP32; see PRECISION in the manual                    */
    int recompute;                    /* 1 = keep block inputs only, recompute in backward    */
    uint64_t seed;                    /* dropout                                              */
    int prolong;                      /* 1 = load takes a checkpoint of another batch_size,   */
                                      /* grad_accum_steps, learning rate, schedule or         */
                                      /* recompute, too: the moments are kept                 */
    int n_threads;                    /* 0 = the model's                                      */
    size_t shard_first, shard_count;  /* optimizer state of this slice of the flat weights    */
                                      /* only (ZeRO-1), in floats of llm_trainer_weights,     */
                                      /* which pads tensors to 16 floats; 0,0 = all           */
} llm_train_desc;

/* bytes; total is the sum of the others. cache: a session's; a session has neither parameters,
 * which are the model's, nor gradients, nor optimizer state */
typedef struct llm_memory {
    size_t parameters, gradients, optimizer, activations, cache, scratch, total;
} llm_memory;
/* What a training will hold, before anything is allocated. n_threads 0: all cores, where
 * llm_trainer_create takes the model's. -> LLM_ERR_ARGUMENT as llm_trainer_create. Thread-safe. */
LLM_API llm_result llm_train_memory(const llm_config *config, const llm_train_desc *desc,
                                    llm_memory *memory, llm_error *err);
/* Writes into *desc the defaults that its zeros stand for in a training of config, so that it means
 * what it meant (LLM_OFF stays). -> errors as llm_trainer_create; desc is then as before.
 * Thread-safe. */
LLM_API llm_result llm_train_desc_resolve(llm_train_desc *desc, const llm_config *config,
                                          llm_error *err);

typedef struct llm_train_stats {      /* of the call, not of the accumulation                 */
    int64_t step, tokens;             /* optimizer updates; tokens seen since the start       */
    float loss, main_loss, mtp_loss[4]; /* nats per valid target; loss = main + lambda/D sum mtp */
    float balance_loss;               /* alpha-weighted, summed over layers; not in loss      */
    float perplexity, accuracy;       /* of the main head, without smoothing                  */
    float grad_norm, learning_rate;   /* of the last update                                   */
    float expert_load_max, expert_load_min;   /* relative to the mean; 0 where no MoE         */
    int64_t n_targets, mtp_targets[4]; /* valid ones: a mean over batches weighs losses by them */
    int skipped;                      /* 1 = llm_trainer_step dropped one without any of them */
} llm_train_stats;                    /* no valid target in a batch: losses 0                 */

/* A model has at most one trainer. One thread at a time. Creating a trainer copies weights that are
 * mapped from a file into memory; pointers that llm_model_tensor gave before become invalid. */
typedef struct llm_trainer llm_trainer;
/* -> NULL: LLM_ERR_ARGUMENT naming field, value and bound; LLM_ERR_MEMORY, the model as before */
LLM_API llm_trainer *llm_trainer_create(llm_model *model, const llm_train_desc *desc,
                                        llm_error *err);
LLM_API void llm_trainer_free(llm_trainer *trainer);             /* NULL is fine; the model stays */
/* tokens, targets (B,T); targets[b,t] is the token that follows tokens[b,t], or LLM_IGNORE_INDEX.
 * Runs the head's backward, too; each forward is completed by one backward before anything else
 * (LLM_ERR_ARGUMENT otherwise). For a loss alone: evaluate. */
LLM_API llm_result llm_trainer_forward(llm_trainer *trainer, const int32_t *tokens,
                                       const int32_t *targets, llm_train_stats *stats,
                                       llm_error *err);
LLM_API llm_result llm_trainer_backward(llm_trainer *trainer, llm_error *err);   /* accumulates */
/* AdamW (Loshchilov & Hutter, arXiv:1711.05101 algorithm 2) on the mean over all valid targets
 * since the last update, after clipping by global norm (factor c/(norm + 1e-6) when below 1). Of
 * stats it fills step, tokens, grad_norm and learning_rate. A trainer with a shard updates its
 * slice only, by the norm of the whole buffer: right where all of the buffer has been summed over
 * the ranks; else llm_trainer_update_range. -> LLM_ERR_ARGUMENT: nothing is accumulated, or no
 * valid target in it; LLM_ERR_NUMERIC */
LLM_API llm_result llm_trainer_update(llm_trainer *trainer, llm_train_stats *stats, llm_error *err);
/* The three above, updating every grad_accum_steps calls. An accumulation without a valid target is
 * dropped: LLM_OK, with stats->skipped set and the step as before. After LLM_ERR_NUMERIC, too, the
 * weights are as before, and the next call begins a new accumulation. */
LLM_API llm_result llm_trainer_step(llm_trainer *trainer, const int32_t *tokens,
                                    const int32_t *targets, llm_train_stats *stats, llm_error *err);
/* loss without dropout; touches no weight, gradient, load or random state; B and T up to the
 * desc's. The loss of many batches is sum(main_loss n_targets) / sum(n_targets). */
LLM_API llm_result llm_trainer_evaluate(llm_trainer *trainer, const int32_t *tokens,
                                        const int32_t *targets, int B, int T,
                                        llm_train_stats *stats, llm_error *err);
/* One contiguous f32 buffer: the sum over micro-batches m of n_m g_m (g_m the gradient of m's whole
 * loss, n_m its valid main targets), then a short tail: router loads and the sum of n_m. A SUM
 * all-reduce of it makes several processes equal one with the batches together (exactly for the
 * main loss; for MTP and balance where valid counts are equal). Update divides by their
 * sum. */
LLM_API float *llm_trainer_gradients(llm_trainer *trainer, size_t *count);
LLM_API double llm_trainer_gradient_scale(const llm_trainer *trainer); /* 1 / sum n; 0 where none */
/* same order as the model's tensors, not scaled; data NULL where there is none (router bias) */
LLM_API llm_tensor llm_trainer_gradient(const llm_trainer *trainer, size_t i);
/* for sharded optimizers: the flat weights, in the gradients' order; the sum of squares of a slice
 * of the unscaled gradient; an update of a slice of [shard_first, shard_first + shard_count), with
 * the norm of the whole scaled gradient. Slices come in any number, one after the other from low to
 * high, all with the same norm: the one that ends the shard completes the update, router biases and
 * step included; until then nothing but the next slice or a load is allowed. -> LLM_ERR_ARGUMENT:
 * as llm_trainer_update, another slice than the next, a norm below 0 or not the first slice's;
 * LLM_ERR_NUMERIC */
LLM_API float *llm_trainer_weights(llm_trainer *trainer, size_t *count);
LLM_API double llm_trainer_gradient_square_sum(llm_trainer *trainer, size_t first, size_t count);
LLM_API llm_result llm_trainer_update_range(llm_trainer *trainer, size_t first, size_t count,
                                            double grad_norm, llm_train_stats *stats,
                                            llm_error *err);
#ifndef LLM_NO_STDIO
/* Everything that the next step depends on, weights too: a run that is saved and loaded goes on to
 * the bit as one that was not, with any number of threads. save is atomic; not between a forward
 * and its backward. load wants a trainer of the same configuration (but see prolong):
 * LLM_ERR_FORMAT names the first field that differs, or what is damaged, and the trainer is as
 * before (but for a disk that fails, LLM_ERR_IO, after all has been read and checked once: then
 * load again). user data: bytes of the caller's (the data position), copied, kept in the file; the
 * pointer that llm_trainer_user_data gives holds until the next set or load. */
LLM_API llm_result llm_trainer_save(const llm_trainer *trainer, const char *path, llm_error *err);
LLM_API llm_result llm_trainer_load(llm_trainer *trainer, const char *path, llm_error *err);
#endif
LLM_API llm_result llm_trainer_set_user_data(llm_trainer *trainer, const void *data, size_t size,
                                             llm_error *err);
LLM_API const void *llm_trainer_user_data(const llm_trainer *trainer, size_t *size);

#ifndef LLM_NO_STDIO
/* ---- training data: token files, mapped ------------------------------------------------------ */
/* Batches from token files, which llm_data_writer or tools/tokenize.c write. A file of n tokens has
 * floor((n-1)/T) windows: window i reads tokens iT .. iT+T-1 and is to predict iT+1 .. iT+T. No
 * window crosses files, and no token is a target twice; up to T-1 last tokens of a file are not
 * used. A context-only token is a normal input, but its target is LLM_IGNORE_INDEX: the prompts of
 * instruction data.
 * Documents: end each with the vocabulary's end-of-text token, as GPT-2 does; attention reaches
 * back over it. To keep documents apart, give each a file, or begin each at a multiple of T, filled
 * up with context-only tokens, its first token context only, too (tools/tokenize.c --align T).
 * Files are mapped where the system can, else read into memory. A mapped file must not be truncated
 * by anybody while it is open: the process would get SIGBUS. (The writer never does.) */
typedef struct llm_data llm_data;
typedef struct llm_data_desc {
    int batch_size, seq_len;          /* B, T: required                                       */
    int sequential;                   /* 0 = shuffled windows, none twice in an epoch         */
    uint64_t seed;                    /* of the shuffle                                       */
    int rank, n_ranks;                /* 0, 1: this process's part of every batch             */
    float valid_fraction;             /* 0; [0,1): the last windows of each file, by share,   */
                                      /* are kept for validation                              */
    int valid;                        /* 1 = those windows, 0 = the others                    */
    int skip_empty;                   /* 1 = windows without a target are left out: open      */
                                      /* looks for one in each                                */
    const llm_allocator *allocator;   /* NULL = LLM_MALLOC                                    */
} llm_data_desc;
/* paths: n_paths >= 1 files of one vocabulary. The split by valid_fraction is exact to half a
 * window over all files together, so that many short files contribute, too. -> NULL: LLM_ERR_IO;
 * LLM_ERR_FORMAT for a foreign or truncated file, LLM_ERR_UNSUPPORTED for another version;
 * LLM_ERR_ARGUMENT for a field out of its range, vocabularies that differ, or not one window. */
LLM_API llm_data *llm_data_open(const char *const *paths, int n_paths, const llm_data_desc *desc,
                                llm_error *err);
/* Fills tokens and targets, (B,T) each, for step = 0, 1, ... Row b is entry g = (step n_ranks +
 * rank) B + b of the epochs, one after the other, each with all windows once: so the ranks'
 * batches together are that of one process with n_ranks B rows. What comes depends only on the
 * files, the desc and step: to resume, keep the step. Thread-safe, allocates nothing.
 * -> LLM_ERR_ARGUMENT; LLM_ERR_FORMAT for a token not below vocab_size, by file and position; the
 * contents of tokens and targets are then undefined */
LLM_API llm_result llm_data_batch(const llm_data *data, int64_t step, int32_t *tokens,
                                  int32_t *targets, llm_error *err);
/* tokens in all files; windows of an epoch, over all ranks; those that skip_empty left out; of
 * NULL: 0 */
LLM_API int64_t llm_data_token_count(const llm_data *data);
LLM_API int64_t llm_data_window_count(const llm_data *data);
LLM_API int64_t llm_data_empty_count(const llm_data *data);
LLM_API int llm_data_vocab_size(const llm_data *data);
/* a hash of the files, as their headers state it; changes with the contents of any and with their
 * order. Keep it beside the step, so that a resumed run notices other data */
LLM_API uint64_t llm_data_fingerprint(const llm_data *data);
/* reads everything: LLM_ERR_FORMAT names the first file whose tokens are not those that were
 * written */
LLM_API llm_result llm_data_verify(const llm_data *data, llm_error *err);
LLM_API void llm_data_close(llm_data *data);                     /* NULL is fine */

/* Writes a token file of any length through a fixed buffer. Two bytes per token where vocab_size is
 * at most 32768, else four. One thread at a time. */
typedef struct llm_data_writer llm_data_writer;
LLM_API llm_data_writer *llm_data_writer_open(const char *path, int vocab_size,
                                              const llm_allocator *allocator, llm_error *err);
/* Appends n tokens in [0,vocab_size); context_only (n): non-zero = never a target; NULL = none.
 * -> LLM_ERR_ARGUMENT, nothing added; LLM_ERR_IO, the file is given up */
LLM_API llm_result llm_data_writer_add(llm_data_writer *writer, const int32_t *tokens,
                                       const unsigned char *context_only, size_t n,
                                       llm_error *err);
/* The file appears under its name, durable and whole; before, and on failure, an older file of that
 * name is as it was. Nothing can be added after it. */
LLM_API llm_result llm_data_writer_finish(llm_data_writer *writer, llm_error *err);
LLM_API void llm_data_writer_free(llm_data_writer *writer); /* NULL is fine; unfinished: given up */
#endif /* LLM_NO_STDIO */

/* ---- inference ------------------------------------------------------------------------------- */
/* Key-value caches and scratch; one thread at a time. Keeps nothing derived from weights: after
 * training steps, rewind to 0 and go on. A call of at most 16 rows takes the decode path, where
 * each row's order of summation does not depend on how many rows there are: so batches equal single
 * sequences to the bit. */
typedef struct llm_session llm_session;
typedef struct llm_session_desc {
    int max_seq_len;                  /* the model's; not above it                            */
    int n_sequences;                  /* 1                                                    */
    llm_dtype cache_dtype;            /* F32; F16, BF16; Q8_0, if 32 divides GPT-2's head dim */
                                      /* or kv_lora_rank and qk_rope_head_dim                 */
    int speculate;                    /* 1 = keep caches for the MTP modules                  */
    int n_threads;                    /* 0 = the model's                                      */
} llm_session_desc;
/* What a session will hold, in bytes, before anything is allocated. The max_seq_len of a file's
 * configuration may need more memory than there is: ask first. n_threads 0: all cores. desc NULL:
 * all zero. -> errors as llm_session_create, or of llm_config_validate. Thread-safe. */
LLM_API llm_result llm_session_memory(const llm_config *config, const llm_session_desc *desc,
                                      llm_memory *memory, llm_error *err);
/* the same as llm_train_desc_resolve; errors as llm_session_create */
LLM_API llm_result llm_session_desc_resolve(llm_session_desc *desc, const llm_config *config,
                                            llm_error *err);
/* -> NULL: LLM_ERR_ARGUMENT; LLM_ERR_UNSUPPORTED: another cache_dtype, or speculate without
 * modules; LLM_ERR_MEMORY */
LLM_API llm_session *llm_session_create(const llm_model *model, const llm_session_desc *desc,
                                        llm_error *err);
LLM_API void llm_session_free(llm_session *session);             /* NULL is fine */
/* Appends n >= 1 tokens to one sequence; logits (V) of the last, or NULL.
 * -> LLM_ERR_ARGUMENT: a token outside [0,V), no such sequence, or length + n above max_seq_len;
 * the cache is then as before */
LLM_API llm_result llm_session_eval(llm_session *session, int sequence, const int32_t *tokens,
                                    int n, float *logits, llm_error *err);
/* one token for each of the n_sequences (negative: skip that sequence, whose row of logits is left
 * alone); logits (n_sequences,V) or NULL. -> LLM_ERR_ARGUMENT: a token not below V, or a full
 * sequence; all is then as before */
LLM_API llm_result llm_session_eval_batch(llm_session *session, const int32_t *tokens,
                                          float *logits, llm_error *err);
LLM_API int llm_session_length(const llm_session *session, int sequence); /* -1: no such sequence */
/* forgets all positions from length on; 0 <= length <= the sequence's */
LLM_API llm_result llm_session_rewind(llm_session *session, int sequence, int length,
                                      llm_error *err);
LLM_API size_t
llm_session_cache_bytes(const llm_session *session); /* trunk; MTP only with speculate */

/* Filters apply in transformers' order: repetition penalty, temperature, top-k, top-p (Holtzman et
 * al., arXiv:1904.09751 sec. 3.1), min-p (Nguyen et al., arXiv:2407.01082 sec. 3). */
typedef struct llm_sampling {
    float temperature; /* 0 = greedy: the largest logit, the lowest id among equals */
    int top_k;                        /* 0 = all                                              */
    float top_p, min_p;               /* 0 = off; top_p of 1 is off, too                      */
    float repetition_penalty;         /* 0 = off; arXiv:1909.05858 sec. 4.1: of every token    */
                                      /* that the sequence holds, the prompt's, too; once each */
    uint64_t seed;
} llm_sampling;
typedef struct llm_generate_desc {
    llm_sampling sampling;
    int max_new_tokens;               /* 0 = as many as fit                                   */
    const int32_t *stop_tokens;       /* a stop token is returned, then generation ends       */
    int n_stop_tokens;                /* 0 = the model's eos tokens; -1 = none                */
    int speculate;                    /* 1 = draft with the MTP modules; needs the session's. */
                                      /* Tokens are those of plain decoding, to the bit       */
    int (*on_token)(int32_t token, void *user);   /* after each new token; non-zero cancels   */
    void *user;
} llm_generate_desc;
typedef struct llm_generate_stats {
    int n_prompt, n_generated, n_drafted, n_accepted;
    double prefill_seconds, decode_seconds;
} llm_generate_stats;
/* Appends the prompt (n_prompt >= 1) to sequence 0 and generates. tokens (capacity) receives the
 * new ones only; NULL where only on_token is wanted. Ends at a stop token, max_new_tokens, capacity
 * or a full context: prompt + new = max_seq_len is legal (the last token is not evaluated).
 * Cancelled: LLM_ERR_CANCELLED, with stats and tokens so far. LLM_ERR_NUMERIC where no logit is
 * finite: the sequence is as before the call. Token i of a call draws the random number i of the
 * seed: the same call on the same state gives the same text, and the next call draws the same
 * numbers again unless it is given another seed. */
LLM_API llm_result llm_generate(llm_session *session, const int32_t *prompt, int n_prompt,
                                const llm_generate_desc *desc, int32_t *tokens, int capacity,
                                llm_generate_stats *stats, llm_error *err);

/* ---- text ------------------------------------------------------------------------------------ */
/* Byte-level BPE. Text is arbitrary bytes; decode returns them exactly, special tokens included.
 * Thread-safe once created. */
typedef struct llm_tokenizer llm_tokenizer;
#ifndef LLM_NO_STDIO
/* path: a tokenizer.json under any name, which is read as `tokenizers` reads it, alone; or a
 * directory with it or with vocab.json + merges.txt, which is read as transformers' AutoTokenizer
 * reads it, with tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json
 * beside it: the tokenizer's class (GPT2Tokenizer always has GPT-2's pattern), added and special
 * tokens, add_prefix_space, what add_bos_token and add_eos_token put around a text. Not read:
 * split_special_tokens, which is encode's parse_special. Texts are cut by Split (Regex or String),
 * Digits and ByteLevel, in any Sequence; regular expressions are Oniguruma's, without backward
 * references, looking behind, options but (?i), atomic groups, possessive repeats of more than one
 * character, repeats of what may be empty, [:..:], and properties but L M N P S, their kinds of L
 * and N, Pc and four scripts; (?i) is for ASCII; at most 16 of them, of 4096 bytes, 2000 steps with
 * repeats written out, and a table of 65535 entries each. A byte that the vocabulary has no token
 * for becomes the file's unk_token, or nothing where there is none, as in `tokenizers`. Or a
 * directory with tiktoken.model, or that file, which has Kimi's pattern and 256 special tokens,
 * named by tokenizer_config.json's added_tokens_decoder beside it. Or a .gguf file with
 * tokenizer.ggml.model gpt2 and the pattern (.pre) of GPT-2, DeepSeek, Llama 3, GPT-4o, Qwen 2,
 * Kimi K2 or StarCoder.
 * -> NULL: LLM_ERR_IO; LLM_ERR_FORMAT for a damaged file; LLM_ERR_UNSUPPORTED names what else would
 * change the tokens; LLM_ERR_MEMORY. Thread-safe. */
LLM_API llm_tokenizer *llm_tokenizer_load(const char *path, const llm_allocator *allocator,
                                          llm_error *err);
#endif
/* json: size bytes, the contents of a tokenizer.json or of a GGUF file, which are read as that file
 * alone is and are not kept. -> NULL as llm_tokenizer_load; LLM_ERR_ARGUMENT for NULL.
 * Thread-safe. */
LLM_API llm_tokenizer *llm_tokenizer_load_memory(const void *json, size_t size,
                                                 const llm_allocator *allocator, llm_error *err);
/* Learns merges from text (n bytes) with GPT-2's pattern until the vocabulary holds vocab_size
 * tokens (257 or more: the bytes and <|endoftext|>) or nothing is left to merge. */
LLM_API llm_tokenizer *llm_tokenizer_train(const char *text, size_t n, int vocab_size,
                                           const llm_allocator *allocator, llm_error *err);
#ifndef LLM_NO_STDIO
/* writes a tokenizer.json that `tokenizers` and transformers read: at path if that ends in ".json",
 * else into the directory path; atomic */
LLM_API llm_result llm_tokenizer_save(const llm_tokenizer *tokenizer, const char *path,
                                      llm_error *err);
/* Writes one GGUF file, which llama.cpp loads, too; tokenizer NULL: without one. dtype: of
 * matrices, F32 to Q6_K but not F8; DEFAULT: as the model holds them. In blocks, the head and some
 * others get more bits, as from llama.cpp's quantiser (its Q4_K_M, Q5_K_M). Atomic.
 * -> LLM_ERR_ARGUMENT; LLM_ERR_IO, the old file as it was; LLM_ERR_UNSUPPORTED: what llama.cpp has
 * no key for. Thread-safe. */
LLM_API llm_result llm_gguf_save(const llm_model *model, const llm_tokenizer *tokenizer,
                                 const char *path, llm_dtype dtype, llm_error *err);
#endif
LLM_API void llm_tokenizer_free(llm_tokenizer *tokenizer);       /* NULL is fine */
/* the largest id + 1: the rows that an embedding needs; not every id below has a token */
LLM_API int llm_tokenizer_vocab_size(const llm_tokenizer *tokenizer);
/* The ids of the special tokens that the tokenizer's template puts before a text (after = 0) or
 * after it (after = 1); llm_tokenizer_encode adds neither. -> their number, 0 to 8; of NULL: 0.
 * Thread-safe. */
LLM_API int llm_tokenizer_template(const llm_tokenizer *tokenizer, int after, int32_t tokens[8]);
LLM_API int32_t llm_tokenizer_token(const llm_tokenizer *tokenizer, const char *text,
                                    size_t n); /* id, or -1 */
/* *count receives the full length even where capacity is smaller (then the first capacity are
 * written). parse_special: 1 = special tokens written out in the text become themselves.
 * -> LLM_ERR_ARGUMENT: NULL, or a token to decode that is outside the vocabulary; LLM_ERR_MEMORY */
LLM_API llm_result llm_tokenizer_encode(const llm_tokenizer *tokenizer, const char *text, size_t n,
                                        int parse_special, int32_t *tokens, size_t capacity,
                                        size_t *count, llm_error *err);
LLM_API llm_result llm_tokenizer_decode(const llm_tokenizer *tokenizer, const int32_t *tokens,
                                        size_t n, char *text, size_t capacity, size_t *count,
                                        llm_error *err);
/* how many of the n bytes are whole UTF-8 characters: print those, keep the rest for later */
LLM_API size_t llm_utf8_complete(const char *text, size_t n);

/* ---- ops: the parts, for models of one's own --------------------------------------------------
 * The context comes first, then outputs, saved values, inputs, weights, dims. Buffers do not
 * overlap unless the comment says so. A forward overwrites its outputs; a backward ADDS to its d*
 * outputs: linear, the norms and the parts skip those that are NULL, other pointers may be NULL
 * only where the comment says so. dims are 0 or more; with a 0 among them nothing is read or
 * written. An op that may need memory or checks tokens returns llm_result; the others cannot fail,
 * and do nothing where a pointer is NULL or a dim below 0. Each thread has a context of its own. */

/* y (rows,n_out) = x (rows,n_in) weight^T + bias; weight (n_out,n_in), bias (n_out) or NULL */
LLM_API llm_result llm_linear_forward(llm_context *context, float *y, const float *x,
                                      const float *weight, const float *bias, int rows, int n_in,
                                      int n_out);
/* dx += dy weight;  dweight += dy^T x;  dbias += sum of dy over rows */
LLM_API llm_result llm_linear_backward(llm_context *context, float *dx, float *dweight,
                                       float *dbias, const float *dy, const float *x,
                                       const float *weight, int rows, int n_in, int n_out);

/* y (rows,width) = weight[tokens]; weight (vocab_size,width). LLM_ERR_ARGUMENT, nothing written: a
 * token outside [0,vocab_size) */
LLM_API llm_result llm_embedding_forward(llm_context *context, float *y, const int32_t *tokens,
                                         const float *weight, int rows, int vocab_size, int width,
                                         llm_error *err);
/* dweight[tokens] += dy */
LLM_API llm_result llm_embedding_backward(llm_context *context, float *dweight, const float *dy,
                                          const int32_t *tokens, int rows, int vocab_size,
                                          int width, llm_error *err);

/* LayerNorm, arXiv:1607.06450 eq. 3: y = (x - mean) rstd weight + bias, rstd = 1/sqrt(var + eps),
 * var biased. x, y (rows,width), y may be x; mean, rstd (rows) are saved for the backward, NULL
 * where not wanted; weight, bias (width), bias may be NULL. */
LLM_API void llm_layernorm_forward(llm_context *context, float *y, float *mean, float *rstd,
                                   const float *x, const float *weight, const float *bias, int rows,
                                   int width, float eps);
/* h = (x - mean) rstd, g = dy weight:  dx += rstd (g - mean(g) - h mean(g h));  dweight += sum dy
 * h; dbias += sum dy */
LLM_API void llm_layernorm_backward(llm_context *context, float *dx, float *dweight, float *dbias,
                                    const float *dy, const float *mean, const float *rstd,
                                    const float *x, const float *weight, int rows, int width);

/* RMSNorm, arXiv:1910.07467 eq. 4: y = x rstd weight, rstd = 1/sqrt(mean(x^2) + eps), saved (rows)
 * or NULL */
LLM_API void llm_rmsnorm_forward(llm_context *context, float *y, float *rstd, const float *x,
                                 const float *weight, int rows, int width, float eps);
/* h = x rstd, g = dy weight:  dx += rstd (g - h mean(g h));  dweight += sum dy h */
LLM_API void llm_rmsnorm_backward(llm_context *context, float *dx, float *dweight, const float *dy,
                                  const float *rstd, const float *x, const float *weight, int rows,
                                  int width);

/* GELU, tanh form, arXiv:1606.08415 sec. 2: y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); y
 * may be x */
LLM_API void llm_gelu_forward(llm_context *context, float *y, const float *x, size_t n);
/* dx += dy gelu'(x) */
LLM_API void llm_gelu_backward(llm_context *context, float *dx, const float *dy, const float *x,
                               size_t n);

/* SwiGLU, arXiv:2002.05202 eq. 5: y = gate sigmoid(gate) up; y may be gate or up */
LLM_API void llm_swiglu_forward(llm_context *context, float *y, const float *gate, const float *up,
                                size_t n);
/* s = sigmoid(gate):  dgate += dy up s (1 + gate (1-s));  dup += dy gate s */
LLM_API void llm_swiglu_backward(llm_context *context, float *dgate, float *dup, const float *dy,
                                 const float *gate, const float *up, size_t n);

/* y = exp(x - max) / sum exp(x - max) over each row of (rows,width); y may be x */
LLM_API void llm_softmax_forward(llm_context *context, float *y, const float *x, int rows,
                                 int width);
/* dx += y (dy - sum(dy y)) */
LLM_API void llm_softmax_backward(llm_context *context, float *dx, const float *dy, const float *y,
                                  int rows, int width);

/* Dropout, Srivastava et al., JMLR 15, 2014, sec. 4, scaled in training: y = x / (1-p) where
 * element i is kept, else 0; kept: the 32-bit random number (seed, i) is at least p 2^32. p in
 * [0,1). y may be x. The backward draws the same mask: dx += dy / (1-p) where kept. */
LLM_API void llm_dropout_forward(llm_context *context, float *y, const float *x, size_t n, float p,
                                 uint64_t seed);
LLM_API void llm_dropout_backward(llm_context *context, float *dx, const float *dy, size_t n,
                                  float p, uint64_t seed);

/* RoPE, arXiv:2104.09864 eq. 34, with config's qk_rope_head_dim (the width), rope_theta,
 * rope_half_split and yarn_ fields; the others are not looked at. x, y (rows,n_heads,width), y may
 * be x; positions (rows), 0 and above; NULL: row % T. Pair i turns by position theta^(-2i/width),
 * YaRN (arXiv:2309.00071 sec. 3) slows it; cos and sin carry YaRN's mscale.
 * -> LLM_ERR_ARGUMENT: an odd width, a theta not above 1, rows not a multiple of T */
LLM_API llm_result llm_rope_forward(llm_context *context, float *y, const float *x,
                                    const int32_t *positions, const llm_config *config, int rows,
                                    int T, int n_heads, llm_error *err);
/* dx += dy turned back */
LLM_API llm_result llm_rope_backward(llm_context *context, float *dx, const float *dy,
                                     const int32_t *positions, const llm_config *config, int rows,
                                     int T, int n_heads, llm_error *err);

/* Causal multi-head attention, arXiv:1706.03762 eq. 1, tiled as arXiv:2205.14135: no (T,T) matrix
 * exists. Position t of sequence b has its H heads side by side, at (b T + t) stride; so the three
 * parts of a fused projection (rows, 3 C) are q = qkv, k = qkv + C, v = qkv + 2 C with strides of 3
 * C. */
typedef struct llm_attention_dims {
    int B, T, n_heads;
    int qk_head_dim;                  /* of queries and keys                                  */
    int v_head_dim;                   /* of values and output; qk_head_dim                    */
    size_t q_stride, k_stride, v_stride;   /* floats from position to position; heads x dim   */
    float scale;                      /* 1/sqrt(qk_head_dim)                                  */
    float dropout;                    /* of the probabilities, [0,1)                          */
    uint64_t seed;                    /* of the dropout mask                                  */
} llm_attention_dims;
/* out (B,T,H v_head_dim) = softmax(scale q k^T, keys up to the query's own) v; lse (B,H,T): the
 * natural logarithm of each row's sum of exponentials, saved for the backward, or NULL */
LLM_API llm_result llm_attention_forward(llm_context *context, float *out, float *lse,
                                         const float *q, const float *k, const float *v,
                                         const llm_attention_dims *dims, llm_error *err);
/* dq, dk, dv have the strides of q, k, v; none may be NULL. P = exp(scale q k^T - lse), dP = dout
 * v^T, dS = P (dP - sum(dout out)):  dq += scale dS k;  dk += scale dS^T q;  dv += P^T dout */
LLM_API llm_result llm_attention_backward(llm_context *context, float *dq, float *dk, float *dv,
                                          const float *dout, const float *out, const float *lse,
                                          const float *q, const float *k, const float *v,
                                          const llm_attention_dims *dims, llm_error *err);

/* Cross entropy as torch.nn.functional.cross_entropy has it, with label smoothing (Szegedy et al.,
 * arXiv:1512.00567 sec. 7). logits (rows,V); a target is in [0,V) or LLM_IGNORE_INDEX, whose loss
 * is 0. With s = label_smoothing in [0,1): loss of a row = (1-s) (lse - x_target) + s (lse -
 * mean(x)). MEAN divides by the number of valid targets (0 if there is none; PyTorch has NaN). */
typedef enum llm_reduction {
    LLM_REDUCTION_MEAN = 0, LLM_REDUCTION_SUM, LLM_REDUCTION_NONE
} llm_reduction;
/* losses (rows) and lse (rows, saved for the backward) may be NULL; loss: the reduced one, NULL for
 * LLM_REDUCTION_NONE */
LLM_API llm_result llm_cross_entropy_forward(llm_context *context, float *loss, float *losses,
                                             float *lse, const float *logits,
                                             const int32_t *targets, int rows, int vocab_size,
                                             float label_smoothing, llm_reduction reduction,
                                             llm_error *err);
/* dloss: gradient of the reduced loss (one value; NULL = 1); for LLM_REDUCTION_NONE, that of every
 * row's loss (rows).
 * dlogits += dloss (softmax(x) - (1-s) onehot(target) - s/V) [/ valid targets for MEAN] */
LLM_API llm_result llm_cross_entropy_backward(llm_context *context, float *dlogits,
                                              const float *dloss, const float *lse,
                                              const float *logits, const int32_t *targets, int rows,
                                              int vocab_size, float label_smoothing,
                                              llm_reduction reduction, llm_error *err);

/* MTP loss, DeepSeek-V3 report eq. 24-25, each part a mean over its own valid targets:
 * loss = parts[0] + lambda/depth (parts[1] + .. + parts[depth]). logits[0] (B,T,V) of the model;
 * logits[k] (B,T-k,V) of module k, whose position t predicts targets[b,t+k]; targets (B,T) as for
 * cross entropy; lse[k] (B,T-k), saved for the backward. depth in [0,4], below T. */
LLM_API llm_result llm_mtp_loss_forward(llm_context *context, float *loss, float *parts,
                                        float *const *lse, const float *const *logits,
                                        const int32_t *targets, int B, int T, int vocab_size,
                                        int depth, float lambda, float label_smoothing,
                                        llm_error *err);
/* dlogits[k] += the gradient of dloss (NULL = 1) times the loss */
LLM_API llm_result llm_mtp_loss_backward(llm_context *context, float *const *dlogits,
                                         const float *dloss, const float *const *lse,
                                         const float *const *logits, const int32_t *targets, int B,
                                         int T, int vocab_size, int depth, float lambda,
                                         float label_smoothing, llm_error *err);

/* ---- ops: the parts of the two models ---------------------------------------------------------
 * What they compute stands at >>gpt2 >>mla >>moe >>deepseek >>mtp. No dropout. */
typedef enum llm_part {
    LLM_PART_MLA,             /* attention of a DeepSeek block, without the norm before it        */
    LLM_PART_MOE,             /* router, routed and shared experts                                */
    LLM_PART_GPT2_BLOCK,
    LLM_PART_DEEPSEEK_BLOCK,  /* with experts where n_routed_experts is above 0, else one FFN     */
    LLM_PART_MTP_MODULE       /* y = RMSNorm(block(Weh [RMSNorm(x) | RMSNorm(h)]))                */
} llm_part;
/* what a forward and its backward have in common */
typedef struct llm_part_args {
    const llm_config *config;         /* the fields that concern the part are read            */
    int B, T;
    const float *x;                   /* (B,T,C); a block's backward does not need it. MTP:   */
                                      /* the embeddings of the tokens k ahead                 */
    const float *h;                   /* MTP: (B,T,C), the hidden state of the depth before,  */
                                      /* both of the T positions that have such a token       */
    const float *const *weights;      /* one for each tensor, in the order of llm_part_tensor */
    void *saved;                      /* at least llm_part_saved_bytes, kept until backward   */
    float *loads, *balance;           /* MOE's forward fills them, unless NULL: (E) rows per  */
                                      /* expert; the mean over sequences of sum_i f_i P_i,    */
                                      /* report eq. 17-20, without its alpha                  */
    float alpha;                      /* MOE's backward adds the gradient of alpha times that */
    float *dh;                        /* MTP's backward adds the gradient of h, unless NULL   */
} llm_part_args;
/* the i-th tensor of a part: n_dims and dims, data NULL; all zero past the last. name: 72 bytes
 * that receive the name it would have in layer 0, or NULL. */
LLM_API llm_tensor llm_part_tensor(llm_part part, const llm_config *config, size_t i, char *name);
/* 0 for an impossible configuration */
LLM_API size_t llm_part_saved_bytes(llm_part part, const llm_config *config, int B, int T);
/* y (B,T,C). Each call takes scratch memory and frees it. -> LLM_ERR_ARGUMENT: an impossible
 * configuration, a NULL weight; LLM_ERR_MEMORY */
LLM_API llm_result llm_part_forward(llm_context *context, llm_part part, float *y,
                                    const llm_part_args *args, llm_error *err);
/* dx (B,T,C) += and dweights +=, each of which, and each entry of dweights, may be NULL */
LLM_API llm_result llm_part_backward(llm_context *context, llm_part part, float *dx,
                                     float *const *dweights, const float *dy,
                                     const llm_part_args *args, llm_error *err);
/* The router alone, DeepSeek-V3 report eq. 12-16: scores (rows,E) = sigmoid(x gate^T), gate (E,C);
 * choice and weight (rows,K): the experts chosen by score + bias (E) within groups, and their
 * weights, unbiased; loads (E) or NULL: rows per expert. Ties go to the lower expert. */
LLM_API llm_result llm_router_forward(llm_context *context, float *weight, int32_t *choice,
                                      float *loads, float *scores, const float *x,
                                      const float *gate, const float *bias,
                                      const llm_config *config, int rows, llm_error *err);
/* through the weights and their normalisation, not through the choice: dx (rows,C) or NULL, dgate
 * (E,C) or NULL, from dweight (rows,K) */
LLM_API llm_result llm_router_backward(llm_context *context, float *dx, float *dgate,
                                       const float *dweight, const float *scores,
                                       const int32_t *choice, const float *x, const float *gate,
                                       const llm_config *config, int rows, llm_error *err);

/* AdamW, arXiv:1711.05101 algorithm 2, update number step = 0, 1, ...: with g = grad_scale grad,
 * m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
 * w -= lr (m/(1-b1^n) / (sqrt(v/(1-b2^n)) + eps) + decay w), n = step + 1. step below 0: nothing */
typedef struct llm_adamw {
    int64_t step;
    float learning_rate, beta1, beta2, eps, weight_decay, grad_scale;    /* none has a default */
} llm_adamw;
LLM_API void llm_adamw_update(llm_context *context, float *weight, float *m, float *v,
                              const float *grad, size_t n, const llm_adamw *adamw);
/* Clipping by norm (Pascanu et al., arXiv:1211.5063 alg. 1): scales n gradients in place by min(1,
 * max_norm/(norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; returns the norm before. max_norm
 * below 0 (LLM_OFF): nothing is scaled. */
LLM_API float llm_clip_grad_norm(llm_context *context, float *grad, size_t n, float max_norm);
/* of update number step = 0, 1, ...; see llm_schedule. Zero fields of desc take their defaults. */
LLM_API float llm_learning_rate(const llm_train_desc *desc, int64_t step);
/* Draws from logits (V). history (n_history): tokens that the repetition penalty applies to, NULL
 * with 0. counter selects the random number of sampling->seed. sampling may be NULL: greedy.
 * -> LLM_ERR_NUMERIC where no logit is finite */
LLM_API llm_result llm_sample(llm_context *context, int32_t *token, const float *logits,
                              int vocab_size, const llm_sampling *sampling, const int32_t *history,
                              int n_history, uint64_t counter, llm_error *err);
/* Random numbers: SplitMix64 (Steele et al., OOPSLA 2014, fig. 16) addressed by counter. The n-th
 * output of the generator with that seed, n = 0, 1, ...; the same everywhere. A new seed for a
 * sub-stream is an output of another stream. */
LLM_API uint64_t llm_random(uint64_t seed, uint64_t n);
/* uniform in [0,1): the top 24 bits of llm_random */
LLM_API float llm_random_uniform(uint64_t seed, uint64_t n);
/* N(0,1) to six standard deviations: the sum of twelve uniform numbers of 16 bits less its mean
 * (Irwin-Hall), from outputs 3n .. 3n+2: integers only, so the same everywhere */
LLM_API float llm_random_normal(uint64_t seed, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif /* LLM_H */
/* ---------------------------------------------------------------------------------------------
 * IMPLEMENTATION
 * ------------------------------------------------------------------------------------------- */
#if defined(LLM_IMPLEMENTATION) && !defined(LLMI_IMPLEMENTED)
#define LLMI_IMPLEMENTED

/* ============================================================================================
 * >>platform     compilers, operating systems, and what is asked of them
 * ========================================================================================== */
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
  #include <omp.h>
#endif

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
  #error "llm.h tells NaN and infinities from numbers: compile it without -ffast-math"
#endif
#if defined(LLM_MALLOC) != defined(LLM_FREE)
  #error "llm.h: define both LLM_MALLOC and LLM_FREE, or neither"
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
  #error "llm.h needs a little-endian processor: files hold numbers in that order"
#endif

/* POSIX is used where the headers show it. -std=c99 hides it unless a feature macro came before
 * the first libc header (the top of this file sees to that where it is the first). */
#ifndef LLMI_POSIX
  #if !defined(__unix__) && !defined(__APPLE__)
    #define LLMI_POSIX 0
  #elif defined(__GLIBC__) && !defined(__USE_XOPEN2K8)
    #define LLMI_POSIX 0
  #elif !defined(__GLIBC__) && defined(__STRICT_ANSI__) && !defined(_DEFAULT_SOURCE) && \
        !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE)
    #define LLMI_POSIX 0
  #else
    #define LLMI_POSIX 1
  #endif
#endif
#if LLMI_POSIX
  #include <fcntl.h>
  #include <sys/file.h>
  #include <sys/mman.h>
  #include <sys/stat.h>
  #include <sys/types.h>
  #include <unistd.h>
#elif defined(_WIN32) && !defined(LLM_NO_STDIO)
  #include <direct.h>
  #include <io.h>
#endif

/* Threads: OpenMP's where the program is compiled with it, else a pool of our own on what the C
 * library has without a flag of the linker's (glibc: from 2.34 on). */
#if defined(LLM_NO_THREADS) || defined(_OPENMP) || !defined(__GNUC__) || defined(__TINYC__)
  #define LLMI_POOL 0
#elif defined(_WIN32)
  #define LLMI_POOL 1
#elif LLMI_POSIX && defined(__GLIBC__)
  #define LLMI_POOL (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
#elif LLMI_POSIX && (defined(__linux__) || defined(__APPLE__))
  #define LLMI_POOL 1
#else
  #define LLMI_POOL 0
#endif
#if defined(_WIN32) && (LLMI_POOL || !defined(LLM_NO_STDIO))
  #ifndef WIN32_LEAN_AND_MEAN
    #define WIN32_LEAN_AND_MEAN
  #endif
  #ifndef NOMINMAX
    #define NOMINMAX
  #endif
  #include <windows.h>
#elif LLMI_POOL && !defined(_WIN32)
  #include <pthread.h>
  #include <signal.h>
  #ifdef __linux__
    #include <sys/syscall.h>
  #endif
#endif

/* Which kernel passes exist is decided here, before any target region: inside one, compilers
 * disagree about __AVX2__ and its kin. */
#if defined(__GNUC__) && !defined(__TINYC__) && defined(__x86_64__) && !defined(LLM_NO_SIMD) && \
    !(defined(_WIN32) && !defined(__OPTIMIZE__))
  #define LLMI_X86 1                 /* Windows, unoptimised: gcc does not align spilled vectors */
#else
  #define LLMI_X86 0
#endif
#if LLMI_X86 && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
  #define LLMI_BF16 1                /* AVX512_BF16 */
#else
  #define LLMI_BF16 0
#endif
#if LLMI_BF16 && defined(__linux__)
  #define LLMI_AMX 1
#else
  #define LLMI_AMX 0
#endif
#if defined(__GNUC__) && !defined(__TINYC__) && defined(__aarch64__) && defined(__ARM_NEON) && \
    !defined(LLM_NO_SIMD)
  #define LLMI_NEON 1
#else
  #define LLMI_NEON 0
#endif
#if LLMI_X86
  #include <cpuid.h>
  #include <immintrin.h>
#elif LLMI_NEON
  #include <arm_neon.h>
#endif

/* Names of one letter that are used below. The caller's own definitions are saved here and restored
 * at the end, if the compiler knows GNU's pragmas. */
#define LLMI_SHORT_NAMES(DO) \
    DO("B") DO("C") DO("D") DO("E") DO("F") DO("H") DO("K") DO("L") DO("R") DO("T") DO("V")
#if defined(__GNUC__) && !defined(__TINYC__)
  #define LLMI_PRAGMA(text) _Pragma(#text)
  #define LLMI_PUSH(name) LLMI_PRAGMA(push_macro(name))
  #define LLMI_POP(name) LLMI_PRAGMA(pop_macro(name))
LLMI_SHORT_NAMES(LLMI_PUSH)
#endif
#undef B
#undef C
#undef D
#undef E
#undef F
#undef H
#undef K
#undef L
#undef R
#undef T
#undef V

#if defined(__clang__)
  #define LLMI_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__) && !defined(__TINYC__)
  #define LLMI_UNROLL _Pragma("GCC unroll 32")
#else
  #define LLMI_UNROLL
#endif
#if defined(__GNUC__) && !defined(__TINYC__)
  #define LLMI_INLINE static inline __attribute__((always_inline, unused))
  #define LLMI_NOINLINE static __attribute__((noinline))
  #define LLMI_PREFETCH(p) __builtin_prefetch((const void *)(p))
  #define LLMI_PREFETCH_WRITE(p) __builtin_prefetch((const void *)(p), 1)
  #define LLMI_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
  #define LLMI_INLINE static
  #define LLMI_NOINLINE static
  #define LLMI_PREFETCH(p) ((void)(p))
  #define LLMI_PREFETCH_WRITE(p) ((void)(p))
  #define LLMI_PRINTF(text, first)
#endif
#define LLMI_CAT_(a, b) a##b
#define LLMI_CAT(a, b) LLMI_CAT_(a, b)

LLM_API int llm_version(void) { return LLM_VERSION; }

static double llmi_seconds(void) {                               /* wall-clock time */
#if LLMI_POSIX
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#elif defined(TIME_UTC)
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#elif defined(_WIN32)
    return (double)clock() / CLOCKS_PER_SEC;           /* which is wall-clock time there */
#else
    return (double)time(NULL);
#endif
}

#define LLMI_PI 3.14159265358979323846

/* Drops const, where a record with plain pointers gets the caller's data and nothing that uses the
 * record writes to them. */
static void *llmi_only_read(const void *given) {
    void *kept;
    memcpy(&kept, &given, sizeof kept);
    return kept;
}

static int llmi_int_min(int a, int b) { return a < b ? a : b; }
#ifndef LLM_ASSERT
  #define LLM_ASSERT(condition) ((void)0)
#endif
#define LLMI_COUNT(array) (sizeof (array) / sizeof (array)[0])
static size_t llmi_min(size_t a, size_t b) { return a < b ? a : b; }
static size_t llmi_max(size_t a, size_t b) { return a > b ? a : b; }
static size_t llmi_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
static uint64_t llmi_min64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t llmi_mul64(uint64_t a, uint64_t b) {
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}
static uint64_t llmi_add64(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* ============================================================================================
 * >>error        one line of text and a code, into the caller's llm_error
 * ========================================================================================== */
#define LLMI_TRY(call) do { llm_result try_ = (call); if (try_ != LLM_OK) return try_; } while (0)

LLMI_PRINTF(3, 4)
static llm_result llmi_fail(llm_error *err, llm_result code, const char *format, ...) {
    if (err) {
        va_list arguments;
        size_t i;
        va_start(arguments, format);
        vsnprintf(err->message, sizeof err->message, format, arguments);
        va_end(arguments);
        for (i = 0; err->message[i]; i++)       /* names from files may hold anything */
            if ((unsigned char)err->message[i] < 32 || err->message[i] == 127)
                err->message[i] = '?';
        err->code = code;
    }
    return code;
}

static llm_result llmi_check_int(const char *field, int value, int low, int high, llm_error *err) {
    if (value >= low && value <= high) return LLM_OK;
    return llmi_fail(err, LLM_ERR_ARGUMENT, "%s %d is not in [%d, %d]", field, value, low, high);
}
/* ends: of the range, '[' or ']' belongs to it, '(' or ')' does not */
static llm_result llmi_check_float(const char *field, double value, const char *ends, double low,
                                   double high, llm_error *err) {
    if ((ends[0] == '(' ? value > low : value >= low) &&
        (ends[1] == ')' ? value < high : value <= high))
        return LLM_OK;
    if (high < (double)FLT_MAX)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "%s %.8g is not in %c%.8g, %.8g%c", field, value,
                         ends[0], low, high, ends[1]);
    return llmi_fail(err, LLM_ERR_ARGUMENT, "%s %.8g is not in %c%.8g, inf)", field, value, ends[0],
                     low);
}

/* ============================================================================================
 * >>memory       aligned blocks from the caller's allocator; sizes saturate at SIZE_MAX
 * ========================================================================================== */
#ifndef LLM_MALLOC
  #define LLM_MALLOC(size) malloc(size)
  #define LLM_FREE(memory) free(memory)
#endif
#define LLMI_ALIGN 64u
#define LLMI_HUGE ((size_t)2 << 20)    /* from 2 of these on, a block of our own asks for them */

static size_t llmi_mul(size_t a, size_t b) {
    return b && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}
static size_t llmi_add(size_t a, size_t b) {
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}
static size_t llmi_round_up(size_t n, size_t to) {        /* SIZE_MAX stays */
    return n > SIZE_MAX - to ? SIZE_MAX : (n + to - 1) / to * to;
}

typedef struct llmi_block { void *raw; size_t size; } llmi_block;     /* stands before the memory */

/* size bytes, aligned to 64, not cleared; NULL with a message that says what it was for */
static void *llmi_alloc(const llm_allocator *allocator, size_t size, const char *what,
                        llm_error *err) {
    const size_t align = !allocator && size >= 2 * LLMI_HUGE ? LLMI_HUGE : LLMI_ALIGN;
    const size_t total = llmi_add(llmi_add(size, sizeof(llmi_block)), align);
    llmi_block block;
    char *memory;
    block.raw = NULL;
    if (allocator && (!allocator->allocate || !allocator->release)) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "the allocator's %s is NULL",
                  allocator->allocate ? "release" : "allocate");
        return NULL;
    }
    if (total < SIZE_MAX / 2)
        block.raw = allocator ? allocator->allocate(total, allocator->user) : LLM_MALLOC(total);
    if (!block.raw) {
        llmi_fail(err, LLM_ERR_MEMORY, "out of memory: %s needs %.1f MiB", what,
                  (double)size / (1024.0 * 1024.0));
        return NULL;
    }
    block.size = total;
    memory = (char *)block.raw + sizeof block;
    memory += (align - (uintptr_t)memory % align) % align;
    memcpy(memory - sizeof block, &block, sizeof block);
#if LLMI_POSIX && defined(MADV_HUGEPAGE)
    if (align == LLMI_HUGE) (void)madvise(memory, size / LLMI_HUGE * LLMI_HUGE, MADV_HUGEPAGE);
#endif
    return memory;
}

static void llmi_release(const llm_allocator *allocator, void *memory) {
    llmi_block block;
    if (!memory) return;
    memcpy(&block, (char *)memory - sizeof block, sizeof block);
    if (allocator) allocator->release(block.raw, block.size, allocator->user);
    else LLM_FREE(block.raw);
}

/* memory that grows to hold at least size bytes and keeps its first used ones; the old block is
 * untouched on failure */
static llm_result llmi_grow(const llm_allocator *allocator, void **memory, size_t *capacity,
                            size_t used, size_t size, const char *what, llm_error *err) {
    size_t larger;
    void *fresh;
    if (size <= *capacity) return LLM_OK;
    larger = llmi_max(size, llmi_add(*capacity, *capacity / 2));
    fresh = llmi_alloc(allocator, larger, what, err);
    if (!fresh) return LLM_ERR_MEMORY;
    if (used) memcpy(fresh, *memory, used);
    llmi_release(allocator, *memory);
    *memory = fresh;
    *capacity = larger;
    return LLM_OK;
}
/* ============================================================================================
 * >>types        what values may be, and each to f32 and back
 * ========================================================================================== */
static float llmi_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static uint32_t llmi_bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float llmi_bf16_to_f32(uint16_t h) { return llmi_float_of_bits((uint32_t)h << 16); }

static uint16_t llmi_f32_to_bf16(float value) { /* to nearest, ties to even; NaN stays NaN */
    const uint32_t bits = llmi_bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static float llmi_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu,
                   fraction = h & 0x3ffu;
    if (exponent == 31) return llmi_float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* zero and subnormal: fraction 2^-24 */
        const float value = (float)fraction * (1.0f / 16777216.0f);
        return sign ? -value : value;
    }
    return llmi_float_of_bits(sign | (exponent + 112u) << 23 | fraction << 13);
}

/* whole numbers in files, the lowest byte first */
static uint64_t llmi_get_little(const unsigned char *from, int bytes) {
    uint64_t value = 0;
    int i;
    for (i = 0; i < bytes; i++) value |= (uint64_t)from[i] << 8 * i;
    return value;
}
static void llmi_put_little(unsigned char *to, uint64_t value, int bytes) {
    int i;
    for (i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> 8 * i);
}
static float llmi_f16_at(const unsigned char *b) {
    return llmi_f16_to_f32((uint16_t)llmi_get_little(b, 2));
}

typedef struct llmi_type {
    const char *name;
    size_t block, bytes;               /* values of a block, and what it takes                  */
    int ggml;                          /* its number in GGUF files; -1: it is not in them       */
} llmi_type;
static const llmi_type llmi_types[] = {                          /* by llm_dtype */
    {"DEFAULT", 0, 0, -1}, {"F32", 1, 4, 0},    {"F16", 1, 2, 1},    {"BF16", 1, 2, 30},
    {"F8_E4M3", 1, 1, -1}, {"Q8_0", 32, 34, 8}, {"Q4_0", 32, 18, 2}, {"Q4_1", 32, 20, 3},
    {"Q5_0", 32, 22, 6},   {"Q5_1", 32, 24, 7}, {"Q4_K", 256, 144, 12}, {"Q5_K", 256, 176, 13},
    {"Q6_K", 256, 210, 14}, {"I32", 1, 4, 26}};
#define LLMI_BLOCK_MOST 256u           /* values of the largest block */

LLM_API const char *llm_dtype_name(llm_dtype dtype) {
    return (unsigned)dtype < LLMI_COUNT(llmi_types) ? llmi_types[dtype].name : NULL;
}
static int llmi_dtype_is_blocks(llm_dtype dtype) { return dtype >= LLM_Q8_0 && dtype <= LLM_Q6_K; }
static size_t llmi_dtype_bytes(llm_dtype dtype, size_t n) {      /* of whole blocks */
    return n / llmi_types[dtype].block * llmi_types[dtype].bytes;
}
LLM_API size_t llm_dtype_size(llm_dtype dtype, size_t n) {
    if ((unsigned)dtype - 1u >= LLMI_COUNT(llmi_types) - 1u) return 0;
    if (n % llmi_types[dtype].block) return 0;
    return llmi_mul(n / llmi_types[dtype].block, llmi_types[dtype].bytes);
}

/* Up to 256 values of whole blocks: value i is scale[i/16] q[i] + least[i/16], exactly (but for the
 * sign of a zero), as the product has at most 24 bits. Layouts, d and m being f16:
 *   Q8_0  d, 32 int8                    Q4_0  d, 16 bytes: the low halves are values 0..15
 *   Q4_1  d, m, 16 bytes                Q5_0  d, 32 fifth bits, 16 bytes    Q5_1  d, m, as Q5_0
 *   Q4_K  d, m, 12 bytes: 8 scales and 8 minima of 6 bits, 128 bytes: the low halves of 32 are
 *         values 0..31, the high ones 32..63
 *   Q5_K  d, m, the same 12, 32 bytes of fifth bits (bit j of byte i: value 32 j + i), 128 bytes
 *   Q6_K  128 bytes of low halves, 64 of pairs of high bits, 16 int8 scales, d */
static void llmi_blocks_open_32(llm_dtype type, const unsigned char *b, size_t n, unsigned char *q,
                                float *scale, float *least) {
    const size_t five = type == LLM_Q5_0 || type == LLM_Q5_1;
    const size_t m = type == LLM_Q4_1 || type == LLM_Q5_1, at = 2 + 2 * m + 4 * five;
    size_t i, j;
    for (i = 0; i < n; i++, b += llmi_types[type].bytes, q += 32) {
        const float d = llmi_f16_at(b);
        const uint32_t fifth = five ? (uint32_t)llmi_get_little(b + at - 4, 4) : 0;
        scale[2 * i] = scale[2 * i + 1] = d;
        least[2 * i] = least[2 * i + 1] =
            m ? llmi_f16_at(b + 2)
              : -d * (type == LLM_Q8_0 ? 128.0f : five ? 16.0f : 8.0f);
        for (j = 0; j < 32 && type == LLM_Q8_0; j++) q[j] = b[2 + j] ^ 0x80u;
        for (j = 0; j < 32 && type != LLM_Q8_0; j++)
            q[j] = (unsigned char)((b[at + j % 16] >> j / 16 * 4 & 15u) |
                                   (fifth >> j & 1u) << 4);
    }
}
static void llmi_blocks_open_k(llm_dtype type, const unsigned char *b, unsigned char *q,
                               float *scale, float *least) {
    const float d = llmi_f16_at(type == LLM_Q6_K ? b + 208 : b);
    const float m = llmi_f16_at(b + 2);
    const unsigned char *s = b + 4, *fifth = b + 16, *low = type == LLM_Q5_K ? b + 48 : b + 16;
    size_t i;
    if (type == LLM_Q6_K) {
        for (i = 0; i < 256; i++) {
            const size_t half = i / 128, j = i % 128;
            q[i] = (unsigned char)((b[half * 64 + j % 64] >> j / 64 * 4 & 15u) |
                                   (b[128 + half * 32 + j % 32] >> j / 32 * 2 & 3u) << 4);
        }
        for (i = 0; i < 16; i++) {
            scale[i] = d * (float)((int)(b[192 + i] ^ 0x80u) - 128);
            least[i] = scale[i] * -32.0f;
        }
        return;
    }
    for (i = 0; i < 256; i++)
        q[i] = (unsigned char)((low[i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15u) |
                               (type == LLM_Q5_K ? (fifth[i % 32] >> i / 32 & 1u) << 4 : 0u));
    for (i = 0; i < 8; i++) {
        const unsigned a = i < 4 ? s[i] & 63u : (s[i + 4] & 15u) | (unsigned)(s[i - 4] >> 6) << 4;
        const unsigned c = i < 4 ? s[i + 4] & 63u : s[i + 4] >> 4 | (unsigned)(s[i] >> 6) << 4;
        scale[2 * i] = scale[2 * i + 1] = d * (float)a;
        least[2 * i] = least[2 * i + 1] = -m * (float)c;
    }
}
/* -> how many values: of at most n, a multiple of the type's block */
static size_t llmi_blocks_open(llm_dtype type, const unsigned char *b, size_t n, unsigned char *q,
                               float *scale, float *least) {
    n = llmi_min(n, LLMI_BLOCK_MOST);
    if (llmi_types[type].block == 32) llmi_blocks_open_32(type, b, n / 32, q, scale, least);
    else llmi_blocks_open_k(type, b, q, scale, least);
    return n;
}

static float llmi_f8_to_f32(unsigned char b) {         /* E4M3: no infinity, 127 is NaN */
    const float power = 1.329227995784916e36f;         /* 2^120: by 120 the biases differ */
    const float value = (b & 127) == 127 ? llmi_float_of_bits(0x7fc00000u)
                                         : llmi_float_of_bits((b & 127u) << 20) * power;
    return b & 128 ? -value : value;
}

/* n values of whole blocks to f32 */
static void llmi_decode(llm_dtype type, float *to, const void *from, size_t n) {
    const unsigned char *b = (const unsigned char *)from;
    unsigned char q[LLMI_BLOCK_MOST];
    float scale[16], least[16];
    size_t i, count;
    if (type == LLM_F32) memcpy(to, from, n * sizeof *to);
    for (i = 0; i < n && type == LLM_F16; i++) to[i] = llmi_f16_at(b + 2 * i);
    for (i = 0; i < n && type == LLM_BF16; i++)
        to[i] = llmi_bf16_to_f32((uint16_t)llmi_get_little(b + 2 * i, 2));
    for (i = 0; i < n && type == LLM_F8_E4M3; i++) to[i] = llmi_f8_to_f32(b[i]);
    for (; n && llmi_dtype_is_blocks(type); n -= count, to += count) {
        count = llmi_blocks_open(type, b, n, q, scale, least);
        b += llmi_dtype_bytes(type, count);
        for (i = 0; i < count; i++) to[i] = scale[i / 16] * (float)q[i] + least[i / 16];
    }
}

/* ---- f32 to every type ----------------------------------------------------------------------- */
/* |value| to nearest, ties to even, in a type with `drop` fewer bits of fraction. Below `normal`,
 * its least normal number, its steps are even: adding 2^drop normal in f32 rounds to them. */
static uint32_t llmi_narrow(float value, uint32_t normal, uint32_t drop) {
    const uint32_t size = llmi_bits_of_float(fabsf(value)), even = normal + (drop << 23);
    if (size < normal) return llmi_bits_of_float(fabsf(value) + llmi_float_of_bits(even)) - even;
    return (size - normal + 0x800000u + (1u << (drop - 1)) - 1u + (size >> drop & 1u)) >> drop;
}
static uint16_t llmi_f32_to_f16(float value) {         /* NaN stays NaN */
    const uint32_t sign = llmi_bits_of_float(value) >> 16 & 0x8000u;
    if (value != value) return (uint16_t)(sign | 0x7e00u);
    if (fabsf(value) >= 65520.0f) return (uint16_t)(sign | 0x7c00u);
    return (uint16_t)(sign | llmi_narrow(value, 0x38800000u, 13));
}
static unsigned char llmi_f32_to_f8(float value) {     /* infinities and all beyond become 448 */
    const uint32_t sign = llmi_bits_of_float(value) >> 24 & 0x80u;
    if (value != value) return 0x7fu;
    return (unsigned char)(sign | llmi_narrow(fabsf(value) < 448 ? value : 448, 0x3c800000u, 20));
}

/* A line, scale q + least for whole q in [low, high], stands for n values x. Encoders seek the line
 * of least squared error. In double, no square or quotient of finite f32 overflows. */
typedef struct llmi_line {
    const double *x;
    size_t n;
    int low, high, below;              /* low < 0: least is 0; below: it is at most 0           */
    double x1, x2;                     /* sums of x, x^2                                        */
    double q1, q2, qx;                 /* of q, q^2, q x; q as last rounded                     */
    double scale, least, error;        /* the best so far                                       */
} llmi_line;

/* q nearest to x on the line (scale, least), and q - low to b if not NULL -> squared error */
static double llmi_line_round(llmi_line *line, double scale, double least, unsigned char *b) {
    const double inverse = scale != 0 ? 1 / scale : 0, n = (double)line->n;
    const int most = line->high - line->low;
    double q1 = 0, q2 = 0, qx = 0;
    size_t i;
    for (i = 0; i < line->n; i++) {
        const double at = (line->x[i] - least) * inverse - line->low + 0.5;
        const int whole = at > 0 ? at < most ? (int)at : most : 0;
        const double q = whole + line->low;
        if (b) b[i] = (unsigned char)whole;
        q1 += q;
        q2 += q * q;
        qx += q * line->x[i];
    }
    line->q1 = q1;
    line->q2 = q2;
    line->qx = qx;
    return line->x2 + scale * (scale * q2 - 2 * qx + 2 * least * q1) +
           least * (n * least - 2 * line->x1);
}

/* the line of least squares through the q nearest to (scale, least), if it is the best so far */
static void llmi_line_refit(llmi_line *line, double scale, double least) {
    const double n = (double)line->n;
    double bend, error;
    llmi_line_round(line, scale, least, NULL);
    bend = n * line->q2 - line->q1 * line->q1;
    scale = bend > 0 ? (n * line->qx - line->q1 * line->x1) / bend : 0;
    least = (line->x1 - scale * line->q1) / n;
    if (line->low < 0 || (line->below && least > 0)) {
        scale = line->q2 > 0 ? line->qx / line->q2 : 0;
        least = 0;
    }
    error = line->x2 - scale * line->qx - least * line->x1;
    if (error >= line->error) return;
    line->scale = scale;
    line->least = least;
    line->error = error;
}

/* How well the values fall on a line's steps is luck, so many are tried: with least 0, the value
 * farthest from 0 lies from half a step beyond either end to 3 within; otherwise the smallest and
 * the largest value lie within 0.6 steps of the ends. */
static llmi_line llmi_line_fit(const double *x, size_t n, int low, int high, int below) {
    llmi_line line = {x, n, low, high, below, 0, 0, 0, 0, 0, 0, 0, HUGE_VAL};
    double from = below ? 0 : x[0], to = x[0], step;
    size_t k;
    int i, j;
    for (k = 0; k < n; k++) {
        line.x1 += x[k];
        line.x2 += x[k] * x[k];
        from = x[k] < from ? x[k] : from;
        to = x[k] > to ? x[k] : to;
    }
    step = (to - from) / high;
    for (i = 0; i < 20 && low < 0; i++)
        llmi_line_refit(&line, (-from > to ? from : to) * (i % 2 ? 1 : -1) /
                               (0.5 - low - i / 2 * (3.5 / 9)), 0);
    for (i = -3; i <= 3 && low == 0; i += 2)
        for (j = -3; j <= 3; j += 2)
            llmi_line_refit(&line, step * (1 + 0.2 * (j - i) / high), from + 0.2 * i * step);
    for (i = 0; i < 2; i++) llmi_line_refit(&line, line.scale, line.least);
    return line;
}

/* the f16 nearest to value, or the next one away from 0, at most 65504 -> its value */
static double llmi_half(uint16_t *half, double value, int away) {
    value = value > 65504 ? 65504 : value < -65504 ? -65504 : value;
    *half = llmi_f32_to_f16((float)value);
    if (away && fabs((double)llmi_f16_to_f32(*half)) < fabs(value)) ++*half;
    return (double)llmi_f16_to_f32(*half);
}
static double llmi_finite(float x) { return fabsf(x) <= FLT_MAX ? (double)x : 0; }
/* the low halves of 2 n values, those of the second n next to those of the first */
static unsigned char *llmi_put_halves(unsigned char *b, const unsigned char *q, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) *b++ = (unsigned char)((q[i] & 15u) | (q[i + n] & 15u) << 4);
    return b;
}
/* blocks of 32 values; their layouts stand at llmi_blocks_open_32 */
static void llmi_encode_32(void *to, const float *from, size_t n_blocks, int low, int high) {
    unsigned char *b = (unsigned char *)to, q[32];
    double x[32];
    for (; n_blocks; n_blocks--, from += 32) {
        uint16_t d_half[2], m_half = 0;
        double d[2], m = 0;
        llmi_line line;
        int i, j;
        for (i = 0; i < 32; i++) x[i] = llmi_finite(from[i]);
        line = llmi_line_fit(x, 32, low, high, 0);
        if (low == 0) m = llmi_half(&m_half, line.least, 0);
        for (i = 0; i < 2; i++) d[i] = llmi_half(&d_half[i], line.scale, i);
        i = llmi_line_round(&line, d[1], m, q) < llmi_line_round(&line, d[0], m, q);
        llmi_line_round(&line, d[i], m, q);
        llmi_put_little(b, d_half[i] | (uint32_t)m_half << 16, low == 0 ? 4 : 2);
        b += low == 0 ? 4 : 2;
        for (i = 0; i < 4 && high - low == 31; i++, b++)
            for (*b = 0, j = 0; j < 8; j++) *b = (unsigned char)(*b | q[8 * i + j] >> 4 << j);
        for (i = 0; i < 32 && high == 127; i++) *b++ = (unsigned char)(q[i] + low);
        if (high != 127) b = llmi_put_halves(b, q, 16);
    }
}

/* 256 values in n parts; the line of part p is (d scale[p], -m least[p]) */
typedef struct llmi_super {
    llmi_line part[16];
    size_t n;
    int scale[16], least[16];
    double d, m, error;
    uint16_t d_half, m_half;
} llmi_super;

/* d and m become f16; each part takes the best whole numbers next to those of its own line */
static void llmi_super_choose(llmi_super *s, int away) {
    const int low = s->part[0].low < 0 ? -128 : 0, high = s->part[0].low < 0 ? 127 : 63;
    size_t p;
    s->d = llmi_half(&s->d_half, s->d, away);
    s->m = llmi_half(&s->m_half, s->m, away);
    s->error = 0;
    for (p = 0; p < s->n; p++) {
        llmi_line *part = &s->part[p];
        const double a = s->d != 0 ? floor(part->scale / s->d + 0.5) : 0;
        const double c = s->m != 0 ? floor(-part->least / s->m + 0.5) : 0;
        const int a0 = a < low + 1 ? low + 1 : a > high - 1 ? high - 1 : (int)a;
        const int c0 = c < 1 ? 1 : c > 62 ? 62 : (int)c;
        double best = HUGE_VAL;
        int i, j;
        for (i = a0 - 1; i <= a0 + 1; i++)
            for (j = s->m != 0 ? c0 - 1 : 0; j <= (s->m != 0 ? c0 + 1 : 0); j++) {
                const double error = llmi_line_round(part, s->d * i, -s->m * j, NULL);
                if (error >= best) continue;
                best = error;
                s->scale[p] = i;
                s->least[p] = j;
            }
        s->error += best;
    }
}

/* d and m of least squares for the whole numbers given */
static void llmi_super_refit(llmi_super *s) {
    double aa = 0, ac = 0, cc = 0, ax = 0, cx = 0, bend;
    size_t p;
    for (p = 0; p < s->n; p++) {
        llmi_line *part = &s->part[p];
        const double a = s->scale[p], c = -s->least[p];
        llmi_line_round(part, s->d * a, s->m * c, NULL);
        aa += a * a * part->q2;
        ac += a * c * part->q1;
        cc += c * c * (double)part->n;
        ax += a * part->qx;
        cx += c * part->x1;
    }
    bend = aa * cc - ac * ac;
    if (bend > 0) {
        s->d = (ax * cc - cx * ac) / bend;
        s->m = (cx * aa - ax * ac) / bend;
    } else if (aa > 0) s->d = ax / aa;
}

static void llmi_super_fit(llmi_super *s, const double *x, int low, int high, unsigned char *q) {
    const size_t size = low < 0 ? 16 : 32;
    llmi_super trial;
    size_t p;
    int i;
    memset(&trial, 0, sizeof trial);
    trial.n = 256 / size;
    for (p = 0; p < trial.n; p++) {
        const llmi_line line = llmi_line_fit(x + p * size, size, low, high, 1);
        trial.part[p] = line;
        if (fabs(line.scale) > trial.d) trial.d = fabs(line.scale);
        if (-line.least > trial.m) trial.m = -line.least;
    }
    trial.d /= low < 0 ? 127 : 63;
    trial.m /= 63;
    for (i = 0; i < 3; i++) {          /* away from 0 first: no part is out of reach             */
        if (i) llmi_super_refit(&trial);
        llmi_super_choose(&trial, i == 0);
        if (i == 0 || trial.error < s->error) *s = trial;
    }
    for (p = 0; p < s->n; p++)
        llmi_line_round(&s->part[p], s->d * s->scale[p], -s->m * s->least[p], q + p * size);
}

/* blocks of 256 values; their layouts stand at llmi_blocks_open_k */
static void llmi_encode_k(void *to, const float *from, size_t n_blocks, int low, int high) {
    unsigned char *b = (unsigned char *)to, q[256];
    double x[256];
    llmi_super s;
    size_t i, j;
    for (; n_blocks; n_blocks--, from += 256) {
        for (i = 0; i < 256; i++) x[i] = llmi_finite(from[i]);
        llmi_super_fit(&s, x, low, high, q);
        if (low < 0) {
            for (i = 0; i < 2; i++) b = llmi_put_halves(b, q + 128 * i, 64);
            for (i = 0; i < 64; i++) {
                const unsigned char *p = q + i / 32 * 128 + i % 32;
                *b++ = (unsigned char)(p[0] >> 4 | p[32] >> 4 << 2 | p[64] >> 4 << 4 |
                                       p[96] >> 4 << 6);
            }
            for (i = 0; i < 16; i++) *b++ = (unsigned char)(s.scale[i] & 255);
            llmi_put_little(b, s.d_half, 2);
            b += 2;
            continue;
        }
        llmi_put_little(b, s.d_half | (uint32_t)s.m_half << 16, 4);
        for (i = 0; i < 4; i++) {
            b[4 + i] = (unsigned char)(s.scale[i] | s.scale[i + 4] >> 4 << 6);
            b[8 + i] = (unsigned char)(s.least[i] | s.least[i + 4] >> 4 << 6);
            b[12 + i] = (unsigned char)((s.scale[i + 4] & 15) | (s.least[i + 4] & 15) << 4);
        }
        b += 16;
        for (i = 0; i < 32 && high == 31; i++, b++)
            for (*b = 0, j = 0; j < 8; j++) *b = (unsigned char)(*b | q[32 * j + i] >> 4 << j);
        for (i = 0; i < 4; i++) b = llmi_put_halves(b, q + 64 * i, 32);
    }
}

/* n values of whole blocks, as the type has them: F8 without a scale. Q8_0 leaves -128 out. */
static void llmi_encode(llm_dtype type, void *to, const float *from, size_t n) {
    unsigned char *b = (unsigned char *)to;
    size_t i;
    for (i = 0; i < n && type < LLM_Q8_0; i++)
        if (type == LLM_F32) llmi_put_little(b + 4 * i, llmi_bits_of_float(from[i]), 4);
        else if (type == LLM_F16) llmi_put_little(b + 2 * i, llmi_f32_to_f16(from[i]), 2);
        else if (type == LLM_BF16) llmi_put_little(b + 2 * i, llmi_f32_to_bf16(from[i]), 2);
        else b[i] = llmi_f32_to_f8(from[i]);
    n /= llmi_types[type].block;
    if (type == LLM_Q8_0) llmi_encode_32(to, from, n, -127, 127);
    if (type == LLM_Q4_0) llmi_encode_32(to, from, n, -8, 7);
    if (type == LLM_Q4_1) llmi_encode_32(to, from, n, 0, 15);
    if (type == LLM_Q5_0) llmi_encode_32(to, from, n, -16, 15);
    if (type == LLM_Q5_1) llmi_encode_32(to, from, n, 0, 31);
    if (type == LLM_Q4_K) llmi_encode_k(to, from, n, 0, 15);
    if (type == LLM_Q5_K) llmi_encode_k(to, from, n, 0, 31);
    if (type == LLM_Q6_K) llmi_encode_k(to, from, n, -32, 31);
}

static llm_result llmi_check_dtype(const void *to, const void *from, llm_dtype dtype, size_t n,
                                   llm_error *err) {
    if (!to || !from) return llmi_fail(err, LLM_ERR_ARGUMENT, "dtype: an array is NULL");
    if (dtype < LLM_F32 || dtype > LLM_Q6_K)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "dtype %d (%s) is not in [%d, %d], F32 to Q6_K",
                         (int)dtype, dtype == LLM_I32 ? "I32" : "none", LLM_F32, LLM_Q6_K);
    if (n % llmi_types[dtype].block)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "%lu values are no multiple of %lu, a block of %s",
                         (unsigned long)n, (unsigned long)llmi_types[dtype].block,
                         llmi_types[dtype].name);
    return LLM_OK;
}
LLM_API llm_result llm_dtype_decode(float *values, const void *from, llm_dtype dtype, size_t n,
                                    llm_error *err) {
    LLMI_TRY(llmi_check_dtype(values, from, dtype, n, err));
    llmi_decode(dtype, values, from, n);
    return LLM_OK;
}
LLM_API llm_result llm_dtype_encode(void *to, llm_dtype dtype, const float *values, size_t n,
                                    llm_error *err) {
    LLMI_TRY(llmi_check_dtype(to, values, dtype, n, err));
    llmi_encode(dtype, to, values, n);
    return LLM_OK;
}

/* ============================================================================================
 * >>random       counter-based random numbers, the same on every machine
 * ========================================================================================== */
LLM_API uint64_t llm_random(uint64_t seed, uint64_t n) {
    uint64_t z = seed + (n + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

LLM_API float llm_random_uniform(uint64_t seed, uint64_t n) {
    return (float)(llm_random(seed, n) >> 40) * (1.0f / 16777216.0f);
}

LLM_API float llm_random_normal(uint64_t seed, uint64_t n) {
    int32_t sum = 0, i;
    for (i = 0; i < 3; i++) {
        const uint64_t z = llm_random(seed, 3 * n + (uint64_t)i);
        sum += (int32_t)(z & 0xffff) + (int32_t)(z >> 16 & 0xffff) + (int32_t)(z >> 32 & 0xffff) +
               (int32_t)(z >> 48);
    }
    return (float)(sum - 12 * 65535 / 2) * (1.0f / 65536.0f);
}

/* ============================================================================================
 * >>json         UTF-8, a growing buffer for text, and a strict reader of JSON (RFC 8259)
 * ========================================================================================== */

/* the character at the start of n bytes -> its length, 1 to 4; 0 if broken or incomplete there */
static size_t llmi_utf8_decode(const char *text, size_t n, uint32_t *code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    const uint32_t lead = n ? (unsigned char)text[0] : 0xFF;
    const size_t size = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint32_t c = size == 1 ? lead : size == 2 ? lead & 31 : size == 3 ? lead & 15 : lead & 7;
    size_t i;
    if (lead > 0xF4 || size > n) return 0;
    for (i = 1; i < size; i++) {
        const uint32_t next = (unsigned char)text[i];
        if ((next & 0xC0) != 0x80) return 0;
        c = c << 6 | (next & 63);
    }
    if (c < smallest[size] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0;
    *code = c;
    return size;
}

static size_t llmi_utf8_encode(char out[4], uint32_t code) {     /* -> bytes written */
    const size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint32_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t i;
    for (i = size; i-- > 1; code >>= 6) out[i] = (char)(0x80 | (code & 63));
    out[0] = (char)(lead[size] | code);
    return size;
}

/* ---- text being written: a failure sticks, and is looked at once, at the end -------------- */
typedef struct llmi_text {
    char *data;
    size_t size, capacity;
    const llm_allocator *allocator;
    llm_result failed;
} llmi_text;

static int llmi_text_reserve(llmi_text *text, size_t n) {        /* room for n more bytes? */
    void *data = text->data;
    const size_t need = llmi_add(text->size, n);
    if (text->failed == LLM_OK && need > text->capacity) {
        text->failed = llmi_grow(text->allocator, &data, &text->capacity, text->size,
                                 llmi_max(need, 256), "text", NULL);
        text->data = (char *)data;
    }
    return text->failed == LLM_OK;
}

static void llmi_text_add(llmi_text *text, const char *bytes, size_t n) {
    if (!n || !llmi_text_reserve(text, n)) return;
    memcpy(text->data + text->size, bytes, n);
    text->size += n;
}

/* Not for %f, %e and %g where the text is JSON: they follow the locale's decimal point. */
LLMI_PRINTF(2, 3)
static void llmi_text_format(llmi_text *text, const char *format, ...) {
    char line[512];
    va_list arguments;
    int n;
    va_start(arguments, format);
    n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= sizeof line) text->failed = LLM_ERR_ARGUMENT;
    else llmi_text_add(text, line, (size_t)n);
}

/* a JSON string with its quotes; a byte that is not UTF-8 becomes U+FFFD */
static void llmi_text_string(llmi_text *text, const char *bytes, size_t n) {
    size_t i = 0, plain = 0;
    llmi_text_add(text, "\"", 1);
    while (i < n) {
        uint32_t code = 0;
        const size_t size = llmi_utf8_decode(bytes + i, n - i, &code);
        const int escape = size == 0 || code < 32 || code == '"' || code == '\\';
        if (escape) {
            llmi_text_add(text, bytes + plain, i - plain);
            if (size && code >= 32) llmi_text_format(text, "\\%c", (int)code);
            else llmi_text_format(text, "\\u%04x", size ? (unsigned)code : 0xFFFDu);
        }
        i += llmi_max(size, 1);
        if (escape) plain = i;
    }
    llmi_text_add(text, bytes + plain, n - plain);
    llmi_text_add(text, "\"", 1);
}

/* Writes a value in the fewest digits, but at least `digits`, that read back as the same float.
 * printf writes a decimal comma in some locales. */
static void llmi_text_number(llmi_text *text, float value, int digits) {
    char number[40];
    size_t i;
    int whole = 1;
    do snprintf(number, sizeof number, "%.*g", digits, (double)value);
    while (digits++ < 9 &&
           llmi_bits_of_float((float)strtod(number, NULL)) != llmi_bits_of_float(value));
    for (i = 0; number[i]; i++) {
        if (!strchr("0123456789+-e", number[i])) number[i] = '.';
        whole = whole && number[i] != '.' && number[i] != 'e';
    }
    llmi_text_add(text, number, i);
    if (whole) llmi_text_add(text, ".0", 2);           /* 1 is no float to transformers */
}

static void llmi_text_free(llmi_text *text) {
    llmi_release(text->allocator, text->data);
    text->data = NULL;
    text->size = text->capacity = 0;
}

/* the last n bytes of a name, with the file's name, where a message has no room for all of it */
static const char *llmi_path_end(const char *name, size_t n) {
    const size_t size = strlen(name);
    return size > n ? name + size - n : name;
}

static int llmi_ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---- a parsed document: nodes over text that the caller keeps ------------------------------ */
typedef enum llmi_json_type {
    LLMI_JSON_NULL, LLMI_JSON_FALSE, LLMI_JSON_TRUE, LLMI_JSON_NUMBER, LLMI_JSON_STRING,
    LLMI_JSON_ARRAY, LLMI_JSON_OBJECT
} llmi_json_type;

/* Nodes stand in the order of the text: the first child of an array or object is the next node. An
 * object's children are key, value, key, ... */
typedef struct llmi_json_node {
    uint32_t begin, end;          /* bytes of the text; of a string, inside its quotes           */
    int n_children;               /* items of an array, pairs of an object                       */
    int next;                     /* node, -1 = none                                             */
    uint8_t type;                 /* llmi_json_type                                              */
} llmi_json_node;

typedef struct llmi_json {
    const char *name;             /* for messages */
    const char *text;
    size_t size;
    llmi_json_node *nodes;        /* the root is node 0 */
    int n_nodes;
    const llm_allocator *allocator;
} llmi_json;

static void llmi_json_free(llmi_json *json) {
    llmi_release(json->allocator, json->nodes);
    json->nodes = NULL;
    json->n_nodes = 0;
}

static int llmi_json_first(const llmi_json *json, int list) {    /* its first child, -1 = none */
    return json->nodes[list].n_children ? list + 1 : -1;
}

static uint32_t llmi_json_hex(const char *text) {                /* of four digits that are valid */
    uint32_t value = 0;
    int i;
    for (i = 0; i < 4; i++) {
        const uint32_t c = (unsigned char)text[i];
        value = value << 4 | (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

/* reads a string's decoded bytes, one after the other */
typedef struct llmi_json_cursor {
    const char *text;
    size_t at, end;
    char unit[4];                 /* what one escape stands for */
    size_t n_unit, i_unit;
} llmi_json_cursor;

static llmi_json_cursor llmi_json_open(const llmi_json *json, int node) {
    llmi_json_cursor cursor;
    memset(&cursor, 0, sizeof cursor);
    cursor.text = json->text;
    cursor.at = json->nodes[node].begin;
    cursor.end = json->nodes[node].end;
    return cursor;
}

static int llmi_json_byte(llmi_json_cursor *cursor) {            /* -1 = no more */
    const char *text = cursor->text + cursor->at;
    if (cursor->i_unit < cursor->n_unit) return (unsigned char)cursor->unit[cursor->i_unit++];
    if (cursor->at == cursor->end) return -1;
    if (text[0] != '\\') {
        cursor->at++;
        return (unsigned char)text[0];
    }
    cursor->at += 2;
    if (text[1] == 'u') {
        uint32_t code = llmi_json_hex(text + 2);
        cursor->at += 4;
        if (code >= 0xD800 && code < 0xDC00) {
            code = 0x10000 + ((code - 0xD800) << 10) + (llmi_json_hex(text + 8) - 0xDC00);
            cursor->at += 6;
        }
        cursor->n_unit = llmi_utf8_encode(cursor->unit, code);
        cursor->i_unit = 1;
        return (unsigned char)cursor->unit[0];
    }
    switch (text[1]) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return text[1];
    }
}

static int llmi_json_compare(const llmi_json *json, int a, int b) {      /* two strings, by bytes */
    llmi_json_cursor left = llmi_json_open(json, a), right = llmi_json_open(json, b);
    for (;;) {
        const int x = llmi_json_byte(&left), y = llmi_json_byte(&right);
        if (x != y) return x < y ? -1 : 1;
        if (x < 0) return 0;
    }
}

typedef struct llmi_json_key { uint64_t hash; int node; } llmi_json_key;

static int llmi_json_key_less(const llmi_json *json, const llmi_json_key *a,
                              const llmi_json_key *b) {
    return a->hash != b->hash ? a->hash < b->hash : llmi_json_compare(json, a->node, b->node) < 0;
}

static void llmi_json_sift(const llmi_json *json, llmi_json_key *keys, size_t i, size_t n) {
    const llmi_json_key moved = keys[i];
    size_t child;
    while ((child = 2 * i + 1) < n) {
        if (child + 1 < n && llmi_json_key_less(json, &keys[child], &keys[child + 1])) child++;
        if (!llmi_json_key_less(json, &moved, &keys[child])) break;
        keys[i] = keys[child];
        i = child;
    }
    keys[i] = moved;
}

/* Sorts the keys, by hash and then by content, so that no choice of keys makes it slow.
 * *twice = a key that is there twice, or -1 */
static llm_result llmi_json_duplicate(const llmi_json *json, int object, int *twice,
                                      llm_error *err) {
    const size_t n = (size_t)json->nodes[object].n_children;
    llmi_json_key few[16], *keys = few;
    size_t i = 0;
    int node;
    *twice = -1;
    if (n > 16) {
        keys = (llmi_json_key *)llmi_alloc(json->allocator, llmi_mul(n, sizeof *keys), "JSON keys",
                                           err);
        if (!keys) return LLM_ERR_MEMORY;
    }
    for (node = llmi_json_first(json, object); node >= 0; i++) {
        llmi_json_cursor cursor = llmi_json_open(json, node);
        uint64_t hash = 14695981039346656037u;
        int byte;
        while ((byte = llmi_json_byte(&cursor)) >= 0)
            hash = (hash ^ (uint64_t)byte) * 1099511628211u;
        keys[i].hash = hash;
        keys[i].node = node;
        node = json->nodes[json->nodes[node].next].next;
    }
    for (i = n / 2; i-- > 0;) llmi_json_sift(json, keys, i, n);
    for (i = n; i-- > 1;) {
        const llmi_json_key largest = keys[0];
        keys[0] = keys[i];
        keys[i] = largest;
        llmi_json_sift(json, keys, 0, i);
    }
    for (i = 1; i < n && *twice < 0; i++)
        if (keys[i - 1].hash == keys[i].hash &&
            !llmi_json_compare(json, keys[i - 1].node, keys[i].node))
            *twice = keys[i - 1].node > keys[i].node ? keys[i - 1].node : keys[i].node;
    if (keys != few) llmi_release(json->allocator, keys);
    return LLM_OK;
}

#define LLMI_JSON_DEPTH 64           /* arrays and objects within each other */

typedef struct llmi_json_parser {
    llmi_json *json;
    size_t at;                    /* next byte */
    int n_room;                   /* nodes that there is room for */
    llm_error *err;
} llmi_json_parser;

static llm_result llmi_json_bad(const llmi_json_parser *p, const char *what) {
    return llmi_fail(p->err, LLM_ERR_FORMAT, "%s: %s at byte %lu", p->json->name, what,
                     (unsigned long)p->at);
}

static int llmi_json_peek(const llmi_json_parser *p) {           /* -1 at the end */
    return p->at < p->json->size ? (unsigned char)p->json->text[p->at] : -1;
}

static int llmi_json_token(llmi_json_parser *p) {                /* the next that is not space */
    int c;
    while ((c = llmi_json_peek(p)) == ' ' || c == '\n' || c == '\r' || c == '\t') p->at++;
    return c;
}

static llm_result llmi_json_add(llmi_json_parser *p, llmi_json_type type, int *index) {
    llmi_json_node *node;
    if (p->json->n_nodes == p->n_room) return llmi_json_bad(p, "unexpected value");
    *index = p->json->n_nodes++;
    node = &p->json->nodes[*index];
    node->type = (uint8_t)type;
    node->begin = node->end = (uint32_t)p->at;
    node->n_children = 0;
    node->next = -1;
    return LLM_OK;
}

/* At least as many nodes as the text has: each but the first follows one of "[{,:"; and each takes
 * two bytes, that one and its own, but for those that are open at a time. */
static size_t llmi_json_bound(const char *text, size_t size) {
    size_t n = 1, i;
    int in_string = 0;
    for (i = 0; i < size; i++) {
        const char c = text[i];
        if (c == '"') in_string = !in_string;
        else if (in_string) i += c == '\\';
        else n += c == ',' || c == ':' || c == '[' || c == '{';
    }
    return llmi_min(n, size / 2 + LLMI_JSON_DEPTH);
}

static int llmi_json_is_hex(const llmi_json_parser *p, size_t at) {
    size_t i;
    if (p->json->size - at < 4) return 0;
    for (i = at; i < at + 4; i++) {
        const int c = p->json->text[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))) return 0;
    }
    return 1;
}

static llm_result llmi_json_parse_string(llmi_json_parser *p, int *index) {
    const char *text = p->json->text;
    const size_t size = p->json->size;
    p->at++;
    LLMI_TRY(llmi_json_add(p, LLMI_JSON_STRING, index));
    while (p->at < size && text[p->at] != '"') {
        const unsigned char c = (unsigned char)text[p->at];
        if (c < 32) return llmi_json_bad(p, "control character in a string");
        if (c >= 0x80) {
            uint32_t code;
            const size_t n = llmi_utf8_decode(text + p->at, size - p->at, &code);
            if (!n) return llmi_json_bad(p, "invalid UTF-8");
            p->at += n;
        } else if (c != '\\') {
            p->at++;
        } else if (size - p->at >= 2 && text[p->at + 1] == 'u') {
            uint32_t code;
            if (!llmi_json_is_hex(p, p->at + 2)) return llmi_json_bad(p, "invalid \\u escape");
            code = llmi_json_hex(text + p->at + 2);
            if (code >= 0xD800 && code < 0xE000) { /* a pair of surrogates or nothing */
                uint32_t low = 0;
                if (size - p->at >= 12 && text[p->at + 6] == '\\' && text[p->at + 7] == 'u' &&
                    llmi_json_is_hex(p, p->at + 8))
                    low = llmi_json_hex(text + p->at + 8);
                if (code >= 0xDC00 || low < 0xDC00 || low >= 0xE000)
                    return llmi_json_bad(p, "lone surrogate");
                p->at += 6;
            }
            p->at += 6;
        } else {
            if (size - p->at < 2 || !text[p->at + 1] || !strchr("\"\\/bfnrt", text[p->at + 1]))
                return llmi_json_bad(p, "invalid escape");
            p->at += 2;
        }
    }
    if (p->at == size) return llmi_json_bad(p, "string without end");
    p->json->nodes[*index].end = (uint32_t)p->at++;
    return LLM_OK;
}

static int llmi_json_digits(llmi_json_parser *p) {               /* how many there were */
    int n = 0, c;
    while ((c = llmi_json_peek(p)) >= '0' && c <= '9') {
        p->at++;
        n = 1;
    }
    return n;
}

static llm_result llmi_json_parse_number(llmi_json_parser *p, int *index) {
    LLMI_TRY(llmi_json_add(p, LLMI_JSON_NUMBER, index));
    if (llmi_json_peek(p) == '-') p->at++;
    if (llmi_json_peek(p) == '0') p->at++;
    else if (!llmi_json_digits(p)) return llmi_json_bad(p, "invalid number");
    if (llmi_json_peek(p) == '.') {
        p->at++;
        if (!llmi_json_digits(p)) return llmi_json_bad(p, "invalid number");
    }
    if (llmi_json_peek(p) == 'e' || llmi_json_peek(p) == 'E') {
        p->at++;
        if (llmi_json_peek(p) == '-' || llmi_json_peek(p) == '+') p->at++;
        if (!llmi_json_digits(p)) return llmi_json_bad(p, "invalid number");
    }
    p->json->nodes[*index].end = (uint32_t)p->at;
    return LLM_OK;
}

static llm_result llmi_json_parse_word(llmi_json_parser *p, const char *word, llmi_json_type type,
                                       int *index) {
    const size_t n = strlen(word);
    if (p->json->size - p->at < n || memcmp(p->json->text + p->at, word, n) != 0)
        return llmi_json_bad(p, "invalid value");
    LLMI_TRY(llmi_json_add(p, type, index));
    p->at += n;
    p->json->nodes[*index].end = (uint32_t)p->at;
    return LLM_OK;
}

static llm_result llmi_json_parse_value(llmi_json_parser *p, int depth, int *index) {
    const int c = llmi_json_token(p);
    const int is_object = c == '{';
    const char close = is_object ? '}' : ']';
    int last = -1, twice = -1;
    switch (c) {
    case '{': case '[': break;
    case '"': return llmi_json_parse_string(p, index);
    case 'n': return llmi_json_parse_word(p, "null", LLMI_JSON_NULL, index);
    case 't': return llmi_json_parse_word(p, "true", LLMI_JSON_TRUE, index);
    case 'f': return llmi_json_parse_word(p, "false", LLMI_JSON_FALSE, index);
    case -1: return llmi_json_bad(p, "unexpected end");
    default:
        if (c == '-' || (c >= '0' && c <= '9')) return llmi_json_parse_number(p, index);
        return llmi_json_bad(p, "invalid value");
    }
    if (depth == LLMI_JSON_DEPTH) return llmi_json_bad(p, "nested more than 64 deep");
    LLMI_TRY(llmi_json_add(p, is_object ? LLMI_JSON_OBJECT : LLMI_JSON_ARRAY, index));
    p->at++;
    while (llmi_json_token(p) != close) {
        int child = -1, key = -1;
        if (last >= 0) {
            if (llmi_json_peek(p) != ',')
                return llmi_json_bad(p, "',' or the end of a list missing");
            p->at++;
        }
        if (is_object) {
            if (llmi_json_token(p) != '"') return llmi_json_bad(p, "key missing");
            LLMI_TRY(llmi_json_parse_string(p, &key));
            if (llmi_json_token(p) != ':') return llmi_json_bad(p, "':' missing");
            p->at++;
        }
        LLMI_TRY(llmi_json_parse_value(p, depth + 1, &child));
        if (is_object) p->json->nodes[key].next = child;
        else key = child;
        if (last >= 0) p->json->nodes[last].next = key;
        last = child;
        p->json->nodes[*index].n_children++;
    }
    p->json->nodes[*index].end = (uint32_t)++p->at;
    if (is_object) LLMI_TRY(llmi_json_duplicate(p->json, *index, &twice, p->err));
    if (twice >= 0) {
        p->at = p->json->nodes[twice].begin;
        return llmi_json_bad(p, "key given twice");
    }
    return LLM_OK;
}

/* RFC 8259 to the letter, and no key twice in an object; name and text must outlive json */
static llm_result llmi_json_parse(llmi_json *json, const char *text, size_t size, const char *name,
                                  const llm_allocator *allocator, llm_error *err) {
    llmi_json_parser parser;
    llm_result result;
    int root = -1;
    memset(json, 0, sizeof *json);
    json->name = llmi_path_end(name, 100);
    json->text = text;
    json->size = size;
    json->allocator = allocator;
    memset(&parser, 0, sizeof parser);
    parser.json = json;
    parser.err = err;
    if (size > INT_MAX)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%s: %lu bytes of JSON, at most %d are read",
                         json->name, (unsigned long)size, INT_MAX);
    parser.n_room = (int)llmi_json_bound(text, size);
    json->nodes = (llmi_json_node *)llmi_alloc(
        allocator, llmi_mul((size_t)parser.n_room, sizeof *json->nodes), "JSON values", err);
    if (!json->nodes) return LLM_ERR_MEMORY;
    result = llmi_json_parse_value(&parser, 0, &root);
    if (result == LLM_OK && llmi_json_token(&parser) != -1)
        result = llmi_json_bad(&parser, "more after the end of the value");
    if (result != LLM_OK) llmi_json_free(json);
    return result;
}

static int llmi_json_is(const llmi_json *json, int node, const char *string) {
    llmi_json_cursor cursor;
    int byte;
    if (node < 0 || json->nodes[node].type != LLMI_JSON_STRING) return 0;
    cursor = llmi_json_open(json, node);
    while ((byte = llmi_json_byte(&cursor)) > 0 && byte == (unsigned char)*string) string++;
    return byte < 0 && !*string;
}

/* the value of a key, -1 if absent or not an object; looks through all keys */
static int llmi_json_get(const llmi_json *json, int object, const char *key) {
    int node = object >= 0 && json->nodes[object].type == LLMI_JSON_OBJECT
                   ? llmi_json_first(json, object) : -1;
    while (node >= 0) {
        const int value = json->nodes[node].next;
        if (llmi_json_is(json, node, key)) return value;
        node = json->nodes[value].next;
    }
    return -1;
}

/* decoded bytes of a string, not terminated -> their number, even where capacity is smaller */
static size_t llmi_json_string(const llmi_json *json, int node, char *out, size_t capacity) {
    llmi_json_cursor cursor;
    size_t n = 0;
    int byte;
    if (node < 0 || json->nodes[node].type != LLMI_JSON_STRING) return 0;
    cursor = llmi_json_open(json, node);
    for (; (byte = llmi_json_byte(&cursor)) >= 0; n++)
        if (n < capacity) out[n] = (char)byte;
    return n;
}

/* 1 if it is a number that a double can hold. The digits go to strtod without a point, which
 * would depend on the locale: "12.5e3" as "125e2". */
static int llmi_json_number(const llmi_json *json, int node, double *value) {
    char digits[128];
    size_t i, n = 0;
    int64_t exponent = 0, written = 0;
    int after_point = 0, rest = 0, negative = 0;
    if (node < 0 || json->nodes[node].type != LLMI_JSON_NUMBER) return 0;
    for (i = json->nodes[node].begin; i < json->nodes[node].end; i++) {
        const char c = json->text[i];
        if (c == 'e' || c == 'E') break;
        if (c == '.') after_point = 1;
        if (c < '0' || c > '9') continue;
        exponent -= after_point;
        if (n == 80) {
            exponent++;
            rest |= c != '0';
        } else if (n || c != '0') {
            digits[++n] = c;
        }
    }
    for (i++; i < json->nodes[node].end; i++) {
        if (json->text[i] == '-') negative = 1;
        else if (json->text[i] != '+' && written < 1000000000)
            written = 10 * written + (json->text[i] - '0');
    }
    exponent += (negative ? -written : written) - rest;
    digits[0] = json->text[json->nodes[node].begin] == '-' ? '-' : '+';
    if (rest) digits[++n] = '1';                                 /* for all that is beyond the 80 */
    if (!n) digits[++n] = '0';
    snprintf(digits + n + 1, sizeof digits - n - 1, "e%ld",
             (long)(exponent < -100000 ? -100000 : exponent > 100000 ? 100000 : exponent));
    *value = strtod(digits, NULL);
    return *value - *value == 0.0;
}

/* 1 if it is an integer within int64_t, written without fraction and exponent */
static int llmi_json_int64(const llmi_json *json, int node, int64_t *value) {
    uint64_t magnitude = 0;
    size_t i;
    int negative;
    if (node < 0 || json->nodes[node].type != LLMI_JSON_NUMBER) return 0;
    i = json->nodes[node].begin;
    negative = json->text[i] == '-';
    for (i += negative ? 1u : 0u; i < json->nodes[node].end; i++) {
        const uint64_t digit = (uint64_t)(unsigned char)json->text[i] - '0';
        if (digit > 9 || magnitude > ((uint64_t)INT64_MAX + 1 - digit) / 10) return 0;
        magnitude = 10 * magnitude + digit;
    }
    if (!negative && magnitude > (uint64_t)INT64_MAX) return 0;
    *value = !negative ? (int64_t)magnitude : magnitude ? -(int64_t)(magnitude - 1) - 1 : 0;
    return 1;
}

/* ============================================================================================
 * >>fields       members of a configuration: names, ranges, defaults, keys of config.json
 *
 * A row says once what validation, defaults, config.json, checkpoints and tools/inspect need of a
 * member of llm_config or llm_train_desc; the tables stand with what they describe.
 * ========================================================================================== */
typedef enum llmi_field_type {
    LLMI_INT, LLMI_FLOAT,
    LLMI_BOOL,                         /* an int: any value but 0 is true                      */
    LLMI_BOOL_NOT                      /* the same, and its key says the opposite               */
} llmi_field_type;
enum {
    LLMI_OF_MOE = 1,                   /* counts only where there are experts                   */
    LLMI_OURS = 2,                     /* transformers has no such key: written if it is not 0  */
    LLMI_OR_NULL = 4,                  /* 0 is written as null                                  */
    LLMI_NO_DEFAULT = 8,               /* the key must be there if model_type is another name   */
    LLMI_WRITTEN = 16,                 /* of a fixed value: config.json gets it                 */
    LLMI_PROLONGED = 32                /* may differ from the checkpoint's: see prolong         */
};
typedef struct llmi_field {
    const char *name;                  /* of the member */
    size_t offset;
    llmi_field_type type;
    const char *ends;                  /* of the range, as llmi_check_float has them; "" if the  */
    double low, high;                  /* range depends on other fields                         */
    double standard;                   /* what a zero stands for; 0: itself                     */
    int flags;
    const char *key, *alias;           /* in config.json; NULL: none                            */
    double absent;                     /* value of a key that is not there                      */
} llmi_field;
typedef struct llmi_fixed {            /* a key of config.json for which one value is supported  */
    const char *key, *values;          /* true, false, 1, or strings that mean the same: a|b    */
    int flags;
} llmi_fixed;

static double llmi_field_get(const void *object, const llmi_field *field) {
    const char *at = (const char *)object + field->offset;
    float real;
    int whole;
    memcpy(&real, at, sizeof real);
    memcpy(&whole, at, sizeof whole);
    return field->type == LLMI_FLOAT ? (double)real : (double)whole;
}
static void llmi_field_set(void *object, const llmi_field *field, double value) {
    char *at = (char *)object + field->offset;
    const float real = (float)value;
    const int whole = field->type == LLMI_FLOAT ? 0 : (int)value;
    if (field->type == LLMI_FLOAT) memcpy(at, &real, sizeof real);
    else memcpy(at, &whole, sizeof whole);
}

/* Zeros become what they stand for. off: LLM_OFF of a field that has such a default becomes 0. */
static void llmi_fields_resolve(void *object, const llmi_field *fields, size_t n, int off) {
    size_t i;
    for (i = 0; i < n; i++) {
        const double value = llmi_field_get(object, &fields[i]);
        if (fields[i].standard == 0.0) continue;
        if (value == 0.0) llmi_field_set(object, &fields[i], fields[i].standard);
        else if (off && fields[i].type == LLMI_FLOAT && value == (double)LLM_OFF)
            llmi_field_set(object, &fields[i], 0.0);
    }
}

/* of resolved fields. prefix: what a message begins with; moe: 0 leaves out what is of experts */
static llm_result llmi_fields_check(const char *prefix, const void *object,
                                    const llmi_field *fields, size_t n, int moe, llm_error *err) {
    size_t i;
    for (i = 0; i < n; i++) {
        const llmi_field *f = &fields[i];
        const double value = llmi_field_get(object, f);
        char name[64];
        if (!f->ends[0] || (!moe && f->flags & LLMI_OF_MOE)) continue;
        snprintf(name, sizeof name, "%s%s", prefix, f->name);
        if (f->type == LLMI_INT)
            LLMI_TRY(llmi_check_int(name, (int)value, (int)f->low, (int)f->high, err));
        if (f->type == LLMI_FLOAT)
            LLMI_TRY(llmi_check_float(name, value, f->ends, f->low, f->high, err));
    }
    return LLM_OK;
}

/* ---- config.json is read --------------------------------------------------------------------- */
typedef struct llmi_config_reader {
    int object;                        /* node that keys are looked up in */
    const llmi_json *json;
    llm_result result;
    llm_error *err;
} llmi_config_reader;

/* the value of a key or of its other name; -1 where absent or null */
static int llmi_config_node(const llmi_config_reader *reader, const char *key, const char *alias) {
    int node = llmi_json_get(reader->json, reader->object, key);
    if (node >= 0 && reader->json->nodes[node].type == LLMI_JSON_NULL) node = -1;
    if (node < 0 && alias) node = llmi_json_get(reader->json, reader->object, alias);
    return node >= 0 && reader->json->nodes[node].type == LLMI_JSON_NULL ? -1 : node;
}
static void llmi_config_bad(llmi_config_reader *reader, llm_result code, const char *key, int node,
                            const char *wanted) {
    const llmi_json_node *n;
    if (reader->result != LLM_OK) return;
    n = &reader->json->nodes[node];    /* there: only what follows a failure may have no node */
    reader->result = llmi_fail(reader->err, code, "%.100s: \"%s\" is %.*s, %s", reader->json->name,
                               key, (int)llmi_min(40, n->end - n->begin),
                               reader->json->text + n->begin, wanted);
}
/* A key and its other name must agree if both are there: versions of transformers differ in which
 * one they read. */
static void llmi_config_agree(llmi_config_reader *reader, const char *key, const char *alias) {
    const int a = llmi_config_node(reader, key, NULL);
    const int b = alias ? llmi_config_node(reader, alias, NULL) : -1;
    int64_t x, y;
    if (a >= 0 && b >= 0 && llmi_json_int64(reader->json, a, &x) &&
        !(llmi_json_int64(reader->json, b, &y) && x == y))
        llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, alias, b,
                        "but its other name has another value");
}
/* low: 0 or 1. null is 0 where that is in range, else as if the key were not there. */
static int llmi_config_int(llmi_config_reader *reader, const char *key, const char *alias, int low,
                           int absent) {
    int node = llmi_json_get(reader->json, reader->object, key);
    int64_t value;
    if (low) node = llmi_config_node(reader, key, alias);
    else if (node < 0 && alias) node = llmi_json_get(reader->json, reader->object, alias);
    if (node < 0) return absent;
    llmi_config_agree(reader, key, alias);
    if (reader->json->nodes[node].type == LLMI_JSON_NULL) return 0;
    if (llmi_json_int64(reader->json, node, &value) && value >= low && value <= INT_MAX)
        return (int)value;
    llmi_config_bad(reader, LLM_ERR_FORMAT, key, node,
                    low ? "not a whole number from 1 to 2147483647"
                        : "not a whole number from 0 to 2147483647");
    return absent;
}
/* positive: 0 is refused, as the model's configuration would take it for the default */
static float llmi_config_float(llmi_config_reader *reader, const char *key, int positive,
                               float absent) {
    const int node = llmi_config_node(reader, key, NULL);
    double value;
    if (node < 0) return absent;
    /* FLT_MAX in 9 digits is larger than it */
    if (!llmi_json_number(reader->json, node, &value) || !(value >= 0.0 && value <= 3.4028235e38)) {
        llmi_config_bad(reader, LLM_ERR_FORMAT, key, node, "not a number from 0 to 3.4028235e38");
        return absent;
    }
    if (positive && !((float)value > 0.0f))
        llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, key, node,
                        "only numbers above 0 are supported");
    return value < (double)FLT_MAX ? (float)value : FLT_MAX;
}
/* null is false: transformers takes it for None, and not for the default */
static int llmi_config_bool(llmi_config_reader *reader, const char *key, int absent) {
    const int node = llmi_json_get(reader->json, reader->object, key);
    if (node < 0) return absent;
    if (reader->json->nodes[node].type == LLMI_JSON_TRUE) return 1;
    if (reader->json->nodes[node].type != LLMI_JSON_FALSE &&
        reader->json->nodes[node].type != LLMI_JSON_NULL)
        llmi_config_bad(reader, LLM_ERR_FORMAT, key, node, "not true or false");
    return 0;
}

/* a value that has to be one of a|b|c, if it is there */
static void llmi_config_only(llmi_config_reader *reader, const char *key, const char *values) {
    const int is_bool = !strcmp(values, "true") || !strcmp(values, "false");
    const int node = is_bool ? llmi_json_get(reader->json, reader->object, key)
                             : llmi_config_node(reader, key, NULL);
    const char *value = values, *end;
    char wanted[100], one[40];
    size_t used;
    if (node < 0) return;
    used = (size_t)snprintf(wanted, sizeof wanted, "only ");
    for (;; value = end + 1) {
        end = strchr(value, '|') ? strchr(value, '|') : value + strlen(value);
        snprintf(one, sizeof one, "%.*s", (int)(end - value), value);
        if (is_bool ? llmi_config_bool(reader, key, 0) == (value[0] == 't')
            : !strcmp(one, "1") ? llmi_config_float(reader, key, 0, 1.0f) == 1.0f
                                : llmi_json_is(reader->json, node, one))
            return;
        used += (size_t)snprintf(wanted + used, sizeof wanted - used, "%s%s",
                                 value == values ? "" : *end ? ", " : " and ", one);
        if (!*end) break;
    }
    snprintf(wanted + used, sizeof wanted - used,
             strchr(values, '|') ? " are supported" : " is supported");
    llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, key, node, wanted);
}

static void llmi_field_read(llmi_config_reader *reader, const llmi_field *f, void *object) {
    double value;
    if (f->type == LLMI_INT)
        value = llmi_config_int(reader, f->key, f->alias, f->low >= 1.0, (int)f->absent);
    else if (f->type == LLMI_FLOAT)
        value = (double)llmi_config_float(reader, f->key, f->ends[0] == '(', (float)f->absent);
    else
        value = llmi_config_bool(reader, f->key, (int)f->absent) ^ (f->type == LLMI_BOOL_NOT);
    llmi_field_set(object, f, value);
}

/* ---- config.json and a checkpoint's description are written ---------------------------------- */
static void llmi_text_real(llmi_text *text, const char *key, float value) {
    llmi_text_format(text, "  \"%s\": ", key);
    llmi_text_number(text, value, 1);
    llmi_text_format(text, ",\n");
}
#ifndef LLM_NO_STDIO
static void llmi_field_write(llmi_text *text, const llmi_field *f, const void *object) {
    const double value = llmi_field_get(object, f);
    if (value == 0.0 && f->flags & LLMI_OURS) return;
    if (value == 0.0 && f->flags & LLMI_OR_NULL)
        llmi_text_format(text, "  \"%s\": null,\n", f->key);
    else if (f->type == LLMI_INT) llmi_text_format(text, "  \"%s\": %d,\n", f->key, (int)value);
    else if (f->type == LLMI_FLOAT) llmi_text_real(text, f->key, (float)value);
    else
        llmi_text_format(text, "  \"%s\": %s,\n", f->key,
                         (value != 0.0) == (f->type == LLMI_BOOL) ? "true" : "false");
}

/* a line for each: "name value" */
static void llmi_fields_describe(llmi_text *text, const void *object, const llmi_field *fields,
                                 size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        const double value = llmi_field_get(object, &fields[i]);
        llmi_text_format(text, "%s ", fields[i].name);
        if (fields[i].type == LLMI_FLOAT)      /* in 9 digits, as older files have it */
            llmi_text_number(text, (float)value, 9);
        else llmi_text_format(text, "%d", (int)value);
        llmi_text_add(text, "\n", 1);
    }
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>cpu          the table of kernels, one per instruction set; the text is in >>kernels
 * ========================================================================================== */
typedef struct llmi_adamw {            /* one update's constants; see llm_adamw_update */
    float beta1, beta2, eps, grad_scale;
    float step_size;                   /* lr / (1 - beta1^step)  */
    float root_correction;             /* 1 / sqrt(1 - beta2^step) */
    float keep;                        /* 1 - lr decay           */
} llmi_adamw;

#define LLMI_FEW_ROWS 16               /* at most, of products that read the weight unpacked */
#define LLMI_FP8_TILE 128u             /* values along k, and lanes, that share a scale */

/* in order of speed; each needs all that those before it need */
#define LLMI_PASS_SCALAR 0
#define LLMI_PASS_BASE 1               /* SSE2 or NEON                    */
#define LLMI_PASS_AVX2 2               /* with FMA and F16C               */
#define LLMI_PASS_AVX512 3             /* F, BW, VL                       */
#define LLMI_PASS_BF16 4               /* AVX-512 with AVX512_BF16, VNNI  */
#define LLMI_PASS_AMX 5                /* AVX512_BF16, AMX's tiles of bf16 */
#define LLMI_N_PASSES (LLMI_AMX ? 6 : LLMI_BF16 ? 5 : LLMI_X86 ? 4 : LLMI_NEON ? 2 : 1)

typedef enum llmi_side { LLMI_A, LLMI_B, LLMI_WEIGHT } llmi_side;     /* WEIGHT: B is one */
/* 256 values of x for products with blocks: sixteens of q scale, and q scale's sum */
typedef struct llmi_q8 {
    int8_t q[LLMI_BLOCK_MOST];
    float scale[16], sum[16];
} llmi_q8;
/* part of a weight's row, opened for several rows of x: as llmi_blocks_open, and of K types the
 * whole numbers of the scales, and d */
#define LLMI_OPENED 2048u              /* values at most */
typedef struct llmi_opened {
    unsigned char q[LLMI_OPENED];
    float scale[LLMI_OPENED / 16], least[LLMI_OPENED / 16], d[LLMI_OPENED / LLMI_BLOCK_MOST];
    int16_t whole[LLMI_OPENED / 16];
} llmi_opened;

/* How products of one precision are made. The factors are f32 in memory and take their precision
 * where they are packed; sums are f32. */
typedef struct llmi_tiles {
    size_t mr, nr;                     /* tile of C that stays in registers                     */
    size_t kc, mc;                     /* block of A (mc,kc) for L2                             */
    size_t k_group, value_bytes; /* of a panel: k is padded to the one, a value takes the other */
    size_t k_align;                    /* slices of k are multiples of it                       */
    /* Panels: lanes (rows of A, columns of B) in groups of mr or nr, padded with zeros, in the
     * order in which block reads them. Value j of lane i stands at [i lane + j along]; one of the
     * two is 1. fp8: at most LLMI_FP8_TILE lanes in a call; A and B have a scale for each lane and
     * LLMI_FP8_TILE values along k, a weight one for all lanes and as many values. */
    void (*pack)(llmi_side side, float *to, const float *from, size_t lane, size_t along,
                 size_t lanes, size_t k);
    /* C (m,n) = [C +] A B [+ bias] from panels */
    void (*block)(size_t m, size_t n, size_t k, const float *a, const float *b, float *c,
                  size_t ldc, const float *bias, int accumulate);
} llmi_tiles;

/* What a pass has: result, name and parameters of each kernel. The table is made from this list.
 *   rows_dot, rows_axpy   y (m,n) = x (m,k) W for few rows; W unpacked, stored (n,k) for dot and
 *                 (k,n) for axpy. dot can add to y, and a bias. What a row gets does not depend on
 *                 the other rows, nor on where n was cut
 *   rows_dot_16   the same of a weight in f16 or bf16, its rows ldw values apart
 *   decode        n values of whole blocks to f32
 *   to_q8         a row of x, n being padded with zeros: per group of 32 or 256 values the nearest
 *                 127ths of the largest. 256s are stride apart in memory: those of other rows lie
 *                 between
 *   largest       of n >= 1          add  y = a + b        axpy  y += a x       affine  y = a x + b
 *   exp_sum       the sum of y = exp(a x - b); y NULL: the sum only
 *   softmax_backward    dx = [dx +] scale y (dy - sum)
 *   gelu_backward       y = gelu(x) too, unless NULL
 *   narrow, widen n even values to bf16, in the room of n/2 floats, and back: value i shares one
 *                 with value i + n/2
 *   norm          LayerNorm (centered) or RMSNorm of one row; norm_backward_weight: sums over rows
 *   column_sum    sum += */
#define LLMI_KERNELS(DO) \
    DO(void, rows_dot, (size_t m, size_t n, size_t k, const float *x, size_t ldx, \
                        const float *weight, size_t ldw, float *y, size_t ldy, \
                        const float *bias, int accumulate)) \
    DO(void, rows_axpy, (size_t m, size_t n, size_t k, const float *x, size_t ldx, \
                         const float *weight, size_t ldw, float *y, size_t ldy)) \
    DO(void, rows_dot_16, (llm_dtype type, size_t m, size_t n, size_t k, const float *x, \
                           size_t ldx, const uint16_t *weight, size_t ldw, float *y, size_t ldy, \
                           const float *bias, int accumulate)) \
    DO(void, decode, (llm_dtype type, float *to, const void *from, size_t n)) \
    DO(void, to_q8, (llmi_q8 *to, size_t stride, const float *x, size_t n, size_t group)) \
    DO(float, dot, (const float *a, const float *b, size_t n)) \
    DO(double, square_sum, (const float *x, size_t n)) \
    DO(float, largest, (const float *x, size_t n)) \
    DO(void, add, (float *y, const float *a, const float *b, size_t n)) \
    DO(void, axpy, (float *y, float a, const float *x, size_t n)) \
    DO(void, affine, (float *y, const float *x, float a, float b, size_t n)) \
    DO(float, exp_sum, (float *y, const float *x, float a, float b, size_t n)) \
    DO(void, softmax_backward, (float *dx, const float *dy, const float *y, float sum, \
                                float scale, size_t n, int accumulate)) \
    DO(void, gelu, (float *y, const float *x, size_t n)) \
    DO(void, gelu_backward, (float *dx, float *y, const float *dy, const float *x, size_t n, \
                             int accumulate)) \
    DO(void, swiglu, (float *y, const float *gate, const float *up, size_t n)) \
    DO(void, swiglu_backward, (float *dgate, float *dup, const float *dy, const float *gate, \
                               const float *up, size_t n, int accumulate)) \
    DO(void, adamw, (float *weight, float *m, float *v, const float *grad, size_t n, \
                     const llmi_adamw *step)) \
    DO(void, narrow, (float *to, const float *x, size_t n)) \
    DO(void, widen, (float *to, const float *x, size_t n)) \
    DO(void, norm, (float *y, float *mean, float *rstd, const float *x, const float *weight, \
                    const float *bias, size_t n, float eps, int centered)) \
    DO(void, norm_backward, (float *dx, const float *dy, const float *x, const float *weight, \
                             float mean, float rstd, size_t n, int centered)) \
    DO(void, norm_backward_weight, (float *dweight, float *dbias, const float *dy, \
                                    const float *x, const float *mean, const float *rstd, \
                                    size_t rows, size_t ld, size_t n)) \
    DO(void, column_sum, (float *sum, const float *x, size_t rows, size_t ld, size_t n))

#define LLMI_MEMBER(result, name, parameters) result (*name) parameters;
typedef struct llmi_kernels {
    const char *name;
    size_t w;                          /* floats in a vector */
    llmi_tiles tiles[LLM_PRECISION_FP8 + 1];       /* by llm_precision */
    /* rows_dot of a weight in blocks and x of m rows as to_q8 makes them, m apart */
    void (*blocks_dot)(llm_dtype type, size_t m, size_t n, size_t k, const llmi_q8 *x,
                       const unsigned char *weight, float *y, size_t ldy, const float *bias,
                       int accumulate);
    LLMI_KERNELS(LLMI_MEMBER)
} llmi_kernels;

/* Defined after the passes. Tables stand in order of speed, from scalar on. */
static int llmi_last_pass(void); /* that can run here; the CPU is asked, which takes a while */
static const llmi_kernels *llmi_kernels_of(int pass);

/* floats that k values of one lane take in a panel */
static size_t llmi_panel(const llmi_tiles *tiles, size_t k) {
    return llmi_round_up(k, tiles->k_group) * tiles->value_bytes / sizeof(float);
}

/* ============================================================================================
 * >>pool         threads that run one function together, where OpenMP is not compiled in
 *
 * The caller opens a region, runs it, and closes it: threads that have come meanwhile have entered,
 * and it waits for those alone. So a region that is too small for others to notice runs in the
 * calling thread, and a thread whose core does something else delays nobody. A thread that waits
 * spins for a moment, then sleeps.
 * ========================================================================================== */
typedef void llmi_region(void *argument, int thread);

#if LLMI_POOL
#define LLMI_SPINS 4000
#define LLMI_POOL_INSIDE ((size_t)0x3fff)      /* of the state: the number of threads within */
#define LLMI_POOL_OPEN ((size_t)1 << 14)       /* others may enter */
#define LLMI_POOL_END ((size_t)1 << 15)        /* all leave for good; above: the region's number */

#ifdef _WIN32
typedef HANDLE llmi_thread;
typedef SRWLOCK llmi_mutex;
typedef CONDITION_VARIABLE llmi_condition;
#define LLMI_MUTEX_LOCK(mutex) AcquireSRWLockExclusive(mutex)
#define LLMI_MUTEX_UNLOCK(mutex) ReleaseSRWLockExclusive(mutex)
#define LLMI_CONDITION_WAIT(condition, mutex) \
    SleepConditionVariableSRW(condition, mutex, INFINITE, 0)
#define LLMI_CONDITION_WAKE(condition) WakeAllConditionVariable(condition)
#else
typedef pthread_t llmi_thread;
typedef pthread_mutex_t llmi_mutex;
typedef pthread_cond_t llmi_condition;
#define LLMI_MUTEX_LOCK(mutex) pthread_mutex_lock(mutex)
#define LLMI_MUTEX_UNLOCK(mutex) pthread_mutex_unlock(mutex)
#define LLMI_CONDITION_WAIT(condition, mutex) pthread_cond_wait(condition, mutex)
#define LLMI_CONDITION_WAKE(condition) pthread_cond_broadcast(condition)
#endif

#if defined(__x86_64__) || defined(__i386__)
  #define LLMI_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
  #define LLMI_PAUSE() __asm__ volatile("yield")
#else
  #define LLMI_PAUSE() ((void)0)
#endif

struct llmi_pool;
typedef struct llmi_worker {
    struct llmi_pool *pool;
    int number;                        /* 1 .. n - 1; 0 is the caller */
    llmi_thread thread;
} llmi_worker;

typedef struct llmi_pool {
    size_t state;                      /* see above; what others wait for stands on a line alone */
    char apart[128 - sizeof(size_t)];
    int sleeping, waiting;             /* threads for a region; the caller for the last to leave */
    llmi_region *region;
    void *argument;
    llmi_mutex mutex;
    llmi_condition opened, left;
    int n, n_started;                  /* threads asked for, and running; with the caller */
    llmi_worker *workers;              /* (n) */
#ifndef _WIN32
    pid_t process;                     /* that started them: its children have none */
#endif
} llmi_pool;

static size_t llmi_pool_state(llmi_pool *pool) {
    return __atomic_load_n(&pool->state, __ATOMIC_SEQ_CST);
}

/* a region other than the last, or the end */
static int llmi_pool_is_new(size_t state, size_t last) {
    return (state & LLMI_POOL_END) || ((state & LLMI_POOL_OPEN) && state >> 16 != last);
}

/* The state in which there is a region that this thread has not been in, or the end. The numbers of
 * regions come again after 2^16 where size_t has 32 bits: then a thread may stay out of one. */
static size_t llmi_pool_wait(llmi_pool *pool, size_t last) {
    size_t state;
    int spins;
    for (spins = 0; spins < LLMI_SPINS; spins++) {
        state = llmi_pool_state(pool);
        if (llmi_pool_is_new(state, last)) return state;
        LLMI_PAUSE();
    }
    LLMI_MUTEX_LOCK(&pool->mutex);
    __atomic_add_fetch(&pool->sleeping, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        state = llmi_pool_state(pool);
        if (llmi_pool_is_new(state, last)) break;
        LLMI_CONDITION_WAIT(&pool->opened, &pool->mutex);
    }
    __atomic_sub_fetch(&pool->sleeping, 1, __ATOMIC_SEQ_CST);
    LLMI_MUTEX_UNLOCK(&pool->mutex);
    return state;
}

static void llmi_pool_work(llmi_worker *worker) {
    llmi_pool *pool = worker->pool;
    size_t state, last = 0;
    while (!((state = llmi_pool_wait(pool, last)) & LLMI_POOL_END)) {
        if (!__atomic_compare_exchange_n(&pool->state, &state, state + 1, 0, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST))
            continue;
        last = state >> 16;
        pool->region(pool->argument, worker->number);
        state = __atomic_sub_fetch(&pool->state, 1, __ATOMIC_SEQ_CST);
        if (state & LLMI_POOL_INSIDE || !__atomic_load_n(&pool->waiting, __ATOMIC_SEQ_CST))
            continue;
        LLMI_MUTEX_LOCK(&pool->mutex);
        LLMI_CONDITION_WAKE(&pool->left);
        LLMI_MUTEX_UNLOCK(&pool->mutex);
    }
}

#ifdef _WIN32
static DWORD WINAPI llmi_thread_main(void *worker) {
    llmi_pool_work((llmi_worker *)worker);
    return 0;
}
static int llmi_thread_start(llmi_worker *worker) {
    worker->thread = CreateThread(NULL, 0, llmi_thread_main, worker, 0, NULL);
    return worker->thread != NULL;
}
static void llmi_thread_join(llmi_worker *worker) {
    WaitForSingleObject(worker->thread, INFINITE);
    CloseHandle(worker->thread);
}
#else
static void *llmi_thread_main(void *worker) {
    llmi_pool_work((llmi_worker *)worker);
    return NULL;
}
static int llmi_thread_start(llmi_worker *worker) {
    sigset_t blocked, old;
    int started;
    /* Signals are for the program's own threads, but what a thread itself does wrong must reach the
     * program's handler: were it blocked, the system would end the process. */
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, &old);
    started = pthread_create(&worker->thread, NULL, llmi_thread_main, worker) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return started;
}
static void llmi_thread_join(llmi_worker *worker) { pthread_join(worker->thread, NULL); }
#endif /* _WIN32 */

static void llmi_pool_end(llmi_pool *pool) {
    int i;
#ifndef _WIN32
    if (pool->n_started && pool->process != getpid()) return;
#endif
    LLMI_MUTEX_LOCK(&pool->mutex);
    __atomic_or_fetch(&pool->state, LLMI_POOL_END, __ATOMIC_SEQ_CST);
    LLMI_CONDITION_WAKE(&pool->opened);
    LLMI_MUTEX_UNLOCK(&pool->mutex);
    for (i = 1; i < pool->n_started; i++) llmi_thread_join(&pool->workers[i]);
#ifndef _WIN32
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->opened);
    pthread_cond_destroy(&pool->left);
#endif
}

static void llmi_pool_free(llmi_pool *pool, const llm_allocator *allocator) {
    if (!pool) return;
    llmi_pool_end(pool);
    llmi_release(allocator, pool->workers);
    llmi_release(allocator, pool);
}

/* n > 1; its threads start with the first region */
static llmi_pool *llmi_pool_create(int n, const llm_allocator *allocator, llm_error *err) {
    llmi_pool *pool = (llmi_pool *)llmi_alloc(allocator, sizeof *pool, "threads", err);
    if (!pool) return NULL;
    memset(pool, 0, sizeof *pool);
    pool->workers = (llmi_worker *)llmi_alloc(allocator, (size_t)n * sizeof *pool->workers,
                                              "threads", err);
    if (!pool->workers) {
        llmi_release(allocator, pool);
        return NULL;
    }
#ifdef _WIN32
    InitializeSRWLock(&pool->mutex);
    InitializeConditionVariable(&pool->opened);
    InitializeConditionVariable(&pool->left);
#else
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->opened, NULL);
    pthread_cond_init(&pool->left, NULL);
#endif
    pool->n = n;
    return pool;
}

/* Threads that cannot be started are done without. */
static void llmi_pool_start(llmi_pool *pool) {
#ifndef _WIN32
    pool->process = getpid();
#endif
    for (pool->n_started = 1; pool->n_started < pool->n; pool->n_started++) {
        llmi_worker *worker = &pool->workers[pool->n_started];
        worker->pool = pool;
        worker->number = pool->n_started;
        if (!llmi_thread_start(worker)) break;
    }
}

/* runs the region in the caller, and in the threads that come before it is done */
static void llmi_pool_run(llmi_pool *pool, llmi_region *region, void *argument) {
    size_t state = llmi_pool_state(pool);
    int spins;
    if (!pool->n_started) llmi_pool_start(pool);
    pool->region = region;
    pool->argument = argument;
    __atomic_store_n(&pool->state, ((state >> 16) + 1) << 16 | LLMI_POOL_OPEN, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool->sleeping, __ATOMIC_SEQ_CST)) {
        LLMI_MUTEX_LOCK(&pool->mutex);
        LLMI_CONDITION_WAKE(&pool->opened);
        LLMI_MUTEX_UNLOCK(&pool->mutex);
    }
    region(argument, 0);
    state = __atomic_and_fetch(&pool->state, ~LLMI_POOL_OPEN, __ATOMIC_SEQ_CST);
    for (spins = 0; state & LLMI_POOL_INSIDE && spins < LLMI_SPINS; spins++) {
        LLMI_PAUSE();
        state = llmi_pool_state(pool);
    }
    if (!(state & LLMI_POOL_INSIDE)) return;
    LLMI_MUTEX_LOCK(&pool->mutex);
    __atomic_store_n(&pool->waiting, 1, __ATOMIC_SEQ_CST);
    while (llmi_pool_state(pool) & LLMI_POOL_INSIDE)
        LLMI_CONDITION_WAIT(&pool->left, &pool->mutex);
    __atomic_store_n(&pool->waiting, 0, __ATOMIC_SEQ_CST);
    LLMI_MUTEX_UNLOCK(&pool->mutex);
}
#endif /* LLMI_POOL */

/* ============================================================================================
 * >>context      kernels, threads, and memory that ops may use while they run
 * ========================================================================================== */
#define LLMI_NOTHING ((size_t)-1)

typedef struct llmi_share {            /* of a thread, of the tasks that run */
    size_t next, end;
    size_t kept;                       /* what a task left packed for the next, or LLMI_NOTHING */
    char apart[128 - 3 * sizeof(size_t)];  /* no two threads write to one cache line */
} llmi_share;

struct llm_context {
    const llmi_kernels *kernels;
    int best;                          /* the last pass that runs here                          */
    int n_threads;
    llmi_share *shares;                /* n_threads */
#if LLMI_POOL
    llmi_pool *pool;                   /* of more than one thread */
#endif
    llm_allocator allocator_copy;
    const llm_allocator *allocator;    /* NULL or the copy */
    float *panels;                     /* of gemm: for each thread, its blocks of A and B at work */
    size_t panels_size;                /* floats of a thread's                                  */
    void *scratch;                     /* of the op that runs now */
    size_t scratch_size;
};

LLM_API void llm_context_free(llm_context *context) {
    llm_allocator copy;
    if (!context) return;
#if LLMI_POOL
    llmi_pool_free(context->pool, context->allocator);
#endif
    llmi_release(context->allocator, context->shares);
    llmi_release(context->allocator, context->panels);
    llmi_release(context->allocator, context->scratch);
    copy = context->allocator_copy;
    llmi_release(context->allocator ? &copy : NULL, context);
}

/* n_threads itself, or for 0 the number of cores that this process may use */
static int llmi_thread_count(int n_threads) {
    long n = n_threads;
    if (n > 0) return n_threads;
#if defined(_OPENMP)
    n = omp_get_max_threads();
#elif LLMI_POOL && defined(_WIN32)
    {
        SYSTEM_INFO info;
        GetSystemInfo(&info);
        n = (long)info.dwNumberOfProcessors;
    }
#elif LLMI_POOL
    n = sysconf(_SC_NPROCESSORS_ONLN);
  #if defined(SYS_sched_getaffinity) && (defined(_DEFAULT_SOURCE) || defined(_GNU_SOURCE))
    {                                  /* by taskset or a cpuset; else syscall is not declared */
        unsigned long mask[1024 / sizeof(unsigned long) / 8];
        const long size = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
        long i, k = 0;
        for (i = 0; i < size / (long)sizeof *mask; i++) k += __builtin_popcountl(mask[i]);
        if (k > 0) n = k;
    }
  #endif
#endif
    return n < 1 ? 1 : n > 1024 ? 1024 : (int)n;
}

#define LLMI_A_ROWS 1088u              /* that a thread packs at a time: 1024 in whole tiles */
#define LLMI_B_COLUMNS LLMI_FP8_TILE   /* likewise: a weight's tile in fp8 */

/* floats of one row of A or column of B in a panel: slices of k are rounded up by less than 4 */
static size_t llmi_panel_depth(const llmi_tiles *tiles) { return llmi_panel(tiles, tiles->kc + 4); }
/* values of a row of a weight in blocks that are decoded for a slice of k: whole blocks */
static size_t llmi_panel_blocks(const llmi_tiles *tiles) {
    return llmi_round_up(tiles->kc + 4, LLMI_BLOCK_MOST) + LLMI_BLOCK_MOST;
}

/* Kernels and threads; -> floats of the panels: room for every table's, as the context's table may
 * be exchanged. */
static size_t llmi_context_plan(llm_context *context, int n_threads) {
    int i, precision;
    memset(context, 0, sizeof *context);
    context->n_threads = llmi_thread_count(n_threads);
    context->best = llmi_last_pass();
    for (i = 0; i <= context->best; i++) {
        context->kernels = llmi_kernels_of(i);             /* the last one is the fastest */
        for (precision = LLM_PRECISION_FP32; precision <= LLM_PRECISION_FP8; precision++) {
            const llmi_tiles *tiles = &context->kernels->tiles[precision];
            context->panels_size = llmi_max(
                context->panels_size, (LLMI_A_ROWS + LLMI_B_COLUMNS) * llmi_panel_depth(tiles) +
                                          tiles->nr * llmi_panel_blocks(tiles));
        }
    }
    return context->panels_size * (size_t)context->n_threads;
}

LLM_API llm_context *llm_context_create(int n_threads, const llm_allocator *allocator,
                                        llm_error *err) {
    llm_context *context;
    size_t panels;
    if (n_threads < 0 || n_threads > 1024) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "n_threads %d is not in [0, 1024]", n_threads);
        return NULL;
    }
    context = (llm_context *)llmi_alloc(allocator, sizeof *context, "context", err);
    if (!context) return NULL;
    panels = llmi_context_plan(context, n_threads);
    if (allocator) {
        context->allocator_copy = *allocator;
        context->allocator = &context->allocator_copy;
    }
    context->shares = (llmi_share *)llmi_alloc(
        allocator, (size_t)context->n_threads * sizeof *context->shares, "threads' shares", err);
    if (context->shares)
        context->panels =
            (float *)llmi_alloc(allocator, panels * sizeof(float), "gemm panels", err);
#if LLMI_POOL
    if (context->panels && context->n_threads > 1) {
        context->pool = llmi_pool_create(context->n_threads, context->allocator, err);
        if (!context->pool) {
            llm_context_free(context);
            return NULL;
        }
    }
#endif
    if (!context->panels) {
        llm_context_free(context);
        return NULL;
    }
    return context;
}

/* the pass that runs under a cap */
static int llmi_capped(int best, llm_isa most) {
    return most == LLM_ISA_BEST || (int)most - 1 > best ? best : (int)most - 1;
}
LLM_API llm_isa llm_context_isa(const llm_context *context) {
    int pass = 0;
    if (!context) return (llm_isa)(llmi_last_pass() + 1);
    while (context->kernels != llmi_kernels_of(pass)) pass++;
    return (llm_isa)(pass + 1);
}
LLM_API const char *llm_isa_name(llm_isa isa) {
    return isa > LLM_ISA_BEST && (int)isa <= LLMI_N_PASSES ? llmi_kernels_of((int)isa - 1)->name
                                                           : NULL;
}
LLM_API llm_result llm_context_set_isa(llm_context *context, llm_isa most, llm_error *err) {
    if (!context) return llmi_fail(err, LLM_ERR_ARGUMENT, "isa: context is NULL");
    LLMI_TRY(llmi_check_int("isa", (int)most, 0, (int)LLM_ISA_AMX, err));
    context->kernels = llmi_kernels_of(llmi_capped(context->best, most));
    return LLM_OK;
}

/* At least size bytes of scratch, whose old contents are lost. A trainer or session asks once for
 * its largest need, so that nothing is allocated in a step. */
static llm_result llmi_scratch_reserve(llm_context *context, size_t size, llm_error *err) {
    return llmi_grow(context->allocator, &context->scratch, &context->scratch_size, 0, size,
                     "scratch", err);
}

/* A plan is a function that carves what an object needs from arenas. It runs twice: without a base
 * it measures, and the pointers are NULL; then llmi_arena_take gives the arena its memory. */
typedef struct llmi_arena { char *base; size_t used, size; } llmi_arena;

static llmi_arena llmi_arena_at(void *base, size_t size) {       /* NULL, 0: to measure */
    llmi_arena arena;
    arena.base = (char *)base;
    arena.used = 0;
    arena.size = size;
    return arena;
}
/* what was measured; -> *memory, the caller's to release */
static llm_result llmi_arena_take(llmi_arena *arena, void **memory, const llm_allocator *allocator,
                                  const char *what, llm_error *err) {
    *memory = llmi_alloc(allocator, arena->used, what, err);
    if (!*memory) return LLM_ERR_MEMORY;
    *arena = llmi_arena_at(*memory, arena->used);
    return LLM_OK;
}

static void *llmi_carve(llmi_arena *arena, size_t count, size_t size) {
    void *memory = arena->base ? arena->base + arena->used : NULL;
    arena->used = llmi_add(arena->used, llmi_round_up(llmi_mul(count, size), LLMI_ALIGN));
    LLM_ASSERT(!arena->base || arena->used <= arena->size);
    return memory;
}
static float *llmi_carve_floats(llmi_arena *arena, size_t count) {
    return (float *)llmi_carve(arena, count, sizeof(float));
}

/* ============================================================================================
 * >>parallel     the one place where threads are used
 *
 * No two tasks write the same value, and no sum is cut by the number of threads: so results do not
 * depend on it.
 * ========================================================================================== */
typedef void llmi_task(void *argument, size_t index, int thread);

#if defined(_OPENMP) || LLMI_POOL
/* the next task of a share, or one beyond its end */
static size_t llmi_take(llmi_share *share) {
    size_t index;
#if LLMI_POOL
    index = __atomic_load_n(&share->next, __ATOMIC_RELAXED);
    if (index < share->end) index = __atomic_fetch_add(&share->next, 1, __ATOMIC_RELAXED);
#elif _OPENMP >= 201107
    #pragma omp atomic read
    index = share->next;
    if (index < share->end) {
        #pragma omp atomic capture
        index = share->next++;
    }
#else
    #pragma omp critical(llmi_take)
    index = share->next++;
#endif
    return index;
}

typedef struct llmi_tasks {
    llmi_task *task;
    void *argument;
    llmi_share *shares;
    size_t n_shares;
} llmi_tasks;

/* A thread's share is the same consecutive tasks every time, so that rows which one op has left in
 * a core's cache are found there by the next. Whoever has finished takes from the others. */
static void llmi_tasks_run(void *argument, int thread) {
    const llmi_tasks *tasks = (const llmi_tasks *)argument;
    size_t turn, index;
    for (turn = 0; turn < tasks->n_shares; turn++) {
        llmi_share *share = &tasks->shares[((size_t)thread + turn) % tasks->n_shares];
        while ((index = llmi_take(share)) < share->end)
            tasks->task(tasks->argument, index, thread);
    }
}
#endif /* defined(_OPENMP) || LLMI_POOL */

static void llmi_parallel(llm_context *context, size_t n_tasks, llmi_task *task,
                          void *argument) {
    size_t i;
#if defined(_OPENMP) || LLMI_POOL
    if (context->n_threads > 1 && n_tasks > 1) {
        llmi_tasks tasks;
        tasks.task = task;
        tasks.argument = argument;
        tasks.shares = context->shares;
        tasks.n_shares = (size_t)context->n_threads;
        for (i = 0; i < tasks.n_shares; i++) {
            tasks.shares[i].next = i * n_tasks / tasks.n_shares;
            tasks.shares[i].end = (i + 1) * n_tasks / tasks.n_shares;
            tasks.shares[i].kept = LLMI_NOTHING;
        }
#if LLMI_POOL
        llmi_pool_run(context->pool, llmi_tasks_run, &tasks);
#else
        #pragma omp parallel num_threads(context->n_threads)
        llmi_tasks_run(&tasks, omp_get_thread_num());
#endif
        return;
    }
#endif
    context->shares->kept = LLMI_NOTHING;
    for (i = 0; i < n_tasks; i++) task(argument, i, 0);
}

/* ---- loops whose body does not ask which thread it is ---------------------------------------- */
#define LLMI_PIECE 16384u              /* values per task of an elementwise op */
#define LLMI_ROWS 8u                   /* rows per task of a rowwise op */
#define LLMI_STRIP 128u                /* columns per task where sums run over rows */

typedef void llmi_body(void *argument, size_t at, size_t n);     /* at .. at + n of the total */
typedef struct llmi_loop {
    llmi_body *body;
    void *argument;
    size_t total, step;
} llmi_loop;
static void llmi_loop_task(void *argument, size_t index, int thread) {
    const llmi_loop *loop = (const llmi_loop *)argument;
    const size_t at = index * loop->step;
    (void)thread;
    loop->body(loop->argument, at, llmi_min(loop->step, loop->total - at));
}
static void llmi_for(llm_context *context, size_t total, size_t step, llmi_body *body,
                     void *argument) {
    llmi_loop loop;
    loop.body = body;
    loop.argument = argument;
    loop.total = total;
    loop.step = step;
    llmi_parallel(context, llmi_ceil_div(total, step), llmi_loop_task, &loop);
}

typedef void llmi_each_body(void *argument, size_t index);
typedef struct llmi_each_loop { llmi_each_body *body; void *argument; } llmi_each_loop;
static void llmi_each_task(void *argument, size_t index, int thread) {
    const llmi_each_loop *loop = (const llmi_each_loop *)argument;
    (void)thread;
    loop->body(loop->argument, index);
}
static void llmi_each(llm_context *context, size_t n, llmi_each_body *body, void *argument) {
    llmi_each_loop loop;
    loop.body = body;
    loop.argument = argument;
    llmi_parallel(context, n, llmi_each_task, &loop);
}

/* what simple ops write (y) and read (x), elementwise or by rows of width */
typedef struct llmi_op {
    const llmi_kernels *kernels;
    float *y, *y2;
    const float *x, *x2, *x3;
    const int32_t *tokens;
    size_t rows, width;
    float p;
    uint64_t seed;
    int accumulate;
} llmi_op;
static llmi_op llmi_op_of(llm_context *context, float *y, const float *x) {
    llmi_op op;
    memset(&op, 0, sizeof op);
    op.kernels = context->kernels;
    op.y = y;
    op.x = x;
    return op;
}
static llmi_op llmi_op_rows(llm_context *context, float *y, const float *x, size_t rows,
                            size_t width) {
    llmi_op op = llmi_op_of(context, y, x);
    op.rows = rows;
    op.width = width;
    return op;
}

/* ============================================================================================
 * >>gemm         every matrix product: packing, blocking, threading
 *
 * Blocks around a tile (Goto & van de Geijn, ACM TOMS 34(3), 2008). Every thread has a cell of C,
 * and packs for itself what it multiplies: to fetch what another core has just written costs more
 * than to pack it twice, the more so where cores do not share a cache. An element of C is always
 * summed over k in the same order, in equal slices of at most kc: however the rest is cut, the
 * result has the same bits. Products of few rows read the weight once, unpacked: they are bound by
 * memory, which is fastest where every thread reads a few long streams.
 * ========================================================================================== */
#define LLMI_K_PARTS 8                 /* of a product of few rows; each part is summed apart */
#define LLMI_SMALL_WEIGHT 32768        /* below so many values one thread is faster than two */

/* ---- a weight, y = x W^T: what its values look like in memory, only this section knows ------- */
typedef struct llmi_matrix {
    const void *data;
    const float *scales;               /* F8_E4M3: (tensor's rows / 128, n_in / 128), rounded up */
    llm_dtype type;
    size_t n_out, n_in;
    int transposed;                    /* f32: stored (n_in,n_out), as GPT-2's Conv1D is         */
    llm_precision precision;           /* of products with it; FP32 unless set                    */
    int round_x;                       /* bf16: those of many rows may round x to bf16, too      */
    int tensor;                        /* its number in the model; -1: of no model                */
    size_t first;                      /* row of the tensor that it begins with                   */
} llmi_matrix;

static llmi_matrix llmi_matrix_of(const float *data, size_t n_out, size_t n_in, int transposed) {
    llmi_matrix matrix;
    memset(&matrix, 0, sizeof matrix);
    matrix.data = data;
    matrix.type = LLM_F32;
    matrix.n_out = n_out;
    matrix.n_in = n_in;
    matrix.transposed = transposed;
    matrix.tensor = -1;
    return matrix;
}
static const unsigned char *llmi_matrix_at(const llmi_matrix *w, size_t row) {
    return (const unsigned char *)w->data + row * llmi_dtype_bytes(w->type, w->n_in);
}
/* some outputs of one that is not transposed */
static llmi_matrix llmi_matrix_rows(llmi_matrix w, size_t first, size_t count) {
    w.data = llmi_matrix_at(&w, first);
    w.first += first;
    w.n_out = count;
    return w;
}
/* n values of a row, from one that begins a block on, or to the row's end */
static void llmi_matrix_decode(const llmi_kernels *kernels, const llmi_matrix *w, float *to,
                               size_t row, size_t at, size_t n) {
    const float *scales = w->scales;
    size_t i;
    kernels->decode(w->type, to, llmi_matrix_at(w, row) + llmi_dtype_bytes(w->type, at), n);
    if (!scales) return;
    scales += (w->first + row) / LLMI_FP8_TILE * llmi_ceil_div(w->n_in, LLMI_FP8_TILE);
    for (i = 0; i < n; i++) to[i] *= scales[(at + i) / LLMI_FP8_TILE];
}
/* one row (n_in) of a table: in its place, or in room (n_in) */
static const float *llmi_matrix_row(const llmi_kernels *kernels, const llmi_matrix *w, size_t row,
                                    float *room) {
    if (w->type == LLM_F32) return (const float *)w->data + row * w->n_in;
    llmi_matrix_decode(kernels, w, room, row, 0, w->n_in);
    return room;
}

#define LLMI_PIECE_OF_ROW 1024u        /* values that are decoded at a time */
/* y (m,n), rows ldy apart, = [y +] x W^T [+ bias], of rows j .. j + n of a matrix of another type
 * than f32; x8: x as whole numbers, for blocks, or NULL */
static void llmi_matrix_dot(const llmi_kernels *kernels, const llmi_matrix *w, size_t j, size_t n,
                            size_t m, const float *x, size_t ldx, const llmi_q8 *x8, float *y,
                            size_t ldy, const float *bias, int accumulate) {
    float part[4 * LLMI_PIECE_OF_ROW];
    size_t i, r, k, rows;
    if (x8) {
        kernels->blocks_dot(w->type, m, n, w->n_in, x8, llmi_matrix_at(w, j), y, ldy, bias,
                            accumulate);
        return;
    }
    if (w->type == LLM_F16 || w->type == LLM_BF16) {
        kernels->rows_dot_16(w->type, m, n, w->n_in, x, ldx,
                             (const uint16_t *)(const void *)llmi_matrix_at(w, j), w->n_in, y, ldy,
                             bias, accumulate);
        return;
    }
    for (i = 0; i < n; i += rows) {
        rows = llmi_min(4, n - i);
        for (k = 0; k < w->n_in; k += LLMI_PIECE_OF_ROW) {
            const size_t count = llmi_min(LLMI_PIECE_OF_ROW, w->n_in - k);
            for (r = 0; r < rows; r++)
                llmi_matrix_decode(kernels, w, part + r * LLMI_PIECE_OF_ROW, j + i + r, k, count);
            kernels->rows_dot(m, rows, count, x + k, ldx, part, LLMI_PIECE_OF_ROW, y + i, ldy,
                              bias && k == 0 ? bias + i : NULL, accumulate || k > 0);
        }
    }
}
/* y (n_out) = W x, and y (n_in) = x W, within a task */
static void llmi_matrix_times(const llmi_kernels *kernels, const llmi_matrix *w, float *y,
                              const float *x) {
    llmi_q8 x8[4096 / LLMI_BLOCK_MOST];
    const int blocks = llmi_dtype_is_blocks(w->type) && w->n_in <= 4096;
    if (w->type == LLM_F32) {
        kernels->rows_dot(1, w->n_out, w->n_in, x, w->n_in, (const float *)w->data, w->n_in, y,
                          w->n_out, NULL, 0);
        return;
    }
    if (blocks) kernels->to_q8(x8, 1, x, w->n_in, llmi_types[w->type].block);
    llmi_matrix_dot(kernels, w, 0, w->n_out, 1, x, w->n_in, blocks ? x8 : NULL, y, w->n_out, NULL,
                    0);
}
static void llmi_matrix_times_back(const llmi_kernels *kernels, const llmi_matrix *w, float *y,
                                   const float *x) {
    float part[LLMI_PIECE_OF_ROW];
    size_t k, r;
    if (w->type == LLM_F32) {
        kernels->rows_axpy(1, w->n_in, w->n_out, x, w->n_out, (const float *)w->data, w->n_in, y,
                           w->n_in);
        return;
    }
    memset(y, 0, w->n_in * sizeof *y);
    for (k = 0; k < w->n_in; k += LLMI_PIECE_OF_ROW) {
        const size_t count = llmi_min(LLMI_PIECE_OF_ROW, w->n_in - k);
        for (r = 0; r < w->n_out; r++) {
            llmi_matrix_decode(kernels, w, part, r, k, count);
            kernels->axpy(y + k, x[r], part, count);
        }
    }
}

/* ---- products -------------------------------------------------------------------------------- */
typedef struct llmi_gemm {             /* C (m,n) = [C +] A (m,k) B (k,n) [+ bias (n)] */
    size_t m, n, k;
    const float *a;
    size_t a_row, a_col; /* A(i,j) at a[i a_row + j a_col]; one of the two is 1 */
    const float *b; size_t b_row, b_col;   /* not read if w is of another type than f32 */
    llmi_matrix w;                         /* B is W^T, or W; data NULL: B is no weight */
    float *c; size_t ldc;
    const float *bias;                 /* NULL = none */
    int accumulate;
    int same_a;                        /* A is that of the product just before: packed once */
    llm_precision precision;           /* of the factors; f32 in memory */
} llmi_gemm;

typedef struct llmi_gemm_job {
    llm_context *context;
    const llmi_gemm *g;                /* the products, all of one A */
    const llmi_tiles *kernel;          /* of their precision                                */
    size_t step;                       /* few rows: columns per task                        */
    size_t k_parts;                    /* few rows: their sums (parts,m,n) lie in the panels */
    size_t j0, n;                      /* few rows: columns at work                         */
    size_t i0, m, k0, k;               /* rows, and slice of k, at work                     */
    size_t tiles, strips;              /* of rows; of LLMI_B_COLUMNS columns of a product   */
    size_t down, across;               /* cells of C, one for each thread                   */
    size_t row_blocks, column_blocks;  /* of a cell: its tasks                              */
    const llmi_q8 *x8;                 /* few rows: A as whole numbers, or NULL             */
} llmi_gemm_job;

static int llmi_gemm_is_typed(const llmi_gemm *g) { return g->w.data && g->w.type != LLM_F32; }

static int llmi_gemm_is_few(const llmi_gemm *g) {
    return g->m <= LLMI_FEW_ROWS && g->a_col == 1 && g->precision == LLM_PRECISION_FP32;
}
/* few rows, the weight stored (n_out,n_in): the columns may be cut anywhere */
static int llmi_gemm_is_dot(const llmi_gemm *g) { return llmi_gemm_is_few(g) && g->b_row == 1; }

static void llmi_gemm_dot_body(void *argument, size_t index) {
    const llmi_gemm_job *job = (const llmi_gemm_job *)argument;
    const llmi_gemm *g = job->g;
    const size_t j = index * job->step, n = llmi_min(job->step, g->n - j);
    const float *bias = g->bias ? g->bias + j : NULL;
    if (llmi_gemm_is_typed(g))
        llmi_matrix_dot(job->context->kernels, &g->w, j, n, g->m, g->a, g->a_row, job->x8, g->c + j,
                        g->ldc, bias, g->accumulate);
    else
        job->context->kernels->rows_dot(g->m, n, g->k, g->a, g->a_row, g->b + j * g->b_col,
                                        g->b_col, g->c + j, g->ldc, bias, g->accumulate);
}

static void llmi_gemm_axpy_body(void *argument, size_t index) {
    const llmi_gemm_job *job = (const llmi_gemm_job *)argument;
    const llmi_gemm *g = job->g;
    const size_t blocks = llmi_ceil_div(job->n, job->step), part = index / blocks;
    const size_t j = index % blocks * job->step, k = part * g->k / job->k_parts;
    job->context->kernels->rows_axpy(g->m, llmi_min(job->step, job->n - j),
                                     (part + 1) * g->k / job->k_parts - k, g->a + k, g->a_row,
                                     g->b + k * g->b_row + job->j0 + j, g->b_row,
                                     job->context->panels + part * g->m * job->n + j, job->n);
}
static void llmi_gemm_parts_body(void *argument, size_t index) {
    const llmi_gemm_job *job = (const llmi_gemm_job *)argument;
    const llmi_gemm *g = job->g;
    const size_t j = index * LLMI_STRIP, n = llmi_min(LLMI_STRIP, job->n - j);
    size_t i, l;
    for (i = 0; i < g->m; i++) {
        float *c = g->c + i * g->ldc + job->j0 + j;
        for (l = 0; l < n; l++)
            c[l] = (g->accumulate ? c[l] : 0.0f) + (g->bias ? g->bias[job->j0 + j + l] : 0.0f);
        job->context->kernels->column_sum(c, job->context->panels + i * job->n + j, job->k_parts,
                                          g->m * job->n, n);
    }
}

/* The rows of A as whole numbers, in the panels. NULL: the weight is not in blocks, or a row is too
 * long, which must not depend on how many there are. */
static const llmi_q8 *llmi_gemm_x8(llm_context *context, const llmi_gemm *g) {
    const size_t row = llmi_ceil_div(g->k, LLMI_BLOCK_MOST);
    llmi_q8 *x8 = (llmi_q8 *)(void *)context->panels;
    size_t i;
    if (!llmi_dtype_is_blocks(g->w.type) ||
        row > context->panels_size * sizeof(float) / sizeof *x8 / LLMI_FEW_ROWS)
        return NULL;
    for (i = 0; i < g->m; i++)
        context->kernels->to_q8(x8 + i, g->m, g->a + i * g->a_row, g->k,
                                llmi_types[g->w.type].block);
    return x8;
}

static void llmi_gemm_few_rows(llm_context *context, const llmi_gemm *g) {
    const size_t threads = (size_t)context->n_threads, sums = g->m * LLMI_K_PARTS;
    size_t n;
    llmi_gemm_job work, *job = &work;
    if (g->m == 0 || g->n == 0) return;
    memset(job, 0, sizeof *job);
    job->context = context;
    job->g = g;
    if (llmi_gemm_is_dot(g)) {
        if (llmi_gemm_is_typed(g)) job->x8 = llmi_gemm_x8(context, g);
        job->step = g->n * g->k < LLMI_SMALL_WEIGHT
                        ? g->n
                        : llmi_round_up(llmi_ceil_div(g->n, threads), 64);
        llmi_each(context, llmi_ceil_div(g->n, job->step), llmi_gemm_dot_body, job);
        return;
    }
    job->k_parts = g->n * g->k < LLMI_SMALL_WEIGHT ? 1 : LLMI_K_PARTS;
    n = context->panels_size / sums;
    for (job->j0 = 0; job->j0 < g->n; job->j0 += job->n) {
        job->n = llmi_min(g->n - job->j0, n / LLMI_STRIP * LLMI_STRIP);
        job->step = llmi_max(LLMI_STRIP, 4096 / g->m / LLMI_STRIP * LLMI_STRIP);  /* stays in L1 */
        if (threads > job->k_parts)
            job->step = llmi_min(
                job->step,
                llmi_round_up(llmi_ceil_div(job->n * job->k_parts, threads), LLMI_STRIP));
        llmi_each(context, job->k_parts * llmi_ceil_div(job->n, job->step),
                      llmi_gemm_axpy_body, job);
        llmi_each(context, llmi_ceil_div(job->n, LLMI_STRIP), llmi_gemm_parts_body, job);
    }
}

#define LLMI_PACK_PANELS 4             /* of A, at a time */

/* columns j .. j + n of B, for the slice of k at work; a weight of another type than f32 is decoded
 * first, as many columns as a panel has at a time, in whole blocks along k */
static void llmi_gemm_pack_b(const llmi_gemm_job *job, const llmi_gemm *g, float *to, size_t j,
                             size_t n) {
    const llmi_tiles *kernel = job->kernel;
    const size_t block = llmi_gemm_is_typed(g) ? llmi_types[g->w.type].block : 1;
    const size_t k0 = job->k0 / block * block;
    const size_t k1 = llmi_min(llmi_round_up(job->k0 + job->k, block), g->k), ld = k1 - k0;
    float *rows = to + LLMI_B_COLUMNS * llmi_panel_depth(kernel);
    size_t i, l;
    if (!llmi_gemm_is_typed(g)) {
        kernel->pack(g->w.data ? LLMI_WEIGHT : LLMI_B, to,
                     g->b + j * g->b_col + job->k0 * g->b_row, g->b_col, g->b_row, n, job->k);
        return;
    }
    LLM_ASSERT(ld <= llmi_panel_blocks(kernel));
    for (i = 0; i < n; i += kernel->nr) {
        const size_t lanes = llmi_min(kernel->nr, n - i);
        for (l = 0; l < lanes; l++)
            llmi_matrix_decode(job->context->kernels, &g->w, rows + l * ld, j + i + l, k0, ld);
        kernel->pack(LLMI_B, to + i * llmi_panel(kernel, job->k), rows + (job->k0 - k0), ld, 1,
                     lanes, job->k);
    }
}

/* One block of rows by one strip of columns: packs the block, if the thread's task before has not,
 * and the strip. Tasks go through a cell block by block. */
static void llmi_gemm_task(void *argument, size_t index, int thread) {
    const llmi_gemm_job *job = (const llmi_gemm_job *)argument;
    const llmi_tiles *kernel = job->kernel;
    const llmi_gemm *g = job->g;
    const size_t tasks = job->row_blocks * job->column_blocks, cell = index / tasks;
    const size_t mr = kernel->mr, blocks = job->down * job->row_blocks, at = index % tasks;
    const size_t block = cell / job->across * job->row_blocks + at / job->column_blocks;
    const size_t tile = block * job->tiles / blocks;
    const size_t tiles = (block + 1) * job->tiles / blocks - tile;
    const size_t i0 = job->i0 + tile * mr, m = llmi_min(tiles * mr, job->m - tile * mr);
    const size_t parts = llmi_ceil_div(m, kernel->mc), panel = llmi_panel(kernel, job->k);
    float *a = job->context->panels + (size_t)thread * job->context->panels_size;
    float *b = a + LLMI_A_ROWS * llmi_panel_depth(kernel);
    size_t *kept = &job->context->shares[thread].kept;         /* the block in a */
    const size_t column = cell % job->across;
    size_t strip = column * job->strips / job->across + at % job->column_blocks, i, j, n, part;
    if (tiles == 0 || strip >= (column + 1) * job->strips / job->across) return;
    LLM_ASSERT(tiles * mr <= LLMI_A_ROWS && panel <= llmi_panel_depth(kernel));
    for (; strip >= llmi_ceil_div(g->n, LLMI_B_COLUMNS); g++)
        strip -= llmi_ceil_div(g->n, LLMI_B_COLUMNS);
    j = strip * LLMI_B_COLUMNS;
    n = llmi_min(LLMI_B_COLUMNS, g->n - j);
    for (i = 0; i < m && *kept != block; i += LLMI_PACK_PANELS * mr)
        kernel->pack(LLMI_A, a + i * panel, g->a + (i0 + i) * g->a_row + job->k0 * g->a_col,
                     g->a_row, g->a_col, llmi_min(LLMI_PACK_PANELS * mr, m - i), job->k);
    *kept = block;
    llmi_gemm_pack_b(job, g, b, j, n);
    for (part = 0; part < parts; part++) {                     /* of a, for L2 */
        i = part * tiles / parts * mr;
        kernel->block(llmi_min((part + 1) * tiles / parts * mr, m) - i, n, job->k, a + i * panel,
                      b, g->c + (i0 + i) * g->ldc + j, g->ldc,
                      job->k0 == 0 && g->bias ? g->bias + j : NULL, job->k0 != 0 || g->accumulate);
    }
}

/* Chooses the grid whose largest cell is cheapest. Packing a value of B is counted as 16
 * multiplications; of A as 64, as it comes from another core's cache unless they are whole rows. */
static void llmi_gemm_cut(llmi_gemm_job *job, size_t threads) {
    double least = -1.0;
    size_t down;
    for (down = 1; down <= threads; down++) {
        const double m = (double)(llmi_ceil_div(job->tiles, down) * job->kernel->mr);
        const double n = (double)(llmi_ceil_div(job->strips, threads / down) * LLMI_B_COLUMNS);
        const double work = m * n + 64.0 * m + 16.0 * n;
        if (threads % down || (least >= 0.0 && work >= least)) continue;
        least = work;
        job->down = down;
        job->across = threads / down;
    }
}

/* Blocks are multiplied in bf16 if the CPU does that, and bf16 if x may be rounded. f16 and F8
 * (whose scales bf16 does not hold) are not. */
static const llmi_tiles *llmi_gemm_tiles(const llm_context *context, const llmi_gemm *g, size_t n) {
    const llmi_tiles *tiles = context->kernels->tiles;
    int bf16 = tiles[LLM_PRECISION_BF16].value_bytes == 2;
    size_t i;
    for (i = 0; i < n; i++)
        bf16 &= llmi_gemm_is_typed(&g[i]) &&
                ((g[i].w.type == LLM_BF16 && g[i].w.round_x) || llmi_dtype_is_blocks(g[i].w.type));
    return &tiles[bf16 ? LLM_PRECISION_BF16 : g->precision];
}

/* n products of one A, rows i0 to i0 + m of each */
static void llmi_gemm_rows(llm_context *context, const llmi_gemm *g, size_t n, size_t i0,
                           size_t m) {
    const llmi_tiles *kernel = llmi_gemm_tiles(context, g, n);
    const size_t k_slices = llmi_max(1, llmi_ceil_div(g->k, kernel->kc));
    const size_t k_step = llmi_max(
        kernel->k_align, llmi_round_up(llmi_ceil_div(g->k, k_slices), kernel->k_align));
    size_t i;
    llmi_gemm_job job;
    memset(&job, 0, sizeof job);
    job.context = context;
    job.g = g;
    job.kernel = kernel;
    job.i0 = i0;
    job.m = m;
    job.tiles = llmi_ceil_div(m, kernel->mr);
    for (i = 0; i < n; i++) job.strips += llmi_ceil_div(g[i].n, LLMI_B_COLUMNS);
    if (job.tiles == 0 || job.strips == 0) return;
    llmi_gemm_cut(&job, (size_t)context->n_threads);
    job.row_blocks = llmi_ceil_div(llmi_ceil_div(job.tiles, job.down), LLMI_A_ROWS / kernel->mr);
    job.column_blocks = llmi_ceil_div(job.strips, job.across);
    for (; job.k0 == 0 || job.k0 < g->k; job.k0 += k_step) {
        job.k = llmi_min(k_step, g->k - job.k0);
        llmi_parallel(context, job.down * job.across * job.row_blocks * job.column_blocks,
                      llmi_gemm_task, &job);
    }
}

static void llmi_gemm_run(llm_context *context, const llmi_gemm *g) {
    if (llmi_gemm_is_few(g)) llmi_gemm_few_rows(context, g);
    else llmi_gemm_rows(context, g, 1, 0, g->m);
}

/* n products of one A */
static void llmi_gemm_same_a(llm_context *context, const llmi_gemm *g, size_t n) {
    if (!llmi_gemm_is_few(g)) llmi_gemm_rows(context, g, n, 0, g->m);
    else
        for (; n; n--) llmi_gemm_run(context, g++);
}

/* ---- several products, none of which reads what another writes: each part by one thread ---- */
typedef struct llmi_batch {
    llm_context *context;
    const llmi_gemm *products;
    size_t n;
    size_t columns;                    /* in a part, of a product of few rows */
} llmi_batch;

/* the products from g on that have one A */
static size_t llmi_batch_group(const llmi_batch *job, const llmi_gemm *g) {
    const llmi_gemm *next = g + 1;
    while (next < job->products + job->n && next->same_a) next++;
    return (size_t)(next - g);
}

#define LLMI_PART_ROWS 512u
/* Parts of a product: of C's columns, or of C's rows, which stay too many for the path of few rows:
 * it rounds differently. A product with same_a is part of the one before. */
static size_t llmi_batch_parts(const llmi_batch *job, const llmi_gemm *g) {
    if (g->m == 0) return 0;
    if (llmi_gemm_is_dot(g)) return llmi_ceil_div(g->n, job->columns);
    return g->same_a ? 0 : llmi_ceil_div(g->m, LLMI_PART_ROWS);
}

static void llmi_batch_task(void *argument, size_t index, int thread) {
    const llmi_batch *job = (const llmi_batch *)argument;
    llm_context own = *job->context;
    const llmi_gemm *g = job->products;
    size_t parts, first;
    for (; index >= llmi_batch_parts(job, g); g++) index -= llmi_batch_parts(job, g);
    parts = llmi_batch_parts(job, g);
    own.n_threads = 1;
    own.shares += thread;
    own.panels += (size_t)thread * own.panels_size;
    if (llmi_gemm_is_dot(g)) {
        llmi_gemm part = *g;
        first = index * g->n / parts;
        part.n = (index + 1) * g->n / parts - first;
        if (llmi_gemm_is_typed(g)) part.w = llmi_matrix_rows(g->w, first, part.n);
        else part.b += first * g->b_col;
        part.c += first;
        if (part.bias) part.bias += first;
        llmi_gemm_run(&own, &part);
    } else if (parts == 1) {
        llmi_gemm_same_a(&own, g, llmi_batch_group(job, g));
    } else {
        first = index * g->m / parts;
        llmi_gemm_rows(&own, g, llmi_batch_group(job, g), first,
                       (index + 1) * g->m / parts - first);
    }
}

/* all of one precision; those of one A, of one layout */
static void llmi_gemm_batch(llm_context *context, const llmi_gemm *products, size_t n) {
    const size_t threads = (size_t)context->n_threads;
    size_t tasks = 0, columns = 0, i, group;
    llmi_batch job;
    for (i = 0; i < n; i++)
        if (llmi_gemm_is_dot(&products[i])) columns += products[i].m ? products[i].n : 0;
    job.context = context;
    job.products = products;
    job.n = n;
    job.columns = llmi_max(16, llmi_ceil_div(columns, 4 * threads));
    for (i = 0; i < n; i++) tasks += llmi_batch_parts(&job, &products[i]);
    if (tasks < 2 * threads) {                             /* too few to share out evenly */
        for (i = 0; i < n; i += group) {
            group = llmi_batch_group(&job, &products[i]);
            llmi_gemm_same_a(context, &products[i], group);
        }
        return;
    }
    llmi_parallel(context, tasks, llmi_batch_task, &job);
}

/* n products of one A: few rows of it are multiplied by all columns in one batch */
static void llmi_gemm_again(llm_context *context, const llmi_gemm *products, size_t n) {
    if (llmi_gemm_is_few(products)) llmi_gemm_batch(context, products, n);
    else llmi_gemm_rows(context, products, n, 0, products->m);
}

/* y (rows,n_out), its rows ldy apart, = [y +] x (rows,n_in) W^T [+ bias] */
static llmi_gemm llmi_product(float *y, size_t ldy, const float *x, llmi_matrix w,
                              const float *bias, size_t rows, int accumulate) {
    llmi_gemm g;
    memset(&g, 0, sizeof g);
    g.m = rows; g.n = w.n_out; g.k = w.n_in;
    g.a = x; g.a_row = w.n_in; g.a_col = 1;
    g.b = (const float *)w.data;
    g.b_row = w.transposed ? w.n_out : 1; g.b_col = w.transposed ? 1 : w.n_in;
    g.w = w;
    g.c = y; g.ldc = ldy;
    g.bias = bias;
    g.accumulate = accumulate;
    g.precision = w.precision;
    return g;
}
static void llmi_matmul(llm_context *context, float *y, size_t ldy, const float *x,
                        llmi_matrix w, const float *bias, size_t rows, int accumulate) {
    const llmi_gemm g = llmi_product(y, ldy, x, w, bias, rows, accumulate);
    llmi_gemm_run(context, &g);
}

/* of the same x as the product just before */
static llmi_gemm llmi_product_again(float *y, size_t ldy, const float *x, llmi_matrix w,
                                    const float *bias, size_t rows) {
    llmi_gemm g = llmi_product(y, ldy, x, w, bias, rows, 0);
    g.same_a = 1;
    return g;
}

/* dx (rows,n_in) = [dx +] dy W */
static llmi_gemm llmi_product_dx(float *dx, const float *dy, size_t lddy, llmi_matrix w,
                                 size_t rows, int accumulate) {
    llmi_gemm g;
    memset(&g, 0, sizeof g);
    g.m = rows; g.n = w.n_in; g.k = w.n_out;
    g.a = dy; g.a_row = lddy; g.a_col = 1;
    LLM_ASSERT(w.type == LLM_F32);     /* what is trained */
    g.b = (const float *)w.data;
    g.b_row = w.transposed ? 1 : w.n_in; g.b_col = w.transposed ? w.n_out : 1;
    g.w = w;
    g.c = dx; g.ldc = w.n_in;
    g.accumulate = accumulate;
    g.precision = w.precision;
    return g;
}
static void llmi_matmul_dx(llm_context *context, float *dx, const float *dy, size_t lddy,
                           llmi_matrix w, size_t rows, int accumulate) {
    const llmi_gemm g = llmi_product_dx(dx, dy, lddy, w, rows, accumulate);
    llmi_gemm_run(context, &g);
}

/* dW = [dW +] dy^T x, stored as W is; w.data is not read */
static llmi_gemm llmi_product_dw(float *dw, const float *dy, size_t lddy, const float *x,
                                 llmi_matrix w, size_t rows, int accumulate) {
    llmi_gemm g;
    memset(&g, 0, sizeof g);
    g.k = rows;
    if (w.transposed) {
        g.m = w.n_in; g.n = w.n_out;
        g.a = x; g.a_row = 1; g.a_col = w.n_in;
        g.b = dy; g.b_row = lddy; g.b_col = 1;
    } else {
        g.m = w.n_out; g.n = w.n_in;
        g.a = dy; g.a_row = 1; g.a_col = lddy;
        g.b = x; g.b_row = w.n_in; g.b_col = 1;
    }
    g.c = dw; g.ldc = g.n;
    g.accumulate = accumulate;
    g.precision = w.precision;
    return g;
}
static void llmi_matmul_dw(llm_context *context, float *dw, const float *dy, size_t lddy,
                           const float *x, llmi_matrix w, size_t rows, int accumulate) {
    const llmi_gemm g = llmi_product_dw(dw, dy, lddy, x, w, rows, accumulate);
    llmi_gemm_run(context, &g);
}

/* ============================================================================================
 * >>linear       y = x W^T + b
 * ========================================================================================== */
/* dbias (width) += sum over rows of dy (rows,width) */
static void llmi_column_sum_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->column_sum(op->y + at, op->x + at, op->rows, op->width, n);
}
static void llmi_add_column_sums(llm_context *context, float *dbias, const float *dy,
                                 size_t rows, size_t width) {
    llmi_op op = llmi_op_rows(context, dbias, dy, rows, width);
    llmi_for(context, width, LLMI_STRIP, llmi_column_sum_body, &op);
}

LLM_API llm_result llm_linear_forward(llm_context *context, float *y, const float *x,
                                      const float *weight, const float *bias, int rows, int n_in,
                                      int n_out) {
    if (!context || !y || !x || !weight || rows < 0 || n_in < 0 || n_out < 0)
        return LLM_ERR_ARGUMENT;
    llmi_matmul(context, y, (size_t)n_out, x,
                llmi_matrix_of(weight, (size_t)n_out, (size_t)n_in, 0), bias, (size_t)rows, 0);
    return LLM_OK;
}

LLM_API llm_result llm_linear_backward(llm_context *context, float *dx, float *dweight,
                                       float *dbias, const float *dy, const float *x,
                                       const float *weight, int rows, int n_in, int n_out) {
    const llmi_matrix w = llmi_matrix_of(weight, (size_t)n_out, (size_t)n_in, 0);
    if (!context || !dy || (dweight && !x) || (dx && !weight) || rows < 0 || n_in < 0 || n_out < 0)
        return LLM_ERR_ARGUMENT;
    if (dx) llmi_matmul_dx(context, dx, dy, (size_t)n_out, w, (size_t)rows, 1);
    if (dweight) llmi_matmul_dw(context, dweight, dy, (size_t)n_out, x, w, (size_t)rows, 1);
    if (dbias) llmi_add_column_sums(context, dbias, dy, (size_t)rows, (size_t)n_out);
    return LLM_OK;
}

/* ============================================================================================
 * >>embedding    rows of a table
 * ========================================================================================== */

/* -> LLM_ERR_ARGUMENT naming the first value outside [0, limit), other than an allowed `ignored` */
static llm_result llmi_check_tokens(const int32_t *tokens, size_t n, int limit, const char *what,
                                    int ignored, llm_error *err) {
    size_t i;
    for (i = 0; i < n; i++)
        if ((tokens[i] < 0 || tokens[i] >= limit) && !(ignored && tokens[i] == LLM_IGNORE_INDEX))
            return llmi_fail(err, LLM_ERR_ARGUMENT, "%s %ld at index %lu is not in [0, %d)", what,
                             (long)tokens[i], (unsigned long)i, limit);
    return LLM_OK;
}

static void llmi_embedding_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    size_t r;
    for (r = at; r < at + n; r++)
        memcpy(op->y + r * op->width, op->x + (size_t)op->tokens[r] * op->width,
               op->width * sizeof(float));
}
static void llmi_embedding_backward_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    size_t r;
    for (r = 0; r < op->rows; r++)
        op->kernels->axpy(op->y + (size_t)op->tokens[r] * op->width + at, 1.0f,
                          op->x + r * op->width + at, n);
}
/* tokens are checked already */
static void llmi_embedding_backward(llm_context *context, float *dweight, const float *dy,
                                    const int32_t *tokens, size_t rows, size_t width) {
    llmi_op op = llmi_op_rows(context, dweight, dy, rows, width);
    op.tokens = tokens;
    llmi_for(context, width, LLMI_STRIP, llmi_embedding_backward_body, &op);
}

static llm_result llmi_check_embedding(llm_context *context, const void *y, const void *x,
                                       const int32_t *tokens, int rows, int vocab_size, int width,
                                       llm_error *err) {
    if (!context || !y || !x || (!tokens && rows > 0))
        return llmi_fail(err, LLM_ERR_ARGUMENT, "embedding: context, tokens or an array is NULL");
    if (rows < 0 || vocab_size < 0 || width < 0)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "embedding: rows %d, vocab_size %d, width %d: below 0", rows, vocab_size,
                         width);
    return llmi_check_tokens(tokens, (size_t)rows, vocab_size, "token", 0, err);
}

LLM_API llm_result llm_embedding_forward(llm_context *context, float *y, const int32_t *tokens,
                                         const float *weight, int rows, int vocab_size, int width,
                                         llm_error *err) {
    llmi_op op;
    LLMI_TRY(llmi_check_embedding(context, y, weight, tokens, rows, vocab_size, width, err));
    op = llmi_op_rows(context, y, weight, (size_t)rows, (size_t)width);
    op.tokens = tokens;
    llmi_for(context, op.rows, LLMI_ROWS, llmi_embedding_body, &op);
    return LLM_OK;
}
LLM_API llm_result llm_embedding_backward(llm_context *context, float *dweight, const float *dy,
                                          const int32_t *tokens, int rows, int vocab_size,
                                          int width, llm_error *err) {
    LLMI_TRY(llmi_check_embedding(context, dweight, dy, tokens, rows, vocab_size, width, err));
    llmi_embedding_backward(context, dweight, dy, tokens, (size_t)rows, (size_t)width);
    return LLM_OK;
}

/* ============================================================================================
 * >>layernorm    y = (x - mean) rstd weight + bias
 *
 * The rows of LayerNorm and RMSNorm run through the same bodies; without a mean it is RMSNorm.
 * ========================================================================================== */
typedef struct llmi_norm {
    const llmi_kernels *kernels;
    float *y, *mean_out, *rstd_out;                        /* forward  */
    float *dx, *dweight, *dbias;                           /* backward */
    const float *dy, *mean, *rstd, *x, *weight, *bias;
    size_t rows, width;
    float eps;
    int centered;
} llmi_norm;

static void llmi_norm_body(void *argument, size_t at, size_t n) {
    const llmi_norm *job = (const llmi_norm *)argument;
    size_t r;
    for (r = at; r < at + n; r++)
        job->kernels->norm(job->y + r * job->width, job->mean_out ? job->mean_out + r : NULL,
                           job->rstd_out ? job->rstd_out + r : NULL, job->x + r * job->width,
                           job->weight, job->bias, job->width, job->eps, job->centered);
}
static void llmi_norm_backward_body(void *argument, size_t at, size_t n) {
    const llmi_norm *job = (const llmi_norm *)argument;
    size_t r;
    for (r = at; r < at + n; r++)
        job->kernels->norm_backward(job->dx + r * job->width, job->dy + r * job->width,
                                    job->x + r * job->width, job->weight,
                                    job->centered ? job->mean[r] : 0.0f, job->rstd[r], job->width,
                                    job->centered);
}
static void llmi_norm_weight_body(void *argument, size_t at, size_t n) {
    const llmi_norm *job = (const llmi_norm *)argument;
    job->kernels->norm_backward_weight(
        job->dweight ? job->dweight + at : NULL, job->dbias ? job->dbias + at : NULL, job->dy + at,
        job->x + at, job->centered ? job->mean : NULL, job->rstd, job->rows, job->width, n);
}
static void llmi_norm_backward_run(llm_context *context, llmi_norm *job) {
    if (job->dx) llmi_for(context, job->rows, LLMI_ROWS, llmi_norm_backward_body, job);
    if (job->dweight || job->dbias)
        llmi_for(context, job->width, LLMI_STRIP, llmi_norm_weight_body, job);
}
/* 0: nothing to do */
static int llmi_norm_begin(llmi_norm *job, llm_context *context, const float *x,
                           const float *weight, int rows, int width, int centered) {
    memset(job, 0, sizeof *job);
    if (!context || !x || !weight || rows <= 0 || width <= 0) return 0;
    job->kernels = context->kernels;
    job->x = x; job->weight = weight;
    job->rows = (size_t)rows; job->width = (size_t)width;
    job->centered = centered;
    return 1;
}

LLM_API void llm_layernorm_forward(llm_context *context, float *y, float *mean, float *rstd,
                                   const float *x, const float *weight, const float *bias, int rows,
                                   int width, float eps) {
    llmi_norm job;
    if (!llmi_norm_begin(&job, context, x, weight, rows, width, 1) || !y) return;
    job.y = y; job.mean_out = mean; job.rstd_out = rstd;
    job.bias = bias;
    job.eps = eps;
    llmi_for(context, job.rows, LLMI_ROWS, llmi_norm_body, &job);
}
LLM_API void llm_layernorm_backward(llm_context *context, float *dx, float *dweight, float *dbias,
                                    const float *dy, const float *mean, const float *rstd,
                                    const float *x, const float *weight, int rows, int width) {
    llmi_norm job;
    if (!llmi_norm_begin(&job, context, x, weight, rows, width, 1) || !dy || !mean || !rstd) return;
    job.dx = dx; job.dweight = dweight; job.dbias = dbias;
    job.dy = dy; job.mean = mean; job.rstd = rstd;
    llmi_norm_backward_run(context, &job);
}

/* ============================================================================================
 * >>rmsnorm      y = x rstd weight
 * ========================================================================================== */
LLM_API void llm_rmsnorm_forward(llm_context *context, float *y, float *rstd, const float *x,
                                 const float *weight, int rows, int width, float eps) {
    llmi_norm job;
    if (!llmi_norm_begin(&job, context, x, weight, rows, width, 0) || !y) return;
    job.y = y; job.rstd_out = rstd;
    job.eps = eps;
    llmi_for(context, job.rows, LLMI_ROWS, llmi_norm_body, &job);
}
LLM_API void llm_rmsnorm_backward(llm_context *context, float *dx, float *dweight, const float *dy,
                                  const float *rstd, const float *x, const float *weight, int rows,
                                  int width) {
    llmi_norm job;
    if (!llmi_norm_begin(&job, context, x, weight, rows, width, 0) || !dy || !rstd) return;
    job.dx = dx; job.dweight = dweight;
    job.dy = dy; job.rstd = rstd;
    llmi_norm_backward_run(context, &job);
}

/* ============================================================================================
 * >>gelu         y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
 * ========================================================================================== */
static void llmi_gelu_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->gelu(op->y + at, op->x + at, n);
}
static void llmi_gelu_backward_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->gelu_backward(op->y + at, op->y2 ? op->y2 + at : NULL, op->x + at, op->x2 + at, n,
                               op->accumulate);
}

/* dx = [dx +] dy gelu'(x), dx may be dy; also y = gelu(x), unless NULL */
static void llmi_gelu_backward(llm_context *context, float *dx, float *y, const float *dy,
                               const float *x, size_t n, int accumulate) {
    llmi_op op = llmi_op_of(context, dx, dy);
    op.y2 = y; op.x2 = x;
    op.accumulate = accumulate;
    llmi_for(context, n, LLMI_PIECE, llmi_gelu_backward_body, &op);
}

LLM_API void llm_gelu_forward(llm_context *context, float *y, const float *x, size_t n) {
    llmi_op op;
    if (!context || !y || !x) return;
    op = llmi_op_of(context, y, x);
    llmi_for(context, n, LLMI_PIECE, llmi_gelu_body, &op);
}
LLM_API void llm_gelu_backward(llm_context *context, float *dx, const float *dy, const float *x,
                               size_t n) {
    if (context && dx && dy && x) llmi_gelu_backward(context, dx, NULL, dy, x, n, 1);
}

/* ============================================================================================
 * >>softmax      y = exp(x - max) / sum
 * ========================================================================================== */
static void llmi_softmax_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    const size_t width = op->width;
    size_t r;
    for (r = at; r < at + n; r++) {
        float *y = op->y + r * width;
        const float *x = op->x + r * width;
        const float sum = op->kernels->exp_sum(y, x, 1.0f, op->kernels->largest(x, width), width);
        op->kernels->affine(y, y, 1.0f / sum, 0.0f, width);
    }
}
static void llmi_softmax_backward_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    const size_t width = op->width;
    size_t r;
    for (r = at; r < at + n; r++) {
        const float *dy = op->x + r * width, *y = op->x2 + r * width;
        op->kernels->softmax_backward(op->y + r * width, dy, y, op->kernels->dot(dy, y, width),
                                      1.0f, width, 1);
    }
}

LLM_API void llm_softmax_forward(llm_context *context, float *y, const float *x, int rows,
                                 int width) {
    llmi_op op;
    if (!context || !y || !x || rows <= 0 || width <= 0) return;
    op = llmi_op_rows(context, y, x, (size_t)rows, (size_t)width);
    llmi_for(context, op.rows, LLMI_ROWS, llmi_softmax_body, &op);
}
LLM_API void llm_softmax_backward(llm_context *context, float *dx, const float *dy, const float *y,
                                  int rows, int width) {
    llmi_op op;
    if (!context || !dx || !dy || !y || rows <= 0 || width <= 0) return;
    op = llmi_op_rows(context, dx, dy, (size_t)rows, (size_t)width);
    op.x2 = y;
    llmi_for(context, op.rows, LLMI_ROWS, llmi_softmax_backward_body, &op);
}

/* ============================================================================================
 * >>dropout      the mask is drawn anew in the backward: it is never stored
 * ========================================================================================== */
static float llmi_dropout_factor(float p, uint64_t seed, uint64_t index) {
    const double drawn = (double)(uint32_t)(llm_random(seed, index) >> 32);
    return drawn >= (double)p * 4294967296.0 ? 1.0f / (1.0f - p) : 0.0f;
}

static void llmi_dropout_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    size_t i;
    for (i = at; i < at + n; i++) {
        const float value = op->x[i] * llmi_dropout_factor(op->p, op->seed, i);
        op->y[i] = op->accumulate ? op->y[i] + value : value;
    }
}

/* The map is linear and diagonal: the same for values and gradients. y may be x. */
static void llmi_dropout(llm_context *context, float *y, const float *x, size_t n, float p,
                         uint64_t seed, int accumulate) {
    llmi_op op = llmi_op_of(context, y, x);
    op.p = p;
    op.seed = seed;
    op.accumulate = accumulate;
    llmi_for(context, n, LLMI_PIECE, llmi_dropout_body, &op);
}
LLM_API void llm_dropout_forward(llm_context *context, float *y, const float *x, size_t n, float p,
                                 uint64_t seed) {
    if (context && y && x) llmi_dropout(context, y, x, n, p, seed, 0);
}
LLM_API void llm_dropout_backward(llm_context *context, float *dx, const float *dy, size_t n,
                                  float p, uint64_t seed) {
    if (context && dx && dy) llmi_dropout(context, dx, dy, n, p, seed, 1);
}

/* y = a + b */
static void llmi_add_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->add(op->y + at, op->x + at, op->x2 + at, n);
}
static void llmi_add_arrays(llm_context *context, float *y, const float *a, const float *b,
                            size_t n) {
    llmi_op op = llmi_op_of(context, y, a);
    op.x2 = b;
    llmi_for(context, n, LLMI_PIECE, llmi_add_body, &op);
}
/* y = a + dropout(b): a residual connection. b is overwritten where p > 0. */
static void llmi_residual(llm_context *context, float *y, const float *a, float *b, size_t n,
                          float p, uint64_t seed) {
    if (p > 0.0f) llmi_dropout(context, b, b, n, p, seed, 0);
    llmi_add_arrays(context, y, a, b, n);
}

/* ============================================================================================
 * >>swiglu       y = silu(gate) up
 * ========================================================================================== */
static void llmi_swiglu_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->swiglu(op->y + at, op->x + at, op->x2 + at, n);
}
static void llmi_swiglu_backward_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->swiglu_backward(op->y + at, op->y2 + at, op->x3 + at, op->x + at, op->x2 + at, n,
                                 op->accumulate);
}

LLM_API void llm_swiglu_forward(llm_context *context, float *y, const float *gate, const float *up,
                                size_t n) {
    llmi_op op;
    if (!context || !y || !gate || !up) return;
    op = llmi_op_of(context, y, gate);
    op.x2 = up;
    llmi_for(context, n, LLMI_PIECE, llmi_swiglu_body, &op);
}

/* dgate, dup = [dgate, dup +] ...; either may be dy */
static void llmi_swiglu_backward(llm_context *context, float *dgate, float *dup,
                                 const float *dy, const float *gate, const float *up, size_t n,
                                 int accumulate) {
    llmi_op op = llmi_op_of(context, dgate, gate);
    op.y2 = dup;
    op.x2 = up; op.x3 = dy;
    op.accumulate = accumulate;
    llmi_for(context, n, LLMI_PIECE, llmi_swiglu_backward_body, &op);
}
LLM_API void llm_swiglu_backward(llm_context *context, float *dgate, float *dup, const float *dy,
                                 const float *gate, const float *up, size_t n) {
    if (context && dgate && dup && dy && gate && up)
        llmi_swiglu_backward(context, dgate, dup, dy, gate, up, n, 1);
}

/* ============================================================================================
 * >>rope         rotary positions, plain and YaRN
 *
 * Pair i of a head, i < width/2, turns by position times frequency i: pairs are (2i, 2i+1), with
 * rope_half_split (i, i + width/2). YaRN (arXiv:2309.00071 sec. 3) slows the frequencies that turn
 * less than beta_slow times within the original length by the factor, keeps those that turn more
 * than beta_fast times, and blends between.
 * ========================================================================================== */
#define LLMI_CONFIG(member) #member, offsetof(llm_config, member)
/* member, type, range, default; config.json: key, other name, value if absent. What has no key is
 * of rope_parameters: see llmi_rope_read. */
#define LLMI_ROPE_FIELDS                                                                           \
    {LLMI_CONFIG(qk_rope_head_dim), LLMI_INT, "[]", 2, 8192, 0, LLMI_NO_DEFAULT,                   \
     "qk_rope_head_dim", NULL, 64},                                                                \
    {LLMI_CONFIG(rope_half_split), LLMI_BOOL_NOT, "", 0, 0, 0, 0, "rope_interleave", NULL, 1},     \
    {LLMI_CONFIG(rope_theta), LLMI_FLOAT, "(]", 1, FLT_MAX, 10000, 0, NULL, NULL, 0},              \
    {LLMI_CONFIG(yarn_factor), LLMI_FLOAT, "[]", 0, FLT_MAX, 0, 0, NULL, NULL, 0},                 \
    {LLMI_CONFIG(yarn_original_max_seq_len), LLMI_INT, "[]", 0, 1 << 24, 0, 0, NULL, NULL, 0},     \
    {LLMI_CONFIG(yarn_beta_fast), LLMI_FLOAT, "[]", 0, FLT_MAX, 32, 0, NULL, NULL, 0},             \
    {LLMI_CONFIG(yarn_beta_slow), LLMI_FLOAT, "[]", 0, FLT_MAX, 1, 0, NULL, NULL, 0},              \
    {LLMI_CONFIG(yarn_mscale), LLMI_FLOAT, "[]", 0, FLT_MAX, 0, 0, NULL, NULL, 0},                 \
    {LLMI_CONFIG(yarn_mscale_all_dim), LLMI_FLOAT, "[]", 0, FLT_MAX, 0, 0, NULL, NULL, 0}

/* what the ranges do not say */
static llm_result llmi_rope_check(const llm_config *c, llm_error *err) {
    if (c->qk_rope_head_dim % 2)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "qk_rope_head_dim %d is odd: it is made of pairs",
                         c->qk_rope_head_dim);
    if (c->yarn_factor != 0.0f)
        LLMI_TRY(llmi_check_int("yarn_original_max_seq_len", c->yarn_original_max_seq_len, 1,
                                1 << 24, err));
    return LLM_OK;
}

static double llmi_yarn_mscale(double factor, double mscale) {
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* the pair that turns r times within the original length */
static double llmi_yarn_pair(const llm_config *config, double r) {
    return (double)config->qk_rope_head_dim *
           log((double)config->yarn_original_max_seq_len / (r * 2.0 * LLMI_PI)) /
           (2.0 * log((double)config->rope_theta));
}

static float llmi_rope_frequency(const llm_config *config, int pair) {
    const double d = (double)config->qk_rope_head_dim;
    const double plain = 1.0 / pow((double)config->rope_theta, 2.0 * (double)pair / d);
    double low, high, ramp;
    if (config->yarn_factor == 0.0f) return (float)plain;
    low = floor(llmi_yarn_pair(config, (double)config->yarn_beta_fast));
    high = ceil(llmi_yarn_pair(config, (double)config->yarn_beta_slow));
    if (low < 0.0) low = 0.0;
    if (high > d - 1.0) high = d - 1.0;
    if (high == low) high += 0.001;
    ramp = ((double)pair - low) / (high - low);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return (float)(plain * (1.0 - ramp) + plain / (double)config->yarn_factor * ramp);
}

/* of cos and sin */
static double llmi_rope_scale(const llm_config *config) {
    const double f = (double)config->yarn_factor;
    if (f == 0.0) return 1.0;
    if (config->yarn_mscale != 0.0f && config->yarn_mscale_all_dim != 0.0f)
        return llmi_yarn_mscale(f, (double)config->yarn_mscale) /
               llmi_yarn_mscale(f, (double)config->yarn_mscale_all_dim);
    return llmi_yarn_mscale(f, 1.0);
}

/* of the whole score: 1/sqrt(qk head dim), times mscale^2 */
static float llmi_mla_scale(const llm_config *config) {
    double scale = 1.0 / sqrt((double)(config->qk_nope_head_dim + config->qk_rope_head_dim));
    if (config->yarn_factor != 0.0f && config->yarn_mscale_all_dim != 0.0f) {
        const double m = llmi_yarn_mscale((double)config->yarn_factor,
                                          (double)config->yarn_mscale_all_dim);
        scale *= m * m;
    }
    return (float)scale;
}

/* table (2, width/2): cos, sin at a position */
static void llmi_rope_angles(const llm_config *config, float *table, size_t position) {
    const int half = config->qk_rope_head_dim / 2;
    const double scale = llmi_rope_scale(config);
    int i;
    for (i = 0; i < half; i++) {
        const float angle = (float)position * llmi_rope_frequency(config, i);
        table[i] = (float)(cos((double)angle) * scale);
        table[half + i] = (float)(sin((double)angle) * scale);
    }
}

/* x (width) in place; sign -1 turns back: the backward */
static void llmi_rope_turn(float *x, const float *table, int width, int half_split, float sign) {
    const int half = width / 2, step = half_split ? 1 : 2, other = half_split ? half : 1;
    int i;
    for (i = 0; i < half; i++) {
        const float a = x[i * step], b = x[i * step + other], c = table[i],
                    s = sign * table[half + i];
        x[i * step] = a * c - b * s;
        x[i * step + other] = b * c + a * s;
    }
}

typedef struct llmi_rope {
    llm_context *context;
    const llm_config *config;
    float *y;
    const float *x;
    const int32_t *positions;
    float *tables;                     /* (threads, width) */
    size_t T, n_heads;
    int backward;
} llmi_rope;

static void llmi_rope_task(void *argument, size_t row, int thread) {
    const llmi_rope *job = (const llmi_rope *)argument;
    const size_t width = (size_t)job->config->qk_rope_head_dim;
    float *table = job->tables + (size_t)thread * 2 * width, *turned = table + width;
    size_t h;
    llmi_rope_angles(job->config, table,
                     job->positions ? (size_t)job->positions[row] : row % job->T);
    for (h = row * job->n_heads; h < (row + 1) * job->n_heads; h++) {
        float *y = job->y + h * width;
        memcpy(turned, job->x + h * width, width * sizeof(float));
        llmi_rope_turn(turned, table, (int)width, job->config->rope_half_split,
                       job->backward ? -1.0f : 1.0f);
        if (job->backward) job->context->kernels->axpy(y, 1.0f, turned, width);
        else memcpy(y, turned, width * sizeof(float));
    }
}

static llm_result llmi_rope_run(llm_context *context, float *y, const float *x,
                                const int32_t *positions, const llm_config *config, int rows, int T,
                                int n_heads, int backward, llm_error *err) {
    static const llmi_field fields[] = {LLMI_ROPE_FIELDS};
    llm_config c;
    llmi_rope job;
    int r;
    if (!context || !y || !x || !config)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "rope: context, config or an array is NULL");
    c = *config;
    llmi_fields_resolve(&c, fields, LLMI_COUNT(fields), 0);
    LLMI_TRY(llmi_fields_check("", &c, fields, LLMI_COUNT(fields), 1, err));
    LLMI_TRY(llmi_rope_check(&c, err));
    if (rows <= 0 || n_heads <= 0) return LLM_OK;
    if (!positions && (T < 1 || rows % T))
        return llmi_fail(err, LLM_ERR_ARGUMENT, "rope: rows %d is not a multiple of T %d", rows, T);
    for (r = 0; positions && r < rows; r++)
        if (positions[r] < 0)
            return llmi_fail(err, LLM_ERR_ARGUMENT, "rope: position %d of row %d is below 0",
                             (int)positions[r], r);
    LLMI_TRY(llmi_scratch_reserve(context,
                                  (size_t)context->n_threads * 2 * (size_t)c.qk_rope_head_dim *
                                      sizeof(float),
                                  err));
    job.context = context;
    job.config = &c;
    job.y = y;
    job.x = x;
    job.positions = positions;
    job.tables = (float *)context->scratch;
    job.T = (size_t)T;
    job.n_heads = (size_t)n_heads;
    job.backward = backward;
    llmi_parallel(context, (size_t)rows, llmi_rope_task, &job);
    return LLM_OK;
}

LLM_API llm_result llm_rope_forward(llm_context *context, float *y, const float *x,
                                    const int32_t *positions, const llm_config *config, int rows,
                                    int T, int n_heads, llm_error *err) {
    return llmi_rope_run(context, y, x, positions, config, rows, T, n_heads, 0, err);
}
LLM_API llm_result llm_rope_backward(llm_context *context, float *dx, const float *dy,
                                     const int32_t *positions, const llm_config *config, int rows,
                                     int T, int n_heads, llm_error *err) {
    return llmi_rope_run(context, dx, dy, positions, config, rows, T, n_heads, 1, err);
}

/* ============================================================================================
 * >>attention    causal, multi-head, in tiles: no T x T matrix exists in either direction
 *
 * A tile is a block of queries by LLMI_KEYS keys. Forward: online softmax (arXiv:2205.14135 alg.
 * 1): with m the running maximum and l the running sum, a new tile scales what is there by
 * exp(m_old - m_new). Backward: probabilities anew from the saved lse = m + log l (arXiv:2307.08691
 * alg. 2). A task is one head of one sequence (forward: a part of its queries); it packs the keys
 * and values that it needs into panels once, and its products are gemm's block kernel on them.
 * Over a cache, the forward goes in spans of keys, so that panels, and what MLA expands, do not
 * grow with the context: between them a query's m, l and sums wait in `state` and `out`.
 * ========================================================================================== */
#define LLMI_KEYS 64u
#define LLMI_SPAN 512u                 /* keys of a cache at a time; a multiple of LLMI_KEYS */
#define LLMI_SPAN_MOST (LLMI_SPAN + LLMI_FEW_ROWS)       /* the last is never a few keys alone */

typedef struct llmi_attention {
    size_t n_sequences, rows;          /* rows: queries per sequence, at consecutive positions    */
    const int *position;               /* of each sequence's first query; NULL = 0                */
    const int *slot;                   /* which of the k, v sequences is meant; NULL = the same   */
    size_t n_heads, qk_dim, v_dim;
    llm_dtype type;                    /* of k and v: above F32, they are decoded when read       */
    const float *q, *k, *v; /* value (s, t, h, i) of k: s k_sequence + t k_stride + h k_head + i; */
    size_t q_stride, k_stride, v_stride;        /* of q: (s rows + t) q_stride + h qk_dim + i     */
    size_t k_head, v_head, k_sequence, v_sequence;
    size_t first, keys;                /* forward: k and v hold the keys first .. first + keys    */
    float *state;                      /* (n_sequences, n_heads, rows, 2); NULL: all keys at once */
    float *out;                        /* (n_sequences, rows, n_heads, v_dim)                     */
    float *lse;                        /* (n_sequences, n_heads, rows) or NULL                    */
    const float *saved_out, *saved_lse, *dout;  /* backward: out and lse of the forward; as out  */
    float *dq, *dk, *dv;               /* as q, k, v                                              */
    int accumulate;                    /* backward: 0 = dq, dk, dv are overwritten, 1 = added to  */
    float scale, dropout;
    uint64_t seed;
    llm_precision precision;           /* of the products, not of the softmax                     */
    /* of the run */
    llm_context *context;
    const llmi_tiles *kernel;          /* of that precision                                       */
    size_t tile;                       /* queries in a tile                                       */
    size_t parts;                      /* of each head's queries                                  */
    size_t group;                      /* few queries: heads per task, which share their keys     */
    size_t thread_size;                /* bytes of scratch per thread                             */
} llmi_attention;

/* one thread's scratch; panels are per block of LLMI_KEYS keys */
typedef struct llmi_attention_scratch {
    float *k_columns, *v_rows; /* forward: k^T and v as B of s = q k^T and out = p v       */
    float *v_columns, *k_rows; /* backward: v^T and k as B of dp = dout v^T and dq = ds k  */
    float *q_panel, *p_panel, *do_panel;        /* as A                                           */
    float *q_rows, *do_rows;        /* as B of dk = ds^T q and dv = p^T dout                    */
    float *scores, *dscores, *sums; /* (tile,LLMI_KEYS), the same, (tile,v_dim)                 */
    float *max, *sum;               /* (tile)                                                   */
    float *room;                    /* forward: LLMI_KEYS keys or values, decoded               */
} llmi_attention_scratch;

static size_t llmi_attention_tile(const llmi_tiles *kernel) { return 64 / kernel->mr * kernel->mr; }

static void llmi_attention_carve(llmi_attention_scratch *s, llmi_arena *arena,
                                 const llmi_tiles *kernel, size_t n_keys, size_t qk_dim,
                                 size_t v_dim, int backward) {
    const size_t tile = llmi_attention_tile(kernel), mr = kernel->mr,
                 keys = llmi_round_up(n_keys, LLMI_KEYS);
    const size_t qk_pad = llmi_round_up(qk_dim, kernel->nr),
                 v_pad = llmi_round_up(v_dim, kernel->nr);
    const size_t qk_panel = llmi_panel(kernel, qk_dim), v_panel = llmi_panel(kernel, v_dim);
    const size_t block = llmi_panel(kernel, LLMI_KEYS), rows = llmi_panel(kernel, tile);
    memset(s, 0, sizeof *s);
    s->k_columns = llmi_carve_floats(arena, llmi_mul(keys, qk_panel));
    if (backward) {
        s->v_columns = llmi_carve_floats(arena, llmi_mul(keys, v_panel));
        s->k_rows = llmi_carve_floats(arena, llmi_mul(keys / LLMI_KEYS * block, qk_pad));
        s->do_panel = llmi_carve_floats(arena, tile * v_panel);
        s->q_rows = llmi_carve_floats(arena, rows * qk_pad);
        s->do_rows = llmi_carve_floats(arena, rows * v_pad);
        s->dscores = llmi_carve_floats(arena, tile * LLMI_KEYS);
    } else {
        s->v_rows = llmi_carve_floats(arena, llmi_mul(keys / LLMI_KEYS * block, v_pad));
        s->sums = llmi_carve_floats(arena, tile * v_dim);
        s->room = llmi_carve_floats(arena, LLMI_KEYS * llmi_max(qk_dim, v_dim));
    }
    s->q_panel = llmi_carve_floats(arena, tile * qk_panel);
    s->p_panel = llmi_carve_floats(arena,
                                   llmi_max(tile * block, llmi_round_up(LLMI_KEYS, mr) * rows));
    s->scores = llmi_carve_floats(arena, tile * LLMI_KEYS);
    s->max = llmi_carve_floats(arena, tile);
    s->sum = llmi_carve_floats(arena, tile);
}

/* bytes of scratch that a thread needs over at most n_keys keys */
static size_t llmi_attention_scratch_size(const llmi_tiles *kernel, size_t n_keys, size_t qk_dim,
                                          size_t v_dim, int backward) {
    llmi_attention_scratch s;
    llmi_arena arena = llmi_arena_at(NULL, 0);
    llmi_attention_carve(&s, &arena, kernel, n_keys, qk_dim, v_dim, backward);
    return arena.used;
}

static uint64_t llmi_attention_mask_index(const llmi_attention *a, size_t sequence, size_t head,
                                          size_t t, size_t key) {
    return (((uint64_t)sequence * a->n_heads + head) * a->rows + t) * a->rows + key;
}

/* values of a row of a tile, from key j0 on, times their factors of the dropout */
static void llmi_attention_drop(const llmi_attention *a, float *x, size_t n, size_t sequence,
                                size_t head, size_t t, size_t j0) {
    const uint64_t first = llmi_attention_mask_index(a, sequence, head, t, j0);
    size_t j;
    for (j = 0; j < n && a->dropout > 0.0f; j++)
        x[j] *= llmi_dropout_factor(a->dropout, a->seed, first + j);
}

/* one head of one sequence: what a task works on */
typedef struct llmi_head_of {
    const llmi_attention *a;
    size_t sequence, head, position;   /* position: of the first query                          */
    llmi_attention_scratch s;
} llmi_head_of;

static llmi_head_of llmi_head_at(const llmi_attention *a, size_t sequence, size_t head,
                                 size_t n_keys, int thread, int backward) {
    llmi_arena arena = llmi_arena_at((char *)a->context->scratch + a->thread_size * (size_t)thread,
                                     a->thread_size);
    llmi_head_of h;
    h.a = a;
    h.sequence = sequence;
    h.head = head;
    h.position = a->position ? (size_t)a->position[sequence] : 0;
    llmi_attention_carve(&h.s, &arena, a->kernel, n_keys, a->qk_dim, a->v_dim, backward);
    return h;
}
/* floats of the panel of LLMI_KEYS keys or values of dim */
static size_t llmi_keys_block(const llmi_tiles *kernel, size_t dim) {
    return llmi_panel(kernel, LLMI_KEYS) * llmi_round_up(dim, kernel->nr);
}

/* m, l and sums of a tile's rows, from query i0 on: as nothing was seen, or as the span before left
 * them */
static void llmi_tile_begin(const llmi_head_of *h, size_t i0, size_t rows) {
    const llmi_attention *a = h->a;
    const size_t row0 = h->sequence * a->rows + i0;
    size_t r;
    for (r = 0; r < rows; r++) {
        const size_t at = (h->sequence * a->n_heads + h->head) * a->rows + i0 + r;
        float *sums = h->s.sums + r * a->v_dim;
        h->s.max[r] = a->first ? a->state[2 * at] : -INFINITY;
        h->s.sum[r] = a->first ? a->state[2 * at + 1] : 0.0f;
        if (a->first)
            memcpy(sums, a->out + ((row0 + r) * a->n_heads + h->head) * a->v_dim,
                   a->v_dim * sizeof(float));
        else memset(sums, 0, a->v_dim * sizeof(float));
    }
}
/* the output and lse of a tile's rows; or what the next span goes on with */
static void llmi_tile_end(const llmi_head_of *h, size_t i0, size_t rows, int more) {
    const llmi_attention *a = h->a;
    const size_t row0 = h->sequence * a->rows + i0,
                 at = (h->sequence * a->n_heads + h->head) * a->rows + i0;
    size_t r;
    for (r = 0; r < rows; r++) {
        float *out = a->out + ((row0 + r) * a->n_heads + h->head) * a->v_dim;
        const float *sums = h->s.sums + r * a->v_dim;
        if (more) {
            memcpy(out, sums, a->v_dim * sizeof(float));
            a->state[2 * (at + r)] = h->s.max[r];
            a->state[2 * (at + r) + 1] = h->s.sum[r];
            continue;
        }
        a->context->kernels->affine(out, sums, 1.0f / h->s.sum[r], 0.0f, a->v_dim);
        if (a->lse) a->lse[at + r] = h->s.max[r] + logf(h->s.sum[r]);
    }
}
/* alg. 1, lines 10 to 12, of a tile's scores with `keys` keys from position `key` on: they become
 * exp(scale s - m), the sums so far are scaled by exp(m_old - m) */
static void llmi_tile_softmax(const llmi_head_of *h, size_t i0, size_t rows, size_t key,
                              size_t keys) {
    const llmi_attention *a = h->a;
    const llmi_kernels *kernels = a->context->kernels;
    size_t r;
    for (r = 0; r < rows; r++) {
        const size_t at = h->position + i0 + r;    /* the query's position */
        const size_t valid = at < key ? 0 : llmi_min(keys, at + 1 - key);
        float *p = h->s.scores + r * LLMI_KEYS, *sums = h->s.sums + r * a->v_dim;
        if (valid) {
            const float most = a->scale * kernels->largest(p, valid);
            if (most > h->s.max[r]) {
                const float shrink = expf(h->s.max[r] - most);
                if (key) kernels->affine(sums, sums, shrink, 0.0f, a->v_dim);
                h->s.sum[r] *= shrink;
                h->s.max[r] = most;
            }
            h->s.sum[r] += kernels->exp_sum(p, p, a->scale, h->s.max[r], valid);
            llmi_attention_drop(a, p, valid, h->sequence, h->head, i0 + r, key);
        }
        memset(p + valid, 0, (keys - valid) * sizeof(float));
    }
}

/* value `at` of keys or values, which a float pointer stands for whatever their type is */
static const float *llmi_typed_at(const float *from, llm_dtype type, size_t at) {
    if (type <= LLM_F32) return from + at;
    return (const float *)(const void *)((const char *)from + llmi_dtype_bytes(type, at));
}
/* `keys` rows of dim values, *stride apart, from value `at` on: in their place, or in room, dim
 * apart */
static const float *llmi_attention_rows(const llmi_attention *a, const float *from, size_t at,
                                        size_t *stride, size_t keys, size_t dim, float *room) {
    size_t i;
    if (a->type <= LLM_F32) return from + at;
    for (i = 0; i < keys; i++)
        a->context->kernels->decode(
            a->type, room + i * dim, llmi_typed_at(from, a->type, at + i * *stride), dim);
    *stride = dim;
    return room;
}
static void llmi_attention_task(void *argument, size_t index, int thread) {
    const llmi_attention *a = (const llmi_attention *)argument;
    const llmi_tiles *kernel = a->kernel;
    const size_t part = index % a->parts, head = index / a->parts % a->n_heads;
    const size_t sequence = index / a->parts / a->n_heads;
    const size_t tiles = llmi_ceil_div(a->rows, a->tile);
    const size_t first = part * tiles / a->parts * a->tile;
    const size_t last = llmi_min((part + 1) * tiles / a->parts * a->tile, a->rows);
    const size_t position = a->position ? (size_t)a->position[sequence] : 0;
    const size_t slot = a->slot ? (size_t)a->slot[sequence] : sequence;
    const size_t k_at = slot * a->k_sequence + head * a->k_head;
    const size_t v_at = slot * a->v_sequence + head * a->v_head;
    const size_t end = llmi_min(position + last, a->first + a->keys);   /* of the keys that count */
    const size_t n_keys = end > a->first ? end - a->first : 0;
    const size_t k_panel = llmi_panel(kernel, a->qk_dim),
                 v_block = llmi_keys_block(kernel, a->v_dim);
    llmi_head_of h;
    size_t i0, j0;
    if (first >= last || n_keys == 0) return;
    h = llmi_head_at(a, sequence, head, n_keys, thread, 0);
    for (j0 = 0; j0 < n_keys; j0 += LLMI_KEYS) {
        const size_t keys = llmi_min(LLMI_KEYS, n_keys - j0);
        size_t k_stride = a->k_stride, v_stride = a->v_stride;
        const float *rows = llmi_attention_rows(a, a->k, k_at + j0 * k_stride, &k_stride, keys,
                                                a->qk_dim, h.s.room);
        kernel->pack(LLMI_B, h.s.k_columns + j0 * k_panel, rows, k_stride, 1, keys, a->qk_dim);
        rows = llmi_attention_rows(a, a->v, v_at + j0 * v_stride, &v_stride, keys, a->v_dim,
                                   h.s.room);
        kernel->pack(LLMI_B, h.s.v_rows + j0 / LLMI_KEYS * v_block, rows, 1, v_stride, a->v_dim,
                     keys);
    }
    for (i0 = first; i0 < last; i0 += a->tile) {
        const size_t rows = llmi_min(a->tile, last - i0), all = position + i0 + rows;
        if (all <= a->first) continue;     /* an earlier span had its last key */
        kernel->pack(LLMI_A, h.s.q_panel,
                     a->q + (sequence * a->rows + i0) * a->q_stride + head * a->qk_dim, a->q_stride,
                     1, rows, a->qk_dim);
        llmi_tile_begin(&h, i0, rows);
        for (j0 = 0; j0 < n_keys && a->first + j0 < all; j0 += LLMI_KEYS) {
            const size_t keys = llmi_min(LLMI_KEYS, n_keys - j0), key = a->first + j0;
            const size_t seen = llmi_min(keys, all - key);                     /* by the last row */
            kernel->block(rows, seen, a->qk_dim, h.s.q_panel, h.s.k_columns + j0 * k_panel,
                          h.s.scores, LLMI_KEYS, NULL, 0);
            llmi_tile_softmax(&h, i0, rows, key, keys);
            kernel->pack(LLMI_A, h.s.p_panel, h.s.scores, LLMI_KEYS, 1, rows, keys);
            kernel->block(rows, a->v_dim, keys, h.s.p_panel, h.s.v_rows + j0 / LLMI_KEYS * v_block,
                          h.s.sums, a->v_dim, NULL, 1);
        }
        llmi_tile_end(&h, i0, rows, all > a->first + a->keys);
    }
}

/* P from scores and lse; dS = scale P (dP - sum(dout out)) from dscores, which hold dP */
static void llmi_tile_softmax_backward(const llmi_head_of *h, const float *lse, size_t i0,
                                       size_t rows, size_t j0, size_t keys) {
    const llmi_attention *a = h->a;
    const llmi_kernels *kernels = a->context->kernels;
    size_t r;
    for (r = 0; r < rows; r++) {
        const size_t valid = i0 + r < j0 ? 0 : llmi_min(keys, i0 + r + 1 - j0);
        float *p = h->s.scores + r * LLMI_KEYS, *ds = h->s.dscores + r * LLMI_KEYS;
        if (valid) {
            kernels->exp_sum(p, p, a->scale, lse[r], valid);
            llmi_attention_drop(a, ds, valid, h->sequence, h->head, i0 + r, j0);
            kernels->softmax_backward(ds, ds, p, h->s.sum[r], a->scale, valid, 0);
            llmi_attention_drop(a, p, valid, h->sequence, h->head, i0 + r, j0);
        }
        memset(p + valid, 0, (keys - valid) * sizeof(float));
        memset(ds + valid, 0, (keys - valid) * sizeof(float));
    }
}
/* packs keys and values as the backward's products need them, and clears what is not added to */
static void llmi_backward_begin(const llmi_head_of *h, const float *k, const float *v, float *dk,
                                float *dv) {
    const llmi_attention *a = h->a;
    const llmi_tiles *kernel = a->kernel;
    size_t j0, r;
    for (r = 0; r < a->rows && !a->accumulate; r++) {
        memset(a->dq + (h->sequence * a->rows + r) * a->q_stride + h->head * a->qk_dim, 0,
               a->qk_dim * sizeof(float));
        memset(dk + r * a->k_stride, 0, a->qk_dim * sizeof(float));
        memset(dv + r * a->v_stride, 0, a->v_dim * sizeof(float));
    }
    for (j0 = 0; j0 < a->rows; j0 += LLMI_KEYS) {
        const size_t keys = llmi_min(LLMI_KEYS, a->rows - j0);
        kernel->pack(LLMI_B, h->s.k_columns + j0 * llmi_panel(kernel, a->qk_dim),
                     k + j0 * a->k_stride, a->k_stride, 1, keys, a->qk_dim);
        kernel->pack(LLMI_B, h->s.v_columns + j0 * llmi_panel(kernel, a->v_dim),
                     v + j0 * a->v_stride, a->v_stride, 1, keys, a->v_dim);
        kernel->pack(LLMI_B, h->s.k_rows + j0 / LLMI_KEYS * llmi_keys_block(kernel, a->qk_dim),
                     k + j0 * a->k_stride, 1, a->k_stride, a->qk_dim, keys);
    }
}

static void llmi_attention_backward_task(void *argument, size_t index, int thread) {
    const llmi_attention *a = (const llmi_attention *)argument;
    const llmi_tiles *kernel = a->kernel;
    const size_t head = index % a->n_heads, sequence = index / a->n_heads;
    const size_t k_at = sequence * a->k_sequence + head * a->k_head,
                 v_at = sequence * a->v_sequence + head * a->v_head;
    const size_t k_panel = llmi_panel(kernel, a->qk_dim), v_panel = llmi_panel(kernel, a->v_dim);
    const size_t k_block = llmi_keys_block(kernel, a->qk_dim), o_stride = a->n_heads * a->v_dim;
    const llmi_head_of h = llmi_head_at(a, sequence, head, a->rows, thread, 1);
    const llmi_attention_scratch *s = &h.s;
    size_t i0, j0, r;
    llmi_backward_begin(&h, a->k + k_at, a->v + v_at, a->dk + k_at, a->dv + v_at);
    for (i0 = 0; i0 < a->rows; i0 += a->tile) {
        const size_t rows = llmi_min(a->tile, a->rows - i0), row0 = sequence * a->rows + i0;
        const float *q = a->q + row0 * a->q_stride + head * a->qk_dim;
        const float *dout = a->dout + row0 * o_stride + head * a->v_dim;
        const float *out = a->saved_out + row0 * o_stride + head * a->v_dim;
        const float *lse = a->saved_lse + (sequence * a->n_heads + head) * a->rows + i0;
        float *dq = a->dq + row0 * a->q_stride + head * a->qk_dim;
        kernel->pack(LLMI_A, s->q_panel, q, a->q_stride, 1, rows, a->qk_dim);
        kernel->pack(LLMI_A, s->do_panel, dout, o_stride, 1, rows, a->v_dim);
        kernel->pack(LLMI_B, s->q_rows, q, 1, a->q_stride, a->qk_dim, rows);
        kernel->pack(LLMI_B, s->do_rows, dout, 1, o_stride, a->v_dim, rows);
        for (r = 0; r < rows; r++)
            s->sum[r] = a->context->kernels->dot(dout + r * o_stride, out + r * o_stride, a->v_dim);
        for (j0 = 0; j0 < i0 + rows; j0 += LLMI_KEYS) {
            const size_t keys = llmi_min(LLMI_KEYS, a->rows - j0),
                         seen = llmi_min(keys, i0 + rows - j0);
            kernel->block(rows, seen, a->qk_dim, s->q_panel, s->k_columns + j0 * k_panel, s->scores,
                          LLMI_KEYS, NULL, 0);
            kernel->block(rows, seen, a->v_dim, s->do_panel, s->v_columns + j0 * v_panel,
                          s->dscores, LLMI_KEYS, NULL, 0);
            llmi_tile_softmax_backward(&h, lse, i0, rows, j0, keys);
            kernel->pack(LLMI_A, s->p_panel, s->scores, 1, LLMI_KEYS, seen, rows);
            kernel->block(seen, a->v_dim, rows, s->p_panel, s->do_rows,
                          a->dv + v_at + j0 * a->v_stride, a->v_stride, NULL, 1);
            kernel->pack(LLMI_A, s->p_panel, s->dscores, 1, LLMI_KEYS, seen, rows);
            kernel->block(seen, a->qk_dim, rows, s->p_panel, s->q_rows,
                          a->dk + k_at + j0 * a->k_stride, a->k_stride, NULL, 1);
            kernel->pack(LLMI_A, s->p_panel, s->dscores, LLMI_KEYS, 1, rows, keys);
            kernel->block(rows, a->qk_dim, keys, s->p_panel, s->k_rows + j0 / LLMI_KEYS * k_block,
                          dq, a->q_stride, NULL, 1);
        }
    }
}

#define LLMI_FEW_HEADS 4u

/* scores; keys or values of dim, decoded, and their sums */
static size_t llmi_attention_few_size(size_t n_keys, size_t dim) {
    return llmi_round_up(llmi_mul(llmi_add(llmi_mul(n_keys, LLMI_FEW_HEADS),
                                           llmi_mul(LLMI_KEYS + LLMI_FEW_HEADS, dim)),
                                  sizeof(float)),
                         LLMI_ALIGN);
}

/* Few queries over a long cache: bound by reading k and v, which are used where they lie or, if
 * they are not f32, decoded LLMI_KEYS at a time. What a query gets does not depend on the rest. */
static void llmi_attention_few_task(void *argument, size_t index, int thread) {
    const llmi_attention *a = (const llmi_attention *)argument;
    const llmi_kernels *kernels = a->context->kernels;
    const size_t groups = llmi_ceil_div(a->n_heads, a->group), row = index / groups;
    const size_t head = index % groups * a->group, n = llmi_min(a->group, a->n_heads - head);
    const size_t sequence = row / a->rows, slot = a->slot ? (size_t)a->slot[sequence] : sequence;
    const size_t n_keys = (a->position ? (size_t)a->position[sequence] : 0) + row % a->rows + 1;
    const size_t step = a->type <= LLM_F32 ? n_keys : LLMI_KEYS;         /* keys at a time */
    float *p = (float *)(void *)((char *)a->context->scratch + a->thread_size * (size_t)thread);
    float *room = p + LLMI_FEW_HEADS * n_keys;
    float *terms = room + LLMI_KEYS * llmi_max(a->qk_dim, a->v_dim);
    float *out = a->out + (row * a->n_heads + head) * a->v_dim, sum[LLMI_FEW_HEADS];
    size_t i, j;
    LLM_ASSERT(llmi_attention_few_size(n_keys, llmi_max(a->qk_dim, a->v_dim)) <= a->thread_size);
    for (j = 0; j < n_keys; j += step) {
        const size_t keys = llmi_min(step, n_keys - j);
        size_t stride = a->k_stride;
        const float *k = llmi_attention_rows(
            a, a->k, slot * a->k_sequence + head * a->k_head + j * stride, &stride, keys,
            a->qk_dim, room);
        kernels->rows_dot(n, keys, a->qk_dim, a->q + row * a->q_stride + head * a->qk_dim,
                          a->qk_dim, k, stride, p + j, n_keys, NULL, 0);
    }
    for (i = 0; i < n; i++) {
        float *scores = p + i * n_keys;
        sum[i] = kernels->exp_sum(scores, scores, a->scale,
                                  a->scale * kernels->largest(scores, n_keys), n_keys);
    }
    for (j = 0; j < n_keys; j += step) {
        const size_t keys = llmi_min(step, n_keys - j);
        size_t stride = a->v_stride;
        const float *v = llmi_attention_rows(
            a, a->v, slot * a->v_sequence + head * a->v_head + j * stride, &stride, keys, a->v_dim,
            room);
        kernels->rows_axpy(n, a->v_dim, keys, p + j, n_keys, v, stride, j ? terms : out, a->v_dim);
        if (j) kernels->add(out, out, terms, n * a->v_dim);
    }
    for (i = 0; i < n; i++, out += a->v_dim)
        kernels->affine(out, out, 1.0f / sum[i], 0.0f, a->v_dim);
}
/* n_keys: the longest sequence's; -> tasks */
static size_t llmi_attention_few(llm_context *context, llmi_attention *a, size_t n_keys) {
    a->context = context;
    a->thread_size = llmi_attention_few_size(n_keys, llmi_max(a->qk_dim, a->v_dim));
    LLM_ASSERT(a->thread_size * (size_t)context->n_threads <= context->scratch_size);
    a->group = a->k_head || a->v_head
                   ? 1
                   : llmi_min(LLMI_FEW_HEADS,
                              llmi_ceil_div(a->n_heads, (size_t)context->n_threads));
    return a->n_sequences * a->rows * llmi_ceil_div(a->n_heads, a->group);
}

/* the keys of the span that begins at first, of n in all */
static size_t llmi_attention_span(size_t first, size_t n) {
    return n - first <= LLMI_SPAN_MOST ? n - first : LLMI_SPAN;
}
/* a->keys keys from a->first on. The scratch is reserved already. */
static void llmi_attention_keys(llm_context *context, llmi_attention *a) {
    const size_t heads = a->n_sequences * a->n_heads, threads = (size_t)context->n_threads;
    a->context = context;
    a->kernel = &context->kernels->tiles[a->precision];
    a->tile = llmi_attention_tile(a->kernel);
    a->thread_size = llmi_attention_scratch_size(a->kernel, a->keys, a->qk_dim, a->v_dim, 0);
    a->parts = llmi_max(1, llmi_min(llmi_ceil_div(a->rows, a->tile),
                                    llmi_ceil_div(4 * threads, llmi_max(heads, 1))));
    LLM_ASSERT(a->thread_size * threads <= context->scratch_size);
    llmi_parallel(context, heads * a->parts, llmi_attention_task, a);
}
/* n_keys: the longest sequence's */
static void llmi_attention_run(llm_context *context, llmi_attention *a, size_t n_keys,
                               int few) {
    const float *k = a->k, *v = a->v;
    if (few) {
        llmi_parallel(context, llmi_attention_few(context, a, n_keys), llmi_attention_few_task, a);
        return;
    }
    for (a->first = 0; a->first < n_keys; a->first += a->keys) {
        a->keys = a->state ? llmi_attention_span(a->first, n_keys) : n_keys;
        a->k = llmi_typed_at(k, a->type, a->first * a->k_stride);
        a->v = llmi_typed_at(v, a->type, a->first * a->v_stride);
        llmi_attention_keys(context, a);
    }
}
static void llmi_attention_backward_run(llm_context *context, llmi_attention *a) {
    a->context = context;
    a->kernel = &context->kernels->tiles[a->precision];
    a->tile = llmi_attention_tile(a->kernel);
    a->thread_size = llmi_attention_scratch_size(a->kernel, a->rows, a->qk_dim, a->v_dim, 1);
    LLM_ASSERT(a->thread_size * (size_t)context->n_threads <= context->scratch_size);
    llmi_parallel(context, a->n_sequences * a->n_heads, llmi_attention_backward_task, a);
}

/* bytes of the context's scratch that a run over at most n_keys keys takes */
static size_t llmi_attention_reserve(const llm_context *context, llm_precision precision,
                                     size_t n_keys, size_t qk_dim, size_t v_dim, int backward) {
    return llmi_mul(llmi_attention_scratch_size(&context->kernels->tiles[precision], n_keys, qk_dim,
                                                v_dim, backward),
                    (size_t)context->n_threads);
}

static llm_result llmi_attention_from_dims(llmi_attention *a, const llm_attention_dims *dims,
                                           llm_error *err) {
    if (!dims) return llmi_fail(err, LLM_ERR_ARGUMENT, "attention: dims is NULL");
    if (dims->B < 0 || dims->T < 0 || dims->n_heads < 0 || dims->qk_head_dim < 0 ||
        dims->v_head_dim < 0)
        return llmi_fail(
            err, LLM_ERR_ARGUMENT,
            "attention: B %d, T %d, n_heads %d, qk_head_dim %d, v_head_dim %d: below 0", dims->B,
            dims->T, dims->n_heads, dims->qk_head_dim, dims->v_head_dim);
    LLMI_TRY(llmi_check_float("attention: dropout", (double)dims->dropout, "[)", 0.0, 1.0, err));
    LLMI_TRY(llmi_check_float("attention: scale", (double)dims->scale, "[]", 0.0, FLT_MAX, err));
    memset(a, 0, sizeof *a);
    a->n_sequences = (size_t)dims->B;
    a->rows = (size_t)dims->T;
    a->n_heads = (size_t)dims->n_heads;
    a->qk_dim = a->k_head = (size_t)dims->qk_head_dim;
    a->v_dim = a->v_head = dims->v_head_dim ? (size_t)dims->v_head_dim : a->qk_dim;
    a->q_stride = dims->q_stride ? dims->q_stride : a->n_heads * a->qk_dim;
    a->k_stride = dims->k_stride ? dims->k_stride : a->n_heads * a->qk_dim;
    a->v_stride = dims->v_stride ? dims->v_stride : a->n_heads * a->v_dim;
    if (a->q_stride < a->n_heads * a->qk_dim || a->k_stride < a->n_heads * a->qk_dim ||
        a->v_stride < a->n_heads * a->v_dim)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "attention: a stride of q %lu, k %lu, v %lu is below heads x dim",
                         (unsigned long)a->q_stride, (unsigned long)a->k_stride,
                         (unsigned long)a->v_stride);
    a->k_sequence = a->rows * a->k_stride;
    a->v_sequence = a->rows * a->v_stride;
    a->scale = dims->scale != 0.0f ? dims->scale : 1.0f / sqrtf((float)dims->qk_head_dim);
    a->dropout = dims->dropout;
    a->seed = dims->seed;
    return LLM_OK;
}

LLM_API llm_result llm_attention_forward(llm_context *context, float *out, float *lse,
                                         const float *q, const float *k, const float *v,
                                         const llm_attention_dims *dims, llm_error *err) {
    llmi_attention a;
    if (!context || !out || !q || !k || !v)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "attention: context, out, q, k or v is NULL");
    LLMI_TRY(llmi_attention_from_dims(&a, dims, err));
    if (!a.n_sequences || !a.rows || !a.n_heads || !a.qk_dim || !a.v_dim) return LLM_OK;
    LLMI_TRY(llmi_scratch_reserve(
        context, llmi_attention_reserve(context, LLM_PRECISION_FP32, a.rows, a.qk_dim, a.v_dim, 0),
        err));
    a.out = out; a.lse = lse; a.q = q; a.k = k; a.v = v;
    llmi_attention_run(context, &a, a.rows, 0);
    return LLM_OK;
}

LLM_API llm_result llm_attention_backward(llm_context *context, float *dq, float *dk, float *dv,
                                          const float *dout, const float *out, const float *lse,
                                          const float *q, const float *k, const float *v,
                                          const llm_attention_dims *dims, llm_error *err) {
    llmi_attention a;
    if (!context || !dq || !dk || !dv || !dout || !out || !lse || !q || !k || !v)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "attention: context or an array is NULL");
    LLMI_TRY(llmi_attention_from_dims(&a, dims, err));
    if (!a.n_sequences || !a.rows || !a.n_heads || !a.qk_dim || !a.v_dim) return LLM_OK;
    LLMI_TRY(llmi_scratch_reserve(
        context, llmi_attention_reserve(context, LLM_PRECISION_FP32, a.rows, a.qk_dim, a.v_dim, 1),
        err));
    a.saved_out = out; a.saved_lse = lse; a.q = q; a.k = k; a.v = v;
    a.dout = dout; a.dq = dq; a.dk = dk; a.dv = dv;
    a.accumulate = 1;
    llmi_attention_backward_run(context, &a);
    return LLM_OK;
}
/* ============================================================================================
 * >>loss         cross entropy, as an op and fused with the head
 *
 * With s = label_smoothing: loss = (1-s) (lse - x_target) + s (lse - mean(x)) and
 * dloss/dx = softmax(x) - (1-s) onehot(target) - s/V, as torch.nn.functional.cross_entropy.
 * ========================================================================================== */
#define LLMI_MTP_MAX 4                 /* modules, as in llm_train_stats.mtp_loss */

typedef struct llmi_cross_entropy {
    llm_context *context;
    const float *logits;               /* rows ld apart */
    float *dlogits; /* as logits, or NULL; fused: the logits themselves, overwritten */
    const int32_t *targets;
    size_t rows, vocab, ld;
    float smoothing;
    float *losses, *lse, *logprobs;    /* (rows), each may be NULL; 0 where ignored               */
    unsigned char *correct;            /* (rows) or NULL: the target is the (first) largest logit */
    const float *saved_lse,
        *dloss; /* the op's backward; dloss: one, or one per row if dloss_step */
    size_t dloss_step;
    float dloss_scale;                 /* fused: of dlogits, too */
} llmi_cross_entropy;

static void llmi_cross_entropy_body(void *argument, size_t at, size_t n) {
    const llmi_cross_entropy *job = (const llmi_cross_entropy *)argument;
    const llmi_kernels *kernels = job->context->kernels;
    size_t r;
    for (r = at; r < at + n; r++) {
        const float *x = job->logits + r * job->ld;
        float *dx = job->dlogits ? job->dlogits + r * job->ld : NULL;
        const int32_t target = job->targets[r];
        float loss = 0.0f, lse = 0.0f, logprob = 0.0f;
        int correct = 0;
        if (target == LLM_IGNORE_INDEX) {
            if (dx) memset(dx, 0, job->vocab * sizeof(float));
            if (job->lse) {
                const float most = kernels->largest(x, job->vocab);
                lse = most + logf(kernels->exp_sum(NULL, x, 1.0f, most, job->vocab));
            }
        } else {
            const float most = kernels->largest(x, job->vocab), at_target = x[target];
            float sum, mean = 0.0f;
            if (at_target == most) {
                int32_t i = 0;
                while (i < target && x[i] != most) i++;
                correct = i == target;
            }
            if (job->smoothing > 0.0f) {
                double total = 0.0;
                size_t i;
                for (i = 0; i < job->vocab; i++) total += (double)x[i];
                mean = (float)(total / (double)job->vocab);
            }
            sum = kernels->exp_sum(dx, x, 1.0f, most, job->vocab);
            lse = most + logf(sum);
            logprob = at_target - most - logf(sum);
            loss = job->smoothing > 0.0f
                       ? -(1.0f - job->smoothing) * logprob + job->smoothing * (lse - mean)
                       : -logprob;
            if (dx) {
                const float scale = job->dloss_scale;
                kernels->affine(dx, dx, scale / sum, -scale * job->smoothing / (float)job->vocab,
                                job->vocab);
                dx[target] -= scale * (1.0f - job->smoothing);
            }
        }
        if (job->losses) job->losses[r] = loss;
        if (job->lse) job->lse[r] = lse;
        if (job->logprobs) job->logprobs[r] = logprob;
        if (job->correct) job->correct[r] = (unsigned char)correct;
    }
}

static void llmi_cross_entropy_backward_body(void *argument, size_t at, size_t count) {
    const llmi_cross_entropy *job = (const llmi_cross_entropy *)argument;
    const llmi_kernels *kernels = job->context->kernels;
    size_t r, i;
    for (r = at; r < at + count; r++) {
        const float g = (job->dloss ? job->dloss[r * job->dloss_step] : 1.0f) * job->dloss_scale;
        float *dx = job->dlogits + r * job->ld, part[512];
        if (job->targets[r] == LLM_IGNORE_INDEX) continue;
        for (i = 0; i < job->vocab; i += 512) {
            const size_t n = llmi_min(512, job->vocab - i);
            kernels->exp_sum(part, job->logits + r * job->ld + i, 1.0f, job->saved_lse[r], n);
            kernels->affine(part, part, 1.0f, -job->smoothing / (float)job->vocab, n);
            kernels->axpy(dx + i, g, part, n);
        }
        dx[job->targets[r]] -= g * (1.0f - job->smoothing);
    }
}

static size_t llmi_count_valid(const int32_t *targets, size_t n) {
    size_t i, valid = 0;
    for (i = 0; i < n; i++) valid += targets[i] != LLM_IGNORE_INDEX;
    return valid;
}

static llm_result llmi_check_cross_entropy(const int32_t *targets, int rows, int vocab_size,
                                           float smoothing, llm_error *err) {
    if (rows < 0 || vocab_size < 1)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "cross_entropy: rows %d is below 0 or vocab_size %d below 1", rows,
                         vocab_size);
    if (!(smoothing >= 0.0f && smoothing < 1.0f))
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "cross_entropy: label_smoothing %g is not in [0, 1)", (double)smoothing);
    return llmi_check_tokens(targets, (size_t)rows, vocab_size, "target", 1, err);
}

LLM_API llm_result llm_cross_entropy_forward(llm_context *context, float *loss, float *losses,
                                             float *lse, const float *logits,
                                             const int32_t *targets, int rows, int vocab_size,
                                             float label_smoothing, llm_reduction reduction,
                                             llm_error *err) {
    llmi_cross_entropy job;
    if (!context || !logits || !targets || (!loss && reduction != LLM_REDUCTION_NONE))
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "cross_entropy: context, loss, logits or targets is NULL");
    LLMI_TRY(llmi_check_cross_entropy(targets, rows, vocab_size, label_smoothing, err));
    LLMI_TRY(llmi_scratch_reserve(context, (size_t)rows * sizeof(float), err));
    memset(&job, 0, sizeof job);
    job.context = context;
    job.logits = logits; job.targets = targets;
    job.rows = (size_t)rows; job.vocab = job.ld = (size_t)vocab_size;
    job.smoothing = label_smoothing;
    job.losses = losses ? losses : (float *)context->scratch;
    job.lse = lse;
    llmi_for(context, job.rows, LLMI_ROWS, llmi_cross_entropy_body, &job);
    if (loss) {
        const size_t valid = llmi_count_valid(targets, job.rows);
        double sum = 0.0;
        size_t r;
        for (r = 0; r < job.rows; r++) sum += (double)job.losses[r];
        *loss = (float)(reduction == LLM_REDUCTION_MEAN && valid ? sum / (double)valid : sum);
    }
    return LLM_OK;
}

LLM_API llm_result llm_cross_entropy_backward(llm_context *context, float *dlogits,
                                              const float *dloss, const float *lse,
                                              const float *logits, const int32_t *targets, int rows,
                                              int vocab_size, float label_smoothing,
                                              llm_reduction reduction, llm_error *err) {
    llmi_cross_entropy job;
    size_t valid;
    if (!context || !dlogits || !lse || !logits || !targets)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "cross_entropy: context or an array is NULL");
    LLMI_TRY(llmi_check_cross_entropy(targets, rows, vocab_size, label_smoothing, err));
    memset(&job, 0, sizeof job);
    valid = llmi_count_valid(targets, (size_t)rows);
    job.context = context;
    job.logits = logits; job.dlogits = dlogits; job.targets = targets;
    job.rows = (size_t)rows; job.vocab = job.ld = (size_t)vocab_size;
    job.smoothing = label_smoothing;
    job.saved_lse = lse;
    job.dloss = dloss;
    job.dloss_step = reduction == LLM_REDUCTION_NONE;
    job.dloss_scale = reduction == LLM_REDUCTION_MEAN && valid ? 1.0f / (float)valid : 1.0f;
    llmi_for(context, job.rows, LLMI_ROWS, llmi_cross_entropy_backward_body, &job);
    return LLM_OK;
}

/* ---- the losses of a model and its MTP modules, as an op ---- */
static llm_result llmi_mtp_loss_check(llm_context *context, const float *const *logits,
                                      const float *const *lse, const int32_t *targets, int B, int T,
                                      int depth, llm_error *err) {
    int k;
    if (!context || !logits || !lse || !targets)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "mtp_loss: context or an array is NULL");
    LLMI_TRY(llmi_check_int("mtp_loss: B", B, 1, INT_MAX, err));
    LLMI_TRY(llmi_check_int("mtp_loss: T", T, 1, INT_MAX / B, err));
    LLMI_TRY(llmi_check_int("mtp_loss: depth", depth, 0,
                            T - 1 < LLMI_MTP_MAX ? T - 1 : LLMI_MTP_MAX, err));
    for (k = 0; k <= depth; k++)
        if (!logits[k] || !lse[k])
            return llmi_fail(err, LLM_ERR_ARGUMENT, "mtp_loss: logits or lse %d is NULL", k);
    return LLM_OK;
}

/* to (B, T-k) = from (B,T) from position k on */
static void llmi_mtp_shift(int32_t *to, const int32_t *from, size_t B, size_t T, size_t k) {
    size_t b;
    for (b = 0; b < B; b++)
        memcpy(to + b * (T - k), from + b * T + k, (T - k) * sizeof *to);
}

LLM_API llm_result llm_mtp_loss_forward(llm_context *context, float *loss, float *parts,
                                        float *const *lse, const float *const *logits,
                                        const int32_t *targets, int B, int T, int vocab_size,
                                        int depth, float lambda, float label_smoothing,
                                        llm_error *err) {
    const size_t n = (size_t)B * (size_t)T;
    llm_result result = LLM_OK;
    int32_t *shifted;
    float part = 0.0f;
    int k;
    if (!loss) return llmi_fail(err, LLM_ERR_ARGUMENT, "mtp_loss: loss is NULL");
    LLMI_TRY(llmi_mtp_loss_check(context, logits, (const float *const *)lse, targets, B, T, depth,
                                 err));
    shifted = (int32_t *)llmi_alloc(context->allocator, n * sizeof *shifted, "targets", err);
    if (!shifted) return LLM_ERR_MEMORY;
    for (k = 0; k <= depth && result == LLM_OK; k++) {
        llmi_mtp_shift(shifted, targets, (size_t)B, (size_t)T, (size_t)k);
        result =
            llm_cross_entropy_forward(context, &part, NULL, lse[k], logits[k], shifted, B * (T - k),
                                      vocab_size, label_smoothing, LLM_REDUCTION_MEAN, err);
        if (result != LLM_OK) break;
        if (parts) parts[k] = part;
        if (k == 0) *loss = part;
        else *loss += lambda / (float)depth * part;
    }
    llmi_release(context->allocator, shifted);
    return result;
}

LLM_API llm_result llm_mtp_loss_backward(llm_context *context, float *const *dlogits,
                                         const float *dloss, const float *const *lse,
                                         const float *const *logits, const int32_t *targets, int B,
                                         int T, int vocab_size, int depth, float lambda,
                                         float label_smoothing, llm_error *err) {
    const size_t n = (size_t)B * (size_t)T;
    llm_result result = LLM_OK;
    int32_t *shifted;
    int k;
    if (!dlogits) return llmi_fail(err, LLM_ERR_ARGUMENT, "mtp_loss: dlogits is NULL");
    LLMI_TRY(llmi_mtp_loss_check(context, logits, lse, targets, B, T, depth, err));
    shifted = (int32_t *)llmi_alloc(context->allocator, n * sizeof *shifted, "targets", err);
    if (!shifted) return LLM_ERR_MEMORY;
    for (k = 0; k <= depth && result == LLM_OK; k++) {
        const float scale = (dloss ? *dloss : 1.0f) * (k ? lambda / (float)depth : 1.0f);
        llmi_mtp_shift(shifted, targets, (size_t)B, (size_t)T, (size_t)k);
        if (dlogits[k])
            result = llm_cross_entropy_backward(context, dlogits[k], &scale, lse[k], logits[k],
                                                shifted, B * (T - k), vocab_size, label_smoothing,
                                                LLM_REDUCTION_MEAN, err);
    }
    llmi_release(context->allocator, shifted);
    return result;
}

/* The head and its loss, chunk by chunk: logits exist for one chunk of rows at a time. Each packs
 * the head's weight twice, so that smaller chunks save memory and cost time. */
#define LLMI_LOSS_ROWS 1024u
#define LLMI_LOSS_ROWS_SMALL 512u      /* where memory counts for more: recompute */

typedef struct llmi_head {
    llm_context *context;
    llmi_matrix weight;                /* (V,C) */
    const float *x;                    /* (rows,C), after the final norm */
    const int32_t *targets;            /* (rows) */
    size_t rows, chunk;                /* chunk: rows at a time */
    float smoothing;
    float scale;                       /* of the gradients */
    float *dx; /* (rows,C) of the summed loss, overwritten; NULL: loss only */
    float *dweight;                    /* as weight */
    int accumulate;                    /* 0: dweight is overwritten, not added to */
    float *logprobs;                   /* (rows) or NULL */
    /* results, over the valid targets */
    double loss_sum, logprob_sum;
    size_t n_valid, n_correct;
} llmi_head;

typedef struct llmi_head_scratch {
    float *logits, *losses, *logprobs;
    unsigned char *correct;
} llmi_head_scratch;

/* rows: of a chunk */
static void llmi_head_carve(llmi_head_scratch *s, llmi_arena *arena, size_t vocab, size_t rows) {
    s->logits = llmi_carve_floats(arena, llmi_mul(rows, llmi_round_up(vocab, 16)));
    s->losses = llmi_carve_floats(arena, rows);
    s->logprobs = llmi_carve_floats(arena, rows);
    s->correct = (unsigned char *)llmi_carve(arena, rows, 1);
}

/* arena: what follows the caller's own part of the scratch */
static void llmi_head_run(llmi_head *head, llmi_arena arena) {
    llm_context *context = head->context;
    const size_t vocab = head->weight.n_out, width = head->weight.n_in;
    llmi_head_scratch s;
    llmi_cross_entropy job;
    size_t row, r;
    llmi_head_carve(&s, &arena, vocab, llmi_min(head->chunk, head->rows));
    memset(&job, 0, sizeof job);
    job.context = context;
    job.logits = s.logits;
    job.dlogits = head->dx ? s.logits : NULL;
    job.vocab = vocab; job.ld = llmi_round_up(vocab, 16);
    job.smoothing = head->smoothing;
    job.dloss_scale = head->scale;
    job.losses = s.losses;
    job.logprobs = s.logprobs;
    job.correct = s.correct;
    head->loss_sum = head->logprob_sum = 0.0;
    head->n_valid = head->n_correct = 0;
    for (row = 0; row < head->rows; row += head->chunk) {
        const size_t rows = llmi_min(head->chunk, head->rows - row);
        const float *x = head->x + row * width;
        job.rows = rows;
        job.targets = head->targets + row;
        llmi_matmul(context, s.logits, job.ld, x, head->weight, NULL, rows, 0);
        llmi_for(context, rows, LLMI_ROWS, llmi_cross_entropy_body, &job);
        for (r = 0; r < rows; r++) {
            head->loss_sum += (double)s.losses[r];
            head->logprob_sum += (double)s.logprobs[r];
            head->n_correct += s.correct[r];
        }
        head->n_valid += llmi_count_valid(job.targets, rows);
        if (head->logprobs) memcpy(head->logprobs + row, s.logprobs, rows * sizeof(float));
        if (!head->dx) continue;
        llmi_matmul_dx(context, head->dx + row * width, s.logits, job.ld, head->weight, rows, 0);
        llmi_matmul_dw(context, head->dweight, s.logits, job.ld, x, head->weight, rows,
                       head->accumulate || row > 0);
    }
}

/* ============================================================================================
 * >>config       presets; fields, tensors and config.json of each architecture
 * ========================================================================================== */
typedef struct llmi_preset {
    const char *name;
    int vocab_size, max_seq_len, d_model, n_layers, n_heads;
} llmi_preset;
typedef struct llmi_ds_preset {
    llmi_preset size;
    int d_ffn, q_lora_rank, kv_lora_rank, nope, rope, v;
    int n_experts, n_active, n_shared, moe_d_ffn, first_k_dense, n_group, topk_group, mtp_depth;
    int untied;
} llmi_ds_preset;

/* arXiv:2005.14165 table 2.1 prints 24 heads of 128 for XL (2048 wide) and 5140 for the width of
 * 13B; neither divides. Here: 16 heads of 128, and 5120. */
static const llmi_preset llmi_presets[] = {
    {"gpt2-tiny", 50257, 256, 128, 4, 4},        {"gpt2-10m", 2048, 256, 384, 5, 6},
    {"gpt2-30m", 8192, 512, 512, 8, 8},          {"gpt2", 50257, 1024, 768, 12, 12},
    {"gpt2-medium", 50257, 1024, 1024, 24, 16},  {"gpt2-large", 50257, 1024, 1280, 36, 20},
    {"gpt2-xl", 50257, 1024, 1600, 48, 25},      {"gpt3-small", 50257, 2048, 768, 12, 12},
    {"gpt3-medium", 50257, 2048, 1024, 24, 16},  {"gpt3-large", 50257, 2048, 1536, 24, 16},
    {"gpt3-xl", 50257, 2048, 2048, 24, 16},      {"gpt3-2.7b", 50257, 2048, 2560, 32, 32},
    {"gpt3-6.7b", 50257, 2048, 4096, 32, 32},    {"gpt3-13b", 50257, 2048, 5120, 40, 40},
    {"gpt3-175b", 50257, 2048, 12288, 96, 96}
};
#define LLMI_N_PRESETS ((int)(sizeof llmi_presets / sizeof llmi_presets[0]))

/* The dense ones have narrow ranks and FFNs: at these sizes the embedding takes most parameters. */
static const llmi_ds_preset llmi_ds_presets[] = {
    {{"deepseek-tiny", 2048, 256, 256, 4, 4}, 512, 96, 48, 32, 16, 32, 8, 2, 1, 128, 1, 1, 1, 1, 0},
    {{"deepseek-small", 50000, 4096, 512, 6, 8}, 256, 0, 32, 32, 16, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {{"deepseek-base", 50000, 4096, 768, 12, 12},
     576, 0, 64, 32, 32, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {{"deepseek-large", 50000, 4096, 1024, 24, 16},
     1024, 0, 64, 32, 32, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {{"deepseek-xl", 50000, 4096, 2048, 24, 32},
     2560, 0, 96, 32, 32, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {{"deepseek-moe-150m", 50000, 4096, 512, 12, 8},
     1408, 192, 64, 64, 32, 64, 16, 2, 1, 384, 1, 1, 1, 0, 0},
    {{"deepseek-10b", 128256, 163840, 1536, 26, 32},
     8960, 0, 512, 128, 64, 192, 64, 4, 1, 1280, 1, 1, 1, 1, 1},
    {{"deepseek-v3", 129280, 163840, 7168, 61, 128},
     18432, 1536, 512, 128, 64, 128, 256, 8, 1, 2048, 3, 8, 4, 1, 1}
};
#define LLMI_N_DS_PRESETS ((int)(sizeof llmi_ds_presets / sizeof llmi_ds_presets[0]))

static const llmi_preset *llmi_preset_at(int i) {
    return i < LLMI_N_PRESETS ? &llmi_presets[i] : &llmi_ds_presets[i - LLMI_N_PRESETS].size;
}
LLM_API const char *llm_config_preset_name(int i) {
    return i >= 0 && i < LLMI_N_PRESETS + LLMI_N_DS_PRESETS ? llmi_preset_at(i)->name : NULL;
}

static void llmi_ds_preset_apply(llm_config *config, const llmi_ds_preset *preset) {
    const int whole = strcmp(preset->size.name, "deepseek-v3") == 0;
    config->arch = LLM_ARCH_DEEPSEEK_V3;
    config->tie_embeddings = !preset->untied;
    config->d_ffn = preset->d_ffn;
    config->q_lora_rank = preset->q_lora_rank;
    config->kv_lora_rank = preset->kv_lora_rank;
    config->qk_nope_head_dim = preset->nope;
    config->qk_rope_head_dim = preset->rope;
    config->v_head_dim = preset->v;
    config->n_routed_experts = preset->n_experts;
    config->num_experts_per_tok = preset->n_active;
    config->n_shared_experts = preset->n_shared;
    config->moe_d_ffn = preset->moe_d_ffn;
    config->first_k_dense = preset->first_k_dense;
    config->n_group = preset->n_group;
    config->topk_group = preset->topk_group;
    config->norm_topk_prob = preset->n_experts > 0;
    config->mtp_depth = preset->mtp_depth;
    if (!whole) return;
    config->routed_scaling_factor = 2.5f;
    config->yarn_factor = 40.0f;
    config->yarn_original_max_seq_len = 4096;
    config->yarn_mscale = config->yarn_mscale_all_dim = 1.0f;
}

/* Levenshtein distance of short names */
static size_t llmi_edit_distance(const char *a, const char *b) {
    size_t row[32], n = strlen(b), i, j;
    if (n > 31) return 99;
    for (j = 0; j <= n; j++) row[j] = j;
    for (i = 0; a[i] && i < 64; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (j = 1; j <= n; j++) {
            const size_t change = diagonal + (a[i] != b[j - 1]);
            diagonal = row[j];
            row[j] = llmi_min(change, 1 + llmi_min(row[j], row[j - 1]));
        }
    }
    return row[n];
}

LLM_API llm_result llm_config_preset(llm_config *config, const char *name, llm_error *err) {
    int i, nearest = 0;
    if (!config || !name) return llmi_fail(err, LLM_ERR_ARGUMENT, "preset: config or name is NULL");
    for (i = 0; llm_config_preset_name(i); i++) {
        const llmi_preset *preset = llmi_preset_at(i);
        if (strcmp(name, preset->name) == 0) {
            memset(config, 0, sizeof *config);
            config->arch = LLM_ARCH_GPT2;
            config->vocab_size = preset->vocab_size;
            config->max_seq_len = preset->max_seq_len;
            config->d_model = preset->d_model;
            config->n_layers = preset->n_layers;
            config->n_heads = preset->n_heads;
            config->tie_embeddings = 1;
            if (i >= LLMI_N_PRESETS)
                llmi_ds_preset_apply(config, &llmi_ds_presets[i - LLMI_N_PRESETS]);
            return LLM_OK;
        }
        if (llmi_edit_distance(name, preset->name) <
            llmi_edit_distance(name, llmi_preset_at(nearest)->name))
            nearest = i;
    }
    return llmi_fail(err, LLM_ERR_ARGUMENT, "no preset is named '%.40s'; did you mean '%s'?", name,
                     llmi_preset_at(nearest)->name);
}

/* ---- one row per architecture: all that differs between them --------------------------------- */
struct llmi_table;
struct llmi_ds_layer;
struct llmi_run;
typedef struct llmi_arch {
    llm_arch arch;
    const char *name;                  /* model_type in config.json, arch in checkpoints          */
    const char *architecture;          /* in config.json: one of "architectures"                  */
    int other_types;                   /* other model_types count if they say that architecture   */
    const llmi_field *fields;          /* the members of llm_config that it has                   */
    size_t n_fields;
    const llmi_fixed *fixed;
    size_t n_fixed;
    void (*resolve)(llm_config *);                               /* defaults made of other fields */
    llm_result (*validate)(const llm_config *, llm_error *);     /* what no range says            */
    void (*read)(llmi_config_reader *, llm_config *);            /* config.json: what no row says */
    void (*write)(struct llmi_text *, const llm_config *);
    void (*table)(struct llmi_table *, const llm_config *, struct llmi_ds_layer *);
    int layernorm;                     /* the final norm has a bias; else RMSNorm                 */
    int learned_positions;             /* wpe is the second tensor; else positions are rotary     */
    size_t (*cache_width)(const llm_config *);                   /* values of a position, a layer */
    size_t (*cache_unit)(const llm_config *);                    /* parts of it are multiples of */
    void (*head_dims)(const llm_config *, size_t *qk, size_t *v);
    void (*carve_saved)(llmi_arena *exact, llmi_arena *wide, const llm_config *, size_t n);
    void (*carve_work)(struct llmi_run *, llmi_arena *, const llm_config *, size_t n,
                       size_t sequences, size_t cache_len, int n_threads, int backward);
    void (*forward)(const struct llmi_run *, int layer, size_t longest);         /* of a block */
    void (*backward)(const struct llmi_run *, float *dx, int layer);
} llmi_arch;
static const llmi_arch *llmi_arch_at(size_t i);                  /* NULL past the last: >>arch */
static const llmi_arch *llmi_arch_of(llm_arch arch);             /* NULL: there is none        */

static void llmi_config_resolve(llm_config *config) {
    const llmi_arch *arch = llmi_arch_of(config->arch);
    arch->resolve(config);
    llmi_fields_resolve(config, arch->fields, arch->n_fields, 0);
}

/* ---- GPT-2's configuration: transformers' GPT2Config, but no dropout where it is not said ---- */
static const llmi_field llmi_gpt2_fields[] = {
    {LLMI_CONFIG(vocab_size), LLMI_INT, "[]", 1, INT_MAX - 16, 0, 0, "vocab_size", NULL, 50257},
    {LLMI_CONFIG(max_seq_len), LLMI_INT, "[]", 1, 1 << 24, 0, 0,
     "n_positions", "max_position_embeddings", 1024},
    {LLMI_CONFIG(d_model), LLMI_INT, "[]", 1, 1 << 20, 0, 0, "n_embd", "hidden_size", 768},
    {LLMI_CONFIG(n_layers), LLMI_INT, "[]", 1, 10000, 0, 0, "n_layer", "num_hidden_layers", 12},
    {LLMI_CONFIG(n_heads), LLMI_INT, "", 1, 0, 0, 0, "n_head", "num_attention_heads", 12},
    {LLMI_CONFIG(d_ffn), LLMI_INT, "[]", 1, 1 << 24, 0, 0, "n_inner", NULL, 0},
    {LLMI_CONFIG(embd_pdrop), LLMI_FLOAT, "[)", 0, 1, 0, 0, "embd_pdrop", NULL, 0},
    {LLMI_CONFIG(attn_pdrop), LLMI_FLOAT, "[)", 0, 1, 0, 0, "attn_pdrop", NULL, 0},
    {LLMI_CONFIG(resid_pdrop), LLMI_FLOAT, "[)", 0, 1, 0, 0, "resid_pdrop", NULL, 0},
    {LLMI_CONFIG(norm_eps), LLMI_FLOAT, "()", 0, 1, 1e-5f, 0, "layer_norm_epsilon", NULL, 1e-5},
    {LLMI_CONFIG(tie_embeddings), LLMI_BOOL, "", 0, 0, 0, 0, "tie_word_embeddings", NULL, 1}};
static const llmi_fixed llmi_gpt2_fixed[] = {
    {"activation_function", "gelu_new|gelu_fast|gelu_pytorch_tanh", LLMI_WRITTEN},
    {"scale_attn_weights", "true", 0}, {"scale_attn_by_inverse_layer_idx", "false", 0},
    {"add_cross_attention", "false", 0}};

static void llmi_gpt2_resolve(llm_config *c) {
    if (c->d_ffn == 0 && c->d_model > 0 && c->d_model <= INT_MAX / 4) c->d_ffn = 4 * c->d_model;
}
static llm_result llmi_gpt2_validate(const llm_config *c, llm_error *err) {
    LLMI_TRY(llmi_check_int("n_heads", c->n_heads, 1, c->d_model, err));
    if (c->d_model % c->n_heads)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "d_model %d is not a multiple of n_heads %d",
                         c->d_model, c->n_heads);
    if (c->n_routed_experts || c->mtp_depth || c->kv_lora_rank || c->q_lora_rank ||
        c->yarn_factor != 0.0f)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "arch gpt2 has no experts (n_routed_experts %d), MTP (mtp_depth %d), MLA "
                         "(kv_lora_rank %d, q_lora_rank %d) or YaRN (yarn_factor %g)",
                         c->n_routed_experts, c->mtp_depth, c->kv_lora_rank, c->q_lora_rank,
                         (double)c->yarn_factor);
    return LLM_OK;
}
static void llmi_gpt2_read(llmi_config_reader *reader, llm_config *config) {
    static const char *const none[] = {"pruned_heads", "quantization_config"};
    int i;
    (void)config;
    (void)llmi_config_bool(reader, "reorder_and_upcast_attn", 0);      /* nothing in f32 */
    for (i = 0; i < 2; i++) {
        const int node = llmi_config_node(reader, none[i], NULL);
        if (node >= 0 && (i || reader->json->nodes[node].n_children > 0))
            llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, none[i], node, "only none is supported");
    }
}
static size_t llmi_gpt2_cache_width(const llm_config *c) { return 2 * (size_t)c->d_model; }
static size_t llmi_gpt2_cache_unit(const llm_config *c) {
    return (size_t)(c->d_model / c->n_heads);
}
static void llmi_gpt2_head_dims(const llm_config *c, size_t *qk, size_t *v) {
    *qk = *v = (size_t)(c->d_model / c->n_heads);
}

/* ---- DeepSeek-V3's: transformers' DeepseekV3Config ------------------------------------------- */
static const llmi_field llmi_ds_fields[] = {
    {LLMI_CONFIG(vocab_size), LLMI_INT, "[]", 1, INT_MAX - 16, 0, LLMI_NO_DEFAULT,
     "vocab_size", NULL, 129280},
    {LLMI_CONFIG(max_seq_len), LLMI_INT, "[]", 1, 1 << 24, 0, LLMI_NO_DEFAULT,
     "max_position_embeddings", NULL, 4096},
    {LLMI_CONFIG(d_model), LLMI_INT, "[]", 1, 1 << 20, 0, LLMI_NO_DEFAULT,
     "hidden_size", NULL, 7168},
    {LLMI_CONFIG(d_ffn), LLMI_INT, "[]", 1, 1 << 24, 0, LLMI_NO_DEFAULT,
     "intermediate_size", NULL, 18432},
    {LLMI_CONFIG(n_layers), LLMI_INT, "[]", 1, 10000, 0, LLMI_NO_DEFAULT,
     "num_hidden_layers", NULL, 61},
    {LLMI_CONFIG(n_heads), LLMI_INT, "[]", 1, 1 << 16, 0, LLMI_NO_DEFAULT,
     "num_attention_heads", NULL, 128},
    {LLMI_CONFIG(q_lora_rank), LLMI_INT, "[]", 0, 1 << 20, 0, LLMI_NO_DEFAULT | LLMI_OR_NULL,
     "q_lora_rank", NULL, 1536},
    {LLMI_CONFIG(kv_lora_rank), LLMI_INT, "[]", 1, 1 << 20, 0, LLMI_NO_DEFAULT,
     "kv_lora_rank", NULL, 512},
    {LLMI_CONFIG(qk_nope_head_dim), LLMI_INT, "[]", 1, 8192, 0, LLMI_NO_DEFAULT,
     "qk_nope_head_dim", NULL, 128},
    {LLMI_CONFIG(v_head_dim), LLMI_INT, "[]", 1, 8192, 0, LLMI_NO_DEFAULT, "v_head_dim", NULL, 128},
    LLMI_ROPE_FIELDS,
    {LLMI_CONFIG(attention_bias), LLMI_BOOL, "", 0, 0, 0, 0, "attention_bias", NULL, 0},
    {LLMI_CONFIG(embd_pdrop), LLMI_FLOAT, "[)", 0, 1, 0, LLMI_OURS, "embd_pdrop", NULL, 0},
    {LLMI_CONFIG(attn_pdrop), LLMI_FLOAT, "[)", 0, 1, 0, 0, "attention_dropout", NULL, 0},
    {LLMI_CONFIG(resid_pdrop), LLMI_FLOAT, "[)", 0, 1, 0, LLMI_OURS, "resid_pdrop", NULL, 0},
    {LLMI_CONFIG(norm_eps), LLMI_FLOAT, "()", 0, 1, 1e-6f, LLMI_NO_DEFAULT,
     "rms_norm_eps", NULL, 1e-6},
    {LLMI_CONFIG(n_routed_experts), LLMI_INT, "[]", 0, 65536, 0, LLMI_NO_DEFAULT,
     "n_routed_experts", "num_local_experts", 256},
    {LLMI_CONFIG(n_shared_experts), LLMI_INT, "", 0, 0, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "n_shared_experts", NULL, 1},
    {LLMI_CONFIG(moe_d_ffn), LLMI_INT, "[]", 1, 1 << 24, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "moe_intermediate_size", NULL, 2048},
    {LLMI_CONFIG(first_k_dense), LLMI_INT, "", 0, 0, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "first_k_dense_replace", NULL, 3},
    {LLMI_CONFIG(n_group), LLMI_INT, "", 1, 0, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "n_group", NULL, 8},
    {LLMI_CONFIG(topk_group), LLMI_INT, "", 1, 0, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "topk_group", NULL, 4},
    {LLMI_CONFIG(num_experts_per_tok), LLMI_INT, "", 1, 0, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "num_experts_per_tok", NULL, 8},
    {LLMI_CONFIG(routed_scaling_factor), LLMI_FLOAT, "(]", 0, FLT_MAX, 1,
     LLMI_OF_MOE | LLMI_NO_DEFAULT, "routed_scaling_factor", NULL, 2.5},
    {LLMI_CONFIG(norm_topk_prob), LLMI_BOOL, "", 0, 0, 0, LLMI_OF_MOE | LLMI_NO_DEFAULT,
     "norm_topk_prob", NULL, 1},
    {LLMI_CONFIG(tie_embeddings), LLMI_BOOL, "", 0, 0, 0, 0, "tie_word_embeddings", NULL, 0},
    {LLMI_CONFIG(mtp_depth), LLMI_INT, "[]", 0, LLMI_MTP_MAX, 0, 0,
     "num_nextn_predict_layers", "num_mtp_layers", -1}}; /* absent: llmi_config_settle knows */
static const llmi_fixed llmi_ds_fixed[] = {
    {"scoring_func", "sigmoid", LLMI_OF_MOE | LLMI_NO_DEFAULT | LLMI_WRITTEN},
    {"topk_method", "noaux_tc", LLMI_OF_MOE | LLMI_NO_DEFAULT | LLMI_WRITTEN},
    {"moe_layer_freq", "1", LLMI_OF_MOE}, {"hidden_act", "silu", LLMI_WRITTEN}};

static void llmi_ds_resolve(llm_config *c) {
    if (c->v_head_dim == 0) c->v_head_dim = c->qk_nope_head_dim;
    if (c->first_k_dense == c->n_layers && c->mtp_depth == 0)
        c->n_routed_experts = 0;       /* no layer has them */
    if (c->n_routed_experts == 0) {
        c->n_shared_experts = c->num_experts_per_tok = c->n_group = c->topk_group = c->moe_d_ffn =
            c->first_k_dense = c->norm_topk_prob = 0;
        c->routed_scaling_factor = 0.0f;
    }
    if (c->n_group == 0) c->n_group = 1;
    if (c->topk_group == 0) c->topk_group = c->n_group;
}
static llm_result llmi_ds_validate(const llm_config *c, llm_error *err) {
    const int E = c->n_routed_experts;
    LLMI_TRY(llmi_rope_check(c, err));
    if (c->mtp_depth >= c->max_seq_len)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "mtp_depth %d is not below max_seq_len %d",
                         c->mtp_depth, c->max_seq_len);
    if (!E) return LLM_OK;
    LLMI_TRY(llmi_check_int("n_shared_experts", c->n_shared_experts, 0,
                            (int)llmi_min(1024, (size_t)((1 << 24) / c->moe_d_ffn)), err));
    LLMI_TRY(llmi_check_int("first_k_dense", c->first_k_dense, 0, c->n_layers, err));
    LLMI_TRY(llmi_check_int("n_group", c->n_group, 1, E, err));
    LLMI_TRY(llmi_check_int("topk_group", c->topk_group, 1, c->n_group, err));
    if (E % c->n_group)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "n_routed_experts %d is not a multiple of n_group %d", E, c->n_group);
    if (c->n_group > 1 && E / c->n_group < 2)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "n_routed_experts %d in n_group %d: a group needs 2 experts", E,
                         c->n_group);
    if (c->num_experts_per_tok < 1 || c->num_experts_per_tok > E / c->n_group * c->topk_group)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "num_experts_per_tok %d is not in [1, %d], the experts of %d of %d groups",
                         c->num_experts_per_tok, E / c->n_group * c->topk_group, c->topk_group,
                         c->n_group);
    return LLM_OK;
}

/* transformers 5 has "rope_parameters" with everything; before, "rope_scaling" beside
 * "rope_theta" */
static void llmi_rope_read(llmi_config_reader *reader, llm_config *config) {
    const char *const original = "original_max_position_embeddings";
    const int outside = llmi_config_int(reader, original, NULL, 1, 0); /* goes before one within */
    int node = llmi_config_node(reader, "rope_scaling", NULL), type;
    if (node < 0 || reader->json->nodes[node].n_children == 0) /* if both are, the first counts */
        node = llmi_config_node(reader, "rope_parameters", "rope_scaling");
    config->rope_theta = llmi_config_float(reader, "rope_theta", 1, 10000.0f);
    if (node < 0) return;
    if (reader->json->nodes[node].type != LLMI_JSON_OBJECT) {
        llmi_config_bad(reader, LLM_ERR_FORMAT, "rope_parameters", node, "not an object");
        return;
    }
    reader->object = node;
    config->rope_theta = llmi_config_float(reader, "rope_theta", 1, config->rope_theta);
    type = llmi_config_node(reader, "rope_type", "type");
    if (type >= 0 && llmi_json_is(reader->json, type, "yarn")) {
        config->yarn_original_max_seq_len =
            outside ? outside : llmi_config_int(reader, original, NULL, 1, config->max_seq_len);
        config->yarn_factor = llmi_config_float(
            reader, "factor", 1,
            (float)config->max_seq_len / (float)config->yarn_original_max_seq_len);
        config->yarn_beta_fast = llmi_config_float(reader, "beta_fast", 0, 32.0f);
        config->yarn_beta_slow = llmi_config_float(reader, "beta_slow", 0, 1.0f);
        config->yarn_mscale = llmi_config_float(reader, "mscale", 0, 0.0f);
        config->yarn_mscale_all_dim = llmi_config_float(reader, "mscale_all_dim", 0, 0.0f);
        llmi_config_only(reader, "truncate", "true");
        node = llmi_config_node(reader, "attention_factor", NULL);
        if (node >= 0)
            llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, "attention_factor", node,
                            "only null is supported");
        llmi_config_only(reader, "partial_rotary_factor", "1");
        reader->object = 0;
        llmi_config_only(reader, "partial_rotary_factor", "1");
    } else if (type >= 0 && !llmi_json_is(reader->json, type, "default")) {
        llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, "rope_type", type,
                        "only default and yarn are supported");
    }
    reader->object = 0;
}

/* DeepSeek-V3's own weights: F8_E4M3 in blocks of 128 x 128, as the tensors themselves say, too */
static void llmi_quantization_read(llmi_config_reader *reader) {
    const int node = llmi_config_node(reader, "quantization_config", NULL);
    int size, i;
    if (node < 0) return;
    reader->object = node;
    if (llmi_config_node(reader, "quant_method", NULL) < 0)
        llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, "quantization_config", node,
                        "there is no quant_method");
    llmi_config_only(reader, "quant_method", "fp8");
    llmi_config_only(reader, "fmt", "e4m3");
    size = llmi_config_node(reader, "weight_block_size", NULL);
    if (size >= 0) {
        const llmi_json_node *sizes = &reader->json->nodes[size];
        int child = llmi_json_first(reader->json, size),
            ok = sizes->type == LLMI_JSON_ARRAY && sizes->n_children == 2;
        for (i = 0; ok && i < 2; i++, child = reader->json->nodes[child].next) {
            int64_t value = 0;
            ok = llmi_json_int64(reader->json, child, &value) && value == 128;
        }
        if (!ok)
            llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, "weight_block_size", size,
                            "only [128, 128] is supported");
    }
    reader->object = 0;
}
static void llmi_ds_read(llmi_config_reader *reader, llm_config *config) {
    if (llmi_config_int(reader, "num_key_value_heads", NULL, 1, config->n_heads) !=
        config->n_heads)
        llmi_config_bad(reader, LLM_ERR_UNSUPPORTED, "num_key_value_heads",
                        llmi_config_node(reader, "num_key_value_heads", NULL),
                        "only num_attention_heads is supported");
    llmi_rope_read(reader, config);
    llmi_quantization_read(reader);
}
static size_t llmi_ds_cache_width(const llm_config *c) {
    return (size_t)(c->kv_lora_rank + c->qk_rope_head_dim);
}
static size_t llmi_ds_cache_unit(const llm_config *c) {          /* whether 32 divides both */
    return (size_t)(c->kv_lora_rank | c->qk_rope_head_dim);
}
static void llmi_ds_head_dims(const llm_config *c, size_t *qk, size_t *v) {
    *qk = (size_t)(c->qk_nope_head_dim + c->qk_rope_head_dim);
    *v = (size_t)c->v_head_dim;
}

/* ---- the tensor table: what a model consists of is written once per architecture ------------- */
typedef struct llmi_tensor {
    char name[72];                     /* as in the Hugging Face file */
    int n_dims;
    int64_t dims[4];
    size_t count;
    size_t offset;                     /* floats from the start of the flat blocks, by 16         */
    float init_std, init_value;        /* N(0, init_std) where that is not 0, else the value   */
    int by_product;                    /* a matrix product writes its gradient's first term; the  */
                                       /* others' gradients have to be zero before                */
    int no_gradient;                   /* a router's bias                                         */
    int transposed;                    /* a matrix stored (n_in,n_out)                            */
    int is_matrix;                     /* of any type; what is not is f32: vectors, positions and */
                                       /* routers, too                                            */
} llmi_tensor;

typedef struct llmi_table {
    llmi_tensor *rows;                 /* NULL: count only */
    size_t n;
    uint64_t parameters, floats;       /* floats: with the padding between tensors; they saturate */
} llmi_table;

/* d1 = 0: a vector. layer < 0: name is whole, else the format takes it. */
static void llmi_table_add(llmi_table *table, const char *name, int layer, int d0, int d1,
                           float init_std, float init_value, int by_product) {
    const uint64_t count = llmi_mul64((uint64_t)d0, d1 ? (uint64_t)d1 : 1);
    if (table->rows) {
        llmi_tensor *row = &table->rows[table->n];
        const char *digits = strstr(name, "%d");
        memset(row, 0, sizeof *row);
        if (digits)
            snprintf(row->name, sizeof row->name, "%.*s%d%s", (int)(digits - name), name, layer,
                     digits + 2);
        else
            snprintf(row->name, sizeof row->name, "%s", name);
        row->n_dims = d1 ? 2 : 1;
        row->dims[0] = d0;
        row->dims[1] = d1;
        row->count = (size_t)count;
        row->offset = (size_t)table->floats;
        row->init_std = init_std;
        row->init_value = init_value;
        row->by_product = by_product;
        row->is_matrix = d1 != 0;
    }
    table->n++;
    table->parameters = llmi_add64(table->parameters, count);
    table->floats = llmi_add64(table->floats, llmi_add64(count, 15) / 16 * 16);
}

/* counting only: repeats what was added since `before`, so many times more */
static void llmi_table_repeat(llmi_table *table, const llmi_table *before, uint64_t times) {
    table->n += (table->n - before->n) * (size_t)times;
    table->parameters = llmi_add64(table->parameters,
                                   llmi_mul64(table->parameters - before->parameters, times));
    table->floats = llmi_add64(table->floats, llmi_mul64(table->floats - before->floats, times));
}

/* where the tensors of a DeepSeek block stand in the table; -1: it has none */
typedef struct llmi_ds_layer {
    int norm1, q_a, q_a_bias, q_norm;  /* q_a to q_norm: low-rank query */
    int q;                             /* q_b_proj of a low-rank query, else q_proj */
    int kv_a, kv_a_bias, kv_norm, kv_b, o, o_bias, norm2;
    int ffn;                           /* gate, up, down of a dense block */
    int router, router_bias, experts, shared;       /* experts: gate, up, down of each in turn */
    int enorm, hnorm, eh, mtp_norm;    /* of an MTP module, whose block the others are */
} llmi_ds_layer;

/* GPT-2's tensors, in this order; matrices are [in,out], as transformers' Conv1D keeps them */
enum {
    LLMI_WTE, LLMI_WPE, LLMI_BLOCKS,
    LLMI_LN1_W = 0, LLMI_LN1_B, LLMI_QKV_W, LLMI_QKV_B, LLMI_ATT_W, LLMI_ATT_B,
    LLMI_LN2_W, LLMI_LN2_B, LLMI_FC_W, LLMI_FC_B, LLMI_MLP_W, LLMI_MLP_B, LLMI_PER_BLOCK
};

static void llmi_gpt2_add(llmi_table *table, const char *name, int layer, int n_in, int n_out,
                          float std) {
    llmi_table_add(table, name, layer, n_in, n_out, std, 0.0f, 1);
    if (table->rows) table->rows[table->n - 1].transposed = 1;
}
static void llmi_gpt2_table(llmi_table *table, const llm_config *config, llmi_ds_layer *layers) {
    const int C = config->d_model, F = config->d_ffn, L = config->n_layers;
    const float std = 0.02f, residual_std = 0.02f / sqrtf(2.0f * (float)L);
    int l;
    (void)layers;
    llmi_table_add(table, "transformer.wte.weight", -1, config->vocab_size, C, std, 0.0f,
                   config->tie_embeddings);
    llmi_table_add(table, "transformer.wpe.weight", -1, config->max_seq_len, C, std, 0.0f, 0);
    if (table->rows) table->rows[table->n - 1].is_matrix = 0;
    for (l = 0; l < L; l++) {
        llmi_table_add(table, "transformer.h.%d.ln_1.weight", l, C, 0, 0.0f, 1.0f, 0);
        llmi_table_add(table, "transformer.h.%d.ln_1.bias", l, C, 0, 0.0f, 0.0f, 0);
        llmi_gpt2_add(table, "transformer.h.%d.attn.c_attn.weight", l, C, 3 * C, std);
        llmi_table_add(table, "transformer.h.%d.attn.c_attn.bias", l, 3 * C, 0, 0.0f, 0.0f, 0);
        llmi_gpt2_add(table, "transformer.h.%d.attn.c_proj.weight", l, C, C, residual_std);
        llmi_table_add(table, "transformer.h.%d.attn.c_proj.bias", l, C, 0, 0.0f, 0.0f, 0);
        llmi_table_add(table, "transformer.h.%d.ln_2.weight", l, C, 0, 0.0f, 1.0f, 0);
        llmi_table_add(table, "transformer.h.%d.ln_2.bias", l, C, 0, 0.0f, 0.0f, 0);
        llmi_gpt2_add(table, "transformer.h.%d.mlp.c_fc.weight", l, C, F, std);
        llmi_table_add(table, "transformer.h.%d.mlp.c_fc.bias", l, F, 0, 0.0f, 0.0f, 0);
        llmi_gpt2_add(table, "transformer.h.%d.mlp.c_proj.weight", l, F, C, residual_std);
        llmi_table_add(table, "transformer.h.%d.mlp.c_proj.bias", l, C, 0, 0.0f, 0.0f, 0);
    }
    llmi_table_add(table, "transformer.ln_f.weight", -1, C, 0, 0.0f, 1.0f, 0);
    llmi_table_add(table, "transformer.ln_f.bias", -1, C, 0, 0.0f, 0.0f, 0);
    if (!config->tie_embeddings)
        llmi_table_add(table, "lm_head.weight", -1, config->vocab_size, C, std, 0.0f, 1);
}

typedef enum llmi_kind { LLMI_MATRIX, LLMI_NORM, LLMI_BIAS, LLMI_ROUTER_BIAS } llmi_kind;

static int llmi_ds_add(llmi_table *table, int layer, const char *name, int d0, int d1,
                       llmi_kind kind) {
    const int at = (int)table->n;
    char full[72];
    snprintf(full, sizeof full, "model.layers.%%d.%s", name);
    llmi_table_add(table, full, layer, d0, d1, kind == LLMI_MATRIX ? 0.02f : 0.0f,
                   kind == LLMI_NORM ? 1.0f : 0.0f, kind == LLMI_MATRIX);
    if (table->rows) table->rows[at].no_gradient = kind == LLMI_ROUTER_BIAS;
    return at;
}

/* gate, up, down of one FFN; -> the first's place */
static int llmi_ds_add_ffn(llmi_table *table, int layer, const char *prefix, int C, int F) {
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    const int first = (int)table->n;
    char name[56];
    int i;
    for (i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.%s.weight", prefix, parts[i]);
        (void)llmi_ds_add(table, layer, name, i < 2 ? F : C, i < 2 ? C : F, LLMI_MATRIX);
    }
    return first;
}

static void llmi_ds_block_table(llmi_table *table, const llm_config *c, int layer,
                                llmi_ds_layer *w) {
    const int C = c->d_model, H = c->n_heads,
              moe = c->n_routed_experts && layer >= c->first_k_dense;
    const int q_width = H * (c->qk_nope_head_dim + c->qk_rope_head_dim), bias = c->attention_bias;
    char name[48];
    int e;
    w->norm1 = llmi_ds_add(table, layer, "input_layernorm.weight", C, 0, LLMI_NORM);
    if (c->q_lora_rank) {
        w->q_a = llmi_ds_add(table, layer, "self_attn.q_a_proj.weight", c->q_lora_rank, C,
                             LLMI_MATRIX);
        if (bias)
            w->q_a_bias = llmi_ds_add(table, layer, "self_attn.q_a_proj.bias", c->q_lora_rank, 0,
                                      LLMI_BIAS);
        w->q_norm = llmi_ds_add(table, layer, "self_attn.q_a_layernorm.weight", c->q_lora_rank, 0,
                                LLMI_NORM);
        w->q = llmi_ds_add(table, layer, "self_attn.q_b_proj.weight", q_width, c->q_lora_rank,
                           LLMI_MATRIX);
    } else {
        w->q = llmi_ds_add(table, layer, "self_attn.q_proj.weight", q_width, C, LLMI_MATRIX);
    }
    w->kv_a = llmi_ds_add(table, layer, "self_attn.kv_a_proj_with_mqa.weight",
                          c->kv_lora_rank + c->qk_rope_head_dim, C, LLMI_MATRIX);
    if (bias)
        w->kv_a_bias = llmi_ds_add(table, layer, "self_attn.kv_a_proj_with_mqa.bias",
                                   c->kv_lora_rank + c->qk_rope_head_dim, 0, LLMI_BIAS);
    w->kv_norm = llmi_ds_add(table, layer, "self_attn.kv_a_layernorm.weight", c->kv_lora_rank, 0,
                             LLMI_NORM);
    w->kv_b = llmi_ds_add(table, layer, "self_attn.kv_b_proj.weight",
                          H * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank, LLMI_MATRIX);
    w->o = llmi_ds_add(table, layer, "self_attn.o_proj.weight", C, H * c->v_head_dim, LLMI_MATRIX);
    if (bias) w->o_bias = llmi_ds_add(table, layer, "self_attn.o_proj.bias", C, 0, LLMI_BIAS);
    w->norm2 = llmi_ds_add(table, layer, "post_attention_layernorm.weight", C, 0, LLMI_NORM);
    if (!moe) {
        w->ffn = llmi_ds_add_ffn(table, layer, "mlp", C, c->d_ffn);
        return;
    }
    w->router = llmi_ds_add(table, layer, "mlp.gate.weight", c->n_routed_experts, C, LLMI_MATRIX);
    if (table->rows) table->rows[w->router].is_matrix = 0;
    w->router_bias = llmi_ds_add(table, layer, "mlp.gate.e_score_correction_bias",
                                 c->n_routed_experts, 0, LLMI_ROUTER_BIAS);
    w->experts = (int)table->n;
    for (e = 0; e < c->n_routed_experts; e++) {
        const llmi_table before = *table;
        snprintf(name, sizeof name, "mlp.experts.%d", e);
        (void)llmi_ds_add_ffn(table, layer, name, C, c->moe_d_ffn);
        if (!table->rows) {            /* count only: the others are like the first */
            llmi_table_repeat(table, &before, (uint64_t)c->n_routed_experts - 1);
            break;
        }
    }
    if (c->n_shared_experts)
        w->shared = llmi_ds_add_ffn(table, layer, "mlp.shared_experts", C,
                                    c->n_shared_experts * c->moe_d_ffn);
}

static void llmi_ds_table(llmi_table *table, const llm_config *c, llmi_ds_layer *layers) {
    llmi_ds_layer scratch;
    int l;
    llmi_table_add(table, "model.embed_tokens.weight", -1, c->vocab_size, c->d_model, 0.02f, 0.0f,
                   c->tie_embeddings);
    for (l = 0; l < c->n_layers + c->mtp_depth; l++) {
        llmi_ds_layer *w = layers ? &layers[l] : &scratch;
        memset(w, 0xff, sizeof *w);    /* all -1 */
        if (l >= c->n_layers) {
            w->enorm = llmi_ds_add(table, l, "enorm.weight", c->d_model, 0, LLMI_NORM);
            w->hnorm = llmi_ds_add(table, l, "hnorm.weight", c->d_model, 0, LLMI_NORM);
            w->eh = llmi_ds_add(table, l, "eh_proj.weight", c->d_model, 2 * c->d_model,
                                LLMI_MATRIX);
        }
        llmi_ds_block_table(table, c, l, w);
        if (l >= c->n_layers)
            w->mtp_norm = llmi_ds_add(table, l, "shared_head.norm.weight", c->d_model, 0,
                                      LLMI_NORM);
    }
    llmi_table_add(table, "model.norm.weight", -1, c->d_model, 0, 0.0f, 1.0f, 0);
    if (!c->tie_embeddings)
        llmi_table_add(table, "lm_head.weight", -1, c->vocab_size, c->d_model, 0.02f, 0.0f, 1);
}

/* layers (n_layers + mtp_depth) of DeepSeek's, or NULL to count */
static void llmi_config_table(llmi_table *table, const llm_config *config, llmi_ds_layer *layers) {
    table->n = 0;
    table->parameters = table->floats = 0;
    llmi_arch_of(config->arch)->table(table, config, layers);
}
/* what a configuration, resolved, has in all */
static llmi_table llmi_config_count(const llm_config *config) {
    llmi_table table;
    table.rows = NULL;
    llmi_config_table(&table, config, NULL);
    return table;
}

LLM_API llm_result llm_config_validate(const llm_config *config, llm_error *err) {
    const llmi_arch *arch;
    llm_config c;
    llmi_table table;
    if (!config) return llmi_fail(err, LLM_ERR_ARGUMENT, "config is NULL");
    c = *config;
    arch = llmi_arch_of(c.arch);
    if (!arch)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "arch %d is not one of llm_arch", (int)c.arch);
    llmi_config_resolve(&c);
    LLMI_TRY(llmi_fields_check("", &c, arch->fields, arch->n_fields, c.n_routed_experts, err));
    LLMI_TRY(arch->validate(&c, err));
    table = llmi_config_count(&c);
    if (table.floats > SIZE_MAX / 4 / sizeof(float))
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "vocab_size %d, max_seq_len %d, d_model %d, n_layers %d, d_ffn %d: %.3g "
                         "parameters do not fit an address space of %.3g bytes",
                         c.vocab_size, c.max_seq_len, c.d_model, c.n_layers, c.d_ffn,
                         (double)table.parameters, (double)SIZE_MAX);
    return LLM_OK;
}
/* a valid one's copy with its defaults; config may be resolved itself */
static llm_result llmi_config_resolved(llm_config *resolved, const llm_config *config,
                                       llm_error *err) {
    LLMI_TRY(llm_config_validate(config, err));
    *resolved = *config;
    llmi_config_resolve(resolved);
    return LLM_OK;
}

LLM_API uint64_t llm_config_param_count(const llm_config *config) {
    llm_config c;
    if (llmi_config_resolved(&c, config, NULL) != LLM_OK) return 0;
    c.mtp_depth = 0;
    return llmi_config_count(&c).parameters;
}
LLM_API uint64_t llm_config_mtp_param_count(const llm_config *config) {
    const uint64_t without = llm_config_param_count(config);
    llm_config c;
    if (llmi_config_resolved(&c, config, NULL) != LLM_OK) return 0;
    return llmi_config_count(&c).parameters - without;
}
LLM_API uint64_t llm_config_active_param_count(const llm_config *config) {
    const uint64_t all = llm_config_param_count(config);
    uint64_t expert, idle;
    if (!all || !config->n_routed_experts) return all;
    expert = 3 * (uint64_t)config->d_model * (uint64_t)config->moe_d_ffn;
    idle = (uint64_t)(config->n_routed_experts - config->num_experts_per_tok);
    return all - (expert * idle + (uint64_t)config->n_routed_experts) *
                     (uint64_t)(config->n_layers - config->first_k_dense);
}

static size_t llmi_moe_blocks(const llm_config *c) {
    return c->n_routed_experts ? (size_t)(c->n_layers - c->first_k_dense + c->mtp_depth) : 0;
}

static size_t llmi_cache_width(const llm_config *c) {    /* values per position and layer */
    return llmi_arch_of(c->arch)->cache_width(c);
}

LLM_API size_t llm_config_cache_bytes(const llm_config *config, int max_seq_len,
                                      llm_dtype cache_dtype) {
    const llm_dtype type = cache_dtype == LLM_DTYPE_DEFAULT ? LLM_F32 : cache_dtype;
    llm_config c;
    if (llmi_config_resolved(&c, config, NULL) != LLM_OK || max_seq_len < 0) return 0;
    if (type != LLM_F32 && type != LLM_F16 && type != LLM_BF16 && type != LLM_Q8_0) return 0;
    if (type == LLM_Q8_0 && llmi_arch_of(c.arch)->cache_unit(&c) % 32) return 0;
    if (max_seq_len == 0) max_seq_len = c.max_seq_len;
    return llmi_mul(llmi_mul(llmi_dtype_bytes(type, llmi_cache_width(&c)), (size_t)c.n_layers),
                    (size_t)max_seq_len);
}

/* ---- config.json, all of it ------------------------------------------------------------------ */
static void llmi_config_read(llmi_config_reader *reader, const llmi_arch *arch,
                             llm_config *config) {
    size_t i;
    config->arch = arch->arch;
    for (i = 0; i < arch->n_fields; i++)
        if (arch->fields[i].key &&
            (config->n_routed_experts || !(arch->fields[i].flags & LLMI_OF_MOE)))
            llmi_field_read(reader, &arch->fields[i], config);
    for (i = 0; i < arch->n_fixed; i++)
        if (config->n_routed_experts || !(arch->fixed[i].flags & LLMI_OF_MOE))
            llmi_config_only(reader, arch->fixed[i].key, arch->fixed[i].values);
    arch->read(reader, config);
}

/* Other model types (kimi_k2, joyai_llm_flash) that say they are of this architecture. Their own
 * classes may have other defaults: the keys of LLMI_NO_DEFAULT must be there. What else is absent
 * (rope_theta, attention_bias, tie_word_embeddings) is taken as in this architecture. */
static int llmi_config_claims(llmi_config_reader *reader, const llmi_arch *arch) {
    const llmi_json *json = reader->json;
    const int list = llmi_json_get(json, 0, "architectures");
    size_t i;
    if (!arch->other_types || list < 0 || json->nodes[list].type != LLMI_JSON_ARRAY ||
        json->nodes[list].n_children != 1 ||
        !llmi_json_is(json, llmi_json_first(json, list), arch->architecture))
        return 0;
    for (i = 0; i < arch->n_fields + arch->n_fixed && reader->result == LLM_OK; i++) {
        const int is_field = i < arch->n_fields;
        const char *key = is_field ? arch->fields[i].key : arch->fixed[i - arch->n_fields].key;
        const int flags = is_field ? arch->fields[i].flags : arch->fixed[i - arch->n_fields].flags;
        if (flags & LLMI_NO_DEFAULT && llmi_json_get(json, 0, key) < 0)
            reader->result = llmi_fail(
                reader->err, LLM_ERR_UNSUPPORTED,
                "%.100s: \"%s\" is absent, and only model_type %s has a default for it",
                json->name, key, arch->name);
    }
    return 1;
}

static llm_result llmi_config_parse(llm_config *config, const llmi_json *json, llm_error *err) {
    llmi_config_reader reader;
    const llmi_arch *arch;
    size_t i;
    int type;
    reader.json = json;
    reader.object = 0;
    reader.result = LLM_OK;
    reader.err = err;
    memset(config, 0, sizeof *config);
    if (json->nodes[0].type != LLMI_JSON_OBJECT)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: the configuration is not a JSON object",
                         json->name);
    type = llmi_config_node(&reader, "model_type", NULL);
    if (type < 0)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: there is no \"model_type\"", json->name);
    for (i = 0; (arch = llmi_arch_at(i)) != NULL && !llmi_json_is(json, type, arch->name);) i++;
    if (!arch)
        for (i = 0; (arch = llmi_arch_at(i)) != NULL && !llmi_config_claims(&reader, arch);) i++;
    if (arch) llmi_config_read(&reader, arch, config);
    else
        llmi_config_bad(&reader, LLM_ERR_UNSUPPORTED, "model_type", type,
                        "only gpt2 and deepseek_v3 are supported, and types with architectures "
                        "[DeepseekV3ForCausalLM]");
    return reader.result;
}

#ifndef LLM_NO_STDIO
static void llmi_gpt2_write(llmi_text *text, const llm_config *config) {
    (void)config;
    llmi_text_format(text, "  \"initializer_range\": 0.02,\n");
}
static void llmi_ds_write(llmi_text *text, const llm_config *c) {
    llmi_text_format(text, "  \"num_key_value_heads\": %d,\n", c->n_heads);
    llmi_text_real(text, "rope_theta", c->rope_theta);
    if (c->yarn_factor == 0.0f) {
        llmi_text_format(text, "  \"rope_scaling\": null,\n");
        return;
    }
    llmi_text_format(text, "  \"rope_scaling\": {\n");
    llmi_text_real(text, "factor", c->yarn_factor);
    llmi_text_real(text, "beta_fast", c->yarn_beta_fast);
    llmi_text_real(text, "beta_slow", c->yarn_beta_slow);
    if (c->yarn_mscale != 0.0f) llmi_text_real(text, "mscale", c->yarn_mscale);
    if (c->yarn_mscale_all_dim != 0.0f)
        llmi_text_real(text, "mscale_all_dim", c->yarn_mscale_all_dim);
    llmi_text_format(text,
                     "  \"original_max_position_embeddings\": %d,\n  \"rope_type\": \"yarn\",\n"
                     "  \"type\": \"yarn\"\n  },\n",
                     c->yarn_original_max_seq_len);
}

/* lines of JSON, each with a comma after it */
static void llmi_config_write(llmi_text *text, const llm_config *config) {
    const llmi_arch *arch = llmi_arch_of(config->arch);
    llm_config c = *config;
    size_t i;
    if (!c.n_routed_experts) {         /* all layers come before them: any valid number will do */
        c.n_routed_experts = 2;
        c.n_shared_experts = c.num_experts_per_tok = c.n_group = c.topk_group = c.moe_d_ffn = 1;
        c.first_k_dense = c.n_layers + c.mtp_depth;
    }
    llmi_text_format(text, "  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n",
                     arch->architecture, arch->name);
    for (i = 0; i < arch->n_fields; i++)
        if (arch->fields[i].key) llmi_field_write(text, &arch->fields[i], &c);
    for (i = 0; i < arch->n_fixed; i++)
        if (arch->fixed[i].flags & LLMI_WRITTEN) {
            const char *value = arch->fixed[i].values, *end = strchr(value, '|');
            llmi_text_format(text, "  \"%s\": \"%.*s\",\n", arch->fixed[i].key,
                             (int)(end ? (size_t)(end - value) : strlen(value)), value);
        }
    arch->write(text, &c);
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>model        parameters, by the tensor table: in one block, or in mapped files
 * ========================================================================================== */
typedef struct llmi_map { char *start; size_t size; } llmi_map;       /* start NULL: none */
typedef struct llmi_values {           /* of a tensor, in memory */
    void *data;
    float *scales;                     /* F8_E4M3: as in llmi_matrix                            */
    llm_dtype type;
    int transposed;                    /* a matrix stored (n_in,n_out), which is f32 then       */
} llmi_values;

#define LLMI_EOS_MAX ((int)(sizeof ((llm_special_tokens *)0)->eos / sizeof(int32_t)))

struct llm_model {
    llm_config config;                 /* resolved */
    const llmi_arch *arch;
    llm_allocator allocator_copy;
    const llm_allocator *allocator;    /* NULL or the copy */
    int n_threads;
    llm_isa isa;                       /* cap */
    int round_x;                       /* of a GGUF file, or bf16 was asked for: see llmi_matrix */
    int has_trainer;
    llmi_table table;
    llmi_values *values;               /* of tensor i */
    float *block;                      /* table.floats, if all are f32 and here; 0 between them */
    llmi_map *maps;                    /* (n_maps) files that values point into; then there is  */
    size_t n_maps;                     /* no block, and what is in no file is in rest           */
    char *rest;
    llmi_ds_layer *layers;             /* DeepSeek: (n_layers + mtp_depth) */
    llm_special_tokens special;
};

/* what a model that was loaded holds in place of a block */
static void llmi_model_unmap(llm_model *model) {
#if LLMI_POSIX
    size_t i;
    for (i = 0; i < model->n_maps; i++)
        if (model->maps[i].start) munmap(model->maps[i].start, model->maps[i].size);
#endif
    llmi_release(model->allocator, model->maps);
    llmi_release(model->allocator, model->rest);
    model->maps = NULL;
    model->n_maps = 0;
    model->rest = NULL;
}

LLM_API void llm_model_free(llm_model *model) {
    llm_allocator copy;
    if (!model) return;
    llmi_model_unmap(model);
    llmi_release(model->allocator, model->table.rows);
    llmi_release(model->allocator, model->values);
    llmi_release(model->allocator, model->block);
    llmi_release(model->allocator, model->layers);
    copy = model->allocator_copy;
    llmi_release(model->allocator ? &copy : NULL, model);
}

static llmi_values llmi_values_f32(const llmi_tensor *row, float *data) {
    llmi_values values;
    values.data = data;
    values.scales = NULL;
    values.type = LLM_F32;
    values.transposed = row->transposed;
    return values;
}
static void llmi_tensor_sides(const llmi_tensor *row, size_t *n_out, size_t *n_in) {
    *n_out = (size_t)row->dims[row->transposed];
    *n_in = row->n_dims > 1 ? (size_t)row->dims[!row->transposed] : 1;
}
/* The type that a matrix with rows of n_in values gets where `wanted` is asked for: its blocks have
 * to fit the rows. What takes its place is what llama.cpp's quantiser takes. */
static llm_dtype llmi_type_fit(llm_dtype wanted, size_t n_in) {
    if (n_in % llmi_types[wanted].block == 0) return wanted;
    if (wanted == LLM_Q4_K) wanted = LLM_Q5_0;
    if (wanted == LLM_Q5_K) wanted = LLM_Q5_1;
    if (wanted == LLM_Q6_K) wanted = LLM_Q8_0;
    return n_in % llmi_types[wanted].block == 0 ? wanted : LLM_F16;
}
/* Tensor i will be of type `wanted`, or of what fits. Only f32 may be transposed. */
static void llmi_values_set(llm_model *model, size_t i, llm_dtype wanted) {
    const llmi_tensor *row = &model->table.rows[i];
    size_t n_out, n_in;
    llmi_tensor_sides(row, &n_out, &n_in);
    model->values[i].type = row->is_matrix ? llmi_type_fit(wanted, n_in) : LLM_F32;
    model->values[i].transposed = row->transposed && model->values[i].type == LLM_F32;
}
/* bytes of a tensor's values; *scales: of its scales */
static size_t llmi_values_size(const llm_model *model, size_t i, size_t *scales) {
    const llmi_tensor *row = &model->table.rows[i];
    size_t n_out, n_in;
    llmi_tensor_sides(row, &n_out, &n_in);
    *scales = 0;
    if (model->values[i].type == LLM_F8_E4M3)
        *scales = llmi_ceil_div(n_out, LLMI_FP8_TILE) * llmi_ceil_div(n_in, LLMI_FP8_TILE) *
                  sizeof(float);
    return llmi_mul(row->count / llmi_types[model->values[i].type].block,
                    llmi_types[model->values[i].type].bytes);
}
/* Memory for the values that have no place yet, and for scales. */
static llm_result llmi_model_place(llm_model *model, llm_error *err) {
    llmi_arena arena = llmi_arena_at(NULL, 0);
    void *memory;
    int twice;
    size_t i;
    for (twice = 0; twice < 2; twice++) {
        for (i = 0; i < model->table.n; i++) {
            llmi_values *v = &model->values[i];
            size_t scales, size = llmi_values_size(model, i, &scales);
            if (!v->data) v->data = llmi_carve(&arena, size, 1);
            if (scales && !v->scales) v->scales = (float *)llmi_carve(&arena, scales, 1);
        }
        if (!twice && arena.used) {
            LLMI_TRY(llmi_arena_take(&arena, &memory, model->allocator, "parameters", err));
            model->rest = (char *)memory;
        }
    }
    return LLM_OK;
}

/* ---- values of one type and layout to another, rows by rows ---------------------------------- */
typedef struct llmi_convert {
    const llmi_kernels *kernels;
    llmi_values to, from;              /* from.data NULL: drawn from N(0, std)                  */
    size_t n_out, n_in;
    float std;
    uint64_t seed;
} llmi_convert;

static void llmi_convert_fetch(const llmi_convert *job, float *to, size_t row, size_t at,
                               size_t n) {
    const size_t size = job->from.data ? llmi_types[job->from.type].bytes : 0;
    size_t i;
    if (!job->from.data)
        for (i = at; i < at + n; i++)
            *to++ = job->std * llm_random_normal(job->seed, job->from.transposed
                                                                ? i * job->n_out + row
                                                                : row * job->n_in + i);
    else if (job->from.transposed)
        for (i = at; i < at + n; i++)
            llmi_decode(job->from.type, to++,
                        (const char *)job->from.data + (i * job->n_out + row) * size, 1);
    else {
        llmi_matrix m = llmi_matrix_of((const float *)job->from.data, job->n_out, job->n_in, 0);
        m.type = job->from.type;
        m.scales = job->from.scales;
        llmi_matrix_decode(job->kernels, &m, to, row, at, n);
    }
}
/* to F8: each tile of 128 x 128 values with the scale that brings its largest to 448 */
static void llmi_convert_tiles(const llmi_convert *job, size_t first, size_t rows) {
    const size_t tile = LLMI_FP8_TILE, across = llmi_ceil_div(job->n_in, tile);
    float part[LLMI_FP8_TILE];
    size_t at, r, i;
    for (at = 0; at < job->n_in; at += tile) {
        const size_t n = llmi_min(tile, job->n_in - at);
        float *scale = job->to.scales + first / tile * across + at / tile, most = 0.0f;
        for (r = first; r < first + rows; r++) {
            llmi_convert_fetch(job, part, r, at, n);
            for (i = 0; i < n; i++)
                if (fabsf(part[i]) > most && fabsf(part[i]) <= FLT_MAX) most = fabsf(part[i]);
        }
        *scale = most > FLT_MIN ? most / 448.0f : 1.0f;
        for (r = first; r < first + rows; r++) {
            llmi_convert_fetch(job, part, r, at, n);
            for (i = 0; i < n; i++) part[i] /= *scale;
            llmi_encode(LLM_F8_E4M3, (char *)job->to.data + r * job->n_in + at, part, n);
        }
    }
}
static void llmi_convert_body(void *argument, size_t at, size_t n) {
    const llmi_convert *job = (const llmi_convert *)argument;
    const size_t row = llmi_dtype_bytes(job->to.type, job->n_in);
    float part[LLMI_PIECE_OF_ROW];
    size_t r, k, i;
    if (job->to.type == LLM_F8_E4M3) {
        llmi_convert_tiles(job, at, n);
        return;
    }
    for (r = at; r < at + n; r++)
        for (k = 0; k < job->n_in; k += LLMI_PIECE_OF_ROW) {
            const size_t count = llmi_min(LLMI_PIECE_OF_ROW, job->n_in - k);
            llmi_convert_fetch(job, part, r, k, count);
            if (job->to.transposed)
                for (i = 0; i < count; i++)
                    ((float *)job->to.data)[(k + i) * job->n_out + r] = part[i];
            else
                llmi_encode(job->to.type,
                            (char *)job->to.data + r * row + llmi_dtype_bytes(job->to.type, k),
                            part, count);
        }
}
/* the tensor that row describes; in plain C until llmi_convert_run */
static llmi_convert llmi_convert_of(const llmi_tensor *row, llmi_values to, llmi_values from) {
    llmi_convert job;
    memset(&job, 0, sizeof job);
    job.kernels = llmi_kernels_of(LLMI_PASS_SCALAR);
    job.to = to;
    job.from = from;
    llmi_tensor_sides(row, &job.n_out, &job.n_in);
    if (to.transposed && from.transposed) {                      /* both lie as rows of n_out */
        const size_t n_out = job.n_out;
        job.n_out = job.n_in;
        job.n_in = n_out;
        job.to.transposed = job.from.transposed = 0;
    }
    return job;
}
static void llmi_convert_run(llm_context *context, llmi_convert *job) {
    job->kernels = context->kernels;
    llmi_for(context, job->n_out, LLMI_FP8_TILE, llmi_convert_body, job);
}
/* whether tensor i is f32, laid out as its name says */
static int llmi_values_are_plain(const llm_model *model, size_t i) {
    return model->values[i].type == LLM_F32 &&
           model->values[i].transposed == model->table.rows[i].transposed;
}
/* tensor i as f32, laid out as its name says */
static void llmi_values_read(const llm_model *model, size_t i, float *to) {
    const llmi_tensor *row = &model->table.rows[i];
    llmi_convert job = llmi_convert_of(row, llmi_values_f32(row, to), model->values[i]);
    if (llmi_values_are_plain(model, i))
        memcpy(to, model->values[i].data, row->count * sizeof *to);
    else llmi_convert_body(&job, 0, job.n_out);
}

/* All parameters in one block, as f32, which can be written at any place: those that the model has
 * are copied there, the others are 0. */
static llm_result llmi_model_gather(llm_model *model, llm_error *err) {
    const llmi_table *table = &model->table;
    float *block;
    size_t i;
    if (model->block) return LLM_OK;
    for (i = 0; i < table->n; i++)
        if (llmi_dtype_is_blocks(model->values[i].type))
            return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                             "tensor %s is %s, which cannot be trained: load the model with dtype "
                             "LLM_F32", table->rows[i].name, llm_dtype_name(model->values[i].type));
    block = (float *)llmi_alloc(model->allocator, (size_t)table->floats * sizeof *block,
                                "parameters", err);
    if (!block) return LLM_ERR_MEMORY;
    for (i = 0; i < table->n; i++) {
        const size_t used = model->values[i].data ? table->rows[i].count : 0,
                     next = i + 1 < table->n ? table->rows[i + 1].offset : (size_t)table->floats;
        float *to = block + table->rows[i].offset;
        if (used) llmi_values_read(model, i, to);
        memset(to + used, 0, (next - table->rows[i].offset - used) * sizeof *to);
        model->values[i] = llmi_values_f32(&table->rows[i], to);
    }
    llmi_model_unmap(model);
    model->block = block;
    return LLM_OK;
}

static llm_result llmi_model_desc_check(const llm_model_desc *d, llm_error *err) {
    LLMI_TRY(llmi_check_int("model desc: dtype", (int)d->dtype, 0, LLM_Q6_K, err));
    LLMI_TRY(llmi_check_int("model desc: n_threads", d->n_threads, 0, 1024, err));
    return llmi_check_int("model desc: isa", (int)d->isa, 0, LLM_ISA_AMX, err);
}
/* a model without parameters: no values have a place */
static llm_model *llmi_model_allocate(const llm_config *config, const llm_model_desc *desc,
                                      llm_error *err) {
    const llm_allocator *allocator = desc ? desc->allocator : NULL;
    llm_model *model;
    size_t i;
    if (llm_config_validate(config, err) != LLM_OK) return NULL;
    if (desc && llmi_model_desc_check(desc, err) != LLM_OK) return NULL;
    model = (llm_model *)llmi_alloc(allocator, sizeof *model, "model", err);
    if (!model) return NULL;
    memset(model, 0, sizeof *model);
    model->config = *config;
    llmi_config_resolve(&model->config);
    model->arch = llmi_arch_of(config->arch);
    model->n_threads = desc ? desc->n_threads : 0;
    model->isa = desc ? desc->isa : LLM_ISA_BEST;
    model->round_x = desc && desc->dtype == LLM_BF16;
    model->special.bos = model->special.pad = -1;
    if (allocator) {
        model->allocator_copy = *allocator;
        model->allocator = &model->allocator_copy;
    }
    llmi_config_table(&model->table, &model->config, NULL);
    model->table.rows = (llmi_tensor *)llmi_alloc(allocator, model->table.n * sizeof(llmi_tensor),
                                                  "tensor table", err);
    if (model->table.rows)
        model->values = (llmi_values *)llmi_alloc(
            allocator, model->table.n * sizeof *model->values, "tensor table", err);
    if (model->values)
        model->layers = (llmi_ds_layer *)llmi_alloc(
            allocator,
            (size_t)(model->config.n_layers + model->config.mtp_depth) * sizeof(llmi_ds_layer),
            "tensor table", err);
    if (!model->layers) {
        llm_model_free(model);
        return NULL;
    }
    llmi_config_table(&model->table, &model->config, model->layers);
    memset(model->values, 0, model->table.n * sizeof *model->values);
    for (i = 0; i < model->table.n; i++)
        llmi_values_set(model, i, desc && desc->dtype ? desc->dtype : LLM_F32);
    return model;
}

/* of the model's instruction set and allocator */
static llm_context *llmi_model_context(const llm_model *model, int n_threads, llm_error *err) {
    llm_context *context = llm_context_create(n_threads, model->allocator, err);
    if (context) (void)llm_context_set_isa(context, model->isa, NULL);
    return context;
}

LLM_API llm_model *llm_model_create(const llm_config *config, const llm_model_desc *desc,
                                    llm_error *err) {
    llm_model *model = llmi_model_allocate(config, desc, err);
    llm_context *context = NULL;
    llmi_values none;
    size_t i, j;
    if (!model) return NULL;
    if ((desc && desc->dtype > LLM_F32 ? llmi_model_place(model, err)
                                       : llmi_model_gather(model, err)) == LLM_OK)
        context = llmi_model_context(model, model->n_threads, err);
    if (!context) {
        llm_model_free(model);
        return NULL;
    }
    memset(&none, 0, sizeof none);
    for (i = 0; i < model->table.n; i++) {
        const llmi_tensor *row = &model->table.rows[i];
        float *values = (float *)model->values[i].data;
        llmi_convert job;
        none.transposed = row->transposed;                       /* so its numbers run */
        job = llmi_convert_of(row, model->values[i], none);
        job.std = row->init_std;
        job.seed = llm_random(desc ? desc->seed : 0, i);
        if (row->init_std > 0.0f) llmi_convert_run(context, &job);
        else for (j = 0; j < row->count; j++) values[j] = row->init_value;
    }
    llm_context_free(context);
    return model;
}

LLM_API const llm_config *llm_model_config(const llm_model *model) {
    return model ? &model->config : NULL;
}
LLM_API llm_special_tokens llm_model_special_tokens(const llm_model *model) {
    llm_special_tokens none;
    memset(&none, 0, sizeof none);
    none.bos = none.pad = -1;
    return model ? model->special : none;
}
LLM_API llm_result llm_model_set_special_tokens(llm_model *model, const llm_special_tokens *special,
                                                llm_error *err) {
    int i, most;
    if (!model || !special)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "special tokens: NULL for model or special");
    most = model->config.vocab_size - 1;
    LLMI_TRY(llmi_check_int("special tokens: bos", special->bos, -1, most, err));
    LLMI_TRY(llmi_check_int("special tokens: pad", special->pad, -1, most, err));
    LLMI_TRY(llmi_check_int("special tokens: n_eos", special->n_eos, 0, LLMI_EOS_MAX, err));
    for (i = 0; i < special->n_eos; i++)
        LLMI_TRY(llmi_check_int("special tokens: eos", special->eos[i], 0, most, err));
    model->special = *special;
    for (i = special->n_eos; i < LLMI_EOS_MAX; i++) model->special.eos[i] = 0;
    return LLM_OK;
}
LLM_API llm_isa llm_model_isa(const llm_model *model) {
    return model ? (llm_isa)(llmi_capped(llmi_last_pass(), model->isa) + 1) : LLM_ISA_BEST;
}
LLM_API size_t llm_model_tensor_count(const llm_model *model) { return model ? model->table.n : 0; }

static llm_tensor llmi_tensor_view(const llmi_tensor *row, llmi_values values) {
    llm_tensor tensor;
    const int turned = row->transposed && !values.transposed;
    tensor.name = row->name;
    tensor.dtype = values.type;
    tensor.n_dims = row->n_dims;
    memcpy(tensor.dims, row->dims, sizeof tensor.dims);
    if (turned) {
        tensor.dims[0] = row->dims[1];
        tensor.dims[1] = row->dims[0];
    }
    tensor.data = values.data;
    tensor.scales = values.scales;
    return tensor;
}
LLM_API llm_tensor llm_model_tensor(const llm_model *model, size_t i) {
    llm_tensor none;
    memset(&none, 0, sizeof none);
    return model && i < model->table.n ? llmi_tensor_view(&model->table.rows[i], model->values[i])
                                       : none;
}

/* ============================================================================================
 * >>run          rows of tokens on their way through a model
 * ========================================================================================== */
typedef struct llmi_ds_work { /* DeepSeek's scratch within a block; N rows, K choices each */
    float *cn, *qn;                    /* (N,kv_lora_rank), (N,q_lora_rank) after their norms    */
    float *k;                          /* (N, or keys of a span, H qk)                           */
    float *act;                        /* (N K,Fm) or (N,F)                                      */
    float *kv;                         /* of a cache, expanded: (keys of a span, H (nope + v))   */
    float *latents;                    /* of a cache of another type: (keys of a span, R + rope) */
    float *latent_q, *latent_out;      /* absorbed: (few, H, R + rope), (few, H, R)              */
    float *dq, *dk, *dkv, *dkr, *dc, *dcn, *dqa, *dqn, *datt, *dact;
    float *sorted;                     /* (N K,C) */
    float *shared_act, *shared_dact;   /* (N,Fs) */
    float *dweight, *dlogits;          /* (N,K), (N,E) */
    float *frequency;                  /* (n_sequences,E) */
    int32_t *next;                     /* (E) */
    llmi_gemm *products;               /* (2 + 2E) */
    unsigned char *open;               /* (threads,E) */
} llmi_ds_work;

/* What blocks save for their backward: `exact` things, then `wide` ones, which training in bf16 and
 * fp8 keeps in bf16: a block then works on one place in f32, `wide`, and its own copy is narrow. */
typedef struct llmi_saved {
    int keep;                          /* for all blocks, or each block in place of the last    */
    int narrow;                        /* wide things are kept in bf16                          */
    char *blocks;
    size_t block_size;                 /* bytes from block to block                             */
    size_t exact_size, wide_size;      /* bytes of a block's, both in f32                       */
    char *wide;                        /* where narrow: wide things of the block at work        */
} llmi_saved;

typedef struct llmi_run {              /* rows of tokens on their way through the model */
    llm_context *context;
    const llm_model *model;
    size_t n_sequences, rows;          /* rows: of each sequence, at consecutive positions      */
    const int *position, *slot;        /* per sequence: of its first row (NULL: 0), in cache    */
    llm_dtype cache_type;
    char *cache;                       /* per layer (slots, cache_len, width), GPT-2's k before */
    size_t cache_slots, cache_len;     /* its v; NULL: the batch's own rows are all there is    */
    int few;                           /* the decode path: at most LLMI_FEW_ROWS rows in all    */
    llm_precision precision;           /* of the linear layers' products                        */
    float embd_pdrop, attn_pdrop, resid_pdrop;
    uint64_t seed;                     /* of the dropout masks                                  */
    float *gradients;                  /* flat; backward only                                   */
    int accumulate;                    /* 0: gradients by_product are overwritten               */
    /* buffers for N = n_sequences x rows rows */
    int keep_x;                        /* for all blocks, or each block in place of the last    */
    int mtp;                           /* MTP modules that run, too                             */
    float *x;                          /* (N,C) inputs of the blocks, the last one's output;    */
    size_t x_size;                     /* each module's two. x_size: floats from one to the next */
    llmi_saved saved;
    float *final_mean, *final_rstd;    /* (N)                                                   */
    float *h, *dh;                     /* (N,C)                                                 */
    float *wide, *dwide;               /* GPT-2: (N, max(F, 3C)), (N,F); DeepSeek: (N,C)         */
    float *angles;                     /* DeepSeek: (rows, rope width) of cos and sin           */
    float *attention_state;            /* (N, H, 2) over a cache: see >>attention               */
    llmi_ds_work ds;
    float *mtp_cat, *mtp_dcat, *mtp_rstd;      /* (N,2C), (N,2C), (2N)                          */
    float *loads;                      /* (MoE blocks,E) tokens per expert are added, or NULL   */
    double *balance;                   /* the sum of f P over blocks, sequences is added; NULL  */
    float balance_scale;               /* alpha/B times the valid targets; 0: no balance loss   */
} llmi_run;

static size_t llmi_run_rows(const llmi_run *run) { return run->n_sequences * run->rows; }
static float *llmi_run_x(const llmi_run *run, int i) {
    return run->x + (size_t)(run->keep_x ? i : i % 2) * run->x_size;
}
/* input and output of a block; layers from n_layers on are those of the MTP modules */
static float *llmi_block_in(const llmi_run *run, int layer) {
    const int L = run->model->config.n_layers;
    return llmi_run_x(run, layer < L ? layer : 2 * layer - L + 1);
}
static float *llmi_block_out(const llmi_run *run, int layer) {
    const int L = run->model->config.n_layers;
    return llmi_run_x(run, layer < L ? layer + 1 : 2 * layer - L + 2);
}
static const float *llmi_weight(const llmi_run *run, int i) {
    LLM_ASSERT(run->model->values[i].type == LLM_F32);
    return (const float *)run->model->values[i].data;
}
static float *llmi_gradient(const llmi_run *run, int i) {
    return run->gradients + run->model->table.rows[i].offset;
}
static int llmi_final_norm(const llm_model *model) {
    return (int)model->table.n - (model->config.tie_embeddings ? 0 : 1) -
           (model->arch->layernorm ? 2 : 1);
}
static int llmi_head_index(const llm_model *model) {
    return model->config.tie_embeddings ? 0 : (int)model->table.n - 1;
}
/* of the head and of attention, which fp8 training leaves in bf16 (DeepSeek-V3 report, 3.3.1) */
static llm_precision llmi_near_precision(llm_precision precision) {
    return precision == LLM_PRECISION_FP32 ? LLM_PRECISION_FP32 : LLM_PRECISION_BF16;
}
/* ---- weights as handles: products, gradients ------------------------------------------------- */
static llmi_matrix llmi_model_matrix(const llm_model *model, int i, llm_precision precision) {
    const llmi_values *values = &model->values[i];
    llmi_matrix w = llmi_matrix_of((const float *)values->data, 0, 0, values->transposed);
    llmi_tensor_sides(&model->table.rows[i], &w.n_out, &w.n_in);
    w.type = values->type;
    w.scales = values->scales;
    w.precision = precision;
    w.round_x = model->round_x;
    w.tensor = i;
    return w;
}
static llmi_matrix llmi_head_matrix(const llm_model *model, llm_precision precision) {
    return llmi_model_matrix(model, llmi_head_index(model), llmi_near_precision(precision));
}
static llmi_matrix llmi_dense(const llmi_run *run, int i) {
    return llmi_model_matrix(run->model, i, run->precision);
}
static float *llmi_matrix_gradient(const llmi_run *run, const llmi_matrix *w) {
    return llmi_gradient(run, w->tensor) + w->first * w->n_in;
}
static const float *llmi_optional(const llmi_run *run, int i) {
    return i < 0 ? NULL : llmi_weight(run, i);
}
/* y (n,n_out) = x W^T [+ bias, a tensor's number, -1 = none] */
static void llmi_dense_forward(const llmi_run *run, float *y, const float *x, llmi_matrix w,
                               int bias, size_t n) {
    llmi_matmul(run->context, y, w.n_out, x, w, llmi_optional(run, bias), n, 0);
}
/* dW += dy^T x [, db += sum dy]; dx = [dx +] dy W, unless NULL */
static void llmi_dense_backward(const llmi_run *run, float *dx, int dx_accumulate, const float *dy,
                                const float *x, llmi_matrix w, int bias, size_t n) {
    llmi_matmul_dw(run->context, llmi_matrix_gradient(run, &w), dy, w.n_out, x, w, n,
                   run->accumulate);
    if (bias >= 0)
        llmi_add_column_sums(run->context, llmi_gradient(run, bias) + w.first, dy, n, w.n_out);
    if (dx) llmi_matmul_dx(run->context, dx, dy, w.n_out, w, n, dx_accumulate);
}
/* dW += dy^T x, as one of several products */
static llmi_gemm llmi_dense_dw(const llmi_run *run, const float *dy, const float *x, llmi_matrix w,
                               size_t n) {
    return llmi_product_dw(llmi_matrix_gradient(run, &w), dy, w.n_out, x, w, n, run->accumulate);
}
/* the row of a token, at `room` or in its place */
static const float *llmi_token_row(const llmi_run *run, int32_t token, float *room) {
    const llmi_matrix w = llmi_dense(run, LLMI_WTE);
    return llmi_matrix_row(run->context->kernels, &w, (size_t)token, room);
}

/* independent masks: embedding (0); per block attention (1), first (2) and second half (3) */
static uint64_t llmi_dropout_seed(const llmi_run *run, int layer, int which) {
    return llm_random(run->seed, (uint64_t)layer * 4 + (uint64_t)which);
}

/* the gradient that enters a residual branch: dx, or dx through the branch's dropout, written to
 * `to` */
static const float *llmi_branch(const llmi_run *run, float *to, const float *dx, size_t count,
                                int layer, int half) {
    if (run->resid_pdrop <= 0.0f) return dx;
    llmi_dropout(run->context, to, dx, count, run->resid_pdrop,
                 llmi_dropout_seed(run, layer, 1 + half), 0);
    return to;
}

/* positions up to the last row's, of the longest sequence */
static size_t llmi_run_longest(const llmi_run *run) {
    size_t longest = run->rows, i;
    for (i = 0; run->position && i < run->n_sequences; i++)
        longest = llmi_max(longest, (size_t)run->position[i] + run->rows);
    return longest;
}
static size_t llmi_row_position(const llmi_run *run, size_t row) {
    return (run->position ? (size_t)run->position[row / run->rows] : 0) + row % run->rows;
}

static char *llmi_saved_block(const llmi_run *run, int layer) {
    return run->saved.blocks + (run->saved.keep ? (size_t)layer * run->saved.block_size : 0);
}
static llmi_arena llmi_saved_exact(const llmi_run *run, int layer) {
    return llmi_arena_at(llmi_saved_block(run, layer), run->saved.exact_size);
}
static llmi_arena llmi_saved_wide(const llmi_run *run, int layer) {
    return llmi_arena_at(run->saved.narrow ? run->saved.wide
                                           : llmi_saved_block(run, layer) + run->saved.exact_size,
                         run->saved.wide_size);
}

static void llmi_widen_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->widen(op->y + at, op->x + at / 2, n);
}
static void llmi_narrow_body(void *argument, size_t at, size_t n) {
    const llmi_op *op = (const llmi_op *)argument;
    op->kernels->narrow(op->y + at / 2, op->x + at, n);
}
/* between the place where a block works and its own, after its forward and before its backward */
static void llmi_saved_convert(const llmi_run *run, int layer, int widen) {
    float *wide = (float *)(void *)run->saved.wide;
    float *narrow = (float *)(void *)(llmi_saved_block(run, layer) + run->saved.exact_size);
    llmi_op op;
    if (!run->saved.narrow) return;
    op = llmi_op_of(run->context, widen ? wide : narrow, widen ? narrow : wide);
    llmi_for(run->context, run->saved.wide_size / sizeof(float), LLMI_PIECE,
             widen ? llmi_widen_body : llmi_narrow_body, &op);
}

/* ============================================================================================
 * >>gpt2         the model: one forward for training, scoring, prefill and decoding; one backward
 *
 *   x = wte[token] + wpe[position]
 *   per block  x += attention(LN1 x) Wo + bo;  x += gelu(LN2 x Wfc + bfc) Wproj + bproj
 *   logits = LNf(x) head^T
 * (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", sec. 2.3)
 *
 * Saved per block for the backward: x, the norms' mean and rstd, qkv, the attention's output and
 * lse, the stream between the two halves, and fc before GELU: 6C + F + ... values a row. The
 * outputs of norms and GELU are computed again.
 * ========================================================================================== */
typedef struct llmi_gpt2_saved {
    float *mean1, *rstd1;              /* (N)                                                   */
    float *qkv;                        /* (N,3C)                                                */
    float *att;                        /* (N,C)                                                 */
    float *lse;                        /* (n_sequences,H,rows)                                  */
    float *mid;                        /* (N,C)                                                 */
    float *mean2, *rstd2;              /* (N)                                                   */
    float *fc;                         /* (N,F)                                                 */
} llmi_gpt2_saved;

static void llmi_gpt2_carve_saved(llmi_gpt2_saved *s, llmi_arena *exact, llmi_arena *wide,
                                  const llm_config *config, size_t n) {
    const size_t C = (size_t)config->d_model;
    s->mean1 = llmi_carve_floats(exact, n);
    s->rstd1 = llmi_carve_floats(exact, n);
    s->lse = llmi_carve_floats(exact, llmi_mul(n, (size_t)config->n_heads));
    s->mean2 = llmi_carve_floats(exact, n);
    s->rstd2 = llmi_carve_floats(exact, n);
    s->qkv = llmi_carve_floats(wide, llmi_mul(n, 3 * C));
    s->att = llmi_carve_floats(wide, llmi_mul(n, C));
    s->mid = llmi_carve_floats(wide, llmi_mul(n, C));
    s->fc = llmi_carve_floats(wide, llmi_mul(n, (size_t)config->d_ffn));
}

static void llmi_gpt2_carve_block(llmi_arena *exact, llmi_arena *wide, const llm_config *config,
                                  size_t n) {
    llmi_gpt2_saved s;
    llmi_gpt2_carve_saved(&s, exact, wide, config, n);
}

/* what lives within one block */
static void llmi_gpt2_carve_work(llmi_run *run, llmi_arena *arena, const llm_config *config,
                                 size_t n, size_t sequences, size_t cache_len, int n_threads,
                                 int backward) {
    const size_t C = (size_t)config->d_model, F = (size_t)config->d_ffn;
    (void)sequences; (void)n_threads;
    if (cache_len)
        run->attention_state = llmi_carve_floats(arena, llmi_mul(n, 2 * (size_t)config->n_heads));
    run->h = llmi_carve_floats(arena, llmi_mul(n, C));
    run->wide = llmi_carve_floats(arena, llmi_mul(n, backward ? llmi_max(F, 3 * C) : F));
    run->dh = backward ? llmi_carve_floats(arena, llmi_mul(n, C)) : NULL;
    run->dwide = backward ? llmi_carve_floats(arena, llmi_mul(n, F)) : NULL;
}

typedef struct llmi_gpt2_rows {
    const llmi_run *run;
    const float *qkv;
    int layer;
} llmi_gpt2_rows;

/* value `at` of the cache: see llmi_typed_at */
static const float *llmi_cache_at(const llmi_run *run, size_t at) {
    return llmi_typed_at((const float *)(const void *)run->cache, run->cache_type, at);
}
/* n values into the cache. Blocks get the scale that brings the largest to 127: quicker than the
 * best, and nearly as good. */
static void llmi_cache_put(const llmi_run *run, size_t at, const float *from, size_t n) {
    unsigned char *to = (unsigned char *)run->cache + llmi_dtype_bytes(run->cache_type, at);
    size_t i, j;
    if (run->cache_type != LLM_Q8_0) {
        llmi_encode(run->cache_type, to, from, n);
        return;
    }
    for (i = 0; i < n; i += 32, from += 32, to += 34) {
        float most = 0.0f, inverse;
        uint16_t half;
        for (j = 0; j < 32; j++)       /* a NaN is the largest */
            if (!(fabsf(from[j]) <= most)) most = fabsf(from[j]);
        half = llmi_f32_to_f16(most / 127.0f);
        inverse = llmi_f16_to_f32(half);
        inverse = inverse > 0.0f && inverse <= FLT_MAX ? 1.0f / inverse : 0.0f;
        llmi_put_little(to, half, 2);
        for (j = 0; j < 32; j++) {
            float q = inverse > 0.0f ? from[j] * inverse : 0.0f;
            q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
            to[2 + j] = (unsigned char)(int)lrintf(q);
        }
    }
}
/* the values before those of a layer's keys (0) or values (1) */
static size_t llmi_gpt2_cache(const llmi_run *run, int layer, int value) {
    return (size_t)(2 * layer + value) * run->cache_slots * run->cache_len *
           (size_t)run->model->config.d_model;
}
/* keys and values of a row, head by head, to their places in the cache */
static void llmi_gpt2_store_body(void *argument, size_t index) {
    const llmi_gpt2_rows *job = (const llmi_gpt2_rows *)argument;
    const llmi_run *run = job->run;
    const size_t C = (size_t)run->model->config.d_model, H = (size_t)run->model->config.n_heads,
                 D = C / H;
    const size_t sequence = index / run->rows,
                 position = (size_t)run->position[sequence] + index % run->rows;
    size_t h;
    int value;
    for (value = 0; value < 2; value++)
        for (h = 0; h < H; h++)
            llmi_cache_put(
                run, llmi_gpt2_cache(run, job->layer, value) +
                         (((size_t)run->slot[sequence] * H + h) * run->cache_len + position) * D,
                job->qkv + index * 3 * C + (size_t)(1 + value) * C + h * D, D);
}

static void llmi_gpt2_attention(const llmi_run *run, llmi_attention *a, const llmi_gpt2_saved *s,
                                int layer) {
    const llm_config *config = &run->model->config;
    const size_t C = (size_t)config->d_model;
    memset(a, 0, sizeof *a);
    a->n_sequences = run->n_sequences;
    a->rows = run->rows;
    a->n_heads = (size_t)config->n_heads;
    a->qk_dim = a->v_dim = C / a->n_heads;
    a->q = s->qkv;
    a->q_stride = 3 * C;
    if (run->cache) {
        a->state = run->attention_state;
        a->position = run->position;
        a->slot = run->slot;
        a->type = run->cache_type;
        a->k = llmi_cache_at(run, llmi_gpt2_cache(run, layer, 0));
        a->v = llmi_cache_at(run, llmi_gpt2_cache(run, layer, 1));
        a->k_stride = a->v_stride = a->qk_dim;
        a->k_head = a->v_head = run->cache_len * a->qk_dim;
        a->k_sequence = a->v_sequence = run->cache_len * C;
    } else {
        a->k = s->qkv + C;
        a->v = s->qkv + 2 * C;
        a->k_stride = a->v_stride = 3 * C;
        a->k_head = a->v_head = a->qk_dim;
        a->k_sequence = a->v_sequence = run->rows * 3 * C;
    }
    a->scale = 1.0f / sqrtf((float)a->qk_dim);
    a->dropout = run->attn_pdrop;
    a->seed = llmi_dropout_seed(run, layer, 1);
    a->precision = llmi_near_precision(run->precision);
}

static void llmi_gpt2_saved_at(const llmi_run *run, llmi_gpt2_saved *s, int layer) {
    llmi_arena exact = llmi_saved_exact(run, layer), wide = llmi_saved_wide(run, layer);
    llmi_gpt2_carve_saved(s, &exact, &wide, &run->model->config, llmi_run_rows(run));
}

/* longest: keys of the longest sequence, this call's included */
static void llmi_gpt2_block_forward(const llmi_run *run, int layer, size_t longest) {
    const llm_config *config = &run->model->config;
    llm_context *context = run->context;
    const int w = LLMI_BLOCKS + layer * LLMI_PER_BLOCK, C = config->d_model;
    const size_t n = llmi_run_rows(run), width = (size_t)C;
    const float *x = llmi_block_in(run, layer);
    llmi_gpt2_saved s;
    llmi_attention a;
    llmi_gpt2_saved_at(run, &s, layer);
    llm_layernorm_forward(context, run->h, s.mean1, s.rstd1, x, llmi_weight(run, w + LLMI_LN1_W),
                          llmi_weight(run, w + LLMI_LN1_B), (int)n, C, config->norm_eps);
    llmi_dense_forward(run, s.qkv, run->h, llmi_dense(run, w + LLMI_QKV_W),
                        w + LLMI_QKV_B, n);
    if (run->cache) {
        llmi_gpt2_rows job;
        job.run = run; job.qkv = s.qkv; job.layer = layer;
        llmi_each(context, n, llmi_gpt2_store_body, &job);
    }
    llmi_gpt2_attention(run, &a, &s, layer);
    a.out = s.att;
    a.lse = s.lse;
    llmi_attention_run(context, &a, longest, run->few);
    llmi_dense_forward(run, run->h, s.att, llmi_dense(run, w + LLMI_ATT_W),
                        w + LLMI_ATT_B, n);
    llmi_residual(context, s.mid, x, run->h, n * width, run->resid_pdrop,
                  llmi_dropout_seed(run, layer, 2));
    llm_layernorm_forward(context, run->h, s.mean2, s.rstd2, s.mid,
                          llmi_weight(run, w + LLMI_LN2_W), llmi_weight(run, w + LLMI_LN2_B),
                          (int)n, C, config->norm_eps);
    llmi_dense_forward(run, s.fc, run->h, llmi_dense(run, w + LLMI_FC_W),
                        w + LLMI_FC_B, n);
    llm_gelu_forward(context, run->wide, s.fc, n * (size_t)config->d_ffn);
    llmi_dense_forward(run, run->h, run->wide, llmi_dense(run, w + LLMI_MLP_W),
                        w + LLMI_MLP_B, n);
    llmi_residual(context, llmi_block_out(run, layer), s.mid, run->h, n * width, run->resid_pdrop,
                  llmi_dropout_seed(run, layer, 3));
}

/* dx (N,C): the gradient of the block's output, becomes that of its input */
static void llmi_gpt2_block_backward(const llmi_run *run, float *dx, int layer) {
    const llm_config *config = &run->model->config;
    llm_context *context = run->context;
    const int w = LLMI_BLOCKS + layer * LLMI_PER_BLOCK, C = config->d_model;
    const size_t n = llmi_run_rows(run), width = (size_t)C, F = (size_t)config->d_ffn;
    const float *x = llmi_block_in(run, layer), *dy;
    llmi_gpt2_saved s;
    llmi_attention a;
    llmi_gpt2_saved_at(run, &s, layer);

    dy = llmi_branch(run, run->dh, dx, n * width, layer, 2);
    llmi_matmul_dx(context, run->dwide, dy, width, llmi_dense(run, w + LLMI_MLP_W), n, 0);
    llmi_gelu_backward(context, run->dwide, run->wide, run->dwide, s.fc, n * F, 0);
    llmi_dense_backward(run, NULL, 0, dy, run->wide, llmi_dense(run, w + LLMI_MLP_W),
                        w + LLMI_MLP_B, n);
    llm_layernorm_forward(context, run->h, NULL, NULL, s.mid, llmi_weight(run, w + LLMI_LN2_W),
                          llmi_weight(run, w + LLMI_LN2_B), (int)n, C, config->norm_eps);
    llmi_dense_backward(run, run->dh, 0, run->dwide, run->h, llmi_dense(run, w + LLMI_FC_W),
                        w + LLMI_FC_B, n);
    llm_layernorm_backward(context, dx, llmi_gradient(run, w + LLMI_LN2_W),
                           llmi_gradient(run, w + LLMI_LN2_B), run->dh, s.mean2, s.rstd2, s.mid,
                           llmi_weight(run, w + LLMI_LN2_W), (int)n, C);

    dy = llmi_branch(run, run->dh, dx, n * width, layer, 1);
    llmi_dense_backward(run, run->h, 0, dy, s.att, llmi_dense(run, w + LLMI_ATT_W),
                        w + LLMI_ATT_B, n);            /* h: gradient of att */
    llmi_gpt2_attention(run, &a, &s, layer);
    a.saved_out = s.att; a.saved_lse = s.lse; a.dout = run->h;
    a.dq = run->wide;
    a.dk = run->wide + width;
    a.dv = run->wide + 2 * width; /* wide: gradient of qkv */
    llmi_attention_backward_run(context, &a);
    llm_layernorm_forward(context, run->h, NULL, NULL, x, llmi_weight(run, w + LLMI_LN1_W),
                          llmi_weight(run, w + LLMI_LN1_B), (int)n, C, config->norm_eps);
    llmi_dense_backward(run, run->dh, 0, run->wide, run->h, llmi_dense(run, w + LLMI_QKV_W),
                        w + LLMI_QKV_B, n);
    llm_layernorm_backward(context, dx, llmi_gradient(run, w + LLMI_LN1_W),
                           llmi_gradient(run, w + LLMI_LN1_B), run->dh, s.mean1, s.rstd1, x,
                           llmi_weight(run, w + LLMI_LN1_W), (int)n, C);
}

/* ============================================================================================
 * >>mla          latent attention, DeepSeek-V3 report (arXiv:2412.19437) sec. 2.1.1, eq. 1-11
 *
 *   q = Wq h, or Wqb RMSNorm(Wqa h); per head [nope | rope]
 *   c = RMSNorm(Wkva h), kr = rope(Wkr h), shared by the heads; per head [k_nope | v] = Wkvb c
 *   out = Wo softmax(scale [q_nope | rope(q_rope)] [k_nope | kr]^T) v
 * Expanded, as written, for training and prefill. Absorbed for decoding, on a cache of c and kr
 * alone: score = (Wk^T q_nope) c + q_rope kr and out = Wv sum(p c): attention with one shared key
 * of kv_lora_rank + rope values, whose values are the first kv_lora_rank of it.
 *
 * Here Wkva's rows for c and for kr count as two matrices, so that c and kr are dense.
 * ========================================================================================== */
#define LLMI_LATENT_EPS 1e-6f          /* of the norms within, whatever norm_eps says */

static size_t llmi_qk_width(const llm_config *c) {
    return (size_t)(c->qk_nope_head_dim + c->qk_rope_head_dim);
}
static size_t llmi_kv_width(const llm_config *c) {
    return (size_t)(c->qk_nope_head_dim + c->v_head_dim);
}

typedef struct llmi_mla_saved {
    float *rstd1;                      /* (N) of the block's first norm */
    float *qa, *q_rstd;                /* (N,q_lora_rank), (N); with a low-rank query */
    float *q;                          /* (N,H qk), turned */
    float *c, *c_rstd;                 /* (N,kv_lora_rank) before its norm, (N) */
    float *kr;                         /* (N,rope), turned */
    float *kv;                         /* (N,H (nope + v)) */
    float *att, *lse;                  /* (N,H v), (B,H,T) */
} llmi_mla_saved;

static void llmi_mla_carve_saved(llmi_mla_saved *s, llmi_arena *exact, llmi_arena *wide,
                                 const llm_config *c, size_t n) {
    const size_t H = (size_t)c->n_heads;
    s->rstd1 = llmi_carve_floats(exact, n);
    s->q_rstd = llmi_carve_floats(exact, n);
    s->c_rstd = llmi_carve_floats(exact, n);
    s->lse = llmi_carve_floats(exact, llmi_mul(n, H));
    s->qa = llmi_carve_floats(wide, llmi_mul(n, (size_t)c->q_lora_rank));
    s->q = llmi_carve_floats(wide, llmi_mul(n, H * llmi_qk_width(c)));
    s->c = llmi_carve_floats(wide, llmi_mul(n, (size_t)c->kv_lora_rank));
    s->kr = llmi_carve_floats(wide, llmi_mul(n, (size_t)c->qk_rope_head_dim));
    s->kv = llmi_carve_floats(wide, llmi_mul(n, H * llmi_kv_width(c)));
    s->att = llmi_carve_floats(wide, llmi_mul(n, H * (size_t)c->v_head_dim));
}

/* Rows that turn, are gathered or copied, one task each */
typedef struct llmi_mla_rows {
    const llmi_run *run;
    const llmi_mla_saved *s;
    float *q, *kr;                     /* to turn; in the backward, their gradients */
    float *k, *dk, *dkv, *latent;
    const float *kv, *keys_kr;
    size_t kr_stride;                  /* of keys_kr */
    int layer;
    float sign;
} llmi_mla_rows;

static const float *llmi_row_angles(const llmi_run *run,
                                    size_t row) { /* one table per position of a sequence */
    return run->angles +
           (run->position ? row : row % run->rows) * (size_t)run->model->config.qk_rope_head_dim;
}

static void llmi_angles_body(void *argument, size_t index) {
    const llmi_mla_rows *job = (const llmi_mla_rows *)argument;
    const llm_config *c = &job->run->model->config;
    llmi_rope_angles(c, job->run->angles + index * (size_t)c->qk_rope_head_dim,
                     llmi_row_position(job->run, index));
}
static void llmi_run_angles(const llmi_run *run) {
    llmi_mla_rows job;
    memset(&job, 0, sizeof job);
    job.run = run;
    llmi_each(run->context, run->position ? llmi_run_rows(run) : run->rows, llmi_angles_body,
                  &job);
}

/* q and kr of a row, turned in place */
static void llmi_mla_turn_body(void *argument, size_t row) {
    const llmi_mla_rows *job = (const llmi_mla_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const float *angles = llmi_row_angles(job->run, row);
    const size_t qk = llmi_qk_width(c), H = (size_t)c->n_heads, nope = (size_t)c->qk_nope_head_dim;
    size_t h;
    for (h = 0; h < H; h++)
        llmi_rope_turn(job->q + (row * H + h) * qk + nope, angles, c->qk_rope_head_dim,
                       c->rope_half_split, job->sign);
    llmi_rope_turn(job->kr + row * (size_t)c->qk_rope_head_dim, angles, c->qk_rope_head_dim,
                   c->rope_half_split, job->sign);
}

/* k (N,H,qk) = [k_nope | kr] */
static void llmi_mla_keys_body(void *argument, size_t row) {
    const llmi_mla_rows *job = (const llmi_mla_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const size_t H = (size_t)c->n_heads, nope = (size_t)c->qk_nope_head_dim,
                 rope = (size_t)c->qk_rope_head_dim;
    size_t h;
    for (h = 0; h < H; h++) {
        float *k = job->k + (row * H + h) * (nope + rope);
        memcpy(k, job->kv + (row * H + h) * llmi_kv_width(c), nope * sizeof(float));
        memcpy(k + nope, job->keys_kr + row * job->kr_stride, rope * sizeof(float));
    }
}

/* its backward: dk_nope to its place in dkv, the sum of dk_rope over the heads to kr's */
static void llmi_mla_keys_backward_body(void *argument, size_t row) {
    const llmi_mla_rows *job = (const llmi_mla_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const size_t H = (size_t)c->n_heads, nope = (size_t)c->qk_nope_head_dim,
                 rope = (size_t)c->qk_rope_head_dim;
    float *dkr = job->kr + row * rope;
    size_t h, i;
    for (i = 0; i < rope; i++) dkr[i] = 0.0f;
    for (h = 0; h < H; h++) {
        const float *dk = job->dk + (row * H + h) * (nope + rope);
        memcpy(job->dkv + (row * H + h) * llmi_kv_width(c), dk, nope * sizeof(float));
        for (i = 0; i < rope; i++) dkr[i] += dk[nope + i];
    }
}

/* the values before a layer's */
static size_t llmi_mla_cache(const llmi_run *run, int layer) {
    return (size_t)layer * run->cache_slots * run->cache_len *
           llmi_cache_width(&run->model->config);
}

/* a row's [c | kr] to its place in the cache; latent: c after its norm */
static void llmi_mla_store_body(void *argument, size_t row) {
    const llmi_mla_rows *job = (const llmi_mla_rows *)argument;
    const llmi_run *run = job->run;
    const llm_config *c = &run->model->config;
    const size_t R = (size_t)c->kv_lora_rank, rope = (size_t)c->qk_rope_head_dim;
    const size_t at = llmi_mla_cache(run, job->layer) +
                      ((size_t)run->slot[row / run->rows] * run->cache_len +
                       llmi_row_position(run, row)) *
                          (R + rope);
    llmi_cache_put(run, at, job->latent + row * R, R);
    llmi_cache_put(run, at + R, job->s->kr + row * rope, rope);
}

/* the router's weight, always in f32: a rounded score would choose another expert */
static llmi_matrix llmi_router(const llmi_run *run, int i) {
    llmi_matrix w = llmi_dense(run, i);
    w.precision = LLM_PRECISION_FP32;
    return w;
}

static void llmi_run_rmsnorm(const llmi_run *run, float *y, float *rstd, const float *x, int weight,
                             size_t n, int width, float eps) {
    llm_rmsnorm_forward(run->context, y, rstd, x, llmi_weight(run, weight), (int)n, width, eps);
}

static void llmi_mla_attention(const llmi_run *run, llmi_attention *a, const llmi_mla_saved *s,
                               const float *k, const float *kv) {
    const llm_config *c = &run->model->config;
    memset(a, 0, sizeof *a);
    a->n_sequences = run->n_sequences;
    a->rows = run->rows;
    a->n_heads = (size_t)c->n_heads;
    a->qk_dim = a->k_head = llmi_qk_width(c);
    a->v_dim = (size_t)c->v_head_dim;
    a->v_head = llmi_kv_width(c);
    a->q = s->q;
    a->q_stride = a->k_stride = a->n_heads * a->qk_dim;
    a->k = k;
    a->v = kv + c->qk_nope_head_dim;
    a->v_stride = a->n_heads * a->v_head;
    a->k_sequence = run->rows * a->k_stride;
    a->v_sequence = run->rows * a->v_stride;
    a->scale = llmi_mla_scale(c);
    a->dropout = run->attn_pdrop;
    a->precision = llmi_near_precision(run->precision);
}

/* Few queries: into the latent space, over the cache, and out of it, heads of one row at a time */
typedef struct llmi_absorbed {
    const llmi_run *run;
    llmi_matrix weight;                /* kv_b */
    const float *q;                    /* (N,H,nope + rope) */
    float *att;                        /* (N,H,v) */
    llmi_attention attention;          /* of the latents */
} llmi_absorbed;

static void llmi_absorbed_task(void *argument, size_t index, int thread) {
    llmi_absorbed *job = (llmi_absorbed *)argument;
    llmi_attention *a = &job->attention;
    const llm_config *c = &job->run->model->config;
    const size_t R = a->v_dim, nope = (size_t)c->qk_nope_head_dim, v = (size_t)c->v_head_dim;
    const size_t groups = llmi_ceil_div(a->n_heads, a->group), row = index / groups;
    const size_t first = index % groups * a->group, end = llmi_min(first + a->group, a->n_heads);
    size_t head;
    for (head = first; head < end; head++) {
        const float *q = job->q + (row * a->n_heads + head) * (nope + a->qk_dim - R);
        float *latent = job->run->ds.latent_q + (row * a->n_heads + head) * a->qk_dim;
        const llmi_matrix keys = llmi_matrix_rows(job->weight, head * (nope + v), nope);
        llmi_matrix_times_back(job->run->context->kernels, &keys, latent, q);
        memcpy(latent + R, q + nope, (a->qk_dim - R) * sizeof(float));
    }
    llmi_attention_few_task(a, index, thread);
    for (head = first; head < end; head++) {
        const llmi_matrix values = llmi_matrix_rows(job->weight, head * (nope + v) + nope, v);
        llmi_matrix_times(job->run->context->kernels, &values,
                          job->att + (row * a->n_heads + head) * v,
                          a->out + (row * a->n_heads + head) * R);
    }
}

static void llmi_mla_absorbed(const llmi_run *run, const llmi_mla_saved *s, const llmi_ds_layer *w,
                              int layer, size_t longest) {
    const llm_config *c = &run->model->config;
    const size_t R = (size_t)c->kv_lora_rank, width = R + (size_t)c->qk_rope_head_dim;
    llmi_absorbed job;
    llmi_attention *a = &job.attention;
    memset(&job, 0, sizeof job);
    job.run = run;
    job.weight = llmi_dense(run, w->kv_b);
    job.q = s->q;
    job.att = s->att;
    a->n_sequences = run->n_sequences;
    a->rows = run->rows;
    a->position = run->position;
    a->slot = run->slot;
    a->n_heads = (size_t)c->n_heads;
    a->qk_dim = width;
    a->v_dim = R;
    a->q = run->ds.latent_q;
    a->q_stride = a->n_heads * width;
    a->type = run->cache_type;
    a->k = a->v = llmi_cache_at(run, llmi_mla_cache(run, layer));
    a->k_stride = a->v_stride = width;
    a->k_sequence = a->v_sequence = run->cache_len * width;
    a->scale = llmi_mla_scale(c);
    a->out = run->ds.latent_out;
    llmi_parallel(run->context, llmi_attention_few(run->context, a, longest), llmi_absorbed_task,
                  &job);
}

/* q, the latent c, cn and kr of the block's input; q and kr turned */
static void llmi_mla_project(const llmi_run *run, const float *h, llmi_mla_rows *job, int layer) {
    const llm_config *c = &run->model->config;
    const llmi_ds_layer *w = &run->model->layers[layer];
    const llmi_mla_saved *s = job->s;
    const size_t n = llmi_run_rows(run), R = (size_t)c->kv_lora_rank;
    const size_t rope = (size_t)c->qk_rope_head_dim,
                 q_width = (size_t)c->n_heads * llmi_qk_width(c);
    const llmi_matrix kv_a = llmi_dense(run, w->kv_a);
    const float *kv_bias = llmi_optional(run, w->kv_a_bias);
    llmi_gemm products[3];
    products[0] = w->q_a >= 0
                      ? llmi_product(s->qa, (size_t)c->q_lora_rank, h, llmi_dense(run, w->q_a),
                                     llmi_optional(run, w->q_a_bias), n, 0)
                      : llmi_product(s->q, q_width, h, llmi_dense(run, w->q), NULL, n, 0);
    products[1] = llmi_product_again(s->c, R, h, llmi_matrix_rows(kv_a, 0, R), kv_bias, n);
    products[2] = llmi_product_again(s->kr, rope, h, llmi_matrix_rows(kv_a, R, rope),
                                     kv_bias ? kv_bias + R : NULL, n);
    llmi_gemm_again(run->context, products, 3);
    if (w->q_a >= 0) {
        llmi_run_rmsnorm(run, run->ds.qn, s->q_rstd, s->qa, w->q_norm, n, c->q_lora_rank,
                         LLMI_LATENT_EPS);
        llmi_dense_forward(run, s->q, run->ds.qn, llmi_dense(run, w->q), -1, n);
    }
    llmi_run_rmsnorm(run, run->ds.cn, s->c_rstd, s->c, w->kv_norm, n, c->kv_lora_rank,
                     LLMI_LATENT_EPS);
    job->q = s->q;
    job->kr = s->kr;
    job->sign = 1.0f;
    llmi_each(run->context, n, llmi_mla_turn_body, job);
}

/* attention over the cache of one sequence, whose keys and values are expanded span by span */
static void llmi_mla_cached(const llmi_run *run, llmi_mla_rows *job, int layer, size_t longest) {
    const llm_config *c = &run->model->config;
    const size_t R = (size_t)c->kv_lora_rank, width = R + (size_t)c->qk_rope_head_dim;
    const size_t cache = llmi_mla_cache(run, layer) +
                         (size_t)run->slot[0] * run->cache_len * width;
    const llmi_matrix kv_b = llmi_dense(run, run->model->layers[layer].kv_b);
    llmi_attention a;
    llmi_mla_attention(run, &a, job->s, run->ds.k, run->ds.kv);
    a.position = run->position;
    a.k_sequence = a.v_sequence = 0;
    a.state = run->attention_state;
    a.out = job->s->att;
    job->k = run->ds.k;
    job->kv = run->ds.kv;
    job->kr_stride = width;
    for (a.first = 0; a.first < longest; a.first += a.keys) {
        const float *latents = llmi_cache_at(run, cache + a.first * width);
        llmi_gemm expand;
        a.keys = llmi_attention_span(a.first, longest);
        if (run->cache_type != LLM_F32) {
            run->context->kernels->decode(run->cache_type, run->ds.latents, latents,
                                          a.keys * width);
            latents = run->ds.latents;
        }
        expand = llmi_product(run->ds.kv, kv_b.n_out, latents, kv_b, NULL, a.keys, 0);
        expand.a_row = width;
        llmi_gemm_run(run->context, &expand);
        job->keys_kr = latents + R;
        llmi_each(run->context, a.keys, llmi_mla_keys_body, job);
        llmi_attention_keys(run->context, &a);
    }
}

/* attention of the batch's own rows */
static void llmi_mla_expanded(const llmi_run *run, llmi_mla_rows *job, int layer, size_t longest) {
    const llmi_mla_saved *s = job->s;
    const size_t n = llmi_run_rows(run);
    llmi_attention a;
    llmi_dense_forward(run, s->kv, run->ds.cn, llmi_dense(run, run->model->layers[layer].kv_b), -1,
                       n);
    job->k = run->ds.k;
    job->kv = s->kv;
    job->keys_kr = s->kr;
    job->kr_stride = (size_t)run->model->config.qk_rope_head_dim;
    llmi_each(run->context, n, llmi_mla_keys_body, job);
    llmi_mla_attention(run, &a, s, run->ds.k, s->kv);
    a.seed = llmi_dropout_seed(run, layer, 1);
    a.out = s->att;
    a.lse = s->lse;
    llmi_attention_run(run->context, &a, longest, 0);
}

/* h (N,C): the block's input after its norm; y (N,C) */
static void llmi_mla_forward(const llmi_run *run, float *y, const float *h, const llmi_mla_saved *s,
                             int layer, size_t longest) {
    const llmi_ds_layer *w = &run->model->layers[layer];
    llmi_mla_rows job;
    memset(&job, 0, sizeof job);
    job.run = run;
    job.s = s;
    job.layer = layer;
    llmi_mla_project(run, h, &job, layer);
    if (run->cache) {
        job.latent = run->ds.cn;
        llmi_each(run->context, llmi_run_rows(run), llmi_mla_store_body, &job);
    }
    if (run->few) llmi_mla_absorbed(run, s, w, layer, longest);
    else if (run->cache) llmi_mla_cached(run, &job, layer, longest);
    else llmi_mla_expanded(run, &job, layer, longest);
    llmi_dense_forward(run, y, s->att, llmi_dense(run, w->o), w->o_bias, llmi_run_rows(run));
}

/* dy (N,C); h as in the forward; dh (N,C) is overwritten */
static void llmi_mla_backward(const llmi_run *run, float *dh, const float *dy, const float *h,
                              const llmi_mla_saved *s, int layer) {
    const llm_config *c = &run->model->config;
    const llmi_ds_layer *w = &run->model->layers[layer];
    const llmi_ds_work *work = &run->ds;
    llm_context *context = run->context;
    const size_t n = llmi_run_rows(run), R = (size_t)c->kv_lora_rank,
                 rope = (size_t)c->qk_rope_head_dim;
    const llmi_matrix kv_a = llmi_dense(run, w->kv_a);
    llmi_mla_rows job;
    llmi_attention a;
    llmi_dense_backward(run, work->datt, 0, dy, s->att, llmi_dense(run, w->o), w->o_bias, n);
    memset(&job, 0, sizeof job);
    job.run = run;
    job.s = s;
    job.k = work->k;
    job.kv = s->kv;
    job.keys_kr = s->kr;
    job.kr_stride = rope;
    llmi_each(context, n, llmi_mla_keys_body, &job);
    llmi_mla_attention(run, &a, s, work->k, s->kv);
    a.seed = llmi_dropout_seed(run, layer, 1);
    a.saved_out = s->att;
    a.saved_lse = s->lse;
    a.dout = work->datt;
    a.dq = work->dq;
    a.dk = work->dk;
    a.dv = work->dkv + c->qk_nope_head_dim;
    llmi_attention_backward_run(context, &a);
    job.dk = work->dk;
    job.dkv = work->dkv;
    job.kr = work->dkr;
    job.q = work->dq;
    job.sign = -1.0f;
    llmi_each(context, n, llmi_mla_keys_backward_body, &job);
    llmi_each(context, n, llmi_mla_turn_body, &job);

    llmi_run_rmsnorm(run, work->cn, NULL, s->c, w->kv_norm, n, c->kv_lora_rank, LLMI_LATENT_EPS);
    llmi_dense_backward(run, work->dcn, 0, work->dkv, work->cn, llmi_dense(run, w->kv_b), -1, n);
    memset(work->dc, 0, n * R * sizeof(float));
    llm_rmsnorm_backward(context, work->dc, llmi_gradient(run, w->kv_norm), work->dcn, s->c_rstd,
                         s->c, llmi_weight(run, w->kv_norm), (int)n, c->kv_lora_rank);
    llmi_dense_backward(run, dh, 0, work->dc, h, llmi_matrix_rows(kv_a, 0, R),
                        w->kv_a_bias, n);
    llmi_dense_backward(run, dh, 1, work->dkr, h, llmi_matrix_rows(kv_a, R, rope),
                        w->kv_a_bias, n);

    if (w->q_a < 0) {
        llmi_dense_backward(run, dh, 1, work->dq, h, llmi_dense(run, w->q), -1, n);
        return;
    }
    llmi_run_rmsnorm(run, work->qn, NULL, s->qa, w->q_norm, n, c->q_lora_rank, LLMI_LATENT_EPS);
    llmi_dense_backward(run, work->dqn, 0, work->dq, work->qn, llmi_dense(run, w->q), -1, n);
    memset(work->dqa, 0, n * (size_t)c->q_lora_rank * sizeof(float));
    llm_rmsnorm_backward(context, work->dqa, llmi_gradient(run, w->q_norm), work->dqn, s->q_rstd,
                         s->qa, llmi_weight(run, w->q_norm), (int)n, c->q_lora_rank);
    llmi_dense_backward(run, dh, 1, work->dqa, h, llmi_dense(run, w->q_a), w->q_a_bias, n);
}

/* ============================================================================================
 * >>moe          DeepSeekMoE, DeepSeek-V3 report eq. 12-20
 *
 *   s = sigmoid(Wg h); chosen: the K largest s + bias within the topk_group best of n_group groups,
 *   a group's score being the sum of its two best; weight = s [/ sum of the chosen s] factor
 *   out = FFN_shared(h) + sum over chosen e of weight_e FFN_e(h)
 *   FFN(h) = Wdown (silu(Wgate h) Wup h)
 * Tokens are sorted by expert; each expert is one product per matrix, so cost follows the active
 * ones. The weight is multiplied in before Wdown, which is linear.
 * Backward runs through the weights into Wg, and not through the choice; bias has no gradient.
 * ========================================================================================== */
typedef struct llmi_moe_saved {
    float *scores;                     /* (N,E) */
    int32_t *choice, *place;           /* (N,K): expert; row among the sorted */
    float *weight;                     /* (N,K) */
    int32_t *token;                    /* (N K): sorted row's token K + choice */
    int32_t *start;                    /* (E + 1): first sorted row of each expert */
    float *gate, *up;                  /* (N K,Fm) */
    float *shared_gate, *shared_up;    /* (N,Fs) */
} llmi_moe_saved;

static void llmi_moe_carve_saved(llmi_moe_saved *s, llmi_arena *exact, llmi_arena *wide,
                                 const llm_config *c, size_t n) {
    const size_t E = (size_t)c->n_routed_experts, K = (size_t)c->num_experts_per_tok,
                 F = (size_t)c->moe_d_ffn;
    const size_t rows = llmi_mul(n, K), shared = F * (size_t)c->n_shared_experts;
    s->scores = llmi_carve_floats(exact, llmi_mul(n, E));
    s->choice = (int32_t *)llmi_carve(exact, rows, sizeof(int32_t));
    s->place = (int32_t *)llmi_carve(exact, rows, sizeof(int32_t));
    s->weight = llmi_carve_floats(exact, rows);
    s->token = (int32_t *)llmi_carve(exact, rows, sizeof(int32_t));
    s->start = (int32_t *)llmi_carve(exact, E + 1, sizeof(int32_t));
    s->gate = llmi_carve_floats(wide, llmi_mul(rows, F));
    s->up = llmi_carve_floats(wide, llmi_mul(rows, F));
    s->shared_gate = llmi_carve_floats(wide, llmi_mul(n, shared));
    s->shared_up = llmi_carve_floats(wide, llmi_mul(n, shared));
}

typedef struct llmi_moe_rows {
    const llmi_run *run;
    const llmi_moe_saved *s;
    const float *bias, *from;
    float *to, *other;
} llmi_moe_rows;

/* scores hold logits; becomes sigmoid, choice and weights of a row. Ties go to the lower expert. */
static void llmi_route_task(void *argument, size_t row, int thread) {
    const llmi_moe_rows *job = (const llmi_moe_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const int E = c->n_routed_experts, K = c->num_experts_per_tok, size = E / c->n_group;
    float *s = job->s->scores + row * (size_t)E, *weight = job->s->weight + row * (size_t)K,
          sum = 1e-20f;
    int32_t *choice = job->s->choice + row * (size_t)K;
    unsigned char *open = job->run->ds.open +
                          (size_t)thread * (size_t)E; /* experts that may still be chosen */
    int e, g, i, k;
    for (e = 0; e < E; e++) {
        s[e] = 1.0f / (1.0f + expf(-s[e]));
        open[e] = c->topk_group >= c->n_group;
    }
    for (i = 0; i < c->topk_group && c->topk_group < c->n_group; i++) {
        float best = -INFINITY;
        int best_group = -1;
        for (g = 0; g < c->n_group; g++) {
            float first = -INFINITY, second = -INFINITY;
            if (open[g * size]) continue;
            for (e = g * size; e < (g + 1) * size; e++) {
                const float x = s[e] + job->bias[e];
                if (x > first) { second = first; first = x; }
                else if (x > second) second = x;
            }
            if (best_group < 0 || first + second > best) {
                best = first + second;
                best_group = g;
            }
        }
        memset(open + best_group * size, 1, (size_t)size);
    }
    for (k = 0; k < K; k++) {
        int best = -1;
        for (e = 0; e < E; e++)
            if (open[e] && (best < 0 || s[e] + job->bias[e] > s[best] + job->bias[best])) best = e;
        open[best] = 0;
        choice[k] = best;
        weight[k] = s[best];
        sum += s[best];
    }
    for (k = 0; k < K; k++)
        weight[k] = (c->norm_topk_prob ? weight[k] / sum : weight[k]) * c->routed_scaling_factor;
}

static void llmi_moe_sort(const llmi_run *run, const llmi_moe_saved *s) {
    const size_t K = (size_t)run->model->config.num_experts_per_tok, rows = llmi_run_rows(run) * K;
    const int E = run->model->config.n_routed_experts;
    int32_t *next = run->ds.next;      /* (E) */
    size_t i;
    int e;
    memset(s->start, 0, (size_t)(E + 1) * sizeof *s->start);
    for (i = 0; i < rows; i++) s->start[s->choice[i] + 1]++;
    for (e = 0; e < E; e++) {
        s->start[e + 1] += s->start[e];
        next[e] = s->start[e];
    }
    for (i = 0; i < rows; i++) {
        s->place[i] = next[s->choice[i]]++;
        s->token[s->place[i]] = (int32_t)i;
    }
}

/* to (N K,C): rows of from (N,C) in the sorted order */
static void llmi_moe_gather_body(void *argument, size_t row) {
    const llmi_moe_rows *job = (const llmi_moe_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const size_t C = (size_t)c->d_model, t = (size_t)(job->s->token[row] / c->num_experts_per_tok);
    memcpy(job->to + row * C, job->from + t * C, C * sizeof(float));
}
/* to (N,C) += the sorted rows of each token, in the order of its choices */
static void llmi_moe_scatter_body(void *argument, size_t t) {
    const llmi_moe_rows *job = (const llmi_moe_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const size_t C = (size_t)c->d_model, K = (size_t)c->num_experts_per_tok;
    size_t k;
    for (k = 0; k < K; k++)
        job->run->context->kernels->axpy(job->to + t * C, 1.0f,
                                         job->from + (size_t)job->s->place[t * K + k] * C, C);
}
/* to (N K,Fm): swiglu of the sorted rows, times their weights */
static void llmi_moe_act_body(void *argument, size_t row) {
    const llmi_moe_rows *job = (const llmi_moe_rows *)argument;
    const llmi_kernels *kernels = job->run->context->kernels;
    const size_t F = (size_t)job->run->model->config.moe_d_ffn;
    kernels->swiglu(job->to + row * F, job->s->gate + row * F, job->s->up + row * F, F);
    kernels->affine(job->to + row * F, job->to + row * F, job->s->weight[job->s->token[row]], 0.0f,
                    F);
}
/* other (N K,Fm): the gradient of y = Wdown act without the weight; becomes dgate, and to dup; the
 * weight's gradient goes to dweight (N,K) */
static void llmi_moe_act_backward_body(void *argument, size_t row) {
    const llmi_moe_rows *job = (const llmi_moe_rows *)argument;
    const llmi_kernels *kernels = job->run->context->kernels;
    const size_t F = (size_t)job->run->model->config.moe_d_ffn, from = (size_t)job->s->token[row];
    const float *gate = job->s->gate + row * F, *up = job->s->up + row * F;
    float *act = job->to + row * F, *d = job->other + row * F;
    kernels->swiglu(act, gate, up, F);
    job->run->ds.dweight[from] = kernels->dot(act, d, F);
    kernels->affine(d, d, job->s->weight[from], 0.0f, F);
    kernels->swiglu_backward(d, act, d, gate, up, F, 0);
}

/* dlogits (N,E) from dweight, through the sigmoid; with the balance loss (eq. 17-20) */
static void llmi_route_backward_body(void *argument, size_t row) {
    const llmi_moe_rows *job = (const llmi_moe_rows *)argument;
    const llm_config *c = &job->run->model->config;
    const int E = c->n_routed_experts, K = c->num_experts_per_tok;
    const float *s = job->s->scores + row * (size_t)E, *dw = job->run->ds.dweight + row * (size_t)K;
    const int32_t *choice = job->s->choice + row * (size_t)K;
    float *d = job->to + row * (size_t)E, sum = 1e-20f, dot = 0.0f;
    int e, k;
    memset(d, 0, (size_t)E * sizeof *d);
    for (k = 0; k < K; k++) {
        sum += s[choice[k]];
        dot += dw[k] * s[choice[k]];
    }
    for (k = 0; k < K; k++)
        d[choice[k]] = c->routed_scaling_factor *
                       (c->norm_topk_prob ? (dw[k] - dot / sum) / sum : dw[k]);
    if (job->run->balance_scale != 0.0f) {
        const float *f = job->run->ds.frequency + row / job->run->rows * (size_t)E;
        float total = 1e-20f, mean = 0.0f;       /* as in the routing: all may be 0 */
        for (e = 0; e < E; e++) {
            total += s[e];
            mean += f[e] * s[e];
        }
        for (e = 0; e < E; e++)
            d[e] += job->run->balance_scale / (float)job->run->rows * (f[e] - mean / total) / total;
    }
    for (e = 0; e < E; e++) d[e] *= s[e] * (1.0f - s[e]);
}

/* frequency (B,E): f_i of each sequence, E/(K T) times the tokens whose K largest unbiased scores
 * hold i; -> the sum over the sequences of sum_i f_i P_i */
static double llmi_balance(const llmi_run *run, const llmi_moe_saved *s) {
    const llm_config *c = &run->model->config;
    const int E = c->n_routed_experts, K = c->num_experts_per_tok;
    const size_t T = run->rows;
    double loss = 0.0;
    size_t b, t;
    int e, k, j;
    for (b = 0; b < run->n_sequences; b++) {
        float *f = run->ds.frequency + b * (size_t)E;
        memset(f, 0, (size_t)E * sizeof *f);
        for (t = b * T; t < (b + 1) * T; t++) {
            const float *x = s->scores + t * (size_t)E;
            unsigned char *taken = run->ds.open;
            memset(taken, 0, (size_t)E);
            for (k = 0; k < K; k++) {
                int best = -1;
                for (e = 0; e < E; e++)
                    if (!taken[e] && (best < 0 || x[e] > x[best])) best = e;
                taken[best] = 1;
                f[best] += (float)E / ((float)K * (float)T);
            }
        }
        for (t = b * T; t < (b + 1) * T; t++) {
            const float *x = s->scores + t * (size_t)E;
            double total = 1e-20, weighted = 0.0;
            for (j = 0; j < E; j++) {
                total += (double)x[j];
                weighted += (double)f[j] * (double)x[j];
            }
            loss += weighted / total / (double)T;
        }
    }
    return loss;
}

/* the products gate (rows,F) = x Wgate^T and up = x Wup^T; -> the entry after them */
static llmi_gemm *llmi_ffn_products(const llmi_run *run, llmi_gemm *products, float *gate,
                                    float *up, const float *x, int weights, size_t rows) {
    const llmi_matrix w = llmi_dense(run, weights);
    *products++ = llmi_product(gate, w.n_out, x, w, NULL, rows, 0);
    *products++ = llmi_product_again(up, w.n_out, x, llmi_dense(run, weights + 1), NULL, rows);
    return products;
}
/* y (rows,C) = Wdown swiglu(Wgate x, Wup x); gate, up (rows,F): saved, act (rows,F): scratch */
static void llmi_ffn_forward(const llmi_run *run, float *y, const float *x, float *gate, float *up,
                             float *act, int weights, size_t rows) {
    const llmi_matrix down = llmi_dense(run, weights + 2);
    const size_t F = down.n_in;
    llmi_gemm products[2];
    llmi_ffn_products(run, products, gate, up, x, weights, rows);
    llmi_gemm_again(run->context, products, 2);
    llm_swiglu_forward(run->context, act, gate, up, rows * F);
    llmi_matmul(run->context, y, down.n_out, act, down, NULL, rows, 0);
}
/* dx = [dx +] ...; act, dact: scratch (rows,F) */
static void llmi_ffn_backward(const llmi_run *run, float *dx, int accumulate, const float *dy,
                              const float *x, const float *gate, const float *up, float *act,
                              float *dact, int weights, size_t rows) {
    const llmi_matrix down = llmi_dense(run, weights + 2);
    const size_t F = down.n_in;
    llm_swiglu_forward(run->context, act, gate, up, rows * F);
    llmi_dense_backward(run, dact, 0, dy, act, down, -1, rows);
    llmi_swiglu_backward(run->context, dact, act, dact, gate, up, rows * F, 0);
    llmi_dense_backward(run, dx, accumulate, dact, x, llmi_dense(run, weights), -1, rows);
    llmi_dense_backward(run, dx, 1, act, x, llmi_dense(run, weights + 1), -1, rows);
}

/* what each expert multiplies: its rows of the sorted ones */
static size_t llmi_expert(const llmi_moe_saved *s, size_t e, size_t *first) {    /* -> how many */
    *first = (size_t)s->start[e];
    return (size_t)s->start[e + 1] - *first;
}

/* y (N,C) from h (N,C) */
static void llmi_moe_forward(const llmi_run *run, float *y, const float *h, const llmi_moe_saved *s,
                             int layer) {
    const llm_config *c = &run->model->config;
    const llmi_ds_layer *w = &run->model->layers[layer];
    const llmi_ds_work *work = &run->ds;
    const size_t n = llmi_run_rows(run), C = (size_t)c->d_model, F = (size_t)c->moe_d_ffn;
    const size_t E = (size_t)c->n_routed_experts, rows = n * (size_t)c->num_experts_per_tok;
    const int shared = w->shared >= 0;
    llmi_gemm *products = work->products;
    llmi_moe_rows job;
    size_t e, first;
    memset(&job, 0, sizeof job);
    job.run = run;
    job.s = s;
    job.bias = llmi_weight(run, w->router_bias);
    llmi_matmul(run->context, s->scores, E, h, llmi_router(run, w->router), NULL, n, 0);
    llmi_parallel(run->context, n, llmi_route_task, &job);
    llmi_moe_sort(run, s);
    if (run->loads)
        for (e = 0; e < E; e++)
            run->loads[(size_t)(layer - c->first_k_dense) * E + e] += (float)(s->start[e + 1] -
                                                                              s->start[e]);
    if (run->balance) *run->balance += llmi_balance(run, s);
    job.to = work->sorted;
    job.from = h;
    llmi_each(run->context, rows, llmi_moe_gather_body, &job);
    if (shared)
        products = llmi_ffn_products(run, products, s->shared_gate, s->shared_up, h, w->shared, n);
    for (e = 0; e < E; e++) {
        const size_t count = llmi_expert(s, e, &first);
        products = llmi_ffn_products(run, products, s->gate + first * F, s->up + first * F,
                                     work->sorted + first * C, w->experts + 3 * (int)e, count);
    }
    llmi_gemm_batch(run->context, work->products, (size_t)(products - work->products));
    job.to = work->act;
    llmi_each(run->context, rows, llmi_moe_act_body, &job);
    products = work->products;
    if (shared) {
        const llmi_matrix down = llmi_dense(run, w->shared + 2);
        llm_swiglu_forward(run->context, work->shared_act, s->shared_gate, s->shared_up,
                           n * down.n_in);
        *products++ = llmi_product(y, C, work->shared_act, down, NULL, n, 0);
    } else memset(y, 0, n * C * sizeof(float));
    for (e = 0; e < E; e++) {
        const size_t count = llmi_expert(s, e, &first);
        *products++ = llmi_product(work->sorted + first * C, C, work->act + first * F,
                                   llmi_dense(run, w->experts + 3 * (int)e + 2), NULL, count, 0);
    }
    llmi_gemm_batch(run->context, work->products, (size_t)(products - work->products));
    job.to = y;
    job.from = work->sorted;
    llmi_each(run->context, n, llmi_moe_scatter_body, &job);
}

/* Of an expert's rows x (rows,C), dgate (rows,F), dup (rows,F): the gradients of its gate and up.
 * Then x, which is read no more, becomes dx = dgate Wgate + dup Wup. */
static void llmi_experts_backward(const llmi_run *run, const llmi_moe_saved *s, int experts,
                                  float *x, const float *dgate, const float *dup) {
    const size_t C = (size_t)run->model->config.d_model, F = (size_t)run->model->config.moe_d_ffn;
    const size_t E = (size_t)run->model->config.n_routed_experts;
    llmi_gemm *products = run->ds.products;
    size_t e, first;
    int part;
    for (e = 0; e < E; e++) {
        const size_t count = llmi_expert(s, e, &first);
        for (part = 0; part < 2; part++)
            products[2 * e + (size_t)part] = llmi_dense_dw(
                run, (part ? dup : dgate) + first * F, x + first * C,
                llmi_dense(run, experts + 3 * (int)e + part), count);
    }
    llmi_gemm_batch(run->context, products, 2 * E);
    for (part = 0; part < 2; part++) {
        for (e = 0; e < E; e++) {
            const size_t count = llmi_expert(s, e, &first);
            products[e] = llmi_product_dx(x + first * C, (part ? dup : dgate) + first * F, F,
                                          llmi_dense(run, experts + 3 * (int)e + part), count,
                                          part);
        }
        llmi_gemm_batch(run->context, products, E);
    }
}

/* dh (N,C) is overwritten */
static void llmi_moe_backward(const llmi_run *run, float *dh, const float *dy, const float *h,
                              const llmi_moe_saved *s, int layer) {
    const llm_config *c = &run->model->config;
    const llmi_ds_layer *w = &run->model->layers[layer];
    const llmi_ds_work *work = &run->ds;
    const size_t n = llmi_run_rows(run), C = (size_t)c->d_model, F = (size_t)c->moe_d_ffn;
    const size_t E = (size_t)c->n_routed_experts, rows = n * (size_t)c->num_experts_per_tok;
    llmi_moe_rows job;
    size_t e, first;
    if (w->shared >= 0)
        llmi_ffn_backward(run, dh, 0, dy, h, s->shared_gate, s->shared_up, work->shared_act,
                          work->shared_dact, w->shared, n);
    else memset(dh, 0, n * C * sizeof(float));
    memset(&job, 0, sizeof job);
    job.run = run;
    job.s = s;
    job.to = work->sorted;
    job.from = dy;
    llmi_each(run->context, rows, llmi_moe_gather_body, &job);
    job.to = work->act;
    llmi_each(run->context, rows, llmi_moe_act_body, &job);
    for (e = 0; e < E; e++) {
        const size_t count = llmi_expert(s, e, &first);
        const llmi_matrix down = llmi_dense(run, w->experts + 3 * (int)e + 2);
        work->products[2 * e] = llmi_product_dx(work->dact + first * F, work->sorted + first * C, C,
                                                down, count, 0);
        work->products[2 * e + 1] = llmi_dense_dw(run, work->sorted + first * C,
                                                  work->act + first * F, down, count);
    }
    llmi_gemm_batch(run->context, work->products, 2 * E);
    job.other = work->dact;
    llmi_each(run->context, rows, llmi_moe_act_backward_body, &job);
    job.to = work->sorted;
    job.from = h;
    llmi_each(run->context, rows, llmi_moe_gather_body, &job);
    llmi_experts_backward(run, s, w->experts, work->sorted, work->dact, work->act);
    job.to = dh;
    job.from = work->sorted;
    llmi_each(run->context, n, llmi_moe_scatter_body, &job);
    if (run->balance_scale != 0.0f) (void)llmi_balance(run, s);
    job.to = work->dlogits;
    llmi_each(run->context, n, llmi_route_backward_body, &job);
    llmi_dense_backward(run, dh, 1, work->dlogits, h, llmi_router(run, w->router), -1, n);
}

/* ============================================================================================
 * >>deepseek     the block: x += MLA(RMSNorm x); x += FFN or MoE(RMSNorm x)
 * ========================================================================================== */
typedef struct llmi_ds_saved {
    llmi_mla_saved mla;
    float *mid, *rstd2;                /* (N,C), (N) */
    float *gate, *up;                  /* (N,F) of a dense FFN */
    llmi_moe_saved moe;
} llmi_ds_saved;

static void llmi_ds_carve_saved(llmi_ds_saved *s, llmi_arena *exact, llmi_arena *wide,
                                const llm_config *c, size_t n) {
    llmi_arena dense;
    llmi_mla_carve_saved(&s->mla, exact, wide, c, n);
    s->rstd2 = llmi_carve_floats(exact, n);
    s->mid = llmi_carve_floats(wide, llmi_mul(n, (size_t)c->d_model));
    memset(&s->moe, 0, sizeof s->moe);
    dense = *wide;                     /* a block needs the one or the other: they share a place */
    if (c->n_routed_experts) llmi_moe_carve_saved(&s->moe, exact, wide, c, n);
    s->gate = llmi_carve_floats(&dense, llmi_mul(n, (size_t)c->d_ffn));
    s->up = llmi_carve_floats(&dense, llmi_mul(n, (size_t)c->d_ffn));
    wide->used = llmi_max(wide->used, dense.used);
}

static void llmi_ds_carve_block(llmi_arena *exact, llmi_arena *wide, const llm_config *c,
                                size_t n) {
    llmi_ds_saved s;
    llmi_ds_carve_saved(&s, exact, wide, c, n);
}

/* what lives within one block; cache_len 0: no cache */
static void llmi_ds_carve_work(llmi_run *run, llmi_arena *arena, const llm_config *c, size_t n,
                               size_t sequences, size_t cache_len, int n_threads, int backward) {
    llmi_ds_work *w = &run->ds;
    const size_t H = (size_t)c->n_heads, R = (size_t)c->kv_lora_rank,
                 rope = (size_t)c->qk_rope_head_dim;
    const size_t qk = H * llmi_qk_width(c), kv = H * llmi_kv_width(c),
                 keys = cache_len ? llmi_min(cache_len, LLMI_SPAN_MOST) : n;
    const size_t E = (size_t)c->n_routed_experts, K = (size_t)c->num_experts_per_tok,
                 C = (size_t)c->d_model;
    const size_t few = llmi_min(n, LLMI_FEW_ROWS),
                 shared = (size_t)c->moe_d_ffn * (size_t)c->n_shared_experts;
    const size_t routed = E ? llmi_mul(n, K * (size_t)c->moe_d_ffn) : 0,
                 dense = llmi_mul(n, (size_t)c->d_ffn);
    memset(w, 0, sizeof *w);
    run->h = llmi_carve_floats(arena, llmi_mul(n, C));
    run->dh = llmi_carve_floats(arena, llmi_mul(n, C));
    run->wide = backward ? llmi_carve_floats(arena, llmi_mul(n, C)) : NULL;
    run->angles = llmi_carve_floats(arena, llmi_mul(n, rope));
    w->cn = llmi_carve_floats(arena, llmi_mul(n, R));
    w->qn = llmi_carve_floats(arena, llmi_mul(n, (size_t)c->q_lora_rank));
    w->k = llmi_carve_floats(arena, llmi_mul(keys, qk));
    w->act = llmi_carve_floats(arena, llmi_max(routed, dense));
    if (cache_len) {
        w->kv = llmi_carve_floats(arena, llmi_mul(keys, kv));
        if (run->cache_type > LLM_F32)
            w->latents = llmi_carve_floats(arena, llmi_mul(keys, R + rope));
        run->attention_state = llmi_carve_floats(arena, llmi_mul(n, 2 * H));
        w->latent_q = llmi_carve_floats(arena, few * H * (R + rope));
        w->latent_out = llmi_carve_floats(arena, few * H * R);
    }
    if (backward) {
        w->dq = llmi_carve_floats(arena, llmi_mul(n, qk));
        w->dk = llmi_carve_floats(arena, llmi_mul(n, qk));
        w->dkv = llmi_carve_floats(arena, llmi_mul(n, kv));
        w->dkr = llmi_carve_floats(arena, llmi_mul(n, rope));
        w->dc = llmi_carve_floats(arena, llmi_mul(n, R));
        w->dcn = llmi_carve_floats(arena, llmi_mul(n, R));
        w->dqa = llmi_carve_floats(arena, llmi_mul(n, (size_t)c->q_lora_rank));
        w->dqn = llmi_carve_floats(arena, llmi_mul(n, (size_t)c->q_lora_rank));
        w->datt = llmi_carve_floats(arena, llmi_mul(n, H * (size_t)c->v_head_dim));
        w->dact = llmi_carve_floats(arena, llmi_max(routed, dense));
    }
    if (run->mtp) {
        run->mtp_cat = llmi_carve_floats(arena, llmi_mul(n, 2 * C));
        run->mtp_dcat = backward ? llmi_carve_floats(arena, llmi_mul(n, 2 * C)) : NULL;
        run->mtp_rstd = llmi_carve_floats(arena, llmi_mul(n, 2));
    }
    if (!E) return;
    w->sorted = llmi_carve_floats(arena, llmi_mul(n, K * C));
    w->shared_act = llmi_carve_floats(arena, llmi_mul(n, shared));
    w->next = (int32_t *)llmi_carve(arena, E, sizeof(int32_t));
    w->products = (llmi_gemm *)llmi_carve(arena, 2 + 2 * E, sizeof(llmi_gemm));
    w->open = (unsigned char *)llmi_carve(arena, E, (size_t)n_threads);
    w->frequency = llmi_carve_floats(arena, llmi_mul(sequences, E));
    if (backward) {
        w->shared_dact = llmi_carve_floats(arena, llmi_mul(n, shared));
        w->dweight = llmi_carve_floats(arena, llmi_mul(n, K));
        w->dlogits = llmi_carve_floats(arena, llmi_mul(n, E));
    }
}

static void llmi_ds_saved_at(const llmi_run *run, llmi_ds_saved *s, int layer) {
    llmi_arena exact = llmi_saved_exact(run, layer), wide = llmi_saved_wide(run, layer);
    llmi_ds_carve_saved(s, &exact, &wide, &run->model->config, llmi_run_rows(run));
}

static void llmi_ds_block_forward(const llmi_run *run, int layer, size_t longest) {
    const llm_config *c = &run->model->config;
    const llmi_ds_layer *w = &run->model->layers[layer];
    const size_t n = llmi_run_rows(run), C = (size_t)c->d_model;
    const float *x = llmi_block_in(run, layer);
    llmi_ds_saved s;
    llmi_ds_saved_at(run, &s, layer);
    llmi_run_rmsnorm(run, run->h, s.mla.rstd1, x, w->norm1, n, c->d_model, c->norm_eps);
    llmi_mla_forward(run, run->dh, run->h, &s.mla, layer, longest);
    llmi_residual(run->context, s.mid, x, run->dh, n * C, run->resid_pdrop,
                  llmi_dropout_seed(run, layer, 2));
    llmi_run_rmsnorm(run, run->h, s.rstd2, s.mid, w->norm2, n, c->d_model, c->norm_eps);
    if (w->router >= 0) llmi_moe_forward(run, run->dh, run->h, &s.moe, layer);
    else llmi_ffn_forward(run, run->dh, run->h, s.gate, s.up, run->ds.act, w->ffn, n);
    llmi_residual(run->context, llmi_block_out(run, layer), s.mid, run->dh, n * C, run->resid_pdrop,
                  llmi_dropout_seed(run, layer, 3));
}

static void llmi_ds_block_backward(const llmi_run *run, float *dx, int layer) {
    const llm_config *c = &run->model->config;
    const llmi_ds_layer *w = &run->model->layers[layer];
    const size_t n = llmi_run_rows(run), C = (size_t)c->d_model;
    const float *x = llmi_block_in(run, layer), *dy;
    llmi_ds_saved s;
    llmi_ds_saved_at(run, &s, layer);
    llmi_run_rmsnorm(run, run->h, NULL, s.mid, w->norm2, n, c->d_model, c->norm_eps);
    dy = llmi_branch(run, run->wide, dx, n * C, layer, 2);
    if (w->router >= 0) llmi_moe_backward(run, run->dh, dy, run->h, &s.moe, layer);
    else
        llmi_ffn_backward(run, run->dh, 0, dy, run->h, s.gate, s.up, run->ds.act, run->ds.dact,
                          w->ffn, n);
    llm_rmsnorm_backward(run->context, dx, llmi_gradient(run, w->norm2), run->dh, s.rstd2, s.mid,
                         llmi_weight(run, w->norm2), (int)n, c->d_model);
    llmi_run_rmsnorm(run, run->h, NULL, x, w->norm1, n, c->d_model, c->norm_eps);
    dy = llmi_branch(run, run->wide, dx, n * C, layer, 1);
    llmi_mla_backward(run, run->dh, dy, run->h, &s.mla, layer);
    llm_rmsnorm_backward(run->context, dx, llmi_gradient(run, w->norm1), run->dh, s.mla.rstd1, x,
                         llmi_weight(run, w->norm1), (int)n, c->d_model);
}

/* ============================================================================================
 * >>arch         one row per architecture; a new one is a row here, and its section
 * ========================================================================================== */
#ifdef LLM_NO_STDIO
  #define LLMI_WRITE(function) NULL
#else
  #define LLMI_WRITE(function) function
#endif
static const llmi_arch *llmi_arch_at(size_t i) {
    static const llmi_arch archs[] = {
        {LLM_ARCH_GPT2, "gpt2", "GPT2LMHeadModel", 0,
         llmi_gpt2_fields, LLMI_COUNT(llmi_gpt2_fields),
         llmi_gpt2_fixed, LLMI_COUNT(llmi_gpt2_fixed),
         llmi_gpt2_resolve, llmi_gpt2_validate, llmi_gpt2_read, LLMI_WRITE(llmi_gpt2_write),
         llmi_gpt2_table, 1, 1, llmi_gpt2_cache_width, llmi_gpt2_cache_unit, llmi_gpt2_head_dims,
         llmi_gpt2_carve_block, llmi_gpt2_carve_work,
         llmi_gpt2_block_forward, llmi_gpt2_block_backward},
        {LLM_ARCH_DEEPSEEK_V3, "deepseek_v3", "DeepseekV3ForCausalLM", 1,
         llmi_ds_fields, LLMI_COUNT(llmi_ds_fields),
         llmi_ds_fixed, LLMI_COUNT(llmi_ds_fixed),
         llmi_ds_resolve, llmi_ds_validate, llmi_ds_read, LLMI_WRITE(llmi_ds_write),
         llmi_ds_table, 0, 0, llmi_ds_cache_width, llmi_ds_cache_unit, llmi_ds_head_dims,
         llmi_ds_carve_block, llmi_ds_carve_work,
         llmi_ds_block_forward, llmi_ds_block_backward}};
    return i < LLMI_COUNT(archs) ? &archs[i] : NULL;
}
static const llmi_arch *llmi_arch_of(llm_arch arch) {
    const llmi_arch *row;
    size_t i;
    for (i = 0; (row = llmi_arch_at(i)) != NULL && row->arch != arch; i++) {}
    return row;
}

/* ============================================================================================
 * >>trunk        one forward for training, scoring, prefill and decoding; one backward
 * ========================================================================================== */

/* what lives from forward to backward */
static void llmi_carve_activations(llmi_run *run, llmi_arena *arena, const llm_config *config,
                                   size_t n) {
    const size_t L = (size_t)config->n_layers, D = (size_t)run->mtp;
    const size_t blocks = run->saved.keep ? L + D : 1;
    llmi_arena exact = llmi_arena_at(NULL, 0), wide = exact;
    llmi_arch_of(config->arch)->carve_saved(&exact, &wide, config, n);
    run->saved.narrow = run->saved.keep && run->precision != LLM_PRECISION_FP32;
    run->saved.exact_size = exact.used;
    run->saved.wide_size = wide.used;
    run->saved.block_size = llmi_round_up(
        llmi_add(exact.used, run->saved.narrow ? wide.used / 2 : wide.used), LLMI_ALIGN);
    run->x_size = llmi_mul(n, (size_t)config->d_model);
    run->x = llmi_carve_floats(arena, llmi_mul(run->x_size, run->keep_x ? L + 1 + 2 * D : 2));
    run->saved.blocks = (char *)llmi_carve(arena, blocks, run->saved.block_size);
    run->saved.wide = run->saved.narrow ? (char *)llmi_carve(arena, 1, wide.used) : NULL;
    run->final_mean = llmi_carve_floats(arena, n);
    run->final_rstd = llmi_carve_floats(arena, n);
}

/* what lives within one block; cache_len 0: no cache */
static void llmi_carve_work(llmi_run *run, llmi_arena *arena, const llm_config *config, size_t n,
                            size_t sequences, size_t cache_len, int n_threads, int backward) {
    llmi_arch_of(config->arch)->carve_work(run, arena, config, n, sequences, cache_len, n_threads,
                                           backward);
}

/* bytes of the context's scratch that attention needs over n_keys keys, of a cache or not */
static size_t llmi_model_attention_scratch(const llm_context *context, llm_precision precision,
                                           const llm_config *c, size_t n_keys, int cached,
                                           int backward) {
    const size_t few = llmi_mul(llmi_attention_few_size(n_keys, llmi_cache_width(c)),
                                (size_t)context->n_threads);
    size_t qk, v, forward;
    llmi_arch_of(c->arch)->head_dims(c, &qk, &v);
    if (cached) n_keys = llmi_min(n_keys, LLMI_SPAN_MOST);
    forward = llmi_max(few, llmi_attention_reserve(context, precision, n_keys, qk, v, 0));
    if (!backward) return forward;
    return llmi_max(forward, llmi_attention_reserve(context, precision, n_keys, qk, v, 1));
}

static void llmi_block_forward(const llmi_run *run, int layer, size_t longest) {
    run->model->arch->forward(run, layer, longest);
    llmi_saved_convert(run, layer, 0);
}
/* without saved activations, the forward runs again */
static void llmi_block_backward(const llmi_run *run, float *dx, int layer) {
    if (run->saved.keep) llmi_saved_convert(run, layer, 1);
    else {
        llmi_run again = *run;         /* loads and balance are counted once */
        again.loads = NULL;
        again.balance = NULL;
        llmi_block_forward(&again, layer, run->rows);
    }
    run->model->arch->backward(run, dx, layer);
}

typedef struct llmi_embed {
    const llmi_run *run;
    const int32_t *tokens;
    const float *dx;
} llmi_embed;

static void llmi_embed_body(void *argument, size_t at, size_t n) {
    const llmi_embed *job = (const llmi_embed *)argument;
    const llmi_run *run = job->run;
    const size_t C = (size_t)run->model->config.d_model;
    size_t r;
    for (r = at; r < at + n; r++) {
        const float *embedding = llmi_token_row(run, job->tokens[r], run->x + r * C);
        if (run->model->arch->learned_positions)
            run->context->kernels->add(run->x + r * C, embedding,
                                       llmi_weight(run, LLMI_WPE) + llmi_row_position(run, r) * C,
                                       C);
        else memmove(run->x + r * C, embedding, C * sizeof(float));
    }
}

/* tokens (N), checked. Leaves the stream after the last block in llmi_run_x(run, L). */
static void llmi_trunk_forward(const llmi_run *run, const int32_t *tokens) {
    const size_t n = llmi_run_rows(run), longest = llmi_run_longest(run);
    llmi_embed job;
    int l;
    job.run = run;
    job.tokens = tokens;
    job.dx = NULL;
    llmi_for(run->context, n, LLMI_ROWS, llmi_embed_body, &job);
    if (run->embd_pdrop > 0.0f)
        llmi_dropout(run->context, run->x, run->x, n * (size_t)run->model->config.d_model,
                     run->embd_pdrop, llmi_dropout_seed(run, 0, 0), 0);
    if (!run->model->arch->learned_positions) llmi_run_angles(run);
    for (l = 0; l < run->model->config.n_layers; l++) llmi_block_forward(run, l, longest);
}

/* y (rows,C) = the final norm of some rows of the last stream; mean and rstd (rows) or NULL */
static void llmi_final_norm_forward(const llmi_run *run, float *y, float *mean, float *rstd,
                                    const float *x, size_t rows) {
    const llm_config *c = &run->model->config;
    const int w = llmi_final_norm(run->model);
    if (run->model->arch->layernorm)
        llm_layernorm_forward(run->context, y, mean, rstd, x, llmi_weight(run, w),
                              llmi_weight(run, w + 1), (int)rows, c->d_model, c->norm_eps);
    else
        llm_rmsnorm_forward(run->context, y, rstd, x, llmi_weight(run, w), (int)rows, c->d_model,
                            c->norm_eps);
}

static void llmi_wpe_body(void *argument, size_t index) {
    const llmi_embed *job = (const llmi_embed *)argument;
    const llmi_run *run = job->run;
    const size_t C = (size_t)run->model->config.d_model;
    size_t b;
    for (b = 0; b < run->n_sequences; b++)
        run->context->kernels->axpy(llmi_gradient(run, LLMI_WPE) + index * C, 1.0f,
                                    job->dx + (b * run->rows + index) * C, C);
}

static void llmi_clear_body(void *argument, size_t at, size_t n) {
    memset(((const llmi_op *)argument)->y + at, 0, n * sizeof(float));
}
static void llmi_clear(llm_context *context, float *y, size_t n) {
    llmi_op op = llmi_op_of(context, y, NULL);
    llmi_for(context, n, LLMI_PIECE, llmi_clear_body, &op);
}
/* before the first backward of an accumulation */
static void llmi_gradients_clear(const llmi_run *run) {
    const llmi_table *table = &run->model->table;
    size_t i;
    for (i = 0; i < table->n; i++)
        if (!table->rows[i].by_product)
            llmi_clear(run->context, llmi_gradient(run, (int)i), table->rows[i].count);
}

/* dy (N,C): gradient of the final norm's output; dx (N,C): room for the stream's gradient. The
 * head's own gradient is in run->gradients already. */
static void llmi_trunk_backward(const llmi_run *run, float *dx, const float *dy,
                                const int32_t *tokens) {
    const llm_model *model = run->model;
    const int w = llmi_final_norm(model), L = model->config.n_layers, C = model->config.d_model;
    const size_t n = llmi_run_rows(run);
    int l;
    memset(dx, 0, n * (size_t)C * sizeof(float));
    if (model->arch->layernorm)
        llm_layernorm_backward(run->context, dx, llmi_gradient(run, w), llmi_gradient(run, w + 1),
                               dy, run->final_mean, run->final_rstd, llmi_run_x(run, L),
                               llmi_weight(run, w), (int)n, C);
    else
        llm_rmsnorm_backward(run->context, dx, llmi_gradient(run, w), dy, run->final_rstd,
                             llmi_run_x(run, L), llmi_weight(run, w), (int)n, C);
    if (!model->arch->learned_positions) llmi_run_angles(run);
    for (l = L - 1; l >= 0; l--) llmi_block_backward(run, dx, l);
    if (run->embd_pdrop > 0.0f)
        llmi_dropout(run->context, dx, dx, n * (size_t)C, run->embd_pdrop,
                     llmi_dropout_seed(run, 0, 0), 0);
    llmi_embedding_backward(run->context, llmi_gradient(run, LLMI_WTE), dx, tokens, n, (size_t)C);
    if (model->arch->learned_positions) {
        llmi_embed job;
        job.run = run;
        job.tokens = NULL;
        job.dx = dx;
        llmi_each(run->context, run->rows, llmi_wpe_body, &job);
    }
}

/* ============================================================================================
 * >>mtp          multi-token prediction, DeepSeek-V3 report sec. 2.2, eq. 21-25
 *
 *   h^0 = the trunk's stream after the final norm; module k = 1 .. D, position t < T - k:
 *   x = Weh [RMSNorm(embedding of token t+k) | RMSNorm(h^{k-1}_t)];  h^k = RMSNorm(block(x))
 *   logits by the model's head; the target of position t is that of t + k in the trunk
 *   loss = main + lambda/D (loss_1 + .. + loss_D), each a mean over its own valid targets
 * The report prints the two halves of [ | ] in the other order; the released weights have them so.
 * Module k runs on B (T - k) rows; its layer is n_layers + k - 1.
 * ========================================================================================== */
typedef struct llmi_mtp_rows {
    const llmi_run *run;
    const llmi_ds_layer *w;
    const int32_t *tokens;             /* (N): of position t + k */
    const float *h;                    /* h^{k-1}: (B, h_rows, C), of which the first rows count */
    float *dh;                         /* as h */
    size_t h_rows;
} llmi_mtp_rows;

static size_t llmi_mtp_h_row(const llmi_mtp_rows *job, size_t row) {
    return row / job->run->rows * job->h_rows + row % job->run->rows;
}
/* mtp_cat (N,2C) and the rstd of its halves */
static void llmi_mtp_cat_body(void *argument, size_t row) {
    const llmi_mtp_rows *job = (const llmi_mtp_rows *)argument;
    const llmi_run *run = job->run;
    const llm_config *c = &run->model->config;
    const size_t C = (size_t)c->d_model;
    float *cat = run->mtp_cat + row * 2 * C, *rstd = run->mtp_rstd + row;
    run->context->kernels->norm(cat, NULL, rstd,
                                llmi_token_row(run, job->tokens[row], cat),
                                llmi_weight(run, job->w->enorm), NULL, C, c->norm_eps, 0);
    run->context->kernels->norm(cat + C, NULL, rstd + llmi_run_rows(run),
                                job->h + llmi_mtp_h_row(job, row) * C,
                                llmi_weight(run, job->w->hnorm), NULL, C, c->norm_eps, 0);
}
static void llmi_mtp_cat(llmi_mtp_rows *job, const llmi_run *run, int layer, const int32_t *tokens,
                         const float *h, size_t h_rows) {
    memset(job, 0, sizeof *job);
    job->run = run;
    job->w = &run->model->layers[layer];
    job->tokens = tokens;
    job->h = h;
    job->h_rows = h_rows;
    llmi_each(run->context, llmi_run_rows(run), llmi_mtp_cat_body, job);
}

/* out (N,C) = h^k */
static void llmi_mtp_forward(const llmi_run *run, int layer, float *out, const int32_t *tokens,
                             const float *h, size_t h_rows) {
    const llm_config *c = &run->model->config;
    const size_t n = llmi_run_rows(run);
    llmi_mtp_rows job;
    llmi_mtp_cat(&job, run, layer, tokens, h, h_rows);
    llmi_matmul(run->context, llmi_block_in(run, layer), (size_t)c->d_model, run->mtp_cat,
                llmi_dense(run, job.w->eh), NULL, n, 0);
    llmi_run_angles(run);
    llmi_block_forward(run, layer, llmi_run_longest(run));
    llmi_run_rmsnorm(run, out, NULL, llmi_block_out(run, layer), job.w->mtp_norm, n, c->d_model,
                     c->norm_eps);
}

/* copies one half of mtp_dcat to dh (N,C), and that half's input to h */
static void llmi_mtp_embedding_half_body(void *argument, size_t row) {
    const llmi_mtp_rows *job = (const llmi_mtp_rows *)argument;
    const llmi_run *run = job->run;
    const size_t C = (size_t)run->model->config.d_model;
    memcpy(run->dh + row * C, run->mtp_dcat + row * 2 * C, C * sizeof(float));
    memmove(run->h + row * C, llmi_token_row(run, job->tokens[row], run->h + row * C),
            C * sizeof(float));
}
static void llmi_mtp_stream_half_body(void *argument, size_t row) {
    const llmi_mtp_rows *job = (const llmi_mtp_rows *)argument;
    const llmi_run *run = job->run;
    const size_t C = (size_t)run->model->config.d_model;
    memcpy(run->dh + row * C, run->mtp_dcat + (row * 2 + 1) * C, C * sizeof(float));
    memcpy(run->h + row * C, job->h + llmi_mtp_h_row(job, row) * C, C * sizeof(float));
}
static void llmi_mtp_add_body(void *argument, size_t row) {
    const llmi_mtp_rows *job = (const llmi_mtp_rows *)argument;
    const size_t C = (size_t)job->run->model->config.d_model;
    job->run->context->kernels->axpy(job->dh + llmi_mtp_h_row(job, row) * C, 1.0f,
                                     job->run->wide + row * C, C);
}

/* dout (N,C): gradient of h^k; dh, as h, or NULL: that of h^{k-1}, added to; dx (N,C): room. The
 * head's own gradient is in run->gradients already. */
static void llmi_mtp_backward(const llmi_run *run, int layer, float *dh, float *dx,
                              const float *dout, const int32_t *tokens, const float *h,
                              size_t h_rows) {
    const llm_config *c = &run->model->config;
    const size_t n = llmi_run_rows(run), C = (size_t)c->d_model, bytes = n * C * sizeof(float);
    const llmi_ds_layer *w = &run->model->layers[layer];
    const float *out = llmi_block_out(run, layer);
    llmi_mtp_rows job;
    llmi_run_rmsnorm(run, run->h, run->mtp_rstd, out, w->mtp_norm, n, c->d_model, c->norm_eps);
    memset(dx, 0, bytes);
    llm_rmsnorm_backward(run->context, dx, llmi_gradient(run, w->mtp_norm), dout, run->mtp_rstd,
                         out, llmi_weight(run, w->mtp_norm), (int)n, c->d_model);
    llmi_run_angles(run);
    llmi_block_backward(run, dx, layer);
    llmi_mtp_cat(&job, run, layer, tokens, h, h_rows);
    job.dh = dh;
    llmi_dense_backward(run, run->mtp_dcat, 0, dx, run->mtp_cat, llmi_dense(run, w->eh), -1, n);
    llmi_each(run->context, n, llmi_mtp_embedding_half_body, &job);
    memset(run->wide, 0, bytes);
    llm_rmsnorm_backward(run->context, run->wide, llmi_gradient(run, w->enorm), run->dh,
                         run->mtp_rstd, run->h, llmi_weight(run, w->enorm), (int)n, c->d_model);
    llmi_embedding_backward(run->context, llmi_gradient(run, LLMI_WTE), run->wide, tokens, n, C);
    llmi_each(run->context, n, llmi_mtp_stream_half_body, &job);
    memset(run->wide, 0, bytes);
    llm_rmsnorm_backward(run->context, run->wide, llmi_gradient(run, w->hnorm), run->dh,
                         run->mtp_rstd + n, run->h, llmi_weight(run, w->hnorm), (int)n,
                         c->d_model);
    if (dh) llmi_each(run->context, n, llmi_mtp_add_body, &job);
}

/* ============================================================================================
 * >>parts        blocks and modules as ops: a model of one block around the caller's arrays
 * ========================================================================================== */
typedef struct llmi_part {
    llm_model model;
    llmi_ds_layer layer;
    llmi_run run;
    llmi_table table;
    size_t first, count;               /* tensors of the part in the table */
    float *d;                          /* (N,C): a gradient on its way */
    int32_t *tokens;                   /* (N): 0 .. N - 1, of the MTP module's embeddings */
    llmi_ds_saved saved;               /* of MLA or MoE alone */
    void *memory;
} llmi_part;

/* The part's configuration, whose other parts are as small as can be. The MTP module's embeddings
 * stand for the table of a vocabulary of rows tokens. */
static llm_result llmi_part_config(llm_config *c, llm_part part, const llm_config *config, int rows,
                                   int T, llm_error *err) {
    if (!config) return llmi_fail(err, LLM_ERR_ARGUMENT, "part: config is NULL");
    LLMI_TRY(llmi_check_int("part", (int)part, 0, (int)LLM_PART_MTP_MODULE, err));
    *c = *config;
    c->arch = part == LLM_PART_GPT2_BLOCK ? LLM_ARCH_GPT2 : LLM_ARCH_DEEPSEEK_V3;
    c->vocab_size = part == LLM_PART_MTP_MODULE ? rows : 1;
    c->max_seq_len = T > 1 ? T : 2;
    c->n_layers = c->tie_embeddings = 1;
    c->embd_pdrop = c->attn_pdrop = c->resid_pdrop = 0.0f;
    c->first_k_dense = 0;
    c->mtp_depth = part == LLM_PART_MTP_MODULE;
    if (part == LLM_PART_GPT2_BLOCK) {
        c->n_routed_experts = c->kv_lora_rank = c->q_lora_rank = 0;
        c->yarn_factor = 0.0f;
    }
    if (part == LLM_PART_MLA) c->n_routed_experts = 0;
    if (part == LLM_PART_MLA || part == LLM_PART_MOE) c->d_ffn = 1;
    if (part == LLM_PART_MOE) {
        LLMI_TRY(llmi_check_int("n_routed_experts", c->n_routed_experts, 1, 65536, err));
        c->n_heads = c->kv_lora_rank = c->qk_nope_head_dim = c->v_head_dim = 1;
        c->q_lora_rank = c->attention_bias = 0;
        c->qk_rope_head_dim = 2;
        c->yarn_factor = 0.0f;
    }
    LLMI_TRY(llmi_config_resolved(c, c, err));
    if (part == LLM_PART_MTP_MODULE) c->n_layers = 0;           /* layer 0 is the module */
    return LLM_OK;
}

/* where the part's tensors stand: those of layer 0, or of one half of it */
static void llmi_part_range(llmi_part *p, llm_part part) {
    const llmi_ds_layer *w = &p->layer;
    const size_t end = p->table.n - (part == LLM_PART_GPT2_BLOCK ? 2 : 1);    /* the final norm */
    p->first = part == LLM_PART_GPT2_BLOCK ? (size_t)LLMI_BLOCKS
               : part == LLM_PART_MLA      ? (size_t)w->norm1 + 1
               : part == LLM_PART_MOE      ? (size_t)w->norm2 + 1
                                      : 1;
    p->count = (part == LLM_PART_MLA ? (size_t)w->norm2 : end) - p->first;
}

LLM_API llm_tensor llm_part_tensor(llm_part part, const llm_config *config, size_t i, char *name) {
    llm_tensor tensor;
    llmi_part p;
    llm_config c;
    memset(&tensor, 0, sizeof tensor);
    memset(&p, 0, sizeof p);
    if (llmi_part_config(&c, part, config, 1, 1, NULL) != LLM_OK) return tensor;
    llmi_config_table(&p.table, &c, &p.layer);
    llmi_part_range(&p, part);
    if (i >= p.count) return tensor;
    p.table.rows = (llmi_tensor *)llmi_alloc(NULL, p.table.n * sizeof(llmi_tensor), "tensor table",
                                             NULL);
    if (!p.table.rows) return tensor;
    llmi_config_table(&p.table, &c, &p.layer);
    tensor = llmi_tensor_view(&p.table.rows[p.first + i],
                              llmi_values_f32(&p.table.rows[p.first + i], NULL));
    if (name) memcpy(name, tensor.name, sizeof p.table.rows->name);
    tensor.name = name;
    llmi_release(NULL, p.table.rows);
    return tensor;
}

static void llmi_part_carve_saved(llmi_part *p, llmi_arena *arena, llm_part part,
                                  const llm_config *c, size_t n) {
    p->run.keep_x = p->run.saved.keep = 1;
    p->run.mtp = c->mtp_depth;
    if (part == LLM_PART_MLA) llmi_mla_carve_saved(&p->saved.mla, arena, arena, c, n);
    else if (part == LLM_PART_MOE) llmi_moe_carve_saved(&p->saved.moe, arena, arena, c, n);
    else llmi_carve_activations(&p->run, arena, c, n);
}

LLM_API size_t llm_part_saved_bytes(llm_part part, const llm_config *config, int B, int T) {
    llmi_arena arena = llmi_arena_at(NULL, 0);
    llmi_part p;
    llm_config c;
    memset(&p, 0, sizeof p);
    if (B < 1 || T < 1 || B > INT_MAX / T ||
        llmi_part_config(&c, part, config, B * T, T, NULL) != LLM_OK)
        return 0;
    llmi_part_carve_saved(&p, &arena, part, &c, (size_t)B * (size_t)T);
    return arena.used;
}

static void llmi_part_plan(llmi_part *p, llmi_arena *arena, size_t B, size_t n, int n_threads,
                           int backward) {
    const llm_config *c = &p->model.config;
    p->table.rows = (llmi_tensor *)llmi_carve(arena, p->table.n, sizeof(llmi_tensor));
    p->model.values = (llmi_values *)llmi_carve(arena, p->table.n, sizeof(llmi_values));
    p->d = llmi_carve_floats(arena, llmi_mul(n, (size_t)c->d_model));
    p->tokens = (int32_t *)llmi_carve(arena, n, sizeof(int32_t));
    if (backward) p->run.gradients = llmi_carve_floats(arena, (size_t)p->table.floats);
    llmi_carve_work(&p->run, arena, c, n, B, 0, n_threads, backward);
}

static llm_result llmi_part_open(llmi_part *p, llm_part part, llm_context *context,
                                 const llm_part_args *args, int backward, llm_error *err) {
    const float *const *weights = args->weights;
    const int B = args->B, T = args->T;
    llmi_arena arena = llmi_arena_at(NULL, 0);
    llm_config *c = &p->model.config;
    size_t i, n;
    memset(p, 0, sizeof *p);
    if (!context || !args->saved || !weights)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "part: context, saved or weights is NULL");
    LLMI_TRY(llmi_check_int("part: B", B, 1, INT_MAX, err));
    LLMI_TRY(llmi_check_int("part: T", T, 1, INT_MAX / B, err));
    LLMI_TRY(llmi_part_config(c, part, args->config, B * T, T, err));
    n = (size_t)B * (size_t)T;
    llmi_config_table(&p->table, c, &p->layer);
    llmi_part_range(p, part);
    for (i = 0; i < p->count; i++)
        if (!weights[i])
            return llmi_fail(err, LLM_ERR_ARGUMENT, "part: weight %lu of %lu is NULL",
                             (unsigned long)i, (unsigned long)p->count);
    LLMI_TRY(llmi_scratch_reserve(
        context,
        llmi_model_attention_scratch(context, LLM_PRECISION_FP32, c, (size_t)T, 0, backward), err));
    p->run.mtp = c->mtp_depth;
    llmi_part_plan(p, &arena, (size_t)B, n, context->n_threads, backward);
    LLMI_TRY(llmi_arena_take(&arena, &p->memory, context->allocator, "scratch", err));
    llmi_part_plan(p, &arena, (size_t)B, n, context->n_threads, backward);
    llmi_config_table(&p->table, c, &p->layer);
    for (i = 0; i < p->table.n; i++)
        p->model.values[i] = llmi_values_f32(&p->table.rows[i], NULL);
    for (i = 0; i < p->count; i++)
        p->model.values[p->first + i].data = llmi_only_read(weights[i]);
    if (part == LLM_PART_MTP_MODULE) {
        p->model.values[LLMI_WTE].data = llmi_only_read(args->x);
        for (i = 0; i < n; i++) p->tokens[i] = (int32_t)i;
    }
    p->model.table = p->table;
    p->model.arch = llmi_arch_of(c->arch);
    p->model.layers = &p->layer;
    p->run.context = context;
    p->run.model = &p->model;
    p->run.n_sequences = (size_t)B;
    p->run.rows = (size_t)T;
    arena = llmi_arena_at(args->saved, llm_part_saved_bytes(part, args->config, B, T));
    llmi_part_carve_saved(p, &arena, part, c, n);
    if (backward) memset(p->run.gradients, 0, (size_t)p->table.floats * sizeof(float));
    p->run.accumulate = 1;
    if (!p->model.arch->learned_positions) llmi_run_angles(&p->run);
    return LLM_OK;
}

LLM_API llm_result llm_part_forward(llm_context *context, llm_part part, float *y,
                                    const llm_part_args *args, llm_error *err) {
    double sum = 0.0;
    llmi_part p;
    if (!y || !args || !args->x || (part == LLM_PART_MTP_MODULE && !args->h))
        return llmi_fail(err, LLM_ERR_ARGUMENT, "part: args, x, h or y is NULL");
    LLMI_TRY(llmi_part_open(&p, part, context, args, 0, err));
    if (part == LLM_PART_MLA) {
        llmi_mla_forward(&p.run, y, args->x, &p.saved.mla, 0, (size_t)args->T);
    } else if (part == LLM_PART_MOE) {
        if (args->loads)
            memset(args->loads, 0, (size_t)p.model.config.n_routed_experts * sizeof(float));
        p.run.loads = args->loads;
        p.run.balance = args->balance ? &sum : NULL;
        llmi_moe_forward(&p.run, y, args->x, &p.saved.moe, 0);
        if (args->balance) *args->balance = (float)(sum / (double)args->B);
    } else if (part == LLM_PART_MTP_MODULE) {
        llmi_mtp_forward(&p.run, 0, y, p.tokens, args->h, (size_t)args->T);
    } else {                           /* x and y go through the run's own streams */
        memcpy(llmi_block_in(&p.run, 0), args->x, p.run.x_size * sizeof(float));
        llmi_block_forward(&p.run, 0, (size_t)args->T);
        memcpy(y, llmi_block_out(&p.run, 0), p.run.x_size * sizeof(float));
    }
    llmi_release(context->allocator, p.memory);
    return LLM_OK;
}

LLM_API llm_result llm_part_backward(llm_context *context, llm_part part, float *dx,
                                     float *const *dweights, const float *dy,
                                     const llm_part_args *args, llm_error *err) {
    const int is_block = part == LLM_PART_GPT2_BLOCK || part == LLM_PART_DEEPSEEK_BLOCK;
    const float *found;
    llmi_part p;
    size_t i, n;
    if (!dy || !args || (!args->x && !is_block) || (part == LLM_PART_MTP_MODULE && !args->h))
        return llmi_fail(err, LLM_ERR_ARGUMENT, "part: args, x, h or dy is NULL");
    LLMI_TRY(llmi_part_open(&p, part, context, args, 1, err));
    found = p.d;
    n = llmi_run_rows(&p.run) * (size_t)p.model.config.d_model;
    if (part == LLM_PART_MLA) {
        llmi_mla_backward(&p.run, p.d, dy, args->x, &p.saved.mla, 0);
    } else if (part == LLM_PART_MOE) {
        p.run.balance_scale = args->alpha / (float)args->B;
        llmi_moe_backward(&p.run, p.d, dy, args->x, &p.saved.moe, 0);
    } else if (part == LLM_PART_MTP_MODULE) {
        llmi_mtp_backward(&p.run, 0, args->dh, p.d, dy, p.tokens, args->h, (size_t)args->T);
        found = llmi_gradient(&p.run, LLMI_WTE);
    } else {
        memcpy(p.d, dy, n * sizeof(float));
        llmi_block_backward(&p.run, p.d, 0);
    }
    if (dx) llmi_add_arrays(context, dx, dx, found, n);
    for (i = 0; dweights && i < p.count; i++)
        if (dweights[i])
            llmi_add_arrays(context, dweights[i], dweights[i],
                            llmi_gradient(&p.run, (int)(p.first + i)),
                            p.table.rows[p.first + i].count);
    llmi_release(context->allocator, p.memory);
    return LLM_OK;
}

/* the router alone: the experts' sizes do not matter */
static llm_result llmi_router_open(llmi_run *run, llm_model *model, llmi_moe_saved *s,
                                   llm_context *context, const llm_config *config, int rows,
                                   llm_error *err) {
    const llm_config *c = &model->config;
    llmi_arena arena = llmi_arena_at(NULL, 0);
    int pass;
    memset(run, 0, sizeof *run);
    memset(model, 0, sizeof *model);
    memset(s, 0, sizeof *s);
    if (!context) return llmi_fail(err, LLM_ERR_ARGUMENT, "router: context is NULL");
    LLMI_TRY(llmi_check_int("router: rows", rows, 0, INT_MAX, err));
    LLMI_TRY(llmi_part_config(&model->config, LLM_PART_MOE, config, 1, 1, err));
    run->context = context;
    run->model = model;
    run->n_sequences = 1;
    run->rows = (size_t)rows;
    for (pass = 0; pass < 2; pass++) {
        run->ds.open = (unsigned char *)llmi_carve(&arena, (size_t)c->n_routed_experts,
                                                   (size_t)context->n_threads);
        run->ds.dlogits = llmi_carve_floats(
            &arena, llmi_mul((size_t)rows, (size_t)c->n_routed_experts));
        if (pass == 0) LLMI_TRY(llmi_scratch_reserve(context, arena.used, err));
        arena = llmi_arena_at(context->scratch, arena.used);
    }
    return LLM_OK;
}
LLM_API llm_result llm_router_forward(llm_context *context, float *weight, int32_t *choice,
                                      float *loads, float *scores, const float *x,
                                      const float *gate, const float *bias,
                                      const llm_config *config, int rows, llm_error *err) {
    llmi_moe_rows job;
    llmi_moe_saved s;
    llm_model model;
    llmi_run run;
    size_t E, i;
    if (!weight || !choice || !scores || !x || !gate || !bias)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "router: an array is NULL");
    LLMI_TRY(llmi_router_open(&run, &model, &s, context, config, rows, err));
    E = (size_t)model.config.n_routed_experts;
    s.scores = scores;
    s.choice = choice;
    s.weight = weight;
    llmi_matmul(context, scores, E, x, llmi_matrix_of(gate, E, (size_t)model.config.d_model, 0),
                NULL, (size_t)rows, 0);
    memset(&job, 0, sizeof job);
    job.run = &run;
    job.s = &s;
    job.bias = bias;
    llmi_parallel(context, (size_t)rows, llmi_route_task, &job);
    for (i = 0; loads && i < E; i++) loads[i] = 0.0f;
    for (i = 0; loads && i < (size_t)rows * (size_t)model.config.num_experts_per_tok; i++)
        loads[choice[i]] += 1.0f;
    return LLM_OK;
}
LLM_API llm_result llm_router_backward(llm_context *context, float *dx, float *dgate,
                                       const float *dweight, const float *scores,
                                       const int32_t *choice, const float *x, const float *gate,
                                       const llm_config *config, int rows, llm_error *err) {
    llmi_moe_rows job;
    llmi_moe_saved s;
    llmi_matrix matrix;
    llm_model model;
    llmi_run run;
    if (!dweight || !scores || !choice || !x || !gate)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "router: an array is NULL");
    LLMI_TRY(llmi_router_open(&run, &model, &s, context, config, rows, err));
    LLMI_TRY(llmi_check_tokens(choice,
                               (size_t)rows * (size_t)model.config.num_experts_per_tok,
                               model.config.n_routed_experts, "router: choice", 0, err));
    s.scores = (float *)llmi_only_read(scores);
    s.choice = (int32_t *)llmi_only_read(choice);
    run.ds.dweight = (float *)llmi_only_read(dweight);
    memset(&job, 0, sizeof job);
    job.run = &run;
    job.s = &s;
    job.to = run.ds.dlogits;
    llmi_each(context, (size_t)rows, llmi_route_backward_body, &job);
    matrix = llmi_matrix_of(gate, (size_t)model.config.n_routed_experts,
                            (size_t)model.config.d_model, 0);
    if (dgate)
        llmi_matmul_dw(context, dgate, run.ds.dlogits, matrix.n_out, x, matrix, (size_t)rows, 1);
    if (dx) llmi_matmul_dx(context, dx, run.ds.dlogits, matrix.n_out, matrix, (size_t)rows, 1);
    return LLM_OK;
}

/* ============================================================================================
 * >>score        logits and log-probabilities of whole batches, without a cache
 * ========================================================================================== */
static llm_result llmi_check_batch(const llm_model *model, const int32_t *tokens, int B, int T,
                                   int max_B, int max_T, llm_error *err) {
    if (!model || !tokens) return llmi_fail(err, LLM_ERR_ARGUMENT, "model or tokens is NULL");
    LLMI_TRY(llmi_check_int("B", B, 1, max_B, err));
    LLMI_TRY(llmi_check_int("T", T, 1, max_T, err));
    if (B > INT_MAX / T)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "B %d x T %d is more than %d rows", B, T, INT_MAX);
    return llmi_check_tokens(tokens, (size_t)B * (size_t)T, model->config.vocab_size, "token", 0,
                             err);
}

/* logits (B,T,V), or logprobs (B,T) of targets */
static llm_result llmi_model_run(const llm_model *model, const int32_t *tokens,
                                 const int32_t *targets, int B, int T, float *logits,
                                 float *logprobs, llm_error *err) {
    const size_t n = (size_t)B * (size_t)T;
    const llm_config *config = &model->config;
    llm_context *context = llmi_model_context(model, model->n_threads, err);
    llmi_arena arena = llmi_arena_at(NULL, 0);
    llmi_head_scratch s;
    llmi_run run;
    llm_result result;
    void *memory;
    int pass;
    if (!context) return LLM_ERR_MEMORY;
    memset(&run, 0, sizeof run);
    run.context = context;
    run.model = model;
    run.n_sequences = (size_t)B;
    run.rows = (size_t)T;
    memory = NULL;
    result = llmi_scratch_reserve(
        context, llmi_model_attention_scratch(context, LLM_PRECISION_FP32, config, run.rows, 0, 0),
        err);
    for (pass = 0; pass < 2 && result == LLM_OK; pass++) {
        if (pass) {
            result = llmi_arena_take(&arena, &memory, model->allocator, "activations", err);
            if (result != LLM_OK) break;
        }
        llmi_carve_activations(&run, &arena, config, n);
        llmi_carve_work(&run, &arena, config, n, (size_t)B, 0, context->n_threads, 0);
        if (pass == 0 && logprobs)
            llmi_head_carve(&s, &arena, (size_t)config->vocab_size,
                            llmi_min(n, LLMI_LOSS_ROWS_SMALL));
    }
    if (result == LLM_OK) {
        llmi_trunk_forward(&run, tokens);
        llmi_final_norm_forward(&run, run.h, NULL, NULL, llmi_run_x(&run, config->n_layers), n);
        if (logits) {
            llmi_matmul(context, logits, (size_t)config->vocab_size, run.h,
                        llmi_head_matrix(model, LLM_PRECISION_FP32),
                        NULL, n, 0);
        } else {
            llmi_head head;
            memset(&head, 0, sizeof head);
            head.context = context;
            head.weight = llmi_head_matrix(model, LLM_PRECISION_FP32);
            head.x = run.h;
            head.targets = targets;
            head.rows = n;
            head.chunk = LLMI_LOSS_ROWS_SMALL;
            head.logprobs = logprobs;
            llmi_head_run(&head, arena);
        }
    }
    llmi_release(model->allocator, memory);
    llm_context_free(context);
    return result;
}

LLM_API llm_result llm_model_logits(const llm_model *model, const int32_t *tokens, int B, int T,
                                    float *logits, llm_error *err) {
    if (!logits) return llmi_fail(err, LLM_ERR_ARGUMENT, "logits is NULL");
    LLMI_TRY(
        llmi_check_batch(model, tokens, B, T, INT_MAX, model ? model->config.max_seq_len : 0, err));
    return llmi_model_run(model, tokens, NULL, B, T, logits, NULL, err);
}

LLM_API llm_result llm_model_score(const llm_model *model, const int32_t *tokens,
                                   const int32_t *targets, int B, int T, float *logprobs,
                                   llm_error *err) {
    if (!targets || !logprobs)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "targets or logprobs is NULL");
    LLMI_TRY(
        llmi_check_batch(model, tokens, B, T, INT_MAX, model ? model->config.max_seq_len : 0, err));
    LLMI_TRY(llmi_check_tokens(targets, (size_t)B * (size_t)T, model->config.vocab_size, "target",
                               1, err));
    return llmi_model_run(model, tokens, targets, B, T, NULL, logprobs, err);
}
/* ============================================================================================
 * >>adamw        the optimizer and clipping
 * ========================================================================================== */
typedef struct llmi_update {
    llm_context *context;
    float *weight, *m, *v;
    const float *grad;
    size_t n;
    llmi_adamw with_decay, without_decay;
    const llmi_table *table;           /* says who decays; NULL: everything does */
    size_t first;                      /* where weight stands in the flat block  */
} llmi_update;

static llmi_adamw llmi_adamw_constants(const llm_adamw *d, double grad_scale) {
    const double n = (double)d->step + 1.0;
    llmi_adamw a;
    a.beta1 = d->beta1;
    a.beta2 = d->beta2;
    a.eps = d->eps;
    a.grad_scale = (float)grad_scale;
    a.step_size = (float)((double)d->learning_rate / (1.0 - pow((double)d->beta1, n)));
    a.root_correction = (float)(1.0 / sqrt(1.0 - pow((double)d->beta2, n)));
    a.keep = (float)(1.0 - (double)d->learning_rate * (double)d->weight_decay);
    return a;
}

static void llmi_update_body(void *argument, size_t at, size_t n) {
    const llmi_update *job = (const llmi_update *)argument;
    const size_t end = at + n;
    size_t low = 0;
    if (job->table) { /* the last tensor that starts at or before job->first + at */
        size_t high = job->table->n;
        while (high - low > 1) {
            const size_t middle = (low + high) / 2;
            if (job->table->rows[middle].offset <= job->first + at) low = middle;
            else high = middle;
        }
    }
    while (at < end) {
        size_t stop = end;
        int decays = 1;
        if (job->table) {
            if (low + 1 < job->table->n)
                stop = llmi_min(end, job->table->rows[low + 1].offset - job->first);
            decays = job->table->rows[low].n_dims >= 2;
            low++;
        }
        job->context->kernels->adamw(job->weight + at, job->m + at, job->v + at, job->grad + at,
                                     stop - at, decays ? &job->with_decay : &job->without_decay);
        at = stop;
    }
}

LLM_API void llm_adamw_update(llm_context *context, float *weight, float *m, float *v,
                              const float *grad, size_t n, const llm_adamw *adamw) {
    llmi_update job;
    if (!context || !weight || !m || !v || !grad || !adamw || adamw->step < 0) return;
    memset(&job, 0, sizeof job);
    job.context = context;
    job.weight = weight; job.m = m; job.v = v; job.grad = grad;
    job.n = n;
    job.with_decay = llmi_adamw_constants(adamw, (double)adamw->grad_scale);
    llmi_for(context, n, LLMI_PIECE, llmi_update_body, &job);
}

typedef struct llmi_squares {
    llm_context *context;
    const float *x;
    size_t n, first;
    double *parts;
} llmi_squares;

static void llmi_square_sum_body(void *argument, size_t index) {
    const llmi_squares *job = (const llmi_squares *)argument;
    const size_t at = (job->first + index) * LLMI_PIECE;
    job->parts[index] = job->context->kernels->square_sum(job->x + at,
                                                          llmi_min(LLMI_PIECE, job->n - at));
}

/* in pieces, 256 at a time, added in order */
static double llmi_square_sum(llm_context *context, const float *x, size_t n) {
    double parts[256], sum = 0.0;
    const size_t pieces = llmi_ceil_div(n, LLMI_PIECE);
    llmi_squares job;
    job.context = context; job.x = x; job.n = n; job.parts = parts;
    for (job.first = 0; job.first < pieces; job.first += 256) {
        const size_t count = llmi_min(256, pieces - job.first);
        size_t i;
        llmi_each(context, count, llmi_square_sum_body, &job);
        for (i = 0; i < count; i++) sum += parts[i];
    }
    return sum;
}

static double llmi_clip_factor(double norm, double max_norm) {
    const double factor = max_norm / (norm + 1e-6);
    return factor < 1.0 ? factor : 1.0;
}

LLM_API float llm_clip_grad_norm(llm_context *context, float *grad, size_t n, float max_norm) {
    double norm, factor;
    size_t i;
    if (!context || !grad) return 0.0f;
    norm = sqrt(llmi_square_sum(context, grad, n));
    factor = max_norm < 0.0f ? 1.0 : llmi_clip_factor(norm, (double)max_norm);
    for (i = 0; i < n && factor != 1.0; i += LLMI_PIECE)
        context->kernels->affine(grad + i, grad + i, (float)factor, 0.0f,
                                 llmi_min(LLMI_PIECE, n - i));
    return (float)norm;
}

/* ============================================================================================
 * >>schedule     defaults of a training, and its learning rate
 * ========================================================================================== */
static float llmi_default(float value, float standard) {
    return value == 0.0f ? standard : value == LLM_OFF ? 0.0f : value;
}

#define LLMI_TRAIN(member) #member, offsetof(llm_train_desc, member)
static const llmi_field llmi_train_fields[] = {        /* member, type, range, default, flags */
    {LLMI_TRAIN(batch_size), LLMI_INT, "[]", 1, INT_MAX, 0, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(seq_len), LLMI_INT, "", 1, 0, 0, 0, NULL, NULL, 0},
    {LLMI_TRAIN(grad_accum_steps), LLMI_INT, "[]", 1, INT_MAX, 1, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(learning_rate), LLMI_FLOAT, "[]", 0, 1e6, 3e-4f, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(min_lr_ratio), LLMI_FLOAT, "[]", 0, 1, 0.1f, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(warmup_steps), LLMI_INT, "", 0, 0, 0, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(max_steps), LLMI_INT, "", 0, 0, 0, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(decay_steps), LLMI_INT, "", 0, 0, 0, LLMI_PROLONGED, NULL, NULL, 0},
    {LLMI_TRAIN(beta1), LLMI_FLOAT, "[)", 0, 1, 0.9f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(beta2), LLMI_FLOAT, "[)", 0, 1, 0.95f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(adam_eps), LLMI_FLOAT, "[]", FLT_MIN, 1, 1e-8f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(weight_decay), LLMI_FLOAT, "[]", 0, 1e6, 0.1f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(grad_clip), LLMI_FLOAT, "[]", 0, FLT_MAX, 1, 0, NULL, NULL, 0},
    {LLMI_TRAIN(label_smoothing), LLMI_FLOAT, "[)", 0, 1, 0, 0, NULL, NULL, 0},
    {LLMI_TRAIN(mtp_lambda), LLMI_FLOAT, "[]", 0, 1e6, 0.3f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(router_bias_speed), LLMI_FLOAT, "[]", 0, 1e6, 0.001f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(router_aux_alpha), LLMI_FLOAT, "[]", 0, 1e6, 0.0001f, 0, NULL, NULL, 0},
    {LLMI_TRAIN(dropout), LLMI_FLOAT, "[)", (double)LLM_OFF, 1, 0, 0, NULL, NULL, 0}};

/* off: LLM_OFF becomes 0 */
static void llmi_train_resolve(llm_train_desc *d, int off) {
    llmi_fields_resolve(d, llmi_train_fields, LLMI_COUNT(llmi_train_fields), off);
    if (d->decay_steps == 0 && d->warmup_steps >= 0 && d->warmup_steps <= d->max_steps)
        d->decay_steps = d->max_steps / 10 < d->max_steps - d->warmup_steps
                             ? d->max_steps / 10
                             : d->max_steps - d->warmup_steps;
}

/* of a resolved desc: to resolve twice would take a zero for a default */
static float llmi_learning_rate(const llm_train_desc *d, int64_t step) {
    const double high = (double)d->learning_rate, low = high * (double)d->min_lr_ratio;
    double done;
    if (step < d->warmup_steps) return (float)(high * (double)(step + 1) / (double)d->warmup_steps);
    if (d->schedule == LLM_SCHEDULE_CONSTANT) return (float)high;
    if (step >= d->max_steps) return (float)low;
    done = (double)(step - d->warmup_steps) / ((double)d->max_steps - (double)d->warmup_steps);
    if (d->schedule == LLM_SCHEDULE_LINEAR) return (float)(high + (low - high) * done);
    if (d->schedule == LLM_SCHEDULE_WSD) {
        const int64_t start = (int64_t)d->max_steps - d->decay_steps;
        if (step < start) return (float)high;
        return (float)(high + (low - high) * (double)(step - start) / (double)d->decay_steps);
    }
    return (float)(low + (high - low) * 0.5 * (1.0 + cos(LLMI_PI * done)));
}

LLM_API float llm_learning_rate(const llm_train_desc *desc, int64_t step) {
    llm_train_desc d;
    if (!desc) return 0.0f;
    d = *desc;
    llmi_train_resolve(&d, 1);
    return llmi_learning_rate(&d, step < 0 ? 0 : step);
}

/* ============================================================================================
 * >>trainer      gradients, optimizer state, activations, and the order of their calls
 * ========================================================================================== */
/* floats after the gradients: tokens per expert of each MoE block, then the sum of n_m */
static size_t llmi_tail(const llm_config *config) {
    return llmi_moe_blocks(config) * (size_t)config->n_routed_experts + 1;
}

struct llm_trainer {
    llm_model *model;
    llm_context *context;
    llm_train_desc desc;               /* resolved */
    size_t floats, tail;               /* of the flat blocks; after the gradients */
    float *gradients;                  /* floats, then the tail */
    float *m, *v;                      /* of the slice desc.shard_first, shard_count */
    void *activations, *work;          /* two blocks, cut up by the plan */
    size_t activations_size;
    llmi_run run;
    float *dx;                         /* (N,C): the stream's gradient */
    float *h[LLMI_MTP_MAX + 1];        /* (N,C): outputs of the final norm and the modules */
    float *dh[LLMI_MTP_MAX + 1];       /* (N,C): their gradients */
    int32_t *tokens;                   /* (N) of the pending forward */
    int32_t *mtp_tokens, *mtp_targets; /* (N), shifted for a module */
    float *loads;                      /* (MoE blocks, E) of the last forward */
    llmi_arena head_arena;             /* the head's scratch, over that of the blocks */
    int pending;                       /* a forward waits for its backward */
    size_t pending_valid;
    int n_accumulated;                 /* backwards since the last update */
    size_t updated;                    /* floats of the shard that slices have updated so far */
    double slices_norm;                /* that they were given */
    int64_t step, n_tokens, n_forwards;
    void *user_data;
    size_t user_data_size, user_data_capacity;
    float last_grad_norm, last_learning_rate;
};

/* resolves *d, too */
static llm_result llmi_train_check(llm_train_desc *d, const llm_config *config, size_t floats,
                                   llm_error *err) {
    llmi_train_resolve(d, 1);
    LLMI_TRY(llmi_fields_check("train desc: ", d, llmi_train_fields, LLMI_COUNT(llmi_train_fields),
                               1, err));
    LLMI_TRY(llmi_check_int("train desc: seq_len", d->seq_len, 1, config->max_seq_len, err));
    if (d->batch_size > INT_MAX / d->seq_len)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "train desc: batch_size %d x seq_len %d is more than %d rows",
                         d->batch_size, d->seq_len, INT_MAX);
    if (config->mtp_depth >= d->seq_len)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "train desc: mtp_depth %d is not below seq_len %d",
                         config->mtp_depth, d->seq_len);
    LLMI_TRY(llmi_check_int("train desc: schedule", (int)d->schedule, 0, (int)LLM_SCHEDULE_CONSTANT,
                            err));
    if (d->schedule != LLM_SCHEDULE_CONSTANT) {
        LLMI_TRY(llmi_check_int("train desc: max_steps", d->max_steps, 1, INT_MAX, err));
        LLMI_TRY(llmi_check_int("train desc: warmup_steps", d->warmup_steps, 0, d->max_steps, err));
    }
    if (d->schedule == LLM_SCHEDULE_WSD)
        LLMI_TRY(llmi_check_int("train desc: decay_steps", d->decay_steps, 0,
                                d->max_steps - d->warmup_steps, err));
    LLMI_TRY(llmi_check_int("train desc: warmup_steps", d->warmup_steps, 0, INT_MAX, err));
    if (d->dropout < 0.0f && d->dropout != LLM_OFF)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "train desc: dropout %g is not in [0, 1), nor "
                         "LLM_OFF", (double)d->dropout);
    LLMI_TRY(llmi_check_int("train desc: n_threads", d->n_threads, 0, 1024, err));
    LLMI_TRY(llmi_check_int("train desc: precision", (int)d->precision, LLM_PRECISION_FP32,
                            LLM_PRECISION_FP8, err));
    if (d->shard_first == 0 && d->shard_count == 0) d->shard_count = floats;
    if (d->shard_first > floats || d->shard_count > floats - d->shard_first)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "train desc: shard_first %lu + shard_count %lu is above the %lu weights",
                         (unsigned long)d->shard_first, (unsigned long)d->shard_count,
                         (unsigned long)floats);
    return LLM_OK;
}

LLM_API llm_result llm_train_desc_resolve(llm_train_desc *desc, const llm_config *config,
                                          llm_error *err) {
    llm_train_desc d;
    llm_config c;
    if (!desc) return llmi_fail(err, LLM_ERR_ARGUMENT, "train desc is NULL");
    LLMI_TRY(llmi_config_resolved(&c, config, err));
    d = *desc;
    LLMI_TRY(llmi_train_check(&d, &c, (size_t)llmi_config_count(&c).floats, err));
    llmi_train_resolve(desc, 0);
    desc->shard_first = d.shard_first;
    desc->shard_count = d.shard_count;
    return LLM_OK;
}

static size_t llmi_loss_rows(const llm_train_desc *d) {
    return d->recompute ? LLMI_LOSS_ROWS_SMALL : LLMI_LOSS_ROWS;
}

/* Cuts the two blocks up; with NULL bases it measures. */
static void llmi_trainer_plan(llm_trainer *t, const llm_config *config, int n_threads,
                              llmi_arena *activations, llmi_arena *work) {
    const size_t n = (size_t)t->desc.batch_size * (size_t)t->desc.seq_len,
                 C = (size_t)config->d_model;
    llmi_head_scratch s;
    llmi_arena head;
    int k;
    t->run.keep_x = 1;
    t->run.saved.keep = !t->desc.recompute;
    t->run.precision = t->desc.precision;
    t->run.mtp = config->mtp_depth;
    llmi_carve_activations(&t->run, activations, config, n);
    t->dx = llmi_carve_floats(activations, llmi_mul(n, C));
    for (k = 0; k <= config->mtp_depth; k++) {
        t->h[k] = config->mtp_depth ? llmi_carve_floats(activations, llmi_mul(n, C)) : NULL;
        t->dh[k] = llmi_carve_floats(activations, llmi_mul(n, C));
    }
    t->tokens = (int32_t *)llmi_carve(activations, n, sizeof(int32_t));
    if (config->mtp_depth) {
        t->mtp_tokens = (int32_t *)llmi_carve(activations, n, sizeof(int32_t));
        t->mtp_targets = (int32_t *)llmi_carve(activations, n, sizeof(int32_t));
    }
    t->loads = llmi_carve_floats(activations, llmi_tail(config) - 1);
    llmi_carve_work(&t->run, work, config, n, (size_t)t->desc.batch_size, 0, n_threads, 1);
    if (!config->mtp_depth) t->h[0] = t->run.h;
    /* The head may read h, which is first; the rest is free while it runs. */
    LLM_ASSERT((char *)t->run.h == work->base);
    head = llmi_arena_at(NULL, 0);
    head.used = llmi_round_up(llmi_mul(n, C) * sizeof(float), LLMI_ALIGN);
    t->head_arena = llmi_arena_at(work->base, work->size);
    t->head_arena.used = head.used;
    llmi_head_carve(&s, &head, (size_t)config->vocab_size, llmi_min(n, llmi_loss_rows(&t->desc)));
    work->used = llmi_max(work->used, head.used);
}

LLM_API llm_result llm_train_memory(const llm_config *config, const llm_train_desc *desc,
                                    llm_memory *memory, llm_error *err) {
    llmi_arena activations = llmi_arena_at(NULL, 0), work = activations;
    llm_context context;
    llm_trainer t;
    llm_config c;
    llmi_table table;
    size_t panels;
    if (!desc || !memory) return llmi_fail(err, LLM_ERR_ARGUMENT, "train desc or memory is NULL");
    LLMI_TRY(llmi_config_resolved(&c, config, err));
    table = llmi_config_count(&c);
    memset(&t, 0, sizeof t);
    t.desc = *desc;
    LLMI_TRY(llmi_train_check(&t.desc, &c, (size_t)table.floats, err));
    panels = llmi_context_plan(&context, desc->n_threads);
    llmi_trainer_plan(&t, &c, context.n_threads, &activations, &work);
    memset(memory, 0, sizeof *memory);
    memory->parameters = (size_t)table.floats * sizeof(float);
    memory->gradients = ((size_t)table.floats + llmi_tail(&c)) * sizeof(float);
    memory->optimizer = 2 * t.desc.shard_count * sizeof(float);
    memory->activations = activations.used;
    memory->scratch = llmi_add(
        llmi_add(work.used, panels * sizeof(float)),
        llmi_model_attention_scratch(&context, llmi_near_precision(t.desc.precision), &c,
                                     (size_t)t.desc.seq_len, 0, 1));
    memory->total = llmi_add(
        llmi_add(memory->parameters + memory->gradients + memory->optimizer, memory->activations),
        memory->scratch);
    return LLM_OK;
}

LLM_API void llm_trainer_free(llm_trainer *trainer) {
    const llm_allocator *allocator;
    if (!trainer) return;
    allocator = trainer->model->allocator;
    trainer->model->has_trainer = 0;
    llm_context_free(trainer->context);
    llmi_release(allocator, trainer->gradients);
    llmi_release(allocator, trainer->m);
    llmi_release(allocator, trainer->activations);
    llmi_release(allocator, trainer->work);
    llmi_release(allocator, trainer->user_data);
    llmi_release(allocator, trainer);
}

static llm_result llmi_trainer_allocate(llm_trainer *t, llm_error *err) {
    const llm_config *config = &t->model->config;
    const llm_allocator *allocator = t->model->allocator;
    const size_t state = t->desc.shard_count;
    llmi_arena activations = llmi_arena_at(NULL, 0), work = activations;
    t->context = llmi_model_context(t->model, t->desc.n_threads, err);
    if (!t->context) return LLM_ERR_MEMORY;
    LLMI_TRY(llmi_scratch_reserve(
        t->context,
        llmi_model_attention_scratch(t->context, llmi_near_precision(t->desc.precision), config,
                                     (size_t)t->desc.seq_len, 0, 1),
        err));
    t->gradients = (float *)llmi_alloc(allocator, (t->floats + t->tail) * sizeof(float),
                                       "gradients", err);
    if (!t->gradients) return LLM_ERR_MEMORY;
    t->m = (float *)llmi_alloc(allocator, llmi_mul(2 * state, sizeof(float)), "optimizer state",
                               err);
    if (!t->m) return LLM_ERR_MEMORY;
    t->v = t->m + state;
    llmi_trainer_plan(t, config, t->context->n_threads, &activations, &work);
    LLMI_TRY(llmi_arena_take(&activations, &t->activations, allocator, "activations", err));
    LLMI_TRY(llmi_arena_take(&work, &t->work, allocator, "activations", err));
    t->activations_size = activations.size;
    llmi_trainer_plan(t, config, t->context->n_threads, &activations, &work);
    /* the last that can fail; before the rest is touched: the pages of files are gone by then */
    LLMI_TRY(llmi_model_gather(t->model, err));
    memset(t->gradients, 0, (t->floats + t->tail) * sizeof(float));
    memset(t->m, 0, 2 * state * sizeof(float));
    return LLM_OK;
}

LLM_API llm_trainer *llm_trainer_create(llm_model *model, const llm_train_desc *desc,
                                        llm_error *err) {
    llm_train_desc d;
    llm_trainer *t;
    if (!model || !desc) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "model or train desc is NULL");
        return NULL;
    }
    if (model->has_trainer) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "the model has a trainer already: free it first");
        return NULL;
    }
    d = *desc;
    if (llmi_train_check(&d, &model->config, (size_t)model->table.floats, err) != LLM_OK)
        return NULL;
    if (d.n_threads == 0) d.n_threads = model->n_threads;
    t = (llm_trainer *)llmi_alloc(model->allocator, sizeof *t, "trainer", err);
    if (!t) return NULL;
    memset(t, 0, sizeof *t);
    t->model = model;
    t->desc = d;
    t->floats = (size_t)model->table.floats;
    t->tail = llmi_tail(&model->config);
    if (llmi_trainer_allocate(t, err) != LLM_OK) {
        llm_trainer_free(t);
        return NULL;
    }
    t->run.context = t->context;
    t->run.model = model;
    t->run.gradients = t->gradients;
    t->run.n_sequences = (size_t)d.batch_size;
    t->run.rows = (size_t)d.seq_len;
    t->run.embd_pdrop = llmi_default(d.dropout, model->config.embd_pdrop);
    t->run.attn_pdrop = llmi_default(d.dropout, model->config.attn_pdrop);
    t->run.resid_pdrop = llmi_default(d.dropout, model->config.resid_pdrop);
    model->has_trainer = 1;
    return t;
}

static void llmi_trainer_drop(llm_trainer *t) {
    t->n_accumulated = 0;
    t->pending = 0;
    memset(t->gradients, 0, (t->floats + t->tail) * sizeof(float));
}

typedef struct llmi_losses {
    llmi_head main;
    double mtp[LLMI_MTP_MAX];          /* means */
    size_t mtp_valid[LLMI_MTP_MAX];
    double balance, total;             /* of f P over blocks and sequences; main + MTP, a mean */
} llmi_losses;

static void llmi_loss_stats(const llm_trainer *t, const llmi_losses *losses, size_t n_sequences,
                            llm_train_stats *stats) {
    const llmi_head *head = &losses->main;
    const double n = head->n_valid ? (double)head->n_valid : 1.0;
    int k;
    memset(stats, 0, sizeof *stats);
    stats->step = t->step;
    stats->tokens = t->n_tokens;
    stats->loss = (float)losses->total;
    stats->main_loss = (float)(head->loss_sum / n);
    for (k = 0; k < LLMI_MTP_MAX; k++) {
        stats->mtp_loss[k] = (float)losses->mtp[k];
        stats->mtp_targets[k] = (int64_t)losses->mtp_valid[k];
    }
    stats->n_targets = (int64_t)head->n_valid;
    stats->balance_loss = (float)(losses->balance * (double)t->desc.router_aux_alpha /
                                  (double)n_sequences);
    stats->perplexity = head->n_valid ? (float)exp(-head->logprob_sum / n) : 0.0f;
    stats->accuracy = (float)((double)head->n_correct / n);
    stats->grad_norm = t->last_grad_norm;
    stats->learning_rate = t->last_learning_rate;
}

/* relative to the mean of each block */
static void llmi_load_stats(const llm_trainer *t, llm_train_stats *stats) {
    const size_t E = (size_t)t->model->config.n_routed_experts,
                 blocks = llmi_moe_blocks(&t->model->config);
    size_t l, e;
    for (l = 0; l < blocks; l++) {
        const float *loads = t->loads + l * E;
        float sum = 0.0f;
        for (e = 0; e < E; e++) sum += loads[e];
        for (e = 0; e < E; e++) {
            const float load = loads[e] * (float)E / sum;
            if ((l == 0 && e == 0) || load > stats->expert_load_max) stats->expert_load_max = load;
            if ((l == 0 && e == 0) || load < stats->expert_load_min) stats->expert_load_min = load;
        }
    }
}

static llm_result llmi_check_targets(const llm_trainer *t, const int32_t *tokens,
                                     const int32_t *targets, int B, int T, llm_error *err) {
    if (!t || !targets) return llmi_fail(err, LLM_ERR_ARGUMENT, "trainer or targets is NULL");
    if (t->pending)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "a forward waits for its backward (llm_trainer_backward)");
    if (t->updated)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "an update has slices to come (llm_trainer_update_range)");
    LLMI_TRY(llmi_check_batch(t->model, tokens, B, T, t->desc.batch_size, t->desc.seq_len, err));
    return llmi_check_tokens(targets, (size_t)B * (size_t)T, t->model->config.vocab_size, "target",
                             1, err);
}

/* one module's rows of the batch */
static void llmi_mtp_run(llmi_run *part, const llmi_run *run, int k) {
    *part = *run;
    part->rows = run->rows - (size_t)k;
}

/* The forward of a batch up to its losses; with gradients, the head's backward, too: of the sum
 * over the valid main targets, so that a module's loss is scaled from its own number to theirs. */
static void llmi_trainer_loss(const llm_trainer *t, const llmi_run *run, const int32_t *tokens,
                              const int32_t *targets, int gradients, llmi_losses *losses) {
    const int D = run->mtp, head_index = llmi_head_index(t->model);
    const double lambda = D ? (double)t->desc.mtp_lambda / D : 0.0;
    llmi_head *head = &losses->main;
    int k;
    memset(losses, 0, sizeof *losses);
    llmi_trunk_forward(run, tokens);
    llmi_final_norm_forward(run, t->h[0], run->final_mean, run->final_rstd,
                            llmi_run_x(run, t->model->config.n_layers), llmi_run_rows(run));
    head->context = t->context;
    head->weight = llmi_head_matrix(t->model, run->precision);
    head->x = t->h[0];
    head->targets = targets;
    head->rows = llmi_run_rows(run);
    head->chunk = llmi_loss_rows(&t->desc);
    head->smoothing = t->desc.label_smoothing;
    head->scale = 1.0f;
    if (gradients) {
        head->dx = t->dh[0];
        head->dweight = llmi_gradient(run, head_index);
        head->accumulate = run->accumulate;
    }
    llmi_head_run(head, t->head_arena);
    losses->total = head->n_valid ? head->loss_sum / (double)head->n_valid : 0.0;
    for (k = 1; k <= D && (size_t)k < run->rows; k++) {
        llmi_head part_head = *head;
        llmi_run part;
        size_t n_valid;
        llmi_mtp_run(&part, run, k);
        llmi_mtp_shift(t->mtp_tokens, tokens, run->n_sequences, run->rows, (size_t)k);
        llmi_mtp_shift(t->mtp_targets, targets, run->n_sequences, run->rows, (size_t)k);
        llmi_mtp_forward(&part, t->model->config.n_layers + k - 1, t->h[k], t->mtp_tokens,
                         t->h[k - 1], part.rows + 1);
        part_head.x = t->h[k];
        part_head.targets = t->mtp_targets;
        part_head.rows = llmi_run_rows(&part);
        n_valid = llmi_count_valid(t->mtp_targets, part_head.rows);
        part_head.scale = n_valid ? (float)(lambda * (double)head->n_valid / (double)n_valid)
                                  : 0.0f;
        part_head.accumulate = 1;
        if (gradients) part_head.dx = t->dh[k];
        llmi_head_run(&part_head, t->head_arena);
        losses->mtp_valid[k - 1] = n_valid;
        losses->mtp[k - 1] = n_valid ? part_head.loss_sum / (double)n_valid : 0.0;
        losses->total += lambda * losses->mtp[k - 1];
    }
}

LLM_API llm_result llm_trainer_forward(llm_trainer *trainer, const int32_t *tokens,
                                       const int32_t *targets, llm_train_stats *stats,
                                       llm_error *err) {
    llm_trainer *t = trainer;
    llmi_losses losses;
    double balance = 0.0;
    LLMI_TRY(llmi_check_targets(t, tokens, targets, t ? t->desc.batch_size : 0,
                                t ? t->desc.seq_len : 0, err));
    memcpy(t->tokens, tokens, llmi_run_rows(&t->run) * sizeof *tokens);
    t->run.seed = llm_random(t->desc.seed, (uint64_t)t->n_forwards);
    t->run.accumulate = t->n_accumulated > 0;
    memset(t->loads, 0, (t->tail - 1) * sizeof *t->loads);
    t->run.loads = t->loads;
    t->run.balance = t->desc.router_aux_alpha > 0.0f ? &balance : NULL;
    llmi_trainer_loss(t, &t->run, tokens, targets, 1, &losses);
    losses.balance = balance;
    if (!isfinite(losses.total)) {
        llmi_trainer_drop(t);
        return llmi_fail(err, LLM_ERR_NUMERIC,
                         "the loss is %g at step %lld: the pending accumulation is dropped",
                         losses.total, (long long)t->step);
    }
    t->pending = 1;
    t->pending_valid = losses.main.n_valid;
    t->n_forwards++;
    t->n_tokens += (int64_t)llmi_run_rows(&t->run);
    if (stats) {
        llmi_loss_stats(t, &losses, t->run.n_sequences, stats);
        llmi_load_stats(t, stats);
    }
    return LLM_OK;
}

LLM_API llm_result llm_trainer_backward(llm_trainer *trainer, llm_error *err) {
    llm_trainer *t = trainer;
    const int L = t ? t->model->config.n_layers : 0;
    float *tail;
    size_t i;
    int k;
    if (!t) return llmi_fail(err, LLM_ERR_ARGUMENT, "trainer is NULL");
    if (!t->pending)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "backward without a forward (llm_trainer_forward)");
    t->run.loads = NULL;
    t->run.balance = NULL;
    t->run.balance_scale = t->model->config.n_routed_experts
                               ? t->desc.router_aux_alpha * (float)t->pending_valid /
                                     (float)t->run.n_sequences
                               : 0.0f;
    if (!t->run.accumulate) llmi_gradients_clear(&t->run);
    for (k = t->run.mtp; k > 0; k--) {
        llmi_run part;
        llmi_mtp_run(&part, &t->run, k);
        llmi_mtp_shift(t->mtp_tokens, t->tokens, t->run.n_sequences, t->run.rows, (size_t)k);
        llmi_mtp_backward(&part, L + k - 1, t->dh[k - 1], t->dx, t->dh[k], t->mtp_tokens,
                          t->h[k - 1], part.rows + 1);
    }
    llmi_trunk_backward(&t->run, t->dx, t->dh[0], t->tokens);
    tail = t->gradients + t->floats;
    if (t->n_accumulated == 0) memset(tail, 0, t->tail * sizeof *tail);
    for (i = 0; i + 1 < t->tail; i++) tail[i] += t->loads[i];
    tail[t->tail - 1] += (float)t->pending_valid;
    t->n_accumulated++;
    t->pending = 0;
    return LLM_OK;
}

LLM_API float *llm_trainer_gradients(llm_trainer *trainer, size_t *count) {
    if (count) *count = trainer ? trainer->floats + trainer->tail : 0;
    return trainer ? trainer->gradients : NULL;
}
LLM_API double llm_trainer_gradient_scale(const llm_trainer *trainer) {
    const double n = trainer && trainer->n_accumulated
                         ? (double)trainer->gradients[trainer->floats + trainer->tail - 1]
                         : 0.0;
    return n > 0.0 ? 1.0 / n : 0.0;
}
LLM_API llm_tensor llm_trainer_gradient(const llm_trainer *trainer, size_t i) {
    const llmi_tensor *row;
    llm_tensor none;
    memset(&none, 0, sizeof none);
    if (!trainer || i >= trainer->model->table.n) return none;
    row = &trainer->model->table.rows[i];
    return llmi_tensor_view(
        row, llmi_values_f32(row, row->no_gradient ? NULL : trainer->gradients + row->offset));
}
LLM_API float *llm_trainer_weights(llm_trainer *trainer, size_t *count) {
    if (count) *count = trainer ? trainer->floats : 0;
    return trainer ? trainer->model->block : NULL;
}
LLM_API double llm_trainer_gradient_square_sum(llm_trainer *trainer, size_t first, size_t count) {
    if (!trainer || first > trainer->floats || count > trainer->floats - first) return 0.0;
    return llmi_square_sum(trainer->context, trainer->gradients + first, count);
}

/* what must hold before an update; *scale: 1 / sum n */
static llm_result llmi_update_check(const llm_trainer *t, double *scale, llm_error *err) {
    if (!t) return llmi_fail(err, LLM_ERR_ARGUMENT, "trainer is NULL");
    if (t->pending)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "update: a forward waits for its backward");
    if (t->n_accumulated == 0)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "update: no backward since the last one");
    *scale = llm_trainer_gradient_scale(t);
    if (*scale == 0.0)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "update: 0 valid targets in %d batches since the last one, 1 is needed",
                         t->n_accumulated);
    return LLM_OK;
}

/* bias += gamma sign(mean load - load), the loads being those of the whole accumulated batch */
static void llmi_router_update(llm_trainer *t) {
    const llm_config *c = &t->model->config;
    const int E = c->n_routed_experts;
    const float *loads = t->gradients + t->floats, gamma = t->desc.router_bias_speed;
    int l, e;
    if (!E || gamma == 0.0f) return;
    for (l = c->first_k_dense; l < c->n_layers + c->mtp_depth; l++, loads += E) {
        float *bias = (float *)t->model->values[t->model->layers[l].router_bias].data, mean = 0.0f;
        for (e = 0; e < E; e++) mean += loads[e];
        mean /= (float)E;
        for (e = 0; e < E; e++)
            bias[e] += loads[e] < mean ? gamma : loads[e] > mean ? -gamma : 0.0f;
    }
}

/* whether this slice is the next, with the norm that the others had */
static llm_result llmi_slice_check(llm_trainer *t, size_t first, size_t count, double grad_norm,
                                   llm_error *err) {
    const size_t low = t->desc.shard_first, high = low + t->desc.shard_count;
    if (first < low || first > high || count > high - first)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "update: weights %lu + %lu are not within this trainer's %lu to %lu",
                         (unsigned long)first, (unsigned long)count, (unsigned long)low,
                         (unsigned long)high);
    if (first != low + t->updated)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "update: a slice from weight %lu on, %lu is next",
                         (unsigned long)first, (unsigned long)(low + t->updated));
    if (grad_norm < 0.0)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "update: grad_norm %g is below 0", grad_norm);
    if (t->updated && !(grad_norm >= t->slices_norm && grad_norm <= t->slices_norm))
        return llmi_fail(err, LLM_ERR_ARGUMENT, "update: grad_norm %g, the first slice had %g",
                         grad_norm, t->slices_norm);
    if (isfinite(grad_norm)) return LLM_OK;
    llmi_trainer_drop(t);
    return llmi_fail(err, LLM_ERR_NUMERIC,
                     "the gradient's norm is %g at step %lld: the pending accumulation is dropped",
                     grad_norm, (long long)t->step);
}

LLM_API llm_result llm_trainer_update_range(llm_trainer *trainer, size_t first, size_t count,
                                            double grad_norm, llm_train_stats *stats,
                                            llm_error *err) {
    llm_trainer *t = trainer;
    double scale = 0.0;
    llm_adamw adamw;
    llmi_update job;
    LLMI_TRY(llmi_update_check(t, &scale, err));
    LLMI_TRY(llmi_slice_check(t, first, count, grad_norm, err));
    if (t->desc.grad_clip > 0.0f) scale *= llmi_clip_factor(grad_norm, (double)t->desc.grad_clip);
    memset(&adamw, 0, sizeof adamw);
    adamw.step = t->step;
    adamw.learning_rate = llmi_learning_rate(&t->desc, t->step);
    adamw.beta1 = t->desc.beta1;
    adamw.beta2 = t->desc.beta2;
    adamw.eps = t->desc.adam_eps;
    adamw.weight_decay = t->desc.weight_decay;
    memset(&job, 0, sizeof job);
    job.context = t->context;
    job.weight = t->model->block + first;
    job.m = t->m + (first - t->desc.shard_first);
    job.v = t->v + (first - t->desc.shard_first);
    job.grad = t->gradients + first;
    job.n = count;
    job.with_decay = job.without_decay = llmi_adamw_constants(&adamw, scale);
    job.without_decay.keep = 1.0f;
    job.table = &t->model->table;
    job.first = first;
    llmi_for(t->context, count, LLMI_PIECE, llmi_update_body, &job);
    t->last_grad_norm = (float)grad_norm;
    t->last_learning_rate = adamw.learning_rate;
    t->updated += count;
    t->slices_norm = grad_norm;
    if (t->updated == t->desc.shard_count) {       /* the last slice completes the update */
        t->updated = 0;
        llmi_router_update(t);
        t->step++;
        t->n_accumulated = 0;
    }
    if (stats) {
        stats->step = t->step;
        stats->tokens = t->n_tokens;
        stats->grad_norm = t->last_grad_norm;
        stats->learning_rate = t->last_learning_rate;
    }
    return LLM_OK;
}

LLM_API llm_result llm_trainer_update(llm_trainer *trainer, llm_train_stats *stats,
                                      llm_error *err) {
    double scale = 0.0, norm;
    LLMI_TRY(llmi_update_check(trainer, &scale, err));
    norm = sqrt(llmi_square_sum(trainer->context, trainer->gradients, trainer->floats)) * scale;
    return llm_trainer_update_range(trainer, trainer->desc.shard_first, trainer->desc.shard_count,
                                    norm, stats, err);
}

LLM_API llm_result llm_trainer_step(llm_trainer *trainer, const int32_t *tokens,
                                    const int32_t *targets, llm_train_stats *stats,
                                    llm_error *err) {
    LLMI_TRY(llm_trainer_forward(trainer, tokens, targets, stats, err));
    LLMI_TRY(llm_trainer_backward(trainer, err));
    if (trainer->n_accumulated < trainer->desc.grad_accum_steps) return LLM_OK;
    if (llm_trainer_gradient_scale(trainer) == 0.0) {
        llmi_trainer_drop(trainer);
        if (stats) stats->skipped = 1;
        return LLM_OK;
    }
    return llm_trainer_update(trainer, stats, err);
}

LLM_API llm_result llm_trainer_evaluate(llm_trainer *trainer, const int32_t *tokens,
                                        const int32_t *targets, int B, int T,
                                        llm_train_stats *stats, llm_error *err) {
    llmi_losses losses;
    llmi_arena arena;
    double balance = 0.0;
    llmi_run run;
    LLMI_TRY(llmi_check_targets(trainer, tokens, targets, B, T, err));
    run = trainer->run;                /* the same buffers: no forward is pending */
    run.n_sequences = (size_t)B;
    run.rows = (size_t)T;
    run.embd_pdrop = run.attn_pdrop = run.resid_pdrop = 0.0f;
    run.loads = NULL;
    run.balance = trainer->desc.router_aux_alpha > 0.0f ? &balance : NULL;
    run.keep_x = run.saved.keep = 0;   /* no backward follows */
    arena = llmi_arena_at(trainer->activations, trainer->activations_size);
    llmi_carve_activations(&run, &arena, &trainer->model->config, llmi_run_rows(&run));
    llmi_trainer_loss(trainer, &run, tokens, targets, 0, &losses);
    losses.balance = balance;
    if (!isfinite(losses.total))
        return llmi_fail(err, LLM_ERR_NUMERIC, "evaluate: the loss is %g", losses.total);
    if (stats) llmi_loss_stats(trainer, &losses, (size_t)B, stats);
    return LLM_OK;
}

LLM_API llm_result llm_trainer_set_user_data(llm_trainer *trainer, const void *data, size_t size,
                                             llm_error *err) {
    if (!trainer || (!data && size))
        return llmi_fail(err, LLM_ERR_ARGUMENT, "trainer or user data is NULL");
    LLMI_TRY(llmi_grow(trainer->model->allocator, &trainer->user_data, &trainer->user_data_capacity,
                       0, size, "user data", err));
    if (size) memmove(trainer->user_data, data, size);
    trainer->user_data_size = size;
    return LLM_OK;
}
LLM_API const void *llm_trainer_user_data(const llm_trainer *trainer, size_t *size) {
    if (size) *size = trainer ? trainer->user_data_size : 0;
    return trainer ? trainer->user_data : NULL;
}

/* ============================================================================================
 * >>session      key-value caches of several sequences
 * ========================================================================================== */
#define LLMI_PREFILL_ROWS 512          /* a longer call runs in pieces: the buffers stay small */

/* rows of one position each: first .. first + count */
typedef struct llmi_window { float *rows; int first, count; } llmi_window;

struct llm_session {
    const llm_model *model;
    llm_context *context;
    llm_session_desc desc;             /* resolved */
    size_t cache_size;                 /* bytes */
    char *cache;
    void *memory;                      /* the rest, cut up by the plan */
    llmi_run run;
    int *length;                       /* (n_sequences) */
    int32_t *tokens;                   /* (n_sequences,max_seq_len): what was evaluated */
    int *position, *slot;              /* of a run's sequences, at most LLMI_FEW_ROWS of them */
    int32_t *batch;                    /* their tokens */
    float *head_logits; /* (LLMI_FEW_ROWS,V): of eval_batch, where sequences are skipped */
    float *sample_logits;              /* (1 + MTP modules, V): of generate */
    /* sequence 0, with speculate */
    llmi_window mtp_h[LLMI_MTP_MAX + 1];       /* h^k where the next module has not been yet   */
    int mtp_done[LLMI_MTP_MAX + 1];    /* positions that module k's cache holds for good       */
};

static size_t llmi_session_rows(const llm_session *s) {
    return llmi_max(llmi_min((size_t)s->desc.max_seq_len, LLMI_PREFILL_ROWS),
                    llmi_min((size_t)s->desc.n_sequences, LLMI_FEW_ROWS));
}

static void llmi_session_plan(llm_session *s, const llm_config *config, int n_threads,
                              llmi_arena *arena) {
    const size_t n = (size_t)s->desc.n_sequences, rows = llmi_session_rows(s),
                 few = llmi_min(n, LLMI_FEW_ROWS), V = (size_t)config->vocab_size;
    int k;
    s->run.mtp = s->desc.speculate ? config->mtp_depth : 0;
    s->run.cache_type = s->desc.cache_dtype;
    llmi_carve_activations(&s->run, arena, config, rows);
    llmi_carve_work(&s->run, arena, config, rows, 1, (size_t)s->desc.max_seq_len, n_threads, 0);
    for (k = 0; s->run.mtp && k <= s->run.mtp; k++)
        s->mtp_h[k].rows = llmi_carve_floats(
            arena, llmi_mul(rows + 2 * LLMI_FEW_ROWS, (size_t)config->d_model));
    s->length = (int *)llmi_carve(arena, n, sizeof(int));
    s->position = (int *)llmi_carve(arena, few, sizeof(int));
    s->slot = (int *)llmi_carve(arena, few, sizeof(int));
    s->tokens = (int32_t *)llmi_carve(arena, llmi_mul(n, (size_t)s->desc.max_seq_len),
                                      sizeof(int32_t));
    s->batch = (int32_t *)llmi_carve(arena, few, sizeof(int32_t));
    s->head_logits = n > 1 ? llmi_carve_floats(arena, llmi_mul(few, V)) : NULL;
    s->sample_logits = llmi_carve_floats(arena, llmi_mul(V, (size_t)s->run.mtp + 1));
}

static size_t llmi_session_cache_size(const llm_session *s, const llm_config *config) {
    return llmi_mul(llm_config_cache_bytes(config, s->desc.max_seq_len, s->desc.cache_dtype) /
                        (size_t)config->n_layers,
                    llmi_mul((size_t)s->desc.n_sequences,
                             (size_t)(config->n_layers +
                                      (s->desc.speculate ? config->mtp_depth : 0))));
}

/* attention's, or sampling's */
static size_t llmi_session_scratch(const llm_session *s, const llm_config *config,
                                   llm_context *context) {
    return llmi_max(llmi_model_attention_scratch(context, LLM_PRECISION_FP32, config,
                                                 (size_t)s->desc.max_seq_len, 1, 0),
                    llmi_mul((size_t)config->vocab_size, 16));
}

/* resolves *d, too */
static llm_result llmi_session_check(llm_session_desc *d, const llm_config *config,
                                     llm_error *err) {
    if (d->max_seq_len == 0) d->max_seq_len = config->max_seq_len;
    if (d->n_sequences == 0) d->n_sequences = 1;
    LLMI_TRY(llmi_check_int("session desc: max_seq_len", d->max_seq_len, 1, config->max_seq_len,
                            err));
    LLMI_TRY(llmi_check_int("session desc: n_sequences", d->n_sequences, 1, 1 << 20, err));
    LLMI_TRY(llmi_check_int("session desc: n_threads", d->n_threads, 0, 1024, err));
    if (d->cache_dtype == LLM_DTYPE_DEFAULT) d->cache_dtype = LLM_F32;
    if (!llm_config_cache_bytes(config, 1, d->cache_dtype))
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "session desc: cache_dtype %d: F32, F16 and BF16 are supported, and Q8_0 "
                         "if 32 divides the head dim (GPT-2) or kv_lora_rank and "
                         "qk_rope_head_dim (DeepSeek)",
                         (int)d->cache_dtype);
    if (d->speculate && !config->mtp_depth)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "session desc: speculate %d: the model has no MTP modules", d->speculate);
    return LLM_OK;
}

LLM_API llm_result llm_session_desc_resolve(llm_session_desc *desc, const llm_config *config,
                                            llm_error *err) {
    llm_session_desc d;
    llm_config c;
    if (!desc) return llmi_fail(err, LLM_ERR_ARGUMENT, "session desc is NULL");
    LLMI_TRY(llmi_config_resolved(&c, config, err));
    d = *desc;
    LLMI_TRY(llmi_session_check(&d, &c, err));
    *desc = d;
    return LLM_OK;
}

LLM_API llm_result llm_session_memory(const llm_config *config, const llm_session_desc *desc,
                                      llm_memory *memory, llm_error *err) {
    llmi_arena arena = llmi_arena_at(NULL, 0);
    llm_context context;
    llm_session s;
    llm_config c;
    size_t panels;
    if (!memory) return llmi_fail(err, LLM_ERR_ARGUMENT, "session memory: memory is NULL");
    LLMI_TRY(llmi_config_resolved(&c, config, err));
    memset(&s, 0, sizeof s);
    if (desc) s.desc = *desc;
    LLMI_TRY(llmi_session_check(&s.desc, &c, err));
    panels = llmi_context_plan(&context, s.desc.n_threads);
    llmi_session_plan(&s, &c, context.n_threads, &arena);
    memset(memory, 0, sizeof *memory);
    memory->cache = llmi_session_cache_size(&s, &c);
    memory->activations = arena.used;
    memory->scratch = llmi_add(panels * sizeof(float), llmi_session_scratch(&s, &c, &context));
    memory->total = llmi_add(llmi_add(memory->cache, memory->activations), memory->scratch);
    return LLM_OK;
}

LLM_API void llm_session_free(llm_session *session) {
    const llm_allocator *allocator;
    if (!session) return;
    allocator = session->model->allocator;
    llm_context_free(session->context);
    llmi_release(allocator, session->cache);
    llmi_release(allocator, session->memory);
    llmi_release(allocator, session);
}

static llm_result llmi_session_allocate(llm_session *s, llm_error *err) {
    const llm_config *config = &s->model->config;
    const llm_allocator *allocator = s->model->allocator;
    llmi_arena arena = llmi_arena_at(NULL, 0);
    s->context = llmi_model_context(s->model, s->desc.n_threads, err);
    if (!s->context) return LLM_ERR_MEMORY;
    LLMI_TRY(llmi_scratch_reserve(s->context, llmi_session_scratch(s, config, s->context), err));
    s->cache_size = llmi_session_cache_size(s, config);
    s->cache = (char *)llmi_alloc(allocator, s->cache_size, "key-value cache", err);
    if (!s->cache) return LLM_ERR_MEMORY;
    llmi_session_plan(s, config, s->context->n_threads, &arena);
    LLMI_TRY(llmi_arena_take(&arena, &s->memory, allocator, "activations", err));
    llmi_session_plan(s, config, s->context->n_threads, &arena);
    memset(s->length, 0, (size_t)s->desc.n_sequences * sizeof(int));
    if (s->run.mtp) memset(s->cache, 0, s->cache_size);    /* a module may not see all positions */
    return LLM_OK;
}

LLM_API llm_session *llm_session_create(const llm_model *model, const llm_session_desc *desc,
                                        llm_error *err) {
    llm_session_desc d;
    llm_session *s;
    memset(&d, 0, sizeof d);
    if (!model) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "model is NULL");
        return NULL;
    }
    if (desc) d = *desc;
    if (llmi_session_check(&d, &model->config, err) != LLM_OK) return NULL;
    if (d.n_threads == 0) d.n_threads = model->n_threads;
    s = (llm_session *)llmi_alloc(model->allocator, sizeof *s, "session", err);
    if (!s) return NULL;
    memset(s, 0, sizeof *s);
    s->model = model;
    s->desc = d;
    if (llmi_session_allocate(s, err) != LLM_OK) {
        llm_session_free(s);
        return NULL;
    }
    s->run.context = s->context;
    s->run.model = model;
    s->run.position = s->position;
    s->run.slot = s->slot;
    s->run.cache = s->cache;
    s->run.cache_slots = (size_t)d.n_sequences;
    s->run.cache_len = (size_t)d.max_seq_len;
    return s;
}

LLM_API int llm_session_length(const llm_session *session, int sequence) {
    return session && sequence >= 0 && sequence < session->desc.n_sequences
               ? session->length[sequence]
               : -1;
}
LLM_API size_t llm_session_cache_bytes(const llm_session *session) {
    return session ? session->cache_size : 0;
}

static llm_result llmi_check_sequence(const llm_session *s, int sequence, llm_error *err) {
    if (!s) return llmi_fail(err, LLM_ERR_ARGUMENT, "session is NULL");
    return llmi_check_int("sequence", sequence, 0, s->desc.n_sequences - 1, err);
}

/* ---- the MTP modules' part: h^k goes from module to module, a few rows or a whole prompt ---- */

/* where the row of a position goes; what stood there and after it is forgotten */
static float *llmi_window_at(llmi_window *w, int position, size_t width) {
    const int inside = position >= w->first && position <= w->first + w->count;
    if (!inside) w->first = position;
    w->count = inside ? position - w->first : 0;
    return w->rows + (size_t)w->count * width;
}
static void llmi_window_drop(llmi_window *w, int before, size_t width) {
    const int n = before < w->first ? 0 : llmi_int_min(before - w->first, w->count);
    memmove(w->rows, w->rows + (size_t)n * width, (size_t)(w->count - n) * width * sizeof(float));
    w->first += n;
    w->count -= n;
}
static void llmi_mtp_rewind(llm_session *s, int length) {
    int k;
    for (k = 0; k <= s->run.mtp; k++) {
        llmi_window *w = &s->mtp_h[k];
        if (w->first + w->count > length) w->count = length > w->first ? length - w->first : 0;
        s->mtp_done[k] = llmi_int_min(s->mtp_done[k], length > k ? length - k : 0);
    }
}

/* the trunk's rows just run, at position, become rows of h^0 */
static void llmi_mtp_take(llm_session *s, int position) {
    const size_t C = (size_t)s->model->config.d_model;
    llmi_final_norm_forward(&s->run, llmi_window_at(&s->mtp_h[0], position, C), NULL, NULL,
                            llmi_run_x(&s->run, s->model->config.n_layers), s->run.rows);
    s->mtp_h[0].count += (int)s->run.rows;
}

/* Module k over the positions that its input and the first `known` tokens allow, of which those
 * after `settled` are drafts. -> h^k (C) of the last position, NULL where there is none. */
static const float *llmi_mtp_advance(llm_session *s, int k, int known, int settled) {
    const size_t C = (size_t)s->model->config.d_model;
    llmi_window *in = &s->mtp_h[k - 1], *out = &s->mtp_h[k];
    const int end = llmi_int_min(in->first + in->count, known - k);
    int at = s->mtp_done[k] > in->first ? s->mtp_done[k] : in->first;
    if (k == s->run.mtp) out->count = 0;           /* nobody reads them */
    while (at < end) {
        const int n = llmi_int_min(end - at, (int)llmi_session_rows(s));
        llmi_run run = s->run;
        run.n_sequences = 1;
        run.rows = (size_t)n;
        run.few = n <= (int)LLMI_FEW_ROWS;
        s->position[0] = at;
        s->slot[0] = 0;
        if (k == s->run.mtp) out->count = 0;
        llmi_mtp_forward(&run, s->model->config.n_layers + k - 1, llmi_window_at(out, at, C),
                         s->tokens + at + k, in->rows + (size_t)(at - in->first) * C, (size_t)n);
        out->count += n;
        at += n;
    }
    if (end > 0) s->mtp_done[k] = llmi_int_min(end, settled > k ? settled - k : 0);
    llmi_window_drop(in, s->mtp_done[k], C);
    return out->count && out->first + out->count == known - k
               ? out->rows + (size_t)(out->count - 1) * C : NULL;
}

/* Drafts up to n tokens after `token`, which is not evaluated yet; -> how many. Modules beyond n
 * fill their caches all the same. */
static int llmi_mtp_draft(llm_session *s, int32_t token, int32_t *drafts, int n) {
    const size_t V = (size_t)s->model->config.vocab_size;
    const int length = s->length[0];
    int k, n_drafts = 0;
    s->tokens[length] = token;
    for (k = 1; k <= s->run.mtp; k++) {
        const float *h = llmi_mtp_advance(s, k, length + 1 + n_drafts, length + 1);
        size_t i, best = 0;
        if (!h || k > n) continue;
        llmi_matmul(s->context, s->sample_logits, V, h,
                    llmi_head_matrix(s->model, LLM_PRECISION_FP32), NULL, 1, 0);
        for (i = 1; i < V; i++)
            if (s->sample_logits[i] > s->sample_logits[best]) best = i;
        drafts[n_drafts++] = s->tokens[length + k] = (int32_t)best;
    }
    return n_drafts;
}

LLM_API llm_result llm_session_rewind(llm_session *session, int sequence, int length,
                                      llm_error *err) {
    LLMI_TRY(llmi_check_sequence(session, sequence, err));
    LLMI_TRY(llmi_check_int("rewind: length", length, 0, session->length[sequence], err));
    session->length[sequence] = length;
    if (sequence == 0) llmi_mtp_rewind(session, length);
    return LLM_OK;
}

/* logits (n,V) of the rows first, first + step, ... of the run just made */
static void llmi_session_logits(llm_session *s, float *logits, size_t first, size_t n) {
    const size_t V = (size_t)s->model->config.vocab_size, C = (size_t)s->model->config.d_model;
    llmi_final_norm_forward(&s->run, s->run.h, NULL, NULL,
                         llmi_run_x(&s->run, s->model->config.n_layers) + first * C, n);
    llmi_matmul(s->context, logits, V, s->run.h, llmi_head_matrix(s->model, LLM_PRECISION_FP32),
                NULL, n, 0);
}

/* logits (n_logits,V): of the last rows, no more than LLMI_FEW_ROWS */
static llm_result llmi_session_append(llm_session *s, int sequence, const int32_t *tokens, int n,
                                      float *logits, int n_logits, llm_error *err) {
    int at, start, k;
    LLMI_TRY(llmi_check_sequence(s, sequence, err));
    if (!tokens) return llmi_fail(err, LLM_ERR_ARGUMENT, "tokens is NULL");
    LLMI_TRY(llmi_check_int("eval: number of tokens", n, 1, INT_MAX, err));
    if (n > s->desc.max_seq_len - s->length[sequence])
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "eval: %d tokens do not fit: sequence %d holds %d of max_seq_len %d", n,
                         sequence, s->length[sequence], s->desc.max_seq_len);
    LLMI_TRY(llmi_check_tokens(tokens, (size_t)n, s->model->config.vocab_size, "token", 0, err));
    start = s->length[sequence];
    memmove(s->tokens + (size_t)sequence * (size_t)s->desc.max_seq_len + start, tokens,
            (size_t)n * sizeof *tokens);
    for (at = 0; at < n; at += (int)s->run.rows) {
        s->run.n_sequences = 1;
        s->run.rows = llmi_min((size_t)(n - at), LLMI_PREFILL_ROWS);
        s->run.few = n <= (int)LLMI_FEW_ROWS;
        s->position[0] = start + at;
        s->slot[0] = sequence;
        llmi_trunk_forward(&s->run, tokens + at);
        if (s->run.mtp && sequence == 0) llmi_mtp_take(s, start + at);
        if (logits && at + (int)s->run.rows == n)
            llmi_session_logits(s, logits, s->run.rows - (size_t)n_logits, (size_t)n_logits);
        if (s->run.mtp && s->mtp_h[0].count > (int)LLMI_FEW_ROWS)
            for (k = 1; k <= s->run.mtp; k++) (void)llmi_mtp_advance(s, k, start + n, start + n);
    }
    s->length[sequence] += n;
    return LLM_OK;
}

LLM_API llm_result llm_session_eval(llm_session *session, int sequence, const int32_t *tokens,
                                    int n, float *logits, llm_error *err) {
    return llmi_session_append(session, sequence, tokens, n, logits, 1, err);
}

LLM_API llm_result llm_session_eval_batch(llm_session *session, const int32_t *tokens,
                                          float *logits, llm_error *err) {
    llm_session *s = session;
    const size_t V = s ? (size_t)s->model->config.vocab_size : 0;
    int i, n = 0, first;
    if (!s || !tokens) return llmi_fail(err, LLM_ERR_ARGUMENT, "session or tokens is NULL");
    for (i = 0; i < s->desc.n_sequences; i++) {
        if (tokens[i] < 0) continue;
        LLMI_TRY(llmi_check_tokens(tokens + i, 1, s->model->config.vocab_size, "token", 0, err));
        if (s->length[i] >= s->desc.max_seq_len)
            return llmi_fail(err, LLM_ERR_ARGUMENT,
                             "eval_batch: sequence %d is full: it holds %d of max_seq_len %d", i,
                             s->length[i], s->desc.max_seq_len);
    }
    for (first = 0; first < s->desc.n_sequences;
         first = i) { /* few rows at a time: the decode path */
        for (n = 0, i = first; i < s->desc.n_sequences && n < (int)LLMI_FEW_ROWS; i++) {
            if (tokens[i] < 0) continue;
            s->batch[n] = tokens[i];
            s->slot[n] = i;
            s->position[n++] = s->length[i];
        }
        if (n == 0) break;
        s->run.n_sequences = (size_t)n;
        s->run.rows = 1;
        s->run.few = 1;
        llmi_trunk_forward(&s->run, s->batch);
        if (logits) {
            float *out = s->head_logits ? s->head_logits : logits;
            int row;
            llmi_session_logits(s, out, 0, (size_t)n);
            for (row = 0; row < n && out != logits; row++)
                memcpy(logits + (size_t)s->slot[row] * V, out + (size_t)row * V, V * sizeof(float));
        }
        while (n--) {
            const int sequence = s->slot[n];
            s->tokens[(size_t)sequence * (size_t)s->desc.max_seq_len +
                      (size_t)s->length[sequence]++] = s->batch[n];
        }
    }
    return LLM_OK;
}

/* ============================================================================================
 * >>sample       one token from logits
 *
 * Filters keep a set of tokens and leave their proportions: so they only need the tokens in order
 * of logit, as far down as they keep any. A heap gives that without sorting the vocabulary.
 * ========================================================================================== */
typedef struct llmi_candidate { float logit; int32_t token; } llmi_candidate;

static int llmi_candidate_before(const llmi_candidate *a, const llmi_candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}
static void llmi_candidate_sift(llmi_candidate *heap, size_t n, size_t i) {
    const llmi_candidate moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && llmi_candidate_before(&heap[child + 1], &heap[child])) child++;
        if (!llmi_candidate_before(&heap[child], &moving)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

#define LLMI_SAMPLING(member) #member, offsetof(llm_sampling, member)
static llm_result llmi_check_sampling(const llm_sampling *p, llm_error *err) {
    static const llmi_field fields[] = {
        {LLMI_SAMPLING(top_k), LLMI_INT, "[]", 0, INT_MAX, 0, 0, NULL, NULL, 0},
        {LLMI_SAMPLING(temperature), LLMI_FLOAT, "[]", 0, FLT_MAX, 0, 0, NULL, NULL, 0},
        {LLMI_SAMPLING(top_p), LLMI_FLOAT, "[]", 0, 1, 0, 0, NULL, NULL, 0},
        {LLMI_SAMPLING(min_p), LLMI_FLOAT, "[]", 0, 1, 0, 0, NULL, NULL, 0},
        {LLMI_SAMPLING(repetition_penalty), LLMI_FLOAT, "[]", 0, FLT_MAX, 0, 0, NULL, NULL, 0}};
    return llmi_fields_check("sampling: ", p, fields, LLMI_COUNT(fields), 1, err);
}

/* the finite logits, penalised; -> how many there are: NaN and infinities are never drawn */
static size_t llmi_candidates(llmi_candidate *all, const float *logits, size_t V, float penalty,
                              const int32_t *history, size_t n_history) {
    size_t i, n = 0;
    for (i = 0; i < V; i++) {
        all[i].logit = logits[i];
        all[i].token = (int32_t)i;
    }
    for (i = 0; i < n_history; i++) {  /* from logits: once however often a token occurs */
        const float x = logits[history[i]];
        all[history[i]].logit = x < 0.0f ? x * penalty : x / penalty;
    }
    for (i = 0; i < V; i++)
        if (all[i].logit >= -FLT_MAX && all[i].logit <= FLT_MAX) all[n++] = all[i];
    return n;
}

/* proportional to a candidate's probability; top: the largest logit */
static double llmi_candidate_weight(float logit, double top, float temperature) {
    return exp(((double)logit - top) / (double)temperature);
}

/* What top-k, top-p and min-p leave of n candidates: they go to the end of the heap, the most
 * likely last, their weights to weights, the most likely first; -> how many they are. */
static size_t llmi_sample_filter(llmi_candidate *heap, size_t n, double *weights, double top,
                                 const llm_sampling *p) {
    const int filter_k = p->top_k > 0, filter_p = p->top_p > 0.0f && p->top_p < 1.0f;
    const size_t limit = filter_k ? llmi_min((size_t)p->top_k, n) : n;
    size_t left = n, kept = 0, i;
    double total = 0.0, reached = 0.0;
    float least = 0.0f;                /* of the top k; its equals stay, too */
    if (filter_p && !filter_k)
        for (i = 0; i < n; i++)
            total += llmi_candidate_weight(heap[i].logit, top, p->temperature);
    for (i = n / 2; i-- > 0;) llmi_candidate_sift(heap, n, i);
    while (left) {       /* the k-th largest goes to the heap's freed end, heap[n - k] */
        const llmi_candidate next = heap[0];
        const double weight = llmi_candidate_weight(next.logit, top, p->temperature);
        if (kept >= limit && next.logit < least) break;
        if (kept && !filter_k &&
            (weight < (double)p->min_p || (filter_p && reached >= (double)p->top_p * total)))
            break;
        heap[0] = heap[--left];
        llmi_candidate_sift(heap, left, 0);
        heap[left] = next;
        weights[kept++] = weight;
        least = next.logit;
        reached += weight;
    }
    if (filter_p) {      /* the smallest set that reaches top_p of what top-k left */
        if (filter_k) total = reached;
        for (i = 0, reached = 0.0; i < kept && reached < (double)p->top_p * total; i++)
            reached += weights[i];
        kept = llmi_max(i, 1);
    }
    while (kept > 1 && weights[kept - 1] < (double)p->min_p) kept--;
    return kept;
}

LLM_API llm_result llm_sample(llm_context *context, int32_t *token, const float *logits,
                              int vocab_size, const llm_sampling *sampling, const int32_t *history,
                              int n_history, uint64_t counter, llm_error *err) {
    llm_sampling p;
    llmi_candidate *all;
    double *weights, draw, sum = 0.0;
    size_t V = (size_t)vocab_size, n, kept, best = 0, i;
    int penalised, filtered;
    memset(&p, 0, sizeof p);
    if (sampling) p = *sampling;
    if (!context || !token || !logits || (n_history > 0 && !history))
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "sample: context, token, logits or history is NULL");
    LLMI_TRY(llmi_check_int("sample: vocab_size", vocab_size, 1, INT_MAX, err));
    LLMI_TRY(llmi_check_int("sample: n_history", n_history, 0, INT_MAX, err));
    LLMI_TRY(llmi_check_sampling(&p, err));
    LLMI_TRY(llmi_check_tokens(history, (size_t)n_history, vocab_size, "sample: history", 0, err));
    penalised = n_history > 0 && p.repetition_penalty > 0.0f && p.repetition_penalty != 1.0f;
    if (p.temperature == 0.0f && !penalised) {
        const float most = context->kernels->largest(logits, V);
        if (most >= -FLT_MAX && most <= FLT_MAX) {         /* else: the first was NaN, or worse */
            for (i = 0; logits[i] != most; i++) continue;
            *token = (int32_t)i;
            return LLM_OK;
        }
    }
    LLMI_TRY(llmi_scratch_reserve(context, llmi_mul(V, sizeof *all + sizeof *weights), err));
    weights = (double *)context->scratch;
    all = (llmi_candidate *)(void *)(weights + V);
    n = llmi_candidates(all, logits, V, p.repetition_penalty, history,
                        penalised ? (size_t)n_history : 0);
    if (!n)
        return llmi_fail(err, LLM_ERR_NUMERIC, "sample: none of %d logits is finite", vocab_size);
    for (i = 1; i < n; i++)
        if (llmi_candidate_before(&all[i], &all[best])) best = i;
    if (p.temperature == 0.0f) {
        *token = all[best].token;
        return LLM_OK;
    }
    filtered = p.top_k > 0 || (p.top_p > 0.0f && p.top_p < 1.0f) || p.min_p > 0.0f;
    kept = n;
    if (filtered) kept = llmi_sample_filter(all, n, weights, (double)all[best].logit, &p);
    else {
        const double top = (double)all[best].logit;
        for (i = 0; i < n; i++)
            weights[i] = llmi_candidate_weight(all[i].logit, top, p.temperature);
    }
    for (i = 0; i < kept; i++) sum += weights[i];
    draw = (double)(llm_random(p.seed, counter) >> 11) / 9007199254740992.0 * sum;
    for (i = 0; i + 1 < kept; i++) {
        draw -= weights[i];
        if (draw < 0.0) break;
    }
    *token = all[filtered ? n - 1 - i : i].token;
    return LLM_OK;
}

/* ============================================================================================
 * >>generate     prompt in, tokens out
 * ========================================================================================== */
/* resolves *d, too */
static llm_result llmi_generate_check(llm_generate_desc *d, const llm_session *s,
                                      const int32_t *prompt, int capacity, llm_error *err) {
    if (!s || !prompt)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "generate: session or prompt is NULL");
    if (d->n_stop_tokens > 0 && !d->stop_tokens)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "generate: stop_tokens is NULL");
    LLMI_TRY(llmi_check_int("generate: n_stop_tokens", d->n_stop_tokens, -1, INT_MAX, err));
    if (d->n_stop_tokens == 0) {
        d->stop_tokens = s->model->special.eos;
        d->n_stop_tokens = s->model->special.n_eos;
    }
    LLMI_TRY(llmi_check_int("generate: capacity", capacity, 0, INT_MAX, err));
    LLMI_TRY(llmi_check_int("generate: max_new_tokens", d->max_new_tokens, 0, INT_MAX, err));
    if (d->speculate && !s->model->config.mtp_depth)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "generate: speculate %d: the model has no MTP modules", d->speculate);
    if (d->speculate && !s->run.mtp)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "generate: speculate %d, but the session was created without",
                         d->speculate);
    return llmi_check_sampling(&d->sampling, err);
}

/* Evaluates batch[0] after `length` tokens, and after it what the modules draft, `most` at most. */
static llm_result llmi_generate_next(llm_session *s, const llm_generate_desc *d, int length,
                                     int32_t *batch, int most, int *n_drafts, llm_error *err) {
    LLMI_TRY(llm_session_rewind(s, 0, length, err));
    *n_drafts = 0;
    if (d->speculate)
        *n_drafts = llmi_mtp_draft(s, batch[0], batch + 1, llmi_int_min(s->run.mtp, most));
    return llmi_session_append(s, 0, batch, 1 + *n_drafts, s->sample_logits, 1 + *n_drafts, err);
}

LLM_API llm_result llm_generate(llm_session *session, const int32_t *prompt, int n_prompt,
                                const llm_generate_desc *desc, int32_t *tokens, int capacity,
                                llm_generate_stats *stats, llm_error *err) {
    llm_session *s = session;
    llm_generate_stats count;
    llm_generate_desc d;
    llm_result result = LLM_OK;
    double start = llmi_seconds();
    int32_t batch[1 + LLMI_MTP_MAX];   /* a token, then drafts of those that follow it */
    int first, limit, i, n_drafts = 0;
    int row = 0;                       /* of the last evaluation's logits, the next to sample */
    size_t V;
    memset(&count, 0, sizeof count);
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    LLMI_TRY(llmi_generate_check(&d, s, prompt, capacity, err));
    V = (size_t)s->model->config.vocab_size;
    first = s->length[0];
    LLMI_TRY(llm_session_eval(s, 0, prompt, n_prompt, s->sample_logits, err));
    count.n_prompt = n_prompt;
    limit = s->desc.max_seq_len - s->length[0];
    if (d.max_new_tokens > 0 && limit > d.max_new_tokens) limit = d.max_new_tokens;
    if (tokens && limit > capacity) limit = capacity;
    count.prefill_seconds = llmi_seconds() - start;
    start = llmi_seconds();
    while (count.n_generated < limit) {
        const int length = s->length[0] - n_drafts + row;  /* tokens that row follows */
        int32_t token;
        int stop = 0;
        result = llm_sample(s->context, &token, s->sample_logits + (size_t)row * V, (int)V,
                            &d.sampling, s->tokens, length, (uint64_t)count.n_generated, err);
        if (result != LLM_OK) break;
        if (tokens) tokens[count.n_generated] = token;
        count.n_generated++;
        if (d.on_token && d.on_token(token, d.user)) {
            result = llmi_fail(err, LLM_ERR_CANCELLED, "generate: cancelled after %d tokens",
                               count.n_generated);
            break;
        }
        for (i = 0; i < d.n_stop_tokens; i++) stop |= token == d.stop_tokens[i];
        if (stop || count.n_generated == limit) break;
        if (row < n_drafts && token == batch[1 + row]) {   /* as drafted: its row is there, too */
            count.n_accepted++;
            row++;
            continue;
        }
        row = 0;
        batch[0] = token;
        result = llmi_generate_next(s, &d, length, batch, limit - count.n_generated - 1, &n_drafts,
                                    err);
        if (result != LLM_OK) break;
        count.n_drafted += n_drafts;
    }
    if (result != LLM_OK && result != LLM_ERR_CANCELLED)
        (void)llm_session_rewind(s, 0, first, NULL);
    else if (n_drafts > row)
        (void)llm_session_rewind(s, 0, s->length[0] - n_drafts + row, NULL);
    count.decode_seconds = llmi_seconds() - start;
    if (stats) *stats = count;
    return result;
}

/* ============================================================================================
 * >>file         whole files in; files out under a temporary name first
 * ========================================================================================== */
#define LLMI_PATH 4096u                /* bytes of the longest path */
#ifndef LLM_NO_STDIO

static llm_result llmi_fail_io(llm_error *err, const char *what, const char *path) {
    return llmi_fail(err, LLM_ERR_IO, "%.120s: cannot %s: %.80s", llmi_path_end(path, 120), what,
                     errno ? strerror(errno) : "the file ends early");
}

static llm_result llmi_path_join(char *out, size_t capacity, const char *directory,
                                 const char *name, llm_error *err) {
    const size_t n = strlen(directory);
    const char *slash = n && directory[n - 1] != '/' ? "/" : "";
    const int length = snprintf(out, capacity, "%s%s%s", directory, slash, name);
    if (length < 0 || (size_t)length >= capacity)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "path of %lu bytes is too long for %lu: %.80s...",
                         (unsigned long)(n + strlen(name)), (unsigned long)capacity,
                         n ? directory : name);
    return LLM_OK;
}

static int llmi_seek(FILE *file, int64_t at, int from) {
#if LLMI_POSIX
    return fseeko(file, (off_t)at, from);
#elif defined(_WIN32)
    return _fseeki64(file, at, from);
#else
    return at > LONG_MAX ? -1 : fseek(file, (long)at, from);
#endif
}
#if !LLMI_POSIX
static int64_t llmi_tell(FILE *file) {
  #ifdef _WIN32
    return _ftelli64(file);
  #else
    return ftell(file);
  #endif
}
#endif

typedef enum llmi_file_kind { LLMI_NO_FILE, LLMI_FILE, LLMI_DIRECTORY, LLMI_DEVICE } llmi_file_kind;

/* What a path names, links followed. What stat cannot look at counts as LLMI_DEVICE. Without POSIX,
 * what can be opened is LLMI_FILE, all else LLMI_NO_FILE. */
static llmi_file_kind llmi_kind_of(const char *path) {
#if LLMI_POSIX
    struct stat status;
    if (!path[0]) return LLMI_NO_FILE;
    if (stat(path, &status) != 0)
        return errno == ENOENT || errno == ENOTDIR ? LLMI_NO_FILE : LLMI_DEVICE;
    return S_ISREG(status.st_mode) ? LLMI_FILE
           : S_ISDIR(status.st_mode) ? LLMI_DIRECTORY : LLMI_DEVICE;
#else
    FILE *file = fopen(path, "rb");
    if (file) fclose(file);
    return file ? LLMI_FILE : LLMI_NO_FILE;
#endif
}

/* opens a regular file for reading; *size in bytes. Others are refused: a pipe would be waited for,
 * a device may have no end. */
static llm_result llmi_file_open(const char *path, FILE **file, int64_t *size, llm_error *err) {
    *file = NULL;
    errno = 0;
#if LLMI_POSIX
    {
        const int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        struct stat status;
        if (descriptor < 0) return llmi_fail_io(err, "open", path);
        if (fstat(descriptor, &status) != 0) {
            llmi_fail_io(err, "read", path);
        } else if (!S_ISREG(status.st_mode)) {
            llmi_fail(err, LLM_ERR_IO, "%.120s: cannot read: it is %s", llmi_path_end(path, 120),
                      S_ISDIR(status.st_mode) ? "a directory" : "no regular file");
        } else {
            *size = (int64_t)status.st_size;
            *file = fdopen(descriptor, "rb");
            if (*file) return LLM_OK;
            llmi_fail_io(err, "open", path);
        }
        close(descriptor);
        return LLM_ERR_IO;
    }
#else
    *file = fopen(path, "rb");
    if (!*file) return llmi_fail_io(err, "open", path);
    if (llmi_seek(*file, 0, SEEK_END) == 0 && (*size = llmi_tell(*file)) >= 0 &&
        *size < INT64_MAX && llmi_seek(*file, 0, SEEK_SET) == 0)
        return LLM_OK;
    llmi_fail_io(err, "read", path);
    fclose(*file);
    *file = NULL;
    return LLM_ERR_IO;
#endif
}

/* *data: the whole file, in memory that the caller releases, also where it is empty; NULL on
 * failure */
static llm_result llmi_file_read(const char *path, void **data, size_t *size,
                                 const llm_allocator *allocator, llm_error *err) {
    llm_result result = LLM_OK;
    FILE *file;
    int64_t length;
    size_t n;
    *data = NULL;
    LLMI_TRY(llmi_file_open(path, &file, &length, err));
    n = (uint64_t)length > SIZE_MAX / 2 ? SIZE_MAX : (size_t)length;
    *data = llmi_alloc(allocator, n, path, err);
    errno = 0;
    if (!*data) {
        result = LLM_ERR_MEMORY;
    } else if (fread(*data, 1, n, file) != n) {
        result = llmi_fail_io(err, "read", path);
        llmi_release(allocator, *data);
        *data = NULL;
    }
    fclose(file);
    *size = n;
    return result;
}

static llm_result llmi_directory_create(const char *path, llm_error *err) {
#if LLMI_POSIX
    if (mkdir(path, 0777) == 0) return LLM_OK;
    if (errno == EEXIST && llmi_kind_of(path) == LLMI_DIRECTORY) return LLM_OK;
    return llmi_fail_io(err, "create directory", path);
#elif defined(_WIN32)
    if (_mkdir(path) == 0 || errno == EEXIST) return LLM_OK;
    return llmi_fail_io(err, "create directory", path);
#else
    (void)path;
    (void)err; /* plain C has no directories: opening a file in it will tell */
    return LLM_OK;
#endif
}

/* Bytes go to a temporary file beside path; finish makes them durable, rename gives it its name:
 * path holds the old file or the whole new one at any moment. A link there is replaced, and what it
 * points to stays; the mode of a file that is replaced is kept. */
#define LLMI_TEMPORARIES 16            /* names that writers of one path may have at a time */
typedef struct llmi_writer {
    FILE *file;
    int lock;                          /* POSIX: descriptor that locks the temporary file, or -1 */
    char path[LLMI_PATH], temporary[LLMI_PATH + 8];
} llmi_writer;

static int llmi_file_remove(const char *path) {          /* never a directory; 0 = it is gone */
#if LLMI_POSIX
    return unlink(path) != 0 && errno != ENOENT;
#else
    return remove(path) != 0 && llmi_kind_of(path) != LLMI_NO_FILE;
#endif
}

static void llmi_temporary_name(char *out, size_t capacity, const char *path, int i) {
    char end[16] = "";
    if (i) snprintf(end, sizeof end, "%d", i);
    snprintf(out, capacity, "%.*s.tmp%.3s", (int)LLMI_PATH - 1, path, end);
}

#if LLMI_POSIX
/* A lock that goes with its process, and not to a program that another thread starts meanwhile:
 * the descriptor is O_CLOEXEC. 0 = somebody else holds it, and we do not wait. Where the system has
 * no such locks, every file seems free. */
static int llmi_lock(int file, int wait) {
  #ifdef LOCK_EX
    while (flock(file, wait ? LOCK_EX : LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) return 0;
        if (errno != EINTR) break;
    }
  #endif
    return 1;
}

/* whether a name is that of an open file; -1 = the system does not say */
static int llmi_is_named(int file, const char *name) {
    struct stat mine, there;
    if (fstat(file, &mine) != 0) return -1;
    if (lstat(name, &there) != 0) return errno == ENOENT ? 0 : -1;
    return there.st_ino == mine.st_ino && there.st_dev == mine.st_dev;
}

/* Removes a temporary file, unless a living writer holds it -> whether the name is free. NFS locks
 * only what is open for writing. */
static int llmi_temporary_clean(const char *name) {
    const int flags = O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
    int file = open(name, O_RDWR | flags), is_free = 0, named;
    if (file < 0 && errno == EACCES) file = open(name, O_RDONLY | flags);
    if (file < 0) return errno == ENOENT;
    if (llmi_lock(file, 0) && (named = llmi_is_named(file, name)) >= 0)
        is_free = !named || unlink(name) == 0;
    close(file);
    return is_free;
}

/* creates a temporary file and locks it -> its descriptor, or -1 and errno; EEXIST: it is held */
static int llmi_temporary_open(const char *name, mode_t mode) {
    for (;;) {
        const int file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (file >= 0) {
            llmi_lock(file, 1);
            if (llmi_is_named(file, name)) return file;
            close(file);               /* it was taken for a dead one's before it was locked */
        } else if (errno != EEXIST) {
            return -1;
        } else if (!llmi_temporary_clean(name)) {
            errno = EEXIST;
            return -1;
        }
    }
}

/* a name of its own, also among threads; files of dead writers are removed */
static FILE *llmi_temporary_begin(llmi_writer *w, int n_names) {
    char name[sizeof w->temporary];
    struct stat old;
    const int is_old = stat(w->path, &old) == 0;
    const mode_t mode = is_old ? old.st_mode & 0777 : 0666;
    FILE *file = NULL;
    int i, descriptor = -1, error;
    for (i = 0; i < LLMI_TEMPORARIES; i++) {
        llmi_temporary_name(name, sizeof name, w->path, i);
        if (descriptor >= 0 || i >= n_names) {
            (void)llmi_temporary_clean(name);
        } else {
            memcpy(w->temporary, name, sizeof name);
            descriptor = llmi_temporary_open(name, mode);
            if (descriptor < 0 && errno != EEXIST) return NULL;
        }
    }
    if (descriptor < 0) {
        errno = EEXIST;
        return NULL;
    }
    if (is_old) (void)fchmod(descriptor, mode);
    w->lock = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (w->lock >= 0) file = fdopen(descriptor, "wb");
    if (file) return file;
    error = errno;
    close(descriptor);
    (void)llmi_file_remove(w->temporary);
    if (w->lock >= 0) close(w->lock);
    w->lock = -1;
    errno = error;
    return NULL;
}
#else
static int llmi_temporary_clean(const char *name) { return !llmi_file_remove(name); }
#endif /* LLMI_POSIX */

static void llmi_writer_unlock(llmi_writer *w) {
#if LLMI_POSIX
    if (w->lock >= 0) close(w->lock);
#endif
    w->lock = -1;
}

static void llmi_writer_abandon(llmi_writer *w) {
    if (w->file) fclose(w->file);
    w->file = NULL;
    (void)llmi_file_remove(w->temporary);
    llmi_writer_unlock(w);
}

/* n_names: temporary names that may be tried, 1 to LLMI_TEMPORARIES */
static llm_result llmi_writer_open(llmi_writer *w, const char *path, int n_names, llm_error *err) {
    w->file = NULL;
    w->lock = -1;
    LLMI_TRY(llmi_path_join(w->path, sizeof w->path, "", path, err));
    errno = 0;
    if (llmi_kind_of(path) > LLMI_FILE)                /* or the system cannot tell: errno */
        return errno ? llmi_fail_io(err, "write", path)
                     : llmi_fail(err, LLM_ERR_IO, "%.120s: cannot write: it is no regular file",
                                 llmi_path_end(path, 120));
    errno = 0;
#if LLMI_POSIX
    w->file = llmi_temporary_begin(w, n_names);
#else
    (void)n_names;
    llmi_temporary_name(w->temporary, sizeof w->temporary, path, 0);
    w->file = fopen(w->temporary, "wb");
#endif
    return w->file ? LLM_OK : llmi_fail_io(err, "write", w->temporary);
}

static llm_result llmi_writer_add(llmi_writer *w, const void *data, size_t n, llm_error *err) {
    errno = 0;
    if (!n || fwrite(data, 1, n, w->file) == n) return LLM_OK;
    llmi_fail_io(err, "write", w->path);
    llmi_writer_abandon(w);
    return LLM_ERR_IO;
}

/* the bytes are durable, under the temporary name */
static llm_result llmi_writer_finish(llmi_writer *w, llm_error *err) {
    int failed;
    errno = 0;
    failed = fflush(w->file) != 0;
#if LLMI_POSIX
    failed = failed || fsync(fileno(w->file)) != 0;
#endif
    failed = (fclose(w->file) != 0) || failed;
    w->file = NULL;
    if (!failed) return LLM_OK;
    llmi_fail_io(err, "write", w->path);
    llmi_writer_abandon(w);
    return LLM_ERR_IO;
}

/* the names in a file's directory, too, must survive a power cut */
static void llmi_directory_sync(const char *path) {
#if LLMI_POSIX
    char parent[LLMI_PATH];
    const char *slash = strrchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) + (slash == path) : 0;
    int directory;
    memcpy(parent, path, n);
    parent[n] = 0;
    directory = open(slash ? parent : ".", O_RDONLY | O_CLOEXEC);
    if (directory >= 0) {
        (void)fsync(directory);
        close(directory);
    }
#else
    (void)path;
#endif
}

static llm_result llmi_file_rename(const char *from, const char *to, llm_error *err) {
#ifdef _WIN32
    if (MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)) return LLM_OK;
    return llmi_fail(err, LLM_ERR_IO, "%.120s: cannot write: error %lu of Windows",
                     llmi_path_end(to, 120), (unsigned long)GetLastError());
#else
    errno = 0;
    return rename(from, to) == 0 ? LLM_OK : llmi_fail_io(err, "write", to);
#endif
}

static llm_result llmi_writer_rename(llmi_writer *w, llm_error *err) {
    llm_result result;
#if LLMI_POSIX
    if (!llmi_is_named(w->lock, w->temporary)) {       /* where locks hold nobody back */
        llmi_writer_unlock(w);
        return llmi_fail(err, LLM_ERR_IO,
                         "%.120s: cannot write: another writer replaced its temporary file",
                         llmi_path_end(w->path, 120));
    }
#endif
    result = llmi_file_rename(w->temporary, w->path, err);
    if (result != LLM_OK) (void)llmi_file_remove(w->temporary);
    else llmi_directory_sync(w->path);
    llmi_writer_unlock(w);
    return result;
}

static llm_result llmi_file_write(const char *path, const void *data, size_t size, llm_error *err) {
    llmi_writer w;
    LLMI_TRY(llmi_writer_open(&w, path, LLMI_TEMPORARIES, err));
    LLMI_TRY(llmi_writer_add(&w, data, size, err));
    LLMI_TRY(llmi_writer_finish(&w, err));
    return llmi_writer_rename(&w, err);
}

static uint64_t llmi_hash_add(uint64_t hash, const void *data, size_t n) {
    const unsigned char *bytes = (const unsigned char *)data;
    uint64_t word;
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        memcpy(&word, bytes + i, 8);
        hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    word = 0;
    if (i < n) memcpy(&word, bytes + i, n - i);
    return llm_random(hash ^ word, n);
}

#define LLMI_HASH_PART 65536u
static uint64_t llmi_hash_parts(uint64_t hash, const void *data, size_t n) {
    size_t at;
    for (at = 0; at < n; at += LLMI_HASH_PART)
        hash = llmi_hash_add(hash, (const char *)data + at, llmi_min(LLMI_HASH_PART, n - at));
    return hash;
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>data         token files
 *
 * A header of 40 bytes, then the tokens; all integers little endian:
 *   0  8  "llm.tok" and a zero byte     20  4  0
 *   8  4  version: 1                    24  8  number of tokens n
 *  12  4  bytes per token: 2 or 4       32  8  hash of the tokens, see llmi_data_hash
 *  16  4  vocab_size                    40     n tokens, to the end of the file
 * The top bit of a token marks it as context only; the bits below are its id.
 * ========================================================================================== */
#ifndef LLM_NO_STDIO
#define LLMI_DATA_HEADER 40u
static const char llmi_data_magic[8] = "llm.tok";
enum { LLMI_DATA_VERSION = 1, LLMI_DATA_SHORT_VOCAB = 1 << 15 };

/* what the hash starts from: llmi_hash_parts goes on with the bytes of the tokens */
static uint64_t llmi_data_hash(int vocab_size, int width) {
    return llm_random((uint64_t)vocab_size, (uint64_t)width);
}

/* ---- reading --------------------------------------------------------------------------------- */
typedef struct llmi_data_file {
    char name[124];                    /* the path's end, for messages */
    const unsigned char *tokens;       /* in memory or in the mapping */
    int width, vocab_size;             /* bytes per token */
    uint64_t n, hash;
    int64_t first, before;             /* first window of this split; windows in earlier files */
    void *memory, *mapping;            /* one of them, with the header */
    size_t size;                       /* of it, in bytes */
} llmi_data_file;

struct llm_data {
    llm_data_desc desc;                /* resolved */
    int64_t n_windows, n_tokens;       /* windows of an epoch */
    int64_t *with_target, n_empty;     /* numbers of the windows that are not empty, if some are */
    int n_files;
    llmi_data_file *files;
    llm_allocator allocator_copy;
    const llm_allocator *allocator;    /* NULL or the copy */
};

/* the header of a file of size bytes */
static llm_result llmi_data_parse(llmi_data_file *f, const unsigned char *header, uint64_t size,
                                  llm_error *err) {
    const uint64_t version = llmi_get_little(header + 8, 4),
                   width = llmi_get_little(header + 12, 4),
                   vocab = llmi_get_little(header + 16, 4);
    if (memcmp(header, llmi_data_magic, sizeof llmi_data_magic) != 0)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: not a token file", f->name);
    if (version != LLMI_DATA_VERSION)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.120s: a token file of version %lu, not %d",
                         f->name, (unsigned long)version, LLMI_DATA_VERSION);
    if ((width != 2 && width != 4) || vocab < 1 ||
        vocab > (width == 2 ? (uint64_t)LLMI_DATA_SHORT_VOCAB : (uint64_t)INT32_MAX))
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: vocab_size %lu in tokens of %lu bytes",
                         f->name, (unsigned long)vocab, (unsigned long)width);
    f->width = (int)width;
    f->vocab_size = (int)vocab;
    f->n = llmi_get_little(header + 24, 8);
    f->hash = llmi_get_little(header + 32, 8);
    if (f->n != (size - LLMI_DATA_HEADER) / width || (size - LLMI_DATA_HEADER) % width)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.120s: truncated or damaged: %llu bytes are not a header and %llu "
                         "tokens", f->name, (unsigned long long)size, (unsigned long long)f->n);
    return LLM_OK;
}

/* the bytes of an open file: mapped, or read */
static llm_result llmi_data_map(llmi_data_file *f, FILE *file, const llm_allocator *allocator,
                                llm_error *err) {
#if LLMI_POSIX
    void *mapping = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fileno(file), 0);
    if (mapping != MAP_FAILED) {
        f->mapping = mapping;
        f->tokens = (const unsigned char *)mapping + LLMI_DATA_HEADER;
        return LLM_OK;
    }
#endif
    f->memory = llmi_alloc(allocator, f->size, f->name, err);
    if (!f->memory) return LLM_ERR_MEMORY;
    f->tokens = (const unsigned char *)f->memory + LLMI_DATA_HEADER;
    errno = 0;
    if (llmi_seek(file, 0, SEEK_SET) == 0 && fread(f->memory, 1, f->size, file) == f->size)
        return LLM_OK;
    return llmi_fail_io(err, "read", f->name);
}

static llm_result llmi_data_file_open(llmi_data_file *f, const char *path,
                                      const llm_allocator *allocator, llm_error *err) {
    unsigned char header[LLMI_DATA_HEADER];
    FILE *file;
    int64_t size;
    llm_result result;
    snprintf(f->name, sizeof f->name, "%s", llmi_path_end(path, 120));
    LLMI_TRY(llmi_file_open(path, &file, &size, err));
    f->size = (uint64_t)size > SIZE_MAX / 2 ? SIZE_MAX : (size_t)size;   /* too much for memory */
    errno = 0;
    if (size < (int64_t)sizeof header)
        result = llmi_fail(err, LLM_ERR_FORMAT, "%.120s: %lld bytes are not a token file", f->name,
                           (long long)size);
    else if (fread(header, 1, sizeof header, file) != sizeof header)
        result = llmi_fail_io(err, "read", path);
    else result = llmi_data_parse(f, header, (uint64_t)size, err);
    if (result == LLM_OK) result = llmi_data_map(f, file, allocator, err);
    fclose(file);
    return result;
}

/* the file of window i of this split, and its first token there */
static const llmi_data_file *llmi_data_find(const llm_data *data, int64_t i, uint64_t *begin) {
    const llmi_data_file *f = data->files;
    int low = 0, high = data->n_files; /* the last file in [low, high) with before <= i has it */
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (f[middle].before <= i) low = middle;
        else high = middle;
    }
    f += low;
    *begin = (uint64_t)(f->first + i - f->before) * (uint64_t)data->desc.seq_len;
    return f;
}

/* a token as the file has it: its top bit says that it is context only */
static uint32_t llmi_data_value(const llmi_data_file *f, uint64_t at) {
    return (uint32_t)llmi_get_little(f->tokens + (size_t)at * (size_t)f->width, f->width);
}
static uint32_t llmi_data_top(int width) { return 1u << (8 * width - 1); }

/* leaves out the windows that have no target */
static llm_result llmi_data_skip(llm_data *data, llm_error *err) {
    const uint64_t T = (uint64_t)data->desc.seq_len;
    int64_t i, n = 0;
    data->with_target = (int64_t *)llmi_alloc(
        data->allocator, llmi_mul((size_t)data->n_windows, sizeof *data->with_target),
        "numbers of windows", err);
    if (!data->with_target) return LLM_ERR_MEMORY;
    for (i = 0; i < data->n_windows; i++) {
        uint64_t begin, t = 1;
        const llmi_data_file *f = llmi_data_find(data, i, &begin);
        while (t <= T && (llmi_data_value(f, begin + t) & llmi_data_top(f->width))) t++;
        if (t <= T) data->with_target[n++] = i;
    }
    data->n_empty = data->n_windows - n;
    data->n_windows = n;
    if (n == 0)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "none of %lld windows %s from %.80s on has a target: all tokens are "
                         "context only", (long long)data->n_empty,
                         data->desc.valid ? "to validate" : "to train",
                         llmi_path_end(data->files[0].name, 80));
    if (data->n_empty) return LLM_OK;
    llmi_release(data->allocator, data->with_target);
    data->with_target = NULL;
    return LLM_OK;
}

/* the windows of this split, file by file */
static llm_result llmi_data_split(llm_data *data, llm_error *err) {
    const llm_data_desc *d = &data->desc;
    int64_t all = 0, valid = 0;        /* windows of the files so far, and those for validation */
    int i;
    for (i = 0; i < data->n_files; i++) {
        llmi_data_file *f = &data->files[i];
        const int64_t windows = f->n ? (int64_t)((f->n - 1) / (uint64_t)d->seq_len) : 0;
        const double share = (double)d->valid_fraction * (double)(all + windows);
        const int64_t kept = (int64_t)floor(share + 0.5) - valid;
        f->before = data->n_windows;
        f->first = d->valid ? windows - kept : 0;
        data->n_windows += d->valid ? kept : windows - kept;
        data->n_tokens += (int64_t)f->n;
        all += windows;
        valid += kept;
    }
    if (data->n_windows) return d->skip_empty ? llmi_data_skip(data, err) : LLM_OK;
    return llmi_fail(err, LLM_ERR_ARGUMENT,
                     "no window of %d + 1 tokens %s: %lld tokens in %d files from %.80s on are "
                     "%lld windows, %lld of them for validation: more text or a smaller seq_len "
                     "is needed",
                     d->seq_len, d->valid ? "to validate" : "to train", (long long)data->n_tokens,
                     data->n_files, llmi_path_end(data->files[0].name, 80), (long long)all,
                     (long long)valid);
}

static llm_result llmi_data_check(const char *const *paths, int n_paths, llm_data_desc *d,
                                  llm_error *err) {
    int i;
    if (d->n_ranks == 0) d->n_ranks = 1;
    LLMI_TRY(llmi_check_int("n_paths", n_paths, 1, INT_MAX, err));
    for (i = 0; i < n_paths; i++)
        if (!paths || !paths[i])
            return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_open: path %d is NULL", i);
    LLMI_TRY(llmi_check_int("data desc: batch_size", d->batch_size, 1, INT_MAX, err));
    LLMI_TRY(llmi_check_int("data desc: seq_len", d->seq_len, 1, INT_MAX, err));
    if (d->batch_size > INT_MAX / d->seq_len)
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "data desc: batch_size %d x seq_len %d is more than %d tokens",
                         d->batch_size, d->seq_len, INT_MAX);
    LLMI_TRY(llmi_check_int("data desc: n_ranks", d->n_ranks, 1, INT_MAX, err));
    LLMI_TRY(llmi_check_int("data desc: rank", d->rank, 0, d->n_ranks - 1, err));
    return llmi_check_float("data desc: valid_fraction", (double)d->valid_fraction, "[)", 0.0, 1.0,
                            err);
}

LLM_API void llm_data_close(llm_data *data) {
    llm_allocator copy;
    int i;
    if (!data) return;
    for (i = 0; data->files && i < data->n_files; i++) {
#if LLMI_POSIX
        if (data->files[i].mapping) munmap(data->files[i].mapping, data->files[i].size);
#endif
        llmi_release(data->allocator, data->files[i].memory);
    }
    llmi_release(data->allocator, data->files);
    llmi_release(data->allocator, data->with_target);
    copy = data->allocator_copy;
    llmi_release(data->allocator ? &copy : NULL, data);
}

static llm_result llmi_data_open_files(llm_data *data, const char *const *paths, int n_paths,
                                       llm_error *err) {
    const size_t size = llmi_mul((size_t)n_paths, sizeof *data->files);
    int i;
    data->files = (llmi_data_file *)llmi_alloc(data->allocator, size, "list of token files", err);
    if (!data->files) return LLM_ERR_MEMORY;
    memset(data->files, 0, size);
    data->n_files = n_paths;
    for (i = 0; i < n_paths; i++) {
        const llmi_data_file *first = &data->files[0], *f = &data->files[i];
        LLMI_TRY(llmi_data_file_open(&data->files[i], paths[i], data->allocator, err));
        if (f->vocab_size != first->vocab_size)
            return llmi_fail(err, LLM_ERR_ARGUMENT, "%.90s has vocab_size %d, but %.90s %d",
                             llmi_path_end(f->name, 90), f->vocab_size,
                             llmi_path_end(first->name, 90), first->vocab_size);
    }
    return llmi_data_split(data, err);
}

LLM_API llm_data *llm_data_open(const char *const *paths, int n_paths, const llm_data_desc *desc,
                                llm_error *err) {
    llm_data *data, fresh;
    memset(&fresh, 0, sizeof fresh);
    if (!desc) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_open: desc is NULL");
        return NULL;
    }
    fresh.desc = *desc;
    if (llmi_data_check(paths, n_paths, &fresh.desc, err) != LLM_OK) return NULL;
    data = (llm_data *)llmi_alloc(desc->allocator, sizeof *data, "training data", err);
    if (!data) return NULL;
    *data = fresh;
    if (desc->allocator) {
        data->allocator_copy = *desc->allocator;
        data->allocator = &data->allocator_copy;
    }
    data->desc.allocator = data->allocator;
    if (llmi_data_open_files(data, paths, n_paths, err) == LLM_OK) return data;
    llm_data_close(data);
    return NULL;
}

/* Element i of a permutation of [0, n) that the seed chooses, without a table: a Feistel network
 * (Luby & Rackoff, SIAM J. Comput. 17(2), 1988) permutes [0, 4^h), the least that holds n, and is
 * applied again until the result is below n (Black & Rogaway, CT-RSA 2002). */
static uint64_t llmi_permute(uint64_t i, uint64_t n, uint64_t seed) {
    uint64_t mask, round;
    int h = 0;
    while (h < 31 && UINT64_C(1) << 2 * h < n) h++;
    mask = (UINT64_C(1) << h) - 1;
    do {
        uint64_t left = i >> h, right = i & mask;
        for (round = 0; round < 6; round++) {
            const uint64_t mixed = llm_random(llm_random(seed, round), right) & mask;
            const uint64_t next = left ^ mixed;
            left = right;
            right = next;
        }
        i = left << h | right;
    } while (i >= n);
    return i;
}

/* window i of this split: T tokens and T targets */
static llm_result llmi_data_window(const llm_data *data, int64_t i, int32_t *tokens,
                                   int32_t *targets, llm_error *err) {
    const uint64_t T = (uint64_t)data->desc.seq_len;
    uint64_t begin, t;
    const llmi_data_file *f = llmi_data_find(data, i, &begin);
    const uint32_t top = llmi_data_top(f->width);
    for (t = 0; t <= T; t++) {
        const uint32_t value = llmi_data_value(f, begin + t), token = value & ~top;
        if (token >= (uint32_t)f->vocab_size)
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.120s: token %llu is %lu, must be below vocab_size %d", f->name,
                             (unsigned long long)(begin + t), (unsigned long)token, f->vocab_size);
        if (t < T) tokens[t] = (int32_t)token;
        if (t) targets[t - 1] = value & top ? LLM_IGNORE_INDEX : (int32_t)token;
    }
    return LLM_OK;
}

LLM_API llm_result llm_data_batch(const llm_data *data, int64_t step, int32_t *tokens,
                                  int32_t *targets, llm_error *err) {
    const llm_data_desc *d = data ? &data->desc : NULL;
    int64_t all, first;                /* rows of a step; entry of row 0 */
    int b;
    if (!d || !tokens || !targets)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_batch: NULL for data, tokens or targets");
    all = (int64_t)d->batch_size * d->n_ranks;
    if (step < 0 || step > INT64_MAX / all - 1)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_batch: step %lld is not in [0, %lld]",
                         (long long)step, (long long)(INT64_MAX / all - 1));
    first = step * all + (int64_t)d->rank * d->batch_size;
    for (b = 0; b < d->batch_size; b++) {
        const size_t row = (size_t)b * (size_t)d->seq_len;
        const uint64_t epoch = (uint64_t)((first + b) / data->n_windows);
        int64_t i = (first + b) % data->n_windows;
        if (!d->sequential)
            i = (int64_t)llmi_permute((uint64_t)i, (uint64_t)data->n_windows,
                                      llm_random(d->seed, epoch));
        if (data->with_target) i = data->with_target[i];
        LLMI_TRY(llmi_data_window(data, i, tokens + row, targets + row, err));
    }
    return LLM_OK;
}

LLM_API int64_t llm_data_token_count(const llm_data *data) { return data ? data->n_tokens : 0; }
LLM_API int64_t llm_data_window_count(const llm_data *data) { return data ? data->n_windows : 0; }
LLM_API int64_t llm_data_empty_count(const llm_data *data) { return data ? data->n_empty : 0; }
LLM_API int llm_data_vocab_size(const llm_data *data) {
    return data ? data->files[0].vocab_size : 0;
}
LLM_API uint64_t llm_data_fingerprint(const llm_data *data) {
    uint64_t hash = 0;
    int i;
    for (i = 0; data && i < data->n_files; i++) {
        uint64_t stated[2];
        stated[0] = data->files[i].n;
        stated[1] = data->files[i].hash;
        hash = llmi_hash_add(hash, stated, sizeof stated);
    }
    return hash;
}

LLM_API llm_result llm_data_verify(const llm_data *data, llm_error *err) {
    int i;
    if (!data) return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_verify: data is NULL");
    for (i = 0; i < data->n_files; i++) {
        const llmi_data_file *f = &data->files[i];
        const uint64_t hash = llmi_hash_parts(llmi_data_hash(f->vocab_size, f->width), f->tokens,
                                              f->size - LLMI_DATA_HEADER);
        if (hash != f->hash)
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.120s: damaged: its tokens do not have the hash it states", f->name);
    }
    return LLM_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */
struct llm_data_writer {
    llm_allocator allocator_copy;
    const llm_allocator *allocator;    /* NULL or &allocator_copy */
    llmi_writer out;                   /* its file is NULL once finished or given up */
    int vocab_size, width;
    uint64_t n, hash;
    size_t used;                       /* of buffer */
    unsigned char buffer[LLMI_HASH_PART];
};

LLM_API void llm_data_writer_free(llm_data_writer *writer) {
    llm_allocator copy;
    int is_custom;
    if (!writer) return;
    copy = writer->allocator_copy;
    is_custom = writer->allocator != NULL;
    if (writer->out.file) llmi_writer_abandon(&writer->out);
    llmi_release(is_custom ? &copy : NULL, writer);
}

LLM_API llm_data_writer *llm_data_writer_open(const char *path, int vocab_size,
                                              const llm_allocator *allocator, llm_error *err) {
    static const unsigned char room[LLMI_DATA_HEADER] = {0};
    llm_data_writer *w;
    if (!path) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_writer_open: path is NULL");
        return NULL;
    }
    if (llmi_check_int("vocab_size", vocab_size, 1, INT32_MAX, err) != LLM_OK) return NULL;
    w = (llm_data_writer *)llmi_alloc(allocator, sizeof *w, "writer of tokens", err);
    if (!w) return NULL;
    memset(w, 0, sizeof *w);
    if (allocator) {
        w->allocator_copy = *allocator;
        w->allocator = &w->allocator_copy;
    }
    w->vocab_size = vocab_size;
    w->width = vocab_size <= LLMI_DATA_SHORT_VOCAB ? 2 : 4;
    w->hash = llmi_data_hash(vocab_size, w->width);
    if (llmi_writer_open(&w->out, path, LLMI_TEMPORARIES, err) == LLM_OK &&
        llmi_writer_add(&w->out, room, sizeof room, err) == LLM_OK)
        return w;
    llm_data_writer_free(w);
    return NULL;
}

static llm_result llmi_data_flush(llm_data_writer *w, llm_error *err) {
    w->hash = llmi_hash_parts(w->hash, w->buffer, w->used);
    LLMI_TRY(llmi_writer_add(&w->out, w->buffer, w->used, err));
    w->used = 0;
    return LLM_OK;
}

static llm_result llmi_data_writer_check(const llm_data_writer *w, const char *call,
                                         llm_error *err) {
    if (!w) return llmi_fail(err, LLM_ERR_ARGUMENT, "%s: writer is NULL", call);
    if (w->out.file) return LLM_OK;
    return llmi_fail(err, LLM_ERR_ARGUMENT, "%s: the file is finished or was given up", call);
}

LLM_API llm_result llm_data_writer_add(llm_data_writer *writer, const int32_t *tokens,
                                       const unsigned char *context_only, size_t n,
                                       llm_error *err) {
    llm_data_writer *w = writer;
    size_t i;
    LLMI_TRY(llmi_data_writer_check(w, "llm_data_writer_add", err));
    if (!tokens && n)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_data_writer_add: tokens is NULL");
    for (i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= w->vocab_size)
            return llmi_fail(err, LLM_ERR_ARGUMENT,
                             "llm_data_writer_add: token %lu is %ld, must be in [0, %d)",
                             (unsigned long)i, (long)tokens[i], w->vocab_size);
    for (i = 0; i < n; i++) {
        const uint32_t top = context_only && context_only[i] ? llmi_data_top(w->width) : 0;
        llmi_put_little(w->buffer + w->used, (uint32_t)tokens[i] | top, w->width);
        w->used += (size_t)w->width;
        w->n++;
        if (w->used == sizeof w->buffer) LLMI_TRY(llmi_data_flush(w, err));
    }
    return LLM_OK;
}

LLM_API llm_result llm_data_writer_finish(llm_data_writer *writer, llm_error *err) {
    llm_data_writer *w = writer;
    unsigned char header[LLMI_DATA_HEADER];
    LLMI_TRY(llmi_data_writer_check(w, "llm_data_writer_finish", err));
    LLMI_TRY(llmi_data_flush(w, err));
    memset(header, 0, sizeof header);
    memcpy(header, llmi_data_magic, sizeof llmi_data_magic);
    llmi_put_little(header + 8, LLMI_DATA_VERSION, 4);
    llmi_put_little(header + 12, (uint64_t)w->width, 4);
    llmi_put_little(header + 16, (uint64_t)w->vocab_size, 4);
    llmi_put_little(header + 24, w->n, 8);
    llmi_put_little(header + 32, w->hash, 8);
    errno = 0;
    if (llmi_seek(w->out.file, 0, SEEK_SET) != 0) {
        llmi_fail_io(err, "write", w->out.path);
        llmi_writer_abandon(&w->out);
        return LLM_ERR_IO;
    }
    LLMI_TRY(llmi_writer_add(&w->out, header, sizeof header, err));
    LLMI_TRY(llmi_writer_finish(&w->out, err));
    return llmi_writer_rename(&w->out, err);
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>gguf         llama.cpp's files: keys with values, and tensors
 *
 * "GGUF", version (u32: 2 or 3), counts of tensors and keys (u64); for each key its name, the type
 * of its value (u32), the value; for each tensor its name, number of dims (u32), dims (u64, the one
 * along a row first), type (u32), offset (u64); padding to the alignment; data, from which offsets
 * count. Strings: length (u64) and bytes. Arrays: type (u32), count (u64), items. Little endian.
 * ========================================================================================== */
typedef struct llmi_source {           /* bytes, in a file or in memory */
    const char *name;                  /* for messages */
    const unsigned char *memory;       /* or NULL: file */
    FILE *file;
    uint64_t size;
} llmi_source;

/* at + n is within the source: the caller has checked */
static llm_result llmi_source_read(const llmi_source *source, uint64_t at, void *to, size_t n,
                                   llm_error *err) {
    if (source->memory) {
        memcpy(to, source->memory + at, n);
        return LLM_OK;
    }
#ifndef LLM_NO_STDIO
    errno = 0;
    if (llmi_seek(source->file, (int64_t)at, SEEK_SET) == 0 && fread(to, 1, n, source->file) == n)
        return LLM_OK;
#endif
    return llmi_fail(err, LLM_ERR_IO, "%.120s: cannot read %lu bytes at %llu: %.80s", source->name,
                     (unsigned long)n, (unsigned long long)at,
                     errno ? strerror(errno) : "the file ends early");
}

typedef enum llmi_gguf_type {
    LLMI_GGUF_U8, LLMI_GGUF_I8, LLMI_GGUF_U16, LLMI_GGUF_I16, LLMI_GGUF_U32, LLMI_GGUF_I32,
    LLMI_GGUF_F32, LLMI_GGUF_BOOL, LLMI_GGUF_STRING, LLMI_GGUF_ARRAY, LLMI_GGUF_U64, LLMI_GGUF_I64,
    LLMI_GGUF_F64
} llmi_gguf_type;
static const unsigned char llmi_gguf_sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct llmi_gguf_key {
    const char *name;
    llmi_gguf_type type, item;         /* item: of an array                                     */
    uint64_t count;                    /* of an array's items, of a string's bytes; else 1      */
    uint64_t at;                       /* of the value's bytes in the source                    */
    size_t name_at;                    /* among the names, until all are read                   */
} llmi_gguf_key;
typedef struct llmi_gguf_tensor {
    const char *name;
    llm_dtype type;
    int n_dims;
    uint64_t dims[4];                  /* along a row first */
    uint64_t at, size;                 /* bytes in the source */
    size_t name_at;
} llmi_gguf_tensor;
typedef struct llmi_gguf {
    llmi_source source;
    const llm_allocator *allocator;
    llmi_gguf_key *keys;               /* by name */
    llmi_gguf_tensor *tensors;         /* by place */
    size_t n_keys, n_tensors;
    size_t keys_capacity, tensors_capacity, names_capacity, names_size;
    char *names;                       /* each with its zero                                    */
    const char *wrong;                 /* a key that was asked for a number and has none        */
    int failed;                        /* the source could not be read                          */
    uint64_t at;                       /* what is read next */
    unsigned char part[4096];          /* bytes from part_at on */
    uint64_t part_at, part_size;
} llmi_gguf;

/* its source is the caller's to set; name stays the caller's as long as it lives */
static llmi_gguf *llmi_gguf_new(const char *name, const llm_allocator *allocator, llm_error *err) {
    llmi_gguf *g = (llmi_gguf *)llmi_alloc(allocator, sizeof *g, "a GGUF file", err);
    if (!g) return NULL;
    memset(g, 0, sizeof *g);
    g->source.name = llmi_path_end(name, 80);
    g->allocator = allocator;
    return g;
}
static void llmi_gguf_free(llmi_gguf *g) {
    if (!g) return;
#ifndef LLM_NO_STDIO
    if (g->source.file) fclose(g->source.file);
#endif
    llmi_release(g->allocator, g->keys);
    llmi_release(g->allocator, g->tensors);
    llmi_release(g->allocator, g->names);
    llmi_release(g->allocator, g);
}

/* the next n bytes, at most a part's */
static llm_result llmi_gguf_next(llmi_gguf *g, void *to, size_t n, llm_error *err) {
    if (n > g->source.size - g->at)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: the header does not end within %llu bytes",
                         g->source.name, (unsigned long long)g->source.size);
    if (g->at < g->part_at || g->at + n > g->part_at + g->part_size) {
        g->part_at = g->at;
        g->part_size = llmi_min64(g->source.size - g->at, sizeof g->part);
        if (llmi_source_read(&g->source, g->at, g->part, (size_t)g->part_size, err) != LLM_OK) {
            g->failed = 1;
            g->part_size = 0;
            return LLM_ERR_IO;
        }
    }
    memcpy(to, g->part + (g->at - g->part_at), n);
    g->at += n;
    return LLM_OK;
}
static llm_result llmi_gguf_number(llmi_gguf *g, int bytes, uint64_t *value, llm_error *err) {
    unsigned char b[8];
    LLMI_TRY(llmi_gguf_next(g, b, (size_t)bytes, err));
    *value = llmi_get_little(b, bytes);
    return LLM_OK;
}
static llm_result llmi_gguf_skip(llmi_gguf *g, uint64_t n, const char *what, llm_error *err) {
    if (n > g->source.size - g->at)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: %s at byte %llu goes beyond the file's %llu",
                         g->source.name, what, (unsigned long long)g->at,
                         (unsigned long long)g->source.size);
    g->at += n;
    return LLM_OK;
}

/* a name, kept; -> its place among the names */
static llm_result llmi_gguf_read_name(llmi_gguf *g, size_t *place, llm_error *err) {
    uint64_t n;
    void *names = g->names;
    LLMI_TRY(llmi_gguf_number(g, 8, &n, err));
    if (n > 255 || n == 0)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.120s: a name of %llu bytes at byte %llu: 1 to 255 are expected",
                         g->source.name, (unsigned long long)n, (unsigned long long)g->at - 8);
    LLMI_TRY(llmi_grow(g->allocator, &names, &g->names_capacity, g->names_size,
                       g->names_size + (size_t)n + 1, "names of a GGUF file", err));
    g->names = (char *)names;
    *place = g->names_size;
    LLMI_TRY(llmi_gguf_next(g, g->names + g->names_size, (size_t)n, err));
    g->names_size += (size_t)n;
    g->names[g->names_size++] = 0;
    if (strlen(g->names + *place) != (size_t)n)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: the name %.80s holds a zero byte",
                         g->source.name, g->names + *place);
    return LLM_OK;
}
static llm_result llmi_gguf_read_key(llmi_gguf *g, llmi_gguf_key *key, llm_error *err) {
    uint64_t type, count, i;
    size_t place;
    LLMI_TRY(llmi_gguf_read_name(g, &place, err));
    LLMI_TRY(llmi_gguf_number(g, 4, &type, err));
    memset(key, 0, sizeof *key);
    key->type = (llmi_gguf_type)llmi_min64(type, 99);
    key->item = key->type;
    key->count = 1;
    if (type == LLMI_GGUF_ARRAY) {
        LLMI_TRY(llmi_gguf_number(g, 4, &type, err));
        LLMI_TRY(llmi_gguf_number(g, 8, &key->count, err));
        key->item = (llmi_gguf_type)llmi_min64(type, 99);
    }
    if (type > LLMI_GGUF_F64 || type == LLMI_GGUF_ARRAY)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.100s: key %.80s: values of type %llu%s",
                         g->source.name, g->names + place, (unsigned long long)type,
                         type == LLMI_GGUF_ARRAY ? ", arrays in an array" : "");
    key->at = g->at;
    if (type == LLMI_GGUF_STRING)
        for (i = 0; i < key->count; i++) {
            LLMI_TRY(llmi_gguf_number(g, 8, &count, err));
            if (key->type == LLMI_GGUF_STRING) key->at = g->at;
            LLMI_TRY(llmi_gguf_skip(g, count, "a string", err));
            if (key->type == LLMI_GGUF_STRING) {
                key->count = count;
                break;
            }
        }
    else
        LLMI_TRY(llmi_gguf_skip(g, llmi_mul64(key->count, llmi_gguf_sizes[type]), "an array", err));
    key->name_at = place;
    return LLM_OK;
}
static llm_result llmi_gguf_read_tensor(llmi_gguf *g, llmi_gguf_tensor *tensor, llm_error *err) {
    uint64_t n, values = 1, type;
    size_t place;
    int i;
    LLMI_TRY(llmi_gguf_read_name(g, &place, err));
    LLMI_TRY(llmi_gguf_number(g, 4, &n, err));
    memset(tensor, 0, sizeof *tensor);
    if (n < 1 || n > 4)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: tensor %.80s has %llu dims, not 1 to 4",
                         g->source.name, g->names + place, (unsigned long long)n);
    tensor->n_dims = (int)n;
    for (i = 0; i < 4; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims) LLMI_TRY(llmi_gguf_number(g, 8, &tensor->dims[i], err));
        values = llmi_mul64(values, tensor->dims[i]);
    }
    LLMI_TRY(llmi_gguf_number(g, 4, &type, err));
    for (i = LLM_F32; i < LLM_I32 && llmi_types[i].ggml != (int)llmi_min64(type, 999); i++) {}
    if (i == LLM_I32)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.100s: tensor %.80s is of type number %llu; "
                         "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K are known",
                         g->source.name, g->names + place, (unsigned long long)type);
    tensor->type = (llm_dtype)i;
    if (values == 0 || values > INT64_MAX / 4 || tensor->dims[0] % llmi_types[i].block)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.100s: tensor %.80s [%llu,%llu,%llu,%llu] cannot be %s", g->source.name,
                         g->names + place, (unsigned long long)tensor->dims[0],
                         (unsigned long long)tensor->dims[1], (unsigned long long)tensor->dims[2],
                         (unsigned long long)tensor->dims[3], llmi_types[i].name);
    tensor->size = values / llmi_types[i].block * llmi_types[i].bytes;
    LLMI_TRY(llmi_gguf_number(g, 8, &tensor->at, err));
    tensor->name_at = place;
    return LLM_OK;
}

static int llmi_compare_keys(const void *a, const void *b) {
    return strcmp(((const llmi_gguf_key *)a)->name, ((const llmi_gguf_key *)b)->name);
}
static int llmi_compare_places(const void *a, const void *b) {
    const llmi_gguf_tensor *x = (const llmi_gguf_tensor *)a, *y = (const llmi_gguf_tensor *)b;
    return x->at != y->at ? (x->at < y->at ? -1 : 1) : (x->size > y->size) - (x->size < y->size);
}
static const llmi_gguf_key *llmi_gguf_find(const llmi_gguf *g, const char *name) {
    llmi_gguf_key wanted;
    wanted.name = name;
    return g->n_keys ? (const llmi_gguf_key *)bsearch(&wanted, g->keys, g->n_keys, sizeof *g->keys,
                                                      llmi_compare_keys)
                     : NULL;
}

/* A number that a key gives; -> 0 if the key is not there, or (then it is the wrong one) has no
 * number. Integers beyond 2^53 are rounded. */
static int llmi_gguf_value(llmi_gguf *g, const llmi_gguf_key *key, double *value, llm_error *err) {
    uint64_t bits = 0;
    const int size = key ? llmi_gguf_sizes[key->type] : 0;
    float single;
    g->at = key ? key->at : 0;
    if (key && !size) g->wrong = key->name;
    if (!key || !size || llmi_gguf_number(g, size, &bits, err) != LLM_OK) return 0;
    switch (key->type) {
        case LLMI_GGUF_I8: *value = (double)(int)(bits ^ 0x80) - 128.0; break;
        case LLMI_GGUF_I16: *value = (double)(int)(bits ^ 0x8000) - 32768.0; break;
        case LLMI_GGUF_I32: *value = (double)(bits ^ 0x80000000u) - 2147483648.0; break;
        case LLMI_GGUF_I64:
            *value = bits >> 63 ? -(double)(~bits + 1) : (double)bits;
            break;
        case LLMI_GGUF_F32:
            single = llmi_float_of_bits((uint32_t)bits);
            *value = (double)single;
            break;
        case LLMI_GGUF_F64: memcpy(value, &bits, sizeof bits); break;
        default: *value = (double)bits;
    }
    return 1;
}
/* whether a key is that string */
static int llmi_gguf_is(llmi_gguf *g, const llmi_gguf_key *key, const char *text) {
    char part[64];
    const size_t n = strlen(text);
    if (!key || key->type != LLMI_GGUF_STRING || key->count != n || n > sizeof part) return 0;
    g->at = key->at;
    return llmi_gguf_next(g, part, n, NULL) == LLM_OK && !memcmp(part, text, n);
}

static llm_result llmi_gguf_no_wrong(const llmi_gguf *g, llm_error *err) {
    if (g->failed) return llmi_fail(err, LLM_ERR_IO, "%.120s: cannot be read", g->source.name);
    return g->wrong ? llmi_fail(err, LLM_ERR_FORMAT, "%.100s: key %.80s is no number",
                                g->source.name, g->wrong)
                    : LLM_OK;
}

/* All keys and tensors are read: names become pointers, keys are sorted, places checked. */
static llm_result llmi_gguf_settle(llmi_gguf *g, llm_error *err) {
    const uint64_t header = g->at;
    uint64_t align = 32, data, at = 0;
    double value;
    size_t i;
    for (i = 0; i < g->n_keys; i++) g->keys[i].name = g->names + g->keys[i].name_at;
    for (i = 0; i < g->n_tensors; i++) g->tensors[i].name = g->names + g->tensors[i].name_at;
    if (g->n_keys) qsort(g->keys, g->n_keys, sizeof *g->keys, llmi_compare_keys);
    for (i = 1; i < g->n_keys; i++)
        if (!strcmp(g->keys[i - 1].name, g->keys[i].name))
            return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: key %.80s is there twice",
                             g->source.name, g->keys[i].name);
    if (llmi_gguf_value(g, llmi_gguf_find(g, "general.alignment"), &value, err)) {
        if (!(value >= 1.0 && value <= 65536.0) || ((uint64_t)value & ((uint64_t)value - 1)))
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.120s: general.alignment %g is no power of two from 1 to 65536",
                             g->source.name, value);
        align = (uint64_t)value;
    }
    LLMI_TRY(llmi_gguf_no_wrong(g, err));
    data = (header + align - 1) / align * align;
    if (g->n_tensors) qsort(g->tensors, g->n_tensors, sizeof *g->tensors, llmi_compare_places);
    for (i = 0; i < g->n_tensors; i++) {
        llmi_gguf_tensor *tensor = &g->tensors[i];
        if (tensor->at % align)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: tensor %.80s: offset %llu is not "
                             "aligned to %llu", g->source.name, tensor->name,
                             (unsigned long long)tensor->at, (unsigned long long)align);
        if (tensor->at < at)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: tensors %.60s and %.60s overlap",
                             g->source.name, g->tensors[i - 1].name, tensor->name);
        at = tensor->at + tensor->size;
        if (data > g->source.size || tensor->at > g->source.size - data ||
            tensor->size > g->source.size - data - tensor->at)
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.100s: tensor %.80s ends beyond the file's %llu bytes",
                             g->source.name, tensor->name,
                             (unsigned long long)g->source.size);
        tensor->at += data;
    }
    return LLM_OK;
}

/* its source is set; on failure, too, the caller frees */
static llm_result llmi_gguf_parse(llmi_gguf *g, llm_error *err) {
    uint64_t magic = 0, version, n_tensors, n_keys, i;
    if (g->source.size < 24)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: %llu bytes are too few for a GGUF file",
                         g->source.name, (unsigned long long)g->source.size);
    LLMI_TRY(llmi_gguf_number(g, 4, &magic, err));
    LLMI_TRY(llmi_gguf_number(g, 4, &version, err));
    LLMI_TRY(llmi_gguf_number(g, 8, &n_tensors, err));
    LLMI_TRY(llmi_gguf_number(g, 8, &n_keys, err));
    if (magic != 0x46554747u)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: this is no GGUF file", g->source.name);
    if (version != 2 && version != 3)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         version & 0xffff ? "%.120s: GGUF version %llu; 2 and 3 are known"
                                          : "%.120s: the GGUF file is big-endian (version %llu)",
                         g->source.name, (unsigned long long)version);
    /* each takes at least 13, or 33 bytes */
    if (n_keys > g->source.size / 13 || n_tensors > g->source.size / 33)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: %llu keys and %llu tensors do not fit into "
                         "%llu bytes", g->source.name, (unsigned long long)n_keys,
                         (unsigned long long)n_tensors, (unsigned long long)g->source.size);
    for (i = 0; i < n_keys; i++, g->n_keys++) {
        void *keys = g->keys;
        LLMI_TRY(llmi_grow(g->allocator, &keys, &g->keys_capacity, g->n_keys * sizeof *g->keys,
                           (g->n_keys + 1) * sizeof *g->keys, "keys of a GGUF file", err));
        g->keys = (llmi_gguf_key *)keys;
        LLMI_TRY(llmi_gguf_read_key(g, &g->keys[g->n_keys], err));
    }
    for (i = 0; i < n_tensors; i++, g->n_tensors++) {
        void *tensors = g->tensors;
        LLMI_TRY(llmi_grow(g->allocator, &tensors, &g->tensors_capacity,
                           g->n_tensors * sizeof *g->tensors,
                           (g->n_tensors + 1) * sizeof *g->tensors, "tensors of a GGUF file", err));
        g->tensors = (llmi_gguf_tensor *)tensors;
        LLMI_TRY(llmi_gguf_read_tensor(g, &g->tensors[g->n_tensors], err));
    }
    return llmi_gguf_settle(g, err);
}

#ifndef LLM_NO_STDIO
static llmi_gguf *llmi_gguf_open(const char *path, const llm_allocator *allocator, llm_error *err) {
    llmi_gguf *g = llmi_gguf_new(path, allocator, err);
    int64_t size;
    if (!g) return NULL;
    if (llmi_file_open(path, &g->source.file, &size, err) == LLM_OK) {
        g->source.size = (uint64_t)size;
        if (llmi_gguf_parse(g, err) == LLM_OK) return g;
    }
    llmi_gguf_free(g);
    return NULL;
}
#endif

/* ============================================================================================
 * >>bpe          byte-level byte pair encoding: GPT-2's tokenizer, its training and its files
 * ==========================================================================================
 * Text is cut into pre-tokens by a pattern; each is a string of bytes, each byte a symbol, and
 * the pair of neighbours that was learned first is merged until none is left (Sennrich et al.,
 * arXiv:1508.07909; on bytes: Radford et al., "Language Models are Unsupervised Multitask
 * Learners", 2.2). Results equal those of Hugging Face `tokenizers`. */

/* ---- strings with numbers: the vocabulary, and the distinct words of a text in training ---- */
enum { LLMI_ABSENT = 0,
       LLMI_BYTES,                /* bytes that merges may lead to                                */
       LLMI_OPAQUE,               /* in a vocabulary, but with characters that stand for no byte  */
       LLMI_ADDED };              /* matched in the text before all else; not in the vocabulary   */

typedef struct llmi_string {
    size_t begin, size;           /* in llmi_strings.bytes */
    uint32_t hash;
    uint32_t added;               /* 1 + index of the added token, once they are sorted; 0 = none */
    uint8_t kind;
    uint8_t direct;               /* as a whole pre-token, this is its own encoding */
} llmi_string;

typedef struct llmi_string_slot { uint32_t hash; int32_t index; } llmi_string_slot;  /* -1 = free */

typedef struct llmi_strings {
    llmi_text bytes;
    llmi_string *items;
    size_t items_capacity, n;     /* capacity in bytes */
    llmi_string_slot *slots;      /* open addressing, at most half full */
    size_t n_slots, n_used;
    uint64_t secret;
} llmi_strings;

/* A key for hash tables. Who writes a file does not know it, so that he cannot choose strings or
 * pairs that all have one hash. Results do not depend on it. */
static uint64_t llmi_secret(const void *object) {
    const double now = llmi_seconds();
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    return llm_random(bits ^ (uint64_t)(uintptr_t)object, (uint64_t)time(NULL));
}

static uint64_t llmi_rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

/* Up to 8 bytes, most words, are one number. More go through the rounds of SipHash-1-3 (Aumasson &
 * Bernstein, INDOCRYPT 2012), whose second key is made of the one secret; the last 8 bytes are a
 * word, and the length is added apart. */
static uint32_t llmi_hash(uint64_t secret, const char *bytes, size_t n) {
    uint64_t v0 = secret ^ UINT64_C(0x736F6D6570736575), v2 = secret ^ UINT64_C(0x6C7967656E657261),
             v1 = ~secret ^ UINT64_C(0x646F72616E646F6D),
             v3 = ~secret ^ UINT64_C(0x7465646279746573);
    const size_t words = n / 8;
    uint64_t word = 0;
    uint32_t low, high;
    size_t i;
    if (n <= 8) {
        if (n >= 4) {                            /* two words of 4 bytes, overlapping */
            memcpy(&low, bytes, 4);
            memcpy(&high, bytes + n - 4, 4);
            word = low | (uint64_t)high << 32;
        } else if (n) {
            word = (uint64_t)(unsigned char)bytes[0] | (uint64_t)(unsigned char)bytes[n / 2] << 8 |
                   (uint64_t)(unsigned char)bytes[n - 1] << 16;
        }
        return (uint32_t)llm_random(secret + n, word);
    }
    for (i = 0; i < words + 4; i++) {            /* words, the last 8 bytes, three times nothing */
        if (i < words) memcpy(&word, bytes + 8 * i, 8);
        else if (i == words) memcpy(&word, bytes + n - 8, 8);
        else word = 0;
        if (i == words) v2 ^= n;
        if (i == words + 1) v2 ^= 0xFF;
        v3 ^= word;
        v0 += v1; v1 = llmi_rotate(v1, 13) ^ v0; v0 = llmi_rotate(v0, 32);
        v2 += v3; v3 = llmi_rotate(v3, 16) ^ v2;
        v0 += v3; v3 = llmi_rotate(v3, 21) ^ v0;
        v2 += v1; v1 = llmi_rotate(v1, 17) ^ v2; v2 = llmi_rotate(v2, 32);
        v0 ^= word;
    }
    return (uint32_t)(v0 ^ v1 ^ v2 ^ v3);
}

static int32_t llmi_strings_find(const llmi_strings *s, const char *bytes, size_t n, int kind) {
    uint32_t hash;
    size_t i;
    if (!s->n_slots) return -1;
    hash = llmi_hash(s->secret, bytes, n);
    for (i = hash & (s->n_slots - 1); s->slots[i].index >= 0; i = (i + 1) & (s->n_slots - 1)) {
        const llmi_string *item = &s->items[s->slots[i].index];
        if (s->slots[i].hash == hash && item->size == n && item->kind == kind &&
            (!n || !memcmp(s->bytes.data + item->begin, bytes, n)))
            return s->slots[i].index;
    }
    return -1;
}

/* stores a string under a number that is free; numbers that are skipped become LLMI_ABSENT */
static llm_result llmi_strings_put(llmi_strings *s, int32_t index, const char *bytes, size_t n,
                                   int kind, llm_error *err) {
    const llm_allocator *allocator = s->bytes.allocator;
    const size_t need = (size_t)index + 1;
    void *items = s->items;
    llmi_string *item;
    size_t i, k;
    LLMI_TRY(llmi_grow(allocator, &items, &s->items_capacity, s->n * sizeof *item,
                       llmi_max(llmi_mul(need, sizeof *item), s->items_capacity), "tokens", err));
    s->items = (llmi_string *)items;
    if (2 * (s->n_used + 1) > s->n_slots) {
        const size_t n_slots = llmi_max(2 * s->n_slots, 1024);
        llmi_string_slot *slots = (llmi_string_slot *)llmi_alloc(
            allocator, llmi_mul(n_slots, sizeof *slots), "token table", err);
        if (!slots) return LLM_ERR_MEMORY;
        if (!s->n_slots) s->secret = llmi_secret(slots);
        for (i = 0; i < n_slots; i++) slots[i].index = -1;
        for (k = 0; k < s->n_slots; k++) {
            if (s->slots[k].index < 0) continue;
            for (i = s->slots[k].hash & (n_slots - 1); slots[i].index >= 0;
                 i = (i + 1) & (n_slots - 1)) {}
            slots[i] = s->slots[k];
        }
        llmi_release(allocator, s->slots);
        s->slots = slots;
        s->n_slots = n_slots;
    }
    if (!llmi_text_reserve(&s->bytes, n))
        return llmi_fail(err, LLM_ERR_MEMORY, "out of memory: the text of tokens");
    for (i = s->n; i < need; i++) memset(&s->items[i], 0, sizeof s->items[i]);
    s->n = llmi_max(s->n, need);
    item = &s->items[index];
    item->begin = s->bytes.size;
    item->size = n;
    item->hash = llmi_hash(s->secret, bytes, n);
    item->kind = (uint8_t)kind;
    llmi_text_add(&s->bytes, bytes, n);
    for (i = item->hash & (s->n_slots - 1); s->slots[i].index >= 0;
         i = (i + 1) & (s->n_slots - 1)) {}
    s->slots[i].hash = item->hash;
    s->slots[i].index = index;
    s->n_used++;
    return LLM_OK;
}

static void llmi_strings_free(llmi_strings *s) {
    llmi_release(s->bytes.allocator, s->items);
    llmi_release(s->bytes.allocator, s->slots);
    llmi_text_free(&s->bytes);
}

/* ---- pairs of tokens with numbers: the merges, and the pairs counted in training ------------ */
typedef struct llmi_pair_slot { uint64_t key; int32_t value; } llmi_pair_slot;

typedef struct llmi_pairs {
    llmi_pair_slot *slots;        /* open addressing, at most half full; key UINT64_MAX = free */
    size_t n_slots, n;
    uint64_t secret;
} llmi_pairs;

static uint64_t llmi_pair(int32_t a, int32_t b) {
    return (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
}

/* a key's place, or a free one */
static size_t llmi_pairs_slot(const llmi_pairs *pairs, uint64_t key) {
    size_t i = (size_t)llm_random(pairs->secret, key) & (pairs->n_slots - 1);
    while (pairs->slots[i].key != key && pairs->slots[i].key != UINT64_MAX)
        i = (i + 1) & (pairs->n_slots - 1);
    return i;
}

static int32_t llmi_pairs_find(const llmi_pairs *pairs, uint64_t key) {  /* -1 = not there */
    size_t i;
    if (!pairs->n_slots) return -1;
    i = llmi_pairs_slot(pairs, key);
    return pairs->slots[i].key == key ? pairs->slots[i].value : -1;
}

static llm_result llmi_pairs_put(llmi_pairs *pairs, uint64_t key, int32_t value,
                                 const llm_allocator *allocator, llm_error *err) {
    size_t i;
    if (2 * (pairs->n + 1) > pairs->n_slots) {
        llmi_pairs larger;
        larger.n_slots = llmi_max(2 * pairs->n_slots, 1024);
        larger.n = pairs->n;
        larger.slots = (llmi_pair_slot *)llmi_alloc(
            allocator, llmi_mul(larger.n_slots, sizeof *larger.slots), "token pairs", err);
        if (!larger.slots) return LLM_ERR_MEMORY;
        larger.secret = pairs->n_slots ? pairs->secret : llmi_secret(larger.slots);
        for (i = 0; i < larger.n_slots; i++) larger.slots[i].key = UINT64_MAX;
        for (i = 0; i < pairs->n_slots; i++)
            if (pairs->slots[i].key != UINT64_MAX)
                larger.slots[llmi_pairs_slot(&larger, pairs->slots[i].key)] = pairs->slots[i];
        llmi_release(allocator, pairs->slots);
        *pairs = larger;
    }
    i = llmi_pairs_slot(pairs, key);
    pairs->slots[i].key = key;
    pairs->slots[i].value = value;
    pairs->n++;
    return LLM_OK;
}

/* ---- a heap: the highest priority first, of equal ones the smallest key -------------------- */
typedef struct llmi_heap_item {
    int64_t priority;
    uint64_t key;
} llmi_heap_item;

typedef struct llmi_heap {
    llmi_heap_item *items;
    size_t n, capacity;           /* capacity in bytes */
} llmi_heap;

static int llmi_heap_before(const llmi_heap_item *a, const llmi_heap_item *b) {
    return a->priority != b->priority ? a->priority > b->priority : a->key < b->key;
}

static llm_result llmi_heap_push(llmi_heap *heap, int64_t priority, uint64_t key,
                                 const llm_allocator *allocator, llm_error *err) {
    llmi_heap_item item;
    void *items = heap->items;
    size_t i = heap->n, need = llmi_mul(heap->n + 1, sizeof item);
    if (need > heap->capacity) need = llmi_max(need, 256 * sizeof item);
    LLMI_TRY(llmi_grow(allocator, &items, &heap->capacity, heap->n * sizeof item, need,
                       "merge queue", err));
    heap->items = (llmi_heap_item *)items;
    item.priority = priority;
    item.key = key;
    for (; i && llmi_heap_before(&item, &heap->items[(i - 1) / 2]); i = (i - 1) / 2)
        heap->items[i] = heap->items[(i - 1) / 2];
    heap->items[i] = item;
    heap->n++;
    return LLM_OK;
}

static llmi_heap_item llmi_heap_pop(llmi_heap *heap) {           /* of one that is not empty */
    const llmi_heap_item top = heap->items[0], moved = heap->items[--heap->n];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < heap->n) {
        if (child + 1 < heap->n && llmi_heap_before(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!llmi_heap_before(&heap->items[child], &moved)) break;
        heap->items[i] = heap->items[child];
        i = child;
    }
    heap->items[i] = moved;
    return top;
}

/* ---- characters ----------------------------------------------------------------------------- */
/* The kinds of the characters of Unicode 16.0.0, and those of some scripts, by
 * tools/make_unicode.py: ranges in ascending order, each as the gap since the end of the last and
 * 16 * length + its kind (of a script, the length) in base 26, most significant digit first,
 * capitals but for the last digit. Several strings, as C99 promises 4095 characters of one. */
static const char *const llmi_unicode[] = {
    "jDqsBeaChaBcaEdaBcaCxaGlaBraCiaBraQbaChaBcaBaaBcaQcaBbaBcaBbaBcgBeBaBeaBbaDoaBbaBsavaBbaBcbCy"
    "aBpaBcasaBraBcazavaBbaCfaBbaOfaBcaEjaOwaBcaFaaBHvaraBiaJfaraBiaBCxaraDbaraByaraDbaraBvaBxaBi"
    "aBxaBvaraBvaBxaByaraBvaraEharaBvaraBiaBvaraBvaBhaDbaBhaBiavaraByaCraratasaratasaratasaJfaraBi"
    "aKlaraBiaratasaBvaBhaBKharaEkaraBvaBhaBiaBvaBxaFnaraBQoavaQsaLgaCyaHoaJcaDgaEuauaBcauaKyaCRe"
    "aDbauaBcaBvcuaByaBbareBsaraBbaBxbrbraBvaKnbFpaVqaraBiaBxaByaOdaraDeaBvaBcaBvaBhaBiaBFlaBDqaVn"
    "aBcaEoaBHvaraHzaraBiaCHrbXlcuaEdaZiaBrcCibBByaBbawaBbaBmaBbaBmaBbawiQveCraBrrCiaBraBcaBraBs"
    "aHaaBbbChaTxauaGjaNeaGlaCxaBlawaCJdaBbavaEobBcaDyaBkaBmaBcaCsaBlaGlaCbaBsavaJbcvawaSraQwcCCz"
    "aHaavoGlaUnaFuaBkaBcaChaucwaBsaNtaCsauaFuauaCcauaDicJrbPpaCccBbbGzfOzaBcaDxiFuaZlauaPabUoaBHl"
    "aCcavaLiavaEoaGjaBmaBraGlaBbauaJlaCcbFdcBlcNtbEnbvdCrcwavaEocBmcCcaviweBlbCbaBmcGlaBlaBsaEb"
    "aBsavaBbawcCcbDxeBlcNtbEnbBlbBlbBlcwbDieBmcCcdwhCrbvhGlaBmaCbawaBbkCcbFtbCbbNtbEnbBlbDhcwav"
    "aFebCcbCccvpBlaBmcGlaBbaBchvaDybCcbFdcBlcNtbEnbBlbDhcwavaEocBmcCchCceBlbCbaBmcGlaBcavaEbkwav"
    "bDxdCbbCrdBlbvbBldBldCbdHpeDidCcbCscvgwoGlaCfaFkfDiaFdbCbbOjbKbcwavaEobCcbCshBmbCbcvcBlaBmcGl"
    "hBbaEraBcavaCcaBbaFdbCbbOjbGjbDhcwavaEobCcbCshBmgBlbBlaBmcGlbBlawmCsaFtbCbbZlaBmavaEobCcbCsav"
    "aBceCbawaEraCbaBmcGlaFxaBcaDxbCcbLhdOzbFtbvcEndweDybwbFegGlcBmaBbmBDtawaBlaEoeBcaDxauaFeaBb"
    "aGlaBrBlBlbvbDhbOzbvbGjawaBlaFuavcDhbubEobGlcCrBgvaCiaJraBcaBbaCiaBmaEeaGlaGnaBcawaBcawaBcaw"
    "aCxaBmaFdbWjeMoaBbaBmaDhaHabWkbFkawaEebBsaDnaCyaBrBlBAraMoavaGlaEdaDxaCsaCraCcavaCcaBlaEoaCb"
    "aCsaIfaHqavawaGlaCsaBsaXlbrfrcBAoaBbauaByaHUrbCrcEnbvbCrcZlbCrcUnbCrcEnbvbCrcJlbBJhbCrcBPlcCc"
    "aFzaMrdKbaGqgCAzcDucBbaORtaBcaBbaKraBeaQfaBrdBUjaChaCeaFdhLhaCsjLxaCcaBrjLhaBmmIfbCbbBmmBGf"
    "aTyaChauaChaBcavawcGlgGngHfaCcbwaGlgVtauaBGvhDhaBmaVdawavfBRhkThbHqeHqeBcdBraGlaSrcDhlBBheQf"
    "gGlazdVkaOjaDicBraBGvaGkbSccwaGlgGlgEtauaEdcTiBxDiaBDdaKsaFdbBraGlaEtaGqaFuaGaaChaCcaSraIgaBl"
    "aGlaBBhaIwiCxaWjaModDnaGldCbaGlaSraDwaBraFqaBvfBAncBxaFjiCcaBbaNeaCrawaDxawaBlaCcavfBBeaBMy"
    "aIcauaVaaWyaBNqaDNraraFqaCHraraFqaEzaDucDtcFaaEzaFaaEzaDucDtcFabrbrbrbraFaaEzaIscFaaFbaFaaFb"
    "aFaaFbaDebBiaCnataBcasaCiaBybBiaCnataCiaCocBiaCnbCiaFaaDdaCicBybBiaCnataBsbHifPfaBufBeaJraBq"
    "aChaBcaIlaBcaBbaBaaGpaBeqzaucEbaCiaBrauaGnaCiaBrbIedUupUopBsaraCyaraBsasaBxaBiaBhaBvaBcaraCi"
    "aDdaEearaBcaraBcaraBcaCnaBcasaBxaBvaCrasaBsaBiaBhaDoaraCoaCyasaBcaKfaVwaBvaCuazaBseIXwaCxaSi"
    "aBraGBkwHgvBLhaQmaBGnaNxaOPoaJbaSvaBEqaBraToaGpaJOmaNzaBNgaCxaUeaBraIWqcUebCNcaBDpaBDqaBvaBx"
    "aBiaEhaBxaBvaraBiaraDuaBkaBhaCIxaraBiaEeaDbaCcaBvfCxazaBraXmbsfscBIrhuaBbowaOjjEnbEnbEnbEnbEn"
    "bEnbEnbEnbTyaBDjauaUdaBsaHvBiQmbCDgmFCeBaKiaBeaChaBcauavayaGpaBsaHvaBcaFwaDyaBbaDgaBsaCeauav"
    "aBbaBsbCBdcBmaBsaBkavaBbaCDpaBbaCaavfBArbCGbbBsaCvaGqaTxaXwjBcaKbaTobGnaSyaFhaBcaJpaUeaGnaYm"
    "aJpaHPkaGAAvaBNwaTDJhauaBBBpdBIijYvaDwaBraGJdauaChaKbaGlaBluBCxavaCsaBbaGkaBbauaRvaBkaBmaBRh"
    "aGmaBmaEdiOqaFsaBsaHzaraByaBMtauaFaaDbaraGtauaBsaDbavaBvaraByaMxaCnaBvaCnaKlaBxaDbaraBvcBvbs"
    "bsaEharvCaaBvavaBkasaEnawaCbawaCrawaOjaDiaCyawdEbaCygBGfaCxiBmaBEzaLiiBraGlgLiaDxaChavaBbaBl"
    "awaGlaRlaFeaBraOjaIglBbaSbdCsaBDdaIwaIlbuaGleBraDhawauaFtaGlaDhbZlaIwjCbawaFdaBmcGlcCxaKbau"
    "aDxaCiavaCcaBEzawavaCcaBlaBmaDhaBmavawavyBlauaBraGzaDiaBravaBkaBmkDxcDxcDxjEnbEnbBAoaBcaCqaFq"
    "auaBseBXiaVtaFeaBbaBmcGlgKELhmOjeBEjMNcIRlcCNlBmEkmDefvawaGjaBcaIfbDhbvbBlbBlbCOraKyqIPpaBr"
    "aKiaBNpcBHlhBcBgHpaCyaKcaGpgKcaChaBqaPfaCgaChbJbaBcaBbaCibBbaBcaBreDhbDFheChaBcaEdaBcaCxaGl"
    "aBraCiaBraQbaChaBcaBaaBcaQcaBbaBcaBbaBcaEtaGjauaBBxaBkaThdDxcDxcDxcCbdEubEunBscHpbQfbLxbBlbJl"
    "cIvBiCXxfCheBCbdGaaBGyaCvaKyaBpaCibImdBcBvBCeawFaSbdBEjpwaQzeTxaCvjMnayaFdayfXpaDifSrbBbaWj"
    "eFdaBbaDkBqYraYsaBWfcGlgWfeWgeYviBGflBbaGvbJhbEjbBhbGwbJibEkbBidBGfmHJpjNtkFdyDwbBAabFsCrDxcv"
    "bBBhbBldvcOjbBbaFhaOjaBsaEraThiFxBwLxbBlfDlaNtaEbdBbaQffBbCmBIreBpaBlaKfcBCravaCcbBmfCsaCrbCb",
    "bSbcCcewaFxhFzhSbaBpaBbaSbaCfBgFdaBcaRlaBmeDlaEtjBHldEtaNtcFhaLxfFhaLhhCxmErDcBTdCdBFlnBFmhEb"
    "aWjaCsiGlgGlaCrauavaNpdDiaBbauaNqiBsIaTlbBAbbBmaBbcBlqCbCdCsaSbaGnaviNtaHaaCvaDnwLhaCsaCxBmNd"
    "aEruOjjCcaBGvaJmaEteMraGlawaBlaBmavjCsaBBxaHaaBrbCxawnPphGlgCcaWjaIwbGlaCxavaBmaviVtawaBrav"
    "jCcaBDtaIwaCraCxaCsaBbaBmaGlavaBbavaChbMrlLhbPpaHqaEdawaBlawCkEnbvbCrbJlbGjaBbgBDdaHqfGlgCs"
    "bFdcBlcNtbEnbBlbDhbBmavaEocBmcCccvgwfDhaBmcEodDilGjbvcvbXpbvaFubwcwbCsbDiavawavaBrbBriBmBdBGv"
    "aLiaCraDnaGlaBrbBbawaCbBeBDtaMoaBlaBbaviGlGkBDdaEocFuaOpaCraBmBiBDtaKsaChavlGlgIltBAraIgavaBb"
    "gGlgMpBcQvcJmeGlaBpaChaBcaEnHdBBhaJmaBbDwTtaTuaGlaFxmFdcvcFdbBlbOzaDybBmcCsavawavaBmaChjGl"
    "CsFdcYfaEocEoavaBbavawBbvaGkaYvaEoavaCsaFjawivaHaaBCnaKcaChavaDnnBTdhGpHaUnaBboGlgFtbWzaFebFe"
    "avaDnkGlaMbdBraSrcNubIwCvEnbBlbXpaDydwbBmbEoavawiGlgDxbBlbTxaDibBmbDiavhGlLyLxaCsaBrhBmavaw"
    "aIfbVdaEodDiaIlaGlawDhvpNhaSinBbaVVpDyCQqbDnlEQvDXkCHxaBrnZJxqwaDxaJmkDQOrfNUzKDdSraLiaGl"
    "COsNMjhThbGleBraBWvbGlgSrcDiaBbkBDtaEoaDnaCyaCqaBbaBckGlbErbNdfLxQqCaaYvaBkaChaGlHqTtaTuaOn"
    "aCxDxBUjewavaBIchCsaIeCmBkaBbauawlBmoFPGfiBDIbBpGjNFrCqbEmbBkbGXhpvBdCbcvoCriJJxDKuCObfIfdFt"
    "hGjcBcaBmaBbFVkFSeaGlgKIuCyBCocOkjCTwCiFVwkYmcBLkaDiaCiaDyiFeaBsaEoaSyaCsaBMavBPcaCcaBcEsMr"
    "mMrmCCajPtFfQbaQcaQbaEkbLeaQbaQcarbBhcrcBhcCnbEzaCobsbEkbGwaQbaQcaBhbCncEzbEjbQcaBhbCnbDdbr"
    "dEjbQcaQbaQcaQbaQcaQbaQcaQbaQcaQbaQcaQbaRicPlaBcaPmaBcaDuaPlaBcaPmaBcaDuaPlaBcaPmaBcaDuaPlaBc"
    "aPmaBcaDuaPlaBcaPmaBcaDuaBvcBFbaMDoaBIcaCyaBFaaFkawaJcawaBsaDnpDibJmBQmGgavaMkgDuIfEobKscEo"
    "bBmbDifBMiBhwEiBBxdEoaEmcGlevaBcMiSrawrBBhaCsaGlfBcRwQvauaCsaGlIgSraBmavaGleBbSmEnbCrbBlbJl"
    "bERlcFxaEoBpUzaVaaEoaueGleBrBEfBKraBcaCfaBcaCvCyBCbaBcaJpHmCrbQvbBlbvcvbGjbCrbvbvgvevbvbvbCb"
    "bBlbvcvbvbvbvbvbBlbvcCrbEnbCrbCrbvbGjbKrfCbbDhbKrCaBsKkBBoeCKamJscJsbJsbXgkIjaWaaQnaEeaQnaEe"
    "aQnaWqCeSinBBoeGahBsoEeFyXIaeKydImdCVseCGygHweBcpHweBIyiGqgZciSycHweBsCkIBsmJccImdGqfBIyhJs"
    "cHggGahDMybCFcaGlBNqBMXDlBgDUIngFGvcFGKboGUWzpOSzDQwMVtCFyEMXpfDVFxBONHgFRy"};
static const char llmi_han[] =
    "RPwBabDlmIgBvbbbzjoeBLcJToCmBFBkBHSiOccEcBSIicmcCCOkCLFcBgGDugIocINqoLBlpXyDQwUwCFyHHzfGFg";
static const char llmi_hangul[] =
    "GLkJwLLecJxDqEjBfCnBfBTAnBdYtQNsmxeBxPAiBfdgcgcgcd";
static const char llmi_hiragana[] =
    "SHdDigdFPEvLbsbBddYMvb";
static const char llmi_katakana[] =
    "SKvDmcdJgqIaBvbDkCZHekbBtCOUcebhbcbbLbdByboe";

/* Kinds are bits of masks: 0 other, then Lu Ll Lt Lm Lo, M, Nd Nl No, Pc, the rest of P, S, letters
 * in circles (of S), white space; 15 stands for pairs of Lu and Ll. */
#define LLMI_WHITE 0x4000u
#define LLMI_WORDS 0x25FEu             /* \w */
static const struct { const char *name; unsigned kinds; const char *script;
} llmi_properties[] = {
    {"l", 0x3E, NULL}, {"lu", 2, NULL}, {"ll", 4, NULL}, {"lt", 8, NULL}, {"lm", 0x10, NULL},
    {"lo", 0x20, NULL}, {"m", 0x40, NULL}, {"n", 0x380, NULL}, {"nd", 0x80, NULL},
    {"nl", 0x100, NULL}, {"no", 0x200, NULL}, {"p", 0xC00, NULL}, {"pc", 0x400, NULL},
    {"s", 0x3000, NULL}, {"han", 0, llmi_han}, {"hangul", 0, llmi_hangul},
    {"hiragana", 0, llmi_hiragana}, {"katakana", 0, llmi_katakana}};

/* Sets of characters lie on a stack of numbers: where membership changes, from none at 0 on. */
#define LLMI_CODES 0x110000u
enum { LLMI_AND = 0x8, LLMI_OR = 0xE, LLMI_NOT = 0x3 };         /* result of 00 01 10 11 as bits */

static size_t llmi_set_top(const llmi_text *stack) { return stack->size / sizeof(uint32_t); }
static uint32_t *llmi_set_at(const llmi_text *stack, size_t i) {
    return (uint32_t *)(void *)stack->data + i;
}

/* adds [begin, end), which is behind what the topmost set has */
static void llmi_set_add(llmi_text *stack, size_t set, uint32_t begin, uint32_t end) {
    const uint32_t bounds[2] = {begin, end};
    const size_t top = llmi_set_top(stack);
    if (top > set && *llmi_set_at(stack, top - 1) == begin) stack->size -= sizeof begin;
    else llmi_text_add(stack, (const char *)&bounds[0], sizeof begin);
    if (end < LLMI_CODES) llmi_text_add(stack, (const char *)&bounds[1], sizeof end);
}

/* the set from a to b and the topmost, from b on, become one, from a on */
static void llmi_set_combine(llmi_text *stack, size_t a, size_t b, unsigned how) {
    const size_t end = llmi_set_top(stack);
    size_t i = a, j = b;
    uint32_t code = 0, next;
    unsigned is_in = 0, want;
    if (!llmi_text_reserve(stack, (end - a + 1) * sizeof code)) return;
    while (code < LLMI_CODES) {
        while (i < b && *llmi_set_at(stack, i) <= code) i++;
        while (j < end && *llmi_set_at(stack, j) <= code) j++;
        want = how >> ((i - a) % 2 * 2 + (j - b) % 2) & 1;
        if (want != is_in) llmi_text_add(stack, (const char *)&code, sizeof code);
        is_in = want;
        next = i < b ? *llmi_set_at(stack, i) : LLMI_CODES;
        if (j < end && *llmi_set_at(stack, j) < next) next = *llmi_set_at(stack, j);
        code = next;
    }
    memmove(llmi_set_at(stack, a), llmi_set_at(stack, end), stack->size - end * sizeof code);
    stack->size -= (end - a) * sizeof code;
}

static uint32_t llmi_base26(const char **text) {
    uint32_t value = 0;
    for (; **text < 'a'; (*text)++) value = 26 * (value + (uint32_t)(**text - 'A'));
    return value + (uint32_t)(*(*text)++ - 'a');
}

/* pushes the characters of these kinds, or (kinds 0) of a script */
static void llmi_set_push(llmi_text *stack, unsigned kinds, const char *script) {
    const size_t set = llmi_set_top(stack), n = script ? 1 : LLMI_COUNT(llmi_unicode);
    uint32_t code = 0, size, i;
    size_t part;
    for (part = 0; part < n; part++) {
        const char *p = script ? script : llmi_unicode[part];
        while (*p) {
            code += llmi_base26(&p);
            size = llmi_base26(&p);
            if (script) llmi_set_add(stack, set, code, code + size);
            else if ((size & 15) < 15) {
                if (kinds >> (size & 15) & 1) llmi_set_add(stack, set, code, code + size / 16);
            } else for (i = 0; i < size / 16; i++)
                if (kinds >> (1 + i % 2) & 1) llmi_set_add(stack, set, code + i, code + i + 1);
            code += script ? size : size / 16;
        }
    }
}

/* The sets that a tokenizer's patterns ask for divide all characters into symbols: two characters
 * are one symbol if they are in the same sets. */
enum { LLMI_SET_WORD = 0,              /* Rust's \w, which has the joiners */
       LLMI_SET_WHITE, LLMI_SET_NEWLINE,
       LLMI_SET_BOUND,                 /* \w of Oniguruma outside of brackets, with six of No */
       LLMI_N_OWN_SETS, LLMI_MAX_SETS = 250 };
typedef struct llmi_alphabet {
    llmi_strings sets;                 /* the bounds of each */
    llmi_strings symbols;              /* the sets that each is in, a bit for each set */
    llmi_text blocks;                  /* of 256 symbols each, those of 256 characters */
    uint16_t block[LLMI_CODES / 256];
    uint8_t is[256];                   /* of each symbol, a bit for each of the first sets */
} llmi_alphabet;

/* the number of the topmost set, which is taken away; *number -1 = there are too many */
static llm_result llmi_alphabet_set(llmi_alphabet *a, llmi_text *stack, size_t set, int *number,
                                    llm_error *err) {
    const size_t n = stack->size - set * sizeof(uint32_t);
    if (stack->failed != LLM_OK)
        return llmi_fail(err, LLM_ERR_MEMORY, "out of memory: the patterns of a tokenizer");
    *number = llmi_strings_find(&a->sets, stack->data + stack->size - n, n, LLMI_BYTES);
    if (*number < 0 && a->sets.n < LLMI_MAX_SETS) {
        *number = (int)a->sets.n;
        LLMI_TRY(llmi_strings_put(&a->sets, *number, stack->data + stack->size - n, n, LLMI_BYTES,
                                  err));
    }
    stack->size -= n;
    return LLM_OK;
}
static llm_result llmi_alphabet_own(llmi_alphabet *a, llmi_text *stack, llm_error *err) {
    static const uint32_t more[] = {0xB2, 0xB4, 0xB9, 0xBA, 0xBC, 0xBF}, newline[] = {10, 11};
    size_t i, b;
    int number;
    stack->size = 0;
    llmi_set_push(stack, LLMI_WORDS, NULL);
    b = llmi_set_top(stack);
    llmi_set_add(stack, b, 0x200C, 0x200E);
    llmi_set_combine(stack, 0, b, LLMI_OR);
    LLMI_TRY(llmi_alphabet_set(a, stack, 0, &number, err));
    llmi_set_push(stack, LLMI_WHITE, NULL);
    LLMI_TRY(llmi_alphabet_set(a, stack, 0, &number, err));
    llmi_set_add(stack, 0, newline[0], newline[1]);
    LLMI_TRY(llmi_alphabet_set(a, stack, 0, &number, err));
    llmi_set_push(stack, LLMI_WORDS, NULL);
    b = llmi_set_top(stack);
    for (i = 0; i < LLMI_COUNT(more); i += 2) llmi_set_add(stack, b, more[i], more[i + 1]);
    llmi_set_combine(stack, 0, b, LLMI_OR);
    return llmi_alphabet_set(a, stack, 0, &number, err);
}

/* [begin, end) are of one symbol; blocks that are equal to the one before are that one */
static void llmi_alphabet_fill(llmi_alphabet *a, uint32_t begin, uint32_t end, int symbol) {
    char *block;
    while (begin < end && a->blocks.failed == LLM_OK) {
        const uint32_t stop = (uint32_t)llmi_min(end, (begin | 255) + 1);
        if (!(begin & 255)) {
            if (!llmi_text_reserve(&a->blocks, 256)) return;
            a->block[begin / 256] = (uint16_t)(a->blocks.size / 256);
            a->blocks.size += 256;
        }
        block = a->blocks.data + a->blocks.size - 256;
        memset(block + (begin & 255), symbol, stop - begin);
        if (!(stop & 255) && a->blocks.size > 256 && !memcmp(block, block - 256, 256)) {
            a->block[begin / 256]--;
            a->blocks.size -= 256;
        }
        begin = stop;
    }
}

/* all sets are there: the symbols */
static llm_result llmi_alphabet_finish(llmi_alphabet *a, llm_error *err) {
    size_t at[LLMI_MAX_SETS], i;
    char in[(LLMI_MAX_SETS + 7) / 8];
    const size_t n_bytes = (a->sets.n + 7) / 8;
    uint32_t code, next;
    memset(at, 0, sizeof at);
    for (code = 0; code < LLMI_CODES; code = next) {
        int symbol;
        next = LLMI_CODES;
        memset(in, 0, sizeof in);
        for (i = 0; i < a->sets.n; i++) {
            const llmi_string *set = &a->sets.items[i];
            const uint32_t *bounds = (const uint32_t *)(const void *)(a->sets.bytes.data +
                                                                      set->begin);
            const size_t n = set->size / sizeof *bounds;
            while (at[i] < n && bounds[at[i]] <= code) at[i]++;
            if (at[i] % 2) in[i / 8] = (char)(in[i / 8] | 1 << i % 8);
            if (at[i] < n && bounds[at[i]] < next) next = bounds[at[i]];
        }
        symbol = llmi_strings_find(&a->symbols, in, n_bytes, LLMI_BYTES);
        if (symbol < 0) {
            symbol = (int)a->symbols.n;
            if (symbol == 255)
                return llmi_fail(err, LLM_ERR_UNSUPPORTED, "the patterns of the pre_tokenizer tell "
                                 "more than 255 kinds of characters apart");
            LLMI_TRY(llmi_strings_put(&a->symbols, symbol, in, n_bytes, LLMI_BYTES, err));
            a->is[symbol] = (uint8_t)in[0];
        }
        llmi_alphabet_fill(a, code, next, symbol);
    }
    return a->blocks.failed == LLM_OK
               ? LLM_OK : llmi_fail(err, LLM_ERR_MEMORY, "out of memory: kinds of characters");
}

static void llmi_alphabet_free(llmi_alphabet *a) {
    llmi_strings_free(&a->sets);
    llmi_strings_free(&a->symbols);
    llmi_text_free(&a->blocks);
}

/* the character at the start of n > 0 bytes -> its length, and its symbol; a broken byte is a
 * character, too, like U+DFFF, which no text has */
static size_t llmi_symbol(const llmi_alphabet *a, const char *text, size_t n, int *symbol) {
    uint32_t code = (unsigned char)text[0];
    size_t size = 1;
    if (code >= 0x80) size = llmi_utf8_decode(text, n, &code);
    if (!size) code = 0xDFFF;
    *symbol = (unsigned char)a->blocks.data[a->block[code / 256] * (size_t)256 + code % 256];
    return size ? size : 1;
}

/* the character that ends at `end`, not before lowest -> where it begins, and its symbol */
static size_t llmi_symbol_before(const llmi_alphabet *a, const char *text, size_t lowest,
                                 size_t end, int *symbol) {
    size_t at = end - 1;
    while (at > lowest && end - at < 4 && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
    if (llmi_symbol(a, text + at, end - at, symbol) == end - at) return at;
    (void)llmi_symbol(a, text + end - 1, 1, symbol);
    return end - 1;
}

/* ---- patterns ------------------------------------------------------------------------------- */
/* A pattern becomes a program that a matcher would try in order: of two ways on, the first that
 * leads to the end counts. Which places of the program lead to the end from a place of the text is
 * found for all places at once, from the end of the text to its start (Frisch & Cardelli, ICALP
 * 2004): that set is a state, and it follows from the state behind and the character between. So
 * all states are listed before any text comes, and a text takes time in proportion to its length
 * whatever the pattern: from right to left a table is looked up, from left to right the program is
 * followed, where no step has to be taken back. A lookahead is one more place that leads to an
 * end. */
enum { LLMI_MAX_PATTERN = 4096,        /* bytes of a pattern */
       LLMI_MAX_PROGRAM = 2000,        /* steps, repeats written out */
       LLMI_MAX_TABLE = 65535,         /* states times (symbols and steps) */
       LLMI_MAX_SPLITS = 16 };         /* patterns of one tokenizer */
#define LLMI_NOWHERE 0xFFFFu

typedef enum llmi_step_op { LLMI_END, LLMI_ONE, LLMI_FORK, LLMI_LOOK, LLMI_PLACE } llmi_step_op;
typedef enum llmi_place_of { LLMI_LINE_BEGIN, LLMI_TEXT_BEGIN, LLMI_WORD_EDGE, LLMI_NO_WORD_EDGE,
                             LLMI_LINE_END, LLMI_TEXT_END } llmi_place_of;
typedef struct llmi_step {
    uint8_t op, what;                  /* ONE: the set; PLACE: which; LOOK: 1 = must not match */
    uint16_t next, other;              /* FORK: the second way; LOOK: what must match here */
} llmi_step;

typedef enum llmi_behavior { LLMI_ISOLATED, LLMI_REMOVED, LLMI_MERGED_WITH_PREVIOUS,
                             LLMI_MERGED_WITH_NEXT, LLMI_CONTIGUOUS } llmi_behavior;
typedef enum llmi_split_type { LLMI_REGEX, LLMI_STRING, LLMI_DIGITS, LLMI_LEVEL } llmi_split_type;
typedef struct llmi_pattern {
    llmi_split_type type;              /* what the file calls it; LEVEL: GPT-2's, of a ByteLevel */
    llmi_behavior behavior;
    int invert;
    llmi_text text;
    llmi_step *program;                /* step 0 is the end */
    size_t n_steps, start;
    unsigned edges;                    /* 4: a state depends on the character before, too; else 1 */
    llmi_strings states;               /* a bit for each step: does it lead to the end? */
    uint16_t *table;                   /* a row for each state, which is called by its begin */
    size_t columns, row;               /* columns of a row, and its size */
} llmi_pattern;

typedef struct llmi_patterns {
    llmi_alphabet alphabet;
    llmi_pattern items[LLMI_MAX_SPLITS];         /* each cuts the pieces of the one before */
    size_t n;
    int are_finished;
} llmi_patterns;

/* a part of a pattern: EMPTY, ONE, PLACE, LOOK (a), CAT (a, b), EITHER (a, b), REPEAT (a) */
typedef enum llmi_term_op { LLMI_T_EMPTY, LLMI_T_ONE, LLMI_T_PLACE, LLMI_T_LOOK, LLMI_T_CAT,
                            LLMI_T_EITHER, LLMI_T_REPEAT } llmi_term_op;
typedef struct llmi_term {
    llmi_term_op op;
    int a, b, least, most;             /* most -1: without end */
    int what;                          /* as in llmi_step; REPEAT: 1 = as few as possible */
    int may_be_empty, depth;           /* may_be_empty: 2 and 3, one way is a PLACE or a LOOK */
} llmi_term;

typedef struct llmi_regex {
    llmi_patterns *patterns;
    llmi_pattern *pattern;
    const char *text, *name;
    size_t n, at;
    llmi_text sets;                    /* a stack */
    llmi_term *terms;
    int n_terms, last;                 /* last: the letter before at, where case is ignored */
    size_t last_end;
    llmi_step program[LLMI_MAX_PROGRAM];
    int n_steps;
    llm_error *err;
} llmi_regex;

static int llmi_regex_refuse(const llmi_regex *r, const char *what) {        /* -> -1 */
    llmi_fail(r->err, LLM_ERR_UNSUPPORTED,
              "%.60s: pre_tokenizer.pattern %.*s%s: %s before byte %lu is not supported", r->name,
              (int)llmi_min(r->n, 70), r->text, r->n > 70 ? "..." : "", what,
              (unsigned long)r->at);
    return -1;
}
static int llmi_regex_peek(const llmi_regex *r, size_t i) {      /* -1: the end */
    return r->at + i < r->n ? (unsigned char)r->text[r->at + i] : -1;
}
static int llmi_regex_starts(const llmi_regex *r, const char *what) {
    return r->n - r->at >= strlen(what) && !memcmp(r->text + r->at, what, strlen(what));
}

/* \p{..}, \P{..}: its name is next */
static int llmi_regex_property(llmi_regex *r, int negated) {
    char name[12];
    size_t n = 0, i, set = llmi_set_top(&r->sets);
    int c = llmi_regex_peek(r, 0);
    if (c != '{') return llmi_regex_refuse(r, "\\p without braces");
    r->at++;
    if (llmi_regex_peek(r, 0) == '^') {
        negated = !negated;
        r->at++;
    }
    while ((c = llmi_regex_peek(r, 0)) != '}' && c >= 0 && n < sizeof name - 1) {
        if (c != ' ' && c != '_' && c != '-') name[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        r->at++;
    }
    name[n] = 0;
    for (i = 0; i < LLMI_COUNT(llmi_properties) && strcmp(name, llmi_properties[i].name); i++) {}
    if (c != '}' || i == LLMI_COUNT(llmi_properties))
        return llmi_regex_refuse(r, "this \\p{..}");
    r->at++;
    llmi_set_push(&r->sets, llmi_properties[i].kinds, llmi_properties[i].script);
    if (negated) llmi_set_combine(&r->sets, set, llmi_set_top(&r->sets), LLMI_NOT);
    return 1;
}

/* \xHH, \x{H..}, \uHHHH: the digits are next */
static int llmi_regex_hex(llmi_regex *r, int is_u, uint32_t *code) {
    const int braces = !is_u && llmi_regex_peek(r, 0) == '{';
    const int most = is_u ? 4 : braces ? 6 : 2;
    int n;
    r->at += (size_t)braces;
    for (*code = 0, n = 0; n < most; n++, r->at++) {
        const int c = llmi_regex_peek(r, 0);
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) break;
        *code = *code * 16 + (uint32_t)digit;
    }
    if (!n || (is_u && n < 4) || (braces && llmi_regex_peek(r, 0) != '}') ||
        *code >= LLMI_CODES || (!is_u && !braces && *code >= 0x80))    /* a byte of a character */
        return llmi_regex_refuse(r, "this number of a character");
    r->at += (size_t)braces;
    return 0;
}

/* a character or an escape -> 0: it is *code; 1: it is a set, which is pushed; -1: refused */
static int llmi_regex_character(llmi_regex *r, int in_class, uint32_t *code) {
    static const char letters[] = "nrtfvae";
    static const unsigned char values[] = {10, 13, 9, 12, 11, 7, 27};
    const size_t set = llmi_set_top(&r->sets);
    size_t size = llmi_utf8_decode(r->text + r->at, r->n - r->at, code);
    const char *letter;
    int c;
    if (size && *code == '\\') {
        r->at++;
        size = llmi_utf8_decode(r->text + r->at, r->n - r->at, code);
        if (!size) return llmi_regex_refuse(r, "a backslash at the end");
        r->at += size;
        c = (int)*code;
        letter = c < 0x80 ? strchr(letters, c) : NULL;
        if (letter) *code = values[letter - letters];
        if (letter || c >= 0x80 || c <= ' ' || !(((c | 32) >= 'a' && (c | 32) <= 'z') ||
                                               (c >= '0' && c <= '9'))) return 0;
        if (c == 'p' || c == 'P') return llmi_regex_property(r, c == 'P');
        if (c == 'x' || c == 'u') return llmi_regex_hex(r, c == 'u', code);
        if ((c | 32) == 's') llmi_set_push(&r->sets, LLMI_WHITE, NULL);
        else if ((c | 32) == 'd') llmi_set_push(&r->sets, 0x80, NULL);
        else if ((c | 32) == 'w' && in_class) llmi_set_push(&r->sets, LLMI_WORDS, NULL);
        else if ((c | 32) == 'w') {
            const llmi_string *word = &r->patterns->alphabet.sets.items[LLMI_SET_BOUND];
            llmi_text_add(&r->sets, r->patterns->alphabet.sets.bytes.data + word->begin,
                          word->size);
        } else return llmi_regex_refuse(r, "this escape");
        if (!(c & 32)) llmi_set_combine(&r->sets, set, llmi_set_top(&r->sets), LLMI_NOT);
        return 1;
    }
    if (!size) return llmi_regex_refuse(r, "what is not UTF-8");
    r->at += size;
    return 0;
}

/* The topmost set, of ASCII, takes in the other case of its letters, the long s and the Kelvin
 * sign. 0 = it has other characters. */
static int llmi_regex_fold(llmi_regex *r, size_t set) {
    const size_t top = llmi_set_top(&r->sets);
    char has[128];
    size_t i;
    uint32_t c;
    if (r->sets.failed != LLM_OK) return 1;
    memset(has, 0, sizeof has);
    if ((top - set) % 2 || (top > set && *llmi_set_at(&r->sets, top - 1) > 128)) return 0;
    for (i = set; i < top; i += 2)
        memset(has + *llmi_set_at(&r->sets, i), 1,
               *llmi_set_at(&r->sets, i + 1) - *llmi_set_at(&r->sets, i));
    for (c = 'A'; c <= 'Z'; c++) has[c] = has[c + 32] = has[c] | has[c + 32];
    r->sets.size = set * sizeof c;
    for (c = 0; c < 128; c++)
        if (has[c]) llmi_set_add(&r->sets, set, c, c + 1);
    if (has[(int)'s']) llmi_set_add(&r->sets, set, 0x17F, 0x180);
    if (has[(int)'k']) llmi_set_add(&r->sets, set, 0x212A, 0x212B);
    return 1;
}

/* pushes the set whose [ is behind us */
static int llmi_regex_class(llmi_regex *r, int fold, int depth) {
    const size_t set = llmi_set_top(&r->sets);
    const int negated = llmi_regex_peek(r, 0) == '^';
    size_t mine = set, item;
    uint32_t low, high;
    int n_items = 0, c, is_set;
    r->at += (size_t)negated;
    if (depth > 20) return llmi_regex_refuse(r, "brackets in more than 20 others");
    while ((c = llmi_regex_peek(r, 0)) != ']' || !n_items) {
        item = llmi_set_top(&r->sets);
        if (c < 0) return llmi_regex_refuse(r, "a bracket that is not closed");
        if (llmi_regex_starts(r, "&&")) {
            if (!n_items) return llmi_regex_refuse(r, "&& with nothing in front");
            if (mine > set) llmi_set_combine(&r->sets, set, mine, LLMI_AND);
            mine = llmi_set_top(&r->sets);
            if (mine == set) return llmi_regex_refuse(r, "&& with an empty set");
            n_items = 0;
            r->at += 2;
            continue;
        }
        if (llmi_regex_starts(r, "[:")) return llmi_regex_refuse(r, "[:..:]");
        r->at += c == '[';
        is_set = c == '[' ? llmi_regex_class(r, 0, depth + 1) : llmi_regex_character(r, 1, &low);
        if (is_set < 0) return -1;
        high = low;
        if (llmi_regex_peek(r, 0) == '-' && llmi_regex_peek(r, 1) != ']') {
            if (is_set || llmi_regex_peek(r, 1) == '[' || llmi_regex_peek(r, 1) == '&')
                return llmi_regex_refuse(r, "this range");
            r->at++;
            is_set = llmi_regex_character(r, 1, &high);
            if (is_set || high < low) return is_set < 0 ? -1 : llmi_regex_refuse(r, "this range");
        }
        if (!is_set) llmi_set_add(&r->sets, item, low, high + 1);
        if (item > mine) llmi_set_combine(&r->sets, mine, item, LLMI_OR);
        n_items++;
    }
    r->at++;
    if (mine > set) llmi_set_combine(&r->sets, set, mine, LLMI_AND);
    if (fold && !llmi_regex_fold(r, set))
        return llmi_regex_refuse(r, "a bracket with more than ASCII without regard to case");
    if (negated) llmi_set_combine(&r->sets, set, llmi_set_top(&r->sets), LLMI_NOT);
    return 1;
}

/* a new term; for PLACE and LOOK, what says which */
static int llmi_regex_term(llmi_regex *r, llmi_term_op op, int a, int b, int what) {
    llmi_term *x = &r->terms[r->n_terms];
    const llmi_term *first = op >= LLMI_T_LOOK ? &r->terms[a] : NULL,
                    *second = op == LLMI_T_CAT || op == LLMI_T_EITHER ? &r->terms[b] : NULL;
    memset(x, 0, sizeof *x);
    x->op = op;
    x->a = a;
    x->b = b;
    x->what = what;
    x->may_be_empty = op == LLMI_T_CAT ? first->may_be_empty && second->may_be_empty
                      : op == LLMI_T_EITHER ? first->may_be_empty | second->may_be_empty
                      : op == LLMI_T_PLACE || op == LLMI_T_LOOK ? 2 : op != LLMI_T_ONE;
    if (first) x->depth = first->depth + !second;
    if (second && second->depth > x->depth) x->depth = second->depth;
    if (x->depth > 100) return llmi_regex_refuse(r, "a repeat in more than 100 others");
    return r->n_terms++;
}

/* the topmost set as a term */
static int llmi_regex_set(llmi_regex *r, size_t set) {
    int number;
    if (llmi_alphabet_set(&r->patterns->alphabet, &r->sets, set, &number, r->err) != LLM_OK)
        return -1;
    if (number < 0) return llmi_regex_refuse(r, "one more than 250 sets of characters");
    return llmi_regex_term(r, LLMI_T_ONE, 0, 0, number);
}

/* a term that is no group */
static int llmi_regex_atom(llmi_regex *r, int fold) {
    static const struct { const char *text; llmi_place_of place;
    } places[] = {{"^", LLMI_LINE_BEGIN}, {"$", LLMI_LINE_END}, {"\\A", LLMI_TEXT_BEGIN},
                  {"\\z", LLMI_TEXT_END}, {"\\b", LLMI_WORD_EDGE}, {"\\B", LLMI_NO_WORD_EDGE}};
    static const char joined[] = "ss st ff fi fl";               /* one character each: \u00DF .. */
    const size_t set = llmi_set_top(&r->sets), begin = r->at;
    uint32_t code = 0;
    size_t i;
    const int c = llmi_regex_peek(r, 0);
    int is_set;
    for (i = 0; i < LLMI_COUNT(places); i++)
        if (llmi_regex_starts(r, places[i].text)) {
            if (places[i].place < LLMI_LINE_END) r->pattern->edges = 4;
            r->at += strlen(places[i].text);
            return llmi_regex_term(r, LLMI_T_PLACE, 0, 0, (int)places[i].place);
        }
    if (c == '*' || c == '+' || c == '?') return llmi_regex_refuse(r, "a repeat of nothing");
    if (c == '[' || c == '.') r->at++;
    if (c == '[') is_set = llmi_regex_class(r, fold, 0);
    else if (c == '.') {
        llmi_set_add(&r->sets, set, '\n', '\n' + 1);
        llmi_set_combine(&r->sets, set, llmi_set_top(&r->sets), LLMI_NOT);
        is_set = 1;
    } else is_set = llmi_regex_character(r, 0, &code);
    if (is_set < 0) return -1;
    if (!is_set) {
        llmi_set_add(&r->sets, set, code, code + 1);
        if (fold) {
            char pair[3];
            pair[0] = (char)(r->last_end == begin ? r->last : ' ');
            pair[1] = (char)(code >= 'A' && code <= 'Z' ? code + 32 : code < 128 ? code : '?');
            pair[2] = 0;
            if (!llmi_regex_fold(r, set) || (pair[0] != ' ' && strstr(joined, pair)))
                return llmi_regex_refuse(r, "this letter without regard to case");
            r->last = pair[1];
            r->last_end = r->at;
        }
    }
    return llmi_regex_set(r, set);
}

/* {m}, {m,}, {,n}, {m,n}: 0 = this is none of them, and so text */
static int llmi_regex_interval(llmi_regex *r, int *least, int *most, int *is_one) {
    size_t at = 1;
    int n[2] = {0, 0}, digits[2] = {0, 0}, part = 0, c;
    for (; (c = llmi_regex_peek(r, at)) != '}'; at++) {
        if (c == ',' && !part) part = 1;
        else if (c >= '0' && c <= '9') {
            digits[part]++;
            n[part] = 10 * n[part] + c - '0';
            if (n[part] > LLMI_MAX_PROGRAM) n[part] = LLMI_MAX_PROGRAM + 1;
        } else return 0;
    }
    if (!digits[0] && !digits[1]) return 0;
    *least = n[0];
    *most = !part ? n[0] : digits[1] ? n[1] : -1;
    *is_one = !part;
    r->at += at + 1;
    return 1;
}

/* the repeats behind a term */
static int llmi_regex_repeats(llmi_regex *r, int term) {
    for (;;) {
        const int c = llmi_regex_peek(r, 0);
        int least = c == '+', most = c == '?' ? 1 : -1, interval = 0, is_one = 0, lazy, look;
        if (c == '{') interval = llmi_regex_interval(r, &least, &most, &is_one);
        else if (c == '?' || c == '*' || c == '+') r->at++;
        if (!interval && c != '?' && c != '*' && c != '+') return term;
        if (most >= 0 && (least > most || most > LLMI_MAX_PROGRAM))
            return llmi_regex_refuse(r, "this repeat");
        if (least > LLMI_MAX_PROGRAM) return llmi_regex_refuse(r, "this repeat");
        if (r->terms[term].may_be_empty > (most == 1))
            return llmi_regex_refuse(r, "a repeat of what may be empty");
        lazy = llmi_regex_peek(r, 0) == '?';
        if (lazy && is_one) return llmi_regex_refuse(r, "{..}?");
        r->at += (size_t)lazy;
        look = term;
        term = llmi_regex_term(r, LLMI_T_REPEAT, term, 0, lazy);
        if (term < 0) return -1;
        r->terms[term].least = least;
        r->terms[term].most = most;
        r->terms[term].may_be_empty = !least || r->terms[look].may_be_empty != 0;
        if (interval || lazy || llmi_regex_peek(r, 0) != '+') continue;
        r->at++;                       /* gives nothing back: no more of it may follow */
        if (r->terms[look].op != LLMI_T_ONE)
            return llmi_regex_refuse(r, "a possessive repeat of more than one character");
        r->terms[term].least = least = c == '+' || c == '?';
        r->terms[term].may_be_empty = !least;
        look = llmi_regex_term(r, LLMI_T_LOOK, look, 0, 1);
        term = llmi_regex_term(r, c == '?' ? LLMI_T_EITHER : LLMI_T_CAT, term, look, 0);
    }
}

/* -> 0: a group whose ( is behind us; 1, 2: a lookahead, a negative one; -1: refused */
static int llmi_regex_group(llmi_regex *r, int *fold) {
    static const char *const heads[] = {"?:", "?=", "?!", "?i:", "?-i:"};
    int i;
    if (llmi_regex_peek(r, 0) != '?') return 0;
    for (i = 0; i < 5 && !llmi_regex_starts(r, heads[i]); i++) {}
    if (i == 5) return llmi_regex_refuse(r, "a group that begins like the one");
    if (i > 2) *fold = i == 3;
    r->at += strlen(heads[i]);
    return i < 3 ? i : 0;
}

/* alternatives up to a ) or the end */
static int llmi_regex_parse(llmi_regex *r, int fold, int depth) {
    int all = -1, one = llmi_regex_term(r, LLMI_T_EMPTY, 0, 0, 0), term;
    if (depth > 50) return llmi_regex_refuse(r, "a group in more than 50 others");
    if (llmi_regex_starts(r, "(?i)")) {
        fold = 1;
        r->at += 4;
    }
    for (;;) {
        const int c = llmi_regex_peek(r, 0);
        if (c < 0 || c == ')' || c == '|') {
            all = all < 0 ? one : llmi_regex_term(r, LLMI_T_EITHER, all, one, 0);
            if (c != '|') return all;
            r->at++;
            one = llmi_regex_term(r, LLMI_T_EMPTY, 0, 0, 0);
            continue;
        }
        if (c == '(') {
            int inner = fold, look;
            r->at++;
            look = llmi_regex_group(r, &inner);
            if (look < 0) return -1;
            term = llmi_regex_parse(r, inner, depth + 1);
            if (term < 0) return -1;
            if (llmi_regex_peek(r, 0) != ')') return llmi_regex_refuse(r, "a group without an end");
            r->at++;
            if (look) term = llmi_regex_term(r, LLMI_T_LOOK, term, 0, look == 2);
        } else term = llmi_regex_atom(r, fold);
        if (term >= 0) term = llmi_regex_repeats(r, term);
        if (term < 0) return -1;
        one = r->terms[one].op == LLMI_T_EMPTY ? term
                                               : llmi_regex_term(r, LLMI_T_CAT, one, term, 0);
    }
}

static int llmi_regex_emit(llmi_regex *r, llmi_step_op op, int what, int next, int other) {
    llmi_step *step;
    if (next < 0 || other < 0) return -1;
    if (r->n_steps == LLMI_MAX_PROGRAM) return llmi_regex_refuse(r, "more than 2000 steps");
    step = &r->program[r->n_steps];
    step->op = (uint8_t)op;
    step->what = (uint8_t)what;
    step->next = (uint16_t)next;
    step->other = (uint16_t)other;
    return r->n_steps++;
}

/* the program of a term that goes on at step next -> its first step, or -1 */
static int llmi_regex_compile(llmi_regex *r, int term, int next) {
    const llmi_term *x = &r->terms[term];
    int entry = next, loop, i;
    for (; x->op == LLMI_T_CAT && next >= 0; x = &r->terms[x->a])
        entry = next = llmi_regex_compile(r, x->b, next);
    if (next < 0) return -1;
    switch (x->op) {
    case LLMI_T_ONE: return llmi_regex_emit(r, LLMI_ONE, x->what, next, 0);
    case LLMI_T_PLACE: return llmi_regex_emit(r, LLMI_PLACE, x->what, next, 0);
    case LLMI_T_LOOK:
        return llmi_regex_emit(r, LLMI_LOOK, x->what, next, llmi_regex_compile(r, x->a, 0));
    case LLMI_T_EITHER:
        entry = llmi_regex_compile(r, x->b, next);
        for (x = &r->terms[x->a]; x->op == LLMI_T_EITHER && entry >= 0; x = &r->terms[x->a])
            entry = llmi_regex_emit(r, LLMI_FORK, 0, llmi_regex_compile(r, x->b, next), entry);
        return llmi_regex_emit(r, LLMI_FORK, 0,
                               llmi_regex_compile(r, (int)(x - r->terms), next), entry);
    case LLMI_T_REPEAT:
        i = 0;
        if (x->most < 0) {
            loop = llmi_regex_emit(r, LLMI_FORK, 0, next, next);
            entry = loop < 0 ? -1 : llmi_regex_compile(r, x->a, loop);
            if (entry < 0) return -1;
            *(x->what ? &r->program[loop].other : &r->program[loop].next) = (uint16_t)entry;
            if (x->least) i = 1;
            else entry = loop;
        } else for (; i < x->most - x->least && entry >= 0; i++) {
            entry = llmi_regex_compile(r, x->a, entry);
            entry = x->what ? llmi_regex_emit(r, LLMI_FORK, 0, next, entry)
                            : llmi_regex_emit(r, LLMI_FORK, 0, entry, next);
        }
        if (x->most >= 0) i = 0;
        for (; i < x->least && entry >= 0; i++) entry = llmi_regex_compile(r, x->a, entry);
        return entry;
    default: return entry;
    }
}

/* GPT-2's pattern, and what Digits takes as numbers: those of Unicode 17 */
static const char llmi_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char llmi_digits_pattern[] = "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";

/* the patterns of GPT-4o and Kimi */
#define LLMI_CASELESS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LLMI_CAPITALS(han) "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" han "]"
#define LLMI_SMALLS(han) "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" han "]"
#define LLMI_CASED(han, ends)                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?" LLMI_CAPITALS(han) "*" LLMI_SMALLS(han) "+" LLMI_CASELESS "?|"        \
    "[^\\r\\n\\p{L}\\p{N}]?" LLMI_CAPITALS(han) "+" LLMI_SMALLS(han) "*" LLMI_CASELESS "?|"        \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+" ends "*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char llmi_kimi_pattern[] = "[\\p{Han}]+|" LLMI_CASED("&&[^\\p{Han}]", "[\\r\\n]");

/* the program of a text of literal characters */
static int llmi_regex_literal(llmi_regex *r) {
    int all = llmi_regex_term(r, LLMI_T_EMPTY, 0, 0, 0), term;
    while (all >= 0 && r->at < r->n) {
        uint32_t code;
        const size_t size = llmi_utf8_decode(r->text + r->at, r->n - r->at, &code);
        if (!size) return llmi_regex_refuse(r, "what is not UTF-8");
        r->at += size;
        llmi_set_add(&r->sets, 0, code, code + 1);
        term = llmi_regex_set(r, 0);
        if (term < 0) return -1;
        all = llmi_regex_term(r, LLMI_T_CAT, all, term, 0);
    }
    return all;
}

static llm_result llmi_regex_run(llmi_regex *r) {
    llmi_alphabet *alphabet = &r->patterns->alphabet;
    llmi_pattern *pattern = r->pattern;
    int term, start;
    if (!alphabet->sets.n) LLMI_TRY(llmi_alphabet_own(alphabet, &r->sets, r->err));
    r->program[r->n_steps++].op = LLMI_END;
    term = pattern->type == LLMI_STRING ? llmi_regex_literal(r) : llmi_regex_parse(r, 0, 0);
    if (term >= 0 && r->at < r->n) term = llmi_regex_refuse(r, "a ) without a group");
    start = term < 0 ? -1 : llmi_regex_compile(r, term, 0);
    if (start < 0) return r->err->code;
    pattern->start = (size_t)start;
    pattern->n_steps = (size_t)r->n_steps;
    pattern->program = (llmi_step *)llmi_alloc(pattern->text.allocator,
                                               pattern->n_steps * sizeof(llmi_step), "patterns",
                                               r->err);
    if (!pattern->program) return LLM_ERR_MEMORY;
    memcpy(pattern->program, r->program, pattern->n_steps * sizeof(llmi_step));
    return LLM_OK;
}

/* one more pattern; name: of the file, for messages */
static llm_result llmi_patterns_add(llmi_patterns *p, llmi_split_type type, const char *text,
                                    size_t n, llmi_behavior behavior, int invert, const char *name,
                                    llm_error *err) {
    const llm_allocator *allocator = p->alphabet.blocks.allocator;
    llmi_pattern *pattern = &p->items[p->n];
    llmi_regex *r;
    llm_error local;
    llm_result result;
    if (p->n == LLMI_MAX_SPLITS || n > LLMI_MAX_PATTERN)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.60s: pre_tokenizer: more than 16 patterns, "
                         "or one of more than 4096 bytes", name);
    p->n++;
    pattern->type = type;
    pattern->behavior = behavior;
    pattern->invert = invert;
    pattern->edges = 1;
    pattern->text.allocator = pattern->states.bytes.allocator = allocator;
    llmi_text_add(&pattern->text, text, n);
    if (pattern->text.failed != LLM_OK) return llmi_fail(err, LLM_ERR_MEMORY, "out of memory");
    r = (llmi_regex *)llmi_alloc(allocator, sizeof *r, "patterns", err);
    if (!r) return LLM_ERR_MEMORY;
    memset(r, 0, sizeof *r);
    memset(&local, 0, sizeof local);
    r->patterns = p;
    r->pattern = pattern;
    r->text = pattern->text.data;
    r->n = n;
    r->name = name;
    r->err = &local;
    r->last_end = SIZE_MAX;
    r->sets.allocator = allocator;
    r->terms = (llmi_term *)llmi_alloc(allocator, (4 * n + 8) * sizeof *r->terms, "patterns",
                                       &local);
    result = r->terms ? llmi_regex_run(r) : LLM_ERR_MEMORY;
    if (result != LLM_OK && err) *err = local;
    llmi_release(allocator, r->terms);
    llmi_text_free(&r->sets);
    llmi_release(allocator, r);
    return result;
}

/* ---- their automata -------------------------------------------------------------------------- */
enum { LLMI_EDGE_NONE = 0, LLMI_EDGE_OTHER, LLMI_EDGE_NEWLINE, LLMI_EDGE_WORD };

static unsigned llmi_edge(const llmi_alphabet *a, int symbol) {  /* of the character before */
    return a->is[symbol] >> LLMI_SET_NEWLINE & 1 ? LLMI_EDGE_NEWLINE
           : a->is[symbol] >> LLMI_SET_BOUND & 1 ? LLMI_EDGE_WORD : LLMI_EDGE_OTHER;
}

static int llmi_place_holds(const llmi_alphabet *a, llmi_place_of place, size_t symbol,
                            unsigned edge) {
    const int is_end = symbol == a->symbols.n;
    const int newline = !is_end && a->is[symbol] >> LLMI_SET_NEWLINE & 1,
              word = !is_end && a->is[symbol] >> LLMI_SET_BOUND & 1;
    switch (place) {
    case LLMI_LINE_BEGIN:
        return edge == LLMI_EDGE_NONE || (edge == LLMI_EDGE_NEWLINE && !is_end);
    case LLMI_TEXT_BEGIN: return edge == LLMI_EDGE_NONE;
    case LLMI_WORD_EDGE: return word != (edge == LLMI_EDGE_WORD);
    case LLMI_NO_WORD_EDGE: return word == (edge == LLMI_EDGE_WORD);
    case LLMI_LINE_END: return is_end || newline;
    default: return is_end;
    }
}

static int llmi_bit(const char *bits, size_t i) { return bits[i / 8] >> i % 8 & 1; }

/* the steps in an order in which each comes after those that it depends on at the same place */
static void llmi_pattern_order(const llmi_pattern *p, uint16_t *order) {
    char placed[LLMI_MAX_PROGRAM];
    size_t n = 0, i;
    memset(placed, 0, sizeof placed);
    while (n < p->n_steps)
        for (i = 0; i < p->n_steps; i++) {
            const llmi_step *s = &p->program[i];
            if (placed[i] || (s->op > LLMI_ONE && !placed[s->next]) ||
                ((s->op == LLMI_FORK || s->op == LLMI_LOOK) && !placed[s->other])) continue;
            placed[i] = 1;
            order[n++] = (uint16_t)i;
        }
}

/* the state in front of a column, that behind it being `behind` */
static void llmi_pattern_before(const llmi_pattern *p, const llmi_alphabet *a,
                                const uint16_t *order, const char *behind, size_t column,
                                char *bits) {
    const size_t symbol = column / p->edges;
    const unsigned edge = (unsigned)(column % p->edges);
    const char *sets = symbol < a->symbols.n
                           ? a->symbols.bytes.data + a->symbols.items[symbol].begin : NULL;
    size_t i;
    memset(bits, 0, (p->n_steps + 7) / 8);
    for (i = 0; i < p->n_steps; i++) {
        const size_t at = order[i];
        const llmi_step *s = &p->program[at];
        int on = 1;
        switch (s->op) {
        case LLMI_ONE: on = sets && llmi_bit(sets, s->what) && llmi_bit(behind, s->next); break;
        case LLMI_FORK: on = llmi_bit(bits, s->next) || llmi_bit(bits, s->other); break;
        case LLMI_LOOK: on = llmi_bit(bits, s->other) != s->what && llmi_bit(bits, s->next); break;
        case LLMI_PLACE:
            on = llmi_place_holds(a, (llmi_place_of)s->what, symbol, edge) &&
                 llmi_bit(bits, s->next);
            break;
        default: break;
        }
        if (on) bits[at / 8] = (char)(bits[at / 8] | 1 << at % 8);
    }
}

/* The table: a row has a column for each symbol (or the text's end) and edge, the state in front of
 * it, and one for each step, the ONE or END to go on with in the state after a ONE; after step 0,
 * from the start. */
static void llmi_pattern_row(llmi_pattern *p, const uint16_t *order, const char *bits,
                             uint16_t *row) {
    uint16_t way[LLMI_MAX_PROGRAM];    /* from a step to the ONE or END that it leads to */
    size_t i;
    for (i = 0; i < p->n_steps; i++) {
        const llmi_step *step = &p->program[order[i]];
        way[order[i]] = !llmi_bit(bits, order[i]) ? (uint16_t)LLMI_NOWHERE
                        : step->op <= LLMI_ONE ? order[i]
                        : step->op == LLMI_FORK && !llmi_bit(bits, step->next)
                            ? way[step->other] : way[step->next];
    }
    for (i = 0; i < p->n_steps; i++)
        row[p->columns + i] = way[i ? p->program[i].next : p->start];
}

/* all states, from one on that has none of the steps: what is behind the text's end */
static llm_result llmi_pattern_states(llmi_pattern *p, const llmi_alphabet *a, uint16_t *table,
                                      llm_error *err) {
    const size_t n = (p->n_steps + 7) / 8;
    uint16_t order[LLMI_MAX_PROGRAM];
    char bits[(LLMI_MAX_PROGRAM + 7) / 8];
    size_t s, column;
    llmi_pattern_order(p, order);
    memset(bits, 0, sizeof bits);
    LLMI_TRY(llmi_strings_put(&p->states, 0, bits, n, LLMI_BYTES, err));
    for (s = 0; s < p->states.n; s++) {
        if ((s + 1) * p->row > LLMI_MAX_TABLE)
            return llmi_fail(err, LLM_ERR_UNSUPPORTED, "pre_tokenizer.pattern %.*s%s: its states "
                             "times their size are more than 65535",
                             (int)llmi_min(p->text.size, 100), p->text.data,
                             p->text.size > 100 ? "..." : "");
        llmi_pattern_row(p, order, p->states.bytes.data + p->states.items[s].begin,
                         table + s * p->row);
        for (column = 0; column < p->columns; column++) {
            int32_t found;
            llmi_pattern_before(p, a, order, p->states.bytes.data + p->states.items[s].begin,
                                column, bits);
            found = llmi_strings_find(&p->states, bits, n, LLMI_BYTES);
            if (found < 0) {
                found = (int32_t)p->states.n;
                LLMI_TRY(llmi_strings_put(&p->states, found, bits, n, LLMI_BYTES, err));
            }
            table[s * p->row + column] = (uint16_t)((size_t)found * p->row);
        }
    }
    return LLM_OK;
}
static llm_result llmi_pattern_finish(llmi_pattern *p, const llmi_alphabet *a, llm_error *err) {
    const llm_allocator *allocator = p->text.allocator;
    uint16_t *table = (uint16_t *)llmi_alloc(allocator, LLMI_MAX_TABLE * sizeof *table, "patterns",
                                             err);
    llm_result result = table ? LLM_OK : LLM_ERR_MEMORY;
    p->columns = (a->symbols.n + 1) * p->edges;
    p->row = p->columns + p->n_steps;
    if (table) result = llmi_pattern_states(p, a, table, err);
    if (result == LLM_OK) {
        const size_t size = p->states.n * p->row * sizeof *table;
        p->table = (uint16_t *)llmi_alloc(allocator, size, "patterns", err);
        if (p->table) memcpy(p->table, table, size);
        else result = LLM_ERR_MEMORY;
    }
    llmi_release(allocator, table);
    llmi_strings_free(&p->states);
    memset(&p->states, 0, sizeof p->states);
    return result;
}

static llm_result llmi_patterns_finish(llmi_patterns *p, llm_error *err) {
    size_t i;
    if (p->are_finished) return LLM_OK;
    if (!p->alphabet.sets.n) {
        llmi_text stack;
        llm_result result;
        memset(&stack, 0, sizeof stack);
        stack.allocator = p->alphabet.blocks.allocator;
        result = llmi_alphabet_own(&p->alphabet, &stack, err);
        llmi_text_free(&stack);
        LLMI_TRY(result);
    }
    LLMI_TRY(llmi_alphabet_finish(&p->alphabet, err));
    for (i = 0; i < p->n; i++) LLMI_TRY(llmi_pattern_finish(&p->items[i], &p->alphabet, err));
    p->are_finished = 1;
    return LLM_OK;
}

static void llmi_patterns_free(llmi_patterns *p) {           /* as it was before any was added */
    const llm_allocator *allocator = p->alphabet.blocks.allocator;
    size_t i;
    for (i = 0; i < p->n; i++) {
        llmi_pattern *pattern = &p->items[i];
        llmi_release(pattern->text.allocator, pattern->program);
        llmi_release(pattern->text.allocator, pattern->table);
        llmi_strings_free(&pattern->states);
        llmi_text_free(&pattern->text);
    }
    llmi_alphabet_free(&p->alphabet);
    memset(p, 0, sizeof *p);
    p->alphabet.sets.bytes.allocator = p->alphabet.symbols.bytes.allocator = allocator;
    p->alphabet.blocks.allocator = allocator;
}

/* ---- cutting --------------------------------------------------------------------------------- */
typedef struct llmi_cut {
    const llmi_alphabet *alphabet;
    const llmi_pattern *p;
    size_t n, at;                        /* at: where the next match is looked for */
    void *states;                        /* uint16_t of each place; NOWHERE within a character */
    size_t capacity;
    size_t last, match_begin, match_end; /* last: the end of the last match, or SIZE_MAX */
    int is_match;                        /* the piece that comes next is a match; -1: to be found */
    size_t begin, stop;                  /* a piece that may grow; begin SIZE_MAX: none */
    int was_match;
} llmi_cut;

/* where a state depends on the character before, that comes in */
static size_t llmi_cut_column(const llmi_cut *c, int symbol, const char *text, size_t at) {
    const size_t column = (size_t)symbol * c->p->edges;
    if (c->p->edges == 1 || !at) return column;
    (void)llmi_symbol_before(c->alphabet, text, 0, at, &symbol);
    return column + llmi_edge(c->alphabet, symbol);
}

/* n > 0 bytes are to be cut; c keeps its memory */
static llm_result llmi_cut_start(llmi_cut *c, const llmi_patterns *patterns, size_t pattern,
                                 const char *text, size_t n, llm_error *err) {
    const llmi_alphabet *a = &patterns->alphabet;
    const llmi_pattern *p = &patterns->items[pattern];
    const unsigned char *ascii = (const unsigned char *)a->blocks.data;
    const uint16_t *table = p->table;
    /* a pattern of few steps seldom matches: then the state mostly stays the same */
    const int is_plain = p->edges == 1, is_rare = is_plain && p->n_steps <= 6;
    size_t at = n, begin;
    uint16_t *states;
    unsigned state;
    int symbol;
    LLMI_TRY(llmi_grow(a->blocks.allocator, &c->states, &c->capacity, 0,
                       llmi_mul(n + 1, sizeof *states), "patterns", err));
    states = (uint16_t *)c->states;
    c->alphabet = a;
    c->p = p;
    c->n = n;
    c->at = 0;
    c->last = c->begin = SIZE_MAX;
    c->is_match = -1;
    state = p->table[llmi_cut_column(c, (int)a->symbols.n, text, n)];
    states[n] = (uint16_t)state;
    while (at) {
        unsigned char byte = (unsigned char)text[at - 1];
        if (byte < 0x80 && is_rare) {
            unsigned next;
            do {
                next = table[state + ascii[byte]];
                states[--at] = (uint16_t)next;
            } while (next == state && at && (byte = (unsigned char)text[at - 1]) < 0x80);
            state = next;
            continue;
        }
        if (byte < 0x80) {
            symbol = ascii[byte];
            begin = --at;
        } else {
            begin = llmi_symbol_before(a, text, 0, at, &symbol);
            while (--at > begin) states[at] = LLMI_NOWHERE;
        }
        state = table[state + (is_plain ? (size_t)symbol
                                        : llmi_cut_column(c, symbol, text, begin))];
        states[begin] = (uint16_t)state;
    }
    return LLM_OK;
}

/* the place of the next character */
static size_t llmi_cut_step(const uint16_t *states, size_t at) {
    do at++; while (states[at] == LLMI_NOWHERE);
    return at;
}

/* the next match, or what is between two; 0: the text has ended */
static int llmi_cut_segment(llmi_cut *c, size_t *begin, size_t *end, int *is_match) {
    const uint16_t *states = (const uint16_t *)c->states, *on = c->p->table + c->p->columns;
    size_t at = c->at;
    if (c->is_match < 0) {
        const size_t from = c->last == SIZE_MAX ? 0 : c->last;
        c->match_begin = c->match_end = SIZE_MAX;
        while (at <= c->n) {
            size_t step = on[states[at]], next, stop = at;
            if (step != LLMI_NOWHERE) {
                for (; step; step = next)
                    do {                             /* most often, it stays the same */
                        stop = llmi_cut_step(states, stop);
                        next = on[states[stop] + step];
                    } while (next == step);
                if (stop > at || at != c->last) {
                    c->match_begin = at;
                    c->match_end = stop;
                    break;
                }
            }
            if (at++ == c->n) break;
            while (states[at] == LLMI_NOWHERE) at++;
        }
        c->is_match = 1;
        c->at = c->match_end;
        if (c->match_begin > from) {
            *begin = from;
            *end = llmi_min(c->match_begin, c->n);
            *is_match = c->p->invert;
            if (*begin < *end) return 1;
        }
    }
    if (c->match_begin == SIZE_MAX) return 0;
    *begin = c->match_begin;
    *end = c->last = c->match_end;
    *is_match = !c->p->invert;
    c->is_match = -1;
    return 1;
}

/* the next piece, which is not empty; 0: the text has ended */
static int llmi_cut_next(llmi_cut *c, size_t *begin, size_t *end) {
    const llmi_behavior how = c->p->behavior;
    size_t from, to;
    int is_match;
    if (how == LLMI_ISOLATED) {
        while (llmi_cut_segment(c, begin, end, &is_match))
            if (*begin < *end) return 1;
        return 0;
    }
    while (llmi_cut_segment(c, &from, &to, &is_match)) {
        const int had = c->begin != SIZE_MAX;
        if (how == LLMI_REMOVED && is_match) continue;
        if (had && (how == LLMI_CONTIGUOUS              ? is_match == c->was_match
                    : how == LLMI_MERGED_WITH_PREVIOUS ? is_match && !c->was_match
                                                       : how == LLMI_MERGED_WITH_NEXT &&
                                                             !is_match && c->was_match)) {
            c->stop = to;
            c->was_match = is_match;
            continue;
        }
        *begin = c->begin;
        *end = c->stop;
        c->begin = from;
        c->stop = to;
        c->was_match = is_match;
        if (had && *begin < *end) return 1;
    }
    *begin = c->begin;
    *end = c->stop;
    c->begin = SIZE_MAX;
    return *begin != SIZE_MAX && *begin < *end;
}

static void llmi_cut_free(llmi_cut *c, const llmi_patterns *patterns) {
    llmi_release(patterns->alphabet.blocks.allocator, c->states);
}

/* Files write each byte as one visible character: itself, or one of the 68 from U+0100 on. */
static uint32_t llmi_byte_to_char(uint32_t byte) {
    if (byte <= 32) return 256 + byte;
    if (byte >= 127 && byte <= 160) return 256 + 33 + byte - 127;
    return byte == 173 ? 256 + 67 : byte;
}

static int llmi_char_to_byte(uint32_t code) {                    /* -1 = stands for none */
    if (code >= 256 + 68) return -1;
    if (code == 256 + 67) return 173;
    if (code >= 256 + 33) return (int)(code - 256 - 33 + 127);
    if (code >= 256) return (int)(code - 256);
    return llmi_byte_to_char(code) == code ? (int)code : -1;
}

/* In place: characters to bytes, and its new length. A string with any character that stands for
 * no byte stays what it is. -> LLMI_BYTES or LLMI_OPAQUE */
static int llmi_chars_to_bytes(char *text, size_t *n) {
    uint32_t code = 0;
    size_t at, out = 0;
    for (at = 0; at < *n; at += llmi_utf8_decode(text + at, *n - at, &code)) {
        if (!llmi_utf8_decode(text + at, *n - at, &code) || llmi_char_to_byte(code) < 0)
            return LLMI_OPAQUE;
    }
    for (at = 0; at < *n;) {
        at += llmi_utf8_decode(text + at, *n - at, &code);
        text[out++] = (char)llmi_char_to_byte(code);
    }
    *n = out;
    return LLMI_BYTES;
}

/* ---- the tokenizer ----------------------------------------------------------------------- */
typedef struct llmi_merge { int32_t a, b, result; } llmi_merge;

typedef struct llmi_flags {              /* 0 or 1; normalized -1 = the opposite of special */
    int8_t special, normalized, lstrip, rstrip, single_word;
} llmi_flags;

typedef struct llmi_added {
    const char *content;                 /* at begin of contents, once all are there */
    size_t begin, size;
    int32_t id;
    llmi_flags is;
} llmi_added;

/* Added tokens of one set are found in time proportional to the text, by an automaton (Aho &
 * Corasick, CACM 18(6), 1975) that reads from right to left: a node for every suffix of a token,
 * node 0 the empty one. */
typedef struct llmi_node {
    uint32_t first, n;                   /* its children, a byte longer in front, by that byte */
    uint32_t shorter;                    /* its failure link: its longest prefix that is a node */
    uint32_t size;                       /* bytes */
    int32_t token;                       /* in added, the longest that it begins with; -1 = none */
    uint8_t byte;                        /* its first byte */
} llmi_node;

#define LLMI_TEMPLATE 8                  /* special tokens on one side: llm_tokenizer_template */

struct llm_tokenizer {
    llm_allocator allocator_copy;
    const llm_allocator *allocator;      /* NULL or &allocator_copy */
    llmi_strings vocabulary;             /* string number i is token i */
    llmi_pairs ranks;                    /* pair -> index of its merge */
    llmi_merge *merges;                  /* earliest first */
    size_t n_merges, merges_capacity;    /* capacity in bytes */
    int32_t byte_tokens[256];
    llmi_added *added;                   /* by normalized, then by content from its end */
    size_t n_added, added_capacity;      /* capacity in bytes */
    llmi_text contents;                  /* their texts, as files write them */
    llmi_node *nodes[2];                 /* of those not normalized, and of the others */
    uint8_t ends[2][256];                /* does any of the set end so? */
    int32_t unknown;                     /* for a byte that has no token; -1 = it is left out */
    int32_t before[LLMI_TEMPLATE], after[LLMI_TEMPLATE];     /* what a template puts around texts */
    int n_before, n_after;
    int add_prefix_space, ignore_merges, fuse_unknown;
    llmi_patterns patterns;
};

static const char *llmi_token_text(const llm_tokenizer *t, int32_t id, size_t *n) {
    *n = t->vocabulary.items[id].size;
    return t->vocabulary.bytes.data + t->vocabulary.items[id].begin;
}

static llm_tokenizer *llmi_tokenizer_new(const llm_allocator *allocator, llm_error *err) {
    llm_tokenizer *t = (llm_tokenizer *)llmi_alloc(allocator, sizeof *t, "tokenizer", err);
    if (!t) return NULL;
    memset(t, 0, sizeof *t);
    if (allocator) {
        t->allocator_copy = *allocator;
        t->allocator = &t->allocator_copy;
    }
    t->vocabulary.bytes.allocator = t->contents.allocator = t->allocator;
    t->patterns.alphabet.sets.bytes.allocator = t->allocator;
    t->patterns.alphabet.symbols.bytes.allocator = t->allocator;
    t->patterns.alphabet.blocks.allocator = t->allocator;
    t->unknown = -1;
    return t;
}

/* GPT-2's pattern behind those that are there */
static llm_result llmi_tokenizer_level(llm_tokenizer *t, const char *name, llm_error *err) {
    return llmi_patterns_add(&t->patterns, LLMI_LEVEL, llmi_gpt2_pattern,
                             strlen(llmi_gpt2_pattern), LLMI_ISOLATED, 0, name, err);
}

LLM_API void llm_tokenizer_free(llm_tokenizer *tokenizer) {
    llm_allocator copy;
    int is_custom;
    if (!tokenizer) return;
    copy = tokenizer->allocator_copy;
    is_custom = tokenizer->allocator != NULL;
    llmi_strings_free(&tokenizer->vocabulary);
    llmi_release(tokenizer->allocator, tokenizer->ranks.slots);
    llmi_release(tokenizer->allocator, tokenizer->merges);
    llmi_release(tokenizer->allocator, tokenizer->added);
    llmi_text_free(&tokenizer->contents);
    llmi_patterns_free(&tokenizer->patterns);
    llmi_release(tokenizer->allocator, tokenizer->nodes[0]);
    llmi_release(tokenizer->allocator, tokenizer->nodes[1]);
    llmi_release(is_custom ? &copy : NULL, tokenizer);
}

LLM_API int llm_tokenizer_vocab_size(const llm_tokenizer *tokenizer) {
    return tokenizer ? (int)tokenizer->vocabulary.n : 0;
}

LLM_API int llm_tokenizer_template(const llm_tokenizer *tokenizer, int after, int32_t tokens[8]) {
    const int n = !tokenizer ? 0 : after ? tokenizer->n_after : tokenizer->n_before;
    if (n) memcpy(tokens, after ? tokenizer->after : tokenizer->before, (size_t)n * sizeof *tokens);
    return n;
}

LLM_API int32_t llm_tokenizer_token(const llm_tokenizer *tokenizer, const char *text, size_t n) {
    int32_t id = -1;
    int kind;
    if (!tokenizer || (!text && n)) return -1;
    for (kind = LLMI_ADDED; kind > LLMI_ABSENT && id < 0; kind--)
        id = llmi_strings_find(&tokenizer->vocabulary, text, n, kind);
    return id;
}

LLM_API llm_result llm_tokenizer_decode(const llm_tokenizer *tokenizer, const int32_t *tokens,
                                        size_t n, char *text, size_t capacity, size_t *count,
                                        llm_error *err) {
    size_t i, size, total = 0;
    if (!tokenizer || (!tokens && n) || (!text && capacity))
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "llm_tokenizer_decode: NULL for tokenizer, tokens or text");
    for (i = 0; i < n; i++)
        if (tokens[i] < 0 || (size_t)tokens[i] >= tokenizer->vocabulary.n)
            return llmi_fail(err, LLM_ERR_ARGUMENT,
                             "llm_tokenizer_decode: token %lu is %ld, must be in [0, %lu)",
                             (unsigned long)i, (long)tokens[i],
                             (unsigned long)tokenizer->vocabulary.n);
    for (i = 0; i < n; i++) {
        const char *bytes = llmi_token_text(tokenizer, tokens[i], &size);
        if (total < capacity && size) memcpy(text + total, bytes, llmi_min(size, capacity - total));
        total = llmi_add(total, size);
    }
    if (count) *count = total;
    return LLM_OK;
}

/* A character may be cut only at the end: its start is among the last three bytes, and some
 * continuation would complete it. */
LLM_API size_t llm_utf8_complete(const char *text, size_t n) {
    size_t back;
    for (back = 1; back <= 3 && back <= n; back++) {
        const unsigned char lead = (unsigned char)text[n - back];
        const size_t size = lead < 0xC2 || lead > 0xF4 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        char low[4], high[4];
        uint32_t code;
        if ((lead & 0xC0) == 0x80) continue;
        if (size <= back) return n;
        memset(low, 0x80, sizeof low);
        memset(high, 0xBF, sizeof high);
        memcpy(low, text + n - back, back);
        memcpy(high, text + n - back, back);
        if (!llmi_utf8_decode(low, size, &code) && !llmi_utf8_decode(high, size, &code)) return n;
        return n - back;
    }
    return n;
}

/* ---- encoding ---------------------------------------------------------------------------- */
#define LLMI_BPE_SHORT 48                /* bytes of a word up to which a scan beats the heap */

typedef struct llmi_found { size_t at; int32_t token; } llmi_found;      /* token: in added */

typedef struct llmi_encoder {
    const llm_tokenizer *t;
    int32_t *tokens;
    size_t capacity, count;
    int parse_special;
    llmi_heap heap;                      /* long words */
    void *links;
    size_t links_capacity;
    llmi_cut cuts[LLMI_MAX_SPLITS];
    llmi_text prefixed;                  /* a piece with a space in front */
    llmi_found *found;                   /* a stack: added tokens that are still to be looked at */
    size_t n_found, found_capacity;      /* capacity in bytes */
    llm_error *err;
} llmi_encoder;

static llmi_encoder llmi_encoder_make(const llm_tokenizer *t, int32_t *tokens, size_t capacity,
                                      llm_error *err) {
    llmi_encoder e;
    memset(&e, 0, sizeof e);
    e.t = t;
    e.tokens = tokens;
    e.capacity = capacity;
    e.prefixed.allocator = t->allocator;
    e.err = err;
    return e;
}

static void llmi_encoder_free(llmi_encoder *e) {
    size_t i;
    for (i = 0; i < e->t->patterns.n; i++) llmi_cut_free(&e->cuts[i], &e->t->patterns);
    llmi_release(e->t->allocator, e->heap.items);
    llmi_release(e->t->allocator, e->links);
    llmi_text_free(&e->prefixed);
    llmi_release(e->t->allocator, e->found);
}

static void llmi_emit(llmi_encoder *e, int32_t token) {
    if (e->count < e->capacity) e->tokens[e->count] = token;
    e->count++;
}

static int32_t llmi_rank(const llm_tokenizer *t, int32_t a, int32_t b) {     /* -1 = no merge */
    return llmi_pairs_find(&t->ranks, llmi_pair(a, b));
}

/* the symbols of a word's bytes -> their number; a byte that has none is unknown, or left out */
static size_t llmi_byte_symbols(const llm_tokenizer *t, int32_t *id, const char *word, size_t n) {
    size_t i, out = 0;
    int was_unknown = 0;
    for (i = 0; i < n; i++) {
        const int32_t token = t->byte_tokens[(unsigned char)word[i]];
        if (token >= 0) id[out++] = token;
        else if (t->unknown >= 0 && !(was_unknown && t->fuse_unknown)) id[out++] = t->unknown;
        was_unknown = token < 0;
    }
    return out;
}

/* merges the pair of least rank, again and again; n^2 steps of almost no work */
static void llmi_encode_short(llmi_encoder *e, const char *word, size_t n) {
    const llm_tokenizer *t = e->t;
    int32_t id[LLMI_BPE_SHORT];
    uint32_t rank[LLMI_BPE_SHORT];       /* of id[i] with id[i + 1]; UINT32_MAX: no merge */
    size_t i, best;
    n = llmi_byte_symbols(t, id, word, n);
    for (i = 0; i + 1 < n; i++) rank[i] = (uint32_t)llmi_rank(t, id[i], id[i + 1]);
    while (n > 1) {
        for (best = 0, i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == UINT32_MAX) break;
        id[best] = t->merges[rank[best]].result;
        n--;
        for (i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i];
        }
        if (best > 0) rank[best - 1] = (uint32_t)llmi_rank(t, id[best - 1], id[best]);
        if (best + 1 < n) rank[best] = (uint32_t)llmi_rank(t, id[best], id[best + 1]);
    }
    for (i = 0; i < n; i++) llmi_emit(e, id[i]);
}

/* the pair at symbol i, if it is a merge, waits in the heap under its rank and position */
static llm_result llmi_encode_queue(llmi_encoder *e, int32_t a, int32_t b, uint32_t i) {
    const int32_t rank = llmi_rank(e->t, a, b);
    if (rank < 0) return LLM_OK;
    return llmi_heap_push(&e->heap, -(int64_t)rank, i, e->t->allocator, e->err);
}

/* the same in n log n: a list of symbols, and a heap of what may be merged, old entries ignored */
static llm_result llmi_encode_long(llmi_encoder *e, const char *word, size_t n) {
    const llm_tokenizer *t = e->t;
    uint32_t i, end, *next, *previous;
    int32_t *id;                         /* -1: merged into the one before */
    if (n > (size_t)INT32_MAX)
        return llmi_fail(e->err, LLM_ERR_ARGUMENT,
                         "a word of %lu bytes, at most %ld can be encoded", (unsigned long)n,
                         (long)INT32_MAX);
    LLMI_TRY(llmi_grow(t->allocator, &e->links, &e->links_capacity, 0,
                       llmi_mul(n, 3 * sizeof *next), "encoding", e->err));
    next = (uint32_t *)e->links;
    previous = next + n;
    id = (int32_t *)(void *)(previous + n);
    e->heap.n = 0;
    end = (uint32_t)llmi_byte_symbols(t, id, word, n);
    for (i = 0; i < end; i++) {
        next[i] = i + 1;
        previous[i] = i - 1;
        if (i) LLMI_TRY(llmi_encode_queue(e, id[i - 1], id[i], i - 1));
    }
    while (e->heap.n) {
        const llmi_heap_item top = llmi_heap_pop(&e->heap);
        uint32_t right;
        i = (uint32_t)top.key;
        right = next[i];
        if (id[i] < 0 || right == end || llmi_rank(t, id[i], id[right]) != -top.priority) continue;
        id[i] = t->merges[-top.priority].result;
        id[right] = -1;
        next[i] = right = next[right];
        if (right < end) {
            previous[right] = i;
            LLMI_TRY(llmi_encode_queue(e, id[i], id[right], i));
        }
        if (i) LLMI_TRY(llmi_encode_queue(e, id[previous[i]], id[i], previous[i]));
    }
    for (i = 0; i < end; i = next[i]) llmi_emit(e, id[i]);
    return LLM_OK;
}

/* Most pre-tokens are a token whose merges lead to itself: one look into the vocabulary. */
static llm_result llmi_encode_word(llmi_encoder *e, const char *word, size_t n) {
    const int32_t id = llmi_strings_find(&e->t->vocabulary, word, n, LLMI_BYTES);
    if (id >= 0 && e->t->vocabulary.items[id].direct) llmi_emit(e, id);
    else if (n > LLMI_BPE_SHORT) return llmi_encode_long(e, word, n);
    else llmi_encode_short(e, word, n);
    return LLM_OK;
}

/* text: a piece of the patterns before this one */
static llm_result llmi_encode_split(llmi_encoder *e, const char *text, size_t n, size_t pattern) {
    llmi_cut *cut = &e->cuts[pattern];
    size_t begin, end;
    if (!n) return LLM_OK;
    LLMI_TRY(llmi_cut_start(cut, &e->t->patterns, pattern, text, n, e->err));
    while (llmi_cut_next(cut, &begin, &end))
        LLMI_TRY(pattern + 1 < e->t->patterns.n
                     ? llmi_encode_split(e, text + begin, end - begin, pattern + 1)
                     : llmi_encode_word(e, text + begin, end - begin));
    return LLM_OK;
}

static llm_result llmi_encode_plain(llmi_encoder *e, const char *text, size_t n) {
    if (n && e->t->add_prefix_space && text[0] != ' ') {
        e->prefixed.size = 0;
        llmi_text_add(&e->prefixed, " ", 1);
        llmi_text_add(&e->prefixed, text, n);
        if (e->prefixed.failed != LLM_OK)
            return llmi_fail(e->err, LLM_ERR_MEMORY, "out of memory: encoding %lu bytes",
                             (unsigned long)n);
        text = e->prefixed.data;
        n++;
    }
    if (!e->t->patterns.n) return n ? llmi_encode_word(e, text, n) : LLM_OK;
    return llmi_encode_split(e, text, n, 0);
}

/* the child of a node by its byte; 0 = none */
static uint32_t llmi_node_child(const llmi_node *nodes, uint32_t node, unsigned char byte) {
    uint32_t low = nodes[node].first, high = low + nodes[node].n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (nodes[middle].byte == byte) return middle;
        if (nodes[middle].byte < byte) low = middle + 1;
        else high = middle;
    }
    return 0;
}

/* Pushes where added tokens of a set begin in a text, from right to left; of several at one place,
 * the longest. */
static llm_result llmi_added_find(llmi_encoder *e, int set, const char *text, size_t n) {
    const llmi_node *nodes = e->t->nodes[set];
    uint32_t node = 0, child;
    size_t i;
    for (i = n; nodes && i-- > 0;) {
        const unsigned char byte = (unsigned char)text[i];
        void *found = e->found;
        if (!node && !e->t->ends[set][byte]) continue;
        while (!(child = llmi_node_child(nodes, node, byte)) && node) node = nodes[node].shorter;
        node = child;
        if (nodes[node].token < 0) continue;
        LLMI_TRY(llmi_grow(e->t->allocator, &found, &e->found_capacity,
                           e->n_found * sizeof *e->found, (e->n_found + 1) * sizeof *e->found,
                           "added tokens of a text", e->err));
        e->found = (llmi_found *)found;
        e->found[e->n_found].at = i;
        e->found[e->n_found++].token = nodes[node].token;
    }
    return LLM_OK;
}

/* whether no letter, digit and the like touches [begin, end) of text */
static int llmi_added_alone(const llm_tokenizer *t, const char *text, size_t n, size_t begin,
                            size_t end) {
    const llmi_alphabet *a = &t->patterns.alphabet;
    int symbol, words = 0;
    if (begin) {
        (void)llmi_symbol_before(a, text, 0, begin, &symbol);
        words = a->is[symbol];
    }
    if (end < n) {
        (void)llmi_symbol(a, text + end, n - end, &symbol);
        words |= a->is[symbol];
    }
    return !(words >> LLMI_SET_WORD & 1);
}

/* White space around [*begin, *end) of text, not before lowest: the token takes it in. *white: the
 * end of the white space that was looked at last, which is not looked at again. */
static void llmi_added_strip(const llm_tokenizer *t, const llmi_added *token, const char *text,
                             size_t n, size_t lowest, size_t *begin, size_t *end, size_t *white) {
    const llmi_alphabet *a = &t->patterns.alphabet;
    int symbol;
    while (token->is.lstrip && *begin > lowest) {
        const size_t at = llmi_symbol_before(a, text, lowest, *begin, &symbol);
        if (!(a->is[symbol] >> LLMI_SET_WHITE & 1)) break;
        *begin = at;
    }
    if (token->is.lstrip) *begin = llmi_max(*begin, lowest);
    if (!token->is.rstrip) return;
    while (*end >= *white && *end < n) {
        const size_t size = llmi_symbol(a, text + *end, n - *end, &symbol);
        if (!(a->is[symbol] >> LLMI_SET_WHITE & 1)) break;
        *end += size;
    }
    *end = *white = llmi_max(*end, *white);
}

/* Added tokens cut the text: first those not normalized (set 0), then, in the pieces between, the
 * others (set 1). The leftmost counts, of several there the longest, and none that begins within
 * it: so a special token that is not to be parsed hides others, too, though it stays text. */
static llm_result llmi_encode_piece(llmi_encoder *e, const char *text, size_t n, int set) {
    const llm_tokenizer *t = e->t;
    const size_t below = e->n_found;     /* the stack is the callers' */
    size_t next = 0, done = 0, white = 0;
    if (set == 2) return llmi_encode_plain(e, text, n);
    LLMI_TRY(llmi_added_find(e, set, text, n));
    while (e->n_found > below) {
        const llmi_found *found = &e->found[--e->n_found];
        const llmi_added *token = &t->added[found->token];
        size_t begin = found->at, end = begin + token->size;
        if (begin < next) continue;
        next = end;
        if (token->is.special && !e->parse_special) continue;
        if (token->is.single_word && !llmi_added_alone(t, text, n, begin, end)) continue;
        llmi_added_strip(t, token, text, n, done, &begin, &end, &white);
        if (begin >= end) continue;                  /* it is in what the last one took in */
        if (begin > done) LLMI_TRY(llmi_encode_piece(e, text + done, begin - done, set + 1));
        llmi_emit(e, token->id);
        done = end;
    }
    return done < n ? llmi_encode_piece(e, text + done, n - done, set + 1) : LLM_OK;
}

LLM_API llm_result llm_tokenizer_encode(const llm_tokenizer *tokenizer, const char *text, size_t n,
                                        int parse_special, int32_t *tokens, size_t capacity,
                                        size_t *count, llm_error *err) {
    llmi_encoder e;
    llm_result result;
    if (!tokenizer || (!text && n) || (!tokens && capacity))
        return llmi_fail(err, LLM_ERR_ARGUMENT,
                         "llm_tokenizer_encode: NULL for tokenizer, text or tokens");
    e = llmi_encoder_make(tokenizer, tokens, capacity, err);
    e.parse_special = parse_special;
    result = llmi_encode_piece(&e, text, n, 0);
    llmi_encoder_free(&e);
    if (result == LLM_OK && count) *count = e.count;
    return result;
}

/* ---- building -------------------------------------------------------------------------------- */
static llm_result llmi_tokenizer_merge(llm_tokenizer *t, int32_t a, int32_t b, int32_t result,
                                       llm_error *err) {
    void *merges = t->merges;
    const size_t need = llmi_mul(t->n_merges + 1, sizeof *t->merges);
    if (t->n_merges == INT32_MAX) return llmi_fail(err, LLM_ERR_ARGUMENT, "more than 2^31 merges");
    LLMI_TRY(llmi_grow(t->allocator, &merges, &t->merges_capacity, need - sizeof *t->merges,
                       need > t->merges_capacity ? llmi_max(need, 4096) : need, "merges", err));
    t->merges = (llmi_merge *)merges;
    LLMI_TRY(llmi_pairs_put(&t->ranks, llmi_pair(a, b), (int32_t)t->n_merges, t->allocator, err));
    t->merges[t->n_merges].a = a;
    t->merges[t->n_merges].b = b;
    t->merges[t->n_merges++].result = result;
    return LLM_OK;
}

/* byte i from the end */
static unsigned char llmi_added_byte(const llmi_added *token, size_t i) {
    return (unsigned char)token->content[token->size - 1 - i];
}

/* bytes at the end that two tokens share */
static size_t llmi_added_shared(const llmi_added *a, const llmi_added *b) {
    size_t i = 0;
    while (i < a->size && i < b->size && llmi_added_byte(a, i) == llmi_added_byte(b, i)) i++;
    return i;
}

static int llmi_added_compare(const void *left, const void *right) {
    const llmi_added *a = (const llmi_added *)left, *b = (const llmi_added *)right;
    const size_t shared = llmi_added_shared(a, b);
    if (a->is.normalized != b->is.normalized) return a->is.normalized < b->is.normalized ? -1 : 1;
    if (shared == a->size || shared == b->size) return a->size < b->size ? -1 : a->size > b->size;
    return llmi_added_byte(a, shared) < llmi_added_byte(b, shared) ? -1 : 1;
}

typedef struct llmi_range { uint32_t low, high; } llmi_range;    /* of the tokens below a node */

/* The automaton of added[low .. high), which are sorted. Nodes come by size: when one gets its
 * children, the failure links and children of shorter ones are there. */
static llm_result llmi_added_index(llm_tokenizer *t, int set, size_t low, size_t high,
                                   llm_error *err) {
    const llmi_added *added = t->added;
    llmi_node *nodes;
    llmi_range *ranges;
    size_t most = 1, i;
    uint32_t n = 1, at;
    if (low == high) return LLM_OK;
    for (i = low; i < high; i++) {
        most += added[i].size - (i > low ? llmi_added_shared(&added[i], &added[i - 1]) : 0);
        t->ends[set][llmi_added_byte(&added[i], 0)] = 1;
    }
    if (most > INT32_MAX)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "added tokens of more than 2^31 bytes");
    t->nodes[set] = nodes = (llmi_node *)llmi_alloc(t->allocator, llmi_mul(most, sizeof *nodes),
                                                    "added tokens", err);
    if (!nodes) return LLM_ERR_MEMORY;
    ranges = (llmi_range *)llmi_alloc(t->allocator, llmi_mul(most, sizeof *ranges),
                                      "added tokens", err);
    if (!ranges) return LLM_ERR_MEMORY;
    memset(nodes, 0, sizeof *nodes);
    ranges[0].low = (uint32_t)low;
    ranges[0].high = (uint32_t)high;
    for (at = 0; at < n; at++) {
        llmi_node *node = &nodes[at];
        llmi_range r = ranges[at];
        node->first = n;
        node->token = at ? nodes[node->shorter].token : -1;
        for (; r.low < r.high && added[r.low].size == node->size; r.low++)
            node->token = (int32_t)r.low;
        while (r.low < r.high) {
            llmi_node *child = &nodes[n];
            uint32_t shorter = node->shorter, end = r.low;
            child->byte = llmi_added_byte(&added[r.low], node->size);
            while (end < r.high && llmi_added_byte(&added[end], node->size) == child->byte) end++;
            child->size = node->size + 1;
            child->first = child->n = child->shorter = 0;
            while (at && !(child->shorter = llmi_node_child(nodes, shorter, child->byte)) &&
                   shorter)
                shorter = nodes[shorter].shorter;
            ranges[n].low = r.low;
            ranges[n++].high = r.low = end;
            node->n++;
        }
    }
    llmi_release(t->allocator, ranges);
    return LLM_OK;
}

/* vocabulary, merges and added tokens are there: what the encoder looks up is derived from them */
static llm_result llmi_tokenizer_finish(llm_tokenizer *t, llm_error *err) {
    llmi_encoder e;
    int32_t found[2];
    llm_result result = LLM_OK;
    size_t i, n_plain = 0;
    LLMI_TRY(llmi_patterns_finish(&t->patterns, err));
    for (i = 0; i < 256; i++) {
        const char byte = (char)i;
        t->byte_tokens[i] = llmi_strings_find(&t->vocabulary, &byte, 1, LLMI_BYTES);
    }
    for (i = 0; i < t->n_added; i++) {
        t->added[i].content = t->contents.data + t->added[i].begin;
        n_plain += !t->added[i].is.normalized;
    }
    if (t->n_added) qsort(t->added, t->n_added, sizeof *t->added, llmi_added_compare);
    for (i = 0; i < t->n_added; i++)
        t->vocabulary.items[t->added[i].id].added = (uint32_t)i + 1;
    LLMI_TRY(llmi_added_index(t, 0, 0, n_plain, err));
    LLMI_TRY(llmi_added_index(t, 1, n_plain, t->n_added, err));
    e = llmi_encoder_make(t, found, 2, err);
    for (i = 0; i < t->vocabulary.n && result == LLM_OK; i++) {
        llmi_string *item = &t->vocabulary.items[i];
        if (item->kind != LLMI_BYTES || !item->size) continue;
        e.count = t->ignore_merges ? 1 : 0;
        found[0] = (int32_t)i;
        if (!t->ignore_merges)
            result = llmi_encode_word(&e, t->vocabulary.bytes.data + item->begin, item->size);
        item->direct = e.count == 1 && found[0] == (int32_t)i;
    }
    llmi_encoder_free(&e);
    return result;
}

static const char llmi_endoftext[] = "<|endoftext|>";

/* Token id, of the vocabulary or a new one, is matched in texts by its content. Once special, a
 * token stays so; the other flags of one that is there already are replaced. */
static llm_result llmi_tokenizer_add(llm_tokenizer *t, int32_t id, const char *content, size_t n,
                                     llmi_flags is, llm_error *err) {
    llmi_string *item = &t->vocabulary.items[id];
    if (!item->added) {
        void *added = t->added;
        LLMI_TRY(llmi_grow(t->allocator, &added, &t->added_capacity, t->n_added * sizeof *t->added,
                           (t->n_added + 1) * sizeof *t->added, "added tokens", err));
        t->added = (llmi_added *)added;
        memset(&t->added[t->n_added], 0, sizeof *t->added);
        t->added[t->n_added].id = id;
        t->added[t->n_added].begin = t->contents.size;
        t->added[t->n_added].size = n;
        llmi_text_add(&t->contents, content, n);
        if (t->contents.failed != LLM_OK)
            return llmi_fail(err, LLM_ERR_MEMORY, "out of memory: added tokens");
        item->added = (uint32_t)++t->n_added;
    }
    if (t->added[item->added - 1].is.special) is.special = 1;
    if (is.normalized < 0) is.normalized = !is.special;
    t->added[item->added - 1].is = is;
    return LLM_OK;
}

static const llmi_flags llmi_special = {1, 0, 0, 0, 0};

/* ---- training --------------------------------------------------------------------------- */
/* The distinct pre-tokens with their counts are the text. A pair's count is exact at any time; the
 * queue holds what it was when the pair first stood somewhere, and an entry that is out of date
 * goes back in with the true count. Highest count first, of equal ones the pair of smallest ids:
 * the order of `tokenizers`.
 * Two neighbours become a new pair only where a merge has just made one of them, so all places
 * of a pair come up in one step: one list of words and one entry in the queue are enough, no pair
 * is merged twice, and no two merges spell the same token. */
typedef struct llmi_count {
    uint64_t key;                 /* the pair */
    int64_t count;
    int32_t words;                /* list of the words that held it when it came up, in places */
} llmi_count;

typedef struct llmi_place { int32_t word, next; } llmi_place;    /* next -1 = the last */

typedef struct llmi_bpe_trainer {
    llm_tokenizer *t;
    llmi_strings words;
    int64_t *word_counts;
    int32_t *symbols;             /* of word w from words.items[w].begin on */
    int32_t *word_sizes;          /* symbols left */
    llmi_pairs pairs;             /* pair -> index in counts */
    llmi_count *counts;
    llmi_place *places;
    llmi_heap heap;
    size_t word_counts_capacity, counts_capacity, places_capacity;       /* in bytes */
    size_t n_places, n_queued;    /* n_queued: the pairs that have been in the queue */
    llmi_cut cut;
    llmi_text token;
    const llm_allocator *allocator;
    llm_error *err;
} llmi_bpe_trainer;

static void llmi_bpe_trainer_free(llmi_bpe_trainer *r) {
    llmi_cut_free(&r->cut, &r->t->patterns);
    llmi_strings_free(&r->words);
    llmi_release(r->allocator, r->word_counts);
    llmi_release(r->allocator, r->symbols);
    llmi_release(r->allocator, r->word_sizes);
    llmi_release(r->allocator, r->pairs.slots);
    llmi_release(r->allocator, r->counts);
    llmi_release(r->allocator, r->places);
    llmi_release(r->allocator, r->heap.items);
    llmi_text_free(&r->token);
}

/* room for item n of an array whose items have this size */
static llm_result llmi_bpe_room(llmi_bpe_trainer *r, void **array, size_t *capacity, size_t n,
                                size_t size) {
    const size_t need = llmi_mul(n + 1, size);
    if (n >= INT32_MAX)
        return llmi_fail(r->err, LLM_ERR_ARGUMENT, "the text is too long to train on");
    return llmi_grow(r->allocator, array, capacity, n * size,
                     need > *capacity ? llmi_max(need, 4096) : need, "training a tokenizer",
                     r->err);
}

#define LLMI_BPE_ROOM(r, field, n, type) do { \
    void *room_ = (r)->field; \
    LLMI_TRY(llmi_bpe_room(r, &room_, &(r)->field##_capacity, n, sizeof(type))); \
    (r)->field = (type *)room_; \
} while (0)

static llm_result llmi_bpe_count_words(llmi_bpe_trainer *r, const char *text, size_t n) {
    size_t at, end;
    if (n) LLMI_TRY(llmi_cut_start(&r->cut, &r->t->patterns, 0, text, n, r->err));
    while (n && llmi_cut_next(&r->cut, &at, &end)) {
        const char *word = text + at;
        const size_t size = end - at;
        int32_t w;
        w = llmi_strings_find(&r->words, word, size, LLMI_BYTES);
        if (w < 0) {
            if (size > INT32_MAX)
                return llmi_fail(r->err, LLM_ERR_ARGUMENT,
                                 "a word of %lu bytes, at most %ld can be trained on",
                                 (unsigned long)size, (long)INT32_MAX);
            w = (int32_t)r->words.n;
            LLMI_BPE_ROOM(r, word_counts, r->words.n, int64_t);
            LLMI_TRY(llmi_strings_put(&r->words, w, word, size, LLMI_BYTES, r->err));
            r->word_counts[w] = 0;
        }
        r->word_counts[w]++;
    }
    return LLM_OK;
}

/* adds times (+1, -1) the word's count to the pair's; for +1, the word joins the pair's list */
static llm_result llmi_bpe_count(llmi_bpe_trainer *r, int32_t a, int32_t b, int times,
                                 int32_t word) {
    const uint64_t key = llmi_pair(a, b);
    int32_t pair = llmi_pairs_find(&r->pairs, key);
    llmi_count *count;
    if (pair < 0) {
        pair = (int32_t)r->pairs.n;
        LLMI_BPE_ROOM(r, counts, r->pairs.n, llmi_count);
        LLMI_TRY(llmi_pairs_put(&r->pairs, key, pair, r->allocator, r->err));
        r->counts[pair].key = key;
        r->counts[pair].count = 0;
        r->counts[pair].words = -1;
    }
    count = &r->counts[pair];
    count->count += times * r->word_counts[word];
    if (times < 0 || (count->words >= 0 && r->places[count->words].word == word)) return LLM_OK;
    LLMI_BPE_ROOM(r, places, r->n_places, llmi_place);
    r->places[r->n_places].word = word;
    r->places[r->n_places].next = count->words;
    count->words = (int32_t)r->n_places++;
    return LLM_OK;
}

/* the pairs that have come up since the last call enter the queue */
static llm_result llmi_bpe_queue(llmi_bpe_trainer *r) {
    for (; r->n_queued < r->pairs.n; r->n_queued++) {
        const llmi_count *count = &r->counts[r->n_queued];
        if (count->count > 0)
            LLMI_TRY(llmi_heap_push(&r->heap, count->count, count->key, r->allocator, r->err));
    }
    return LLM_OK;
}

/* merges a, b in one word, from its start on, and corrects the counts of the pairs around */
static llm_result llmi_bpe_merge_word(llmi_bpe_trainer *r, int32_t word, int32_t a, int32_t b,
                                      int32_t merged) {
    int32_t *symbols = r->symbols + r->words.items[word].begin;
    const int32_t n = r->word_sizes[word];
    int32_t in, out;
    for (in = out = 0; in < n; in++, out++) {
        symbols[out] = symbols[in];
        if (symbols[in] != a || in + 1 == n || symbols[in + 1] != b) continue;
        symbols[out] = merged;
        if (out) {
            LLMI_TRY(llmi_bpe_count(r, symbols[out - 1], a, -1, word));
            LLMI_TRY(llmi_bpe_count(r, symbols[out - 1], merged, 1, word));
        }
        in++;
        if (in + 1 < n) {
            LLMI_TRY(llmi_bpe_count(r, b, symbols[in + 1], -1, word));
            LLMI_TRY(llmi_bpe_count(r, merged, symbols[in + 1], 1, word));
        }
    }
    r->word_sizes[word] = out;
    return LLM_OK;
}

/* a new token, and its merge */
static llm_result llmi_bpe_join(llmi_bpe_trainer *r, int32_t a, int32_t b, int32_t merged) {
    size_t n;
    const char *part = llmi_token_text(r->t, a, &n);
    r->token.size = 0;
    llmi_text_add(&r->token, part, n);
    part = llmi_token_text(r->t, b, &n);
    llmi_text_add(&r->token, part, n);
    if (r->token.failed != LLM_OK)
        return llmi_fail(r->err, LLM_ERR_MEMORY, "out of memory: training a tokenizer");
    LLMI_TRY(llmi_strings_put(&r->t->vocabulary, merged, r->token.data, r->token.size, LLMI_BYTES,
                              r->err));
    return llmi_tokenizer_merge(r->t, a, b, merged, r->err);
}

static llm_result llmi_bpe_train(llmi_bpe_trainer *r, const char *text, size_t n,
                                 size_t vocab_size) {
    llm_tokenizer *t = r->t;
    uint32_t code;
    size_t i, w;
    LLMI_TRY(llmi_tokenizer_level(t, "llm_tokenizer_train", r->err));
    LLMI_TRY(llmi_patterns_finish(&t->patterns, r->err));
    for (code = 0; code < 256 + 68; code++) {                    /* ids in the order of chars */
        const int byte = llmi_char_to_byte(code);
        const char character = (char)byte;
        if (byte < 0) continue;
        t->byte_tokens[byte] = (int32_t)t->vocabulary.n;
        LLMI_TRY(llmi_strings_put(&t->vocabulary, t->byte_tokens[byte], &character, 1, LLMI_BYTES,
                                  r->err));
    }
    LLMI_TRY(llmi_bpe_count_words(r, text, n));
    r->symbols = (int32_t *)llmi_alloc(r->allocator, llmi_mul(r->words.bytes.size, sizeof(int32_t)),
                                       "training a tokenizer", r->err);
    r->word_sizes = (int32_t *)llmi_alloc(r->allocator, llmi_mul(r->words.n, sizeof(int32_t)),
                                          "training a tokenizer", r->err);
    if (!r->symbols || !r->word_sizes) return LLM_ERR_MEMORY;
    for (w = 0; w < r->words.n; w++) {
        const llmi_string *word = &r->words.items[w];
        r->word_sizes[w] = (int32_t)word->size;
        for (i = word->begin; i < word->begin + word->size; i++) {
            r->symbols[i] = t->byte_tokens[(unsigned char)r->words.bytes.data[i]];
            if (i > word->begin)
                LLMI_TRY(llmi_bpe_count(r, r->symbols[i - 1], r->symbols[i], 1, (int32_t)w));
        }
    }
    LLMI_TRY(llmi_bpe_queue(r));
    while (t->vocabulary.n < vocab_size && r->heap.n) {
        const llmi_heap_item top = llmi_heap_pop(&r->heap);
        const llmi_count *pair = &r->counts[llmi_pairs_find(&r->pairs, top.key)];
        const int32_t a = (int32_t)(top.key >> 32), b = (int32_t)(top.key & 0xFFFFFFFFu);
        const int32_t merged = (int32_t)t->vocabulary.n;
        int32_t place = pair->words;
        if (!pair->count) continue;
        if (top.priority != pair->count) {
            LLMI_TRY(llmi_heap_push(&r->heap, pair->count, top.key, r->allocator, r->err));
            continue;
        }
        LLMI_TRY(llmi_bpe_join(r, a, b, merged));
        for (; place >= 0; place = r->places[place].next)
            LLMI_TRY(llmi_bpe_merge_word(r, r->places[place].word, a, b, merged));
        LLMI_TRY(llmi_bpe_queue(r));
    }
    LLMI_TRY(llmi_strings_put(&t->vocabulary, (int32_t)t->vocabulary.n, llmi_endoftext,
                              strlen(llmi_endoftext), LLMI_BYTES, r->err));
    LLMI_TRY(llmi_tokenizer_add(t, (int32_t)t->vocabulary.n - 1, llmi_endoftext,
                                strlen(llmi_endoftext), llmi_special, r->err));
    return llmi_tokenizer_finish(t, r->err);
}

/* Ids as in GPT-2: 256 bytes, the merges, and <|endoftext|> last; where the text has no more pairs
 * to merge, the vocabulary is smaller than vocab_size. <|endoftext|> in the text is mere text. */
LLM_API llm_tokenizer *llm_tokenizer_train(const char *text, size_t n, int vocab_size,
                                           const llm_allocator *allocator, llm_error *err) {
    llmi_bpe_trainer r;
    llm_result result;
    if (!text && n) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "llm_tokenizer_train: text is NULL");
        return NULL;
    }
    if (vocab_size < 257) {
        llmi_fail(err, LLM_ERR_ARGUMENT,
                  "llm_tokenizer_train: vocab_size is %d, must be at least 257 "
                  "(256 bytes and %s)",
                  vocab_size, llmi_endoftext);
        return NULL;
    }
    memset(&r, 0, sizeof r);
    r.t = llmi_tokenizer_new(allocator, err);
    if (!r.t) return NULL;
    r.allocator = r.words.bytes.allocator = r.token.allocator = r.t->allocator;
    r.err = err;
    result = llmi_bpe_train(&r, text, n, (size_t)vocab_size - 1);
    llmi_bpe_trainer_free(&r);
    if (result == LLM_OK) return r.t;
    llm_tokenizer_free(r.t);
    return NULL;
}

/* ---- reading ----------------------------------------------------------------------------- */
/* the files beside a tokenizer's, by what transformers calls them; nodes NULL: absent */
enum { LLMI_TOKENIZER_CONFIG, LLMI_SPECIAL_MAP, LLMI_ADDED_TOKENS, LLMI_MODEL_CONFIG,
       LLMI_N_SIDES };
static const char *const llmi_side_names[] = {"tokenizer_config.json", "special_tokens_map.json",
                                              "added_tokens.json", "config.json"};

typedef struct llmi_bpe_reader {
    llm_tokenizer *t;
    llmi_json json;               /* tokenizer.json or vocab.json */
    llmi_json sides[LLMI_N_SIDES];
    int is_gpt2;                  /* the class is GPT2Tokenizer: see llmi_bpe_class */
    int has_ids;                  /* of a GGUF file: added tokens have the ids that it says */
    size_t n_entries;             /* of the vocabulary proper */
    llmi_text scratch;
    llm_error *err;
} llmi_bpe_reader;

/* What a key may be: n null, t true, f false, 0 the number zero, e an empty string, s a string,
 * * anything (looked at elsewhere, or without effect here: truncation and padding are settings
 * of one call, which transformers resets, too). */
typedef struct llmi_bpe_rule { const char *key, *values; } llmi_bpe_rule;

static llm_result llmi_bpe_refuse_in(const llmi_bpe_reader *r, const llmi_json *json,
                                     const char *key, int node) {
    const llmi_json_node *value = node < 0 ? NULL : &json->nodes[node];
    const size_t size = value ? value->end - value->begin : 0;
    if (!value)
        return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%s: %s is missing", json->name, key);
    return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%s: %s is %.*s%s, which is not supported",
                     json->name, key, (int)llmi_min(size, 60), json->text + value->begin,
                     size > 60 ? "..." : "");
}
static llm_result llmi_bpe_refuse(const llmi_bpe_reader *r, const char *key, int node) {
    return llmi_bpe_refuse_in(r, &r->json, key, node);
}

static int llmi_bpe_may_be(const llmi_json *json, int node, const char *values) {
    double number = 1;
    if (strchr(values, '*')) return 1;
    switch (json->nodes[node].type) {
    case LLMI_JSON_NULL: return strchr(values, 'n') != NULL;
    case LLMI_JSON_TRUE: return strchr(values, 't') != NULL;
    case LLMI_JSON_FALSE: return strchr(values, 'f') != NULL;
    case LLMI_JSON_NUMBER:
        return strchr(values, '0') && llmi_json_number(json, node, &number) && number == 0;
    case LLMI_JSON_STRING:
        return strchr(values, 's') || (strchr(values, 'e') && llmi_json_is(json, node, ""));
    default: return 0;
    }
}

/* every key of the object has a rule (the last one's key is NULL), and a value that it allows */
static llm_result llmi_bpe_check(const llmi_bpe_reader *r, const char *what, int object,
                                 const llmi_bpe_rule *rules) {
    const llmi_json *json = &r->json;
    int key, value;
    if (object < 0 || json->nodes[object].type != LLMI_JSON_OBJECT)
        return llmi_bpe_refuse(r, what, object);
    for (key = llmi_json_first(json, object); key >= 0; key = json->nodes[value].next) {
        char name[120];
        int i = 0;
        value = json->nodes[key].next;
        while (rules[i].key && !llmi_json_is(json, key, rules[i].key)) i++;
        if (rules[i].key && llmi_bpe_may_be(json, value, rules[i].values)) continue;
        snprintf(name, sizeof name, "%s.%.*s", what,
                 (int)llmi_min(json->nodes[key].end - json->nodes[key].begin, 60),
                 json->text + json->nodes[key].begin);
        return llmi_bpe_refuse(r, name, value);
    }
    return LLM_OK;
}

static int llmi_bpe_is_true(const llmi_json *json, int object, const char *key) {
    const int value = llmi_json_get(json, object, key);
    return value >= 0 && json->nodes[value].type == LLMI_JSON_TRUE;
}

static int llmi_side_get(const llmi_bpe_reader *r, int side, const char *key) {
    return r->sides[side].nodes ? llmi_json_get(&r->sides[side], 0, key) : -1;
}
/* the same where null and absent are one */
static int llmi_side_value(const llmi_bpe_reader *r, int side, const char *key) {
    const int node = llmi_side_get(r, side, key);
    return node >= 0 && r->sides[side].nodes[node].type == LLMI_JSON_NULL ? -1 : node;
}

static llm_result llmi_bpe_memory(const llmi_bpe_reader *r) {
    return llmi_fail(r->err, LLM_ERR_MEMORY, "out of memory: reading %s", r->json.name);
}

/* a string's bytes, put after what scratch holds */
static llm_result llmi_bpe_string(llmi_bpe_reader *r, int node, size_t *n) {
    *n = r->json.nodes[node].end - r->json.nodes[node].begin;
    if (!llmi_text_reserve(&r->scratch, *n + 1)) return llmi_bpe_memory(r);
    *n = llmi_json_string(&r->json, node, r->scratch.data + r->scratch.size, *n);
    return LLM_OK;
}

/* {"token": id, ...}; not every id needs to have a token, but most */
static llm_result llmi_bpe_read_vocabulary(llmi_bpe_reader *r, int object) {
    const llmi_json *json = &r->json;
    size_t limit;
    int key;
    if (object < 0 || json->nodes[object].type != LLMI_JSON_OBJECT)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: vocab is not an object", json->name);
    r->n_entries = (size_t)json->nodes[object].n_children;
    limit = 2 * r->n_entries + 1024;
    for (key = llmi_json_first(json, object); key >= 0;) {
        const int value = json->nodes[key].next;
        const int shown = (int)llmi_min(json->nodes[key].end - json->nodes[key].begin, 60);
        int64_t id;
        size_t n;
        int kind;
        if (!llmi_json_int64(json, value, &id) || id < 0 || (uint64_t)id >= limit)
            return llmi_fail(r->err, LLM_ERR_FORMAT,
                             "%s: vocab: id of \"%.*s\" is %.*s, must be in [0, %lu)", json->name,
                             shown, json->text + json->nodes[key].begin,
                             (int)llmi_min(json->nodes[value].end - json->nodes[value].begin, 24),
                             json->text + json->nodes[value].begin, (unsigned long)limit);
        if ((size_t)id < r->t->vocabulary.n && r->t->vocabulary.items[id].kind != LLMI_ABSENT)
            return llmi_fail(r->err, LLM_ERR_FORMAT,
                             "%s: vocab: id %ld of \"%.*s\" has been given before", json->name,
                             (long)id, shown, json->text + json->nodes[key].begin);
        r->scratch.size = 0;
        LLMI_TRY(llmi_bpe_string(r, key, &n));
        kind = llmi_chars_to_bytes(r->scratch.data, &n);
        LLMI_TRY(llmi_strings_put(&r->t->vocabulary, (int32_t)id, r->scratch.data, n, kind,
                                  r->err));
        key = json->nodes[value].next;
    }
    return LLM_OK;
}

/* scratch holds the two halves of a merge, as in the file, one after the other */
static llm_result llmi_bpe_read_merge(llmi_bpe_reader *r, size_t n_first, size_t n_second) {
    llm_tokenizer *t = r->t;
    char *first = r->scratch.data, *second = first + n_first;
    size_t n_a = n_first, n_b = n_second;
    int32_t a = -1, b = -1, result = -1;
    if (llmi_chars_to_bytes(first, &n_a) == LLMI_BYTES)
        a = llmi_strings_find(&t->vocabulary, first, n_a, LLMI_BYTES);
    if (llmi_chars_to_bytes(second, &n_b) == LLMI_BYTES)
        b = llmi_strings_find(&t->vocabulary, second, n_b, LLMI_BYTES);
    if (a >= 0 && b >= 0) {
        memmove(first + n_a, second, n_b);
        result = llmi_strings_find(&t->vocabulary, first, n_a + n_b, LLMI_BYTES);
    }
    if (result < 0)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: merge %lu: its %s is not in the vocabulary",
                         r->json.name, (unsigned long)t->n_merges,
                         a < 0 ? "first half" : b < 0 ? "second half" : "result");
    if (llmi_rank(t, a, b) >= 0)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: merge %lu has been given before",
                         r->json.name, (unsigned long)t->n_merges);
    return llmi_tokenizer_merge(t, a, b, result, r->err);
}

/* scratch holds the n bytes of "a b"; both and exactly one space must be there */
static llm_result llmi_bpe_read_line(llmi_bpe_reader *r, size_t n) {
    char *line = r->scratch.data;
    char *space = n ? (char *)memchr(line, ' ', n) : NULL;
    const size_t n_first = space ? (size_t)(space - line) : 0;
    const size_t n_second = space ? n - n_first - 1 : 0;
    if (!n_first || !n_second || memchr(space + 1, ' ', n_second))
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: merge %lu is not two strings", r->json.name,
                         (unsigned long)r->t->n_merges);
    memmove(space, space + 1, n_second);
    return llmi_bpe_read_merge(r, n_first, n_second);
}

/* ["a b", ...] or [["a", "b"], ...] */
static llm_result llmi_bpe_read_merges(llmi_bpe_reader *r, int array) {
    const llmi_json_node *nodes = r->json.nodes;
    int item;
    if (array < 0 || nodes[array].type != LLMI_JSON_ARRAY)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: merges is not an array", r->json.name);
    for (item = llmi_json_first(&r->json, array); item >= 0; item = nodes[item].next) {
        const int first = llmi_json_first(&r->json, item),
                  second = first < 0 ? -1 : nodes[first].next;
        size_t n_first, n_second;
        r->scratch.size = 0;
        if (nodes[item].type == LLMI_JSON_STRING) {
            LLMI_TRY(llmi_bpe_string(r, item, &n_first));
            LLMI_TRY(llmi_bpe_read_line(r, n_first));
            continue;
        }
        if (nodes[item].type != LLMI_JSON_ARRAY || nodes[item].n_children != 2 ||
            nodes[first].type != LLMI_JSON_STRING || nodes[second].type != LLMI_JSON_STRING)
            return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: merge %lu is not two strings",
                             r->json.name, (unsigned long)r->t->n_merges);
        LLMI_TRY(llmi_bpe_string(r, first, &n_first));
        r->scratch.size = n_first;
        LLMI_TRY(llmi_bpe_string(r, second, &n_second));
        LLMI_TRY(llmi_bpe_read_merge(r, n_first, n_second));
    }
    return LLM_OK;
}

/* ---- added tokens, as AutoTokenizer collects them from all files ----------------------------- */
/* Who is new gets the next free id, in this order; ids that files state only order a list. */
typedef struct llmi_listed {
    size_t begin, size;           /* of the text, in texts */
    int64_t id;
    llmi_flags is;
} llmi_listed;

enum { LLMI_LISTED = 1,           /* in a list of added tokens, whose flags count then           */
       LLMI_NAMED,                /* bos_token, pad_token and the like: special wherever listed  */
       LLMI_DECLARED,             /* special if it is in added_tokens.json                       */
       LLMI_SEEN,                 /* collected already as a string                               */
       LLMI_SEEN_OBJECT };        /* + flags: collected already as an object with these flags    */

typedef struct llmi_collector {
    llmi_bpe_reader *r;
    llmi_strings sets;            /* texts, by these kinds */
    llmi_text texts;
    llmi_listed *items;           /* a batch */
    size_t n, capacity;           /* capacity in bytes */
    int has_decoder;              /* added_tokens_decoder: then two other files are not read */
    const char *key;              /* that is read now, for messages */
} llmi_collector;

static void llmi_collector_free(llmi_collector *c) {
    llmi_strings_free(&c->sets);
    llmi_text_free(&c->texts);
    llmi_release(c->r->t->allocator, c->items);
}

static int llmi_collected(const llmi_collector *c, const llmi_listed *item, int kind) {
    return llmi_strings_find(&c->sets, c->texts.data + item->begin, item->size, kind) >= 0;
}
static llm_result llmi_collect_in(llmi_collector *c, const llmi_listed *item, int kind) {
    if (llmi_collected(c, item, kind)) return LLM_OK;
    return llmi_strings_put(&c->sets, (int32_t)c->sets.n, c->texts.data + item->begin, item->size,
                            kind, c->r->err);
}
static llm_result llmi_collect(llmi_collector *c, const llmi_listed *item) {
    void *items = c->items;
    LLMI_TRY(llmi_grow(c->r->t->allocator, &items, &c->capacity, c->n * sizeof *item,
                       (c->n + 1) * sizeof *item, "added tokens", c->r->err));
    c->items = (llmi_listed *)items;
    c->items[c->n++] = *item;
    return LLM_OK;
}

/* a text, of a file's string or (json NULL) of our own */
static llm_result llmi_listed_text(llmi_collector *c, llmi_listed *item, const llmi_json *json,
                                   int node, const char *own) {
    const size_t most = json ? json->nodes[node].end - json->nodes[node].begin : strlen(own);
    memset(item, 0, sizeof *item);
    item->is = llmi_special;
    item->begin = c->texts.size;
    if (!llmi_text_reserve(&c->texts, most + 1)) return llmi_bpe_memory(c->r);
    if (!json) memcpy(c->texts.data + item->begin, own, most);
    item->size = json ? llmi_json_string(json, node, c->texts.data + item->begin, most) : most;
    c->texts.size += item->size;
    return LLM_OK;
}

/* an object with content and flags; special where it says so */
static llm_result llmi_listed_object(llmi_collector *c, llmi_listed *item, const llmi_json *json,
                                     int node) {
    static const char *const keys[] = {"special", "normalized", "lstrip", "rstrip", "single_word"};
    const int content = llmi_json_get(json, node, "content");
    int8_t *flags[5];
    int i;
    if (content < 0 || json->nodes[content].type != LLMI_JSON_STRING)
        return llmi_fail(c->r->err, LLM_ERR_FORMAT, "%s: an added token has no content: %.*s",
                         json->name, (int)llmi_min(60, json->nodes[node].end -
                                                           json->nodes[node].begin),
                         json->text + json->nodes[node].begin);
    LLMI_TRY(llmi_listed_text(c, item, json, content, NULL));
    item->is.special = 0;
    item->is.normalized = -1;
    flags[0] = &item->is.special;
    flags[1] = &item->is.normalized;
    flags[2] = &item->is.lstrip;
    flags[3] = &item->is.rstrip;
    flags[4] = &item->is.single_word;
    for (i = 0; i < 5; i++) {
        const int value = llmi_json_get(json, node, keys[i]);
        if (value < 0) continue;
        if (json->nodes[value].type != LLMI_JSON_TRUE && json->nodes[value].type != LLMI_JSON_FALSE)
            return llmi_bpe_refuse_in(c->r, json, keys[i], value);
        *flags[i] = json->nodes[value].type == LLMI_JSON_TRUE;
    }
    return LLM_OK;
}

/* a string, or an object that says it is an AddedToken (in special_tokens_map.json, any object);
 * json NULL: own, which is ours */
static llm_result llmi_listed_either(llmi_collector *c, llmi_listed *item, int *is_string,
                                     const llmi_json *json, int node, const char *own) {
    const int in_map = json == &c->r->sides[LLMI_SPECIAL_MAP];
    *is_string = !json || json->nodes[node].type == LLMI_JSON_STRING;
    if (*is_string) return llmi_listed_text(c, item, json, node, own);
    if (json->nodes[node].type != LLMI_JSON_OBJECT ||
        (!in_map && !llmi_json_is(json, llmi_json_get(json, node, "__type"), "AddedToken")))
        return llmi_bpe_refuse_in(c->r, json, c->key, node);
    LLMI_TRY(llmi_listed_object(c, item, json, node));
    if (in_map) item->is.special = 1;
    return LLM_OK;
}

/* one of the named or extra tokens: it joins the batch, unless a list has it, or it has been seen
 * as it is written here */
static llm_result llmi_collect_form(llmi_collector *c, llmi_listed *item, int is_string) {
    const llmi_flags *is = &item->is;
    const int normalized = is->normalized < 0 ? !is->special : is->normalized;
    const int kind = is_string
                         ? LLMI_SEEN
                         : LLMI_SEEN_OBJECT + (is->special | normalized << 1 | is->lstrip << 2 |
                                               is->rstrip << 3 | is->single_word << 4);
    if (llmi_collected(c, item, LLMI_LISTED) || llmi_collected(c, item, kind)) return LLM_OK;
    LLMI_TRY(llmi_collect_in(c, item, kind));
    if (llmi_collected(c, item, LLMI_NAMED)) item->is.special = 1;
    return llmi_collect(c, item);
}

/* pass 0: the texts of named tokens; pass 1: they join the batch. declares: as a string, or in
 * special_tokens_map.json, its name makes a token of added_tokens.json special */
static llm_result llmi_collect_name(llmi_collector *c, int pass, const llmi_json *json, int node,
                                    const char *own, int declares) {
    llmi_listed item;
    int is_string;
    LLMI_TRY(llmi_listed_either(c, &item, &is_string, json, node, own));
    if (pass) return llmi_collect_form(c, &item, is_string);
    LLMI_TRY(llmi_collect_in(c, &item, LLMI_NAMED));
    if (declares && json && json != &c->r->json &&
        (is_string || json == &c->r->sides[LLMI_SPECIAL_MAP]))
        LLMI_TRY(llmi_collect_in(c, &item, LLMI_DECLARED));
    return LLM_OK;
}

static const char *const llmi_token_names[] = {"bos_token",  "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};
enum { LLMI_N_TOKEN_NAMES = 7, LLMI_PAD_TOKEN = 4 };

static int llmi_is_name(const llmi_json *json, int key) {        /* one of these? */
    int i;
    for (i = 0; i < LLMI_N_TOKEN_NAMES && !llmi_json_is(json, key, llmi_token_names[i]); i++) {}
    return i < LLMI_N_TOKEN_NAMES;
}

/* where a named token stands: special_tokens_map.json goes before tokenizer_config.json, and a null
 * counts; *json NULL: *own, which is NULL where there is none */
static int llmi_named_token(const llmi_collector *c, int i, const llmi_json **json,
                            const char **own) {
    const llmi_bpe_reader *r = c->r;
    const int map = c->has_decoder ? -1 : llmi_side_get(r, LLMI_SPECIAL_MAP, llmi_token_names[i]);
    const int config = llmi_side_get(r, LLMI_TOKENIZER_CONFIG, llmi_token_names[i]);
    const int padding =
        r->is_gpt2 || i != LLMI_PAD_TOKEN ? -1 : llmi_json_get(&r->json, 0, "padding");
    const int node = map >= 0 ? map : config >= 0 ? config
                     : padding >= 0 ? llmi_json_get(&r->json, padding, "pad_token") : -1;
    *own = NULL;
    *json = node < 0 ? NULL : map >= 0 ? &r->sides[LLMI_SPECIAL_MAP]
            : config >= 0 ? &r->sides[LLMI_TOKENIZER_CONFIG] : &r->json;
    if (node < 0 && r->is_gpt2 && i < 3) *own = llmi_endoftext;
    if (node >= 0 && (*json)->nodes[node].type == LLMI_JSON_NULL) *json = NULL;
    return node;
}

static llm_result llmi_collect_named(llmi_collector *c, int pass) {
    const llmi_json *config = &c->r->sides[LLMI_TOKENIZER_CONFIG], *json;
    const int extra = llmi_side_get(c->r, LLMI_TOKENIZER_CONFIG, "extra_special_tokens");
    const char *own;
    int i, key, value, node;
    for (i = 0; i < LLMI_N_TOKEN_NAMES; i++) {
        node = llmi_named_token(c, i, &json, &own);
        c->key = llmi_token_names[i];
        if (json || own) LLMI_TRY(llmi_collect_name(c, pass, json, node, own, 1));
    }
    key = config->nodes ? llmi_json_first(config, 0) : -1;
    for (; key >= 0; key = config->nodes[value].next) {
        const llmi_json_node *name = &config->nodes[key];
        const size_t n = name->end - name->begin;
        value = config->nodes[key].next;
        c->key = "a special token";
        if (memchr(config->text + name->begin, '\\', n))        /* it may end so all the same */
            return llmi_bpe_refuse_in(c->r, config, "a key with escapes", key);
        if (n < 6 || memcmp(config->text + name->end - 6, "_token", 6) != 0 ||
            llmi_is_name(config, key))
            continue;
        if (config->nodes[value].type == LLMI_JSON_OBJECT)
            return llmi_bpe_refuse_in(c->r, config, c->key, value);
        if (config->nodes[value].type == LLMI_JSON_STRING)
            LLMI_TRY(llmi_collect_name(c, pass, config, value, NULL, 0));
    }
    c->key = "extra_special_tokens";
    if (extra < 0 || config->nodes[extra].type != LLMI_JSON_OBJECT) return LLM_OK;
    for (key = llmi_json_first(config, extra); key >= 0; key = config->nodes[value].next) {
        value = config->nodes[key].next;
        if (llmi_is_name(config, key)) /* the last of that name would count */
            return llmi_bpe_refuse_in(c->r, config, c->key, key);
        LLMI_TRY(llmi_collect_name(c, pass, config, value, NULL, 0));
    }
    return LLM_OK;
}

/* Extra tokens of one list. pass 0: which of them make a token of added_tokens.json special; pass
 * 1: they join the batch. strings: objects are refused. */
static llm_result llmi_collect_list(llmi_collector *c, int pass, const llmi_json *json, int list,
                                    const char *key, int strings) {
    int node;
    c->key = key;
    if (list < 0 || json->nodes[list].type == LLMI_JSON_NULL) return LLM_OK;
    if (json->nodes[list].type != LLMI_JSON_ARRAY)
        return llmi_bpe_refuse_in(c->r, json, key, list);
    for (node = llmi_json_first(json, list); node >= 0; node = json->nodes[node].next) {
        llmi_listed item;
        int is_string;
        if (strings && json->nodes[node].type != LLMI_JSON_STRING)
            return llmi_bpe_refuse_in(c->r, json, key, node);
        LLMI_TRY(llmi_listed_either(c, &item, &is_string, json, node, NULL));
        if (pass) LLMI_TRY(llmi_collect_form(c, &item, is_string));
        else if (is_string || json == &c->r->sides[LLMI_SPECIAL_MAP])
            LLMI_TRY(llmi_collect_in(c, &item, LLMI_DECLARED));
    }
    return LLM_OK;
}

/* extra_special_tokens of both files, or else additional_special_tokens, its older name */
static llm_result llmi_collect_extra(llmi_collector *c, int pass) {
    static const char extra_key[] = "extra_special_tokens",
                      more_key[] = "additional_special_tokens";
    const llmi_json *config = &c->r->sides[LLMI_TOKENIZER_CONFIG],
                    *map = &c->r->sides[LLMI_SPECIAL_MAP];
    const int extra = llmi_side_get(c->r, LLMI_TOKENIZER_CONFIG, extra_key),
              more = llmi_side_get(c->r, LLMI_TOKENIZER_CONFIG, more_key);
    const int map_extra = c->has_decoder ? -1 : llmi_side_get(c->r, LLMI_SPECIAL_MAP, extra_key),
              map_more = c->has_decoder ? -1 : llmi_side_get(c->r, LLMI_SPECIAL_MAP, more_key);
    const int is_object = extra >= 0 && config->nodes[extra].type == LLMI_JSON_OBJECT &&
                          config->nodes[extra].n_children > 0;
    const int is_list = extra >= 0 && !is_object && config->nodes[extra].n_children > 0;
    const int first = is_list ? extra : is_object ? -1 : more;
    if (extra >= 0 && config->nodes[extra].type < LLMI_JSON_ARRAY &&
        config->nodes[extra].type != LLMI_JSON_NULL)
        return llmi_bpe_refuse_in(c->r, config, extra_key, extra);
    if (first >= 0)
        LLMI_TRY(llmi_collect_list(c, pass, config, first, is_list ? extra_key : more_key, 0));
    if (map_extra >= 0) LLMI_TRY(llmi_collect_list(c, pass, map, map_extra, extra_key, 0));
    if (first >= 0 || map_extra >= 0 || !pass ||
        (extra >= 0 && config->nodes[extra].type != LLMI_JSON_OBJECT))
        return LLM_OK;
    if (map_more >= 0) return llmi_collect_list(c, pass, map, map_more, more_key, 1);
    return llmi_collect_list(c, pass, config, more, more_key, 0);
}

static int llmi_listed_compare(const void *left, const void *right) {
    const llmi_listed *a = (const llmi_listed *)left, *b = (const llmi_listed *)right;
    if (a->id != b->id) return a->id < b->id ? -1 : 1;
    return a->begin < b->begin ? -1 : a->begin > b->begin;       /* in the order of reading */
}

/* an entry of a list: kept with its id */
static llm_result llmi_collect_listed(llmi_collector *c, llmi_listed *item, const llmi_json *json,
                                      int id, const char *digits) {
    char *end = NULL;
    int ok;
    if (digits) {
        item->id = strtol(digits, &end, 10);
        ok = digits[0] >= '0' && digits[0] <= '9' && !*end && item->id < INT32_MAX;
    } else {
        ok = llmi_json_int64(json, id, &item->id) && item->id >= 0 && item->id < INT32_MAX;
    }
    if (!ok)
        return llmi_fail(c->r->err, LLM_ERR_FORMAT,
                         "%s: %sadded token %.*s: its id is no whole number in [0, 2^31 - 1)",
                         json->name, digits ? "added_tokens_decoder: " : "",
                         (int)llmi_min(item->size, 60), c->texts.data + item->begin);
    return llmi_collect(c, item);
}

/* tokenizer.json's own, into the batch */
static llm_result llmi_collect_own(llmi_collector *c) {
    const llmi_json *json = &c->r->json;
    const int list = llmi_json_get(json, 0, "added_tokens");
    int node = list < 0 || json->nodes[list].type != LLMI_JSON_ARRAY ? -1
                                                                     : llmi_json_first(json, list);
    for (; node >= 0; node = json->nodes[node].next) {
        llmi_listed item;
        LLMI_TRY(llmi_listed_object(c, &item, json, node));
        LLMI_TRY(llmi_collect_listed(c, &item, json, llmi_json_get(json, node, "id"), NULL));
    }
    return LLM_OK;
}

/* the list of added tokens: added_tokens_decoder, or else added_tokens.json and tokenizer.json's */
static llm_result llmi_collect_lists(llmi_collector *c) {
    const int config = c->has_decoder ? LLMI_TOKENIZER_CONFIG : LLMI_ADDED_TOKENS;
    const llmi_json *json = &c->r->sides[config];
    const int object = c->has_decoder ? llmi_json_get(json, 0, "added_tokens_decoder")
                       : json->nodes ? 0 : -1;
    int key, value;
    size_t i, n = 0;
    if (object >= 0 && json->nodes[object].type != LLMI_JSON_OBJECT)
        return llmi_bpe_refuse_in(c->r, json, "added_tokens_decoder", object);
    key = object < 0 ? -1 : llmi_json_first(json, object);
    for (; key >= 0; key = json->nodes[value].next) {
        llmi_listed item;
        char digits[16];
        value = json->nodes[key].next;
        if (c->has_decoder) {
            const size_t size = llmi_json_string(json, key, digits, sizeof digits);
            digits[size < sizeof digits ? size : 0] = 0;         /* longer: no number */
            if (json->nodes[value].type != LLMI_JSON_OBJECT)
                return llmi_bpe_refuse_in(c->r, json, "added_tokens_decoder", value);
            LLMI_TRY(llmi_listed_object(c, &item, json, value));
            LLMI_TRY(llmi_collect_listed(c, &item, json, -1, digits));
        } else {
            LLMI_TRY(llmi_listed_text(c, &item, json, key, NULL));
            item.is.special = (int8_t)llmi_collected(c, &item, LLMI_DECLARED);
            item.is.normalized = !item.is.special;
            LLMI_TRY(llmi_collect_listed(c, &item, json, value, NULL));
        }
    }
    if (!c->has_decoder) LLMI_TRY(llmi_collect_own(c));
    if (c->n) qsort(c->items, c->n, sizeof *c->items, llmi_listed_compare);
    for (i = 0; i < c->n; i++) {
        llmi_listed item = c->items[i];
        const llmi_listed *last = n ? &c->items[n - 1] : NULL;
        if (last && last->id == item.id) {
            if (last->size != item.size ||
                memcmp(c->texts.data + last->begin, c->texts.data + item.begin, item.size) != 0)
                return llmi_fail(c->r->err, LLM_ERR_UNSUPPORTED,
                                 "%s: two added tokens have id %ld: %.*s, %.*s",
                                 json->nodes ? json->name : c->r->json.name, (long)item.id,
                                 (int)llmi_min(last->size, 60), c->texts.data + last->begin,
                                 (int)llmi_min(item.size, 60), c->texts.data + item.begin);
            n--;
        }
        if (llmi_collected(c, &item, LLMI_NAMED)) item.is.special = 1;
        LLMI_TRY(llmi_collect_in(c, &item, LLMI_LISTED));
        c->items[n++] = item;
    }
    c->n = n;
    return LLM_OK;
}

/* *id: that of the token which files write so; -1 = there is none */
static llm_result llmi_bpe_id(llmi_bpe_reader *r, const char *text, size_t n, int32_t *id) {
    size_t n_bytes = n;
    int kind;
    r->scratch.size = 0;
    llmi_text_add(&r->scratch, text, n);
    if (r->scratch.failed != LLM_OK) return llmi_bpe_memory(r);
    kind = llmi_chars_to_bytes(r->scratch.data, &n_bytes);
    *id = llmi_strings_find(&r->t->vocabulary, r->scratch.data, n_bytes, kind);
    if (*id < 0) *id = llmi_strings_find(&r->t->vocabulary, text, n, LLMI_ADDED);
    return LLM_OK;
}

/* The batch enters the tokenizer: who is new gets the next id after the vocabulary's entries and
 * what earlier batches used. own: these are tokenizer.json's, each once. */
static llm_result llmi_collector_end(llmi_collector *c, int own) {
    llmi_bpe_reader *r = c->r;
    llmi_strings *vocabulary = &r->t->vocabulary;
    size_t next = r->n_entries, i;
    for (i = 0; i < r->t->n_added; i++) next = llmi_max(next, (size_t)r->t->added[i].id + 1);
    for (i = 0; i < c->n; i++) {
        const llmi_listed *item = &c->items[i];
        const char *text = c->texts.data + item->begin;
        int32_t id;
        if (!item->size) continue;
        LLMI_TRY(llmi_bpe_id(r, text, item->size, &id));
        if (own && id >= 0 && vocabulary->items[id].added)
            return llmi_fail(r->err, LLM_ERR_FORMAT,
                             "%s: added token %lu, %.*s, has been given before", r->json.name,
                             (unsigned long)i, (int)llmi_min(item->size, 60), text);
        if (id < 0) {
            if (r->has_ids) next = (size_t)item->id;
            if (next < vocabulary->n && vocabulary->items[next].kind != LLMI_ABSENT)
                return llmi_fail(r->err, LLM_ERR_UNSUPPORTED,
                                 "%s: added token %.*s would get id %lu, which is another's",
                                 r->json.name, (int)llmi_min(item->size, 60), text,
                                 (unsigned long)next);
            id = (int32_t)next++;
            LLMI_TRY(llmi_strings_put(vocabulary, id, text, item->size, LLMI_ADDED, r->err));
        }
        LLMI_TRY(llmi_tokenizer_add(r->t, id, text, item->size, item->is, r->err));
        if (own) LLMI_TRY(llmi_collect_in(c, item, LLMI_LISTED));
    }
    c->n = 0;
    return LLM_OK;
}

static const char *const llmi_end_keys[] = {"add_bos_token", "add_eos_token"};

/* vocab.json's tokenizers put bos and eos around a text where tokenizer_config.json says so */
static llm_result llmi_bpe_read_ends(llmi_bpe_reader *r, llmi_collector *c) {
    int i;
    for (i = 0; i < 2; i++) {
        const int add = llmi_side_get(r, LLMI_TOKENIZER_CONFIG, llmi_end_keys[i]);
        const llmi_json *json;
        const char *own;
        llmi_listed item;
        int node = llmi_named_token(c, i, &json, &own), is_string;
        int32_t *id = i ? r->t->after : r->t->before;
        if (add < 0 || r->sides[LLMI_TOKENIZER_CONFIG].nodes[add].type != LLMI_JSON_TRUE ||
            (!json && !own))
            continue;
        LLMI_TRY(llmi_listed_either(c, &item, &is_string, json, node, own));
        LLMI_TRY(llmi_bpe_id(r, c->texts.data + item.begin, item.size, id));
        if (*id < 0)                   /* it is empty */
            return llmi_bpe_refuse_in(r, &r->sides[LLMI_TOKENIZER_CONFIG], llmi_end_keys[i], add);
        if (i) r->t->n_after = 1;
        else r->t->n_before = 1;
    }
    return LLM_OK;
}

/* is_pair: there is no tokenizer.json */
static llm_result llmi_bpe_read_added(llmi_bpe_reader *r, int is_pair, int is_alone) {
    llmi_collector c;
    llm_result result = LLM_OK;
    memset(&c, 0, sizeof c);
    c.r = r;
    c.key = "a special token";
    c.texts.allocator = c.sets.bytes.allocator = r->t->allocator;
    c.has_decoder = llmi_side_get(r, LLMI_TOKENIZER_CONFIG, "added_tokens_decoder") >= 0;
    if (!r->is_gpt2) {
        result = llmi_collect_own(&c);
        if (result == LLM_OK) result = llmi_collector_end(&c, 1);
    }
    if (!is_alone) {
        if (result == LLM_OK) result = llmi_collect_named(&c, 0);
        if (result == LLM_OK) result = llmi_collect_extra(&c, 0);
        if (result == LLM_OK) result = llmi_collect_lists(&c);
        if (result == LLM_OK) result = llmi_collect_named(&c, 1);
        if (result == LLM_OK) result = llmi_collect_extra(&c, 1);
        if (result == LLM_OK) result = llmi_collector_end(&c, 0);
        if (result == LLM_OK && is_pair) result = llmi_bpe_read_ends(r, &c);
    }
    llmi_collector_free(&c);
    return result;
}

/* The class that AutoTokenizer takes. GPT2Tokenizer brings GPT-2's pattern, whatever tokenizer.json
 * says; the others leave all to tokenizer.json. */
static llm_result llmi_bpe_class(llmi_bpe_reader *r, int is_pair) {
    static const char *const gpt2_types[] = {"gpt2", "codegen", "gpt_neo", "gptj", "opt", "phi",
                                             "starcoder2"};
    static const char *const unread[] = {"vocab", "merges", "tokenizer_object", "post_processor",
                                         "init_inputs", "fast_tokenizer_files",
                                         "model_specific_special_tokens"};
    const llmi_json *config = &r->sides[LLMI_TOKENIZER_CONFIG], *json = config;
    const int type = llmi_side_value(r, LLMI_MODEL_CONFIG, "model_type");
    const int map = llmi_side_value(r, LLMI_TOKENIZER_CONFIG, "auto_map");
    int node = llmi_side_value(r, LLMI_TOKENIZER_CONFIG, "tokenizer_class"), is_whole = 0;
    char name[64] = "";
    size_t i, n;
    for (i = 0; i < sizeof unread / sizeof unread[0]; i++) {
        const int value = llmi_side_value(r, LLMI_TOKENIZER_CONFIG, unread[i]);
        if (value >= 0 &&
            (json->nodes[value].n_children || json->nodes[value].type < LLMI_JSON_ARRAY))
            return llmi_bpe_refuse_in(r, config, unread[i], value);
    }
    for (i = 0; i < 2; i++) {
        const int value = llmi_side_value(r, LLMI_TOKENIZER_CONFIG, llmi_end_keys[i]);
        if (value >= 0 && config->nodes[value].type != LLMI_JSON_TRUE &&
            config->nodes[value].type != LLMI_JSON_FALSE)
            return llmi_bpe_refuse_in(r, config, llmi_end_keys[i], value);
    }
    if (node < 0) {
        json = &r->sides[LLMI_MODEL_CONFIG];
        node = llmi_side_value(r, LLMI_MODEL_CONFIG, "tokenizer_class");
    }
    if (node >= 0) {
        n = llmi_min(llmi_json_string(json, node, name, sizeof name - 1), sizeof name - 1);
        name[n] = 0;
        if (llmi_ends_with(name, "Fast")) name[n - 4] = 0;
        r->is_gpt2 = !strcmp(name, "GPT2Tokenizer");
        is_whole = !strcmp(name, "PreTrainedTokenizer") || !strcmp(name, "TokenizersBackend");
        if (!r->is_gpt2 && (is_pair || (!is_whole && strcmp(name, "LlamaTokenizer") != 0)))
            return llmi_bpe_refuse_in(r, json, "tokenizer_class", node);
    } else {
        for (i = 0; i < sizeof gpt2_types / sizeof gpt2_types[0]; i++)
            if (llmi_json_is(&r->sides[LLMI_MODEL_CONFIG], type, gpt2_types[i])) r->is_gpt2 = 1;
    }
    if (map >= 0 && !is_whole && !r->is_gpt2 &&
        (config->nodes[map].type != LLMI_JSON_OBJECT ||
         llmi_json_get(config, map, "AutoTokenizer") >= 0))
        return llmi_bpe_refuse_in(r, config, "auto_map", map);
    return LLM_OK;
}

/* special_tokens_map.json holds special tokens only */
static llm_result llmi_bpe_check_map(const llmi_bpe_reader *r) {
    const llmi_json *map = &r->sides[LLMI_SPECIAL_MAP];
    int key = map->nodes ? llmi_json_first(map, 0) : -1, value;
    for (; key >= 0; key = map->nodes[value].next) {
        value = map->nodes[key].next;
        if (!llmi_is_name(map, key) && !llmi_json_is(map, key, "extra_special_tokens") &&
            !llmi_json_is(map, key, "additional_special_tokens"))
            return llmi_bpe_refuse_in(r, map, "a key beside the special tokens", key);
    }
    return LLM_OK;
}

/* a template: its special tokens before and after the text, which is called "A" */
static llm_result llmi_bpe_read_template(llmi_bpe_reader *r, int node) {
    static const llmi_bpe_rule rules[] = {
        {"type", "*"}, {"single", "*"}, {"pair", "*"}, {"special_tokens", "*"}, {NULL, NULL}};
    const llmi_json *json = &r->json;
    const int single = llmi_json_get(json, node, "single"),
              tokens = llmi_json_get(json, node, "special_tokens");
    int piece, n_texts = 0;
    LLMI_TRY(llmi_bpe_check(r, "post_processor", node, rules));
    if (single < 0 || json->nodes[single].type != LLMI_JSON_ARRAY)
        return llmi_bpe_refuse(r, "post_processor.single", single);
    for (piece = llmi_json_first(json, single); piece >= 0; piece = json->nodes[piece].next) {
        const int text = llmi_json_get(json, piece, "Sequence"),
                  special = llmi_json_get(json, piece, "SpecialToken");
        int32_t *to = n_texts ? r->t->after : r->t->before;
        int *n = n_texts ? &r->t->n_after : &r->t->n_before, entry, ids, id;
        if (text >= 0 && llmi_json_is(json, llmi_json_get(json, text, "id"), "A") && !n_texts++)
            continue;
        if (special < 0) return llmi_bpe_refuse(r, "post_processor.single", piece);
        entry = tokens < 0 ? -1 : llmi_json_first(json, tokens);
        while (entry >= 0) {           /* the key that is the piece's id */
            const int name = llmi_json_get(json, special, "id");
            if (name >= 0 && json->nodes[name].type == LLMI_JSON_STRING &&
                !llmi_json_compare(json, entry, name))
                break;
            entry = json->nodes[json->nodes[entry].next].next;
        }
        ids = entry < 0 ? -1 : llmi_json_get(json, json->nodes[entry].next, "ids");
        if (ids < 0 || json->nodes[ids].type != LLMI_JSON_ARRAY || !json->nodes[ids].n_children)
            return llmi_bpe_refuse(r, "post_processor.single", piece);
        for (id = llmi_json_first(json, ids); id >= 0; id = json->nodes[id].next) {
            int64_t value;
            if (!llmi_json_int64(json, id, &value) || value < 0 ||
                (size_t)value >= r->t->vocabulary.n ||
                r->t->vocabulary.items[value].kind == LLMI_ABSENT || *n == LLMI_TEMPLATE)
                return llmi_bpe_refuse(r, "post_processor.special_tokens", ids);
            to[(*n)++] = (int32_t)value;
        }
    }
    return n_texts == 1 ? LLM_OK : llmi_bpe_refuse(r, "post_processor.single", single);
}

/* nothing, a ByteLevel, a template, or a Sequence of these; all tokens are there */
static llm_result llmi_bpe_read_processors(llmi_bpe_reader *r, int post,
                                           const llmi_bpe_rule *byte_level) {
    const llmi_json *json = &r->json;
    const int is_list = llmi_json_is(json, llmi_json_get(json, post, "type"), "Sequence");
    const int list = is_list ? llmi_json_get(json, post, "processors") : -1;
    int node = is_list ? -1 : post, n_templates = 0;
    if (post < 0 || json->nodes[post].type == LLMI_JSON_NULL) return LLM_OK;
    if (is_list && (list < 0 || json->nodes[list].type != LLMI_JSON_ARRAY))
        return llmi_bpe_refuse(r, "post_processor.processors", list);
    if (is_list) node = llmi_json_first(json, list);
    for (; node >= 0; node = is_list ? json->nodes[node].next : -1) {
        const int type = llmi_json_get(json, node, "type");
        if (llmi_json_is(json, type, "TemplateProcessing") && !n_templates++)
            LLMI_TRY(llmi_bpe_read_template(r, node));
        else if (llmi_json_is(json, type, "ByteLevel"))
            LLMI_TRY(llmi_bpe_check(r, "post_processor", node, byte_level));
        else return llmi_bpe_refuse(r, "post_processor", node);
    }
    return LLM_OK;
}

/* a Sequence of one part is that part */
static int llmi_bpe_unwrap(const llmi_json *json, int node, const char *parts) {
    int list;
    while (llmi_json_is(json, llmi_json_get(json, node, "type"), "Sequence") &&
           json->nodes[node].n_children == 2 && (list = llmi_json_get(json, node, parts)) >= 0 &&
           json->nodes[list].type == LLMI_JSON_ARRAY && json->nodes[list].n_children == 1)
        node = llmi_json_first(json, list);
    return node;
}

static const char *const llmi_behaviors[] = {"Isolated", "Removed", "MergedWithPrevious",
                                             "MergedWithNext", "Contiguous"};

/* a Split, or Digits */
static llm_result llmi_bpe_read_split(llmi_bpe_reader *r, int node) {
    static const llmi_bpe_rule split[] = {
        {"type", "*"}, {"pattern", "*"}, {"behavior", "s"}, {"invert", "tf"}, {NULL, NULL}};
    static const llmi_bpe_rule pattern[] = {{"Regex", "s"}, {"String", "s"}, {NULL, NULL}};
    static const llmi_bpe_rule digits[] = {{"type", "*"}, {"individual_digits", "tf"},
                                           {NULL, NULL}};
    const llmi_json *json = &r->json;
    const int object = llmi_json_get(json, node, "pattern");
    const int behavior = llmi_json_get(json, node, "behavior");
    const int regex = llmi_json_get(json, object, "Regex"),
              text = regex >= 0 ? regex : llmi_json_get(json, object, "String");
    size_t n;
    int i;
    if (llmi_json_is(json, llmi_json_get(json, node, "type"), "Digits")) {
        LLMI_TRY(llmi_bpe_check(r, "pre_tokenizer", node, digits));
        if (llmi_json_get(json, node, "individual_digits") < 0)
            return llmi_bpe_refuse(r, "pre_tokenizer.individual_digits", -1);
        return llmi_patterns_add(&r->t->patterns, LLMI_DIGITS, llmi_digits_pattern,
                                 strlen(llmi_digits_pattern),
                                 llmi_bpe_is_true(json, node, "individual_digits")
                                     ? LLMI_ISOLATED : LLMI_CONTIGUOUS, 0, json->name, r->err);
    }
    LLMI_TRY(llmi_bpe_check(r, "pre_tokenizer", node, split));
    LLMI_TRY(llmi_bpe_check(r, "pre_tokenizer.pattern", object, pattern));
    for (i = 0; i < 5 && !llmi_json_is(json, behavior, llmi_behaviors[i]); i++) {}
    if (i == 5) return llmi_bpe_refuse(r, "pre_tokenizer.behavior", behavior);
    if (text < 0 || json->nodes[object].n_children != 1)
        return llmi_bpe_refuse(r, "pre_tokenizer.pattern.Regex", text);
    r->scratch.size = 0;
    LLMI_TRY(llmi_bpe_string(r, text, &n));
    return llmi_patterns_add(&r->t->patterns, regex >= 0 ? LLMI_REGEX : LLMI_STRING,
                             r->scratch.data, n, (llmi_behavior)i,
                             llmi_bpe_is_true(json, node, "invert"), json->name, r->err);
}

static const llmi_bpe_rule llmi_byte_level[] = {
    {"type", "*"}, {"add_prefix_space", "tf"}, {"trim_offsets", "tf"}, {"use_regex", "tf"},
    {NULL, NULL}};

/* How a text is cut, and whether a space is put before it: Splits and Digits, in Sequences or not,
 * and a ByteLevel behind all of them. */
static llm_result llmi_bpe_read_pre(llmi_bpe_reader *r, int node, int *has_level, int depth) {
    static const llmi_bpe_rule sequence[] = {{"type", "*"}, {"pretokenizers", "*"}, {NULL, NULL}};
    const llmi_json *json = &r->json;
    const int type = llmi_json_get(json, node, "type"),
              prefix = llmi_json_get(json, node, "add_prefix_space");
    int list = llmi_json_get(json, node, "pretokenizers"), regex;
    if (llmi_json_is(json, type, "Sequence") && depth < 20) {
        LLMI_TRY(llmi_bpe_check(r, "pre_tokenizer", node, sequence));
        if (list < 0 || json->nodes[list].type != LLMI_JSON_ARRAY)
            return llmi_bpe_refuse(r, "pre_tokenizer.pretokenizers", list);
        for (list = llmi_json_first(json, list); list >= 0; list = json->nodes[list].next)
            LLMI_TRY(llmi_bpe_read_pre(r, list, has_level, depth + 1));
        return LLM_OK;
    }
    if (!*has_level && (llmi_json_is(json, type, "Split") || llmi_json_is(json, type, "Digits")))
        return llmi_bpe_read_split(r, node);
    if (*has_level || !llmi_json_is(json, type, "ByteLevel"))
        return llmi_bpe_refuse(r, "pre_tokenizer", node);
    LLMI_TRY(llmi_bpe_check(r, "pre_tokenizer", node, llmi_byte_level));
    *has_level = 1;
    r->t->add_prefix_space = llmi_bpe_is_true(json, node, "add_prefix_space");
    if (prefix < 0 || (r->t->add_prefix_space && r->t->patterns.n))        /* of every piece */
        return llmi_bpe_refuse(r, "pre_tokenizer.add_prefix_space", prefix);
    regex = llmi_json_get(json, node, "use_regex");
    return regex < 0 || json->nodes[regex].type == LLMI_JSON_TRUE
               ? llmi_tokenizer_level(r->t, json->name, r->err) : LLM_OK;
}

/* GPT2Tokenizer's add_prefix_space stands in tokenizer_config.json */
static llm_result llmi_bpe_read_prefix(llmi_bpe_reader *r, int node) {
    const llmi_json *config = &r->sides[LLMI_TOKENIZER_CONFIG];
    if (node >= 0 && config->nodes[node].type != LLMI_JSON_TRUE &&
        config->nodes[node].type != LLMI_JSON_FALSE)
        return llmi_bpe_refuse_in(r, config, "add_prefix_space", node);
    r->t->add_prefix_space = node >= 0 && config->nodes[node].type == LLMI_JSON_TRUE;
    return LLM_OK;
}

/* what a byte becomes that the vocabulary has no token for */
static llm_result llmi_bpe_read_unknown(llmi_bpe_reader *r, int unknown) {
    size_t size;
    int kind;
    if (unknown < 0 || r->json.nodes[unknown].type != LLMI_JSON_STRING || r->is_gpt2) return LLM_OK;
    r->scratch.size = 0;
    LLMI_TRY(llmi_bpe_string(r, unknown, &size));
    kind = llmi_chars_to_bytes(r->scratch.data, &size);
    r->t->unknown = llmi_strings_find(&r->t->vocabulary, r->scratch.data, size, kind);
    return LLM_OK;
}

/* is_alone: of memory or of one file; else the files beside it are there */
static llm_result llmi_bpe_read_json(llmi_bpe_reader *r, int is_alone) {
    static const llmi_bpe_rule file[] = {
        {"version", "*"}, {"truncation", "*"}, {"padding", "*"}, {"added_tokens", "*"},
        {"normalizer", "*"}, {"pre_tokenizer", "*"}, {"post_processor", "*"}, {"decoder", "*"},
        {"model", "*"}, {NULL, NULL}};
    static const llmi_bpe_rule bpe[] = {
        {"type", "*"}, {"dropout", "n0"}, {"unk_token", "ns"}, {"continuing_subword_prefix", "ne"},
        {"end_of_word_suffix", "ne"}, {"fuse_unk", "tf"}, {"byte_fallback", "nf"},
        {"ignore_merges", "tf"}, {"vocab", "*"}, {"merges", "*"}, {NULL, NULL}};
    const llmi_json *json = &r->json;
    const int version = llmi_json_get(json, 0, "version");
    const int normalizer = llmi_json_get(json, 0, "normalizer");
    const int none = llmi_json_get(json, normalizer, "normalizers");
    const int pre = llmi_json_get(json, 0, "pre_tokenizer");
    const int post = llmi_json_get(json, 0, "post_processor");
    const int decoder = llmi_bpe_unwrap(json, llmi_json_get(json, 0, "decoder"), "decoders");
    const int added = llmi_json_get(json, 0, "added_tokens");
    const int model = llmi_json_get(json, 0, "model"), type = llmi_json_get(json, model, "type");
    const int vocabulary = llmi_json_get(json, model, "vocab");
    int has_level = 0;
    if (json->nodes[0].type != LLMI_JSON_OBJECT)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: not an object", json->name);
    LLMI_TRY(llmi_bpe_check(r, "file", 0, file));
    if (version >= 0 && !llmi_json_is(json, version, "1.0"))
        return llmi_bpe_refuse(r, "version", version);
    if (normalizer >= 0 && json->nodes[normalizer].type != LLMI_JSON_NULL &&
        (none < 0 || json->nodes[none].type != LLMI_JSON_ARRAY || json->nodes[none].n_children ||
         !llmi_json_is(json, llmi_json_get(json, normalizer, "type"), "Sequence")))
        return llmi_bpe_refuse(r, "normalizer", normalizer);
    LLMI_TRY(llmi_bpe_read_pre(r, pre, &has_level, 0));
    if (!has_level) return llmi_bpe_refuse(r, "pre_tokenizer", pre);
    if (!llmi_json_is(json, llmi_json_get(json, decoder, "type"), "ByteLevel"))
        return llmi_bpe_refuse(r, "decoder", decoder);
    LLMI_TRY(llmi_bpe_check(r, "decoder", decoder, llmi_byte_level));
    if (type >= 0 && !llmi_json_is(json, type, "BPE"))
        return llmi_bpe_refuse(r, "model.type", type);
    LLMI_TRY(llmi_bpe_check(r, "model", model, bpe));
    if (added >= 0 && json->nodes[added].type != LLMI_JSON_ARRAY)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: added_tokens is not an array", json->name);
    r->t->ignore_merges = llmi_bpe_is_true(json, model, "ignore_merges");
    r->t->fuse_unknown = llmi_bpe_is_true(json, model, "fuse_unk");
    if (r->is_gpt2) {
        const int prefix = llmi_side_get(r, LLMI_TOKENIZER_CONFIG, "add_prefix_space");
        llmi_patterns_free(&r->t->patterns);
        LLMI_TRY(llmi_tokenizer_level(r->t, json->name, r->err));
        r->t->ignore_merges = 0;
        LLMI_TRY(llmi_bpe_read_prefix(r, prefix));
    }
    LLMI_TRY(llmi_bpe_read_vocabulary(r, vocabulary));
    LLMI_TRY(llmi_bpe_read_unknown(r, llmi_json_get(json, model, "unk_token")));
    LLMI_TRY(llmi_bpe_read_added(r, 0, is_alone));
    LLMI_TRY(llmi_bpe_read_processors(r, post, llmi_byte_level));
    LLMI_TRY(llmi_bpe_read_merges(r, llmi_json_get(json, model, "merges")));
    return llmi_tokenizer_finish(r->t, r->err);
}

/* vocab.json, whose whole content is the vocabulary, and merges.txt, a merge per line */
static llm_result llmi_bpe_read_pair(llmi_bpe_reader *r, const char *merges_name,
                                     const char *merges, size_t size) {
    const char *name = r->json.name;
    size_t at, n;
    LLMI_TRY(llmi_tokenizer_level(r->t, name, r->err));
    LLMI_TRY(llmi_bpe_read_prefix(
        r, llmi_side_get(r, LLMI_TOKENIZER_CONFIG, "add_prefix_space")));
    LLMI_TRY(llmi_bpe_read_vocabulary(r, 0));
    LLMI_TRY(llmi_bpe_read_added(r, 1, 0));
    r->json.name = merges_name;
    for (at = 0; at < size; at += n + 1) {
        const char *line = merges + at, *end = (const char *)memchr(line, '\n', size - at);
        n = end ? (size_t)(end - line) : size - at;
        if (n >= 8 && !memcmp(line, "#version", 8)) continue;
        r->scratch.size = 0;
        llmi_text_add(&r->scratch, line, n);
        if (r->scratch.failed != LLM_OK) return llmi_bpe_memory(r);
        LLMI_TRY(llmi_bpe_read_line(r, n && line[n - 1] == '\r' ? n - 1 : n));
    }
    r->json.name = name;
    return llmi_tokenizer_finish(r->t, r->err);
}

/* ---- tiktoken.model: lines of a token in base 64, a blank and its rank, its id --------------- */
/* n characters of base 64, in place -> bytes; SIZE_MAX = they are none */
static size_t llmi_base64(char *text, size_t n) {
    uint32_t bits = 0;
    size_t i, out = 0, pad = 0;
    while (pad < 2 && pad < n && text[n - 1 - pad] == '=') pad++;
    for (i = 0; i < n - pad; i++) {
        const char c = text[i];
        const int value = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26
                          : c >= '0' && c <= '9' ? c - '0' + 52
                          : c == '+' ? 62 : c == '/' ? 63 : -1;
        if (value < 0) return SIZE_MAX;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4) text[out++] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    bits &= pad == 2 ? 15 : pad ? 3 : 0;         /* what is left over of the last character */
    return n % 4 || bits ? SIZE_MAX : out;
}

static llm_result llmi_tiktoken_line(llmi_bpe_reader *r, const char *line, size_t n) {
    llm_tokenizer *t = r->t;
    const size_t rank = t->vocabulary.n;
    const char *blank = (const char *)memchr(line, ' ', n);
    size_t i = blank ? (size_t)(blank - line) : n, size, number = 0;
    r->scratch.size = 0;
    llmi_text_add(&r->scratch, line, i);
    if (r->scratch.failed != LLM_OK) return llmi_bpe_memory(r);
    size = i ? llmi_base64(r->scratch.data, i) : 0;
    for (i++; i < n && line[i] >= '0' && line[i] <= '9' && number < INT32_MAX / 16; i++)
        number = 10 * number + (size_t)(line[i] - '0');
    if (!size || size == SIZE_MAX || i != n || line[n - 1] == ' ' || number != rank)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: line %lu is not a token in base 64, a blank "
                         "and %lu", r->json.name, (unsigned long)rank + 1, (unsigned long)rank);
    if (llmi_strings_find(&t->vocabulary, r->scratch.data, size, LLMI_BYTES) >= 0)
        return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: line %lu: the token has been given before",
                         r->json.name, (unsigned long)rank + 1);
    LLMI_TRY(llmi_strings_put(&t->vocabulary, (int32_t)rank, r->scratch.data, size, LLMI_BYTES,
                              r->err));
    if (size == 1) t->byte_tokens[(unsigned char)r->scratch.data[0]] = (int32_t)rank;
    return LLM_OK;
}

/* What a token is merged of follows from the tokens of lower rank: they merge its bytes to two
 * parts. One whose bytes become more parts is found only as a whole word. */
static llm_result llmi_tiktoken_merges(llm_tokenizer *t, llm_error *err) {
    int32_t parts[2];
    llmi_encoder e = llmi_encoder_make(t, parts, 2, err);
    llm_result result = LLM_OK;
    size_t i, size;
    for (i = 0; i < t->vocabulary.n && result == LLM_OK; i++) {
        const char *token = llmi_token_text(t, (int32_t)i, &size);
        if (size == 1) continue;
        e.count = 0;
        result = llmi_encode_word(&e, token, size);
        if (result != LLM_OK) break;
        if (e.count != 2) t->ignore_merges = 1;
        else result = llmi_tokenizer_merge(t, parts[0], parts[1], (int32_t)i, err);
    }
    llmi_encoder_free(&e);
    return result;
}

/* 256 special tokens follow; what added_tokens_decoder does not name is <|reserved_token_N|> */
static llm_result llmi_tiktoken_special(llmi_bpe_reader *r, llmi_collector *c) {
    const size_t n = r->t->vocabulary.n;
    size_t i, k = 0;
    int32_t id;
    if (c->has_decoder) LLMI_TRY(llmi_collect_lists(c));
    for (i = n; i < n + 256; i++) {
        const int is_named = k < c->n && c->items[k].id == (int64_t)i;
        char name[40];
        const char *text = is_named ? c->texts.data + c->items[k].begin : name;
        const size_t size = is_named ? c->items[k].size
                                     : (size_t)snprintf(name, sizeof name, "<|reserved_token_%lu|>",
                                                        (unsigned long)i);
        LLMI_TRY(llmi_bpe_id(r, text, size, &id));
        if (id >= 0 || !size)
            return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%s: special token %lu, %.*s, is empty "
                             "or another token, too", r->json.name, (unsigned long)i,
                             (int)llmi_min(size, 60), text);
        LLMI_TRY(llmi_strings_put(&r->t->vocabulary, (int32_t)i, text, size, LLMI_ADDED, r->err));
        LLMI_TRY(llmi_tokenizer_add(r->t, (int32_t)i, text, size,
                                    is_named ? c->items[k].is : llmi_special, r->err));
        k += (size_t)is_named;
    }
    if (k == c->n) return LLM_OK;
    return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%s: added_tokens_decoder: id %ld is not in "
                     "[%lu, %lu)", r->sides[LLMI_TOKENIZER_CONFIG].name, (long)c->items[k].id,
                     (unsigned long)n, (unsigned long)n + 256);
}
static llm_result llmi_bpe_read_tiktoken(llmi_bpe_reader *r, const char *lines, size_t size) {
    llmi_collector c;
    llm_result result;
    size_t at, n;
    memset(r->t->byte_tokens, 0xFF, sizeof r->t->byte_tokens);
    LLMI_TRY(llmi_patterns_add(&r->t->patterns, LLMI_REGEX, llmi_kimi_pattern,
                               strlen(llmi_kimi_pattern), LLMI_ISOLATED, 0, r->json.name, r->err));
    for (at = 0; at < size; at += n + 1) {
        const char *end = (const char *)memchr(lines + at, '\n', size - at);
        n = end ? (size_t)(end - lines) - at : size - at;
        if (n) LLMI_TRY(llmi_tiktoken_line(r, lines + at, n - (lines[at + n - 1] == '\r')));
    }
    for (n = 0; n < 256; n++)
        if (r->t->byte_tokens[n] < 0)
            return llmi_fail(r->err, LLM_ERR_FORMAT, "%s: no token for byte 0x%02X", r->json.name,
                             (unsigned)n);
    LLMI_TRY(llmi_tiktoken_merges(r->t, r->err));
    memset(&c, 0, sizeof c);
    c.r = r;
    c.texts.allocator = c.sets.bytes.allocator = r->t->allocator;
    c.has_decoder = llmi_side_get(r, LLMI_TOKENIZER_CONFIG, "added_tokens_decoder") >= 0;
    result = llmi_tiktoken_special(r, &c);
    llmi_collector_free(&c);
    return result == LLM_OK ? llmi_tokenizer_finish(r->t, r->err) : result;
}
static const char llmi_tiktoken_name[] = "tiktoken.model";

/* a file as it stands in memory */
typedef struct llmi_bytes { const char *name; const void *data; size_t size; } llmi_bytes;

/* merges NULL: file is a tokenizer.json or, by its name, a tiktoken.model; else it is vocab.json,
 * and merges is merges.txt. sides:
 * the files beside it, data NULL where there is none; NULL: file stands alone */
static llm_tokenizer *llmi_tokenizer_read(const llmi_bytes *file, const llmi_bytes *merges,
                                          const llmi_bytes *sides, int has_ids,
                                          const llm_allocator *allocator, llm_error *err) {
    const int is_tiktoken = llmi_ends_with(file->name, llmi_tiktoken_name);
    llmi_bpe_reader r;
    llm_result result = LLM_OK;
    int i;
    memset(&r, 0, sizeof r);
    r.err = err;
    r.t = llmi_tokenizer_new(allocator, err);
    if (!r.t) return NULL;
    r.scratch.allocator = r.t->allocator;
    r.is_gpt2 = merges != NULL;
    r.has_ids = has_ids;
    if (is_tiktoken) r.json.name = file->name;
    else result = llmi_json_parse(&r.json, (const char *)file->data, file->size, file->name,
                                  r.t->allocator, err);
    for (i = 0; sides && i < LLMI_N_SIDES && result == LLM_OK; i++) {
        if (!sides[i].data) continue;
        result = llmi_json_parse(&r.sides[i], (const char *)sides[i].data, sides[i].size,
                                 sides[i].name, r.t->allocator, err);
        if (result == LLM_OK && r.sides[i].nodes[0].type != LLMI_JSON_OBJECT)
            result = llmi_fail(err, LLM_ERR_FORMAT, "%s: not an object", r.sides[i].name);
    }
    if (result == LLM_OK && sides && !is_tiktoken) result = llmi_bpe_class(&r, merges != NULL);
    if (result == LLM_OK && !is_tiktoken) result = llmi_bpe_check_map(&r);
    if (result == LLM_OK)
        result = is_tiktoken ? llmi_bpe_read_tiktoken(&r, (const char *)file->data, file->size)
                 : merges    ? llmi_bpe_read_pair(&r, merges->name, (const char *)merges->data,
                                                  merges->size)
                             : llmi_bpe_read_json(&r, !sides);
    for (i = 0; i < LLMI_N_SIDES; i++) llmi_json_free(&r.sides[i]);
    llmi_json_free(&r.json);
    llmi_text_free(&r.scratch);
    if (result == LLM_OK) return r.t;
    llm_tokenizer_free(r.t);
    return NULL;
}

static const char *const llmi_no_yes[2] = {"false", "true"};

/* a Split or Digits, and a comma */
static void llmi_bpe_write_split(llmi_text *text, llmi_split_type type, const char *pattern,
                                 size_t n, llmi_behavior behavior, int invert) {
    if (type == LLMI_DIGITS) {
        llmi_text_format(text, "    {\"type\": \"Digits\", \"individual_digits\": %s},\n",
                         llmi_no_yes[behavior == LLMI_ISOLATED]);
        return;
    }
    llmi_text_format(text, "    {\"type\": \"Split\", \"pattern\": {\"%s\": ",
                     type == LLMI_REGEX ? "Regex" : "String");
    llmi_text_string(text, pattern, n);
    llmi_text_format(text, "}, \"behavior\": \"%s\", \"invert\": %s},\n",
                     llmi_behaviors[behavior], llmi_no_yes[invert]);
}
static void llmi_bpe_write_level(llmi_text *text, int add_prefix_space, int use_regex) {
    llmi_text_format(text, "{\"type\": \"ByteLevel\", \"add_prefix_space\": %s, "
                     "\"trim_offsets\": true, \"use_regex\": %s}",
                     llmi_no_yes[add_prefix_space], llmi_no_yes[use_regex]);
}

/* ---- a GGUF file's tokenizer: its keys as the text of a tokenizer.json ----------------------- */
#define LLMI_LLAMA(numbers) LLMI_CASELESS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers                \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLMI_DEEPSEEK(newlines)                                                                    \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^" newlines "\\p{L}\\p{P}\\p{S}]?"     \
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[" newlines "]*|\\s*[" newlines "]+|\\s+(?!\\S)|\\s+"
#define LLMI_KANA "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+"
#define LLMI_CJK "[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+"
#define LLMI_LETTERS_LLM \
    "\\s?[A-Za-z\xC2\xB5\xC3\x80-\xC3\x96\xC3\x98-\xC3\xB6\xC3\xB8-\xC6\xBA\xC6\xBC-" \
    "\xC6\xBF\xC7\x84-\xCA\x93\xCA\x95-\xCA\xAF\xCD\xB0-\xCD\xB3\xCD\xB6\xCD\xB7\xCD\xBB-" \
    "\xCD\xBD\xCD\xBF\xCE\x86\xCE\x88-\xCE\x8A\xCE\x8C\xCE\x8E-\xCE\xA1\xCE\xA3-\xCF\xB5" \
    "\xCF\xB7-\xD2\x81\xD2\x8A-\xD4\xAF\xD4\xB1-\xD5\x96\xE1\x82\xA0-\xE1\x83\x85" \
    "\xE1\x8E\xA0-\xE1\x8F\xB5\xE1\x8F\xB8-\xE1\x8F\xBD\xE1\xB2\x90-\xE1\xB2\xBA" \
    "\xE1\xB2\xBD-\xE1\xB2\xBF\xE1\xB4\x80-\xE1\xB4\xAB\xE1\xB5\xAB-\xE1\xB5\xB7" \
    "\xE1\xB5\xB9-\xE1\xB6\x9A\xE1\xB8\x80-\xE1\xBC\x95\xE1\xBC\x98-\xE1\xBC\x9D" \
    "\xE1\xBC\xA0-\xE1\xBD\x85\xE1\xBD\x88-\xE1\xBD\x8D\xE1\xBD\x90-\xE1\xBD\x97" \
    "\xE1\xBD\x99\xE1\xBD\x9B\xE1\xBD\x9D\xE1\xBD\x9F-\xE1\xBD\xBD\xE1\xBE\x80-\xE1\xBE\xB4" \
    "\xE1\xBE\xB6-\xE1\xBE\xBC\xE1\xBE\xBE\xE1\xBF\x82-\xE1\xBF\x84\xE1\xBF\x86-" \
    "\xE1\xBF\x8C\xE1\xBF\x90-\xE1\xBF\x93\xE1\xBF\x96-\xE1\xBF\x9B\xE1\xBF\xA0-" \
    "\xE1\xBF\xAC\xE1\xBF\xB2-\xE1\xBF\xB4\xE1\xBF\xB6-\xE1\xBF\xBC\xE2\x84\x82\xE2\x84\x87" \
    "\xE2\x84\x8A-\xE2\x84\x93\xE2\x84\x95\xE2\x84\x99-\xE2\x84\x9D\xE2\x84\xA4\xE2\x84\xA6" \
    "\xE2\x84\xA8\xE2\x84\xAA-\xE2\x84\xAD\xE2\x84\xAF-\xE2\x84\xB4\xE2\x84\xB9\xE2\x84\xBC" \
    "-\xE2\x84\xBF\xE2\x85\x85-\xE2\x85\x89\xE2\x85\x8E\xE2\x86\x83\xE2\x86\x84\xE2\xB0\x80" \
    "-\xE2\xB1\xBB\xE2\xB1\xBE-\xE2\xB3\xA4\xE2\xB3\xAB-\xE2\xB3\xAE\xE2\xB3\xB2" \
    "\xE2\xB3\xB3\xEA\x99\x80-\xEA\x99\xAD\xEA\x9A\x80-\xEA\x9A\x9B\xEA\x9C\xA2-" \
    "\xEA\x9D\xAF\xEA\x9D\xB1-\xEA\x9E\x87\xEA\x9E\x8B-\xEA\x9E\x8E\xEA\xAD\xB0-" \
    "\xEA\xAE\xBF\xEF\xAC\x80-\xEF\xAC\x86\xEF\xAC\x93-\xEF\xAC\x97\xEF\xBC\xA1-" \
    "\xEF\xBC\xBA\xEF\xBD\x81-\xEF\xBD\x9A\xF0\x90\x90\x80-\xF0\x90\x91\x8F\xF0\x90\x92\xB0" \
    "-\xF0\x90\x93\x93\xF0\x90\x93\x98-\xF0\x90\x93\xBB\xF0\x90\xB2\x80-\xF0\x90\xB2\xB2" \
    "\xF0\x90\xB3\x80-\xF0\x90\xB3\xB2\xF0\x91\xA2\xA0-\xF0\x91\xA3\x9F\xF0\x9E\xA4\x80-" \
    "\xF0\x9E\xA5\x83]+"
#define LLMI_MARKS_LLM \
    "\\s?[!-/:-~\xEF\xBC\x81-\xEF\xBC\x8F\xEF\xBC\x9A-\xEF\xBD\x9E\xE2\x80\x98-\xE2\x80\x9F" \
    "\xE3\x80\x80-\xE3\x80\x82]+"
static const char llmi_level[] = "";             /* in place of GPT-2's, last */

/* What llama.cpp calls the patterns of tokenizers; of several names the first is written. Patterns
 * that are written in more than one way are in more than one row: the first is what is read. */
static const struct { const char *names; int ignore_merges; const char *patterns[7];
} llmi_gguf_pre[] = {
    {"gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
     "exaone4 mpt olmo jais trillion granite-docling", 0, {llmi_level}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", 0,
     {"\\p{N}{1,3}", LLMI_KANA, LLMI_DEEPSEEK("\r\n")}},
    {"deepseek-v3", 0, {"\\p{N}{1,3}", LLMI_KANA, LLMI_DEEPSEEK("\\r\\n")}},
    {"deepseek-llm", 0, {"[\r\n]", LLMI_LETTERS_LLM, LLMI_MARKS_LLM, "\\s+$", LLMI_CJK, "\\p{N}+"}},
    {"deepseek-llm", 0, {"[\r\n]", LLMI_LETTERS_LLM, LLMI_MARKS_LLM, "\\s+$", LLMI_CJK,
                         llmi_digits_pattern}},
    {"deepseek-coder", 0, {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", LLMI_CJK, llmi_digits_pattern}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", 1,
     {LLMI_LLAMA("\\p{N}{1,3}")}},
    {"smaug-bpe dbrx", 0, {LLMI_LLAMA("\\p{N}{1,3}")}},
    {"qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", 0,
     {LLMI_LLAMA("\\p{N}")}},
    {"gpt-4o llama4 kanana2 talkie minimax-m2", 0, {LLMI_CASED("", "[\\r\\n/]")}},
    {"kimi-k2", 0, {llmi_kimi_pattern}},
    {"starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", 0,
     {llmi_digits_pattern, llmi_level}},
    {"default", 0, {"[\\p{P}\\$\\+<=>\\^~\\|]+", llmi_gpt2_pattern, "\\p{N}+",
                    "[0-9][0-9][0-9]"}}};

static size_t llmi_gguf_n_patterns(size_t pre) {
    size_t n = 0;
    while (n < 7 && llmi_gguf_pre[pre].patterns[n]) n++;
    return n;
}
static llmi_split_type llmi_gguf_split_type(const char *pattern) {
    return pattern == llmi_level ? LLMI_LEVEL : pattern == llmi_digits_pattern ? LLMI_DIGITS
                                                                               : LLMI_REGEX;
}
#ifndef LLM_NO_STDIO
/* the row whose patterns are the tokenizer's; past the last: none */
static size_t llmi_gguf_pre_of(const llm_tokenizer *t) {
    size_t pre, i, n;
    for (pre = 0; pre < LLMI_COUNT(llmi_gguf_pre); pre++) {
        n = llmi_gguf_n_patterns(pre);
        if (n != t->patterns.n || t->ignore_merges != llmi_gguf_pre[pre].ignore_merges) continue;
        for (i = 0; i < n; i++) {
            const char *text = llmi_gguf_pre[pre].patterns[i];
            const llmi_pattern *p = &t->patterns.items[i];
            if (p->type != llmi_gguf_split_type(text) || p->behavior != LLMI_ISOLATED ||
                p->invert || (p->type == LLMI_REGEX && (p->text.size != strlen(text) ||
                                                        memcmp(p->text.data, text, p->text.size))))
                break;
        }
        if (i == n) break;
    }
    return pre;
}
#endif
/* the first row that has the name; past the last: none */
static size_t llmi_gguf_pre_named(const char *name) {
    const size_t n = strlen(name);
    const char *list, *at;
    size_t pre;
    for (pre = 0; n && !strchr(name, ' ') && pre < LLMI_COUNT(llmi_gguf_pre); pre++) {
        list = llmi_gguf_pre[pre].names;
        for (at = strstr(list, name); at; at = strstr(at + 1, name))
            if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return pre;
    }
    return LLMI_COUNT(llmi_gguf_pre);
}

/* the next string of an array, after what text has */
static llm_result llmi_gguf_next_string(llmi_gguf *g, llmi_text *text, llm_error *err) {
    char part[1024];
    uint64_t n;
    LLMI_TRY(llmi_gguf_number(g, 8, &n, err));
    if (n > g->source.size - g->at) return llmi_gguf_skip(g, n, "a string", err);
    while (n) {
        const size_t count = (size_t)llmi_min64(n, sizeof part);
        LLMI_TRY(llmi_gguf_next(g, part, count, err));
        llmi_text_add(text, part, count);
        n -= count;
    }
    return LLM_OK;
}
/* the same in place of it, which has to be UTF-8 */
static llm_result llmi_gguf_next_text(llmi_gguf *g, llmi_text *text, const char *what, uint64_t i,
                                      llm_error *err) {
    size_t at, size;
    uint32_t code;
    text->size = 0;
    LLMI_TRY(llmi_gguf_next_string(g, text, err));
    for (at = 0; at < text->size && text->failed == LLM_OK; at += size) {
        size = llmi_utf8_decode(text->data + at, text->size - at, &code);
        if (!size)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: %s %llu is not UTF-8", g->source.name,
                             what, (unsigned long long)i);
    }
    return LLM_OK;
}
typedef enum llmi_token_type { LLMI_NORMAL = 1, LLMI_CONTROL = 3, LLMI_USER_DEFINED, LLMI_UNUSED
} llmi_token_type;

typedef struct llmi_gguf_tokens {
    llmi_gguf *g;
    const llmi_gguf_key *tokens, *merges;
    unsigned char *types;              /* of each token */
    llmi_text one;                     /* a token's text */
    llmi_text *json;
    int64_t ends[2];                   /* what is put before and after texts; -1: nothing */
} llmi_gguf_tokens;

/* the tokens that are added (or those that are not), as lines of JSON */
static llm_result llmi_gguf_write_tokens(llmi_gguf_tokens *r, int added, llm_error *err) {
    const char *comma = "";
    uint64_t i, at = r->tokens->at;
    for (i = 0; i < r->tokens->count; i++) {
        const unsigned char type = r->types[i];
        r->g->at = at;
        LLMI_TRY(llmi_gguf_next_text(r->g, &r->one, "token", i, err));
        at = r->g->at;
        if (type == LLMI_UNUSED || added != (type == LLMI_CONTROL || type == LLMI_USER_DEFINED))
            continue;
        llmi_text_format(r->json, added ? "%s\n{\"content\": " : "%s\n", comma);
        llmi_text_string(r->json, r->one.data ? r->one.data : "", r->one.size);
        if (added)
            llmi_text_format(r->json, ", \"id\": %llu, \"single_word\": false, \"lstrip\": false, "
                             "\"rstrip\": false, \"normalized\": false, \"special\": %s}",
                             (unsigned long long)i, type == LLMI_CONTROL ? "true" : "false");
        else llmi_text_format(r->json, ": %llu", (unsigned long long)i);
        comma = ",";
    }
    return r->json->failed == LLM_OK && r->one.failed == LLM_OK
               ? LLM_OK : llmi_fail(err, LLM_ERR_MEMORY, "out of memory: a GGUF file's tokens");
}
static void llmi_gguf_write_template(llmi_gguf_tokens *r) {
    int i;
    llmi_text_format(r->json, "{\"type\": \"TemplateProcessing\", \"single\": [");
    if (r->ends[0] >= 0)
        llmi_text_format(r->json, "{\"SpecialToken\": {\"id\": \"0\", \"type_id\": 0}}, ");
    llmi_text_format(r->json, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}");
    if (r->ends[1] >= 0)
        llmi_text_format(r->json, ", {\"SpecialToken\": {\"id\": \"1\", \"type_id\": 0}}");
    llmi_text_format(r->json, "], \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                              "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], "
                              "\"special_tokens\": {");
    for (i = 0; i < 2; i++)
        if (r->ends[i] >= 0)
            llmi_text_format(r->json, "%s\"%d\": {\"id\": \"%d\", \"ids\": [%lld], \"tokens\": "
                             "[\"%d\"]}", i && r->ends[0] >= 0 ? ", " : "", i, i,
                             (long long)r->ends[i], i);
    llmi_text_format(r->json, "}}");
}
static void llmi_gguf_write_pre(llmi_text *json, size_t pre, int add_prefix_space) {
    int level = 0;
    size_t i;
    llmi_text_format(json, "{\"type\": \"Sequence\", \"pretokenizers\": [\n");
    for (i = 0; i < llmi_gguf_n_patterns(pre); i++) {
        const char *pattern = llmi_gguf_pre[pre].patterns[i];
        level = pattern == llmi_level;
        if (!level)
            llmi_bpe_write_split(json, llmi_gguf_split_type(pattern), pattern, strlen(pattern),
                                 LLMI_ISOLATED, 0);
    }
    llmi_bpe_write_level(json, add_prefix_space, level);
    llmi_text_format(json, "]}");
}
/* the ids of what is put around texts */
static llm_result llmi_gguf_read_ends(llmi_gguf_tokens *r, llm_error *err) {
    static const char *const flags[] = {"tokenizer.ggml.add_bos_token",
                                        "tokenizer.ggml.add_eos_token"};
    static const char *const ids[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"};
    double value;
    int e;
    for (e = 0; e < 2; e++) {
        r->ends[e] = -1;
        if (llmi_gguf_value(r->g, llmi_gguf_find(r->g, flags[e]), &value, err) && value != 0.0 &&
            llmi_gguf_value(r->g, llmi_gguf_find(r->g, ids[e]), &value, err)) {
            if (!(value >= 0.0 && value < (double)r->tokens->count))
                return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: %s %g is not in [0, %llu)",
                                 r->g->source.name, ids[e], value,
                                 (unsigned long long)r->tokens->count);
            r->ends[e] = (int64_t)value;
        }
    }
    return LLM_OK;
}
static llm_result llmi_gguf_tokenizer_json(llmi_gguf_tokens *r, llm_error *err) {
    const llmi_gguf_key *pre = llmi_gguf_find(r->g, "tokenizer.ggml.pre");
    const int there = pre && pre->type == LLMI_GGUF_STRING;
    const size_t n = there ? (size_t)llmi_min64(pre->count, 40) : 0;
    double value;
    char name[41];
    size_t p;
    uint64_t i;
    int prefix;
    r->g->at = pre ? pre->at : 0;
    if (n) LLMI_TRY(llmi_gguf_next(r->g, name, n, err));
    name[n] = 0;
    p = llmi_gguf_pre_named(name);
    if (p == LLMI_COUNT(llmi_gguf_pre))
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.100s: tokenizer.ggml.pre is \"%s\", which is "
                         "not supported", r->g->source.name, name);
    prefix = llmi_gguf_value(r->g, llmi_gguf_find(r->g, "tokenizer.ggml.add_space_prefix"), &value,
                             err) && value != 0.0;
    LLMI_TRY(llmi_gguf_read_ends(r, err));
    LLMI_TRY(llmi_gguf_no_wrong(r->g, err));
    llmi_text_format(r->json, "{\"normalizer\": null, \"pre_tokenizer\": ");
    llmi_gguf_write_pre(r->json, p, prefix);
    llmi_text_format(r->json, ", \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
                              "true, \"trim_offsets\": true, \"use_regex\": true}, "
                              "\"post_processor\": ");
    if (r->ends[0] >= 0 || r->ends[1] >= 0) llmi_gguf_write_template(r);
    else llmi_text_format(r->json, "null");
    llmi_text_format(r->json, ", \"added_tokens\": [");
    LLMI_TRY(llmi_gguf_write_tokens(r, 1, err));
    llmi_text_format(r->json, "], \"model\": {\"type\": \"BPE\", \"ignore_merges\": %s, "
                              "\"vocab\": {", llmi_no_yes[llmi_gguf_pre[p].ignore_merges]);
    LLMI_TRY(llmi_gguf_write_tokens(r, 0, err));
    llmi_text_format(r->json, "}, \"merges\": [");
    r->g->at = r->merges->at;
    for (i = 0; i < r->merges->count; i++) {
        LLMI_TRY(llmi_gguf_next_text(r->g, &r->one, "merge", i, err));
        llmi_text_format(r->json, i ? ",\n" : "\n");
        llmi_text_string(r->json, r->one.data ? r->one.data : "", r->one.size);
    }
    llmi_text_format(r->json, "]}}");
    return r->json->failed == LLM_OK && r->one.failed == LLM_OK
               ? LLM_OK : llmi_fail(err, LLM_ERR_MEMORY, "out of memory: a GGUF file's merges");
}
static llm_result llmi_gguf_token_types(llmi_gguf_tokens *r, llm_error *err) {
    const llmi_gguf_key *types = llmi_gguf_find(r->g, "tokenizer.ggml.token_type");
    const size_t n = (size_t)r->tokens->count;
    uint64_t value;
    size_t i;
    r->types = (unsigned char *)llmi_alloc(r->g->allocator, llmi_add(n, 1), "types of tokens", err);
    if (!r->types) return LLM_ERR_MEMORY;
    memset(r->types, LLMI_NORMAL, n);
    if (!types) return LLM_OK;
    if (types->type != LLMI_GGUF_ARRAY || types->count != n ||
        (types->item != LLMI_GGUF_I32 && types->item != LLMI_GGUF_U32))
        return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: tokenizer.ggml.token_type is no array of "
                         "%llu numbers of 32 bits", r->g->source.name, (unsigned long long)n);
    r->g->at = types->at;
    for (i = 0; i < n; i++) {
        LLMI_TRY(llmi_gguf_number(r->g, 4, &value, err));
        r->types[i] = (unsigned char)llmi_min64(value, 99);
    }
    return LLM_OK;
}
/* g is parsed */
static llm_tokenizer *llmi_gguf_tokenizer(llmi_gguf *g, llm_error *err) {
    llm_tokenizer *t = NULL;
    llmi_gguf_tokens r;
    llmi_text json;
    llmi_bytes file;
    llm_result result = LLM_OK;
    memset(&r, 0, sizeof r);
    memset(&json, 0, sizeof json);
    json.allocator = r.one.allocator = g->allocator;
    r.g = g;
    r.json = &json;
    r.tokens = llmi_gguf_find(g, "tokenizer.ggml.tokens");
    r.merges = llmi_gguf_find(g, "tokenizer.ggml.merges");
    if (!llmi_gguf_is(g, llmi_gguf_find(g, "tokenizer.ggml.model"), "gpt2"))
        result = llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.120s: only tokenizer.ggml.model gpt2 "
                           "(byte-level BPE) is supported", g->source.name);
    else if (!r.tokens || !r.merges || r.tokens->type != LLMI_GGUF_ARRAY ||
             r.tokens->item != LLMI_GGUF_STRING || r.merges->type != LLMI_GGUF_ARRAY ||
             r.merges->item != LLMI_GGUF_STRING || r.tokens->count > INT_MAX / 2)
        result = llmi_fail(err, LLM_ERR_FORMAT, "%.120s: tokenizer.ggml.tokens or merges is no "
                           "array of strings", g->source.name);
    if (result == LLM_OK) result = llmi_gguf_token_types(&r, err);
    if (result == LLM_OK) result = llmi_gguf_tokenizer_json(&r, err);
    file.name = g->source.name;
    file.data = json.data;
    file.size = json.size;
    if (result == LLM_OK) t = llmi_tokenizer_read(&file, NULL, NULL, 1, g->allocator, err);
    llmi_release(g->allocator, r.types);
    llmi_text_free(&r.one);
    llmi_text_free(&json);
    return t;
}

LLM_API llm_tokenizer *llm_tokenizer_load_memory(const void *json, size_t size,
                                                 const llm_allocator *allocator, llm_error *err) {
    llmi_bytes file;
    if (!json && size) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "llm_tokenizer_load_memory: json is NULL");
        return NULL;
    }
    if (size >= 4 && !memcmp(json, "GGUF", 4)) {
        llm_tokenizer *t = NULL;
        llmi_gguf *g = llmi_gguf_new("GGUF in memory", allocator, err);
        if (!g) return NULL;
        g->source.memory = (const unsigned char *)json;
        g->source.size = size;
        if (llmi_gguf_parse(g, err) == LLM_OK) t = llmi_gguf_tokenizer(g, err);
        llmi_gguf_free(g);
        return t;
    }
    file.name = "tokenizer.json";
    file.data = json;
    file.size = size;
    return llmi_tokenizer_read(&file, NULL, NULL, 0, allocator, err);
}

#ifndef LLM_NO_STDIO
/* name is empty where there is no such file; data is the caller's to release */
static llm_result llmi_tokenizer_file(llmi_bytes *file, void **data, char name[LLMI_PATH],
                                      const char *directory, const char *which,
                                      const llm_allocator *allocator, llm_error *err) {
    LLMI_TRY(llmi_path_join(name, LLMI_PATH, directory, which, err));
    if (llmi_kind_of(name) == LLMI_NO_FILE) name[0] = 0;
    if (!name[0]) return LLM_OK;
    LLMI_TRY(llmi_file_read(name, data, &file->size, allocator, err));
    file->name = name;
    file->data = *data;
    return LLM_OK;
}

/* tokenizer.json or vocab.json, merges.txt, and what stands beside them */
enum { LLMI_N_TOKENIZER_FILES = 2 + LLMI_N_SIDES };
typedef struct llmi_tokenizer_files {
    llmi_bytes files[LLMI_N_TOKENIZER_FILES];
    void *data[LLMI_N_TOKENIZER_FILES];
    char names[LLMI_N_TOKENIZER_FILES][LLMI_PATH];
} llmi_tokenizer_files;

static llm_result llmi_tokenizer_sides(llmi_tokenizer_files *f, const char *directory,
                                       const llm_allocator *allocator, llm_error *err) {
    int i;
    for (i = 0; i < LLMI_N_SIDES; i++)
        LLMI_TRY(llmi_tokenizer_file(&f->files[2 + i], &f->data[2 + i], f->names[2 + i], directory,
                                     llmi_side_names[i], allocator, err));
    return LLM_OK;
}

static llm_result llmi_tokenizer_open(llmi_tokenizer_files *f, const char *path, int *is_alone,
                                      int *is_pair, const llm_allocator *allocator,
                                      llm_error *err) {
    char directory[LLMI_PATH];
    *is_alone = llmi_kind_of(path) != LLMI_DIRECTORY;
    if (llmi_kind_of(path) == LLMI_FILE && llmi_ends_with(path, llmi_tiktoken_name)) {
        *is_alone = 0;                           /* it is read with what is beside it */
        LLMI_TRY(llmi_tokenizer_file(&f->files[0], &f->data[0], f->names[0], "", path, allocator,
                                     err));
        LLMI_TRY(llmi_path_join(directory, sizeof directory, "", path, err));
        directory[strlen(path) - strlen(llmi_tiktoken_name)] = 0;
        return llmi_tokenizer_sides(f, directory, allocator, err);
    }
    LLMI_TRY(llmi_tokenizer_file(&f->files[0], &f->data[0], f->names[0], path, "tokenizer.json",
                                 allocator, err));
    *is_pair = !f->names[0][0];
    if (*is_pair)
        LLMI_TRY(llmi_tokenizer_file(&f->files[0], &f->data[0], f->names[0], path, "vocab.json",
                                     allocator, err));
    if (!f->names[0][0]) {
        *is_pair = 0;
        LLMI_TRY(llmi_tokenizer_file(&f->files[0], &f->data[0], f->names[0], path,
                                     llmi_tiktoken_name, allocator, err));
    }
    if (f->names[0][0]) *is_alone = 0;         /* a directory, also where the system does not say */
    if (*is_alone) {
        *is_pair = 0;
        LLMI_TRY(llmi_tokenizer_file(&f->files[0], &f->data[0], f->names[0], "", path, allocator,
                                     err));
        return f->data[0] ? LLM_OK
                          : llmi_fail(err, LLM_ERR_IO, "%.120s: cannot open: there is no such file",
                                      llmi_path_end(path, 120));
    }
    if (!f->names[0][0])
        return llmi_fail(err, LLM_ERR_IO, "%.120s: neither tokenizer.json nor vocab.json nor "
                         "tiktoken.model is in it", llmi_path_end(path, 120));
    if (*is_pair)
        LLMI_TRY(llmi_tokenizer_file(&f->files[1], &f->data[1], f->names[1], path, "merges.txt",
                                     allocator, err));
    if (*is_pair && !f->names[1][0])
        return llmi_fail(err, LLM_ERR_IO, "%.120s: vocab.json is in it, but no merges.txt",
                         llmi_path_end(path, 120));
    return llmi_tokenizer_sides(f, path, allocator, err);
}

LLM_API llm_tokenizer *llm_tokenizer_load(const char *path, const llm_allocator *allocator,
                                          llm_error *err) {
    llmi_tokenizer_files *f;
    llm_tokenizer *t = NULL;
    int is_alone = 0, is_pair = 0, i;
    if (!path) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "llm_tokenizer_load: path is NULL");
        return NULL;
    }
    if (llmi_ends_with(path, ".gguf")) {
        llmi_gguf *g = llmi_gguf_open(path, allocator, err);
        if (g) t = llmi_gguf_tokenizer(g, err);
        llmi_gguf_free(g);
        return t;
    }
    f = (llmi_tokenizer_files *)llmi_alloc(allocator, sizeof *f, "files of a tokenizer", err);
    if (!f) return NULL;
    memset(f, 0, sizeof *f);
    if (llmi_tokenizer_open(f, path, &is_alone, &is_pair, allocator, err) == LLM_OK)
        t = llmi_tokenizer_read(&f->files[0], is_pair ? &f->files[1] : NULL,
                                is_alone ? NULL : &f->files[2], 0, allocator, err);
    for (i = 0; i < LLMI_N_TOKENIZER_FILES; i++) llmi_release(allocator, f->data[i]);
    llmi_release(allocator, f);
    return t;
}

/* a token as files write it: bytes as characters, in quotes */
static void llmi_bpe_write_token(llmi_text *text, const llm_tokenizer *t, int32_t id) {
    size_t i, n;
    const char *bytes = llmi_token_text(t, id, &n);
    char character[4];
    if (t->vocabulary.items[id].kind != LLMI_BYTES) {
        llmi_text_string(text, bytes, n);
        return;
    }
    llmi_text_add(text, "\"", 1);
    for (i = 0; i < n; i++) {
        if (bytes[i] == '"' || bytes[i] == '\\') llmi_text_add(text, "\\", 1);
        llmi_text_add(text, character,
                      llmi_utf8_encode(character, llmi_byte_to_char((unsigned char)bytes[i])));
    }
    llmi_text_add(text, "\"", 1);
}

static void llmi_bpe_write_pre(llmi_text *text, const llm_tokenizer *t) {
    const llmi_pattern *items = t->patterns.items;
    const int level = t->patterns.n && items[t->patterns.n - 1].type == LLMI_LEVEL;
    const size_t n = t->patterns.n - (size_t)level;
    size_t i;
    if (n) llmi_text_format(text, "{\"type\": \"Sequence\", \"pretokenizers\": [\n");
    for (i = 0; i < n; i++)
        llmi_bpe_write_split(text, items[i].type, items[i].text.data, items[i].text.size,
                             items[i].behavior, items[i].invert);
    llmi_text_format(text, n ? "    " : "");
    llmi_bpe_write_level(text, t->add_prefix_space, level);
    llmi_text_format(text, n ? "\n  ]},\n" : ",\n");
}

/* the post_processor: ByteLevel, which changes no token, and the template, if there is one */
static void llmi_bpe_write_template(llmi_text *text, const llm_tokenizer *t,
                                    const char *add_prefix_space) {
    const int n = t->n_before + t->n_after, with = n > 0;
    int i;
    if (with) llmi_text_format(text, "{\"type\": \"Sequence\", \"processors\": [\n    ");
    llmi_text_format(text, "{\"type\": \"ByteLevel\", \"add_prefix_space\": %s, \"trim_offsets\": "
                           "false, \"use_regex\": true}", add_prefix_space);
    if (with) {
        llmi_text_format(text, ",\n    {\"type\": \"TemplateProcessing\", \"single\": [");
        for (i = 0; i <= n; i++) {
            if (i == t->n_before)
                llmi_text_format(text, "%s{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}",
                                 i ? ", " : "");
            if (i == n) break;
            llmi_text_format(text, "%s{\"SpecialToken\": {\"id\": \"%d\", \"type_id\": 0}}",
                             i || t->n_before == 0 ? ", " : "", i);
        }
        llmi_text_format(text, "], \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                               "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], "
                               "\"special_tokens\": {");
        for (i = 0; i < n; i++) {
            const int32_t id = i < t->n_before ? t->before[i] : t->after[i - t->n_before];
            const llmi_string *item = &t->vocabulary.items[id];
            llmi_text_format(text, "%s\"%d\": {\"id\": \"%d\", \"ids\": [%ld], \"tokens\": [",
                             i ? ", " : "", i, i, (long)id);
            if (item->added)
                llmi_text_string(text, t->added[item->added - 1].content,
                                 t->added[item->added - 1].size);
            else llmi_bpe_write_token(text, t, id);
            llmi_text_format(text, "]}");
        }
        llmi_text_format(text, "}}\n  ]}");
    }
    llmi_text_format(text, ",\n");
}

/* Whether the added tokens' ids follow those of the vocabulary without a gap. Such ids a reader
 * gives them by itself; others it finds only if they stand in the written vocabulary, too. */
static int llmi_bpe_ids_follow(const llm_tokenizer *t) {
    size_t next = 0, i;
    for (i = 0; i < t->vocabulary.n; i++)
        next += t->vocabulary.items[i].kind == LLMI_BYTES ||
                t->vocabulary.items[i].kind == LLMI_OPAQUE;
    for (i = 0; i < t->vocabulary.n; i++)
        if (t->vocabulary.items[i].kind == LLMI_ADDED && i != next++) return 0;
    return 1;
}

static void llmi_bpe_write_added(llmi_text *text, const llm_tokenizer *t) {
    const char *const *no_yes = llmi_no_yes;
    const char *comma = "";
    size_t i;
    for (i = 0; i < t->vocabulary.n; i++) {                      /* in the order of ids */
        const llmi_added *added;
        if (!t->vocabulary.items[i].added) continue;
        added = &t->added[t->vocabulary.items[i].added - 1];
        llmi_text_format(text, "%s\n    {\"id\": %lu, \"content\": ", comma, (unsigned long)i);
        llmi_text_string(text, added->content, added->size);
        llmi_text_format(
            text,
            ", \"single_word\": %s, \"lstrip\": %s, \"rstrip\": %s, \"normalized\": %s, "
            "\"special\": %s}",
            no_yes[added->is.single_word], no_yes[added->is.lstrip], no_yes[added->is.rstrip],
            no_yes[added->is.normalized], no_yes[added->is.special]);
        comma = ",";
    }
}
static void llmi_bpe_write(llmi_text *text, const llm_tokenizer *t) {
    const int with_added = !llmi_bpe_ids_follow(t);
    const char *comma = "";
    size_t i;
    llmi_text_format(text, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": "
                           "null,\n  \"added_tokens\": [");
    llmi_bpe_write_added(text, t);
    llmi_text_format(text, "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": ");
    llmi_bpe_write_pre(text, t);
    llmi_text_format(text, "  \"post_processor\": ");
    llmi_bpe_write_template(text, t, llmi_no_yes[t->add_prefix_space]);
    llmi_text_format(text, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                     "\"trim_offsets\": true, \"use_regex\": true},\n");
    llmi_text_format(
        text,
        "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ");
    if (t->unknown < 0) llmi_text_format(text, "null");
    else llmi_bpe_write_token(text, t, t->unknown);
    llmi_text_format(
        text,
        ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
        "    \"fuse_unk\": %s,\n    \"byte_fallback\": false,\n    \"ignore_merges\": %s,\n"
        "    \"vocab\": {",
        llmi_no_yes[t->fuse_unknown], llmi_no_yes[t->ignore_merges]);
    for (comma = "", i = 0; i < t->vocabulary.n; i++) {
        if (t->vocabulary.items[i].kind == LLMI_ABSENT ||
            (t->vocabulary.items[i].kind == LLMI_ADDED && !with_added))
            continue;
        llmi_text_format(text, "%s\n      ", comma);
        llmi_bpe_write_token(text, t, (int32_t)i);
        llmi_text_format(text, ": %lu", (unsigned long)i);
        comma = ",";
    }
    llmi_text_format(text, "\n    },\n    \"merges\": [");
    for (comma = "", i = 0; i < t->n_merges; i++) {
        llmi_text_format(text, "%s\n      [", comma);
        llmi_bpe_write_token(text, t, t->merges[i].a);
        llmi_text_add(text, ", ", 2);
        llmi_bpe_write_token(text, t, t->merges[i].b);
        llmi_text_add(text, "]", 1);
        comma = ",";
    }
    llmi_text_format(text, "\n    ]\n  }\n}\n");
}

LLM_API llm_result llm_tokenizer_save(const llm_tokenizer *tokenizer, const char *path,
                                      llm_error *err) {
    char name[LLMI_PATH];
    llmi_text text;
    llm_result result;
    const size_t n = path ? strlen(path) : 0;
    if (!tokenizer || !path)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_tokenizer_save: NULL for tokenizer or path");
    if (n >= 5 && !strcmp(path + n - 5, ".json")) {
        if (n >= sizeof name)
            return llmi_fail(err, LLM_ERR_ARGUMENT, "llm_tokenizer_save: path of %lu bytes",
                             (unsigned long)n);
        memcpy(name, path, n + 1);
    } else {
        LLMI_TRY(llmi_path_join(name, sizeof name, path, "tokenizer.json", err));
    }
    memset(&text, 0, sizeof text);
    text.allocator = tokenizer->allocator;
    llmi_bpe_write(&text, tokenizer);
    if (text.failed != LLM_OK)
        result = llmi_fail(err, text.failed, "out of memory: writing %s", name);
    else result = llmi_file_write(name, text.data, text.size, err);
    llmi_text_free(&text);
    return result;
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>safetensors  names, types, shapes and places of tensors in a file
 *
 * 8 bytes: length n of the header, little endian; n bytes of JSON; data. The JSON maps names to
 * {"dtype", "shape", "data_offsets": [begin, end]}, relative to the data, and may hold
 * "__metadata__", strings by name. The tensors cover the data without a hole or an overlap.
 * ========================================================================================== */
#define LLMI_HEADER_MOST ((size_t)100 << 20)   /* bytes of JSON, of all files of one model */

struct llmi_shard;
typedef struct llmi_entry {
    const char *name;
    const struct llmi_shard *shard;    /* whose it is */
    const char *type_name;
    llm_dtype type;                    /* DEFAULT: none that a model's tensor may have           */
    int turned;                        /* a matrix stored (n_out,n_in), whatever its name says   */
    int n_dims;
    int64_t dims[8];
    uint64_t begin, end;               /* bytes from the start of the source */
    int used;
} llmi_entry;

typedef struct llmi_shard {
    llmi_source source;
    char *header;                      /* the JSON text */
    llmi_json json;
    char *names;
    llmi_entry *entries;               /* by their place in the file */
    size_t n, capacity;                /* capacity in bytes */
} llmi_shard;

typedef struct llmi_shards {           /* the files of one model */
    llmi_shard *shards;
    size_t n;
    char (*paths)[LLMI_PATH];          /* valid as long as the shards, or NULL */
    llmi_entry **by_name;              /* all entries */
    size_t n_entries;
    int is_gguf;
    const llm_allocator *allocator;
} llmi_shards;

static const struct { const char *name; int bytes; llm_dtype type;
} llmi_dtypes[] = {
    {"F32", 4, LLM_F32}, {"BF16", 2, LLM_BF16}, {"F16", 2, LLM_F16}, {"F8_E4M3", 1, LLM_F8_E4M3},
    {"F8_E5M2", 1, LLM_DTYPE_DEFAULT}, {"F8_E8M0", 1, LLM_DTYPE_DEFAULT},
    {"F64", 8, LLM_DTYPE_DEFAULT}, {"I64", 8, LLM_DTYPE_DEFAULT}, {"U64", 8, LLM_DTYPE_DEFAULT},
    {"I32", 4, LLM_DTYPE_DEFAULT}, {"U32", 4, LLM_DTYPE_DEFAULT}, {"I16", 2, LLM_DTYPE_DEFAULT},
    {"U16", 2, LLM_DTYPE_DEFAULT}, {"I8", 1, LLM_DTYPE_DEFAULT}, {"U8", 1, LLM_DTYPE_DEFAULT},
    {"BOOL", 1, LLM_DTYPE_DEFAULT}};

static void llmi_shard_free(llmi_shard *shard, const llm_allocator *allocator) {
#ifndef LLM_NO_STDIO
    if (shard->source.file) fclose(shard->source.file);
#endif
    llmi_json_free(&shard->json);
    llmi_release(allocator, shard->header);
    llmi_release(allocator, shard->names);
    llmi_release(allocator, shard->entries);
    memset(shard, 0, sizeof *shard);
}

static int llmi_compare_names(const void *a, const void *b) {
    return strcmp((*(llmi_entry *const *)a)->name, (*(llmi_entry *const *)b)->name);
}
static int llmi_compare_begins(const void *a, const void *b) {
    const llmi_entry *x = (const llmi_entry *)a, *y = (const llmi_entry *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static llm_result llmi_entry_parse(const llmi_shard *shard, llmi_entry *entry, int node,
                                   uint64_t data_size, llm_error *err) {
    const llmi_json *json = &shard->json;
    const int dtype = llmi_json_get(json, node, "dtype"),
              shape = llmi_json_get(json, node, "shape");
    const int offsets = llmi_json_get(json, node, "data_offsets");
    const char *path = shard->source.name;
    uint64_t bytes;
    int64_t begin, end;
    int i, child;
    const int n_types = (int)LLMI_COUNT(llmi_dtypes);
    if (dtype < 0 || json->nodes[dtype].type != LLMI_JSON_STRING || shape < 0 ||
        json->nodes[shape].type != LLMI_JSON_ARRAY || offsets < 0 ||
        json->nodes[offsets].type != LLMI_JSON_ARRAY || json->nodes[offsets].n_children != 2)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.100s: tensor %.80s has no dtype, shape or pair of data_offsets", path,
                         entry->name);
    for (i = 0; i < n_types && !llmi_json_is(json, dtype, llmi_dtypes[i].name); i++) {}
    if (i == n_types)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "%.100s: tensor %.80s has the unknown dtype %.*s", path, entry->name,
                         (int)llmi_min(24, json->nodes[dtype].end - json->nodes[dtype].begin),
                         json->text + json->nodes[dtype].begin);
    entry->type_name = llmi_dtypes[i].name;
    entry->type = llmi_dtypes[i].type;
    if (json->nodes[shape].n_children > 8)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "%.100s: tensor %.80s has %d dimensions, at most 8 are known", path,
                         entry->name, json->nodes[shape].n_children);
    entry->n_dims = json->nodes[shape].n_children;
    bytes = (uint64_t)llmi_dtypes[i].bytes;
    for (i = 0, child = llmi_json_first(json, shape); child >= 0;
         child = json->nodes[child].next, i++) {
        if (!llmi_json_int64(json, child, &entry->dims[i]) || entry->dims[i] < 0)
            return llmi_fail(
                err, LLM_ERR_FORMAT,
                "%.100s: tensor %.80s: dimension %d of its shape is not a whole number", path,
                entry->name, i);
        bytes = llmi_mul64(bytes, (uint64_t)entry->dims[i]);
    }
    child = llmi_json_first(json, offsets);
    if (!llmi_json_int64(json, child, &begin) ||
        !llmi_json_int64(json, json->nodes[child].next, &end) || begin < 0 || end < begin ||
        (uint64_t)end > data_size)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.100s: tensor %.80s: data_offsets are not within the %llu bytes of data",
                         path, entry->name, (unsigned long long)data_size);
    if ((uint64_t)(end - begin) != bytes)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.100s: tensor %.80s: data_offsets hold %lld bytes, its shape needs %llu",
                         path, entry->name, (long long)(end - begin), (unsigned long long)bytes);
    entry->begin = (uint64_t)begin;
    entry->end = (uint64_t)end;
    return LLM_OK;
}

/* the tensors that the header names, in its order */
static llm_result llmi_shard_entries(llmi_shard *shard, uint64_t data_size,
                                     const llm_allocator *allocator, llm_error *err) {
    const size_t length = shard->json.size;
    size_t used = 0;
    int key;
    shard->names = (char *)llmi_alloc(allocator, llmi_add(llmi_mul(2, length), 1),
                                      "safetensors header", err);
    if (!shard->names) return LLM_ERR_MEMORY;
    for (key = llmi_json_first(&shard->json, 0); key >= 0;
         key = shard->json.nodes[shard->json.nodes[key].next].next) {
        const int value = shard->json.nodes[key].next;
        void *entries = shard->entries;
        llmi_entry *entry;
        char *name = shard->names + used;
        if (llmi_json_is(&shard->json, key, "__metadata__")) continue;
        LLMI_TRY(llmi_grow(allocator, &entries, &shard->capacity, shard->n * sizeof *entry,
                           (shard->n + 1) * sizeof *entry, "safetensors header", err));
        shard->entries = (llmi_entry *)entries;
        entry = &shard->entries[shard->n];
        used += llmi_json_string(&shard->json, key, name, length);
        shard->names[used++] = 0;
        memset(entry, 0, sizeof *entry);
        entry->name = name;
        entry->shard = shard;
        if (strlen(name) + 1 != (size_t)(shard->names + used - name))
            return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: a tensor's name holds a zero byte",
                             shard->source.name);
        LLMI_TRY(llmi_entry_parse(shard, entry, value, data_size, err));
        shard->n++;
    }
    return LLM_OK;
}

/* Their bytes follow one another to the file's end; offsets become those in the file. */
static llm_result llmi_shard_order(llmi_shard *shard, uint64_t data_size, llm_error *err) {
    const llmi_source *source = &shard->source;
    const uint64_t header = source->size - data_size;
    uint64_t at = 0;
    size_t i;
    if (shard->n)
        qsort(shard->entries, shard->n, sizeof *shard->entries, llmi_compare_begins);
    for (i = 0; i < shard->n; i++) {
        if (shard->entries[i].begin != at)
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.120s: tensor %.80s begins at byte %llu of the data, %llu is next",
                             source->name, shard->entries[i].name,
                             (unsigned long long)shard->entries[i].begin, (unsigned long long)at);
        at = shard->entries[i].end;
        shard->entries[i].begin += header;
        shard->entries[i].end += header;
    }
    if (at != data_size)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.120s: the tensors end at byte %llu of %llu bytes of data", source->name,
                         (unsigned long long)at, (unsigned long long)data_size);
    return LLM_OK;
}

/* shard->source is set; on failure the caller frees the shard */
static llm_result llmi_shard_parse(llmi_shard *shard, const llm_allocator *allocator,
                                   llm_error *err) {
    const llmi_source *source = &shard->source;
    unsigned char bytes[8];
    uint64_t length;
    if (source->size < 8)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.120s: %llu bytes are too few for a safetensors file", source->name,
                         (unsigned long long)source->size);
    LLMI_TRY(llmi_source_read(source, 0, bytes, 8, err));
    length = llmi_get_little(bytes, 8);
    if (length > source->size - 8 || length > LLMI_HEADER_MOST)
        return llmi_fail(err, LLM_ERR_FORMAT,
                         "%.120s: a header of %llu bytes does not fit the file's %llu (or 100 MiB)",
                         source->name, (unsigned long long)length,
                         (unsigned long long)source->size);
    shard->header = (char *)llmi_alloc(allocator, (size_t)length + 1, "safetensors header", err);
    if (!shard->header) return LLM_ERR_MEMORY;
    LLMI_TRY(llmi_source_read(source, 8, shard->header, (size_t)length, err));
    LLMI_TRY(
        llmi_json_parse(&shard->json, shard->header, (size_t)length, source->name, allocator, err));
    if (shard->json.nodes[0].type != LLMI_JSON_OBJECT)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: the header is not a JSON object",
                         source->name);
    LLMI_TRY(llmi_shard_entries(shard, source->size - 8 - length, allocator, err));
    return llmi_shard_order(shard, source->size - 8 - length, err);
}

/* All shards are parsed: finds their tensors by name, and no name twice. */
static llm_result llmi_shards_index(llmi_shards *all, llm_error *err) {
    size_t i, j;
    for (i = 0; i < all->n; i++) all->n_entries += all->shards[i].n;
    all->by_name = (llmi_entry **)llmi_alloc(
        all->allocator, llmi_mul(all->n_entries, sizeof *all->by_name), "names of tensors", err);
    if (!all->by_name) return LLM_ERR_MEMORY;
    for (i = all->n_entries = 0; i < all->n; i++)
        for (j = 0; j < all->shards[i].n; j++)
            all->by_name[all->n_entries++] = &all->shards[i].entries[j];
    if (all->n_entries)
        qsort(all->by_name, all->n_entries, sizeof *all->by_name, llmi_compare_names);
    for (i = 1; i < all->n_entries; i++)
        if (llmi_compare_names(&all->by_name[i - 1], &all->by_name[i]) == 0)
            return llmi_fail(err, LLM_ERR_FORMAT, "tensor %.80s is in %s and in %s",
                             all->by_name[i]->name,
                             llmi_path_end(all->by_name[i - 1]->shard->source.name, 70),
                             llmi_path_end(all->by_name[i]->shard->source.name, 70));
    return LLM_OK;
}

static llmi_entry *llmi_find_entry(const llmi_shards *all, const char *name) {
    llmi_entry wanted, *key = &wanted, **found;
    wanted.name = name;
    if (!all->n_entries) return NULL;
    found = (llmi_entry **)bsearch(&key, all->by_name, all->n_entries, sizeof *all->by_name,
                                   llmi_compare_names);
    return found ? *found : NULL;
}

/* A file may leave out "transformer."; of GGUF, a module's last norm, which is the trunk's then. */
static llmi_entry *llmi_find_tensor(const llmi_shards *all, const char *name) {
    llmi_entry *entry = llmi_find_entry(all, name);
    if (!entry && strncmp(name, "transformer.", 12) == 0) entry = llmi_find_entry(all, name + 12);
    if (!entry && all->is_gguf && llmi_ends_with(name, ".shared_head.norm.weight"))
        entry = llmi_find_entry(all, "model.norm.weight");
    return entry;
}

/* ============================================================================================
 * >>load         config.json and tensors into a model
 * ========================================================================================== */
#define LLMI_GENERATION "llm_h_generation"     /* in config.json and safetensors: see >>save */

/* what config.json and the shards say of their generation must agree where both say something */
static llm_result llmi_check_generation(const llmi_json *config, const llmi_shards *all,
                                        llm_error *err) {
    const int a = llmi_json_get(config, 0, LLMI_GENERATION);
    size_t i;
    for (i = 0; i < all->n && a >= 0; i++) {
        const llmi_json *json = &all->shards[i].json;
        const int b = llmi_json_get(json, llmi_json_get(json, 0, "__metadata__"), LLMI_GENERATION);
        const llmi_json_node *x = &config->nodes[a], *y = &json->nodes[b < 0 ? 0 : b];
        if (b >= 0 && (x->end - x->begin != y->end - y->begin ||
                       memcmp(config->text + x->begin, json->text + y->begin, x->end - x->begin)))
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s and %.100s are of two different saves",
                             config->name, all->shards[i].source.name);
    }
    return LLM_OK;
}

/* What the tensors say of the configuration. transformers claims an MTP layer and writes none; it
 * cannot say that a model has no experts, but that all layers come before them. A configuration
 * that says 0 leaves out the modules of its file. */
static void llmi_config_settle(llm_config *c, const llmi_shards *all) {
    char name[72];
    int found = 0;
    if (c->n_layers > INT_MAX - LLMI_MTP_MAX - 1) return;
    do snprintf(name, sizeof name, "model.layers.%d.eh_proj.weight", c->n_layers + found);
    while (found <= LLMI_MTP_MAX && llmi_find_entry(all, name) && ++found);
    if (!found || c->mtp_depth < 0) c->mtp_depth = found;
    if (c->first_k_dense < c->n_layers) return;
    c->first_k_dense = c->n_layers;
    snprintf(name, sizeof name, "model.layers.%d.mlp.gate.weight", c->n_layers);
    if (!llmi_find_entry(all, name))
        c->n_routed_experts = 0;       /* then llmi_config_resolve clears what else is of experts */
}

static void llmi_shape_text(char *out, size_t capacity, const int64_t *dims, int n) {
    size_t used = 0;
    int i;
    out[0] = 0;
    for (i = 0; i < n && used + 24 < capacity; i++)
        used += (size_t)snprintf(out + used, capacity - used, "%s%lld", i ? "," : "",
                                 (long long)dims[i]);
}

/* n values as f32, from the at-th on: whole blocks */
static llm_result llmi_entry_values(const llmi_entry *entry, uint64_t at, float *to, size_t n,
                                    llm_error *err) {
    const llmi_source *source = &entry->shard->source;
    const llmi_type *type = &llmi_types[entry->type];
    const uint64_t begin = entry->begin + at / type->block * type->bytes;
    unsigned char part[16384];
    const size_t most = sizeof part / type->bytes * type->block;
    size_t done, count;
    if (entry->type == LLM_F32)
        return llmi_source_read(source, begin, to, n * sizeof(float), err);
    for (done = 0; done < n; done += count) {
        count = llmi_min(n - done, most);
        LLMI_TRY(llmi_source_read(source, begin + llmi_dtype_bytes(entry->type, done), part,
                                  llmi_dtype_bytes(entry->type, count), err));
        llmi_decode(entry->type, to + done, part, count);
    }
    return LLM_OK;
}

static llm_result llmi_shape_error(const llmi_entry *entry, const int64_t *dims, int n_dims,
                                   llm_error *err) {
    char needed[64], have[64];
    llmi_shape_text(needed, sizeof needed, dims, n_dims);
    llmi_shape_text(have, sizeof have, entry->dims, entry->n_dims);
    return llmi_fail(err, LLM_ERR_FORMAT,
                     "%.80s: tensor %.80s has shape [%s], the configuration needs [%s]",
                     entry->shard->source.name, entry->name, have, needed);
}
static llm_result llmi_check_entry(const llmi_entry *entry, const llmi_tensor *tensor,
                                   llm_error *err) {
    const int turned = entry->turned && tensor->transposed;
    const int64_t dims[2] = {tensor->dims[turned], tensor->dims[!turned]};
    int a = 0, b = 0;                  /* in GGUF the last dims, here the first, may be left out */
    while (entry->turned && a + 1 < tensor->n_dims && dims[a] == 1) a++;
    while (entry->turned && b + 1 < entry->n_dims && entry->dims[b] == 1) b++;
    if (entry->n_dims - b != tensor->n_dims - a ||
        memcmp(entry->dims + b, dims + a, (size_t)(tensor->n_dims - a) * sizeof *dims) != 0)
        return llmi_shape_error(entry, dims, tensor->n_dims, err);
    if (entry->type == LLM_DTYPE_DEFAULT || (entry->type == LLM_F8_E4M3 && entry->n_dims != 2))
        return llmi_fail(
            err, LLM_ERR_UNSUPPORTED,
            "%.80s: tensor %.80s is %s; F32, F16, BF16, F8_E4M3 matrices are supported",
            entry->shard->source.name, entry->name, entry->type_name);
    return LLM_OK;
}

/* a tensor that a file may repeat under another name */
static llm_result llmi_check_copy(const llm_model *model, const llmi_shards *all, const char *name,
                                  int index, llm_error *err) {
    const llmi_tensor *tensor = &model->table.rows[index];
    llmi_entry *entry = llmi_find_entry(all, name);
    const llmi_entry *first = llmi_find_tensor(all, tensor->name);
    float a[LLMI_PIECE_OF_ROW], b[LLMI_PIECE_OF_ROW];
    size_t at, n;
    if (!entry) return LLM_OK;
    LLMI_TRY(llmi_check_entry(entry, tensor, err));
    if (entry->type == LLM_F8_E4M3)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.100s: tensor %.80s is F8_E4M3",
                         entry->shard->source.name, name);
    for (at = 0; at < tensor->count; at += n) {
        n = llmi_min(tensor->count - at, LLMI_PIECE_OF_ROW);
        LLMI_TRY(llmi_entry_values(entry, at, a, n, err));
        LLMI_TRY(llmi_entry_values(first, at, b, n, err));
        if (memcmp(a, b, n * sizeof *a) != 0)
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.100s: tensor %.80s differs from %s, which it has to repeat",
                             entry->shard->source.name, name, tensor->name);
    }
    entry->used = 1;
    return LLM_OK;
}

/* the scales of an F8 matrix, name_scale_inv: one for each 128 x 128 of its values */
static llm_result llmi_read_scales(const llmi_shards *all, const llmi_entry *entry, float *scales,
                                   llm_error *err) {
    const size_t down = llmi_ceil_div((size_t)entry->dims[0], LLMI_FP8_TILE),
                 across = llmi_ceil_div((size_t)entry->dims[1], LLMI_FP8_TILE);
    llmi_entry *scale;
    char name[128];
    size_t i;
    snprintf(name, sizeof name, "%.100s_scale_inv", entry->name);
    scale = llmi_find_entry(all, name);
    if (!scale)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "%.80s: tensor %.80s is F8_E4M3, and there is no weight_scale_inv",
                         entry->shard->source.name, entry->name);
    if (scale->type != LLM_F32 || scale->n_dims != 2 || scale->dims[0] != (int64_t)down ||
        scale->dims[1] != (int64_t)across)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.80s: tensor %.90s: F32 [%lu,%lu] is needed",
                         scale->shard->source.name, name, (unsigned long)down,
                         (unsigned long)across);
    scale->used = 1;
    LLMI_TRY(llmi_entry_values(scale, 0, scales, down * across, err));
    for (i = 0; i < down * across; i++)
        if (!(scales[i] - scales[i] == 0.0f))
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.80s: tensor %.90s: element %lu is not finite",
                             scale->shard->source.name, name, (unsigned long)i);
    return LLM_OK;
}

static int llmi_entry_transposed(const llmi_entry *entry, const llmi_tensor *tensor) {
    return tensor->transposed && !entry->turned;
}
typedef struct llmi_room { void *values, *scales; size_t size, scales_size; } llmi_room;

/* A tensor's values as they stand in the file, which is mapped; NULL: they have to be read. What is
 * written to them stays in this process. */
static void *llmi_map_values(llmi_map *map, const llmi_entry *entry) {
#if LLMI_POSIX && !defined(LLM_NO_STDIO)
    const llmi_source *source = &entry->shard->source;
    int flags = MAP_PRIVATE;
  #ifdef MAP_NORESERVE                 /* a file may be larger than the memory */
    flags |= MAP_NORESERVE;
  #endif
    const size_t align = entry->type == LLM_F32                              ? 4
                         : entry->type == LLM_F16 || entry->type == LLM_BF16 ? 2
                                                                             : 1;
    if (entry->begin % align != 0 || !source->file || source->size > SIZE_MAX / 2) return NULL;
    if (!map->start) {
        void *start = mmap(NULL, (size_t)source->size, PROT_READ | PROT_WRITE, flags,
                           fileno(source->file), 0);
        if (start == MAP_FAILED) return NULL;
        map->start = (char *)start;
        map->size = (size_t)source->size;
    }
    return map->start + entry->begin;
#else
    (void)map; (void)entry;
    return NULL;
#endif
}

/* The two tensors that newer GGUF files have in place of kv_b_proj: (H,R,nope), (H,v,R). -> 0: they
 * are not there. */
static int llmi_find_halves(const llmi_shards *all, const llmi_tensor *tensor, llmi_entry **k,
                            llmi_entry **v) {
    const char *at = strstr(tensor->name, "kv_b_proj.weight");
    char name[80];
    if (!at) return 0;
    snprintf(name, sizeof name, "%.*sk_b_proj.weight", (int)(at - tensor->name), tensor->name);
    *k = llmi_find_entry(all, name);
    snprintf(name, sizeof name, "%.*sv_b_proj.weight", (int)(at - tensor->name), tensor->name);
    *v = llmi_find_entry(all, name);
    return *k && *v;
}
static llm_result llmi_check_halves(const llm_config *c, const llmi_entry *k, const llmi_entry *v,
                                    llm_error *err) {
    const int64_t want[2][3] = {{c->n_heads, c->kv_lora_rank, c->qk_nope_head_dim},
                                {c->n_heads, c->v_head_dim, c->kv_lora_rank}};
    int i;
    for (i = 0; i < 2; i++) {
        const llmi_entry *entry = i ? v : k;
        const int one = entry->n_dims == 2 && c->n_heads == 1;   /* head: left out */
        if (entry->n_dims != 3 - one ||
            memcmp(entry->dims, want[i] + one, (size_t)(3 - one) * sizeof *want[i]) != 0)
            return llmi_shape_error(entry, want[i], 3, err);
    }
    return LLM_OK;
}
/* Both, as one kv_b_proj in f32. A head of k is (R,nope), so it is turned; one of v (width,R). */
static llm_result llmi_read_halves(const llm_config *c, const llmi_entry *k, const llmi_entry *v,
                                   float *to, llm_error *err) {
    const size_t H = (size_t)c->n_heads, R = (size_t)c->kv_lora_rank;
    const size_t nope = (size_t)c->qk_nope_head_dim, width = (size_t)c->v_head_dim;
    float row[8192];                   /* a configuration's nope is no larger */
    size_t h, r, i;
    for (h = 0; h < H; h++, to += (nope + width) * R) {
        for (r = 0; r < R; r++) {
            LLMI_TRY(llmi_entry_values(k, (h * R + r) * nope, row, nope, err));
            for (i = 0; i < nope; i++) to[i * R + r] = row[i];
        }
        for (i = 0; i < width; i++)
            LLMI_TRY(llmi_entry_values(v, (h * width + i) * R, to + (nope + i) * R, R, err));
    }
    return LLM_OK;
}

/* Checks the tensors that the model needs, and gives each its type and its place: in a mapped file
 * if it can stay as it is, else in the model's memory. Those in a file are `used` then. wanted:
 * the type of matrices; DEFAULT: the file's. */
static llm_result llmi_load_places(llm_model *model, const llmi_shards *all, llm_dtype wanted,
                                   llm_error *err) {
    size_t n_mapped = 0, n_f32 = 0, i;
    model->maps = (llmi_map *)llmi_alloc(model->allocator, all->n * sizeof(llmi_map), "shards",
                                         err);
    if (!model->maps) return LLM_ERR_MEMORY;
    memset(model->maps, 0, all->n * sizeof(llmi_map));
    model->n_maps = all->n;
    for (i = 0; i < model->table.n; i++) {
        const llmi_tensor *tensor = &model->table.rows[i];
        llmi_values *values = &model->values[i];
        llmi_entry *entry = llmi_find_tensor(all, tensor->name), *k, *v;
        if (!entry && all->is_gguf && tensor->no_gradient) continue;     /* biases of 0 */
        if (!entry && llmi_find_halves(all, tensor, &k, &v)) {
            LLMI_TRY(llmi_check_halves(&model->config, k, v, err));
            llmi_values_set(model, i, wanted ? wanted
                                      : llmi_dtype_is_blocks(k->type) ? LLM_F16 : k->type);
            continue;
        }
        if (!entry)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: tensor %s is missing",
                             all->shards[0].source.name, tensor->name);
        LLMI_TRY(llmi_check_entry(entry, tensor, err));
        llmi_values_set(model, i, wanted ? wanted : entry->type);
        if (values->type == LLM_F32 && entry->turned) values->transposed = 0;
        if (values->type == entry->type &&
            values->transposed == llmi_entry_transposed(entry, tensor))
            values->data = llmi_map_values(&model->maps[entry->shard - all->shards], entry);
        entry->used = values->data != NULL;
        n_mapped += (size_t)entry->used;
        n_f32 += (size_t)llmi_values_are_plain(model, i);
    }
    if (n_mapped == 0 && n_f32 == model->table.n) return llmi_model_gather(model, err);
    return llmi_model_place(model, err);
}

/* a tensor of an MTP module that the configuration does not ask for */
static int llmi_of_a_module_left_out(const llm_config *config, const llmi_shards *all,
                                     const char *name) {
    static const char layers[] = "model.layers.";
    const size_t n = sizeof layers - 1;
    char module[72];
    long layer;
    if (config->mtp_depth != 0 ||
        strncmp(name, layers, n) != 0 || name[n] < '0' || name[n] > '9')
        return 0;
    layer = strtol(name + n, NULL, 10);
    snprintf(module, sizeof module, "model.layers.%ld.eh_proj.weight", layer);
    return layer >= config->n_layers && llmi_find_entry(all, module) != NULL;
}

static llm_result llmi_load_convert(const llm_model *model, const llmi_tensor *tensor,
                                    llmi_values to, llmi_values from, llm_context **context,
                                    llm_error *err) {
    llmi_convert job = llmi_convert_of(tensor, to, from);
    if (!*context) *context = llmi_model_context(model, model->n_threads, err);
    if (!*context) return LLM_ERR_MEMORY;
    llmi_convert_run(*context, &job);
    return LLM_OK;
}
/* The values of tensor i, read as they are or converted; room: memory for one tensor. */
static llm_result llmi_load_values(llm_model *model, const llmi_shards *all, size_t i,
                                   llm_context **context, llmi_room *room, llm_error *err) {
    const llmi_tensor *tensor = &model->table.rows[i];
    const llmi_values to = model->values[i];
    llmi_entry *entry = llmi_find_tensor(all, tensor->name), *k, *v;
    llmi_values from = llmi_values_f32(tensor, NULL);
    size_t bytes;
    int same;
    if (!entry && llmi_find_halves(all, tensor, &k, &v)) {
        LLMI_TRY(llmi_grow(model->allocator, &room->values, &room->size, 0,
                           llmi_mul(tensor->count, sizeof(float)), "a tensor", err));
        from.data = room->values;
        LLMI_TRY(llmi_read_halves(&model->config, k, v, (float *)room->values, err));
        k->used = v->used = 1;
        return llmi_load_convert(model, tensor, to, from, context, err);
    }
    if (!entry) {
        memset(to.data, 0, tensor->count * sizeof(float));
        return LLM_OK;
    }
    bytes = (size_t)(entry->end - entry->begin);
    same = to.type == entry->type && to.transposed == llmi_entry_transposed(entry, tensor);
    if (to.type == LLM_F8_E4M3 && entry->type == LLM_F8_E4M3)
        LLMI_TRY(llmi_read_scales(all, entry, to.scales, err));
    if (entry->used) return LLM_OK;    /* mapped */
    entry->used = 1;
    if (same) return llmi_source_read(&entry->shard->source, entry->begin, to.data, bytes, err);
    LLMI_TRY(llmi_grow(model->allocator, &room->values, &room->size, 0, bytes, "a tensor", err));
    LLMI_TRY(llmi_source_read(&entry->shard->source, entry->begin, room->values, bytes, err));
    if (entry->type == LLM_F8_E4M3) {
        LLMI_TRY(llmi_grow(model->allocator, &room->scales, &room->scales_size, 0,
                           llmi_ceil_div((size_t)entry->dims[0], LLMI_FP8_TILE) *
                               llmi_ceil_div((size_t)entry->dims[1], LLMI_FP8_TILE) *
                               sizeof(float), "scales", err));
        LLMI_TRY(llmi_read_scales(all, entry, (float *)room->scales, err));
    }
    from.data = room->values;
    from.scales = entry->type == LLM_F8_E4M3 ? (float *)room->scales : NULL;
    from.type = entry->type;
    from.transposed = llmi_entry_transposed(entry, tensor);
    return llmi_load_convert(model, tensor, to, from, context, err);
}

/* Routers and their biases choose experts: PyTorch takes NaN for the largest; we refuse it. */
static llm_result llmi_check_routers(const llm_model *model, const llmi_shards *all,
                                     llm_error *err) {
    const llm_config *c = &model->config;
    int l, k;
    if (!c->n_routed_experts) return LLM_OK;
    for (l = c->first_k_dense; l < c->n_layers + c->mtp_depth; l++)
        for (k = 0; k < 2; k++) {
            const int at = k ? model->layers[l].router : model->layers[l].router_bias;
            const llmi_tensor *tensor = &model->table.rows[at];
            const llmi_entry *entry = llmi_find_tensor(all, tensor->name);
            const float *value = (const float *)model->values[at].data;
            size_t i;
            for (i = 0; i < tensor->count; i++)
                if (!(value[i] - value[i] == 0.0f))
                    return llmi_fail(err, LLM_ERR_FORMAT,
                                     "%.100s: tensor %s: element %lu is %g, not finite",
                                     (entry ? entry->shard : &all->shards[0])->source.name,
                                     tensor->name, (unsigned long)i, (double)value[i]);
        }
    return LLM_OK;
}

/* All shards are parsed. Fills the model; every tensor of the files that holds something must have
 * a place. (transformers writes empty ones where n_shared_experts is 0.) */
static llm_result llmi_load_tensors(llm_model *model, const llmi_shards *all, llm_dtype wanted,
                                    llm_error *err) {
    llm_result result = llmi_load_places(model, all, wanted, err);
    llm_context *context = NULL;
    const llmi_entry *entry;
    llmi_room room;
    size_t i;
    int k;
    model->round_x |= all->is_gguf;
    memset(&room, 0, sizeof room);
    for (i = 0; i < model->table.n && result == LLM_OK; i++)
        result = llmi_load_values(model, all, i, &context, &room, err);
    llm_context_free(context);
    llmi_release(model->allocator, room.values);
    llmi_release(model->allocator, room.scales);
    LLMI_TRY(result);
    if (model->config.tie_embeddings)
        LLMI_TRY(llmi_check_copy(model, all, "lm_head.weight", LLMI_WTE, err));
    for (k = 0; k < model->config.mtp_depth; k++) {
        char name[72];
        const int layer = model->config.n_layers + k;
        snprintf(name, sizeof name, "model.layers.%d.embed_tokens.weight", layer);
        LLMI_TRY(llmi_check_copy(model, all, name, LLMI_WTE, err));
        snprintf(name, sizeof name, "model.layers.%d.shared_head.head.weight", layer);
        LLMI_TRY(llmi_check_copy(model, all, name, llmi_head_index(model), err));
    }
    for (i = 0; i < all->n_entries; i++) {
        entry = all->by_name[i];
        if (!entry->used && entry->begin < entry->end &&
            !llmi_ends_with(entry->name, ".attn.bias") &&
            !llmi_ends_with(entry->name, ".attn.masked_bias") &&
            !llmi_ends_with(entry->name, ".rotary_emb.inv_freq") &&
            !llmi_of_a_module_left_out(&model->config, all, entry->name))
            return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                             "%.100s: tensor %.80s has no place in this model",
                             entry->shard->source.name, entry->name);
    }
    return llmi_check_routers(model, all, err);
}

/* Memory is taken for what the files can hold, not for what a configuration says; where only a few
 * tensors are missing, they are named later. */
static llm_result llmi_check_claims(const llm_config *config, const char *name,
                                    const llmi_shards *all, llm_error *err) {
    llm_config c = *config;
    llmi_table table;
    uint64_t bytes = 0;
    size_t i;
    llmi_config_resolve(&c);
    table = llmi_config_count(&c);
    for (i = 0; i < all->n; i++) bytes += all->shards[i].source.size;
    if (table.n <= all->n_entries + 1024 && table.parameters / 2 <= bytes + (1 << 20))
        return LLM_OK;
    return llmi_fail(err, LLM_ERR_FORMAT,
                     "%.100s: %llu tensors, %llu parameters; there are %llu tensors in %llu bytes",
                     llmi_path_end(name, 100), (unsigned long long)table.n,
                     (unsigned long long)table.parameters, (unsigned long long)all->n_entries,
                     (unsigned long long)bytes);
}

/* Reads the special tokens that a configuration names; what it does not name stays. null is none.
 * An id beyond the vocabulary is never generated, and kept. */
static llm_result llmi_read_special(llm_special_tokens *special, const llmi_json *json,
                                    llm_error *err) {
    static const char *const keys[] = {"bos_token_id", "pad_token_id", "eos_token_id"};
    int i;
    for (i = 0; i < 3; i++) {
        const int value = llmi_json_get(json, 0, keys[i]);
        const int is_list = value >= 0 && json->nodes[value].type == LLMI_JSON_ARRAY;
        int32_t ids[LLMI_EOS_MAX];
        int node = is_list ? llmi_json_first(json, value) : value, n = 0;
        if (value < 0) continue;
        for (; node >= 0; node = is_list ? json->nodes[node].next : -1) {
            int64_t id;
            if (json->nodes[node].type == LLMI_JSON_NULL && !is_list) continue;
            if (!llmi_json_int64(json, node, &id) || id < -1 || id > INT32_MAX)
                return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: \"%s\" is not a token id",
                                 json->name, keys[i]);
            if (id < 0) continue;      /* some write -1 for none */
            if (n == (i == 2 ? LLMI_EOS_MAX : 1))
                return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.100s: \"%s\" has more than %d ids",
                                 json->name, keys[i], n);
            ids[n++] = (int32_t)id;
        }
        if (i == 0) special->bos = n ? ids[0] : -1;
        else if (i == 1) special->pad = n ? ids[0] : -1;
        else {
            memset(special->eos, 0, sizeof special->eos);
            memcpy(special->eos, ids, (size_t)n * sizeof *ids);
            special->n_eos = n;
        }
    }
    return LLM_OK;
}

#ifndef LLM_NO_STDIO
/* whether a configuration can be read at all */
static llm_result llmi_config_check(const char *text, size_t size, const char *name,
                                    const llm_allocator *allocator, llm_error *err) {
    llm_config config;
    llmi_json json;
    llm_result result;
    LLMI_TRY(llmi_json_parse(&json, text, size, name, allocator, err));
    result = llmi_config_parse(&config, &json, err);
    llmi_json_free(&json);
    return result;
}
#endif

static llm_model *llmi_load_model(const char *config_text, size_t config_size,
                                  const char *config_name, const llmi_shards *all,
                                  const llm_model_desc *desc, llm_error *err) {
    const llm_allocator *allocator = desc ? desc->allocator : NULL;
    llm_model *model = NULL;
    llmi_json json;
    llm_config config;
    llm_result result;
    llm_special_tokens special = llm_model_special_tokens(NULL);
    if (llmi_json_parse(&json, config_text, config_size, config_name, allocator, err) != LLM_OK)
        return NULL;
    result = llmi_config_parse(&config, &json, err);
    if (result == LLM_OK) result = llmi_read_special(&special, &json, err);
    if (result == LLM_OK) result = llmi_check_generation(&json, all, err);
    llmi_json_free(&json);
    if (result == LLM_OK) {
        llm_error why;
        llmi_config_settle(&config, all);
        result = llm_config_validate(&config, &why);
        if (result != LLM_OK)
            llmi_fail(err, result == LLM_ERR_ARGUMENT ? LLM_ERR_FORMAT : result, "%.90s: %s",
                      llmi_path_end(config_name, 90), why.message);
    }
    if (result == LLM_OK) result = llmi_check_claims(&config, config_name, all, err);
    if (result == LLM_OK) model = llmi_model_allocate(&config, desc, err);
    if (model &&
        llmi_load_tensors(model, all, desc ? desc->dtype : LLM_DTYPE_DEFAULT, err) != LLM_OK) {
        llm_model_free(model);
        model = NULL;
    }
    if (model) model->special = special;
    return model;
}

/* ---- GGUF files: names, keys and layouts become those of the Hugging Face files -------------- */
typedef struct llmi_pair_of_names {
    const char *gguf, *ours;
    int optional;                      /* of a key: it may be missing */
} llmi_pair_of_names;
typedef struct llmi_gguf_arch {
    const char *name;                  /* general.architecture                                  */
    const char *model_type;            /* in config.json                                        */
    const char *blocks;                /* what names of a block begin with                      */
    const llmi_pair_of_names *top, *block;         /* names without .weight and .bias           */
    const llmi_pair_of_names *keys;    /* of numbers, with those of config.json                 */
} llmi_gguf_arch;
static const llmi_pair_of_names llmi_gguf_gpt2_top[] = {
    {"token_embd", "transformer.wte", 0}, {"position_embd", "transformer.wpe", 0},
    {"output_norm", "transformer.ln_f", 0}, {"output", "lm_head", 0}, {NULL, NULL, 0}};
static const llmi_pair_of_names llmi_gguf_gpt2_block[] = {
    {"attn_norm", "ln_1", 0}, {"attn_qkv", "attn.c_attn", 0}, {"attn_output", "attn.c_proj", 0},
    {"ffn_norm", "ln_2", 0}, {"ffn_up", "mlp.c_fc", 0}, {"ffn_down", "mlp.c_proj", 0},
    {NULL, NULL, 0}};
static const llmi_pair_of_names llmi_gguf_gpt2_keys[] = {
    {"context_length", "n_positions", 0}, {"embedding_length", "n_embd", 0},
    {"feed_forward_length", "n_inner", 0}, {"block_count", "n_layer", 0},
    {"attention.head_count", "n_head", 0},
    {"attention.layer_norm_epsilon", "layer_norm_epsilon", 0}, {NULL, NULL, 0}};
static const llmi_pair_of_names llmi_gguf_ds_top[] = {
    {"token_embd", "model.embed_tokens", 0}, {"output_norm", "model.norm", 0},
    {"output", "lm_head", 0}, {NULL, NULL, 0}};
static const llmi_pair_of_names llmi_gguf_ds_block[] = {
    {"attn_norm", "input_layernorm", 0}, {"attn_q", "self_attn.q_proj", 0},
    {"attn_q_a", "self_attn.q_a_proj", 0}, {"attn_q_a_norm", "self_attn.q_a_layernorm", 0},
    {"attn_q_b", "self_attn.q_b_proj", 0}, {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", 0},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm", 0}, {"attn_kv_b", "self_attn.kv_b_proj", 0},
    {"attn_k_b", "self_attn.k_b_proj", 0}, {"attn_v_b", "self_attn.v_b_proj", 0},
    {"attn_output", "self_attn.o_proj", 0}, {"ffn_norm", "post_attention_layernorm", 0},
    {"ffn_gate", "mlp.gate_proj", 0}, {"ffn_up", "mlp.up_proj", 0},
    {"ffn_down", "mlp.down_proj", 0}, {"ffn_gate_inp", "mlp.gate", 0},
    {"exp_probs_b", "mlp.gate.e_score_correction_bias", 0},
    {"ffn_gate_exps", "mlp.experts.*.gate_proj", 0}, {"ffn_up_exps", "mlp.experts.*.up_proj", 0},
    {"ffn_down_exps", "mlp.experts.*.down_proj", 0},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj", 0},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj", 0},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj", 0}, {"nextn.eh_proj", "eh_proj", 0},
    {"nextn.enorm", "enorm", 0}, {"nextn.hnorm", "hnorm", 0},
    {"nextn.embed_tokens", "embed_tokens", 0}, {"nextn.shared_head_norm", "shared_head.norm", 0},
    {"nextn.shared_head_head", "shared_head.head", 0}, {NULL, NULL, 0}};
static const llmi_pair_of_names llmi_gguf_ds_keys[] = {
    {"context_length", "max_position_embeddings", 0}, {"embedding_length", "hidden_size", 0},
    {"feed_forward_length", "intermediate_size", 0},
    {"attention.head_count", "num_attention_heads", 0},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", 0}, {"rope.freq_base", "rope_theta", 1},
    {"rope.dimension_count", "qk_rope_head_dim", 0}, {"attention.q_lora_rank", "q_lora_rank", 1},
    {"attention.kv_lora_rank", "kv_lora_rank", 0}, {"expert_count", "n_routed_experts", 1},
    {"expert_used_count", "num_experts_per_tok", 1},
    {"expert_shared_count", "n_shared_experts", 1},
    {"expert_feed_forward_length", "moe_intermediate_size", 1},
    {"leading_dense_block_count", "first_k_dense_replace", 0},
    {"nextn_predict_layers", "num_nextn_predict_layers", 1}, {NULL, NULL, 0}};
static const llmi_gguf_arch llmi_gguf_archs[] = {
    {"gpt2", "gpt2", "transformer.h.", llmi_gguf_gpt2_top, llmi_gguf_gpt2_block,
     llmi_gguf_gpt2_keys},
    {"deepseek2", "deepseek_v3", "model.layers.", llmi_gguf_ds_top, llmi_gguf_ds_block,
     llmi_gguf_ds_keys}};

/* the name that a GGUF tensor has here, or NULL; expert >= 0: which of its experts. */
static const char *llmi_gguf_our_name(const llmi_gguf_arch *arch, const char *name, long expert,
                                      char *out, size_t capacity) {
    const llmi_pair_of_names *pair = arch->top;
    const char *rest = name, *star;
    char prefix[64];
    char *end;
    size_t n;
    prefix[0] = 0;
    if (!strncmp(name, "blk.", 4) && name[4] >= '0' && name[4] <= '9') {
        const unsigned long layer = strtoul(name + 4, &end, 10);
        if (*end != '.' || layer > 99999 || (name[4] == '0' && end > name + 5)) return NULL;
        snprintf(prefix, sizeof prefix, "%s%lu.", arch->blocks, layer);
        rest = end + 1;
        pair = arch->block;
    }
    for (; pair->gguf; pair++) {
        n = strlen(pair->gguf);
        if (strncmp(rest, pair->gguf, n) ||
            (rest[n] && strcmp(rest + n, ".weight") && strcmp(rest + n, ".bias")))
            continue;
        rest += n;
        if (llmi_ends_with(pair->ours, "_bias")) rest = "";
        star = strchr(pair->ours, '*');
        if (star && expert >= 0)
            snprintf(out, capacity, "%s%.*s%ld%s%s", prefix, (int)(star - pair->ours), pair->ours,
                     expert, star + 1, rest);
        else snprintf(out, capacity, "%s%s%s", prefix, pair->ours, rest);
        return out;
    }
    return NULL;
}
/* how many matrices of experts a tensor holds; 0: it is itself one tensor. Some files have gate and
 * up of an expert one after the other. */
static size_t llmi_gguf_experts(const llmi_gguf_tensor *tensor) {
    const int both = llmi_ends_with(tensor->name, "ffn_gate_up_exps.weight");
    if (tensor->dims[3] != 1 || !llmi_ends_with(tensor->name, "_exps.weight")) return 0;
    return (size_t)tensor->dims[2] * (both && tensor->dims[1] % 2 == 0 ? 2 : 1);
}

/* a part's tensors as those of a shard; its file becomes the shard's */
static llm_result llmi_gguf_shard(llmi_gguf *g, const llmi_gguf_arch *arch, llmi_shard *shard,
                                  llm_error *err) {
    enum { NAME = 128 };
    size_t n = 0, i, e;
    int d;
    shard->source = g->source;
    g->source.file = NULL;
    for (i = 0; i < g->n_tensors; i++) {
        if (g->tensors[i].dims[2] > 65536)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: tensor %.80s has %llu experts, at most "
                             "65536 are possible", g->source.name, g->tensors[i].name,
                             (unsigned long long)g->tensors[i].dims[2]);
        n += llmi_max(llmi_gguf_experts(&g->tensors[i]), 1);
    }
    shard->entries = (llmi_entry *)llmi_alloc(g->allocator, llmi_mul(n + 1, sizeof(llmi_entry)),
                                              "tensors of a GGUF file", err);
    shard->names = (char *)llmi_alloc(g->allocator, llmi_mul(n + 1, NAME), "tensors of a GGUF file",
                                      err);
    if (!shard->entries || !shard->names) return LLM_ERR_MEMORY;
    for (i = 0; i < g->n_tensors; i++) {
        const llmi_gguf_tensor *tensor = &g->tensors[i];
        const size_t experts = llmi_gguf_experts(tensor), count = llmi_max(experts, 1);
        const size_t each = experts ? count / (size_t)tensor->dims[2] : 1;
        static const char gate_up[] = "gate_up_exps.weight";
        const size_t at = each == 2 ? strlen(tensor->name) - (sizeof gate_up - 1) : 0;
        char whole[256];
        snprintf(whole, sizeof whole, "%s", tensor->name);
        for (e = 0; e < count; e++) {
            llmi_entry *entry = &shard->entries[shard->n];
            char *name = shard->names + shard->n++ * NAME;
            memset(entry, 0, sizeof *entry);
            if (each == 2)
                snprintf(whole + at, sizeof gate_up, "%s_exps.weight", e % 2 ? "up" : "gate");
            if (!llmi_gguf_our_name(arch, whole, experts ? (long)(e / each) : -1, name, NAME))
                snprintf(name, NAME, "%.100s", tensor->name);    /* has no place: named later */
            entry->name = name;
            entry->shard = shard;
            entry->type = tensor->type;
            entry->type_name = llm_dtype_name(tensor->type);
            entry->turned = 1;
            entry->n_dims = experts ? 2 : tensor->n_dims;
            for (d = 0; d < entry->n_dims; d++)
                entry->dims[d] = (int64_t)tensor->dims[entry->n_dims - 1 - d];
            if (each == 2) entry->dims[0] /= 2;
            entry->begin = tensor->at + tensor->size / count * e;
            entry->end = entry->begin + tensor->size / count;
        }
    }
    return LLM_OK;
}

/* ---- config.json of a GGUF file's keys ------------------------------------------------------- */
typedef struct llmi_gguf_reader {
    llmi_gguf *const *parts;           /* of the model */
    size_t n_parts;
    llmi_gguf *g;                      /* the first, which has the keys */
    const llmi_gguf_arch *arch;
    llmi_text *text;
    llm_error *err;
} llmi_gguf_reader;
static int llmi_gguf_arch_value(const llmi_gguf_reader *r, const char *key, double *value) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", r->arch->name, key);
    return llmi_gguf_value(r->g, llmi_gguf_find(r->g, name), value, r->err);
}
static void llmi_gguf_put(const llmi_gguf_reader *r, const char *key, double value) {
    if (value == floor(value) && fabs(value) < 1e15)
        llmi_text_format(r->text, "  \"%s\": %.0f,\n", key, value);
    else llmi_text_real(r->text, key, (float)value);
}
static llm_result llmi_gguf_missing(const llmi_gguf_reader *r, const char *key) {
    LLMI_TRY(llmi_gguf_no_wrong(r->g, r->err));
    return llmi_fail(r->err, LLM_ERR_FORMAT, "%.100s: key %s.%s is missing", r->g->source.name,
                     r->arch->name, key);
}
/* a tensor of any part, or NULL */
static const llmi_gguf_tensor *llmi_gguf_tensor_of(const llmi_gguf_reader *r, const char *name) {
    size_t part, i;
    for (part = 0; part < r->n_parts; part++)
        for (i = 0; i < r->parts[part]->n_tensors; i++)
            if (!strcmp(r->parts[part]->tensors[i].name, name)) return &r->parts[part]->tensors[i];
    return NULL;
}

/* YaRN. With s the factor, g(m) = 0.1 m ln s + 1, m ten times the log multiplier and F the factor
 * of attention, llama.cpp multiplies cos and sin by A = F, or F g(1) if m is 0, and scores by
 * (A g(m))^2. transformers' mscale and mscale_all_dim do the same if g(mscale_all_dim) = A g(m) and
 * g(mscale) = A^2 g(m); both 0 mean A = g(1), and scores as they are. */
static llm_result llmi_gguf_rope(const llmi_gguf_reader *r) {
    static const llmi_pair_of_names keys[] = {
        {"rope.scaling.original_context_length", "original_max_position_embeddings", 1},
        {"rope.scaling.yarn_beta_fast", "beta_fast", 1},
        {"rope.scaling.yarn_beta_slow", "beta_slow", 1}, {NULL, NULL, 0}};
    const llmi_gguf_key *type = llmi_gguf_find(r->g, "deepseek2.rope.scaling.type");
    const llmi_pair_of_names *pair;
    double s = 0.0, m = 0.0, f = 1.0, a, b, of_1, value, mscale[2];
    (void)llmi_gguf_arch_value(r, "rope.scaling.factor", &s);
    if (!type || llmi_gguf_is(r->g, type, "none") ||
        (llmi_gguf_is(r->g, type, "linear") && (s == 0.0 || s == 1.0)))
        return LLM_OK;
    if (!llmi_gguf_is(r->g, type, "yarn"))
        return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%.100s: key deepseek2.rope.scaling.type: "
                         "only none and yarn are supported", r->g->source.name);
    if (s <= 0.0) return llmi_gguf_missing(r, "rope.scaling.factor");
    (void)llmi_gguf_arch_value(r, "rope.scaling.yarn_log_multiplier", &m);
    (void)llmi_gguf_arch_value(r, "rope.scaling.attn_factor", &f);
    m *= 10.0;
    of_1 = s > 1.0 ? 0.1 * log(s) : 0.0;
    a = m != 0.0 ? f : f * (of_1 + 1.0);
    b = a * (of_1 * m + 1.0);
    mscale[0] = f == 1.0 && m != 0.0 ? m : of_1 > 0.0 ? (a * b - 1.0) / of_1 : 0.0;
    mscale[1] = f == 1.0 && m != 0.0 ? m : of_1 > 0.0 ? (b - 1.0) / of_1 : 0.0;
    if (fabs(b - 1.0) < 1e-6 && fabs(a - of_1 - 1.0) < 1e-6) mscale[0] = mscale[1] = 0.0;
    else if (!(mscale[0] > 0.0 && mscale[1] > 0.0))
        return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%.100s: YaRN with log multiplier %g and "
                         "attn_factor %g", r->g->source.name, 0.1 * m, f);
    llmi_text_format(r->text, "  \"rope_scaling\": {\n");
    llmi_gguf_put(r, "factor", s);
    for (pair = keys; pair->gguf; pair++)
        if (llmi_gguf_arch_value(r, pair->gguf, &value)) llmi_gguf_put(r, pair->ours, value);
    llmi_gguf_put(r, "mscale", mscale[0]);
    llmi_gguf_put(r, "mscale_all_dim", mscale[1]);
    llmi_text_format(r->text, "  \"rope_type\": \"yarn\"\n  },\n");
    return LLM_OK;
}

/* what deepseek2's keys say in another way than config.json */
static llm_result llmi_gguf_deepseek(const llmi_gguf_reader *r) {
    double key = 0.0, v = 0.0, rope = 0.0, experts = 0.0, gating = 0.0, value = 0.0;
    double layers = 0.0, modules = 0.0;
    static const char *const of_experts[] = {"expert_used_count", "expert_feed_forward_length",
                                             "expert_shared_count"};
    static const char *const groups[] = {"expert_group_count", "expert_group_used_count"};
    size_t i;
    if (!llmi_gguf_arch_value(r, "block_count", &layers))
        return llmi_gguf_missing(r, "block_count");
    (void)llmi_gguf_arch_value(r, "nextn_predict_layers", &modules);
    llmi_gguf_put(r, "num_hidden_layers", layers - modules);
    if (!llmi_gguf_arch_value(r, "rope.dimension_count", &rope))
        return llmi_gguf_missing(r, "rope.dimension_count");
    if ((!llmi_gguf_arch_value(r, "attention.key_length_mla", &key) || key == 0.0) &&
        !llmi_gguf_arch_value(r, "attention.key_length", &key))
        return llmi_gguf_missing(r, "attention.key_length");
    if ((!llmi_gguf_arch_value(r, "attention.value_length_mla", &v) || v == 0.0) &&
        !llmi_gguf_arch_value(r, "attention.value_length", &v))
        return llmi_gguf_missing(r, "attention.value_length");
    llmi_gguf_put(r, "qk_nope_head_dim", key - rope);
    llmi_gguf_put(r, "v_head_dim", v);
    if (!llmi_gguf_arch_value(r, "expert_count", &experts))
        llmi_gguf_put(r, "n_routed_experts", 0.0);
    for (i = 0; i < LLMI_COUNT(of_experts) && experts > 0.0; i++)
        if (!llmi_gguf_arch_value(r, of_experts[i], &value))
            return llmi_gguf_missing(r, of_experts[i]);
    (void)llmi_gguf_arch_value(r, "expert_gating_func", &gating);
    if (experts > 0.0 && gating != 2.0)
        return llmi_fail(r->err, LLM_ERR_UNSUPPORTED,
                         "%.100s: key deepseek2.expert_gating_func is %g, only 2 (sigmoid) is "
                         "supported", r->g->source.name, gating);
    if (!llmi_gguf_arch_value(r, "attention.q_lora_rank", &value))
        llmi_text_format(r->text, "  \"q_lora_rank\": null,\n");
    if (!llmi_gguf_arch_value(r, "expert_weights_scale", &value) || value == 0.0) value = 1.0;
    llmi_gguf_put(r, "routed_scaling_factor", value);
    value = 0.0;
    (void)llmi_gguf_arch_value(r, "expert_weights_norm", &value);
    llmi_text_format(r->text, "  \"norm_topk_prob\": %s,\n", value != 0.0 ? "true" : "false");
    for (i = 0; i < LLMI_COUNT(groups); i++) {                   /* 0: there are none */
        value = 0.0;
        (void)llmi_gguf_arch_value(r, groups[i], &value);
        llmi_gguf_put(r, i ? "topk_group" : "n_group", value == 0.0 ? 1.0 : value);
    }
    if (llmi_gguf_arch_value(r, "attention.temperature_scale", &value) && value != 0.0)
        return llmi_fail(r->err, LLM_ERR_UNSUPPORTED, "%.100s: key deepseek2.attention."
                         "temperature_scale is %g, only 0 is supported", r->g->source.name, value);
    return llmi_gguf_rope(r);
}

/* config.json as text, which the caller frees */
static llm_result llmi_gguf_config(const llmi_gguf_reader *r) {
    static const llmi_pair_of_names special[] = {
        {"tokenizer.ggml.bos_token_id", "bos_token_id", 1},
        {"tokenizer.ggml.padding_token_id", "pad_token_id", 1},
        {"tokenizer.ggml.eos_token_id", "eos_token_id", 1}, {NULL, NULL, 0}};
    const llmi_gguf_tensor *embedding = llmi_gguf_tensor_of(r, "token_embd.weight");
    const llmi_pair_of_names *pair;
    double value;
    llmi_text_format(r->text, "{\n");
    if (embedding) llmi_gguf_put(r, "vocab_size", (double)embedding->dims[1]);
    for (pair = r->arch->keys; pair->gguf; pair++)
        if (llmi_gguf_arch_value(r, pair->gguf, &value)) llmi_gguf_put(r, pair->ours, value);
        else if (!pair->optional) return llmi_gguf_missing(r, pair->gguf);
    for (pair = special; pair->gguf; pair++)
        if (llmi_gguf_value(r->g, llmi_gguf_find(r->g, pair->gguf), &value, r->err))
            llmi_gguf_put(r, pair->ours, value);
    if (!strcmp(r->arch->name, "deepseek2")) LLMI_TRY(llmi_gguf_deepseek(r));
    LLMI_TRY(llmi_gguf_no_wrong(r->g, r->err));
    llmi_text_format(r->text, "  \"tie_word_embeddings\": %s,\n  \"model_type\": \"%s\"\n}\n",
                     llmi_gguf_tensor_of(r, "output.weight") ? "false" : "true",
                     r->arch->model_type);
    return r->text->failed == LLM_OK
               ? LLM_OK
               : llmi_fail(r->err, r->text->failed, "out of memory: keys of a GGUF file");
}

/* Part i of n; the first has the keys. The parts' files become those of the shards. */
static llm_model *llmi_gguf_load(llmi_gguf *const *parts, size_t n, llmi_shards *all,
                                 const llm_model_desc *desc, llm_error *err) {
    const llmi_gguf_key *key = llmi_gguf_find(parts[0], "general.architecture");
    llm_model *model = NULL;
    llmi_gguf_reader r;
    llmi_text text;
    llm_result result;
    size_t i;
    for (i = 0; i < LLMI_COUNT(llmi_gguf_archs); i++)
        if (llmi_gguf_is(parts[0], key, llmi_gguf_archs[i].name)) break;
    if (i == LLMI_COUNT(llmi_gguf_archs)) {
        llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.120s: general.architecture is not gpt2 or deepseek2",
                  parts[0]->source.name);
        return NULL;
    }
    memset(&text, 0, sizeof text);
    text.allocator = all->allocator;
    all->is_gguf = 1;
    r.parts = parts;
    r.n_parts = n;
    r.g = parts[0];
    r.arch = &llmi_gguf_archs[i];
    r.text = &text;
    r.err = err;
    result = llmi_gguf_config(&r);
    for (i = 0; i < n && result == LLM_OK; i++)
        result = llmi_gguf_shard(parts[i], r.arch, &all->shards[i], err);
    if (result == LLM_OK) result = llmi_shards_index(all, err);
    if (result == LLM_OK)
        model = llmi_load_model(text.data, text.size, parts[0]->source.name, all, desc, err);
    llmi_text_free(&text);
    return model;
}

LLM_API llm_model *llm_model_load_memory(const char *config_json, size_t config_size,
                                         const void *safetensors, size_t size,
                                         const llm_model_desc *desc, llm_error *err) {
    llm_model *model = NULL;
    llmi_shards all;
    llmi_shard shard;
    const int is_gguf = safetensors && size >= 4 && !memcmp(safetensors, "GGUF", 4);
    if ((!config_json && !is_gguf) || !safetensors) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "config_json or safetensors is NULL");
        return NULL;
    }
    memset(&all, 0, sizeof all);
    memset(&shard, 0, sizeof shard);
    all.shards = &shard;
    all.n = 1;
    all.allocator = desc ? desc->allocator : NULL;
    shard.source.name = "safetensors in memory";
    shard.source.memory = (const unsigned char *)safetensors;
    shard.source.size = size;
    if (is_gguf) {
        llmi_gguf *g = llmi_gguf_new("GGUF in memory", all.allocator, err);
        if (g) {
            g->source = shard.source;
            g->source.name = "GGUF in memory";
            if (llmi_gguf_parse(g, err) == LLM_OK) model = llmi_gguf_load(&g, 1, &all, desc, err);
        }
        llmi_gguf_free(g);
    } else if (llmi_shard_parse(&shard, all.allocator, err) == LLM_OK &&
               llmi_shards_index(&all, err) == LLM_OK)
        model = llmi_load_model(config_json, config_size, "config.json in memory", &all, desc, err);
    llmi_release(all.allocator, all.by_name);
    llmi_shard_free(&shard, all.allocator);
    return model;
}

#ifndef LLM_NO_STDIO
static void llmi_shards_free(llmi_shards *all) {
    size_t i;
    for (i = 0; i < all->n; i++) llmi_shard_free(&all->shards[i], all->allocator);
    llmi_release(all->allocator, all->shards);
    llmi_release(all->allocator, all->paths);
    llmi_release(all->allocator, all->by_name);
    memset(all, 0, sizeof *all);
}

/* room for n shards, none of them opened */
static llm_result llmi_shards_make(llmi_shards *all, size_t n, llm_error *err) {
    all->shards = (llmi_shard *)llmi_alloc(all->allocator, n * sizeof *all->shards, "shards", err);
    if (!all->shards) return LLM_ERR_MEMORY;
    memset(all->shards, 0, n * sizeof *all->shards);
    all->paths = (char (*)[LLMI_PATH])llmi_alloc(all->allocator, n * sizeof *all->paths, "shards",
                                                 err);
    if (!all->paths) return LLM_ERR_MEMORY;
    all->n = n;
    return LLM_OK;
}

static llm_result llmi_shard_open(llmi_shard *shard, const char *path,
                                  const llm_allocator *allocator, llm_error *err) {
    int64_t size;
    shard->source.name = llmi_path_end(path, 80);
    LLMI_TRY(llmi_file_open(path, &shard->source.file, &size, err));
    shard->source.size = (uint64_t)size;
    return llmi_shard_parse(shard, allocator, err);
}

/* one file, with all there is; path stays the caller's as long as the shards live */
static llm_result llmi_shards_single(llmi_shards *all, const char *path, llm_error *err) {
    LLMI_TRY(llmi_shards_make(all, 1, err));
    LLMI_TRY(llmi_shard_open(&all->shards[0], path, all->allocator, err));
    return llmi_shards_index(all, err);
}

/* ---- what a save that was interrupted has left: see >>save ---------------------------------- */
#define LLMI_JOURNAL "model.save.json"
#define LLMI_JOURNAL_MOST ((size_t)1 << 20)    /* bytes: more names than a model can have files */
enum { LLMI_SAVED_NAME = 64 };         /* bytes of the longest name of a file that a save writes */

/* a file of JSON; text is NULL where there is none */
typedef struct llmi_json_file {
    void *text;
    llmi_json json;
    const llm_allocator *allocator;
} llmi_json_file;
typedef llmi_json_file llmi_journal;

static void llmi_json_file_free(llmi_json_file *f) {
    llmi_json_free(&f->json);
    llmi_release(f->allocator, f->text);
    f->text = NULL;
}
/* The caller frees it, also after a failure. path stays the caller's as long as it is used. */
static llm_result llmi_json_file_open(llmi_json_file *f, const char *path,
                                      const llm_allocator *allocator, llm_error *err) {
    size_t size;
    memset(f, 0, sizeof *f);
    f->allocator = allocator;
    if (!path[0] || llmi_kind_of(path) == LLMI_NO_FILE) return LLM_OK;
    LLMI_TRY(llmi_file_read(path, &f->text, &size, allocator, err));
    return llmi_json_parse(&f->json, (const char *)f->text, size, path, allocator, err);
}

/* a list of the journal, "files" or "remove" -> its first node, -1 = none; a next one by .next */
static int llmi_journal_first(const llmi_journal *j, const char *list) {
    const int node = j->text ? llmi_json_get(&j->json, 0, list) : -1;
    return node < 0 || j->json.nodes[node].type != LLMI_JSON_ARRAY
               ? -1
               : llmi_json_first(&j->json, node);
}

/* 1 and the name if it is one that a save may write; others are not touched */
static int llmi_journal_name(const llmi_json *json, int node, char name[LLMI_SAVED_NAME]) {
    const size_t n = llmi_json_string(json, node, name, LLMI_SAVED_NAME - 1);
    if (!n || n >= LLMI_SAVED_NAME || memchr(name, 0, n)) return 0;
    name[n] = 0;
    return !strcmp(name, "config.json") || !strcmp(name, "generation_config.json") ||
           !strcmp(name, "model.safetensors.index.json") ||
           (!strncmp(name, "model", 5) && !strchr(name, '/') && !strchr(name, '\\') &&
            llmi_ends_with(name, ".safetensors"));
}

static int llmi_journal_has(const llmi_journal *j, const char *list, const char *name) {
    int node;
    for (node = llmi_journal_first(j, list); node >= 0; node = j->json.nodes[node].next)
        if (llmi_json_is(&j->json, node, name)) return 1;
    return 0;
}

/* file: LLMI_JOURNAL or its temporary name. The caller frees it, also after a failure. */
static llm_result llmi_journal_open(llmi_journal *j, const char *directory, const char *file,
                                    const llm_allocator *allocator, llm_error *err) {
    char path[LLMI_PATH];
    memset(j, 0, sizeof *j);
    LLMI_TRY(llmi_path_join(path, sizeof path, directory, file, err));
    LLMI_TRY(llmi_json_file_open(j, path, allocator, err));
    j->json.name = file;
    if (j->json.size <= LLMI_JOURNAL_MOST) return LLM_OK;
    return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: %lu bytes: no save has written it",
                     llmi_path_end(path, 120), (unsigned long)j->json.size);
}

/* Where a model's file stands: what an interrupted save has written is under its temporary name,
 * and what it would have removed counts as absent (path is empty then). */
static llm_result llmi_saved_path(char path[LLMI_PATH], const llmi_journal *j,
                                  const char *directory, const char *name, llm_error *err) {
    char temporary[LLMI_PATH + 8];
    LLMI_TRY(llmi_path_join(path, LLMI_PATH - 8, directory, name, err));
    llmi_temporary_name(temporary, sizeof temporary, path, 0);
    if (llmi_journal_has(j, "remove", name)) path[0] = 0;
    else if (llmi_journal_has(j, "files", name) && llmi_kind_of(temporary) != LLMI_NO_FILE)
        strcpy(path, temporary);
    return LLM_OK;
}

/* the same of a file that has to be there */
static llm_result llmi_needed_path(char path[LLMI_PATH], const llmi_journal *j,
                                   const char *directory, const char *name, llm_error *err) {
    LLMI_TRY(llmi_saved_path(path, j, directory, name, err));
    if (path[0]) return LLM_OK;
    return llmi_fail(err, LLM_ERR_FORMAT,
                     "%.120s: %.64s is needed, and " LLMI_JOURNAL " removes it",
                     llmi_path_end(directory, 120), name);
}

/* ---- a model's files ------------------------------------------------------------------------ */
static int llmi_compare_texts(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names of shards that an index gives, each once, in their order: *names points into one block
 * with them, which the caller releases. */
static llm_result llmi_index_names(const llmi_json *index, char ***names, size_t *n,
                                   const llm_allocator *allocator, llm_error *err) {
    const int map = llmi_json_get(index, 0, "weight_map");
    size_t i, used = 0, count, bytes;
    char *text;
    int key;
    *n = 0;
    if (map < 0 || index->nodes[map].type != LLMI_JSON_OBJECT || index->nodes[map].n_children == 0)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: there is no \"weight_map\"", index->name);
    count = (size_t)index->nodes[map].n_children;
    bytes = index->nodes[map].end - index->nodes[map].begin;
    *names = (char **)llmi_alloc(allocator, count * sizeof **names + bytes, "shards", err);
    if (!*names) return LLM_ERR_MEMORY;
    text = (char *)(*names + count);
    for (key = llmi_json_first(index, map); key >= 0;
         key = index->nodes[index->nodes[key].next].next) {
        const int value = index->nodes[key].next;
        char *file = text + used;
        const size_t size = llmi_json_string(index, value, file, bytes - used);
        if (index->nodes[value].type != LLMI_JSON_STRING || size == 0 || size > 255 ||
            memchr(file, '/', size) || memchr(file, '\\', size) || memchr(file, 0, size) ||
            file[0] == '.')
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.100s: shard name \"%.*s\" is not that of a file in the directory",
                             index->name,
                             (int)llmi_min(80, index->nodes[value].end - index->nodes[value].begin),
                             index->text + index->nodes[value].begin);
        file[size] = 0;
        used += size + 1;
        (*names)[(*n)++] = file;
    }
    qsort(*names, count, sizeof **names, llmi_compare_texts);
    for (i = *n = 0; i < count; i++)
        if (!i || strcmp((*names)[*n - 1], (*names)[i]) != 0) (*names)[(*n)++] = (*names)[i];
    return LLM_OK;
}

static llm_result llmi_shards_open(llmi_shards *all, const char *directory,
                                   const char *const *names, size_t n,
                                   const llmi_journal *journal, llm_error *err) {
    uint64_t headers = 0;
    size_t i;
    if (n > 1024)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.120s: more than 1024 shards",
                         llmi_path_end(directory, 120));
    LLMI_TRY(llmi_shards_make(all, n, err));
    for (i = 0; i < n; i++) {
        LLMI_TRY(llmi_needed_path(all->paths[i], journal, directory, names[i], err));
        LLMI_TRY(llmi_shard_open(&all->shards[i], all->paths[i], all->allocator, err));
        headers += all->shards[i].json.size;
        if (headers > LLMI_HEADER_MOST)
            return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                             "%.120s: the headers of its shards take more than %lu bytes",
                             llmi_path_end(directory, 120), (unsigned long)LLMI_HEADER_MOST);
    }
    return llmi_shards_index(all, err);
}

/* a directory's weights: model.safetensors, or else what the index names */
static llm_result llmi_directory_open(llmi_shards *all, const char *directory,
                                      const llmi_journal *journal, llm_error *err) {
    static const char *const single = "model.safetensors";
    char path[LLMI_PATH], **names = NULL;
    llmi_json_file index;
    llm_result result;
    size_t n;
    LLMI_TRY(llmi_saved_path(path, journal, directory, single, err));
    if (llmi_kind_of(path) != LLMI_NO_FILE)
        return llmi_shards_open(all, directory, &single, 1, journal, err);
    LLMI_TRY(llmi_saved_path(path, journal, directory, "model.safetensors.index.json", err));
    result = llmi_json_file_open(&index, path, all->allocator, err);
    if (result == LLM_OK && !index.text)
        result = llmi_shards_open(all, directory, &single, 1, journal, err);
    else if (result == LLM_OK) {
        result = llmi_index_names(&index.json, &names, &n, all->allocator, err);
        if (result == LLM_OK)
            result = llmi_shards_open(all, directory, (const char *const *)names, n, journal, err);
        llmi_release(all->allocator, names);
    }
    llmi_json_file_free(&index);
    return result;
}

/* generation_config.json's special tokens replace config.json's */
static llm_result llmi_load_generation(llm_model *model, const char *directory,
                                       const llmi_journal *journal, llm_error *err) {
    char path[LLMI_PATH];
    llmi_json_file f;
    llm_result result;
    LLMI_TRY(llmi_saved_path(path, journal, directory, "generation_config.json", err));
    result = llmi_json_file_open(&f, path, model->allocator, err);
    if (result == LLM_OK && f.text) result = llmi_read_special(&model->special, &f.json, err);
    llmi_json_file_free(&f);
    return result;
}

/* the configuration that one file holds with its weights */
static llm_result llmi_config_of_metadata(const llmi_shards *all, void **config, size_t *size,
                                          llm_error *err) {
    const llmi_json *json = &all->shards[0].json;
    const int node = llmi_json_get(json, llmi_json_get(json, 0, "__metadata__"), "config");
    if (node < 0 || json->nodes[node].type != LLMI_JSON_STRING)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: its metadata holds no \"config\"",
                         all->shards[0].source.name);
    *size = llmi_json_string(json, node, NULL, 0);
    *config = llmi_alloc(all->allocator, *size, "configuration", err);
    if (!*config) return LLM_ERR_MEMORY;
    (void)llmi_json_string(json, node, (char *)*config, *size);
    return LLM_OK;
}

/* How many parts a GGUF model has, by its name: x-00001-of-00003.gguf has three; others are 1. */
static size_t llmi_gguf_count(const char *path) {
    const size_t length = strlen(path);
    const char *end = path + (length > 20 ? length - 20 : 0);    /* -00001-of-00003.gguf */
    size_t i;
    for (i = 0; i < 5 && length > 20; i++)
        if (end[1 + i] < '0' || end[1 + i] > '9' || end[10 + i] < '0' || end[10 + i] > '9') break;
    if (i < 5 || end[0] != '-' || strncmp(end + 6, "-of-", 4)) return 1;
    return (size_t)llmi_max((size_t)strtoul(end + 10, NULL, 10), 1);
}
/* every part says which it is of how many, and the first how many tensors there are */
static llm_result llmi_gguf_check_part(llmi_gguf *g, size_t i, size_t n, size_t *n_tensors,
                                       llm_error *err) {
    double count = 1.0, no = 0.0, total;
    *n_tensors += g->n_tensors;
    (void)llmi_gguf_value(g, llmi_gguf_find(g, "split.count"), &count, err);
    (void)llmi_gguf_value(g, llmi_gguf_find(g, "split.no"), &no, err);
    LLMI_TRY(llmi_gguf_no_wrong(g, err));
    if ((n > 1 || count > 1.0) && (count != (double)n || no != (double)i))
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: it is part %.0f of %.0f by its keys, %lu of "
                         "%lu by its name", g->source.name, no + 1.0, count, (unsigned long)i + 1,
                         (unsigned long)n);
    if (i + 1 == n && n > 1 &&
        llmi_gguf_value(g, llmi_gguf_find(g, "split.tensors.count"), &total, err) &&
        total != (double)*n_tensors)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: its parts have %lu tensors, not %.0f",
                         g->source.name, (unsigned long)*n_tensors, total);
    return LLM_OK;
}
static const char *llmi_five_digits(char digits[5], size_t n) {
    int i;
    for (i = 5; i-- > 0; n /= 10) digits[i] = (char)('0' + n % 10);
    return digits;
}
static llm_model *llmi_gguf_load_files(const char *path, const llm_model_desc *desc,
                                       llm_error *err) {
    const size_t n = llmi_gguf_count(path), length = strlen(path);
    llm_model *model = NULL;
    llmi_gguf **parts;
    llmi_shards all;
    llm_result result;
    size_t n_tensors = 0, i;
    char digits[5];
    memset(&all, 0, sizeof all);
    all.allocator = desc ? desc->allocator : NULL;
    if (n > 1024) {
        llmi_fail(err, LLM_ERR_UNSUPPORTED, "%.120s: %lu parts, at most 1024 are supported",
                  llmi_path_end(path, 120), (unsigned long)n);
        return NULL;
    }
    parts = (llmi_gguf **)llmi_alloc(all.allocator, n * sizeof *parts, "parts", err);
    if (!parts) return NULL;
    memset(parts, 0, n * sizeof *parts);
    result = llmi_shards_make(&all, n, err);
    for (i = 0; i < n && result == LLM_OK; i++) {
        result = llmi_path_join(all.paths[i], sizeof all.paths[i], "", path, err);
        if (result == LLM_OK && n > 1)
            memcpy(all.paths[i] + length - 19, llmi_five_digits(digits, i + 1), 5);
        parts[i] = result == LLM_OK ? llmi_gguf_open(all.paths[i], all.allocator, err) : NULL;
        if (!parts[i]) result = LLM_ERR_IO;
        else result = llmi_gguf_check_part(parts[i], i, n, &n_tensors, err);
    }
    if (result == LLM_OK) model = llmi_gguf_load(parts, n, &all, desc, err);
    for (i = 0; i < n; i++) llmi_gguf_free(parts[i]);
    llmi_release(all.allocator, parts);
    llmi_shards_free(&all);
    return model;
}

LLM_API llm_model *llm_model_load(const char *path, const llm_model_desc *desc, llm_error *err) {
    const llm_allocator *allocator = desc ? desc->allocator : NULL;
    char config_path[LLMI_PATH];
    llm_model *model = NULL;
    llmi_shards all;
    llmi_journal journal;
    void *config = NULL;
    size_t size = 0;
    llm_result result;
    memset(&all, 0, sizeof all);
    memset(&journal, 0, sizeof journal);
    all.allocator = allocator;
    if (!path) {
        llmi_fail(err, LLM_ERR_ARGUMENT, "path is NULL");
        return NULL;
    }
    if (llmi_ends_with(path, ".gguf")) return llmi_gguf_load_files(path, desc, err);
    if (llmi_ends_with(path, ".safetensors")) {
        result = llmi_path_join(config_path, sizeof config_path, "", path, err);
        if (result == LLM_OK) result = llmi_shards_single(&all, path, err);
        if (result == LLM_OK) result = llmi_config_of_metadata(&all, &config, &size, err);
    } else {
        result = llmi_journal_open(&journal, path, LLMI_JOURNAL, allocator, err);
        if (result == LLM_OK)
            result = llmi_needed_path(config_path, &journal, path, "config.json", err);
        if (result == LLM_OK) result = llmi_file_read(config_path, &config, &size, allocator, err);
        if (result == LLM_OK)          /* another family is named before a file that is missing */
            result = llmi_config_check((const char *)config, size, config_path, allocator, err);
        if (result == LLM_OK) result = llmi_directory_open(&all, path, &journal, err);
    }
    if (result == LLM_OK)
        model = llmi_load_model((const char *)config, size, config_path, &all, desc, err);
    if (model && llmi_load_generation(model, path, &journal, err) != LLM_OK) {
        llm_model_free(model);
        model = NULL;
    }
    llmi_shards_free(&all);
    llmi_json_file_free(&journal);
    llmi_release(allocator, config);
    return model;
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>save         a directory that transformers loads
 *
 * Several files change together, whatever byte the process dies at. A journal, model.save.json,
 * lists them; it stands under its temporary name (".tmp") before any of them is written, also
 * under temporary names. When all are durable, the journal gets its own name: from then on the new
 * generation is the one that loads, with or without what follows: every file gets its name, those
 * of the old generation that it does not replace are removed, and then the journal. The next save
 * of the directory first ends what an earlier one began.
 * Weights and config.json carry the same hash of configuration and weights, so that one of an old
 * save beside one of a new is noticed, should somebody else mix them.
 * ========================================================================================== */
#ifndef LLM_NO_STDIO
#ifndef LLM_SHARD_BYTES
  #define LLM_SHARD_BYTES 5000000000u
#endif

/* lines of JSON; end: what follows the last */
static void llmi_special_write(llmi_text *text, const llm_special_tokens *special,
                               const char *end) {
    int i;
    if (special->bos >= 0) llmi_text_format(text, "  \"bos_token_id\": %ld,\n", (long)special->bos);
    else llmi_text_format(text, "  \"bos_token_id\": null,\n");
    if (special->pad >= 0) llmi_text_format(text, "  \"pad_token_id\": %ld,\n", (long)special->pad);
    llmi_text_format(text, "  \"eos_token_id\": %s", special->n_eos > 1    ? "["
                                                     : special->n_eos == 0 ? "null" : "");
    for (i = 0; i < special->n_eos; i++)
        llmi_text_format(text, "%s%ld", i ? ", " : "", (long)special->eos[i]);
    llmi_text_format(text, "%s%s\n", special->n_eos > 1 ? "]" : "", end);
}

static void llmi_model_describe(llmi_text *text, const llm_model *model, llm_dtype dtype,
                                const char *generation) {
    const char *type = dtype == LLM_BF16 ? "bfloat16" : "float32";
    llmi_text_format(text, "{\n");
    llmi_config_write(text, &model->config);
    llmi_special_write(text, &model->special, ",");
    llmi_text_format(text, "  \"dtype\": \"%s\",\n  \"torch_dtype\": \"%s\",\n", type, type);
    llmi_text_format(text, "  \"" LLMI_GENERATION "\": \"%s\"\n}\n", generation);
}

/* of the tensors first .. end */
static void llmi_header_write(llmi_text *text, const llmi_table *table, size_t first, size_t end,
                              llm_dtype dtype, const char *generation) {
    const size_t bytes = dtype == LLM_BF16 ? 2 : 4;
    uint64_t at = 0;
    size_t i;
    llmi_text_format(text, "{\"__metadata__\":{\"format\":\"pt\",\"" LLMI_GENERATION "\":\"%s\"}",
                     generation);
    for (i = first; i < end; i++) {
        const llmi_tensor *row = &table->rows[i];
        char shape[64];
        llmi_shape_text(shape, sizeof shape, row->dims, row->n_dims);
        llmi_text_format(text,
                         ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                         row->name, dtype == LLM_BF16 ? "BF16" : "F32", shape,
                         (unsigned long long)at, (unsigned long long)(at + row->count * bytes));
        at += row->count * bytes;
    }
    llmi_text_add(text, "}", 1);
    while (text->size % LLMI_ALIGN != LLMI_ALIGN - 8 && text->failed == LLM_OK)
        llmi_text_add(text, " ", 1);
}

/* ---- a journal: see the head of this section ------------------------------------------------- */
typedef struct llmi_save {
    const llm_model *model;
    const char *directory;
    llm_dtype dtype;
    char generation[32];
    size_t n_shards;
    uint64_t most;                     /* bytes of a shard's data */
    llmi_journal plan;                 /* what the journal's file says */
    llmi_writer journal;               /* under its temporary name until all files are written */
} llmi_save;

static void llmi_save_name(char name[LLMI_SAVED_NAME], size_t shard, size_t n_shards) {
    if (n_shards == 1) strcpy(name, "model.safetensors");
    else
        snprintf(name, LLMI_SAVED_NAME, "model-%05lu-of-%05lu.safetensors",
                 (unsigned long)shard + 1, (unsigned long)n_shards);
}

/* Gives what the journal lists its names, or (undo) removes the temporary files; then removes what
 * the journal says. */
static llm_result llmi_journal_apply(const llmi_journal *j, const char *directory, int undo,
                                     llm_error *err) {
    char name[LLMI_SAVED_NAME], path[LLMI_PATH], temporary[LLMI_PATH + 8];
    int node;
    path[0] = 0;
    for (node = llmi_journal_first(j, "files"); node >= 0; node = j->json.nodes[node].next) {
        if (!llmi_journal_name(&j->json, node, name)) continue;
        LLMI_TRY(llmi_path_join(path, sizeof path, directory, name, err));
        llmi_temporary_name(temporary, sizeof temporary, path, 0);
        if (undo) (void)llmi_temporary_clean(temporary);
        else if (llmi_kind_of(temporary) != LLMI_NO_FILE)
            LLMI_TRY(llmi_file_rename(temporary, path, err));
    }
    if (path[0]) llmi_directory_sync(path);
    path[0] = 0;
    node = undo ? -1 : llmi_journal_first(j, "remove");
    for (; node >= 0; node = j->json.nodes[node].next) {
        if (!llmi_journal_name(&j->json, node, name)) continue;
        LLMI_TRY(llmi_path_join(path, sizeof path, directory, name, err));
        if (llmi_file_remove(path)) return llmi_fail_io(err, "remove", path);
    }
    if (path[0]) llmi_directory_sync(path);            /* before the journal goes */
    return LLM_OK;
}

/* Ends what an earlier save began here: one that had written all is finished, of another the
 * temporary files are removed. So is a file that is no journal: no save has written it. */
static llm_result llmi_save_recover(const llmi_save *save, llm_error *err) {
    static const char *const files[] = {LLMI_JOURNAL, LLMI_JOURNAL ".tmp"};
    char path[LLMI_PATH];
    int undo;
    for (undo = 0; undo < 2; undo++) {
        llmi_journal journal;
        llm_error why;
        llm_result result;
        LLMI_TRY(llmi_path_join(path, sizeof path, save->directory, files[undo], err));
        if (llmi_kind_of(path) == LLMI_NO_FILE) continue;
        result = llmi_journal_open(&journal, save->directory, files[undo], save->model->allocator,
                                   &why);
        if (result == LLM_OK)
            result = llmi_journal_apply(&journal, save->directory, undo, &why);
        llmi_json_file_free(&journal);
        if (result != LLM_OK && result != LLM_ERR_FORMAT)
            return llmi_fail(err, result, "%s", why.message);
        (void)llmi_file_remove(path);
        llmi_directory_sync(path);
    }
    return LLM_OK;
}

/* The names of the old generation's files that the new one does not have. An index that cannot be
 * read names none. */
static llm_result llmi_save_list_old(const llmi_save *save, llmi_text *text, llm_error *err) {
    const llm_allocator *allocator = save->model->allocator;
    const char *index_name = "model.safetensors.index.json", *comma = "";
    char path[LLMI_PATH], ours[LLMI_SAVED_NAME], **names = NULL;
    llmi_json_file index;
    llm_error why;
    llm_result result;
    size_t n = 0, i, shard;
    if (save->n_shards > 1) {
        llmi_text_format(text, "\"model.safetensors\"");
        comma = ", ";
    }
    LLMI_TRY(llmi_path_join(path, sizeof path, save->directory, index_name, err));
    result = llmi_json_file_open(&index, path, allocator, &why);
    if (result == LLM_OK && index.text)
        result = llmi_index_names(&index.json, &names, &n, allocator, &why);
    for (i = 0; i < n && result == LLM_OK; i++) {
        for (shard = 0; shard < save->n_shards; shard++) {
            llmi_save_name(ours, shard, save->n_shards);
            if (!strcmp(ours, names[i])) break;
        }
        if (shard < save->n_shards || strlen(names[i]) >= sizeof ours ||
            !llmi_ends_with(names[i], ".safetensors"))
            continue;
        llmi_text_format(text, "%s", comma);
        llmi_text_string(text, names[i], strlen(names[i]));
        comma = ", ";
    }
    if (save->n_shards == 1 && index.text) llmi_text_format(text, "%s\"%s\"", comma, index_name);
    llmi_release(allocator, names);
    llmi_json_file_free(&index);
    if (result == LLM_ERR_MEMORY || result == LLM_ERR_IO)
        return llmi_fail(err, result, "%s", why.message);
    return LLM_OK;                     /* what cannot be read as an index, no save has written */
}

static llm_result llmi_save_plan(llmi_save *save, llm_error *err) {
    char path[LLMI_PATH], name[LLMI_SAVED_NAME];
    llmi_text text;
    llm_result result;
    size_t i;
    memset(&text, 0, sizeof text);
    text.allocator = save->model->allocator;
    llmi_text_format(&text, "{\"files\": [");
    for (i = 0; i < save->n_shards; i++) {
        llmi_save_name(name, i, save->n_shards);
        llmi_text_format(&text, "\"%s\", ", name);
    }
    if (save->n_shards > 1) llmi_text_format(&text, "\"model.safetensors.index.json\", ");
    llmi_text_format(&text, "\"generation_config.json\", \"config.json\"],\n \"remove\": [");
    result = llmi_save_list_old(save, &text, err);
    llmi_text_format(&text, "]}\n");
    if (result == LLM_OK && text.failed != LLM_OK)
        result = llmi_fail(err, text.failed, "out of memory: the journal of %.120s",
                           llmi_path_end(save->directory, 120));
    save->plan.allocator = text.allocator;
    save->plan.text = text.data;
    if (result == LLM_OK)
        result = llmi_json_parse(&save->plan.json, text.data, text.size, LLMI_JOURNAL,
                                 text.allocator, err);
    if (result == LLM_OK)
        result = llmi_path_join(path, sizeof path, save->directory, LLMI_JOURNAL, err);
    if (result == LLM_OK) result = llmi_writer_open(&save->journal, path, 1, err);
    if (result == LLM_OK) result = llmi_writer_add(&save->journal, text.data, text.size, err);
    if (result == LLM_OK) result = llmi_writer_finish(&save->journal, err);
    return result;
}

/* ---- the files ------------------------------------------------------------------------------- */
/* each is whole under its temporary name before the journal gets its own */
static llm_result llmi_save_open(const llmi_save *save, const char *name, llmi_writer *w,
                                 llm_error *err) {
    char path[LLMI_PATH];
    LLMI_TRY(llmi_path_join(path, sizeof path, save->directory, name, err));
    return llmi_writer_open(w, path, 1, err);
}
static llm_result llmi_save_close(llmi_writer *w, llm_error *err) {
    LLMI_TRY(llmi_writer_finish(w, err));
    llmi_writer_unlock(w);
    return LLM_OK;
}

static llm_result llmi_save_text(const llmi_save *save, const char *name, const llmi_text *text,
                                 llm_error *err) {
    llmi_writer w;
    if (text->failed != LLM_OK)
        return llmi_fail(err, text->failed, "out of memory: %s of %.120s", name,
                         llmi_path_end(save->directory, 120));
    LLMI_TRY(llmi_save_open(save, name, &w, err));
    LLMI_TRY(llmi_writer_add(&w, text->data, text->size, err));
    return llmi_save_close(&w, err);
}

static llm_result llmi_save_tensor(llmi_writer *w, const float *values, size_t count,
                                   llm_dtype dtype, llm_error *err) {
    uint16_t part[4096];
    size_t j, k;
    if (dtype == LLM_F32) return llmi_writer_add(w, values, count * sizeof *values, err);
    for (j = 0; j < count; j += k) {
        for (k = 0; k < 4096 && j + k < count; k++) part[k] = llmi_f32_to_bf16(values[j + k]);
        LLMI_TRY(llmi_writer_add(w, part, k * sizeof *part, err));
    }
    return LLM_OK;
}

static llm_result llmi_save_tensors(const llmi_save *save, const char *name, size_t first,
                                    size_t end, llm_error *err) {
    const llm_model *model = save->model;
    unsigned char length[8];
    llmi_text header;
    llmi_writer w;
    llm_result result;
    void *values = NULL;
    size_t capacity = 0, i;
    memset(&header, 0, sizeof header);
    header.allocator = model->allocator;
    llmi_header_write(&header, &model->table, first, end, save->dtype, save->generation);
    llmi_put_little(length, header.size, 8);
    result = header.failed == LLM_OK
                 ? llmi_save_open(save, name, &w, err)
                 : llmi_fail(err, header.failed, "out of memory: the header of %s", name);
    if (result == LLM_OK) result = llmi_writer_add(&w, length, 8, err);
    if (result == LLM_OK) result = llmi_writer_add(&w, header.data, header.size, err);
    for (i = first; i < end && result == LLM_OK; i++) {
        const size_t count = model->table.rows[i].count;
        const float *from = (const float *)model->values[i].data;
        if (!llmi_values_are_plain(model, i)) {
            result = llmi_grow(model->allocator, &values, &capacity, 0, count * sizeof(float),
                               "a tensor in f32", err);
            if (result == LLM_OK) llmi_values_read(model, i, (float *)values);
            from = (const float *)values;
        }
        if (result == LLM_OK) result = llmi_save_tensor(&w, from, count, save->dtype, err);
    }
    llmi_release(model->allocator, values);
    if (result == LLM_OK) result = llmi_save_close(&w, err);
    llmi_text_free(&header);
    return result;
}

/* the tensors from first on that a shard takes: those before the result */
static size_t llmi_shard_end(const llmi_table *table, size_t first, uint64_t bytes_each,
                             uint64_t most) {
    uint64_t bytes = 0;
    size_t i = first;
    while (i < table->n && (i == first || bytes + table->rows[i].count * bytes_each <= most))
        bytes += table->rows[i++].count * bytes_each;
    return i;
}

/* model.safetensors, or shards of at most `most` bytes of data with their index */
static llm_result llmi_save_weights(const llmi_save *save, llmi_text *index, llm_error *err) {
    const llmi_table *table = &save->model->table;
    const uint64_t each = save->dtype == LLM_BF16 ? 2 : 4;
    size_t shard, first = 0, i;
    if (save->n_shards == 1) return llmi_save_tensors(save, "model.safetensors", 0, table->n, err);
    llmi_text_format(index, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {\n",
                     (unsigned long long)(table->parameters * each));
    for (shard = 0; shard < save->n_shards; shard++) {
        const size_t end = llmi_shard_end(table, first, each, save->most);
        char name[LLMI_SAVED_NAME];
        llmi_save_name(name, shard, save->n_shards);
        LLMI_TRY(llmi_save_tensors(save, name, first, end, err));
        for (i = first; i < end; i++)
            llmi_text_format(index, "    \"%s\": \"%s\"%s\n", table->rows[i].name, name,
                             i + 1 < table->n ? "," : "");
        first = end;
    }
    llmi_text_format(index, "  }\n}\n");
    return LLM_OK;
}

static llm_result llmi_save_files(const llmi_save *save, llm_error *err) {
    const llm_model *model = save->model;
    llmi_text index, defaults, config;
    llm_result result;
    memset(&index, 0, sizeof index);
    index.allocator = model->allocator;
    defaults = config = index;
    llmi_text_format(&defaults, "{\n  \"_from_model_config\": true,\n");
    llmi_special_write(&defaults, &model->special, "");
    llmi_text_format(&defaults, "}\n");
    llmi_model_describe(&config, model, save->dtype, save->generation);
    result = llmi_save_weights(save, &index, err);
    if (result == LLM_OK) result = llmi_save_text(save, "generation_config.json", &defaults, err);
    if (result == LLM_OK) result = llmi_save_text(save, "config.json", &config, err);
    if (result == LLM_OK && save->n_shards > 1)
        result = llmi_save_text(save, "model.safetensors.index.json", &index, err);
    llmi_text_free(&index);
    llmi_text_free(&defaults);
    llmi_text_free(&config);
    return result;
}

/* the caller holds the directory's lock */
static llm_result llmi_save_locked(llmi_save *save, llm_error *err) {
    llm_result result;
    LLMI_TRY(llmi_save_recover(save, err));
    result = llmi_save_plan(save, err);
    if (result == LLM_OK) {
        result = llmi_save_files(save, err);
        llmi_directory_sync(save->journal.path);       /* the temporary names, before the journal */
        if (result == LLM_OK)
            result = llmi_file_rename(save->journal.temporary, save->journal.path, err);
        if (result == LLM_OK) {
            llmi_directory_sync(save->journal.path);
            llmi_writer_unlock(&save->journal);
        } else {
            (void)llmi_journal_apply(&save->plan, save->directory, 1, NULL);
            llmi_writer_abandon(&save->journal);       /* last: it names the files */
        }
    }
    if (result == LLM_OK) result = llmi_journal_apply(&save->plan, save->directory, 0, err);
    if (result == LLM_OK) {
        (void)llmi_file_remove(save->journal.path);
        llmi_directory_sync(save->journal.path);
    }
    llmi_json_file_free(&save->plan);
    return result;
}

static llm_result llmi_model_save(const llm_model *model, const char *directory, llm_dtype dtype,
                                  uint64_t most, llm_error *err) {
    const uint64_t each = dtype == LLM_BF16 ? 2 : 4;
    llm_result result;
    llmi_save save;
    uint64_t hash;
    size_t i, scales;
    LLMI_TRY(llmi_directory_create(directory, err));
    memset(&save, 0, sizeof save);
    save.model = model;
    save.directory = directory;
    save.dtype = dtype;
    save.most = most;
    for (i = 0; i < model->table.n; save.n_shards++)
        i = llmi_shard_end(&model->table, i, each, most);
    hash = llmi_hash_add((uint64_t)dtype, &model->config, sizeof model->config);
    hash = llmi_hash_add(hash, &model->special, sizeof model->special);
    for (i = 0; i < model->table.n; i++)
        hash = llmi_hash_add(hash, model->values[i].data, llmi_values_size(model, i, &scales));
    snprintf(save.generation, sizeof save.generation, "%016llx", (unsigned long long)hash);
#if LLMI_POSIX
    {                                  /* those who save here take turns */
        const int lock = open(directory, O_RDONLY | O_CLOEXEC);
        if (lock < 0 && errno != EACCES) return llmi_fail_io(err, "open", directory);
        if (lock >= 0) llmi_lock(lock, 1);
        result = llmi_save_locked(&save, err);
        if (lock >= 0) close(lock);
    }
#else
    result = llmi_save_locked(&save, err);
#endif
    return result;
}

LLM_API llm_result llm_model_save(const llm_model *model, const char *directory, llm_dtype dtype,
                                  llm_error *err) {
    if (!model || !directory) return llmi_fail(err, LLM_ERR_ARGUMENT, "model or directory is NULL");
    if (dtype == LLM_DTYPE_DEFAULT) dtype = LLM_F32;
    if (dtype != LLM_F32 && dtype != LLM_BF16)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "%.120s: dtype %d: models are saved in F32 or BF16", directory,
                         (int)dtype);
    return llmi_model_save(model, directory, dtype, LLM_SHARD_BYTES, err);
}

/* ---- GGUF files are written ------------------------------------------------------------------ */
#define LLMI_GGUF_ALIGN 32u
typedef struct llmi_gguf_out {
    const llm_model *model;
    const llmi_gguf_arch *arch;
    llm_dtype dtype;                   /* of matrices; DEFAULT: as they are                     */
    llmi_text keys, tensors;           /* what the file begins with                             */
    uint64_t n_keys, n_tensors, at;    /* at: bytes of data of the tensors so far               */
    llmi_writer w;
    llm_context *context;
    llmi_room room;
    llm_error *err;
} llmi_gguf_out;

static void llmi_gguf_put_number(llmi_text *text, uint64_t value, int bytes) {
    unsigned char b[8];
    llmi_put_little(b, value, bytes);
    llmi_text_add(text, (const char *)b, (size_t)bytes);
}
static void llmi_gguf_put_string(llmi_text *text, const char *bytes, size_t n) {
    llmi_gguf_put_number(text, n, 8);
    llmi_text_add(text, bytes, n);
}
/* a key's name and type; the architecture's name is put in front of keys that begin neither with
 * general. nor with tokenizer. */
static void llmi_gguf_put_key(llmi_gguf_out *o, const char *key, llmi_gguf_type type) {
    char name[128];
    const int whole = !strncmp(key, "general.", 8) || !strncmp(key, "tokenizer.", 10);
    snprintf(name, sizeof name, "%s%s%s", whole ? "" : o->arch->name, whole ? "" : ".", key);
    llmi_gguf_put_string(&o->keys, name, strlen(name));
    llmi_gguf_put_number(&o->keys, type, 4);
    o->n_keys++;
}
static void llmi_gguf_put_u32(llmi_gguf_out *o, const char *key, int64_t value) {
    llmi_gguf_put_key(o, key, LLMI_GGUF_U32);
    llmi_gguf_put_number(&o->keys, (uint64_t)value, 4);
}
static void llmi_gguf_put_f32(llmi_gguf_out *o, const char *key, float value) {
    llmi_gguf_put_key(o, key, LLMI_GGUF_F32);
    llmi_gguf_put_number(&o->keys, llmi_bits_of_float(value), 4);
}
static void llmi_gguf_put_bool(llmi_gguf_out *o, const char *key, int value) {
    llmi_gguf_put_key(o, key, LLMI_GGUF_BOOL);
    llmi_gguf_put_number(&o->keys, value != 0, 1);
}
static void llmi_gguf_put_text(llmi_gguf_out *o, const char *key, const char *text) {
    llmi_gguf_put_key(o, key, LLMI_GGUF_STRING);
    llmi_gguf_put_string(&o->keys, text, strlen(text));
}
static void llmi_gguf_put_array(llmi_gguf_out *o, const char *key, llmi_gguf_type item,
                                uint64_t count) {
    llmi_gguf_put_key(o, key, LLMI_GGUF_ARRAY);
    llmi_gguf_put_number(&o->keys, item, 4);
    llmi_gguf_put_number(&o->keys, count, 8);
}

/* the inverse of llmi_gguf_rope */
static void llmi_gguf_yarn(const llm_config *c, float *multiplier, float *factor) {
    const double of_1 = c->yarn_factor > 1.0f ? 0.1 * log((double)c->yarn_factor) : 0.0;
    const int both = c->yarn_mscale != 0.0f && c->yarn_mscale_all_dim != 0.0f;
    const double b = of_1 * (double)c->yarn_mscale_all_dim + 1.0;
    const double a = both ? (of_1 * (double)c->yarn_mscale + 1.0) / b : of_1 + 1.0;
    const double m = of_1 > 0.0 ? (b / a - 1.0) / of_1 : 0.0;
    const int same = both && c->yarn_mscale == c->yarn_mscale_all_dim;
    *multiplier = same ? 0.1f * c->yarn_mscale : (float)(0.1 * m);
    *factor = same ? 1.0f : *multiplier != 0.0f ? (float)a : (float)(a / (of_1 + 1.0));
}
/* the type that is asked for, or the one that most of the matrices' values have */
static llm_dtype llmi_gguf_main_type(const llmi_gguf_out *o) {
    uint64_t counts[LLM_Q6_K + 1] = {0};
    int most = LLM_F32, type;
    size_t i;
    for (i = 0; i < o->model->table.n; i++)
        if (o->model->table.rows[i].is_matrix)
            counts[o->model->values[i].type] += o->model->table.rows[i].count;
    for (type = LLM_F32; type <= LLM_Q6_K; type++)
        if (counts[type] > counts[most]) most = type;
    return o->dtype ? o->dtype : (llm_dtype)most;
}
static void llmi_gguf_put_config(llmi_gguf_out *o) {
    static const int file_types[] = {0, 0, 1, 32, 0, 7, 2, 3, 8, 9, 15, 17, 18};  /* by llm_dtype */
    const llmi_arch *arch = o->model->arch;
    const llmi_pair_of_names *pair;
    llm_config with = o->model->config, *c = &with;
    float multiplier, factor;
    size_t i;
    if (!c->n_routed_experts) c->first_k_dense = c->n_layers + c->mtp_depth;
    llmi_gguf_put_text(o, "general.architecture", o->arch->name);
    llmi_gguf_put_u32(o, "general.file_type", file_types[llmi_gguf_main_type(o)]);
    llmi_gguf_put_u32(o, "general.quantization_version", 2);
    for (pair = o->arch->keys; pair->gguf; pair++)
        for (i = 0; i < arch->n_fields; i++) {
            const llmi_field *f = &arch->fields[i];
            const double value = llmi_field_get(c, f);
            if (!f->key || strcmp(f->key, pair->ours)) continue;
            if (f->type == LLMI_FLOAT) llmi_gguf_put_f32(o, pair->gguf, (float)value);
            else llmi_gguf_put_u32(o, pair->gguf, (int64_t)value);
        }
    llmi_gguf_put_u32(o, "vocab_size", c->vocab_size);
    if (strcmp(o->arch->name, "deepseek2")) return;
    llmi_gguf_put_u32(o, "block_count", c->n_layers + c->mtp_depth);
    llmi_gguf_put_u32(o, "attention.head_count_kv", c->n_heads);
    llmi_gguf_put_u32(o, "attention.key_length", c->qk_nope_head_dim + c->qk_rope_head_dim);
    llmi_gguf_put_u32(o, "attention.value_length", c->v_head_dim);
    llmi_gguf_put_u32(o, "expert_gating_func", 2);
    llmi_gguf_put_bool(o, "expert_weights_norm", c->norm_topk_prob);
    llmi_gguf_put_f32(o, "expert_weights_scale", c->routed_scaling_factor);
    llmi_gguf_put_f32(o, "rope.freq_base", c->rope_theta);
    if (c->topk_group < c->n_group) {
        llmi_gguf_put_u32(o, "expert_group_count", c->n_group);
        llmi_gguf_put_u32(o, "expert_group_used_count", c->topk_group);
    }
    if (c->yarn_factor == 0.0f) return;
    llmi_gguf_put_text(o, "rope.scaling.type", "yarn");
    llmi_gguf_put_f32(o, "rope.scaling.factor", c->yarn_factor);
    llmi_gguf_put_u32(o, "rope.scaling.original_context_length", c->yarn_original_max_seq_len);
    llmi_gguf_yarn(c, &multiplier, &factor);
    if (multiplier != 0.0f)
        llmi_gguf_put_f32(o, "rope.scaling.yarn_log_multiplier", multiplier);
    if (factor != 1.0f) llmi_gguf_put_f32(o, "rope.scaling.attn_factor", factor);
}

/* a token, or two with a blank between them, as files write them */
static void llmi_gguf_put_token(llmi_gguf_out *o, llmi_text *one, const llm_tokenizer *t, int32_t a,
                                int32_t b) {
    int which;
    one->size = 0;
    for (which = 0; which < 2; which++) {
        const int32_t id = which ? b : a;
        size_t i, n;
        const char *bytes;
        char character[4];
        if (id < 0) continue;
        if (which) llmi_text_add(one, " ", 1);
        bytes = llmi_token_text(t, id, &n);
        if (t->vocabulary.items[id].added) {
            const llmi_added *added = &t->added[t->vocabulary.items[id].added - 1];
            llmi_text_add(one, added->content, added->size);
        } else if (t->vocabulary.items[id].kind != LLMI_BYTES) llmi_text_add(one, bytes, n);
        else
            for (i = 0; i < n; i++)
                llmi_text_add(one, character,
                              llmi_utf8_encode(character,
                                               llmi_byte_to_char((unsigned char)bytes[i])));
    }
    llmi_gguf_put_string(&o->keys, one->data ? one->data : "", one->size);
}
static void llmi_gguf_put_tokens(llmi_gguf_out *o, const llm_tokenizer *t) {
    const size_t V = (size_t)o->model->config.vocab_size;
    llmi_text one;
    size_t i;
    memset(&one, 0, sizeof one);
    one.allocator = o->model->allocator;
    llmi_gguf_put_array(o, "tokenizer.ggml.tokens", LLMI_GGUF_STRING, V);
    for (i = 0; i < V; i++) {
        char name[32];
        if (i < t->vocabulary.n && t->vocabulary.items[i].kind != LLMI_ABSENT) {
            llmi_gguf_put_token(o, &one, t, (int32_t)i, -1);
            continue;
        }
        snprintf(name, sizeof name, "[PAD%lu]", (unsigned long)i);
        llmi_gguf_put_string(&o->keys, name, strlen(name));
    }
    llmi_gguf_put_array(o, "tokenizer.ggml.token_type", LLMI_GGUF_I32, V);
    for (i = 0; i < V; i++) {
        llmi_token_type type = LLMI_NORMAL;
        if (i >= t->vocabulary.n || t->vocabulary.items[i].kind == LLMI_ABSENT) type = LLMI_UNUSED;
        else if (t->vocabulary.items[i].added)
            type = t->added[t->vocabulary.items[i].added - 1].is.special ? LLMI_CONTROL
                                                                         : LLMI_USER_DEFINED;
        llmi_gguf_put_number(&o->keys, type, 4);
    }
    llmi_gguf_put_array(o, "tokenizer.ggml.merges", LLMI_GGUF_STRING, t->n_merges);
    for (i = 0; i < t->n_merges; i++)
        llmi_gguf_put_token(o, &one, t, t->merges[i].a, t->merges[i].b);
    if (one.failed != LLM_OK) o->keys.failed = one.failed;
    llmi_text_free(&one);
}
static llm_result llmi_gguf_put_tokenizer(llmi_gguf_out *o, const llm_tokenizer *t) {
    const llm_special_tokens *special = &o->model->special;
    const size_t V = (size_t)o->model->config.vocab_size;
    size_t p, n_name;
    int32_t end;
    if (special->bos >= 0) llmi_gguf_put_u32(o, "tokenizer.ggml.bos_token_id", special->bos);
    if (special->n_eos) llmi_gguf_put_u32(o, "tokenizer.ggml.eos_token_id", special->eos[0]);
    if (special->pad >= 0) llmi_gguf_put_u32(o, "tokenizer.ggml.padding_token_id", special->pad);
    if (!t) {
        llmi_gguf_put_text(o, "tokenizer.ggml.model", "none");
        return LLM_OK;
    }
    if (t->vocabulary.n > V)
        return llmi_fail(o->err, LLM_ERR_ARGUMENT, "the tokenizer has %lu tokens, the model %lu",
                         (unsigned long)t->vocabulary.n, (unsigned long)V);
    p = llmi_gguf_pre_of(t);
    if (p == LLMI_COUNT(llmi_gguf_pre) || t->n_before + t->n_after > 1)
        return llmi_fail(o->err, LLM_ERR_UNSUPPORTED, "the tokenizer's %s that GGUF files have",
                         p < LLMI_COUNT(llmi_gguf_pre) ? "template is none"
                         : t->ignore_merges ? "patterns with ignore_merges are none"
                                            : "patterns are none");
    /* without these keys llama.cpp takes token 11 */
    end = llm_tokenizer_token(t, "<|endoftext|>", 13);
    if (special->bos < 0 && (t->n_before || end >= 0))
        llmi_gguf_put_u32(o, "tokenizer.ggml.bos_token_id", t->n_before ? t->before[0] : end);
    if (!special->n_eos && (t->n_after || end >= 0))
        llmi_gguf_put_u32(o, "tokenizer.ggml.eos_token_id", t->n_after ? t->after[0] : end);
    llmi_gguf_put_text(o, "tokenizer.ggml.model", "gpt2");
    n_name = strcspn(llmi_gguf_pre[p].names, " ");
    llmi_gguf_put_key(o, "tokenizer.ggml.pre", LLMI_GGUF_STRING);
    llmi_gguf_put_string(&o->keys, llmi_gguf_pre[p].names, n_name);
    if (t->add_prefix_space) llmi_gguf_put_bool(o, "tokenizer.ggml.add_space_prefix", 1);
    llmi_gguf_put_bool(o, "tokenizer.ggml.add_bos_token", t->n_before > 0);
    llmi_gguf_put_bool(o, "tokenizer.ggml.add_eos_token", t->n_after > 0);
    llmi_gguf_put_tokens(o, t);
    return LLM_OK;
}

/* the name that a tensor has in GGUF files; *expert: which of its experts, or -1. NULL: none. */
static const char *llmi_gguf_their_name(const llmi_gguf_arch *arch, const char *name, char *out,
                                        size_t capacity, long *expert) {
    const llmi_pair_of_names *pair = arch->top;
    const char *rest = name, *suffix = strrchr(name, '.');
    char prefix[32], stem[96];
    char *end;
    size_t n;
    *expert = -1;
    prefix[0] = 0;
    if (!strncmp(name, arch->blocks, strlen(arch->blocks))) {
        snprintf(prefix, sizeof prefix, "blk.%ld.", strtol(name + strlen(arch->blocks), &end, 10));
        rest = end + 1;
        pair = arch->block;
    }
    if (!strcmp(suffix, ".weight") || !strcmp(suffix, ".bias")) n = (size_t)(suffix - rest);
    else {
        n = strlen(rest);
        suffix = ".bias";
    }
    if (!strncmp(rest, "mlp.experts.", 12)) {
        *expert = strtol(rest + 12, &end, 10);
        snprintf(stem, sizeof stem, "mlp.experts.*%.*s", (int)(rest + n - end), end);
    } else snprintf(stem, sizeof stem, "%.*s", (int)n, rest);
    for (; pair->gguf && strcmp(pair->ours, stem); pair++) {}
    if (!pair->gguf) return NULL;
    snprintf(out, capacity, "%s%s%s", prefix, pair->gguf, suffix);
    return out;
}

/* What llama.cpp's quantiser gives more bits: the head and, in its Q4_K_M and Q5_K_M, attention's
 * fused projections and FFNs' second halves of the first and the last eighth of the layers, and of
 * every third between */
static llm_dtype llmi_gguf_mixed(const llmi_gguf_out *o, size_t i, const char *name) {
    const int n = o->model->config.n_layers + o->model->config.mtp_depth, eighth = n / 8;
    const int layer = strncmp(name, "blk.", 4) ? 0 : (int)strtol(name + 4, NULL, 10);
    if (!llmi_dtype_is_blocks(o->dtype)) return o->dtype;
    if ((int)i == llmi_head_index(o->model) && o->dtype != LLM_Q8_0) return LLM_Q6_K;
    if ((o->dtype == LLM_Q4_K || o->dtype == LLM_Q5_K) &&
        (strstr(name, ".attn_qkv.") || strstr(name, ".attn_kv_b.") || strstr(name, ".ffn_down")) &&
        (layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2))
        return LLM_Q6_K;
    return o->dtype;
}
static llm_dtype llmi_gguf_out_type(const llmi_gguf_out *o, size_t i, const char *name) {
    const llmi_tensor *row = &o->model->table.rows[i];
    size_t n_out, n_in;
    if (!row->is_matrix) return LLM_F32;
    if (!o->dtype) return o->model->values[i].type;
    llmi_tensor_sides(row, &n_out, &n_in);
    return llmi_type_fit(llmi_gguf_mixed(o, i, name), n_in);
}
/* how many tensors of the table, every third, are one in the file: the experts of a layer */
static size_t llmi_gguf_merged(const llmi_gguf_out *o, long expert) {
    return expert < 0 ? 1 : (size_t)o->model->config.n_routed_experts;
}

/* where tensor i stands in the file; the other experts stand with the first */
static llm_result llmi_gguf_put_tensor(llmi_gguf_out *o, size_t i) {
    const llmi_tensor *row = &o->model->table.rows[i];
    char name[96];
    long expert;
    llm_dtype type;
    size_t n_out, n_in, count;
    if (!llmi_gguf_their_name(o->arch, row->name, name, sizeof name, &expert))
        return llmi_fail(o->err, LLM_ERR_UNSUPPORTED, "tensor %s has no name in GGUF files",
                         row->name);
    if (expert > 0) return LLM_OK;
    type = llmi_gguf_out_type(o, i, name);
    if (llmi_types[type].ggml < 0)
        return llmi_fail(o->err, LLM_ERR_UNSUPPORTED, "tensor %s is %s, which GGUF files do not "
                         "have: another dtype is needed", row->name, llm_dtype_name(type));
    llmi_tensor_sides(row, &n_out, &n_in);
    count = llmi_gguf_merged(o, expert);
    llmi_gguf_put_string(&o->tensors, name, strlen(name));
    llmi_gguf_put_number(&o->tensors, row->n_dims == 1 ? 1 : expert < 0 ? 2 : 3, 4);
    if (row->n_dims > 1) llmi_gguf_put_number(&o->tensors, n_in, 8);
    llmi_gguf_put_number(&o->tensors, n_out, 8);
    if (expert >= 0) llmi_gguf_put_number(&o->tensors, count, 8);
    llmi_gguf_put_number(&o->tensors, (uint64_t)llmi_types[type].ggml, 4);
    llmi_gguf_put_number(&o->tensors, o->at, 8);
    o->at += llmi_round_up(count * llmi_dtype_bytes(type, row->count), LLMI_GGUF_ALIGN);
    o->n_tensors++;
    return LLM_OK;
}
static llm_result llmi_gguf_put_values(llmi_gguf_out *o, size_t i) {
    static const char zeros[LLMI_GGUF_ALIGN] = {0};
    const llm_model *model = o->model;
    const llmi_tensor *row = &model->table.rows[i];
    char name[96];
    long expert;
    llmi_values to;
    size_t e, bytes, count;
    (void)llmi_gguf_their_name(o->arch, row->name, name, sizeof name, &expert);
    if (expert > 0) return LLM_OK;
    memset(&to, 0, sizeof to);
    to.type = llmi_gguf_out_type(o, i, name);
    bytes = llmi_dtype_bytes(to.type, row->count);
    count = llmi_gguf_merged(o, expert);
    for (e = 0; e < count; e++) {
        const llmi_values from = model->values[i + 3 * e];
        const void *data = from.data;
        if (from.type != to.type || from.transposed) {
            llmi_convert job;
            LLMI_TRY(llmi_grow(model->allocator, &o->room.values, &o->room.size, 0, bytes,
                               "a tensor", o->err));
            to.data = o->room.values;
            job = llmi_convert_of(&model->table.rows[i + 3 * e], to, from);
            llmi_convert_run(o->context, &job);
            data = to.data;
        }
        LLMI_TRY(llmi_writer_add(&o->w, data, bytes, o->err));
    }
    bytes *= count;
    return llmi_writer_add(&o->w, zeros, llmi_round_up(bytes, LLMI_GGUF_ALIGN) - bytes, o->err);
}
/* what llama.cpp's deepseek2 has no key for, or refuses to load */
static llm_result llmi_gguf_check(const llmi_gguf_out *o) {
    const llm_config *c = &o->model->config;
    const char *what = NULL;
    if (strcmp(o->arch->name, "deepseek2")) return LLM_OK;
    if (c->attention_bias) what = "no attention_bias";
    if (c->rope_half_split) what = "no rope_half_split";
    if (c->yarn_factor != 0.0f && (c->yarn_beta_fast != 32.0f || c->yarn_beta_slow != 1.0f))
        what = "no other yarn_beta_fast and yarn_beta_slow than 32 and 1";
    if (c->n_routed_experts && !c->n_shared_experts) what = "no experts without a shared one";
    if (c->q_lora_rank && (c->n_layers == 26 || c->n_layers == 27))
        what = "no q_lora_rank in models of 26 or 27 layers";
    return what ? llmi_fail(o->err, LLM_ERR_UNSUPPORTED, "llama.cpp's deepseek2 has %s", what)
                : LLM_OK;
}
static llm_result llmi_gguf_write(llmi_gguf_out *o, const char *path) {
    const size_t n = o->model->table.n;
    static const char zeros[LLMI_GGUF_ALIGN] = {0};
    unsigned char start[24];
    llm_result result;
    size_t i, header;
    for (i = 0; i < n; i++) LLMI_TRY(llmi_gguf_put_tensor(o, i));
    if (o->keys.failed != LLM_OK || o->tensors.failed != LLM_OK)
        return llmi_fail(o->err, LLM_ERR_MEMORY, "out of memory: the header of %.120s",
                         llmi_path_end(path, 120));
    o->context = llmi_model_context(o->model, o->model->n_threads, o->err);
    if (!o->context) return LLM_ERR_MEMORY;
    llmi_put_little(start, 0x46554747u, 4);
    llmi_put_little(start + 4, 3, 4);
    llmi_put_little(start + 8, o->n_tensors, 8);
    llmi_put_little(start + 16, o->n_keys, 8);
    header = sizeof start + o->keys.size + o->tensors.size;
    LLMI_TRY(llmi_writer_open(&o->w, path, LLMI_TEMPORARIES, o->err));
    result = llmi_writer_add(&o->w, start, sizeof start, o->err);
    if (result == LLM_OK) result = llmi_writer_add(&o->w, o->keys.data, o->keys.size, o->err);
    if (result == LLM_OK) result = llmi_writer_add(&o->w, o->tensors.data, o->tensors.size, o->err);
    if (result == LLM_OK)
        result = llmi_writer_add(&o->w, zeros, llmi_round_up(header, LLMI_GGUF_ALIGN) - header,
                                 o->err);
    for (i = 0; i < n && result == LLM_OK; i++) {
        result = llmi_gguf_put_values(o, i);
        if (result == LLM_ERR_MEMORY) llmi_writer_abandon(&o->w);
    }
    if (result == LLM_OK) result = llmi_writer_finish(&o->w, o->err);
    return result == LLM_OK ? llmi_writer_rename(&o->w, o->err) : result;
}

LLM_API llm_result llm_gguf_save(const llm_model *model, const llm_tokenizer *tokenizer,
                                 const char *path, llm_dtype dtype, llm_error *err) {
    llmi_gguf_out *o;
    llm_result result;
    size_t i;
    if (!model || !path) return llmi_fail(err, LLM_ERR_ARGUMENT, "model or path is NULL");
    LLMI_TRY(llmi_check_int("dtype", (int)dtype, 0, LLM_Q6_K, err));
    o = (llmi_gguf_out *)llmi_alloc(model->allocator, sizeof *o, "a GGUF file", err);
    if (!o) return LLM_ERR_MEMORY;
    memset(o, 0, sizeof *o);
    o->model = model;
    o->dtype = dtype;
    o->err = err;
    o->keys.allocator = o->tensors.allocator = model->allocator;
    for (i = 0; strcmp(llmi_gguf_archs[i].model_type, model->arch->name); i++) {}
    o->arch = &llmi_gguf_archs[i];
    result = llmi_gguf_check(o);
    if (result == LLM_OK) {
        llmi_gguf_put_config(o);
        result = llmi_gguf_put_tokenizer(o, tokenizer);
    }
    if (result == LLM_OK) result = llmi_gguf_write(o, path);
    llm_context_free(o->context);
    llmi_text_free(&o->keys);
    llmi_text_free(&o->tensors);
    llmi_release(model->allocator, o->room.values);
    llmi_release(model->allocator, o);
    return result;
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>resume       a trainer in a file, so that the next step is the same to the bit
 *
 * A safetensors file: "configuration", one line per field that the results depend on; "state";
 * "user_data"; the flat "weights", "m", "v", and "gradients" in the middle of an accumulation. The
 * metadata holds a hash of all of it, which is checked before anything is loaded.
 * ========================================================================================== */
#ifndef LLM_NO_STDIO
/* what must be equal for the next step to be, a line each */
static void llmi_trainer_describe(llmi_text *text, const llm_trainer *t) {
    const llmi_arch *arch = llmi_arch_of(t->model->config.arch);
    const llm_train_desc *d = &t->desc;
    llmi_text_format(text, "arch %s\n", arch->name);
    llmi_fields_describe(text, &t->model->config, arch->fields, arch->n_fields);
    llmi_fields_describe(text, d, llmi_train_fields, LLMI_COUNT(llmi_train_fields));
    llmi_text_format(text,
                     "schedule %d\nprecision %d\nseed %llu\nshard_first %llu\nshard_count %llu\n",
                     (int)d->schedule, (int)d->precision, (unsigned long long)d->seed,
                     (unsigned long long)d->shard_first, (unsigned long long)d->shard_count);
    llmi_text_format(text, "recompute %d\n", d->recompute != 0);
}

enum { LLMI_STATE_STEP, LLMI_STATE_TOKENS, LLMI_STATE_FORWARDS, LLMI_STATE_ACCUMULATED,
       LLMI_STATE_LAST, LLMI_N_STATE };
enum { LLMI_CKPT_CONFIGURATION, LLMI_CKPT_STATE, LLMI_CKPT_USER, LLMI_CKPT_WEIGHTS, LLMI_CKPT_M,
       LLMI_CKPT_V, LLMI_CKPT_GRADIENTS, LLMI_N_CKPT };

typedef struct llmi_piece { const char *name; void *data; size_t size; } llmi_piece;

/* where the trainer keeps what the file holds; the first three are the caller's */
static void llmi_trainer_pieces(const llm_trainer *t, llmi_piece *pieces, int accumulated) {
    const size_t state = t->desc.shard_count * sizeof(float);
    static const char *const names[] = {"configuration", "state", "user_data", "weights", "m",
                                        "v", "gradients"};
    int i;
    memset(pieces, 0, LLMI_N_CKPT * sizeof *pieces);
    for (i = 0; i < LLMI_N_CKPT; i++) pieces[i].name = names[i];
    pieces[LLMI_CKPT_WEIGHTS].data = t->model->block;
    pieces[LLMI_CKPT_WEIGHTS].size = t->floats * sizeof(float);
    pieces[LLMI_CKPT_M].data = t->m;
    pieces[LLMI_CKPT_V].data = t->v;
    pieces[LLMI_CKPT_M].size = pieces[LLMI_CKPT_V].size = state;
    pieces[LLMI_CKPT_GRADIENTS].data = t->gradients;
    pieces[LLMI_CKPT_GRADIENTS].size = accumulated ? (t->floats + t->tail) * sizeof(float) : 0;
}

static llm_result llmi_trainer_write(const char *path, const llmi_piece *pieces, llmi_text *header,
                                     llm_error *err) {
    uint64_t hash = 0, at = 0;
    unsigned char length[8];
    llmi_writer w;
    int i;
    for (i = 0; i < LLMI_N_CKPT; i++) hash = llmi_hash_parts(hash, pieces[i].data, pieces[i].size);
    llmi_text_format(header,
                     "{\"__metadata__\":{\"format\":\"llm.h trainer\",\"version\":\"1\","
                     "\"hash\":\"%016llx\"}",
                     (unsigned long long)hash);
    for (i = 0; i < LLMI_N_CKPT; i++) {
        const int floats = i >= LLMI_CKPT_WEIGHTS;
        llmi_text_format(header,
                         ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu],\"data_offsets\":[%llu,%llu]}",
                         pieces[i].name, floats ? "F32" : "U8",
                         (unsigned long long)(pieces[i].size / (floats ? sizeof(float) : 1)),
                         (unsigned long long)at, (unsigned long long)(at + pieces[i].size));
        at += pieces[i].size;
    }
    llmi_text_add(header, "}", 1);
    while (header->size % LLMI_ALIGN != LLMI_ALIGN - 8 && header->failed == LLM_OK)
        llmi_text_add(header, " ", 1);
    if (header->failed != LLM_OK)
        return llmi_fail(err, LLM_ERR_MEMORY, "out of memory: the header of %.120s",
                         llmi_path_end(path, 120));
    llmi_put_little(length, header->size, 8);
    LLMI_TRY(llmi_writer_open(&w, path, LLMI_TEMPORARIES, err));
    LLMI_TRY(llmi_writer_add(&w, length, 8, err));
    LLMI_TRY(llmi_writer_add(&w, header->data, header->size, err));
    for (i = 0; i < LLMI_N_CKPT; i++)
        LLMI_TRY(llmi_writer_add(&w, pieces[i].data, pieces[i].size, err));
    LLMI_TRY(llmi_writer_finish(&w, err));
    return llmi_writer_rename(&w, err);
}

LLM_API llm_result llm_trainer_save(const llm_trainer *trainer, const char *path, llm_error *err) {
    const llm_trainer *t = trainer;
    int64_t state[LLMI_N_STATE];
    llmi_piece pieces[LLMI_N_CKPT];
    llmi_text configuration, header;
    llm_result result;
    if (!t || !path) return llmi_fail(err, LLM_ERR_ARGUMENT, "trainer or path is NULL");
    if (t->pending || t->updated)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "save: %s", t->pending
                         ? "a forward waits for its backward" : "an update has slices to come");
    memset(state, 0, sizeof state);
    state[LLMI_STATE_STEP] = t->step;
    state[LLMI_STATE_TOKENS] = t->n_tokens;
    state[LLMI_STATE_FORWARDS] = t->n_forwards;
    state[LLMI_STATE_ACCUMULATED] = t->n_accumulated;
    memcpy(&state[LLMI_STATE_LAST], &t->last_grad_norm, sizeof(float));
    memcpy((char *)&state[LLMI_STATE_LAST] + 4, &t->last_learning_rate, sizeof(float));
    memset(&configuration, 0, sizeof configuration);
    memset(&header, 0, sizeof header);
    configuration.allocator = header.allocator = t->model->allocator;
    llmi_trainer_describe(&configuration, t);
    llmi_trainer_pieces(t, pieces, t->n_accumulated > 0);
    pieces[LLMI_CKPT_CONFIGURATION].data = configuration.data;
    pieces[LLMI_CKPT_CONFIGURATION].size = configuration.size;
    pieces[LLMI_CKPT_STATE].data = state;
    pieces[LLMI_CKPT_STATE].size = sizeof state;
    pieces[LLMI_CKPT_USER].data = t->user_data;
    pieces[LLMI_CKPT_USER].size = t->user_data_size;
    if (configuration.failed != LLM_OK)
        result = llmi_fail(err, LLM_ERR_MEMORY, "out of memory: the configuration of %.120s",
                           llmi_path_end(path, 120));
    else result = llmi_trainer_write(path, pieces, &header, err);
    llmi_text_free(&configuration);
    llmi_text_free(&header);
    return result;
}

/* the next line of a description, "name value", without its end; 0 = there is none */
static int llmi_next_line(const char **text, size_t *n, const char **line, size_t *size) {
    const char *end = *n ? (const char *)memchr(*text, '\n', *n) : NULL;
    *line = *text;
    *size = end ? (size_t)(end - *text) : *n;
    if (!*n) return 0;
    *text += *size + (end != NULL);
    *n -= *size + (end != NULL);
    return 1;
}

/* the line of a description that begins with the name of `like`; 0 = there is none */
static int llmi_line_like(const char *text, size_t n, const char *like, size_t n_like,
                          const char **line, size_t *size) {
    const char *space = n_like ? (const char *)memchr(like, ' ', n_like) : NULL;
    const size_t name = space ? (size_t)(space - like) + 1 : n_like;
    while (llmi_next_line(&text, &n, line, size))
        if (*size >= name && memcmp(*line, like, name) == 0) return 1;
    return 0;
}

/* whether a line is one of those that may differ */
static int llmi_is_prolonged(const char *line, size_t size) {
    static const char *const others[] = {"schedule", "recompute"};
    size_t i;
    for (i = 0; i < LLMI_COUNT(llmi_train_fields) + LLMI_COUNT(others); i++) {
        const int is_field = i < LLMI_COUNT(llmi_train_fields);
        const char *name = is_field ? llmi_train_fields[i].name
                                    : others[i - LLMI_COUNT(llmi_train_fields)];
        const size_t n = strlen(name);
        if (size > n && line[n] == ' ' && memcmp(line, name, n) == 0)
            return !is_field || llmi_train_fields[i].flags & LLMI_PROLONGED;
    }
    return 0;
}
static int llmi_line_ends(const char *line, size_t size, const char *end) {
    const size_t n = strlen(end);
    return size >= n && memcmp(line + size - n, end, n) == 0;
}

/* Descriptions are compared by name. A field that only one of them has must be 0 there: older
 * checkpoints do not know newer fields. */
static llm_result llmi_compare_lines(const char *name, const char *have, size_t n_have,
                                     const char *want, size_t n_want, int prolong, llm_error *err) {
    int side;
    for (side = 0; side < 2; side++) {
        const char *text = side ? want : have, *other = side ? have : want, *a, *b;
        size_t n = side ? n_want : n_have, n_other = side ? n_have : n_want, i, j;
        while (llmi_next_line(&text, &n, &a, &i)) {
            const int found = llmi_line_like(other, n_other, a, i, &b, &j);
            if (found ? i == j && memcmp(a, b, i) == 0
                      : llmi_line_ends(a, i, " 0") || llmi_line_ends(a, i, " 0.0"))
                continue;
            if (prolong && llmi_is_prolonged(a, i)) continue;
            if (!found) {
                b = "no such field";
                j = strlen(b);
            }
            return llmi_fail(err, LLM_ERR_FORMAT,
                             "%.100s: the checkpoint has %.*s, this trainer %.*s", name,
                             (int)llmi_min(side ? j : i, 60), side ? b : a,
                             (int)llmi_min(side ? i : j, 60), side ? a : b);
        }
    }
    return LLM_OK;
}

/* that the file is whole: the hash of the pieces; part: LLMI_HASH_PART bytes of room */
static llm_result llmi_checkpoint_check(llmi_entry *const *entries, char *part, llm_error *err) {
    const llmi_shard *shard = entries[0]->shard;
    const int metadata = llmi_json_get(&shard->json, 0, "__metadata__");
    const int node = llmi_json_get(&shard->json, metadata, "hash");
    uint64_t hash = 0, at;
    char text[24];
    int i;
    for (i = 0; i < LLMI_N_CKPT; i++)
        for (at = entries[i]->begin; at < entries[i]->end; at += LLMI_HASH_PART) {
            const size_t n = (size_t)(entries[i]->end - at < LLMI_HASH_PART ? entries[i]->end - at
                                                                           : LLMI_HASH_PART);
            LLMI_TRY(llmi_source_read(&shard->source, at, part, n, err));
            hash = llmi_hash_add(hash, part, n);
        }
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    if (node >= 0 && llmi_json_is(&shard->json, node, text)) return LLM_OK;
    return llmi_fail(err, LLM_ERR_FORMAT,
                     "%.120s: damaged: its values do not have the hash it states",
                     shard->source.name);
}

/* It is a checkpoint, and its configuration is the trainer's; -> entries. part, here and below:
 * LLMI_HASH_PART bytes of room. */
static llm_result llmi_checkpoint_match(const llm_trainer *t, const llmi_shards *all,
                                        llmi_entry **entries, char *part, llm_error *err) {
    const llmi_shard *shard = &all->shards[0];
    const int metadata = llmi_json_get(&shard->json, 0, "__metadata__");
    const int format = llmi_json_get(&shard->json, metadata, "format");
    const int version = llmi_json_get(&shard->json, metadata, "version");
    const char *name = shard->source.name;
    const llmi_entry *theirs;
    llmi_piece pieces[LLMI_N_CKPT];
    llmi_text mine;
    llm_result result;
    size_t n;
    int i;
    if (format < 0 || !llmi_json_is(&shard->json, format, "llm.h trainer"))
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: not a checkpoint of a trainer", name);
    if (version < 0 || !llmi_json_is(&shard->json, version, "1"))
        return llmi_fail(err, LLM_ERR_UNSUPPORTED,
                         "%.120s: a checkpoint of a version other than 1", name);
    llmi_trainer_pieces(t, pieces, 0);
    for (i = 0; i < LLMI_N_CKPT; i++) {
        entries[i] = llmi_find_entry(all, pieces[i].name);
        if (!entries[i])
            return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: %s is missing", name, pieces[i].name);
    }
    theirs = entries[LLMI_CKPT_CONFIGURATION];
    n = (size_t)(theirs->end - theirs->begin);
    if (n > LLMI_HASH_PART)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: a configuration of %lu bytes", name,
                         (unsigned long)n);
    LLMI_TRY(llmi_source_read(&shard->source, theirs->begin, part, n, err));
    memset(&mine, 0, sizeof mine);
    mine.allocator = t->model->allocator;
    llmi_trainer_describe(&mine, t);
    result = mine.failed != LLM_OK ? llmi_fail(err, LLM_ERR_MEMORY,
                                               "out of memory: the configuration of %.120s", name)
                                   : llmi_compare_lines(name, part, n, mine.data, mine.size,
                                                        t->desc.prolong, err);
    llmi_text_free(&mine);
    return result;
}

/* the counters */
static llm_result llmi_checkpoint_state(const llmi_entry *entry, int64_t *state, llm_error *err) {
    const char *name = entry->shard->source.name;
    const size_t size = LLMI_N_STATE * sizeof *state;
    int i;
    if (entry->end - entry->begin != size)
        return llmi_fail(err, LLM_ERR_FORMAT, "%.120s: a state of %llu bytes, not %lu", name,
                         (unsigned long long)(entry->end - entry->begin), (unsigned long)size);
    LLMI_TRY(llmi_source_read(&entry->shard->source, entry->begin, state, size, err));
    for (i = LLMI_STATE_STEP; i <= LLMI_STATE_ACCUMULATED; i++) {
        const int64_t most = i == LLMI_STATE_ACCUMULATED ? INT_MAX / 2 : INT64_MAX / 2;
        if (state[i] < 0 || state[i] > most)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: state %d, a counter, is %lld, not in "
                             "[0, %lld]", name, i, (long long)state[i], (long long)most);
    }
    return LLM_OK;
}

static llm_result llmi_checkpoint_load(llm_trainer *t, const llmi_shards *all, char *part,
                                       llm_error *err) {
    const llmi_source *source = &all->shards[0].source;
    llmi_entry *entries[LLMI_N_CKPT];
    llmi_piece pieces[LLMI_N_CKPT];
    int64_t state[LLMI_N_STATE];
    size_t n;
    int i;
    LLMI_TRY(llmi_checkpoint_match(t, all, entries, part, err));
    LLMI_TRY(llmi_checkpoint_state(entries[LLMI_CKPT_STATE], state, err));
    llmi_trainer_pieces(t, pieces, state[LLMI_STATE_ACCUMULATED] > 0);
    for (i = LLMI_CKPT_WEIGHTS; i < LLMI_N_CKPT; i++)
        if (entries[i]->end - entries[i]->begin != pieces[i].size)
            return llmi_fail(err, LLM_ERR_FORMAT, "%.100s: %s has %llu bytes, not %llu",
                             source->name, pieces[i].name,
                             (unsigned long long)(entries[i]->end - entries[i]->begin),
                             (unsigned long long)pieces[i].size);
    LLMI_TRY(llmi_checkpoint_check(entries, part, err));
    n = (size_t)(entries[LLMI_CKPT_USER]->end - entries[LLMI_CKPT_USER]->begin);
    LLMI_TRY(llmi_grow(t->model->allocator, &t->user_data, &t->user_data_capacity,
                       t->user_data_size, n, "user data", err));
    pieces[LLMI_CKPT_USER].data = t->user_data;
    pieces[LLMI_CKPT_USER].size = n;
    for (i = LLMI_CKPT_USER; i < LLMI_N_CKPT; i++)
        if (pieces[i].size)
            LLMI_TRY(llmi_source_read(source, entries[i]->begin, pieces[i].data, pieces[i].size,
                                      err));
    t->user_data_size = n;
    t->step = state[LLMI_STATE_STEP];
    t->n_tokens = state[LLMI_STATE_TOKENS];
    t->n_forwards = state[LLMI_STATE_FORWARDS];
    t->n_accumulated = (int)state[LLMI_STATE_ACCUMULATED];
    t->pending = 0;
    t->updated = 0;
    memcpy(&t->last_grad_norm, &state[LLMI_STATE_LAST], sizeof(float));
    memcpy(&t->last_learning_rate, (const char *)&state[LLMI_STATE_LAST] + 4, sizeof(float));
    return LLM_OK;
}

LLM_API llm_result llm_trainer_load(llm_trainer *trainer, const char *path, llm_error *err) {
    const llm_allocator *allocator;
    llm_result result;
    llmi_shards all;
    char *part;
    if (!trainer || !path) return llmi_fail(err, LLM_ERR_ARGUMENT, "trainer or path is NULL");
    allocator = trainer->model->allocator;
    part = (char *)llmi_alloc(allocator, LLMI_HASH_PART, "a part of a checkpoint", err);
    if (!part) return LLM_ERR_MEMORY;
    memset(&all, 0, sizeof all);
    all.allocator = allocator;
    result = llmi_shards_single(&all, path, err);
    if (result == LLM_OK) result = llmi_checkpoint_load(trainer, &all, part, err);
    llmi_shards_free(&all);
    llmi_release(allocator, part);
    return result;
}
#endif /* LLM_NO_STDIO */

/* ============================================================================================
 * >>passes       >>kernels, below, once per instruction set; what this CPU can run
 * ========================================================================================== */
#ifndef LLM_SELF
    #define LLM_SELF "llm.h" /* how this file includes itself: define it if you rename the file */
#endif

/* a pass's text is compiled for its instruction set */
#if LLMI_X86 && defined(__clang__)
  #define LLMI_REGION(features) LLMI_PRAGMA( \
      clang attribute push(__attribute__((target(features))), apply_to = function))
  #define LLMI_REGION_END LLMI_PRAGMA(clang attribute pop)
#elif LLMI_X86
  #define LLMI_REGION(features) LLMI_PRAGMA(GCC push_options) LLMI_PRAGMA(GCC target(features))
  #define LLMI_REGION_END LLMI_PRAGMA(GCC pop_options)
  #pragma GCC diagnostic push          /* g++ warns inside its own avx512fintrin.h (PR105593) */
  #pragma GCC diagnostic ignored "-Wuninitialized"
  #pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define LLMI_PASS LLMI_PASS_SCALAR
#include LLM_SELF
#if LLMI_X86 || LLMI_NEON
  #define LLMI_PASS LLMI_PASS_BASE     /* SSE2 or NEON: always there */
  #include LLM_SELF
#endif
#if LLMI_X86
  #define LLMI_PASS LLMI_PASS_AVX2
  LLMI_REGION("avx2,fma,f16c")
  #include LLM_SELF
  LLMI_REGION_END
  #define LLMI_PASS LLMI_PASS_AVX512   /* F, BW, VL */
  LLMI_REGION("avx2,fma,f16c,avx512f,avx512bw,avx512vl")
  #include LLM_SELF
  LLMI_REGION_END
  #if LLMI_BF16
    #define LLMI_PASS LLMI_PASS_BF16
    LLMI_REGION("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512bf16,avx512vnni")
    #include LLM_SELF
    LLMI_REGION_END
  #endif
  #if LLMI_AMX
    #define LLMI_PASS LLMI_PASS_AMX
    LLMI_REGION("avx2,fma,f16c,avx512f,avx512bw,avx512vl,amx-tile,amx-bf16")
    #include LLM_SELF
    LLMI_REGION_END
  #endif
  #if !defined(__clang__)
    #pragma GCC diagnostic pop
  #endif
#endif /* LLMI_X86 */

/* the last pass that this CPU and its operating system can run */
static int llmi_last_pass(void) {
#if LLMI_X86
    unsigned a, b, c, d, enabled, high;
    int last = LLMI_PASS_BASE;
    const unsigned needed = 1u << 27 | 1u << 12 | 1u << 29;              /* OSXSAVE, FMA, F16C */
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & needed) == needed) {
        __asm__ volatile("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
        (void)high;
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
            if ((enabled & 0x06u) == 0x06u && (b & (1u << 5))) last = LLMI_PASS_AVX2;
            if (last == LLMI_PASS_AVX2 && (enabled & 0xe6u) == 0xe6u && (b & (1u << 16)) &&
                (b & (1u << 30)) && (b & (1u << 31)))
                last = LLMI_PASS_AVX512;
  #if LLMI_BF16
            if (last == LLMI_PASS_AVX512) {
                const unsigned amx = d, vnni = c & (1u << 11);
                if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)) && vnni)
                    last = LLMI_PASS_BF16;
    #if LLMI_AMX
                if (last == LLMI_PASS_BF16 && (enabled & 0x60000u) == 0x60000u &&
                    (amx & (1u << 22)) && (amx & (1u << 24))) {
                    long result = 158;           /* arch_prctl(ARCH_REQ_XCOMP_PERM, tile data): */
                                                 /* Linux asks to be asked                      */
                    __asm__ volatile("syscall"
                                     : "+a"(result)
                                     : "D"(0x1023L), "S"(18L)
                                     : "rcx", "r11", "memory");
                    if (result == 0) last = LLMI_PASS_AMX;
                }
    #else
                (void)amx;
    #endif
            }
  #endif
        }
    }
    return last;
#else
    return LLMI_NEON ? LLMI_PASS_BASE : LLMI_PASS_SCALAR;
#endif /* LLMI_X86 */
}

static const llmi_kernels *llmi_kernels_of(int pass) {
    static const llmi_kernels *const tables[] = {
        &LLMI_CAT(llmi_kernels_v, LLMI_PASS_SCALAR),
#if LLMI_X86 || LLMI_NEON
        &LLMI_CAT(llmi_kernels_v, LLMI_PASS_BASE),
#endif
#if LLMI_X86
        &LLMI_CAT(llmi_kernels_v, LLMI_PASS_AVX2), &LLMI_CAT(llmi_kernels_v, LLMI_PASS_AVX512),
#endif
#if LLMI_BF16
        &LLMI_CAT(llmi_kernels_v, LLMI_PASS_BF16),
#endif
#if LLMI_AMX
        &LLMI_CAT(llmi_kernels_v, LLMI_PASS_AMX),
#endif
    };
    return tables[pass];
}

#if defined(__GNUC__) && !defined(__TINYC__)
LLMI_SHORT_NAMES(LLMI_POP)
#endif
#endif /* LLM_IMPLEMENTATION */

#else  /* LLMI_PASS */
/* ============================================================================================
 * >>kernels      one text, compiled once per instruction set
 *
 * LLV is a vector of LLV_W floats, which +, -, * and / work on. The words that begin with LLV_
 * differ by pass, nothing else does. Vectors never cross a real call: helpers that take one are
 * always inlined. A rest of n < LLV_W lanes is loaded with zeros.
 * ========================================================================================== */
#undef LLV
#undef LLV_
#undef LLV_BF16
#undef LLV_BITS
#undef LLV_BLOCK_ROWS
#undef LLV_BYTES
#undef LLV_BYTES_TO
#undef LLV_F16
#undef LLV_FLOAT_U8
#undef LLV_FLOATS
#undef LLV_FMA
#undef LLV_HMAX
#undef LLV_HSUM
#undef LLV_IADD
#undef LLV_IAND
#undef LLV_IOR
#undef LLV_ISET
#undef LLV_KC
#undef LLV_K_GROUP
#undef LLV_LD
#undef LLV_LD4
#undef LLV_LDN
#undef LLV_LOAD
#undef LLV_MAC
#undef LLV_MAX
#undef LLV_MC
#undef LLV_MIN
#undef LLV_MR
#undef LLV_NAME
#undef LLV_NR
#undef LLV_NV
#undef LLV_ROWS
#undef LLV_SET1
#undef LLV_ENTRY
#undef LLV_F32
#undef LLV_SLL
#undef LLV_SQRT
#undef LLV_SPREAD
#undef LLV_SPREAD16
#undef LLV_SRL
#undef LLV_ST
#undef LLV_ST2
#undef LLV_ST4
#undef LLV_STN
#undef LLV_STORE
#undef LLV_TILES
#undef LLV_TO_FLOAT
#undef LLV_TO_INT
#undef LLV_TRANSPOSE4
#undef LLV_V4
#undef LLV_VI
#undef LLV_W
#undef LLV_ZERO_BELOW
#define LLV_(name) LLMI_CAT(llmi_, LLMI_CAT(name, LLMI_CAT(_v, LLMI_PASS)))
/* The passes after AVX-512's have products of their own; the rest, in f32, is AVX-512's. */
#if LLMI_PASS > LLMI_PASS_AVX512
  #define LLV_F32(name) LLMI_CAT(llmi_, LLMI_CAT(name, LLMI_CAT(_v, LLMI_PASS_AVX512)))
#else
  #define LLV_F32(name) LLV_(name)
#endif

#if LLMI_PASS >= LLMI_PASS_AVX512
  #if LLMI_PASS == LLMI_PASS_AMX                   /* products by AMX, the rest is AVX-512's */
    #define LLV_NAME "amx"
    #define LLV_MR 32
    #define LLV_MC 256
  #elif LLMI_PASS == LLMI_PASS_BF16                 /* products in bf16, the rest is AVX-512's */
    #define LLV_NAME "avx512bf16"
    #define LLV_MR 14
    #define LLV_MC 168
  #else
    #define LLV_NAME "avx512"
    #define LLV_MR 14
    #define LLV_MC 168
  #endif
  #define LLV_W 16
  #define LLV_NV 2
  #define LLV_KC 768
  #define LLV_ROWS 4
  #define LLV_BLOCK_ROWS 8
  #define LLV __m512
  #define LLV_LD(p) _mm512_loadu_ps(p)
  #define LLV_ST(p, v) _mm512_storeu_ps(p, v)
  #define LLV_LDN(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1u), p)
  #define LLV_STN(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1u), v)
  #define LLV_SET1(x) _mm512_set1_ps(x)
  #define LLV_SQRT(a) _mm512_sqrt_ps(a)
  #define LLV_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
  #define LLV_MAX(a, b) _mm512_max_ps(a, b)
  #define LLV_MIN(a, b) _mm512_min_ps(a, b)
  #define LLV_HSUM(v) _mm512_reduce_add_ps(v)
  #define LLV_HMAX(v) _mm512_reduce_max_ps(v)
  #define LLV_VI __m512i
  #define LLV_TO_INT(v) _mm512_cvtps_epi32(v)
  #define LLV_TO_FLOAT(v) _mm512_cvtepi32_ps(v)
  #define LLV_BITS(v) _mm512_castps_si512(v)
  #define LLV_FLOATS(i) _mm512_castsi512_ps(i)
  #define LLV_ISET(x) _mm512_set1_epi32(x)
  #define LLV_IADD(a, b) _mm512_add_epi32(a, b)
  #define LLV_IAND(a, b) _mm512_and_si512(a, b)
  #define LLV_IOR(a, b) _mm512_or_si512(a, b)
  #define LLV_SLL(i, n) _mm512_slli_epi32(i, n)
  #define LLV_SRL(i, n) _mm512_srli_epi32(i, n)
  #define LLV_F16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
  #define LLV_BF16(p) _mm512_castsi512_ps(_mm512_slli_epi32( \
      _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
  #define LLV_ZERO_BELOW(v, x, low) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ), v)
#elif LLMI_PASS == LLMI_PASS_AVX2
  #define LLV_NAME "avx2"
  #define LLV_W 8
  #define LLV_MR 6
  #define LLV_NV 2
  #define LLV_KC 768
  #define LLV_MC 72
  #define LLV_ROWS 2
  #define LLV_BLOCK_ROWS 4
  #define LLV __m256
  #define LLV_LD(p) _mm256_loadu_ps(p)
  #define LLV_ST(p, v) _mm256_storeu_ps(p, v)
  #define LLV_SET1(x) _mm256_set1_ps(x)
  #define LLV_SQRT(a) _mm256_sqrt_ps(a)
  #define LLV_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
  #define LLV_MAX(a, b) _mm256_max_ps(a, b)
  #define LLV_MIN(a, b) _mm256_min_ps(a, b)
  #define LLV_HSUM(v) LLV_(hsum)(v)
  #define LLV_HMAX(v) LLV_(hmax)(v)
  #define LLV_VI __m256i
  #define LLV_TO_INT(v) _mm256_cvtps_epi32(v)
  #define LLV_TO_FLOAT(v) _mm256_cvtepi32_ps(v)
  #define LLV_BITS(v) _mm256_castps_si256(v)
  #define LLV_FLOATS(i) _mm256_castsi256_ps(i)
  #define LLV_ISET(x) _mm256_set1_epi32(x)
  #define LLV_IADD(a, b) _mm256_add_epi32(a, b)
  #define LLV_IAND(a, b) _mm256_and_si256(a, b)
  #define LLV_IOR(a, b) _mm256_or_si256(a, b)
  #define LLV_SLL(i, n) _mm256_slli_epi32(i, n)
  #define LLV_SRL(i, n) _mm256_srli_epi32(i, n)
  #define LLV_F16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
  #define LLV_BF16(p) _mm256_castsi256_ps(_mm256_slli_epi32( \
      _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))
  #define LLV_ZERO_BELOW(v, x, low) _mm256_and_ps(v, _mm256_cmp_ps(x, low, _CMP_NLT_UQ))
#elif LLMI_PASS == LLMI_PASS_BASE && LLMI_X86
  #define LLV_NAME "sse2"
  #define LLV_W 4
  #define LLV_MR 4
  #define LLV_NV 2
  #define LLV_KC 768
  #define LLV_MC 72
  #define LLV_ROWS 2
  #define LLV_BLOCK_ROWS 4
  #define LLV __m128
  #define LLV_LD(p) _mm_loadu_ps(p)
  #define LLV_ST(p, v) _mm_storeu_ps(p, v)
  #define LLV_SET1(x) _mm_set1_ps(x)
  #define LLV_SQRT(a) _mm_sqrt_ps(a)
  #define LLV_FMA(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
  #define LLV_MAX(a, b) _mm_max_ps(a, b)
  #define LLV_MIN(a, b) _mm_min_ps(a, b)
  #define LLV_HSUM(v) LLV_(hsum)(v)
  #define LLV_HMAX(v) LLV_(hmax)(v)
  #define LLV_VI __m128i
  #define LLV_TO_INT(v) _mm_cvtps_epi32(v)
  #define LLV_TO_FLOAT(v) _mm_cvtepi32_ps(v)
  #define LLV_BITS(v) _mm_castps_si128(v)
  #define LLV_FLOATS(i) _mm_castsi128_ps(i)
  #define LLV_ISET(x) _mm_set1_epi32(x)
  #define LLV_IADD(a, b) _mm_add_epi32(a, b)
  #define LLV_IAND(a, b) _mm_and_si128(a, b)
  #define LLV_IOR(a, b) _mm_or_si128(a, b)
  #define LLV_SLL(i, n) _mm_slli_epi32(i, n)
  #define LLV_SRL(i, n) _mm_srli_epi32(i, n)
  #define LLV_F16(p) _mm_set_ps(llmi_f16_to_f32((p)[3]), llmi_f16_to_f32((p)[2]), \
                                llmi_f16_to_f32((p)[1]), llmi_f16_to_f32((p)[0]))
  #define LLV_BF16(p) _mm_castsi128_ps(_mm_unpacklo_epi16( \
      _mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)(const void *)(p))))
  #define LLV_ZERO_BELOW(v, x, low) _mm_and_ps(v, _mm_cmpnlt_ps(x, low))
#elif LLMI_PASS == LLMI_PASS_BASE
  #define LLV_NAME "neon"
  #define LLV_W 4
  #define LLV_MR 8
  #define LLV_NV 2
  #define LLV_KC 512
  #define LLV_MC 64
  #define LLV_ROWS 4
  #define LLV_BLOCK_ROWS 4
  #define LLV float32x4_t
  #define LLV_LD(p) vld1q_f32(p)
  #define LLV_ST(p, v) vst1q_f32(p, v)
  #define LLV_SET1(x) vdupq_n_f32(x)
  #define LLV_SQRT(a) vsqrtq_f32(a)
  #define LLV_FMA(a, b, c) vfmaq_f32(c, a, b)
  #define LLV_MAX(a, b) vmaxq_f32(a, b)
  #define LLV_MIN(a, b) vminq_f32(a, b)
  #define LLV_HSUM(v) vaddvq_f32(v)
  #define LLV_HMAX(v) vmaxvq_f32(v)
  #define LLV_VI int32x4_t
  #define LLV_TO_INT(v) vcvtnq_s32_f32(v)
  #define LLV_TO_FLOAT(v) vcvtq_f32_s32(v)
  #define LLV_BITS(v) vreinterpretq_s32_f32(v)
  #define LLV_FLOATS(i) vreinterpretq_f32_s32(i)
  #define LLV_ISET(x) vdupq_n_s32(x)
  #define LLV_IADD(a, b) vaddq_s32(a, b)
  #define LLV_IAND(a, b) vandq_s32(a, b)
  #define LLV_IOR(a, b) vorrq_s32(a, b)
  #define LLV_SLL(i, n) vshlq_n_s32(i, n)
  #define LLV_SRL(i, n) vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(i), n))
  #define LLV_F16(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
  #define LLV_BF16(p) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
  #define LLV_ZERO_BELOW(v, x, low) \
      vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, low)))
#else
  #define LLV_NAME "scalar"
  #define LLV_W 1
  #define LLV_MR 4
  #define LLV_NV 2
  #define LLV_KC 256
  #define LLV_MC 64
  #define LLV_ROWS 2
  #define LLV_BLOCK_ROWS 4
  #define LLV float
  #define LLV_LD(p) (*(p))
  #define LLV_ST(p, v) ((void)(*(p) = (v)))
  #define LLV_SET1(x) (x)
  #define LLV_SQRT(a) sqrtf(a)
  /* spelled out where the compiler would fuse some and not others: rows must not differ */
  #if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__)
    #define LLV_FMA(a, b, c) fmaf(a, b, c)
  #else
    #define LLV_FMA(a, b, c) ((a) * (b) + (c))
  #endif
  #define LLV_MAX(a, b) ((a) > (b) ? (a) : (b))
  #define LLV_MIN(a, b) ((a) < (b) ? (a) : (b))
  #define LLV_HSUM(v) (v)
  #define LLV_HMAX(v) (v)
  #define LLV_VI int32_t
  #define LLV_TO_INT(v) ((v) != (v) ? 0 : (int32_t)lrintf(v))
  #define LLV_TO_FLOAT(v) ((float)(v))
  #define LLV_BITS(v) ((int32_t)llmi_bits_of_float(v))
  #define LLV_FLOATS(i) llmi_float_of_bits((uint32_t)(i))
  #define LLV_ISET(x) (x)
  #define LLV_IADD(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
  #define LLV_IAND(a, b) ((a) & (b))
  #define LLV_IOR(a, b) ((a) | (b))
  #define LLV_SLL(i, n) ((int32_t)((uint32_t)(i) << (n)))
  #define LLV_SRL(i, n) ((int32_t)((uint32_t)(i) >> (n)))
  #define LLV_F16(p) llmi_f16_to_f32(*(p))
  #define LLV_BF16(p) llmi_bf16_to_f32(*(p))
  #define LLV_ZERO_BELOW(v, x, low) ((x) < (low) ? 0.0f : (v))
#endif /* LLMI_PASS >= LLMI_PASS_AVX512 */
#define LLV_NR (LLV_NV * LLV_W)
#if LLMI_PASS == LLMI_PASS_AMX
  #define LLV_K_GROUP 32
#elif LLMI_PASS == LLMI_PASS_BF16
  #define LLV_K_GROUP 2
  #define LLV_MAC(a, b, c) _mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b))
#else
  #define LLV_K_GROUP 1
  #define LLV_MAC(a, b, c) LLV_FMA(a, b, c)
#endif

/* 4-lane helpers for packing: plain load, 4x4 transpose */
#if LLMI_X86 && LLMI_PASS > LLMI_PASS_SCALAR
  #define LLV_V4 __m128
  #define LLV_LD4(p) _mm_loadu_ps(p)
  #define LLV_ST4(p, v) _mm_storeu_ps(p, v)
  #define LLV_ST2(p, v) _mm_storel_pi((__m64 *)(void *)(p), v)
  #define LLV_TRANSPOSE4(a, b, c, d) _MM_TRANSPOSE4_PS(a, b, c, d)
#elif LLMI_NEON && LLMI_PASS > LLMI_PASS_SCALAR
  #define LLV_V4 float32x4_t
  #define LLV_LD4(p) vld1q_f32(p)
  #define LLV_ST4(p, v) vst1q_f32(p, v)
  #define LLV_ST2(p, v) vst1_f32(p, vget_low_f32(v))
  #define LLV_TRANSPOSE4(a, b, c, d) do { \
        const float32x4x2_t t0_ = vtrnq_f32(a, b), t1_ = vtrnq_f32(c, d); \
        a = vcombine_f32(vget_low_f32(t0_.val[0]), vget_low_f32(t1_.val[0])); \
        b = vcombine_f32(vget_low_f32(t0_.val[1]), vget_low_f32(t1_.val[1])); \
        c = vcombine_f32(vget_high_f32(t0_.val[0]), vget_high_f32(t1_.val[0])); \
        d = vcombine_f32(vget_high_f32(t0_.val[1]), vget_high_f32(t1_.val[1])); } while (0)
#endif

#if LLMI_X86 && (LLMI_PASS == LLMI_PASS_BASE || LLMI_PASS == LLMI_PASS_AVX2)
LLMI_INLINE float LLV_(hsum)(LLV v) {
  #if LLMI_PASS == LLMI_PASS_AVX2
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  #else
    __m128 x = v;
  #endif
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
LLMI_INLINE float LLV_(hmax)(LLV v) {
  #if LLMI_PASS == LLMI_PASS_AVX2
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  #else
    __m128 x = v;
  #endif
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
#endif
#ifndef LLV_LDN      /* through the stack: at most one per row */
LLMI_INLINE LLV LLV_(ldn)(const float *p, size_t n) {
    float t[LLV_W] = {0};
    memcpy(t, p, n * sizeof *p);
    return LLV_LD(t);
}
LLMI_INLINE void LLV_(stn)(float *p, LLV v, size_t n) {
    float t[LLV_W];
    LLV_ST(t, v);
    memcpy(p, t, n * sizeof *p);
}
  #define LLV_LDN(p, n) LLV_(ldn)(p, n)
  #define LLV_STN(p, v, n) LLV_(stn)(p, v, n)
#endif

/* min(n, LLV_W) lanes, n >= 1 */
LLMI_INLINE LLV LLV_(load)(const float *p, size_t n) {
    return n >= LLV_W ? LLV_LD(p) : LLV_LDN(p, n);
}
LLMI_INLINE void LLV_(store)(float *p, LLV v, size_t n) {
    if (n >= LLV_W) LLV_ST(p, v);
    else LLV_STN(p, v, n);
}
#define LLV_LOAD(p, n) LLV_(load)(p, n)
#define LLV_STORE(p, v, n) LLV_(store)(p, v, n)

/* to the nearest bf16, ties to even; infinities stay, and a NaN stays one, whatever its bits */
LLMI_INLINE LLV LLV_(bf16)(LLV x) {
    const LLV_VI bits = LLV_BITS(x), odd = LLV_IAND(LLV_SRL(bits, 16), LLV_ISET(1));
    const LLV_VI size = LLV_IAND(bits, LLV_ISET(0x7fffffff));
    const LLV_VI nan = LLV_SRL(LLV_IADD(size, LLV_ISET(0x7fffff)), 31);        /* 1 or 0 */
    const LLV_VI up = LLV_IAND(LLV_IADD(odd, LLV_ISET(0x7fff)), LLV_IADD(nan, LLV_ISET(-1)));
    return LLV_FLOATS(
        LLV_IAND(LLV_IOR(LLV_IADD(bits, up), LLV_SLL(nan, 22)), LLV_ISET(-0x10000)));
}

/* ---- gemm ------------------------------------------------------------------------------------ */
#if LLMI_PASS == LLMI_PASS_AMX
/* AMX multiplies tiles of bf16 with f32 sums. An f32 is the exact sum of three bf16, high + mid +
 * low, of 8 bits each; of the nine products of two such sums, six are taken: what is left out is
 * below 2^-25 of the whole, less than f32 itself rounds. (Henry, Tang, Heinecke, arXiv:1904.06376.)
 * Only infinities differ: they become NaN.
 *
 * A panel holds, per 32 values of k, its parts (high, mid, low; in bf16 products one), each of two
 * tiles of 16 lanes. A tile is 16 rows of 16 pairs (k, k + 16): for A a row is a lane, and k runs
 * along it; for B a row is a k, and lanes do. */
#define LLV_PART_BYTES 2048
LLMI_INLINE void LLV_(transpose16)(LLV *x) {
    LLV a[16], b[16];
    int i;
    LLMI_UNROLL
    for (i = 0; i < 16; i += 2) {                    /* pairs of rows */
        a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    LLMI_UNROLL
    for (i = 0; i < 16; i += 4) { /* fours: b[i + c] = column c of each 4 x 4 block */
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    LLMI_UNROLL
    for (i = 0; i < 4; i++) {                        /* blocks across */
        const LLV p = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88),
                q = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        const LLV r = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd),
                s = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
        x[i] = _mm512_shuffle_f32x4(p, q, 0x88);
        x[i + 8] = _mm512_shuffle_f32x4(p, q, 0xdd);
        x[i + 4] = _mm512_shuffle_f32x4(r, s, 0x88);
        x[i + 12] = _mm512_shuffle_f32x4(r, s, 0xdd);
    }
}

/* to[i][j] = from[i stride + j], or zero outside of n rows and m columns; ahead: distance to what
 * comes next */
LLMI_INLINE void LLV_(fetch16)(LLV *to, const float *from, size_t stride, size_t n, size_t m,
                               size_t ahead) {
    const __mmask16 mask = (__mmask16)(m >= 16 ? 0xffffu : (1u << m) - 1u);
    size_t i;
    if (n >= 16) {
        LLMI_UNROLL
        for (i = 0; i < 16; i++) {
            to[i] = _mm512_maskz_loadu_ps(mask, from + i * stride);
            LLMI_PREFETCH(from + i * stride + ahead);
        }
        return;
    }
    for (i = 0; i < 16; i++)
        to[i] = i < n ? _mm512_maskz_loadu_ps(mask, from + i * stride) : LLV_SET1(0.0f);
}

/* x rounded to bf16; the last part needs no rounding, which also keeps every NaN one */
LLMI_INLINE __m512i LLV_(high)(LLV x, int round) {
    __m512i bits = _mm512_castps_si512(x);
    if (round) bits = _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000));
    return _mm512_and_si512(bits, _mm512_set1_epi32(-0x10000));
}

LLMI_INLINE void LLV_(pack)(float *to, const float *from, size_t lane, size_t along,
                            size_t lanes, size_t k, int transpose, size_t parts) {
    size_t l0, k0, half, i, part;
    for (l0 = 0; l0 < lanes; l0 += 32)
        for (k0 = 0; k0 < k; k0 += 32, to += parts * LLV_PART_BYTES / 4)
            for (half = 0; half < 2; half++) {
                const size_t l = l0 + 16 * half, n_lanes = l < lanes ? llmi_min(16, lanes - l) : 0;
                char *row = (char *)to + 1024 * half;
                LLV pair[2][16];                       /* values k and k + 16 */
                for (i = 0; i < 2; i++) {
                    const size_t at = k0 + 16 * i,
                                 n_k = n_lanes && at < k ? llmi_min(16, k - at) : 0;
                    const float *s = n_k ? from + l * lane + at * along : from;
                    if (along == 1) LLV_(fetch16)(pair[i], s, lane, n_k ? n_lanes : 0, n_k, 64);
                    else LLV_(fetch16)(pair[i], s, along, n_k, n_lanes, 32 * along);
                    if (transpose) LLV_(transpose16)(pair[i]);
                }
                for (i = 0; i < 16; i++, row += 64) {
                    LLV x = pair[0][i], y = pair[1][i];
                    if (parts == 1) {
                        x = LLV_(bf16)(x);
                        y = LLV_(bf16)(y);
                    }
                    LLMI_UNROLL
                    for (part = 0; part < parts; part++) {
                        const __m512i u = LLV_(high)(x, part + 1 < parts),
                                      v = LLV_(high)(y, part + 1 < parts);
                        _mm512_storeu_si512(row + LLV_PART_BYTES * part,
                                            _mm512_or_si512(_mm512_srli_epi32(u, 16), v));
                        x = x - _mm512_castsi512_ps(u);
                        y = y - _mm512_castsi512_ps(v);
                    }
                }
            }
}
/* For A, lanes are rows of a tile as they lie along k; for B, they run across it. What is known in
 * each branch makes it a loop of its own. */
LLMI_INLINE void LLV_(pack_parts)(llmi_side side, float *to, const float *from, size_t lane,
                                  size_t along, size_t lanes, size_t k, size_t parts) {
    if (side == LLMI_A && along == 1) LLV_(pack)(to, from, lane, 1, lanes, k, 0, parts);
    else if (side == LLMI_A) LLV_(pack)(to, from, 1, along, lanes, k, 1, parts);
    else if (along == 1) LLV_(pack)(to, from, lane, 1, lanes, k, 1, parts);
    else LLV_(pack)(to, from, 1, along, lanes, k, 0, parts);
}
static void LLV_(pack_f32)(llmi_side side, float *to, const float *from, size_t lane, size_t along,
                           size_t lanes, size_t k) {
    LLV_(pack_parts)(side, to, from, lane, along, lanes, k, 3);
}
static void LLV_(pack_bf16)(llmi_side side, float *to, const float *from, size_t lane,
                            size_t along, size_t lanes, size_t k) {
    LLV_(pack_parts)(side, to, from, lane, along, lanes, k, 1);
}

/* out (32,32) = A panel^T B panel over groups of 32 k */
LLMI_NOINLINE void LLV_(tile)(size_t groups, const float *a, const float *b, float *out,
                              int parts) {
    const char *p = (const char *)a, *q = (const char *)b;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
#define LLV_LOAD_A(part) \
    _tile_loadd(4, p + LLV_PART_BYTES * (part), 64); \
    _tile_loadd(5, p + LLV_PART_BYTES * (part) + LLV_PART_BYTES / 2, 64)
#define LLV_LOAD_B(part) \
    _tile_loadd(6, q + LLV_PART_BYTES * (part), 64); \
    _tile_loadd(7, q + LLV_PART_BYTES * (part) + LLV_PART_BYTES / 2, 64)
#define LLV_MULTIPLY \
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); \
    _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7)
    for (; groups && parts == 1; groups--, p += LLV_PART_BYTES, q += LLV_PART_BYTES) {
        LLV_LOAD_A(0); LLV_LOAD_B(0); LLV_MULTIPLY;
    }
    for (; groups; groups--, p += 3 * LLV_PART_BYTES, q += 3 * LLV_PART_BYTES) {
        LLV_LOAD_A(0); LLV_LOAD_B(2); LLV_MULTIPLY;              /* high low */
        LLV_LOAD_B(1); LLV_MULTIPLY;                         /* high mid */
        LLV_LOAD_A(1); LLV_MULTIPLY;                         /* mid mid */
        LLV_LOAD_B(0); LLV_MULTIPLY;                         /* mid high */
        LLV_LOAD_A(2); LLV_MULTIPLY;                         /* low high */
        LLV_LOAD_A(0); LLV_MULTIPLY;                         /* high high */
    }
#undef LLV_LOAD_A
#undef LLV_LOAD_B
#undef LLV_MULTIPLY
    _tile_stored(0, out, 128);
    _tile_stored(1, out + 16, 128);
    _tile_stored(2, out + 512, 128);
    _tile_stored(3, out + 528, 128);
}

LLMI_INLINE void LLV_(block_of)(size_t m, size_t n, size_t k, const float *a, const float *b,
                                float *c, size_t ldc, const float *bias, int accumulate,
                                int parts) {
    static const struct {
        unsigned char palette, start, zero[14];
        unsigned short bytes[16];
        unsigned char rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    const size_t groups = llmi_ceil_div(k, 32), panel = groups * (size_t)parts * LLV_PART_BYTES / 4;
    float tile[32 * 32];
    size_t i, j, r, q;
    _tile_loadconfig(&shape);
    for (j = 0; j < n; j += LLV_NR)
        for (i = 0; i < m; i += LLV_MR) {
            const size_t rows = llmi_min(m - i, LLV_MR), columns = llmi_min(n - j, LLV_NR);
            for (r = 0; r < rows; r++) {
                LLMI_PREFETCH_WRITE(c + (i + r) * ldc + j);
                LLMI_PREFETCH_WRITE(c + (i + r) * ldc + j + columns - 1);
            }
            LLV_(tile)(groups, a + i / LLV_MR * panel, b + j / LLV_NR * panel, tile, parts);
            for (q = 0; q < columns; q += LLV_W) {
                const size_t left = columns - q;
                const LLV add = bias ? LLV_LOAD(bias + j + q, left) : LLV_SET1(0.0f);
                float *to = c + i * ldc + j + q;
                for (r = 0; r < rows; r++, to += ldc) {
                    LLV x = LLV_LD(tile + r * 32 + q) + add;
                    if (accumulate) x = LLV_LOAD(to, left) + x;
                    LLV_STORE(to, x, left);
                }
            }
        }
    _tile_release();
}
static void LLV_(block)(size_t m, size_t n, size_t k, const float *a, const float *b, float *c,
                        size_t ldc, const float *bias, int accumulate) {
    LLV_(block_of)(m, n, k, a, b, c, ldc, bias, accumulate, 3);
}
static void LLV_(block_bf16)(size_t m, size_t n, size_t k, const float *a, const float *b,
                             float *c, size_t ldc, const float *bias, int accumulate) {
    LLV_(block_of)(m, n, k, a, b, c, ldc, bias, accumulate, 1);
}
#undef LLV_PART_BYTES
#else

#if LLMI_PASS == LLMI_PASS_BF16
/* Panels as for f32, of pairs of bf16 along k in place of values */
LLMI_INLINE LLV LLV_(pairs)(LLV even, LLV odd) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even)),
                  high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    return LLV_FLOATS(LLV_IOR(low, LLV_SLL(high, 16)));
}
#define LLV_PAIRS 128                      /* at a time: what is transposed stays in L1 */
LLMI_INLINE void LLV_(pack)(float *to, const float *from, size_t P, size_t lane, size_t along,
                            size_t lanes, size_t k) {
    const size_t pairs = llmi_ceil_div(k, 2);
    float rows[LLV_NR * LLV_PAIRS];
    size_t l0, k0, i, l;
    if (lane == 1) {
        for (i = 0; i < pairs; i++, from += 2 * along)
            for (l0 = 0; l0 < lanes; l0 += P)
                for (l = 0; l < P; l += LLV_W) {
                    const size_t n = lanes > l0 + l ? llmi_min(LLV_W, lanes - l0 - l) : 0;
                    const float *s = from + (n ? l0 + l : 0);
                    const LLV even = LLV_LDN(s, n);
                    const LLV odd = 2 * i + 1 < k ? LLV_LDN(s + along, n) : LLV_SET1(0.0f);
                    LLV_STN(to + l0 * pairs + i * P + l, LLV_(pairs)(even, odd),
                            llmi_min(LLV_W, P - l));
                }
        return;
    }
    for (l0 = 0; l0 < lanes; l0 += P)
        for (k0 = 0; k0 < k; k0 += 2 * LLV_PAIRS) {
            const size_t n = llmi_min(P, lanes - l0), n_k = llmi_min(2 * LLV_PAIRS, k - k0);
            for (l = 0; l < n; l++)
                for (i = 0; i < n_k; i += 2 * LLV_W) {
                    const float *s = from + (l0 + l) * lane + k0 + i;
                    const size_t left = n_k - i;
                    const LLV low = LLV_(load)(s, left),
                              high = left > LLV_W ? LLV_(load)(s + LLV_W, left - LLV_W)
                                                  : LLV_SET1(0.0f);
                    LLV_ST(rows + l * LLV_PAIRS + i / 2, (LLV)_mm512_cvtne2ps_pbh(high, low));
                }
            LLV_F32(pack)(to + l0 * pairs + k0 / 2 * P, rows, P, LLV_PAIRS, 1, n,
                         llmi_ceil_div(n_k, 2));
        }
}
#undef LLV_PAIRS
#else

/* `whole` lanes that stand side by side, in groups of P: whole rows, 8 at a time, as a panel's
 * stride would thrash the cache sets */
LLMI_INLINE void LLV_(pack_rows)(float *to, const float *from, size_t P, size_t along,
                                 size_t whole, size_t k) {
    size_t l0, i, l, i0, i1;
    for (i0 = 0; i0 < k; i0 = i1) {
        float *d = to + i0 * P;
        i1 = llmi_min(i0 + 8, k);
        for (l0 = 0; l0 < whole; l0 += P, d += P * (k - (i1 - i0)))
            for (i = i0; i < i1; i++, d += P) {
                const float *s = from + i * along + l0;
                LLMI_PREFETCH(s + 8 * along);
#ifdef LLV_V4
                if (P % LLV_W) {       /* MR is no multiple of W */
                    LLMI_UNROLL
                    for (l = 0; l + 4 <= P; l += 4) LLV_ST4(d + l, LLV_LD4(s + l));
                    if (P % 4) memcpy(d + l, s + l, P % 4 * sizeof *s);
                    continue;
                }
#endif
                LLMI_UNROLL
                for (l = 0; l < P; l += LLV_W) LLV_ST(d + l, LLV_LD(s + l));
            }
    }
}

#ifdef LLV_V4
/* P lanes, each of which runs along k: four at a time, a cache line of each; -> how far along k */
LLMI_INLINE size_t LLV_(pack_lanes)(float *to, const float *s, size_t P, size_t lane, size_t k) {
    size_t i, l, i1, j;
    for (i = 0; i + 4 <= k; i = i1) {
        i1 = llmi_min(i + 16, k / 4 * 4);
        LLMI_UNROLL
        for (l = 0; l < P; l += 4) {
            const int two = l + 2 == P;
            const float *h = s + l * lane, *h2 = two ? h : h + 2 * lane;
            LLMI_PREFETCH(h + i + 32);
            LLMI_PREFETCH(h + lane + i + 32);
            LLMI_PREFETCH(h2 + i + 32);
            LLMI_PREFETCH(h2 + lane + i + 32);
            for (j = i; j < i1; j += 4) {
                float *d = to + j * P + l;
                LLV_V4 a = LLV_LD4(h + j), b = LLV_LD4(h + lane + j);
                LLV_V4 c = LLV_LD4(h2 + j), e = LLV_LD4(h2 + lane + j);
                LLV_TRANSPOSE4(a, b, c, e);
                if (two) {
                    LLV_ST2(d, a);
                    LLV_ST2(d + P, b);
                    LLV_ST2(d + 2 * P, c);
                    LLV_ST2(d + 3 * P, e);
                } else {
                    LLV_ST4(d, a);
                    LLV_ST4(d + P, b);
                    LLV_ST4(d + 2 * P, c);
                    LLV_ST4(d + 3 * P, e);
                }
            }
        }
    }
    return i;
}
#endif

/* lanes (m or n) in groups of P become to[k P + lane], zero-padded; lane: stride between lanes,
 * along: stride along k, both in floats */
LLMI_INLINE void LLV_(pack)(float *to, const float *from, size_t P, size_t lane, size_t along,
                            size_t lanes, size_t k) {
    size_t l0 = 0, i, l;
    if (lane == 1) {
        l0 = lanes / P * P;
        LLV_(pack_rows)(to, from, P, along, l0, k);
        to += l0 * k;
    }
    for (; l0 < lanes; l0 += P, to += P * k) {
        const float *s = from + l0 * lane;
        const size_t n = llmi_min(lanes - l0, P);
        i = 0;
#ifdef LLV_V4
        if (n == P && along == 1) i = LLV_(pack_lanes)(to, s, P, lane, k);
#endif
        for (; i < k; i++) {
            for (l = 0; l < n; l++) to[i * P + l] = s[l * lane + i * along];
            for (; l < P; l++) to[i * P + l] = 0.0f;
        }
    }
}
#endif /* LLMI_PASS == LLMI_PASS_BF16 */
/* What is known in each branch makes it a loop of its own. LLMI_PASS_BF16: of bf16. */
static void LLV_(pack_f32)(llmi_side side, float *to, const float *from, size_t lane, size_t along,
                           size_t lanes, size_t k) {
    if (side == LLMI_A && along == 1) LLV_(pack)(to, from, LLV_MR, lane, 1, lanes, k);
    else if (side == LLMI_A) LLV_(pack)(to, from, LLV_MR, 1, along, lanes, k);
    else if (along == 1) LLV_(pack)(to, from, LLV_NR, lane, 1, lanes, k);
    else LLV_(pack)(to, from, LLV_NR, 1, along, lanes, k);
}

/* the first rows of a tile: C (rows,NR) = [C +] a (k,MR)^T b (k,NR) [+ bias]; k counts pairs where
 * the panels hold pairs */
LLMI_INLINE void LLV_(tile_rows)(int rows, size_t k, const float *a, const float *b, float *c,
                                 size_t ldc, const float *bias, int accumulate) {
    LLV acc[LLV_MR][LLV_NV];
    int i, j;
    LLMI_UNROLL
    for (i = 0; i < rows; i++) {
        LLMI_UNROLL
        for (j = 0; j < LLV_NV; j++) acc[i][j] = LLV_SET1(0.0f);
    }
    LLMI_UNROLL
    for (i = 0; i < rows; i++) LLMI_PREFETCH_WRITE(c + (size_t)i * ldc);
    for (; k; k--) {
        LLV bv[LLV_NV];
        LLMI_UNROLL
        for (j = 0; j < LLV_NV; j++) bv[j] = LLV_LD(b + j * LLV_W);
        LLMI_UNROLL
        for (i = 0; i < rows; i++) {
            const LLV av = LLV_SET1(a[i]);
            LLMI_UNROLL
            for (j = 0; j < LLV_NV; j++) acc[i][j] = LLV_MAC(av, bv[j], acc[i][j]);
        }
        a += LLV_MR;
        b += LLV_NR;
    }
    if (bias) {
        LLMI_UNROLL
        for (j = 0; j < LLV_NV; j++) {
            const LLV add = LLV_LD(bias + j * LLV_W);
            LLMI_UNROLL
            for (i = 0; i < rows; i++) acc[i][j] = acc[i][j] + add;
        }
    }
    if (accumulate) {
        LLMI_UNROLL
        for (i = 0; i < rows; i++) {
            LLMI_UNROLL
            for (j = 0; j < LLV_NV; j++) {
                float *p = c + (size_t)i * ldc + j * LLV_W;
                LLV_ST(p, LLV_LD(p) + acc[i][j]);
            }
        }
    } else {
        LLMI_UNROLL
        for (i = 0; i < rows; i++) {
            LLMI_UNROLL
            for (j = 0; j < LLV_NV; j++) LLV_ST(c + (size_t)i * ldc + j * LLV_W, acc[i][j]);
        }
    }
}

LLMI_NOINLINE void LLV_(tile)(size_t k, const float *a, const float *b, float *c, size_t ldc,
                              const float *bias, int accumulate) {
    LLV_(tile_rows)(LLV_MR, k, a, b, c, ldc, bias, accumulate);
}
LLMI_NOINLINE void LLV_(half_tile)(size_t k, const float *a, const float *b, float *c,
                                   size_t ldc, const float *bias) {
    LLV_(tile_rows)(LLV_MR / 2, k, a, b, c, ldc, bias, 0);
}

/* Tiles at the edges go through one on the stack, of half the rows if those are enough: a second
 * epilogue in the tile would make compilers spill its accumulators. */
static void LLV_(block)(size_t m, size_t n, size_t k, const float *a, const float *b, float *c,
                        size_t ldc, const float *bias, int accumulate) {
    float whole[LLV_MR * LLV_NR], edge_bias[LLV_NR];
    size_t i, j, r, q;
    k = llmi_ceil_div(k, LLV_K_GROUP);
    for (j = 0; j < n; j += LLV_NR) {
        const size_t columns = llmi_min(n - j, LLV_NR);
        const float *bias_j = bias ? bias + j : NULL;
        if (bias && columns < LLV_NR) {
            for (q = 0; q < LLV_NR; q++) edge_bias[q] = q < columns ? bias[j + q] : 0.0f;
            bias_j = edge_bias;
        }
        for (i = 0; i < m; i += LLV_MR) {
            float *to = c + i * ldc + j;
            const size_t rows = llmi_min(m - i, LLV_MR);
            if (rows == LLV_MR && columns == LLV_NR) {
                LLV_(tile)(k, a + i * k, b + j * k, to, ldc, bias_j, accumulate);
                continue;
            }
            if (rows > LLV_MR / 2) LLV_(tile)(k, a + i * k, b + j * k, whole, LLV_NR, bias_j, 0);
            else LLV_(half_tile)(k, a + i * k, b + j * k, whole, LLV_NR, bias_j);
            for (r = 0; r < rows; r++, to += ldc)
                for (q = 0; q < columns; q += LLV_W) {
                    LLV sum = LLV_LD(whole + r * LLV_NR + q);
                    if (accumulate) sum = LLV_LOAD(to + q, columns - q) + sum;
                    LLV_STORE(to + q, sum, columns - q);
                }
        }
    }
}

#endif /* LLMI_PASS == LLMI_PASS_AMX */

#if LLMI_PASS >= LLMI_PASS_BF16
/* fp8: a tile along k at a time is packed and quantized in f32, then packed again in bf16, which
 * holds its values exactly */
LLMI_INLINE void LLV_(pack_tiles)(float *to, const float *from, size_t P, size_t lane,
                                size_t along, size_t lanes, size_t k, int is_a, int shared) {
    const size_t n = llmi_ceil_div(lanes, P);
    float tile[LLMI_FP8_TILE * LLMI_FP8_TILE];
    size_t k0, p;
    (void)is_a;
    for (k0 = 0; k0 < k; k0 += LLMI_FP8_TILE) {
        const size_t depth = llmi_min(LLMI_FP8_TILE, k - k0);
        LLV_F32(pack)(tile, from + k0 * along, P, lane, along, lanes, depth);
        LLV_F32(quantize)(tile, P, n, depth, shared);
        for (p = 0; p < n; p++) {
            const float *panel = tile + p * depth * P;
  #if LLMI_PASS == LLMI_PASS_AMX
            LLV_(pack)(to + (p * llmi_round_up(k, 32) + k0) * P / 2, panel, 1, P, P, depth,
                       is_a, 1);
  #else
            LLV_(pack)(to + (p * llmi_round_up(k, 2) + k0) * P / 2, panel, P, 1, P, P, depth);
  #endif
        }
    }
}
static void LLV_(pack_fp8)(llmi_side side, float *to, const float *from, size_t lane, size_t along,
                           size_t lanes, size_t k) {
    const int shared = side == LLMI_WEIGHT;
    if (side == LLMI_A && along == 1)
        LLV_(pack_tiles)(to, from, LLV_MR, lane, 1, lanes, k, 1, 0);
    else if (side == LLMI_A) LLV_(pack_tiles)(to, from, LLV_MR, 1, along, lanes, k, 1, 0);
    else if (along == 1) LLV_(pack_tiles)(to, from, LLV_NR, lane, 1, lanes, k, 0, shared);
    else LLV_(pack_tiles)(to, from, LLV_NR, 1, along, lanes, k, 0, shared);
}
#endif

/* ---- products with blocks, and blocks to f32 ------------------------------------------------- */
#if LLMI_PASS == LLMI_PASS_AVX512 || LLMI_PASS == LLMI_PASS_BF16
  #define LLV_SPREAD(p) _mm512_permutexvar_ps( \
      _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0), \
      _mm512_castps128_ps512(_mm_loadu_ps(p)))
  #define LLV_SPREAD16(p) _mm512_permutexvar_epi16( \
      _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002, \
                       0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0), \
      _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
  #define LLV_BYTES(p) _mm512_loadu_si512((const void *)(p))
  #define LLV_BYTES_TO(p, v) _mm512_storeu_si512((void *)(p), v)
  #define LLV_FLOAT_U8(p) \
      _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#elif LLMI_PASS == LLMI_PASS_AVX2
  #define LLV_SPREAD(p) _mm256_permutevar8x32_ps( \
      _mm256_castps128_ps256( \
          _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(const void *)(p)))), \
      _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0))
  #define LLV_SPREAD16(p) _mm256_shuffle_epi8( \
      _mm256_broadcastd_epi32(_mm_loadu_si32(p)), \
      _mm256_set_epi64x(0x0302030203020302, 0x0302030203020302, 0x0100010001000100, \
                        0x0100010001000100))
  #define LLV_BYTES(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
  #define LLV_BYTES_TO(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
  #define LLV_FLOAT_U8(p) \
      _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#endif
#if LLMI_PASS >= LLMI_PASS_AVX2 && LLMI_PASS <= LLMI_PASS_BF16
LLMI_INLINE __m256i LLV_(load32)(const unsigned char *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
  #if LLMI_PASS > LLMI_PASS_AVX2
LLMI_INLINE __m512i LLV_(halves16)(short low, short high) {      /* of a vector's two halves */
    return _mm512_inserti64x4(_mm512_set1_epi16(low), _mm256_set1_epi16(high), 1);
}
LLMI_INLINE __m512 LLV_(both)(const __m256 *x) {
    return _mm512_castpd_ps(_mm512_insertf64x4(
        _mm512_castps_pd(_mm512_castps256_ps512(x[0])), _mm256_castps_pd(x[1]), 1));
}
  #endif
/* values 32 i .. 32 i + 31 of a chunk, as llmi_blocks_open has them */
LLMI_INLINE __m256i LLV_(unpack)(llm_dtype type, const unsigned char *b, size_t i) {
    const __m256i low = _mm256_set1_epi8(15);
    if (type == LLM_Q8_0)
        return _mm256_xor_si256(LLV_(load32)(b + i * 34 + 2), _mm256_set1_epi8(-128));
    if (type == LLM_Q4_K || type == LLM_Q5_K) {
        const __m256i v = LLV_(load32)(b + (type == LLM_Q4_K ? 16 : 48) + i / 2 * 32);
        const __m256i q = _mm256_and_si256(
            _mm256_srl_epi16(v, _mm_cvtsi32_si128((int)(i % 2 * 4))), low);
        const __m256i fifth = _mm256_srl_epi16(LLV_(load32)(b + 16), _mm_cvtsi32_si128((int)i));
        if (type == LLM_Q4_K) return q;
        return _mm256_or_si256(
            q, _mm256_slli_epi16(_mm256_and_si256(fifth, _mm256_set1_epi8(1)), 4));
    }
    if (type == LLM_Q6_K) {
        const __m256i v = LLV_(load32)(b + i / 4 * 64 + i % 2 * 32);
        const __m256i h = LLV_(load32)(b + 128 + i / 4 * 32);
        const __m256i q = _mm256_srl_epi16(v, _mm_cvtsi32_si128((int)(i % 4 / 2 * 4)));
        const __m256i high = _mm256_srl_epi16(h, _mm_cvtsi32_si128((int)(i % 4 * 2)));
        return _mm256_or_si256(
            _mm256_and_si256(q, low),
            _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4));
    } else {
        const size_t m = type == LLM_Q4_1 || type == LLM_Q5_1,
                     five = type == LLM_Q5_0 || type == LLM_Q5_1;
        const unsigned char *at = b + i * llmi_types[type].bytes + 2 + 2 * m + 4 * five;
        const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
        const __m256i q = _mm256_and_si256(
            _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1), low);
        if (five) {
            const __m256i mask = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
            const __m256i spread = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202,
                                                     0x0101010101010101, 0);
            int32_t bits;
            __m256i fifth;
            memcpy(&bits, at - 4, 4);
            fifth = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), mask);
            fifth = _mm256_and_si256(_mm256_cmpeq_epi8(fifth, mask), _mm256_set1_epi8(16));
            return _mm256_or_si256(q, fifth);
        }
        return q;
    }
}

/* eight numbers, each twice */
LLMI_INLINE void LLV_(twice)(__m256 x, __m256 *to) {
    to[0] = _mm256_permutevar8x32_ps(x, _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0));
    to[1] = _mm256_permutevar8x32_ps(x, _mm256_set_epi32(7, 7, 6, 6, 5, 5, 4, 4));
}
/* n of eight f16 that stand `bytes` apart, and the last again for the others */
LLMI_INLINE __m256 LLV_(halves)(const unsigned char *b, size_t bytes, size_t n) {
    uint16_t d[8];
    size_t i;
    LLMI_UNROLL
    for (i = 0; i < 8; i++) memcpy(&d[i], b + llmi_min(i, n - 1) * bytes, 2);
    return _mm256_cvtph_ps(_mm_set_epi16((short)d[7], (short)d[6], (short)d[5], (short)d[4],
                                         (short)d[3], (short)d[2], (short)d[1], (short)d[0]));
}
/* the eight scales or minima of 6 bits of a Q4_K or Q5_K block, as bytes */
LLMI_INLINE __m128i LLV_(six_bits)(const unsigned char *b, int minima) {
    uint32_t u[3];
    memcpy(u, b + 4, 12);
    return _mm_set_epi32(0, 0,
                         (int)((u[2] >> 4 * minima & 0x0f0f0f0fu) |
                               (u[minima] >> 6 & 0x03030303u) << 4),
                         (int)(u[minima] & 0x3f3f3f3fu));
}
/* Scale and least of the sixteens of a chunk of n thirty-twos, as llmi_blocks_open has them. What
 * is beyond them will be multiplied by zeros. */
LLMI_INLINE void LLV_(scales)(llm_dtype type, const unsigned char *b, size_t n, __m256 *scale,
                              __m256 *least) {
    if (type == LLM_Q4_K || type == LLM_Q5_K) {
        const __m256 dm = LLV_(halves)(b, 2, 2);
        const __m256 d = _mm256_broadcastss_ps(_mm256_castps256_ps128(dm));
        const __m256 m = _mm256_broadcastss_ps(_mm_movehdup_ps(_mm256_castps256_ps128(dm)));
        LLV_(twice)(d * _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(LLV_(six_bits)(b, 0))), scale);
        LLV_(twice)(_mm256_xor_ps(m, _mm256_set1_ps(-0.0f)) *
                        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(LLV_(six_bits)(b, 1))),
                    least);
    } else if (type == LLM_Q6_K) {
        const __m128i s = _mm_loadu_si128((const __m128i *)(const void *)(b + 192));
        uint16_t bits;
        __m256 d;
        memcpy(&bits, b + 208, 2);
        d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
        scale[0] = d * _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s));
        scale[1] = d * _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(s, s)));
        least[0] = scale[0] * _mm256_set1_ps(-32.0f);
        least[1] = scale[1] * _mm256_set1_ps(-32.0f);
    } else {
        const size_t bytes = llmi_types[type].bytes;
        const __m256 d = LLV_(halves)(b, bytes, n);
        LLV_(twice)(d, scale);
        if (type == LLM_Q4_1 || type == LLM_Q5_1) LLV_(twice)(LLV_(halves)(b + 2, bytes, n), least);
        else
            LLV_(twice)(d * _mm256_set1_ps(type == LLM_Q8_0   ? -128.0f
                                           : type == LLM_Q5_0 ? -16.0f
                                                              : -8.0f),
                        least);
    }
}

  #if LLMI_PASS != LLMI_PASS_AVX512                /* which takes the products of AVX2 */
/* the products of four neighbours of u and x, summed; u 0..255 if wide, else 0..63; x -127..127 */
LLMI_INLINE LLV_VI LLV_(dot_bytes)(int wide, LLV_VI u, LLV_VI x) {
  #if LLMI_PASS == LLMI_PASS_BF16
    (void)wide;
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, x);
  #else
    if (wide)                          /* a pair of products may not fit 16 bits */
        return _mm256_add_epi32(
            _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(255)),
                              _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8)),
            _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(x, 8)));
    return _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), _mm256_set1_epi16(1));
  #endif
}
/* as many thirty-twos, from the i-th on, as a vector holds; what is beyond n is 0 */
LLMI_INLINE LLV_VI LLV_(unpack_all)(llm_dtype type, const unsigned char *b, size_t i, size_t n) {
  #if LLMI_PASS == LLMI_PASS_AVX2
    (void)n;
    return LLV_(unpack)(type, b, i);
  #else
    const __m512i low = _mm512_set1_epi8(15);
    const short at = (short)(i % 4);
    __m512i v, h;
    if (type == LLM_Q6_K) {
        h = _mm512_broadcast_i64x4(LLV_(load32)(b + 128 + i / 4 * 32));
        h = _mm512_srlv_epi16(h, LLV_(halves16)((short)(2 * at), (short)(2 * at + 2)));
        v = _mm512_srl_epi16(LLV_BYTES(b + i / 4 * 64), _mm_cvtsi32_si128(at / 2 * 4));
        return _mm512_or_si512(
            _mm512_and_si512(v, low),
            _mm512_slli_epi16(_mm512_and_si512(h, _mm512_set1_epi8(3)), 4));
    }
    if (type == LLM_Q4_K || type == LLM_Q5_K) {
        v = _mm512_broadcast_i64x4(LLV_(load32)(b + (type == LLM_Q4_K ? 16 : 48) + i / 2 * 32));
        v = _mm512_and_si512(_mm512_srlv_epi16(v, LLV_(halves16)(0, 4)), low);
        if (type == LLM_Q4_K) return v;
        h = _mm512_broadcast_i64x4(LLV_(load32)(b + 16));
        h = _mm512_srlv_epi16(h, LLV_(halves16)((short)i, (short)(i + 1)));
        return _mm512_or_si512(v, _mm512_slli_epi16(_mm512_and_si512(h, _mm512_set1_epi8(1)), 4));
    }
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(LLV_(unpack)(type, b, i)),
        i + 1 < n ? LLV_(unpack)(type, b, i + 1) : _mm256_setzero_si256(), 1);
  #endif
}
/* sum + least x of a chunk's sixteens */
LLMI_INLINE LLV LLV_(add_least)(LLV sum, const __m256 *least, const float *x) {
  #if LLMI_PASS == LLMI_PASS_AVX2
    return _mm256_fmadd_ps(least[1], _mm256_loadu_ps(x + 8),
                           _mm256_fmadd_ps(least[0], _mm256_loadu_ps(x), sum));
  #else
    return _mm512_fmadd_ps(LLV_(both)(least), _mm512_loadu_ps(x), sum);
  #endif
}

/* The products of a row of x, or several, and one row of the weight. Each has two sums, as one
 * would wait for itself; what is added to them comes in one order for all. */
LLMI_INLINE float LLV_(blocks_row)(llm_dtype type, size_t k, const llmi_q8 *x,
                                   const unsigned char *w) {
    const size_t step = LLV_W / 8;
    LLV acc[2];
    size_t k0, i, j;
    acc[0] = acc[1] = LLV_SET1(0.0f);
    for (k0 = 0; k0 < k; k0 += LLMI_BLOCK_MOST, x++) {
        const size_t n = llmi_min(k - k0, LLMI_BLOCK_MOST) / 32;
        const size_t bytes = llmi_dtype_bytes(type, 32 * n);
        float scaled[16];
        __m256 scale[2], least[2];
        LLV_(scales)(type, w, n, scale, least);
        for (j = 0; j < bytes; j += 64) LLMI_PREFETCH(w + 2048 + j);
        _mm256_storeu_ps(scaled, scale[0] * _mm256_loadu_ps(x->scale));
        _mm256_storeu_ps(scaled + 8, scale[1] * _mm256_loadu_ps(x->scale + 8));
        acc[0] = LLV_(add_least)(acc[0], least, x->sum);
        if (n == 8) {
            LLMI_UNROLL
            for (i = 0; i < 8; i += step)
                acc[i / step % 2] = LLV_FMA(
                    LLV_TO_FLOAT(LLV_(dot_bytes)(type == LLM_Q8_0, LLV_(unpack_all)(type, w, i, 8),
                                                 LLV_BYTES(x->q + 32 * i))),
                    LLV_SPREAD(scaled + 2 * i), acc[i / step % 2]);
        } else {
            for (i = 0; i < n; i += step)
                acc[0] = LLV_FMA(
                    LLV_TO_FLOAT(LLV_(dot_bytes)(type == LLM_Q8_0, LLV_(unpack_all)(type, w, i, n),
                                                 LLV_BYTES(x->q + 32 * i))),
                    LLV_SPREAD(scaled + 2 * i), acc[0]);
        }
        w += bytes;
    }
    return LLV_HSUM(acc[0] + acc[1]);
}
LLMI_INLINE LLV LLV_(opened_term)(int wide, LLV_VI u, const llmi_q8 *x, size_t i,
                                  const float *scaled, LLV sum) {
    const LLV_VI dot = LLV_(dot_bytes)(wide, u, LLV_BYTES(x->q + 32 * i));
    return LLV_FMA(LLV_TO_FLOAT(dot), LLV_SPREAD(scaled + 2 * i), sum);
}
LLMI_INLINE void LLV_(opened_rows)(int wide, int rows, size_t n, const llmi_q8 *x, size_t stride,
                                   const llmi_opened *w, LLV (*acc)[2]) {
    const size_t step = LLV_W / 8;
    LLV sum[LLV_BLOCK_ROWS][2];
    size_t c, i;
    int r;
    LLMI_UNROLL
    for (r = 0; r < rows; r++) {
        sum[r][0] = acc[r][0];
        sum[r][1] = acc[r][1];
    }
    for (c = 0; c < n; c += 8, x += stride) {  /* thirty-twos */
        const size_t count = llmi_min(n - c, 8);
        const float *scale = w->scale + 2 * c;
        float scaled[LLV_BLOCK_ROWS][16];
        __m256 least[2];
        least[0] = _mm256_loadu_ps(w->least + 2 * c);
        least[1] = _mm256_loadu_ps(w->least + 2 * c + 8);
        LLMI_UNROLL
        for (r = 0; r < rows; r++) {
            const llmi_q8 *xr = x + r;
            for (i = 0; i < 16; i += 8)
                _mm256_storeu_ps(scaled[r] + i,
                                 _mm256_loadu_ps(scale + i) * _mm256_loadu_ps(xr->scale + i));
            sum[r][0] = LLV_(add_least)(sum[r][0], least, xr->sum);
        }
        for (i = 0; i < 8 && count == 8; i += 2 * step) {
            const LLV_VI u = LLV_BYTES(w->q + 32 * (c + i));
            const LLV_VI v = LLV_BYTES(w->q + 32 * (c + i + step));
            LLMI_UNROLL
            for (r = 0; r < rows; r++) {
                const llmi_q8 *xr = x + r;
                sum[r][0] = LLV_(opened_term)(wide, u, xr, i, scaled[r], sum[r][0]);
                sum[r][1] = LLV_(opened_term)(wide, v, xr, i + step, scaled[r], sum[r][1]);
            }
        }
        for (i = 0; i < count && count < 8; i += step) {
            const LLV_VI u = LLV_BYTES(w->q + 32 * (c + i));
            LLMI_UNROLL
            for (r = 0; r < rows; r++)
                sum[r][0] = LLV_(opened_term)(wide, u, x + r, i, scaled[r], sum[r][0]);
        }
    }
    LLMI_UNROLL
    for (r = 0; r < rows; r++) {
        acc[r][0] = sum[r][0];
        acc[r][1] = sum[r][1];
    }
}

/* the whole numbers that sixteens of a K block are multiplied by; -> d */
LLMI_INLINE float LLV_(whole_scales)(llm_dtype type, const unsigned char *b, int16_t *to) {
    uint16_t half;
    __m128i s;
    if (type == LLM_Q6_K) s = _mm_loadu_si128((const __m128i *)(const void *)(b + 192));
    else {
        s = LLV_(six_bits)(b, 0);
        s = _mm_unpacklo_epi8(s, s);
    }
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_cvtepi8_epi16(s));
    memcpy(&half, type == LLM_Q6_K ? b + 208 : b, 2);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}
/* sum + u x s, by fours: u (0..63), x (-127..127), s a scale for each pair */
LLMI_INLINE LLV_VI LLV_(dot_scaled)(LLV_VI sum, LLV_VI u, LLV_VI x, LLV_VI s) {
  #if LLMI_PASS == LLMI_PASS_BF16
    return _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(u, x), s);
  #else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), s));
  #endif
}
/* The same of the K types, and x with one scale for 256: scales multiply whole numbers. */
LLMI_INLINE float LLV_(blocks_row_k)(llm_dtype type, size_t k, const llmi_q8 *x,
                                     const unsigned char *w) {
    const size_t bytes = llmi_types[type].bytes, step = LLV_W / 8;
    LLV total = LLV_SET1(0.0f);
    size_t k0, i, j;
    for (k0 = 0; k0 < k; k0 += LLMI_BLOCK_MOST, x++, w += bytes) {
        LLV_VI sum[2];
        int16_t whole[16];
        __m256 scale[2], least[2];
        const float d = LLV_(whole_scales)(type, w, whole);
        LLV_(scales)(type, w, 8, scale, least);
        for (j = 0; j < bytes; j += 64) LLMI_PREFETCH(w + 2048 + j);
        sum[0] = sum[1] = LLV_ISET(0);
        total = LLV_(add_least)(total, least, x->sum);
        LLMI_UNROLL
        for (i = 0; i < 8; i += step)
            sum[i / step % 2] =
                LLV_(dot_scaled)(sum[i / step % 2], LLV_(unpack_all)(type, w, i, 8),
                                 LLV_BYTES(x->q + 32 * i), LLV_SPREAD16(whole + 2 * i));
        total = LLV_FMA(LLV_TO_FLOAT(LLV_IADD(sum[0], sum[1])), LLV_SET1(d * x->scale[0]), total);
    }
    return LLV_HSUM(total);
}
LLMI_INLINE void LLV_(opened_rows_k)(int rows, size_t n, const llmi_q8 *x, size_t stride,
                                     const llmi_opened *w, LLV (*acc)[2]) {
    const size_t step = LLV_W / 8;
    LLV total[LLV_BLOCK_ROWS];
    size_t c, i;
    int r;
    LLMI_UNROLL
    for (r = 0; r < rows; r++) total[r] = acc[r][0];
    for (c = 0; c < n; c += 8, x += stride) {
        LLV_VI sum[LLV_BLOCK_ROWS];
        __m256 least[2];
        least[0] = _mm256_loadu_ps(w->least + 2 * c);
        least[1] = _mm256_loadu_ps(w->least + 2 * c + 8);
        LLMI_UNROLL
        for (r = 0; r < rows; r++) {
            sum[r] = LLV_ISET(0);
            total[r] = LLV_(add_least)(total[r], least, x[r].sum);
        }
        for (i = 0; i < 8; i += step) {
            const LLV_VI u = LLV_BYTES(w->q + 32 * (c + i));
            const LLV_VI s = LLV_SPREAD16(w->whole + 2 * (c + i));
            LLMI_UNROLL
            for (r = 0; r < rows; r++)
                sum[r] = LLV_(dot_scaled)(sum[r], u, LLV_BYTES(x[r].q + 32 * i), s);
        }
        LLMI_UNROLL
        for (r = 0; r < rows; r++)
            total[r] = LLV_FMA(LLV_TO_FLOAT(sum[r]),
                               LLV_SET1(w->d[c / 8] * x[r].scale[0]), total[r]);
    }
    LLMI_UNROLL
    for (r = 0; r < rows; r++) acc[r][0] = total[r];
}

/* n thirty-twos of a weight's row, opened */
LLMI_INLINE void LLV_(open_of)(llm_dtype type, const unsigned char *w, size_t n, llmi_opened *to) {
    const size_t step = LLV_W / 8;
    size_t c, i;
    for (c = 0; c < n; c += 8) {
        const size_t count = llmi_min(n - c, 8), bytes = llmi_dtype_bytes(type, 32 * count);
        __m256 scale[2], least[2];
        LLV_(scales)(type, w, count, scale, least);
        for (i = 0; i < 2; i++) {
            _mm256_storeu_ps(to->scale + 2 * c + 8 * i, scale[i]);
            _mm256_storeu_ps(to->least + 2 * c + 8 * i, least[i]);
        }
        if (llmi_types[type].block == LLMI_BLOCK_MOST)
            to->d[c / 8] = LLV_(whole_scales)(type, w, to->whole + 2 * c);
        for (i = 0; i < bytes; i += 64) LLMI_PREFETCH(w + 2048 + i);
        if (count == 8) {
            LLMI_UNROLL
            for (i = 0; i < 8; i += step)
                LLV_BYTES_TO(to->q + 32 * (c + i), LLV_(unpack_all)(type, w, i, 8));
        } else {
            for (i = 0; i < count; i += step)
                LLV_BYTES_TO(to->q + 32 * (c + i), LLV_(unpack_all)(type, w, i, count));
        }
        w += bytes;
    }
}
LLMI_INLINE void LLV_(opened_dot)(llm_dtype type, int rows, size_t n, const llmi_q8 *x,
                                  size_t stride, const llmi_opened *w, LLV (*acc)[2]) {
    if (llmi_types[type].block == LLMI_BLOCK_MOST)
        LLV_(opened_rows_k)(rows, n, x, stride, w, acc);
  #if LLMI_PASS == LLMI_PASS_AVX2
    else if (type == LLM_Q8_0) LLV_(opened_rows)(1, rows, n, x, stride, w, acc);
  #endif
    else LLV_(opened_rows)(0, rows, n, x, stride, w, acc);
}
static float LLV_(one_row)(llm_dtype type, size_t k, const llmi_q8 *x, const unsigned char *w) {
    switch (type) {                    /* so that each type has a loop of its own */
        case LLM_Q8_0: return LLV_(blocks_row)(LLM_Q8_0, k, x, w);
        case LLM_Q4_0: return LLV_(blocks_row)(LLM_Q4_0, k, x, w);
        case LLM_Q4_1: return LLV_(blocks_row)(LLM_Q4_1, k, x, w);
        case LLM_Q5_0: return LLV_(blocks_row)(LLM_Q5_0, k, x, w);
        case LLM_Q5_1: return LLV_(blocks_row)(LLM_Q5_1, k, x, w);
        case LLM_Q4_K: return LLV_(blocks_row_k)(LLM_Q4_K, k, x, w);
        case LLM_Q5_K: return LLV_(blocks_row_k)(LLM_Q5_K, k, x, w);
        default: return LLV_(blocks_row_k)(LLM_Q6_K, k, x, w);
    }
}
static void LLV_(open)(llm_dtype type, const unsigned char *w, size_t n, llmi_opened *to) {
    switch (type) {
        case LLM_Q8_0: LLV_(open_of)(LLM_Q8_0, w, n, to); break;
        case LLM_Q4_0: LLV_(open_of)(LLM_Q4_0, w, n, to); break;
        case LLM_Q4_1: LLV_(open_of)(LLM_Q4_1, w, n, to); break;
        case LLM_Q5_0: LLV_(open_of)(LLM_Q5_0, w, n, to); break;
        case LLM_Q5_1: LLV_(open_of)(LLM_Q5_1, w, n, to); break;
        case LLM_Q4_K: LLV_(open_of)(LLM_Q4_K, w, n, to); break;
        case LLM_Q5_K: LLV_(open_of)(LLM_Q5_K, w, n, to); break;
        default: LLV_(open_of)(LLM_Q6_K, w, n, to);
    }
}
static void LLV_(many_rows)(llm_dtype type, size_t m, size_t k, const llmi_q8 *x,
                            const unsigned char *w, float *out) {
    LLV acc[LLMI_FEW_ROWS][2];
    llmi_opened opened;
    size_t k0, i;
    for (i = 0; i < m; i++) acc[i][0] = acc[i][1] = LLV_SET1(0.0f);
    for (k0 = 0; k0 < k; k0 += LLMI_OPENED, x += LLMI_OPENED / LLMI_BLOCK_MOST * m) {
        const size_t n = llmi_min(LLMI_OPENED, k - k0) / 32;
        LLV_(open)(type, w + llmi_dtype_bytes(type, k0), n, &opened);
        for (i = 0; i + LLV_BLOCK_ROWS <= m; i += LLV_BLOCK_ROWS)
            LLV_(opened_dot)(type, LLV_BLOCK_ROWS, n, x + i, m, &opened, acc + i);
        for (; i + LLV_BLOCK_ROWS / 2 <= m; i += LLV_BLOCK_ROWS / 2)
            LLV_(opened_dot)(type, LLV_BLOCK_ROWS / 2, n, x + i, m, &opened, acc + i);
        for (; i < m; i++) LLV_(opened_dot)(type, 1, n, x + i, m, &opened, acc + i);
    }
    for (i = 0; i < m; i++) out[i] = LLV_HSUM(acc[i][0] + acc[i][1]);
}
  #endif

/* 32 values: their nearest whole numbers, and the sum of each half */
LLMI_INLINE void LLV_(round32)(int8_t *to, int32_t *sum, const LLV *x) {
  #if LLMI_PASS == LLMI_PASS_AVX2
    const __m256i a = _mm256_packs_epi32(LLV_TO_INT(x[0]), LLV_TO_INT(x[1]));
    const __m256i b = _mm256_packs_epi32(LLV_TO_INT(x[2]), LLV_TO_INT(x[3]));
    const __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b),
                                                  _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
  #else
    const __m256i q = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm512_cvtsepi32_epi8(LLV_TO_INT(x[0]))),
        _mm512_cvtsepi32_epi8(LLV_TO_INT(x[1])), 1);
  #endif
    __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q),
                                  _mm256_set1_epi16(1));
    s = _mm256_hadd_epi32(s, s);
    s = _mm256_hadd_epi32(s, s);
    sum[0] = _mm256_cvtsi256_si32(s);
    sum[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(s, 1));
    _mm256_storeu_si256((__m256i *)(void *)to, q);
}
#else
#if LLMI_PASS < LLMI_PASS_AVX2
/* the same in plain C */
static void LLV_(many_rows)(llm_dtype type, size_t m, size_t k, const llmi_q8 *x,
                            const unsigned char *w, float *out) {
    unsigned char q[LLMI_BLOCK_MOST];
    float scale[16], least[16];
    size_t count, g, i, r;
    for (r = 0; r < m; r++) out[r] = 0.0f;
    for (; k; k -= count, x += m) {
        count = llmi_blocks_open(type, w, k, q, scale, least);
        w += llmi_dtype_bytes(type, count);
        for (r = 0; r < m; r++)
            for (g = 0; g < count / 16; g++) {
                const llmi_q8 *xr = x + r;
                int32_t sum = 0;
                for (i = 16 * g; i < 16 * g + 16; i++) sum += (int32_t)q[i] * xr->q[i];
                out[r] += scale[g] * xr->scale[g] * (float)sum + least[g] * xr->sum[g];
            }
    }
}
#endif
LLMI_INLINE void LLV_(round32)(int8_t *to, int32_t *sum, const LLV *x) {
    float values[32];
    int i;
    for (i = 0; i < 32; i += LLV_W) LLV_ST(values + i, x[i / LLV_W]);
    sum[0] = sum[1] = 0;
    for (i = 0; i < 32; i++) {
        to[i] = (int8_t)(values[i] == values[i] ? (int)lrintf(values[i]) : 0);
        sum[i / 16] += to[i];
    }
}
#endif /* LLMI_PASS >= LLMI_PASS_AVX2 && LLMI_PASS <= LLMI_PASS_BF16 */

#if LLMI_PASS < LLMI_PASS_BF16
/* thirty-two values, or what there is of them, and zeros; -> the largest size, or NaN */
LLMI_INLINE float LLV_(take32)(LLV *v, const float *x, size_t n) {
    LLV most = LLV_SET1(0.0f), nought = most;
    size_t i;
    for (i = 0; i < 32; i += LLV_W) {
        const LLV one = i < n ? LLV_LOAD(x + i, n - i) : LLV_SET1(0.0f);
        v[i / LLV_W] = one;
        most = LLV_MAX(most, LLV_MAX(one, LLV_SET1(0.0f) - one));
        nought = LLV_FMA(one, LLV_SET1(0.0f), nought);           /* NaN if one is not finite */
    }
    return LLV_HMAX(most) + LLV_HSUM(nought);
}
static void LLV_(to_q8)(llmi_q8 *to, size_t stride, const float *x, size_t n, size_t group) {
    size_t k, g, i;
    int j;
    for (k = 0; k < llmi_round_up(n, LLMI_BLOCK_MOST); k += group) {
        float largest = 0.0f, scale, inverse;
        LLV v[32 / LLV_W];
        for (g = k; g < k + group; g += 32) {
            const float size = LLV_(take32)(v, x + llmi_min(g, n), n - llmi_min(g, n));
            if (!(size <= largest)) largest = size;
            if (largest != largest) break;
        }
        scale = largest * (1.0f / 127.0f);
        inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
        for (g = k; g < k + group; g += 32) {
            const size_t at = g % LLMI_BLOCK_MOST;
            llmi_q8 *block = to + g / LLMI_BLOCK_MOST * stride;
            int32_t sum[2];
            if (group > 32) (void)LLV_(take32)(v, x + llmi_min(g, n), n - llmi_min(g, n));
            for (i = 0; i < 32 / LLV_W; i++) v[i] = v[i] * LLV_SET1(inverse);
            LLV_(round32)(block->q + at, sum, v);
            for (j = 0; j < 2; j++) {
                block->scale[at / 16 + (size_t)j] = scale;
                block->sum[at / 16 + (size_t)j] = scale * (float)sum[j];
            }
        }
    }
}
#endif
#if LLMI_PASS <= LLMI_PASS_BF16 && LLMI_PASS != LLMI_PASS_AVX512
static void LLV_(blocks_dot)(llm_dtype type, size_t m, size_t n, size_t k, const llmi_q8 *x,
                             const unsigned char *weight, float *y, size_t ldy, const float *bias,
                             int accumulate) {
    const size_t row = llmi_dtype_bytes(type, k);
    size_t i, j;
    for (j = 0; j < n; j++, weight += row) {
        float out[LLMI_FEW_ROWS];
#if LLMI_PASS >= LLMI_PASS_AVX2
        if (m == 1) out[0] = LLV_(one_row)(type, k, x, weight);
        else
#endif
        LLV_(many_rows)(type, m, k, x, weight, out);
        for (i = 0; i < m; i++) {
            float *p = y + i * ldy + j;
            *p = (accumulate ? *p : 0.0f) + (bias ? out[i] + bias[j] : out[i]);
        }
    }
}
#endif

#if LLMI_PASS < LLMI_PASS_BF16
/* ---- gemm in lower precision: panels are rounded where they lie ---- */
static void LLV_(round)(float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i += LLV_W) LLV_STORE(x + i, LLV_(bf16)(LLV_LOAD(x + i, n - i)), n - i);
}
static void LLV_(pack_bf16)(llmi_side side, float *to, const float *from, size_t lane,
                            size_t along, size_t lanes, size_t k) {
    LLV_(pack_f32)(side, to, from, lane, along, lanes, k);
    LLV_(round)(to, llmi_round_up(lanes, side == LLMI_A ? LLV_MR : LLV_NR) * k);
}

/* The nearest of E4M3's values, ties to even (Micikevicius et al., arXiv:2209.05433, table 1), for
 * |x| <= 448: 8 to 15 steps of an eighth of x's power of two, which is 2^-6 or more. What is not
 * finite stays so. */
LLMI_INLINE LLV LLV_(e4m3)(LLV x) {
    const LLV power = LLV_FLOATS(LLV_IAND(LLV_BITS(x), LLV_ISET(0x7f800000)));
    const LLV step = LLV_MAX(power, LLV_SET1(1.0f / 64.0f)) * LLV_SET1(0.125f);
    return LLV_TO_FLOAT(LLV_TO_INT(x / step)) * step;
}
/* The least power of two by which a tile's values come down to 448: so a value times it is exact in
 * bf16, too. (The report has such scales for some activations, sec. 3.3.2.) */
LLMI_INLINE LLV LLV_(fp8_scale)(LLV largest) {
    const LLV_VI bits = LLV_BITS(LLV_MAX(largest, LLV_SET1(1e-12f)) / LLV_SET1(448.0f));
    return LLV_FLOATS(LLV_IAND(LLV_IADD(bits, LLV_ISET(0x7fffff)), LLV_ISET(0x7f800000)));
}
LLMI_INLINE LLV LLV_(larger)(LLV most, LLV x) {
    return LLV_MAX(LLV_MAX(x, LLV_SET1(0.0f) - x), most);
}
/* n packed panels of so many lanes, in place; shared: the lanes of all share their scales */
static void LLV_(quantize)(float *panels, size_t lanes, size_t n, size_t k, int shared) {
    size_t k0, p, i, l;
    for (k0 = 0; k0 < k; k0 += LLMI_FP8_TILE) {
        const size_t depth = llmi_min(LLMI_FP8_TILE, k - k0), count = depth * lanes;
        if (shared) {
            LLV most = LLV_SET1(0.0f), scale;
            for (p = 0; p < n; p++) {
                const float *x = panels + (p * k + k0) * lanes;
                for (i = 0; i < count; i += LLV_W)
                    most = LLV_(larger)(most, LLV_LOAD(x + i, count - i));
            }
            scale = LLV_(fp8_scale)(LLV_SET1(LLV_HMAX(most)));
            for (p = 0; p < n; p++) {
                float *x = panels + (p * k + k0) * lanes;
                for (i = 0; i < count; i += LLV_W)
                    LLV_STORE(x + i, LLV_(e4m3)(LLV_LOAD(x + i, count - i) / scale) * scale,
                              count - i);
            }
            continue;
        }
        for (p = 0; p < n; p++)
            for (l = 0; l < lanes; l += LLV_W) {
                float *x = panels + (p * k + k0) * lanes + l;
                LLV most = LLV_SET1(0.0f), scale;
                for (i = 0; i < depth; i++)
                    most = LLV_(larger)(most, LLV_LOAD(x + i * lanes, lanes - l));
                scale = LLV_(fp8_scale)(most);
                for (i = 0; i < depth; i++)
                    LLV_STORE(x + i * lanes,
                              LLV_(e4m3)(LLV_LOAD(x + i * lanes, lanes - l) / scale) * scale,
                              lanes - l);
            }
    }
}

static void LLV_(pack_fp8)(llmi_side side, float *to, const float *from, size_t lane, size_t along,
                           size_t lanes, size_t k) {
    const size_t P = side == LLMI_A ? LLV_MR : LLV_NR;
    LLV_(pack_f32)(side, to, from, lane, along, lanes, k);
    LLV_(quantize)(to, P, llmi_ceil_div(lanes, P), k, side == LLMI_WEIGHT);
}

/* min(n, LLV_W) values of f16 or bf16, n >= 1 */
LLMI_INLINE LLV LLV_(load_16)(llm_dtype type, const uint16_t *p, size_t n) {
    uint16_t rest[LLV_W];
    if (n < LLV_W) {
        memset(rest, 0, sizeof rest);
        memcpy(rest, p, n * sizeof *p);
        p = rest;
    }
    return type == LLM_F16 ? LLV_F16(p) : LLV_BF16(p);
}
/* of a weight's row that is f32, or of 16 bits */
LLMI_INLINE LLV LLV_(load_weight)(llm_dtype type, const void *row, size_t i, size_t n) {
    return type == LLM_F32 ? LLV_LOAD((const float *)row + i, n)
                           : LLV_(load_16)(type, (const uint16_t *)row + i, n);
}

/* rows rows of x by four rows of the weight */
LLMI_INLINE void LLV_(dot4)(llm_dtype type, int rows, size_t k, const float *x, size_t ldx,
                            const void *const *w, size_t ahead, float *out) {
    const size_t size = type == LLM_F32 ? 4 : 2;
    LLV acc[LLV_ROWS][4];
    size_t i;
    int r, j;
    LLMI_UNROLL
    for (r = 0; r < rows; r++) {
        LLMI_UNROLL
        for (j = 0; j < 4; j++) acc[r][j] = LLV_SET1(0.0f);
    }
    for (i = 0; i < k; i += LLV_W) {
        LLV wv[4];
        LLMI_UNROLL
        for (j = 0; j < 4; j++) {
            wv[j] = LLV_(load_weight)(type, w[j], i, k - i);
            if (ahead) LLMI_PREFETCH((const char *)w[j] + ahead + i * size);
        }
        LLMI_UNROLL
        for (r = 0; r < rows; r++) {
            const LLV xv = LLV_LOAD(x + (size_t)r * ldx + i, k - i);
            LLMI_UNROLL
            for (j = 0; j < 4; j++) acc[r][j] = LLV_FMA(xv, wv[j], acc[r][j]);
        }
    }
    LLMI_UNROLL
    for (r = 0; r < rows; r++) {
        LLMI_UNROLL
        for (j = 0; j < 4; j++) out[r * 4 + j] = LLV_HSUM(acc[r][j]);
    }
}
/* Four rows of the weight a quarter of it apart are four long streams, which the prefetchers follow
 * even where a row is short. */
LLMI_INLINE void LLV_(rows_dot_of)(llm_dtype type, size_t m, size_t n, size_t k, const float *x,
                                   size_t ldx, const void *weight, size_t ldw, float *y,
                                   size_t ldy, const float *bias, int accumulate) {
    const size_t quarter = llmi_ceil_div(n, 4), row = ldw * (type == LLM_F32 ? 4 : 2);
    size_t i, j, r, s, rows;
    for (j = 0; j < quarter; j++) {
        const void *w[4];
        for (s = 0; s < 4; s++)
            w[s] = (const char *)weight + llmi_min(j + s * quarter, n - 1) * row;
        for (i = 0; i < m; i += rows) {
            float out[LLV_ROWS * 4];
            rows = m - i < LLV_ROWS ? 1 : LLV_ROWS;
            /* what was read in the first round is read again: time to fetch the next rows */
            if (rows == LLV_ROWS)
                LLV_(dot4)(type, LLV_ROWS, k, x + i * ldx, ldx, w, i == LLV_ROWS ? row : 0, out);
            else LLV_(dot4)(type, 1, k, x + i * ldx, ldx, w, 0, out);
            for (r = 0; r < rows; r++)
                for (s = 0; s < 4 && j + s * quarter < n; s++) {
                    const size_t column = j + s * quarter;
                    float *p = y + (i + r) * ldy + column;
                    *p = (accumulate ? *p : 0.0f) +
                         (bias ? out[r * 4 + s] + bias[column] : out[r * 4 + s]);
                }
        }
    }
}
static void LLV_(rows_dot)(size_t m, size_t n, size_t k, const float *x, size_t ldx,
                           const float *weight, size_t ldw, float *y, size_t ldy,
                           const float *bias, int accumulate) {
    LLV_(rows_dot_of)(LLM_F32, m, n, k, x, ldx, weight, ldw, y, ldy, bias, accumulate);
}
static void LLV_(rows_dot_16)(llm_dtype type, size_t m, size_t n, size_t k, const float *x,
                              size_t ldx, const uint16_t *weight, size_t ldw, float *y, size_t ldy,
                              const float *bias, int accumulate) {
    if (type == LLM_F16)
        LLV_(rows_dot_of)(LLM_F16, m, n, k, x, ldx, weight, ldw, y, ldy, bias, accumulate);
    else LLV_(rows_dot_of)(LLM_BF16, m, n, k, x, ldx, weight, ldw, y, ldy, bias, accumulate);
}

#ifdef LLV_FLOAT_U8
static void LLV_(decode_blocks)(llm_dtype type, float *to, const unsigned char *b, size_t n) {
    unsigned char q[32];
    float s[16], l[16];
    __m256 scale[2], least[2];
    size_t i, j, count;
    for (; n; n -= count, to += count) {
        count = llmi_min(n, LLMI_BLOCK_MOST);
        LLV_(scales)(type, b, count / 32, scale, least);
        for (i = 0; i < 2; i++) {
            _mm256_storeu_ps(s + 8 * i, scale[i]);
            _mm256_storeu_ps(l + 8 * i, least[i]);
        }
        for (i = 0; i < count; i += 32) {
            _mm256_storeu_si256((__m256i *)(void *)q, LLV_(unpack)(type, b, i / 32));
            LLMI_UNROLL
            for (j = 0; j < 32; j += LLV_W)
                LLV_ST(to + i + j, LLV_FMA(LLV_SET1(s[(i + j) / 16]), LLV_FLOAT_U8(q + j),
                                           LLV_SET1(l[(i + j) / 16])));
        }
        b += llmi_dtype_bytes(type, count);
    }
}
#endif
static void LLV_(decode)(llm_dtype type, float *to, const void *from, size_t n) {
    size_t i;
    if (type == LLM_F16 || type == LLM_BF16) {
        for (i = 0; i < n; i += LLV_W)
            LLV_STORE(to + i, LLV_(load_16)(type, (const uint16_t *)from + i, n - i), n - i);
        return;
    }
#ifdef LLV_FLOAT_U8
    if (llmi_dtype_is_blocks(type)) {
        LLV_(decode_blocks)(type, to, (const unsigned char *)from, n);
        return;
    }
#endif
    llmi_decode(type, to, from, n);
}

/* four rows of the weight, a quarter of it apart, per sweep over y, which stays in L1 */
static void LLV_(rows_axpy)(size_t m, size_t n, size_t k, const float *x, size_t ldx,
                            const float *weight, size_t ldw, float *y, size_t ldy) {
    const size_t quarter = llmi_ceil_div(k, 4);
    size_t i, j, q, r;
    for (i = 0; k == 0 && i < m; i++) memset(y + i * ldy, 0, n * sizeof *y);
    for (q = 0; q < quarter; q++) {
        const size_t rows = llmi_min(llmi_ceil_div(k - q, quarter), 4);
        const float *w[4];
        for (r = 0; r < 4; r++) w[r] = weight + (r < rows ? q + r * quarter : q) * ldw;
        for (i = 0; i < m; i++) {
            const float *xi = x + i * ldx + q;
            float *yi = y + i * ldy;
            LLV a[4];
            LLMI_UNROLL
            for (r = 0; r < 4; r++) a[r] = LLV_SET1(r < rows ? xi[r * quarter] : 0.0f);
            for (j = 0; j < n; j += LLV_W) {
                LLV v = LLV_FMA(a[0], LLV_LOAD(w[0] + j, n - j),
                                q ? LLV_LOAD(yi + j, n - j) : LLV_SET1(0.0f));
                LLV u = a[1] * LLV_LOAD(w[1] + j, n - j);
                v = LLV_FMA(a[2], LLV_LOAD(w[2] + j, n - j), v);
                u = LLV_FMA(a[3], LLV_LOAD(w[3] + j, n - j), u);
                LLV_STORE(yi + j, v + u, n - j);
            }
        }
    }
}

/* ---- vectors --------------------------------------------------------------------------------- */
static float LLV_(dot)(const float *a, const float *b, size_t n) {
    LLV s0 = LLV_SET1(0.0f), s1 = LLV_SET1(0.0f);
    size_t i;
    for (i = 0; i + 2 * LLV_W <= n; i += 2 * LLV_W) {
        s0 = LLV_FMA(LLV_LD(a + i), LLV_LD(b + i), s0);
        s1 = LLV_FMA(LLV_LD(a + i + LLV_W), LLV_LD(b + i + LLV_W), s1);
    }
    for (; i < n; i += LLV_W) s0 = LLV_FMA(LLV_LOAD(a + i, n - i), LLV_LOAD(b + i, n - i), s0);
    s0 = s0 + s1;
    return LLV_HSUM(s0);
}
static double LLV_(square_sum)(const float *x, size_t n) {
    double sum = 0.0;
    size_t i;
    for (i = 0; i < n; i += 512) {
        const float part = LLV_(dot)(x + i, x + i, llmi_min(n - i, 512));
        sum += (double)part;
    }
    return sum;
}
static float LLV_(largest)(const float *x, size_t n) {
    LLV m = LLV_SET1(x[0]);
    float most;
    size_t i;
    for (i = 0; i + LLV_W <= n; i += LLV_W) m = LLV_MAX(LLV_LD(x + i), m);
    most = LLV_HMAX(m);
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}
static void LLV_(add)(float *y, const float *a, const float *b, size_t n) {
    size_t i;
    for (i = 0; i < n; i += LLV_W)
        LLV_STORE(y + i, LLV_LOAD(a + i, n - i) + LLV_LOAD(b + i, n - i), n - i);
}
static void LLV_(axpy)(float *y, float a, const float *x, size_t n) {
    const LLV av = LLV_SET1(a);
    size_t i;
    for (i = 0; i < n; i += LLV_W)
        LLV_STORE(y + i, LLV_FMA(av, LLV_LOAD(x + i, n - i), LLV_LOAD(y + i, n - i)), n - i);
}
static void LLV_(affine)(float *y, const float *x, float a, float b, size_t n) {
    const LLV av = LLV_SET1(a), bv = LLV_SET1(b);
    size_t i;
    for (i = 0; i < n; i += LLV_W) LLV_STORE(y + i, LLV_FMA(av, LLV_LOAD(x + i, n - i), bv), n - i);
}

/* exp(x): x = n ln2 + r, Taylor to degree 6 on |r| <= ln2/2; 0 below -87.3; NaN stays, as the
 * second operand of LLV_MAX and LLV_MIN */
LLMI_INLINE LLV LLV_(exp)(LLV x) {
    const LLV low = LLV_SET1(-87.3f);
    const LLV t = LLV_MIN(LLV_SET1(88.7f), LLV_MAX(low, x));
    const LLV_VI n = LLV_TO_INT(t * LLV_SET1(1.44269504f));
    const LLV f = LLV_TO_FLOAT(n);
    LLV p, r = LLV_FMA(f, LLV_SET1(-0.693359375f), t);
    r = LLV_FMA(f, LLV_SET1(2.12194440e-4f), r);
    p = LLV_SET1(1.0f / 720.0f);
    p = LLV_FMA(p, r, LLV_SET1(1.0f / 120.0f));
    p = LLV_FMA(p, r, LLV_SET1(1.0f / 24.0f));
    p = LLV_FMA(p, r, LLV_SET1(1.0f / 6.0f));
    p = LLV_FMA(p, r, LLV_SET1(0.5f));
    p = LLV_FMA(p, r, LLV_SET1(1.0f));
    p = LLV_FMA(p, r, LLV_SET1(1.0f));
    p = LLV_FLOATS(LLV_IADD(LLV_BITS(p), LLV_SLL(n, 23)));
    return LLV_ZERO_BELOW(p, x, low);
}
static float LLV_(exp_sum)(float *y, const float *x, float a, float b, size_t n) {
    const LLV av = LLV_SET1(a), bv = LLV_SET1(-b);
    LLV s = LLV_SET1(0.0f);
    float sum;
    size_t i;
    for (i = 0; i + LLV_W <= n;) { /* summed in parts: a vocabulary's rounding stays small */
        const size_t end = llmi_min(n, i + 256 * LLV_W);
        LLV part = LLV_SET1(0.0f);
        for (; i + LLV_W <= end; i += LLV_W) {
            const LLV e = LLV_(exp)(LLV_FMA(av, LLV_LD(x + i), bv));
            if (y) LLV_ST(y + i, e);
            part = part + e;
        }
        s = s + part;
    }
    sum = LLV_HSUM(s);
    if (i < n) {
        float rest[LLV_W];
        const size_t left = n - i;
        size_t l;
        LLV_ST(rest, LLV_(exp)(LLV_FMA(av, LLV_LDN(x + i, left), bv)));
        for (l = 0; l < left; l++) {
            if (y) y[i + l] = rest[l];
            sum += rest[l];
        }
    }
    return sum;
}
static void LLV_(softmax_backward)(float *dx, const float *dy, const float *y, float sum,
                                   float scale, size_t n, int accumulate) {
    const LLV minus = LLV_SET1(-sum), sv = LLV_SET1(scale);
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        LLV g = sv * LLV_LOAD(y + i, n - i) * (LLV_LOAD(dy + i, n - i) + minus);
        if (accumulate) g = LLV_LOAD(dx + i, n - i) + g;
        LLV_STORE(dx + i, g, n - i);
    }
}

/* sigmoid(2u) = 1/(1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3); so gelu = x sigmoid(2u).
 * Beyond +-16 the gate is shut or open to the last bit, while x^2 could overflow: x stops there. */
LLMI_INLINE LLV LLV_(gelu_gate)(LLV x) {
    const LLV u = x * LLV_FMA(x * x, LLV_SET1(-2.0f * 0.7978845608f * 0.044715f),
                              LLV_SET1(-2.0f * 0.7978845608f));
    return LLV_SET1(1.0f) / (LLV_SET1(1.0f) + LLV_(exp)(u));
}
static void LLV_(gelu)(float *y, const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        const LLV xv = LLV_MAX(LLV_SET1(-16.0f), LLV_LOAD(x + i, n - i));
        LLV_STORE(y + i, xv * LLV_(gelu_gate)(xv), n - i);
    }
}
/* s = sigmoid(2u): gelu' = s + x s (1-s) 2u', 2u' = 2 sqrt(2/pi) (1 + 3 0.044715 x^2) */
static void LLV_(gelu_backward)(float *dx, float *y, const float *dy, const float *x, size_t n,
                                int accumulate) {
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        const LLV xv = LLV_MAX(LLV_SET1(-16.0f), LLV_LOAD(x + i, n - i)),
                  inside = LLV_MIN(LLV_SET1(16.0f), xv);
        const LLV s = LLV_(gelu_gate)(inside), g = inside * s;
        const LLV du = LLV_FMA(inside * inside, LLV_SET1(6.0f * 0.7978845608f * 0.044715f),
                               LLV_SET1(2.0f * 0.7978845608f));
        const LLV slope = LLV_FMA(g * (LLV_SET1(1.0f) - s), du, s);
        LLV d = LLV_LOAD(dy + i, n - i) * slope;
        if (accumulate) d = LLV_LOAD(dx + i, n - i) + d;
        LLV_STORE(dx + i, d, n - i);
        if (y) LLV_STORE(y + i, xv * s, n - i);
    }
}

/* s = sigmoid(gate): y = gate s up;  dgate = dy up (s + gate s (1-s)), dup = dy gate s */
LLMI_INLINE LLV LLV_(sigmoid)(LLV x) {
    return LLV_SET1(1.0f) / (LLV_SET1(1.0f) + LLV_(exp)(LLV_SET1(0.0f) - x));
}
static void LLV_(swiglu)(float *y, const float *gate, const float *up, size_t n) {
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        const LLV g = LLV_LOAD(gate + i, n - i);
        LLV_STORE(y + i, g * LLV_(sigmoid)(g) * LLV_LOAD(up + i, n - i), n - i);
    }
}
static void LLV_(swiglu_backward)(float *dgate, float *dup, const float *dy, const float *gate,
                                  const float *up, size_t n, int accumulate) {
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        const LLV g = LLV_LOAD(gate + i, n - i), d = LLV_LOAD(dy + i, n - i), s = LLV_(sigmoid)(g);
        const LLV a = g * s, slope = LLV_FMA(a, LLV_SET1(1.0f) - s, s);
        LLV dg = d * LLV_LOAD(up + i, n - i) * slope, du = d * a;
        if (accumulate) {
            dg = LLV_LOAD(dgate + i, n - i) + dg;
            du = LLV_LOAD(dup + i, n - i) + du;
        }
        LLV_STORE(dgate + i, dg, n - i);
        LLV_STORE(dup + i, du, n - i);
    }
}

static void LLV_(adamw)(float *weight, float *m, float *v, const float *grad, size_t n,
                              const llmi_adamw *step) {
    const LLV b1 = LLV_SET1(step->beta1), c1 = LLV_SET1(1.0f - step->beta1),
              b2 = LLV_SET1(step->beta2);
    const LLV c2 = LLV_SET1(1.0f - step->beta2), eps = LLV_SET1(step->eps),
              scale = LLV_SET1(step->grad_scale);
    const LLV size = LLV_SET1(step->step_size), root = LLV_SET1(step->root_correction),
            keep = LLV_SET1(step->keep);
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        const size_t left = n - i;
        const LLV g = scale * LLV_LOAD(grad + i, left);
        const LLV mv = LLV_FMA(b1, LLV_LOAD(m + i, left), c1 * g);
        const LLV vv = LLV_FMA(b2, LLV_LOAD(v + i, left), c2 * (g * g));
        const LLV change = size * mv / LLV_FMA(LLV_SQRT(vv), root, eps);
        LLV_STORE(m + i, mv, left);
        LLV_STORE(v + i, vv, left);
        LLV_STORE(weight + i, keep * LLV_LOAD(weight + i, left) - change, left);
    }
}

static void LLV_(narrow)(float *to, const float *x, size_t n) {
    const float *high = x + n / 2;
    size_t i;
    for (i = 0; i < n / 2; i += LLV_W) {
        const size_t left = n / 2 - i;
        const LLV a = LLV_(bf16)(LLV_LOAD(x + i, left)), b = LLV_(bf16)(LLV_LOAD(high + i, left));
        LLV_STORE(to + i, LLV_FLOATS(LLV_IOR(LLV_SRL(LLV_BITS(a), 16), LLV_BITS(b))), left);
    }
}
static void LLV_(widen)(float *to, const float *x, size_t n) {
    float *high = to + n / 2;
    size_t i;
    for (i = 0; i < n / 2; i += LLV_W) {
        const size_t left = n / 2 - i;
        const LLV_VI both = LLV_BITS(LLV_LOAD(x + i, left));
        LLV_STORE(to + i, LLV_FLOATS(LLV_SLL(both, 16)), left);
        LLV_STORE(high + i, LLV_FLOATS(LLV_IAND(both, LLV_ISET(-0x10000))), left);
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */
static void LLV_(norm)(float *y, float *mean, float *rstd, const float *x, const float *weight,
                       const float *bias, size_t n, float eps, int centered) {
    LLV s = LLV_SET1(0.0f), mv, rv;
    float mu = 0.0f, r;
    size_t i;
    if (centered) {
        for (i = 0; i < n; i += LLV_W) s = s + LLV_LOAD(x + i, n - i);
        mu = LLV_HSUM(s) / (float)n;
        s = LLV_SET1(0.0f);
    }
    mv = LLV_SET1(mu);
    for (i = 0; i + LLV_W <= n; i += LLV_W) {
        const LLV d = LLV_LD(x + i) - mv;
        s = LLV_FMA(d, d, s);
    }
    r = LLV_HSUM(s);
    for (; i < n; i++) r += (x[i] - mu) * (x[i] - mu);
    r = 1.0f / sqrtf(r / (float)n + eps);
    rv = LLV_SET1(r);
    for (i = 0; i < n; i += LLV_W) {
        LLV h = (LLV_LOAD(x + i, n - i) - mv) * rv * LLV_LOAD(weight + i, n - i);
        if (bias) h = h + LLV_LOAD(bias + i, n - i);
        LLV_STORE(y + i, h, n - i);
    }
    if (mean) *mean = mu;
    if (rstd) *rstd = r;
}
/* h = (x - mean) rstd, g = dy weight: dx += rstd (g - [mean(g)] - h mean(g h)) */
static void LLV_(norm_backward)(float *dx, const float *dy, const float *x, const float *weight,
                                float mean, float rstd, size_t n, int centered) {
    const LLV mv = LLV_SET1(mean), rv = LLV_SET1(rstd);
    LLV sum_g = LLV_SET1(0.0f), sum_gh = LLV_SET1(0.0f), a, b;
    size_t i;
    for (i = 0; i < n; i += LLV_W) {
        const LLV g = LLV_LOAD(dy + i, n - i) * LLV_LOAD(weight + i, n - i);
        const LLV h = (LLV_LOAD(x + i, n - i) - mv) * rv;
        sum_g = sum_g + g;
        sum_gh = LLV_FMA(g, h, sum_gh);
    }
    a = LLV_SET1(centered ? -LLV_HSUM(sum_g) / (float)n : 0.0f);
    b = LLV_SET1(-LLV_HSUM(sum_gh) / (float)n);
    for (i = 0; i < n; i += LLV_W) {
        const LLV g = LLV_FMA(LLV_LOAD(dy + i, n - i), LLV_LOAD(weight + i, n - i), a);
        const LLV h = (LLV_LOAD(x + i, n - i) - mv) * rv;
        LLV_STORE(dx + i, LLV_FMA(rv, LLV_FMA(b, h, g), LLV_LOAD(dx + i, n - i)), n - i);
    }
}
static void LLV_(norm_backward_weight)(float *dweight, float *dbias, const float *dy,
                                       const float *x, const float *mean, const float *rstd,
                                       size_t rows, size_t ld, size_t n) {
    size_t r, i;
    for (r = 0; r < rows; r++, dy += ld, x += ld) {
        const LLV mv = LLV_SET1(mean ? mean[r] : 0.0f), rv = LLV_SET1(rstd[r]);
        for (i = 0; i < n; i += LLV_W) {
            const LLV g = LLV_LOAD(dy + i, n - i), h = (LLV_LOAD(x + i, n - i) - mv) * rv;
            if (dweight) LLV_STORE(dweight + i, LLV_FMA(g, h, LLV_LOAD(dweight + i, n - i)), n - i);
            if (dbias) LLV_STORE(dbias + i, LLV_LOAD(dbias + i, n - i) + g, n - i);
        }
    }
}
static void LLV_(column_sum)(float *sum, const float *x, size_t rows, size_t ld, size_t n) {
    size_t r, i;
    for (r = 0; r < rows; r++, x += ld)
        for (i = 0; i < n; i += LLV_W)
            LLV_STORE(sum + i, LLV_LOAD(sum + i, n - i) + LLV_LOAD(x + i, n - i), n - i);
}

#endif /* LLMI_PASS < LLMI_PASS_BF16 */

#define LLV_TILES(group, bytes, align, pack, block) \
    {LLV_MR, LLV_NR, LLV_KC, LLV_MC, group, bytes, align, pack, block}
#define LLV_ENTRY(result, name, parameters) LLV_F32(name),
static const llmi_kernels LLV_(kernels) = {
    LLV_NAME, LLV_W,
#if LLMI_PASS == LLMI_PASS_AMX         /* tiles of f32, bf16, fp8 */
    {LLV_TILES(32, 6, 32, LLV_(pack_f32), LLV_(block)),
     LLV_TILES(32, 2, 32, LLV_(pack_bf16), LLV_(block_bf16)),
     LLV_TILES(32, 2, LLMI_FP8_TILE, LLV_(pack_fp8), LLV_(block_bf16))},
#elif LLMI_PASS == LLMI_PASS_BF16
    {LLV_TILES(1, 4, 4, LLV_F32(pack_f32), LLV_F32(block)),
     LLV_TILES(2, 2, 4, LLV_(pack_f32), LLV_(block)),
     LLV_TILES(2, 2, LLMI_FP8_TILE, LLV_(pack_fp8), LLV_(block))},
#else
    {LLV_TILES(1, 4, 4, LLV_(pack_f32), LLV_(block)),
     LLV_TILES(1, 4, 4, LLV_(pack_bf16), LLV_(block)),
     LLV_TILES(1, 4, LLMI_FP8_TILE, LLV_(pack_fp8), LLV_(block))},
#endif
#if LLMI_PASS == LLMI_PASS_AMX
    LLMI_CAT(llmi_, LLMI_CAT(blocks_dot_v, LLMI_PASS_BF16)),
#elif LLMI_PASS == LLMI_PASS_AVX512
    LLMI_CAT(llmi_, LLMI_CAT(blocks_dot_v, LLMI_PASS_AVX2)),
#else
    LLV_(blocks_dot),
#endif
    LLMI_KERNELS(LLV_ENTRY)};

#undef LLMI_PASS
#endif /* LLMI_PASS */

/* ============================================================================================
 * >>licence      This software is available under two licences; choose the one you prefer.
 *
 * ALTERNATIVE A - MIT Copyright (c) 2026 the llm.h authors Permission is hereby granted, free of
 * charge, to any person obtaining a copy of this software and associated documentation files (the
 * "Software"), to deal in the Software without restriction, including without limitation the rights
 * to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software,
 * and to permit persons to whom the Software is furnished to do so, subject to the following
 * conditions: The above copyright notice and this permission notice shall be included in all copies
 * or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF
 * ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
 * FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
 * HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,
 * TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
 * DEALINGS IN THE SOFTWARE.
 *
 * ALTERNATIVE B - PUBLIC DOMAIN (unlicense.org) This is free and unencumbered software released
 * into the public domain. Anyone is free to copy, modify, publish, use, compile, sell, or
 * distribute this software, either in source code form or as a compiled binary, for any purpose,
 * commercial or non-commercial, and by any means. In jurisdictions that recognize copyright laws,
 * the author or authors of this software dedicate any and all copyright interest in the software to
 * the public domain. We make this dedication for the benefit of the public at large and to the
 * detriment of our heirs and successors. We intend this dedication to be an overt act of
 * relinquishment in perpetuity of all present and future rights to this software under copyright
 * law. The warranty disclaimer above applies.
 * ========================================================================================== */

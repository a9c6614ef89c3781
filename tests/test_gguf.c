/* Models from GGUF files, of all types, and what is done with them. The files are built here, byte
 * by byte, from GGUF's specification and llama.cpp's names and keys, by a builder that shares
 * nothing with llm.h's writer. */

/* ---- a builder ------------------------------------------------------------------------------- */
enum { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING,
       GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64 };
typedef struct gguf_bytes { unsigned char *data; size_t n, capacity; } gguf_bytes;
typedef struct gguf_item {             /* a key with its type and value, or a tensor */
    char name[320];
    size_t n_name, at;                 /* at: where it stands in the packed file          */
    int n_dims, type;                  /* type: GGUF's number                             */
    uint64_t dims[6], offset;          /* offset: filled in by pack, from the data's start */
    gguf_bytes bytes;
} gguf_item;
typedef struct gguf_file {
    const char *arch;
    gguf_item keys[64], tensors[96];
    int n_keys, n_tensors;
    unsigned align;
    size_t data;                       /* where it starts in the packed file */
} gguf_file;

static void gguf_add(gguf_bytes *b, const void *data, size_t n) {
    if (b->n + n > b->capacity)
        b->data = (unsigned char *)realloc(b->data, b->capacity = 2 * (b->n + n));
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
}
static void gguf_int(gguf_bytes *b, uint64_t value, int bytes) {
    for (; bytes; bytes--, value >>= 8) {
        const unsigned char c = (unsigned char)value;
        gguf_add(b, &c, 1);
    }
}
static void gguf_text(gguf_bytes *b, const char *text, size_t n) {
    gguf_int(b, n, 8);
    gguf_add(b, text, n);
}
static gguf_file *gguf_new(const char *arch) {
    gguf_file *f = (gguf_file *)calloc(1, sizeof *f);
    f->arch = arch;
    f->align = 32;
    return f;
}
static void gguf_drop(gguf_file *f) {
    int i;
    for (i = 0; i < f->n_keys; i++) free(f->keys[i].bytes.data);
    for (i = 0; i < f->n_tensors; i++) free(f->tensors[i].bytes.data);
    free(f);
}
static gguf_item *gguf_find(gguf_item *items, int n, const char *name) {
    int i;
    for (i = 0; i < n; i++)
        if (!strcmp(items[i].name, name)) return &items[i];
    return NULL;
}
static gguf_item *gguf_tensor(gguf_file *f, const char *name) {
    gguf_item *t = gguf_find(f->tensors, f->n_tensors, name);
    CHECK_MSG(t != NULL, "no tensor %s", name);
    return t ? t : &f->tensors[0];
}
/* a key, emptied if it is there already; .name: the architecture's */
static gguf_item *gguf_key(gguf_file *f, const char *name, int type) {
    char whole[320];
    gguf_item *key;
    snprintf(whole, sizeof whole, "%s%s", *name == '.' ? f->arch : "", name);
    key = gguf_find(f->keys, f->n_keys, whole);
    if (!key) {
        key = &f->keys[f->n_keys++];
        memset(key, 0, sizeof *key);
    }
    strcpy(key->name, whole);
    key->n_name = strlen(whole);
    key->type = type;
    key->bytes.n = 0;
    gguf_int(&key->bytes, (uint64_t)type, 4);
    return key;
}
static void gguf_number(gguf_file *f, const char *name, int type, double value) {
    static const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    gguf_bytes *b = &gguf_key(f, name, type)->bytes;
    const float single = (float)value;
    uint64_t bits = 0;
    if (type == GGUF_F32)
        memcpy(&bits, &single, 4); /* this host is little-endian, as all of ours */
    else if (type == GGUF_F64) memcpy(&bits, &value, 8);
    else bits = value < 0.0 ? (uint64_t)(int64_t)value : (uint64_t)value;
    gguf_int(b, bits, sizes[type]);
}
static void gguf_u32(gguf_file *f, const char *name, double value) {
    gguf_number(f, name, GGUF_U32, value);
}
static void gguf_string(gguf_file *f, const char *name, const char *text) {
    gguf_text(&gguf_key(f, name, GGUF_STRING)->bytes, text, strlen(text));
}
static gguf_bytes *gguf_array(gguf_file *f, const char *name, int item, uint64_t count) {
    gguf_bytes *b = &gguf_key(f, name, GGUF_ARRAY)->bytes;
    gguf_int(b, (uint64_t)item, 4);
    gguf_int(b, count, 8);
    return b;
}
static void gguf_unset(gguf_item *items, int *n, const char *name) {
    gguf_item *item = gguf_find(items, *n, name);
    CHECK_MSG(item != NULL, "no %s", name);
    if (!item) return;
    free(item->bytes.data);
    memmove(item, item + 1, (size_t)(items + --*n - item) * sizeof *item);
}
static gguf_item *gguf_add_tensor(gguf_file *f, const char *name, int type, int n_dims,
                                  uint64_t a, uint64_t b, uint64_t c) {
    gguf_item *t = &f->tensors[f->n_tensors++];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_name = strlen(name);
    t->type = type;
    t->n_dims = n_dims;
    t->dims[0] = a; t->dims[1] = b; t->dims[2] = c; t->dims[3] = t->dims[4] = t->dims[5] = 1;
    return t;
}
/* the file's bytes, to be freed: tensors one after the other, each at the alignment */
static unsigned char *gguf_pack(gguf_file *f, size_t *size) {
    gguf_bytes b = {NULL, 0, 0};
    uint64_t at = 0;
    int i, d;
    gguf_add(&b, "GGUF", 4);
    gguf_int(&b, 3, 4);
    gguf_int(&b, (uint64_t)f->n_tensors, 8);
    gguf_int(&b, (uint64_t)f->n_keys, 8);
    for (i = 0; i < f->n_keys; i++) {
        f->keys[i].at = b.n;
        gguf_text(&b, f->keys[i].name, f->keys[i].n_name);
        gguf_add(&b, f->keys[i].bytes.data, f->keys[i].bytes.n);
    }
    for (i = 0; i < f->n_tensors; i++) {
        gguf_item *t = &f->tensors[i];
        t->at = b.n;
        t->offset = at;
        gguf_text(&b, t->name, t->n_name);
        gguf_int(&b, (uint64_t)t->n_dims, 4);
        for (d = 0; d < t->n_dims; d++) gguf_int(&b, t->dims[d], 8);
        gguf_int(&b, (uint64_t)t->type, 4);
        gguf_int(&b, at, 8);
        at += (t->bytes.n + f->align - 1) / f->align * f->align;
    }
    while (b.n % f->align) gguf_int(&b, 0, 1);
    f->data = b.n;
    for (i = 0; i < f->n_tensors; i++) {
        gguf_add(&b, f->tensors[i].bytes.data, f->tensors[i].bytes.n);
        while (b.n % f->align) gguf_int(&b, 0, 1);
    }
    *size = b.n;
    return b.data;
}

/* ---- a file of a model ----------------------------------------------------------------------- */
static int gguf_type_number(llm_dtype type) {
    static const struct { llm_dtype type; int number; } numbers[] = {
        {LLM_F32, 0}, {LLM_F16, 1}, {LLM_Q4_0, 2}, {LLM_Q4_1, 3}, {LLM_Q5_0, 6}, {LLM_Q5_1, 7},
        {LLM_Q8_0, 8}, {LLM_Q4_K, 12}, {LLM_Q5_K, 13}, {LLM_Q6_K, 14}, {LLM_BF16, 30}};
    size_t i;
    for (i = 0; i < LLMI_COUNT(numbers); i++)
        if (numbers[i].type == type) return numbers[i].number;
    return -1;
}
static const char *const gguf_names[][2] = {   /* a name's middle; of two that fit, the first */
    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"}, {"wte.", "token_embd."},
    {"wpe.", "position_embd."}, {"ln_f.", "output_norm."}, {"ln_1.", "attn_norm."},
    {"attn.c_attn.", "attn_qkv."}, {"attn.c_proj.", "attn_output."}, {"ln_2.", "ffn_norm."},
    {"mlp.c_fc.", "ffn_up."}, {"mlp.c_proj.", "ffn_down."}, {"lm_head.", "output."},
    {"embed_tokens.", "token_embd."}, {"norm.", "output_norm."}, {"input_layernorm.", "attn_norm."},
    {"self_attn.q_proj.", "attn_q."}, {"self_attn.q_a_proj.", "attn_q_a."},
    {"self_attn.q_a_layernorm.", "attn_q_a_norm."}, {"self_attn.q_b_proj.", "attn_q_b."},
    {"self_attn.kv_a_proj_with_mqa.", "attn_kv_a_mqa."},
    {"self_attn.kv_a_layernorm.", "attn_kv_a_norm."}, {"self_attn.kv_b_proj.", "attn_kv_b."},
    {"self_attn.o_proj.", "attn_output."}, {"post_attention_layernorm.", "ffn_norm."},
    {"mlp.gate_proj.", "ffn_gate."}, {"mlp.up_proj.", "ffn_up."}, {"mlp.down_proj.", "ffn_down."},
    {"mlp.gate.", "ffn_gate_inp."}, {"gate_proj.", "ffn_gate_exps."}, {"up_proj.", "ffn_up_exps."},
    {"down_proj.", "ffn_down_exps."}, {"mlp.shared_experts.gate_proj.", "ffn_gate_shexp."},
    {"mlp.shared_experts.up_proj.", "ffn_up_shexp."},
    {"mlp.shared_experts.down_proj.", "ffn_down_shexp."}, {"eh_proj.", "nextn.eh_proj."},
    {"enorm.", "nextn.enorm."}, {"hnorm.", "nextn.hnorm."},
    {"shared_head.norm.", "nextn.shared_head_norm."}};
/* llama.cpp's name of a tensor; -> which expert it is, or -1 */
static int gguf_name(const char *name, char *out, size_t capacity) {
    const char *rest = strstr(name, "transformer.") ? name + 12 : strstr(name, "model.") ? name + 6
                                                                                       : name;
    char prefix[32] = "";
    int layer, expert = -1, n = 0;
    size_t i;
    if (sscanf(rest, "h.%d.%n", &layer, &n) == 1 || sscanf(rest, "layers.%d.%n", &layer, &n) == 1)
        snprintf(prefix, sizeof prefix, "blk.%d.", layer);
    rest += n;
    n = 0;
    if (sscanf(rest, "mlp.experts.%d.%n", &expert, &n) == 1) rest += n;
    for (i = 0;
         i < LLMI_COUNT(gguf_names) && strncmp(rest, gguf_names[i][0], strlen(gguf_names[i][0]));)
        i++;
    CHECK_MSG(i < LLMI_COUNT(gguf_names), "%s has no name", name);
    if (i == LLMI_COUNT(gguf_names)) i = 0;
    snprintf(out, capacity, "%s%s%s", prefix, gguf_names[i][1], rest + strlen(gguf_names[i][0]));
    return expert;
}
enum { GGUF_SPLIT = 1,                 /* attn_k_b and attn_v_b in place of attn_kv_b    */
       GGUF_GATE_UP = 2 };             /* gate and up of experts in one tensor           */
/* what each key means: KEYS of llama.cpp's llama-arch, values as its converter writes them */
static void gguf_put_keys(gguf_file *f, const llm_config *c, int form) {
    const int qk = c->qk_nope_head_dim + c->qk_rope_head_dim, split = form & GGUF_SPLIT;
    gguf_string(f, "general.architecture", f->arch);
    gguf_u32(f, ".context_length", c->max_seq_len);
    gguf_u32(f, ".embedding_length", c->d_model);
    gguf_u32(f, ".block_count", c->n_layers + c->mtp_depth);
    gguf_u32(f, ".feed_forward_length", c->d_ffn);
    gguf_u32(f, ".attention.head_count", c->n_heads);
    if (c->arch == LLM_ARCH_GPT2) {
        gguf_number(f, ".attention.layer_norm_epsilon", GGUF_F32, (double)c->norm_eps);
        return;
    }
    gguf_number(f, ".attention.layer_norm_rms_epsilon", GGUF_F32, (double)c->norm_eps);
    gguf_u32(f, ".attention.head_count_kv", split ? 1 : c->n_heads);
    gguf_u32(f, ".rope.dimension_count", c->qk_rope_head_dim);
    gguf_number(f, ".rope.freq_base", GGUF_F32, (double)c->rope_theta);
    if (c->q_lora_rank) gguf_u32(f, ".attention.q_lora_rank", c->q_lora_rank);
    gguf_u32(f, ".attention.kv_lora_rank", c->kv_lora_rank);
    gguf_u32(f, ".attention.key_length", split ? c->kv_lora_rank + c->qk_rope_head_dim : qk);
    gguf_u32(f, ".attention.value_length", split ? c->kv_lora_rank : c->v_head_dim);
    if (split) {
        gguf_u32(f, ".attention.key_length_mla", qk);
        gguf_u32(f, ".attention.value_length_mla", c->v_head_dim);
    }
    gguf_u32(f, ".leading_dense_block_count", c->n_routed_experts ? c->first_k_dense : c->n_layers);
    if (c->n_routed_experts) {
        gguf_u32(f, ".expert_count", c->n_routed_experts);
        gguf_u32(f, ".expert_used_count", c->num_experts_per_tok);
        gguf_u32(f, ".expert_shared_count", c->n_shared_experts);
        gguf_u32(f, ".expert_feed_forward_length", c->moe_d_ffn);
        gguf_number(f, ".expert_weights_scale", GGUF_F32, (double)c->routed_scaling_factor);
        gguf_u32(f, ".expert_gating_func", 2);
        if (c->norm_topk_prob) gguf_number(f, ".expert_weights_norm", GGUF_BOOL, 1);
        if (c->n_group > 1) {
            gguf_u32(f, ".expert_group_count", c->n_group);
            gguf_u32(f, ".expert_group_used_count", c->topk_group);
        }
    }
    if (c->mtp_depth) gguf_u32(f, ".nextn_predict_layers", c->mtp_depth);
    if (c->yarn_factor == 0.0f) return;
    gguf_string(f, ".rope.scaling.type", "yarn");
    gguf_number(f, ".rope.scaling.factor", GGUF_F32, (double)c->yarn_factor);
    gguf_u32(f, ".rope.scaling.original_context_length", c->yarn_original_max_seq_len);
    if (c->yarn_mscale_all_dim != 0.0f)
        gguf_number(f, ".rope.scaling.yarn_log_multiplier", GGUF_F32,
                    (double)(0.1f * c->yarn_mscale_all_dim));
}
/* rows by outputs: from (n_in, n_out) where `turned` */
static float *gguf_rows(const float *from, size_t n_out, size_t n_in, int turned) {
    float *to = (float *)plain_alloc(n_out * n_in * sizeof *to);
    size_t i, j;
    for (i = 0; i < n_out; i++)
        for (j = 0; j < n_in; j++)
            to[i * n_in + j] = turned ? from[j * n_out + i] : from[i * n_in + j];
    return to;
}
/* the values of a matrix as `type`, from noise if that is not F32: then they become the model's */
static void gguf_put_values(gguf_bytes *b, llm_dtype type, float *values, size_t n_out, size_t n_in,
                            int turned, uint64_t seed) {
    unsigned char *noise_of;
    float *rows;
    size_t i, j;
    if (type == LLM_F32) {
        rows = gguf_rows(values, n_out, n_in, turned);
        gguf_add(b, rows, n_out * n_in * sizeof *rows);
        free(rows);
        return;
    }
    noise_of = typed_noise(type, n_out * n_in, seed);
    gguf_add(b, noise_of, llm_dtype_size(type, n_out * n_in));
    rows = (float *)plain_alloc(n_out * n_in * sizeof *rows);
    CHECK(llm_dtype_decode(rows, noise_of, type, n_out * n_in, NULL) == LLM_OK);
    for (i = 0; i < n_out; i++)
        for (j = 0; j < n_in; j++)
            values[turned ? j * n_out + i : i * n_in + j] = rows[i * n_in + j];
    free(rows);
    free(noise_of);
}
/* kv_b_proj (H (nope + v), R) as k_b (H, R, nope), turned, and v_b (H, v, R) */
static void gguf_put_halves(gguf_file *f, const llm_config *c, const float *kv_b, const char *blk) {
    const uint64_t H = (uint64_t)c->n_heads, R = (uint64_t)c->kv_lora_rank,
                   nope = (uint64_t)c->qk_nope_head_dim, v = (uint64_t)c->v_head_dim;
    char name[400];
    gguf_item *k, *w;
    uint64_t h, r, i;
    snprintf(name, sizeof name, "%sattn_k_b.weight", blk);
    k = gguf_add_tensor(f, name, 0, 3, nope, R, H);
    snprintf(name, sizeof name, "%sattn_v_b.weight", blk);
    w = gguf_add_tensor(f, name, 0, 3, R, v, H);
    for (h = 0; h < H; h++) {
        const float *head = kv_b + h * (nope + v) * R;
        for (r = 0; r < R; r++)
            for (i = 0; i < nope; i++) gguf_add(&k->bytes, head + i * R + r, sizeof *head);
        gguf_add(&w->bytes, head + nope * R, v * R * sizeof *head);
    }
}
static const llm_dtype gguf_types[] = {LLM_F32, LLM_F16, LLM_BF16, LLM_Q8_0, LLM_Q4_0, LLM_Q4_1,
                                       LLM_Q5_0, LLM_Q5_1, LLM_Q4_K, LLM_Q5_K, LLM_Q6_K};
enum { GGUF_TYPES = sizeof gguf_types / sizeof gguf_types[0], GGUF_MIXED = -1 };
/* model: of f32, from create. type: of matrices, one of llm_dtype; GGUF_MIXED: one after the other.
 * Matrices of other types than F32 are drawn, and become the model's. */
static gguf_file *gguf_of(llm_model *model, int type, int form) {
    const llm_config *c = llm_model_config(model);
    gguf_file *f = gguf_new(c->arch == LLM_ARCH_GPT2 ? "gpt2" : "deepseek2");
    size_t i;
    gguf_put_keys(f, c, form);
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        const int turned =
            c->arch == LLM_ARCH_GPT2 && strstr(t.name, ".c_") != NULL && t.n_dims == 2;
        const size_t n_out = (size_t)t.dims[turned],
                     n_in = t.n_dims > 1 ? (size_t)t.dims[!turned] : 1;
        const int fixed = t.n_dims == 1 || strstr(t.name, "wpe") || strstr(t.name, "mlp.gate.w");
        llm_dtype its = fixed ? LLM_F32 : type == GGUF_MIXED ? gguf_types[i % GGUF_TYPES]
                                                             : (llm_dtype)type;
        char name[320];
        const int expert = gguf_name(t.name, name, sizeof name);
        char *gate = strstr(name, "ffn_gate_exps."), *up = strstr(name, "ffn_up_exps.");
        gguf_item *item;
        if (form & GGUF_SPLIT && strstr(name, "attn_kv_b.")) {
            *strstr(name, "attn_kv_b.") = 0;
            gguf_put_halves(f, c, (const float *)t.data, name);
            continue;
        }
        if (form & GGUF_GATE_UP && expert >= 0 && (gate || up))
            strcpy(gate ? gate : up, "ffn_gate_up_exps.weight");
        else gate = up = NULL;
        item = gguf_find(f->tensors, f->n_tensors, name);
        if (!item && t.n_dims == 1) item = gguf_add_tensor(f, name, 0, 1, n_out, 1, 1);
        if (!item)
            item = gguf_add_tensor(f, name, gguf_type_number(its), expert >= 0 ? 3 : 2, n_in,
                                   gate || up ? 2 * n_out : n_out,
                                   expert >= 0 ? (uint64_t)c->n_routed_experts : 1);
        for (its = LLM_F32; gguf_type_number(its) != item->type;) its = (llm_dtype)(its + 1);
        gguf_put_values(&item->bytes, its, (float *)t.data, n_out, n_in, turned, 1000 + i);
    }
    return f;
}

/* ---- models ---------------------------------------------------------------------------------- */
enum {
    GGUF_GPT2,
    GGUF_GPT2_UNTIED,
    GGUF_DENSE,
    GGUF_DENSE_RANK,
    GGUF_MOE,
    GGUF_MOE_YARN,
    GGUF_NEXTN,
    GGUF_KINDS
};
/* wide: every row holds whole blocks of 256 values, but those of attn_k_b, of 32 */
static llm_config gguf_config(int kind, int wide) {
    llm_config c;
    if (kind <= GGUF_GPT2_UNTIED) {
        c = wide ? small_config(40, 64, 256, 1, 4) : small_config(13, 64, 12, 2, 3);
        c.d_ffn = wide ? 512 : 20;
        c.tie_embeddings = kind == GGUF_GPT2;
        return c;
    }
    c = deepseek_config(kind >= GGUF_MOE, kind != GGUF_DENSE && kind != GGUF_MOE_YARN, 13, 64,
                        kind == GGUF_NEXTN);
    c.attention_bias = 0;
    c.tie_embeddings = kind == GGUF_DENSE_RANK || kind == GGUF_MOE_YARN;
    c.norm_eps = 1e-5f;
    if (kind == GGUF_MOE_YARN) {
        set_yarn(&c, 4.0f, 16, 0.0f, 0.0f, 1.0f, 1.0f);
        c.rope_theta = 50000.0f;
        c.n_group = c.topk_group = 1;
        c.norm_topk_prob = 0;
    }
    if (!wide) return c;
    c.d_model = c.d_ffn = c.kv_lora_rank = 256;
    c.n_heads = 4;
    c.qk_nope_head_dim = 32;
    c.qk_rope_head_dim = 16;
    c.v_head_dim = 64;
    if (c.q_lora_rank) c.q_lora_rank = 256;
    if (c.n_routed_experts) c.moe_d_ffn = 256;
    return c;
}
static llm_model *gguf_model(int kind, int wide, uint64_t seed) {
    const llm_config c = gguf_config(kind, wide);
    return shaken_model(&c, seed, 1, NULL);
}
/* tensor i as f32, as the Hugging Face file has it */
static float *gguf_values(const llm_model *model, size_t i) {
    const llm_tensor t = llm_model_tensor(model, i);
    const llm_config *c = llm_model_config(model);
    const size_t n = tensor_size(&t), width = (size_t)c->d_model;
    const int matrix = c->arch == LLM_ARCH_GPT2 && strstr(t.name, ".c_") != NULL && t.n_dims == 2;
    const llm_tensor fused = llm_model_tensor(model, 4);       /* the first block's c_attn */
    const int turned = matrix && (t.dtype != LLM_F32 || fused.dims[0] != (int64_t)width);
    float *rows = (float *)plain_alloc(n * sizeof *rows), *values;
    size_t j;
    CHECK(llm_dtype_decode(rows, t.data, t.dtype, n, NULL) == LLM_OK);
    for (j = 0; t.scales && j < n; j++) {
        const size_t row = j / (size_t)t.dims[1], col = j % (size_t)t.dims[1];
        rows[j] *= t.scales[row / 128 * (((size_t)t.dims[1] + 127) / 128) + col / 128];
    }
    values = turned ? gguf_rows(rows, (size_t)t.dims[1], (size_t)t.dims[0], 1) : rows;
    if (turned) free(rows);
    return values;
}
static int gguf_same_values(const llm_model *a, const llm_model *b) {
    size_t i, n;
    int same = llm_model_tensor_count(a) == llm_model_tensor_count(b);
    for (i = 0; same && i < llm_model_tensor_count(a); i++) {
        const llm_tensor t = llm_model_tensor(a, i), u = llm_model_tensor(b, i);
        float *x = gguf_values(a, i), *y = gguf_values(b, i);
        n = tensor_size(&t);
        same = !strcmp(t.name, u.name) && n == tensor_size(&u);
        if (same && !same_bits(x, y, n)) {
            printf("  %s differs\n", t.name);
            same = 0;
        }
        free(x);
        free(y);
    }
    return same;
}
static void gguf_same_config(const llm_model *got, const llm_model *want, const char *label) {
    const size_t n = sizeof(llm_config) / 4;           /* all of its fields have four bytes */
    size_t i;
    int32_t x[sizeof(llm_config) / 4], y[sizeof(llm_config) / 4];
    memcpy(x, llm_model_config(got), sizeof x);
    memcpy(y, llm_model_config(want), sizeof y);
    for (i = 0; i < n; i++)
        CHECK_MSG(x[i] == y[i], "%s: field %lu of the configuration is %d, not %d", label,
                  (unsigned long)i, (int)x[i], (int)y[i]);
}

/* The same logits, in one call and token by token. GPT-2's matrices stand turned in a GGUF file,
 * where other kernels sum, in another order: equal but for rounding. */
static void gguf_same_logits(const llm_model *got, const llm_model *want, double bound) {
    const size_t V = (size_t)llm_model_config(want)->vocab_size, n = 24 * V;
    float *x = new_floats(n), *y = new_floats(n);
    int32_t tokens[24];
    int i;
    if (bound == 0.0) files_same_logits(got, want);
    random_tokens(tokens, 24, (int)V, 3);
    CHECK(llm_model_logits(got, tokens, 1, 24, x, NULL) == LLM_OK &&
          llm_model_logits(want, tokens, 1, 24, y, NULL) == LLM_OK);
    CHECK_MSG(relative_error(x, y, n) <= bound, "in one call: %g", relative_error(x, y, n));
    if (bound > 0.0) {
        llm_session *s = llm_session_create(got, NULL, NULL);
        for (i = 0; s && i < 24; i++)
            CHECK(llm_session_eval(s, 0, tokens + i, 1, x + (size_t)i * V, NULL) == LLM_OK);
        CHECK_MSG(relative_error(x, y, n) <= bound, "token by token: %g", relative_error(x, y, n));
        llm_session_free(s);
    }
    free(x);
    free(y);
}
static double gguf_rounding(const llm_model *model) {
    return llm_model_config(model)->arch == LLM_ARCH_GPT2 ? 1e-5 : 0.0;
}

#define GGUF_AT FILES "/gguf"
static const char gguf_path[] = GGUF_AT "/x.gguf";
static void gguf_write(const char *name, const void *data, size_t n) {
    files_mkdir("build");
    files_mkdir(FILES);
    files_mkdir(GGUF_AT);
    files_write(GGUF_AT, name, data, n);
}
/* from a copy of exactly its size at an odd address, or from the file; watched by files_heap */
static llm_model *gguf_load(const void *data, size_t n, llm_dtype dtype, int from_file,
                            llm_error *err) {
    llm_model_desc d = files_desc();
    char *copy = (char *)plain_alloc(n + 1);
    llm_model *model;
    d.dtype = dtype;
    memset(err, 0, sizeof *err);
    memcpy(copy + 1, data, n);
    if (from_file) gguf_write("x.gguf", data, n);
    model = files_loaded(from_file ? llm_model_load(gguf_path, &d, err)
                                   : llm_model_load_memory(NULL, 0, copy + 1, n, &d, err), err);
    free(copy);
    return model;
}
static llm_model *gguf_loaded(gguf_file *f, llm_dtype dtype, int from_file, const char *label) {
    llm_error err;
    size_t n;
    unsigned char *data = gguf_pack(f, &n);
    llm_model *model = gguf_load(data, n, dtype, from_file, &err);
    CHECK_MSG(model != NULL, "%s: %s", label, err.message);
    free(data);
    return model;
}

TEST(gguf_models) {
    int kind, form, from_file;
    for (kind = 0; kind < GGUF_KINDS; kind++)
        for (form = 0; form < (kind <= GGUF_GPT2_UNTIED ? 1 : kind < GGUF_MOE ? 2 : 4); form++)
            for (from_file = 0; from_file < 2; from_file++) {
                llm_model *want = gguf_model(kind, 0, 5), *got;
                gguf_file *f = gguf_of(want, LLM_F32, form);
                char label[40];
                snprintf(label, sizeof label, "kind %d, form %d", kind, form);
                got = gguf_loaded(f, LLM_DTYPE_DEFAULT, from_file, label);
                if (got) {
                    const size_t mapped = files_mapped_count(got), n = llm_model_tensor_count(got);
                    gguf_same_config(got, want, label);
                    CHECK_MSG(gguf_same_values(got, want), "%s", label);
                    gguf_same_logits(got, want, gguf_rounding(got));
                    if (LLMI_POSIX && from_file && !(form & GGUF_SPLIT))   /* nothing is read */
                        CHECK_MSG(mapped == n && files_heap.bytes < sizeof *got + 8192 + n * 200,
                                  "%s: %lu of %lu mapped, %lu bytes", label, (unsigned long)mapped,
                                  (unsigned long)n, (unsigned long)files_heap.bytes);
                    CHECK(LLMI_POSIX && from_file ? mapped > 0 : mapped == 0);
                    CHECK(llm_model_special_tokens(got).bos == -1 &&
                          llm_model_special_tokens(got).n_eos == 0);
                    files_unload(got);
                }
                files_none_mapped();
                gguf_drop(f);
                llm_model_free(want);
            }
}

/* other ways to write the same; and what llama.cpp computes by other numbers of its keys */
TEST(gguf_model_keys) {
    llm_model *want = gguf_model(GGUF_MOE, 0, 5), *got;
    gguf_file *f = gguf_of(want, LLM_F32, 0);
    size_t i, j;
    int way;
    for (way = 0; way < 6; way++) {
        llm_special_tokens s;
        gguf_string(f, "general.name", "a name");                  /* what is only told */
        gguf_number(f, ".block_count", way ? GGUF_U64 : GGUF_U16, 2);
        gguf_array(f, "some.thing", GGUF_F64, 0);
        if (way == 1) f->align = 64, gguf_u32(f, "general.alignment", 64);
        if (way == 2) f->align = 8, gguf_u32(f, "general.alignment", 8);
        if (way == 3) gguf_string(f, ".rope.scaling.type", "none");
        if (way == 4) gguf_u32(f, "tokenizer.ggml.bos_token_id", 3),
                      gguf_u32(f, "tokenizer.ggml.eos_token_id", 4),
                      gguf_u32(f, "tokenizer.ggml.padding_token_id", 5);
        if (way == 5) gguf_u32(f, "tokenizer.ggml.eot_token_id", 6),
                      gguf_u32(f, "tokenizer.ggml.eom_token_id", 4);       /* the first again */
        if (way == 5)
            gguf_u32(f, ".rope.scaling.factor", 1), gguf_string(f, ".rope.scaling.type", "linear");
        got = gguf_loaded(f, LLM_DTYPE_DEFAULT, way % 2, "other keys");
        if (!got) continue;
        gguf_same_config(got, want, "other keys");
        CHECK(gguf_same_values(got, want));
        s = llm_model_special_tokens(got);
        CHECK(way < 4 ? s.bos == -1 && s.n_eos == 0 && s.pad == -1
                      : s.bos == 3 && s.n_eos == way - 3 && s.eos[0] == 4 && s.pad == 5 &&
                            s.eos[1] == (way == 5 ? 6 : 0));
        files_unload(got);
    }
    gguf_drop(f);
    f = gguf_of(want, LLM_F32, 0);
    gguf_unset(f->keys, &f->n_keys, "deepseek2.expert_weights_norm");      /* defaults */
    gguf_unset(f->keys, &f->n_keys, "deepseek2.expert_weights_scale");
    gguf_unset(f->keys, &f->n_keys, "deepseek2.expert_group_count");
    gguf_unset(f->keys, &f->n_keys, "deepseek2.expert_group_used_count");
    gguf_unset(f->keys, &f->n_keys, "deepseek2.rope.freq_base");
    gguf_unset(f->tensors, &f->n_tensors, "blk.1.exp_probs_b.bias");
    got = gguf_loaded(f, LLM_DTYPE_DEFAULT, 0, "defaults");
    if (got) {
        const llm_config *c = llm_model_config(got);
        CHECK(c->norm_topk_prob == 0 && c->routed_scaling_factor == 1.0f && c->n_group == 1 &&
              c->rope_theta == 10000.0f);
        for (i = 0; i < llm_model_tensor_count(got); i++) {    /* no bias is one of zeros */
            const llm_tensor t = llm_model_tensor(got, i);
            for (j = 0; strstr(t.name, "e_score") && j < tensor_size(&t); j++)
                CHECK(((const float *)t.data)[j] == 0.0f);
        }
        files_unload(got);
    }
    gguf_drop(f);
    llm_model_free(want);
}

/* what an MTP module may leave out, or repeat */
TEST(gguf_nextn) {
    llm_model *want = gguf_model(GGUF_NEXTN, 0, 5), *got;
    int way;
    for (way = 0; way < 4; way++) {
        gguf_file *f = gguf_of(want, LLM_F32, 0);
        const gguf_item *embed = gguf_tensor(f, "token_embd.weight"),
                        *head = gguf_tensor(f, "output.weight");
        gguf_item *norm = gguf_tensor(f, "blk.2.nextn.shared_head_norm.weight"), *t;
        llm_error err;
        unsigned char *data;
        size_t n;
        if (way == 0) {                /* no norm of its own: the trunk's */
            memcpy(gguf_tensor(f, "output_norm.weight")->bytes.data, norm->bytes.data,
                   norm->bytes.n);
            gguf_unset(f->tensors, &f->n_tensors, norm->name);
        } else {
            t = gguf_add_tensor(f, "blk.2.nextn.embed_tokens.weight", 0, 2, embed->dims[0],
                                embed->dims[1], 1);
            gguf_add(&t->bytes, embed->bytes.data, embed->bytes.n);
            if (way == 2) t->bytes.data[5] ^= 1;
            t = gguf_add_tensor(f, "blk.2.nextn.shared_head_head.weight", 0, 2, head->dims[0],
                                head->dims[1], 1);
            gguf_add(&t->bytes, head->bytes.data, head->bytes.n);
            if (way == 3) t->bytes.data[5] ^= 1;
        }
        data = gguf_pack(f, &n);
        got = gguf_load(data, n, LLM_DTYPE_DEFAULT, way % 2, &err);
        if (way < 2) {
            CHECK_MSG(got != NULL, "%s", err.message);
            CHECK(way == 0 || (got && gguf_same_values(got, want)));
            if (got && way == 0) {     /* the last tensors are the module's norm, norm, lm_head */
                const size_t last = llm_model_tensor_count(got) - 1;
                const llm_tensor a = llm_model_tensor(got, last - 2),
                                 b = llm_model_tensor(want, last - 2);
                CHECK(strstr(a.name, "shared_head.norm") &&
                      !memcmp(a.data, b.data, 4 * tensor_size(&a)));
            }
            files_unload(got);
        } else
            files_check(got, &err, LLM_ERR_FORMAT, "",
                        way == 2 ? "embed_tokens" : "shared_head.head", "a copy");
        free(data);
        gguf_drop(f);
    }
    llm_model_free(want);
}
/* YaRN: llama.cpp multiplies cos and sin by A and scores by (A g(m))^2, m = 10 log_multiplier,
 * g(m) = 0.1 m ln s + 1, A = attn_factor, times g(1) where m is 0 */
TEST(gguf_yarn) {
    static const double cases[][2] = {{0.1, 0.0}, {0.05, 0.0}, {0.0, 0.0}, {0.0, 0.9}, {0.0, 1.3},
                                      {0.0707, 1.1}, {0.2, 0.95}};
    size_t i;
    for (i = 0; i < LLMI_COUNT(cases); i++) {
        llm_model *want = gguf_model(GGUF_MOE_YARN, 0, 5), *got;
        gguf_file *f = gguf_of(want, LLM_F32, 0);
        const double ln = 0.1 * log(4.0), m = 10.0 * cases[i][0],
                     F = cases[i][1] == 0.0 ? 1.0 : cases[i][1];
        const double A = m != 0.0 ? F : F * (ln + 1.0), b = A * (m * ln + 1.0);
        double all, scale;
        if (m != 0.0) gguf_number(f, ".rope.scaling.yarn_log_multiplier", GGUF_F32, cases[i][0]);
        else gguf_unset(f->keys, &f->n_keys, "deepseek2.rope.scaling.yarn_log_multiplier");
        if (cases[i][1] != 0.0) gguf_number(f, ".rope.scaling.attn_factor", GGUF_F32, F);
        got = gguf_loaded(f, LLM_DTYPE_DEFAULT, 0, "YaRN");
        if (got) {                     /* transformers: a on cos and sin, b^2 on scores */
            const llm_config *c = llm_model_config(got);
            const double g = (double)c->yarn_mscale * ln + 1.0;
            all = c->yarn_mscale_all_dim != 0.0f ? (double)c->yarn_mscale_all_dim * ln + 1.0 : 1.0;
            scale = c->yarn_mscale != 0.0f && c->yarn_mscale_all_dim != 0.0f ? g / all : ln + 1.0;
            CHECK_MSG(fabs(all - b) < 1e-6 && fabs(scale - A) < 1e-6,
                      "%g %g: scores %g, not %g; cos %g, "
                      "not %g",
                      cases[i][0], F, all, b, scale, A);
            files_unload(got);
        }
        gguf_drop(f);
        llm_model_free(want);
    }
}

/* ---- types ----------------------------------------------------------------------------------- */
/* by default what the file has, where it has it; asked for F32 the values; else, converted */
static void gguf_type(int kind, int type, int from_file) {
    llm_model *want = gguf_model(kind, 1, 5), *got;
    gguf_file *f = gguf_of(want, type, 0);
    const llm_config *c = llm_model_config(want);
    const llm_dtype other = type == LLM_Q8_0 ? LLM_F16 : LLM_Q8_0;
    char label[60];
    size_t i;
    snprintf(label, sizeof label, "kind %d, %s", kind,
             type < 0 ? "mixed" : llm_dtype_name((llm_dtype)type));
    got = gguf_loaded(f, LLM_DTYPE_DEFAULT, from_file, label);
    for (i = 0; got && i < llm_model_tensor_count(got); i++) {
        const llm_tensor t = llm_model_tensor(got, i);
        char name[320];
        const int expert = gguf_name(t.name, name, sizeof name);
        const gguf_item *item = gguf_tensor(f, name);
        const size_t n = llm_dtype_size(t.dtype, tensor_size(&t));
        CHECK_MSG(gguf_type_number(t.dtype) == item->type, "%s: %s is %s", label, t.name,
                  llm_dtype_name(t.dtype));
        CHECK_MSG(t.n_dims == (item->n_dims > 1 ? 2 : 1) &&
                      t.dims[t.n_dims - 1] == (int64_t)item->dims[0] &&
                      (t.n_dims == 1 || t.dims[0] == (int64_t)item->dims[1]) && !t.scales,
                  "%s: %s [%ld,%ld]", label, t.name, (long)t.dims[0], (long)t.dims[1]);
        CHECK_MSG(!memcmp(t.data, item->bytes.data + (expert > 0 ? (size_t)expert * n : 0), n),
                  "%s: bytes of %s", label, t.name);
        CHECK(!(LLMI_POSIX && from_file) || files_is_mapped(got, i));
    }
    if (got) CHECK_MSG(gguf_same_values(got, want), "%s", label);
    if (got) files_unload(got);
    got = gguf_loaded(f, LLM_F32, from_file, label);
    if (got) {
        CHECK_MSG(gguf_same_values(got, want), "%s in F32", label);
        for (i = 0; i < llm_model_tensor_count(got); i++)
            CHECK(llm_model_tensor(got, i).dtype == LLM_F32);
        gguf_same_logits(got, want, gguf_rounding(got));
        files_unload(got);
    }
    got = gguf_loaded(f, other, from_file, label);
    for (i = 0; got && i < llm_model_tensor_count(got); i++) {
        const llm_tensor t = llm_model_tensor(got, i), w = llm_model_tensor(want, i);
        const int turned = c->arch == LLM_ARCH_GPT2 && strstr(t.name, ".c_") && t.n_dims == 2;
        const size_t n = tensor_size(&t);
        char name[320];
        const int expert = gguf_name(t.name, name, sizeof name);
        const gguf_item *item = gguf_tensor(f, name);
        float *rows;
        unsigned char *bytes;
        if (t.n_dims == 1 || strstr(t.name, "wpe") || strstr(t.name, "mlp.gate.w")) {
            CHECK(t.dtype == LLM_F32 && same_bits((const float *)t.data, (const float *)w.data, n));
            continue;
        }
        rows = gguf_rows((const float *)w.data, (size_t)t.dims[0], (size_t)t.dims[1], turned);
        bytes = (unsigned char *)plain_alloc(n * 4);
        CHECK(t.dtype == other && llm_dtype_encode(bytes, other, rows, n, NULL) == LLM_OK);
        if (item->type == gguf_type_number(other))             /* it stays as it is */
            memcpy(bytes, item->bytes.data + (expert > 0 ? (size_t)expert : 0) *
                              llm_dtype_size(other, n), llm_dtype_size(other, n));
        CHECK_MSG(!memcmp(bytes, t.data, llm_dtype_size(other, n)), "%s: %s as %s", label, t.name,
                  llm_dtype_name(other));
        free(rows);
        free(bytes);
    }
    if (got) files_unload(got);
    gguf_drop(f);
    llm_model_free(want);
}
TEST(gguf_types_of_a_file) {
    int i;
    for (i = 1; i < GGUF_TYPES; i++)
        gguf_type(i % 2 ? GGUF_GPT2 : GGUF_MOE, gguf_types[i], i % 4 < 2);
    gguf_type(GGUF_GPT2_UNTIED, GGUF_MIXED, 0);
    gguf_type(GGUF_NEXTN, GGUF_MIXED, 1);
    gguf_type(GGUF_DENSE_RANK, LLM_Q6_K, 1);
}
/* attn_k_b and attn_v_b of blocks become one matrix of F16: each value rounded once */
TEST(gguf_halves_of_blocks) {
    llm_model *want = gguf_model(GGUF_MOE, 1, 5), *got;
    gguf_file *f = gguf_of(want, LLM_F32, GGUF_SPLIT);
    static const char *const names[] = {"blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"};
    int i, k;
    for (i = 0; i < 2; i++) {
        gguf_item *t = gguf_tensor(f, names[i]);
        const size_t n = t->bytes.n / 4;
        unsigned char *bytes = typed_noise(LLM_Q8_0, n, 3);
        t->bytes.n = 0;
        t->type = 8;
        gguf_add(&t->bytes, bytes, llm_dtype_size(LLM_Q8_0, n));
        free(bytes);
    }
    got = gguf_loaded(f, LLM_DTYPE_DEFAULT, 1, "Q8_0 halves");
    for (k = 0; got && k < (int)llm_model_tensor_count(got); k++) {
        const llm_tensor t = llm_model_tensor(got, (size_t)k);
        const llm_config *c = llm_model_config(got);
        const int nope = c->qk_nope_head_dim, v = c->v_head_dim, R = c->kv_lora_rank;
        float *values;
        uint16_t half;
        int h, j, r;
        if (strcmp(t.name, "model.layers.0.self_attn.kv_b_proj.weight")) continue;
        CHECK(t.dtype == LLM_F16);
        values = gguf_values(got, (size_t)k);
        for (h = 0; h < c->n_heads; h++)
            for (j = 0; j < nope + v; j++)
                for (r = 0; r < R; r += 7) {
                    const int of_k = j < nope;
                    const size_t at = of_k ? (size_t)((h * R + r) * nope + j)
                                           : (size_t)((h * v + j - nope) * R + r);
                    const double x =
                        block_by_hand(LLM_Q8_0, gguf_tensor(f, names[!of_k])->bytes.data, at);
                    float one = (float)x;
                    CHECK(llm_dtype_encode(&half, LLM_F16, &one, 1, NULL) == LLM_OK &&
                          llm_dtype_decode(&one, &half, LLM_F16, 1, NULL) == LLM_OK);
                    CHECK(one == values[(h * (nope + v) + j) * R + r]);
                }
        free(values);
    }
    if (got) files_unload(got);
    gguf_drop(f);
    llm_model_free(want);
}
/* rows that a type's blocks do not fit get another type, as llama.cpp's quantiser has it */
TEST(gguf_fallback) {
    static const llm_dtype cases[][3] = {
        /* asked for; rows of 96; of 40 */
        {LLM_Q4_K, LLM_Q5_0, LLM_F16},  {LLM_Q5_K, LLM_Q5_1, LLM_F16},
        {LLM_Q6_K, LLM_Q8_0, LLM_F16},  {LLM_Q8_0, LLM_Q8_0, LLM_F16},
        {LLM_Q4_0, LLM_Q4_0, LLM_F16},  {LLM_Q4_1, LLM_Q4_1, LLM_F16},
        {LLM_Q5_0, LLM_Q5_0, LLM_F16},  {LLM_Q5_1, LLM_Q5_1, LLM_F16},
        {LLM_BF16, LLM_BF16, LLM_BF16}, {LLM_F16, LLM_F16, LLM_F16}};
    size_t i, k;
    int way;
    for (i = 0; i < LLMI_COUNT(cases); i++)
        for (way = 0; way < 3; way++) {        /* created; loaded; saved and loaded */
            llm_config c = small_config(13, 16, 96, 1, 3);
            llm_model_desc d = files_desc();
            llm_model *plain, *got;
            llm_error err;
            gguf_file *f;
            c.d_ffn = 40;
            d.dtype = cases[i][0];
            plain = shaken_model(&c, 3, 1, NULL);
            f = gguf_of(plain, LLM_F32, 0);
            err.message[0] = 0;
            if (way == 0) got = llm_model_create(&c, &d, &err);
            else if (way == 1) got = gguf_loaded(f, cases[i][0], 1, "fallback");
            else {
                gguf_write("x.gguf", "", 0);
                CHECK(llm_gguf_save(plain, NULL, gguf_path, cases[i][0], &err) == LLM_OK);
                d.dtype = LLM_DTYPE_DEFAULT;
                got = llm_model_load(gguf_path, &d, &err);
            }
            CHECK_MSG(got != NULL, "%s", err.message);
            for (k = 0; got && k < llm_model_tensor_count(got); k++) {
                const llm_tensor t = llm_model_tensor(got, k);
                llm_dtype need = cases[i][1 + (strstr(t.name, "mlp.c_proj") != NULL)];
                if (t.n_dims == 1 || k == 1) need = LLM_F32;
                else if (way == 2 && k == 0 && llmi_dtype_is_blocks(need)) need = LLM_Q8_0;
                else if (way == 2 && i < 2 && strstr(t.name, "c_attn")) need = LLM_Q8_0;  /* Q6_K */
                CHECK_MSG(t.dtype == need, "%s for %s: %s", llm_dtype_name(t.dtype),
                          llm_dtype_name(cases[i][0]), t.name);
            }
            if (got) files_unload(got);
            gguf_drop(f);
            llm_model_free(plain);
        }
}

/* ---- typed models in use --------------------------------------------------------------------- */
/* a model of `type` and the f32 model of the same values */
static llm_model *gguf_typed(int kind, llm_dtype type, const llm_model *plain) {
    llm_config c = gguf_config(kind, 1);
    llm_model_desc d = model_desc(7, 1, NULL);
    llm_model *model;
    llm_error err;
    size_t i;
    d.dtype = type;
    if (c.n_routed_experts) {          /* all are active: rounding cannot choose others */
        c.num_experts_per_tok = c.n_routed_experts;
        c.n_group = c.topk_group = 1;
    }
    err.message[0] = 0;
    model = llm_model_create(&c, &d, &err);
    CHECK_MSG(model != NULL, "%s", err.message);
    for (i = 0; model && plain && i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(plain, i);
        float *values = gguf_values(model, i);
        memcpy(t.data, values, tensor_size(&t) * sizeof *values);
        free(values);
    }
    return model;
}
TEST(gguf_training_of_types) {
    static const llm_dtype types[] = {LLM_F16, LLM_BF16, LLM_F8_E4M3, LLM_Q8_0, LLM_Q4_K};
    size_t i, n, m;
    int kind;
    for (kind = GGUF_GPT2; kind <= GGUF_MOE; kind += GGUF_MOE)
        for (i = 0; i < LLMI_COUNT(types); i++) {
            const llm_train_desc d = train_desc(1, 8, 1);
            llm_model *plain = gguf_typed(kind, LLM_F32, NULL),
                      *model = gguf_typed(kind, types[i], plain), *saved;
            const llm_tensor before = llm_model_tensor(model, 4);
            const int vocab = llm_model_config(model)->vocab_size;
            float *x = new_floats(8 * 40), *y = new_floats(8 * 40);
            int32_t tokens[8], targets[8];
            llm_train_stats a, b;
            llm_trainer *t, *u;
            const float *got, *want;
            llm_error err;
            const char *directory = files_directory("gguf_saved");
            err.message[0] = 0;
            /* a directory gets the values */
            CHECK_MSG(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK, "%s", err.message);
            saved = llm_model_load(directory, NULL, &err);
            CHECK_MSG(saved && gguf_same_values(saved, plain), "%s: %s", llm_dtype_name(types[i]),
                      err.message);
            llm_model_free(saved);
            random_batch(tokens, targets, 8, vocab, 0.0, 3);
            CHECK(llm_model_logits(model, tokens, 1, 8, x, NULL) == LLM_OK);
            t = llm_trainer_create(model, &d, &err);
            if (llmi_dtype_is_blocks(types[i])) {
                const llm_tensor after = llm_model_tensor(model, 4);
                check_refused(t ? LLM_OK : err.code, LLM_ERR_UNSUPPORTED, &err,
                              (const char *const[]){"LLM_F32", llm_dtype_name(types[i]), NULL},
                              "a trainer");
                CHECK(llm_model_logits(model, tokens, 1, 8, y, NULL) == LLM_OK &&
                      same_bits(x, y, 8 * (size_t)vocab));
                CHECK(after.data == before.data && after.dtype == types[i]);
            } else {
                u = llm_trainer_create(plain, &d, NULL);
                CHECK_MSG(t && u, "%s", err.message);
                if (!t || !u) return;
                got = llm_trainer_weights(t, &n);
                want = llm_trainer_weights(u, &m);
                CHECK(n == m && same_bits(got, want, n));
                CHECK(gguf_same_values(model, plain) &&
                      llm_model_tensor(model, 4).dtype == LLM_F32);
                CHECK(llm_trainer_step(t, tokens, targets, &a, NULL) == LLM_OK &&
                      llm_trainer_step(u, tokens, targets, &b, NULL) == LLM_OK && a.loss == b.loss);
                CHECK(same_bits(got, want, n));
                llm_trainer_free(u);
            }
            llm_trainer_free(t);
            llm_model_free(model);
            llm_model_free(plain);
            free(x);
            free(y);
        }
}
/* how far logits may be from those of the same values in f32: blocks multiply with activations of 8
 * bits, and many rows of BF16 and blocks as BF16, where the CPU can */
static double gguf_bound(llm_dtype type) {
    return llmi_dtype_is_blocks(type) ? 0.04 : type == LLM_BF16 ? 0.02 : 1e-4;
}
static double gguf_session(llm_model *plain, llm_model *model, llm_dtype type, llm_isa isa,
                           int kind) {
    enum { T = 40, S = 5 };
    const size_t V = (size_t)llm_model_config(plain)->vocab_size;
    float *want = new_floats(T * V), *got = new_floats(T * V), *again = new_floats(T * V),
          *ends = new_floats(S * V), *alone = new_floats(S * V);
    llm_session *one, *many;
    int32_t tokens[T], batch[S];
    size_t i;
    int threads, k, turn;
    double error, worst;
    plain->isa = model->isa = isa;
    random_tokens(tokens, T, (int)V, 5);
    CHECK(llm_model_logits(plain, tokens, 1, T, want, NULL) == LLM_OK);
    CHECK(llm_model_logits(model, tokens, 1, T, got, NULL) == LLM_OK);
    worst = error = relative_error(got, want, T * V);
    CHECK_MSG(error <= gguf_bound(type), "kind %d, %s, %s: logits differ by %g", kind,
              llm_dtype_name(type), llm_isa_name(isa), error);
    one = new_session(model, 0, 1, 1);
    for (i = 0; i < T; i++)
        CHECK(llm_session_eval(one, 0, tokens + i, 1, again + i * V, NULL) == LLM_OK);
    error = relative_error(again, want, T * V);
    worst = fmax(worst, error);
    CHECK_MSG(error <= gguf_bound(type), "kind %d, %s, %s: token by token %g", kind,
              llm_dtype_name(type), llm_isa_name(isa), error);
    CHECK(llm_session_rewind(one, 0, 0, NULL) == LLM_OK);      /* a prompt, then a token */
    CHECK(llm_session_eval(one, 0, tokens, T - 1, again, NULL) == LLM_OK &&
          llm_session_eval(one, 0, tokens + T - 1, 1, again + V, NULL) == LLM_OK);
    error = fmax(relative_error(again, want + (T - 2) * V, V),
                 relative_error(again + V, want + (T - 1) * V, V));
    worst = fmax(worst, error);
    CHECK_MSG(error <= gguf_bound(type), "kind %d, %s, %s: prompt %g", kind, llm_dtype_name(type),
              llm_isa_name(isa), error);
    for (threads = 1; threads <= 3; threads++) {
        model->n_threads = threads;
        CHECK(llm_model_logits(model, tokens, 1, T, again, NULL) == LLM_OK);
        CHECK_MSG(same_bits(again, got, T * V), "kind %d, %s, %s: %d threads", kind,
                  llm_dtype_name(type), llm_isa_name(isa), threads);
        many = new_session(model, 0, S, threads);
        for (k = 0; k < S; k++)
            CHECK(llm_session_eval(many, k, tokens + k, 1 + 2 * k, NULL, NULL) == LLM_OK);
        for (turn = 0; turn < 2; turn++) {
            for (k = 0; k < S; k++) batch[k] = tokens[3 * k + turn];
            CHECK(llm_session_eval_batch(many, batch, ends, NULL) == LLM_OK);
        }
        for (k = 0; k < S; k++) {              /* each of the sequences alone */
            if (threads == 1)
                CHECK(llm_session_rewind(one, 0, 0, NULL) == LLM_OK &&
                      llm_session_eval(one, 0, tokens + k, 1 + 2 * k, NULL, NULL) == LLM_OK &&
                      llm_session_eval(one, 0, tokens + 3 * k, 1, NULL, NULL) == LLM_OK &&
                      llm_session_eval(one, 0, tokens + 3 * k + 1, 1, alone + (size_t)k * V,
                                       NULL) == LLM_OK);
            CHECK_MSG(same_bits(alone + (size_t)k * V, ends + (size_t)k * V, V),
                      "kind %d, %s, %s: sequence %d of a batch", kind, llm_dtype_name(type),
                      llm_isa_name(isa), k);
        }
        llm_session_free(many);
    }
    model->n_threads = 1;
    llm_session_free(one);
    free(want); free(got); free(again); free(ends); free(alone);
    return worst;
}
TEST(gguf_types_in_use) {
    int type, isa, k;
    for (type = LLM_F16; type <= LLM_Q6_K; type++)
        for (k = 0; k < 2; k++) {
            const int kind = !k ? GGUF_GPT2 : type % 2 ? GGUF_MOE : GGUF_DENSE;
            llm_model *plain = gguf_typed(kind, LLM_F32, NULL),
                      *model = gguf_typed(kind, (llm_dtype)type, plain);
            for (isa = LLM_ISA_SCALAR; isa <= (int)llm_context_isa(NULL); isa++) {
                double worst;          /* a third of the types with each of the slower ones */
                if (isa < (int)llm_context_isa(NULL) && (type + isa + k) % 3) continue;
                worst = gguf_session(plain, model, (llm_dtype)type, (llm_isa)isa, kind);
                if (test_state.verbose)
                    printf("  kind %d, %s, %s: %.1e\n", kind, llm_dtype_name((llm_dtype)type),
                           llm_isa_name((llm_isa)isa), worst);
            }
            llm_model_free(model);
            llm_model_free(plain);
        }
}

static void run_gguf(void) {
    RUN(gguf_models);
    RUN(gguf_model_keys);
    RUN(gguf_nextn);
    RUN(gguf_yarn);
    RUN(gguf_types_of_a_file);
    RUN(gguf_halves_of_blocks);
    RUN(gguf_fallback);
    RUN(gguf_training_of_types);
    RUN(gguf_types_in_use);
}

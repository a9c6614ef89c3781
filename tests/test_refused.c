/* What public functions refuse: pointers that are NULL, values out of their range. Each call is
 * made once as it should be, so that only what is wrong with the others can be why they fail. */

/* ---- NULL ------------------------------------------------------------------------------------ */
enum { REFUSED_ROWS = 2, REFUSED_WIDTH = 8, REFUSED_FLOATS = 4096, REFUSED_POINTERS = 9 };

/* An op: `n` pointers that may not be NULL, the context first, then `outputs` that are written to;
 * a part's backward may go without its first. Those that return nothing leave result at -1. */
typedef struct refused_op {
    const char *name;
    int n, outputs, optional;
    void (*call)(void **p, int *result, llm_error *err);
} refused_op;

#define F(i) ((float *)p[i])
#define CONTEXT ((llm_context *)p[0])
#define OP(name) static void refused_##name(void **p, int *result, llm_error *err)
#define SILENT ((void)err, (void)result)

OP(layernorm) {
    SILENT;
    llm_layernorm_forward(CONTEXT, F(1), NULL, NULL, F(2), F(3), NULL, REFUSED_ROWS, REFUSED_WIDTH,
                          1e-5f);
}
OP(layernorm_backward) {
    SILENT;
    llm_layernorm_backward(CONTEXT, F(6), F(7), NULL, F(1), F(2), F(3), F(4), F(5), REFUSED_ROWS,
                           REFUSED_WIDTH);
}
OP(rmsnorm) {
    SILENT;
    llm_rmsnorm_forward(CONTEXT, F(1), NULL, F(2), F(3), REFUSED_ROWS, REFUSED_WIDTH, 1e-5f);
}
OP(rmsnorm_backward) {
    SILENT;
    llm_rmsnorm_backward(CONTEXT, F(6), F(7), F(1), F(2), F(3), F(4), REFUSED_ROWS, REFUSED_WIDTH);
}
OP(gelu) {
    SILENT;
    llm_gelu_forward(CONTEXT, F(1), F(2), REFUSED_WIDTH);
}
OP(gelu_backward) {
    SILENT;
    llm_gelu_backward(CONTEXT, F(1), F(2), F(3), REFUSED_WIDTH);
}
OP(softmax) {
    SILENT;
    llm_softmax_forward(CONTEXT, F(1), F(2), REFUSED_ROWS, REFUSED_WIDTH);
}
OP(softmax_backward) {
    SILENT;
    llm_softmax_backward(CONTEXT, F(1), F(2), F(3), REFUSED_ROWS, REFUSED_WIDTH);
}
OP(dropout) {
    SILENT;
    llm_dropout_forward(CONTEXT, F(1), F(2), REFUSED_WIDTH, 0.5f, 3);
}
OP(dropout_backward) {
    SILENT;
    llm_dropout_backward(CONTEXT, F(1), F(2), REFUSED_WIDTH, 0.5f, 3);
}
OP(swiglu) {
    SILENT;
    llm_swiglu_forward(CONTEXT, F(1), F(2), F(3), REFUSED_WIDTH);
}
OP(swiglu_backward) {
    SILENT;
    llm_swiglu_backward(CONTEXT, F(1), F(2), F(3), F(4), F(5), REFUSED_WIDTH);
}
OP(adamw) {
    const llm_adamw adamw = adamw_of(0, 0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f);
    SILENT;
    llm_adamw_update(CONTEXT, F(1), F(2), F(3), F(4), REFUSED_WIDTH, &adamw);
}
OP(clip) {
    SILENT;
    (void)llm_clip_grad_norm(CONTEXT, F(1), REFUSED_WIDTH, 0.01f);
}
OP(rope) {
    *result = (int)llm_rope_forward(CONTEXT, F(1), F(2), NULL, (const llm_config *)p[3],
                                    REFUSED_ROWS, 2, 2, err);
}
OP(rope_backward) {
    *result = (int)llm_rope_backward(CONTEXT, F(1), F(2), NULL, (const llm_config *)p[3],
                                     REFUSED_ROWS, 2, 2, err);
}

/* the parts: their config, and one pointer per tensor */
static llm_config refused_config;
static const float *refused_weights[64];
static float *refused_dweights[64];
#define CONFIG ((const llm_config *)p[4])
#define WEIGHTS ((const float *const *)p[5])

static void refused_part(llm_part part) {
    static float zeros[64][REFUSED_FLOATS];
    int i;
    memset(zeros, 0, sizeof zeros);
    for (i = 0; i < 64; i++) {
        llm_tensor t = llm_part_tensor(part, &refused_config, (size_t)i, NULL);
        const size_t n = t.n_dims ? tensor_size(&t) : 0;
        size_t k;
        CHECK(n <= REFUSED_FLOATS);
        for (k = 0; k < n; k++) zeros[i][k] = 0.1f + 0.01f * (float)(k % 7);
        refused_weights[i] = zeros[i];
        refused_dweights[i] = NULL; /* none is wanted */
    }
}
static llm_part_args refused_args(void *const *p) {
    llm_part_args a = part_args(CONFIG, 1, 2, F(3), WEIGHTS, p[2]);
    a.h = F(6);
    a.alpha = 0.1f;
    return a;
}
#define PART_FORWARD(name, part)                                                             \
    OP(name) {                                                                               \
        const llm_part_args args = refused_args(p);                                          \
        *result = (int)llm_part_forward(CONTEXT, part, F(1), &args, err);                    \
    }
#define PART_BACKWARD(name, part, dy)                                                        \
    OP(name) {                                                                               \
        const llm_part_args args = refused_args(p);                                          \
        *result = (int)llm_part_backward(CONTEXT, part, F(1), refused_dweights, dy, &args,   \
                                         err);                                               \
    }
PART_FORWARD(mla, LLM_PART_MLA)
PART_BACKWARD(mla_backward, LLM_PART_MLA, F(6))
PART_FORWARD(moe, LLM_PART_MOE)
PART_BACKWARD(moe_backward, LLM_PART_MOE, F(6))
PART_FORWARD(block, LLM_PART_DEEPSEEK_BLOCK)
PART_BACKWARD(block_backward, LLM_PART_DEEPSEEK_BLOCK, F(3))
PART_FORWARD(module, LLM_PART_MTP_MODULE)
PART_BACKWARD(module_backward, LLM_PART_MTP_MODULE, F(7))
OP(router) {
    *result = (int)llm_router_forward(CONTEXT, F(1), (int32_t *)p[2], NULL, F(3), F(5), F(6), F(7),
                                      CONFIG, 2, err);
}
OP(router_backward) {
    *result = (int)llm_router_backward(CONTEXT, F(1), NULL, F(5), F(3), (const int32_t *)p[2], F(6),
                                       F(7), CONFIG, 2, err);
}
#undef F
#undef CONTEXT
#undef OP
#undef SILENT
#undef CONFIG
#undef WEIGHTS

/* p: what the pointers are when the call is good; outputs hold 0.25 before each */
static void refused_run(const refused_op *op, void **p) {
    int missing, i;
    size_t k;
    for (missing = -1; missing < op->n; missing++) {
        void *kept = missing < 0 ? NULL : p[missing];
        int result = -1, changed = 0;
        llm_error err;
        if (op->optional && missing == 1) continue;
        memset(&err, 0, sizeof err);
        for (i = 1; i <= op->outputs; i++)
            for (k = 0; k < REFUSED_FLOATS; k++) ((float *)p[i])[k] = 0.25f;
        if (missing >= 0) p[missing] = NULL;
        op->call(p, &result, &err);
        if (missing >= 0) p[missing] = kept;
        for (i = 1; i <= op->outputs; i++)
            for (k = 0; k < REFUSED_FLOATS; k++) changed |= ((float *)p[i])[k] != 0.25f;
        CHECK_MSG(changed == (missing < 0), "%s without pointer %d: outputs%s changed", op->name,
                  missing, changed ? "" : " not");
        if (result >= 0)
            CHECK_MSG(result == (missing < 0 ? LLM_OK : LLM_ERR_ARGUMENT) &&
                          (missing < 0 || strstr(err.message, "NULL")),
                      "%s without pointer %d: %d, %s", op->name, missing, result, err.message);
    }
}

#define ROW(op, n, outputs, optional) {#op, n, outputs, optional, refused_##op}
TEST(refused_null_in_ops) {
    static const refused_op ops[] = {
        ROW(layernorm, 4, 1, 0), ROW(rmsnorm, 4, 1, 0), ROW(gelu, 3, 1, 0),
        ROW(gelu_backward, 4, 1, 0), ROW(softmax, 3, 1, 0), ROW(softmax_backward, 4, 1, 0),
        ROW(dropout, 3, 1, 0), ROW(dropout_backward, 3, 1, 0), ROW(swiglu, 4, 1, 0),
        ROW(swiglu_backward, 6, 2, 0), ROW(adamw, 5, 3, 0), ROW(clip, 2, 1, 0), ROW(rope, 4, 1, 0),
        ROW(rope_backward, 4, 1, 0)};
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_config c = part_config(0, 0);
    void *p[REFUSED_POINTERS];
    size_t k;
    int i;
    c.rope_theta = 10000.0f;
    p[0] = context;
    for (i = 1; i < REFUSED_POINTERS; i++) {
        p[i] = plain_alloc(REFUSED_FLOATS * sizeof(float));
        for (k = 0; k < REFUSED_FLOATS; k++) ((float *)p[i])[k] = 0.5f + (float)(k % 5);
    }
    for (k = 0; k < sizeof ops / sizeof ops[0]; k++) {
        void *kept = p[3];
        if (strstr(ops[k].name, "rope")) p[3] = &c;
        refused_run(&ops[k], p);
        p[3] = kept;
    }
    for (i = 1; i < REFUSED_POINTERS; i++) free(p[i]);
    llm_context_free(context);
}

/* the norms' backward passes have inputs first, and outputs that may be NULL */
TEST(refused_null_in_norms_backward) {
    static const refused_op ops[] = {ROW(layernorm_backward, 6, 0, 0),
                                     ROW(rmsnorm_backward, 5, 0, 0)};
    llm_context *context = llm_context_create(1, NULL, NULL);
    float x[8][16];
    void *p[REFUSED_POINTERS];
    int i, k, missing;
    for (k = 0; k < 2; k++)
        for (missing = -1; missing < ops[k].n; missing++) {
            int result = -1;
            p[0] = context;
            for (i = 1; i < 8; i++) {
                int j;
                for (j = 0; j < 16; j++) x[i][j] = i < 6 ? 0.5f + (float)(j % 5) : 0.0f;
                p[i] = x[i];
            }
            if (missing >= 0) p[missing] = NULL;
            ops[k].call(p, &result, NULL);
            for (i = 6; i < 8; i++) {
                const float sum = x[i][0] + x[i][1] + x[i][9];
                CHECK_MSG((sum != 0.0f) == (missing < 0), "%s without pointer %d: output %d is %g",
                          ops[k].name, missing, i, (double)sum);
            }
        }
    llm_context_free(context);
}

TEST(refused_null_in_parts) {
    static const struct {
        llm_part part;
        refused_op op;
    } parts[] = {
        {LLM_PART_MLA, ROW(mla, 6, 1, 0)}, {LLM_PART_MLA, ROW(mla_backward, 7, 1, 1)},
        {LLM_PART_MOE, ROW(moe, 6, 1, 0)}, {LLM_PART_MOE, ROW(moe_backward, 7, 1, 1)},
        {LLM_PART_DEEPSEEK_BLOCK, ROW(block, 6, 1, 0)},
        {LLM_PART_DEEPSEEK_BLOCK, ROW(block_backward, 6, 1, 1)},
        {LLM_PART_MTP_MODULE, ROW(module, 7, 1, 0)},
        {LLM_PART_MTP_MODULE, ROW(module_backward, 8, 1, 1)}, {LLM_PART_MOE, ROW(router, 8, 1, 0)},
        {LLM_PART_MOE, ROW(router_backward, 8, 1, 1)}};
#undef ROW
    llm_context *context = llm_context_create(1, NULL, NULL);
    void *p[REFUSED_POINTERS];
    size_t k, size;
    int i;
    refused_config = part_config(1, 1);
    p[0] = context;
    for (i = 1; i < REFUSED_POINTERS; i++) {
        p[i] = plain_alloc(REFUSED_FLOATS * sizeof(float));
        for (k = 0; k < REFUSED_FLOATS; k++) ((float *)p[i])[k] = 0.5f + 0.1f * (float)(k % 5);
    }
    for (k = 0; k < sizeof parts / sizeof parts[0]; k++) {
        void *kept[REFUSED_POINTERS];
        memcpy(kept, p, sizeof p);
        refused_part(parts[k].part);
        size = llm_part_saved_bytes(parts[k].part, &refused_config, 1, 2);
        CHECK(size > 0 && size <= REFUSED_FLOATS * sizeof(float));
        p[4] = &refused_config;
        if (!strstr(parts[k].op.name, "router")) p[5] = (void *)refused_weights;
        refused_run(&parts[k].op, p); /* a backward takes what the forward before it saved */
        memcpy(p, kept, sizeof p);
    }
    for (i = 1; i < REFUSED_POINTERS; i++) free(p[i]);
    llm_context_free(context);
}

/* ---- values ---------------------------------------------------------------------------------- */
static llm_config refused_deepseek(void) {
    llm_config c = deepseek_config(1, 1, 11, 8, 2);
    c.first_k_dense = 0;
    return c;
}

TEST(refused_configurations) {
    static const field_value deepseek[] = {
        WHOLE(llm_config, n_heads, -1), WHOLE(llm_config, n_heads, 65537),
        WHOLE(llm_config, q_lora_rank, -1), WHOLE(llm_config, kv_lora_rank, 0),
        WHOLE(llm_config, qk_nope_head_dim, 0), WHOLE(llm_config, v_head_dim, 8193),
        WHOLE(llm_config, qk_rope_head_dim, 0), WHOLE(llm_config, qk_rope_head_dim, 5),
        WHOLE(llm_config, mtp_depth, 5), WHOLE(llm_config, mtp_depth, -1),
        WHOLE(llm_config, n_routed_experts, -1), WHOLE(llm_config, moe_d_ffn, 0),
        WHOLE(llm_config, n_shared_experts, -1), WHOLE(llm_config, first_k_dense, 3),
        WHOLE(llm_config, n_group, 7), WHOLE(llm_config, n_group, 4), WHOLE(llm_config, n_group, 6),
        WHOLE(llm_config, topk_group, 3), WHOLE(llm_config, num_experts_per_tok, 0),
        WHOLE(llm_config, num_experts_per_tok, 4), REAL(llm_config, routed_scaling_factor, -1.0),
        REAL(llm_config, routed_scaling_factor, HUGE_VAL), REAL(llm_config, rope_theta, 1.0),
        REAL(llm_config, rope_theta, HUGE_VAL), REAL(llm_config, yarn_factor, -1.0),
        REAL(llm_config, yarn_mscale, -1.0), REAL(llm_config, yarn_mscale_all_dim, HUGE_VAL),
        REAL(llm_config, yarn_beta_fast, -1.0), REAL(llm_config, yarn_beta_slow, -1.0),
        REAL(llm_config, norm_eps, 1.0), REAL(llm_config, attn_pdrop, 1.0)};
    static const field_value gpt2[] = {
        WHOLE(llm_config, n_routed_experts, 4), WHOLE(llm_config, mtp_depth, 1),
        WHOLE(llm_config, kv_lora_rank, 4), WHOLE(llm_config, q_lora_rank, 4),
        REAL(llm_config, yarn_factor, 2.0)};
    llm_config c = refused_deepseek();
    llm_error err;
    size_t i;
    CHECK(llm_config_validate(&c, NULL) == LLM_OK);
    for (i = 0; i < sizeof deepseek / sizeof deepseek[0]; i++) {
        c = refused_deepseek();
        c.yarn_factor = 4.0f; /* so that YaRN's other fields count */
        c.yarn_original_max_seq_len = 4;
        set_field(&c, &deepseek[i]);
        REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), deepseek[i].words[0]);
        CHECK(llm_config_param_count(&c) == 0 && llm_config_active_param_count(&c) == 0);
    }
    c = refused_deepseek();
    c.yarn_factor = 4.0f;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "yarn_original_max_seq_len 0");
    c = refused_deepseek();
    c.max_seq_len = 2;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "mtp_depth 2", "max_seq_len 2");
    for (i = 0; i < sizeof gpt2 / sizeof gpt2[0]; i++) {
        c = small_config(11, 8, 8, 2, 2);
        set_field(&c, &gpt2[i]);
        REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), gpt2[i].words[0]);
    }
    c = small_config(INT_MAX - 16, 1 << 24, 1 << 20, 10000, 1);
    c.d_ffn = 1 << 24;
    if (sizeof(size_t) == 4)
        REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "address space");
    else
        CHECK(llm_config_validate(&c, NULL) == LLM_OK);
    c = refused_deepseek(); /* 10,000 layers of 65,536 experts of 3 x 2^44 weights */
    c.d_model = 1 << 20;
    c.n_layers = 10000;
    c.n_routed_experts = 65536;
    c.moe_d_ffn = 1 << 24;
    c.n_shared_experts = 0;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "address space", "d_model 1048576");
    CHECK(llm_config_mtp_param_count(&c) == 0);
    /* keys and values, of 2 layers, 8 wide, 8 long */
    c = small_config(11, 8, 8, 2, 2);
    CHECK(llm_config_cache_bytes(&c, 0, LLM_F32) == 2 * 2 * 8 * 8 * 4);
    CHECK(llm_config_cache_bytes(&c, 0, LLM_BF16) == 2 * 2 * 8 * 8 * 2);
    CHECK(llm_config_cache_bytes(&c, 5, LLM_F16) == 2 * 2 * 8 * 5 * 2);
    CHECK(llm_config_cache_bytes(&c, -1, LLM_F32) == 0 &&
          llm_config_cache_bytes(&c, 0, LLM_I32) == 0);
    c.n_layers = 0;
    CHECK(llm_config_cache_bytes(&c, 0, LLM_F32) == 0);
}

TEST(refused_trainings) {
    static const field_value values[] = {
        WHOLE(llm_train_desc, warmup_steps, -1), REAL(llm_train_desc, mtp_lambda, -2.0),
        REAL(llm_train_desc, mtp_lambda, 2e6), REAL(llm_train_desc, router_bias_speed, -2.0),
        REAL(llm_train_desc, router_aux_alpha, HUGE_VAL), WHOLE(llm_train_desc, seq_len, 2)};
    const llm_config c = refused_deepseek();
    llm_model *model = shaken_model(&c, 1, 1, NULL);
    llm_train_desc d = train_desc(1, 8, 1);
    llm_trainer *trainer;
    llm_memory memory;
    llm_error err;
    size_t i, count = 7;
    CHECK(llm_train_memory(&c, &d, &memory, NULL) == LLM_OK);
    for (i = 0; i < sizeof values / sizeof values[0]; i++) {
        d = train_desc(1, 8, 1);
        set_field(&d, &values[i]);
        REFUSED(LLM_ERR_ARGUMENT, llm_train_memory(&c, &d, &memory, &err), values[i].words[0]);
        NOT_MADE(LLM_ERR_ARGUMENT, llm_trainer_create(model, &d, &err), values[i].words[0]);
    }
    CHECK(llm_learning_rate(NULL, 3) == 0.0f);
    CHECK(!llm_trainer_gradients(NULL, &count) && count == 0);
    count = 7;
    CHECK(!llm_trainer_weights(NULL, &count) && count == 0);
    count = 7;
    CHECK(!llm_trainer_user_data(NULL, &count) && count == 0);
    CHECK(llm_trainer_gradient_square_sum(NULL, 0, 1) == 0.0);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_set_user_data(NULL, "a", 1, &err), "NULL");
    d = train_desc(1, 8, 1);
    d.router_bias_speed = LLM_OFF;
    trainer = llm_trainer_create(model, &d, &err);
    CHECK(trainer);
    if (trainer) {
        const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        int biases = 0;
        (void)llm_trainer_weights(trainer, &count);
        CHECK(llm_trainer_step(trainer, tokens, tokens, NULL, &err) == LLM_OK);
        /* nothing moves the routers' biases */
        for (i = 0; i < llm_model_tensor_count(model); i++) {
            const llm_tensor t = llm_model_tensor(model, i);
            llm_tensor fresh;
            llm_model *same;
            if (!strstr(t.name, "e_score_correction_bias")) continue;
            biases++;
            same = shaken_model(&c, 1, 1, NULL);
            fresh = llm_model_tensor(same, i);
            CHECK(!memcmp(fresh.data, t.data, tensor_size(&t) * sizeof(float)));
            llm_model_free(same);
        }
        CHECK(biases > 0);
        CHECK(llm_trainer_forward(trainer, tokens, tokens, NULL, NULL) == LLM_OK);
        CHECK(llm_trainer_backward(trainer, NULL) == LLM_OK);
        CHECK(llm_trainer_gradient_square_sum(trainer, 0, count) > 0.0);
        CHECK(llm_trainer_gradient_square_sum(trainer, count, 0) == 0.0);
        CHECK(llm_trainer_gradient_square_sum(trainer, 0, count + 1) == 0.0);
        CHECK(llm_trainer_gradient_square_sum(trainer, count + 1, 0) == 0.0);
        CHECK(llm_trainer_set_user_data(trainer, "abc", 4, NULL) == LLM_OK);
        CHECK(!strcmp((const char *)llm_trainer_user_data(trainer, &count), "abc") && count == 4);
        CHECK(llm_trainer_set_user_data(trainer, NULL, 0, NULL) == LLM_OK);
        (void)llm_trainer_user_data(trainer, &count);
        CHECK(count == 0);
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_set_user_data(trainer, NULL, 1, &err), "NULL");
    }
    llm_trainer_free(trainer);
    llm_model_free(model);
}

TEST(refused_slices) { /* that are not within the trainer's shard, values 64 to 127 */
    const llm_config c = small_config(11, 8, 8, 1, 2);
    const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    llm_train_desc d = train_desc(1, 8, 1);
    llm_trainer *trainer;
    llm_error err;
    d.shard_first = 64;
    d.shard_count = 64;
    trainer = shaken_trainer(&c, 1, &d);
    CHECK(trainer && llm_trainer_forward(trainer, tokens, tokens, NULL, NULL) == LLM_OK);
    CHECK(llm_trainer_backward(trainer, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(trainer, 63, 1, 1.0, NULL, &err), "63");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(trainer, 129, 0, 1.0, NULL, &err), "129");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(trainer, 64, 65, 1.0, NULL, &err), "64");
    CHECK(llm_trainer_update_range(trainer, 64, 64, 1.0, NULL, &err) == LLM_OK);
    drop_trainer(trainer);
}

TEST(refused_dims_of_ops) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_config c = part_config(1, 1);
    float x[64] = {0}, y[64] = {0}, lse[8] = {0}, *logits[1], *rows[1], loss = 7.0f,
          parts[1] = {7.0f}, dloss = 3.0f;
    float *none[1] = {NULL};
    const float *weights[64] = {NULL};
    const int32_t targets[4] = {1, 2, 0, 1};
    int32_t positions[2] = {3, -1};
    llm_part_args args;
    llm_error err;
    int i;
    logits[0] = x;
    rows[0] = lse;
    c.rope_theta = 10000.0f;
    /* rope: widths are 4, one head; nothing is done where there is nothing to do */
    y[0] = 9.0f;
    CHECK(llm_rope_forward(context, y, x, NULL, &c, 0, 1, 1, &err) == LLM_OK && y[0] == 9.0f);
    CHECK(llm_rope_forward(context, y, x, NULL, &c, 2, 1, 0, &err) == LLM_OK && y[0] == 9.0f);
    REFUSED(LLM_ERR_ARGUMENT, llm_rope_forward(context, y, x, NULL, &c, 2, 0, 1, &err), "T 0");
    REFUSED(LLM_ERR_ARGUMENT, llm_rope_forward(context, y, x, NULL, &c, 3, 2, 1, &err), "rows 3",
            "T 2");
    REFUSED(LLM_ERR_ARGUMENT, llm_rope_forward(context, y, x, positions, &c, 2, 1, 1, &err), "-1",
            "row 1");
    c.qk_rope_head_dim = 0;
    REFUSED(LLM_ERR_ARGUMENT, llm_rope_forward(context, y, x, NULL, &c, 2, 1, 1, &err),
            "qk_rope_head_dim");
    CHECK(y[0] == 9.0f);
    /* MTP loss */
#define MTP(b, t, v, depth)                                                                        \
  (context, &loss, parts, rows, (const float *const *)logits, targets, b, t, v, depth, 0.3f, 0.0f, \
   &err)
    CHECK(llm_mtp_loss_forward MTP(1, 4, 8, 0) == LLM_OK);
    CHECK(fabs((double)loss - log(8.0)) < 1e-6 && parts[0] == loss);
    loss = 7.0f;
    REFUSED(LLM_ERR_ARGUMENT, llm_mtp_loss_forward MTP(0, 4, 8, 0), "B 0");
    REFUSED(LLM_ERR_ARGUMENT, llm_mtp_loss_forward MTP(1, 0, 8, 0), "T 0");
    REFUSED(LLM_ERR_ARGUMENT, llm_mtp_loss_forward MTP(1, 4, 8, 4), "depth 4", "3");
    REFUSED(LLM_ERR_ARGUMENT, llm_mtp_loss_forward MTP(1, 4, 8, -1), "depth -1");
    CHECK(loss == 7.0f);
#undef MTP
    REFUSED(LLM_ERR_ARGUMENT,
            llm_mtp_loss_forward(context, NULL, parts, rows, (const float *const *)logits, targets,
                                 1, 4, 8, 0, 0.3f, 0.0f, &err),
            "loss is NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_mtp_loss_forward(context, &loss, parts, none, (const float *const *)logits, targets,
                                 1, 4, 8, 0, 0.3f, 0.0f, &err),
            "0 is NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_mtp_loss_forward(context, &loss, parts, rows, (const float *const *)none, targets,
                                 1, 4, 8, 0, 0.3f, 0.0f, &err),
            "0 is NULL");
    for (i = 0; i < 4; i++)
        REFUSED(LLM_ERR_ARGUMENT,
                llm_mtp_loss_forward(i == 0 ? NULL : context, &loss, parts, i == 1 ? NULL : rows,
                                     i == 2 ? NULL : (const float *const *)logits,
                                     i == 3 ? NULL : targets, 1, 4, 8, 0, 0.3f, 0.0f, &err),
                "NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_mtp_loss_backward(context, NULL, NULL, (const float *const *)rows,
                                  (const float *const *)logits, targets, 1, 4, 8, 0, 0.3f, 0.0f,
                                  &err),
            "dlogits is NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_mtp_loss_backward(context, logits, NULL, (const float *const *)rows,
                                  (const float *const *)logits, NULL, 1, 4, 8, 0, 0.3f, 0.0f, &err),
            "NULL");
    CHECK(llm_mtp_loss_backward(context, none, NULL, (const float *const *)rows,
                                (const float *const *)logits, targets, 1, 4, 8, 0, 0.3f, 0.0f,
                                &err) == LLM_OK); /* no gradient is wanted */
    for (i = 0; i < 4; i++) lse[i] = logf(8.0f);
    memset(y, 0, sizeof y);
    none[0] = y; /* dloss (softmax - onehot) / 4 */
    CHECK(llm_mtp_loss_backward(context, none, &dloss, (const float *const *)rows,
                                (const float *const *)logits, targets, 1, 4, 8, 0, 0.3f, 0.0f,
                                &err) == LLM_OK);
    CHECK(fabs((double)y[0] - 3.0 / 8.0 / 4.0) < 1e-6 &&
          fabs((double)y[1] - 3.0 * (1.0 / 8.0 - 1.0) / 4.0) < 1e-6);
    /* parts */
    c = part_config(1, 1);
    CHECK(llm_part_tensor(LLM_PART_MLA, NULL, 0, NULL).n_dims == 0);
    CHECK(llm_part_tensor((llm_part)(LLM_PART_MTP_MODULE + 1), &c, 0, NULL).n_dims == 0);
    CHECK(llm_part_tensor(LLM_PART_MLA, &c, 0, NULL).n_dims > 0);
    CHECK(llm_part_saved_bytes(LLM_PART_MLA, &c, 1, 1) > 0);
    CHECK(llm_part_saved_bytes(LLM_PART_MLA, &c, 0, 1) == 0 &&
          llm_part_saved_bytes(LLM_PART_MLA, &c, 1, 0) == 0);
    CHECK(llm_part_saved_bytes(LLM_PART_MLA, &c, INT_MAX, 2) == 0);
    CHECK(llm_part_saved_bytes((llm_part)-1, &c, 1, 1) == 0);
    args = part_args(&c, 0, 2, x, weights, lse);
    REFUSED(LLM_ERR_ARGUMENT, llm_part_forward(context, LLM_PART_MLA, y, &args, &err), "part: B");
    args = part_args(&c, 2, INT_MAX, x, weights, lse);
    REFUSED(LLM_ERR_ARGUMENT, llm_part_forward(context, LLM_PART_MLA, y, &args, &err), "part: T");
    args = part_args(&c, 1, 2, x, weights, lse);
    REFUSED(LLM_ERR_ARGUMENT, llm_part_forward(context, LLM_PART_MLA, y, &args, &err),
            "weight 0 of");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_router_forward(context, y, positions, NULL, x, x, x, x, &c, -1, &err),
            "router: rows");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_router_backward(context, y, NULL, x, x, positions, x, x, &c, -1, &err),
            "router: rows");
    c.n_routed_experts = 0;
    CHECK(llm_part_saved_bytes(LLM_PART_MOE, &c, 1, 1) == 0);
    REFUSED(LLM_ERR_ARGUMENT,
            llm_router_forward(context, y, positions, NULL, x, x, x, x, &c, 1, &err),
            "n_routed_experts 0");
    llm_context_free(context);
}

/* ---- files ----------------------------------------------------------------------------------- */
TEST(refused_tokenizers) {
#define REFUSED_DOC(model, more)                                                                   \
  "{\"pre_tokenizer\": " BPE_LEVEL                                                                 \
  ", \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": " model more "}"
#define REFUSED_ADDED(token) REFUSED_DOC("{\"vocab\": {}}", ", \"added_tokens\": [" token "]")
#define REFUSED_SPLIT BPE_SPLIT(BPE_NUMBERS, "Isolated", "false") ", "
#define REFUSED_FOUR REFUSED_SPLIT REFUSED_SPLIT REFUSED_SPLIT REFUSED_SPLIT
    static const struct {
        const char *text;
        llm_result code;
        const char *word;
    } whole[] = {
        {"[]", LLM_ERR_FORMAT, "not an object"},
        {"{}", LLM_ERR_UNSUPPORTED, "pre_tokenizer is missing"},
        {REFUSED_DOC("3", ""), LLM_ERR_UNSUPPORTED, "model is 3"},
        {REFUSED_DOC("{\"vocab\": []}", ""), LLM_ERR_FORMAT, "vocab is not an object"},
        {REFUSED_DOC("{}", ""), LLM_ERR_FORMAT, "vocab is not an object"},
        {REFUSED_DOC("{\"vocab\": {}}", ""), LLM_ERR_FORMAT, "merges is not an array"},
        {REFUSED_DOC("{\"vocab\": {}, \"merges\": {}}", ""), LLM_ERR_FORMAT,
         "merges is not an array"},
        {REFUSED_DOC("{\"vocab\": {}, \"merges\": [3]}", ""), LLM_ERR_FORMAT,
         "merge 0 is not two strings"},
        {REFUSED_DOC("{\"vocab\": {}, \"merges\": [[1, \"a\"]]}", ""), LLM_ERR_FORMAT,
         "merge 0 is not two strings"},
        {REFUSED_DOC("{\"vocab\": {}}", ", \"added_tokens\": {}"), LLM_ERR_FORMAT,
         "added_tokens is not an array"},
        {REFUSED_ADDED("3"), LLM_ERR_FORMAT, "has no content: 3"},
        {REFUSED_ADDED("{\"id\": 0}"), LLM_ERR_FORMAT, "has no content: {"},
        {REFUSED_ADDED("{\"id\": 0, \"content\": 3}"), LLM_ERR_FORMAT,
         "has no content: {"},
        {REFUSED_ADDED("{\"id\": -1, \"content\": \"a\"}"), LLM_ERR_FORMAT,
         "added token a: its id"},
        {REFUSED_ADDED("{\"id\": 0, \"content\": \"a\"}, {\"id\": 1, \"content\": \"a\"}"),
         LLM_ERR_FORMAT, "added token 1, a, has been given before"}};
#define REFUSED_POST                                                                               \
  "\"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "                    \
  "\"trim_offsets\": false, \"use_regex\": true}"
    static const char *const accepted[] = {
        "'version': '1.0', => ", "'normalizer': null, => ",
        REFUSED_POST " => 'post_processor': null", REFUSED_POST ", => ",
        BPE_LEVEL " => "
        BPE_LIST(REFUSED_FOUR REFUSED_FOUR REFUSED_FOUR REFUSED_FOUR
                 "{'type': 'ByteLevel', 'add_prefix_space': false, 'use_regex': false}")};
    static const char *const unsupported[] = {
        "'normalizer': null => 'normalizer': {'type': 'Sequence', 'normalizers': {}} | normalizer",
        "'normalizer': null => 'normalizer': {'type': 'Other', 'normalizers': []} | normalizer",
        BPE_LEVEL " => {'type': 'Sequence'} | pretokenizers is missing",
        BPE_LEVEL " => {'type': 'Sequence', 'pretokenizers': {}} | pretokenizers is {}",
        BPE_LEVEL " => "
        BPE_LIST("{'type': 'Split', 'pattern': {" BPE_NUMBERS "}, 'invert': false}, " BPE_LEVEL)
        " | behavior is missing",
        BPE_LEVEL " => "
        BPE_LIST(REFUSED_FOUR REFUSED_FOUR REFUSED_FOUR REFUSED_FOUR BPE_LEVEL)
        " | more than 16 patterns"};
    llm_error err;
    size_t i;
    for (i = 0; i < sizeof whole / sizeof whole[0]; i++)
        NOT_MADE(whole[i].code,
                 llm_tokenizer_load_memory(whole[i].text, strlen(whole[i].text), NULL, &err),
                 whole[i].word);
    BPE_CHANGES(LLM_OK, accepted);
    BPE_CHANGES(LLM_ERR_UNSUPPORTED, unsupported);
    NOT_MADE(LLM_ERR_ARGUMENT, llm_tokenizer_load_memory(NULL, 1, NULL, &err), "NULL");
    NOT_MADE(LLM_ERR_FORMAT, llm_tokenizer_load_memory(NULL, 0, NULL, &err), "tokenizer.json");
}

TEST(refused_by_tokenizers) {
    llm_tokenizer *t = llm_tokenizer_train("abab", 4, 260, NULL, NULL);
    char path[5000], text[8];
    int32_t ids[4] = {0};
    size_t count = 7;
    llm_error err;
    CHECK(t);
    memset(path, 'a', sizeof path);
    memcpy(path + sizeof path - 6, ".json", 6);
    CHECK(llm_tokenizer_vocab_size(NULL) == 0 && llm_tokenizer_token(NULL, "a", 1) == -1);
    CHECK(llm_tokenizer_token(t, NULL, 1) == -1 && llm_tokenizer_token(t, NULL, 0) == -1);
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_decode(NULL, ids, 1, text, 8, &count, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_decode(t, NULL, 1, text, 8, &count, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_decode(t, ids, 1, NULL, 8, &count, &err), "NULL");
    CHECK(llm_tokenizer_decode(t, NULL, 0, text, 8, &count, &err) == LLM_OK && count == 0);
    CHECK(llm_tokenizer_encode(t, NULL, 0, 1, ids, 4, &count, &err) == LLM_OK && count == 0);
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_save(NULL, "build/a.json", &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_save(t, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_save(t, path, &err), "path");
    path[sizeof path - 2] = 'x'; /* a directory, then */
    REFUSED(LLM_ERR_ARGUMENT, llm_tokenizer_save(t, path, &err), "path");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_tokenizer_load(path, NULL, &err), "path");
    path[4090] = 0; /* it has room, but no file in it */
    NOT_MADE(LLM_ERR_ARGUMENT, llm_tokenizer_load(path, NULL, &err), "path");
    llm_tokenizer_free(t);
}

/* what a text in JSON may hold, where the other files' readers do not come */
TEST(refused_configurations_in_json) {
    static const struct {
        const char *text, *word;
        llm_result code;
    } cases[] = {
        {"[]", "not a JSON object", LLM_ERR_FORMAT},
        {"3", "not a JSON object", LLM_ERR_FORMAT},
        {"{\"model_type\": \"gpt2\", \"vocab_size\": 9999999999}", "vocab_size", LLM_ERR_FORMAT}};
    size_t i, size;
    llm_model *model = files_small(1, 3);
    char *file = files_pack_model(model, &size);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        files_refused(cases[i].text, strlen(cases[i].text), file, size, 1, cases[i].code,
                      cases[i].word, cases[i].text);
    free(file);
    llm_model_free(model);
}

#ifndef LLM_NO_STDIO
/* A checkpoint whose hash is right, but not what it holds. */
static llm_result refused_checkpoint(llm_trainer *t, llmi_piece *pieces, const char *version,
                                     llm_error *err) {
    llmi_text configuration;
    llm_result result;
    memset(&configuration, 0, sizeof configuration);
    configuration.data = (char *)pieces[0].data;
    configuration.size = pieces[0].size;
    CHECK(llmi_pieces_write("build/refused.ckpt", "trainer", pieces, LLMI_N_CKPT, &configuration,
                            err) == LLM_OK);
    if (version) { /* of one byte */
        size_t n;
        char *file = files_read("build", "refused.ckpt", &n),
             *at = strstr(file + 8, "\"version\":\"1\"");
        CHECK(at);
        if (at) at[11] = version[0];
        files_write("build", "refused.ckpt", file, n);
        free(file);
    }
    memset(err, 0, sizeof *err);
    result = llm_trainer_load(t, "build/refused.ckpt", err);
    remove("build/refused.ckpt");
    return result;
}
TEST(refused_checkpoints) {
    llm_trainer *t = fuzz_trainer(1), *other = fuzz_trainer(2), *untouched = fuzz_trainer(1);
    int64_t state[LLMI_N_STATE] = {0};
    llmi_piece pieces[LLMI_N_CKPT], changed[LLMI_N_CKPT];
    llmi_text configuration;
    char *large = (char *)calloc(1, LLMI_HASH_PART + 1);
    llm_error err;
    memset(&configuration, 0, sizeof configuration);
    llmi_trainer_describe(&configuration, other);
    llmi_trainer_pieces(other, pieces, 0);
    pieces[LLMI_CKPT_CONFIGURATION].data = configuration.data;
    pieces[LLMI_CKPT_CONFIGURATION].size = configuration.size;
    pieces[LLMI_CKPT_STATE].data = state;
    pieces[LLMI_CKPT_STATE].size = sizeof state;
    memcpy(changed, pieces, sizeof pieces);
    changed[LLMI_CKPT_STATE].size -= 8;
    REFUSED(LLM_ERR_FORMAT, refused_checkpoint(t, changed, NULL, &err),
            "a state of 32 bytes, not 40");
    memcpy(changed, pieces, sizeof pieces);
    changed[LLMI_CKPT_M].size -= 4;
    REFUSED(LLM_ERR_FORMAT, refused_checkpoint(t, changed, NULL, &err), "m has");
    memcpy(changed, pieces, sizeof pieces);
    changed[LLMI_CKPT_GRADIENTS].data = other->gradients;
    changed[LLMI_CKPT_GRADIENTS].size = 4;
    REFUSED(LLM_ERR_FORMAT, refused_checkpoint(t, changed, NULL, &err),
            "gradients has 4 bytes, not 0");
    memcpy(changed, pieces, sizeof pieces);
    changed[LLMI_CKPT_CONFIGURATION].data = large;
    changed[LLMI_CKPT_CONFIGURATION].size = LLMI_HASH_PART + 1;
    REFUSED(LLM_ERR_FORMAT, refused_checkpoint(t, changed, NULL, &err),
            "a configuration of 65537 bytes");
    changed[LLMI_CKPT_CONFIGURATION].size = 0; /* none of the fields */
    REFUSED(LLM_ERR_FORMAT, refused_checkpoint(t, changed, NULL, &err), "no such field");
    REFUSED(LLM_ERR_UNSUPPORTED, refused_checkpoint(t, pieces, "2", &err), "version other than 1");
    CHECK(resume_equal(t, untouched));
    CHECK_MSG(refused_checkpoint(t, pieces, NULL, &err) == LLM_OK, "%s", err.message);
    CHECK(resume_equal(t, other));
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_load(NULL, "build/refused.ckpt", &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_save(t, NULL, &err), "NULL");
    llmi_text_free(&configuration);
    free(large);
    drop_trainer(t);
    drop_trainer(other);
    drop_trainer(untouched);
}
#endif

/* ---- sessions -------------------------------------------------------------------------------- */
TEST(refused_drafts) { /* where the session keeps nothing for them */
    const llm_config c = refused_deepseek();
    llm_model *model = shaken_model(&c, 1, 1, NULL);
    llm_session *s = new_session(model, 0, 1, 1);
    llm_generate_desc d;
    llm_sampling sampling;
    const int32_t prompt = 1, history[2] = {1, 1};
    int32_t token = -1, other = -1;
    float logits[4] = {1.0f, 4.0f, 3.0f, 0.0f};
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_error err;
    memset(&d, 0, sizeof d);
    d.speculate = 1;
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, &prompt, 1, &d, &token, 1, NULL, &err), "speculate 1",
            "without");
    CHECK(token == -1 && llm_session_length(s, 0) == 0);
    memset(&sampling, 0, sizeof sampling);
    sampling.repetition_penalty = 1.0f; /* changes nothing: 4 stays the largest */
    CHECK(llm_sample(context, &token, logits, 4, &sampling, history, 2, 0, 0, &err) == LLM_OK &&
          token == 1);
    sampling.repetition_penalty = 2.0f; /* 4 / 2 is below 3 */
    CHECK(llm_sample(context, &token, logits, 4, &sampling, history, 2, 0, 0, &err) == LLM_OK &&
          token == 2);
    sampling.repetition_penalty = 0.0f;
    sampling.temperature = 1.0f;
    sampling.top_p = 1.0f; /* is off */
    CHECK(llm_sample(context, &token, logits, 4, &sampling, NULL, 0, 0, 3, &err) == LLM_OK);
    sampling.top_p = 0.0f;
    CHECK(llm_sample(context, &other, logits, 4, &sampling, NULL, 0, 0, 3, &err) == LLM_OK &&
          token == other);
    llm_context_free(context);
    llm_session_free(s);
    llm_model_free(model);
}

static void run_refused(void) {
    RUN(refused_null_in_ops);
    RUN(refused_null_in_norms_backward);
    RUN(refused_null_in_parts);
    RUN(refused_configurations);
    RUN(refused_trainings);
    RUN(refused_slices);
    RUN(refused_dims_of_ops);
    RUN(refused_tokenizers);
    RUN(refused_by_tokenizers);
    RUN(refused_configurations_in_json);
#ifndef LLM_NO_STDIO
    RUN(refused_checkpoints);
#endif
    RUN(refused_drafts);
}

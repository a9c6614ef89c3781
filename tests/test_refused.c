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
    SILENT;
    llm_adamw_update(CONTEXT, F(1), F(2), F(3), F(4), REFUSED_WIDTH, 1, 0.1f, 0.9f, 0.95f, 1e-8f,
                     0.1f, 1.0f);
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
OP(mla) { *result = (int)llm_mla_forward(CONTEXT, F(1), p[2], F(3), WEIGHTS, CONFIG, 1, 2, err); }
OP(mla_backward) {
    *result = (int)llm_mla_backward(CONTEXT, F(1), refused_dweights, F(6), p[2], F(3), WEIGHTS,
                                    CONFIG, 1, 2, err);
}
OP(moe) {
    *result =
        (int)llm_moe_forward(CONTEXT, F(1), NULL, NULL, p[2], F(3), WEIGHTS, CONFIG, 1, 2, err);
}
OP(moe_backward) {
    *result = (int)llm_moe_backward(CONTEXT, F(1), refused_dweights, F(6), 0.1f, p[2], F(3),
                                    WEIGHTS, CONFIG, 1, 2, err);
}
OP(block) {
    *result =
        (int)llm_deepseek_block_forward(CONTEXT, F(1), p[2], F(3), WEIGHTS, CONFIG, 1, 2, err);
}
OP(block_backward) {
    *result = (int)llm_deepseek_block_backward(CONTEXT, F(1), refused_dweights, F(3), p[2], WEIGHTS,
                                               CONFIG, 1, 2, err);
}
OP(module) {
    *result =
        (int)llm_mtp_module_forward(CONTEXT, F(1), p[2], F(3), F(6), WEIGHTS, CONFIG, 1, 2, err);
}
OP(module_backward) {
    *result = (int)llm_mtp_module_backward(CONTEXT, F(1), NULL, refused_dweights, F(7), p[2], F(3),
                                           F(6), WEIGHTS, CONFIG, 1, 2, err);
}
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

TEST(refused_null_in_ops) {
    static const refused_op ops[] = {{"layernorm", 4, 1, 0, refused_layernorm},
                                     {"rmsnorm", 4, 1, 0, refused_rmsnorm},
                                     {"gelu", 3, 1, 0, refused_gelu},
                                     {"gelu_backward", 4, 1, 0, refused_gelu_backward},
                                     {"softmax", 3, 1, 0, refused_softmax},
                                     {"softmax_backward", 4, 1, 0, refused_softmax_backward},
                                     {"dropout", 3, 1, 0, refused_dropout},
                                     {"dropout_backward", 3, 1, 0, refused_dropout_backward},
                                     {"swiglu", 4, 1, 0, refused_swiglu},
                                     {"swiglu_backward", 6, 2, 0, refused_swiglu_backward},
                                     {"adamw", 5, 3, 0, refused_adamw},
                                     {"clip_grad_norm", 2, 1, 0, refused_clip},
                                     {"rope", 4, 1, 0, refused_rope},
                                     {"rope_backward", 4, 1, 0, refused_rope_backward}};
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
    static const refused_op ops[] = {{"layernorm_backward", 6, 0, 0, refused_layernorm_backward},
                                     {"rmsnorm_backward", 5, 0, 0, refused_rmsnorm_backward}};
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
    } parts[] = {{LLM_MLA, {"mla", 6, 1, 0, refused_mla}},
                 {LLM_MLA, {"mla_backward", 7, 1, 1, refused_mla_backward}},
                 {LLM_MOE, {"moe", 6, 1, 0, refused_moe}},
                 {LLM_MOE, {"moe_backward", 7, 1, 1, refused_moe_backward}},
                 {LLM_DEEPSEEK_BLOCK, {"block", 6, 1, 0, refused_block}},
                 {LLM_DEEPSEEK_BLOCK, {"block_backward", 6, 1, 1, refused_block_backward}},
                 {LLM_MTP_MODULE, {"module", 7, 1, 0, refused_module}},
                 {LLM_MTP_MODULE, {"module_backward", 8, 1, 1, refused_module_backward}},
                 {LLM_MOE, {"router", 8, 1, 0, refused_router}},
                 {LLM_MOE, {"router_backward", 8, 1, 1, refused_router_backward}}};
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

static void run_refused(void) {
    RUN(refused_null_in_ops);
    RUN(refused_null_in_norms_backward);
    RUN(refused_null_in_parts);
}

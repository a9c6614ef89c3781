/* modules.c -- the parts of a DeepSeek-V3 model, one by one, on public ops.
 *
 *     cc -O2 examples/modules.c -o modules -lm && ./modules
 *
 * 1. latent attention, what its cache takes, and that multi-head attention would take more;
 * 2. the router, and how a bias without a gradient evens the experts' loads out;
 * 3. an MTP module that learns, one step of AdamW after the other. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"

enum { B = 4, T = 16, C = 64, ROWS = B * T, E = 8, K = 2, TENSORS = 64, FLOATS = 1 << 19 };

static llm_context *context;
static llm_config config;
static float x[ROWS * C], y[ROWS * C];               /* what goes into a part, and comes out */
static float w[FLOATS], dw[FLOATS];                  /* the weights of a part, their gradient */
static float *weights[TENSORS], *dweights[TENSORS];  /* where each of its tensors begins in them */

static void fill(float *numbers, size_t n, float size, uint64_t seed) {
    for (size_t i = 0; i < n; i++) numbers[i] = size * llm_random_normal(seed, i);
}

/* a part's weights: matrices N(0, 0.1), norms 1, biases 0; -> how many floats */
static size_t fresh_weights(llm_part part) {
    size_t i, n = 0;
    for (i = 0; i < TENSORS; i++) {
        char name[72];
        const llm_tensor t = llm_part_tensor(part, &config, i, name);
        const size_t size = (size_t)(t.dims[0] * (t.n_dims > 1 ? t.dims[1] : 1));
        if (t.n_dims == 0) break;
        NEED(n + size <= FLOATS, "%s: no room for it", name);
        weights[i] = w + n;
        dweights[i] = dw + n;
        n += size;
        fill(weights[i], size, t.n_dims > 1 ? 0.1f : 0.0f, i);
        for (size_t j = 0; t.n_dims == 1 && strstr(name, "norm") && j < size; j++)
            weights[i][j] = 1.0f;
        if (i < 9)
            printf("   %-36s (%d%s%.0d)\n", name + strlen("model.layers.0."), (int)t.dims[0],
                   t.n_dims > 1 ? "," : "", (int)t.dims[1]);
    }
    if (i > 9) printf("   and %d more\n", (int)i - 9);
    return n;
}

static void attention(void) {
    void *saved = cli_alloc(llm_part_saved_bytes(LLM_PART_MLA, &config, B, T), 1);
    const char *name;
    printf("1. latent attention (MLA). Its tensors:\n");
    fresh_weights(LLM_PART_MLA);
    fill(x, ROWS * C, 1.0f, 1);
    const llm_part_args args = {.config = &config, .B = B, .T = T, .x = x,
                                .weights = (const float *const *)weights, .saved = saved};
    TRY(!llm_part_forward(context, LLM_PART_MLA, y, &args, &error));
    free(saved);
    printf("   y[0] = %.4f %.4f %.4f ...\n", (double)y[0], (double)y[1], (double)y[2]);
    printf("   A cache keeps kv_lora_rank + rope values per position and layer, not 2 d_model:\n");
    for (int i = 0; (name = llm_config_preset_name(i)); i++) {
        llm_config preset;
        if (llm_config_preset(&preset, name, NULL) || preset.arch != LLM_ARCH_DEEPSEEK_V3) continue;
        const double cache = (double)llm_config_cache_bytes(&preset, 1, LLM_F32),
                     plain = 8.0 * preset.n_layers * preset.d_model;
        printf("   %-18s %7.1f KiB per position, multi-head of that width %7.1f KiB: %4.1f times\n",
               name, cache / 1024.0, plain / 1024.0, plain / cache);
    }
}

static void router(void) {
    static float gate[E * C], bias[E], weight[ROWS * K], scores[ROWS * E], loads[E];
    int32_t choice[ROWS * K];
    fill(x, ROWS * C, 1.0f, 2);
    fill(gate, E * C, 0.3f, 3);
    for (int i = 0; i < 2 * C; i++) gate[i] += 0.1f;             /* two are liked by all */
    for (int i = 0; i < ROWS * C; i++) x[i] += 0.1f;
    printf("\n2. the router: %d of %d experts for each of %d tokens, by sigmoid(x gate) + bias\n",
           K, E, ROWS);
    for (int step = 0; step <= 60; step++) {
        TRY(!llm_router_forward(context, weight, choice, loads, scores, x, gate, bias, &config,
                                ROWS, &error));
        if (step % 20 == 0) {
            printf("   after %2d updates of the bias, tokens per expert:", step);
            for (int e = 0; e < E; e++) printf(" %3.0f", (double)loads[e]);
            printf("\n");
        }
        for (int e = 0; e < E; e++)    /* gamma sign(mean - load): no gradient */
            bias[e] += loads[e] < ROWS * K / E ? 0.01f : loads[e] > ROWS * K / E ? -0.01f : 0.0f;
    }
    printf("   token 0 goes to experts %d and %d, with weights %.3f and %.3f\n", (int)choice[0],
           (int)choice[1], (double)weight[0], (double)weight[1]);
}

/* to predict one row of numbers from another: the squared error falls */
static void mtp(void) {
    static float h[ROWS * C], goal[ROWS * C], dy[ROWS * C], m[FLOATS], v[FLOATS];
    void *saved = cli_alloc(llm_part_saved_bytes(LLM_PART_MTP_MODULE, &config, B, T), 1);
    printf("\n3. an MTP module: a projection of [embedding | hidden state], then a block. Its "
           "tensors:\n");
    const size_t n = fresh_weights(LLM_PART_MTP_MODULE);
    fill(x, ROWS * C, 1.0f, 4);
    fill(h, ROWS * C, 1.0f, 5);
    fill(goal, ROWS * C, 0.5f, 6);
    const llm_part_args args = {.config = &config, .B = B, .T = T, .x = x, .h = h,
                                .weights = (const float *const *)weights, .saved = saved};
    for (int step = 1; step <= 100; step++) {
        const llm_adamw adamw = {.step = step - 1, .learning_rate = 0.005f, .beta1 = 0.9f,
                                 .beta2 = 0.95f, .eps = 1e-8f, .grad_scale = 1.0f};
        double loss = 0.0;
        TRY(!llm_part_forward(context, LLM_PART_MTP_MODULE, y, &args, &error));
        for (int i = 0; i < ROWS * C; i++) {
            dy[i] = 2.0f * (y[i] - goal[i]) / (ROWS * C);
            loss += (double)((y[i] - goal[i]) * (y[i] - goal[i])) / (ROWS * C);
        }
        memset(dw, 0, n * sizeof *dw);
        TRY(!llm_part_backward(context, LLM_PART_MTP_MODULE, NULL, dweights, dy, &args, &error));
        llm_adamw_update(context, w, m, v, dw, n, &adamw);
        if (step == 1 || step % 25 == 0)
            printf("   step %3d of %lu parameters: squared error %.4f\n", step, (unsigned long)n,
                   loss);
    }
    free(saved);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        printf("usage: %s       (without options)\n", argv[0]);
        return strcmp(argv[1], "--help") && strcmp(argv[1], "-h");
    }
    cli_program = "modules";
    TRY(context = llm_context_create(0, NULL, &error));
    TRY(!llm_config_preset(&config, "deepseek-tiny", &error));
    config.d_model = C;
    attention();
    router();
    mtp();
    llm_context_free(context);
    cli_check_output();
    return 0;
}

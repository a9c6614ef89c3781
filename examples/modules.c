/* modules.c -- the parts of a DeepSeek-V3 model, one by one, on public ops.
 *
 *     cc -O2 examples/modules.c -o modules -lm && ./modules
 *
 * 1. latent attention, what its cache takes, and that multi-head attention would take more;
 * 2. the router, and how a bias without a gradient evens the experts' loads out;
 * 3. an MTP module that learns, one step of AdamW after the other. */
#define LLM_IMPLEMENTATION
#include "../llm.h"

enum { B = 4, T = 16, C = 64, ROWS = B * T, MOST = 64 };

#define TRY(call) /* ends the program where an op fails */ \
    do { if ((call) != LLM_OK) { fprintf(stderr, "modules: %s\n", error.message); exit(1); } } while (0)
static llm_error error;
static llm_context *context;
static llm_config config;

static float *numbers(size_t n, float size, uint64_t seed) {
    float *x = (float *)malloc(n * sizeof *x);
    size_t i;
    if (!x) exit(1);
    for (i = 0; i < n; i++) x[i] = size * llm_random_normal(seed, i);
    return x;
}

/* a part's weights: matrices N(0, 0.1), norms 1, biases 0; -> how many tensors */
static int fresh_weights(llm_part part, float **weights, size_t *sizes) {
    char name[72];
    size_t i, j;
    for (i = 0; i < MOST; i++) {
        const llm_tensor t = llm_part_tensor(part, &config, i, name);
        if (t.n_dims == 0) break;
        sizes[i] = (size_t)(t.dims[0] * (t.n_dims > 1 ? t.dims[1] : 1));
        weights[i] = numbers(sizes[i], t.n_dims > 1 ? 0.1f : 0.0f, i);
        for (j = 0; t.n_dims == 1 && strstr(name, "norm") && j < sizes[i]; j++) weights[i][j] = 1.0f;
        if (i < 9)
            printf("   %-36s (%d%s%.0d)\n", name + strlen("model.layers.0."), (int)t.dims[0],
                   t.n_dims > 1 ? "," : "", (int)t.dims[1]);
    }
    if (i > 9) printf("   and %d more\n", (int)i - 9);
    return (int)i;
}

static void attention(void) {
    float *weights[MOST], *x = numbers(ROWS * C, 1.0f, 1), *y = numbers(ROWS * C, 0.0f, 0);
    void *saved = malloc(llm_part_saved_bytes(LLM_PART_MLA, &config, B, T));
    size_t sizes[MOST];
    llm_part_args args = {&config, B, T};
    llm_config preset;
    int i, n;
    printf("1. latent attention (MLA). Its tensors:\n");
    n = fresh_weights(LLM_PART_MLA, weights, sizes);
    args.x = x;
    args.weights = (const float *const *)weights;
    args.saved = saved;
    TRY(llm_part_forward(context, LLM_PART_MLA, y, &args, &error));
    printf("   y[0] = %.4f %.4f %.4f ...\n", (double)y[0], (double)y[1], (double)y[2]);
    printf("   A cache keeps kv_lora_rank + rope values per position and layer, not 2 d_model:\n");
    for (i = 0; llm_config_preset_name(i); i++) {
        const char *name = llm_config_preset_name(i);
        if (llm_config_preset(&preset, name, NULL) || preset.arch != LLM_ARCH_DEEPSEEK_V3) continue;
        printf("   %-18s %7.1f KiB per position, multi-head of that width %7.1f KiB: %4.1f times\n",
               name, (double)llm_config_cache_bytes(&preset, 1, LLM_F32) / 1024.0,
               8.0 * preset.n_layers * preset.d_model / 1024.0,
               8.0 * preset.n_layers * preset.d_model /
                   (double)llm_config_cache_bytes(&preset, 1, LLM_F32));
    }
    while (n--) free(weights[n]);
    free(x);
    free(y);
    free(saved);
}

static void router(void) {
    enum { E = 8 };
    float *x = numbers(ROWS * C, 1.0f, 2), *gate = numbers(E * C, 0.3f, 3), *bias = numbers(E, 0.0f, 0);
    float *weight = numbers(ROWS * 2, 0.0f, 0), *scores = numbers(ROWS * E, 0.0f, 0), loads[E];
    int32_t choice[ROWS * 2];
    int step, e;
    for (e = 0; e < C; e++) gate[e] += 0.1f, gate[C + e] += 0.1f;
    for (e = 0; e < ROWS * C; e++) x[e] += 0.1f;
    printf("\n2. the router: %d of %d experts for each of %d tokens, by sigmoid(x gate) + bias\n",
           config.num_experts_per_tok, E, ROWS);
    for (step = 0; step <= 60; step++) {
        TRY(llm_router_forward(context, weight, choice, loads, scores, x, gate, bias, &config, ROWS,
                               &error));
        if (step % 20 == 0) {
            printf("   after %2d updates of the bias, tokens per expert:", step);
            for (e = 0; e < E; e++) printf(" %3.0f", (double)loads[e]);
            printf("\n");
        }
        for (e = 0; e < E; e++)        /* gamma sign(mean - load): no gradient */
            bias[e] += loads[e] < ROWS * 2 / E ? 0.01f : loads[e] > ROWS * 2 / E ? -0.01f : 0.0f;
    }
    printf("   token 0 goes to experts %d and %d, with weights %.3f and %.3f\n", (int)choice[0],
           (int)choice[1], (double)weight[0], (double)weight[1]);
    free(x);
    free(gate);
    free(bias);
    free(weight);
    free(scores);
}

/* to predict one row of numbers from another: the squared error falls */
static void mtp(void) {
    float *weights[MOST], *dweights[MOST], *m[MOST], *v[MOST];
    float *e = numbers(ROWS * C, 1.0f, 4), *h = numbers(ROWS * C, 1.0f, 5);
    float *goal = numbers(ROWS * C, 0.5f, 6), *y = numbers(ROWS * C, 0.0f, 0), *dy = numbers(ROWS * C, 0.0f, 0);
    void *saved = malloc(llm_part_saved_bytes(LLM_PART_MTP_MODULE, &config, B, T));
    size_t sizes[MOST], j;
    llm_part_args args = {&config, B, T};
    int i, n, step;
    printf("\n3. an MTP module: a projection of [embedding | hidden state], then a block. Its tensors:\n");
    n = fresh_weights(LLM_PART_MTP_MODULE, weights, sizes);
    for (i = 0; i < n; i++) {
        m[i] = numbers(sizes[i], 0.0f, 0);
        v[i] = numbers(sizes[i], 0.0f, 0);
        dweights[i] = numbers(sizes[i], 0.0f, 0);
    }
    args.x = e;
    args.h = h;
    args.weights = (const float *const *)weights;
    args.saved = saved;
    for (step = 1; step <= 100; step++) {
        const llm_adamw adamw = {step - 1, 0.005f, 0.9f, 0.95f, 1e-8f, 0.0f, 1.0f};
        double loss = 0.0;
        TRY(llm_part_forward(context, LLM_PART_MTP_MODULE, y, &args, &error));
        for (i = 0; i < ROWS * C; i++) {
            dy[i] = 2.0f * (y[i] - goal[i]) / (ROWS * C);
            loss += (double)((y[i] - goal[i]) * (y[i] - goal[i])) / (ROWS * C);
        }
        for (i = 0; i < n; i++) memset(dweights[i], 0, sizes[i] * sizeof(float));
        TRY(llm_part_backward(context, LLM_PART_MTP_MODULE, NULL, dweights, dy, &args, &error));
        for (i = 0, j = 0; i < n; j += sizes[i++])
            llm_adamw_update(context, weights[i], m[i], v[i], dweights[i], sizes[i], &adamw);
        if (step == 1 || step % 25 == 0)
            printf("   step %3d of %lu parameters: squared error %.4f\n", step, (unsigned long)j, loss);
    }
    for (i = 0; i < n; i++) {
        free(weights[i]);
        free(dweights[i]);
        free(m[i]);
        free(v[i]);
    }
    free(e);
    free(h);
    free(goal);
    free(y);
    free(dy);
    free(saved);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        printf("usage: %s       (without options)\n", argv[0]);
        return strcmp(argv[1], "--help") && strcmp(argv[1], "-h");
    }
    if (!(context = llm_context_create(0, NULL, &error))) TRY(error.code);
    TRY(llm_config_preset(&config, "deepseek-tiny", &error));
    config.d_model = C;
    attention();
    router();
    mtp();
    llm_context_free(context);
    if (!fflush(stdout) && !ferror(stdout)) return 0;
    perror("modules: standard output");
    return 1;
}

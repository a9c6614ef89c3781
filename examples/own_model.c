/* own_model.c -- a language model of one's own, out of the parts that llm.h's models are made of.
 *
 *     cc -O2 examples/own_model.c -o own_model -lm
 *     ./own_model shakespeare.txt                          (without a file: llm.h)
 *
 * The neural probabilistic language model (Bengio et al., JMLR 3, 2003, eq. 1) on bytes: the last N
 * are looked up in a table, and their vectors, side by side, go through two linear layers with a
 * GELU between them to the logits of the next byte. Forward and backward are written out by hand.
 * Expect a loss that falls from ln 256 = 5.5 to less than 2 nats per byte within seconds, and a
 * sample that has the look of the file, without the sense. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"

enum {
    STEPS = 3000,
    B = 256,                           /* examples of a step              */
    N = 16,                            /* bytes that the model looks at   */
    E = 16,                            /* width of a byte's vector        */
    H = 256,                           /* width of the hidden layer       */
    V = 256,                           /* bytes there are                 */
    TABLE = 0,                         /* (V, E): where each parameter starts among all */
    WEIGHT1 = TABLE + V * E,           /* (H, N E)                        */
    BIAS1 = WEIGHT1 + H * N * E,       /* (H)                             */
    WEIGHT2 = BIAS1 + H,               /* (V, H)                          */
    BIAS2 = WEIGHT2 + V * H,           /* (V)                             */
    N_PARAMETERS = BIAS2 + V
};
static float w[N_PARAMETERS], dw[N_PARAMETERS];                      /* parameters, gradient */
static float adam_m[N_PARAMETERS], adam_v[N_PARAMETERS];
static int32_t tokens[B * N], targets[B];
static float x[B * N * E], h[B * H], g[B * H], logits[B * V], lse[B];
static float dx[B * N * E], dh[B * H], dg[B * H], dlogits[B * V];

/* tokens (rows,N) -> logits (rows,V) */
static void forward(llm_context *c, int rows) {
    TRY(!llm_embedding_forward(c, x, tokens, w + TABLE, rows * N, V, E, &error));
    TRY(!llm_linear_forward(c, h, x, w + WEIGHT1, w + BIAS1, rows, N * E, H));
    llm_gelu_forward(c, g, h, (size_t)rows * H);
    TRY(!llm_linear_forward(c, logits, g, w + WEIGHT2, w + BIAS2, rows, H, V));
}

/* the forward's lines from last to first: dw = gradient of the mean loss, which is returned */
static float backward(llm_context *c) {
    float loss = 0;
    memset(dw, 0, sizeof dw);          /* backwards add */
    memset(dx, 0, sizeof dx);
    memset(dh, 0, sizeof dh);
    memset(dg, 0, sizeof dg);
    memset(dlogits, 0, sizeof dlogits);
    TRY(!llm_cross_entropy_forward(c, &loss, NULL, lse, logits, targets, B, V, 0,
                                   LLM_REDUCTION_MEAN, &error));
    TRY(!llm_cross_entropy_backward(c, dlogits, NULL, lse, logits, targets, B, V, 0,
                                    LLM_REDUCTION_MEAN, &error));
    TRY(!llm_linear_backward(c, dg, dw + WEIGHT2, dw + BIAS2, dlogits, g, w + WEIGHT2, B, H, V));
    llm_gelu_backward(c, dh, dg, h, (size_t)B * H);
    TRY(!llm_linear_backward(c, dx, dw + WEIGHT1, dw + BIAS1, dh, x, w + WEIGHT1, B, N * E, H));
    TRY(!llm_embedding_backward(c, dw + TABLE, dx, tokens, B * N, V, E, &error));
    return loss;
}

static cli_option options[] = {CLI_END};

int main(int argc, char **argv) {
    char **args = argv + (argc > 0);
    llm_context *c;
    double sum = 0;
    size_t size;
    int step, b, i;

    cli_program = "own_model";
    const int n_files = cli_read_options(options, args,
                                         "usage: own_model [FILE]       (without a file: llm.h)\n");
    if (n_files < 0) return 0;
    const char *path = n_files ? args[0] : "llm.h";
    unsigned char *const text = (unsigned char *)cli_read(path, &size);
    NEED(size > N, "%s: too short", path);
    if (size > 1 << 20) size = 1 << 20;                        /* of a longer file, the start */
    TRY(c = llm_context_create(1, NULL, &error));              /* too little work for two threads */

    for (i = 0; i < N_PARAMETERS; i++) {                       /* 1/sqrt of the inputs, no biases */
        const float scale = i < WEIGHT1 ? 0.1f : i < BIAS1 ? 1 / sqrtf(N * E) : 1 / sqrtf(H);
        const int is_bias = (i >= BIAS1 && i < WEIGHT2) || i >= BIAS2;
        w[i] = is_bias ? 0 : scale * llm_random_normal(1, (uint64_t)i);
    }
    const llm_train_desc schedule = {
        .learning_rate = 3e-3f, .warmup_steps = 50, .max_steps = STEPS};
    llm_adamw adamw = {.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.01f,
                       .grad_scale = 1};

    for (step = 1; step <= STEPS; step++) {
        for (b = 0; b < B; b++) {
            const uint64_t at = llm_random(2, (uint64_t)(step * B + b)) % (size - N);
            for (i = 0; i < N; i++) tokens[b * N + i] = text[at + (uint64_t)i];
            targets[b] = text[at + N];
        }
        forward(c, B);
        sum += (double)backward(c);
        llm_clip_grad_norm(c, dw, N_PARAMETERS, 1);
        adamw.step = step - 1;
        adamw.learning_rate = llm_learning_rate(&schedule, adamw.step);
        llm_adamw_update(c, w, adam_m, adam_v, dw, N_PARAMETERS, &adamw);
        if (step == 1 || step % 250 == 0) {
            const double mean = sum / (step == 1 ? 1 : 250);
            printf("step %4d  loss %.3f nats, %.3f bits per byte\n", step, mean, mean / log(2));
            fflush(stdout);
            sum = 0;
        }
    }

    const llm_sampling sampling = {.temperature = 0.7f};
    for (i = 0; i < N; i++) tokens[i] = text[i];               /* it goes on from the start */
    printf("\n%.*s", N, (const char *)text);
    for (step = 0; step < 600; step++) {
        int32_t next;
        forward(c, 1);
        TRY(!llm_sample(c, &next, logits, V, &sampling, NULL, 0, 0, (uint64_t)step, &error));
        putchar((int)next);
        for (i = 1; i < N; i++) tokens[i - 1] = tokens[i];
        tokens[N - 1] = next;
    }
    printf("\n");
    llm_context_free(c);
    free(text);
    cli_check_output();
    return 0;
}

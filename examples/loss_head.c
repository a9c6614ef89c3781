/* loss_head.c -- the head of a language model and its losses, one by one, on public ops.
 *
 *     cc -O2 examples/loss_head.c -o loss_head -lm && ./loss_head
 *
 * A head turns hidden states (rows,C) into logits (rows,V), and the loss compares these with the
 * tokens that follow. Here the hidden states are random, and the head learns targets from them. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"

enum { B = 4, T = 12, C = 32, V = 50, DEPTH = 2, ROWS = B * T };

static llm_context *context;
static int32_t targets[ROWS];

static void fill(float *numbers, size_t n, float size, uint64_t seed) {
    for (size_t i = 0; i < n; i++) numbers[i] = size * llm_random_normal(seed, i);
}

/* one loss of each reduction, and what can be read off it */
static void language_model_loss(const float *logits) {
    float mean, sum, smooth, each[ROWS], logit_gradient[ROWS * V] = {0}, lse[ROWS];
    int valid = 0, correct = 0;
    double total = 0.0;
    TRY(!llm_cross_entropy_forward(context, &mean, each, lse, logits, targets, ROWS, V, 0.0f,
                                   LLM_REDUCTION_MEAN, &error));
    TRY(!llm_cross_entropy_forward(context, &sum, NULL, NULL, logits, targets, ROWS, V, 0.0f,
                                   LLM_REDUCTION_SUM, &error));
    TRY(!llm_cross_entropy_forward(context, &smooth, NULL, NULL, logits, targets, ROWS, V, 0.1f,
                                   LLM_REDUCTION_MEAN, &error));
    for (int r = 0; r < ROWS; r++) {
        const float *x = logits + r * V;
        int best = 0;
        if (targets[r] == LLM_IGNORE_INDEX) continue;
        for (int v = 1; v < V; v++) best = x[v] > x[best] ? v : best;
        valid++;
        correct += best == targets[r];
    }
    printf("language model loss: -log softmax(logits)[target], over %d valid of %d targets\n",
           valid, ROWS);
    printf("  mean %.4f nats, sum %.4f = %d x mean, the first row's %.4f\n", (double)mean,
           (double)sum, valid, (double)each[0]);
    printf("  perplexity exp(mean) %.2f, accuracy %d/%d\n", exp((double)mean), correct, valid);
    printf("  with label smoothing 0.1, a tenth of each target spread over the vocabulary: %.4f\n",
           (double)smooth);
    TRY(!llm_cross_entropy_backward(context, logit_gradient, NULL, lse, logits, targets, ROWS, V,
                                    0.0f, LLM_REDUCTION_MEAN, &error));
    for (int i = 0; i < ROWS * V; i++) total += (double)logit_gradient[i];
    printf("  the gradient is (softmax - onehot)/%d: its sum is %.1e, an ignored row's is 0: "
           "%s\n\n", valid, total, logit_gradient[2 * V] == 0.0f ? "yes" : "no");
}

int main(int argc, char **argv) {
    static float weight[V * C], dweight[V * C], m[V * C], v[V * C];
    static float hidden[DEPTH + 1][ROWS * C], all_logits[DEPTH + 1][ROWS * V];
    static float all_dlogits[DEPTH + 1][ROWS * V], all_lse[DEPTH + 1][ROWS];
    float *logits[DEPTH + 1], *dlogits[DEPTH + 1], *lse[DEPTH + 1], loss, parts[DEPTH + 1];

    if (argc > 1) {
        printf("usage: %s       (without options)\n", argv[0]);
        return strcmp(argv[1], "--help") && strcmp(argv[1], "-h");
    }
    llm_adamw adamw = {.learning_rate = 0.02f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f,
                       .grad_scale = 1.0f};
    cli_program = "loss_head";
    TRY(context = llm_context_create(0, NULL, &error));
    fill(weight, V * C, 0.1f, 1);
    for (int i = 0; i < ROWS; i++)
        targets[i] = i % T == 2 ? LLM_IGNORE_INDEX : (int32_t)(llm_random(7, (uint64_t)i) % V);
    for (int k = 0; k <= DEPTH; k++) { /* depth k predicts k tokens further, at T - k positions */
        fill(hidden[k], ROWS * C, 1.0f, 10 + (uint64_t)k);
        logits[k] = all_logits[k];
        dlogits[k] = all_dlogits[k];
        lse[k] = all_lse[k];
    }

    TRY(!llm_linear_forward(context, logits[0], hidden[0], weight, NULL, ROWS, C, V));
    language_model_loss(logits[0]);

    printf("multi-token prediction: depth k at position t predicts targets[t + k], one head for "
           "all\n");
    printf("  loss = main + lambda/%d (depth 1 + depth %d), each a mean over its own valid "
           "targets\n", DEPTH, DEPTH);
    for (int step = 1; step <= 200; step++) {
        for (int k = 0; k <= DEPTH; k++)
            TRY(!llm_linear_forward(context, logits[k], hidden[k], weight, NULL, B * (T - k), C,
                                    V));
        TRY(!llm_mtp_loss_forward(context, &loss, parts, lse, (const float *const *)logits, targets,
                                  B, T, V, DEPTH, 0.3f, 0.0f, &error));
        memset(all_dlogits, 0, sizeof all_dlogits);
        memset(dweight, 0, sizeof dweight);
        TRY(!llm_mtp_loss_backward(context, dlogits, NULL, (const float *const *)lse,
                                   (const float *const *)logits, targets, B, T, V, DEPTH, 0.3f,
                                   0.0f, &error));
        for (int k = 0; k <= DEPTH; k++)
            TRY(!llm_linear_backward(context, NULL, dweight, NULL, dlogits[k], hidden[k], weight,
                                     B * (T - k), C, V));
        adamw.step = step - 1;
        llm_adamw_update(context, weight, m, v, dweight, V * C, &adamw);
        if (step == 1 || step % 50 == 0)
            printf("  step %3d: loss %.4f = main %.4f + 0.15 (%.4f + %.4f)\n", step, (double)loss,
                   (double)parts[0], (double)parts[1], (double)parts[2]);
    }
    printf("\nonce it has learned: ");
    language_model_loss(logits[0]);
    llm_context_free(context);
    cli_check_output();
    return 0;
}

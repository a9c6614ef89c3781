/* sequences.c -- one prefix, several texts: the prefix is evaluated once, the texts go on together.
 *
 *     cc -O2 examples/sequences.c -o sequences -lm
 *     ./sequences
 *
 * A tiny DeepSeek with random weights reads a prefix of 40 tokens; three sequences start from it,
 * each with a question of its own, and are continued in one batch, each with its own random
 * numbers. Expect a line of tokens for each, with the log-probability of the whole; then the same
 * line again for the second one, generated alone after its cache went through a file. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"

enum { PREFIX = 40, TEXTS = 3, NEW = 12, VOCAB = 500 };
static const char kept[] = "sequences.cache";

/* draws the next token of a sequence; *sum gets its log-probability, too */
static int32_t draw(llm_session *s, int sequence, const float *logits, int i, double *sum) {
    const llm_sampling sampling = {.temperature = 0.8f, .top_p = 0.95f,
                                   .seed = (uint64_t)sequence};
    const int length = llm_session_length(s, sequence);
    int32_t token;
    float logprob;
    TRY(!llm_sample(llm_session_context(s), &token, logits, VOCAB, &sampling,
                    llm_session_tokens(s, sequence), length, i, (uint64_t)i, &error));
    TRY(!llm_logprobs(llm_session_context(s), &logprob, token, NULL, NULL, 0, logits, VOCAB,
                      &error));
    *sum += (double)logprob;
    return token;
}
static void print_text(llm_session *s, int sequence, int from, double logprob) {
    printf("%d:", sequence);
    for (int i = from; i < llm_session_length(s, sequence); i++)
        printf(" %d", llm_session_tokens(s, sequence)[i]);
    printf("   %.2f\n", logprob);
}

int main(void) {
    const llm_config config = {
        .arch = LLM_ARCH_DEEPSEEK_V3, .vocab_size = VOCAB, .max_seq_len = 128, .d_model = 64,
        .n_layers = 2, .n_heads = 4, .d_ffn = 128, .kv_lora_rank = 16, .qk_nope_head_dim = 16,
        .qk_rope_head_dim = 8, .v_head_dim = 16};
    const llm_session_desc desc = {.n_sequences = TEXTS};
    const int32_t questions[TEXTS][4] = {{7}, {7, 8}, {9, 8, 7, 6}};
    const int sizes[TEXTS] = {1, 2, 4};
    int32_t prefix[PREFIX], next[TEXTS];
    llm_rows rows[TEXTS];
    double logprobs[TEXTS] = {0}, again = 0;
    float *logits = (float *)cli_alloc((size_t)TEXTS * VOCAB, sizeof *logits);
    cli_program = "sequences";
    llm_model *model = llm_model_create(&config, NULL, &error);
    TRY(model);
    llm_session *s = llm_session_create(model, &desc, &error);
    TRY(s);

    for (int i = 0; i < PREFIX; i++) prefix[i] = (i * i + 1) % VOCAB;
    TRY(!llm_session_eval(s, 0, prefix, PREFIX, NULL, &error));
    TRY(!llm_session_save(s, 0, kept, &error));
    for (int i = 1; i < TEXTS; i++) TRY(!llm_session_copy(s, i, 0, PREFIX, &error));
    for (int i = 0; i < TEXTS; i++)
        rows[i] = (llm_rows){.sequence = i, .tokens = questions[i], .n = sizes[i], .n_logits = 1};
    TRY(!llm_session_eval_rows(s, rows, TEXTS, logits, &error));
    for (int n = 0; n < NEW; n++) {
        for (int i = 0; i < TEXTS; i++) next[i] = draw(s, i, logits + i * VOCAB, n, &logprobs[i]);
        TRY(!llm_session_eval_batch(s, next, logits, &error));
    }
    for (int i = 0; i < TEXTS; i++) print_text(s, i, PREFIX + sizes[i], logprobs[i]);

    TRY(!llm_session_load(s, 1, kept, &error));      /* the prefix, without evaluating it */
    remove(kept);
    TRY(!llm_session_eval(s, 1, questions[1], sizes[1], logits, &error));
    for (int n = 0; n < NEW; n++) {
        const int32_t token = draw(s, 1, logits, n, &again);
        TRY(!llm_session_eval(s, 1, &token, 1, logits, &error));
    }
    print_text(s, 1, PREFIX + sizes[1], again);
    cli_check_output();
    free(logits);
    llm_session_free(s);
    llm_model_free(model);
    return 0;
}

/* train.c -- a GPT-2 learns to write like the text files it is given.
 *
 *     cc -O2 -fopenmp examples/train.c -o train -lm
 *     ./train --out shakespeare shakespeare.txt            (--help lists the options)
 *
 * The tokenizer is learned from the text, too; the last tenth is kept for validation. Expect a
 * loss that starts near the logarithm of the vocabulary and falls, a sample now and then, and a
 * directory that generate.c and transformers open, with a line per step in its log.csv. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include <unistd.h>

#define CHECK(ok, ...) /* ends the program unless ok; the rest as for printf */ \
    do { if (!(ok)) { fprintf(stderr, "train: " __VA_ARGS__); exit(1); } } while (0)
#define TRY(ok) CHECK(ok, "%s\n", error.message)
static llm_error error;

/* what stands behind name in args (both become ""), or else; with --help, prints a line about it */
static const char *option(char **args, const char *name, const char *other, const char *about) {
    if (args[0] && !strcmp(args[0], "--help")) printf("  %-12s %s [%s]\n", name, about, other);
    for (; args[0] && args[1]; args++) {
        if (strcmp(args[0], name)) continue;
        other = args[1];
        args[1] = args[0] += strlen(name);
    }
    return other;
}
static double number(char **args, const char *name, const char *other, const char *about) {
    const char *text = option(args, name, other, about);
    char *end;
    const double x = strtod(text, &end);
    CHECK(end != text && !*end && fabs(x) < 1e9, "%s %s: not a number below 1e9\n", name, text);
    return x;
}
static char *append_file(char *text, size_t *size, const char *path) {
    FILE *file = fopen(path, "rb");
    size_t n = 1;
    CHECK(file, "%s: %s\n", path, strerror(errno));
    for (; n; *size += n) {
        text = (char *)realloc(text, *size + 65536);
        CHECK(text, "out of memory\n");
        n = fread(text + *size, 1, 65536, file);
    }
    CHECK(!ferror(file), "%s: %s\n", path, strerror(errno));
    fclose(file);
    return text;
}
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int print_token(int32_t token, void *tokenizer) {
    char text[256];
    size_t n = 0;
    llm_tokenizer_decode((llm_tokenizer *)tokenizer, &token, 1, text, sizeof text, &n, NULL);
    return fwrite(text, 1, n < sizeof text ? n : sizeof text, stdout) == 0;
}

int main(int argc, char **argv) {
    static const char bar[] = "####################....................";
    static llm_config config;                        /* static: all zero, so all defaults */
    static llm_model_desc model_desc;
    static llm_train_desc desc;
    static llm_generate_desc sample;
    llm_train_stats stats, valid;
    llm_tokenizer *tokenizer;
    llm_model *model;
    llm_trainer *trainer;
    llm_session *session;
    FILE *log;
    const char *out, *given, *preset;
    char *text = NULL, path[512], **args = argv + (argc > 0);
    int32_t *tokens, *x, *y;
    size_t size = 0, n, n_train, i, B, T;
    double start, now, spent = 0, rate, limit, loss;
    float dropout;
    int vocab, eval, step, last = 0;
    const int terminal = isatty(1), help = args[0] && !strcmp(args[0], "--help");

    if (help) printf("usage: train [OPTION VALUE]... [TEXT FILE]...    (without a file: llm.h)\n");
    out = option(args, "--out", "model", "directory for the model, the tokenizer and log.csv");
    given = option(args, "--tokenizer", "", "a tokenizer.json, or its directory, to use");
    vocab = (int)number(args, "--vocab", "2048", "tokens to learn, 257 or more");
    preset = option(args, "--preset", "", "gpt2-tiny, gpt2, ... instead of the next three");
    config.n_layers = (int)number(args, "--layers", "4", "blocks");
    config.n_heads = (int)number(args, "--heads", "4", "attention heads of a block");
    config.d_model = (int)number(args, "--width", "256", "of the residual stream");
    dropout = (float)number(args, "--dropout", "0", "probability, 0 or more and below 1");
    desc.seq_len = (int)number(args, "--seq", "128", "tokens of a sequence");
    desc.batch_size = (int)number(args, "--batch", "8", "sequences of an update");
    desc.max_steps = (int)number(args, "--steps", "600", "updates");
    limit = number(args, "--seconds", "1e8", "stop after so many, even if updates are left");
    desc.learning_rate = (float)number(args, "--lr", "2e-3", "the highest; it falls to a tenth");
    desc.warmup_steps = (int)number(args, "--warmup", "50", "updates until it is reached");
    eval = (int)number(args, "--eval", "100", "updates between validation, sample and saving");
    desc.seed = (uint64_t)number(args, "--seed", "1", "of weights, batches and dropout");
    model_desc.n_threads = (int)number(args, "--threads", "0", "0 = what OpenMP says");
    if (help) return 0;
    for (; *args; args++) {
        CHECK(**args != '-', "%s: unknown, or without a value; see --help\n", *args);
        if (**args) text = append_file(text, &size, *args);
    }
    if (!text) text = append_file(text, &size, "llm.h");

    tokenizer = *given ? llm_tokenizer_load(given, NULL, &error)
                       : llm_tokenizer_train(text, size, vocab, NULL, &error);
    TRY(tokenizer);
    config.arch = LLM_ARCH_GPT2;
    config.tie_embeddings = 1;
    config.max_seq_len = desc.seq_len;
    if (*preset) TRY(!llm_config_preset(&config, preset, &error));
    config.vocab_size = llm_tokenizer_vocab_size(tokenizer);
    config.embd_pdrop = config.attn_pdrop = config.resid_pdrop = dropout;
    model_desc.seed = desc.seed;
    TRY(model = llm_model_create(&config, &model_desc, &error));
    TRY(trainer = llm_trainer_create(model, &desc, &error));
    TRY(session = llm_session_create(model, NULL, &error));
    B = (size_t)desc.batch_size;
    T = (size_t)desc.seq_len;

    tokens = (int32_t *)malloc((size + 1) * sizeof *tokens);   /* a token has one byte or more */
    x = (int32_t *)malloc(2 * B * T * sizeof *x);
    CHECK(tokens && x, "out of memory\n");
    y = x + B * T;
    TRY(!llm_tokenizer_encode(tokenizer, text, size, 0, tokens, size, &n, &error));
    free(text);
    n_train = n - n / 10;
    CHECK(n / 10 > T, "the text has %zu tokens, --seq %zu asks for %zu\n", n, T, 10 * T + 10);
    printf("%zu bytes of text, %zu tokens out of %d; a model of %.2f million parameters\n", size, n,
           config.vocab_size, 1e-6 * (double)llm_config_param_count(&config));

    TRY(!llm_model_save(model, out, LLM_F32, &error));       /* fail now rather than at the end */
    TRY(!llm_tokenizer_save(tokenizer, out, &error));
    snprintf(path, sizeof path, "%s/log.csv", out);
    log = fopen(path, "w");
    CHECK(log, "%s: %s\n", path, strerror(errno));
    fprintf(log, "step,train_loss,val_loss,lr,grad_norm,tokens_per_second\n");
    sample.sampling.temperature = 0.8f;
    sample.sampling.top_p = 0.95f;
    sample.max_new_tokens = 60;
    sample.on_token = print_token;
    sample.user = tokenizer;

    for (step = 1, start = seconds(); !last; step++) {
        for (i = 0; i < B; i++) {
            const uint64_t draw = llm_random(desc.seed, (uint64_t)step * B + i);
            memcpy(x + i * T, tokens + draw % (n_train - T), T * sizeof *x);
            memcpy(y + i * T, tokens + draw % (n_train - T) + 1, T * sizeof *y);
        }
        TRY(!llm_trainer_step(trainer, x, y, &stats, &error));
        now = seconds() - start;
        rate = (double)B * (double)T * step / (now - spent);
        last = step == desc.max_steps || now > limit;
        if (terminal || last || step % 20 == 0) {
            const double left = (desc.max_steps - step) * now / step;
            printf("%s%5d/%d [%.20s] loss %.3f  lr %.1e  %.0f tokens/s  %.0f:%02d left %s",
                   terminal ? "\r" : "", step, desc.max_steps,
                   bar + 20 - (int)(20.0 * step / desc.max_steps), (double)stats.loss,
                   (double)stats.learning_rate, rate, floor(left / 60), (int)fmod(left, 60),
                   terminal ? "" : "\n");
        }
        fprintf(log, "%d,%.5f,", step, (double)stats.loss);
        if (last || (eval > 0 && step % eval == 0)) {
            for (loss = 0, i = 0; i < 32; i++) {               /* sequences spread over the tenth */
                const int32_t *from = tokens + n_train + (n - n_train - T) * i / 32;
                TRY(!llm_trainer_evaluate(trainer, from, from + 1, 1, (int)T, &valid, &error));
                loss += (double)valid.loss / 32;
            }
            fprintf(log, "%.5f", loss);
            printf("%svalidation loss %.3f, perplexity %.1f. A sample:\n", terminal ? "\n" : "",
                   loss, exp(loss));
            TRY(!llm_session_rewind(session, 0, 0, &error));
            TRY(!llm_generate(session, tokens, 1, &sample, NULL, 0, NULL, &error));
            printf("\n\n");
            TRY(!llm_model_save(model, out, LLM_F32, &error));
            spent += seconds() - start - now;
        }
        fprintf(log, ",%.3g,%.3g,%.0f\n", (double)stats.learning_rate, (double)stats.grad_norm,
                rate);
        fflush(stdout);
    }
    if (step <= desc.max_steps) printf("--seconds ended it before the learning rate was down\n");
    printf("%d updates in %.0f s; the model is in %s\n", step - 1, seconds() - start, out);
    CHECK(!fclose(log), "%s: %s\n", path, strerror(errno));
    llm_session_free(session);
    llm_trainer_free(trainer);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    free(tokens);
    free(x);
    return 0;
}

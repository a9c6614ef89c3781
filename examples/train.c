/* train.c -- a small DeepSeek-V3 or GPT-2 learns to write like the text files it is given.
 *
 *     cc -O2 -fopenmp examples/train.c -o train -lm
 *     ./train --out shakespeare shakespeare.txt            (--help lists the options)
 *
 * The tokenizer is learned from the text, too; the last tenth is kept for validation. Expect a loss
 * that falls from the logarithm of the vocabulary, a sample now and then, and a directory that
 * generate.c and transformers open, with a line per update in its log.csv. mtp: the loss of the
 * module that predicts one token further; load: the least and the most used expert's, mean 1. */
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
    CHECK(file, "%s: %s\n", path, strerror(errno));
    for (size_t n = 1; n; *size += n) {
        CHECK(text = (char *)realloc(text, *size + 65536), "out of memory\n");
        n = fread(text + *size, 1, 65536, file);
    }
    CHECK(!ferror(file) && !fclose(file), "%s: %s\n", path, strerror(errno));
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
    static llm_session_desc session_desc;
    static llm_generate_desc sample;
    llm_train_stats stats, valid;
    char **args = argv + (argc > 0), *text = NULL, path[512];
    const int terminal = isatty(1), help = args[0] && !strcmp(args[0], "--help");
    size_t size = 0, n, i;

    if (help) printf("usage: train [OPTION VALUE]... [TEXT FILE]...    (without a file: llm.h)\n");
    const char *out = option(args, "--out", "model", "directory for model, tokenizer and log.csv");
    const char *given = option(args, "--tokenizer", "", "tokenizer.json, or its directory, to use");
    const int vocab = (int)number(args, "--vocab", "2048", "else: tokens to learn, 257 or more");
    const char *arch = option(args, "--arch", "deepseek", "or gpt2: a tiny model of that kind");
    const char *preset = option(args, "--preset", "", "or one of those named below");
    desc.seq_len = (int)number(args, "--seq", "128", "tokens of a sequence");
    desc.batch_size = (int)number(args, "--batch", "8", "sequences of an update");
    desc.max_steps = (int)number(args, "--steps", "600", "updates");
    const double limit = number(args, "--seconds", "1e8", "stop then, even if updates are left");
    desc.learning_rate = (float)number(args, "--lr", "2e-3", "the highest; it falls to a tenth");
    desc.warmup_steps = (int)number(args, "--warmup", "50", "updates until it is reached");
    const int eval = (int)number(args, "--eval", "100", "updates between validations, samples");
    desc.seed = (uint64_t)number(args, "--seed", "1", "of weights, batches and dropout");
    model_desc.n_threads = (int)number(args, "--threads", "0", "0 = what OpenMP says");
    for (int k = 0; help && llm_config_preset_name(k); k++)
        printf("%s %s", k ? k % 7 ? "" : "\n        " : "presets:", llm_config_preset_name(k));
    if (help) return puts("") < 0;
    for (; *args; args++) {
        CHECK(**args != '-', "%s: unknown, or without a value; see --help\n", *args);
        if (**args) text = append_file(text, &size, *args);
    }
    if (!text) text = append_file(text, &size, "llm.h");

    llm_tokenizer *tokenizer = *given ? llm_tokenizer_load(given, NULL, &error)
                                      : llm_tokenizer_train(text, size, vocab, NULL, &error);
    TRY(tokenizer);
    if (!*preset) snprintf(path, sizeof path, "%s-tiny", arch);
    TRY(!llm_config_preset(&config, *preset ? preset : path, &error));
    config.vocab_size = llm_tokenizer_vocab_size(tokenizer);
    model_desc.seed = desc.seed;
    session_desc.speculate = sample.speculate = config.mtp_depth > 0;
    llm_model *model = llm_model_create(&config, &model_desc, &error);
    TRY(model);
    llm_trainer *trainer = llm_trainer_create(model, &desc, &error);
    TRY(trainer);
    llm_session *session = llm_session_create(model, &session_desc, &error);
    TRY(session);

    const size_t B = (size_t)desc.batch_size, T = (size_t)desc.seq_len;
    int32_t *tokens = (int32_t *)malloc((size + 1) * sizeof *tokens);  /* none without a byte */
    int32_t *x = (int32_t *)malloc(2 * B * T * sizeof *x), *y = x + B * T;
    CHECK(tokens && x, "out of memory\n");
    TRY(!llm_tokenizer_encode(tokenizer, text, size, 0, tokens, size, &n, &error));
    const size_t n_train = n - n / 10;
    CHECK(n / 10 > T, "the text has %zu tokens, --seq %zu asks for %zu\n", n, T, 10 * T + 10);
    printf("%zu bytes of text, %zu tokens out of %d; %.2f million parameters, %.2f of them active\n",
           size, n, config.vocab_size, 1e-6 * (double)llm_config_param_count(&config),
           1e-6 * (double)llm_config_active_param_count(&config));
    TRY(!llm_model_save(model, out, LLM_F32, &error));       /* fail now rather than at the end */
    TRY(!llm_tokenizer_save(tokenizer, out, &error));
    snprintf(path, sizeof path, "%s/log.csv", out);
    FILE *log = fopen(path, "w");
    CHECK(log, "%s: %s\n", path, strerror(errno));
    fprintf(log, "step,train_loss,mtp_loss,load_max,lr,grad_norm,val_loss\n");
    sample.sampling.temperature = 0.7f;
    sample.max_new_tokens = 60;
    sample.on_token = print_token;
    sample.user = tokenizer;

    const double start = seconds();
    double spent = 0, loss;                          /* spent on validation, samples and saving */
    for (int step = 1, last = 0; !last; step++) {
        for (i = 0; i < B; i++) {
            const uint64_t at = llm_random(desc.seed, (uint64_t)step * B + i) % (n_train - T);
            memcpy(x + i * T, tokens + at, T * sizeof *x);
            memcpy(y + i * T, tokens + at + 1, T * sizeof *y);
        }
        TRY(!llm_trainer_step(trainer, x, y, &stats, &error));
        const double now = seconds() - start;
        last = step == desc.max_steps || now > limit;
        if (terminal || last || step % 50 == 0) {
            const double left = fmax(0, fmin((desc.max_steps - step) * now / step, limit - now));
            printf("%s%5d/%d [%.20s] loss %.3f", terminal ? "\r" : "", step, desc.max_steps,
                   &bar[20 - (int)(20.0 * step / desc.max_steps)], (double)stats.main_loss);
            if (config.mtp_depth) printf(" mtp %.3f", (double)stats.mtp_loss[0]);
            if (config.n_routed_experts)
                printf(" load %.1f-%.1f", (double)stats.expert_load_min,
                       (double)stats.expert_load_max);
            printf("  %.0f tokens/s  %.0f:%02d left %s", (double)(B * T) * step / (now - spent),
                   floor(left / 60), (int)fmod(left, 60), terminal ? "" : "\n");
        }
        fprintf(log, "%d,%.5f,%.5f,%.3g,%.4g,%.4g,", step, (double)stats.main_loss,
                (double)stats.mtp_loss[0], (double)stats.expert_load_max,
                (double)stats.learning_rate, (double)stats.grad_norm);
        if (last || (eval > 0 && step % eval == 0)) {
            for (loss = 0, i = 0; i < 32; i++) {             /* sequences spread over the tenth */
                const int32_t *from = tokens + n_train + (n - n_train - T) * i / 32;
                TRY(!llm_trainer_evaluate(trainer, from, from + 1, 1, (int)T, &valid, &error));
                loss += (double)valid.main_loss / 32;
            }
            fprintf(log, "%.5f", loss);
            printf("%svalidation loss %.3f, perplexity %.1f. A sample:\n", terminal ? "\n" : "",
                   loss, exp(loss));
            TRY(!llm_session_rewind(session, 0, 0, &error));
            TRY(!llm_generate(session, tokens + n_train, 8, &sample, NULL, 0, NULL, &error));
            printf("\n\n");
            TRY(!llm_model_save(model, out, LLM_F32, &error));
            spent += seconds() - start - now;
        }
        fputc('\n', log);
        fflush(stdout);
        if (last) printf("%d updates in %.0f s; the model is in %s\n", step, now, out);
    }
    CHECK(!fclose(log), "%s/log.csv: %s\n", out, strerror(errno));
    llm_session_free(session);
    llm_trainer_free(trainer);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;                                        /* and the rest with it */
}

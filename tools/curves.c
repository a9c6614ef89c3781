/* curves.c -- trains one small model on a text, character by character, and logs its losses.
 *
 *     cc -O2 tools/curves.c -lm -o build/curves
 *     build/curves --text shakespeare.txt --log f32.csv          (--help lists the options)
 *
 * The first part of the text is trained on, the rest is for validation. Step s = 0, 1, ... takes B
 * windows of T + 1 characters; window i begins at llm_random(seed, s B + i) modulo the places there
 * are: so runs with the same seed see the same data, whatever their precision or model.
 * The log has a line per step: step,train_loss,val_loss,seconds; seconds are those spent in steps,
 * batches made for them included, from the start on; val_loss is empty where none was computed, and
 * both losses are those of the next character, without balance and MTP, in nats; by ln 2 they are
 * bits per byte, as a character is one.
 *
 * --serve, for tools/results.py: says "ready", reads lines with a number of steps from stdin, makes
 * as many, prints each one's seconds, then "done", and ends with the input.
 */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"

static const char *text_path, *log_path;
static int layers, heads, width, seq, batch, accumulate, steps, warmup, seed, eval, windows;
static int threads, arch, precision, bytes, recompute, serve;
static double lr, min_lr, beta2, weight_decay, clip, val_share;
static cli_option options[] = {
    CLI_STRING("--text", &text_path, "llm.h", "the file to learn"),
    CLI_CHOICE("--arch", &arch, "gpt2|deepseek", "deepseek: latent attention, 8 experts, 2 and a "
               "shared one active, MTP"),
    CLI_WHOLE("--layers", &layers, "4", 1, "blocks"),
    CLI_WHOLE("--heads", &heads, "4", 1, "of attention"),
    CLI_WHOLE("--width", &width, "128", 16, "of the stream"),
    CLI_WHOLE("--seq", &seq, "64", 1, "characters of a window, T"),
    CLI_WHOLE("--batch", &batch, "12", 1, "windows of a step, B"),
    CLI_WHOLE("--accumulate", &accumulate, "1", 1, "parts that B is trained in: the same to "
              "rounding"),
    CLI_WHOLE("--steps", &steps, "2000", 1, "updates"),
    CLI_NUMBER("--lr", &lr, "1e-3", 1e-9, 1e3, "the highest, after warm-up"),
    CLI_NUMBER("--min-lr", &min_lr, "1e-4", 0, 1e3, "the last, to which it falls as a cosine"),
    CLI_WHOLE("--warmup", &warmup, "100", 0, "steps until the highest"),
    CLI_NUMBER("--beta2", &beta2, "0.99", 1e-3, 1, "of AdamW; beta1 is 0.9"),
    CLI_NUMBER("--weight-decay", &weight_decay, "0.1", 0, 1e3, "of tensors with two dimensions or "
               "more"),
    CLI_NUMBER("--clip", &clip, "1", 0, 1e9, "largest norm of a gradient; 0 = none"),
    CLI_WHOLE("--seed", &seed, "1", 0, "of weights and batches"),
    CLI_CHOICE("--precision", &precision, "f32|bf16|fp8", "of products"),
    CLI_NUMBER("--val-share", &val_share, "0.1", 0, 1, "of the text, its end, kept for validation"),
    CLI_WHOLE("--eval", &eval, "250", 0, "steps between validations; there is one at the end"),
    CLI_WHOLE("--windows", &windows, "0", 0, "of a validation, spread evenly; 0 = all of that "
              "part, side by side"),
    CLI_STRING("--log", &log_path, "", "file for the losses"),
    CLI_WHOLE("--threads", &threads, "0", 0, "0 = all cores"),
    CLI_SWITCH("--bytes", &bytes, "all 256 bytes are the vocabulary, not those that occur"),
    CLI_SWITCH("--recompute", &recompute, "activations are computed again"),
    CLI_SWITCH("--serve", &serve, "steps when the standard input asks for them"),
    CLI_END
};

/* ---- the text -------------------------------------------------------------------------------- */
typedef struct text {
    int32_t *tokens;
    size_t n, n_train;
    int vocab_size;
} text;

static text read_text(size_t T) {
    int32_t token_of[256];
    text t;
    unsigned char *data = (unsigned char *)cli_read(text_path, &t.n);
    int c;
    for (c = 0; c < 256; c++) token_of[c] = bytes;
    for (size_t i = 0; i < t.n; i++) token_of[data[i]] = 1;
    for (c = 0, t.vocab_size = 0; c < 256; c++)
        if (token_of[c]) token_of[c] = t.vocab_size++;
    t.tokens = (int32_t *)cli_alloc(t.n, sizeof *t.tokens);
    for (size_t i = 0; i < t.n; i++) t.tokens[i] = token_of[data[i]];
    free(data);
    t.n_train = (size_t)((double)t.n * (1.0 - val_share));
    NEED(t.n_train > T && t.n - t.n_train > T, "%s: too short for a window in both parts",
         text_path);
    return t;
}

/* ---- model and training ---------------------------------------------------------------------- */
static llm_config config_of(int vocab_size) {
    llm_config c;
    TRY(!llm_config_preset(&c, arch ? "deepseek-tiny" : "gpt2-tiny", &error));
    cli_shape(&c, layers, heads, width, 0);
    c.vocab_size = vocab_size;
    c.max_seq_len = seq;
    c.tie_embeddings = !arch;
    return c;
}
static llm_train_desc train_desc(void) {
    NEED(batch % accumulate == 0, "--accumulate: does not divide --batch");
    return (llm_train_desc){
        .batch_size = batch / accumulate, .seq_len = seq, .grad_accum_steps = accumulate,
        .learning_rate = (float)lr,
        .min_lr_ratio = cli_or_off(min_lr / lr),
        .warmup_steps = warmup, .max_steps = steps,
        .beta2 = (float)beta2,
        .weight_decay = cli_or_off(weight_decay),
        .grad_clip = cli_or_off(clip),
        .precision = (llm_precision)precision, .recompute = recompute};
}

typedef struct training {
    llm_train_desc desc;
    llm_trainer *trainer;
    text text;
    uint64_t seed;
    int32_t *tokens, *targets;         /* (B,T) */
    FILE *log;
    int step;
    double seconds;                    /* in steps */
} training;

/* rows windows, of T tokens and the targets one further, from first on, gap apart in the text */
static double validation_batch(training *t, double first, double gap, int rows) {
    const size_t T = (size_t)t->desc.seq_len;
    llm_train_stats stats;
    for (int i = 0; i < rows; i++) {
        const int32_t *from = t->text.tokens + (size_t)(first + gap * i);
        memcpy(t->tokens + (size_t)i * T, from, T * sizeof *from);
        memcpy(t->targets + (size_t)i * T, from + 1, T * sizeof *from);
    }
    TRY(!llm_trainer_evaluate(t->trainer, t->tokens, t->targets, rows, (int)T, &stats, &error));
    return (double)stats.main_loss * rows;
}
static double validation(training *t) {
    const double T = t->desc.seq_len, room = (double)(t->text.n - t->text.n_train) - 1.0;
    const int given = windows, n = given ? given : (int)(room / T);
    const double gap = given ? (room - T) / n : T;
    double sum = 0.0;
    int i;
    for (i = 0; i < n; i += t->desc.batch_size)
        sum += validation_batch(t, (double)t->text.n_train + gap * i, gap,
                                n - i < t->desc.batch_size ? n - i : t->desc.batch_size);
    return sum / n;
}

/* one step and its line of the log -> its seconds */
static double step(void *argument) {
    training *t = (training *)argument;
    const size_t T = (size_t)t->desc.seq_len;
    const uint64_t B = (uint64_t)t->desc.batch_size, parts = (uint64_t)t->desc.grad_accum_steps;
    const uint64_t places = t->text.n_train - T;
    const double start = cli_seconds();
    llm_train_stats stats;
    double loss = 0.0;
    for (uint64_t part = 0; part < parts; part++) {
        for (uint64_t i = 0; i < B; i++) {
            const uint64_t window = ((uint64_t)t->step * parts + part) * B + i;
            const uint64_t at = llm_random(t->seed, window) % places;
            memcpy(t->tokens + i * T, t->text.tokens + at, T * sizeof(int32_t));
            memcpy(t->targets + i * T, t->text.tokens + at + 1, T * sizeof(int32_t));
        }
        TRY(!llm_trainer_step(t->trainer, t->tokens, t->targets, &stats, &error));
        loss += (double)stats.main_loss / (double)parts;
    }
    const double seconds = cli_seconds() - start;
    t->seconds += seconds;
    t->step++;
    if (!t->log) return seconds;
    fprintf(t->log, "%d,%.6f,", t->step, loss);
    if (t->step == t->desc.max_steps || (eval && t->step % eval == 0))
        fprintf(t->log, "%.6f", validation(t));
    fprintf(t->log, ",%.4f\n", t->seconds);
    return seconds;
}

int main(int argc, char **argv) {
    training t = {.step = 0};
    cli_program = "curves";
    const int n_files = cli_read_options(options, argv + (argc > 0),
                                         "usage: curves [OPTION]...\n");
    if (n_files < 0) return 0;
    NEED(!n_files, "%s: not an option; the text is --text", argv[1]);
    t.desc = train_desc();
    t.text = read_text((size_t)t.desc.seq_len);
    t.seed = (uint64_t)seed;
    const llm_config config = config_of(t.text.vocab_size);
    const llm_model_desc desc = {.seed = t.seed, .n_threads = threads};
    llm_model *model = llm_model_create(&config, &desc, &error);
    TRY(model);
    TRY(t.trainer = llm_trainer_create(model, &t.desc, &error));
    const size_t n = (size_t)t.desc.batch_size * (size_t)t.desc.seq_len;
    t.tokens = (int32_t *)cli_alloc(2 * n, sizeof *t.tokens);
    t.targets = t.tokens + n;
    if (*log_path) {
        NEED(t.log = fopen(log_path, "w"), "%s: %s", log_path, strerror(errno));
        fprintf(t.log, "step,train_loss,val_loss,seconds\n");
    }
    printf("parameters %.0f\n", (double)llm_config_param_count(&config));
    if (serve) cli_serve(step, &t);
    else while (t.step < t.desc.max_steps) step(&t);
    NEED(!t.log || !fclose(t.log), "%s: %s", log_path, strerror(errno));
    const double loss = validation(&t);
    printf("val_loss %.6f\nval_bits_per_byte %.6f\nseconds %.3f\n", loss, loss / log(2), t.seconds);
    llm_trainer_free(t.trainer);
    llm_model_free(model);
    free(t.tokens);
    free(t.text.tokens);
    return 0;
}

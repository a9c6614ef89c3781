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
 * both losses are those of the next character, without balance and MTP.
 *
 * --serve, for tools/results.py: says "ready", reads lines with a number of steps from stdin, makes
 * as many, prints each one's seconds, then "done", and ends with the input.
 */
#define LLM_IMPLEMENTATION
#include "../llm.h"

enum {
    TEXT, ARCH, LAYERS, HEADS, WIDTH, SEQ, BATCH, ACCUMULATE, STEPS, LR, MIN_LR, WARMUP, BETA2,
    WEIGHT_DECAY, CLIP, SEED, PRECISION, VAL_SHARE, EVAL, WINDOWS, LOG, THREADS, N_OPTIONS
};
static struct { const char *name, *value, *about; } options[N_OPTIONS] = {
    {"--text", "llm.h", "the file to learn"},
    {"--arch", "gpt2", "or deepseek: latent attention, 8 experts, 2 and a shared one active, MTP"},
    {"--layers", "4", ""},
    {"--heads", "4", ""},
    {"--width", "128", ""},
    {"--seq", "64", "characters of a window, T"},
    {"--batch", "12", "windows of a step, B"},
    {"--accumulate", "1", "parts that B is trained in: the same to rounding"},
    {"--steps", "2000", ""},
    {"--lr", "1e-3", "the highest, after warm-up"},
    {"--min-lr", "1e-4", "the last, to which it falls as a cosine"},
    {"--warmup", "100", "steps until the highest"},
    {"--beta2", "0.99", "of AdamW; beta1 is 0.9"},
    {"--weight-decay", "0.1", "of tensors with two dimensions or more"},
    {"--clip", "1", "largest norm of a gradient; 0 = none"},
    {"--seed", "1", "of weights and batches"},
    {"--precision", "f32", "or bf16, fp8"},
    {"--val-share", "0.1", "of the text, its end, kept for validation"},
    {"--eval", "250", "steps between validations; there is always one at the end"},
    {"--windows", "0", "of a validation, spread evenly; 0 = all of that part, side by side"},
    {"--log", "", "file for the losses"},
    {"--threads", "0", "0 = all cores"},
};
static int bytes, recompute, serve;

static void die(const char *what, const char *why) {
    fprintf(stderr, "curves: %s: %s\n", what, why);
    exit(1);
}
static double number(int option, double least, double most) {
    char *end, bound[80];
    const double x = strtod(options[option].value, &end);
    snprintf(bound, sizeof bound, "%.20s is not a number from %g to %g", options[option].value,
             least, most);
    if (end == options[option].value || *end || !(x >= least && x <= most))
        die(options[option].name, bound);
    return x;
}
static int integer(int option, int least) {
    const double x = number(option, least, 1e9);
    if (x != floor(x)) die(options[option].name, "not a whole number");
    return (int)x;
}
/* the option's value as a place in names */
static int choice(int option, const char *const *names, int n) {
    int i;
    for (i = 0; i < n && strcmp(options[option].value, names[i]); i++) {}
    if (i == n) die(options[option].name, "no such choice; see --help");
    return i;
}
/* a value for a desc, in which zero means the default */
static float really(double x) { return x == 0.0 ? LLM_OFF : (float)x; }

static int usage(FILE *out) {
    int i;
    fprintf(out, "usage: curves [--bytes] [--recompute] [--serve] [OPTION VALUE]...\n"
                 "  --bytes         all 256 bytes are the vocabulary, not those that occur\n");
    for (i = 0; i < N_OPTIONS; i++)
        fprintf(out, "  %-15s %s%s[%s]\n", options[i].name, options[i].about,
                *options[i].about ? " " : "", options[i].value);
    return out == stderr ? 2 : 0;
}
static int read_options(int argc, char **argv) {
    int i, k;
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bytes")) bytes = 1;
        else if (!strcmp(argv[i], "--recompute")) recompute = 1;
        else if (!strcmp(argv[i], "--serve")) serve = 1;
        else {
            for (k = 0; k < N_OPTIONS && strcmp(argv[i], options[k].name); k++) {}
            if (k == N_OPTIONS || i + 1 == argc) return 0;
            options[k].value = argv[++i];
        }
    }
    return 1;
}

/* ---- the text -------------------------------------------------------------------------------- */
typedef struct text {
    int32_t *tokens;
    size_t n, n_train;
    int vocab_size;
} text;

static text read_text(size_t T) {
    int32_t token_of[256];
    unsigned char *data;
    llm_error err;
    void *memory;
    text t;
    size_t i;
    int c;
    if (llmi_file_read(options[TEXT].value, &memory, &t.n, NULL, &err) != LLM_OK)
        die("text", err.message);
    data = (unsigned char *)memory;
    for (c = 0; c < 256; c++) token_of[c] = bytes;
    for (i = 0; i < t.n; i++) token_of[data[i]] = 1;
    for (c = 0, t.vocab_size = 0; c < 256; c++)
        if (token_of[c]) token_of[c] = t.vocab_size++;
    t.tokens = (int32_t *)malloc((t.n + 1) * sizeof *t.tokens);
    if (!t.tokens) die("text", "out of memory");
    for (i = 0; i < t.n; i++) t.tokens[i] = token_of[data[i]];
    llmi_release(NULL, memory);
    t.n_train = (size_t)((double)t.n * (1.0 - number(VAL_SHARE, 0.0, 1.0)));
    if (t.n_train <= T || t.n - t.n_train <= T)
        die(options[TEXT].value, "too short for a window in both parts");
    return t;
}

/* ---- model and training ---------------------------------------------------------------------- */
/* DeepSeek-V3's sizes follow the width: those of the preset deepseek-tiny at 256 */
static llm_config config_of(int vocab_size) {
    static const char *const archs[] = {"gpt2", "deepseek"};
    const int deepseek = choice(ARCH, archs, 2);
    const int width = integer(WIDTH, 16), heads = integer(HEADS, 1), head = width / heads;
    llm_config c;
    memset(&c, 0, sizeof c);
    c.arch = deepseek ? LLM_ARCH_DEEPSEEK_V3 : LLM_ARCH_GPT2;
    c.vocab_size = vocab_size;
    c.max_seq_len = integer(SEQ, 1);
    c.d_model = width;
    c.n_layers = integer(LAYERS, 1);
    c.n_heads = heads;
    c.tie_embeddings = !deepseek;
    if (!deepseek) return c;
    c.d_ffn = 2 * width;
    c.q_lora_rank = 3 * width / 8;
    c.kv_lora_rank = 3 * width / 16;
    c.qk_nope_head_dim = c.v_head_dim = head / 2;
    c.qk_rope_head_dim = head / 8 * 2;
    c.n_routed_experts = 8;
    c.num_experts_per_tok = 2;
    c.n_shared_experts = c.first_k_dense = c.norm_topk_prob = c.mtp_depth = 1;
    c.moe_d_ffn = width / 2;
    return c;
}
static llm_train_desc train_desc(void) {
    static const char *const precisions[] = {"f32", "bf16", "fp8"};
    llm_train_desc d;
    memset(&d, 0, sizeof d);
    d.grad_accum_steps = integer(ACCUMULATE, 1);
    d.batch_size = integer(BATCH, 1) / d.grad_accum_steps;
    if (d.batch_size * d.grad_accum_steps != integer(BATCH, 1))
        die("--accumulate", "does not divide --batch");
    d.seq_len = integer(SEQ, 1);
    d.max_steps = integer(STEPS, 1);
    d.learning_rate = (float)number(LR, 1e-9, 1e3);
    d.min_lr_ratio = really(number(MIN_LR, 0.0, 1e3) / (double)d.learning_rate);
    d.warmup_steps = integer(WARMUP, 0);
    d.beta2 = (float)number(BETA2, 1e-3, 1.0);
    d.weight_decay = really(number(WEIGHT_DECAY, 0.0, 1e3));
    d.grad_clip = really(number(CLIP, 0.0, 1e9));
    d.precision = (llm_precision)choice(PRECISION, precisions, 3);
    d.recompute = recompute;
    return d;
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
    llm_error err;
    int i;
    for (i = 0; i < rows; i++) {
        const int32_t *from = t->text.tokens + (size_t)(first + gap * i);
        memcpy(t->tokens + (size_t)i * T, from, T * sizeof *from);
        memcpy(t->targets + (size_t)i * T, from + 1, T * sizeof *from);
    }
    if (llm_trainer_evaluate(t->trainer, t->tokens, t->targets, rows, (int)T, &stats, &err) !=
        LLM_OK)
        die("evaluate", err.message);
    return (double)stats.main_loss * rows;
}
static double validation(training *t) {
    const double T = t->desc.seq_len, room = (double)(t->text.n - t->text.n_train) - 1.0;
    const int given = integer(WINDOWS, 0), n = given ? given : (int)(room / T);
    const double gap = given ? (room - T) / n : T;
    double sum = 0.0;
    int i;
    for (i = 0; i < n; i += t->desc.batch_size)
        sum += validation_batch(t, (double)t->text.n_train + gap * i, gap,
                                n - i < t->desc.batch_size ? n - i : t->desc.batch_size);
    return sum / n;
}

/* one step and its line of the log -> its seconds */
static double step(training *t) {
    const size_t T = (size_t)t->desc.seq_len;
    const uint64_t B = (uint64_t)t->desc.batch_size, parts = (uint64_t)t->desc.grad_accum_steps;
    const uint64_t places = t->text.n_train - T;
    const double start = llmi_seconds();
    const int eval = integer(EVAL, 0);
    llm_train_stats stats;
    llm_error err;
    double seconds, loss = 0.0;
    uint64_t part, i;
    for (part = 0; part < parts; part++) {
        for (i = 0; i < B; i++) {
            const uint64_t window = ((uint64_t)t->step * parts + part) * B + i;
            const uint64_t at = llm_random(t->seed, window) % places;
            memcpy(t->tokens + i * T, t->text.tokens + at, T * sizeof(int32_t));
            memcpy(t->targets + i * T, t->text.tokens + at + 1, T * sizeof(int32_t));
        }
        if (llm_trainer_step(t->trainer, t->tokens, t->targets, &stats, &err) != LLM_OK)
            die("step", err.message);
        loss += (double)stats.main_loss / (double)parts;
    }
    seconds = llmi_seconds() - start;
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
    llm_model_desc md;
    llm_config config;
    llm_model *model;
    llm_error err;
    char line[64];
    training t;
    size_t n;
    if (argc > 1 && !strcmp(argv[1], "--help")) return usage(stdout);
    if (!read_options(argc, argv)) return usage(stderr);
    memset(&t, 0, sizeof t);
    memset(&md, 0, sizeof md);
    t.desc = train_desc();
    t.text = read_text((size_t)t.desc.seq_len);
    config = config_of(t.text.vocab_size);
    md.seed = t.seed = (uint64_t)integer(SEED, 0);
    md.n_threads = integer(THREADS, 0);
    model = llm_model_create(&config, &md, &err);
    if (!model) die("model", err.message);
    t.trainer = llm_trainer_create(model, &t.desc, &err);
    if (!t.trainer) die("trainer", err.message);
    n = (size_t)t.desc.batch_size * (size_t)t.desc.seq_len;
    t.tokens = (int32_t *)malloc(2 * n * sizeof *t.tokens);
    if (!t.tokens) die("batch", "out of memory");
    t.targets = t.tokens + n;
    if (*options[LOG].value) {
        t.log = fopen(options[LOG].value, "w");
        if (!t.log) die(options[LOG].value, strerror(errno));
        fprintf(t.log, "step,train_loss,val_loss,seconds\n");
    }
    printf("parameters %.0f\n", (double)llm_config_param_count(&config));
    if (serve) {
        printf("ready\n");
        fflush(stdout);
        while (fgets(line, sizeof line, stdin)) {
            int left = atoi(line);
            while (left-- > 0) printf("%.6f\n", step(&t));
            printf("done\n");
            fflush(stdout);
        }
    } else while (t.step < t.desc.max_steps) step(&t);
    if (t.log && fclose(t.log)) die(options[LOG].value, strerror(errno));
    printf("val_loss %.6f\nseconds %.3f\n", validation(&t), t.seconds);
    llm_trainer_free(t.trainer);
    llm_model_free(model);
    free(t.tokens);
    free(t.text.tokens);
    return 0;
}

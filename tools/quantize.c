/* quantize.c -- a model into one GGUF file, in another type, and what that costs.
 *
 *     build/quantize MODEL OUT.gguf --type Q4_K                 (--help lists the options)
 *
 * OUT.gguf is read again for the table. Error: the root mean square of what has changed, by that of
 * the values. With --text, perplexity before and after, on the same tokens. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"
#include <strings.h>

static struct { const char *type, *text; int tokens, threads, all, no_tokenizer; } o;
static cli_option options[] = {
    CLI_STRING("--type", &o.type, "Q4_K", "of matrices: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K "
               "Q5_K Q6_K, or DEFAULT, as they are; the head and some others get more bits than a "
               "type of blocks has, and rows that its block does not divide the nearest type"),
    CLI_STRING("--text", &o.text, "", "a file, on which perplexity is measured before and after"),
    CLI_WHOLE("--tokens", &o.tokens, "4096", 2, "of the text, at most so many"),
    CLI_SWITCH("--no-tokenizer", &o.no_tokenizer, "leaves it out of the file"),
    CLI_SWITCH("--all", &o.all, "a line for each tensor, not for each kind"),
    CLI_WHOLE("--threads", &o.threads, "0", 0, "0 = all cores"),
    CLI_END
};
static const char usage[] =
    "usage: quantize MODEL OUT.gguf [OPTION]...\n"
    "A model's directory, .safetensors or .gguf file becomes one GGUF file, with its tokenizer.\n";

/* ---- what has changed ------------------------------------------------------------------------ */
/* bytes BEFORE and AFTER, without the scales of F8; squares of differences, and of the values */
enum { TENSORS, VALUES, BEFORE, AFTER, ERROR, SQUARES, N_SUMS };
/* tensors of equal types, whose names differ in numbers only */
typedef struct kind {
    char name[128];
    llm_dtype from, to;
    size_t n_out, n_in;                /* rows, and values that a product sums                    */
    double sums[N_SUMS];
} kind;

static void read_row(float *to, const llmi_values *values, const kind *k, size_t row) {
    const char *data = (const char *)values->data + row * llm_dtype_size(values->type, k->n_in);
    const float *turned = values->transposed ? (const float *)values->data + row : NULL;
    if (!turned) TRY(!llm_dtype_decode(to, data, values->type, k->n_in, &error));
    for (size_t i = 0; turned && i < k->n_in; i++) to[i] = turned[i * k->n_out];
    for (size_t i = 0; values->scales && i < k->n_in; i++)
        to[i] *= values->scales[row / 128 * ((k->n_in + 127) / 128) + i / 128];
}
static void add_tensor(kind *k, const llmi_values *before, const llmi_values *after) {
    float *x = (float *)cli_alloc(2 * k->n_in, sizeof *x), *y = x + k->n_in;
    k->sums[TENSORS]++;
    k->sums[VALUES] += (double)(k->n_out * k->n_in);
    k->sums[BEFORE] += (double)llm_dtype_size(before->type, k->n_out * k->n_in);
    k->sums[AFTER] += (double)llm_dtype_size(after->type, k->n_out * k->n_in);
    for (size_t row = 0; row < k->n_out; row++) {
        read_row(x, before, k, row);
        read_row(y, after, k, row);
        for (size_t i = 0; i < k->n_in; i++) {
            k->sums[ERROR] += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
            k->sums[SQUARES] += (double)x[i] * x[i];
        }
    }
    free(x);
}
/* tensor i's kind: one of the n that there are, or the next */
static kind *kind_of(kind *kinds, size_t *n, const llm_model *a, const llm_model *b, size_t i) {
    const char *name = a->table.rows[i].name;
    kind *const next = &kinds[*n], *k = o.all ? next : kinds;
    char *to = next->name;
    while (*name && to < next->name + sizeof next->name - 1) {
        const int begins = !o.all && to > next->name && to[-1] == '.';
        const size_t digits = begins ? strspn(name, "0123456789") : 0;
        *to++ = digits ? '*' : *name;
        name += digits ? digits : 1;
    }
    *to = 0;
    next->from = a->values[i].type;
    next->to = b->values[i].type;
    llmi_tensor_sides(&a->table.rows[i], &next->n_out, &next->n_in);
    while (k < next && (strcmp(k->name, next->name) || k->from != next->from || k->to != next->to))
        k++;
    *n += k == next;
    return k;
}
static void print_kind(const kind *k) {
    const double *s = k->sums;
    char shape[48] = "", types[32] = "";
    if (k->n_out) {
        snprintf(shape, sizeof shape, k->n_in > 1 ? "%lu x %lu" : "%lu", (unsigned long)k->n_out,
                 (unsigned long)k->n_in);
        snprintf(types, sizeof types, "%-4s to %s", llm_dtype_name(k->from), llm_dtype_name(k->to));
    }
    printf("%-51s %6.0f %14s  %-15s %12.0f %12.0f %8.5f\n", k->name, s[TENSORS], shape, types,
           s[BEFORE], s[AFTER], s[ERROR] > 0 ? sqrt(s[ERROR] / s[SQUARES]) : s[ERROR]);
}
static void print_changes(const llm_model *before, const llm_model *after) {
    size_t n = llm_model_tensor_count(before), n_kinds = 0;
    kind *kinds = (kind *)cli_alloc(n + 1, sizeof *kinds), all = {.name = "all"};
    NEED(n == llm_model_tensor_count(after), "the file that was written has other tensors");
    for (size_t i = 0; i < n; i++) {
        cli_show_share((double)i / (double)n, "comparing tensors");
        kind *k = kind_of(kinds, &n_kinds, before, after, i);
        add_tensor(k, &before->values[i], &after->values[i]);
    }
    cli_end_line();
    printf("%-51s %6s %14s  %-15s %12s %12s %8s\n", "tensors", "number", "shape", "types", "bytes",
           "after", "error");
    for (const kind *k = kinds; k < kinds + n_kinds; k++) {
        for (int i = 0; i < N_SUMS; i++) all.sums[i] += k->sums[i];
        print_kind(k);
    }
    print_kind(&all);
    printf("bits per weight: %.3f before, %.3f after\n", 8 * all.sums[BEFORE] / all.sums[VALUES],
           8 * all.sums[AFTER] / all.sums[VALUES]);
    free(kinds);
}

/* of n tokens, each but the first given those before it in a window of the model's context */
static double perplexity(const llm_model *model, const int32_t *tokens, int n) {
    const int most = llm_model_config(model)->max_seq_len, context = n - 1 < most ? n - 1 : most;
    float *logprobs = (float *)cli_alloc((size_t)context, sizeof *logprobs);
    double sum = 0;
    for (int at = 0, size; at < n - 1; at += size) {
        cli_show_share((double)at / (n - 1), "measuring perplexity");
        size = n - 1 - at < context ? n - 1 - at : context;
        TRY(!llm_model_score(model, tokens + at, tokens + at + 1, 1, size, logprobs, &error));
        for (int i = 0; i < size; i++) sum -= logprobs[i];
    }
    cli_end_line();
    free(logprobs);
    return exp(sum / (n - 1));
}

int main(int argc, char **argv) {
    char **args = argv + (argc > 0);
    cli_path path;
    size_t size = 0, count = 0;        /* of the text's bytes and tokens */
    cli_program = "quantize";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args == 2, "a model and the GGUF file to write are wanted (--help says more)");
    const char *from = args[0], *out = args[1];
    int type = LLM_Q6_K;
    while (type >= 0 && (type == LLM_F8_E4M3 || strcasecmp(o.type, llmi_types[type].name))) type--;
    NEED(type >= 0, "--type %s: not one of those that --help lists", o.type);
    NEED(cli_ends_in(out, ".gguf"), "%s: the name of a GGUF file ends in .gguf", out);
    for (int i = 0; cli_part(path, from, i); i++)
        NEED(!cli_same_file(path, out), "%s: is the model, and OUT.gguf, too", out);
    if (!*o.text) cli_no_effect(options, "--tokens", "without --text");

    const llm_model_desc desc = {.n_threads = o.threads};
    cli_directory_of(path, from, ".safetensors");
    llm_model *model = llm_model_load(path, &desc, &error), *result;
    TRY(model);
    llm_tokenizer *tokenizer = llm_tokenizer_load(path, NULL, &error);
    NEED(tokenizer || !*o.text, "--text needs a tokenizer: %s", error.message);
    if (!tokenizer && !o.no_tokenizer) cli_note("without a tokenizer: %s", error.message);
    char *text = *o.text ? cli_read(o.text, &size) : NULL;
    if (size > 64 * (size_t)o.tokens) size = 64 * (size_t)o.tokens;
    int32_t *tokens = (int32_t *)cli_alloc(size + 1, sizeof *tokens);
    if (text)
        TRY(!llm_tokenizer_encode(tokenizer, text, size, 0, tokens, size + 1, &count, &error));
    const int n = (int)llmi_min(count, (size_t)o.tokens);
    NEED(!text || n > 1, "%s: %d tokens, and two are needed", o.text, n);
    const double before = text ? perplexity(model, tokens, n) : 0;
    const double start = cli_seconds();
    const llm_tokenizer *const put = o.no_tokenizer ? NULL : tokenizer;
    llm_result failed = llm_gguf_save(model, put, out, (llm_dtype)type, &error);
    if (put && (failed == LLM_ERR_ARGUMENT || failed == LLM_ERR_UNSUPPORTED)) {
        const llm_error reason = error;
        failed = llm_gguf_save(model, NULL, out, (llm_dtype)type, &error);
        if (!failed) cli_note("without the tokenizer: %s", reason.message);
    }
    TRY(!failed);
    cli_print_model(llm_model_config(model));
    printf("%s: %.1f MB, written in %.1f s\n", out, 1e-6 * (double)cli_can_open(out, &error),
           cli_seconds() - start);
    TRY(result = llm_model_load(out, &desc, &error));
    print_changes(model, result);
    const double after = text ? perplexity(result, tokens, n) : 0;
    if (text)
        printf("perplexity of %d tokens: %.4f before, %.4f after, %+.2f %%\n", n - 1, before, after,
               100 * (after / before - 1));
    cli_check_output();
    free(text);
    free(tokens);
    llm_tokenizer_free(tokenizer);
    llm_model_free(result);
    llm_model_free(model);
    return 0;
}

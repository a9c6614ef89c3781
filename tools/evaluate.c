/* evaluate.c -- how well a model predicts texts, or how often it finds the right one of several
 * answers.
 *
 *     build/evaluate MODEL book.txt                             (--help lists the options)
 *     build/evaluate MODEL --choices questions.tsv
 *
 * Expect a line of figures for each file, and one for all of several.
 * Texts are read as Hugging Face's guide to perplexity reads them: in windows of N tokens, each S
 * after the one before, in which those tokens count that no earlier window had, given what their
 * window has before them. A text's first token counts only if the model has a bos, other than its
 * eos, to stand before it; and with S = N the first of each later window does not count. Bytes are
 * those of the tokens that count, none of a special one. Bits per byte, the nats of all by ln 2 and
 * by these bytes, compare models with different tokenizers. (The guide's program weighs a window by
 * one token less than it counts in it; here each token weighs the same.)
 * A choice's score is the sum of the log-probabilities of its tokens, given the context's: acc is
 * how often the right one's is the highest, acc_norm how often it is if divided by the choice's
 * bytes; the first among equals is taken. EleutherAI's harness does so, but divides by characters.
 * Context and choice are encoded together, and the choice's tokens are those from the first on that
 * the context alone does not have there: so a token that has letters of both is the choice's.
 * Blanks and ends of lines that end a context belong to the choice; those that a choice begins with
 * are not among its bytes. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"

enum { MOST_CHOICES = 64 };
static struct {
    int window, stride, batch, tokens, special, choices, verbose, threads;
} o;
static cli_option options[] = {
    CLI_WHOLE("--window", &o.window, "the model's context, at most 1024", 2, "tokens that are read "
              "together"),
    CLI_WHOLE("--stride", &o.stride, "half the window", 1, "tokens from a window to the next"),
    CLI_WHOLE("--batch", &o.batch, "as many as have 2048 tokens", 1, "windows, or choices, at a "
              "time"),
    CLI_WHOLE("--tokens", &o.tokens, "0", 0, "of each text, at most so many; 0 = all"),
    CLI_SWITCH("--special", &o.special, "<|endoftext|> and the like, written out in a text, are "
               "the tokens that they name"),
    CLI_SWITCH("--choices", &o.choices, "the files have questions"),
    CLI_SWITCH("--verbose", &o.verbose, "with --choices: the score of each"),
    CLI_WHOLE("--threads", &o.threads, "0", 0, "0 = all cores"),
    CLI_END
};
static const char usage[] =
    "usage: evaluate MODEL FILE... [OPTION]...\n"
    "The model is a directory or a .gguf file, with its tokenizer. A file is a text (\"-\": the\n"
    "standard input), of which it prints perplexity and bits per byte. With --choices its\n"
    "lines are a context, two choices or more, and the number of the right one, the first being\n"
    "0, with tabs between them; \\n, \\t and \\\\ stand for a new line, a tab and a backslash.\n"
    "A choice follows the context as it is: let it begin with a blank if one is to stand there.\n"
    "Of a context that is too long, the end is read.\n";

static llm_model *model;
static llm_tokenizer *tokenizer;
static llm_special_tokens special;
static int *token_bytes;                             /* of each token */
static double seconds, tokens_read;                  /* in scoring */

/* ---- log-probabilities ----------------------------------------------------------------------- */
typedef struct row {
    const int32_t *tokens;
    int n, from;                                     /* those from `from` on count, 1 or more */
    double *sum;                                     /* of their log-probabilities */
} row;
static int longer_first(const void *a, const void *b) {
    return ((const row *)b)->n - ((const row *)a)->n;
}
/* of rows none of which is longer than the one before it */
static void score(const row *rows, size_t n) {
    double all = 0, done = 0;
    for (size_t i = 0; i < n; i++) all += rows[i].n;
    for (size_t i = 0, B; i < n; i += B) {
        const size_t T = (size_t)rows[i].n - 1;
        B = o.batch ? (size_t)o.batch : T < 2048 ? 2048 / T : 1;
        if (B > n - i) B = n - i;
        int32_t *x = (int32_t *)cli_alloc(2 * B * T, sizeof *x), *y = x + B * T;
        float *logprobs = (float *)cli_alloc(B * T, sizeof *logprobs);
        cli_show_share(done / all, "scoring");
        for (size_t b = 0; b < B; b++) {             /* what is after a row does not change it */
            const row *r = &rows[i + b];
            memcpy(x + b * T, r->tokens, (size_t)(r->n - 1) * sizeof *x);
            for (int t = 0; t < (int)T; t++)
                y[b * T + (size_t)t] = t + 1 >= r->from && t + 1 < r->n ? r->tokens[t + 1]
                                                                        : LLM_IGNORE_INDEX;
            done += r->n;
        }
        const double start = cli_seconds();
        TRY(!llm_model_score(model, x, y, (int)B, (int)T, logprobs, &error));
        seconds += cli_seconds() - start;
        tokens_read += (double)(B * T);
        for (size_t k = 0; k < B * T; k++)
            if (y[k] != LLM_IGNORE_INDEX) *rows[i + k / T].sum += logprobs[k];
        free(x);
        free(logprobs);
    }
    cli_clear_line();
}

/* ---- tokens ---------------------------------------------------------------------------------- */
static int32_t *encode(const char *text, size_t size, size_t *n) {
    return cli_encode(tokenizer, text, size, o.special, n);
}
/* puts what begins a text before it, where something must stand there eos, too. -> 1; 0: nothing
 * stands there */
static int begin(int32_t *tokens, int must) {
    tokens[-1] = cli_begin(special, must ? -1 : tokens[0]);
    return tokens[-1] >= 0;
}
/* before the first line of figures */
static void print_head(void) {
    static int printed;
    if (printed++) return;
    cli_print_model(llm_model_config(model));
    if (o.choices)
        printf("%10s %10s %8s %10s %8s %9s  file\n", "questions", "acc", "error", "acc_norm",
               "error", "chance");
    else
        printf("windows of %d tokens, each %d after the one before\n"
               "%10s %11s %11s %12s %10s  text\n", o.window, o.stride, "tokens", "bytes",
               "nats/token", "perplexity", "bits/byte");
}

/* ---- texts ----------------------------------------------------------------------------------- */
enum { TOKENS, BYTES, NATS, N_SUMS };
static void print_text(const double *sums, const char *name) {
    const double mean = sums[NATS] / sums[TOKENS];
    printf("%10.0f %11.0f %11.6f %12.4f", sums[TOKENS], sums[BYTES], mean, exp(mean));
    if (sums[BYTES] > 0) printf(" %10.6f", sums[NATS] / log(2) / sums[BYTES]);
    else printf(" %10s", "-");
    printf("  %s\n", name);
}
/* adds to the sums of all texts */
static void evaluate_text(const char *path, double *all) {
    size_t size, n, n_rows = 0, had = 1;             /* the tokens that earlier windows had */
    double sums[N_SUMS] = {0}, sum = 0;
    char *text = cli_read(path, &size);
    NEED(size, "%s: is empty", path);
    int32_t *const own = encode(text, size, &n), *tokens = own;
    free(text);
    const int begins = n && begin(tokens, 0);
    if (o.tokens && n > (size_t)o.tokens) n = (size_t)o.tokens;
    tokens -= begins;
    n += (size_t)begins;
    NEED(n > 1, "%s: %lu token, and two are needed, as nothing predicts the first", path,
         (unsigned long)n);
    row *rows = (row *)cli_alloc(n / (size_t)o.stride + 1, sizeof *rows);
    for (size_t at = 0, end = 0; end < n; at += (size_t)o.stride) {
        end = n - at < (size_t)o.window ? n : at + (size_t)o.window;
        const size_t from = had > at ? had : at + 1;
        for (size_t i = from; i < end; i++) sums[BYTES] += token_bytes[tokens[i]];
        if (from < end) {
            rows[n_rows++] = (row){tokens + at, (int)(end - at), (int)(from - at), &sum};
            sums[TOKENS] += (double)(end - from);
        }
        had = end;
    }
    score(rows, n_rows);
    sums[NATS] = -sum;
    print_head();
    print_text(sums, path);
    fflush(stdout);
    for (int i = 0; i < N_SUMS; i++) all[i] += sums[i];
    free(rows);
    free(own - 1);
}

/* ---- choices --------------------------------------------------------------------------------- */
typedef struct choice {
    int32_t *tokens;                                 /* as cli_encode gives them */
    double sum;                                      /* of log-probabilities */
    int n, bytes;                                    /* tokens and bytes of the choice */
} choice;
typedef struct question {
    int line, n, answer;
    choice choices[MOST_CHOICES];
} question;

static int is_blank(char c) { return c && strchr(" \t\n\r\v\f", c); }
/* one choice of a line -> the row to score; where: file and line, for messages; *cut becomes 1 if
 * the context is too long */
static row encode_choice(choice *c, cli_text context, cli_text text, const char *where, int *cut) {
    size_t alone = context.size, blanks = 0, n, n_context, from = 0;
    char *both = (char *)cli_alloc(context.size + text.size, 1);
    while (alone && is_blank(context.bytes[alone - 1])) alone--;
    while (blanks < text.size && is_blank(text.bytes[blanks])) blanks++;
    c->bytes = (int)(blanks < text.size ? text.size - blanks : text.size);
    memcpy(both, context.bytes, context.size);
    memcpy(both + context.size, text.bytes, text.size);
    c->tokens = encode(both, context.size + text.size, &n);
    int32_t *before = encode(both, alone, &n_context);
    while (from < n && from < n_context && c->tokens[from] == before[from]) from++;
    const int shown = text.size < 40 ? (int)text.size : 40;              /* in messages */
    NEED(from < n, "%s: choice \"%.*s\" has no token", where, shown, text.bytes);
    const int begins = begin(c->tokens, !from);
    NEED(begins || from, "%s: nothing is before choice \"%.*s\", and the model has no token that "
         "begins a text", where, shown, text.bytes);
    c->n = (int)(n - from);
    NEED(c->n <= o.window, "%s: choice \"%.*s\" has %d tokens, and a window %d", where, shown,
         text.bytes, c->n, o.window);
    row r = {c->tokens - begins, (int)n + begins, (int)from + begins, &c->sum};
    const int more = r.n - 1 - o.window;             /* the last token is not read */
    if (more > 0) r = (row){r.tokens + more, r.n - more, r.from - more, r.sum};
    *cut |= more > 0;
    free(before - 1);
    free(both);
    return r;
}
/* takes a line off the text -> 1; 0: it is empty */
static int read_question(char **text, size_t *left, question *q, row *rows, const char *where,
                         int *cut) {
    cli_text columns[MOST_CHOICES + 2];
    char number[8], *end;
    const int n = cli_take_columns(text, left, columns, MOST_CHOICES + 2);
    if (!n) return 0;
    q->n = n - 2;
    NEED(q->n > 1, "%s: %d columns, and a context, two choices or more, and an answer are wanted",
         where, n);
    NEED(q->n <= MOST_CHOICES, "%s: %d choices, and %d are the most", where, q->n, MOST_CHOICES);
    const cli_text *last = &columns[n - 1];
    snprintf(number, sizeof number, "%.*s", (int)last->size, last->bytes);
    q->answer = (int)strtol(number, &end, 10);
    NEED(end != number && !*end && last->size < sizeof number && q->answer >= 0 && q->answer < q->n,
         "%s: answer \"%.*s\" is not a whole number from 0 to %d", where, (int)last->size,
         last->bytes, q->n - 1);
    for (int i = 0; i < q->n; i++) {
        NEED(columns[1 + i].size, "%s: choice %d is empty", where, i);
        rows[i] = encode_choice(&q->choices[i], columns[0], columns[1 + i], where, cut);
    }
    return 1;
}
/* the choice whose score is highest, by its bytes if norm */
static int best_of(const question *q, int norm) {
    int best = 0;
    for (int i = 1; i < q->n; i++) {
        const choice *a = &q->choices[i], *b = &q->choices[best];
        const double d = norm ? a->sum / a->bytes - b->sum / b->bytes : a->sum - b->sum;
        if (d > 0) best = i;
    }
    return best;
}
enum { QUESTIONS, RIGHT, RIGHT_NORM, CHANCE, N_COUNTS };
static void print_accuracy(const double *counts, const char *name) {
    printf("%10.0f", counts[QUESTIONS]);
    for (int i = RIGHT; i <= RIGHT_NORM; i++) {
        const double p = counts[i] / counts[QUESTIONS], rest = counts[QUESTIONS] - 1;
        printf(" %10.4f %8.4f", p, rest > 0 ? sqrt(p * (1 - p) / rest) : 0);
    }
    printf(" %9.4f  %s\n", counts[CHANCE] / counts[QUESTIONS], name);
}
static void evaluate_choices(const char *path, double *all) {
    size_t left, n = 0, n_lines = 1, n_rows = 0;
    double counts[N_COUNTS] = {0};
    int n_cut = 0;
    char *const text = cli_read(path, &left), *at = text;
    for (size_t i = 0; i < left; i++) n_lines += text[i] == '\n';
    question *questions = (question *)cli_alloc(n_lines, sizeof *questions);
    row *rows = NULL;
    for (int line = 1; left; line++) {
        char where[300];
        int cut = 0;
        question *q = &questions[n];
        snprintf(where, sizeof where, "%.200s: line %d", path, line);
        NEED(rows = (row *)realloc(rows, (n_rows + MOST_CHOICES) * sizeof *rows), "out of memory");
        q->line = line;
        if (!read_question(&at, &left, q, rows + n_rows, where, &cut)) continue;
        n_rows += (size_t)q->n;
        n_cut += cut;
        n++;
    }
    NEED(n, "%s: is empty", path);
    if (n_cut)
        cli_note("%s: in %d lines of %lu the context is longer than a window of %d tokens: its end "
                 "is read", path, n_cut, (unsigned long)n, o.window);
    qsort(rows, n_rows, sizeof *rows, longer_first);
    score(rows, n_rows);
    print_head();
    for (const question *q = questions; q < questions + n; q++) {
        const int best = best_of(q, 0);
        counts[QUESTIONS]++;
        counts[RIGHT] += best == q->answer;
        counts[RIGHT_NORM] += best_of(q, 1) == q->answer;
        counts[CHANCE] += 1.0 / q->n;
        for (int i = 0; i < q->n; i++) {
            const choice *c = &q->choices[i];
            NEED(isfinite(c->sum), "%s: line %d: the score of choice %d is not finite", path,
                 q->line, i);
            if (o.verbose)
                printf("line %d, choice %d: %.6f of %d tokens, %d bytes%s%s\n", q->line, i, c->sum,
                       c->n, c->bytes, i == q->answer ? ", right" : "", i == best ? ", taken" : "");
            free(c->tokens - 1);
        }
    }
    print_accuracy(counts, path);
    fflush(stdout);
    for (int i = 0; i < N_COUNTS; i++) all[i] += counts[i];
    free(rows);
    free(questions);
    free(text);
}

int main(int argc, char **argv) {
    char **args = argv + (argc > 0);
    cli_path directory;                              /* of the model and its tokenizer */
    double sums[N_SUMS] = {0}, counts[N_COUNTS] = {0};
    cli_program = "evaluate";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args > 1, "a model and a file are wanted (--help says more)");
    if (o.choices) cli_no_effect(options, "--stride --tokens", "with --choices");
    else cli_no_effect(options, "--verbose", "without --choices");
    for (int i = 1; i < n_args; i++) TRY(cli_can_open(args[i], &error) >= 0);

    const llm_model_desc desc = {.n_threads = o.threads};
    cli_directory_of(directory, args[0], ".safetensors");
    TRY(model = llm_model_load(directory, &desc, &error));
    TRY(tokenizer = llm_tokenizer_load(directory, NULL, &error));
    special = llm_model_special_tokens(model);
    if (special.bos < 0 && !special.n_eos) special = cli_special_tokens(tokenizer);
    token_bytes = cli_token_bytes(tokenizer, llm_tokenizer_vocab_size(tokenizer));
    const int context = llm_model_config(model)->max_seq_len;
    NEED(context > 1, "%s has a context of one token, which predicts nothing", args[0]);
    if (!o.window) o.window = context < 1024 ? context : 1024;
    NEED(o.window <= context, "--window %d: %s has a context of %d", o.window, args[0], context);
    if (!o.stride) o.stride = o.window / 2;
    NEED(o.stride <= o.window, "--stride %d is above --window %d: tokens would be left out",
         o.stride, o.window);

    for (int i = 1; i < n_args; i++)
        if (o.choices) evaluate_choices(args[i], counts);
        else evaluate_text(args[i], sums);
    if (n_args > 2 && o.choices) print_accuracy(counts, "all");
    else if (n_args > 2) print_text(sums, "all");
    printf("%.1f s, %.0f tokens/s\n", seconds, seconds > 0 ? tokens_read / seconds : 0);
    cli_check_output();
    free(token_bytes);
    llm_tokenizer_free(tokenizer);
    llm_model_free(model);
    return 0;
}

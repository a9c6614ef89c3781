/* generate.c -- a model continues a prompt, and prints as it goes.
 *
 *     cc -O2 -fopenmp examples/generate.c -o generate -lm
 *     ./generate model "int main(" --temperature 0.7        (--help lists the options)
 *
 * The directory is one that train.c wrote, or one of GPT-2 in Hugging Face's layout. Expect the
 * prompt and its continuation on stdout, and the tokens per second on stderr. The same seed gives
 * the same text. */
#define LLM_IMPLEMENTATION
#include "../llm.h"

#define CHECK(ok, ...) /* ends the program unless ok; the rest as for printf */ \
    do { if (!(ok)) { fprintf(stderr, "generate: " __VA_ARGS__); exit(1); } } while (0)
#define TRY(ok) CHECK(ok, "%s\n", error.message)
static llm_error error;
static int help;

/* the number behind name in args (both become ""), or other; with --help, prints a line about it */
static double number(char **args, const char *name, double other, const char *about) {
    if (help) printf("  %-14s %s [%g]\n", name, about, other);
    for (; args[0] && args[1]; args++) {
        char *end;
        if (strcmp(args[0], name)) continue;
        other = strtod(args[1], &end);
        CHECK(end != args[1] && !*end && fabs(other) < 1e9, "%s %s: not a number below 1e9\n", name,
              args[1]);
        args[1] = args[0] += strlen(name);
    }
    return other;
}
static int integer(char **args, const char *name, int other, const char *about) {
    const double x = number(args, name, other, about);
    CHECK(x >= 0 && x == floor(x), "%s %.10g: not a whole number from 0 to 999999999\n", name, x);
    return (int)x;
}

/* text on its way out: a character of UTF-8 may be spread over several tokens */
typedef struct stream {
    const llm_tokenizer *tokenizer;
    int32_t stop;                      /* a token that is not printed */
    char text[1024];
    size_t n;                          /* bytes that wait for the rest of their character */
} stream;

static int print_token(int32_t token, void *user) {
    stream *s = (stream *)user;
    const size_t room = sizeof s->text - s->n;
    size_t added = 0, whole;
    if (token == s->stop) return 0;
    /* a model may have more tokens than its tokenizer: these add nothing */
    llm_tokenizer_decode(s->tokenizer, &token, 1, s->text + s->n, room, &added, NULL);
    s->n += added < room ? added : room;
    whole = llm_utf8_complete(s->text, s->n);
    fwrite(s->text, 1, whole, stdout);
    fflush(stdout);
    s->n -= whole;
    memmove(s->text, s->text + whole, s->n);
    return ferror(stdout);
}

int main(int argc, char **argv) {
    static llm_model_desc model_desc;                /* static: all zero, so all defaults */
    static llm_generate_desc desc;
    static stream out;
    llm_generate_stats stats;
    llm_tokenizer *tokenizer;
    llm_model *model;
    llm_session *session;
    const char *directory = NULL, *prompt = "";
    char **args = argv + (argc > 0);
    int32_t *tokens;
    size_t n = 0, size;

    for (int i = 0; args[i]; i++) help |= !strcmp(args[i], "--help") || !strcmp(args[i], "-h");
    if (help) printf("usage: generate DIRECTORY [PROMPT] [OPTION NUMBER]...\n");
    desc.max_new_tokens = integer(args, "--tokens", 200, "at most so many; 0 = what fits");
    desc.sampling.temperature = (float)number(args, "--temperature", 0.8, "0 = the likeliest");
    desc.sampling.top_k = integer(args, "--top-k", 0, "only the k likeliest; 0 = all");
    desc.sampling.top_p = (float)number(args, "--top-p", 0.95, "only the likeliest of this mass");
    desc.sampling.min_p = (float)number(args, "--min-p", 0, "none below this share of the top");
    desc.sampling.repetition_penalty = (float)number(args, "--penalty", 0, "on repetition, as 1.2");
    desc.sampling.seed = (uint64_t)integer(args, "--seed", 1, "of the random numbers");
    model_desc.n_threads = integer(args, "--threads", 0, "0 = what OpenMP says");
    if (help) return 0;
    for (; *args; args++) {
        CHECK(strncmp(*args, "--", 2), "%s: unknown, or without a number (see --help)\n", *args);
        if (!**args) continue;
        CHECK(!*prompt, "%s: the prompt was given before; put quotes around it\n", *args);
        if (directory) prompt = *args;
        else directory = *args;
    }
    CHECK(directory, "which directory? (see --help)\n");

    TRY(tokenizer = llm_tokenizer_load(directory, NULL, &error));
    TRY(model = llm_model_load(directory, &model_desc, &error));
    TRY(session = llm_session_create(model, NULL, &error));
    out.stop = llm_tokenizer_token(tokenizer, "<|endoftext|>", 13);   /* -1: there is none */
    size = strlen(prompt);
    tokens = (int32_t *)malloc((size + 1) * sizeof *tokens);    /* one per byte, and a space */
    CHECK(tokens, "out of memory\n");
    TRY(!llm_tokenizer_encode(tokenizer, prompt, size, 1, tokens, size + 1, &n, &error));
    if (!n) tokens[n++] = out.stop;                                   /* a text starts after one */
    out.tokenizer = tokenizer;
    desc.stop_tokens = &out.stop;
    desc.n_stop_tokens = 1;
    desc.on_token = print_token;
    desc.user = &out;
    printf("%s", prompt);
    const llm_result result =
        llm_generate(session, tokens, (int)n, &desc, NULL, 0, &stats, &error);
    printf("\n");
    CHECK(!fflush(stdout) && !ferror(stdout), "standard output: %s\n", strerror(errno));
    TRY(!result);
    fprintf(stderr, "prompt: %d tokens, %.0f tokens/s; then %d tokens, %.0f tokens/s\n",
            stats.n_prompt, stats.n_prompt / stats.prefill_seconds, stats.n_generated,
            stats.n_generated / stats.decode_seconds);
    free(tokens);
    llm_session_free(session);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}

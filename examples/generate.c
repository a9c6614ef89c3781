/* generate.c -- a model continues a prompt, and prints as it goes.
 *
 *     cc -O2 examples/generate.c -o generate -lm
 *     ./generate model "int main(" --temperature 0.7        (--help lists the options)
 *
 * The directory is one that train.c wrote, or one of GPT-2 or DeepSeek-V3 in Hugging Face's layout;
 * a .gguf file with its tokenizer does as well.
 * Expect the prompt and its continuation, up to the end of the text or of the model's context, on
 * stdout, and the tokens per second on stderr. The same seed gives the same text. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"

static struct {
    int tokens, top_k, seed, threads;
    double temperature, top_p, min_p, penalty;
} o;
static cli_option options[] = {
    CLI_WHOLE("--tokens", &o.tokens, "200", 0, "at most so many; 0 = as many as fit"),
    CLI_NUMBER("--temperature", &o.temperature, "0.8", 0, 1e6, "0 = always the likeliest token"),
    CLI_WHOLE("--top-k", &o.top_k, "0", 0, "only the k likeliest; 0 = all"),
    CLI_NUMBER("--top-p", &o.top_p, "0.95", 0, 1, "only the likeliest of this mass; 0 = all"),
    CLI_NUMBER("--min-p", &o.min_p, "0", 0, 1, "none below this share of the likeliest"),
    CLI_NUMBER("--penalty", &o.penalty, "1", 0.01, 100, "on tokens that the prompt or the text has "
               "already, as 1.2; 1 = none"),
    CLI_WHOLE("--seed", &o.seed, "1", 0, "of the random numbers"),
    CLI_WHOLE("--threads", &o.threads, "0", 0, "0 = all cores"),
    CLI_END
};
static const char usage[] =
    "usage: generate DIRECTORY [PROMPT] [OPTION]...\n"
    "The directory, or .gguf file, is that of a model with its tokenizer; the prompt \"-\": the\n"
    "standard input.\n";

/* the prompt's tokens; before them bos, unless that is eos; for an empty prompt one of the two */
static int32_t *encode(const llm_tokenizer *tokenizer, llm_special_tokens special,
                       const char *prompt, size_t size, int *n) {
    const int32_t eos = special.n_eos ? special.eos[0] : -1;
    int32_t *tokens = (int32_t *)cli_alloc(size + 2, sizeof *tokens), *text = tokens + 1;
    size_t count;
    TRY(!llm_tokenizer_encode(tokenizer, prompt, size, 1, text, size + 1, &count, &error));
    tokens[0] = special.bos >= 0 ? special.bos : eos;
    const int begins = count ? special.bos >= 0 && special.bos != eos && text[0] != special.bos : 1;
    NEED(count || tokens[0] >= 0, "give a prompt: the model has no token that begins a text");
    if (!begins) memmove(tokens, text, count * sizeof *tokens);
    *n = (int)count + begins;
    return tokens;
}

int main(int argc, char **argv) {
    cli_path directory;                              /* of the model and its tokenizer */
    cli_stream out = {.n = 0};
    llm_generate_stats stats;
    llm_memory memory;
    char **args = argv + (argc > 0);
    cli_program = "generate";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args, "which directory? (--help says more)");
    NEED(n_args < 3, "%s: the prompt was given before; put quotes around it", args[2]);
    if (o.temperature == 0)
        cli_no_effect(options, "--top-k --top-p --min-p --seed", "with --temperature 0");
    const llm_model_desc model_desc = {.n_threads = o.threads};
    llm_generate_desc desc = {
        .sampling.temperature = (float)o.temperature,
        .sampling.top_k = o.top_k,
        .sampling.top_p = (float)o.top_p,
        .sampling.min_p = (float)o.min_p,
        .sampling.repetition_penalty = (float)o.penalty,
        .sampling.seed = (uint64_t)o.seed,
        .max_new_tokens = o.tokens,
        .on_token = cli_print_token,
        .user = &out};

    cli_directory_of(directory, args[0], ".safetensors");
    llm_model *model = llm_model_load(directory, &model_desc, &error);
    TRY(model);
    llm_tokenizer *tokenizer = llm_tokenizer_load(directory, NULL, &error);
    TRY(tokenizer);
    llm_special_tokens special = llm_model_special_tokens(model);
    if (!special.n_eos) {                            /* then the tokenizer may say it */
        special = cli_special_tokens(tokenizer);
        desc.stop_tokens = special.eos;
        desc.n_stop_tokens = special.n_eos;
    }
    const char *given = n_args > 1 ? args[1] : "";
    const int context = llm_model_config(model)->max_seq_len;
    size_t size = strlen(given);
    char *read = strcmp(given, "-") ? NULL : cli_read("-", &size);
    const char *prompt = read ? read : given;
    int n;
    int32_t *tokens = encode(tokenizer, special, prompt, size, &n);
    NEED(n < context, "the prompt has %d tokens, and %s reads %d at most", n, directory, context);
    const llm_session_desc session_desc = {
        .max_seq_len = o.tokens && o.tokens < context - n ? n + o.tokens : context};
    TRY(!llm_session_memory(llm_model_config(model), &session_desc, &memory, &error));
    if (memory.total > 1000000000)
        cli_note("a session of %d tokens takes %.1f GB", session_desc.max_seq_len,
                 1e-9 * (double)memory.total);
    llm_session *session = llm_session_create(model, &session_desc, &error);
    TRY(session);

    out.tokenizer = tokenizer;
    out.ends = special;
    fwrite(prompt, 1, size, stdout);
    const llm_result result = llm_generate(session, tokens, n, &desc, NULL, 0, &stats, &error);
    printf("\n");
    cli_check_output();
    TRY(!result);
    fprintf(stderr, "prompt: %d tokens, %.0f tokens/s; then %d tokens, %.0f tokens/s%s\n",
            stats.n_prompt, stats.n_prompt / stats.prefill_seconds, stats.n_generated,
            stats.n_generated / stats.decode_seconds,
            n + stats.n_generated == context ? "; the model's context is full" : "");
    free(tokens);
    free(read);
    llm_session_free(session);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}

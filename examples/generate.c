/* generate.c -- a model continues a prompt, and prints as it goes.
 *
 *     cc -O2 examples/generate.c -o generate -lm
 *     ./generate model "int main(" --temperature 0.7        (--help lists the options)
 *
 * The directory is one that train.c wrote, or one of GPT-2 or DeepSeek-V3 in Hugging Face's layout;
 * a .gguf file with its tokenizer does as well. Expect the prompt and its continuation, up to the
 * end of the text or of the model's context, on stdout, and the tokens per second on stderr. A seed
 * gives the same text, alone or among several. MTP modules draft, which changes no token. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"

static struct {
    const char *file;
    cli_list stop;
    int tokens, n, top_k, seed, threads;
    double temperature, top_p, min_p, penalty, presence, frequency;
} o;
static cli_option options[] = {
    CLI_STRING("--file", &o.file, "", "has the prompt, to its last byte"),
    CLI_WHOLE("--tokens", &o.tokens, "200", 0, "at most so many; 0 = as many as fit"),
    CLI_WHOLE("--n", &o.n, "1", 1, "texts, made together: with this seed, the next, .."),
    CLI_MANY("--stop", &o.stop, "ends a text, and is left out; may be given again; \\n: new line"),
    CLI_NUMBER("--temperature", &o.temperature, "0.8", 0, 1e6, "0 = always the likeliest token"),
    CLI_WHOLE("--top-k", &o.top_k, "0", 0, "only the k likeliest; 0 = all"),
    CLI_NUMBER("--top-p", &o.top_p, "0.95", 0, 1, "only the likeliest of this mass; 0 = all"),
    CLI_NUMBER("--min-p", &o.min_p, "0", 0, 1, "none below this share of the likeliest"),
    CLI_NUMBER("--penalty", &o.penalty, "1", 0.01, 100, "on tokens there already; 1 = none"),
    CLI_NUMBER("--presence", &o.presence, "0", -100, 100, "off logits of tokens in the new text"),
    CLI_NUMBER("--frequency", &o.frequency, "0", -100, 100, "off them for each time it has them"),
    CLI_WHOLE("--seed", &o.seed, "1", 0, "of the random numbers"),
    CLI_WHOLE("--threads", &o.threads, "0", 0, "0 = all cores"),
    CLI_END
};
static const char usage[] =
    "usage: generate DIRECTORY [PROMPT] [OPTION]...\n"
    "The directory, or .gguf file, is that of a model with its tokenizer; the prompt \"-\": the\n"
    "standard input.\n";

/* What llm_generate does, for o.n sequences at once, after one evaluation of their prompt; V:
 * vocabulary; room: for new tokens. -> how many the longest has */
static int generate_all(llm_session *session, const int32_t *prompt, int n, size_t V, int room,
                        llm_sampling sampling, cli_stream *out, llm_generate_stats *stats) {
    const double start = cli_seconds();
    float *logits = (float *)cli_alloc((size_t)o.n * V, sizeof *logits);
    int32_t *next = (int32_t *)cli_alloc((size_t)o.n, sizeof *next);
    int k = 0;
    TRY(!llm_session_eval(session, 0, prompt, n, logits, &error));
    for (int i = 1; i < o.n; i++) TRY(!llm_session_copy(session, i, 0, n, &error));
    *stats = (llm_generate_stats){.n_prompt = n, .prefill_seconds = cli_seconds() - start};
    for (int live = 1; live && k < room; k++) {
        if (k) TRY(!llm_session_eval_batch(session, next, logits, &error));
        live = 0;
        for (int i = 0; i < o.n; i++) {
            next[i] = -1;
            if (out[i].ended) continue;
            sampling.seed = (uint64_t)o.seed + (uint64_t)i;
            TRY(!llm_sample(llm_session_context(session), &next[i],
                            logits + (k ? (size_t)i * V : 0), (int)V, &sampling,
                            llm_session_tokens(session, i), n + k, k, (uint64_t)k, &error));
            cli_print_token(next[i], &out[i]);
            stats->n_generated++;
            live += !out[i].ended;
        }
    }
    stats->decode_seconds = cli_seconds() - start - stats->prefill_seconds;
    free(next);
    free(logits);
    return k;
}

int main(int argc, char **argv) {
    cli_path directory;                              /* of the model and its tokenizer */
    llm_model *model;
    llm_tokenizer *tokenizer;
    llm_session *session;
    llm_generate_stats stats;
    size_t size, count;                              /* of the prompt: bytes, tokens */
    int longest;                                     /* new tokens of one text */
    char **args = argv + (argc > 0);
    cli_program = "generate";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args, "which directory? (--help says more)");
    NEED(n_args < 3, "%s: the prompt was given before; put quotes around it", args[2]);
    NEED(n_args < 2 || !*o.file, "--file %s: the prompt was given before", o.file);
    if (o.temperature == 0)
        cli_no_effect(options, "--n --top-k --top-p --min-p --seed", "with --temperature 0");
    const llm_model_desc model_desc = {.n_threads = o.threads};
    llm_generate_desc desc = {
        .sampling = {.temperature = (float)o.temperature, .top_k = o.top_k, .top_p = (float)o.top_p,
                     .min_p = (float)o.min_p, .repetition_penalty = (float)o.penalty,
                     .presence_penalty = (float)o.presence, .seed = (uint64_t)o.seed,
                     .frequency_penalty = (float)o.frequency},
        .max_new_tokens = o.tokens, .on_token = cli_print_token};
    cli_directory_of(directory, args[0], ".safetensors");
    TRY(model = llm_model_load(directory, &model_desc, &error));
    TRY(tokenizer = llm_tokenizer_load(directory, NULL, &error));
    const llm_config *config = llm_model_config(model);
    const llm_special_tokens special = cli_special_of(model, tokenizer);
    desc.stop_tokens = special.eos;
    desc.n_stop_tokens = special.n_eos ? special.n_eos : -1;
    char *prompt = cli_given_text(o.file, n_args > 1 ? args[1] : "", &size);
    int32_t *text = cli_encode(tokenizer, prompt, size, 1, &count);
    text[-1] = cli_begin(special, count ? *text : -1);
    const int32_t *tokens = text - (text[-1] >= 0);
    const int n = (int)count + (tokens < text), context = config->max_seq_len, room = context - n;
    NEED(n, "give a prompt: the model has no token that begins a text");
    NEED(room > 0, "the prompt has %d tokens, and %s reads %d at most", n, directory, context);
    desc.speculate = config->mtp_depth && o.n == 1;
    const llm_session_desc session_desc = {
        .max_seq_len = o.tokens && o.tokens < room ? n + o.tokens : context, .n_sequences = o.n,
        .speculate = desc.speculate};
    cli_note_session(config, &session_desc);
    TRY(session = llm_session_create(model, &session_desc, &error));
    cli_stream *out = (cli_stream *)cli_alloc((size_t)o.n, sizeof *out);
    for (int i = 0; i < o.n; i++) out[i] = cli_stream_of(tokenizer, special, &o.stop, o.n > 1);
    desc.user = out;
    if (o.n > 1) {
        longest = generate_all(session, tokens, n, (size_t)config->vocab_size,
                               session_desc.max_seq_len - n, desc.sampling, out, &stats);
    } else {
        fwrite(prompt, 1, size, stdout);
        const llm_result result = llm_generate(session, tokens, n, &desc, NULL, 0, &stats, &error);
        cli_check_output();
        TRY(!result || out->ended);                  /* a stop text cancels it */
        longest = stats.n_generated;
    }
    for (int i = 0; i < o.n; i++) {
        if (o.n > 1) printf("%s==> %d of %d, seed %d\n%.*s", i ? "\n" : "", i + 1, o.n, o.seed + i,
                            (int)size, prompt);
        cli_end_text(&out[i]);
    }
    cli_check_output();
    fprintf(stderr, "prompt: %d tokens, %.0f tokens/s; then %d tokens, %.0f tokens/s",
            n, n / stats.prefill_seconds, stats.n_generated,
            stats.n_generated / stats.decode_seconds);
    if (stats.n_drafted)
        fprintf(stderr, "; %d of %d drafts were right", stats.n_accepted, stats.n_drafted);
    fprintf(stderr, "%s\n", longest == room ? "; the model's context is full" : "");
    free(out);
    free(text - 1);
    free(prompt);
    llm_session_free(session);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}

/* chat.c -- a conversation with a model.
 *
 *     cc -O2 examples/chat.c -o chat -lm
 *     ./chat model --system "You answer in one sentence."   (--help lists options and commands)
 *
 * The directory or .gguf file is that of a model with its tokenizer. Expect its answers as they
 * come, and on a terminal a line about tokens and time after each. Messages are lines of the
 * standard input, so that a script can hold a conversation, too. The session keeps what it has
 * read: a turn evaluates only what is new. The format is recognised from the model's template;
 * chat.h has those that are known. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"
#include "chat.h"
#include <signal.h>

static struct {
    const char *system, *format, *prefix[3], *suffix, *prompt, *tokens_of;
    int tokens, top_k, seed, threads, context, cache, drop, verbose;
    double temperature, top_p, min_p, penalty;
} o;
static cli_option options[] = {
    CLI_STRING("--system", &o.system, "", "the message that tells the model what to be"),
    CLI_STRING("--format", &o.format, "", "of a conversation; by default that of the template "
               "which the model brings"),
    CLI_STRING("--user-prefix", &o.prefix[CHAT_USER], "", "a format of your own: what stands "
               "before your messages; in it, \\n is a new line. An answer ends where it comes"),
    CLI_STRING("--assistant-prefix", &o.prefix[CHAT_ASSISTANT], "", "before answers"),
    CLI_STRING("--system-prefix", &o.prefix[CHAT_SYSTEM], "", "before the system message"),
    CLI_STRING("--suffix", &o.suffix, "", "after each message"),
    CLI_WHOLE("--tokens", &o.tokens, "0", 0, "of an answer, at most; 0 = as many as fit"),
    CLI_NUMBER("--temperature", &o.temperature, "0.8", 0, 1e6, "0 = always the likeliest token"),
    CLI_WHOLE("--top-k", &o.top_k, "0", 0, "only the k likeliest; 0 = all"),
    CLI_NUMBER("--top-p", &o.top_p, "0.95", 0, 1, "only the likeliest of this mass; 0 = all"),
    CLI_NUMBER("--min-p", &o.min_p, "0", 0, 1, "none below this share of the likeliest"),
    CLI_NUMBER("--penalty", &o.penalty, "1", 0.01, 100, "on tokens that were there; 1 = none"),
    CLI_WHOLE("--seed", &o.seed, "1", 0, "of the random numbers"),
    CLI_WHOLE("--threads", &o.threads, "0", 0, "0 = all cores"),
    CLI_WHOLE("--context", &o.context, "the model's, at most 4096", 1, "tokens that there is room "
              "for; their memory is taken at once"),
    CLI_CHOICE("--cache", &o.cache, "f32|f16|bf16|q8_0", "how they are kept"),
    CLI_SWITCH("--drop-oldest", &o.drop, "the oldest turns go where the context is full"),
    CLI_SWITCH("--verbose", &o.verbose, "the line about tokens and time is not for terminals only"),
    CLI_STRING("--print-prompt", &o.prompt, "", "prints the text that a JSON list of {\"role\", "
               "\"content\"} becomes, with what begins the answer, and ends"),
    CLI_STRING("--print-tokens", &o.tokens_of, "", "or its tokens"),
    CLI_END
};
static const char usage[] =
    "usage: chat DIRECTORY [OPTION]...\n"
    "The directory, or .gguf file, is that of a model with its tokenizer. A line is a message; with\n"
    "\\ at its end, it goes on in the next. Ctrl-C ends an answer, twice the program. Commands:\n"
    "  /reset           begins again       /undo            takes the last turn back\n"
    "  /system TEXT     another system message; without TEXT none\n"
    "  /quit            as the end of the input does        //...    a message that begins with /\n";

static chat_format format;
static llm_tokenizer *tokenizer;
static llm_session *session;
static llm_detokenizer *detokenizer;
static llm_generate_desc desc;
static chat_message *talk;             /* contents and tokens are its own                         */
static int n_talk, stopped;            /* stopped: at format.stop                                 */
static char *said;                     /* the answer so far                                       */
static size_t n_said;
static volatile sig_atomic_t answering, interrupted;

static void interrupt(int number) {
    signal(number, interrupt);
    if (!answering || interrupted) _exit(130);
    interrupted = 1;
}
/* puts a message at place i */
static void add(int i, int role, const char *text, size_t size) {
    char *content = (char *)cli_alloc(size + 1, 1);
    memcpy(content, text, size);
    talk = (chat_message *)realloc(talk, (size_t)(n_talk + 1) * sizeof *talk);
    NEED(talk, "out of memory");
    memmove(talk + i + 1, talk + i, (size_t)(n_talk++ - i) * sizeof *talk);
    talk[i] = (chat_message){role, content, size, NULL, 0};
}
static void take(int i) {
    free((void *)talk[i].content);
    free((void *)talk[i].tokens);
    memmove(talk + i, talk + i + 1, (size_t)(--n_talk - i) * sizeof *talk);
}
static void set_system(const char *text) {
    if (n_talk && talk[0].role == CHAT_SYSTEM) take(0);
    if (*text) add(0, CHAT_SYSTEM, text, strlen(text));
}
/* a line, and those that it goes on in; NULL: there are no more */
static char *read_message(size_t *size) {
    static char *line;
    static size_t room;
    int c = 0;
    for (*size = 0; c != '\n' && (c = getchar()) != EOF;) {
        if (*size + 2 > room) line = (char *)realloc(line, room = 2 * room + 256);
        NEED(line, "out of memory");
        line[(*size)++] = (char)c;
        if (c != '\n' || *size < 2 || line[*size - 2] != '\\') continue;
        line[--*size - 1] = '\n';
        c = 0;
    }
    if (!*size) return NULL;
    while (*size && (line[*size - 1] == '\n' || line[*size - 1] == '\r')) --*size;
    line[*size] = 0;
    return line;
}
static void print(const char *text, size_t size) {
    NEED(said = (char *)realloc(said, n_said + size + 1), "out of memory");
    memcpy(said + n_said, text, size);
    n_said += size;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
}
static int on_token(int32_t token, void *user) {
    const char *text;
    size_t size;
    int stop = -1;
    (void)user;
    for (int i = 0; i < desc.n_stop_tokens; i++)
        if (token == desc.stop_tokens[i]) return 0;
    TRY(!llm_detokenizer_add(detokenizer, token, &text, &size, &stop, &error));
    print(text, size);
    stopped = stop >= 0;
    return stopped || interrupted || ferror(stdout);
}
/* Drops the oldest turns, if that is wanted, until the conversation and an answer fit. -> its tokens;
 * NULL and error */
static int32_t *fit(int context, size_t *n) {
    const int room = !o.drop ? 1 : o.tokens && o.tokens < context / 4 ? o.tokens : context / 4 + 1;
    for (;;) {
        int32_t *tokens = chat_tokens(&format, tokenizer, talk, n_talk, 1, n, &error);
        const int first = talk[0].role == CHAT_SYSTEM;
        if (!tokens || *n + (size_t)room <= (size_t)context) return tokens;
        free(tokens);
        snprintf(error.message, sizeof error.message, "%lu tokens, and there is room for %d: %s",
                 (unsigned long)*n, context, !o.drop ? "/undo, /reset or --drop-oldest"
                                                     : "even without the turns before");
        if (!o.drop || first + 1 == n_talk) return NULL;
        do take(first); while (first + 1 < n_talk && talk[first].role != CHAT_USER);
    }
}
/* to the last message, which is taken back where there can be no answer */
static void answer(int context) {
    llm_generate_stats stats;
    const char *rest;
    size_t n, size, same = 0;
    int32_t *tokens = fit(context, &n), *fresh = (int32_t *)cli_alloc((size_t)context, 4);
    const int32_t *held = llm_session_tokens(session, 0);
    const size_t length = (size_t)llm_session_length(session, 0);
    while (tokens && same < length && same + 1 < n && tokens[same] == held[same]) same++;
    interrupted = stopped = 0;
    n_said = 0;
    answering = 1;
    if (tokens) {
        TRY(!llm_session_rewind(session, 0, (int)same, &error));
        error.code = llm_generate(session, tokens + same, (int)(n - same), &desc, fresh, context,
                                  &stats, &error);
    }
    answering = 0;
    free(tokens);
    if (!tokens || (error.code && error.code != LLM_ERR_CANCELLED)) {
        cli_note("%s", error.message);
        take(n_talk - 1);
        free(fresh);
        return;
    }
    llm_detokenizer_finish(detokenizer, &rest, &size);
    print(rest, size);
    printf("\n");
    cli_check_output();
    desc.counter += (uint64_t)stats.n_generated;
    const int full = (int)n + stats.n_generated == context;
    int kept = stats.n_generated;
    for (int i = 0; kept && i < desc.n_stop_tokens; i++)
        if (fresh[stats.n_generated - 1] == desc.stop_tokens[i]) kept = stats.n_generated - 1;
    add(n_talk, CHAT_ASSISTANT, said, n_said);
    talk[n_talk - 1].tokens = stopped ? NULL : fresh;
    talk[n_talk - 1].n_tokens = (size_t)kept;
    if (stopped) free(fresh);
    if (full && kept == stats.n_generated) cli_note("the context of %d tokens is full", context);
    if (o.verbose || isatty(2))
        fprintf(stderr, "[%d of %lu tokens read, %.0f tokens/s; %d written, %.0f tokens/s]\n",
                stats.n_prompt, (unsigned long)n, stats.n_prompt / stats.prefill_seconds,
                stats.n_generated, stats.n_generated / stats.decode_seconds);
}
/* the prompt made of a JSON list, as a text or as tokens */
static int print_prompt(const char *path, int as_text) {
    llmi_json json;
    size_t size, n = 0;
    int count;
    char *file = cli_read(path, &size), *text = NULL;
    int32_t *tokens = NULL;
    TRY(!llmi_json_parse(&json, file, size, path, NULL, &error));
    chat_message *messages = chat_messages(&json, 0, &count, &error);
    TRY(messages);
    if (as_text) text = chat_text(&format, tokenizer, messages, count, 1, &n, &error);
    else tokens = chat_tokens(&format, tokenizer, messages, count, 1, &n, &error);
    TRY(text || tokens);
    if (text) fwrite(text, 1, n, stdout);
    else for (size_t i = 0; i < n; i++) printf("%d%c", tokens[i], i + 1 < n ? ' ' : '\n');
    cli_check_output();
    return 0;
}
/* -> 0: the conversation ends */
static int command(const char *line) {
    int n = n_talk;
    if (!strcmp(line, "/quit")) return 0;
    if (!strcmp(line, "/help")) fprintf(stderr, "%s", usage);
    else if (!strncmp(line, "/system", 7) && strchr(" ", line[7])) set_system(line + 7 + (line[7] > 0));
    else if (!strcmp(line, "/undo") || !strcmp(line, "/reset")) {
        const int first = n_talk && talk[0].role == CHAT_SYSTEM, all = !strcmp(line, "/reset");
        while (n > first && (all || talk[n - 1].role != CHAT_USER)) n--;
        if (!all && n == first) cli_note("there is no turn to take back");
        while (n_talk > first && n_talk >= n + all) take(n_talk - 1);
        if (all) desc.counter = 0;
    } else cli_note("%s: there is no such command; /help lists them", line);
    return 1;
}

int main(int argc, char **argv) {
    static const llm_dtype cache[] = {LLM_F32, LLM_F16, LLM_BF16, LLM_Q8_0};
    cli_path directory;                              /* of the model and its tokenizer */
    int32_t ends[CHAT_ENDS];
    char **args = argv + (argc > 0), *line;
    size_t size;
    cli_program = "chat";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args == 1, "%s (--help says more)", n_args ? "one directory" : "which directory?");
    const char **const texts[] = {&o.prefix[0], &o.prefix[1], &o.prefix[2], &o.suffix};
    int own = 0;
    for (int i = 0; i < 4; i++)
        if (**texts[i] && ++own) ((char *)*texts[i])[cli_unescape((char *)*texts[i],
                                                                  strlen(*texts[i]))] = 0;
    if (own) cli_no_effect(options, "--format", "with prefixes of your own");
    if (o.temperature == 0)
        cli_no_effect(options, "--top-k --top-p --min-p --seed", "with --temperature 0");

    cli_directory_of(directory, args[0], ".safetensors");
    tokenizer = llm_tokenizer_load(directory, NULL, &error);
    TRY(tokenizer);
    const char *template = llm_tokenizer_chat_template(tokenizer);
    if (own) chat_own(&format, o.prefix, o.suffix);
    else NEED(!chat_pick(&format, o.format, template, &error), "%s%s", error.message,
              *o.format ? "" : "; give --format, or --user-prefix and --assistant-prefix");
    if (*o.prompt || *o.tokens_of)
        return print_prompt(*o.prompt ? o.prompt : o.tokens_of, *o.prompt);
    if (!own && !*o.format && !template)
        cli_note("the model brings no template: nothing stands around messages (--format none)");
    const llm_model_desc model_desc = {.n_threads = o.threads};
    llm_model *model = llm_model_load(directory, &model_desc, &error);
    TRY(model);
    const int most = llm_model_config(model)->max_seq_len;
    const int context = o.context ? o.context : most < 4096 ? most : 4096;
    const llm_session_desc session_desc = {.max_seq_len = context, .cache_dtype = cache[o.cache]};
    session = llm_session_create(model, &session_desc, &error);
    TRY(session);
    const llm_detokenizer_desc reading = {.stop = &format.stop, .n_stop = format.stop != NULL};
    detokenizer = llm_detokenizer_create(tokenizer, &reading, &error);
    TRY(detokenizer);
    llm_special_tokens special = llm_model_special_tokens(model);
    if (!special.n_eos) special = cli_special_tokens(tokenizer);
    desc = (llm_generate_desc){
        .sampling.temperature = (float)o.temperature, .sampling.top_k = o.top_k,
        .sampling.top_p = (float)o.top_p, .sampling.min_p = (float)o.min_p,
        .sampling.repetition_penalty = (float)o.penalty, .sampling.seed = (uint64_t)o.seed,
        .max_new_tokens = o.tokens, .stop_tokens = ends, .on_token = on_token,
        .n_stop_tokens = chat_ends(&format, tokenizer, special, ends)};
    if (!desc.n_stop_tokens) desc.n_stop_tokens = -1;

    set_system(o.system);
    signal(SIGINT, interrupt);
    for (;;) {
        if (isatty(0)) printf("> ");
        fflush(stdout);
        line = read_message(&size);
        if (!line || (line[0] == '/' && line[1] != '/' && !command(line))) break;
        if (!*line || (line[0] == '/' && line[1] != '/')) continue;
        if (!isatty(0)) printf("> %s\n", line);      /* a record of both sides */
        add(n_talk, CHAT_USER, line + (*line == '/'), size - (*line == '/'));
        answer(context);
    }
    chat_free(&format);
    llm_detokenizer_free(detokenizer);
    llm_session_free(session);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}

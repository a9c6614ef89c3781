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
    CLI_STRING("--answer-prefix", &o.prefix[CHAT_ASSISTANT], "", "before answers"),
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
    CLI_SWITCH("--verbose", &o.verbose, "the line about tokens and time even into a file"),
    CLI_STRING("--print-prompt", &o.prompt, "", "prints the text that a JSON list of {\"role\", "
               "\"content\"} becomes, with what begins the answer, and ends"),
    CLI_STRING("--print-tokens", &o.tokens_of, "", "or its tokens"),
    CLI_END
};
static const char usage[] =
    "usage: chat DIRECTORY [OPTION]...\n"
    "The directory, or .gguf file, is that of a model with its tokenizer. A line is a message;\n"
    "with \\ at its end it goes on in the next. Ctrl-C ends an answer, twice the program.\n"
    "  /undo            takes the last turn back\n"
    "  /reset           begins again\n"
    "  /system TEXT     another system message; without TEXT none\n"
    "  //...            a message that begins with /; /help and /quit are the other commands\n";

static chat_format format;
static llm_tokenizer *tokenizer;
static llm_session *session;
static llm_detokenizer *detokenizer;
static llm_generate_desc desc;
static chat_talk talk;
static int context, stopped;           /* stopped: at format.stop                                 */
static char *said;                     /* the answer so far                                       */
static size_t n_said;
static volatile sig_atomic_t answering, interrupted;

static void interrupt(int number) {
    signal(number, interrupt);
    if (!answering || interrupted) _exit(130);
    interrupted = 1;
}
static void set_system(const char *text) {
    if (chat_systems(&talk)) chat_take(&talk, 0, 1);
    if (*text) TRY(!chat_put(&talk, 0, CHAT_SYSTEM, text, strlen(text), &error));
}
/* a line, and those that it goes on in; NULL: there are no more */
static char *read_message(void) {
    static char *line;
    static size_t room;
    size_t n = 0;
    for (int c = 0; c != '\n' && (c = getchar()) != EOF;) {
        if (n + 2 > room) line = (char *)realloc(line, room = 2 * room + 256);
        NEED(line, "out of memory");
        line[n++] = (char)c;
        if (c != '\n' || n < 2 || line[n - 2] != '\\') continue;
        line[--n - 1] = '\n';
        c = 0;
    }
    if (!n) return NULL;
    while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
    line[n] = 0;
    return line;
}

/* ---- an answer ------------------------------------------------------------------------------- */
static void print(const char *text, size_t size) {
    NEED(said = (char *)realloc(said, n_said + size + 1), "out of memory");
    memcpy(said + n_said, text, size);
    n_said += size;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
}
static int is_end(int32_t token) {
    for (int i = 0; i < desc.n_stop_tokens; i++)
        if (token == desc.stop_tokens[i]) return 1;
    return 0;
}
static int on_token(int32_t token, void *user) {
    const char *text;
    size_t size;
    int stop;
    (void)user;
    if (is_end(token)) return 0;
    TRY(!llm_detokenizer_add(detokenizer, token, &text, &size, &stop, &error));
    print(text, size);
    stopped = stop >= 0;
    return stopped || interrupted || ferror(stdout);
}
/* answers the last message, which is taken back where there can be no answer */
static void answer(void) {
    llm_generate_stats stats;
    const char *rest;
    size_t n, size, same = 0;
    const int room = o.tokens && o.tokens < context / 4 ? o.tokens : context / 4 + 1;
    const int before = talk.n;
    int32_t *tokens = chat_fit(&format, tokenizer, &talk, context, room, o.drop, &n, &error);
    int32_t *fresh = (int32_t *)cli_alloc((size_t)context, sizeof *fresh);
    const int32_t *held = llm_session_tokens(session, 0);
    const size_t length = (size_t)llm_session_length(session, 0);
    llm_result result = LLM_ERR_ARGUMENT;
    while (tokens && same < length && same + 1 < n && tokens[same] == held[same]) same++;
    if (talk.n < before)
        cli_note("the context of %d tokens is full: the first %d messages go", context,
                 before - talk.n);
    interrupted = stopped = 0;
    n_said = 0;
    if (tokens) {
        TRY(!llm_session_rewind(session, 0, (int)same, &error));
        answering = 1;
        result = llm_generate(session, tokens + same, (int)(n - same), &desc, fresh, context,
                              &stats, &error);
        answering = 0;
    }
    if (result && result != LLM_ERR_CANCELLED) {
        cli_note("%s%s", error.message, tokens || o.drop ? "" : ": /undo, /reset or --drop-oldest");
        chat_take(&talk, talk.n - 1, 1);
        free(tokens);
        free(fresh);
        return;
    }
    free(tokens);
    llm_detokenizer_finish(detokenizer, &rest, &size);
    print(rest, size);
    printf("\n");
    cli_check_output();
    int made = stats.n_generated;
    const int ended = made && is_end(fresh[made - 1]);
    if ((int)n + made == context && !ended) cli_note("the context of %d tokens is full", context);
    if (o.verbose || isatty(2))
        fprintf(stderr, "[%d of %lu tokens read, %.0f tokens/s; %d written, %.0f tokens/s]\n",
                stats.n_prompt, (unsigned long)n, stats.n_prompt / stats.prefill_seconds, made,
                made / stats.decode_seconds);
    desc.counter += (uint64_t)made;
    rest = chat_kept(&format, said, &n_said);
    TRY(!chat_put(&talk, talk.n, CHAT_ASSISTANT, rest, n_said, &error));
    if (stopped || rest != said) made = 0;           /* the message is not all of the tokens */
    if (made) talk.messages[talk.n - 1].tokens = fresh;
    else free(fresh);
    talk.messages[talk.n - 1].n_tokens = made ? (size_t)(made - ended) : 0;
}
/* the prompt made of a JSON list, as text or as tokens */
static void print_prompt(const char *path, int as_text) {
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
    for (size_t i = 0; tokens && i < n; i++) printf("%d%c", tokens[i], i + 1 < n ? ' ' : '\n');
    cli_check_output();
    llmi_json_free(&json);
    free(messages);
    free(tokens);
    free(text);
    free(file);
}
static void command(const char *line) {
    const int last = chat_last_turn(&talk), first = chat_systems(&talk);
    if (!strcmp(line, "/reset")) {
        chat_take(&talk, first, talk.n - first);
        desc.counter = 0;
    } else if (!strcmp(line, "/undo")) {
        if (last < 0) cli_note("there is no turn to take back");
        else chat_take(&talk, last, talk.n - last);
    } else if (!strncmp(line, "/system", 7) && (!line[7] || line[7] == ' ')) {
        set_system(line + 7 + (line[7] == ' '));
    } else if (!strcmp(line, "/help")) {
        fprintf(stderr, "%s", usage);
    } else {
        cli_note("%.40s: there is no such command; /help lists them", line);
    }
}

int main(int argc, char **argv) {
    static const llm_dtype cache[] = {LLM_F32, LLM_F16, LLM_BF16, LLM_Q8_0};
    cli_path directory;                              /* of the model and its tokenizer */
    int32_t ends[CHAT_ENDS];
    char **args = argv + (argc > 0);
    int own = 0;
    cli_program = "chat";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args == 1, "%s (--help says more)", n_args ? "one directory" : "which directory?");
    if (o.temperature == 0)
        cli_no_effect(options, "--top-k --top-p --min-p --seed", "with --temperature 0");
    const char *const prefixes[] = {o.prefix[0], o.prefix[1], o.prefix[2], o.suffix};
    for (int i = 0; i < 4; i++) {
        char *text = (char *)prefixes[i];
        if (*text) text[cli_unescape(text, strlen(text))] = 0;
        own |= *text;
    }
    if (own) cli_no_effect(options, "--format", "with prefixes of your own");

    cli_directory_of(directory, args[0], ".safetensors");
    tokenizer = llm_tokenizer_load(directory, NULL, &error);
    TRY(tokenizer);
    const char *template = llm_tokenizer_chat_template(tokenizer);
    if (own) chat_own(&format, o.prefix, o.suffix);
    else NEED(!chat_pick(&format, o.format, template, &error), "%s; give --format (%s), or "
              "--user-prefix and --answer-prefix", error.message, chat_names());
    if (*o.prompt || *o.tokens_of) {
        print_prompt(*o.prompt ? o.prompt : o.tokens_of, *o.prompt);
        chat_free(&format);
        llm_tokenizer_free(tokenizer);
        return 0;
    }
    if (!own && !*o.format && !template)
        cli_note("the model brings no template: nothing stands around messages (--format none)");
    const llm_model_desc model_desc = {.n_threads = o.threads};
    llm_model *model = llm_model_load(directory, &model_desc, &error);
    TRY(model);
    const int most = llm_model_config(model)->max_seq_len;
    context = o.context ? o.context : most < 4096 ? most : 4096;
    const llm_session_desc session_desc = {.max_seq_len = context, .cache_dtype = cache[o.cache]};
    session = llm_session_create(model, &session_desc, &error);
    TRY(session);
    const llm_detokenizer_desc reading = {.stop = &format.stop, .n_stop = format.stop != NULL};
    detokenizer = llm_detokenizer_create(tokenizer, &reading, &error);
    TRY(detokenizer);
    const llm_special_tokens special = cli_special_of(model, tokenizer);
    const int n_ends = chat_ends(&format, tokenizer, special, ends);
    desc = (llm_generate_desc){
        .sampling.temperature = (float)o.temperature, .sampling.top_k = o.top_k,
        .sampling.top_p = (float)o.top_p, .sampling.min_p = (float)o.min_p,
        .sampling.repetition_penalty = (float)o.penalty, .sampling.seed = (uint64_t)o.seed,
        .max_new_tokens = o.tokens, .on_token = on_token,
        .stop_tokens = ends, .n_stop_tokens = n_ends ? n_ends : -1};

    set_system(o.system);
    signal(SIGINT, interrupt);
    for (;;) {
        if (isatty(0)) printf("> ");
        fflush(stdout);
        char *line = read_message();
        if (!line || !strcmp(line, "/quit")) break;
        if (!isatty(0)) printf("> %s\n", line);      /* the record has both sides */
        if (line[0] == '/' && line[1] != '/') {
            command(line);
        } else if (*line) {
            line += *line == '/';
            TRY(!chat_put(&talk, talk.n, CHAT_USER, line, strlen(line), &error));
            answer();
        }
    }
    chat_take(&talk, 0, talk.n);
    chat_free(&format);
    llm_detokenizer_free(detokenizer);
    llm_session_free(session);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}

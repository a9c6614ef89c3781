/* serve.c -- a model answers over HTTP, in the way that OpenAI's clients speak.
 *
 *     cc -O2 examples/serve.c -o serve -lmicrohttpd -lm
 *     ./serve model --port 8080                             (--help lists the options)
 *     curl localhost:8080/v1/completions -d '{"prompt": "int main(", "max_tokens": 20}'
 *
 * The model is what generate.c takes. Expect the address on stdout, and JSON from curl. There are
 * /v1/chat/completions, /v1/completions, /v1/models and /health; what a request asks for and does
 * not get, it is told, with status 400. Ctrl-C finishes what runs; a second one does not.
 *
 * One thread owns the session. It takes requests off a queue into slots, one sequence each; a pass
 * evaluates the next token of every slot, and a piece of a prompt beside them. A thread of
 * libmicrohttpd for each connection reads the request and waits for its text.
 *
 * What a greedy request gets does not depend on the others. A row of a pass is to the bit what it
 * is alone, but with experts keys and values of a prompt depend on how it was cut into calls: then
 * the request alone says where its prompt is cut, and slots share only pieces that begin and end
 * alike. Without experts they share all that is equal: only calls of few tokens round otherwise. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"
#include "chat.h"
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>

enum {
    FIRST_PIECE = 512,                 /* tokens: a prompt of no more is evaluated in one call    */
    LEAST_PIECE = 64,                  /* less is not worth a call of its own                     */
    FEW = LLMI_FEW_ROWS,               /* calls of no more round otherwise                        */
    MAX_BODY = 4 << 20,
    MAX_CONNECTIONS = 256,
    MAX_STOPS = 4, MAX_BIASES = 1024, MAX_TOP = 20
};

/* ---- what there is --------------------------------------------------------------------------- */
enum { COMPLETIONS, MODELS, HEALTH };
static const struct route { const char *path, *method; int what, chat; } routes[] = {
    {"/v1/chat/completions", "POST", COMPLETIONS, 1}, {"/v1/completions", "POST", COMPLETIONS, 0},
    {"/v1/models", "GET", MODELS, 0}, {"/health", "GET", HEALTH, 0}};

typedef struct prompt {
    int32_t *tokens;
    int n;
    int *cuts;                         /* positions at which its pieces end, the last at n - 1:   */
    int n_cuts;                        /* the last token is evaluated as generated ones are       */
} prompt;

typedef struct visitor {               /* a connection                                            */
    int fd;
    int ours;                          /* 1: it waits for the model, 0: we wait for it,           */
    double since;                      /* since then                                              */
    struct visitor *next;
} visitor;

typedef struct exchange exchange;
typedef struct job {                   /* one text that is asked for                              */
    exchange *of;
    const prompt *prompt;
    struct job *next;                  /* in the queue                                            */
    int index, n_new;
    int n_cached;                      /* tokens of the prompt that were there already            */
    uint64_t seed;
    llm_detokenizer *detokenizer;
    llmi_text text;                    /* not yet given to the client                             */
    llmi_text lists[4];                /* of log-probabilities, as the answer has them            */
    int offset;                        /* characters before the next token                        */
    int begun;                         /* the client knows its role                               */
    const char *finish;                /* NULL: it goes on                                        */
} job;

struct exchange {                      /* a request and its answer                                */
    visitor *visitor;
    const struct route *route;
    const char *wrong_method;          /* the right one                                           */
    llmi_text body;
    size_t n_received;
    llmi_json json;
    double temperature, top_p, top_k, min_p, repetition, presence, frequency;
    double n, best_of, max_tokens, top_logprobs;
    int stream, usage, logprobs, one_model;
    uint64_t seed, id;
    long long created;
    char *stops[MAX_STOPS + 1];        /* one is the format's */
    int n_stops, n_biases;
    struct { int32_t token; float bias; } biases[MAX_BIASES];
    prompt *prompts;
    job *jobs;
    int n_prompts, n_jobs;
    /* from here on under the lock */
    int n_left;                        /* jobs that are not done                                  */
    int users;                         /* they, and the connection                                */
    int gone, failed, finished, status;
    llmi_text out;
    size_t n_out;                      /* bytes of out that have been taken                       */
    pthread_cond_t changed;
};

typedef struct slot {
    int sequence;
    prompt prompt;                     /* room for a whole context; stays when the job is done    */
    int at;                            /* positions of it that the session holds                  */
    job *job;
    int32_t next;                      /* token to be evaluated, once the pieces are done         */
} slot;

static struct {
    llm_model *model;
    llm_tokenizer *tokenizer;
    llm_special_tokens special;
    chat_format format;                /* its name is NULL where the model has none: no_format    */
    char no_format[sizeof error.message];
    int32_t ends[2][CHAT_ENDS];        /* tokens that end a text [0] and an answer [1]            */
    int n_ends[2];
    llm_session *session;
    const char *name, *key;
    long long created;
    int vocab, context, piece, capacity, n_slots, has_experts;
    slot **slots;                      /* in the order in which they were taken: who is longest   */
                                       /* free or waits longest comes first                       */
    float *logits;
    pthread_mutex_t lock, reading;     /* reading: one body is parsed and tokenized at a time     */
    pthread_cond_t work;
    /* from here on under the lock */
    job *queue, **queue_end;
    visitor *visitors;
    int n_jobs, n_running;             /* in slots or the queue; in slots                         */
    int n_exchanges, stopping;
    uint64_t seed, n_random;
} server = {.lock = PTHREAD_MUTEX_INITIALIZER, .reading = PTHREAD_MUTEX_INITIALIZER,
            .work = PTHREAD_COND_INITIALIZER, .queue_end = &server.queue};

static void lock(void) { pthread_mutex_lock(&server.lock); }
static void unlock(void) { pthread_mutex_unlock(&server.lock); }

static void release(exchange *x) {                     /* under the lock */
    if (--x->users) return;
    for (int i = 0; i < x->n_jobs; i++) {
        llm_detokenizer_free(x->jobs[i].detokenizer);
        llmi_text_free(&x->jobs[i].text);
        for (int k = 0; k < 4; k++) llmi_text_free(&x->jobs[i].lists[k]);
    }
    for (int i = 0; i < x->n_prompts; i++) {
        free(x->prompts[i].tokens);
        free(x->prompts[i].cuts);
    }
    for (int i = 0; i < x->n_stops; i++) free(x->stops[i]);
    free(x->prompts);
    free(x->jobs);
    llmi_json_free(&x->json);
    llmi_text_free(&x->body);
    llmi_text_free(&x->out);
    pthread_cond_destroy(&x->changed);
    free(x);
    server.n_exchanges--;
}

/* ---- answers --------------------------------------------------------------------------------- */
static void add(llmi_text *to, const char *text) { llmi_text_add(to, text, strlen(text)); }
static void add_string(llmi_text *to, const char *text) {
    llmi_text_string(to, text, strlen(text));
}

static void write_error(llmi_text *to, int status, const char *param, const char *message) {
    add(to, "{\"error\":{\"message\":");
    add_string(to, message);
    add(to, status < 500 ? ",\"type\":\"invalid_request_error\",\"param\":"
                         : ",\"type\":\"server_error\",\"param\":");
    if (param) add_string(to, param);
    else add(to, "null");
    add(to, status == 401 ? ",\"code\":\"invalid_api_key\"}}" : ",\"code\":null}}");
}
/* the answer is this error -> 0 */
#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
static int refuse(exchange *x, int status, const char *param, const char *format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    x->status = status;
    write_error(&x->out, status, param, message);
    return 0;
}
#define WANT(ok, param, ...) do { if (!(ok)) return refuse(x, 400, param, __VA_ARGS__); } while (0)

enum { MAX_TOKEN_BYTES = 1024 };       /* more are left out where a token has a name */
static size_t bytes_of(int32_t token, char text[MAX_TOKEN_BYTES]) {
    size_t n = 0;                      /* of a token that the tokenizer does not have */
    llm_tokenizer_decode(server.tokenizer, &token, 1, text, MAX_TOKEN_BYTES, &n, NULL);
    return llmi_min(n, MAX_TOKEN_BYTES);
}
/* a token's text; what is no text by itself is spelled out, so that no two have one name */
static void write_token(llmi_text *to, int32_t token, int with_bytes) {
    char text[MAX_TOKEN_BYTES];
    const size_t n = bytes_of(token, text);
    size_t i, size = 1;
    uint32_t code;
    for (i = 0; i < n && size; i += size) size = llmi_utf8_decode(text + i, n - i, &code);
    if (n && size) llmi_text_string(to, text, n);
    else {
        llmi_text_format(to, n ? "\"bytes:" : "\"<%d>", (int)token);
        for (i = 0; i < n; i++) llmi_text_format(to, "\\\\x%02x", (unsigned char)text[i]);
        add(to, "\"");
    }
    if (!with_bytes) return;
    add(to, ",\"bytes\":[");
    for (i = 0; i < n; i++) llmi_text_format(to, i ? ",%d" : "%d", (unsigned char)text[i]);
    add(to, "]");
}
static void write_logprob(llmi_text *to, float logprob) {        /* JSON has no infinity */
    llmi_text_number(to, logprob > -9999.0f ? logprob : -9999.0f, 1);
}
static void write_chat_logprob(llmi_text *to, int32_t token, float logprob) {
    add(to, "{\"token\":");
    write_token(to, token, 1);
    add(to, ",\"logprob\":");
    write_logprob(to, logprob);
}
/* adds a token to the lists of its job */
static void add_logprobs(job *j, int32_t token, float logprob, const int32_t *top,
                         const float *top_logprobs) {
    const int n = (int)j->of->top_logprobs;
    llmi_text *lists = j->lists;
    int i, among = 0;
    for (i = 0; i < 4; i++) if (lists[i].size) add(&lists[i], ",");
    if (j->of->route->chat) {
        write_chat_logprob(lists, token, logprob);
        add(lists, ",\"top_logprobs\":[");
        for (i = 0; i < n; i++) {
            if (i) add(lists, ",");
            write_chat_logprob(lists, top[i], top_logprobs[i]);
            add(lists, "}");
        }
        add(lists, "]}");
        return;
    }
    write_token(&lists[0], token, 0);
    write_logprob(&lists[1], logprob);
    add(&lists[2], "{");
    for (i = 0; i <= n; i++) {                         /* the one that was drawn is always there */
        among |= i < n && top[i] == token;
        if (i == n && among) break;
        if (i) add(&lists[2], ",");
        write_token(&lists[2], i < n ? top[i] : token, 0);
        add(&lists[2], ":");
        write_logprob(&lists[2], i < n ? top_logprobs[i] : logprob);
    }
    add(&lists[2], "}");
    llmi_text_format(&lists[3], "%d", j->offset);
    char text[MAX_TOKEN_BYTES];
    for (size_t size = bytes_of(token, text); size-- > 0;)
        j->offset += (text[size] & 0xC0) != 0x80;
}
/* what the job has collected; of a stream, since the last time */
static void write_choice(llmi_text *to, job *j) {
    static const char *const names[] = {"\"tokens\":[", "],\"token_logprobs\":[",
                                        "],\"top_logprobs\":[", "],\"text_offset\":["};
    const exchange *x = j->of;
    const int chat = x->route->chat;
    llmi_text_format(to, "{\"index\":%d,", j->index);
    if (chat) add(to, x->stream ? "\"delta\":{" : "\"message\":{");
    if (chat && !j->begun) add(to, "\"role\":\"assistant\",");
    if (chat && !x->stream) add(to, "\"refusal\":null,");
    add(to, chat ? "\"content\":" : "\"text\":");
    llmi_text_string(to, j->text.data, j->text.size);
    add(to, chat ? "},\"logprobs\":" : ",\"logprobs\":");
    if (!x->logprobs) add(to, "null");
    else {
        add(to, chat ? "{\"refusal\":null,\"content\":[" : "{");
        for (int i = 0; i < (chat ? 1 : 4); i++) {
            if (!chat) add(to, names[i]);
            llmi_text_add(to, j->lists[i].data, j->lists[i].size);
            j->lists[i].size = 0;
        }
        add(to, "]}");
    }
    add(to, ",\"finish_reason\":");
    if (j->finish) add_string(to, j->finish);
    else add(to, "null");
    add(to, "}");
    j->text.size = 0;
    j->begun = 1;
}
static void write_head(llmi_text *to, const exchange *x) {
    llmi_text_format(to, "{\"id\":\"%s%016llx\",\"object\":\"%s%s\",\"created\":%lld,\"model\":",
                     x->route->chat ? "chatcmpl-" : "cmpl-", (unsigned long long)x->id,
                     x->route->chat ? "chat.completion" : "text_completion",
                     x->route->chat && x->stream ? ".chunk" : "", x->created);
    add_string(to, server.name);
    add(to, ",\"system_fingerprint\":null,\"choices\":[");
}
static void write_usage(llmi_text *to, const exchange *x) {
    int n_prompt = 0, n_new = 0, n_cached = 0;
    for (int i = 0; i < x->n_prompts; i++) n_prompt += x->prompts[i].n;
    for (int i = 0; i < x->n_jobs; i++) {
        n_new += x->jobs[i].n_new;
        if (i % (int)x->n == 0) n_cached += x->jobs[i].n_cached;
    }
    llmi_text_format(to, ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"
                     "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d}}",
                     n_prompt, n_new, n_prompt + n_new, n_cached);
}
/* the client gets what there is; under the lock */
static void deliver(job *j) {
    exchange *x = j->of;
    if (!x->stream || x->gone) return;
    add(&x->out, "data: ");
    write_head(&x->out, x);
    write_choice(&x->out, j);
    add(&x->out, x->usage ? "],\"usage\":null}\n\n" : "]}\n\n");
    pthread_cond_signal(&x->changed);
}
/* A job is done, or given up: error says why, else finish does. Under the lock. */
static void end_job(job *j, const char *finish, const char *wrong) {
    exchange *x = j->of;
    j->finish = finish;
    server.n_jobs--;
    x->n_left--;
    if (!x->gone && !wrong) deliver(j);
    if (wrong && !x->failed) {
        x->failed = 1;
        if (x->stream) add(&x->out, "data: ");
        else x->status = 500;          /* a stream's is on its way */
        write_error(&x->out, 500, NULL, wrong);
        if (x->stream) add(&x->out, "\n\n");
    }
    if (!x->n_left && !x->gone) {
        if (x->stream) {
            if (x->usage) {
                add(&x->out, "data: ");
                write_head(&x->out, x);
                add(&x->out, "]");
                write_usage(&x->out, x);
                add(&x->out, "}\n\n");
            }
            add(&x->out, "data: [DONE]\n\n");
        } else if (x->status == 200) {
            write_head(&x->out, x);
            for (int i = 0; i < x->n_jobs; i++) {
                if (i) add(&x->out, ",");
                write_choice(&x->out, &x->jobs[i]);
            }
            add(&x->out, "]");
            write_usage(&x->out, x);
            add(&x->out, "}");
        }
        x->finished = 1;
        pthread_cond_signal(&x->changed);
    }
    release(x);
}

/* ---- the thread that owns the session -------------------------------------------------------- */
static int end_of(const prompt *p) { return p->n - 1; }
/* How far a may begin with what b has in its first n positions. */
static int shared(const prompt *a, const prompt *b, int n) {
    const int end = end_of(a);
    int i, at = 0;
    if (!server.has_experts) {
        const int few = end <= FEW;
        if (few != (end_of(b) <= FEW)) return 0;
        while (at < n && at < end && a->tokens[at] == b->tokens[at]) at++;
        return !few && at < end && end - at <= FEW ? end - FEW - 1 : at;
    }
    for (i = 0; i < a->n_cuts && i < b->n_cuts && b->cuts[i] <= n && a->cuts[i] == b->cuts[i];
         at = a->cuts[i++])
        if (memcmp(a->tokens + at, b->tokens + at, (size_t)(a->cuts[i] - at) * sizeof *a->tokens))
            break;
    return at;
}
/* where the next piece of a slot's prompt ends */
static int next_cut(const slot *s) {
    const int *cut = s->prompt.cuts, end = end_of(&s->prompt);
    while (*cut <= s->at || (*cut - s->at <= FEW && *cut < end)) cut++;
    return *cut;
}

/* a job gets a free slot, that with the longest part of its prompt, else the longest free */
static void admit(job *j) {
    int best = -1, most = -1;
    for (int i = 0; i < server.n_slots; i++) {
        const slot *s = server.slots[i];
        const int n = s->job ? -1 : shared(j->prompt, &s->prompt, s->at);
        if (n > most) most = n, best = i;
    }
    slot *s = server.slots[best];
    for (int i = best; i + 1 < server.n_slots; i++) server.slots[i] = server.slots[i + 1];
    server.slots[server.n_slots - 1] = s;
    s->job = j;
    s->at = most;
    s->prompt.n = j->prompt->n;
    s->prompt.n_cuts = j->prompt->n_cuts;
    memcpy(s->prompt.tokens, j->prompt->tokens, (size_t)s->prompt.n * sizeof(int32_t));
    memcpy(s->prompt.cuts, j->prompt->cuts, (size_t)s->prompt.n_cuts * sizeof(int));
    s->next = s->prompt.tokens[s->prompt.n - 1];
    j->n_cached = s->at;
    llm_session_rewind(server.session, s->sequence, s->at, NULL);
    server.n_running++;
}
/* Takes over what another slot has of its prompt. -> 0: one that came before is about to have it */
static int is_ready(slot *s) {
    const slot *from = NULL;
    int most = s->at, before = 1;
    for (int i = 0; i < server.n_slots; i++) {
        const slot *t = server.slots[i];
        before &= t != s;
        if (t == s) continue;
        const int n = shared(&s->prompt, &t->prompt,
                             before && t->job ? end_of(&t->prompt) : t->at);
        if (n > most) most = n, from = t;
    }
    if (!from) return 1;
    if (from->at < most) return 0;
    llm_error err;
    if (llm_session_copy(server.session, s->sequence, from->sequence, most, &err)) return 1;
    s->at = most;
    s->job->n_cached = s->at;
    return 1;
}
static void leave(slot *s, const char *finish, const char *wrong) {          /* under the lock */
    end_job(s->job, finish, wrong);
    s->job = NULL;
    server.n_running--;
}
/* A slot's token has been evaluated: draws the next one. *finish: why the text ends, if it does */
static llm_result draw(slot *s, float *logits, const char **finish, llm_error *err) {
    job *j = s->job;
    const exchange *x = j->of;
    const int chat = x->route->chat, n_top = (int)x->top_logprobs, n = s->prompt.n + j->n_new;
    const llm_sampling sampling = {
        .temperature = (float)x->temperature, .top_k = (int)x->top_k,
        .top_p = x->top_p > 0 ? (float)x->top_p : 1e-30f, .min_p = (float)x->min_p,
        .repetition_penalty = (float)x->repetition, .presence_penalty = (float)x->presence,
        .frequency_penalty = (float)x->frequency, .seed = j->seed};
    llm_context *context = llm_session_context(server.session);
    float was[MAX_BIASES], logprob = 0, top_logprobs[MAX_TOP];
    int32_t token, top[MAX_TOP];
    const char *text;
    size_t size;
    int stop = -1;
    for (int i = 0; i < x->n_biases; i++) {
        was[i] = logits[x->biases[i].token];
        logits[x->biases[i].token] += x->biases[i].bias;
    }
    const llm_result drawn = llm_sample(
        context, &token, logits, server.vocab, &sampling,
        llm_session_tokens(server.session, s->sequence), n, j->n_new, (uint64_t)j->n_new, err);
    for (int i = x->n_biases; i-- > 0;) logits[x->biases[i].token] = was[i];
    LLMI_TRY(drawn);
    j->n_new++;
    s->next = token;
    for (int i = 0; i < server.n_ends[chat]; i++)
        if (token == server.ends[chat][i]) *finish = "stop";
    if (*finish) return LLM_OK;
    if (x->logprobs) {
        LLMI_TRY(llm_logprobs(context, &logprob, token, top, top_logprobs, n_top, logits,
                              server.vocab, err));
        add_logprobs(j, token, logprob, top, top_logprobs);
    }
    LLMI_TRY(llm_detokenizer_add(j->detokenizer, token, &text, &size, &stop, err));
    llmi_text_add(&j->text, text, size);
    if (stop >= 0) *finish = "stop";
    else if (j->n_new == (int)x->max_tokens || n + 1 == server.context) *finish = "length";
    return j->text.failed == LLM_OK ? LLM_OK : llmi_fail(err, LLM_ERR_MEMORY, "out of memory");
}
/* the next token of every slot that has its prompt, and pieces of the others' */
static void pass(llm_rows *rows, slot **of) {
    int n = 0, room = server.piece;
    llm_error err;
    for (int i = 0; i < server.n_slots; i++) {
        slot *s = server.slots[i];
        if (!s->job || s->at < end_of(&s->prompt)) continue;
        rows[n] = (llm_rows){s->sequence, &s->next, 1, 1};
        of[n++] = s;
    }
    const int n_drawn = n;
    for (int i = 0; i < server.n_slots && room > 0; i++) {
        slot *s = server.slots[i];
        if (!s->job || s->at == end_of(&s->prompt) || !is_ready(s)) continue;
        if (s->at == end_of(&s->prompt)) continue;     /* all was there: the next pass draws */
        rows[n] = (llm_rows){s->sequence, s->prompt.tokens + s->at, next_cut(s) - s->at, 0};
        room -= rows[n].n;
        of[n++] = s;
    }
    if (!n) return;
    if (llm_session_eval_rows(server.session, rows, n, server.logits, &err) != LLM_OK) {
        lock();
        for (int i = 0; i < n; i++) leave(of[i], NULL, err.message);
        unlock();
        return;
    }
    for (int i = n_drawn; i < n; i++) of[i]->at += rows[i].n;
    for (int i = 0; i < n_drawn; i++) {
        job *j = of[i]->job;
        const char *finish = NULL, *rest = NULL;
        size_t size = 0;
        const llm_result drawn =
            draw(of[i], server.logits + (size_t)i * (size_t)server.vocab, &finish, &err);
        if (finish) llm_detokenizer_finish(j->detokenizer, &rest, &size);
        llmi_text_add(&j->text, rest, size);
        lock();
        if (finish || drawn != LLM_OK) leave(of[i], finish, drawn == LLM_OK ? NULL : err.message);
        else if (j->text.size || j->lists[0].size) deliver(j);
        unlock();
    }
}
/* has the client gone away? A connection at its end has nothing more to read. Under the lock. */
static int has_gone(exchange *x) {
    char byte;
    if (!x->gone) {
        const ssize_t n = recv(x->visitor->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        x->gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
        if (x->gone) pthread_cond_signal(&x->changed);
    }
    return x->gone;
}
static void *infer(void *unused) {
    llm_rows *rows = (llm_rows *)cli_alloc((size_t)server.n_slots, sizeof *rows);
    slot **of = (slot **)cli_alloc((size_t)server.n_slots, sizeof *of);
    (void)unused;
    for (;;) {
        lock();
        while (!server.n_running && !server.queue && !server.stopping)
            pthread_cond_wait(&server.work, &server.lock);
        if (!server.n_running && !server.queue) break;
        for (int i = 0; i < server.n_slots; i++) {
            slot *s = server.slots[i];
            if (s->job && has_gone(s->job->of)) leave(s, NULL, NULL);
        }
        for (job **at = &server.queue; *at;) {
            job *j = *at;
            const int gone = has_gone(j->of);
            if (!gone && server.n_running == server.n_slots) {
                at = &j->next;
                continue;
            }
            *at = j->next;
            if (gone) end_job(j, NULL, NULL);
            else admit(j);
        }
        for (server.queue_end = &server.queue; *server.queue_end;)
            server.queue_end = &(*server.queue_end)->next;
        unlock();
        pass(rows, of);
    }
    unlock();
    free(rows);
    free(of);
    return NULL;
}

/* ---- what a request asks for ----------------------------------------------------------------- */
/* the bytes of a value, at most so many as a message bears, for %.*s */
#define SHOWN(node) (int)llmi_min(x->json.nodes[node].end - x->json.nodes[node].begin, 40), \
                    x->json.text + x->json.nodes[node].begin

static int member(const exchange *x, int object, const char *name) {    /* -1: absent, or null */
    const int node = llmi_json_get(&x->json, object, name);
    return node >= 0 && x->json.nodes[node].type == LLMI_JSON_NULL ? -1 : node;
}
static int type_of(const exchange *x, int node) {
    return node < 0 ? -1 : x->json.nodes[node].type;
}
static int next_of(const exchange *x, int node) { return x->json.nodes[node].next; }
static char *string_of(const exchange *x, int node, size_t *size) {     /* with a zero at its end */
    *size = llmi_json_string(&x->json, node, NULL, 0);
    char *text = (char *)cli_alloc(*size + 1, 1);
    llmi_json_string(&x->json, node, text, *size);
    return text;
}
static int read_flag(exchange *x, int object, const char *name, int *value) {
    const int node = member(x, object, name), type = type_of(x, node);
    WANT(node < 0 || type == LLMI_JSON_TRUE || type == LLMI_JSON_FALSE,
         name, "%s is %.*s, not true or false", name, SHOWN(node));
    *value = type == LLMI_JSON_TRUE;
    return 1;
}
static int read_number(exchange *x, const char *name, double least, double most, int whole,
                       double *value) {
    const int node = member(x, 0, name);
    double number;
    if (node < 0) return 1;
    WANT(llmi_json_number(&x->json, node, &number) && number >= least && number <= most &&
         (!whole || number == floor(number)), name, "%s is %.*s, not a %snumber from %g to %g",
         name, SHOWN(node), whole ? "whole " : "", least, most);
    *value = number;
    return 1;
}
static int read_numbers(exchange *x) {
    static const struct { const char *name; double least, most; int whole; size_t at; } all[] = {
        {"temperature", 0, 2, 0, offsetof(exchange, temperature)},
        {"top_p", 0, 1, 0, offsetof(exchange, top_p)},
        {"top_k", 0, 1e9, 1, offsetof(exchange, top_k)},
        {"min_p", 0, 1, 0, offsetof(exchange, min_p)},
        {"repetition_penalty", 0.01, 100, 0, offsetof(exchange, repetition)},
        {"presence_penalty", -2, 2, 0, offsetof(exchange, presence)},
        {"frequency_penalty", -2, 2, 0, offsetof(exchange, frequency)},
        {"n", 1, 128, 1, offsetof(exchange, n)},
        {"max_tokens", 1, 1e9, 1, offsetof(exchange, max_tokens)},
        {"max_completion_tokens", 1, 1e9, 1, offsetof(exchange, max_tokens)}};
    const int node = member(x, 0, "seed"), usage = member(x, 0, "stream_options");
    int64_t seed;
    x->temperature = x->top_p = x->n = 1;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!read_number(x, all[i].name, all[i].least, all[i].most, all[i].whole,
                         (double *)((char *)x + all[i].at))) return 0;
    x->best_of = x->n;
    if (!read_number(x, "best_of", 1, 128, 1, &x->best_of)) return 0;
    WANT(x->best_of == x->n, "best_of", "best_of is %g: only n of them, %g, is supported",
         x->best_of, x->n);
    if (node >= 0) {
        WANT(llmi_json_int64(&x->json, node, &seed), "seed",
             "seed is %.*s, not a whole number of 64 bits", SHOWN(node));
        x->seed = (uint64_t)seed;
    }
    if (!read_flag(x, 0, "stream", &x->stream)) return 0;
    if (usage >= 0) {
        WANT(type_of(x, usage) == LLMI_JSON_OBJECT, "stream_options",
             "stream_options is %.*s, not an object", SHOWN(usage));
        WANT(x->stream, "stream_options", "stream_options is given without \"stream\": true");
        if (!read_flag(x, usage, "include_usage", &x->usage)) return 0;
    }
    if (!x->route->chat) {
        x->logprobs = member(x, 0, "logprobs") >= 0;
        return read_number(x, "logprobs", 0, 5, 1, &x->top_logprobs);
    }
    if (!read_flag(x, 0, "logprobs", &x->logprobs) ||
        !read_number(x, "top_logprobs", 0, MAX_TOP, 1, &x->top_logprobs)) return 0;
    WANT(x->logprobs || !x->top_logprobs, "top_logprobs",
         "top_logprobs is given without \"logprobs\": true");
    return 1;
}
/* Of what is not supported, these are values that ask for nothing. */
static int asks_nothing(const exchange *x, int node) {
    const int none = node >= 0 && !x->json.nodes[node].n_children;
    switch (type_of(x, node)) {
    case LLMI_JSON_STRING:
        return x->json.nodes[node].begin == x->json.nodes[node].end ||
               llmi_json_is(&x->json, node, "none") || llmi_json_is(&x->json, node, "auto");
    case LLMI_JSON_ARRAY:
        return none || (next_of(x, node + 1) < 0 && llmi_json_is(&x->json, node + 1, "text"));
    case LLMI_JSON_OBJECT:
        return none || llmi_json_is(&x->json, member(x, node, "type"), "text");
    default: return node < 0 || type_of(x, node) == LLMI_JSON_FALSE;
    }
}
static int read_rest(exchange *x) {
    static const char *const unsupported[] = {
        "tools", "tool_choice", "functions", "function_call", "response_format", "modalities",
        "audio", "prediction", "suffix", "echo", "web_search_options", "reasoning_effort",
        "verbosity"};
    const int stop = member(x, 0, "stop"), bias = member(x, 0, "logit_bias");
    const int stops = type_of(x, stop) == LLMI_JSON_ARRAY;
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        const int node = member(x, 0, unsupported[i]);
        WANT(asks_nothing(x, node), unsupported[i], "%s is not supported", unsupported[i]);
    }
    for (int node = stops ? llmi_json_first(&x->json, stop) : stop; node >= 0;
         node = stops ? next_of(x, node) : -1) {
        size_t size;
        WANT(x->n_stops < MAX_STOPS, "stop", "stop has more than %d texts", MAX_STOPS);
        WANT(type_of(x, node) == LLMI_JSON_STRING, "stop",
             "stop is %.*s, neither a string nor a list of strings", SHOWN(node));
        char *text = x->stops[x->n_stops++] = string_of(x, node, &size);
        WANT(size && !memchr(text, 0, size), "stop",
             "stop has a text that is empty, or has a character of code 0");
    }
    WANT(bias < 0 || type_of(x, bias) == LLMI_JSON_OBJECT, "logit_bias",
         "logit_bias is %.*s, not an object", SHOWN(bias));
    for (int key = bias < 0 ? -1 : llmi_json_first(&x->json, bias); key >= 0;) {
        const int node = next_of(x, key);
        const llmi_json_node *k = &x->json.nodes[key];
        long token = -1;
        double value;
        if (k->end - k->begin < 10) token = strtol(x->json.text + k->begin, NULL, 10);
        WANT(x->n_biases < MAX_BIASES, "logit_bias", "logit_bias has more than %d tokens",
             MAX_BIASES);
        WANT(token >= 0 && token < server.vocab && k->begin < k->end &&
             strspn(x->json.text + k->begin, "0123456789") == k->end - k->begin, "logit_bias",
             "logit_bias has \"%.*s\", not a token from 0 to %d", SHOWN(key), server.vocab - 1);
        WANT(llmi_json_number(&x->json, node, &value) && value >= -100 && value <= 100,
             "logit_bias", "logit_bias of %ld is %.*s, not a number from -100 to 100", token,
             SHOWN(node));
        x->biases[x->n_biases].token = (int32_t)token;
        x->biases[x->n_biases++].bias = value == -100 ? -INFINITY : (float)value;
        key = next_of(x, node);
    }
    return 1;
}

/* ---- its prompts ----------------------------------------------------------------------------- */
/* where a prompt is cut; head: tokens of a part that other requests may begin with, too */
static int finish_prompt(exchange *x, prompt *p, int head) {
    const char *name = x->route->chat ? "messages" : "prompt";
    const int end = p->n - 1, piece = server.piece;
    const int first = (FIRST_PIECE + piece - 1) / piece * piece;
    WANT(p->n < server.context, name, "the prompt has %d tokens, and at most %d fit before one "
         "that is new (--context %d)", p->n, server.context - 1, server.context);
    p->cuts = (int *)cli_alloc((size_t)(p->n / LEAST_PIECE + 2), sizeof *p->cuts);
    for (int at = 0, next; at < end; p->cuts[p->n_cuts++] = at = next) {
        next = at < first ? first : (at / piece + 1) * piece;
        if (next - at < LEAST_PIECE) next += piece;
        if (head - at >= LEAST_PIECE && head < next) next = head;
        if (next > end || (!server.has_experts && end - next <= FEW)) next = end;
    }
    return 1;
}
/* as generate.c begins a text: bos before it, unless that is eos; an empty one has one of them */
static int read_text(exchange *x, prompt *p, int node) {
    size_t size, n;
    char *text = string_of(x, node, &size);
    llm_error err;
    p->tokens = (int32_t *)cli_alloc(size + 2, sizeof *p->tokens);
    const llm_result result = llm_tokenizer_encode(server.tokenizer, text, size, 1, p->tokens + 1,
                                                   size + 1, &n, &err);
    free(text);
    if (result != LLM_OK) return refuse(x, 500, NULL, "%s", err.message);
    p->tokens[0] = cli_begin(server.special, n ? p->tokens[1] : -1);
    const int begins = p->tokens[0] >= 0;
    WANT(n || begins, "prompt", "the prompt is empty, and the model has no token that begins a "
         "text");
    if (!begins) memmove(p->tokens, p->tokens + 1, n * sizeof *p->tokens);
    p->n = (int)n + begins;
    return finish_prompt(x, p, 0);
}
static int read_tokens(exchange *x, prompt *p, int list) {
    WANT(x->json.nodes[list].n_children, "prompt", "prompt has a list without tokens");
    p->tokens = (int32_t *)cli_alloc((size_t)x->json.nodes[list].n_children, sizeof *p->tokens);
    for (int node = llmi_json_first(&x->json, list); node >= 0; node = next_of(x, node)) {
        int64_t token = -1;
        WANT(llmi_json_int64(&x->json, node, &token) && token >= 0 && token < server.vocab,
             "prompt", "prompt has %.*s, not a token from 0 to %d", SHOWN(node), server.vocab - 1);
        p->tokens[p->n++] = (int32_t)token;
    }
    return finish_prompt(x, p, 0);
}
/* a text, tokens, or a list of texts or of lists of tokens */
static int read_prompts(exchange *x) {
    const int prompt_node = member(x, 0, "prompt"), type = type_of(x, prompt_node);
    const int first = type == LLMI_JSON_ARRAY ? llmi_json_first(&x->json, prompt_node) : -1;
    const int of_lists = type_of(x, first) == LLMI_JSON_ARRAY;
    const int many = type_of(x, first) == LLMI_JSON_STRING || of_lists;
    const int n = many ? x->json.nodes[prompt_node].n_children : 1;
    WANT(prompt_node >= 0, "prompt", "prompt is missing");
    WANT(type == LLMI_JSON_STRING || first >= 0, "prompt", "prompt is %.*s, neither a string nor a "
         "list of strings, of tokens or of lists of tokens", SHOWN(prompt_node));
    WANT(n * x->n <= server.capacity, "prompt", "%d prompts, each for n = %g texts: at most %d "
         "texts are written at a time (--slots, --queue)", n, x->n, server.capacity);
    x->prompts = (prompt *)cli_alloc((size_t)n, sizeof *x->prompts);
    for (int node = many ? first : prompt_node; node >= 0; node = many ? next_of(x, node) : -1) {
        prompt *p = &x->prompts[x->n_prompts++];
        const int is_list = type_of(x, node) == LLMI_JSON_ARRAY;
        WANT(!many || is_list == of_lists, "prompt", "prompt has texts and lists of tokens");
        WANT(is_list || type_of(x, node) == LLMI_JSON_STRING, "prompt",
             "prompt has %.*s, not a string", SHOWN(node));
        if (is_list ? !read_tokens(x, p, node) : !read_text(x, p, node)) return 0;
    }
    return 1;
}
/* a message's content: a string, a list of parts that are text, or, of an assistant, null */
static int read_content(exchange *x, int node, chat_message *m, char **room) {
    const int content = member(x, node, "content"), type = type_of(x, content);
    m->content = *room;
    if (type == LLMI_JSON_STRING) m->size = llmi_json_string(&x->json, content, *room, SIZE_MAX);
    WANT(type == LLMI_JSON_STRING || type == LLMI_JSON_ARRAY ||
         (content < 0 && m->role == CHAT_ASSISTANT), "messages",
         "a message's content is %s, neither a string nor a list of parts",
         content < 0 ? "missing" : "of another type");
    for (int part = type == LLMI_JSON_ARRAY ? llmi_json_first(&x->json, content) : -1; part >= 0;
         part = next_of(x, part)) {
        const int text = member(x, part, "text");
        WANT(llmi_json_is(&x->json, member(x, part, "type"), "text") &&
             type_of(x, text) == LLMI_JSON_STRING, "messages",
             "a message's content has a part that is not {\"type\": \"text\", \"text\": ..}");
        m->size += llmi_json_string(&x->json, text, *room + m->size, SIZE_MAX);
    }
    *room += m->size;
    return 1;
}
static int read_list(exchange *x, int list, chat_message *messages, char *room) {
    int n = 0;
    for (int node = llmi_json_first(&x->json, list); node >= 0; node = next_of(x, node), n++) {
        const int role = member(x, node, "role");
        char name[16];
        const size_t size = llmi_json_string(&x->json, role, name, sizeof name);
        chat_message *m = &messages[n];
        WANT(type_of(x, role) == LLMI_JSON_STRING, "messages", "message %d has no role", n + 1);
        m->role = size > sizeof name ? -1 : chat_role(name, size);
        if (llmi_json_is(&x->json, role, "developer")) m->role = CHAT_SYSTEM;
        WANT(m->role >= 0, "messages", "role is %.*s, not system, developer, user or assistant",
             SHOWN(role));
        WANT(member(x, node, "tool_calls") < 0, "messages", "tool_calls is not supported");
        if (!read_content(x, node, m, &room)) return 0;
    }
    return 1;
}
static int read_messages(exchange *x) {
    const int list = member(x, 0, "messages");
    WANT(server.format.name, NULL, "%s", server.no_format);
    WANT(type_of(x, list) == LLMI_JSON_ARRAY && x->json.nodes[list].n_children, "messages",
         "messages is not a list of messages");
    WANT(x->n <= server.capacity, "n", "n is %g: at most %d texts are written at a time "
         "(--slots, --queue)", x->n, server.capacity);
    const int n = x->json.nodes[list].n_children;
    prompt *p = x->prompts = (prompt *)cli_alloc(1, sizeof *x->prompts);
    chat_message *messages = (chat_message *)cli_alloc((size_t)n, sizeof *messages);
    char *room = (char *)cli_alloc(x->body.size, 1);
    size_t n_tokens = 0, n_head = 0, head = 0;
    int32_t *first = NULL;
    llm_error err;
    x->n_prompts = 1;
    int ok = read_list(x, list, messages, room);
    if (ok && n > 1)                   /* others may have the same first message */
        first = chat_tokens(&server.format, server.tokenizer, messages, 1, 0, &n_head, &err);
    if (ok) {
        p->tokens = chat_tokens(&server.format, server.tokenizer, messages, n, 1, &n_tokens, &err);
        if (!p->tokens) ok = refuse(x, 400, "messages", "%s", err.message);
        else if (!n_tokens) ok = refuse(x, 400, "messages", "the messages have no tokens");
        p->n = (int)n_tokens;
    }
    while (ok && first && head < n_head && head < n_tokens && first[head] == p->tokens[head])
        head++;
    free(first);
    free(messages);
    free(room);
    return ok && finish_prompt(x, p, (int)head);
}
static int make_jobs(exchange *x) {
    llm_error err;
    x->jobs = (job *)cli_alloc((size_t)x->n_prompts * (size_t)x->n, sizeof *x->jobs);
    if (x->route->chat && server.format.stop) {
        const size_t size = strlen(server.format.stop) + 1;
        x->stops[x->n_stops++] = (char *)memcpy(cli_alloc(size, 1), server.format.stop, size);
    }
    for (int i = 0; i < x->n_prompts * (int)x->n; i++) {
        job *j = &x->jobs[x->n_jobs++];
        const llm_detokenizer_desc desc = {.stop = (const char *const *)x->stops,
                                           .n_stop = x->n_stops};
        j->of = x;
        j->prompt = &x->prompts[i / (int)x->n];
        j->index = i;
        j->seed = x->seed + (uint64_t)(i % (int)x->n);
        j->detokenizer = llm_detokenizer_create(server.tokenizer, &desc, &err);
        if (!j->detokenizer) return refuse(x, 500, NULL, "%s", err.message);
    }
    return 1;
}
/* The body becomes jobs. -> 0: it is refused */
static int read_request(exchange *x) {
    llm_error err;
    WANT(x->body.size && x->body.failed == LLM_OK, NULL, "the request has no body");
    WANT(llmi_json_parse(&x->json, x->body.data, x->body.size, "the body", NULL, &err) == LLM_OK,
         NULL, "%s", err.message);
    WANT(type_of(x, 0) == LLMI_JSON_OBJECT, NULL, "the body is not an object of JSON");
    return read_numbers(x) && read_rest(x) && (x->route->chat ? read_messages(x) : read_prompts(x))
        && make_jobs(x);
}
/* all jobs go into the queue, or none */
static int submit(exchange *x) {
    lock();
    const int full = server.n_jobs + x->n_jobs > server.capacity, stopping = server.stopping;
    for (int i = 0; i < x->n_jobs && !full && !stopping; i++) {
        *server.queue_end = &x->jobs[i];
        server.queue_end = &x->jobs[i].next;
        server.n_jobs++;
        x->n_left++;
        x->users++;
    }
    if (x->n_left) pthread_cond_signal(&server.work);
    unlock();
    if (stopping) return refuse(x, 503, NULL, "the server is about to end");
    return !full || refuse(x, 503, NULL, "the queue is full: %d texts are written or wait",
                           server.capacity);
}

/* ---- HTTP ------------------------------------------------------------------------------------ */
static void take_turn(visitor *v, int ours) {            /* under the lock */
    v->ours = ours;
    v->since = cli_seconds();
}
static int is_allowed(struct MHD_Connection *connection) {
    const char *given = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
    const size_t n = strlen(server.key);
    unsigned char differ = 0;
    if (!n) return 1;
    if (!given || strncmp(given, "Bearer ", 7) || strlen(given + 7) != n) return 0;
    for (size_t i = 0; i < n; i++)     /* all, so that the time does not tell how much is right */
        differ |= (unsigned char)(given[7 + i] ^ server.key[i]);
    return !differ;
}
/* gives what a stream has, or waits for it */
static ssize_t pull(void *user, uint64_t at, char *to, size_t room) {
    exchange *x = (exchange *)user;
    (void)at;
    lock();
    take_turn(x->visitor, 1);
    while (x->n_out == x->out.size && !x->finished && !x->gone)
        pthread_cond_wait(&x->changed, &server.lock);
    const size_t n = llmi_min(x->out.size - x->n_out, room);
    const int gone = x->gone || x->out.failed != LLM_OK;
    if (n) memcpy(to, x->out.data + x->n_out, n);
    x->n_out += n;
    if (x->n_out == x->out.size) x->n_out = x->out.size = 0;
    take_turn(x->visitor, 0);
    unlock();
    return gone ? MHD_CONTENT_READER_END_WITH_ERROR : n ? (ssize_t)n
                : MHD_CONTENT_READER_END_OF_STREAM;
}
static enum MHD_Result answer(exchange *x, struct MHD_Connection *connection) {
    const int stream = x->stream && x->status == 200 && x->n_jobs;
    struct MHD_Response *response = stream
        ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1 << 14, pull, x, NULL)
        : MHD_create_response_from_buffer(x->out.size, x->out.data, MHD_RESPMEM_MUST_COPY);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Content-Type",
                            stream ? "text/event-stream" : "application/json");
    if (stream) MHD_add_response_header(response, "Cache-Control", "no-cache");
    if (x->status == 503) MHD_add_response_header(response, "Retry-After", "1");
    if (x->status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (x->status == 405) MHD_add_response_header(response, "Allow", x->wrong_method);
    const enum MHD_Result done = MHD_queue_response(connection, (unsigned)x->status, response);
    MHD_destroy_response(response);
    return done;
}
static void write_models(llmi_text *to, int one) {
    if (!one) add(to, "{\"object\":\"list\",\"data\":[");
    add(to, "{\"id\":");
    add_string(to, server.name);
    llmi_text_format(to, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"llm.h\"}",
                     server.created);
    if (!one) add(to, "]}");
}
static void find_route(exchange *x, const char *path, const char *method) {
    static const char models[] = "/v1/models/";
    const size_t n = sizeof models - 1;
    const int one = !strncmp(path, models, n) && !strcmp(path + n, server.name);
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (!strcmp(one ? "/v1/models" : path, routes[i].path)) x->route = &routes[i];
    x->one_model = one;
    if (x->route && strcmp(method, x->route->method)) x->wrong_method = x->route->method;
}
/* -> 1: there are jobs whose end is waited for */
static int respond(exchange *x, struct MHD_Connection *connection, const char *path) {
    x->status = 200;
    if (x->route && x->wrong_method)
        return refuse(x, 405, NULL, "%s wants the method %s", x->route->path, x->wrong_method);
    if (x->route && x->route->what == HEALTH) {
        lock();
        llmi_text_format(&x->out, "{\"status\":\"%s\",\"running\":%d,\"waiting\":%d}",
                         server.stopping ? "stopping" : "ok", server.n_running,
                         server.n_jobs - server.n_running);
        unlock();
        return 0;
    }
    if (!is_allowed(connection)) return refuse(x, 401, NULL, "the key is missing or wrong");
    if (!x->route) return refuse(x, 404, NULL, "there is no %.200s here", path);
    if (x->route->what == MODELS) {
        write_models(&x->out, x->one_model);
        return 0;
    }
    if (x->n_received > x->body.size)
        return refuse(x, 413, NULL, "the body has %lu bytes, more than %d",
                      (unsigned long)x->n_received, MAX_BODY);
    pthread_mutex_lock(&server.reading);
    const int good = read_request(x);
    pthread_mutex_unlock(&server.reading);
    return good && submit(x);
}
/* once when the head of a request is there, for each part of its body, and once at its end */
static enum MHD_Result handle(void *unused, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **state) {
    exchange *x = (exchange *)*state;
    (void)unused, (void)version;
    if (!x) {
        x = (exchange *)calloc(1, sizeof *x);
        if (!x) return MHD_NO;
        x->visitor = (visitor *)MHD_get_connection_info(
            connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
        pthread_cond_init(&x->changed, NULL);
        x->users = 1;
        find_route(x, path, method);
        lock();
        server.n_exchanges++;
        x->id = llm_random(server.seed, server.n_random++);
        x->seed = llm_random(server.seed, server.n_random++);
        unlock();
        x->created = (long long)time(NULL);
        *state = x;
        return MHD_YES;
    }
    if (*size) {                       /* what is too long is read to its end, for an answer */
        x->n_received += *size;
        if (x->n_received <= MAX_BODY) llmi_text_add(&x->body, data, *size);
        *size = 0;
        return x->n_received / 16 < MAX_BODY ? MHD_YES : MHD_NO;
    }
    lock();
    take_turn(x->visitor, 1);
    unlock();
    const int waits = respond(x, connection, path) && !x->stream;
    lock();
    while (waits && !x->finished && !x->gone) pthread_cond_wait(&x->changed, &server.lock);
    const int gone = x->gone || (!x->n_left && x->out.failed != LLM_OK);
    take_turn(x->visitor, 0);
    unlock();
    return gone ? MHD_NO : answer(x, connection);
}
static void completed(void *unused, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode why) {
    exchange *x = (exchange *)*state;
    (void)unused, (void)connection, (void)why;
    if (!x) return;
    lock();
    take_turn(x->visitor, 0);
    x->gone = 1;
    release(x);
    unlock();
    *state = NULL;
}
static void connected(void *unused, struct MHD_Connection *connection, void **context,
                      enum MHD_ConnectionNotificationCode code) {
    (void)unused;
    lock();
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        visitor *v = (visitor *)cli_alloc(1, sizeof *v);
        v->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        take_turn(v, 0);
        v->next = server.visitors;
        server.visitors = v;
        *context = v;
    } else {
        visitor **at = &server.visitors;
        while (*at != *context) at = &(*at)->next;
        *at = (*at)->next;
        free(*context);
    }
    unlock();
}

/* ---- the program ----------------------------------------------------------------------------- */
static struct {
    const char *host, *key, *name, *format;
    int port, slots, queue, context, piece, threads;
    double timeout;
} o;
static cli_option options[] = {
    CLI_STRING("--host", &o.host, "127.0.0.1", "where to listen; 0.0.0.0 or :: = everywhere"),
    CLI_WHOLE("--port", &o.port, "8080", 0, "0 = one that is free"),
    CLI_STRING("--key", &o.key, "", "that clients have to send: Authorization: Bearer KEY"),
    CLI_STRING("--name", &o.name, "", "of the model, in answers; else that of its file"),
    CLI_STRING("--format", &o.format, "", "of conversations; else that of the model's template"),
    CLI_WHOLE("--slots", &o.slots, "8", 1, "texts that are written at a time"),
    CLI_WHOLE("--queue", &o.queue, "16", 0, "texts that may wait"),
    CLI_WHOLE("--context", &o.context, "0", 0, "tokens of a slot; 0 = the model's, at most 4096"),
    CLI_WHOLE("--piece", &o.piece, "256", LEAST_PIECE, "a prompt is evaluated in pieces of so many "
              "tokens (the first of 512 or more), which others share that begin alike"),
    CLI_NUMBER("--timeout", &o.timeout, "30", 0.1, 1e6, "seconds for a client to send its request, "
               "or to take what is there for it"),
    CLI_WHOLE("--threads", &o.threads, "0", 0, "0 = all cores"),
    CLI_END
};
static const char usage[] =
    "usage: serve DIRECTORY [OPTION]...\n"
    "Answers over HTTP, as OpenAI's interface does, with the model of a directory or .gguf file.\n"
    "Ctrl-C finishes what runs; a second one ends at once.\n";

static volatile sig_atomic_t stopped;
static void stop(int signal) {
    (void)signal;
    if (stopped) _exit(1);
    stopped = 1;
}
static void load(const char *path) {
    cli_path directory;
    cli_directory_of(directory, path, ".safetensors");
    const llm_model_desc desc = {.n_threads = o.threads};
    TRY(server.model = llm_model_load(directory, &desc, &error));
    TRY(server.tokenizer = llm_tokenizer_load(directory, NULL, &error));
    server.special = cli_special_of(server.model, server.tokenizer);
    const char *template = llm_tokenizer_chat_template(server.tokenizer);
    if (!*o.format && !template)
        strcpy(server.no_format, "the model has no format of conversations (--format)");
    else if (chat_pick(&server.format, o.format, template, &error)) {
        NEED(!*o.format, "%s", error.message);
        strcpy(server.no_format, error.message);
        server.format.name = NULL;
        cli_note("no conversations: %s", error.message);
    }
    for (int chat = 0; chat < 2; chat++) {
        const chat_format none = {.after = {"", "", ""}, .before = {"", "", ""}};
        server.n_ends[chat] = chat_ends(chat && server.format.name ? &server.format : &none,
                                        server.tokenizer, server.special, server.ends[chat]);
    }
    const char *slash = strrchr(directory, '/');
    server.name = *o.name ? o.name : strdup(slash && slash[1] ? slash + 1 : directory);
    server.vocab = llm_model_config(server.model)->vocab_size;
    server.has_experts = llm_model_config(server.model)->n_routed_experts > 0;
}
static void make_slots(void) {
    const int most = llm_model_config(server.model)->max_seq_len;
    llm_memory memory;
    NEED(o.context <= most, "--context %d: the model reads %d at most", o.context, most);
    server.context = o.context ? o.context : most < 4096 ? most : 4096;
    const llm_session_desc desc = {.max_seq_len = server.context, .n_sequences = o.slots};
    TRY(!llm_session_memory(llm_model_config(server.model), &desc, &memory, &error));
    if (memory.total > 1000000000)
        cli_note("%d slots of %d tokens take %.1f GB", o.slots, server.context,
                 1e-9 * (double)memory.total);
    TRY(server.session = llm_session_create(server.model, &desc, &error));
    const size_t n = (size_t)server.context;
    server.n_slots = o.slots;
    server.slots = (slot **)cli_alloc((size_t)o.slots, sizeof *server.slots);
    for (int i = 0; i < o.slots; i++) {
        slot *s = server.slots[i] = (slot *)cli_alloc(1, sizeof *s);
        s->sequence = i;
        s->prompt.tokens = (int32_t *)cli_alloc(n, sizeof(int32_t));
        s->prompt.cuts = (int *)cli_alloc(n / LEAST_PIECE + 2, sizeof(int));
    }
    server.logits = (float *)cli_alloc((size_t)o.slots * (size_t)server.vocab, sizeof(float));
}
/* cuts those off that let us wait too long */
static void watch(void) {
    lock();
    for (const visitor *v = server.visitors; v; v = v->next)
        if (!v->ours && cli_seconds() - v->since > o.timeout) shutdown(v->fd, SHUT_RDWR);
    unlock();
}
static struct MHD_Daemon *listen_at(const char *host, int port) {
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *address;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    NEED(port < 65536, "--port %d: not one from 0 to 65535", port);
    const int failed = getaddrinfo(host, service, &hints, &address);
    NEED(!failed, "--host %s: %s", host, gai_strerror(failed));
    const unsigned flags = MHD_USE_POLL | MHD_USE_INTERNAL_POLLING_THREAD |
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_ITC |
        (address->ai_family == AF_INET6 ? (unsigned)MHD_USE_IPv6 : 0);
    struct MHD_Daemon *http = MHD_start_daemon(
        flags, (uint16_t)port, NULL, NULL, handle, NULL, MHD_OPTION_SOCK_ADDR, address->ai_addr,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS,
        MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_NOTIFY_CONNECTION, connected, NULL,
        MHD_OPTION_END);
    NEED(http, "%s, port %d: %s", host, port, strerror(errno));
    freeaddrinfo(address);
    return http;
}
static void free_all(void) {
    for (int i = 0; i < server.n_slots; i++) {
        free(server.slots[i]->prompt.tokens);
        free(server.slots[i]->prompt.cuts);
        free(server.slots[i]);
    }
    free(server.slots);
    free(server.logits);
    if (!*o.name) free((void *)server.name);
    chat_free(&server.format);
    llm_session_free(server.session);
    llm_model_free(server.model);
    llm_tokenizer_free(server.tokenizer);
}

int main(int argc, char **argv) {
    const struct timespec tick = {0, 100000000};
    const struct sigaction action = {.sa_handler = stop};
    char **args = argv + (argc > 0);
    sigset_t signals, before;
    pthread_t inference;
    cli_program = "serve";
    const int n_args = cli_read_options(options, args, usage);
    if (n_args < 0) return 0;
    NEED(n_args == 1, "one directory or .gguf file is wanted (--help says more)");
    server.key = o.key;
    server.piece = o.piece;
    server.capacity = o.slots + o.queue;
    server.created = (long long)time(NULL);
    FILE *random = fopen("/dev/urandom", "rb");
    NEED(random && fread(&server.seed, sizeof server.seed, 1, random) == 1, "no random numbers");
    fclose(random);
    load(args[0]);
    make_slots();

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, &before);     /* they are for this thread alone */
    NEED(!pthread_create(&inference, NULL, infer, NULL), "no thread can be made");
    struct MHD_Daemon *http = listen_at(o.host, o.port);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    const int port = MHD_get_daemon_info(http, MHD_DAEMON_INFO_BIND_PORT)->port;
    printf(strchr(o.host, ':') ? "http://[%s]:%d\n" : "http://%s:%d\n", o.host, port);
    printf("%s, %d slots of %d tokens, format of conversations: %s\n", server.name, o.slots,
           server.context, server.format.name ? server.format.name : "none known");
    cli_check_output();
    while (!stopped) {
        nanosleep(&tick, NULL);
        watch();
    }

    const int listening = MHD_quiesce_daemon(http);
    lock();
    server.stopping = 1;
    pthread_cond_signal(&server.work);
    unlock();
    pthread_join(inference, NULL);     /* it has written what was asked for: that is now taken */
    for (int open = 1; open;) {
        watch();
        lock();
        open = server.n_exchanges > 0;
        unlock();
        if (open) nanosleep(&tick, NULL);
    }
    MHD_stop_daemon(http);
    close(listening);
    free_all();
    return 0;
}

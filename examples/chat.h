/* chat.h -- conversations as texts and tokens: a table of the formats that models were trained on,
 * and how to tell them by the Jinja template that a model brings, which is not run. For chat.c and
 * serve.c; include it after llm.h, with its implementation, and cli.h. Nothing here ends the
 * program: what fails returns NULL or -1 and fills err.
 *
 * Contents are text, whatever is in them: the tokens that give a conversation its form come from
 * the format alone. */
#ifndef CHAT_H
#define CHAT_H

enum { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };
typedef struct chat_message {
    int role;
    const char *content;
    size_t size;
    const int32_t *tokens;             /* those that the model wrote for all of the content, kept */
    size_t n_tokens;                   /* so that it need not read them again; NULL: not known    */
} chat_message;

enum {                                 /* what templates do beside putting texts together         */
    CHAT_JOIN = 1,                     /* system messages stand in front, joined by empty lines   */
    CHAT_LAST = 2,                     /* of the system messages the last alone, in front         */
    CHAT_TRIM = 4,                     /* contents lose white space at both ends                  */
    CHAT_THINK_FIRST = 8,              /* an answer begins after its first </think>, if any       */
    CHAT_THINK_LAST = 16,              /* or its last                                             */
    CHAT_OPEN = 32,                    /* before[CHAT_ASSISTANT] stands only after a user's       */
    CHAT_AFTER_USER = 64,              /* so does the generation prompt                           */
    CHAT_UNLESS_USER = 128,            /* the generation prompt is left out after a user's        */
    CHAT_UNLESS_ASSISTANT = 256,       /* or after an assistant's                                 */
    CHAT_PRESET = 512,                 /* preset stands before a system message, too              */
    CHAT_OWN = 1024                    /* somebody's own: no marker has to be in the vocabulary   */
};
typedef struct chat_format {
    const char *name;
    const char *has;                   /* of a template without its white space; !x: it has no x  */
    const char *begin;                 /* NULL: what the tokenizer puts before a text             */
    const char *before[3], *after[3];  /* a message, by role                                      */
    const char *prompt;                /* the generation prompt: after all, where an answer comes */
    unsigned flags;
    const char *from, *to;             /* between them in a template is its own system message    */
    const char *lead;                  /* before a system message that is the first; NULL: as any */
    const char *preset;                /* in place of one, where there is none; NULL: nothing     */
    const char *stop;                  /* a text at which an answer ends; NULL: tokens end it     */
    char *owned;                       /* what chat_free frees                                    */
} chat_format;

#define CHAT_BOS "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define CHAT_EOS "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define CHAT_DS_USER "<\xef\xbd\x9cUser\xef\xbd\x9c>"
#define CHAT_DS_ASSISTANT "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>"
#define CHAT_DEEPSEEK(open, prompt, flags) \
    CHAT_BOS, {"", CHAT_DS_USER, open}, {"", "", CHAT_EOS}, prompt, CHAT_JOIN | (flags), NULL, \
    NULL, NULL, NULL, NULL, NULL
#define CHAT_KIMI(answer, prompt) \
    "", {"<|im_system|>system<|im_middle|>", "<|im_user|>user<|im_middle|>", \
         "<|im_assistant|>assistant<|im_middle|>" answer}, {"<|im_end|>", "<|im_end|>", \
    "<|im_end|>"}, "<|im_assistant|>assistant<|im_middle|>" prompt, 0, \
    "<|im_system|>system<|im_middle|>", "<|im_end|>", NULL, NULL, NULL, NULL
#define CHAT_HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define CHAT_LLAMA(lead, preset) \
    "<|begin_of_text|>", {CHAT_HEADER("system"), CHAT_HEADER("user"), CHAT_HEADER("assistant")}, \
    {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"}, CHAT_HEADER("assistant"), CHAT_TRIM, NULL, NULL, \
    lead, preset, NULL, NULL
#define CHAT_LLAMA_LEAD \
    CHAT_HEADER("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

/* The first whose words a template has is its format; a name stands for the first of that name. */
static const chat_format chat_formats[] = {
    {"deepseek-v2", "'User:'+message['content']+ 'Assistant:'+message['content']+eos_token",
     CHAT_BOS, {"", "User: ", "Assistant: "}, {"\n\n", "\n\n", CHAT_EOS}, "Assistant:", 0, NULL,
     NULL, NULL, NULL, NULL, NULL},
    {"deepseek-v3", "'" CHAT_DS_USER "'+message['content']}} '" CHAT_DS_ASSISTANT "'+message "
     "'" CHAT_DS_ASSISTANT "'}} !</think>",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT, CHAT_DS_ASSISTANT, 0)},
    {"deepseek-v3-0324", "'" CHAT_DS_USER "'+message['content']+'" CHAT_DS_ASSISTANT "'}} "
     "notns.is_last_user !</think>",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT, CHAT_DS_ASSISTANT, 0)},
    {"deepseek-r1", "'" CHAT_DS_USER "'+message['content']}} '</think>')[-1] "
     "'" CHAT_DS_ASSISTANT "<think>\\n'}} !enable_thinking",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT, CHAT_DS_ASSISTANT "<think>\n", CHAT_THINK_LAST)},
    {"deepseek-r1", "'" CHAT_DS_USER "'+message['content']}} '</think>')[-1] "
     "'" CHAT_DS_ASSISTANT "'}} !enable_thinking",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT, CHAT_DS_ASSISTANT, CHAT_THINK_LAST)},
    {"deepseek-r1-0528", "'" CHAT_DS_USER "'+content+'" CHAT_DS_ASSISTANT "'}} '</think>')[-1] "
     "notns.is_last_user !enable_thinking",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT, CHAT_DS_ASSISTANT, CHAT_THINK_LAST)},
    {"deepseek-v3.1", "'" CHAT_DS_USER "'+message['content']}} '</think>',1)[1] "
     "andns.is_last_user '</think>'}} !<think></think> !is_only_sys",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT "</think>", CHAT_DS_ASSISTANT "</think>",
                   CHAT_THINK_FIRST | CHAT_OPEN | CHAT_AFTER_USER)},
    {"deepseek-v3.1", "'" CHAT_DS_USER "'+message['content']}} '</think>',1)[1] "
     "'</think>'}} notns.is_prefix !<think></think>",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT "</think>", CHAT_DS_ASSISTANT "</think>",
                   CHAT_THINK_FIRST | CHAT_OPEN)},
    {"deepseek-v3.1", "'" CHAT_DS_USER "'+message['content']}} '</think>',1)[1] "
     "andns.is_last_user '<think></think>'}}",
     CHAT_DEEPSEEK(CHAT_DS_ASSISTANT "<think></think>", CHAT_DS_ASSISTANT "<think></think>",
                   CHAT_THINK_FIRST | CHAT_OPEN | CHAT_AFTER_USER)},
    {"gigachat3", "<|role_sep|> <|message_sep|> {%-setDEVSYSTEM-%} !think",
     "<s>", {"system<|role_sep|>\n", "user<|role_sep|>\n", "assistant<|role_sep|>\n"},
     {"<|message_sep|>\n\n", "<|message_sep|>\n\n", "<|message_sep|>\n\n"},
     "assistant<|role_sep|>\n", CHAT_UNLESS_ASSISTANT | CHAT_PRESET, "{%- set DEVSYSTEM -%}",
     "{%- endset -%}", NULL, NULL, NULL, NULL},
    {"moonlight", "<|im_user|> <|im_middle|> Moonshot-AI !<think>", CHAT_KIMI("", "")},
    {"kimi-k2", "<|im_user|> <|im_middle|> !<think>", CHAT_KIMI("", "")},
    {"kimi-k2-thinking", "<|im_user|> <|im_middle|> <think></think> !thinkingisdefined",
     CHAT_KIMI("<think></think>", "")},
    {"kimi-k2.5", "<|im_user|> <|im_middle|> <think></think> !preserve_thinking "
     "thinkingisdefinedandthinkingisfalse", CHAT_KIMI("<think></think>", "<think>")},
    {"chatml", "<|im_start|> <|im_end|> add_generation_prompt !think !<|im_sep|> !trim !strip "
     "!bos_token", "", {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
     {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"}, "<|im_start|>assistant\n", 0,
     "<|im_start|>system", "<|im_end|>", NULL, NULL, NULL, NULL},
    {"llama-3", "<|start_header_id|> message['content']|trim bos_token+content !tool",
     CHAT_LLAMA(NULL, NULL)},
    {"llama-3.1", "<|start_header_id|> message['content']|trim CuttingKnowledgeDate 26Jul2024 "
     "!strftime_now", CHAT_LLAMA(CHAT_LLAMA_LEAD, CHAT_LLAMA_LEAD "<|eot_id|>")},
    {"none", NULL, NULL, {"", "", ""}, {"", "", ""}, "", CHAT_OWN, NULL, NULL, NULL, NULL, NULL,
     NULL},
    {NULL, NULL, NULL, {NULL, NULL, NULL}, {NULL, NULL, NULL}, NULL, 0, NULL, NULL, NULL, NULL,
     NULL, NULL}};

/* the names of the table, each once; the text is good until the next call */
static inline const char *chat_names(void) {
    static char names[512];
    size_t n = 0;
    for (const chat_format *f = chat_formats; f->name; f++)
        if (f == chat_formats || strcmp(f->name, f[-1].name))
            n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", f->name);
    return names;
}

/* ---- the format of a model ------------------------------------------------------------------- */
/* all of the words, and none of those with a ! */
static inline int chat_has(const char *template, const char *words) {
    while (words && *words) {
        char word[128];
        const int not_there = *words == '!';
        const size_t n = strcspn(words += not_there, " ");
        snprintf(word, sizeof word, "%.*s", (int)n, words);
        if ((strstr(template, word) == NULL) != not_there) return 0;
        words += n + (words[n] == ' ');
    }
    return words != NULL;
}
/* The system message that a template itself has becomes the preset, in the format's own form. -> -1
 * and err where there is no memory */
static inline int chat_preset(chat_format *f, const char *template, llm_error *err) {
    const int tags = f->flags & CHAT_PRESET;         /* it stands between two, not in a text */
    const char *at = template, *end = NULL;
    char quote = 0;
    while (!end && (at = strstr(at, f->from)) != NULL) {
        quote = at > template && (at[-1] == '\'' || at[-1] == '"') ? at[-1] : 0;
        at += strlen(f->from);
        end = strstr(at, f->to);
        for (const char *c = at; end && !tags && c < end; c++)       /* code: another place */
            if (*c == '{' || *c == '}' || (quote && *c == quote && c[-1] != '\\')) end = NULL;
    }
    if (!end) return 0;
    const size_t room = (size_t)(end - at) + 256;
    char *text = (char *)malloc(room), *out = text;
    f->owned = (char *)malloc(room);
    if (!text || !f->owned) {
        free(text);
        return llmi_fail(err, LLM_ERR_MEMORY, "out of memory"), -1;
    }
    while (tags && end > at && strchr(" \n", end[-1])) end--;
    while (tags && at < end && strchr(" \n", *at)) at++;
    for (; at < end; at++) {
        const int escaped = quote && *at == '\\';
        at += escaped;
        *out++ = escaped && *at == 'n' ? '\n' : escaped && *at == 't' ? '\t' : *at;
    }
    *out = 0;
    /* where a tag that leaves white space in front of it follows the message, a line ends there */
    at = end + strlen(f->to);
    snprintf(f->owned, room, "%s%s%s%s%s", tags ? "developer " : "", f->before[CHAT_SYSTEM],
             text + (*text == '\n'), f->after[CHAT_SYSTEM],
             !tags && !quote && *at == '\n' && !strncmp(at + strspn(at, " \n"), "{% ", 3)
                 ? "\n" : "");
    f->preset = f->owned;
    free(text);
    return 0;
}
/* The format of that name; name NULL or "": the one of the template (llm_tokenizer_chat_template);
 * without a template "none". -> -1 and err: no such name, a template that is not in the table */
static inline int chat_pick(chat_format *f, const char *name, const char *template,
                            llm_error *err) {
    const chat_format *row = chat_formats;
    if ((!name || !*name) && !template) name = "none";
    char *dense = (char *)malloc(template ? strlen(template) + 1 : 1), *out = dense;
    if (!dense) return llmi_fail(err, LLM_ERR_MEMORY, "out of memory"), -1;
    for (const char *c = template; c && *c; c++)
        if (!strchr(" \n\r\t", *c)) *out++ = *c;
    *out = 0;
    if (template)
        while (row->name &&
               (!chat_has(dense, row->has) || (name && *name && strcmp(row->name, name)))) row++;
    const int recognised = template && row->name;
    if (!recognised && name && *name)
        for (row = chat_formats; row->name && strcmp(row->name, name);) row++;
    memset(f, 0, sizeof *f);
    if (row->name) *f = *row;
    if (recognised && f->flags & CHAT_JOIN && !strstr(dense, "is_first_sp"))
        f->flags ^= CHAT_JOIN | CHAT_LAST;
    if (recognised && strstr(dense, "notns.is_last_user")) {
        f->flags |= CHAT_UNLESS_USER;                /* the prompt is part of the user's message */
        f->after[CHAT_USER] = f->before[CHAT_ASSISTANT];
        f->before[CHAT_ASSISTANT] = "";
    }
    free(dense);
    if (!f->name && name && *name)
        return llmi_fail(err, LLM_ERR_ARGUMENT, "format %.80s: there is no such", name), -1;
    if (!f->name)
        return llmi_fail(err, LLM_ERR_UNSUPPORTED, "the model's template is not one that is known: "
                         "\"%.100s\"", template), -1;
    return recognised && f->from ? chat_preset(f, template, err) : 0;
}
/* One's own: texts before each role's messages, the system's, the user's and the assistant's, and
 * one after each, in which <|..|> is a token where the vocabulary has it. They are not copied. */
static inline void chat_own(chat_format *f, const char *const before[3], const char *after) {
    memset(f, 0, sizeof *f);
    f->name = "own";
    f->flags = CHAT_OWN;
    for (int i = 0; i < 3; i++) {
        f->before[i] = before[i];
        f->after[i] = after;
    }
    f->prompt = before[CHAT_ASSISTANT];
    f->stop = before[CHAT_USER] + strspn(before[CHAT_USER], " \n");
    if (!*f->stop) f->stop = after + strspn(after, " \n");
    if (!*f->stop) f->stop = NULL;
}
static inline void chat_free(chat_format *f) {
    free(f->owned);
    f->owned = NULL;
}

/* ---- messages -------------------------------------------------------------------------------- */
static inline int chat_role(const char *role, size_t size) {           /* -1: none of them */
    static const char *const names[] = {"system", "user", "assistant"};
    for (int i = 0; i < 3; i++)
        if (strlen(names[i]) == size && !memcmp(names[i], role, size)) return i;
    return -1;
}
/* The messages of an array of {"role": .., "content": ..} within a parsed document. -> n of them in
 * memory that free() frees, contents and all; NULL and err */
static inline chat_message *chat_messages(const llmi_json *json, int array, int *n,
                                          llm_error *err) {
    const int is_array = array >= 0 && json->nodes[array].type == LLMI_JSON_ARRAY;
    *n = is_array ? json->nodes[array].n_children : 0;
    if (!*n) {
        llmi_fail(err, LLM_ERR_FORMAT, "%s: %s", json->name,
                  is_array ? "no messages" : "the messages are not a list");
        return NULL;
    }
    const size_t bytes = json->nodes[array].end - json->nodes[array].begin;
    chat_message *messages = (chat_message *)calloc(1, (size_t)*n * sizeof *messages + bytes);
    char *text = (char *)(messages + *n);
    if (!messages) {
        llmi_fail(err, LLM_ERR_MEMORY, "out of memory");
        return NULL;
    }
    int node = llmi_json_first(json, array);
    for (int i = 0; i < *n; i++, node = json->nodes[node].next) {
        const int role = llmi_json_get(json, node, "role");
        const int content = llmi_json_get(json, node, "content");
        char name[32];
        const size_t size = llmi_json_string(json, role, name, sizeof name);
        chat_message *m = &messages[i];
        m->role = chat_role(name, size < sizeof name ? size : 0);
        m->content = text;
        if (m->role < 0 || content < 0 || json->nodes[content].type != LLMI_JSON_STRING) {
            llmi_fail(err, LLM_ERR_FORMAT, "%s: message %d: %s", json->name, i + 1,
                      m->role < 0 ? "its role is not system, user or assistant"
                                  : "its content is not a string");
            free(messages);
            return NULL;
        }
        m->size = llmi_json_string(json, content, text, bytes);
        text += m->size;
    }
    return messages;
}

/* ---- a conversation's text and tokens -------------------------------------------------------- */
typedef struct chat_piece {
    const char *text;
    size_t size;
    const chat_message *of;            /* NULL: the format's                                      */
} chat_piece;

/* white space as Python's str.strip has it, before (at its end) or after; -> its bytes, 0: none */
static inline size_t chat_space(const char *text, size_t n, int at_end) {
    for (size_t size = 1; size <= 3 && size <= n; size++) {
        uint32_t code = 0;
        if (llmi_utf8_decode(at_end ? text + n - size : text, size, &code) != size) continue;
        return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 ||
               code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
               code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
               code == 0x3000 ? size : 0;
    }
    return 0;
}
static inline void chat_content(const chat_format *f, const chat_message *m, chat_piece *piece) {
    static const char mark[] = "</think>";
    const size_t length = sizeof mark - 1;
    const int think = m->role == CHAT_ASSISTANT && f->flags & (CHAT_THINK_FIRST | CHAT_THINK_LAST);
    size_t size;
    piece->text = m->content;
    piece->size = m->size;
    piece->of = m;
    for (size_t i = 0; think && i + length <= m->size; i++)
        if (!memcmp(m->content + i, mark, length)) {
            piece->text = m->content + i + length;
            piece->size = m->size - i - length;
            if (f->flags & CHAT_THINK_FIRST) break;
            i += length - 1;
        }
    if (!(f->flags & CHAT_TRIM)) return;
    while ((size = chat_space(piece->text, piece->size, 0)) > 0) {
        piece->text += size;
        piece->size -= size;
    }
    while ((size = chat_space(piece->text, piece->size, 1)) > 0) piece->size -= size;
}
static inline void chat_add(chat_piece **piece, const char *text) {
    if (!text || !*text) return;
    (*piece)->text = text;
    (*piece)->size = strlen(text);
    (*piece)++->of = NULL;
}
/* -> in memory that free() frees, the last with text NULL; NULL and err */
static inline chat_piece *chat_pieces(const chat_format *f, const chat_message *m, int n,
                                      int prompt, llm_error *err) {
    const int front = f->flags & (CHAT_JOIN | CHAT_LAST);
    int last = -1, systems = 0;
    chat_piece *pieces = (chat_piece *)calloc(4 * (size_t)n + 8, sizeof *pieces), *p = pieces;
    if (!pieces) {
        llmi_fail(err, LLM_ERR_MEMORY, "out of memory");
        return NULL;
    }
    chat_add(&p, f->begin);
    if (n && (m[0].role != CHAT_SYSTEM || f->flags & CHAT_PRESET)) chat_add(&p, f->preset);
    for (int i = 0; front && i < n; i++) {
        if (m[i].role != CHAT_SYSTEM) continue;
        if (systems++) {
            if (f->flags & CHAT_LAST) p--;
            else chat_add(&p, "\n\n");
        }
        chat_content(f, &m[i], p++);
    }
    for (int i = 0; i < n; i++) {
        const int role = m[i].role, leads = !i && role == CHAT_SYSTEM;
        if (front && role == CHAT_SYSTEM) continue;
        if (role != CHAT_ASSISTANT || !(f->flags & CHAT_OPEN) || last == CHAT_USER)
            chat_add(&p, leads && f->lead ? f->lead : f->before[role]);
        chat_content(f, &m[i], p++);
        chat_add(&p, f->after[role]);
        if (!leads) last = role;
    }
    if (prompt && !(f->flags & CHAT_AFTER_USER && last != CHAT_USER) &&
        !(f->flags & CHAT_UNLESS_USER && last == CHAT_USER) &&
        !(f->flags & CHAT_UNLESS_ASSISTANT && (last == CHAT_ASSISTANT || last < 0)))
        chat_add(&p, f->prompt);
    return pieces;
}
/* The text of a conversation, and the generation prompt if an answer is to follow: what
 * transformers' apply_chat_template makes of it. Not terminated. -> in memory that free() frees;
 * NULL and err */
static inline char *chat_text(const chat_format *f, const llm_tokenizer *tokenizer,
                              const chat_message *messages, int n, int prompt, size_t *size,
                              llm_error *err) {
    chat_piece *pieces = chat_pieces(f, messages, n, prompt, err);
    int32_t first[8];
    const int n_first = f->begin ? 0 : llm_tokenizer_template(tokenizer, 0, first);
    size_t all = 0;
    if (!pieces) return NULL;
    if (llm_tokenizer_decode(tokenizer, first, (size_t)n_first, NULL, 0, &all, err)) all = 0;
    *size = all;
    for (const chat_piece *p = pieces; p->text; p++) all += p->size;
    char *text = (char *)malloc(all + 1);
    if (!text) llmi_fail(err, LLM_ERR_MEMORY, "out of memory");
    else llm_tokenizer_decode(tokenizer, first, (size_t)n_first, text, *size, size, err);
    for (const chat_piece *p = pieces; text && p->text; p++) {
        memcpy(text + *size, p->text, p->size);
        *size += p->size;
    }
    free(pieces);
    return text;
}
/* Does a marker, as <|im_end|>, begin here? -> its bytes, 0: no; its token, -1: there is none */
static inline size_t chat_marker(const llm_tokenizer *tokenizer, const char *text, size_t n,
                                 int32_t *token) {
    static const char *const marks[] = {"<|", "|>", "<\xef\xbd\x9c", "\xef\xbd\x9c>"};
    static const char *const words[] = {"<think>", "</think>", "<s>"};
    size_t size = 0;
    if (!n || *text != '<') return 0;
    if (n > 80) n = 80;
    for (int i = 0; i < 4 && !size; i += 2) {
        const size_t open = strlen(marks[i]), close = strlen(marks[i + 1]);
        if (n < open || memcmp(text, marks[i], open)) continue;
        for (size_t end = open; !size && end + close <= n; end++)
            if (!memcmp(text + end, marks[i + 1], close)) size = end + close;
    }
    for (int i = 0; i < 3 && !size; i++)
        if (strlen(words[i]) <= n && !memcmp(text, words[i], strlen(words[i])))
            size = strlen(words[i]);
    if (size) *token = llm_tokenizer_token(tokenizer, text, size);
    return size;
}
/* what texts become. Plain text waits, since a token may cross two pieces. */
typedef struct chat_writer {
    const chat_format *format;
    const llm_tokenizer *tokenizer;
    char *plain;
    int32_t *tokens;
    size_t n_plain, n, capacity;
    llm_error *err;
} chat_writer;

/* Encodes the plain text. An added token that is not special would be found in it: what spells a
 * marker is cut after its first byte. */
static inline int chat_flush(chat_writer *w) {
    const char *const begin = w->format->begin;
    const int has_s = begin && !strncmp(begin, "<s>", 3);
    for (size_t from = 0, i = 1; i <= w->n_plain; i++) {
        int32_t token = -1;
        size_t count = 0;
        const size_t size = chat_marker(w->tokenizer, w->plain + i - 1, w->n_plain - i + 1, &token);
        if (i < w->n_plain && (token < 0 || (size == 3 && !has_s))) continue;
        if (llm_tokenizer_encode(w->tokenizer, w->plain + from, i - from, 0, w->tokens + w->n,
                                 w->capacity - w->n, &count, w->err)) return -1;
        w->n += count;
        from = i;
    }
    w->n_plain = 0;
    return 0;
}
static inline int chat_write(chat_writer *w, const chat_piece *p) {
    const chat_message *m = p->of;
    if (m && m->tokens && p->size == m->size) {
        if (chat_flush(w)) return -1;
        memcpy(w->tokens + w->n, m->tokens, m->n_tokens * sizeof *w->tokens);
        w->n += m->n_tokens;
        return 0;
    }
    for (size_t i = 0; i < p->size; i++) {
        int32_t token = -1;
        const size_t size = m ? 0 : chat_marker(w->tokenizer, p->text + i, p->size - i, &token);
        if (!size || (token < 0 && w->format->flags & CHAT_OWN)) {
            w->plain[w->n_plain++] = p->text[i];
        } else if (token >= 0) {
            if (chat_flush(w)) return -1;
            w->tokens[w->n++] = token;
            i += size - 1;
        } else if (size == 3 || strchr("|\x9c", p->text[i + size - 2])) {      /* <s>, <|..|> */
            return llmi_fail(w->err, LLM_ERR_ARGUMENT, "format %s: the vocabulary has no token "
                             "%.*s", w->format->name, (int)size, p->text + i), -1;
        } else {
            w->plain[w->n_plain++] = p->text[i];     /* <think> was never more than text */
        }
    }
    return 0;
}
/* The tokens of chat_text's text, where contents are text alone. -> in memory that free() frees;
 * NULL and err: LLM_ERR_ARGUMENT names a marker that the vocabulary has not */
static inline int32_t *chat_tokens(const chat_format *f, const llm_tokenizer *tokenizer,
                                   const chat_message *messages, int n, int prompt, size_t *count,
                                   llm_error *err) {
    chat_piece *pieces = chat_pieces(f, messages, n, prompt, err);
    chat_writer w = {f, tokenizer, NULL, NULL, 0, 0, 8, err};
    size_t most = 1;
    int failed = !pieces;
    for (const chat_piece *p = pieces; p && p->text; p++) {
        most += p->size;
        w.capacity += 2 * p->size + 2 + (p->of ? p->of->n_tokens : 0);   /* 2: added spaces */
    }
    w.plain = (char *)malloc(most);
    w.tokens = (int32_t *)malloc(w.capacity * sizeof *w.tokens);
    if (!failed && (!w.plain || !w.tokens)) {
        llmi_fail(err, LLM_ERR_MEMORY, "out of memory");
        failed = 1;
    }
    if (!failed && !f->begin) w.n = (size_t)llm_tokenizer_template(tokenizer, 0, w.tokens);
    for (const chat_piece *p = pieces; !failed && p->text; p++) failed = chat_write(&w, p);
    failed = failed || chat_flush(&w);
    free(pieces);
    free(w.plain);
    *count = w.n;
    if (!failed) return w.tokens;
    free(w.tokens);
    return NULL;
}
/* What of an answer (*size bytes) a conversation keeps: where answers stand after <think></think>,
 * as the thoughts of earlier turns are left out, what is after its own </think> */
static inline const char *chat_kept(const chat_format *f, const char *answer, size_t *size) {
    chat_format thinks = {.flags = CHAT_THINK_LAST};
    chat_message m = {CHAT_ASSISTANT, answer, *size, NULL, 0};
    chat_piece kept;
    if (!strstr(f->before[CHAT_ASSISTANT], "<think></think>")) return answer;
    chat_content(&thinks, &m, &kept);
    *size = kept.size;
    return kept.text;
}
/* The tokens that end an answer: the model's own, special (of llm_model_special_tokens), and those
 * that the format has after an answer or before a user's message. -> how many */
enum { CHAT_ENDS = 16 };
static inline int chat_ends(const chat_format *f, const llm_tokenizer *tokenizer,
                            llm_special_tokens special, int32_t ends[CHAT_ENDS]) {
    const char *const texts[] = {f->after[CHAT_ASSISTANT], f->before[CHAT_USER]};
    int n = 0;
    for (int i = 0; i < special.n_eos && n < CHAT_ENDS - 2; i++) ends[n++] = special.eos[i];
    for (int i = 0; i < 2; i++) {
        int32_t token = -1;
        const char *mark = strchr(texts[i], '<');
        if (mark && chat_marker(tokenizer, mark, strlen(mark), &token) && token >= 0)
            ends[n++] = token;
    }
    return n;
}

/* ---- a conversation that grows --------------------------------------------------------------- */
typedef struct chat_talk {
    chat_message *messages;            /* with their contents and tokens; chat_take frees them    */
    int n;
} chat_talk;

static inline int chat_systems(const chat_talk *t) {                   /* 1: it begins with one */
    return t->n && t->messages[0].role == CHAT_SYSTEM;
}
/* a message at place i, of a copy of text. -> -1 and err */
static inline int chat_put(chat_talk *t, int i, int role, const char *text, size_t size,
                           llm_error *err) {
    chat_message *all = (chat_message *)realloc(t->messages, (size_t)(t->n + 1) * sizeof *all);
    char *content = (char *)malloc(size + 1);
    if (all) t->messages = all;
    if (!all || !content) {
        free(content);
        return llmi_fail(err, LLM_ERR_MEMORY, "out of memory"), -1;
    }
    memcpy(content, text, size);
    content[size] = 0;
    memmove(all + i + 1, all + i, (size_t)(t->n++ - i) * sizeof *all);
    memset(&all[i], 0, sizeof *all);
    all[i].role = role;
    all[i].content = content;
    all[i].size = size;
    return 0;
}
/* takes the messages from place i on away, n of them */
static inline void chat_take(chat_talk *t, int i, int n) {
    chat_message *const all = t->messages;
    for (int j = i; j < i + n; j++) {
        free((void *)all[j].content);
        free((void *)all[j].tokens);
    }
    if (n) memmove(all + i, all + i + n, (size_t)((t->n -= n) - i) * sizeof *all);
}
/* The place of the last turn, which begins with a user's message; -1: there is none */
static inline int chat_last_turn(const chat_talk *t) {
    int i = t->n - 1;
    while (i >= 0 && t->messages[i].role != CHAT_USER) i--;
    return i;
}
/* The tokens of a conversation and of what begins an answer, of which `most` have room. With drop
 * the oldest turns are taken away until they and an answer of `room` tokens fit; then until half is
 * free, since all that stays is to be read again, which should not be at each turn. -> as
 * chat_tokens; LLM_ERR_ARGUMENT where there is no room */
static inline int32_t *chat_fit(const chat_format *f, const llm_tokenizer *tokenizer, chat_talk *t,
                                int most, int room, int drop, size_t *count, llm_error *err) {
    for (;;) {
        const int first = chat_systems(t), last = chat_last_turn(t);
        int32_t *tokens = chat_tokens(f, tokenizer, t->messages, t->n, 1, count, err);
        int n = 1;
        if (!tokens || *count + (size_t)(drop ? room : 1) <= (size_t)most) return tokens;
        free(tokens);
        if (!drop || last <= first) {
            llmi_fail(err, LLM_ERR_ARGUMENT, "%lu tokens%s, and there is room for %d",
                      (unsigned long)*count, drop ? " without the turns before" : "", most);
            return NULL;
        }
        while (first + n < last && t->messages[first + n].role != CHAT_USER) n++;
        chat_take(t, first, n);
        if (room < most / 2) room = most / 2;
    }
}
#endif

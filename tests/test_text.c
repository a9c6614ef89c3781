/* Text out of tokens piece by piece, with stop texts; special tokens; chat templates. */

/* ---- a tokenizer to try it with -------------------------------------------------------------- */
/* tokens of one byte each, of parts of characters, of several letters; special ones; one that is
 * added, but not special */
static int32_t text_bytes[256];        /* the tokens of single bytes */
static int32_t text_byte(char byte) { return text_bytes[(unsigned char)byte]; }
static llm_tokenizer *text_tokenizer(void) {
    static const char training[] = "stop stop stopping abcabcab \xc3\xa9\xc3\xa9 \xe2\x82\xac"
                                   "\xe2\x82\xac\xe2\x82\xac "
                                   "\xf0\x9f\x98\x80\xf0\x9f\x98\x80 END END";
    llm_tokenizer *t = llm_tokenizer_train(training, sizeof training - 1, 290, NULL, NULL);
    int i;
    CHECK(t != NULL);
    for (i = 0; i < 256; i++) {
        const char byte = (char)i;
        text_bytes[i] = llm_tokenizer_token(t, &byte, 1);
        CHECK(text_bytes[i] >= 0);
    }
    return t;
}
/* all bytes of some tokens, by the other function; special ones left out unless shown */
static size_t text_decoded(const llm_tokenizer *t, const int32_t *tokens, size_t n, int special,
                           char *text, size_t capacity) {
    size_t i, at = 0, count;
    for (i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= llm_tokenizer_vocab_size(t)) continue;
        if (!special && llm_tokenizer_is_special(t, tokens[i])) continue;
        CHECK(llm_tokenizer_decode(t, &tokens[i], 1, text + at, capacity - at, &count, NULL) ==
              LLM_OK);
        at += count;
    }
    CHECK(at <= capacity);
    return at;
}

/* ---- an oracle ------------------------------------------------------------------------------- */
/* How many of the n bytes can come out when nobody knows what follows: none of a character that
 * may still become whole, none that may begin a stop text. By trying every start. */
static int text_may_go_on(const unsigned char *text, size_t n) {   /* a begun character? */
    static const unsigned char least[4][2] = {
        {0x80, 0xbf}, {0xa0, 0xbf}, {0x90, 0xbf}, {0x80, 0x8f}};
    unsigned lead, size, i;
    if (!n) return 0;
    lead = text[0];
    size = lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3
           : lead >= 0xf0 && lead < 0xf5 ? 4 : 1;
    if (size == 1 || n >= size) return 0;
    for (i = 1; i < n; i++) {
        const int row = i > 1 ? 0 : lead == 0xe0 ? 1 : lead == 0xf0 ? 2 : lead == 0xf4 ? 3 : 0;
        const unsigned most = i == 1 && lead == 0xed ? 0x9f : least[row][1];
        if (text[i] < least[row][0] || text[i] > most) return 0;
    }
    return 1;
}
/* of all that came so far, what is out at least: up to the first stop text that may be begun, but
 * not a character that may go on; and *stop, where one is whole */
static size_t text_out(const char *text, size_t n, const char *const *stops, int n_stops,
                       int *stop) {
    size_t at, end = n;
    int i;
    *stop = -1;
    for (at = 0; at < n; at++)
        for (i = 0; i < n_stops; i++)
            if (n - at >= strlen(stops[i]) && !memcmp(text + at, stops[i], strlen(stops[i]))) {
                *stop = i;
                return at;
            }
    for (at = n; at-- > 0;)
        for (i = 0; i < n_stops; i++)
            if (n - at < strlen(stops[i]) && !memcmp(text + at, stops[i], n - at)) end = at;
    for (at = end > 3 ? end - 3 : 0; at < end; at++)
        if (text_may_go_on((const unsigned char *)text + at, end - at)) return at;
    return end;
}
/* Gives the tokens one by one, and compares all that is out after each. */
static void text_check(llm_detokenizer *d, const llm_tokenizer *t, const int32_t *tokens, size_t n,
                       const char *const *stops, int n_stops, int special, const char *what) {
    static char all[20000], out[20000];
    size_t i, size = 0, n_all = 0, n_out = 0, want;
    int stop, found = -1;
    const char *piece = "";
    for (i = 0; i < n; i++) {
        int got_stop = -7;
        CHECK(llm_detokenizer_add(d, tokens[i], &piece, &size, i % 5 ? &got_stop : NULL, NULL) ==
              LLM_OK);
        CHECK(n_out + size <= sizeof out);
        if (size) memcpy(out + n_out, piece, size);
        n_out += size;
        if (found < 0) {
            n_all += text_decoded(t, &tokens[i], 1, special, all + n_all, sizeof all - n_all);
            want = text_out(all, n_all, stops, n_stops, &stop);
            if (stop >= 0) {
                found = stop;
                n_all = want;          /* nothing comes any more */
            }
        } else {
            want = n_all;
            CHECK(size == 0);
        }
        CHECK_MSG(n_out == want && !memcmp(out, all, want),
                  "%s: after token %d, %d bytes are out, not %d", what, (int)i, (int)n_out,
                  (int)want);
        if (i % 5)
            CHECK_MSG(got_stop == found, "%s: after token %d, stop %d, not %d", what, (int)i,
                      got_stop, found);
        if (n_out != want) break;
    }
    llm_detokenizer_finish(d, &piece, &size);
    if (size) memcpy(out + n_out, piece, size);
    n_out += size;
    CHECK_MSG(n_out == n_all && !memcmp(out, all, n_all), "%s: %d bytes in all, not %d", what,
              (int)n_out, (int)n_all);
    llm_detokenizer_finish(d, &piece, &size);          /* nothing is left */
    CHECK(size == 0 && piece != NULL);
}

static llm_detokenizer *text_detokenizer(const llm_tokenizer *t, const char *const *stops,
                                         int n_stops, int special) {
    llm_detokenizer_desc desc;
    llm_error err;
    llm_detokenizer *d;
    memset(&desc, 0, sizeof desc);
    desc.stop = stops;
    desc.n_stop = n_stops;
    desc.show_special = special;
    err.message[0] = 0;
    d = llm_detokenizer_create(t, &desc, &err);
    CHECK_MSG(d != NULL, "%s", err.message);
    return d;
}

/* random tokens, or texts whose tokens fall where they may; random stop texts, some of them parts
 * of the text itself, so that they come true; one detokenizer for several texts */
TEST(text_by_the_oracle) {
    llm_tokenizer *t = text_tokenizer();
    const int V = llm_tokenizer_vocab_size(t);
    uint64_t random = 11;
    int c, n_found = 0;
    for (c = 0; c < 1500; c++) {
        static char room[4][12], text[200];
        const char *stops[4];
        int32_t tokens[60];
        const int n_stops = (int)(plain_random(&random) % 5), special = c % 3 == 0;
        llm_detokenizer *d;
        char what[32];
        size_t n_text;
        int i, k, again;
        for (i = 0; i < 60; i++)
            tokens[i] = c % 4 == 0   ? (int32_t)(plain_random(&random) % (uint64_t)(V + 8))
                        : c % 4 == 1 ? text_bytes['a' + plain_random(&random) % 3]
                                     : 256 + (int32_t)(plain_random(&random) % (uint64_t)(V - 256));
        if (c % 4 == 0) tokens[7] = -5;
        n_text = text_decoded(t, tokens, 25, special, text, sizeof text);
        for (i = 0; i < n_stops; i++) {
            const size_t n = 1 + plain_random(&random) % (c % 2 ? 3 : 8);
            const size_t at = n_text > n ? plain_random(&random) % (n_text - n) : 0;
            for (k = 0; k < (int)n; k++)
                room[i][k] = n_text > n && i != 2 ? text[at + (size_t)k]
                                                  : (char)('a' + plain_random(&random) % 3);
            room[i][n] = 0;
            if (!room[i][0]) strcpy(room[i], "x");
            if (i && plain_random(&random) % 3 == 0) {         /* the first, or more of it */
                strcpy(room[i], room[i - 1]);
                if (strlen(room[i]) < 10) strcat(room[i], c % 2 ? "a" : "b");
            }
            stops[i] = room[i];
        }
        d = text_detokenizer(t, n_stops ? stops : NULL, n_stops, special);
        if (!d) return;
        snprintf(what, sizeof what, "case %d", c);
        for (again = 0; again < 3; again++) {
            const char *piece;
            size_t size;
            int stop;
            text_check(d, t, tokens + 5 * again, (size_t)(60 - 20 * again), stops, n_stops, special,
                       what);
            CHECK(llm_detokenizer_add(d, text_byte('q'), &piece, &size, &stop, NULL) == LLM_OK);
            n_found += stop >= 0;      /* a new text: it has stopped no more */
            llm_detokenizer_finish(d, &piece, &size);
        }
        llm_detokenizer_free(d);
    }
    CHECK_MSG(n_found < 200, "%d texts begin with a stop", n_found);
    llm_tokenizer_free(t);
}

/* without stop texts: pieces of whole characters, whose sum is what decode gives */
TEST(text_is_what_decode_gives) {
    static const char *const texts[] = {
        "plain", "\xc3\xa9t\xc3\xa9 \xe2\x82\xac 12 \xf0\x9f\x98\x80\xf0\x9f\x98\x80!",
        "\xff\xfe\xc3", "\xe2\x82", "\xf0\x9f\x98", "a\xe2z\xf0\x9fz\xc3\xc3\xa9", "\x80\x80\xbf",
        "\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80", "stopping STOP \xe2\x82\xac\xe2\x82\xac", ""};
    llm_tokenizer *t = text_tokenizer();
    llm_detokenizer *d = llm_detokenizer_create(t, NULL, NULL);
    size_t i;
    CHECK(d != NULL);
    for (i = 0; d && i < sizeof texts / sizeof texts[0]; i++) {
        int32_t tokens[100];
        size_t n, k, bytes = strlen(texts[i]), out = 0, size;
        int one_by_one;
        for (one_by_one = 0; one_by_one < 2; one_by_one++, out = 0) {
            const char *piece;
            CHECK(llm_tokenizer_encode(t, texts[i], bytes, 0, tokens, 100, &n, NULL) == LLM_OK);
            if (one_by_one)
                for (k = 0, n = bytes; k < n; k++) tokens[k] = text_byte(texts[i][k]);
            text_check(d, t, tokens, n, NULL, 0, 0, texts[i]);
            for (k = 0; k < n; k++) {
                CHECK(llm_detokenizer_add(d, tokens[k], &piece, &size, NULL, NULL) == LLM_OK);
                CHECK(!memcmp(piece, texts[i] + out, size));
                out += size;
            }
            llm_detokenizer_finish(d, &piece, &size);
            CHECK(out + size == bytes && !memcmp(piece, texts[i] + out, size));
        }
    }
    llm_detokenizer_free(d);
    llm_tokenizer_free(t);
}

/* by hand: the pieces, a "|" after each token's; what finish gives after a "/" */
static void text_pieces(const llm_tokenizer *t, const char *const *stops, int n_stops,
                        const char *text, const char *want, int want_stop) {
    llm_detokenizer *d = text_detokenizer(t, stops, n_stops, 0);
    char got[300];
    const char *piece;
    size_t i, n = 0, size;
    int stop = -1;
    if (!d) return;
    for (i = 0; text[i]; i++) {
        CHECK(llm_detokenizer_add(d, text_byte(text[i]), &piece, &size, &stop, NULL) == LLM_OK);
        memcpy(got + n, piece, size);
        n += size;
        got[n++] = '|';
    }
    llm_detokenizer_finish(d, &piece, &size);
    got[n++] = '/';
    memcpy(got + n, piece, size);
    got[n + size] = 0;
    CHECK_MSG(!strcmp(got, want), "%s: %s, not %s", text, got, want);
    CHECK_MSG(stop == want_stop, "%s: stop %d, not %d", text, stop, want_stop);
    llm_detokenizer_free(d);
}
TEST(text_pieces_by_hand) {
    static const char *const stop[] = {"stop"}, *const overlap[] = {"abc", "bcd"},
                      *const prefix[] = {"ab", "abc"}, *const suffix[] = {"abc", "bc"},
                      *const nested[] = {"abcde", "cd"}, *const twice[] = {"aab"},
                      *const euro[] = {"\xe2\x82\xac"}, *const same[] = {"x", "x"};
    llm_tokenizer *t = text_tokenizer();
    text_pieces(t, NULL, 0, "abc", "a|b|c|/", -1);
    text_pieces(t, stop, 1, "stop", "||||/", 0);
    text_pieces(t, stop, 1, "no stop here", "n|o| ||||||||||/", 0);
    text_pieces(t, stop, 1, "sto", "|||/sto", -1);
    text_pieces(t, stop, 1, "stone", "|||ston|e|/", -1);
    text_pieces(t, stop, 1, "sstop", "|s||||/", 0);
    text_pieces(t, stop, 1, "ststop", "||st||||/", 0);
    text_pieces(t, overlap, 2, "xabcd", "x|||||/", 0);
    text_pieces(t, overlap, 2, "xabbcd", "x|||ab|||/", 1);
    text_pieces(t, prefix, 2, "abc", "|||/", 0);
    text_pieces(t, suffix, 2, "zabc", "z||||/", 0);
    text_pieces(t, suffix, 2, "zbc", "z|||/", 1);
    text_pieces(t, nested, 2, "zabcdefg", "z|||" "|ab||||/", 1);
    text_pieces(t, twice, 1, "aaab", "||a||/", 0);
    text_pieces(t, twice, 1, "aaaa", "||a|a|/aa", -1);
    text_pieces(t, euro, 1, "a\xe2\x82\xac" "b", "a|||||/", 0);
    text_pieces(t, euro, 1, "\xe2\x82\xad" "b", "||\xe2\x82\xad|b|/", -1);
    text_pieces(t, same, 2, "axx", "a|||/", 0);
    {                                  /* several in one token: the one that begins first */
        llm_detokenizer_desc desc;
        llm_detokenizer *d;
        static const char *const both[] = {"op", "to", "topp"};
        const char *piece;
        size_t size;
        int stop_at = -1;
        const int32_t token = llm_tokenizer_token(t, "stop", 4);
        CHECK(token >= 256);
        memset(&desc, 0, sizeof desc);
        desc.stop = both;
        desc.n_stop = 3;
        d = llm_detokenizer_create(t, &desc, NULL);
        CHECK(llm_detokenizer_add(d, token, &piece, &size, &stop_at, NULL) == LLM_OK);
        CHECK(size == 1 && piece[0] == 's' && stop_at == 1);
        CHECK(llm_detokenizer_add(d, token, &piece, &size, &stop_at, NULL) == LLM_OK);
        CHECK(size == 0 && stop_at == 1);
        llm_detokenizer_finish(d, &piece, &size);
        CHECK(size == 0);
        CHECK(llm_detokenizer_add(d, text_bytes['b'], &piece, &size, &stop_at, NULL) == LLM_OK);
        CHECK(size == 1 && piece[0] == 'b' && stop_at == -1);
        llm_detokenizer_free(d);
    }
    llm_tokenizer_free(t);
}

TEST(text_special_tokens) {
    llm_tokenizer *t = text_tokenizer();
    const int32_t special = llm_tokenizer_token(t, "<|endoftext|>", 13);
    const int V = llm_tokenizer_vocab_size(t);
    int shown, i, n = 0;
    for (i = -3; i < V + 3; i++) n += llm_tokenizer_is_special(t, i);
    CHECK(n == 1 && special >= 0 && llm_tokenizer_is_special(t, special) == 1);
    CHECK(!llm_tokenizer_is_special(NULL, 0) && !llm_tokenizer_is_special(t, INT32_MIN) &&
          !llm_tokenizer_is_special(t, INT32_MAX));
    for (shown = 0; shown < 2; shown++) {
        static const char *const stops[] = {"<|end", "bc"};
        llm_detokenizer *d = text_detokenizer(t, NULL, 0, shown);
        const int32_t tokens[6] = {text_bytes['a'], special, text_bytes['x'], V, -1,
                                   text_bytes['b']};
        const char *piece;
        size_t size, n_all = 0;
        char all[40];
        int stop = -1;
        for (i = 0; i < 6; i++) {
            CHECK(llm_detokenizer_add(d, tokens[i], &piece, &size, &stop, NULL) == LLM_OK);
            memcpy(all + n_all, piece, size);
            n_all += size;
            CHECK(size == (size_t)(i == 1 ? 13 * shown : i == 3 || i == 4 ? 0 : 1));
        }
        CHECK(stop == -1 && n_all == (size_t)(shown ? 16 : 3) &&
              !memcmp(all, shown ? "a<|endoftext|>xb" : "axb", n_all));
        llm_detokenizer_free(d);
        d = text_detokenizer(t, stops, 2, shown);      /* one that is hidden stops nothing */
        CHECK(llm_detokenizer_add(d, special, &piece, &size, &stop, NULL) == LLM_OK && size == 0 &&
              stop == (shown ? 0 : -1));
        llm_detokenizer_finish(d, &piece, &size);
        CHECK(llm_detokenizer_add(d, text_byte('b'), &piece, &size, &stop, NULL) == LLM_OK &&
              size == 0);
        CHECK(llm_detokenizer_add(d, special, &piece, &size, &stop, NULL) == LLM_OK);
        CHECK(llm_detokenizer_add(d, text_bytes['c'], &piece, &size, &stop, NULL) == LLM_OK &&
              stop == (shown ? 0 : 1));
        llm_detokenizer_free(d);
    }
    llm_tokenizer_free(t);
}

static llm_result text_fed(llm_detokenizer *d, llm_error *err) {
    static const char text[] = "nothing of this stops, as it is never wh";
    static char got[20000];
    size_t i, n = 0, size;
    int round;
    const char *piece;
    llm_result result = LLM_OK;
    for (round = 0; round < 300 && result == LLM_OK; round++)
        for (i = 0; i < sizeof text - 1 && result == LLM_OK; i++) {
            result = llm_detokenizer_add(d, text_byte(text[i]), &piece, &size, NULL, err);
            if (result != LLM_OK) {    /* as before: the same again */
                const llm_result then =
                    llm_detokenizer_add(d, text_byte(text[i]), &piece, &size, NULL, NULL);
                CHECK(then == LLM_OK);
            }
            memcpy(got + n, piece, size);
            n += size;
        }
    llm_detokenizer_finish(d, &piece, &size);
    memcpy(got + n, piece, size);
    n += size;
    for (i = 0; i < n; i++) CHECK(got[i] == text[i % (sizeof text - 1)]);
    return result;
}
TEST(text_refusals_and_memory) {
    static const char *const stops[] = {"a", "", "b"}, *const none[] = {"a", NULL};
    static char longest[3000];
    const char *const large[] = {longest, "zz"};
    llm_tokenizer *t = text_tokenizer();
    llm_detokenizer_desc desc;
    llm_detokenizer *d = NULL;
    llm_error err;
    heap h;
    size_t i;
    memset(&desc, 0, sizeof desc);
    NOT_MADE(LLM_ERR_ARGUMENT, llm_detokenizer_create(NULL, NULL, &err), "NULL");
    desc.stop = stops;
    desc.n_stop = 3;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_detokenizer_create(t, &desc, &err), "1", "empty");
    desc.stop = none;
    desc.n_stop = 2;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_detokenizer_create(t, &desc, &err), "1", "NULL");
    desc.stop = NULL;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_detokenizer_create(t, &desc, &err), "NULL");
    desc.n_stop = -1;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_detokenizer_create(t, &desc, &err), "-1");
    llm_detokenizer_free(NULL);
    for (i = 0; i + 1 < sizeof longest; i++)           /* held back for long */
        longest[i] = "nothing of this stops, as it is never wh"[i % 40];
    longest[sizeof longest - 2] = '!';
    heap_init(&h);
    desc.stop = large;
    desc.n_stop = 2;
    desc.allocator = &h.allocator;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, d, llm_detokenizer_create(t, &desc, &err));
    memset(&desc, 0, sizeof desc);                     /* it has its own copies */
    if (!d) return;
    {
        const char *piece;
        size_t size;
        REFUSED(LLM_ERR_ARGUMENT, llm_detokenizer_add(NULL, 1, &piece, &size, NULL, &err), "NULL");
        REFUSED(LLM_ERR_ARGUMENT, llm_detokenizer_add(d, 1, NULL, &size, NULL, &err), "NULL");
        REFUSED(LLM_ERR_ARGUMENT, llm_detokenizer_add(d, 1, &piece, NULL, NULL, &err), "NULL");
        llm_detokenizer_finish(NULL, &piece, &size);
        llm_detokenizer_finish(d, NULL, NULL);
        llm_detokenizer_finish(d, &piece, &size);      /* before anything came */
        CHECK(size == 0 && piece);
    }
    h.fail_at = h.calls;
    CHECK(text_fed(d, &err) == LLM_ERR_MEMORY && h.failed == 1);
    h.fail_at = h.calls + 1;
    CHECK(text_fed(d, &err) == LLM_ERR_MEMORY && h.failed == 2);
    h.fail_at = -1;
    CHECK(text_fed(d, &err) == LLM_OK);
    llm_detokenizer_free(d);
    CHECK(h.live == 0 && h.wrong == 0);
    llm_tokenizer_free(t);
}

/* ---- chat templates -------------------------------------------------------------------------- */
typedef struct text_chat { const char *config, *jinja, *want; } text_chat;
static void text_chat_check(const text_chat *c, int from_disk) {
    bpe_directory d;
    llm_tokenizer *t;
    const char *got;
    llm_error err;
    int n = 0;
    memset(&d, 0, sizeof d);
    if (c->config) {
        d.parts[n++] = "tc";
        d.parts[n++] = c->config;
    }
    if (c->jinja) {
        d.parts[n++] = "chat";
        d.parts[n++] = c->jinja;
    }
    err.message[0] = 0;
    if (from_disk) t = bpe_loaded(&d, 'T', &err);
    else {
        llmi_text files[TOKENIZER_FILES];
        bpe_make(&d, 'T', files);
        t = bpe_made(files, -1, NULL, 0, NULL, &err);
        bpe_unmake(files);
    }
    CHECK_MSG(t != NULL, "%s: %s", c->config ? c->config : "-", err.message);
    got = llm_tokenizer_chat_template(t);
    CHECK_MSG(c->want ? got && !strcmp(got, c->want) : !got, "%s, %s: '%s', not '%s'",
              c->config ? c->config : "-", c->jinja ? c->jinja : "-", got ? got : "NULL",
              c->want ? c->want : "NULL");
    llm_tokenizer_free(t);
}
static const text_chat text_chats[] = {
    {NULL, NULL, NULL},
    {"{}", NULL, NULL},
    {"{\"chat_template\": \"{{ a }}\"}", NULL, "{{ a }}"},
    {"{\"chat_template\": \"\\u00e9\\n\\\"\\ud83d\\ude00\"}", NULL, "\xc3\xa9\n\"\xf0\x9f\x98\x80"},
    {"{\"chat_template\": \"{{ a }}\"}", "{% b %}\n", "{% b %}\n"},
    {"{\"chat_template\": 7}", "{% b %}", "{% b %}"},
    {NULL, "{% b %}", "{% b %}"},
    {"{\"chat_template\": [{\"name\": \"default\", \"template\": \"one\"}]}", NULL, "one"},
    {"{\"chat_template\": [{\"name\": \"tool\", \"template\": \"two\"}, {\"template\": \"one\", "
     "\"name\": \"default\"}]}", NULL, "one"},
    {"{\"chat_template\": [{\"name\": \"tool\", \"template\": \"two\"}]}", NULL, NULL},
    {"{\"chat_template\": []}", NULL, NULL},
    {"{\"chat_template\": [1, \"default\", null, [], {}, {\"name\": 5, \"template\": \"x\"}, "
     "{\"name\": \"default\"}]}", NULL, NULL},
    {"{\"chat_template\": [{\"name\": \"default\", \"template\": 3}]}", NULL, NULL},
    {"{\"chat_template\": [{\"name\": \"default\", \"template\": [\"x\"]}]}", NULL, NULL},
    {"{\"chat_template\": 5}", NULL, NULL},
    {"{\"chat_template\": null}", NULL, NULL},
    {"{\"chat_template\": true}", NULL, NULL},
    {"{\"chat_template\": {\"default\": \"x\"}}", NULL, NULL},
    {"{\"chat_templates\": \"x\", \"CHAT_TEMPLATE\": \"y\"}", NULL, NULL}};
TEST(text_chat_templates) {
    size_t i;
    for (i = 0; i < sizeof text_chats / sizeof text_chats[0]; i++) {
        text_chat_check(&text_chats[i], 0);
        if (i < 9 || i == 11) text_chat_check(&text_chats[i], 1);
    }
    bpe_clear();
    CHECK(!llm_tokenizer_chat_template(NULL));
    {                                  /* memory */
        static const text_chat *const c[2] = {&text_chats[6], &text_chats[8]};
        for (i = 0; i < 2; i++) {
            bpe_directory d;
            llmi_text files[TOKENIZER_FILES];
            llm_tokenizer *t = NULL;
            llm_error err;
            heap h;
            memset(&d, 0, sizeof d);
            d.parts[0] = i ? "tc" : "chat";
            d.parts[1] = i ? c[i]->config : c[i]->jinja;
            bpe_make(&d, 'T', files);
            heap_init(&h);
            EACH_ALLOCATION_FAILS_TO_MAKE(&h, t,
                                          bpe_made(files, -1, NULL, 0, &h.allocator, &err));
            CHECK(t && !strcmp(llm_tokenizer_chat_template(t), c[i]->want));
            llm_tokenizer_free(t);
            CHECK(h.live == 0 && h.wrong == 0);
            bpe_unmake(files);
        }
    }
}
/* a template goes into a GGUF file, and comes out of it, also of one that others wrote */
TEST(text_chat_template_of_gguf) {
    static const char template_text[] = "{% for m in messages %}\xc3\xa9 {{ m }}\n{% endfor %}";
    bpe_directory d;
    llm_tokenizer *t, *back;
    llm_config c;
    llm_model *model;
    llm_error err;
    heap h;
    int way;
    (void)files_directory("gguf");
    memset(&d, 0, sizeof d);
    d.parts[0] = "chat";
    d.parts[1] = template_text;
    t = bpe_loaded(&d, 'T', &err);
    if (!t) CHECK_MSG(0, "%s", err.message);
    c = small_config(llm_tokenizer_vocab_size(t), 4, 4, 1, 1);
    model = shaken_model(&c, 1, 1, NULL);
    CHECK_MSG(llm_gguf_save(model, t, gguf_tokenizer_path, LLM_F16, &err) == LLM_OK, "%s",
              err.message);
    back = llm_tokenizer_load(gguf_tokenizer_path, NULL, &err);
    CHECK(back && llm_tokenizer_chat_template(back) &&
          !strcmp(llm_tokenizer_chat_template(back), template_text));
    CHECK(llm_gguf_save(model, back, gguf_tokenizer_path, LLM_F16, &err) == LLM_OK);     /* again */
    llm_tokenizer_free(back);
    back = llm_tokenizer_load(gguf_tokenizer_path, NULL, &err);
    CHECK(back && !strcmp(llm_tokenizer_chat_template(back), template_text));
    llm_tokenizer_free(back);
    llm_tokenizer_free(t);
    t = llm_tokenizer_train("a b c", 5, 257, NULL, NULL);          /* has none */
    c.vocab_size = 257;
    llm_model_free(model);
    model = shaken_model(&c, 1, 1, NULL);
    CHECK(!llm_tokenizer_chat_template(t));
    CHECK(llm_gguf_save(model, t, gguf_tokenizer_path, LLM_F16, &err) == LLM_OK);
    back = llm_tokenizer_load(gguf_tokenizer_path, NULL, &err);
    CHECK(back && !llm_tokenizer_chat_template(back));
    llm_tokenizer_free(back);
    llm_tokenizer_free(t);
    llm_model_free(model);
    bpe_clear();
    heap_init(&h);
    for (way = 0; way < 4; way++) {
        gguf_file *f = gguf_new("gpt2");
        gguf_put_tokenizer(f, "gpt-2");
        if (way == 0) gguf_string(f, "tokenizer.chat_template", template_text);
        if (way == 1) gguf_u32(f, "tokenizer.chat_template", 7);               /* no text */
        if (way == 2) gguf_string(f, "tokenizer.chat_template", "");
        t = gguf_tokenizer(f, way % 2, &h, &err);
        CHECK_MSG(t != NULL, "%s", err.message);
        if (way == 0)
            CHECK(llm_tokenizer_chat_template(t) &&
                  !strcmp(llm_tokenizer_chat_template(t), template_text));
        else if (way != 2) CHECK(!llm_tokenizer_chat_template(t));
        else CHECK(!llm_tokenizer_chat_template(t) || !llm_tokenizer_chat_template(t)[0]);
        CHECK(llm_tokenizer_is_special(t, GGUF_EOT) && !llm_tokenizer_is_special(t, GGUF_USERS) &&
              !llm_tokenizer_is_special(t, 65));
        llm_tokenizer_free(t);
        gguf_drop(f);
        CHECK(h.live == 0 && h.wrong == 0);
    }
}

static void run_text(void) {
    RUN(text_by_the_oracle);
    RUN(text_is_what_decode_gives);
    RUN(text_pieces_by_hand);
    RUN(text_special_tokens);
    RUN(text_refusals_and_memory);
    RUN(text_chat_templates);
    RUN(text_chat_template_of_gguf);
}

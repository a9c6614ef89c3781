/* tests of >>bpe against Hugging Face `tokenizers` (fixtures by tools/make_goldens.py) */
#define BPE_DATA "tests/data/bpe/"

static char *bpe_file(const char *path, size_t *size) {
    void *data = NULL;
    return llmi_kind_of(path) == LLMI_FILE &&
                   llmi_file_read(path, &data, size, NULL, NULL) == LLM_OK
               ? (char *)data
               : NULL;
}

/* encodes from a copy that is exactly as long as the text -> tokens, to be freed */
static int32_t *bpe_encode(const llm_tokenizer *t, const char *text, size_t n, int special,
                           size_t *count) {
    char *copy = (char *)malloc(n + !n);
    int32_t *tokens = NULL;
    size_t again = 0;
    if (n) memcpy(copy, text, n);
    *count = 0;
    CHECK(llm_tokenizer_encode(t, copy, n, special, NULL, 0, count, NULL) == LLM_OK);
    tokens = (int32_t *)malloc((*count + 1) * sizeof *tokens);
    tokens[*count] = -7;
    CHECK(llm_tokenizer_encode(t, copy, n, special, tokens, *count, &again, NULL) == LLM_OK);
    CHECK(again == *count && tokens[*count] == -7);
    free(copy);
    return tokens;
}

static int bpe_round_trip(const llm_tokenizer *t, const char *text, size_t n, int special) {
    size_t count, size = 0;
    int32_t *tokens = bpe_encode(t, text, n, special, &count);
    char *back = (char *)malloc(n + 1);
    int same;
    back[n] = 'x';
    same = llm_tokenizer_decode(t, tokens, count, back, n, &size, NULL) == LLM_OK && size == n &&
           (!n || !memcmp(text, back, n)) && back[n] == 'x';
    free(tokens);
    free(back);
    return same;
}

/* a file of cases, a line each: special, the text in hex or "-", the tokens expected */
static void bpe_cases(const llm_tokenizer *t, const char *path, int check_back) {
    size_t size = 0, n_cases = 0;
    char *file = bpe_file(path, &size), *at = file, *end = file + size;
    CHECK_MSG(file != NULL, "%s is missing", path);
    if (!file) return;
    while (at < end) {
        char *line_end = (char *)memchr(at, '\n', (size_t)(end - at));
        char *text = (char *)malloc((size_t)(line_end - at) + 1);
        const int special = *at - '0';
        size_t n = 0, count, i;
        int32_t *got;
        int good = 1;
        for (at += 2; *at != ' '; at++) {
            unsigned byte = 0;
            if (*at == '-') continue;
            sscanf(at, "%2x", &byte);
            text[n++] = (char)byte;
            at++;
        }
        got = bpe_encode(t, text, n, special, &count);
        for (i = 0; at + 1 < line_end; i++) {
            const long want = strtol(at, &at, 10);
            good = good && i < count && got[i] == want;
        }
        CHECK_MSG(good && i == count, "%s: case %zu, special %d: '%.*s'", path, n_cases, special,
                  (int)n, text);
        if (check_back)
            CHECK_MSG(bpe_round_trip(t, text, n, special), "%s: case %zu", path, n_cases);
        free(got);
        free(text);
        n_cases++;
        at = line_end + 1;
    }
    CHECK(n_cases > 100);
    llmi_release(NULL, file);
}

static llm_tokenizer *bpe_of_path(const char *path) {
    llm_error err;
    llm_tokenizer *t = llm_tokenizer_load(path, NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    return t;
}

TEST(bpe_small) {
    llm_tokenizer *t = bpe_of_path(BPE_DATA "small.json");
    if (!t) return;
    CHECK(llm_tokenizer_vocab_size(t) == 474);
    CHECK(llm_tokenizer_token(t, "<|endoftext|>", 13) == 468 &&
          llm_tokenizer_token(t, "ADD", 3) == 469);
    CHECK(llm_tokenizer_token(t, "!", 1) == 0 && llm_tokenizer_token(t, " ", 1) == 220 &&
          llm_tokenizer_token(t, "\xff", 1) == 187);
    CHECK(llm_tokenizer_token(t, "no such token", 13) == -1 && llm_tokenizer_token(t, "", 0) == -1);
    bpe_cases(t, BPE_DATA "small.txt", 0); /* STRIP takes in white space: no way back */
    llm_tokenizer_free(t);
}

/* gaps, ignore_merges, added tokens that spell a byte or a token of other bytes; and as saved */
TEST(bpe_odd) {
    static const char *const paths[] = {BPE_DATA "odd.json", "build/odd.json"};
    int i;
    for (i = 0; i < 2; i++) {
        llm_tokenizer *t = bpe_of_path(paths[i]);
        if (!t) return;
        bpe_cases(t, BPE_DATA "odd.txt", 0);
        CHECK(llm_tokenizer_token(t, "foo", 3) == 3 && llm_tokenizer_token(t, "   ", 3) == 610);
        CHECK(llm_tokenizer_vocab_size(t) == 611 && t->ignore_merges);
        CHECK(llm_tokenizer_save(t, paths[1], NULL) == LLM_OK);
        llm_tokenizer_free(t);
    }
    remove(paths[1]);
}

/* ranks alone, and special tokens in a configuration beside them; by either path, and as saved */
TEST(bpe_tiktoken) {
    static const char *const paths[] = {BPE_DATA "tiktoken", BPE_DATA "tiktoken/tiktoken.model",
                                        "build/tiktoken.json"};
    int i;
    for (i = 0; i < 3; i++) {
        llm_tokenizer *t = bpe_of_path(paths[i]);
        if (!t) return;
        CHECK(llm_tokenizer_vocab_size(t) == 716 && llm_tokenizer_token(t, "[BOS]", 5) == 461);
        CHECK(llm_tokenizer_token(t, "<|reserved_token_715|>", 22) == 715 && !t->ignore_merges);
        CHECK(!strcmp(llmi_gguf_pre[llmi_gguf_pre_of(t)].names, "kimi-k2"));
        bpe_cases(t, BPE_DATA "tiktoken.txt", 1);
        CHECK(llm_tokenizer_save(t, paths[2], NULL) == LLM_OK);
        llm_tokenizer_free(t);
    }
    remove(paths[2]);
}

/* a tiktoken.model of the 256 bytes and more lines, beside a configuration (NULL: none) */
static llm_tokenizer *bpe_tiktoken_of(const char *more, const char *config, int cut,
                                      const llm_allocator *allocator, llm_error *err) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    llmi_bytes files[1 + LLMI_N_BESIDE];
    llmi_text lines;
    llm_tokenizer *t;
    int i;
    memset(files, 0, sizeof files);
    memset(&lines, 0, sizeof lines);
    for (i = 0; i < 256; i++)
        llmi_text_format(&lines, "%c%c== %d\n", digits[i >> 2], digits[i << 4 & 48], i);
    llmi_text_add(&lines, more, strlen(more));
    files[0].name = "x/tiktoken.model";
    files[0].data = lines.data;
    files[0].size = lines.size - (size_t)cut;
    files[1].name = "x/tokenizer_config.json";
    files[1].data = config;
    files[1].size = config ? strlen(config) : 0;
    t = llmi_tokenizer_read(&files[0], NULL, &files[1], 0, allocator, err);
    llmi_text_free(&lines);
    return t;
}
#define BPE_NAMED(id, text) "{\"added_tokens_decoder\": {\"" id "\": {\"content\": \"" text "\"}}}"
TEST(bpe_tiktoken_hostile) {
    static const struct { const char *more, *config, *want; llm_result code;
    } cases[] = {
        {"YWI= 256\n", NULL, NULL, LLM_OK}, {"YWI= 256\r\nYWJj 257\r\n\n", NULL, NULL, LLM_OK},
        {"YWJj 256", NULL, NULL, LLM_OK},            /* of three parts: only as a whole word */
        {"YWI= 257\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI= 255\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI 256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWJ= 256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YW=I 256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"Y*I= 256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"==== 256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {" 256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI= \n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI=\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI= 2x6\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI= 256 \n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI= 99999999999999999999256\n", NULL, "line 257", LLM_ERR_FORMAT},
        {"YWI= 256\nYWI= 257\n", NULL, "line 258: the token has been given before", LLM_ERR_FORMAT},
        {"", BPE_NAMED("256", "[A]"), NULL, LLM_OK}, {"", BPE_NAMED("511", "[A]"), NULL, LLM_OK},
        {"", BPE_NAMED("255", "[A]"), "id 255 is not in [256, 512)", LLM_ERR_UNSUPPORTED},
        {"", BPE_NAMED("512", "[A]"), "id 512 is not in [256, 512)", LLM_ERR_UNSUPPORTED},
        {"", BPE_NAMED("300", "a"), "token 300, a, is empty or another", LLM_ERR_UNSUPPORTED},
        {"", BPE_NAMED("300", ""), "token 300, , is empty or another", LLM_ERR_UNSUPPORTED},
        {"", BPE_NAMED("300", "<|reserved_token_299|>"), "token 300, <|reserved",
         LLM_ERR_UNSUPPORTED},
        {"", "{\"added_tokens_decoder\": 5}", "added_tokens_decoder is 5", LLM_ERR_UNSUPPORTED},
        {"", "[]", "tokenizer_config.json: not an object", LLM_ERR_FORMAT}};
    llm_error err;
    llm_tokenizer *t;
    size_t i;
    int cut;
    heap h;
    for (i = 0; i < LLMI_COUNT(cases); i++) {
        memset(&err, 0, sizeof err);
        t = bpe_tiktoken_of(cases[i].more, cases[i].config, 0, NULL, &err);
        CHECK_MSG((t ? LLM_OK : err.code) == cases[i].code &&
                      (t || strstr(err.message, cases[i].want)),
                  "case %lu: %s", (unsigned long)i, t ? "taken" : err.message);
        if (t) CHECK(bpe_round_trip(t, "abcab [A] abc \xff", 15, 0));
        if (t) CHECK(t->ignore_merges == (i == 2));
        if (i == 2) CHECK(llm_tokenizer_vocab_size(t) == 513);
        llm_tokenizer_free(t);
    }
    for (cut = 1; cut < 9; cut++) {              /* bytes that are missing */
        memset(&err, 0, sizeof err);
        t = bpe_tiktoken_of("", NULL, cut, NULL, &err);
        CHECK_MSG(cut == 1 ? t != NULL : !t && err.code == LLM_ERR_FORMAT, "%d: %s", cut,
                  err.message);
        llm_tokenizer_free(t);
    }
    heap_init(&h);
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, t, bpe_tiktoken_of("YWI= 256\n", BPE_NAMED("257", "[A]"), 0,
                                                         &h.allocator, &err));
    llm_tokenizer_free(t);
    CHECK(h.live == 0 && !h.wrong);
}

TEST(bpe_gpt2) {
    static const int32_t hello[] = {15496, 995}, special[] = {50256};
    size_t n_vocabulary = 0, n_merges = 0, count;
    char *vocabulary = bpe_file("../shared/data/gpt2_vocab.json", &n_vocabulary);
    char *merges = bpe_file("../shared/data/gpt2_merges.txt", &n_merges);
    llm_tokenizer *t;
    llm_error err;
    int32_t *tokens;
    if (!vocabulary || !merges) {
        llmi_release(NULL, vocabulary);
        llmi_release(NULL, merges);
        SKIP("no GPT-2 vocabulary in ../shared/data");
    }
    t = tokenizer_of(vocabulary, n_vocabulary, merges, n_merges, NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    if (t) {
        CHECK(llm_tokenizer_vocab_size(t) == 50257);
        tokens = bpe_encode(t, "Hello world", 11, 0, &count);
        CHECK(count == 2 && !memcmp(tokens, hello, sizeof hello));
        free(tokens);
        tokens = bpe_encode(t, "<|endoftext|>", 13, 1, &count);
        CHECK(count == 1 && tokens[0] == special[0]);
        free(tokens);
        bpe_cases(t, BPE_DATA "gpt2.txt", 1);
    }
    llm_tokenizer_free(t);
    merges[30] = '\n';                                           /* in the midst of a merge */
    t = tokenizer_of(vocabulary, n_vocabulary, merges, n_merges, NULL, &err);
    CHECK(!t && err.code == LLM_ERR_FORMAT && strstr(err.message, "merges.txt: merge"));
    llmi_release(NULL, vocabulary);
    llmi_release(NULL, merges);
}

TEST(bpe_train) {
    size_t n_text = 0, n_ids = 0, i;
    char *text = bpe_file(BPE_DATA "train.txt", &n_text),
         *ids = bpe_file(BPE_DATA "train.ids", &n_ids), *at = ids;
    llm_tokenizer *t, *less;
    llm_error err;
    int size;
    CHECK(text && ids);
    if (!text || !ids) return;
    size = (int)strtol(at, &at, 10);
    t = llm_tokenizer_train(text, n_text, size, NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    if (!t) return;
    CHECK(llm_tokenizer_vocab_size(t) == size &&
          llm_tokenizer_token(t, "<|endoftext|>", 13) == size - 1);
    for (i = 0; i < t->n_merges; i++) {
        const long a = strtol(at, &at, 10), b = strtol(at, &at, 10), result = strtol(at, &at, 10);
        CHECK_MSG(t->merges[i].a == a && t->merges[i].b == b && t->merges[i].result == result,
                  "merge %zu", i);
    }
    CHECK(t->n_merges == (size_t)size - 257 && at == ids + n_ids - 1);
    CHECK(bpe_round_trip(t, text, n_text, 1));
    llm_tokenizer_free(t);

    t = llm_tokenizer_train("ab ab ab", 8, 100000, NULL,
                            &err); /* "ab" and " ab": nothing else to merge */
    CHECK(t && llm_tokenizer_vocab_size(t) == 259 && llm_tokenizer_token(t, " ab", 3) == 257);
    llm_tokenizer_free(t);
    less = llm_tokenizer_train(NULL, 0, 300, NULL, &err);
    CHECK(less && llm_tokenizer_vocab_size(less) == 257 &&
          llm_tokenizer_token(less, "<|endoftext|>", 13) == 256);
    llm_tokenizer_free(less);
    CHECK(!llm_tokenizer_train(text, n_text, 256, NULL, &err) && err.code == LLM_ERR_ARGUMENT);
    CHECK(strstr(err.message, "256") && strstr(err.message, "257"));
    CHECK(!llm_tokenizer_train(NULL, 3, 300, NULL, &err) && err.code == LLM_ERR_ARGUMENT);
    llmi_release(NULL, text);
    llmi_release(NULL, ids);
}

/* merges by the definition: of all neighbours the pair of the earliest merge, leftmost first */
static size_t bpe_naive(const llm_tokenizer *t, int32_t *ids, size_t n) {
    for (;;) {
        size_t best = t->n_merges, where = 0, i, m;
        for (i = 0; i + 1 < n; i++)
            for (m = 0; m < best; m++)
                if (t->merges[m].a == ids[i] && t->merges[m].b == ids[i + 1]) {
                    best = m;
                    where = i;
                }
        if (best == t->n_merges) return n;
        ids[where] = t->merges[best].result;
        for (i = where + 1; i + 1 < n; i++) ids[i] = ids[i + 1];
        n--;
    }
}

TEST(bpe_long_words) {                  /* on both sides of the size where the heap takes over */
    size_t n_text = 0, n, i, count;
    char *text = bpe_file(BPE_DATA "train.txt", &n_text), word[4 * LLMI_BPE_SHORT], *big;
    llm_tokenizer *t = text ? llm_tokenizer_train(text, n_text, 700, NULL, NULL) : NULL;
    uint32_t state = 7;
    double start;
    CHECK(t != NULL);
    if (!t) return;
    for (n = 1; n <= sizeof word; n++) {
        int32_t want[sizeof word], *got;
        for (i = 0; i < n; i++) {
            state = state * 1664525u + 1013904223u;
            word[i] = "aaabbctheo"[(state >> 20) % (n % 3 ? 5 : 10)];
            want[i] = t->byte_tokens[(unsigned char)word[i]];
        }
        got = bpe_encode(t, word, n, 0, &count);
        i = bpe_naive(t, want, n);
        CHECK_MSG(count == i && !memcmp(got, want, i * sizeof *got), "%zu letters", n);
        free(got);
    }
    n = 500000;                                                  /* n^2 steps would take minutes */
    big = (char *)malloc(n);
    for (i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        big[i] = (char)('a' + (state >> 24) % 4);
    }
    start = llmi_seconds();
    CHECK(bpe_round_trip(t, big, n, 0));
    memset(big, ' ', n);
    CHECK(bpe_round_trip(t, big, n, 0));
    CHECK_MSG(llmi_seconds() - start < 20, "%.1f s", llmi_seconds() - start);
    free(big);
    llm_tokenizer_free(t);
    llmi_release(NULL, text);
}

TEST(bpe_any_bytes) {
    llm_tokenizer *t = llm_tokenizer_train("abcabcabcabc the the the \xc3\xa9\xc3\xa9", 28, 270,
                                           NULL, NULL);
    char text[300];
    uint32_t state = 3;
    size_t n, i;
    CHECK(t != NULL);
    if (!t) return;
    for (i = 0; i < 256; i++) text[i] = (char)i;
    CHECK(bpe_round_trip(t, text, 256, 1));
    for (n = 0; n < 300; n++) {
        for (i = 0; i < n; i++) {
            state = state * 1664525u + 1013904223u;
            text[i] = (char)(state >> 23);
        }
        CHECK_MSG(bpe_round_trip(t, text, n, (int)(n & 1)), "%zu bytes", n);
    }
    llm_tokenizer_free(t);
}

/* the pieces by the patterns from one on, each followed by a bar */
static void bpe_pieces(const llmi_patterns *p, size_t first, const char *text, size_t size,
                       char *out) {
    llmi_cut cut;
    size_t begin, end, at = 0;
    if (first == p->n) {
        strncat(out, text, size);
        strcat(out, "|");
        return;
    }
    memset(&cut, 0, sizeof cut);
    CHECK(llmi_cut_start(&cut, p, first, text, size, NULL) == LLM_OK);
    while (llmi_cut_next(&cut, &begin, &end)) {
        CHECK(begin >= at && end > begin && end <= size);
        bpe_pieces(p, first + 1, text + begin, end - begin, out);
        at = end;
    }
    llmi_cut_free(&cut, p);
}
/* patterns of one text or more */
static llmi_patterns *bpe_patterns(int n, const char *const *texts) {
    llmi_patterns *p = (llmi_patterns *)calloc(1, sizeof *p);
    llm_error err;
    int i;
    for (i = 0; i < n; i++)
        CHECK_MSG(llmi_patterns_add(p, LLMI_REGEX, texts[i], strlen(texts[i]), LLMI_ISOLATED, 0,
                                    "x", &err) == LLM_OK, "%s", err.message);
    CHECK(llmi_patterns_finish(p, &err) == LLM_OK);
    return p;
}
static void bpe_patterns_free(llmi_patterns *p) {
    llmi_patterns_free(p);
    free(p);
}

/* hex digits, or "-" for none, up to a blank -> where that is */
static const char *bpe_unhex(const char *at, char *text, size_t *n) {
    for (*n = 0; *at != ' ' && *at != '\n'; at++) {
        unsigned byte = 0;
        if (*at == '-') continue;
        sscanf(at, "%2x", &byte);
        text[(*n)++] = (char)byte;
        at++;
    }
    return at;
}
/* what `tokenizers` cuts texts into by single patterns */
TEST(bpe_patterns) {
    size_t size = 0, n, begin, end, n_texts = 0, n_patterns = 0;
    char *file = bpe_file(BPE_DATA "patterns.txt", &size), text[8192];
    const char *at = file, *stop = file + size;
    llmi_patterns p;
    llmi_cut cut;
    llm_error err;
    CHECK(file != NULL);
    memset(&p, 0, sizeof p);
    memset(&cut, 0, sizeof cut);
    while (file && at < stop) {
        const char *line = at + 2;
        int good = 1;
        if (*at == 'p') {
            const llmi_split_type type = line[0] == 'd' ? LLMI_DIGITS : LLMI_REGEX;
            bpe_unhex(line + 6, text, &n);
            if (line[0] == 'l') n = (size_t)sprintf(text, "%s", llmi_gpt2_pattern);
            if (line[0] == 'd') n = (size_t)sprintf(text, "%s", llmi_digits_pattern);
            llmi_patterns_free(&p);
            CHECK_MSG(llmi_patterns_add(&p, type, text, n, (llmi_behavior)(line[2] - '0'),
                                        line[4] == '1', "x", &err) == LLM_OK &&
                          llmi_patterns_finish(&p, &err) == LLM_OK,
                      "%.*s: %s", (int)n, text, err.message);
            n_patterns++;
        } else {
            char *copy, *numbers = (char *)(uintptr_t)bpe_unhex(line, text, &n);
            copy = (char *)malloc(n);                  /* a sanitizer sees what is read beyond it */
            memcpy(copy, text, n);
            CHECK(llmi_cut_start(&cut, &p, 0, copy, n, &err) == LLM_OK);
            while (llmi_cut_next(&cut, &begin, &end)) {
                good = good && *numbers == ' ' && strtoul(numbers, &numbers, 10) == begin;
                good = good && *numbers == ' ' && strtoul(numbers, &numbers, 10) == end;
            }
            CHECK_MSG(good && *numbers == '\n', "%.*s of %.60s", (int)n, text,
                      p.items[0].text.data);
            free(copy);
            n_texts++;
        }
        at = (const char *)memchr(at, '\n', (size_t)(stop - at)) + 1;
    }
    CHECK_MSG(n_patterns > 80 && n_texts > 1000, "%lu patterns, %lu texts",
              (unsigned long)n_patterns, (unsigned long)n_texts);
    llmi_cut_free(&cut, &p);
    llmi_patterns_free(&p);
    llmi_release(NULL, file);
}

/* what a pattern may not have; where it says so */
TEST(bpe_patterns_refused) {
    static const char *const cases[][2] = {
        {"a(?<=b)c", "a group that begins like the one before byte 2"},
        {"(?>ab)", "a group that begins like"}, {"a(?i)b", "a group that begins like"},
        {"(?x:a)", "a group that begins like"}, {"(?<n>a)", "a group that begins like"},
        {"(a", "a group without an end"}, {"a)", "a ) without a group"},
        {"*a", "a repeat of nothing"}, {"?a", "a repeat of nothing"},
        {"(|+)", "a repeat of nothing"}, {"(a)\\1", "this escape before byte 5"},
        {"\\Ra", "this escape"}, {"\\G", "this escape"}, {"\\Z", "this escape"},
        {"\\07", "this escape"},
        {"\\cA", "this escape"}, {"\\h", "this escape"}, {"a\\", "a backslash at the end"},
        {"\\p{Foo}", "this \\p{..}"}, {"\\p{L", "this \\p{..}"},
        {"\\p{Script=Han}", "this \\p{..}"},
        {"\\pL", "\\p without braces"}, {"\\x", "this number"}, {"\\x80", "this number"},
        {"\\x{110000}", "this number"}, {"\\u12", "this number"}, {"\\x{41", "this number"},
        {"[a", "a bracket that is not closed"}, {"[]", "a bracket that is not closed"},
        {"[[:alpha:]]", "[:..:]"}, {"[z-a]", "this range"}, {"[a-\\d]", "this range"},
        {"[\\d-a]", "this range"}, {"[a-[b]]", "this range"}, {"[&&a]", "&& with nothing"},
        {"[\\b]", "this escape"}, {"(a*)*", "a repeat of what may be empty"},
        {"(a?){2}", "a repeat of what may be empty"}, {"\\b+", "a repeat of what may be empty"},
        {"a**", "a repeat of what may be empty"}, {"(?=a)?", "a repeat of what may be empty"},
        {"(ab)++", "a possessive repeat of more than one character"}, {"a{3,2}", "this repeat"},
        {"a{2001}", "this repeat"}, {"\\p{A name of 20 letters}", "this \\p{..}"},
        {"\\p{l_u}\\p{L-u}\\p{L u}", NULL}, {"(?i:AZ[b-y])", NULL}, {"a{2}?", "{..}?"},
        {"(?i:ss)", "this letter without regard"},
        {"(?i:\xc3\xa9)", "this letter without regard"}, {"(?i:[^\xc3\xa9])", "more than ASCII"},
        {"(?i:[\\w])", "more than ASCII"}, {"a\xff", "what is not UTF-8"},
        {"(?:a{50}){50}", "more than 2000 steps"}, {"(?:a|b)*a(?:a|b){12}", NULL},
        {"a.{900}", "its states times their size"},
        {"a{1000}b{900}", "its states times their size"}};
    size_t i;
    for (i = 0; i < LLMI_COUNT(cases); i++) {
        const char *pattern = cases[i][0];
        llmi_patterns p;
        llm_error err;
        llm_result result;
        memset(&p, 0, sizeof p);
        memset(&err, 0, sizeof err);
        result = llmi_patterns_add(&p, LLMI_REGEX, pattern, strlen(pattern), LLMI_ISOLATED, 0, "x",
                                   &err);
        if (result == LLM_OK) result = llmi_patterns_finish(&p, &err);
        CHECK_MSG(cases[i][1] ? result == LLM_ERR_UNSUPPORTED &&
                                    strstr(err.message, cases[i][1]) != NULL
                              : result == LLM_OK,
                  "%s: %s", pattern, result == LLM_OK ? "taken" : err.message);
        llmi_patterns_free(&p);
    }
}

/* no pattern makes a text take more than time in proportion to it, nor more stack */
TEST(bpe_patterns_hostile) {
    static const char *const cases[] = {"a*b", "\\s*x|\\s", "(?:a|aa)+b", "(?:a?){0,1}(?:a+a+)+b",
                                        "(?=a*b)a|c", "(?:[ab]*c)?", "\\s+$", "(?!a*b)\\w"};
    const size_t n = 1 << 20;
    char *text = (char *)malloc(n), *deep = (char *)malloc(4096);
    const double start = llmi_seconds();
    llmi_patterns p;
    llm_error err;
    size_t i, begin, end, pieces;
    for (i = 0; i < 2 * LLMI_COUNT(cases); i++) {
        llmi_cut cut;
        memset(text, i % 2 ? ' ' : 'a', n);
        memset(&cut, 0, sizeof cut);
        memset(&p, 0, sizeof p);
        CHECK(llmi_patterns_add(&p, LLMI_REGEX, cases[i / 2], strlen(cases[i / 2]), LLMI_ISOLATED,
                                0, "x", &err) == LLM_OK &&
              llmi_patterns_finish(&p, &err) == LLM_OK);
        CHECK(llmi_cut_start(&cut, &p, 0, text, n, &err) == LLM_OK);
        for (pieces = 0, end = 0; llmi_cut_next(&cut, &begin, &end);) pieces++;
        CHECK(pieces > 0);
        llmi_cut_free(&cut, &p);
        llmi_patterns_free(&p);
    }
    for (i = 0; i < 4; i++) {
        memset(&p, 0, sizeof p);
        memset(deep, "([a?"[i], 4095);
        deep[4095] = 0;
        if (i == 3) deep[0] = 'a';
        CHECK(llmi_patterns_add(&p, LLMI_REGEX, deep, 4095, LLMI_ISOLATED, 0, "x", &err) ==
              LLM_ERR_UNSUPPORTED);
        llmi_patterns_free(&p);
    }
    CHECK_MSG(llmi_seconds() - start < 20, "%.1f s", llmi_seconds() - start);
    free(text);
    free(deep);
}

/* by hand, from the regular expressions */
TEST(bpe_deepseek_pieces) {
    static const struct { const char *text, *pieces;
    } cases[] = {
        {"Hello world", "Hello| world|"},
        {"12345 6", "123|45| |6|"},
        {"1234567x", "123|456|7|x|"},
        {"\xc2\xb2\xc2\xbd", "\xc2\xb2\xc2\xbd|"},                 /* numbers, but no digits */
        {"x=10;\n\n  y", "x|=|10|;\n\n| | y|"},
        {"don't I'M", "don|'t| I|'M|"},
        {"'\xc3\xa9t", "'|\xc3\xa9t|"},                             /* no ASCII after it */
        {"!abc\xc3\xa9", "!abc|\xc3\xa9|"},
        {"!!abc", "!!|abc|"},
        {" !abc", " !|abc|"},
        {"  !?\r\nabc", " | !?\r\n|abc|"},
        {"\tx\xc2\xa0y", "\tx|\xc2\xa0y|"},
        {"\nx\r\n y", "\n|x|\r\n| y|"},
        {"  \n  x", "  \n| | x|"},
        {" \n \n", " \n \n|"},
        {"a  ", "a|  |"},
        {"a \t!", "a| |\t|!|"},
        {"\x01\x01" "b\x01\x02!", "\x01|\x01" "b|\x01\x02|!|"},
        {"e\xcc\x81t\xcc\x81", "e\xcc\x81t\xcc\x81|"},               /* marks are of a word */
        {"\xcc\x81", "\xcc\x81|"},
        {"a \xe6\xbc\xa2\xe3\x81\x82\xe3\x82\xa2kana",
         "a| |\xe6\xbc\xa2\xe3\x81\x82\xe3\x82\xa2|kana|"},
        {"\xe9\xbe\xa5\xe9\xbe\xa6", "\xe9\xbe\xa5|\xe9\xbe\xa6|"},  /* U+9FA5 and the one after */
        {"\xe6\xbc\xa2\xe3\x80\x81", "\xe6\xbc\xa2|\xe3\x80\x81|"},  /* U+3001 is punctuation */
        {"\xe2\x82\xac" "5", "\xe2\x82\xac|5|"},
        /* a joiner is nothing of all this, variation selectors are marks */
        {"\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9",
         "\xf0\x9f\x91\xa8|\xe2\x80\x8d|\xf0\x9f\x91\xa9|"},
        {"!\xf3\xa0\x84\x80\xf3\xa0\x87\xaf\xf3\xa0\x87\xb0", /* U+E0100 U+E01EF U+E01F0 */
         "!|\xf3\xa0\x84\x80\xf3\xa0\x87\xaf|\xf3\xa0\x87\xb0|"},
        {"\xff\xff" "a\xe4\xb8", "\xff|\xff" "a|\xe4\xb8|"}};
    static const char *const texts[] = {"\\p{N}{1,3}", LLMI_KANA, LLMI_DEEPSEEK("\r\n")};
    llmi_patterns *p = bpe_patterns(3, texts);
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[200] = "";
        bpe_pieces(p, 0, cases[i].text, strlen(cases[i].text), out);
        CHECK_MSG(!strcmp(out, cases[i].pieces), "case %d: %s instead of %s", (int)i, out,
                  cases[i].pieces);
    }
    bpe_patterns_free(p);
}

/* a file with DeepSeek-V3's patterns: tokens do not cross pieces; saved, it is the same */
TEST(bpe_deepseek_file) {
    static const char splits[] =
        "{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\","
        "\"invert\":false},"
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":"
        "\"[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":"
        "\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|"
        "[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+|"
        " ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
        "\"use_regex\":false}]}";
    static const char text[] = "1234 1234 1234 a.b a.b a.b";
    llm_tokenizer *t = llm_tokenizer_train("1234,1234,1234,1234 a.b .b .b", 29, 300, NULL, NULL);
    char *json = NULL, *end, *other = (char *)malloc(1 << 20);
    llm_tokenizer *loaded = NULL, *again = NULL;
    const char *at;
    int32_t one[64], two[64];
    size_t size = 0, n = 0, m = 0;
    llm_error err;
    err.message[0] = 0;
    CHECK(t && llm_tokenizer_save(t, "build/test_deepseek.json", &err) == LLM_OK);
    CHECK(llmi_file_read("build/test_deepseek.json", (void **)&json, &size, NULL, &err) == LLM_OK);
    if (!json) return;
    end = json + size;
    for (at = json; at + 16 < end && memcmp(at, "{\"type\": \"Byte", 14) != 0; at++) {}
    m = (size_t)(at - json);
    memcpy(other, json, m);
    memcpy(other + m, splits, sizeof splits - 1);
    m += sizeof splits - 1;
    at = (const char *)memchr(at, '}', (size_t)(end - at));
    memcpy(other + m, at + 1, (size_t)(end - at - 1));
    m += (size_t)(end - at - 1);
    loaded = llm_tokenizer_load_memory(other, m, NULL, &err);
    CHECK_MSG(loaded != NULL, "%s", err.message);
    if (loaded) {
        CHECK(loaded->patterns.n == 3 &&
              !strcmp(llmi_gguf_pre[llmi_gguf_pre_of(loaded)].names, "deepseek-v3"));
        CHECK(llm_tokenizer_encode(loaded, text, sizeof text - 1, 0, one, 64, &n, &err) == LLM_OK);
        CHECK(llm_tokenizer_encode(t, text, sizeof text - 1, 0, two, 64, &m, &err) == LLM_OK);
        CHECK(two[0] == llm_tokenizer_token(t, "1234", 4) && n <= 64);
        for (m = 0; m < n && one[m] != llm_tokenizer_token(t, "4", 1); m++)
            CHECK(llm_tokenizer_decode(t, one, m + 1, other, 4, &size, &err) == LLM_OK &&
                  size <= 3);
        CHECK(m > 0 && m <= 3 && size == 3);                     /* 123, 4 */
        CHECK(llm_tokenizer_save(loaded, "build/test_deepseek.json", &err) == LLM_OK);
        again = llm_tokenizer_load("build/test_deepseek.json", NULL, &err);
        CHECK_MSG(again && llmi_gguf_pre_of(again) == llmi_gguf_pre_of(loaded), "%s", err.message);
        if (again)
            CHECK(llm_tokenizer_encode(again, text, sizeof text - 1, 0, two, 64, &m, &err) ==
                      LLM_OK && m == n && !memcmp(one, two, n * sizeof *one));
    }
    llm_tokenizer_free(again);
    llm_tokenizer_free(loaded);
    llm_tokenizer_free(t);
    llmi_release(NULL, json);
    free(other);
}

TEST(bpe_capacity) {
    llm_tokenizer *t = llm_tokenizer_train("abab", 4, 258, NULL, NULL);
    int32_t tokens[4] = {-9, -9, -9, -9}, bad[2];
    char text[4] = {'x', 'x', 'x', 'x'};
    size_t count = 99;
    llm_error err;
    CHECK(t != NULL);
    if (!t) return;
    CHECK(llm_tokenizer_encode(t, "a b c", 5, 0, tokens, 2, &count, &err) == LLM_OK && count == 5);
    CHECK(tokens[0] == llm_tokenizer_token(t, "a", 1) &&
          tokens[1] == llm_tokenizer_token(t, " ", 1) && tokens[2] == -9);
    CHECK(llm_tokenizer_encode(t, NULL, 0, 1, NULL, 0, &count, &err) == LLM_OK && count == 0);
    CHECK(llm_tokenizer_encode(t, "a", 1, 1, NULL, 0, NULL, &err) == LLM_OK);
    count = 99;
    CHECK(llm_tokenizer_encode(t, NULL, 1, 1, tokens, 4, &count, &err) == LLM_ERR_ARGUMENT &&
          count == 99);
    CHECK(llm_tokenizer_encode(t, "a", 1, 1, NULL, 4, &count, &err) == LLM_ERR_ARGUMENT &&
          count == 99);
    CHECK(llm_tokenizer_encode(NULL, "a", 1, 1, tokens, 4, &count, &err) == LLM_ERR_ARGUMENT);
    tokens[0] = llm_tokenizer_vocab_size(t) - 1;
    CHECK(llm_tokenizer_decode(t, tokens, 1, text, 3, &count, &err) == LLM_OK && count == 13 &&
          !memcmp(text, "<|ex", 4));
    CHECK(llm_tokenizer_decode(t, tokens, 1, NULL, 0, &count, &err) == LLM_OK && count == 13);
    CHECK(llm_tokenizer_decode(t, NULL, 0, NULL, 0, &count, &err) == LLM_OK && count == 0);
    bad[0] = 5;
    bad[1] = llm_tokenizer_vocab_size(t);
    text[0] = 'y';
    CHECK(llm_tokenizer_decode(t, bad, 2, text, 4, &count, &err) == LLM_ERR_ARGUMENT &&
          text[0] == 'y');
    CHECK(strstr(err.message, "258") && strstr(err.message, "token 1"));
    bad[1] = -1;
    CHECK(llm_tokenizer_decode(t, bad, 2, text, 4, &count, &err) == LLM_ERR_ARGUMENT &&
          strstr(err.message, "-1"));
    llm_tokenizer_free(t);
    llm_tokenizer_free(NULL);
}

TEST(bpe_utf8_complete) {
    static const struct { const char *text; size_t n, want;
    } cases[] = {
        {"", 0, 0}, {"a", 1, 1}, {"abc", 3, 3}, {"a\xc3\xa9", 3, 3}, {"a\xc3", 2, 1},
        {"\xe2", 1, 0}, {"\xe2\x82", 2, 0}, {"\xe2\x82\xac", 3, 3}, {"x\xf0", 2, 1},
        {"x\xf0\x9f", 3, 1}, {"x\xf0\x9f\x98", 4, 1}, {"x\xf0\x9f\x98\x80", 5, 5}, {"\x80", 1, 1},
        {"\x80\x80\x80\x80", 4, 4}, {"\xff", 1, 1}, {"a\xc0", 2, 2}, {"\xf5", 1, 1},
        {"\xe0\x80", 2, 2}, {"\xe0\xa0", 2, 0}, {"\xed\xa0", 2, 2}, {"\xed\x9f", 2, 0},
        {"\xf0\x8f", 2, 2}, {"\xf0\x90", 2, 0}, {"\xf4\x90", 2, 2}, {"\xf4\x8f\xbf", 3, 0},
        {"\xe2\x82\xac\xe2", 4, 3}, {"\xc3\xc3", 2, 1}, {"\xe2\x28", 2, 2}, {"\xc3\xa9\xa9", 3, 3}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_MSG(llm_utf8_complete(cases[i].text, cases[i].n) == cases[i].want, "case %zu", i);
}

/* the JSON of a small tokenizer, with one piece of it replaced, as a string to be freed */
static char *bpe_json(const char *old, const char *fresh, size_t *size) {
    llm_tokenizer *t = llm_tokenizer_train("abcab abcab", 11, 261, NULL, NULL);
    llmi_text text;
    char *found, *out;
    memset(&text, 0, sizeof text);
    llmi_bpe_write(&text, t);
    llmi_text_add(&text, "", 1);
    CHECK(text.failed == LLM_OK);
    llm_tokenizer_free(t);
    found = strstr(text.data, old);
    CHECK_MSG(found != NULL, "no %s to replace", old);
    *size = text.size - 1;
    out = (char *)malloc(text.size + strlen(fresh));
    memcpy(out, text.data, text.size);
    if (found) {
        const size_t at = (size_t)(found - text.data);
        memcpy(out + at, fresh, strlen(fresh));
        memcpy(out + at + strlen(fresh), found + strlen(old), text.size - at - strlen(old));
        *size += strlen(fresh) - strlen(old);
    }
    llmi_text_free(&text);
    return out;
}

/* What becomes of a tokenizer.json where a text is replaced: of "old => new | words", with ' for ",
 * this code, and a message that holds the words. */
static void bpe_changes(llm_result code, const char *const *changes, size_t n) {
    size_t i, size;
    for (i = 0; i < n; i++) {
        char text[2048], *fresh, *words, *json, *at;
        llm_error err;
        llm_tokenizer *t;
        CHECK((size_t)snprintf(text, sizeof text, "%s", changes[i]) < sizeof text);
        for (at = text; (at = strchr(at, '\'')) != NULL;) *at = '"';
        fresh = strstr(text, " => ");
        words = fresh ? strstr(fresh, " | ") : NULL;
        CHECK_MSG(fresh && (words || code == LLM_OK), "no change: %s", text);
        if (!fresh) continue;
        *fresh = 0;
        if (words) *words = 0;
        json = bpe_json(text, fresh + 4, &size);
        memset(&err, 0, sizeof err);
        t = llm_tokenizer_load_memory(json, size, NULL, &err);
        CHECK_MSG((t ? LLM_OK : err.code) == code &&
                      (t || !words || strstr(err.message, words + 3)),
                  "%s: %s", changes[i], err.message);
        if (t) CHECK(bpe_round_trip(t, "abcab <|endoftext|> x", 20, 0));
        llm_tokenizer_free(t);
        free(json);
    }
}
#define BPE_CHANGES(code, changes) bpe_changes(code, changes, sizeof changes / sizeof changes[0])

#define BPE_LEVEL                                                                             \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "       \
    "\"use_regex\": true}"
#define BPE_SPLIT(regex, behavior, invert)                                                \
    "{\"type\": \"Split\", \"pattern\": {" regex "}, \"behavior\": \"" behavior "\", " \
    "\"invert\": " invert "}"
#define BPE_LIST(parts) "{\"type\": \"Sequence\", \"pretokenizers\": [" parts "]}"
#define BPE_NUMBERS "\"Regex\": \"\\\\p{N}{1,3}\""

TEST(bpe_files) {
    static const char *const accepted[] = {
        " => ", "'truncation': null => 'truncation': {'max_length': 5}",
        "'normalizer': null => 'normalizer': {'type': 'Sequence', 'normalizers': []}",
        BPE_LEVEL " => {'type':'Sequence','pretokenizers':[{'type': 'ByteLevel', "
        "'add_prefix_space': false, 'trim_offsets': true}]}",
        "'use_regex': true => 'use_regex': false",
        BPE_LEVEL " => " BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "false") ", " BPE_LEVEL),
        BPE_LEVEL " => " BPE_LIST("{'type': 'Digits', 'individual_digits': true}, " BPE_LEVEL),
        BPE_LEVEL " => "
        BPE_LIST(BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Contiguous", "true")) ", " BPE_LIST(BPE_LEVEL)),
        BPE_LEVEL " => "
        BPE_LIST(BPE_SPLIT("\"String\": \"\\n\"", "MergedWithNext", "false") ", " BPE_LEVEL),
        "'type': 'BPE', => ", "'dropout': null => 'dropout': 0.0",
        "'unk_token': null => 'unk_token': 'x'",
        "'continuing_subword_prefix': null => 'continuing_subword_prefix': ''",
        "'<|endoftext|>', 'single => '', 'single",
        "{'id': 260, => {'id': 1000,",     /* it is the vocabulary's */
        "'content': '<|endoftext|>' => 'content': '<|other|>'",
        "{'id': 260, 'content': '<|endoftext|>' => {'id': 261, 'content': '<|other|>'",
        "{'id': 260, 'content': '<|endoftext|>' => {'id': 187, 'content': '\xc3\xbf'",
        "'a': 64 => 'a': 262", "'~': 93 => 'zz': 93", "'~': 93 => '~': 261", "['a', 'b'] => 'a b'"};
    static const char *const unsupported[] = {
        "'1.0' => '2.0' | version is 2.0", "'padding': null => 'madding': null | file.madding",
        "'normalizer': null => 'normalizer': {'type': 'NFC'} | normalizer is {'type': 'NFC'}",
        "'normalizer': null => 'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'NFC'}]}"
        " | normalizer",
        BPE_LEVEL " => null | pre_tokenizer is null",
        "{'type': 'ByteLevel' => {'type': 'Whitespace' | pre_tokenizer",
        BPE_LEVEL " => {'type':'Sequence','pretokenizers':[{'type':'Digits'},{'type': 'ByteLevel', "
        "'add_prefix_space': false}]} | individual_digits is missing",
        BPE_LEVEL " => " BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Other", "false") ", " BPE_LEVEL)
        " | pre_tokenizer.behavior is Other",
        BPE_LEVEL " => " BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "1") ", " BPE_LEVEL)
        " | pre_tokenizer.invert is 1",
        BPE_LEVEL " => " BPE_LIST(BPE_SPLIT("", "Isolated", "false") ", " BPE_LEVEL)
        " | pattern.Regex is missing",
        BPE_LEVEL " => " BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "false")) " | pre_tokenizer",
        BPE_LEVEL " => " BPE_LIST(BPE_LEVEL ", " BPE_SPLIT(BPE_NUMBERS, "Isolated", "false"))
        " | pre_tokenizer",
        BPE_LEVEL " => " BPE_LIST("{'type': 'Punctuation', 'behavior': 'Isolated'}, " BPE_LEVEL)
        " | pre_tokenizer is {'type': 'Punctuation'",
        BPE_LEVEL " => " BPE_LIST("") " | pre_tokenizer",
        BPE_LEVEL " => "
        BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "false")
                 ", {'type': 'ByteLevel', 'add_prefix_space': true}")
        " | add_prefix_space is true",
        "'use_regex': true => 'other': true | pre_tokenizer.other is true",
        "'add_prefix_space': false,  =>  | add_prefix_space is missing",
        "'post_processor': {'type': 'ByteLevel' => 'post_processor': {'type': 'TemplateProcessing'"
        " | post_processor",
        "'decoder': {'type': 'ByteLevel' => 'decoder': {'type': 'Metaspace' | decoder",
        "'type': 'BPE' => 'type': 'Unigram' | model.type is Unigram",
        "'dropout': null => 'dropout': 0.1 | model.dropout is 0.1",
        "'continuing_subword_prefix': null => 'continuing_subword_prefix': '##'"
        " | continuing_subword_prefix is ##",
        "'end_of_word_suffix': null => 'end_of_word_suffix': '</w>' | end_of_word_suffix is </w>",
        "'byte_fallback': false => 'byte_fallback': true | byte_fallback is true",
        "'ignore_merges': false => 'ignore_merges': 1 | ignore_merges is 1",
        "'single_word': false => 'single_word': 1 | single_word is 1",
        "'merges': [ => 'mergers': [ | model.mergers",
        "'vocab': { => 'vocab': 3, 'vocab2': { | model.vocab2"};
    static const char *const malformed[] = {
        "{'id': 260, => {'id': 1.5, | <|endoftext|>: its id is no whole number",
        "'added_tokens': [ => 'added_tokens': [{'id': 260, 'content': '<|endoftext|>'}, "
        " | added token 1, <|endoftext|>, has been given before",
        "'a': 64 => 'a': 65 | id 65 of 'b' has been given before",
        "'a': 64 => 'a': -1 | is -1, must be in", "'a': 64 => 'a': 10000 | is 10000, must be in",
        "'a': 64 => 'a': '64' | id of 'a'", "'a': 64 => 'zz': 64 | merge 0: its first half",
        "'!': 0 => '!': 0, '!': 1 | twice", "['a', 'b'] => 'ab' | merge 0 is not two strings",
        "['a', 'b'] => 'a b c' | merge 0 is not two strings",
        "['a', 'b'] => ['a', 'b', 'c'] | merge 0 is not two strings",
        "['a', 'b'] => ['a', 1] | merge 0 is not two strings",
        "['a', 'b'] => ['a', 'bb'] | merge 0: its second half",
        "['a', 'b'] => ['a', 'd'] | merge 0: its result",
        "['a', 'b'] => ['a', 'b'], ['a', 'b'] | merge 1 has been given before",
        "{\n  'version' => [{\n  'version' | at byte"};
    BPE_CHANGES(LLM_OK, accepted);
    BPE_CHANGES(LLM_ERR_UNSUPPORTED, unsupported);
    BPE_CHANGES(LLM_ERR_FORMAT, malformed);
}

TEST(bpe_unreachable) { /* a token that no merge leads to is found by ignore_merges only */
    size_t size, count;
    char *json = bpe_json("\"a\": 64", "\"a\": 64, \"xyz\": 261", &size), *flag;
    llm_tokenizer *t = llm_tokenizer_load_memory(json, size, NULL, NULL);
    int32_t *tokens;
    CHECK(t != NULL);
    if (t) {
        tokens = bpe_encode(t, "xyz", 3, 0, &count);
        CHECK(count == 3 && tokens[0] == 87 && tokens[1] == 88 && tokens[2] == 89);
        free(tokens);
    }
    llm_tokenizer_free(t);
    flag = strstr(json, "\"ignore_merges\": false") + 17;
    memcpy(flag, "true ", 5);
    t = llm_tokenizer_load_memory(json, size, NULL, NULL);
    CHECK(t != NULL);
    if (t) {
        tokens = bpe_encode(t, "xyz xyz", 7, 0, &count);
        CHECK(count == 5 && tokens[0] == 261 && tokens[1] == 220);
        free(tokens);
    }
    llm_tokenizer_free(t);
    free(json);
}

/* single_word: no character of \\w (Unicode TR 18, annex C) before or after */
TEST(bpe_single_word) {
    static const struct { const char *text; int found; } cases[] = {
        {"<w>", 1},            {" <w> ", 1},          {"x<w>", 0},           {"<w>x", 0},
        {"-<w>.", 1},          {"_<w>", 0},           {"<w>_", 0},           {"7<w>", 0},
        {"<w>7", 0},           {"\xc3\xa9<w>", 0},    {"<w>\xc3\xa9", 0},    {"\xc2\xb2<w>", 1},
        {"<w>\xc2\xbd", 1},    {"\xe2\x85\xa7<w>", 0}, {"\xe2\x80\x8d<w>", 0}, {"\xcc\x81<w>", 0},
        {"\xe2\x92\xb6<w>", 0}, {"\xe2\x82\xac<w>", 1}, {"<w>\xf3\xa0\x84\x80", 0},
        {"\xa9<w>", 1},        {"<w>\xe2\x85", 1},    {"<w><w>", 2},         {"x<w> <w>", 1}};
    size_t size, i;
    char *json = bpe_json("\"added_tokens\": [",
                          "\"added_tokens\": [{\"id\": 261, \"content\": \"<w>\", \"single_word\": "
                          "true, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                          "\"special\": false},", &size);
    llm_error err;
    llm_tokenizer *t = llm_tokenizer_load_memory(json, size, NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    for (i = 0; t && i < sizeof cases / sizeof cases[0]; i++) {
        size_t count, j;
        int found = 0;
        int32_t *tokens = bpe_encode(t, cases[i].text, strlen(cases[i].text), 0, &count);
        for (j = 0; j < count; j++) found += tokens[j] == 261;
        CHECK_MSG(found == cases[i].found, "case %zu: found %d, not %d", i, found, cases[i].found);
        free(tokens);
    }
    if (t) {
        CHECK(llm_tokenizer_save(t, "build/single_word.json", NULL) == LLM_OK);
        llm_tokenizer_free(t);
        t = llm_tokenizer_load("build/single_word.json", NULL, NULL);
        CHECK(t && t->n_added && t->added[0].is.single_word +
                                       t->added[t->n_added - 1].is.single_word == 1);
        remove("build/single_word.json");
    }
    llm_tokenizer_free(t);
    free(json);
}

TEST(bpe_hostile) {                     /* truncated at every byte, and mutated */
    size_t size, i, count, accepted = 0;
    char *json = bpe_json("", "", &size), *copy;
    uint32_t state = 11;
    for (i = 0; i + 2 < size;
         i += i < 600 || i > size - 600 ? 1 : 37) { /* the last two are "}\n" */
        copy = (char *)malloc(i + !i);
        memcpy(copy, json, i);
        CHECK_MSG(!llm_tokenizer_load_memory(copy, i, NULL, NULL), "accepted %zu bytes", i);
        free(copy);
    }
    copy = (char *)malloc(size);
    for (i = 0; i < 3000; i++) {
        llm_tokenizer *t;
        memcpy(copy, json, size);
        state = state * 1664525u + 1013904223u;
        copy[(state >> 3) % size] = "{}[]\",:\\ a0192bnu"[state >> 28];
        t = llm_tokenizer_load_memory(copy, size, NULL, NULL);
        if (t) {
            int32_t *tokens = bpe_encode(t, "abcab abc <|endoftext|> \xff", 25, 1, &count);
            CHECK(llm_tokenizer_decode(t, tokens, count, NULL, 0, NULL, NULL) == LLM_OK);
            free(tokens);
            accepted++;
        }
        llm_tokenizer_free(t);
    }
    CHECK_MSG(accepted > 20 && accepted < 2900, "%zu", accepted);
    free(copy);
    free(json);
}

TEST(bpe_save) {
    const char *path = "build/test_bpe.json";
    llm_error err;
    llm_tokenizer *t = llm_tokenizer_load(BPE_DATA "small.json", NULL, &err), *again;
    CHECK(t != NULL);
    if (!t) return;
    CHECK_MSG(llm_tokenizer_save(t, path, &err) == LLM_OK, "%s", err.message);
    again = llm_tokenizer_load(path, NULL, &err);
    CHECK_MSG(again != NULL, "%s", err.message);
    if (again) {
        CHECK(llm_tokenizer_vocab_size(again) == 474);
        bpe_cases(again, BPE_DATA "small.txt", 0);
    }
    llm_tokenizer_free(again);
    remove(path);
    CHECK(llm_tokenizer_save(t, "build/no such directory/t.json", &err) == LLM_ERR_IO &&
          strstr(err.message, "no such directory"));
    CHECK_MSG(llm_tokenizer_save(t, "build", &err) == LLM_OK, "%s",
              err.message); /* into a directory */
    llm_tokenizer_free(t);
    t = llm_tokenizer_load("build", NULL, &err);
    CHECK_MSG(t && llm_tokenizer_vocab_size(t) == 474, "%s", err.message);
    llm_tokenizer_free(t);
    remove("build/tokenizer.json");
    CHECK(!llm_tokenizer_load("tests", NULL, &err) && err.code == LLM_ERR_IO &&
          strstr(err.message, "neither tokenizer.json nor vocab.json"));
    CHECK(!llm_tokenizer_load("build/no such file.json", NULL, &err) && err.code == LLM_ERR_IO &&
          strstr(err.message, "no such file"));
    CHECK(!llm_tokenizer_load(NULL, NULL, &err) && err.code == LLM_ERR_ARGUMENT);
    CHECK(!llm_tokenizer_load_memory(NULL, 5, NULL, &err) && err.code == LLM_ERR_ARGUMENT);
    CHECK(!llm_tokenizer_load_memory("", 0, NULL, &err) && err.code == LLM_ERR_FORMAT);
}

/* vocab.json of a tokenizer with three merges */
static llmi_text bpe_vocabulary(void) {
    llm_tokenizer *t = llm_tokenizer_train("abcab abcab", 11, 261, NULL, NULL);
    llmi_text text;
    int i;
    memset(&text, 0, sizeof text);
    for (i = 0; i < 261; i++) {
        llmi_text_add(&text, i ? "," : "{", 1);
        llmi_bpe_write_token(&text, t, i);
        llmi_text_format(&text, ":%d", i);
    }
    llmi_text_add(&text, "}", 1);
    llm_tokenizer_free(t);
    return text;
}
TEST(bpe_pair_of_files) {
    const char *vocabulary = "build/vocab.json", *merges = "build/merges.txt";
    llmi_text text = bpe_vocabulary();
    llm_tokenizer *again;
    llm_error err;
    CHECK(llmi_file_write(vocabulary, text.data, text.size, &err) == LLM_OK);
    CHECK(llmi_file_write(merges, "#version: 0.2\na b\r\nc ab\nab cab", 30, &err) == LLM_OK);
    again = llm_tokenizer_load("build", NULL, &err);
    CHECK_MSG(again != NULL, "%s", err.message);
    if (again) {
        CHECK(again->n_merges == 3 && again->n_added == 1 && again->added[0].is.special);
        CHECK(llm_tokenizer_token(again, "<|endoftext|>", 13) == 260);
        CHECK(bpe_round_trip(again, "abcab abc <|endoftext|>", 23, 1));
    }
    llm_tokenizer_free(again);
    CHECK(llmi_file_write(merges, "a b\n\nc ab\n", 10, &err) == LLM_OK);
    CHECK(!llm_tokenizer_load("build", NULL, &err) && err.code == LLM_ERR_FORMAT &&
          strstr(err.message, "merge 1"));
    remove(merges);
    CHECK(!llm_tokenizer_load("build", NULL, &err) && err.code == LLM_ERR_IO &&
          strstr(err.message, "merges.txt"));
    remove(vocabulary);
    llmi_text_free(&text);
}

static llm_result bpe_encoded(const llm_tokenizer *t, const char *text, size_t n, llm_error *err) {
    static int32_t tokens[3000];
    size_t count = 77;
    const llm_result result = llm_tokenizer_encode(t, text, n, 1, tokens, 3000, &count, err);
    CHECK(result == LLM_OK ? count > 77 : count == 77);
    return result;
}

TEST(bpe_memory) {
    size_t size = 0, i;
    char *json = bpe_json("\"add_prefix_space\": false", "\"add_prefix_space\": true", &size),
         text[3000];
    uint32_t state = 5;
    llm_tokenizer *t = NULL;
    llm_allocator allocator;
    llm_error err;
    heap h;
    for (i = 0; i < sizeof text; i++) { /* many pairs, so that tables grow */
        state = state * 1664525u + 1013904223u;
        text[i] = "abcdefghijklmnopqrstuvwxyzABCDE "[state >> 27];
    }
    memset(text, 'a', 500);                                      /* one long word */
    heap_init(&h);
    allocator = h.allocator;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, t, llm_tokenizer_train(text, sizeof text, 1000, &allocator,
                                                             &err));
    llm_tokenizer_free(t);
    CHECK(h.live == 0);
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, t, llm_tokenizer_load_memory(json, size, &allocator, &err));
    memset(&allocator, 0, sizeof allocator);       /* the tokenizer has its own copy */
    EACH_ALLOCATION_FAILS(&h, bpe_encoded(t, text, sizeof text, &err));
    EACH_ALLOCATION_FAILS(&h, llm_tokenizer_save(t, "build/test_bpe.json", &err));
    llm_tokenizer_free(t);
    CHECK(h.live == 0);
    remove("build/test_bpe.json");
    free(json);
}

/* ---- directories, as transformers' AutoTokenizer reads them ---------------------------------- */
/* A directory: what its tokenizer makes of a text, and what stands in it. kinds: V is vocab.json
 * and merges.txt, G the same as tokenizer.json, both with a config.json of model_type gpt2; T is
 * that tokenizer.json alone. parts: which, what, and so on. Files are "tc" tokenizer_config.json,
 * "stm" special_tokens_map.json, "atj" added_tokens.json and "config". In tokenizer.json stand
 * "added" and "pre", instead of the usual, and more keys of it, "json", and of its "model".
 * "vocab" is another vocabulary. "split" is the answer where special tokens are not parsed,
 * "around" the template. */
typedef struct bpe_directory {
    const char *kinds, *text, *want;
    const char *parts[9];
} bpe_directory;

static const char *bpe_part(const bpe_directory *d, const char *which) {
    int i;
    for (i = 0; d->parts[i]; i += 2)
        if (!strcmp(d->parts[i], which)) return d->parts[i + 1];
    return NULL;
}

static void bpe_add(llmi_text *text, const char *string) {
    llmi_text_add(text, string, strlen(string));
}
/* bytes as the characters that stand for them */
static void bpe_add_word(llmi_text *text, const char *bytes, size_t n) {
    char character[4];
    size_t i;
    for (i = 0; i < n; i++) {
        if (bytes[i] == '"' || bytes[i] == '\\') bpe_add(text, "\\");
        llmi_text_add(text, character,
                      llmi_utf8_encode(character, llmi_byte_to_char((unsigned char)bytes[i])));
    }
}

static const char *const bpe_halves[][2] = {{"h", "e"},     {"l", "l"},  {"he", "ll"},
                                            {"hell", "o"},  {" ", "w"},  {"o", "r"},
                                            {" w", "or"},   {" wor", "l"}, {" worl", "d"},
                                            {" ", "hello"}};
enum { BPE_HALVES = sizeof bpe_halves / sizeof bpe_halves[0] };

static void bpe_add_merges(llmi_text *text, const char *before, const char *between,
                           const char *behind) {
    int i;
    for (i = 0; i < BPE_HALVES; i++) {
        bpe_add(text, before);
        bpe_add_word(text, bpe_halves[i][0], strlen(bpe_halves[i][0]));
        bpe_add(text, between);
        bpe_add_word(text, bpe_halves[i][1], strlen(bpe_halves[i][1]));
        bpe_add(text, behind);
    }
}
/* Token i is byte i; the merges' results follow, then <|endoftext|>. which: "bare" is without the
 * last, "gap" leaves five ids out before it, "ascii" has half of the bytes, "he" one token more; in
 * "full" byte 0 has the last one's id instead.
 * -> the id of <|endoftext|>, -1 = there is none */
static int bpe_add_vocabulary(llmi_text *text, const char *which) {
    const int n = !strcmp(which, "ascii") ? 128 : 256;
    int i, id = n + BPE_HALVES;
    for (i = 0; i < n; i++) {
        const char byte = (char)i;
        bpe_add(text, i ? ", \"" : "{\"");
        bpe_add_word(text, &byte, 1);
        llmi_text_format(text, "\": %d", i || strcmp(which, "full") != 0 ? i : n + BPE_HALVES);
    }
    for (i = 0; i < BPE_HALVES; i++) {
        bpe_add(text, ", \"");
        bpe_add_word(text, bpe_halves[i][0], strlen(bpe_halves[i][0]));
        bpe_add_word(text, bpe_halves[i][1], strlen(bpe_halves[i][1]));
        llmi_text_format(text, "\": %d", n + i);
    }
    if (!strcmp(which, "he")) llmi_text_format(text, ", \"\xc4\xa0he\": %d", id++);
    if (!strcmp(which, "gap")) id += 5;
    if (!strcmp(which, "bare") || !strcmp(which, "full")) id = -1;
    if (id >= 0) llmi_text_format(text, ", \"<|endoftext|>\": %d", id);
    bpe_add(text, "}");
    return id;
}

#define BPE_TOKEN(id, content, special, normalized)                                          \
    "{\"id\": " id ", \"content\": \"" content "\", \"single_word\": false, \"lstrip\": "  \
    "false, \"rstrip\": false, \"normalized\": " normalized ", \"special\": " special "}"
#define BPE_END BPE_TOKEN("266", "<|endoftext|>", "true", "false")
#define BPE_EOT(flags) "{\"__type\": \"AddedToken\", \"content\": \"<|endoftext|>\"" flags "}"

/* the files in the order of tokenizer_of_files, empty where there is none */
static void bpe_make(const bpe_directory *d, char kind, llmi_text files[TOKENIZER_FILES]) {
    static const char *const sides[LLMI_N_BESIDE] = {"tc", "stm", "atj", "config", "chat"};
    const char *vocab = bpe_part(d, "vocab"), *added = bpe_part(d, "added"),
               *pre = bpe_part(d, "pre"), *json = bpe_part(d, "json"),
               *model = bpe_part(d, "model");
    int i, id;
    memset(files, 0, TOKENIZER_FILES * sizeof *files);
    if (kind == 'V') {
        bpe_add_vocabulary(&files[0], vocab ? vocab : "");
        bpe_add(&files[1], "#version: 0.2\n");
        bpe_add_merges(&files[1], "", " ", "\n");
    } else {
        bpe_add(&files[0], "{\"version\": \"1.0\", \"pre_tokenizer\": ");
        bpe_add(&files[0], pre ? pre : BPE_LEVEL);
        bpe_add(&files[0], ", \"decoder\": " BPE_LEVEL ", \"model\": {\"type\": \"BPE\"");
        bpe_add(&files[0], model ? model : "");
        bpe_add(&files[0], ", \"merges\": [");
        bpe_add_merges(&files[0], "[\"", "\", \"", "\"], ");
        files[0].size -= 2;
        bpe_add(&files[0], "], \"vocab\": ");
        id = bpe_add_vocabulary(&files[0], vocab ? vocab : "");
        bpe_add(&files[0], "}, \"added_tokens\": [");
        if (added) bpe_add(&files[0], added);
        else if (id >= 0)
            llmi_text_format(&files[0], BPE_TOKEN("%d", "<|endoftext|>", "true", "false"), id);
        bpe_add(&files[0], "]");
        bpe_add(&files[0], json ? json : "");
        bpe_add(&files[0], "}");
    }
    for (i = 0; i < LLMI_N_BESIDE; i++)
        if (bpe_part(d, sides[i])) bpe_add(&files[2 + i], bpe_part(d, sides[i]));
    if (kind != 'T' && !bpe_part(d, "config"))
        bpe_add(&files[2 + LLMI_MODEL_CONFIG], "{\"model_type\": \"gpt2\"}");
}
static void bpe_unmake(llmi_text files[TOKENIZER_FILES]) {
    int i;
    for (i = 0; i < TOKENIZER_FILES; i++) llmi_text_free(&files[i]);
}
/* from memory; file number `changed` is another text of n bytes */
static llm_tokenizer *bpe_made(const llmi_text files[TOKENIZER_FILES], int changed,
                               const char *fresh, size_t n, const llm_allocator *allocator,
                               llm_error *err) {
    llmi_bytes bytes[TOKENIZER_FILES];
    int i;
    for (i = 0; i < TOKENIZER_FILES; i++) {
        bytes[i].data = i == changed ? fresh : files[i].data;
        bytes[i].size = i == changed ? n : files[i].size;
    }
    return tokenizer_of_files(bytes, allocator, err);
}

#define BPE_AT "build/directory"
static const char *bpe_path(int file, int is_pair) {
    static char path[100];
    snprintf(path, sizeof path, BPE_AT "/%s", tokenizer_file_name(file, is_pair));
    return path;
}
static void bpe_clear(void) {
    int i;
    for (i = 0; i < TOKENIZER_FILES; i++) remove(bpe_path(i, 0));
    remove(bpe_path(0, 1));
}
/* the directory on the disk, and what llm_tokenizer_load makes of it */
static llm_tokenizer *bpe_loaded(const bpe_directory *d, char kind, llm_error *err) {
    llmi_text files[TOKENIZER_FILES];
    int i;
    memset(err, 0, sizeof *err);
    bpe_make(d, kind, files);
    CHECK(llmi_directory_create("build", err) == LLM_OK &&
          llmi_directory_create(BPE_AT, err) == LLM_OK);
    bpe_clear();
    for (i = 0; i < TOKENIZER_FILES; i++)
        if (files[i].size)
            CHECK(llmi_file_write(bpe_path(i, kind == 'V'), files[i].data, files[i].size, err) ==
                  LLM_OK);
    bpe_unmake(files);
    return llm_tokenizer_load(BPE_AT, NULL, err);
}

static void bpe_ids_are(const llm_tokenizer *t, const bpe_directory *d, int special,
                        const char *want, const char *label) {
    size_t count, i, n = 0;
    int32_t *tokens = bpe_encode(t, d->text, strlen(d->text), special, &count);
    char got[400] = "";
    for (i = 0; i < count && n < sizeof got - 16; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, i ? " %ld" : "%ld", (long)tokens[i]);
    CHECK_MSG(!strcmp(got, want), "%s: %s, not %s", label, got, want);
    free(tokens);
}
/* "266 A": what stands around a text */
static void bpe_template_is(const llm_tokenizer *t, const char *want, const char *label) {
    char got[200] = "";
    int32_t tokens[8];
    size_t n = 0;
    int after, i;
    for (after = 0; after < 2; after++) {
        const int count = llm_tokenizer_template(t, after, tokens);
        for (i = 0; i < count; i++)
            n += (size_t)snprintf(got + n, sizeof got - n, after ? " %ld" : "%ld ",
                                  (long)tokens[i]);
        if (!after) n += (size_t)snprintf(got + n, sizeof got - n, "A");
    }
    CHECK_MSG(!strcmp(got, want), "%s: template %s, not %s", label, got, want);
}
static void bpe_directory_is(const bpe_directory *d, const llm_tokenizer *t, const char *label) {
    const char *split = bpe_part(d, "split"), *around = bpe_part(d, "around");
    bpe_ids_are(t, d, 1, d->want, label);
    if (split) bpe_ids_are(t, d, 0, split, label);
    bpe_template_is(t, around ? around : "A", label);
}

#define BPE_P "hello [A] <b> x[PAD] world"
#define BPE_P_PLAIN "32 91 65 93 32 60 98 62 32 120 91 80 65 68 93 264"
#define BPE_P_PAD "259 32 91 65 93 32 60 98 62 32 120 267 264"
#define BPE_E "hello<|endoftext|> world"
#define BPE_E_PLAIN "259 60 124 101 110 100 111 102 116 101 120 116 124 62 264"
#define BPE_S "hello <|endoftext|> world"
#define BPE_PIECE(id) "{\"SpecialToken\": {\"id\": \"" id "\", \"type_id\": 0}}"
#define BPE_TEXT "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"
#define BPE_TEMPLATE(single, tokens)                                           \
    "{\"type\": \"TemplateProcessing\", \"single\": [" single "], \"pair\": [" \
    BPE_TEXT ", {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], \"special_tokens\": {" tokens "}}"
#define BPE_IS(id, ids) "\"" id "\": {\"id\": \"" id "\", \"ids\": [" ids "], \"tokens\": [\"x\"]}"
#define BPE_POST(what) ", \"post_processor\": " what
#define BPE_TWICE_TEXT "hello [A] x[A]or"
#define BPE_TWICE(flag) "{\"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"[A]\"}, " \
    "\"pad_token\": {\"__type\": \"AddedToken\", \"content\": \"[A]\", \"" flag "\": true}}"

/* The ids are those that transformers 5.24 with tokenizers 0.23 gives for these directories. */
static const bpe_directory bpe_directories[] = {
    {"VGT", BPE_E, "259 266 264", {"split", BPE_E_PLAIN}},
    /* the class says what counts, and which tokens there are without a file that names them */
    {"VG", BPE_E, "259 266 264", {"vocab", "bare", "split", BPE_E_PLAIN}},
    {"T", BPE_E, BPE_E_PLAIN, {"vocab", "bare"}},
    {"VGT", BPE_E, "259 266 264", {"vocab", "bare", "tc",
                                   "{\"tokenizer_class\": \"GPT2TokenizerFast\"}"}},
    {"G", BPE_E, BPE_E_PLAIN, {"vocab", "bare", "tc",
                               "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}"}},
    {"VG", BPE_P, "265 " BPE_P_PLAIN, {"tc", "{\"add_prefix_space\": true}"}},
    {"T", BPE_P, "259 " BPE_P_PLAIN, {"tc", "{\"add_prefix_space\": true}"}},
    {"G", BPE_P, "259 " BPE_P_PLAIN,
     {"pre", "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true}"}},
    {"T", BPE_P, "265 " BPE_P_PLAIN,
     {"pre", "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true}"}},
    {"G", "hello he he", "259 32 256 32 256",
     {"vocab", "he", "added", "", "model", ", \"ignore_merges\": true"}},
    {"T", "hello he he", "259 266 266",
     {"vocab", "he", "added", "", "model", ", \"ignore_merges\": true"}},
    /* added_tokens.json: its ids order the tokens, and no more */
    {"VGT", BPE_P, "259 32 268 32 267 32 120 91 80 65 68 93 264",
     {"atj", "{\"[A]\": 500, \"<b>\": 300}"}},
    {"VGT", BPE_P, "259 32 91 65 93 32 267 32 120 91 80 65 68 93 264",
     {"atj", "{\"hello\": 300, \"<b>\": 299}"}},
    /* named tokens */
    {"VGT", BPE_P, BPE_P_PAD, {"tc", "{\"pad_token\": \"[PAD]\"}"}},
    {"VGT", BPE_P, BPE_P_PAD, {"tc", "{\"pad_token\": \"<b>\"}", "stm",
                               "{\"pad_token\": \"[PAD]\"}"}},
    {"VGT", BPE_P, "259 32 267 32 270 269 268 264",
     {"tc", "{\"mask_token\": \"<b>\", \"pad_token\": \"[PAD]\", \"bos_token\": \"[A]\", "
            "\"cls_token\": \" x\"}"}},
    {"VG", BPE_P, "259 32 266 32 60 98 62 32 120 268 264",
     {"vocab", "bare", "tc", "{\"bos_token\": \"[A]\", \"pad_token\": \"[PAD]\"}"}},
    {"V", BPE_E, BPE_E_PLAIN,
     {"tc", "{\"bos_token\": null, \"eos_token\": null, \"unk_token\": null}"}},
    {"V", BPE_S, "259 266 119 261 108 100",
     {"tc", "{\"eos_token\": " BPE_EOT(", \"lstrip\": true, \"rstrip\": true, "
                                       "\"normalized\": true") "}"}},
    {"G", BPE_S, "259 32 266 264",
     {"tc", "{\"eos_token\": " BPE_EOT(", \"lstrip\": true, \"rstrip\": true, "
                                       "\"normalized\": true") "}"}},
    /* the same text twice, with other flags: the later ones count */
    {"T", BPE_TWICE_TEXT, "259 267 32 120 267 261", {"tc", BPE_TWICE("lstrip")}},
    {"T", BPE_TWICE_TEXT, "259 32 267 120 267 261", {"tc", BPE_TWICE("rstrip")}},
    {"T", BPE_TWICE_TEXT, "259 32 267 32 120 91 65 93 261", {"tc", BPE_TWICE("single_word")}},
    {"VGT", "[PAD]b", "267 98",                    /* not normalized: found before "]b" */
     {"tc", "{\"pad_token\": {\"__type\": \"AddedToken\", \"content\": \"[PAD]\"}, "
            "\"mask_token\": \"]b\"}"}},
    {"GT", BPE_P, "259 32 267 32 60 98 62 32 120 91 80 65 68 93 264",
     {"added", BPE_END ", " BPE_TOKEN("267", "[A]", "false", "true"),
      "tc", "{\"pad_token\": \"[A]\"}", "split", "259 " BPE_P_PLAIN}},
    {"T", BPE_P, BPE_P_PAD, {"json", ", \"padding\": {\"strategy\": \"BatchLongest\", "
                                     "\"direction\": \"Right\", \"pad_to_multiple_of\": null, "
                                     "\"pad_id\": 0, \"pad_type_id\": 0, \"pad_token\": "
                                     "\"[PAD]\"}"}},
    /* extra tokens */
    {"VGT", BPE_P, "259 32 91 65 93 32 267 32 120 91 80 65 68 93 264",
     {"tc", "{\"extra_special_tokens\": [\"<b>\"], \"additional_special_tokens\": [\"[A]\"]}"}},
    {"VGT", BPE_P, "259 32 268 32 267 32 269 80 65 68 93 264",
     {"tc", "{\"extra_special_tokens\": {\"image_token\": \"<b>\", \"foo\": \"[A]\"}, "
            "\"additional_special_tokens\": [\"x[\"]}"}},
    {"VGT", BPE_P, "259 267 32 268 32 120 91 80 65 68 93 264",
     {"stm", "{\"extra_special_tokens\": [{\"content\": \"[A]\", \"lstrip\": true}, \"<b>\"]}"}},
    {"VGT", BPE_P, "259 32 267 32 268 32 120 91 80 65 68 93 264",
     {"stm", "{\"additional_special_tokens\": [\"[A]\", \"<b>\"]}"}},
    {"VGT", BPE_P, "259 32 267 32 60 98 62 32 120 91 80 65 68 93 264",
     {"tc", "{\"extra_special_tokens\": {}}", "stm",
      "{\"additional_special_tokens\": [\"[A]\"]}"}},
    /* added_tokens_decoder shuts two of the files out, and tokenizer.json's list where that is G */
    {"VGT", BPE_P, "259 32 91 65 93 32 267 32 120 91 80 65 68 93 264",
     {"tc", "{\"pad_token\": \"<b>\", \"added_tokens_decoder\": {}}",
      "stm", "{\"pad_token\": \"[PAD]\"}", "atj", "{\"[A]\": 267}"}},
    {"VGT", BPE_P, "259 32 268 267 32 120 91 80 65 68 93 264",
     {"tc", "{\"added_tokens_decoder\": {\"1000\": {\"content\": \"[A]\"}, \"268\": {\"content\": "
            "\"<b>\", \"lstrip\": true, \"special\": true}}}",
      "split", "259 32 268 32 60 98 62 32 120 91 80 65 68 93 264"}},
    {"G", BPE_P, "259 32 91 65 93 32 267 32 120 91 80 65 68 93 264",
     {"added", BPE_END ", " BPE_TOKEN("267", "[A]", "false", "true"),
      "tc", "{\"added_tokens_decoder\": {\"267\": {\"content\": \"<b>\"}}}"}},
    {"T", BPE_S, "259 266 119 261 108 100",
     {"tc", "{\"added_tokens_decoder\": {\"266\": {\"content\": \"<|endoftext|>\", \"lstrip\": "
            "true, \"rstrip\": true, \"normalized\": true, \"special\": false}}}",
      "split", "259 32 60 124 101 110 100 111 102 116 101 120 116 124 62 264"}},
    /* tokenizer.json's list: in the order of the file, or (G) of ids */
    {"T", BPE_P, "259 32 267 32 268 32 120 91 80 65 68 93 264",
     {"added", BPE_END ", " BPE_TOKEN("268", "[A]", "false", "true") ", "
               BPE_TOKEN("267", "<b>", "false", "true")}},
    {"G", BPE_P, "259 32 268 32 267 32 120 91 80 65 68 93 264",
     {"added", BPE_END ", " BPE_TOKEN("268", "[A]", "false", "true") ", "
               BPE_TOKEN("267", "<b>", "false", "true")}},
    /* templates */
    {"GT", BPE_E, "259 266 264", {"json", BPE_POST(BPE_TEMPLATE(BPE_TEXT, ""))}},
    {"GT", BPE_E, "259 266 264",
     {"json", BPE_POST(BPE_TEMPLATE(BPE_PIECE("x") ", " BPE_TEXT, BPE_IS("x", "266"))),
      "around", "266 A"}},
    {"GT", BPE_E, "259 266 264",
     {"json", BPE_POST("{\"type\": \"Sequence\", \"processors\": [" BPE_LEVEL ", "
                       BPE_TEMPLATE(BPE_PIECE("x") ", " BPE_TEXT ", " BPE_PIECE("y"),
                                    BPE_IS("x", "266, 97") ", " BPE_IS("y", "98")) "]}"),
      "around", "266 97 A 98"}},
    {"V", BPE_E, "259 266 264",
     {"tc", "{\"add_bos_token\": true, \"add_eos_token\": true, \"bos_token\": \"[A]\"}",
      "around", "267 A 266"}},
    {"GT", BPE_E, "259 266 264", {"tc", "{\"add_bos_token\": true, \"add_eos_token\": true}"}},
    /* an added token whose characters spell bytes of the vocabulary */
    {"GT", "a \xc4\xa0" "b", "97 32 32 98",
     {"added", BPE_END ", " BPE_TOKEN("32", "\xc4\xa0", "false", "true")}},
    {"GT", "hahello", "104 97 104 101 257 111",
     {"added", BPE_END ", " BPE_TOKEN("104", "h", "false", "true")}},
    /* ids that no token has, bytes that have no token */
    {"VGT", BPE_E, "259 271 264", {"vocab", "gap"}},
    {"T", BPE_P, "259 32 91 65 93 32 60 98 62 32 120 272 264",
     {"vocab", "gap", "tc", "{\"pad_token\": \"[PAD]\"}"}},
    {"VG", BPE_P, BPE_P_PAD, {"vocab", "gap", "tc", "{\"pad_token\": \"[PAD]\"}"}},
    {"VGT", "h\xc3\xa9" "e", "128", {"vocab", "ascii"}},
    {"T", "h\xc3\xa9" "e \xc3\xa9\xc3\xa9", "104 138 138 101 32 138 138 138 138",
     {"vocab", "ascii", "model", ", \"unk_token\": \"<|endoftext|>\""}},
    {"G", "h\xc3\xa9" "e", "128", {"vocab", "ascii", "model", ", \"unk_token\": \"e\""}},
    {"T", "h\xc3\xa9" "e \xc3\xa9\xc3\xa9", "104 138 101 32 138",
     {"vocab", "ascii", "model", ", \"unk_token\": \"<|endoftext|>\", \"fuse_unk\": true"}},
    {"T", "h\xc3\xa9llo", "128 101 129 111",
     {"vocab", "ascii", "model", ", \"unk_token\": \"e\""}}};
enum { BPE_DIRECTORIES = sizeof bpe_directories / sizeof bpe_directories[0] };

/* what is loaded, and what is loaded of that once it is saved */
TEST(bpe_directories) {
    const char *copy = "build/directory.json", *kind;
    int i;
    for (i = 0; i < BPE_DIRECTORIES; i++)
        for (kind = bpe_directories[i].kinds; *kind; kind++) {
            const bpe_directory *d = &bpe_directories[i];
            char label[40];
            llm_error err;
            llm_tokenizer *t = bpe_loaded(d, *kind, &err), *again;
            snprintf(label, sizeof label, "directory %d, %c", i, *kind);
            CHECK_MSG(t != NULL, "%s: %s", label, err.message);
            if (!t) continue;
            bpe_directory_is(d, t, label);
            CHECK(llm_tokenizer_save(t, copy, &err) == LLM_OK);
            again = llm_tokenizer_load(copy, NULL, &err);
            CHECK_MSG(again != NULL, "%s, saved: %s", label, err.message);
            snprintf(label, sizeof label, "directory %d, %c, saved", i, *kind);
            if (again) bpe_directory_is(d, again, label);
            llm_tokenizer_free(again);
            llm_tokenizer_free(t);
        }
    remove(copy);
    bpe_clear();
}

/* what is refused; want is a word of the message */
/* 63 less "Fast" */
#define BPE_LONG "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
TEST(bpe_directories_refused) {
    static const bpe_directory cases[] = {
        {"VGT", "", "tokenizer_class", {"tc", "{\"tokenizer_class\": \"Qwen2Tokenizer\"}"}},
        {"VGT", "", "tokenizer_class", {"tc", "{\"tokenizer_class\": 5}"}},
        {"V", "", "tokenizer_class", {"tc", "{\"tokenizer_class\": \"LlamaTokenizerFast\"}"}},
        {"T", "", "tokenizer_class", {"config", "{\"tokenizer_class\": \"RobertaTokenizer\"}"}},
        {"VGT", "", "tokenizer_class", {"tc", "{\"tokenizer_class\": \"" BPE_LONG "Fast" BPE_LONG
                                              BPE_LONG "\"}"}},
        {"VGT", "", "add_bos_token is 1", {"tc", "{\"add_bos_token\": 1}"}},
        {"VGT", "", "add_eos_token is [A]", {"tc", "{\"add_eos_token\": \"[A]\"}"}},
        {"V", "", "add_bos_token", {"tc", "{\"add_bos_token\": true, \"bos_token\": \"\"}"}},
        {"VGT", "", "escapes", {"tc", "{\"image_toke\\u006e\": \"[A]\"}"}},
        {"VGT", "", "extra_special_tokens is pad_token",
         {"tc", "{\"extra_special_tokens\": {\"pad_token\": \"[A]\"}}"}},
        {"VGT", "", "added token [A]: its id is no whole number",
         {"tc", "{\"added_tokens_decoder\": {\"0000000000000000900\": {\"content\": \"[A]\"}}}"}},
        {"T", "", "auto_map", {"tc", "{\"auto_map\": {\"AutoTokenizer\": [\"a.B\", null]}}"}},
        {"VG", "", "add_prefix_space is null", {"tc", "{\"add_prefix_space\": null}"}},
        {"VG", "", "add_prefix_space is 1", {"tc", "{\"add_prefix_space\": 1}"}},
        {"VGT", "", "add_prefix_space", {"stm", "{\"add_prefix_space\": true}"}},
        {"VGT", "", "pad_token", {"tc", "{\"pad_token\": {\"content\": \"[PAD]\"}}"}},
        {"VGT", "", "pad_token is 5", {"stm", "{\"pad_token\": 5}"}},
        {"VGT", "", "no content", {"stm", "{\"pad_token\": {\"lstrip\": true}}"}},
        {"VGT", "", "lstrip is 1", {"stm", "{\"pad_token\": {\"content\": \"x\", \"lstrip\": 1}}"}},
        {"VGT", "", "a special token is {", {"tc", "{\"image_token\": " BPE_EOT("") "}"}},
        {"VGT", "", "extra_special_tokens is [A]", {"tc", "{\"extra_special_tokens\": \"[A]\"}"}},
        {"VGT", "", "extra_special_tokens is {",
         {"tc", "{\"extra_special_tokens\": [{\"content\": \"[A]\"}]}"}},
        {"VGT", "", "additional_special_tokens is 5", {"tc", "{\"additional_special_tokens\": 5}"}},
        {"VGT", "", "additional_special_tokens is {",
         {"stm", "{\"additional_special_tokens\": [{\"content\": \"[A]\"}]}"}},
        {"VGT", "", "added_tokens_decoder is []", {"tc", "{\"added_tokens_decoder\": []}"}},
        {"VGT", "", "added_tokens_decoder is [A]",
         {"tc", "{\"added_tokens_decoder\": {\"267\": \"[A]\"}}"}},
        {"VGT", "", "added_tokens_decoder: added token [A]: its id is no whole number",
         {"tc", "{\"added_tokens_decoder\": {\"x\": {\"content\": \"[A]\"}}}"}},
        {"VGT", "", "added_tokens.json: not an object", {"atj", "[\"[A]\"]"}},
        {"VGT", "", "added token [A]: its id is no whole number", {"atj", "{\"[A]\": \"267\"}"}},
        {"VGT", "", "two added tokens have id 267", {"atj", "{\"[A]\": 267, \"<b>\": 267}"}},
        {"GT", "", "two added tokens have id 267",
         {"added", BPE_TOKEN("267", "[A]", "true", "true"), "atj", "{\"<b>\": 267}"}},
        {"GT", "", "no content", {"added", "{\"id\": 267, \"special\": true}"}},
        {"VGT", "", "special_tokens_map.json: not an object", {"stm", "5"}},
        {"VGT", "", "tokenizer_config.json", {"tc", "{"}},
        {"VGT", "", "config.json", {"config", "{"}},
        {"VGT", "", "fast_tokenizer_files", {"tc", "{\"fast_tokenizer_files\": [\"a.json\"]}"}},
        {"VGT", "", "would get id 266, which is another's",
         {"vocab", "full", "added", "", "atj", "{\"[A]\": 267}"}},
        {"GT", "", "post_processor.single", {"json", BPE_POST(BPE_TEMPLATE("", ""))}},
        {"GT", "", "post_processor.single",
         {"json", BPE_POST(BPE_TEMPLATE(BPE_TEXT ", " BPE_TEXT, ""))}},
        {"GT", "", "post_processor.single is {",
         {"json", BPE_POST(BPE_TEMPLATE(BPE_PIECE("x") ", " BPE_TEXT, BPE_IS("y", "266")))}},
        {"GT", "", "post_processor.special_tokens",
         {"json", BPE_POST(BPE_TEMPLATE(BPE_PIECE("x") ", " BPE_TEXT, BPE_IS("x", "267")))}},
        {"GT", "", "post_processor.special_tokens",
         {"json", BPE_POST(BPE_TEMPLATE(BPE_PIECE("x") ", " BPE_TEXT,
                                        BPE_IS("x", "1, 2, 3, 4, 5, 6, 7, 8, 9")))}},
        {"GT", "", "post_processor is {", {"json", BPE_POST("{\"type\": \"Roberta\"}")}},
        {"GT", "", "post_processor.processors is missing",
         {"json", BPE_POST("{\"type\": \"Sequence\"}")}}};
    const char *kind;
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (kind = cases[i].kinds; *kind; kind++) {
            llm_error err;
            llm_tokenizer *t = bpe_loaded(&cases[i], *kind, &err);
            CHECK_MSG(!t && err.code != LLM_OK && strstr(err.message, cases[i].want),
                      "case %lu, %c: %s, not %s", (unsigned long)i, *kind,
                      t ? "loaded" : err.message, cases[i].want);
            llm_tokenizer_free(t);
        }
    bpe_clear();
}

/* something in every file; V takes the ends of tokenizer_config.json, T the template */
static const bpe_directory bpe_full = {
    "VT", "hello [A] <b>", "",
    {"tc", "{\"add_bos_token\": true, \"tokenizer_class\": null, \"auto_map\": {}, \"bos_token\": "
           BPE_EOT(", \"rstrip\": true") ", \"image_token\": \"<i>\", "
           "\"additional_special_tokens\": [\"<b>\", " BPE_EOT("") "]}",
     "stm", "{\"pad_token\": {\"content\": \"[PAD]\", \"lstrip\": true}, \"mask_token\": null, "
            "\"eos_token\": \"<e>\"}",
     "atj", "{\"[A]\": 300, \"\\u00e9\": 299}",
     "json", BPE_POST(BPE_TEMPLATE(BPE_PIECE("x") ", " BPE_TEXT, BPE_IS("x", "266")))}};
static const bpe_directory bpe_decoder = {
    "VT", "hello [A] <b>", "",
    {"tc", "{\"add_eos_token\": true, \"extra_special_tokens\": {\"a\": \"<b>\"}, \"eos_token\": "
           "\"[A]\", \"added_tokens_decoder\": {\"267\": {\"content\": \"[A]\", \"special\": "
           "true}, \"266\": {\"content\": \"<|endoftext|>\"}}}"}};

/* every allocation fails once, of the files' and of reading them */
TEST(bpe_directory_memory) {
    static const bpe_directory *const directories[] = {&bpe_full, &bpe_decoder};
    int i;
    heap h;
    heap_init(&h);
    for (i = 0; i < 4; i++) {
        llm_error err;
        llm_tokenizer *t = bpe_loaded(directories[i / 2], "VT"[i % 2], &err);
        CHECK_MSG(t != NULL, "%s", err.message);
        llm_tokenizer_free(t);
        EACH_ALLOCATION_FAILS_TO_MAKE(&h, t, llm_tokenizer_load(BPE_AT, &h.allocator, &err));
        llm_tokenizer_free(t);
        CHECK(h.live == 0 && !h.wrong);
    }
    bpe_clear();
}

/* one file is another text: the tokenizer is refused with a message, or can be used and saved */
static int bpe_damaged(const bpe_directory *d, const llmi_text files[TOKENIZER_FILES], int file,
                       const char *fresh, size_t n, heap *h) {
    char *copy = (char *)plain_alloc(n);           /* a sanitizer sees what is read beyond it */
    llmi_text text;
    llm_error err;
    llm_tokenizer *t;
    int32_t tokens[8];
    if (n) memcpy(copy, fresh, n);
    memset(&err, 0, sizeof err);
    t = bpe_made(files, file, copy, n, &h->allocator, &err);
    free(copy);
    CHECK(t || (err.code != LLM_OK && err.message[0]));
    if (t) {
        size_t count;
        int i, k;
        free(bpe_encode(t, d->text, strlen(d->text), 1, &count));
        CHECK(count > 0);
        for (k = 0; k < 2; k++)
            for (i = llm_tokenizer_template(t, k, tokens); i-- > 0;)
                CHECK(tokens[i] >= 0 && tokens[i] < llm_tokenizer_vocab_size(t));
        memset(&text, 0, sizeof text);
        llmi_bpe_write(&text, t);
        CHECK(text.failed == LLM_OK && text.size > 0);
        llmi_text_free(&text);
    }
    llm_tokenizer_free(t);
    CHECK(h->live == 0 && !h->wrong);
    return t != NULL;
}

/* each file beside the tokenizer's, cut off at every byte, and every byte replaced */
TEST(bpe_directory_damaged) {
    static const bpe_directory *const directories[] = {&bpe_full, &bpe_decoder};
    static const char others[] = "{}[]\",:\\ a0192bnu\xc3";
    uint32_t state = 3;
    int i, file, accepted = 0, refused = 0;
    heap h;
    heap_init(&h);
    for (i = 0; i < 4; i++) {
        const bpe_directory *d = directories[i / 2];
        llmi_text files[TOKENIZER_FILES];
        bpe_make(d, "VT"[i % 2], files);
        for (file = 2; file < TOKENIZER_FILES; file++) {
            const size_t n = files[file].size;
            char *changed = (char *)plain_alloc(n);
            size_t at;
            if (n) memcpy(changed, files[file].data, n);
            for (at = 0; at < n; at++) {
                CHECK_MSG(!bpe_damaged(d, files, file, changed, at, &h), "%s: %lu bytes accepted",
                          llmi_side_names[file - 2], (unsigned long)at);
                state = state * 1664525u + 1013904223u;
                changed[at] = others[(state >> 16) % (sizeof others - 1)];
                if (bpe_damaged(d, files, file, changed, n, &h)) accepted++;
                else refused++;
                changed[at] = files[file].data[at];
            }
            free(changed);
        }
        bpe_unmake(files);
    }
    CHECK_MSG(accepted > 100 && refused > 100, "%d accepted, %d refused", accepted, refused);
}

/* ---- added tokens in a text ------------------------------------------------------------------ */
/* Tokens that overlap, contain and begin each other: the leftmost counts, of several there the
 * longest, by trying each one at each place. */
static llm_tokenizer *bpe_with_added(const char *const *added, int n) {
    llmi_text json;
    llm_tokenizer *t;
    llm_error err;
    int i;
    memset(&json, 0, sizeof json);
    bpe_add(&json, "{\"added_tokens\": [");
    for (i = 0; i < n; i++)
        llmi_text_format(&json, "%s{\"id\": %d, \"content\": \"%s\"}",
                         i ? "," : "", 6 + i, added[i]);
    bpe_add(&json, "], \"pre_tokenizer\": " BPE_LEVEL ", \"decoder\": " BPE_LEVEL ", \"model\": "
                   "{\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"d\": 3, \"e\": 4, \"X\": 5}, "
                   "\"merges\": []}}");
    t = llm_tokenizer_load_memory(json.data, json.size, NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    llmi_text_free(&json);
    return t;
}
static void bpe_added_at_each_place(const char *const *added, int n, const char *text) {
    llm_tokenizer *t = bpe_with_added(added, n);
    int32_t got[64], want[64];
    size_t count = 0, n_want = 0, at, size;
    int i, longest;
    if (!t) return;
    for (at = 0; text[at]; at += size) {
        for (longest = -1, i = 0; i < n; i++)
            if (!strncmp(text + at, added[i], strlen(added[i])) &&
                (longest < 0 || strlen(added[i]) > strlen(added[longest])))
                longest = i;
        size = longest < 0 ? 1 : strlen(added[longest]);
        want[n_want++] = longest >= 0 ? 6 + longest : text[at] == 'X' ? 5 : text[at] - 'a';
    }
    CHECK(llm_tokenizer_encode(t, text, strlen(text), 1, got, 64, &count, NULL) == LLM_OK);
    CHECK_MSG(count == n_want && !memcmp(got, want, count * sizeof *got), "\"%s\" with %s, %s",
              text, added[0], n > 1 ? added[1] : "no other");
    llm_tokenizer_free(t);
}
TEST(bpe_added_tokens_overlap) {
    static const char *const inside[] = {"abcde", "bc"}, *const late[] = {"ab", "abcde", "cd"};
    char words[6][8], text[32];
    const char *added[6];
    uint64_t draw = 0;
    int round, n, i, k;
    bpe_added_at_each_place(inside, 2, "abcdX");
    bpe_added_at_each_place(inside, 2, "abcdabcde");
    bpe_added_at_each_place(late, 3, "abcdXabcdecdab");
    for (round = 0; round < 3000; round++) {
        const int most = 1 + (int)(llm_random(9, draw++) % 6);
        for (n = 0, i = 0; i < most; i++) {
            const int size = 2 + (int)(llm_random(9, draw++) % 5);
            memset(words[n], 0, sizeof words[n]);
            for (k = 0; k < size; k++) words[n][k] = "abc"[llm_random(9, draw++) % 3];
            added[n] = words[n];
            for (k = 0; k < n && strcmp(words[k], words[n]) != 0; k++) {}
            n += k == n;
        }
        memset(text, 0, sizeof text);
        for (k = (int)(llm_random(9, draw++) % 31); k > 0; k--)
            text[k - 1] = "abc"[llm_random(9, draw++) % 3];
        bpe_added_at_each_place(added, n, text);
    }
}

/* a string with a character that stands for no byte stays what it is */
TEST(bpe_characters_of_bytes) {
    char bytes[] = "\xc4\xa0" "a\xc3\xa9", opaque[] = "a\xe4\xbd\xa0", broken[] = "a\xe4\xbd";
    size_t n = strlen(bytes);
    CHECK(llmi_chars_to_bytes(bytes, &n) == LLMI_BYTES && n == 3 && !memcmp(bytes, " a\xe9", 3));
    n = strlen(opaque);
    CHECK(llmi_chars_to_bytes(opaque, &n) == LLMI_OPAQUE && n == 4 &&
          !strcmp(opaque, "a\xe4\xbd\xa0"));
    n = strlen(broken);
    CHECK(llmi_chars_to_bytes(broken, &n) == LLMI_OPAQUE && n == 3);
}

static void run_bpe(void) {
    RUN(bpe_characters_of_bytes);
    RUN(bpe_small);
    RUN(bpe_odd);
    RUN(bpe_tiktoken);
    RUN(bpe_tiktoken_hostile);
    RUN(bpe_gpt2);
    RUN(bpe_train);
    RUN(bpe_long_words);
    RUN(bpe_any_bytes);
    RUN(bpe_patterns);
    RUN(bpe_patterns_refused);
    RUN(bpe_patterns_hostile);
    RUN(bpe_deepseek_pieces);
    RUN(bpe_deepseek_file);
    RUN(bpe_capacity);
    RUN(bpe_utf8_complete);
    RUN(bpe_files);
    RUN(bpe_unreachable);
    RUN(bpe_single_word);
    RUN(bpe_hostile);
    RUN(bpe_save);
    RUN(bpe_pair_of_files);
    RUN(bpe_memory);
    RUN(bpe_directories);
    RUN(bpe_directories_refused);
    RUN(bpe_directory_memory);
    RUN(bpe_directory_damaged);
    RUN(bpe_added_tokens_overlap);
}

/* tests of >>bpe against Hugging Face `tokenizers` (fixtures by tools/make_goldens.py) */
#define BPE_DATA "tests/data/bpe/"

static char *bpe_file(const char *path, size_t *size) {
    void *data = NULL;
    return llmi_kind_of(path) == LLMI_FILE && llmi_file_read(path, &data, size, NULL, NULL) == LLM_OK
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

TEST(bpe_small) {
    llm_error err;
    llm_tokenizer *t = llm_tokenizer_load(BPE_DATA "small.json", NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
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
    size_t n, i, count;
    int32_t *tokens;
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
    tokens = bpe_encode(t, "\xff!a", 3, 0, &count); /* a broken byte is punctuation: "\xff!", "a" */
    CHECK(llmi_split_gpt2(t->classes, "\xff!a", 3) == 2);
    CHECK(llmi_split_gpt2(t->classes, " \xe2\x82", 3) == 3);
    CHECK(llmi_split_gpt2(t->classes, "a\xc3", 2) == 1);
    CHECK(llmi_split_gpt2(t->classes, "a\xc3\xa9", 3) == 3);
    free(tokens);
    llm_tokenizer_free(t);
}

/* the pieces of n patterns of llmi_splits from the first on, each followed by a bar */
static void bpe_pieces(const uint8_t *classes, int first, int n, const char *text, size_t size,
                       char *out) {
    size_t at = 0;
    if (n == 0) {
        strncat(out, text, size);
        strcat(out, "|");
        return;
    }
    while (at < size) {
        const size_t piece = llmi_splits[first].split(classes, text + at, size - at);
        CHECK(piece > 0 && piece <= size - at);
        if (!piece || piece > size - at) return;
        bpe_pieces(classes, first + 1, n - 1, text + at, piece, out);
        at += piece;
    }
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
        {"'\xc3\xa9t", "'|\xc3\xa9t|"},                             /* no ASCII behind it */
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
    uint8_t *classes = (uint8_t *)calloc(1, LLMI_CLASS_BYTES);
    size_t i;
    llmi_classes_fill(classes);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[200] = "";
        bpe_pieces(classes, 1, 3, cases[i].text, strlen(cases[i].text), out);
        CHECK_MSG(!strcmp(out, cases[i].pieces), "case %d: %s instead of %s", (int)i, out,
                  cases[i].pieces);
    }
    free(classes);
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
        CHECK(loaded->n_splits == 3 && loaded->splits[0] == 1 && loaded->splits[1] == 2 &&
              loaded->splits[2] == 3);
        CHECK(llm_tokenizer_encode(loaded, text, sizeof text - 1, 0, one, 64, &n, &err) == LLM_OK);
        CHECK(llm_tokenizer_encode(t, text, sizeof text - 1, 0, two, 64, &m, &err) == LLM_OK);
        CHECK(two[0] == llm_tokenizer_token(t, "1234", 4) && n <= 64);
        for (m = 0; m < n && one[m] != llm_tokenizer_token(t, "4", 1); m++)
            CHECK(llm_tokenizer_decode(t, one, m + 1, other, 4, &size, &err) == LLM_OK &&
                  size <= 3);
        CHECK(m > 0 && m <= 3 && size == 3);                     /* 123, 4 */
        CHECK(llm_tokenizer_save(loaded, "build/test_deepseek.json", &err) == LLM_OK);
        again = llm_tokenizer_load("build/test_deepseek.json", NULL, &err);
        CHECK_MSG(again && again->n_splits == 3 && !memcmp(again->splits, loaded->splits,
                                                           3 * sizeof again->splits[0]),
                  "%s", err.message);
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
    } cases[] = {{"", 0, 0},
                 {"a", 1, 1},
                 {"abc", 3, 3},
                 {"a\xc3\xa9", 3, 3},
                 {"a\xc3", 2, 1},
                 {"\xe2", 1, 0},
                 {"\xe2\x82", 2, 0},
                 {"\xe2\x82\xac", 3, 3},
                 {"x\xf0", 2, 1},
                 {"x\xf0\x9f", 3, 1},
                 {"x\xf0\x9f\x98", 4, 1},
                 {"x\xf0\x9f\x98\x80", 5, 5},
                 {"\x80", 1, 1},
                 {"\x80\x80\x80\x80", 4, 4},
                 {"\xff", 1, 1},
                 {"a\xc0", 2, 2},
                 {"\xf5", 1, 1},
                 {"\xe0\x80", 2, 2},
                 {"\xe0\xa0", 2, 0},
                 {"\xed\xa0", 2, 2},
                 {"\xed\x9f", 2, 0},
                 {"\xf0\x8f", 2, 2},
                 {"\xf0\x90", 2, 0},
                 {"\xf4\x90", 2, 2},
                 {"\xf4\x8f\xbf", 3, 0},
                 {"\xe2\x82\xac\xe2", 4, 3},
                 {"\xc3\xc3", 2, 1},
                 {"\xe2\x28", 2, 2},
                 {"\xc3\xa9\xa9", 3, 3}};
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

/* what becomes of a tokenizer.json with one text replaced: a code, and what the message holds */
typedef struct bpe_change {
    const char *old, *fresh;
    llm_result code;
    const char *message;
} bpe_change;
static void bpe_changed(const bpe_change *change) {
    size_t size;
    char *json = bpe_json(change->old, change->fresh, &size);
    llm_error err;
    llm_tokenizer *t;
    memset(&err, 0, sizeof err);
    t = llm_tokenizer_load_memory(json, size, NULL, &err);
    CHECK_MSG((t ? LLM_OK : err.code) == change->code &&
                  (t || strstr(err.message, change->message)),
              "%s -> %s: %s", change->old, change->fresh, err.message);
    if (t) CHECK(bpe_round_trip(t, "abcab <|endoftext|> x", 20, 0));
    llm_tokenizer_free(t);
    free(json);
}

TEST(bpe_files) {
    static const bpe_change cases[] = {
        {"", "", LLM_OK, ""},
        {"\"1.0\"", "\"2.0\"", LLM_ERR_UNSUPPORTED, "version is 2.0"},
        {"\"truncation\": null", "\"truncation\": {\"max_length\": 5}", LLM_OK, ""},
        {"\"padding\": null", "\"madding\": null", LLM_ERR_UNSUPPORTED, "file.madding"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", LLM_ERR_UNSUPPORTED,
         "normalizer is {\"type\": \"NFC\"}"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []}",
         LLM_OK, ""},
        {"\"normalizer\": null",
         "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]}",
         LLM_ERR_UNSUPPORTED, "normalizer"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
         "\"use_regex\": true}",
         "null", LLM_ERR_UNSUPPORTED, "pre_tokenizer is null"},
        {"{\"type\": \"ByteLevel\"", "{\"type\": \"Whitespace\"", LLM_ERR_UNSUPPORTED,
         "pre_tokenizer"},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
         "\"use_regex\": true}",
         "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\": \"ByteLevel\", "
         "\"add_prefix_space\": false, \"trim_offsets\": true}]}",
         LLM_OK, ""},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
         "\"use_regex\": true}",
         "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\": "
         "\"ByteLevel\", \"add_prefix_space\": false}]}",
         LLM_ERR_UNSUPPORTED, "pre_tokenizer"},
        {"\"use_regex\": true", "\"use_regex\": false", LLM_OK, ""},
#define BPE_LEVEL                                                                             \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "       \
    "\"use_regex\": true}"
#define BPE_SPLIT(regex, behavior, invert)                                                \
    "{\"type\": \"Split\", \"pattern\": {" regex "}, \"behavior\": \"" behavior "\", " \
    "\"invert\": " invert "}"
#define BPE_LIST(parts) "{\"type\": \"Sequence\", \"pretokenizers\": [" parts "]}"
#define BPE_NUMBERS "\"Regex\": \"\\\\p{N}{1,3}\""
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "false") ", " BPE_LEVEL), LLM_OK,
         ""},
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Removed", "false") ", " BPE_LEVEL),
         LLM_ERR_UNSUPPORTED, "pre_tokenizer.behavior is Removed"},
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "true") ", " BPE_LEVEL),
         LLM_ERR_UNSUPPORTED, "pre_tokenizer.invert is true"},
        {BPE_LEVEL,
         BPE_LIST(BPE_SPLIT("\"Regex\": \"\\\\p{N}{1,2}\"", "Isolated", "false") ", " BPE_LEVEL),
         LLM_ERR_UNSUPPORTED, "pattern.Regex is \\\\p{N}{1,2}"},
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT("\"String\": \"a\"", "Isolated", "false") ", " BPE_LEVEL),
         LLM_ERR_UNSUPPORTED, "pattern.String is a"},
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT("", "Isolated", "false") ", " BPE_LEVEL),
         LLM_ERR_UNSUPPORTED, "pattern.Regex is missing"},
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "false")), LLM_ERR_UNSUPPORTED,
         "pre_tokenizer"},
        {BPE_LEVEL, BPE_LIST(BPE_LEVEL ", " BPE_SPLIT(BPE_NUMBERS, "Isolated", "false")),
         LLM_ERR_UNSUPPORTED, "pre_tokenizer"},
        {BPE_LEVEL, BPE_LIST(""), LLM_ERR_UNSUPPORTED, "pre_tokenizer"},
        {BPE_LEVEL, BPE_LIST(BPE_SPLIT(BPE_NUMBERS, "Isolated", "false")
                             ", {\"type\": \"ByteLevel\", \"add_prefix_space\": true}"),
         LLM_ERR_UNSUPPORTED, "add_prefix_space is true"},
        {"\"use_regex\": true", "\"other\": true", LLM_ERR_UNSUPPORTED,
         "pre_tokenizer.other is true"},
        {"\"add_prefix_space\": false, ", "", LLM_ERR_UNSUPPORTED, "add_prefix_space is missing"},
        {"\"post_processor\": {\"type\": \"ByteLevel\"",
         "\"post_processor\": {\"type\": \"TemplateProcessing\"", LLM_ERR_UNSUPPORTED,
         "post_processor"},
        {"\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"Metaspace\"",
         LLM_ERR_UNSUPPORTED, "decoder"},
        {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", LLM_ERR_UNSUPPORTED,
         "model.type is Unigram"},
        {"\"type\": \"BPE\",", "", LLM_OK, ""},
        {"\"dropout\": null", "\"dropout\": 0.1", LLM_ERR_UNSUPPORTED, "model.dropout is 0.1"},
        {"\"dropout\": null", "\"dropout\": 0.0", LLM_OK, ""},
        {"\"unk_token\": null", "\"unk_token\": \"x\"", LLM_OK, ""},
        {"\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"\"", LLM_OK, ""},
        {"\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"",
         LLM_ERR_UNSUPPORTED, "continuing_subword_prefix is ##"},
        {"\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", LLM_ERR_UNSUPPORTED,
         "end_of_word_suffix is </w>"},
        {"\"byte_fallback\": false", "\"byte_fallback\": true", LLM_ERR_UNSUPPORTED,
         "byte_fallback is true"},
        {"\"ignore_merges\": false", "\"ignore_merges\": 1", LLM_ERR_UNSUPPORTED,
         "ignore_merges is 1"},
        {"\"single_word\": false", "\"single_word\": 1", LLM_ERR_UNSUPPORTED,
         "single_word is 1"},
        {"\"<|endoftext|>\", \"single", "\"\", \"single", LLM_OK, ""},
        {"{\"id\": 260,", "{\"id\": 1000,", LLM_OK, ""},   /* it is the vocabulary's */
        {"{\"id\": 260,", "{\"id\": 1.5,", LLM_ERR_FORMAT, "<|endoftext|>: its id is no number"},
        {"\"content\": \"<|endoftext|>\"", "\"content\": \"<|other|>\"", LLM_OK, ""},
        {"{\"id\": 260, \"content\": \"<|endoftext|>\"", "{\"id\": 261, \"content\": \"<|other|>\"",
         LLM_OK, ""},
        {"{\"id\": 260, \"content\": \"<|endoftext|>\"", "{\"id\": 187, \"content\": \"\xc3\xbf\"",
         LLM_OK, ""},
        {"\"added_tokens\": [",
         "\"added_tokens\": [{\"id\": 260, \"content\": \"<|endoftext|>\"}, ", LLM_ERR_FORMAT,
         "added token 1 has been given before"},
        {"\"a\": 64", "\"a\": 65", LLM_ERR_FORMAT, "id 65 of \"b\" has been given before"},
        {"\"a\": 64", "\"a\": -1", LLM_ERR_FORMAT, "is -1, must be in"},
        {"\"a\": 64", "\"a\": 262", LLM_OK, ""},
        {"\"a\": 64", "\"a\": 10000", LLM_ERR_FORMAT, "is 10000, must be in"},
        {"\"a\": 64", "\"a\": \"64\"", LLM_ERR_FORMAT, "id of \"a\""},
        {"\"a\": 64", "\"zz\": 64", LLM_ERR_FORMAT, "merge 0: its first half"},
        {"\"~\": 93", "\"zz\": 93", LLM_OK, ""},
        {"\"~\": 93", "\"~\": 261", LLM_OK, ""},
        {"\"!\": 0", "\"!\": 0, \"!\": 1", LLM_ERR_FORMAT, "twice"},
        {"[\"a\", \"b\"]", "\"a b\"", LLM_OK, ""},
        {"[\"a\", \"b\"]", "\"ab\"", LLM_ERR_FORMAT, "merge 0 is not two strings"},
        {"[\"a\", \"b\"]", "\"a b c\"", LLM_ERR_FORMAT, "merge 0 is not two strings"},
        {"[\"a\", \"b\"]", "[\"a\", \"b\", \"c\"]", LLM_ERR_FORMAT, "merge 0 is not two strings"},
        {"[\"a\", \"b\"]", "[\"a\", 1]", LLM_ERR_FORMAT, "merge 0 is not two strings"},
        {"[\"a\", \"b\"]", "[\"a\", \"bb\"]", LLM_ERR_FORMAT, "merge 0: its second half"},
        {"[\"a\", \"b\"]", "[\"a\", \"d\"]", LLM_ERR_FORMAT, "merge 0: its result"},
        {"[\"a\", \"b\"]", "[\"a\", \"b\"], [\"a\", \"b\"]", LLM_ERR_FORMAT,
         "merge 1 has been given before"},
        {"\"merges\": [", "\"mergers\": [", LLM_ERR_UNSUPPORTED, "model.mergers"},
        {"\"vocab\": {", "\"vocab\": 3, \"vocab2\": {", LLM_ERR_UNSUPPORTED, "model.vocab2"},
        {"{\n  \"version\"", "[{\n  \"version\"", LLM_ERR_FORMAT, "at byte"}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) bpe_changed(&cases[i]);
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

/* single_word: no character of \\w (Unicode TR 18, annex C) before or behind */
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

static void run_bpe(void) {
    RUN(bpe_small);
    RUN(bpe_gpt2);
    RUN(bpe_train);
    RUN(bpe_long_words);
    RUN(bpe_any_bytes);
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
}

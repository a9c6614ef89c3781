/* Input that somebody has chosen so that it takes long: time must grow as its size does, or nearly.
 * Where the work cannot be counted it is done in a process of its own, which is ended after so many
 * seconds of computing that what takes a fraction of one is far from them, even emulated, and what
 * grows with the square is far beyond. */
#if LLMI_POSIX
  #include <sys/resource.h>
  #include <sys/wait.h>
#endif

/* the message of what is wrong, or NULL */
typedef const char *(*hostile_work)(void);

static void hostile_run(hostile_work work, unsigned seconds) {
#if LLMI_POSIX
    const struct rlimit limit = {seconds, seconds + 1};
    int status = 0;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        const char *wrong = setrlimit(RLIMIT_CPU, &limit) == 0 ? work() : "setrlimit";
        if (wrong) printf("  %s: %s\n", test_state.name, wrong);
        fflush(stdout);
        _exit(wrong != NULL);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_MSG(!WIFSIGNALED(status), "ended by signal %d, after %u s if that is SIGXCPU",
              WTERMSIG(status), seconds);
    CHECK_MSG(!WIFEXITED(status) || WEXITSTATUS(status) == 0, "a wrong result");
#else
    (void)work; (void)seconds;
    SKIP("there are no processes to be limited");
#endif
}

/* ---- a tokenizer.json, piece by piece -------------------------------------------------------- */
static void hostile_token(llmi_text *text, const char *bytes, size_t n) {
    llmi_text_add(text, "\"", 1);
    bpe_add_word(text, bytes, n);
    llmi_text_add(text, "\"", 1);
}
/* up to the vocabulary's 256 bytes, the ids 0 to 255; the added tokens are the caller's JSON */
static void hostile_begin(llmi_text *text, const char *added, size_t n_added) {
    int i;
    memset(text, 0, sizeof *text);
    llmi_text_format(text, "{\"version\":\"1.0\",\"added_tokens\":[");
    llmi_text_add(text, added, n_added);
    llmi_text_format(text, "],\"normalizer\":null,\"pre_tokenizer\":" BPE_LEVEL ",\"decoder\":"
                           BPE_LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (i = 0; i < 256; i++) {
        const char byte = (char)i;
        if (i) llmi_text_add(text, ",", 1);
        hostile_token(text, &byte, 1);
        llmi_text_format(text, ":%d", i);
    }
}
static void hostile_add(llmi_text *text, const char *bytes, size_t n, int id) {
    llmi_text_add(text, ",", 1);
    hostile_token(text, bytes, n);
    llmi_text_format(text, ":%d", id);
}
static const char *hostile_why(const llm_error *err) {
    static char message[sizeof err->message];
    memcpy(message, err->message, sizeof message);
    return message;
}
/* the end, and the tokenizer */
static llm_tokenizer *hostile_load(llmi_text *text, llm_error *err) {
    llm_tokenizer *t;
    llmi_text_format(text, "}}");
    t = llm_tokenizer_load_memory(text->data, text->size, NULL, err);
    llmi_text_free(text);
    return t;
}

/* ---- strings that collide -------------------------------------------------------------------- */
/* Of a hash of 8 bytes at a time, h = (h ^ word) * odd, h ^= h >> 32, without a secret, anybody can
 * solve for the second word: all these strings of 16 bytes have one hash of 64 bits. */
static void hostile_word(uint64_t i, char bytes[16]) {
    const uint64_t factor = UINT64_C(0x9E3779B97F4A7C15), first = i * factor + 12345;
    uint64_t hash = (17 * factor ^ first) * factor, second;
    hash ^= hash >> 32;
    second = hash ^ UINT64_C(0x0123456789ABCDEF);
    memcpy(bytes, &first, 8);
    memcpy(bytes + 8, &second, 8);
}
static const char *vocabulary_of_one_hash(void) {
    const int n = 150000;
    char bytes[16];
    llm_error err;
    llmi_text text;
    llm_tokenizer *t;
    int i, found = 0;
    hostile_begin(&text, "", 0);
    for (i = 0; i < n; i++) {
        hostile_word((uint64_t)i, bytes);
        hostile_add(&text, bytes, 16, 256 + i);
    }
    llmi_text_format(&text, "},\"merges\":[]");
    t = hostile_load(&text, &err);
    if (!t) return hostile_why(&err);
    for (i = 0; i < n; i += 99) {
        hostile_word((uint64_t)i, bytes);
        found += llm_tokenizer_token(t, bytes, 16) == 256 + i;
    }
    llm_tokenizer_free(t);
    return found == (n + 98) / 99 ? NULL : "tokens are not found";
}
TEST(hostile_vocabulary) { hostile_run(vocabulary_of_one_hash, 20); }

/* And with a secret that it only starts from: to flip bit 63 of one word flips the hash's bits 63
 * and 31, whatever it was, and the next word can flip them back. 12 such pairs: 4096 strings. */
TEST(hostile_vocabulary_for_any_secret) {
    enum { PAIRS = 12, N = 1 << PAIRS };
    char bytes[16 * PAIRS];
    llm_error err;
    llmi_text text;
    llm_tokenizer *t;
    long before;
    int i, j;
    hostile_begin(&text, "", 0);
    for (i = 0; i < N; i++) {
        memset(bytes, 'a', sizeof bytes);
        for (j = 0; j < PAIRS; j++) {
            if (!(i >> j & 1)) continue;
            bytes[16 * j + 7] = (char)('a' ^ 0x80);
            bytes[16 * j + 11] = (char)('a' ^ 0x80);
            bytes[16 * j + 15] = (char)('a' ^ 0x80);
        }
        hostile_add(&text, bytes, sizeof bytes, 256 + i);
    }
    llmi_text_format(&text, "},\"merges\":[]");
    before = compares;
    t = hostile_load(&text, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    CHECK_MSG(compares - before < 10 * N, "%ld comparisons for %d tokens", compares - before, N);
    llm_tokenizer_free(t);
}

/* pairs of ids, which are the file's to choose, whose products with the golden ratio are near each
 * other: in a table with open addressing, neighbours */
static const char *merges_of_neighbours(void) {
    enum { N = 100000, HALF = 28000, SLOTS = 1 << 18 };
    static int first[N], second[N];
    char name[24];
    llm_error err;
    llmi_text text;
    llm_tokenizer *t;
    int32_t token = -1;
    size_t count = 0;
    int i, j, n = 0;
    hostile_begin(&text, "", 0);
    for (i = 0; i < 2 * HALF; i++) {
        snprintf(name, sizeof name, "%c%07d", i < HALF ? 'a' : 'b', i % HALF);
        hostile_add(&text, name, 8, 256 + i);
    }
    for (i = 0; i < HALF && n < N; i++)
        for (j = 0; j < HALF && n < N; j++) {
            const uint64_t key = (uint64_t)(256 + i) << 32 | (uint64_t)(256 + HALF + j);
            if ((key * UINT64_C(0x9E3779B97F4A7C15) >> 32 & (SLOTS - 1)) >= 64) continue;
            first[n] = i;
            second[n] = j;
            snprintf(name, sizeof name, "a%07db%07d", i, j);
            hostile_add(&text, name, 16, 256 + 2 * HALF + n++);
        }
    llmi_text_format(&text, "},\"merges\":[");
    for (i = 0; i < n; i++)
        llmi_text_format(&text, "%s[\"a%07d\",\"b%07d\"]", i ? "," : "", first[i], second[i]);
    llmi_text_format(&text, "]");
    t = hostile_load(&text, &err);
    if (!t) return hostile_why(&err);
    if (n < N / 2) return "there are too few such pairs";
    /* no merges lead to its halves, so it stays eight letters and eight more */
    if (llm_tokenizer_encode(t, "a0000001", 8, 0, &token, 1, &count, &err) != LLM_OK || count != 8)
        return "encoding";
    llm_tokenizer_free(t);
    return NULL;
}
TEST(hostile_merges) { hostile_run(merges_of_neighbours, 20); }

/* ---- added tokens ---------------------------------------------------------------------------- */
/* n bytes, the piece again and again: are they so many tokens? */
static const char *hostile_encode(const char *added, size_t n_added, const char *piece, size_t n,
                                  size_t want) {
    char *text = (char *)malloc(n);
    llmi_text json;
    llm_error err;
    llm_tokenizer *t;
    size_t count = 0, i;
    hostile_begin(&json, added, n_added);
    llmi_text_format(&json, "},\"merges\":[]");
    t = hostile_load(&json, &err);
    if (!t) return hostile_why(&err);
    for (i = 0; i < n; i++) text[i] = piece[i % strlen(piece)];
    if (llm_tokenizer_encode(t, text, n, 0, NULL, 0, &count, &err) != LLM_OK)
        return hostile_why(&err);
    llm_tokenizer_free(t);
    free(text);
    return count == want ? NULL : "another number of tokens";
}
/* one that begins at every byte of the text, and never ends; with_short: and one that does */
static const char *hostile_long(int with_short) {
    enum { N = 500000 };
    static char added[N + 300];
    size_t n = (size_t)snprintf(added, sizeof added, "%s{\"id\":256,\"content\":\"",
                                with_short ? "{\"id\":257,\"content\":\"aa\"}," : "");
    memset(added + n, 'a', N);
    n += N;
    n += (size_t)snprintf(added + n, sizeof added - n, "b\"}");
    return hostile_encode(added, n, "a", N, with_short ? N / 2 : N);
}
static const char *long_added_token(void) { return hostile_long(0); }
static const char *long_and_short_added_tokens(void) { return hostile_long(1); }
TEST(hostile_added_token) { hostile_run(long_added_token, 20); }
TEST(hostile_added_tokens) { hostile_run(long_and_short_added_tokens, 20); }

/* a token of two spaces that takes in the white space behind it, at every two of the text */
static const char *spaces_that_strip(void) {
    static const char added[] = "{\"id\":256,\"content\":\"  \",\"rstrip\":true}";
    return hostile_encode(added, sizeof added - 1, " ", 500000, 250000);
}
TEST(hostile_strip) { hostile_run(spaces_that_strip, 20); }

/* saved in the order of their ids, sorted by their contents: the one the reverse of the other */
static const char *many_added_tokens(void) {
    enum { N = 600000 };
    llmi_text added, json;
    llm_error err;
    llm_tokenizer *t;
    int i;
    memset(&added, 0, sizeof added);
    for (i = 0; i < N; i++)
        llmi_text_format(&added, "%s{\"id\":%d,\"content\":\"x%07d\"}", i ? "," : "",
                         256 + N - 1 - i, i);
    hostile_begin(&json, added.data, added.size);
    llmi_text_free(&added);
    llmi_text_format(&json, "},\"merges\":[]");
    t = hostile_load(&json, &err);
    if (!t) return hostile_why(&err);
    llmi_bpe_write(&json, t);
    if (json.failed != LLM_OK) return "out of memory";
    llmi_text_free(&json);
    llm_tokenizer_free(t);
    return NULL;
}
TEST(hostile_number_of_added_tokens) { hostile_run(many_added_tokens, 20); }

/* ---- directories ----------------------------------------------------------------------------- */
#define HOSTILE_SHARDS 1024

/* an index and its shards, of n empty tensors each; the index goes from shard to shard */
static const char *hostile_directory(const char *name, int n) {
    const char *directory = files_directory(name);
    char file[64];
    llmi_text text, index;
    int i, j;
    memset(&text, 0, sizeof text);
    memset(&index, 0, sizeof index);
    llmi_text_format(&index, "{\"weight_map\":{");
    for (i = 0; i < HOSTILE_SHARDS; i++) {
        uint64_t length;
        text.size = 0;
        llmi_text_add(&text, "        {", 9);
        for (j = 0; j < n; j++)
            llmi_text_format(&text, "%s\"t%05d.%05d\":{\"dtype\":\"F32\",\"shape\":[0],"
                                    "\"data_offsets\":[0,0]}", j ? "," : "", j, i);
        llmi_text_add(&text, "}", 1);
        length = text.size - 8;
        memcpy(text.data, &length, 8);
        snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", i + 1, HOSTILE_SHARDS);
        files_write(directory, file, text.data, text.size);
    }
    for (j = 0; j < n; j++)
        for (i = 0; i < HOSTILE_SHARDS; i++)
            llmi_text_format(&index, "%s\"t%05d.%05d\":\"model-%05d-of-%05d.safetensors\"",
                             i + j ? "," : "", j, i, i + 1, HOSTILE_SHARDS);
    llmi_text_format(&index, "}}");
    files_write(directory, "model.safetensors.index.json", index.data, index.size);
    files_write(directory, "config.json", "{\"model_type\":\"gpt2\"}", 21);
    llmi_text_free(&text);
    llmi_text_free(&index);
    return directory;
}

TEST(hostile_shards) {
    const int n = 20;
    const char *directory = hostile_directory("hostile", n);
    const long before = compares;
    llm_error err;
    NOT_MADE(LLM_ERR_FORMAT, llm_model_load(directory, NULL, &err), "148 tensors", "20480 tensors");
    CHECK_MSG(compares - before < 100L * n * HOSTILE_SHARDS,
              "%ld comparisons for %d tensors in each of %d shards", compares - before, n,
              HOSTILE_SHARDS);
}

/* the directory of hostile_shards, and a file of many names, which is asked about each shard */
static const char *hostile_names(const char *file, const char *begin, const char *piece,
                                 const char *end, int n) {
    llmi_text text;
    llm_error err;
    llm_model *model;
    int i;
    memset(&text, 0, sizeof text);
    llmi_text_add(&text, begin, strlen(begin));
    for (i = 0; i < n; i++) {
        llmi_text_add(&text, piece, strlen(piece));
        llmi_text_format(&text, "%06d\"%s,", i, end);
    }
    llmi_text_format(&text, "\"\"%s", end[0] ? ":1}" : "]}");
    files_write(FILES "/hostile", file, text.data, text.size);
    llmi_text_free(&text);
    model = llm_model_load(FILES "/hostile", NULL, &err);
    return model ? "a model is made" : NULL;
}
static const char *long_config(void) {
    return hostile_names("config.json", "{\"model_type\":\"gpt2\",", "\"llm_h_generatio", ":1",
                         999999);
}
static const char *long_journal(void) {
    return hostile_names("model.save.json", "{\"remove\":[],\"files\":[",
                         "\"\\u006d\\u006f\\u0064el-0", "", 999999);
}
TEST(hostile_config) {
    (void)hostile_directory("hostile", 1);
    hostile_run(long_config, 20);
}
TEST(hostile_journal) {
    (void)hostile_directory("hostile", 1);
    hostile_run(long_journal, 8);
    (void)remove(FILES "/hostile/model.save.json");
}

/* ---- memory ---------------------------------------------------------------------------------- */
/* values of two or three bytes, keys of few letters: at most 12 bytes for each of the text */
TEST(hostile_json) {
    static const char *const pieces[] = {"1,", "[],", "{},", "\"\",", "[1],", "[[[[]]]],",
                                         "{\"\":1},", "{\"a\":1,\"b\":2,\"c\":[]},", "null,"};
    size_t k, i;
    for (k = 0; k <= sizeof pieces / sizeof pieces[0]; k++) {
        llmi_text text;
        llmi_json json;
        llm_error err;
        heap h;
        heap_init(&h);
        memset(&text, 0, sizeof text);
        if (k < sizeof pieces / sizeof pieces[0]) {
            llmi_text_add(&text, "[", 1);
            while (text.size < 300000) llmi_text_add(&text, pieces[k], strlen(pieces[k]));
            text.data[text.size - 1] = ']';
        } else {                       /* an object, whose keys are compared */
            llmi_text_add(&text, "{", 1);
            for (i = 0; i < 50000; i++) llmi_text_format(&text, "\"%lx\":1,", (unsigned long)i);
            text.data[text.size - 1] = '}';
        }
        CHECK_MSG(llmi_json_parse(&json, text.data, text.size, "text", &h.allocator, &err) ==
                      LLM_OK, "%s", err.message);
        CHECK_MSG(h.most <= 12 * text.size + 4096, "document %lu: %lu bytes for %lu of text",
                  (unsigned long)k, (unsigned long)h.most, (unsigned long)text.size);
        llmi_json_free(&json);
        CHECK(h.bytes == 0 && h.wrong == 0);
        llmi_text_free(&text);
    }
}

static void run_hostile(void) {
    RUN(hostile_vocabulary);
    RUN(hostile_vocabulary_for_any_secret);
    RUN(hostile_merges);
    RUN(hostile_added_token);
    RUN(hostile_added_tokens);
    RUN(hostile_strip);
    RUN(hostile_number_of_added_tokens);
    RUN(hostile_shards);
    RUN(hostile_config);
    RUN(hostile_journal);
    RUN(hostile_json);
}

/* Token files: >>data, written and read, and tools/tokenize.c, which is included with its main
 * renamed. Uses build/ for files. */
#define main tokenize_main
#include "../tools/tokenize.c"
#undef main

#define DATA(i) "build/test_data_" #i ".tok"

static int32_t data_token(int salt, int64_t i, int vocab) { /* what file `salt` holds at i */
    return (int32_t)(llm_random((uint64_t)salt, (uint64_t)i) % (uint64_t)vocab);
}
static int data_marked(int salt, int64_t i) {
    return llm_random((uint64_t)salt + 99, (uint64_t)i) % 3 == 0;
}

/* n tokens in calls of 1, 2, 3, .. tokens */
static llm_result data_write(const char *path, int salt, int64_t n, int vocab, int marks,
                             llm_error *err) {
    llm_data_writer *w = llm_data_writer_open(path, vocab, NULL, err);
    int32_t tokens[5000];
    unsigned char context[5000];
    llm_result result = w ? LLM_OK : err->code;
    int64_t at = 0, k, m = 1;
    while (result == LLM_OK && at < n) {
        m = n - at < m ? n - at : m;
        for (k = 0; k < m; k++) {
            tokens[k] = data_token(salt, at + k, vocab);
            context[k] = (unsigned char)(data_marked(salt, at + k) ? 1 + k % 255 : 0);
        }
        result = llm_data_writer_add(w, tokens, marks ? context : NULL, (size_t)m, err);
        at += m;
        m = m % 5000 + 1;
    }
    if (result == LLM_OK) result = llm_data_writer_finish(w, err);
    llm_data_writer_free(w);
    return result;
}

static llm_data_desc data_desc(int B, int T) {
    llm_data_desc d;
    memset(&d, 0, sizeof d);
    d.batch_size = B;
    d.seq_len = T;
    return d;
}

static llm_data *data_open(int n, const llm_data_desc *d, llm_error *err) {
    static const char *const paths[] = {DATA(0), DATA(1), DATA(2)};
    return llm_data_open(paths, n, d, err);
}

TEST(data_round_trip) {
    static const struct {
        int vocab, width;
        int64_t n;
    } cases[] = {{2, 2, 9},         {257, 2, 40000},    {32768, 2, 32769},
                 {32769, 4, 16385}, {129280, 4, 50000}, {INT32_MAX, 4, 100}};
    size_t c;
    int marks;
    for (c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (marks = 0; marks < 2; marks++) {
            const int T = 7, vocab = cases[c].vocab;
            const int64_t n = cases[c].n;
            llm_data_desc d = data_desc(1, T);
            llm_error err;
            llm_data *data;
            int64_t step, size = 0;
            int32_t tokens[7], targets[7];
            FILE *file;
            int wrong = 0, t;
            err.message[0] = 0;
            CHECK_MSG(data_write(DATA(0), (int)c, n, vocab, marks, &err) == LLM_OK, "%s",
                      err.message);
            CHECK(llmi_file_open(DATA(0), &file, &size, NULL) == LLM_OK);
            fclose(file);
            CHECK(size == 40 + n * cases[c].width);
            d.sequential = 1;
            data = data_open(1, &d, &err);
            CHECK_MSG(data != NULL, "%s", err.message);
            if (!data) continue;
            CHECK(llm_data_token_count(data) == n && llm_data_vocab_size(data) == vocab);
            CHECK(llm_data_window_count(data) == (n - 1) / T);
            CHECK(llm_data_verify(data, NULL) == LLM_OK);
            for (step = 0; step < llm_data_window_count(data); step++) {
                CHECK(llm_data_batch(data, step, tokens, targets, NULL) == LLM_OK);
                for (t = 0; t < T; t++) {
                    const int64_t at = step * T + t;
                    const int ignored = marks && data_marked((int)c, at + 1);
                    wrong += tokens[t] != data_token((int)c, at, vocab) ||
                             targets[t] !=
                                 (ignored ? LLM_IGNORE_INDEX : data_token((int)c, at + 1, vocab));
                }
            }
            CHECK_MSG(!wrong, "vocab %d: %d tokens or targets are wrong", vocab, wrong);
            llm_data_close(data);
        }
    CHECK(llm_data_token_count(NULL) == 0 && llm_data_window_count(NULL) == 0 &&
          llm_data_vocab_size(NULL) == 0);
    llm_data_close(NULL);
    llm_data_writer_free(NULL);
}

/* the bytes of the format, and the hash as the comment on the format has it */
TEST(data_format) {
    static const unsigned char want[] = {'l', 'l', 'm', '.', 't', 'o',  'k', 0, 1, 0, 0,
                                         0,   2,   0,   0,   0,   0x2c, 1,   0, 0, 0, 0,
                                         0,   0,   3,   0,   0,   0,    0,   0, 0, 0};
    static const unsigned char values[] = {5, 0, 0x2b, 0x81, 0, 0x80};
    const int32_t tokens[] = {5, 299, 0};
    const unsigned char context[] = {0, 1, 7};
    llm_data_writer *w = llm_data_writer_open(DATA(0), 300, NULL, NULL);
    void *bytes = NULL;
    size_t size = 0;
    CHECK(w && llm_data_writer_add(w, tokens, context, 1, NULL) == LLM_OK);
    CHECK(llm_data_writer_add(w, tokens + 1, context + 1, 2, NULL) == LLM_OK);
    CHECK(llm_data_writer_add(w, NULL, NULL, 0, NULL) == LLM_OK);
    CHECK(llm_data_writer_finish(w, NULL) == LLM_OK);
    llm_data_writer_free(w);
    CHECK(llmi_file_read(DATA(0), &bytes, &size, NULL, NULL) == LLM_OK);
    CHECK(size == 46 && !memcmp(bytes, want, sizeof want) &&
          !memcmp((char *)bytes + 40, values, 6));
    CHECK(llmi_get_little((unsigned char *)bytes + 32, 8) ==
          llmi_hash_add(llm_random(300, 2), values, 6));
    llmi_release(NULL, bytes);
}

/* windows of the split as (file, first token) in the order in which batches have them; -1 =
 * wrong */
static int64_t data_place(const int32_t *tokens, const int32_t *targets, const int64_t *n,
                          int n_files, int T, int vocab) {
    int64_t w;
    int f, t;
    for (f = 0; f < n_files; f++)
        for (w = 0; w < (n[f] - 1) / T; w++) {
            for (t = 0; t < T && tokens[t] == data_token(f, w * T + t, vocab) &&
                        targets[t] == data_token(f, w * T + t + 1, vocab);
                 t++) {}
            if (t == T) return f * 1000 + w;
        }
    return -1;
}

TEST(data_windows) { /* each once per epoch, in the order asked for; splits */
    static const int64_t n[3] = {100, 8, 61}; /* of T = 8: 12, 0 and 7 windows */
    enum { T = 8, W = 19, VOCAB = 50000 };
    static const float fractions[] = {0.0f, 0.1f, 0.25f, 0.5f, 0.9f};
    llm_error err;
    size_t k;
    int f, valid, sequential;
    for (f = 0; f < 3; f++)
        CHECK(data_write(f == 0   ? DATA(0)
                         : f == 1 ? DATA(1)
                                  : DATA(2),
                         f, n[f], VOCAB, 0, &err) == LLM_OK);
    for (k = 0; k < sizeof fractions / sizeof fractions[0]; k++)
        for (sequential = 0; sequential < 2; sequential++) {
            int seen[W], all = 0;
            memset(seen, 0, sizeof seen);
            for (valid = 0; valid < 2; valid++) {
                llm_data_desc d = data_desc(1, T);
                llm_data *data;
                int64_t orders[3][W], count, step, i;
                int epoch, differ = 0;
                d.sequential = sequential;
                d.seed = 3;
                d.valid_fraction = fractions[k];
                d.valid = valid;
                err.message[0] = 0;
                data = data_open(3, &d, &err);
                if (k == 0 && valid) {
                    CHECK_MSG(!data && err.code == LLM_ERR_ARGUMENT &&
                                  strstr(err.message, "validate"),
                              "%s", err.message);
                    continue;
                }
                CHECK_MSG(data != NULL, "%s", err.message);
                if (!data) continue;
                count = llm_data_window_count(data);
                CHECK(llm_data_token_count(data) == 169);
                CHECK(count == (valid ? (int64_t)(19 * (double)fractions[k] + 0.5)
                                      : 19 - (int64_t)(19 * (double)fractions[k] + 0.5)));
                all += (int)count;
                for (epoch = 0; epoch < 3; epoch++)
                    for (step = 0; step < count; step++) {
                        int32_t tokens[T], targets[T];
                        int64_t place;
                        CHECK(llm_data_batch(data, epoch * count + step, tokens, targets, NULL) ==
                              LLM_OK);
                        place = data_place(tokens, targets, n, 3, T, VOCAB);
                        CHECK_MSG(place >= 0, "step %d of epoch %d is no window", (int)step, epoch);
                        orders[epoch][step] = place;
                        for (i = 0; i < step; i++) CHECK(orders[epoch][i] != place); /* not twice */
                        if (sequential && step) CHECK(orders[epoch][step - 1] < place);
                        if (epoch == 0) {
                            const int w = (int)(place / 1000 ? 12 + place % 1000 : place);
                            CHECK(place / 1000 != 1 && w < W);
                            CHECK_MSG(!seen[w], "window %d is in both splits", w);
                            seen[w] = 1 + valid;
                        }
                        differ += orders[epoch][step] != orders[0][step];
                    }
                CHECK(sequential || count < 6 ? !sequential || !differ : differ > 0);
                llm_data_close(data);
            }
            CHECK(all == W);
            for (f = 0; k && f < 12; f++) CHECK(!f || seen[f] >= seen[f - 1]); /* the last ones */
            for (f = 13; k && f < W; f++) CHECK(seen[f] >= seen[f - 1]);
        }
}

/* Windows of T = 4 in a file of 41 tokens, token i being i + 1: of windows 0, 3 and 8, every target
 * is context only. */
TEST(data_skips_windows_without_targets) {
    static const int empty[10] = {1, 0, 0, 1, 0, 0, 0, 0, 1, 0};
    llm_data_desc d = data_desc(1, 4);
    llm_data_writer *w = llm_data_writer_open(DATA(0), 300, NULL, NULL);
    int32_t token, tokens[4], targets[4];
    unsigned char context;
    llm_error err;
    llm_data *data;
    int i, valid, sequential, seen[10];
    for (i = 0; i <= 40 && w; i++) {
        token = i + 1;
        context = i > 0 && empty[(i - 1) / 4];
        CHECK(llm_data_writer_add(w, &token, &context, 1, NULL) == LLM_OK);
    }
    CHECK(w && llm_data_writer_finish(w, NULL) == LLM_OK);
    llm_data_writer_free(w);
    data = data_open(1, &d, NULL);
    CHECK(llm_data_window_count(data) == 10 && llm_data_empty_count(data) == 0);
    llm_data_close(data);
    d.skip_empty = 1;
    d.valid_fraction = 0.3f;           /* windows 7, 8, 9 */
    for (valid = 0; valid < 2; valid++)
        for (sequential = 0; sequential < 2; sequential++) {
            const int n = valid ? 2 : 5, first = valid ? 7 : 0, end = valid ? 10 : 7;
            int last = -1;
            d.valid = valid;
            d.sequential = sequential;
            memset(seen, 0, sizeof seen);
            data = data_open(1, &d, &err);
            CHECK(llm_data_window_count(data) == n &&
                  llm_data_empty_count(data) == end - first - n);
            for (i = 0; i < 2 * n; i++) {
                int window;
                CHECK(llm_data_batch(data, i, tokens, targets, &err) == LLM_OK);
                window = (tokens[0] - 1) / 4;
                CHECK(tokens[0] == 4 * window + 1 && targets[3] == 4 * window + 5);
                if (window >= 0 && window < 10) seen[window]++;
                CHECK(!sequential || i == n || window > last);
                last = window;
            }
            for (i = 0; i < 10; i++)
                CHECK(seen[i] == (i >= first && i < end && !empty[i] ? 2 : 0));
            llm_data_close(data);
        }
    d.valid_fraction = 0.1f;           /* the last window alone */
    d.valid = 1;
    data = data_open(1, &d, &err);
    CHECK(llm_data_window_count(data) == 1 && llm_data_empty_count(data) == 0);
    llm_data_close(data);
    w = llm_data_writer_open(DATA(0), 300, NULL, NULL);
    for (i = 0, context = 1; i < 9 && w; i++)
        CHECK(llm_data_writer_add(w, &token, &context, 1, NULL) == LLM_OK);
    CHECK(w && llm_data_writer_finish(w, NULL) == LLM_OK);
    llm_data_writer_free(w);
    d.valid_fraction = 0.0f;
    d.valid = 0;
    NOT_MADE(LLM_ERR_ARGUMENT, data_open(1, &d, &err), "none of 2 windows", "test_data_0.tok");
    CHECK(llm_data_empty_count(NULL) == 0);
}

TEST(data_permutation) { /* of any size; every element gets to every place */
    uint64_t n, seed, i;
    for (n = 1; n < 300; n += n < 40 ? 1 : 37) {
        int counts[300], moved = 0, first = 0;
        memset(counts, 0, sizeof counts);
        for (i = 0; i < n; i++) {
            const uint64_t to = llmi_permute(i, n, 7);
            CHECK(to < n && !counts[to]);
            counts[to] = 1;
            moved += to != i;
        }
        CHECK_MSG(n < 10 || moved > (int)n / 2, "of %d, %d are not where they were", (int)n, moved);
        for (seed = 0; seed < 1000 && n == 5; seed++)
            first += llmi_permute(2, n, llm_random(1, seed)) == 3;
        CHECK_MSG(n != 5 || (first > 140 && first < 260), "2 goes to 3 %d times of 1000, not 200",
                  first);
    }
    for (i = 0; i < 1000; i++) CHECK(llmi_permute(i, UINT64_C(1) << 60, 3) < UINT64_C(1) << 60);
}

TEST(data_ranks) { /* together they have the batch of one; thread-safe, nothing kept */
    enum { T = 5, B = 3, RANKS = 4, VOCAB = 300 };
    llm_data_desc d = data_desc(B * RANKS, T);
    llm_data *one, *parts[RANKS], *other;
    int32_t tokens[B * RANKS * T], targets[B * RANKS * T], x[B * RANKS * T], y[B * RANKS * T];
    llm_error err;
    int step, r, same = 0;
    CHECK(data_write(DATA(0), 1, 1000, VOCAB, 1, &err) == LLM_OK);
    CHECK(data_write(DATA(1), 2, 500, VOCAB, 1, &err) == LLM_OK);
    d.seed = 11;
    one = data_open(2, &d, NULL);
    d.seed = 12;
    other = data_open(2, &d, NULL);
    d.seed = 11;
    d.batch_size = B;
    d.n_ranks = RANKS;
    for (r = 0; r < RANKS; r++) {
        d.rank = r;
        parts[r] = data_open(2, &d, NULL);
    }
    for (step = 59; step >= 0; step--) { /* several epochs of 298 windows, backwards */
        CHECK(llm_data_batch(one, step, tokens, targets, NULL) == LLM_OK);
        for (r = 0; r < RANKS; r++) {
            memset(x, -1, sizeof x);
            CHECK(llm_data_batch(parts[r], step, x + B * T, y + B * T, NULL) == LLM_OK);
            CHECK(!memcmp(x + B * T, tokens + r * B * T, B * T * sizeof *x));
            CHECK(!memcmp(y + B * T, targets + r * B * T, B * T * sizeof *x));
            CHECK(x[B * T - 1] == -1 && x[2 * B * T] == -1);
        }
        CHECK(llm_data_batch(other, step, x, y, NULL) == LLM_OK);
        same += !memcmp(x, tokens, sizeof x);
    }
    CHECK_MSG(same == 0, "%d of 60 batches do not depend on the seed", same);
    for (r = 0; r < RANKS; r++) llm_data_close(parts[r]);
    llm_data_close(one);
    llm_data_close(other);
}

TEST(data_fingerprint) {
    static const char *const paths[][2] = {
        {DATA(0), DATA(1)}, {DATA(1), DATA(0)}, {DATA(0), DATA(0)}};
    llm_data_desc d = data_desc(1, 4);
    uint64_t prints[6];
    llm_error err;
    int i, k;
    CHECK(data_write(DATA(0), 1, 100, 300, 0, &err) == LLM_OK);
    for (i = 0; i < 6; i++) { /* other order, other files, one token, one mark */
        llm_data *data;
        CHECK(data_write(DATA(1), i == 4 ? 3 : 2, i == 5 ? 101 : 100, 300, i == 3, &err) == LLM_OK);
        data = llm_data_open(paths[i < 3 ? i : 0], 2, &d, NULL);
        prints[i] = llm_data_fingerprint(data);
        llm_data_close(data);
        for (k = 0; k < i; k++) CHECK_MSG(prints[k] != prints[i], "%d and %d have the same", k, i);
    }
    CHECK(data_write(DATA(1), 2, 100, 300, 0, &err) == LLM_OK);
    d = data_desc(2, 9);
    d.seed = 5;
    {
        llm_data *data = llm_data_open(paths[0], 2, &d, NULL);
        CHECK(llm_data_fingerprint(data) == prints[0]);
        llm_data_close(data);
    }
}

static void data_put(const char *path, const void *bytes, size_t n) {
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, n, file) == n);
    if (file) fclose(file);
}

/* opening DATA(0) is refused with this code, and a message that names the file and contains part */
static void data_refused(const llm_data_desc *d, int n_paths, llm_result code, const char *part,
                         int line) {
    llm_error err;
    llm_data *data;
    memset(&err, 0, sizeof err);
    data = data_open(n_paths, d, &err);
    test_check(!data && err.code == code && strstr(err.message, part), __FILE__, line,
               "%s: code %d, message: %s", part, (int)err.code, err.message);
    llm_data_close(data);
}
#define DATA_REFUSED(d, n_paths, code, part) data_refused(d, n_paths, code, part, __LINE__)

TEST(data_hostile_files) {
    llm_data_desc d = data_desc(1, 4);
    unsigned char *bytes, longer[200];
    void *whole = NULL;
    size_t size = 0, at;
    llm_error err;
    llm_data *data;
    int32_t x[4] = {0}, y[4] = {0};
    int width;
    for (width = 2; width <= 4; width += 2) {
        const int vocab = width == 2 ? 300 : 100000;
        CHECK(data_write(DATA(0), 1, 30, vocab, 1, &err) == LLM_OK);
        CHECK(llmi_file_read(DATA(0), &whole, &size, NULL, NULL) == LLM_OK);
        bytes = (unsigned char *)whole;
        for (at = 0; at < size; at++) { /* cut short */
            data_put(DATA(0), bytes, at);
            DATA_REFUSED(&d, 1, LLM_ERR_FORMAT, "build/test_data_0.tok: ");
        }
        memcpy(longer, bytes, size); /* one byte too many */
        longer[size] = 0;
        data_put(DATA(0), longer, size + 1);
        DATA_REFUSED(&d, 1, LLM_ERR_FORMAT, "build/test_data_0.tok: truncated or damaged: ");
        for (at = 0; at < size; at++) { /* one bit: refused, or found out by verify */
            bytes[at] ^= 1;
            data_put(DATA(0), bytes, size);
            data = data_open(1, &d, &err);
            if (at >= 20 && at < 24)
                CHECK(data && llm_data_verify(data, &err) == LLM_OK); /* no meaning */
            else if (data)
                CHECK_MSG(at >= 16 && llm_data_verify(data, &err) == LLM_ERR_FORMAT &&
                              strstr(err.message, "test_data_0.tok"),
                          "the bit at %d was not noticed", (int)at);
            else
                CHECK(at < 32 && (err.code == LLM_ERR_FORMAT ||
                                  (err.code == LLM_ERR_UNSUPPORTED && at >= 8 && at < 12)));
            llm_data_close(data);
            bytes[at] ^= 1;
        }
        bytes[8] = 2;
        data_put(DATA(0), bytes, size);
        DATA_REFUSED(&d, 1, LLM_ERR_UNSUPPORTED, "version 2");
        bytes[8] = 1;
        memset(bytes + 24, 0xff, 8); /* a number of tokens whose size in bytes overflows */
        data_put(DATA(0), bytes, size);
        DATA_REFUSED(&d, 1, LLM_ERR_FORMAT, "18446744073709551615 tokens");
        llmi_put_little(bytes + 24, 30 + (UINT64_C(1) << 63), 8);
        data_put(DATA(0), bytes, size);
        DATA_REFUSED(&d, 1, LLM_ERR_FORMAT, "9223372036854775838 tokens");
        llmi_put_little(bytes + 24, 30, 8);
        llmi_put_little(bytes + 16, 0, 4);
        data_put(DATA(0), bytes, size);
        DATA_REFUSED(&d, 1, LLM_ERR_FORMAT, "vocab_size 0");
        llmi_put_little(bytes + 16, width == 2 ? 32769 : UINT64_C(1) << 31, 4);
        data_put(DATA(0), bytes, size);
        DATA_REFUSED(&d, 1, LLM_ERR_FORMAT,
                     width == 2 ? "vocab_size 32769" : "vocab_size 2147483648");
        llmi_put_little(bytes + 16, (uint64_t)vocab, 4);
        llmi_put_little(bytes + 40 + 13 * width, (uint64_t)vocab, width); /* token 13 of 30 */
        data_put(DATA(0), bytes, size);
        d.sequential = 1;
        data = data_open(1, &d, NULL);
        CHECK(data && llm_data_batch(data, 2, x, y, NULL) == LLM_OK);
        CHECK(data && llm_data_batch(data, 3, x, y, &err) == LLM_ERR_FORMAT &&
              err.code == LLM_ERR_FORMAT);
        CHECK_MSG(strstr(err.message, "build/test_data_0.tok: token 13 is ") &&
                      strstr(err.message, width == 2 ? "300" : "100000"),
                  "%s", err.message);
        llm_data_close(data);
        llmi_release(NULL, whole);
    }
    data_put(DATA(0), "", 0);
    DATA_REFUSED(&d, 1, LLM_ERR_FORMAT, "0 bytes");
    remove(DATA(0));
    DATA_REFUSED(&d, 1, LLM_ERR_IO, "build/test_data_0.tok: cannot open");
    {
        static const char *const directory[] = {"tests"};
        CHECK(!llm_data_open(directory, 1, &d, &err) && err.code == LLM_ERR_IO &&
              strstr(err.message, "tests"));
    }
    CHECK(data_write(DATA(0), 1, 30, 300, 0, &err) == LLM_OK &&
          data_write(DATA(1), 1, 30, 301, 0, &err) == LLM_OK);
    DATA_REFUSED(&d, 2, LLM_ERR_ARGUMENT,
                 "test_data_1.tok has vocab_size 301, but build/test_data_0.tok 300");
}

TEST(data_arguments) {
    static const char *const paths[] = {DATA(0), NULL};
    static const struct {
        int B, T, rank, n_ranks;
        float valid_fraction;
        const char *words;
    } bad[] = {{0, 4, 0, 0, 0.0f, "batch_size 0"}, {3, -1, 0, 0, 0.0f, "seq_len -1"},
               {65536, 65536, 0, 0, 0.0f, "65536"}, {3, 4, 0, -2, 0.0f, "n_ranks -2"},
               {3, 4, 1, 0, 0.0f, "rank 1"}, {3, 4, 4, 4, 0.0f, "[0, 3]"},
               {3, 4, -1, 4, 0.0f, "rank -1"}, {3, 4, 0, 0, 1.0f, "valid_fraction 1"},
               {3, 4, 0, 0, -0.1f, "valid_fraction -0.1"}, {3, 4, 0, 0, NAN, "valid_fraction"},
               {3, 30, 0, 0, 0.0f, "no window of 30 + 1 tokens"}};
    llm_data_desc d = data_desc(3, 4), good = d;
    llm_error err;
    llm_data *data;
    int32_t x[12], y[12];
    size_t i;
    CHECK(data_write(DATA(0), 1, 30, 300, 0, &err) == LLM_OK &&
          data_write(DATA(1), 1, 4, 300, 0, &err) == LLM_OK);
    CHECK(!llm_data_open(NULL, 1, &d, &err) && err.code == LLM_ERR_ARGUMENT);
    CHECK(!llm_data_open(paths, 2, &d, &err) && err.code == LLM_ERR_ARGUMENT &&
          strstr(err.message, "path 1"));
    CHECK(!llm_data_open(paths, 1, NULL, &err) && err.code == LLM_ERR_ARGUMENT);
    DATA_REFUSED(&d, 0, LLM_ERR_ARGUMENT, "n_paths 0");
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        d = data_desc(bad[i].B, bad[i].T);
        d.rank = bad[i].rank;
        d.n_ranks = bad[i].n_ranks;
        d.valid_fraction = bad[i].valid_fraction;
        DATA_REFUSED(&d, 1, LLM_ERR_ARGUMENT, bad[i].words);
    }
    d = good;
    d.seq_len = 29; /* just one, with or without a file that has none */
    data = data_open(2, &d, &err);
    CHECK(data && llm_data_window_count(data) == 1);
    llm_data_close(data);
    data = data_open(1, &good, &err);
    CHECK(data != NULL);
    CHECK(llm_data_batch(NULL, 0, x, y, &err) == LLM_ERR_ARGUMENT &&
          llm_data_batch(data, 0, NULL, y, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_data_batch(data, 0, x, NULL, &err) == LLM_ERR_ARGUMENT &&
          llm_data_verify(NULL, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_data_batch(data, -1, x, y, &err) == LLM_ERR_ARGUMENT &&
          strstr(err.message, "step -1"));
    CHECK(llm_data_batch(data, INT64_MAX / 3, x, y, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_data_batch(data, INT64_MAX / 3 - 1, x, y, &err) == LLM_OK);
    llm_data_close(data);
}

/* a file that cannot be mapped is read: the same tokens, and nothing stays */
TEST(data_not_mapped) {
#if LLMI_POSIX
    llm_data_desc d = data_desc(2, 5);
    int32_t tokens[10], targets[10], x[10], y[10];
    llm_data *mapped, *read;
    llm_error err;
    long live;
    int64_t step;
    int i, wrong = 0;
    CHECK(data_write(DATA(0), 1, 203, 300, 1, &err) == LLM_OK);
    CHECK(data_write(DATA(1), 2, 77, 300, 0, &err) == LLM_OK);
    mapped = data_open(2, &d, &err);
    live = default_heap.live;
    maps_fail = 1;
    read = data_open(2, &d, &err);
    CHECK(mapped && read && mapped->files[0].mapping && !read->files[0].mapping);
    CHECK(llm_data_verify(read, &err) == LLM_OK);
    CHECK(llm_data_token_count(read) == 280 && llm_data_window_count(read) == 40 + 15);
    CHECK(llm_data_fingerprint(read) == llm_data_fingerprint(mapped));
    for (step = 0; step < 60; step++) {
        CHECK(llm_data_batch(mapped, step, tokens, targets, &err) == LLM_OK);
        CHECK(llm_data_batch(read, step, x, y, &err) == LLM_OK);
        for (i = 0; i < 10; i++) wrong += x[i] != tokens[i] || y[i] != targets[i];
    }
    CHECK(!wrong);
    llm_data_close(read);
    CHECK(default_heap.live == live);
    /* the last window, by its definition */
    d = data_desc(1, 202);
    d.sequential = 1;
    {
        int32_t long_x[202], long_y[202];
        read = data_open(1, &d, &err);
        CHECK(llm_data_batch(read, 0, long_x, long_y, &err) == LLM_OK);
        for (i = 0; i < 202; i++) {
            const int ignored = data_marked(1, i + 1);
            wrong += long_x[i] != data_token(1, i, 300) ||
                     long_y[i] != (ignored ? LLM_IGNORE_INDEX : data_token(1, i + 1, 300));
        }
        CHECK(!wrong);
        llm_data_close(read);
    }
    EACH_ALLOCATION_FAILS_TO_MAKE(&default_heap, read, data_open(2, &d, &err));
    llm_data_close(read);
    maps_fail = 0;
    EACH_ALLOCATION_FAILS_TO_MAKE(&default_heap, read, data_open(2, &d, &err));
    llm_data_close(read);
    CHECK(default_heap.live == live);
    llm_data_close(mapped);
#else
    SKIP("nothing is mapped here");
#endif
}

TEST(data_writer) {
    const int32_t good[] = {1, 2, 3}, high[] = {1, 300}, low[] = {-1};
    llm_data_desc d = data_desc(1, 4);
    llm_error err;
    llm_data_writer *w;
    llm_data *data;
    uint64_t old;
    char temporary[LLMI_PATH + 32];
    heap h;
    CHECK(!llm_data_writer_open(NULL, 300, NULL, &err) && err.code == LLM_ERR_ARGUMENT);
    CHECK(!llm_data_writer_open(DATA(0), 0, NULL, &err) && err.code == LLM_ERR_ARGUMENT &&
          strstr(err.message, "vocab_size 0"));
    CHECK(!llm_data_writer_open("build/no/such/file.tok", 300, NULL, &err) &&
          err.code == LLM_ERR_IO && strstr(err.message, "no/such"));
    CHECK(llm_data_writer_add(NULL, good, NULL, 3, &err) == LLM_ERR_ARGUMENT &&
          llm_data_writer_finish(NULL, &err) == LLM_ERR_ARGUMENT);
    CHECK(data_write(DATA(0), 1, 50, 300, 1, &err) == LLM_OK);
    data = data_open(1, &d, NULL);
    old = llm_data_fingerprint(data);
    llm_data_close(data);
    w = llm_data_writer_open(DATA(0), 300, NULL, &err); /* refused tokens add nothing */
    CHECK(llm_data_writer_add(w, good, NULL, 3, &err) == LLM_OK);
    CHECK(llm_data_writer_add(w, high, NULL, 2, &err) == LLM_ERR_ARGUMENT &&
          strstr(err.message, "token 1 is 300") && strstr(err.message, "[0, 300)"));
    CHECK(llm_data_writer_add(w, low, NULL, 1, &err) == LLM_ERR_ARGUMENT &&
          llm_data_writer_add(w, NULL, NULL, 1, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_data_writer_add(w, good, NULL, 3, &err) == LLM_OK);
    data = data_open(1, &d, NULL); /* the old file is there until the end */
    CHECK(llm_data_fingerprint(data) == old && llm_data_token_count(data) == 50);
    CHECK(llm_data_writer_finish(w, &err) == LLM_OK);
    CHECK(llm_data_verify(data, NULL) == LLM_OK); /* and open, beyond it */
    llm_data_close(data);
    CHECK(llm_data_writer_add(w, good, NULL, 3, &err) == LLM_ERR_ARGUMENT &&
          llm_data_writer_finish(w, &err) == LLM_ERR_ARGUMENT);
    llm_data_writer_free(w);
    data = data_open(1, &d, NULL);
    CHECK(llm_data_token_count(data) == 6 && llm_data_fingerprint(data) != old);
    llm_data_close(data);
    w = llm_data_writer_open(DATA(0), 300, NULL, &err); /* abandoned: nothing has changed */
    CHECK(llm_data_writer_add(w, good, NULL, 3, &err) == LLM_OK);
    snprintf(temporary, sizeof temporary, "%s", w->out.temporary);
    CHECK(llmi_kind_of(temporary) != LLMI_NO_FILE);
    llm_data_writer_free(w);
    CHECK(llmi_kind_of(temporary) == LLMI_NO_FILE);
    data = data_open(1, &d, NULL);
    CHECK(llm_data_token_count(data) == 6 && llm_data_verify(data, NULL) == LLM_OK);
    llm_data_close(data);
    heap_init(&h);
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, w, llm_data_writer_open(DATA(1), 300, &h.allocator, &err));
    CHECK(llm_data_writer_finish(w, &err) == LLM_OK);
    llm_data_writer_free(w);
    CHECK(h.live == 0);
    data = data_open(2, &d, NULL); /* a file without a token */
    CHECK(llm_data_token_count(data) == 6 && llm_data_window_count(data) == 1 &&
          llm_data_verify(data, NULL) == LLM_OK);
    llm_data_close(data);
}

#if LLMI_POSIX && !defined(__APPLE__)
TEST(data_full_disk) { /* the old file stays, and no temporary one is left */
    static const rlim_t limits[] = {0, 39, 41, 70000, 100000, 199000};
    llm_data_desc d = data_desc(1, 4);
    struct rlimit limit, old_limit;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    char temporary[64];
    llm_error err;
    size_t i;
    snprintf(temporary, sizeof temporary, "%s", DATA(0) ".tmp");
    CHECK(data_write(DATA(0), 1, 50, 300, 1, &err) == LLM_OK);
    CHECK(getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
    for (i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        llm_result result;
        llm_data *data;
        limit = old_limit;
        limit.rlim_cur = limits[i];
        fflush(stdout);
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        memset(&err, 0, sizeof err);
        result = data_write(DATA(0), 2, 100000, 300, 0, &err);
        CHECK(setrlimit(RLIMIT_FSIZE, &old_limit) == 0);
        CHECK_MSG(result == LLM_ERR_IO && err.code == result &&
                      strstr(err.message, "test_data_0.tok"),
                  "full at %ld: result %d: %s", (long)limits[i], (int)result, err.message);
        CHECK(llmi_kind_of(temporary) == LLMI_NO_FILE);
        data = data_open(1, &d, &err);
        CHECK(llm_data_token_count(data) == 50 && llm_data_verify(data, NULL) == LLM_OK);
        llm_data_close(data);
    }
    signal(SIGXFSZ, handler);
}
#endif

/* ---- tools/tokenize.c ------------------------------------------------------------------------ */
#define DATA_TOKENIZER "build/test_data.json"

/* GPT-2's pattern, a few merges, and added tokens that make cutting hard; kind 1: a prefix space */
static llm_tokenizer *data_tokenizer(int kind) {
    size_t size = 0;
    char *json = bpe_json(
        "\"added_tokens\": [",
        "\"added_tokens\": [{\"id\": 261, \"content\": \"b c\", \"single_word\": false, "
        "\"lstrip\": false, "
        "\"rstrip\": false, \"normalized\": true, \"special\": false}, "
        "{\"id\": 262, \"content\": \"<r>\", \"single_word\": false, \"lstrip\": false, "
        "\"rstrip\": true, \"normalized\": false, \"special\": true}, "
        "{\"id\": 263, \"content\": \"<l>\", \"single_word\": false, \"lstrip\": true, "
        "\"rstrip\": false, \"normalized\": false, \"special\": false}, "
        "{\"id\": 264, \"content\": \"a\\n c\", \"single_word\": false, \"lstrip\": false, "
        "\"rstrip\": false, \"normalized\": false, \"special\": true}, ",
        &size);
    llm_error err;
    llm_tokenizer *t = llm_tokenizer_load_memory(json, size, NULL, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    free(json);
    if (t) t->add_prefix_space = kind;
    CHECK_MSG(t && llm_tokenizer_save(t, DATA_TOKENIZER, &err) == LLM_OK, "%s", err.message);
    return t;
}

static tokenize_job data_job(size_t part) {
    tokenize_job job;
    memset(&job, 0, sizeof job);
    job.tokenizer_path = DATA_TOKENIZER;
    job.out = DATA(0);
    job.eot = "<|endoftext|>";
    job.part = part;
    return job;
}

/* the tokens of DATA(0) are these, those with a mark context only; n >= 1. The first has no mark
 * here. */
static void data_expect(const int32_t *tokens, const unsigned char *marks, size_t n,
                        const char *what) {
    llmi_data_file f;
    llm_error err;
    size_t i, wrong = 0;
    err.message[0] = 0;
    memset(&f, 0, sizeof f);
    CHECK_MSG(llmi_data_file_open(&f, DATA(0), NULL, &err) == LLM_OK, "%s", err.message);
    CHECK_MSG(f.n == n, "%s: %d tokens, not %d", what, (int)f.n, (int)n);
    for (i = 0; i < n && f.n == n; i++)
        wrong += llmi_get_little(f.tokens + 2 * i, 2) !=
                 ((uint64_t)tokens[i] | (marks && marks[i] ? 0x8000u : 0));
    CHECK_MSG(!wrong, "%s: %d of %d tokens differ", what, (int)wrong, (int)n);
#if LLMI_POSIX
    if (f.mapping) munmap(f.mapping, f.size);
#endif
    llmi_release(NULL, f.memory);
}

TEST(data_tokenize_parts) { /* in parts of any size: the same tokens as in one */
    static const char *const pieces[] = {" ",
                                         " ",
                                         "  ",
                                         "\n",
                                         "\r\n",
                                         "\t",
                                         "a",
                                         "b",
                                         "c",
                                         "abc",
                                         "x",
                                         "'",
                                         "'s",
                                         "'ll",
                                         "7",
                                         "123",
                                         ".",
                                         "...\n",
                                         ";\n",
                                         "\xc2\xa0",
                                         "\xe3\x80\x80",
                                         "\xe3\x80\x80\xe3\x80\x80",
                                         "\xc3\xa9",
                                         "\xe4\xb8\xad",
                                         "\xe3\x80\x82\n",
                                         "\xff",
                                         "\x80",
                                         "\xe4\xb8",
                                         "\x1c",
                                         "\x0b",
                                         "b c",
                                         "b ",
                                         " c",
                                         "<r>",
                                         "<r> ",
                                         "<l>",
                                         " <l>",
                                         "<|endoftext|>",
                                         "<|end",
                                         "a\n c",
                                         "a\n"};
    static const size_t parts[] = {1, 3, 64, 1000, 4096};
    static char text[3000];
    static int32_t tokens[6001];
    const char *const path[] = {"build/test_data.txt"};
    int kind, special, round;
    size_t i, n;
    for (kind = 0; kind < 2; kind++) {
        llm_tokenizer *t = data_tokenizer(kind);
        for (round = 0; t && round < 10; round++) {
            uint64_t seed = (uint64_t)round, k = 0;
            const uint64_t few = round % 3 ? sizeof pieces / sizeof pieces[0] : 12;
            size_t count = 0;
            for (n = 0; n + 16 < sizeof text;) {
                const char *piece = pieces[llm_random(seed, k++) % few];
                memcpy(text + n, piece, strlen(piece));
                n += strlen(piece);
            }
            data_put(path[0], text, n);
            special = round & 1;
            CHECK(llm_tokenizer_encode(t, text, n, special, tokens, 6000, &count, NULL) == LLM_OK);
            tokens[count++] = 260;
            for (i = 0; i < sizeof parts / sizeof parts[0]; i++) {
                tokenize_job job = data_job(parts[i]);
                char what[60];
                job.special = special;
                CHECK_MSG(tokenize_run(&job, path, 1) == LLM_OK, "%s", job.error.message);
                snprintf(what, sizeof what, "prefix %d, round %d, parts of %d", kind, round,
                         (int)parts[i]);
                data_expect(tokens, NULL, count, what);
                CHECK(job.n_bytes == (int64_t)n && job.n_learned == job.n_tokens);
            }
            CHECK_MSG(last_cut(t, text, n, 0) > n - 300, "the last cut is %d before the end",
                      (int)(n - last_cut(t, text, n, 0)));
        }
        llm_tokenizer_free(t);
    }
}

/* A byte is a token: '!' is 0, ..; a new line 198, a blank 220; end of text 260. */
TEST(data_tokenize_documents) {
    const char *const paths[] = {"build/test_data.txt", "build/test_data_empty.txt",
                                 "build/test_data_more.txt"};
    static const int32_t apart[] = {87, 88, 260, 260, 89, 260}, joined[] = {87, 88, 89},
                         aligned[] = {87, 88, 260, 260, 260, 260, 260, 260, 89, 260, 260, 260, 260},
                         special[] = {87, 260, 262, 260};
    static const unsigned char marks[] = {1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1};
    static const char lines[] = "x\ty\\nz\nxx\t\\\\t\r\n\n\ty\\q z";
    static const int32_t pairs[] = {87, 88,  198, 89, 260, 87,  87, 59,
                                    83, 260, 88,  59, 80,  220, 89, 260};
    static const unsigned char prompts[] = {1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    static const char *const bad_lines[] = {"x\ty\nbad\n", "x\ty\nx\ty\tz", "x\ty\nz\\ty"};
    llm_data_desc d = data_desc(1, 4);
    tokenize_job job;
    llm_data *data;
    int32_t x[4] = {0}, y[4] = {0};
    size_t part, i;
    llm_tokenizer_free(data_tokenizer(0));
    data_put(paths[0], "xy", 2);
    data_put(paths[1], "", 0);
    data_put(paths[2], "z", 1);
    job = data_job(4);
    CHECK_MSG(tokenize_run(&job, paths, 3) == LLM_OK, "%s", job.error.message);
    data_expect(apart, NULL, 6, "three files");
    CHECK(job.n_tokens == 6 && job.n_learned == 6 && job.n_documents == 3 && job.n_bytes == 3);
    job = data_job(4);
    job.eot = "";
    CHECK(tokenize_run(&job, paths, 3) == LLM_OK);
    data_expect(joined, NULL, 3, "without an end of text");
    job = data_job(4);
    job.align = 4;
    CHECK(tokenize_run(&job, paths, 3) == LLM_OK);
    data_expect(aligned, marks, 13, "aligned");
    CHECK(job.n_tokens == 13 && job.n_learned == 3 && job.n_documents == 3);
    d.sequential = 1;
    data = data_open(1, &d, NULL);
    CHECK(llm_data_window_count(data) == 3 && llm_data_batch(data, 2, x, y, NULL) == LLM_OK);
    CHECK(x[0] == 89 && y[0] == 260 && y[1] == LLM_IGNORE_INDEX && y[3] == LLM_IGNORE_INDEX);
    llm_data_close(data);
    data_put(paths[0], "x<|endoftext|><r> \n", 19);
    job = data_job(100);
    job.special = 1;
    CHECK(tokenize_run(&job, paths, 1) == LLM_OK);
    data_expect(special, NULL, 4, "special tokens");
    for (part = 1; part < 40; part += 3) {
        data_put(paths[0], lines, sizeof lines - 1);
        job = data_job(part);
        job.tsv = 1;
        CHECK_MSG(tokenize_run(&job, paths, 1) == LLM_OK, "%s", job.error.message);
        data_expect(pairs, prompts, 16, "prompts and answers");
        CHECK(job.n_documents == 3 && job.n_learned == 13);
        for (i = 0; i < 3; i++) {
            data_put(paths[0], bad_lines[i], strlen(bad_lines[i]));
            job = data_job(part);
            job.tsv = 1;
            CHECK_MSG(tokenize_run(&job, paths, 1) == LLM_ERR_FORMAT &&
                          strstr(job.error.message, "test_data.txt: line 2 "),
                      "%s", job.error.message);
            data_expect(pairs, prompts, 16, "the old file");
        }
    }
    remove(paths[1]);
    job = data_job(4);
    CHECK(tokenize_run(&job, paths, 3) == LLM_ERR_IO &&
          strstr(job.error.message, "test_data_empty.txt"));
    job = data_job(4);
    job.eot = "<eos>";
    CHECK(tokenize_run(&job, paths, 1) == LLM_ERR_ARGUMENT &&
          strstr(job.error.message, "no token \"<eos>\""));
    job = data_job(4);
    job.eot = "";
    job.align = 2;
    CHECK(tokenize_run(&job, paths, 1) == LLM_ERR_ARGUMENT && strstr(job.error.message, "--eot"));
    job = data_job(4);
    job.tokenizer_path = "build/no_such.json";
    CHECK(tokenize_run(&job, paths, 1) == LLM_ERR_IO && strstr(job.error.message, "no_such.json"));
    job = data_job(4);
    job.out = "build/no/such/file.tok";
    CHECK(tokenize_run(&job, paths, 1) == LLM_ERR_IO && strstr(job.error.message, "no/such"));
    data_expect(pairs, prompts, 16, "the old file");
}

/* all that an open set of files takes comes from the desc's allocator, and goes back */
TEST(data_allocator) {
    llm_allocator allocator;
    llm_data_desc d;
    llm_data *data = NULL;
    llm_error err;
    heap h;
    heap_init(&h);
    CHECK(data_write(DATA(0), 0, 500, 300, 1, &err) == LLM_OK);
    memset(&d, 0, sizeof d);
    d.batch_size = 1;
    d.seq_len = 20;
    d.skip_empty = 1;
    allocator = h.allocator;
    d.allocator = &allocator;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, data, data_open(1, &d, &err));
    memset(&allocator, 0, sizeof allocator);       /* the struct was copied */
    CHECK(h.live > 0 && llm_data_window_count(data) > 0);
    llm_data_close(data);
    CHECK(h.live == 0);
}

/* Tokens in memory are a file of the same tokens, in all that can be seen of them. */
TEST(data_of_memory) {
    static const struct { int vocab, T; int64_t n; } cases[] = {
        {2, 4, 9}, {300, 7, 500}, {32768, 5, 400}, {32769, 5, 400}, {INT32_MAX, 3, 100},
        {70, 1, 2}, {70, 63, 70000}};
    size_t c;
    int how;
    for (c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (how = 0; how < 16; how++) {
            const int marks = how & 1, vocab = cases[c].vocab, T = cases[c].T, B = 1 + how % 3;
            const size_t n = (size_t)cases[c].n;
            int32_t *tokens = (int32_t *)plain_alloc(n * sizeof *tokens);
            unsigned char *context = (unsigned char *)plain_alloc(n);
            llm_data_desc d = data_desc(B, T);
            llm_data *of_file, *of_memory;
            llm_error err, file_err;
            size_t i;
            for (i = 0; i < n; i++) {
                tokens[i] = data_token((int)c, (int64_t)i, vocab);
                context[i] = (unsigned char)(data_marked((int)c, (int64_t)i) ? 1 + i % 255 : 0);
            }
            CHECK(data_write(DATA(0), (int)c, cases[c].n, vocab, marks, &err) == LLM_OK);
            d.seed = 5 + (uint64_t)how;
            d.sequential = how & 2;
            d.skip_empty = (how & 4) != 0;
            if (how & 8) {
                d.valid_fraction = 0.4f;
                d.valid = (how & 4) != 0;
                d.n_ranks = 2;
                d.rank = 1;
            }
            memset(&err, 0, sizeof err);
            memset(&file_err, 0, sizeof file_err);
            of_file = data_open(1, &d, &file_err);
            of_memory = llm_data_open_memory(tokens, marks ? context : NULL, n, vocab, &d, &err);
            CHECK_MSG(!of_file == !of_memory && err.code == file_err.code,
                      "case %d, %d: of a file %d, of memory %d: %s", (int)c, how, file_err.code,
                      err.code, err.message);
            memset(tokens, 0x7f, n * sizeof *tokens);      /* they were copied */
            memset(context, 1, n);
            if (of_file && of_memory) {
                int64_t step;
                CHECK(llm_data_window_count(of_file) == llm_data_window_count(of_memory) &&
                      llm_data_token_count(of_file) == llm_data_token_count(of_memory) &&
                      llm_data_vocab_size(of_memory) == vocab);
                CHECK(llm_data_fingerprint(of_file) == llm_data_fingerprint(of_memory));
                CHECK(llm_data_verify(of_memory, &err) == LLM_OK);
                for (step = 0; step < 40; step++) {
                    int32_t x[2][3 * 63], y[2][3 * 63];
                    CHECK(llm_data_batch(of_file, step, x[0], y[0], NULL) == LLM_OK &&
                          llm_data_batch(of_memory, step, x[1], y[1], NULL) == LLM_OK);
                    CHECK_MSG(!memcmp(x[0], x[1], (size_t)(B * T) * 4) &&
                                  !memcmp(y[0], y[1], (size_t)(B * T) * 4),
                              "case %d, %d: step %d differs", (int)c, how, (int)step);
                }
                ((unsigned char *)of_memory->files[0].memory)[n / 2] ^= 1;
                REFUSED(LLM_ERR_FORMAT, llm_data_verify(of_memory, &err), "hash");
            }
            llm_data_close(of_file);
            llm_data_close(of_memory);
            free(tokens);
            free(context);
        }
}
TEST(data_of_memory_refused) {
    int32_t tokens[40];
    llm_data_desc d = data_desc(2, 4);
    llm_allocator allocator;
    llm_data *data = NULL;
    llm_error err;
    heap h;
    int i;
    random_tokens(tokens, 40, 9, 1);
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(NULL, NULL, 40, 9, &d, &err), "NULL");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, SIZE_MAX, 9, &d, &err), "large");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, 40, 9, NULL, &err), "NULL");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, 40, 0, &d, &err), "vocab_size",
             "0");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, 40, -1, &d, &err), "vocab_size",
             "-1");
    for (i = 0; i < 5; i++)            /* not one window */
        NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(i ? tokens : NULL, NULL, (size_t)i, 9, &d,
                                                        &err), "window");
    tokens[13] = 9;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, 40, 9, &d, &err), "13", "9");
    tokens[13] = -1;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, 40, 9, &d, &err), "13", "-1");
    tokens[13] = 1;
    for (i = 0; i < 4; i++) {
        static const char *const words[] = {"batch_size", "seq_len", "valid_fraction", "rank"};
        d = data_desc(2, 4);
        if (i == 0) d.batch_size = 0;
        if (i == 1) d.seq_len = -3;
        if (i == 2) d.valid_fraction = 1.5f;
        if (i == 3) d.rank = 1;
        NOT_MADE(LLM_ERR_ARGUMENT, llm_data_open_memory(tokens, NULL, 40, 9, &d, &err), words[i]);
    }
    heap_init(&h);
    allocator = h.allocator;
    d = data_desc(2, 4);
    d.skip_empty = 1;
    d.allocator = &allocator;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, data,
                                  llm_data_open_memory(tokens, NULL, 40, 9, &d, &err));
    memset(&allocator, 0, sizeof allocator);
    CHECK(llm_data_window_count(data) == 9 && llm_data_batch(data, 0, tokens, tokens + 8, NULL) ==
                                                  LLM_OK);
    llm_data_close(data);
    CHECK(h.live == 0 && h.wrong == 0);
}

static void run_data(void) {
    RUN(data_round_trip);
    RUN(data_allocator);
    RUN(data_format);
    RUN(data_windows);
    RUN(data_skips_windows_without_targets);
    RUN(data_permutation);
    RUN(data_ranks);
    RUN(data_fingerprint);
    RUN(data_hostile_files);
    RUN(data_arguments);
    RUN(data_not_mapped);
    RUN(data_writer);
    RUN(data_of_memory);
    RUN(data_of_memory_refused);
#if LLMI_POSIX && !defined(__APPLE__)
    RUN(data_full_disk);
#endif
    RUN(data_tokenize_parts);
    RUN(data_tokenize_documents);
}

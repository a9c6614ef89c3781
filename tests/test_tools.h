/* Tools that several files of tests use: memory, comparisons, refusals, noise, goldens, models. */
#ifndef TEST_TOOLS_H
#define TEST_TOOLS_H

/* ---- memory ---------------------------------------------------------------------------------- */
/* a buffer of floats stands between guards, and its start is aligned to nothing but a float */
#if defined(__SANITIZE_ADDRESS__)
  #define GUARD_AFTER 0                /* so that the sanitizer sees what is read past the end */
#elif defined(__has_feature)
  #if __has_feature(address_sanitizer)
    #define GUARD_AFTER 0
  #endif
#endif
#ifndef GUARD_AFTER
  #define GUARD_AFTER 19
#endif
#define GUARD_BEFORE 17

static const uint32_t guard_bits = 0x7fc0beefu;    /* a NaN: whoever reads it has a wrong result */

static void *plain_alloc(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (!memory) {
        fprintf(stderr, "the tests are out of memory\n");
        exit(2);
    }
    return memory;
}
/* n floats that nobody has written yet: each is guard_bits */
static float *floats(size_t n) {
    size_t i = GUARD_BEFORE + n + GUARD_AFTER;         /* never 0 */
    float *raw = (float *)plain_alloc(i * sizeof(float));
    do memcpy(raw + --i, &guard_bits, sizeof(float));
    while (i);
    memcpy(raw, &n, sizeof n);
    return raw + GUARD_BEFORE;
}
static int unwritten(const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        if (memcmp(x + i, &guard_bits, sizeof(float)) != 0) return 0;
    return 1;
}
static void drop(float *x) {
    const size_t head = sizeof(size_t) / sizeof(float);
    size_t n;
    float *raw;
    if (!x) return;
    raw = x - GUARD_BEFORE;
    memcpy(&n, raw, sizeof n);
    CHECK_MSG(unwritten(raw + head, GUARD_BEFORE - head),
              "something was written before a buffer of %lu floats", (unsigned long)n);
    CHECK_MSG(unwritten(x + n, GUARD_AFTER), "something was written behind a buffer of %lu floats",
              (unsigned long)n);
    free(raw);
}
static float *filled(size_t n, float value) {
    float *x = floats(n);
    size_t i;
    for (i = 0; i < n; i++) x[i] = value;
    return x;
}
static float *copied(const float *from, size_t n) {
    float *x = floats(n);
    if (n) memcpy(x, from, n * sizeof(float));
    return x;
}
static double *doubles(size_t n) {
    double *x = (double *)plain_alloc(n * sizeof(double));
    size_t i;
    for (i = 0; i < n; i++) x[i] = 0.0;
    return x;
}
static double *widened(const float *from, size_t n) {
    double *x = doubles(n);
    size_t i;
    for (i = 0; i < n; i++) x[i] = (double)from[i];
    return x;
}
static float *new_floats(size_t n) { return (float *)calloc(n ? n : 1, sizeof(float)); }

/* An allocator that counts, checks what is released, fills what it gives with NaN, aligns to
 * nothing, and fails when asked to. */
typedef struct heap {
    long live, calls, fail_at;         /* fail_at: the number of the call that fails, -1 = none */
    long failed;                       /* calls that failed since heap_fail */
    size_t bytes, most;                /* that it has given, now and at most */
    size_t limit, largest;             /* requests above limit fail; the largest one so far */
    int wrong;                         /* releases of what was not given, or of another size */
    llm_allocator allocator;
} heap;
typedef struct heap_block { char *raw; size_t size; const void *owner; } heap_block;

/* threads wait for each other here */
#if defined(__GNUC__) && !defined(__TINYC__)
static char heap_busy;
static void heap_enter(void) {
    while (__atomic_test_and_set(&heap_busy, __ATOMIC_ACQUIRE)) {}
}
static void heap_leave(void) { __atomic_clear(&heap_busy, __ATOMIC_RELEASE); }
#else
static void heap_enter(void) {}
static void heap_leave(void) {}
#endif

/* what is fresh is no number as a float, and far too large as a whole number */
static void *heap_allocate(size_t size, void *user) {
    static const char poison[4] = {(char)0xc0, 0x7f, (char)0xc0, 0x7f};
    size_t at;
    heap *h = (heap *)user;
    heap_block block;
    char *memory;
    int fails;
    heap_enter();
    if (size > h->largest) h->largest = size;
    fails = h->calls++ == h->fail_at || size > h->limit;
    h->failed += fails;
    heap_leave();
    block.raw = fails ? NULL : (char *)malloc(size + sizeof block + 64);
    if (!block.raw) return NULL;
    block.size = size;
    block.owner = h;
    memory = block.raw + sizeof block + 1 + size * 7 % 61;
    memcpy(memory - sizeof block, &block, sizeof block);
    for (at = 0; at < size; at++) memory[at] = poison[(uintptr_t)(memory + at) % 4];
    heap_enter();
    h->live++;
    h->bytes += size;
    if (h->bytes > h->most) h->most = h->bytes;
    heap_leave();
    return memory;
}
static void heap_release(void *memory, size_t size, void *user) {
    heap *h = (heap *)user;
    heap_block block;
    memcpy(&block, (char *)memory - sizeof block, sizeof block);
    heap_enter();
    h->wrong += block.owner != h || block.size != size;
    h->live--;
    h->bytes -= size;
    heap_leave();
    if (block.owner == h) free(block.raw);
}
static void heap_init(heap *h) {
    memset(h, 0, sizeof *h);
    h->fail_at = -1;
    h->limit = (size_t)1 << 32;
    h->allocator.allocate = heap_allocate;
    h->allocator.release = heap_release;
    h->allocator.user = h;
}

/* llm.h's own, where it is given no allocator: main.c makes them LLM_MALLOC and LLM_FREE */
static heap default_heap = {0, 0, -1, 0, 0, 0, SIZE_MAX / 2, 0, 0, {NULL, NULL, NULL}};
static void *default_allocate(size_t size) { return heap_allocate(size, &default_heap); }
static void default_release(void *memory) {
    heap_block block;
    memcpy(&block, (char *)memory - sizeof block, sizeof block);
    heap_release(memory, block.size, &default_heap);
}

/* Checks a call during which allocation number h->fail_at was to fail. Where it came to that, the
 * call must have said so, and `live` blocks must be left; where it asked for memory less often, it
 * must have succeeded. -> did it succeed? */
static int heap_survived(const heap *h, llm_result result, const llm_error *err, long live,
                         const char *call) {
    if (!h->failed) {
        CHECK_MSG(result == LLM_OK, "%s: %s", call, err->message);
        return 1;
    }
    CHECK_MSG(result == LLM_ERR_MEMORY && err->code == result && err->message[0],
              "%s, allocation %ld fails: result %d, code %d, '%s'", call, h->fail_at, (int)result,
              (int)err->code, err->message);
    CHECK_MSG(h->live == live && !h->wrong, "%s, allocation %ld fails: %ld blocks left, %d wrong",
              call, h->fail_at, h->live - live, h->wrong);
    return 0;
}
/* a call with `&err` among its arguments, its first allocation from h failing, then its second,
 * until none does */
#define EACH_ALLOCATION_FAILS(h, call)                                      \
    do {                                                                    \
        const long live_ = (h)->live;                                       \
        llm_result result_;                                                 \
        (h)->fail_at = -1;                                                  \
        do {                                                                \
            (h)->fail_at++;                                                 \
            (h)->calls = (h)->failed = 0;                                   \
            memset(&err, 0, sizeof err);                                    \
            result_ = (call);                                               \
        } while (!heap_survived(h, result_, &err, live_, #call) &&          \
                 (h)->fail_at < 3000);                                      \
        CHECK_MSG((h)->fail_at > 0, "%s: it allocates nothing", #call);     \
        (h)->fail_at = -1;                                                  \
    } while (0)
/* the same for a function that creates, whose result goes to `made` */
#define EACH_ALLOCATION_FAILS_TO_MAKE(h, made, create)                      \
    EACH_ALLOCATION_FAILS(h, ((made) = (create)) != NULL ? LLM_OK : err.code)

/* vocab.json and merges.txt from memory */
static llm_tokenizer *tokenizer_of(const void *vocabulary, size_t n, const void *merges, size_t m,
                                   const llm_allocator *allocator, llm_error *err) {
    llmi_bytes files[2];
    files[0].name = "vocab.json";
    files[0].data = vocabulary;
    files[0].size = n;
    files[1].name = "merges.txt";
    files[1].data = merges;
    files[1].size = m;
    return llmi_tokenizer_read(&files[0], &files[1], NULL, 0, allocator, err);
}

/* The files of a tokenizer's directory: tokenizer.json, or the pair vocab.json and merges.txt; then
 * those beside it, as llmi_side_names has them. */
enum { TOKENIZER_FILES = 2 + LLMI_N_BESIDE };
static const char *tokenizer_file_name(int file, int is_pair) {
    return file > 1 ? llmi_side_names[file - 2] : file ? "merges.txt"
           : is_pair ? "vocab.json" : "tokenizer.json";
}
/* a directory from memory: data is NULL where there is no such file */
static llm_tokenizer *tokenizer_of_files(llmi_bytes files[TOKENIZER_FILES],
                                         const llm_allocator *allocator, llm_error *err) {
    int i;
    for (i = 0; i < TOKENIZER_FILES; i++)
        files[i].name = tokenizer_file_name(i, files[1].data != NULL);
    return llmi_tokenizer_read(&files[0], files[1].data ? &files[1] : NULL, &files[2], 0, allocator,
                               err);
}

/* ---- comparisons ----------------------------------------------------------------------------- */
/* max|a-b| / max|b|; infinite where a is not finite */
static double relative_error(const float *a, const float *b, size_t n) {
    double difference = 0.0, size = 1e-30;
    size_t i;
    for (i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= 1e300)) return HUGE_VAL;
        if (d > difference) difference = d;
        if (fabs((double)b[i]) > size) size = fabs((double)b[i]);
    }
    return difference / size;
}
static int same_bits(const float *a, const float *b, size_t n) {
    return n == 0 || memcmp(a, b, n * sizeof *a) == 0;
}

/* |got - want| <= absolute + relative |want| everywhere; NaN and infinities where they are
 * wanted */
#define CHECK_CLOSE(got, want, n, absolute, relative, label) \
    check_close(__FILE__, __LINE__, got, want, n, absolute, relative, label)
static void check_close(const char *file, int line, const float *got, const double *want, size_t n,
                        double absolute, double relative, const char *label) {
    double excess = 0.0;
    size_t i, at = n;
    for (i = 0; i < n; i++) {
        const double g = (double)got[i], w = want[i];
        double e = fabs(g - w) / (absolute + relative * fabs(w));
        if (w != w) e = g != g ? 0.0 : HUGE_VAL;
        else if (g == w) e = 0.0;
        else if (!(e >= 0.0)) e = HUGE_VAL;
        if (e > excess) {
            excess = e;
            at = i;
        }
    }
    test_check(excess <= 1.0, file, line,
               "%s: value %lu of %lu is %.9g, not %.9g (%.2g times the tolerance)", label,
               (unsigned long)at, (unsigned long)n, at < n ? (double)got[at] : 0.0,
               at < n ? want[at] : 0.0, excess);
}
static double largest(const double *x, size_t n) {
    double most = 0.0;
    size_t i;
    for (i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    return most;
}

/* d loss / dx by a central difference, and a whole gradient checked against it */
static double slope(double (*loss)(void *argument), void *argument, double *x, double step) {
    const double value = *x;
    double above, below;
    *x = value + step;
    above = loss(argument);
    *x = value - step;
    below = loss(argument);
    *x = value;
    return (above - below) / (2.0 * step);
}
static void check_slopes(double (*loss)(void *argument), void *argument, double *x,
                         const double *gradient, size_t n, const char *label) {
    size_t i;
    for (i = 0; i < n; i++) {
        const double s = slope(loss, argument, x + i, 1e-5);
        CHECK_MSG(fabs(s - gradient[i]) <= 1e-7 * (1.0 + fabs(s)),
                  "oracle of %s: derivative %lu is %.10g, slope %.10g", label, (unsigned long)i,
                  gradient[i], s);
    }
}

/* ---- refusals -------------------------------------------------------------------------------- */
/* A call with `&err` among its arguments fails with this code, and says so in a message that
 * holds every one of the words. NOT_MADE: the same for a function that creates. */
static void check_refused(llm_result result, llm_result code, const llm_error *err,
                          const char *const *words, const char *call) {
    CHECK_MSG(result == code && err->code == code, "%s: result %d, err.code %d instead of %d", call,
              (int)result, (int)err->code, (int)code);
    CHECK_MSG(memchr(err->message, 0, sizeof err->message) != NULL && err->message[0] != 0,
              "%s: no message", call);
    for (; *words; words++)
        CHECK_MSG(strstr(err->message, *words) != NULL, "%s: '%s' is not in the message '%s'", call,
                  *words, err->message);
}
#define REFUSED(want, call, ...)                                            \
    do {                                                                    \
        const char *const words_[] = {__VA_ARGS__, NULL};                   \
        llm_result result_;                                                 \
        memset(&err, 0, sizeof err);                                        \
        result_ = (call);                                                   \
        check_refused(result_, want, &err, words_, #call);                  \
    } while (0)
#define NOT_MADE(want, create, ...) REFUSED(want, (create) == NULL ? err.code : LLM_OK, __VA_ARGS__)

static llm_session *session_of(const llm_model *model, const llm_session_desc *desc) {
    llm_error err;
    llm_session *session = llm_session_create(model, desc, &err);
    CHECK_MSG(session != NULL, "%s", err.message);
    return session;
}

/* A value of one field of a struct, and words of the message that refuses it: the field's name; of
 * BOUNDED, the value, too, and the bound, if it is not NULL. */
typedef struct field_value {
    size_t offset;
    int is_float;
    double value;
    const char *words[3];
} field_value;
#define WHOLE(type, field, v) {offsetof(type, field), 0, v, {#field, NULL, NULL}}
#define REAL(type, field, v) {offsetof(type, field), 1, v, {#field, NULL, NULL}}
#define BOUNDED(type, field, v, bound) {offsetof(type, field), 0, v, {#field, #v, bound}}
#define WORDS(v) (v).words[0], (v).words[1], (v).words[2]
static void set_field(void *object, const field_value *v) {
    const int whole = v->is_float ? 0 : (int)v->value;
    const float real = (float)v->value;
    memcpy((char *)object + v->offset, v->is_float ? (const void *)&real : (const void *)&whole, 4);
}

/* ---- noise ----------------------------------------------------------------------------------- */
/* the generator of Steele, Lea and Flood as Vigna wrote it down: with a state, one output after the
 * other */
static uint64_t plain_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
/* mean 0, the given deviation, at most 3.5 of them */
static double plain_noise(uint64_t *state, double deviation) {
    double sum = 0.0;
    int i;
    for (i = 0; i < 4; i++) sum += (double)(plain_random(state) >> 11) / 9007199254740992.0 - 0.5;
    return deviation * sum * sqrt(3.0);
}
static float *noise(size_t n, double deviation, uint64_t seed) {
    float *x = floats(n);
    uint64_t state = seed * UINT64_C(0x5851f42d4c957f2d);
    size_t i;
    for (i = 0; i < n; i++) x[i] = (float)plain_noise(&state, deviation);
    return x;
}

static void random_tokens(int32_t *tokens, size_t n, int vocab, uint64_t seed) {
    size_t i;
    for (i = 0; i < n; i++) tokens[i] = (int32_t)(llm_random(seed, i) % (uint64_t)vocab);
}
static void random_batch(int32_t *tokens, int32_t *targets, size_t n, int vocab, double ignored,
                         uint64_t seed) {
    size_t i;
    random_tokens(tokens, n, vocab, seed);
    random_tokens(targets, n, vocab, seed + 1000);
    for (i = 0; i < n; i++)
        if ((double)llm_random_uniform(seed + 2000, i) < ignored) targets[i] = LLM_IGNORE_INDEX;
    targets[n / 2] = 0;                /* one is valid at least */
}

#ifndef TEST_DATA
  #define TEST_DATA "tests/data"
#endif
/* ---- goldens: a reader of safetensors that shares nothing with llm.h's ----------------------- */
typedef struct golden {
    char *bytes;                       /* the whole file; NULL if it could not be read */
    size_t data;                       /* where the tensors' bytes start                */
} golden;
typedef struct golden_tensor {
    size_t count;                      /* 0: there is no such tensor */
    int dims[4];
    const float *f;                    /* whichever fits the type    */
    const int32_t *i;
} golden_tensor;

static golden golden_open(const char *directory, const char *file) {
    golden g = {NULL, 0};
    char path[512];
    FILE *in;
    long size = 0;
    snprintf(path, sizeof path, "%s/%s%s%s", TEST_DATA, directory, *directory ? "/" : "", file);
    in = fopen(path, "rb");
    if (in && fseek(in, 0, SEEK_END) == 0) size = ftell(in);
    if (in && size > 8) {
        g.bytes = (char *)malloc((size_t)size);
        rewind(in);
        if (g.bytes && fread(g.bytes, 1, (size_t)size, in) != (size_t)size) {
            free(g.bytes);
            g.bytes = NULL;
        }
    }
    if (in) fclose(in);
    if (g.bytes) {
        uint64_t header;
        memcpy(&header, g.bytes, 8);
        g.data = 8 + (size_t)header;
        g.bytes[g.data - 1] = 0;       /* the header's last byte is } or a space */
    }
    CHECK_MSG(g.bytes != NULL, "%s cannot be read", path);
    return g;
}
static void golden_close(golden *g) {
    free(g->bytes);
    g->bytes = NULL;
}
/* the header of our own files is compact JSON:
 * "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]} */
static golden_tensor golden_get(const golden *g, const char *name) {
    golden_tensor t;
    char key[128];
    const char *at = NULL;
    int n = 0;
    memset(&t, 0, sizeof t);
    snprintf(key, sizeof key, "\"%s\":{\"dtype\":\"", name);
    if (g->bytes) at = strstr(g->bytes + 8, key);
    if (at) {
        const int integers = at[strlen(key)] == 'I';
        const char *shape = strchr(at, '['), *offsets = strstr(at, "\"data_offsets\":[");
        const char *data = g->bytes + g->data + strtoul(offsets + 16, NULL, 10);
        t.count = 1;
        while (*shape != ']' && shape[1] != ']' && n < 4) {
            char *end;
            t.dims[n] = (int)strtol(shape + 1, &end, 10);
            t.count *= (size_t)t.dims[n++];
            shape = end;
        }
        if (integers) t.i = (const int32_t *)(const void *)data;
        else t.f = (const float *)(const void *)data;
    }
    CHECK_MSG(t.count > 0, "no golden tensor %s", name);
    return t;
}

/* ---- contexts, models, trainers -------------------------------------------------------------- */
/* the kernels of every instruction set that this CPU has, from scalar on; then NULL */
static const llmi_kernels *kernels_at(int i) {
    return i < 0 || i > llmi_last_pass() ? NULL : llmi_kernels_of(i);
}
/* a context with the i-th table of kernels */
static llm_context *context_at(int table, int n_threads) {
    llm_error err;
    llm_context *context = llm_context_create(n_threads, NULL, &err);
    if (!context) {
        fprintf(stderr, "no context: %s\n", err.message);
        exit(2);
    }
    context->kernels = kernels_at(table);
    return context;
}
/* A test that runs once with each table, in a context of so many threads:
 *     TEST_OF_TABLES(name, context, 2) { CHECK(llm_...(context, ...)); } */
#define TEST_OF_TABLES(name, context, n_threads)                            \
    static void each_##name(llm_context *context);                          \
    TEST(name) {                                                            \
        int table;                                                          \
        for (table = 0; kernels_at(table); table++) {                       \
            llm_context *made = context_at(table, n_threads);               \
            each_##name(made);                                              \
            llm_context_free(made);                                         \
        }                                                                   \
    }                                                                       \
    static void each_##name(llm_context *context)

static llm_config small_config(int vocab, int T, int C, int layers, int heads) {
    const llm_config c = {.arch = LLM_ARCH_GPT2, .vocab_size = vocab, .max_seq_len = T,
                          .d_model = C, .n_layers = layers, .n_heads = heads, .tie_embeddings = 1};
    return c;
}
/* sizes that are multiples of nothing; low_rank: of the query, and biases */
static llm_config part_config(int experts, int low_rank) {
    llm_config c;
    memset(&c, 0, sizeof c);
    c.d_model = 24;
    c.n_heads = 3;
    c.d_ffn = 37;
    c.q_lora_rank = low_rank ? 11 : 0;
    c.attention_bias = low_rank;
    c.kv_lora_rank = 13;
    c.qk_nope_head_dim = 6;
    c.qk_rope_head_dim = 4;
    c.v_head_dim = 5;
    if (!experts) return c;
    c.n_routed_experts = 6;
    c.num_experts_per_tok = c.n_group = 2;
    c.moe_d_ffn = 9;
    c.n_shared_experts = c.topk_group = c.norm_topk_prob = 1;
    c.routed_scaling_factor = 2.5f;
    return c;
}
/* two layers of it, the first dense */
static llm_config deepseek_config(int experts, int low_rank, int vocab, int T, int mtp_depth) {
    llm_config c = part_config(experts, low_rank);
    c.arch = LLM_ARCH_DEEPSEEK_V3;
    c.vocab_size = vocab;
    c.max_seq_len = T;
    c.n_layers = 2;
    c.first_k_dense = experts;
    c.mtp_depth = mtp_depth;
    return c;
}
static void set_yarn(llm_config *c, float factor, int original_length, float beta_fast,
                     float beta_slow, float mscale, float mscale_all_dim) {
    c->yarn_factor = factor;
    c->yarn_original_max_seq_len = original_length;
    c->yarn_beta_fast = beta_fast;
    c->yarn_beta_slow = beta_slow;
    c->yarn_mscale = mscale;
    c->yarn_mscale_all_dim = mscale_all_dim;
}
static llm_model_desc model_desc(uint64_t seed, int threads, const llm_allocator *allocator) {
    const llm_model_desc d = {.seed = seed, .n_threads = threads, .allocator = allocator};
    return d;
}
/* a fresh model, and what is made of it, in a heap that is set up here */
static llm_model *model_in(heap *h, const llm_config *config, uint64_t seed, int threads) {
    llm_model_desc d;
    llm_error err;
    llm_model *model;
    heap_init(h);
    d = model_desc(seed, threads, &h->allocator);
    err.message[0] = 0;
    model = llm_model_create(config, &d, &err);
    CHECK_MSG(model != NULL, "%s", err.message);
    return model;
}
static size_t tensor_size(const llm_tensor *t) {
    size_t n = 1;
    int d;
    for (d = 0; d < t->n_dims; d++) n *= (size_t)t->dims[d];
    return n;
}
/* fresh weights, made ten times larger, biases and norms moved too: no gradient is trivial */
static void shake_weights(llm_model *model, uint64_t seed) {
    size_t i, j;
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        for (j = 0; j < tensor_size(&t); j++)
            ((float *)t.data)[j] = (t.n_dims > 1 ? 10.0f : 1.0f) * ((float *)t.data)[j] +
                                   (t.n_dims > 1 ? 0.0f : 0.2f) * llm_random_normal(seed + i, j);
    }
}
static llm_model *shaken_model(const llm_config *config, uint64_t seed, int threads,
                               const llm_allocator *allocator) {
    const llm_model_desc d = model_desc(seed, threads, allocator);
    llm_error err;
    llm_model *model = llm_model_create(config, &d, &err);
    CHECK_MSG(model != NULL, "%s", err.message);
    if (model) shake_weights(model, seed + 1);
    return model;
}
static llm_model *golden_model(const char *name, int threads, const llm_allocator *allocator) {
    const llm_model_desc d = model_desc(0, threads, allocator);
    char path[512];
    llm_error err;
    llm_model *model;
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, name);
    err.message[0] = 0;
    model = llm_model_load(path, &d, &err);
    CHECK_MSG(model != NULL, "%s: %s", path, err.message);
    return model;
}

/* what a part's forward and backward have in common */
static llm_part_args part_args(const llm_config *config, int B, int T, const float *x,
                               const float *const *weights, void *saved) {
    return (llm_part_args){
        .config = config, .B = B, .T = T, .x = x, .weights = weights, .saved = saved};
}
static llm_adamw adamw_of(int64_t step, float rate, float beta1, float beta2, float eps,
                          float decay, float scale) {
    return (llm_adamw){.step = step, .learning_rate = rate, .beta1 = beta1, .beta2 = beta2,
                       .eps = eps, .weight_decay = decay, .grad_scale = scale};
}

/* another instruction set for a trainer or session; scratch may differ in size */
static void trainer_use(llm_trainer *trainer, const llmi_kernels *kernels) {
    trainer->context->kernels = kernels;
    CHECK(llmi_scratch_reserve(
              trainer->context,
              llmi_model_attention_scratch(trainer->context,
                                           llmi_near_precision(trainer->desc.precision),
                                           &trainer->model->config,
                                           (size_t)trainer->desc.seq_len, 0, 1),
              NULL) == LLM_OK);
}

/* what a generation says on its way; cancel_at: the token that ends it, 0 = none */
typedef struct heard { int32_t tokens[200]; int n, cancel_at; } heard;

static int on_token(int32_t token, void *user) {
    heard *h = (heard *)user;
    if (h->n < 200) h->tokens[h->n] = token;
    return ++h->n == h->cancel_at;
}

static llm_train_desc train_desc(int B, int T, int threads) {
    const llm_train_desc d = {.batch_size = B, .seq_len = T, .schedule = LLM_SCHEDULE_CONSTANT,
                              .n_threads = threads};
    return d;
}

/* a copy of a model's flat weights, to compare or to put back */
static float *copy_weights(llm_trainer *trainer) {
    size_t n;
    const float *weights = llm_trainer_weights(trainer, &n);
    float *copy = new_floats(n);
    memcpy(copy, weights, n * sizeof(float));
    return copy;
}
static int weights_are(llm_trainer *trainer, const float *copy) {
    size_t n;
    const float *weights = llm_trainer_weights(trainer, &n);
    return same_bits(weights, copy, n);
}
/* the mean gradient, flat */
static float *copy_gradients(llm_trainer *trainer) {
    size_t n, i;
    const double scale = llm_trainer_gradient_scale(trainer);
    const float *gradients = llm_trainer_gradients(trainer, &n);
    float *copy = new_floats(n);
    llm_trainer_weights(trainer, &n);              /* without the tail */
    for (i = 0; i < n; i++) copy[i] = (float)(scale * (double)gradients[i]);
    return copy;
}
/* how far the mean gradient of one is from the other's */
static double gradient_error(llm_trainer *got, llm_trainer *want) {
    float *g = copy_gradients(got), *w = copy_gradients(want);
    size_t n;
    double error;
    llm_trainer_weights(want, &n);
    error = relative_error(g, w, n);
    free(g);
    free(w);
    return error;
}
static llm_trainer *new_trainer(llm_model *model, const llm_train_desc *d) {
    llm_error err;
    llm_trainer *trainer;
    err.message[0] = 0;
    trainer = llm_trainer_create(model, d, &err);
    CHECK_MSG(trainer != NULL, "%s", err.message);
    return trainer;
}
/* a trainer with a shaken model of its own, which goes when it is dropped */
static llm_trainer *shaken_trainer(const llm_config *config, uint64_t seed,
                                   const llm_train_desc *d) {
    llm_model *model = shaken_model(config, seed, d->n_threads, NULL);
    return model ? new_trainer(model, d) : NULL;
}
static void drop_trainer(llm_trainer *trainer) {
    llm_model *model = trainer ? trainer->model : NULL;
    llm_trainer_free(trainer);
    llm_model_free(model);
}
#endif

/* Ends of ranges, and what may be left out: optional outputs, dims of 0, defaults, scratch memory
 * that cannot be had. */

/* the next allocation fails */
#define NEXT_ALLOCATION_FAILS(h, call)                                                             \
  do {                                                                                             \
    (h)->fail_at = (h)->calls;                                                                     \
    REFUSED(LLM_ERR_MEMORY, call, "out of memory");                                                \
    (h)->fail_at = -1;                                                                             \
  } while (0)

/* and what works then survives each of its allocations */
#define FORWARD_NEEDS_MEMORY(h, call)                                                              \
  do {                                                                                             \
    NEXT_ALLOCATION_FAILS(h, call);                                                                \
    CHECK((call) == LLM_OK);                                                                       \
    EACH_ALLOCATION_FAILS(h, call);                                                                \
  } while (0)

/* a context whose memory is counted; at the end nothing is left of it */
static llm_context *edges_context(heap *h) {
    heap_init(h);
    return llm_context_create(1, &h->allocator, NULL);
}
static void edges_end(llm_context *context, const heap *h) {
    llm_context_free(context);
    CHECK(h->live == 0 && h->wrong == 0);
}

TEST(edges_of_rope) {
    /* width 8: pair i turns by 10000^(-i/4); slower from pair `low` on, by the whole factor from
     * `high` on, which are 8 ln(original / (2 pi beta)) / (2 ln 10000) for the fast and slow beta,
     * rounded outwards, in [0, 7] */
    static const struct {
        float factor, fast, slow, mscale, all;
        int original;
        double slowed[4], scale;
    } cases[] = {
        {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0, {0.0, 0.0, 0.0, 0.0}, 0.0},
        /* from 0 to 1; a factor below 1 has no scale */
        {0.5f, 20.0f, 3.0f, 0.0f, 0.0f, 100, {0.0, 1.0, 1.0, 1.0}, 0.0},
        {4.0f, 20.0f, 3.0f, 0.0f, 0.0f, 100, {0.0, 1.0, 1.0, 1.0}, 0.1},
        /* one of the two mscales alone changes nothing */
        {4.0f, 20.0f, 3.0f, 2.0f, 0.0f, 100, {0.0, 1.0, 1.0, 1.0}, 0.1},
        {4.0f, 20.0f, 3.0f, 0.0f, 2.0f, 100, {0.0, 1.0, 1.0, 1.0}, 0.1},
        /* from 2 to 7, not 8 */
        {4.0f, 200.0f, 0.002f, 0.0f, 0.0f, 1000000, {0.0, 0.0, 0.0, 0.2}, 0.1}};
    llm_context *context = llm_context_create(1, NULL, NULL);
    float x[8] = {1.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f}, y[8];
    const int32_t position[1] = {3};
    llm_config c;
    llm_error err;
    heap h;
    size_t i;
    int pair;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(&c, 0, sizeof c);
        c.qk_rope_head_dim = 8;
        c.yarn_factor = cases[i].factor;
        c.yarn_beta_fast = cases[i].fast;
        c.yarn_beta_slow = cases[i].slow;
        c.yarn_mscale = cases[i].mscale;
        c.yarn_mscale_all_dim = cases[i].all;
        c.yarn_original_max_seq_len = cases[i].original;
        CHECK_MSG(llm_rope_forward(context, y, x, position, &c, 1, 1, 1, &err) == LLM_OK, "%s",
                  err.message);
        for (pair = 0; pair < 4; pair++) {
            const double factor = (double)cases[i].factor, ramp = cases[i].slowed[pair];
            const double angle =
                3.0 * pow(10.0, -pair) * (ramp > 0.0 ? 1.0 - ramp + ramp / factor : 1.0);
            const double scale = 1.0 + (factor > 1.0 ? cases[i].scale * log(factor) : 0.0);
            CHECK_MSG(fabs((double)y[2 * pair] - scale * cos(angle)) < 1e-5 &&
                          fabs((double)y[2 * pair + 1] - scale * sin(angle)) < 1e-5,
                      "case %d, pair %d: %g, %g instead of %g, %g", (int)i, pair,
                      (double)y[2 * pair], (double)y[2 * pair + 1], scale * cos(angle),
                      scale * sin(angle));
        }
    }
    llm_context_free(context);
    context = edges_context(&h);
    NEXT_ALLOCATION_FAILS(&h, llm_rope_forward(context, y, x, position, &c, 1, 1, 1, &err));
    edges_end(context, &h);
}

/* parts: what is not wanted is left out; scratch memory that is not there */
enum { EDGES_ROWS = 2, EDGES_VALUES = 24 * EDGES_ROWS, EDGES_GATE = 6 * 24 }; /* of part_config */

typedef struct edges_part {
    llm_config c;
    float *weights[64], *x, *y;
    void *saved;
    llm_context *context;
    heap h;
} edges_part;
static void edges_open(edges_part *p, llm_part part) {
    char name[72];
    int n;
    memset(p, 0, sizeof *p);
    p->c = part_config(1, 1);
    p->context = edges_context(&p->h);
    p->x = noise(EDGES_VALUES, 1.0, 3);
    p->y = floats(EDGES_VALUES);
    p->saved = plain_alloc(llm_part_saved_bytes(part, &p->c, 1, EDGES_ROWS));
    for (n = 0; n < 64; n++) { /* with and without their names */
        const llm_tensor t = llm_part_tensor(part, &p->c, (size_t)n, n % 2 ? name : NULL);
        if (t.n_dims) p->weights[n] = noise(tensor_size(&t), 0.2, 40 + (uint64_t)n);
    }
}
static void edges_close(edges_part *p) {
    int n;
    for (n = 0; n < 64; n++) drop(p->weights[n]);
    drop(p->x);
    drop(p->y);
    free(p->saved);
    edges_end(p->context, &p->h);
}
static llm_part_args edges_args(edges_part *p, float *dh) {
    llm_part_args a = part_args(&p->c, 1, EDGES_ROWS, p->x, (const float *const *)p->weights,
                                p->saved);
    a.h = p->x;
    a.dh = dh;
    return a;
}
static llm_result edges_module(edges_part *p, llm_error *err) {
    const llm_part_args a = edges_args(p, NULL);
    return llm_part_forward(p->context, LLM_PART_MTP_MODULE, p->y, &a, err);
}
static llm_result edges_module_backward(edges_part *p, float *de, float *dh, float *const *dweights,
                                        llm_error *err) {
    const llm_part_args a = edges_args(p, dh);
    return llm_part_backward(p->context, LLM_PART_MTP_MODULE, de, dweights, p->x, &a, err);
}
TEST(edges_of_modules) {
    float *none[64] = {NULL}, *de = filled(EDGES_VALUES, 0.5f), *dh = filled(EDGES_VALUES, 0.5f);
    float *with = filled(EDGES_VALUES, 0.5f);
    llm_error err;
    edges_part p;
    edges_open(&p, LLM_PART_MTP_MODULE);
    FORWARD_NEEDS_MEMORY(&p.h, edges_module(&p, &err));
    NEXT_ALLOCATION_FAILS(&p.h, edges_module_backward(&p, NULL, dh, none, &err));
    CHECK(dh[0] == 0.5f);
    CHECK(edges_module_backward(&p, NULL, dh, none, &err) == LLM_OK);
    CHECK(edges_module(&p, &err) == LLM_OK);
    CHECK(edges_module_backward(&p, de, with, NULL, &err) == LLM_OK);
    CHECK(same_bits(dh, with, EDGES_VALUES) && de[0] != 0.5f && dh[0] != 0.5f);
    drop(de);
    drop(dh);
    drop(with);
    edges_close(&p);
}
static llm_result edges_mla(edges_part *p, llm_error *err) {
    const llm_part_args a = edges_args(p, NULL);
    return llm_part_forward(p->context, LLM_PART_MLA, p->y, &a, err);
}
TEST(edges_of_mla) { /* one of the weights' gradients, and no dx */
    float *few[64] = {NULL};
    llm_part_args args;
    llm_error err;
    edges_part p;
    edges_open(&p, LLM_PART_MLA);
    FORWARD_NEEDS_MEMORY(&p.h, edges_mla(&p, &err));
    few[0] = filled(11 * 24, 0.5f); /* (q_lora_rank,C) */
    args = edges_args(&p, NULL);
    CHECK(llm_part_backward(p.context, LLM_PART_MLA, NULL, few, p.x, &args, &err) == LLM_OK);
    CHECK(few[0][0] != 0.5f);
    drop(few[0]);
    edges_close(&p);
}
TEST(edges_of_routers) {
    const llm_config c = part_config(1, 1);
    float *x = noise(EDGES_VALUES, 1.0, 3), *gate = noise(EDGES_GATE, 0.5, 9);
    float *dx = filled(EDGES_VALUES, 0.5f), *dx_alone = filled(EDGES_VALUES, 0.5f);
    float *dgate = filled(EDGES_GATE, 0.25f), *dgate_alone = filled(EDGES_GATE, 0.25f);
    float scores[6 * EDGES_ROWS], weight[2 * EDGES_ROWS];
    const float bias[6] = {0};
    int32_t choice[2 * EDGES_ROWS];
    llm_context *context;
    llm_error err;
    heap h;
    context = edges_context(&h);
    NEXT_ALLOCATION_FAILS(&h, llm_router_forward(context, weight, choice, NULL, scores, x, gate,
                                                 bias, &c, EDGES_ROWS, &err));
    CHECK(llm_router_forward(context, weight, choice, NULL, scores, x, gate, bias, &c, EDGES_ROWS,
                             &err) == LLM_OK);
#define BACKWARD(dx, dgate)                                                                        \
  llm_router_backward(context, dx, dgate, weight, scores, choice, x, gate, &c, EDGES_ROWS, &err)
    CHECK(BACKWARD(dx, dgate) == LLM_OK && BACKWARD(NULL, dgate_alone) == LLM_OK &&
          BACKWARD(dx_alone, NULL) == LLM_OK);
#undef BACKWARD
    CHECK(same_bits(dgate, dgate_alone, EDGES_GATE) && dgate[0] != 0.25f);
    CHECK(same_bits(dx, dx_alone, EDGES_VALUES) && dx[0] != 0.5f);
    drop(x);
    drop(gate);
    drop(dx);
    drop(dx_alone);
    drop(dgate);
    drop(dgate_alone);
    edges_end(context, &h);
}

TEST(edges_of_ops) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    float w[8], m[8], v[8], g[8], y[8];
    const int32_t token = 0;
    llm_adamw adamw;
    llm_error err;
    int i;
    for (i = 0; i < 8; i++) w[i] = m[i] = v[i] = g[i] = y[i] = 0.5f;
    adamw = adamw_of(-1, 0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f);       /* there is no such update */
    llm_adamw_update(context, w, m, v, g, 8, &adamw);
    CHECK(w[0] == 0.5f && m[0] == 0.5f && v[0] == 0.5f);
    adamw.step = 0;
    llm_adamw_update(context, w, m, v, g, 8, &adamw);
    CHECK(w[0] != 0.5f);
    CHECK(llm_linear_backward(context, NULL, w, NULL, g, NULL, NULL, 1, 2, 2) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(context, w, NULL, NULL, g, g, NULL, 1, 2, 2) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(context, NULL, NULL, y, g, NULL, NULL, 1, 2, 2) == LLM_OK &&
          y[0] == 1.0f);
    CHECK(llm_embedding_forward(context, y, NULL, w, 0, 4, 2, &err) == LLM_OK && y[0] == 1.0f);
    REFUSED(LLM_ERR_ARGUMENT, llm_embedding_forward(context, y, NULL, w, 1, 4, 2, &err), "NULL");
    CHECK(llm_embedding_forward(context, y, &token, w, 1, 4, 2, &err) == LLM_OK && y[0] == w[0]);
    llm_context_free(context);
}

TEST(edges_of_attention) { /* with nothing in its heads nothing is written */
    llm_context *context = llm_context_create(1, NULL, NULL);
    float x[16] = {0}, out[16] = {7.0f}, lse[8] = {7.0f};
    llm_attention_dims d;
    llm_error err;
    memset(&d, 0, sizeof d);
    d.B = 1;
    d.T = d.n_heads = 2;
    CHECK(llm_attention_forward(context, out, lse, x, x, x, &d, &err) == LLM_OK && out[0] == 7.0f &&
          lse[0] == 7.0f);
    CHECK(llm_attention_backward(context, out, out, out, x, x, x, x, x, x, &d, &err) == LLM_OK &&
          out[0] == 7.0f);
    d.v_head_dim = 2; /* queries of 0 have no scores */
    CHECK(llm_attention_forward(context, out, lse, x, x, x, &d, &err) == LLM_OK && out[0] == 7.0f &&
          lse[0] == 7.0f);
    llm_context_free(context);
}

TEST(edges_of_configurations) {
    llm_config c = deepseek_config(1, 1, 11, 8, 0), other = c;
    llm_error err;
    c.v_head_dim = 0; /* that of the part without rotation */
    other.v_head_dim = other.qk_nope_head_dim;
    CHECK(llm_config_param_count(&c) == llm_config_param_count(&other) &&
          llm_config_param_count(&c) > 0);
    other.v_head_dim++;
    CHECK(llm_config_param_count(&c) != llm_config_param_count(&other));
    c = small_config(11, 8, INT_MAX, 2, 1); /* four times the width is no int */
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "d_model 2147483647");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_config_preset(&c, "a name that is much longer than that of any preset", &err),
            "a name that is much longer");
    REFUSED(LLM_ERR_ARGUMENT, llm_config_preset(&c, "", &err), "preset");
}

TEST(edges_of_pieces) { /* GPT-2's pattern: '(?:[sdmt]|ll|ve|re)| ?\\p{L}+|... */
    static const struct {
        const char *text, *pieces;
    } cases[] = {{"I'm", "I|'m|"},    {"I's", "I|'s|"},    {"I'd", "I|'d|"},   {"I't", "I|'t|"},
                 {"I'll", "I|'ll|"},  {"I've", "I|'ve|"},  {"I're", "I|'re|"}, {"I'la", "I|'|la|"},
                 {"I'va", "I|'|va|"}, {"I'ra", "I|'|ra|"}, {"I'e", "I|'|e|"},  {"I'l", "I|'|l|"},
                 {"I'", "I|'|"},      {"\xff!a", "\xff!|a|"}, /* a broken byte is no letter */
                 {" \xe2\x82", " \xe2\x82|"}, {"a\xc3", "a|\xc3|"}, {"a\xc3\xa9", "a\xc3\xa9|"}};
    const char *const pattern = llmi_gpt2_pattern;
    llmi_patterns *p = bpe_patterns(1, &pattern);
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[64] = "";
        bpe_pieces(p, 0, cases[i].text, strlen(cases[i].text), out);
        CHECK_MSG(!strcmp(out, cases[i].pieces), "%s: %s instead of %s", cases[i].text, out,
                  cases[i].pieces);
    }
    bpe_patterns_free(p);
}

TEST(edges_of_sampling) {
    heap h;
    llm_context *context;
    const float logits[4] = {1.0f, 4.0f, 3.0f, 0.0f};
    llm_sampling sampling;
    int32_t token = -1;
    llm_error err;
    memset(&sampling, 0, sizeof sampling);
    sampling.temperature = 0.001f; /* the largest, but for a chance of e^-1000 */
    context = edges_context(&h);
    NEXT_ALLOCATION_FAILS(&h,
        llm_sample(context, &token, logits, 4, &sampling, NULL, 0, 0, 0, &err));
    CHECK(token == -1);
    CHECK(llm_sample(context, &token, logits, 4, &sampling, NULL, 0, 0, 0, &err) == LLM_OK);
    CHECK(token == 1);
    edges_end(context, &h);
}

/* Each bit of what is hashed, and of the secret, turns each bit of the hash as often as not. Of
 * 2000 throws of a coin 800 to 1200 fall on one side, but for a chance of 10^-18 each. */
TEST(edges_of_hashes) {
    static const size_t sizes[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 23, 40};
    size_t k, i;
    for (k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const size_t n = sizes[k];
        int turned[32] = {0}, by_secret[32] = {0}, set[32] = {0}, bit;
        uint64_t state = k;
        for (i = 0; i < 2000; i++) {
            const uint64_t secret = plain_random(&state);
            const size_t at = (size_t)(plain_random(&state) % (8 * n));
            char bytes[40];
            uint32_t hash, other, keyed;
            size_t j;
            for (j = 0; j < n; j++) bytes[j] = (char)plain_random(&state);
            hash = llmi_hash(secret, bytes, n);
            keyed = llmi_hash(secret ^ UINT64_C(1) << plain_random(&state) % 64, bytes, n);
            bytes[at / 8] = (char)(bytes[at / 8] ^ 1 << at % 8);
            other = llmi_hash(secret, bytes, n);
            for (bit = 0; bit < 32; bit++) {
                turned[bit] += (int)((hash ^ other) >> bit & 1u);
                by_secret[bit] += (int)((hash ^ keyed) >> bit & 1u);
                set[bit] += (int)(hash >> bit & 1u);
            }
        }
        for (bit = 0; bit < 32; bit++) {
            CHECK_MSG(turned[bit] > 800 && turned[bit] < 1200,
                      "%d bytes: bit %d turns in %d of 2000", (int)n, bit, turned[bit]);
            CHECK_MSG(by_secret[bit] > 800 && by_secret[bit] < 1200,
                      "%d bytes: the secret turns bit %d in %d of 2000", (int)n, bit,
                      by_secret[bit]);
            CHECK_MSG(set[bit] > 800 && set[bit] < 1200, "%d bytes: bit %d is set in %d of 2000",
                      (int)n, bit, set[bit]);
        }
    }
}

/* SipHash as in fig. 2.1 of its paper, one round for a word of the message, three at the end; the
 * message is the whole words, then the last 8 bytes; the length goes where 0xFF does */
static uint64_t edges_left(uint64_t x, int n) { return x << n | x >> (64 - n); }
static void edges_half(uint64_t v[4], int i, int k, int n) {
    v[i] += v[k];
    v[k] = edges_left(v[k], n) ^ v[i];
}
static void edges_round(uint64_t v[4]) {
    edges_half(v, 0, 1, 13);
    edges_half(v, 2, 3, 16);
    v[0] = edges_left(v[0], 32);
    edges_half(v, 2, 1, 17);
    edges_half(v, 0, 3, 21);
    v[2] = edges_left(v[2], 32);
}
static uint64_t edges_siphash(uint64_t k0, uint64_t k1, const char *bytes, size_t n) {
    static const char text[] = "somepseudorandomlygeneratedbytes";
    uint64_t v[4], word;
    size_t i, k;
    for (i = 0; i < 4; i++) { /* big endian, eight letters each */
        for (v[i] = 0, k = 0; k < 8; k++) v[i] = v[i] << 8 | (unsigned char)text[8 * i + k];
        v[i] ^= i % 2 ? k1 : k0;
    }
    for (i = 0; i <= n / 8; i++) {
        memcpy(&word, i < n / 8 ? bytes + 8 * i : bytes + n - 8, 8);
        if (i == n / 8) v[2] ^= n;
        v[3] ^= word;
        edges_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xFF;
    for (i = 0; i < 3; i++) edges_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
TEST(edges_of_siphash) {
    char bytes[70];
    uint64_t state = 5;
    size_t n, i;
    for (n = 9; n <= 70; n++) {
        const uint64_t secret = plain_random(&state);
        for (i = 0; i < n; i++) bytes[i] = (char)plain_random(&state);
        CHECK_MSG(llmi_hash(secret, bytes, n) == (uint32_t)edges_siphash(secret, ~secret, bytes, n),
                  "of %d bytes", (int)n);
    }
}

/* the kernels that run are those of the instruction sets which the system says it has */
TEST(edges_of_the_cpu) {
#if LLMI_X86 && defined(__linux__)
    static const struct {
        int pass;
        const char *flags[4];
    } passes[] = {{2, {" avx2 ", " fma ", "", ""}},
                  {3, {" avx512f ", " avx512bw ", " avx512vl ", ""}},
                  {4, {" avx512_bf16 ", "", "", ""}},
                  {5, {" amx_tile ", " amx_bf16 ", "", ""}}};
    int best = 1, i, k;
    size_t size;
    char *text = files_read("/proc", "cpuinfo", &size), *at = strstr(text, "\nflags"), *end;
    if (!at) {
        free(text);
        SKIP("/proc/cpuinfo lists no flags");
    }
    end = strchr(at + 1, '\n');
    if (end) *end = ' ', end[1] = 0;
    for (i = 0; i < 4 && best >= passes[i].pass - 1; i++) {
        int all = 1;
        for (k = 0; k < 4; k++) all = all && strstr(at, passes[i].flags[k]);
        if (all) best = passes[i].pass;
    }
    if (best > 3 && !LLMI_BF16) best = 3;
    if (best > 4 && !LLMI_AMX) best = 4;
    /* an operating system may keep AMX from its programs */
    CHECK_MSG(llmi_last_pass() == best || (best == 5 && llmi_last_pass() == 4),
              "pass %d instead of %d", llmi_last_pass(), best);
    free(text);
#else
    SKIP("not Linux on x86-64");
#endif
}

static void run_edges(void) {
    RUN(edges_of_rope);
    RUN(edges_of_modules);
    RUN(edges_of_mla);
    RUN(edges_of_routers);
    RUN(edges_of_ops);
    RUN(edges_of_attention);
    RUN(edges_of_configurations);
    RUN(edges_of_pieces);
    RUN(edges_of_sampling);
    RUN(edges_of_hashes);
    RUN(edges_of_siphash);
    RUN(edges_of_the_cpu);
}

/* Sampling: against transformers' processors (tests/data/sampling.safetensors) and a plain
 * implementation of them in double precision. */

/* What transformers' processors leave of logits, as probabilities: repetition penalty,
 * temperature, top-k, top-p, min-p. No two logits are equal, or top_k is 0. */
static void plain_probabilities(double *p, const float *logits, int V, const llm_sampling *s,
                                const int32_t *history, int n_history) {
    double top = -HUGE_VAL, sum = 0.0;
    int i, j, *rank = (int *)calloc((size_t)V, sizeof(int)),
              *order = (int *)calloc((size_t)V, sizeof(int));
    for (i = 0; i < V; i++) p[i] = (double)logits[i];
    if (s->repetition_penalty > 0.0f)
        for (i = 0; i < V; i++)
            for (j = 0; j < n_history; j++)
                if (history[j] == i) {
                    p[i] *= p[i] < 0.0 ? (double)s->repetition_penalty
                                       : 1.0 / (double)s->repetition_penalty;
                    break;
                }
    for (i = 0; i < V; i++) {
        p[i] /= (double)s->temperature;
        if (p[i] > top) top = p[i];
    }
    for (i = 0; i < V; i++) {
        for (j = 0; j < V; j++) rank[i] += p[j] > p[i] || (p[j] == p[i] && j < i);
        order[rank[i]] = i;
    }
    for (i = 0; i < V; i++) p[i] = s->top_k > 0 && rank[i] >= s->top_k ? 0.0 : exp(p[i] - top);
    for (i = 0; i < V; i++) sum += p[i];
    if (s->top_p > 0.0f && s->top_p < 1.0f) {
        double above = 0.0;            /* of all tokens before this one */
        for (i = 0; i < V; i++) {
            const double share = p[order[i]] / sum;
            if (i > 0 && above >= (double)s->top_p) p[order[i]] = 0.0;
            above += share;
        }
    }
    for (i = 0; i < V; i++)            /* the largest is 1 */
        if (p[i] < (double)s->min_p) p[i] = 0.0;
    for (i = 0, sum = 0.0; i < V; i++) sum += p[i];
    for (i = 0; i < V; i++) p[i] /= sum;
    free(rank);
    free(order);
}

/* draws n times; nothing impossible may come, and the rest in proportion: Pearson's chi-square
 * within five standard deviations of what it should be, tokens rarer than five draws taken
 * together */
static void check_draws(const double *p, const float *logits, int V, const llm_sampling *s,
                        const int32_t *history, int n_history, int n, const char *what) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    int *seen = (int *)calloc((size_t)V, sizeof(int)), i, impossible = 0, freedom = -1;
    double chi = 0.0, rare = 0.0, rare_seen = 0.0;
    for (i = 0; context && i < n; i++) {
        int32_t token = -1;
        llm_error err;
        const llm_result result =
            llm_sample(context, &token, logits, V, s, history, n_history, 0, (uint64_t)i, &err);
        CHECK_MSG(result == LLM_OK && token >= 0 && token < V, "%s: result %d, token %d", what,
                  (int)result, (int)token);
        if (result == LLM_OK && token >= 0 && token < V) seen[token]++;
    }
    for (i = 0; i < V; i++) {
        const double expected = p[i] * n;
        if (p[i] == 0.0) impossible += seen[i];
        else if (expected < 5.0) {
            rare += expected;
            rare_seen += seen[i];
        } else {
            chi += (seen[i] - expected) * (seen[i] - expected) / expected;
            freedom++;
        }
    }
    if (rare >= 5.0) {
        chi += (rare_seen - rare) * (rare_seen - rare) / rare;
        freedom++;
    }
    CHECK_MSG(impossible == 0, "%s: %d of %d draws are impossible", what, impossible, n);
    CHECK_MSG(chi <= freedom + 5.0 * sqrt(2.0 * (freedom > 0 ? freedom : 0)) + 5.0,
              "%s: chi-square %g, %d degrees of freedom", what, chi, freedom);
    llm_context_free(context);
    free(seen);
}

static void golden_sampling(int c, int draws) {
    golden g = golden_open("", "sampling.safetensors");
    char key[32];
    golden_tensor logits, desc, expected, history;
    llm_sampling s;
    double *p, *plain;
    int i;
    memset(&history, 0, sizeof history);
    memset(&s, 0, sizeof s);
    snprintf(key, sizeof key, "logits%d", c);
    logits = golden_get(&g, key);
    snprintf(key, sizeof key, "desc%d", c);
    desc = golden_get(&g, key);
    snprintf(key, sizeof key, "probabilities%d", c);
    expected = golden_get(&g, key);
    snprintf(key, sizeof key, "\"history%d\"", c);
    if (g.bytes && strstr(g.bytes + 8, key)) {
        snprintf(key, sizeof key, "history%d", c);
        history = golden_get(&g, key);
    }
    if (!logits.count || !desc.count || expected.count != logits.count) return;
    s.temperature = desc.f[0];
    s.top_k = (int)desc.f[1];
    s.top_p = desc.f[2];
    s.min_p = desc.f[3];
    s.repetition_penalty = desc.f[4];
    s.seed = 1000 + (uint64_t)c;
    p = (double *)calloc(logits.count, sizeof(double));
    plain = (double *)calloc(logits.count, sizeof(double));
    plain_probabilities(plain, logits.f, (int)logits.count, &s, history.i, (int)history.count);
    for (i = 0; i < (int)logits.count; i++) {
        p[i] = (double)expected.f[i];
        if (c < 12)                    /* the plain implementation, which serves below, is right */
            CHECK_MSG(fabs(p[i] - plain[i]) < 1e-6 && (p[i] == 0.0) == (plain[i] == 0.0),
                      "case %d, token %d: %g or %g", c, i, p[i], plain[i]);
    }
    snprintf(key, sizeof key, "golden case %d", c);
    check_draws(p, logits.f, (int)logits.count, &s, history.i, (int)history.count, draws, key);
    free(p);
    free(plain);
    golden_close(&g);
}

TEST(sample_golden) {
    int c;
    for (c = 0; c < 12; c++) golden_sampling(c, 20000);
}
/* transformers keeps every token whose logit equals that of the k-th */
TEST(sample_top_k_keeps_equals) { golden_sampling(12, 5000); }

TEST(sample_against_plain) {
    int c;
    for (c = 0; c < 120; c++) {
        const uint64_t seed = 50 + (uint64_t)c;
        const int V = c % 10 == 9 ? 1 + c % 3 : 2 + (int)(llm_random(seed, 0) % 80);
        float logits[90];
        double p[90];
        int32_t history[20];
        llm_sampling s;
        char what[32];
        int i;
        memset(&s, 0, sizeof s);
        for (i = 0; i < V; i++) logits[i] = 3.0f * llm_random_normal(seed + 1, (uint64_t)i);
        random_tokens(history, 20, V, seed + 2);
        s.temperature = 0.3f + 1.7f * llm_random_uniform(seed, 1);
        s.seed = seed;
        if (c & 1) s.top_k = 1 + (int)(llm_random(seed, 2) % 30);
        if (c & 2) s.top_p = 0.05f + 0.94f * llm_random_uniform(seed, 3);
        if (c & 4) s.min_p = 0.3f * llm_random_uniform(seed, 4);
        if (c & 8) s.repetition_penalty = 0.7f + llm_random_uniform(seed, 5);
        plain_probabilities(p, logits, V, &s, history, c % 21);
        snprintf(what, sizeof what, "case %d", c);
        check_draws(p, logits, V, &s, history, c % 21, 3000, what);
    }
}

static int32_t draw(const float *logits, int V, const llm_sampling *s, const int32_t *history,
                    int n_history, uint64_t counter) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    int32_t token = -1;
    llm_error err;
    err.message[0] = 0;
    CHECK_MSG(llm_sample(context, &token, logits, V, s, history, n_history, 0, counter, &err) ==
                  LLM_OK,
              "%s", err.message);
    llm_context_free(context);
    return token;
}

TEST(sample_greedy) {
    const float ties[6] = {1.0f, 4.0f, -2.0f, 4.0f, 4.0f, 3.0f}, below[3] = {-5.0f, -3.0f, -3.0f},
                one[1] = {-7.0f};
    static const int32_t history[4] = {1, 3, 1, 1}, two[2] = {0, 1};
    llm_sampling s;
    memset(&s, 0, sizeof s);
    CHECK(draw(ties, 6, NULL, NULL, 0, 0) == 1 && draw(ties, 6, &s, NULL, 0, 99) == 1);
    CHECK(draw(below, 3, &s, NULL, 0, 0) == 1 && draw(one, 1, &s, NULL, 0, 0) == 0);
    s.repetition_penalty = 1.2f; /* counts once however often a token occurs: 4/1.2 is above 3 */
    CHECK(draw(ties, 6, &s, history, 4, 0) == 4 && draw(ties, 5, &s, history, 0, 0) == 1);
    CHECK(draw(ties, 4, &s, history, 4, 0) == 1);
    s.repetition_penalty = 1.4f;
    CHECK(draw(ties + 3, 3, &s, two, 2, 0) == 2);          /* 4/1.4, the same, 3 */
    s.repetition_penalty = 2.0f;       /* below 0 it multiplies */
    CHECK(draw(below, 3, &s, history, 1, 0) == 2);
    memset(&s, 0, sizeof s);
    s.temperature = 1e-6f;             /* as good as greedy, with no overflow on the way */
    CHECK(draw(ties + 4, 2, &s, NULL, 0, 0) == 0 && draw(below, 2, &s, NULL, 0, 5) == 1);
    s.temperature = 1.0f;
    s.min_p = 1.0f;                    /* only the largest, and its equals */
    {
        uint64_t i;
        int seen[6] = {0, 0, 0, 0, 0, 0};
        for (i = 0; i < 200; i++) seen[draw(ties, 6, &s, NULL, 0, i)]++;
        CHECK(seen[1] > 30 && seen[3] > 30 && seen[4] > 30 && seen[1] + seen[3] + seen[4] == 200);
    }
    s.min_p = 0.0f;
    s.top_k = 1;
    CHECK(draw(ties + 4, 2, &s, NULL, 0, 7) == 0);
    s.top_k = 0;
    s.top_p = 1e-6f;
    CHECK(draw(ties + 4, 2, &s, NULL, 0, 7) == 0);
    CHECK(draw(one, 1, &s, NULL, 0, 3) == 0);
}

/* The smallest set that reaches top_p, also where its share is top_p exactly: of equals, the first.
 * top_k of 2 leaves all four, being equal. */
TEST(sample_top_p_exactly) {
    static const float equals[6] = {-300.0f, 2.0f, 2.0f, 2.0f, 2.0f, -300.0f};
    int kept, top_k, i;
    for (kept = 1; kept <= 3; kept++)
        for (top_k = 0; top_k <= 6; top_k += 2) {
            int seen[6] = {0, 0, 0, 0, 0, 0};
            llm_sampling s;
            memset(&s, 0, sizeof s);
            s.temperature = 1.0f;
            s.top_k = top_k;
            s.top_p = 0.25f * (float)kept;
            for (i = 0; i < 100; i++) seen[draw(equals, 6, &s, NULL, 0, (uint64_t)i)]++;
            for (i = 0; i < 6; i++)
                CHECK_MSG((seen[i] > 0) == (i >= 1 && i <= kept),
                          "top_p %g, top_k %d: token %d came %d times", (double)s.top_p, top_k, i,
                          seen[i]);
        }
}

TEST(sample_what_is_not_finite) {
    float logits[8];
    llm_sampling s;
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_error err;
    int32_t token = -5;
    int i, mode;
    if (!context) return;
    for (mode = 0; mode < 2; mode++) {
        uint64_t counter;
        memset(&s, 0, sizeof s);
        s.temperature = (float)mode;
        for (i = 0; i < 8; i++) logits[i] = (float)NAN;
        REFUSED(LLM_ERR_NUMERIC,
                llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err), "8");
        for (i = 0; i < 8; i++) logits[i] = -(float)INFINITY;
        REFUSED(LLM_ERR_NUMERIC,
                llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err), "8");
        CHECK(token == -5);
        logits[3] = -1e30f;            /* the only one that can come */
        logits[5] = (float)NAN;
        for (counter = 0; counter < 50; counter++)
            CHECK(draw(logits, 8, &s, NULL, 0, counter) == 3);
        s.top_k = 4;
        s.top_p = 0.9f;
        s.min_p = 0.1f;
        for (counter = 0; counter < 50; counter++)
            CHECK(draw(logits, 8, &s, NULL, 0, counter) == 3);
    }
    memset(&s, 0, sizeof s);
    s.temperature = 1.0f;              /* large logits do not overflow */
    for (i = 0; i < 8; i++) logits[i] = i == 6 ? 3e38f : -3e38f;
    CHECK(draw(logits, 8, &s, NULL, 0, 1) == 6);
    llm_context_free(context);
}

/* among logits that are not finite, of any number, by every instruction set */
TEST(sample_greedy_not_finite) {
    float logits[53];
    int t, n, at;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = llm_context_create(1, NULL, NULL);
        llm_error err;
        if (!context) return;
        context->kernels = kernels_at(t);
        for (n = 3; n <= 53; n++)
            for (at = 0; at < 2 * n; at++) {
                const int bad = at % n, best = (bad + 1 + n / 3) % n;
                int32_t token = -1;
                int i;
                for (i = 0; i < n; i++) logits[i] = -5.0f - (float)(i * 7 % 5);
                logits[best] = -0.5f;
                logits[bad] = at < n ? (float)NAN : (float)INFINITY;
                CHECK(llm_sample(context, &token, logits, n, NULL, NULL, 0, 0, 0, &err) == LLM_OK);
                CHECK_MSG(token == best, "%s: %d of %d for %d", context->kernels->name, (int)token,
                          n, best);
            }
        llm_context_free(context);
    }
}

TEST(sample_is_determined) {
    float logits[50];
    llm_sampling s;
    int32_t first[100];
    int i, same = 0;
    for (i = 0; i < 50; i++) logits[i] = llm_random_normal(8, (uint64_t)i);
    memset(&s, 0, sizeof s);
    s.temperature = 1.0f;
    s.seed = 4;
    for (i = 0; i < 100; i++) first[i] = draw(logits, 50, &s, NULL, 0, (uint64_t)i);
    for (i = 99; i >= 0; i--) CHECK(first[i] == draw(logits, 50, &s, NULL, 0, (uint64_t)i));
    s.seed = 5;
    for (i = 0; i < 100; i++) same += first[i] == draw(logits, 50, &s, NULL, 0, (uint64_t)i);
    CHECK_MSG(same < 30, "%d of 100 draws are the same with another seed", same);
    for (i = 1, same = 0; i < 100; i++) same += first[i] == first[i - 1];
    CHECK_MSG(same < 30, "%d of 100 draws are the same as the one before", same);
}

TEST(sample_refuses) {
    static const float bad[4] = {-0.5f, (float)NAN, (float)INFINITY, 1.5f};
    float logits[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    int32_t token = -5, history[2] = {0, 8};
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_sampling s;
    llm_error err;
    int i;
    if (!context) return;
    memset(&s, 0, sizeof s);
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(NULL, &token, logits, 8, &s, NULL, 0, 0, 0, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_sample(context, NULL, logits, 8, &s, NULL, 0, 0, 0, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_sample(context, &token, NULL, 8, &s, NULL, 0, 0, 0, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_sample(context, &token, logits, 8, &s, NULL, 2, 0, 0, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 0, &s, NULL, 0, 0, 0, &err),
            "vocab_size", "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, -1, &s, NULL, 0, 0, 0, &err),
            "vocab_size", "-1");
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 8, &s, history, -1, 0, 0, &err),
            "n_history", "-1");
    REFUSED(LLM_ERR_ARGUMENT,
            llm_sample(context, &token, logits, 8, &s, history, 2, 0, 0, &err), "8",
            "1");
    history[1] = -1;
    REFUSED(LLM_ERR_ARGUMENT,
            llm_sample(context, &token, logits, 8, &s, history, 2, 0, 0, &err), "-1",
            "8");
    for (i = 0; i < 4; i++) {
        memset(&s, 0, sizeof s);
        s.temperature = bad[i];
        if (i < 3)
            REFUSED(LLM_ERR_ARGUMENT,
                    llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err),
                    "temperature");
        s.temperature = 1.0f;
        s.repetition_penalty = bad[i];
        if (i < 3)
            REFUSED(LLM_ERR_ARGUMENT,
                    llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err),
                    "penalty");
        s.repetition_penalty = 0.0f;
        s.top_p = bad[i];
        REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err),
                "top_p");
        s.top_p = 0.0f;
        s.min_p = bad[i];
        REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err),
                "min_p");
    }
    memset(&s, 0, sizeof s);
    s.top_k = -1;
    REFUSED(LLM_ERR_ARGUMENT,
            llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err), "top_k",
            "-1");
    CHECK(token == -5);
    llm_context_free(context);
}

static void run_sample(void) {
    RUN(sample_golden);
    RUN(sample_top_k_keeps_equals);
    RUN(sample_against_plain);
    RUN(sample_greedy);
    RUN(sample_top_p_exactly);
    RUN(sample_what_is_not_finite);
    RUN(sample_greedy_not_finite);
    RUN(sample_is_determined);
    RUN(sample_refuses);
}

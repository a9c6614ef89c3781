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

/* ---- presence and frequency ------------------------------------------------------------------ */
static int32_t draw_new(const float *logits, int V, const llm_sampling *s, const int32_t *history,
                        int n_history, int n_new, uint64_t counter) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    int32_t token = -1;
    llm_error err;
    err.message[0] = 0;
    CHECK_MSG(llm_sample(context, &token, logits, V, s, history, n_history, n_new, counter, &err) ==
                  LLM_OK, "%s", err.message);
    llm_context_free(context);
    return token;
}
/* By hand, with numbers that floats hold: token 0 came three times of late, 1 once, 2 in the prompt
 * only, 3 never. What it costs: 0: 0.5 + 3 * 0.25 = 1.25; 1: 0.5 + 0.25 = 0.75. */
TEST(sample_presence_and_frequency) {
    static const int32_t history[7] = {2, 2, 0, 0, 1, 0, 0};
    llm_sampling s;
    int i;
    memset(&s, 0, sizeof s);
    s.presence_penalty = 0.5f;
    s.frequency_penalty = 0.25f;
    for (i = -1; i <= 1; i++) {        /* just below, equal (the lower id), just above */
        const float logits[4] = {3.25f, 2.75f - 8.0f, 2.0f + 0.0625f * (float)i, -9.0f};
        CHECK(draw_new(logits, 4, &s, history, 6, 4, 0) == (i > 0 ? 2 : 0));   /* 3.25 - 1.25 */
    }
    for (i = -1; i <= 1; i++) {
        const float logits[4] = {2.75f - 8.0f, 2.75f, 2.0f + 0.0625f * (float)i, -9.0f};
        CHECK(draw_new(logits, 4, &s, history, 6, 4, 0) == (i > 0 ? 2 : 1));   /* 2.75 - 0.75 */
    }
    {
        const float logits[4] = {3.0f, -9.0f, 2.9f, -9.0f};
        /* of what is not new, nothing counts; with one of 0, 0.75; with two, 1; three, 1.25 */
        CHECK(draw_new(logits, 4, &s, history, 7, 0, 0) == 0);
        CHECK(draw_new(logits, 4, &s, history, 7, 1, 0) == 2);
        CHECK(draw_new(logits, 4, &s, history, 2, 2, 0) == 0);     /* 2 itself costs 1 */
        s.presence_penalty = s.frequency_penalty = 0.0f;
        CHECK(draw_new(logits, 4, &s, history, 7, 7, 0) == 0);
        s.presence_penalty = -0.5f;    /* below 0 it draws towards what was said */
        {
            const float towards[4] = {2.5f, 2.9f, 0.0f, 3.0f}, less[4] = {2.4f, 2.9f, 0.0f, 3.0f};
            CHECK(draw_new(towards, 4, &s, history, 7, 1, 0) == 0);        /* 3, as 3 has */
            CHECK(draw_new(less, 4, &s, history, 7, 1, 0) == 3);
        }
    }
}
/* the law: what is left of the logits, against plain probabilities, with and without the other
 * penalty, which comes before: it is of the logit as it was */
TEST(sample_penalties_against_plain) {
    int c;
    for (c = 0; c < 60; c++) {
        const uint64_t seed = 700 + (uint64_t)c;
        const int V = 2 + (int)(llm_random(seed, 0) % 40), n_history = c % 21,
                  n_new = n_history ? (int)(llm_random(seed, 9) % (uint64_t)(n_history + 1)) : 0;
        float logits[50], changed[50];
        double p[50];
        int32_t history[20];
        llm_sampling s, rest;
        llm_context *context = llm_context_create(1, NULL, NULL);
        int seen[50], i, j;
        double chi = 0.0, freedom = 0.0;
        memset(&s, 0, sizeof s);
        memset(seen, 0, sizeof seen);
        for (i = 0; i < V; i++) logits[i] = 2.0f * llm_random_normal(seed + 1, (uint64_t)i);
        random_tokens(history, 20, V, seed + 2);
        s.temperature = 0.5f + llm_random_uniform(seed, 1);
        s.seed = seed;
        s.presence_penalty = c % 3 ? 3.0f * llm_random_uniform(seed, 2) - 1.0f : 0.0f;
        s.frequency_penalty = c % 4 ? 2.0f * llm_random_uniform(seed, 3) - 0.7f : 0.0f;
        if (c & 1) s.repetition_penalty = 0.7f + llm_random_uniform(seed, 5);
        if (c & 2) s.top_k = 1 + (int)(llm_random(seed, 6) % 20);
        if (c & 4) s.min_p = 0.1f;
        for (i = 0; i < V; i++) {      /* by definition */
            int often = 0, is_there = 0;
            for (j = 0; j < n_history; j++) {
                is_there |= history[j] == i;
                often += history[j] == i && j >= n_history - n_new;
            }
            changed[i] = logits[i];
            if (is_there && s.repetition_penalty > 0.0f)
                changed[i] = logits[i] < 0.0f ? logits[i] * s.repetition_penalty
                                              : logits[i] / s.repetition_penalty;
            changed[i] -= (float)often * s.frequency_penalty;
            if (often) changed[i] -= s.presence_penalty;
        }
        rest = s;
        rest.repetition_penalty = rest.presence_penalty = rest.frequency_penalty = 0.0f;
        plain_probabilities(p, changed, V, &rest, NULL, 0);
        for (i = 0; i < 2000 && context; i++) {
            int32_t token = -1;
            CHECK(llm_sample(context, &token, logits, V, &s, history, n_history, n_new,
                             (uint64_t)i, NULL) == LLM_OK && token >= 0 && token < V);
            if (token >= 0 && token < V) seen[token]++;
        }
        for (i = 0; i < V; i++) {
            const double expected = 2000.0 * p[i];
            CHECK_MSG(p[i] > 0.0 || !seen[i], "case %d: token %d is impossible", c, i);
            if (expected < 5.0) continue;
            chi += (seen[i] - expected) * (seen[i] - expected) / expected;
            freedom += 1.0;
        }
        CHECK_MSG(chi <= freedom + 5.0 * sqrt(2.0 * freedom) + 5.0,
                  "case %d: chi-square %g, %g degrees of freedom", c, chi, freedom);
        /* the same draw as from the changed logits, number by number */
        for (i = 0; i < 50 && context; i++) {
            int32_t a = -1, b = -2;
            CHECK(llm_sample(context, &a, logits, V, &s, history, n_history, n_new, (uint64_t)i,
                             NULL) == LLM_OK &&
                  llm_sample(context, &b, changed, V, &rest, NULL, 0, 0, (uint64_t)i, NULL) ==
                      LLM_OK);
            CHECK_MSG(a == b, "case %d, number %d: %d instead of %d", c, i, (int)a, (int)b);
        }
        llm_context_free(context);
    }
}
TEST(sample_penalties_refused) {
    static const float bad[4] = {(float)NAN, (float)INFINITY, -2e6f, 2e6f};
    const float logits[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int32_t history[3] = {7, 7, 6};
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_sampling s;
    llm_error err;
    int32_t token = -5;
    int i;
    if (!context) return;
    memset(&s, 0, sizeof s);
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 8, &s, history, 3, 4, 0, &err),
            "n_new", "4", "3");
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 8, &s, history, 3, -1, 0, &err),
            "n_new", "-1", "3");
    REFUSED(LLM_ERR_ARGUMENT, llm_sample(context, &token, logits, 8, &s, NULL, 0, 1, 0, &err),
            "n_new", "1", "0");
    for (i = 0; i < 4; i++) {
        memset(&s, 0, sizeof s);
        s.presence_penalty = bad[i];
        REFUSED(LLM_ERR_ARGUMENT,
                llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err),
                "presence_penalty");
        memset(&s, 0, sizeof s);
        s.frequency_penalty = bad[i];
        REFUSED(LLM_ERR_ARGUMENT,
                llm_sample(context, &token, logits, 8, &s, NULL, 0, 0, 0, &err),
                "frequency_penalty");
    }
    CHECK(token == -5);
    memset(&s, 0, sizeof s);
    s.presence_penalty = 5.0f;
    CHECK(llm_sample(context, &token, logits, 8, &s, history, 3, 3, 0, &err) == LLM_OK &&
          token == 5);
    llm_context_free(context);
}

/* ---- log-probabilities ----------------------------------------------------------------------- */
/* by definition, in double precision; what is no number counts as -inf */
static void plain_logprobs(double *p, const float *logits, int V) {
    double top = -HUGE_VAL, sum = 0.0;
    int i;
    for (i = 0; i < V; i++) {
        p[i] = fabs((double)logits[i]) < HUGE_VAL ? (double)logits[i] : -HUGE_VAL;
        if (p[i] > top) top = p[i];
    }
    for (i = 0; i < V; i++) sum += p[i] > -HUGE_VAL ? exp(p[i] - top) : 0.0;
    for (i = 0; i < V; i++) p[i] -= top + log(sum);
}
static void check_logprobs(const float *logits, int V, const char *what) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    double *p = doubles((size_t)V), *sorted = doubles((size_t)V);
    int32_t *tokens = (int32_t *)plain_alloc((size_t)V * sizeof *tokens), first;
    int *order = (int *)plain_alloc((size_t)V * sizeof(int)), i, j, n;
    llm_error err;
    float one;
    plain_logprobs(p, logits, V);
    for (i = 0; i < V; i++) {          /* likeliest first, then lower id */
        for (j = n = 0; j < V; j++) {
            const float a = fabsf(logits[j]) <= FLT_MAX ? logits[j] : -(float)INFINITY,
                        b = fabsf(logits[i]) <= FLT_MAX ? logits[i] : -(float)INFINITY;
            n += a > b || (a == b && j < i);
        }
        order[n] = i;
    }
    for (i = 0; i < V; i++) sorted[i] = p[order[i]];
    for (n = 0; n <= V; n = n < 4 || n == V ? n + 1 : V - n > 9 && n > 9 ? V - 1 : n + 1) {
        float *got = floats((size_t)n);
        memset(tokens, 0x55, (size_t)V * sizeof *tokens);
        err.message[0] = 0;
        CHECK_MSG(llm_logprobs(context, NULL, -1, n ? tokens : NULL, n ? got : NULL, n, logits, V,
                               &err) == LLM_OK, "%s", err.message);
        for (i = 0; i < n; i++)
            CHECK_MSG(tokens[i] == order[i], "%s, top %d of %d: place %d has %d, not %d", what, n,
                      V, i, (int)tokens[i], order[i]);
        for (i = n; i < V; i++) CHECK(tokens[i] == 0x55555555);
        CHECK_CLOSE(got, sorted, (size_t)n, 1e-6, 3e-7, what);
        drop(got);
    }
    for (i = 0; i < V; i++) {
        float two[2] = {7.0f, 7.0f};
        CHECK(llm_logprobs(context, &one, i, NULL, NULL, 0, logits, V, &err) == LLM_OK);
        CHECK_CLOSE(&one, p + i, 1, 1e-6, 3e-7, what);
        CHECK(llm_logprobs(context, &two[0], i, &first, &two[1], 1, logits, V, &err) == LLM_OK &&
              first == order[0] && memcmp(&two[0], &one, sizeof one) == 0);
    }
    llm_context_free(context);
    free(p);
    free(sorted);
    free(tokens);
    free(order);
}
TEST(logprobs_by_definition) {
    static const float odd[][6] = {
        {1, 2, 3, 4, 5, 6}, {2, 2, 2, 2, 2, 2}, {5, (float)-INFINITY, 5, (float)NAN, 1, 5},
        {(float)NAN, (float)NAN, 3, (float)NAN, (float)-INFINITY, (float)-INFINITY},
        {1e38f, -1e38f, 1e38f, 0, -0.0f, 0.0f}, {-1e30f, -1e30f, -2e30f, (float)NAN, 0, -1e30f},
        {-3e38f, -3.3e38f, (float)-INFINITY, -3e38f, -3e38f, -3.2e38f},
        {88, -88, 1e-30f, -1e-30f, 0, 87}};
    size_t i;
    int c, V;
    for (i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        char what[20];
        snprintf(what, sizeof what, "odd %d", (int)i);
        for (V = i == 3 ? 3 : 1; V <= 6; V++) check_logprobs(odd[i], V, what);
    }
    for (c = 0; c < 20; c++) {
        float logits[200];
        V = 1 + (int)(llm_random(c + 60u, 0) % 200);
        for (i = 0; i < (size_t)V; i++)
            logits[i] = c % 3 == 2 ? (float)(llm_random(c + 70u, i) % 5)
                                   : 4.0f * llm_random_normal(c + 70u, i);
        check_logprobs(logits, V, "random");
    }
}
TEST(logprobs_refuse) {
    float logits[5] = {1, 2, 3, 4, 5}, out[6] = {9, 9, 9, 9, 9, 9}, one = 9;
    int32_t tokens[6] = {-9, -9, -9, -9, -9, -9};
    heap h;
    llm_context *context;
    llm_error err;
    int i;
    heap_init(&h);
    context = llm_context_create(1, &h.allocator, &err);
    if (!context) return;
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(NULL, &one, 0, tokens, out, 2, logits, 5, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, tokens, out, 2, NULL, 5, &err),
            "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, NULL, out, 2, logits, 5, &err),
            "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, tokens, NULL, 2, logits, 5, &err),
            "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, tokens, out, 6, logits, 5, &err),
            "n_top", "6", "5");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, tokens, out, -1, logits, 5, &err),
            "n_top", "-1", "5");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 5, tokens, out, 2, logits, 5, &err),
            "token", "5", "4");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, -1, tokens, out, 2, logits, 5, &err),
            "token", "-1");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, tokens, out, 0, logits, 0, &err),
            "vocab_size", "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_logprobs(context, &one, 0, tokens, out, 0, logits, -3, &err),
            "vocab_size", "-3");
    for (i = 0; i < 5; i++) logits[i] = i % 2 ? (float)NAN : (float)-INFINITY;
    REFUSED(LLM_ERR_NUMERIC, llm_logprobs(context, &one, 0, tokens, out, 2, logits, 5, &err), "5");
    for (i = 0; i < 6; i++) CHECK(tokens[i] == -9 && out[i] == 9.0f);
    CHECK(one == 9.0f);
    logits[3] = 0.5f;
    llm_context_free(context);
    context = llm_context_create(1, &h.allocator, &err);   /* without room yet */
    h.fail_at = h.calls;
    REFUSED(LLM_ERR_MEMORY, llm_logprobs(context, &one, 0, tokens, out, 2, logits, 5, &err), "");
    CHECK(tokens[0] == -9 && one == 9.0f);
    h.fail_at = -1;
    CHECK(llm_logprobs(context, &one, 3, tokens, out, 1, logits, 5, &err) == LLM_OK &&
          one == 0.0f && tokens[0] == 3 && out[0] == 0.0f);
    llm_context_free(context);
    CHECK(h.live == 0 && h.wrong == 0);
}

/* ---- what generation hands on ---------------------------------------------------------------- */
/* on_logits: counts, keeps what it is given, bans a token, cancels */
typedef struct bans { int n, cancel_at, ban, wrong, n_prompt; const int32_t *prompt, *out; } bans;
static int on_logits(float *logits, int vocab_size, const int32_t *tokens, int n_tokens,
                     void *user) {
    bans *b = (bans *)user;
    b->wrong += vocab_size != 60 || n_tokens != b->n_prompt + b->n ||
                memcmp(tokens, b->prompt, (size_t)b->n_prompt * sizeof *tokens) != 0 ||
                memcmp(tokens + b->n_prompt, b->out, (size_t)b->n * sizeof *tokens) != 0;
    if (b->ban >= 0) logits[b->ban] = -(float)INFINITY;
    if (b->ban == -2) {
        int i;
        for (i = 0; i < vocab_size; i++) logits[i] = -(float)INFINITY;
    }
    return ++b->n == b->cancel_at;
}
TEST(generate_on_logits) {
    llm_session *s = small_session();
    llm_generate_desc d;
    llm_generate_stats stats;
    int32_t prompt[10], plain[20], tokens[20];
    llm_error err;
    bans b;
    int i, at;
    if (!s) return;
    random_tokens(prompt, 10, 60, 3);
    memset(&d, 0, sizeof d);
    d.sampling.temperature = 1.0f;
    d.max_new_tokens = 20;
    CHECK(llm_generate(s, prompt, 10, &d, plain, 20, NULL, &err) == LLM_OK);
    for (at = 0; at < 6; at++) {
        memset(&b, 0, sizeof b);
        b.n_prompt = 10;
        b.prompt = prompt;
        b.out = tokens;
        b.ban = at == 0 ? -1 : at == 1 ? plain[0] : at == 2 ? plain[7] : -1;
        b.cancel_at = at == 3 ? 1 : at == 4 ? 6 : 0;
        if (at == 5) b.ban = -2;
        d.on_logits = on_logits;
        d.user = &b;
        memset(tokens, 0x55, sizeof tokens);
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        if (at == 5) {                 /* nothing is left: as before the call */
            CHECK(llm_session_eval(s, 0, prompt, 3, NULL, NULL) == LLM_OK);
            b.n_prompt = 13;
            b.prompt = llm_session_tokens(s, 0);
            REFUSED(LLM_ERR_NUMERIC, llm_generate(s, prompt, 10, &d, tokens, 20, &stats, &err),
                    "60");
            CHECK(llm_session_length(s, 0) == 3 && tokens[0] == 0x55555555);
        } else if (b.cancel_at) {
            REFUSED(LLM_ERR_CANCELLED, llm_generate(s, prompt, 10, &d, tokens, 20, &stats, &err),
                    at == 3 ? "0" : "5");
            CHECK(stats.n_generated == b.cancel_at - 1 && b.n == b.cancel_at);
            CHECK(!memcmp(tokens, plain, (size_t)(b.cancel_at - 1) * sizeof *tokens) &&
                  tokens[b.cancel_at - 1] == 0x55555555);
            /* the prompt, and all that was generated but the last, which is evaluated, too: the
             * callback was called after it */
            CHECK(llm_session_length(s, 0) == 10 + b.cancel_at - 1);
        } else {
            CHECK(llm_generate(s, prompt, 10, &d, tokens, 20, &stats, &err) == LLM_OK);
            CHECK(stats.n_generated == 20 && b.n == 20);
            for (i = 0; i < 20; i++) CHECK(tokens[i] != b.ban);
            for (i = 0; i < 20 && (b.ban < 0 || plain[i] != b.ban); i++)
                CHECK(tokens[i] == plain[i]);
        }
        CHECK_MSG(!b.wrong, "case %d: %d calls with other tokens", at, b.wrong);
    }
    drop_session(s);
}
/* with drafts, the callback sees the same calls */
TEST(generate_on_logits_with_drafts) {
    llm_config c = deepseek_config(0, 0, 60, 60, 3);
    llm_model *model = shaken_model(&c, 5, 1, NULL);
    llm_session_desc sd;
    llm_session *s;
    int32_t prompt[8], tokens[2][30], top[2][90];
    float logprobs[2][30], tops[2][90];
    int i, k, ban;
    memset(&sd, 0, sizeof sd);
    sd.speculate = 1;
    sd.n_sequences = 2;
    s = model ? session_of(model, &sd) : NULL;
    if (!s) return;
    random_tokens(prompt, 8, 60, 3);
    for (ban = -1; ban < 4; ban++)
        for (i = 0; i < 2; i++) {
            llm_generate_desc d;
            llm_generate_stats stats;
            bans b;
            memset(&d, 0, sizeof d);
            memset(&b, 0, sizeof b);
            b.n_prompt = 8;
            b.prompt = prompt;
            b.out = tokens[i];
            b.ban = ban;
            b.cancel_at = ban == 3 ? 9 : 0;
            d.sequence = i;
            d.speculate = i;
            d.max_new_tokens = 30;
            d.on_logits = on_logits;
            d.user = &b;
            d.logprobs = logprobs[i];
            d.n_top = 3;
            d.top_tokens = top[i];
            d.top_logprobs = tops[i];
            CHECK(llm_session_rewind(s, i, 0, NULL) == LLM_OK);
            CHECK(llm_generate(s, prompt, 8, &d, tokens[i], 30, &stats, NULL) ==
                  (ban == 3 ? LLM_ERR_CANCELLED : LLM_OK));
            CHECK(!b.wrong && b.n == (ban == 3 ? 9 : 30));
            CHECK(llm_session_length(s, i) == (ban == 3 ? 16 : 37));
            if (i && ban < 3) {
                CHECK(!memcmp(tokens[0], tokens[1], sizeof tokens[0]) &&
                      !memcmp(top[0], top[1], sizeof top[0]));
                for (k = 0; k < 30; k++)
                    CHECK(same_bits(&logprobs[0][k], &logprobs[1][k], 1) &&
                          same_bits(&tops[0][3 * k], &tops[1][3 * k], 3));
            }
        }
    llm_session_free(s);
    llm_model_free(model);
}

/* logprobs and top_*: of the model's own logits, whatever is done to those that are drawn from */
TEST(generate_logprobs) {
    llm_session *s = small_session(), *by_hand = small_session();
    int variant, i, k;
    if (!s || !by_hand) return;
    for (variant = 0; variant < 5; variant++) {
        const int n_top = variant == 4 ? 60 : variant == 3 ? 0 : variant;
        llm_generate_desc d;
        llm_generate_stats stats;
        llm_error err;
        bans b;
        int32_t prompt[9], tokens[20], top[20 * 60 + 60], want_top[60];
        float logprobs[21], tops[20 * 60 + 60], logits[60], want, want_tops[60];
        random_tokens(prompt, 9, 60, 3);
        memset(&d, 0, sizeof d);
        memset(&b, 0, sizeof b);
        memset(top, 0x55, sizeof top);
        memset(tops, 0x55, sizeof tops);
        memset(logprobs, 0x55, sizeof logprobs);
        b.n_prompt = 9;
        b.prompt = prompt;
        b.out = tokens;
        b.ban = 17;
        if (variant != 2) {            /* else: greedy, as they are */
            d.sampling.temperature = 1.7f;
            d.sampling.repetition_penalty = 1.3f;
            d.sampling.frequency_penalty = 0.4f;
            d.on_logits = on_logits;
            d.user = &b;
        }
        d.logprobs = variant == 1 ? NULL : logprobs;
        d.n_top = n_top;
        d.top_tokens = top;
        d.top_logprobs = tops;
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK &&
              llm_session_rewind(by_hand, 0, 0, NULL) == LLM_OK);
        CHECK(llm_generate(s, prompt, 9, &d, tokens, 20, &stats, &err) == LLM_OK &&
              stats.n_generated == 20);
        CHECK(llm_session_eval(by_hand, 0, prompt, 9, logits, NULL) == LLM_OK);
        for (i = 0; i < 20; i++) {
            CHECK(llm_logprobs(llm_session_context(by_hand), &want, tokens[i], want_top, want_tops,
                               n_top, logits, 60, NULL) == LLM_OK);
            if (d.logprobs) CHECK(same_bits(&want, &logprobs[i], 1));
            CHECK_MSG(!memcmp(want_top, top + i * n_top, (size_t)n_top * sizeof *top) &&
                          same_bits(want_tops, tops + i * n_top, (size_t)n_top),
                      "variant %d, token %d", variant, i);
            if (variant == 2) CHECK(top[2 * i] == tokens[i]);
            CHECK(llm_session_eval(by_hand, 0, &tokens[i], 1, logits, NULL) == LLM_OK);
        }
        for (k = 20 * n_top; k < 20 * n_top + 60; k++)
            CHECK(top[k] == 0x55555555 && !memcmp(&tops[k], "UUUU", 4));
        CHECK(!memcmp(&logprobs[d.logprobs ? 20 : 0], "UUUU", 4));
        /* capacity bounds them also where tokens are not wanted */
        memset(top, 0x55, sizeof top);
        memset(logprobs, 0x55, sizeof logprobs);
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        b.n = 0;
        d.on_logits = NULL;
        CHECK(llm_generate(s, prompt, 9, &d, NULL, 4, &stats, &err) == LLM_OK &&
              stats.n_generated == 4);
        CHECK(top[4 * n_top] == 0x55555555 && !memcmp(&logprobs[4], "UUUU", 4));
        if (d.logprobs || n_top) {
            CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
            CHECK(llm_generate(s, prompt, 9, &d, NULL, 0, &stats, &err) == LLM_OK &&
                  stats.n_generated == 0 && llm_session_length(s, 0) == 9);
        }
        d.n_top = 61;
        REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 9, &d, tokens, 20, &stats, &err),
                "n_top", "61", "60");
        d.n_top = -1;
        REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 9, &d, tokens, 20, &stats, &err),
                "n_top", "-1", "60");
        d.n_top = 2;
        d.top_tokens = NULL;
        REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 9, &d, tokens, 20, &stats, &err),
                "n_top", "NULL");
        d.top_tokens = top;
        d.top_logprobs = NULL;
        REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 9, &d, tokens, 20, &stats, &err),
                "n_top", "NULL");
    }
    drop_session(s);
    drop_session(by_hand);
}

/* A text in parts, whose counters go on, is the text at once: the token that was not evaluated is
 * the next prompt. Presence counts within a call only, so none here. */
TEST(generate_goes_on) {
    llm_session *s = small_session();
    llm_generate_desc d;
    llm_generate_stats stats;
    int32_t prompt[10], whole[24], parts[24];
    llm_error err;
    int i;
    if (!s) return;
    random_tokens(prompt, 10, 60, 3);
    for (i = 0; i < 4; i++) {
        int n = 0;
        memset(&d, 0, sizeof d);
        d.sampling.temperature = 1.1f;
        d.sampling.seed = 3 + (uint64_t)i;
        d.sampling.repetition_penalty = i & 1 ? 1.2f : 0.0f;
        d.sampling.top_p = i & 2 ? 0.9f : 0.0f;
        d.max_new_tokens = 24;
        d.counter = i == 3 ? UINT64_C(0xfffffffffffffff8) : 5 * (uint64_t)i;
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        CHECK(llm_generate(s, prompt, 10, &d, whole, 24, NULL, &err) == LLM_OK);
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        d.max_new_tokens = 12;
        while (n < 24) {
            CHECK(llm_generate(s, n ? parts + n - 1 : prompt, n ? 1 : 10, &d, parts + n, 24 - n,
                               &stats, &err) == LLM_OK);
            n += stats.n_generated;
            d.counter += (uint64_t)stats.n_generated;
        }
        CHECK_MSG(!memcmp(whole, parts, sizeof whole), "seed %d", i);
        d.counter = 1000;              /* other numbers, another text */
        d.max_new_tokens = 24;
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        CHECK(llm_generate(s, prompt, 10, &d, parts, 24, NULL, &err) == LLM_OK);
        CHECK(memcmp(whole, parts, sizeof whole) != 0);
    }
    /* penalties of what was generated: the prompt does not count */
    memset(&d, 0, sizeof d);
    d.max_new_tokens = 24;
    d.sampling.presence_penalty = 1e5f;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, whole, 24, NULL, &err) == LLM_OK);
    for (i = 0; i < 24 * 24; i++) CHECK(i / 24 >= i % 24 || whole[i / 24] != whole[i % 24]);
    d.sampling.presence_penalty = 0.0f;
    d.max_new_tokens = 1;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, parts, 1, NULL, &err) == LLM_OK && parts[0] == whole[0]);
    prompt[4] = parts[0];              /* in the prompt: it is drawn all the same */
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, parts, 1, NULL, &err) == LLM_OK);
    d.sampling.presence_penalty = 1e5f;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, parts + 1, 1, NULL, &err) == LLM_OK &&
          parts[1] == parts[0]);
    drop_session(s);
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
    RUN(sample_presence_and_frequency);
    RUN(sample_penalties_against_plain);
    RUN(sample_penalties_refused);
    RUN(logprobs_by_definition);
    RUN(logprobs_refuse);
    RUN(generate_on_logits);
    RUN(generate_on_logits_with_drafts);
    RUN(generate_logprobs);
    RUN(generate_goes_on);
}

/* Sessions: the cache against whole batches, several sequences, rewinding, refusals; generation. */

/* another instruction set for a session; scratch may differ in size */
static void session_use(llm_session *session, const llmi_kernels *kernels) {
    session->context->kernels = kernels;
    CHECK(llmi_scratch_reserve(session->context,
                               llmi_model_attention_scratch(session->context, LLM_PRECISION_FP32,
                                                            &session->model->config,
                                                            (size_t)session->desc.max_seq_len, 1,
                                                            0),
                               NULL) == LLM_OK);
}
/* GPT-2 of width C; DeepSeek: dense with a low-rank query and biases, or with experts and YaRN */
enum { SESSION_KINDS = 3 };
static llm_config session_config(int kind, int vocab, int T, int C, int heads) {
    llm_config c;
    if (kind == 0) return small_config(vocab, T, C, 2, heads);
    c = deepseek_config(kind == 2, kind == 1, vocab, T, 0);
    if (kind == 1) return c;
    c.yarn_factor = 4.0f;
    c.yarn_original_max_seq_len = T / 4;
    return c;
}
/* each instruction set with GPT-2 and with one of the others */
static void session_each(void (*test)(int kind, const llmi_kernels *kernels)) {
    int k;
    for (k = 0; kernels_at(k); k++) {
        test(0, kernels_at(k));
        test(1 + k % 2, kernels_at(k));
    }
}
static llm_session *new_session(const llm_model *model, int max_seq_len, int sequences,
                                int threads) {
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.max_seq_len = max_seq_len;
    d.n_sequences = sequences;
    d.n_threads = threads;
    return session_of(model, &d);
}

/* ---- the cache ------------------------------------------------------------------------------- */
static void session_equals_the_batch(int kind, const llmi_kernels *kernels) {
    static const int pieces[] = {1, 2, 15, 16, 17, 33, 63, 64, 65, 130, 150};
    const llm_config c = session_config(kind, 90, 150, 40, 5);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    float *whole = new_floats(150 * 90), logits[90];
    int32_t tokens[150];
    int p;
    if (!model) return;
    random_tokens(tokens, 150, 90, 4);
    CHECK(llm_model_logits(model, tokens, 1, 150, whole, NULL) == LLM_OK);
    for (p = 0; p < (int)(sizeof pieces / sizeof pieces[0]); p++) {
        llm_session *s = new_session(model, 0, 1, kind ? 1 : 2);
        int at;
        if (!s) return;
        session_use(s, kernels);
        for (at = 0; at < 150; at += pieces[p]) {
            const int n = at + pieces[p] > 150 ? 150 - at : pieces[p];
            double error;
            CHECK(llm_session_eval(s, 0, tokens + at, n, logits, NULL) == LLM_OK);
            CHECK(llm_session_length(s, 0) == at + n);
            error = relative_error(logits, whole + (at + n - 1) * 90, 90);
            CHECK_MSG(error < 1e-5, "%s, kind %d, pieces of %d: position %d differs by %g",
                      kernels->name, kind, pieces[p], at + n - 1, error);
        }
        llm_session_free(s);
    }
    llm_model_free(model);
    free(whole);
}
TEST(session_equals_the_batch) { session_each(session_equals_the_batch); }

/* a prompt longer than the buffers runs in parts */
static void session_long_prompt(int kind) {
    const llm_config c = session_config(kind, 40, 1100, 16, 2);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    float *whole = new_floats(1100 * 40), logits[40];
    int32_t tokens[1100];
    static const int lengths[] = {511, 512, 513, 528, 529, 1024, 1030, 1100};
    llm_session *s = model ? new_session(model, 0, 2, 2) : NULL;
    int i;
    if (!s) return;
    random_tokens(tokens, 1100, 40, 4);
    CHECK(llm_model_logits(model, tokens, 1, 1100, whole, NULL) == LLM_OK);
    for (i = 0; i < 8; i++) {
        double error;
        CHECK(llm_session_rewind(s, 1, 0, NULL) == LLM_OK);
        CHECK(llm_session_eval(s, 1, tokens, lengths[i], logits, NULL) == LLM_OK);
        error = relative_error(logits, whole + (lengths[i] - 1) * 40, 40);
        CHECK_MSG(error < 1e-5, "kind %d, prompt of %d: differs by %g", kind, lengths[i], error);
    }
    CHECK(llm_session_rewind(s, 1, 0, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 1, tokens, 700, NULL, NULL) == LLM_OK);      /* without logits */
    CHECK(llm_session_eval(s, 1, tokens + 700, 400, logits, NULL) == LLM_OK);
    CHECK(relative_error(logits, whole + 1099 * 40, 40) < 1e-5);
    llm_session_free(s);
    llm_model_free(model);
    free(whole);
}
TEST(session_long_prompt) {
    int kind;
    for (kind = 0; kind < SESSION_KINDS; kind++) session_long_prompt(kind);
}

static void session_sequences_are_apart(int kind) {
    static const int pieces[] = {1, 20, 5, 9, 17, 2, 33, 16, 3, 1};
    const llm_config c = session_config(kind, 70, 100, 24, 3);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *s = model ? new_session(model, 90, 3, 2) : NULL;
    float *whole = new_floats(3 * 90 * 70), logits[70];
    int32_t tokens[270];
    int length[3] = {0, 0, 0}, turn;
    if (!s) return;
    random_tokens(tokens, 270, 70, 4);
    CHECK(llm_model_logits(model, tokens, 3, 90, whole, NULL) == LLM_OK);
    for (turn = 0; turn < 30; turn++) { /* by ten pieces each, in different order */
        const int sequence = turn % 3, n = pieces[turn % 10];
        if (length[sequence] + n > 90) continue;
        CHECK(llm_session_eval(s, sequence, tokens + 90 * sequence + length[sequence], n, logits,
                               NULL) == LLM_OK);
        length[sequence] += n;
        CHECK(llm_session_length(s, sequence) == length[sequence]);
        CHECK_MSG(relative_error(logits, whole + (90 * sequence + length[sequence] - 1) * 70, 70) <
                      1e-5,
                  "kind %d, sequence %d at %d", kind, sequence, length[sequence]);
    }
    CHECK(length[0] > 60 && length[1] > 60 && length[2] > 60);
    CHECK(llm_session_length(s, 3) == -1 && llm_session_length(s, -1) == -1 &&
          llm_session_length(NULL, 0) == -1);
    CHECK(llm_session_cache_bytes(s) == 3 * llm_config_cache_bytes(&c, 90, LLM_F32));
    CHECK(llm_session_cache_bytes(s) == (size_t)3 * 2 * (kind ? 13 + 4 : 2 * 24) * 90 * 4 &&
          llm_session_cache_bytes(NULL) == 0);
    llm_session_free(s);
    llm_model_free(model);
    free(whole);
}
TEST(session_sequences_are_apart) {
    int kind;
    for (kind = 0; kind < SESSION_KINDS; kind++) session_sequences_are_apart(kind);
}

/* calls of at most 16 rows: what a row gets does not depend on what else is in the call */
static void session_few_rows_give_the_same_bits(int kind, const llmi_kernels *kernels) {
    const llm_config c = session_config(kind, 70, 100, 40, 5);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *many = model ? new_session(model, 0, 20, kind ? 1 : 2) : NULL,
                *one = model ? new_session(model, 0, 1, 1) : NULL;
    float *logits = new_floats(20 * 70), *expected = new_floats(20 * 70), row[70];
    int32_t tokens[100], batch[20];
    int n, i, turn;
    if (!many || !one) return;
    session_use(many, kernels);
    session_use(one, kernels);
    random_tokens(tokens, 100, 70, 4);
    for (n = 2; n <= 16; n++) {    /* n tokens in one call, or one by one */
        CHECK(llm_session_rewind(one, 0, 0, NULL) == LLM_OK &&
              llm_session_rewind(many, 0, 0, NULL) == LLM_OK);
        CHECK(llm_session_eval(one, 0, tokens, 70, NULL, NULL) == LLM_OK);
        CHECK(llm_session_eval(many, 0, tokens, 70, NULL, NULL) == LLM_OK);
        CHECK(llm_session_eval(many, 0, tokens + 70, n, logits, NULL) == LLM_OK);
        for (i = 0; i < n; i++)
            CHECK(llm_session_eval(one, 0, tokens + 70 + i, 1, row, NULL) == LLM_OK);
        CHECK_MSG(same_bits(logits, row, 70), "%s, kind %d: %d rows in one call differ",
                  kernels->name, kind, n);
    }
    CHECK(llm_session_rewind(many, 0, 0, NULL) == LLM_OK);
    for (i = 0; i < 20; i++)       /* different lengths, one empty */
        if (i % 7 != 3)
            CHECK(llm_session_eval(many, i, tokens + i, 1 + 4 * i, NULL, NULL) == LLM_OK);
    for (turn = 0; turn < 3; turn++) {
        for (i = 0; i < 20; i++) {
            batch[i] = (i + turn) % 5 == 0 ? -1 - i : tokens[i * 3 + turn];
            memset(expected + i * 70, 0x55, 70 * sizeof(float));
            memset(logits + i * 70, 0x55, 70 * sizeof(float));
            if (batch[i] < 0) continue;
            CHECK(llm_session_rewind(one, 0, 0, NULL) == LLM_OK);
            if (i % 7 != 3)
                CHECK(llm_session_eval(one, 0, tokens + i, 1 + 4 * i, NULL, NULL) == LLM_OK);
            for (n = 0; n <= turn; n++)        /* the turns so far that did not skip it */
                if ((i + n) % 5)
                    CHECK(llm_session_eval(one, 0, tokens + i * 3 + n, 1, expected + i * 70,
                                           NULL) == LLM_OK);
            CHECK(llm_session_length(one, 0) == llm_session_length(many, i) + 1);
        }
        CHECK(llm_session_eval_batch(many, batch, turn == 1 ? NULL : logits, NULL) == LLM_OK);
        for (i = 0; i < 20 && turn != 1; i++)
            CHECK_MSG(memcmp(logits + i * 70, expected + i * 70, 70 * sizeof(float)) == 0,
                      "%s, kind %d: row %d of the batch differs in turn %d", kernels->name,
                      kind, i, turn);
    }
    for (i = 0; i < 20; i++) batch[i] = -1;
    CHECK(llm_session_eval_batch(many, batch, logits, NULL) == LLM_OK);
    llm_session_free(many);
    llm_session_free(one);
    llm_model_free(model);
    free(logits);
    free(expected);
}
TEST(session_few_rows_give_the_same_bits) { session_each(session_few_rows_give_the_same_bits); }

static void session_threads_give_the_same_bits(int kind, const llmi_kernels *kernels) {
    const llm_config c = session_config(kind, 300, 200, 48, 3);
    llm_model *model = shaken_model(&c, 31, 1, NULL);
    float first[3][300], logits[3][300];
    int32_t tokens[200];
    int threads;
    if (!model) return;
    random_tokens(tokens, 200, 300, 4);
    for (threads = 1; threads < 8; threads += threads > 2 ? 4 : 1) {
        llm_session *s = new_session(model, 0, 1, threads);
        if (!s) return;
        session_use(s, kernels);
        CHECK(llm_session_eval(s, 0, tokens, 150, logits[0], NULL) == LLM_OK);
        CHECK(llm_session_eval(s, 0, tokens + 150, 13, logits[1], NULL) == LLM_OK);
        CHECK(llm_session_eval(s, 0, tokens + 163, 1, logits[2], NULL) == LLM_OK);
        if (threads == 1) memcpy(first, logits, sizeof first);
        CHECK_MSG(memcmp(first, logits, sizeof first) == 0,
                  "%s, kind %d: %d threads give other bits than one", kernels->name, kind,
                  threads);
        llm_session_free(s);
    }
    llm_model_free(model);
}
TEST(session_threads_give_the_same_bits) { session_each(session_threads_give_the_same_bits); }

TEST(session_rewinds) {
    const llm_config c = small_config(70, 60, 24, 2, 3);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *s = model ? new_session(model, 0, 2, 2) : NULL;
    float a[70], b[70], other[70];
    int32_t tokens[60];
    llm_error err;
    if (!s) return;
    random_tokens(tokens, 60, 70, 4);
    CHECK(llm_session_eval(s, 1, tokens, 30, NULL, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 0, tokens + 5, 20, other, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 1, tokens + 30, 10, a, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 1, tokens, 20, NULL, NULL) == LLM_OK);
    CHECK(llm_session_rewind(s, 1, 30, &err) == LLM_OK && llm_session_length(s, 1) == 30);
    CHECK(llm_session_length(s, 0) == 20);
    CHECK(llm_session_eval(s, 1, tokens + 30, 10, b, NULL) == LLM_OK);
    CHECK(same_bits(a, b, 70));
    CHECK(llm_session_rewind(s, 1, 40, &err) == LLM_OK &&
          llm_session_rewind(s, 1, 0, &err) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_session_rewind(s, 0, 21, &err), "21", "20");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_rewind(s, 0, -1, &err), "-1", "20");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_rewind(s, 2, 0, &err), "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_rewind(s, -1, 0, &err), "-1");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_rewind(NULL, 0, 0, &err), "NULL");
    CHECK(llm_session_length(s, 0) == 20);
    /* nothing is derived from weights: after they change, rewind and go on */
    shake_weights(model, 77);
    CHECK(llm_session_rewind(s, 0, 0, &err) == LLM_OK);
    CHECK(llm_session_eval(s, 0, tokens + 5, 20, a, NULL) == LLM_OK && !same_bits(a, other, 70));
    {
        float *whole = new_floats(20 * 70);
        CHECK(llm_model_logits(model, tokens + 5, 1, 20, whole, NULL) == LLM_OK);
        CHECK(relative_error(a, whole + 19 * 70, 70) < 1e-5);
        free(whole);
    }
    llm_session_free(s);
    llm_model_free(model);
}

TEST(session_refuses_and_is_as_before) {
    const llm_config c = small_config(70, 40, 24, 2, 3);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *s = model ? new_session(model, 30, 3, 2) : NULL;
    float logits[3 * 70], expected[70];
    int32_t tokens[60], batch[3];
    llm_session_desc d;
    llm_error err;
    if (!s) return;
    random_tokens(tokens, 60, 70, 4);
    CHECK(llm_session_eval(s, 0, tokens, 20, NULL, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 0, tokens + 20, 3, expected, NULL) == LLM_OK);
    CHECK(llm_session_rewind(s, 0, 20, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, tokens, 11, logits, &err), "11", "20", "30");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, tokens, INT_MAX, logits, &err), "2147483647",
            "30");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, tokens, 0, logits, &err), "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, tokens, -4, logits, &err), "-4");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 3, tokens, 1, logits, &err), "3", "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, -1, tokens, 1, logits, &err), "-1");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, NULL, 1, logits, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(NULL, 0, tokens, 1, logits, &err), "NULL");
    tokens[7] = 70;
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, tokens, 10, logits, &err), "70", "7");
    tokens[7] = -1;
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval(s, 0, tokens, 10, logits, &err), "-1", "7", "70");
    tokens[7] = 1;
    CHECK(llm_session_length(s, 0) == 20);
    CHECK(llm_session_eval(s, 0, tokens + 20, 3, logits, &err) == LLM_OK &&
          same_bits(logits, expected, 70));
    /* a batch is refused as a whole */
    CHECK(llm_session_eval(s, 2, tokens, 30, NULL, &err) == LLM_OK);
    batch[0] = 5;
    batch[1] = 6;
    batch[2] = 7;
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_batch(s, batch, logits, &err), "2", "30");
    CHECK(llm_session_length(s, 0) == 23 && llm_session_length(s, 1) == 0 &&
          llm_session_length(s, 2) == 30);
    batch[2] = 70;
    CHECK(llm_session_rewind(s, 2, 10, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_batch(s, batch, logits, &err), "70");
    CHECK(llm_session_length(s, 0) == 23 && llm_session_length(s, 1) == 0 &&
          llm_session_length(s, 2) == 10);
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_batch(s, NULL, logits, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_batch(NULL, batch, logits, &err), "NULL");
    batch[0] = batch[2] = INT32_MIN;
    CHECK(llm_session_eval_batch(s, batch, logits, &err) == LLM_OK &&
          llm_session_length(s, 1) == 1);
    llm_session_free(s);
    llm_session_free(NULL);

    memset(&d, 0, sizeof d);
    d.max_seq_len = 41;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_session_create(model, &d, &err), "max_seq_len", "41", "40");
    d.max_seq_len = -1;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_session_create(model, &d, &err), "max_seq_len", "-1", "40");
    memset(&d, 0, sizeof d);
    d.n_sequences = -2;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_session_create(model, &d, &err), "n_sequences", "-2", "1");
    memset(&d, 0, sizeof d);
    d.n_threads = 1025;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_session_create(model, &d, &err), "n_threads", "1025", "1024");
    memset(&d, 0, sizeof d);
    d.cache_dtype = LLM_Q4_K;
    NOT_MADE(LLM_ERR_UNSUPPORTED, llm_session_create(model, &d, &err), "cache_dtype");
    memset(&d, 0, sizeof d);
    d.speculate = 1;
    NOT_MADE(LLM_ERR_UNSUPPORTED, llm_session_create(model, &d, &err), "speculate");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_session_create(NULL, NULL, &err), "NULL");
    llm_model_free(model);
}

/* ---- generation ------------------------------------------------------------------------------ */
/* with a model of its own, which has 60 tokens and 40 positions */
static llm_session *small_session(void) {
    const llm_config c = small_config(60, 40, 24, 2, 3);
    llm_model *model = shaken_model(&c, 33, 2, NULL);
    return model ? new_session(model, 0, 1, 2) : NULL;
}
static void drop_session(llm_session *session) {
    llm_model *model = session ? (llm_model *)session->model : NULL;
    llm_session_free(session);
    llm_model_free(model);
}

TEST(generate_golden_greedy) {
    int c;
    for (c = 0; c < N_GOLDEN_CASES; c++) {
        golden g = golden_open(golden_cases[c], "golden.safetensors");
        const golden_tensor prompt = golden_get(&g, "prompt"), greedy = golden_get(&g, "greedy");
        llm_model *model = golden_model(golden_cases[c], 2, NULL);
        const llmi_kernels *kernels;
        int k;
        if (!model || !greedy.count) return;
        for (k = 0; (kernels = kernels_at(k)) != NULL; k++) {
            llm_session *s = new_session(model, 0, 1, 2);
            llm_generate_stats stats;
            int32_t tokens[200];
            if (!s) return;
            session_use(s, kernels);
            CHECK(llm_generate(s, prompt.i, (int)prompt.count, NULL, tokens, 200, &stats, NULL) ==
                  LLM_OK);
            CHECK_MSG(stats.n_generated == (int)greedy.count, "%s: %d tokens instead of %d",
                      golden_cases[c], stats.n_generated, (int)greedy.count);
            CHECK_MSG(memcmp(tokens, greedy.i, greedy.count * sizeof(int32_t)) == 0,
                      "%s %s: other tokens", golden_cases[c], kernels->name);
            CHECK(stats.n_prompt == (int)prompt.count && stats.n_drafted == 0 &&
                  stats.n_accepted == 0);
            CHECK(stats.prefill_seconds >= 0.0 && stats.decode_seconds >= 0.0);
            CHECK(llm_session_length(s, 0) == (int)(prompt.count + greedy.count) - 1);
            llm_session_free(s);
        }
        llm_model_free(model);
        golden_close(&g);
    }
}

/* generate is eval and sample, with random number i for token i and the whole sequence as
 * history */
TEST(generate_is_eval_and_sample) {
    const llm_config c = small_config(60, 80, 24, 2, 3);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *s = model ? new_session(model, 0, 2, 2) : NULL,
                *by_hand = model ? new_session(model, 0, 1, 2) : NULL;
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_generate_desc d;
    heard h;
    int32_t history[80], tokens[20];
    float logits[60];
    int i, variant;
    if (!s || !by_hand || !context) return;
    for (variant = 0; variant < 4; variant++) {
        int n = 9;
        memset(&d, 0, sizeof d);
        memset(&h, 0, sizeof h);
        d.max_new_tokens = 20;
        d.sampling.seed = 5 + (uint64_t)variant;
        if (variant) d.sampling.temperature = 0.8f;
        if (variant & 1) d.sampling.repetition_penalty = 1.4f;
        if (variant & 2) {
            d.sampling.top_k = 20;
            d.sampling.top_p = 0.9f;
            d.sampling.min_p = 0.02f;
        }
        d.on_token = on_token;
        d.user = &h;
        random_tokens(history, 9, 60, 3 + (uint64_t)variant);
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK &&
              llm_session_rewind(by_hand, 0, 0, NULL) == LLM_OK);
        CHECK(llm_generate(s, history, 9, &d, tokens, 20, NULL, NULL) == LLM_OK);
        CHECK(h.n == 20 && memcmp(h.tokens, tokens, sizeof tokens) == 0);
        CHECK(llm_session_eval(by_hand, 0, history, 9, logits, NULL) == LLM_OK);
        for (i = 0; i < 20; i++, n++) {
            CHECK(llm_sample(context, &history[n], logits, 60, &d.sampling, history, n, i,
                             (uint64_t)i, NULL) == LLM_OK);
            CHECK_MSG(history[n] == tokens[i], "variant %d, token %d: %d instead of %d", variant, i,
                      (int)tokens[i], (int)history[n]);
            if (history[n] != tokens[i]) break;
            CHECK(llm_session_eval(by_hand, 0, &history[n], 1, logits, NULL) == LLM_OK);
        }
    }
    CHECK(llm_session_length(s, 1) == 0);
    llm_context_free(context);
    llm_session_free(s);
    llm_session_free(by_hand);
    llm_model_free(model);
}

TEST(generate_ends) {
    llm_session *s = small_session();
    llm_generate_desc d;
    llm_generate_stats stats;
    heard h;
    int32_t prompt[41], all[40], tokens[40], stops[3];
    llm_error err;
    int first;
    if (!s) return;
    memset(&d, 0, sizeof d);
    d.sampling.temperature = 1.0f;
    d.sampling.seed = 1;
    random_tokens(prompt, 41, 60, 3);
    /* a full context */
    CHECK(llm_generate(s, prompt, 10, &d, all, 40, &stats, &err) == LLM_OK &&
          stats.n_generated == 30);
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 40, &d, tokens, 40, &stats, &err) == LLM_OK &&
          stats.n_generated <= 1);
    CHECK(llm_session_length(s, 0) == 40);
    /* max_new_tokens */
    d.max_new_tokens = 7;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, tokens, 40, &stats, &err) == LLM_OK &&
          stats.n_generated == 7);
    CHECK(memcmp(tokens, all, 7 * sizeof(int32_t)) == 0 && llm_session_length(s, 0) == 16);
    /* capacity: nothing is written beyond it */
    d.max_new_tokens = 0;
    memset(tokens, 0x55, sizeof tokens);
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, tokens, 5, &stats, &err) == LLM_OK &&
          stats.n_generated == 5);
    CHECK(memcmp(tokens, all, 5 * sizeof(int32_t)) == 0 && tokens[5] == 0x55555555);
    /* only the callback */
    memset(&h, 0, sizeof h);
    d.on_token = on_token;
    d.user = &h;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, NULL, 0, &stats, &err) == LLM_OK &&
          stats.n_generated == 30 && h.n == 30);
    CHECK(memcmp(h.tokens, all, 30 * sizeof(int32_t)) == 0);
    /* cancelled by it: with all so far */
    memset(&h, 0, sizeof h);
    h.cancel_at = 3;
    memset(tokens, 0x55, sizeof tokens);
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    REFUSED(LLM_ERR_CANCELLED, llm_generate(s, prompt, 10, &d, tokens, 40, &stats, &err), "3");
    CHECK(stats.n_generated == 3 && h.n == 3 && memcmp(tokens, all, 3 * sizeof(int32_t)) == 0);
    CHECK(tokens[3] == 0x55555555 && llm_session_length(s, 0) == 12);
    /* and what was generated last goes on, being the next prompt, as if nothing had happened
     * (greedy, as random numbers are counted anew) */
    memset(&d, 0, sizeof d);
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, all, 40, &stats, &err) == LLM_OK);
    d.max_new_tokens = 6;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, tokens, 40, &stats, &err) == LLM_OK);
    CHECK(llm_generate(s, tokens + 5, 1, &d, tokens + 6, 34, &stats, &err) == LLM_OK &&
          stats.n_generated == 6);
    CHECK(memcmp(tokens, all, 12 * sizeof(int32_t)) == 0);
    /* stop tokens: the first of them to come is returned, and the last */
    memset(&d, 0, sizeof d);
    d.sampling.temperature = 1.0f;
    d.sampling.seed = 1;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, all, 40, &stats, &err) == LLM_OK);
    stops[0] = all[12];
    stops[1] = all[4];
    stops[2] = 1000000;                /* never comes */
    for (first = 0; all[first] != stops[0] && all[first] != stops[1];) first++;
    d.stop_tokens = stops;
    d.n_stop_tokens = 3;
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
    CHECK(llm_generate(s, prompt, 10, &d, tokens, 40, &stats, &err) == LLM_OK);
    CHECK_MSG(stats.n_generated == first + 1 &&
                  memcmp(tokens, all, (size_t)(first + 1) * sizeof(int32_t)) == 0,
              "stopped after %d instead of %d", stats.n_generated, first + 1);
    /* no finite logit: as before the call */
    CHECK(llm_session_rewind(s, 0, 7, NULL) == LLM_OK);
    ((float *)llm_model_tensor(s->model, 0).data)[0] = (float)NAN;
    prompt[1] = 0;
    REFUSED(LLM_ERR_NUMERIC, llm_generate(s, prompt, 10, &d, tokens, 40, &stats, &err), "60");
    CHECK(llm_session_length(s, 0) == 7);
    drop_session(s);
}

/* the model's own eos, unless other tokens are given or none shall stop */
TEST(generate_stops_at_the_end_of_text) {
    const llm_config c = small_config(60, 40, 24, 2, 3);
    llm_model *model = shaken_model(&c, 33, 2, NULL);
    llm_session *s = model ? new_session(model, 0, 1, 1) : NULL;
    llm_special_tokens special = llm_model_special_tokens(model);
    llm_generate_desc d;
    llm_generate_stats stats;
    int32_t prompt[10], all[40], tokens[40];
    llm_error err;
    int k, at, choice;
    if (!s) return;
    memset(&d, 0, sizeof d);
    d.sampling.temperature = 1.0f;
    random_tokens(prompt, 10, 60, 3);
    CHECK(llm_generate(s, prompt, 10, &d, all, 40, &stats, &err) == LLM_OK &&
          stats.n_generated == 30);
    special.n_eos = 2;
    special.eos[0] = all[12];
    special.eos[1] = all[7];
    CHECK(llm_model_set_special_tokens(model, &special, &err) == LLM_OK);
    for (at = 0; all[at] != all[12] && all[at] != all[7]; at++) {}
    for (choice = 0; choice < 3; choice++) {
        const int32_t other = all[20];
        int want = at + 1;
        d.n_stop_tokens = choice == 1 ? 1 : choice == 2 ? -1 : 0;
        d.stop_tokens = &other;
        if (choice == 1)
            for (want = 1; all[want - 1] != other; want++) {}
        if (choice == 2) want = 30;
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        CHECK(llm_generate(s, prompt, 10, &d, tokens, 40, &stats, &err) == LLM_OK);
        CHECK_MSG(stats.n_generated == want, "choice %d: %d tokens, not %d", choice,
                  stats.n_generated, want);
        for (k = 0; k < stats.n_generated; k++) CHECK(tokens[k] == all[k]);
    }
    d.n_stop_tokens = -2;
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 1, &d, tokens, 1, &stats, &err),
            "n_stop_tokens", "-2");
    llm_session_free(s);
    llm_model_free(model);
}

TEST(session_memory_is_what_was_said) {
    int variant;
    for (variant = 0; variant < 6; variant++) {
        llm_config c = small_config(700, 300, 48, 3, 4);
        llm_session_desc d;
        llm_memory memory;
        llm_model *model;
        llm_session *s;
        llm_error err;
        heap h;
        size_t before;
        memset(&d, 0, sizeof d);
        if (variant & 1) CHECK(llm_config_preset(&c, "deepseek-tiny", NULL) == LLM_OK);
        d.n_threads = 1 + variant / 2;
        d.n_sequences = variant == 2 ? 9 : variant == 3 ? 20 : 0;
        d.max_seq_len = variant > 3 ? 100 : 0;
        d.speculate = variant == 5;
        model = model_in(&h, &c, 0, 1);
        CHECK(llm_session_memory(&c, &d, &memory, &err) == LLM_OK);
        CHECK(memory.parameters == 0 && memory.gradients == 0 && memory.optimizer == 0 &&
              memory.total == memory.cache + memory.activations + memory.scratch);
        before = h.bytes;
        s = model ? llm_session_create(model, &d, &err) : NULL;
        CHECK(s && memory.cache == llm_session_cache_bytes(s));
        CHECK_MSG(fabs((double)(h.bytes - before) / (double)memory.total - 1.0) < 0.02,
                  "variant %d: %lu bytes foretold, %lu allocated", variant,
                  (unsigned long)memory.total, (unsigned long)(h.bytes - before));
        llm_session_free(s);
        llm_model_free(model);
        CHECK(h.live == 0);
        d.max_seq_len = c.max_seq_len + 1;
        REFUSED(LLM_ERR_ARGUMENT, llm_session_memory(&c, &d, &memory, &err), "max_seq_len");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_memory(&c, NULL, NULL, &err), "memory");
        /* nothing needs to fit in this machine to be foretold */
        CHECK(llm_config_preset(&c, "deepseek-v3", NULL) == LLM_OK);
        CHECK(llm_session_memory(&c, NULL, &memory, &err) == LLM_OK);
        CHECK(memory.cache == (size_t)163840 * 61 * (512 + 64) * 4);
    }
}

/* only the cache, the tokens and a thread's scores of 4 heads grow with the context */
TEST(session_scratch_does_not_grow) {
    int kind;
    for (kind = 0; kind < SESSION_KINDS; kind++) {
        llm_session_desc d;
        llm_memory small, large;
        llm_config c = session_config(kind, 90, 4096, 40, 5);
        memset(&d, 0, sizeof d);
        d.n_threads = 2;
        CHECK(llm_session_memory(&c, &d, &small, NULL) == LLM_OK);
        c.max_seq_len = 1 << 20;
        CHECK(llm_session_memory(&c, &d, &large, NULL) == LLM_OK);
        CHECK(large.cache == small.cache * 256);
        CHECK(large.activations - small.activations == ((1 << 20) - 4096) * sizeof(int32_t));
        CHECK(large.scratch <= small.scratch + (1 << 20) * 2 * 4 * sizeof(float));
    }
}

TEST(generate_seeds) {
    const llm_config c = small_config(60, 64, 24, 2, 3);
    llm_model *model = shaken_model(&c, 33, 2, NULL);
    int32_t prompt[5], first[50], tokens[50];
    int i;
    if (!model) return;
    random_tokens(prompt, 5, 60, 3);
    for (i = 0; i < 5; i++) {
        llm_session *s = new_session(model, 0, 1, 1 + i);
        llm_generate_desc d;
        if (!s) return;
        memset(&d, 0, sizeof d);
        d.sampling.temperature = 1.0f;
        d.sampling.seed = i < 3 ? 7 : 8;
        CHECK(llm_generate(s, prompt, 5, &d, i == 0 ? first : tokens, 50, NULL, NULL) == LLM_OK);
        if (i == 1 || i == 2) CHECK(memcmp(first, tokens, sizeof first) == 0);
        if (i == 3) CHECK_MSG(memcmp(first, tokens, sizeof first) != 0, "the seed has no effect");
        llm_session_free(s);
    }
    llm_model_free(model);
}

TEST(generate_refuses) {
    llm_session *s = small_session();
    llm_generate_desc d;
    llm_error err;
    int32_t prompt[41], tokens[40];
    int i;
    if (!s) return;
    random_tokens(prompt, 41, 60, 3);
    memset(&d, 0, sizeof d);
    CHECK(llm_session_eval(s, 0, prompt, 8, NULL, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 0, &d, tokens, 40, NULL, &err), "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, -1, &d, tokens, 40, NULL, &err), "-1");
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 33, &d, tokens, 40, NULL, &err), "33", "8",
            "40");
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, NULL, 1, &d, tokens, 40, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(NULL, prompt, 1, &d, tokens, 40, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 1, &d, tokens, -1, NULL, &err), "-1");
    d.max_new_tokens = -3;
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 1, &d, tokens, 40, NULL, &err), "-3");
    d.max_new_tokens = 0;
    d.n_stop_tokens = 2;
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 1, &d, tokens, 40, NULL, &err),
            "stop_tokens");
    d.n_stop_tokens = 0;
    d.speculate = 1;
    REFUSED(LLM_ERR_UNSUPPORTED, llm_generate(s, prompt, 1, &d, tokens, 40, NULL, &err),
            "speculate");
    d.speculate = 0;
    prompt[2] = 60;
    REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 5, &d, tokens, 40, NULL, &err), "60", "2");
    prompt[2] = 0;
    for (i = 0; i < 5; i++) {          /* sampling is checked before the prompt is taken in */
        memset(&d, 0, sizeof d);
        d.sampling.temperature = i == 0 ? -1.0f : i == 1 ? (float)NAN : 1.0f;
        if (i == 2) d.sampling.top_k = -1;
        if (i == 3) d.sampling.top_p = 1.5f;
        if (i == 4) d.sampling.min_p = -0.5f;
        REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 5, &d, tokens, 40, NULL, &err), "");
        CHECK_MSG(llm_session_length(s, 0) == 8,
                  "sampling %d is refused with %d positions in the cache, not 8", i,
                  llm_session_length(s, 0));
        CHECK(llm_session_rewind(s, 0, 8, NULL) == LLM_OK);
    }
    drop_session(s);
}

static void run_session(void) {
    RUN(session_equals_the_batch);
    RUN(session_long_prompt);
    RUN(session_sequences_are_apart);
    RUN(session_few_rows_give_the_same_bits);
    RUN(session_threads_give_the_same_bits);
    RUN(session_rewinds);
    RUN(session_refuses_and_is_as_before);
    RUN(generate_golden_greedy);
    RUN(generate_is_eval_and_sample);
    RUN(generate_ends);
    RUN(generate_stops_at_the_end_of_text);
    RUN(session_memory_is_what_was_said);
    RUN(session_scratch_does_not_grow);
    RUN(generate_seeds);
    RUN(generate_refuses);
}

/* Sessions, any rows in one call: llm_session_eval_rows against llm_session_eval alone; sequences
 * copied and read back; generation on several sequences, with and without drafts. */

/* ---- models ---------------------------------------------------------------------------------- */
/* shaken weights in a type: what does not fit it stays f32 */
static llm_model *rows_model(const llm_config *c, llm_dtype dtype, uint64_t seed) {
    llm_model *plain = shaken_model(c, seed, 2, NULL), *typed;
    llm_model_desc d = model_desc(0, 2, NULL);
    llm_error err;
    if (!plain || dtype == LLM_F32) return plain;
    d.dtype = dtype;
    err.message[0] = 0;
    typed = llm_model_create(c, &d, &err);
    CHECK_MSG(typed && llm_model_copy(typed, plain, &err) == LLM_OK, "%s", err.message);
    llm_model_free(plain);
    return typed;
}
/* as session_config, but with sizes that blocks of 32 divide */
static llm_config rows_config(int kind, int vocab, int T, int wide) {
    llm_config c = session_config(kind, vocab, T, wide ? 64 : 40, wide ? 2 : 5);
    if (!wide || kind == 0) return c;
    c.d_model = c.d_ffn = 64;
    if (c.q_lora_rank) c.q_lora_rank = 32;
    c.kv_lora_rank = c.qk_nope_head_dim = c.qk_rope_head_dim = c.v_head_dim = 32;
    if (c.n_routed_experts) c.moe_d_ffn = 32;
    return c;
}

/* ---- any rows in one call -------------------------------------------------------------------- */
typedef struct rows_entry { int sequence, n, n_logits; } rows_entry;
enum { ROWS_V = 50, ROWS_T = 760, ROWS_MOST = 14 };
/* each a call; 0 tokens end it */
static const rows_entry rows_calls[][ROWS_MOST] = {
    {{0, 1, 1}, {1, 17, 17}, {2, 16, 16}, {0, 2, 1}, {3, 1, 0}, {0, 0, 0}},
    {{3, 600, 600}, {0, 3, 0}, {1, 5, 5}, {0, 4, 2}, {0, 0, 0}},
    {{0, 1, 1}, {1, 1, 1}, {2, 1, 1}, {3, 1, 1}, {4, 1, 1}, {0, 1, 1}, {1, 1, 0}, {2, 1, 1},
     {0, 0, 0}},
    {{2, 15, 3}, {2, 2, 2}, {2, 16, 0}, {4, 16, 1}, {4, 18, 18}, {4, 1, 1}, {0, 1, 1}, {0, 0, 0}},
    {{0, 7, 0}, {1, 30, 0}, {0, 0, 0}},                /* logits of nothing: NULL */
    {{4, 513, 2}, {1, 16, 16}, {1, 16, 1}, {0, 520, 9}, {0, 1, 1}, {3, 1, 1}, {0, 0, 0}},
    {{5, 1, 1}, {5, 1, 0}, {5, 1, 1}, {5, 14, 14}, {5, 16, 16}, {5, 1, 1}, {0, 0, 0}}};

/* the same entry in a call of its own, or each of its tokens: logits (n_logits,V). Few rows of a
 * quantised head have their inputs quantised, too; more than 16 have not. */
static void rows_alone(llm_session *s, const rows_entry *entry, const int32_t *tokens,
                       float *logits, double most) {
    const int first = entry->n - entry->n_logits, length = llm_session_length(s, entry->sequence);
    int i;
    if (entry->n <= 16 && entry->n_logits > 1) {
        for (i = 0; i < entry->n; i++)
            CHECK(llm_session_eval(s, entry->sequence, tokens + i, 1,
                                   i < first ? NULL : logits + (i - first) * ROWS_V, NULL) ==
                  LLM_OK);
        return;
    }
    CHECK(llm_session_eval(s, entry->sequence, tokens, entry->n,
                           entry->n_logits ? logits : NULL, NULL) == LLM_OK);
    if (entry->n_logits > 1) {         /* more rows of the head: the last one to rounding */
        const size_t last = (size_t)(entry->n_logits - 1) * ROWS_V;
        float row[ROWS_V];
        llm_rows rows;
        memcpy(row, logits, sizeof row);
        rows.sequence = entry->sequence;
        rows.tokens = tokens;
        rows.n = entry->n;
        rows.n_logits = entry->n_logits;
        CHECK(llm_session_rewind(s, entry->sequence, length, NULL) == LLM_OK);
        CHECK(llm_session_eval_rows(s, &rows, 1, logits, NULL) == LLM_OK);
        CHECK(entry->n_logits > 16 ? relative_error(logits + last, row, ROWS_V) < most
                                   : same_bits(logits + last, row, ROWS_V));
    }
}
static void rows_equal_each_alone(int kind, const llmi_kernels *kernels, llm_dtype dtype) {
    const llm_config c = rows_config(kind, ROWS_V, ROWS_T, dtype != LLM_F32);
    llm_model *model = rows_model(&c, dtype, 31);
    llm_session *together = model ? new_session(model, 0, 6, kind ? 1 : 2) : NULL,
                *alone = model ? new_session(model, 0, 6, 1) : NULL;
    float *got = new_floats(1200 * ROWS_V), *want = new_floats(1200 * ROWS_V);
    int32_t *text = (int32_t *)plain_alloc(6 * ROWS_T * sizeof *text);
    size_t call;
    int i;
    if (!together || !alone) return;
    session_use(together, kernels);
    session_use(alone, kernels);
    random_tokens(text, 6 * ROWS_T, ROWS_V, 4);
    for (call = 0; call < sizeof rows_calls / sizeof rows_calls[0]; call++) {
        const rows_entry *e = rows_calls[call];
        llm_rows rows[ROWS_MOST];
        llm_error err;
        int n, at = 0, length[6];
        for (i = 0; i < 6; i++) length[i] = llm_session_length(alone, i);
        err.message[0] = 0;
        for (n = 0; e[n].n; n++) {
            rows[n].sequence = e[n].sequence;
            rows[n].tokens = text + e[n].sequence * ROWS_T + length[e[n].sequence];
            rows[n].n = e[n].n;
            rows[n].n_logits = e[n].n_logits;
            length[e[n].sequence] += e[n].n;
            rows_alone(alone, &e[n], rows[n].tokens, want + at * ROWS_V,
                       dtype == LLM_F32 ? 1e-5 : 2e-2);
            at += e[n].n_logits;
        }
        memset(got, 0x55, 1200 * ROWS_V * sizeof(float));
        CHECK_MSG(llm_session_eval_rows(together, rows, n, at ? got : NULL, &err) == LLM_OK, "%s",
                  err.message);
        for (i = 0, at = 0; i < n; at += e[i].n_logits, i++)
            CHECK_MSG(same_bits(got + at * ROWS_V, want + at * ROWS_V,
                                (size_t)(e[i].n_logits * ROWS_V)),
                      "%s, kind %d, %s: call %d, entry %d differs", kernels->name, kind,
                      llm_dtype_name(dtype), (int)call, i);
        for (i = 0; i < ROWS_V; i++)           /* nothing after it */
            CHECK(((unsigned char *)(got + at * ROWS_V))[i] == 0x55);
        for (i = 0; i < 6; i++) {
            CHECK(llm_session_length(together, i) == length[i] &&
                  llm_session_length(alone, i) == length[i]);
            CHECK(!memcmp(llm_session_tokens(together, i), text + i * ROWS_T,
                          (size_t)length[i] * sizeof *text));
        }
    }
    llm_session_free(together);
    llm_session_free(alone);
    llm_model_free(model);
    free(got);
    free(want);
    free(text);
}
static void rows_plain(int kind, const llmi_kernels *kernels) {
    rows_equal_each_alone(kind, kernels, LLM_F32);
}
static void rows_quantised(int kind, const llmi_kernels *kernels) {
    rows_equal_each_alone(kind, kernels, LLM_Q8_0);
}
TEST(rows_equal_each_alone) { session_each(rows_plain); }
TEST(rows_equal_each_alone_quantised) { session_each(rows_quantised); }

/* of a long prompt, all positions */
TEST(rows_give_all_logits) {
    static const int lengths[] = {1, 2, 16, 17, 40, 512, 513, 530, 700};
    int kind, i;
    for (kind = 0; kind < SESSION_KINDS; kind++) {
        const llm_config c = rows_config(kind, ROWS_V, ROWS_T, 0);
        llm_model *model = shaken_model(&c, 31, 2, NULL);
        llm_session *s = model ? new_session(model, 0, 2, 2) : NULL;
        float *whole = new_floats(700 * ROWS_V), *got = new_floats(700 * ROWS_V);
        int32_t tokens[700];
        if (!s) return;
        random_tokens(tokens, 700, ROWS_V, 4);
        CHECK(llm_model_logits(model, tokens, 1, 700, whole, NULL) == LLM_OK);
        for (i = 0; i < (int)(sizeof lengths / sizeof lengths[0]); i++) {
            const int n = lengths[i], few = n < 600 ? n : 250;
            llm_rows rows[2];
            rows[0].sequence = rows[1].sequence = 1;
            rows[0].tokens = tokens;
            rows[0].n = rows[0].n_logits = n;
            CHECK(llm_session_rewind(s, 1, 0, NULL) == LLM_OK);
            CHECK(llm_session_eval_rows(s, rows, 1, got, NULL) == LLM_OK);
            CHECK_MSG(relative_error(got, whole, (size_t)(n * ROWS_V)) < 1e-5,
                      "kind %d, %d tokens: %g", kind, n,
                      relative_error(got, whole, (size_t)(n * ROWS_V)));
            rows[0].n_logits = few;            /* the last of them are the same bits */
            CHECK(llm_session_rewind(s, 1, 0, NULL) == LLM_OK);
            {
                float *less = new_floats((size_t)(few * ROWS_V));
                CHECK(llm_session_eval_rows(s, rows, 1, less, NULL) == LLM_OK);
                CHECK(same_bits(less, got + (n - few) * ROWS_V, (size_t)(few * ROWS_V)));
                free(less);
            }
        }
        llm_session_free(s);
        llm_model_free(model);
        free(whole);
        free(got);
    }
}

/* whatever comes in whatever call, drawn by chance; also drafts are what they were */
TEST(rows_at_random) {
    int kind, turn;
    for (kind = 0; kind < SESSION_KINDS; kind++) {
        const llm_config c = session_config(kind, 40, 60, 24, 3);
        llm_model *model = shaken_model(&c, 9, 1, NULL);
        llm_session *together = model ? new_session(model, 0, 4, 1) : NULL,
                    *alone = model ? new_session(model, 0, 4, 1) : NULL;
        uint64_t random = 5;
        if (!together || !alone) return;
        for (turn = 0; turn < 60; turn++) {
            llm_rows rows[12];
            int32_t tokens[12][24];
            float got[12 * 40], want[12 * 40];
            int n = 1 + (int)(plain_random(&random) % 12), i, at = 0, length[4];
            for (i = 0; i < 4; i++) {
                const int now = llm_session_length(alone, i), keep = now > 30 ? 2 : now;
                CHECK(llm_session_rewind(alone, i, keep, NULL) == LLM_OK &&
                      llm_session_rewind(together, i, keep, NULL) == LLM_OK);
                length[i] = keep;
            }
            for (i = 0; i < n; i++) {
                llm_rows *r = &rows[i];
                r->sequence = (int)(plain_random(&random) % 4);
                r->n = 1 + (int)(plain_random(&random) % (plain_random(&random) % 3 ? 3 : 20));
                if (length[r->sequence] + r->n > 60) break;
                length[r->sequence] += r->n;
                r->n_logits = (int)(plain_random(&random) % 2);
                r->tokens = tokens[i];
                random_tokens(tokens[i], (size_t)r->n, 40, plain_random(&random));
                CHECK(llm_session_eval(alone, r->sequence, r->tokens, r->n,
                                       r->n_logits ? want + at : NULL, NULL) == LLM_OK);
                at += r->n_logits * 40;
            }
            if (!i) continue;
            CHECK(llm_session_eval_rows(together, rows, i, got, NULL) == LLM_OK);
            CHECK_MSG(same_bits(got, want, (size_t)at), "kind %d, turn %d", kind, turn);
            for (i = 0; i < 4; i++) CHECK(llm_session_length(together, i) == length[i]);
        }
        llm_session_free(together);
        llm_session_free(alone);
        llm_model_free(model);
    }
}

TEST(rows_refuse_and_are_as_before) {
    const llm_config c = small_config(70, 40, 24, 2, 3);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *s = model ? new_session(model, 30, 3, 2) : NULL;
    float logits[8 * 70], before[70], after[70];
    int32_t tokens[60];
    llm_rows rows[4];
    llm_error err;
    int i;
    if (!s) return;
    random_tokens(tokens, 60, 70, 4);
    CHECK(llm_session_eval(s, 0, tokens, 20, NULL, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 1, tokens + 9, 5, NULL, NULL) == LLM_OK);
    CHECK(llm_session_eval(s, 1, tokens + 14, 3, before, NULL) == LLM_OK);
    CHECK(llm_session_rewind(s, 1, 5, NULL) == LLM_OK);
    for (i = 0; i < 13; i++) {         /* the fault is in the last entry; those before are right */
        const int at = 3;
        int k;
        for (k = 0; k < 4; k++) {
            rows[k].sequence = k % 2;
            rows[k].tokens = tokens + k;
            rows[k].n = 2;
            rows[k].n_logits = 1;
        }
        memset(logits, 0x55, sizeof logits);
        switch (i) {
        case 0:
            rows[at].sequence = 3;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "3", "2");
            break;
        case 1:
            rows[at].sequence = -1;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "-1", "2");
            break;
        case 2:
            rows[at].tokens = NULL;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "NULL");
            break;
        case 3:
            rows[at].n = 0;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "0", "1");
            break;
        case 4:
            rows[at].n = -7;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "-7");
            break;
        case 5:
            rows[at].n_logits = 3;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "n_logits",
                    "3", "2");
            break;
        case 6:
            rows[at].n_logits = -1;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "n_logits",
                    "-1", "0");
            break;
        case 7:                        /* 20 + 2 + 2 of this call, and 7 more */
            rows[at].sequence = 0;
            rows[at].n = 7;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "7", "24",
                    "30");
            break;
        case 8:
            rows[at].n = INT_MAX;
            rows[at].n_logits = 0;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err),
                    "2147483647", "30");
            break;
        case 9:
            tokens[4] = 70;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "70", "1");
            break;
        case 10:
            tokens[4] = -1;
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, logits, &err), "-1", "70");
            break;
        case 11:
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 4, NULL, &err), "n_logits",
                    "NULL");
            break;
        default:
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, 0, logits, &err), "n_rows",
                    "0");
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, rows, -2, logits, &err), "n_rows",
                    "-2");
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(s, NULL, 1, logits, &err), "NULL");
            REFUSED(LLM_ERR_ARGUMENT, llm_session_eval_rows(NULL, rows, 1, logits, &err), "NULL");
        }
        random_tokens(tokens, 60, 70, 4);
        for (k = 0; k < 8 * 70; k++) CHECK(((unsigned char *)logits)[k] == 0x55);
        CHECK(llm_session_length(s, 0) == 20 && llm_session_length(s, 1) == 5 &&
              llm_session_length(s, 2) == 0);
        CHECK(llm_session_eval(s, 1, tokens + 14, 3, after, NULL) == LLM_OK &&
              same_bits(before, after, 70));
        CHECK(llm_session_rewind(s, 1, 5, NULL) == LLM_OK);
        CHECK(!memcmp(llm_session_tokens(s, 0), tokens, 20 * sizeof *tokens));
    }
    rows[0].sequence = 0;              /* what just fits is taken */
    rows[0].tokens = tokens;
    rows[0].n = 4;
    rows[0].n_logits = 0;
    rows[1] = rows[0];
    rows[1].n = 6;
    CHECK(llm_session_eval_rows(s, rows, 2, NULL, &err) == LLM_OK);
    CHECK(llm_session_length(s, 0) == 30);
    llm_session_free(s);
    llm_model_free(model);
}

/* ---- sequences copied ------------------------------------------------------------------------ */
static void copy_goes_on_the_same(int kind, llm_dtype cache) {
    static const struct { int to, from, length, theirs; } cases[] = {
        {1, 0, 30, 0}, {0, 1, 30, 0}, {2, 0, 0, 9}, {2, 0, 17, 0}, {2, 1, 29, 40}, {1, 1, 12, 0},
        {0, 2, 1, 50}, {2, 2, 30, 0}};
    const llm_config c = rows_config(kind, ROWS_V, 80, cache == LLM_Q8_0);
    llm_model *model = shaken_model(&c, 31, 1, NULL);
    llm_session_desc d;
    llm_session *s;
    int32_t text[80], other[80], more[20];
    size_t i;
    memset(&d, 0, sizeof d);
    d.n_sequences = 3;
    d.cache_dtype = cache;
    s = model ? session_of(model, &d) : NULL;
    if (!s) return;
    random_tokens(text, 80, ROWS_V, 1);
    random_tokens(other, 80, ROWS_V, 2);
    random_tokens(more, 20, ROWS_V, 3);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int to = cases[i].to, from = cases[i].from, length = cases[i].length;
        const int third = 3 - to - from;
        float a[3][ROWS_V], b[3][ROWS_V], untouched[ROWS_V];
        int k;
        for (k = 0; k < 3; k++) CHECK(llm_session_rewind(s, k, 0, NULL) == LLM_OK);
        if (to != from && cases[i].theirs)
            CHECK(llm_session_eval(s, to, other, cases[i].theirs, NULL, NULL) == LLM_OK);
        CHECK(llm_session_eval(s, from, text, 30, NULL, NULL) == LLM_OK);
        if (to != from) CHECK(llm_session_eval(s, third, other, 20, untouched, NULL) == LLM_OK);
        CHECK(llm_session_copy(s, to, from, length, NULL) == LLM_OK);
        CHECK(llm_session_length(s, to) == length);
        CHECK(!memcmp(llm_session_tokens(s, to), text, (size_t)length * sizeof *text));
        if (to != from) {
            CHECK(llm_session_length(s, from) == 30 && llm_session_length(s, third) == 20);
            CHECK(!memcmp(llm_session_tokens(s, from), text, 30 * sizeof *text));
        }
        CHECK(llm_session_eval(s, to, more, 2, a[0], NULL) == LLM_OK &&
              llm_session_eval(s, to, more + 2, 17, a[1], NULL) == LLM_OK &&
              llm_session_eval(s, to, more + 19, 1, a[2], NULL) == LLM_OK);
        if (to == from) {              /* as rewinding is */
            CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK &&
                  llm_session_eval(s, 0, text, 30, NULL, NULL) == LLM_OK);
            CHECK(llm_session_rewind(s, 0, length, NULL) == LLM_OK);
        } else CHECK(llm_session_rewind(s, from, length, NULL) == LLM_OK);
        k = to == from ? 0 : from;
        CHECK(llm_session_eval(s, k, more, 2, b[0], NULL) == LLM_OK &&
              llm_session_eval(s, k, more + 2, 17, b[1], NULL) == LLM_OK &&
              llm_session_eval(s, k, more + 19, 1, b[2], NULL) == LLM_OK);
        CHECK_MSG(!memcmp(a, b, sizeof a), "kind %d, %s, case %d: the copy goes on otherwise", kind,
                  llm_dtype_name(cache), (int)i);
        if (to == from) continue;
        CHECK(llm_session_rewind(s, third, 19, NULL) == LLM_OK &&
              llm_session_eval(s, third, other + 19, 1, a[0], NULL) == LLM_OK);
        CHECK(relative_error(a[0], untouched, ROWS_V) < 1e-5);
    }
    llm_session_free(s);
    llm_model_free(model);
}
TEST(copies_go_on_the_same) {
    static const llm_dtype types[] = {LLM_F32, LLM_F16, LLM_BF16, LLM_Q8_0};
    int kind, i;
    for (kind = 0; kind < SESSION_KINDS; kind++)
        for (i = 0; i < 4; i++) copy_goes_on_the_same(kind, types[i]);
}

TEST(copy_and_tokens_refuse) {
    const llm_config c = small_config(70, 40, 24, 2, 3);
    llm_model *model = shaken_model(&c, 31, 2, NULL);
    llm_session *s = model ? new_session(model, 30, 3, 2) : NULL;
    const int32_t *pointer;
    int32_t tokens[30];
    llm_error err;
    if (!s) return;
    random_tokens(tokens, 30, 70, 4);
    CHECK(llm_session_eval(s, 1, tokens, 20, NULL, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, 3, 1, 5, &err), "3", "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, -1, 1, 5, &err), "-1", "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, 0, 3, 5, &err), "3", "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, 0, -4, 5, &err), "-4");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, 0, 1, 21, &err), "21", "20");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, 0, 1, -1, &err), "-1", "20");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(s, 1, 1, 21, &err), "21", "20");
    REFUSED(LLM_ERR_ARGUMENT, llm_session_copy(NULL, 0, 1, 5, &err), "NULL");
    CHECK(llm_session_length(s, 0) == 0 && llm_session_length(s, 1) == 20);
    pointer = llm_session_tokens(s, 1);
    CHECK(pointer && !memcmp(pointer, tokens, 20 * sizeof *tokens));
    CHECK(llm_session_eval(s, 1, tokens + 20, 1, NULL, NULL) == LLM_OK);
    CHECK(llm_session_tokens(s, 1) == pointer && pointer[20] == tokens[20]);
    CHECK(llm_session_tokens(s, 0) && llm_session_tokens(s, 2));
    CHECK(!llm_session_tokens(s, 3) && !llm_session_tokens(s, -1) && !llm_session_tokens(NULL, 0));
    /* what it holds may be what it is given: a text of its own again */
    CHECK(llm_session_eval(s, 0, llm_session_tokens(s, 1), 18, NULL, &err) == LLM_OK);
    CHECK(llm_session_eval(s, 1, llm_session_tokens(s, 1), 5, NULL, &err) == LLM_OK);
    CHECK(!memcmp(pointer + 21, tokens, 5 * sizeof *tokens));
    CHECK(llm_session_context(s) == s->context && !llm_session_context(NULL));
    llm_session_free(s);
    llm_model_free(model);
}

/* ---- generation on other sequences ----------------------------------------------------------- */
TEST(generate_on_each_sequence) {
    int kind, i;
    for (kind = 0; kind < SESSION_KINDS; kind++) {
        const llm_config c = session_config(kind, 60, 60, 24, 3);
        llm_model *model = shaken_model(&c, 33, 1, NULL);
        llm_session *s = model ? new_session(model, 0, 3, 1) : NULL;
        int32_t prompt[61], tokens[3][20];
        llm_error err;
        if (!s) return;
        random_tokens(prompt, 61, 60, 3);
        for (i = 0; i < 3; i++) {
            llm_generate_desc d;
            llm_generate_stats stats;
            memset(&d, 0, sizeof d);
            d.sequence = i;
            d.sampling.temperature = 0.9f;
            d.sampling.repetition_penalty = 1.1f;
            d.max_new_tokens = 20;
            CHECK(llm_generate(s, prompt, 12, &d, tokens[i], 20, &stats, &err) == LLM_OK);
            CHECK(stats.n_generated == 20 && llm_session_length(s, i) == 31);
            CHECK_MSG(!memcmp(tokens[i], tokens[0], sizeof tokens[0]), "kind %d, sequence %d", kind,
                      i);
            CHECK(!memcmp(llm_session_tokens(s, i) + 12, tokens[i], 19 * sizeof(int32_t)));
            if (i < 2) CHECK(llm_session_length(s, i + 1) == 0);
            d.sequence = 3;
            REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 12, &d, tokens[i], 20, NULL, &err),
                    "3", "2");
            d.sequence = -1;
            REFUSED(LLM_ERR_ARGUMENT, llm_generate(s, prompt, 12, &d, tokens[i], 20, NULL, &err),
                    "-1");
        }
        llm_session_free(s);
        llm_model_free(model);
    }
}

/* Several sequences that draft in turns, with other calls between: each gives the tokens of plain
 * decoding, and as many of its drafts are right as when it is alone. */
static void speculation_in_turns(const llm_model *model, const int32_t *text) {
    enum { N = 4, TURNS = 5 };
    llm_session *plain, *alone[N], *turns;
    llm_session_desc d;
    llm_error err;
    int accepted = 0, turn, i, copied_at;
    memset(&d, 0, sizeof d);
    d.max_seq_len = 900;
    d.n_sequences = N;
    plain = session_of(model, &d);
    d.speculate = 1;
    d.n_sequences = N + 1;
    turns = session_of(model, &d);
    d.n_sequences = 1;
    for (i = 0; i < N; i++) alone[i] = session_of(model, &d);
    if (!plain || !turns) return;
    for (turn = 0; turn < TURNS; turn++)
        for (i = 0; i < N; i++) {
            static const int prompts[TURNS][N] = {
                {5, 30, 1, 600}, {1, 3, 20, 1}, {7, 17, 1, 2}, {1, 40, 5, 16}, {2, 1, 1, 33}};
            const int prompt = prompts[turn][i];
            int32_t tokens[3][40];
            llm_generate_stats stats[3];
            llm_generate_desc g;
            int k;
            memset(&g, 0, sizeof g);
            g.max_new_tokens = 9 + 5 * ((turn + i) % 3);
            g.sampling.temperature = i == 2 ? 0.7f : 0.0f;
            g.sampling.seed = (uint64_t)turn;
            for (k = 0; k < 3; k++) {
                llm_session *s = k == 0 ? plain : k == 1 ? alone[i] : turns;
                g.sequence = k == 1 ? 0 : i;
                g.speculate = k > 0;
                CHECK_MSG(llm_generate(s, text + 40 * i + 7 * turn, prompt, &g, tokens[k], 40,
                                       &stats[k], &err) == LLM_OK, "%s", err.message);
                CHECK_MSG(stats[k].n_generated == stats[0].n_generated &&
                              !memcmp(tokens[k], tokens[0],
                                      (size_t)stats[0].n_generated * sizeof(int32_t)),
                          "turn %d, sequence %d: other tokens %s", turn, i,
                          k == 1 ? "alone" : "in turns");
                CHECK(llm_session_length(s, g.sequence) == llm_session_length(plain, i));
            }
            CHECK_MSG(stats[1].n_drafted == stats[2].n_drafted &&
                          stats[1].n_accepted == stats[2].n_accepted,
                      "turn %d, sequence %d: %d of %d drafts accepted, alone %d of %d", turn, i,
                      stats[2].n_accepted, stats[2].n_drafted, stats[1].n_accepted,
                      stats[1].n_drafted);
            accepted += stats[2].n_accepted;
            if (turn % 2) {            /* a sequence that goes its own way, in the midst */
                llm_rows rows[2];
                rows[0].sequence = rows[1].sequence = N;
                rows[0].tokens = rows[1].tokens = text + i;
                rows[0].n = 1 + 6 * i;
                rows[1].n = 20;
                rows[0].n_logits = rows[1].n_logits = 0;
                CHECK(llm_session_eval_rows(turns, rows, 2, NULL, &err) == LLM_OK);
            }
        }
    CHECK_MSG(accepted > 60, "%d drafts accepted", accepted);
    /* a copy drafts what the original does */
    for (copied_at = 0; copied_at < 4; copied_at++) {
        const int from = copied_at % N, length = llm_session_length(turns, from) - 3 * copied_at;
        int32_t tokens[2][30];
        llm_generate_stats stats[2];
        llm_generate_desc g;
        CHECK(llm_session_rewind(turns, N, copied_at == 2 ? 0 : llm_session_length(turns, N),
                                 NULL) == LLM_OK);
        CHECK(llm_session_copy(turns, N, from, length, &err) == LLM_OK);
        CHECK(llm_session_rewind(turns, from, length, &err) == LLM_OK);
        memset(&g, 0, sizeof g);
        g.max_new_tokens = 24;
        g.speculate = 1;
        for (i = 0; i < 2; i++) {
            g.sequence = i == (copied_at & 1) ? N : from;
            CHECK(llm_generate(turns, text + 3, 1 + copied_at, &g, tokens[i], 30, &stats[i],
                               &err) == LLM_OK);
        }
        CHECK(!memcmp(tokens[0], tokens[1], 24 * sizeof(int32_t)));
        CHECK_MSG(stats[0].n_accepted == stats[1].n_accepted &&
                      stats[0].n_drafted == stats[1].n_drafted,
                  "copy %d: %d and %d drafts accepted", copied_at, stats[0].n_accepted,
                  stats[1].n_accepted);
    }
    llm_session_free(plain);
    llm_session_free(turns);
    for (i = 0; i < N; i++) llm_session_free(alone[i]);
}
TEST(speculation_on_several_sequences) {
    int32_t text[1500];
    int experts;
    for (experts = 0; experts < 2; experts++) {
        llm_model *model = cycle_model(text, 1500, experts);
        if (model) speculation_in_turns(model, text);
        llm_model_free(model);
    }
}

/* Drafts of every module after a copy, by value: the logits that they are taken from */
TEST(copied_drafts_are_the_same) {
    llm_config c = deepseek_config(1, 1, 61, 90, 3);
    llm_model *model;
    llm_session_desc d;
    llm_session *s;
    int32_t text[90];
    int i;
    c.tie_embeddings = 1;
    model = shaken_model(&c, 5, 1, NULL);
    memset(&d, 0, sizeof d);
    d.speculate = 1;
    d.n_sequences = 3;
    s = model ? session_of(model, &d) : NULL;
    if (!s) return;
    random_tokens(text, 90, 61, 1);
    for (i = 0; i < 12; i++) {
        static const int lengths[] = {1, 2, 3, 4, 15, 16, 17, 18, 33, 40, 59, 60},
                         back[] = {0, 0, 1, 2, 0, 5, 0, 1, 20, 0, 3, 0};
        float logits[2][61];
        int32_t drafts[2][LLMI_MTP_MAX];
        int k, n = 0;
        CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
        while (n < lengths[i]) {       /* in calls of different lengths */
            const int more = llmi_int_min(lengths[i] - n, 1 + (n * 7 + i) % 19);
            CHECK(llm_session_eval(s, 0, text + n, more, NULL, NULL) == LLM_OK);
            n += more;
        }
        CHECK(llm_session_eval(s, 2, text + i, 6, NULL, NULL) == LLM_OK);
        CHECK(llm_session_copy(s, 1, 0, n - back[i], NULL) == LLM_OK);
        CHECK(llm_session_rewind(s, 0, n - back[i], NULL) == LLM_OK);
        CHECK(llm_session_rewind(s, 2, 1, NULL) == LLM_OK);
        if (i % 2)
            for (k = 0; k < 2; k++)
                CHECK(llm_session_eval(s, k, text + 70, 3, NULL, NULL) == LLM_OK);
        for (k = 0; k < 2; k++) {
            memset(drafts[k], 0x55, sizeof drafts[k]);
            CHECK(llmi_mtp_draft(s, k, text[80], drafts[k], 3) ==
                  llmi_mtp_draft(s, k, text[80], drafts[k], 3));
            memcpy(logits[k], s->sample_logits, sizeof logits[k]);
        }
        CHECK_MSG(!memcmp(drafts[0], drafts[1], 3 * sizeof(int32_t)) &&
                      relative_error(logits[0], logits[1], 61) < 2e-5,
                  "%d tokens, %d back: other drafts, by %g", n, back[i],
                  relative_error(logits[0], logits[1], 61));
    }
    llm_session_free(s);
    llm_model_free(model);
}

/* Drafts by value: those of several sequences in turns, each with its own text, are those of
 * sessions that have nothing but that text. */
TEST(drafts_in_turns_are_those_alone) {
    enum { N = 4 };
    llm_config c = deepseek_config(1, 1, 61, 150, 3);
    llm_model *model;
    llm_session_desc d;
    llm_session *turns, *alone[N];
    uint64_t random = 3;
    int i, step;
    c.tie_embeddings = 1;
    model = shaken_model(&c, 5, 1, NULL);
    memset(&d, 0, sizeof d);
    d.speculate = 1;
    for (i = 0; i < N && model; i++) alone[i] = session_of(model, &d);
    d.n_sequences = N;
    turns = model ? session_of(model, &d) : NULL;
    if (!turns) return;
    for (step = 0; step < 60; step++) {
        float logits[2][61];
        int32_t text[40], drafts[2][LLMI_MTP_MAX];
        const int at = (int)(plain_random(&random) % N), length = llm_session_length(turns, at),
                  n = 1 + (int)(plain_random(&random) % (plain_random(&random) % 2 ? 4 : 35));
        int k;
        if (length + n > 110 || step % 17 == 16) {
            CHECK(llm_session_rewind(turns, at, length / 2, NULL) == LLM_OK &&
                  llm_session_rewind(alone[at], 0, length / 2, NULL) == LLM_OK);
            continue;
        }
        random_tokens(text, 40, 61, plain_random(&random));
        if (step % 3) {                /* beside a row of each other sequence */
            llm_rows rows[N];
            for (k = 0; k < N; k++) {
                rows[k].sequence = k;
                rows[k].tokens = text + k;
                rows[k].n = 1;
                rows[k].n_logits = 0;
                CHECK(llm_session_eval(alone[k], 0, text + k, 1, NULL, NULL) == LLM_OK);
            }
            CHECK(llm_session_eval_rows(turns, rows, N, NULL, NULL) == LLM_OK);
        }
        CHECK(llm_session_eval(turns, at, text, n, NULL, NULL) == LLM_OK &&
              llm_session_eval(alone[at], 0, text, n, NULL, NULL) == LLM_OK);
        for (k = 0; k < 2; k++) {
            llm_session *s = k ? alone[at] : turns;
            memset(drafts[k], 0x55, sizeof drafts[k]);
            CHECK(llmi_mtp_draft(s, k ? 0 : at, text[39], drafts[k], 3) == 3);
            memcpy(logits[k], s->sample_logits, sizeof logits[k]);
        }
        CHECK_MSG(!memcmp(drafts[0], drafts[1], 3 * sizeof(int32_t)) &&
                      relative_error(logits[0], logits[1], 61) < 2e-5,
                  "step %d, sequence %d of %d and %d tokens: the drafts differ by %g", step, at,
                  length, n, relative_error(logits[0], logits[1], 61));
    }
    llm_session_free(turns);
    for (i = 0; i < N; i++) llm_session_free(alone[i]);
    llm_model_free(model);
}

/* Without experts it does not matter how a prompt is cut into calls of more than 16 tokens. */
static void prompts_may_be_cut(int kind, const llmi_kernels *kernels) {
    static const int cuts[] = {17, 40, 64, 100, 512, 513, 528};
    static const llm_dtype types[] = {LLM_F32, LLM_Q8_0};
    const int n = 560;
    int type, i;
    for (type = 0; type < 2; type++) {
        const llm_config c = session_config(kind, 70, 600, 64, 2);
        llm_model_desc d;
        llm_model *model;
        llm_session *s;
        int32_t tokens[560];
        float whole[70], logits[70];
        memset(&d, 0, sizeof d);
        d.dtype = types[type];
        d.seed = 5;
        model = llm_model_create(&c, &d, NULL);
        s = model ? new_session(model, 0, 2, 2) : NULL;
        CHECK(s);
        if (!s) return;
        session_use(s, kernels);
        random_tokens(tokens, n, 70, 3);
        CHECK(llm_session_eval(s, 0, tokens, n, whole, NULL) == LLM_OK);
        for (i = 0; i < (int)(sizeof cuts / sizeof cuts[0]); i++) {
            int at = 0, size;
            CHECK(llm_session_rewind(s, 1, 0, NULL) == LLM_OK);
            for (; at < n; at += size) {
                size = n - at < cuts[i] + 17 ? n - at : cuts[i];
                CHECK(llm_session_eval(s, 1, tokens + at, size, logits, NULL) == LLM_OK);
            }
            CHECK_MSG(same_bits(whole, logits, 70), "%s, kind %d, %s: calls of %d", kernels->name,
                      kind, llm_dtype_name(types[type]), cuts[i]);
        }
        llm_session_free(s);
        llm_model_free(model);
    }
}
TEST(rows_of_prompts_may_be_cut) {
    int k;
    for (k = 0; kernels_at(k); k++) {
        prompts_may_be_cut(0, kernels_at(k));
        prompts_may_be_cut(1, kernels_at(k));
    }
}

static void run_rows(void) {
    RUN(rows_equal_each_alone);
    RUN(rows_equal_each_alone_quantised);
    RUN(rows_give_all_logits);
    RUN(rows_at_random);
    RUN(rows_refuse_and_are_as_before);
    RUN(copies_go_on_the_same);
    RUN(copy_and_tokens_refuse);
    RUN(generate_on_each_sequence);
    RUN(speculation_on_several_sequences);
    RUN(copied_drafts_are_the_same);
    RUN(drafts_in_turns_are_those_alone);
    RUN(rows_of_prompts_may_be_cut);
}

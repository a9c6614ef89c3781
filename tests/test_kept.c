/* Sequences in files: saved and loaded, they go on to the bit; files of other models, and damaged
 * ones, are refused and change nothing. Uses build/ for files. */

#define KEPT_FILE "build/test_kept.session"

static llm_session *kept_session(const llm_model *model, int max_seq_len, llm_dtype cache,
                                 int speculate) {
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.max_seq_len = max_seq_len;
    d.n_sequences = 2;
    d.cache_dtype = cache;
    d.speculate = speculate;
    d.n_threads = 1;
    return session_of(model, &d);
}
/* what a sequence is: its tokens, and what it gives from here on; it is as before after that */
typedef struct kept_state { int length; int32_t tokens[80]; float logits[3][ROWS_V]; } kept_state;
static kept_state kept_look(llm_session *s, int sequence) {
    static const int32_t more[20] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4};
    kept_state k;
    memset(&k, 0, sizeof k);
    k.length = llm_session_length(s, sequence);
    CHECK(k.length >= 0 && k.length <= 80);
    if (k.length > 0 && k.length <= 80)
        memcpy(k.tokens, llm_session_tokens(s, sequence), (size_t)k.length * sizeof *k.tokens);
    CHECK(llm_session_eval(s, sequence, more, 2, k.logits[0], NULL) == LLM_OK &&
          llm_session_eval(s, sequence, more + 2, 17, k.logits[1], NULL) == LLM_OK &&
          llm_session_eval(s, sequence, more + 19, 1, k.logits[2], NULL) == LLM_OK);
    CHECK(llm_session_rewind(s, sequence, k.length, NULL) == LLM_OK);
    return k;
}
static int kept_same(const kept_state *a, const kept_state *b) {
    return !memcmp(a, b, sizeof *a);
}

TEST(kept_sequences_go_on) {
    static const llm_dtype types[] = {LLM_F32, LLM_F16, LLM_BF16, LLM_Q8_0};
    static const int lengths[] = {0, 1, 17, 60};
    int kind, t, l;
    for (kind = 0; kind < SESSION_KINDS; kind++)
        for (t = 0; t < 4; t++) {
            const llm_config c = rows_config(kind, ROWS_V, 80, types[t] == LLM_Q8_0);
            llm_model *model = shaken_model(&c, 31, 1, NULL);
            int32_t text[80], other[80];
            if (!model) return;
            random_tokens(text, 80, ROWS_V, 1);
            random_tokens(other, 80, ROWS_V, 2);
            for (l = 0; l < 4; l++) {
                llm_session *from = kept_session(model, 0, types[t], 0),
                            *to = kept_session(model, l % 2 ? 0 : 60 + 20 * (l == 2), types[t], 0);
                kept_state want, got, beside, still;
                llm_error err;
                if (!from || !to) return;
                err.message[0] = 0;
                if (lengths[l])
                    CHECK(llm_session_eval(from, 1, text, lengths[l], NULL, NULL) == LLM_OK);
                want = kept_look(from, 1);
                CHECK(llm_session_eval(to, 0, other, 20, NULL, NULL) == LLM_OK);
                beside = kept_look(to, 0);
                if (l != 1) CHECK(llm_session_eval(to, 1, other, 25, NULL, NULL) == LLM_OK);
                CHECK_MSG(llm_session_save(from, 1, KEPT_FILE, &err) == LLM_OK, "%s", err.message);
                CHECK_MSG(llm_session_load(to, 1, KEPT_FILE, &err) == LLM_OK, "%s", err.message);
                if (lengths[l] < 60 || l % 2) {
                    got = kept_look(to, 1);
                    CHECK_MSG(kept_same(&got, &want), "kind %d, %s, %d tokens: goes on otherwise",
                              kind, llm_dtype_name(types[t]), lengths[l]);
                }
                still = kept_look(to, 0);
                CHECK(kept_same(&still, &beside));
                still = kept_look(from, 1);
                CHECK(kept_same(&still, &want));
                CHECK(llm_session_load(from, 0, KEPT_FILE, &err) == LLM_OK);   /* back, elsewhere */
                got = kept_look(from, 0);
                CHECK(kept_same(&got, &want));
                llm_session_free(from);
                llm_session_free(to);
            }
            llm_model_free(model);
        }
    remove(KEPT_FILE);
}

/* with modules: the same tokens, and as many right drafts as without having been saved */
TEST(kept_sequences_draft) {
    int32_t text[1500];
    llm_model *model = cycle_model(text, 1500, 0);
    llm_session *one = kept_session(model, 300, LLM_F32, 1),
                *two = kept_session(model, 250, LLM_F32, 1);
    int i;
    if (!one || !two) return;
    for (i = 0; i < 6; i++) {
        static const int lengths[] = {1, 2, 17, 60, 100, 33};
        int32_t tokens[2][60];
        llm_generate_stats stats[2];
        llm_generate_desc g;
        llm_error err;
        int k;
        memset(&g, 0, sizeof g);
        g.max_new_tokens = 50;
        g.speculate = 1;
        CHECK(llm_session_rewind(one, 0, 0, NULL) == LLM_OK);
        CHECK(llm_session_eval(one, 0, text, lengths[i], NULL, NULL) == LLM_OK);
        if (i % 2) CHECK(llm_session_eval(two, 1, text + 9, 11, NULL, NULL) == LLM_OK);
        CHECK(llm_session_save(one, 0, KEPT_FILE, &err) == LLM_OK);
        CHECK_MSG(llm_session_load(two, 1, KEPT_FILE, &err) == LLM_OK, "%s", err.message);
        for (k = 0; k < 2; k++) {
            g.sequence = k;
            CHECK(llm_generate(k ? two : one, text + lengths[i], 1, &g, tokens[k], 60, &stats[k],
                               &err) == LLM_OK);
        }
        CHECK(!memcmp(tokens[0], tokens[1], 50 * sizeof(int32_t)));
        CHECK_MSG(stats[1].n_accepted == stats[0].n_accepted,
                  "%d tokens: %d of %d drafts accepted, without a file %d of %d", lengths[i],
                  stats[1].n_accepted, stats[1].n_drafted, stats[0].n_accepted,
                  stats[0].n_drafted);
    }
    llm_session_free(one);
    llm_session_free(two);
    llm_model_free(model);
    remove(KEPT_FILE);
}

/* by value: what a module reads next is not lost in a file */
TEST(kept_sequences_draft_the_same) {
    llm_config c = deepseek_config(1, 1, 61, 90, 3);
    llm_model *model;
    llm_session *a, *b;
    int32_t text[90];
    int i;
    c.tie_embeddings = 1;
    model = shaken_model(&c, 5, 1, NULL);
    a = kept_session(model, 0, LLM_F32, 1);
    b = kept_session(model, 0, LLM_F32, 1);
    random_tokens(text, 90, 61, 1);
    for (i = 0; i < 6; i++) {
        static const int lengths[] = {1, 2, 5, 17, 33, 60};
        int32_t drafts[2][LLMI_MTP_MAX];
        float logits[2][61];
        int k, n[2];
        llm_error err;
        CHECK(llm_session_rewind(a, 0, 0, NULL) == LLM_OK);
        CHECK(llm_session_eval(a, 0, text, lengths[i], NULL, NULL) == LLM_OK);
        CHECK(llm_session_save(a, 0, KEPT_FILE, &err) == LLM_OK);
        CHECK(llm_session_load(b, 0, KEPT_FILE, &err) == LLM_OK);
        for (k = 0; k < 2; k++) {
            llm_session *s = k ? b : a;
            CHECK(llm_session_eval(s, 0, text + 70, 2, NULL, NULL) == LLM_OK);
            n[k] = llmi_mtp_draft(s, 0, text[80], drafts[k], 3);
            memcpy(logits[k], s->sample_logits, sizeof logits[k]);
        }
        CHECK_MSG(n[0] == 3 && n[1] == 3 && !memcmp(drafts[0], drafts[1], 3 * sizeof(int32_t)) &&
                      relative_error(logits[1], logits[0], 61) < 2e-5,
                  "after %d tokens in a file, drafts differ by %g", lengths[i],
                  relative_error(logits[1], logits[0], 61));
    }
    llm_session_free(a);
    llm_session_free(b);
    llm_model_free(model);
    remove(KEPT_FILE);
}

/* -> result; the sequence must be as before where it is not LLM_OK */
static llm_result kept_load(llm_session *s, const kept_state *before, llm_error *err) {
    const llm_result result = llm_session_load(s, 0, KEPT_FILE, err);
    if (result != LLM_OK) {
        const kept_state after = kept_look(s, 0);
        CHECK_MSG(kept_same(&after, before), "a load that failed has changed the sequence: %s",
                  err->message);
    }
    return result;
}

TEST(kept_by_other_models) {
    const llm_config c = session_config(0, ROWS_V, 80, 24, 3);
    const llm_config moe = session_config(2, ROWS_V, 80, 24, 3);
    llm_model *model = shaken_model(&c, 31, 1, NULL);
    llm_session *s = model ? kept_session(model, 0, LLM_F32, 0) : NULL;
    int32_t text[80];
    llm_error err;
    int i;
    if (!s) return;
    random_tokens(text, 80, ROWS_V - 1, 1);
    CHECK(llm_session_eval(s, 0, text, 30, NULL, NULL) == LLM_OK);
    CHECK(llm_session_save(s, 0, KEPT_FILE, &err) == LLM_OK);
    for (i = 0; i < 10; i++) {
        static const char *const words[] = {"vocab_size", "n_heads", "n_layers", "weights",
                                            "weights",    "weights", "cache_dtype", "arch",
                                            "30",         NULL};
        llm_config other = i == 7 ? moe : c;
        llm_model *theirs;
        llm_session *to;
        kept_state before;
        llm_dtype type = i == 4 ? LLM_BF16 : i == 5 ? LLM_F16 : LLM_F32;
        if (i == 0) other.vocab_size--;
        if (i == 1) other.n_heads = 2;
        if (i == 2) other.n_layers = 1;
        theirs = rows_model(&other, type, 31);
        if (i == 3) {                  /* one step of training apart */
            llm_train_desc d = train_desc(1, 20, 1);
            llm_trainer *trainer;
            d.learning_rate = 1e-5f;
            trainer = new_trainer(theirs, &d);
            CHECK(trainer && llm_trainer_step(trainer, text, text + 1, NULL, NULL) == LLM_OK);
            llm_trainer_free(trainer);
        }
        to = theirs ? kept_session(theirs, i == 8 ? 29 : 0, i == 6 ? LLM_F16 : LLM_F32, 0) : NULL;
        if (!to) return;
        CHECK(llm_session_eval(to, 0, text + 40, 8, NULL, NULL) == LLM_OK);
        before = kept_look(to, 0);
        if (words[i])
            REFUSED(i == 8 ? LLM_ERR_ARGUMENT : LLM_ERR_FORMAT, kept_load(to, &before, &err),
                    "test_kept.session", words[i], i == 8 ? "29" : "");
        else                           /* the same weights, in another model */
            CHECK_MSG(kept_load(to, &before, &err) == LLM_OK, "%s", err.message);
        llm_session_free(to);
        llm_model_free(theirs);
    }
    /* a session with modules and one without */
    {
        llm_config modules = deepseek_config(1, 1, ROWS_V, 80, 2);
        llm_model *deep = shaken_model(&modules, 3, 1, NULL);
        llm_session *with = deep ? kept_session(deep, 0, LLM_F32, 1) : NULL,
                    *without = deep ? kept_session(deep, 0, LLM_F32, 0) : NULL;
        kept_state before;
        if (!with || !without) return;
        CHECK(llm_session_eval(with, 0, text, 20, NULL, NULL) == LLM_OK);
        CHECK(llm_session_save(with, 0, KEPT_FILE, &err) == LLM_OK);
        before = kept_look(without, 0);
        REFUSED(LLM_ERR_FORMAT, kept_load(without, &before, &err), "speculate 1", "speculate 0");
        CHECK(llm_session_save(without, 0, KEPT_FILE, &err) == LLM_OK);
        before = kept_look(with, 0);
        REFUSED(LLM_ERR_FORMAT, kept_load(with, &before, &err), "speculate 0", "speculate 1");
        llm_session_free(with);
        llm_session_free(without);
        llm_model_free(deep);
    }
    /* files of another kind */
    {
        const kept_state before = kept_look(s, 0);
        llm_trainer *trainer = resume_trainer(0, LLM_PRECISION_FP32, 1, 1);
        size_t size;
        void *bytes = NULL;
        CHECK(llm_trainer_save(trainer, KEPT_FILE, &err) == LLM_OK);
        REFUSED(LLM_ERR_FORMAT, kept_load(s, &before, &err), "test_kept.session", "session");
        CHECK(llm_session_save(s, 0, KEPT_FILE, &err) == LLM_OK);
        REFUSED(LLM_ERR_FORMAT, llm_trainer_load(trainer, KEPT_FILE, &err), "test_kept.session",
                "trainer");
        drop_trainer(trainer);
        CHECK(llm_model_save(model, "build/kept_model", LLM_F32, &err) == LLM_OK);
        CHECK(llmi_file_read("build/kept_model/model.safetensors", &bytes, &size, NULL, NULL) ==
              LLM_OK);
        CHECK(llmi_file_write(KEPT_FILE, bytes, size, NULL) == LLM_OK);
        REFUSED(LLM_ERR_FORMAT, kept_load(s, &before, &err), "test_kept.session", "session");
        llmi_release(NULL, bytes);
        remove(KEPT_FILE);
        REFUSED(LLM_ERR_IO, kept_load(s, &before, &err), "test_kept.session");
        REFUSED(LLM_ERR_IO, llm_session_save(s, 0, "build/no/such/directory", &err), "no/such");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_save(s, 2, KEPT_FILE, &err), "2", "1");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_save(s, -1, KEPT_FILE, &err), "-1");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_save(s, 0, NULL, &err), "NULL");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_save(NULL, 0, KEPT_FILE, &err), "NULL");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_load(s, 2, KEPT_FILE, &err), "2", "1");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_load(s, 0, NULL, &err), "NULL");
        REFUSED(LLM_ERR_ARGUMENT, llm_session_load(NULL, 0, KEPT_FILE, &err), "NULL");
        CHECK(llm_session_length(s, 0) == 30);
    }
    llm_session_free(s);
    llm_model_free(model);
}

/* saved bytes: what stands between two marks of the header replaced by as many others */
static void kept_patch(char *bytes, size_t size, const char *old, const char *fresh) {
    size_t i;
    const size_t n = strlen(old);
    CHECK(strlen(fresh) == n);
    for (i = 0; i + n <= size; i++)
        if (!memcmp(bytes + i, old, n)) {
            memcpy(bytes + i, fresh, n);
            return;
        }
    CHECK_MSG(0, "%s is not in the file", old);
}
/* the hash of a file that was changed, put right: what is said must be checked all the same */
static void kept_rehash(char *bytes, size_t size) {
    const size_t data = 8 + (size_t)llmi_get_little((const unsigned char *)bytes, 8);
    const char *at = strstr(bytes + 8, "\"hash\":\""), *offsets = bytes + 8;
    uint64_t hash = 0, from, to;
    char text[17];
    CHECK(at != NULL);
    while ((offsets = strstr(offsets, "offsets\":[")) != NULL) {     /* each piece, in its order */
        from = strtoul(offsets + 10, NULL, 10);
        to = strtoul(strchr(offsets + 10, ',') + 1, NULL, 10);
        offsets += 10;
        CHECK(data + to <= size);
        hash = llmi_hash_parts(hash, bytes + data + from, (size_t)(to - from));
    }
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    if (at) memcpy(bytes + (at - bytes) + 8, text, 16);
}

TEST(kept_files_damaged) {
    const llm_config c = session_config(1, ROWS_V, 80, 24, 3);
    llm_model *model = shaken_model(&c, 31, 1, NULL);
    llm_session *a = model ? kept_session(model, 0, LLM_F16, 0) : NULL,
                *b = model ? kept_session(model, 0, LLM_F16, 0) : NULL;
    int32_t text[80];
    kept_state saved, before;
    llm_error err;
    void *whole = NULL;
    char *bytes;
    size_t size = 0, at, header;
    int n_ok = 0, i;
    if (!a || !b) return;
    random_tokens(text, 80, ROWS_V, 1);
    CHECK(llm_session_eval(a, 0, text, 30, NULL, NULL) == LLM_OK);
    CHECK(llm_session_eval(b, 0, text + 40, 12, NULL, NULL) == LLM_OK);
    saved = kept_look(a, 0);
    before = kept_look(b, 0);
    CHECK(llm_session_save(a, 0, KEPT_FILE, NULL) == LLM_OK);
    CHECK(llmi_file_read(KEPT_FILE, &whole, &size, NULL, NULL) == LLM_OK);
    bytes = (char *)plain_alloc(size + 64);
    memcpy(bytes, whole, size);
    header = 8 + (size_t)llmi_get_little((const unsigned char *)bytes, 8);
    CHECK(header > 100 && header < size);
    for (at = 0; at < size; at += at < 40 || size - at < 40 ? 1 : 23) {      /* cut short */
        CHECK(llmi_file_write(KEPT_FILE, bytes, at, NULL) == LLM_OK);
        REFUSED(LLM_ERR_FORMAT, kept_load(b, &before, &err), "test_kept.session");
    }
    memset(bytes + size, 0, 64);                       /* longer */
    for (i = 1; i <= 64; i *= 4) {
        CHECK(llmi_file_write(KEPT_FILE, bytes, size + (size_t)i, NULL) == LLM_OK);
        REFUSED(LLM_ERR_FORMAT, kept_load(b, &before, &err), "test_kept.session");
    }
    for (at = 0; at < size; at += at < header ? 3 : 31)                      /* one bit */
        for (i = 0; i < 2; i++) {
            const char bit = (char)(1 << (at * 5 + (size_t)i * 3) % 8);
            llm_result result;
            bytes[at] = (char)(bytes[at] ^ bit);
            CHECK(llmi_file_write(KEPT_FILE, bytes, size, NULL) == LLM_OK);
            err.message[0] = 0;
            result = kept_load(b, &before, &err);
            if (result == LLM_OK) {    /* a space, or a type of bytes: nothing that counts */
                const kept_state got = kept_look(b, 0);
                CHECK_MSG(at >= 8 && at < header && kept_same(&got, &saved),
                          "bit at %lu of %lu changes the sequence", (unsigned long)at,
                          (unsigned long)size);
                n_ok++;
                CHECK(llm_session_rewind(b, 0, 0, NULL) == LLM_OK &&
                      llm_session_eval(b, 0, text + 40, 12, NULL, NULL) == LLM_OK);
            } else
                CHECK_MSG((result == LLM_ERR_FORMAT || result == LLM_ERR_UNSUPPORTED) &&
                              strstr(err.message, "test_kept.session"),
                          "bit at %lu: %d: %s", (unsigned long)at, (int)result, err.message);
            bytes[at] = (char)(bytes[at] ^ bit);
        }
    CHECK_MSG(n_ok < 40, "%d damaged bits accepted", n_ok);
    /* what a file says of itself, with a hash that is right */
    for (i = 0; i < 6; i++) {
        static const char *const old[] = {"\"version\":\"1\"", "llm.h session", "\"tokens\"",
                                          "\"cache\"", "kv_lora_rank 13", NULL},
                          *const fresh[] = {"\"version\":\"2\"", "llm.h sessiom", "\"token_\"",
                                            "\"cash_\"", "kv_lora_rank 14", NULL};
        static const char *const words[] = {"version", "session", "tokens", "cache",
                                            "kv_lora_rank 14", "50"};
        memcpy(bytes, whole, size);
        if (old[i]) kept_patch(bytes, size, old[i], fresh[i]);
        else {                         /* a token that the model does not have */
            const char *offsets = strstr(strstr(bytes + 8, "\"tokens\":"), "offsets\":[");
            const int32_t bad = ROWS_V;
            memcpy(bytes + header + strtoul(offsets + 10, NULL, 10) + 4 * 7, &bad, 4);
        }
        if (i > 3) kept_rehash(bytes, size);
        CHECK(llmi_file_write(KEPT_FILE, bytes, size, NULL) == LLM_OK);
        err.message[0] = 0;
        CHECK_MSG(kept_load(b, &before, &err) != LLM_OK && strstr(err.message, words[i]),
                  "%s: %s", words[i], err.message);
    }
    /* tokens and cache of different lengths: the border between them moved */
    {
        static const int moves[] = {4, -4, 1, -1, 120};
        size_t k;
        for (k = 0; k < sizeof moves / sizeof moves[0]; k++) {
            char *offsets, text_of[64];
            unsigned long from, to;
            memcpy(bytes, whole, size);
            offsets = strstr(strstr(bytes + 8, "\"tokens\":"), "offsets\":[");
            from = strtoul(offsets + 10, NULL, 10);
            to = strtoul(strchr(offsets + 10, ',') + 1, NULL, 10);
            snprintf(text_of, sizeof text_of, "%lu", to + (unsigned long)(long)moves[k]);
            if (strlen(text_of) != (size_t)(strchr(offsets, ']') - strchr(offsets + 10, ',') - 1))
                continue;
            memcpy(strchr(offsets + 10, ',') + 1, text_of, strlen(text_of));
            offsets = strstr(strstr(bytes + 8, "\"cache\":"), "offsets\":[");
            memcpy(offsets + 10, text_of, strlen(text_of));
            offsets = strstr(strstr(bytes + 8, "\"tokens\":"), "shape\":[");
            snprintf(text_of, sizeof text_of, "%lu", to + (unsigned long)(long)moves[k] - from);
            CHECK(strchr(offsets, ']') - offsets - 8 == (long)strlen(text_of));
            memcpy(offsets + 8, text_of, strlen(text_of));
            offsets = strstr(strstr(bytes + 8, "\"cache\":"), "shape\":[");
            snprintf(text_of, sizeof text_of, "%lu",
                     (unsigned long)(size - header) - to - (unsigned long)(long)moves[k]);
            CHECK(strchr(offsets, ']') - offsets - 8 == (long)strlen(text_of));
            memcpy(offsets + 8, text_of, strlen(text_of));
            CHECK(llmi_file_write(KEPT_FILE, bytes, size, NULL) == LLM_OK);
            kept_rehash(bytes, size);
            CHECK(llmi_file_write(KEPT_FILE, bytes, size, NULL) == LLM_OK);
            REFUSED(LLM_ERR_FORMAT, kept_load(b, &before, &err), "test_kept.session");
        }
    }
    CHECK(llmi_file_write(KEPT_FILE, whole, size, NULL) == LLM_OK);
    CHECK_MSG(kept_load(b, &before, &err) == LLM_OK, "%s", err.message);
    before = kept_look(b, 0);
    CHECK(kept_same(&before, &saved));
    llmi_release(NULL, whole);
    free(bytes);
    llm_session_free(a);
    llm_session_free(b);
    llm_model_free(model);
    remove(KEPT_FILE);
}

/* an old file stays, a sequence is as before */
static llm_result kept_save_checked(llm_session *s, const void *old, size_t n_old,
                                    llm_error *err) {
    void *now = NULL;
    size_t n = 0;
    llm_result result;
    CHECK(llmi_file_write(KEPT_FILE, old, n_old, NULL) == LLM_OK);
    result = llm_session_save(s, 0, KEPT_FILE, err);
    CHECK(llmi_file_read(KEPT_FILE, &now, &n, NULL, NULL) == LLM_OK);
    CHECK(result == LLM_OK || (n == n_old && !memcmp(now, old, n)));
    llmi_release(NULL, now);
    return result;
}
TEST(kept_every_allocation_fails) {
    llm_config c = deepseek_config(1, 1, ROWS_V, 80, 2);
    heap h;
    llm_model *model = model_in(&h, &c, 3, 1);
    llm_session *s = model ? kept_session(model, 0, LLM_F32, 1) : NULL;
    int32_t text[80];
    kept_state before;
    llm_error err;
    if (!s) return;
    random_tokens(text, 80, ROWS_V, 1);
    CHECK(llm_session_eval(s, 0, text, 30, NULL, NULL) == LLM_OK);
    EACH_ALLOCATION_FAILS(&h, kept_save_checked(s, "old", 3, &err));
    CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK &&
          llm_session_eval(s, 0, text + 9, 5, NULL, NULL) == LLM_OK);
    before = kept_look(s, 0);
    EACH_ALLOCATION_FAILS(&h, kept_load(s, &before, &err));
    CHECK(llm_session_length(s, 0) == 30 &&
          !memcmp(llm_session_tokens(s, 0), text, 30 * sizeof *text));
    llm_session_free(s);
    llm_model_free(model);
    CHECK(h.live == 0 && h.wrong == 0);
    remove(KEPT_FILE);
}

static void run_kept(void) {
    RUN(kept_sequences_go_on);
    RUN(kept_sequences_draft);
    RUN(kept_sequences_draft_the_same);
    RUN(kept_by_other_models);
    RUN(kept_files_damaged);
    RUN(kept_every_allocation_fails);
}

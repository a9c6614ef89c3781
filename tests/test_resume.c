/* Checkpoints of a trainer: a run that was saved and loaded goes on to the bit; damaged files
 * and other configurations are refused and change nothing. Uses build/ for files. */

#define RESUME_FILE "build/test_resume.ckpt"

static llm_config resume_config(int deepseek) {
    llm_config c;
    if (deepseek) return deepseek_config(1, 1, 41, 24, 2);
    c = small_config(41, 24, 20, 2, 2);
    c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = 0.1f;
    return c;
}
static llm_trainer *resume_trainer(int deepseek, llm_precision precision, int n_threads,
                                   uint64_t seed) {
    const llm_config c = resume_config(deepseek);
    llm_train_desc d = train_desc(2, 12, 3);       /* an accumulation of 3 is cut by the save */
    llm_model_desc m;
    llm_model *model;
    memset(&m, 0, sizeof m);
    m.seed = seed;
    m.n_threads = n_threads;
    d.seed = 5;
    d.precision = precision;
    d.grad_accum_steps = 3;
    d.n_threads = n_threads;
    model = llm_model_create(&c, &m, NULL);
    return model ? llm_trainer_create(model, &d, NULL) : NULL;
}
static void resume_steps(llm_trainer *t, int from, int to) {
    int32_t tokens[24], targets[24];
    int step;
    for (step = from; step < to; step++) {
        random_batch(tokens, targets, 24, 41, 0.1, 500 + (uint64_t)step);
        CHECK(llm_trainer_step(t, tokens, targets, NULL, NULL) == LLM_OK);
    }
}
static int resume_equal(const llm_trainer *a, const llm_trainer *b) {
    return same_bits(a->model->block, b->model->block, a->floats) &&
           same_bits(a->m, b->m, a->desc.shard_count) &&
           same_bits(a->v, b->v, a->desc.shard_count) && a->step == b->step &&
           a->n_tokens == b->n_tokens && a->n_forwards == b->n_forwards &&
           a->n_accumulated == b->n_accumulated;
}

TEST(resume_to_the_bit) {
    int kind, cut;
    for (kind = 0; kind < 6; kind++)
        for (cut = 4; cut <= 6; cut++) {
            const int deepseek = kind % 2, precision = kind / 2;
            llm_trainer *whole = resume_trainer(deepseek, (llm_precision)precision, 1, 1),
                        *first = resume_trainer(deepseek, (llm_precision)precision, 2, 1);
            llm_trainer *second = resume_trainer(deepseek, (llm_precision)precision, 3,
                                                 77); /* other weights, all replaced */
            llm_error err;
            size_t size = 0;
            err.message[0] = 0;
            CHECK(whole && first && second);
            if (!whole || !first || !second) return;
            resume_steps(whole, 0, 11);
            resume_steps(first, 0, cut);
            CHECK(llm_trainer_set_user_data(first, "at 4711", 8, NULL) == LLM_OK);
            CHECK_MSG(llm_trainer_save(first, RESUME_FILE, &err) == LLM_OK, "%s", err.message);
            resume_steps(second, 3, 5);
            CHECK_MSG(llm_trainer_load(second, RESUME_FILE, &err) == LLM_OK, "%s", err.message);
            CHECK(resume_equal(first, second));
            CHECK(strcmp((const char *)llm_trainer_user_data(second, &size), "at 4711") == 0 &&
                  size == 8);
            resume_steps(second, cut, 11);
            CHECK_MSG(resume_equal(whole, second), "deepseek %d, precision %d, cut at %d", deepseek,
                      precision, cut);
            drop_trainer(whole); drop_trainer(first); drop_trainer(second);
        }
}

static void resume_write(const char *bytes, size_t n) {
    FILE *file = fopen(RESUME_FILE, "wb");
    CHECK(file && fwrite(bytes, 1, n, file) == n);
    if (file) fclose(file);
}

TEST(resume_damaged_files) {
    llm_trainer *a = resume_trainer(1, LLM_PRECISION_FP32, 1, 1),
                *b = resume_trainer(1, LLM_PRECISION_FP32, 1, 9),
                *untouched = resume_trainer(1, LLM_PRECISION_FP32, 1, 9);
    llm_error err;
    void *whole = NULL;
    size_t size = 0, at;
    if (!a || !b || !untouched) return;
    resume_steps(a, 0, 4);
    resume_steps(b, 6, 7);
    resume_steps(untouched, 6, 7);
    CHECK(llm_trainer_save(a, RESUME_FILE, NULL) == LLM_OK);
    CHECK(llmi_file_read(RESUME_FILE, &whole, &size, NULL, NULL) == LLM_OK);
    for (at = 0; at < size; at += at < 40 ? 1 : size / 61) {      /* cut short */
        resume_write((const char *)whole, at);
        err.message[0] = 0;
        CHECK_MSG(llm_trainer_load(b, RESUME_FILE, &err) == LLM_ERR_FORMAT &&
                      strstr(err.message, "test_resume.ckpt"),
                  "cut at %lu: %s", (unsigned long)at, err.message);
    }
    for (at = 0; at < size; at += at < 900 ? 7 : size / 97) {     /* one bit */
        char *bytes = (char *)whole;
        llm_result result;
        bytes[at] ^= 4;
        resume_write(bytes, size);
        err.message[0] = 0;
        result = llm_trainer_load(b, RESUME_FILE, &err);
        if (at > 8 &&
            result == LLM_OK) { /* a space of the header's padding, say: nothing has changed */
            CHECK_MSG(resume_equal(a, b), "bit at %lu changes the trainer", (unsigned long)at);
            CHECK(llm_trainer_save(untouched, RESUME_FILE, NULL) == LLM_OK);
            CHECK(llm_trainer_load(b, RESUME_FILE, NULL) == LLM_OK);
        } else {
            CHECK_MSG(result == LLM_ERR_FORMAT || result == LLM_ERR_UNSUPPORTED,
                      "bit at %lu: result %d, %s", (unsigned long)at, (int)result, err.message);
        }
        bytes[at] ^= 4;
    }
    CHECK(resume_equal(b, untouched));
    CHECK(llm_trainer_load(b, "build/no_such.ckpt", &err) == LLM_ERR_IO);
    CHECK(llm_trainer_save(b, "build/no/such/directory.ckpt", &err) == LLM_ERR_IO);
    CHECK(llm_trainer_save(NULL, RESUME_FILE, &err) == LLM_ERR_ARGUMENT &&
          llm_trainer_load(b, NULL, &err) == LLM_ERR_ARGUMENT);
    {                                  /* a failed save leaves the old file */
        int32_t tokens[24] = {0};
        resume_write((const char *)whole, size);
        CHECK(llm_trainer_forward(b, tokens, tokens, NULL, NULL) == LLM_OK);
        CHECK(llm_trainer_save(b, RESUME_FILE, &err) == LLM_ERR_ARGUMENT);
        CHECK(llm_trainer_backward(b, NULL) == LLM_OK);
        CHECK_MSG(llm_trainer_load(b, RESUME_FILE, &err) == LLM_OK, "%s", err.message);
        CHECK(resume_equal(a, b));
    }
    llmi_release(NULL, whole);
    drop_trainer(a); drop_trainer(b); drop_trainer(untouched);
}

TEST(resume_other_configurations) {
    llm_trainer *a = resume_trainer(0, LLM_PRECISION_FP32, 1, 1);
    const char *names[] = {"vocab_size",    "n_layers", "resid_pdrop", "batch_size",
                           "learning_rate", "seed",     "arch",        "precision"};
    int i;
    if (!a) return;
    CHECK(llm_trainer_save(a, RESUME_FILE, NULL) == LLM_OK);
    for (i = 0; i < 8; i++) {
        llm_config c = resume_config(i == 6);
        llm_train_desc d = a->desc;
        llm_model *model;
        llm_trainer *b;
        llm_error err;
        d.shard_count = 0;
        if (i == 0) c.vocab_size = 40;
        if (i == 1) c.n_layers = 3;
        if (i == 2) c.resid_pdrop = 0.2f;
        if (i == 3) d.batch_size = 1;
        if (i == 4) d.learning_rate *= 2.0f;
        if (i == 5) d.seed = 6;
        if (i == 7) d.precision = LLM_PRECISION_BF16;
        model = llm_model_create(&c, NULL, NULL);
        b = llm_trainer_create(model, &d, &err);
        CHECK(b);
        err.message[0] = 0;
        CHECK_MSG(b && llm_trainer_load(b, RESUME_FILE, &err) == LLM_ERR_FORMAT &&
                      strstr(err.message, names[i]),
                  "%s: %s", names[i], err.message);
        llm_trainer_free(b);
        llm_model_free(model);
    }
    drop_trainer(a);
}

/* What may differ where a run is prolonged, and is refused by name where it is not: the moments,
 * the step and the weights go over. A run that was made longer is the run that was long from the
 * start. */
TEST(resume_prolongs) {
    static const field_value changes[] = {
        WHOLE(llm_train_desc, batch_size, 3), WHOLE(llm_train_desc, grad_accum_steps, 2),
        WHOLE(llm_train_desc, max_steps, 77), WHOLE(llm_train_desc, warmup_steps, 4),
        WHOLE(llm_train_desc, schedule, LLM_SCHEDULE_LINEAR), WHOLE(llm_train_desc, recompute, 1),
        REAL(llm_train_desc, learning_rate, 0.0123)};
    const llm_config c = resume_config(0);
    llm_train_desc d = train_desc(2, 12, 3);
    llm_trainer *from;
    llm_error err;
    size_t i;
    int prolong;
    d.schedule = LLM_SCHEDULE_COSINE;
    d.max_steps = 50;
    d.grad_accum_steps = 3;
    from = shaken_trainer(&c, 3, &d);
    if (!from) return;
    resume_steps(from, 0, 6);          /* two updates of three batches */
    CHECK(llm_trainer_save(from, RESUME_FILE, &err) == LLM_OK);
    for (i = 0; i < sizeof changes / sizeof changes[0]; i++)
        for (prolong = 0; prolong < 2; prolong++) {
            const char *name = changes[i].words[0];
            llm_trainer *to;
            d = from->desc;
            set_field(&d, &changes[i]);
            d.decay_steps = 0;
            d.prolong = prolong;
            to = shaken_trainer(&c, 9, &d);
            if (!to) return;
            if (prolong) {
                CHECK_MSG(llm_trainer_load(to, RESUME_FILE, &err) == LLM_OK, "%s: %s", name,
                          err.message);
                CHECK_MSG(resume_equal(from, to), "%s", name);
            } else {
                REFUSED(LLM_ERR_FORMAT, llm_trainer_load(to, RESUME_FILE, &err), name);
            }
            drop_trainer(to);
        }
    d = from->desc;                    /* others are refused all the same */
    d.prolong = 1;
    d.weight_decay = 0.5f;
    {
        llm_trainer *to = shaken_trainer(&c, 9, &d);
        if (!to) return;
        REFUSED(LLM_ERR_FORMAT, llm_trainer_load(to, RESUME_FILE, &err), "weight_decay");
        drop_trainer(to);
    }
    drop_trainer(from);
    remove(RESUME_FILE);
}

/* Checkpoints of the first version of the format, which a header without dropout, prolong and
 * recompute in it has written: three updates, and "older" as user data. They load, and go on. */
TEST(resume_older_files) {
    int deepseek, s, i;
    for (deepseek = 0; deepseek < 2; deepseek++) {
        const char *path = deepseek ? "tests/data/checkpoints/deepseek_first"
                                    : "tests/data/checkpoints/gpt2_first";
        llm_config c;
        llm_train_desc d = {.batch_size = 2, .seq_len = 8, .max_steps = 10, .warmup_steps = 2,
                            .learning_rate = 0.01f, .seed = 3};
        llm_train_stats stats;
        llm_model *model;
        llm_trainer *t;
        llm_error err;
        int32_t x[16], y[16];
        size_t size = 0;
        memset(&c, 0, sizeof c);
        if (deepseek) CHECK(llm_config_preset(&c, "deepseek-tiny", NULL) == LLM_OK);
        c.vocab_size = 11;
        c.max_seq_len = c.d_model = 8;
        c.n_layers = 1 + deepseek;
        c.n_heads = 2;
        c.tie_embeddings = 1;
        if (deepseek) {
            c.d_ffn = 6;
            c.q_lora_rank = c.kv_lora_rank = c.qk_nope_head_dim = c.v_head_dim = 4;
            c.qk_rope_head_dim = 2;
            c.n_routed_experts = c.moe_d_ffn = 4;
        } else {
            c.arch = LLM_ARCH_GPT2;
            c.resid_pdrop = 0.1f;
        }
        model = shaken_model(&c, 5, 1, NULL);
        t = model ? new_trainer(model, &d) : NULL;
        if (!t) return;
        CHECK_MSG(llm_trainer_load(t, path, &err) == LLM_OK, "%s", err.message);
        CHECK(t->step == 3 && t->n_tokens == 48);
        CHECK(llm_trainer_user_data(t, &size) && size == 5 &&
              !memcmp(llm_trainer_user_data(t, &size), "older", 5));
        for (s = 3; s < 5; s++) {
            for (i = 0; i < 16; i++) {
                x[i] = (i * 7 + s) % 11;
                y[i] = (i * 7 + s + 1) % 11;
            }
            CHECK(llm_trainer_step(t, x, y, &stats, &err) == LLM_OK);
            CHECK_MSG(stats.loss > 1.0f && stats.loss < 4.0f, "loss %g", (double)stats.loss);
        }
        llm_trainer_free(t);
        d.dropout = 0.1f;              /* what is new counts */
        t = new_trainer(model, &d);
        if (!t) return;
        REFUSED(LLM_ERR_FORMAT, llm_trainer_load(t, path, &err), "dropout");
        llm_trainer_free(t);
        llm_model_free(model);
    }
}

/* fields that a file does not know have their defaults */
TEST(resume_compares_by_name) {
    static const char mine[] = "a 1\nb 0\nc 0.5\nd 0.0\n";
    static const struct { const char *theirs, *word; } cases[] = {
        {"a 1\nb 0\nc 0.5\nd 0.0\n", NULL}, {"c 0.5\na 1\n", NULL}, {"a 1\nc 0.5\nnew 0\n", NULL},
        {"a 1\nb 2\nc 0.5\n", "b 2"}, {"a 1\nb 0\n", "c 0.5"}, {"c 0.5\n", "a 1"},
        {"a 1\nc 0.5\nnew 3\n", "new 3"}, {"a 10\nc 0.5\n", "a 10"}, {"", "a 1"},
        {"a 1\nc 0.5\nd 0.1", "d 0.1"}, {"aa 1\nc 0.5\n", "aa 1"}};
    llm_error err;
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t n = strlen(cases[i].theirs);
        if (cases[i].word)
            REFUSED(LLM_ERR_FORMAT, llmi_compare_lines("file", "trainer", cases[i].theirs, n, mine,
                                                       strlen(mine), 0, &err), cases[i].word);
        else
            CHECK_MSG(llmi_compare_lines("file", "trainer", cases[i].theirs, n, mine, strlen(mine),
                                         0, &err) ==
                          LLM_OK, "%lu: %s", (unsigned long)i, err.message);
    }
}

/* counters that no run reaches would overflow in the next step */
TEST(resume_counters) {
    llm_trainer *t = resume_trainer(0, LLM_PRECISION_FP32, 1, 1),
                *other = resume_trainer(0, LLM_PRECISION_FP32, 1, 2);
    llm_error err;
    int i;
    if (!t || !other) return;
    for (i = 0; i < 7; i++) {
        t->step = i == 0 ? INT64_MAX : i == 1 ? -1 : 4;
        t->n_tokens = i == 2 ? INT64_MAX : i == 3 ? -5 : 96;
        t->n_forwards = i == 4 ? INT64_MAX : 4;
        t->n_accumulated = i == 5 ? INT_MAX : i == 6 ? -1 : 0;
        CHECK(llm_trainer_save(t, RESUME_FILE, NULL) == LLM_OK);
        REFUSED(LLM_ERR_FORMAT, llm_trainer_load(other, RESUME_FILE, &err), RESUME_FILE, "counter",
                "[0, ");
        CHECK(other->step == 0 && other->n_tokens == 0 && other->n_forwards == 0 &&
              other->n_accumulated == 0);
    }
    remove(RESUME_FILE);
    drop_trainer(t);
    drop_trainer(other);
}

static llm_result resume_load_kept(llm_trainer *t, const float *weights, llm_error *err) {
    const llm_result result = llm_trainer_load(t, RESUME_FILE, err);
    if (result != LLM_OK) CHECK(weights_are(t, weights) && t->step == 0 && !t->user_data_size);
    return result;
}
static llm_result resume_set_kept(llm_trainer *t, const char *old, const char *data, size_t n,
                                  llm_error *err) {
    const llm_result result = llm_trainer_set_user_data(t, data, n, err);
    size_t size = 0;
    const void *now = llm_trainer_user_data(t, &size);
    if (result == LLM_OK) CHECK(size == n && !memcmp(now, data, n));
    else CHECK(size == strlen(old) && (!size || !memcmp(now, old, size)));
    return result;
}

/* an old file stays, a trainer is as before */
TEST(resume_every_allocation_fails) {
    static const char big[300] = "position";
    const llm_config c = resume_config(1);
    llm_train_desc d = train_desc(2, 12, 1);
    llm_trainer *t = NULL, *other = NULL, *old = resume_trainer(1, LLM_PRECISION_FP32, 1, 3);
    llm_model_desc m;
    llm_model *models[2] = {NULL, NULL};
    llm_error err;
    float *weights;
    void *before = NULL, *after = NULL;
    size_t n_before = 0, n_after = 0;
    heap h;
    int i;
    heap_init(&h);
    for (i = 0; i < 2; i++) {
        m = model_desc(1 + (uint64_t)i, 1, &h.allocator);
        models[i] = llm_model_create(&c, &m, &err);
        *(i ? &other : &t) = models[i] ? llm_trainer_create(models[i], &d, &err) : NULL;
    }
    CHECK(t && other && old);
    if (!t || !other || !old) return;
    resume_steps(t, 0, 2);
    CHECK(resume_set_kept(t, "", "at 4711", 7, &err) == LLM_OK);
    h.fail_at = h.calls;
    CHECK(resume_set_kept(t, "at 4711", big, sizeof big, &err) == LLM_ERR_MEMORY &&
          err.code == LLM_ERR_MEMORY);
    CHECK(resume_set_kept(t, "at 4711", "at 12", 5, &err) == LLM_OK);      /* there is room */
    CHECK(llm_trainer_save(old, RESUME_FILE, NULL) == LLM_OK);
    CHECK(llmi_file_read(RESUME_FILE, &before, &n_before, NULL, NULL) == LLM_OK);
    h.fail_at = h.calls;
    REFUSED(LLM_ERR_MEMORY, llm_trainer_save(t, RESUME_FILE, &err), "");
    CHECK(llmi_file_read(RESUME_FILE, &after, &n_after, NULL, NULL) == LLM_OK);
    CHECK(n_before == n_after && !memcmp(before, after, n_before));
    EACH_ALLOCATION_FAILS(&h, llm_trainer_save(t, RESUME_FILE, &err));
    weights = copy_weights(other);
    EACH_ALLOCATION_FAILS(&h, resume_load_kept(other, weights, &err));
    CHECK(weights_are(other, llm_trainer_weights(t, NULL)) && other->step == 2);
    CHECK(llm_trainer_user_data(other, &n_after) && n_after == 5);
    free(weights);
    llmi_release(NULL, before);
    llmi_release(NULL, after);
    llm_trainer_free(t);
    llm_trainer_free(other);
    for (i = 0; i < 2; i++) llm_model_free(models[i]);
    CHECK(h.live == 0 && h.wrong == 0);
    drop_trainer(old);
    remove(RESUME_FILE);
}

static void run_resume(void) {
    RUN(resume_to_the_bit);
    RUN(resume_prolongs);
    RUN(resume_older_files);
    RUN(resume_compares_by_name);
    RUN(resume_counters);
    RUN(resume_every_allocation_fails);
    RUN(resume_damaged_files);
    RUN(resume_other_configurations);
}
